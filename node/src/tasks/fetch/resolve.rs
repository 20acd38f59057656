//! Gets a manifest with everything below it: from the store where it is there, from peers where not.

use dhtfs_store::{ContentCid, ManifestCid, ManifestError, ResolvedTree, StoreError, TreeResolver};

use super::{Block, Driver, Turn};
use crate::{
    core::fetch::{FetchFailure, Want},
    env::{StoreGone, StoreHandle},
};

/// Manifest blocks that arrive before they are written to the store together.
const WRITE_BATCH: usize = 256;

/// They are written sooner if they are so many bytes.
const WRITE_LEN: usize = 4 << 20;

/// A manifest tree and the CIDs of all its blocks.
#[derive(Debug)]
pub struct Resolved {
    /// The tree.
    pub tree: ResolvedTree,
    /// Every manifest block of it, root first.
    pub manifests: Vec<ManifestCid>,
}

/// Why a manifest could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The user wants it to stop; see [`Driver::steer_by`].
    #[error("the fetch was stopped")]
    Stopped,
    /// Peers did not have it, or not all of it.
    #[error("no peer has the whole manifest")]
    Failed(FetchFailure),
    /// The bytes are what the CID says, but no manifest.
    #[error("the content of {cid} is no valid manifest: {source}; ask who made it to add it again")]
    Malformed {
        /// The block at fault.
        cid: ManifestCid,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node is ending.
    #[error(transparent)]
    Gone(#[from] StoreGone),
}

/// A tree that is being put together.
struct Walk {
    resolver: TreeResolver,
    manifests: Vec<ManifestCid>,
    unwritten: Vec<(ManifestCid, Vec<u8>)>,
    unwritten_len: usize,
}

impl Walk {
    fn new(root: ManifestCid) -> Self {
        Self {
            resolver: TreeResolver::new(root),
            manifests: Vec::new(),
            unwritten: Vec::new(),
            unwritten_len: 0,
        }
    }

    fn insert(&mut self, cid: ManifestCid, block: &[u8]) -> Result<(), ResolveError> {
        self.resolver.insert(cid, block).map_err(|source| ResolveError::Malformed { cid, source })?;
        self.manifests.push(cid);
        Ok(())
    }

    /// Takes what the store has; returns what it lacks.
    async fn take_stored(&mut self, store: &StoreHandle) -> Result<Vec<ManifestCid>, ResolveError> {
        let mut lacking = Vec::new();
        loop {
            let needs = self.resolver.needs();
            if needs.is_empty() {
                return Ok(lacking);
            }
            let asked = needs.clone();
            let blocks = store
                .call(move |s| asked.iter().map(|cid| s.manifest_block(cid)).collect::<Result<Vec<_>, _>>())
                .await??;
            for (cid, block) in needs.into_iter().zip(blocks) {
                match block {
                    Some(block) => self.insert(cid, &block)?,
                    None => lacking.push(cid),
                }
            }
        }
    }

    async fn write(&mut self, store: &StoreHandle) -> Result<(), ResolveError> {
        let blocks = std::mem::take(&mut self.unwritten);
        self.unwritten_len = 0;
        if blocks.is_empty() {
            return Ok(());
        }
        Ok(store.call(move |s| s.put_manifest_blocks(&blocks)).await??)
    }

    fn finish(self, root: ManifestCid) -> Result<Resolved, ResolveError> {
        let tree = self.resolver.finish().map_err(|source| ResolveError::Malformed { cid: root, source })?;
        Ok(Resolved { tree, manifests: self.manifests })
    }
}

/// The tree of `root` if the store has all of it.
///
/// # Errors
/// [`ResolveError::Malformed`] and [`ResolveError::Store`].
pub async fn from_store(store: &StoreHandle, root: ManifestCid) -> Result<Option<Resolved>, ResolveError> {
    let mut walk = Walk::new(root);
    if !walk.take_stored(store).await?.is_empty() {
        return Ok(None);
    }
    walk.finish(root).map(Some)
}

/// The tree of `root`, asking peers for what the store lacks. Leaves the driver ready for more wants.
///
/// # Errors
/// See [`ResolveError`].
pub async fn from_peers(
    driver: &mut Driver,
    store: &StoreHandle,
    root: ManifestCid,
) -> Result<Resolved, ResolveError> {
    let mut walk = Walk::new(root);
    loop {
        let lacking = walk.take_stored(store).await?;
        if !lacking.is_empty() {
            driver.want(
                lacking.into_iter().map(|cid| Want { cid: cid.into(), len: None, place: None }).collect(),
            );
        }
        if walk.resolver.is_complete() {
            walk.write(store).await?;
            return walk.finish(root);
        }
        match driver.next().await {
            Turn::Blocks(blocks) => {
                for Block { id, cid, data } in blocks {
                    match cid {
                        ContentCid::Manifest(cid) if cid.matches(&data) => {
                            if let Err(error) = walk.insert(cid, &data) {
                                walk.write(store).await?;
                                return Err(error);
                            }
                            walk.unwritten_len += data.len();
                            walk.unwritten.push((cid, data));
                            driver.stored(id);
                        }
                        ContentCid::Manifest(_) | ContentCid::Chunk(_) => driver.bad(id),
                    }
                }
                if walk.unwritten.len() >= WRITE_BATCH || walk.unwritten_len >= WRITE_LEN {
                    walk.write(store).await?;
                }
            }
            Turn::Failed(failure) => {
                walk.write(store).await?;
                return Err(ResolveError::Failed(failure));
            }
            Turn::Stopped => {
                walk.write(store).await?;
                return Err(ResolveError::Stopped);
            }
            Turn::Finished => return Err(ResolveError::Failed(FetchFailure::Incomplete { missing: 0 })),
        }
    }
}
