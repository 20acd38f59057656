//! `dhtfs shutdown`: end the daemon, and come back when it is gone.

use std::time::Duration;

use dhtfs_store::Store;
use serde::de::IgnoredAny;
use tokio::time::{Instant, sleep};

use crate::{
    context::Context,
    error::{CliError, Result},
};

/// How long a daemon may take to end in order before this command gives up waiting.
const MAX_ENDING: Duration = Duration::from_secs(60);

/// Pause between two looks at the lock.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

pub(crate) async fn run(context: &Context) -> Result<()> {
    let dir = context.data_dir.display();
    let Some(daemon) = context.connect_daemon().await? else {
        return Err(CliError::failed(format!("no daemon is running on {dir}")));
    };
    let pid = Store::lock_holder(&context.data_dir);
    let _: IgnoredAny = daemon.post("/v0/shutdown", &serde_json::json!({})).await?;
    let deadline = Instant::now() + MAX_ENDING;
    // Whoever has the lock next is not the daemon that was asked to end.
    while let Some(holder) = Store::lock_holder(&context.data_dir)
        && Some(holder) == pid
    {
        if Instant::now() >= deadline {
            return Err(CliError::failed(format!(
                "the daemon on {dir} (process {holder}) is still ending; look again later"
            )));
        }
        sleep(LOOK_AGAIN).await;
    }
    context.out.note("the daemon has ended");
    Ok(())
}
