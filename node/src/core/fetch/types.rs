//! What goes in and out of a fetch.

use dhtfs_store::{ChunkSet, ContentCid};
use libp2p::PeerId;

use super::{pace::UNITS_PER_CHUNK, peers::Peer};

/// Something to obtain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// Its CID.
    pub cid: ContentCid,
    /// Its exact length in bytes, at most 1 MiB; `None` if it is not known before (manifests).
    pub len: Option<u32>,
    /// One of its positions in the unfolded manifest, below what [`on_content`](super::Fetch::on_content) was told;
    /// `None` if it has none (manifests), or the content is not known.
    pub place: Option<u32>,
}

/// Names one question for a have-map; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HaveId(pub u64);

/// What a peer tells about the content. Sets have the length of the content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HaveUpdate {
    /// It holds every chunk. Nothing follows.
    All,
    /// It holds these chunks and no others.
    Map(ChunkSet),
    /// It holds these too.
    More(ChunkSet),
}

/// Why a peer tells no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HaveEnd {
    /// It broke off, or is busy: it may be asked again later.
    Closed,
    /// It does not tell, or makes no sense.
    Refused,
}

/// Names one request of a fetch; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What the driver is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Find providers of this CID and report each with [`on_provider`](super::Fetch::on_provider), then the end.
    Lookup(ContentCid),
    /// The answer of this running lookup is no longer needed: end it. Its end need not be reported.
    CancelLookup(ContentCid),
    /// Connect to this peer.
    Dial(PeerId),
    /// Request a block.
    Request {
        /// Names the request in its answer.
        id: RequestId,
        /// Whom to ask.
        peer: PeerId,
        /// What to ask for.
        cid: ContentCid,
        /// Longest acceptable answer in bytes.
        max_len: u32,
    },
    /// Ask this connected peer which chunks of the content it holds, and report what it tells with
    /// [`on_map`](super::Fetch::on_map) for as long as it does, then the end.
    AskHave {
        /// Names the question in what it brings.
        id: HaveId,
        /// Whom to ask.
        peer: PeerId,
    },
    /// What this question brings is no longer wanted. Its end need not be reported.
    EndHave(HaveId),
    /// The answer to this request is no longer wanted: cancel it if possible. Reporting its answer is allowed and
    /// frees the peer's window earlier.
    Forget(RequestId),
    /// Everything wanted is stored. Nothing follows.
    Finished,
    /// The fetch has failed. Nothing follows.
    Failed(FetchFailure),
}

/// Why a fetch failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FetchFailure {
    /// The root was never obtained from anybody.
    #[error("no provider found")]
    NotFound,
    /// Some wants could not be obtained.
    #[error("{missing} blocks could not be obtained from any provider")]
    Incomplete {
        /// Wants that are not stored.
        missing: usize,
    },
    /// More than [`max_wants`](super::FetchConfig::max_wants) blocks are wanted.
    #[error("more blocks than one fetch can hold")]
    TooLarge,
}

/// How far a fetch is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchProgress {
    /// Wants given so far.
    pub wanted: usize,
    /// Of these, stored.
    pub stored: usize,
    /// Requests in flight, copies included.
    pub in_flight: usize,
    /// Bytes of the blocks received, wasted ones included.
    pub received_len: u64,
    /// Bytes requested: the sum of `max_len` over all requests; of a want without a known length, once it has
    /// arrived, its own.
    pub requested_len: u64,
    /// Of the bytes received, those thrown away: of copies that lost, of bad blocks, of late ones.
    pub wasted_len: u64,
    /// Every known peer, in the order in which they became known.
    pub peers: Vec<PeerProgress>,
    /// Lookups in flight.
    pub lookups: usize,
    /// Lookups of single chunks or manifests besides the root that were started.
    pub own_lookups: u64,
    /// Connected peers that told which chunks they hold.
    pub maps: usize,
}

/// What one peer has done for a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerProgress {
    /// The peer.
    pub peer: PeerId,
    /// Its connection.
    pub state: PeerState,
    /// Requests in flight to it.
    pub in_flight: usize,
    /// Blocks it served that were stored.
    pub served: u64,
    /// Bytes of these.
    pub served_len: u64,
    /// Full chunks it may have in flight.
    pub window: u32,
    /// Smoothed bytes per second while it was being asked.
    pub rate: u64,
}

/// State of a peer's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    /// Being dialled.
    Dialling,
    /// Connected.
    Connected,
    /// Not connected; waits to be dialled (again).
    Backoff,
    /// Served bad blocks and is never asked again.
    Banned,
}

impl PeerProgress {
    pub(super) fn of(peer: &Peer) -> Self {
        Self {
            peer: peer.id,
            state: peer.state(),
            in_flight: peer.in_flight(),
            served: peer.served,
            served_len: peer.served_len,
            window: peer.pace.window().div_ceil(UNITS_PER_CHUNK),
            rate: peer.pace.len_rate(),
        }
    }
}
