//! Files the store owns: `<dir>/blobs/<CID of the file manifest>`.
//!
//! A blob is written under `<dir>/tmp`, synced, renamed into place, and only then named by a transaction. So
//! a blob that a row names is whole; one that no row names is left over from a crash and goes with the next
//! collection.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cid::ManifestCid;
use crate::disk::{Disk, FileKind, OpenMode};
use crate::error::FileError;
use crate::fsutil::{create_private_dir, remove_file_if_there, sync_dir};

/// From this number of files on, one syncfs(2) is cheaper than a sync of each, even if other programs have
/// written to the same file system meanwhile.
pub(crate) const MAX_SINGLE_SYNCS: usize = 16;

/// The blob directory and the directory for files in the making.
#[derive(Debug)]
pub(crate) struct Blobs {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    tmp: PathBuf,
    /// Staging directories in use.
    live: Arc<Mutex<HashSet<PathBuf>>>,
    next: AtomicU64,
    /// Held from the look at a row that names a blob to the change of the file, so that nobody deletes a blob
    /// that another is about to name.
    files: Mutex<()>,
}

impl Blobs {
    /// Opens the directories below `dir`, making them if needed, and throws away what a crash left half-made.
    pub(crate) fn open(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Self, FileError> {
        let (blobs, tmp) = (dir.join("blobs"), dir.join("tmp"));
        create_private_dir(&**disk, &blobs)?;
        create_private_dir(&**disk, &tmp)?;
        let blobs = Self {
            disk: disk.clone(),
            dir: blobs,
            tmp,
            live: Arc::default(),
            next: AtomicU64::new(0),
            files: Mutex::new(()),
        };
        blobs.clear_tmp()?;
        Ok(blobs)
    }

    /// Full path of a blob by the name in its source's row.
    pub(crate) fn path(&self, name: &Path) -> PathBuf {
        self.dir.join(name)
    }

    /// Keeps everybody else from adding or deleting blobs.
    pub(crate) fn lock(&self) -> MutexGuard<'_, ()> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new directory for files in the making, deleted with everything in it when dropped.
    pub(crate) fn stage(&self) -> Result<Staging, FileError> {
        let dir = self.tmp.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let live = self.live.clone();
        live.lock().unwrap_or_else(PoisonError::into_inner).insert(dir.clone());
        let staging = Staging { disk: self.disk.clone(), dir, live };
        create_private_dir(&*self.disk, &staging.dir)?;
        Ok(staging)
    }

    /// Gives synced files their names as blobs, replacing blobs of the same content, and makes the names
    /// last. The caller holds [`Self::lock`] until a transaction names them.
    pub(crate) fn adopt<'a>(
        &self,
        files: impl Iterator<Item = (&'a Path, &'a ManifestCid)>,
    ) -> Result<(), FileError> {
        for (path, cid) in files {
            let blob = self.dir.join(blob_name(cid));
            self.disk.rename(path, &blob).map_err(|source| FileError::new("create", &blob, source))?;
        }
        sync_dir(&*self.disk, &self.dir)
    }

    /// Deletes a blob; the caller holds [`Self::lock`]. Returns its length.
    pub(crate) fn delete(&self, name: &Path) -> Result<u64, FileError> {
        let path = self.dir.join(name);
        let len = self.disk.symlink_metadata(&path).map_or(0, |meta| meta.len);
        remove_file_if_there(&*self.disk, &path)?;
        Ok(len)
    }

    /// The names of all blobs there are.
    pub(crate) fn names(&self) -> Result<Vec<PathBuf>, FileError> {
        let error = |source| FileError::new("read the directory", &self.dir, source);
        let entries = self.disk.read_dir(&self.dir).map_err(error)?;
        entries.map(|entry| Ok(PathBuf::from(entry.map_err(error)?.name))).collect()
    }

    /// Deletes what lies in the directory of half-made files and belongs to no import that is running.
    pub(crate) fn clear_tmp(&self) -> Result<(), FileError> {
        let error = |source| FileError::new("read the directory", &self.tmp, source);
        for entry in self.disk.read_dir(&self.tmp).map_err(error)? {
            let entry = entry.map_err(error)?;
            let path = self.tmp.join(entry.name);
            if self.live.lock().unwrap_or_else(PoisonError::into_inner).contains(&path) {
                continue;
            }
            let is_dir = entry.kind == FileKind::Dir;
            let removed = if is_dir { self.disk.remove_dir_all(&path) } else { self.disk.remove_file(&path) };
            removed.map_err(|source| FileError::new("remove", &path, source))?;
        }
        Ok(())
    }
}

/// Name of the blob that holds the file with this manifest.
pub(crate) fn blob_name(cid: &ManifestCid) -> PathBuf {
    PathBuf::from(cid.to_string())
}

/// A directory for files in the making.
#[derive(Debug)]
pub(crate) struct Staging {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    live: Arc<Mutex<HashSet<PathBuf>>>,
}

impl Staging {
    /// Where the file with this number is to be made.
    pub(crate) fn path(&self, file: usize) -> PathBuf {
        self.dir.join(file.to_string())
    }

    /// Makes the first `count` files last.
    pub(crate) fn sync(&self, count: usize) -> Result<(), FileError> {
        if count > MAX_SINGLE_SYNCS {
            return sync_fs(&*self.disk, &self.dir);
        }
        (0..count).map(|file| self.path(file)).try_for_each(|path| {
            self.disk
                .open(&path, OpenMode::Read)
                .and_then(|file| file.sync_all())
                .map_err(|source| FileError::new("sync", &path, source))
        })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What stays behind goes when the store is opened again.
        let _ = self.disk.remove_dir_all(&self.dir);
        self.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.dir);
    }
}

/// Makes everything last that was written to the file system of `dir`.
pub(crate) fn sync_fs(disk: &dyn Disk, dir: &Path) -> Result<(), FileError> {
    let synced = disk.open_dir(dir).and_then(|dir| dir.sync_fs());
    synced.map_err(|source| FileError::new("sync the file system of", dir, source))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::disk::RealDisk;

    fn real_disk() -> Arc<dyn Disk> {
        Arc::new(RealDisk)
    }

    #[test]
    fn half_made_files_go_when_their_import_ends_or_the_store_opens_again() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(&real_disk(), dir.path()).unwrap();
        let staging = blobs.stage().unwrap();
        std::fs::write(staging.path(0), "x").unwrap();
        std::fs::write(dir.path().join("tmp/old"), "x").unwrap();
        blobs.clear_tmp().unwrap();
        assert!(staging.path(0).exists());
        assert!(!dir.path().join("tmp/old").exists());
        let path = staging.path(0);
        drop(staging);
        assert!(!path.exists());
        std::fs::create_dir_all(dir.path().join("tmp/0/deep")).unwrap();
        Blobs::open(&real_disk(), dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn a_blob_replaces_the_one_of_the_same_name() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(&real_disk(), dir.path()).unwrap();
        let cid = ManifestCid::of(b"block");
        for content in ["old", "new"] {
            let staging = blobs.stage().unwrap();
            std::fs::write(staging.path(0), content).unwrap();
            staging.sync(1).unwrap();
            let _held = blobs.lock();
            blobs.adopt([(staging.path(0).as_path(), &cid)].into_iter()).unwrap();
        }
        assert_eq!(blobs.names().unwrap(), [blob_name(&cid)]);
        assert_eq!(std::fs::read(blobs.path(&blob_name(&cid))).unwrap(), b"new");
        assert_eq!(blobs.delete(&blob_name(&cid)).unwrap(), 3);
        assert_eq!(blobs.delete(&blob_name(&cid)).unwrap(), 0);
    }
}
