//! What is to be announced: it follows every change, and nothing else changes it.

use std::collections::BTreeSet;
use std::fs;

use dhtfs_store::{
    AnnounceScope, ChunkCid, ContentCid, DownloadOptions, ImportOptions, KeyPosition, KeySummary,
    ManifestCid, ProvideClass, ProvideCounts, ProvideKey, ProvideMark, ProvideSummary, Store, no_progress,
};

use crate::common::{CHUNK, Home, add, add_copy, assert_sound, begin, fetch, hand_over, noise, tree};

/// Everything to be announced, in the order of positions.
fn all(store: &Store) -> Vec<ProvideKey> {
    store.provide_range(KeyPosition::MIN, KeyPosition::MAX, usize::MAX).unwrap()
}

fn cids(keys: &[ProvideKey]) -> BTreeSet<ContentCid> {
    keys.iter().map(|key| key.cid).collect()
}

fn fresh(store: &Store, class: ProvideClass) -> Vec<ProvideKey> {
    store.provide_fresh(class, KeyPosition::MIN, KeyPosition::MAX, usize::MAX).unwrap()
}

fn mark(store: &Store, keys: &[ProvideKey], unix: u64, holders: u8) -> usize {
    let marks: Vec<_> =
        keys.iter().map(|key| ProvideMark { position: key.position, unix, holders }).collect();
    store.provide_mark(&marks).unwrap()
}

fn key(store: &Store, cid: impl Into<ContentCid>) -> Option<ProvideKey> {
    store.provide_key(&cid.into()).unwrap()
}

fn add_with(store: &Store, path: &std::path::Path, announce: Option<AnnounceScope>) -> ManifestCid {
    let options = ImportOptions { announce, ..ImportOptions::default() };
    store.import_path(path, &options, &no_progress).unwrap().root
}

#[test]
fn everything_held_is_scheduled_in_the_order_of_positions_and_a_restart_changes_nothing() {
    let home = Home::new();
    for index in 0..12u64 {
        home.write(&format!("dir/{index}"), &noise(index % 5, (index as usize % 3) * CHUNK + 10));
    }
    let store = home.open();
    let root = add(&store, &home.path("dir")).root;
    add_copy(&store, &home.path("dir/7"));
    let keys = all(&store);
    assert_eq!(cids(&keys), store.held_keys(None, 1000).unwrap().into_iter().collect());
    assert!(keys.windows(2).all(|pair| pair[0].position < pair[1].position));
    assert!(keys.iter().all(|key| key.position == KeyPosition::of(&key.cid)));
    assert!(keys.iter().all(|key| key.last_unix.is_none() && key.holders == 0));
    let len = keys.len() as u64;
    let expected = ProvideCounts { keys: len, roots: 2, fresh: len, fresh_roots: 2 };
    assert_eq!(store.provide_counts().unwrap(), expected);
    assert_eq!(fresh(&store, ProvideClass::Root).len(), 2);
    assert_eq!(key(&store, root).unwrap().class, ProvideClass::Root);
    mark(&store, &keys[..5], 1000, 3);
    let marked = all(&store);
    drop(store);
    let store = home.open();
    assert_eq!(all(&store), marked);
    assert_eq!(store.provide_counts().unwrap().fresh, len - 5);
    assert_sound(&store);
}

#[test]
fn ranges_include_both_ends_and_stop_at_the_limit() {
    let home = Home::new();
    let store = home.open();
    add(&store, &home.write("file", &noise(1, 9 * CHUNK)));
    let keys = all(&store);
    assert_eq!(keys.len(), 10);
    let range = |from: usize, to: usize, max| {
        store.provide_range(keys[from].position, keys[to].position, max).unwrap()
    };
    assert_eq!(range(2, 7, 100), keys[2..=7]);
    assert_eq!(range(2, 7, 3), keys[2..5]);
    assert_eq!(range(4, 4, 100), keys[4..=4]);
    assert!(range(5, 4, 100).is_empty());
    assert!(range(0, 9, 0).is_empty());
    let others: Vec<_> = keys.iter().copied().filter(|key| key.class == ProvideClass::Other).collect();
    let fresh = |from: usize, to: usize, max| {
        let (from, to) = (others[from].position, others[to].position);
        store.provide_fresh(ProvideClass::Other, from, to, max).unwrap()
    };
    assert_eq!(fresh(1, 6, 100), others[1..=6]);
    assert_eq!(fresh(1, 6, 2), others[1..3]);
    assert!(fresh(6, 1, 100).is_empty());
    assert_eq!(mark(&store, &others[2..4], 7, 1), 2);
    assert_eq!(fresh(1, 6, 100), [&others[1..2], &others[4..=6]].concat());
}

