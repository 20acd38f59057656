//! What goes over the API: requests, events and reports. JSON on the socket, plain structs in process.
//!
//! Lengths are bytes, times are seconds unless a name says otherwise. CIDs, peer IDs and multiaddrs travel as
//! text. Operations that take a while answer with a stream of events, one JSON object a line, that ends with
//! exactly one `done` or `error`.

mod announce;
mod limits;
mod net;
mod transfers;
mod waiting;

use std::path::PathBuf;

pub use dhtfs_store::AnnounceScope;
use serde::{Deserialize, Serialize};

pub use self::announce::{
    AnnounceStatus, Announced, Findable, Have, LookupReport, Provider, ProviderCheck, ProviderState,
    ProvidersRequest, WaitRequest,
};
pub use self::limits::{LimitsInfo, LimitsRequest};
pub use self::net::{NetInfo, RelayPlace};
pub use self::transfers::{
    EndedTransfer, Transfer, TransferList, TransferOutcome, TransferRequest, TransferState, WatchTransfers,
};
pub use self::waiting::{
    LookupsWaited, MissingChunks, ProviderGroup, ProvidersWaited, WaitCause, Waiting, WaitingProvider,
};

/// One line of a streamed answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event", content = "data")]
pub enum Event<P, D> {
    /// Something moved on; may be sent any number of times.
    Progress(P),
    /// The operation ended well. The last line.
    Done(D),
    /// The operation failed. The last line.
    Error(ApiError),
}

/// Why an operation failed. The kind decides the exit code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The class of the failure.
    pub kind: ErrorKind,
    /// One line: what happened to what, why, and what to do.
    pub message: String,
}

/// Classes of failure, one exit code each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The operation could not be carried out.
    Failed,
    /// The request makes no sense as it stands (not a CID, another codec or hash).
    Usage,
    /// Nobody has it: no manifest from anybody.
    NotFound,
    /// The manifest is known, but chunks have no live provider; what arrived is kept.
    Incomplete,
    /// The store is busy or unusable.
    Store,
    /// Interrupted by the user.
    Interrupted,
}

impl ErrorKind {
    /// The exit code of the command line for this class.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Failed => 1,
            ErrorKind::Usage => 2,
            ErrorKind::NotFound => 3,
            ErrorKind::Incomplete => 4,
            ErrorKind::Store => 5,
            ErrorKind::Interrupted => 130,
        }
    }
}

impl ApiError {
    /// An error of `kind` that says `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

/// `POST /v0/add`: import one file or directory and keep it as a share.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct AddRequest {
    /// Absolute path of the file or directory.
    pub path: PathBuf,
    /// Take a copy into the store instead of seeding the file where it lies.
    #[serde(default)]
    pub copy: bool,
    /// Name in the manifest; default is the path's last component.
    #[serde(default)]
    pub name: Option<String>,
    /// What of it is announced: `all`, `roots` or `none`. Absent leaves a share that is there already as it is; a new
    /// one is announced whole.
    #[serde(default)]
    pub announce: Option<AnnounceScope>,
}

/// Query of `POST /v0/add-stream`, whose body is the content itself (always copied).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct AddStreamQuery {
    /// Name in the manifest; default `stdin`.
    #[serde(default)]
    pub name: Option<String>,
    /// As in [`AddRequest`].
    #[serde(default)]
    pub announce: Option<AnnounceScope>,
}

/// Progress of reading and hashing (`add`, `verify`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HashProgress {
    /// Bytes hashed so far.
    pub done_len: u64,
    /// Bytes to hash, if known.
    pub total_len: Option<u64>,
    /// Why nothing of the manifest that a `verify` compares with has come for two seconds or longer; absent if
    /// something has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
}

