//! Knows the connections.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionId, DialFailure, FromSwarm, ListenFailure, NetworkBehaviour, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::{ConnectionClosed, ConnectionEstablished},
    },
};
use tokio::sync::{Semaphore, mpsc};

use super::{Control, Link, MAX_QUESTIONS, MAX_REQUESTED, Request, Shared, handler::Handler};

/// See the module's documentation.
pub(crate) struct Streams {
    shared: Arc<Shared>,
    /// Connections that another behaviour may still refuse.
    pending: BTreeMap<ConnectionId, mpsc::Sender<Request>>,
}

impl Streams {
    pub(crate) fn new() -> Self {
        Self { shared: Arc::default(), pending: BTreeMap::new() }
    }

    pub(crate) fn control(&self) -> Control {
        Control { shared: self.shared.clone() }
    }

    /// Streams of others that found the queue of their protocol full, since this was last asked.
    pub(crate) fn take_refused(&self) -> usize {
        self.shared.refused.swap(0, Ordering::Relaxed)
    }

    fn handler(&mut self, id: ConnectionId, peer: PeerId) -> Handler {
        let (requests, received) = mpsc::channel(MAX_REQUESTED);
        self.pending.insert(id, requests);
        Handler::new(peer, self.shared.clone(), received)
    }

    /// Connections of which something is kept.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.pending.len() + self.shared.links().values().map(Vec::len).sum::<usize>()
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(id, peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(id, peer))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id,
                connection_id: id,
                endpoint,
                ..
            }) => {
                if let Some(requests) = self.pending.remove(&id) {
                    let questions = Arc::new(Semaphore::new(MAX_QUESTIONS));
                    let link = Link { id, is_relayed: endpoint.is_relayed(), requests, questions };
                    self.shared.links().entry(peer_id).or_default().push(link);
                }
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                let mut all = self.shared.links();
                if let Some(links) = all.get_mut(&peer_id) {
                    links.retain(|link| link.id != connection_id);
                    if links.is_empty() {
                        all.remove(&peer_id);
                    }
                }
            }
            FromSwarm::DialFailure(DialFailure { connection_id, .. })
            | FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) => {
                self.pending.remove(&connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}
