//! Shares: what was added or is being fetched, and the keys to provide for them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use redb::ReadableTable;

use crate::cid::{ChunkCid, ContentCid, ManifestCid};
use crate::db::content::{Removal, downloads};
use crate::db::records::{ShareRecord, ShareStatus, decode};
use crate::db::tables::{
    LOCATIONS, LocationKey, PINS, PROGRESS, PinKey, SHARES, location_range, manifest_of_pin_key, pin_range,
    split_location_key,
};
use crate::download::part_path;
use crate::error::StoreError;
use crate::fsutil::exists;
use crate::options::AnnounceScope;
use crate::store::Store;

/// Something that was added or is being fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// CID of its manifest.
    pub root: ManifestCid,
    /// Name in the manifest.
    pub name: String,
    /// Bytes of all its files together.
    pub size: u64,
    /// Number of files.
    pub files: u64,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// When it was first added, in seconds since 1970, by the caller's clock.
    pub added_unix: u64,
    /// Where it was added from or fetched to; none if only the store has it, or while it is being fetched.
    pub paths: Vec<PathBuf>,
    /// Whether it can be had from here.
    pub state: ShareState,
    /// What of it is announced.
    pub announce: AnnounceScope,
}

/// Whether a share can be had from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareState {
    /// All of it.
    Complete,
    /// It is being fetched, or the fetch was interrupted.
    Partial {
        /// Bytes of the output that are on the disk.
        have_len: u64,
    },
    /// A file of it changed or vanished since; the rest is still served. Adding it again makes it complete.
    Changed,
}

/// What the removal of a share did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// What is held nowhere any more, so must no longer be provided.
    pub keys: Vec<ContentCid>,
    /// Part files and part directories of its unfinished downloads. They stay on the disk; a later download
    /// to the same output takes them up.
    pub parts: Vec<PathBuf>,
}

impl Store {
    /// All shares, sorted by root.
    ///
    /// # Errors
    /// If the database fails.
    pub fn shares(&self) -> Result<Vec<Share>, StoreError> {
        self.inner.db.read(|txn| {
            let have = have_lens(&txn.open_table(PROGRESS)?)?;
            let mut shares = Vec::new();
            for row in txn.open_table(SHARES)?.iter()? {
                let (root, record) = row?;
                let root = ManifestCid::from_digest(*root.value());
                shares.push(share(root, decode(record.value(), "share")?, &have));
            }
            Ok(shares)
        })
    }

    /// One share; `None` if `root` is not shared.
    ///
    /// # Errors
    /// If the database fails.
    pub fn share(&self, root: &ManifestCid) -> Result<Option<Share>, StoreError> {
        self.inner.db.read(|txn| {
            let Some(record) = txn.open_table(SHARES)?.get(root.digest())? else { return Ok(None) };
            let have = have_lens(&txn.open_table(PROGRESS)?)?;
            Ok(Some(share(*root, decode(record.value(), "share")?, &have)))
        })
    }

    /// Whether `root` was added from or fetched to `path`, all of it, and something is still there.
    ///
    /// # Errors
    /// If the database fails.
    pub fn is_complete_at(&self, root: &ManifestCid, path: &Path) -> Result<bool, StoreError> {
        let Some(share) = self.share(root)?.filter(|share| share.state == ShareState::Complete) else {
            return Ok(false);
        };
        let disk = &*self.inner.disk;
        // As the outputs of downloads are noted.
        let Some((parent, name)) = path.parent().zip(path.file_name()) else { return Ok(false) };
        let Ok(parent) = disk.canonicalize(parent) else { return Ok(false) };
        let path = parent.join(name);
        Ok(share.paths.contains(&path) && disk.symlink_metadata(&path).is_ok())
    }

    /// Forgets a share, and ends its downloads. The user's files stay; copies in the store that no other
    /// share needs are deleted. `None` if `root` is not shared.
    ///
    /// # Errors
    /// If the database fails; the share is still there then.
    pub fn remove_share(&self, root: &ManifestCid) -> Result<Option<Removed>, StoreError> {
        let inner = &*self.inner;
        let _blobs = inner.blobs.lock();
        let removal = inner.db.change(|tables| tables.remove_share(root))?;
        let Some(Removal { keys, sources, blobs, downloads }) = removal else { return Ok(None) };
        sources.into_iter().for_each(|id| inner.cache.forget(id));
        for blob in blobs {
            if let Err(error) = inner.blobs.delete(&blob) {
                tracing::warn!(%error, "a copy nobody needs stays until the next collection");
            }
        }
        let parts = downloads
            .iter()
            .map(|output| part_path(output, root))
            .filter(|part| exists(&*self.inner.disk, part).unwrap_or(false))
            .collect();
        Ok(Some(Removed { keys, parts }))
    }

    /// A page of the keys to provide: the chunks that are held, then the manifest blocks of shares (blocks
    /// that are merely cached are not among them), at most `max` of those after `after`. Start with `None`,
    /// go on with the last key of the page; an empty page is the end. What is added or removed meanwhile may
    /// or may not appear.
    ///
    /// # Errors
    /// If the database fails.
    pub fn held_keys(&self, after: Option<ContentCid>, max: usize) -> Result<Vec<ContentCid>, StoreError> {
        self.inner.db.read(|txn| {
            let mut keys = Vec::new();
            let after_manifest = match after {
                Some(ContentCid::Manifest(cid)) => Some(cid),
                _ => None,
            };
            if after_manifest.is_none() {
                let start = match after {
                    Some(ContentCid::Chunk(cid)) => location_range(cid.digest()).1,
                    _ => [0; 40],
                };
                let mut last = None;
                for row in txn.open_table(LOCATIONS)?.range::<&LocationKey>(&start..)? {
                    if keys.len() == max {
                        return Ok(keys);
                    }
                    let key = ContentCid::Chunk(ChunkCid::from_digest(split_location_key(row?.0.value()).0));
                    // A chunk lies in several sources, but is one key; `after` itself may come once more.
                    if Some(key) != last && Some(key) != after {
                        keys.push(key);
                    }
                    last = Some(key);
                }
            }
            let start = after_manifest.map_or([0; 64], |cid| pin_range(cid.digest()).1);
            let mut last = after_manifest;
            for row in txn.open_table(PINS)?.range::<&PinKey>(&start..)? {
                if keys.len() == max {
                    break;
                }
                let cid = ManifestCid::from_digest(manifest_of_pin_key(row?.0.value()));
                if Some(cid) != last {
                    keys.push(ContentCid::Manifest(cid));
                }
                last = Some(cid);
            }
            Ok(keys)
        })
    }
}

/// Of each share that is being fetched, how many bytes its most advanced download has.
fn have_lens(
    progress: &impl ReadableTable<&'static [u8], &'static [u8]>,
) -> Result<HashMap<ManifestCid, u64>, StoreError> {
    let mut have = HashMap::new();
    for (_, record) in downloads(progress)? {
        let have_len: &mut u64 = have.entry(record.root).or_default();
        *have_len = record.have_len.max(*have_len);
    }
    Ok(have)
}

fn share(root: ManifestCid, record: ShareRecord, have: &HashMap<ManifestCid, u64>) -> Share {
    let paths = record.paths();
    let state = match record.status {
        ShareStatus::Complete => ShareState::Complete,
        ShareStatus::Partial => ShareState::Partial { have_len: have.get(&root).copied().unwrap_or(0) },
        ShareStatus::Changed => ShareState::Changed,
    };
    let ShareRecord { name, size, files, is_dir, added_unix, announce, .. } = record;
    Share { root, name, size, files, is_dir, added_unix, paths, state, announce }
}
