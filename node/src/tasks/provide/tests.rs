#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use dhtfs_store::{ContentCid, ImportOptions, KeyPosition, OpenOptions, ProvideMark, Store, no_progress};
use libp2p::identity::Keypair;
use tokio::sync::watch;

use super::{ProvideConfig, ProvideEnv, after, new};
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
