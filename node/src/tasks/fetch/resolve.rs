//! Gets a manifest with everything below it: from the store where it is there, from peers where not.

use dhtfs_store::{
    ChunkCid, ContentCid, ManifestCid, ManifestError, ResolvedTree, StoreError, TreeResolver, chunk_with,
};

use super::{Block, Driver, Turn};
use crate::{
    core::fetch::{FetchFailure, Want},
    env::{StoreGone, StoreHandle},
};

/// Manifest blocks that arrive before they are written to the store together.
const WRITE_BATCH: usize = 256;

/// They are written sooner if they are so many bytes.
const WRITE_LEN: usize = 4 << 20;

/// Content that came with manifests and is kept until it can be written, in bytes: beyond that manifests are asked for alone.
/// What is under way by then comes too, so it is less than a fetch may keep.
const CONTENTS_LEN: usize = 8 << 20;

/// A manifest tree and the CIDs of all its blocks.
#[derive(Debug)]
pub struct Resolved {
    /// The tree.
    pub tree: ResolvedTree,
    /// Every manifest block of it, root first.
    pub manifests: Vec<ManifestCid>,
    /// Chunks that came with their manifests, verified.
    pub contents: Vec<(ChunkCid, Vec<u8>)>,
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
    contents: Vec<(ChunkCid, Vec<u8>)>,
    contents_len: usize,
}

impl Walk {
    fn new(root: ManifestCid) -> Self {
        Self {
            resolver: TreeResolver::new(root),
            manifests: Vec::new(),
            unwritten: Vec::new(),
            unwritten_len: 0,
            contents: Vec::new(),
            contents_len: 0,
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

    /// Takes a block that a peer sent, and what came with it; whether it is right.
    fn take(&mut self, block: Block) -> Result<bool, ResolveError> {
        let Block { cid: ContentCid::Manifest(cid), data, content, .. } = block else { return Ok(false) };
        if !cid.matches(&data) {
            return Ok(false);
        }
        if let Some(content) = content {
            let is_right =
                |(chunk, len): &(ChunkCid, u32)| content.len() == *len as usize && chunk.matches(&content);
            let Some((chunk, _)) = chunk_with(&data).filter(is_right) else { return Ok(false) };
            if self.contents_len < CONTENTS_LEN {
                self.contents_len += content.len();
                self.contents.push((chunk, content));
            }
        }
        self.insert(cid, &data)?;
        self.unwritten_len += data.len();
        self.unwritten.push((cid, data));
        Ok(true)
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
        Ok(Resolved { tree, manifests: self.manifests, contents: self.contents })
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

/// The tree of `root`, asking peers for what the store lacks. Leaves the driver ready for more wants. If it asks with content
/// ([`Driver::ask_with_content`]), the first 8 MiB of that are in the answer.
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
                for block in blocks {
                    let id = block.id;
                    match walk.take(block) {
                        Ok(true) => driver.stored(id),
                        Ok(false) => driver.bad(id),
                        Err(error) => {
                            walk.write(store).await?;
                            return Err(error);
                        }
                    }
                }
                if walk.contents_len >= CONTENTS_LEN {
                    driver.ask_with_content(false);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use dhtfs_store::manifest::{Entry, build_dir, build_file};

    use super::*;
    use crate::core::fetch::RequestId;

    /// The manifest block of a file with this name and content.
    fn file(name: &str, content: &[u8]) -> (ManifestCid, Vec<u8>) {
        let built = build_file(name, content.len() as u64, 1 << 20, &[ChunkCid::of(content)]).unwrap();
        (built.root, built.blocks.into_iter().next().unwrap().1)
    }

    fn block((cid, data): &(ManifestCid, Vec<u8>), content: Option<&[u8]>) -> Block {
        let content = content.map(<[u8]>::to_vec);
        Block { id: RequestId(1), cid: (*cid).into(), data: data.clone(), content }
    }

    #[test]
    fn content_that_comes_with_a_manifest_is_what_the_manifest_says_or_the_whole_is_bad() {
        let file = file("file", b"content");
        let mut walk = Walk::new(file.0);
        for wrong in [&b"other"[..], b"", b"content and more"] {
            assert!(!walk.take(block(&file, Some(wrong))).unwrap(), "{wrong:?}");
        }
        let built = build_file("file", 3, 1 << 20, &[ChunkCid::of(b"content")]).unwrap();
        let lies = (built.root, built.blocks.into_iter().next().unwrap().1);
        let mut of_lies = Walk::new(lies.0);
        assert!(!of_lies.take(block(&lies, Some(b"content"))).unwrap(), "it says that this is shorter");
        let dir = build_dir("dir", Vec::new()).unwrap();
        let dir = (dir.root, dir.blocks.into_iter().next().unwrap().1);
        assert!(!walk.take(block(&dir, Some(b"content"))).unwrap(), "a directory has no content");
        let swapped = Block { cid: ChunkCid::of(b"content").into(), ..block(&file, None) };
        assert!(!walk.take(swapped).unwrap());
        assert_eq!((walk.contents.len(), walk.resolver.is_complete()), (0, false));

        assert!(walk.take(block(&file, Some(b"content"))).unwrap());
        assert!(walk.resolver.is_complete());
        assert_eq!(walk.contents, [(ChunkCid::of(b"content"), b"content".to_vec())]);
    }

    #[test]
    fn no_more_content_is_kept_than_there_is_room_for() {
        let len = dhtfs_store::MAX_WITH_CONTENT_LEN;
        let fit = CONTENTS_LEN / len as usize;
        let contents: Vec<_> = (0..fit + 10).map(|n| vec![u8::try_from(n).unwrap(); len as usize]).collect();
        let files: Vec<_> =
            contents.iter().enumerate().map(|(n, content)| file(&format!("{n:03}"), content)).collect();
        let entry = |(n, (cid, _)): (usize, &(ManifestCid, Vec<u8>))| {
            (Entry { name: format!("{n:03}"), size: len.into(), cid: *cid, exec: false }, 1)
        };
        let dir = build_dir("dir", files.iter().enumerate().map(entry).collect()).unwrap();
        let mut walk = Walk::new(dir.root);
        for of_dir in dir.blocks.iter().rev() {
            assert!(walk.take(block(of_dir, None)).unwrap());
        }
        for (file, content) in files.iter().zip(&contents) {
            assert!(walk.take(block(file, Some(content))).unwrap());
        }
        assert!(walk.resolver.is_complete());
        assert_eq!(walk.contents.len(), fit);
    }
}
