//! The database: one redb file, `<dir>/store.redb`, owned by the holder of the directory's lock.
//!
//! What a crash can do to it, and why it does no harm:
//! - While it is being made, it has a temporary name. It gets its real name only when its first transaction,
//!   which notes the schema version, is on the disk. A leftover under the temporary name is thrown away.
//! - A transaction happens wholly or not at all. Commits have two phases, because what is stored is chosen by
//!   strangers in part (see `redb::WriteTransaction::set_two_phase_commit`).
//! - After a failed write (a full disk), redb refuses to go on until the file is opened anew. The next
//!   operation does that, so a store works again as soon as the disk does.

mod backend;
pub(crate) mod content;
pub(crate) mod migrate;
mod probe;
pub(crate) mod records;
pub(crate) mod schedule;
pub(crate) mod tables;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use redb::{
    Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase, StorageError, WriteTransaction,
};

use crate::disk::{Disk, OpenMode};
use crate::error::{FileError, OpenError, StoreError};
use crate::fsutil::{create_private_file, exists, remove_file_if_there, sync_dir};
use probe::ProbeBackend;
use tables::Tables;

/// Name of the database file in the data directory.
const DB_NAME: &str = "store.redb";
/// Its name until it is whole.
const NEW_DB_NAME: &str = "store.redb.new";

/// Memory for database pages while a database is made or looked into, in bytes.
const CREATE_CACHE_LEN: usize = 1 << 20;

/// Every so many commits that need not last, one lasts all the same: redb keeps the pages of those before it in
/// memory.
const CACHED_PER_SYNC: u32 = 64;

/// The open database.
#[derive(Debug)]
pub(crate) struct Db {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    cache_len: usize,
    /// `None` only between a failed write and the next successful opening. Every transaction holds the lock
    /// shared, so nobody opens the file anew under another's feet.
    inner: RwLock<Option<Database>>,
    /// Set after an I/O error: the next operation opens the file anew.
    is_broken: AtomicBool,
    /// Counts the commits that need not last.
    cached: AtomicU32,
    changed: Changed,
}

/// Who is told of changes of content.
#[derive(Default)]
struct Changed(OnceLock<Box<dyn Fn() + Send + Sync>>);

impl std::fmt::Debug for Changed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Changed").field(&self.0.get().is_some()).finish()
    }
}

impl Db {
    /// Opens the database in `dir`, making it if there is none. The caller holds the lock of `dir`.
    pub(crate) fn open(disk: &Arc<dyn Disk>, dir: &Path, cache_len: usize) -> Result<Self, OpenError> {
        let disk = disk.clone();
        let path = dir.join(DB_NAME);
        let new_path = dir.join(NEW_DB_NAME);
        remove_file_if_there(&*disk, &new_path)?;
        let is_there = exists(&*disk, &path).map_err(|source| FileError::new("look up", &path, source))?;
        if is_there {
            migrate::check_version(&path, probe_version(&*disk, &path)?)?;
        } else {
            create(&*disk, &new_path)?;
            disk.rename(&new_path, &path).map_err(|source| FileError::new("rename", &new_path, source))?;
            sync_dir(&*disk, dir)?;
        }
        let database =
            backend::open(&builder(cache_len), &*disk, &path).map_err(|error| open_error(&path, error))?;
        let (inner, is_broken) = (RwLock::new(Some(database)), AtomicBool::new(false));
        let db = Self {
            disk,
            path,
            cache_len,
            inner,
            is_broken,
            cached: AtomicU32::new(0),
            changed: Changed::default(),
        };
        migrate::migrate(&db)?;
        Ok(db)
    }

