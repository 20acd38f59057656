//! What a crash or a failed sync leaves behind, stage by stage.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::path::PathBuf;

use super::{Download, Written, part_path};
use crate::chunks::ChunkRead;
use crate::cid::ChunkCid;
use crate::db::records::Finishing;
use crate::disk::RealDisk;
use crate::fsutil::FileId;
use crate::manifest::{ResolvedTree, TreeResolver};
use crate::options::{DownloadOptions, ImportOptions, OpenOptions, no_progress};
use crate::shares::ShareState;
use crate::store::Store;

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
        let mut resolver = TreeResolver::new(root);
        let store = scene.open();
        while !resolver.is_complete() {
            for cid in resolver.needs() {
                let block = source.manifest_block(&cid).unwrap().unwrap();
                resolver.insert(cid, &block).unwrap();
                store.put_manifest_blocks(&[(cid, block)]).unwrap();
            }
        }
        let download = scene.begin(&store);
        download.write(&ChunkCid::of(CONTENT), CONTENT).unwrap();
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
        let part = FileId::of_path(&RealDisk, download.part_path()).unwrap().unwrap();
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
        let read = store.read_chunk(&ChunkCid::of(CONTENT)).unwrap();
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
    let read = store.read_chunk(&ChunkCid::of(CONTENT)).unwrap();
    assert!(matches!(read, ChunkRead::Withdrawn(_)), "{read:?}");
    store.check_invariants().unwrap().unwrap();
    let download = scene.begin(&store);
    assert_eq!(download.missing().len(), 1);
    download.write(&ChunkCid::of(CONTENT), CONTENT).unwrap();
    download.finish().unwrap();
    scene.assert_finished(&store);
}

#[test]
fn a_file_deleted_right_after_the_rename_is_found_missing_when_read() {
    let scene = Scene::new(true);
    scene.crash(true);
    fs::remove_file(scene.output().join("sub/file")).unwrap();
    let store = scene.open();
    let read = store.read_chunk(&ChunkCid::of(CONTENT)).unwrap();
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
        let part = FileId::of_path(&RealDisk, download.part_path()).unwrap().unwrap();
        download.set_finishing(Some(Finishing { part, force: false })).unwrap();
        if with_rename {
            download.state.part.rename(false).unwrap();
        }
        assert_eq!(download.finish().unwrap(), scene.output());
        scene.assert_finished(&store);
    }
}

#[test]
fn after_a_failed_sync_nothing_uncommitted_is_trusted() {
    let scene = Scene::new(false);
    fs::remove_file(part_path(&scene.output(), &scene.tree.root)).unwrap();
    let store = scene.open();
    let download = scene.begin(&store);
    let chunk = ChunkCid::of(CONTENT);
    assert_eq!(download.write(&chunk, CONTENT).unwrap(), Written::Stored);
    assert!(download.missing().is_empty());
    download.state.distrust();
    assert_eq!((download.missing().len(), download.have_len()), (1, 0));
    assert!(download.commit().unwrap().is_empty());
    assert_eq!(store.read_chunk(&chunk).unwrap(), ChunkRead::Missing);
    assert_eq!(download.write(&chunk, CONTENT).unwrap(), Written::Stored);
    download.finish().unwrap();
    scene.assert_finished(&store);
}
