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
use crate::db::tables::{MANIFESTS, PROGRESS, Tables};
use crate::download::part::PartFiles;
use crate::download::plan::Plan;
use crate::download::{Download, part_path};
use crate::error::{DownloadError, FileError, StoreError};
use crate::fsutil::{FileId, FileStamp};
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
        let look_up = |source| FileError::new("look up", state.part.part_path(), source);
        let part = FileId::of_path(state.part.part_path()).map_err(look_up)?;
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

    fn set_finishing(&self, finishing: Option<Finishing>) -> Result<(), DownloadError> {
        let state = &*self.state;
        let noted = self.store.inner.db.write(|txn| {
            let mut tables = Tables::open(txn)?;
            let Some(mut record) = state.record(&tables)? else { return Ok(false) };
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
    let stamp = |path: &Path| FileStamp::of_path(path).unwrap_or_default();
    let files: Vec<_> = plan.files.iter().map(|file| file.path.below(output)).collect();
    let stamps: Vec<_> = files.iter().map(|path| stamp(path)).collect();
    let replaced = store.inner.db.write(|txn| {
        let mut tables = Tables::open(txn)?;
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
    let look_up =
        |path: &Path| FileId::of_path(path).map_err(|source| FileError::new("look up", path, source));
    let is_named = look_up(output)? == Some(finishing.part);
    let is_part = look_up(&part_path)? == Some(finishing.part);
    if is_named {
        let part = PartFiles::new(output, &plan)?;
        if is_part {
            // The rename was a link and an unlink; the second is still to come.
            crate::fsutil::remove_file_if_there(&part_path)?;
        }
        part.sync_parent()?;
        complete(store, output, &plan)?;
        return Ok(true);
    }
    if is_part {
        match PartFiles::new(output, &plan)?.rename(finishing.force) {
            Ok(()) => {
                complete(store, output, &plan)?;
                return Ok(true);
            }
            Err(DownloadError::Exists(_)) => {}
            Err(error) => return Err(error),
        }
    }
    // Something is in the way, or the part is gone: the download goes on from what there is.
    store.inner.db.write(|txn| {
        let mut tables = Tables::open(txn)?;
        tables.put_download(output, &DownloadRecord { finishing: None, ..record.clone() })
    })?;
    Ok(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::fs;

    use super::*;
    use crate::chunks::ChunkRead;
    use crate::manifest::ResolvedTree;
    use crate::options::{DownloadOptions, ImportOptions, OpenOptions, no_progress};
    use crate::shares::ShareState;

    /// A store with a download of a directory or a file that has everything but its name.
    struct Scene {
        dir: tempfile::TempDir,
        tree: ResolvedTree,
    }

    const CONTENT: &[u8] = b"content of the only file";

    impl Scene {
        fn new(is_dir: bool) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let source = Store::open(&dir.path().join("source"), OpenOptions::default()).unwrap();
            let path = dir.path().join("original");
            if is_dir {
                fs::create_dir_all(path.join("sub")).unwrap();
                fs::write(path.join("sub/file"), CONTENT).unwrap();
            } else {
                fs::write(&path, CONTENT).unwrap();
            }
            let root = source.import_path(&path, &ImportOptions::default(), &no_progress).unwrap().root;
            let tree = source.resolve_local(&root).unwrap().unwrap();
            let scene = Self { dir, tree };
            let mut resolver = crate::manifest::TreeResolver::new(root);
            let store = scene.open();
            while !resolver.is_complete() {
                for cid in resolver.needs() {
                    let block = source.manifest_block(&cid).unwrap().unwrap();
                    resolver.insert(cid, &block).unwrap();
                    store.put_manifest_blocks(&[(cid, block)]).unwrap();
                }
            }
            let download = scene.begin(&store);
            download.write(&crate::cid::ChunkCid::of(CONTENT), CONTENT).unwrap();
            download.commit().unwrap();
            scene
        }

        fn output(&self) -> PathBuf {
            self.dir.path().join("output")
        }

        fn open(&self) -> Store {
            Store::open(&self.dir.path().join("data"), OpenOptions::default()).unwrap()
        }

        fn begin(&self, store: &Store) -> Download {
            store.begin_download(&self.tree, &self.output(), DownloadOptions::default()).unwrap()
        }

        /// Goes as far as the announcement, then also renames, and stops as a crash would.
        fn crash(&self, with_rename: bool) {
            let store = self.open();
            let download = self.begin(&store);
            let part = FileId::of_path(download.part_path()).unwrap().unwrap();
            download.set_finishing(Some(Finishing { part, force: false })).unwrap();
            if with_rename {
                download.state.part.rename(false).unwrap();
            }
        }

        fn assert_finished(&self, store: &Store) {
            let path = if self.tree.is_dir { self.output().join("sub/file") } else { self.output() };
            assert_eq!(fs::read(path).unwrap(), CONTENT);
            assert!(!part_path(&self.output(), &self.tree.root).exists());
            let share = store.share(&self.tree.root).unwrap().unwrap();
            assert_eq!((share.state, share.paths), (ShareState::Complete, vec![self.output()]));
            self.assert_served(store);
        }

        fn assert_served(&self, store: &Store) {
            let read = store.read_chunk(&crate::cid::ChunkCid::of(CONTENT)).unwrap();
            assert_eq!(read, ChunkRead::Data(CONTENT.to_vec()));
            store.check_invariants().unwrap().unwrap();
        }
    }

    #[test]
    fn a_crash_before_or_after_the_rename_is_brought_to_its_end_at_the_next_start() {
        for is_dir in [false, true] {
            for with_rename in [false, true] {
                let scene = Scene::new(is_dir);
                scene.crash(with_rename);
                scene.assert_finished(&scene.open());
                scene.assert_finished(&scene.open());
            }
        }
    }

    #[test]
    fn a_crash_between_link_and_unlink_leaves_one_name() {
        let scene = Scene::new(false);
        scene.crash(false);
        fs::hard_link(part_path(&scene.output(), &scene.tree.root), scene.output()).unwrap();
        scene.assert_finished(&scene.open());
    }

    #[test]
    fn what_took_the_name_meanwhile_is_not_replaced() {
        let scene = Scene::new(false);
        scene.crash(false);
        fs::write(scene.output(), "precious").unwrap();
        let store = scene.open();
        assert_eq!(fs::read(scene.output()).unwrap(), b"precious");
        let share = store.share(&scene.tree.root).unwrap().unwrap();
        assert_eq!(share.state, ShareState::Partial { have_len: CONTENT.len() as u64 });
        scene.assert_served(&store);
        fs::remove_file(scene.output()).unwrap();
        scene.begin(&store).finish().unwrap();
        scene.assert_finished(&store);
    }

    #[test]
    fn a_part_and_output_that_both_vanished_are_found_out() {
        let scene = Scene::new(true);
        scene.crash(true);
        fs::remove_dir_all(scene.output()).unwrap();
        let store = scene.open();
        let read = store.read_chunk(&crate::cid::ChunkCid::of(CONTENT)).unwrap();
        assert!(matches!(read, ChunkRead::Withdrawn(_)), "{read:?}");
        store.check_invariants().unwrap().unwrap();
        let download = scene.begin(&store);
        assert_eq!(download.missing().len(), 1);
        download.write(&crate::cid::ChunkCid::of(CONTENT), CONTENT).unwrap();
        download.finish().unwrap();
        scene.assert_finished(&store);
    }

    #[test]
    fn a_file_deleted_right_after_the_rename_is_found_missing_when_read() {
        let scene = Scene::new(true);
        scene.crash(true);
        fs::remove_file(scene.output().join("sub/file")).unwrap();
        let store = scene.open();
        let read = store.read_chunk(&crate::cid::ChunkCid::of(CONTENT)).unwrap();
        assert!(matches!(read, ChunkRead::Withdrawn(_)), "{read:?}");
        assert_eq!(store.share(&scene.tree.root).unwrap().unwrap().state, ShareState::Changed);
        store.check_invariants().unwrap().unwrap();
    }

    #[test]
    fn finish_goes_on_where_an_earlier_call_broke_off() {
        for with_rename in [false, true] {
            let scene = Scene::new(false);
            let store = scene.open();
            let download = scene.begin(&store);
            let part = FileId::of_path(download.part_path()).unwrap().unwrap();
            download.set_finishing(Some(Finishing { part, force: false })).unwrap();
            if with_rename {
                download.state.part.rename(false).unwrap();
            }
            assert_eq!(download.finish().unwrap(), scene.output());
            scene.assert_finished(&store);
        }
    }
}
