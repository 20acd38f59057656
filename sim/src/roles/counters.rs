//! What a hostile peer did, and how much it may do in a second.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

/// What a hostile peer did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct HostileStats {
    /// Announcements of targets that ended; each target is announced again and again.
    pub announced: u64,
    /// Requests for content that were received.
    pub requests: u64,
    /// Bytes written in answers to them.
    pub bytes_sent: u64,
    /// Requests left without an answer.
    pub ignored: u64,
    /// Provider records written past the stock implementation, forged ones included.
    pub records_sent: u64,
    /// Of these, records in the name of another peer.
    pub records_forged: u64,
    /// Records of others received and thrown away.
    pub records_swallowed: u64,
    /// DHT questions answered with what suits the attacker.
    pub questions_misled: u64,
    /// Addresses named that lead nowhere or to somebody else.
    pub addrs_told: u64,
    /// What the limits per second held back.
    pub held_back: u64,
}

macro_rules! counters {
    ($($name:ident),+) => {
        /// The counters behind [`HostileStats`], shared by the tasks of one peer.
        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $(pub(super) $name: AtomicU64,)+
        }

        impl Counters {
            /// A copy.
            pub(super) fn snapshot(&self) -> HostileStats {
                HostileStats { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

counters!(
    announced,
    requests,
    bytes_sent,
    ignored,
    records_sent,
    records_forged,
    records_swallowed,
    questions_misled,
    addrs_told,
    held_back
);

/// Adds `n` to a counter.
pub(super) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(u64::try_from(n).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// So much of something may be done per second of simulated time, and no more: an attacker without bounds would
/// only measure the machine that simulates it.
#[derive(Debug)]
pub(super) struct Budget {
    per_sec: usize,
    state: Mutex<(Instant, usize)>,
}

impl Budget {
    /// A budget that begins now.
    pub(super) fn new(per_sec: usize) -> Self {
        Self { per_sec, state: Mutex::new((Instant::now(), per_sec)) }
    }

    /// Takes up to `n`; returns how much was left of the current second.
    pub(super) fn take(&self, n: usize) -> usize {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now.duration_since(state.0) >= Duration::from_secs(1) {
            *state = (now, self.per_sec);
        }
        let taken = n.min(state.1);
        state.1 -= taken;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, Duration};

    #[tokio::test(start_paused = true)]
    async fn a_budget_is_full_again_after_a_second() {
        let budget = Budget::new(10);
        assert_eq!(budget.take(7), 7);
        assert_eq!(budget.take(7), 3);
        assert_eq!(budget.take(1), 0);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(budget.take(20), 10);
    }
}
