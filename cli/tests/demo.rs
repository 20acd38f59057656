//! The demo: works, looks after itself, leaves nothing behind.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, path::Path};

use common::{LONG, PATIENCE, Process, Scratch, dhtfs, names_in, noise, sha256_file, wait_until};
use rustix::process::Signal;

/// Starts the demo with a temporary directory of its own.
fn start(temp: &Path, more: &[&OsStr]) -> Process {
    let mut command = dhtfs(&temp.join("never-used"));
    command.env("TMPDIR", temp).arg("demo").args(more);
    Process::spawn(&mut command).with_log_on_failure()
}

/// Processes that were started with something below `temp`, the demo itself left out.
fn processes_below(temp: &Path, own: u32) -> Vec<u32> {
    let needle = temp.as_os_str().as_bytes();
    let mentions = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(needle.len()).any(|part| part == needle)
    };
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != own).filter(mentions).collect()
}

fn wait_until_all_are_gone(temp: &Path, own: u32) {
    wait_until("the daemons are gone", PATIENCE, || processes_below(temp, own).is_empty().then_some(()));
}

#[test]
fn the_demo_ends_well_and_leaves_nothing_behind() {
    let scratch = Scratch::new();
    let temp = scratch.dir("temp");
    let demo = start(&temp, &["--size".as_ref(), "16".as_ref()]);
    let pid = demo.pid();
    let output = demo.wait(LONG).ok();
    assert!(output.text().contains("bafyrei"), "it shows the CID: {}", output.text());
    assert!(output.text().contains("MiB/s"), "it shows what was measured: {}", output.text());
    assert!(names_in(&temp).is_empty(), "{:?}", names_in(&temp));
    assert!(processes_below(&temp, pid).is_empty());
}

#[test]
fn the_demo_only_reads_a_file_it_is_given() {
    let scratch = Scratch::new();
    let temp = scratch.dir("temp");
    let file = scratch.file("my film.mp4", noise(1, 9_000_001));
    let before = (sha256_file(&file), fs::metadata(&file).unwrap().modified().unwrap());
    start(&temp, &[file.as_os_str()]).wait(LONG).ok();
    assert_eq!((sha256_file(&file), fs::metadata(&file).unwrap().modified().unwrap()), before);
    assert!(names_in(&temp).is_empty(), "{:?}", names_in(&temp));
    let missing = start(&temp, &[scratch.path("missing").as_os_str()]).wait(LONG);
    assert!(missing.refused(1).contains("missing"), "{}", missing.stderr);
}

#[test]
fn the_demo_cleans_up_after_ctrl_c() {
    let scratch = Scratch::new();
    let temp = scratch.dir("temp");
    let demo = start(&temp, &["--size".as_ref(), "64".as_ref()]);
    let pid = demo.pid();
    wait_until("daemons are running", PATIENCE, || (processes_below(&temp, pid).len() >= 3).then_some(()));
    demo.signal(Signal::INT);
    assert_eq!(demo.wait(PATIENCE).code, Some(130));
    wait_until_all_are_gone(&temp, pid);
    assert!(names_in(&temp).is_empty(), "{:?}", names_in(&temp));
}

#[test]
fn the_daemons_of_a_killed_demo_end_by_themselves() {
    let scratch = Scratch::new();
    let temp = scratch.dir("temp");
    let mut demo = start(&temp, &["--size".as_ref(), "64".as_ref()]);
    let pid = demo.pid();
    wait_until("daemons are running", PATIENCE, || (processes_below(&temp, pid).len() >= 3).then_some(()));
    demo.kill();
    wait_until_all_are_gone(&temp, pid);
}
