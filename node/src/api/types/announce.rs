//! How far announcements are, and who provides what.

use dhtfs_store::{AnnounceScope, KeySummary};
use serde::{Deserialize, Serialize};

use super::NetworkHints;

/// How far the announcement of some keys is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    /// Keys to announce.
    pub keys: u64,
    /// Of these, announced at least once.
    pub announced: u64,
    /// The fewest nodes that were known to hold the record of an announced key; absent if none is announced.
    pub min_holders: Option<u64>,
    /// When the one that was announced the longest ago was last announced, seconds since 1970.
    pub oldest_unix: Option<u64>,
}

impl From<KeySummary> for Announced {
    fn from(summary: KeySummary) -> Self {
        Self {
            keys: summary.keys,
            announced: summary.keys.saturating_sub(summary.fresh),
            min_holders: summary.min_holders.map(u64::from),
            oldest_unix: summary.oldest_unix,
        }
    }
}

impl Announced {
    /// The same of these keys and of others together.
    pub fn and(self, other: Self) -> Self {
        Self {
            keys: self.keys + other.keys,
            announced: self.announced + other.announced,
            min_holders: self.min_holders.into_iter().chain(other.min_holders).min(),
            oldest_unix: self.oldest_unix.into_iter().chain(other.oldest_unix).min(),
        }
    }
}

/// `POST /v0/wait`: wait until a share is findable. Streams [`Findable`] as progress and ends with one, at the latest
/// after the timeout.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WaitRequest {
    /// CID or link of a share of this node.
    pub cid: String,
    /// Wait no longer than this; default 120 s.
    #[serde(default)]
    pub timeout_secs: Option<f64>,
}

/// Whether others find a share in the DHT, and what is missing if not.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Findable {
    /// CID of the share.
    pub cid: String,
    /// Whether every key to announce is announced, each to enough nodes, and no record has run out.
    pub findable: bool,
    /// What of it is announced: `all`, `roots` or `none`.
    pub scope: AnnounceScope,
    /// Other nodes of the DHT that are known: the peers in the routing table or, if that is more, the estimated size
    /// of the network; 0 without any in the table, and without a daemon.
    pub dht_nodes: u64,
    /// On how many nodes each record is to be: the peers in the routing table, at most 20.
    pub target: u64,
    /// How many are enough, since every lookup comes across them: half of the target.
    pub enough: u64,
    /// Nodes that hold the record of the root manifest.
    pub root_holders: u64,
    /// All its manifest blocks that are to be announced, the root among them.
    pub manifests: Announced,
    /// Its chunks that are to be announced.
    pub chunks: Announced,
    /// How long was waited; 0 in a status.
    pub seconds: f64,
}

/// How far the announcement of a CID is, in `POST /v0/status-of`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AnnounceStatus {
    /// Whether others find it, as `wait` says it; absent if the CID is no share of its own.
    pub findable: Option<Findable>,
    /// The keys: of a share all that its scope names, else the CID itself.
    #[serde(flatten)]
    pub keys: Announced,
    /// When the one that was announced the longest ago is announced again, seconds since 1970; in the past if that
    /// is late. A tenth of the interval later at most: keys have their turn in groups.
    pub next_unix: Option<u64>,
    /// When the record of that one runs out at the nodes that hold it, seconds since 1970; in the past if it has.
    #[serde(default)]
    pub expires_unix: Option<u64>,
    /// The node's time of day, to compare the others with.
    pub now_unix: u64,
}

/// `POST /v0/providers`: who provides this CID? Streams [`Provider`] as progress, ends with [`LookupReport`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProvidersRequest {
    /// CID or link; manifest or chunk.
    pub cid: String,
    /// Connect to each provider as well and ask it what it has.
    #[serde(default)]
    pub check: bool,
    /// Where to look.
    #[serde(default)]
    pub hints: NetworkHints,
}

/// One provider found in the DHT.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Provider {
    /// Peer ID.
    pub peer: String,
    /// Known addresses; may be empty.
    pub addrs: Vec<String>,
    /// Whether it is this very node.
    pub this_node: bool,
    /// What was found out about it; only if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<ProviderCheck>,
}

/// What a provider turned out to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProviderCheck {
    /// Whether it can be reached.
    pub state: ProviderState,
    /// Last measured round trip in milliseconds.
    pub rtt_ms: Option<f64>,
    /// Whether it handed out the manifest block that the CID names; absent if it was not asked or did not say, and
    /// for chunks, which are not transferred for this.
    pub manifest: Option<bool>,
    /// How much of the file or directory it says it holds; absent if it does not say, and for chunks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub have: Option<Have>,
    /// Why it cannot be reached, or was not checked.
    pub error: Option<String>,
}

/// How much of a file or directory a peer says it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Have {
    /// Chunks it holds, repeated ones counted each time.
    pub held: u64,
    /// Chunks there are, counted in the same way.
    pub of: u64,
}

/// Whether a provider can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProviderState {
    /// It is this very node.
    ThisNode,
    /// Connected directly.
    Live,
    /// Connected through a relay only.
    Relayed,
    /// No connection came about.
    Unreachable,
    /// The time of the request was over before it could be asked.
    NotChecked,
}

/// How a lookup went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LookupReport {
    /// Providers found.
    pub found: u64,
    /// Requests sent to peers.
    pub requests: u32,
    /// Peers that answered until the first provider was known.
    pub hops: Option<u32>,
    /// How long it took.
    pub seconds: f64,
}
