//! Putting a tree together from blocks that arrive in any order, and checking what only the whole can show: that sizes
//! add up, that nodes are full, that names agree, that nothing is too deep or too much.

use std::collections::{HashMap, HashSet};

use super::{
    Block, Children, DirManifest, Entry, FileManifest, Links, MAX_CHILDREN, MAX_FILE_CHUNKS, MAX_NESTING, MAX_SIZE,
    MAX_TREE_ENTRIES, ManifestError, depth_for, leaves_per_child,
};
use crate::{
    cid::{ChunkCid, ManifestCid},
    name::RelPath,
};

/// Most blocks in one tree: one for each entry, and the nodes above them.
const MAX_BLOCKS: usize = MAX_TREE_ENTRIES + MAX_TREE_ENTRIES / 64 + MAX_CHILDREN;

/// What a block is expected to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The file or directory that the tree is of, or an entry; with its nesting.
    Item { nesting: usize },
    /// Inner node of a file.
    FileNode,
    /// Inner node of a directory at this nesting.
    DirNode { nesting: usize },
}

/// Puts a tree together. Give it blocks with [`TreeResolver::insert`] until [`TreeResolver::is_complete`]; memory
/// grows with the blocks inserted.
#[derive(Debug, Clone)]
pub struct TreeResolver {
    root: ManifestCid,
    roles: HashMap<ManifestCid, Role>,
    blocks: HashMap<ManifestCid, Block>,
    needed: Vec<ManifestCid>,
}

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
        let mut unique = Vec::new();
        for file in &self.files {
            for (index, chunk) in file.chunks.iter().enumerate() {
                if seen.insert(*chunk) {
                    unique.push((*chunk, file.chunk_len_at(index)));
                }
            }
        }
        unique
    }
}

impl TreeResolver {
    /// A tree of which only the root's CID is known.
    pub fn new(root: ManifestCid) -> Self {
        let roles = HashMap::from([(root, Role::Item { nesting: 0 })]);
        Self { root, roles, blocks: HashMap::new(), needed: vec![root] }
    }

    /// CIDs of blocks that became needed since the last call; each is returned once.
    pub fn needs(&mut self) -> Vec<ManifestCid> {
        std::mem::take(&mut self.needed)
    }

    /// Whether every block is here.
    pub fn is_complete(&self) -> bool {
        self.blocks.len() == self.roles.len()
    }

    /// Takes a block. One that is already here is ignored.
    ///
    /// # Errors
    /// [`ManifestError`] if the bytes are not those of `cid`, nobody needs it, or it is no valid block in its place.
    pub fn insert(&mut self, cid: ManifestCid, bytes: &[u8]) -> Result<(), ManifestError> {
        let role = *self.roles.get(&cid).ok_or(ManifestError::Unexpected(cid))?;
        if self.blocks.contains_key(&cid) {
            return Ok(());
        }
        if !cid.matches(bytes) {
            return Err(ManifestError::WrongBytes(cid));
        }
        let block = Block::decode(bytes)?;
        let below = match (&block, role) {
            (Block::File(_), Role::Item { .. }) | (Block::FileNode(_), Role::FileNode) => Role::FileNode,
            (Block::Dir(dir), Role::Item { nesting }) => below_dir(&dir.children, nesting),
            (Block::DirNode(node), Role::DirNode { nesting }) => below_dir(&node.children, nesting),
            _ => return Err(ManifestError::Shape("a block of one kind stands where one of another kind belongs")),
        };
        let links = block.links();
        if matches!(below, Role::Item { nesting } if nesting > MAX_NESTING) && !links.is_empty() {
            return Err(ManifestError::TooMany { what: "directories inside each other", max: MAX_NESTING as u64 });
        }
        for link in links {
            if self.roles.len() >= MAX_BLOCKS {
                return Err(ManifestError::TooMany { what: "manifest blocks in one tree", max: MAX_BLOCKS as u64 });
            }
            if let std::collections::hash_map::Entry::Vacant(place) = self.roles.entry(link) {
                place.insert(below);
                self.needed.push(link);
            }
        }
        self.blocks.insert(cid, block);
        Ok(())
    }

    /// The tree, once complete.
    ///
    /// # Errors
    /// [`ManifestError`] if a block is missing or the blocks do not fit together.
    pub fn finish(self) -> Result<ResolvedTree, ManifestError> {
        let (name, is_dir) = match self.block(&self.root)? {
            Block::File(file) => (file.name.clone(), false),
            Block::Dir(dir) => (dir.name.clone(), true),
            Block::FileNode(_) | Block::DirNode(_) => return Err(ManifestError::Shape("an inner node is no root")),
        };
        let mut walk = Walk { resolver: &self, files: Vec::new(), dirs: Vec::new(), entries: 0, chunks: 0 };
        let totals = walk.item(self.root, RelPath::root(), false)?;
        let Walk { files, dirs, chunks, .. } = walk;
        check_lengths(&files)?;
        Ok(ResolvedTree { root: self.root, name, is_dir, size: totals.size, chunk_count: chunks, files, dirs })
    }

