//! Small file-system building blocks: stamps, syncing, private directories.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::disk::{Disk, DiskFile, Metadata, OpenMode};
use crate::error::FileError;

/// What tells one state of a file from another without reading it.
///
/// Two equal stamps of a path mean that nothing wrote to the file in between, except within one tick of the
/// file system's clock (at most a few milliseconds; none since Linux 6.13 on the usual file systems). Whoever
/// relies on a stamp must be able to live with that: here the receiver of a chunk, who verifies it in any
/// case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileStamp {
    size: u64,
    ino: u64,
    dev: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
    /// When the file was made, where the file system keeps that. With it an inode number that was used again is
    /// told from the file that had it before.
    born: Option<(u64, u32)>,
}

impl FileStamp {
    pub(crate) fn of(meta: &Metadata) -> Self {
        let Metadata { len: size, ino, dev, mtime, ctime, born, .. } = *meta;
        Self { size, ino, dev, mtime, ctime, born }
    }

    /// The stamp of the regular file at `path`, or an error of kind `InvalidInput` if it is something else. A
    /// link is not followed.
    pub(crate) fn of_path(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        let meta = disk.symlink_metadata(path)?;
        if meta.is_file() { Ok(Self::of(&meta)) } else { Err(not_a_file()) }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Whether both are stamps of one file, in whatever state.
    pub(crate) fn is_same_file(&self, other: &Self) -> bool {
        (self.dev, self.ino, self.born) == (other.dev, other.ino, other.born)
    }

    /// Whether both are stamps of one part file. It may have been written to, and the machine restarted
    /// (which deals out device numbers anew).
    pub(crate) fn is_same_part(&self, other: &Self) -> bool {
        (self.ino, self.born, self.size) == (other.ino, other.born, other.size)
    }

    /// Whether a file is unchanged since `earlier`, which may stem from before a restart of the machine:
    /// device numbers are dealt out anew then, so they are not compared.
    pub(crate) fn is_unchanged_since(&self, earlier: &Self) -> bool {
        Self { dev: earlier.dev, ..*self } == *earlier
    }
}

/// Device, inode and birth: which file or directory it is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileId {
    dev: u64,
    ino: u64,
    born: Option<(u64, u32)>,
}

impl FileId {
    /// Of whatever is at `path`; a link is not followed. `None` if nothing is there.
    pub(crate) fn of_path(disk: &dyn Disk, path: &Path) -> io::Result<Option<Self>> {
        match disk.symlink_metadata(path) {
            Ok(Metadata { dev, ino, born, .. }) => Ok(Some(Self { dev, ino, born })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn not_a_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
}

/// Opens a regular file for reading. Follows no link in the last component and never waits, which opening a
/// named pipe would do.
pub(crate) fn open_regular(disk: &dyn Disk, path: &Path) -> io::Result<(Arc<dyn DiskFile>, FileStamp)> {
    let file = disk.open(path, OpenMode::ReadNoFollow)?;
    let meta = file.metadata()?;
    if meta.is_file() { Ok((file, FileStamp::of(&meta))) } else { Err(not_a_file()) }
}

/// Whether a path leads to a directory.
fn is_dir(disk: &dyn Disk, path: &Path) -> bool {
    disk.metadata(path).is_ok_and(|meta| meta.is_dir())
}

/// Whether a path leads to anything.
pub(crate) fn exists(disk: &dyn Disk, path: &Path) -> io::Result<bool> {
    match disk.metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Creates `dir` with mode 0700, and its missing parents, if it does not exist yet, and makes their names
/// last.
pub(crate) fn create_private_dir(disk: &dyn Disk, dir: &Path) -> Result<(), FileError> {
    if is_dir(disk, dir) {
        return Ok(());
    }
    let missing: Vec<_> =
        dir.ancestors().take_while(|dir| !is_dir(disk, dir) && !dir.as_os_str().is_empty()).collect();
    disk.create_private_dir(dir).map_err(|source| FileError::new("create the directory", dir, source))?;
    for dir in missing {
        match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync_dir(disk, parent)?,
            _ => sync_dir(disk, Path::new("."))?,
        }
    }
    Ok(())
}

/// Creates a file for this user alone (0600); fails if anything has that name.
pub(crate) fn create_private_file(disk: &dyn Disk, path: &Path) -> Result<Arc<dyn DiskFile>, FileError> {
    disk.open(path, OpenMode::CreatePrivate).map_err(|source| FileError::new("create", path, source))
}

/// Makes the names in `dir` survive a loss of power.
pub(crate) fn sync_dir(disk: &dyn Disk, dir: &Path) -> Result<(), FileError> {
    disk.open_dir(dir).and_then(|dir| dir.sync()).map_err(|source| FileError::new("sync", dir, source))
}

/// Removes a file; that there is none is fine.
pub(crate) fn remove_file_if_there(disk: &dyn Disk, path: &Path) -> Result<(), FileError> {
    match disk.remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(FileError::new("remove", path, source))
        }
        _ => Ok(()),
    }
}

/// The last component of a path; empty if it has none.
pub(crate) fn file_name(path: &Path) -> &OsStr {
    path.file_name().unwrap_or_default()
}

/// Whether an error means that the file itself is gone or cannot be read, rather than that this process is
/// out of something (file descriptors, memory) and may succeed later.
pub(crate) fn is_files_fault(error: &io::Error) -> bool {
    !matches!(
        error.raw_os_error().map(Errno::from_raw_os_error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS | Errno::INTR | Errno::AGAIN)
    )
}

/// Whether an error means that the file system is full, or this user's share of it.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw_os_error), Some(Errno::NOSPC | Errno::DQUOT))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::disk::RealDisk;

    #[test]
    fn a_rename_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let fd = RealDisk.open_dir(dir.path()).unwrap();
        std::fs::write(dir.path().join("a"), "a").unwrap();
        std::fs::write(dir.path().join("b"), "b").unwrap();
        let taken = fd.rename_new(OsStr::new("a"), OsStr::new("b"), false).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(dir.path().join("b")).unwrap(), b"b");
        fd.rename_new(OsStr::new("a"), OsStr::new("c"), false).unwrap();
        assert_eq!(std::fs::read(dir.path().join("c")).unwrap(), b"a");
    }

    #[test]
    fn a_stamp_sees_every_kind_of_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "one").unwrap();
        let before = FileStamp::of_path(&RealDisk, &path).unwrap();
        assert_eq!(FileStamp::of_path(&RealDisk, &path).unwrap(), before);
        let other = dir.path().join("g");
        std::fs::write(&other, "two").unwrap();
        std::fs::rename(&other, &path).unwrap();
        let replaced = FileStamp::of_path(&RealDisk, &path).unwrap();
        assert!(!replaced.is_same_file(&before));
        assert!(!replaced.is_unchanged_since(&before));
        std::fs::write(&path, "three").unwrap();
        let written = FileStamp::of_path(&RealDisk, &path).unwrap();
        assert!(written.is_same_file(&replaced));
        assert!(!written.is_unchanged_since(&replaced));
        assert!(FileStamp { dev: 77, ..written }.is_unchanged_since(&written));
    }

    #[test]
    fn opening_a_pipe_or_a_link_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        assert!(open_regular(&RealDisk, &pipe).is_err());
        let link = dir.path().join("link");
        std::fs::write(dir.path().join("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        assert!(open_regular(&RealDisk, &link).is_err());
        assert!(FileStamp::of_path(&RealDisk, &link).is_err());
    }
}
