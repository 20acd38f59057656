//! One async driver per core machine. A driver feeds its machine with what happened, carries out the actions it
//! asks for, and holds no policy of its own.

pub mod dispatch;
pub mod fetch;
pub mod have;
pub mod join;
pub mod keep_records;
pub mod lan;
pub mod lanes;
pub mod provide;
pub mod serve;
pub mod sources;

use std::time::Instant;

use tokio::sync::watch;

/// The time that core machines are given: tokio's clock, which the simulator drives.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Waits for a machine's deadline; for ever if it has none.
pub(crate) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Completes when the node is to end.
pub(crate) async fn ended(shutdown: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = shutdown.wait_for(|down| *down).await;
}
