//! Putting a tree together from blocks that arrive in any order.
//!
//! Memory is bounded twice: by what the blocks hold while they arrive, and by what they unfold to, which is counted
//! before anything is unfolded. A few blocks that link to each other crosswise can mean 2^64 files.

use std::collections::{HashMap, hash_map};

use super::{
    Block, Children, DirManifest, DirNode, FileManifest, FileNode, Links, MAX_FILE_CHUNKS, MAX_NESTING,
    MAX_TREE_ENTRIES, ManifestError, ResolvedFile, ResolvedTree,
    check::{Checker, Content, Item},
    tree::check_lengths,
};
use crate::{cid::ManifestCid, name::RelPath};

/// Most blocks in one tree: the root, one for each entry, and nodes. Each file or directory with nodes has less than
/// twice as many as full ones would be, and these are at most one for each 1,023 chunks or entries.
const MAX_BLOCKS: usize = 1 + MAX_TREE_ENTRIES + (1 << 16);

/// What a block is expected to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The file or directory that the tree is of, or an entry; with its nesting.
    Item { nesting: usize },
    /// Inner node of a file, with so many levels below it.
    FileNode { depth: u8 },
    /// Inner node of a directory at this nesting, with so many levels below it.
    DirNode { nesting: usize, depth: u8 },
}

/// Puts a tree together. Give it blocks with [`TreeResolver::insert`] until [`TreeResolver::is_complete`]; memory
/// grows with the blocks inserted and is bounded by the limits of a tree.
#[derive(Debug, Clone)]
pub struct TreeResolver {
    root: ManifestCid,
    roles: HashMap<ManifestCid, Role>,
    blocks: HashMap<ManifestCid, Block>,
    needed: Vec<ManifestCid>,
    /// Entries in the blocks that are here.
    entries: u64,
    /// Links to chunks in the blocks that are here.
    chunks: u64,
}

