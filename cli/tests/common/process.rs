//! One process of the program, watched from outside.

use std::{
    ffi::OsString,
    io::{Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;

use super::{LONG, PATIENCE, parse_json, wait_until};

/// Lines of a daemon's log that are shown when its test fails.
const SHOWN_LINES: usize = 25;

/// What a process left behind.
#[derive(Debug)]
pub(crate) struct Output {
    /// Exit code; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
    /// How long it ran.
    pub(crate) taken: Duration,
    /// The command line, for messages.
    what: String,
}

impl Output {
    fn context(&self) -> String {
        let stdout = String::from_utf8_lossy(self.stdout.get(..2000).unwrap_or(&self.stdout)).into_owned();
        format!("{}\ncode {:?}\nstdout: {stdout}\nstderr: {}", self.what, self.code, self.stderr)
    }

    /// Insists on exit code 0.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.context());
        self
    }

    /// Standard output as text.
    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// Standard output, which has to be exactly one line.
    #[track_caller]
    pub(crate) fn line(&self) -> &str {
        let line = self.text().strip_suffix('\n').unwrap_or_else(|| panic!("no line: {}", self.context()));
        assert!(!line.is_empty() && !line.contains('\n'), "not one line: {}", self.context());
        line
    }

    /// Standard output, which has to be one line of JSON.
    #[track_caller]
    pub(crate) fn json<T: DeserializeOwned>(&self) -> T {
        parse_json(self.line())
    }

    /// Standard output as one JSON object a line.
    #[track_caller]
    pub(crate) fn json_lines<T: DeserializeOwned>(&self) -> Vec<T> {
        self.text().lines().map(parse_json).collect()
    }

    /// Standard error without the lines that say why a fetch waits: on a busy machine any may.
    pub(crate) fn said(&self) -> String {
        self.stderr.split_inclusive('\n').filter(|line| !is_waiting(line)).collect()
    }

    /// The lines on standard error that say why a fetch waits.
    pub(crate) fn waits(&self) -> Vec<&str> {
        self.stderr.lines().filter(|line| is_waiting(line)).collect()
    }

    /// Insists on a failure as documented: this exit code, nothing on stdout, one line at the end of stderr. Returns it.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{}", self.context());
        assert!(self.stdout.is_empty(), "stdout is for results only: {}", self.context());
        let line = self.stderr.strip_suffix('\n').unwrap_or_else(|| panic!("no line: {}", self.context()));
        let before = line.rsplit_once('\n').map_or("", |(before, _)| before);
        assert!(before.lines().all(is_waiting), "more than one line: {}", self.context());
        let line = line.lines().last().unwrap_or_default();
        assert!(line.starts_with("dhtfs: "), "{}", self.context());
        line
    }
}

/// Whether a line on standard error says why a fetch waits.
fn is_waiting(line: &str) -> bool {
    line.starts_with("waiting: ") || line.starts_with("{\"waiting\":")
}

type Bytes = Arc<Mutex<Vec<u8>>>;

/// A running process. Ends with its guard.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    what: String,
    stdout: Bytes,
    stderr: Bytes,
    readers: Vec<JoinHandle<()>>,
    shows_log: bool,
    begun: Instant,
}

impl Process {
    /// Starts a command; everything it prints is taken in beside.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        Self::try_spawn(command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// As [`Process::spawn`], for a command that the system may refuse to start.
    pub(crate) fn try_spawn(command: &mut Command) -> std::io::Result<Self> {
        let what = format!("{command:?}");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (stdout, stderr) = (Bytes::default(), Bytes::default());
        let readers = vec![
            read_beside(child.stdout.take().unwrap(), stdout.clone()),
            read_beside(child.stderr.take().unwrap(), stderr.clone()),
        ];
        Ok(Self { child, what, stdout, stderr, readers, shows_log: false, begun: Instant::now() })
    }

    /// When its test fails, the end of what it said is shown.
    pub(crate) fn with_log_on_failure(mut self) -> Self {
        self.shows_log = true;
        self
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub(crate) fn stdout_so_far(&self) -> String {
        String::from_utf8_lossy(&self.stdout.lock().unwrap()).into_owned()
    }

    /// What it has said so far.
    pub(crate) fn stderr_so_far(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().unwrap()).into_owned()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends a signal. The process has not been waited for, so its id is still its own.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Closes its standard input.
    pub(crate) fn end_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Ends it at once, as a crash would, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end; panics if it takes longer than `limit`.
    #[track_caller]
    pub(crate) fn wait(mut self, limit: Duration) -> Output {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > limit {
                let (out, err) = (self.stdout_so_far(), self.stderr_so_far());
                self.kill();
                panic!("{} has not ended within {limit:?}\nstdout: {out}\nstderr: {err}", self.what);
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let taken = self.begun.elapsed();
        let readers = std::mem::take(&mut self.readers);
        wait_until("nobody else writes to its output", PATIENCE, || {
            readers.iter().all(JoinHandle::is_finished).then_some(())
        });
        let stdout = std::mem::take(&mut *self.stdout.lock().unwrap());
        Output { code: status.code(), stdout, stderr: self.stderr_so_far(), taken, what: self.what.clone() }
    }

    /// Peak and present resident memory in bytes.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let value = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
        };
        (value("VmHWM:"), value("VmRSS:"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if it has ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.shows_log && std::thread::panicking() {
            let log = self.stderr_so_far();
            let lines: Vec<&str> = log.lines().collect();
            let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
            eprintln!("--- last of {} lines of {}\n{}", lines.len(), self.what, shown.join("\n"));
        }
    }
}

fn read_beside(mut pipe: impl Read + Send + 'static, into: Bytes) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(len @ 1..) = pipe.read(&mut buffer) {
            into.lock().unwrap().extend_from_slice(&buffer[..len]);
        }
    })
}

/// The program on a data directory, with nothing of the user's environment.
pub(crate) fn dhtfs(data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dhtfs"));
    command.env_remove("DHTFS_DATA_DIR").env_remove("DHTFS_LOG").stdin(Stdio::null());
    command.env("XDG_DATA_HOME", data_dir.join("never-used"));
    // Tests tell nobody outside of this machine anything.
    command.env("DHTFS_NO_MDNS", "1");
    command.arg("--data-dir").arg(data_dir);
    command
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn run(data_dir: &Path, args: Vec<OsString>) -> Output {
    Process::spawn(dhtfs(data_dir).args(args)).wait(LONG)
}

/// Runs a command with this standard input.
#[track_caller]
pub(crate) fn run_in(data_dir: &Path, args: Vec<OsString>, input: &[u8]) -> Output {
    let mut process = Process::spawn(dhtfs(data_dir).args(args).stdin(Stdio::piped()));
    let mut stdin = process.child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A command that refuses at once does not read its input.
        scope.spawn(move || drop(stdin.write_all(input)));
    });
    process.wait(LONG)
}
