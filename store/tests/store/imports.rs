//! Adding files: in place, as copies, from streams.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Mutex;

use dhtfs_store::{
    ChunkCid, ImportError, ImportOptions, Progress, ShareState, hash_path, no_progress, verify_path,
};

use crate::common::{
    CHUNK, Home, add, add_copy, assert_serves, assert_sound, data, get, listing, noise, tree,
};

const SIZES: [usize; 8] = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK + 77, 9 * CHUNK];

#[test]
fn files_of_every_size_are_added_alike_in_place_as_copies_and_from_streams() {
    for size in SIZES {
        let (home, other, third) = (Home::new(), Home::new(), Home::new());
        let content = noise(size as u64, size);
        let path = home.write("a file", &content);
        let (in_place, copied, streamed) = (home.open(), other.open(), third.open());
        let added = add(&in_place, &path);
        assert_eq!(add_copy(&copied, &path), added);
        let options = ImportOptions { name: Some("a file".to_owned()), ..ImportOptions::default() };
        assert_eq!(streamed.import_reader(&mut content.as_slice(), &options, &no_progress).unwrap(), added);
        assert_eq!(hash_path(&path, None, &no_progress).unwrap(), added);
        assert_eq!((added.size, added.files, added.is_dir), (size as u64, 1, false));
        assert_eq!(added.chunks, size.div_ceil(CHUNK) as u64);
        for store in [&in_place, &copied, &streamed] {
            let tree = tree(store, &added.root);
            let chunks: Vec<_> = content.chunks(CHUNK).map(ChunkCid::of).collect();
            assert_eq!(tree.files[0].chunks, chunks);
            assert_serves(store, &tree);
            assert_sound(store);
            assert!(verify_path(&path, &tree, &no_progress).unwrap().ok);
            assert_eq!(store.share(&added.root).unwrap().unwrap().state, ShareState::Complete);
        }
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}

#[test]
fn the_content_id_follows_from_content_and_name_alone() {
    let home = Home::new();
    let store = home.open();
    let path = home.write("one", b"content");
    let first = add(&store, &path).root;
    let named = |name: &str| ImportOptions { name: Some(name.to_owned()), ..ImportOptions::default() };
    assert_ne!(store.import_path(&path, &named("two"), &no_progress).unwrap().root, first);
    let moved = home.write("elsewhere/two", b"content");
    assert_eq!(store.import_path(&moved, &named("one"), &no_progress).unwrap().root, first);
    let share = store.share(&first).unwrap().unwrap();
    assert_eq!(share.paths, [path, moved]);
    assert_sound(&store);
}

#[test]
fn a_sparse_file_of_200_mib_costs_one_location_and_stays_sparse_as_a_copy() {
    let home = Home::new();
    let path = home.path("sparse");
    let file = File::create(&path).unwrap();
    file.set_len(200 << 20).unwrap();
    file.write_all_at(b"something", 150 << 20).unwrap();
    let store = home.open();
    let added = add_copy(&store, &path);
    assert_eq!((added.size, added.chunks), (200 << 20, 200));
    let tree = tree(&store, &added.root);
    assert_eq!(tree.unique_chunks().len(), 2);
    assert_eq!(store.held_keys(None, 100).unwrap().len(), 3);
    assert_eq!(data(&store, &tree.files[0].chunks[0]), vec![0; CHUNK]);
    let blob = fs::read_dir(home.data().join("blobs")).unwrap().next().unwrap().unwrap();
    let blocks = std::os::unix::fs::MetadataExt::blocks(&blob.metadata().unwrap());
    assert!(blocks * 512 <= 4 << 20, "{blocks} blocks");
}

#[test]
fn a_directory_with_odd_names_comes_back_whole() {
    let home = Home::new();
    let names = [
        " leading",
        "-dash",
        "--help",
        "ünïcödé 文件",
        "a\"quote'",
        "semi;colon & more",
        "*?<>|",
        "tab-less",
        ".hidden",
    ];
    for (index, name) in names.iter().enumerate() {
        home.write(&format!("odd/{name}"), &noise(index as u64, index * 100));
        home.write(&format!("odd/sub dir/{name}/inner"), name.as_bytes());
    }
    fs::create_dir_all(home.path("odd/empty/deep")).unwrap();
    let script = home.write("odd/script", b"#!/bin/sh\n");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let store = home.open();
    let added = add(&store, &home.path("odd"));
    assert_eq!((added.files, added.is_dir), (names.len() as u64 * 2 + 1, true));
    let tree = tree(&store, &added.root);
    assert!(tree.dirs.iter().any(|dir| dir.to_string() == "empty/deep"));
    let exec: Vec<_> = tree.files.iter().filter(|file| file.exec).map(|file| file.path.to_string()).collect();
    assert_eq!(exec, ["script"]);
    assert_serves(&store, &tree);
    assert_sound(&store);
    assert_eq!(add_copy(&Home::new().open(), &home.path("odd")).root, added.root);
}

#[test]
fn two_thousand_small_files_are_added_together() {
    let home = Home::new();
    for index in 0..2000u64 {
        home.write(&format!("many/{}/file {index}", index % 20), &noise(index, 100 + index as usize));
    }
    let store = home.open();
    let added = add(&store, &home.path("many"));
    let copied = add_copy(&Home::new().open(), &home.path("many"));
    assert_eq!((added.files, added.root), (2000, copied.root));
    assert_serves(&store, &tree(&store, &added.root));
    assert_sound(&store);
}

#[test]
fn the_same_file_and_directory_may_stand_at_several_places_and_depths() {
    let (home, other) = (Home::new(), Home::new());
    for place in ["dir/same", "dir/a/same", "dir/a/b/c/same"] {
        home.write(&format!("{place}/file"), b"content");
        home.write(&format!("{place}/empty"), b"");
        fs::create_dir(home.path(&format!("{place}/nothing"))).unwrap();
    }
    home.write("dir/file", b"content");
    let (store, copied) = (home.open(), other.open());
    let root = add(&store, &home.path("dir")).root;
    assert_eq!(add_copy(&copied, &home.path("dir")).root, root);
    for store in [&store, &copied] {
        assert_eq!((tree(store, &root).files.len(), tree(store, &root).dirs.len()), (7, 9));
        assert_serves(store, &tree(store, &root));
        assert_sound(store);
    }
    let out = get(&store, &copied, &root, &other.path("dir"));
    assert_eq!(listing(&out), listing(&home.path("dir")));
    assert_sound(&copied);
}

#[test]
fn links_and_special_files_are_left_out_and_counted_but_a_link_as_argument_is_followed() {
    let home = Home::new();
    home.write("dir/file", b"x");
    symlink("file", home.path("dir/a link")).unwrap();
    symlink("/", home.path("dir/root")).unwrap();
    let pipe = home.path("dir/pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
    let store = home.open();
    let added = add(&store, &home.path("dir"));
    assert_eq!((added.files, added.skipped.count), (1, 3));
    assert!(added.skipped.first.unwrap().starts_with(home.path("dir")));
    symlink("dir/file", home.path("to file")).unwrap();
    symlink("dir", home.path("to dir")).unwrap();
    let file = add(&store, &home.path("to file"));
    assert_eq!((file.name.as_str(), file.size), ("to file", 1));
    assert_eq!(add(&store, &home.path("to dir")).files, 1);
    let error = store.import_path(&pipe, &ImportOptions::default(), &no_progress).unwrap_err();
    assert!(matches!(error, ImportError::Special { .. }), "{error}");
    assert_sound(&store);
}

#[test]
fn what_cannot_be_named_in_a_manifest_is_refused_with_its_path() {
    let home = Home::new();
    let store = home.open();
    home.write("bad/ok", b"x");
    home.write("bad/with:colon", b"x");
    let error = store.import_path(&home.path("bad"), &ImportOptions::default(), &no_progress).unwrap_err();
    assert!(matches!(&error, ImportError::Name { path, .. } if path.ends_with("with:colon")), "{error}");
    let raw = home.path("raw");
    fs::create_dir(&raw).unwrap();
    fs::write(raw.join(std::ffi::OsStr::from_bytes(b"\xff\xfe")), b"x").unwrap();
    let error = store.import_path(&raw, &ImportOptions::default(), &no_progress).unwrap_err();
    assert!(matches!(error, ImportError::NotUtf8 { .. }), "{error}");
    let options = ImportOptions { name: Some("../up".to_owned()), ..ImportOptions::default() };
    let error = store.import_path(&home.path("bad/ok"), &options, &no_progress).unwrap_err();
    assert!(matches!(error, ImportError::Name { .. }), "{error}");
    let error = store.import_reader(&mut io::empty(), &options, &no_progress).unwrap_err();
    assert!(matches!(error, ImportError::Name { .. }), "{error}");
    for error in [
        store.import_path(Path::new("/nowhere/at all"), &ImportOptions::default(), &no_progress),
        store.import_path(&home.path("missing"), &ImportOptions::default(), &no_progress),
    ] {
        assert!(matches!(error, Err(ImportError::Io(_))));
    }
    let root = store.import_path(Path::new("/"), &ImportOptions::default(), &no_progress).unwrap_err();
    assert!(matches!(root, ImportError::NoName { .. }), "{root}");
    let above = store.import_path(home.data().parent().unwrap(), &ImportOptions::default(), &no_progress);
    assert!(matches!(above, Err(ImportError::HoldsStore { .. })));
    fs::write(home.data().join("key"), b"secret").unwrap();
    let inside = store.import_path(&home.data().join("key"), &ImportOptions::default(), &no_progress);
    assert!(matches!(inside, Err(ImportError::HoldsStore { .. })));
    assert!(store.shares().unwrap().is_empty());
    assert!(store.held_keys(None, 10).unwrap().is_empty());
}

#[test]
fn a_file_that_changes_while_it_is_added_is_refused_and_nothing_is_stored() {
    let changes: [fn(&Path); 4] = [
        |path| File::options().write(true).open(path).unwrap().write_all_at(b"changed", 5).unwrap(),
        |path| File::options().write(true).open(path).unwrap().set_len(100).unwrap(),
        |path| {
            fs::write(path.with_extension("new"), b"other")
                .and_then(|()| fs::rename(path.with_extension("new"), path))
                .unwrap()
        },
        |path| fs::remove_file(path).unwrap(),
    ];
    for copy in [false, true] {
        for change in changes {
            let home = Home::new();
            home.write("dir/a", &noise(1, 3 * CHUNK));
            let path = home.write("dir/b", &noise(2, 3 * CHUNK));
            let store = home.open();
            let once = Mutex::new(Some(()));
            // The fourth chunk is one of the second file, so that file has been opened.
            let meddle = |progress: Progress| {
                if progress.done_len > 3 * CHUNK as u64 && once.lock().unwrap().take().is_some() {
                    change(&path);
                }
                ControlFlow::Continue(())
            };
            let options = ImportOptions { copy, ..ImportOptions::default() };
            let error = store.import_path(&home.path("dir"), &options, &meddle).unwrap_err();
            assert!(matches!(&error, ImportError::Changed { .. } | ImportError::Io(_)), "{error}");
            assert!(store.shares().unwrap().is_empty());
            assert!(store.held_keys(None, 10).unwrap().is_empty());
            assert_eq!(fs::read_dir(home.data().join("blobs")).unwrap().count(), 0);
            assert_eq!(fs::read_dir(home.data().join("tmp")).unwrap().count(), 0);
        }
    }
}

#[test]
fn a_stopped_or_failed_import_leaves_nothing() {
    let home = Home::new();
    let path = home.write("file", &noise(1, 5 * CHUNK));
    let store = home.open();
    let stop = |_: Progress| ControlFlow::Break(());
    for copy in [false, true] {
        let options = ImportOptions { copy, ..ImportOptions::default() };
        let error = store.import_path(&path, &options, &stop).unwrap_err();
        assert!(matches!(error, ImportError::Cancelled), "{error}");
    }
    let error = store.import_reader(&mut noise(1, 5 * CHUNK).as_slice(), &ImportOptions::default(), &stop);
    assert!(matches!(error, Err(ImportError::Cancelled)));
    struct Breaks(usize);
    impl Read for Breaks {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(1).ok_or(io::ErrorKind::BrokenPipe)?;
            buffer.fill(7);
            Ok(buffer.len())
        }
    }
    let error = store.import_reader(&mut Breaks(1000), &ImportOptions::default(), &no_progress).unwrap_err();
    assert!(matches!(error, ImportError::Io(_)), "{error}");
    assert!(store.shares().unwrap().is_empty());
    assert_eq!(fs::read_dir(home.data().join("tmp")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(home.data().join("blobs")).unwrap().count(), 0);
    assert_sound(&store);
}

#[test]
fn progress_ends_at_the_total() {
    let home = Home::new();
    home.write("dir/a", &noise(1, 3 * CHUNK + 5));
    home.write("dir/b", &noise(2, 77));
    let last = Mutex::new(Progress::default());
    let watch = |progress: Progress| {
        let mut last = last.lock().unwrap();
        if progress.done_len > last.done_len {
            *last = progress;
        }
        ControlFlow::Continue(())
    };
    let added = home.open().import_path(&home.path("dir"), &ImportOptions::default(), &watch).unwrap();
    assert_eq!(*last.lock().unwrap(), Progress { done_len: added.size, total_len: added.size });
}

#[test]
fn a_stream_without_a_name_is_called_stdin_and_kept_by_the_store() {
    let home = Home::new();
    let content = noise(3, 2 * CHUNK + 9);
    // Yields a few bytes at a time, like a pipe.
    struct Drips<'a>(&'a [u8]);
    impl Read for Drips<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let len = buffer.len().min(60_001).min(self.0.len());
            let (now, later) = self.0.split_at(len);
            buffer[..len].copy_from_slice(now);
            self.0 = later;
            Ok(len)
        }
    }
    let root = {
        let store = home.open();
        let added =
            store.import_reader(&mut Drips(&content), &ImportOptions::default(), &no_progress).unwrap();
        assert_eq!((added.name.as_str(), added.size), ("stdin", content.len() as u64));
        added.root
    };
    let store = home.open();
    assert!(store.share(&root).unwrap().unwrap().paths.is_empty());
    let whole: Vec<u8> =
        tree(&store, &root).files[0].chunks.iter().flat_map(|cid| data(&store, cid)).collect();
    assert!(whole == content);
}

