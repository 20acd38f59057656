//! Rows that are structs. Their encoding is the DAG-CBOR of [`codec`]; a change to one of them
//! is a new version of its table, unless it is a field that is left out where it says what older rows mean.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::cid::ManifestCid;
use crate::codec;
use crate::db::tables::SourceId;
use crate::error::StoreError;
use crate::fsutil::{FileId, FileStamp};
use crate::options::AnnounceScope;
use crate::transfers::SavedTransfer;

/// Whose file a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SourceKind {
    /// The user's own file, never written to and never deleted.
    InPlace,
    /// A copy in `<dir>/blobs`, deleted when no share needs it.
    Blob,
    /// A file of an unfinished download.
    Part,
}

/// A file on disk that holds chunks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceRecord {
    pub(crate) kind: SourceKind,
    /// Absolute path; of a blob only its name in `<dir>/blobs`, so that the data directory can be moved.
    #[serde(with = "serde_bytes")]
    path: Vec<u8>,
    /// A file manifest that lists the chunks; its name may be another one than the file's.
    pub(crate) file: ManifestCid,
    /// Bytes of every chunk but the last.
    pub(crate) chunk_len: u32,
    /// The file when its content was last known to be right. Of a part file only size and identity count.
    pub(crate) stamp: FileStamp,
}

impl SourceRecord {
    pub(crate) fn new(
        kind: SourceKind,
        path: &Path,
        file: ManifestCid,
        chunk_len: u32,
        stamp: FileStamp,
    ) -> Self {
        Self { kind, path: path_bytes(path).to_vec(), file, chunk_len, stamp }
    }

    /// As recorded: relative to the blob directory for a blob.
    pub(crate) fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.path))
    }

    /// The same source, looked at again.
    pub(crate) fn with_stamp(&self, stamp: FileStamp) -> Self {
        Self { stamp, ..self.clone() }
    }

    /// Key in the table of paths. An absolute path begins with `/`, the name of a blob never does.
    pub(crate) fn path_key(&self) -> &[u8] {
        &self.path
    }
}

/// What is known of a share besides its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ShareStatus {
    /// Every chunk was held when last looked at.
    Complete,
    /// A download of it is under way.
    Partial,
    /// A file of it changed or vanished.
    Changed,
}

/// A share: something that was added or is being fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShareRecord {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) files: u64,
    pub(crate) is_dir: bool,
    pub(crate) added_unix: u64,
    pub(crate) status: ShareStatus,
    /// Where it was added from or fetched to.
    paths: Vec<serde_bytes::ByteBuf>,
    /// What of it is announced. Rows of the first layout lack it, and so do those that say the same.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(crate) announce: AnnounceScope,
}

fn is_default(scope: &AnnounceScope) -> bool {
    *scope == AnnounceScope::default()
}

impl ShareRecord {
    /// A complete share that is nowhere yet.
    pub(crate) fn new(name: &str, size: u64, files: u64, is_dir: bool, added_unix: u64) -> Self {
        let (name, status, paths) = (name.to_owned(), ShareStatus::Complete, Vec::new());
        Self { name, size, files, is_dir, added_unix, status, paths, announce: AnnounceScope::default() }
    }

    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.paths.iter().map(|path| bytes_path(path)).collect()
    }

    /// Notes one more place; a place is noted once.
    pub(crate) fn add_path(&mut self, path: &Path) {
        let bytes = path_bytes(path);
        if !self.paths.iter().any(|known| known.as_slice() == bytes) {
            self.paths.push(serde_bytes::ByteBuf::from(bytes));
        }
    }
}

/// The rename that ends a download: noted before it, so that a start after a crash knows whether it happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Finishing {
    /// The part file or part directory that gets its final name.
    pub(crate) part: FileId,
    /// Whether it may replace a file.
    pub(crate) force: bool,
}

