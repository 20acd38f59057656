//! Answers about the state of the network.

use std::collections::BTreeSet;

use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use crate::core::profile::NetworkProfile;

use super::addresses::without_peer;
use super::command::RoutingPeers;
use super::counters::name;
use super::event_loop::EventLoop;
use super::report::{Direction, NetStatus, PeerInfo};

impl EventLoop {
    pub(super) fn peer_infos(&mut self) -> Vec<PeerInfo> {
        let routed: BTreeSet<PeerId> = self.routing_peers().into_iter().map(|(peer, _)| peer).collect();
        let now = Instant::now();
        let info = |(peer, known): (&PeerId, &super::peers::Peer)| {
            let oldest = known.connections.first();
            PeerInfo {
                peer: *peer,
                addrs: known.connections.iter().map(|connection| connection.addr.clone()).collect(),
                agent: known.agent.clone(),
                kad: known.kad,
                exchange: known.exchange,
                rtt: known.rtt,
                connected_for: oldest.map(|oldest| now.duration_since(oldest.since)).unwrap_or_default(),
                direction: oldest.map_or(Direction::Inbound, |oldest| oldest.direction),
                in_routing_table: routed.contains(peer),
            }
        };
        self.peers.iter().map(info).collect()
    }

    pub(super) fn routing_peers(&mut self) -> RoutingPeers {
        let mut peers = Vec::with_capacity(self.routing_len);
        for bucket in self.swarm.behaviour_mut().kad.kbuckets() {
            for entry in bucket.iter() {
                let peer = *entry.node.key.preimage();
                let addrs = entry.node.value.iter().filter_map(|addr| without_peer(addr, &peer)).collect();
                peers.push((peer, addrs));
            }
        }
        peers
    }

    /// Addresses told to others, without `/p2p/`, sorted.
    pub(super) fn external_addrs(&self) -> Vec<Multiaddr> {
        let external = self.swarm.external_addresses();
        let mut addrs: Vec<Multiaddr> = external.filter_map(|addr| without_peer(addr, &self.local)).collect();
        addrs.sort_unstable();
        addrs.dedup();
        addrs
    }

    pub(super) fn status(&mut self) -> NetStatus {
        let behaviour = self.swarm.behaviour_mut();
        let candidates_dropped = behaviour.nat_client.take_dropped();
        let dial_backs_refused = behaviour.nat_server.take_refused();
        let punches_refused = behaviour.punch.take_refused();
        let streams_refused = behaviour.streams.take_refused();
        let records = behaviour.kad.store_mut();
        let (own, held) = (records.own_len(), records.foreign_len());
        let changes_dropped = records.take_dropped_changes();
        self.counters.add(name::NAT_CANDIDATES_DROPPED, candidates_dropped);
        self.counters.add(name::PUNCHES_REFUSED, punches_refused);
        self.counters.add(name::STREAMS_REFUSED, streams_refused);
        self.counters.add(name::DIAL_BACKS_REFUSED, dial_backs_refused);
        self.counters.add(name::CHANGES_DROPPED, changes_dropped);
        self.counters.add(name::EVENTS_DELAYED, self.outbox.take_delayed());
        let listen = self.listen_addrs();
        NetStatus {
            peer_id: self.local,
            profile: NetworkProfile::from_listen_addrs(&listen),
            listen,
            external: self.external_addrs(),
            connected: self.peers.len(),
            connections: self.peers.connections(),
            routing_peers: self.routing_len,
            provider_records_held: held,
            provider_records_own: own,
            lookups: self.pending.lookups.running_len(),
            lookups_queued: self.pending.lookups.queued_len(),
            requests_in_flight: self.pending.requests.len(),
            requests_open: self.pending.served.len(),
            reachability: self.reachability(),
            reach: self.reached().1,
            mapping: self.reached().0,
            relays: self.relay_use(),
            serves_dht: self.may_serve && self.mode.serves(),
            counters: self
                .counters
                .snapshot()
                .into_iter()
                .chain(self.have.snapshot())
                .chain(self.lanes.snapshot())
                .collect(),
        }
    }
}