/// Result of an `add`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Added {
    /// CID of the root manifest.
    pub cid: String,
    /// Name in the manifest.
    pub name: String,
    /// Total length of the content in bytes.
    pub len: u64,
    /// Number of files.
    pub files: u64,
    /// Number of chunks, repeated ones counted each time.
    pub chunks: u64,
    /// Whether the root is a directory.
    pub directory: bool,
    /// Symbolic links and special files left out of a directory.
    pub skipped: u64,
    /// The first of those left out.
    pub first_skipped: Option<PathBuf>,
    /// How long it took.
    pub seconds: f64,
    /// Addresses under which this node can be dialled, with `/p2p/`; empty without a network.
    pub addrs: Vec<String>,
}

/// Where to look besides the DHT. Part of every request that may go to the network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NetworkHints {
    /// Multiaddrs of peers believed to hold the content.
    #[serde(default)]
    pub peers: Vec<String>,
    /// Multiaddrs of DHT nodes to join through.
    #[serde(default)]
    pub bootstrap: Vec<String>,
    /// Give up after this long without progress; default 30 s.
    #[serde(default)]
    pub timeout_secs: Option<f64>,
}

/// `POST /v0/get`: fetch content into a file or directory. `POST /v0/get-detached`: hand that over to the node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GetRequest {
    /// CID or link.
    pub cid: String,
    /// Absolute path to write to, exactly.
    #[serde(default)]
    pub out: Option<PathBuf>,
    /// Absolute path of an existing directory to write `<manifest name>` into; used when `out` is absent.
    #[serde(default)]
    pub into: Option<PathBuf>,
    /// Replace an existing output file.
    #[serde(default)]
    pub force: bool,
    /// Where to look.
    #[serde(default)]
    pub hints: NetworkHints,
}

/// Progress of a `get` or `cat`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GetProgress {
    /// What is going on.
    pub stage: GetStage,
    /// Name in the manifest, once known.
    pub name: Option<String>,
    /// Total length of the content in bytes; 0 until the manifest is known.
    pub total_len: u64,
    /// Bytes held and verified so far.
    pub have_len: u64,
    /// Bytes that were there before this fetch or came from other local files.
    pub reused_len: u64,
    /// Bytes received from peers and verified.
    pub received_len: u64,
    /// Peers in use.
    pub sources: Vec<Source>,
    /// Why nothing has come for two seconds or longer; absent if something has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// It rests until it is resumed; absent if not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

/// Progress of a `cat`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CatProgress {
    /// Why nothing has come for two seconds or longer; absent if something has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
}

/// Result of a `cat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatDone {
    /// Bytes that were sent.
    pub len: u64,
}

/// Stage of a fetch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GetStage {
    /// Looking for providers and reading the manifest.
    #[default]
    Finding,
    /// Checking what is already here.
    Checking,
    /// Requesting chunks.
    Fetching,
    /// Everything arrived; syncing and renaming.
    Finishing,
}

/// One peer that served (or was asked to serve) chunks of a fetch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// Peer ID.
    pub peer: String,
    /// Chunks (and manifest blocks) it served.
    pub chunks: u64,
    /// Bytes it served.
    pub len: u64,
    /// Requests in flight to it now.
    pub in_flight: u32,
    /// `dialling`, `connected`, `backoff` or `banned`.
    pub state: String,
    /// Whether a relay carries what it serves.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub relayed: bool,
}

/// Result of a `get`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GetReport {
    /// CID that was fetched.
    pub cid: String,
    /// Where it lies now.
    pub path: PathBuf,
    /// Name in the manifest.
    pub name: String,
    /// Total length in bytes.
    pub len: u64,
    /// Number of files.
    pub files: u64,
    /// Bytes asked from peers, duplicates included.
    pub requested_len: u64,
    /// Bytes received from peers and kept.
    pub received_len: u64,
    /// Bytes received from peers and thrown away (duplicates, bad data).
    pub wasted_len: u64,
    /// Bytes that were there before or came from other local files.
    pub reused_len: u64,
    /// How long it took.
    pub seconds: f64,
    /// Peers that served at least one chunk or manifest.
    pub sources: Vec<Source>,
    /// Peers that answered DHT queries until the first provider was known; absent if no lookup found one.
    pub hops: Option<u32>,
}

