//! The disks of machines: in memory, with the places of things.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use dhtfs_store::{
    OpenError, OpenOptions, Store,
    disk::{MemoryDisk, PagePool},
};

use crate::clock;

/// Where the store is.
const STORE: &str = "/dhtfs";

/// Room for pages of the database. Hundreds of stores share one process, and their disks are in memory anyway.
const DB_CACHE_LEN: usize = 64 << 10;

/// Where the user's files are.
const FILES: &str = "/files";

/// A disk with an empty directory for the user's files; its times are simulated.
///
/// # Errors
/// If the directory cannot be made.
pub(crate) fn new(pool: &PagePool) -> io::Result<MemoryDisk> {
    let now = Arc::new(|| Duration::from_secs(clock::EPOCH_SECS) + clock::elapsed());
    let disk = MemoryDisk::new(now, pool.clone(), None);
    let mount = disk.mount();
    mount.create_private_dir(FILES.as_ref())?;
    mount.open_dir("/".as_ref())?.sync_fs()?;
    Ok(disk)
}

/// Opens the store on a disk.
///
/// # Errors
/// As [`Store::open`].
pub(crate) fn open_store(disk: &MemoryDisk) -> Result<Store, OpenError> {
    let options = OpenOptions { threads: None, disk: disk.mount(), db_cache_len: DB_CACHE_LEN };
    Store::open(STORE.as_ref(), options)
}

/// Where a file of the user is.
pub(crate) fn file(name: &str) -> PathBuf {
    PathBuf::from(FILES).join(name)
}

/// The directory of the user's files.
pub(crate) fn files() -> PathBuf {
    FILES.into()
}
