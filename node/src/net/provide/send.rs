//! Sends records to one holder: over the provide protocol, or as kad messages to a peer that lacks it.

use std::cmp::Reverse;
use std::fmt;
use std::io;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use futures::AsyncWriteExt as _;
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use tokio::time::timeout;

use super::kad_wire;
use super::told::Told;
use super::wire::{Answer, Frame, MAX_DIGESTS, read_answer, write_frame};
use crate::net::addresses::{Scope, plausible, scope_of};
use crate::net::client::Client;
use crate::net::error::{DialFailure, NetGone};
use crate::net::have::tally::Tally;
use crate::net::records::Digest;
use crate::net::streams::{Control, OpenError};
use crate::net::{Executor, lane};

/// How long each step may take: connecting, opening a stream, a frame with its answer, a batch of kad messages.
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of kad messages that are written at once.
const KAD_BATCH_LEN: usize = 64 * 1024;

/// Why a holder was not told.
#[derive(Debug, thiserror::Error)]
pub enum SendFailure {
    /// It cannot be reached.
    #[error("cannot connect: {0}")]
    Dial(#[from] DialFailure),
    /// It speaks neither the provide protocol nor kad.
    #[error("the peer takes no provider records")]
    Unsupported,
    /// It has too much to do.
    #[error("the peer is busy")]
    Busy,
    /// The stream broke off.
    #[error("the stream failed: {0}")]
    Stream(#[from] io::Error),
    /// It took longer than 10 s for one batch.
    #[error("no answer in time")]
    Timeout,
    /// The network has been shut down.
    #[error(transparent)]
    Gone(#[from] NetGone),
}

/// What a holder made of the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Receipt {
    /// For each record, in the order in which they were sent, whether it was taken.
    Taken(Vec<bool>),
    /// The holder speaks kad only, which has no answer to records. It has read all of them, for it answered what it was
    /// asked after them. Which it keeps cannot be known: libp2p names to nobody who asks the asker itself.
    Read,
}

/// Opens streams, and what they are called in this network.
#[derive(Clone)]
pub struct BulkStreams {
    pub(crate) control: Control,
    pub(crate) provide: StreamProtocol,
    pub(crate) kad: StreamProtocol,
    /// The have protocol, and what is counted of it.
    pub(crate) have: (StreamProtocol, Arc<Tally>),
    /// The same of lanes.
    pub(crate) lane: (StreamProtocol, Arc<lane::tally::Tally>),
    /// Runs what reads them.
    pub(crate) spawn: Executor,
}

impl fmt::Debug for BulkStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkStreams").field("provide", &self.provide).finish_non_exhaustive()
    }
}

/// Tells holders about records. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Announcer {
    client: Client,
    streams: BulkStreams,
}

