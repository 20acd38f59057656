//! The keys that are announced, in the order in which they are announced again.
//!
//! A key's place in the interval follows from its digest, so the repeats of any set of keys are spread evenly,
//! every key has one turn in each interval, and nothing needs to be remembered per key.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use dhtfs_store::{ChunkCid, ContentCid, ManifestCid};

/// A CID that orders by digest first: 33 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    digest: [u8; 32],
    manifest: bool,
}

impl From<ContentCid> for Key {
    fn from(cid: ContentCid) -> Self {
        match cid {
            ContentCid::Chunk(cid) => Self { digest: *cid.digest(), manifest: false },
            ContentCid::Manifest(cid) => Self { digest: *cid.digest(), manifest: true },
        }
    }
}

impl From<Key> for ContentCid {
    fn from(key: Key) -> Self {
        if key.manifest {
            ManifestCid::from_digest(key.digest).into()
        } else {
            ChunkCid::from_digest(key.digest).into()
        }
    }
}

impl Key {
    /// Its turn within an interval.
    fn turn(&self, interval: Duration) -> Duration {
        let [a, b, c, d, ..] = self.digest;
        let place = u128::from(u32::from_be_bytes([a, b, c, d]));
        let nanos = (interval.as_nanos() * place) >> 32;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// Announced keys and whose turn is next.
#[derive(Debug)]
pub(super) struct Sweep {
    /// When the current interval began.
    began: Instant,
    /// Keys that still have their turn in it.
    current: BTreeSet<Key>,
    /// Keys that have their turn in the next one.
    later: BTreeSet<Key>,
}

impl Sweep {
    /// An empty sweep whose first interval begins now.
    pub(super) fn new(now: Instant) -> Self {
        Self { began: now, current: BTreeSet::new(), later: BTreeSet::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.current.len() + self.later.len()
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.current.contains(key) || self.later.contains(key)
    }

    /// Adds a key that was announced just now. If its turn comes soon it is left out this time: a key is repeated
    /// at the latest after one and a quarter of an interval.
    pub(super) fn insert(&mut self, key: Key, interval: Duration, now: Instant) {
        if self.began + key.turn(interval) >= now + interval / 4 {
            self.current.insert(key);
        } else {
            self.later.insert(key);
        }
    }

    pub(super) fn remove(&mut self, key: &Key) -> bool {
        self.current.remove(key) || self.later.remove(key)
    }

    /// Takes all keys.
    pub(super) fn take_all(&mut self) -> BTreeSet<Key> {
        let mut all = std::mem::take(&mut self.current);
        all.append(&mut self.later);
        all
    }

    /// When the next key has its turn.
    pub(super) fn due_at(&self, interval: Duration) -> Option<Instant> {
        let in_this = self.current.first().map(|key| self.began + key.turn(interval));
        in_this.or_else(|| self.later.first().map(|key| self.began + interval + key.turn(interval)))
    }

    /// Takes the next key if its turn has come. Intervals that were missed altogether, because nothing could be
    /// announced for so long, are not made up for.
    pub(super) fn take_due(&mut self, interval: Duration, now: Instant) -> Option<Key> {
        if self.current.is_empty() && self.began + interval <= now {
            self.current = std::mem::take(&mut self.later);
            while self.began + interval <= now {
                self.began += interval;
            }
        }
        let due = self.current.first().is_some_and(|key| self.began + key.turn(interval) <= now);
        if due { self.current.pop_first() } else { None }
    }
}
