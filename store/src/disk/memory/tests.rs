//! What a disk in memory promises.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use super::{Fault, MemoryDisk, PagePool};
use crate::disk::{Disk, DiskFile, OpenMode};

const MIB: usize = 1 << 20;

fn disk() -> MemoryDisk {
    MemoryDisk::new(Arc::new(|| Duration::from_secs(1)), PagePool::new(), None)
}

/// A cut with numbers that depend on `seed`.
fn cut(disk: &MemoryDisk, seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    disk.power_cut(&mut || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state >> 8
    });
}

fn create(disk: &dyn Disk, path: &str) -> Arc<dyn DiskFile> {
    disk.open(Path::new(path), OpenMode::CreatePrivate).unwrap()
}

fn names(disk: &MemoryDisk) -> Vec<PathBuf> {
    disk.list().into_iter().map(|(path, _)| path).collect()
}

fn errno(error: &std::io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw_os_error)
}

#[test]
fn what_was_synced_survives_every_cut() {
    for seed in 0..100 {
        let disk = disk();
        let mount = disk.mount();
        mount.create_private_dir(Path::new("/a/b")).unwrap();
        for dir in ["/", "/a"] {
            mount.open_dir(Path::new(dir)).unwrap().sync().unwrap();
        }
        let file = create(&*mount, "/a/b/f");
        file.write_all_at(&[1; 10_000], 0).unwrap();
        file.write_all_at(&[2; 100], 5_000).unwrap();
        file.set_len(9_000).unwrap();
        file.sync_data().unwrap();
        mount.open_dir(Path::new("/a/b")).unwrap().sync().unwrap();
        let expected = disk.read_file(Path::new("/a/b/f")).unwrap();
        for round in 0..3 {
            cut(&disk, seed + round);
            assert_eq!(disk.read_file(Path::new("/a/b/f")).unwrap(), expected);
        }
    }
}

/// Three writes of a sector's length and one of four; only the first is synced.
#[test]
fn unsynced_writes_are_kept_lost_torn_and_reordered() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..400 {
        let disk = disk();
        disk.write_file(Path::new("/f"), &[1; 512 * 8]).unwrap();
        let file = disk.mount().open(Path::new("/f"), OpenMode::ReadWrite).unwrap();
        file.write_all_at(&[2; 512], 512).unwrap();
        file.write_all_at(&[3; 512], 1024).unwrap();
        file.write_all_at(&[4; 512 * 4], 2048).unwrap();
        cut(&disk, seed);
        let bytes = disk.read_file(Path::new("/f")).unwrap();
        assert_eq!(bytes.len(), 512 * 8);
        // Sectors are written wholly or not at all.
        let sectors: Vec<u8> = bytes.chunks(512).map(|sector| sector[0]).collect();
        assert!(bytes.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        outcomes.insert(sectors);
    }
    let has = |test: fn(&[u8]) -> bool| outcomes.iter().any(|sectors| test(sectors));
    assert!(has(|sectors| sectors == [1; 8]), "everything lost");
    assert!(has(|sectors| sectors == [1, 2, 3, 1, 4, 4, 4, 4]), "everything kept");
    assert!(has(|sectors| sectors[1] == 1 && sectors[2] == 3), "a later write without an earlier one");
    assert!(has(|sectors| sectors[4] == 4 && sectors[7] == 1), "the start of a torn write");
    assert!(has(|sectors| sectors[4] == 1 && sectors[7] == 4), "the end of a torn write");
}

#[test]
fn names_survive_in_order_and_renames_between_directories_in_both_or_none() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let disk = disk();
        disk.write_file(Path::new("/from/f"), b"f").unwrap();
        disk.write_file(Path::new("/to/old"), b"old").unwrap();
        let mount = disk.mount();
        for name in ["/to/1", "/to/2", "/to/3"] {
            create(&*mount, name);
        }
        mount.rename(Path::new("/from/f"), Path::new("/to/old")).unwrap();
        cut(&disk, seed);
        let names = names(&disk);
        let has = |name: &str| names.iter().any(|path| path == Path::new(name));
        assert!(has("/to/1") || !has("/to/2"));
        assert!(has("/to/2") || !has("/to/3"));
        let old = disk.read_file(Path::new("/to/old")).unwrap();
        assert_eq!(has("/from/f"), old == b"old");
        assert!(has("/to/3") || old == b"old");
        outcomes.insert(names);
    }
    assert_eq!(outcomes.len(), 5);
}

