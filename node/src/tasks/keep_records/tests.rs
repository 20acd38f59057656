#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dhtfs_store::{ChunkCid, ContentCid};
use libp2p::{PeerId, identity::Keypair};
use tokio::{sync::watch, task::JoinHandle};

use super::{ForeignBatch, ForeignPage, ForeignProvider, ForeignRow, ForeignStore, KeepRecords, to_page};
use crate::net::{self, Client, NetConfig, NetEnv, records::Digest, transport};

const DAY: u64 = 24 * 60 * 60;

type Rows = BTreeMap<(Digest, Vec<u8>), (u64, Vec<Vec<u8>>)>;

/// A disk in memory.
#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<Rows>>);

impl Disk {
    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl ForeignStore for Disk {
    type Cursor = (Digest, Vec<u8>);
    type Error = Infallible;

    async fn apply(&self, batch: ForeignBatch) -> Result<(), Infallible> {
        let mut rows = self.0.lock().unwrap();
        for row in batch.rows {
            let ForeignProvider { peer, addrs } = batch.providers[row.provider].clone();
            match row.expires_unix {
                Some(expires) => rows.insert((row.digest, peer), (expires, addrs)),
                None => rows.remove(&(row.digest, peer)),
            };
        }
        Ok(())
    }

    async fn load(
        &self,
        from: Option<Self::Cursor>,
        _: usize,
    ) -> Result<ForeignPage<Self::Cursor>, Infallible> {
        // Pages of two, whatever is asked for.
        let rows = self.0.lock().unwrap();
        let from = from.unwrap_or_default();
        let mut page = rows.range(from..);
        let mut batch = ForeignBatch::default();
        for ((digest, peer), (expires, addrs)) in page.by_ref().take(2) {
            let provider = batch.providers.len();
            batch.providers.push(ForeignProvider { peer: peer.clone(), addrs: addrs.clone() });
            batch.rows.push(ForeignRow { digest: *digest, provider, expires_unix: Some(*expires) });
        }
        Ok(ForeignPage { batch, next: page.next().map(|(id, _)| id.clone()) })
    }
}

/// A running network node with its driver.
struct Node {
    client: Client,
    keeper: JoinHandle<()>,
    shutdown: watch::Sender<bool>,
}

impl Node {
    fn start(disk: &Disk, time: &Arc<AtomicU64>, flush_every: Duration) -> Self {
        let keypair = Keypair::generate_ed25519();
        let transport = transport::production(&keypair).unwrap();
        let executor = Arc::new(|task| drop(tokio::spawn(task)));
        let env = NetEnv { keypair, transport, executor, seed: 1 };
        let (client, event_loop, _) = net::new(NetConfig::new("test", "dhtfs-test/1"), env).unwrap();
        tokio::spawn(event_loop.run());
        let time = time.clone();
        let keeper = KeepRecords {
            client: client.clone(),
            store: disk.clone(),
            clock: Arc::new(move || time.load(Ordering::Relaxed)),
            flush_every,
        };
        let shutdown = watch::Sender::new(false);
        let keeper = tokio::spawn(keeper.run(shutdown.subscribe()));
        Self { client, keeper, shutdown }
    }

    async fn held(&self) -> usize {
        self.client.status().await.unwrap().provider_records_held
    }

    /// Ends the driver, then the network.
    async fn stop(self) {
        self.shutdown.send_replace(true);
        self.keeper.await.unwrap();
        self.client.shutdown().await;
    }
}

async fn eventually<F: Future<Output = bool>>(mut condition: impl FnMut() -> F) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("it took too long");
}

fn chunk(n: u8) -> ContentCid {
    ContentCid::Chunk(ChunkCid::of(&[n]))
}

