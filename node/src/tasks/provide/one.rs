//! One key, announced by itself: its closest peers are looked up, and each is told.

use dhtfs_store::{ProvideKey, ProvideMark};
use futures::{StreamExt as _, stream::FuturesUnordered};
use tracing::debug;

use super::{holders::Holders, sweep::note};
use crate::{
    core::{keyspace::Position, keyspace::Prefix, provide::FoundPeer},
    tasks::now,
};

/// Announces a key and marks it; whether any peer keeps the record.
pub(super) async fn provide(holders: &Holders, key: &ProvideKey) -> bool {
    let digest = *key.cid.digest();
    let Some(closest) = holders.closest(digest).await else { return false };
    let own = holders.own_addrs().await;
    let own = &own;
    let mut sending: FuturesUnordered<_> = closest
        .iter()
        .map(|FoundPeer { peer, addrs }| async move {
            (*peer, holders.env.announcer.provide(*peer, addrs.clone(), own, &[digest]).await)
        })
        .collect();
    let mut held = [0];
    while let Some((peer, told)) = sending.next().await {
        match told {
            Ok(receipt) => note(&mut held, &[0], &receipt),
            Err(error) => debug!(%peer, %error, "a holder was not told"),
        }
    }
    drop(sending);
    let now = now();
    holders.map().on_lookup(Position::of_digest(&digest), closest, &Prefix::WHOLE, now, now);
    let [held] = held;
    let mark = ProvideMark { position: key.position, unix: holders.unix(), holders: held };
    held > 0 && holders.mark(vec![mark]).await
}
