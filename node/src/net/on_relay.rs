//! Connections through relays, and the ways past them.

use libp2p::{
    Multiaddr, PeerId,
    core::transport::ListenerId,
    dcutr, relay,
    swarm::{
        ConnectionId,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::time::Instant;

use crate::core::profile::{NetworkProfile, is_relayed, scope};

use super::{
    addresses::{Scope, plausible},
    counters::name,
    event_loop::EventLoop,
    limits::{MAX_ADDRS_PER_RELAY, PUNCH_WITHIN},
};

impl EventLoop {
    /// A connection stands. Whoever waits for the peer goes on waiting, if it is only one through a relay: the way past it is
    /// found within seconds or not at all, and a relay is not to carry what need not go there. Returns whether so.
    pub(super) fn on_way(&mut self, peer: PeerId, id: ConnectionId, is_relayed: bool) -> bool {
        let Some(known) = self.peers.get(&peer) else { return false };
        let relayed: Vec<ConnectionId> =
            known.connections.iter().filter(|other| other.is_relayed).map(|other| other.id).collect();
        let is_direct = relayed.len() < known.connections.len();
        if is_direct {
            self.reach.punching.remove(&peer);
            for id in relayed {
                self.counters.count(name::RELAYED_LEFT);
                self.swarm.close_connection(id);
            }
            return false;
        }
        if is_relayed {
            self.counters.count(name::RELAYED);
        }
        let now = Instant::now();
        if self.reach.has_no_way(&peer, now) {
            return false;
        }
        self.reach.punching.entry(peer).or_insert((id, now + PUNCH_WITHIN));
        true
    }

    /// No way past the relay was found in time: whoever waits for the peer takes what there is.
    pub(super) fn punch_ended(&mut self, peer: PeerId) {
        let Some((id, _)) = self.reach.punching.remove(&peer) else { return };
        if self.peers.get(&peer).is_none() {
            return;
        }
        self.reach.note_no_way(peer, Instant::now());
        let identity = self.identity_of(&peer);
        let deadline = Instant::now() + self.limits.connect_timeout;
        self.dials.on_connected(peer, id, identity.as_ref(), deadline);
    }

    pub(super) fn on_punched(&mut self, event: &dcutr::Event) {
        let peer = event.remote_peer_id;
        match &event.result {
            Ok(_) => self.counters.count(name::PUNCHED),
            Err(error) => {
                tracing::debug!(%peer, %error, "no way past the relay");
                // Another connection through a relay may still find one.
                self.counters.count(name::PUNCHES_FAILED);
            }
        }
    }

    /// A peer that is connected through a relay only says that it listens on the internet: it is dialled there, which needs
    /// no help. Who is behind a relay itself cannot be dialled; trying would be in the way of dialling at the same time, where
    /// one end has to answer.
    pub(super) fn dial_past_relay(&mut self, peer: PeerId, listen: &[Multiaddr]) {
        if listen.iter().any(is_relayed) {
            return;
        }
        if !self.peers.get(&peer).is_some_and(|known| known.connections.iter().all(|other| other.is_relayed))
        {
            return;
        }
        let public = |addr: &&Multiaddr| scope(addr) == Some(NetworkProfile::Public) && !is_relayed(addr);
        let addrs = plausible(listen.iter().filter(public), &peer, Scope::Public).addrs;
        if addrs.is_empty() {
            return;
        }
        tracing::debug!(%peer, ?addrs, ?listen, "dialling past the relay");
        // It may say it again as often as it likes.
        if !self.reach.dialled_past.insert(peer) {
            return;
        }
        let addrs = addrs.into_iter().filter_map(|addr| addr.with_p2p(peer).ok()).collect();
        let dial = DialOpts::peer_id(peer).condition(PeerCondition::NotDialing).addresses(addrs).build();
        // It is being dialled already, or a limit is reached: the relay is left, or carries it.
        if let Err(error) = self.swarm.dial(dial) {
            tracing::debug!(%peer, %error, "not dialled past the relay");
        }
    }

    pub(super) fn on_relay_client(&mut self, event: &relay::client::Event) {
        tracing::debug!(?event, "relay");
        if let relay::client::Event::ReservationReqAccepted { relay_peer_id, limit, .. } = event {
            let carries = limit.as_ref().and_then(|limit| limit.data_in_bytes());
            self.reach.relays.on_limit(relay_peer_id, carries);
            self.update_reach();
        }
    }

    pub(super) fn on_relay_server(&mut self, event: &relay::Event) {
        let counter = match event {
            relay::Event::ReservationReqAccepted { renewed: false, .. } => name::RELAY_PLACES,
            relay::Event::ReservationReqDenied { .. } => name::RELAY_PLACES_REFUSED,
            relay::Event::CircuitReqAccepted { .. } => name::RELAY_CIRCUITS,
            relay::Event::CircuitReqDenied { .. } => name::RELAY_CIRCUITS_REFUSED,
            _ => return,
        };
        self.counters.count(counter);
    }

    /// An address at a relay has come up; false if `id` is another listener.
    pub(super) fn on_relay_listens(&mut self, id: ListenerId) -> bool {
        let Some(listener) = self.reach.listeners.iter_mut().find(|listener| listener.id == id) else {
            return false;
        };
        listener.addrs += 1;
        let (peer, addrs) = (listener.relay, listener.addrs);
        if addrs > MAX_ADDRS_PER_RELAY {
            // The listener itself stays until the connection has gone: the library does not survive an answer to nobody. An
            // error means that it is disconnected already.
            tracing::info!(%peer, "a relay names more and more addresses; it is left");
            self.reach.relays.on_misbehaved(&peer);
            let _ = self.swarm.disconnect_peer_id(peer);
            return true;
        }
        self.reach.relays.on_reserved(&peer, Instant::now().into_std());
        self.update_reach();
        true
    }

    /// A listener has ended; false if it was none at a relay.
    pub(super) fn on_relay_closed(&mut self, id: ListenerId) -> bool {
        let Some(place) = self.reach.listeners.iter().position(|listener| listener.id == id) else {
            return false;
        };
        let peer = self.reach.listeners.swap_remove(place).relay;
        self.reach.relays.on_closed(&peer, Instant::now().into_std());
        self.update_reach();
        true
    }
}
