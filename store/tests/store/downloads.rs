//! Downloads: what is written where, when it counts, and what is in the way.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use dhtfs_store::{
    ChunkCid, ChunkRead, Download, DownloadError, Reused, ShareState, Store, Written, no_progress,
    verify_path,
};

use crate::common::{
    CHUNK, Home, add, add_copy, assert_serves, assert_sound, begin, data, fetch, get, hand_over, listing,
    noise, tree,
};

#[test]
fn files_of_every_size_arrive_byte_for_byte_and_are_served_on() {
    let (from, to) = (Home::new(), Home::new());
    let (source, target) = (from.open(), to.open());
    for size in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5] {
        let content = noise(size as u64, size);
        let name = format!("file {size}");
        let root = add(&source, &from.write(&name, &content)).root;
        let out = get(&source, &target, &root, &to.path(&name));
        assert_eq!(out, to.path(&name));
        assert!(fs::read(&out).unwrap() == content);
        assert!(!to.path(&format!("{name}.part")).exists());
        assert_eq!(target.share(&root).unwrap().unwrap().state, ShareState::Complete);
        let tree = tree(&target, &root);
        assert_serves(&target, &tree);
        assert!(verify_path(&out, &tree, &no_progress).unwrap().ok);
    }
    assert_sound(&target);
    drop(target);
    let target = to.open();
    assert_eq!(target.shares().unwrap().len(), 6);
    assert!(target.check_sources().unwrap().is_empty());
}

#[test]
fn a_directory_arrives_with_its_empty_files_and_directories_and_executable_bits() {
    let (from, to) = (Home::new(), Home::new());
    for (index, name) in ["a", "sub/b", "sub/deep/er/c", "-x", "ünï/ö d"].iter().enumerate() {
        from.write(&format!("dir/{name}"), &noise(index as u64, index * CHUNK / 2 + 3));
    }
    from.write("dir/empty file", b"");
    fs::create_dir_all(from.path("dir/empty/dir")).unwrap();
    fs::set_permissions(from.path("dir/a"), fs::Permissions::from_mode(0o700)).unwrap();
    let (source, target) = (from.open(), to.open());
    let root = add(&source, &from.path("dir")).root;
    let out = get(&source, &target, &root, &to.path("out"));
    assert_eq!(listing(&out), listing(&from.path("dir")));
    let mode = |name: &str| fs::metadata(out.join(name)).unwrap().permissions().mode() & 0o111;
    assert!(mode("a") & 0o100 != 0 && mode("sub/b") == 0);
    assert_serves(&target, &tree(&target, &root));
    // Named alike, what arrived has the same content ID.
    fs::rename(&out, to.path("dir")).unwrap();
    assert_eq!(add(&target, &to.path("dir")).root, root);
    assert_sound(&target);
}

#[test]
fn a_directory_without_any_chunk_arrives() {
    let (from, to) = (Home::new(), Home::new());
    from.write("dir/empty", b"");
    let (source, target) = (from.open(), to.open());
    let root = add(&source, &from.path("dir")).root;
    let out = get(&source, &target, &root, &to.path("dir"));
    assert_eq!(listing(&out), listing(&from.path("dir")));
    fs::create_dir(from.path("nothing")).unwrap();
    let root = add(&source, &from.path("nothing")).root;
    assert!(get(&source, &target, &root, &to.path("nothing")).is_dir());
}

#[test]
fn two_thousand_small_files_arrive_together() {
    let (from, to) = (Home::new(), Home::new());
    for index in 0..2000u64 {
        from.write(&format!("many/{}/file {index}", index % 20), &noise(index, 100 + index as usize));
    }
    let (source, target) = (from.open(), to.open());
    let root = add(&source, &from.path("many")).root;
    let tree = hand_over(&source, &target, &root);
    let chunks: Vec<_> =
        tree.unique_chunks().into_iter().map(|(cid, _)| (cid, data(&source, &cid))).collect();
    let download = begin(&target, &tree, &to.path("many"));
    for (cid, data) in &chunks {
        assert_eq!(download.write(cid, data).unwrap(), Written::Stored);
    }
    download.finish().unwrap();
    assert_eq!(listing(&to.path("many")), listing(&from.path("many")));
    assert_sound(&target);
}

