//! `sim`: hands over to `dhtfs-sim`, which lies beside this program.

use std::{io, os::unix::process::CommandExt, path::Path, process::Command};

use crate::{
    args::SimArgs,
    error::{CliError, Result},
};

/// Name of the program.
const PROGRAM: &str = "dhtfs-sim";

/// Replaces this process by `dhtfs-sim` with the same arguments; returns only if that fails.
pub(crate) fn run(args: &SimArgs) -> Result<()> {
    let this = std::env::current_exe()
        .map_err(|error| CliError::failed(format!("cannot tell where this program lies: {error}")))?;
    let sibling = this.parent().unwrap_or(Path::new(".")).join(PROGRAM);
    let error = Command::new(&sibling).args(&args.args).exec();
    let path = sibling.display();
    Err(CliError::failed(match error.kind() {
        io::ErrorKind::NotFound => {
            format!("there is no {path}; build it with `cargo build --release -p dhtfs-sim` and put it there")
        }
        _ => format!("cannot run {path}: {error}"),
    }))
}