#[test]
fn syncing_a_directory_takes_along_what_came_before_in_others() {
    for seed in 0..50 {
        let disk = disk();
        disk.write_file(Path::new("/from/other"), b"").unwrap();
        disk.write_file(Path::new("/to/other"), b"").unwrap();
        let mount = disk.mount();
        create(&*mount, "/from/f").sync_all().unwrap();
        mount.rename(Path::new("/from/f"), Path::new("/to/f")).unwrap();
        mount.open_dir(Path::new("/to")).unwrap().sync().unwrap();
        cut(&disk, seed);
        let names = names(&disk);
        assert!(names.contains(&PathBuf::from("/to/f")) && !names.contains(&PathBuf::from("/from/f")));
    }
}

#[test]
fn old_handles_die_and_locks_are_free_after_a_cut_or_a_crash() {
    for with_power in [false, true] {
        let disk = disk();
        disk.write_file(Path::new("/f"), b"content").unwrap();
        let mount = disk.mount();
        let open = |mount: &dyn Disk| mount.open(Path::new("/f"), OpenMode::ReadWrite).unwrap();
        let (file, other) = (open(&*mount), open(&*mount));
        assert!(file.try_lock().unwrap() && !other.try_lock().unwrap());
        assert!(!other.try_lock_shared().unwrap());
        file.write_all_at(b"C", 0).unwrap();
        if with_power {
            cut(&disk, 1)
        } else {
            disk.crash()
        }
        let dead = [
            file.write_all_at(b"x", 0).unwrap_err(),
            file.read_at(&mut [0], 0).unwrap_err(),
            file.sync_all().unwrap_err(),
            mount.metadata(Path::new("/f")).unwrap_err(),
            mount.remove_file(Path::new("/f")).unwrap_err(),
        ];
        assert!(dead.iter().all(|error| errno(error) == Some(Errno::IO)));
        let mount = disk.mount();
        assert!(open(&*mount).try_lock().unwrap());
        drop((file, other));
        let file = open(&*mount);
        assert!(file.try_lock().unwrap() && !open(&*mount).try_lock().unwrap());
        if !with_power {
            assert_eq!(disk.read_file(Path::new("/f")).unwrap(), b"Content");
        }
    }
}

#[test]
fn a_removed_file_lives_until_it_is_closed_and_its_removal_lasts() {
    let disk = disk();
    disk.write_file(Path::new("/f"), &[7; 8192]).unwrap();
    let mount = disk.mount();
    let file = mount.open(Path::new("/f"), OpenMode::Read).unwrap();
    mount.remove_file(Path::new("/f")).unwrap();
    assert_eq!(file.metadata().unwrap().nlink, 0);
    file.read_exact_at(&mut [0; 10], 100).unwrap();
    drop(file);
    assert_eq!(disk.used_len(), 8192);
    mount.open_dir(Path::new("/")).unwrap().sync().unwrap();
    assert_eq!(disk.used_len(), 0);
}

#[test]
fn equal_blocks_of_all_disks_take_memory_once() {
    let pool = PagePool::new();
    let clock: super::Clock = Arc::new(|| Duration::ZERO);
    let disks: Vec<_> = (0..50).map(|_| MemoryDisk::new(clock.clone(), pool.clone(), None)).collect();
    let mut bytes = vec![1; 3 * MIB + 200_000];
    bytes[MIB] = 2;
    for disk in &disks {
        disk.write_file(Path::new("/f"), &bytes).unwrap();
        let copy = create(&*disk.mount(), "/copy");
        disk.mount().reflink(&*disk.mount().open(Path::new("/f"), OpenMode::Read).unwrap(), &*copy).unwrap();
        assert_eq!(disk.read_file(Path::new("/copy")).unwrap(), bytes);
        assert_eq!(disk.used_len(), 2 * (bytes.len() as u64).next_multiple_of(4096));
    }
    assert_eq!((pool.blocks(), pool.len()), (3, 2 * MIB as u64 + 200_000));
    // A small write takes one file's block apart and leaves the others alone.
    let file = disks[0].mount().open(Path::new("/f"), OpenMode::ReadWrite).unwrap();
    file.write_all_at(b"x", 5).unwrap();
    assert_eq!(disks[0].read_file(Path::new("/f")).unwrap()[..7], [1, 1, 1, 1, 1, b'x', 1]);
    assert_eq!(disks[0].read_file(Path::new("/copy")).unwrap(), bytes);
    drop((file, disks));
    assert!(pool.is_empty());
}

