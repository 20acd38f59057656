//! Why a fetch waits.

use serde::{Deserialize, Serialize};

/// Why nothing comes: part of the progress of a `get`, `cat`, `ls` or `verify` that has brought nothing for two
/// seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Waiting {
    /// What is waited for first of all.
    pub cause: WaitCause,
    /// Everything below in one line.
    pub line: String,
    /// Seconds since something was stored.
    pub idle_secs: f64,
    /// The fetch fails in so many seconds unless something is stored; absent while this node itself is what is slow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fails_in_secs: Option<f64>,
    /// The providers that are known.
    pub providers: ProvidersWaited,
    /// What is missing.
    pub chunks: MissingChunks,
    /// The search for more providers.
    pub lookups: LookupsWaited,
    /// Peers named with the request that never answered. They are not among the providers.
    #[serde(default)]
    pub unreached_hints: u64,
}

/// What a fetch waits for first of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitCause {
    /// What arrived is being written to the disk here.
    Disk,
    /// The download limit of this node.
    Limit,
    /// No provider is known.
    #[default]
    NoProvider,
    /// Providers were asked and may still answer in time.
    Answers,
    /// Providers are being connected to.
    Connections,
    /// Providers are overloaded.
    Busy,
    /// Providers do not answer.
    Silence,
    /// Providers are connected, and are asked when what nobody waits for any more has come from them.
    Ready,
    /// Providers answer and have nothing that is missing.
    Missing,
    /// No provider can be reached.
    Unreachable,
    /// All that is left are providers that sent wrong data.
    WrongData,
    /// Something that this program does not know: the node is newer.
    #[serde(other)]
    Other,
}

/// The known providers by what is the matter with them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProvidersWaited {
    /// How many are known: the sum of the groups.
    pub known: u64,
    /// Each state in which there is one, at most once.
    pub groups: Vec<ProviderGroup>,
}

/// Providers with which the same is the matter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProviderGroup {
    /// What it is.
    pub state: WaitingProvider,
    /// How many.
    pub providers: u64,
    /// Seconds until the first of them is tried again; absent if that is not known or will not be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again_in_secs: Option<f64>,
    /// Of busy ones: how many requests wait at the one where the fewest do; absent if none of them says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<u32>,
}

/// What is the matter with a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitingProvider {
    /// It was asked and is not late yet.
    Asked,
    /// It is connected and could be asked; what arrived, or what nobody waits for any more, is dealt with first.
    Ready,
    /// It is being connected to for the first time.
    Connecting,
    /// It was found and is not dialled yet.
    Found,
    /// It is overloaded.
    Busy,
    /// It does not answer, or its answers break off.
    Silent,
    /// It answers and has nothing that is missing.
    Lacking,
    /// It could not be reached, or its connection was lost.
    Unreachable,
    /// It sent wrong data.
    WrongData,
    /// Something that this program does not know: the node is newer.
    #[serde(other)]
    Other,
}

/// What a fetch still lacks, in chunks, or in manifest blocks as long as the manifest is being read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingChunks {
    /// How many are not stored.
    pub missing: u64,
    /// Of these, those that arrived.
    pub received: u64,
    /// Of these, those that no connected provider that answers is believed to hold.
    pub without_provider: u64,
    /// Whether there may be more of these.
    pub at_least: bool,
}

/// Lookups of a fetch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct LookupsWaited {
    /// How many run.
    pub running: u64,
    /// Seconds until the next one begins; absent if that is not known, as while others run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_in_secs: Option<f64>,
}
