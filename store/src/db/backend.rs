//! What redb reads and writes through: on the real disk its own backend, on any other disk the disk's file.

use std::io;
use std::path::Path;
use std::sync::Arc;

use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, StorageBackend};

use crate::disk::real::RealFile;
use crate::disk::{Disk, DiskFile, OpenMode};

/// A database in a file of any disk. It takes no lock: the owner of the data directory's lock is the only one
/// who opens the database.
#[derive(Debug)]
struct DiskBackend(Arc<dyn DiskFile>);

impl StorageBackend for DiskBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

/// Makes a database in an empty file.
pub(super) fn create(builder: &Builder, file: &Arc<dyn DiskFile>) -> Result<Database, DatabaseError> {
    match file.as_any().downcast_ref::<RealFile>() {
        Some(real) => builder.create_with_backend(FileBackend::new(real.file().try_clone()?)?),
        None => builder.create_with_backend(DiskBackend(file.clone())),
    }
}

/// Opens the database in a file. An empty file is none.
pub(super) fn open(builder: &Builder, disk: &dyn Disk, path: &Path) -> Result<Database, DatabaseError> {
    let file = disk.open(path, OpenMode::ReadWrite)?;
    if file.metadata()?.len == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty").into());
    }
    create(builder, &file)
}
