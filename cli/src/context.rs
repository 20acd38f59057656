//! What a command works with: the resolved form of the flags, and the node that it talks to.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use dhtfs_node::{
    Config, Node, NodeOptions, Role,
    api::types::NetworkHints,
    config::default_data_dir,
    core::profile::{NetworkProfile, scope},
};
use dhtfs_store::Link;
use libp2p::Multiaddr;

use crate::{
    args::{Command, GlobalArgs, HintArgs, LimitArgs},
    connection::Connection,
    error::{CliError, Result},
    logs::{self, Level},
    output::Output,
    signals::Interrupt,
};

/// How long an embedded node is given to end in order before the process ends anyway. Nothing is lost then:
/// a store survives worse.
const MAX_CLOSING: Duration = Duration::from_secs(10);

/// Everything a command needs besides its own arguments.
#[derive(Debug)]
pub(crate) struct Context {
    /// Absolute.
    pub(crate) data_dir: PathBuf,
    /// Settings of a node that this process runs.
    pub(crate) config: Config,
    /// Where results and notes go.
    pub(crate) out: Output,
    /// The user's wish to end.
    pub(crate) interrupt: Interrupt,
    /// The node that runs in this process, if one was needed.
    node: OnceLock<Node>,
}

impl Context {
    /// Resolves the global flags and starts logging.
    ///
    /// # Errors
    /// A usage error if the data directory cannot be told or the configuration file is no good; nothing has been
    /// written then.
    pub(crate) fn new(global: &GlobalArgs, command: &Command, interrupt: Interrupt) -> Result<Self> {
        let out = Output::new(global.json, global.quiet);
        logs::start(level(global, command.runs_a_daemon()), out.bars())?;
        let mut config = match &global.config {
            Some(path) => Config::load(path)?,
            None => Config::default(),
        };
        // Whoever names nodes of this machine only wants no others.
        config.mdns &= !global.no_mdns && !are_of_this_machine(&command.peers());
        let data_dir = match &global.data_dir {
            Some(dir) => absolute(dir)?,
            None if matches!(command, Command::Relay(_)) => default_data_dir()?.join("relay"),
            None => default_data_dir()?,
        };
        Ok(Self { data_dir, config, out, interrupt, node: OnceLock::new() })
    }

    /// A way to the daemon of the data directory, or else to a node that is started in this process. At most one
    /// call may start a node.
    ///
    /// # Errors
    /// [`ErrorKind::Store`](dhtfs_node::api::types::ErrorKind::Store) if another process holds the data directory
    /// and does not answer.
    pub(crate) async fn connect(&self, role: Role) -> Result<Connection> {
        if let Some(daemon) = self.connect_daemon().await? {
            return Ok(daemon);
        }
        let node = self.start_node(self.config.clone(), role).await?;
        Ok(Connection::embedded(node.router()))
    }

    /// The same with limits for a node that is started.
    ///
    /// # Errors
    /// A usage error if there are limits and a daemon, which has its own.
    pub(crate) async fn connect_limited(&self, role: Role, limits: &LimitArgs) -> Result<Connection> {
        if limits.is_none() {
            return self.connect(role).await;
        }
        if self.connect_daemon().await?.is_some() {
            return Err(CliError::usage(format!(
                "a daemon runs on {} and would do this at its own limits; change them with `dhtfs limits`, or leave \
                 out --limit-up and --limit-down",
                self.data_dir.display()
            )));
        }
        let mut config = self.config.clone();
        limits.apply(&mut config);
        let node = self.start_node(config, role).await?;
        Ok(Connection::embedded(node.router()))
    }

    /// A way to the daemon of the data directory, if there is one.
    pub(crate) async fn connect_daemon(&self) -> Result<Option<Connection>> {
        self.interrupt.guard(Connection::open(&self.data_dir)).await
    }

    /// Starts a node in this process; [`Context::close`] ends it.
    pub(crate) async fn start_node(&self, config: Config, role: Role) -> Result<&Node> {
        config.check()?;
        let options = NodeOptions { data_dir: self.data_dir.clone(), config, role };
        let node = self.interrupt.guard(async { Ok(Node::production(options).await?) }).await?;
        self.node
            .set(node)
            .map_err(|_| CliError::failed("a second node was to be started in one process"))?;
        self.node().ok_or_else(|| CliError::failed("the node is gone"))
    }

    /// The node in this process, if there is one.
    pub(crate) fn node(&self) -> Option<&Node> {
        self.node.get()
    }

    /// Ends the node of this process in order: peers are told, the store is closed.
    pub(crate) async fn close(self) {
        let Some(node) = self.node.into_inner() else { return };
        if tokio::time::timeout(MAX_CLOSING, node.shutdown()).await.is_err() {
            self.out.warn("the node did not end in time and was cut off");
        }
    }
}

/// Whether there are any, and all of them are on this machine.
fn are_of_this_machine(peers: &[Multiaddr]) -> bool {
    !peers.is_empty() && peers.iter().all(|addr| scope(addr) == Some(NetworkProfile::Loopback))
}

fn level(global: &GlobalArgs, is_daemon: bool) -> Level {
    match global.verbose {
        2.. => Level::Everything,
        1 => Level::Debug,
        0 if global.quiet => Level::Quiet,
        0 if is_daemon => Level::Daemon,
        0 => Level::Command,
    }
}