#[test]
fn a_chunk_that_repeats_is_fetched_once_and_written_everywhere() {
    let (from, to) = (Home::new(), Home::new());
    let chunk = noise(1, CHUNK);
    let tail = noise(2, 10);
    from.write(
        "dir/a",
        &[chunk.clone(), chunk.clone(), noise(3, CHUNK), chunk.clone(), tail.clone()].concat(),
    );
    from.write("dir/b", &tail);
    from.write("dir/c", &[chunk, tail].concat());
    let (source, target) = (from.open(), to.open());
    let root = add(&source, &from.path("dir")).root;
    let tree = hand_over(&source, &target, &root);
    let download = begin(&target, &tree, &to.path("dir"));
    assert_eq!(download.missing().len(), 3);
    assert_eq!(download.missing()[0].1 as usize, CHUNK);
    fetch(&download, &source, 1);
    assert_eq!(download.have_len(), 4 * CHUNK as u64);
    fetch(&download, &source, 2);
    assert_eq!((download.have_len(), download.total_len()), (tree.size, tree.size));
    download.finish().unwrap();
    assert_eq!(listing(&to.path("dir")), listing(&from.path("dir")));
    assert_serves(&target, &tree);
    assert_sound(&target);
}

#[test]
fn a_gigabyte_of_zeros_is_one_chunk_and_stays_a_hole() {
    let (from, to) = (Home::new(), Home::new());
    let path = from.path("zeros");
    File::create(&path).unwrap().set_len(1 << 30).unwrap();
    let (source, target) = (from.open(), to.open());
    let root = add(&source, &path).root;
    let tree = hand_over(&source, &target, &root);
    let download = begin(&target, &tree, &to.path("zeros"));
    assert_eq!(download.missing().len(), 1);
    // Zeros need not be asked for.
    assert_eq!(download.reuse(&no_progress).unwrap(), Reused { chunks: 1, len: 1 << 30 });
    let out = download.finish().unwrap();
    let meta = fs::metadata(&out).unwrap();
    assert_eq!(meta.len(), 1 << 30);
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
    assert_eq!(data(&target, &tree.files[0].chunks[1023]), vec![0; CHUNK]);
}

#[test]
fn zeros_stay_a_hole_in_a_part_that_is_taken_up_again() {
    let (from, to) = (Home::new(), Home::new());
    let content = [vec![0; 30 * CHUNK], noise(1, 2 * CHUNK), vec![0; 100]].concat();
    let (source, target) = (from.open(), to.open());
    let root = add(&source, &from.write("file", &content)).root;
    let tree = hand_over(&source, &target, &root);
    drop(begin(&target, &tree, &to.path("file")));
    let download = begin(&target, &tree, &to.path("file"));
    fetch(&download, &source, 10);
    let out = download.finish().unwrap();
    assert!(fs::read(&out).unwrap() == content);
    assert!(fs::metadata(&out).unwrap().blocks() * 512 < 4 * CHUNK as u64);
}

#[test]
fn space_is_reserved_for_everything_but_zeros() {
    let (from, to) = (Home::new(), Home::new());
    let content = [noise(1, 2 * CHUNK), vec![0; 20 * CHUNK], noise(2, 2 * CHUNK)].concat();
    let (source, target) = (from.open(), to.open());
    let root = add(&source, &from.write("file", &content)).root;
    let tree = hand_over(&source, &target, &root);
    let download = begin(&target, &tree, &to.path("file"));
    let meta = fs::metadata(download.part_path()).unwrap();
    assert_eq!(meta.len() as usize, content.len());
    assert!(
        (3 * CHUNK as u64..6 * CHUNK as u64).contains(&(meta.blocks() * 512)),
        "{} blocks",
        meta.blocks()
    );
    fetch(&download, &source, 10);
    let out = download.finish().unwrap();
    assert!(fs::read(&out).unwrap() == content);
    assert!(fs::metadata(&out).unwrap().blocks() * 512 < 6 * CHUNK as u64);
}

