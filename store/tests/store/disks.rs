//! The same life of a store on a real disk and on one in memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dhtfs_store::disk::{Disk, MemoryDisk, OpenMode, PagePool, RealDisk};
use dhtfs_store::{
    ChunkCid, ChunkRead, DownloadError, DownloadOptions, ImportOptions, OpenError, OpenOptions, ShareState,
    Store, WithdrawReason, no_progress,
};

use crate::common::{
    CHUNK, add, add_copy, assert_serves, assert_sound, begin, fetch, get, hand_over, noise, tree,
};
use crate::power::clock;

/// A disk and an empty directory on it.
struct Host {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    _real: Option<tempfile::TempDir>,
}

impl Host {
    fn both() -> [Self; 2] {
        let real = tempfile::tempdir().unwrap();
        let dir = real.path().canonicalize().unwrap();
        let memory = MemoryDisk::new(clock(), PagePool::new(), None).mount();
        memory.create_private_dir(Path::new("/dir")).unwrap();
        [
            Self { disk: Arc::new(RealDisk), dir, _real: Some(real) },
            Self { disk: memory, dir: PathBuf::from("/dir"), _real: None },
        ]
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn open(&self, name: &str) -> Store {
        self.try_open(name).unwrap()
    }

    fn try_open(&self, name: &str) -> Result<Store, OpenError> {
        let options = OpenOptions { disk: self.disk.clone(), ..OpenOptions::default() };
        Store::open(&self.path(name), options)
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        self.disk.create_private_dir(path.parent().unwrap()).unwrap();
        let _ = self.disk.remove_file(&path);
        self.disk.open(&path, OpenMode::CreateNew).unwrap().write_all_at(content, 0).unwrap();
        path
    }

    fn read(&self, path: &Path) -> Vec<u8> {
        let file = self.disk.open(path, OpenMode::Read).unwrap();
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    fn exists(&self, path: &Path) -> bool {
        self.disk.metadata(path).is_ok()
    }
}

#[test]
fn what_is_added_can_be_got_and_verified() {
    for host in Host::both() {
        let (source, target) = (host.open("source"), host.open("target"));
        let content = noise(1, 2 * CHUNK + 77);
        host.write("dir/big", &content);
        host.write("dir/sub/small", b"small");
        host.write("dir/sub/empty", b"");
        let in_place = add(&source, &host.path("dir"));
        assert_eq!(source.hash_path(&host.path("dir"), None, &no_progress).unwrap().root, in_place.root);
        assert_eq!(add_copy(&source, &host.path("dir")).root, in_place.root);
        let out = get(&source, &target, &in_place.root, &host.path("out"));
        assert_eq!(out, host.path("out"));
        assert_eq!(host.read(&host.path("out/big")), content);
        assert_eq!(host.read(&host.path("out/sub/small")), b"small");
        let tree = tree(&target, &in_place.root);
        assert!(target.verify_path(&out, &tree, &no_progress).unwrap().ok);
        assert_serves(&target, &tree);
        // The copy serves when the original is gone.
        host.disk.remove_file(&host.path("dir/big")).unwrap();
        assert_eq!(source.check_sources().unwrap().len(), 1);
        assert_serves(&source, &tree);
        let streamed = ImportOptions { name: Some("big".to_owned()), ..ImportOptions::default() };
        let streamed = target.import_reader(&mut content.as_slice(), &streamed, &no_progress).unwrap();
        assert_eq!((streamed.size, streamed.chunks), (content.len() as u64, 3));
        for store in [&source, &target] {
            assert_sound(store);
        }
    }
}

#[test]
fn a_download_goes_on_where_it_was_interrupted() {
    for host in Host::both() {
        let source = host.open("source");
        let content = noise(2, 5 * CHUNK + 1);
        let root = add(&source, &host.write("file", &content)).root;
        let target = host.open("target");
        let tree = hand_over(&source, &target, &root);
        let download = begin(&target, &tree, &host.path("out"));
        fetch(&download, &source, 2);
        download.commit().unwrap();
        fetch(&download, &source, 1);
        let again = target.begin_download(&tree, &host.path("out"), DownloadOptions::default());
        assert!(matches!(again, Err(DownloadError::InProgress(_))));
        drop((again, download, target));
        let target = host.open("target");
        assert_eq!(target.share(&root).unwrap().unwrap().state, ShareState::Partial { have_len: 2 << 20 });
        let download = begin(&target, &tree, &host.path("out"));
        assert_eq!(download.missing().len(), 4);
        // The third chunk is in the part, though nobody noted it.
        assert_eq!(download.reuse(&no_progress).unwrap().chunks, 1);
        fetch(&download, &source, usize::MAX);
        assert_eq!(host.read(&download.finish().unwrap()), content);
        assert!(!host.exists(&host.path("out.part")));
        assert_sound(&target);
    }
}

#[test]
fn a_collection_removes_what_no_share_needs() {
    for host in Host::both() {
        let store = host.open("data");
        let kept = add_copy(&store, &host.write("kept", &noise(3, 50_000))).root;
        let gone = add_copy(&store, &host.write("gone", &noise(4, 50_000))).root;
        store.remove_share(&gone).unwrap().unwrap();
        let report = store.gc().unwrap();
        assert_eq!(report.manifests, 1);
        assert!(store.share(&gone).unwrap().is_none());
        assert_serves(&store, &tree(&store, &kept));
        assert_eq!(host.disk.read_dir(&host.path("data/blobs")).unwrap().count(), 1);
        assert_eq!(host.disk.read_dir(&host.path("data/tmp")).unwrap().count(), 0);
    }
}

#[test]
fn a_file_that_was_changed_is_withdrawn() {
    for host in Host::both() {
        let store = host.open("data");
        let (path, content) = (host.path("file"), noise(5, 30_000));
        host.write("file", &content);
        let root = add(&store, &path).root;
        let chunk = ChunkCid::of(&content);
        assert!(matches!(store.read_chunk(&chunk).unwrap(), ChunkRead::Data(_)));
        host.disk.open(&path, OpenMode::ReadWrite).unwrap().write_all_at(b"other", 100).unwrap();
        let ChunkRead::Withdrawn(withdrawal) = store.read_chunk(&chunk).unwrap() else { panic!() };
        assert_eq!((withdrawal.path, withdrawal.reason), (path.clone(), WithdrawReason::Changed));
        let tree = tree(&store, &root);
        let report = store.verify_path(&path, &tree, &no_progress).unwrap();
        assert_eq!((report.ok, report.first_bad), (false, Some((path, 0))));
    }
}

#[test]
fn a_store_has_one_owner_and_keeps_small_things() {
    for host in Host::both() {
        let store = host.open("data");
        assert!(matches!(host.try_open("data"), Err(OpenError::Busy { pid: Some(_), .. })));
        store.set_setting("key", b"value").unwrap();
        drop(store);
        let store = host.open("data");
        assert_eq!(store.setting("key").unwrap().as_deref(), Some(b"value".as_slice()));
        let path = host.path("small");
        store.write_file(&path, b"old", false).unwrap();
        assert!(matches!(store.write_file(&path, b"new", false), Err(DownloadError::Exists(_))));
        store.write_file(&path, b"new", true).unwrap();
        assert_eq!(store.read_small_file(&path).unwrap().as_deref(), Some(b"new".as_slice()));
        let names = host.disk.read_dir(&host.dir).unwrap().map(|entry| entry.unwrap().name);
        let mut names: Vec<_> = names.collect();
        names.sort();
        assert_eq!(names, ["data", "small"]);
    }
}

/// Bytes of memory this process has in use.
fn resident_len() -> Option<u64> {
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(pages.split_whitespace().nth(1)?.parse::<u64>().ok()? * 4096)
}

/// Alone in its process only: `cargo test -p dhtfs-store --test store -- --ignored hundreds --nocapture`.
#[test]
#[ignore = "measures the memory of the whole process"]
fn hundreds_of_stores_fit_into_memory() {
    const STORES: usize = 300;
    let pool = PagePool::new();
    let open = |pool: &PagePool| {
        let disk = MemoryDisk::new(clock(), pool.clone(), None);
        let options = OpenOptions { disk: disk.mount(), db_cache_len: 64 << 10, ..OpenOptions::default() };
        (Store::open(Path::new("/data"), options).unwrap(), disk)
    };
    let (origin, _disk) = open(&pool);
    let content = noise(6, 64 * CHUNK);
    let root =
        origin.import_reader(&mut content.as_slice(), &ImportOptions::default(), &no_progress).unwrap().root;
    drop(content);
    let Some(before) = resident_len() else { return };
    let stores: Vec<_> = (0..STORES).map(|_| open(&pool)).collect();
    let idle = resident_len().unwrap().saturating_sub(before) / STORES as u64;
    for (store, _) in &stores {
        get(&origin, store, &root, Path::new("/out"));
    }
    let full = resident_len().unwrap().saturating_sub(before) / STORES as u64;
    println!("{} KiB a store when idle, {} KiB with 64 MiB fetched", idle >> 10, full >> 10);
    assert!(idle < 1 << 20 && full < 3 << 20, "{idle} {full}");
    assert_eq!(pool.blocks(), 64);
}
