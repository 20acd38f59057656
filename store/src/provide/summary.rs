//! How far the announcement of one share is.

use std::collections::HashSet;

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable};

use crate::cid::{Digest, ManifestCid};
use crate::db::records::{SourceRecord, decode};
use crate::db::schedule::ProvideRow;
use crate::db::tables::{
    LOCATIONS, LinkKey, LocationKey, MANIFESTS, PINS, PROVIDE, PinKey, PositionKey, ProvideValue,
    SHARE_SOURCES, SHARES, SOURCES, SourceId, location_range, pin_key, share_source_key, share_source_range,
    split_location_key, split_share_source_key,
};
use crate::error::StoreError;
use crate::layout::Layout;
use crate::manifest::{Block, FileManifest, FileNode, Links};
use crate::position::KeyPosition;
use crate::provide::ProvideKey;
use crate::store::Store;

/// Keys of one share that are remembered so that none is counted twice; 2 MiB. A directory of more files that has one
/// of them twice may be said to have a key more than it has.
const MAX_REMEMBERED: usize = 1 << 16;

/// Uses of chunks that are looked up together; some 8 MiB. Rows that are looked up in their order lie on fewer pages:
/// with a million keys in the tables, four or five on each.
const MAX_WAITING: usize = 1 << 16;

/// Holders of a chunk that are looked at to find the first of the share. A chunk of more is remembered instead.
const MAX_HOLDERS: usize = 64;

/// How far the announcement of a share is. Keys that are not to be announced, by its scope, do not count, except those
/// that another share asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProvideSummary {
    /// Its manifest blocks.
    pub manifests: KeySummary,
    /// Those of its chunks that this store holds, be it for another share.
    pub chunks: KeySummary,
}

impl ProvideSummary {
    /// Both together.
    pub fn all(&self) -> KeySummary {
        let (a, b) = (self.manifests, self.chunks);
        KeySummary {
            keys: a.keys + b.keys,
            fresh: a.fresh + b.fresh,
            oldest_unix: a.oldest_unix.into_iter().chain(b.oldest_unix).min(),
            min_holders: a.min_holders.into_iter().chain(b.min_holders).min(),
        }
    }
}

/// How far the announcement of some keys is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeySummary {
    /// Keys to announce.
    pub keys: u64,
    /// Of these, how many were never announced.
    pub fresh: u64,
    /// The longest ago that one of the others was announced, in seconds since 1970; `None` if there is none.
    pub oldest_unix: Option<u64>,
    /// The fewest peers that were known to hold the record of one of the others; `None` if there is none.
    pub min_holders: Option<u8>,
}

impl KeySummary {
    /// The same from what the schedule says of one key.
    pub fn of(key: &ProvideKey) -> Self {
        let fresh = u64::from(key.last_unix.is_none());
        let min_holders = key.last_unix.map(|_| key.holders);
        Self { keys: 1, fresh, oldest_unix: key.last_unix, min_holders }
    }

    fn add(&mut self, row: &ProvideRow) {
        self.keys += 1;
        if row.last_unix == 0 {
            self.fresh += 1;
            return;
        }
        let last_unix = u64::from(row.last_unix);
        self.oldest_unix = Some(self.oldest_unix.map_or(last_unix, |oldest| oldest.min(last_unix)));
        self.min_holders = Some(self.min_holders.map_or(row.holders, |least| least.min(row.holders)));
    }
}

impl Store {
    /// Looks up every key of a share in the schedule; `None` if `root` is not shared. Takes time in proportion to the
    /// share and memory of some 10 MiB at most.
    ///
    /// # Errors
    /// If the database fails.
    pub fn provide_summary(&self, root: &ManifestCid) -> Result<Option<ProvideSummary>, StoreError> {
        self.inner.db.read(|txn| {
            if txn.open_table(SHARES)?.get(root.digest())?.is_none() {
                return Ok(None);
            }
            let mut walk = Walk::new(txn, *root)?;
            walk.manifests(&txn.open_table(PINS)?)?;
            let sources = txn.open_table(SOURCES)?;
            let (first, last) = share_source_range(root.digest());
            for row in txn.open_table(SHARE_SOURCES)?.range::<&LinkKey>(&first..=&last)? {
                let (_, id) = split_share_source_key(row?.0.value());
                if let Some(record) = sources.get(id)? {
                    walk.chunks(id, &decode(record.value(), "source")?)?;
                }
            }
            walk.look_up()?;
            Ok(Some(walk.summary))
        })
    }
}

/// Goes through the keys of a share without a list of them.
struct Walk {
    root: ManifestCid,
    manifests: ReadOnlyTable<&'static Digest, &'static [u8]>,
    provide: ReadOnlyTable<&'static PositionKey, &'static ProvideValue>,
    locations: ReadOnlyTable<&'static LocationKey, (u64, u32)>,
    share_sources: ReadOnlyTable<&'static LinkKey, ()>,
    seen: HashSet<Digest>,
    /// Uses of chunks that wait to be looked up: digest, source, offset in bytes.
    waiting: Vec<(Digest, SourceId, u64)>,
    summary: ProvideSummary,
}

