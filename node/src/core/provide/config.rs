//! Limits and times of announcing.

use std::time::Duration;

use crate::core::backoff::BackoffPolicy;

/// Limits and times of announcing. Each default lives here once, with its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProvideConfig {
    /// Keys being announced at the same time; default 32: with hundreds at once a DHT loses records although each
    /// announcement says it went well. At least 1.
    pub max_in_flight: usize,
    /// Each key is announced again after this time, the first time between a quarter and one and a quarter of it;
    /// default 12 h, half of the 24 h that records live. Between one minute and one year.
    pub interval: Duration,
    /// Pause before a key whose announcement failed is tried again; default 5 s to 10 min.
    pub retry: BackoffPolicy,
    /// Failed keys that each wait for their own time; default 1,024. Others go back to the end of the queue.
    pub max_retries: usize,
    /// After so many failures in a row nothing is announced for a pause; default 16, half of what is in flight: the
    /// network is the cause, not a key. At least 1.
    pub max_failures: u32,
    /// That pause; default 5 s to 5 min.
    pub pause: BackoffPolicy,
    /// A routing table of this many peers knows enough of its surroundings; default 20, the number of peers that
    /// keep a record. While it is smaller, all keys are announced again whenever it has doubled, so that newcomers
    /// keep records too.
    pub settled_peers: usize,
    /// How long after such a doubling that begins; default 3 s, so that peers which join together count once.
    pub growth_delay: Duration,
    /// Most keys; default 8,388,608 (8 TiB in chunks, 400 MiB of memory). Further ones are refused and counted.
    pub max_keys: usize,
}

impl Default for ProvideConfig {
    fn default() -> Self {
        Self {
            max_in_flight: 32,
            interval: Duration::from_secs(12 * 3600),
            retry: BackoffPolicy::new(Duration::from_secs(5), Duration::from_secs(600)),
            max_retries: 1024,
            max_failures: 16,
            pause: BackoffPolicy::new(Duration::from_secs(5), Duration::from_secs(300)),
            settled_peers: 20,
            growth_delay: Duration::from_secs(3),
            max_keys: 8 << 20,
        }
    }
}

/// Shortest pause of any backoff: keeps a mistaken configuration from spinning.
const MIN_PAUSE: Duration = Duration::from_millis(10);

/// Longest duration taken from a configuration: keeps `now + duration` representable.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

impl ProvideConfig {
    /// The same with every value inside its documented bounds.
    pub(super) fn clamped(self) -> Self {
        let pause = |policy: BackoffPolicy| {
            let base = policy.base.clamp(MIN_PAUSE, MAX_DURATION);
            BackoffPolicy::new(base, policy.max.clamp(base, MAX_DURATION))
        };
        Self {
            max_in_flight: self.max_in_flight.max(1),
            interval: self.interval.clamp(Duration::from_secs(60), MAX_DURATION),
            retry: pause(self.retry),
            max_failures: self.max_failures.max(1),
            pause: pause(self.pause),
            growth_delay: self.growth_delay.min(MAX_DURATION),
            ..self
        }
    }
}
