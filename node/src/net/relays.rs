//! How much this node carries for others (circuit relay v2, libp2p specs/relay).

use std::{num::NonZeroU32, time::Duration};

use libp2p::{PeerId, relay};

/// What a relay gives at most. Strangers ask for it; none of it is exceeded, whatever they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayLimits {
    /// It is offered even before anybody has dialled this node.
    pub always: bool,
    /// Nodes that have a place, and can be reached through this one.
    pub max_reservations: usize,
    /// Connections carried at the same time.
    pub max_circuits: usize,
    /// Of these, of one peer.
    pub max_circuits_per_peer: usize,
    /// How long one is carried.
    pub circuit_time: Duration,
    /// How much of it, in bytes, each way.
    pub circuit_len: u64,
    /// Places and connections that one peer may ask for in an hour; twice as many from one IP address.
    pub per_hour: NonZeroU32,
}

impl RelayLimits {
    /// What a node gives beside its own work: enough for two to find a way past it, and for a small file.
    pub fn small() -> Self {
        Self {
            always: false,
            max_reservations: 128,
            max_circuits: 32,
            max_circuits_per_peer: 4,
            circuit_time: Duration::from_secs(2 * 60),
            circuit_len: 4 * 1024 * 1024,
            per_hour: NonZeroU32::MIN.saturating_add(59),
        }
    }

    /// What a node gives that is there for nothing else.
    pub fn generous() -> Self {
        Self {
            always: true,
            max_reservations: 1_024,
            max_circuits: 256,
            max_circuits_per_peer: 16,
            circuit_time: Duration::from_secs(12 * 60 * 60),
            circuit_len: 64 * 1024 * 1024 * 1024,
            per_hour: NonZeroU32::MIN.saturating_add(3_599),
        }
    }
}

/// How long a place is kept: for as long as the connection. A place that runs out while it is asked for again makes the library
/// panic, and whoever has one can bring that about by reading slowly.
const RESERVATION_TIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The behaviour that keeps to `limits`; offers nothing until it is switched on.
pub(crate) fn server(local: PeerId, limits: RelayLimits) -> relay::Behaviour {
    let each = Duration::from_secs(60 * 60) / limits.per_hour.get();
    let from_ip = limits.per_hour.saturating_mul(NonZeroU32::MIN.saturating_add(1));
    let config = relay::Config {
        max_reservations: limits.max_reservations,
        // One for each connection, of which there are three. The library refuses who has more than this already.
        max_reservations_per_peer: 2,
        reservation_duration: RESERVATION_TIME,
        reservation_rate_limiters: Vec::new(),
        max_circuits: limits.max_circuits,
        // The library refuses who has more than this already.
        max_circuits_per_peer: limits.max_circuits_per_peer.saturating_sub(1),
        max_circuit_duration: limits.circuit_time,
        max_circuit_bytes: limits.circuit_len,
        circuit_src_rate_limiters: Vec::new(),
    }
    .reservation_rate_per_peer(limits.per_hour, each)
    .reservation_rate_per_ip(from_ip, each / 2)
    .circuit_src_per_peer(limits.per_hour, each)
    .circuit_src_per_ip(from_ip, each / 2);
    let mut behaviour = relay::Behaviour::new(local, config);
    // Left to itself it is on as soon as any address is told to others, be it one of a local network.
    let status = if limits.always { relay::Status::Enable } else { relay::Status::Disable };
    behaviour.set_status(Some(status));
    behaviour
}
