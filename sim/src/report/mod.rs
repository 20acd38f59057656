//! A run for people: a page with plots, the plots as files, and lines for a terminal.
//!
//! [`write()`] makes the page. It is one file, in light and dark, for a phone as for a wide screen; the drawings are SVG
//! that this module writes itself, because their colours must follow the reader's and their text must stay readable,
//! which a library that draws pixels or fixed colours cannot give. The same record gives the same bytes.
//!
//! ```text
//! stats, units            numbers
//! scale, bins             axes, time bins
//! svg, chart              shapes, the frame of a plot
//! plots/*                 one function per plot
//! summary, page, text     what is said about a run, as HTML and as lines
//! compare                 what two records of one run differ in
//! ```

mod bins;
mod chart;
mod compare;
mod page;
mod plots;
mod scale;
pub mod stats;
mod summary;
mod svg;
mod text;
mod units;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::record::RunRecord;

pub use compare::differences;
pub use text::{hour_heading, hour_line, result_lines};

/// Writes `index.html`, one `.svg` per plot and `run.json` into `dir`, which is made if it is missing.
///
/// A plot is there only if the record has its data; one left by an earlier run is removed, lest it be taken for one of
/// this run. Returns what was written, the page first.
///
/// # Errors
///
/// Fails if a file cannot be written.
pub fn write(record: &RunRecord, dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::create_dir_all(dir)?;
    let plots = plots::plots(record);
    let mut files = vec![("index.html".to_owned(), page::page(record, &plots))];
    for plot in &plots {
        files.push((format!("{}.svg", plot.name), plot.svg(chart::Form::FILE)));
    }
    files.push(("run.json".to_owned(), serde_json::to_string_pretty(record)? + "\n"));
    for name in plots::NAMES.iter().map(|name| format!("{name}.svg")) {
        if !files.iter().any(|(written, _)| *written == name) {
            remove_if_there(&dir.join(name))?;
        }
    }
    let write_one = |(name, content): (String, String)| {
        let path = dir.join(name);
        fs::write(&path, content).map(|()| path)
    };
    files.into_iter().map(write_one).collect()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
