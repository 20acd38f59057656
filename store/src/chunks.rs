//! Reading chunks from wherever they lie, and taking back the files that no longer hold what they held.
//!
//! A chunk is hashed before it is handed out, unless the file's size, times and inode are what they were
//! before this process last hashed that chunk. A file with one wrong chunk is withdrawn as a whole: something
//! wrote to it, so nothing is known about the rest either.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::cid::{ChunkCid, ContentCid};
use crate::db::content::file_chunks;
use crate::db::records::{SourceKind, SourceRecord, decode};
use crate::db::tables::{
    LOCATIONS, LocationKey, MANIFESTS, SOURCES, SourceId, location_range, split_location_key,
};
use crate::download;
use crate::error::{FileError, StoreError};
use crate::fsutil::{FileStamp, is_files_fault, open_regular};
use crate::hasher;
use crate::layout::Layout;
use crate::manifest::MAX_CHUNK_LEN;
use crate::store::{Inner, Store, lock};

/// Places at which one read looks for a chunk. Those that turn out wrong are withdrawn, so the next read gets
/// further; without a limit one request could make the store look at a million files.
const MAX_PLACES_PER_READ: usize = 16;

/// How often a read starts over because a file was renamed or added again meanwhile.
const MAX_READ_RETRIES: u32 = 4;

/// Sources looked at in one go by [`Store::check_sources`]; bounds its memory.
const SOURCES_PER_PAGE: usize = 4096;

/// The answer to a request for a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkRead {
    /// The bytes, which have the right hash.
    Data(Vec<u8>),
    /// It is not here.
    Missing,
    /// It was here, but the file has changed. It is not any more.
    Withdrawn(Withdrawal),
}

/// A file that no longer counts as holding anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withdrawal {
    /// The file.
    pub path: PathBuf,
    /// What was found.
    pub reason: WithdrawReason,
    /// What is held nowhere any more, so must no longer be provided: chunks, and manifests of shares that
    /// lost everything.
    pub keys: Vec<ContentCid>,
}

/// Why a file was withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WithdrawReason {
    /// Its content is another one.
    #[error("the file has changed")]
    Changed,
    /// It is not there, or something else is in its place.
    #[error("the file is gone")]
    Missing,
    /// It is there but cannot be read.
    #[error("the file cannot be read")]
    Unreadable,
    /// Other content was added or fetched under its path.
    #[error("the file was replaced")]
    Replaced,
}

/// A source and what was wrong with it when it was looked at.
pub(crate) struct BadSource {
    pub(crate) id: SourceId,
    /// The row it was looked at by: if it has changed since, so may have the file.
    pub(crate) record: SourceRecord,
    pub(crate) reason: WithdrawReason,
}

/// One place where a chunk should be.
struct Place {
    id: SourceId,
    record: SourceRecord,
    offset: u64,
    len: u32,
}

impl Store {
    /// Whether a chunk should be here. Does not look at the file.
    ///
    /// # Errors
    /// If the database fails.
    pub fn has_chunk(&self, cid: &ChunkCid) -> Result<bool, StoreError> {
        self.inner.db.read(|txn| {
            let (first, last) = location_range(cid.digest());
            Ok(txn
                .open_table(LOCATIONS)?
                .range::<&LocationKey>(&first..=&last)?
                .next()
                .transpose()?
                .is_some())
        })
    }

    /// Reads a chunk and makes sure of it. A file found changed is withdrawn in one transaction; if the chunk
    /// is elsewhere too, it is read from there, and [`Self::check_sources`] reports the withdrawal.
    ///
    /// # Errors
    /// If the database fails, or this process is out of file descriptors or memory; the chunk still
    /// counts as held.
    pub fn read_chunk(&self, cid: &ChunkCid) -> Result<ChunkRead, StoreError> {
        Ok(self.read_chunk_within(cid, MAX_CHUNK_LEN)?.unwrap_or(ChunkRead::Missing))
    }

