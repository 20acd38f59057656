//! Files of at most one chunk: read whole, written whole.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{DownloadError, FileError};
use crate::fsutil::{is_no_space, open_regular, remove_file_if_there, rename_new, sync_dir};
use crate::manifest::MAX_CHUNK_LEN;

/// Files that crashes may have left beside an output before it is given up.
const MAX_LEFTOVERS: u32 = 100;

/// Reads a file that may be a chunk; `None` if it is longer than a chunk can be.
///
/// # Errors
/// [`FileError`] if it cannot be read or is no regular file.
pub fn read_small_file(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let fail = |source| FileError::new("read", path, source);
    let (file, _) = open_regular(path).map_err(fail)?;
    let mut data = Vec::new();
    // One byte more than a chunk shows that there is more.
    file.take(u64::from(MAX_CHUNK_LEN) + 1).read_to_end(&mut data).map_err(fail)?;
    Ok((data.len() <= MAX_CHUNK_LEN as usize).then_some(data))
}

/// Writes a file so that it is there whole or not at all: under a name of its own, synced, then renamed. With
/// `force` an existing file is replaced.
///
/// # Errors
/// [`DownloadError::Exists`], [`DownloadError::NoSpace`], [`DownloadError::NoName`], or [`DownloadError::Io`].
pub fn write_file(path: &Path, data: &[u8], force: bool) -> Result<(), DownloadError> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(DownloadError::NoName(path.to_owned()));
    };
    if fs::symlink_metadata(path).is_ok_and(|meta| !force || meta.is_dir()) {
        return Err(DownloadError::Exists(path.to_owned()));
    }
    let (part, file) =
        create_beside(dir, name).map_err(|source| FileError::new("create a file in", dir, source))?;
    let written = write_synced(file, data).and_then(|()| put_in_place(dir, &part, path, force));
    if let Err(error) = written {
        // Nothing half-written stays; if this fails too, the first error says more.
        let _ = remove_file_if_there(&part);
        return Err(match error.kind() {
            io::ErrorKind::AlreadyExists => DownloadError::Exists(path.to_owned()),
            _ if is_no_space(&error) => DownloadError::NoSpace { need: data.len() as u64, have: 0 },
            _ => FileError::new("write", path, error).into(),
        });
    }
    Ok(sync_dir(dir)?)
}

/// A new file with a name that nobody has. `<name>.part` may be a download's.
fn create_beside(dir: &Path, name: &OsStr) -> io::Result<(PathBuf, File)> {
    let mut taken = io::Error::from(io::ErrorKind::AlreadyExists);
    for number in 0..MAX_LEFTOVERS {
        let mut part = OsString::from(name);
        part.push(format!(".part-{number}"));
        let part = dir.join(part);
        match File::create_new(&part) {
            Ok(file) => return Ok((part, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = error,
            Err(error) => return Err(error),
        }
    }
    Err(taken)
}

fn write_synced(mut file: File, data: &[u8]) -> io::Result<()> {
    file.write_all(data)?;
    file.sync_all()
}

fn put_in_place(dir: &Path, part: &Path, path: &Path, force: bool) -> io::Result<()> {
    if force { fs::rename(part, path) } else { rename_new(File::open(dir)?, part, path, false) }
}

#[cfg(test)]
mod tests {
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