#[test]
fn wrong_bytes_are_refused_and_right_ones_count_after_the_commit() {
    let (from, to) = (Home::new(), Home::new());
    let content = noise(1, 2 * CHUNK + 5);
    let (source, target) = (from.open(), to.open());
    let root = add(&source, &from.write("file", &content)).root;
    let tree = hand_over(&source, &target, &root);
    let download = begin(&target, &tree, &to.path("file"));
    let chunks = tree.files[0].chunks.clone();
    let first = &content[..CHUNK];
    for wrong in [&content[1..CHUNK + 1], &content[..CHUNK - 1], &content[..CHUNK + 1], &[]] {
        assert_eq!(download.write(&chunks[0], wrong).unwrap(), Written::BadHash);
    }
    let stranger = ChunkCid::of(b"stranger");
    let refused = download.write(&stranger, b"stranger");
    assert!(matches!(refused, Err(DownloadError::NotInTree(cid)) if cid == stranger));
    assert_eq!(download.write(&chunks[0], first).unwrap(), Written::Stored);
    assert_eq!(download.write(&chunks[0], first).unwrap(), Written::AlreadyHeld);
    assert_eq!(target.read_chunk(&chunks[0]).unwrap(), ChunkRead::Missing);
    assert_eq!(download.commit().unwrap(), [chunks[0]]);
    assert_eq!(download.write(&chunks[0], first).unwrap(), Written::AlreadyHeld);
    assert_eq!(data(&target, &chunks[0]), first);
    assert!(download.commit().unwrap().is_empty());
    assert!(matches!(download.finish(), Err(DownloadError::Incomplete { missing: 2 })));
    assert_eq!(target.share(&root).unwrap().unwrap().state, ShareState::Partial { have_len: CHUNK as u64 });
    fetch(&download, &source, 2);
    let out = download.finish().unwrap();
    assert_eq!(download.finish().unwrap(), out);
    assert_eq!(download.write(&chunks[0], first).unwrap(), Written::AlreadyHeld);
    assert_serves(&target, &tree);
    assert_sound(&target);
}

/// Drops everything after a stage, and looks what the next start finds.
fn resume_after(stage: impl Fn(&Download, &Store), committed: usize, reusable: u64) {
    let (from, to) = (Home::new(), Home::new());
    let content = noise(1, 5 * CHUNK + 5);
    let source = from.open();
    let root = add(&source, &from.write("file", &content)).root;
    let out = to.path("file");
    {
        let target = to.open();
        let download = begin(&target, &hand_over(&source, &target, &root), &out);
        stage(&download, &source);
    }
    let target = to.open();
    assert_sound(&target);
    let tree = tree(&target, &root);
    let held = tree.files[0].chunks.iter().filter(|cid| target.has_chunk(cid).unwrap()).count();
    assert_eq!(held, committed);
    let download = begin(&target, &tree, &out);
    assert_eq!(download.missing().len(), 6 - committed);
    assert_eq!(download.reuse(&no_progress).unwrap().chunks, reusable);
    assert_eq!(fetch(&download, &source, usize::MAX) as u64, 6 - committed as u64 - reusable);
    download.finish().unwrap();
    assert!(fs::read(&out).unwrap() == content);
    assert_sound(&target);
}

#[test]
fn a_download_dropped_at_any_stage_is_taken_up_where_it_was() {
    resume_after(|_, _| {}, 0, 0);
    let written =
        |count| move |download: &Download, source: &Store| assert_eq!(fetch(download, source, count), count);
    let committed = |count| {
        move |download: &Download, source: &Store| {
            fetch(download, source, count);
            assert_eq!(download.commit().unwrap().len(), count);
        }
    };
    let both = |download: &Download, source: &Store| {
        committed(2)(download, source);
        fetch(download, source, 2);
    };
    resume_after(written(3), 0, 3);
    resume_after(committed(3), 3, 0);
    resume_after(both, 2, 2);
    resume_after(committed(6), 6, 0);
    resume_after(written(6), 0, 6);
}

