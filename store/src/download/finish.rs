//! The end of a download: one rename between two transactions.
//!
//! 1. Everything is synced and noted.
//! 2. A transaction notes that the part, known by its inode, is about to get its final name.
//! 3. The rename, and a sync of the directory.
//! 4. A transaction makes the sources ordinary files at their final paths and the share complete.
//!
//! After a crash between 2 and 4 the inode tells whether 3 has happened.

use std::path::{Path, PathBuf};

use crate::chunks::{WithdrawReason, Withdrawal};
use crate::db::content::{download, downloads, resolve};
use crate::db::records::{DownloadRecord, Finishing, ShareStatus, SourceKind, SourceRecord, path_bytes};
use crate::db::tables::{MANIFESTS, PROGRESS};
use crate::download::part::PartFiles;
use crate::download::plan::Plan;
use crate::download::{Download, part_path};
use crate::error::{DownloadError, FileError, StoreError};
use crate::fsutil::{FileId, FileStamp, remove_file_if_there};
use crate::store::{Store, lock};

impl Download {
    /// Commits the rest, gives the output its final name and makes the share complete. Returns the path. A
    /// crash at any point is brought to an end when the store is opened again: forward if the file had its
    /// name, back if not.
    ///
    /// # Errors
    /// [`DownloadError::Incomplete`] if chunks are missing. [`DownloadError::Exists`] if something
    /// has appeared at the output; everything is kept, and finish may be called again.
    pub fn finish(&self) -> Result<PathBuf, DownloadError> {
        let state = &*self.state;
        let _commit = lock(&state.commit);
        if state.finished.get().is_some() {
            return Ok(state.output.clone());
        }
        if recover(&self.store, &state.output)? {
            // The last transaction of an earlier call had failed.
            let _ = state.finished.set(());
            return Ok(state.output.clone());
        }
        self.commit_locked()?;
        let (missing, is_layout_synced) = {
            let bits = state.bits();
            (state.plan.chunks.len() - bits.have.count() as usize, bits.is_layout_synced)
        };
        if missing > 0 {
            return Err(DownloadError::Incomplete { missing });
        }
        if !is_layout_synced {
            // Nothing was ever written: all files are empty, and only their names matter.
            state.part.sync(&state.plan, 0..0, true)?;
            state.bits().is_layout_synced = true;
        }
        if let Some(path) = self.store.first_spoiled(&state.output, &state.plan, &state.part)? {
            self.store.forget_spoiled(&state.output, &state.plan, &state.part)?;
            return Err(DownloadError::Spoiled(path));
        }
        let look_up = |source| FileError::new("look up", state.part.part_path(), source);
        let part = FileId::of_path(&*self.store.inner.disk, state.part.part_path()).map_err(look_up)?;
        let part = part.ok_or_else(|| look_up(std::io::ErrorKind::NotFound.into()))?;
        self.set_finishing(Some(Finishing { part, force: state.force }))?;
        if let Err(error) = state.part.rename(state.force) {
            self.set_finishing(None)?;
            return Err(error);
        }
        complete(&self.store, &state.output, &state.plan)?;
        let _ = state.finished.set(());
        Ok(state.output.clone())
    }

    pub(super) fn set_finishing(&self, finishing: Option<Finishing>) -> Result<(), DownloadError> {
        let state = &*self.state;
        let noted = self.store.inner.db.change(|tables| {
            let Some(mut record) = state.record(tables)? else { return Ok(false) };
            record.finishing = finishing;
            tables.put_download(&state.output, &record)?;
            Ok(true)
        })?;
        if noted { Ok(()) } else { Err(DownloadError::Removed) }
    }
}

