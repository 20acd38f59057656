//! One manifest block: fields, decoding, encoding, and the checks that one block allows.

use cid::Cid;
use serde::{Deserialize, Serialize};

use super::{
    FORMAT_VERSION, MAX_BLOCK_LEN, MAX_CHILDREN, MAX_CHUNK_LEN, MAX_DEPTH, MAX_SIZE, MIN_CHUNK_LEN,
    ManifestError,
};
use crate::{
    cid::{ChunkCid, ManifestCid, shortened},
    codec::{self, bounded_list},
    name::check_name,
};

/// What a file block or file node links to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Links {
    /// Chunks in file order (depth 0).
    Chunks(Vec<ChunkCid>),
    /// File nodes in file order (depth above 0).
    Nodes(Vec<ManifestCid>),
}

/// Root block of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileManifest {
    /// Checked name.
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// Length of every chunk but the last, in bytes.
    pub chunk_len: u32,
    /// Levels of nodes below.
    pub depth: u8,
    /// Chunks or nodes.
    pub links: Links,
}

/// Inner block of a file with more than 1,024 chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileNode {
    /// Bytes below it.
    pub size: u64,
    /// Levels of nodes below.
    pub depth: u8,
    /// Chunks or nodes.
    pub links: Links,
}

/// One file or directory in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Checked name; the same as in the block it links to.
    pub name: String,
    /// Length in bytes; of a directory, of all files below it.
    pub size: u64,
    /// The file or directory.
    #[serde(with = "manifest_link")]
    pub cid: ManifestCid,
    /// Whether it is an executable file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exec: bool,
}

/// What a directory block or directory node holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Children {
    /// Entries sorted by name (depth 0).
    Entries(Vec<Entry>),
    /// Directory nodes in name order (depth above 0).
    Nodes(Vec<ManifestCid>),
}

/// Root block of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirManifest {
    /// Checked name.
    pub name: String,
    /// Bytes of all files below it.
    pub size: u64,
    /// Files below it, at any depth.
    pub files: u64,
    /// Levels of nodes below.
    pub depth: u8,
    /// Entries or nodes.
    pub children: Children,
}

/// Inner block of a directory with more than 1,024 entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirNode {
    /// Bytes of all files below it.
    pub size: u64,
    /// Files below it, at any depth.
    pub files: u64,
    /// Levels of nodes below.
    pub depth: u8,
    /// Entries or nodes.
    pub children: Children,
}

/// A manifest block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    /// Root of a file.
    File(FileManifest),
    /// Inner node of a file.
    FileNode(FileNode),
    /// Root of a directory.
    Dir(DirManifest),
    /// Inner node of a directory.
    DirNode(DirNode),
}

/// The fields as they are written: which of the optional ones are there depends on `kind`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    v: u64,
    kind: String,
    size: u64,
    depth: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chunk_len: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    files: Option<u64>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "bounded_list::<MAX_CHILDREN, _, _>"
    )]
    links: Option<Vec<Cid>>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "bounded_list::<MAX_CHILDREN, _, _>"
    )]
    entries: Option<Vec<Entry>>,
}

/// The one field that every version of the format has.
#[derive(Deserialize)]
struct Format {
    v: u64,
}

const FILE: &str = "file";
const FILE_NODE: &str = "file-node";
const DIR: &str = "dir";
const DIR_NODE: &str = "dir-node";

