//! Announcing by sweep: the peers of a region are looked up once, then each is given all its keys of the region.
//!
//! Looking up every key by itself costs some 50 requests a key. A network of N peers is known completely after
//! about 0.1 N lookups, and which of its peers are closest to a key can then be computed here.
//!
//! - [`RegionWalk`] finds the peers of one region, [`NetworkMap`] remembers them for the sweeps that follow.
//! - [`assign()`] tells which key goes to which peers.

mod assign;
mod map;
mod region;
#[cfg(test)]
mod tests;

pub use assign::{Assignment, MAX_WIDE, assign};
pub use map::{FoundPeer, MAP_VALIDITY, MAX_MAP_ADDRS, MAX_MAP_PEERS, MapPeer, NetworkMap};
pub use region::{LookupNo, RegionReport, RegionWalk, WalkAction, WalkConfig};
