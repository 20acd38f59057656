//! The files of an unfinished download.
//!
//! A single file is written to `<output>.part` beside its final name, a directory to the folder
//! `<output>.part` with the files at their final relative names inside. Every name comes from a checked
//! [`RelPath`] and is opened one component at a time below an open directory, following no link; so nothing
//! outside is touched, whatever somebody plants there meanwhile.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::blobs::MAX_SINGLE_SYNCS;
use crate::cache::Lru;
use crate::cid::ManifestCid;
use crate::download::plan::Plan;
use crate::error::{DownloadError, FileError};
use crate::fsutil::{FileStamp, is_no_space, rename_new};
use crate::name::RelPath;
use crate::store::lock;

/// Added to the name of the output while it is incomplete.
const PART_SUFFIX: &str = ".part";

/// Longest file name of the usual file systems, in bytes.
const MAX_NAME_LEN: usize = 255;

/// Files a download keeps open. Chunks arrive roughly in order, so a few files are written at a time; and
/// many downloads may run at once.
const MAX_OPEN_PART_FILES: usize = 16;

/// Unit in which stat(2) counts blocks, in bytes.
const STAT_BLOCK_LEN: u64 = 512;

/// Files below this length are not preallocated: their few blocks are cheaper to place when they are written.
const MIN_PREALLOCATE_LEN: u64 = 1 << 20;

/// Where a download to `output` keeps what it has. A name too long for the suffix is cut and told apart by
/// the CID.
pub(crate) fn part_path(output: &Path, root: &ManifestCid) -> PathBuf {
    let name = output.file_name().unwrap_or_default();
    let mut part = name.as_bytes().to_vec();
    if part.len() + PART_SUFFIX.len() > MAX_NAME_LEN {
        let cid = root.to_string();
        let mark = cid.as_bytes().last_chunk::<12>().map_or(&[][..], |mark| mark);
        part.truncate(MAX_NAME_LEN - PART_SUFFIX.len() - mark.len());
        part.extend_from_slice(mark);
    }
    part.extend_from_slice(PART_SUFFIX.as_bytes());
    output.with_file_name(OsStr::from_bytes(&part))
}

/// The open part file or part directory of a download.
#[derive(Debug)]
pub(crate) struct PartFiles {
    /// The directory that holds the part and will hold the output.
    parent: OwnedFd,
    parent_path: PathBuf,
    part_path: PathBuf,
    part_name: OsString,
    output_name: OsString,
    is_dir: bool,
    /// The part directory, once it is open; `None` if the output is a single file.
    root: Option<OwnedFd>,
    /// Which files were made by this handle: what was not written to them is zeros.
    fresh: Vec<bool>,
    /// The single part file, open for as long as this handle lives: it carries the lock.
    held: Option<Arc<File>>,
    /// The inode of each file: another file in its place is not written to.
    inodes: Vec<u64>,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    files: Lru<u32, Arc<File>>,
    cursor: Cursor,
}

/// The chain of open directories that leads to the file opened last; the next one is probably near.
#[derive(Debug, Default)]
struct Cursor {
    chain: Vec<(String, OwnedFd)>,
}

impl PartFiles {
    /// Opens the directory in which `output` will be. Nothing is made yet.
    pub(crate) fn new(output: &Path, plan: &Plan) -> Result<Self, DownloadError> {
        let parent_path = output.parent().unwrap_or(Path::new("/")).to_owned();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = rustix::fs::open(&parent_path, flags, Mode::empty())
            .map_err(|errno| FileError::new("open the directory", &parent_path, errno))?;
        let part_path = part_path(output, &plan.root);
        Ok(Self {
            parent,
            parent_path,
            part_name: part_path.file_name().unwrap_or_default().to_owned(),
            part_path,
            output_name: output.file_name().unwrap_or_default().to_owned(),
            is_dir: plan.is_dir,
            root: None,
            held: None,
            fresh: Vec::new(),
            inodes: Vec::new(),
            open: Mutex::new(Open { files: Lru::new(MAX_OPEN_PART_FILES), cursor: Cursor::default() }),
        })
    }

