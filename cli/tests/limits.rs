//! Limits on what is sent and fetched, between real daemons on loopback. Times are only ever bounded from below.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{ffi::OsString, fs, time::Duration};

use common::{
    Daemon, LONG, MIB, PATIENCE, Process, Scratch, args, dhtfs, embedded_get, run, wait_until, write_noise,
};
use dhtfs_node::api::types::{Added, GetReport, LimitsInfo};

/// A configuration by which limits count on loopback too.
fn counting_lan(scratch: &Scratch, more: &str) -> OsString {
    scratch.file("config.toml", format!("limit_lan = true\n{more}\n")).into_os_string()
}

fn listening() -> Vec<OsString> {
    args!["--listen", "/ip4/127.0.0.1/tcp/0"]
}

fn with(mut args: Vec<OsString>, more: Vec<OsString>) -> Vec<OsString> {
    args.extend(more);
    args
}

/// Shares a file of so many MiB.
fn shared(scratch: &Scratch, seeder: &Daemon, mib: u64) -> (Added, String) {
    let path = scratch.path("source.bin");
    let digest = write_noise(&path, 7, mib * MIB);
    (seeder.add(&path), digest)
}

fn counter(daemon: &Daemon, name: &str) -> u64 {
    daemon.status().counters[name]
}

/// Least time that bytes take at a rate if so many of them go at once.
fn least(len: u64, burst: u64, rate: u64) -> Duration {
    Duration::from_millis((len - burst) * 1000 / rate)
}

#[test]
fn an_upload_limit_is_kept_and_costs_nothing_but_time() {
    let scratch = Scratch::new();
    let config = counting_lan(&scratch, "limit_up = \"1GiB/s\"");
    let args = with(listening(), args!["--config", config, "--limit-up", "2MiB/s"]);
    let seeder = Daemon::start_with(&scratch.path("seeder"), args);
    let (added, digest) = shared(&scratch, &seeder, 10);
    let out = scratch.path("out.bin");
    let output = run(&scratch.path("getter"), embedded_get(&seeder, &added.cid, &out)).ok();
    // An eighth of a second may go at once.
    let least = least(10 * MIB, 2 * MIB / 8, 2 * MIB);
    assert!(output.taken >= least, "{:?}, at least {least:?}", output.taken);
    let report: GetReport = output.json();
    assert_eq!((report.wasted_len, common::sha256_file(&out)), (0, digest));
    assert!(counter(&seeder, "limited_up_len") >= 10 * MIB);
    assert_eq!(seeder.status().limits.up.to_string(), "2 MiB/s", "what is typed goes before the file");
    assert_eq!(counter(&seeder, "net_lanes_serve_broken"), 0);
}

#[test]
fn a_limit_for_each_peer_is_kept() {
    let scratch = Scratch::new();
    let config = counting_lan(&scratch, "limit_up_per_peer = \"2MiB/s\"");
    let seeder = Daemon::start_with(&scratch.path("seeder"), with(listening(), args!["--config", config]));
    let (added, digest) = shared(&scratch, &seeder, 8);
    let out = scratch.path("out.bin");
    let output = run(&scratch.path("getter"), embedded_get(&seeder, &added.cid, &out)).ok();
    let least = least(8 * MIB, 2 * MIB / 8, 2 * MIB);
    assert!(output.taken >= least, "{:?}, at least {least:?}", output.taken);
    assert_eq!(common::sha256_file(&out), digest);
}

#[test]
fn a_download_limit_is_kept_without_copies_or_lost_peers() {
    let scratch = Scratch::new();
    let seeders: Vec<Daemon> =
        (0..2).map(|n| Daemon::start(&scratch.path(format!("seeder{n}")), &[])).collect();
    let (added, digest) = shared(&scratch, &seeders[0], 10);
    assert_eq!(seeders[1].add(&scratch.path("source.bin")).cid, added.cid);
    let config = counting_lan(&scratch, "");
    let out = scratch.path("out.bin");
    let more = args!["--peer", seeders[1].addr(), "--config", config, "--limit-down", "2MiB/s"];
    let args = with(embedded_get(&seeders[0], &added.cid, &out), more);
    let output = run(&scratch.path("getter"), args).ok();
    // A block may be asked for at once.
    let least = least(10 * MIB, MIB, 2 * MIB);
    assert!(output.taken >= least, "{:?}, at least {least:?}", output.taken);
    let report: GetReport = output.json();
    assert_eq!((report.wasted_len, common::sha256_file(&out)), (0, digest));
    assert!(report.requested_len < 11 * MIB, "{report:?}");
}

