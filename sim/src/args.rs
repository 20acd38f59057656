//! The command line, as typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use dhtfs_sim::{plan::Security, scenario::Options};

use crate::shell;

/// Runs networks of hundreds of real dhtfs nodes in one process, on a virtual clock. The same seed gives the same
/// run, byte for byte.
#[derive(Debug, Parser)]
#[command(name = "dhtfs-sim", version, about, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the scenarios
    List,
    /// Print a scenario as TOML, to start an own one from
    #[command(after_help = "Example:\n  dhtfs-sim show churn24 > my.toml")]
    Show {
        /// Name of the scenario
        scenario: String,
    },
    /// Run a scenario
    #[command(after_help = "Examples:\n  dhtfs-sim run join-add-get --nodes 100 --seed 1\n  \
        dhtfs-sim run churn24 --hours 8 --report out/\n  dhtfs-sim run my.toml --seed 7 --chaos")]
    Run(Box<Run>),
    /// Run a scenario with many seeds and print shares over all runs, each with its 95 % interval
    #[command(after_help = "Examples:\n  dhtfs-sim study mass-death-80\n  \
        dhtfs-sim study churn24 --hours 4 --seeds 5 --jobs 4")]
    Study(Box<Study>),
    /// Run again what a file written with --json (or run.json of a report) records, and compare
    Replay {
        /// The file
        file: PathBuf,
        /// Write every event on the network to this file, one line each
        #[arg(long, value_name = "FILE")]
        trace: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// Name of a scenario (see `dhtfs-sim list`) or a TOML file
    pub(crate) scenario: String,
    /// Number of nodes [default: the scenario's]
    #[arg(long, value_name = "N")]
    pub(crate) nodes: Option<usize>,
    /// Length in simulated hours [default: the scenario's]
    #[arg(long, value_name = "H")]
    pub(crate) hours: Option<f64>,
    /// Seed of everything random
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Draw faults from the seed: crashes, power cuts, partitions, sleep, loss, wrong clocks
    #[arg(long)]
    pub(crate) chaos: bool,
    /// Encrypt connections as real nodes do, or not at all (half the CPU time) [default: the scenario's]
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) security: Option<SecurityArg>,
    /// Write everything that came out to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write plots and a page to a directory
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
    /// Write every event on the network to this file, one line each: the first line that differs between two runs
    /// is where they part
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// Print the results only
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Study {
    /// Name of a scenario (see `dhtfs-sim list`) or a TOML file
    pub(crate) scenario: String,
    /// Number of nodes [default: the scenario's]
    #[arg(long, value_name = "N")]
    pub(crate) nodes: Option<usize>,
    /// Length of each run in simulated hours [default: the scenario's]
    #[arg(long, value_name = "H")]
    pub(crate) hours: Option<f64>,
    /// Number of runs
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(crate) seeds: u64,
    /// Seed of the first run; the others follow
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) first_seed: u64,
    /// Runs at the same time, each in a process of its own
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    pub(crate) jobs: u64,
    /// Keep the record of each run in this directory, and take from it the runs that an earlier study ended
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum SecurityArg {
    Noise,
    Plaintext,
}

impl Run {
    pub(crate) fn options(&self) -> Options {
        Options {
            seed: self.seed,
            nodes: self.nodes,
            hours: self.hours,
            security: self.security.map(|security| match security {
                SecurityArg::Noise => Security::Noise,
                SecurityArg::Plaintext => Security::Plaintext,
            }),
            chaos: self.chaos,
        }
    }

    /// The command that runs the same again.
    pub(crate) fn replay_command(&self) -> String {
        let mut command = "dhtfs-sim run ".to_owned();
        if self.scenario.starts_with('-') {
            // Or it would be read as an option.
            command += "./";
        }
        command += &shell::quote(&self.scenario);
        if let Some(nodes) = self.nodes {
            command += &format!(" --nodes {nodes}");
        }
        if let Some(hours) = self.hours {
            command += &format!(" --hours {hours}");
        }
        command += &format!(" --seed {}", self.seed);
        if let Some(security) = self.security {
            command += &format!(" --security {}", format!("{security:?}").to_lowercase());
        }
        if self.chaos {
            command += " --chaos";
        }
        command
    }
}
