//! The daemons of the demo: real processes, each with its own data directory, that never outlive it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use dhtfs_node::api::types::Ready;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use crate::{
    connection::Connection,
    error::{CliError, Result},
    format,
};

/// How long a daemon may take to be ready.
const MAX_STARTING: Duration = Duration::from_secs(30);

/// How long the daemons get to end in order before they are killed.
const MAX_ENDING: Duration = Duration::from_secs(5);

/// Longest line that a daemon is believed to print when it is ready, in bytes.
const MAX_READY_LEN: u64 = 64 * 1024;

/// Lines of a daemon's log that are shown when it failed.
const SHOWN_LINES: usize = 10;

/// The demo's daemons form a network of their own.
const NETWORK: &str = "demo";

/// One daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    /// 1 to 5.
    pub(super) number: usize,
    /// Its peer ID and addresses.
    pub(super) ready: Ready,
    dir: PathBuf,
    log: PathBuf,
    child: Child,
}

impl Daemon {
    /// Starts daemon `number` below `dir` on a free loopback port. It joins through `bootstrap`.
    ///
    /// It ends when this process does, even if that is killed: its standard input is a pipe from here. Signals of the
    /// terminal do not reach it, so that it is this process that decides.
    ///
    /// # Errors
    /// If the system starts no process.
    pub(super) fn spawn(dir: &Path, number: usize, bootstrap: Option<&str>) -> Result<Self> {
        let cannot =
            |error: std::io::Error| CliError::failed(format!("cannot start daemon {number}: {error}"));
        let log = dir.join(format!("{number}.log"));
        let dir = dir.join(number.to_string());
        let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
        command
            .args(["--no-mdns", "--data-dir"])
            .arg(&dir)
            .args(["--json", "daemon", "--until-stdin-ends", "--network", NETWORK])
            .args(["--listen", "/ip4/127.0.0.1/tcp/0"])
            .args(bootstrap.iter().flat_map(|addr| ["--bootstrap", addr]))
            .env_remove("DHTFS_DATA_DIR")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).map_err(cannot)?)
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().map_err(cannot)?;
        let ready = Ready { peer_id: String::new(), listen: Vec::new() };
        Ok(Self { number, ready, dir, log, child })
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// If it ends or takes too long.
    pub(super) async fn wait_ready(&mut self) -> Result<()> {
        let number = self.number;
        let mut line = String::new();
        if let Some(stdout) = self.child.stdout.take() {
            let mut lines = BufReader::new(stdout.take(MAX_READY_LEN));
            // Without a line in time the text stays empty and is no JSON.
            let _ = timeout(MAX_STARTING, lines.read_line(&mut line)).await;
        }
        self.ready = serde_json::from_str(&line)
            .map_err(|_| CliError::failed(format!("daemon {number} did not become ready")))?;
        Ok(())
    }

    /// Its data directory.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A way to it.
    ///
    /// # Errors
    /// If it does not answer.
    pub(super) async fn connect(&self) -> Result<Connection> {
        connect(&self.dir).await
    }

    /// Where others reach it.
    ///
    /// # Errors
    /// If it listens nowhere.
    pub(super) fn addr(&self) -> Result<&str> {
        let number = self.number;
        let first = self.ready.listen.first().map(String::as_str);
        first.ok_or_else(|| CliError::failed(format!("daemon {number} listens nowhere")))
    }

    /// Sends SIGKILL. It has no time to say goodbye.
    ///
    /// # Errors
    /// If it has ended already.
    pub(super) fn kill(&mut self) -> Result<()> {
        let number = self.number;
        self.child
            .start_kill()
            .map_err(|error| CliError::failed(format!("cannot kill daemon {number}: {error}")))
    }

    /// The end of its log.
    pub(super) fn last_lines(&self) -> Vec<String> {
        last_lines(&self.log)
    }

    /// Whether it has ended, for whatever reason.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it in order, or by force if that takes too long. It is gone afterwards.
    async fn end(mut self) {
        drop(self.child.stdin.take());
        if timeout(MAX_ENDING, self.child.wait()).await.is_err() {
            // Fails only if it has just ended.
            let _ = self.child.kill().await;
        }
    }
}

/// A way to the daemon on this data directory.
///
/// # Errors
/// If it does not answer.
pub(super) async fn connect(dir: &Path) -> Result<Connection> {
    let gone = || CliError::failed(format!("the daemon on {} is gone", dir.display()));
    Connection::open(dir).await?.ok_or_else(gone)
}

/// Ends all of them at once.
pub(super) async fn end_all(daemons: Vec<Daemon>) {
    futures::future::join_all(daemons.into_iter().map(Daemon::end)).await;
}

fn last_lines(log: &Path) -> Vec<String> {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<String> = text.lines().map(format::clean).collect();
    lines.get(lines.len().saturating_sub(SHOWN_LINES)..).unwrap_or_default().to_vec()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

    use super::*;

    #[test]
    fn the_end_of_a_log_is_shown_and_nothing_of_it_steers_the_terminal() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert!(last_lines(&log).is_empty());
        let text: String = (0..20).map(|n| format!("line {n}\u{1b}\n")).collect();
        fs::write(&log, text).unwrap();
        let lines = last_lines(&log);
        assert_eq!(
            (lines.len(), lines[0].as_str(), lines[9].as_str()),
            (10, "line 10\\u{1b}", "line 19\\u{1b}")
        );
    }
}
