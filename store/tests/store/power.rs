//! Power cuts at any operation: what was acknowledged is there afterwards, and nothing else is claimed.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dhtfs_store::disk::{Clock, Fault, MemoryDisk, PagePool};
use dhtfs_store::{
    AnnounceScope, ChunkCid, ChunkRead, ContentCid, DownloadError, DownloadOptions, ForeignOp,
    ForeignProvider, ForeignRecord, ImportOptions, KeyPosition, ManifestCid, OpenOptions, ProvideMark,
    ResolvedTree, ShareState, Store, no_progress,
};

use crate::common::{CHUNK, noise};

/// How many cuts an ordinary run makes; another number comes from this variable.
const CUTS: u64 = 300;
const CUTS_VARIABLE: &str = "DHTFS_POWER_CUTS";
/// Which numbers are drawn; another seed comes from this variable.
const SEED_VARIABLE: &str = "DHTFS_POWER_SEED";
/// Cuts in the life of one disk.
const CUTS_PER_DISK: u64 = 15;
/// Trees there are to fetch.
const TREES: u64 = 10;

fn variable(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(or)
}

/// SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// A clock that stands still: the disk itself tells changes apart.
pub(crate) fn clock() -> Clock {
    Arc::new(|| Duration::from_secs(1_700_000_000))
}

pub(crate) fn options(disk: &MemoryDisk) -> OpenOptions {
    OpenOptions { disk: disk.mount(), db_cache_len: 256 << 10, ..OpenOptions::default() }
}

/// Contents to fetch, on a disk that nothing happens to.
struct Origin {
    store: Store,
    trees: Vec<ResolvedTree>,
}

impl Origin {
    fn new(pool: &PagePool) -> Self {
        let disk = MemoryDisk::new(clock(), pool.clone(), None);
        let store = Store::open(Path::new("/origin"), options(&disk)).unwrap();
        let tree = |number: u64| {
            let path = PathBuf::from(format!("/files/{number}"));
            if number.is_multiple_of(2) {
                let len = [0, 10, CHUNK + 5_000, 3 * CHUNK][usize::try_from(number / 2 % 4).unwrap()];
                disk.write_file(&path, &noise(number, len)).unwrap();
            } else {
                for file in 0..number % 3 * 4 + 1 {
                    let name = if file % 2 == 0 { format!("{file}") } else { format!("sub/{file}") };
                    let len = usize::try_from(file * 3_000 + number).unwrap();
                    disk.write_file(&path.join(name), &noise(100 * number + file + 1, len)).unwrap();
                }
            }
            let root = store.import_path(&path, &ImportOptions::default(), &no_progress).unwrap().root;
            store.resolve_local(&root).unwrap().unwrap()
        };
        let trees = (0..TREES).map(tree).collect();
        Self { store, trees }
    }

    fn chunk(&self, cid: &ChunkCid) -> Vec<u8> {
        match self.store.read_chunk(cid).unwrap() {
            ChunkRead::Data(data) => data,
            other => panic!("{other:?}"),
        }
    }
}

/// What the store has said.
#[derive(Default)]
struct Promises {
    /// Values a setting may have: the acknowledged one, and one on its way.
    settings: BTreeMap<String, Vec<Option<Vec<u8>>>>,
    shares: BTreeSet<ManifestCid>,
    /// Chunks that a commit has named, and the share they belong to.
    held: BTreeMap<ChunkCid, ManifestCid>,
    /// Small files that were written.
    files: BTreeMap<PathBuf, Vec<u8>>,
    /// Shares of which not everything is announced.
    scopes: BTreeMap<ManifestCid, AnnounceScope>,
    /// When keys of `shares` were last announced.
    marked: BTreeMap<ContentCid, u64>,
}

/// A failed operation: the power is gone.
struct Dead;

impl<E: std::error::Error> From<E> for Dead {
    fn from(_: E) -> Self {
        Self
    }
}

struct World<'a> {
    origin: &'a Origin,
    disk: MemoryDisk,
    promises: Promises,
    rng: Random,
    /// Makes contents that were never there before.
    next: u64,
    resumed: u64,
}

