//! What the network tells its users: answers, events and the state of things.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p::request_response::ResponseChannel;
use libp2p::{Multiaddr, PeerId};

use crate::core::profile::NetworkProfile;
use crate::core::reach::{Assessment, Mapping};

use super::exchange::ExchangeResponse;
use super::lane::{Ask, LaneReply};

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The other side.
    Inbound,
    /// This node.
    Outbound,
}

/// One connected peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its ID.
    pub peer: PeerId,
    /// The other side's address of each connection, oldest connection first.
    pub addrs: Vec<Multiaddr>,
    /// What it calls itself, cut and without control characters; `None` until it has identified itself.
    pub agent: Option<String>,
    /// Whether it serves the DHT of this network.
    pub kad: bool,
    /// Whether it answers exchange requests of this network.
    pub exchange: bool,
    /// Last measured round trip.
    pub rtt: Option<Duration>,
    /// How long its oldest connection has stood.
    pub connected_for: Duration,
    /// Who opened its oldest connection.
    pub direction: Direction,
    /// Whether it is in the routing table.
    pub in_routing_table: bool,
}

/// AutoNAT's verdict on this node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verdict {
    /// No address was tested yet.
    #[default]
    Unknown,
    /// At least one address can be dialled by others.
    Reachable,
    /// None of the tested addresses can be dialled by others.
    Unreachable,
}

/// One address that another node tried to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestedAddr {
    /// The address.
    pub addr: Multiaddr,
    /// Whether the dial came through.
    pub reachable: bool,
    /// Who tried.
    pub tested_by: PeerId,
}

/// What AutoNAT found out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reachability {
    /// The verdict over all tested addresses.
    pub verdict: Verdict,
    /// The tested addresses with the newest result of each, in the order of their text.
    pub addrs: Vec<TestedAddr>,
}

/// What relays are to this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelayUse {
    /// The relays through which it can be reached.
    pub reserved: Vec<(PeerId, Multiaddr)>,
    /// Relays that are known.
    pub on_offer: usize,
    /// Whether it offers to be one.
    pub is_offering: bool,
}

/// The state of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetStatus {
    /// This node.
    pub peer_id: PeerId,
    /// Addresses listened on, without `/p2p/`, sorted.
    pub listen: Vec<Multiaddr>,
    /// Addresses told to others, without `/p2p/`, sorted. Empty means that provider records of this node carry
    /// no address, so that nobody finds it.
    pub external: Vec<Multiaddr>,
    /// The widest network this node listens in.
    pub profile: NetworkProfile,
    /// Peers connected.
    pub connected: usize,
    /// Connections established.
    pub connections: usize,
    /// Peers in the routing table.
    pub routing_peers: usize,
    /// Provider records held for other nodes.
    pub provider_records_held: usize,
    /// Keys recorded as provided by this node.
    pub provider_records_own: usize,
    /// Provider lookups running.
    pub lookups: usize,
    /// Provider lookups waiting for a free place.
    pub lookups_queued: usize,
    /// Exchange requests in flight.
    pub requests_in_flight: usize,
    /// Requests of others that wait for an answer.
    pub requests_open: usize,
    /// AutoNAT's verdict.
    pub reachability: Reachability,
    /// How others reach this node.
    pub reach: Assessment,
    /// What the router before it does with ports.
    pub mapping: Mapping,
    /// Relays.
    pub relays: RelayUse,
    /// Whether it serves the DHT.
    pub serves_dht: bool,
    /// What the limits did, and totals since the start. All counters are there, also those at zero.
    pub counters: BTreeMap<&'static str, u64>,
}

/// How a lookup ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupOutcome {
    /// The closest peers were asked, or enough providers were found.
    Complete,
    /// It took too long; providers found until then were reported.
    TimedOut,
    /// Too many lookups were waiting; nobody was asked.
    Refused,
}

/// How a lookup went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupStats {
    /// How it ended.
    pub outcome: LookupOutcome,
    /// Requests sent to peers.
    pub requests: u32,
    /// Peers that answered.
    pub successes: u32,
    /// Peers that failed to answer.
    pub failures: u32,
    /// Peers that had answered when the first provider other than this node was known; 0 if it was known here.
    pub first_provider_after: Option<u32>,
    /// From the start of the lookup to its end, waiting for a place left out.
    pub duration: Duration,
}

/// What a lookup brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookupEvent {
    /// A provider; each peer at most once, this node included if it provides.
    Provider {
        /// Who provides.
        peer: PeerId,
        /// Where it can be dialled, as far as known; may be empty. `connect` knows them too.
        addrs: Vec<Multiaddr>,
    },
    /// The lookup is over; the last event.
    Done(LookupStats),
}

/// The answer of a peer to an exchange request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlockAnswer {
    /// The bytes, at most 1 MiB, not yet checked against the CID.
    Data(Vec<u8>),
    /// The peer does not hold it.
    Missing,
    /// The peer has too much to do.
    Busy,
}

impl From<ExchangeResponse> for BlockAnswer {
    fn from(response: ExchangeResponse) -> Self {
        match response.without_content() {
            ExchangeResponse::Data(data) | ExchangeResponse::WithContent { data, .. } => Self::Data(data),
            ExchangeResponse::Missing => Self::Missing,
            ExchangeResponse::Busy => Self::Busy,
        }
    }
}

/// Names one request of a stranger from [`NetEvent::Request`] to its end. Unique within one event loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServeId(pub u64);

/// The right to answer one request. Dropping it ends the request without an answer.
#[derive(Debug)]
pub struct ServeTicket {
    pub(crate) id: ServeId,
    pub(crate) channel: Answering,
}

/// Where an answer goes.
#[derive(Debug)]
pub(crate) enum Answering {
    /// To a stream of its own.
    Exchange(ResponseChannel<ExchangeResponse>),
    /// To a lane.
    Lane(LaneReply),
}

impl ServeTicket {
    /// The request it belongs to.
    pub fn id(&self) -> ServeId {
        self.id
    }

    /// Whether the answer goes to a lane, which keeps to the limits of what is sent by itself.
    pub fn is_on_lane(&self) -> bool {
        matches!(self.channel, Answering::Lane(_))
    }
}

/// What happens in the network without being asked for.
///
/// Requests that find the channel full are answered Busy. All other events are merged until there is room, so
/// the last state always arrives: a peer that came and went in between is not mentioned.
#[derive(Debug)]
pub enum NetEvent {
    /// A peer has its first connection.
    Connected(PeerId),
    /// A peer has lost its last connection.
    Disconnected(PeerId),
    /// A peer asks for a chunk or manifest. Ends with exactly one `ResponseSent` or `ResponseFailed`.
    Request {
        /// To be handed back with the answer.
        ticket: ServeTicket,
        /// Who asks.
        peer: PeerId,
        /// For what.
        ask: Ask,
    },
    /// Whoever asked wants it no more. If its turn has not come, the ticket is to be dropped.
    RequestCancelled(ServeId),
    /// The answer has been handed to the connection in full.
    ResponseSent(ServeId),
    /// The request ended without its answer: the ticket was dropped, the connection closed, or time ran out.
    ResponseFailed(ServeId),
    /// The number of peers in the routing table has changed.
    Routing {
        /// Peers in the table.
        peers: usize,
    },
    /// The addresses listened on have changed; all of them, without `/p2p/`, sorted.
    ListenAddrs(Vec<Multiaddr>),
}
