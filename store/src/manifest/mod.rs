//! Manifests: what a CID of a file or directory names.
//!
//! A manifest is a tree of DAG-CBOR blocks; `docs/protocol.md` gives every byte. [`Block`] is one block, decoded and
//! checked as far as one block can be. [`build_file`] and [`build_dir`] make trees, [`TreeResolver`] puts a tree
//! together from blocks that arrive in any order and checks what only the whole can show.

mod block;
mod build;
mod check;
mod resolve;
#[cfg(test)]
mod tests;
mod tree;

pub use self::{
    block::{Block, Children, DirManifest, DirNode, Entry, FileManifest, FileNode, Links},
    build::{Built, build_dir, build_file},
    resolve::TreeResolver,
    tree::{ResolvedFile, ResolvedTree},
};
use crate::{
    cid::{CidError, ManifestCid},
    codec::CodecError,
    name::{NameError, PathError},
};

/// Length of a chunk that dhtfs writes, in bytes. 1 MiB reaches 95 % of the best transfer rate; larger ones only
/// cost memory (`docs/benchmarks.md`).
pub const CHUNK_LEN: u32 = 1 << 20;

/// Shortest chunk length that is read, in bytes. Shorter ones would make the manifest a large part of the content.
pub const MIN_CHUNK_LEN: u32 = 1 << 16;

/// Longest chunk length that is read, in bytes; what every IPLD tool takes as one block.
pub const MAX_CHUNK_LEN: u32 = 1 << 20;

/// Longest manifest block, in bytes.
pub const MAX_BLOCK_LEN: usize = 1 << 20;

/// Most links or entries in one block.
pub const MAX_CHILDREN: usize = 1024;

/// Deepest level of nodes below a root block.
pub const MAX_DEPTH: u8 = 3;

/// Largest content, in bytes: a pebibyte.
pub const MAX_SIZE: u64 = 1 << 50;

/// Most chunks in one tree. Bounds what a small hostile manifest that repeats itself can unfold to (512 MiB).
pub const MAX_FILE_CHUNKS: u64 = 1 << 24;

/// Most files and directories in one tree.
pub const MAX_TREE_ENTRIES: usize = 1_000_000;

/// Most bytes in the paths of one tree, taken together: 268 for each of the most entries. Directories that share what
/// is in them can make more of a few blocks than fits any memory.
pub const MAX_TREE_PATHS_LEN: u64 = 1 << 28;

/// Deepest nesting of directories.
pub const MAX_NESTING: usize = crate::name::MAX_PATH_DEPTH;

/// Version of the format.
pub const FORMAT_VERSION: u64 = 1;

/// Why bytes are no manifest, or a manifest cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// More than [`MAX_BLOCK_LEN`] bytes.
    #[error("a manifest block of {0} bytes; at most {MAX_BLOCK_LEN} are read")]
    TooLong(usize),
    /// Not canonical DAG-CBOR of a block.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A later version of the format.
    #[error("manifest format {0}; this program reads {FORMAT_VERSION}, a newer one may read it")]
    Version(u64),
    /// No kind that is known.
    #[error("manifest block of unknown kind \"{0}\"")]
    Kind(String),
    /// A field that its kind does not have, or lacks.
    #[error("a {kind} block {problem}")]
    Fields {
        /// Kind of the block.
        kind: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A name that no receiver takes.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A path that is too deep or has such a name.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A link of the wrong kind.
    #[error("a link to the wrong kind of content: {0}")]
    Link(#[from] CidError),
    /// Numbers that do not fit each other.
    #[error("{0}")]
    Shape(&'static str),
    /// More of something than is allowed.
    #[error("more than {max} {what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        max: u64,
    },
    /// Bytes that are not those of the CID.
    #[error("the bytes are not those of {0}")]
    WrongBytes(ManifestCid),
    /// A block that nobody asked for.
    #[error("{0} is no part of this manifest")]
    Unexpected(ManifestCid),
    /// A tree that lacks blocks.
    #[error("{0} is missing")]
    Missing(ManifestCid),
}

/// How many children `count` leaves need at `depth` levels of nodes: one root link or entry covers `1024^depth`.
pub(crate) fn leaves_per_child(depth: u8) -> u64 {
    (MAX_CHILDREN as u64).pow(u32::from(depth))
}

/// The smallest depth at which `count` leaves fit, or none within [`MAX_DEPTH`].
pub(crate) fn depth_for(count: u64) -> Option<u8> {
    (0..=MAX_DEPTH).find(|depth| count <= leaves_per_child(*depth) * MAX_CHILDREN as u64)
}
