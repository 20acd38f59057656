//! Bad input: the documented exit code, one line that says what to do, nothing on stdout, nothing lost.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{
    ffi::OsStr,
    fs,
    io::Read,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::Path,
    process::Stdio,
    time::Duration,
};

use common::{
    CHUNK_LEN, Daemon, Entry, LONG, Output, PATIENCE, Process, Scratch, args, chunk_cid, dhtfs, noise, run,
    sha256_file, tree,
};
use dhtfs_node::api::types::ShareInfo;

/// A CID of a manifest that nobody has: that of "hello world\n" taken for a manifest.
const UNKNOWN: &str = "bafyreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4";

/// The number of shares on a data directory.
fn shares(dir: &Path) -> usize {
    run(dir, args!["--json", "ls"]).ok().json_lines::<ShareInfo>().len()
}

#[test]
fn what_is_no_cid_or_a_foreign_one_is_a_usage_error_before_anything_is_started() {
    let scratch = Scratch::new();
    let dir = scratch.path("data");
    let file = scratch.file("file", "x");
    let wrong = [
        ("no CID", "not-a-cid"),
        ("empty", ""),
        ("cut", "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2de"),
        ("version 0", "QmZjTnYw2TFhn9Nn7tjmPSoTBoY7YRkwPzwSrSbabY24Kp"),
        ("codec dag-pb", "bafybeifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4"),
        ("codec dag-json", "baguqeeravfejatzpb5dzxd4bs5uuwmayjmgs5uobzuvb5qh3qxjjtimsurdq"),
        ("codec cbor", "bafireifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4"),
        ("hash blake3", "bafkr4ifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4"),
        ("hash identity", "bafkqablimvwgy3y"),
        (
            "hash sha2-512",
            "bafkrgqg3hf2ks7zea634vynomn6aamdipiizcmtu2v4esjky4oobnqax32covtoiyyx6gtxe4evuwfbiqf7qtnvcoygd7ctgjtvostjegsszg",
        ),
        ("half a hash", "bafkreefjjcie6lypi6ny7amxnfftagcl"),
        ("link of no CID", "dhtfs:not-a-cid?name=x"),
    ];
    for (what, cid) in wrong {
        for command in ["get", "cat", "ls", "rm", "providers", "status"] {
            let output = run(&dir, args![command, cid]);
            assert!(output.refused(2).len() > 20, "{command} of {what}: {}", output.stderr);
        }
        run(&dir, args!["verify", file, cid]).refused(2);
    }
    assert!(!dir.exists(), "a data directory was made for nothing");
    let v0 = run(&dir, args!["get", "QmZjTnYw2TFhn9Nn7tjmPSoTBoY7YRkwPzwSrSbabY24Kp"]);
    assert!(!v0.refused(2).contains("not a CID"), "it is a CID, only not one of ours: {}", v0.stderr);
}

#[test]
fn what_is_typed_wrong_is_a_usage_error_that_names_the_argument() {
    let scratch = Scratch::new();
    let dir = scratch.path("data");
    let lines = [
        (args!["get", UNKNOWN, "--peer", "127.0.0.1:4343"], "--peer"),
        (args!["get", UNKNOWN, "--bootstrap", "nonsense"], "--bootstrap"),
        (args!["daemon", "--listen", "/ip4/300.0.0.1/tcp/1"], "--listen"),
        (args!["get", UNKNOWN, "--timeout", "soon"], "--timeout"),
        (args!["get", UNKNOWN, "--no-such-flag"], "--no-such-flag"),
        (args!["frobnicate"], "frobnicate"),
        (args!["get"], "CID"),
        (args!["add"], "PATH"),
        (args!["cat", UNKNOWN, "--offset", "-1"], "-1"),
    ];
    for (line, named) in lines {
        let output = run(&dir, line.clone());
        assert_eq!(output.code, Some(2), "{line:?}: {}", output.stderr);
        assert!(output.stdout.is_empty() && output.stderr.contains(named), "{line:?}: {}", output.stderr);
    }
    assert!(!dir.exists());
    let two_names = args!["add", scratch.file("a", "1"), scratch.file("b", "2"), "--name", "c"];
    assert_eq!(run(&dir, two_names).code, Some(2));
    run(&dir, args!["--config", scratch.path("missing.toml"), "ls"]).refused(2);
    run(&dir, args!["--config", scratch.file("bad.toml", "networkk = \"x\"\n"), "ls"]).refused(2);
}

