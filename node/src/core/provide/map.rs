//! What is known of the network: peers, and the parts of the keyspace in which no others are.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId};

use crate::core::keyspace::{Position, Prefix, PrefixSet, REPLICATION, SizeEstimate};

/// Peers that are remembered; 2 MiB. The one that was not seen for the longest time leaves first.
pub const MAX_MAP_PEERS: usize = 4096;

/// Addresses that are remembered of one peer.
pub const MAX_MAP_ADDRS: usize = 8;

/// How long a part of the keyspace counts as known: long enough that sweeps which follow one another walk it once,
/// short enough that a peer that joined meanwhile is missed for minutes only.
pub const MAP_VALIDITY: Duration = Duration::from_secs(600);

/// Parts of the keyspace that are remembered as known, more than the peers need.
const MAX_COVERED: usize = 1024;

/// A peer that a lookup found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundPeer {
    /// Its ID.
    pub peer: PeerId,
    /// Where it can be dialled.
    pub addrs: Vec<Multiaddr>,
}

/// A peer that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapPeer {
    /// Its ID.
    pub peer: PeerId,
    /// Where it can be dialled, at most [`MAX_MAP_ADDRS`].
    pub addrs: Vec<Multiaddr>,
    /// When a lookup last found it.
    pub last_seen: Instant,
}

/// Known peers and known parts of the keyspace. Everything has a time: whoever asks says since when it must hold.
///
/// # Invariants
/// - At most [`MAX_MAP_PEERS`] peers.
/// - A part counts as known only while every peer that was found in it is remembered, or was removed as dead.
#[derive(Debug, Default)]
pub struct NetworkMap {
    peers: BTreeMap<Position, MapPeer>,
    by_age: BTreeSet<(Instant, Position)>,
    covered: BTreeMap<Prefix, Instant>,
    estimate: SizeEstimate,
}

impl NetworkMap {
    /// An empty map of a network that had `size` peers when it was last looked at.
    pub fn new(size: Option<u64>) -> Self {
        Self { estimate: SizeEstimate::from_known(size), ..Self::default() }
    }

    /// A lookup of `target` found these peers as the closest, in any order. Answers how many of them lie in
    /// `within` and were not known to be there since `since`.
    pub fn on_lookup(
        &mut self,
        target: Position,
        found: Vec<FoundPeer>,
        within: &Prefix,
        since: Instant,
        now: Instant,
    ) -> usize {
        let mut closest: Vec<_> =
            found.into_iter().map(|peer| (Position::of_peer(&peer.peer), peer)).collect();
        closest.sort_by_key(|(position, _)| target.distance(position));
        closest.dedup_by_key(|(position, _)| *position);
        closest.truncate(REPLICATION);
        let positions: Vec<_> = closest.iter().map(|(position, _)| *position).collect();
        self.estimate.add(&target, &positions);
        let known =
            |position: &Position| self.peers.get(position).is_some_and(|peer| peer.last_seen >= since);
        let new = positions.iter().filter(|position| within.contains(position) && !known(position)).count();
        for (position, peer) in closest {
            self.see(position, peer, now);
        }
        if let Some(prefix) = self.covered_by(&target, &positions, now) {
            self.cover(prefix, now);
        }
        self.bound();
        new
    }

    /// Which part of the keyspace a lookup shows completely: every peer that shares more bits with the target than
    /// the farthest of the 20 closest. A lookup that finds fewer than 20 has seen everybody, but is believed only
    /// if nothing speaks against it: one that was cut short looks the same.
    fn covered_by(&self, target: &Position, closest: &[Position], now: Instant) -> Option<Prefix> {
        let farthest = closest.last()?;
        if closest.len() >= REPLICATION {
            return Some(Prefix::of(*target, target.common_len(farthest) + 1));
        }
        let since = now.checked_sub(MAP_VALIDITY).unwrap_or(now);
        let seen = self.peers_in(&Prefix::WHOLE, since).take(REPLICATION).count();
        let small = self.size().is_none_or(|size| size < 2 * REPLICATION as u64);
        (seen < REPLICATION && small).then_some(Prefix::WHOLE)
    }

