//! Every way to do harm, against a peer without protection and against the node.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a failure is a failed test; figures are shown")]

mod dht;
mod exchange;
mod lifecycle;

use std::{
    num::NonZeroUsize,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use dhtfs_node::{
    Config, Node, Role,
    api::types::{AddRequest, ApiError, GetReport, GetRequest, NetworkHints},
    env::{Env, StoreHandle, Tuning},
    net::Executor,
};
use dhtfs_store::{ManifestCid, OpenOptions, Store};
use libp2p::{
    Multiaddr, PeerId, Transport as _,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, MemoryTransport},
        upgrade::Version,
    },
    identity::Keypair,
    multiaddr::Protocol,
    plaintext, yamux,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tempfile::TempDir;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{Hostile, HostilePeer, NaivePeer, PeerEnv, Targets, start_hostile, start_naive};
use crate::{clock, limits::node_limits};

/// Length of the file that nodes fetch.
const FILE_LEN: usize = 8 * 1024 * 1024;

/// Longest chunk.
const CHUNK_LEN: u64 = 1024 * 1024;

/// Simulated time that a test may take.
const AT_MOST: Duration = Duration::from_secs(2 * 60 * 60);

/// Ports of the in-memory transport belong to the process, and those of a peer that was dropped are never free again.
static NEXT_PORT: AtomicU64 = AtomicU64::new(1 << 50);

/// Runs a test on a simulated thread of its own.
fn simulated<F: Future<Output = ()>>(seed: u64, test: impl FnOnce(Lab) -> F + Send + 'static) {
    let run = move || {
        clock::enter(seed).unwrap();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async { timeout(AT_MOST, test(Lab::new(seed))).await.unwrap() });
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Waits until the condition holds, at most ten simulated minutes.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..6_000 {
        if holds().await {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("never happened: {what}");
}

/// Makes peers that share an in-memory transport.
struct Lab {
    seed: u64,
    disk: TempDir,
    peers: u64,
}

struct Started {
    node: Node,
    store: Store,
    addr: Multiaddr,
}

impl Lab {
    fn new(seed: u64) -> Self {
        Self { seed, disk: TempDir::new().unwrap(), peers: 0 }
    }

    /// Identities in the order of their peer IDs.
    fn keypairs(&self, n: usize) -> Vec<Keypair> {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut keypairs: Vec<Keypair> = (0..n)
            .map(|_| {
                let mut secret = [0; 32];
                rng.fill_bytes(&mut secret);
                Keypair::ed25519_from_bytes(secret).unwrap()
            })
            .collect();
        keypairs.sort_by_key(|keypair| keypair.public().to_peer_id());
        keypairs
    }

    /// A port of no other peer of any test in this process.
    fn port(&mut self) -> Multiaddr {
        self.peers += 1;
        Multiaddr::empty().with(Protocol::Memory(NEXT_PORT.fetch_add(1, Ordering::Relaxed)))
    }

    fn env(&mut self, keypair: &Keypair, bootstrap: &[Multiaddr]) -> PeerEnv {
        PeerEnv {
            keypair: keypair.clone(),
            transport: transport(keypair),
            executor: executor(),
            listen: vec![self.port()],
            bootstrap: bootstrap.to_vec(),
            network: "main".to_owned(),
            seed: self.seed + self.peers,
        }
    }

    fn naive(&mut self, keypair: &Keypair, bootstrap: &[Multiaddr]) -> (NaivePeer, Multiaddr) {
        let env = self.env(keypair, bootstrap);
        let addr = env.listen[0].clone();
        (start_naive(env).unwrap(), addr)
    }

    fn hostile(
        &mut self,
        kind: Hostile,
        keypair: &Keypair,
        bootstrap: &[Multiaddr],
        targets: Targets,
    ) -> HostilePeer {
        start_hostile(kind, self.env(keypair, bootstrap), targets).unwrap()
    }

    /// The file's bytes, as [`Lab::add`] writes them.
    fn content(&self) -> Vec<u8> {
        let mut content = vec![0; FILE_LEN];
        StdRng::seed_from_u64(self.seed).fill_bytes(&mut content);
        content
    }

    async fn node(&mut self, keypair: &Keypair, bootstrap: &[Multiaddr]) -> Started {
        let addr = self.port();
        let config = Config { bootstrap: bootstrap.to_vec(), ..Config::default() };
        let dir = self.disk.path().join(format!("node-{}", self.peers));
        let store =
            Store::open(&dir, OpenOptions { threads: Some(NonZeroUsize::MIN), ..OpenOptions::default() })
                .unwrap();
        let env = Env {
            keypair: keypair.clone(),
            transport: transport(keypair),
            store: StoreHandle::inline(store.clone()),
            executor: executor(),
            wall_clock: Arc::new(clock::time_of_day),
            listen: vec![addr.clone()],
            seed: self.seed + self.peers,
            tuning: Tuning { limits: node_limits(), ..Tuning::default() },
            lan: false,
        };
        let node = Node::start(config, env, Role::Server).await.unwrap();
        node.ready().await;
        Started { node, store, addr: addr.with(Protocol::P2p(keypair.public().to_peer_id())) }
    }

    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.disk.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// The CID that the file will have.
    fn root(&self) -> ManifestCid {
        let path = self.folder("added").join("file.bin");
        std::fs::write(&path, self.content()).unwrap();
        dhtfs_store::hash_path(&path, None, &dhtfs_store::no_progress).unwrap().root
    }

    /// Adds the file to the node.
    async fn add(&self, to: &Started) -> (ManifestCid, Vec<u8>) {
        let content = self.content();
        let path = self.folder("added").join("file.bin");
        std::fs::write(&path, &content).unwrap();
        let request = AddRequest { path, ..AddRequest::default() };
        let added = to.node.api().add(request, watch::Sender::default()).await.unwrap();
        (added.cid.parse().unwrap(), content)
    }

    async fn get(&self, by: &Started, root: ManifestCid) -> Result<GetReport, ApiError> {
        self.get_with(by, root, Vec::new()).await
    }

    async fn get_from(
        &self,
        by: &Started,
        root: ManifestCid,
        from: &Multiaddr,
    ) -> Result<GetReport, ApiError> {
        self.get_with(by, root, vec![from.to_string()]).await
    }

    async fn get_with(
        &self,
        by: &Started,
        root: ManifestCid,
        peers: Vec<String>,
    ) -> Result<GetReport, ApiError> {
        let hints = NetworkHints { peers, timeout_secs: Some(120.0), ..NetworkHints::default() };
        let into = Some(self.folder("fetched"));
        let request = GetRequest { cid: root.to_string(), into, hints, ..GetRequest::default() };
        by.node.api().get(request, watch::Sender::default()).await
    }
}

fn transport(keypair: &Keypair) -> Boxed<(PeerId, StreamMuxerBox)> {
    MemoryTransport::default()
        .upgrade(Version::V1)
        .authenticate(plaintext::Config::new(keypair))
        .multiplex(yamux::Config::default())
        .timeout(Duration::from_secs(20))
        .boxed()
}

fn executor() -> Executor {
    Arc::new(|task| {
        tokio::spawn(task);
    })
}

async fn counter(of: &Started, name: &str) -> u64 {
    of.node.api().status().await.unwrap().counters[name]
}
