//! A file system in memory whose power can be cut.

mod content;
mod cut;
mod file;
mod handle;
mod pool;
mod state;
#[cfg(test)]
mod tests;
mod tree;

use std::fmt::{self, Debug, Formatter};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::io::Errno;

pub use pool::PagePool;
pub use state::Fault;

use crate::disk::{Disk, Metadata};
use crate::store::lock;
use content::parts;
use cut::Draw;
use handle::{Mount, list};
use state::State;
use tree::ROOT;

/// The time since 1970, as the times of files take it.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

struct Shared {
    state: Mutex<State>,
    pool: PagePool,
}

/// A file system in memory for one simulated computer. Cheap to clone; every clone is the same disk.
///
/// It is deterministic: equal calls with an equal clock and equal random numbers have equal results, down to inode
/// numbers and times. It starts no thread, and a store on it starts none.
///
/// **What lasts.** Everything that was synced: the content and length of a file by a sync of the file, names by a sync
/// of their directory, both by a sync of the file system. What was not synced is seen by every reader until
/// [`Self::power_cut`], which keeps some of it. As with a real disk, a part of it may have been written back before:
/// of one file the oldest beyond 1,024 changes or 32 MiB, of names the oldest beyond 256.
///
/// **What it does not have.** Links of either kind, permissions that refuse anything, devices and pipes. Space is
/// counted in pages of 4 KiB, reserved space in blocks of 1 MiB; directories and names take none.
#[derive(Clone)]
pub struct MemoryDisk {
    shared: Arc<Shared>,
}

impl Debug for MemoryDisk {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.debug_struct("MemoryDisk").field("used_len", &self.used_len()).finish_non_exhaustive()
    }
}

impl MemoryDisk {
    /// An empty disk. Its files share what they can with those of other disks of the same `pool`. With a `capacity` in
    /// bytes, writes beyond it fail with `ENOSPC`.
    #[must_use]
    pub fn new(clock: Clock, pool: PagePool, capacity: Option<u64>) -> Self {
        Self { shared: Arc::new(Shared { state: Mutex::new(State::new(clock, capacity)), pool }) }
    }

    /// The disk as a store takes it, until the next [`Self::power_cut`] or [`Self::crash`]. From then on everything
    /// done through it, and through files opened through it, fails with `EIO`.
    #[must_use]
    pub fn mount(&self) -> Arc<dyn Disk> {
        let generation = lock(&self.shared.state).generation;
        Arc::new(Mount { shared: self.shared.clone(), generation })
    }

    /// The power fails and comes back. What was synced is there. Of what was not synced:
    ///
    /// - every write to a file is there, is not, or is torn at a border of 512 bytes, each by itself: a later one may
    ///   be there without an earlier one;
    /// - of the changes of a file's length those up to some point;
    /// - of the changes of names in a directory those up to some point; a rename between two directories happened in
    ///   both or in none;
    /// - times may be those of the last full sync, and reserved space is given up.
    ///
    /// `rng` decides; how many numbers are drawn depends on what was not synced alone. Faults are over, locks are
    /// free, and handles and mounts from before are dead.
    pub fn power_cut(&self, rng: &mut dyn FnMut() -> u64) {
        let mut state = self.end_life();
        state.tree.cut(&mut Draw::new(rng));
    }

    /// Every process dies, and the system goes on: what was written is there, synced or not, but may still be lost in
    /// a later [`Self::power_cut`]. Faults are over, locks are free, and handles and mounts from before are dead.
    pub fn crash(&self) {
        let mut state = self.end_life();
        state.tree.close_all();
    }

    fn end_life(&self) -> std::sync::MutexGuard<'_, State> {
        let mut state = lock(&self.shared.state);
        state.generation += 1;
        state.fault = None;
        state
    }

    /// Makes the disk fail once it has done `changes` more changes (writes, syncs, changes of names), until
    /// [`Self::heal`] or the end of this life. To cut the power in the middle of something: [`Fault::Off`], run it, and
    /// then [`Self::power_cut`].
    pub fn fail_after(&self, changes: u64, fault: Fault) {
        let mut state = lock(&self.shared.state);
        state.fault = Some((state.changes.saturating_add(changes), fault));
    }

    /// Ends [`Self::fail_after`].
    pub fn heal(&self) {
        lock(&self.shared.state).fault = None;
    }

    /// How many changes the disk has done in all.
    #[must_use]
    pub fn changes(&self) -> u64 {
        lock(&self.shared.state).changes
    }

    /// Bytes allocated to files. What several files share counts for each.
    #[must_use]
    pub fn used_len(&self) -> u64 {
        lock(&self.shared.state).tree.used_len()
    }

    /// Puts a file there, with the directories above it, and makes it last: the way a user's files come into a
    /// simulation. One that is there is written anew.
    ///
    /// # Errors
    /// If something else has the name, or the disk is full.
    pub fn write_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let parts = parts(&self.shared.pool, 0, bytes);
        let mut state = lock(&self.shared.state);
        let dir = state.create_dirs(path.parent().unwrap_or(Path::new("")), 0o755)?;
        let name = path.file_name().ok_or(Errno::ISDIR)?;
        let ino = match state.tree.look_up(dir, name) {
            Ok(ino) => ino,
            Err(_) => state.create_file(dir, name, 0o644)?,
        };
        state.set_len(ino, 0)?;
        state.write(ino, parts)?;
        state.tree.sync_file(ino, true);
        for dir in path.ancestors().skip(1) {
            let dir = state.find(dir)?;
            state.tree.sync_dir(dir);
        }
        Ok(())
    }

    /// The bytes of a file as a reader sees them now.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = lock(&self.shared.state);
        let content = state.tree.file(state.find(path)?)?.content();
        let mut bytes = vec![0; usize::try_from(content.len).map_err(|_| Errno::FBIG)?];
        content.read(0, &mut bytes);
        Ok(bytes)
    }

    /// Inverts bit `bit` (0 to 7) of the byte at `offset`, as a disk that goes bad: neither times nor anything else
    /// tells of it.
    ///
    /// # Errors
    /// If there is no such file, or it is shorter.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        let mut state = lock(&self.shared.state);
        let ino = state.find(path)?;
        state.tree.corrupt(ino, offset, bit)
    }

    /// Every file and directory, sorted by path component.
    #[must_use]
    pub fn list(&self) -> Vec<(PathBuf, Metadata)> {
        let mut files = Vec::new();
        list(&lock(&self.shared.state), ROOT, Path::new("/"), &mut files);
        files
    }
}
