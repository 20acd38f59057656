//! What the tests share: directories, content, and stores that exchange chunks without a network.

use std::fs;
use std::path::{Path, PathBuf};

use dhtfs_store::{
    ChunkCid, ChunkRead, Download, DownloadOptions, ImportOptions, Imported, ManifestCid, OpenOptions,
    ResolvedTree, Store, TreeResolver, Written, no_progress,
};
use tempfile::TempDir;

/// The length of every chunk but the last.
pub(crate) const CHUNK: usize = 1 << 20;

/// Bytes that look random and do not repeat; equal seeds give equal bytes.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A data directory and a place for the user's files beside it.
pub(crate) struct Home {
    dir: TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self::with(tempfile::tempdir().unwrap())
    }

    /// One that lies in memory where the system offers that: for tests that need speed, not a disk.
    pub(crate) fn in_memory() -> Self {
        Self::with(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
    }

    fn with(dir: TempDir) -> Self {
        fs::create_dir(dir.path().join("files")).unwrap();
        Self { dir }
    }

    /// The data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A path among the user's files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("files").join(name)
    }

    /// Opens the store.
    pub(crate) fn open(&self) -> Store {
        Store::open(&self.data(), OpenOptions::default()).unwrap()
    }

    /// Writes a file of the user, with its directories.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }
}

/// Adds in place.
pub(crate) fn add(store: &Store, path: &Path) -> Imported {
    store.import_path(path, &ImportOptions::default(), &no_progress).unwrap()
}

/// Adds a copy.
pub(crate) fn add_copy(store: &Store, path: &Path) -> Imported {
    let options = ImportOptions { copy: true, ..ImportOptions::default() };
    store.import_path(path, &options, &no_progress).unwrap()
}

/// The tree of a share.
pub(crate) fn tree(store: &Store, root: &ManifestCid) -> ResolvedTree {
    store.resolve_local(root).unwrap().unwrap()
}

/// Hands the manifest blocks of a tree from one store to another, as a fetch does.
pub(crate) fn hand_over(from: &Store, to: &Store, root: &ManifestCid) -> ResolvedTree {
    let mut resolver = TreeResolver::new(*root);
    while !resolver.is_complete() {
        let blocks: Vec<_> = resolver
            .needs()
            .into_iter()
            .map(|cid| (cid, from.manifest_block(&cid).unwrap().unwrap()))
            .collect();
        to.put_manifest_blocks(&blocks).unwrap();
        for (cid, block) in &blocks {
            resolver.insert(*cid, block).unwrap();
        }
    }
    resolver.finish().unwrap()
}

/// The bytes of a chunk that must be there.
pub(crate) fn data(store: &Store, cid: &ChunkCid) -> Vec<u8> {
    match store.read_chunk(cid).unwrap() {
        ChunkRead::Data(data) => data,
        other => panic!("chunk {cid}: {other:?}"),
    }
}

/// Every chunk of a tree, read and checked.
pub(crate) fn assert_serves(store: &Store, tree: &ResolvedTree) {
    for (cid, len) in tree.unique_chunks() {
        let data = data(store, &cid);
        assert_eq!(data.len(), len as usize);
        assert!(cid.matches(&data));
    }
}

/// The database agrees with itself.
pub(crate) fn assert_sound(store: &Store) {
    store.check_invariants().unwrap().unwrap();
}

/// Begins a download without force.
pub(crate) fn begin(store: &Store, tree: &ResolvedTree, out: &Path) -> Download {
    store.begin_download(tree, out, DownloadOptions::default()).unwrap()
}

/// Fetches up to `max` of the missing chunks; returns how many there were.
pub(crate) fn fetch(download: &Download, from: &Store, max: usize) -> usize {
    let missing = download.missing();
    let wanted = missing.len().min(max);
    for (cid, _) in missing.into_iter().take(max) {
        assert_eq!(download.write(&cid, &data(from, &cid)).unwrap(), Written::Stored);
    }
    wanted
}

/// Fetches everything and finishes.
pub(crate) fn get(from: &Store, to: &Store, root: &ManifestCid, out: &Path) -> PathBuf {
    let tree = hand_over(from, to, root);
    let download = begin(to, &tree, out);
    fetch(&download, from, usize::MAX);
    download.finish().unwrap()
}

/// Every file below a directory with its content, sorted, by relative path; directories end in `/`.
pub(crate) fn listing(dir: &Path) -> Vec<(String, Vec<u8>)> {
    fn visit(base: &Path, dir: &Path, list: &mut Vec<(String, Vec<u8>)>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(base).unwrap().to_str().unwrap().to_owned();
            if path.is_dir() {
                list.push((name + "/", Vec::new()));
                visit(base, &path, list);
            } else {
                list.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    let mut list = Vec::new();
    visit(dir, dir, &mut list);
    list.sort();
    list
}
