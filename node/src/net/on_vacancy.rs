//! A place in the routing table becomes free: peers that found none are still there, and need not wait until they tell
//! about themselves again.

use std::cmp::Reverse;

use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use super::counters::name;
use super::event_loop::EventLoop;
use super::peers::Peer;

impl EventLoop {
    /// The place of `gone` is free. Of the connected peers that found no place in its part of the table, the one that has
    /// been connected longest takes it.
    pub(super) fn fill_place_of(&mut self, gone: &PeerId) {
        let bucket = self.bucket_of(gone);
        let waits = |peer: &PeerId, known: &Peer| {
            known.kad
                && !known.leaving
                && !known.without_place.is_empty()
                && !self.candidates.contains_key(peer)
                && self.bucket_of(peer) == bucket
        };
        let since = |known: &Peer| known.connections.first().map_or_else(Instant::now, |oldest| oldest.since);
        let mut waiting: Vec<(Instant, PeerId, Vec<Multiaddr>)> = self
            .peers
            .iter()
            .filter(|(peer, known)| waits(peer, known))
            .map(|(peer, known)| (since(known), *peer, known.without_place.clone()))
            .collect();
        waiting.sort_by_key(|(since, peer, _)| Reverse((*since, *peer)));
        while let Some((_, peer, addrs)) = waiting.pop() {
            let subnets = self.subnets_of(&peer, &addrs);
            if self.is_routed(&peer) || !self.diversity.has_room(&peer, bucket, &subnets) {
                continue;
            }
            self.put_in_table(peer, &addrs);
            if self.is_routed(&peer) {
                self.counters.count(name::ROUTING_LATER);
                self.routing_changed();
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::iter::repeat_with;

    use libp2p::PeerId;

    use crate::core::keyspace::Position;
    use crate::net::counters::name;
    use crate::net::event_loop::EventLoop;
    use crate::net::kad::REPLICATION;
    use crate::net::probe::{Outcome, ProbeKind, Probed};
    use crate::net::tests::{arrives, idle_loop};

    /// A peer connects and answers a question.
    fn comes(event_loop: &mut EventLoop, peer: PeerId) {
        let addr = "/ip4/127.0.0.1/tcp/1";
        assert!(arrives(event_loop, peer, addr, &[addr.parse().unwrap()]));
        event_loop.on_probed(Probed { peer, kind: ProbeKind::Admission, outcome: Outcome::Answered });
        event_loop.routing_changed();
    }

    #[tokio::test]
    async fn who_found_no_place_takes_the_next_that_is_free() {
        let mut event_loop = idle_loop();
        let local = event_loop.local;
        let mut far = repeat_with(PeerId::random)
            .filter(|peer| Position::of_peer(&local).common_len(&Position::of_peer(peer)) == 0);
        let peers: Vec<PeerId> = far.by_ref().take(REPLICATION + 3).collect();
        for peer in &peers {
            comes(&mut event_loop, *peer);
        }
        let (placed, waiting) = peers.split_at(REPLICATION);
        assert_eq!(event_loop.routing_len, REPLICATION);
        assert_eq!(event_loop.counters.snapshot()[name::ROUTING_FULL], 3);

        event_loop.drop_from_table(placed[3]);
        assert!(event_loop.is_routed(&waiting[0]), "it has waited longest");
        event_loop.peers.on_goodbye(&waiting[1]);
        event_loop.drop_from_table(placed[4]);
        assert!(event_loop.is_routed(&waiting[2]) && !event_loop.is_routed(&waiting[1]));
        event_loop.drop_from_table(placed[5]);
        assert_eq!(event_loop.routing_len, REPLICATION - 1, "nobody is left who waits");
        assert_eq!(event_loop.counters.snapshot()[name::ROUTING_LATER], 2);
        assert_eq!(event_loop.diversity.len(), event_loop.routing_len);
    }
}
