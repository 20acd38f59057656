//! The daemon and the commands around it: one line when ready, an orderly end, the same answers with it and without.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use common::{
    CHUNK_LEN, Daemon, PATIENCE, Process, Scratch, args, dhtfs, names_in, noise, run, sha256_file, wait_until,
};
use dhtfs_node::api::types::{GcInfo, GetReport, Identity, PeerEntry, Removed, ShareInfo};
use rustix::process::Signal;
use serde_json::Value;

/// A loopback address with a free port.
const ANY_PORT: &str = "/ip4/127.0.0.1/tcp/0";

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_daemon_prints_one_line_when_it_is_ready_and_ends_in_order_on_a_signal() {
    let scratch = Scratch::new();
    for (json, signal) in [(true, Signal::TERM), (false, Signal::TERM), (true, Signal::INT)] {
        let dir = scratch.path(format!("data-{json}-{signal:?}"));
        let mut command = dhtfs(&dir);
        command.args(args!["daemon", "--listen", ANY_PORT, "--listen", "/ip4/127.0.0.1/udp/0/quic-v1"]);
        if json {
            command.arg("--json");
        }
        let daemon = Process::spawn(&mut command);
        let line = wait_until("the daemon is ready", PATIENCE, || {
            daemon.stdout_so_far().split_once('\n').map(|(line, _)| line.to_owned())
        });
        // Whoever reads the line can talk to the daemon at once.
        let id: Identity = run(&dir, args!["id", "--json"]).ok().json();
        if json {
            let ready: Value = serde_json::from_str(&line).unwrap();
            let listen = ready["listen"].as_array().unwrap();
            assert_eq!(
                (ready["peer_id"].as_str().unwrap(), listen.len()),
                (id.peer_id.as_str(), 2),
                "{line}"
            );
            for addr in listen.iter().map(|addr| addr.as_str().unwrap()) {
                assert!(addr.ends_with(&format!("/p2p/{}", id.peer_id)), "{addr}");
                assert!(addr.starts_with("/ip4/127.0.0.1/") && !addr.contains("/tcp/0/"), "{addr}");
                assert!(!addr.contains("/udp/0/"), "{addr}");
            }
        } else {
            assert!(line.contains(&id.peer_id) && line.contains("/ip4/127.0.0.1/tcp/"), "{line}");
        }
        assert_eq!((mode(&dir), mode(&dir.join("api.sock"))), (0o700, 0o600));
        assert_eq!(mode(&dir.join("key")), 0o600);
        daemon.signal(signal);
        let output = daemon.wait(PATIENCE).ok();
        assert_eq!(output.line(), line, "nothing else on stdout");
        assert!(!dir.join("api.sock").exists());
    }
}

#[test]
fn shutdown_returns_when_the_data_directory_is_free() {
    let scratch = Scratch::new();
    let daemon = Daemon::start(&scratch.path("data"), &[]);
    let dir = daemon.dir().to_owned();
    run(&dir, args!["shutdown"]).ok();
    assert!(!dir.join("api.sock").exists());
    // The store can be opened at once.
    assert_eq!(run(&dir, args!["ls", "--json"]).ok().text(), "");
    daemon.reap().ok();
    run(&dir, args!["shutdown"]).refused(1);
}

#[test]
fn the_version_is_told_everywhere() {
    let scratch = Scratch::new();
    let version = concat!("dhtfs ", env!("CARGO_PKG_VERSION"));
    let commands = [
        "add",
        "get",
        "cat",
        "transfers",
        "pause",
        "resume",
        "abort",
        "refresh",
        "ls",
        "rm",
        "verify",
        "providers",
        "status",
        "peers",
        "id",
        "daemon",
        "shutdown",
        "gc",
        "demo",
    ];
    assert_eq!(run(&scratch.path("data"), args!["--version"]).ok().line(), version);
    for command in commands {
        assert_eq!(run(&scratch.path("data"), args![command, "--version"]).ok().line(), version, "{command}");
        assert!(
            run(&scratch.path("data"), args![command, "--help"]).ok().text().contains("Examples"),
            "{command}"
        );
    }
}

