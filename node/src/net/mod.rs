//! The libp2p shell of a node: connections, the DHT, the exchange protocol. It decides nothing about content.
//!
//! One [`EventLoop`] owns the swarm; everybody else holds a [`Client`], which sends it commands and gets
//! answers, and one reader takes the [`NetEvent`]s. Everything that comes from outside the process comes in
//! through [`NetEnv`]: transport, key, executor and seed, so that a simulation can hand in its own.
//!
//! | file                          | what it holds                                                      |
//! |-------------------------------|--------------------------------------------------------------------|
//! | `client`, `command`, `report` | the API, how it reaches the loop, what it answers                  |
//! | `event_loop`, `on_*`, `status`, `usage` | the loop and its handlers, one file per family of events |
//! | `dials`, `pending`, `outbox`, `probe` | who waits for what, and events on their way out            |
//! | `behaviour`, `kad`, `nat_*`   | the protocols of a node                                            |
//! | `records`, `peers`, `address_book`, `addresses` | bounded state, and what enters it                |
//! | `rates`                       | keeps to the limits of what is sent and asked for                  |
//! | `exchange`                    | the bytes of the exchange protocol                                 |
//! | `provide`, `have`, `lane`     | protocols with streams of their own: records in bulk, have-maps, chunks in bulk |
//! | `identity`, `transport`, `exclusive`, `zones` | what a real node puts into [`NetEnv`]                     |
//! | [`mdns`]                      | packets and sockets by which nodes of a local network hear of each other |
//! | `limits`, `counters`, `error` | numbers, what they did, what went wrong                            |

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::PeerId;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::swarm::{self, Swarm};
use tokio::sync::{mpsc, oneshot};

mod address_book;
mod addresses;
mod agreed;
mod behaviour;
mod buffers;
mod client;
mod command;
mod command_queue;
mod counters;
mod dials;
mod error;
mod event_loop;
pub mod exchange;
mod exclusive;
mod gather;
mod have;
pub mod identity;
mod kad;
mod lane;
pub mod limits;
pub mod mdns;
mod muxer;
mod nat_client;
mod nat_server;
mod on_autonat;
mod on_connection;
mod on_exchange;
mod on_identify;
mod on_kad;
mod on_provide;
mod on_reach;
mod on_record;
mod on_relay;
mod on_routing;
mod on_vacancy;
mod on_walk;
mod outbox;
mod peers;
mod pending;
mod places;
mod probe;
pub mod provide;
mod punch;
mod rates;
pub mod records;
mod relays;
mod report;
mod security;
mod send_queue;
mod status;
mod streams;
mod tcp_first;
#[cfg(test)]
mod tests;
mod tls;
pub mod transport;
mod usage;
mod walks;
mod zones;

pub use self::behaviour::Protocols;
pub use self::buffers::Buffers;
pub use self::client::{Client, Lookup};
pub use self::error::{
    BootstrapFailure, ClosestError, DialFailure, ListenError, NetError, NetGone, ProvideError, RequestError,
};
pub use self::event_loop::EventLoop;
pub use self::exchange::ExchangeResponse;
pub use self::have::{Asked, HaveEnd, HaveStream, Incoming, Said, Step};
pub use self::lane::{Ask, LaneAnswer, LaneEnd, LaneEvent, LaneEvents, LaneServe, LaneWants, Lanes};
pub use self::limits::NetLimits;
pub use self::provide::{Announcer, Receipt, SendFailure};
pub use self::rates::Rates;
pub use self::records::Digest;
pub use self::relays::RelayLimits;
pub use self::report::{
    BlockAnswer, Direction, LookupEvent, LookupOutcome, LookupStats, NetEvent, NetStatus, PeerInfo,
    Reachability, RelayUse, ServeId, ServeTicket, TestedAddr, Verdict,
};
pub use self::usage::NetUsage;

use crate::core::routing::diversity::{Diversity, DiversityConfig};
use crate::core::routing::liveness::{Liveness, LivenessConfig};
use crate::core::routing::lost::Lost;
use crate::core::routing::mode::ModeRule;
use crate::core::unreachable::{Unreachable, UnreachableConfig};

use self::behaviour::Behaviour;

/// Runs tasks: the connections of the swarm.
pub type Executor = Arc<dyn Fn(BoxFuture<'static, ()>) + Send + Sync>;

/// The versions of the exchange protocol that this program speaks, preferred first.
pub const EXCHANGE_VERSIONS: [u32; 1] = [1];

/// What the network is to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetConfig {
    /// Name of the network, 1 to 32 of `a-z`, `0-9` and `-`. Nodes of different networks do not see each other.
    pub network: String,
    /// Whether to answer DHT queries of others and be in their routing tables.
    pub kad_server: bool,
    /// What this node calls itself, for example `dhtfs/0.1.0`; cut to 96 characters.
    pub agent_version: String,
    /// Bounds.
    pub limits: NetLimits,
    /// Versions of the exchange protocol that are offered, preferred first. A peer needs one in common.
    pub exchange_versions: Vec<u32>,
    /// How much is carried for others while they can dial this node; `None` for nothing.
    pub relay: Option<RelayLimits>,
}

