//! Hash tables for keys that strangers choose.
//!
//! Whoever knows the hash function of a table can choose keys that all fall into one place of it. So every digest
//! and peer ID is hashed with SipHash-1-3 under a key that follows from the node's seed and is told to nobody.
//!
//! A table is cut into shards that grow one at a time: adding the millionth entry moves a few thousand others, not
//! all of them, so that the event loop never stands still for it.

use hashbrown::HashTable;
use rand::Rng;
use siphasher::sip::SipHasher13;

/// Parts of a table. With 160 of them a million entries fill the shards, whose sizes are powers of two, to three
/// quarters.
const SHARDS: usize = 160;

/// A hash function with a secret key.
#[derive(Clone, Copy)]
pub(super) struct KeyedHash {
    key: (u64, u64),
}

// The key is not for logs.
impl std::fmt::Debug for KeyedHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyedHash").finish_non_exhaustive()
    }
}

impl KeyedHash {
    /// A function whose key is drawn from `rng`.
    pub(super) fn new(rng: &mut impl Rng) -> Self {
        Self { key: (rng.next_u64(), rng.next_u64()) }
    }

    /// The hash of `bytes`.
    pub(super) fn of(self, bytes: &[u8]) -> u64 {
        SipHasher13::new_with_keys(self.key.0, self.key.1).hash(bytes)
    }
}

/// A hash table in shards. The caller hashes, with the same [`KeyedHash`] every time.
#[derive(Debug)]
pub(super) struct Shards<T> {
    shards: Box<[HashTable<T>]>,
    len: usize,
}

impl<T> Shards<T> {
    /// An empty table.
    pub(super) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| HashTable::new()).collect(), len: 0 }
    }

    /// Entries.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes allocated.
    pub(super) fn memory(&self) -> usize {
        let shards = self.shards.iter().map(HashTable::allocation_size).sum::<usize>();
        shards + std::mem::size_of_val(&*self.shards)
    }

    /// The entry that `eq` accepts.
    pub(super) fn find(&self, hash: u64, eq: impl FnMut(&T) -> bool) -> Option<&T> {
        self.shards.get(shard_of(hash))?.find(hash, eq)
    }

    /// The entry that `eq` accepts, to be changed into another of the same hash.
    pub(super) fn find_mut(&mut self, hash: u64, eq: impl FnMut(&T) -> bool) -> Option<&mut T> {
        self.shards.get_mut(shard_of(hash))?.find_mut(hash, eq)
    }

    /// Adds an entry that is not there yet. `rehash` hashes the others if they have to move.
    pub(super) fn insert(&mut self, hash: u64, value: T, rehash: impl Fn(&T) -> u64) {
        if let Some(shard) = self.shards.get_mut(shard_of(hash)) {
            shard.insert_unique(hash, value, rehash);
            self.len += 1;
        }
    }

    /// Takes the entry out that `eq` accepts.
    pub(super) fn remove(&mut self, hash: u64, eq: impl FnMut(&T) -> bool) -> Option<T> {
        let entry = self.shards.get_mut(shard_of(hash))?.find_entry(hash, eq).ok()?;
        self.len = self.len.saturating_sub(1);
        Some(entry.remove().0)
    }

    /// All entries, in no order.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.shards.iter().flat_map(HashTable::iter)
    }
}

/// The shard of a hash, by bits in the middle: a shard places its entries by the lowest and marks them with the
/// highest ones.
fn shard_of(hash: u64) -> usize {
    let middle = (hash >> 32) & 0xffff;
    usize::try_from((middle * SHARDS as u64) >> 16).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::{KeyedHash, SHARDS, Shards, shard_of};

    #[test]
    fn what_is_inserted_is_found_until_it_is_removed() {
        let hash = KeyedHash::new(&mut StdRng::seed_from_u64(1));
        let of = |n: &u32| hash.of(&n.to_be_bytes());
        let mut table = Shards::new();
        for n in 0..10_000u32 {
            table.insert(of(&n), n, of);
        }
        assert_eq!((table.len(), table.iter().count()), (10_000, 10_000));
        assert!((0..10_000).all(|n| table.find(of(&n), |m| *m == n) == Some(&n)));
        assert_eq!(table.find(of(&10_000), |m| *m == 10_000), None);
        for n in 0..5_000 {
            assert_eq!(table.remove(of(&n), |m| *m == n), Some(n));
            assert_eq!(table.remove(of(&n), |m| *m == n), None);
        }
        assert_eq!(table.len(), 5_000);
    }

    #[test]
    fn shards_are_used_evenly() {
        let hash = KeyedHash::new(&mut StdRng::seed_from_u64(2));
        let mut used = vec![0u32; SHARDS];
        for n in 0..160_000u32 {
            used[shard_of(hash.of(&n.to_be_bytes()))] += 1;
        }
        assert!(used.iter().all(|n| (800..1_200).contains(n)), "{used:?}");
    }

    #[test]
    fn the_key_decides_the_hash() {
        let [a, b] = [1, 2].map(|seed| KeyedHash::new(&mut StdRng::seed_from_u64(seed)));
        assert_ne!(a.of(b"x"), b.of(b"x"));
        assert_eq!(a.of(b"x"), KeyedHash::new(&mut StdRng::seed_from_u64(1)).of(b"x"));
    }
}
