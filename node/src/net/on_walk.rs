//! Lookups: of the providers of a key, and of the peers closest to one.

use dhtfs_store::ContentCid;
use libp2p::kad::store::RecordStore as _;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::core::keyspace::{Position, size_around};
use crate::core::lookup::{Walk, WalkConfig};

use super::addresses::{Scope, plausible};
use super::command::{LookupId, Reply, RoutingPeers};
use super::counters::name;
use super::error::ClosestError;
use super::event_loop::EventLoop;
use super::kad::record_key;
use super::limits::{ASK_PAUSE, LOOKUP_TIMEOUT, MAX_ASKS, MAX_LOOKUP_SEEDS};
use super::pending::QueuedLookup;
use super::provide::kad_wire::{Named, Wanted};
use super::records::Digest;
use super::report::{LookupEvent, LookupOutcome, LookupStats};
use super::walks::{AskOutcome, Asked, Question, RunningWalk, WalkId, ask};

impl EventLoop {
    pub(super) fn find_providers(
        &mut self,
        id: LookupId,
        cid: ContentCid,
        events: mpsc::Sender<LookupEvent>,
    ) {
        let lookups = &mut self.pending.lookups;
        let full = lookups.running_len() >= self.limits.max_lookups
            && lookups.queued_len() >= self.limits.max_queued_lookups;
        if full {
            self.counters.count(name::LOOKUPS_REFUSED);
            // There is room for one event in a new channel; a caller that has gone is normal.
            let _ = events.try_send(LookupEvent::Done(LookupStats {
                outcome: LookupOutcome::Refused,
                requests: 0,
                successes: 0,
                failures: 0,
                first_provider_after: None,
                duration: std::time::Duration::ZERO,
            }));
            return;
        }
        lookups.queue(QueuedLookup { id, cid, events });
        self.start_lookups();
    }

    pub(super) fn cancel_lookup(&mut self, id: LookupId) {
        if let Some(walk) = self.pending.lookups.cancel(id) {
            self.walks.running.remove(&walk);
        }
        self.start_lookups();
    }

    /// Starts as many of the waiting lookups as there are free places.
    fn start_lookups(&mut self) {
        // A lookup may end as soon as it begins, and then comes here again.
        if std::mem::replace(&mut self.walks.is_starting, true) {
            return;
        }
        while self.pending.lookups.running_len() < self.limits.max_lookups {
            let Some(lookup) = self.pending.lookups.next() else { break };
            self.counters.count(name::LOOKUPS);
            let cid = lookup.cid;
            if matches!(cid, ContentCid::Chunk(_)) {
                self.counters.count(name::LOOKUPS_CHUNKS);
            }
            let walk = self.start_walk(*cid.digest(), Wanted::Providers);
            self.pending.lookups.start(walk, lookup, self.limits.max_lookup_providers, Instant::now());
            let known = self.swarm.behaviour_mut().kad.store_mut().providers(&record_key(cid));
            let known = known.into_iter().map(|record| (record.provider, record.addresses)).collect();
            self.on_found(walk, known, 0);
            self.pump_walk(walk);
        }
        self.walks.is_starting = false;
    }

    /// Looks for the peers closest to a key.
    pub(super) fn closest_peers(
        &mut self,
        digest: &Digest,
        reply: Reply<Result<RoutingPeers, ClosestError>>,
    ) {
        if self.pending.closest.len() >= self.limits.max_closest {
            self.counters.count(name::CLOSEST_REFUSED);
            // A caller that has gone is normal.
            let _ = reply.send(Err(ClosestError::TooMany));
            return;
        }
        self.counters.count(name::CLOSEST);
        let walk = self.start_walk(*digest, Wanted::Peers);
        self.pending.closest.insert(walk, reply);
        self.pump_walk(walk);
    }

    fn start_walk(&mut self, digest: Digest, wanted: Wanted) -> WalkId {
        let (target, local) = (Position::of_digest(&digest), Position::of_peer(&self.local));
        let mut routed: Vec<(Position, (PeerId, Vec<Multiaddr>))> =
            self.routing_peers().into_iter().map(|peer| (Position::of_peer(&peer.0), peer)).collect();
        let known: Vec<Position> = routed.iter().map(|(position, _)| *position).collect();
        let size = size_around(&local, &known).filter(|_| wanted == Wanted::Providers);
        routed.sort_by_key(|(position, _)| target.distance(position));
        let seeds = routed.into_iter().take(MAX_LOOKUP_SEEDS).map(|(_, peer)| peer).collect();
        let config = WalkConfig { size, ..WalkConfig::default() };
        let walk = Walk::new(config, target, self.local, seeds);
        let deadline = Instant::now() + LOOKUP_TIMEOUT;
        let life = watch::Sender::new(());
        self.walks.start(RunningWalk { walk, digest, wanted, deadline, wake: None, life })
    }

