//! `dhtfs sim` hands over to the program beside it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use tempfile::TempDir;

/// A copy of the program in a directory of its own.
fn copied() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let program = dir.path().join("dhtfs");
    fs::copy(env!("CARGO_BIN_EXE_dhtfs"), &program).unwrap();
    (dir, program)
}

#[test]
fn every_argument_and_the_exit_code_are_passed_on() {
    let (dir, program) = copied();
    let sibling = dir.path().join("dhtfs-sim");
    fs::write(&sibling, "#!/bin/sh\nprintf '%s\\n' \"$@\"\nexit 7\n").unwrap();
    fs::set_permissions(&sibling, fs::Permissions::from_mode(0o755)).unwrap();
    let given = ["run", "churn24", "--json", "out file", "--seed", "7", "-q", "--help", "--", "-v"];
    let output = Command::new(program).arg("sim").args(given).output().unwrap();
    let lines: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(lines, given);
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn without_the_program_beside_it_one_line_says_how_to_get_it() {
    let (_dir, program) = copied();
    let output = Command::new(program).args(["sim", "list"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains("dhtfs-sim") && error.contains("cargo build"), "{error}");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
}
