//! The rows that describe content, and what always holds between them:
//!
//! 1. A source belongs to at least one share; its links in both directions and its path have one row each.
//! 2. A location names an existing source.
//! 3. A pinned manifest block is in the store, and so is everything below it.
//! 4. The blocks of the file manifest that a source names are in the store, as long as the source is.
//! 5. The schedule has a row for exactly every key that is to be announced: the root of a share that is pinned and
//!    whose scope is not `None`; every other block that a share with the scope `All` pins; every chunk with a location
//!    in a source of such a share. The row says which of these it is, roots first, then manifests.
//! 6. A row of the schedule is among the fresh ones, under its class, exactly if it was never announced; the counts of
//!    roots are right.
//!
//! Each function keeps the first four, so any sequence of them in one transaction does; of what concerns the other
//! two it takes note ([`Tables::touch`]), and [`Tables::settle`] ends every transaction ([`Db::change`](super::Db::change)). [`check`]
//! looks at every row.

use std::path::{Path, PathBuf};

use redb::{ReadableTable, ReadableTableMetadata};

use crate::cid::{ChunkCid, ContentCid, Digest, ManifestCid};
use crate::db::records::{
    self, DownloadRecord, ShareRecord, ShareStatus, SourceKind, SourceRecord, decode, encode,
};
use crate::db::schedule;
use crate::db::tables::{
    self, NEXT_SOURCE_KEY, SourceId, Tables, location_key, location_range, pin_key, pin_range,
    root_of_source_share_key, share_source_key, share_source_range, source_share_key, source_share_range,
    split_location_key, split_share_source_key,
};
use crate::error::StoreError;
use crate::layout::Layout;
use crate::manifest::{ResolvedTree, TreeResolver};

/// A tree whose blocks are all in the store, and their CIDs.
pub(crate) struct LocalTree {
    pub(crate) tree: ResolvedTree,
    pub(crate) manifests: Vec<ManifestCid>,
}

/// Reads the tree below `root`, or finds out which block is missing.
pub(crate) fn resolve(
    manifests: &impl ReadableTable<&'static Digest, &'static [u8]>,
    root: ManifestCid,
) -> Result<Result<LocalTree, ManifestCid>, StoreError> {
    let mut resolver = TreeResolver::new(root);
    let mut visited = Vec::new();
    loop {
        let needs = resolver.needs();
        if needs.is_empty() {
            break;
        }
        for cid in needs {
            let Some(block) = manifests.get(cid.digest())? else { return Ok(Err(cid)) };
            resolver.insert(cid, block.value())?;
            visited.push(cid);
        }
    }
    Ok(Ok(LocalTree { tree: resolver.finish()?, manifests: visited }))
}

/// What the removal of a share leaves to be done.
#[derive(Debug, Default)]
pub(crate) struct Removal {
    /// No longer held anywhere.
    pub(crate) keys: Vec<ContentCid>,
    /// Sources that no longer exist.
    pub(crate) sources: Vec<SourceId>,
    /// Names of blobs to delete once the transaction has committed.
    pub(crate) blobs: Vec<PathBuf>,
    /// Outputs whose download ended with the share.
    pub(crate) downloads: Vec<PathBuf>,
}