#[test]
fn a_cid_that_nobody_provides_is_not_found_within_the_timeout() {
    let scratch = Scratch::new();
    let hub = Daemon::start(&scratch.path("hub"), &[]);
    let node = Daemon::start(&scratch.path("node"), &[&hub]);
    let out = scratch.path("out");
    let chunk = chunk_cid(b"nobody has this");
    let not_found = |output: &Output, said: &str| {
        assert!(output.refused(3).contains(said), "{}", output.stderr);
        // The timeout, and time to start and end on a busy machine.
        assert!(output.taken < Duration::from_secs(12), "{:?}", output.taken);
    };
    for cid in [UNKNOWN, &chunk] {
        not_found(&node.run(args!["get", cid, "-o", out, "--timeout", "2"]), cid);
        not_found(&node.run(args!["cat", cid, "--timeout", "2"]), cid);
        not_found(&node.run(args!["providers", cid, "--timeout", "2"]), "");
    }
    not_found(&node.run(args!["ls", UNKNOWN, "--timeout", "2"]), UNKNOWN);
    let joined = args!["get", UNKNOWN, "-o", out, "--timeout", "2", "--bootstrap", hub.addr()];
    not_found(&run(&scratch.path("alone"), joined), UNKNOWN);
    // Nobody to ask at all: it says what to do about that.
    let lonely = args!["get", UNKNOWN, "-o", out, "--timeout", "2"];
    not_found(&run(&scratch.path("lonely"), lonely), "--bootstrap");
    // A peer that is named and not there is no provider, and is not passed over in silence either.
    let file = scratch.file("file", "other content");
    let commands = [
        args!["get", UNKNOWN, "-o", out],
        args!["cat", UNKNOWN],
        args!["ls", UNKNOWN],
        args!["verify", file, UNKNOWN],
    ];
    for command in commands {
        let hinted = args!["--timeout", "5", "--peer", "/ip4/127.0.0.1/tcp/1"];
        let output = run(&scratch.path("hinted"), [command, hinted].concat());
        not_found(&output, "(the given peer does not answer)");
        let meanwhile = "waiting: no provider found; the given peer does not answer";
        assert!(output.stderr.starts_with(meanwhile), "{}", output.stderr);
    }
    assert!(!out.exists());
}

#[test]
fn without_a_word_a_fetch_gives_up_after_thirty_seconds_without_progress() {
    let scratch = Scratch::new();
    let node = Daemon::start(&scratch.path("node"), &[]);
    let output = node.run(args!["get", UNKNOWN, "-o", scratch.path("out")]);
    output.refused(3);
    assert!((Duration::from_secs(25)..Duration::from_secs(45)).contains(&output.taken), "{:?}", output.taken);
}

#[test]
fn a_missing_file_is_named_and_the_others_are_added() {
    let scratch = Scratch::new();
    let dir = scratch.path("data");
    let missing = scratch.path("no such file");
    assert!(run(&dir, args!["add", missing]).refused(1).contains("no such file"));
    let (a, b) = (scratch.file("a", "1"), scratch.file("b", "2"));
    let output = run(&dir, args!["add", a, missing, b]);
    assert_eq!(output.code, Some(1));
    let added: Vec<_> = output.text().lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert_eq!(added, ["a", "b"]);
    assert!(output.stderr.contains("no such file"), "{}", output.stderr);
    assert_eq!(shares(&dir), 2);
    assert!(run(&dir, args!["add", "/dev/null"]).refused(1).contains("/dev/null"));
}

