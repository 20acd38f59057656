//! What goes to stdout and stderr: results there, everything else here. Neither ever panics when it is closed.

use std::{
    io::{self, IsTerminal, Write},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use indicatif::{MultiProgress, ProgressDrawTarget};
use serde::Serialize;

use crate::{
    error::{CliError, Result},
    terminal::Terminal,
};

/// Updates of a bar a second.
const BAR_HZ: u8 = 12;

/// Where a command prints. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    bars: MultiProgress,
}

impl Output {
    /// Bars show only on a terminal, and neither under `quiet` nor under `json`.
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        let shown = !json && !quiet && io::stderr().is_terminal();
        let target = if shown {
            ProgressDrawTarget::term_like_with_hz(Box::new(Terminal::default()), BAR_HZ)
        } else {
            ProgressDrawTarget::hidden()
        };
        Self { json, quiet, bars: MultiProgress::with_draw_target(target) }
    }

    /// Whether results are JSON lines.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether only results and errors are wanted.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether results may be coloured: a terminal reads them and NO_COLOR is not set.
    pub(crate) fn is_coloured(&self) -> bool {
        !self.json && io::stdout().is_terminal() && !no_color()
    }

    /// The bars on stderr. Whoever writes to a terminal meanwhile does so inside their `suspend`.
    pub(crate) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// One line of result.
    pub(crate) fn line(&self, text: impl AsRef<str>) -> Result<()> {
        self.result(text.as_ref().as_bytes())
    }

    /// A path as a result: its very bytes, whatever they are.
    pub(crate) fn path(&self, path: &Path) -> Result<()> {
        self.result(path.as_os_str().as_bytes())
    }

    /// One JSON object as a line of result.
    pub(crate) fn json(&self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_vec(value)
            .map_err(|error| CliError::failed(format!("cannot write the result as JSON: {error}")))?;
        self.result(&text)
    }

    /// `value` as JSON under `--json`, else the lines that `human` makes of it.
    pub(crate) fn either<T: Serialize>(
        &self,
        value: &T,
        human: impl FnOnce(&T) -> Vec<String>,
    ) -> Result<()> {
        if self.json {
            return self.json(value);
        }
        human(value).iter().try_for_each(|line| self.line(line))
    }

    fn result(&self, line: &[u8]) -> Result<()> {
        self.between_bars(|| {
            let mut stdout = io::stdout().lock();
            // One call for text and line end, so that other processes on the same pipe never cut a line.
            let whole = [line, b"\n"].concat();
            stdout.write_all(&whole).and_then(|()| stdout.flush()).map_err(CliError::Output)
        })
    }

    /// Writes while no bar is drawn. Whoever reads may take long: the node of this command goes on meanwhile, on
    /// another thread.
    fn between_bars<T>(&self, write: impl FnOnce() -> T) -> T {
        tokio::task::block_in_place(|| self.bars.suspend(write))
    }

    /// Something good to know, on stderr; nothing under `-q`.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        if !self.quiet {
            self.stderr(text.as_ref());
        }
    }

    /// What a person wants to see and a script does not: on stderr, if that is a terminal.
    pub(crate) fn remark(&self, text: impl AsRef<str>) {
        if !self.json && io::stderr().is_terminal() {
            self.note(text);
        }
    }

    /// Something that needs attention although the command goes on, on stderr.
    pub(crate) fn warn(&self, text: impl AsRef<str>) {
        self.stderr(&format!("dhtfs: warning: {}", text.as_ref()));
    }

    /// The one line of a failure, on stderr.
    pub(crate) fn error(&self, error: &CliError) {
        if let Some(line) = error.line() {
            self.stderr(&format!("dhtfs: {line}"));
        }
    }

    /// A line that explains the failure that follows, on stderr.
    pub(crate) fn error_detail(&self, text: &str) {
        self.stderr(&format!("dhtfs: {text}"));
    }

    fn stderr(&self, text: &str) {
        // A closed stderr leaves nobody to tell.
        let _ = self.between_bars(|| writeln!(io::stderr().lock(), "{text}"));
    }
}

/// Whether the user asked for plain text (<https://no-color.org>).
pub(crate) fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Lines with their columns aligned: two spaces between them, numbers to the right where `right` names the
/// column. Trailing spaces are left away.
pub(crate) fn table(rows: &[Vec<String>], right: &[usize]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let align = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if right.contains(&column) { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(align).collect()
}

/// Label and values in two columns, the label only once: what `status` and `id` print.
pub(crate) fn labelled(rows: &[(&str, Vec<String>)]) -> Vec<String> {
    let mut cells = Vec::new();
    for (label, values) in rows {
        for (index, value) in values.iter().enumerate() {
            let label = if index == 0 { (*label).to_owned() } else { String::new() };
            cells.push(vec![label, value.clone()]);
        }
    }
    table(&cells, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|&cell| cell.to_owned()).collect()
    }

    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        let rows = [row(&["name", "size", "x"]), row(&["é", "1024", ""]), row(&["longer", "7", "y"])];
        assert_eq!(table(&rows, &[1]), ["name    size  x", "é       1024", "longer     7  y"]);
        assert!(table(&[], &[]).is_empty());
    }

    #[test]
    fn a_label_stands_only_before_its_first_value() {
        let rows = [("peers", row(&["3"])), ("listening", row(&["a", "b"])), ("none", vec![])];
        assert_eq!(labelled(&rows), ["peers      3", "listening  a", "           b"]);
    }
}
