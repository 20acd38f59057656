//! The peers that are connected, and what they have told about themselves.
//!
//! Bounded by the connection limits: an entry exists exactly while a peer has at least one connection.

use std::collections::BTreeMap;
use std::time::Duration;

use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use crate::core::profile::{is_local, is_relayed};

use super::addresses::{Scope, connection_scope, scope_of};
use super::limits::{MAX_AGENT_LEN, MAX_OBSERVATIONS};
use super::records::token_bucket::TokenBucket;
use super::records::{IpGroup, group_of};
use super::report::Direction;

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    /// The address of the other side: dialled by us, or seen by us.
    pub(crate) addr: Multiaddr,
    pub(crate) direction: Direction,
    /// Whether a relay carries it.
    pub(crate) is_relayed: bool,
    /// Whether it was dialled from a listen port over the internet, so that the other side sees which port the router uses.
    pub(crate) shows_port: bool,
    /// How often the other side has told where it sees this node.
    observations: u8,
    pub(crate) since: Instant,
    /// Pings in a row that were not answered.
    failed_pings: u8,
}

/// One connected peer.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    /// Oldest first, never empty.
    pub(crate) connections: Vec<Connection>,
    /// What it calls itself, once it has identified itself.
    pub(crate) agent: Option<String>,
    /// Whether it serves our DHT.
    pub(crate) kad: bool,
    /// Whether it answers exchange requests.
    pub(crate) exchange: bool,
    /// Whether it has said goodbye over these connections: what it told before counts no more.
    pub(crate) leaving: bool,
    /// Where it listens, if the routing table had no place for it: it takes one that becomes free.
    pub(crate) without_place: Vec<Multiaddr>,
    /// Last measured round trip.
    pub(crate) rtt: Option<Duration>,
    /// How many provider records it may leave; made with the first one. Whoever connects anew gets a full one, as
    /// whoever comes under a new name does: new connections and names are bounded elsewhere.
    records: Option<TokenBucket>,
    /// How many of them in kad messages.
    kad_records: Option<TokenBucket>,
}

impl Peer {
    /// The narrowest scope of its connections: what it says about addresses is believed from there on.
    pub(crate) fn scope(&self) -> Scope {
        let scopes = self.connections.iter().filter_map(|connection| connection_scope(&connection.addr));
        scopes.min().unwrap_or(Scope::Public)
    }

    /// The IP group it comes from by its oldest connection; none if any connection is within this machine or the local
    /// network.
    pub(crate) fn group(&self) -> Option<IpGroup> {
        let mut groups = self.connections.iter().map(|connection| group_of(&connection.addr));
        let oldest = groups.next().flatten()?;
        groups.all(|group| group.is_some()).then_some(oldest)
    }

    /// Whether a connection of it goes beyond this machine and the local network.
    pub(crate) fn is_far(&self) -> bool {
        !self.connections.iter().all(|connection| is_local(&connection.addr))
    }

    /// The addresses of the other side, and whether we dialled them.
    pub(crate) fn remote_addrs(&self) -> impl Iterator<Item = (&Multiaddr, bool)> {
        let connections = self.connections.iter();
        connections.map(|connection| (&connection.addr, connection.direction == Direction::Outbound))
    }

    /// The addresses under which we dialled it.
    pub(crate) fn dialled(&self) -> impl Iterator<Item = &Multiaddr> {
        let outbound = |connection: &&Connection| connection.direction == Direction::Outbound;
        self.connections.iter().filter(outbound).map(|connection| &connection.addr)
    }
}

/// The address of the other side. Of who comes through a relay only the name is known: that it is behind that relay.
fn remote_addr(peer: PeerId, endpoint: &ConnectedPoint) -> Multiaddr {
    match endpoint {
        ConnectedPoint::Listener { local_addr, .. } if endpoint.is_relayed() => {
            let relay =
                local_addr.iter().take_while(|part| *part != Protocol::P2pCircuit).collect::<Multiaddr>();
            relay.with(Protocol::P2pCircuit).with(Protocol::P2p(peer))
        }
        _ => endpoint.get_remote_address().clone(),
    }
}

fn shows_port(endpoint: &ConnectedPoint) -> bool {
    match endpoint {
        ConnectedPoint::Dialer { address, role_override: Endpoint::Dialer, port_use: PortUse::Reuse } => {
            scope_of(address) == Some(Scope::Public) && !is_relayed(address)
        }
        _ => false,
    }
}

