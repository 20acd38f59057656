//! A token bucket that hands out turns.

use std::{
    num::NonZeroU64,
    time::{Duration, Instant},
};

const NANOS: u128 = 1_000_000_000;

/// Lets bytes through at a rate, with a burst of bounded length after a pause.
///
/// Whoever wants to move bytes takes them at once and is given a [`Turn`]: its place in the order of all bytes ever
/// taken. The turn comes when the rate has covered that place, so that turns come in the order in which they were
/// taken, nobody can be overtaken, and one that is given up costs no more than its bytes. When the rate changes, every
/// turn that has not come moves with it.
///
/// # Invariants
/// - The bytes of all turns that have come are never more than what the rate has covered so far plus the burst; so no
///   more than `rate * t + burst` move in any time `t` by those who move them when their turn comes.
/// - Nothing is covered before it is taken: a pause of any length is worth one burst.
///
/// Whole numbers only. Exact to a billionth of a byte; no clock, `now` comes in.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// Bytes a second; `None`: no limit.
    rate: Option<NonZeroU64>,
    burst: u64,
    /// Bytes taken since the start.
    taken: u64,
    /// Bytes of these that the rate has covered.
    covered: u64,
    /// Billionths of the next one.
    part: u128,
    /// Up to when.
    at: Instant,
}

/// A place in the order of the bytes of a [`Bucket`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[must_use]
pub struct Turn(u64);

impl Bucket {
    /// A bucket of which nothing was taken: the first burst goes through at once.
    pub fn new(rate: Option<NonZeroU64>, burst: u64, now: Instant) -> Self {
        Self { rate, burst, taken: 0, covered: 0, part: 0, at: now }
    }

    /// Another rate and burst from now on.
    pub fn set(&mut self, rate: Option<NonZeroU64>, burst: u64, now: Instant) {
        self.cover(now);
        self.rate = rate;
        self.burst = burst;
        self.cover(now);
    }

    /// Bytes a second; `None` is no limit.
    pub fn rate(&self) -> Option<NonZeroU64> {
        self.rate
    }

    /// Takes `len` bytes. They may go when their turn [has come](Self::comes_at).
    pub fn take(&mut self, len: u64, now: Instant) -> Turn {
        self.cover(now);
        self.taken = self.taken.saturating_add(len);
        if self.rate.is_none() {
            self.covered = self.taken;
        }
        Turn(self.taken)
    }

    /// Gives bytes back that were taken last and will not go: later ones come sooner. Those that the rate has covered
    /// already stay taken.
    pub fn give_back(&mut self, len: u64, now: Instant) {
        self.cover(now);
        self.taken = self.taken.saturating_sub(len).max(self.covered);
    }

    /// When `len` more bytes could go if they were taken now; `None` if at once.
    pub fn free_at(&mut self, len: u64, now: Instant) -> Option<Instant> {
        self.cover(now);
        self.comes_at(Turn(self.taken.saturating_add(len)), now)
    }

    /// When a turn comes, if nothing changes; `None` if it has come.
    pub fn comes_at(&mut self, turn: Turn, now: Instant) -> Option<Instant> {
        self.cover(now);
        let rate = self.rate?;
        let missing = turn.0.saturating_sub(self.burst).checked_sub(self.covered).filter(|len| *len > 0)?;
        let parts = u128::from(missing) * NANOS - self.part;
        let nanos = parts.div_ceil(u128::from(rate.get()));
        let wait = u64::try_from(nanos).map_or(FAR, Duration::from_nanos).min(FAR);
        Some(self.at.max(now) + wait)
    }

    /// Whether everything that was taken is covered: nothing would change if the bucket were made anew.
    pub fn is_idle(&mut self, now: Instant) -> bool {
        self.cover(now);
        self.covered == self.taken
    }

    /// Counts the time since the last call.
    fn cover(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_nanos();
        self.at = self.at.max(now);
        let waiting = self.taken - self.covered;
        let Some(rate) = self.rate else {
            (self.covered, self.part) = (self.taken, 0);
            return;
        };
        // Far more than anybody waits for, and the product still fits.
        let parts = elapsed.min(u128::from(u64::MAX)) * u128::from(rate.get()) + self.part;
        let whole = u64::try_from(parts / NANOS).unwrap_or(u64::MAX);
        if whole >= waiting {
            (self.covered, self.part) = (self.taken, 0);
        } else {
            self.covered += whole;
            self.part = parts % NANOS;
        }
    }
}

