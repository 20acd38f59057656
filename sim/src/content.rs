//! The files that are shared: made from the seed, so that nobody has to keep them.

use dhtfs_store::{ChunkCid, ContentCid, ManifestCid, ResolvedTree};
use rand::{Rng, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};

use crate::derive_seed;

/// One file.
#[derive(Debug, Clone)]
pub struct Content {
    /// Its name.
    pub name: String,
    /// Length in bytes.
    pub len: u64,
    /// Group of the nodes that hold it from the start, as an index; any when absent.
    pub group: Option<usize>,
    /// SHA-256 of the whole.
    pub digest: [u8; 32],
    /// CID of its manifest.
    pub root: ManifestCid,
    /// What the manifest says.
    pub tree: ResolvedTree,
    /// The blocks of the manifest.
    pub blocks: Vec<(ManifestCid, Vec<u8>)>,
    /// Where the bytes come from.
    seed: u64,
}

impl Content {
    /// The bytes of the content called `name` in a world of this seed.
    pub fn bytes_of(world_seed: u64, name: &str, len: u64) -> Vec<u8> {
        generate(derive_seed(world_seed, name), len)
    }

    /// A content whose manifest is known.
    pub fn new(
        world_seed: u64,
        (name, len, group): (String, u64, Option<usize>),
        bytes: &[u8],
        (tree, blocks): (ResolvedTree, Vec<(ManifestCid, Vec<u8>)>),
    ) -> Self {
        let seed = derive_seed(world_seed, &name);
        let root = tree.root;
        Self { name, len, group, digest: Sha256::digest(bytes).into(), root, tree, blocks, seed }
    }

    /// All bytes, made anew.
    pub fn bytes(&self) -> Vec<u8> {
        generate(self.seed, self.len)
    }

    /// CID to hand on.
    pub fn cid(&self) -> String {
        self.root.to_string()
    }

    /// Bytes of the blocks of the manifest.
    pub fn manifests_len(&self) -> u64 {
        self.blocks.iter().map(|(_, block)| block.len() as u64).sum()
    }

    /// Length of the longest chunk or block of the manifest.
    pub fn longest_len(&self) -> u64 {
        let blocks = self.blocks.iter().map(|(_, block)| block.len() as u64);
        blocks.chain(self.chunks().into_iter().map(|(_, len)| u64::from(len))).max().unwrap_or(0)
    }

    /// The distinct chunks with their lengths.
    pub fn chunks(&self) -> Vec<(ChunkCid, u32)> {
        self.tree.unique_chunks()
    }

    /// Every manifest block and chunk with its bytes.
    pub fn parts(&self) -> Vec<(ContentCid, Vec<u8>)> {
        let mut parts: Vec<(ContentCid, Vec<u8>)> =
            self.blocks.iter().map(|(cid, block)| (ContentCid::from(*cid), block.clone())).collect();
        let bytes = self.bytes();
        for file in &self.tree.files {
            let chunk_len = usize::try_from(file.chunk_len).unwrap_or(usize::MAX).max(1);
            let chunks = file.chunks.iter().zip(bytes.chunks(chunk_len));
            parts.extend(chunks.map(|(cid, bytes)| (ContentCid::from(*cid), bytes.to_vec())));
        }
        parts
    }

    /// Whether these are the bytes.
    pub fn is(&self, bytes: &[u8]) -> bool {
        bytes.len() as u64 == self.len && <[u8; 32]>::from(Sha256::digest(bytes)) == self.digest
    }
}

fn generate(seed: u64, len: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}