    fn block(&self, cid: &ManifestCid) -> Result<&Block, ManifestError> {
        self.blocks.get(cid).ok_or(ManifestError::Missing(*cid))
    }
}

fn below_dir(children: &Children, nesting: usize) -> Role {
    match children {
        Children::Entries(_) => Role::Item { nesting: nesting + 1 },
        Children::Nodes(_) => Role::DirNode { nesting },
    }
}

/// A chunk has one length: that of its content.
fn check_lengths(files: &[ResolvedFile]) -> Result<(), ManifestError> {
    // Only last chunks are short, so only they can disagree.
    let mut short: HashMap<ChunkCid, u32> = HashMap::new();
    for file in files {
        let Some((last, index)) = file.chunks.last().zip(file.chunks.len().checked_sub(1)) else { continue };
        let len = file.chunk_len_at(index);
        if *short.entry(*last).or_insert(len) != len {
            return Err(ManifestError::Shape("a chunk is used with two different lengths"));
        }
    }
    for file in files {
        for (index, chunk) in file.chunks.iter().enumerate() {
            if short.get(chunk).is_some_and(|len| *len != file.chunk_len_at(index)) {
                return Err(ManifestError::Shape("a chunk is used with two different lengths"));
            }
        }
    }
    Ok(())
}

/// Size and number of files of an item or a part of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Totals {
    size: u64,
    files: u64,
}

impl Totals {
    fn add(&mut self, other: Totals) -> Result<(), ManifestError> {
        let sum = self.size.checked_add(other.size).filter(|size| *size <= MAX_SIZE);
        self.size = sum.ok_or(ManifestError::Shape("the sizes of a directory add up to more than is allowed"))?;
        self.files += other.files;
        Ok(())
    }
}

/// A walk over a complete tree. What a repeated block unfolds to is bounded by counting.
struct Walk<'a> {
    resolver: &'a TreeResolver,
    files: Vec<ResolvedFile>,
    dirs: Vec<RelPath>,
    entries: usize,
    chunks: u64,
}

impl<'a> Walk<'a> {
    /// Recursion is as deep as directories nest, which `RelPath` bounds.
    fn item(&mut self, cid: ManifestCid, path: RelPath, exec: bool) -> Result<Totals, ManifestError> {
        match self.resolver.block(&cid)? {
            Block::File(file) => self.file(cid, file, path, exec),
            Block::Dir(_) if exec => Err(ManifestError::Shape("a directory is marked executable")),
            Block::Dir(dir) => self.dir(dir, path),
            Block::FileNode(_) | Block::DirNode(_) => Err(ManifestError::Shape("an inner node stands for an item")),
        }
    }

    fn file(
        &mut self,
        cid: ManifestCid,
        file: &FileManifest,
        path: RelPath,
        exec: bool,
    ) -> Result<Totals, ManifestError> {
        let count = file.size.div_ceil(u64::from(file.chunk_len));
        if depth_for(count) != Some(file.depth) {
            return Err(ManifestError::Shape("a file has another number of levels than its size needs"));
        }
        self.chunks = self.chunks.saturating_add(count);
        if self.chunks > MAX_FILE_CHUNKS {
            return Err(ManifestError::TooMany { what: "chunks in one tree", max: MAX_FILE_CHUNKS });
        }
        let mut chunks = Vec::new();
        self.collect_chunks(&file.links, file.depth, file.size, file.chunk_len, &mut chunks)?;
        let (size, chunk_len) = (file.size, file.chunk_len);
        self.files.push(ResolvedFile { path, cid, size, exec, chunk_len, chunks });
        Ok(Totals { size, files: 1 })
    }

    fn collect_chunks(
        &self,
        links: &Links,
        depth: u8,
        size: u64,
        chunk_len: u32,
        out: &mut Vec<ChunkCid>,
    ) -> Result<(), ManifestError> {
        const UNEVEN: ManifestError = ManifestError::Shape("a file's links do not fit its size");
        // Bytes below each link but the last.
        let child_len = leaves_per_child(depth) * u64::from(chunk_len);
        match links {
            Links::Chunks(chunks) => {
                if size.div_ceil(child_len) != chunks.len() as u64 {
                    return Err(UNEVEN);
                }
                out.extend_from_slice(chunks);
            }
            Links::Nodes(nodes) => {
                if size.div_ceil(child_len) != nodes.len() as u64 {
                    return Err(UNEVEN);
                }
                for (index, cid) in nodes.iter().enumerate() {
                    let Block::FileNode(node) = self.resolver.block(cid)? else {
                        return Err(ManifestError::Shape("a file links to a block that is no file node"));
                    };
                    let expected = (size - index as u64 * child_len).min(child_len);
                    if node.size != expected || node.depth + 1 != depth {
                        return Err(UNEVEN);
                    }
                    self.collect_chunks(&node.links, node.depth, node.size, chunk_len, out)?;
                }
            }
        }
        Ok(())
    }