impl<'a> World<'a> {
    fn new(origin: &'a Origin, pool: &PagePool, seed: u64) -> Self {
        let disk = MemoryDisk::new(clock(), pool.clone(), None);
        disk.write_file(Path::new("/out/.keep"), b"").unwrap();
        let (promises, rng) = (Promises::default(), Random::new(seed));
        Self { origin, disk, promises, rng, next: seed << 20, resumed: 0 }
    }

    fn open(&self) -> Result<Store, dhtfs_store::OpenError> {
        Store::open(Path::new("/home/user/data"), options(&self.disk))
    }

    fn step(&mut self, store: &Store) -> Result<(), Dead> {
        self.next += 1;
        match self.rng.below(20) {
            0..=2 => {
                let key = format!("key {}", self.rng.below(4));
                let value = noise(self.next, 100);
                let values = self.promises.settings.entry(key.clone()).or_insert_with(|| vec![None]);
                values.push(Some(value.clone()));
                store.set_setting(&key, &value)?;
                *values = vec![Some(value)];
            }
            3..=4 => self.add(store, false)?,
            5..=6 => self.add(store, true)?,
            7 => {
                let len = usize::try_from(self.rng.below(300_000)).unwrap();
                let bytes = noise(self.next, len);
                let name = Some(self.next.to_string());
                let options = ImportOptions { name, ..ImportOptions::default() };
                let root = store.import_reader(&mut bytes.as_slice(), &options, &no_progress)?.root;
                self.promises.shares.insert(root);
            }
            8 => self.remove(store)?,
            9 => drop(store.gc()?),
            10 => {
                let path = PathBuf::from(format!("/out/small {}", self.next));
                let bytes = noise(self.next, 5_000);
                store.write_file(&path, &bytes, false)?;
                self.promises.files.insert(path, bytes);
            }
            11..=15 => self.fetch(store)?,
            16..=17 => self.mark(store)?,
            _ => self.note_foreign(store)?,
        }
        Ok(())
    }

    /// Announces what lies in a part of the keyspace.
    fn mark(&mut self, store: &Store) -> Result<(), Dead> {
        let (mut from, mut to) = (KeyPosition::MIN, KeyPosition::MAX);
        let region = u8::try_from(self.rng.below(8)).unwrap();
        (from.0[0], to.0[0]) = (region << 5, region << 5 | 0x1f);
        let keys = store.provide_range(from, to, 200)?;
        // Later each time.
        let unix = self.next & 0xffff_ffff;
        let marks: Vec<_> =
            keys.iter().map(|key| ProvideMark { position: key.position, unix, holders: 1 }).collect();
        store.provide_mark(&marks)?;
        let mut lasting = BTreeSet::new();
        for root in &self.promises.shares {
            lasting.extend(store.resolve_local(root)?.iter().flat_map(tree_keys));
        }
        let marked = keys.iter().filter(|key| lasting.contains(&key.cid));
        self.promises.marked.extend(marked.map(|key| (key.cid, unix)));
        Ok(())
    }

