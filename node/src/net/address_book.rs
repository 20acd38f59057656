//! Addresses of peers that lookups found, for the time after the lookup: kad forgets them with its query.
//!
//! Bounded to [`MAX_BOOK_PEERS`] peers with [`MAX_ADDRS_PER_PEER`] addresses each; the peer that was not used
//! for the longest time leaves first.

use std::collections::BTreeMap;

use libp2p::{Multiaddr, PeerId};

use super::limits::{MAX_ADDRS_PER_PEER, MAX_BOOK_PEERS};

/// The book.
#[derive(Debug, Default)]
pub(crate) struct AddressBook {
    peers: BTreeMap<PeerId, Entry>,
    /// Peers by the tick of their last use. Holds exactly one tick per peer.
    by_use: BTreeMap<u64, PeerId>,
    tick: u64,
}

#[derive(Debug)]
struct Entry {
    addrs: Vec<Multiaddr>,
    used: u64,
}

impl AddressBook {
    /// Remembers addresses of `peer`; the newest come first, the oldest ones over the limit are forgotten.
    pub(crate) fn remember(&mut self, peer: PeerId, addrs: &[Multiaddr]) {
        if addrs.is_empty() {
            return;
        }
        let mut merged: Vec<Multiaddr> = Vec::with_capacity(MAX_ADDRS_PER_PEER);
        let known = self.peers.get(&peer).map(|entry| entry.addrs.as_slice()).unwrap_or_default();
        for addr in addrs.iter().chain(known) {
            if merged.len() < MAX_ADDRS_PER_PEER && !merged.contains(addr) {
                merged.push(addr.clone());
            }
        }
        self.tick += 1;
        if let Some(old) = self.peers.insert(peer, Entry { addrs: merged, used: self.tick }) {
            self.by_use.remove(&old.used);
        }
        self.by_use.insert(self.tick, peer);
        while self.peers.len() > MAX_BOOK_PEERS {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.peers.remove(&oldest);
        }
    }

    /// Forgets a peer.
    pub(crate) fn forget(&mut self, peer: &PeerId) {
        if let Some(entry) = self.peers.remove(peer) {
            self.by_use.remove(&entry.used);
        }
    }

    /// Whether anything is known of `peer`. Counts as no use.
    pub(crate) fn knows(&self, peer: &PeerId) -> bool {
        self.peers.contains_key(peer)
    }

    /// What is known of `peer`, newest first. Counts as a use.
    pub(crate) fn addrs_of(&mut self, peer: &PeerId) -> Vec<Multiaddr> {
        let Some(entry) = self.peers.get_mut(peer) else { return Vec::new() };
        self.tick += 1;
        self.by_use.remove(&entry.used);
        entry.used = self.tick;
        self.by_use.insert(self.tick, *peer);
        entry.addrs.clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use libp2p::{Multiaddr, PeerId};

    use super::{AddressBook, MAX_ADDRS_PER_PEER, MAX_BOOK_PEERS};

    fn addr(n: usize) -> Multiaddr {
        format!("/ip4/10.0.0.1/tcp/{n}").parse().unwrap()
    }

    #[test]
    fn the_newest_addresses_come_first_and_the_oldest_leave() {
        let mut book = AddressBook::default();
        let peer = PeerId::random();
        for n in 1..=MAX_ADDRS_PER_PEER + 3 {
            book.remember(peer, &[addr(n)]);
        }
        let known = book.addrs_of(&peer);
        assert_eq!(known.len(), MAX_ADDRS_PER_PEER);
        assert_eq!(known[0], addr(MAX_ADDRS_PER_PEER + 3));
        assert!(!known.contains(&addr(3)));
        book.remember(peer, &[addr(8)]);
        assert_eq!(book.addrs_of(&peer)[0], addr(8));
        assert_eq!(book.addrs_of(&peer).len(), MAX_ADDRS_PER_PEER);
    }

    #[test]
    fn the_peer_unused_for_longest_leaves_a_full_book() {
        let mut book = AddressBook::default();
        let first = PeerId::random();
        let second = PeerId::random();
        book.remember(first, &[addr(1)]);
        book.remember(second, &[addr(2)]);
        for _ in 2..MAX_BOOK_PEERS {
            book.remember(PeerId::random(), &[addr(3)]);
        }
        assert_eq!(book.addrs_of(&first), [addr(1)], "a full book still holds all");
        book.remember(PeerId::random(), &[addr(4)]);
        assert_eq!(book.peers.len(), MAX_BOOK_PEERS);
        assert_eq!(book.by_use.len(), MAX_BOOK_PEERS);
        assert_eq!(book.addrs_of(&first), [addr(1)], "it was used");
        assert!(book.addrs_of(&second).is_empty());
    }

    #[test]
    fn peers_without_addresses_take_no_place() {
        let mut book = AddressBook::default();
        book.remember(PeerId::random(), &[]);
        assert!(book.peers.is_empty());
    }
}
