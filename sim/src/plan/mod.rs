//! What a scenario is: nodes, content, a timeline and what is expected, as one value.
//!
//! The built-in scenarios ([`builtin`]) make such a value in Rust; a TOML file is the same value written down, and
//! `dhtfs-sim show NAME` prints a built-in one as a start for an own file. Durations are written `90s`, `1h 30m`,
//! sizes `64 MiB`, shares from 0 to 1.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::roles::RoleKind;

pub mod builtin;
pub mod chaos;
mod check;
mod event;
pub mod time;

pub(crate) use check::MAX_NODES;
pub use check::PlanError;
pub use event::{DiskFate, Event, What, Who};
use time::{Millis, Size};

/// A whole scenario.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Name, as printed.
    pub name: String,
    /// One line on what happens.
    #[serde(default)]
    pub about: String,
    /// Number of nodes, the fixed ones of groups included.
    pub nodes: usize,
    /// Simulated length of the run.
    pub duration: Millis,
    /// The network between hosts.
    #[serde(default)]
    pub network: NetworkPlan,
    /// The nodes. The first group is joined through by all others.
    pub groups: Vec<Group>,
    /// What is shared.
    #[serde(default)]
    pub contents: Vec<ContentPlan>,
    /// Lookups of providers, at random nodes for random content.
    #[serde(default)]
    pub probes: Option<ProbePlan>,
    /// What happens when.
    #[serde(default)]
    pub events: Vec<Event>,
    /// What must come out besides the checks that are always on.
    #[serde(default)]
    pub expect: Expect,
}

/// How connections are encrypted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Security {
    /// As the real node does over TCP.
    #[default]
    Noise,
    /// Not at all: the peers only name themselves. For large networks; encryption is half of their CPU time.
    Plaintext,
}

/// Where hosts are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Geography {
    /// Every pair has the same delay: `one_way`.
    #[default]
    Flat,
    /// Five regions of the world, with delays of 5 to 180 ms between hosts, to which `one_way` is added.
    Regions,
}

/// The network between hosts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkPlan {
    /// Encryption.
    pub security: Security,
    /// Where hosts are.
    pub geography: Geography,
    /// Delay of one direction; in regions what access lines add to it.
    pub one_way: Millis,
    /// Largest random addition to the delay of a segment.
    pub jitter: Millis,
    /// Share of segments that are lost and sent again.
    pub loss: f64,
    /// How long nodes keep a connection without a stream; as the real node does when absent. A shorter time lets
    /// 1,000 nodes fit into memory: a connection takes 80 KB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Millis>,
    /// How long nodes keep provider records; they announce again after half of that. As the real node does when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record_life: Option<Millis>,
}

impl Default for NetworkPlan {
    fn default() -> Self {
        Self {
            security: Security::Noise,
            geography: Geography::Flat,
            one_way: Millis::from_millis(25),
            jitter: Millis::ZERO,
            loss: 0.0,
            idle_timeout: None,
            record_life: None,
        }
    }
}

/// Nodes that have something in common.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Group {
    /// Name; events and contents refer to it.
    pub name: String,
    /// That many nodes, whatever the size of the network; or
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<usize>,
    /// that share of the nodes that are not fixed; the last group with a share takes what rounding leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// What the nodes do.
    pub role: RoleKind,
    /// When the first one starts.
    pub joins_at: Millis,
    /// Over how long the others follow, evenly.
    pub joins_within: Millis,
    /// Uplink in Mbit/s; not limited when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub up_mbit: Option<f64>,
    /// Downlink in Mbit/s; not limited when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down_mbit: Option<f64>,
    /// The nodes share so many networks of 256 addresses (/24); each has a network of its own when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnets: Option<usize>,
    /// The box the nodes sit behind, one each; none when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nat: Option<Nat>,
    /// How they come and go; always there when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub churn: Option<Churn>,
    /// Versions of the exchange protocol, preferred first; empty for those of this program.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exchange_versions: Vec<u32>,
    /// Takes the limits of connections, records and requests away, and lets the disk lie about what it has synced:
    /// shows what these protections are for, and that the checks notice.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unprotected: bool,
}