/// `path` from the root, as the node needs it: it has another working directory. Symbolic links stay.
///
/// # Errors
/// A usage error if the path is empty or no UTF-8, which the API cannot carry.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    if path.as_os_str().is_empty() {
        return Err(CliError::usage("an empty path names nothing; `.` is the current directory"));
    }
    let absolute = std::path::absolute(path)
        .map_err(|error| CliError::failed(format!("cannot tell where {shown} is: {error}")))?;
    // `..` at the end has no name of its own.
    let absolute = match absolute.file_name() {
        Some(_) => absolute,
        None => absolute
            .canonicalize()
            .map_err(|error| CliError::failed(format!("cannot read {shown}: {error}")))?,
    };
    if absolute.to_str().is_none() {
        return Err(CliError::usage(format!("the path {shown} is not UTF-8; rename it")));
    }
    Ok(absolute)
}

/// Checks that `text` is a CID or link before anything is started for it, and gives it back trimmed.
///
/// # Errors
/// A usage error that says what is wrong with it.
pub(crate) fn check_cid(text: &str) -> Result<String> {
    let text = text.trim();
    match text.parse::<Link>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) if Path::new(text).exists() => Err(CliError::usage(format!(
            "{error} (there is a file of that name here: share it with `dhtfs add`, check it with `dhtfs verify`)"
        ))),
        Err(error) => Err(CliError::usage(error.to_string())),
    }
}

impl LimitArgs {
    pub(crate) fn is_none(&self) -> bool {
        self.limit_up.is_none() && self.limit_down.is_none()
    }

    /// What was typed goes before what is written in the file.
    pub(crate) fn apply(&self, config: &mut Config) {
        config.limit_up = self.limit_up.unwrap_or(config.limit_up);
        config.limit_down = self.limit_down.unwrap_or(config.limit_down);
    }
}

impl HintArgs {
    /// As the API takes them.
    pub(crate) fn resolve(&self) -> NetworkHints {
        let texts = |addrs: &[libp2p::Multiaddr]| addrs.iter().map(ToString::to_string).collect();
        NetworkHints {
            peers: texts(&self.peer),
            bootstrap: texts(&self.bootstrap),
            timeout_secs: self.timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    const CHUNK: &str = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";

    #[test]
    fn whoever_names_nodes_of_this_machine_only_wants_no_others() {
        let here = |line: &str| are_of_this_machine(&Cli::parse_from(line.split(' ')).command.peers());
        let link = |peer: &str| format!("dhtfs get dhtfs:{CHUNK}?peer={peer}");
        assert!(here(&format!("dhtfs get {CHUNK} --peer /ip4/127.0.0.1/tcp/1 --bootstrap /ip6/::1/tcp/1")));
        assert!(here(&link("/ip4/127.0.0.1/tcp/1")));
        for other in [
            format!("dhtfs get {CHUNK}"),
            format!("dhtfs cat {CHUNK} --peer /ip4/127.0.0.1/tcp/1 --peer /ip4/10.0.0.1/tcp/1"),
            format!("{} --bootstrap /ip4/127.0.0.1/tcp/1", link("/ip4/10.0.0.1/tcp/1")),
            "dhtfs daemon --bootstrap /ip4/127.0.0.1/tcp/1".to_owned(),
        ] {
            assert!(!here(&other), "{other}");
        }
    }

    #[test]
    fn a_path_becomes_absolute_and_keeps_a_name() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(absolute(Path::new("a/b")).unwrap(), here.join("a/b"));
        assert_eq!(absolute(Path::new("./-x")).unwrap(), here.join("-x"));
        assert_eq!(absolute(Path::new(".")).unwrap(), here);
        assert_eq!(absolute(Path::new("..")).unwrap(), here.parent().unwrap().canonicalize().unwrap());
        assert_eq!(absolute(Path::new("")).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_path_that_json_cannot_carry_is_refused() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"/tmp/\xff"));
        assert_eq!(absolute(path).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn what_is_no_cid_is_a_usage_mistake_on_one_line() {
        assert_eq!(check_cid(&format!(" {CHUNK}\n")).unwrap(), CHUNK);
        for text in ["", "hello", "dhtfs:", "bafkrei", "../etc/passwd", "a\nb"] {
            let error = check_cid(text).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{text}");
            assert_eq!(error.line().unwrap().lines().count(), 1, "{text}");
        }
    }

    #[test]
    fn a_file_in_place_of_a_cid_is_pointed_out() {
        let line = check_cid("Cargo.toml").unwrap_err().line().unwrap();
        assert!(line.contains("dhtfs add"), "{line}");
    }

    #[test]
    fn hints_go_over_as_text() {
        let cli = Cli::parse_from(["dhtfs", "get", "x", "--peer", "/ip4/127.0.0.1/tcp/1", "--timeout", "2"]);
        let Command::Get(args) = cli.command else { panic!() };
        let hints = args.hints.resolve();
        assert_eq!(hints.peers, ["/ip4/127.0.0.1/tcp/1"]);
        assert_eq!((hints.bootstrap.len(), hints.timeout_secs), (0, Some(2.0)));
    }

    #[test]
    fn verbosity_decides_what_is_logged() {
        let level = |line: &str| {
            let cli = Cli::parse_from(line.split(' '));
            level(&cli.global, cli.command.runs_a_daemon())
        };
        assert_eq!(level("dhtfs status"), Level::Command);
        assert_eq!(level("dhtfs daemon"), Level::Daemon);
        assert_eq!(level("dhtfs -q daemon"), Level::Quiet);
        assert_eq!(level("dhtfs status -v"), Level::Debug);
        assert_eq!(level("dhtfs -q status -vv"), Level::Everything);
    }
}
