//! The operating system's file systems.

use std::any::Any;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use rustix::fs::{AtFlags, FallocateFlags, FlockOperation, Mode, OFlags, RenameFlags, SeekFrom};
use rustix::io::Errno;

use crate::disk::{DirEntries, DirEntry, Disk, DiskDir, DiskFile, FileKind, Metadata, OpenMode};

/// Unit in which stat(2) counts blocks, in bytes.
const STAT_BLOCK_LEN: u64 = 512;

/// What statfs(2) calls a file system in memory.
const TMPFS_MAGIC: u32 = 0x0102_1994;

/// The permission bits of st_mode(3).
const MODE_MASK: u32 = 0o7777;

/// The file systems of this computer, as the operating system gives them.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

/// A file of [`RealDisk`].
#[derive(Debug)]
pub(crate) struct RealFile(File);

/// A directory of [`RealDisk`].
#[derive(Debug)]
struct RealDir(OwnedFd);

impl RealFile {
    /// The file behind it, for redb.
    pub(crate) fn file(&self) -> &File {
        &self.0
    }
}

fn kind(file_type: fs::FileType) -> FileKind {
    if file_type.is_file() {
        FileKind::File
    } else if file_type.is_dir() {
        FileKind::Dir
    } else if file_type.is_symlink() {
        FileKind::Link
    } else {
        FileKind::Other
    }
}

/// When a file was made, in seconds and nanoseconds since 1970.
fn born(meta: &fs::Metadata) -> Option<(u64, u32)> {
    let since = meta.created().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((since.as_secs(), since.subsec_nanos()))
}

impl From<fs::Metadata> for Metadata {
    fn from(meta: fs::Metadata) -> Self {
        Self {
            kind: kind(meta.file_type()),
            len: meta.len(),
            allocated_len: meta.blocks().saturating_mul(STAT_BLOCK_LEN),
            dev: meta.dev(),
            ino: meta.ino(),
            nlink: meta.nlink(),
            mode: meta.mode() & MODE_MASK,
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
            born: born(&meta),
        }
    }
}

fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

impl Disk for RealDisk {
    fn threads(&self) -> bool {
        true
    }

    fn process_id(&self) -> u32 {
        std::process::id()
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        fs::metadata(path).map(Into::into)
    }

    fn symlink_metadata(&self, path: &Path) -> io::Result<Metadata> {
        fs::symlink_metadata(path).map(Into::into)
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        path.canonicalize()
    }

    fn read_dir(&self, path: &Path) -> io::Result<DirEntries> {
        Ok(Box::new(fs::read_dir(path)?.map(|entry| {
            let entry = entry?;
            Ok(DirEntry { kind: kind(entry.file_type()?), name: entry.file_name() })
        })))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        match mode {
            OpenMode::Read => options.read(true),
            OpenMode::ReadNoFollow => {
                options.read(true).custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK))
            }
            OpenMode::ReadWrite => options.read(true).write(true),
            OpenMode::ReadWriteOrCreate => options
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(flags(OFlags::NOFOLLOW)),
            OpenMode::CreatePrivate => options.read(true).write(true).create_new(true).mode(0o600),
            OpenMode::CreateNew => options.write(true).create_new(true),
        };
        let file = options.open(path)?;
        if mode == OpenMode::CreatePrivate {
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
        }
        Ok(Arc::new(RealFile(file)))
    }

    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn DiskDir>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Arc::new(RealDir(rustix::fs::open(path, flags, Mode::empty())?)))
    }

    fn create_private_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        // The umask can only have taken bits away, which may have left a directory that cannot be entered.
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn reflink(&self, from: &dyn DiskFile, to: &dyn DiskFile) -> io::Result<()> {
        let files = from.as_any().downcast_ref::<RealFile>().zip(to.as_any().downcast_ref::<RealFile>());
        let (from, to) = files.ok_or(Errno::OPNOTSUPP)?;
        Ok(rustix::fs::ioctl_ficlone(&to.0, &from.0)?)
    }
}

