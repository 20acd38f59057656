//! Fresh roots: each is looked up by itself at once, for without it nothing of a share is found.

use std::time::{Duration, Instant};

use rand::Rng;

use crate::core::{backoff::BackoffPolicy, keyspace::Position};

/// How long after a pass over all fresh roots the next one begins, if nothing else is heard: the numbers that the
/// driver tells may be old.
const REST: Duration = Duration::from_secs(60);

/// Passes over the fresh roots, in order of position.
#[derive(Debug)]
pub(super) struct Roots {
    cursor: Position,
    /// The driver has been asked to begin so many.
    asked: Option<usize>,
    pub(super) in_flight: usize,
    /// The pass has ended; the next one begins at this time.
    rest_until: Option<Instant>,
    /// Passes with failures, in a row.
    attempt: u32,
    failed: bool,
    /// Another pass follows this one at once: the driver may have read the roots before the newest came.
    another: bool,
}

impl Roots {
    pub(super) fn new() -> Self {
        let cursor = Position::FIRST;
        Self {
            cursor,
            asked: None,
            in_flight: 0,
            rest_until: None,
            attempt: 0,
            failed: false,
            another: false,
        }
    }

    /// Where to begin how many, if some are to be begun now.
    pub(super) fn next(&mut self, fresh: u64, max: usize, now: Instant) -> Option<(Position, usize)> {
        if self.rest_until.is_some_and(|until| until <= now) {
            self.again();
        }
        let waiting = fresh > u64::try_from(self.in_flight).unwrap_or(u64::MAX);
        if self.asked.is_some() || !waiting || self.rest_until.is_some() || self.in_flight >= max {
            return None;
        }
        self.asked = Some(max - self.in_flight);
        Some((self.cursor, max - self.in_flight))
    }

    /// When [`next`](Self::next) has something to say again.
    pub(super) fn next_at(&self, fresh: u64) -> Option<Instant> {
        let waiting = fresh > u64::try_from(self.in_flight).unwrap_or(u64::MAX);
        self.rest_until.filter(|_| waiting && self.asked.is_none())
    }

    pub(super) fn on_started(&mut self, started: usize, next: Option<Position>, now: Instant) {
        let Some(max) = self.asked.take() else { return };
        self.in_flight += started.min(max);
        match next {
            Some(next) => self.cursor = next,
            None => {
                self.cursor = Position::FIRST;
                self.rest_until = (!std::mem::take(&mut self.another)).then(|| now + REST);
            }
        }
    }

    pub(super) fn on_done(&mut self, taken: bool, policy: &BackoffPolicy, rng: &mut impl Rng, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if taken {
            self.attempt = 0;
        } else if !self.failed {
            self.failed = true;
            self.rest_until = Some(now + policy.delay(self.attempt, rng));
            self.attempt = self.attempt.saturating_add(1);
        }
    }

    /// Begins a pass at once: there are new roots, or a network again.
    pub(super) fn again(&mut self) {
        self.rest_until = None;
        self.failed = false;
        self.another |= self.asked.is_some();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use super::{Instant, Roots};

    #[test]
    fn a_root_that_comes_while_the_others_are_read_waits_for_nothing() {
        let now = Instant::now();
        let mut roots = Roots::new();
        assert_eq!(roots.next(1, 64, now).unwrap().1, 64);
        // The read that is under way may have passed it.
        roots.again();
        roots.on_started(1, None, now);
        assert_eq!(roots.next(2, 64, now).unwrap().1, 63);
        roots.on_started(0, None, now);
        assert_eq!(roots.next(2, 64, now), None, "nothing has come since");
        assert!(roots.next_at(2).is_some());
    }
}
