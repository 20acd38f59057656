//! What peers say about themselves.

use libp2p::identify::{self, Info};
use libp2p::{Multiaddr, PeerId};

use super::counters::name;
use super::error::DialFailure;
use super::event_loop::EventLoop;

impl EventLoop {
    pub(super) fn on_identify(&mut self, event: identify::Event) {
        match event {
            identify::Event::Received { peer_id, info, connection_id } => {
                self.on_identified(peer_id, &info);
                self.reach_identified(peer_id, connection_id, &info);
            }
            identify::Event::Error { peer_id, error, .. } => {
                tracing::debug!(%peer_id, %error, "identify failed");
                let identity = self.identity_of(&peer_id).unwrap_or(Err(DialFailure::NotIdentified));
                self.dials.on_identified(peer_id, &identity);
            }
            identify::Event::Sent { .. } | identify::Event::Pushed { .. } => {}
        }
    }

    fn on_identified(&mut self, peer: PeerId, info: &Info) {
        let kad = info.protocols.contains(&self.protocols.kad);
        let exchange = self.protocols.exchange.iter().any(|name| info.protocols.contains(name));
        self.peers.on_identified(&peer, &info.agent_version, kad, exchange);
        self.heard(&peer);
        if kad {
            if self.route(peer, &info.listen_addrs) {
                // Who waits for it is answered when it is known whether it gets into the table.
                return;
            }
        } else {
            let removed = self.swarm.behaviour_mut().kad.remove_peer(&peer).is_some();
            if removed {
                self.routing_changed();
                self.fill_place_of(&peer);
            }
            // A client of our network is not foreign; it only does not belong into the table.
            if removed || !exchange {
                self.counters.count(name::ROUTING_FOREIGN);
            }
        }
        if let Some(identity) = self.identity_of(&peer) {
            self.dials.on_identified(peer, &identity);
        }
    }

    /// Whether a connected peer belongs to our network; `None` until it has said so.
    pub(super) fn identity_of(&self, peer: &PeerId) -> Option<Result<PeerId, DialFailure>> {
        let known = self.peers.get(peer)?;
        let agent = known.agent.clone()?;
        if known.kad || known.exchange {
            Some(Ok(*peer))
        } else {
            Some(Err(DialFailure::OtherNetwork { agent }))
        }
    }

    /// The addresses of a peer in the routing table, with `/p2p/`; `None` if it is not there.
    pub(super) fn routed_addrs(&mut self, peer: &PeerId) -> Option<Vec<Multiaddr>> {
        let bucket = self.swarm.behaviour_mut().kad.kbucket(*peer)?;
        let entry = bucket.iter().find(|entry| entry.node.key.preimage() == peer)?;
        Some(entry.node.value.iter().cloned().collect())
    }

    /// Whether a peer is in the routing table.
    pub(super) fn is_routed(&mut self, peer: &PeerId) -> bool {
        self.routed_addrs(peer).is_some()
    }
}
