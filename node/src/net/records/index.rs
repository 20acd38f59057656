//! Records, found by key and by provider.
//!
//! The records of a key form a chain, with the first of them in a hash table; those of a provider form a list in the
//! order in which they were renewed. Both run through the slab, so a record costs its 52 bytes and its place in the
//! table, 7 to 10 more.
//!
//! Invariants: each record is in exactly one chain and one list; a chain has one digest and different providers.

use super::Digest;
use super::keyed::{KeyedHash, Shards};
use super::providers::Providers;
use super::slab::{NONE, Record, Slab};

/// Records of other nodes.
#[derive(Debug)]
pub(super) struct Index {
    slab: Slab,
    /// The first record of each key.
    keys: Shards<u32>,
    hash: KeyedHash,
    pub(super) providers: Providers,
}

impl Index {
    /// An empty one.
    pub(super) fn new(keys: KeyedHash, peers: KeyedHash) -> Self {
        Self { slab: Slab::new(), keys: Shards::new(), hash: keys, providers: Providers::new(peers) }
    }

    /// Records.
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    /// Places for records, used and free: all numbers below may be looked at.
    pub(super) fn places(&self) -> u32 {
        self.slab.places()
    }

    /// Bytes allocated.
    pub(super) fn memory(&self) -> usize {
        self.slab.memory() + self.keys.memory() + self.providers.memory()
    }

    /// The record at a place.
    pub(super) fn get(&self, place: u32) -> Option<&Record> {
        self.slab.get(place)
    }

    /// The records of a key with their places.
    pub(super) fn of_key(&self, digest: &Digest) -> impl Iterator<Item = (u32, &Record)> {
        let mut next = self.first_of(digest).unwrap_or(NONE);
        std::iter::from_fn(move || {
            let place = next;
            let record = self.slab.get(place)?;
            next = record.next_of_key;
            Some((place, record))
        })
    }

    fn first_of(&self, digest: &Digest) -> Option<u32> {
        let is_it = |place: &u32| self.slab.get(*place).is_some_and(|record| record.digest == *digest);
        self.keys.find(self.hash.of(digest), is_it).copied()
    }

    /// Adds a record that is not there yet; false if all places are taken.
    pub(super) fn insert(&mut self, digest: Digest, provider: u32, expires: u32) -> bool {
        let first = self.first_of(&digest);
        let next_of_key =
            first.and_then(|first| self.slab.get(first)).map_or(NONE, |first| first.next_of_key);
        let record =
            Record { digest, provider, expires, next_of_key, prev_of_provider: NONE, next_of_provider: NONE };
        let Some(place) = self.slab.insert(record) else { return false };
        match first.and_then(|first| self.slab.get_mut(first)) {
            // Behind the first one, so that the table need not know.
            Some(first) => first.next_of_key = place,
            None => {
                let (hash, slab) = (self.hash, &self.slab);
                let rehash = |place: &u32| slab.get(*place).map_or(0, |record| hash.of(&record.digest));
                self.keys.insert(hash.of(&digest), place, rehash);
            }
        }
        self.append(place);
        self.providers.count_up(provider);
        true
    }

    /// Gives a record a new end; it is now the last its provider has renewed.
    pub(super) fn renew(&mut self, place: u32, expires: u32) {
        let Some(record) = self.slab.get_mut(place) else { return };
        record.expires = expires;
        if record.next_of_provider != NONE {
            self.detach(place);
            self.append(place);
        }
    }

    /// Takes a record out; its provider is left to the caller.
    pub(super) fn remove(&mut self, place: u32) -> Option<Record> {
        self.unchain(place)?;
        self.detach(place);
        let record = self.slab.remove(place)?;
        self.providers.count_down(record.provider);
        Some(record)
    }

    /// Takes a record out of the chain of its key.
    fn unchain(&mut self, place: u32) -> Option<()> {
        let Record { digest, next_of_key: next, .. } = *self.slab.get(place)?;
        let hash = self.hash.of(&digest);
        let first = self.first_of(&digest)?;
        if first != place {
            let before = self.of_key(&digest).find(|(_, record)| record.next_of_key == place)?.0;
            self.slab.get_mut(before)?.next_of_key = next;
        } else if next == NONE {
            self.keys.remove(hash, |first| *first == place);
        } else {
            *self.keys.find_mut(hash, |first| *first == place)? = next;
        }
        Some(())
    }

    /// Takes a record out of the list of its provider.
    fn detach(&mut self, place: u32) {
        let Some(record) = self.slab.get_mut(place) else { return };
        let (before, after) = (record.prev_of_provider, record.next_of_provider);
        record.prev_of_provider = NONE;
        record.next_of_provider = NONE;
        let provider = record.provider;
        if let Some(before) = self.slab.get_mut(before) {
            before.next_of_provider = after;
        }
        if let Some(after) = self.slab.get_mut(after) {
            after.prev_of_provider = before;
        }
        let Some(provider) = self.providers.get_mut(provider) else { return };
        if provider.first == place {
            provider.first = after;
        }
        if provider.last == place {
            provider.last = before;
        }
    }

    /// Puts a record at the end of the list of its provider.
    fn append(&mut self, place: u32) {
        let Some(no) = self.slab.get(place).map(|record| record.provider) else { return };
        let Some(provider) = self.providers.get_mut(no) else { return };
        let last = std::mem::replace(&mut provider.last, place);
        if provider.first == NONE {
            provider.first = place;
        }
        if let Some(last) = self.slab.get_mut(last) {
            last.next_of_provider = place;
        }
        if let Some(record) = self.slab.get_mut(place) {
            record.prev_of_provider = last;
        }
    }

    #[cfg(test)]
    pub(super) fn check_invariants(&self, max_per_key: usize) {
        self.providers.check_invariants();
        assert_eq!(self.slab.len() + self.slab.count_free(), self.slab.places() as usize);
        let mut chained = 0;
        for first in self.keys.iter() {
            let digest = self.slab.get(*first).unwrap().digest;
            let mut providers = std::collections::BTreeSet::new();
            for (_, record) in self.of_key(&digest) {
                assert_eq!(record.digest, digest);
                assert!(providers.insert(record.provider), "one provider twice under a key");
            }
            chained += providers.len();
            let named = providers.iter().filter(|no| !self.providers.is_forgotten(**no)).count();
            assert!(named <= max_per_key, "{named}");
        }
        assert_eq!(chained, self.slab.len());
        let mut listed = 0;
        for (no, provider) in self.providers.iter() {
            let (mut before, mut place, mut count) = (NONE, provider.first, 0);
            while let Some(record) = self.slab.get(place) {
                assert_eq!((record.provider, record.prev_of_provider), (no, before));
                (before, place, count) = (place, record.next_of_provider, count + 1);
                assert!(count <= self.slab.len());
            }
            assert_eq!((place, provider.last, count), (NONE, before, self.providers.records_of(no)));
            listed += count;
        }
        assert_eq!(listed, self.slab.len());
    }
}
