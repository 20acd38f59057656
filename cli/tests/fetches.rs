//! Fetches side by side, of parts of a share, and of what is here already.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{fs, thread};

use common::{
    CHUNK_LEN, Daemon, LONG, MIB, Process, Scratch, args, dhtfs, noise, run, sha256_file, wait_until,
    write_noise,
};
use dhtfs_node::api::types::{GetReport, LsReport};

#[test]
fn a_file_of_a_shared_directory_is_fetched_by_its_own_cid() {
    let scratch = Scratch::new();
    let seeder = Daemon::start(&scratch.path("seeder"), &[]);
    let getter = Daemon::start(&scratch.path("getter"), &[&seeder]);
    let file = scratch.file("album/disc 1/song.flac", noise(1, 2 * CHUNK_LEN + 9));
    scratch.file("album/cover.png", noise(2, 1000));
    let cid = seeder.add(&scratch.path("album")).cid;
    seeder.wait_announced(7);
    let LsReport::Manifest { files, .. } = getter.run(args!["--json", "ls", cid]).ok().json() else {
        panic!("ls of a CID lists its content")
    };
    let song = files.into_iter().find(|file| file.path == "disc 1/song.flac").unwrap();
    let into = scratch.dir("into");
    getter.run(args!["get", song.cid, "-o", into]).ok();
    assert_eq!(sha256_file(&into.join("song.flac")), sha256_file(&file));
    assert_eq!(getter.run(args!["cat", song.cid, "--length", "5"]).ok().stdout, noise(1, 5));
    // The rest of the directory reuses what came with the file.
    let report: GetReport = getter.run(args!["--json", "get", cid, "-o", into]).ok().json();
    assert_eq!((report.files, report.reused_len), (2, 2 * MIB + 9), "{report:?}");
}

#[test]
fn what_is_here_already_is_copied_without_asking_anybody() {
    let scratch = Scratch::new();
    let dir = scratch.path("data");
    let file = scratch.file("file", noise(3, 3 * CHUNK_LEN + 1));
    let cid = run(&dir, args!["add", file]).ok().line().to_owned();
    let out = scratch.path("out");
    let report: GetReport = run(&dir, args!["--json", "get", cid, "-o", out]).ok().json();
    assert_eq!((report.requested_len, report.received_len, report.reused_len), (0, 0, report.len));
    assert_eq!(sha256_file(&out), sha256_file(&file));
    // A file that is almost the same brings only what is new.
    let seeder = Daemon::start(&scratch.path("seeder"), &[]);
    let longer = scratch.file("longer", [noise(3, 3 * CHUNK_LEN), noise(4, CHUNK_LEN)].concat());
    let cid = seeder.add(&longer).cid;
    let out = scratch.path("longer-out");
    let report: GetReport =
        run(&dir, args!["--json", "get", cid, "-o", out, "--peer", seeder.addr()]).ok().json();
    assert_eq!(report.reused_len, 3 * MIB, "{report:?}");
    assert_eq!(sha256_file(&out), sha256_file(&longer));
}

#[test]
fn small_files_come_with_their_manifests() {
    let scratch = Scratch::new();
    let seeder = Daemon::start(&scratch.path("seeder"), &[]);
    let answered = || seeder.status().counters["serve_answered"];
    let takes = |wanted: u64, asks: &dyn Fn()| {
        let before = answered();
        asks();
        // An answer is counted when it is handed to the socket, perhaps a moment after it has arrived.
        let after =
            wait_until("answers", LONG, || Some(answered()).filter(|after| *after >= before + wanted));
        assert_eq!(after - before, wanted);
    };
    let [small, longest, longer] = [1_000, 65_536, 65_537].map(|len| {
        let name = format!("folder/{len}");
        (len, scratch.file(&name, noise(8, len)))
    });
    for (n, ((len, file), wanted)) in [(&small, 1), (&longest, 1), (&longer, 2)].into_iter().enumerate() {
        let cid = seeder.add(file).cid;
        let (data, out) = (scratch.path(format!("data-{n}")), scratch.path(format!("out-{n}")));
        let get = || drop(run(&data, args!["get", cid, "-o", out, "--peer", seeder.addr()]).ok());
        takes(wanted, &get);
        assert_eq!(fs::read(&out).unwrap(), noise(8, *len));
        let data = scratch.path(format!("data-of-cat-{n}"));
        let cat = || {
            let printed =
                run(&data, args!["cat", cid, "--offset", "10", "--peer", seeder.addr()]).ok().stdout;
            assert_eq!(printed, noise(8, *len)[10..]);
        };
        takes(wanted, &cat);
    }
    let cid = seeder.add(&scratch.path("folder")).cid;
    let out = scratch.path("folder-out");
    let get = || drop(run(&scratch.path("data"), args!["get", cid, "-o", out, "--peer", seeder.addr()]).ok());
    // The folder, three files, and the chunk of one of them.
    takes(5, &get);
    for (len, _) in [small, longest, longer] {
        assert_eq!(fs::read(out.join(len.to_string())).unwrap(), noise(8, len));
    }
}

