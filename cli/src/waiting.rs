//! Why a fetch waits: a line that comes and goes on a terminal, elsewhere a line now and then on stderr.

use std::time::{Duration, Instant};

use dhtfs_node::api::types::{WaitCause, Waiting};
use serde::Serialize;

use crate::{
    format::clean,
    output::Output,
    progress::{self, Spinner},
};

/// Between two lines.
const PAUSE: Duration = Duration::from_secs(10);

/// Decides when a reason is worth a line: when it is another one than the last, and not too soon after that.
#[derive(Debug, Default)]
pub(crate) struct WaitLines {
    last: Option<WaitCause>,
    told_at: Option<Instant>,
}

/// A line under `--json`.
#[derive(Serialize)]
struct Line<'a> {
    waiting: &'a Waiting,
}

impl WaitLines {
    /// Takes in why the fetch waits, or that it does not, and tells it if it is time.
    pub(crate) fn update(&mut self, out: &Output, waiting: Option<&Waiting>) {
        let is_due =
            self.is_due(waiting.map(|waiting| waiting.cause), tokio::time::Instant::now().into_std());
        let Some(waiting) = waiting.filter(|_| is_due && out.bars().is_hidden()) else { return };
        if out.is_json() {
            // Everything in it is plain numbers and text.
            out.note(serde_json::to_string(&Line { waiting }).unwrap_or_default());
        } else {
            out.note(format!("waiting: {}", clean(&waiting.line)));
        }
    }

    fn is_due(&mut self, cause: Option<WaitCause>, now: Instant) -> bool {
        if cause.is_none() || cause == self.last {
            self.last = cause;
            return false;
        }
        if self.told_at.is_some_and(|at| now.saturating_duration_since(at) < PAUSE) {
            return false;
        }
        self.last = cause;
        self.told_at = Some(now);
        true
    }
}

/// Tells reasons where there is no bar of a `get` to do so.
#[derive(Debug, Default)]
pub(crate) struct Reasons {
    lines: WaitLines,
    shown: Option<Spinner>,
}

impl Reasons {
    /// Takes in why the fetch waits, or that it does not. Nothing new is drawn on a terminal unless it `may_draw`.
    pub(crate) fn update(&mut self, out: &Output, waiting: Option<&Waiting>, may_draw: bool) {
        self.lines.update(out, waiting);
        match (waiting, &self.shown) {
            (Some(waiting), Some(shown)) => shown.update(progress::reason(waiting)),
            (Some(waiting), None) if may_draw => self.shown = Some(out.reason(waiting)),
            (Some(_), None) => {}
            (None, _) => self.shown = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of these causes, one a second, is told.
    fn told(causes: &[Option<WaitCause>]) -> Vec<usize> {
        let begin = tokio::time::Instant::now().into_std();
        let mut lines = WaitLines::default();
        let is_told = |second: &usize| {
            let at = begin + Duration::from_secs(u64::try_from(*second).unwrap_or(0));
            lines.is_due(causes.get(*second).copied().flatten(), at)
        };
        (0..causes.len()).filter(is_told).collect()
    }

    #[test]
    fn a_reason_is_told_once_and_another_one_ten_seconds_later_at_the_earliest() {
        let (busy, gone) = (Some(WaitCause::Busy), Some(WaitCause::Unreachable));
        assert_eq!(told(&[busy; 40]), [0]);
        assert_eq!(told(&[&[busy; 5], &[gone; 30][..]].concat()), [0, 10]);
        assert_eq!(told(&[&[busy; 15], &[gone; 30][..]].concat()), [0, 15]);
        assert_eq!(told(&[&[busy, gone].repeat(15)[..]].concat()), [0, 11, 22], "it changes all the time");
    }

    #[test]
    fn what_waits_again_after_something_came_is_told_again() {
        let busy = Some(WaitCause::Busy);
        assert_eq!(told(&[&[busy; 12][..], &[None], &[busy; 12]].concat()), [0, 13]);
        assert!(told(&[None; 40]).is_empty());
    }
}
