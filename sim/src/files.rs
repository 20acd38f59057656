//! The files that a run writes. They are tried before it begins: it may take hours.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use dhtfs_sim::{net::TraceSink, report};

/// Most links that lead from one to the next, as the system has it.
const MAX_LINKS: usize = 40;

/// A file and why it cannot be written.
pub(crate) type Unwritable = (PathBuf, io::Error);

/// Whether a file can be written, as far as can be told before. What is in it stays, one that was not there is not
/// there afterwards, and a link stays a link.
///
/// # Errors
/// If it cannot.
pub(crate) fn try_file(path: &Path) -> Result<(), Unwritable> {
    let tried = || -> io::Result<()> {
        match fs::metadata(path) {
            // Whoever reads a pipe would take this for the end.
            Ok(found) if !found.is_file() && !found.is_dir() => Ok(()),
            Ok(_) => OpenOptions::new().write(true).open(path).map(drop),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let target = link_target(path)?;
                OpenOptions::new().write(true).create_new(true).open(&target)?;
                fs::remove_file(&target)
            }
            Err(error) => Err(error),
        }
    };
    tried().map_err(|error| (path.to_owned(), error))
}

/// Makes the directory of a report, if there is none, and tries every file that may be written there.
///
/// # Errors
/// If one cannot.
pub(crate) fn try_report(dir: &Path) -> Result<(), Unwritable> {
    fs::create_dir_all(dir).map_err(|error| (dir.to_owned(), error))?;
    report::file_names().iter().try_for_each(|name| try_file(&dir.join(name)))
}

/// Where a path leads, whether there is anything or not.
fn link_target(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        if !fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()) {
            return Ok(path);
        }
        let target = fs::read_link(&path)?;
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    Err(io::Error::other("too many links"))
}

/// A file by what it is, whatever way leads to it.
#[derive(PartialEq, Eq)]
enum Identity {
    /// Device and number on it.
    There(u64, u64),
    /// Where it would be.
    Path(PathBuf),
}

/// What a path names; `None` if it is a pipe or device, of which two may well be the same.
fn identity(path: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    match fs::metadata(path) {
        Ok(found) if found.is_file() || found.is_dir() => Some(Identity::There(found.dev(), found.ino())),
        Ok(_) => None,
        Err(_) => Some(Identity::Path(located(path))),
    }
}

/// The place of a file that is not there: as much of the way as there is without links, and the rest as it is written.
fn located(path: &Path) -> PathBuf {
    let path = link_target(path).unwrap_or(path.to_owned());
    let path = std::path::absolute(&path).unwrap_or(path);
    let there = path.ancestors().find_map(|begin| Some((begin, begin.canonicalize().ok()?)));
    let Some((begin, mut place)) = there else { return path };
    for part in path.strip_prefix(begin).into_iter().flat_map(Path::components) {
        match part {
            Component::ParentDir => drop(place.pop()),
            part => place.push(part),
        }
    }
    place
}

/// Whether both paths name one file.
pub(crate) fn is_same(one: &Path, other: &Path) -> bool {
    identity(one).is_some_and(|one| Some(one) == identity(other))
}

/// Fails if one of these files, each with what it is called, is another one of them.
///
/// # Errors
/// Which, in words.
pub(crate) fn all_differ(files: &[(&str, PathBuf)]) -> Result<(), String> {
    let known: Vec<_> = files.iter().map(|(name, path)| (name, path, identity(path))).collect();
    for (place, (name, path, this)) in known.iter().enumerate() {
        let same = |(_, _, other): &&(_, _, Option<Identity>)| this.is_some() && other == this;
        if let Some((other, _, _)) = known[..place].iter().find(same) {
            return Err(format!("{other} and {name} are the same file: {}", path.display()));
        }
    }
    Ok(())
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