impl Announcer {
    pub(crate) fn new(client: Client, streams: BulkStreams) -> Self {
        Self { client, streams }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Who was told in this run. Never held across an await.
    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.client.told().lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells `peer` that this node, which can be reached at `own`, provides `digests`; any number of them.
    ///
    /// # Errors
    /// If the peer cannot be reached, refuses or is silent for 10 s. What was sent until then may be stored.
    pub async fn provide(
        &self,
        peer: PeerId,
        addrs: Vec<Multiaddr>,
        own: &[Multiaddr],
        digests: &[Digest],
    ) -> Result<Receipt, SendFailure> {
        let own = &self.told_addrs(own);
        self.connect(peer, addrs.clone()).await?;
        // Noted before it is told: it may hold records of a conversation that broke off.
        self.told().on_told(peer, addrs);
        match self.open(peer, &self.streams.provide).await {
            Ok(mut stream) => {
                let taken = provide(&mut stream, own, digests).await?;
                // The records are stored; how the stream ends does not matter.
                let _ = timeout(FRAME_TIMEOUT, stream.close()).await;
                Ok(Receipt::Taken(taken))
            }
            Err(SendFailure::Unsupported) => self.provide_by_kad(peer, own, digests).await,
            Err(error) => Err(error),
        }
    }

    /// Tells `peer` that this node is about to end. It is to be connected.
    ///
    /// # Errors
    /// If the peer does not speak the provide protocol, or does not answer within 10 s.
    pub async fn goodbye(&self, peer: PeerId) -> Result<(), SendFailure> {
        let mut stream = self.open(peer, &self.streams.provide).await?;
        answered(&mut stream, &Frame::Goodbye, 0).await.map(drop)
    }

    /// Which of these records of this node `peer` holds.
    ///
    /// # Errors
    /// As [`Announcer::provide`]; [`SendFailure::Unsupported`] also if the peer speaks kad only.
    pub async fn held(
        &self,
        peer: PeerId,
        addrs: Vec<Multiaddr>,
        digests: &[Digest],
    ) -> Result<Vec<bool>, SendFailure> {
        self.frames(peer, addrs, digests, Frame::Held).await
    }

    /// Takes records of this node back from `peer`; says which it had.
    ///
    /// # Errors
    /// As [`Announcer::held`].
    pub async fn withdraw(
        &self,
        peer: PeerId,
        addrs: Vec<Multiaddr>,
        digests: &[Digest],
    ) -> Result<Vec<bool>, SendFailure> {
        self.frames(peer, addrs, digests, Frame::Withdraw).await
    }

    async fn frames(
        &self,
        peer: PeerId,
        addrs: Vec<Multiaddr>,
        digests: &[Digest],
        frame: fn(Vec<Digest>) -> Frame,
    ) -> Result<Vec<bool>, SendFailure> {
        self.connect(peer, addrs).await?;
        let mut stream = self.open(peer, &self.streams.provide).await?;
        ask(&mut stream, digests, frame).await
    }

    /// As many of the own addresses as a holder keeps, those that reach farthest first. A frame with more of them or a
    /// longer one would end the stream, and a machine with some bridges has more.
    fn told_addrs(&self, own: &[Multiaddr]) -> Vec<Multiaddr> {
        let mut own = own.to_vec();
        own.sort_by_key(|addr| Reverse(scope_of(addr)));
        plausible(&own, &self.client.peer_id(), Scope::Loopback).addrs
    }

    /// Waits for a connection no longer than for an answer: a lookup has just found the peer alive.
    async fn connect(&self, peer: PeerId, addrs: Vec<Multiaddr>) -> Result<(), SendFailure> {
        in_time(async { Ok(self.client.connect(peer, addrs).await?) }).await
    }

    async fn open(&self, peer: PeerId, protocol: &StreamProtocol) -> Result<libp2p::Stream, SendFailure> {
        let opened = timeout(FRAME_TIMEOUT, self.streams.control.open_stream(peer, protocol.clone())).await;
        match opened.map_err(|_| SendFailure::Timeout)? {
            Ok(stream) => Ok(stream),
            Err(OpenError::Unsupported) => Err(SendFailure::Unsupported),
            Err(OpenError::Io(error)) => Err(SendFailure::Stream(error)),
            Err(error @ OpenError::NotConnected) => {
                Err(SendFailure::Stream(io::Error::new(io::ErrorKind::NotConnected, error)))
            }
        }
    }

    async fn provide_by_kad(
        &self,
        peer: PeerId,
        own: &[Multiaddr],
        digests: &[Digest],
    ) -> Result<Receipt, SendFailure> {
        let mut stream = self.open(peer, &self.streams.kad).await?;
        let local = self.client.peer_id();
        let mut batch = Vec::with_capacity(KAD_BATCH_LEN);
        for digest in digests {
            batch.extend(kad_wire::add_provider(digest, local, own));
            if batch.len() >= KAD_BATCH_LEN {
                in_time(async { Ok(stream.write_all(&batch).await?) }).await?;
                batch.clear();
            }
        }
        in_time(async { Ok(stream.write_all(&batch).await?) }).await?;
        in_time(async { Ok(kad_wire::is_answered(&mut stream, local).await?) }).await?;
        // The records are read; how the stream ends does not matter.
        let _ = timeout(FRAME_TIMEOUT, stream.close()).await;
        Ok(Receipt::Read)
    }
}

/// Fails if one step takes longer than [`FRAME_TIMEOUT`]. A limit for all steps together would have to grow with their
/// number, and a holder that is silent from the start would cost that much.
async fn in_time<T>(step: impl Future<Output = Result<T, SendFailure>>) -> Result<T, SendFailure> {
    timeout(FRAME_TIMEOUT, step).await.map_err(|_| SendFailure::Timeout)?
}

async fn provide(
    stream: &mut libp2p::Stream,
    own: &[Multiaddr],
    digests: &[Digest],
) -> Result<Vec<bool>, SendFailure> {
    in_time(async { Ok(write_frame(stream, &Frame::Addresses(own.to_vec())).await?) }).await?;
    ask(stream, digests, Frame::Provide).await
}

/// Says the same about all `digests`, frame by frame.
async fn ask(
    stream: &mut libp2p::Stream,
    digests: &[Digest],
    frame: fn(Vec<Digest>) -> Frame,
) -> Result<Vec<bool>, SendFailure> {
    let mut bits = Vec::with_capacity(digests.len());
    for digests in digests.chunks(MAX_DIGESTS) {
        bits.extend(answered(stream, &frame(digests.to_vec()), digests.len()).await?);
    }
    Ok(bits)
}

/// Sends a frame with `count` digests and waits for the answer.
async fn answered(
    stream: &mut libp2p::Stream,
    frame: &Frame,
    count: usize,
) -> Result<Vec<bool>, SendFailure> {
    let answer = in_time(async {
        write_frame(stream, frame).await?;
        stream.flush().await?;
        Ok(read_answer(stream, count).await?)
    });
    match answer.await? {
        Answer::Done(bits) => Ok(bits),
        Answer::Busy => Err(SendFailure::Busy),
    }
}
