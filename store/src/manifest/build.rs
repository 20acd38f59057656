//! Making manifests. The shape of a tree follows from its content alone: nodes are filled from the left and depth is
//! the smallest that fits.

use super::{
    Block, Children, DirManifest, DirNode, Entry, FileManifest, FileNode, Links, MAX_CHILDREN,
    MAX_FILE_CHUNKS, MAX_SIZE, MAX_TREE_ENTRIES, ManifestError, depth_for, leaves_per_child,
};
use crate::cid::{ChunkCid, ManifestCid};

/// A manifest and all its blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// CID of the root block.
    pub root: ManifestCid,
    /// CID and bytes of every block; children before parents, the root last.
    pub blocks: Vec<(ManifestCid, Vec<u8>)>,
}

/// Makes the manifest of a file. `chunks` are the CIDs of its chunks in order, each `chunk_len` bytes but the last.
///
/// # Errors
/// [`ManifestError`] if the name is refused, a limit is passed, or `size` does not fit the number of chunks.
pub fn build_file(
    name: &str,
    size: u64,
    chunk_len: u32,
    chunks: &[ChunkCid],
) -> Result<Built, ManifestError> {
    let count = chunks.len() as u64;
    if size > MAX_SIZE || count > MAX_FILE_CHUNKS {
        return Err(ManifestError::TooMany { what: "chunks in one file", max: MAX_FILE_CHUNKS });
    }
    if chunk_len == 0 || size.div_ceil(u64::from(chunk_len)) != count {
        return Err(ManifestError::Shape("the size of the file does not fit its number of chunks"));
    }
    let depth = depth_for(count).ok_or(ManifestError::Shape("more chunks than a manifest can hold"))?;
    let mut blocks = Vec::new();
    let mut links = Links::Chunks(chunks.to_vec());
    for level in 0..depth {
        // Bytes below one full node of this level.
        let node_len = leaves_per_child(level + 1) * u64::from(chunk_len);
        let mut nodes = Vec::new();
        for (index, links) in split(&links).into_iter().enumerate() {
            let start = index as u64 * node_len;
            let node = FileNode { size: (size - start).min(node_len), depth: level, links };
            nodes.push(push(&mut blocks, &Block::FileNode(node))?);
        }
        links = Links::Nodes(nodes);
    }
    let root = FileManifest { name: name.to_owned(), size, chunk_len, depth, links };
    let root = push(&mut blocks, &Block::File(root))?;
    Ok(Built { root, blocks })
}

/// Makes the manifest of a directory from its entries, in any order; each comes with the number of files it counts
/// for: 1 for a file, those below it for a directory.
///
/// # Errors
/// [`ManifestError`] if a name is refused or there twice, or a limit is passed.
pub fn build_dir(name: &str, mut entries: Vec<(Entry, u64)>) -> Result<Built, ManifestError> {
    if entries.len() > MAX_TREE_ENTRIES {
        return Err(ManifestError::TooMany {
            what: "entries in one directory",
            max: MAX_TREE_ENTRIES as u64,
        });
    }
    entries.sort_by(|(a, _), (b, _)| a.name.as_bytes().cmp(b.name.as_bytes()));
    if entries.windows(2).any(|pair| matches!(pair, [(a, _), (b, _)] if a.name == b.name)) {
        return Err(ManifestError::Shape("two directory entries have the same name"));
    }
    let depth = depth_for(entries.len() as u64)
        .ok_or(ManifestError::Shape("more entries than a manifest can hold"))?;
    let mut blocks = Vec::new();
    let (mut size, mut files) = sums(entries.iter().map(|(entry, files)| (entry.size, *files)))?;
    let children = if depth == 0 {
        Children::Entries(entries.into_iter().map(|(entry, _)| entry).collect())
    } else {
        // CID, size and files of each node of the level below.
        let mut level = Vec::new();
        for group in entries.chunks(MAX_CHILDREN) {
            let (size, files) = sums(group.iter().map(|(entry, files)| (entry.size, *files)))?;
            let children = Children::Entries(group.iter().map(|(entry, _)| entry.clone()).collect());
            let node = DirNode { size, files, depth: 0, children };
            level.push((push(&mut blocks, &Block::DirNode(node))?, size, files));
        }
        for depth in 1..depth {
            let mut above = Vec::new();
            for group in level.chunks(MAX_CHILDREN) {
                let (size, files) = sums(group.iter().map(|(_, size, files)| (*size, *files)))?;
                let children = Children::Nodes(group.iter().map(|(cid, ..)| *cid).collect());
                let node = DirNode { size, files, depth, children };
                above.push((push(&mut blocks, &Block::DirNode(node))?, size, files));
            }
            level = above;
        }
        (size, files) = sums(level.iter().map(|(_, size, files)| (*size, *files)))?;
        Children::Nodes(level.into_iter().map(|(cid, ..)| cid).collect())
    };
    let root =
        push(&mut blocks, &Block::Dir(DirManifest { name: name.to_owned(), size, files, depth, children }))?;
    Ok(Built { root, blocks })
}

fn push(blocks: &mut Vec<(ManifestCid, Vec<u8>)>, block: &Block) -> Result<ManifestCid, ManifestError> {
    let bytes = block.encode()?;
    let cid = ManifestCid::of(&bytes);
    blocks.push((cid, bytes));
    Ok(cid)
}

fn split(links: &Links) -> Vec<Links> {
    match links {
        Links::Chunks(chunks) => {
            chunks.chunks(MAX_CHILDREN).map(|part| Links::Chunks(part.to_vec())).collect()
        }
        Links::Nodes(nodes) => nodes.chunks(MAX_CHILDREN).map(|part| Links::Nodes(part.to_vec())).collect(),
    }
}

/// Sums of sizes and file counts.
fn sums(parts: impl Iterator<Item = (u64, u64)>) -> Result<(u64, u64), ManifestError> {
    let mut total = (0_u64, 0_u64);
    for (size, files) in parts {
        let next = total.0.checked_add(size).zip(total.1.checked_add(files));
        total =
            next.ok_or(ManifestError::Shape("the sizes of a directory add up to more than is allowed"))?;
    }
    Ok(total)
}
