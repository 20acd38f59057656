//! The command line as it was typed. Nothing is opened, resolved or started here.

use std::{ffi::OsString, path::PathBuf};

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum, ValueHint, builder::FalseyValueParser};
use dhtfs_node::{api::types::AnnounceScope, core::rate::Limit};
use dhtfs_store::Link;
use libp2p::Multiaddr;

/// Longest `--timeout`: a year, in seconds.
const MAX_TIMEOUT_SECS: f64 = 365.0 * 24.0 * 3600.0;

/// Largest file `demo` makes, in MiB: 64 GiB; five daemons hold four copies of it.
const MAX_DEMO_MIB: u64 = 64 * 1024;

/// Share files with no tracker and no server.
#[derive(Debug, Parser)]
#[command(
    name = "dhtfs",
    version,
    propagate_version = true,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Start here:
  dhtfs demo                     see it work: five daemons on this machine, one of them killed
  dhtfs daemon                   be reachable: serve what you share, in the foreground
  dhtfs add holiday.mp4          share a file; prints its content ID (CID)
  dhtfs get bafyrei...           fetch a CID that somebody sent you

`dhtfs COMMAND --help` shows examples. Exit codes: 0 done, 1 failed, 2 usage, 3 not found,
4 incomplete (what arrived is kept), 5 store busy or unusable, 130 interrupted."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes, before or after its name.
#[derive(Debug, Clone, Args)]
pub(crate) struct GlobalArgs {
    /// Where store, identity and socket are [default: $XDG_DATA_HOME/dhtfs]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "DHTFS_DATA_DIR",
        hide_env_values = true,
        value_hint = ValueHint::DirPath,
        help_heading = "Global options"
    )]
    pub(crate) data_dir: Option<PathBuf>,
    /// Read settings from this TOML file
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Global options")]
    pub(crate) config: Option<PathBuf>,
    /// Do not look for nodes of the local network, and tell them nothing
    #[arg(
        long,
        global = true,
        env = "DHTFS_NO_MDNS",
        hide_env = true,
        value_parser = FalseyValueParser::new(),
        help_heading = "Global options"
    )]
    pub(crate) no_mdns: bool,
    /// Print results as JSON, one object a line
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// Print results and errors only
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub(crate) quiet: bool,
    /// Log what happens on stderr; twice: the network library too (DHTFS_LOG selects finer)
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Global options")]
    pub(crate) verbose: u8,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Add(AddArgs),
    Get(GetArgs),
    Cat(CatArgs),
    Transfers(TransfersArgs),
    Pause(PauseArgs),
    Resume(ResumeArgs),
    Abort(AbortArgs),
    Refresh(RefreshArgs),
    Ls(LsArgs),
    Rm(RmArgs),
    Verify(VerifyArgs),
    Providers(ProvidersArgs),
    Status(StatusArgs),
    Peers(PeersArgs),
    Net(NetArgs),
    Limits(LimitsArgs),
    Id(IdArgs),
    Daemon(DaemonArgs),
    Relay(RelayArgs),
    Shutdown(ShutdownArgs),
    Gc(GcArgs),
    Demo(DemoArgs),
    Sim(SimArgs),
}

/// Run networks of hundreds of nodes in one process, on a virtual clock (`dhtfs sim list`)
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = "\
Examples:
  dhtfs sim list
  dhtfs sim run join-add-get --nodes 100 --seed 1
  dhtfs sim run churn24 --hours 8 --report out/"
)]
pub(crate) struct SimArgs {
    /// What dhtfs-sim is to do; it explains itself with `dhtfs sim --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    pub(crate) args: Vec<OsString>,
}

impl Command {
    /// Whether it goes on until it is told to end.
    pub(crate) fn runs_a_daemon(&self) -> bool {
        matches!(self, Self::Daemon(_) | Self::Relay(_))
    }

