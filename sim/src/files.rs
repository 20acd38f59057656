//! The files that a run writes. They are tried before it begins: it may take hours.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use dhtfs_sim::net::TraceSink;

/// Whether a file can be written. What is in it stays, and one that was not there is not there afterwards.
///
/// # Errors
/// If it cannot.
pub(crate) fn try_file(path: &Path) -> io::Result<()> {
    let is_new = match fs::metadata(path) {
        // Whoever reads a pipe would take this for the end.
        Ok(found) if !found.is_file() && !found.is_dir() => return Ok(()),
        Ok(_) => false,
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(error),
    };
    OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    if is_new { fs::remove_file(path) } else { Ok(()) }
}

/// Makes the directory of a report, if there is none, and tries to write there.
///
/// # Errors
/// If it cannot be done.
pub(crate) fn try_report(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    try_file(&dir.join("index.html"))
}

/// A file with a line for every event.
pub(crate) struct Trace {
    path: PathBuf,
    lines: Arc<Mutex<Lines>>,
}

struct Lines {
    out: BufWriter<File>,
    /// Why the rest is missing.
    failure: Option<io::Error>,
}

impl Trace {
    /// Creates the file.
    ///
    /// # Errors
    /// If it cannot be created.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let lines = Lines { out: BufWriter::new(File::create(path)?), failure: None };
        Ok(Self { path: path.to_owned(), lines: Arc::new(Mutex::new(lines)) })
    }

    /// Where the events go. The first failure ends the file, not the run.
    pub(crate) fn sink(&self) -> TraceSink {
        let lines = self.lines.clone();
        Box::new(move |event| {
            let mut lines = lock(&lines);
            if lines.failure.is_none() {
                lines.failure = writeln!(lines.out, "{event}").err();
            }
        })
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// If anything could not be written, in words.
    pub(crate) fn finish(&self) -> Result<(), String> {
        let mut lines = lock(&self.lines);
        let failure = lines.failure.take().or_else(|| lines.out.flush().err());
        failure.map_or(Ok(()), |e| Err(format!("cannot write the trace to {}: {e}", self.path.display())))
    }
}

fn lock(lines: &Mutex<Lines>) -> MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}
