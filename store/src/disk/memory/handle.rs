//! The traits of a disk for one in memory.

use std::any::Any;
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Debug, Formatter};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, MutexGuard};

use rustix::io::Errno;

use super::Shared;
use super::content::parts;
use super::state::State;
use super::tree::Ino;
use crate::disk::{DirEntries, DirEntry, Disk, DiskDir, DiskFile, FileKind, Metadata, OpenMode};
use crate::store::lock;

/// A disk as one life of a computer sees it.
#[derive(Clone)]
pub(super) struct Mount {
    pub(super) shared: Arc<Shared>,
    pub(super) generation: u64,
}

impl Debug for Mount {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.debug_struct("MemoryDisk").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Mount {
    /// The disk, if this life has not ended.
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = lock(&self.shared.state);
        if state.generation == self.generation && !state.is_off() { Ok(state) } else { Err(Errno::IO.into()) }
    }

    fn handle(&self, state: &mut State, ino: Ino) -> Handle {
        state.tree.hold(ino);
        Handle { mount: self.clone(), ino, id: state.new_handle() }
    }
}

/// An open file or directory.
#[derive(Debug)]
struct Handle {
    mount: Mount,
    ino: Ino,
    /// Tells its locks from those of others.
    id: u64,
}

impl Handle {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        self.mount.state()
    }

    fn try_lock(&self, alone: bool) -> io::Result<bool> {
        self.state()?.lock(self.ino, self.id, alone)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = lock(&self.mount.shared.state);
        if state.generation == self.mount.generation {
            state.unlock(self.ino, self.id);
            state.tree.release(self.ino);
        }
    }
}

#[derive(Debug)]
struct MemoryFile(Handle);

#[derive(Debug)]
struct MemoryDir(Handle);

/// The path without `.` and `..`, from the root.
fn absolute(path: &Path) -> PathBuf {
    let mut absolute = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => absolute.push(name),
            Component::ParentDir => drop(absolute.pop().then_some(())),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
        }
    }
    absolute
}

impl Disk for Mount {
    fn threads(&self) -> bool {
        false
    }

    /// Counts the lives of the computer: no real id, so that equal runs write equal bytes.
    fn process_id(&self) -> u32 {
        u32::try_from(self.generation).unwrap_or(u32::MAX).saturating_add(1)
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        let state = self.state()?;
        state.metadata(state.find(path)?)
    }

    fn symlink_metadata(&self, path: &Path) -> io::Result<Metadata> {
        self.metadata(path)
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        self.state()?.find(path)?;
        Ok(absolute(path))
    }

    fn read_dir(&self, path: &Path) -> io::Result<DirEntries> {
        let state = self.state()?;
        let kind = |ino| if state.tree.is_dir(ino) { FileKind::Dir } else { FileKind::File };
        let entries = state.tree.entries(state.find(path)?)?.iter();
        let entries: Vec<_> =
            entries.map(|(name, ino)| Ok(DirEntry { name: name.clone(), kind: kind(*ino) })).collect();
        Ok(Box::new(entries.into_iter()))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state()?;
        let ino = match mode {
            OpenMode::Read | OpenMode::ReadNoFollow => state.find(path)?,
            OpenMode::ReadWrite => {
                let ino = state.find(path)?;
                state.tree.file(ino)?;
                ino
            }
            OpenMode::ReadWriteOrCreate => match state.find(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let (dir, name) = state.find_parent(path)?;
                    state.create_file(dir, name, 0o600)?
                }
                found => {
                    let ino = found?;
                    state.tree.file(ino)?;
                    ino
                }
            },
            OpenMode::CreatePrivate | OpenMode::CreateNew => {
                let (dir, name) = state.find_parent(path)?;
                let mode = if mode == OpenMode::CreateNew { 0o644 } else { 0o600 };
                state.create_file(dir, name, mode)?
            }
        };
        Ok(Arc::new(MemoryFile(self.handle(&mut state, ino))))
    }

    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn DiskDir>> {
        let mut state = self.state()?;
        let ino = state.find(path)?;
        state.tree.entries(ino)?;
        Ok(Arc::new(MemoryDir(self.handle(&mut state, ino))))
    }

    fn create_private_dir(&self, path: &Path) -> io::Result<()> {
        self.state()?.create_dirs(path, 0o700).map(drop)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state()?;
        let (from, to) = (state.find_parent(from)?, state.find_parent(to)?);
        state.rename(from, to, true)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state()?;
        let (dir, name) = state.find_parent(path)?;
        state.remove(dir, name, false)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state()?;
        let (dir, name) = state.find_parent(path)?;
        state.remove(dir, name, true)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state()?;
        let (dir, name) = state.find_parent(path)?;
        state.remove_all(dir, name)
    }

    fn reflink(&self, from: &dyn DiskFile, to: &dyn DiskFile) -> io::Result<()> {
        let file = |file: &dyn DiskFile| file.as_any().downcast_ref::<MemoryFile>().map(|file| file.0.ino);
        let (from, to) = file(from).zip(file(to)).ok_or(Errno::OPNOTSUPP)?;
        self.state()?.share(from, to)
    }
}

