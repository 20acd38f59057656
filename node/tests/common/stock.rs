//! A node of bare rust-libp2p with kad's own store in memory, and what such a node may do with records in bulk.

use std::collections::{BTreeSet, HashMap};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, identify,
    kad::{
        self, GetProvidersOk, Mode, QueryId, QueryResult, RecordKey,
        store::{MemoryStore, RecordStore as _},
    },
    swarm::{self, NetworkBehaviour, Swarm, SwarmEvent},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    IDLE, keypair,
    wire::{self, Traffic},
};

const KAD: StreamProtocol = StreamProtocol::new("/dhtfs/test/kad/1.0.0");
const PROVIDE: StreamProtocol = StreamProtocol::new("/dhtfs/test/provide/1");

/// What it does with streams of the provide protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bulk {
    /// It does not know the protocol.
    None,
    /// Takes the stream and never says anything.
    Silent,
    /// Says that it has too much to do.
    Busy,
    /// Ends the stream as soon as something comes.
    Resets,
    /// Says that it has taken everything, and keeps nothing.
    Lies,
}

enum Ask {
    Provide(RecordKey, oneshot::Sender<()>),
    Find(RecordKey, oneshot::Sender<BTreeSet<PeerId>>),
    Holds(Vec<RecordKey>, PeerId, oneshot::Sender<usize>),
    ChangeAddrs(Vec<Multiaddr>, PeerId, oneshot::Sender<()>),
}

/// See the module's documentation.
pub struct Stock {
    pub id: PeerId,
    pub addr: Multiaddr,
    asks: mpsc::Sender<Ask>,
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    kad: kad::Behaviour<MemoryStore>,
    identify: identify::Behaviour,
    streams: libp2p_stream::Behaviour,
}

impl Stock {
    /// Starts it and waits until it has looked for its own neighbours through `hub`.
    pub async fn start(number: u64, hub: (PeerId, Multiaddr), bulk: Bulk) -> Self {
        let keypair = keypair(number);
        let id = keypair.public().to_peer_id();
        let mut kad = kad::Behaviour::with_config(id, MemoryStore::new(id), kad::Config::new(KAD));
        kad.set_mode(Some(Mode::Server));
        let identify = identify::Config::new("/stock/1".to_owned(), keypair.public());
        let streams = libp2p_stream::Behaviour::new();
        if bulk != Bulk::None {
            let mut incoming = streams.new_control().accept(PROVIDE).unwrap();
            tokio::spawn(async move {
                while let Some((_, stream)) = incoming.next().await {
                    tokio::spawn(converse(stream, bulk));
                }
            });
        }
        let behaviour = Behaviour { kad, identify: identify::Behaviour::new(identify), streams };
        let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE);
        let listen = "/memory/0".parse().unwrap();
        let transport = wire::transport(&keypair, &Traffic::default(), &listen);
        let mut swarm = Swarm::new(transport, behaviour, id, config);
        swarm.listen_on(listen).unwrap();
        let addr = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
                break address;
            }
        };
        swarm.add_external_address(addr.clone());
        swarm.behaviour_mut().kad.add_address(&hub.0, hub.1);
        swarm.behaviour_mut().kad.bootstrap().unwrap();
        let (asks, received) = mpsc::channel(8);
        let (joined_out, joined) = oneshot::channel();
        tokio::spawn(run(swarm, received, joined_out));
        joined.await.unwrap();
        Self { id, addr, asks }
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> T {
        let (reply, answer) = oneshot::channel();
        self.asks.send(ask(reply)).await.unwrap();
        answer.await.unwrap()
    }

    pub async fn provide(&self, key: RecordKey) {
        self.ask(|reply| Ask::Provide(key, reply)).await;
    }

    pub async fn find(&self, key: RecordKey) -> BTreeSet<PeerId> {
        self.ask(|reply| Ask::Find(key, reply)).await
    }

    /// For how many of the keys it holds a record of `provider`.
    pub async fn holds(&self, keys: Vec<RecordKey>, provider: PeerId) -> usize {
        self.ask(|reply| Ask::Holds(keys, provider, reply)).await
    }

    /// Says from now on that it is to be reached under these addresses, and tells `whom` at once.
    pub async fn change_addrs(&self, addrs: Vec<Multiaddr>, whom: PeerId) {
        self.ask(|reply| Ask::ChangeAddrs(addrs, whom, reply)).await;
    }
}

