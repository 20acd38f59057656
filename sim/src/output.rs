//! What is shown while a run goes on: a line an hour, and a bar on a terminal.

use std::{cell::RefCell, io::IsTerminal};

use dhtfs_sim::{record::Hour, report, timeline::Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Steps of the bar.
const STEPS: u64 = 1000;

/// Hour lines on stdout, a bar on stderr if that is a terminal.
pub(crate) struct Terminal {
    bar: ProgressBar,
    is_quiet: bool,
    previous: RefCell<Option<Hour>>,
}

impl Terminal {
    pub(crate) fn new(is_quiet: bool) -> Self {
        let is_shown = std::io::stderr().is_terminal() && !is_quiet;
        let target = if is_shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(STEPS), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent:>3} %") {
            bar.set_style(style);
        }
        Self { bar, is_quiet, previous: RefCell::new(None) }
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Terminal {
    fn hour(&self, hour: &Hour) {
        if self.is_quiet {
            return;
        }
        let mut previous = self.previous.borrow_mut();
        // A scenario of several networks begins anew with each.
        let goes_on = previous.as_ref().is_some_and(|previous| previous.at < hour.at);
        self.bar.suspend(|| {
            if !goes_on {
                super::print(report::hour_heading());
            }
            super::print(&report::hour_line(hour, previous.as_ref().filter(|_| goes_on)));
        });
        *previous = Some(hour.clone());
    }

    fn share(&self, share: f64) {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 ..= 1000")]
        self.bar.set_position((share.clamp(0.0, 1.0) * STEPS as f64) as u64);
    }
}