/// `POST /v0/cat`: the answer's body is the content. Fails before the first byte with an error status, after it
/// by ending the body early. `POST /v0/cat-frames`: the same with events between the bytes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CatRequest {
    /// CID or link of a file or a chunk.
    pub cid: String,
    /// First byte to print.
    #[serde(default)]
    pub offset: u64,
    /// Number of bytes; default is up to the end.
    #[serde(default)]
    pub len: Option<u64>,
    /// Where to look.
    #[serde(default)]
    pub hints: NetworkHints,
}

/// `POST /v0/ls` and `POST /v0/ls-events`: shares (no CID), or what a manifest holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LsRequest {
    /// CID or link of a manifest; absent lists the shares of this node.
    #[serde(default)]
    pub cid: Option<String>,
    /// List the chunk CIDs of every file as well.
    #[serde(default)]
    pub chunks: bool,
    /// Where to look if the manifest is not here.
    #[serde(default)]
    pub hints: NetworkHints,
}

/// Progress of an `ls`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LsProgress {
    /// Why nothing of the manifest has come for two seconds or longer; absent if something has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
}

/// Answer of `ls`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum LsReport {
    /// What this node shares.
    Shares {
        /// In the order they were added.
        shares: Vec<ShareInfo>,
    },
    /// What a manifest holds.
    Manifest {
        /// CID of the manifest.
        cid: String,
        /// Its name.
        name: String,
        /// Total length in bytes.
        len: u64,
        /// Files in manifest order.
        files: Vec<FileInfo>,
        /// Every directory below the root, parents first.
        directories: Vec<String>,
    },
}

/// One share of this node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShareInfo {
    /// CID of the root manifest.
    pub cid: String,
    /// Its name.
    pub name: String,
    /// Total length in bytes.
    pub len: u64,
    /// Bytes of it that are here.
    pub have_len: u64,
    /// Number of files.
    pub files: u64,
    /// Whether it is a directory.
    pub directory: bool,
    /// When it was added, seconds since 1970.
    pub added_unix: u64,
    /// Where it lies, or would lie once complete.
    pub path: PathBuf,
    /// `complete`, `partial` or `changed` (a file was changed after it was added and is no longer served).
    pub state: String,
}

/// One file of a manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Path below the root; the name itself for a single file.
    pub path: String,
    /// CID of the file's manifest.
    pub cid: String,
    /// Length in bytes.
    pub len: u64,
    /// Whether it is marked executable.
    pub executable: bool,
    /// Chunk CIDs in order; only if asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chunks: Vec<String>,
}

/// `POST /v0/rm`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RmRequest {
    /// CID of the share.
    pub cid: String,
}

/// Result of `rm`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Removed {
    /// CID of the share that was forgotten.
    pub cid: String,
    /// Its name.
    pub name: String,
    /// Keys (manifests and chunks) that are no longer announced, whose records are being taken back from the nodes that
    /// hold them; goes on after the answer.
    pub withdrawn: u64,
    /// Keys that are no longer announced, whose records are left to run out since this node is in no network: without
    /// a daemon nobody is told.
    #[serde(default)]
    pub left: u64,
}

/// `POST /v0/verify`: does a path hold exactly the content of a CID?
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct VerifyRequest {
    /// Absolute path of the file or directory.
    pub path: PathBuf,
    /// CID or link.
    pub cid: String,
    /// Where to look for the manifest if it is not here.
    #[serde(default)]
    pub hints: NetworkHints,
}

/// Result of a `verify` that found no difference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    /// The CID.
    pub cid: String,
    /// The path.
    pub path: PathBuf,
    /// Bytes compared.
    pub len: u64,
    /// Files compared.
    pub files: u64,
}

