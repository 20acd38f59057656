//! AutoNAT v2, answering side: dialling others back at the address they ask about.
//!
//! The library dials whatever a stranger names, as often as it is asked. This wrapper bounds the dials under
//! way, in all and for one peer, and refuses addresses narrower than the connection they were named over, so
//! that nobody on the Internet can have this node knock on doors in its own network.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use libp2p::autonat::v2::server;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, DialFailure};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use rand::rngs::StdRng;
use tokio::time::{Instant, Sleep, sleep_until};

use super::addresses::{Scope, scope_of};
use super::limits::{DIAL_BACK_WITHIN, MAX_DIAL_BACKS, MAX_DIAL_BACKS_PER_PEER};
use crate::core::profile::is_zoned;

type Inner = server::Behaviour<StdRng>;

/// The wrapped behaviour.
pub(crate) struct NatServer {
    inner: Inner,
    /// Dial-backs under way.
    dialling: BTreeMap<ConnectionId, PeerId>,
    /// Until when each of them is waited for, oldest first; some have ended.
    deadlines: VecDeque<(Instant, ConnectionId, PeerId)>,
    timer: Option<Pin<Box<Sleep>>>,
    /// The scope of each established connection.
    scopes: BTreeMap<(PeerId, ConnectionId), Scope>,
    refused: usize,
}

/// Why a dial-back was not made.
#[derive(Debug, thiserror::Error)]
#[error("dial-back refused")]
struct Refused;

impl NatServer {
    /// The amount of data asked from clients follows from `rng`.
    pub(crate) fn new(rng: StdRng) -> Self {
        Self {
            inner: Inner::new(rng),
            dialling: BTreeMap::new(),
            deadlines: VecDeque::new(),
            timer: None,
            scopes: BTreeMap::new(),
            refused: 0,
        }
    }

    /// Tells those who wait for a dial-back that takes too long that it has failed. They wait ten seconds, and would learn
    /// nothing if the answer came later; a router that drops what it does not know makes every dial take longer.
    fn give_up(&mut self, cx: &mut Context<'_>) {
        while let Some((at, id, peer)) = self.deadlines.front().copied() {
            if self.dialling.contains_key(&id) {
                let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
                if timer.as_mut().poll(cx).is_pending() {
                    return;
                }
                self.timer = None;
                if Instant::now() < at {
                    continue;
                }
                let failure =
                    DialFailure { peer_id: Some(peer), connection_id: id, error: &DialError::Aborted };
                self.inner.on_swarm_event(FromSwarm::DialFailure(failure));
            }
            self.deadlines.pop_front();
        }
    }

    /// Dial-backs refused since the last call.
    pub(crate) fn take_refused(&mut self) -> usize {
        std::mem::take(&mut self.refused)
    }

    /// Whether a dial-back to `peer` at `addrs`, already noted in `dialling`, may go on.
    fn allows(&self, peer: PeerId, addrs: &[Multiaddr]) -> bool {
        let to_peer = self.dialling.values().filter(|dialled| **dialled == peer).count();
        let via = self
            .scopes
            .range((peer, ConnectionId::new_unchecked(0))..)
            .take_while(|((connected, _), _)| *connected == peer)
            .map(|(_, scope)| *scope)
            .min();
        let in_scope =
            |addr: &Multiaddr| scope_of(addr) >= via && scope_of(addr).is_some() && !is_zoned(addr);
        self.dialling.len() <= MAX_DIAL_BACKS
            && to_peer <= MAX_DIAL_BACKS_PER_PEER
            && via.is_some()
            && addrs.iter().all(in_scope)
    }
}