impl Tables<'_> {
    pub(crate) fn source(&self, id: SourceId) -> Result<Option<SourceRecord>, StoreError> {
        self.sources.get(id)?.map(|row| decode(row.value(), "source")).transpose()
    }

    /// The source with this path (see [`SourceRecord::path_key`]).
    pub(crate) fn source_at(&self, path: &[u8]) -> Result<Option<(SourceId, SourceRecord)>, StoreError> {
        let Some(id) = self.source_paths.get(path)?.map(|id| id.value()) else { return Ok(None) };
        Ok(self.source(id)?.map(|record| (id, record)))
    }

    /// Takes `count` new ids in a row and returns the first.
    pub(crate) fn reserve_sources(&mut self, count: u64) -> Result<SourceId, StoreError> {
        let first = self.meta.get(NEXT_SOURCE_KEY)?.map_or(1, |next| next.value());
        let next =
            first.checked_add(count).ok_or_else(|| StoreError::Corrupt("source ids ran out".to_owned()))?;
        self.meta.insert(NEXT_SOURCE_KEY, next)?;
        Ok(first)
    }

    /// Writes a source's row and path, and links it to a share. What it holds may be announced by that share's will
    /// from now on.
    pub(crate) fn put_source(
        &mut self,
        id: SourceId,
        record: &SourceRecord,
        root: &ManifestCid,
    ) -> Result<(), StoreError> {
        let is_known = self.sources.get(id)?.is_some();
        self.update_source(id, record)?;
        let is_linked = self.share_sources.insert(&share_source_key(root.digest(), id), ())?.is_some();
        self.source_shares.insert(&source_share_key(id, root.digest()), ())?;
        if is_known && !is_linked { self.touch_chunks(record) } else { Ok(()) }
    }

    /// Rewrites a source's row; its path may have changed.
    pub(crate) fn update_source(&mut self, id: SourceId, record: &SourceRecord) -> Result<(), StoreError> {
        if let Some(old) = self.source(id)?
            && old.path_key() != record.path_key()
        {
            self.source_paths.remove(old.path_key())?;
        }
        self.source_paths.insert(record.path_key(), id)?;
        self.sources.insert(id, encode(record)?.as_slice())?;
        Ok(())
    }

    /// Notes that a source holds `chunks`, in this order from its beginning. Of a chunk that repeats the
    /// first place is noted.
    pub(crate) fn put_locations(
        &mut self,
        id: SourceId,
        chunks: &[ChunkCid],
        layout: Layout,
    ) -> Result<(), StoreError> {
        for (index, chunk) in first_uses(chunks) {
            let (offset, len) = layout.span(index);
            self.put_location(id, &chunk, offset, len)?;
        }
        Ok(())
    }

    /// Notes that a source holds a chunk: where it begins and how long it is, both in bytes.
    pub(crate) fn put_location(
        &mut self,
        id: SourceId,
        chunk: &ChunkCid,
        offset: u64,
        len: u32,
    ) -> Result<(), StoreError> {
        self.locations.insert(&location_key(chunk.digest(), id), (offset, len))?;
        self.touch(chunk.digest())
    }

    /// Stores blocks whose hash has been checked.
    pub(crate) fn put_manifests(&mut self, blocks: &[(ManifestCid, Vec<u8>)]) -> Result<(), StoreError> {
        for (cid, block) in blocks {
            self.manifests.insert(cid.digest(), block.as_slice())?;
        }
        Ok(())
    }

    /// Keeps blocks, which are in the store, for a share.
    pub(crate) fn pin(
        &mut self,
        root: &ManifestCid,
        manifests: impl IntoIterator<Item = ManifestCid>,
    ) -> Result<(), StoreError> {
        for cid in manifests {
            self.pins.insert(&pin_key(cid.digest(), root.digest()), ())?;
            self.touch(cid.digest())?;
        }
        Ok(())
    }

    pub(crate) fn share(&self, root: &ManifestCid) -> Result<Option<ShareRecord>, StoreError> {
        self.shares.get(root.digest())?.map(|row| decode(row.value(), "share")).transpose()
    }

    /// Writes a share's row. Another scope than before concerns all its keys.
    pub(crate) fn put_share(&mut self, root: &ManifestCid, record: &ShareRecord) -> Result<(), StoreError> {
        let old = self.share(root)?;
        self.shares.insert(root.digest(), encode(record)?.as_slice())?;
        if old.map(|share| share.announce) == Some(record.announce) {
            return Ok(());
        }
        for id in self.sources_of(root)? {
            if let Some(source) = self.source(id)? {
                self.touch_chunks(&source)?;
            }
        }
        if self.pins.get(&pin_key(root.digest(), root.digest()))?.is_some()
            && let Ok(local) = resolve(&self.manifests, *root)?
        {
            local.manifests.iter().try_for_each(|cid| self.touch(cid.digest()))?;
        }
        Ok(())
    }

    /// Other shares than before hold what a source holds.
    fn touch_chunks(&mut self, record: &SourceRecord) -> Result<(), StoreError> {
        self.chunks_of(record)?.iter().try_for_each(|chunk| self.touch(chunk.digest()))
    }

    /// The chunks of a source in the order of the file, from its manifest.
    pub(crate) fn chunks_of(&self, record: &SourceRecord) -> Result<Vec<ChunkCid>, StoreError> {
        file_chunks(&self.manifests, record)
    }

    /// Takes back every location of a source. Returns the chunks that are now held nowhere.
    pub(crate) fn forget_chunks(
        &mut self,
        id: SourceId,
        record: &SourceRecord,
    ) -> Result<Vec<ContentCid>, StoreError> {
        let chunks = self.chunks_of(record)?;
        let mut lost = Vec::new();
        for (_, chunk) in first_uses(&chunks) {
            if self.locations.remove(&location_key(chunk.digest(), id))?.is_none() {
                continue;
            }
            self.touch(chunk.digest())?;
            if !self.has_location(&chunk)? {
                lost.push(ContentCid::Chunk(chunk));
            }
        }
        Ok(lost)
    }

    fn has_location(&self, chunk: &ChunkCid) -> Result<bool, StoreError> {
        let (first, last) = location_range(chunk.digest());
        Ok(self.locations.range::<&tables::LocationKey>(&first..=&last)?.next().transpose()?.is_some())
    }

    /// Those of `keys` that are held nowhere now.
    pub(crate) fn not_held(&self, keys: Vec<ContentCid>) -> Result<Vec<ContentCid>, StoreError> {
        let mut lost = Vec::new();
        for key in keys {
            let is_held = match &key {
                ContentCid::Chunk(chunk) => self.has_location(chunk)?,
                ContentCid::Manifest(manifest) => self.is_pinned(manifest)?,
            };
            if !is_held {
                lost.push(key);
            }
        }
        Ok(lost)
    }

    fn is_pinned(&self, manifest: &ManifestCid) -> Result<bool, StoreError> {
        let (first, last) = pin_range(manifest.digest());
        Ok(self.pins.range::<&tables::PinKey>(&first..=&last)?.next().transpose()?.is_some())
    }

    /// Takes back a source that no longer holds what it held; its shares count as changed, or as partial
    /// while they are being fetched again. Returns what is now held nowhere: chunks, and the manifest blocks
    /// of shares that lost their last source.
    pub(crate) fn withdraw_source(
        &mut self,
        id: SourceId,
        record: &SourceRecord,
    ) -> Result<Vec<ContentCid>, StoreError> {
        let mut lost = self.forget_chunks(id, record)?;
        for root in self.shares_of(id)? {
            self.unlink(id, &root)?;
            if let Some(mut share) = self.share(&root)?
                && share.status == ShareStatus::Complete
            {
                share.status =
                    if self.is_downloading(&root)? { ShareStatus::Partial } else { ShareStatus::Changed };
                self.put_share(&root, &share)?;
            }
            if self.sources_of(&root)?.is_empty() {
                lost.extend(self.unpin(&root)?);
            }
        }
        self.sources.remove(id)?;
        self.source_paths.remove(record.path_key())?;
        Ok(lost)
    }

    /// Removes a share, its downloads, and the sources and pins that only it needed.
    pub(crate) fn remove_share(&mut self, root: &ManifestCid) -> Result<Option<Removal>, StoreError> {
        if self.shares.remove(root.digest())?.is_none() {
            return Ok(None);
        }
        let mut removal = Removal::default();
        for id in self.sources_of(root)? {
            self.unlink(id, root)?;
            let Some(record) = self.source(id)? else { continue };
            if !self.shares_of(id)?.is_empty() {
                self.touch_chunks(&record)?;
                continue;
            }
            removal.keys.extend(self.forget_chunks(id, &record)?);
            removal.sources.push(id);
            self.sources.remove(id)?;
            self.source_paths.remove(record.path_key())?;
            if record.kind == SourceKind::Blob {
                removal.blobs.push(record.path().to_owned());
            }
        }
        removal.keys.extend(self.unpin(root)?);
        for (output, record) in downloads(&self.progress)? {
            if record.root == *root {
                self.progress.remove(records::path_bytes(&output))?;
                removal.downloads.push(output);
            }
        }
        Ok(Some(removal))
    }

    /// Writes the row of an unfinished download.
    pub(crate) fn put_download(&mut self, output: &Path, record: &DownloadRecord) -> Result<(), StoreError> {
        self.progress.insert(records::path_bytes(output), encode(record)?.as_slice())?;
        Ok(())
    }

    /// Forgets an unfinished download and what its part files held; a share with nothing else goes with it.
    /// Returns what is now held nowhere.
    pub(crate) fn end_download(
        &mut self,
        output: &Path,
        record: &DownloadRecord,
    ) -> Result<Vec<ContentCid>, StoreError> {
        self.progress.remove(records::path_bytes(output))?;
        let mut lost = Vec::new();
        for id in record.first_source..record.first_source.saturating_add(record.files) {
            let Some(source) = self.source(id)? else { continue };
            lost.extend(self.forget_chunks(id, &source)?);
            self.unlink(id, &record.root)?;
            self.sources.remove(id)?;
            self.source_paths.remove(source.path_key())?;
        }
        if let Some(mut share) = self.share(&record.root)?
            && share.status == ShareStatus::Partial
            && !self.is_downloading(&record.root)?
        {
            if self.sources_of(&record.root)?.is_empty() {
                lost.extend(self.unpin(&record.root)?);
                self.shares.remove(record.root.digest())?;
            } else {
                share.status = ShareStatus::Changed;
                self.put_share(&record.root, &share)?;
            }
        }
        Ok(lost)
    }

    fn is_downloading(&self, root: &ManifestCid) -> Result<bool, StoreError> {
        Ok(downloads(&self.progress)?.iter().any(|(_, download)| download.root == *root))
    }

    /// Takes back a share's pins. Returns the blocks that no share keeps now.
    fn unpin(&mut self, root: &ManifestCid) -> Result<Vec<ContentCid>, StoreError> {
        // Without all its blocks the share had no pins either (invariant 3).
        let Ok(local) = resolve(&self.manifests, *root)? else { return Ok(Vec::new()) };
        let mut lost = Vec::new();
        for cid in local.manifests {
            if self.pins.remove(&pin_key(cid.digest(), root.digest()))?.is_none() {
                continue;
            }
            self.touch(cid.digest())?;
            if !self.is_pinned(&cid)? {
                lost.push(ContentCid::Manifest(cid));
            }
        }
        Ok(lost)
    }

    fn unlink(&mut self, id: SourceId, root: &ManifestCid) -> Result<(), StoreError> {
        self.share_sources.remove(&share_source_key(root.digest(), id))?;
        self.source_shares.remove(&source_share_key(id, root.digest()))?;
        Ok(())
    }

    pub(crate) fn sources_of(&self, root: &ManifestCid) -> Result<Vec<SourceId>, StoreError> {
        let (first, last) = share_source_range(root.digest());
        self.share_sources
            .range::<&tables::LinkKey>(&first..=&last)?
            .map(|row| Ok(split_share_source_key(row?.0.value()).1))
            .collect()
    }

    pub(super) fn shares_of(&self, id: SourceId) -> Result<Vec<ManifestCid>, StoreError> {
        let (first, last) = source_share_range(id);
        self.source_shares
            .range::<&tables::LinkKey>(&first..=&last)?
            .map(|row| Ok(ManifestCid::from_digest(root_of_source_share_key(row?.0.value()))))
            .collect()
    }
}

