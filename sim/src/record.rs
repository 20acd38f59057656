//! What a run was and what came of it: everything that the report, the JSON file and the tests read.
//!
//! Times are simulated seconds since the start of the run unless a name says otherwise.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One run of one scenario.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Name of the scenario.
    pub scenario: String,
    /// Version of this program.
    pub version: String,
    /// Seed of everything random.
    pub seed: u64,
    /// Number of nodes at the start; the largest for scenarios that use several.
    pub nodes: usize,
    /// The plan as TOML, if the scenario is one plan.
    #[serde(default)]
    pub plan: String,
    /// The command line that runs it again; empty if scenario, nodes and seed say all.
    #[serde(default)]
    pub replay: String,
    /// All options, as given or by default, in words.
    pub options: BTreeMap<String, String>,
    /// Hash over every byte on every wire with its time, source and destination, and every result.
    pub trace_hash: String,
    /// Length of the run in simulated seconds.
    pub secs: f64,
    /// Whether every check held.
    pub passed: bool,
    /// What was checked.
    pub checks: Vec<Check>,
    /// State once per simulated hour (and at the end).
    pub hours: Vec<Hour>,
    /// Lookups of providers.
    pub probes: Vec<Probe>,
    /// Lookups that are not among these because the asker died before they ended.
    #[serde(default)]
    pub probes_dropped: u64,
    /// Whole fetches.
    pub gets: Vec<Get>,
    /// When faults were on.
    pub faults: Vec<FaultSpan>,
    /// Requests per lookup at several sizes of the network; growth-law only.
    pub growth: Vec<GrowthPoint>,
    /// The fit of `growth`: requests = a + b ln(nodes).
    pub growth_fit: Option<Fit>,
    /// Totals per node at the end, by index.
    pub loads: Vec<Load>,
    /// Holders per chunk of each content at the end: `(holders, number of chunks)`.
    pub chunk_holders: Vec<(usize, usize)>,
    /// Rows of text that a scenario adds (NAT matrix, role by role results): heading and rows.
    pub tables: Vec<Table>,
    /// Figures that a scenario prints, name and value.
    pub figures: BTreeMap<String, f64>,
    /// CPU seconds of the process; differs from run to run and is not part of the trace hash.
    pub cpu_secs: f64,
    /// Largest resident memory of the process in MiB; as above.
    pub peak_rss_mib: f64,
}

/// Something that must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What, in a few words.
    pub name: String,
    /// How often it was looked at.
    pub looked: u64,
    /// How often it did not hold.
    pub failed: u64,
    /// The first failure in words.
    pub first_failure: Option<String>,
}

/// The network over one hour.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Hour {
    /// When the hour ended.
    pub at: f64,
    /// Nodes running at that time.
    pub online: usize,
    /// Nodes started within the hour.
    pub starts: u64,
    /// Nodes crashed within the hour.
    pub crashes: u64,
    /// Bytes sent within the hour by protocol (a short name: kad, exchange, identify, ping, autonat, other).
    pub bytes: BTreeMap<String, u64>,
    /// Messages or streams opened within the hour by protocol.
    pub streams: BTreeMap<String, u64>,
    /// Lookups that began within the hour while what they looked for had a provider alive and reachable.
    #[serde(default)]
    pub probes: u64,
    /// Of these, how many found a live one.
    #[serde(default)]
    pub found: u64,
    /// Connections open at that time, each counted once.
    pub connections: usize,
    /// Median number of peers in a routing table.
    pub routing_median: usize,
    /// Trace hash so far.
    pub hash: String,
}

/// One lookup of the providers of something.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// When it began.
    pub at: f64,
    /// Index of the node that asked.
    pub node: usize,
    /// Number of the content that was looked for.
    #[serde(default)]
    pub content: usize,
    /// Whether a provider was alive and reachable from the asker all the time; only then a failure counts.
    pub provider_alive: bool,
    /// Whether a live provider was found.
    pub found: bool,
    /// Seconds until the first provider that was alive.
    pub first_secs: Option<f64>,
    /// Seconds until the lookup ended.
    pub total_secs: f64,
    /// kad requests sent for it.
    pub requests: u32,
    /// Providers returned.
    pub returned: usize,
    /// Of these, how many were not running.
    pub stale: usize,
    /// Providers that a second lookup found and that answered when they were dialled; none if that was not asked for.
    #[serde(default)]
    pub answered: usize,
    /// Of these, how many were not running when the dial was over.
    #[serde(default)]
    pub answered_stale: usize,
    /// Longest chain of "who told me of the peer that told me ..": hops of the lookup, if known.
    pub hops: Option<u32>,
}

/// One whole fetch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Get {
    /// When it began.
    pub at: f64,
    /// Index of the node that fetched.
    pub node: usize,
    /// Length of the content in bytes.
    pub len: u64,
    /// Whether it arrived whole and right.
    pub complete: bool,
    /// Seconds until the first verified byte.
    pub first_byte_secs: Option<f64>,
    /// Seconds until it was complete.
    pub total_secs: Option<f64>,
    /// Chunk bytes received, duplicates and wrong ones included.
    pub received_len: u64,
    /// Peers that chunks came from.
    pub sources: usize,
    /// Why it failed.
    pub error: Option<String>,
}

/// A fault and when it was on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FaultSpan {
    /// A few words: `partition`, `mass death 80 %`.
    pub name: String,
    /// Begin.
    pub from: f64,
    /// End; the same as `from` for an instant.
    pub to: f64,
}

/// Requests per lookup at one size of the network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GrowthPoint {
    /// Nodes.
    pub nodes: usize,
    /// Mean kad requests per lookup.
    pub requests: f64,
    /// Mean hops per lookup.
    pub hops: f64,
    /// Median seconds until the first provider.
    pub first_secs: f64,
}

/// A least-squares line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Fit {
    /// Value at ln(nodes) = 0.
    pub a: f64,
    /// Growth per unit of ln(nodes).
    pub b: f64,
    /// Share of the variance that the line explains.
    pub r2: f64,
}

/// What one node carried.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Index of the node.
    pub node: usize,
    /// Its role.
    pub role: String,
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
    /// Provider records held for others.
    pub records: u64,
    /// Chunks held.
    pub chunks: u64,
    /// Chunk bytes served.
    pub served: u64,
}

/// A table of text.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// Heads of the columns.
    pub columns: Vec<String>,
    /// Rows of cells.
    pub rows: Vec<Vec<String>>,
}
