//! Every number that bounds the network shell, with its unit and its reason.
//!
//! The constants are the defaults; [`NetLimits`] carries those that a configuration or a test may change.
//! Each limit that a stranger can run into has a counter, listed in `counters.rs`.

use std::time::Duration;

/// Established connections in total. A connection costs a task, and up to [`MAX_MUXER_WINDOW`] and twice [`MAX_SEND_QUEUE`] bytes;
/// 512 keep a whole bucket row of a large DHT connected and stay below the usual 1,024 descriptors.
pub const MAX_CONNECTIONS: u32 = 512;

/// Established connections with one peer. Simultaneous dials and a reachability test leave two or three.
pub const MAX_CONNECTIONS_PER_PEER: u32 = 3;

/// Established connections that others have opened. The rest stays free for those this node opens, so that
/// strangers cannot surround it.
pub const MAX_INCOMING_CONNECTIONS: u32 = 384;

/// Connections being negotiated that others have opened.
pub const MAX_PENDING_INCOMING: u32 = 64;

/// Connections being negotiated that this node has opened. More than incoming ones, because kad counts a peer
/// whose dial is refused here as dead, and 64 walks at once reach for some hundred peers.
pub const MAX_PENDING_OUTGOING: u32 = 256;

/// How long a connection without a stream is kept. Longer than a kad query may take, because a provider record
/// goes out at the end of the query over the connections made during it: a shorter time loses records.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// How long one exchange request may take in all, waiting and transfer included. The fetch machine has its own
/// adaptive timeout; this one only frees what a dead peer left behind.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// Exchange streams on one connection, both directions together. At 1 MiB a response this bounds the bytes a
/// single connection can hold.
pub const MAX_EXCHANGE_STREAMS: usize = 64;

/// Streams of all protocols on one yamux connection; what QUIC allows by default.
pub const MAX_MUXER_STREAMS: usize = 256;

/// What a peer may have sent on all streams of one yamux connection without its being read, in bytes: the 256 KiB with which
/// each begins, and 32 MiB by which those grow that are read so fast that a round trip is what they wait for: enough for
/// 2.5 Gbit/s at a round trip of 100 ms.
pub const MAX_MUXER_WINDOW: usize = MAX_MUXER_STREAMS * 256 * 1024 + 32 * 1024 * 1024;

/// Longest body of a yamux frame in bytes: with its head of 12 bytes it fills four TLS records, which is also how much rustls
/// takes at once.
pub const MAX_FRAME_BODY: usize = 64 * 1024 - 12;

/// Bytes that wait to be sent on all streams of one yamux connection before larger writes wait for their turn: eight
/// frames, so that the socket never waits for the streams. For writes of up to 4 KiB it is twice as much.
pub const MAX_SEND_QUEUE: usize = 512 * 1024;

/// How long a dial may take until it is answered as failed, and how long a connected peer may take to identify
/// itself.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long whoever wants a peer that was reached through a relay waits for a way past it. Most are found at the first attempt,
/// which takes a few round trips (97.6 %: arXiv 2510.27500).
pub const PUNCH_WITHIN: Duration = Duration::from_secs(4);

/// Callers that may wait for dials at the same time.
pub const MAX_DIAL_WAITERS: usize = 1_024;

/// Addresses kept of one peer, in the routing table, the address book and provider records. More of them make
/// the answers of a full bucket outgrow a kad message.
pub const MAX_ADDRS_PER_PEER: usize = 8;

/// Encoded length in bytes of an address taken from a stranger; a relayed address with two peer IDs needs 120.
pub const MAX_ADDR_LEN: usize = 192;

/// Peers in the book of addresses learnt from lookups; the least recently used one leaves.
pub const MAX_BOOK_PEERS: usize = 1_024;

/// Characters kept of what a peer calls itself.
pub const MAX_AGENT_LEN: usize = 96;

