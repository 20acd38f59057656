//! A network as lookups show it: peers at random places, an oracle that finds the closest of them.

use std::collections::BTreeMap;

use libp2p::{Multiaddr, PeerId, multihash::Multihash};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::super::*;
use crate::core::keyspace::{Position, Prefix, REPLICATION};

/// The peer with this number, always at the same place.
pub(super) fn peer(number: u64) -> PeerId {
    PeerId::from_multihash(Multihash::wrap(0, &number.to_be_bytes()).unwrap()).unwrap()
}

pub(super) fn addr(number: usize) -> Multiaddr {
    format!("/ip4/10.0.0.1/tcp/{number}").parse().unwrap()
}

pub(super) fn found(number: u64) -> FoundPeer {
    FoundPeer { peer: peer(number), addrs: vec![addr(1)] }
}

/// A position in a prefix.
pub(super) fn position_in(prefix: &Prefix, rng: &mut StdRng) -> Position {
    let mut bytes = prefix.first().0;
    let random: [u8; 32] = rng.random();
    let last = prefix.last().0;
    for ((byte, random), last) in bytes.iter_mut().zip(random).zip(last) {
        *byte |= random & (*byte ^ last);
    }
    Position(bytes)
}

/// The peers that there are, and what becomes of lookups.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) peers: BTreeMap<Position, u64>,
    pub(super) rng: StdRng,
    /// Lookups of a hundred that fail.
    pub(super) lost: u32,
    /// Peers of a hundred that one lookup does not find although they are among the closest.
    pub(super) unseen: u32,
    pub(super) lookups: usize,
}

impl Network {
    pub(super) fn new(size: u64, seed: u64) -> Self {
        let peers = (0..size).map(|n| seed.wrapping_mul(1 << 20) + n);
        let peers = peers.map(|number| (Position::of_peer(&peer(number)), number)).collect();
        Self { peers, rng: StdRng::seed_from_u64(seed), lost: 0, unseen: 0, lookups: 0 }
    }

    /// The true closest peers, in no order.
    pub(super) fn closest(&self, target: &Position) -> Vec<Position> {
        let mut peers: Vec<_> = self.peers.keys().copied().collect();
        if peers.len() > REPLICATION {
            peers.select_nth_unstable_by_key(REPLICATION, |peer| target.distance(peer));
            peers.truncate(REPLICATION);
        }
        peers
    }

    pub(super) fn lookup(&mut self, target: &Position) -> Option<Vec<FoundPeer>> {
        self.lookups += 1;
        if self.rng.random_range(0..100) < self.lost {
            return None;
        }
        let mut peers: Vec<_> = self.peers.iter().collect();
        peers.sort_by_key(|(peer, _)| target.distance(peer));
        let unseen = self.unseen;
        let seen = peers.into_iter().filter(|_| self.rng.random_range(0..100) >= unseen);
        Some(seen.take(REPLICATION).map(|(_, number)| found(*number)).collect())
    }
}
