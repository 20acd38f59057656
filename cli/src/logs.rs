//! Logs: text on stderr, never through a progress bar.

use std::io::{self, IsTerminal, Write};

use indicatif::MultiProgress;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::{
    error::{CliError, Result},
    output::no_color,
};

/// Environment variable with a filter such as `info,dhtfs_node=debug,libp2p_kad=trace`.
const FILTER_VARIABLE: &str = "DHTFS_LOG";

/// How much is logged when [`FILTER_VARIABLE`] says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Only what went wrong for good.
    Quiet,
    /// A command: its warnings; of the libraries only errors, since a failed dial is everyday life.
    Command,
    /// A daemon: what it does.
    Daemon,
    /// `-v`: why it does it.
    Debug,
    /// `-vv`: the libraries too.
    Everything,
}

impl Level {
    fn filter(self) -> &'static str {
        match self {
            Level::Quiet => "error",
            Level::Command => "error,dhtfs=warn,dhtfs_node=warn,dhtfs_store=warn",
            // To the DHT library it is worth a warning that a first node has nobody to join.
            Level::Daemon => "warn,libp2p_kad=error,dhtfs=info,dhtfs_node=info,dhtfs_store=info",
            Level::Debug => "info,dhtfs=debug,dhtfs_node=debug,dhtfs_store=debug",
            Level::Everything => "debug",
        }
    }
}

/// Starts logging for the whole process.
///
/// # Errors
/// A usage error if `DHTFS_LOG` is no filter.
pub(crate) fn start(level: Level, bars: &MultiProgress) -> Result<()> {
    let wanted = std::env::var(FILTER_VARIABLE).ok().filter(|text| !text.trim().is_empty());
    let filter = match wanted {
        None => EnvFilter::new(level.filter()),
        Some(text) => EnvFilter::try_new(&text).map_err(|error| {
            let text = text.escape_debug();
            CliError::usage(format!(
                "{FILTER_VARIABLE}=\"{text}\" is no filter ({error}); try {FILTER_VARIABLE}=debug"
            ))
        })?,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal() && !no_color())
        .with_writer(LogWriter(bars.clone()))
        // The library would report a closed stderr on stderr, and panic.
        .log_internal_errors(false);
    // Fails only if logging was started before, and then it goes on as it is.
    let _ = subscriber.try_init();
    Ok(())
}

/// Writes around the bars.
#[derive(Debug, Clone)]
struct LogWriter(MultiProgress);

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for LogWriter {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().lock().write(text))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_a_filter() {
        for level in [Level::Quiet, Level::Command, Level::Daemon, Level::Debug, Level::Everything] {
            assert!(EnvFilter::try_new(level.filter()).is_ok(), "{level:?}");
        }
    }
}
