//! One owner per data directory.
//!
//! The owner holds an exclusive `flock` on `<dir>/lock` for as long as its [`Store`](crate::Store) lives. The
//! kernel drops the lock when the process ends, however it ends, so a lock can never be left behind. The file
//! itself stays: removing it would let two processes lock two different files of the same name.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::{FileError, OpenError};

/// Name of the lock file inside the data directory.
const LOCK_NAME: &str = "lock";

/// Longest content of the lock file that is read: a process id in decimal and a line feed.
const MAX_LOCK_LEN: usize = 16;

/// How often a lock is tried again that is taken but has no owner. [`holder`] takes it shared for an instant
/// to find out whether it is free, and so do others that start at the same time; each try lets them run
/// first.
const MAX_TRIES: u32 = 10_000;

/// The exclusive claim on a data directory; dropping it gives the directory free.
#[derive(Debug)]
pub(crate) struct DirLock {
    file: Arc<dyn DiskFile>,
}

impl DirLock {
    /// Claims `dir`, which must exist, and writes this process's id into the lock file.
    pub(crate) fn acquire(disk: &dyn Disk, dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(LOCK_NAME);
        let file = disk
            .open(&path, OpenMode::ReadWriteOrCreate)
            .map_err(|source| FileError::new("open the lock file", &path, source))?;
        let lock_error = |source| FileError::new("lock", &path, source);
        let mut tries = 0;
        while !file.try_lock().map_err(lock_error)? {
            tries += 1;
            if is_owned(&*file).map_err(lock_error)? || tries == MAX_TRIES {
                return Err(OpenError::Busy { pid: read_pid(&*file), dir: dir.to_owned() });
            }
            std::thread::yield_now();
        }
        let lock = Self { file };
        lock.write_pid(disk.process_id()).map_err(|source| FileError::new("write", &path, source))?;
        Ok(lock)
    }

    fn write_pid(&self, pid: u32) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.write_all_at(format!("{pid}\n").as_bytes(), 0)
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // Only the message of a later start depends on the content, so a failure here may be ignored.
        let _ = self.file.set_len(0);
    }
}

/// The process that owns `dir`, or `None` when nobody does or its id cannot be read.
pub(crate) fn holder(disk: &dyn Disk, dir: &Path) -> Option<u32> {
    let file = disk.open(&dir.join(LOCK_NAME), OpenMode::ReadNoFollow).ok()?;
    if is_owned(&*file).ok()? { read_pid(&*file) } else { None }
}

/// Whether somebody has the exclusive lock. Gives up whatever lock `file` itself has.
fn is_owned(file: &dyn DiskFile) -> io::Result<bool> {
    let is_free = file.try_lock_shared()?;
    if is_free {
        file.unlock()?;
    }
    Ok(!is_free)
}

fn read_pid(file: &dyn DiskFile) -> Option<u32> {
    let mut text = [0; MAX_LOCK_LEN];
    let len = file.read_at(&mut text, 0).ok()?;
    std::str::from_utf8(text.get(..len)?).ok()?.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::disk::RealDisk;

    #[test]
    fn a_second_owner_is_told_who_holds_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(holder(&RealDisk, dir.path()), None);
        let lock = DirLock::acquire(&RealDisk, dir.path()).unwrap();
        assert_eq!(holder(&RealDisk, dir.path()), Some(std::process::id()));
        match DirLock::acquire(&RealDisk, dir.path()) {
            Err(OpenError::Busy { pid, dir: busy }) => {
                assert_eq!(pid, Some(std::process::id()));
                assert_eq!(busy, dir.path());
            }
            other => panic!("expected Busy, got {other:?}"),
        }
        drop(lock);
        assert_eq!(holder(&RealDisk, dir.path()), None);
        DirLock::acquire(&RealDisk, dir.path()).unwrap();
    }

    #[test]
    fn a_lock_file_left_by_a_crash_does_not_block_and_names_nobody() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(LOCK_NAME), "4194305\n").unwrap();
        assert_eq!(holder(&RealDisk, dir.path()), None);
        DirLock::acquire(&RealDisk, dir.path()).unwrap();
    }

    #[test]
    fn of_many_that_start_at_once_one_wins_while_others_look_who() {
        let dir = tempfile::tempdir().unwrap();
        let winners = std::thread::scope(|scope| {
            let starters: Vec<_> =
                (0..8).map(|_| scope.spawn(|| DirLock::acquire(&RealDisk, dir.path()).ok())).collect();
            for _ in 0..8 {
                scope.spawn(|| (0..100).filter_map(|_| holder(&RealDisk, dir.path())).count());
            }
            starters.into_iter().filter_map(|starter| starter.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(winners.len(), 1);
        drop(winners);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..1000).for_each(|_| {
                    assert!(holder(&RealDisk, dir.path()).is_none_or(|pid| pid == std::process::id()))
                })
            });
            (0..100).for_each(|_| drop(DirLock::acquire(&RealDisk, dir.path()).unwrap()));
        });
    }

    #[test]
    fn garbage_in_the_lock_file_reads_as_an_unknown_owner() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DirLock::acquire(&RealDisk, dir.path()).unwrap();
        std::fs::write(dir.path().join(LOCK_NAME), "not a number, and far too long to be one").unwrap();
        assert_eq!(holder(&RealDisk, dir.path()), None);
        assert!(matches!(DirLock::acquire(&RealDisk, dir.path()), Err(OpenError::Busy { pid: None, .. })));
        drop(lock);
    }
}
