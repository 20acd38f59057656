//! Reads and hashes every chunk of the found files once, on all cores, and writes a copy on the way if asked
//! to.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::blobs::Staging;
use crate::cid::{ChunkCid, Digest};
use crate::disk::{Disk, DiskFile};
use crate::error::{FileError, ImportError};
use crate::fsutil::{FileStamp, create_private_file, open_regular};
use crate::hasher::{self, CopyError};
use crate::import::walk::FoundFile;
use crate::layout::Layout;
use crate::manifest::{CHUNK_LEN, MAX_FILE_CHUNKS};
use crate::options::{Cancelled, Tally};

impl From<Cancelled> for ImportError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// A file that was read from end to end.
#[derive(Debug)]
pub(crate) struct ScannedFile {
    /// Its stamp before the first byte was read.
    pub(crate) stamp: FileStamp,
    pub(crate) chunks: Vec<ChunkCid>,
    /// The copy made on the way.
    pub(crate) copy: Option<PathBuf>,
}

/// Hashes `files`; with `staging` copies them there too. That nothing changed meanwhile is for
/// [`check_unchanged`] to say.
pub(crate) fn scan(
    disk: &dyn Disk,
    files: &[FoundFile],
    staging: Option<&Staging>,
    threads: usize,
    tally: &Tally<'_>,
) -> Result<Vec<ScannedFile>, ImportError> {
    let slots =
        files.iter().map(|file| Slot::new(disk, file, staging.is_some())).collect::<Result<Vec<_>, _>>()?;
    let mut items = 0;
    let starts: Vec<usize> = slots
        .iter()
        .map(|slot| {
            let start = items;
            items += slot.items;
            start
        })
        .collect();
    let work = |state: &mut Worker, item: usize| {
        let file = starts.partition_point(|start| *start <= item) - 1;
        let (Some(slot), Some(start)) = (slots.get(file), starts.get(file)) else { return Ok(()) };
        let copy = staging.map(|staging| staging.path(file));
        let chunks = slot.chunks_of(item - start);
        let digests = slot.work(&chunks, copy.as_deref(), &mut state.buffer, tally)?;
        state.digests.extend(chunks.zip(digests).map(|(index, digest)| ((file, index), digest)));
        Ok::<_, ImportError>(())
    };
    let workers = hasher::for_each(threads, items, Worker::default, work)?;
    let mut digests: Vec<_> = workers.into_iter().flat_map(|worker| worker.digests).collect();
    digests.sort_unstable_by_key(|(place, _)| *place);
    let mut digests = digests.into_iter().map(|(_, digest)| ChunkCid::from_digest(digest));
    Ok(slots
        .into_iter()
        .enumerate()
        .map(|(file, slot)| ScannedFile {
            stamp: slot.stamp(),
            chunks: digests.by_ref().take(slot.chunks).collect(),
            copy: staging.map(|staging| staging.path(file)),
        })
        .collect())
}

/// Looks once more at every file that was scanned.
pub(crate) fn check_unchanged(
    disk: &dyn Disk,
    files: &[FoundFile],
    scanned: &[ScannedFile],
) -> Result<(), ImportError> {
    for (file, scanned) in files.iter().zip(scanned) {
        if !FileStamp::of_path(disk, &file.path).is_ok_and(|stamp| stamp == scanned.stamp) {
            return Err(ImportError::Changed { path: file.path.clone() });
        }
    }
    Ok(())
}

#[derive(Default)]
struct Worker {
    buffer: Vec<u8>,
    /// By file and chunk.
    digests: Vec<((usize, usize), Digest)>,
}

/// One file while it is read: open from its first chunk to its last.
struct Slot<'a> {
    disk: &'a dyn Disk,
    file: &'a FoundFile,
    layout: Layout,
    chunks: usize,
    /// Runs of chunks that are hashed at once, from the beginning of the file; the rest one by one.
    runs: usize,
    /// Pieces of work, at least one: even an empty file has to be opened to know that it can be.
    items: usize,
    left: AtomicUsize,
    stamp: OnceLock<FileStamp>,
    opened: Mutex<Option<Arc<Opened>>>,
    wants_copy: bool,
}

struct Opened {
    input: Arc<dyn DiskFile>,
    output: Option<Output>,
}

enum Output {
    /// Shares the input's bytes; reading it is reading a snapshot that cannot change.
    Clone(Arc<dyn DiskFile>),
    /// Gets everything that is not zeros; the rest stays a hole.
    Copy(Arc<dyn DiskFile>),
}