#[test]
fn a_get_works_through_a_daemon_and_without_one_with_flags_before_and_after_the_command() {
    let scratch = Scratch::new();
    let seeder = Daemon::start(&scratch.path("seeder"), &[]);
    let content = noise(1, 3 * CHUNK_LEN + 5);
    let file = scratch.file("holiday.mp4", &content);
    let cid = seeder.run(args!["add", file]).ok().line().to_owned();

    let embedded = scratch.path("embedded");
    let out = scratch.path("by-itself");
    let after = args!["get", cid, "-o", out, "--peer", seeder.addr(), "--json", "-q", "--data-dir", embedded];
    let mut command = Command::new(env!("CARGO_BIN_EXE_dhtfs"));
    let output = Process::spawn(command.args(&after).stdin(Stdio::null())).wait(PATIENCE).ok();
    let report: GetReport = output.json();
    assert_eq!((report.len, report.name.as_str(), &report.path), (content.len() as u64, "holiday.mp4", &out));
    assert_eq!(report.sources.first().unwrap().peer, seeder.peer_id());
    assert_eq!(output.stderr, "");
    let mut command = Command::new(env!("CARGO_BIN_EXE_dhtfs"));
    command.env("DHTFS_DATA_DIR", &embedded).args(["--json", "-q", "status", &cid]);
    let status: Value = Process::spawn(&mut command).wait(PATIENCE).ok().json();
    assert_eq!(status["state"], "complete", "the variable names the same directory");

    // Last, as a daemon that has the file is a second source, which may well be the first to answer.
    let getter = Daemon::start(&scratch.path("getter"), &[&seeder]);
    let out = scratch.path("by-daemon");
    let output = getter.run(args!["get", cid, "-o", out]).ok();
    assert_eq!(output.line(), out.to_str().unwrap());
    let said = output.said();
    assert!(said.starts_with("got holiday.mp4: ") && said.contains("MiB/s"), "{said}");
    assert_eq!(said.lines().count(), 1, "no bars where no terminal is: {said}");
    for out in ["by-daemon", "by-itself"] {
        assert_eq!(sha256_file(&scratch.path(out)), sha256_file(&file));
    }
}

#[test]
fn a_get_works_over_quic_alone() {
    let scratch = Scratch::new();
    let quic = args!["--listen", "/ip4/127.0.0.1/udp/0/quic-v1"];
    let seeder = Daemon::start_with(&scratch.path("seeder"), quic.clone());
    let file = scratch.file("file", noise(7, 5 * CHUNK_LEN));
    let cid = seeder.add(&file).cid;
    let bootstrap = args!["--bootstrap", seeder.addr()];
    let getter = Daemon::start_with(&scratch.path("getter"), [quic, bootstrap].concat());
    getter.get(&cid, &scratch.path("out"));
    assert_eq!(sha256_file(&scratch.path("out")), sha256_file(&file));
    let peers: Vec<PeerEntry> = getter.run(args!["peers", "--json"]).ok().json_lines();
    assert!(peers.iter().flat_map(|peer| &peer.addrs).all(|addr| addr.contains("/quic-v1")), "{peers:?}");
}

#[test]
fn a_get_writes_under_the_shared_name_here_or_into_a_directory() {
    let scratch = Scratch::new();
    let seeder = Daemon::start(&scratch.path("seeder"), &[]);
    let file = scratch.file("holiday.mp4", noise(2, CHUNK_LEN + 5));
    let cid = seeder.run(args!["add", file]).ok().line().to_owned();
    let getter = scratch.path("getter");
    let here = scratch.dir("here");
    let mut command = dhtfs(&getter);
    command.current_dir(&here).args(["get", &cid, "--peer", seeder.addr()]);
    let output = Process::spawn(&mut command).wait(PATIENCE).ok();
    assert_eq!(Path::new(output.line()), fs::canonicalize(&here).unwrap().join("holiday.mp4"));
    let (into, missing) = (scratch.dir("into"), scratch.path("missing"));
    let output = run(&getter, args!["get", cid, "-o", into, "--peer", seeder.addr()]).ok();
    assert_eq!(Path::new(output.line()), into.join("holiday.mp4"));
    let slash = format!("{}/", missing.display());
    let output = run(&getter, args!["get", cid, "-o", slash, "--peer", seeder.addr()]).ok();
    assert_eq!(Path::new(output.line()), missing.join("holiday.mp4"));
    for dir in [&here, &into, &missing] {
        assert_eq!(names_in(dir), ["holiday.mp4"]);
        assert_eq!(sha256_file(&dir.join("holiday.mp4")), sha256_file(&file));
    }
}

