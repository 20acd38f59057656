//! The keys this node announces, so that it can answer for them itself.
//!
//! Of each key only a fingerprint is kept, 64 bits of a keyed hash: about 12 bytes a key with its place in the table.
//! That a key nobody announced has the fingerprint of one of a million announced ones happens once in
//! 2^64 / 10^6 = 18 * 10^12 questions; the asker is then sent to this node for nothing. That two of a million
//! own keys share a fingerprint, so that withdrawing one silences the other, has odds of 10^12 / 2^65, one in 37
//! million. The key of the hash is secret, so nobody can look for such keys.

use super::Digest;
use super::keyed::{KeyedHash, Shards};

/// The own keys.
#[derive(Debug)]
pub(super) struct OwnKeys {
    fingerprints: Shards<u64>,
    hash: KeyedHash,
    max: usize,
}

impl OwnKeys {
    /// At most `max` keys.
    pub(super) fn new(hash: KeyedHash, max: usize) -> Self {
        Self { fingerprints: Shards::new(), hash, max }
    }

    /// Keys.
    pub(super) fn len(&self) -> usize {
        self.fingerprints.len()
    }

    /// Bytes allocated.
    pub(super) fn memory(&self) -> usize {
        self.fingerprints.memory()
    }

    /// Whether a key is announced.
    pub(super) fn contains(&self, digest: &Digest) -> bool {
        let print = self.hash.of(digest);
        self.fingerprints.find(print, |other| *other == print).is_some()
    }

    /// Adds a key; false if there is no room for it.
    pub(super) fn insert(&mut self, digest: &Digest) -> bool {
        if self.contains(digest) {
            return true;
        }
        if self.len() >= self.max {
            return false;
        }
        self.fingerprints.insert(self.hash.of(digest), self.hash.of(digest), |print| *print);
        true
    }

    /// Takes a key out.
    pub(super) fn remove(&mut self, digest: &Digest) {
        let print = self.hash.of(digest);
        self.fingerprints.remove(print, |other| *other == print);
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::{KeyedHash, OwnKeys};
    use crate::net::records::tests::digest;

    fn own(max: usize) -> OwnKeys {
        OwnKeys::new(KeyedHash::new(&mut StdRng::seed_from_u64(1)), max)
    }

    #[test]
    fn a_key_is_held_from_its_first_insertion_to_its_removal() {
        let mut own = own(2);
        assert!(own.insert(&digest(1)) && own.insert(&digest(2)));
        assert!(own.insert(&digest(2)), "again is nothing new");
        assert!(!own.insert(&digest(3)));
        own.remove(&digest(1));
        own.remove(&digest(1));
        assert!(own.insert(&digest(3)));
        assert_eq!(own.len(), 2);
        assert_eq!([1, 2, 3].map(|n| own.contains(&digest(n))), [false, true, true]);
    }

    #[test]
    fn a_million_keys_take_less_than_20_megabytes() {
        let mut own = own(usize::MAX);
        for n in 0..1_000_000 {
            own.insert(&digest(n));
        }
        assert_eq!(own.len(), 1_000_000);
        assert!(own.memory() <= 20_000_000, "{}", own.memory());
    }
}