#[test]
fn marks_are_kept_and_those_of_keys_that_have_gone_are_ignored() {
    let home = Home::new();
    let store = home.open();
    let root = add(&store, &home.write("file", &noise(1, 3 * CHUNK))).root;
    let gone = add(&store, &home.write("gone", &noise(2, CHUNK))).root;
    let keys = all(&store);
    store.remove_share(&gone).unwrap().unwrap();
    assert_eq!(mark(&store, &keys, 1_700_000_000, 18), 4);
    assert_eq!(all(&store).len(), 4);
    for key in all(&store) {
        assert_eq!((key.last_unix, key.holders), (Some(1_700_000_000), 18));
    }
    let expected = ProvideCounts { keys: 4, roots: 1, fresh: 0, fresh_roots: 0 };
    assert_eq!(store.provide_counts().unwrap(), expected);
    // The last of several marks counts; times that do not fit are brought within bounds.
    let position = key(&store, root).unwrap().position;
    let at = |unix| ProvideMark { position, unix, holders: 2 };
    assert_eq!(store.provide_mark(&[at(9), at(u64::MAX)]).unwrap(), 2);
    assert_eq!(key(&store, root).unwrap().last_unix, Some(u64::from(u32::MAX)));
    store.provide_mark(&[at(0)]).unwrap();
    assert_eq!(key(&store, root).unwrap().last_unix, Some(1));
    assert_eq!(store.provide_mark(&[]).unwrap(), 0);
    assert_sound(&store);
}

#[test]
fn a_file_of_a_directory_that_is_shared_by_itself_becomes_a_root_and_keeps_its_date() {
    let home = Home::new();
    let store = home.open();
    let path = home.write("dir/file", &noise(1, CHUNK));
    home.write("dir/other", &noise(2, CHUNK));
    add(&store, &home.path("dir"));
    let manifests = |store: &Store| {
        let is_manifest = |key: &&ProvideKey| matches!(key.cid, ContentCid::Manifest(_));
        all(store).iter().filter(is_manifest).filter(|key| key.class == ProvideClass::Root).count()
    };
    assert_eq!(manifests(&store), 1);
    // Never announced: it moves among the fresh.
    let file = add(&store, &path).root;
    assert_eq!(fresh(&store, ProvideClass::Root).len(), 2);
    assert_eq!(key(&store, file).unwrap().class, ProvideClass::Root);
    let before = all(&store);
    assert_eq!(before.len(), 5);
    mark(&store, &before, 50, 9);
    store.remove_share(&file).unwrap().unwrap();
    let other = key(&store, file).unwrap();
    assert_eq!((other.class, other.last_unix, other.holders), (ProvideClass::Other, Some(50), 9));
    assert_eq!(store.provide_counts().unwrap().roots, 1);
    add(&store, &path);
    assert_eq!(key(&store, file).unwrap().class, ProvideClass::Root);
    assert_eq!(
        store.provide_counts().unwrap(),
        ProvideCounts { keys: 5, roots: 2, fresh: 0, fresh_roots: 0 }
    );
    assert_sound(&store);
}

#[test]
fn a_scope_is_changed_by_adding_again_and_kept_by_adding_without_one() {
    let home = Home::new();
    let store = home.open();
    home.write("dir/sub/a", &noise(1, 2 * CHUNK));
    home.write("dir/b", &noise(2, CHUNK));
    let dir = home.path("dir");
    let root = add_with(&store, &dir, Some(AnnounceScope::Roots));
    let scope = |store: &Store| store.share(&root).unwrap().unwrap().announce;
    assert_eq!(cids(&all(&store)), [root.into()].into());
    assert_eq!(scope(&store), AnnounceScope::Roots);
    add_with(&store, &dir, None);
    assert_eq!(cids(&all(&store)), [root.into()].into());
    mark(&store, &all(&store), 40, 4);
    add_with(&store, &dir, Some(AnnounceScope::All));
    assert_eq!(all(&store).len(), 4 + 3);
    assert_eq!(key(&store, root).unwrap().last_unix, Some(40));
    assert_sound(&store);
    add_with(&store, &dir, Some(AnnounceScope::None));
    assert!(all(&store).is_empty());
    assert_eq!(store.provide_counts().unwrap(), ProvideCounts::default());
    assert_eq!(scope(&store), AnnounceScope::None);
    // Whatever is announced of it, it is held.
    assert_eq!(store.held_keys(None, 100).unwrap().len(), 7);
    drop(store);
    let store = home.open();
    assert_eq!(scope(&store), AnnounceScope::None);
    assert_sound(&store);
}

