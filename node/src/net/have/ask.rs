//! Asks a peer which chunks it holds, and reads what it tells.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use dhtfs_store::ManifestCid;
use futures::{AsyncRead, AsyncWriteExt as _};
use libp2p::{PeerId, Stream, StreamProtocol};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::tally::{Count, Tally};
use super::wire::{Told, read_kind, read_rest, write_question};
use crate::core::fetch::HaveUpdate;
use crate::net::limits::{
    HAVE_ANSWER_TIMEOUT, HAVE_FRAME_BURST, HAVE_FRAME_PAUSE, HAVE_FRAME_TIMEOUT, MAX_LATER_FRAMES,
};
use crate::net::places::Place;
use crate::net::streams::{Control, is_refusal};

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
    frames: Frames<Stream>,
    _place: Place,
}

/// What a peer tells, frame by frame.
#[derive(Debug)]
struct Frames<T> {
    io: T,
    chunks: u32,
    /// Frames that may be read without a pause.
    burst: u32,
    next_at: Instant,
    /// Until when the first must have begun; `None` once it has.
    answer_by: Option<Instant>,
    /// Frames of kinds that are not known.
    later: u32,
    tally: Arc<Tally>,
}

impl HaveStream {
    /// Asks a connected peer about a content that unfolds to `chunks` chunks.
    pub(crate) async fn open(
        control: Control,
        protocol: StreamProtocol,
        tally: Arc<Tally>,
        peer: PeerId,
        (root, chunks): (ManifestCid, u32),
    ) -> Result<Self, HaveEnd> {
        let place = tally.place(peer).ok_or(HaveEnd::Busy)?;
        tally.count(Count::Asked);
        let opening = async {
            let mut stream = control.open_early(peer, protocol).await.map_err(|_| HaveEnd::Closed)?;
            write_question(&mut stream, &root).await.map_err(|_| HaveEnd::Closed)?;
            stream.flush().await.map_err(|_| HaveEnd::Closed)?;
            Ok(stream)
        };
        let stream = timeout(OPEN_TIMEOUT, opening).await.map_err(|_| HaveEnd::Closed)??;
        Ok(Self { frames: Frames::new(stream, chunks, tally), _place: place })
    }

    /// What the peer tells next. Not cancel-safe: dropping the future loses a frame that has begun.
    ///
    /// # Errors
    /// When the stream has ended; nothing follows then, and nothing follows [`HaveUpdate::All`].
    pub async fn next(&mut self) -> Result<HaveUpdate, HaveEnd> {
        self.frames.next().await
    }
}

impl<T: AsyncRead + Unpin> Frames<T> {
    fn new(io: T, chunks: u32, tally: Arc<Tally>) -> Self {
        let now = Instant::now();
        let answer_by = Some(now + HAVE_ANSWER_TIMEOUT);
        Self { io, chunks, burst: HAVE_FRAME_BURST, next_at: now, answer_by, later: 0, tally }
    }

    async fn next(&mut self) -> Result<HaveUpdate, HaveEnd> {
        loop {
            let kind = read_kind(&mut self.io);
            let kind = match self.answer_by {
                Some(by) => timeout_at(by, kind).await.map_err(|_| {
                    self.tally.count(Count::Malformed);
                    HaveEnd::Closed
                })?,
                None => kind.await,
            };
            let kind = match kind {
                Ok(Some(kind)) => kind,
                Err(error) if is_refusal(&error) => {
                    self.tally.count(Count::Unsupported);
                    return Err(HaveEnd::Unsupported);
                }
                Ok(None) | Err(_) => return Err(HaveEnd::Closed),
            };
            self.pause().await;
            let rest = timeout(HAVE_FRAME_TIMEOUT, read_rest(&mut self.io, kind, self.chunks)).await;
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
            if told != Told::Later {
                self.answer_by = None;
            }
            match told {
                Told::All => return Ok(HaveUpdate::All),
                Told::Map(set) => return Ok(HaveUpdate::Map(set)),
                Told::More(set) => return Ok(HaveUpdate::More(set)),
                Told::Unknown => return Err(HaveEnd::Unknown),
                Told::Busy => return Err(HaveEnd::Busy),
                Told::Later if self.later >= MAX_LATER_FRAMES => {
                    self.tally.count(Count::Malformed);
                    return Err(HaveEnd::Malformed);
                }
                Told::Later => self.later += 1,
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::pin::Pin;
    use std::task::{Context, Poll};

    use dhtfs_store::ChunkSet;
    use futures::AsyncReadExt as _;
    use futures::io::Cursor;
    use proptest::prelude::*;

    use super::*;

    /// Says nothing and does not end.
    struct Silence;

    impl AsyncRead for Silence {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
    }

    const CHUNKS: u32 = 10;

    fn frames<T: AsyncRead + Unpin>(io: T) -> Frames<T> {
        Frames::new(io, CHUNKS, Arc::new(Tally::default()))
    }

    /// An empty map, and a frame of a later version.
    const MAP: [u8; 3] = [1, 1, 1];
    const LATER: [u8; 2] = [9, 0];

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_is_given_up_and_who_did_may_be_silent() {
        let begun = Instant::now();
        let mut silent = frames(Cursor::new(LATER.repeat(2)).chain(Silence));
        assert_eq!(silent.next().await, Err(HaveEnd::Closed));
        assert_eq!(begun.elapsed().as_secs(), HAVE_ANSWER_TIMEOUT.as_secs());
        let mut answers = frames(Cursor::new(MAP).chain(Silence));
        assert_eq!(answers.next().await, Ok(HaveUpdate::Map(ChunkSet::new(CHUNKS))));
        assert!(timeout(HAVE_ANSWER_TIMEOUT * 100, answers.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_frames_of_later_versions_are_skipped() {
        let skipped = MAX_LATER_FRAMES as usize;
        let mut stream = frames(Cursor::new([LATER.repeat(skipped), MAP.to_vec(), LATER.to_vec()].concat()));
        assert!(stream.next().await.is_ok());
        assert_eq!(stream.next().await, Err(HaveEnd::Malformed));
    }

    proptest! {
        #[test]
        fn whatever_is_told_ends_and_only_sets_of_the_right_length_come_out(
            bytes in prop::collection::vec(prop_oneof![3 => 0_u8..6, 1 => any::<u8>()], 0..200),
        ) {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let mut stream = frames(Cursor::new(&bytes));
                let mut told = 0;
                while let Ok(update) = stream.next().await {
                    told += 1;
                    assert!(told * 2 <= bytes.len(), "more frames than bytes allow");
                    match update {
                        HaveUpdate::All => {}
                        HaveUpdate::Map(set) | HaveUpdate::More(set) => assert_eq!(set.len(), CHUNKS),
                    }
                }
                assert!(stream.later <= MAX_LATER_FRAMES);
            });
        }
    }
}
