//! Listeners, dials, connections, pings.

use std::io;

use libp2p::core::ConnectedPoint;
use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::swarm::{ConnectionId, DialError, ListenError as IncomingError};
use libp2p::{Multiaddr, PeerId, ping};
use tokio::time::Instant;

use crate::core::profile::{NetworkProfile, announced_addrs, is_relayed, scope};

use super::addresses::{peer_in, without_peer};
use super::command::Reply;
use super::counters::name;
use super::dials::{AfterFailure, Waiter};
use super::error::{DialFailure, ListenError, root_cause};
use super::event_loop::{EventLoop, Failing};
use super::limits::{LISTEN_SETTLE, LISTEN_TIMEOUT, MAX_FAILED_DIALS, MAX_FAILED_PINGS};
use super::peers::Peer;
use super::pending::PendingListen;
use super::walks::DialPlace;

impl EventLoop {
    pub(super) fn listen(&mut self, addr: Multiaddr, reply: Reply<Result<Vec<Multiaddr>, ListenError>>) {
        match self.swarm.listen_on(addr.clone()) {
            Ok(id) => {
                self.listeners.push(id);
                self.pending.listens.push(PendingListen {
                    id,
                    many: is_unspecified(&addr),
                    asked: addr,
                    addrs: Vec::new(),
                    deadline: Instant::now() + LISTEN_TIMEOUT,
                    reply,
                });
            }
            Err(error) => {
                let cause = root_cause(&error);
                // A caller that has gone is normal.
                let _ = reply.send(Err(ListenError::Refused { addr, cause }));
            }
        }
    }

    pub(super) fn dial(&mut self, addr: Multiaddr, reply: Reply<Result<PeerId, DialFailure>>) {
        let named = peer_in(&addr);
        let known = named.and_then(|peer| self.identity_of(&peer));
        let refused = match named {
            Some(peer) if peer == self.local => Some(Err(DialFailure::ThisNode)),
            _ => known.or_else(|| self.too_many_waiters().map(Err)),
        };
        if let Some(result) = refused {
            // A caller that has gone is normal.
            let _ = reply.send(result);
            return;
        }
        let deadline = Instant::now() + self.limits.connect_timeout;
        match named {
            Some(peer) if self.peers.get(&peer).is_some() => {
                self.dials.wait_for_identity(peer, reply, deadline);
            }
            Some(peer) => {
                let addrs = without_peer(&addr, &peer).into_iter().collect();
                if self.dials.wait_for_peer(peer, addrs, Waiter::Identified(reply), deadline) {
                    self.start_dial(peer);
                }
            }
            None => {
                let opts = DialOpts::unknown_peer_id().address(addr).build();
                let id = opts.connection_id();
                match self.swarm.dial(opts) {
                    Ok(()) => self.dials.wait_for_addr(id, reply, deadline),
                    Err(error) => {
                        self.count_failed_dial(&error);
                        let _ = reply.send(Err(DialFailure::from(&error)));
                    }
                }
            }
        }
    }

    pub(super) fn connect(
        &mut self,
        peer: PeerId,
        addrs: Vec<Multiaddr>,
        reply: Reply<Result<(), DialFailure>>,
    ) {
        self.connect_for_walk(peer, addrs, reply, None);
    }

    /// The same; a dial that is begun keeps the place until it has ended.
    pub(super) fn connect_for_walk(
        &mut self,
        peer: PeerId,
        addrs: Vec<Multiaddr>,
        reply: Reply<Result<(), DialFailure>>,
        place: Option<DialPlace>,
    ) {
        let is_punching = self.reach.punching.contains_key(&peer);
        let at_once = if peer == self.local {
            Some(Err(DialFailure::ThisNode))
        } else if self.peers.get(&peer).is_some() && !is_punching {
            Some(Ok(()))
        } else {
            self.too_many_waiters().map(Err)
        };
        if let Some(result) = at_once {
            // A caller that has gone is normal.
            let _ = reply.send(result);
            return;
        }
        let deadline = Instant::now() + self.limits.connect_timeout;
        let addrs = addrs.iter().filter_map(|addr| without_peer(addr, &peer)).collect();
        if self.dials.wait_for_peer(peer, addrs, Waiter::Connected(reply), deadline) {
            if let Some(place) = place {
                self.dials.take_place(&peer, place);
            }
            if !is_punching {
                self.start_dial(peer);
            }
        }
    }