/// A download that has not ended yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DownloadRecord {
    pub(crate) root: ManifestCid,
    /// Source of the first file; the others follow in the order of the tree.
    pub(crate) first_source: SourceId,
    pub(crate) files: u64,
    /// Which of the tree's distinct chunks are on the disk at every place they belong: an encoded chunk set
    /// over their first-use order.
    #[serde(with = "serde_bytes")]
    pub(crate) have: Vec<u8>,
    /// Bytes of the output that those chunks make up.
    pub(crate) have_len: u64,
    pub(crate) finishing: Option<Finishing>,
}

/// A peer that other peers' records lead to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ForeignProviderRecord {
    /// Binary peer id.
    #[serde(with = "serde_bytes")]
    pub(crate) peer: Vec<u8>,
    /// Binary multiaddrs.
    pub(crate) addrs: Vec<serde_bytes::ByteBuf>,
}

/// A peer to try after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PeerRecord {
    pub(crate) addrs: Vec<String>,
    pub(crate) last_seen_unix: u64,
}

/// A transfer that goes on after a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TransferRecord {
    link: String,
    out: Option<serde_bytes::ByteBuf>,
    into: Option<serde_bytes::ByteBuf>,
    force: bool,
    peers: Vec<String>,
    bootstrap: Vec<String>,
    timeout_ms: Option<u64>,
    added_unix: u64,
    paused: bool,
    failed: Option<String>,
}

impl From<&SavedTransfer> for TransferRecord {
    fn from(transfer: &SavedTransfer) -> Self {
        let bytes =
            |path: &Option<PathBuf>| path.as_ref().map(|path| serde_bytes::ByteBuf::from(path_bytes(path)));
        Self {
            link: transfer.link.clone(),
            out: bytes(&transfer.out),
            into: bytes(&transfer.into),
            force: transfer.force,
            peers: transfer.peers.clone(),
            bootstrap: transfer.bootstrap.clone(),
            timeout_ms: transfer.timeout_ms,
            added_unix: transfer.added_unix,
            paused: transfer.paused,
            failed: transfer.failed.clone(),
        }
    }
}

impl From<TransferRecord> for SavedTransfer {
    fn from(record: TransferRecord) -> Self {
        let path = |bytes: Option<serde_bytes::ByteBuf>| bytes.map(|bytes| bytes_path(&bytes));
        Self {
            link: record.link,
            out: path(record.out),
            into: path(record.into),
            force: record.force,
            peers: record.peers,
            bootstrap: record.bootstrap,
            timeout_ms: record.timeout_ms,
            added_unix: record.added_unix,
            paused: record.paused,
            failed: record.failed,
        }
    }
}

/// A path as a key or a value.
pub(crate) fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// A path from a key or a value.
pub(crate) fn bytes_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

/// The bytes of a row.
pub(crate) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, StoreError> {
    codec::encode(record).map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// Reads a row; `what` names it in the error.
pub(crate) fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, StoreError> {
    codec::decode_canonical(bytes).map_err(|error| StoreError::Corrupt(format!("{what}: {error}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    /// A share as the first layout wrote it, put together by hand: no word about announcements.
    const OLD_SHARE: &[u8] = b"\xa7\x64name\x61a\x64size\x03\x65files\x01\x65paths\x81\x42/a\x66is_dir\xf4\
        \x66status\x68complete\x6aadded_unix\x07";

    #[test]
    fn a_share_of_the_first_layout_is_announced_whole_and_such_shares_are_still_written_so() {
        let mut share = ShareRecord::new("a", 3, 1, false, 7);
        share.add_path(Path::new("/a"));
        assert_eq!(share.announce, AnnounceScope::All);
        assert_eq!(decode::<ShareRecord>(OLD_SHARE, "share").unwrap(), share);
        assert_eq!(encode(&share).unwrap(), OLD_SHARE);
        for announce in [AnnounceScope::Roots, AnnounceScope::None] {
            let share = ShareRecord { announce, ..share.clone() };
            assert_eq!(decode::<ShareRecord>(&encode(&share).unwrap(), "share").unwrap(), share);
        }
    }
}