fn locked(result: Result<(), TryLockError>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

impl DiskFile for RealFile {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn metadata(&self) -> io::Result<Metadata> {
        self.0.metadata().map(Into::into)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn will_read(&self, offset: u64, len: u64) {
        // Advice: without it everything is only slower.
        #[cfg(target_os = "linux")]
        if let Some(len) = std::num::NonZeroU64::new(len) {
            let _ = rustix::fs::fadvise(&self.0, offset, Some(len), rustix::fs::Advice::WillNeed);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (offset, len);
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        // A file system in memory reserves by clearing every page, which then is written a second time.
        if u32::try_from(rustix::fs::fstatfs(&self.0)?.f_type) == Ok(TMPFS_MAGIC) {
            return Err(Errno::OPNOTSUPP.into());
        }
        Ok(rustix::fs::fallocate(&self.0, FallocateFlags::empty(), offset, len)?)
    }

    fn has_data(&self, offset: u64, len: u64) -> bool {
        match rustix::fs::seek(&self.0, SeekFrom::Data(offset)) {
            Ok(data) => data < offset.saturating_add(len),
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => false,
            Err(_) => true,
        }
    }

    fn set_exec(&self, is_exec: bool) -> io::Result<()> {
        let mode = self.0.metadata()?.mode();
        let wanted = if is_exec { mode | (mode & 0o444) >> 2 } else { mode & !0o111 };
        self.0.set_permissions(fs::Permissions::from_mode(wanted & 0o777))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.sync_all()
    }

    fn try_lock(&self) -> io::Result<bool> {
        locked(self.0.try_lock())
    }

    fn try_lock_shared(&self) -> io::Result<bool> {
        locked(self.0.try_lock_shared())
    }

    fn unlock(&self) -> io::Result<()> {
        self.0.unlock()
    }
}

impl RealDir {
    fn rename_at(&self, from: &OsStr, to: &OsStr) -> Result<(), Errno> {
        rustix::fs::renameat(&self.0, from, &self.0, to)
    }
}

impl DiskDir for RealDir {
    fn open_dir(&self, name: &OsStr) -> io::Result<Arc<dyn DiskDir>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Arc::new(Self(rustix::fs::openat(&self.0, name, flags, Mode::empty())?)))
    }

    fn make_dir(&self, name: &OsStr) -> io::Result<Arc<dyn DiskDir>> {
        match rustix::fs::mkdirat(&self.0, name, Mode::RWXU | Mode::RWXG | Mode::RWXO) {
            Ok(()) | Err(Errno::EXIST) => self.open_dir(name),
            Err(errno) => Err(errno.into()),
        }
    }

    fn open_file(&self, name: &OsStr) -> io::Result<Arc<dyn DiskFile>> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.0, name, flags, Mode::empty())?;
        Ok(Arc::new(RealFile(File::from(file))))
    }

    fn open_or_create(&self, name: &OsStr, is_exec: bool) -> io::Result<(Arc<dyn DiskFile>, bool)> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(if is_exec { 0o777 } else { 0o666 });
        match rustix::fs::openat(&self.0, name, flags, mode) {
            Ok(file) => Ok((Arc::new(RealFile(File::from(file))), true)),
            Err(Errno::EXIST) => Ok((self.open_file(name)?, false)),
            Err(errno) => Err(errno.into()),
        }
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        Ok(self.rename_at(from, to)?)
    }

    /// Where the file system cannot promise in one step to replace nothing (`RENAME_NOREPLACE` of
    /// renameat2(2)), a file gets its new name as a second link first, which does promise it. Directories,
    /// and files where there are no links either, are looked up before the rename; a name that appears in
    /// that instant is replaced if it is a file or an empty directory.
    fn rename_new(&self, from: &OsStr, to: &OsStr, is_dir: bool) -> io::Result<()> {
        let dir = &self.0;
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
            Err(Errno::NOENT) => Ok(self.rename_at(from, to)?),
            Err(error) => Err(error.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.0)?)
    }

    fn sync_fs(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(&self.0)?)
    }

    fn free_len(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(&self.0)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn try_lock(&self) -> io::Result<bool> {
        match rustix::fs::flock(&self.0, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much of a disk a file in `dir` takes after a mebibyte was reserved in it; how that was refused.
    fn reserved(dir: &Path) -> Result<u64, Option<Errno>> {
        let file = RealFile(tempfile::tempfile_in(dir).unwrap());
        let result = file.allocate(0, 1 << 20);
        result.map_err(|error| Errno::from_io_error(&error))?;
        Ok(file.metadata().unwrap().allocated_len)
    }

    fn is_memory(dir: &Path) -> bool {
        u32::try_from(rustix::fs::statfs(dir).unwrap().f_type) == Ok(TMPFS_MAGIC)
    }

    #[test]
    fn space_is_reserved_where_that_costs_nothing() {
        for dir in [std::env::temp_dir(), "/dev/shm".into()].iter().filter(|dir| dir.is_dir()) {
            match reserved(dir) {
                Ok(len) => assert!(!is_memory(dir) && len >= 1 << 20, "{}: {len}", dir.display()),
                Err(errno) => {
                    // Some file systems on disks can't either; they say so the same way.
                    assert_eq!(errno, Some(Errno::OPNOTSUPP), "{}", dir.display());
                }
            }
            assert!(!is_memory(dir) || reserved(dir).is_err(), "{} is memory", dir.display());
        }
    }
}
