//! `transfers`, `pause`, `resume`, `abort`, `refresh`: what is fetched, and how it is steered. `get-detached`: handing a
//! fetch over to the node.

mod detached;
mod registry;

use std::time::Duration;

use dhtfs_store::SavedTransfer;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

pub(crate) use self::registry::{Begin, Running, Target};
pub(crate) use self::{
    detached::{Jobs, run},
    registry::Registry,
};
use super::{
    Api, parse_link,
    types::{ApiError, ErrorKind, Transfer, TransferList, TransferRequest, WatchTransfers},
};
use crate::core::transfers::{TransferId, Transfers};

/// How often the list is looked at again while something is fetched.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long an order is waited for before it is answered all the same: what is being finished or hashed is not cut off.
const MAX_LETTING_GO: Duration = Duration::from_secs(10);

/// What an order changes of what is kept.
type Keep = fn(&mut SavedTransfer);

impl Api {
    /// What is being fetched, and what was lately.
    pub async fn transfers(&self) -> TransferList {
        self.loaded().await;
        self.inner.transfers.list()
    }

    /// Tells of every change until there is no transfer, or for ever.
    ///
    /// # Errors
    /// None so far.
    pub async fn watch_transfers(
        &self,
        request: WatchTransfers,
        progress: watch::Sender<TransferList>,
    ) -> Result<TransferList, ApiError> {
        let mut changes = self.inner.transfers.changes();
        loop {
            changes.mark_unchanged();
            let list = self.transfers().await;
            progress.send_replace(list.clone());
            if request.until_idle && list.transfers.is_empty() {
                return Ok(list);
            }
            tokio::select! {
                // The registry, which tells, lives as long as this.
                _ = changes.changed() => {}
                () = sleep(LOOK_EVERY), if !list.transfers.is_empty() => {}
            }
        }
    }

    /// Lets transfers rest: nothing more is asked for, what is verified stays, whoever waits for them goes on waiting.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no transfer of this CID.
    pub async fn pause(&self, request: TransferRequest) -> Result<Vec<Transfer>, ApiError> {
        let ids = self.order(&request, Transfers::pause, Some(|saved| saved.paused = true)).await?;
        self.wait_until(|registry| registry.have_let_go(&ids)).await;
        Ok(self.these(&ids))
    }

    /// Lets transfers go on that rest, that failed, or that wait to be tried again.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub async fn resume(&self, request: TransferRequest) -> Result<Vec<Transfer>, ApiError> {
        let goes_on: Keep = |saved| {
            saved.paused = false;
            saved.failed = None;
        };
        let ids = self.order(&request, Transfers::resume, Some(goes_on)).await?;
        Ok(self.these(&ids))
    }

    /// Looks for providers of these transfers now, and dials those again that could not be reached.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub async fn refresh(&self, request: TransferRequest) -> Result<Vec<Transfer>, ApiError> {
        let ids = self.order(&request, Transfers::refresh, None).await?;
        Ok(self.these(&ids))
    }

    /// Ends transfers. What is verified stays and a new `get` goes on from there. Those that were handed over are
    /// forgotten.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub async fn abort(&self, request: TransferRequest) -> Result<Vec<Transfer>, ApiError> {
        let found = self.wanted(&request).await?;
        let ids: Vec<TransferId> = found.iter().map(|(id, _)| *id).collect();
        let before = self.these(&ids);
        self.end_all(&found).await?;
        Ok(before)
    }

    /// Ends these; each is forgotten by whoever carries it out. Waits for that, but not for ever.
    async fn end_all(&self, found: &[(TransferId, Option<u64>)]) -> Result<(), ApiError> {
        let ids: Vec<TransferId> = found.iter().map(|(id, _)| *id).collect();
        self.inner.transfers.order(&ids, Transfers::abort);
        self.wait_until(|registry| registry.have_ended(&ids)).await;
        // What is still being finished is not to come back either.
        let left: Vec<u64> = found
            .iter()
            .filter(|(id, _)| !self.inner.transfers.have_ended(&[*id]))
            .filter_map(|(_, saved)| *saved)
            .collect();
        for number in left {
            self.inner.store.call_syncing(move |store| store.remove_transfer(number)).await??;
        }
        Ok(())
    }

    async fn order(
        &self,
        request: &TransferRequest,
        order: fn(&mut Transfers, TransferId),
        keep: Option<Keep>,
    ) -> Result<Vec<TransferId>, ApiError> {
        let found = self.wanted(request).await?;
        if let Some(keep) = keep {
            for number in found.iter().filter_map(|(_, saved)| *saved) {
                // Before it counts: what is answered outlasts a crash.
                self.inner.store.call_syncing(move |store| store.update_transfer(number, keep)).await??;
            }
        }
        let ids: Vec<TransferId> = found.into_iter().map(|(id, _)| id).collect();
        self.inner.transfers.order(&ids, order);
        Ok(ids)
    }

    /// The transfers that a request means.
    async fn wanted(&self, request: &TransferRequest) -> Result<Vec<(TransferId, Option<u64>)>, ApiError> {
        self.loaded().await;
        let Some(cid) = &request.cid else {
            if request.all {
                return Ok(self.inner.transfers.find(None));
            }
            return Err(ApiError::new(ErrorKind::Usage, "the request names no transfer; give a CID, or all"));
        };
        let cid = parse_link(cid)?.cid;
        let found = self.inner.transfers.find(Some(cid));
        if found.is_empty() {
            let message = format!("{cid} is not being fetched here; `dhtfs transfers` lists what is");
            return Err(ApiError::new(ErrorKind::NotFound, message));
        }
        Ok(found)
    }

    fn these(&self, ids: &[TransferId]) -> Vec<Transfer> {
        let list = self.inner.transfers.list().transfers;
        list.into_iter().filter(|transfer| ids.contains(&TransferId(transfer.id))).collect()
    }

    async fn wait_until(&self, is_so: impl Fn(&Registry) -> bool) {
        let registry = &self.inner.transfers;
        let (mut changes, deadline) = (registry.changes(), Instant::now() + MAX_LETTING_GO);
        loop {
            changes.mark_unchanged();
            if is_so(registry) || timeout_at(deadline, changes.changed()).await.is_err() {
                return;
            }
        }
    }
}