/// Requests of strangers that are waiting for an answer; the next one is answered Busy.
pub const MAX_OPEN_REQUESTS: usize = 1_024;

/// Own exchange requests in flight; each may bring 1 MiB.
pub const MAX_REQUESTS: usize = 512;

/// Provider lookups that run at the same time: together they ask a few hundred peers at once.
pub const MAX_LOOKUPS: usize = 64;

/// Provider lookups that wait for a free place; the next one is refused.
pub const MAX_QUEUED_LOOKUPS: usize = 1_024;

/// Providers reported by one lookup.
pub const MAX_LOOKUP_PROVIDERS: usize = 256;

/// Announcements that run at the same time. Hundreds at once lose records.
pub const MAX_PROVIDES: usize = 64;

/// Lookups of the peers closest to a key that run at the same time.
pub const MAX_CLOSEST: usize = 128;

/// Questions to peers that all lookups together have under way, each with a stream and perhaps a dial. The next one waits.
pub const MAX_ASKS: usize = 768;

/// How long a lookup may take.
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(60);

/// How long one question of a lookup may take, dial included. The lookup goes on long before.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(12);

/// How long a lookup waits when a limit of this node stood against a question.
pub const ASK_PAUSE: Duration = Duration::from_millis(500);

/// Peers of the routing table that a lookup begins with.
pub const MAX_LOOKUP_SEEDS: usize = 64;

/// Streams on which others tell of their records, in all.
pub const MAX_PROVIDE_STREAMS: usize = 256;

/// Such streams of one peer: one, and the next while the last is being closed.
pub const MAX_PROVIDE_STREAMS_PER_PEER: usize = 2;

/// Streams on which this node is told have-maps, in all: sixteen useful peers each for sixteen fetches.
pub const MAX_HAVE_ASKS: usize = 256;

/// Such streams to one peer: one for each content that is fetched at the same time. No more than it serves.
pub const MAX_HAVE_ASKS_PER_PEER: usize = 8;

/// Frames of a have-map that may come one upon the other.
pub const HAVE_FRAME_BURST: u32 = 4;

/// The pause between the others. An honest peer sends at most one a second; the longest takes milliseconds to decode.
pub const HAVE_FRAME_PAUSE: Duration = Duration::from_millis(250);

/// How long a frame of a have-map may take: the longest has 2 MiB.
pub const HAVE_FRAME_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a peer that was asked for a have-map may take until it begins to answer.
pub const HAVE_ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Frames of kinds that are not known that are skipped on one stream.
pub const MAX_LATER_FRAMES: u32 = 16;

/// Lanes of others, in all. An idle one takes a few hundred bytes and is closed after [`LANE_IDLE`].
pub const MAX_LANES: usize = 512;

/// Lanes of one peer: one for each content that it fetches at the same time.
pub const MAX_LANES_PER_PEER: usize = 16;

pub use crate::core::MAX_LANE_WANTS;

/// Of these, those that every lane has room for. Of more there are [`MAX_DEEP_WANTS`] on all lanes of others; who wants one
/// while there is no room is read no further.
pub const LANE_WANTS: usize = 64;

/// See [`LANE_WANTS`]. A want takes some hundred bytes until it is answered, also one whose answer is not taken.
pub const MAX_DEEP_WANTS: usize = 16 * 1024;

/// Answers on one lane that wait to be heard: so many that small ones are heard of together. Of long ones a fetch asks for
/// eight; what they hold is bounded by [`Buffers`](super::Buffers).
pub const MAX_UNHEARD: usize = 32;

/// How long nothing may come on a lane while something is wanted on it. Longer than a request waits to be served (15 s),
/// and so short that a fetch asks another way before it gives up (30 s).
pub const LANE_STALL: Duration = Duration::from_secs(20);

/// How long [`LANE_PIECE_LEN`] bytes of an answer may take to be written.
pub const LANE_PIECE_TIME: Duration = Duration::from_secs(22);

