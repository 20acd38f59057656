//! One file of a [`MemoryDisk`](super::MemoryDisk): what a reader sees, and what a power cut would leave.
//!
//! Reads see every write at once. What lasts is kept beside it, and only where it differs: for each block that was
//! written to since the last sync its state at that sync, and the list of changes. A sync drops both, so it costs
//! what was written, not what the file is long. A cut starts from the last sync and plays back some of the changes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::content::{BLOCK_LEN, Block, Content, Data, block_of};
use super::cut::Draw;

/// Changes that are kept for a cut to choose from. Beyond, the oldest last: as a system writes back what was not
/// synced for long.
const MAX_CHANGES: usize = 1024;
/// Likewise, in bytes.
const MAX_CHANGED_LEN: usize = 32 << 20;
/// What a disk writes wholly or not at all, in bytes.
const SECTOR_LEN: u64 = 512;

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Data),
    SetLen(u64),
}

impl Change {
    fn len(&self) -> usize {
        match self {
            Self::Write(_, data) => data.bytes().len(),
            Self::SetLen(_) => 0,
        }
    }

    fn apply(&self, content: &mut Content) {
        match self {
            Self::Write(offset, data) => content.write(*offset, data),
            Self::SetLen(len) => content.set_len(*len),
        }
    }
}

/// A file's content and its history since the last sync.
#[derive(Debug, Default)]
pub(super) struct FileNode {
    content: Content,
    /// Blocks that are reserved whole and not written to yet.
    reserved: BTreeSet<u64>,
    /// Bytes on the disk, with those reserved.
    allocated_len: u64,
    /// How the blocks that were changed were at the last sync.
    synced_blocks: BTreeMap<u64, Option<Block>>,
    synced_len: u64,
    changes: VecDeque<Change>,
    changed_len: usize,
}

impl FileNode {
    pub(super) fn content(&self) -> &Content {
        &self.content
    }

    pub(super) fn allocated_len(&self) -> u64 {
        self.allocated_len
    }

    /// Whether a cut could change anything.
    pub(super) fn is_dirty(&self) -> bool {
        !self.changes.is_empty()
    }

    /// At most this much more is allocated after a write of `len` bytes.
    pub(super) fn growth(&self, offset: u64, len: u64) -> u64 {
        let page = super::content::PAGE_LEN as u64;
        let (mut at, end) = (offset, offset.saturating_add(len));
        let mut growth = 0;
        while at < end {
            let block = block_of(at);
            let next = ((block + 1) * BLOCK_LEN as u64).min(end);
            if !self.reserved.contains(&block) {
                // Where there are pages already, less is needed; only the last bytes of a disk would tell.
                let is_new = !self.content.has_data(at, next - at);
                growth += if is_new { (next.div_ceil(page) - at / page) * page } else { 0 };
            }
            at = next;
        }
        growth
    }

    pub(super) fn write(&mut self, offset: u64, data: Data) {
        let block = block_of(offset);
        self.remember(block);
        let before = self.charge(block);
        self.content.write(offset, &data);
        self.reserved.remove(&block);
        self.allocated_len = self.allocated_len - before + self.charge(block);
        self.note(Change::Write(offset, data));
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len == self.content.len {
            return;
        }
        if len < self.content.len {
            let first = block_of(len);
            let cut: Vec<u64> = self.content.blocks.range(first..).map(|(block, _)| *block).collect();
            cut.into_iter().for_each(|block| self.remember(block));
            self.reserved.split_off(&first);
        }
        self.content.set_len(len);
        self.count();
        self.note(Change::SetLen(len));
    }

    /// Bytes that would be reserved in addition.
    pub(super) fn to_reserve(&self, offset: u64, len: u64) -> u64 {
        self.unreserved(offset, len).count() as u64 * BLOCK_LEN as u64
    }

    /// Reserves the blocks of a range; the file becomes as long as its end.
    pub(super) fn reserve(&mut self, offset: u64, len: u64) {
        let blocks: Vec<u64> = self.unreserved(offset, len).collect();
        self.reserved.extend(blocks);
        self.set_len(self.content.len.max(offset.saturating_add(len)));
        self.count();
    }

