//! Where records lie: blocks of equal places that are used again.
//!
//! Blocks are allocated one at a time and never moved, so a store that grows neither copies what it has nor holds
//! it twice. Free places form a list.

use super::Digest;

/// No place.
pub(super) const NONE: u32 = u32::MAX;

/// Places in a block: 13 KiB, so that a small node stays small.
const BLOCK_LEN: usize = 256;

/// A provider record of another node, in 52 bytes.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) digest: Digest,
    /// Number of the provider; [`NONE`] marks a free place.
    pub(super) provider: u32,
    /// When it ends, in seconds since the start of the store.
    pub(super) expires: u32,
    /// The next record of the same key; the next free place if this one is free.
    pub(super) next_of_key: u32,
    /// The neighbours among the records of the same provider.
    pub(super) prev_of_provider: u32,
    pub(super) next_of_provider: u32,
}

impl Record {
    const FREE: Self = Self {
        digest: [0; 32],
        provider: NONE,
        expires: 0,
        next_of_key: NONE,
        prev_of_provider: NONE,
        next_of_provider: NONE,
    };
}

/// Records by the number of their place.
#[derive(Debug)]
pub(super) struct Slab {
    blocks: Vec<Box<[Record]>>,
    /// The first free place.
    free: u32,
    len: usize,
}

impl Slab {
    /// An empty one.
    pub(super) fn new() -> Self {
        Self { blocks: Vec::new(), free: NONE, len: 0 }
    }

    /// Records.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Places, used and free.
    pub(super) fn places(&self) -> u32 {
        u32::try_from(self.blocks.len() * BLOCK_LEN).unwrap_or(NONE)
    }

    /// Bytes allocated.
    pub(super) fn memory(&self) -> usize {
        let blocks = self.blocks.len() * BLOCK_LEN * size_of::<Record>();
        blocks + self.blocks.capacity() * size_of::<Box<[Record]>>()
    }

    /// The record at a place.
    pub(super) fn get(&self, place: u32) -> Option<&Record> {
        let place = usize::try_from(place).ok()?;
        let record = self.blocks.get(place / BLOCK_LEN)?.get(place % BLOCK_LEN)?;
        (record.provider != NONE).then_some(record)
    }

    /// The record at a place, to be changed.
    pub(super) fn get_mut(&mut self, place: u32) -> Option<&mut Record> {
        self.place_mut(place).filter(|record| record.provider != NONE)
    }

    /// Puts a record into a free place; `None` if all numbers are taken.
    pub(super) fn insert(&mut self, record: Record) -> Option<u32> {
        if self.free == NONE {
            self.grow();
        }
        let place = self.free;
        let free = self.place_mut(place)?;
        let next = free.next_of_key;
        *free = record;
        self.free = next;
        self.len += 1;
        Some(place)
    }

    /// Takes a record out; its place is free again.
    pub(super) fn remove(&mut self, place: u32) -> Option<Record> {
        let free = self.free;
        let record = self.get_mut(place)?;
        let record = std::mem::replace(record, Record { next_of_key: free, ..Record::FREE });
        self.free = place;
        self.len = self.len.saturating_sub(1);
        Some(record)
    }

    fn place_mut(&mut self, place: u32) -> Option<&mut Record> {
        let place = usize::try_from(place).ok()?;
        self.blocks.get_mut(place / BLOCK_LEN)?.get_mut(place % BLOCK_LEN)
    }

    /// Adds a block whose places are all free.
    fn grow(&mut self) {
        let first = self.blocks.len() * BLOCK_LEN;
        let Ok(end) = u32::try_from(first + BLOCK_LEN) else { return };
        let free = (first + 1..=first + BLOCK_LEN).map(|next| {
            let next = u32::try_from(next).ok().filter(|next| *next != end).unwrap_or(NONE);
            Record { next_of_key: next, ..Record::FREE }
        });
        self.blocks.push(free.collect());
        self.free = u32::try_from(first).unwrap_or(NONE);
    }

    /// Free places, counted by walking the list.
    #[cfg(test)]
    pub(super) fn count_free(&self) -> usize {
        let mut free = self.free;
        let mut count = 0;
        while free != NONE {
            let place = free as usize;
            let record = &self.blocks[place / BLOCK_LEN][place % BLOCK_LEN];
            assert_eq!(record.provider, NONE, "a used place is in the list of free ones");
            free = record.next_of_key;
            count += 1;
            assert!(count <= self.blocks.len() * BLOCK_LEN, "the list of free places is a ring");
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::{BLOCK_LEN, NONE, Record, Slab};

    #[test]
    fn a_record_takes_52_bytes() {
        assert_eq!(size_of::<Record>(), 52);
    }

    #[test]
    fn places_are_used_again_before_a_block_is_added() {
        let mut slab = Slab::new();
        let record = |provider| Record { provider, ..Record::FREE };
        assert!(slab.get(0).is_none() && slab.get(NONE).is_none());
        let block = u32::try_from(BLOCK_LEN).unwrap();
        for n in 0..block {
            assert_eq!(slab.insert(record(n)), Some(n));
        }
        assert_eq!((slab.places(), slab.count_free()), (block, 0));
        for n in [3, 200, 7] {
            assert_eq!(slab.remove(n).map(|record| record.provider), Some(n));
            assert!(slab.remove(n).is_none() && slab.get(n).is_none());
        }
        assert_eq!((slab.len(), slab.count_free()), (BLOCK_LEN - 3, 3));
        let again: Vec<_> = (0..4).map(|n| slab.insert(record(n)).unwrap()).collect();
        assert_eq!(again, [7, 200, 3, block]);
        assert_eq!(slab.places(), 2 * block);
    }
}
