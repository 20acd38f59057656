//! Shares, the keys to provide, collection, settings.

use std::collections::BTreeSet;
use std::fs;

use dhtfs_store::{
    ContentCid, GcReport, ImportOptions, MAX_SAVED_ADDRS, MAX_SAVED_PEERS, MAX_SAVED_TRANSFERS,
    MAX_SETTING_LEN, ManifestCid, SavedPeer, SavedTransfer, ShareState, StoreError, no_progress,
};

use crate::common::{
    CHUNK, Home, add, add_copy, assert_serves, assert_sound, begin, fetch, get, hand_over, noise, tree,
};

/// All keys, fetched in pages of `page`.
fn keys(store: &dhtfs_store::Store, page: usize) -> Vec<ContentCid> {
    let mut keys = Vec::new();
    loop {
        let next = store.held_keys(keys.last().copied(), page).unwrap();
        assert!(next.len() <= page);
        if next.is_empty() {
            return keys;
        }
        keys.extend(next);
    }
}

#[test]
fn pages_of_held_keys_cover_everything_once_whatever_their_length() {
    let home = Home::new();
    for index in 0..12u64 {
        home.write(&format!("dir/{index}"), &noise(index % 5, (index as usize % 3) * CHUNK + 10));
    }
    let store = home.open();
    let added = add(&store, &home.path("dir"));
    add_copy(&store, &home.path("dir/7"));
    let tree = tree(&store, &added.root);
    let all = keys(&store, 1000);
    let distinct: BTreeSet<_> = all.iter().copied().collect();
    assert_eq!(distinct.len(), all.len());
    // The directory and twelve files of different names; the copy's manifest is that of the same file.
    assert_eq!(all.len(), tree.unique_chunks().len() + 13);
    for page in [1, 2, 3, 7, all.len() - 1, all.len()] {
        assert_eq!(keys(&store, page), all);
    }
    assert!(store.held_keys(None, 0).unwrap().is_empty());
}

#[test]
fn merely_cached_manifests_are_not_provided_but_those_of_partial_fetches_are() {
    let (from, to) = (Home::new(), Home::new());
    let path = from.write("file", &noise(1, 3 * CHUNK));
    let (source, target) = (from.open(), to.open());
    let root = add(&source, &path).root;
    let tree = hand_over(&source, &target, &root);
    assert!(keys(&target, 10).is_empty());
    let download = begin(&target, &tree, &to.path("out"));
    assert_eq!(keys(&target, 10), [root.into()]);
    fetch(&download, &source, 2);
    assert_eq!(keys(&target, 10).len(), 1);
    let held = download.commit().unwrap();
    assert_eq!(keys(&target, 10).len(), 3);
    for chunk in held {
        assert!(keys(&target, 10).contains(&chunk.into()));
    }
}

#[test]
fn collection_keeps_what_shares_reach_and_drops_the_rest() {
    let (home, other) = (Home::new(), Home::new());
    let store = home.open();
    let kept = home.write("dir/kept", &noise(1, 2 * CHUNK));
    home.write("dir/deep/er", &noise(2, 100));
    let root = add(&store, &home.path("dir")).root;
    let copy = add_copy(&store, &home.write("copy", &noise(3, CHUNK))).root;
    // A manifest nobody asked to keep, a blob without a row, something half-made.
    let source = other.open();
    let foreign = add(&source, &other.write("foreign", b"foreign")).root;
    hand_over(&source, &store, &foreign);
    let stray = home.data().join("blobs").join(foreign.to_string());
    fs::write(&stray, b"stray").unwrap();
    fs::write(home.data().join("tmp/half"), b"made").unwrap();
    let report = store.gc().unwrap();
    assert_eq!((report.manifests, report.blobs), (1, 1));
    assert!(report.freed_len > 5);
    assert!(!stray.exists() && !home.data().join("tmp/half").exists());
    assert_eq!(store.resolve_local(&foreign).unwrap(), None);
    assert_serves(&store, &tree(&store, &root));
    assert_serves(&store, &tree(&store, &copy));
    assert_eq!(store.gc().unwrap(), GcReport::default());
    store.remove_share(&root).unwrap().unwrap();
    assert_eq!(store.gc().unwrap().manifests, 4);
    assert!(kept.exists());
    assert_serves(&store, &tree(&store, &copy));
    assert_sound(&store);
}

#[test]
fn a_file_under_two_names_outlives_the_share_it_was_first_added_by() {
    let home = Home::new();
    let path = home.write("file", &noise(1, 2 * CHUNK));
    let store = home.open();
    let first = add(&store, &path).root;
    let options = ImportOptions { name: Some("other".to_owned()), ..ImportOptions::default() };
    let second = store.import_path(&path, &options, &no_progress).unwrap().root;
    let keys = store.remove_share(&first).unwrap().unwrap().keys;
    assert_eq!(keys, [first.into()]);
    store.gc().unwrap();
    assert_sound(&store);
    assert_serves(&store, &tree(&store, &second));
    fs::remove_file(&path).unwrap();
    assert_eq!(store.check_sources().unwrap()[0].keys.len(), 3);
    store.gc().unwrap();
    assert_sound(&store);
}