impl NetworkBehaviour for NatServer {
    type ConnectionHandler = THandler<Inner>;
    type ToSwarm = <Inner as NetworkBehaviour>::ToSwarm;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_inbound_connection(id, peer, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        _: Option<PeerId>,
        addrs: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        match self.dialling.get(&id) {
            Some(peer) if !self.allows(*peer, addrs) => {
                self.refused = self.refused.saturating_add(1);
                Err(ConnectionDenied::new(Refused))
            }
            _ => Ok(Vec::new()),
        }
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner.handle_established_outbound_connection(id, peer, addr, role, port_use)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id,
                endpoint,
                ..
            }) => {
                self.dialling.remove(&connection_id);
                if let Some(scope) = scope_of(endpoint.get_remote_address()) {
                    self.scopes.insert((peer_id, connection_id), scope);
                }
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                self.scopes.remove(&(peer_id, connection_id));
            }
            FromSwarm::DialFailure(DialFailure { connection_id, .. }) => {
                self.dialling.remove(&connection_id);
            }
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        let next = self.inner.poll(cx);
        if let Poll::Ready(ToSwarm::Dial { opts }) = &next
            && let Some(peer) = opts.get_peer_id()
        {
            self.dialling.insert(opts.connection_id(), peer);
            self.deadlines.push_back((Instant::now() + DIAL_BACK_WITHIN, opts.connection_id(), peer));
        }
        self.give_up(cx);
        next
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use libp2p::core::Endpoint;
    use libp2p::swarm::{ConnectionId, NetworkBehaviour as _};
    use libp2p::{Multiaddr, PeerId};
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use std::task::Poll;

    use tokio::time::Instant;

    use super::{DIAL_BACK_WITHIN, MAX_DIAL_BACKS, MAX_DIAL_BACKS_PER_PEER, NatServer, Scope};

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn id(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    fn dial(server: &mut NatServer, n: usize, peer: PeerId, to: &str) -> bool {
        server.dialling.insert(id(n), peer);
        let allowed = server
            .handle_pending_outbound_connection(id(n), Some(peer), &[addr(to)], Endpoint::Dialer)
            .is_ok();
        if !allowed {
            server.dialling.remove(&id(n));
        }
        allowed
    }

    #[test]
    fn an_address_narrower_than_the_connection_is_not_dialled() {
        let mut server = NatServer::new(StdRng::seed_from_u64(1));
        let (far, near) = (PeerId::random(), PeerId::random());
        server.scopes.insert((far, id(1)), Scope::Public);
        server.scopes.insert((near, id(2)), Scope::Loopback);
        assert!(!dial(&mut server, 10, far, "/ip4/127.0.0.1/tcp/22"));
        assert!(!dial(&mut server, 10, far, "/ip4/10.0.0.1/tcp/80"));
        assert!(!dial(&mut server, 10, far, "/ip4/0.0.0.0/tcp/80"));
        assert!(dial(&mut server, 10, far, "/ip4/8.8.8.8/tcp/4343"));
        assert!(dial(&mut server, 11, near, "/ip4/127.0.0.1/tcp/4343"));
        assert!(!dial(&mut server, 12, PeerId::random(), "/ip4/8.8.8.8/tcp/1"), "not connected");
        assert_eq!(server.take_refused(), 4);
    }

    #[test]
    fn dial_backs_are_bounded_in_all_and_for_one_peer() {
        let mut server = NatServer::new(StdRng::seed_from_u64(1));
        let mut n = 100;
        let mut allowed = 0;
        for _ in 0..MAX_DIAL_BACKS {
            let peer = PeerId::random();
            server.scopes.insert((peer, id(1)), Scope::Public);
            let mut for_peer = 0;
            for _ in 0..MAX_DIAL_BACKS_PER_PEER + 2 {
                n += 1;
                for_peer += usize::from(dial(&mut server, n, peer, "/ip4/8.8.8.8/tcp/4343"));
            }
            assert!(for_peer <= MAX_DIAL_BACKS_PER_PEER);
            allowed += for_peer;
        }
        assert_eq!(allowed, MAX_DIAL_BACKS);
        assert_eq!(server.dialling.len(), MAX_DIAL_BACKS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dial_back_that_hangs_is_waited_for_only_so_long() {
        let mut server = NatServer::new(StdRng::seed_from_u64(1));
        let (peer, begun) = (PeerId::random(), Instant::now());
        for n in 1..=3 {
            server.dialling.insert(id(n), peer);
            server.deadlines.push_back((begun + DIAL_BACK_WITHIN, id(n), peer));
        }
        // This one ends by itself.
        server.dialling.remove(&id(1));
        let given_up = std::future::poll_fn(|cx| {
            server.give_up(cx);
            if server.deadlines.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        });
        given_up.await;
        assert_eq!(begun.elapsed().as_millis() / 100, DIAL_BACK_WITHIN.as_millis() / 100);
        assert_eq!(server.dialling.len(), 2, "they still count against the limit");
    }

    #[test]
    fn other_dials_are_left_alone() {
        let mut server = NatServer::new(StdRng::seed_from_u64(1));
        let addrs = [addr("/ip4/127.0.0.1/tcp/22")];
        let result = server.handle_pending_outbound_connection(id(5), None, &addrs, Endpoint::Dialer);
        assert!(result.unwrap().is_empty());
    }
}