#[test]
fn a_key_is_announced_as_long_as_one_of_its_shares_asks_for_it() {
    let home = Home::new();
    let store = home.open();
    let path = home.write("dir/file", &noise(1, 2 * CHUNK));
    let dir = add_with(&store, &home.path("dir"), Some(AnnounceScope::Roots));
    let file = add_with(&store, &path, Some(AnnounceScope::All));
    assert_eq!(all(&store).len(), 4);
    // The file's own share is not announced, but the directory's is, with all that is in it.
    add_with(&store, &path, Some(AnnounceScope::None));
    assert_eq!(cids(&all(&store)), [dir.into()].into());
    add_with(&store, &home.path("dir"), Some(AnnounceScope::All));
    assert_eq!(all(&store).len(), 4);
    assert_eq!(key(&store, file).unwrap().class, ProvideClass::Other);
    store.remove_share(&dir).unwrap().unwrap();
    assert!(all(&store).is_empty());
    add_with(&store, &path, Some(AnnounceScope::Roots));
    assert_eq!(cids(&all(&store)), [file.into()].into());
    assert_sound(&store);
}

#[test]
fn a_file_that_grew_keeps_the_dates_of_the_chunks_it_still_has() {
    let home = Home::new();
    let store = home.open();
    let mut content = noise(1, 3 * CHUNK);
    let path = home.write("file", &content);
    let old = add(&store, &path).root;
    mark(&store, &all(&store), 30, 5);
    content.extend(noise(2, CHUNK));
    fs::write(&path, &content).unwrap();
    let new = add(&store, &path).root;
    assert_eq!(key(&store, old), None);
    assert_eq!(key(&store, new).unwrap().last_unix, None);
    for chunk in content.chunks(CHUNK).take(3) {
        assert_eq!(key(&store, ChunkCid::of(chunk)).unwrap().last_unix, Some(30));
    }
    let expected = ProvideCounts { keys: 5, roots: 1, fresh: 2, fresh_roots: 1 };
    assert_eq!(store.provide_counts().unwrap(), expected);
    assert_sound(&store);
}

#[test]
fn a_download_is_scheduled_as_it_grows_and_withdrawn_files_are_not() {
    let (from, to) = (Home::new(), Home::new());
    let (source, target) = (from.open(), to.open());
    let root = add(&source, &from.write("file", &noise(1, 4 * CHUNK))).root;
    let tree = hand_over(&source, &target, &root);
    assert!(all(&target).is_empty());
    let download = begin(&target, &tree, &to.path("out"));
    assert_eq!(cids(&all(&target)), [root.into()].into());
    fetch(&download, &source, 2);
    assert_eq!(all(&target).len(), 1);
    download.commit().unwrap();
    assert_eq!(all(&target).len(), 3);
    mark(&target, &all(&target), 20, 1);
    fetch(&download, &source, 2);
    let out = download.finish().unwrap();
    assert_eq!(target.provide_counts().unwrap().fresh, 2);
    assert_eq!(all(&target).len(), 5);
    drop(download);
    fs::remove_file(out).unwrap();
    target.check_sources().unwrap();
    assert!(all(&target).is_empty());
    assert_sound(&target);
    // With a scope of its own, which a later fetch without one leaves alone.
    let roots = DownloadOptions { announce: Some(AnnounceScope::Roots), ..DownloadOptions::default() };
    let download = target.begin_download(&tree, &to.path("roots"), roots).unwrap();
    fetch(&download, &source, usize::MAX);
    download.finish().unwrap();
    let download = begin(&target, &tree, &to.path("again"));
    download.reuse(&no_progress).unwrap();
    download.finish().unwrap();
    assert_eq!(cids(&all(&target)), [root.into()].into());
    assert_sound(&target);
}