/// Further than that no turn is told to come: an hour. Whoever waits then looks again.
const FAR: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]
    #![allow(clippy::disallowed_methods, reason = "virtual time has to begin at some instant")]

    use proptest::prelude::*;

    use super::*;

    fn rate(rate: u64) -> Option<NonZeroU64> {
        NonZeroU64::new(rate)
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_in_order_at_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(100), 50, start);
        let turns: Vec<Turn> = (0..4).map(|_| bucket.take(25, start)).collect();
        let waits: Vec<u128> = turns
            .into_iter()
            .map(|turn| bucket.comes_at(turn, start).map_or(0, |at| (at - start).as_millis()))
            .collect();
        assert_eq!(waits, [0, 0, 250, 500]);
    }

    #[test]
    fn what_is_longer_than_the_burst_waits_until_it_is_covered() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(100), 50, start);
        let turn = bucket.take(250, start);
        assert_eq!(bucket.comes_at(turn, start), Some(start + Duration::from_secs(2)));
        assert_eq!(bucket.comes_at(turn, start + Duration::from_secs(2)), None);
    }

    #[test]
    fn a_pause_is_worth_one_burst_however_long() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(100), 50, start);
        let first = bucket.take(50, start);
        assert_eq!(bucket.comes_at(first, start), None);
        let later = start + Duration::from_secs(86_400);
        assert!(bucket.is_idle(later));
        assert_eq!(bucket.free_at(50, later), None);
        assert_eq!(bucket.free_at(51, later), Some(later + Duration::from_millis(10)));
    }

    #[test]
    fn a_change_of_the_rate_moves_those_who_wait() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(10), 0, start);
        let turn = bucket.take(100, start);
        assert_eq!(bucket.comes_at(turn, start), Some(start + Duration::from_secs(10)));
        let now = start + Duration::from_secs(5);
        bucket.set(rate(100), 0, now);
        assert_eq!(bucket.comes_at(turn, now), Some(now + Duration::from_millis(500)), "half was covered");
        bucket.set(None, 0, now);
        assert_eq!(bucket.comes_at(turn, now), None, "without a limit all may go");
        bucket.set(rate(1), 0, now);
        assert_eq!(bucket.free_at(1, now), Some(now + Duration::from_secs(1)), "and a new one begins anew");
    }

    #[test]
    fn what_is_given_back_is_there_for_the_next() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(10), 100, start);
        let _ = bucket.take(100, start);
        assert_eq!(bucket.free_at(10, start), Some(start + Duration::from_secs(1)));
        bucket.give_back(100, start);
        assert_eq!(bucket.free_at(100, start), None);
        bucket.give_back(1_000, start);
        assert_eq!(
            bucket.free_at(101, start),
            Some(start + Duration::from_millis(100)),
            "no more than was taken"
        );
    }

    #[test]
    fn the_largest_numbers_do_no_harm() {
        let start = Instant::now();
        let mut bucket = Bucket::new(rate(u64::MAX), u64::MAX, start);
        let turn = bucket.take(u64::MAX, start);
        assert_eq!(bucket.comes_at(turn, start), None);
        let mut slow = Bucket::new(rate(1), 0, start);
        let turn = slow.take(u64::MAX, start);
        assert_eq!(slow.comes_at(turn, start), Some(start + FAR));
        slow.set(rate(u64::MAX), 0, start);
        assert!(slow.comes_at(turn, start).unwrap() <= start + Duration::from_secs(1));
    }

    /// What happens next: after so many microseconds so many bytes are taken, or the rate becomes another.
    #[derive(Debug, Clone)]
    enum Step {
        Take(u64, u64),
        Change(u64, u64, u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let take = (0_u64..300_000, 1_u64..200_000).prop_map(|(after, len)| Step::Take(after, len));
        let change = (0_u64..300_000, 1_u64..3_000_000, 0_u64..300_000)
            .prop_map(|(after, rate, burst)| Step::Change(after, rate, burst));
        prop::collection::vec(prop_oneof![8 => take, 1 => change], 1..80)
    }

    /// At so many nanoseconds so many bytes.
    type Moved = (u64, u64);

    /// Moves bytes as soon as their turn comes, and tells what moved when; with what the rate was from when on.
    fn moved(first: u64, burst: u64, steps: &[Step]) -> (Vec<Moved>, Vec<(u64, u64, u64)>) {
        let start = Instant::now();
        let at = |nanos: u64| start + Duration::from_nanos(nanos);
        let mut bucket = Bucket::new(rate(first), burst, start);
        let (mut now, mut moved, mut rates) = (0, Vec::new(), vec![(0, first, burst)]);
        let mut waiting = std::collections::VecDeque::new();
        let mut run = |bucket: &mut Bucket,
                       from: u64,
                       to: u64,
                       waiting: &mut std::collections::VecDeque<(Turn, u64)>| {
            let mut now = from;
            while let Some((turn, len)) = waiting.front().copied() {
                match bucket.comes_at(turn, at(now)) {
                    None => {
                        moved.push((now, len));
                        waiting.pop_front();
                    }
                    Some(next) => {
                        now = u64::try_from((next - start).as_nanos()).unwrap();
                        if now > to {
                            break;
                        }
                    }
                }
            }
        };
        for step in steps {
            let (Step::Take(after, _) | Step::Change(after, ..)) = step;
            let next = now + after * 1000;
            run(&mut bucket, now, next, &mut waiting);
            now = next;
            match step {
                Step::Take(_, len) => waiting.push_back((bucket.take(*len, at(now)), *len)),
                Step::Change(_, new, burst) => {
                    bucket.set(rate(*new), *burst, at(now));
                    rates.push((now, *new, *burst));
                }
            }
            run(&mut bucket, now, now, &mut waiting);
        }
        run(&mut bucket, now, u64::MAX, &mut waiting);
        assert!(waiting.is_empty(), "every turn comes");
        (moved, rates)
    }

    proptest! {
        #[test]
        fn in_no_time_more_moves_than_rate_and_burst_allow(
            first in 1_u64..3_000_000,
            burst in 0_u64..300_000,
            steps in steps(),
        ) {
            let (moved, rates) = moved(first, burst, &steps);
            let burst = rates.iter().map(|(_, _, burst)| *burst).max().unwrap();
            for (place, (from, _)) in moved.iter().enumerate() {
                let mut sum = 0_u128;
                for (to, len) in &moved[place..] {
                    sum += u128::from(*len);
                    let allowed: u128 = rates
                        .iter()
                        .enumerate()
                        .map(|(n, (since, rate, _))| {
                            let until = rates.get(n + 1).map_or(u64::MAX, |(next, ..)| *next);
                            let time = until.min(*to).saturating_sub(*since.max(from));
                            u128::from(time) * u128::from(*rate)
                        })
                        .sum();
                    let longest = u128::from(moved[place].1);
                    // What moves first may have waited for its whole length before.
                    prop_assert!(sum * NANOS <= allowed + (u128::from(burst) + longest + 1) * NANOS);
                }
            }
        }

        #[test]
        fn from_the_start_on_no_more_moves_than_rate_and_burst_allow(
            first in 1_u64..3_000_000,
            burst in 0_u64..300_000,
            lens in prop::collection::vec((0_u64..300_000, 1_u64..500_000), 1..60),
        ) {
            let steps: Vec<Step> = lens.into_iter().map(|(after, len)| Step::Take(after, len)).collect();
            let (moved, _) = moved(first, burst, &steps);
            let mut sum = 0_u128;
            for (at, len) in moved {
                sum += u128::from(len);
                prop_assert!(sum * NANOS <= u128::from(at) * u128::from(first) + u128::from(burst) * NANOS);
            }
        }

        #[test]
        fn who_always_waits_gets_the_whole_rate(
            first in 1_000_u64..3_000_000,
            burst in 0_u64..300_000,
            lens in prop::collection::vec(1_u64..200_000, 1..60),
        ) {
            let steps: Vec<Step> = lens.iter().map(|len| Step::Take(0, *len)).collect();
            let (moved, _) = moved(first, burst, &steps);
            let (end, _) = moved.last().unwrap();
            let total: u64 = lens.iter().sum();
            let needed = u128::from(total.saturating_sub(burst)) * NANOS / u128::from(first);
            prop_assert!(u128::from(*end) <= needed + 1, "{end} of {needed}");
        }
    }
}
