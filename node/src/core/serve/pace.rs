//! Keeping to the limits of what is sent.
//!
//! An answer to a metered peer is read only when the limit has covered it, so that the others wait where the order is
//! decided, and not behind what is being written. Whoever writes keeps to the same limit, in pieces: at 20 KiB/s an
//! answer of 1 MiB takes 51 s, and must not come all at once at their end.

use std::{num::NonZeroU64, time::Instant};

use crate::core::{
    MAX_BLOCK_LEN,
    rate::{Bucket, Limits},
};

/// The part of a second by which an answer is read before the one before it is written, so that the line does not
/// wait for the disk.
const AHEAD: u64 = 4;

#[derive(Debug)]
pub(super) struct Pace {
    /// `None` until there is a limit.
    up: Option<Bucket>,
    per_peer: Option<NonZeroU64>,
    /// When the next answer may be read, if that is all it waits for.
    pub(super) held_until: Option<Instant>,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { up: None, per_peer: None, held_until: None }
    }

    pub(super) fn set(&mut self, limits: &Limits, now: Instant) {
        let rate = limits.up.rate();
        let burst = u64::from(MAX_BLOCK_LEN) + rate.map_or(0, |rate| rate.get() / AHEAD);
        match &mut self.up {
            Some(bucket) => bucket.set(rate, burst, now),
            none => *none = rate.map(|rate| Bucket::new(Some(rate), burst, now)),
        }
        self.per_peer = limits.up_per_peer.rate();
    }

    /// Whether any limit holds.
    pub(super) fn is_set(&self) -> bool {
        self.per_peer.is_some() || self.up.as_ref().is_some_and(|bucket| bucket.rate().is_some())
    }

    /// When a block may be read for a metered peer; `None` if now.
    pub(super) fn free_at(&mut self, now: Instant) -> Option<Instant> {
        self.up.as_mut()?.free_at(u64::from(MAX_BLOCK_LEN), now)
    }

    /// A block is read for a metered peer, as long as the longest one.
    pub(super) fn on_release(&mut self, now: Instant) {
        if let Some(bucket) = &mut self.up {
            // Its turn has come: this is asked before.
            let _ = bucket.take(u64::from(MAX_BLOCK_LEN), now);
        }
    }

    /// It has this length, of what was taken for it, or joined one for which enough was taken.
    pub(super) fn on_read(&mut self, taken: u64, len: u64, now: Instant) {
        if let Some(bucket) = &mut self.up {
            if let Some(more) = len.checked_sub(taken) {
                let _ = bucket.take(more, now);
            } else {
                bucket.give_back(taken - len, now);
            }
        }
    }

    /// It turned out to be shorter by so much.
    pub(super) fn on_shorter(&mut self, len: u64, now: Instant) {
        if let Some(bucket) = &mut self.up {
            bucket.give_back(len, now);
        }
    }

    /// How much of the budget a metered peer may hold: about what it is sent in a second.
    pub(super) fn share(&self, share: u64) -> u64 {
        let rate = self.per_peer.map_or(u64::MAX, NonZeroU64::get);
        share.min(rate.max(u64::from(MAX_BLOCK_LEN)))
    }
}
