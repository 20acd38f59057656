//! Downloads: verified chunks go straight to their places in the part files, and what is there is noted in
//! batches.
//!
//! The order is what keeps it safe: bytes are written, then synced, and only then does a transaction say
//! "have". So after a crash everything noted is there; what was written but not noted is found again by
//! hashing ([`Download::reuse`]). The end is a rename. It is announced by one transaction and confirmed by
//! another, so that a start after a crash in between knows what to look for (`finish`).

mod begin;
mod finish;
mod part;
mod plan;
mod reuse;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

pub(crate) use finish::recover_all;
pub(crate) use part::part_path;
pub use reuse::Reused;

use crate::chunk_set::ChunkSet;
use crate::cid::{ChunkCid, ContentCid, ManifestCid};
use crate::db::content::{self, downloads, resolve};
use crate::db::records::{DownloadRecord, SourceRecord};
use crate::db::tables::{SourceId, Tables};
use crate::error::{DownloadError, StoreError};
use crate::options::Cancelled;
use crate::store::{Store, lock};
use part::PartFiles;
use plan::Plan;

impl From<Cancelled> for DownloadError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// What became of the bytes given to [`Download::write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// They are at every place they belong; the next [`Download::commit`] makes them count.
    Stored,
    /// They are right, but were there before.
    AlreadyHeld,
    /// They are not this chunk; nothing was written.
    BadHash,
}

/// An unfinished output. Cheap to clone; every clone is the same download. Dropping the last one keeps the
/// part and everything committed; [`Store::begin_download`] takes it up again.
#[derive(Clone, Debug)]
pub struct Download {
    store: Store,
    state: Arc<DownloadState>,
}

/// What the clones of a download share. Knows no store, so that the store may know it.
#[derive(Debug)]
pub(crate) struct DownloadState {
    plan: Plan,
    part: PartFiles,
    output: PathBuf,
    force: bool,
    first_source: SourceId,
    /// Held while rows of this download are being rewritten, after data was synced or a file was renamed for
    /// them.
    commit: Mutex<()>,
    bits: Mutex<Bits>,
    finished: OnceLock<()>,
}

/// How far the download is. Numbers are those of [`Plan::chunks`].
#[derive(Debug)]
struct Bits {
    /// Synced and noted in the database.
    have: ChunkSet,
    /// Written at every place, not yet noted.
    written: ChunkSet,
    /// Bytes of the output that `have` and `written` make up.
    have_len: u64,
    /// Files written to since the last sync.
    touched: BTreeSet<u32>,
    /// Whether the names of files and directories are on the disk.
    is_layout_synced: bool,
    /// Counts the syncs that failed: what was written before one of them is not trusted.
    failed_syncs: u64,
}

impl Bits {
    fn has(&self, index: u32) -> bool {
        self.have.contains(index) || self.written.contains(index)
    }
}

impl Download {
    /// CID of the manifest that is being fetched.
    #[must_use]
    pub fn root(&self) -> &ManifestCid {
        &self.state.plan.root
    }

    /// Where the output will be.
    #[must_use]
    pub fn output(&self) -> &Path {
        &self.state.output
    }

    /// The part file or part directory.
    #[must_use]
    pub fn part_path(&self) -> &Path {
        self.state.part.part_path()
    }

    /// Bytes of the output.
    #[must_use]
    pub fn total_len(&self) -> u64 {
        self.state.plan.total_len
    }

    /// Bytes of the output that are written, committed or not.
    #[must_use]
    pub fn have_len(&self) -> u64 {
        self.state.bits().have_len
    }

    /// The distinct chunks that are not written yet, with their lengths in bytes, in the order of their first
    /// use.
    #[must_use]
    pub fn missing(&self) -> Vec<(ChunkCid, u32)> {
        let bits = self.state.bits();
        let chunks = (0..).zip(&self.state.plan.chunks);
        chunks.filter(|(index, _)| !bits.has(*index)).map(|(_, chunk)| *chunk).collect()
    }

    /// How many chunks the manifest unfolds to, repeated ones counted each time.
    #[must_use]
    pub fn places(&self) -> u32 {
        let chunks = self.state.plan.files.iter().map(|file| file.chunks.len()).sum::<usize>();
        u32::try_from(chunks).unwrap_or(u32::MAX)
    }