impl<'a> Slot<'a> {
    fn new(disk: &'a dyn Disk, file: &'a FoundFile, wants_copy: bool) -> Result<Self, ImportError> {
        let layout = Layout::new(file.size, CHUNK_LEN);
        let too_many =
            || ImportError::TooMany { path: file.path.clone(), what: "chunks", max: MAX_FILE_CHUNKS };
        let chunks = Some(layout.chunks()).filter(|chunks| *chunks <= MAX_FILE_CHUNKS);
        let chunks = chunks.and_then(|chunks| usize::try_from(chunks).ok()).ok_or_else(too_many)?;
        // A copy is written on the way, in the order of the file.
        let run_len = if wants_copy { 1 } else { hasher::run_len(CHUNK_LEN) };
        let full_chunks = usize::try_from(file.size / u64::from(CHUNK_LEN)).unwrap_or(0);
        let runs = if run_len > 1 { full_chunks / run_len } else { 0 };
        let items = (chunks - runs * run_len + runs).max(1);
        let (stamp, opened) = (OnceLock::new(), Mutex::new(None));
        Ok(Self {
            disk,
            file,
            layout,
            chunks,
            runs,
            items,
            left: AtomicUsize::new(items),
            stamp,
            opened,
            wants_copy,
        })
    }

    fn stamp(&self) -> FileStamp {
        self.stamp.get().copied().unwrap_or_default()
    }

    /// The chunks of one piece of work.
    fn chunks_of(&self, item: usize) -> Range<usize> {
        let run_len = hasher::run_len(CHUNK_LEN);
        match item.checked_sub(self.runs) {
            None => item * run_len..(item + 1) * run_len,
            Some(single) => {
                let index = self.runs * run_len + single;
                index..index + 1
            }
        }
    }

    /// Hashes these chunks; no digest for the one item of an empty file.
    fn work(
        &self,
        chunks: &Range<usize>,
        copy: Option<&Path>,
        buffer: &mut Vec<u8>,
        tally: &Tally<'_>,
    ) -> Result<Vec<Digest>, ImportError> {
        let opened = self.open(copy)?;
        let (offset, first_len) = self.layout.span(chunks.start as u64);
        let len = first_len * u32::try_from(chunks.len()).unwrap_or(1);
        let hash = |file: &dyn DiskFile, buffer: &mut Vec<u8>| match chunks.len() {
            1 => hasher::hash_at(file, offset, len, buffer).map(|digest| vec![digest]),
            _ => hasher::hash_run_at(file, offset, first_len, buffer),
        };
        let digest = match &opened.output {
            _ if len == 0 => Vec::new(),
            None => self.read(hash(&*opened.input, buffer))?,
            Some(Output::Clone(clone)) => self.read(hash(&**clone, buffer))?,
            Some(Output::Copy(output)) => {
                let path = copy.unwrap_or(&self.file.path);
                match hasher::copy_and_hash_at(&*opened.input, &**output, offset, len, buffer) {
                    Err(CopyError::Write(source)) => return Err(FileError::new("write", path, source).into()),
                    Err(CopyError::Read(error)) => self.read(Err(error))?,
                    Ok(digest) => vec![digest],
                }
            }
        };
        drop(opened);
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        tally.add(u64::from(len))?;
        Ok(digest)
    }

    fn open(&self, copy: Option<&Path>) -> Result<Arc<Opened>, ImportError> {
        let mut slot = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = &*slot {
            return Ok(opened.clone());
        }
        let path = &self.file.path;
        let (input, stamp) =
            open_regular(self.disk, path).map_err(|source| FileError::new("read", path, source))?;
        if stamp.size() != self.file.size {
            return Err(self.changed());
        }
        self.stamp.get_or_init(|| stamp);
        let output = match copy {
            Some(copy) if self.wants_copy => Some(self.open_output(&*input, copy)?),
            _ => None,
        };
        let opened = Arc::new(Opened { input, output });
        *slot = Some(opened.clone());
        Ok(opened)
    }

    fn open_output(&self, input: &dyn DiskFile, copy: &Path) -> Result<Output, ImportError> {
        let output = create_private_file(self.disk, copy)?;
        let set_len = |output: &dyn DiskFile| {
            output.set_len(self.file.size).map_err(|source| FileError::new("write", copy, source))
        };
        if self.disk.reflink(input, &*output).is_ok() {
            set_len(&*output)?;
            Ok(Output::Clone(output))
        } else {
            set_len(&*output)?;
            Ok(Output::Copy(output))
        }
    }

    /// An end that came too early means that somebody cut the file.
    fn read<T>(&self, result: std::io::Result<T>) -> Result<T, ImportError> {
        result.map_err(|source| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => self.changed(),
            _ => FileError::new("read", &self.file.path, source).into(),
        })
    }

    fn changed(&self) -> ImportError {
        ImportError::Changed { path: self.file.path.clone() }
    }
}
