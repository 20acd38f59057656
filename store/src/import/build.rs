//! From hashed files to manifests, the innermost directories first.

use std::collections::HashMap;

use crate::cid::ManifestCid;
use crate::error::ImportError;
use crate::import::scan::ScannedFile;
use crate::import::walk::{Found, FoundFile, Node};
use crate::manifest::{Built, CHUNK_LEN, Entry, ManifestError, TreeResolver, build_dir, build_file};

/// The manifests of everything found.
#[derive(Debug)]
pub(crate) struct BuiltTree {
    pub(crate) root: ManifestCid,
    /// CID and bytes of every block of the tree.
    pub(crate) blocks: Vec<(ManifestCid, Vec<u8>)>,
    /// CID of each file's manifest, in the order of [`Found::files`].
    pub(crate) files: Vec<ManifestCid>,
}

/// Makes the manifests of `found`, whose files were scanned in the same order.
pub(crate) fn build(found: &Found, scanned: &[ScannedFile]) -> Result<BuiltTree, ImportError> {
    let mut builder =
        Builder { files: &found.files, scanned, blocks: Vec::new(), cids: Vec::with_capacity(scanned.len()) };
    let root = builder.node(&found.root)?.entry.cid;
    let built = BuiltTree { root, blocks: builder.blocks, files: builder.cids };
    check_readable(&built)?;
    Ok(built)
}

/// Reads the tree as a receiver would: what passes a limit of theirs must not become a share.
fn check_readable(built: &BuiltTree) -> Result<(), ManifestError> {
    let blocks: HashMap<_, _> = built.blocks.iter().map(|(cid, block)| (*cid, block)).collect();
    let mut resolver = TreeResolver::new(built.root);
    while !resolver.is_complete() {
        for cid in resolver.needs() {
            resolver.insert(cid, blocks.get(&cid).ok_or(ManifestError::Missing(cid))?)?;
        }
    }
    resolver.finish().map(|_| ())
}

struct Builder<'a> {
    files: &'a [FoundFile],
    scanned: &'a [ScannedFile],
    blocks: Vec<(ManifestCid, Vec<u8>)>,
    /// Of the files so far: the walk numbers them in the order in which this meets them.
    cids: Vec<ManifestCid>,
}

/// A file or directory as an entry of the directory above it.
struct BuiltNode {
    entry: Entry,
    files: u64,
}

impl Builder<'_> {
    fn node(&mut self, node: &Node) -> Result<BuiltNode, ManifestError> {
        match node {
            Node::File { name, file } => {
                let (Some(found), Some(scanned)) = (self.files.get(*file), self.scanned.get(*file)) else {
                    return Err(ManifestError::Shape("a file was found but not read"));
                };
                let built = build_file(name, found.size, CHUNK_LEN, &scanned.chunks)?;
                self.cids.push(built.root);
                let cid = self.keep(built);
                Ok(BuiltNode {
                    entry: Entry { name: name.clone(), size: found.size, cid, exec: found.is_exec },
                    files: 1,
                })
            }
            Node::Dir { name, entries } => {
                let nodes = entries.iter().map(|entry| self.node(entry)).collect::<Result<Vec<_>, _>>()?;
                let size = nodes.iter().fold(0u64, |sum, node| sum.saturating_add(node.entry.size));
                let files = nodes.iter().map(|node| node.files).sum();
                let nodes = nodes.into_iter().map(|node| (node.entry, node.files)).collect();
                let cid = self.keep(build_dir(name, nodes)?);
                Ok(BuiltNode { entry: Entry { name: name.clone(), size, cid, exec: false }, files })
            }
        }
    }

    fn keep(&mut self, built: Built) -> ManifestCid {
        self.blocks.extend(built.blocks);
        built.root
    }
}