/// How long one answer on a lane may take to be written: 1 MiB at 9 KiB/s.
pub const LANE_ANSWER: Duration = Duration::from_secs(120);

/// After how long without a want the lane of another is closed.
pub const LANE_IDLE: Duration = Duration::from_secs(60);

/// Bytes of an answer that have to move within [`LANE_PIECE_TIME`]: a line of 6 KiB/s keeps its lane. Between two pieces an
/// answer may end because the want was taken back.
pub const LANE_PIECE_LEN: usize = 128 * 1024;

/// Peers remembered as told about own records, for the goodbye at the end.
pub const MAX_TOLD_PEERS: usize = 1_024;

/// Peers that are told goodbye: as many as fit into a second when each takes a few round trips.
pub const MAX_GOODBYES: usize = 1_024;

/// Goodbyes that are said at the same time; below [`MAX_PENDING_OUTGOING`], because most of them need a dial.
pub const MAX_GOODBYES_AT_ONCE: usize = 128;

/// How long saying goodbye may delay the end of a node. Whoever has not heard it by then notices as after a crash.
pub const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Provider records held for others, 60 bytes each: 2^20, so that a small network can announce a tebibyte in chunks of
/// 1 MiB. With the most providers and addresses allowed the whole store takes less than 128 MiB.
pub const MAX_FOREIGN_RECORDS: usize = 1_048_576;

/// Provider records held for others from one provider: a million, so that in a network of few nodes one of them can
/// announce a large share. The rest is free for others at any time; and when the store is full, whoever holds the most
/// makes room for others, so that a few peers cannot crowd out the rest.
pub const MAX_RECORDS_PER_PROVIDER: usize = 1_000_000;

/// Provider records held for all providers of one IP group together (/16 of IPv4, /32 of IPv6; none for this machine
/// and the local network): as many as for one provider, because names are free.
pub const MAX_RECORDS_PER_GROUP: usize = MAX_RECORDS_PER_PROVIDER;

/// Providers of records held for others; each costs up to 700 bytes beside its records.
pub const MAX_RECORD_PROVIDERS: usize = 65_536;

/// Bytes of addresses kept of one provider of records: eight ordinary ones, or four through relays.
pub const MAX_PROVIDER_ADDRS_LEN: usize = 512;

/// Providers kept for one key; an answer carries a choice of 20 of them.
pub const MAX_PROVIDERS_PER_KEY: usize = 128;

/// Peers in the routing table that may be closer to the key of a record than this node: twice the number that a
/// record is sent to. With more the record is refused, if the table has more than 64 peers.
pub const MAX_CLOSER_PEERS: usize = 40;

/// Provider records one peer may leave at once on a connection: what it may have here in all, because a node that
/// joins announces all it has. One connection carries about 50,000 a second.
pub const RECORD_BURST: u64 = 1_048_576;

/// Provider records a second one peer may leave in the long run: a million keys within nine minutes. They are
/// announced twice a day.
pub const RECORD_RATE: u64 = 2_048;

/// Provider records one peer may leave at once in kad messages: what the store of libp2p announces by default. Who has
/// more to announce uses the provide protocol, where it is told what was not taken; a flood of ADD_PROVIDER is
/// nobody's way to announce.
pub const KAD_RECORD_BURST: u64 = 1_024;

/// Provider records a second one peer may leave in kad messages in the long run. libp2p announces a key with a lookup of
/// its own, which is a few a second over real lines, and one holder gets a part of them. With 128, which is what one machine
/// reaches with itself, a hundred peers that are not in a hurry left a million records within three minutes.
pub const KAD_RECORD_RATE: u64 = 4;

/// Changes of provider records that wait to be written to disk, about 40 bytes each.
pub const MAX_RECORD_CHANGES: usize = 16_384;

/// Keys this node announces, 12 bytes each: 2 TiB in chunks of 1 MiB.
pub const MAX_OWN_RECORDS: usize = 2_097_152;