impl Block {
    /// Decodes a block and checks all that one block shows.
    ///
    /// # Errors
    /// See [`ManifestError`]; never panics, and needs memory in proportion to `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_BLOCK_LEN {
            return Err(ManifestError::TooLong(bytes.len()));
        }
        let fields: Fields = match codec::decode_canonical(bytes) {
            Ok(fields) => fields,
            // A newer format may have fields that this one does not know.
            Err(error) => match codec::peek(bytes) {
                Some(Format { v }) if v != FORMAT_VERSION => return Err(ManifestError::Version(v)),
                _ => return Err(error.into()),
            },
        };
        if fields.v != FORMAT_VERSION {
            return Err(ManifestError::Version(fields.v));
        }
        let block = match fields.kind.as_str() {
            FILE => fields.into_file()?,
            FILE_NODE => fields.into_file_node()?,
            DIR => fields.into_dir()?,
            DIR_NODE => fields.into_dir_node()?,
            other => return Err(ManifestError::Kind(shortened(other, 32))),
        };
        block.check()?;
        Ok(block)
    }

    /// Encodes the block.
    ///
    /// # Errors
    /// As [`Block::decode`] of what would be written: a block that is not valid is never encoded.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        self.check()?;
        let bytes = codec::encode(&self.fields())?;
        if bytes.len() > MAX_BLOCK_LEN {
            return Err(ManifestError::TooLong(bytes.len()));
        }
        Ok(bytes)
    }

    /// The blocks that this one links to.
    pub fn links(&self) -> Vec<ManifestCid> {
        match self {
            Block::File(FileManifest { links: Links::Nodes(nodes), .. })
            | Block::FileNode(FileNode { links: Links::Nodes(nodes), .. })
            | Block::Dir(DirManifest { children: Children::Nodes(nodes), .. })
            | Block::DirNode(DirNode { children: Children::Nodes(nodes), .. }) => nodes.clone(),
            Block::Dir(DirManifest { children: Children::Entries(entries), .. })
            | Block::DirNode(DirNode { children: Children::Entries(entries), .. }) => {
                entries.iter().map(|entry| entry.cid).collect()
            }
            Block::File(_) | Block::FileNode(_) => Vec::new(),
        }
    }

    fn check(&self) -> Result<(), ManifestError> {
        match self {
            Block::File(file) => {
                check_name(&file.name)?;
                let is_fine = file.chunk_len.is_power_of_two()
                    && (MIN_CHUNK_LEN..=MAX_CHUNK_LEN).contains(&file.chunk_len);
                if !is_fine {
                    return Err(fields(
                        FILE,
                        "has a chunk length that is no power of two from 64 KiB to 1 MiB",
                    ));
                }
                check_node(FILE, file.size, file.depth, file.links.len(), file.links.is_nodes())?;
                if (file.links.len() == 0) != (file.size == 0) {
                    return Err(fields(FILE, "has a size that does not fit its links"));
                }
                Ok(())
            }
            Block::FileNode(node) => {
                if node.links.len() == 0 {
                    return Err(fields(FILE_NODE, "has no links"));
                }
                check_node(FILE_NODE, node.size, node.depth, node.links.len(), node.links.is_nodes())
            }
            Block::Dir(dir) => {
                check_name(&dir.name)?;
                check_node(DIR, dir.size, dir.depth, dir.children.len(), dir.children.is_nodes())?;
                dir.children.check()
            }
            Block::DirNode(node) => {
                if node.children.len() == 0 {
                    return Err(fields(DIR_NODE, "has no entries"));
                }
                check_node(DIR_NODE, node.size, node.depth, node.children.len(), node.children.is_nodes())?;
                node.children.check()
            }
        }
    }

    fn fields(&self) -> Fields {
        let empty = Fields {
            v: FORMAT_VERSION,
            kind: String::new(),
            size: 0,
            depth: 0,
            name: None,
            chunk_len: None,
            files: None,
            links: None,
            entries: None,
        };
        match self.clone() {
            Block::File(FileManifest { name, size, chunk_len, depth, links }) => Fields {
                kind: FILE.to_owned(),
                name: Some(name),
                size,
                chunk_len: Some(chunk_len),
                depth,
                links: Some(links.to_cids()),
                ..empty
            },
            Block::FileNode(FileNode { size, depth, links }) => {
                Fields { kind: FILE_NODE.to_owned(), size, depth, links: Some(links.to_cids()), ..empty }
            }
            Block::Dir(DirManifest { name, size, files, depth, children }) => {
                let (links, entries) = children.into_fields();
                let (name, files) = (Some(name), Some(files));
                Fields { kind: DIR.to_owned(), name, size, files, depth, links, entries, ..empty }
            }
            Block::DirNode(DirNode { size, files, depth, children }) => {
                let (links, entries) = children.into_fields();
                Fields { kind: DIR_NODE.to_owned(), size, files: Some(files), depth, links, entries, ..empty }
            }
        }
    }
}

impl Fields {
    fn into_file(self) -> Result<Block, ManifestError> {
        if self.files.is_some() || self.entries.is_some() {
            return Err(fields(FILE, "has a field of a directory"));
        }
        let lacks = || fields(FILE, "lacks a field");
        Ok(Block::File(FileManifest {
            name: self.name.ok_or_else(lacks)?,
            size: self.size,
            chunk_len: self.chunk_len.ok_or_else(lacks)?,
            depth: self.depth,
            links: Links::from_cids(self.depth, &self.links.ok_or_else(lacks)?)?,
        }))
    }

    fn into_file_node(self) -> Result<Block, ManifestError> {
        if self.files.is_some() || self.entries.is_some() || self.name.is_some() || self.chunk_len.is_some() {
            return Err(fields(FILE_NODE, "has a field that it cannot have"));
        }
        let links = self.links.ok_or_else(|| fields(FILE_NODE, "lacks a field"))?;
        let links = Links::from_cids(self.depth, &links)?;
        Ok(Block::FileNode(FileNode { size: self.size, depth: self.depth, links }))
    }

