//! Records are taken back: the peers closest to each key are told that this node does not provide it any more.

use std::{collections::BTreeSet, time::Instant};

use dhtfs_store::{ContentCid, ProvideKey};
use tracing::{debug, warn};

use super::{
    holders::Holders,
    one,
    page::{Page, Say},
    sweep::{PLAIN_KEYS, send_page},
};
use crate::core::{
    keyspace::Position,
    provide::{SweepOutcome, WithdrawBatch},
};

/// What came of withdrawing a batch.
#[derive(Debug, Default)]
pub(super) struct Withdrawn {
    /// Keys of which some holder could not be told.
    pub(super) failed: Vec<ContentCid>,
    /// Keys that may be shared again and are to be announced once more: that failed, or the store could not say.
    pub(super) again: Vec<ContentCid>,
}

/// Tells the holders of a batch, after `since` at the earliest for what the map knows.
///
/// A key may be shared again at any time. One that is before its turn is passed over. One that is while its holders
/// are told is announced once more afterwards: they answer to both, so the announcement is what remains.
///
/// `None` if the store does not say which are shared again; nobody has been told anything then.
pub(super) async fn run(holders: &Holders, batch: &WithdrawBatch, since: Instant) -> Option<Withdrawn> {
    let shared = holders.known(batch.keys.clone()).await?;
    let shared: BTreeSet<ContentCid> = shared.into_iter().map(|key| key.cid).collect();
    let keys: Vec<ContentCid> = batch.keys.iter().filter(|cid| !shared.contains(cid)).copied().collect();
    let mut failed = Vec::new();
    if keys.len() <= PLAIN_KEYS {
        for cid in &keys {
            if !one::withdraw(holders, *cid.digest()).await {
                failed.push(*cid);
            }
        }
        return Some(Withdrawn { failed, again: announce(holders, keys).await });
    }
    let report = holders.walk(batch.region, since).await;
    let (known, unknown): (Vec<ContentCid>, Vec<ContentCid>) = {
        let map = holders.map();
        let covered = map.covered(since);
        let knows = |cid: &ContentCid| {
            report.complete || map.knows_closest(&Position::of_digest(cid.digest()), &covered, since)
        };
        keys.iter().copied().partition(knows)
    };
    let mut page = Page::new(Say::Withdraw, known.iter().map(|cid| *cid.digest()).collect());
    if page.send(holders, &report, since).await > 0 {
        page.resend(holders).await;
    }
    failed.extend(page.unheard().iter().filter_map(|place| known.get(*place)));
    failed.extend(unknown);
    debug!(region = ?batch.region, keys = keys.len(), failed = failed.len(), "withdrew");
    let Some(shared) = holders.known(keys.clone()).await else {
        return Some(Withdrawn { failed, again: keys });
    };
    let mut outcome = SweepOutcome::default();
    if !shared.is_empty() {
        send_page(holders, &shared, &report, since, &mut outcome).await;
    }
    let is_done = outcome.sent == outcome.keys;
    let again = if is_done { Vec::new() } else { shared.into_iter().map(|key| key.cid).collect() };
    Some(Withdrawn { failed, again })
}

/// Announces those of the keys that are shared. Returns those that still are to be announced.
pub(super) async fn announce(holders: &Holders, keys: Vec<ContentCid>) -> Vec<ContentCid> {
    let Some(shared) = holders.known(keys.clone()).await else { return keys };
    let mut left = Vec::new();
    for key in shared {
        if !one::provide(holders, &key).await {
            warn_of(&key);
            left.push(key.cid);
        }
    }
    left
}

fn warn_of(key: &ProvideKey) {
    warn!(cid = %key.cid, "shared again while its record was taken back, and not announced yet; it is tried again");
}
