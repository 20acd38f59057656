//! Networks of dhtfs nodes in one process over memory connections, for the tests and the benchmark of announcing.
#![allow(
    clippy::unwrap_used,
    dead_code,
    unreachable_pub,
    reason = "a failure is a failed test; several programs use this, and not each of them all of it"
)]

pub mod raw;
pub mod stock;
pub mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
    time::Duration,
};

use dhtfs_node::{
    core::provide::ProvideConfig,
    env::{Executor, StoreHandle},
    net::{self, Client, Digest, NetConfig, NetEnv, NetLimits},
    tasks::{
        dispatch::Dispatch,
        provide::{self, ProvideEnv, ProvideHandle},
    },
};
use dhtfs_store::{
    ContentCid, ImportOptions, KeyPosition, OpenOptions, ProvideClass, ProvideKey, Store, no_progress,
};
use libp2p::{Multiaddr, PeerId, identity::Keypair, kad::KBucketKey};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

use wire::Traffic;

/// Peers that are to hold a record.
pub const REPLICATION: usize = 20;

/// Network name of all nodes.
pub const NETWORK: &str = "test";

/// What every provider says is the time, in s since 1970: none of the runs is longer than an interval.
const UNIX: u64 = 1_800_000_000;

/// The same keys in every run, one for each number.
pub fn keypair(number: u64) -> Keypair {
    let mut secret = [7; 32];
    secret[..8].copy_from_slice(&number.to_be_bytes());
    Keypair::ed25519_from_bytes(secret).unwrap()
}

pub fn executor() -> Executor {
    Arc::new(|task| drop(tokio::spawn(task)))
}

/// A node that keeps records and answers lookups.
pub struct Peer {
    pub client: Client,
    pub id: PeerId,
    pub addr: Multiaddr,
    pub traffic: Traffic,
    routing: watch::Receiver<usize>,
}

impl Peer {
    pub async fn start(number: u64) -> Self {
        Self::start_with(number, "/memory/0", NetLimits::default()).await
    }

    pub async fn start_with(number: u64, listen: &str, limits: NetLimits) -> Self {
        let keypair = keypair(number);
        let traffic = Traffic::default();
        let listen = listen.parse().unwrap();
        let transport = wire::transport(&keypair, &traffic, &listen);
        let id = keypair.public().to_peer_id();
        let env = NetEnv { keypair, transport, executor: executor(), seed: number };
        let config = NetConfig { limits, ..NetConfig::new(NETWORK, "dhtfs-test/1") };
        let (client, event_loop, events) = net::new(config, env).unwrap();
        tokio::spawn(event_loop.run());
        let (routing_out, routing) = watch::channel(0);
        let lanes = mpsc::channel(1).1;
        let dispatch = Dispatch {
            events,
            lanes,
            client: client.clone(),
            serve: None,
            routing: routing_out,
            listen: watch::channel(Vec::new()).0,
            connected: watch::channel(BTreeSet::new()).0,
        };
        tokio::spawn(dispatch.run());
        let addr = client.listen(listen).await.unwrap().remove(0);
        Self { client, id, addr, traffic, routing }
    }

    pub fn full_addr(&self) -> Multiaddr {
        self.addr.clone().with_p2p(self.id).unwrap()
    }

    pub async fn join(&self, hub: &Multiaddr) {
        self.client.dial(hub.clone()).await.unwrap();
        // Of some hundred nodes in one process that begin at once one may be too slow for another.
        eventually(async || self.client.bootstrap().await.is_ok()).await;
    }

    /// Records that others have sent here, whatever became of them.
    pub async fn records_seen(&self) -> u64 {
        records_seen(&self.client.status().await.unwrap().counters)
    }

    pub async fn counter(&self, name: &str) -> u64 {
        self.client.status().await.unwrap().counters[name]
    }
}

/// `count` nodes that know each other.
pub async fn network(count: u64) -> Vec<Peer> {
    let mut peers = vec![Peer::start(1).await];
    for number in 2..=count {
        let peer = Peer::start(number).await;
        peer.join(&peers[0].full_addr()).await;
        peers.push(peer);
    }
    // Those who came first have met the others as listeners only.
    for peer in &peers {
        peer.client.bootstrap().await.unwrap();
    }
    peers
}

/// A node with content to announce.
pub struct Provider {
    pub peer: Peer,
    pub store: Store,
    _dir: TempDir,
}

impl Provider {
    /// Joins through `hub` and adds `files` small files, two keys each, and the directory they are in.
    pub async fn start(number: u64, hub: &Multiaddr, files: u64) -> Self {
        let peer = Peer::start(number).await;
        let dir = TempDir::new().unwrap();
        let store = Store::open(&dir.path().join("store"), OpenOptions::default()).unwrap();
        let path = dir.path().join("files");
        fs::create_dir(&path).unwrap();
        for file in 0..files {
            fs::write(path.join(file.to_string()), [number, file].map(u64::to_be_bytes).as_flattened())
                .unwrap();
        }
        store.import_path(&path, &ImportOptions::default(), &no_progress).unwrap();
        peer.join(hub).await;
        Self { peer, store, _dir: dir }
    }

