//! The files of an unfinished download.
//!
//! A single file is written to `<output>.part` beside its final name, a directory to the folder
//! `<output>.part` with the files at their final relative names inside. Every name comes from a checked
//! [`RelPath`] and is opened one component at a time below an open directory, following no link; so nothing
//! outside is touched, whatever somebody plants there meanwhile.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use crate::blobs::MAX_SINGLE_SYNCS;
use crate::cache::Lru;
use crate::cid::ManifestCid;
use crate::disk::{Disk, DiskDir, DiskFile};
use crate::download::plan::Plan;
use crate::error::{DownloadError, FileError};
use crate::fsutil::{FileStamp, is_no_space};
use crate::name::RelPath;
use crate::store::lock;

/// Added to the name of the output while it is incomplete.
const PART_SUFFIX: &str = ".part";

/// Longest file name of the usual file systems, in bytes.
const MAX_NAME_LEN: usize = 255;

/// Files a download keeps open. Chunks arrive roughly in order, so a few files are written at a time; and
/// many downloads may run at once.
const MAX_OPEN_PART_FILES: usize = 16;

/// Permission bit of a file's owner.
const OWNER_MAY_EXECUTE: u32 = 0o100;

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
    disk: Arc<dyn Disk>,
    /// The directory that holds the part and will hold the output.
    parent: Arc<dyn DiskDir>,
    parent_path: PathBuf,
    part_path: PathBuf,
    part_name: OsString,
    output_name: OsString,
    is_dir: bool,
    /// The part directory, once it is open; `None` if the output is a single file.
    root: Option<Arc<dyn DiskDir>>,
    /// Which files were made by this handle: what was not written to them is zeros.
    fresh: Vec<bool>,
    /// The single part file, open for as long as this handle lives: it carries the lock.
    held: Option<Arc<dyn DiskFile>>,
    /// The inode of each file: another file in its place is not written to.
    inodes: Vec<u64>,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    files: Lru<u32, Arc<dyn DiskFile>>,
    cursor: Cursor,
}

/// The chain of open directories that leads to the file opened last; the next one is probably near.
#[derive(Debug, Default)]
struct Cursor {
    chain: Vec<(String, Arc<dyn DiskDir>)>,
}

