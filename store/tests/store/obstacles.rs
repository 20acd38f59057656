//! Downloads: what is in the way of the output, and what is planted there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use dhtfs_store::{DownloadError, DownloadOptions, ShareState};

use crate::common::{
    CHUNK, Home, add, assert_serves, assert_sound, begin, fetch, get, hand_over, listing, noise, tree,
};

const FORCE: DownloadOptions = DownloadOptions { force: true, now_unix: 5, announce: None };

#[test]
fn what_exists_is_never_replaced_unless_forced() {
    let (from, to) = (Home::new(), Home::new());
    let (source, target) = (from.open(), to.open());
    let file = add(&source, &from.write("file", &noise(1, 100))).root;
    from.write("dir/inner", b"inner");
    let dir = add(&source, &from.path("dir")).root;
    let (file, dir) = (hand_over(&source, &target, &file), hand_over(&source, &target, &dir));
    let exists = |tree, out: &str, options| {
        let refused = target.begin_download(tree, &to.path(out), options);
        matches!(refused, Err(DownloadError::Exists(path)) if path == to.path(out))
    };
    to.write("taken", b"precious");
    to.write("full/x", b"precious");
    fs::create_dir(to.path("empty")).unwrap();
    symlink("nowhere", to.path("dangling")).unwrap();
    for out in ["taken", "full", "empty", "dangling"] {
        assert!(exists(&file, out, DownloadOptions::default()), "{out}");
        assert!(exists(&dir, out, DownloadOptions::default()), "{out}");
    }
    // Forced, a file gives way to a file and an empty directory to a directory; nothing else does.
    assert!(exists(&file, "full", FORCE) && exists(&file, "empty", FORCE));
    assert!(exists(&dir, "full", FORCE) && exists(&dir, "taken", FORCE));
    let download = target.begin_download(&file, &to.path("taken"), FORCE).unwrap();
    fetch(&download, &source, 1);
    assert_eq!(fs::read(to.path("taken")).unwrap(), b"precious");
    download.finish().unwrap();
    assert_eq!(fs::read(to.path("taken")).unwrap(), noise(1, 100));
    let download = target.begin_download(&dir, &to.path("empty"), FORCE).unwrap();
    fetch(&download, &source, 1);
    download.finish().unwrap();
    assert_eq!(listing(&to.path("empty")), listing(&from.path("dir")));
    assert_eq!(fs::read(to.path("full/x")).unwrap(), b"precious");
    assert_sound(&target);
}

#[test]
fn force_takes_no_part_that_is_the_users_and_no_device() {
    let (from, to) = (Home::new(), Home::new());
    let (source, target) = (from.open(), to.open());
    let tree = hand_over(&source, &target, &add(&source, &from.write("file", &noise(1, 100))).root);
    to.write("out.part", b"precious");
    let refused = target.begin_download(&tree, &to.path("out"), FORCE);
    assert!(
        matches!(&refused, Err(DownloadError::Exists(path)) if *path == to.path("out.part")),
        "{refused:?}"
    );
    assert_eq!(fs::read(to.path("out.part")).unwrap(), b"precious");
    let refused = target.begin_download(&tree, Path::new("/dev/null"), FORCE);
    assert!(matches!(refused, Err(DownloadError::Exists(_))), "{refused:?}");
}

#[test]
fn a_part_that_another_program_spoiled_is_never_finished() {
    type Spoil = fn(&Path);
    let spoil: [(&str, Spoil); 3] = [
        ("cut", |part| fs::File::options().write(true).open(part).unwrap().set_len(3).unwrap()),
        ("removed", |part| fs::remove_file(part).unwrap()),
        ("replaced", |part| {
            fs::rename(part, part.with_extension("moved")).unwrap();
            fs::write(part, noise(7, 3 * CHUNK)).unwrap();
        }),
    ];
    for (what, spoil) in spoil {
        let (from, to) = (Home::new(), Home::new());
        let (source, target) = (from.open(), to.open());
        let data = noise(1, 3 * CHUNK);
        let tree = hand_over(&source, &target, &add(&source, &from.write("file", &data)).root);
        let download = begin(&target, &tree, &to.path("out"));
        fetch(&download, &source, 3);
        download.commit().unwrap();
        spoil(&to.path("out.part"));
        assert!(download.finish().is_err(), "{what}");
        assert!(!to.path("out").exists(), "{what}");
        drop(download);
        if what == "replaced" {
            fs::remove_file(to.path("out.part")).unwrap();
        }
        let download = begin(&target, &tree, &to.path("out"));
        fetch(&download, &source, 3);
        download.finish().unwrap();
        assert_eq!(fs::read(to.path("out")).unwrap(), data, "{what}");
        assert_sound(&target);
    }
}

