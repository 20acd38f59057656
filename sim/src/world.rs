//! A network of nodes that share nothing but an in-memory transport.

use std::{path::PathBuf, sync::Arc, time::Duration};

use dhtfs_node::{
    Config, Node, Role,
    env::{Env, StoreHandle},
};
use dhtfs_store::{OpenOptions, Store};
use libp2p::{
    Multiaddr, Transport,
    core::{transport::MemoryTransport, upgrade::Version},
    identity::Keypair,
    multiaddr::Protocol,
    noise, yamux,
};
use tempfile::TempDir;

/// Why a scenario ended early.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Time of day that every node is told, seconds since 1970. Only stored, never compared.
const WALL_CLOCK: u64 = 1_767_225_600;

/// A connection that is not set up by then is given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// The nodes and their disks.
pub(crate) struct World {
    seed: u64,
    disks: TempDir,
    nodes: Vec<Node>,
}

impl World {
    /// A world without nodes. All that is random in it follows from `seed`.
    ///
    /// # Errors
    /// If no temporary directory can be made.
    pub(crate) fn new(seed: u64) -> Result<Self, Failure> {
        Ok(Self { seed, disks: TempDir::new()?, nodes: Vec::new() })
    }

    /// Adds a full node that joins through `bootstrap`, and returns its index.
    ///
    /// # Errors
    /// If its store cannot be made or it cannot listen.
    pub(crate) async fn start(&mut self, bootstrap: &[Multiaddr]) -> Result<usize, Failure> {
        let index = self.nodes.len();
        let config =
            Config { listen: vec![self.address(index)?], bootstrap: bootstrap.to_vec(), ..Config::default() };
        let node = Node::start(config, self.env(index)?, Role::Server).await?;
        self.nodes.push(node);
        Ok(index)
    }

    /// The node with an index that [`World::start`] returned.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn node(&self, index: usize) -> Result<&Node, Failure> {
        self.nodes.get(index).ok_or_else(|| format!("there is no node {index}").into())
    }

    /// Where a node can be dialled, with its peer ID.
    ///
    /// # Errors
    /// If there is no such node.
    pub(crate) fn dialable(&self, index: usize) -> Result<Multiaddr, Failure> {
        let peer = self.node(index)?.api().peer_id();
        Ok(self.address(index)?.with(Protocol::P2p(peer)))
    }

    /// A directory of a node's own, for its files.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn folder(&self, index: usize) -> Result<PathBuf, Failure> {
        let folder = self.disks.path().join(format!("files-{index}"));
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Ends every node in order.
    pub(crate) async fn end(self) {
        for node in self.nodes {
            node.shutdown().await;
        }
    }

    fn address(&self, index: usize) -> Result<Multiaddr, Failure> {
        Ok(Multiaddr::empty().with(Protocol::Memory(1 + u64::try_from(index)?)))
    }

    fn env(&self, index: usize) -> Result<Env, Failure> {
        let seed = self.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(u64::try_from(index)? + 1);
        let mut secret = [0; 32];
        for (place, byte) in secret.iter_mut().zip(seed.to_be_bytes().into_iter().cycle()) {
            *place = byte;
        }
        let keypair = Keypair::ed25519_from_bytes(secret)?;
        let transport = MemoryTransport::default()
            .upgrade(Version::V1)
            .authenticate(noise::Config::new(&keypair)?)
            .multiplex(yamux::Config::default())
            .timeout(CONNECT_TIMEOUT)
            .boxed();
        let disk = self.disks.path().join(format!("node-{index}"));
        let store = Store::open(&disk, OpenOptions::default())?;
        Ok(Env {
            keypair,
            transport,
            store: StoreHandle::inline(store),
            executor: Arc::new(|task| {
                tokio::spawn(task);
            }),
            wall_clock: Arc::new(|| WALL_CLOCK),
            seed,
        })
    }
}
