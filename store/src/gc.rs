//! Collecting what no share needs.

use std::collections::HashSet;

use redb::ReadableTable;

use crate::cid::Digest;
use crate::db::content::{downloads, resolve};
use crate::db::records::{SourceKind, SourceRecord, decode};
use crate::db::tables::{Tables, manifest_of_pin_key};
use crate::download::part_path;
use crate::error::StoreError;
use crate::fsutil::exists;
use crate::store::{Store, lock};

/// What a collection removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Manifest blocks that no share reached.
    pub manifests: u64,
    /// Copies that no share referred to.
    pub blobs: u64,
    /// Interrupted downloads whose part was gone.
    pub downloads: u64,
    /// Bytes of the removed manifest blocks and copies together.
    pub freed_len: u64,
}

impl Store {
    /// Removes manifest blocks that no share reaches, copies that no share refers to, interrupted downloads
    /// whose part file is gone, and leftover temporary files. Never touches what a share needs, or a user's
    /// file. A tree whose blocks were put here for a download that has not begun yet has to be put again.
    ///
    /// # Errors
    /// If the database fails, or a leftover cannot be removed; what is kept is intact in any case.
    pub fn gc(&self) -> Result<GcReport, StoreError> {
        let inner = &*self.inner;
        let mut report = GcReport::default();
        // Nobody names a blob while unnamed ones are looked for, and no download begins while its part is.
        let _blobs = inner.blobs.lock();
        let open = lock(&inner.downloads);
        let named = inner.db.change(|tables| {
            for (output, record) in downloads(&tables.progress)? {
                let is_open = open.get(&output).is_some_and(|download| download.strong_count() > 0);
                let is_gone = |path: &std::path::Path| matches!(exists(&*inner.disk, path), Ok(false));
                // In the middle of its rename a download has no part either.
                if !is_open && record.finishing.is_none() && is_gone(&part_path(&output, &record.root)) {
                    tables.end_download(&output, &record)?;
                    report.downloads += 1;
                }
            }
            let mut needed = HashSet::new();
            for row in tables.pins.iter()? {
                needed.insert(manifest_of_pin_key(row?.0.value()));
            }
            let mut named = HashSet::new();
            for row in tables.sources.iter()? {
                let record: SourceRecord = decode(row?.1.value(), "source")?;
                if record.kind == SourceKind::Blob {
                    named.insert(record.path().to_owned());
                }
                // The share that named the source so may be gone, while another still has it.
                if !needed.contains(record.file.digest())
                    && let Ok(local) = resolve(&tables.manifests, record.file)?
                {
                    needed.extend(local.manifests.iter().map(|cid| *cid.digest()));
                }
            }
            drop_manifests(tables, &needed, &mut report)?;
            Ok(named)
        })?;
        drop(open);
        for name in inner.blobs.names()? {
            if !named.contains(&name) {
                report.freed_len += inner.blobs.delete(&name)?;
                report.blobs += 1;
            }
        }
        inner.blobs.clear_tmp()?;
        Ok(report)
    }
}

fn drop_manifests(
    tables: &mut Tables<'_>,
    needed: &HashSet<Digest>,
    report: &mut GcReport,
) -> Result<(), StoreError> {
    tables.manifests.retain(|cid, block| {
        let is_needed = needed.contains(cid);
        if !is_needed {
            report.manifests += 1;
            report.freed_len += block.len() as u64;
        }
        is_needed
    })?;
    Ok(())
}
