//! The check of a complete tree: everything that only the whole can show.
//!
//! Sizes add up, nodes are full, names agree, and nothing is too deep or too much. Every block is looked at once
//! however often it is linked to, and what it unfolds to is computed from what its links unfold to, so the check takes
//! time and memory in proportion to the blocks and not to the tree.

use std::collections::HashMap;

use super::{
    Block, Children, DirManifest, Entry, FileManifest, Links, MAX_CHILDREN, MAX_FILE_CHUNKS, MAX_NESTING,
    MAX_SIZE, MAX_TREE_ENTRIES, MAX_TREE_PATHS_LEN, ManifestError, depth_for, leaves_per_child,
};
use crate::cid::{ChunkCid, ManifestCid};

const INNER_NODE: ManifestError = ManifestError::Shape("an inner node stands for an item");
const NOT_A_DIR_NODE: ManifestError =
    ManifestError::Shape("a directory links to a block that is no directory node");

/// What an item unfolds to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    /// Bytes of all files.
    pub(super) size: u64,
    /// Chunks of all files, repeated ones counted each time.
    pub(super) chunks: u64,
    /// Files, the item among them.
    files: u64,
    /// Files and directories below it.
    entries: u64,
    /// Bytes in the paths of these, as seen from the item.
    paths_len: u64,
    /// Components of the longest of these.
    height: usize,
}

impl Sums {
    /// Adds an entry. Every sum stays within its limit, so none overflows on the way there.
    fn add(&mut self, name_len: usize, below: Sums) -> Result<(), ManifestError> {
        let at_most = |value: u64, what, max| {
            if value <= max { Ok(value) } else { Err(ManifestError::TooMany { what, max }) }
        };
        let name_len = name_len as u64;
        let paths_len = name_len + below.entries * (name_len + 1) + below.paths_len;
        self.size = at_most(self.size + below.size, "bytes in one tree", MAX_SIZE)?;
        self.chunks = at_most(self.chunks + below.chunks, "chunks in one tree", MAX_FILE_CHUNKS)?;
        self.files += below.files;
        self.entries =
            at_most(self.entries + 1 + below.entries, "entries in one tree", MAX_TREE_ENTRIES as u64)?;
        self.paths_len =
            at_most(self.paths_len + paths_len, "bytes of paths in one tree", MAX_TREE_PATHS_LEN)?;
        self.height = self.height.max(below.height + 1);
        at_most(self.height as u64, "directories inside each other", MAX_NESTING as u64)?;
        Ok(())
    }
}

/// A checked file or directory.
#[derive(Debug)]
pub(super) struct Item<'a> {
    pub(super) content: Content<'a>,
    sums: Sums,
}

/// What a file or directory consists of, its nodes taken away.
#[derive(Debug)]
pub(super) enum Content<'a> {
    File {
        size: u64,
        chunk_len: u32,
        /// Its chunks in order, as they are spread over the blocks.
        leaves: Vec<&'a [ChunkCid]>,
    },
    Dir {
        /// Sorted by name.
        entries: Vec<&'a Entry>,
    },
}

/// Checks the items of a tree.
pub(super) struct Checker<'a> {
    blocks: &'a HashMap<ManifestCid, Block>,
    items: HashMap<ManifestCid, Item<'a>>,
    /// Entries of the directories looked at: bounds the work when many share their nodes.
    entries: usize,
    /// Chunks of the files looked at, for the same reason.
    chunks: u64,
}

impl<'a> Checker<'a> {
    pub(super) fn new(blocks: &'a HashMap<ManifestCid, Block>) -> Self {
        Self { blocks, items: HashMap::new(), entries: 0, chunks: 0 }
    }

    /// Checks the tree below `root`; gives its sums and every item in it.
    pub(super) fn check(
        mut self,
        root: ManifestCid,
    ) -> Result<(Sums, HashMap<ManifestCid, Item<'a>>), ManifestError> {
        let sums = self.item(root, 0)?;
        Ok((sums, self.items))
    }