/// Queries that are under way.
#[derive(Default)]
struct Waiting {
    joined: Option<oneshot::Sender<()>>,
    provides: HashMap<QueryId, oneshot::Sender<()>>,
    finds: HashMap<QueryId, (BTreeSet<PeerId>, oneshot::Sender<BTreeSet<PeerId>>)>,
}

async fn run(mut swarm: Swarm<Behaviour>, mut asks: mpsc::Receiver<Ask>, joined: oneshot::Sender<()>) {
    let mut waiting = Waiting { joined: Some(joined), ..Waiting::default() };
    loop {
        tokio::select! {
            ask = asks.recv() => match ask {
                Some(ask) => begin(&mut swarm, &mut waiting, ask),
                None => return,
            },
            event = swarm.select_next_some() => match event {
                SwarmEvent::Behaviour(BehaviourEvent::Kad(event)) => on_kad(&mut waiting, event),
                SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                    peer_id, info, ..
                })) => {
                    for addr in info.listen_addrs {
                        swarm.behaviour_mut().kad.add_address(&peer_id, addr);
                    }
                }
                _ => {}
            },
        }
    }
}

fn begin(swarm: &mut Swarm<Behaviour>, waiting: &mut Waiting, ask: Ask) {
    let kad = &mut swarm.behaviour_mut().kad;
    match ask {
        Ask::ChangeAddrs(addrs, whom, reply) => {
            let old: Vec<Multiaddr> = swarm.external_addresses().cloned().collect();
            old.iter().for_each(|addr| swarm.remove_external_address(addr));
            addrs.into_iter().for_each(|addr| swarm.add_external_address(addr));
            swarm.behaviour_mut().identify.push([whom]);
            let _ = reply.send(());
        }
        Ask::Provide(key, reply) => {
            waiting.provides.insert(kad.start_providing(key).unwrap(), reply);
        }
        Ask::Find(key, reply) => {
            waiting.finds.insert(kad.get_providers(key), (BTreeSet::new(), reply));
        }
        Ask::Holds(keys, provider, reply) => {
            let held = |key: &&RecordKey| {
                kad.store_mut().providers(key).iter().any(|record| record.provider == provider)
            };
            let count = keys.iter().filter(held).count();
            let _ = reply.send(count);
        }
    }
}

fn on_kad(waiting: &mut Waiting, event: kad::Event) {
    let kad::Event::OutboundQueryProgressed { id, result, step, .. } = event else { return };
    match result {
        QueryResult::Bootstrap(_) if step.last => {
            if let Some(joined) = waiting.joined.take() {
                let _ = joined.send(());
            }
        }
        QueryResult::StartProviding(_) => {
            if let Some(reply) = waiting.provides.remove(&id) {
                let _ = reply.send(());
            }
        }
        QueryResult::GetProviders(result) => {
            let Some((found, _)) = waiting.finds.get_mut(&id) else { return };
            if let Ok(GetProvidersOk::FoundProviders { providers, .. }) = result {
                found.extend(providers);
            }
            if step.last
                && let Some((found, reply)) = waiting.finds.remove(&id)
            {
                let _ = reply.send(found);
            }
        }
        _ => {}
    }
}

/// Speaks the provide protocol badly.
async fn converse(mut stream: Stream, bulk: Bulk) {
    let mut head = [0; 2];
    if stream.read_exact(&mut head).await.is_err() || bulk == Bulk::Resets {
        return;
    }
    if bulk == Bulk::Silent {
        return std::future::pending().await;
    }
    // The addresses: a count, and each with its length.
    for _ in 0..head[1] {
        let mut len = [0; 2];
        if stream.read_exact(&mut len).await.is_err() {
            return;
        }
        let mut addr = vec![0; usize::from(u16::from_be_bytes(len))];
        if stream.read_exact(&mut addr).await.is_err() {
            return;
        }
    }
    // Frames of digests.
    let mut head = [0; 3];
    while stream.read_exact(&mut head).await.is_ok() {
        let count = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let mut digests = vec![0; 32 * count];
        if stream.read_exact(&mut digests).await.is_err() {
            return;
        }
        let answer = match bulk {
            Bulk::Busy => vec![1],
            _ => [vec![0], vec![0xff; count.div_ceil(8)]].concat(),
        };
        if stream.write_all(&answer).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}
