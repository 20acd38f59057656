//! Deaths and full disks: what was acknowledged is there afterwards.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dhtfs_store::{
    ChunkCid, DownloadError, DownloadOptions, ImportError, ImportOptions, ManifestCid, OpenOptions,
    ShareState, Store, no_progress,
};

use crate::common::{
    CHUNK, Home, add, assert_serves, assert_sound, begin, data, fetch, hand_over, listing, noise, tree,
};

const DIR_VARIABLE: &str = "DHTFS_STORE_CRASH_DIR";

/// Says something that must hold after any death from here on.
fn acknowledge(what: &str, cid: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{what} {cid}").unwrap();
    out.flush().unwrap();
}

/// The child of the next test: adds, copies, fetches and collects for ever, from where its predecessor was
/// killed.
#[test]
fn child_that_works_until_it_is_killed() {
    let Some(dir) = std::env::var_os(DIR_VARIABLE).map(PathBuf::from) else { return };
    println!();
    let source = Store::open(&dir.join("source"), OpenOptions::default()).unwrap();
    let target = Store::open(&dir.join("target"), OpenOptions::default()).unwrap();
    for round in 0u64.. {
        let seed = u64::from(std::process::id()) << 20 | round;
        let name = format!("{seed}");
        let path = dir.join("from").join(&name);
        for index in 0..4u64 {
            fs::create_dir_all(path.join("sub")).unwrap();
            let len = [0, 100, CHUNK + 1, 4 * CHUNK][index as usize];
            fs::write(path.join("sub").join(index.to_string()), noise(seed + index, len)).unwrap();
        }
        let options = ImportOptions { copy: round % 2 == 0, ..ImportOptions::default() };
        let root = source.import_path(&path, &options, &no_progress).unwrap().root;
        acknowledge("added", root);
        let tree = hand_over(&source, &target, &root);
        let options = DownloadOptions { force: true, ..DownloadOptions::default() };
        let download = target.begin_download(&tree, &dir.join("to").join(&name), options).unwrap();
        download.reuse(&no_progress).unwrap();
        for chunk in download.missing().chunks(2) {
            for (cid, _) in chunk {
                download.write(cid, &data(&source, cid)).unwrap();
            }
            for cid in download.commit().unwrap() {
                acknowledge("held", cid);
            }
        }
        download.finish().unwrap();
        acknowledge("finished", root);
        if round % 3 == 2 {
            source.remove_share(&root).unwrap();
            source.gc().unwrap();
            acknowledge("removed", root);
        }
    }
}

/// What the children said so far.
#[derive(Default)]
struct Promises {
    added: BTreeSet<ManifestCid>,
    finished: BTreeSet<ManifestCid>,
    held: BTreeSet<ChunkCid>,
}

impl Promises {
    fn note(&mut self, line: &str) {
        let Some((what, cid)) = line.split_once(' ') else { return };
        match what {
            "added" => drop(self.added.insert(cid.parse().unwrap()).then_some(())),
            "finished" => drop(self.finished.insert(cid.parse().unwrap()).then_some(())),
            "held" => drop(self.held.insert(cid.parse().unwrap()).then_some(())),
            "removed" => drop(self.added.remove(&cid.parse().unwrap()).then_some(())),
            _ => {}
        }
    }

    fn check(&self, dir: &Path) {
        let source = Store::open(&dir.join("source"), OpenOptions::default()).unwrap();
        let target = Store::open(&dir.join("target"), OpenOptions::default()).unwrap();
        assert_sound(&source);
        assert_sound(&target);
        for root in &self.added {
            // The last one may have been on its way out when the child died.
            if let Some(share) = source.share(root).unwrap() {
                assert_eq!(share.state, ShareState::Complete);
                assert_serves(&source, &tree(&source, root));
            }
        }
        for root in &self.finished {
            let share = target.share(root).unwrap().unwrap();
            assert_eq!(share.state, ShareState::Complete);
            assert_serves(&target, &tree(&target, root));
        }
        for chunk in &self.held {
            assert!(chunk.matches(&data(&target, chunk)));
        }
        let lost = |store: &Store| store.check_sources().unwrap();
        assert!(lost(&source).is_empty() && lost(&target).is_empty());
    }
}

#[test]
fn what_was_acknowledged_survives_any_number_of_kills() {
    let home = Home::new();
    let dir = home.path("");
    fs::create_dir_all(dir.join("to")).unwrap();
    let mut promises = Promises::default();
    for life in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["crashes::child_that_works_until_it_is_killed", "--exact", "--nocapture"])
            .env(DIR_VARIABLE, &dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        // Killed at another acknowledgement in every life, and wherever it has got to by then.
        let mut heard = 0;
        let mut line = String::new();
        loop {
            line.clear();
            if out.read_line(&mut line).unwrap() == 0 || !line.ends_with('\n') {
                break;
            }
            promises.note(line.trim_end());
            heard += usize::from(
                ["added", "held", "finished", "removed"].iter().any(|word| line.starts_with(word)),
            );
            if heard > life * 2 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(heard > 0, "the child said nothing");
        promises.check(&dir);
    }
    assert!(!promises.finished.is_empty() && !promises.held.is_empty());
}

