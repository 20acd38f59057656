//! Looks now and then whether the files that are seeded in place are still what was added, and withdraws those
//! that are not. Serving checks again before every chunk; this finds what nobody asks for.

use std::time::Duration;

use tokio::{sync::watch, time::interval};
use tracing::warn;

use super::{ended, provide::ProvideHandle, serve::withdraw};
use crate::env::StoreHandle;

/// How often every file is looked at. A look is one `stat` a file; only changed ones are read.
const CHECK_EVERY: Duration = Duration::from_secs(5 * 60);

/// What the task works with.
#[derive(Debug)]
pub struct SourcesTask {
    /// Knows the files.
    pub store: StoreHandle,
    /// Stops announcing what is gone.
    pub provide: Option<ProvideHandle>,
}

impl SourcesTask {
    /// Runs until `shutdown` turns true; the first look is at once.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let mut ticks = interval(CHECK_EVERY);
        loop {
            tokio::select! {
                () = ended(&mut shutdown) => return,
                _ = ticks.tick() => match self.store.call_long(|s| s.check_sources()).await {
                    Ok(Ok(withdrawals)) => {
                        for withdrawal in withdrawals {
                            withdraw(withdrawal, self.provide.as_ref()).await;
                        }
                    }
                    Ok(Err(error)) => warn!(%error, "looking at the shared files failed; trying again later"),
                    Err(_) => return,
                }
            }
        }
    }
}
