//! One key, announced by itself: its closest peers are looked up, and each is told.

use dhtfs_store::{ProvideKey, ProvideMark};
use futures::StreamExt as _;
use tracing::debug;

use super::{
    holders::Holders,
    page::{MAX_PEERS_AT_ONCE, RESEND_PAUSE, Say, is_hopeful, note},
};
use crate::{
    core::{keyspace::Position, keyspace::Prefix, provide::FoundPeer},
    net::Digest,
    tasks::now,
};

/// Announces a key and marks it; whether any peer keeps the record.
pub(super) async fn provide(holders: &Holders, key: &ProvideKey) -> bool {
    let Some(Told { held, .. }) = tell(holders, Say::Provide, *key.cid.digest()).await else { return false };
    let mark = ProvideMark { position: key.position, unix: holders.unix(), holders: held };
    held > 0 && holders.mark(vec![(key.cid, mark)]).await
}

/// Takes a key back; whether all of its closest peers heard it.
pub(super) async fn withdraw(holders: &Holders, digest: Digest) -> bool {
    tell(holders, Say::Withdraw, digest).await.is_some_and(|told| told.unheard == 0)
}

/// What became of telling the closest peers.
struct Told {
    /// Peers that took, or took out, the record.
    held: u8,
    /// Peers that could not be told.
    unheard: usize,
}

/// Tells the closest peers of a key; `None` if none were found.
async fn tell(holders: &Holders, say: Say, digest: Digest) -> Option<Told> {
    let closest = holders.closest(digest).await?;
    let told = [closest.clone(), holders.around(&Position::of_digest(&digest), &closest).await].concat();
    let own = holders.own_addrs().await;
    let own = &own;
    let send = async |to: Vec<FoundPeer>| {
        let sent = futures::stream::iter(to).map(|found| async move {
            let FoundPeer { peer, addrs } = found.clone();
            (found, say.tell(holders, peer, addrs, own, &[digest]).await)
        });
        sent.buffer_unordered(MAX_PEERS_AT_ONCE).collect::<Vec<_>>().await
    };
    let mut answers = send(told).await;
    let again: Vec<FoundPeer> = answers
        .extract_if(.., |(_, told)| told.as_ref().is_err_and(is_hopeful))
        .map(|(found, _)| found)
        .collect();
    if !again.is_empty() {
        tokio::time::sleep(RESEND_PAUSE).await;
        answers.extend(send(again).await);
    }
    let (mut held, mut unheard) = ([0], 0);
    for (FoundPeer { peer, .. }, told) in answers {
        match told {
            Ok(receipt) => note(&mut held, &[0], &receipt),
            Err(error) => {
                debug!(%peer, %error, "a holder was not told");
                if !is_hopeful(&error) {
                    holders.map().remove(&peer);
                }
                unheard += usize::from(closest.iter().any(|found| found.peer == peer));
            }
        }
    }
    let now = now();
    holders.map().on_lookup(Position::of_digest(&digest), closest, &Prefix::WHOLE, now, now);
    let [held] = held;
    Some(Told { held, unheard })
}
