//! One sweep: the keys of a region that have their turn go to the peers closest to them.

use std::time::Instant;

use dhtfs_store::{ContentCid, KeyPosition, ProvideClass, ProvideKey, ProvideMark};
use tracing::debug;

use super::{
    KEY_PAGE, after,
    holders::Holders,
    one,
    page::{Page, Say},
};
use crate::core::{
    keyspace::{Position, Prefix},
    provide::{Budget, Due, RegionReport, SweepOutcome},
};

/// A page is sent once more, to others in place of peers that did not take theirs, so often at most.
const MAX_ROUNDS: usize = 3;

/// A region with so many keys or fewer is not walked: each is looked up by itself.
pub(super) const PLAIN_KEYS: usize = 2;

/// Which keys of the region.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which {
    /// Those whose last announcement is long ago, as many as the budget allows.
    Due(Due, Budget),
    /// Those that were never announced, roots apart.
    Fresh,
}

/// Announces the keys of `region`; what the map learned before `since` does not count.
pub(super) async fn run(holders: &Holders, region: Prefix, which: Which, since: Instant) -> SweepOutcome {
    let mut outcome = SweepOutcome::default();
    if sweep(holders, region, which, since, &mut outcome).await.is_none() {
        // How many keys were not read is not known. That it is not none makes the region due again soon.
        outcome.keys += 1;
    }
    outcome.failed = outcome.keys - outcome.sent;
    debug!(?region, ?outcome, "swept");
    outcome
}

/// `None` if the store fails.
async fn sweep(
    holders: &Holders,
    region: Prefix,
    which: Which,
    since: Instant,
    outcome: &mut SweepOutcome,
) -> Option<()> {
    let (mut keys, mut next) = page(holders, region, which, KeyPosition(region.first().0)).await?;
    while keys.len() <= PLAIN_KEYS
        && let Some(from) = next
    {
        let (more, after) = page(holders, region, which, from).await?;
        keys.extend(more);
        next = after;
    }
    if keys.len() <= PLAIN_KEYS {
        for key in keys {
            outcome.keys += 1;
            outcome.sent += u64::from(one::provide(holders, &key).await);
        }
        return Some(());
    }
    let report = holders.walk(region, since).await;
    loop {
        send_page(holders, &keys, &report, since, outcome).await;
        let Some(from) = next else { return Some(()) };
        (keys, next) = page(holders, region, which, from).await?;
    }
}

/// Some keys of the region in order, and where the next ones begin; `None` if the store fails.
async fn page(
    holders: &Holders,
    region: Prefix,
    which: Which,
    from: KeyPosition,
) -> Option<(Vec<ProvideKey>, Option<KeyPosition>)> {
    match which {
        Which::Due(due, budget) => holders.due(region, from, due, budget).await,
        Which::Fresh => {
            let to = KeyPosition(region.last().0);
            let keys = holders.fresh(ProvideClass::Other, from, to, KEY_PAGE).await?;
            let next = keys.last().filter(|_| keys.len() == KEY_PAGE).and_then(|key| after(key.position));
            Some((keys, next))
        }
    }
}

pub(super) async fn send_page(
    holders: &Holders,
    keys: &[ProvideKey],
    report: &RegionReport,
    since: Instant,
    outcome: &mut SweepOutcome,
) {
    outcome.keys += keys.len() as u64;
    let known: Vec<&ProvideKey> = if report.complete {
        keys.iter().collect()
    } else {
        let map = holders.map();
        let covered = map.covered(since);
        let knows = |key: &&ProvideKey| map.knows_closest(&Position(key.position.0), &covered, since);
        keys.iter().filter(knows).collect()
    };
    let mut page = Page::new(Say::Provide, known.iter().map(|key| *key.cid.digest()).collect());
    for _ in 0..MAX_ROUNDS {
        if page.send(holders, report, since).await == 0 {
            break;
        }
    }
    let unix = holders.unix();
    let taken = known.iter().zip(page.held()).filter(|(_, held)| **held > 0);
    let mark = |position, held: &u8| ProvideMark { position, unix, holders: *held };
    let marks: Vec<(ContentCid, ProvideMark)> =
        taken.map(|(key, held)| (key.cid, mark(key.position, held))).collect();
    let sent = marks.len() as u64;
    let marked = marks.is_empty() || holders.mark(marks).await;
    outcome.sent += if marked { sent } else { 0 };
}
