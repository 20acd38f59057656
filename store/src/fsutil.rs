//! Small file-system building blocks: stamps, syncing, private directories, renames that replace nothing.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::UNIX_EPOCH;

use rustix::fs::{AtFlags, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

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
    born: Option<(u64, u32)>,
}

/// When a file was made, in seconds and nanoseconds since 1970, where the file system keeps that. With it an
/// inode number that was used again is told from the file that had it before.
fn born(meta: &Metadata) -> Option<(u64, u32)> {
    let since = meta.created().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((since.as_secs(), since.subsec_nanos()))
}

impl FileStamp {
    pub(crate) fn of(meta: &Metadata) -> Self {
        Self {
            size: meta.size(),
            ino: meta.ino(),
            dev: meta.dev(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
            born: born(meta),
        }
    }

    /// The stamp of the regular file at `path`, or an error of kind `InvalidInput` if it is something else. A
    /// link is not followed.
    pub(crate) fn of_path(path: &Path) -> io::Result<Self> {
        let meta = std::fs::symlink_metadata(path)?;
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
    pub(crate) fn of_path(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::symlink_metadata(path) {
            Ok(meta) => Ok(Some(Self { dev: meta.dev(), ino: meta.ino(), born: born(&meta) })),
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
pub(crate) fn open_regular(path: &Path) -> io::Result<(File, FileStamp)> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let meta = file.metadata()?;
    if meta.is_file() { Ok((file, FileStamp::of(&meta))) } else { Err(not_a_file()) }
}

/// Creates `dir` with mode 0700, and its missing parents, if it does not exist yet, and makes their names
/// last.
pub(crate) fn create_private_dir(dir: &Path) -> Result<(), FileError> {
    let error = |source| FileError::new("create the directory", dir, source);
    if dir.is_dir() {
        return Ok(());
    }
    let missing: Vec<_> =
        dir.ancestors().take_while(|dir| !dir.is_dir() && !dir.as_os_str().is_empty()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(error)?;
    // The umask can only have taken bits away, which may have left a directory that cannot be entered.
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).map_err(error)?;
    for dir in missing {
        match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent)?,
            _ => sync_dir(Path::new("."))?,
        }
    }
    Ok(())
}

/// Creates a file for this user alone (0600); fails if anything has that name.
pub(crate) fn create_private_file(path: &Path) -> Result<File, FileError> {
    let error = |source| FileError::new("create", path, source);
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path).map_err(error)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(error)?;
    Ok(file)
}

/// Makes the names in `dir` survive a loss of power.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), FileError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|source| FileError::new("sync", dir, source))
}

/// Removes a file; that there is none is fine.
pub(crate) fn remove_file_if_there(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(FileError::new("remove", path, source))
        }
        _ => Ok(()),
    }
}

/// Renames inside one directory and replaces nothing: the answer is `AlreadyExists` if `to` exists.
///
/// Where the file system cannot promise that in one step (`RENAME_NOREPLACE` of renameat2(2)), a file gets
/// its new name as a second link first, which does promise it. Directories, and files where there are no
/// links either, are looked up before the rename; a name that appears in that instant is replaced if it is a
/// file or an empty directory.
pub(crate) fn rename_new(dir: impl AsFd, from: &Path, to: &Path, is_dir: bool) -> io::Result<()> {
    let dir = dir.as_fd();
    match rustix::fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        done => return Ok(done?),
    }
    if !is_dir {
        match rustix::fs::linkat(dir, from, dir, to, AtFlags::empty()) {
            Ok(()) => return Ok(rustix::fs::unlinkat(dir, from, AtFlags::empty())?),
            Err(Errno::PERM | Errno::NOSYS | Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    match rustix::fs::statat(dir, to, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(Errno::NOENT) => Ok(rustix::fs::renameat(dir, from, dir, to)?),
        Err(error) => Err(error.into()),
    }
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

    #[test]
    fn a_rename_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let fd = File::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("a"), "a").unwrap();
        std::fs::write(dir.path().join("b"), "b").unwrap();
        let taken = rename_new(&fd, Path::new("a"), Path::new("b"), false).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(dir.path().join("b")).unwrap(), b"b");
        rename_new(&fd, Path::new("a"), Path::new("c"), false).unwrap();
        assert_eq!(std::fs::read(dir.path().join("c")).unwrap(), b"a");
    }

    #[test]
    fn a_stamp_sees_every_kind_of_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "one").unwrap();
        let before = FileStamp::of_path(&path).unwrap();
        assert_eq!(FileStamp::of_path(&path).unwrap(), before);
        let other = dir.path().join("g");
        std::fs::write(&other, "two").unwrap();
        std::fs::rename(&other, &path).unwrap();
        let replaced = FileStamp::of_path(&path).unwrap();
        assert!(!replaced.is_same_file(&before));
        assert!(!replaced.is_unchanged_since(&before));
        std::fs::write(&path, "three").unwrap();
        let written = FileStamp::of_path(&path).unwrap();
        assert!(written.is_same_file(&replaced));
        assert!(!written.is_unchanged_since(&replaced));
        assert!(FileStamp { dev: 77, ..written }.is_unchanged_since(&written));
    }

    #[test]
    fn opening_a_pipe_or_a_link_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        assert!(open_regular(&pipe).is_err());
        let link = dir.path().join("link");
        std::fs::write(dir.path().join("file"), "x").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        assert!(open_regular(&link).is_err());
        assert!(FileStamp::of_path(&link).is_err());
    }
}