    /// Runs `work` on a snapshot. Readers block neither each other nor a writer. Never call another method of
    /// `Db` inside `work`.
    pub(crate) fn read<T>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let inner = self.healthy()?;
        let database = inner.as_ref().ok_or_else(broken)?;
        self.watch(database.begin_read().map_err(Into::into).and_then(|txn| work(&txn)))
    }

    /// Runs `work` in a transaction and commits it to the disk; if `work` fails, nothing has happened. One
    /// writer at a time; others wait. Never call another method of `Db` inside `work`.
    pub(crate) fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.transact(Durability::Immediate, work)
    }

    /// Like [`Self::write`], for changes of content: what they mean for the schedule of announcements is part of the
    /// transaction.
    pub(crate) fn change<T>(
        &self,
        work: impl FnOnce(&mut Tables<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let value = self.write(|txn| {
            let mut tables = Tables::open(txn)?;
            let value = work(&mut tables)?;
            tables.settle()?;
            Ok(value)
        })?;
        if let Some(tell) = self.changed.0.get() {
            tell();
        }
        Ok(value)
    }

    /// Calls `tell` after each [`Self::change`] from now on. The first caller is the only one.
    pub(crate) fn on_change(&self, tell: Box<dyn Fn() + Send + Sync>) {
        // A second one would be a mistake of the program; what is told stays true.
        let _ = self.changed.0.set(tell);
    }

    /// Like [`Self::write`], but what it writes may be gone after a crash, until any later [`Self::write`]
    /// has committed, or [`CACHED_PER_SYNC`] of these. For data that can be fetched again.
    pub(crate) fn write_cached<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let number = self.cached.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let lasts = number.is_multiple_of(CACHED_PER_SYNC);
        self.transact(if lasts { Durability::Immediate } else { Durability::None }, work)
    }

    fn transact<T>(
        &self,
        durability: Durability,
        work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let inner = self.healthy()?;
        let database = inner.as_ref().ok_or_else(broken)?;
        let run = || {
            let mut txn = database.begin_write()?;
            txn.set_durability(durability)?;
            txn.set_two_phase_commit(true);
            let value = work(&txn)?;
            txn.commit()?;
            Ok(value)
        };
        self.watch(run())
    }

    /// Notes when the database can go on only after being opened anew.
    fn watch<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::Database(error)) = &result
            && matches!(**error, redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::DatabaseClosed)
        {
            self.is_broken.store(true, Ordering::Release);
        }
        result
    }

    /// The database, opened anew if the last operation on it broke it.
    fn healthy(&self) -> Result<RwLockReadGuard<'_, Option<Database>>, StoreError> {
        if self.is_broken.load(Ordering::Acquire) {
            let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
            if self.is_broken.load(Ordering::Acquire) {
                // Closed before it is opened: redb itself allows one owner of the file.
                *inner = None;
                let database = backend::open(&builder(self.cache_len), &*self.disk, &self.path)
                    .map_err(|error| Box::new(redb::Error::from(error)))?;
                *inner = Some(database);
                self.is_broken.store(false, Ordering::Release);
            }
        }
        Ok(self.inner.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn broken() -> StoreError {
    StoreError::Database(Box::new(redb::Error::PreviousIo))
}

fn builder(cache_len: usize) -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(cache_len);
    builder
}

/// Makes a whole, synced database at `path`.
fn create(disk: &dyn Disk, path: &Path) -> Result<(), OpenError> {
    let file = create_private_file(disk, path)?;
    let database =
        backend::create(&builder(CREATE_CACHE_LEN), &file).map_err(|error| open_error(path, error))?;
    let fill = || {
        let mut txn = database.begin_write()?;
        txn.set_two_phase_commit(true);
        tables::create_all(&txn, migrate::SCHEMA)?;
        Ok::<_, StoreError>(txn.commit()?)
    };
    fill()?;
    drop(database);
    file.sync_all().map_err(|source| FileError::new("sync", path, source))?;
    Ok(())
}

/// The schema version of the database at `path`, whose file is only read.
fn probe_version(disk: &dyn Disk, path: &Path) -> Result<Option<u64>, OpenError> {
    let error = |source| FileError::new("open", path, source);
    let file = disk.open(path, OpenMode::Read).map_err(error)?;
    let len = file.metadata().map_err(error)?.len;
    if len == 0 {
        // redb would take this for a new database and fill it.
        return Err(OpenError::Corrupt { path: path.to_owned(), reason: "the file is empty".to_owned() });
    }
    let backend = ProbeBackend::new(file).map_err(error)?;
    let database =
        builder(CREATE_CACHE_LEN).create_with_backend(backend).map_err(|error| open_error(path, error))?;
    let version = || Ok::<_, StoreError>(tables::schema_version(&database.begin_read()?)?);
    version().map_err(|error| OpenError::Corrupt { path: path.to_owned(), reason: error.to_string() })
}

fn open_error(path: &Path, error: DatabaseError) -> OpenError {
    match error {
        DatabaseError::Storage(StorageError::Io(source)) if source.raw_os_error().is_some() => {
            FileError::new("open", path, source).into()
        }
        other => OpenError::Corrupt { path: path.to_owned(), reason: other.to_string() },
    }
}