impl NetConfig {
    /// A DHT server in `network` with the default bounds.
    pub fn new(network: impl Into<String>, agent_version: impl Into<String>) -> Self {
        Self {
            network: network.into(),
            kad_server: true,
            agent_version: agent_version.into(),
            limits: NetLimits::default(),
            exchange_versions: EXCHANGE_VERSIONS.to_vec(),
            relay: None,
        }
    }
}

/// What the network is given from outside.
pub struct NetEnv {
    /// The key of this node.
    pub keypair: Keypair,
    /// Authenticated, multiplexed connections; [`transport::production`] makes real ones.
    pub transport: Boxed<(PeerId, StreamMuxerBox)>,
    /// Runs the connections.
    pub executor: Executor,
    /// All choices that this module leaves to chance follow from it.
    pub seed: u64,
}

impl fmt::Debug for NetEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetEnv").field("seed", &self.seed).finish_non_exhaustive()
    }
}

/// Sets the network up. Nothing happens until the event loop is run.
///
/// # Errors
/// If the name of the network is not allowed, or the key cannot encrypt.
pub fn new(
    config: NetConfig,
    env: NetEnv,
) -> Result<(Client, EventLoop, mpsc::Receiver<NetEvent>), NetError> {
    let NetConfig { network, kad_server, agent_version, limits, exchange_versions, relay } = config;
    let NetEnv { keypair, transport, executor, seed } = env;
    let protocols = Protocols::of(&network, &exchange_versions)?;
    let agent_version = agent_version.chars().take(limits::MAX_AGENT_LEN).collect();
    let spawn = executor.clone();
    let local = keypair.public().to_peer_id();
    let (transport, relay_client) =
        transport::with_relays(&keypair, transport).map_err(|error| NetError::Key(error.to_string()))?;
    let carrying = relay.as_ref().map(|limits| limits.always);
    let relays = (relay_client, relay);
    let mut behaviour =
        Behaviour::new(&keypair, &protocols, kad_server, agent_version, &limits, relays, seed);
    let record_changes = behaviour.kad.store_mut().changes_waiting();
    let swarm_config = swarm::Config::with_executor(move |task| executor(task))
        .with_idle_connection_timeout(limits.idle_timeout)
        // What is said first on a stream goes out with the name of its protocol: one round trip less for each.
        .with_substream_upgrade_protocol_override(Version::V1Lazy);
    let (commands_tx, commands) = command_queue::new(limits.command_queue);
    let (outbox, events) = outbox::Outbox::new(limits.event_queue);
    let control = behaviour.streams.control();
    // A node that serves no DHT holds no records.
    let incoming = if kad_server { control.accept(protocols.provide.clone()) } else { None };
    let (loop_ended, ending) = oneshot::channel();
    if let Some(incoming) = incoming {
        spawn(Box::pin(provide::answer::serve(incoming, commands_tx.downgrade(), ending)));
    }
    let have = Arc::new(have::tally::Tally::default());
    let lanes = Arc::new(lane::tally::Tally::default());
    let streams = provide::BulkStreams {
        control,
        provide: protocols.provide.clone(),
        kad: protocols.kad.clone(),
        have: (protocols.have.clone(), have.clone()),
        lane: (protocols.lane.clone(), lanes.clone()),
        spawn,
    };
    let max_pending = limits.max_pending_outgoing;
    let reach = on_reach::Reaching::new(carrying, kad_server, seed);
    let (max_providers, told) = (limits.max_lookup_providers, reach.told());
    let client = Client::new(commands_tx, local, max_providers, record_changes, streams, told);
    let rates = client.rates().clone();
    let event_loop = EventLoop {
        swarm: Swarm::new(transport, behaviour, local, swarm_config),
        commands,
        outbox,
        local,
        limits,
        protocols,
        peers: peers::Peers::default(),
        book: address_book::AddressBook::default(),
        unreachable: Unreachable::new(UnreachableConfig::default()),
        dials: dials::Dials::default(),
        pending: pending::Pending::default(),
        counters: counters::Counters::new(),
        listeners: Vec::new(),
        announced: Vec::new(),
        verdicts: BTreeMap::new(),
        reach,
        failing: BTreeMap::new(),
        established: 0,
        routing_len: 0,
        diversity: Diversity::new(DiversityConfig::default()),
        lost: Lost::default(),
        liveness: Liveness::new(LivenessConfig::default()),
        candidates: BTreeMap::new(),
        probes: FuturesUnordered::new(),
        walks: walks::Walks::new(max_pending),
        may_serve: kad_server,
        mode: ModeRule::new(),
        near: records::near::Neighbourhood::new(local),
        next_serve: 0,
        have,
        lanes,
        rates,
        next_sweep: None,
        _ended: loop_ended,
    };
    Ok((client, event_loop, events))
}
