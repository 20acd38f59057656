//! The peers that were told about records in this run, for the goodbye at its end. Pure.

use std::collections::{BTreeMap, VecDeque};

use libp2p::{Multiaddr, PeerId};

use crate::net::limits::{MAX_ADDRS_PER_PEER, MAX_TOLD_PEERS};

/// At most [`MAX_TOLD_PEERS`] peers; the one that was not told anything for the longest time leaves first.
#[derive(Debug, Default)]
pub(crate) struct Told {
    peers: BTreeMap<PeerId, Vec<Multiaddr>>,
    /// Each peer once, the one told last at the back.
    order: VecDeque<PeerId>,
}

impl Told {
    /// `peer` was told, at one of these addresses.
    pub(crate) fn on_told(&mut self, peer: PeerId, mut addrs: Vec<Multiaddr>) {
        addrs.truncate(MAX_ADDRS_PER_PEER);
        // The same peers are told again and again, so the place is mostly near the front.
        if self.peers.insert(peer, addrs).is_some() {
            self.order.retain(|known| *known != peer);
        }
        self.order.push_back(peer);
        if self.order.len() > MAX_TOLD_PEERS
            && let Some(oldest) = self.order.pop_front()
        {
            self.peers.remove(&oldest);
        }
    }

    /// All of them, the one told last first.
    pub(crate) fn latest_first(&self) -> Vec<(PeerId, Vec<Multiaddr>)> {
        let addrs = |peer: &PeerId| self.peers.get(peer).cloned().unwrap_or_default();
        self.order.iter().rev().map(|peer| (*peer, addrs(peer))).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use libp2p::PeerId;

    use super::{MAX_ADDRS_PER_PEER, MAX_TOLD_PEERS, Told};

    #[test]
    fn a_peer_is_kept_once_with_its_last_addresses() {
        let (first, second) = (PeerId::random(), PeerId::random());
        let mut told = Told::default();
        told.on_told(first, Vec::new());
        told.on_told(second, Vec::new());
        let many: Vec<_> = (1..20).map(|n| format!("/ip4/10.0.0.1/tcp/{n}").parse().unwrap()).collect();
        told.on_told(first, many.clone());
        let known = told.latest_first();
        assert_eq!(known, [(first, many[..MAX_ADDRS_PER_PEER].to_vec()), (second, Vec::new())]);
    }

    #[test]
    fn the_peer_that_was_told_first_leaves_first() {
        let peers: Vec<PeerId> = (0..MAX_TOLD_PEERS + 5).map(|_| PeerId::random()).collect();
        let mut told = Told::default();
        for peer in &peers {
            told.on_told(*peer, Vec::new());
        }
        let known: Vec<PeerId> = told.latest_first().into_iter().map(|(peer, _)| peer).collect();
        assert_eq!(known, peers[5..].iter().rev().copied().collect::<Vec<_>>());
        assert_eq!(told.peers.len(), MAX_TOLD_PEERS);
    }
}
