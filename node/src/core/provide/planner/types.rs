//! What goes in and out of the planner.

use std::time::{Duration, Instant};

use crate::core::keyspace::{Position, Prefix};

/// Names a sweep until it is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SweepId(pub(super) u64);

/// Which keys of a region have their turn, by the time of their last announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Announced before this time, in s since 1970 ..
    pub before_unix: u32,
    /// .. or after this one, which lies ahead: the clock was wrong then.
    pub after_unix: u32,
}

impl Due {
    /// Whether a key that was last announced at this time has its turn. One that was never announced (0) has not:
    /// fresh keys have sweeps of their own.
    pub fn is_due(&self, last_unix: u32) -> bool {
        last_unix != 0 && (last_unix < self.before_unix || last_unix > self.after_unix)
    }
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProvideAction {
    /// Look up this many random keys and report the size of the network: [`Planner::on_size`].
    ///
    /// [`Planner::on_size`]: super::Planner::on_size
    Measure {
        /// Lookups to make.
        lookups: u32,
    },
    /// Announce the keys of a region that are due, then report [`Planner::on_swept`](super::Planner::on_swept).
    SweepDue {
        /// Names the sweep.
        id: SweepId,
        /// Where its keys lie.
        region: Prefix,
        /// Which of them are due.
        due: Due,
        /// What the map learned before does not count.
        known_since: Instant,
    },
    /// Search the first key at or after this position that was never announced, and is no root; then report
    /// [`Planner::on_fresh_found`](super::Planner::on_fresh_found).
    FindFresh {
        /// Where to begin.
        from: Position,
    },
    /// Announce the keys of a region that were never announced, then report
    /// [`Planner::on_swept`](super::Planner::on_swept).
    SweepFresh {
        /// Names the sweep.
        id: SweepId,
        /// Where its keys lie.
        region: Prefix,
        /// What the map learned before does not count.
        known_since: Instant,
    },
    /// Begin to look up and announce the first roots at or after this position that were never announced and are
    /// not being announced, each by itself. Report [`Planner::on_roots_started`](super::Planner::on_roots_started),
    /// and of each [`Planner::on_root_done`](super::Planner::on_root_done).
    ProvideRoots {
        /// Where to begin.
        from: Position,
        /// At most so many.
        max: usize,
    },
    /// Keep this for the next start, in place of what was kept before.
    Save(Vec<u8>),
}

/// Numbers of keys in the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Keys to be announced.
    pub keys: u64,
    /// Of these, roots that were never announced.
    pub fresh_roots: u64,
    /// Of these, others that were never announced.
    pub fresh_others: u64,
    /// Keys that were refused because there are too many.
    pub refused: u64,
}

/// How a sweep ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SweepOutcome {
    /// Keys that were to be announced.
    pub keys: u64,
    /// Of these, taken by at least one peer, and marked.
    pub sent: u64,
    /// Of these, not: they are tried again.
    pub failed: u64,
}

/// What is announced and what is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProvideStats {
    /// Keys to be announced.
    pub keys: u64,
    /// Of these, announced and not due again. The other numbers of keys are apart from this one.
    pub announced: u64,
    /// Not announced, or due again: those that are under way and those that wait after a failure included.
    pub pending: u64,
    /// Roots that are being announced right now, each by itself.
    pub roots_in_flight: usize,
    /// Waiting after a failure.
    pub failing: u64,
    /// Attempts that failed since the start.
    pub failed: u64,
    /// Attempts that succeeded since the start.
    pub provided: u64,
    /// Keys refused because there are too many.
    pub refused: u64,
    /// Peers in the network, as estimated; 0 if that is not known.
    pub size: u64,
    /// Where the next region begins: the first 64 bits of its position.
    pub cursor: u64,
    /// When it is due, in s since 1970; in the past if announcing is late.
    pub next_region_unix: u64,
    /// How late announcing is.
    pub late: Duration,
    /// When the whole keyspace was last announced, in s since 1970; 0 if never.
    pub last_cycle_unix: u64,
}
