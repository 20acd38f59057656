//! The inodes and directories of a [`MemoryDisk`](super::MemoryDisk), and which names a power cut would leave.
//!
//! Names are changed at once and noted in a journal. A sync of a directory makes its part of the journal last, with
//! whatever has to come before it: a rename between two directories lasts in both or in none.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::time::Duration;

use rustix::io::Errno;

use super::cut::Draw;
use super::file::FileNode;

/// Number of an inode; never used twice.
pub(super) type Ino = u64;

/// The directory that everything is in.
pub(super) const ROOT: Ino = 1;

/// Changes of names that are kept for a cut to choose from. Beyond, the oldest last, as with a system that writes its
/// journal now and then.
const MAX_JOURNAL: usize = 256;

/// When a file was made and changed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    pub(super) born: Duration,
    pub(super) mtime: Duration,
    pub(super) ctime: Duration,
}

#[derive(Debug)]
pub(super) enum Node {
    File(Box<FileNode>),
    Dir(BTreeMap<OsString, Ino>),
}

#[derive(Debug)]
pub(super) struct Inode {
    pub(super) node: Node,
    pub(super) mode: u32,
    pub(super) times: Times,
    /// Those of the last sync of everything.
    pub(super) synced_times: Times,
    /// Open handles, and mentions in directories and in the journal: without any the inode is gone.
    refs: usize,
    /// Mentions in directories alone.
    pub(super) names: u64,
    /// Who has it locked: handles, and whether it is one that has it alone.
    pub(super) lockers: BTreeSet<u64>,
    pub(super) is_locked_alone: bool,
}

/// One name that was changed: directory, name, what it named before and after.
type NameChange = (Ino, OsString, Option<Ino>, Option<Ino>);

#[derive(Debug)]
pub(super) struct Tree {
    inodes: BTreeMap<Ino, Inode>,
    next_ino: Ino,
    /// Changes of names that do not last yet; those that belong together are one entry.
    journal: Vec<Vec<NameChange>>,
    /// Bytes allocated to files.
    used_len: u64,
    /// Files with unsynced changes.
    dirty: BTreeSet<Ino>,
}

impl Tree {
    pub(super) fn new(now: Duration) -> Self {
        let mut tree = Self {
            inodes: BTreeMap::new(),
            next_ino: ROOT,
            journal: Vec::new(),
            used_len: 0,
            dirty: BTreeSet::new(),
        };
        let root = tree.add(Node::Dir(BTreeMap::new()), 0o755, now);
        tree.hold(root);
        tree
    }

    pub(super) fn used_len(&self) -> u64 {
        self.used_len
    }

    pub(super) fn inode(&self, ino: Ino) -> io::Result<&Inode> {
        self.inodes.get(&ino).ok_or_else(|| Errno::NOENT.into())
    }

