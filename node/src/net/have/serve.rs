//! The streams on which others ask what this node holds, step by step; whoever runs the steps decides what is said.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use dhtfs_store::ManifestCid;
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::{PeerId, Stream};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::tally::{Count, Tally};
use super::wire::{frame_parts, read_question};
use crate::core::have::{HaveStats, Telling};
use crate::net::limits::HAVE_FRAME_TIMEOUT;
use crate::net::streams::IncomingStreams;

/// How long a peer may take to ask after it opened a stream.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Streams that others open.
pub struct Incoming {
    streams: IncomingStreams,
    tally: Arc<Tally>,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").finish_non_exhaustive()
    }
}

/// A stream of another peer.
#[derive(Debug)]
pub struct Asked {
    /// Whose it is.
    pub peer: PeerId,
    stream: Stream,
    tally: Arc<Tally>,
}

/// What became of a step.
#[derive(Debug)]
pub enum Step {
    /// The peer asked for this; say something.
    Question(Asked, ManifestCid),
    /// It took what was said.
    Took(Asked),
    /// The stream has ended.
    Closed,
}

/// What to say, given to a stream that waits.
pub type Said = oneshot::Sender<Telling>;

impl Incoming {
    pub(crate) fn new(streams: IncomingStreams, tally: Arc<Tally>) -> Self {
        Self { streams, tally }
    }

    /// The next stream; `None` when the network has gone.
    pub async fn next(&mut self) -> Option<Asked> {
        let (peer, mut stream) = self.streams.next().await?;
        // Waiting for news is no reason to keep a connection: who wants that opens it and uses it.
        stream.ignore_for_keep_alive();
        Some(Asked { peer, stream, tally: self.tally.clone() })
    }

    /// Takes over the totals of the machine.
    pub fn count(&self, stats: &HaveStats) {
        self.tally.set(Count::Refused, stats.refused);
        self.tally.set(Count::Busy, stats.busy);
        self.tally.set(Count::Looks, stats.looks);
        self.tally.set(Count::Maps, stats.maps);
        self.tally.set(Count::News, stats.news);
    }
}

impl Asked {
    /// Reads the question.
    pub async fn question(mut self) -> Step {
        match timeout(QUESTION_TIMEOUT, read_question(&mut self.stream)).await {
            Ok(Ok(root)) => {
                self.tally.count(Count::Served);
                Step::Question(self, root)
            }
            Ok(Err(_)) | Err(_) => self.broken(),
        }
    }

    /// Waits until there is something to say, says it, and waits until it is on its way. The end of the peer's side, and
    /// anything that it says unasked, ends the stream.
    pub fn say(mut self) -> (Said, impl Future<Output = Step> + Send) {
        let (said, wait) = oneshot::channel::<Telling>();
        let step = async move {
            let mut byte = [0];
            let telling = tokio::select! {
                telling = wait => telling,
                read = self.stream.read(&mut byte) => {
                    return if matches!(read, Ok(1..)) { self.broken() } else { Step::Closed };
                }
            };
            // Nobody will say anything any more.
            let Ok(telling) = telling else { return Step::Closed };
            let (head, rest) = frame_parts(&telling);
            let written = async {
                self.stream.write_all(&head).await?;
                self.stream.write_all(rest).await?;
                if telling.is_last() { self.stream.close().await } else { self.stream.flush().await }
            };
            match timeout(HAVE_FRAME_TIMEOUT, written).await {
                Ok(Ok(())) => {
                    self.tally.add(Count::ToldLen, (head.len() + rest.len()) as u64);
                    Step::Took(self)
                }
                Ok(Err(_)) => Step::Closed,
                Err(_) => self.broken(),
            }
        };
        (said, step)
    }

    fn broken(self) -> Step {
        tracing::debug!(peer = %self.peer, "a stream of have-maps broke off");
        self.tally.count(Count::ServeBroken);
        Step::Closed
    }
}
