//! Why a command ended badly, and what the process says and returns then.

use std::io;

use dhtfs_node::api::types::{ApiError, ErrorKind};

use crate::format::clean;

/// Result of everything a command does.
pub(crate) type Result<T, E = CliError> = std::result::Result<T, E>;

/// A command that did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The node, or the checks made before there is one, refused or failed.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Standard output took no more.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
    /// Everything worth saying is on stderr already; only the exit code is left.
    #[error("failed with exit code {0}")]
    Reported(u8),
}

impl CliError {
    /// The operation could not be carried out.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        ApiError::new(ErrorKind::Failed, message).into()
    }

    /// What was typed makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        ApiError::new(ErrorKind::Usage, message).into()
    }

    /// Ctrl-C or SIGTERM.
    pub(crate) fn interrupted(message: impl Into<String>) -> Self {
        ApiError::new(ErrorKind::Interrupted, message).into()
    }

    /// Whether the user ended the command.
    pub(crate) fn is_interrupted(&self) -> bool {
        matches!(self, CliError::Api(e) if e.kind == ErrorKind::Interrupted)
    }

    /// Exit code of the process: 0 done, 1 failed, 2 usage, 3 not found, 4 incomplete, 5 store, 130 interrupted.
    ///
    /// A reader that has seen enough (`| head`) is no failure.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            CliError::Api(e) => e.kind.exit_code(),
            CliError::Output(e) if e.kind() == io::ErrorKind::BrokenPipe => 0,
            CliError::Output(_) => ErrorKind::Failed.exit_code(),
            CliError::Reported(code) => *code,
        }
    }

    /// The line for stderr, without the program's name; `None` if there is nothing to say. Names of files and of
    /// peers in it cannot steer the terminal.
    pub(crate) fn line(&self) -> Option<String> {
        match self {
            CliError::Reported(_) => None,
            CliError::Output(e) if e.kind() == io::ErrorKind::BrokenPipe => None,
            other => Some(clean(&one_line(&other.to_string()))),
        }
    }
}

/// `text` on one line: line breaks and what follows them become one space.
pub(crate) fn one_line(text: &str) -> String {
    let parts: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_of_failure_has_its_documented_exit_code() {
        let codes = [
            (ErrorKind::Failed, 1),
            (ErrorKind::Usage, 2),
            (ErrorKind::NotFound, 3),
            (ErrorKind::Incomplete, 4),
            (ErrorKind::Store, 5),
            (ErrorKind::Interrupted, 130),
        ];
        for (kind, code) in codes {
            assert_eq!(CliError::from(ApiError::new(kind, "x")).exit_code(), code);
        }
    }

    #[test]
    fn a_closed_pipe_is_quiet_and_no_failure() {
        let error = CliError::Output(io::ErrorKind::BrokenPipe.into());
        assert_eq!((error.exit_code(), error.line()), (0, None));
    }

    #[test]
    fn a_full_disk_behind_stdout_is_a_failure_that_says_so() {
        let error = CliError::Output(io::ErrorKind::StorageFull.into());
        assert_eq!(error.exit_code(), 1);
        assert!(error.line().is_some_and(|line| line.starts_with("cannot write to standard output")));
    }

    #[test]
    fn a_message_with_line_breaks_becomes_one_line() {
        assert_eq!(CliError::failed("a\n  b\n\nc\n").line().as_deref(), Some("a b c"));
    }

    #[test]
    fn a_name_in_a_message_cannot_steer_the_terminal() {
        let line = CliError::failed("cannot read \u{1b}[2J\u{202e}x\ty").line();
        assert_eq!(line.as_deref(), Some("cannot read \\u{1b}[2J\\u{202e}x\\u{9}y"));
    }
}
