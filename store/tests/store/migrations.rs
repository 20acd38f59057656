//! Stores that an older program wrote.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use dhtfs_store::disk::{Fault, MemoryDisk, PagePool};
use dhtfs_store::{ContentCid, KeyPosition, OpenOptions, ProvideCounts, SavedTransfer, Store};
use redb::{ReadableDatabase, TableDefinition};

use crate::common::{CHUNK, Home, add, add_copy, assert_sound, begin, fetch, hand_over, noise};
use crate::power::{Random, clock, options};

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const SHARES: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("shares_v1");
const PROVIDE: TableDefinition<&[u8; 32], &[u8; 38]> = TableDefinition::new("provide_v1");
const FRESH: TableDefinition<&[u8; 33], ()> = TableDefinition::new("provide_fresh_v1");
const FOREIGN_RECORDS: TableDefinition<&[u8; 36], u64> = TableDefinition::new("foreign_records_v1");
const FOREIGN_PROVIDERS: TableDefinition<u32, &[u8]> = TableDefinition::new("foreign_providers_v1");
const TRANSFERS: TableDefinition<u64, &[u8]> = TableDefinition::new("transfers_v1");

/// Turns a closed store into what the first layout was: the same tables but those that came later. Rows of shares
/// that are announced whole are the same bytes in both.
fn make_old(database: &Path) {
    let database = redb::Database::open(database).unwrap();
    let transaction = database.begin_write().unwrap();
    for is_there in [
        transaction.delete_table(PROVIDE).unwrap(),
        transaction.delete_table(FRESH).unwrap(),
        transaction.delete_table(FOREIGN_RECORDS).unwrap(),
        transaction.delete_table(FOREIGN_PROVIDERS).unwrap(),
        transaction.delete_table(TRANSFERS).unwrap(),
    ] {
        assert!(is_there);
    }
    {
        let mut meta = transaction.open_table(META).unwrap();
        meta.remove("provide_roots").unwrap();
        meta.remove("provide_fresh_roots").unwrap();
        meta.insert("schema", 1).unwrap();
    }
    transaction.commit().unwrap();
}

fn scheduled(store: &Store) -> BTreeSet<ContentCid> {
    let keys = store.provide_range(KeyPosition::MIN, KeyPosition::MAX, usize::MAX).unwrap();
    assert!(keys.iter().all(|key| key.last_unix.is_none()));
    keys.into_iter().map(|key| key.cid).collect()
}

fn held(store: &Store) -> BTreeSet<ContentCid> {
    store.held_keys(None, usize::MAX).unwrap().into_iter().collect()
}

/// Shares of every kind: in place, copied, a directory, an unfinished download, one that lost its file.
fn fill(home: &Home, store: &Store) {
    add(store, &home.write("file", &noise(1, 3 * CHUNK)));
    add_copy(store, &home.write("copy", &noise(2, CHUNK + 5)));
    for index in 0..20u64 {
        home.write(&format!("dir/{index}"), &noise(index % 7, 5_000));
    }
    add(store, &home.path("dir"));
    add(store, &home.path("dir/3"));
    let lost = home.write("lost", &noise(50, 100));
    add(store, &lost);
    fs::remove_file(lost).unwrap();
    store.check_sources().unwrap();
    let other = Home::new();
    let source = other.open();
    let root = add(&source, &other.write("big", &noise(60, 3 * CHUNK))).root;
    let download = begin(store, &hand_over(&source, store, &root), &home.path("out"));
    fetch(&download, &source, 2);
    download.commit().unwrap();
}

#[test]
fn a_store_of_the_first_layout_gets_a_schedule_of_everything_it_holds() {
    let home = Home::new();
    let store = home.open();
    fill(&home, &store);
    let (before, counts) = (held(&store), store.provide_counts().unwrap());
    assert_eq!(scheduled(&store), before);
    assert!(counts.keys > 30 && counts.roots == 5, "{counts:?}");
    drop(store);
    make_old(&home.data().join("store.redb"));
    let store = home.open();
    assert_sound(&store);
    assert_eq!(scheduled(&store), before);
    assert_eq!(store.provide_counts().unwrap(), counts);
    assert_eq!(held(&store), before);
    // And goes on like any other.
    let root = add(&store, &home.write("new", &noise(70, 10))).root;
    assert_eq!(store.provide_counts().unwrap().keys, counts.keys + 2);
    store.remove_share(&root).unwrap().unwrap();
    assert_eq!(store.provide_counts().unwrap(), counts);
    assert_sound(&store);
    drop(store);
    let database = redb::Database::open(home.data().join("store.redb")).unwrap();
    let transaction = database.begin_read().unwrap();
    assert_eq!(transaction.open_table(META).unwrap().get("schema").unwrap().unwrap().value(), 3);
    assert!(transaction.open_table(SHARES).is_ok());
}

#[test]
fn a_store_of_the_second_layout_keeps_everything_and_gets_room_for_transfers() {
    let home = Home::new();
    let store = home.open();
    fill(&home, &store);
    let (before, counts) = (held(&store), store.provide_counts().unwrap());
    drop(store);
    let database = redb::Database::open(home.data().join("store.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    assert!(transaction.delete_table(TRANSFERS).unwrap());
    transaction.open_table(META).unwrap().insert("schema", 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let store = home.open();
    assert_sound(&store);
    assert_eq!((held(&store), store.provide_counts().unwrap()), (before, counts));
    assert!(store.transfers().unwrap().is_empty());
    assert_eq!(store.add_transfer(&SavedTransfer::default()).unwrap(), 0);
    drop(store);
    assert_eq!(home.open().transfers().unwrap(), [(0, SavedTransfer::default())]);
}

#[test]
fn an_empty_store_of_the_first_layout_opens() {
    let home = Home::new();
    drop(home.open());
    make_old(&home.data().join("store.redb"));
    let store = home.open();
    assert_eq!(store.provide_counts().unwrap(), ProvideCounts::default());
    assert!(store.load_foreign(None, 10).unwrap().is_empty());
    assert_sound(&store);
}

#[test]
fn a_migration_that_is_cut_off_anywhere_is_done_by_the_next_start() {
    let home = Home::new();
    let store = home.open();
    fill(&home, &store);
    let (before, counts) = (held(&store), store.provide_counts().unwrap());
    drop(store);
    let file = home.data().join("store.redb");
    make_old(&file);
    let old = fs::read(&file).unwrap();
    let pool = PagePool::new();
    let data = PathBuf::from("/home/user/data");
    let mut cuts = 0;
    for changes in 0.. {
        let disk = MemoryDisk::new(clock(), pool.clone(), None);
        disk.write_file(&data.join("store.redb"), &old).unwrap();
        let mut rng = Random::new(changes);
        disk.fail_after(changes, Fault::Off);
        let opened = Store::open(&data, OpenOptions { db_cache_len: 64 << 10, ..options(&disk) });
        let is_done = opened.is_ok();
        drop(opened);
        if is_done && disk.mount().metadata(Path::new("/")).is_ok() {
            break;
        }
        cuts += 1;
        match changes % 4 {
            0 => disk.crash(),
            _ => disk.power_cut(&mut || rng.next()),
        }
        let store = Store::open(&data, options(&disk)).unwrap();
        assert_sound(&store);
        assert_eq!(scheduled(&store), before, "cut at {changes}");
        assert_eq!(store.provide_counts().unwrap(), counts);
    }
    assert!(cuts > 20, "{cuts} cuts");
}
