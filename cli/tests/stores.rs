//! Data directories and seeded files that are not as they should be: nothing wrong is served, nothing is lost.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

use common::{
    CHUNK_LEN, Daemon, PATIENCE, Process, Scratch, args, dhtfs, equal_chunks_len, names_in, noise, run,
    sha256_file,
};

/// The database in a data directory.
fn database(dir: &Path) -> std::path::PathBuf {
    dir.join("store.redb")
}

#[test]
fn a_second_daemon_on_a_data_directory_is_told_who_has_it() {
    let scratch = Scratch::new();
    let first = Daemon::start(&scratch.path("data"), &[]);
    let cid = first.add(&scratch.file("file", "x")).cid;
    let second = run(first.dir(), args!["daemon", "--listen", "/ip4/127.0.0.1/tcp/0"]);
    let pid = first.process().pid().to_string();
    assert!(second.refused(5).contains(&pid), "{}", second.stderr);
    assert_eq!(first.status_of(&cid).state, "complete", "the first one goes on");
    assert_eq!(first.status().pid, first.process().pid());
}

#[test]
fn a_store_of_a_newer_version_is_refused_untouched() {
    let scratch = Scratch::new();
    let dir = scratch.path("data");
    run(&dir, args!["add", scratch.file("file", "x")]).ok();
    {
        let database = redb::Database::open(database(&dir)).unwrap();
        let write = database.begin_write().unwrap();
        write
            .open_table(redb::TableDefinition::<&str, u64>::new("meta"))
            .unwrap()
            .insert("schema", 999)
            .unwrap();
        write.commit().unwrap();
    }
    let before = sha256_file(&database(&dir));
    for line in
        [args!["ls"], args!["add", scratch.path("file")], args!["daemon", "--listen", "/ip4/127.0.0.1/tcp/0"]]
    {
        let output = run(&dir, line);
        assert!(output.refused(5).contains("999"), "{}", output.stderr);
    }
    assert_eq!(sha256_file(&database(&dir)), before);
}

#[test]
fn a_damaged_store_is_refused_untouched() {
    let scratch = Scratch::new();
    let dir = scratch.path("data");
    run(&dir, args!["add", scratch.file("file", "x")]).ok();
    for garbage in [noise(1, 100_000), Vec::new(), b"SQLite format 3\0".to_vec()] {
        fs::write(database(&dir), &garbage).unwrap();
        let output = run(&dir, args!["ls"]);
        assert!(output.refused(5).contains("store.redb"), "{}", output.stderr);
        assert_eq!(fs::read(database(&dir)).unwrap(), garbage);
    }
}

#[test]
fn a_data_directory_that_is_none_is_refused() {
    let scratch = Scratch::new();
    let file = scratch.file("file", "precious");
    run(&file, args!["ls"]).refused(5);
    run(&file.join("below"), args!["add", file]).refused(5);
    assert_eq!(fs::read(&file).unwrap(), b"precious");
}

#[test]
fn a_socket_left_behind_by_a_crash_is_in_nobodys_way() {
    let scratch = Scratch::new();
    let dir = scratch.path("data");
    let daemon = Daemon::start(&dir, &[]);
    let file = scratch.file("file", noise(2, CHUNK_LEN + 1));
    let cid = daemon.add(&file).cid;
    daemon.kill();
    assert!(dir.join("api.sock").exists(), "a killed daemon cannot remove its socket");
    assert!(run(&dir, args!["ls"]).ok().text().contains(&cid));
    run(&dir, args!["add", scratch.file("other", "y")]).ok();
    let daemon = Daemon::start(&dir, &[]);
    assert_eq!(daemon.status().shares, 2);
    assert_eq!(daemon.status_of(&cid).state, "complete");
    let dir = daemon.end();
    assert!(!dir.join("api.sock").exists(), "an orderly end leaves no socket");
}