    fn too_many_waiters(&mut self) -> Option<DialFailure> {
        if self.dials.waiting() >= self.limits.max_dial_waiters {
            self.dials.prune();
        }
        if self.dials.waiting() < self.limits.max_dial_waiters {
            return None;
        }
        self.counters.count(name::DIAL_WAITERS_REFUSED);
        Some(DialFailure::Limit("too many dials at once".into()))
    }

    /// Dials a peer that somebody waits for, under all addresses known of it. A dial of kad that is under way
    /// is joined.
    fn start_dial(&mut self, peer: PeerId) {
        let addrs = with_peer(self.dials.named(&peer).into_iter().chain(self.book.addrs_of(&peer)), peer);
        tracing::debug!(%peer, ?addrs, "dialling");
        let opts = DialOpts::peer_id(peer).addresses(addrs).extend_addresses_through_behaviour().build();
        let id = opts.connection_id();
        match self.swarm.dial(opts) {
            Ok(()) => self.dials.on_dialling(&peer, id),
            // It is being dialled, or just connected: an event will tell.
            Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(error) => {
                self.count_failed_dial(&error);
                self.dials.on_not_dialled(&peer, &DialFailure::from(&error));
            }
        }
    }

    pub(super) fn on_established(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let now = Instant::now();
        let is_first = self.peers.on_established(peer, id, endpoint, now);
        self.note_far(peer);
        if is_first {
            self.outbox.connected(peer);
            if is_from_the_internet(endpoint) {
                self.on_dialled();
            }
        }
        if is_with_the_internet(endpoint) {
            self.internet_seen(endpoint.get_remote_address(), is_first && is_from_the_internet(endpoint));
        }
        self.swarm.behaviour_mut().kad.store_mut().back(&peer);
        self.unreachable.on_connected(&peer);
        self.heard(&peer);
        self.failing.remove(&peer);
        self.lost.on_connected(&peer);
        self.established += 1;
        if self.on_way(peer, id, endpoint.is_relayed()) {
            return;
        }
        let identity = self.identity_of(&peer);
        self.dials.on_connected(peer, id, identity.as_ref(), now + self.limits.connect_timeout);
    }

    pub(super) fn on_closed(&mut self, peer: PeerId, id: ConnectionId) {
        if self.peers.on_closed(&peer, id) {
            self.reach.punching.remove(&peer);
            self.reach.dialled_past.remove(&peer);
            self.reach.relays.on_withdrawn(&peer, Instant::now().into_std());
            self.outbox.disconnected(peer);
            self.dials.on_identified(peer, &Err(DialFailure::Closed));
        }
        self.note_far(peer);
    }

    /// Tells those who keep to limits whether they count for a peer, whose connections have changed.
    fn note_far(&self, peer: PeerId) {
        self.rates.set_far(peer, self.peers.get(&peer).is_some_and(Peer::is_far));
    }

    pub(super) fn on_dial_failed(&mut self, id: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        tracing::debug!(?peer, %error, "dial failed");
        self.count_failed_dial(error);
        self.internet_dialled(error);
        if let Some(peer) = peer {
            self.note_unreachable(peer, error);
            self.note_failing(peer, error);
        }
        match self.dials.on_dial_failed(id, peer, &DialFailure::from(error)) {
            AfterFailure::Nothing => {}
            AfterFailure::DialAgain(peer) => self.start_dial(peer),
        }
    }

    fn count_failed_dial(&mut self, error: &DialError) {
        let refused = matches!(error, DialError::Denied { .. });
        self.counters.count(if refused { name::DIALS_REFUSED } else { name::DIALS_FAILED });
    }

    /// Notes a provider that could not be dialled; others are offered before it for some time.
    fn note_unreachable(&mut self, peer: PeerId, error: &DialError) {
        let at_fault = is_at_fault(error) && self.peers.get(&peer).is_none();
        // The book holds the providers that lookups found. Other peers would only take their places.
        if at_fault && self.book.knows(&peer) && self.unreachable.on_failed(peer, Instant::now().into_std()) {
            self.counters.count(name::PROVIDERS_UNREACHABLE);
        }
    }