#[test]
fn an_ended_download_leaves_nothing_scheduled() {
    let (from, to) = (Home::new(), Home::new());
    let (source, target) = (from.open(), to.open());
    let root = add(&source, &from.write("file", &noise(1, 4 * CHUNK))).root;
    let tree = hand_over(&source, &target, &root);
    let download = begin(&target, &tree, &to.path("out"));
    fetch(&download, &source, 2);
    download.commit().unwrap();
    drop(download);
    fs::remove_file(to.path("out.part")).unwrap();
    assert_eq!(all(&target).len(), 3);
    assert_eq!(target.gc().unwrap().downloads, 1);
    assert!(all(&target).is_empty());
    assert_sound(&target);
}

#[test]
fn a_chunk_that_is_a_manifest_block_too_is_one_key() {
    let home = Home::new();
    let store = home.open();
    let root = add(&store, &home.write("file", &noise(1, 10))).root;
    let block = store.manifest_block(&root).unwrap().unwrap();
    let twin = add(&store, &home.write("block", &block)).root;
    let chunk = ChunkCid::of(&block);
    assert_eq!(chunk.digest(), root.digest());
    assert_eq!(all(&store).len(), 3);
    mark(&store, &all(&store), 60, 6);
    store.remove_share(&root).unwrap().unwrap();
    let left = key(&store, chunk).unwrap();
    assert_eq!((left.cid, left.class, left.last_unix), (chunk.into(), ProvideClass::Other, Some(60)));
    assert_sound(&store);
    store.remove_share(&twin).unwrap().unwrap();
    assert!(all(&store).is_empty());
    assert_sound(&store);
}

#[test]
fn a_summary_counts_every_key_of_a_share_once() {
    let home = Home::new();
    let store = home.open();
    let (a, b) = (noise(1, CHUNK), noise(2, CHUNK));
    let zeros = vec![0; 3 * CHUNK];
    home.write("dir/1", &[&a[..], &b, &a, &zeros, &b].concat());
    home.write("dir/2", &[&zeros[..], &b, &noise(3, 100)].concat());
    home.write("dir/sub/1", &[&a[..], &b, &a, &zeros, &b].concat());
    home.write("other", &[&b[..], &noise(4, CHUNK)].concat());
    // The first source of chunk b belongs to another share.
    let other = add(&store, &home.path("other")).root;
    let root = add(&store, &home.path("dir")).root;
    let tree = tree(&store, &root);
    assert_eq!(tree.unique_chunks().len(), 4);
    let summary = |root| store.provide_summary(&root).unwrap();
    // Two directories and two different file manifests.
    let fresh = KeySummary { keys: 4, fresh: 4, oldest_unix: None, min_holders: None };
    assert_eq!(summary(root), Some(ProvideSummary { manifests: fresh, chunks: fresh }));
    assert_eq!(summary(other).unwrap().all().keys, 3);
    let chunk = |bytes: &[u8]| key(&store, ChunkCid::of(bytes)).unwrap();
    mark(&store, &[chunk(&a)], 500, 3);
    mark(&store, &[chunk(&b)], 400, 9);
    let chunks = KeySummary { keys: 4, fresh: 2, oldest_unix: Some(400), min_holders: Some(3) };
    assert_eq!(summary(root), Some(ProvideSummary { manifests: fresh, chunks }));
    assert_eq!(summary(root).unwrap().all(), KeySummary { keys: 8, fresh: 6, ..chunks });
    assert_eq!(summary(other).unwrap().chunks.oldest_unix, Some(400));
    assert_eq!(summary(ManifestCid::of(b"unknown")), None);
    // Of a share that announces its root alone there is one key, and those that others ask for.
    add_with(&store, &home.path("dir"), Some(AnnounceScope::Roots));
    assert_eq!(summary(root).unwrap().all().keys, 2);
    add_with(&store, &home.path("dir"), Some(AnnounceScope::None));
    store.remove_share(&other).unwrap().unwrap();
    assert_eq!(summary(root), Some(ProvideSummary::default()));
}

#[test]
fn a_summary_of_a_partial_fetch_counts_what_is_held() {
    let (from, to) = (Home::new(), Home::new());
    let (source, target) = (from.open(), to.open());
    let root = add(&source, &from.write("file", &noise(1, 4 * CHUNK))).root;
    let tree = hand_over(&source, &target, &root);
    let download = begin(&target, &tree, &to.path("out"));
    fetch(&download, &source, 2);
    download.commit().unwrap();
    let summary = target.provide_summary(&root).unwrap().unwrap();
    assert_eq!((summary.manifests.keys, summary.chunks.keys, summary.all().fresh), (1, 2, 3));
}
