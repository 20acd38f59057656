//! Whole nodes in one process, over memory or loopback connections.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod connections;
mod dht;
mod exchange;
mod goodbye;
mod have;
mod lane;
mod limits;
mod relay;
mod shutdown;
mod sockets;
mod strangers;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dhtfs_store::{ChunkCid, ContentCid};
use libp2p::core::ConnectedPoint;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, MemoryTransport};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId, Transport as _, noise};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::transport::muxer;
use super::{
    Client, EventLoop, ExchangeResponse, Lookup, LookupEvent, LookupStats, NetConfig, NetEnv, NetEvent,
};

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(20);

/// Seeds of keys: every node of the process gets another one.
static NEXT_KEY: AtomicU64 = AtomicU64::new(1);

fn new_keypair() -> Keypair {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&NEXT_KEY.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    Keypair::ed25519_from_bytes(seed).unwrap()
}

pub(super) fn memory_transport(keypair: &Keypair) -> Boxed<(PeerId, StreamMuxerBox)> {
    MemoryTransport::default()
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(keypair).unwrap())
        .multiplex(muxer())
        .boxed()
}

/// An event loop that does not run, for a look inside.
pub(super) fn idle_loop() -> super::EventLoop {
    idle_loop_with(|_| {})
}

/// The same with other limits.
pub(super) fn idle_loop_with(change: impl FnOnce(&mut super::NetLimits)) -> super::EventLoop {
    let keypair = new_keypair();
    let transport = memory_transport(&keypair);
    let executor = Arc::new(|task| drop(tokio::spawn(task)));
    let env = NetEnv { keypair, transport, executor, seed: 7 };
    let mut config = NetConfig::new("test", "dhtfs-test/1");
    change(&mut config.limits);
    super::new(config, env).unwrap().1
}

/// A peer that connects from `addr` and says that it serves our DHT; whether it is probed.
pub(super) fn arrives(event_loop: &mut EventLoop, peer: PeerId, addr: &str, listen: &[Multiaddr]) -> bool {
    let endpoint = ConnectedPoint::Listener {
        local_addr: "/ip4/9.9.9.9/tcp/1".parse().unwrap(),
        send_back_addr: addr.parse().unwrap(),
    };
    event_loop.on_established(peer, ConnectionId::new_unchecked(1), &endpoint);
    event_loop.peers.on_identified(&peer, "test", true, true);
    event_loop.route(peer, listen)
}

/// A running node.
struct Node {
    client: Client,
    events: mpsc::Receiver<NetEvent>,
    task: JoinHandle<()>,
    peer: PeerId,
    addr: Multiaddr,
}

impl Node {
    fn start(config: NetConfig, keypair: Keypair, transport: Boxed<(PeerId, StreamMuxerBox)>) -> Self {
        let peer = keypair.public().to_peer_id();
        let executor = Arc::new(|task| drop(tokio::spawn(task)));
        let (client, event_loop, events) =
            super::new(config, NetEnv { keypair, transport, executor, seed: 7 }).unwrap();
        let task = tokio::spawn(event_loop.run());
        Self { client, events, task, peer, addr: Multiaddr::empty() }
    }

    /// A node that listens in memory.
    async fn with(change: impl FnOnce(&mut NetConfig)) -> Self {
        Self::with_key(new_keypair(), change).await
    }

    async fn with_key(keypair: Keypair, change: impl FnOnce(&mut NetConfig)) -> Self {
        let mut config = NetConfig::new("test", "dhtfs-test/1");
        change(&mut config);
        let transport = memory_transport(&keypair);
        let mut node = Self::start(config, keypair, transport);
        let mut listen = node.client.listen("/memory/0".parse().unwrap()).await.unwrap();
        assert_eq!(listen.len(), 1);
        node.addr = listen.remove(0);
        node
    }

    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// Its address with its ID.
    fn full_addr(&self) -> Multiaddr {
        self.addr.clone().with_p2p(self.peer).unwrap()
    }

    /// Dials another node and waits until each has the other in its routing table.
    async fn join(&self, other: &Node) {
        assert_eq!(self.client.dial(other.full_addr()).await, Ok(other.peer));
        let (mine, theirs) = (self.peer, &other.client);
        eventually(
            || async move { theirs.routing_peers().await.unwrap().iter().any(|(peer, _)| *peer == mine) },
        )
        .await;
    }

    async fn counter(&self, name: &str) -> u64 {
        self.client.status().await.unwrap().counters[name]
    }

    /// Waits until a counter has at least this value.
    async fn counted(&self, name: &str, at_least: u64) {
        eventually(|| async move { self.counter(name).await >= at_least }).await;
    }

    /// Answers all requests from now on: with the content, or with Missing.
    fn serve(&mut self, content: BTreeMap<ContentCid, Vec<u8>>) {
        let client = self.client.clone();
        let mut events = std::mem::replace(&mut self.events, mpsc::channel(1).1);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if let NetEvent::Request { ticket, ask, .. } = event {
                    let answer = content.get(&ask.cid()).cloned();
                    let answer = answer.map_or(ExchangeResponse::Missing, ExchangeResponse::Data);
                    let _ = client.respond(ticket, answer).await;
                }
            }
        });
    }

    /// The next request of a stranger; other events are skipped.
    async fn next_request(&mut self) -> (super::ServeTicket, PeerId, ContentCid) {
        loop {
            match in_time(self.events.recv()).await.unwrap() {
                NetEvent::Request { ticket, peer, ask } => return (ticket, peer, ask.cid()),
                _ => continue,
            }
        }
    }

    /// The next end of a request; other events are skipped.
    async fn next_end(&mut self) -> (super::ServeId, bool) {
        loop {
            match in_time(self.events.recv()).await.unwrap() {
                NetEvent::ResponseSent(id) => return (id, true),
                NetEvent::ResponseFailed(id) => return (id, false),
                _ => continue,
            }
        }
    }
}

pub(super) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it took too long")
}

/// Waits until a condition that has no event of its own is true.
async fn eventually<F: Future<Output = bool>>(mut condition: impl FnMut() -> F) {
    in_time(async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

fn chunk_of(data: &[u8]) -> ContentCid {
    ContentCid::Chunk(ChunkCid::of(data))
}

pub(super) fn chunk(n: u16) -> ContentCid {
    chunk_of(&n.to_be_bytes())
}

/// All providers a lookup finds, and how it went.
async fn collect(mut lookup: Lookup) -> (BTreeMap<PeerId, Vec<Multiaddr>>, LookupStats) {
    let mut providers = BTreeMap::new();
    loop {
        match in_time(lookup.next()).await.expect("a lookup ends with Done") {
            LookupEvent::Provider { peer, addrs } => {
                assert!(providers.insert(peer, addrs).is_none(), "a provider was reported twice");
            }
            LookupEvent::Done(stats) => {
                assert_eq!(lookup.next().await, None);
                return (providers, stats);
            }
        }
    }
}