    /// The same as [`Self::missing`], each with its first position in the unfolded manifest: see [`Held::Some`](crate::Held::Some).
    #[must_use]
    pub fn missing_places(&self) -> Vec<(ChunkCid, u32, u32)> {
        let plan = &self.state.plan;
        let mut starts = Vec::with_capacity(plan.files.len());
        let mut chunks = 0_usize;
        for file in &plan.files {
            starts.push(chunks);
            chunks += file.chunks.len();
        }
        let bits = self.state.bits();
        let place = |index: u32| {
            let place = plan.places(index).first()?;
            let file = plan.files.get(place.file as usize)?;
            let start = *starts.get(place.file as usize)? as u64;
            u32::try_from(start + file.layout().index_at(place.offset)).ok()
        };
        (0..)
            .zip(&plan.chunks)
            .filter(|(index, _)| !bits.has(*index))
            .filter_map(|(index, (cid, len))| Some((*cid, *len, place(index)?)))
            .collect()
    }

    /// Writes a chunk at every place where it belongs, after a look at its length and its hash. May be called
    /// from several threads; what is written counts as held only after [`Self::commit`].
    ///
    /// # Errors
    /// [`DownloadError::NotInTree`], [`DownloadError::NoSpace`], [`DownloadError::OutsideTarget`] if
    /// a part file was exchanged, or the file operation's error.
    pub fn write(&self, cid: &ChunkCid, data: &[u8]) -> Result<Written, DownloadError> {
        let state = &*self.state;
        let known = state.plan.find(cid).and_then(|index| Some((index, state.plan.chunk(index)?.1)));
        let (index, len) = known.ok_or(DownloadError::NotInTree(*cid))?;
        if data.len() != len as usize || !cid.matches(data) {
            return Ok(Written::BadHash);
        }
        if state.bits().has(index) {
            return Ok(Written::AlreadyHeld);
        }
        state.put(index, data)?;
        Ok(Written::Stored)
    }

    /// Syncs what was written and notes it. Returns the chunks that count as held from now on: a request for
    /// them is answered, and they are to be provided. Costs two syncs or more, so call it once for many
    /// chunks.
    ///
    /// # Errors
    /// If a sync fails, nothing that was written since the last commit is trusted: it is missing
    /// again, and to be fetched and written anew. [`DownloadError::Removed`] if the share was removed
    /// meanwhile.
    pub fn commit(&self) -> Result<Vec<ChunkCid>, DownloadError> {
        let _commit = lock(&self.state.commit);
        self.commit_locked()
    }

    fn commit_locked(&self) -> Result<Vec<ChunkCid>, DownloadError> {
        let state = &*self.state;
        let (indices, touched, sync_layout) = {
            let mut bits = state.bits();
            let indices: Vec<u32> = bits.written.iter().collect();
            if indices.is_empty() {
                return Ok(Vec::new());
            }
            (indices, std::mem::take(&mut bits.touched), !bits.is_layout_synced)
        };
        if let Err(error) = state.part.sync(&state.plan, touched.into_iter(), sync_layout) {
            state.distrust();
            return Err(error);
        }
        state.bits().is_layout_synced |= sync_layout;
        let mut have = state.bits().have.clone();
        for index in &indices {
            have.insert(*index);
        }
        self.note(&have, &indices)?;
        let mut bits = state.bits();
        for index in &indices {
            bits.written.remove(*index);
        }
        bits.have = have;
        Ok(indices.into_iter().filter_map(|index| Some(state.plan.chunk(index)?.0)).collect())
    }

    /// The transaction that says "have": bits and locations.
    fn note(&self, have: &ChunkSet, indices: &[u32]) -> Result<(), DownloadError> {
        let state = &*self.state;
        let noted = self.store.inner.db.change(|tables| {
            let Some(mut record) = state.record(tables)? else { return Ok(false) };
            set_have(&mut record, have, &state.plan);
            tables.put_download(&state.output, &record)?;
            for index in indices {
                let Some((cid, len)) = state.plan.chunk(*index) else { continue };
                let mut last = None;
                for place in state.plan.places(*index) {
                    // Places are sorted by file: the first in each is the one that is noted.
                    if last.replace(place.file) != Some(place.file) {
                        let id = state.first_source + u64::from(place.file);
                        tables.put_location(id, &cid, place.offset, len)?;
                    }
                }
            }
            Ok(true)
        })?;
        if noted { Ok(()) } else { Err(DownloadError::Removed) }
    }
}

