#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use dhtfs_store::{
    ChunkCid, ContentCid, ImportOptions, KeyPosition, OpenOptions, ProvideMark, Store,
    disk::{Fault, MemoryDisk, PagePool},
    no_progress,
};
use libp2p::identity::Keypair;
use tokio::sync::watch;

use super::{ProvideConfig, ProvideEnv, ProvideHandle, after, new};
use crate::{
    env::StoreHandle,
    net::{self, Client, NetConfig, NetEnv, transport},
};

const HOUR: u64 = 3600;
const NOW: u64 = 1_700_000_000;
const CHUNK_LEN: usize = 1 << 20;

async fn eventually<F: Future<Output = bool>>(mut condition: impl FnMut() -> F) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("it took too long");
}

/// A network node that listens on the loopback interface and serves the DHT.
async fn network() -> (Client, libp2p::Multiaddr) {
    let keypair = Keypair::generate_ed25519();
    let transport = transport::production(&keypair).unwrap();
    let executor = Arc::new(|task| drop(tokio::spawn(task)));
    let env = NetEnv { keypair, transport, executor, seed: 1 };
    let (client, event_loop, mut events) = net::new(NetConfig::new("test", "dhtfs-test/1"), env).unwrap();
    tokio::spawn(event_loop.run());
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let addr = client.listen("/ip4/127.0.0.1/tcp/0".parse().unwrap()).await.unwrap().remove(0);
    (client, addr)
}

/// A store with one file of so many different chunks.
fn store(dir: &Path, chunks: u8) -> Store {
    let store = Store::open(&dir.join("store"), OpenOptions::default()).unwrap();
    let content: Vec<u8> = (0..chunks).flat_map(|n| vec![n; CHUNK_LEN]).collect();
    std::fs::write(dir.join("file"), content).unwrap();
    store.import_path(&dir.join("file"), &ImportOptions::default(), &no_progress).unwrap();
    store
}

#[tokio::test]
async fn of_too_many_chunks_those_on_the_fewest_nodes_are_announced_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 9);
    let all = || store.provide_range(KeyPosition::MIN, KeyPosition::MAX, 100).unwrap();
    let (mut expected, mut marks, mut chunks) = (BTreeSet::new(), Vec::new(), 0);
    for (key, holders) in all().into_iter().zip(1..) {
        let is_chunk = matches!(key.cid, ContentCid::Chunk(_));
        if !is_chunk || chunks < 5 {
            expected.insert(key.cid);
        }
        chunks += usize::from(is_chunk);
        marks.push(ProvideMark { position: key.position, unix: NOW - 13 * HOUR, holders });
    }
    store.provide_mark(&marks).unwrap();
    let ((hub, addr), (own, _)) = (network().await, network().await);
    own.dial(addr).await.unwrap();
    eventually(|| async { own.status().await.unwrap().routing_peers == 1 }).await;
    let env = ProvideEnv {
        client: own.clone(),
        announcer: own.announcer(),
        store: StoreHandle::threaded(store.clone()),
        wall_clock: Arc::new(|| NOW),
    };
    let (shutdown, (_peers, routing)) = (watch::Sender::new(false), watch::channel(1));
    let (_handle, task) = new(ProvideConfig { max_keys: 5, ..ProvideConfig::default() }, 1, env, routing);
    let task = tokio::spawn(task.run(shutdown.subscribe()));
    let renewed = || -> BTreeMap<ContentCid, u8> {
        let keys = all().into_iter().filter(|key| key.last_unix == Some(NOW));
        keys.map(|key| (key.cid, key.holders)).collect()
    };
    eventually(|| async { !renewed().is_empty() }).await;
    assert_eq!(renewed(), expected.iter().map(|cid| (*cid, 1)).collect());
    assert_eq!(hub.status().await.unwrap().provider_records_held, 6);
    shutdown.send_replace(true);
    task.await.unwrap();
    for client in [hub, own] {
        client.shutdown().await;
    }
}

