//! Blocks of file content that are held once, however many files of however many disks have them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use crate::cid::{Digest, sha256};
use crate::store::lock;

/// Entries between two sweeps of those whose block nobody holds any more.
const MIN_SWEEP: usize = 1024;

/// Blocks of up to 1 MiB by what is in them. Cheap to clone; every clone is the same pool. Hand one to the disks of
/// all simulated nodes, and a file that a hundred of them have takes the memory of one.
///
/// It holds no block itself: one goes away with the last file that has it.
#[derive(Clone, Debug, Default)]
pub struct PagePool {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    blocks: BTreeMap<Digest, Weak<[u8]>>,
    /// Number of entries at which dead ones are looked for.
    sweep_at: usize,
}

impl PagePool {
    /// An empty pool.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Blocks that some file has.
    #[must_use]
    pub fn blocks(&self) -> usize {
        lock(&self.inner).blocks.values().filter(|block| block.strong_count() > 0).count()
    }

    /// Bytes of the blocks that some file has, each counted once.
    #[must_use]
    pub fn len(&self) -> u64 {
        lock(&self.inner).blocks.values().filter_map(Weak::upgrade).map(|block| block.len() as u64).sum()
    }

    /// Whether no file has a block.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blocks() == 0
    }

    /// The block with this content. Costs one hash, and a copy only if nobody has it yet.
    pub(super) fn share(&self, data: &[u8]) -> Arc<[u8]> {
        let digest = sha256(data);
        let mut inner = lock(&self.inner);
        if let Some(block) = inner.blocks.get(&digest).and_then(Weak::upgrade) {
            return block;
        }
        if inner.blocks.len() >= inner.sweep_at.max(MIN_SWEEP) {
            inner.blocks.retain(|_, block| block.strong_count() > 0);
            inner.sweep_at = 2 * inner.blocks.len();
        }
        let block: Arc<[u8]> = Arc::from(data);
        inner.blocks.insert(digest, Arc::downgrade(&block));
        block
    }
}
