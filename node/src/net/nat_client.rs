//! AutoNAT v2, asking side: which of our addresses can be dialled from outside?
//!
//! The library tests every address that any peer says it saw us under, without a bound and whatever it is.
//! This wrapper lets through only addresses that could be ours and only so many, and lets the node have its own
//! announced addresses tested, which the swarm would leave out because they count as confirmed already.

use std::collections::BTreeSet;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::autonat::v2::client;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::{ConnectionClosed, NewExternalAddrCandidate};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use rand::rngs::StdRng;

use super::addresses::{Scope, scope_of};
use super::limits::{MAX_ADDR_LEN, MAX_NAT_CANDIDATES};
use crate::core::profile::is_relayed;
use crate::core::profile::is_zoned;

type Inner = client::Behaviour<StdRng>;

/// How often it is looked whether there is something to be tested, and somebody to test it.
const PROBE_EVERY: Duration = Duration::from_secs(2);

/// The wrapped behaviour.
pub(crate) struct NatClient {
    inner: Inner,
    /// Nobody dials a node that serves nobody, such as that of one `get`: no test, which takes up to 100 KB each.
    is_tested: bool,
    /// Candidates that were let through; never more than [`MAX_NAT_CANDIDATES`] besides our own.
    candidates: BTreeSet<Multiaddr>,
    /// Loopback addresses are tested only while they are all we have.
    loopback: bool,
    /// Connections that come through relays: a dial-back over one proves nothing.
    relayed: BTreeSet<ConnectionId>,
    dropped: usize,
}

impl NatClient {
    /// Nonces and the choice of servers follow from `rng`. Nothing is tested unless this node `serves` others.
    pub(crate) fn new(rng: StdRng, serves: bool) -> Self {
        Self {
            inner: client::Behaviour::new(rng, client::Config::default().with_probe_interval(PROBE_EVERY)),
            is_tested: serves,
            candidates: BTreeSet::new(),
            loopback: true,
            relayed: BTreeSet::new(),
            dropped: 0,
        }
    }

    /// Has the addresses this node announces tested, each once; from now on these decide whether loopback
    /// candidates make sense.
    pub(crate) fn test_announced(&mut self, announced: &[Multiaddr]) {
        if !self.is_tested {
            return;
        }
        self.loopback = announced.iter().all(|addr| scope_of(addr) == Some(Scope::Loopback));
        for addr in announced {
            if self.candidates.insert(addr.clone()) {
                self.hand_on(addr);
            }
        }
    }

    /// This node is in another network: what was tested says nothing any more, and there is room for others.
    pub(crate) fn forget(&mut self) {
        self.candidates.clear();
    }

    /// Candidates left out since the last call.
    pub(crate) fn take_dropped(&mut self) -> usize {
        std::mem::take(&mut self.dropped)
    }

    fn hand_on(&mut self, addr: &Multiaddr) {
        self.inner.on_swarm_event(FromSwarm::NewExternalAddrCandidate(NewExternalAddrCandidate { addr }));
    }

    /// Whether an address that a stranger saw us under may be tested.
    fn admit(&mut self, addr: &Multiaddr) -> bool {
        if self.candidates.contains(addr) {
            return true;
        }
        let admitted = self.candidates.len() < MAX_NAT_CANDIDATES && is_candidate(addr, self.loopback);
        if admitted {
            self.candidates.insert(addr.clone());
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
        admitted
    }
}

/// Whether an observed address could be a listen address of this node.
fn is_candidate(addr: &Multiaddr, loopback: bool) -> bool {
    let has_port = addr
        .iter()
        .any(|part| matches!(part, Protocol::Tcp(1..) | Protocol::Udp(1..) | Protocol::Memory(1..)));
    let relayed = addr.iter().any(|part| matches!(part, Protocol::P2pCircuit));
    let scope = scope_of(addr);
    has_port
        && !relayed
        && !is_zoned(addr)
        && addr.len() <= MAX_ADDR_LEN
        && scope.is_some()
        && (loopback || scope != Some(Scope::Loopback))
}

impl NetworkBehaviour for NatClient {
    type ConnectionHandler = THandler<Inner>;
    type ToSwarm = <Inner as NetworkBehaviour>::ToSwarm;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if is_relayed(local) {
            self.relayed.insert(id);
        }
        self.inner.handle_established_inbound_connection(id, peer, local, remote)
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
        if let FromSwarm::NewExternalAddrCandidate(NewExternalAddrCandidate { addr }) = event
            && !(self.is_tested && self.admit(addr))
        {
            return;
        }
        if let FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) = &event {
            self.relayed.remove(connection_id);
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        // A dial-back that comes through a relay: nobody has dialled anything.
        if event.is_right() && self.relayed.contains(&id) {
            return;
        }
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.inner.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use libp2p::Multiaddr;
    use libp2p::swarm::behaviour::NewExternalAddrCandidate;
    use libp2p::swarm::{FromSwarm, NetworkBehaviour as _};
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::{MAX_NAT_CANDIDATES, NatClient, is_candidate};

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn strangers_cannot_fill_the_memory_with_candidates() {
        let mut client = NatClient::new(StdRng::seed_from_u64(1), true);
        for n in 1..=MAX_NAT_CANDIDATES + 10 {
            let seen = addr(&format!("/ip4/8.8.8.8/tcp/{n}"));
            for _ in 0..2 {
                client.on_swarm_event(FromSwarm::NewExternalAddrCandidate(NewExternalAddrCandidate {
                    addr: &seen,
                }));
            }
        }
        assert_eq!(client.candidates.len(), MAX_NAT_CANDIDATES);
        assert_eq!(client.take_dropped(), 20);
        assert_eq!(client.take_dropped(), 0);
        client.test_announced(&[addr("/ip4/10.0.0.1/tcp/1")]);
        assert_eq!(client.candidates.len(), MAX_NAT_CANDIDATES + 1, "our own are tested all the same");
    }

    #[tokio::test]
    async fn who_serves_nobody_has_nothing_tested() {
        let mut client = NatClient::new(StdRng::seed_from_u64(1), false);
        let seen = addr("/ip4/8.8.8.8/tcp/4343");
        client.on_swarm_event(FromSwarm::NewExternalAddrCandidate(NewExternalAddrCandidate { addr: &seen }));
        client.test_announced(&[seen]);
        assert_eq!((client.candidates.len(), client.take_dropped()), (0, 0));
    }

    #[test]
    fn only_addresses_that_could_be_ours_are_tested() {
        for (text, with_loopback, without) in [
            ("/ip4/8.8.8.8/tcp/4343", true, true),
            ("/ip4/8.8.8.8/udp/4343/quic-v1", true, true),
            ("/ip4/127.0.0.1/tcp/4343", true, false),
            ("/memory/7", true, false),
            ("/ip4/8.8.8.8/tcp/0", false, false),
            ("/ip4/8.8.8.8", false, false),
            ("/ip4/0.0.0.0/tcp/4343", false, false),
            ("/ip4/8.8.8.8/tcp/1/p2p-circuit", false, false),
            ("/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp", false, false),
        ] {
            assert_eq!(is_candidate(&addr(text), true), with_loopback, "{text}");
            assert_eq!(is_candidate(&addr(text), false), without, "{text}");
        }
    }
}
