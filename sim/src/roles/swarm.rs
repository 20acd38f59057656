//! The swarm under every role: stock kad, identify and ping, the exchange protocol, bare DHT streams.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use dhtfs_node::net::{EXCHANGE_VERSIONS, NetError, Protocols, exchange::ExchangeRequest};
use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, TransportError,
    core::transport::ListenerId,
    identify,
    kad::{self, Mode, store::MemoryStore},
    ping,
    request_response::{self, OutboundRequestId, ProtocolSupport, ResponseChannel},
    swarm::{self, NetworkBehaviour, Swarm, SwarmEvent},
};

use super::{
    PeerEnv,
    codec::{Reply, RoleCodec},
    counters::Counters,
    streams::Streams,
};

/// Pause between attempts to reach the bootstrap peers while nobody is known.
pub(super) const JOIN_AGAIN: Duration = Duration::from_secs(2);

/// Attempts in a row to reach the bootstrap peers.
const MAX_JOINS: u32 = 60;

/// A role cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// The name of the network is not allowed.
    #[error(transparent)]
    Network(#[from] NetError),
    /// The transport does not listen on an address.
    #[error("cannot listen on {addr}: {error}")]
    Listen {
        /// The address.
        addr: Multiaddr,
        /// Why.
        error: TransportError<std::io::Error>,
    },
}

/// Everything a connection speaks.
#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    pub(super) kad: kad::Behaviour<MemoryStore>,
    pub(super) identify: identify::Behaviour,
    pub(super) ping: ping::Behaviour,
    pub(super) exchange: request_response::Behaviour<RoleCodec>,
    pub(super) streams: Streams,
}

/// In what a role differs from a stock node.
pub(super) struct Setup {
    /// What it calls itself.
    pub(super) agent: String,
    /// Whether DHT messages of others go to [`Streams`] instead of kad.
    pub(super) answers_kad: bool,
    /// How long a request or answer of the exchange protocol may take; `None` is libp2p's default.
    pub(super) exchange_timeout: Option<Duration>,
    /// How long an idle connection is kept; `None` is libp2p's default.
    pub(super) idle_timeout: Option<Duration>,
    /// The records it can hold; the default is libp2p's.
    pub(super) records: kad::store::MemoryStoreConfig,
    /// Where the codec counts.
    pub(super) counters: Arc<Counters>,
}

/// What happened and is for the role to judge.
pub(super) enum Happened {
    /// Somebody asks for content.
    Asked(ExchangeRequest, ResponseChannel<Reply>),
    /// An own request was answered.
    Answered(OutboundRequestId, Reply),
    /// An own request failed.
    Failed(OutboundRequestId, request_response::OutboundFailure),
    /// kad reports.
    Kad(Box<kad::Event>),
    /// A bare stream.
    Stream(PeerId, super::streams::StreamEvent),
    /// A peer has told that it serves the DHT.
    MetServer,
    /// Anything else.
    Nothing,
}

/// A swarm that listens, joins, and keeps its routing table as the examples of libp2p do.
pub(super) struct Engine {
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) protocols: Protocols,
    /// Connected peers that serve the DHT.
    pub(super) servers: BTreeSet<PeerId>,
    pub(super) listeners: Vec<ListenerId>,
    bootstrap: Vec<Multiaddr>,
    joins: u32,
}