    pub(super) fn inode_mut(&mut self, ino: Ino) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&ino).ok_or_else(|| Errno::NOENT.into())
    }

    pub(super) fn file(&self, ino: Ino) -> io::Result<&FileNode> {
        match &self.inode(ino)?.node {
            Node::File(file) => Ok(file),
            Node::Dir(_) => Err(Errno::ISDIR.into()),
        }
    }

    /// Runs `change` on a file and keeps the books about it.
    pub(super) fn change<T>(
        &mut self,
        ino: Ino,
        now: Duration,
        change: impl FnOnce(&mut FileNode) -> T,
    ) -> io::Result<T> {
        let inode = self.inodes.get_mut(&ino).ok_or(Errno::NOENT)?;
        let Node::File(file) = &mut inode.node else { return Err(Errno::ISDIR.into()) };
        let before = file.allocated_len();
        let done = change(file);
        self.used_len = self.used_len - before + file.allocated_len();
        if file.is_dirty() {
            self.dirty.insert(ino);
        }
        inode.times = Times { mtime: now, ctime: now, ..inode.times };
        Ok(done)
    }

    /// Changes a bit without anybody being told.
    pub(super) fn corrupt(&mut self, ino: Ino, offset: u64, bit: u8) -> io::Result<()> {
        match &mut self.inode_mut(ino)?.node {
            Node::File(file) => {
                let before = file.allocated_len();
                file.flip_bit(offset, bit)?;
                let after = file.allocated_len();
                self.used_len = self.used_len - before + after;
                Ok(())
            }
            Node::Dir(_) => Err(Errno::ISDIR.into()),
        }
    }

    pub(super) fn entries(&self, dir: Ino) -> io::Result<&BTreeMap<OsString, Ino>> {
        match &self.inode(dir)?.node {
            Node::Dir(entries) => Ok(entries),
            Node::File(_) => Err(Errno::NOTDIR.into()),
        }
    }

    pub(super) fn is_dir(&self, ino: Ino) -> bool {
        self.entries(ino).is_ok()
    }

    /// What has a name in a directory.
    pub(super) fn look_up(&self, dir: Ino, name: &OsStr) -> io::Result<Ino> {
        self.entries(dir)?.get(name).copied().ok_or_else(|| Errno::NOENT.into())
    }

    /// A new inode without a name.
    pub(super) fn add(&mut self, node: Node, mode: u32, now: Duration) -> Ino {
        let ino = self.next_ino;
        self.next_ino += 1;
        let times = Times { born: now, mtime: now, ctime: now };
        let inode = Inode {
            node,
            mode,
            times,
            synced_times: times,
            refs: 0,
            names: 0,
            lockers: BTreeSet::new(),
            is_locked_alone: false,
        };
        self.inodes.insert(ino, inode);
        ino
    }

    /// Keeps an inode although it may lose its name.
    pub(super) fn hold(&mut self, ino: Ino) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.refs += 1;
        }
    }

    /// The end of a [`Self::hold`].
    pub(super) fn release(&mut self, ino: Ino) {
        let Some(inode) = self.inodes.get_mut(&ino) else { return };
        inode.refs = inode.refs.saturating_sub(1);
        if inode.refs == 0 {
            self.free(ino);
        }
    }

    fn free(&mut self, ino: Ino) {
        self.dirty.remove(&ino);
        if let Some(Inode { node: Node::File(file), .. }) = self.inodes.remove(&ino) {
            self.used_len = self.used_len.saturating_sub(file.allocated_len());
        }
    }

    /// Changes names and notes it in the journal.
    pub(super) fn rename(&mut self, changes: Vec<(Ino, OsString, Option<Ino>)>, now: Duration) {
        let noted: Vec<NameChange> = changes
            .into_iter()
            .map(|(dir, name, after)| {
                let before = self.look_up(dir, &name).ok();
                before.into_iter().chain(after).for_each(|ino| self.hold(ino));
                self.set_name(dir, &name, after);
                if let Some(inode) = self.inodes.get_mut(&dir) {
                    inode.times = Times { mtime: now, ctime: now, ..inode.times };
                }
                (dir, name, before, after)
            })
            .collect();
        self.journal.push(noted);
        if self.journal.len() > MAX_JOURNAL {
            let older: Vec<_> = self.journal.drain(..MAX_JOURNAL / 2).collect();
            older.into_iter().for_each(|entry| self.forget(entry));
        }
    }

    fn set_name(&mut self, dir: Ino, name: &OsStr, after: Option<Ino>) {
        if let Some(inode) = after.and_then(|ino| self.inodes.get_mut(&ino)) {
            inode.refs += 1;
            inode.names += 1;
        }
        let Some(Inode { node: Node::Dir(entries), .. }) = self.inodes.get_mut(&dir) else { return };
        let old = match after {
            Some(ino) => entries.insert(name.to_owned(), ino),
            None => entries.remove(name),
        };
        if let Some(old) = old {
            if let Some(inode) = self.inodes.get_mut(&old) {
                inode.names = inode.names.saturating_sub(1);
            }
            self.release(old);
        }
    }

    pub(super) fn sync_file(&mut self, ino: Ino, with_times: bool) {
        let Some(inode) = self.inodes.get_mut(&ino) else { return };
        if let Node::File(file) = &mut inode.node {
            file.sync();
        }
        if with_times {
            inode.synced_times = inode.times;
        }
        self.dirty.remove(&ino);
    }

    /// Makes the names in a directory last.
    pub(super) fn sync_dir(&mut self, dir: Ino) {
        let mut dirs = BTreeSet::from([dir]);
        let mut rest = Vec::new();
        for entry in std::mem::take(&mut self.journal).into_iter().rev() {
            if entry.iter().any(|(dir, ..)| dirs.contains(dir)) {
                dirs.extend(entry.iter().map(|(dir, ..)| *dir));
                self.forget(entry);
            } else {
                rest.push(entry);
            }
        }
        rest.reverse();
        self.journal = rest;
    }

    /// Makes everything last.
    pub(super) fn sync_all(&mut self) {
        for ino in std::mem::take(&mut self.dirty) {
            self.sync_file(ino, true);
        }
        self.sync_names();
    }

    /// Makes all names last; what lost its last one is gone then.
    pub(super) fn sync_names(&mut self) {
        for entry in std::mem::take(&mut self.journal) {
            self.forget(entry);
        }
    }

    /// Drops what a journal entry holds.
    fn forget(&mut self, entry: Vec<NameChange>) {
        for ino in entry.into_iter().flat_map(|(_, _, before, after)| before.into_iter().chain(after)) {
            self.release(ino);
        }
    }

    /// Ends every handle and lock, as the death of all processes does.
    pub(super) fn close_all(&mut self) {
        let mut refs: BTreeMap<Ino, usize> = BTreeMap::from([(ROOT, 1)]);
        let mut count = |ino: Ino| *refs.entry(ino).or_default() += 1;
        for inode in self.inodes.values() {
            if let Node::Dir(entries) = &inode.node {
                entries.values().for_each(|ino| count(*ino));
            }
        }
        for (_, _, before, after) in self.journal.iter().flatten() {
            before.iter().chain(after).for_each(|ino| count(*ino));
        }
        for (ino, inode) in &mut self.inodes {
            inode.refs = refs.get(ino).copied().unwrap_or(0);
            inode.lockers = BTreeSet::new();
        }
        let unused = self.inodes.iter().filter(|(_, inode)| inode.refs == 0).map(|(ino, _)| *ino);
        unused.collect::<Vec<_>>().into_iter().for_each(|ino| self.free(ino));
    }

    /// What is there after the power was cut.
    pub(super) fn cut(&mut self, draw: &mut Draw<'_>) {
        self.cut_names(draw);
        for ino in std::mem::take(&mut self.dirty) {
            let Some(inode) = self.inodes.get_mut(&ino) else { continue };
            if let Node::File(file) = &mut inode.node {
                file.cut(draw);
            }
        }
        self.used_len = 0;
        for inode in self.inodes.values_mut() {
            if let Node::File(file) = &inode.node {
                self.used_len += file.allocated_len();
            }
            // fdatasync(2) leaves times behind.
            if inode.times.ctime != inode.synced_times.ctime && draw.below(2) == 0 {
                inode.times = inode.synced_times;
            }
            inode.synced_times = inode.times;
        }
        self.drop_unreachable();
        self.close_all();
    }

    /// Of each directory's changes those up to some point last, and a change of two directories in both or none.
    fn cut_names(&mut self, draw: &mut Draw<'_>) {
        let journal = std::mem::take(&mut self.journal);
        for (dir, name, before, _) in journal.iter().rev().flat_map(|entry| entry.iter().rev()) {
            self.set_name(*dir, name, *before);
        }
        let bias = draw.bias();
        let mut ended = BTreeSet::new();
        for entry in &journal {
            let is_cut_off = entry.iter().any(|(dir, ..)| ended.contains(dir));
            if is_cut_off || !draw.keeps(bias) {
                ended.extend(entry.iter().map(|(dir, ..)| *dir));
                continue;
            }
            for (dir, name, _, after) in entry {
                self.set_name(*dir, name, *after);
            }
        }
        for entry in journal {
            self.forget(entry);
        }
    }

    /// Frees what no name leads to any more, also when a cycle of lost directories keeps it.
    fn drop_unreachable(&mut self) {
        let mut seen = BTreeSet::from([ROOT]);
        let mut to_visit = vec![ROOT];
        while let Some(dir) = to_visit.pop() {
            let Ok(entries) = self.entries(dir) else { continue };
            to_visit.extend(entries.values().copied().filter(|ino| seen.insert(*ino)));
        }
        let lost: Vec<Ino> = self.inodes.keys().copied().filter(|ino| !seen.contains(ino)).collect();
        lost.into_iter().for_each(|ino| self.free(ino));
    }
}
