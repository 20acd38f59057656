//! Transfers of a daemon: seen, steered, handed over, and gone on with after a crash.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::path::{Path, PathBuf};

use common::{
    Daemon, LONG, MIB, PATIENCE, Process, Scratch, args, data_len, dhtfs, run, sha256_file, wait_until,
    write_noise,
};
use dhtfs_node::api::types::{GetReport, Transfer, TransferState};
use rustix::process::Signal;

const LEN: u64 = 256 * MIB;

/// A file on a daemon, and another daemon that can get it.
struct Setting {
    scratch: Scratch,
    seeder: Daemon,
    getter: Daemon,
    digest: String,
    cid: String,
    out: PathBuf,
}

impl Setting {
    fn new(seed: u64) -> Self {
        let scratch = Scratch::new();
        let seeder = Daemon::start(&scratch.path("seeder"), &[]);
        let source = scratch.path("source.bin");
        let digest = write_noise(&source, seed, LEN);
        let cid = seeder.add(&source).cid;
        let getter = Daemon::start(&scratch.path("getter"), &[&seeder]);
        let out = scratch.path("out.bin");
        Self { scratch, seeder, getter, digest, cid, out }
    }

    /// A `get` through the daemon that is still waited for.
    fn start(&self) -> Process {
        let args = args!["--json", "get", self.cid, "-o", self.out, "--timeout", "60"];
        Process::spawn(dhtfs(self.getter.dir()).args(args)).with_log_on_failure()
    }

    /// Waits until something has arrived, and stops the provider then, so that it stays so.
    fn freeze(&self) -> Transfer {
        freeze(&self.seeder, &self.getter, &self.out)
    }

    fn thaw(&self) {
        self.seeder.process().signal(Signal::CONT);
    }

    fn is_whole(&self) -> bool {
        self.out.exists() && sha256_file(&self.out) == self.digest
    }
}

fn transfers(daemon: &Daemon) -> Vec<Transfer> {
    daemon.run(args!["--json", "transfers"]).ok().json_lines()
}

/// Waits until there is one transfer and it is so.
fn wait_for(daemon: &Daemon, is_so: impl Fn(&Transfer) -> bool) -> Transfer {
    wait_until("the transfer is so", LONG, || transfers(daemon).into_iter().find(|transfer| is_so(transfer)))
}

fn is_under_way(transfer: &Transfer) -> bool {
    transfer.state == TransferState::Fetching && transfer.have_len > 0 && transfer.have_len < LEN
}

/// See [`Setting::freeze`].
fn freeze(seeder: &Daemon, getter: &Daemon, out: &Path) -> Transfer {
    let part = part_of(out);
    wait_until("something arrives", LONG, || (data_len(&part) > 4 * MIB).then_some(()));
    seeder.process().signal(Signal::STOP);
    wait_for(getter, is_under_way)
}

fn part_of(out: &Path) -> PathBuf {
    let mut part = out.as_os_str().to_owned();
    part.push(".part");
    part.into()
}

#[test]
fn a_transfer_is_shown_paused_resumed_and_refreshed_while_its_get_waits() {
    let setting = Setting::new(41);
    let (getter, cid) = (&setting.getter, &setting.cid);
    let mut get = setting.start();
    let seen = setting.freeze();
    assert_eq!((&seen.cid, seen.name.as_deref(), seen.total_len), (cid, Some("source.bin"), LEN));
    assert_eq!((seen.path.as_deref(), seen.detached), (Some(setting.out.as_path()), false));
    assert_eq!(getter.run(args!["refresh", cid]).ok().line(), cid);
    let paused: Vec<Transfer> = getter.run(args!["--json", "pause", cid]).ok().json_lines();
    assert_eq!(paused[0].state, TransferState::Paused);
    setting.thaw();
    let rested = wait_for(getter, |transfer| transfer.state == TransferState::Paused);
    assert_eq!((rested.sources, rested.speed), (0, None));
    assert!(get.is_running() && !setting.out.exists());
    let text = getter.run(args!["transfers"]).ok().text().to_owned();
    assert!(text.starts_with(&format!("{cid}  paused  ")), "{text}");
    assert_eq!(getter.run(args!["resume", "--all"]).ok().line(), cid);
    let report: GetReport = get.wait(LONG).ok().json();
    assert!(setting.is_whole());
    // The manifest came too; nothing of the file came twice.
    let got_len = report.received_len + report.reused_len;
    assert!((LEN..LEN + MIB).contains(&got_len), "{report:?}");
    assert!(transfers(getter).is_empty());
    getter.run(args!["pause", cid]).refused(3);
    assert_eq!(getter.run(args!["pause", "--all"]).ok().text(), "");
}

