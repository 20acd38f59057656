//! How others tell the driver what the store holds, and learn how far it is.

use dhtfs_store::ContentCid;
use tokio::sync::{mpsc, watch};

use super::KEY_PAGE;
use crate::core::provide::{ProvideStats, WithdrawStats};

/// What the driver is told, of so many keys at a time as it reads from the store at a time.
pub(super) enum Command {
    Held(Vec<ContentCid>),
    Withdraw(Vec<ContentCid>),
}

impl Command {
    /// How many keys it carries.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Held(keys) | Self::Withdraw(keys) => keys.len(),
        }
    }
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
        for keys in keys.chunks(KEY_PAGE) {
            let _ = self.commands.send(Command::Held(keys.to_vec())).await;
        }
    }

    /// The store holds these keys no longer: nobody is told any more that this node provides them, and those who keep
    /// records of it are told to forget them.
    pub async fn withdraw(&self, keys: Vec<ContentCid>) {
        for keys in keys.chunks(KEY_PAGE) {
            let _ = self.commands.send(Command::Withdraw(keys.to_vec())).await;
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
