//! Files that change after they were added: found out, withdrawn, never served wrong.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use dhtfs_store::{ChunkRead, ContentCid, ShareState, WithdrawReason, Withdrawal};

use crate::common::{CHUNK, Home, add, add_copy, assert_serves, assert_sound, data, noise, tree};

/// A way to spoil a file, and what is found out about it.
type Change = (&'static str, fn(&Path), WithdrawReason);

/// Ways to spoil a file of four chunks.
const CHANGES: [Change; 6] = [
    ("overwrite", |path| overwrite(path, 0), WithdrawReason::Changed),
    ("truncate", |path| set_len(path, CHUNK as u64), WithdrawReason::Changed),
    ("extend", |path| set_len(path, 5 * CHUNK as u64), WithdrawReason::Changed),
    ("replace", replace, WithdrawReason::Changed),
    ("delete", |path| fs::remove_file(path).unwrap(), WithdrawReason::Missing),
    ("link", link_elsewhere, WithdrawReason::Missing),
];

fn overwrite(path: &Path, offset: u64) {
    File::options().write(true).open(path).unwrap().write_all_at(b"changed", offset).unwrap();
}

fn set_len(path: &Path, len: u64) {
    File::options().write(true).open(path).unwrap().set_len(len).unwrap();
}

fn replace(path: &Path) {
    let other = path.with_extension("other");
    fs::write(&other, noise(99, 4 * CHUNK)).unwrap();
    fs::rename(other, path).unwrap();
}

fn link_elsewhere(path: &Path) {
    let other = path.with_extension("other");
    fs::rename(path, &other).unwrap();
    symlink(other, path).unwrap();
}

fn withdrawn(read: ChunkRead) -> Withdrawal {
    match read {
        ChunkRead::Withdrawn(withdrawal) => withdrawal,
        other => panic!("expected a withdrawal, got {other:?}"),
    }
}

#[test]
fn a_changed_file_is_withdrawn_as_a_whole_by_the_next_read() {
    for (what, change, reason) in CHANGES {
        // With and without the chunk, and the file, known from an earlier read.
        for is_warm in [false, true] {
            let home = Home::new();
            let path = home.write("file", &noise(1, 4 * CHUNK));
            let mut store = home.open();
            let root = add(&store, &path).root;
            if is_warm {
                assert_serves(&store, &tree(&store, &root));
            } else {
                drop(store);
                store = home.open();
            }
            change(&path);
            let chunks = tree(&store, &root).files[0].chunks.clone();
            let withdrawal = withdrawn(store.read_chunk(&chunks[0]).unwrap());
            assert_eq!((&withdrawal.path, withdrawal.reason), (&path, reason), "{what}");
            // Four chunks and the manifest: nobody has any of it now.
            assert_eq!(withdrawal.keys.len(), 5, "{what}");
            assert!(withdrawal.keys.contains(&ContentCid::Manifest(root)));
            for chunk in &chunks {
                assert!(!store.has_chunk(chunk).unwrap());
                assert_eq!(store.read_chunk(chunk).unwrap(), ChunkRead::Missing);
            }
            assert!(store.held_keys(None, 10).unwrap().is_empty());
            assert_eq!(store.share(&root).unwrap().unwrap().state, ShareState::Changed);
            assert_sound(&store);
        }
    }
}

#[test]
fn a_change_elsewhere_in_the_file_is_never_served() {
    let home = Home::new();
    let path = home.write("file", &noise(1, 4 * CHUNK));
    let store = home.open();
    let root = add(&store, &path).root;
    let chunks = tree(&store, &root).files[0].chunks.clone();
    overwrite(&path, 2 * CHUNK as u64 + 1000);
    // The first chunk is as it was, and read to be sure of it.
    assert!(chunks[0].matches(&data(&store, &chunks[0])));
    assert_eq!(withdrawn(store.read_chunk(&chunks[2]).unwrap()).keys.len(), 5);
    assert_eq!(store.read_chunk(&chunks[0]).unwrap(), ChunkRead::Missing);
}

#[test]
fn the_periodic_look_finds_changes_and_forgives_mere_touches() {
    for (what, change, reason) in CHANGES {
        let home = Home::new();
        let path = home.write("file", &noise(1, 4 * CHUNK));
        let touched = home.write("touched", &noise(2, 2 * CHUNK));
        let copied = home.write("copied", b"a copy has no source outside");
        let store = home.open();
        let root = add(&store, &path).root;
        let touched_root = add(&store, &touched).root;
        let copied_root = add_copy(&store, &copied).root;
        assert!(store.check_sources().unwrap().is_empty());
        change(&path);
        File::options()
            .write(true)
            .open(&touched)
            .unwrap()
            .set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        fs::remove_file(&copied).unwrap();
        let withdrawals = store.check_sources().unwrap();
        assert_eq!(withdrawals.len(), 1, "{what}");
        assert_eq!((&withdrawals[0].path, withdrawals[0].reason), (&path, reason), "{what}");
        assert_eq!(withdrawals[0].keys.len(), 5);
        assert_eq!(store.share(&root).unwrap().unwrap().state, ShareState::Changed);
        for root in [touched_root, copied_root] {
            assert_eq!(store.share(&root).unwrap().unwrap().state, ShareState::Complete);
            assert_serves(&store, &tree(&store, &root));
        }
        assert!(store.check_sources().unwrap().is_empty());
        assert_sound(&store);
    }
}

#[test]
fn an_unreadable_file_is_withdrawn() {
    if rustix::process::geteuid().is_root() {
        println!("SKIPPED: root can read every file");
        return;
    }
    let home = Home::new();
    let path = home.write("file", b"content");
    let root = add(&home.open(), &path).root;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let store = home.open();
    let chunk = tree(&store, &root).files[0].chunks[0];
    assert_eq!(withdrawn(store.read_chunk(&chunk).unwrap()).reason, WithdrawReason::Unreadable);
}

#[test]
fn a_chunk_that_lies_elsewhere_too_is_served_from_there() {
    let home = Home::new();
    let content = noise(1, 2 * CHUNK);
    let paths: Vec<_> = ["one", "two", "three"].iter().map(|name| home.write(name, &content)).collect();
    let store = home.open();
    let roots: Vec<_> = paths.iter().map(|path| add(&store, path).root).collect();
    let chunk = tree(&store, &roots[0]).files[0].chunks[0];
    for path in &paths[..2] {
        overwrite(path, 7);
        assert!(chunk.matches(&data(&store, &chunk)));
    }
    // The two are withdrawn, and since nobody was told yet, the next look tells.
    let withdrawals = store.check_sources().unwrap();
    let mut told: Vec<_> = withdrawals.iter().map(|withdrawal| withdrawal.path.clone()).collect();
    told.sort();
    assert_eq!(told, [paths[0].clone(), paths[1].clone()]);
    // Both chunks are still held; only the two manifests are not.
    let keys: Vec<_> = withdrawals.into_iter().flat_map(|withdrawal| withdrawal.keys).collect();
    assert_eq!(keys.len(), 2);
    assert!(keys.contains(&roots[0].into()) && keys.contains(&roots[1].into()));
    overwrite(&paths[2], 7);
    assert_eq!(withdrawn(store.read_chunk(&chunk).unwrap()).keys.len(), 3);
    assert_sound(&store);
}

#[test]
fn a_chunk_of_two_files_stays_held_when_one_of_them_goes() {
    let home = Home::new();
    let (first, second, third) = (noise(1, CHUNK), noise(2, CHUNK), noise(3, CHUNK));
    let one = home.write("one", &[first.clone(), second].concat());
    let two = home.write("two", &[third, first].concat());
    let store = home.open();
    let (one, two) = (add(&store, &one).root, add(&store, &two).root);
    let shared = tree(&store, &one).files[0].chunks[0];
    let removed = store.remove_share(&one).unwrap().unwrap();
    assert_eq!(removed.keys.len(), 2);
    assert!(!removed.keys.contains(&shared.into()));
    assert!(shared.matches(&data(&store, &shared)));
    assert_eq!(store.remove_share(&two).unwrap().unwrap().keys.len(), 3);
    assert_eq!(store.read_chunk(&shared).unwrap(), ChunkRead::Missing);
    assert_eq!(store.remove_share(&two).unwrap(), None);
    assert_sound(&store);
}

#[test]
fn a_report_of_a_bad_chunk_is_believed_only_if_it_is_true() {
    let home = Home::new();
    let path = home.write("file", &noise(1, 2 * CHUNK));
    let store = home.open();
    let root = add(&store, &path).root;
    let chunks = tree(&store, &root).files[0].chunks.clone();
    assert_eq!(store.report_bad_chunk(&chunks[1]).unwrap(), None);
    assert_serves(&store, &tree(&store, &root));
    overwrite(&path, CHUNK as u64);
    assert_eq!(store.report_bad_chunk(&chunks[0]).unwrap(), None);
    assert_eq!(store.report_bad_chunk(&chunks[1]).unwrap().unwrap().keys.len(), 3);
    assert_eq!(store.report_bad_chunk(&chunks[1]).unwrap(), None);
}

#[test]
fn a_damaged_copy_is_withdrawn_and_adding_again_heals_it() {
    let home = Home::new();
    let path = home.write("file", &noise(1, 2 * CHUNK));
    let store = home.open();
    let root = add_copy(&store, &path).root;
    let blob = home.data().join("blobs").join(root.to_string());
    overwrite(&blob, 5);
    let chunk = tree(&store, &root).files[0].chunks[0];
    assert_eq!(withdrawn(store.read_chunk(&chunk).unwrap()).path, blob);
    assert!(!blob.exists());
    assert_eq!(add_copy(&store, &path).root, root);
    assert_serves(&store, &tree(&store, &root));
    overwrite(&blob, 5);
    assert_eq!(add_copy(&store, &path).root, root);
    assert_serves(&store, &tree(&store, &root));
    assert_sound(&store);
}

#[test]
fn in_a_directory_only_the_changed_file_is_withdrawn() {
    let home = Home::new();
    for index in 0..5u64 {
        home.write(&format!("dir/{index}"), &noise(index, CHUNK + 1));
    }
    let store = home.open();
    let root = add(&store, &home.path("dir")).root;
    let tree = tree(&store, &root);
    overwrite(&home.path("dir/3"), 0);
    assert_eq!(withdrawn(store.read_chunk(&tree.files[3].chunks[0]).unwrap()).keys.len(), 2);
    assert_eq!(store.share(&root).unwrap().unwrap().state, ShareState::Changed);
    for index in [0, 1, 2, 4] {
        assert!(tree.files[index].chunks[1].matches(&data(&store, &tree.files[index].chunks[1])));
    }
    assert!(store.held_keys(None, 100).unwrap().contains(&root.into()));
    assert_sound(&store);
}

#[test]
fn readers_on_many_threads_never_see_a_wrong_byte_while_the_file_is_rewritten() {
    let home = Home::new();
    let versions = [noise(1, 3 * CHUNK), noise(2, 3 * CHUNK)];
    let path = home.write("file", &versions[0]);
    let store = home.open();
    let roots = versions.clone().map(|version| {
        fs::write(&path, version).unwrap();
        add(&store, &path).root
    });
    let chunks: Vec<_> = roots.iter().flat_map(|root| tree(&store, root).files[0].chunks.clone()).collect();
    let is_done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                    for chunk in &chunks {
                        if let ChunkRead::Data(data) = store.read_chunk(chunk).unwrap() {
                            assert!(chunk.matches(&data));
                        }
                    }
                }
            });
        }
        for round in 0..20 {
            let version = &versions[round % 2];
            if round % 3 == 0 {
                fs::write(&path, version).unwrap()
            } else {
                let other = home.write("other", version);
                fs::rename(other, &path).unwrap();
            }
            // Readers may have withdrawn the file between its two looks; either way nothing wrong comes out.
            let _ = store.import_path(&path, &Default::default(), &dhtfs_store::no_progress);
        }
        is_done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_sound(&store);
}
