//! The bytes of a file: blocks of 1 MiB, each either one shared piece or pages of 4 KiB.
//!
//! A block that is written whole, as a chunk is, stays one piece and comes from the pool. A block that is written in
//! small parts, as a database is, is made of pages, so that a small write copies little. Copies of a file share both
//! until one of them is written to.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use rustix::io::Errno;

use super::pool::PagePool;

/// Length of a block in bytes.
pub(super) const BLOCK_LEN: usize = 1 << 20;
/// Length of a page in bytes, and the unit in which space is counted.
pub(super) const PAGE_LEN: usize = 4096;
/// Writes from this length on, in bytes, to the start of a block go to the pool. Shorter ones are not worth a hash.
const MIN_SHARED_LEN: usize = 128 << 10;

type Page = Arc<[u8; PAGE_LEN]>;

/// What is written at once.
#[derive(Clone, Debug)]
pub(super) enum Data {
    /// Goes to pages.
    Small(Arc<[u8]>),
    /// Begins where a block begins and can be taken over as it is.
    Shared(Arc<[u8]>),
}

impl Data {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Small(bytes) | Self::Shared(bytes) => bytes,
        }
    }
}

/// Cuts what is written along the borders of blocks, so that each part lies in one.
pub(super) fn parts(pool: &PagePool, offset: u64, data: &[u8]) -> Vec<(u64, Data)> {
    let mut parts = Vec::with_capacity(1);
    let (mut at, mut rest) = (offset, data);
    while !rest.is_empty() {
        let place = place_in_block(at);
        let (part, tail) = rest.split_at(rest.len().min(BLOCK_LEN - place));
        let is_shared = place == 0 && part.len() >= MIN_SHARED_LEN;
        let data = if is_shared { Data::Shared(pool.share(part)) } else { Data::Small(Arc::from(part)) };
        parts.push((at, data));
        at += part.len() as u64;
        rest = tail;
    }
    parts
}

pub(super) fn block_of(offset: u64) -> u64 {
    offset / BLOCK_LEN as u64
}

fn place_in_block(offset: u64) -> usize {
    usize::try_from(offset % BLOCK_LEN as u64).unwrap_or(0)
}

/// One block; what it does not reach is zeros.
#[derive(Clone, Debug)]
pub(super) enum Block {
    Shared(Arc<[u8]>),
    Pages(Arc<Vec<Option<Page>>>),
}

impl Block {
    /// Where its data ends.
    fn extent(&self) -> usize {
        match self {
            Self::Shared(bytes) => bytes.len(),
            Self::Pages(pages) => pages.len() * PAGE_LEN,
        }
    }

    /// Bytes it takes up on the disk.
    pub(super) fn allocated_len(&self) -> u64 {
        let pages = match self {
            Self::Shared(bytes) => bytes.len().div_ceil(PAGE_LEN),
            Self::Pages(pages) => pages.iter().flatten().count(),
        };
        (pages * PAGE_LEN) as u64
    }

    fn has_data(&self, start: usize, end: usize) -> bool {
        match self {
            Self::Shared(bytes) => start < bytes.len(),
            Self::Pages(pages) => {
                let (first, last) = (start / PAGE_LEN, end.div_ceil(PAGE_LEN));
                pages.iter().take(last).skip(first).any(Option::is_some)
            }
        }
    }

    fn read(&self, place: usize, out: &mut [u8]) {
        match self {
            Self::Shared(bytes) => copy(bytes.get(place..).unwrap_or_default(), out),
            Self::Pages(pages) => {
                for (index, at, range) in page_parts(place, out.len()) {
                    if let (Some(Some(page)), Some(out)) = (pages.get(index), out.get_mut(range)) {
                        copy(page.get(at..).unwrap_or_default(), out);
                    }
                }
            }
        }
    }

    /// The same bytes as pages.
    fn into_pages(self) -> Arc<Vec<Option<Page>>> {
        match self {
            Self::Pages(pages) => pages,
            Self::Shared(bytes) => Arc::new(bytes.chunks(PAGE_LEN).map(|part| Some(page(part))).collect()),
        }
    }
}

/// As much of `from` as there is room for.
fn copy(from: &[u8], to: &mut [u8]) {
    let len = from.len().min(to.len());
    if let (Some(to), Some(from)) = (to.get_mut(..len), from.get(..len)) {
        to.copy_from_slice(from);
    }
}

fn page(part: &[u8]) -> Page {
    if let Ok(whole) = <&[u8; PAGE_LEN]>::try_from(part) {
        return Arc::new(*whole);
    }
    let mut bytes = [0; PAGE_LEN];
    copy(part, &mut bytes);
    Arc::new(bytes)
}

/// Cuts `len` bytes at `place` along the borders of pages: page, place in it, range of the bytes.
fn page_parts(place: usize, len: usize) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let (start, at) = (done, place + done);
        done += (PAGE_LEN - at % PAGE_LEN).min(len - done);
        (start < len).then_some((at / PAGE_LEN, at % PAGE_LEN, start..done))
    })
}

/// A whole file.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub(super) len: u64,
    /// By number; what is not there is a hole.
    pub(super) blocks: BTreeMap<u64, Block>,
}

