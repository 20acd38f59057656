//! A page of neighbouring keys on its way to the peers closest to each of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use libp2p::{Multiaddr, PeerId};
use tracing::debug;

use super::holders::Holders;
use crate::{
    core::{
        keyspace::Position,
        provide::{FoundPeer, RegionReport, assign},
    },
    net::{DialFailure, Digest, Receipt, SendFailure},
    tasks::now,
};

/// Peers that are told at the same time.
pub(super) const MAX_PEERS_AT_ONCE: usize = 20;

/// How long holders are given that were busy or broke off before the page is sent to them once more.
pub(super) const RESEND_PAUSE: Duration = Duration::from_secs(1);

/// What holders are told of the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Say {
    /// This node provides them.
    Provide,
    /// It does no longer.
    Withdraw,
}

impl Say {
    /// Tells one holder. A peer that has not the protocol cannot be told of a withdrawal; its records run out.
    pub(super) async fn tell(
        self,
        holders: &Holders,
        peer: PeerId,
        addrs: Vec<Multiaddr>,
        own: &[Multiaddr],
        digests: &[Digest],
    ) -> Result<Receipt, SendFailure> {
        let announcer = &holders.env.announcer;
        match self {
            Say::Provide => announcer.provide(peer, addrs, own, digests).await,
            Say::Withdraw => {
                // Withdrawing is tried again, so that nobody waits for the same silent holder with every batch.
                if holders.silent().rests(&peer, now()) {
                    return Err(SendFailure::Timeout);
                }
                let told = announcer.withdraw(peer, addrs, digests).await;
                match &told {
                    // A limit of this node says nothing about the holder.
                    Err(SendFailure::Dial(DialFailure::Limit(_))) => {}
                    Err(SendFailure::Dial(_) | SendFailure::Timeout) => {
                        holders.silent().on_silent(peer, now());
                    }
                    _ => holders.silent().on_answer(&peer),
                }
                match told {
                    Ok(removed) => Ok(Receipt::Taken(removed)),
                    Err(SendFailure::Unsupported) => Ok(Receipt::Taken(vec![false; digests.len()])),
                    Err(error) => Err(error),
                }
            }
        }
    }
}

/// Keys on their way to one holder.
struct Batch {
    peer: PeerId,
    addrs: Vec<Multiaddr>,
    places: Vec<usize>,
}

impl Batch {
    fn peer(&self) -> FoundPeer {
        FoundPeer { peer: self.peer, addrs: self.addrs.clone() }
    }
}

/// A page of keys on its way to the holders.
pub(super) struct Page {
    say: Say,
    positions: Vec<Position>,
    digests: Vec<Digest>,
    /// Peers that took, or took out, each key.
    held: Vec<u8>,
    /// Which keys each peer has taken or refused, in order: it is told each of them once.
    told: BTreeMap<PeerId, Vec<usize>>,
    /// What the last round could not say, and whether its holder may take it when it is said again at once.
    unheard: Vec<(Batch, bool)>,
}

impl Page {
    /// Keys in the order of their positions.
    pub(super) fn new(say: Say, digests: Vec<Digest>) -> Self {
        Self {
            say,
            positions: digests.iter().map(Position::of_digest).collect(),
            held: vec![0; digests.len()],
            digests,
            told: BTreeMap::new(),
            unheard: Vec::new(),
        }
    }

    /// How many peers took, or took out, each key.
    pub(super) fn held(&self) -> &[u8] {
        &self.held
    }

    /// Places of the keys of which some peer could not be told in the last round.
    pub(super) fn unheard(&self) -> BTreeSet<usize> {
        self.unheard.iter().flat_map(|(batch, _)| &batch.places).copied().collect()
    }