    /// Reads a chunk as [`Self::read_chunk`] does, or a manifest block; `None`, and nothing was read, if it is longer than
    /// `max_len` bytes.
    ///
    /// # Errors
    /// As for [`Self::read_chunk`].
    pub fn read_within(&self, cid: &ContentCid, max_len: u32) -> Result<Option<ChunkRead>, StoreError> {
        let cid = match cid {
            ContentCid::Chunk(cid) => return self.read_chunk_within(cid, max_len),
            ContentCid::Manifest(cid) => cid,
        };
        self.inner.db.read(|txn| {
            let manifests = txn.open_table(MANIFESTS)?;
            let Some(block) = manifests.get(cid.digest())? else { return Ok(Some(ChunkRead::Missing)) };
            let fits = block.value().len() <= max_len as usize;
            Ok(fits.then(|| ChunkRead::Data(block.value().to_vec())))
        })
    }

    fn read_chunk_within(&self, cid: &ChunkCid, max_len: u32) -> Result<Option<ChunkRead>, StoreError> {
        let inner = &*self.inner;
        for _ in 0..MAX_READ_RETRIES {
            let places = inner.places(cid, MAX_PLACES_PER_READ)?;
            let Some(first) = places.first() else { return Ok(Some(ChunkRead::Missing)) };
            if first.len > max_len {
                return Ok(None);
            }
            let mut bad = Vec::new();
            for place in places {
                match inner.read_place(cid, &place, false)? {
                    Ok(data) => {
                        inner.withdraw_later(&bad);
                        return Ok(Some(ChunkRead::Data(data)));
                    }
                    Err(reason) => bad.push(BadSource { id: place.id, record: place.record, reason }),
                }
            }
            let mut withdrawals = inner.withdraw(&bad)?.into_iter();
            if let Some(first) = withdrawals.next() {
                inner.tell_later(withdrawals);
                return Ok(Some(ChunkRead::Withdrawn(first)));
            }
            // Every row changed while its file was looked at: a download got its final name, or a file was
            // added again. The new rows say where to look now.
        }
        Ok(Some(ChunkRead::Missing))
    }

    /// Hashes a chunk that somebody says is bad, where it would be read from, and withdraws the files in
    /// which it is. The answer is the first such file, `None` if the chunk is good or not here.
    ///
    /// # Errors
    /// As for [`Self::read_chunk`].
    pub fn report_bad_chunk(&self, cid: &ChunkCid) -> Result<Option<Withdrawal>, StoreError> {
        let mut bad = Vec::new();
        for place in self.inner.places(cid, MAX_PLACES_PER_READ)? {
            if let Err(reason) = self.inner.read_place(cid, &place, true)? {
                bad.push(BadSource { id: place.id, record: place.record, reason });
            }
        }
        let mut withdrawals = self.inner.withdraw(&bad)?.into_iter();
        let first = withdrawals.next();
        self.inner.tell_later(withdrawals);
        Ok(first)
    }

    /// Looks at the size, times and inode of every file that is seeded in place, and of the store's own.
    /// Those that differ from what was recorded are hashed: the same content is recorded anew, other content
    /// withdrawn. Returns all withdrawals since the last call that were not reported otherwise.
    ///
    /// # Errors
    /// If the database fails, or this process is out of file descriptors or memory.
    pub fn check_sources(&self) -> Result<Vec<Withdrawal>, StoreError> {
        let inner = &*self.inner;
        let mut next = Some(SourceId::MIN);
        while let Some(first) = next {
            let page = inner.sources_from(first)?;
            next = if page.len() < SOURCES_PER_PAGE { None } else { page.last().map(|(id, _)| id + 1) };
            let (mut bad, mut fresh) = (Vec::new(), Vec::new());
            for (id, record) in page {
                if record.kind == SourceKind::Part {
                    continue;
                }
                match inner.check_source(&record)? {
                    Ok(stamp) if stamp == record.stamp => {}
                    Ok(stamp) => fresh.push((id, record, stamp)),
                    Err(reason) => bad.push(BadSource { id, record, reason }),
                }
            }
            inner.restamp(&fresh)?;
            let withdrawals = inner.withdraw(&bad)?;
            inner.tell_later(withdrawals);
        }
        Ok(std::mem::take(&mut *lock(&inner.untold)))
    }
}