    fn into_dir(self) -> Result<Block, ManifestError> {
        if self.chunk_len.is_some() {
            return Err(fields(DIR, "has a field of a file"));
        }
        let lacks = || fields(DIR, "lacks a field");
        Ok(Block::Dir(DirManifest {
            name: self.name.ok_or_else(lacks)?,
            size: self.size,
            files: self.files.ok_or_else(lacks)?,
            depth: self.depth,
            children: Children::from_fields(DIR, self.depth, self.links, self.entries)?,
        }))
    }

    fn into_dir_node(self) -> Result<Block, ManifestError> {
        if self.chunk_len.is_some() || self.name.is_some() {
            return Err(fields(DIR_NODE, "has a field that it cannot have"));
        }
        Ok(Block::DirNode(DirNode {
            size: self.size,
            files: self.files.ok_or_else(|| fields(DIR_NODE, "lacks a field"))?,
            depth: self.depth,
            children: Children::from_fields(DIR_NODE, self.depth, self.links, self.entries)?,
        }))
    }
}

impl Links {
    fn from_cids(depth: u8, cids: &[Cid]) -> Result<Self, ManifestError> {
        if depth == 0 {
            Ok(Links::Chunks(cids.iter().map(ChunkCid::try_from).collect::<Result<_, _>>()?))
        } else {
            Ok(Links::Nodes(to_manifests(cids)?))
        }
    }

    fn to_cids(&self) -> Vec<Cid> {
        match self {
            Links::Chunks(chunks) => chunks.iter().map(|chunk| chunk.to_cid()).collect(),
            Links::Nodes(nodes) => nodes.iter().map(|node| node.to_cid()).collect(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Links::Chunks(chunks) => chunks.len(),
            Links::Nodes(nodes) => nodes.len(),
        }
    }

    fn is_nodes(&self) -> bool {
        matches!(self, Links::Nodes(_))
    }
}

impl Children {
    fn from_fields(
        kind: &'static str,
        depth: u8,
        links: Option<Vec<Cid>>,
        entries: Option<Vec<Entry>>,
    ) -> Result<Self, ManifestError> {
        match (depth, links, entries) {
            (0, None, Some(entries)) => Ok(Children::Entries(entries)),
            (1.., Some(links), None) => Ok(Children::Nodes(to_manifests(&links)?)),
            _ => Err(fields(kind, "has other children than its depth says")),
        }
    }

    fn into_fields(self) -> (Option<Vec<Cid>>, Option<Vec<Entry>>) {
        match self {
            Children::Entries(entries) => (None, Some(entries)),
            Children::Nodes(nodes) => (Some(nodes.iter().map(|node| node.to_cid()).collect()), None),
        }
    }

    fn len(&self) -> usize {
        match self {
            Children::Entries(entries) => entries.len(),
            Children::Nodes(nodes) => nodes.len(),
        }
    }

    fn is_nodes(&self) -> bool {
        matches!(self, Children::Nodes(_))
    }

    fn check(&self) -> Result<(), ManifestError> {
        let Children::Entries(entries) = self else { return Ok(()) };
        for entry in entries {
            check_name(&entry.name)?;
        }
        let is_sorted =
            entries.windows(2).all(|pair| matches!(pair, [a, b] if a.name.as_bytes() < b.name.as_bytes()));
        if is_sorted { Ok(()) } else { Err(ManifestError::Shape("directory entries are not sorted by name")) }
    }
}

fn check_node(
    kind: &'static str,
    size: u64,
    depth: u8,
    children: usize,
    is_nodes: bool,
) -> Result<(), ManifestError> {
    if size > MAX_SIZE {
        return Err(fields(kind, "is larger than 2^50 bytes"));
    }
    if depth > MAX_DEPTH {
        return Err(fields(kind, "has more levels below it than are allowed"));
    }
    if is_nodes != (depth > 0) {
        return Err(fields(kind, "has other children than its depth says"));
    }
    if children > MAX_CHILDREN {
        return Err(ManifestError::TooMany {
            what: "children in one manifest block",
            max: MAX_CHILDREN as u64,
        });
    }
    Ok(())
}

fn to_manifests(cids: &[Cid]) -> Result<Vec<ManifestCid>, ManifestError> {
    Ok(cids.iter().map(ManifestCid::try_from).collect::<Result<_, _>>()?)
}

fn fields(kind: &'static str, problem: &'static str) -> ManifestError {
    ManifestError::Fields { kind, problem }
}

/// A manifest CID as an IPLD link (tag 42).
mod manifest_link {
    use cid::Cid;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

    use crate::cid::ManifestCid;

    pub(super) fn serialize<S: Serializer>(cid: &ManifestCid, serializer: S) -> Result<S::Ok, S::Error> {
        cid.to_cid().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ManifestCid, D::Error> {
        let cid = Cid::deserialize(deserializer)?;
        ManifestCid::try_from(&cid).map_err(de::Error::custom)
    }
}