#[test]
fn a_long_path_of_the_data_directory_is_no_obstacle() {
    // The address of a Unix socket has room for some hundred bytes.
    let scratch = Scratch::new();
    let dir = scratch.path(Path::new(&"d".repeat(120)).join("data"));
    let daemon = Daemon::start(&dir, &[]);
    let cid = daemon.add(&scratch.file("file", "x")).cid;
    assert_eq!(daemon.status_of(&cid).state, "complete");
    assert!(daemon.status().online, "the command talked to the daemon");
}

/// A file of eight chunks on a daemon, changed by `change` after it was added.
fn changed_while_seeding(seed: u64, change: impl FnOnce(&Path)) {
    let scratch = Scratch::new();
    let seeder = Daemon::start(&scratch.path("seeder"), &[]);
    let content = noise(seed, 8 * CHUNK_LEN);
    let file = scratch.file("file", &content);
    let original = scratch.file("original", &content);
    let cid = seeder.add(&file).cid;
    change(&file);

    let getter = Daemon::start(&scratch.path("getter"), &[&seeder]);
    let out = scratch.path("out");
    let get = args!["get", cid, "-o", out, "--timeout", "4"];
    let output = getter.run(get.clone());
    let code = output.code.filter(|code| [3, 4].contains(code));
    output.refused(code.unwrap_or(4));
    assert!(!out.exists());
    let part = scratch.path("out.part");
    if part.exists() {
        // Every chunk that was taken is right; the rest was never written.
        let got_len = getter.status_of(&cid).have_len;
        assert_eq!(equal_chunks_len(&part, &original), got_len);
    }
    assert_eq!(seeder.status_of(&cid).state, "changed");
    let listed = seeder.run(args!["ls"]).ok();
    assert!(listed.text().contains("changed"), "{}", listed.text());

    // The content comes back: added again it is served again, and what arrived is not fetched twice.
    fs::write(&file, &content).unwrap();
    assert_eq!(seeder.add(&file).cid, cid);
    assert_eq!(seeder.status_of(&cid).state, "complete");
    getter.run(args!["get", cid, "-o", out]).ok();
    assert_eq!(sha256_file(&out), sha256_file(&original));
}

#[test]
fn a_seeded_file_with_one_byte_changed_under_its_old_time_is_withdrawn_and_never_served_wrong() {
    changed_while_seeding(3, |path| {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let time = file.metadata().unwrap().modified().unwrap();
        let at = 5 * CHUNK_LEN as u64 + 7;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        file.set_modified(time).unwrap();
    });
}

#[test]
fn a_seeded_file_that_was_cut_short_is_withdrawn() {
    changed_while_seeding(4, |path| File::options().write(true).open(path).unwrap().set_len(100).unwrap());
}

#[test]
fn a_seeded_file_that_is_gone_is_withdrawn() {
    changed_while_seeding(5, |path| fs::remove_file(path).unwrap());
}

#[test]
fn a_seeded_file_that_was_replaced_is_withdrawn() {
    changed_while_seeding(6, |path| {
        let other = path.with_extension("new");
        fs::write(&other, noise(7, 8 * CHUNK_LEN)).unwrap();
        fs::rename(&other, path).unwrap();
    });
}

#[test]
fn a_command_killed_at_any_moment_leaves_a_data_directory_that_works() {
    let scratch = Scratch::new();
    let dir = scratch.path("data");
    let file = scratch.file("file", noise(8, 32 * CHUNK_LEN));
    // From before the first byte is written to after the end, in steps of what was printed or made.
    for stage in ["", "lock", "store.redb", "blobs"] {
        let mut process = Process::spawn(dhtfs(&dir).args(args!["add", "--copy", file]));
        common::wait_until("the stage is reached", PATIENCE, || {
            (dir.join(stage).exists() || stage.is_empty() || !process.is_running()).then_some(())
        });
        process.kill();
        run(&dir, args!["ls"]).ok();
    }
    let cid = run(&dir, args!["add", "--copy", file]).ok().line().to_owned();
    assert_eq!(common::sha256(&run(&dir, args!["cat", cid]).ok().stdout), sha256_file(&file));
    run(&dir, args!["gc"]).ok();
    let blobs = names_in(&dir.join("blobs"));
    assert_eq!(blobs.len(), 1, "what killed commands left behind is gone: {blobs:?}");
}