#[test]
fn an_aborted_get_ends_with_130_and_keeps_what_arrived() {
    let setting = Setting::new(42);
    let (getter, cid) = (&setting.getter, &setting.cid);
    let get = setting.start();
    setting.freeze();
    assert_eq!(getter.run(args!["abort", cid]).ok().line(), cid);
    let output = get.wait(PATIENCE);
    let line = output.refused(130);
    assert!(line.contains("aborted") && line.contains("out.bin.part"), "{line}");
    assert!(part_of(&setting.out).exists() && !setting.out.exists());
    assert!(transfers(getter).is_empty());
    setting.thaw();
    let report = getter.get(cid, &setting.out);
    assert!(setting.is_whole() && report.reused_len > 0, "{report:?}");
}

#[test]
fn what_was_handed_over_goes_on_after_the_daemon_was_killed() {
    let Setting { scratch, seeder, getter, digest, cid, out } = Setting::new(43);
    let hand_over = args!["get", "--detach", cid, "-o", out, "--timeout", "60"];
    assert_eq!(getter.run(hand_over.clone()).ok().line(), out.to_str().unwrap());
    freeze(&seeder, &getter, &out);
    getter.run(hand_over).ok();
    assert_eq!(transfers(&getter).len(), 1, "the same to the same place is one");
    let dir = getter.dir().to_owned();
    getter.kill();
    // Paused, it stays so over a crash.
    let getter = Daemon::start(&dir, &[]);
    let again = wait_for(&getter, |_| true);
    assert!(again.detached && again.cid == cid, "{again:?}");
    getter.run(args!["pause", cid]).ok();
    getter.kill();
    seeder.process().signal(Signal::CONT);
    let getter = Daemon::start(&dir, &[&seeder]);
    let again = wait_for(&getter, |_| true);
    assert_eq!((again.state, again.path.as_deref()), (TransferState::Paused, Some(out.as_path())));
    assert!(!out.exists());
    getter.run(args!["resume", cid]).ok();
    wait_until("it is done", LONG, || transfers(&getter).is_empty().then_some(()));
    assert_eq!(sha256_file(&out), digest);
    getter.kill();
    let getter = Daemon::start(&dir, &[]);
    assert!(transfers(&getter).is_empty(), "what is done is forgotten");
    drop(scratch);
}

#[test]
fn an_aborted_transfer_is_forgotten_and_one_that_is_in_the_way_says_so() {
    let Setting { scratch, seeder, getter, cid, out, .. } = Setting::new(44);
    getter.run(args!["get", "-d", cid, "-o", out]).ok();
    freeze(&seeder, &getter, &out);
    assert_eq!(getter.run(args!["abort", cid]).ok().line(), cid);
    let there = scratch.file("there", "x");
    assert!(getter.run(args!["get", "-d", cid, "-o", there]).refused(1).contains("exists"));
    getter.run(args!["get", "-d", cid, "-o", "-"]).refused(2);
    seeder.process().signal(Signal::CONT);
    let dir = getter.end();
    let getter = Daemon::start(&dir, &[]);
    assert!(transfers(&getter).is_empty());
}

#[test]
fn another_request_for_the_same_takes_the_place_of_the_first() {
    let Setting { scratch, seeder: _seeder, getter, digest, cid, .. } = Setting::new(45);
    let dir = scratch.path("dir");
    std::fs::create_dir(&dir).unwrap();
    let out = dir.join("source.bin");
    std::fs::write(&out, "in the way").unwrap();
    let into = format!("{}/", dir.display());
    getter.run(args!["get", "-d", cid, "-o", into]).ok();
    let failed = wait_for(&getter, |transfer| transfer.state == TransferState::Failed);
    assert!(failed.error.unwrap_or_default().contains("exists"));
    getter.run(args!["get", "-d", "--force", cid, "-o", into]).ok();
    wait_until("it is done", LONG, || transfers(&getter).is_empty().then_some(()));
    assert_eq!(sha256_file(&out), digest);
    assert!(
        getter
            .run(args!["get", "-d", cid, "-o", into, "--limit-down", "1MiB"])
            .refused(2)
            .contains("dhtfs limits")
    );
}

#[test]
fn without_a_daemon_they_say_so_in_one_line() {
    let scratch = Scratch::new();
    let cid = "bafyreigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi";
    for line in [
        args!["transfers"],
        args!["pause", cid],
        args!["resume", "--all"],
        args!["abort", cid],
        args!["refresh", cid],
        args!["get", "--detach", cid],
    ] {
        let output = run(&scratch.path("data"), line);
        assert!(output.refused(1).contains("no daemon is running"), "{}", output.stderr);
    }
}
