//! Peers that are not the node: hostile ones, one that checks nothing, one that gives nothing back.
//!
//! They speak to the node with the node's own codec and protocol names and with stock libp2p; only what they say
//! differs. Each runs as tasks of the executor it is given, draws every choice from its seed, reads no clock but
//! tokio's, and does a bounded amount of harm per simulated second (the constants in `hostile` and `steps`), so that
//! a network with hundreds of them can still be simulated.
//!
//! They are started within a tokio runtime, whose clock their timers follow.
//!
//! | file               | what it holds                                                       |
//! |--------------------|---------------------------------------------------------------------|
//! | `kind`             | names of the roles                                                  |
//! | `swarm`, `streams` | the swarm that all share; bare streams of the DHT protocol          |
//! | `hostile`, `steps` | the loop of a hostile peer; what it does without being asked        |
//! | `exchange`, `codec`| wrong answers to requests for content, and how they are written     |
//! | `deceit`, `wire`   | wrong messages in the DHT, and their bytes                          |
//! | `near`             | identities next to a key                                            |
//! | `naive`            | the peer that checks nothing                                        |
//! | `counters`         | what a hostile peer did, and how much it may do                     |

use std::fmt;

use dhtfs_node::net::Executor;
use libp2p::{
    Multiaddr, PeerId,
    core::{muxing::StreamMuxerBox, transport::Boxed},
    identity::Keypair,
};

mod codec;
mod counters;
mod deceit;
mod exchange;
mod hostile;
mod kind;
mod naive;
mod near;
mod steps;
mod streams;
mod swarm;
#[cfg(test)]
mod tests;
mod wire;

pub use self::{
    counters::HostileStats,
    exchange::{Bytes, Targets},
    hostile::{HostilePeer, start_freerider, start_hostile},
    kind::{Hostile, Key, RoleKind, RoleNameError},
    naive::{NaiveError, NaivePeer, NaiveState, start_naive},
    near::{MAX_BITS, keypair_near, shared_bits},
    swarm::RoleError,
};

/// Everything a peer is given.
pub struct PeerEnv {
    /// Identity; for a Sybil from [`keypair_near`].
    pub keypair: Keypair,
    /// Authenticated, multiplexed connections.
    pub transport: Boxed<(PeerId, StreamMuxerBox)>,
    /// Runs the peer's tasks. Dropping those is a crash of the peer.
    pub executor: Executor,
    /// Where it listens. A peer that rotates its addresses goes through them, one at a time.
    pub listen: Vec<Multiaddr>,
    /// Whom it joins through.
    pub bootstrap: Vec<Multiaddr>,
    /// Name of the network.
    pub network: String,
    /// Decides every choice.
    pub seed: u64,
}

impl fmt::Debug for PeerEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerEnv").field("peer", &self.keypair.public().to_peer_id()).finish_non_exhaustive()
    }
}