    /// Removes a peer from the routing table after too many failed dials in a row. Without a success elsewhere
    /// in between, failures say more about this node than about the peer.
    fn note_failing(&mut self, peer: PeerId, error: &DialError) {
        if !is_at_fault(error) || !self.is_routed(&peer) {
            return;
        }
        let established = self.established;
        let failing = self.failing.entry(peer).or_insert(Failing { dials: 0, established: None });
        if failing.established == Some(established) {
            return;
        }
        failing.established = Some(established);
        failing.dials = failing.dials.saturating_add(1);
        if failing.dials < MAX_FAILED_DIALS {
            self.forget_unrouted();
            return;
        }
        self.failing.remove(&peer);
        self.drop_from_table(peer);
    }

    /// Keeps the failures of as many peers as the routing table has.
    fn forget_unrouted(&mut self) {
        if self.failing.len() > self.routing_len {
            let mut failing = std::mem::take(&mut self.failing);
            failing.retain(|peer, _| self.is_routed(peer));
            self.failing = failing;
        }
    }

    pub(super) fn on_incoming_failed(&mut self, error: &IncomingError) {
        tracing::debug!(%error, "incoming connection failed");
        if matches!(error, IncomingError::Denied { .. }) {
            self.counters.count(name::CONNECTIONS_REFUSED);
        }
    }

    pub(super) fn on_ping(&mut self, event: &ping::Event) {
        let rtt = match &event.result {
            Ok(rtt) => Some(*rtt),
            Err(ping::Failure::Unsupported) => return,
            Err(_) => None,
        };
        if rtt.is_some() {
            self.heard(&event.peer);
        }
        let failures = self.peers.on_ping(&event.peer, event.connection, rtt);
        if failures >= MAX_FAILED_PINGS && self.swarm.close_connection(event.connection) {
            self.counters.count(name::PINGS_LOST);
        }
    }

    pub(super) fn on_new_listen_addr(&mut self, id: ListenerId, addr: Multiaddr) {
        if self.on_relay_listens(id) {
            return;
        }
        if let Some(mut listen) = self.pending.take_listen(id) {
            listen.addrs.push(without_peer(&addr, &self.local).unwrap_or(addr));
            if listen.many {
                listen.deadline = Instant::now() + LISTEN_SETTLE;
                self.pending.listens.push(listen);
            } else {
                listen.finish();
            }
        }
        self.listen_addrs_changed();
    }

    pub(super) fn on_listener_closed(&mut self, id: ListenerId, reason: Result<(), io::Error>) {
        if self.on_relay_closed(id) {
            return;
        }
        self.listeners.retain(|listener| *listener != id);
        if let Some(listen) = self.pending.take_listen(id) {
            listen
                .fail(reason.map_or_else(|error| root_cause(&error), |()| "the listener was closed".into()));
        }
        self.listen_addrs_changed();
    }

    /// Declares the listen addresses of the widest scope external: without an external address, provider
    /// records of this node carry none and nobody finds it.
    pub(super) fn listen_addrs_changed(&mut self) {
        let listen = self.listen_addrs();
        let announced = announced_addrs(&listen);
        let before = std::mem::take(&mut self.announced);
        for old in &before {
            if !announced.contains(old) {
                self.swarm.remove_external_address(old);
            }
        }
        for addr in &announced {
            self.swarm.add_external_address(addr.clone());
        }
        self.swarm.behaviour_mut().nat_client.test_announced(&announced);
        self.announced = announced;
        self.outbox.listen(listen);
        self.update_mode();
        self.reach_listens(&before);
    }

    /// Addresses listened on, without `/p2p/` and without those at relays, sorted.
    pub(super) fn listen_addrs(&self) -> Vec<Multiaddr> {
        let mut addrs: Vec<Multiaddr> = self
            .swarm
            .listeners()
            .filter(|addr| !is_relayed(addr))
            .filter_map(|addr| without_peer(addr, &self.local))
            .collect();
        addrs.sort_unstable();
        addrs.dedup();
        addrs
    }
}