    fn block(&self, cid: ManifestCid) -> Result<&'a Block, ManifestError> {
        self.blocks.get(&cid).ok_or(ManifestError::Missing(cid))
    }

    /// `nesting` directories are above this one. Bounds the recursion.
    fn item(&mut self, cid: ManifestCid, nesting: usize) -> Result<Sums, ManifestError> {
        if let Some(item) = self.items.get(&cid) {
            return Ok(item.sums);
        }
        if nesting > MAX_NESTING {
            return Err(ManifestError::TooMany {
                what: "directories inside each other",
                max: MAX_NESTING as u64,
            });
        }
        let item = match self.block(cid)? {
            Block::File(file) => self.file(file)?,
            Block::Dir(dir) => self.dir(dir, nesting)?,
            Block::FileNode(_) | Block::DirNode(_) => return Err(INNER_NODE),
        };
        let sums = item.sums;
        self.items.insert(cid, item);
        Ok(sums)
    }

    fn file(&mut self, file: &'a FileManifest) -> Result<Item<'a>, ManifestError> {
        let (size, chunk_len) = (file.size, file.chunk_len);
        let count = size.div_ceil(u64::from(chunk_len));
        if depth_for(count) != Some(file.depth) {
            return Err(ManifestError::Shape("a file has another number of levels than its size needs"));
        }
        self.chunks = self.chunks.saturating_add(count);
        if self.chunks > MAX_FILE_CHUNKS {
            return Err(ManifestError::TooMany { what: "chunks in one tree", max: MAX_FILE_CHUNKS });
        }
        let mut leaves = Vec::new();
        self.leaves(&file.links, file.depth, size, chunk_len, &mut leaves)?;
        let sums = Sums { size, chunks: count, files: 1, ..Sums::default() };
        Ok(Item { content: Content::File { size, chunk_len, leaves }, sums })
    }

    /// The chunks below `links` in order. Their number follows from `size`, in every node.
    fn leaves(
        &self,
        links: &'a Links,
        depth: u8,
        size: u64,
        chunk_len: u32,
        out: &mut Vec<&'a [ChunkCid]>,
    ) -> Result<(), ManifestError> {
        const UNEVEN: ManifestError = ManifestError::Shape("a file's links do not fit its size");
        // Bytes below each link but the last.
        let child_len = leaves_per_child(depth) * u64::from(chunk_len);
        let count = size.div_ceil(child_len);
        match links {
            Links::Chunks(chunks) if chunks.len() as u64 == count => out.push(chunks),
            Links::Nodes(nodes) if nodes.len() as u64 == count => {
                let mut left = size;
                for cid in nodes {
                    let Block::FileNode(node) = self.block(*cid)? else {
                        return Err(ManifestError::Shape("a file links to a block that is no file node"));
                    };
                    if node.size != left.min(child_len) || node.depth + 1 != depth {
                        return Err(UNEVEN);
                    }
                    left -= node.size;
                    self.leaves(&node.links, node.depth, node.size, chunk_len, out)?;
                }
            }
            Links::Chunks(_) | Links::Nodes(_) => return Err(UNEVEN),
        }
        Ok(())
    }

    fn dir(&mut self, dir: &'a DirManifest, nesting: usize) -> Result<Item<'a>, ManifestError> {
        let mut entries = Vec::new();
        self.entries(&dir.children, dir.depth, true, &mut entries)?;
        if depth_for(entries.len() as u64) != Some(dir.depth) {
            return Err(ManifestError::Shape(
                "a directory has another number of levels than its entries need",
            ));
        }
        if !entries.is_sorted_by(|a, b| a.name.as_bytes() < b.name.as_bytes()) {
            return Err(ManifestError::Shape("directory entries are not sorted by name"));
        }
        let mut sums = Sums::default();
        let mut parts = Vec::with_capacity(entries.len());
        for entry in &entries {
            let below = self.entry(entry, nesting + 1)?;
            sums.add(entry.name.len(), below)?;
            parts.push((below.size, below.files));
        }
        if (dir.size, dir.files) != (sums.size, sums.files) {
            return Err(ManifestError::Shape(
                "a directory's size or number of files is not that of its entries",
            ));
        }
        self.node_sums(&dir.children, &mut parts.iter())?;
        Ok(Item { content: Content::Dir { entries }, sums })
    }

    /// The entries below `children` in order. Every node but the last of its level must be full.
    fn entries(
        &mut self,
        children: &'a Children,
        depth: u8,
        is_last: bool,
        out: &mut Vec<&'a Entry>,
    ) -> Result<(), ManifestError> {
        let len = match children {
            Children::Entries(entries) => entries.len(),
            Children::Nodes(nodes) => nodes.len(),
        };
        if !is_last && len != MAX_CHILDREN {
            return Err(ManifestError::Shape(
                "a directory node that is not the last of its level is not full",
            ));
        }
        match children {
            Children::Entries(entries) => {
                self.entries += entries.len();
                if self.entries > MAX_TREE_ENTRIES {
                    let max = MAX_TREE_ENTRIES as u64;
                    return Err(ManifestError::TooMany { what: "entries in one tree", max });
                }
                out.extend(entries);
            }
            Children::Nodes(nodes) => {
                for (index, cid) in nodes.iter().enumerate() {
                    let Block::DirNode(node) = self.block(*cid)? else { return Err(NOT_A_DIR_NODE) };
                    if node.depth + 1 != depth {
                        return Err(ManifestError::Shape("a directory node has the wrong number of levels"));
                    }
                    let is_last = is_last && index + 1 == nodes.len();
                    self.entries(&node.children, node.depth, is_last, out)?;
                }
            }
        }
        Ok(())
    }

    /// Checks what an entry says about the item it links to.
    fn entry(&mut self, entry: &Entry, nesting: usize) -> Result<Sums, ManifestError> {
        let name = match self.block(entry.cid)? {
            Block::File(file) => &file.name,
            Block::Dir(_) if entry.exec => {
                return Err(ManifestError::Shape("a directory is marked executable"));
            }
            Block::Dir(dir) => &dir.name,
            Block::FileNode(_) | Block::DirNode(_) => return Err(INNER_NODE),
        };
        if *name != entry.name {
            return Err(ManifestError::Shape("a directory entry has another name than what it links to"));
        }
        let sums = self.item(entry.cid, nesting)?;
        if sums.size != entry.size {
            return Err(ManifestError::Shape("a directory entry has another size than what it links to"));
        }
        Ok(sums)
    }

    /// Checks the sums that inner nodes state; takes size and files of each entry below `children` from `parts`.
    fn node_sums(
        &self,
        children: &Children,
        parts: &mut std::slice::Iter<'_, (u64, u64)>,
    ) -> Result<(u64, u64), ManifestError> {
        let add = |(size, files): (u64, u64), more: &(u64, u64)| (size + more.0, files + more.1);
        let nodes = match children {
            Children::Entries(entries) => return Ok(parts.by_ref().take(entries.len()).fold((0, 0), add)),
            Children::Nodes(nodes) => nodes,
        };
        let mut total = (0, 0);
        for cid in nodes {
            let Block::DirNode(node) = self.block(*cid)? else { return Err(NOT_A_DIR_NODE) };
            let below = self.node_sums(&node.children, parts)?;
            if (node.size, node.files) != below {
                return Err(ManifestError::Shape("a directory node's sums are not those of its entries"));
            }
            total = add(total, &below);
        }
        Ok(total)
    }
}
