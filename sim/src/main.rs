//! `dhtfs-sim`: networks of real dhtfs nodes in one process.
//!
//! The nodes are the ones that ship ([`dhtfs_node::Node`]), each with an environment of its own: an in-memory
//! transport with real encryption, a store in a temporary directory that runs inline, an identity and every random
//! choice from the seed. One scenario so far: `join-add-get`.
#![deny(unsafe_code)]

mod join_add_get;
mod world;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs networks of real dhtfs nodes in one process.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the scenarios
    List,
    /// Run a scenario
    #[command(after_help = "Example:\n  dhtfs-sim run join-add-get --nodes 20 --seed 7")]
    Run {
        /// Name of the scenario; see `dhtfs-sim list`
        scenario: String,
        /// Number of nodes, 4 to 200
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(4..=200))]
        nodes: u16,
        /// Seed of every identity, file and random choice
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

fn main() -> ExitCode {
    let (scenario, nodes, seed) = match Args::parse().command {
        Command::List => {
            println!("{}  {}", join_add_get::NAME, join_add_get::ABOUT);
            return ExitCode::SUCCESS;
        }
        Command::Run { scenario, nodes, seed } => (scenario, usize::from(nodes), seed),
    };
    if scenario != join_add_get::NAME {
        eprintln!("dhtfs-sim: no scenario \"{}\"; `dhtfs-sim list` names them", scenario.escape_debug());
        return ExitCode::from(2);
    }
    println!("scenario {scenario}, nodes {nodes}, seed {seed}");
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("dhtfs-sim: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(join_add_get::run(nodes, seed)) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("dhtfs-sim: {error}");
            eprintln!("replay: dhtfs-sim run {scenario} --nodes {nodes} --seed {seed}");
            ExitCode::FAILURE
        }
    }
}