#[test]
fn a_part_from_another_data_directory_is_taken_up_after_hashing() {
    let (from, to, third) = (Home::new(), Home::new(), Home::new());
    from.write("dir/a", &noise(1, 3 * CHUNK));
    from.write("dir/sub/b", &noise(2, 100));
    from.write("dir/sub/c", &noise(3, CHUNK));
    let source = from.open();
    let root = add(&source, &from.path("dir")).root;
    {
        let target = to.open();
        let download = begin(&target, &hand_over(&source, &target, &root), &to.path("out"));
        fetch(&download, &source, 4);
    }
    let spoiled = File::options().write(true).open(to.path("out.part/a")).unwrap();
    spoiled.write_all_at(b"spoiled", CHUNK as u64).unwrap();
    let target = third.open();
    let download = begin(&target, &hand_over(&source, &target, &root), &to.path("out"));
    assert_eq!(download.missing().len(), 5);
    assert_eq!(download.reuse(&no_progress).unwrap().chunks, 3);
    fetch(&download, &source, 2);
    download.finish().unwrap();
    assert_eq!(listing(&to.path("out")), listing(&from.path("dir")));
}

#[test]
fn a_part_that_was_tampered_with_is_noticed_when_taken_up_or_read() {
    let (from, to) = (Home::new(), Home::new());
    let content = noise(1, 4 * CHUNK);
    let source = from.open();
    let root = add(&source, &from.write("file", &content)).root;
    let part = to.path("file.part");
    let tampering: [fn(&Path); 3] = [
        |part| fs::remove_file(part).unwrap(),
        |part| File::options().write(true).open(part).unwrap().set_len(CHUNK as u64).unwrap(),
        |part| {
            let other = part.with_extension("other");
            fs::write(&other, vec![1; 4 * CHUNK]).unwrap();
            fs::rename(other, part).unwrap();
        },
    ];
    for tamper in tampering {
        {
            let target = to.open();
            let download = begin(&target, &hand_over(&source, &target, &root), &to.path("file"));
            fetch(&download, &source, 3);
            download.commit().unwrap();
        }
        tamper(&part);
        let target = to.open();
        let download = begin(&target, &tree(&target, &root), &to.path("file"));
        assert_eq!((download.missing().len(), download.have_len()), (4, 0));
        assert_sound(&target);
        fetch(&download, &source, 4);
        download.finish().unwrap();
        assert!(fs::read(to.path("file")).unwrap() == content);
        target.remove_share(&root).unwrap();
        fs::remove_file(to.path("file")).unwrap();
    }
    // While the download runs: the read finds out, and the chunks are missing again.
    let target = to.open();
    let download = begin(&target, &hand_over(&source, &target, &root), &to.path("file"));
    fetch(&download, &source, 3);
    let held = download.commit().unwrap();
    File::options().write(true).open(&part).unwrap().write_all_at(b"changed", 9).unwrap();
    assert!(
        matches!(target.read_chunk(&held[0]).unwrap(), ChunkRead::Withdrawn(gone) if gone.keys.len() == 3)
    );
    assert_eq!((download.missing().len(), download.have_len()), (4, 0));
    assert_sound(&target);
    assert_eq!(download.reuse(&no_progress).unwrap().chunks, 0, "the file was made by this handle");
    fetch(&download, &source, 4);
    download.finish().unwrap();
    assert!(fs::read(to.path("file")).unwrap() == content);
    assert_sound(&target);
}

#[test]
fn a_tampered_part_is_withdrawn_also_when_nobody_downloads() {
    let (from, to) = (Home::new(), Home::new());
    let source = from.open();
    let root = add(&source, &from.write("file", &noise(1, 4 * CHUNK))).root;
    let held = {
        let target = to.open();
        let download = begin(&target, &hand_over(&source, &target, &root), &to.path("file"));
        fetch(&download, &source, 3);
        download.commit().unwrap()
    };
    let target = to.open();
    File::options().write(true).open(to.path("file.part")).unwrap().write_all_at(b"changed", 9).unwrap();
    assert!(
        matches!(target.read_chunk(&held[0]).unwrap(), ChunkRead::Withdrawn(gone) if gone.keys.len() == 3)
    );
    assert_eq!(target.share(&root).unwrap().unwrap().state, ShareState::Partial { have_len: 0 });
    assert_sound(&target);
    let download = begin(&target, &tree(&target, &root), &to.path("file"));
    assert_eq!(download.reuse(&no_progress).unwrap().chunks, 2);
}