    fn unreserved(&self, offset: u64, len: u64) -> impl Iterator<Item = u64> + '_ {
        let blocks = block_of(offset)..offset.saturating_add(len).div_ceil(BLOCK_LEN as u64);
        blocks.filter(|block| !self.reserved.contains(block) && !self.content.blocks.contains_key(block))
    }

    /// Takes over all blocks of another file.
    pub(super) fn share(&mut self, from: &Content) {
        let page = super::content::PAGE_LEN;
        for (number, block) in &from.blocks {
            let start = number * BLOCK_LEN as u64;
            match block {
                Block::Shared(piece) => self.write(start, Data::Shared(piece.clone())),
                Block::Pages(pages) => {
                    for (at, bytes) in (0..).zip(pages.iter()) {
                        if let Some(bytes) = bytes {
                            self.write(start + at * page as u64, Data::Small(bytes.clone()));
                        }
                    }
                }
            }
        }
        self.set_len(from.len);
    }

    pub(super) fn sync(&mut self) {
        self.synced_blocks = BTreeMap::new();
        self.synced_len = self.content.len;
        self.changes = VecDeque::new();
        self.changed_len = 0;
    }

    /// Changes one bit behind everybody's back, as a failing disk does: nothing is noted.
    pub(super) fn flip_bit(&mut self, offset: u64, bit: u8) -> std::io::Result<()> {
        self.content.flip_bit(offset, bit)?;
        self.count();
        Ok(())
    }

    /// What is there after the power was cut.
    pub(super) fn cut(&mut self, draw: &mut Draw<'_>) {
        let changes = std::mem::take(&mut self.changes);
        let mut content = std::mem::take(&mut self.content);
        for (number, block) in std::mem::take(&mut self.synced_blocks) {
            match block {
                Some(block) => drop(content.blocks.insert(number, block)),
                None => drop(content.blocks.remove(&number)),
            }
        }
        content.len = self.synced_len;
        // Lengths last in order, writes do not.
        let (bias, mut lengths_last) = (draw.bias(), true);
        for change in changes {
            match change {
                Change::SetLen(_) => {
                    lengths_last &= draw.keeps(bias);
                    if lengths_last {
                        change.apply(&mut content);
                    }
                }
                Change::Write(offset, data) if draw.keeps(bias) => match draw.tear() {
                    Some(keeps_start) => tear(&mut content, offset, data.bytes(), keeps_start, draw),
                    None => content.write(offset, &data),
                },
                Change::Write(..) => {}
            }
        }
        self.content = content;
        // What was reserved and not written to is forgotten; a download reserves anew when it goes on.
        self.reserved = BTreeSet::new();
        self.count();
        self.sync();
    }

    fn charge(&self, block: u64) -> u64 {
        let written = self.content.blocks.get(&block).map_or(0, Block::allocated_len);
        if self.reserved.contains(&block) { BLOCK_LEN as u64 } else { written }
    }

    /// Counts anew what is allocated.
    fn count(&mut self) {
        let reserved = self.reserved.len() as u64 * BLOCK_LEN as u64;
        let written = self.content.blocks.values().map(Block::allocated_len);
        self.allocated_len = written.sum::<u64>() + reserved;
    }

    fn remember(&mut self, block: u64) {
        self.synced_blocks.entry(block).or_insert_with(|| self.content.blocks.get(&block).cloned());
    }

    fn note(&mut self, change: Change) {
        self.changed_len += change.len();
        self.changes.push_back(change);
        if self.changes.len() > MAX_CHANGES || self.changed_len > MAX_CHANGED_LEN {
            self.write_back();
        }
    }

    /// Makes the older half of the changes last.
    fn write_back(&mut self) {
        let blocks = std::mem::take(&mut self.synced_blocks);
        let numbers: Vec<u64> = blocks.keys().copied().collect();
        let blocks = blocks.into_iter().filter_map(|(number, block)| Some((number, block?))).collect();
        let mut synced = Content { len: self.synced_len, blocks };
        for _ in 0..self.changes.len().div_ceil(2) {
            let Some(change) = self.changes.pop_front() else { break };
            self.changed_len -= change.len();
            change.apply(&mut synced);
        }
        self.synced_len = synced.len;
        self.synced_blocks =
            numbers.into_iter().map(|number| (number, synced.blocks.remove(&number))).collect();
    }
}

/// Writes only what comes before some border of sectors, or only what comes after it.
fn tear(content: &mut Content, offset: u64, bytes: &[u8], keeps_start: bool, draw: &mut Draw<'_>) {
    let (first, end) = (offset / SECTOR_LEN, (offset + bytes.len() as u64).div_ceil(SECTOR_LEN));
    let border = (first + draw.below(end - first + 1)) * SECTOR_LEN;
    let at = usize::try_from(border.saturating_sub(offset)).unwrap_or(0).min(bytes.len());
    let (start, rest) = bytes.split_at(at);
    let (offset, kept) = if keeps_start { (offset, start) } else { (offset + at as u64, rest) };
    if !kept.is_empty() {
        content.write(offset, &Data::Small(kept.into()));
    }
}