#[test]
fn removing_a_share_deletes_its_copies_but_never_a_users_file() {
    let home = Home::new();
    let path = home.write("file", &noise(1, CHUNK));
    let store = home.open();
    let root = add(&store, &path).root;
    assert_eq!(add_copy(&store, &path).root, root);
    let blob = home.data().join("blobs").join(root.to_string());
    assert!(blob.exists());
    assert_eq!(store.remove_share(&root).unwrap().unwrap().keys.len(), 2);
    assert!(path.exists() && !blob.exists());
    assert!(store.shares().unwrap().is_empty());
    assert_sound(&store);
}

#[test]
fn a_copy_that_two_shares_need_stays_until_the_second_goes() {
    let home = Home::new();
    let path = home.write("dir/file", &noise(1, CHUNK));
    let store = home.open();
    let file = add_copy(&store, &path).root;
    let dir = add_copy(&store, &home.path("dir")).root;
    let blob = home.data().join("blobs").join(file.to_string());
    store.remove_share(&file).unwrap().unwrap();
    assert!(blob.exists());
    assert_serves(&store, &tree(&store, &dir));
    store.remove_share(&dir).unwrap().unwrap();
    assert!(!blob.exists());
    assert_sound(&store);
}

#[test]
fn removing_a_partial_share_ends_its_download_and_names_the_part_that_stays() {
    let (from, to) = (Home::new(), Home::new());
    let (source, target) = (from.open(), to.open());
    let root = add(&source, &from.write("file", &noise(1, 3 * CHUNK))).root;
    let tree = hand_over(&source, &target, &root);
    let download = begin(&target, &tree, &to.path("out"));
    fetch(&download, &source, 2);
    download.commit().unwrap();
    let removed = target.remove_share(&root).unwrap().unwrap();
    assert_eq!((removed.keys.len(), removed.parts), (3, vec![to.path("out.part")]));
    fetch(&download, &source, 1);
    assert!(matches!(download.commit(), Err(dhtfs_store::DownloadError::Removed)));
    assert!(matches!(download.finish(), Err(dhtfs_store::DownloadError::Removed)));
    assert!(keys(&target, 10).is_empty());
    assert_sound(&target);
    // What was fetched is found again if the user changes their mind.
    drop(download);
    assert_eq!(hand_over(&source, &target, &root), tree);
    let download = begin(&target, &tree, &to.path("out"));
    assert_eq!(download.reuse(&no_progress).unwrap().chunks, 3);
    download.finish().unwrap();
}

#[test]
fn a_download_whose_part_was_deleted_is_collected() {
    let (from, to) = (Home::new(), Home::new());
    let (source, target) = (from.open(), to.open());
    let root = add(&source, &from.write("file", &noise(1, 3 * CHUNK))).root;
    let tree = hand_over(&source, &target, &root);
    let download = begin(&target, &tree, &to.path("out"));
    fetch(&download, &source, 2);
    download.commit().unwrap();
    assert_eq!(target.gc().unwrap(), GcReport::default());
    fs::remove_file(to.path("out.part")).unwrap();
    assert_eq!(target.gc().unwrap(), GcReport::default(), "somebody may be writing to it");
    drop(download);
    let report = target.gc().unwrap();
    assert_eq!((report.downloads, report.manifests), (1, 1));
    assert!(target.shares().unwrap().is_empty());
    assert_sound(&target);
}

#[test]
fn shares_tell_what_they_are_and_survive_a_restart() {
    let (from, home) = (Home::new(), Home::new());
    let source = from.open();
    let fetched = add(&source, &from.write("fetched", &noise(1, 2 * CHUNK + 5))).root;
    let partial = add(&source, &from.write("partial", &noise(2, 2 * CHUNK + 5))).root;
    let path = home.write("dir/file", b"content");
    let check = |store: &dhtfs_store::Store, added: ManifestCid| {
        let state = |root: &ManifestCid| store.share(root).unwrap().unwrap();
        assert_eq!(store.shares().unwrap().len(), 3);
        let dir = state(&added);
        assert_eq!((dir.name.as_str(), dir.size, dir.files, dir.is_dir), ("dir", 7, 1, true));
        assert_eq!(
            (dir.added_unix, dir.paths, dir.state),
            (77, vec![home.path("dir")], ShareState::Complete)
        );
        let share = state(&fetched);
        assert_eq!((share.paths, share.state), (vec![home.path("out")], ShareState::Complete));
        let share = state(&partial);
        assert_eq!((share.paths, share.state), (vec![], ShareState::Partial { have_len: CHUNK as u64 }));
        assert_sound(store);
    };
    let store = home.open();
    let options = ImportOptions { now_unix: 77, ..ImportOptions::default() };
    let added = store.import_path(path.parent().unwrap(), &options, &no_progress).unwrap().root;
    get(&source, &store, &fetched, &home.path("out"));
    let download = begin(&store, &hand_over(&source, &store, &partial), &home.path("half"));
    fetch(&download, &source, 1);
    download.commit().unwrap();
    check(&store, added);
    drop((download, store));
    check(&home.open(), added);
}

