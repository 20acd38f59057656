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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use libp2p::PeerId;
    use libp2p::core::transport::PortUse;
    use libp2p::core::{ConnectedPoint, Endpoint};
    use libp2p::swarm::ConnectionId;
    use tokio::sync::oneshot;
    use tokio::time::{Duration, Instant, advance};

    use super::{EventLoop, PUNCH_WITHIN, name};
    use crate::net::DialFailure;
    use crate::net::tests::idle_loop;

    type Answer = oneshot::Receiver<Result<(), DialFailure>>;

    fn dialled(addr: &str) -> ConnectedPoint {
        let address = addr.parse().unwrap();
        ConnectedPoint::Dialer { address, role_override: Endpoint::Dialer, port_use: PortUse::Reuse }
    }

    fn through_relay(event_loop: &mut EventLoop, peer: PeerId, id: usize) {
        let addr = format!("/ip4/9.9.9.9/tcp/1/p2p/{}/p2p-circuit/p2p/{peer}", PeerId::random());
        event_loop.on_established(peer, ConnectionId::new_unchecked(id), &dialled(&addr));
    }

    fn past_relay(event_loop: &mut EventLoop, peer: PeerId, id: usize) {
        event_loop.on_established(peer, ConnectionId::new_unchecked(id), &dialled("/ip4/8.8.8.8/tcp/1"));
    }

    fn connect(event_loop: &mut EventLoop, peer: PeerId) -> Answer {
        let (reply, answer) = oneshot::channel();
        event_loop.connect(peer, Vec::new(), reply);
        answer
    }

    fn counted(event_loop: &EventLoop, counter: &str) -> u64 {
        event_loop.counters.snapshot().into_iter().find(|(name, _)| *name == counter).unwrap().1
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_wants_a_peer_behind_a_relay_gets_the_way_past_it() {
        let (mut event_loop, peer) = (idle_loop(), PeerId::random());
        through_relay(&mut event_loop, peer, 1);
        let mut answer = connect(&mut event_loop, peer);
        assert!(answer.try_recv().is_err(), "the relay is not to carry what need not go there");
        past_relay(&mut event_loop, peer, 2);
        assert_eq!(answer.try_recv().unwrap(), Ok(()));
        assert_eq!(counted(&event_loop, name::RELAYED_LEFT), 1);
        assert!(event_loop.reach.punching.is_empty());
        assert_eq!(connect(&mut event_loop, peer).try_recv().unwrap(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_way_past_it_the_relay_is_taken_and_the_next_time_at_once() {
        let (mut event_loop, peer) = (idle_loop(), PeerId::random());
        through_relay(&mut event_loop, peer, 1);
        let mut answer = connect(&mut event_loop, peer);
        advance(PUNCH_WITHIN - Duration::from_millis(1)).await;
        event_loop.on_timeout(Instant::now());
        assert!(answer.try_recv().is_err());
        advance(Duration::from_millis(1)).await;
        event_loop.on_timeout(Instant::now());
        assert_eq!(answer.try_recv().unwrap(), Ok(()));
        event_loop.on_closed(peer, ConnectionId::new_unchecked(1));
        through_relay(&mut event_loop, peer, 2);
        assert_eq!(connect(&mut event_loop, peer).try_recv().unwrap(), Ok(()));
        assert!(event_loop.reach.punching.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_of_peers_that_have_gone() {
        let mut event_loop = idle_loop();
        for id in 0..50 {
            let peer = PeerId::random();
            through_relay(&mut event_loop, peer, id);
            event_loop.dial_past_relay(peer, &["/ip4/8.8.8.8/tcp/4343".parse().unwrap()]);
            assert!(event_loop.reach.dialled_past.contains(&peer));
            event_loop.on_closed(peer, ConnectionId::new_unchecked(id));
        }
        assert!(event_loop.reach.punching.is_empty() && event_loop.reach.dialled_past.is_empty());
        assert_eq!(counted(&event_loop, name::RELAYED), 50);
    }
}
