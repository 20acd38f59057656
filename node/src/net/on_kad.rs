//! What kad itself does: announcements of single keys, refreshes, records of others, the routing table.

use std::collections::BTreeSet;

use dhtfs_store::ContentCid;
use libp2p::kad::{
    self, Addresses, BootstrapResult, Event, InboundRequest, ProgressStep, QueryId, QueryResult, QueryStats,
};
use libp2p::{Multiaddr, PeerId};

use super::addresses::peer_in;
use super::command::Reply;
use super::counters::name;
use super::error::{BootstrapFailure, ProvideError};
use super::event_loop::EventLoop;
use super::kad::{peers_told, record_key};
use super::limits::MAX_ADDRS_PER_PEER;
use super::pending::PendingBootstrap;

impl EventLoop {
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
            QueryResult::StartProviding(result) => {
                let Some(reply) = self.pending.provides.remove(&id) else { return };
                let requests = usize::try_from(stats.num_requests()).unwrap_or(usize::MAX);
                self.counters.add(name::PROVIDE_REQUESTS, requests);
                let told = result.map(|_| peers_told(stats.num_successes()));
                // A caller that has gone is normal.
                let _ = reply.send(told.map_err(|_| ProvideError::Timeout));
            }
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
