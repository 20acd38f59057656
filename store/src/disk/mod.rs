//! What the store asks of a disk, and the two disks there are: [`RealDisk`], the operating system's file
//! systems, and [`MemoryDisk`], a file system in memory whose power can be cut.
//!
//! Everything in this package that touches a file does it through a [`Disk`], a [`DiskFile`] or a
//! [`DiskDir`]. So a simulator can run hundreds of stores without a file, and a fault has one place where it
//! can be injected.
//!
//! Errors are those of the operating system, with its error numbers where the store tells them apart (see the
//! single operations): a full disk is `ENOSPC`, a name that is taken `EEXIST`, a link where none may be
//! `ELOOP`.

mod memory;
pub(crate) mod real;

pub use memory::{Clock, Fault, MemoryDisk, PagePool};
pub use real::RealDisk;

use std::any::Any;
use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What lies under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Link,
    /// A device, a pipe, a socket.
    Other,
}

/// What is known about a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// What it is.
    pub kind: FileKind,
    /// Length in bytes.
    pub len: u64,
    /// Bytes it takes up on the disk, with those reserved for it.
    pub allocated_len: u64,
    /// Device.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Names it has.
    pub nlink: u64,
    /// Permissions, the lower twelve bits of st_mode(3).
    pub mode: u32,
    /// Last change of the content, in seconds and nanoseconds since 1970.
    pub mtime: (i64, i64),
    /// Last change of content or metadata, likewise.
    pub ctime: (i64, i64),
    /// When it was made, where the file system keeps that.
    pub born: Option<(u64, u32)>,
}

impl Metadata {
    /// Whether it is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.kind == FileKind::File
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Dir
    }
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name, without the directory.
    pub name: OsString,
    /// What it names; a link is not followed.
    pub kind: FileKind,
}

/// The entries of a directory, in whatever order the disk has them.
pub type DirEntries = Box<dyn Iterator<Item = io::Result<DirEntry>>>;

/// How a file is opened by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// To read it; a link is followed.
    Read,
    /// To read it; a link in the last component is not followed, and the call does not wait, as it would for
    /// a named pipe. What was opened may be anything: look at its metadata.
    ReadNoFollow,
    /// To read and write what is there; a link is followed.
    ReadWrite,
    /// To read and write it, made with mode 0600 if it is not there; a link in the last component is not
    /// followed.
    ReadWriteOrCreate,
    /// To read and write a new file of mode 0600, whatever the umask is. Fails with `EEXIST` if anything has
    /// that name.
    CreatePrivate,
    /// To write a new file with the user's usual permissions. Fails with `EEXIST` if anything has that name.
    CreateNew,
}

/// A disk, or a computer's file systems together. Cheap to share; every method may be called from any thread.
///
/// What is written, and what is done to names, lasts only after a sync: of the file for its content and
/// length, of the directory for its names.
pub trait Disk: Debug + Send + Sync {
    /// Whether work on this disk may be shared out among threads. If not, the store does everything on the
    /// thread that calls it, in one order.
    fn threads(&self) -> bool;

    /// The process id that a lock file names as its owner.
    fn process_id(&self) -> u32;

    /// Looks at what a path leads to; links are followed.
    ///
    /// # Errors
    /// `NotFound` or `NotADirectory` if nothing is there.
    fn metadata(&self, path: &Path) -> io::Result<Metadata>;

    /// Looks at what has this name; a link in the last component is not followed.
    ///
    /// # Errors
    /// As for [`Self::metadata`].
    fn symlink_metadata(&self, path: &Path) -> io::Result<Metadata>;

    /// The absolute path without links, `.` and `..` of something that is there.
    ///
    /// # Errors
    /// As for [`Self::metadata`].
    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf>;

    /// Lists a directory.
    ///
    /// # Errors
    /// If it is none, or cannot be read.
    fn read_dir(&self, path: &Path) -> io::Result<DirEntries>;

    /// Opens a file.
    ///
    /// # Errors
    /// See [`OpenMode`].
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens a directory; links are followed.
    ///
    /// # Errors
    /// `ENOTDIR` if it is none.
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn DiskDir>>;

    /// Makes a directory and its missing parents for this user alone (mode 0700).
    ///
    /// # Errors
    /// If something else has the name of one of them.
    fn create_private_dir(&self, path: &Path) -> io::Result<()>;

    /// Gives a file or directory another name. What had that name is replaced, if it is a file or, by a
    /// directory, an empty directory.
    ///
    /// # Errors
    /// If what had the name cannot be replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file or a link.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `ENOTEMPTY` if it is not empty.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// Removes a directory and everything below it; follows no link.
    ///
    /// # Errors
    /// The first failure; what was removed until then is gone.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;

    /// Makes `to`, an empty file, share the bytes of `from` until one of them is written to.
    ///
    /// # Errors
    /// If the file system cannot do that; the caller copies then.
    fn reflink(&self, from: &dyn DiskFile, to: &dyn DiskFile) -> io::Result<()>;
}