#[test]
fn chunks_of_other_files_are_copied_instead_of_fetched() {
    let (from, to) = (Home::new(), Home::new());
    let (first, second, third) = (noise(1, CHUNK), noise(2, CHUNK), noise(3, CHUNK));
    let source = from.open();
    let root = add(&source, &from.write("file", &[first.clone(), second.clone(), third].concat())).root;
    let target = to.open();
    add(&target, &to.write("other", &[second, first].concat()));
    let download = begin(&target, &hand_over(&source, &target, &root), &to.path("file"));
    assert_eq!(download.reuse(&no_progress).unwrap(), Reused { chunks: 2, len: 2 * CHUNK as u64 });
    assert_eq!(fetch(&download, &source, 3), 1);
    download.finish().unwrap();
    assert_sound(&target);
    let stop = |_| ControlFlow::Break(());
    let again = begin(&target, &tree(&target, &root), &to.path("again"));
    assert!(matches!(again.reuse(&stop), Err(DownloadError::Cancelled)));
    again.reuse(&no_progress).unwrap();
    again.finish().unwrap();
    let share = target.share(&root).unwrap().unwrap();
    assert_eq!((share.paths, share.state), (vec![to.path("file"), to.path("again")], ShareState::Complete));
}

/// Says that it is done when it is dropped.
struct Done<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn many_threads_write_and_commit_while_others_read() {
    let (from, to) = (Home::new(), Home::new());
    let content = noise(1, 40 * CHUNK);
    let (source, target) = (from.open(), to.open());
    let root = add_copy(&source, &from.write("file", &content)).root;
    let tree = hand_over(&source, &target, &root);
    let download = begin(&target, &tree, &to.path("file"));
    // Read once: what a thread that begins late would read has its first chunks committed already.
    let missing = download.missing();
    let is_done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The reader ends however this does.
        let _done = Done(&is_done);
        scope.spawn(|| {
            while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                for cid in &tree.files[0].chunks {
                    match target.read_chunk(cid).unwrap() {
                        ChunkRead::Data(data) => assert!(cid.matches(&data)),
                        ChunkRead::Missing => {}
                        ChunkRead::Withdrawn(gone) => panic!("{gone:?}"),
                    }
                }
            }
        });
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (download, source, missing) = (&download, &source, &missing);
                scope.spawn(move || {
                    for (index, (cid, _)) in missing.iter().enumerate() {
                        // Every chunk is written by two of the three.
                        if index % 3 != writer {
                            download.write(cid, &data(source, cid)).unwrap();
                        }
                        if index % 7 == writer {
                            download.commit().unwrap();
                        }
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        download.finish().unwrap();
    });
    assert!(fs::read(to.path("file")).unwrap() == content);
    assert_sound(&target);
}

#[test]
fn verification_names_the_first_difference_and_what_is_missing() {
    let home = Home::new();
    for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        home.write(&format!("dir/{name}"), &noise(seed, 2 * CHUNK + 5));
    }
    let store = home.open();
    let tree = tree(&store, &add_copy(&store, &home.path("dir")).root);
    let verify = || verify_path(&home.path("dir"), &tree, &no_progress).unwrap();
    assert!(verify().ok);
    let c = File::options().write(true).open(home.path("dir/c")).unwrap();
    c.write_all_at(b"x", 2 * CHUNK as u64 + 4).unwrap();
    assert_eq!(verify().first_bad, Some((home.path("dir/c"), 2 * CHUNK as u64)));
    let b = File::options().write(true).open(home.path("dir/b")).unwrap();
    b.set_len(3 * CHUNK as u64).unwrap();
    assert_eq!(verify().first_bad, Some((home.path("dir/b"), 2 * CHUNK as u64 + 5)));
    b.set_len(CHUNK as u64 + 1).unwrap();
    assert_eq!(verify().first_bad, Some((home.path("dir/b"), CHUNK as u64)));
    fs::remove_file(home.path("dir/a")).unwrap();
    let report = verify();
    assert_eq!((report.ok, report.missing), (false, vec![home.path("dir/a")]));
    assert!(verify_path(&home.path("nowhere"), &tree, &no_progress).unwrap().missing.len() == 3);
    let stop = |_| ControlFlow::Break(());
    assert!(verify_path(&home.path("dir"), &tree, &stop).is_err());
}
