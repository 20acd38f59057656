//! Which chunks of a tree are here: a set of indices below a fixed length.
//!
//! On disk and on the wire a set is one byte of form and then either a bitmap or runs, whichever is shorter; the bitmap
//! if they are equal. A set has one encoding.
//!
//! - form 0, bitmap: bit `index % 8` (least significant first) of byte `index / 8`; unused bits are 0.
//! - form 1, runs: unsigned LEB128 lengths of alternating runs, first of absent indices (may be 0), then present
//!   ones, and so on; the last absent run is left out.

/// Indices below a length, each in the set or not. Takes one bit an index.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChunkSet {
    words: Vec<u64>,
    len: u32,
    count: u32,
}

/// Why bytes are no set of the expected length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChunkSetError {
    /// Not one of the two forms.
    #[error("unknown form of a chunk set")]
    Form,
    /// Bytes of another length than the number of chunks needs, or bits past the end.
    #[error("a chunk set of another length")]
    Length,
    /// Not the one encoding of its set.
    #[error("not the canonical form of a chunk set")]
    NotCanonical,
}

const WORD: u32 = u64::BITS;
const BITMAP: u8 = 0;
const RUNS: u8 = 1;

impl ChunkSet {
    /// An empty set of indices below `len`.
    pub fn new(len: u32) -> Self {
        Self { words: vec![0; len.div_ceil(WORD) as usize], len, count: 0 }
    }

    /// The set of all indices below `len`.
    pub fn full(len: u32) -> Self {
        let mut set = Self::new(len);
        set.insert_range(0, len);
        set
    }

    /// The bound of the indices.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether everything is in the set.
    pub fn is_full(&self) -> bool {
        self.count == self.len
    }

    /// How many indices are in the set.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether `index` is in the set; false past the end.
    pub fn contains(&self, index: u32) -> bool {
        let word = self.words.get((index / WORD) as usize);
        index < self.len && word.is_some_and(|word| word & bit(index) != 0)
    }

    /// Puts `index` in; false if it was in before or is past the end.
    pub fn insert(&mut self, index: u32) -> bool {
        if index >= self.len || self.contains(index) {
            return false;
        }
        if let Some(word) = self.words.get_mut((index / WORD) as usize) {
            *word |= bit(index);
            self.count += 1;
        }
        true
    }

    /// Takes `index` out; false if it was not in.
    pub fn remove(&mut self, index: u32) -> bool {
        if !self.contains(index) {
            return false;
        }
        if let Some(word) = self.words.get_mut((index / WORD) as usize) {
            *word &= !bit(index);
            self.count -= 1;
        }
        true
    }

    /// Puts in the indices from `start` to before `end`; those past the end of the set are left out. Takes a step for
    /// each 64 of them.
    pub fn insert_range(&mut self, start: u32, end: u32) {
        let end = end.min(self.len);
        let mut at = start;
        while at < end {
            let next = (at / WORD + 1).saturating_mul(WORD).min(end);
            let below = |place: u32| 1_u64.checked_shl(place).map_or(u64::MAX, |bit| bit - 1);
            let mask = below(next - at / WORD * WORD) & !below(at % WORD);
            if let Some(word) = self.words.get_mut((at / WORD) as usize) {
                self.count += (mask & !*word).count_ones();
                *word |= mask;
            }
            at = next;
        }
    }

    /// Makes the set longer by one index, which is in it or not. For sets whose length is known only in the end; at
    /// most `u32::MAX` indices.
    pub fn push(&mut self, is_in: bool) {
        if self.len == u32::MAX {
            return;
        }
        if self.len.is_multiple_of(WORD) {
            self.words.push(0);
        }
        self.len += 1;
        if is_in {
            self.insert(self.len - 1);
        }
    }