#[test]
fn loopback_is_free_of_limits_unless_it_is_to_count() {
    let scratch = Scratch::new();
    let lowest = args!["--limit-up", "20KiB/s", "--limit-down", "20KiB/s"];
    let seeder = Daemon::start_with(&scratch.path("seeder"), with(listening(), lowest.clone()));
    let getter = Daemon::start_with(
        &scratch.path("getter"),
        with(listening(), with(lowest, args!["--bootstrap", seeder.addr()])),
    );
    let (added, digest) = shared(&scratch, &seeder, 16);
    let out = scratch.path("out.bin");
    let report: GetReport =
        getter.run(args!["--json", "get", added.cid, "-o", out, "--peer", seeder.addr()]).ok().json();
    assert_eq!((report.len, common::sha256_file(&out)), (16 * MIB, digest));
    assert_eq!(counter(&seeder, "limited_up_len"), 0);
    assert_eq!(counter(&getter, "limited_down_len"), 0);
    assert!(counter(&seeder, "serve_answered_len") >= 16 * MIB);
}

/// 128 MiB at 100 KiB/s take 22 minutes, longer than a command is waited for.
#[test]
fn limits_change_while_a_fetch_runs() {
    let scratch = Scratch::new();
    let config = counting_lan(&scratch, "");
    let up = args!["--config", config, "--limit-up", "100KiB/s"];
    let seeder = Daemon::start_with(&scratch.path("seeder"), with(listening(), up));
    let down = args!["--config", config, "--bootstrap", seeder.addr()];
    let getter = Daemon::start_with(&scratch.path("getter"), with(listening(), down));
    let (added, digest) = shared(&scratch, &seeder, 128);
    let out = scratch.path("out.bin");
    let get = args!["--json", "get", added.cid, "-o", out, "--peer", seeder.addr(), "--timeout", "120"];
    let get = Process::spawn(dhtfs(getter.dir()).args(get));
    wait_until("the limit counts", PATIENCE, || (counter(&seeder, "limited_up_len") > 0).then_some(()));

    let limits = |daemon: &Daemon, more: Vec<OsString>| -> LimitsInfo {
        daemon.run(with(args!["--json", "limits"], more)).ok().json()
    };
    let down = limits(&getter, args!["--down", "100KiB/s"]);
    assert_eq!(
        (down.down.to_string(), down.up.to_string(), down.lan),
        ("100 KiB/s".into(), "none".into(), true)
    );
    let free = limits(&seeder, args!["--up", "none"]);
    assert_eq!((free, limits(&seeder, vec![])), (free, free));
    assert!(!free.up.is_set());
    // Now it is the other end that holds it back.
    wait_until("the other limit counts", PATIENCE, || {
        (counter(&getter, "limited_down_len") > 0).then_some(())
    });
    let shown = getter.run(args!["status"]).ok();
    assert!(shown.text().contains("down 100 KiB/s"), "{}", shown.text());
    limits(&getter, args!["--down", "none"]);
    let report: GetReport = get.wait(LONG).ok().json();
    assert_eq!((report.len, common::sha256_file(&out)), (128 * MIB, digest));
    assert!(!getter.run(args!["status"]).ok().text().contains("down 100 KiB/s"));
}

#[test]
fn what_is_no_limit_and_what_cannot_have_one_is_told_on_one_line() {
    let scratch = Scratch::new();
    let dir = scratch.path("data");
    let line = run(&dir, args!["daemon", "--limit-up", "fast"]).refused(2).to_owned();
    assert!(line.contains("--limit-up") && line.contains("500KiB/s"), "{line}");
    let line = run(&dir, args!["limits", "--up", "1KB/s"]).refused(2).to_owned();
    assert!(line.contains("the least is 20 KiB/s"), "{line}");
    let config = scratch.file("bad.toml", "limit_down = \"2M\"\n");
    let line = run(&dir, args!["status", "--config", config]).refused(2).to_owned();
    assert!(line.contains("bad.toml") && line.contains("2M"), "{line}");
    let line = run(&dir, args!["limits", "--up", "2MB/s"]).refused(1).to_owned();
    assert!(line.contains("no daemon is running") && line.contains("limit_up"), "{line}");
    let file = fs::canonicalize(scratch.file("f", "x")).unwrap();
    let output = run(&dir, args!["add", file, "--limit-up", "2MB/s"]);
    assert_eq!(output.code, Some(2), "an add serves nobody without --seed: {output:?}");

    let shown = run(&dir, args!["limits"]).ok();
    assert_eq!(shown.text().lines().next(), Some("up none"), "those of the configuration");
    let daemon = Daemon::start(&dir, &[]);
    let cid = daemon.add(&file).cid;
    let line = daemon.run(args!["get", cid, "--limit-down", "2MB/s"]).refused(2).to_owned();
    assert!(line.contains("dhtfs limits"), "{line}");
    let refused = post(&dir, r#"{"up":"fast"}"#);
    assert!(refused.contains("400") && refused.contains("\"kind\":\"usage\""), "{refused}");
    assert!(!daemon.status().limits.is_any());
}

/// The whole answer to a `POST /v0/limits`.
fn post(dir: &std::path::Path, body: &str) -> String {
    use std::io::{Read, Write};
    let mut socket = std::os::unix::net::UnixStream::connect(dir.join("api.sock")).unwrap();
    let len = body.len();
    write!(
        socket,
        "POST /v0/limits HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {len}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}
