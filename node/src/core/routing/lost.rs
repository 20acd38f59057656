//! Peers that left the routing table because they did not answer, and when they are dialled again.
//!
//! When a network falls apart for longer than tables take to forget, each part has forgotten the other, and nobody names
//! anybody of it any more. So a few of those that were lost are dialled now and then: one that answers brings the parts
//! together, and the next refresh of the table finds the rest.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId};

/// Peers that are remembered; the one that was lost first makes room.
pub const MAX_LOST: usize = 64;

/// How often some of them are dialled.
pub const LOST_PAUSE: Duration = Duration::from_secs(60);

/// How many are dialled then.
pub const LOST_AT_ONCE: usize = 3;

/// How often one of them is dialled before it is given up.
pub const LOST_TRIES: u8 = 32;

/// A peer and where it could be dialled.
pub type LostPeer = (PeerId, Vec<Multiaddr>);

#[derive(Debug)]
struct Entry {
    peer: PeerId,
    addrs: Vec<Multiaddr>,
    tries: u8,
}

/// The lost ones, next to be dialled first.
///
/// # Invariants
/// - At most [`MAX_LOST`], each once.
#[derive(Debug, Default)]
pub struct Lost {
    entries: VecDeque<Entry>,
    next: Option<Instant>,
}

impl Lost {
    /// A peer left the table because it did not answer.
    pub fn on_lost(&mut self, peer: PeerId, addrs: Vec<Multiaddr>, now: Instant) {
        self.on_connected(&peer);
        if addrs.is_empty() {
            return;
        }
        if self.entries.len() >= MAX_LOST {
            self.entries.pop_front();
        }
        self.entries.push_back(Entry { peer, addrs, tries: 0 });
        self.next.get_or_insert(now + LOST_PAUSE);
    }

    /// A peer is back, or is known to have ended.
    pub fn on_connected(&mut self, peer: &PeerId) {
        self.entries.retain(|entry| entry.peer != *peer);
    }

    /// Time has passed: those that are to be dialled now.
    pub fn on_timeout(&mut self, now: Instant) -> Vec<LostPeer> {
        if self.next_deadline().is_none_or(|at| at > now) {
            return Vec::new();
        }
        let mut dialled = Vec::new();
        for _ in 0..LOST_AT_ONCE.min(self.entries.len()) {
            let Some(mut entry) = self.entries.pop_front() else { break };
            dialled.push((entry.peer, entry.addrs.clone()));
            entry.tries += 1;
            if entry.tries < LOST_TRIES {
                self.entries.push_back(entry);
            }
        }
        self.next = (!self.entries.is_empty()).then_some(now + LOST_PAUSE);
        dialled
    }

    /// When [`Self::on_timeout`] is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.next.filter(|_| !self.entries.is_empty())
    }

    /// Peers that are remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Instant;

    use libp2p::{Multiaddr, PeerId};

    use super::{LOST_AT_ONCE, LOST_PAUSE, LOST_TRIES, Lost, MAX_LOST};

    fn addrs() -> Vec<Multiaddr> {
        "/ip4/1.2.3.4/tcp/5".parse().into_iter().collect()
    }

    #[test]
    fn all_have_their_turn_a_few_at_a_time_and_are_given_up_in_the_end() {
        let (mut lost, mut now) = (Lost::default(), Instant::now());
        for _ in 0..MAX_LOST + 5 {
            lost.on_lost(PeerId::random(), addrs(), now);
        }
        lost.on_lost(PeerId::random(), Vec::new(), now);
        assert_eq!(lost.len(), MAX_LOST);
        let mut tries: BTreeMap<PeerId, u8> = BTreeMap::new();
        while let Some(at) = lost.next_deadline() {
            assert_eq!(at, now + LOST_PAUSE);
            assert!(lost.on_timeout(now).is_empty(), "too early");
            now = at;
            let dialled = lost.on_timeout(now);
            assert!((1..=LOST_AT_ONCE).contains(&dialled.len()));
            for (peer, _) in dialled {
                *tries.entry(peer).or_default() += 1;
            }
        }
        assert_eq!((tries.len(), lost.is_empty()), (MAX_LOST, true));
        assert!(tries.values().all(|tries| *tries == LOST_TRIES));
    }

    #[test]
    fn who_is_back_is_not_dialled_and_who_is_lost_again_is_there_once() {
        let (mut lost, now) = (Lost::default(), Instant::now());
        let (back, gone) = (PeerId::random(), PeerId::random());
        for peer in [back, gone, gone] {
            lost.on_lost(peer, addrs(), now);
        }
        lost.on_connected(&back);
        let dialled = lost.on_timeout(now + LOST_PAUSE);
        assert_eq!(dialled, [(gone, addrs())]);
    }
}