impl DiskFile for MemoryFile {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn metadata(&self) -> io::Result<Metadata> {
        self.0.state()?.metadata(self.0.ino)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(self.0.state()?.tree.file(self.0.ino)?.content().read(offset, buffer))
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let len = buffer.len();
        if self.read_at(buffer, offset)? == len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn will_read(&self, _: u64, _: u64) {}

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        offset.checked_add(data.len() as u64).ok_or(Errno::FBIG)?;
        let parts = parts(&self.0.mount.shared.pool, offset, data);
        self.0.state()?.write(self.0.ino, parts)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.state()?.set_len(self.0.ino, len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.state()?.reserve(self.0.ino, offset, len)
    }

    fn has_data(&self, offset: u64, len: u64) -> bool {
        let Ok(state) = self.0.state() else { return true };
        state.tree.file(self.0.ino).map_or(true, |file| file.content().has_data(offset, len))
    }

    fn set_exec(&self, is_exec: bool) -> io::Result<()> {
        let mut state = self.0.state()?;
        let mode = state.tree.inode(self.0.ino)?.mode;
        let wanted = if is_exec { mode | (mode & 0o444) >> 2 } else { mode & !0o111 };
        state.set_mode(self.0.ino, wanted & 0o777)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.state()?.sync(|tree| tree.sync_file(self.0.ino, false))
    }

    fn sync_all(&self) -> io::Result<()> {
        self.0.state()?.sync(|tree| tree.sync_file(self.0.ino, true))
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.0.try_lock(true)
    }

    fn try_lock_shared(&self) -> io::Result<bool> {
        self.0.try_lock(false)
    }

    fn unlock(&self) -> io::Result<()> {
        self.0.state()?.unlock(self.0.ino, self.0.id);
        Ok(())
    }
}

impl MemoryDir {
    fn dir(&self, state: &mut State, ino: Ino) -> io::Result<Arc<dyn DiskDir>> {
        state.tree.entries(ino)?;
        Ok(Arc::new(Self(self.0.mount.handle(state, ino))))
    }

    fn file(&self, state: &mut State, ino: Ino) -> io::Result<Arc<dyn DiskFile>> {
        state.tree.file(ino)?;
        Ok(Arc::new(MemoryFile(self.0.mount.handle(state, ino))))
    }
}

impl DiskDir for MemoryDir {
    fn open_dir(&self, name: &OsStr) -> io::Result<Arc<dyn DiskDir>> {
        let mut state = self.0.state()?;
        let ino = state.tree.look_up(self.0.ino, name)?;
        self.dir(&mut state, ino)
    }

    fn make_dir(&self, name: &OsStr) -> io::Result<Arc<dyn DiskDir>> {
        let mut state = self.0.state()?;
        let ino = match state.tree.look_up(self.0.ino, name) {
            Ok(ino) => ino,
            Err(_) => state.create_dir(self.0.ino, name, 0o755)?,
        };
        self.dir(&mut state, ino)
    }

    fn open_file(&self, name: &OsStr) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.state()?;
        let ino = state.tree.look_up(self.0.ino, name)?;
        self.file(&mut state, ino)
    }

    fn open_or_create(&self, name: &OsStr, is_exec: bool) -> io::Result<(Arc<dyn DiskFile>, bool)> {
        let mut state = self.0.state()?;
        let (ino, is_new) = match state.tree.look_up(self.0.ino, name) {
            Ok(ino) => (ino, false),
            Err(_) => (state.create_file(self.0.ino, name, if is_exec { 0o755 } else { 0o644 })?, true),
        };
        Ok((self.file(&mut state, ino)?, is_new))
    }

    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        self.0.state()?.rename((self.0.ino, from), (self.0.ino, to), true)
    }

    fn rename_new(&self, from: &OsStr, to: &OsStr, _is_dir: bool) -> io::Result<()> {
        self.0.state()?.rename((self.0.ino, from), (self.0.ino, to), false)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.state()?.sync(|tree| tree.sync_dir(self.0.ino))
    }

    fn sync_fs(&self) -> io::Result<()> {
        self.0.state()?.sync(|tree| tree.sync_all())
    }

    fn free_len(&self) -> io::Result<u64> {
        Ok(self.0.state()?.free_len())
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.0.try_lock(true)
    }
}

/// Every name below a directory with its inode, sorted by path.
pub(super) fn list(state: &State, dir: Ino, path: &Path, out: &mut Vec<(PathBuf, Metadata)>) {
    let Ok(entries) = state.tree.entries(dir) else { return };
    let entries: Vec<(&OsString, &Ino)> = entries.iter().collect();
    for (name, ino) in entries {
        let path = path.join(name);
        if let Ok(metadata) = state.metadata(*ino) {
            out.push((path.clone(), metadata));
        }
        list(state, *ino, &path, out);
    }
}
