//! Adding files: read once, hashed on all cores, and acknowledged by one transaction. Until then nothing has
//! happened; files in the making go when the store is opened again.

mod build;
mod commit;
mod scan;
mod stream;
mod walk;

use std::io::Read;
use std::path::{Path, PathBuf};

pub use walk::Skipped;

use crate::chunks::Withdrawal;
use crate::cid::ManifestCid;
use crate::disk::{Disk, RealDisk};
use crate::error::{FileError, ImportError};
use crate::fsutil::{FileStamp, create_private_file};
use crate::hasher;
use crate::name::check_name;
use crate::options::{DEFAULT_STREAM_NAME, ImportOptions, ProgressFn, Tally};
use crate::store::Store;
use build::{BuiltTree, build};
use scan::{ScannedFile, check_unchanged, scan};
use walk::{Found, FoundFile, Node, walk};

/// What was added, or would have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// CID of the manifest: what to hand on.
    pub root: ManifestCid,
    /// Name in the manifest.
    pub name: String,
    /// Bytes of all files together.
    pub size: u64,
    /// Number of files.
    pub files: u64,
    /// Number of chunks, repeated ones counted each time.
    pub chunks: u64,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// What was left out: links and special files inside a directory.
    pub skipped: Skipped,
    /// Earlier content of the same paths that is no longer held.
    pub withdrawn: Vec<Withdrawal>,
}

impl Store {
    /// Adds a file, or a directory with everything below it. A link given as `path` is followed; links and
    /// special files inside a directory are left out and counted. Files are seeded where they are, or with
    /// [`ImportOptions::copy`] from a copy in the store. When this returns, all of it is on the disk.
    ///
    /// # Errors
    /// Nothing is stored then. [`ImportError::Changed`] if a file was written to meanwhile,
    /// [`ImportError::Name`] or [`ImportError::NotUtf8`] if a name cannot stand in a manifest,
    /// [`ImportError::Io`] if something cannot be read.
    pub fn import_path(
        &self,
        path: &Path,
        options: &ImportOptions,
        progress: ProgressFn<'_>,
    ) -> Result<Imported, ImportError> {
        let (path, name) = locate(&*self.inner.disk, path, options.name.as_deref())?;
        // The key and the database are secrets, and copies go away with their share.
        if self.dir().starts_with(&path) || path.starts_with(self.dir()) {
            return Err(ImportError::HoldsStore { path });
        }
        let disk = &*self.inner.disk;
        let found = walk(disk, &path, name)?;
        let staging = if options.copy { Some(self.inner.blobs.stage()?) } else { None };
        let tally = Tally::new(found.total_len, progress);
        let scanned = scan(disk, &found.files, staging.as_ref(), self.inner.threads, &tally)?;
        if let Some(staging) = &staging {
            staging.sync(found.files.len())?;
        }
        let built = build(&found, &scanned)?;
        check_unchanged(disk, &found.files, &scanned)?;
        let withdrawn = self.commit_import(&found, &scanned, &built, Some(&path), options)?;
        Ok(imported(&found, &scanned, built, withdrawn))
    }

    /// Adds what `reader` yields up to its end, as one file in the store. Without a name it is called
    /// [`DEFAULT_STREAM_NAME`].
    ///
    /// # Errors
    /// Nothing is stored then; as for [`Self::import_path`].
    pub fn import_reader(
        &self,
        reader: &mut dyn Read,
        options: &ImportOptions,
        progress: ProgressFn<'_>,
    ) -> Result<Imported, ImportError> {
        let name = options.name.clone().unwrap_or_else(|| DEFAULT_STREAM_NAME.to_owned());
        check(&name, Path::new(&name))?;
        let staging = self.inner.blobs.stage()?;
        let copy = staging.path(0);
        let disk = &*self.inner.disk;
        let output = create_private_file(disk, &copy)?;
        let tally = Tally::new(0, progress);
        let (size, chunks) = stream::copy_stream(reader, &*output, &copy, self.inner.threads, &tally)?;
        staging.sync(1)?;
        let stamp =
            FileStamp::of_path(disk, &copy).map_err(|source| FileError::new("read", &copy, source))?;
        let found = Found {
            root: Node::File { name, file: 0 },
            files: vec![FoundFile { path: copy.clone(), size, is_exec: false }],
            skipped: Skipped::default(),
            total_len: size,
        };
        let scanned = [ScannedFile { stamp, chunks, copy: Some(copy) }];
        let built = build(&found, &scanned)?;
        let withdrawn = self.commit_import(&found, &scanned, &built, None, options)?;
        Ok(imported(&found, &scanned, built, withdrawn))
    }

    /// Like [`hash_path`], on the disk of this store.
    ///
    /// # Errors
    /// As for [`Self::import_path`].
    pub fn hash_path(
        &self,
        path: &Path,
        name: Option<&str>,
        progress: ProgressFn<'_>,
    ) -> Result<Imported, ImportError> {
        hash(&*self.inner.disk, path, name, progress)
    }
}

/// Computes what [`Store::import_path`] would return, without a store: reads and hashes, writes nothing.
/// `name` stands in for the file's own.
///
/// # Errors
/// As for [`Store::import_path`].
pub fn hash_path(path: &Path, name: Option<&str>, progress: ProgressFn<'_>) -> Result<Imported, ImportError> {
    hash(&RealDisk, path, name, progress)
}

fn hash(
    disk: &dyn Disk,
    path: &Path,
    name: Option<&str>,
    progress: ProgressFn<'_>,
) -> Result<Imported, ImportError> {
    let (path, name) = locate(disk, path, name)?;
    let found = walk(disk, &path, name)?;
    let tally = Tally::new(found.total_len, progress);
    let scanned = scan(disk, &found.files, None, hasher::thread_count(disk, None), &tally)?;
    check_unchanged(disk, &found.files, &scanned)?;
    let built = build(&found, &scanned)?;
    Ok(imported(&found, &scanned, built, Vec::new()))
}

/// The path without links, and the name: the one given, or the last component of the path as it was given.
fn locate(disk: &dyn Disk, path: &Path, name: Option<&str>) -> Result<(PathBuf, String), ImportError> {
    let canonical = disk.canonicalize(path).map_err(|source| FileError::new("read", path, source))?;
    let name = match name {
        Some(name) => name.to_owned(),
        None => {
            let own = path.file_name().or_else(|| canonical.file_name());
            let own = own.ok_or_else(|| ImportError::NoName { path: path.to_owned() })?;
            own.to_str().ok_or_else(|| ImportError::NotUtf8 { path: path.to_owned() })?.to_owned()
        }
    };
    check(&name, path)?;
    Ok((canonical, name))
}

fn check(name: &str, path: &Path) -> Result<(), ImportError> {
    check_name(name).map_err(|source| ImportError::Name { path: path.to_owned(), source })
}

fn imported(
    found: &Found,
    scanned: &[ScannedFile],
    built: BuiltTree,
    withdrawn: Vec<Withdrawal>,
) -> Imported {
    let (Node::File { name, .. } | Node::Dir { name, .. }) = &found.root;
    Imported {
        root: built.root,
        name: name.clone(),
        size: found.total_len,
        files: found.files.len() as u64,
        chunks: scanned.iter().map(|file| file.chunks.len() as u64).sum(),
        is_dir: matches!(found.root, Node::Dir { .. }),
        skipped: found.skipped.clone(),
        withdrawn,
    }
}