/// All connected peers.
#[derive(Debug, Default)]
pub(crate) struct Peers(BTreeMap<PeerId, Peer>);

impl Peers {
    /// Notes a new connection; true if it is the peer's first.
    pub(crate) fn on_established(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        endpoint: &ConnectedPoint,
        now: Instant,
    ) -> bool {
        let direction = if endpoint.is_dialer() { Direction::Outbound } else { Direction::Inbound };
        let (addr, is_relayed) = (remote_addr(peer, endpoint), endpoint.is_relayed());
        let shows_port = shows_port(endpoint);
        let entry = self.0.entry(peer).or_default();
        entry.leaving = false;
        let connection = Connection {
            id,
            addr,
            direction,
            is_relayed,
            shows_port,
            observations: 0,
            since: now,
            failed_pings: 0,
        };
        entry.connections.push(connection);
        entry.connections.len() == 1
    }

    /// Notes the end of a connection; true if it was the peer's last.
    pub(crate) fn on_closed(&mut self, peer: &PeerId, id: ConnectionId) -> bool {
        let Some(entry) = self.0.get_mut(peer) else { return false };
        entry.connections.retain(|connection| connection.id != id);
        if !entry.connections.is_empty() {
            return false;
        }
        self.0.remove(peer);
        true
    }

    /// Notes what a peer says about itself.
    pub(crate) fn on_identified(&mut self, peer: &PeerId, agent: &str, kad: bool, exchange: bool) {
        let Some(entry) = self.0.get_mut(peer) else { return };
        let printable = |c: &char| !c.is_control();
        entry.agent = Some(agent.chars().filter(printable).take(MAX_AGENT_LEN).collect());
        entry.kad = kad;
        entry.exchange = exchange;
    }

    /// Notes the addresses of a peer for which there was no place in the routing table; none if there was.
    pub(crate) fn on_placed(&mut self, peer: &PeerId, without_place: Vec<Multiaddr>) {
        if let Some(entry) = self.0.get_mut(peer) {
            entry.without_place = without_place;
        }
    }

    /// A peer has said goodbye. A new connection shows that it is back.
    pub(crate) fn on_goodbye(&mut self, peer: &PeerId) {
        if let Some(entry) = self.0.get_mut(peer) {
            entry.leaving = true;
            entry.without_place = Vec::new();
        }
    }

    /// A peer tells where it sees this node; false if it has told too often on this connection.
    pub(crate) fn take_observation(&mut self, peer: &PeerId, id: ConnectionId) -> bool {
        let connections = self.0.get_mut(peer).into_iter().flat_map(|entry| &mut entry.connections);
        let Some(connection) = connections.into_iter().find(|connection| connection.id == id) else {
            return false;
        };
        connection.observations = connection.observations.saturating_add(1);
        connection.observations <= MAX_OBSERVATIONS
    }

    /// Notes the result of a ping; returns the failures in a row on that connection.
    pub(crate) fn on_ping(&mut self, peer: &PeerId, id: ConnectionId, rtt: Option<Duration>) -> u8 {
        let Some(entry) = self.0.get_mut(peer) else { return 0 };
        let Some(connection) = entry.connections.iter_mut().find(|connection| connection.id == id) else {
            return 0;
        };
        match rtt {
            Some(rtt) => {
                connection.failed_pings = 0;
                entry.rtt = Some(rtt);
                0
            }
            None => {
                connection.failed_pings = connection.failed_pings.saturating_add(1);
                connection.failed_pings
            }
        }
    }

    /// Takes one of the provider records that a connected peer may leave; false if it may not leave one now.
    pub(crate) fn take_record(&mut self, peer: &PeerId, rate: u64, burst: u64, now: Instant) -> bool {
        let Some(entry) = self.0.get_mut(peer) else { return false };
        entry.records.get_or_insert_with(|| TokenBucket::full(burst, now)).take(rate, burst, now)
    }

    /// Takes one of those that it may leave in kad messages.
    pub(crate) fn take_kad_record(&mut self, peer: &PeerId, rate: u64, burst: u64, now: Instant) -> bool {
        let Some(entry) = self.0.get_mut(peer) else { return false };
        entry.kad_records.get_or_insert_with(|| TokenBucket::full(burst, now)).take(rate, burst, now)
    }

    /// What is known of a connected peer.
    pub(crate) fn get(&self, peer: &PeerId) -> Option<&Peer> {
        self.0.get(peer)
    }