/// Whether a dial failed because of the peer, and not because of what this node wanted.
fn is_at_fault(error: &DialError) -> bool {
    matches!(error, DialError::Transport(_) | DialError::WrongPeerId { .. } | DialError::NoAddresses)
}

/// Addresses in the form in which the routing table has them: the same one in two forms would be dialled twice.
fn with_peer(addrs: impl IntoIterator<Item = Multiaddr>, peer: PeerId) -> Vec<Multiaddr> {
    addrs.into_iter().filter_map(|addr| addr.with_p2p(peer).ok()).collect()
}

/// Whether a listener on `addr` stands for all interfaces.
fn is_unspecified(addr: &Multiaddr) -> bool {
    match addr.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_unspecified(),
        Some(Protocol::Ip6(ip)) => ip.is_unspecified(),
        _ => false,
    }
}

/// Whether somebody from the internet has dialled this node, not through a relay.
fn is_from_the_internet(endpoint: &ConnectedPoint) -> bool {
    match endpoint {
        ConnectedPoint::Listener { local_addr, send_back_addr } => {
            !is_relayed(local_addr) && scope(send_back_addr) == Some(NetworkProfile::Public)
        }
        ConnectedPoint::Dialer { .. } => false,
    }
}

/// Whether a connection leads over the internet, and not through a relay.
fn is_with_the_internet(endpoint: &ConnectedPoint) -> bool {
    !endpoint.is_relayed() && scope(endpoint.get_remote_address()) == Some(NetworkProfile::Public)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use futures::StreamExt as _;
    use libp2p::swarm::{DialError, SwarmEvent};
    use libp2p::{Multiaddr, PeerId};
    use tokio::sync::oneshot;

    use crate::net::tests::idle_loop;

    fn routed(event_loop: &mut super::EventLoop) -> PeerId {
        let peer = PeerId::random();
        let addr: Multiaddr = "/ip4/10.0.0.1/tcp/1".parse().unwrap();
        event_loop.swarm.behaviour_mut().kad.add_address(&peer, addr);
        event_loop.routing_changed();
        peer
    }

    #[tokio::test]
    async fn an_address_that_is_known_from_two_sides_is_dialled_once() {
        let mut event_loop = idle_loop();
        let (peer, addr): (PeerId, Multiaddr) = (PeerId::random(), "/memory/4711".parse().unwrap());
        event_loop.swarm.behaviour_mut().kad.add_address(&peer, addr.clone());
        let (reply, _answer) = oneshot::channel();
        event_loop.connect(peer, vec![addr], reply);
        let tried = loop {
            if let SwarmEvent::OutgoingConnectionError { error: DialError::Transport(tried), .. } =
                event_loop.swarm.select_next_some().await
            {
                break tried;
            }
        };
        assert_eq!(tried.len(), 1, "{tried:?}");
    }

    #[tokio::test]
    async fn failures_count_only_while_others_can_be_reached() {
        let mut event_loop = idle_loop();
        let peer = routed(&mut event_loop);
        for _ in 0..10 {
            event_loop.note_failing(peer, &DialError::NoAddresses);
        }
        assert!(event_loop.is_routed(&peer), "this node may be without a network");
        event_loop.established += 1;
        event_loop.note_failing(peer, &DialError::NoAddresses);
        event_loop.note_failing(peer, &DialError::Aborted);
        assert!(event_loop.is_routed(&peer));
        event_loop.established += 1;
        event_loop.note_failing(peer, &DialError::NoAddresses);
        assert!(!event_loop.is_routed(&peer));
        assert!(event_loop.failing.is_empty());
    }

    #[tokio::test]
    async fn failures_are_remembered_of_no_more_peers_than_the_table_has() {
        let mut event_loop = idle_loop();
        for _ in 0..50 {
            let peer = routed(&mut event_loop);
            event_loop.note_failing(peer, &DialError::NoAddresses);
            event_loop.note_failing(PeerId::random(), &DialError::NoAddresses);
            assert_eq!(event_loop.failing.len(), 1);
            event_loop.swarm.behaviour_mut().kad.remove_peer(&peer);
            event_loop.routing_changed();
        }
    }
}
