//! A daemon in a process of its own, so that its memory is its own: the benchmark starts itself again.
#![allow(dead_code, unreachable_pub, reason = "several benchmarks use this, and not each of them all of it")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use dhtfs_node::{Config, Node, NodeOptions, Role, api::types::Status};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

const DIR_VARIABLE: &str = "DHTFS_BENCH_DAEMON";
const HUB_VARIABLE: &str = "DHTFS_BENCH_HUB";
pub const MIB: f64 = 1_048_576.0;

/// Runs the daemon if this process is to be one: a node as in production. Answers each line with its status, and ends
/// in order when there are no more.
pub fn run_if_asked() -> Result<bool, Failure> {
    let Some(dir) = std::env::var_os(DIR_VARIABLE) else { return Ok(false) };
    let bootstrap = match std::env::var(HUB_VARIABLE) {
        Ok(hub) => vec![hub.parse()?],
        Err(_) => Vec::new(),
    };
    let listen = vec!["/ip4/127.0.0.1/tcp/0".parse()?];
    let config = Config { network: "test".to_owned(), listen, bootstrap, mdns: false, ..Config::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let options = NodeOptions { data_dir: dir.into(), config, role: Role::Server };
        let node = Node::production(options).await?;
        let addrs = node.ready().await.listen;
        println!("{}", addrs.first().ok_or("no address")?);
        loop {
            let line = tokio::task::spawn_blocking(|| std::io::stdin().lines().next()).await?;
            if line.is_none() {
                break;
            }
            println!("{}", serde_json::to_string(&node.api().status().await?)?);
        }
        node.shutdown().await;
        Ok(true)
    })
}

/// The other process. Dropping it kills it.
pub struct Daemon {
    child: Child,
    asks: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    pub peer: (PeerId, Multiaddr),
    /// From the start of the process until it serves.
    pub ready: Duration,
}

impl Daemon {
    pub fn start(dir: &Path, hub: Option<&Multiaddr>) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.env(DIR_VARIABLE, dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(hub) = hub {
            command.env(HUB_VARIABLE, hub.to_string());
        }
        let begun = Instant::now();
        let mut child = command.spawn()?;
        let asks = child.stdin.take();
        let mut answers = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut line = String::new();
        answers.read_line(&mut line)?;
        let ready = begun.elapsed();
        let mut addr: Multiaddr = line.trim().parse()?;
        let Some(Protocol::P2p(id)) = addr.pop() else { return Err("no peer ID".into()) };
        Ok(Self { child, asks, answers, peer: (id, addr), ready })
    }

    pub fn addr(&self) -> Multiaddr {
        self.peer.1.clone().with(Protocol::P2p(self.peer.0))
    }

    pub fn status(&mut self) -> Result<Status, Failure> {
        let asks = self.asks.as_mut().ok_or("no input")?;
        asks.write_all(b"status\n")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Waits until `condition` is true; looks at the memory meanwhile and returns the most of it, in bytes.
    pub fn until(&mut self, condition: impl Fn(&Status) -> bool) -> Result<u64, Failure> {
        let mut most = 0;
        loop {
            let status = self.status()?;
            most = most.max(self.resident()?);
            if condition(&status) {
                return Ok(most);
            }
            thread::park_timeout(Duration::from_millis(100));
        }
    }

    /// Bytes in memory now.
    pub fn resident(&self) -> Result<u64, Failure> {
        self.memory("VmRSS:")
    }

    /// The most that there ever were.
    pub fn peak(&self) -> Result<u64, Failure> {
        self.memory("VmHWM:")
    }

    fn memory(&self, name: &str) -> Result<u64, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("no such line")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1_024)
    }

    /// Ends it in order.
    pub fn stop(mut self) -> Result<(), Failure> {
        self.asks = None;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}
