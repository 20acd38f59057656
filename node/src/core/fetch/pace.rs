//! How many requests one peer is given at a time, and how long one may take.
//!
//! Load is counted in units of 16 KiB, so that one peer has few large or many small requests in flight. The window follows the measured rate: `rate * (shortest request time + SLACK)` is what
//! keeps a path full with little queueing. The rate of one request is what arrived from the peer between asking
//! and answer, divided by that time, so idle times do not count.

use std::time::Duration;

use super::config::FetchConfig;

/// Units of a full chunk: so many small requests weigh as much as one of 1 MiB.
pub(super) const UNITS_PER_CHUNK: u32 = 64;

/// Bytes of one unit.
const UNIT_LEN: u32 = 16 * 1024;

/// Units of the longest request that counts as small: 256 KiB. The window shrinks by as many.
const SMALL_UNITS: u32 = UNITS_PER_CHUNK / 4;

/// The smallest window: eight small requests, or one of any length.
const MIN_WINDOW: u32 = 8;

/// Queueing allowed beyond the shortest request time: lets the window grow on long paths.
const SLACK: f64 = 0.25;

/// Weight of a new sample in the smoothed values.
const WEIGHT: f64 = 0.25;

/// Growth of the remembered shortest time per sample, so that a route that became longer is noticed at last.
const MIN_TIME_DRIFT: f64 = 1.001;

/// Request time assumed before there is a sample.
const FIRST_TYPICAL: Duration = Duration::from_millis(500);

/// Class of small requests; the others are large.
const SMALL: usize = 0;

/// A first small request is late after this part of what a large one may take.
const SMALL_TIMEOUT_SHARE: u32 = 4;

/// Small and large requests take different times and are measured apart.
fn class(units: u32) -> usize {
    if is_small(units) { SMALL } else { 1 }
}

/// Whether a request of this weight counts as small.
pub(super) fn is_small(units: u32) -> bool {
    units <= SMALL_UNITS
}

/// Units that a block of this length weighs.
pub(super) fn units_of(len: u32) -> u32 {
    len.div_ceil(UNIT_LEN).clamp(1, UNITS_PER_CHUNK)
}

/// What a peer had delivered at one moment; kept with each request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Delivered {
    units: u64,
    len: u64,
}

impl Delivered {
    /// With one half of a block of this weight, which is here before the whole block is counted.
    pub(super) fn with_half(self, units: u32) -> Self {
        let units = u64::from(units / 2);
        Self { units: self.units + units, len: self.len + units * u64::from(UNIT_LEN) }
    }
}

#[derive(Debug)]
pub(super) struct Pace {
    /// Units that may be in flight.
    window: u32,
    start_window: u32,
    max_window: u32,
    delivered: Delivered,
    /// Smoothed request time in seconds, of small and of large requests.
    time: [Option<f64>; 2],
    /// Shortest request time in seconds, of both.
    min_time: [f64; 2],
    /// Smoothed units per second.
    rate: Option<f64>,
    /// Smoothed bytes per second.
    len_rate: f64,
}

impl Pace {
    pub(super) fn new(config: &FetchConfig) -> Self {
        Self {
            window: config.start_window * UNITS_PER_CHUNK,
            start_window: config.start_window * UNITS_PER_CHUNK,
            max_window: config.max_window * UNITS_PER_CHUNK,
            delivered: Delivered::default(),
            time: [None; 2],
            min_time: [f64::INFINITY; 2],
            rate: None,
            len_rate: 0.0,
        }
    }

    pub(super) fn window(&self) -> u32 {
        self.window
    }

    /// Whether there may not be a block to come behind the one that comes. A round trip passes then after each, which no
    /// rate ever shows.
    pub(super) fn is_single(&self) -> bool {
        self.window < 2 * UNITS_PER_CHUNK
    }

    pub(super) fn delivered(&self) -> Delivered {
        self.delivered
    }

