//! How much of each limit is in use. Cheap enough to be asked for every few seconds, unlike the whole status.

use super::event_loop::EventLoop;
use super::limits::NetLimits;

/// What is in use now of each limit that bounds a state; fields are named as in [`NetLimits`].
///
/// Left out are those that are bounded where they are made: the two queues are channels of their length, a lookup
/// reports to a channel with room for its providers, and providers of a key would take a look at every key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetUsage {
    /// Established connections.
    pub connections: usize,
    /// Established connections with the peer that has the most.
    pub connections_per_peer: usize,
    /// Established connections that others have opened.
    pub incoming_connections: usize,
    /// Connections being negotiated that others have opened.
    pub pending_incoming: usize,
    /// Connections being negotiated that this node has opened.
    pub pending_outgoing: usize,
    /// Callers that wait for dials.
    pub dial_waiters: usize,
    /// Requests of strangers that wait for an answer.
    pub open_requests: usize,
    /// Own exchange requests in flight.
    pub requests: usize,
    /// Provider lookups that run.
    pub lookups: usize,
    /// Provider lookups that wait for a free place.
    pub queued_lookups: usize,
    /// Announcements that run.
    pub provides: usize,
    /// Provider records held for others.
    pub foreign_records: usize,
    /// Provider records held for others of the provider that has the most.
    pub records_per_provider: usize,
    /// Keys that this node announces.
    pub own_records: usize,
}

impl NetUsage {
    /// Each with its name and what `limits` allow.
    pub fn against(&self, limits: &NetLimits) -> [(&'static str, usize, usize); 14] {
        let small = |limit: u32| usize::try_from(limit).unwrap_or(usize::MAX);
        [
            ("connections", self.connections, small(limits.max_connections)),
            ("connections with one peer", self.connections_per_peer, small(limits.max_connections_per_peer)),
            ("incoming connections", self.incoming_connections, small(limits.max_incoming_connections)),
            ("pending incoming connections", self.pending_incoming, small(limits.max_pending_incoming)),
            ("pending outgoing connections", self.pending_outgoing, small(limits.max_pending_outgoing)),
            ("callers that wait for dials", self.dial_waiters, limits.max_dial_waiters),
            ("open requests", self.open_requests, limits.max_open_requests),
            ("requests in flight", self.requests, limits.max_requests),
            ("lookups", self.lookups, limits.max_lookups),
            ("queued lookups", self.queued_lookups, limits.max_queued_lookups),
            ("announcements", self.provides, limits.max_provides),
            ("foreign records", self.foreign_records, limits.max_foreign_records),
            ("records of one provider", self.records_per_provider, limits.max_records_per_provider),
            ("own records", self.own_records, limits.max_own_records),
        ]
    }
}

impl EventLoop {
    pub(super) fn usage(&mut self) -> NetUsage {
        let info = self.swarm.network_info();
        let connections = info.connection_counters();
        let wide = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        let records = self.swarm.behaviour_mut().kad.store_mut();
        NetUsage {
            connections: wide(connections.num_established()),
            connections_per_peer: self.peers.most_connections(),
            incoming_connections: wide(connections.num_established_incoming()),
            pending_incoming: wide(connections.num_pending_incoming()),
            pending_outgoing: wide(connections.num_pending_outgoing()),
            dial_waiters: self.dials.waiting(),
            open_requests: self.pending.served.len(),
            requests: self.pending.requests.len(),
            lookups: self.pending.lookups.running_len(),
            queued_lookups: self.pending.lookups.queued_len(),
            provides: self.pending.provides.len(),
            foreign_records: records.foreign_len(),
            records_per_provider: records.most_of_one_provider(),
            own_records: records.own_len(),
        }
    }
}
