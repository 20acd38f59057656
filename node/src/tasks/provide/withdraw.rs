//! Records are taken back: the peers closest to each key are told that this node does not provide it any more.

use std::{collections::BTreeSet, time::Instant};

use dhtfs_store::ContentCid;
use tracing::debug;

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

/// Tells the holders of a batch, after `since` at the earliest for what the map knows. Returns the keys of which some
/// holder could not be told.
///
/// A key may be shared again at any time. One that is before its turn is passed over. One that is while its holders
/// are told is announced once more afterwards: they answer to both, so the announcement is what remains.
pub(super) async fn run(holders: &Holders, batch: &WithdrawBatch, since: Instant) -> Vec<ContentCid> {
    let Some(shared) = holders.known(batch.keys.clone()).await else { return batch.keys.clone() };
    let shared: BTreeSet<ContentCid> = shared.into_iter().map(|key| key.cid).collect();
    let keys: Vec<ContentCid> = batch.keys.iter().filter(|cid| !shared.contains(cid)).copied().collect();
    let mut failed = Vec::new();
    if keys.len() <= PLAIN_KEYS {
        for cid in &keys {
            if !one::withdraw(holders, *cid.digest()).await {
                failed.push(*cid);
            }
        }
        for key in holders.known(keys).await.unwrap_or_default() {
            one::provide(holders, &key).await;
        }
        return failed;
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
    page.send(holders, &report, since).await;
    failed.extend(page.unheard().iter().filter_map(|place| known.get(*place)));
    failed.extend(unknown);
    debug!(region = ?batch.region, keys = keys.len(), failed = failed.len(), "withdrew");
    let again = holders.known(keys).await.unwrap_or_default();
    if !again.is_empty() {
        send_page(holders, &again, &report, since, &mut SweepOutcome::default()).await;
    }
    failed
}