impl Inner {
    fn places(&self, cid: &ChunkCid, max: usize) -> Result<Vec<Place>, StoreError> {
        self.db.read(|txn| {
            let (first, last) = location_range(cid.digest());
            let locations = txn.open_table(LOCATIONS)?;
            let sources = txn.open_table(SOURCES)?;
            let mut places = Vec::new();
            for row in locations.range::<&LocationKey>(&first..=&last)?.take(max) {
                let (key, value) = row?;
                let (_, id) = split_location_key(key.value());
                let (offset, len) = value.value();
                if let Some(record) = sources.get(id)? {
                    places.push(Place { id, record: decode(record.value(), "source")?, offset, len });
                }
            }
            Ok(places)
        })
    }

    /// Reads a chunk at one place. The inner error says what is wrong with the file, the outer one what is
    /// wrong with this process.
    fn read_place(
        &self,
        cid: &ChunkCid,
        place: &Place,
        force_hash: bool,
    ) -> Result<Result<Vec<u8>, WithdrawReason>, StoreError> {
        let path = self.source_path(&place.record);
        let failed = |error: io::Error| {
            blame(&error).map(Err).ok_or_else(|| StoreError::from(FileError::new("read", &path, error)))
        };
        let stamp = match FileStamp::of_path(&*self.disk, &path) {
            Ok(stamp) => stamp,
            Err(error) => return failed(error),
        };
        if stamp.size() != place.record.stamp.size() {
            return Ok(Err(WithdrawReason::Changed));
        }
        let file = match self.cache.file(place.id, &stamp) {
            Some(file) => file,
            None => match open_regular(&*self.disk, &path) {
                Ok((file, opened)) => {
                    self.cache.keep_file(place.id, file.clone(), opened);
                    file
                }
                Err(error) => return failed(error),
            },
        };
        let index = Layout::new(stamp.size(), place.record.chunk_len).index_at(place.offset);
        let mut data = Vec::new();
        if !force_hash && self.cache.is_verified(place.id, &stamp, index) {
            data.resize(place.len as usize, 0);
            if let Err(error) = file.read_exact_at(&mut data, place.offset) {
                return failed(error);
            }
            if FileStamp::of_path(&*self.disk, &path).is_ok_and(|after| after == stamp) {
                return Ok(Ok(data));
            }
        }
        match hasher::read_and_hash_at(&*file, place.offset, place.len, &mut data) {
            Ok(digest) if digest == *cid.digest() => {
                self.cache.set_verified(place.id, stamp, index);
                Ok(Ok(data))
            }
            Ok(_) => Ok(Err(WithdrawReason::Changed)),
            Err(error) => failed(error),
        }
    }

    fn sources_from(&self, first: SourceId) -> Result<Vec<(SourceId, SourceRecord)>, StoreError> {
        self.db.read(|txn| {
            let sources = txn.open_table(SOURCES)?;
            sources
                .range(first..)?
                .take(SOURCES_PER_PAGE)
                .map(|row| {
                    let (id, record) = row?;
                    Ok((id.value(), decode(record.value(), "source")?))
                })
                .collect()
        })
    }

    /// Compares a whole file with what it should hold, if its stamp differs from the recorded one. Returns
    /// the stamp to record.
    fn check_source(&self, record: &SourceRecord) -> Result<Result<FileStamp, WithdrawReason>, StoreError> {
        let path = self.source_path(record);
        let failed = |error: io::Error| {
            blame(&error).map(Err).ok_or_else(|| StoreError::from(FileError::new("read", &path, error)))
        };
        match FileStamp::of_path(&*self.disk, &path) {
            Ok(stamp) if stamp.is_unchanged_since(&record.stamp) => return Ok(Ok(record.stamp)),
            Ok(_) => {}
            Err(error) => return failed(error),
        }
        let (file, stamp) = match open_regular(&*self.disk, &path) {
            Ok(opened) => opened,
            Err(error) => return failed(error),
        };
        let chunks = self.db.read(|txn| file_chunks(&txn.open_table(MANIFESTS)?, record))?;
        let layout = Layout::new(stamp.size(), record.chunk_len);
        if stamp.size() != record.stamp.size() || layout.chunks() != chunks.len() as u64 {
            return Ok(Err(WithdrawReason::Changed));
        }
        let compared = hasher::for_each(self.threads, chunks.len(), Vec::new, |buffer, index| {
            let (offset, len) = layout.span(index as u64);
            let digest = hasher::hash_at(&*file, offset, len, buffer).map_err(Some)?;
            let is_same = chunks.get(index).is_some_and(|chunk| *chunk.digest() == digest);
            if is_same { Ok(()) } else { Err(None) }
        });
        match compared {
            Ok(_) => Ok(Ok(stamp)),
            Err(None) => Ok(Err(WithdrawReason::Changed)),
            Err(Some(error)) => failed(error),
        }
    }