    /// All, in the order of their IDs.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&PeerId, &Peer)> {
        self.0.iter()
    }

    /// Peers connected.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Connections established.
    pub(crate) fn connections(&self) -> usize {
        self.0.values().map(|peer| peer.connections.len()).sum()
    }

    /// Connections of the peer that has the most.
    pub(crate) fn most_connections(&self) -> usize {
        self.0.values().map(|peer| peer.connections.len()).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::time::Duration;

    use libp2p::PeerId;
    use libp2p::core::ConnectedPoint;
    use libp2p::swarm::ConnectionId;
    use tokio::time::Instant;

    use super::{MAX_AGENT_LEN, Peers, Scope};

    fn from(addr: &str) -> ConnectedPoint {
        ConnectedPoint::Listener {
            local_addr: "/memory/1".parse().unwrap(),
            send_back_addr: addr.parse().unwrap(),
        }
    }

    #[test]
    fn a_peer_is_known_from_its_first_to_its_last_connection() {
        let mut peers = Peers::default();
        let (peer, now) = (PeerId::random(), Instant::now());
        let id = ConnectionId::new_unchecked;
        assert!(peers.on_established(peer, id(1), &from("/ip4/8.8.8.8/tcp/1"), now));
        assert_eq!(peers.get(&peer).unwrap().scope(), Scope::Public);
        assert!(peers.get(&peer).unwrap().is_far());
        assert!(!peers.on_established(peer, id(2), &from("/ip4/10.0.0.1/tcp/1"), now));
        assert_eq!(peers.get(&peer).unwrap().scope(), Scope::Private);
        assert_eq!((peers.len(), peers.connections()), (1, 2));
        assert!(peers.get(&peer).unwrap().is_far(), "what goes over one of them counts");
        assert!(!peers.on_closed(&peer, id(1)));
        assert!(!peers.get(&peer).unwrap().is_far());
        assert!(peers.on_closed(&peer, id(2)));
        assert!(!peers.on_closed(&peer, id(2)));
        assert_eq!((peers.len(), peers.connections()), (0, 0));
    }

    #[test]
    fn a_goodbye_holds_until_the_next_connection() {
        let mut peers = Peers::default();
        let (peer, other, now) = (PeerId::random(), PeerId::random(), Instant::now());
        peers.on_goodbye(&peer);
        for (peer, n) in [(peer, 1), (other, 2)] {
            peers.on_established(peer, ConnectionId::new_unchecked(n), &from("/memory/2"), now);
        }
        peers.on_goodbye(&peer);
        assert!(peers.get(&peer).unwrap().leaving && !peers.get(&other).unwrap().leaving);
        peers.on_established(peer, ConnectionId::new_unchecked(3), &from("/memory/2"), now);
        assert!(!peers.get(&peer).unwrap().leaving);
    }

    #[test]
    fn what_a_peer_calls_itself_is_cut_and_cleaned() {
        let mut peers = Peers::default();
        let peer = PeerId::random();
        peers.on_identified(&peer, "not connected", true, true);
        assert!(peers.get(&peer).is_none());
        peers.on_established(peer, ConnectionId::new_unchecked(1), &from("/memory/2"), Instant::now());
        peers.on_identified(&peer, &format!("a\n\x1b{}", "ä".repeat(1_000)), true, false);
        let agent = peers.get(&peer).unwrap().agent.clone().unwrap();
        assert_eq!(agent.chars().count(), MAX_AGENT_LEN);
        assert!(agent.starts_with("aä"));
    }

    #[test]
    fn failed_pings_are_counted_in_a_row_for_each_connection() {
        let mut peers = Peers::default();
        let peer = PeerId::random();
        let id = ConnectionId::new_unchecked;
        peers.on_established(peer, id(1), &from("/memory/2"), Instant::now());
        peers.on_established(peer, id(2), &from("/memory/2"), Instant::now());
        assert_eq!(peers.on_ping(&peer, id(1), None), 1);
        assert_eq!(peers.on_ping(&peer, id(2), None), 1);
        assert_eq!(peers.on_ping(&peer, id(1), Some(Duration::from_millis(3))), 0);
        assert_eq!(peers.on_ping(&peer, id(1), None), 1);
        assert_eq!(peers.on_ping(&peer, id(2), None), 2);
        assert_eq!(peers.on_ping(&peer, id(9), None), 0);
    }
}