    fn dir(&mut self, dir: &'a DirManifest, path: RelPath) -> Result<Totals, ManifestError> {
        let mut entries = Vec::new();
        self.collect_entries(&dir.children, dir.depth, true, &mut entries)?;
        if depth_for(entries.len() as u64) != Some(dir.depth) {
            return Err(ManifestError::Shape("a directory has another number of levels than its entries need"));
        }
        self.entries = self.entries.saturating_add(entries.len());
        if self.entries > MAX_TREE_ENTRIES {
            return Err(ManifestError::TooMany { what: "entries in one tree", max: MAX_TREE_ENTRIES as u64 });
        }
        let is_sorted = entries.windows(2).all(|pair| matches!(pair, [a, b] if a.name.as_bytes() < b.name.as_bytes()));
        if !is_sorted {
            return Err(ManifestError::Shape("directory entries are not sorted by name"));
        }
        let mut totals = Totals::default();
        let mut by_entry = Vec::with_capacity(entries.len());
        for entry in entries {
            let below = path.join(&entry.name)?;
            self.check_entry(entry)?;
            if matches!(self.resolver.block(&entry.cid)?, Block::Dir(_)) {
                self.dirs.push(below.clone());
            }
            let item = self.item(entry.cid, below, entry.exec)?;
            if item.size != entry.size {
                return Err(ManifestError::Shape("a directory entry has another size than what it links to"));
            }
            by_entry.push(item);
            totals.add(item)?;
        }
        if (Totals { size: dir.size, files: dir.files }) != totals {
            return Err(ManifestError::Shape("a directory's size or number of files is not that of its entries"));
        }
        self.check_sums(&dir.children, &mut by_entry.as_slice())?;
        Ok(totals)
    }

    fn check_entry(&self, entry: &Entry) -> Result<(), ManifestError> {
        let name = match self.resolver.block(&entry.cid)? {
            Block::File(file) => &file.name,
            Block::Dir(dir) => &dir.name,
            Block::FileNode(_) | Block::DirNode(_) => {
                return Err(ManifestError::Shape("an inner node stands for an item"));
            }
        };
        if *name == entry.name {
            Ok(())
        } else {
            Err(ManifestError::Shape("a directory entry has another name than what it links to"))
        }
    }

    /// The entries below `children` in order. Every node but the last of its level must be full.
    fn collect_entries(
        &self,
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
            return Err(ManifestError::Shape("a directory node that is not the last of its level is not full"));
        }
        match children {
            Children::Entries(entries) => {
                if out.len() + entries.len() > MAX_TREE_ENTRIES {
                    let max = MAX_TREE_ENTRIES as u64;
                    return Err(ManifestError::TooMany { what: "entries in one directory", max });
                }
                out.extend(entries);
            }
            Children::Nodes(nodes) => {
                for (index, cid) in nodes.iter().enumerate() {
                    let Block::DirNode(node) = self.resolver.block(cid)? else {
                        return Err(ManifestError::Shape("a directory links to a block that is no directory node"));
                    };
                    if node.depth + 1 != depth {
                        return Err(ManifestError::Shape("a directory node has the wrong number of levels"));
                    }
                    let is_last = is_last && index + 1 == nodes.len();
                    self.collect_entries(&node.children, node.depth, is_last, out)?;
                }
            }
        }
        Ok(())
    }

    /// Checks the sums that inner nodes state; takes from `items` what lies below `children`.
    fn check_sums(&self, children: &Children, items: &mut &[Totals]) -> Result<Totals, ManifestError> {
        let mut totals = Totals::default();
        match children {
            Children::Entries(entries) => {
                let (here, rest) = items.split_at_checked(entries.len()).unwrap_or((items, &[]));
                *items = rest;
                here.iter().try_for_each(|item| totals.add(*item))?;
            }
            Children::Nodes(nodes) => {
                for cid in nodes {
                    let Block::DirNode(node) = self.resolver.block(cid)? else {
                        return Err(ManifestError::Shape("a directory links to a block that is no directory node"));
                    };
                    let below = self.check_sums(&node.children, items)?;
                    if (Totals { size: node.size, files: node.files }) != below {
                        return Err(ManifestError::Shape("a directory node's sums are not those of its entries"));
                    }
                    totals.add(below)?;
                }
            }
        }
        Ok(totals)
    }
}