/// The chunks of a source in the order of the file.
pub(crate) fn file_chunks(
    manifests: &impl ReadableTable<&'static Digest, &'static [u8]>,
    record: &SourceRecord,
) -> Result<Vec<ChunkCid>, StoreError> {
    let missing =
        || StoreError::Corrupt(format!("manifest {} of {} is gone", record.file, record.path().display()));
    let local = resolve(manifests, record.file)?.map_err(|_| missing())?;
    Ok(local.tree.files.into_iter().next().map(|file| file.chunks).unwrap_or_default())
}

/// The unfinished download to this output.
pub(crate) fn download(
    progress: &impl ReadableTable<&'static [u8], &'static [u8]>,
    output: &Path,
) -> Result<Option<DownloadRecord>, StoreError> {
    progress.get(records::path_bytes(output))?.map(|row| decode(row.value(), "download")).transpose()
}

/// Every unfinished download with its output.
pub(crate) fn downloads(
    progress: &impl ReadableTable<&'static [u8], &'static [u8]>,
) -> Result<Vec<(PathBuf, DownloadRecord)>, StoreError> {
    progress
        .iter()?
        .map(|row| {
            let (output, record) = row?;
            Ok((records::bytes_path(output.value()), decode(record.value(), "download")?))
        })
        .collect()
}