#[test]
fn several_paths_print_a_cid_and_a_name_a_line() {
    let scratch = Scratch::new();
    let daemon = Daemon::start(&scratch.path("data"), &[]);
    let paths = [scratch.file("a", "1"), scratch.file("b c", "2"), scratch.dir("d")];
    let alone: Vec<String> =
        paths.iter().map(|path| daemon.run(args!["add", path]).ok().line().to_owned()).collect();
    let output = daemon.run(args!["add", paths[0], paths[1], paths[2]]).ok();
    let expected: Vec<String> =
        alone.iter().zip(["a", "b c", "d"]).map(|(cid, name)| format!("{cid} {name}")).collect();
    assert_eq!(output.text().lines().collect::<Vec<_>>(), expected);
    let shares: Vec<ShareInfo> = daemon.run(args!["ls", "--json"]).ok().json_lines();
    assert_eq!(shares.iter().map(|share| &share.cid).collect::<Vec<_>>(), alone.iter().collect::<Vec<_>>());
    assert!(shares.iter().all(|share| share.state == "complete"), "{shares:?}");
}

#[test]
fn a_relative_path_is_that_of_the_command_not_of_the_daemon() {
    let scratch = Scratch::new();
    let daemon = Daemon::start(&scratch.path("data"), &[]);
    let here = scratch.dir("here");
    scratch.file("here/-dash", "x");
    for line in [args!["add", "./-dash"], args!["add", "--", "-dash"]] {
        let mut command = dhtfs(daemon.dir());
        command.current_dir(&here).args(line);
        Process::spawn(&mut command).wait(PATIENCE).ok();
    }
    let mut shares: Vec<ShareInfo> = daemon.run(args!["ls", "--json"]).ok().json_lines();
    assert_eq!(shares.len(), 1);
    assert_eq!(shares.remove(0).path, here.join("-dash"));
}

#[test]
fn a_link_carries_all_that_a_stranger_needs() {
    let scratch = Scratch::new();
    let daemon = Daemon::start(&scratch.path("data"), &[]);
    let file = scratch.file("a name & more?.bin", noise(3, CHUNK_LEN));
    let link = daemon.run(args!["add", "--link", file]).ok().line().to_owned();
    assert!(link.starts_with("dhtfs:bafyrei") && link.contains("name=") && link.contains("peer="), "{link}");
    assert!(!link.contains(' '), "{link}");
    let into = scratch.dir("into");
    run(&scratch.path("stranger"), args!["get", link, "-o", into]).ok();
    assert_eq!(sha256_file(&into.join("a name & more?.bin")), sha256_file(&file));
    let listed = run(&scratch.path("stranger"), args!["ls", link]).ok();
    assert!(listed.text().contains("a name & more?.bin"));
    daemon.run(args!["verify", file, link]).ok();
}

#[test]
fn what_is_removed_is_no_longer_served_and_the_file_stays() {
    let scratch = Scratch::new();
    let daemon = Daemon::start(&scratch.path("data"), &[]);
    let kept = scratch.file("kept", noise(4, CHUNK_LEN));
    let copied = scratch.file("copied", noise(5, 4 * CHUNK_LEN));
    let kept_cid = daemon.add(&kept).cid;
    let copied_cid = daemon.run(args!["add", "--copy", copied]).ok().line().to_owned();
    fs::remove_file(&copied).unwrap();
    assert_eq!(
        daemon.run(args!["cat", copied_cid]).ok().stdout,
        noise(5, 4 * CHUNK_LEN),
        "the copy is the store's"
    );

    for cid in [&kept_cid, &copied_cid] {
        let removed: Removed = daemon.run(args!["rm", cid, "--json"]).ok().json();
        assert_eq!(&removed.cid, cid);
        assert_eq!(daemon.status_of(cid).state, "none");
        let out = scratch.path(format!("out-{cid}"));
        let line = args!["get", cid, "-o", out, "--peer", daemon.addr(), "--timeout", "2"];
        let output = run(&scratch.path("getter"), line);
        assert!([Some(3), Some(4)].contains(&output.code), "{}", output.stderr);
        assert!(!out.exists());
    }
    assert_eq!(fs::read(&kept).unwrap(), noise(4, CHUNK_LEN));
    assert_eq!(daemon.run(args!["ls", "--json"]).ok().text(), "");
    daemon.run(args!["gc", "--json"]).ok().json::<GcInfo>();
    let left: u64 = walk_len(daemon.dir());
    assert!(left < 4 * CHUNK_LEN as u64, "{left} bytes are left in the data directory");
    let output = daemon.run(args!["rm", kept_cid]);
    assert!(
        output.code.is_some_and(|code| code != 0),
        "what is not shared cannot be removed: {}",
        output.stderr
    );
}

/// Bytes in the blobs of a data directory.
fn walk_len(dir: &Path) -> u64 {
    names_in(&dir.join("blobs"))
        .iter()
        .map(|name| fs::metadata(dir.join("blobs").join(name)).unwrap().len())
        .sum()
}