    /// Locks the part against fetches of other processes, until this handle is dropped. False if another one has it.
    /// Where the file system knows no locks there is none.
    pub(crate) fn lock(&mut self, plan: &Plan) -> Result<bool, DownloadError> {
        let locked = match &self.root {
            Some(root) => rustix::fs::flock(root, FlockOperation::NonBlockingLockExclusive),
            None => {
                let file = self.file(plan, 0)?;
                let locked = rustix::fs::flock(&*file, FlockOperation::NonBlockingLockExclusive);
                self.held = Some(file);
                locked
            }
        };
        Ok(locked != Err(Errno::WOULDBLOCK))
    }

    pub(crate) fn part_path(&self) -> &Path {
        &self.part_path
    }

    /// Bytes this user may still write to the file system of the output.
    pub(crate) fn free_len(&self) -> Result<u64, DownloadError> {
        let stat = rustix::fs::fstatvfs(&self.parent)
            .map_err(|errno| FileError::new("look up the free space of", &self.parent_path, errno))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Makes what is missing of the directories and files, each file with its final length, and opens what is
    /// there. Returns the files' stamps.
    pub(crate) fn create(&mut self, plan: &Plan) -> Result<Vec<FileStamp>, DownloadError> {
        let mut cursor = Cursor::default();
        if plan.is_dir {
            let part = Path::new(&self.part_name);
            self.root = Some(make_dir(self.parent.as_fd(), part).map_err(|errno| self.dir_error("", errno))?);
            for dir in &plan.dirs {
                let (above, name) = self.locate(&mut cursor, dir)?;
                make_dir(above, Path::new(name)).map_err(|errno| self.dir_error(dir, errno))?;
            }
        }
        let mut stamps = Vec::with_capacity(plan.files.len());
        for file in &plan.files {
            let (dir, name) = self.locate(&mut cursor, &file.path)?;
            let path = file.path.below(&self.part_path);
            let (opened, is_fresh) =
                open_or_create(dir, Path::new(name), file.is_exec).map_err(|error| refine(error, &path))?;
            let write_error = |source| FileError::new("write", &path, source);
            let meta = opened.metadata().map_err(write_error)?;
            if !meta.is_file() || meta.nlink() > 1 {
                // A second name would be some other file of the user, which must not be written to.
                return Err(DownloadError::OutsideTarget(path));
            }
            if meta.len() != file.size {
                opened.set_len(file.size).map_err(write_error)?;
            }
            set_exec(&opened, &meta, file.is_exec).map_err(write_error)?;
            stamps.push(FileStamp::of(&opened.metadata().map_err(write_error)?));
            self.fresh.push(is_fresh);
            self.inodes.push(meta.ino());
        }
        lock(&self.open).cursor = cursor;
        Ok(stamps)
    }

    /// Reserves the blocks of everything that is not a hole, so that the disk cannot fill up half-way.
    pub(crate) fn preallocate(&self, plan: &Plan) -> Result<(), DownloadError> {
        for (index, file) in (0..).zip(&plan.files) {
            if file.size < MIN_PREALLOCATE_LEN {
                continue;
            }
            let opened = self.file(plan, index)?;
            let mut run: Option<(u64, u64)> = None;
            for (position, chunk) in (0..).zip(&file.chunks) {
                let (offset, len) = file.layout().span(position);
                let is_hole = plan.is_zero(*chunk);
                run = match run {
                    Some((start, end)) if !is_hole && end == offset => Some((start, offset + u64::from(len))),
                    run => {
                        self.allocate(&opened, run)?;
                        (!is_hole).then(|| (offset, offset + u64::from(len)))
                    }
                };
            }
            self.allocate(&opened, run)?;
        }
        Ok(())
    }

    /// Bytes that the part has on the disk already.
    pub(crate) fn allocated_len(&self, plan: &Plan) -> u64 {
        let blocks = |path: PathBuf| std::fs::symlink_metadata(path).map_or(0, |meta| meta.blocks());
        let all = plan.files.iter().map(|file| blocks(file.path.below(&self.part_path)));
        all.fold(0u64, |sum, blocks| sum.saturating_add(blocks.saturating_mul(STAT_BLOCK_LEN)))
    }

    /// Deletes the files that this handle made, and the directories that are empty then, because the download
    /// cannot begin. What stays behind is taken up by the next try.
    pub(crate) fn discard_fresh(&self, plan: &Plan) {
        for (index, file) in (0..).zip(&plan.files) {
            if self.is_fresh(index) {
                let _ = std::fs::remove_file(file.path.below(&self.part_path));
            }
        }
        for dir in plan.dirs.iter().rev() {
            let _ = std::fs::remove_dir(dir.below(&self.part_path));
        }
        if plan.is_dir {
            let _ = std::fs::remove_dir(&self.part_path);
        }
    }

    fn allocate(&self, file: &File, run: Option<(u64, u64)>) -> Result<(), DownloadError> {
        let Some((start, end)) = run else { return Ok(()) };
        match rustix::fs::fallocate(file, FallocateFlags::empty(), start, end - start) {
            // Not every file system can; then the blocks are found when they are written.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            Err(Errno::NOSPC | Errno::DQUOT) => {
                Err(DownloadError::NoSpace { need: end - start, have: self.free_len()? })
            }
            Err(errno) => Err(FileError::new("reserve space for", &self.part_path, errno).into()),
        }
    }

