//! How fast something moves right now: the mean over the last seconds, so that a bar tells the truth soon after
//! the speed has changed and does not tremble.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

use indicatif::{ProgressState, style::ProgressTracker};

use crate::format;

/// The mean is taken over this much time.
const WINDOW: Duration = Duration::from_secs(3);

/// Positions are remembered this far apart, so there are at most 31 of them.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

/// Nothing is said about a speed that was watched for less than this.
const MIN_WATCHED: Duration = Duration::from_millis(200);

/// Width of the time left, so that what stands beside it stays where it is.
const LEFT_CHARS: usize = 8;

/// Positions of the last [`WINDOW`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Pace {
    samples: VecDeque<(Instant, u64)>,
    newest: Option<(Instant, u64)>,
}

impl Pace {
    fn record(&mut self, position: u64, now: Instant) {
        self.newest = Some((now, position));
        let is_due = self.samples.back().is_none_or(|(at, _)| now.duration_since(*at) >= SAMPLE_EVERY);
        if is_due {
            self.samples.push_back((now, position));
        }
        // One older than the window stays: the mean reaches back at least that far.
        while self.samples.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Bytes a second; `None` as long as nothing can be said.
    fn speed(&self) -> Option<f64> {
        let ((then, from), (now, to)) = (self.samples.front()?, self.newest.as_ref()?);
        let watched = now.duration_since(*then);
        if watched < MIN_WATCHED {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "a speed is shown with three digits")]
        let moved = to.saturating_sub(*from) as f64;
        Some(moved / watched.as_secs_f64())
    }

    /// Time left at this speed; `None` if there is no telling.
    fn left(&self, total: u64) -> Option<Duration> {
        let (_, position) = self.newest?;
        #[expect(clippy::cast_precision_loss, reason = "a time left is shown with two digits")]
        let missing = total.saturating_sub(position) as f64;
        Duration::try_from_secs_f64(missing / self.speed()?).ok()
    }
}

impl ProgressTracker for Pace {
    fn clone_box(&self) -> Box<dyn ProgressTracker> {
        Box::new(self.clone())
    }

    fn tick(&mut self, state: &ProgressState, now: Instant) {
        self.record(state.pos(), now);
    }

    fn reset(&mut self, _state: &ProgressState, _now: Instant) {
        *self = Self::default();
    }

    fn write(&self, state: &ProgressState, out: &mut dyn fmt::Write) {
        let speed = self.speed().map_or_else(|| "-".to_owned(), format::rate);
        // Writing into a string cannot fail.
        let _ = match state.len() {
            Some(total) => {
                let left = self.left(total).map_or_else(|| "-".to_owned(), format::duration);
                write!(out, "{speed:>10}  ETA {left:<LEFT_CHARS$}")
            }
            None => write!(out, "{speed:>10}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Positions at whole tenths of a second.
    fn pace(positions: &[u64]) -> Pace {
        let begin = tokio::time::Instant::now().into_std();
        let mut pace = Pace::default();
        for (tenths, position) in (0..).zip(positions) {
            pace.record(*position, begin + Duration::from_millis(tenths * 100));
        }
        pace
    }

    #[test]
    fn nothing_is_said_before_something_is_known() {
        assert_eq!(Pace::default().speed(), None);
        assert_eq!(pace(&[0, 100]).speed(), None);
        assert_eq!(pace(&[0, 100, 200]).speed(), Some(1_000.0));
        assert_eq!(pace(&[0, 0, 0]).left(10), None);
    }

    #[test]
    fn what_was_there_at_the_beginning_is_no_speed() {
        assert_eq!(pace(&[1_000_000, 1_000_100, 1_000_200]).speed(), Some(1_000.0));
    }

    #[test]
    fn a_change_is_seen_after_the_window_and_memory_is_bounded() {
        let slow = (0..100).map(|n| n * 10);
        let fast = (0..31).map(|n| 1_000 + n * 1_000);
        let positions: Vec<u64> = slow.chain(fast).collect();
        let pace = pace(&positions);
        assert!(pace.samples.len() <= 32, "{}", pace.samples.len());
        assert_eq!(pace.speed(), Some(10_000.0));
        assert_eq!(pace.left(131_000), Some(Duration::from_secs(10)));
    }

    #[test]
    fn standing_still_leaves_no_time_to_tell() {
        assert_eq!(pace(&[7; 40]).speed(), Some(0.0));
        assert_eq!(pace(&[7; 40]).left(10), None);
    }
}
