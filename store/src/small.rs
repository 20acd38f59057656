//! Files of at most one chunk: read whole, written whole.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, OpenMode, RealDisk};
use crate::error::{DownloadError, FileError};
use crate::fsutil::{file_name, is_no_space, open_regular, remove_file_if_there, sync_dir};
use crate::manifest::MAX_CHUNK_LEN;
use crate::store::Store;

/// Files that crashes may have left beside an output before it is given up.
const MAX_LEFTOVERS: u32 = 100;

impl Store {
    /// Like [`read_small_file`], on the disk of this store.
    ///
    /// # Errors
    /// As for [`read_small_file`].
    pub fn read_small_file(&self, path: &Path) -> Result<Option<Vec<u8>>, FileError> {
        read(&*self.inner.disk, path)
    }

    /// Like [`write_file`], on the disk of this store.
    ///
    /// # Errors
    /// As for [`write_file`].
    pub fn write_file(&self, path: &Path, data: &[u8], force: bool) -> Result<(), DownloadError> {
        write(&*self.inner.disk, path, data, force)
    }
}

/// Reads a file that may be a chunk; `None` if it is longer than a chunk can be.
///
/// # Errors
/// [`FileError`] if it cannot be read or is no regular file.
pub fn read_small_file(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    read(&RealDisk, path)
}

/// Writes a file so that it is there whole or not at all: under a name of its own, synced, then renamed. With
/// `force` an existing file is replaced.
///
/// # Errors
/// [`DownloadError::Exists`], [`DownloadError::NoSpace`], [`DownloadError::NoName`], or [`DownloadError::Io`].
pub fn write_file(path: &Path, data: &[u8], force: bool) -> Result<(), DownloadError> {
    write(&RealDisk, path, data, force)
}

fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let fail = |source| FileError::new("read", path, source);
    let (file, stamp) = open_regular(disk, path).map_err(fail)?;
    let max = MAX_CHUNK_LEN as usize;
    // One byte more than the file should have shows that there is more.
    let mut data = vec![0; usize::try_from(stamp.size()).unwrap_or(max).min(max) + 1];
    let mut len = 0;
    loop {
        let rest = data.get_mut(len..).unwrap_or_default();
        match file.read_at(rest, len as u64) {
            Ok(0) if rest.is_empty() && len <= max => data.resize(max + 1, 0),
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(fail(error)),
        }
    }
    data.truncate(len);
    Ok((len <= max).then_some(data))
}

fn write(disk: &dyn Disk, path: &Path, data: &[u8], force: bool) -> Result<(), DownloadError> {
    let (Some(dir), Some(_)) = (path.parent(), path.file_name()) else {
        return Err(DownloadError::NoName(path.to_owned()));
    };
    if disk.symlink_metadata(path).is_ok_and(|meta| !force || meta.is_dir()) {
        return Err(DownloadError::Exists(path.to_owned()));
    }
    let (part, file) =
        create_beside(disk, path).map_err(|source| FileError::new("create a file in", dir, source))?;
    let written = write_synced(&*file, data).and_then(|()| put_in_place(disk, dir, &part, path, force));
    if let Err(error) = written {
        // Nothing half-written stays; if this fails too, the first error says more.
        let _ = remove_file_if_there(disk, &part);
        return Err(match error.kind() {
            io::ErrorKind::AlreadyExists => DownloadError::Exists(path.to_owned()),
            _ if is_no_space(&error) => DownloadError::NoSpace { need: data.len() as u64, have: 0 },
            _ => FileError::new("write", path, error).into(),
        });
    }
    Ok(sync_dir(disk, dir)?)
}

/// A new file with a name that nobody has. `<name>.part` may be a download's.
fn create_beside(disk: &dyn Disk, path: &Path) -> io::Result<(PathBuf, Arc<dyn DiskFile>)> {
    let mut taken = io::Error::from(io::ErrorKind::AlreadyExists);
    for number in 0..MAX_LEFTOVERS {
        let mut part = file_name(path).to_owned();
        part.push(format!(".part-{number}"));
        let part = path.with_file_name(part);
        match disk.open(&part, OpenMode::CreateNew) {
            Ok(file) => return Ok((part, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = error,
            Err(error) => return Err(error),
        }
    }
    Err(taken)
}

fn write_synced(file: &dyn DiskFile, data: &[u8]) -> io::Result<()> {
    file.write_all_at(data, 0)?;
    file.sync_all()
}

fn put_in_place(disk: &dyn Disk, dir: &Path, part: &Path, path: &Path, force: bool) -> io::Result<()> {
    if force {
        disk.rename(part, path)
    } else {
        disk.open_dir(dir)?.rename_new(file_name(part), file_name(path), false)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_small_file_is_written_whole_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        write_file(&path, b"content", false).unwrap();
        assert_eq!(read_small_file(&path).unwrap().unwrap(), b"content");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_existing_file_is_replaced_only_by_force() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        write_file(&path, b"old", false).unwrap();
        assert!(matches!(write_file(&path, b"new", false), Err(DownloadError::Exists(_))));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write_file(&path, b"new", true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(matches!(write_file(dir.path(), b"new", true), Err(DownloadError::Exists(_))));
    }

    #[test]
    fn a_planted_link_is_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, b"mine").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join("out.part-0")).unwrap();
        write_file(&dir.path().join("out"), b"new", false).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"mine");
    }

    #[test]
    fn a_longer_file_than_a_chunk_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        let longest = MAX_CHUNK_LEN as usize;
        fs::write(&path, vec![0; longest]).unwrap();
        assert_eq!(read_small_file(&path).unwrap().map(|data| data.len()), Some(longest));
        fs::write(&path, vec![0; longest + 1]).unwrap();
        assert_eq!(read_small_file(&path).unwrap(), None);
    }
}