#[test]
fn adding_twice_changes_nothing_and_a_new_version_takes_the_place_of_the_old() {
    let home = Home::new();
    let path = home.write("file", &noise(1, 2 * CHUNK));
    let store = home.open();
    let first = add(&store, &path);
    let keys = store.held_keys(None, 100).unwrap();
    assert_eq!(add(&store, &path), first);
    assert_eq!(store.held_keys(None, 100).unwrap(), keys);
    let mut content = noise(1, 2 * CHUNK);
    content[CHUNK] ^= 1;
    fs::write(&path, &content).unwrap();
    let second = add(&store, &path);
    assert_ne!(second.root, first.root);
    assert_eq!(second.withdrawn.len(), 1);
    // The second chunk and the manifest are gone; the first chunk is the same in both versions.
    assert_eq!(second.withdrawn[0].keys.len(), 2);
    assert_eq!(store.share(&first.root).unwrap().unwrap().state, ShareState::Changed);
    assert_serves(&store, &tree(&store, &second.root));
    assert_sound(&store);
    fs::write(&path, noise(1, 2 * CHUNK)).unwrap();
    assert_eq!(add(&store, &path).root, first.root);
    assert_eq!(store.share(&first.root).unwrap().unwrap().state, ShareState::Complete);
    assert_sound(&store);
}