    /// Nothing of this is promised, but that it fits together.
    fn note_foreign(&mut self, store: &Store) -> Result<(), Dead> {
        let mut ops = Vec::new();
        for _ in 0..self.rng.below(30) {
            let number = u32::try_from(self.rng.below(6)).unwrap();
            let peer = vec![u8::try_from(self.rng.below(9)).unwrap(); 38];
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&self.rng.next().to_be_bytes());
            let expires_unix = self.rng.below(100);
            ops.push(match self.rng.below(8) {
                0 => ForeignOp::PutProvider(ForeignProvider { number, peer, addrs: vec![vec![1; 8]] }),
                1 => ForeignOp::RemoveProvider(number),
                _ => ForeignOp::Put(ForeignRecord { provider: number, digest, expires_unix }),
            });
        }
        store.apply_foreign(&ops)?;
        if self.rng.below(4) == 0 {
            store.drop_expired_foreign(self.rng.below(50))?;
        }
        Ok(())
    }

    fn add(&mut self, store: &Store, copy: bool) -> Result<(), Dead> {
        let path = PathBuf::from(format!("/files/{}", self.next));
        for file in 0..=self.rng.below(3) {
            let len = usize::try_from(self.rng.below(40_000)).unwrap();
            self.disk.write_file(&path.join(file.to_string()), &noise(self.next + (file << 10), len))?;
        }
        let scopes = [AnnounceScope::All, AnnounceScope::All, AnnounceScope::Roots, AnnounceScope::None];
        let mut options = ImportOptions { copy, ..ImportOptions::default() };
        // Added again with another scope now and then: a cut in between leaves either.
        for _ in 0..1 + u64::from(self.rng.below(3) == 0) {
            let scope = scopes[usize::try_from(self.rng.below(4)).unwrap()];
            options.announce = Some(scope);
            let root = store.hash_path(&path, None, &no_progress)?.root;
            self.promises.scopes.remove(&root);
            let root = store.import_path(&path, &options, &no_progress)?.root;
            self.promises.shares.insert(root);
            self.promises.scopes.insert(root, scope);
        }
        Ok(())
    }

    fn remove(&mut self, store: &Store) -> Result<(), Dead> {
        let shares: Vec<_> = self.promises.shares.iter().copied().collect();
        let Some(root) = shares.get(usize::try_from(self.next).unwrap() % shares.len().max(1)) else {
            return Ok(());
        };
        self.promises.shares.remove(root);
        self.promises.held.retain(|_, share| share != root);
        for key in store.resolve_local(root)?.iter().flat_map(tree_keys) {
            self.promises.marked.remove(&key);
        }
        store.remove_share(root)?;
        let fetched = self.origin.trees.iter().position(|tree| tree.root == *root);
        if let Some(number) = fetched {
            let (disk, path) = (self.disk.mount(), PathBuf::from(format!("/out/{number}")));
            if disk.metadata(&path)?.is_dir() {
                disk.remove_dir_all(&path)?
            } else {
                disk.remove_file(&path)?
            };
            disk.open_dir(Path::new("/out"))?.sync()?;
        }
        Ok(())
    }

    fn fetch(&mut self, store: &Store) -> Result<(), Dead> {
        let number = usize::try_from(self.rng.below(TREES)).unwrap();
        let origin = self.origin;
        let tree = &origin.trees[number];
        let root = tree.root;
        if self.promises.shares.contains(&root) {
            return Ok(());
        }
        hand_over_to(&origin.store, store, &root)?;
        let out = PathBuf::from(format!("/out/{number}"));
        let download = match store.begin_download(tree, &out, DownloadOptions::default()) {
            Ok(download) => download,
            Err(DownloadError::Exists(path)) => {
                // The start after a cut has brought it to its end, or a removal did not get to its end.
                assert_eq!(path, out);
                self.take_over(store, number)?;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let missing: BTreeSet<_> = download.missing().into_iter().map(|(cid, _)| cid).collect();
        for (chunk, _) in self.promises.held.iter().filter(|(_, share)| **share == root) {
            assert!(!missing.contains(chunk), "{chunk} was noted and is missing");
        }
        self.resumed += u64::from(missing.len() < tree.unique_chunks().len());
        if self.rng.below(2) == 0 {
            download.reuse(&no_progress)?;
        }
        for (cid, _) in download.missing() {
            download.write(&cid, &origin.chunk(&cid))?;
            if self.rng.below(3) == 0 {
                let noted = download.commit()?;
                self.promises.held.extend(noted.into_iter().map(|cid| (cid, root)));
            }
            // Left lying about for a while, in the state in which a cut is to find it.
            if self.rng.below(4) == 0 {
                return Ok(());
            }
        }
        download.finish()?;
        self.promises.shares.insert(root);
        Ok(())
    }

    /// Something lies at the output of a fetch that nothing was promised of.
    fn take_over(&mut self, store: &Store, number: usize) -> Result<(), Dead> {
        let root = self.origin.trees[number].root;
        match store.share(&root)? {
            Some(share) => {
                assert_eq!(share.state, ShareState::Complete);
                self.promises.shares.insert(root);
            }
            None => {
                let (disk, path) = (self.disk.mount(), PathBuf::from(format!("/out/{number}")));
                if disk.metadata(&path)?.is_dir() {
                    disk.remove_dir_all(&path)?
                } else {
                    disk.remove_file(&path)?
                };
            }
        }
        Ok(())
    }

    /// Looks for a broken promise.
    fn check(&mut self) -> Result<Store, String> {
        let store = self.open().map_err(|error| error.to_string())?;
        store.check_invariants().unwrap()?;
        for (key, values) in &mut self.promises.settings {
            let value = store.setting(key).map_err(|error| error.to_string())?;
            if !values.contains(&value) {
                return Err(format!("{key} has another value"));
            }
            *values = vec![value];
        }
        for root in &self.promises.shares {
            let share = store.share(root).unwrap().ok_or_else(|| format!("share {root} is gone"))?;
            if share.state != ShareState::Complete {
                return Err(format!("share {root} is {:?}", share.state));
            }
            let tree = store.resolve_local(root).map_err(|error| error.to_string())?;
            let tree = tree.ok_or_else(|| format!("manifests of {root} are gone"))?;
            for (cid, _) in tree.unique_chunks() {
                check_chunk(&store, &cid)?;
            }
            self.check_scheduled(&store, &tree)?;
        }
        for cid in self.promises.held.keys() {
            check_chunk(&store, cid)?;
        }
        for key in store.held_keys(None, 100_000).unwrap() {
            if let ContentCid::Chunk(cid) = key {
                check_chunk(&store, &cid)?;
            }
        }
        for (path, bytes) in &self.promises.files {
            if self.disk.read_file(path).ok().as_ref() != Some(bytes) {
                return Err(format!("{} is not what was written", path.display()));
            }
        }
        let withdrawn = store.check_sources().map_err(|error| error.to_string())?;
        if withdrawn.is_empty() { Ok(store) } else { Err(format!("withdrawn: {withdrawn:?}")) }
    }
}

/// Keys of a tree, the root first; those of directories below it are not among them.
fn tree_keys(tree: &ResolvedTree) -> Vec<ContentCid> {
    let mut keys: Vec<ContentCid> = vec![tree.root.into()];
    keys.extend(tree.files.iter().map(|file| ContentCid::from(file.cid)));
    keys.extend(tree.unique_chunks().into_iter().map(|(cid, _)| ContentCid::from(cid)));
    keys
}

impl World<'_> {
    /// Looks for a key of an acknowledged share that would not be announced.
    fn check_scheduled(&self, store: &Store, tree: &ResolvedTree) -> Result<(), String> {
        let scope = store.share(&tree.root).unwrap().unwrap().announce;
        if self.promises.scopes.get(&tree.root).is_some_and(|promised| *promised != scope) {
            return Err(format!("share {} is announced as {scope:?}", tree.root));
        }
        let mut keys = tree_keys(tree);
        keys.truncate(match scope {
            AnnounceScope::All => usize::MAX,
            AnnounceScope::Roots => 1,
            AnnounceScope::None => 0,
        });
        for cid in keys {
            let Some(key) = store.provide_key(&cid).unwrap() else {
                return Err(format!("{cid} of share {} is not scheduled", tree.root));
            };
            // An announcement that was on its way may have been noted too.
            if self.promises.marked.get(&cid).is_some_and(|promised| key.last_unix < Some(*promised)) {
                return Err(format!("the announcement of {cid} is forgotten"));
            }
        }
        Ok(())
    }
}

