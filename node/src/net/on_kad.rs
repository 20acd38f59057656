//! The DHT: lookups, announcements, records of others, the routing table.

use std::collections::BTreeSet;

use dhtfs_store::ContentCid;
use libp2p::core::Endpoint;
use libp2p::kad::{
    self, Addresses, BootstrapResult, Event, GetProvidersOk, GetProvidersResult, InboundRequest,
    ProgressStep, QueryId, QueryResult, QueryStats,
};
use libp2p::swarm::{ConnectionId, NetworkBehaviour as _};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::addresses::{Scope, peer_in, plausible};
use super::command::{LookupId, Reply};
use super::counters::name;
use super::error::{BootstrapFailure, ProvideError};
use super::event_loop::EventLoop;
use super::kad::{peers_told, record_key};
use super::limits::MAX_ADDRS_PER_PEER;
use super::pending::{PendingBootstrap, QueuedLookup};
use super::report::{LookupEvent, LookupOutcome, LookupStats};

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
        if let Some(query) = self.pending.lookups.cancel(id) {
            self.finish_query(&query);
        }
        self.start_lookups();
    }

    /// Starts as many of the waiting lookups as there are free places.
    fn start_lookups(&mut self) {
        while self.pending.lookups.running_len() < self.limits.max_lookups {
            let Some(lookup) = self.pending.lookups.next() else { return };
            let query = self.swarm.behaviour_mut().kad.get_providers(record_key(lookup.cid));
            self.counters.count(name::LOOKUPS);
            self.pending.lookups.start(query, lookup, self.limits.max_lookup_providers, Instant::now());
        }
    }

    fn finish_query(&mut self, query: &QueryId) {
        if let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(query) {
            query.finish();
        }
    }

    pub(super) fn provide(&mut self, cid: ContentCid, reply: Reply<Result<usize, ProvideError>>) {
        let result = if self.pending.provides.len() >= self.limits.max_provides {
            Err(ProvideError::TooMany)
        } else {
            let started = self.swarm.behaviour_mut().kad.start_providing(record_key(cid));
            started.map_err(|_| ProvideError::Full)
        };
        match result {
            Ok(query) => {
                self.counters.count(name::PROVIDES);
                self.pending.provides.insert(query, reply);
            }
            Err(error) => {
                self.counters.count(name::PROVIDES_REFUSED);
                // A caller that has gone is normal.
                let _ = reply.send(Err(error));
            }
        }
    }

    pub(super) fn bootstrap(&mut self, reply: Reply<Result<usize, BootstrapFailure>>) {
        if let Some(running) = &mut self.pending.bootstrap {
            running.waiting.push(reply);
            return;
        }
        match self.swarm.behaviour_mut().kad.bootstrap() {
            Ok(query) => self.pending.bootstrap = Some(PendingBootstrap { query, waiting: vec![reply] }),
            // A caller that has gone is normal.
            Err(_) => drop(reply.send(Err(BootstrapFailure::NoPeers))),
        }
    }

    pub(super) fn on_kad(&mut self, event: Event) {
        match event {
            Event::OutboundQueryProgressed { id, result, stats, step } => {
                self.on_query(id, result, &stats, &step);
            }
            Event::InboundRequest { request: InboundRequest::AddProvider { record: Some(record) } } => {
                self.on_add_provider(&record);
            }
            Event::InboundRequest { request: InboundRequest::PutRecord { .. } } => {
                self.counters.count(name::VALUES_REFUSED);
            }
            Event::RoutingUpdated { peer, addresses, .. } => {
                self.tidy_routed(peer, &addresses);
                let addrs: Vec<Multiaddr> = addresses.iter().cloned().collect();
                self.note_routed(peer, &addrs);
                self.routing_changed();
            }
            _ => {}
        }
    }

    /// kad adds every address under which it is dialled. So the oldest make room, and addresses without the peer
    /// ID, which kad cannot remove by themselves, are replaced by their full form.
    fn tidy_routed(&mut self, peer: PeerId, addrs: &Addresses) {
        let kad = &mut self.swarm.behaviour_mut().kad;
        let excess = addrs.len().saturating_sub(MAX_ADDRS_PER_PEER);
        if addrs.iter().all(|addr| peer_in(addr).is_some()) {
            for addr in addrs.iter().take(excess) {
                kad.remove_address(&peer, addr);
            }
        } else {
            kad.remove_peer(&peer);
            for addr in addrs.iter().skip(excess) {
                // A full form that is there already is not added again.
                kad.add_address(&peer, addr.clone());
            }
        }
        self.counters.add(name::ADDRS_DROPPED, excess);
    }

    fn on_query(&mut self, id: QueryId, result: QueryResult, stats: &QueryStats, step: &ProgressStep) {
        match result {
            QueryResult::GetProviders(result) => self.on_providers(id, result, stats),
            QueryResult::StartProviding(result) => {
                let Some(reply) = self.pending.provides.remove(&id) else { return };
                let requests = usize::try_from(stats.num_requests()).unwrap_or(usize::MAX);
                self.counters.add(name::PROVIDE_REQUESTS, requests);
                let told = result.map(|_| peers_told(stats.num_successes()));
                // A caller that has gone is normal.
                let _ = reply.send(told.map_err(|_| ProvideError::Timeout));
            }
            QueryResult::GetClosestPeers(result) => self.on_closest(id, result, stats.num_requests()),
            QueryResult::Bootstrap(result) if step.last => self.on_bootstrapped(id, &result),
            _ => {}
        }
    }

    fn on_bootstrapped(&mut self, id: QueryId, result: &BootstrapResult) {
        let Some(ended) = self.pending.bootstrap.take_if(|running| running.query == id) else { return };
        let result = match result {
            Ok(_) => Ok(self.routing_len),
            Err(kad::BootstrapError::Timeout { .. }) => Err(BootstrapFailure::Timeout),
        };
        for reply in ended.waiting {
            // A caller that has gone is normal.
            let _ = reply.send(result);
        }
    }

    fn on_providers(&mut self, id: QueryId, result: GetProvidersResult, stats: &QueryStats) {
        let outcome = match result {
            Ok(GetProvidersOk::FoundProviders { providers, .. }) => {
                // In a fixed order, so that a run can be repeated.
                self.on_found(id, providers.into_iter().collect(), stats);
                return;
            }
            Ok(GetProvidersOk::FinishedWithNoAdditionalRecord { .. }) => LookupOutcome::Complete,
            Err(kad::GetProvidersError::Timeout { .. }) => LookupOutcome::TimedOut,
        };
        if let Some(mut lookup) = self.pending.lookups.end(&id) {
            lookup.offers.on_ended();
            lookup.hand_out();
            let done = LookupStats {
                outcome,
                requests: stats.num_requests(),
                successes: stats.num_successes(),
                failures: stats.num_failures(),
                first_provider_after: lookup.first_provider_after,
                duration: lookup.started.elapsed(),
            };
            // There is room for all events; a caller that has gone is normal.
            let _ = lookup.events.try_send(LookupEvent::Done(done));
        }
        self.start_lookups();
    }

    /// Reports providers while the query still runs: only then does kad know their addresses.
    fn on_found(&mut self, query: QueryId, providers: BTreeSet<PeerId>, stats: &QueryStats) {
        let now = Instant::now().into_std();
        for peer in providers {
            let Some(lookup) = self.pending.lookups.running_mut(&query) else { return };
            if lookup.events.is_closed() {
                let id = lookup.id;
                self.cancel_lookup(id);
                return;
            }
            if lookup.offers.knows(&peer) {
                continue;
            }
            let addrs = self.addrs_of_provider(peer);
            let is_likely = self.is_likely(&peer, &addrs);
            let Some(lookup) = self.pending.lookups.running_mut(&query) else { return };
            if peer != self.local {
                lookup.first_provider_after.get_or_insert(stats.num_successes());
            }
            lookup.offers.on_found((peer, addrs), is_likely, now);
            lookup.hand_out();
            let is_full = lookup.offers.is_full();
            if !is_likely {
                self.counters.count(name::PROVIDERS_LATE);
            }
            if is_full {
                self.counters.count(name::LOOKUPS_FULL);
                self.finish_query(&query);
                return;
            }
        }
    }

    /// Whether a provider can probably be dialled. Who is connected need not be.
    fn is_likely(&self, peer: &PeerId, addrs: &[Multiaddr]) -> bool {
        let here = *peer == self.local || self.peers.get(peer).is_some();
        here || !addrs.is_empty() && !self.unreachable.is_listed(peer, Instant::now().into_std())
    }

    /// Where a provider can be dialled, as kad and its running queries know; remembered for `connect`.
    fn addrs_of_provider(&mut self, peer: PeerId) -> Vec<Multiaddr> {
        if peer == self.local {
            return self.external_addrs();
        }
        let kad = &mut self.swarm.behaviour_mut().kad;
        // What kad would dial. The ID is of no dial and only passed through.
        let id = ConnectionId::new_unchecked(0);
        let known = kad.handle_pending_outbound_connection(id, Some(peer), &[], Endpoint::Dialer);
        let kept = plausible(&known.unwrap_or_default(), &peer, Scope::Loopback);
        self.counters.add(name::ADDRS_DROPPED, kept.dropped);
        self.book.remember(peer, &kept.addrs);
        kept.addrs
    }

    /// Tells the reader if the number of peers in the routing table has changed.
    pub(super) fn routing_changed(&mut self) {
        let buckets = self.swarm.behaviour_mut().kad.kbuckets();
        self.near.update(buckets.map(|bucket| (bucket.range().0.ilog2().unwrap_or(0), bucket.num_entries())));
        let peers = self.near.routed();
        if self.diversity.len() > peers {
            self.forget_removed();
        }
        if self.routing_len != peers {
            self.routing_len = peers;
            self.outbox.routing(peers);
        }
    }

    /// Keeps the books about the table to those who are in it.
    fn forget_removed(&mut self) {
        let in_table: BTreeSet<PeerId> = self.routing_peers().into_iter().map(|(peer, _)| peer).collect();
        self.diversity.retain(|peer| in_table.contains(peer));
        self.liveness.retain(|peer| in_table.contains(peer));
    }
}
