//! Exponential backoff with jitter, from a seed.
//!
//! The delay before attempt `n` (counted from 0) is drawn evenly from the upper half of
//! `min(base * 2^n, max)`: long enough to back off, spread enough that many waiters do not return together.

use std::time::Duration;

use rand::{Rng, RngExt as _, SeedableRng as _, rngs::StdRng};

/// How long to wait between attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffPolicy {
    /// Longest delay before the first repeat.
    pub base: Duration,
    /// Longest delay at all.
    pub max: Duration,
}

impl BackoffPolicy {
    /// A policy that starts at `base` and doubles up to `max`.
    pub const fn new(base: Duration, max: Duration) -> Self {
        Self { base, max }
    }

    /// The longest delay before attempt `attempt` (0 is the first repeat).
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let factor = 1_u32.checked_shl(attempt).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.max)
    }

    /// The delay before attempt `attempt`: between half of [`ceiling`](Self::ceiling) and all of it.
    pub fn delay(&self, attempt: u32, rng: &mut impl Rng) -> Duration {
        let ceiling = self.ceiling(attempt);
        let half = u64::try_from(ceiling.as_nanos() / 2).unwrap_or(u64::MAX / 2);
        ceiling - Duration::from_nanos(rng.random_range(0..=half))
    }
}

/// A [`BackoffPolicy`] together with the count of attempts and its own seeded randomness.
#[derive(Debug)]
pub struct Backoff {
    policy: BackoffPolicy,
    attempt: u32,
    rng: StdRng,
}

impl Backoff {
    /// Starts at the first attempt.
    pub fn new(policy: BackoffPolicy, seed: u64) -> Self {
        Self { policy, attempt: 0, rng: StdRng::seed_from_u64(seed) }
    }

    /// The delay before the next attempt; each call counts as one attempt.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.policy.delay(self.attempt, &mut self.rng);
        self.attempt = self.attempt.saturating_add(1);
        delay
    }

    /// Attempts since the start or the last [`reset`](Self::reset).
    pub fn attempts(&self) -> u32 {
        self.attempt
    }

    /// Something worked: the next delay is a first one again.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(100), Duration::from_secs(5));

    #[test]
    fn the_ceiling_doubles_up_to_the_maximum() {
        let ceilings: Vec<u128> = (0..8).map(|n| POLICY.ceiling(n).as_millis()).collect();
        assert_eq!(ceilings, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(POLICY.ceiling(u32::MAX), POLICY.max);
    }

    #[test]
    fn the_same_seed_gives_the_same_delays_and_another_seed_others() {
        let delays = |seed| {
            let mut backoff = Backoff::new(POLICY, seed);
            (0..6).map(|_| backoff.next_delay()).collect::<Vec<_>>()
        };
        assert_eq!(delays(1), delays(1));
        assert_ne!(delays(1), delays(2));
    }

    #[test]
    fn after_a_reset_the_delay_is_short_again() {
        let mut backoff = Backoff::new(POLICY, 7);
        for _ in 0..20 {
            backoff.next_delay();
        }
        assert_eq!(backoff.attempts(), 20);
        backoff.reset();
        assert!(backoff.next_delay() <= POLICY.base);
    }

    proptest! {
        #[test]
        fn a_delay_lies_in_the_upper_half_below_the_ceiling(
            base in 0_u64..u64::MAX, max in 0_u64..u64::MAX, attempt: u32, seed: u64,
        ) {
            let policy = BackoffPolicy::new(Duration::from_nanos(base), Duration::from_nanos(max));
            let delay = policy.delay(attempt, &mut StdRng::seed_from_u64(seed));
            prop_assert!(delay <= policy.ceiling(attempt));
            prop_assert!(delay >= policy.ceiling(attempt) / 2);
            prop_assert!(delay <= policy.max);
        }
    }
}
