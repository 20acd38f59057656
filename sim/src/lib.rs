//! Networks of real dhtfs nodes in one process, on a virtual clock, repeatable from a seed.
//!
//! The nodes are the ones that ship ([`dhtfs_node::Node`]); only what they are given from outside differs: an
//! in-memory transport with hosts and links, an in-memory disk, identities and randomness from the seed, and
//! time that jumps from event to event.
#![deny(unsafe_code)]

pub mod clock;
pub mod nat_mix;
pub mod net;
pub mod record;