#[test]
fn a_part_that_another_process_fills_is_left_to_it() {
    let (from, to, other) = (Home::new(), Home::new(), Home::new());
    let (source, target, second) = (from.open(), to.open(), other.open());
    let tree = hand_over(&source, &target, &add(&source, &from.write("file", &noise(1, 100))).root);
    hand_over(&source, &second, &tree.root);
    let download = begin(&target, &tree, &to.path("out"));
    let refused = second.begin_download(&tree, &to.path("out"), DownloadOptions::default());
    assert!(matches!(refused, Err(DownloadError::InProgress(_))), "{refused:?}");
    fetch(&download, &source, 1);
    download.finish().unwrap();
    assert_eq!(fs::read(to.path("out")).unwrap(), noise(1, 100));
}

#[test]
fn what_appears_during_the_download_is_not_replaced_either() {
    let (from, to) = (Home::new(), Home::new());
    let (source, target) = (from.open(), to.open());
    let root = add(&source, &from.write("file", &noise(1, 100))).root;
    let tree = hand_over(&source, &target, &root);
    let download = begin(&target, &tree, &to.path("out"));
    fetch(&download, &source, 1);
    to.write("out", b"precious");
    assert!(matches!(download.finish(), Err(DownloadError::Exists(path)) if path == to.path("out")));
    assert_eq!(fs::read(to.path("out")).unwrap(), b"precious");
    assert_serves(&target, &tree);
    assert_sound(&target);
    fs::remove_file(to.path("out")).unwrap();
    download.finish().unwrap();
    assert_eq!(fs::read(to.path("out")).unwrap(), noise(1, 100));
    assert_sound(&target);
}

#[test]
fn a_part_of_something_else_is_left_alone_unless_forced() {
    let (from, to) = (Home::new(), Home::new());
    let (source, target) = (from.open(), to.open());
    let one = hand_over(&source, &target, &add(&source, &from.write("one", &noise(1, 2 * CHUNK))).root);
    let two = hand_over(&source, &target, &add(&source, &from.write("two", &noise(2, 2 * CHUNK))).root);
    let refused = |tree, out: &str| {
        let part = to.path(&format!("{out}.part"));
        let refused = target.begin_download(tree, &to.path(out), DownloadOptions::default());
        matches!(refused, Err(DownloadError::Exists(path)) if path == part)
    };
    // A file of another length, a directory, a shared file.
    to.write("a.part", b"precious");
    fs::create_dir(to.path("b.part")).unwrap();
    add(&target, &to.write("c.part", &noise(3, 2 * CHUNK)));
    for out in ["a", "b", "c"] {
        assert!(refused(&one, out), "{out}");
    }
    assert_eq!(fs::read(to.path("a.part")).unwrap(), b"precious");
    // Another download's.
    let download = begin(&target, &one, &to.path("out"));
    fetch(&download, &source, 1);
    download.commit().unwrap();
    let in_progress = target.begin_download(&two, &to.path("out"), FORCE);
    assert!(matches!(in_progress, Err(DownloadError::InProgress(_))));
    drop(download);
    assert!(refused(&two, "out"));
    let download = target.begin_download(&two, &to.path("out"), FORCE).unwrap();
    assert!(target.share(&one.root).unwrap().is_none());
    assert_sound(&target);
    fetch(&download, &source, 2);
    download.finish().unwrap();
    assert!(fs::read(to.path("out")).unwrap() == noise(2, 2 * CHUNK));
}

#[test]
fn unexpected_files_in_a_part_directory_keep_it_from_being_taken_up() {
    let (from, to) = (Home::new(), Home::new());
    from.write("dir/sub/inner", b"inner");
    let (source, target) = (from.open(), to.open());
    let tree = hand_over(&source, &target, &add(&source, &from.path("dir")).root);
    to.write("out.part/sub/diary", b"precious");
    let refused = target.begin_download(&tree, &to.path("out"), DownloadOptions::default());
    assert!(matches!(refused, Err(DownloadError::Exists(_))));
    fs::rename(to.path("out.part/sub/diary"), to.path("out.part/sub/inner")).unwrap();
    let refused = target.begin_download(&tree, &to.path("out"), DownloadOptions::default());
    assert!(matches!(refused, Err(DownloadError::Exists(_))));
    fs::write(to.path("out.part/sub/inner"), b"").unwrap();
    let download = begin(&target, &tree, &to.path("out"));
    fetch(&download, &source, 1);
    download.finish().unwrap();
    assert_eq!(listing(&to.path("out")), listing(&from.path("dir")));
}