#[test]
fn names_that_would_do_harm_elsewhere_are_refused_when_they_are_added() {
    let scratch = Scratch::new();
    let dir = scratch.path("data");
    for name in [
        "line\nfeed",
        "tab\t",
        "esc\u{1b}[2J",
        "con.txt",
        "trailing.",
        "trailing ",
        "a:b",
        "back\\slash",
        "\u{202e}txt.exe",
    ] {
        let file = scratch.file(Path::new("files").join(name), "x");
        let line = run(&dir, args!["add", "--", file]).refused(1).to_owned();
        assert!(!line.contains(['\t', '\u{1b}', '\u{202e}']), "shown raw: {line:?}");
        // Under another name its content can be shared.
        run(&dir, args!["add", "--name", "fine", "--", file]).ok();
        let root = scratch.dir("root");
        fs::rename(&file, root.join(name)).unwrap();
        run(&dir, args!["add", root]).refused(1);
        fs::remove_dir_all(&root).unwrap();
    }
    let root = scratch.dir("not UTF-8");
    fs::write(root.join(OsStr::from_bytes(b"\xff\xfe")), "x").unwrap();
    run(&dir, args!["add", root]).refused(1);
    assert_eq!(shares(&dir), 1, "only what was added under a name that is fine");
}

#[test]
fn an_output_that_exists_is_replaced_only_by_force() {
    let scratch = Scratch::new();
    let node = Daemon::start(&scratch.path("node"), &[]);
    let content = noise(1, CHUNK_LEN + 1);
    let cid = node.add(&scratch.file("source", &content)).cid;
    let getter = scratch.path("getter");
    let get = |out: &Path, more: &[&str]| {
        let mut line = args!["get", cid, "-o", out, "--peer", node.addr()];
        line.extend(more.iter().map(Into::into));
        run(&getter, line)
    };
    let out = scratch.file("out", "precious");
    assert!(get(&out, &[]).refused(1).contains("--force"));
    assert_eq!(fs::read(&out).unwrap(), b"precious");
    get(&out, &["--force"]).ok();
    assert_eq!(fs::read(&out).unwrap(), content);

    let occupied = scratch.dir("into/source");
    scratch.file("into/source/precious", "precious");
    get(&scratch.path("into"), &[]).refused(1);
    assert_eq!(fs::read(occupied.join("precious")).unwrap(), b"precious");
    get(&scratch.path("into"), &["--force"]).refused(1);
    assert_eq!(fs::read(occupied.join("precious")).unwrap(), b"precious", "not even force drops a directory");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let nobody = 65_534;
    let scratch = Scratch::new();
    let (data, secret) = (scratch.dir("data"), scratch.file("secret", "x"));
    let root = scratch.dir("root");
    scratch.file("root/fine", "x");
    let inside = scratch.file("root/secret", "x");
    for path in [&secret, &inside] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
    }
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        // Root reads everything; the program runs as somebody else instead.
        fs::set_permissions(scratch.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        chown(&data, Some(nobody), Some(nobody)).unwrap();
    }
    for path in [&secret, &root] {
        let mut command = dhtfs(&data);
        command.args(args!["add", path]);
        if is_root {
            command.uid(nobody).gid(nobody);
        }
        let Ok(process) = Process::try_spawn(&mut command) else {
            eprintln!("SKIPPED: the program cannot be run as another user here");
            return;
        };
        assert!(process.wait(PATIENCE).refused(1).contains("secret"));
    }
    let mut command = dhtfs(&data);
    command.arg("ls");
    if is_root {
        command.uid(nobody).gid(nobody);
    }
    assert_eq!(Process::spawn(&mut command).wait(PATIENCE).ok().text(), "", "nothing was added");
}

/// Runs in a mount namespace of its own: `$1` program, `$2` small file system, `$3` data directory for `get`,
/// `$4` where results go, `$5` CID, `$6` peer, `$7` a file of 16 MiB.
const NO_SPACE: &str = r#"
mount -t tmpfs -o size=8m tmpfs "$2" || exit 77
note() { name=$1; shift; "$@" >"$log/$name.out" 2>"$log/$name.err" </dev/null; echo $? >"$log/$name.code"; }
program=$1 small=$2 data=$3 log=$4 cid=$5 peer=$6 big=$7
note get-full "$program" --data-dir "$data" get "$cid" -o "$small/out" --peer "$peer"
ls -A "$small" >"$log/after-full"
note copy-full "$program" --data-dir "$small/data" add --copy "$big"
note copy-small "$program" --data-dir "$small/data" add --copy /etc/hostname
note list "$program" --data-dir "$small/data" ls
mount -o remount,size=64m "$small"
note get-room "$program" --data-dir "$data" get "$cid" -o "$small/out" --peer "$peer"
note copy-room "$program" --data-dir "$small/data" add --copy "$big"
sha256sum <"$small/out" >"$log/digest"
"#;

