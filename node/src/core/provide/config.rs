//! Limits and times of announcing.

use std::time::Duration;

use crate::core::backoff::BackoffPolicy;

/// Limits and times of announcing. Each default lives here once, with its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProvideConfig {
    /// Each key is announced again after this time; default 12 h. Always half of what
    /// records live: one announcement may fail. Between one
    /// minute and one year.
    pub interval: Duration,
    /// Fresh roots being looked up at the same time; default 64: with hundreds at once a DHT loses records although
    /// each announcement says it went well. At least 1.
    pub max_roots_in_flight: usize,
    /// Peers in one region; default 40, up to twice as many: a few lookups find them, and they hold all records of
    /// the region's keys. At least 20, or regions are wider than they seem.
    pub min_region_peers: u64,
    /// Keys announced in one step; default 4,096, up to twice as many: in a network of one region a million keys are spread over the
    /// interval in steps. At least 1.
    pub max_step_keys: u64,
    /// Own keys of which all are announced in each interval; default 1,000,000. Of more of them only so many chunks are
    /// announced again, the least replicated first: more is much traffic, and other nodes keep no more of one. At least 1.
    pub max_keys: u64,
    /// A region with so many keys to announce or fewer is not walked: each is looked up by itself; default 2.
    pub plain_keys: usize,
    /// After an absence the whole keyspace is caught up with in this time; default 1 h ..
    pub catch_up: Duration,
    /// .. or at so many keys a second, whatever is faster; default 100. At least 1.
    pub catch_up_keys: u64,
    /// Lookups that judge the size of an unknown network; default 4.
    pub size_lookups: u32,
    /// Pause before a region or roots that failed are tried again; default 5 s to 10 min.
    pub retry: BackoffPolicy,
    /// Failed regions that each wait for their own time; default 64. With more of them no new region is begun. At
    /// most 1,024.
    pub max_retries: usize,
    /// After so many failures in a row nothing is announced for a pause; default 16: the network is the cause, not
    /// a region. At least 1.
    pub max_failures: u32,
    /// That pause; default 5 s to 5 min.
    pub pause: BackoffPolicy,
    /// A routing table of this many peers knows enough of its surroundings; default 20, the number of peers that
    /// keep a record. While it is smaller, all keys are announced again whenever it has doubled, so that newcomers
    /// keep records too.
    pub settled_peers: usize,
    /// How long after such a doubling that begins; default 3 s, so that peers which join together count once.
    pub growth_delay: Duration,
}

impl Default for ProvideConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(12 * 3600),
            max_roots_in_flight: 64,
            min_region_peers: 40,
            max_step_keys: 4096,
            max_keys: 1_000_000,
            plain_keys: 2,
            catch_up: Duration::from_secs(3600),
            catch_up_keys: 100,
            size_lookups: 4,
            retry: BackoffPolicy::new(Duration::from_secs(5), Duration::from_secs(600)),
            max_retries: 64,
            max_failures: 16,
            pause: BackoffPolicy::new(Duration::from_secs(5), Duration::from_secs(300)),
            settled_peers: 20,
            growth_delay: Duration::from_secs(3),
        }
    }
}

/// Shortest pause of any backoff: keeps a mistaken configuration from spinning.
const MIN_PAUSE: Duration = Duration::from_millis(10);

/// Longest duration taken from a configuration: keeps `now + duration` representable.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// Most failed regions: the saved schedule stays a few kilobytes.
const MAX_RETRIES: usize = 1024;

impl ProvideConfig {
    /// The same with every value inside its documented bounds.
    pub(super) fn clamped(self) -> Self {
        let pause = |policy: BackoffPolicy| {
            let base = policy.base.clamp(MIN_PAUSE, MAX_DURATION);
            BackoffPolicy::new(base, policy.max.clamp(base, MAX_DURATION))
        };
        let interval = self.interval.clamp(Duration::from_secs(60), MAX_DURATION);
        Self {
            interval,
            max_roots_in_flight: self.max_roots_in_flight.max(1),
            min_region_peers: self.min_region_peers.max(20),
            max_step_keys: self.max_step_keys.max(1),
            max_keys: self.max_keys.max(1),
            catch_up: self.catch_up.min(interval),
            catch_up_keys: self.catch_up_keys.max(1),
            retry: pause(self.retry),
            max_retries: self.max_retries.clamp(1, MAX_RETRIES),
            max_failures: self.max_failures.max(1),
            pause: pause(self.pause),
            growth_delay: self.growth_delay.min(MAX_DURATION),
            ..self
        }
    }
}