/// A file system of a few MiB, unmounted when dropped.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`, with the reason printed, where file systems may not be mounted.
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size},mode=700"), "dhtfs-test"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        if mount.is_ok_and(|status| status.success()) {
            return Some(Self { dir });
        }
        println!("SKIPPED: a small file system cannot be mounted here (it takes root and mount(8))");
        None
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Fills the disk to the last block.
    fn fill(&self) {
        let mut file = File::create(self.path("filler")).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.path("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.dir.path()).status();
    }
}

#[test]
fn a_download_that_does_not_fit_is_refused_before_anything_is_made() {
    let Some(disk) = SmallDisk::mount("8m") else { return };
    let (from, to) = (Home::new(), Home::new());
    let (source, target) = (from.open(), to.open());
    let root = add(&source, &from.write("big", &noise(1, 12 * CHUNK))).root;
    let tree = hand_over(&source, &target, &root);
    let refused = target.begin_download(&tree, &disk.path("out"), DownloadOptions::default()).unwrap_err();
    assert!(matches!(refused, DownloadError::NoSpace { need, have } if need == 12 << 20 && have <= 8 << 20));
    assert!(listing(disk.dir.path()).is_empty());
    assert!(target.shares().unwrap().is_empty());
    // Zeros take no room.
    let path = from.path("zeros");
    File::create(&path).unwrap().set_len(100 << 20).unwrap();
    let root = add(&source, &path).root;
    let download = begin(&target, &hand_over(&source, &target, &root), &disk.path("zeros"));
    fetch(&download, &source, 1);
    assert_eq!(fs::metadata(download.finish().unwrap()).unwrap().len(), 100 << 20);
}

#[test]
fn a_disk_that_fills_up_during_a_download_loses_nothing_and_it_goes_on_when_there_is_room() {
    let Some(disk) = SmallDisk::mount("8m") else { return };
    let (from, to) = (Home::new(), Home::new());
    let (source, target) = (from.open(), to.open());
    // Small files are not reserved.
    for index in 0..20u64 {
        from.write(&format!("dir/{index}"), &noise(index, 200_000));
    }
    let root = add(&source, &from.path("dir")).root;
    let download = begin(&target, &hand_over(&source, &target, &root), &disk.path("out"));
    fetch(&download, &source, 5);
    download.commit().unwrap();
    disk.fill();
    let (cid, _) = download.missing()[3];
    let error = download.write(&cid, &data(&source, &cid)).unwrap_err();
    assert!(matches!(error, DownloadError::NoSpace { .. }), "{error}");
    assert_eq!(error.to_string().lines().count(), 1);
    assert_eq!(download.missing().len(), 15);
    disk.free();
    fetch(&download, &source, usize::MAX);
    assert_eq!(listing(&download.finish().unwrap()), listing(&from.path("dir")));
}

#[test]
fn a_store_on_a_full_disk_fails_cleanly_and_works_again_when_there_is_room() {
    let Some(disk) = SmallDisk::mount("16m") else { return };
    let home = Home::new();
    let store = Store::open(&disk.path("data"), OpenOptions::default()).unwrap();
    let kept = add(&store, &home.write("kept", &noise(1, 2 * CHUNK))).root;
    let copy = ImportOptions { copy: true, ..ImportOptions::default() };
    let big = home.write("big", &noise(2, 20 * CHUNK));
    let error = store.import_path(&big, &copy, &no_progress).unwrap_err();
    assert!(matches!(error, ImportError::Io(_)), "{error}");
    assert_serves(&store, &tree(&store, &kept));
    disk.fill();
    // In place: there is no room even for rows. Many files, so that the database has to grow.
    for index in 0..3000u64 {
        home.write(&format!("many/{index}"), &noise(index, 30));
    }
    let mut failures = 0;
    for _ in 0..3 {
        match store.import_path(&home.path("many"), &ImportOptions::default(), &no_progress) {
            Ok(_) => {}
            Err(error) => {
                assert!(matches!(error, ImportError::Store(_) | ImportError::Io(_)), "{error}");
                assert_eq!(error.to_string().lines().count(), 1);
                failures += 1;
            }
        }
    }
    assert_eq!(failures, 3, "the disk was meant to be full");
    // Seeding goes on.
    assert_serves(&store, &tree(&store, &kept));
    disk.free();
    assert_serves(&store, &tree(&store, &kept));
    let many = add(&store, &home.path("many")).root;
    assert_serves(&store, &tree(&store, &many));
    assert_sound(&store);
    drop(store);
    let store = Store::open(&disk.path("data"), OpenOptions::default()).unwrap();
    assert_serves(&store, &tree(&store, &kept));
    assert_serves(&store, &tree(&store, &many));
}