    /// Smoothed bytes per second, 0 before the first block.
    pub(super) fn len_rate(&self) -> u64 {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "never negative, saturates"
        )]
        let rate = self.len_rate as u64;
        rate
    }

    /// Whether a request of this weight was ever answered with a block on this connection.
    pub(super) fn is_proven(&self, units: u32) -> bool {
        self.time[class(units)].is_some()
    }

    /// The time a request of this weight usually takes.
    pub(super) fn typical(&self, units: u32) -> Duration {
        self.time[class(units)].map_or(FIRST_TYPICAL, seconds)
    }

    /// The shortest time that a request of this weight took, if there was one.
    pub(super) fn shortest(&self, units: u32) -> Option<Duration> {
        self.is_proven(units).then(|| seconds(self.min_time[class(units)]))
    }

    /// The age at which a request of this weight is late.
    pub(super) fn timeout(&self, units: u32, config: &FetchConfig) -> Duration {
        let (min, max) = (config.min_request_timeout, config.max_request_timeout);
        match self.time[class(units)] {
            Some(time) => seconds(time * 4.0).clamp(min, max),
            None if class(units) == SMALL => (config.first_request_timeout / SMALL_TIMEOUT_SHARE).max(min),
            None => config.first_request_timeout,
        }
    }

    /// A block of `len` bytes arrived `elapsed` after it was asked; `before` was delivered then. `full` says that
    /// the window had no room for another chunk.
    pub(super) fn on_block(
        &mut self,
        elapsed: Duration,
        before: Delivered,
        units: u32,
        len: u32,
        full: bool,
    ) {
        self.delivered.units += u64::from(units);
        self.delivered.len += u64::from(len);
        let elapsed = elapsed.as_secs_f64().max(1e-6);
        let class = class(units);
        self.time[class] = Some(smooth(self.time[class], elapsed));
        self.min_time[class] = (self.min_time[class] * MIN_TIME_DRIFT).min(elapsed);
        let rate = smooth(self.rate, exact(self.delivered.units.saturating_sub(before.units)) / elapsed);
        self.rate = Some(rate);
        let len_rate = exact(self.delivered.len.saturating_sub(before.len)) / elapsed;
        self.len_rate = smooth((self.len_rate > 0.0).then_some(self.len_rate), len_rate);
        // One block on the way while one is being asked: of small ones that is little.
        let (least, margin) =
            if class == SMALL { (MIN_WINDOW, SMALL_UNITS) } else { (self.start_window, UNITS_PER_CHUNK) };
        self.follow(rate * (self.min_time[class] + SLACK), full, least, margin);
    }

    /// The peer lacks what it was asked for: no sign of its speed, but no reason to ask much at once.
    pub(super) fn on_missing(&mut self) {
        self.shrink(self.start_window);
    }

    /// The peer stalled, is overloaded, or lost requests.
    pub(super) fn on_stall(&mut self) {
        self.window = (self.window / 2).max(MIN_WINDOW);
    }

    /// A new connection says nothing about the old one's times.
    pub(super) fn on_connected(&mut self) {
        self.window = self.window.min(self.start_window);
        self.time = [None; 2];
        self.min_time = [f64::INFINITY; 2];
    }

    /// A little smaller, but not below `least`.
    fn shrink(&mut self, least: u32) {
        if self.window > least {
            self.window = self.window.saturating_sub(SMALL_UNITS).max(least);
        }
    }

    /// Moves the window towards `target`; down to `least`, if it is more than `margin` above.
    fn follow(&mut self, target: f64, full: bool, least: u32, margin: u32) {
        let window = f64::from(self.window);
        if target >= window + f64::from(SMALL_UNITS) {
            if full {
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "between 16 and 64"
                )]
                let step = (target - window).min(f64::from(UNITS_PER_CHUNK)) as u32;
                self.window = (self.window + step).min(self.max_window);
            }
        } else if target + f64::from(margin) < window {
            self.shrink(least);
        }
    }

    pub(super) fn check_invariants(&self) {
        assert!((MIN_WINDOW..=self.max_window).contains(&self.window), "window {}", self.window);
    }
}