impl Walk {
    fn new(txn: &ReadTransaction, root: ManifestCid) -> Result<Self, StoreError> {
        Ok(Self {
            root,
            manifests: txn.open_table(MANIFESTS)?,
            provide: txn.open_table(PROVIDE)?,
            locations: txn.open_table(LOCATIONS)?,
            share_sources: txn.open_table(SHARE_SOURCES)?,
            seen: HashSet::new(),
            waiting: Vec::new(),
            summary: ProvideSummary::default(),
        })
    }

    /// Adds the blocks of the tree. What waits to be visited are the links of blocks on the way down.
    fn manifests(&mut self, pins: &impl ReadableTable<&'static PinKey, ()>) -> Result<(), StoreError> {
        if pins.get(&pin_key(self.root.digest(), self.root.digest()))?.is_none() {
            return Ok(());
        }
        let mut waiting = vec![self.root];
        while let Some(cid) = waiting.pop() {
            if self.was_seen(cid.digest()) {
                continue;
            }
            if let Some(row) = self.row(&KeyPosition::of_digest(cid.digest()))? {
                self.summary.manifests.add(&row);
            }
            waiting.extend(self.block(&cid)?.links());
        }
        Ok(())
    }

    /// Adds the chunks of a source, each at the first place where the share has it, those that wait at the end not yet.
    fn chunks(&mut self, id: SourceId, record: &SourceRecord) -> Result<(), StoreError> {
        let layout = Layout::new(record.stamp.size(), record.chunk_len);
        let mut index = 0;
        let mut last = None;
        let mut waiting = vec![record.file];
        while let Some(cid) = waiting.pop() {
            let (Block::File(FileManifest { links, .. }) | Block::FileNode(FileNode { links, .. })) =
                self.block(&cid)?
            else {
                continue;
            };
            match links {
                Links::Nodes(nodes) => waiting.extend(nodes.into_iter().rev()),
                Links::Chunks(chunks) => {
                    for chunk in chunks {
                        // A file of zeros is one chunk again and again.
                        if last.replace(chunk) != Some(chunk) {
                            self.waiting.push((*chunk.digest(), id, layout.span(index).0));
                        }
                        index += 1;
                    }
                    if self.waiting.len() >= MAX_WAITING {
                        self.look_up()?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds the chunks that wait.
    fn look_up(&mut self) -> Result<(), StoreError> {
        let mut uses = std::mem::take(&mut self.waiting);
        uses.sort_unstable();
        uses.dedup_by_key(|(digest, ..)| *digest);
        let mut positions = Vec::new();
        for (digest, id, offset) in uses {
            if self.is_first(&digest, id, offset)? {
                positions.push(KeyPosition::of_digest(&digest));
            }
        }
        positions.sort_unstable();
        for position in positions {
            if let Some(row) = self.row(&position)? {
                self.summary.chunks.add(&row);
            }
        }
        Ok(())
    }

    /// Whether this is the place that counts: the first in the first source of the share that has the chunk.
    fn is_first(&mut self, chunk: &Digest, id: SourceId, offset: u64) -> Result<bool, StoreError> {
        if self.seen.contains(chunk) {
            return Ok(false);
        }
        let (first, last) = location_range(chunk);
        for row in self.locations.range::<&LocationKey>(&first..=&last)?.take(MAX_HOLDERS) {
            let (key, place) = row?;
            let (_, holder) = split_location_key(key.value());
            if holder == id {
                return Ok(place.value().0 == offset);
            }
            if self.share_sources.get(&share_source_key(self.root.digest(), holder))?.is_some() {
                return Ok(false);
            }
        }
        // Not held, or held by too many. What is not held has no row in the schedule either.
        Ok(!self.was_seen(chunk))
    }

    /// Remembers a digest, as long as there is room. Returns whether it was known before.
    fn was_seen(&mut self, digest: &Digest) -> bool {
        let has_room = self.seen.len() < MAX_REMEMBERED;
        if has_room { !self.seen.insert(*digest) } else { self.seen.contains(digest) }
    }

    fn row(&self, position: &KeyPosition) -> Result<Option<ProvideRow>, StoreError> {
        Ok(self.provide.get(&position.0)?.map(|row| ProvideRow::decode(row.value())))
    }

    fn block(&self, cid: &ManifestCid) -> Result<Block, StoreError> {
        let block = self.manifests.get(cid.digest())?;
        let block = block
            .ok_or_else(|| StoreError::Corrupt(format!("manifest {cid} of share {} is gone", self.root)))?;
        Ok(Block::decode(block.value())?)
    }
}
