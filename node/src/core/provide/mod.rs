//! Announcing by sweep: the peers of a region are looked up once, then each is given all its keys of the region.
//!
//! Looking up every key by itself costs some 50 requests a key. A network of N peers is known completely after
//! about 0.1 N lookups, and which of its peers are closest to a key can then be computed here.
//!
//! - [`Planner`] decides which region is announced when. It knows numbers of keys, not the keys: they are in the
//!   store, in order of position.
//! - [`RegionWalk`] finds the peers of one region, [`NetworkMap`] remembers them for the sweeps that follow.
//! - [`assign()`] tells which key goes to which peers.
//! - [`Budget`] tells which chunk keys have their turn where there are too many of them.
//! - [`Withdrawals`] decides which records are taken back when, and how often that is tried.
//!
//! # One sweep
//! 1. The planner asks for a region. The driver reads the keys that are due in it from the store, page by page.
//!    With [`plain_keys`](ProvideConfig::plain_keys) or fewer it looks each up by itself, else it walks the region.
//! 2. If the walk is complete, it assigns each page to the peers in the region that was walked, sends, and marks what
//!    was taken with the time of day. Else only the keys for which [`NetworkMap::knows_closest`] holds; the others
//!    have failed.
//! 3. It reports [`Planner::on_swept`] with numbers, and the new size of the network with [`Planner::on_size`].
//!
//! Marks are what counts: a sweep that was cut off anywhere is begun again, and passes over what was marked.

mod assign;
mod budget;
mod config;
mod map;
mod planner;
mod region;
mod silent;
#[cfg(test)]
mod tests;
mod withdrawals;

pub use assign::{Assignment, MAX_WIDE, assign, wide_holders};
pub use budget::{Budget, Standing};
pub use config::ProvideConfig;
pub use map::{FoundPeer, MAP_VALIDITY, MAX_MAP_ADDRS, MAX_MAP_PEERS, MapPeer, NetworkMap};
pub use planner::{Counts, Due, Planner, ProvideAction, ProvideStats, SweepId, SweepOutcome};
pub use region::{LookupNo, RegionReport, RegionWalk, WalkAction, WalkConfig};
pub use silent::Silent;
pub use withdrawals::{WithdrawBatch, WithdrawConfig, WithdrawStats, Withdrawals};
