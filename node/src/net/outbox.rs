//! Events on their way to the reader, who may be slow, late or gone.
//!
//! The event loop never waits for the reader. What does not fit into the channel is kept as state: which peers
//! the reader has to be told about, the newest routing and listen state, and the ends of requests it knows of.
//! So the memory is bounded by the connections and the open requests, and nothing but the detail of quick
//! changes is lost.

use std::collections::{BTreeSet, VecDeque};

use dhtfs_store::ContentCid;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::mpsc;

use super::report::{NetEvent, ServeId, ServeTicket};

/// The sending side of the event channel.
#[derive(Debug)]
pub(crate) struct Outbox {
    tx: mpsc::Sender<NetEvent>,
    /// Peers that are connected.
    connected: BTreeSet<PeerId>,
    /// Peers that the reader believes to be connected.
    told: BTreeSet<PeerId>,
    /// The difference of the two.
    untold: BTreeSet<PeerId>,
    /// Ends of requests; at most as many as requests were handed on.
    ended: VecDeque<NetEvent>,
    routing: Option<usize>,
    listen: Option<Vec<Multiaddr>>,
    delayed: usize,
}

impl Outbox {
    /// An outbox in front of a channel for `capacity` events, and the end to read from.
    pub(crate) fn new(capacity: usize) -> (Self, mpsc::Receiver<NetEvent>) {
        let (tx, rx) = mpsc::channel(capacity.max(1));
        let outbox = Self {
            tx,
            connected: BTreeSet::new(),
            told: BTreeSet::new(),
            untold: BTreeSet::new(),
            ended: VecDeque::new(),
            routing: None,
            listen: None,
            delayed: 0,
        };
        (outbox, rx)
    }

    /// A peer has its first connection.
    pub(crate) fn connected(&mut self, peer: PeerId) {
        self.connected.insert(peer);
        self.compare(peer);
    }

    /// A peer has lost its last connection.
    pub(crate) fn disconnected(&mut self, peer: PeerId) {
        self.connected.remove(&peer);
        self.compare(peer);
    }

    fn compare(&mut self, peer: PeerId) {
        if self.connected.contains(&peer) == self.told.contains(&peer) {
            self.untold.remove(&peer);
        } else {
            self.untold.insert(peer);
        }
    }

    /// A request that was handed on has ended, with its answer sent or without.
    pub(crate) fn ended(&mut self, id: ServeId, sent: bool) {
        self.ended.push_back(if sent { NetEvent::ResponseSent(id) } else { NetEvent::ResponseFailed(id) });
    }

    /// The size of the routing table has changed.
    pub(crate) fn routing(&mut self, peers: usize) {
        self.routing = Some(peers);
    }

    /// The listen addresses have changed.
    pub(crate) fn listen(&mut self, addrs: Vec<Multiaddr>) {
        self.listen = Some(addrs);
    }

    /// Hands on a request, or gives its ticket back if there is no room for it or nobody to read it.
    pub(crate) fn request(
        &mut self,
        ticket: ServeTicket,
        peer: PeerId,
        cid: ContentCid,
    ) -> Result<(), ServeTicket> {
        self.flush();
        if self.has_backlog() {
            return Err(ticket);
        }
        match self.tx.try_reserve() {
            Ok(permit) => {
                permit.send(NetEvent::Request { ticket, peer, ask: cid.into() });
                Ok(())
            }
            Err(_) => Err(ticket),
        }
    }

    /// Hands on what fits.
    pub(crate) fn flush(&mut self) {
        if !self.has_backlog() {
            return;
        }
        // A permit borrows its sender while the backlog changes; a clone is one counter.
        let tx = self.tx.clone();
        while self.has_backlog() {
            match tx.try_reserve() {
                Ok(permit) => {
                    if let Some(event) = self.next() {
                        permit.send(event);
                    }
                }
                Err(mpsc::error::TrySendError::Full(())) => {
                    self.delayed = self.delayed.saturating_add(1);
                    return;
                }
                Err(mpsc::error::TrySendError::Closed(())) => while self.next().is_some() {},
            }
        }
    }

    /// Whether something waits for room.
    pub(crate) fn has_backlog(&self) -> bool {
        !self.untold.is_empty() || !self.ended.is_empty() || self.routing.is_some() || self.listen.is_some()
    }

    /// Waits until there is room, or until the reader has gone. Losing this future loses nothing.
    pub(crate) async fn ready(&self) {
        // A closed channel is noticed by the flush that follows.
        let _ = self.tx.reserve().await;
    }

    /// How often a flush has found the channel full since the last call.
    pub(crate) fn take_delayed(&mut self) -> usize {
        std::mem::take(&mut self.delayed)
    }

    fn next(&mut self) -> Option<NetEvent> {
        if let Some(peer) = self.untold.pop_first() {
            if self.connected.contains(&peer) {
                self.told.insert(peer);
                return Some(NetEvent::Connected(peer));
            }
            self.told.remove(&peer);
            return Some(NetEvent::Disconnected(peer));
        }
        if let Some(ended) = self.ended.pop_front() {
            return Some(ended);
        }
        if let Some(peers) = self.routing.take() {
            return Some(NetEvent::Routing { peers });
        }
        self.listen.take().map(NetEvent::ListenAddrs)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use futures::FutureExt as _;
    use libp2p::PeerId;

    use super::{NetEvent, Outbox, ServeId};

    fn texts(rx: &mut tokio::sync::mpsc::Receiver<NetEvent>) -> Vec<String> {
        std::iter::from_fn(|| rx.try_recv().ok()).map(|event| format!("{event:?}")).collect()
    }

    #[test]
    fn a_slow_reader_gets_the_last_state_and_every_end() {
        let (mut outbox, mut rx) = Outbox::new(1);
        let (stays, bounces) = (PeerId::random(), PeerId::random());
        outbox.connected(stays);
        outbox.flush();
        assert!(!outbox.has_backlog());
        for n in 0..1_000 {
            outbox.connected(bounces);
            outbox.disconnected(bounces);
            outbox.routing(n);
            outbox.flush();
        }
        outbox.disconnected(stays);
        outbox.ended(ServeId(1), true);
        outbox.ended(ServeId(2), false);
        outbox.flush();
        assert!(outbox.has_backlog());
        assert!(outbox.ready().now_or_never().is_none());
        let mut all = texts(&mut rx);
        while outbox.has_backlog() {
            outbox.ready().now_or_never().unwrap();
            outbox.flush();
            all.extend(texts(&mut rx));
        }
        let expected = [
            format!("{:?}", NetEvent::Connected(stays)),
            format!("{:?}", NetEvent::Disconnected(stays)),
            format!("{:?}", NetEvent::ResponseSent(ServeId(1))),
            format!("{:?}", NetEvent::ResponseFailed(ServeId(2))),
            format!("{:?}", NetEvent::Routing { peers: 999 }),
        ];
        assert_eq!(all, expected);
        assert!(outbox.take_delayed() > 0);
    }

    #[test]
    fn a_reader_that_has_gone_leaves_nothing_behind() {
        let (mut outbox, rx) = Outbox::new(4);
        drop(rx);
        for _ in 0..100 {
            outbox.connected(PeerId::random());
            outbox.ended(ServeId(1), true);
            outbox.listen(Vec::new());
            outbox.flush();
        }
        assert!(!outbox.has_backlog());
        outbox.ready().now_or_never().unwrap();
    }
}
