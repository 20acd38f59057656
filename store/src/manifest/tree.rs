//! A whole tree with every chunk known: what a manifest unfolds to.

use std::collections::{HashMap, HashSet};

use super::ManifestError;
use crate::{
    cid::{ChunkCid, ManifestCid},
    name::RelPath,
};

/// A file or directory with everything below it, every chunk known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedTree {
    /// CID of the manifest.
    pub root: ManifestCid,
    /// Its checked name.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Bytes of all files.
    pub size: u64,
    /// Chunks of all files, repeated ones counted each time.
    pub chunk_count: u64,
    /// Every file in manifest order; a single file has the root path.
    pub files: Vec<ResolvedFile>,
    /// Every directory below the root, parents before children.
    pub dirs: Vec<RelPath>,
}

/// One file of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedFile {
    /// Where it lies below the root; the root path if it is the whole tree.
    pub path: RelPath,
    /// CID of its own manifest.
    pub cid: ManifestCid,
    /// Length in bytes.
    pub size: u64,
    /// Whether it is marked executable.
    pub exec: bool,
    /// Length of every chunk but the last, in bytes.
    pub chunk_len: u32,
    /// Its chunks in order.
    pub chunks: Vec<ChunkCid>,
}

impl ResolvedFile {
    /// Length of the chunk at `index` in bytes; 0 past the end.
    pub fn chunk_len_at(&self, index: usize) -> u32 {
        let chunk_len = u64::from(self.chunk_len);
        let start = (index as u64).saturating_mul(chunk_len);
        let len = self.size.saturating_sub(start).min(chunk_len);
        u32::try_from(len).unwrap_or(self.chunk_len)
    }
}

impl ResolvedTree {
    /// Every chunk once, with its length in bytes, in the order of first use.
    pub fn unique_chunks(&self) -> Vec<(ChunkCid, u32)> {
        let mut seen = HashSet::new();
        lengths(&self.files).filter(|(chunk, _)| seen.insert(*chunk)).collect()
    }
}

/// A chunk has one length: that of its content.
pub(super) fn check_lengths(files: &[ResolvedFile]) -> Result<(), ManifestError> {
    const TWO_LENGTHS: ManifestError = ManifestError::Shape("a chunk is used with two different lengths");
    // Nearly all chunks have the longest length, so only the others are kept: of two lengths one is shorter.
    let longest = files.iter().map(|file| file.chunk_len).max().unwrap_or_default();
    let mut shorter = HashMap::new();
    for (chunk, len) in lengths(files).filter(|(_, len)| *len != longest) {
        if *shorter.entry(chunk).or_insert(len) != len {
            return Err(TWO_LENGTHS);
        }
    }
    let is_both = |(chunk, len): (ChunkCid, u32)| len == longest && shorter.contains_key(&chunk);
    if !shorter.is_empty() && lengths(files).any(is_both) { Err(TWO_LENGTHS) } else { Ok(()) }
}

/// Every chunk of every file with its length.
fn lengths(files: &[ResolvedFile]) -> impl Iterator<Item = (ChunkCid, u32)> + '_ {
    files.iter().flat_map(|file| {
        file.chunks.iter().enumerate().map(|(index, chunk)| (*chunk, file.chunk_len_at(index)))
    })
}