    /// The nodes that it names, by flags and in a link.
    pub(crate) fn peers(&self) -> Vec<Multiaddr> {
        let (hints, cid) = match self {
            Self::Get(args) => (&args.hints, Some(&args.cid)),
            Self::Cat(args) => (&args.hints, Some(&args.cid)),
            Self::Ls(args) => (&args.hints, args.cid.as_ref()),
            Self::Verify(args) => (&args.hints, Some(&args.cid)),
            Self::Providers(args) => (&args.hints, Some(&args.cid)),
            _ => return Vec::new(),
        };
        let link = cid.and_then(|cid| cid.trim().parse::<Link>().ok());
        let linked = link.iter().flat_map(|link| &link.peers).filter_map(|peer| peer.parse().ok());
        hints.peer.iter().chain(&hints.bootstrap).cloned().chain(linked).collect()
    }
}

/// Where to look besides the DHT.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct HintArgs {
    /// Ask this peer too: it is believed to have the content (may be repeated)
    #[arg(long, value_name = "MULTIADDR", value_parser = multiaddr)]
    pub(crate) peer: Vec<Multiaddr>,
    /// Join the network through this node (may be repeated); default: the peers of the last run
    #[arg(long, value_name = "MULTIADDR", value_parser = multiaddr)]
    pub(crate) bootstrap: Vec<Multiaddr>,
    /// Give up after this long without progress [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = timeout)]
    pub(crate) timeout: Option<f64>,
}

/// How fast a node that this command starts may be.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct LimitArgs {
    /// Fetch no faster than this, like 2MB/s or 500KiB/s; `none` is no limit
    #[arg(long, value_name = "RATE")]
    pub(crate) limit_down: Option<Limit>,
    /// Send no faster than this to all peers together
    #[arg(long, value_name = "RATE")]
    pub(crate) limit_up: Option<Limit>,
}

/// Share files and directories; prints the CID of each
#[derive(Debug, Args)]
#[command(after_help = "\
Files are served from where they lie, no second copy is made: leave them there, unchanged.
One path prints its CID alone on a line, several print `CID NAME` a line each.

Examples:
  dhtfs add holiday.mp4
  dhtfs add photos/ notes.txt
  dhtfs add --link holiday.mp4            a link that carries the name and this node's addresses
  dhtfs add --wait holiday.mp4            end only when others find it; exit code 4 if they do not
  dhtfs add --announce roots archive/     one record instead of one for each MiB
  tar c photos | dhtfs add - --name photos.tar
  dhtfs add -- -odd-name.txt              a name that begins with a dash")]
pub(crate) struct AddArgs {
    /// Files and directories to share; `-` reads standard input into the store
    #[arg(required = true, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) paths: Vec<PathBuf>,
    /// Keep a copy in the store, so that the originals may change or go
    #[arg(long)]
    pub(crate) copy: bool,
    /// Share under this name instead of the file's own (one path only)
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Print links (dhtfs:CID?name=..&peer=..) instead of bare CIDs
    #[arg(long)]
    pub(crate) link: bool,
    /// Stay and serve until Ctrl-C if no daemon is running
    #[arg(long)]
    pub(crate) seed: bool,
    /// With --seed: send no faster than this to all peers together, like 2MB/s or 500KiB/s
    #[arg(long, value_name = "RATE", requires = "seed")]
    pub(crate) limit_up: Option<Limit>,
    /// What others are told of it [default: all, or what the share has already]
    #[arg(long, value_name = "SCOPE")]
    pub(crate) announce: Option<Announce>,
    /// Wait until others can find it; says on how many nodes its records are
    #[arg(long)]
    pub(crate) wait: bool,
    /// Give up waiting after this long; it is announced all the same [default: 120]
    #[arg(long, value_name = "SECONDS", value_parser = timeout, requires = "wait")]
    pub(crate) timeout: Option<f64>,
}

/// What is announced of a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Announce {
    /// Every manifest block and every chunk: parts of it are found too, also where it is only partly held
    All,
    /// Its root alone: found by its CID, with one record
    Roots,
    /// Nothing: only who is told this node's address gets it
    None,
}

impl From<Announce> for AnnounceScope {
    fn from(announce: Announce) -> Self {
        match announce {
            Announce::All => Self::All,
            Announce::Roots => Self::Roots,
            Announce::None => Self::None,
        }
    }
}