    /// Whether a file was made by this handle, so that untouched bytes of it are zeros.
    pub(crate) fn is_fresh(&self, file: u32) -> bool {
        self.fresh.get(file as usize).copied().unwrap_or(false)
    }

    /// Whether a place of the tree reads as zeros without having been written: it is a hole, or untouched.
    pub(crate) fn is_hole(&self, plan: &Plan, file: u32, offset: u64, len: u32) -> bool {
        self.is_fresh(file) || self.file(plan, file).is_ok_and(|file| !has_data(&file, offset, len))
    }

    /// A file of the tree, open for reading and writing. It must have been made.
    pub(crate) fn file(&self, plan: &Plan, index: u32) -> Result<Arc<File>, DownloadError> {
        let mut open = lock(&self.open);
        if let Some(file) = open.files.get(index) {
            return Ok(file.clone());
        }
        let Some(file) = plan.files.get(index as usize) else {
            return Err(DownloadError::OutsideTarget(self.part_path.clone()));
        };
        let (dir, name) = self.locate(&mut open.cursor, &file.path)?;
        let opened = open_existing(dir, Path::new(name));
        let path = || file.path.below(&self.part_path);
        let opened = Arc::new(opened.map_err(|error| refine(error, &path()))?);
        let meta = opened.metadata().map_err(|source| FileError::new("open", &path(), source))?;
        if self.inodes.get(index as usize) != Some(&meta.ino()) {
            return Err(DownloadError::OutsideTarget(path()));
        }
        open.files.insert(index, opened.clone());
        Ok(opened)
    }

    /// Writes at one place of the tree.
    pub(crate) fn write(
        &self,
        plan: &Plan,
        file: u32,
        offset: u64,
        data: &[u8],
    ) -> Result<(), DownloadError> {
        let opened = self.file(plan, file)?;
        std::os::unix::fs::FileExt::write_all_at(&*opened, data, offset).map_err(|source| {
            if is_no_space(&source)
                && let Ok(have) = self.free_len()
            {
                return DownloadError::NoSpace { need: data.len() as u64, have };
            }
            FileError::new("write", &self.part_path, source).into()
        })
    }

    /// Makes the content of these files last, and with `layout` also the names of all files and directories.
    pub(crate) fn sync(
        &self,
        plan: &Plan,
        files: impl ExactSizeIterator<Item = u32>,
        layout: bool,
    ) -> Result<(), DownloadError> {
        let error = |errno: Errno| FileError::new("sync", &self.part_path, errno);
        if files.len() > MAX_SINGLE_SYNCS || (layout && self.is_dir) {
            rustix::fs::syncfs(&self.parent).map_err(error)?;
            return Ok(());
        }
        for file in files {
            self.file(plan, file)?
                .sync_data()
                .map_err(|source| FileError::new("sync", &self.part_path, source))?;
        }
        if layout {
            rustix::fs::fsync(&self.parent).map_err(error)?;
        }
        Ok(())
    }

