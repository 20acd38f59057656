//! What the handles of a [`MemoryDisk`](super::MemoryDisk) share: the tree, the clock, the faults.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path};
use std::time::Duration;

use rustix::io::Errno;

use super::Clock;
use super::content::Data;
use super::file::FileNode;
use super::tree::{Ino, Node, ROOT, Times, Tree};
use crate::disk::{FileKind, Metadata};

/// What a disk does after [`MemoryDisk::fail_after`](super::MemoryDisk::fail_after).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing can be written or made: `ENOSPC`. Syncs, reads, renames and removals work.
    NoSpace,
    /// No change and no sync works: `EIO`. Reads do.
    Io,
    /// Every sync says that it worked and does nothing: a disk that lies. Only the next power cut shows it.
    LostSyncs,
    /// Nothing works, as when the power is gone and nobody has noticed yet: `EIO`.
    Off,
}

/// What an operation needs of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Room.
    Space,
    /// Only that it works.
    Change,
}

/// The one device number of a disk in memory.
const DEV: u64 = 1;

pub(super) struct State {
    pub(super) tree: Tree,
    /// Counts the cuts and crashes: handles of an earlier one are dead.
    pub(super) generation: u64,
    pub(super) changes: u64,
    pub(super) fault: Option<(u64, Fault)>,
    pub(super) capacity: Option<u64>,
    clock: Clock,
    last_now: Duration,
    next_handle: u64,
}

impl State {
    pub(super) fn new(clock: Clock, capacity: Option<u64>) -> Self {
        let now = clock();
        let (tree, last_now) = (Tree::new(now), now);
        let (generation, changes, fault, next_handle) = (0, 0, None, 0);
        Self { tree, generation, changes, fault, capacity, clock, last_now, next_handle }
    }

    /// The time for a change. Never the same twice: two changes within one tick of the clock are told apart.
    fn now(&mut self) -> Duration {
        self.last_now = (self.clock)().max(self.last_now.saturating_add(Duration::from_nanos(1)));
        self.last_now
    }

    /// Whether the disk is as good as not there.
    pub(super) fn is_off(&self) -> bool {
        matches!(self.fault, Some((at, Fault::Off)) if self.changes >= at)
    }

    /// Counts a change, or refuses it.
    pub(super) fn begin(&mut self, need: Need) -> io::Result<()> {
        match self.fault {
            Some((at, fault)) if self.changes >= at => match (fault, need) {
                (Fault::NoSpace, Need::Space) => return Err(Errno::NOSPC.into()),
                (Fault::NoSpace, Need::Change) | (Fault::LostSyncs, _) => {}
                (Fault::Io | Fault::Off, _) => return Err(Errno::IO.into()),
            },
            _ => {}
        }
        self.changes += 1;
        Ok(())
    }

    /// Counts a sync, and runs it unless the disk lies.
    pub(super) fn sync(&mut self, sync: impl FnOnce(&mut Tree)) -> io::Result<()> {
        self.begin(Need::Change)?;
        if !matches!(self.fault, Some((at, Fault::LostSyncs)) if self.changes > at) {
            sync(&mut self.tree);
        }
        Ok(())
    }

    pub(super) fn new_handle(&mut self) -> u64 {
        self.next_handle += 1;
        self.next_handle
    }

    /// Bytes that can still be allocated.
    pub(super) fn free_len(&self) -> u64 {
        self.capacity.map_or(u64::MAX / 4, |capacity| capacity.saturating_sub(self.tree.used_len()))
    }

    /// Refuses what does not fit. Files that were removed are given up for good first.
    fn make_room(&mut self, len: u64) -> io::Result<()> {
        if self.capacity.is_none() || len <= self.free_len() {
            return Ok(());
        }
        self.tree.sync_names();
        if len <= self.free_len() { Ok(()) } else { Err(Errno::NOSPC.into()) }
    }

    /// What a path leads to.
    pub(super) fn find(&self, path: &Path) -> io::Result<Ino> {
        let mut above = vec![ROOT];
        for component in path.components() {
            let dir = above.last().copied().unwrap_or(ROOT);
            match component {
                Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
                Component::ParentDir => drop((above.len() > 1).then(|| above.pop())),
                Component::Normal(name) => above.push(self.tree.look_up(dir, name)?),
            }
        }
        Ok(above.last().copied().unwrap_or(ROOT))
    }