    /// What is in this set and not in `other`, which has the same length.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let others = other.words.iter().chain(std::iter::repeat(&0));
        let words: Vec<u64> = self.words.iter().zip(others).map(|(word, other)| word & !other).collect();
        let count = words.iter().map(|word| word.count_ones()).sum();
        Self { words, len: self.len, count }
    }

    /// Runs of indices in the set, ascending, as long as can be: first and past the last.
    pub fn ranges(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = self.next_from(at, true)?;
            let end = self.next_from(start, false).unwrap_or(self.len);
            at = end;
            Some((start, end))
        })
    }

    /// The first index from `at` on that is in the set, or that is not.
    fn next_from(&self, at: u32, is_in: bool) -> Option<u32> {
        let mut word = at / WORD;
        let mut mask = u64::MAX.checked_shl(at % WORD).unwrap_or(0);
        while word * WORD < self.len {
            let bits = *self.words.get(word as usize)?;
            let found = if is_in { bits } else { !bits } & mask;
            if found != 0 {
                return Some(word * WORD + found.trailing_zeros()).filter(|index| *index < self.len);
            }
            mask = u64::MAX;
            word += 1;
        }
        None
    }

    /// The indices in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..).zip(&self.words).flat_map(|(number, word)| {
            std::iter::successors((*word != 0).then_some(*word), |left| {
                let rest = left & (left - 1);
                (rest != 0).then_some(rest)
            })
            .map(move |left| number * WORD + left.trailing_zeros())
        })
    }

    /// The indices that are not in the set, ascending.
    pub fn missing(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.len).filter(|index| !self.contains(*index))
    }

    /// The one encoding of the set.
    pub fn encode(&self) -> Vec<u8> {
        let bitmap_len = self.len.div_ceil(8) as usize;
        match self.runs(bitmap_len) {
            Some(runs) => std::iter::once(RUNS).chain(runs).collect(),
            None => {
                let bytes = self.words.iter().flat_map(|word| word.to_le_bytes()).take(bitmap_len);
                std::iter::once(BITMAP).chain(bytes).collect()
            }
        }
    }

    /// Reads the encoding of a set of indices below `len`.
    ///
    /// # Errors
    /// [`ChunkSetError`]; memory follows `len`, not the bytes.
    pub fn decode(bytes: &[u8], len: u32) -> Result<Self, ChunkSetError> {
        let (form, body) = bytes.split_first().ok_or(ChunkSetError::Form)?;
        let mut set = Self::new(len);
        match *form {
            BITMAP => set.read_bitmap(body)?,
            RUNS => set.read_runs(body)?,
            _ => return Err(ChunkSetError::Form),
        }
        if set.encode() == bytes { Ok(set) } else { Err(ChunkSetError::NotCanonical) }
    }

    fn read_bitmap(&mut self, body: &[u8]) -> Result<(), ChunkSetError> {
        if body.len() != self.len.div_ceil(8) as usize {
            return Err(ChunkSetError::Length);
        }
        for (number, byte) in (0..).zip(body) {
            for place in (0..8).filter(|place| byte & (1 << place) != 0) {
                if !self.insert(number * 8 + place) {
                    return Err(ChunkSetError::Length);
                }
            }
        }
        Ok(())
    }

    fn read_runs(&mut self, mut body: &[u8]) -> Result<(), ChunkSetError> {
        let mut at = 0_u32;
        let mut is_present = false;
        while !body.is_empty() {
            let (run, rest) = read_varint(body).ok_or(ChunkSetError::NotCanonical)?;
            body = rest;
            let end = at.checked_add(run).filter(|end| *end <= self.len).ok_or(ChunkSetError::Length)?;
            if is_present {
                self.insert_range(at, end);
            }
            at = end;
            is_present = !is_present;
        }
        Ok(())
    }

    /// The runs if they are shorter than `limit` bytes.
    fn runs(&self, limit: usize) -> Option<Vec<u8>> {
        let mut runs = Vec::new();
        let mut written = 0;
        for (start, end) in self.ranges() {
            write_varint(&mut runs, start - written);
            write_varint(&mut runs, end - start);
            written = end;
            if runs.len() >= limit {
                return None;
            }
        }
        (runs.len() < limit).then_some(runs)
    }
}

fn bit(index: u32) -> u64 {
    1 << (index % WORD)
}

fn write_varint(out: &mut Vec<u8>, mut value: u32) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