    /// Asks whom a walk wants to ask, and ends it if there is nobody left.
    fn pump_walk(&mut self, id: WalkId) {
        let now = Instant::now();
        let mut must_wait = false;
        loop {
            let is_full = self.walks.asks.len() >= MAX_ASKS;
            let Some(running) = self.walks.running.get_mut(&id) else { return };
            let Some((peer, addrs)) = running.walk.next_ask(now.into_std()) else { break };
            let place = if self.peers.get(&peer).is_some() { None } else { self.walks.dial_place() };
            let Some(running) = self.walks.running.get_mut(&id) else { return };
            if is_full || place.is_none() && self.peers.get(&peer).is_none() {
                running.walk.on_not_asked(&peer);
                self.counters.count(name::ASKS_DELAYED);
                must_wait = true;
                break;
            }
            let (digest, wanted, life) = (running.digest, running.wanted, running.life.subscribe());
            let (reply, dialled) = oneshot::channel();
            self.connect_for_walk(peer, addrs, reply, place);
            let control = self.swarm.behaviour().streams.control();
            let kad = self.protocols.kad.clone();
            let question = Question { walk: id, peer, digest, wanted, life };
            self.walks.asks.push(Box::pin(ask(question, dialled, control, kad)));
        }
        let Some(running) = self.walks.running.get_mut(&id) else { return };
        let wake = running.walk.next_deadline(now.into_std()).map(Instant::from_std);
        running.wake = if must_wait { Some(now + ASK_PAUSE) } else { wake };
        if running.walk.is_done() && !must_wait {
            self.end_walk(id, LookupOutcome::Complete);
        }
    }

    pub(super) fn on_asked(&mut self, asked: Asked) {
        let Asked { walk: id, peer, outcome } = asked;
        if matches!(outcome, AskOutcome::Said(_)) {
            self.heard(&peer);
        }
        let Some(running) = self.walks.running.get_mut(&id) else { return };
        match outcome {
            AskOutcome::Failed => running.walk.on_failed(&peer),
            AskOutcome::Unreachable => running.walk.on_unreachable(&peer),
            AskOutcome::NotAsked => {
                // Again when others have ended: the next peers would be refused as well.
                running.walk.on_not_asked(&peer);
                running.wake = Some(Instant::now() + ASK_PAUSE);
                self.counters.count(name::ASKS_DELAYED);
                return;
            }
            AskOutcome::Said(said) => {
                let closer = self.dialable(said.closer);
                let reached = self.reached_at(&peer);
                let Some(running) = self.walks.running.get_mut(&id) else { return };
                running.walk.on_answer(&peer, closer);
                running.walk.on_reached(&peer, reached);
                let answered = u32::try_from(running.walk.answered()).unwrap_or(u32::MAX);
                self.on_found(id, said.providers, answered);
            }
        }
        self.pump_walk(id);
    }

    pub(super) fn walks_timed_out(&mut self, now: Instant) {
        for id in self.walks.due(now) {
            let Some(running) = self.walks.running.get_mut(&id) else { continue };
            if running.deadline <= now {
                self.end_walk(id, LookupOutcome::TimedOut);
                continue;
            }
            running.walk.on_timeout(now.into_std());
            self.pump_walk(id);
        }
    }

    fn end_walk(&mut self, id: WalkId, outcome: LookupOutcome) {
        let Some(RunningWalk { walk, wanted, .. }) = self.walks.running.remove(&id) else { return };
        if walk.is_wide() {
            self.counters.count(name::LOOKUPS_WIDE);
        }
        match wanted {
            Wanted::Providers => self.end_lookup(id, &walk, outcome),
            Wanted::Peers => {
                self.counters.add(name::CLOSEST_REQUESTS, walk.asked());
                let Some(reply) = self.pending.closest.remove(&id) else { return };
                // Those that were found in time may be the closest or not.
                let result = match outcome {
                    LookupOutcome::Complete => {
                        Ok(walk.closest().map(|(peer, addrs)| (peer, addrs.to_vec())).collect())
                    }
                    LookupOutcome::TimedOut | LookupOutcome::Refused => Err(ClosestError::Timeout),
                };
                // A caller that has gone is normal.
                let _ = reply.send(result);
            }
        }
    }

    fn end_lookup(&mut self, id: WalkId, walk: &Walk, outcome: LookupOutcome) {
        if let Some(mut lookup) = self.pending.lookups.end(id) {
            lookup.offers.on_ended();
            lookup.hand_out();
            let count = |peers: usize| u32::try_from(peers).unwrap_or(u32::MAX);
            let done = LookupStats {
                outcome,
                requests: count(walk.asked()),
                successes: count(walk.answered()),
                failures: count(walk.failed()),
                first_provider_after: lookup.first_provider_after,
                duration: lookup.started.elapsed(),
            };
            // There is room for all events; a caller that has gone is normal.
            let _ = lookup.events.try_send(LookupEvent::Done(done));
        }
        self.start_lookups();
    }