impl DownloadState {
    fn bits(&self) -> MutexGuard<'_, Bits> {
        lock(&self.bits)
    }

    /// Writes verified bytes at every place of a chunk, except zeros where there is a hole anyway.
    fn put(&self, index: u32, data: &[u8]) -> Result<(), DownloadError> {
        let is_zero = data.iter().all(|byte| *byte == 0);
        let len = self.plan.chunk(index).map_or(0, |(_, len)| len);
        let places = self.plan.places(index);
        loop {
            let failed_syncs = self.bits().failed_syncs;
            for place in places {
                if !(is_zero && self.part.is_hole(&self.plan, place.file, place.offset, len)) {
                    self.part.write(&self.plan, place.file, place.offset, data)?;
                }
            }
            let mut bits = self.bits();
            if bits.failed_syncs != failed_syncs {
                // A sync failed meanwhile, and may have dropped these bytes too.
                continue;
            }
            bits.touched.extend(places.iter().map(|place| place.file));
            if !bits.has(index) {
                bits.written.insert(index);
                bits.have_len = bits.have_len.saturating_add(self.plan.output_len(index));
            }
            return Ok(());
        }
    }

    /// Takes back everything that was written since the last commit, because it could not be synced. The
    /// system drops what it cannot write, reports that once, and goes on as if it were on the disk.
    fn distrust(&self) {
        let mut bits = self.bits();
        bits.failed_syncs += 1;
        bits.written = ChunkSet::new(self.plan.chunk_count());
        bits.have_len = self.plan.output_len_of(&bits.have);
    }

    /// Keeps the download from rewriting its rows for as long as the guard lives.
    pub(crate) fn pause(&self) -> MutexGuard<'_, ()> {
        lock(&self.commit)
    }

    /// Forgets what a withdrawn part file held. The caller holds the guard of [`Self::pause`].
    pub(crate) fn forget_source(&self, id: SourceId) {
        let file = id.checked_sub(self.first_source).and_then(|index| usize::try_from(index).ok());
        let Some(file) = file.and_then(|index| self.plan.files.get(index)) else { return };
        let mut bits = self.bits();
        for index in &file.chunks {
            let was_there = bits.has(*index);
            bits.have.remove(*index);
            bits.written.remove(*index);
            if was_there {
                bits.have_len = bits.have_len.saturating_sub(self.plan.output_len(*index));
            }
        }
    }

    /// The download's row, if it still belongs to this handle.
    fn record(&self, tables: &Tables<'_>) -> Result<Option<DownloadRecord>, StoreError> {
        let record = content::download(&tables.progress, &self.output)?;
        Ok(record.filter(|record| record.first_source == self.first_source))
    }
}

/// Takes back what a part file held, because it no longer does. Its download has to fetch that again. Returns
/// the chunks that are now held nowhere.
pub(crate) fn withdraw_part(
    tables: &mut Tables<'_>,
    id: SourceId,
    record: &SourceRecord,
) -> Result<Vec<ContentCid>, StoreError> {
    let owner = downloads(&tables.progress)?.into_iter().find(|(_, download)| {
        id.checked_sub(download.first_source).is_some_and(|index| index < download.files)
    });
    if let Some((output, mut download)) = owner {
        let plan = local_plan(tables, &download.root)?;
        let mut have = decode_bits(&download.have, &plan)?;
        let file = usize::try_from(id - download.first_source).ok().and_then(|index| plan.files.get(index));
        for index in file.iter().flat_map(|file| &file.chunks) {
            have.remove(*index);
        }
        set_have(&mut download, &have, &plan);
        tables.put_download(&output, &download)?;
    }
    tables.forget_chunks(id, record)
}

/// Puts what is had into a download's row.
fn set_have(record: &mut DownloadRecord, have: &ChunkSet, plan: &Plan) {
    record.have = have.encode();
    record.have_len = plan.output_len_of(have);
}

/// The plan of a tree whose blocks are in the store, as those of every share are.
fn local_plan(tables: &Tables<'_>, root: &ManifestCid) -> Result<Plan, StoreError> {
    let local = resolve(&tables.manifests, *root)?;
    let local =
        local.map_err(|cid| StoreError::Corrupt(format!("manifest {cid} of share {root} is gone")))?;
    Ok(Plan::new(&local.tree))
}

fn decode_bits(bytes: &[u8], plan: &Plan) -> Result<ChunkSet, StoreError> {
    ChunkSet::decode(bytes, plan.chunk_count())
        .map_err(|error| StoreError::Corrupt(format!("have-bits of {}: {error}", plan.root)))
}
