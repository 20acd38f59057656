//! What the demo tells while it runs: a line a step on stdout, a spinner on a terminal's stderr meanwhile.

use tokio::time::Instant;

use super::paint::Paint;
use crate::{error::Result, format, output::Output, progress::Spinner};

/// Width of a step's text, in characters; its time stands to the right of it, within 80 columns.
const TEXT_CHARS: usize = 66;

/// The teller.
#[derive(Debug, Clone, Copy)]
pub(super) struct Story<'a> {
    pub(super) out: &'a Output,
    pub(super) paint: Paint,
}

/// A step under way.
#[derive(Debug)]
pub(super) struct Begun {
    spinner: Spinner,
    at: Instant,
}

impl<'a> Story<'a> {
    pub(super) fn new(out: &'a Output) -> Self {
        Self { out, paint: Paint::new(out.is_coloured()) }
    }

    /// A line of text. JSON and quiet output have only results.
    pub(super) fn line(&self, text: &str) -> Result<()> {
        if self.out.is_json() || self.out.is_quiet() { Ok(()) } else { self.out.line(text) }
    }

    /// A line that belongs to the step before.
    pub(super) fn detail(&self, text: &str) -> Result<()> {
        self.line(&format!("    {text}"))
    }

    /// Begins a step that is described by `doing` as long as it takes.
    pub(super) fn begin(&self, doing: &str) -> Begun {
        Begun { spinner: self.out.spinner(doing.to_owned()), at: Instant::now() }
    }

    /// Ends a step that went well; gives back how long it took, in seconds.
    pub(super) fn done(&self, begun: Begun, text: &str) -> Result<f64> {
        let Begun { spinner, at } = begun;
        drop(spinner);
        let time = at.elapsed();
        let mark = self.paint.good("✓");
        let took = self.paint.dim(&format!("{:>7}", format::duration(time)));
        self.line(&format!("  {mark} {text:<TEXT_CHARS$} {took}"))?;
        Ok(time.as_secs_f64())
    }
}
