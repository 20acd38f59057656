//! What is kept in memory about sources between two reads: open files, and which chunks were found right.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::db::tables::SourceId;
use crate::disk::DiskFile;
use crate::fsutil::FileStamp;

/// Files kept open, far below the usual limit of 1,024 descriptors a process.
pub(crate) const MAX_OPEN_FILES: usize = 64;

/// Sources whose hashed chunks are remembered: at one bit a chunk some 128 KiB for each TiB, and 100 bytes a
/// source.
const MAX_VERIFIED_SOURCES: usize = 4096;

/// A map of bounded size that forgets what was used longest ago.
#[derive(Debug)]
pub(crate) struct Lru<K, V> {
    max: usize,
    tick: u64,
    values: HashMap<K, (u64, V)>,
    order: BTreeMap<u64, K>,
}

impl<K: Copy + Eq + Hash, V> Lru<K, V> {
    /// Holds at most `max` values, at least one.
    pub(crate) fn new(max: usize) -> Self {
        Self { max: max.max(1), tick: 0, values: HashMap::new(), order: BTreeMap::new() }
    }

    /// The value of a key, which counts as used now.
    pub(crate) fn get(&mut self, key: K) -> Option<&mut V> {
        let (used, value) = self.values.get_mut(&key)?;
        self.order.remove(used);
        self.tick += 1;
        *used = self.tick;
        self.order.insert(self.tick, key);
        Some(value)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.remove(key);
        while self.values.len() >= self.max {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.values.remove(&oldest);
        }
        self.tick += 1;
        self.values.insert(key, (self.tick, value));
        self.order.insert(self.tick, key);
    }

    pub(crate) fn remove(&mut self, key: K) {
        if let Some((used, _)) = self.values.remove(&key) {
            self.order.remove(&used);
        }
    }
}

/// The chunks of a source that were hashed and found right while the file had this stamp.
#[derive(Debug)]
struct Verified {
    stamp: FileStamp,
    bits: Vec<u64>,
}

impl Verified {
    fn new(stamp: FileStamp) -> Self {
        Self { stamp, bits: Vec::new() }
    }

    fn place(index: u64) -> Option<(usize, u64)> {
        Some((usize::try_from(index / 64).ok()?, 1 << (index % 64)))
    }

    fn has(&self, index: u64) -> bool {
        Self::place(index).is_some_and(|(word, bit)| self.bits.get(word).is_some_and(|bits| bits & bit != 0))
    }

    fn insert(&mut self, index: u64) {
        let Some((word, bit)) = Self::place(index) else { return };
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        if let Some(bits) = self.bits.get_mut(word) {
            *bits |= bit;
        }
    }
}

/// The open file of a source, and its stamp when it was opened.
type OpenSource = (Arc<dyn DiskFile>, FileStamp);

/// The memory of one store.
#[derive(Debug)]
pub(crate) struct SourceCache {
    files: Mutex<Lru<SourceId, OpenSource>>,
    verified: Mutex<Lru<SourceId, Verified>>,
}

impl SourceCache {
    pub(crate) fn new() -> Self {
        Self {
            files: Mutex::new(Lru::new(MAX_OPEN_FILES)),
            verified: Mutex::new(Lru::new(MAX_VERIFIED_SOURCES)),
        }
    }

    /// The open file of a source, if it is the very file that has `stamp`.
    pub(crate) fn file(&self, id: SourceId, stamp: &FileStamp) -> Option<Arc<dyn DiskFile>> {
        let mut files = guard(&self.files);
        files.get(id).filter(|(_, opened)| opened.is_same_file(stamp)).map(|(file, _)| file.clone())
    }

    pub(crate) fn keep_file(&self, id: SourceId, file: Arc<dyn DiskFile>, stamp: FileStamp) {
        guard(&self.files).insert(id, (file, stamp));
    }

    /// Whether the chunk with this index was found right, and the file still has the stamp it had before
    /// that.
    pub(crate) fn is_verified(&self, id: SourceId, stamp: &FileStamp, index: u64) -> bool {
        guard(&self.verified).get(id).is_some_and(|verified| verified.stamp == *stamp && verified.has(index))
    }

    /// Notes that a chunk was read and found right after the file had `stamp`.
    pub(crate) fn set_verified(&self, id: SourceId, stamp: FileStamp, index: u64) {
        let mut sources = guard(&self.verified);
        match sources.get(id) {
            Some(verified) if verified.stamp == stamp => verified.insert(index),
            _ => {
                let mut verified = Verified::new(stamp);
                verified.insert(index);
                sources.insert(id, verified);
            }
        }
    }

    /// Notes that the first `chunks` chunks were all read and found right after the file had `stamp`.
    pub(crate) fn set_all_verified(&self, id: SourceId, stamp: FileStamp, chunks: usize) {
        let mut verified = Verified::new(stamp);
        verified.bits = vec![u64::MAX; chunks.div_ceil(64)];
        guard(&self.verified).insert(id, verified);
    }

    /// Closes a source's file and forgets what was verified.
    pub(crate) fn forget(&self, id: SourceId) {
        guard(&self.files).remove(id);
        guard(&self.verified).remove(id);
    }
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::disk::RealDisk;

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut lru = Lru::new(2);
        lru.insert(1, "one");
        lru.insert(2, "two");
        assert_eq!(lru.get(1), Some(&mut "one"));
        lru.insert(3, "three");
        assert_eq!(lru.get(2), None);
        lru.insert(3, "drei");
        lru.remove(1);
        assert_eq!(lru.get(1), None);
        assert_eq!(lru.get(3), Some(&mut "drei"));
        assert_eq!((lru.values.len(), lru.order.len()), (1, 1));
    }

    #[test]
    fn a_new_stamp_makes_every_chunk_unverified() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "one").unwrap();
        let first = FileStamp::of_path(&RealDisk, &path).unwrap();
        std::fs::write(&path, "other").unwrap();
        let second = FileStamp::of_path(&RealDisk, &path).unwrap();
        let cache = SourceCache::new();
        cache.set_all_verified(1, first, 65);
        assert!(cache.is_verified(1, &first, 0) && cache.is_verified(1, &first, 64));
        assert!(!cache.is_verified(1, &first, 128) && !cache.is_verified(1, &second, 0));
        cache.set_verified(1, second, 3);
        assert!(cache.is_verified(1, &second, 3) && !cache.is_verified(1, &second, 2));
        assert!(!cache.is_verified(1, &first, 0));
        cache.forget(1);
        assert!(!cache.is_verified(1, &second, 3));
    }
}