/// Shares a file of one chunk; its two keys.
fn add(disk: &MemoryDisk, store: &Store, content: u8) -> Vec<ContentCid> {
    let path = format!("/file-{content}");
    disk.write_file(Path::new(&path), &[content; 1000]).unwrap();
    let root = store.import_path(Path::new(&path), &ImportOptions::default(), &no_progress).unwrap().root;
    vec![root.into(), ChunkCid::of(&[content; 1000]).into()]
}

/// A driver over a store on a disk in memory, of a node that knows nobody.
struct Scene {
    disk: MemoryDisk,
    store: Store,
    client: Client,
    handle: ProvideHandle,
    shutdown: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
    _peers: watch::Sender<usize>,
}

impl Scene {
    /// Whose store has a file of this content; its two keys.
    async fn new(content: u8) -> (Self, Vec<ContentCid>) {
        let disk = MemoryDisk::new(Arc::new(|| Duration::from_secs(1)), PagePool::new(), None);
        let options = OpenOptions {
            threads: std::num::NonZeroUsize::new(1),
            disk: disk.mount(),
            // Everything is read from the disk.
            db_cache_len: 0,
        };
        let store = Store::open(Path::new("/store"), options).unwrap();
        let keys = add(&disk, &store, content);
        let (client, _) = network().await;
        let env = ProvideEnv {
            client: client.clone(),
            announcer: client.announcer(),
            store: StoreHandle::threaded(store.clone()),
            wall_clock: Arc::new(|| NOW),
        };
        let (shutdown, (peers, routing)) = (watch::Sender::new(false), watch::channel(0));
        let (handle, task) = new(ProvideConfig::default(), 1, env, routing);
        let task = tokio::spawn(task.run(shutdown.subscribe()));
        let scene = Self { disk, store, client, handle, shutdown, task, _peers: peers };
        // What the store has at the start is answered for.
        eventually(|| async { scene.own().await == 2 }).await;
        (scene, keys)
    }

    async fn own(&self) -> usize {
        self.client.status().await.unwrap().provider_records_own
    }

    async fn end(self) {
        self.shutdown.send_replace(true);
        self.task.await.unwrap();
        self.client.shutdown().await;
    }
}

#[tokio::test]
async fn what_was_removed_before_it_was_read_that_it_is_held_is_not_answered_for() {
    let (scene, gone) = Scene::new(1).await;
    let ContentCid::Manifest(root) = gone[0] else { panic!("not a root") };
    scene.store.remove_share(&root).unwrap();
    scene.handle.withdraw(gone.clone()).await;
    eventually(|| async { scene.own().await == 0 }).await;
    scene.handle.held(gone).await;
    let stays = add(&scene.disk, &scene.store, 2);
    scene.handle.held(stays).await;
    eventually(|| async { scene.own().await > 0 }).await;
    assert_eq!(scene.own().await, 2);
    scene.end().await;
}

#[tokio::test]
async fn what_a_store_that_fails_keeps_from_being_done_is_done_later() {
    let (scene, first) = Scene::new(1).await;
    let second = add(&scene.disk, &scene.store, 2);
    scene.disk.fail_after(0, Fault::Off);
    // Nothing of it was removed: it is not to be forgotten because the store cannot say so.
    scene.handle.withdraw(first).await;
    scene.handle.held(second).await;
    // The driver takes one command after the other.
    eventually(|| async { scene.handle.commands.capacity() == super::MAX_WAITING_COMMANDS }).await;
    assert_eq!(scene.own().await, 2);
    scene.disk.heal();
    eventually(|| async { scene.own().await == 4 }).await;
    assert_eq!(scene.handle.withdrawals().waiting, 0);
    scene.end().await;
}

#[test]
fn positions_are_counted_through() {
    let with_end = |end: [u8; 2]| {
        let mut bytes = [7; 32];
        bytes[30..].copy_from_slice(&end);
        KeyPosition(bytes)
    };
    assert_eq!(after(with_end([0, 0])), Some(with_end([0, 1])));
    assert_eq!(after(with_end([0, 255])), Some(with_end([1, 0])));
    assert_eq!(after(KeyPosition::MAX), None);
}
