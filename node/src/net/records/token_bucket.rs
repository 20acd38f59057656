//! How fast one peer may leave records.

use std::time::Duration;

use tokio::time::Instant;

/// Lets `burst` things through at once and `rate` a second in the long run. Pure: time comes in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TokenBucket {
    left: u64,
    /// Up to when `left` has been filled.
    filled: Instant,
}

impl TokenBucket {
    /// A full one.
    pub(crate) fn full(burst: u64, now: Instant) -> Self {
        Self { left: burst, filled: now }
    }

    /// Takes one token; false if there is none.
    pub(crate) fn take(&mut self, rate: u64, burst: u64, now: Instant) -> bool {
        self.fill(rate, burst, now);
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }

    /// Adds the whole tokens that have come since; the rest of the time counts next time.
    fn fill(&mut self, rate: u64, burst: u64, now: Instant) {
        let nanos = now.saturating_duration_since(self.filled).as_nanos();
        let new = u64::try_from(nanos.saturating_mul(rate.into()) / NANOS).unwrap_or(u64::MAX);
        let left = self.left.saturating_add(new);
        if left >= burst {
            self.left = burst;
            self.filled = now;
        } else if new > 0 {
            self.left = left;
            let spent = u64::try_from(u128::from(new) * NANOS / u128::from(rate)).unwrap_or(u64::MAX);
            self.filled += Duration::from_nanos(spent);
        }
    }
}

const NANOS: u128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::{Duration, Instant, TokenBucket};

    #[tokio::test]
    async fn a_burst_goes_through_and_then_as_many_as_the_rate_allows() {
        let start = Instant::now();
        let mut bucket = TokenBucket::full(100, start);
        let mut taken = |after: Duration| (0..1_000).filter(|_| bucket.take(10, 100, start + after)).count();
        assert_eq!(taken(Duration::ZERO), 100);
        assert_eq!(taken(Duration::from_millis(50)), 0);
        assert_eq!(taken(Duration::from_millis(150)), 1, "the half token of before counts");
        assert_eq!(taken(Duration::from_millis(200)), 1);
        assert_eq!(taken(Duration::from_secs(3)), 28);
        assert_eq!(taken(Duration::from_secs(3_600)), 100, "no more than the burst is saved up");
    }

    #[tokio::test]
    async fn over_any_time_no_more_than_burst_and_rate_go_through() {
        let start = Instant::now();
        let mut bucket = TokenBucket::full(50, start);
        let mut taken = 0u64;
        for millis in 0..20_000 {
            taken += u64::from(bucket.take(7, 50, start + Duration::from_millis(millis)));
            assert!(taken <= 50 + 7 * millis / 1_000 + 1);
        }
        assert!(taken >= 50 + 7 * 19, "{taken}");
    }

    #[tokio::test]
    async fn without_limits_everything_goes_through() {
        let now = Instant::now();
        let mut bucket = TokenBucket::full(u64::MAX, now);
        assert!((0..1_000).all(|_| bucket.take(u64::MAX, u64::MAX, now)));
        let mut closed = TokenBucket::full(0, now);
        assert!(!closed.take(0, 0, now + Duration::from_secs(10)));
    }
}
