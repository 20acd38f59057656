//! Whatever is cut off in the middle of a fetch, what arrived stays and nothing is fetched twice.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use common::{
    Daemon, LONG, MIB, PATIENCE, Process, Scratch, args, data_len, dhtfs, embedded_get, equal_chunks_len,
    run, sha256_file, wait_until, write_noise,
};
use dhtfs_node::api::types::GetReport;
use rustix::process::Signal;

/// Bytes that may be asked for twice although they are not missing: answers a busy provider put off.
const MAX_TWICE_LEN: u64 = 8 * MIB;

/// A file on a daemon, and where another node fetches it to.
struct Setting {
    scratch: Scratch,
    seeder: Daemon,
    source: PathBuf,
    digest: String,
    cid: String,
    out: PathBuf,
    len: u64,
}

impl Setting {
    fn new(seed: u64, len: u64) -> Self {
        let scratch = Scratch::new();
        let seeder = Daemon::start(&scratch.path("seeder"), &[]);
        let source = scratch.path("source.bin");
        let digest = write_noise(&source, seed, len);
        let cid = seeder.add(&source).cid;
        let out = scratch.path("out.bin");
        Self { scratch, seeder, source, digest, cid, out, len }
    }

    fn part(&self) -> PathBuf {
        part_of(&self.out)
    }

    /// A `get` with a node of its own, told where the seeder is.
    fn embedded_args(&self) -> Vec<OsString> {
        embedded_get(&self.seeder, &self.cid, &self.out)
    }

    /// A `get` through a daemon.
    fn args(&self) -> Vec<OsString> {
        args!["--json", "get", self.cid, "-o", self.out, "--timeout", "5"]
    }

    fn start(&self, dir: &Path, args: Vec<OsString>) -> Process {
        Process::spawn(dhtfs(dir).args(args)).with_log_on_failure()
    }

    /// Waits until this share of a running fetch is on disk, between 0 and 1.
    fn wait_for(&self, fetch: &mut Process, share: f64) {
        wait_until("the fetch is under way", LONG, || {
            assert!(fetch.is_running(), "the fetch ended too early: {}", fetch.stderr_so_far());
            #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
            let reached = data_len(&self.part()) as f64 >= share * self.len as f64;
            reached.then_some(())
        });
    }

    /// Bytes that are not yet here after a fetch was cut off.
    fn missing_len(&self) -> u64 {
        assert!(!self.out.exists(), "an incomplete file must not look like the file");
        let missing_len = self.len - equal_chunks_len(&self.part(), &self.source);
        assert!(missing_len > 0 && missing_len < self.len, "{missing_len} of {} bytes are missing", self.len);
        missing_len
    }

    /// Checks the fetch that went on with `missing_len` bytes missing.
    fn check(&self, report: &GetReport, missing_len: u64) {
        let Self { len, .. } = self;
        eprintln!(
            "{missing_len} of {len} bytes missing, {} asked for, {} s",
            report.requested_len, report.seconds
        );
        assert_eq!(sha256_file(&self.out), self.digest);
        assert!(!self.part().exists());
        assert!(
            report.requested_len <= missing_len + MAX_TWICE_LEN,
            "{missing_len} bytes were missing, {} were asked for",
            report.requested_len
        );
        assert_eq!(report.received_len + report.reused_len, self.len, "{report:?}");
    }
}

fn part_of(out: &Path) -> PathBuf {
    let mut part = out.as_os_str().to_owned();
    part.push(".part");
    part.into()
}

#[test]
fn a_get_killed_half_way_fetches_only_what_is_missing_when_run_again() {
    let setting = Setting::new(1, 512 * MIB);
    let dir = setting.scratch.path("getter");
    let mut fetch = setting.start(&dir, setting.embedded_args());
    setting.wait_for(&mut fetch, 0.5);
    fetch.kill();
    let missing_len = setting.missing_len();
    assert!(missing_len > setting.len / 10, "killed too late to tell: {missing_len} bytes were missing");
    let report = run(&dir, setting.embedded_args()).ok().json();
    setting.check(&report, missing_len);
}

#[test]
fn a_daemon_killed_in_the_middle_of_a_get_goes_on_after_its_restart() {
    let setting = Setting::new(2, 512 * MIB);
    let getter = Daemon::start(&setting.scratch.path("getter"), &[&setting.seeder]);
    let mut fetch = setting.start(getter.dir(), setting.args());
    setting.wait_for(&mut fetch, 0.5);
    let dir = getter.dir().to_owned();
    getter.kill();
    let output = fetch.wait(PATIENCE);
    output.refused(output.code.filter(|code| *code != 0).unwrap());
    let missing_len = setting.missing_len();
    let getter = Daemon::start(&dir, &[&setting.seeder]);
    assert_eq!(getter.status_of(&setting.cid).state, "partial");
    let report = getter.run(setting.args()).ok().json();
    setting.check(&report, missing_len);
    assert_eq!(getter.status_of(&setting.cid).state, "complete");
}

