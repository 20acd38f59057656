//! Dialling at the same time (DCUtR, libp2p specs/relay/DCUtR.md), kept within bounds.
//!
//! The library dials whatever the other end of a relayed connection names, and as often as it names it. This wrapper lets through
//! only dials to a few addresses of the internet, one at a time for a peer, so that nobody can have this node knock on doors in its
//! own network, or use up its dials.

use std::collections::BTreeMap;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{
    ConnectionClosed, ConnectionEstablished, DialFailure, NewExternalAddrCandidate,
};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, dcutr};

use super::addresses::{Scope, scope_of};
use super::limits::{MAX_PUNCH_ADDRS, MAX_PUNCHES, MAX_PUNCHES_PER_PEER};
use crate::core::profile::{is_relayed, is_zoned};

type Inner = dcutr::Behaviour;

/// The wrapped behaviour.
pub(crate) struct Punch {
    inner: Inner,
    /// Dials under way.
    dialling: BTreeMap<ConnectionId, PeerId>,
    /// Dials that were asked for, of peers that are connected.
    asked: BTreeMap<PeerId, usize>,
    /// Peers that asked for too many.
    shut_out: Vec<PeerId>,
    refused: usize,
}

/// Why a dial was not made.
#[derive(Debug, thiserror::Error)]
#[error("dial past a relay refused")]
struct Refused;

impl Punch {
    pub(crate) fn new(local: PeerId) -> Self {
        let (dialling, asked) = (BTreeMap::new(), BTreeMap::new());
        Self { inner: Inner::new(local), dialling, asked, shut_out: Vec::new(), refused: 0 }
    }

    /// Others may be told that this node is seen at `addr`.
    pub(crate) fn suggest(&mut self, addr: &Multiaddr) {
        if is_punchable(addr) {
            let candidate = NewExternalAddrCandidate { addr };
            self.inner.on_swarm_event(FromSwarm::NewExternalAddrCandidate(candidate));
        }
    }

    /// Dials refused since the last call.
    pub(crate) fn take_refused(&mut self) -> usize {
        std::mem::take(&mut self.refused)
    }

    /// Whether a dial of `peer`, already noted in `dialling`, may go on.
    fn allows(&self, peer: PeerId, addrs: &[Multiaddr]) -> bool {
        self.dialling.len() <= MAX_PUNCHES
            && self.dialling.values().filter(|dialled| **dialled == peer).count() <= 1
            && addrs.len() <= MAX_PUNCH_ADDRS
            && addrs.iter().all(is_punchable)
    }

    /// Notes that a dial was asked for.
    fn on_asked(&mut self, id: ConnectionId, peer: PeerId) {
        self.dialling.insert(id, peer);
        let asked = self.asked.entry(peer).or_default();
        *asked += 1;
        if *asked == MAX_PUNCHES_PER_PEER + 1 {
            self.shut_out.push(peer);
        }
    }
}

/// Whether an address may be dialled because a stranger says so.
fn is_punchable(addr: &Multiaddr) -> bool {
    scope_of(addr) == Some(Scope::Public) && !is_relayed(addr) && !is_zoned(addr)
}

impl NetworkBehaviour for Punch {
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
            FromSwarm::ConnectionEstablished(ConnectionEstablished { connection_id, .. }) => {
                self.dialling.remove(&connection_id);
            }
            FromSwarm::DialFailure(DialFailure { connection_id, .. }) => {
                self.dialling.remove(&connection_id);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, remaining_established: 0, .. }) => {
                self.asked.remove(&peer_id);
            }
            // What a single peer says about this node is looked at first: see `suggest`.
            FromSwarm::NewExternalAddrCandidate(_) => return,
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(peer_id) = self.shut_out.pop() {
            return Poll::Ready(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::All });
        }
        let next = self.inner.poll(cx);
        if let Poll::Ready(ToSwarm::Dial { opts }) = &next
            && let Some(peer) = opts.get_peer_id()
        {
            self.on_asked(opts.connection_id(), peer);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use super::*;

    fn id(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    /// Whether a dial that `peer` asks for is made.
    fn dials(punch: &mut Punch, n: usize, peer: PeerId, addrs: &[&str]) -> bool {
        let addrs: Vec<Multiaddr> = addrs.iter().map(|text| text.parse().unwrap()).collect();
        punch.on_asked(id(n), peer);
        let made = punch.handle_pending_outbound_connection(id(n), Some(peer), &addrs, Endpoint::Dialer);
        if made.is_err() {
            punch.dialling.remove(&id(n));
        }
        made.is_ok()
    }

    #[test]
    fn only_the_internet_is_dialled_because_somebody_says_so() {
        let mut punch = Punch::new(PeerId::random());
        let far = "/ip4/8.8.8.8/tcp/4343";
        let bad =
            ["/ip4/127.0.0.1/tcp/22", "/ip4/10.0.0.1/tcp/80", "/ip6/fe80::1/tcp/80", "/ip4/0.0.0.0/tcp/1"];
        for (n, addr) in (0..).zip(bad) {
            assert!(!dials(&mut punch, n, PeerId::random(), &[far, addr]), "{addr}");
        }
        assert!(!dials(&mut punch, 90, PeerId::random(), &[far; MAX_PUNCH_ADDRS + 1]));
        assert!(dials(&mut punch, 91, PeerId::random(), &[far; MAX_PUNCH_ADDRS]));
        assert_eq!(punch.take_refused(), 5);
    }

    #[test]
    fn dials_are_bounded_in_all_and_one_at_a_time_for_a_peer() {
        let (mut punch, peer, far) =
            (Punch::new(PeerId::random()), PeerId::random(), "/ip4/8.8.8.8/tcp/4343");
        assert!(dials(&mut punch, 1, peer, &[far]));
        assert!(!dials(&mut punch, 2, peer, &[far]));
        let made = (10..200).filter(|n| dials(&mut punch, *n, PeerId::random(), &[far])).count();
        assert_eq!(made, MAX_PUNCHES - 1);
    }

    #[test]
    fn who_asks_again_and_again_is_disconnected() {
        let (mut punch, peer) = (Punch::new(PeerId::random()), PeerId::random());
        for n in 0..100 {
            dials(&mut punch, n, peer, &["/ip4/127.0.0.1/tcp/22"]);
        }
        assert_eq!(punch.shut_out, [peer]);
        let next = futures::executor::block_on(std::future::poll_fn(|cx| punch.poll(cx)));
        assert!(matches!(next, ToSwarm::CloseConnection { peer_id, .. } if peer_id == peer));
    }

    #[test]
    fn other_dials_are_left_alone() {
        let mut punch = Punch::new(PeerId::random());
        let addrs = ["/ip4/127.0.0.1/tcp/22".parse().unwrap()];
        assert!(punch.handle_pending_outbound_connection(id(5), None, &addrs, Endpoint::Dialer).is_ok());
    }
}
