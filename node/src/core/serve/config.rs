//! Limits of serving.

use std::time::Duration;

use crate::core::{MAX_BLOCK_LEN, MAX_LANE_WANTS};

/// Limits of serving. The defaults keep the memory of a busy seeder small and its disk queue short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeConfig {
    /// Requests of one peer that may wait; default 512, as many as fit on one lane. More are answered Busy. At
    /// least 1.
    pub max_queued_per_peer: usize,
    /// Requests of all peers that may wait; default 4,096, a few hundred bytes each. More are answered Busy; those
    /// that were taken up, and not read with others because they are too long, wait again all the same. At least 1.
    pub max_queued: usize,
    /// Bytes that may be read and not yet handed to a socket, all peers together; default 12 MiB: four blocks in
    /// flight fill a local link, so three such peers are served at full speed. At least two blocks.
    pub budget_len: u64,
    /// How long a request may wait; default 15 s. Whoever asked has asked elsewhere by then, and sending it would
    /// be waste; a fetch without any progress gives up after 30 s, so that it hears of it in time. At most one hour.
    pub max_queue_time: Duration,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            max_queued_per_peer: MAX_LANE_WANTS,
            max_queued: 4096,
            budget_len: 12 << 20,
            max_queue_time: Duration::from_secs(15),
        }
    }
}

impl ServeConfig {
    /// The same with every value inside its documented bounds.
    pub(super) fn clamped(self) -> Self {
        Self {
            max_queued_per_peer: self.max_queued_per_peer.max(1),
            max_queued: self.max_queued.max(1),
            budget_len: self.budget_len.max(2 * u64::from(MAX_BLOCK_LEN)),
            max_queue_time: self.max_queue_time.min(Duration::from_secs(3600)),
        }
    }
}
