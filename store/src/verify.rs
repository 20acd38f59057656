//! Comparing files on disk with a manifest.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::cache::{Lru, MAX_OPEN_FILES};
use crate::disk::{Disk, DiskFile, OpenMode, RealDisk};
use crate::error::{FileError, VerifyError};
use crate::fsutil::is_files_fault;
use crate::hasher;
use crate::layout::Layout;
use crate::manifest::{ResolvedFile, ResolvedTree};
use crate::options::{Cancelled, ProgressFn, Tally};
use crate::store::{Store, lock};

impl From<Cancelled> for VerifyError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Whether every file is there, has the right length, and every chunk the right hash.
    pub ok: bool,
    /// The first difference, in the order of the tree: a file and an offset in it in bytes. A file that is
    /// too long differs where it should end.
    pub first_bad: Option<(PathBuf, u64)>,
    /// Files that are not there, or are no regular files.
    pub missing: Vec<PathBuf>,
}

/// Compares the file or directory at `path` with `tree`. Its own name does not count, nor do files in a
/// directory that the tree does not list. Progress counts bytes of the tree.
///
/// # Errors
/// [`VerifyError::Io`] if a file is there but cannot be read, [`VerifyError::Cancelled`].
pub fn verify_path(
    path: &Path,
    tree: &ResolvedTree,
    progress: ProgressFn<'_>,
) -> Result<VerifyReport, VerifyError> {
    verify(&RealDisk, path, tree, progress)
}

impl Store {
    /// Like [`verify_path`], on the disk of this store.
    ///
    /// # Errors
    /// As for [`verify_path`].
    pub fn verify_path(
        &self,
        path: &Path,
        tree: &ResolvedTree,
        progress: ProgressFn<'_>,
    ) -> Result<VerifyReport, VerifyError> {
        verify(&*self.inner.disk, path, tree, progress)
    }
}

fn verify(
    disk: &dyn Disk,
    path: &Path,
    tree: &ResolvedTree,
    progress: ProgressFn<'_>,
) -> Result<VerifyReport, VerifyError> {
    let tally = Tally::new(tree.size, progress);
    let mut missing = Vec::new();
    let mut bad = Vec::new();
    // Chunks to hash, as (file, index in the file).
    let mut items = Vec::new();
    let paths: Vec<_> = tree.files.iter().map(|file| file.path.below(path)).collect();
    for (number, (file, path)) in tree.files.iter().zip(&paths).enumerate() {
        // The path itself may be a link: the user named it.
        let meta = if file.path.is_root() { disk.metadata(path) } else { disk.symlink_metadata(path) };
        match meta {
            Ok(meta) if meta.is_file() => {
                let layout = Layout::new(file.size, file.chunk_len);
                if meta.len > file.size {
                    bad.push((number, file.size));
                }
                items.extend((0..layout.chunks()).map(|index| (number, index)));
            }
            Ok(_) => missing.push(path.clone()),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                missing.push(path.clone());
            }
            Err(source) => return Err(FileError::new("read", path, source).into()),
        }
    }
    let open = OpenFiles { disk, paths: &paths, files: Mutex::new(Lru::new(MAX_OPEN_FILES)) };
    let compare = |(buffer, bad): &mut (Vec<u8>, Vec<(usize, u64)>), item: usize| {
        let Some((number, index)) = items.get(item).copied() else { return Ok(()) };
        let Some(file) = tree.files.get(number) else { return Ok(()) };
        let (offset, len) = Layout::new(file.size, file.chunk_len).span(index);
        if !open.is_right(number, file, index, buffer)? {
            bad.push((number, offset));
        }
        Ok::<_, VerifyError>(tally.add(u64::from(len))?)
    };
    let threads = hasher::thread_count(disk, None);
    for (_, found) in hasher::for_each(threads, items.len(), Default::default, compare)? {
        bad.extend(found);
    }
    let first_bad =
        bad.into_iter().min().and_then(|(number, offset)| Some((paths.get(number)?.clone(), offset)));
    Ok(VerifyReport { ok: first_bad.is_none() && missing.is_empty(), first_bad, missing })
}

struct OpenFiles<'a> {
    disk: &'a dyn Disk,
    paths: &'a [PathBuf],
    files: Mutex<Lru<usize, Arc<dyn DiskFile>>>,
}

impl OpenFiles<'_> {
    fn is_right(
        &self,
        number: usize,
        file: &ResolvedFile,
        index: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, VerifyError> {
        let (offset, len) = Layout::new(file.size, file.chunk_len).span(index);
        let expected = usize::try_from(index).ok().and_then(|index| file.chunks.get(index));
        match hasher::hash_at(&*self.open(number)?, offset, len, buffer) {
            Ok(digest) => Ok(expected.is_some_and(|chunk| *chunk.digest() == digest)),
            // Too short, or a disk that cannot read it back: bad either way.
            Err(error) if is_files_fault(&error) => Ok(false),
            Err(source) => {
                let path = self.paths.get(number).map_or(Path::new(""), PathBuf::as_path);
                Err(FileError::new("read", path, source).into())
            }
        }
    }

    fn open(&self, number: usize) -> Result<Arc<dyn DiskFile>, VerifyError> {
        let mut files = lock(&self.files);
        if let Some(file) = files.get(number) {
            return Ok(file.clone());
        }
        let path = self.paths.get(number).map_or(Path::new(""), PathBuf::as_path);
        let opened = self.disk.open(path, OpenMode::Read);
        let file = opened.map_err(|source| FileError::new("read", path, source))?;
        files.insert(number, file.clone());
        Ok(file)
    }
}