    /// Sends every key to those of its closest peers that were not told of it yet. Returns how many peers could not
    /// be told; they are left out of the map, so that the next round finds others in their place. In a small network
    /// these others have been told of other keys of the page before.
    pub(super) async fn send(&mut self, holders: &Holders, report: &RegionReport, since: Instant) -> usize {
        let peers: Vec<(Position, PeerId, Vec<Multiaddr>)> = {
            let map = holders.map();
            let known = map.peers_in(&report.known, since);
            known.map(|(position, peer)| (*position, peer.peer, peer.addrs.clone())).collect()
        };
        let size = holders.size().unwrap_or(peers.len() as u64);
        let positions: Vec<Position> = peers.iter().map(|(position, ..)| *position).collect();
        let assignment = assign(&self.positions, &positions, size);
        let batches = peers.into_iter().zip(assignment.peers).map(|((_, peer, addrs), ranges)| {
            let places = self.untold(&peer, ranges);
            Batch { peer, addrs, places }
        });
        let batches: Vec<Batch> = batches.filter(|batch| !batch.places.is_empty()).collect();
        self.send_batches(holders, batches).await
    }

    /// Tells those once more that were busy or broke off. Returns how many peers still could not be told.
    pub(super) async fn resend(&mut self, holders: &Holders) -> usize {
        let (again, hopeless): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.unheard).into_iter().partition(|(_, is_hopeful)| *is_hopeful);
        if !again.is_empty() {
            tokio::time::sleep(RESEND_PAUSE).await;
            let again: Vec<Batch> = again.into_iter().map(|(batch, _)| batch).collect();
            let asked: Vec<FoundPeer> = again.iter().map(Batch::peer).collect();
            self.send_batches(holders, again).await;
            let is_unheard = |peer: &PeerId| self.unheard.iter().any(|(batch, _)| batch.peer == *peer);
            let mut map = holders.map();
            asked
                .into_iter()
                .filter(|asked| !is_unheard(&asked.peer))
                .for_each(|peer| map.on_answer(peer, now()));
        }
        self.unheard.extend(hopeless);
        self.unheard.len()
    }

    /// One round. Returns how many peers could not be told.
    async fn send_batches(&mut self, holders: &Holders, batches: Vec<Batch>) -> usize {
        self.unheard.clear();
        let own = holders.own_addrs().await;
        let (own, say) = (&own, self.say);
        let mut sending = futures::stream::iter(batches)
            .map(|batch| {
                let digests: Vec<Digest> =
                    batch.places.iter().filter_map(|place| self.digests.get(*place)).copied().collect();
                (batch, digests)
            })
            .map(|(batch, digests)| async move {
                let told = say.tell(holders, batch.peer, batch.addrs.clone(), own, &digests).await;
                (batch, told)
            })
            .buffer_unordered(MAX_PEERS_AT_ONCE);
        let (mut told_now, mut unheard) = (Vec::new(), Vec::new());
        while let Some((batch, told)) = sending.next().await {
            match told {
                Ok(receipt) => told_now.push((batch, receipt)),
                Err(error) => {
                    debug!(peer = %batch.peer, %error, "a holder was not told");
                    unheard.push((batch, is_hopeful(&error)));
                }
            }
        }
        drop(sending);
        self.unheard = unheard;
        for (batch, receipt) in told_now {
            note(&mut self.held, &batch.places, &receipt);
            self.remember(batch.peer, batch.places);
        }
        let mut map = holders.map();
        self.unheard.iter().for_each(|(batch, _)| map.remove(&batch.peer));
        self.unheard.len()
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

/// Whether a holder may take at once what it could not be told.
pub(super) fn is_hopeful(error: &SendFailure) -> bool {
    matches!(error, SendFailure::Busy | SendFailure::Stream(_))
}

/// Counts a holder for each key it has taken. A peer that cannot answer to records counts for all that it has read.
pub(super) fn note(held: &mut [u8], places: &[usize], receipt: &Receipt) {
    for (index, place) in places.iter().enumerate() {
        let taken = match receipt {
            Receipt::Taken(taken) => taken.get(index).copied().unwrap_or(false),
            Receipt::Read => true,
        };
        if let Some(held) = held.get_mut(*place).filter(|_| taken) {
            *held = held.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use libp2p::PeerId;

    use super::{Page, Receipt, Say, note};

    #[test]
    fn a_peer_is_told_of_a_key_once_and_of_others_later() {
        let peer = PeerId::random();
        let mut page = Page::new(Say::Provide, Vec::new());
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
        note(&mut held, &[1, 3], &Receipt::Read);
        assert_eq!(held, [1, 1, 0, 2]);
        note(&mut held, &[0, 1], &Receipt::Taken(vec![true]));
        assert_eq!(held, [2, 1, 0, 2], "an answer that is too short");
    }
}