    /// Begins to announce.
    pub fn announce(&self) -> Announcing {
        let env = ProvideEnv {
            client: self.peer.client.clone(),
            announcer: self.peer.client.announcer(),
            store: StoreHandle::inline(self.store.clone()),
            wall_clock: Arc::new(|| UNIX),
        };
        let (handle, task) = provide::new(ProvideConfig::default(), 1, env, self.peer.routing.clone());
        let shutdown = watch::Sender::new(false);
        tokio::spawn(task.run(shutdown.subscribe()));
        Announcing { handle, store: self.store.clone(), _shutdown: shutdown }
    }

    pub fn keys(&self) -> Vec<ProvideKey> {
        self.store.provide_range(KeyPosition::MIN, KeyPosition::MAX, usize::MAX).unwrap()
    }
}

/// Runs until it is dropped.
pub struct Announcing {
    handle: ProvideHandle,
    store: Store,
    _shutdown: watch::Sender<bool>,
}

impl Announcing {
    /// Waits until every key has been announced. Some may be told again meanwhile: a provider that gets to know far more
    /// peers than before tells them too.
    pub async fn all(&self) {
        let mut stats = self.handle.watch();
        while self.store.provide_counts().unwrap().fresh > 0 {
            stats.changed().await.unwrap();
        }
    }
}

/// See [`Peer::records_seen`]; from the counters of a node.
pub fn records_seen<K: AsRef<str>>(counters: &BTreeMap<K, u64>) -> u64 {
    record_outcomes(counters).values().sum()
}

/// What became of the records that others have sent: `accepted`, `replaced`, and why they were `refused_` or `dropped_`.
/// What has never happened is left out.
pub fn record_outcomes<K: AsRef<str>>(counters: &BTreeMap<K, u64>) -> BTreeMap<String, u64> {
    let starts = ["accepted", "replaced", "refused", "dropped"];
    let outcomes = counters.iter().filter_map(|(name, count)| {
        let name = name.as_ref().strip_prefix("net_records_")?;
        let is_one = *count > 0 && starts.iter().any(|start| name.starts_with(start));
        is_one.then(|| (name.to_owned(), *count))
    });
    outcomes.collect()
}

/// Waits until `condition` is true, at most 60 s.
pub async fn eventually<F: Future<Output = bool>>(mut condition: impl FnMut() -> F) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap();
}

/// The 20 closest of `peers` to a key, as kad itself reckons.
pub fn closest(cid: &ContentCid, peers: &[PeerId]) -> Vec<PeerId> {
    let key = KBucketKey::new([&[0x12, 0x20], &cid.digest()[..]].concat());
    let mut order = peers.to_vec();
    order.sort_by_key(|peer| key.distance(&KBucketKey::from(*peer)));
    order.truncate(REPLICATION);
    order
}

/// For each key the peers that say that they hold its record. Asks all `peers` for all keys.
pub async fn holders(provider: &Peer, peers: &[Peer], cids: &[ContentCid]) -> Vec<Vec<PeerId>> {
    let digests: Vec<Digest> = cids.iter().map(|cid| *cid.digest()).collect();
    let mut holders = vec![Vec::new(); cids.len()];
    for peer in peers {
        let addrs = vec![peer.addr.clone()];
        let held = provider.client.announcer().held(peer.id, addrs, &digests).await.unwrap();
        for (holders, _) in holders.iter_mut().zip(held).filter(|(_, held)| *held) {
            holders.push(peer.id);
        }
    }
    holders
}

/// How many of each key's 20 closest peers hold it.
pub async fn at_closest(provider: &Peer, peers: &[Peer], cids: &[ContentCid]) -> Vec<usize> {
    let ids: Vec<PeerId> = peers.iter().map(|peer| peer.id).collect();
    let holders = holders(provider, peers, cids).await;
    let at = |(cid, holders): (&ContentCid, Vec<PeerId>)| {
        closest(cid, &ids).iter().filter(|peer| holders.contains(peer)).count()
    };
    cids.iter().zip(holders).map(at).collect()
}

/// The providers that a lookup finds, with their addresses.
pub async fn find(asker: &Client, cid: ContentCid) -> BTreeMap<PeerId, Vec<Multiaddr>> {
    let mut lookup = asker.find_providers(cid).await;
    let mut found = BTreeMap::new();
    while let Some(event) = lookup.next().await {
        if let net::LookupEvent::Provider { peer, addrs } = event {
            found.insert(peer, addrs);
        }
    }
    found
}

/// Whether a key is a root, which is looked up by itself.
pub fn is_root(key: &ProvideKey) -> bool {
    key.class == ProvideClass::Root
}

/// As long as nothing else is said, connections stay for the whole test.
pub const IDLE: Duration = Duration::from_secs(3600);
