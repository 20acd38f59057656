//! The one transaction of an import.

use std::path::{Path, PathBuf};

use crate::blobs::blob_name;
use crate::chunks::{WithdrawReason, Withdrawal};
use crate::db::records::{ShareRecord, ShareStatus, SourceKind, SourceRecord};
use crate::db::tables::{SourceId, Tables};
use crate::error::{FileError, ImportError, StoreError};
use crate::fsutil::FileStamp;
use crate::import::build::BuiltTree;
use crate::import::scan::ScannedFile;
use crate::import::walk::{Found, Node};
use crate::layout::Layout;
use crate::manifest::CHUNK_LEN;
use crate::options::ImportOptions;
use crate::store::Store;

/// What the transaction says, or the file that is in its way.
type Noted = Result<(Vec<Withdrawal>, Vec<SourceId>), PathBuf>;

impl Store {
    /// Notes everything about an import: `path` is where the user has it, if anywhere. Copies become blobs
    /// first. Returns what had to give way.
    pub(super) fn commit_import(
        &self,
        found: &Found,
        scanned: &[ScannedFile],
        built: &BuiltTree,
        path: Option<&Path>,
        options: &ImportOptions,
    ) -> Result<Vec<Withdrawal>, ImportError> {
        let inner = &*self.inner;
        let copies =
            scanned.iter().zip(&built.files).filter_map(|(file, cid)| Some((file.copy.as_deref()?, cid)));
        let has_copies = scanned.iter().any(|file| file.copy.is_some());
        let _blobs = inner.blobs.lock();
        if has_copies {
            inner.blobs.adopt(copies)?;
        }
        let sources = self.source_records(found, scanned, built)?;
        let noted: Noted = inner.db.change(|tables| {
            if let Some(path) = being_fetched(tables, &sources)? {
                return Ok(Err(path));
            }
            let mut withdrawals = Vec::new();
            let mut ids = Vec::with_capacity(sources.len());
            tables.put_manifests(&built.blocks)?;
            // Before what belongs to it: its scope says what of that is announced.
            let mut share = match tables.share(&built.root)? {
                Some(share) => share,
                None => new_share(found, options.now_unix),
            };
            share.announce = options.announce.unwrap_or(share.announce);
            tables.put_share(&built.root, &share)?;
            for (source, file) in sources.iter().zip(scanned) {
                let id = match place_for(tables, source, file)? {
                    Place::Same(id) => id,
                    Place::Taken(id, old) => {
                        let keys = tables.withdraw_source(id, &old)?;
                        let path = inner.source_path(&old);
                        withdrawals.push(Withdrawal { path, reason: WithdrawReason::Replaced, keys });
                        tables.reserve_sources(1)?
                    }
                    Place::Free => tables.reserve_sources(1)?,
                };
                tables.put_source(id, source, &built.root)?;
                tables.put_locations(id, &file.chunks, Layout::new(source.stamp.size(), CHUNK_LEN))?;
                ids.push(id);
            }
            share.status = ShareStatus::Complete;
            if let Some(path) = path
                && !has_copies
            {
                share.add_path(path);
            }
            tables.put_share(&built.root, &share)?;
            tables.pin(&built.root, built.blocks.iter().map(|(cid, _)| *cid))?;
            // What gave way may be held again by what was just added.
            for withdrawal in &mut withdrawals {
                withdrawal.keys = tables.not_held(std::mem::take(&mut withdrawal.keys))?;
            }
            Ok(Ok((withdrawals, ids)))
        })?;
        let (withdrawals, ids) = noted.map_err(|path| ImportError::BeingFetched { path })?;
        for ((id, source), file) in ids.into_iter().zip(&sources).zip(scanned) {
            inner.cache.forget(id);
            if source.kind == SourceKind::InPlace {
                inner.cache.set_all_verified(id, source.stamp, file.chunks.len());
            }
        }
        Ok(withdrawals)
    }

    fn source_records(
        &self,
        found: &Found,
        scanned: &[ScannedFile],
        built: &BuiltTree,
    ) -> Result<Vec<SourceRecord>, ImportError> {
        let files = found.files.iter().zip(scanned).zip(&built.files);
        files
            .map(|((file, scanned), cid)| {
                if scanned.copy.is_none() {
                    return Ok(SourceRecord::new(
                        SourceKind::InPlace,
                        &file.path,
                        *cid,
                        CHUNK_LEN,
                        scanned.stamp,
                    ));
                }
                let name = blob_name(cid);
                let path = self.inner.blobs.path(&name);
                let stamp = FileStamp::of_path(&*self.inner.disk, &path)
                    .map_err(|source| FileError::new("read", &path, source))?;
                Ok(SourceRecord::new(SourceKind::Blob, &name, *cid, CHUNK_LEN, stamp))
            })
            .collect()
    }
}

/// The path of the first file to be added that is a part file of an unfinished download.
fn being_fetched(tables: &Tables<'_>, sources: &[SourceRecord]) -> Result<Option<PathBuf>, StoreError> {
    for source in sources {
        if let Some((_, old)) = tables.source_at(source.path_key())?
            && old.kind == SourceKind::Part
        {
            return Ok(Some(old.path().to_owned()));
        }
    }
    Ok(None)
}

/// What is known about the path of a file to be added.
enum Place {
    Free,
    /// The same chunks were added before.
    Same(SourceId),
    /// Other content was.
    Taken(SourceId, SourceRecord),
}

fn place_for(
    tables: &mut Tables<'_>,
    source: &SourceRecord,
    file: &ScannedFile,
) -> Result<Place, StoreError> {
    let Some((id, old)) = tables.source_at(source.path_key())? else { return Ok(Place::Free) };
    let is_same = old.chunk_len == source.chunk_len
        && old.stamp.size() == source.stamp.size()
        && (old.file == source.file || tables.chunks_of(&old)? == file.chunks);
    Ok(if is_same { Place::Same(id) } else { Place::Taken(id, old) })
}

fn new_share(found: &Found, now_unix: u64) -> ShareRecord {
    let (Node::File { name, .. } | Node::Dir { name, .. }) = &found.root;
    let is_dir = matches!(found.root, Node::Dir { .. });
    ShareRecord::new(name, found.total_len, found.files.len() as u64, is_dir, now_unix)
}
