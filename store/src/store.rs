//! The handle on a data directory.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::blobs::Blobs;
use crate::cache::SourceCache;
use crate::chunks::Withdrawal;
use crate::cid::ManifestCid;
use crate::db::Db;
use crate::db::content::{self, resolve};
use crate::db::records::{SourceKind, SourceRecord};
use crate::db::tables::{MANIFESTS, Tables};
use crate::disk::{Disk, RealDisk};
use crate::download::{self, DownloadState};
use crate::error::{FileError, OpenError, StoreError};
use crate::foreign;
use crate::fsutil::create_private_dir;
use crate::hasher;
use crate::lock::{self, DirLock};
use crate::manifest::ResolvedTree;
use crate::options::OpenOptions;

/// Everything this machine holds: which files are shared, where their chunks lie, what is being fetched.
///
/// Cheap to clone; every clone is the same store. All methods may be called from any thread and may wait for
/// the disk, so call them where waiting is allowed. The data directory belongs to one process at a time and
/// is given free when the last clone and the last [`Download`](crate::Download) are dropped.
///
/// What is acknowledged stays: an import or a committed chunk is on the disk when the call returns, whatever
/// happens to the process or the power afterwards. What is not acknowledged has either happened wholly or not
/// at all.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

/// What the clones of a store share. The lock is the last field, so that it is given up last.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) threads: usize,
    pub(crate) db: Db,
    pub(crate) blobs: Blobs,
    pub(crate) cache: SourceCache,
    /// Downloads that somebody has a handle on, by output.
    pub(crate) downloads: Mutex<HashMap<PathBuf, Weak<DownloadState>>>,
    /// Withdrawals nobody has been told of yet.
    pub(crate) untold: Mutex<Vec<Withdrawal>>,
    _lock: DirLock,
}

impl Store {
    /// Opens the store in `dir`, making directory (mode 0700) and database (0600) if there are none, and
    /// brings to an end what a crash interrupted.
    ///
    /// # Errors
    /// [`OpenError::Busy`] if another process, or another handle in this one, has it open.
    /// [`OpenError::Newer`] if a newer program wrote it; nothing in it is changed then.
    /// [`OpenError::Corrupt`] if the database is damaged.
    pub fn open(dir: &Path, options: OpenOptions) -> Result<Self, OpenError> {
        let OpenOptions { threads, disk, db_cache_len } = options;
        create_private_dir(&*disk, dir)?;
        let dir = disk.canonicalize(dir).map_err(|source| FileError::new("open", dir, source))?;
        let lock = DirLock::acquire(&*disk, &dir)?;
        let db = Db::open(&disk, &dir, db_cache_len)?;
        let blobs = Blobs::open(&disk, &dir)?;
        let store = Self {
            inner: Arc::new(Inner {
                dir,
                threads: hasher::thread_count(&*disk, threads),
                disk,
                db,
                blobs,
                cache: SourceCache::new(),
                downloads: Mutex::default(),
                untold: Mutex::default(),
                _lock: lock,
            }),
        };
        download::recover_all(&store)?;
        Ok(store)
    }

    /// The data directory, absolute and without links.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The id of the process that has the store in `dir` open; `None` if nobody has, or the owner could not
    /// be told. Looks at the real disk.
    #[must_use]
    pub fn lock_holder(dir: &Path) -> Option<u32> {
        lock::holder(&RealDisk, dir)
    }

    /// The bytes of a manifest block, if it is here.
    ///
    /// # Errors
    /// If the database fails.
    pub fn manifest_block(&self, cid: &ManifestCid) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.db.read(|txn| {
            let manifests = txn.open_table(MANIFESTS)?;
            Ok(manifests.get(cid.digest())?.map(|block| block.value().to_vec()))
        })
    }

    /// Keeps manifest blocks that were fetched. Nothing pins them: a collection may drop them, and so may a
    /// crash before the next import or download begins; both can be healed by fetching them again.
    ///
    /// # Errors
    /// [`StoreError::BadManifestHash`] if the bytes of any block do not belong to its CID; none is
    /// stored then.
    pub fn put_manifest_blocks(&self, blocks: &[(ManifestCid, Vec<u8>)]) -> Result<(), StoreError> {
        if let Some((cid, _)) = blocks.iter().find(|(cid, block)| !cid.matches(block)) {
            return Err(StoreError::BadManifestHash(*cid));
        }
        self.inner.db.write_cached(|txn| Tables::open(txn)?.put_manifests(blocks))
    }

    /// The tree below `root`, if all its manifest blocks are here.
    ///
    /// # Errors
    /// [`StoreError::Manifest`] if the blocks are no valid tree.
    pub fn resolve_local(&self, root: &ManifestCid) -> Result<Option<ResolvedTree>, StoreError> {
        self.inner.db.read(|txn| {
            let manifests = txn.open_table(MANIFESTS)?;
            Ok(resolve(&manifests, *root)?.ok().map(|local| local.tree))
        })
    }

    /// Compares the rows of the database with each other; the answer names the first contradiction. Reads all
    /// of them: meant for tests and for diagnosis.
    ///
    /// # Errors
    /// If the database fails.
    pub fn check_invariants(&self) -> Result<Result<(), String>, StoreError> {
        self.inner.db.write(|txn| match content::check(&Tables::open(txn)?)? {
            Ok(()) => foreign::check(txn),
            broken => Ok(broken),
        })
    }
}

impl Inner {
    /// Where the file of a source is.
    pub(crate) fn source_path(&self, record: &SourceRecord) -> PathBuf {
        match record.kind {
            SourceKind::Blob => self.blobs.path(record.path()),
            SourceKind::InPlace | SourceKind::Part => record.path().to_owned(),
        }
    }

    /// Keeps withdrawals until somebody asks.
    pub(crate) fn tell_later(&self, withdrawals: impl IntoIterator<Item = Withdrawal>) {
        lock(&self.untold).extend(withdrawals);
    }
}

/// Locks a mutex. A panic of another thread while it had the lock is no reason to stop: nothing in this
/// package leaves data behind a mutex half-changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
