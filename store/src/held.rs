//! Which chunks of a file or directory are here: what others are told about it.
//!
//! Positions are those of the unfolded manifest: files in manifest order, the chunks of each in file order, repeated ones
//! counted each time. So the set is made in one walk over the manifest that remembers nothing but the bits.

use redb::{ReadOnlyTable, ReadTransaction};

use crate::chunk_set::ChunkSet;
use crate::cid::{ChunkCid, Digest, ManifestCid};
use crate::db::records::{ShareRecord, ShareStatus, decode};
use crate::db::tables::{
    LOCATIONS, LocationKey, MANIFESTS, PINS, PinKey, SHARES, location_range, pin_range, root_of_pin_key,
};
use crate::error::StoreError;
use crate::manifest::{Block, Children, Links, MAX_FILE_CHUNKS};
use crate::store::Store;

/// How much of a file or directory is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// Every chunk.
    All,
    /// These, by their positions in the unfolded manifest.
    Some(ChunkSet),
}

impl Store {
    /// Which chunks of `root` should be here, as far as it is (part of) a share; `None` if it is not. Does not look at
    /// files. Of a share that is not complete it takes time in proportion to its chunks, and a bit of memory for each.
    ///
    /// # Errors
    /// If the database fails.
    pub fn held(&self, root: &ManifestCid) -> Result<Option<Held>, StoreError> {
        self.inner.db.read(|txn| {
            let (first, last) = pin_range(root.digest());
            let shares = txn.open_table(SHARES)?;
            let mut is_pinned = false;
            for row in txn.open_table(PINS)?.range::<&PinKey>(&first..=&last)? {
                is_pinned = true;
                if let Some(share) = shares.get(&root_of_pin_key(row?.0.value()))? {
                    let share: ShareRecord = decode(share.value(), "share")?;
                    if share.status == ShareStatus::Complete {
                        return Ok(Some(Held::All));
                    }
                }
            }
            // Only pinned trees are known to be whole and to unfold to something bounded.
            if is_pinned { Walk::of(txn, root).map(Some) } else { Ok(None) }
        })
    }

    /// Calls `tell` whenever what is held may have changed, from the thread that changed it, so it must be quick and
    /// must not use the store. One caller per store; a second one is ignored.
    pub fn on_change(&self, tell: impl Fn() + Send + Sync + 'static) {
        self.inner.db.on_change(Box::new(tell));
    }
}

/// A walk over a tree that is pinned.
struct Walk {
    manifests: ReadOnlyTable<&'static Digest, &'static [u8]>,
    locations: ReadOnlyTable<&'static LocationKey, (u64, u32)>,
    held: ChunkSet,
}

impl Walk {
    fn of(txn: &ReadTransaction, root: &ManifestCid) -> Result<Held, StoreError> {
        let (manifests, locations) = (txn.open_table(MANIFESTS)?, txn.open_table(LOCATIONS)?);
        let mut walk = Self { manifests, locations, held: ChunkSet::default() };
        walk.block(root)?;
        Ok(if walk.held.is_full() { Held::All } else { Held::Some(walk.held) })
    }

    /// One block a level is in memory; the levels are bounded, as the tree was checked when it was pinned.
    fn block(&mut self, cid: &ManifestCid) -> Result<(), StoreError> {
        let gone = || StoreError::Corrupt(format!("manifest {cid} of a share is gone"));
        let block = self.manifests.get(cid.digest())?.ok_or_else(gone)?.value().to_vec();
        match Block::decode(&block)? {
            Block::File(file) => self.links(file.links),
            Block::FileNode(node) => self.links(node.links),
            Block::Dir(dir) => self.children(dir.children),
            Block::DirNode(node) => self.children(node.children),
        }
    }

    fn links(&mut self, links: Links) -> Result<(), StoreError> {
        match links {
            Links::Nodes(nodes) => nodes.iter().try_for_each(|node| self.block(node)),
            Links::Chunks(chunks) => chunks.iter().try_for_each(|chunk| self.chunk(chunk)),
        }
    }

    fn children(&mut self, children: Children) -> Result<(), StoreError> {
        match children {
            Children::Nodes(nodes) => nodes.iter().try_for_each(|node| self.block(node)),
            Children::Entries(entries) => entries.iter().try_for_each(|entry| self.block(&entry.cid)),
        }
    }

    fn chunk(&mut self, chunk: &ChunkCid) -> Result<(), StoreError> {
        if u64::from(self.held.len()) >= MAX_FILE_CHUNKS {
            return Err(StoreError::Corrupt(
                "a share unfolds to more chunks than a tree may have".to_owned(),
            ));
        }
        let (first, last) = location_range(chunk.digest());
        let found = self.locations.range::<&LocationKey>(&first..=&last)?.next().transpose()?;
        self.held.push(found.is_some());
        Ok(())
    }
}