fn check_chunk(store: &Store, cid: &ChunkCid) -> Result<(), String> {
    match store.read_chunk(cid).map_err(|error| error.to_string())? {
        ChunkRead::Data(data) if cid.matches(&data) => Ok(()),
        ChunkRead::Data(_) => Err(format!("chunk {cid} has other bytes")),
        ChunkRead::Missing => Err(format!("chunk {cid} is missing")),
        ChunkRead::Withdrawn(withdrawal) => Err(format!("chunk {cid}: {withdrawal:?}")),
    }
}

/// Hands the manifest blocks over, for a store whose disk may fail.
fn hand_over_to(from: &Store, to: &Store, root: &ManifestCid) -> Result<(), Dead> {
    let mut resolver = dhtfs_store::TreeResolver::new(*root);
    while !resolver.is_complete() {
        for cid in resolver.needs() {
            let block = from.manifest_block(&cid)?.ok_or(Dead)?;
            to.put_manifest_blocks(&[(cid, block.clone())])?;
            resolver.insert(cid, &block)?;
        }
    }
    Ok(())
}

#[test]
fn nothing_acknowledged_is_lost_however_often_the_power_is_cut() {
    let (cuts, seed) = (variable(CUTS_VARIABLE, CUTS), variable(SEED_VARIABLE, 1));
    let pool = PagePool::new();
    let origin = Origin::new(&pool);
    let (mut resumed, mut shares) = (0, 0);
    for disk in 0..cuts.div_ceil(CUTS_PER_DISK) {
        let mut world = World::new(&origin, &pool, seed.wrapping_add(disk));
        for cut in 0..CUTS_PER_DISK {
            let changes = if cut == 0 { world.rng.below(60) } else { world.rng.below(700) };
            world.disk.fail_after(changes, Fault::Off);
            if let Ok(store) = world.open() {
                while world.step(&store).is_ok() {}
            }
            assert!(world.disk.mount().metadata(Path::new("/")).is_err(), "a failure without a cause");
            // Now and then only the process dies, or the power goes again while the store recovers.
            match world.rng.below(8) {
                0 => world.disk.crash(),
                1 => {
                    world.disk.power_cut(&mut || world.rng.next());
                    world.disk.fail_after(world.rng.below(40), Fault::Off);
                    drop(world.open());
                    world.disk.power_cut(&mut || world.rng.next());
                }
                _ => world.disk.power_cut(&mut || world.rng.next()),
            }
            if let Err(broken) = world.check() {
                panic!("seed {seed}, disk {disk}, cut {cut}: {broken}");
            }
        }
        resumed += world.resumed;
        shares += world.promises.shares.len();
    }
    assert!(cuts < CUTS || (resumed > 20 && shares > 50), "{resumed} resumed, {shares} shares");
}

