//! A daemon on a data directory of its own, and what tests ask of it.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use dhtfs_node::api::types::{Added, ContentStatus, GetReport, Provider, Ready, Status};
use rustix::process::Signal;

use super::{LONG, Output, PATIENCE, Process, args, dhtfs, parse_json, run, wait_until};

/// A running daemon; killed with its guard.
pub(crate) struct Daemon {
    process: Process,
    dir: PathBuf,
    ready: Ready,
}

impl Daemon {
    /// Starts a daemon on a free loopback port that joins through `bootstrap`, and waits until it is ready.
    pub(crate) fn start(dir: &Path, bootstrap: &[&Daemon]) -> Self {
        let mut args = args!["--listen", "/ip4/127.0.0.1/tcp/0"];
        for other in bootstrap {
            args.extend(args!["--bootstrap", other.addr()]);
        }
        Self::start_with(dir, args)
    }

    /// Starts a daemon with these arguments, and waits until it is ready.
    pub(crate) fn start_with(dir: &Path, args: Vec<OsString>) -> Self {
        Self::start_as(dhtfs(dir), dir, args)
    }

    /// The same, with the program on the data directory `dir` as `command` starts it.
    pub(crate) fn start_as(mut command: Command, dir: &Path, args: Vec<OsString>) -> Self {
        // Its standard input ends with the test, however that ends, and the daemon with it.
        command.args(["--json", "daemon", "--until-stdin-ends"]).args(args).stdin(Stdio::piped());
        let mut process = Process::spawn(&mut command).with_log_on_failure();
        let ready = wait_until("the daemon is ready", PATIENCE, || {
            let is_running = process.is_running();
            let text = process.stdout_so_far();
            assert!(is_running || text.contains('\n'), "the daemon ended: {}", process.stderr_so_far());
            text.split_once('\n').map(|(line, _)| parse_json::<Ready>(line))
        });
        Self { process, dir: dir.to_owned(), ready }
    }

    /// Its data directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn peer_id(&self) -> &str {
        &self.ready.peer_id
    }

    /// Everything it listens on.
    pub(crate) fn listen(&self) -> &[String] {
        &self.ready.listen
    }

    /// The first address it listens on, with its peer ID.
    pub(crate) fn addr(&self) -> &str {
        self.ready.listen.first().unwrap()
    }

    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// Runs a command on its data directory, through its socket.
    #[track_caller]
    pub(crate) fn run(&self, args: Vec<OsString>) -> Output {
        run(&self.dir, args)
    }

    #[track_caller]
    pub(crate) fn add(&self, path: &Path) -> Added {
        self.run(args!["--json", "add", "--", path]).ok().json()
    }

    #[track_caller]
    pub(crate) fn get(&self, cid: &str, out: &Path) -> GetReport {
        self.run(args!["--json", "get", cid, "-o", out]).ok().json()
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Status {
        self.run(args!["--json", "status"]).ok().json()
    }

    #[track_caller]
    pub(crate) fn status_of(&self, cid: &str) -> ContentStatus {
        self.run(args!["--json", "status", cid]).ok().json()
    }

    /// Who provides a CID, as this node finds out; nobody is an empty list.
    #[track_caller]
    pub(crate) fn providers(&self, cid: &str) -> Vec<Provider> {
        let output = self.run(args!["--json", "providers", cid]);
        match output.code {
            Some(3) => Vec::new(),
            _ => output.ok().json_lines(),
        }
    }

    /// Waits until it knows this many peers to route through.
    #[track_caller]
    pub(crate) fn wait_routing(&self, peers: u64) {
        wait_until("peers are in the routing table", PATIENCE, || {
            (self.status().routing_peers >= peers).then_some(())
        });
    }

    /// Waits until everything it holds, at least `keys` manifests and chunks, is announced.
    #[track_caller]
    pub(crate) fn wait_announced(&self, keys: u64) {
        wait_until("everything is announced", LONG, || announced(&self.status(), keys).then_some(()));
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(mut self) {
        self.process.kill();
    }

    /// Ends it in order by a signal.
    #[track_caller]
    pub(crate) fn end_by(self, signal: Signal) -> Output {
        self.process.signal(signal);
        self.reap()
    }

    /// Ends it in order; its data directory is free afterwards.
    #[track_caller]
    pub(crate) fn end(self) -> PathBuf {
        let dir = self.dir.clone();
        self.end_by(Signal::TERM).ok();
        dir
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn reap(self) -> Output {
        self.process.wait(PATIENCE)
    }
}

/// Whether everything, at least `keys` manifests and chunks, is announced.
pub(crate) fn announced(status: &Status, keys: u64) -> bool {
    let provide = &status.provide;
    provide.keys >= keys && provide.pending == 0
}

/// The command line of a `get` without a daemon: an embedded node on `dir` that is told a peer.
pub(crate) fn embedded_get(from: &Daemon, cid: &str, out: &Path) -> Vec<OsString> {
    args!["--json", "get", cid, "-o", out, "--peer", from.addr()]
}
