//! What can go wrong, one enum per operation. Every message is one line: what happened to what, why, and
//! where it is not obvious, what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::cid::{ChunkCid, ManifestCid};
use crate::manifest::ManifestError;
use crate::name::NameError;

/// A failed operation on a file.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct FileError {
    /// What was tried, as a verb: "read", "create".
    pub action: &'static str,
    /// The file or directory it was tried on.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

impl FileError {
    pub(crate) fn new(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self { action, path: path.to_owned(), source: source.into() }
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another process owns the data directory.
    #[error(
        "the data directory {} is in use by {}; stop it or choose another directory",
        dir.display(),
        pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Busy {
        /// Id of the owner, when it could be read.
        pid: Option<u32>,
        /// The data directory.
        dir: PathBuf,
    },
    /// A newer version of the program wrote this store; nothing in it was changed.
    #[error(
        "the store has schema version {found}, this program knows {supported} at most; use the newer program"
    )]
    Newer {
        /// Version found in the store.
        found: u64,
        /// Newest version this program can read.
        supported: u64,
    },
    /// The database file is no database, or it is damaged.
    #[error(
        "the database {} is damaged ({reason}); move it away and add the files again",
        path.display()
    )]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// What the database says about it.
        reason: String,
    },
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] FileError),
    /// The database opened, but work on it failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an operation on an open store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The database reported an error. After an I/O error it is opened anew by the next operation; everything
    /// that was acknowledged is still there.
    #[error("the store's database failed: {0}; check the disk and its free space, then try again")]
    Database(#[from] Box<redb::Error>),
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] FileError),
    /// A database row does not decode.
    #[error("the store's database holds a damaged row: {0}; move it away and add the files again")]
    Corrupt(String),
    /// A manifest block was refused.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The bytes of a manifest block do not belong to its CID.
    #[error("the bytes given for manifest {0} have another hash; fetch them again")]
    BadManifestHash(ManifestCid),
    /// A setting's key or value is too long.
    #[error("setting {key:?} is too long; a key has at most {max_key_len} bytes, a value {max_value_len}")]
    SettingTooLong {
        /// The refused key.
        key: String,
        /// Longest key in bytes.
        max_key_len: usize,
        /// Longest value in bytes.
        max_value_len: usize,
    },
    /// There is no room for another transfer.
    #[error(
        "{max} transfers are kept already; wait until one is done, or abort one (`dhtfs transfers` lists them)"
    )]
    TooManyTransfers {
        /// How many are kept at most.
        max: usize,
    },
}

macro_rules! store_error_from_redb {
    ($($error:ty),*) => {$(
        impl From<$error> for StoreError {
            fn from(error: $error) -> Self {
                Self::Database(Box::new(error.into()))
            }
        }
    )*};
}
store_error_from_redb!(
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    redb::SetDurabilityError
);

/// Why an import stored nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] FileError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name cannot stand in a manifest.
    #[error("cannot add {}: {source}; rename it", path.display())]
    Name {
        /// File or directory with that name.
        path: PathBuf,
        /// What is wrong with the name.
        source: NameError,
    },
    /// A name is not UTF-8.
    #[error("cannot add {}: the name is not UTF-8; rename it", path.display())]
    NotUtf8 {
        /// File or directory with that name.
        path: PathBuf,
    },
    /// The argument has no name of its own, like `/`.
    #[error("cannot add {}: it has no name; give one", path.display())]
    NoName {
        /// The argument.
        path: PathBuf,
    },
    /// The argument is neither a file nor a directory.
    #[error("cannot add {}: it is neither a file nor a directory", path.display())]
    Special {
        /// The argument.
        path: PathBuf,
    },
    /// A file changed between the first and the last look at it.
    #[error("{} changed while it was being read; add it again when nothing writes to it", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The path holds the store itself, or is a part of it.
    #[error("cannot add {}: the data directory of this store, with its key, is in it or above it; add something else", path.display())]
    HoldsStore {
        /// The argument.
        path: PathBuf,
    },
    /// The file is being fetched right now.
    #[error("cannot add {}: it is being fetched; wait until the fetch is done", path.display())]
    BeingFetched {
        /// The unfinished file.
        path: PathBuf,
    },
    /// The directory is too big for one share.
    #[error("cannot add {}: more than {max} {what}; add its parts", path.display())]
    TooMany {
        /// File or directory where the limit was passed.
        path: PathBuf,
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        max: u64,
    },
    /// The content does not fit a manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The caller's progress function asked to stop.
    #[error("stopped")]
    Cancelled,
}

/// Why a download could not begin, go on or finish.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// Something is in the way of the output.
    #[error("{} exists; move it away, choose another output, or use --force", .0.display())]
    Exists(PathBuf),
    /// The file system has not enough room.
    #[error("no space left: {need} bytes are needed, {have} are free; make room and run it again")]
    NoSpace {
        /// Bytes still to be written.
        need: u64,
        /// Bytes the file system has for this user.
        have: u64,
    },
    /// A component of the path under the output is not the directory or file this download made.
    #[error("{} is not what this download made (a link or another kind of file); move it away", .0.display())]
    OutsideTarget(PathBuf),
    /// A part file was removed, replaced, or given another length by another program.
    #[error("{} was changed by another program while it was fetched; run it again", .0.display())]
    Spoiled(PathBuf),
    /// Another download writes to the same output, in this process or another one.
    #[error("{} is being fetched already; wait for it or choose another output", .0.display())]
    InProgress(PathBuf),
    /// A manifest block of the tree is not in the store.
    #[error("manifest {0} is not in the store; put it there before the download begins")]
    MissingManifest(ManifestCid),
    /// The download was asked to finish before it had everything.
    #[error("{missing} chunks are still missing; fetch them first")]
    Incomplete {
        /// Distinct chunks not yet held.
        missing: usize,
    },
    /// The chunk is no part of this download.
    #[error("chunk {0} is no part of this download")]
    NotInTree(ChunkCid),
    /// The share was removed while the download ran.
    #[error("the share was removed; begin the download again")]
    Removed,
    /// The output path has no file name, like `/`.
    #[error("{} names no file; give an output with a name", .0.display())]
    NoName(PathBuf),
    /// The caller's progress function asked to stop.
    #[error("stopped")]
    Cancelled,
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] FileError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a comparison of files with a manifest gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] FileError),
    /// The caller's progress function asked to stop.
    #[error("stopped")]
    Cancelled,
}
