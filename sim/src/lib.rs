//! Networks of real dhtfs nodes in one process, on a virtual clock, repeatable from a seed.
//!
//! The nodes are the ones that ship ([`dhtfs_node::Node`]); only what they are given from outside differs: an
//! in-memory network of hosts and links, an in-memory disk, identities and randomness from the seed, and time that
//! jumps from event to event.
//!
//! | module                 | what it holds                                                        |
//! |------------------------|----------------------------------------------------------------------|
//! | [`clock`]              | the clock and the entropy of the process, replaced                   |
//! | [`net`], [`meter`]     | hosts, lines, NAT boxes, partitions; the trace; bytes by protocol     |
//! | [`tasks`], [`world`]   | processes that start, freeze and die; what is true of all of them    |
//! | [`roles`]              | peers that are not the node that ships: hostile and naive ones       |
//! | [`limits`]             | what simulated nodes may use up                                      |
//! | [`plan`], [`timeline`] | scenarios as values, and how one is run                              |
//! | [`scenario`]           | the scenarios by name, those that are more than a plan included      |
//! | [`checks`], [`record`], [`report`] | what must hold, what came out, how it is shown           |
#![deny(unsafe_code)]

use sha2::{Digest, Sha256};

pub mod checks;
pub mod clock;
pub mod content;
pub mod cost;
pub mod limits;
pub mod meter;
pub mod nat_mix;
pub mod net;
pub mod plan;
pub mod record;
pub mod report;
pub mod roles;
pub mod run;
pub mod scenario;
pub mod tasks;
pub mod timeline;
pub mod whole;
pub mod world;

/// A seed for one purpose, so that draws for one thing never shift those for another.
pub fn derive_seed(seed: u64, purpose: &str) -> u64 {
    let digest = Sha256::new().chain_update(seed.to_be_bytes()).chain_update(purpose).finalize();
    u64::from_be_bytes(std::array::from_fn(|i| digest[i]))
}

/// One hash for the traces of several networks of a run.
pub(crate) fn join_hashes(before: &str, next: &str) -> String {
    let digest = Sha256::new().chain_update(before).chain_update(" ").chain_update(next).finalize();
    digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The most memory this process has had resident, in MiB; 0 where the system does not tell.
pub fn peak_rss_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or(0.0) / 1024.0
}