impl Engine {
    /// Sets up the swarm of `env` and listens.
    ///
    /// # Errors
    /// If the network's name is not allowed or an address cannot be listened on.
    pub(super) fn new(env: PeerEnv, setup: Setup) -> Result<Self, RoleError> {
        let PeerEnv { keypair, transport, executor, listen, bootstrap, network, .. } = env;
        let protocols = Protocols::of(&network, &EXCHANGE_VERSIONS)?;
        let local = keypair.public().to_peer_id();
        let store = MemoryStore::with_config(local, setup.records);
        let mut kad = kad::Behaviour::with_config(local, store, kad::Config::new(protocols.kad.clone()));
        // A client denies inbound streams, which leaves them to others in the swarm.
        kad.set_mode(Some(if setup.answers_kad { Mode::Client } else { Mode::Server }));
        let identify = identify::Config::new(protocols.version.clone(), keypair.public())
            .with_agent_version(setup.agent);
        let mut exchange = request_response::Config::default();
        if let Some(timeout) = setup.exchange_timeout {
            exchange = exchange.with_request_timeout(timeout);
        }
        let behaviour = Behaviour {
            kad,
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::default(),
            exchange: request_response::Behaviour::with_codec(
                RoleCodec::new(setup.counters),
                protocols.exchange.iter().map(|name| (name.clone(), ProtocolSupport::Full)),
                exchange,
            ),
            streams: Streams::new(protocols.kad.clone(), setup.answers_kad),
        };
        let mut config = swarm::Config::with_executor(move |task| executor(task));
        if let Some(timeout) = setup.idle_timeout {
            config = config.with_idle_connection_timeout(timeout);
        }
        let mut swarm = Swarm::new(transport, behaviour, local, config);
        let mut listeners = Vec::new();
        for addr in listen {
            let id = swarm.listen_on(addr.clone()).map_err(|error| RoleError::Listen { addr, error })?;
            listeners.push(id);
        }
        Ok(Self { swarm, protocols, servers: BTreeSet::new(), listeners, bootstrap, joins: 0 })
    }

    /// Dials the bootstrap peers if nobody is known yet; whether to call it again after [`JOIN_AGAIN`].
    pub(super) fn join(&mut self) -> bool {
        if !self.servers.is_empty() || self.bootstrap.is_empty() || self.joins >= MAX_JOINS {
            return false;
        }
        self.joins += 1;
        for addr in self.bootstrap.clone() {
            // One that is being dialled or cannot be is tried again.
            let _ = self.swarm.dial(addr);
        }
        true
    }

    /// Waits for the next event and does what every peer does with it.
    pub(super) async fn next(&mut self) -> Happened {
        match self.swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { address, .. } => {
                // Without an external address nobody would learn where the peer's records point.
                self.swarm.add_external_address(address);
                Happened::Nothing
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.swarm.remove_external_address(&address);
                Happened::Nothing
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                self.servers.remove(&peer_id);
                Happened::Nothing
            }
            SwarmEvent::Behaviour(event) => self.on_behaviour(event),
            _ => Happened::Nothing,
        }
    }

    fn on_behaviour(&mut self, event: BehaviourEvent) -> Happened {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                self.on_identified(peer_id, &info)
            }
            BehaviourEvent::Kad(event) => Happened::Kad(Box::new(event)),
            BehaviourEvent::Streams((peer, event)) => Happened::Stream(peer, event),
            BehaviourEvent::Exchange(event) => match event {
                request_response::Event::Message {
                    message: request_response::Message::Request { request, channel, .. },
                    ..
                } => Happened::Asked(request, channel),
                request_response::Event::Message {
                    message: request_response::Message::Response { request_id, response },
                    ..
                } => Happened::Answered(request_id, response),
                request_response::Event::OutboundFailure { request_id, error, .. } => {
                    Happened::Failed(request_id, error)
                }
                request_response::Event::InboundFailure { .. }
                | request_response::Event::ResponseSent { .. } => Happened::Nothing,
            },
            _ => Happened::Nothing,
        }
    }

    fn on_identified(&mut self, peer: PeerId, info: &identify::Info) -> Happened {
        if !info.protocols.contains(&self.protocols.kad) {
            return Happened::Nothing;
        }
        let kad = &mut self.swarm.behaviour_mut().kad;
        for addr in &info.listen_addrs {
            kad.add_address(&peer, addr.clone());
        }
        self.joins = 0;
        let is_new = self.servers.insert(peer);
        if self.servers.len() == 1 && is_new {
            // There is somebody in the table now, unless the peer named no address at all.
            let _ = kad.bootstrap();
        }
        Happened::MetServer
    }
}
