//! One sweep: the keys of a region that have their turn go to the peers closest to them.

use std::{collections::BTreeMap, ops::Range, time::Instant};

use dhtfs_store::{KeyPosition, ProvideClass, ProvideKey, ProvideMark};
use futures::StreamExt as _;
use libp2p::{Multiaddr, PeerId};
use tracing::debug;

use super::{KEY_PAGE, after, holders::Holders, one};
use crate::{
    core::{
        keyspace::{Position, Prefix},
        provide::{Due, RegionReport, SweepOutcome, assign},
    },
    net::{Digest, Receipt},
};

/// Peers that are told at the same time.
const MAX_PEERS_AT_ONCE: usize = 20;

/// A page is sent once more, to others in place of peers that did not take theirs, so often at most.
const MAX_ROUNDS: usize = 3;

/// A region with so many keys or fewer is not walked: each is looked up by itself.
const PLAIN_KEYS: usize = 2;

/// Which keys of the region.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which {
    /// Those whose last announcement is long ago.
    Due(Due),
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
        Which::Due(due) => holders.due(region, from, due).await,
        Which::Fresh => {
            let to = KeyPosition(region.last().0);
            let keys = holders.fresh(ProvideClass::Other, from, to, KEY_PAGE).await?;
            let next = keys.last().filter(|_| keys.len() == KEY_PAGE).and_then(|key| after(key.position));
            Some((keys, next))
        }
    }
}

/// A page of keys on its way to the holders.
struct Page {
    positions: Vec<Position>,
    digests: Vec<Digest>,
    /// Holders of each key.
    held: Vec<u8>,
    /// Which keys each peer has taken or refused, in order: it is told each of them once.
    told: BTreeMap<PeerId, Vec<usize>>,
}

async fn send_page(
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
    let mut page = Page {
        positions: known.iter().map(|key| Position(key.position.0)).collect(),
        digests: known.iter().map(|key| *key.cid.digest()).collect(),
        held: vec![0; known.len()],
        told: BTreeMap::new(),
    };
    for _ in 0..MAX_ROUNDS {
        if page.send(holders, report, since).await == 0 {
            break;
        }
    }
    let unix = holders.unix();
    let taken = known.iter().zip(&page.held).filter(|(_, held)| **held > 0);
    let marks: Vec<ProvideMark> =
        taken.map(|(key, held)| ProvideMark { position: key.position, unix, holders: *held }).collect();
    let sent = marks.len() as u64;
    let marked = marks.is_empty() || holders.mark(marks).await;
    outcome.sent += if marked { sent } else { 0 };
}

impl Page {
    /// Sends every key to those of its closest peers that were not told of it yet. Returns how many peers could not
    /// be told; they are left out of the map, so that the next round finds others in their place. In a small network
    /// these others have been told of other keys of the page before.
    async fn send(&mut self, holders: &Holders, report: &RegionReport, since: Instant) -> usize {
        let peers: Vec<(Position, PeerId, Vec<Multiaddr>)> = {
            let map = holders.map();
            let known = map.peers_in(&report.known, since);
            known.map(|(position, peer)| (*position, peer.peer, peer.addrs.clone())).collect()
        };
        let size = holders.size().unwrap_or(peers.len() as u64);
        let positions: Vec<Position> = peers.iter().map(|(position, ..)| *position).collect();
        let assignment = assign(&self.positions, &positions, size);
        let own = holders.own_addrs().await;
        let own = &own;
        let batches: Vec<_> = peers
            .into_iter()
            .zip(assignment.peers)
            .map(|((_, peer, addrs), ranges)| (peer, addrs, self.untold(&peer, ranges)))
            .filter(|(_, _, places)| !places.is_empty())
            .collect();
        let mut sending = futures::stream::iter(batches)
            .map(|(peer, addrs, places)| {
                let digests: Vec<Digest> =
                    places.iter().filter_map(|place| self.digests.get(*place)).copied().collect();
                (peer, addrs, places, digests)
            })
            .map(|(peer, addrs, places, digests)| async move {
                let told = holders.env.announcer.provide(peer, addrs, own, &digests).await;
                (peer, places, told)
            })
            .buffer_unordered(MAX_PEERS_AT_ONCE);
        let (mut told_now, mut failed) = (Vec::new(), Vec::new());
        while let Some((peer, places, told)) = sending.next().await {
            match told {
                Ok(receipt) => told_now.push((peer, places, receipt)),
                Err(error) => {
                    debug!(%peer, %error, "a holder was not told");
                    failed.push(peer);
                }
            }
        }
        drop(sending);
        for (peer, places, receipt) in told_now {
            note(&mut self.held, &places, &receipt);
            self.remember(peer, places);
        }
        let mut map = holders.map();
        failed.iter().for_each(|peer| map.remove(peer));
        failed.len()
    }

    /// Those of the keys in `ranges` that `peer` was not told of.
    fn untold(&self, peer: &PeerId, ranges: Vec<Range<usize>>) -> Vec<usize> {
        let told = self.told.get(peer).map_or(&[][..], Vec::as_slice);
        ranges.into_iter().flatten().filter(|place| told.binary_search(place).is_err()).collect()
    }

    fn remember(&mut self, peer: PeerId, places: Vec<usize>) {
        let told = self.told.entry(peer).or_default();
        told.extend(places);
        told.sort_unstable();
    }
}

/// Counts a holder for each key it has taken. A peer that does not answer to records counts for all of them if it
/// gave out every one it was asked back, else for none.
pub(super) fn note(held: &mut [u8], places: &[usize], receipt: &Receipt) {
    let all = matches!(receipt, Receipt::Sampled { asked, held } if asked == held);
    for (index, place) in places.iter().enumerate() {
        let taken = match receipt {
            Receipt::Taken(taken) => taken.get(index).copied().unwrap_or(false),
            Receipt::Sampled { .. } => all,
        };
        if let Some(held) = held.get_mut(*place).filter(|_| taken) {
            *held = held.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use libp2p::PeerId;

    use super::{Page, Receipt, note};

    #[test]
    fn a_peer_is_told_of_a_key_once_and_of_others_later() {
        let peer = PeerId::random();
        let mut page =
            Page { positions: Vec::new(), digests: Vec::new(), held: Vec::new(), told: Default::default() };
        let (first, second) = (0..3, 5..7);
        assert_eq!(page.untold(&peer, vec![first.clone(), second.clone()]), [0, 1, 2, 5, 6]);
        page.remember(peer, vec![5, 6]);
        page.remember(peer, vec![1]);
        assert_eq!(page.untold(&peer, vec![first, second]), [0, 2]);
        assert_eq!(page.untold(&PeerId::random(), vec![1..3, 4..5]), [1, 2, 4]);
    }

    #[test]
    fn only_what_was_taken_counts() {
        let mut held = [0; 4];
        note(&mut held, &[0, 2, 3], &Receipt::Taken(vec![true, false, true]));
        assert_eq!(held, [1, 0, 0, 1]);
        note(&mut held, &[1, 3], &Receipt::Sampled { asked: 1, held: 1 });
        assert_eq!(held, [1, 1, 0, 2]);
        note(&mut held, &[0, 1, 2, 3], &Receipt::Sampled { asked: 2, held: 1 });
        assert_eq!(held, [1, 1, 0, 2]);
        note(&mut held, &[0, 1], &Receipt::Taken(vec![true]));
        assert_eq!(held, [2, 1, 0, 2], "an answer that is too short");
    }
}