    /// This peer does not answer: it is no longer counted on. What is known of its surroundings stays true.
    pub fn remove(&mut self, peer: &PeerId) {
        let position = Position::of_peer(peer);
        if let Some(known) = self.peers.remove(&position) {
            self.by_age.remove(&(known.last_seen, position));
        }
    }

    /// A peer that was counted on no longer took what it was told after all.
    pub fn on_answer(&mut self, peer: FoundPeer, now: Instant) {
        self.see(Position::of_peer(&peer.peer), peer, now);
        self.bound();
    }

    /// The parts of the keyspace in which every peer is known since `since`.
    pub fn covered(&self, since: Instant) -> PrefixSet {
        self.covered.iter().filter(|(_, at)| **at >= since).map(|(prefix, _)| *prefix).collect()
    }

    /// The peers in `prefix` that were seen since `since`, in order of position.
    pub fn peers_in(&self, prefix: &Prefix, since: Instant) -> impl Iterator<Item = (&Position, &MapPeer)> {
        self.peers.range(prefix.range()).filter(move |(_, peer)| peer.last_seen >= since)
    }

    /// Whether the peers closest to `position` are surely known: `covered` holds the narrowest prefix around it
    /// in which enough of them are.
    pub fn knows_closest(&self, position: &Position, covered: &PrefixSet, since: Instant) -> bool {
        let enough = |prefix: &Prefix| self.peers_in(prefix, since).take(REPLICATION).count() >= REPLICATION;
        let (mut wide, mut narrow) = (0, crate::core::keyspace::POSITION_BITS);
        while wide < narrow {
            let len = (wide + narrow).div_ceil(2);
            if enough(&Prefix::of(*position, len)) { wide = len } else { narrow = len - 1 }
        }
        covered.covers(&Prefix::of(*position, wide))
    }

    /// How many peers the network has, this node apart; none before the first lookup.
    pub fn size(&self) -> Option<u64> {
        self.estimate.size()
    }

    /// Peers that are remembered.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether no peer is remembered.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Panics if a bound is exceeded or the books do not balance; for tests.
    pub fn check_invariants(&self) {
        assert!(self.peers.len() <= MAX_MAP_PEERS, "too many peers");
        assert!(self.covered.len() <= MAX_COVERED, "too many prefixes");
        let by_age: BTreeSet<_> =
            self.peers.iter().map(|(position, peer)| (peer.last_seen, *position)).collect();
        assert_eq!(by_age, self.by_age, "order of age");
        assert!(self.peers.values().all(|peer| peer.addrs.len() <= MAX_MAP_ADDRS), "too many addresses");
    }

    fn see(&mut self, position: Position, found: FoundPeer, now: Instant) {
        let mut addrs = found.addrs;
        if let Some(known) = self.peers.remove(&position) {
            self.by_age.remove(&(known.last_seen, position));
            for addr in known.addrs {
                if !addrs.contains(&addr) {
                    addrs.push(addr);
                }
            }
        }
        addrs.truncate(MAX_MAP_ADDRS);
        self.by_age.insert((now, position));
        self.peers.insert(position, MapPeer { peer: found.peer, addrs, last_seen: now });
    }

    fn cover(&mut self, prefix: Prefix, now: Instant) {
        let old = now.checked_sub(MAP_VALIDITY * 2);
        self.covered.retain(|known, at| !prefix.covers(known) && old.is_none_or(|old| *at >= old));
        self.covered.insert(prefix, now);
    }

    fn bound(&mut self) {
        while self.peers.len() > MAX_MAP_PEERS {
            let Some((_, oldest)) = self.by_age.pop_first() else { break };
            self.peers.remove(&oldest);
            // Somebody is there who is no longer known.
            self.covered.retain(|prefix, _| !prefix.contains(&oldest));
        }
        while self.covered.len() > MAX_COVERED {
            let Some((oldest, _)) = self.covered.iter().min_by_key(|(_, at)| **at) else { break };
            let oldest = *oldest;
            self.covered.remove(&oldest);
        }
    }
}
