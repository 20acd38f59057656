//! How fast a transfer is: the mean over the last seconds, so that it follows a change and does not tremble.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// The mean is taken over this much time.
const WINDOW: Duration = Duration::from_secs(10);

/// Positions are remembered this far apart, so there are at most 22 of them.
const SAMPLE_EVERY: Duration = Duration::from_millis(500);

/// Nothing is said about a speed that was watched for less than this.
const MIN_WATCHED: Duration = Duration::from_millis(200);

/// Positions of the last ten seconds.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    samples: VecDeque<(Instant, u64)>,
    newest: u64,
}

impl Meter {
    /// So many bytes are there now.
    pub fn record(&mut self, len: u64, now: Instant) {
        self.newest = len;
        let is_due = |(at, _): &(Instant, u64)| now.saturating_duration_since(*at) >= SAMPLE_EVERY;
        if self.samples.back().is_none_or(is_due) {
            self.samples.push_back((now, len));
        }
        // One older than the window stays: the mean reaches back at least that far.
        let is_old = |(at, _): &(Instant, u64)| now.saturating_duration_since(*at) >= WINDOW;
        while self.samples.get(1).is_some_and(is_old) {
            self.samples.pop_front();
        }
    }

    /// The transfer stands still on purpose, or begins anew.
    pub fn reset(&mut self) {
        self.samples.clear();
    }

    /// Bytes a second; `None` as long as nothing can be said.
    pub fn speed(&self, now: Instant) -> Option<f64> {
        let in_window = |(at, _): &&(Instant, u64)| now.saturating_duration_since(*at) <= WINDOW;
        // When nothing was recorded for longer than that, nothing came.
        let (then, from) = self.samples.iter().find(in_window).or(self.samples.back())?;
        let watched = now.saturating_duration_since(*then);
        if watched < MIN_WATCHED {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "a speed is shown with three digits")]
        let moved = self.newest.saturating_sub(*from) as f64;
        Some(moved / watched.as_secs_f64())
    }

    /// Time left for so many bytes at this speed; `None` if there is no telling.
    pub fn left(&self, missing_len: u64, now: Instant) -> Option<Duration> {
        let speed = self.speed(now).filter(|speed| *speed > 0.0)?;
        #[expect(clippy::cast_precision_loss, reason = "a time left is shown with two digits")]
        let missing = missing_len as f64;
        Duration::try_from_secs_f64(missing / speed).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Positions at whole tenths of a second; with the time of the last.
    fn meter(positions: impl IntoIterator<Item = u64>) -> (Meter, Instant) {
        let begin = Instant::now();
        let (mut meter, mut now) = (Meter::default(), begin);
        for (tenths, position) in (0..).zip(positions) {
            now = begin + Duration::from_millis(tenths * 100);
            meter.record(position, now);
        }
        (meter, now)
    }

    #[test]
    fn nothing_is_said_before_something_is_known() {
        let (meter, now) = meter([7, 107]);
        assert_eq!((meter.speed(now), meter.left(1, now)), (None, None));
        assert_eq!(Meter::default().speed(now), None);
    }

    #[test]
    fn what_was_there_at_the_beginning_is_no_speed_and_a_change_is_seen_after_the_window() {
        let slow = (0..300).map(|n| 1_000_000 + n * 10);
        let fast = (1..=110).map(|n| 1_002_990 + n * 1_000);
        let (meter, now) = meter(slow.chain(fast));
        assert!(meter.samples.len() <= 22, "{}", meter.samples.len());
        assert!(
            meter.speed(now).is_some_and(|speed| (speed - 10_000.0).abs() < 1.0),
            "{:?}",
            meter.speed(now)
        );
        let left = meter.left(100_000, now).map(|left| left.as_secs_f64().round());
        assert_eq!(left, Some(10.0));
    }

    #[test]
    fn what_stands_still_gets_slower_and_tells_no_time_left() {
        let (mut meter, now) = meter((0..50).map(|n| n * 1_000));
        let speeds: Vec<f64> =
            (0..12).filter_map(|secs| meter.speed(now + Duration::from_secs(secs))).collect();
        assert!(speeds.windows(2).all(|pair| pair[1] < pair[0] || pair[1] == 0.0), "{speeds:?}");
        meter.reset();
        meter.record(50_000, now);
        let later = now + Duration::from_secs(60);
        assert_eq!((meter.speed(later), meter.left(1, later)), (Some(0.0), None));
    }
}