fn smooth(old: Option<f64>, sample: f64) -> f64 {
    old.map_or(sample, |old| old + (sample - old) * WEIGHT)
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[allow(clippy::cast_precision_loss, reason = "differences stay far below 2^53")]
fn exact(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u32 = 1 << 20;

    /// Runs `rounds` blocks of 1 MiB over a path that shares `rate` bytes a second among what is in flight and
    /// adds `base` to each request; answers the window in chunks.
    fn settle(base_ms: u64, rate: u32, rounds: usize) -> u32 {
        let mut pace = Pace::new(&FetchConfig::default());
        let mut now = Duration::ZERO;
        let mut link_free = Duration::ZERO;
        let mut in_flight = std::collections::VecDeque::new();
        for _ in 0..rounds {
            while in_flight.len() < (pace.window() / UNITS_PER_CHUNK) as usize {
                let start = link_free.max(now + Duration::from_millis(base_ms));
                link_free = start + Duration::from_secs_f64(f64::from(MIB) / f64::from(rate));
                in_flight.push_back((now, link_free, pace.delivered()));
            }
            if let Some((sent, done, before)) = in_flight.pop_front() {
                now = now.max(done);
                pace.on_block(now - sent, before, UNITS_PER_CHUNK, MIB, true);
                pace.check_invariants();
            }
        }
        pace.window() / UNITS_PER_CHUNK
    }

    #[test]
    fn a_fast_path_gets_the_largest_window() {
        assert_eq!(settle(1, 500 * MIB, 200), 8);
        assert_eq!(settle(100, 100 * MIB, 200), 8);
    }

    #[test]
    fn a_slow_link_keeps_a_small_window() {
        assert!(settle(40, MIB, 200) <= 3);
        assert!(settle(40, MIB / 10, 200) <= 2);
    }

    #[test]
    fn the_timeout_follows_the_measured_time_within_its_bounds() {
        let config = FetchConfig::default();
        let mut pace = Pace::new(&config);
        assert_eq!(pace.timeout(UNITS_PER_CHUNK, &config), Duration::from_secs(20));
        assert_eq!(pace.timeout(1, &config), Duration::from_secs(5));
        pace.on_block(Duration::from_millis(10), Delivered::default(), UNITS_PER_CHUNK, MIB, true);
        assert_eq!(pace.timeout(UNITS_PER_CHUNK, &config), Duration::from_secs(2));
        assert_eq!(pace.timeout(1, &config), Duration::from_secs(5), "small ones are measured apart");
        for _ in 0..50 {
            pace.on_block(Duration::from_secs(5), pace.delivered(), UNITS_PER_CHUNK, MIB, true);
        }
        assert!(pace.timeout(UNITS_PER_CHUNK, &config) > Duration::from_secs(19));
        pace.on_block(Duration::from_secs(5000), pace.delivered(), UNITS_PER_CHUNK, MIB, true);
        assert_eq!(pace.timeout(UNITS_PER_CHUNK, &config), Duration::from_secs(64));
    }

    #[test]
    fn a_stall_halves_the_window_down_to_a_few_small_blocks() {
        let mut pace = Pace::new(&FetchConfig::default());
        pace.on_stall();
        assert_eq!(pace.window(), UNITS_PER_CHUNK);
        for _ in 0..5 {
            pace.on_stall();
        }
        assert_eq!(pace.window(), MIN_WINDOW);
    }

    #[test]
    fn few_small_blocks_are_in_flight_on_a_slow_line() {
        let mut pace = Pace::new(&FetchConfig::default());
        for _ in 0..200 {
            // 16 KiB a time at 20 KiB/s.
            pace.on_block(Duration::from_millis(800), pace.delivered(), 1, 16 << 10, true);
            pace.check_invariants();
        }
        assert!(pace.window() <= 2 * SMALL_UNITS, "{}", pace.window());
    }

    #[test]
    fn small_blocks_weigh_little() {
        let weights = [0, 1, UNIT_LEN, UNIT_LEN + 1, MIB / 4, MIB / 4 + 1, MIB].map(units_of);
        assert_eq!(weights, [1, 1, 1, 2, 16, 17, 64]);
        assert_eq!(weights.map(is_small), [true, true, true, true, true, false, false]);
    }

    #[test]
    fn many_small_blocks_are_in_flight_on_a_long_path() {
        let mut pace = Pace::new(&FetchConfig::default());
        for _ in 0..2_000 {
            // A whole window comes after each round trip.
            let before = pace.delivered();
            pace.delivered.units += u64::from(pace.window()) - 1;
            pace.on_block(Duration::from_millis(100), before, 1, 4096, true);
        }
        assert_eq!(pace.window(), 8 * UNITS_PER_CHUNK);
    }
}