fn read_varint(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let mut value = 0_u32;
    for (index, byte) in bytes.iter().enumerate().take(5) {
        let part = u32::from(byte & 0x7f);
        let shift = 7 * u32::try_from(index).ok()?;
        value |= part.checked_shl(shift).filter(|shifted| shifted >> shift == part)?;
        if byte & 0x80 == 0 {
            return Some((value, bytes.get(index + 1..)?));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn set_of(len: u32, indices: impl IntoIterator<Item = u32>) -> ChunkSet {
        let mut set = ChunkSet::new(len);
        for index in indices {
            set.insert(index);
        }
        set
    }

    #[test]
    fn a_complete_or_empty_set_takes_a_few_bytes_whatever_its_length() {
        let full = set_of(1 << 20, 0..1 << 20);
        assert!(full.is_full());
        assert!(full.encode().len() <= 6);
        assert_eq!(ChunkSet::new(1 << 20).encode(), [RUNS]);
        assert_eq!(ChunkSet::new(0).encode(), [BITMAP]);
    }

    #[test]
    fn other_encodings_of_a_set_are_refused() {
        assert_eq!(ChunkSet::decode(&[], 8), Err(ChunkSetError::Form));
        assert_eq!(ChunkSet::decode(&[2], 8), Err(ChunkSetError::Form));
        assert_eq!(ChunkSet::decode(&[BITMAP, 0, 0], 8), Err(ChunkSetError::Length));
        assert_eq!(ChunkSet::decode(&[BITMAP, 0x80], 7), Err(ChunkSetError::Length));
        // An empty set is shorter as runs; a run past the end; a varint that never ends; a run of nothing.
        assert_eq!(ChunkSet::decode(&[BITMAP, 0], 8), Err(ChunkSetError::NotCanonical));
        assert_eq!(ChunkSet::decode(&[RUNS, 5, 100], 64), Err(ChunkSetError::Length));
        assert_eq!(
            ChunkSet::decode(&[RUNS, 0x80, 0x80, 0x80, 0x80, 0x80, 1], 64),
            Err(ChunkSetError::NotCanonical)
        );
        assert_eq!(ChunkSet::decode(&[RUNS, 1, 0, 1, 1], 640), Err(ChunkSetError::NotCanonical));
    }

    proptest! {
        #[test]
        fn a_set_is_what_a_tree_set_is(len in 0_u32..700, ops in prop::collection::vec((any::<bool>(), 0_u32..800), 0..400)) {
            let mut set = ChunkSet::new(len);
            let mut model = BTreeSet::new();
            for (is_insert, index) in ops {
                if is_insert {
                    prop_assert_eq!(set.insert(index), index < len && model.insert(index));
                } else {
                    prop_assert_eq!(set.remove(index), model.remove(&index));
                }
            }
            prop_assert_eq!(set.count() as usize, model.len());
            prop_assert!(set.iter().eq(model.iter().copied()));
            prop_assert!(set.missing().eq((0..len).filter(|index| !model.contains(index))));
            let mut of_ranges = ChunkSet::new(len);
            set.ranges().for_each(|(start, end)| of_ranges.insert_range(start, end));
            prop_assert_eq!(&of_ranges, &set);
            let mut pushed = ChunkSet::default();
            (0..len).for_each(|index| pushed.push(model.contains(&index)));
            prop_assert_eq!(&pushed, &set);
            prop_assert!(set.ranges().all(|(start, end)| start < end && !set.contains(end)));
            prop_assert_eq!(ChunkSet::decode(&set.encode(), len), Ok(set));
        }

        #[test]
        fn ranges_and_differences_are_those_of_tree_sets(
            len in 0_u32..400,
            ranges in prop::collection::vec((0_u32..450, 0_u32..450), 0..6),
            others in prop::collection::vec(0_u32..400, 0..200),
        ) {
            let mut set = ChunkSet::new(len);
            let mut model = BTreeSet::new();
            for (start, end) in ranges {
                set.insert_range(start, end);
                model.extend(start..end.min(len));
            }
            prop_assert!(set.iter().eq(model.iter().copied()));
            prop_assert_eq!(set.count() as usize, model.len());
            let other = set_of(len, others);
            let rest = set.without(&other);
            prop_assert!(rest.iter().eq(model.iter().copied().filter(|index| !other.contains(*index))));
            prop_assert_eq!(rest.count() as usize, rest.iter().count());
        }

        #[test]
        fn any_bytes_are_refused_or_are_the_encoding(bytes in prop::collection::vec(any::<u8>(), 0..64), len in 0_u32..600) {
            if let Ok(set) = ChunkSet::decode(&bytes, len) {
                prop_assert_eq!(set.encode(), bytes);
            }
        }
    }
}