/// How long a provider record of another node is kept; own ones are announced again after half of that.
pub const PROVIDER_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// How often expired records of other nodes are looked for.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(10 * 60);

/// The pause between two steps of that, each of which takes a few milliseconds at most: a million records are looked
/// through within half a minute.
pub const SWEEP_PAUSE: Duration = Duration::from_millis(50);

/// Length in bytes of a kad message that is accepted. The sender has no limit, so a table full of peers with
/// many addresses must not become unreadable.
pub const MAX_KAD_MESSAGE_LEN: usize = 256 * 1024;

/// Peers that are probed at the same time before they get into the routing table. Who finds no place is looked at again
/// when it identifies itself the next time.
pub const MAX_ADMISSION_PROBES: usize = 64;

/// Such peers of one subnet: a few more than may get in, so that one that does not answer cannot keep up the others, and
/// nobody can take all places with the names of one subnet.
pub const MAX_ADMISSION_PROBES_PER_SUBNET: usize = 4;

/// Failed dials in a row after which a peer leaves the routing table. A failure counts only if this node has
/// connected to somebody since the one before, so that a node without a network keeps its table.
pub const MAX_FAILED_DIALS: u8 = 3;

/// Failed pings in a row after which a connection is closed.
pub const MAX_FAILED_PINGS: u8 = 2;

/// External address candidates that are handed to AutoNAT; strangers suggest them.
pub const MAX_NAT_CANDIDATES: usize = 64;

/// Verdicts of AutoNAT that are remembered, newest per address.
pub const MAX_NAT_VERDICTS: usize = 16;

/// Dial-backs for others that run at the same time, so that strangers cannot use up the pending connections.
pub const MAX_DIAL_BACKS: usize = 16;

/// How long a dial-back may take. Who asked for it waits ten seconds for the answer.
pub const DIAL_BACK_WITHIN: Duration = Duration::from_secs(5);

/// Dials past relays that run at the same time, because others asked for them.
pub const MAX_PUNCHES: usize = 32;

/// Of these, those that a peer may ask for while it is connected: three attempts on each of a few connections.
pub const MAX_PUNCHES_PER_PEER: usize = 16;

/// Addresses that a peer may name for one of them: what the library offers itself.
pub const MAX_PUNCH_ADDRS: usize = 20;

/// Addresses at one relay that this node takes for its own. A relay names them as it likes, and they are told to others.
pub const MAX_ADDRS_PER_RELAY: u32 = 8;

/// How often on one connection a peer may tell where it sees this node.
pub const MAX_OBSERVATIONS: u8 = 4;

/// Dial-backs for one peer that run at the same time.
pub const MAX_DIAL_BACKS_PER_PEER: usize = 2;

/// Commands that wait for the event loop; the next caller waits for a place.
pub const COMMAND_QUEUE: usize = 256;

/// Events that wait for the reader. A request that finds it full is answered Busy.
pub const EVENT_QUEUE: usize = 1_024;

/// How long a listener on an unspecified address is given to report its further addresses.
pub const LISTEN_SETTLE: Duration = Duration::from_millis(50);

/// How long a listener may take to report its first address.
pub const LISTEN_TIMEOUT: Duration = Duration::from_secs(10);