    /// The directory a path's last component is in, and that component.
    pub(super) fn find_parent<'a>(&self, path: &'a Path) -> io::Result<(Ino, &'a OsStr)> {
        let name = path.file_name().ok_or(Errno::BUSY)?;
        Ok((self.find(path.parent().unwrap_or(Path::new("")))?, name))
    }

    pub(super) fn metadata(&self, ino: Ino) -> io::Result<Metadata> {
        let inode = self.tree.inode(ino)?;
        let (kind, len, allocated_len) = match &inode.node {
            Node::File(file) => (FileKind::File, file.content().len, file.allocated_len()),
            Node::Dir(_) => (FileKind::Dir, 0, 0),
        };
        let seconds = |time: Duration| {
            (i64::try_from(time.as_secs()).unwrap_or(i64::MAX), i64::from(time.subsec_nanos()))
        };
        let Times { born, mtime, ctime } = inode.times;
        Ok(Metadata {
            kind,
            len,
            allocated_len,
            dev: DEV,
            ino,
            nlink: inode.names,
            mode: inode.mode,
            mtime: seconds(mtime),
            ctime: seconds(ctime),
            born: Some((born.as_secs(), born.subsec_nanos())),
        })
    }

    pub(super) fn create(&mut self, dir: Ino, name: &OsStr, node: Node, mode: u32) -> io::Result<Ino> {
        if self.tree.entries(dir)?.contains_key(name) {
            return Err(Errno::EXIST.into());
        }
        if self.tree.inode(dir)?.names == 0 && dir != ROOT {
            return Err(Errno::NOENT.into());
        }
        self.begin(Need::Space)?;
        let now = self.now();
        let ino = self.tree.add(node, mode, now);
        self.tree.rename(vec![(dir, name.to_owned(), Some(ino))], now);
        Ok(ino)
    }

    pub(super) fn create_file(&mut self, dir: Ino, name: &OsStr, mode: u32) -> io::Result<Ino> {
        self.create(dir, name, Node::File(Box::default()), mode)
    }

    pub(super) fn create_dir(&mut self, dir: Ino, name: &OsStr, mode: u32) -> io::Result<Ino> {
        self.create(dir, name, Node::Dir(BTreeMap::new()), mode)
    }

    /// Makes a directory and those above it that are missing.
    pub(super) fn create_dirs(&mut self, path: &Path, mode: u32) -> io::Result<Ino> {
        match self.find(path) {
            Ok(ino) if self.tree.is_dir(ino) => return Ok(ino),
            Ok(_) => return Err(Errno::EXIST.into()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) => {}
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::NOENT.into());
        };
        let dir = self.create_dirs(parent, mode)?;
        self.create_dir(dir, name, mode)
    }

    pub(super) fn rename(
        &mut self,
        from: (Ino, &OsStr),
        to: (Ino, &OsStr),
        replaces: bool,
    ) -> io::Result<()> {
        let moved = self.tree.look_up(from.0, from.1)?;
        let is_dir = self.tree.is_dir(moved);
        match self.tree.look_up(to.0, to.1) {
            Ok(_) if !replaces => return Err(Errno::EXIST.into()),
            Ok(same) if same == moved => return Ok(()),
            Ok(old) => match (is_dir, self.tree.entries(old)) {
                (true, Ok(entries)) if entries.is_empty() => {}
                (true, Ok(_)) => return Err(Errno::NOTEMPTY.into()),
                (true, Err(_)) => return Err(Errno::NOTDIR.into()),
                (false, Ok(_)) => return Err(Errno::ISDIR.into()),
                (false, Err(_)) => {}
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if is_dir && self.contains(moved, to.0) {
            return Err(Errno::INVAL.into());
        }
        self.begin(Need::Change)?;
        let now = self.now();
        let changes = vec![(from.0, from.1.to_owned(), None), (to.0, to.1.to_owned(), Some(moved))];
        self.tree.rename(changes, now);
        if let Ok(inode) = self.tree.inode_mut(moved) {
            inode.times.ctime = now;
        }
        Ok(())
    }

    /// Whether `inner` is `outer` or somewhere below it.
    fn contains(&self, outer: Ino, inner: Ino) -> bool {
        outer == inner
            || self.tree.entries(outer).is_ok_and(|entries| {
                entries.values().any(|below| self.tree.is_dir(*below) && self.contains(*below, inner))
            })
    }

    pub(super) fn remove(&mut self, dir: Ino, name: &OsStr, wants_dir: bool) -> io::Result<()> {
        let ino = self.tree.look_up(dir, name)?;
        match (wants_dir, self.tree.entries(ino)) {
            (true, Err(_)) => return Err(Errno::NOTDIR.into()),
            (true, Ok(entries)) if !entries.is_empty() => return Err(Errno::NOTEMPTY.into()),
            (false, Ok(_)) => return Err(Errno::ISDIR.into()),
            _ => {}
        }
        self.begin(Need::Change)?;
        let now = self.now();
        self.tree.rename(vec![(dir, name.to_owned(), None)], now);
        Ok(())
    }

    pub(super) fn remove_all(&mut self, dir: Ino, name: &OsStr) -> io::Result<()> {
        let ino = self.tree.look_up(dir, name)?;
        let names: Vec<OsString> = self.tree.entries(ino)?.keys().cloned().collect();
        for name in names {
            let below = self.tree.look_up(ino, &name)?;
            if self.tree.is_dir(below) {
                self.remove_all(ino, &name)?;
            } else {
                self.remove(ino, &name, false)?;
            }
        }
        self.remove(dir, name, true)
    }

    /// Writes parts that each lie in one block.
    pub(super) fn write(&mut self, ino: Ino, parts: Vec<(u64, Data)>) -> io::Result<()> {
        self.begin(Need::Space)?;
        if self.capacity.is_some() {
            let file = self.tree.file(ino)?;
            let growth = |(offset, data): &(u64, Data)| file.growth(*offset, data.bytes().len() as u64);
            let growth = parts.iter().map(growth).sum();
            self.make_room(growth)?;
        }
        let now = self.now();
        self.tree.change(ino, now, |file| {
            parts.into_iter().for_each(|(offset, data)| file.write(offset, data));
        })
    }

    pub(super) fn set_len(&mut self, ino: Ino, len: u64) -> io::Result<()> {
        self.begin(Need::Change)?;
        let now = self.now();
        self.tree.change(ino, now, |file| file.set_len(len))
    }

    pub(super) fn reserve(&mut self, ino: Ino, offset: u64, len: u64) -> io::Result<()> {
        self.begin(Need::Space)?;
        let growth = self.tree.file(ino)?.to_reserve(offset, len);
        self.make_room(growth)?;
        let now = self.now();
        self.tree.change(ino, now, |file| file.reserve(offset, len))
    }

    pub(super) fn share(&mut self, from: Ino, to: Ino) -> io::Result<()> {
        self.begin(Need::Space)?;
        let content = self.tree.file(from)?.content().clone();
        self.make_room(content.blocks.values().map(super::content::Block::allocated_len).sum())?;
        let now = self.now();
        self.tree.change(to, now, |file: &mut FileNode| file.share(&content))
    }

    pub(super) fn set_mode(&mut self, ino: Ino, mode: u32) -> io::Result<()> {
        self.begin(Need::Change)?;
        let now = self.now();
        let inode = self.tree.inode_mut(ino)?;
        inode.mode = mode;
        inode.times.ctime = now;
        Ok(())
    }

    /// Locks an inode for a handle, alone or shared.
    pub(super) fn lock(&mut self, ino: Ino, handle: u64, alone: bool) -> io::Result<bool> {
        let inode = self.tree.inode_mut(ino)?;
        let has_others = inode.lockers.iter().any(|locker| *locker != handle);
        if has_others && (alone || inode.is_locked_alone) {
            return Ok(false);
        }
        inode.lockers.insert(handle);
        inode.is_locked_alone = alone;
        Ok(true)
    }

    pub(super) fn unlock(&mut self, ino: Ino, handle: u64) {
        if let Ok(inode) = self.tree.inode_mut(ino) {
            inode.lockers.remove(&handle);
        }
    }
}
