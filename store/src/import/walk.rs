//! What there is to add: the files below a path, in the order of a manifest.

use std::path::{Path, PathBuf};

use crate::disk::{Disk, FileKind, Metadata};
use crate::error::{FileError, ImportError};
use crate::manifest::{MAX_NESTING, MAX_TREE_ENTRIES};
use crate::name::check_name;

/// A regular file that was found.
#[derive(Debug)]
pub(crate) struct FoundFile {
    pub(crate) path: PathBuf,
    /// Bytes when it was found.
    pub(crate) size: u64,
    /// Whether its owner may execute it.
    pub(crate) is_exec: bool,
}

/// A file or a directory with everything in it, by index into [`Found::files`].
#[derive(Debug)]
pub(crate) enum Node {
    File { name: String, file: usize },
    Dir { name: String, entries: Vec<Node> },
}

/// What cannot be added: links, sockets, pipes, devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// How many there were.
    pub count: u64,
    /// The first of them.
    pub first: Option<PathBuf>,
}

/// The answer of [`walk`].
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) root: Node,
    pub(crate) files: Vec<FoundFile>,
    pub(crate) skipped: Skipped,
    pub(crate) total_len: u64,
}

/// Looks at everything below `path`, an absolute path without links. `name` is the name of the whole.
pub(crate) fn walk(disk: &dyn Disk, path: &Path, name: String) -> Result<Found, ImportError> {
    let meta = disk.symlink_metadata(path).map_err(|source| FileError::new("read", path, source))?;
    let mut walker = Walker { disk, files: Vec::new(), skipped: Skipped::default(), entries: 0 };
    let root = if meta.is_file() {
        walker.add_file(path.to_owned(), name, &meta)
    } else if meta.is_dir() {
        Node::Dir { name, entries: walker.enter(path, 1)? }
    } else {
        return Err(ImportError::Special { path: path.to_owned() });
    };
    let total_len = walker.files.iter().fold(0u64, |sum, file| sum.saturating_add(file.size));
    Ok(Found { root, files: walker.files, skipped: walker.skipped, total_len })
}

struct Walker<'a> {
    disk: &'a dyn Disk,
    files: Vec<FoundFile>,
    skipped: Skipped,
    entries: usize,
}

impl Walker<'_> {
    /// The entries of a directory, sorted by the bytes of their names.
    fn enter(&mut self, dir: &Path, depth: usize) -> Result<Vec<Node>, ImportError> {
        if depth > MAX_NESTING {
            return Err(too_many(dir, "levels of directories", MAX_NESTING));
        }
        let mut nodes = Vec::new();
        for (name, path, kind) in self.list(dir)? {
            if kind == FileKind::Dir {
                let entries = self.enter(&path, depth + 1)?;
                nodes.push(Node::Dir { name, entries });
            } else {
                let meta =
                    self.disk.symlink_metadata(&path).map_err(|source| gone_or_unreadable(&path, source))?;
                if !meta.is_file() {
                    return Err(ImportError::Changed { path });
                }
                nodes.push(self.add_file(path, name, &meta));
            }
        }
        Ok(nodes)
    }

    fn list(&mut self, dir: &Path) -> Result<Vec<(String, PathBuf, FileKind)>, ImportError> {
        let read_error = |source| FileError::new("read the directory", dir, source);
        let mut found = Vec::new();
        for entry in self.disk.read_dir(dir).map_err(read_error)? {
            let entry = entry.map_err(|source| gone_or_unreadable(dir, source))?;
            let path = dir.join(&entry.name);
            if !matches!(entry.kind, FileKind::Dir | FileKind::File) {
                self.skipped.count += 1;
                self.skipped.first.get_or_insert(path);
                continue;
            }
            self.entries += 1;
            if self.entries > MAX_TREE_ENTRIES {
                return Err(too_many(dir, "files and directories", MAX_TREE_ENTRIES));
            }
            let Ok(name) = entry.name.into_string() else { return Err(ImportError::NotUtf8 { path }) };
            if let Err(source) = check_name(&name) {
                return Err(ImportError::Name { path, source });
            }
            found.push((name, path, entry.kind));
        }
        found.sort_unstable_by(|(left, ..), (right, ..)| left.cmp(right));
        Ok(found)
    }

    fn add_file(&mut self, path: PathBuf, name: String, meta: &Metadata) -> Node {
        const OWNER_MAY_EXECUTE: u32 = 0o100;
        let is_exec = meta.mode & OWNER_MAY_EXECUTE != 0;
        self.files.push(FoundFile { path, size: meta.len, is_exec });
        Node::File { name, file: self.files.len() - 1 }
    }
}

/// Something listed a moment ago that is gone now was changed under our hands.
fn gone_or_unreadable(path: &Path, source: std::io::Error) -> ImportError {
    if source.kind() == std::io::ErrorKind::NotFound {
        ImportError::Changed { path: path.to_owned() }
    } else {
        FileError::new("read", path, source).into()
    }
}

fn too_many(path: &Path, what: &'static str, max: usize) -> ImportError {
    ImportError::TooMany { path: path.to_owned(), what, max: max as u64 }
}