/// An open file. Dropping the last reference closes it and gives up its locks.
pub trait DiskFile: Debug + Send + Sync {
    /// The file itself, for the disk that opened it.
    fn as_any(&self) -> &dyn Any;

    /// Looks at the file as it is now.
    ///
    /// # Errors
    /// If the disk fails.
    fn metadata(&self) -> io::Result<Metadata>;

    /// Reads up to `buffer.len()` bytes; 0 at the end of the file.
    ///
    /// # Errors
    /// If the disk fails.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Reads exactly `buffer.len()` bytes.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file is shorter.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// This range will be read soon: the system may fetch it ahead. Does nothing where it knows no such thing.
    fn will_read(&self, offset: u64, len: u64);

    /// Writes all of `data`; beyond the end the file grows, and what is left out reads as zeros.
    ///
    /// # Errors
    /// `ENOSPC` if the disk is full; a part may be written then.
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts the file off, or makes it longer with a hole.
    ///
    /// # Errors
    /// If the disk fails.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Reserves space, so that writes to this range cannot fail for want of it.
    ///
    /// # Errors
    /// `ENOSPC` if there is not enough. `EOPNOTSUPP` if the file system cannot do that, or pays for it with a second write
    /// of every page, as tmpfs does: then any write may find the disk full.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;

    /// Whether anything was ever written to a range. Where the file system does not know: true.
    fn has_data(&self, offset: u64, len: u64) -> bool;

    /// Sets or removes the executable bit; whoever may read may then execute.
    ///
    /// # Errors
    /// If the permissions cannot be changed.
    fn set_exec(&self, is_exec: bool) -> io::Result<()>;

    /// Makes content and length last.
    ///
    /// # Errors
    /// What was written since the last sync may be lost then, even if a later sync works.
    fn sync_data(&self) -> io::Result<()>;

    /// Makes content, length and times last. Not the name: that is for [`DiskDir::sync`].
    ///
    /// # Errors
    /// As for [`Self::sync_data`].
    fn sync_all(&self) -> io::Result<()>;

    /// Locks the file against other handles, of this process too. False if another one has it.
    ///
    /// # Errors
    /// If the file system knows no locks.
    fn try_lock(&self) -> io::Result<bool>;

    /// Like [`Self::try_lock`], but several may have the lock shared. An exclusive one that this handle has
    /// is given up for it.
    ///
    /// # Errors
    /// As for [`Self::try_lock`].
    fn try_lock_shared(&self) -> io::Result<bool>;

    /// Gives up the lock.
    ///
    /// # Errors
    /// As for [`Self::try_lock`].
    fn unlock(&self) -> io::Result<()>;
}

/// An open directory. Names are single components and links are never followed, so nothing outside the
/// directory can be reached through it, whatever is planted there meanwhile.
pub trait DiskDir: Debug + Send + Sync {
    /// Opens a directory in this one.
    ///
    /// # Errors
    /// `ENOTDIR` or `ELOOP` if it is something else.
    fn open_dir(&self, name: &OsStr) -> io::Result<Arc<dyn DiskDir>>;

    /// Like [`Self::open_dir`], and makes it if nothing has the name.
    ///
    /// # Errors
    /// As for [`Self::open_dir`].
    fn make_dir(&self, name: &OsStr) -> io::Result<Arc<dyn DiskDir>>;

    /// Opens a file for reading and writing. Does not wait; it may be something else than a regular file.
    ///
    /// # Errors
    /// `ELOOP` if it is a link, `EISDIR` if it is a directory.
    fn open_file(&self, name: &OsStr) -> io::Result<Arc<dyn DiskFile>>;

    /// Like [`Self::open_file`], and makes it if nothing has the name. Says whether it was made.
    ///
    /// # Errors
    /// As for [`Self::open_file`].
    fn open_or_create(&self, name: &OsStr, is_exec: bool) -> io::Result<(Arc<dyn DiskFile>, bool)>;

    /// Gives something in here another name in here, replacing what had it.
    ///
    /// # Errors
    /// As for [`Disk::rename`].
    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()>;

    /// Like [`Self::rename`], and replaces nothing. `is_dir` says what is renamed.
    ///
    /// # Errors
    /// `AlreadyExists` if something has the name.
    fn rename_new(&self, from: &OsStr, to: &OsStr, is_dir: bool) -> io::Result<()>;

    /// Makes the names in here last.
    ///
    /// # Errors
    /// If the disk fails.
    fn sync(&self) -> io::Result<()>;

    /// Makes everything last that was written to the file system this directory is on.
    ///
    /// # Errors
    /// If the disk fails.
    fn sync_fs(&self) -> io::Result<()>;

    /// Bytes this user may still write to the file system.
    ///
    /// # Errors
    /// If the disk fails.
    fn free_len(&self) -> io::Result<u64>;

    /// Locks the directory like [`DiskFile::try_lock`].
    ///
    /// # Errors
    /// As for [`DiskFile::try_lock`].
    fn try_lock(&self) -> io::Result<bool>;
}
