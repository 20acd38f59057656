//! Fresh keys that are no roots: sweeps of the regions that hold some, around the keyspace.

use std::time::{Duration, Instant};

use super::{SweepId, retries::Retries, schedule};
use crate::core::keyspace::{Position, Prefix};

/// How long after a pass that found nothing the next one begins, if nothing else is heard: the numbers that the
/// driver tells may be old.
const REST: Duration = Duration::from_secs(60);

/// What the passes are doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Idle,
    /// The driver searches the next fresh key.
    Finding,
    Sweeping(SweepId, Prefix),
}

/// Passes over the fresh keys, in order of position.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) state: State,
    /// The first 64 bits of where the next search begins.
    cursor: u64,
    /// Another pass follows this one at once: something was announced, or keys have come.
    another: bool,
    /// The pass has ended without anything to do; the next one begins at this time.
    rest_until: Option<Instant>,
    /// Regions that failed.
    pub(super) retries: Retries,
}

impl Fresh {
    pub(super) fn new() -> Self {
        Self { state: State::Idle, cursor: 0, another: false, rest_until: None, retries: Retries::default() }
    }

    /// Where to search the next fresh key, if that is to be done now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Position> {
        if self.state != State::Idle || self.rest_until.is_some_and(|until| until > now) {
            return None;
        }
        self.rest_until = None;
        self.state = State::Finding;
        Some(Position::from_top(self.cursor))
    }

    /// When [`next`](Self::next) has something to say again.
    pub(super) fn next_at(&self, now: Instant) -> Option<Instant> {
        (self.state == State::Idle).then(|| self.rest_until.unwrap_or(now))
    }

    /// The first fresh key from the cursor on. Answers the region to be swept, with prefixes of `len` bits, unless
    /// it waits after a failure.
    pub(super) fn on_found(&mut self, found: Option<Position>, len: u16, now: Instant) -> Option<Prefix> {
        self.state = State::Idle;
        let Some(position) = found else {
            self.wrap(now);
            return None;
        };
        if let Some(waiting) = self.retries.waiting_at(&position, now) {
            self.move_on(&waiting, now);
            return None;
        }
        Some(Prefix::of(position, len))
    }

    /// A region was swept, and so many of its keys were announced.
    pub(super) fn on_swept(&mut self, region: &Prefix, sent: u64, now: Instant) {
        self.state = State::Idle;
        self.another |= sent > 0;
        self.move_on(region, now);
    }

    /// The cursor goes on behind a region.
    fn move_on(&mut self, region: &Prefix, now: Instant) {
        let (cursor, wrapped) = schedule::after(region);
        if wrapped {
            self.wrap(now);
        } else {
            self.cursor = cursor;
        }
    }

    /// Begins a pass at once, or after the one that is under way: there are new keys, or a network again.
    pub(super) fn again(&mut self) {
        self.rest_until = None;
        self.another = true;
    }

    fn wrap(&mut self, now: Instant) {
        self.cursor = 0;
        if !std::mem::take(&mut self.another) {
            let retry = self.retries.next_at().filter(|at| *at > now);
            self.rest_until = Some(retry.map_or(now + REST, |at| at.min(now + REST)));
        }
    }
}