/// Each distinct chunk once, in the order of digests, with the index of its first use.
fn first_uses(chunks: &[ChunkCid]) -> Vec<(u64, ChunkCid)> {
    let mut uses: Vec<_> = (0..).zip(chunks.iter().copied()).collect();
    uses.sort_unstable_by_key(|(index, chunk)| (*chunk, *index));
    uses.dedup_by_key(|(_, chunk)| *chunk);
    uses
}

/// Compares every row with the invariants of this module; the answer names the first that does not hold.
pub(crate) fn check(tables: &Tables<'_>) -> Result<Result<(), String>, StoreError> {
    for row in tables.sources.iter()? {
        let (id, row) = row?;
        let id = id.value();
        let record: SourceRecord = decode(row.value(), "source")?;
        let shares = tables.shares_of(id)?;
        if shares.is_empty() {
            return Ok(Err(format!("source {id} belongs to no share")));
        }
        for root in shares {
            let back = tables.share_sources.get(&share_source_key(root.digest(), id))?;
            if tables.share(&root)?.is_none() || back.is_none() {
                return Ok(Err(format!("source {id} and share {root} are linked on one side only")));
            }
        }
        if tables.source_paths.get(record.path_key())?.map(|id| id.value()) != Some(id) {
            return Ok(Err(format!("source {id} is not found by its path")));
        }
        if resolve(&tables.manifests, record.file)?.is_err() {
            return Ok(Err(format!("the file manifest of source {id} is gone")));
        }
    }
    for row in tables.source_paths.iter()? {
        let id = row?.1.value();
        if tables.sources.get(id)?.is_none() {
            return Ok(Err(format!("a path names the missing source {id}")));
        }
    }
    for row in tables.share_sources.iter()? {
        let (root, id) = split_share_source_key(row?.0.value());
        if tables.source_shares.get(&source_share_key(id, &root))?.is_none()
            || tables.sources.get(id)?.is_none()
        {
            return Ok(Err(format!("a share links the missing source {id}")));
        }
    }
    for row in tables.locations.iter()? {
        let (chunk, id) = split_location_key(row?.0.value());
        if tables.sources.get(id)?.is_none() {
            return Ok(Err(format!(
                "chunk {} lies in the missing source {id}",
                ChunkCid::from_digest(chunk)
            )));
        }
    }
    match check_pins(tables)? {
        Ok(()) => schedule::check(tables),
        broken => Ok(broken),
    }
}

/// A share's blocks are all pinned, or none is; nothing else is pinned.
fn check_pins(tables: &Tables<'_>) -> Result<Result<(), String>, StoreError> {
    let mut expected = 0;
    for row in tables.shares.iter()? {
        let root = ManifestCid::from_digest(*row?.0.value());
        let is_pinned = |cid: &ManifestCid| {
            Ok::<_, StoreError>(tables.pins.get(&pin_key(cid.digest(), root.digest()))?.is_some())
        };
        if !is_pinned(&root)? {
            continue;
        }
        let Ok(local) = resolve(&tables.manifests, root)? else {
            return Ok(Err(format!("share {root} is pinned but not whole")));
        };
        for cid in &local.manifests {
            if !is_pinned(cid)? {
                return Ok(Err(format!("manifest {cid} of share {root} is not pinned")));
            }
        }
        expected += local.manifests.len() as u64;
    }
    let found = tables.pins.len()?;
    Ok(if found == expected { Ok(()) } else { Err(format!("{found} pins where {expected} are due")) })
}
