//! Asks a peer which chunks it holds, and reads what it tells.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use dhtfs_store::ManifestCid;
use futures::AsyncWriteExt as _;
use libp2p::{PeerId, Stream, StreamProtocol};
use libp2p_stream::{Control, OpenStreamError};
use tokio::time::{Instant, sleep_until, timeout};

use super::tally::{Count, Place, Tally};
use super::wire::{Told, read_kind, read_rest, write_question};
use crate::core::fetch::HaveUpdate;
use crate::net::limits::{HAVE_FRAME_BURST, HAVE_FRAME_PAUSE, HAVE_FRAME_TIMEOUT};

/// How long opening a stream may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a peer tells no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HaveEnd {
    /// It does not speak the protocol.
    Unsupported,
    /// It does not share the content.
    Unknown,
    /// It, or this node, has too many such streams.
    Busy,
    /// The stream broke off, or it closed it.
    Closed,
    /// It sent something that is no frame.
    Malformed,
}

/// A peer that was asked. Dropping it ends the stream.
#[derive(Debug)]
pub struct HaveStream {
    stream: Stream,
    chunks: u32,
    /// Frames that may be read without a pause.
    burst: u32,
    next_at: Instant,
    tally: Arc<Tally>,
    _place: Place,
}

impl HaveStream {
    /// Asks a connected peer about a content that unfolds to `chunks` chunks.
    pub(crate) async fn open(
        mut control: Control,
        protocol: StreamProtocol,
        tally: Arc<Tally>,
        peer: PeerId,
        (root, chunks): (ManifestCid, u32),
    ) -> Result<Self, HaveEnd> {
        let place = tally.place(peer).ok_or(HaveEnd::Busy)?;
        tally.count(Count::Asked);
        let opening = async {
            let mut stream = match control.open_stream(peer, protocol).await {
                Ok(stream) => stream,
                Err(OpenStreamError::UnsupportedProtocol(_)) => {
                    tally.count(Count::Unsupported);
                    return Err(HaveEnd::Unsupported);
                }
                Err(_) => return Err(HaveEnd::Closed),
            };
            write_question(&mut stream, &root).await.map_err(|_| HaveEnd::Closed)?;
            stream.flush().await.map_err(|_| HaveEnd::Closed)?;
            Ok(stream)
        };
        let stream = timeout(OPEN_TIMEOUT, opening).await.map_err(|_| HaveEnd::Closed)??;
        let burst = HAVE_FRAME_BURST;
        Ok(Self { stream, chunks, burst, next_at: Instant::now(), tally, _place: place })
    }

    /// What the peer tells next. Not cancel-safe: dropping the future loses a frame that has begun.
    ///
    /// # Errors
    /// When the stream has ended; nothing follows then, and nothing follows [`HaveUpdate::All`].
    pub async fn next(&mut self) -> Result<HaveUpdate, HaveEnd> {
        loop {
            let kind = match read_kind(&mut self.stream).await {
                Ok(Some(kind)) => kind,
                Ok(None) | Err(_) => return Err(HaveEnd::Closed),
            };
            self.pause().await;
            let rest = timeout(HAVE_FRAME_TIMEOUT, read_rest(&mut self.stream, kind, self.chunks)).await;
            let (told, len) = match rest {
                Ok(Ok(read)) => read,
                Ok(Err(error)) if error.kind() != io::ErrorKind::InvalidData => return Err(HaveEnd::Closed),
                Ok(Err(_)) | Err(_) => {
                    self.tally.count(Count::Malformed);
                    return Err(HaveEnd::Malformed);
                }
            };
            self.tally.count(Count::Frames);
            self.tally.add(Count::FramesLen, u64::from(len));
            match told {
                Told::All => return Ok(HaveUpdate::All),
                Told::Map(set) => return Ok(HaveUpdate::Map(set)),
                Told::More(set) => return Ok(HaveUpdate::More(set)),
                Told::Unknown => return Err(HaveEnd::Unknown),
                Told::Busy => return Err(HaveEnd::Busy),
                Told::Later => {}
            }
        }
    }

    /// Reads no faster than frames should come. What comes faster waits at the sender.
    async fn pause(&mut self) {
        let now = Instant::now();
        if self.next_at > now {
            if self.burst > 0 {
                self.burst -= 1;
            } else {
                self.tally.count(Count::Delayed);
                sleep_until(self.next_at).await;
            }
        } else {
            self.burst = HAVE_FRAME_BURST;
        }
        self.next_at = Instant::now() + HAVE_FRAME_PAUSE;
    }
}