#[test]
fn a_disk_that_lies_about_syncs_is_found_out() {
    let pool = PagePool::new();
    let origin = Origin::new(&pool);
    let mut found = Vec::new();
    for seed in 0..12 {
        let mut world = World::new(&origin, &pool, seed);
        let store = world.open().unwrap();
        world.disk.fail_after(0, Fault::LostSyncs);
        for _ in 0..12 {
            assert!(world.step(&store).is_ok());
        }
        drop(store);
        world.disk.power_cut(&mut || world.rng.next());
        // redb panics at some of the pages that such a disk leaves; that is found out too.
        let checked = catch_unwind(AssertUnwindSafe(|| world.check().err()));
        found.extend(checked.unwrap_or_else(|_| Some("panic".to_owned())));
    }
    assert!(found.len() > 5, "{found:?}");
}

#[test]
fn equal_seeds_leave_equal_disks() {
    let run = || {
        let pool = PagePool::new();
        let origin = Origin::new(&pool);
        let mut world = World::new(&origin, &pool, 7);
        for _ in 0..3 {
            world.disk.fail_after(400, Fault::Off);
            let store = world.open();
            while store.as_ref().is_ok_and(|store| world.step(store).is_ok()) {}
            drop(store);
            world.disk.power_cut(&mut || world.rng.next());
        }
        let content = |(path, meta): (PathBuf, _)| (world.disk.read_file(&path).ok(), path, meta);
        world.disk.list().into_iter().map(content).collect::<Vec<_>>()
    };
    let (first, second) = (run(), run());
    assert_eq!(first.len(), second.len());
    for (first, second) in first.iter().zip(&second) {
        assert_eq!((&first.1, &first.2), (&second.1, &second.2));
        assert!(first.0 == second.0, "{} differs", first.1.display());
    }
}
