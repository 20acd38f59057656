//! Hands the network's events to the drivers that want them.

use std::collections::BTreeSet;

use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, watch};

use super::serve::ServeEvent;
use crate::net::{Client, ExchangeResponse, NetEvent};

/// Requests and notices that wait for the serve driver. What does not fit is answered with busy.
pub const MAX_WAITING_SERVE_EVENTS: usize = 1024;

/// Where events go.
#[derive(Debug)]
pub struct Dispatch {
    /// From the network.
    pub events: mpsc::Receiver<NetEvent>,
    /// From the lanes of others.
    pub lanes: mpsc::Receiver<NetEvent>,
    /// To answer when the serve driver is behind.
    pub client: Client,
    /// To the serve driver; `None` on a node that serves nobody.
    pub serve: Option<mpsc::Sender<ServeEvent>>,
    /// Number of peers in the routing table.
    pub routing: watch::Sender<usize>,
    /// The addresses listened on.
    pub listen: watch::Sender<Vec<Multiaddr>>,
    /// Everybody who is connected.
    pub connected: watch::Sender<BTreeSet<PeerId>>,
}

impl Dispatch {
    /// Runs until the network ends.
    pub async fn run(mut self) {
        loop {
            let event = tokio::select! {
                event = self.events.recv() => match event {
                    Some(event) => event,
                    None => return,
                },
                Some(event) = self.lanes.recv() => event,
            };
            match event {
                NetEvent::Request { ticket, peer, ask } => {
                    self.request(ServeEvent::Request { ticket, peer, ask }).await;
                }
                NetEvent::RequestCancelled(id) => self.tell(ServeEvent::Cancelled(id)).await,
                NetEvent::ResponseSent(id) => self.tell(ServeEvent::Sent(id)).await,
                NetEvent::ResponseFailed(id) => self.tell(ServeEvent::Dropped(id)).await,
                NetEvent::Routing { peers } => {
                    self.routing.send_replace(peers);
                }
                NetEvent::Connected(peer) => self.connected.send_modify(|connected| {
                    connected.insert(peer);
                }),
                // Each request of a peer that has gone has an end of its own.
                NetEvent::Disconnected(peer) => self.connected.send_modify(|connected| {
                    connected.remove(&peer);
                }),
                NetEvent::ListenAddrs(addrs) => {
                    self.listen.send_replace(addrs);
                }
            }
        }
    }

    async fn request(&self, event: ServeEvent) {
        let refused = match &self.serve {
            Some(serve) => match serve.try_send(event) {
                Ok(()) => return,
                Err(mpsc::error::TrySendError::Full(event) | mpsc::error::TrySendError::Closed(event)) => {
                    event
                }
            },
            None => event,
        };
        if let ServeEvent::Request { ticket, .. } = refused {
            let _ = self.client.respond(ticket, ExchangeResponse::Busy).await;
        }
    }

    /// Notices give budget back, so none may be lost: waits for room.
    async fn tell(&self, event: ServeEvent) {
        if let Some(serve) = &self.serve {
            let _ = serve.send(event).await;
        }
    }
}
