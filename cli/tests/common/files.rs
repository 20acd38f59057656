//! Files: pseudo-random content, and looking at what arrived without the program's help.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use rustix::fs::SeekFrom;
use sha2::{Digest, Sha256};

use super::MIB;

/// Length in bytes of the chunks the program cuts.
pub(crate) const CHUNK_LEN: usize = 1 << 20;

/// Endless pseudo-random bytes: splitmix64, which repeats no number before 2^64 of them, so no chunk either.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, buffer: &mut [u8]) {
        for word in buffer.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let bytes = (z ^ (z >> 31)).to_le_bytes();
            word.copy_from_slice(&bytes[..word.len()]);
        }
    }
}

/// `len` pseudo-random bytes; other seeds give other bytes.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Noise(seed << 40).fill(&mut bytes);
    bytes
}

/// Writes a file of `len` pseudo-random bytes, every chunk another; returns its SHA-256.
pub(crate) fn write_noise(path: &Path, seed: u64, len: u64) -> String {
    let mut noise = Noise(seed << 40);
    let mut file = File::create(path).unwrap();
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK_LEN];
    let mut left = len;
    while left > 0 {
        let part = &mut buffer[..usize::try_from(left.min(MIB)).unwrap()];
        noise.fill(part);
        hash.update(&part);
        file.write_all(part).unwrap();
        left -= part.len() as u64;
    }
    HEXLOWER.encode(&hash.finalize())
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}

pub(crate) fn sha256_file(path: &Path) -> String {
    let mut file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK_LEN];
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return HEXLOWER.encode(&hash.finalize()),
            len => hash.update(&buffer[..len]),
        }
    }
}

/// The CID of a chunk, computed here: version 1, codec raw, SHA-256 of 32 bytes, in lower-case base32.
pub(crate) fn chunk_cid(chunk: &[u8]) -> String {
    let mut bytes = vec![0x01, 0x55, 0x12, 0x20];
    bytes.extend(Sha256::digest(chunk));
    format!("b{}", BASE32_NOPAD.encode(&bytes).to_lowercase())
}

/// Bytes of a file that have been written; what is only reserved or skipped does not count.
pub(crate) fn data_len(path: &Path) -> u64 {
    let Ok(file) = File::open(path) else { return 0 };
    let (mut at, mut sum) = (0, 0);
    while let Ok(start) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
        let Ok(end) = rustix::fs::seek(&file, SeekFrom::Hole(start)) else { break };
        sum += end - start;
        at = end;
    }
    sum
}

/// Bytes of disk a file takes up.
pub(crate) fn allocated_len(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

/// Bytes `offset..offset + len` of a file.
pub(crate) fn range_of(path: &Path, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    File::open(path).unwrap().read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

/// Bytes in those chunks of a part file that are already as in the whole file.
pub(crate) fn equal_chunks_len(part: &Path, whole: &Path) -> u64 {
    let (part, whole) = (File::open(part).unwrap(), File::open(whole).unwrap());
    let len = whole.metadata().unwrap().len();
    let (mut ours, mut theirs) = (vec![0; CHUNK_LEN], vec![0; CHUNK_LEN]);
    let mut equal_len = 0;
    for offset in (0..len).step_by(CHUNK_LEN) {
        let chunk_len = usize::try_from((len - offset).min(MIB)).unwrap();
        let (ours, theirs) = (&mut ours[..chunk_len], &mut theirs[..chunk_len]);
        whole.read_exact_at(theirs, offset).unwrap();
        if part.read_exact_at(ours, offset).is_ok() && ours == theirs {
            equal_len += chunk_len as u64;
        }
    }
    equal_len
}

/// What a path is, as far as a share keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    Dir,
    File { digest: String, is_executable: bool },
    Other,
}

/// Everything below a directory by its relative path.
pub(crate) fn tree(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let entry = if meta.is_dir() {
                waiting.push(path.clone());
                Entry::Dir
            } else if meta.is_file() {
                let is_executable = meta.permissions().mode() & 0o100 != 0;
                Entry::File { digest: sha256_file(&path), is_executable }
            } else {
                Entry::Other
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), entry);
        }
    }
    found
}
