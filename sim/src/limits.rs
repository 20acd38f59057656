//! The limits that simulated nodes run with.

use dhtfs_node::net::NetLimits;

/// The node's own limits, but for a sixteenth of the provider records: a thousand nodes share one machine's memory, and
/// a flood of a few minutes must be able to fill a store. For the same reason a peer may leave more records a second in kad
/// messages than outside.
pub fn node_limits() -> NetLimits {
    NetLimits {
        max_foreign_records: 65_536,
        max_records_per_provider: 32_768,
        max_records_per_group: 65_536,
        kad_record_rate: 128,
        ..NetLimits::default()
    }
}
