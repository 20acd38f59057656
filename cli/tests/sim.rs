//! `dhtfs sim` hands over to the program beside it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use tempfile::TempDir;

/// One test, not two: a program must not be written while another thread forks, or it is busy when it is started.
#[test]
fn sim_hands_everything_over_and_says_how_to_get_the_program_if_it_is_missing() {
    let built = Path::new(env!("CARGO_BIN_EXE_dhtfs"));
    // Beside the program that was built, so that a link will do.
    let dir = TempDir::new_in(built.parent().unwrap()).unwrap();
    let program = dir.path().join("dhtfs");
    fs::hard_link(built, &program).unwrap();

    let output = Command::new(&program).args(["sim", "list"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains("dhtfs-sim") && error.contains("cargo build"), "{error}");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());

    let sibling = dir.path().join("dhtfs-sim");
    fs::write(&sibling, "#!/bin/sh\nprintf '%s\\n' \"$@\"\nexit 7\n").unwrap();
    fs::set_permissions(&sibling, fs::Permissions::from_mode(0o755)).unwrap();
    let given = ["run", "churn24", "--json", "out file", "--seed", "7", "-q", "--help", "--", "-v"];
    let output = Command::new(&program).arg("sim").args(given).output().unwrap();
    let lines: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(lines, given);
    assert_eq!(output.status.code(), Some(7));
}
