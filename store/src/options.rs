//! What callers choose, and how they watch a long operation.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::disk::{Disk, RealDisk};

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Threads that hash; `None` takes as many as the machine offers. One thread means that the store starts
    /// none of its own, and so does a disk on which work is not to be shared out ([`Disk::threads`]).
    pub threads: Option<NonZeroUsize>,
    /// The disk that everything is on: the data directory, files that are added, outputs of downloads.
    pub disk: Arc<dyn Disk>,
    /// Most memory for database pages, in bytes. Pages are read again when it is full, so it can be as small as one
    /// likes.
    pub db_cache_len: usize,
}

/// redb's own default for [`OpenOptions::db_cache_len`] of 1 GiB is meant for a machine that does nothing else;
/// the system has the file in its own cache anyway, and what lies here is copied and counts as this process's memory.
/// 8 MiB hold the upper levels of every table and the locations of some 75,000 chunks (75 GiB of shares).
pub const DEFAULT_DB_CACHE_LEN: usize = 8 << 20;

impl Default for OpenOptions {
    /// The real disk, all cores, and [`DEFAULT_DB_CACHE_LEN`].
    fn default() -> Self {
        Self { threads: None, disk: Arc::new(RealDisk), db_cache_len: DEFAULT_DB_CACHE_LEN }
    }
}

/// Which keys of a share are announced in the DHT. A key that several shares hold is announced if one of them asks
/// for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AnnounceScope {
    /// Everything that is held of it: every manifest block and every chunk. A peer that has only some chunks is found,
    /// and so is a chunk that is in many files.
    #[default]
    All,
    /// Only its root. One record instead of one for each MiB; whoever knows the CID finds it, but nobody who looks for
    /// a part of it does.
    Roots,
    /// Nothing. It is served to who knows this peer.
    None,
}

/// How a file, a directory or a stream is added.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Take the data into the store (a reflink where the file system can) instead of seeding it in place.
    pub copy: bool,
    /// Name in the manifest; `None` takes the file's own name, for a stream [`DEFAULT_STREAM_NAME`].
    pub name: Option<String>,
    /// Seconds since 1970 noted as the time of the addition.
    pub now_unix: u64,
    /// What of it is announced. `None` leaves a share that is there already as it is; a new one is announced whole.
    pub announce: Option<AnnounceScope>,
}

/// Name of a stream that was given none.
pub const DEFAULT_STREAM_NAME: &str = "stdin";

/// How a download writes its output.
#[derive(Clone, Copy, Debug, Default)]
pub struct DownloadOptions {
    /// Replace an existing file at the output, and take over a part file of something else. An existing
    /// directory that is not empty is never replaced.
    pub force: bool,
    /// Seconds since 1970 noted as the time of the addition.
    pub now_unix: u64,
    /// What of it is announced. `None` leaves a share that is there already as it is; a new one is announced whole.
    pub announce: Option<AnnounceScope>,
}

/// How far an operation has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes done.
    pub done_len: u64,
    /// Bytes in all; for a stream what has been read so far.
    pub total_len: u64,
}

/// Called from several threads, after every chunk. `Break` stops the operation with its `Cancelled` error.
pub type ProgressFn<'a> = &'a (dyn Fn(Progress) -> ControlFlow<()> + Sync);

/// A [`ProgressFn`] for callers that do not watch.
pub fn no_progress(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// The caller's progress function asked to stop.
#[derive(Debug)]
pub(crate) struct Cancelled;

/// Adds up what several threads have done and tells the caller.
pub(crate) struct Tally<'a> {
    done_len: AtomicU64,
    total_len: AtomicU64,
    progress: ProgressFn<'a>,
}

impl<'a> Tally<'a> {
    pub(crate) fn new(total_len: u64, progress: ProgressFn<'a>) -> Self {
        Self { done_len: AtomicU64::new(0), total_len: AtomicU64::new(total_len), progress }
    }

    /// Notes that the operation is `len` bytes longer than known so far.
    pub(crate) fn grow(&self, len: u64) {
        self.total_len.fetch_add(len, Ordering::Relaxed);
    }

    /// Notes `len` more bytes done.
    pub(crate) fn add(&self, len: u64) -> Result<(), Cancelled> {
        let done_len = self.done_len.fetch_add(len, Ordering::Relaxed).saturating_add(len);
        let total_len = self.total_len.load(Ordering::Relaxed);
        match (self.progress)(Progress { done_len, total_len }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Cancelled),
        }
    }
}