    /// Gives the part its final name and makes that last. Replaces a file only with `force`, a directory only
    /// with `force` and only an empty one.
    pub(crate) fn rename(&self, force: bool) -> Result<(), DownloadError> {
        let (from, to) = (Path::new(&self.part_name), Path::new(&self.output_name));
        let output = || self.parent_path.join(to);
        let renamed = if force {
            rustix::fs::renameat(&self.parent, from, &self.parent, to).map_err(io::Error::from)
        } else {
            rename_new(&self.parent, from, to, self.is_dir)
        };
        renamed.map_err(|source| match source.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::EXIST | Errno::NOTEMPTY | Errno::ISDIR | Errno::NOTDIR) => {
                DownloadError::Exists(output())
            }
            _ if source.kind() == io::ErrorKind::AlreadyExists => DownloadError::Exists(output()),
            _ => FileError::new("rename", &self.part_path, source).into(),
        })?;
        self.sync_parent()
    }

    /// Makes the names in the directory of the output last.
    pub(crate) fn sync_parent(&self) -> Result<(), DownloadError> {
        rustix::fs::fsync(&self.parent)
            .map_err(|errno| FileError::new("sync", &self.parent_path, errno).into())
    }

    /// The open directory above a file or directory of the tree, and its name in there.
    fn locate<'a>(
        &'a self,
        cursor: &'a mut Cursor,
        path: &'a RelPath,
    ) -> Result<(BorrowedFd<'a>, &'a OsStr), DownloadError> {
        let Some(name) = path.name() else { return Ok((self.parent.as_fd(), &self.part_name)) };
        let above = || path.components().take(path.depth() - 1);
        let same = cursor.chain.iter().zip(above()).take_while(|((open, _), name)| open == name).count();
        cursor.chain.truncate(same);
        let root = self.root.as_ref().unwrap_or(&self.parent).as_fd();
        for name in above().skip(same) {
            let parent = cursor.chain.last().map_or(root, |(_, fd)| fd.as_fd());
            let fd = open_dir(parent, Path::new(name)).map_err(|errno| self.dir_error(path, errno))?;
            cursor.chain.push((name.to_owned(), fd));
        }
        Ok((cursor.chain.last().map_or(root, |(_, fd)| fd.as_fd()), OsStr::new(name)))
    }

    fn dir_error(&self, name: impl std::fmt::Display, errno: Errno) -> DownloadError {
        refine(errno.into(), &self.part_path.join(name.to_string()))
    }
}

/// Whether a range is anything but a hole. Where the file system does not know, it counts as data.
pub(crate) fn has_data(file: &File, offset: u64, len: u32) -> bool {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) => data < offset.saturating_add(u64::from(len)),
        // Nothing but a hole up to the end.
        Err(Errno::NXIO) => false,
        Err(_) => true,
    }
}

/// A link, or a file where a directory should be, is somebody else's doing.
fn refine(error: io::Error, path: &Path) -> DownloadError {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::LOOP | Errno::NOTDIR | Errno::ISDIR | Errno::NXIO) => {
            DownloadError::OutsideTarget(path.to_owned())
        }
        _ => FileError::new("create", path, error).into(),
    }
}

fn open_dir(above: BorrowedFd<'_>, name: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(above, name, flags, Mode::empty())
}

fn make_dir(above: BorrowedFd<'_>, name: &Path) -> rustix::io::Result<OwnedFd> {
    match rustix::fs::mkdirat(above, name, Mode::RWXU | Mode::RWXG | Mode::RWXO) {
        Ok(()) | Err(Errno::EXIST) => open_dir(above, name),
        Err(errno) => Err(errno),
    }
}

/// Makes a file, or opens it if it is there. Says whether it was made.
fn open_or_create(dir: BorrowedFd<'_>, name: &Path, is_exec: bool) -> io::Result<(File, bool)> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(if is_exec { 0o777 } else { 0o666 })) {
        Ok(fd) => Ok((File::from(fd), true)),
        Err(Errno::EXIST) => Ok((open_existing(dir, name)?, false)),
        Err(errno) => Err(errno.into()),
    }
}

fn open_existing(dir: BorrowedFd<'_>, name: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?))
}

/// Corrects the executable bit of a file that was there already.
fn set_exec(file: &File, meta: &std::fs::Metadata, is_exec: bool) -> io::Result<()> {
    let mode = meta.mode();
    if (mode & 0o100 != 0) == is_exec {
        return Ok(());
    }
    // Whoever may read may execute.
    let wanted = if is_exec { mode | (mode & 0o444) >> 2 } else { mode & !0o111 };
    file.set_permissions(std::fs::Permissions::from_mode(wanted & 0o777))
}