    /// Records the new stamps of files whose content is the same.
    fn restamp(&self, fresh: &[(SourceId, SourceRecord, FileStamp)]) -> Result<(), StoreError> {
        if fresh.is_empty() {
            return Ok(());
        }
        self.db.change(|tables| {
            for (id, record, stamp) in fresh {
                if tables.source(*id)?.as_ref() == Some(record) {
                    tables.update_source(*id, &record.with_stamp(*stamp))?;
                }
            }
            Ok(())
        })
    }

    /// Withdraws sources, except those whose row has changed since they were looked at. Returns those
    /// withdrawn.
    pub(crate) fn withdraw(&self, bad: &[BadSource]) -> Result<Vec<Withdrawal>, StoreError> {
        if bad.is_empty() {
            return Ok(Vec::new());
        }
        // A download renames its files and then rewrites their rows: wait for it, then look at the row.
        let has_parts = bad.iter().any(|bad| bad.record.kind == SourceKind::Part);
        let handles = if has_parts { self.open_downloads() } else { BTreeMap::new() };
        let _paused: Vec<_> = handles.values().map(|download| download.pause()).collect();
        let has_blobs = bad.iter().any(|bad| bad.record.kind == SourceKind::Blob);
        let _blobs = has_blobs.then(|| self.blobs.lock());
        let mut withdrawn = Vec::new();
        let withdrawals = self.db.change(|tables| {
            let mut withdrawals = Vec::new();
            for bad in bad.iter() {
                if tables.source(bad.id)?.as_ref() != Some(&bad.record) {
                    continue;
                }
                let keys = match bad.record.kind {
                    SourceKind::Part => download::withdraw_part(tables, bad.id, &bad.record)?,
                    SourceKind::InPlace | SourceKind::Blob => tables.withdraw_source(bad.id, &bad.record)?,
                };
                let path = self.source_path(&bad.record);
                withdrawals.push(Withdrawal { path, reason: bad.reason, keys });
                withdrawn.push(bad);
            }
            Ok(withdrawals)
        })?;
        for bad in withdrawn {
            self.cache.forget(bad.id);
            match bad.record.kind {
                SourceKind::Part => handles.values().for_each(|download| download.forget_source(bad.id)),
                SourceKind::Blob => {
                    if let Err(error) = self.blobs.delete(bad.record.path()) {
                        tracing::warn!(%error, "a damaged copy stays until the next collection");
                    }
                }
                SourceKind::InPlace => {}
            }
        }
        Ok(withdrawals)
    }

    /// Withdraws sources while something else already went well; [`Store::check_sources`] reports them.
    fn withdraw_later(&self, bad: &[BadSource]) {
        match self.withdraw(bad) {
            Ok(withdrawals) => self.tell_later(withdrawals),
            // They are found wrong again at the next read.
            Err(error) => tracing::warn!(%error, "could not withdraw a changed file"),
        }
    }

    /// The downloads that somebody has a handle on, in a fixed order.
    fn open_downloads(&self) -> BTreeMap<PathBuf, Arc<download::DownloadState>> {
        let downloads = lock(&self.downloads);
        downloads
            .iter()
            .filter_map(|(output, download)| Some((output.clone(), download.upgrade()?)))
            .collect()
    }
}

/// What an error says about the file; `None` if it says something about this process.
fn blame(error: &io::Error) -> Option<WithdrawReason> {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidInput => {
            Some(WithdrawReason::Missing)
        }
        io::ErrorKind::UnexpectedEof => Some(WithdrawReason::Changed),
        _ if is_files_fault(error) => Some(WithdrawReason::Unreadable),
        _ => None,
    }
}