#[test]
fn a_link_planted_in_the_target_is_not_followed() {
    let (from, to) = (Home::new(), Home::new());
    from.write("dir/sub/inner", &noise(1, 100));
    let (source, target) = (from.open(), to.open());
    let tree = hand_over(&source, &target, &add(&source, &from.path("dir")).root);
    let file = hand_over(&source, &target, &add(&source, &from.path("dir/sub/inner")).root);
    to.write("victim/inner", &noise(9, 100));
    let plants: [(&str, &dyn Fn()); 4] = [
        ("the part directory", &|| symlink("victim", to.path("out.part")).unwrap()),
        ("a directory in it", &|| {
            fs::create_dir(to.path("out.part")).unwrap();
            symlink(to.path("victim"), to.path("out.part/sub")).unwrap();
        }),
        ("a file in it", &|| {
            fs::create_dir_all(to.path("out.part/sub")).unwrap();
            symlink(to.path("victim/inner"), to.path("out.part/sub/inner")).unwrap();
        }),
        ("a second name of a file", &|| {
            fs::create_dir_all(to.path("out.part/sub")).unwrap();
            fs::hard_link(to.path("victim/inner"), to.path("out.part/sub/inner")).unwrap();
        }),
    ];
    for (what, plant) in plants {
        plant();
        let refused = target.begin_download(&tree, &to.path("out"), FORCE);
        // Seen for what it is before anything is opened, or when it is.
        let is_refused = matches!(refused, Err(DownloadError::OutsideTarget(_) | DownloadError::Exists(_)));
        assert!(is_refused, "{what}: {refused:?}");
        assert_eq!(listing(&to.path("victim")), [("inner".to_owned(), noise(9, 100))], "{what}");
        fs::remove_dir_all(to.path("out.part")).or_else(|_| fs::remove_file(to.path("out.part"))).unwrap();
    }
    symlink("victim/inner", to.path("single.part")).unwrap();
    let refused = target.begin_download(&file, &to.path("single"), FORCE);
    assert!(matches!(refused, Err(DownloadError::Exists(_))), "{refused:?}");
    assert_sound(&target);
    // In the middle of the download.
    let download = begin(&target, &tree, &to.path("out"));
    fs::remove_dir_all(to.path("out.part/sub")).unwrap();
    symlink(to.path("victim"), to.path("out.part/sub")).unwrap();
    let chunk = download.missing()[0].0;
    let _ = download.write(&chunk, &noise(1, 100));
    assert_eq!(listing(&to.path("victim")), [("inner".to_owned(), noise(9, 100))]);
}

#[test]
fn an_output_in_a_missing_directory_or_without_a_name_is_refused() {
    let (from, to) = (Home::new(), Home::new());
    let (source, target) = (from.open(), to.open());
    let tree = hand_over(&source, &target, &add(&source, &from.write("file", b"x")).root);
    let refused = target.begin_download(&tree, &to.path("missing/out"), DownloadOptions::default());
    assert!(matches!(refused, Err(DownloadError::Io(_))), "{refused:?}");
    let refused = target.begin_download(&tree, Path::new("/"), DownloadOptions::default());
    assert!(matches!(refused, Err(DownloadError::NoName(_))), "{refused:?}");
    assert!(target.shares().unwrap().is_empty());
}

#[test]
fn a_tree_without_its_manifests_cannot_be_begun() {
    let (from, to) = (Home::new(), Home::new());
    let (source, target) = (from.open(), to.open());
    let root = add(&source, &from.write("file", b"x")).root;
    let tree = tree(&source, &root);
    let refused = target.begin_download(&tree, &to.path("out"), DownloadOptions::default());
    assert!(matches!(refused, Err(DownloadError::MissingManifest(cid)) if cid == root), "{refused:?}");
    assert!(target.shares().unwrap().is_empty());
}

#[test]
fn a_name_of_255_bytes_has_room_for_its_part() {
    let (from, to) = (Home::new(), Home::new());
    let (source, target) = (from.open(), to.open());
    let name = "n".repeat(255);
    let root = add(&source, &from.write(&name, b"long")).root;
    let out = get(&source, &target, &root, &to.path(&name));
    assert_eq!(fs::read(out).unwrap(), b"long");
    assert_eq!(fs::read_dir(to.path("")).unwrap().count(), 1);
}

#[test]
fn a_forced_download_over_a_shared_file_takes_its_place() {
    let (from, to) = (Home::new(), Home::new());
    let (source, target) = (from.open(), to.open());
    let new = add(&source, &from.write("file", &noise(2, CHUNK + 5))).root;
    let old = add(&target, &to.write("file", &noise(1, CHUNK + 5))).root;
    let tree = hand_over(&source, &target, &new);
    let download = target.begin_download(&tree, &to.path("file"), FORCE).unwrap();
    fetch(&download, &source, 2);
    download.finish().unwrap();
    let told = target.check_sources().unwrap();
    assert_eq!((told.len(), told[0].keys.len()), (1, 3));
    assert_eq!(target.share(&old).unwrap().unwrap().state, ShareState::Changed);
    assert_serves(&target, &tree);
    assert_sound(&target);
}