    /// Reports the providers of one answer.
    fn on_found(&mut self, walk: WalkId, providers: Named, answered: u32) {
        let now = Instant::now().into_std();
        if let Some(lookup) = self.pending.lookups.running_mut(walk)
            && lookup.events.is_closed()
        {
            let id = lookup.id;
            self.cancel_lookup(id);
            return;
        }
        for (peer, addrs) in providers {
            let Some(lookup) = self.pending.lookups.running_mut(walk) else { return };
            let is_new = !lookup.offers.knows(&peer);
            let addrs = self.addrs_of_provider(peer, &addrs);
            let is_likely = self.is_likely(&peer, &addrs);
            let Some(lookup) = self.pending.lookups.running_mut(walk) else { return };
            if peer != self.local {
                lookup.first_provider_after.get_or_insert(answered);
            }
            lookup.offers.on_found((peer, addrs), is_likely, answered, now);
            let was_full = lookup.offers.is_full();
            lookup.hand_out();
            let is_full = lookup.offers.is_full();
            if is_new && !is_likely {
                self.counters.count(name::PROVIDERS_LATE);
            }
            if is_full && !was_full {
                self.counters.count(name::LOOKUPS_FULL);
            }
        }
    }

    /// Whether a provider can probably be dialled. Who is connected need not be.
    fn is_likely(&self, peer: &PeerId, addrs: &[Multiaddr]) -> bool {
        let here = *peer == self.local || self.peers.get(peer).is_some();
        here || !addrs.is_empty() && !self.unreachable.is_listed(peer, Instant::now().into_std())
    }

    /// Where a provider can be dialled, as it was named and as is known; remembered for `connect`.
    fn addrs_of_provider(&mut self, peer: PeerId, named: &[Multiaddr]) -> Vec<Multiaddr> {
        if peer == self.local {
            return self.external_addrs();
        }
        let routed = self.routed_addrs(&peer).unwrap_or_default();
        let known = self.book.addrs_of(&peer);
        let kept = plausible(routed.iter().chain(&known).chain(named), &peer, Scope::Loopback);
        self.counters.add(name::ADDRS_DROPPED, kept.dropped);
        self.book.remember(peer, &kept.addrs);
        kept.addrs
    }

    /// Where a peer that answers is: at the addresses where it was dialled, or else where the routing table has it.
    fn reached_at(&mut self, peer: &PeerId) -> Vec<Multiaddr> {
        let dialled = self.peers.get(peer).into_iter().flat_map(super::peers::Peer::dialled);
        let dialled: Vec<Multiaddr> = plausible(dialled, peer, Scope::Loopback).addrs;
        if dialled.is_empty() { self.routed_addrs(peer).unwrap_or_default() } else { dialled }
    }

    /// Peers that were named, with addresses that can be dialled.
    fn dialable(&mut self, named: Named) -> Named {
        let mut kept = Vec::with_capacity(named.len());
        for (peer, addrs) in named {
            let addrs = plausible(&addrs, &peer, Scope::Loopback);
            self.counters.add(name::ADDRS_DROPPED, addrs.dropped);
            kept.push((peer, addrs.addrs));
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use dhtfs_store::ChunkCid;
    use futures::StreamExt as _;
    use tokio::time::Duration;

    use super::*;
    use crate::net::tests::{idle_loop, idle_loop_with};

    /// A loop whose table has peers that it is not connected to. It is never run, so that no dial ends.
    fn with_peers(mut event_loop: EventLoop) -> EventLoop {
        for n in 1..=20 {
            let addr = format!("/memory/{n}").parse().unwrap();
            event_loop.swarm.behaviour_mut().kad.add_address(&PeerId::random(), addr);
        }
        event_loop
    }

    fn closest(event_loop: &mut EventLoop, n: u8) -> oneshot::Receiver<Result<RoutingPeers, ClosestError>> {
        let (reply, answer) = oneshot::channel();
        event_loop.closest_peers(&[n; 32], reply);
        answer
    }

    #[tokio::test]
    async fn walks_leave_dials_for_others() {
        let mut event_loop = with_peers(idle_loop_with(|limits| limits.max_pending_outgoing = 8));
        let _walks: Vec<_> = (0..10).map(|n| closest(&mut event_loop, n)).collect();
        assert_eq!(event_loop.walks.asks.len(), 6);
        assert_eq!(event_loop.pending.closest.len(), 10, "the others wait");
        assert!(event_loop.counters.snapshot()[name::ASKS_DELAYED] >= 8);
    }

    #[tokio::test(start_paused = true)]
    async fn the_questions_of_a_lookup_end_with_it() {
        let mut event_loop = with_peers(idle_loop());
        let (events, _gone) = mpsc::channel(1000);
        let cid = ContentCid::from(ChunkCid::of(b"1"));
        event_loop.find_providers(7, cid, events);
        assert_eq!(event_loop.walks.asks.len(), 3);
        let begun = Instant::now();
        event_loop.cancel_lookup(7);
        while let Some(asked) = event_loop.walks.asks.next().await {
            event_loop.on_asked(asked);
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
