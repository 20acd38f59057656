//! Streams of this program's own protocols: anybody with a [`Control`] opens one to a connected peer, and who has
//! accepted a protocol is handed those that others open.
//!
//! A stream is opened on the newest direct connection, on a relayed one only if there is no other: who has come again from
//! another network is not there any more where it was. If one fails the next is tried. Nothing is dialled.
//! The protocol of a stream is agreed on while the first words travel, if it is opened early: who opens it writes at once,
//! and hears of a refusal ([`is_refusal`]) when it reads. Where a refusal must be known before anything is said, a stream
//! costs one round trip more.
//!
//! Streams of others wait in a queue for each protocol; those that find it full are reset and counted. (The stream
//! behaviour of libp2p, an alpha release, keeps one: of two streams that arrive in the same moment it drops the second.)

mod behaviour;
mod handler;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use libp2p::{PeerId, Stream, StreamProtocol, core::upgrade::NegotiationError, swarm::ConnectionId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

pub(crate) use self::behaviour::Streams;

/// Streams of others that wait for each protocol. Whoever accepts them only sorts them, so this many come in one
/// moment.
const MAX_WAITING: usize = 128;

/// Streams that wait on each connection until they are opened; who opens more waits for a place.
const MAX_REQUESTED: usize = 16;

/// Streams of a connection that are being opened at the same time.
const MAX_OPENING: usize = 16;

/// Questions about the DHT that are open on a connection at the same time; others wait for a place. libp2p's kad serves 32
/// streams of a connection and drops those beyond.
const MAX_QUESTIONS: usize = 16;

/// A protocol that nobody speaks.
pub(crate) static NOBODYS: StreamProtocol = StreamProtocol::new("/dhtfs/none");

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The peer does not speak the protocol.
    #[error("the peer does not speak the protocol")]
    Unsupported,
    /// There is no connection, or it ended.
    #[error("not connected")]
    NotConnected,
    /// It broke while the protocol was agreed on.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Who waits for a stream.
type Waiter = oneshot::Sender<Result<Stream, OpenError>>;

/// Whether `error`, of reading from a stream that was opened early, says that the peer does not speak the protocol.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<NegotiationError>());
    matches!(inner, Some(NegotiationError::Failed))
}

/// When a stream counts as open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    /// At once.
    Early,
    /// When the peer has said that it speaks the protocol.
    Agreed,
}

/// An order for a connection.
struct Request {
    protocol: StreamProtocol,
    opening: Opening,
    waiter: Waiter,
}

/// A connection, as those see it who open streams on it.
struct Link {
    id: ConnectionId,
    is_relayed: bool,
    requests: mpsc::Sender<Request>,
    /// Places for questions.
    questions: Arc<Semaphore>,
}

/// The newest of these connections that were not tried, a relayed one only if there is no other.
fn best<'a>(links: &'a [Link], tried: &[ConnectionId]) -> Option<&'a Link> {
    links.iter().rev().filter(|link| !tried.contains(&link.id)).min_by_key(|link| link.is_relayed)
}

/// A stream that somebody else has opened.
type Arrived = (PeerId, Stream);

/// What the behaviour, its connections and the controls share. No lock is held across an await.
#[derive(Default)]
struct Shared {
    /// Oldest first.
    links: Mutex<BTreeMap<PeerId, Vec<Link>>>,
    accepting: Mutex<Vec<(StreamProtocol, mpsc::Sender<Arrived>)>>,
    /// The names of these, for every poll of a connection.
    offered: RwLock<Arc<[StreamProtocol]>>,
    refused: AtomicUsize,
}