/// `GET /v0/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Process that owns the store.
    pub pid: u32,
    /// Data directory.
    pub data_dir: PathBuf,
    /// This node's peer ID.
    pub peer_id: String,
    /// Network name.
    pub network: String,
    /// Whether a network is running; without one nobody can fetch from this node.
    pub online: bool,
    /// Seconds since the node started.
    pub uptime_secs: u64,
    /// Addresses listened on, with `/p2p/`.
    pub listen: Vec<String>,
    /// Addresses told to others.
    pub external: Vec<String>,
    /// `loopback`, `private` or `public`.
    pub profile: String,
    /// What AutoNAT found.
    pub reachability: ReachabilityInfo,
    /// How others reach it; absent without a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<NetInfo>,
    /// Peers connected now.
    pub connected: u64,
    /// Connections established; a peer may have several.
    pub connections: u64,
    /// Peers in the routing table.
    pub routing_peers: u64,
    /// Provider records held for other nodes.
    pub records_held: u64,
    /// Requests of other nodes that wait for an answer.
    pub requests_open: u64,
    /// Shares kept.
    pub shares: u64,
    /// Total length of the shares in bytes.
    pub shares_len: u64,
    /// Announcements.
    pub provide: ProvideInfo,
    /// How fast it sends and fetches.
    #[serde(default)]
    pub limits: LimitsInfo,
    /// Limits and what they did, and totals: name to count. Every limit of the node has its counter here.
    pub counters: std::collections::BTreeMap<String, u64>,
}

/// AutoNAT's verdict.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ReachabilityInfo {
    /// `unknown`, `reachable` or `unreachable`.
    pub verdict: String,
    /// Addresses tested, newest verdict each.
    pub addrs: Vec<TestedAddr>,
}

/// One address that another node tried to dial back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TestedAddr {
    /// The address.
    pub addr: String,
    /// Whether the dial back came through.
    pub reachable: bool,
    /// Who tried.
    pub tested_by: String,
}

/// How far the announcements are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProvideInfo {
    /// Keys to be announced (manifests and chunks).
    pub keys: u64,
    /// Of these, announced within the current interval.
    pub announced: u64,
    /// Not announced, or due again: waiting for their turn or under way.
    pub pending: u64,
    /// Attempts that failed since start.
    pub failed: u64,
    /// Keys no longer provided whose holders are being told, or will be.
    #[serde(default)]
    pub withdrawing: u64,
    /// Keys whose holders were told since start.
    #[serde(default)]
    pub withdrawn: u64,
    /// Keys since start whose holders could not all be told; those records run out within 24 h.
    #[serde(default)]
    pub not_withdrawn: u64,
}

/// `POST /v0/status-of`: what is here of one CID.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContentStatus {
    /// The CID.
    pub cid: String,
    /// `manifest` or `chunk`.
    pub kind: String,
    /// `complete`, `partial`, `changed` or `none`.
    pub state: String,
    /// Name, if it is a share of this node.
    pub name: Option<String>,
    /// Total length, if known.
    pub len: Option<u64>,
    /// Bytes here.
    pub have_len: u64,
    /// Where it lies, if it is a share.
    pub path: Option<PathBuf>,
    /// How far its announcement is; absent if it is neither shared nor announced here.
    #[serde(default)]
    pub announce: Option<AnnounceStatus>,
}

/// One peer of `GET /v0/peers`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerEntry {
    /// Peer ID.
    pub peer: String,
    /// Addresses of its connections.
    pub addrs: Vec<String>,
    /// What it calls itself.
    pub agent: Option<String>,
    /// Last measured round trip in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Whether it is in the routing table.
    pub routing: bool,
    /// `in` or `out`: who dialled.
    pub direction: String,
}

/// `GET /v0/id`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// Peer ID.
    pub peer_id: String,
    /// Addresses under which this node can be dialled, with `/p2p/`.
    pub addrs: Vec<String>,
    /// Version of the program.
    pub version: String,
    /// Network name.
    pub network: String,
}

/// Result of `POST /v0/gc`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GcInfo {
    /// Manifest blocks dropped.
    pub manifests: u64,
    /// Copies dropped from the store.
    pub copies: u64,
    /// Bytes freed on disk.
    pub freed_len: u64,
}

/// The line `dhtfs daemon --json` prints when it is ready.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// Peer ID.
    pub peer_id: String,
    /// Addresses listened on, actual ports, with `/p2p/`.
    pub listen: Vec<String>,
}