#[test]
fn two_nodes_tell_who_they_are_and_whom_they_know() {
    let scratch = Scratch::new();
    let one = Daemon::start(&scratch.path("one"), &[]);
    let two = Daemon::start(&scratch.path("two"), &[&one]);
    two.wait_routing(1);
    one.wait_routing(1);
    let peers: Vec<PeerEntry> = two.run(args!["peers", "--json"]).ok().json_lines();
    let peer = peers.iter().find(|peer| peer.peer == one.peer_id()).unwrap();
    assert!(peer.routing && !peer.addrs.is_empty(), "{peer:?}");
    assert!(two.run(args!["peers"]).ok().text().contains(one.peer_id()));
    let id = one.run(args!["id"]).ok();
    assert_eq!(id.text().lines().next().unwrap(), one.peer_id());
    assert!(id.text().lines().nth(1).unwrap().ends_with(one.peer_id()), "{}", id.text());

    let status = two.run(args!["status", "--json"]).ok().json::<Value>();
    for field in [
        "version",
        "pid",
        "data_dir",
        "peer_id",
        "network",
        "online",
        "uptime_secs",
        "listen",
        "external",
        "profile",
        "reachability",
        "connected",
        "routing_peers",
        "shares",
        "shares_len",
        "provide",
        "counters",
    ] {
        assert!(status.get(field).is_some(), "{field}: {status}");
    }
    assert_eq!(status["online"], true);
    assert_eq!((status["network"].as_str(), status["profile"].as_str()), (Some("main"), Some("loopback")));
    let offline = run(&scratch.path("offline"), args!["status", "--json"]).ok().json::<Value>();
    assert_eq!(offline["online"], false);
}

#[test]
fn nodes_of_different_networks_never_meet() {
    let scratch = Scratch::new();
    let one = Daemon::start(&scratch.path("one"), &[]);
    let lab = args!["--listen", ANY_PORT, "--network", "lab", "--bootstrap", one.addr()];
    let other = Daemon::start_with(&scratch.path("other"), lab);
    let cid = one.add(&scratch.file("file", "x")).cid;
    other
        .run(args!["get", cid, "-o", scratch.path("out"), "--peer", one.addr(), "--timeout", "2"])
        .refused(3);
    assert_eq!((other.status().routing_peers, other.status().network.as_str()), (0, "lab"));
}

/// Waits for a command that stays and serves, and gives its address.
fn serving_addr(process: &mut Process) -> String {
    wait_until("it serves", PATIENCE, || {
        assert!(process.is_running(), "{}", process.stderr_so_far());
        let said = process.stderr_so_far();
        let lines = said.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let addrs = lines.filter_map(|line| line.trim_end().split_once("/ip4/127.0.0.1/tcp/"));
        addrs.map(|(_, rest)| format!("/ip4/127.0.0.1/tcp/{rest}")).next()
    })
}

#[test]
fn add_and_get_with_seed_stay_and_serve_until_ctrl_c() {
    let scratch = Scratch::new();
    let file = scratch.file("file", noise(6, 2 * CHUNK_LEN));
    let config = scratch.file("config.toml", format!("listen = [\"{ANY_PORT}\"]\n"));
    let mut add =
        Process::spawn(dhtfs(&scratch.path("adder")).args(args!["--config", config, "add", "--seed", file]));
    let addr = serving_addr(&mut add);
    // Another thread reads this stream: that the other one has come so far says nothing of it.
    let cid = wait_until("it names the share", PATIENCE, || {
        add.stdout_so_far().strip_suffix('\n').map(str::to_owned)
    });
    let out = scratch.path("out");
    let line = args!["--config", config, "get", "--seed", cid, "-o", out, "--peer", addr];
    let mut get = Process::spawn(dhtfs(&scratch.path("getter")).args(line));
    let addr = serving_addr(&mut get);
    add.signal(Signal::INT);
    assert_eq!(add.wait(PATIENCE).ok().line(), cid);

    let last = scratch.path("last");
    run(&scratch.path("third"), args!["get", cid, "-o", last, "--peer", addr]).ok();
    assert_eq!(sha256_file(&last), sha256_file(&file));
    // What seeds answers commands like a daemon does.
    let status = run(&scratch.path("getter"), args!["status", "--json"]).ok().json::<Value>();
    assert_eq!(status["pid"], get.pid());
    run(&scratch.path("getter"), args!["shutdown"]).ok();
    assert_eq!(get.wait(PATIENCE).ok().line(), out.to_str().unwrap());
}
