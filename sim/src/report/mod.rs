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
use crate::whole;

pub use compare::differences;
pub use text::{hour_heading, hour_line, result_lines};
pub use units::printable;

/// The name of the record among the files of a report.
pub const RECORD_NAME: &str = "run.json";

/// The page of a report.
const PAGE_NAME: &str = "index.html";

/// Names of all files that [`write()`] may write or remove.
#[must_use]
pub fn file_names() -> Vec<String> {
    let plots = plots::NAMES.iter().map(|name| format!("{name}.svg"));
    [PAGE_NAME, RECORD_NAME].map(str::to_owned).into_iter().chain(plots).collect()
}

/// Writes `index.html`, one `.svg` per plot and `run.json` into `dir`, which is made if it is missing.
///
/// A plot is there only if the record has its data; one left by an earlier run is removed, lest it be taken for one of
/// this run. Returns what was written, the page first.
///
/// # Errors
///
/// If a file cannot be written; the others are.
pub fn write(record: &RunRecord, dir: &Path) -> io::Result<Vec<PathBuf>> {
    fs::create_dir_all(dir)?;
    let plots = plots::plots(record);
    let mut files = vec![(PAGE_NAME.to_owned(), page::page(record, &plots))];
    for plot in &plots {
        files.push((format!("{}.svg", plot.name), plot.svg(chart::Form::FILE)));
    }
    files.push((RECORD_NAME.to_owned(), json(record)?));
    let with_name = |name: &str, error: io::Error| io::Error::new(error.kind(), format!("{name}: {error}"));
    let is_left = |name: &String| !files.iter().any(|(written, _)| written == name);
    let removed: Vec<io::Result<()>> = file_names()
        .into_iter()
        .filter(is_left)
        .map(|name| remove_if_there(&dir.join(&name)).map_err(|e| with_name(&name, e)))
        .collect();
    let write_one = |(name, content): (String, String)| {
        let path = dir.join(&name);
        whole::write(&path, content.as_bytes()).map_err(|e| with_name(&name, e)).map(|()| path)
    };
    // All of them, whatever becomes of the first: they may have taken hours.
    let written: Vec<io::Result<PathBuf>> = files.into_iter().map(write_one).collect();
    removed.into_iter().collect::<io::Result<()>>()?;
    written.into_iter().collect()
}

/// A record as it is written to a file.
///
/// # Errors
///
/// If it cannot be written as JSON.
pub fn json(record: &RunRecord) -> io::Result<String> {
    Ok(serde_json::to_string_pretty(record)? + "\n")
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