/// Kinds of NAT boxes, by how they choose the outer port and whom they let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nat {
    /// Keeps the port, lets anybody in once it is open.
    FullCone,
    /// Keeps the port, lets in who was sent to.
    AddressRestricted,
    /// Keeps the port, lets in the address and port that was sent to.
    PortRestricted,
    /// One other port for all destinations.
    PortShifting,
    /// Another port for every destination.
    Symmetric,
}

/// Sessions and absences with log-normal lengths.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Churn {
    /// Median length of a session.
    pub median_on: Millis,
    /// Median length of an absence.
    pub median_off: Millis,
    /// Standard deviation of the logarithm of both.
    #[serde(default = "one")]
    pub sigma: f64,
    /// Share of sessions that end without a word; the others shut down in order.
    #[serde(default = "one")]
    pub crashes: f64,
    /// How much the hour of the day matters: 0 not at all, 1 fully (absences get up to three times as long at
    /// night and a third as long in the evening).
    #[serde(default)]
    pub diurnal: f64,
}

fn one() -> f64 {
    1.0
}

/// A file that is shared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContentPlan {
    /// Name of the file; several copies are numbered.
    pub name: String,
    /// How many different files of this kind.
    #[serde(default = "one_file")]
    pub count: usize,
    /// Length of each.
    pub len: Size,
    /// Group whose nodes hold it; every node of the network when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Number of holders of each, drawn from the group; all of them when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holders: Option<usize>,
    /// Share of the chunks that a holder holds, drawn for each; all of them at 1.
    #[serde(default = "one")]
    pub held: f64,
    /// When it is added; nodes that start later add it then.
    #[serde(default)]
    pub at: Millis,
}

fn one_file() -> usize {
    1
}

/// Lookups at random online nodes for random content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbePlan {
    /// When they begin.
    pub from: Millis,
    /// Pause between two.
    pub every: Millis,
    /// How many at each time.
    #[serde(default = "one_file")]
    pub at_once: usize,
    /// Give up after.
    #[serde(default = "probe_timeout")]
    pub timeout: Millis,
    /// After each lookup a second one whose providers are dialled, as a fetch does before it asks them for anything.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dials: bool,
}

fn probe_timeout() -> Millis {
    Millis::from_secs(60)
}

/// What must come out. Absent limits are only printed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expect {
    /// Smallest share of probes with a live, reachable provider that find it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probes_found: Option<f64>,
    /// Smallest share of gets that complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gets_complete: Option<f64>,
    /// From when on everything is mended: of gets that begin before only those count whose content a complete holder
    /// had that was reachable all the time. All count when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mended_from: Option<Millis>,
    /// Whether routing tables must recover within ten minutes of the end of every fault.
    pub tables_recover: bool,
}

impl Group {
    /// A group of exactly `nodes`.
    pub fn fixed(name: &str, nodes: usize) -> Self {
        Self { name: name.to_owned(), nodes: Some(nodes), ..Self::default() }
    }

    /// A group of a share of the nodes that are not fixed.
    pub fn share(name: &str, share: f64) -> Self {
        Self { name: name.to_owned(), share: Some(share), ..Self::default() }
    }

    /// With this role.
    #[must_use]
    pub fn role(mut self, role: RoleKind) -> Self {
        self.role = role;
        self
    }

    /// Starting at `at`, spread over `within`.
    #[must_use]
    pub fn joins(mut self, at: Duration, within: Duration) -> Self {
        (self.joins_at, self.joins_within) = (at.into(), within.into());
        self
    }

    /// On lines of these rates in Mbit/s.
    #[must_use]
    pub fn lines(mut self, up: f64, down: f64) -> Self {
        (self.up_mbit, self.down_mbit) = (Some(up), Some(down));
        self
    }

    /// Coming and going with these medians.
    #[must_use]
    pub fn churn(mut self, median_on: Duration, median_off: Duration) -> Self {
        let (median_on, median_off) = (median_on.into(), median_off.into());
        self.churn = Some(Churn { median_on, median_off, sigma: 1.0, crashes: 1.0, diurnal: 0.0 });
        self
    }
}

impl ContentPlan {
    /// One file of `len` bytes held by `holders` nodes of a group.
    pub fn file(name: &str, len: u64, group: &str, holders: usize) -> Self {
        Self {
            name: name.to_owned(),
            count: 1,
            len: Size(len),
            group: Some(group.to_owned()),
            holders: Some(holders),
            held: 1.0,
            at: Millis::ZERO,
        }
    }
}