impl TreeResolver {
    /// A tree of which only the root's CID is known.
    pub fn new(root: ManifestCid) -> Self {
        let roles = HashMap::from([(root, Role::Item { nesting: 0 })]);
        Self { root, roles, blocks: HashMap::new(), needed: vec![root], entries: 0, chunks: 0 }
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
    /// [`ManifestError::WrongBytes`] and [`ManifestError::Unexpected`] are the fault of who sent the block. Any other
    /// [`ManifestError`] is that of the tree: nobody can have a good one under this root.
    pub fn insert(&mut self, cid: ManifestCid, bytes: &[u8]) -> Result<(), ManifestError> {
        let role = *self.roles.get(&cid).ok_or(ManifestError::Unexpected(cid))?;
        if self.blocks.contains_key(&cid) {
            return Ok(());
        }
        if !cid.matches(bytes) {
            return Err(ManifestError::WrongBytes(cid));
        }
        let block = Block::decode(bytes)?;
        let below = role_below(&block, role)?;
        let links = block.links();
        if matches!(below, Role::Item { nesting } if nesting > MAX_NESTING) && !links.is_empty() {
            return Err(ManifestError::TooMany {
                what: "directories inside each other",
                max: MAX_NESTING as u64,
            });
        }
        self.count(&block)?;
        for link in links {
            if self.roles.len() >= MAX_BLOCKS {
                return Err(ManifestError::TooMany {
                    what: "manifest blocks in one tree",
                    max: MAX_BLOCKS as u64,
                });
            }
            if let hash_map::Entry::Vacant(place) = self.roles.entry(link) {
                place.insert(below);
                self.needed.push(link);
            }
        }
        self.blocks.insert(cid, block);
        Ok(())
    }

    /// Counts what a new block holds. A tree uses every block at least once, so it has no less than that.
    fn count(&mut self, block: &Block) -> Result<(), ManifestError> {
        match block {
            Block::File(FileManifest { links: Links::Chunks(chunks), .. })
            | Block::FileNode(FileNode { links: Links::Chunks(chunks), .. }) => {
                self.chunks += chunks.len() as u64
            }
            Block::Dir(DirManifest { children: Children::Entries(entries), .. })
            | Block::DirNode(DirNode { children: Children::Entries(entries), .. }) => {
                self.entries += entries.len() as u64;
            }
            Block::File(_) | Block::FileNode(_) | Block::Dir(_) | Block::DirNode(_) => {}
        }
        if self.chunks > MAX_FILE_CHUNKS {
            return Err(ManifestError::TooMany { what: "chunks in one tree", max: MAX_FILE_CHUNKS });
        }
        if self.entries > MAX_TREE_ENTRIES as u64 {
            return Err(ManifestError::TooMany { what: "entries in one tree", max: MAX_TREE_ENTRIES as u64 });
        }
        Ok(())
    }

    /// The tree, once complete.
    ///
    /// # Errors
    /// [`ManifestError`] if a block is missing or the blocks do not fit together.
    pub fn finish(self) -> Result<ResolvedTree, ManifestError> {
        let (name, is_dir) = match self.blocks.get(&self.root) {
            Some(Block::File(file)) => (file.name.clone(), false),
            Some(Block::Dir(dir)) => (dir.name.clone(), true),
            Some(Block::FileNode(_) | Block::DirNode(_)) => {
                return Err(ManifestError::Shape("an inner node is no root"));
            }
            None => return Err(ManifestError::Missing(self.root)),
        };
        let (sums, items) = Checker::new(&self.blocks).check(self.root)?;
        let mut tree = Unfolded { items: &items, files: Vec::new(), dirs: Vec::new() };
        tree.item(self.root, RelPath::root(), false)?;
        let Unfolded { files, dirs, .. } = tree;
        check_lengths(&files)?;
        Ok(ResolvedTree {
            root: self.root,
            name,
            is_dir,
            size: sums.size,
            chunk_count: sums.chunks,
            files,
            dirs,
        })
    }
}

/// What the links of a block in a role must lead to.
fn role_below(block: &Block, role: Role) -> Result<Role, ManifestError> {
    const LEVELS: ManifestError =
        ManifestError::Shape("a node has another number of levels than its parent says");
    match (block, role) {
        (Block::File(file), Role::Item { .. }) => Ok(Role::FileNode { depth: file.depth.saturating_sub(1) }),
        (Block::FileNode(node), Role::FileNode { depth }) if node.depth == depth => {
            Ok(Role::FileNode { depth: depth.saturating_sub(1) })
        }
        (Block::Dir(dir), Role::Item { nesting }) => Ok(below_dir(&dir.children, nesting, dir.depth)),
        (Block::DirNode(node), Role::DirNode { nesting, depth }) if node.depth == depth => {
            Ok(below_dir(&node.children, nesting, depth))
        }
        (Block::FileNode(_), Role::FileNode { .. }) | (Block::DirNode(_), Role::DirNode { .. }) => {
            Err(LEVELS)
        }
        _ => Err(ManifestError::Shape("a block of one kind stands where one of another kind belongs")),
    }
}

fn below_dir(children: &Children, nesting: usize, depth: u8) -> Role {
    match children {
        Children::Entries(_) => Role::Item { nesting: nesting + 1 },
        Children::Nodes(_) => Role::DirNode { nesting, depth: depth.saturating_sub(1) },
    }
}

/// Lists files and directories of a checked tree with their paths.
struct Unfolded<'a> {
    items: &'a HashMap<ManifestCid, Item<'a>>,
    files: Vec<ResolvedFile>,
    dirs: Vec<RelPath>,
}

impl Unfolded<'_> {
    /// Recursion is as deep as directories nest, which the check bounds.
    fn item(&mut self, cid: ManifestCid, path: RelPath, exec: bool) -> Result<(), ManifestError> {
        match &self.items.get(&cid).ok_or(ManifestError::Missing(cid))?.content {
            Content::File { size, chunk_len, leaves } => {
                let (size, chunk_len) = (*size, *chunk_len);
                self.files.push(ResolvedFile { path, cid, size, exec, chunk_len, chunks: leaves.concat() });
            }
            Content::Dir { entries } => {
                if !path.is_root() {
                    self.dirs.push(path.clone());
                }
                for entry in entries {
                    self.item(entry.cid, path.join(&entry.name)?, entry.exec)?;
                }
            }
        }
        Ok(())
    }
}
