//! Bars on a terminal's stderr; nothing anywhere else.

use std::time::Duration;

use dhtfs_node::api::types::{GetProgress, GetStage, HashProgress, Source, Waiting};
use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

use crate::{format, output::Output, pace::Pace, terminal};

/// Longest name in front of a bar, in characters; the rest of an 80 column line is for the figures.
const MAX_NAME_CHARS: usize = 18;

/// How often a spinner turns and the time left is brought up to date.
const TICK: Duration = Duration::from_millis(100);

/// Full, half and empty cell of a bar.
const BAR_CELLS: &str = "━╸─";

/// In front of a spinner that stands where a line of text will be.
const SPINNER_INDENT: &str = "  ";

/// In front of each line of a reason.
const REASON_INDENT: &str = "  ";

const SPINNER: &str = "{prefix}{spinner:.cyan} {msg}";
const BAR: &str = "{prefix:.bold} {wide_bar:.cyan/black.bright} {done} / {total}  {pace}{msg}";
/// The line under a bar that says why nothing comes.
const REASON: &str = "{msg:.dim}";
const BOARD: &str = "{msg}";
const COUNTER: &str = "{spinner:.cyan} {prefix:.bold} {done}  {pace}";

impl Output {
    /// A bar for reading and hashing `name`; it goes away when it is dropped.
    pub(crate) fn hash_bar(&self, what: &str, name: &str) -> HashBar {
        self.hash_bar_for("", what, name)
    }

    /// The same with `who` in front.
    pub(crate) fn hash_bar_for(&self, who: &str, what: &str, name: &str) -> HashBar {
        let bar = self.bar();
        bar.set_prefix(who.to_owned());
        bar.set_message(format!("{what} {}", label(name)));
        HashBar { bar, shape: Shape::Spinner, label: format!("{who}{}", label(name)) }
    }

    /// A bar for a fetch of what is called `name` until the manifest tells its name; it goes away when dropped.
    pub(crate) fn get_bar(&self, name: &str) -> GetBar {
        self.get_bar_for("", name)
    }

    /// The same with `who` in front, where several fetch the same.
    pub(crate) fn get_bar_for(&self, who: &str, name: &str) -> GetBar {
        let bar = GetBar::new(self.bars().clone(), self.bar(), who, name);
        bar.bar.set_message(bar.finding(&[]));
        bar
    }

    /// Why a fetch waits, where there is no bar; it goes away when it is dropped.
    pub(crate) fn reason(&self, waiting: &Waiting) -> Spinner {
        let bar = self.bars().add(ProgressBar::no_length().with_style(style(REASON)));
        bar.set_message(reason(waiting));
        Spinner(bar)
    }

    /// A spinner; it goes away when it is dropped.
    pub(crate) fn spinner(&self, message: String) -> Spinner {
        let bar = self.bar();
        bar.set_prefix(SPINNER_INDENT);
        bar.set_message(message);
        Spinner(bar)
    }

    /// A picture of as many lines as it needs; it goes away when it is dropped.
    pub(crate) fn board(&self) -> Spinner {
        Spinner(self.bars().add(ProgressBar::no_length().with_style(style(BOARD))))
    }

