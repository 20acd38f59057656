//! `dhtfs`: share files with no tracker and no server.
//!
//! In layers: [`args`] is the command line as typed, [`context`] what it resolves to, [`commands`] one small file
//! a command, [`connection`] the one way to a node. Results go to stdout, everything else to stderr.

#![forbid(unsafe_code)]

mod args;
mod commands;
mod connection;
mod context;
mod error;
mod format;
mod logs;
mod output;
mod pace;
mod progress;
mod signals;
mod terminal;
mod waiting;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Parser, error::ErrorKind as TypedWrong};

use crate::{args::Cli, context::Context, error::Result, output::Output, signals::Interrupt};

/// Exit code of a command line that makes no sense.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = writeln!(io::stderr(), "dhtfs: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    // As a task: this thread would have to be woken for whatever a command waits for, hundreds of times a second.
    let code =
        runtime.block_on(runtime.spawn(run(cli))).unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => 1,
        });
    // A thread may still wait for standard input, or hash for a command that was interrupted.
    runtime.shutdown_background();
    ExitCode::from(code)
}

/// Runs a command to its end and says how it ended.
async fn run(cli: Cli) -> u8 {
    let out = Output::new(cli.global.json, cli.global.quiet);
    match prepared(cli).await {
        Ok(()) => 0,
        Err(error) => {
            out.error(&error);
            error.exit_code()
        }
    }
}

async fn prepared(cli: Cli) -> Result<()> {
    let interrupt = Interrupt::install()
        .map_err(|error| error::CliError::failed(format!("cannot watch for signals: {error}")))?;
    let context = Context::new(&cli.global, &cli.command, interrupt)?;
    let result = commands::run(&context, cli.command).await;
    context.close().await;
    result
}

/// Help and version on stdout; what was typed wrong on stderr.
fn explain(error: &clap::Error) -> ExitCode {
    match error.kind() {
        TypedWrong::DisplayHelp => {
            // A reader that left early has seen enough.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        TypedWrong::DisplayVersion => {
            let _ = writeln!(io::stdout(), "dhtfs {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        TypedWrong::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(EXIT_USAGE)
        }
        _ => {
            let _ = writeln!(io::stderr(), "{}", mistake(&error.render().to_string()));
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// The text of a usage mistake in this program's form: `dhtfs: ` first, and only one line if it is about a value,
/// where the usage explains nothing.
fn mistake(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text).trim_end();
    if !text.starts_with("invalid value") {
        return format!("dhtfs: {text}");
    }
    format!("dhtfs: {}", format::clean(&error::one_line(text.split("\n\n").next().unwrap_or(text))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> String {
        let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
        mistake(&error.render().to_string())
    }

    #[test]
    fn a_value_that_makes_no_sense_gets_one_line_that_names_its_argument() {
        let text = said("dhtfs get x --peer 10.0.0.1:80");
        assert!(
            text.starts_with("dhtfs: invalid value '10.0.0.1:80' for '--peer <MULTIADDR>': not a multiaddr"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn a_mistyped_command_gets_a_hint_and_the_usage() {
        let text = said("dhtfs gett x");
        assert!(text.starts_with("dhtfs: unrecognized subcommand 'gett'"), "{text}");
        assert!(text.contains("'get'") && text.contains("--help"), "{text}");
    }
}