#[test]
fn a_full_disk_fails_the_command_and_loses_nothing() {
    let scratch = Scratch::new();
    let node = Daemon::start(&scratch.path("node"), &[]);
    let source = scratch.file("source", noise(2, 16 * CHUNK_LEN));
    let cid = node.add(&source).cid;
    let (small, log) = (scratch.dir("small"), scratch.dir("log"));
    let mut command = std::process::Command::new("unshare");
    command.arg(if rustix::process::geteuid().is_root() { "-m" } else { "-rm" });
    command.args(["sh", "-c", NO_SPACE, "sh", env!("CARGO_BIN_EXE_dhtfs")]);
    command.args([&small, &scratch.path("getter"), &log]).args([&cid, node.addr()]).arg(&source);
    let ended = Process::try_spawn(&mut command).map(|process| process.wait(LONG));
    let read = |name: &str| fs::read_to_string(log.join(name)).unwrap();
    match ended {
        Ok(output) if log.join("digest").exists() => drop(output.ok()),
        other => return eprintln!("SKIPPED: no small file system can be mounted here: {other:?}"),
    }
    for name in ["get-full", "copy-full"] {
        let (code, err) = (read(&format!("{name}.code")), read(&format!("{name}.err")));
        assert_eq!((code.trim(), read(&format!("{name}.out")).as_str()), ("1", ""), "{name}: {err}");
        assert_eq!(err.lines().count(), 1, "{name}: {err}");
        assert!(err.to_lowercase().contains("space"), "{name}: {err}");
    }
    assert!(!read("after-full").lines().any(|name| name == "out"), "{}", read("after-full"));
    for name in ["copy-small", "list", "get-room", "copy-room"] {
        assert_eq!(read(&format!("{name}.code")).trim(), "0", "{name}: {}", read(&format!("{name}.err")));
    }
    assert_eq!(read("list.out").lines().filter(|line| line.contains("hostname")).count(), 1);
    assert!(!read("list.out").contains("source"), "what did not fit is no share: {}", read("list.out"));
    assert_eq!(read("digest").split_whitespace().next().unwrap(), sha256_file(&source));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let scratch = Scratch::new();
    let dir = scratch.path("data");
    let cid = run(&dir, args!["add", scratch.file("file", noise(3, 8 * CHUNK_LEN))]).ok().line().to_owned();
    let root = scratch.dir("root");
    for index in 0..3_000 {
        fs::write(root.join(format!("a file with quite a long name so that a pipe overflows {index}")), "x")
            .unwrap();
    }
    let dir_cid = run(&dir, args!["add", root]).ok().line().to_owned();
    for line in [
        args!["cat", cid],
        args!["get", cid, "-o", "-"],
        args!["ls", dir_cid],
        args!["ls", dir_cid, "--json"],
    ] {
        let mut child =
            dhtfs(&dir).args(&line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.as_ref()), (Some(0), ""), "{line:?}");
    }
}

#[test]
fn links_and_special_files_in_a_directory_are_left_out_and_counted() {
    let scratch = Scratch::new();
    let dir = scratch.path("data");
    let root = scratch.dir("root");
    scratch.file("root/file", "x");
    std::os::unix::fs::symlink("/etc/passwd", root.join("link")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    let output = run(&dir, args!["add", root]).ok();
    output.line();
    assert!(output.stderr.contains("2 ") && output.stderr.contains("link"), "{}", output.stderr);
    drop(socket);
    let found = tree(&root);
    assert_eq!(found.values().filter(|entry| **entry == Entry::Other).count(), 2, "they are still there");
}
