//! Opening: one owner, safe first creation, newer stores refused.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use dhtfs_store::{OpenError, OpenOptions, Store};
use redb::TableDefinition;

use crate::common::{Home, add, assert_serves, tree};

const DIR_VARIABLE: &str = "DHTFS_STORE_TEST_DIR";

#[test]
fn a_second_handle_is_refused_with_the_owners_id() {
    let home = Home::new();
    let store = home.open();
    match Store::open(&home.data(), OpenOptions::default()) {
        Err(OpenError::Busy { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
        other => panic!("expected Busy, got {other:?}"),
    }
    let clone = store.clone();
    drop(store);
    assert_eq!(Store::lock_holder(&home.data()), Some(std::process::id()));
    drop(clone);
    assert_eq!(Store::lock_holder(&home.data()), None);
    home.open();
}

/// The child of the next test: opens the store, says so, and holds it until its input ends.
#[test]
fn child_that_holds_a_store() {
    let Some(dir) = std::env::var_os(DIR_VARIABLE) else { return };
    let store = Store::open(dir.as_ref(), OpenOptions::default()).unwrap();
    println!("\nopen");
    std::io::stdout().flush().unwrap();
    std::io::stdin().lines().for_each(drop);
    drop(store);
}

#[test]
fn another_process_is_named_in_the_refusal_and_its_death_frees_the_store() {
    let home = Home::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["opening::child_that_holds_a_store", "--exact", "--nocapture"])
        .env(DIR_VARIABLE, home.data())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "open"));
    let error = Store::open(&home.data(), OpenOptions::default()).unwrap_err();
    assert!(matches!(error, OpenError::Busy { pid: Some(pid), .. } if pid == child.id()), "{error}");
    assert!(error.to_string().contains(&format!("process {}", child.id())));
    assert_eq!(Store::lock_holder(&home.data()), Some(child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(Store::lock_holder(&home.data()), None);
    home.open();
}

#[test]
fn everything_in_the_data_directory_is_for_its_owner_alone() {
    let home = Home::new();
    let path = home.write("file", b"content");
    let store = home.open();
    crate::common::add_copy(&store, &path);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&home.data()), 0o700);
    let mut dirs = vec![home.data()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let expected = if path.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode(&path), expected, "{}", path.display());
            if path.is_dir() {
                dirs.push(path);
            }
        }
    }
}

#[test]
fn a_crash_during_the_first_start_never_blocks_the_next() {
    let whole = {
        let home = Home::new();
        drop(home.open());
        fs::read(home.data().join("store.redb")).unwrap()
    };
    // What the unfinished file may look like: nothing, zeros, garbage, cut anywhere, whole.
    let mut leftovers = vec![Vec::new(), vec![0; 4096], vec![0xa5; 100_000]];
    leftovers.extend(
        [1, 8, 9, 64, 320, 4095, 4096, 8192, whole.len() / 2, whole.len()].map(|cut| whole[..cut].to_vec()),
    );
    for leftover in leftovers {
        let home = Home::new();
        fs::create_dir(home.data()).unwrap();
        fs::write(home.data().join("store.redb.new"), &leftover).unwrap();
        fs::write(home.data().join("lock"), "12345").unwrap();
        let path = home.write("file", b"content");
        let store = home.open();
        let root = add(&store, &path).root;
        drop(store);
        assert!(!home.data().join("store.redb.new").exists());
        let store = home.open();
        assert_serves(&store, &tree(&store, &root));
    }
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    for content in [vec![], b"not a database".to_vec(), vec![0; 100_000], vec![0xff; 4096]] {
        let home = Home::new();
        fs::create_dir(home.data()).unwrap();
        let path = home.data().join("store.redb");
        fs::write(&path, &content).unwrap();
        let error = Store::open(&home.data(), OpenOptions::default()).unwrap_err();
        assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
        assert_eq!(error.to_string().lines().count(), 1);
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}

/// Raises the schema version of a closed store.
fn make_newer(home: &Home) {
    let database = redb::Database::open(home.data().join("store.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(TableDefinition::<&str, u64>::new("meta")).unwrap().insert("schema", 99).unwrap();
    transaction.commit().unwrap();
}

#[test]
fn a_newer_store_is_refused_and_not_a_byte_of_it_changes() {
    let home = Home::new();
    let path = home.write("file", b"content");
    add(&home.open(), &path);
    make_newer(&home);
    let file = home.data().join("store.redb");
    let before = fs::read(&file).unwrap();
    for _ in 0..2 {
        let error = Store::open(&home.data(), OpenOptions::default()).unwrap_err();
        assert!(matches!(error, OpenError::Newer { found: 99, supported: 3 }), "{error}");
        assert!(fs::read(&file).unwrap() == before);
    }
}

#[test]
fn a_newer_store_that_was_not_closed_is_refused_untouched_too() {
    let home = Home::new();
    let path = home.write("file", b"content");
    add(&home.open(), &path);
    make_newer(&home);
    // The image of a database in use needs a repair, which must not reach the file.
    let file = home.data().join("store.redb");
    let database = redb::Database::open(&file).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(TableDefinition::<&str, u64>::new("meta")).unwrap().insert("schema", 100).unwrap();
    transaction.commit().unwrap();
    let image = fs::read(&file).unwrap();
    drop(database);
    assert!(fs::read(&file).unwrap() != image, "closing changes the file, so the image is of an open one");
    fs::write(&file, &image).unwrap();
    let error = Store::open(&home.data(), OpenOptions::default()).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 100, .. }), "{error}");
    assert!(fs::read(&file).unwrap() == image);
}

#[test]
fn a_data_directory_that_cannot_be_made_is_an_error_with_its_path() {
    let home = Home::new();
    let file = home.write("file", b"in the way");
    let error = Store::open(&file.join("data"), OpenOptions::default()).unwrap_err();
    assert!(matches!(error, OpenError::Io(_)));
    assert!(error.to_string().contains("file/data"), "{error}");
}
