//! Which bytes a download has to write where: the tree turned round, from chunks to places.

use std::collections::BTreeSet;

use crate::chunk_set::ChunkSet;
use crate::cid::{ChunkCid, ManifestCid};
use crate::layout::Layout;
use crate::manifest::ResolvedTree;
use crate::name::RelPath;

/// One place a chunk belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Index into [`Plan::files`].
    pub(crate) file: u32,
    /// Offset in that file in bytes.
    pub(crate) offset: u64,
}

/// A file to be written.
#[derive(Clone, Debug)]
pub(crate) struct PlanFile {
    /// Below the output; empty if the output is this file.
    pub(crate) path: RelPath,
    pub(crate) cid: ManifestCid,
    pub(crate) size: u64,
    pub(crate) chunk_len: u32,
    pub(crate) is_exec: bool,
    /// The chunks in the order of the file, by index into [`Plan::chunks`].
    pub(crate) chunks: Vec<u32>,
}

impl PlanFile {
    pub(crate) fn layout(&self) -> Layout {
        Layout::new(self.size, self.chunk_len)
    }
}

/// A tree from the view of its distinct chunks, which are numbered in the order of their first use.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) root: ManifestCid,
    pub(crate) name: String,
    pub(crate) is_dir: bool,
    pub(crate) total_len: u64,
    pub(crate) files: Vec<PlanFile>,
    /// Every directory below the root, parents first.
    pub(crate) dirs: Vec<RelPath>,
    /// The distinct chunks and their lengths in bytes.
    pub(crate) chunks: Vec<(ChunkCid, u32)>,
    /// Indices of `chunks`, sorted by CID.
    by_cid: Vec<u32>,
    /// The chunks that are zeros from end to end, as far as that can be told from a full-length chunk's CID.
    zeros: Vec<u32>,
    /// `places[starts[n]..starts[n + 1]]` belong to chunk n.
    starts: Vec<usize>,
    places: Vec<Place>,
}

impl Plan {
    pub(crate) fn new(tree: &ResolvedTree) -> Self {
        let chunks = tree.unique_chunks();
        let mut by_cid: Vec<u32> = (0..).zip(&chunks).map(|(index, _)| index).collect();
        by_cid.sort_unstable_by_key(|index| chunks.get(*index as usize).map(|(cid, _)| *cid));
        let find = |cid: &ChunkCid| find_chunk(&chunks, &by_cid, cid).unwrap_or(0);
        let files: Vec<_> = tree
            .files
            .iter()
            .map(|file| PlanFile {
                path: file.path.clone(),
                cid: file.cid,
                size: file.size,
                chunk_len: file.chunk_len,
                is_exec: file.exec,
                chunks: file.chunks.iter().map(find).collect(),
            })
            .collect();
        let chunk_lens: BTreeSet<u32> = files.iter().map(|file| file.chunk_len).collect();
        let zeros = chunk_lens
            .into_iter()
            .filter_map(|len| find_chunk(&chunks, &by_cid, &ChunkCid::of(&vec![0; len as usize])));
        let zeros = zeros.collect();
        let (starts, places) = group_places(&files, chunks.len());
        Self {
            root: tree.root,
            name: tree.name.clone(),
            is_dir: tree.is_dir,
            total_len: tree.size,
            files,
            dirs: tree.dirs.clone(),
            chunks,
            by_cid,
            zeros,
            starts,
            places,
        }
    }

    /// Number of distinct chunks.
    pub(crate) fn chunk_count(&self) -> u32 {
        u32::try_from(self.chunks.len()).unwrap_or(u32::MAX)
    }

    /// The number of a chunk, if it is part of the tree.
    pub(crate) fn find(&self, cid: &ChunkCid) -> Option<u32> {
        find_chunk(&self.chunks, &self.by_cid, cid)
    }

    /// CID and length of the chunk with this number.
    pub(crate) fn chunk(&self, index: u32) -> Option<(ChunkCid, u32)> {
        self.chunks.get(index as usize).copied()
    }

    /// Whether the chunk is known to be all zeros.
    pub(crate) fn is_zero(&self, index: u32) -> bool {
        self.zeros.contains(&index)
    }

    /// Everywhere the chunk belongs, in the order of files and offsets.
    pub(crate) fn places(&self, index: u32) -> &[Place] {
        let at = |index: usize| self.starts.get(index).copied().unwrap_or(self.places.len());
        self.places.get(at(index as usize)..at(index as usize + 1)).unwrap_or_default()
    }

    /// Bytes of the output that the chunk makes up, at all its places together.
    pub(crate) fn output_len(&self, index: u32) -> u64 {
        let len = self.chunk(index).map_or(0, |(_, len)| u64::from(len));
        len.saturating_mul(self.places(index).len() as u64)
    }

    /// Bytes of the output that these chunks make up.
    pub(crate) fn output_len_of(&self, chunks: &ChunkSet) -> u64 {
        chunks.iter().fold(0, |sum, index| sum.saturating_add(self.output_len(index)))
    }
}

fn find_chunk(chunks: &[(ChunkCid, u32)], by_cid: &[u32], cid: &ChunkCid) -> Option<u32> {
    let found =
        by_cid.binary_search_by_key(&Some(*cid), |index| chunks.get(*index as usize).map(|(cid, _)| *cid));
    by_cid.get(found.ok()?).copied()
}

/// Sorts the places of all files by chunk, without a list for each chunk.
fn group_places(files: &[PlanFile], chunks: usize) -> (Vec<usize>, Vec<Place>) {
    let mut starts = vec![0; chunks + 1];
    for index in files.iter().flat_map(|file| &file.chunks) {
        if let Some(count) = starts.get_mut(*index as usize + 1) {
            *count += 1;
        }
    }
    let mut sum = 0;
    for start in &mut starts {
        sum += *start;
        *start = sum;
    }
    let mut places = vec![Place { file: 0, offset: 0 }; sum];
    let mut next = starts.clone();
    for (number, file) in (0..).zip(files) {
        for (position, index) in (0..).zip(&file.chunks) {
            let Some(slot) = next.get_mut(*index as usize) else { continue };
            if let Some(place) = places.get_mut(*slot) {
                *place = Place { file: number, offset: file.layout().span(position).0 };
            }
            *slot += 1;
        }
    }
    (starts, places)
}