/// Fetch a file or directory, from many peers at once; prints where it is
#[derive(Debug, Args)]
#[command(after_help = "\
Every chunk is checked before it is written. What arrived survives an interruption: the same
command goes on from there.

Examples:
  dhtfs get bafyrei...                        into the current directory, under its own name
  dhtfs get bafyrei... -o films/              into a directory
  dhtfs get bafyrei... -o film.mp4 --force    replace a file
  dhtfs get 'dhtfs:bafyrei...?name=..'        a link; quote it
  dhtfs get bafyrei... -o - | mpv -           like `dhtfs cat`
  dhtfs get -d bafyrei... -o films/           by the daemon; see `dhtfs transfers`
  dhtfs get bafyrei... --peer /ip4/192.168.1.20/tcp/4343 --timeout 120")]
pub(crate) struct GetArgs {
    /// CID or dhtfs: link
    #[arg(value_name = "CID|LINK")]
    pub(crate) cid: String,
    /// Write to this path, into this directory (existing, or with a final /), or to standard output (-)
    #[arg(short, long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) output: Option<OsString>,
    /// Replace the output if it exists
    #[arg(long)]
    pub(crate) force: bool,
    /// Afterwards stay and serve it until Ctrl-C if no daemon is running
    #[arg(long)]
    pub(crate) seed: bool,
    /// Hand it over to the daemon and end; it goes on until it is done, also after a restart
    #[arg(short, long, conflicts_with = "seed")]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) hints: HintArgs,
}

/// Show what the daemon fetches: bar, speed, time left, peers, and why nothing comes
#[derive(Debug, Args)]
#[command(after_help = "\
On a terminal it shows how they move on until none is left, or until Ctrl-C, which ends none of
them. Elsewhere, and with --once or --json, it is a line each: CID, state, percent, how much, speed,
time left, peers, path. What `dhtfs cat` reads is not among them.

Examples:
  dhtfs transfers
  dhtfs transfers --once
  dhtfs transfers --json | jq -r 'select(.state == \"paused\") | .cid'")]
pub(crate) struct TransfersArgs {
    /// Show them once, also on a terminal
    #[arg(long)]
    pub(crate) once: bool,
}

/// Which transfers are meant.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct SteerArgs {
    /// CID or dhtfs: link of the transfer, as `dhtfs transfers` shows it
    #[arg(value_name = "CID|LINK")]
    pub(crate) cid: Option<String>,
    /// Every transfer
    #[arg(long)]
    pub(crate) all: bool,
}

/// Let a transfer rest: nothing more is asked for, what arrived stays
#[derive(Debug, Args)]
#[command(after_help = "\
The `get` that waits for it goes on waiting. Prints the CIDs of what is paused.

Examples:
  dhtfs pause bafyrei...
  dhtfs pause --all")]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    pub(crate) steer: SteerArgs,
}

/// Let a transfer go on that was paused or has failed
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dhtfs resume bafyrei...
  dhtfs resume --all")]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    pub(crate) steer: SteerArgs,
}

/// End a transfer; what arrived is kept, and a new `get` goes on from there
#[derive(Debug, Args)]
#[command(after_help = "\
The `get` that waits for it ends with exit code 130. To be rid of what arrived, end the sharing of
it with `dhtfs rm` and delete the .part file.

Examples:
  dhtfs abort bafyrei...
  dhtfs abort --all")]
pub(crate) struct AbortArgs {
    #[command(flatten)]
    pub(crate) steer: SteerArgs,
}

/// Look for providers of a transfer now, and dial those again that could not be reached
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dhtfs refresh bafyrei...                after a provider has come back
  dhtfs refresh --all")]
pub(crate) struct RefreshArgs {
    #[command(flatten)]
    pub(crate) steer: SteerArgs,
}

/// Print the content of a file, in order, as it arrives
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dhtfs cat bafyrei... | tar x
  dhtfs cat bafyrei... --offset 1048576 --length 512")]