#[test]
fn a_provider_killed_in_the_middle_delays_but_never_fails_a_fetch_that_has_another() {
    let setting = Setting::new(3, 512 * MIB);
    let other = Daemon::start(&setting.scratch.path("other"), &[&setting.seeder]);
    assert_eq!(other.add(&setting.source).cid, setting.cid);
    let getter = Daemon::start(&setting.scratch.path("getter"), &[&other]);
    let mut args = setting.args();
    args.extend(args!["--peer", setting.seeder.addr(), "--peer", other.addr()]);
    let mut fetch = setting.start(getter.dir(), args);
    setting.wait_for(&mut fetch, 0.25);
    let Setting { seeder, .. } = &setting;
    seeder.process().signal(Signal::KILL);
    let report: GetReport = fetch.wait(LONG).ok().json();
    assert_eq!(sha256_file(&setting.out), setting.digest);
    for holder in [seeder, &other] {
        let used = report.sources.iter().any(|source| source.peer == holder.peer_id() && source.chunks > 0);
        assert!(used, "both were used: {:?}", report.sources);
    }
    eprintln!("took {} s with a provider lost, {} bytes wasted", report.seconds, report.wasted_len);
    assert!(report.seconds < 60.0, "{} s", report.seconds);
}

#[test]
fn a_provider_that_freezes_in_the_middle_delays_but_never_fails_a_fetch_that_has_another() {
    let setting = Setting::new(4, 256 * MIB);
    let other = Daemon::start(&setting.scratch.path("other"), &[&setting.seeder]);
    assert_eq!(other.add(&setting.source).cid, setting.cid);
    let dir = setting.scratch.path("getter");
    let mut args = setting.embedded_args();
    args.extend(args!["--peer", other.addr()]);
    let mut fetch = setting.start(&dir, args);
    setting.wait_for(&mut fetch, 0.25);
    other.process().signal(Signal::STOP);
    let report: GetReport = fetch.wait(LONG).ok().json();
    assert_eq!(sha256_file(&setting.out), setting.digest);
    eprintln!("took {} s with a provider lost, {} bytes wasted", report.seconds, report.wasted_len);
    assert!(report.seconds < 60.0, "{} s", report.seconds);
}

#[test]
fn a_fetch_that_lost_its_only_provider_keeps_its_part_and_goes_on_when_it_is_back() {
    let setting = Setting::new(5, 256 * MIB);
    let getter = Daemon::start(&setting.scratch.path("getter"), &[&setting.seeder]);
    let mut fetch = setting.start(getter.dir(), setting.args());
    setting.wait_for(&mut fetch, 0.4);
    setting.seeder.process().signal(Signal::KILL);
    let output = fetch.wait(LONG);
    let line = output.refused(4);
    assert!(
        line.contains("out.bin.part") || line.contains("kept"),
        "it says what became of the part: {line}"
    );
    assert!(line.contains("(1 provider: unreachable; ") && line.ends_with(" a live provider)"), "{line}");
    let waits = output.waits();
    assert!(!waits.is_empty(), "it said nothing for five seconds");
    assert!(waits.iter().all(|wait| wait.contains("1 provider: ")), "{waits:?}");
    let missing_len = setting.missing_len();
    let _seeder = Daemon::start_with(setting.seeder.dir(), args![]);
    let args = args!["--json", "get", setting.cid, "-o", setting.out];
    let report = getter.run(args).ok().json();
    setting.check(&report, missing_len);
}

#[test]
fn ctrl_c_ends_a_get_with_130_keeps_the_part_and_says_so() {
    let setting = Setting::new(6, 256 * MIB);
    let dir = setting.scratch.path("getter");
    let mut fetch = setting.start(&dir, setting.embedded_args());
    setting.wait_for(&mut fetch, 0.3);
    fetch.signal(Signal::INT);
    let output = fetch.wait(PATIENCE);
    assert!(output.refused(130).contains("kept"), "{}", output.stderr);
    let missing_len = setting.missing_len();
    let report = run(&dir, setting.embedded_args()).ok().json();
    setting.check(&report, missing_len);
}

#[test]
fn ctrl_c_of_a_get_through_a_daemon_stops_the_fetch_there_and_keeps_the_part() {
    let setting = Setting::new(7, 256 * MIB);
    let getter = Daemon::start(&setting.scratch.path("getter"), &[&setting.seeder]);
    let mut fetch = setting.start(getter.dir(), setting.args());
    setting.wait_for(&mut fetch, 0.3);
    fetch.signal(Signal::INT);
    fetch.wait(PATIENCE).refused(130);
    // The daemon has noticed when nothing more arrives.
    let mut last = (0, 0);
    wait_until("the fetch has stopped", PATIENCE, || {
        let received = served_len(&setting.seeder);
        last = if received == last.0 { (received, last.1 + 1) } else { (received, 0) };
        (last.1 > 10).then_some(())
    });
    assert!(!setting.out.exists(), "the daemon went on after Ctrl-C");
    let missing_len = setting.missing_len();
    let report = getter.run(setting.args()).ok().json();
    setting.check(&report, missing_len);
}

/// Bytes a daemon has served so far.
fn served_len(daemon: &Daemon) -> u64 {
    daemon.status().counters.get("serve_answered_len").copied().unwrap_or(0)
}