#[test]
fn manifest_blocks_with_another_hash_are_refused_together() {
    let home = Home::new();
    let store = home.open();
    let good = (ManifestCid::of(b"good"), b"good".to_vec());
    let bad = (ManifestCid::of(b"bad"), b"other".to_vec());
    let error = store.put_manifest_blocks(&[good.clone(), bad.clone()]).unwrap_err();
    assert!(matches!(error, StoreError::BadManifestHash(cid) if cid == bad.0), "{error}");
    assert_eq!(store.manifest_block(&good.0).unwrap(), None);
    store.put_manifest_blocks(std::slice::from_ref(&good)).unwrap();
    assert_eq!(store.manifest_block(&good.0).unwrap(), Some(good.1));
}

#[test]
fn peers_and_settings_are_kept_within_their_limits() {
    let home = Home::new();
    let peers: Vec<_> = (0..MAX_SAVED_PEERS as u64 + 50)
        .map(|index| SavedPeer {
            peer: index.to_be_bytes().to_vec(),
            addrs: (0..20).map(|port| format!("/ip4/127.0.0.1/tcp/{port}")).collect(),
            last_seen_unix: index,
        })
        .collect();
    {
        let store = home.open();
        store
            .save_peers(&[SavedPeer { peer: b"old".to_vec(), addrs: vec![], last_seen_unix: u64::MAX }])
            .unwrap();
        store.save_peers(&peers).unwrap();
        store.set_setting("key", b"value").unwrap();
        store.set_setting("key", b"new value").unwrap();
        let long = vec![0; MAX_SETTING_LEN + 1];
        assert!(matches!(store.set_setting("long", &long), Err(StoreError::SettingTooLong { .. })));
        assert!(matches!(store.set_setting(&"k".repeat(65), b""), Err(StoreError::SettingTooLong { .. })));
    }
    let store = home.open();
    let loaded = store.load_peers().unwrap();
    assert_eq!(loaded.len(), MAX_SAVED_PEERS);
    assert_eq!(loaded[0].last_seen_unix, MAX_SAVED_PEERS as u64 + 49);
    assert_eq!(loaded[0].addrs, peers[0].addrs[..MAX_SAVED_ADDRS]);
    assert_eq!(store.setting("key").unwrap().as_deref(), Some(&b"new value"[..]));
    assert_eq!(store.setting("long").unwrap(), None);
}

#[test]
fn transfers_are_kept_as_they_were_asked_for_until_they_are_removed_and_not_too_many() {
    let home = Home::new();
    let whole = SavedTransfer {
        link: "dhtfs:bafy?name=x".to_owned(),
        out: Some("/out".into()),
        into: Some("/into".into()),
        force: true,
        peers: vec!["/ip4/192.0.2.1/tcp/1".to_owned()],
        bootstrap: vec!["/ip4/192.0.2.2/tcp/2".to_owned()],
        timeout_ms: Some(1_500),
        added_unix: 7,
        paused: true,
        failed: Some("no room".to_owned()),
    };
    let store = home.open();
    assert_eq!(store.add_transfer(&whole).unwrap(), 0);
    for number in 1..MAX_SAVED_TRANSFERS as u64 {
        assert_eq!(store.add_transfer(&SavedTransfer::default()).unwrap(), number);
    }
    let refused = store.add_transfer(&whole);
    assert!(matches!(refused, Err(StoreError::TooManyTransfers { max: MAX_SAVED_TRANSFERS })), "{refused:?}");
    store.update_transfer(1, |transfer| transfer.paused = true).unwrap();
    store.update_transfer(999, |transfer| transfer.paused = true).unwrap();
    for number in 2..MAX_SAVED_TRANSFERS as u64 {
        store.remove_transfer(number).unwrap();
    }
    store.remove_transfer(999).unwrap();
    drop(store);
    let store = home.open();
    let paused = SavedTransfer { paused: true, ..SavedTransfer::default() };
    assert_eq!(store.transfers().unwrap(), [(0, whole), (1, paused)]);
    let next = store.add_transfer(&SavedTransfer::default()).unwrap();
    assert_eq!(next, MAX_SAVED_TRANSFERS as u64, "a number is never used twice");
}