pub(crate) struct CatArgs {
    /// CID or dhtfs: link of a file or a chunk
    #[arg(value_name = "CID|LINK")]
    pub(crate) cid: String,
    /// First byte to print
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub(crate) offset: u64,
    /// How many bytes to print; default: up to the end
    #[arg(long, value_name = "BYTES")]
    pub(crate) length: Option<u64>,
    /// Fetch no faster than this, like 2MB/s or 500KiB/s; `none` is no limit
    #[arg(long, value_name = "RATE")]
    pub(crate) limit_down: Option<Limit>,
    #[command(flatten)]
    pub(crate) hints: HintArgs,
}

/// List what this node shares, or what a CID contains
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dhtfs ls
  dhtfs ls bafyrei...
  dhtfs ls --chunks bafyrei...
  dhtfs ls --json | jq -r .name")]
pub(crate) struct LsArgs {
    /// CID or dhtfs: link of a file or directory; without one: the shares of this node
    #[arg(value_name = "CID|LINK")]
    pub(crate) cid: Option<String>,
    /// List the CIDs of the chunks of every file as well
    #[arg(long, requires = "cid")]
    pub(crate) chunks: bool,
    #[command(flatten)]
    pub(crate) hints: HintArgs,
}

/// Stop sharing something and have others forget who provided it; never deletes your files
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dhtfs rm bafyrei...
  dhtfs rm bafyrei... && dhtfs gc         and free what the store held of it")]
pub(crate) struct RmArgs {
    /// CID of the share, as `dhtfs ls` shows it
    #[arg(value_name = "CID")]
    pub(crate) cid: String,
}

/// Check that a file or directory is exactly what a CID names
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dhtfs verify holiday.mp4 bafyrei... && echo the same")]
pub(crate) struct VerifyArgs {
    /// File or directory to check
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) path: PathBuf,
    /// CID or dhtfs: link it should have
    #[arg(value_name = "CID|LINK")]
    pub(crate) cid: String,
    #[command(flatten)]
    pub(crate) hints: HintArgs,
}

/// Show who announces a CID and whether they can be reached; exit code 3 if nobody does
#[derive(Debug, Args)]
#[command(after_help = "\
A line each: peer ID, state (live, relayed, unreachable, not checked, this node), round trip, how
many of the chunks it says it holds (or whether it has the manifest, if it does not say), addresses.
Who could not be asked until --timeout is not checked. No chunk is transferred for this.

Examples:
  dhtfs providers bafyrei...
  dhtfs providers bafkrei... --json       of a single chunk, one JSON object a line")]
pub(crate) struct ProvidersArgs {
    /// CID or dhtfs: link of a file, directory or chunk
    #[arg(value_name = "CID|LINK")]
    pub(crate) cid: String,
    #[command(flatten)]
    pub(crate) hints: HintArgs,
}

/// Show how this node is, or how much of a CID is here and announced
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dhtfs status
  dhtfs status bafyrei...")]
pub(crate) struct StatusArgs {
    /// CID or dhtfs: link
    #[arg(value_name = "CID|LINK")]
    pub(crate) cid: Option<String>,
}

/// List the peers this node is connected to
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dhtfs peers
  dhtfs peers --json | jq .rtt_ms")]
pub(crate) struct PeersArgs {}

/// Show how others reach this node: directly, past a router, through a relay, or not at all, and why
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dhtfs net
  dhtfs net --json | jq -r .reachability")]
pub(crate) struct NetArgs {}

/// Show how fast the daemon may send and fetch, or change it while it runs
#[derive(Debug, Args)]
#[command(after_help = "\
A change holds at once, also for what runs, and until the daemon ends; what is to hold longer goes
into the configuration (limit_up, limit_down, limit_up_per_peer, limit_lan). Peers on this machine
and in the local network are free of limits unless limit_lan is true.

Examples:
  dhtfs limits
  dhtfs limits --up 500KiB/s --down 2MB/s
  dhtfs limits --up none")]