/// Five records of a provider, left at a node that keeps them on `disk`.
async fn announce(disk: &Disk, time: &Arc<AtomicU64>, flush_every: Duration) -> (Node, Node) {
    let node = Node::start(disk, time, flush_every);
    let addr = node.client.listen("/ip4/127.0.0.1/tcp/0".parse().unwrap()).await.unwrap().remove(0);
    let provider = Node::start(&Disk::default(), time, flush_every);
    provider.client.listen("/ip4/127.0.0.1/tcp/0".parse().unwrap()).await.unwrap();
    provider.client.dial(addr).await.unwrap();
    for n in 0..5 {
        provider.client.provide(chunk(n)).await.unwrap();
    }
    let hub = &node;
    eventually(|| async move { hub.held().await == 5 }).await;
    (node, provider)
}

#[tokio::test]
async fn records_are_there_again_after_a_restart() {
    let (disk, time) = (Disk::default(), Arc::new(AtomicU64::new(1_000_000)));
    let (node, provider) = announce(&disk, &time, Duration::from_millis(20)).await;
    let kept = &disk;
    eventually(|| async move { kept.len() == 5 }).await;
    assert!(disk.0.lock().unwrap().values().all(|(expires, addrs)| {
        (1_000_000 + DAY - 60..=1_000_000 + DAY).contains(expires) && !addrs.is_empty()
    }));
    node.stop().await;

    time.fetch_add(DAY / 2, Ordering::Relaxed);
    let again = Node::start(&disk, &time, Duration::from_millis(20));
    let restarted = &again;
    eventually(|| async move { restarted.held().await == 5 }).await;
    let mut lookup = again.client.find_providers(chunk(3)).await;
    let found = lookup.next().await.unwrap();
    assert!(
        matches!(found, net::LookupEvent::Provider { peer, .. } if peer == provider.client.peer_id()),
        "{found:?}"
    );
    again.stop().await;

    // A day later all have ended, and the disk is cleared.
    time.fetch_add(DAY, Ordering::Relaxed);
    let late = Node::start(&disk, &time, Duration::from_millis(20));
    eventually(|| async move { kept.len() == 0 }).await;
    assert_eq!(late.held().await, 0);
    assert_eq!(late.client.status().await.unwrap().counters["net_records_not_restored"], 5);
    late.stop().await;
    provider.stop().await;
}

#[tokio::test]
async fn the_last_changes_are_written_at_shutdown() {
    let (disk, time) = (Disk::default(), Arc::new(AtomicU64::new(1_000_000)));
    let (node, provider) = announce(&disk, &time, Duration::from_secs(3_600)).await;
    assert_eq!(disk.len(), 0);
    node.stop().await;
    assert_eq!(disk.len(), 5);
    provider.stop().await;
}

#[tokio::test]
async fn a_network_that_has_gone_ends_the_driver() {
    let (disk, time) = (Disk::default(), Arc::new(AtomicU64::new(1_000_000)));
    let node = Node::start(&disk, &time, Duration::from_millis(20));
    node.client.shutdown().await;
    tokio::time::timeout(Duration::from_secs(20), node.keeper).await.unwrap().unwrap();
}

#[test]
fn a_stored_page_is_checked_row_by_row() {
    let good = ForeignProvider {
        peer: PeerId::from_multihash(libp2p::multihash::Multihash::wrap(0x12, &[1; 32]).unwrap())
            .unwrap()
            .to_bytes(),
        addrs: vec![vec![0xff, 0xff], libp2p::Multiaddr::empty().to_vec()],
    };
    let bad = ForeignProvider { peer: vec![1, 2, 3], addrs: Vec::new() };
    let row = |n, provider, expires| ForeignRow { digest: [n; 32], provider, expires_unix: Some(expires) };
    let rows = vec![row(1, 1, 150), row(2, 0, 150), row(3, 1, 50), row(4, 9, 150)];
    let stored = to_page(&ForeignBatch { providers: vec![bad, good], rows }, 100);
    assert_eq!((stored.page.providers.len(), stored.places), (1, vec![1]));
    let lives: Vec<_> =
        stored.page.records.iter().map(|record| (record.digest[0], record.expires_in)).collect();
    assert_eq!(lives, [(1, 50), (3, 0)], "what has ended is for the network to refuse");
    assert_eq!(stored.damaged, [([2; 32], 0), ([4; 32], 9)]);
}
