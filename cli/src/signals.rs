//! Ctrl-C and SIGTERM.

use std::{future::Future, io};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::error::{CliError, Result};

/// Exit code of a process ended by the user.
const EXIT_INTERRUPTED: i32 = 130;

/// The user's wish to end. Cheap to clone; once made it stays.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt {
    asked: watch::Receiver<bool>,
}

impl Interrupt {
    /// Listens for SIGINT and SIGTERM from now on. The first one is a wish that commands answer in order, the
    /// second ends the process at once. SIGHUP keeps its meaning, so that `nohup` works.
    ///
    /// # Errors
    /// If the system has no room for the handlers.
    pub(crate) fn install() -> io::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (ask, asked) = watch::channel(false);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if ask.send_replace(true) {
                    std::process::exit(EXIT_INTERRUPTED);
                }
            }
        });
        Ok(Self { asked })
    }

    /// Completes when the user wants to end. Cancel-safe.
    pub(crate) async fn wait(&self) {
        let mut asked = self.asked.clone();
        if asked.wait_for(|asked| *asked).await.is_err() {
            // Nobody listens for signals any more, so none will come.
            std::future::pending::<()>().await;
        }
    }

    /// Runs `work` to its end or drops it when the user wants to end.
    ///
    /// # Errors
    /// Those of `work`, or the error of an interrupted command.
    pub(crate) async fn guard<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.wait() => Err(CliError::interrupted("interrupted")),
            result = work => result,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

    use super::*;

    #[tokio::test]
    async fn an_interrupt_drops_the_work_and_says_so() {
        let (ask, asked) = watch::channel(false);
        let interrupt = Interrupt { asked };
        assert_eq!(interrupt.guard(async { Ok(1) }).await.unwrap(), 1);
        let (guarded, ()) = tokio::join!(interrupt.guard(std::future::pending::<Result<()>>()), async {
            ask.send_replace(true);
        });
        assert!(guarded.unwrap_err().is_interrupted());
        assert!(interrupt.guard(async { Ok(1) }).await.unwrap_err().is_interrupted(), "the wish stays");
    }
}