/// The last transaction: the output has its name.
fn complete(store: &Store, output: &Path, plan: &Plan) -> Result<(), StoreError> {
    // A file that is gone already is found missing when it is read.
    let stamp = |path: &Path| FileStamp::of_path(&*store.inner.disk, path).unwrap_or_default();
    let files: Vec<_> = plan.files.iter().map(|file| file.path.below(output)).collect();
    let stamps: Vec<_> = files.iter().map(|path| stamp(path)).collect();
    let replaced = store.inner.db.change(|tables| {
        let Some(record) = download(&tables.progress, output)? else { return Ok(Vec::new()) };
        let mut replaced = Vec::new();
        for (id, ((file, path), stamp)) in
            (record.first_source..).zip(plan.files.iter().zip(&files).zip(&stamps))
        {
            if let Some((old_id, old)) = tables.source_at(path_bytes(path))?
                && old_id != id
            {
                let keys = tables.withdraw_source(old_id, &old)?;
                replaced.push(Withdrawal { path: path.clone(), reason: WithdrawReason::Replaced, keys });
            }
            let source = SourceRecord::new(SourceKind::InPlace, path, file.cid, file.chunk_len, *stamp);
            tables.update_source(id, &source)?;
        }
        if let Some(mut share) = tables.share(&plan.root)? {
            share.status = ShareStatus::Complete;
            share.add_path(output);
            tables.put_share(&plan.root, &share)?;
        }
        tables.progress.remove(path_bytes(output))?;
        Ok(replaced)
    })?;
    store.inner.tell_later(replaced);
    Ok(())
}

/// Brings every rename that a crash interrupted to its end.
pub(crate) fn recover_all(store: &Store) -> Result<(), StoreError> {
    let all = store.inner.db.read(|txn| downloads(&txn.open_table(PROGRESS)?))?;
    for (output, record) in all {
        if let Some(finishing) = record.finishing
            && let Err(error) = bring_to_end(store, &output, &record, finishing)
        {
            // The row stays as it is, and the next begin of this download tries again.
            tracing::warn!(output = %output.display(), %error, "could not end an interrupted download");
        }
    }
    Ok(())
}

/// Does the same for one output. Returns whether a download came to its end.
pub(crate) fn recover(store: &Store, output: &Path) -> Result<bool, DownloadError> {
    let record = store.inner.db.read(|txn| download(&txn.open_table(PROGRESS)?, output))?;
    match record.and_then(|record| Some((record.finishing?, record))) {
        Some((finishing, record)) => bring_to_end(store, output, &record, finishing),
        None => Ok(false),
    }
}

fn bring_to_end(
    store: &Store,
    output: &Path,
    record: &DownloadRecord,
    finishing: Finishing,
) -> Result<bool, DownloadError> {
    let local = store.inner.db.read(|txn| resolve(&txn.open_table(MANIFESTS)?, record.root))?;
    let plan = Plan::new(&local.map_err(DownloadError::MissingManifest)?.tree);
    let part_path = part_path(output, &record.root);
    let disk = &store.inner.disk;
    let look_up = |path: &Path| {
        FileId::of_path(&**disk, path).map_err(|source| FileError::new("look up", path, source))
    };
    let is_named = look_up(output)? == Some(finishing.part);
    let is_part = look_up(&part_path)? == Some(finishing.part);
    if is_named {
        let part = PartFiles::new(disk, output, &plan)?;
        if is_part {
            // The rename was a link and an unlink; the second is still to come.
            remove_file_if_there(&**disk, &part_path)?;
        }
        part.sync_parent()?;
        complete(store, output, &plan)?;
        return Ok(true);
    }
    if is_part {
        match PartFiles::new(disk, output, &plan)?.rename(finishing.force) {
            Ok(()) => {
                complete(store, output, &plan)?;
                return Ok(true);
            }
            Err(DownloadError::Exists(_)) => {}
            Err(error) => return Err(error),
        }
    }
    // Something is in the way, or the part is gone: the download goes on from what there is.
    let record = DownloadRecord { finishing: None, ..record.clone() };
    store.inner.db.change(|tables| tables.put_download(output, &record))?;
    Ok(false)
}