#[test]
fn a_full_disk_refuses_what_does_not_fit_and_reserved_space_is_kept() {
    let disk = MemoryDisk::new(Arc::new(|| Duration::ZERO), PagePool::new(), Some(4 * MIB as u64));
    let mount = disk.mount();
    let (reserved, file) = (create(&*mount, "/reserved"), create(&*mount, "/f"));
    reserved.allocate(0, 2 * MIB as u64).unwrap();
    assert!(!reserved.has_data(0, 2 * MIB as u64));
    file.write_all_at(&vec![1; 2 * MIB], 0).unwrap();
    assert_eq!(errno(&file.write_all_at(b"x", 2 * MIB as u64).unwrap_err()), Some(Errno::NOSPC));
    assert_eq!(errno(&file.allocate(2 * MIB as u64, 1).unwrap_err()), Some(Errno::NOSPC));
    reserved.write_all_at(&vec![2; 2 * MIB], 0).unwrap();
    file.write_all_at(&[3; 10], 100).unwrap();
    assert_eq!((disk.used_len(), mount.open_dir(Path::new("/")).unwrap().free_len().unwrap()), (4 << 20, 0));
    drop(reserved);
    mount.remove_file(Path::new("/reserved")).unwrap();
    file.write_all_at(b"x", 2 * MIB as u64).unwrap();
}

#[test]
fn faults_come_when_they_are_due_and_go() {
    let disk = disk();
    let mount = disk.mount();
    let file = create(&*mount, "/f");
    disk.fail_after(1, Fault::NoSpace);
    file.write_all_at(b"a", 0).unwrap();
    assert_eq!(errno(&file.write_all_at(b"b", 1).unwrap_err()), Some(Errno::NOSPC));
    file.sync_all().unwrap();
    disk.fail_after(0, Fault::Io);
    assert_eq!(errno(&file.sync_all().unwrap_err()), Some(Errno::IO));
    file.read_exact_at(&mut [0], 0).unwrap();
    disk.fail_after(0, Fault::Off);
    assert_eq!(errno(&file.read_exact_at(&mut [0], 0).unwrap_err()), Some(Errno::IO));
    disk.heal();
    file.write_all_at(b"b", 1).unwrap();
    assert_eq!(disk.read_file(Path::new("/f")).unwrap(), b"ab");
    disk.flip_bit(Path::new("/f"), 1, 0).unwrap();
    assert_eq!(disk.read_file(Path::new("/f")).unwrap(), b"ac");
    assert!(disk.flip_bit(Path::new("/f"), 2, 0).is_err());
}

#[test]
fn names_behave_like_those_of_a_file_system() {
    let disk = disk();
    let mount = disk.mount();
    mount.create_private_dir(Path::new("/d/e")).unwrap();
    create(&*mount, "/d/f");
    let fails = |result: std::io::Result<()>| errno(&result.unwrap_err()).unwrap();
    let path = Path::new;
    assert_eq!(fails(mount.open(path("/d/f"), OpenMode::CreateNew).map(drop)), Errno::EXIST);
    assert_eq!(fails(mount.open(path("/d/f/g"), OpenMode::Read).map(drop)), Errno::NOTDIR);
    assert_eq!(fails(mount.open_dir(path("/d/f")).map(drop)), Errno::NOTDIR);
    assert_eq!(fails(mount.remove_dir(path("/d"))), Errno::NOTEMPTY);
    assert_eq!(fails(mount.remove_file(path("/d/e"))), Errno::ISDIR);
    assert_eq!(fails(mount.rename(path("/d/f"), path("/d/e"))), Errno::ISDIR);
    assert_eq!(fails(mount.rename(path("/d"), path("/d/e/x"))), Errno::INVAL);
    let dir = mount.open_dir(path("/d")).unwrap();
    assert_eq!(fails(dir.rename_new(OsStr::new("f"), OsStr::new("e"), false)), Errno::EXIST);
    assert_eq!(mount.canonicalize(path("/d/./e/../f")).unwrap(), path("/d/f"));
    mount.rename(path("/d/f"), path("/d/e/f")).unwrap();
    assert_eq!(names(&disk), [path("/d"), path("/d/e"), path("/d/e/f")]);
    mount.remove_dir_all(path("/d")).unwrap();
    assert!(disk.list().is_empty());
    assert_eq!(fails(dir.open_file(OsStr::new("f")).map(drop)), Errno::NOENT);
    assert_eq!(fails(dir.open_or_create(OsStr::new("f"), false).map(drop)), Errno::NOENT);
}

#[test]
fn a_cut_disk_is_the_one_that_the_oldest_changes_were_written_back_to() {
    for seed in 0..20 {
        let disk = disk();
        disk.write_file(Path::new("/f"), &vec![0; 8 << 10]).unwrap();
        let file = disk.mount().open(Path::new("/f"), OpenMode::ReadWrite).unwrap();
        for number in 0..3_000_u32 {
            file.write_all_at(&number.to_be_bytes(), u64::from(number % 2) * 4096).unwrap();
        }
        cut(&disk, seed);
        let bytes = disk.read_file(Path::new("/f")).unwrap();
        for half in bytes.chunks(4096) {
            let number = u32::from_be_bytes(*half.first_chunk().unwrap());
            assert!((1_000..3_000).contains(&number), "{number}");
        }
    }
}