    fn bar(&self) -> ProgressBar {
        let bar = self.bars().add(ProgressBar::no_length().with_style(style(SPINNER)));
        if !self.bars().is_hidden() {
            bar.enable_steady_tick(TICK);
        }
        bar
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Spinner,
    Counter,
    Bar,
}

/// Progress of hashing.
#[derive(Debug)]
pub(crate) struct HashBar {
    bar: ProgressBar,
    shape: Shape,
    label: String,
}

impl HashBar {
    /// Shows how far it is.
    pub(crate) fn update(&mut self, progress: &HashProgress) {
        let (shape, template) = match progress.total_len {
            Some(_) => (Shape::Bar, BAR),
            None => (Shape::Counter, COUNTER),
        };
        if let Some(total) = progress.total_len {
            self.bar.set_length(total);
        }
        self.bar.set_position(progress.done_len);
        if self.shape != shape {
            self.shape = shape;
            self.bar.set_style(style(template));
            self.bar.set_message("");
            self.bar.set_prefix(self.label.clone());
        }
    }
}

impl Drop for HashBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Something is going on.
#[derive(Debug)]
pub(crate) struct Spinner(ProgressBar);

impl Spinner {
    /// Shows something else from now on.
    pub(crate) fn update(&self, message: String) {
        self.0.set_message(message);
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Progress of a fetch.
#[derive(Debug)]
pub(crate) struct GetBar {
    bars: MultiProgress,
    bar: ProgressBar,
    /// Under it, while nothing comes.
    reason: Option<ProgressBar>,
    shape: Shape,
    /// Put before everything; may be empty.
    who: String,
    name: String,
}

impl GetBar {
    fn new(bars: MultiProgress, bar: ProgressBar, who: &str, name: &str) -> Self {
        bar.set_prefix(who.to_owned());
        Self { bars, bar, reason: None, shape: Shape::Spinner, who: who.to_owned(), name: name.to_owned() }
    }

    /// Shows how far it is.
    pub(crate) fn update(&mut self, progress: &GetProgress) {
        if let Some(name) = &progress.name {
            self.name.clone_from(name);
        }
        match progress.stage {
            _ if progress.paused => self.spin(self.paused(progress)),
            GetStage::Finding => self.spin(self.finding(&progress.sources)),
            GetStage::Checking => self.spin(self.message("checking what is here of")),
            GetStage::Finishing => self.spin(self.message("saving")),
            GetStage::Fetching => self.fetching(progress),
        }
        self.explain(progress.waiting.as_ref());
    }

    /// Shows why nothing comes, or that something does.
    fn explain(&mut self, waiting: Option<&Waiting>) {
        match (waiting, self.reason.take()) {
            (Some(waiting), shown) => {
                let under = || {
                    let line = ProgressBar::no_length().with_style(style(REASON));
                    self.bars.insert_after(&self.bar, line)
                };
                let shown = shown.unwrap_or_else(under);
                shown.set_message(reason(waiting));
                self.reason = Some(shown);
            }
            (None, Some(shown)) => {
                shown.finish_and_clear();
                self.bars.remove(&shown);
            }
            (None, None) => {}
        }
    }

    fn spin(&mut self, message: String) {
        if self.shape != Shape::Spinner {
            self.shape = Shape::Spinner;
            self.bar.set_style(style(SPINNER));
            self.bar.set_prefix(self.who.clone());
        }
        self.bar.set_message(message);
    }

    fn fetching(&mut self, progress: &GetProgress) {
        self.bar.set_length(progress.total_len);
        self.bar.set_position(progress.have_len);
        if self.shape != Shape::Bar {
            // Only now, so that what was there before says nothing about the speed.
            self.shape = Shape::Bar;
            self.bar.set_style(style(BAR));
            self.bar.set_prefix(format!("{}{}", self.who, label(&self.name)));
        }
        self.bar.set_message(format!("  {}", format::count(used(&progress.sources), "peer")));
    }

    fn message(&self, doing: &str) -> String {
        format!("{doing} {}", label(&self.name))
    }

    /// What is said while it rests.
    fn paused(&self, progress: &GetProgress) -> String {
        let name = label(&self.name);
        match progress.total_len {
            0 => format!("paused {name}"),
            total => {
                let (have, total) = (format::bytes(progress.have_len), format::bytes(total));
                format!("paused {name} at {have} of {total}; `dhtfs resume` lets it go on")
            }
        }
    }

    /// What is said while there is no manifest yet.
    fn finding(&self, sources: &[Source]) -> String {
        let name = label(&self.name);
        match (used(sources), u64::try_from(sources.len()).unwrap_or(u64::MAX)) {
            (0, 0) => format!("finding providers of {name}"),
            (0, known) => format!("found {} of {name}, connecting", format::count(known, "provider")),
            (used, _) => format!("reading the manifest of {name} from {}", format::count(used, "peer")),
        }
    }
}

impl Drop for GetBar {
    fn drop(&mut self) {
        self.explain(None);
        self.bar.finish_and_clear();
    }
}

/// Why a fetch waits, on as few lines as fit the terminal.
pub(crate) fn reason(waiting: &Waiting) -> String {
    folded(&format::clean(&waiting.line), usize::from(terminal::width()))
}

/// A reason on as few lines as fit the width; it breaks after a `;`.
fn folded(reason: &str, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for part in reason.split("; ") {
        match lines.last_mut() {
            // Room for what is between them and for another `;`.
            Some(line) if line.chars().count() + part.chars().count() + 3 <= width => {
                line.push_str("; ");
                line.push_str(part);
            }
            Some(line) => {
                line.push(';');
                lines.push(format!("{REASON_INDENT}{part}"));
            }
            None => lines.push(format!("{REASON_INDENT}{part}")),
        }
    }
    lines.join("\n")
}

/// How many peers serve right now.
fn used(sources: &[Source]) -> u64 {
    let connected = sources.iter().filter(|source| source.state == "connected").count();
    u64::try_from(connected).unwrap_or(u64::MAX)
}

fn label(name: &str) -> String {
    format::shorten(&format::clean(name), MAX_NAME_CHARS)
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style
        .progress_chars(BAR_CELLS)
        .with_key("done", |state: &ProgressState, w: &mut dyn std::fmt::Write| {
            // Writing into a string cannot fail.
            let _ = w.write_str(&format::bytes(state.pos()));
        })
        .with_key("total", |state: &ProgressState, w: &mut dyn std::fmt::Write| {
            let _ = w.write_str(&format::bytes(state.len().unwrap_or_default()));
        })
        .with_key("pace", Pace::default())
}

#[cfg(test)]
#[path = "progress_tests.rs"]
mod tests;
