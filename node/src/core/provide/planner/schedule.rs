//! The cursor that runs through the keyspace once in every interval, and the clock that it follows.

use std::time::{Duration, Instant};

use crate::core::keyspace::{Position, Prefix};

/// Steps of the clock up to this are drift; larger ones mean that the machine slept or somebody set the clock.
const MAX_DRIFT_MS: i64 = 60_000;

/// Regions and steps are never narrower than this.
pub(super) const MAX_REGION_LEN: u16 = 32;

/// The time of day as the driver tells it, continued with the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    at: Instant,
    unix_ms: i64,
}

impl Clock {
    pub(super) fn new(unix: u64, now: Instant) -> Self {
        Self { at: now, unix_ms: i64::try_from(unix.min(u64::from(u32::MAX)) * 1000).unwrap_or(i64::MAX) }
    }

    /// Milliseconds since 1970.
    pub(super) fn ms(&self, now: Instant) -> i64 {
        self.unix_ms.saturating_add(whole_ms(now.saturating_duration_since(self.at)))
    }

    /// Seconds since 1970, not before `ms` = 1000, for 0 means never.
    pub(super) fn unix(ms: i64) -> u32 {
        u32::try_from(ms.max(1000) / 1000).unwrap_or(u32::MAX)
    }

    /// When it is `ms`; what is past is past.
    pub(super) fn instant(&self, ms: i64) -> Instant {
        self.at + Duration::from_millis(u64::try_from(ms.saturating_sub(self.unix_ms)).unwrap_or(0))
    }
}

/// Whole milliseconds.
pub(super) fn whole_ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Where the cursor is, and when it is due there.
///
/// A position has its turn at the same share of every interval as it lies in the keyspace. The cursor may be behind
/// that, by one interval at most: turns that were missed altogether are not made up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Schedule {
    /// Everything before it has had its turn in this lap: the first 64 bits of a position.
    pub(super) cursor: u64,
    /// When the first position of this lap has its turn, in ms since 1970.
    pub(super) lap_ms: i64,
    pub(super) interval_ms: i64,
    /// When the last lap ended, in s since 1970; 0 if none has.
    pub(super) last_cycle: u64,
}

impl Schedule {
    /// A schedule whose cursor has its turn at `due_ms`.
    pub(super) fn new(cursor: u64, due_ms: i64, interval: Duration) -> Self {
        let mut schedule = Self { cursor, lap_ms: 0, interval_ms: whole_ms(interval).max(1), last_cycle: 0 };
        schedule.shift(due_ms - schedule.due_ms());
        schedule
    }

    /// When the cursor is due where it is.
    pub(super) fn due_ms(&self) -> i64 {
        self.lap_ms + share(self.cursor, self.interval_ms)
    }

    /// How far behind it is.
    pub(super) fn late(&self, now_ms: i64) -> Duration {
        Duration::from_millis(u64::try_from(now_ms - self.due_ms()).unwrap_or(0))
    }

    /// How many of so many keys have their turn in such a time.
    pub(super) fn share_of(&self, keys: u64, time: Duration) -> u64 {
        let interval = u128::try_from(self.interval_ms).unwrap_or(1);
        u64::try_from(u128::from(keys) * time.as_millis() / interval).unwrap_or(keys)
    }

    /// The region at the cursor with prefixes of `len` bits, or longer ones until the cursor is at the start of
    /// one.
    pub(super) fn region(&self, len: u16) -> Prefix {
        region_at(self.cursor, len)
    }

    /// The region at the cursor has had its turn.
    pub(super) fn advance(&mut self, region: &Prefix, now_ms: i64) {
        let (next, wrapped) = after(region);
        self.cursor = next;
        if wrapped {
            self.lap_ms += self.interval_ms;
            self.last_cycle = u64::from(Clock::unix(now_ms));
        }
    }

    /// There is nothing to announce: the cursor is where it should be, at the start of a region.
    pub(super) fn skip(&mut self, len: u16, now_ms: i64) {
        let behind_ms = now_ms - self.lap_ms;
        self.lap_ms += behind_ms.div_euclid(self.interval_ms) * self.interval_ms;
        let passed = u128::try_from(behind_ms.rem_euclid(self.interval_ms)).unwrap_or(0);
        let interval = u128::try_from(self.interval_ms).unwrap_or(1);
        let cursor = u64::try_from((passed << 64) / interval).unwrap_or(0);
        self.cursor = Prefix::of(Position::from_top(cursor), len.min(MAX_REGION_LEN)).first().top();
    }

    /// The clock was corrected from `before_ms` to `now_ms`. Backwards moves the schedule with it, or everything
    /// would wait; forwards is time that has passed, such as a night in which the machine slept.
    pub(super) fn on_step(&mut self, before_ms: i64, now_ms: i64) {
        if now_ms < before_ms - MAX_DRIFT_MS {
            self.shift(now_ms - before_ms);
        }
        self.clamp(now_ms);
    }

    /// At most an interval behind, and never waiting for longer than one, whatever clocks have said.
    pub(super) fn clamp(&mut self, now_ms: i64) {
        let due_ms = self.due_ms();
        self.shift(due_ms.clamp(now_ms - self.interval_ms, now_ms + self.interval_ms) - due_ms);
    }

    fn shift(&mut self, by_ms: i64) {
        self.lap_ms += by_ms;
    }
}

/// The part of `whole_ms` that lies before a position.
fn share(position: u64, whole_ms: i64) -> i64 {
    let whole = u128::try_from(whole_ms).unwrap_or(0);
    i64::try_from((u128::from(position) * whole) >> 64).unwrap_or(i64::MAX)
}

/// The widest prefix that begins at `cursor` and has at least `len` bits.
pub(super) fn region_at(cursor: u64, len: u16) -> Prefix {
    let aligned = if cursor == 0 { 0 } else { 64 - u16::try_from(cursor.trailing_zeros()).unwrap_or(0) };
    Prefix::of(Position::from_top(cursor), len.min(MAX_REGION_LEN).max(aligned))
}

/// Where the keyspace goes on after a region, and whether that is its beginning again.
pub(super) fn after(region: &Prefix) -> (u64, bool) {
    region.last().top().overflowing_add(1)
}

/// How much of the keyspace a region is, in 1/2^64.
pub(super) fn width(region: &Prefix) -> u128 {
    (1_u128 << 64) >> region.bit_len().min(64)
}