/// How long connections may take to close in order at shutdown.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// The limits a configuration or a test may change. The default of each field is the constant of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetLimits {
    /// See [`MAX_CONNECTIONS`].
    pub max_connections: u32,
    /// See [`MAX_CONNECTIONS_PER_PEER`].
    pub max_connections_per_peer: u32,
    /// See [`MAX_INCOMING_CONNECTIONS`].
    pub max_incoming_connections: u32,
    /// See [`MAX_PENDING_INCOMING`].
    pub max_pending_incoming: u32,
    /// See [`MAX_PENDING_OUTGOING`].
    pub max_pending_outgoing: u32,
    /// See [`IDLE_TIMEOUT`].
    pub idle_timeout: Duration,
    /// See [`REQUEST_TIMEOUT`].
    pub request_timeout: Duration,
    /// See [`CONNECT_TIMEOUT`].
    pub connect_timeout: Duration,
    /// See [`MAX_DIAL_WAITERS`].
    pub max_dial_waiters: usize,
    /// See [`MAX_OPEN_REQUESTS`].
    pub max_open_requests: usize,
    /// See [`MAX_REQUESTS`].
    pub max_requests: usize,
    /// See [`MAX_LOOKUPS`].
    pub max_lookups: usize,
    /// See [`MAX_QUEUED_LOOKUPS`].
    pub max_queued_lookups: usize,
    /// See [`MAX_LOOKUP_PROVIDERS`].
    pub max_lookup_providers: usize,
    /// See [`MAX_CLOSEST`].
    pub max_closest: usize,
    /// See [`MAX_PROVIDES`].
    pub max_provides: usize,
    /// See [`MAX_FOREIGN_RECORDS`].
    pub max_foreign_records: usize,
    /// See [`MAX_RECORDS_PER_PROVIDER`].
    pub max_records_per_provider: usize,
    /// See [`MAX_RECORDS_PER_GROUP`].
    pub max_records_per_group: usize,
    /// See [`MAX_RECORD_PROVIDERS`].
    pub max_record_providers: usize,
    /// See [`MAX_PROVIDERS_PER_KEY`].
    pub max_providers_per_key: usize,
    /// See [`MAX_CLOSER_PEERS`].
    pub max_closer_peers: usize,
    /// See [`RECORD_BURST`].
    pub record_burst: u64,
    /// See [`RECORD_RATE`].
    pub record_rate: u64,
    /// See [`KAD_RECORD_BURST`].
    pub kad_record_burst: u64,
    /// See [`KAD_RECORD_RATE`].
    pub kad_record_rate: u64,
    /// See [`PROVIDER_TTL`].
    pub record_life: Duration,
    /// See [`MAX_OWN_RECORDS`].
    pub max_own_records: usize,
    /// See [`COMMAND_QUEUE`].
    pub command_queue: usize,
    /// See [`EVENT_QUEUE`].
    pub event_queue: usize,
}

impl Default for NetLimits {
    fn default() -> Self {
        Self {
            max_connections: MAX_CONNECTIONS,
            max_connections_per_peer: MAX_CONNECTIONS_PER_PEER,
            max_incoming_connections: MAX_INCOMING_CONNECTIONS,
            max_pending_incoming: MAX_PENDING_INCOMING,
            max_pending_outgoing: MAX_PENDING_OUTGOING,
            idle_timeout: IDLE_TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            max_dial_waiters: MAX_DIAL_WAITERS,
            max_open_requests: MAX_OPEN_REQUESTS,
            max_requests: MAX_REQUESTS,
            max_lookups: MAX_LOOKUPS,
            max_queued_lookups: MAX_QUEUED_LOOKUPS,
            max_lookup_providers: MAX_LOOKUP_PROVIDERS,
            max_closest: MAX_CLOSEST,
            max_provides: MAX_PROVIDES,
            max_foreign_records: MAX_FOREIGN_RECORDS,
            max_records_per_provider: MAX_RECORDS_PER_PROVIDER,
            max_records_per_group: MAX_RECORDS_PER_GROUP,
            max_record_providers: MAX_RECORD_PROVIDERS,
            max_providers_per_key: MAX_PROVIDERS_PER_KEY,
            max_closer_peers: MAX_CLOSER_PEERS,
            record_burst: RECORD_BURST,
            record_rate: RECORD_RATE,
            kad_record_burst: KAD_RECORD_BURST,
            kad_record_rate: KAD_RECORD_RATE,
            record_life: PROVIDER_TTL,
            max_own_records: MAX_OWN_RECORDS,
            command_queue: COMMAND_QUEUE,
            event_queue: EVENT_QUEUE,
        }
    }
}