impl PartFiles {
    /// Opens the directory in which `output` will be. Nothing is made yet.
    pub(crate) fn new(disk: &Arc<dyn Disk>, output: &Path, plan: &Plan) -> Result<Self, DownloadError> {
        let parent_path = output.parent().unwrap_or(Path::new("/")).to_owned();
        let parent = disk
            .open_dir(&parent_path)
            .map_err(|source| FileError::new("open the directory", &parent_path, source))?;
        let part_path = part_path(output, &plan.root);
        Ok(Self {
            disk: disk.clone(),
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
            Some(root) => root.try_lock(),
            None => {
                let file = self.file(plan, 0)?;
                let locked = file.try_lock();
                self.held = Some(file);
                locked
            }
        };
        Ok(locked.unwrap_or(true))
    }

    pub(crate) fn part_path(&self) -> &Path {
        &self.part_path
    }

    /// Bytes this user may still write to the file system of the output.
    pub(crate) fn free_len(&self) -> Result<u64, DownloadError> {
        let free = self.parent.free_len();
        Ok(free.map_err(|source| FileError::new("look up the free space of", &self.parent_path, source))?)
    }

    /// Makes what is missing of the directories and files, each file with its final length, and opens what is
    /// there. Returns the files' stamps.
    pub(crate) fn create(&mut self, plan: &Plan) -> Result<Vec<FileStamp>, DownloadError> {
        let mut cursor = Cursor::default();
        if plan.is_dir {
            let root = self.parent.make_dir(&self.part_name);
            self.root = Some(root.map_err(|error| self.dir_error("", error))?);
            for dir in &plan.dirs {
                let (above, name) = self.locate(&mut cursor, dir)?;
                above.make_dir(name).map_err(|error| self.dir_error(dir, error))?;
            }
        }
        let mut stamps = Vec::with_capacity(plan.files.len());
        for file in &plan.files {
            let (dir, name) = self.locate(&mut cursor, &file.path)?;
            let path = file.path.below(&self.part_path);
            let (opened, is_fresh) =
                dir.open_or_create(name, file.is_exec).map_err(|error| refine(error, &path))?;
            let write_error = |source| FileError::new("write", &path, source);
            let meta = opened.metadata().map_err(write_error)?;
            if !meta.is_file() || meta.nlink > 1 {
                // A second name would be some other file of the user, which must not be written to.
                return Err(DownloadError::OutsideTarget(path));
            }
            if meta.len != file.size {
                opened.set_len(file.size).map_err(write_error)?;
            }
            if (meta.mode & OWNER_MAY_EXECUTE != 0) != file.is_exec {
                opened.set_exec(file.is_exec).map_err(write_error)?;
            }
            stamps.push(FileStamp::of(&opened.metadata().map_err(write_error)?));
            self.fresh.push(is_fresh);
            self.inodes.push(meta.ino);
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
                        self.allocate(&*opened, run)?;
                        (!is_hole).then(|| (offset, offset + u64::from(len)))
                    }
                };
            }
            self.allocate(&*opened, run)?;
        }
        Ok(())
    }

    /// Bytes that the part has on the disk already.
    pub(crate) fn allocated_len(&self, plan: &Plan) -> u64 {
        let len = |path: PathBuf| self.disk.symlink_metadata(&path).map_or(0, |meta| meta.allocated_len);
        let all = plan.files.iter().map(|file| len(file.path.below(&self.part_path)));
        all.fold(0u64, u64::saturating_add)
    }

    /// Deletes the files that this handle made, and the directories that are empty then, because the download
    /// cannot begin. What stays behind is taken up by the next try.
    pub(crate) fn discard_fresh(&self, plan: &Plan) {
        for (index, file) in (0..).zip(&plan.files) {
            if self.is_fresh(index) {
                let _ = self.disk.remove_file(&file.path.below(&self.part_path));
            }
        }
        for dir in plan.dirs.iter().rev() {
            let _ = self.disk.remove_dir(&dir.below(&self.part_path));
        }
        if plan.is_dir {
            let _ = self.disk.remove_dir(&self.part_path);
        }
    }

    fn allocate(&self, file: &dyn DiskFile, run: Option<(u64, u64)>) -> Result<(), DownloadError> {
        let Some((start, end)) = run else { return Ok(()) };
        let Err(error) = file.allocate(start, end - start) else { return Ok(()) };
        match errno(&error) {
            // Not every file system can; then the blocks are found when they are written.
            Some(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            _ if is_no_space(&error) => {
                Err(DownloadError::NoSpace { need: end - start, have: self.free_len()? })
            }
            _ => Err(FileError::new("reserve space for", &self.part_path, error).into()),
        }
    }

    /// Whether a file was made by this handle, so that untouched bytes of it are zeros.
    pub(crate) fn is_fresh(&self, file: u32) -> bool {
        self.fresh.get(file as usize).copied().unwrap_or(false)
    }

    /// Whether a place of the tree reads as zeros without having been written: it is a hole, or untouched.
    pub(crate) fn is_hole(&self, plan: &Plan, file: u32, offset: u64, len: u32) -> bool {
        self.is_fresh(file) || self.file(plan, file).is_ok_and(|file| !file.has_data(offset, u64::from(len)))
    }

    /// A file of the tree, open for reading and writing. It must have been made.
    pub(crate) fn file(&self, plan: &Plan, index: u32) -> Result<Arc<dyn DiskFile>, DownloadError> {
        let mut open = lock(&self.open);
        if let Some(file) = open.files.get(index) {
            return Ok(file.clone());
        }
        let Some(file) = plan.files.get(index as usize) else {
            return Err(DownloadError::OutsideTarget(self.part_path.clone()));
        };
        let (dir, name) = self.locate(&mut open.cursor, &file.path)?;
        let opened = dir.open_file(name);
        let path = || file.path.below(&self.part_path);
        let opened = opened.map_err(|error| refine(error, &path()))?;
        let meta = opened.metadata().map_err(|source| FileError::new("open", &path(), source))?;
        if self.inodes.get(index as usize) != Some(&meta.ino) {
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
        opened.write_all_at(data, offset).map_err(|source| {
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
        let error = |source| FileError::new("sync", &self.part_path, source);
        if files.len() > MAX_SINGLE_SYNCS || (layout && self.is_dir) {
            self.parent.sync_fs().map_err(error)?;
            return Ok(());
        }
        for file in files {
            self.file(plan, file)?.sync_data().map_err(error)?;
        }
        if layout {
            self.parent.sync().map_err(error)?;
        }
        Ok(())
    }

    /// Gives the part its final name and makes that last. Replaces a file only with `force`, a directory only
    /// with `force` and only an empty one.
    pub(crate) fn rename(&self, force: bool) -> Result<(), DownloadError> {
        let (from, to) = (&self.part_name, &self.output_name);
        let output = || self.parent_path.join(to);
        let renamed =
            if force { self.parent.rename(from, to) } else { self.parent.rename_new(from, to, self.is_dir) };
        renamed.map_err(|source| match errno(&source) {
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
        self.parent.sync().map_err(|source| FileError::new("sync", &self.parent_path, source).into())
    }

    /// The open directory above a file or directory of the tree, and its name in there.
    fn locate<'a>(
        &'a self,
        cursor: &'a mut Cursor,
        path: &'a RelPath,
    ) -> Result<(&'a dyn DiskDir, &'a OsStr), DownloadError> {
        let Some(name) = path.name() else { return Ok((&*self.parent, &self.part_name)) };
        let above = || path.components().take(path.depth() - 1);
        let same = cursor.chain.iter().zip(above()).take_while(|((open, _), name)| open == name).count();
        cursor.chain.truncate(same);
        let root = &**self.root.as_ref().unwrap_or(&self.parent);
        for name in above().skip(same) {
            let parent = cursor.chain.last().map_or(root, |(_, dir)| &**dir);
            let dir = parent.open_dir(OsStr::new(name)).map_err(|error| self.dir_error(path, error))?;
            cursor.chain.push((name.to_owned(), dir));
        }
        Ok((cursor.chain.last().map_or(root, |(_, dir)| &**dir), OsStr::new(name)))
    }

    fn dir_error(&self, name: impl std::fmt::Display, error: io::Error) -> DownloadError {
        refine(error, &self.part_path.join(name.to_string()))
    }
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}

/// A link, or a file where a directory should be, is somebody else's doing.
fn refine(error: io::Error, path: &Path) -> DownloadError {
    match errno(&error) {
        Some(Errno::LOOP | Errno::NOTDIR | Errno::ISDIR | Errno::NXIO) => {
            DownloadError::OutsideTarget(path.to_owned())
        }
        _ => FileError::new("create", path, error).into(),
    }
}