#[test]
fn the_same_content_is_fetched_to_two_places_at_once_but_not_twice_to_one() {
    let scratch = Scratch::new();
    let seeder = Daemon::start(&scratch.path("seeder"), &[]);
    let getter = Daemon::start(&scratch.path("getter"), &[&seeder]);
    let source = scratch.path("source");
    let digest = write_noise(&source, 5, 128 * MIB);
    let cid = seeder.add(&source).cid;
    let outs = ["one", "two", "two"].map(|name| scratch.path(name));
    let ended: Vec<_> = thread::scope(|scope| {
        let lines = outs.iter().map(|out| args!["get", cid, "-o", out]);
        let running: Vec<_> = lines.map(|line| scope.spawn(|| getter.run(line))).collect();
        running.into_iter().map(|fetch| fetch.join().unwrap()).collect()
    });
    let mut codes: Vec<_> = ended[1..].iter().map(|output| output.code.unwrap()).collect();
    codes.sort_unstable();
    assert_eq!((ended[0].code, codes), (Some(0), vec![0, 1]));
    for out in &outs {
        assert_eq!(sha256_file(out), digest);
    }
    let refused = ended[1..].iter().find(|output| output.code == Some(1)).unwrap();
    refused.refused(1);
}

#[test]
fn many_fetch_from_one_at_the_same_time() {
    let scratch = Scratch::new();
    let seeder = Daemon::start(&scratch.path("seeder"), &[]);
    let source = scratch.path("source");
    let digest = write_noise(&source, 6, 32 * MIB);
    let cid = seeder.add(&source).cid;
    let outs: Vec<_> = (0..8).map(|index| scratch.path(format!("out-{index}"))).collect();
    let fetches: Vec<_> = outs
        .iter()
        .map(|out| {
            let line = args!["get", cid, "-o", out, "--peer", seeder.addr()];
            Process::spawn(dhtfs(&out.with_extension("data")).args(line))
        })
        .collect();
    for (fetch, out) in fetches.into_iter().zip(&outs) {
        fetch.wait(LONG).ok();
        assert_eq!(sha256_file(out), digest);
    }
}

#[test]
fn a_daemon_names_itself_among_the_providers_of_what_it_shares() {
    let scratch = Scratch::new();
    let one = Daemon::start(&scratch.path("one"), &[]);
    let two = Daemon::start(&scratch.path("two"), &[&one]);
    let file = scratch.file("file", noise(7, CHUNK_LEN));
    let cid = one.add(&file).cid;
    assert_eq!(two.add(&file).cid, cid);
    one.wait_announced(2);
    two.wait_announced(2);
    let mut found = two.providers(&cid);
    found.sort_by_key(|provider| provider.this_node);
    let named: Vec<_> = found.iter().map(|provider| (provider.peer.as_str(), provider.this_node)).collect();
    assert_eq!(named, [(one.peer_id(), false), (two.peer_id(), true)]);
}

#[test]
fn an_output_in_a_place_that_does_not_exist_is_refused_and_nothing_is_left_behind() {
    let scratch = Scratch::new();
    let seeder = Daemon::start(&scratch.path("seeder"), &[]);
    let cid = seeder.add(&scratch.file("file", noise(8, CHUNK_LEN))).cid;
    let getter = scratch.path("getter");
    let below_a_file = scratch.path("file").join("out");
    let refused = run(&getter, args!["get", cid, "-o", below_a_file, "--peer", seeder.addr()]);
    assert!(refused.refused(1).contains("file"), "{}", refused.stderr);
    assert_eq!(fs::read(scratch.path("file")).unwrap(), noise(8, CHUNK_LEN));
    let names = common::names_in(&scratch.path(""));
    assert_eq!(names, ["file", "getter", "seeder"]);
}