impl Shared {
    fn links(&self) -> MutexGuard<'_, BTreeMap<PeerId, Vec<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accepting(&self) -> MutexGuard<'_, Vec<(StreamProtocol, mpsc::Sender<Arrived>)>> {
        self.accepting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offered(&self) -> Arc<[StreamProtocol]> {
        self.offered.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn offer(&self, accepting: &[(StreamProtocol, mpsc::Sender<Arrived>)]) {
        let names = accepting.iter().map(|(name, _)| name.clone()).collect();
        *self.offered.write().unwrap_or_else(PoisonError::into_inner) = names;
    }

    /// The best connection to `peer` that is not among those that were tried.
    fn link(&self, peer: &PeerId, tried: &[ConnectionId]) -> Option<(ConnectionId, mpsc::Sender<Request>)> {
        let links = self.links();
        let best = best(links.get(peer)?, tried)?;
        Some((best.id, best.requests.clone()))
    }

    /// The places for questions on the connection that a stream would be opened on.
    fn questions(&self, peer: &PeerId) -> Option<Arc<Semaphore>> {
        Some(best(self.links().get(peer)?, &[])?.questions.clone())
    }

    /// Hands a stream to whoever accepts its protocol.
    fn arrived(&self, peer: PeerId, protocol: &StreamProtocol, stream: Stream) {
        let mut accepting = self.accepting();
        let Some(place) = accepting.iter().position(|(name, _)| name == protocol) else { return };
        let Some((_, waiting)) = accepting.get(place) else { return };
        match waiting.try_send((peer, stream)) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                accepting.remove(place);
                self.offer(&accepting);
            }
        }
    }
}

/// Opens streams and accepts them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Control {
    shared: Arc<Shared>,
}

impl Control {
    /// Opens a stream to a connected peer that speaks the protocol. It takes as long as the peer likes, at most until the
    /// connection ends or the swarm gives the negotiation up (10 s).
    ///
    /// # Errors
    /// If the peer is not connected, does not speak the protocol, or breaks off.
    pub(crate) async fn open_stream(
        &self,
        peer: PeerId,
        protocol: StreamProtocol,
    ) -> Result<Stream, OpenError> {
        self.open(peer, protocol, Opening::Agreed).await
    }

    /// Opens a stream to a connected peer without waiting for it: on its newest direct connection, and if that one is
    /// about to end, on none. Whoever opens it is to write first. If the peer does not speak the protocol, reading fails as
    /// [`is_refusal`] says; writing may fail before, in any way.
    ///
    /// # Errors
    /// If the peer is not connected, or the connection ends.
    pub(crate) async fn open_early(
        &self,
        peer: PeerId,
        protocol: StreamProtocol,
    ) -> Result<Stream, OpenError> {
        self.open(peer, protocol, Opening::Early).await
    }

    /// The same for one question, which waits until fewer than [`MAX_QUESTIONS`] are open on the connection: a peer drops
    /// what is more than it serves at once. The answer is to be read before the place is dropped.
    ///
    /// # Errors
    /// As [`Control::open_early`].
    pub(crate) async fn open_question(
        &self,
        peer: PeerId,
        protocol: StreamProtocol,
    ) -> Result<(Stream, OwnedSemaphorePermit), OpenError> {
        let questions = self.shared.questions(&peer).ok_or(OpenError::NotConnected)?;
        let place = questions.acquire_owned().await.map_err(|_| OpenError::NotConnected)?;
        Ok((self.open_early(peer, protocol).await?, place))
    }

    async fn open(
        &self,
        peer: PeerId,
        protocol: StreamProtocol,
        opening: Opening,
    ) -> Result<Stream, OpenError> {
        let (mut tried, mut failure) = (Vec::new(), OpenError::NotConnected);
        while let Some((id, requests)) = self.shared.link(&peer, &tried) {
            tried.push(id);
            let (waiter, opened) = oneshot::channel();
            if requests.send(Request { protocol: protocol.clone(), opening, waiter }).await.is_err() {
                continue;
            }
            match opened.await {
                Ok(Err(error @ OpenError::Io(_))) => failure = error,
                Ok(opened) => return opened,
                // A connection that ends answers nobody.
                Err(_) => {}
            }
        }
        Err(failure)
    }

    /// From now on the protocol is offered, until the result is dropped. `None` if it is offered already.
    pub(crate) fn accept(&self, protocol: StreamProtocol) -> Option<IncomingStreams> {
        let mut accepting = self.shared.accepting();
        accepting.retain(|(_, waiting)| !waiting.is_closed());
        if accepting.iter().any(|(name, _)| *name == protocol) {
            return None;
        }
        let (waiting, streams) = mpsc::channel(MAX_WAITING);
        accepting.push((protocol, waiting));
        self.shared.offer(&accepting);
        Some(IncomingStreams { streams })
    }
}

/// Streams that others open.
pub(crate) struct IncomingStreams {
    streams: mpsc::Receiver<Arrived>,
}

impl futures::Stream for IncomingStreams {
    type Item = Arrived;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Arrived>> {
        self.streams.poll_recv(cx)
    }
}
