//! How others tell the driver what the store holds, and learn how far it is.

use dhtfs_store::ContentCid;
use tokio::sync::{mpsc, watch};

use crate::core::provide::{ProvideStats, WithdrawStats};

/// What the driver is told.
pub(super) enum Command {
    Held(Vec<ContentCid>),
    Withdraw(Vec<ContentCid>),
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Command::Held(keys) => write!(f, "Held({} keys)", keys.len()),
            Command::Withdraw(keys) => write!(f, "Withdraw({} keys)", keys.len()),
        }
    }
}

/// Tells the driver that the store holds more or less. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ProvideHandle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) stats: watch::Receiver<ProvideStats>,
    pub(super) withdrawals: watch::Receiver<WithdrawStats>,
}

impl ProvideHandle {
    /// The store holds these keys now. Waits while the driver is behind; does nothing once it has ended.
    pub async fn held(&self, keys: Vec<ContentCid>) {
        if !keys.is_empty() {
            let _ = self.commands.send(Command::Held(keys)).await;
        }
    }

    /// The store holds these keys no longer: nobody is told any more that this node provides them, and those who keep
    /// records of it are told to forget them.
    pub async fn withdraw(&self, keys: Vec<ContentCid>) {
        if !keys.is_empty() {
            let _ = self.commands.send(Command::Withdraw(keys)).await;
        }
    }

    /// How far the announcements are.
    pub fn stats(&self) -> ProvideStats {
        *self.stats.borrow()
    }

    /// How far withdrawals are.
    pub fn withdrawals(&self) -> WithdrawStats {
        *self.withdrawals.borrow()
    }

    /// Changes with every step of the announcements.
    pub fn watch(&self) -> watch::Receiver<ProvideStats> {
        self.stats.clone()
    }
}