impl Content {
    /// Reads up to the end of the file; returns how much.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> usize {
        let len = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
        let mut rest = out.get_mut(..len).unwrap_or_default();
        let mut at = offset;
        while !rest.is_empty() {
            let place = place_in_block(at);
            let (part, tail) = rest.split_at_mut(rest.len().min(BLOCK_LEN - place));
            let block = self.blocks.get(&block_of(at));
            if block
                .is_none_or(|block| block.extent() < place + part.len() || matches!(block, Block::Pages(_)))
            {
                part.fill(0);
            }
            if let Some(block) = block {
                block.read(place, part);
            }
            at += part.len() as u64;
            rest = tail;
        }
        len
    }

    /// Writes what lies in one block.
    pub(super) fn write(&mut self, offset: u64, data: &Data) {
        let bytes = data.bytes();
        self.len = self.len.max(offset + bytes.len() as u64);
        let (number, place) = (block_of(offset), place_in_block(offset));
        let block = self.blocks.remove(&number);
        let block = match data {
            Data::Shared(piece) if block.as_ref().is_none_or(|block| block.extent() <= piece.len()) => {
                Block::Shared(piece.clone())
            }
            _ => {
                let mut pages = block.map_or_else(Arc::default, Block::into_pages);
                write_pages(Arc::make_mut(&mut pages), place, bytes);
                Block::Pages(pages)
            }
        };
        self.blocks.insert(number, block);
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let (border, keep) = (block_of(len), place_in_block(len));
            self.blocks.split_off(&(border + u64::from(keep > 0)));
            if let Some(block) = self.blocks.get_mut(&border) {
                cut_block(block, keep);
            }
        }
        self.len = len;
    }

    /// Whether anything but a hole is in the range.
    pub(super) fn has_data(&self, offset: u64, len: u64) -> bool {
        let end = offset.saturating_add(len).min(self.len);
        if offset >= end {
            return false;
        }
        let (first, last) = (block_of(offset), block_of(end - 1));
        self.blocks.range(first..=last).any(|(number, block)| {
            let start = if *number == first { place_in_block(offset) } else { 0 };
            let end = if *number == last { place_in_block(end - 1) + 1 } else { BLOCK_LEN };
            block.has_data(start, end)
        })
    }

    /// Inverts one bit; a bit in a hole makes it data.
    pub(super) fn flip_bit(&mut self, offset: u64, bit: u8) -> io::Result<()> {
        let mut byte = [0];
        if self.read(offset, &mut byte) == 0 {
            return Err(Errno::INVAL.into());
        }
        self.write(offset, &Data::Small(Arc::from([byte[0] ^ (1 << (bit % 8))].as_slice())));
        Ok(())
    }
}

fn write_pages(pages: &mut Vec<Option<Page>>, place: usize, bytes: &[u8]) {
    let end = (place + bytes.len()).div_ceil(PAGE_LEN);
    if pages.len() < end {
        pages.resize(end, None);
    }
    for (index, at, range) in page_parts(place, bytes.len()) {
        let (Some(slot), Some(part)) = (pages.get_mut(index), bytes.get(range)) else { continue };
        match slot {
            Some(old) if part.len() < PAGE_LEN => {
                copy(part, Arc::make_mut(old).get_mut(at..).unwrap_or_default());
            }
            _ if at == 0 => *slot = Some(page(part)),
            _ => {
                let mut bytes = [0; PAGE_LEN];
                copy(part, bytes.get_mut(at..).unwrap_or_default());
                *slot = Some(Arc::new(bytes));
            }
        }
    }
}

/// Makes everything from `keep` on zeros.
fn cut_block(block: &mut Block, keep: usize) {
    match block {
        Block::Shared(bytes) => {
            if let Some(kept) = bytes.get(..keep) {
                *bytes = Arc::from(kept);
            }
        }
        Block::Pages(pages) => {
            let pages = Arc::make_mut(pages);
            pages.truncate(keep.div_ceil(PAGE_LEN));
            if let Some(Some(last)) = pages.get_mut(keep / PAGE_LEN) {
                Arc::make_mut(last).get_mut(keep % PAGE_LEN..).unwrap_or_default().fill(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        SetLen(u64),
        Write(u64, usize, u8),
        WholeBlock(u64, usize, u8),
    }

    const MAX_LEN: u64 = 3 << 20;

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0..MAX_LEN).prop_map(Op::SetLen),
            (0..MAX_LEN, 0..9_000_usize, 1..=u8::MAX).prop_map(|(at, len, byte)| Op::Write(at, len, byte)),
            (0..3_u64, MIN_SHARED_LEN..=BLOCK_LEN, 1..=u8::MAX)
                .prop_map(|(block, len, byte)| Op::WholeBlock(block << 20, len, byte)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn content_behaves_like_a_vector(ops in prop::collection::vec(op(), 1..20)) {
            let pool = PagePool::new();
            let (mut content, mut model) = (Content::default(), Vec::new());
            for op in ops {
                match op {
                    Op::SetLen(len) => {
                        content.set_len(len);
                        model.resize(usize::try_from(len).unwrap(), 0);
                    }
                    Op::Write(at, len, byte) | Op::WholeBlock(at, len, byte) => {
                        let data = vec![byte; len];
                        for (offset, data) in parts(&pool, at, &data) {
                            content.write(offset, &data);
                        }
                        let at = usize::try_from(at).unwrap();
                        if len > 0 {
                            model.resize(model.len().max(at + len), 0);
                            model[at..at + len].copy_from_slice(&data);
                        }
                    }
                }
                prop_assert_eq!(content.len, model.len() as u64);
                let mut seen = vec![0xee; model.len() + 1];
                prop_assert_eq!(content.read(0, &mut seen), model.len());
                prop_assert!(seen[..model.len()] == model);
                // What counts as a hole is zeros.
                for (number, part) in model.chunks(PAGE_LEN).enumerate() {
                    let has_data = content.has_data((number * PAGE_LEN) as u64, part.len() as u64);
                    prop_assert!(has_data || part.iter().all(|byte| *byte == 0));
                }
            }
        }
    }
}