pub(crate) struct LimitsArgs {
    /// Send no faster than this to all peers together; `none` is no limit
    #[arg(long, value_name = "RATE")]
    pub(crate) up: Option<Limit>,
    /// Fetch no faster than this
    #[arg(long, value_name = "RATE")]
    pub(crate) down: Option<Limit>,
    /// Send no faster than this to one peer
    #[arg(long, value_name = "RATE")]
    pub(crate) up_per_peer: Option<Limit>,
}

/// Show this node's peer ID and addresses
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dhtfs id
  dhtfs id | tail -n +2                   the addresses to give to others as --peer or --bootstrap")]
pub(crate) struct IdArgs {}

/// Run a node in the foreground: serve what is shared, announce it, help the network
#[derive(Debug, Args)]
#[command(after_help = "\
Prints one line on stdout once it is ready; logs go to stderr. Other commands on the same data
directory talk to it. Ctrl-C, SIGTERM or `dhtfs shutdown` end it in order.

Examples:
  dhtfs daemon
  dhtfs daemon --bootstrap /ip4/203.0.113.5/tcp/4343
  dhtfs daemon --listen /ip4/0.0.0.0/tcp/4001 --listen /ip4/0.0.0.0/udp/4001/quic-v1
  dhtfs daemon --json | jq -r '.listen[]'")]
pub(crate) struct DaemonArgs {
    /// Listen here (may be repeated); default: as last time, else TCP and QUIC port 4343 everywhere
    #[arg(long, value_name = "MULTIADDR", value_parser = multiaddr)]
    pub(crate) listen: Vec<Multiaddr>,
    /// Join the network through this node (may be repeated)
    #[arg(long, value_name = "MULTIADDR", value_parser = multiaddr)]
    pub(crate) bootstrap: Vec<Multiaddr>,
    /// Be part of this network; nodes of different networks never meet [default: main]
    #[arg(long, value_name = "NAME")]
    pub(crate) network: Option<String>,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// End when standard input ends: a program that starts a daemon leaves none behind, however it dies
    #[arg(long, hide = true)]
    pub(crate) until_stdin_ends: bool,
}

/// Run a node in the foreground that carries connections for nodes nobody can dial
#[derive(Debug, Args)]
#[command(after_help = "\
It shares nothing. Run it on a machine that others can dial; they join through the address that it prints, and so find it.
Without --data-dir it keeps its key in a directory of its own, `relay` in that of the daemon.

Examples:
  dhtfs relay
  dhtfs relay --listen /ip4/0.0.0.0/tcp/4343 --listen /ip4/0.0.0.0/udp/4343/quic-v1")]
pub(crate) struct RelayArgs {
    #[command(flatten)]
    pub(crate) daemon: DaemonArgs,
}

/// End the daemon that runs on this data directory
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dhtfs shutdown
  dhtfs --data-dir /srv/dhtfs shutdown")]
pub(crate) struct ShutdownArgs {}

/// Free what no share needs any more; never deletes your files
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dhtfs gc")]
pub(crate) struct GcArgs {}

/// See it work: five daemons on this machine, one of them killed half-way
#[derive(Debug, Args)]
#[command(after_help = "\
Uses loopback and a temporary directory only, and leaves nothing behind.

Examples:
  dhtfs demo
  dhtfs demo --size 1024                   with 1 GiB; takes four times that in $TMPDIR
  dhtfs demo holiday.mp4                   with a file of yours, which is only read")]
pub(crate) struct DemoArgs {
    /// File to share; without one a file is made
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) file: Option<PathBuf>,
    /// Length of the file that is made, in MiB
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 64,
        conflicts_with = "file",
        value_parser = clap::value_parser!(u64).range(1..=MAX_DEMO_MIB)
    )]
    pub(crate) size: u64,
}

fn multiaddr(text: &str) -> Result<Multiaddr, String> {
    text.parse().map_err(|error| format!("not a multiaddr ({error}); write it like /ip4/192.0.2.1/tcp/4343"))
}

fn timeout(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(secs) if secs > 0.0 && secs <= MAX_TIMEOUT_SECS => Ok(secs),
        _ => Err("give seconds, more than 0 and at most a year".to_owned()),
    }
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
