//! Answers the provide protocol: takes records of others, and lets them be taken back.
//!
//! A task of its own reads the streams; the event loop, which owns the records, is asked frame by frame, so that a
//! peer that sends fast waits for the event loop and not the other way round.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{AsyncWriteExt as _, StreamExt as _};
use libp2p::{Multiaddr, PeerId, Stream};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::wire::{Answer, Frame, read_frame, write_answer};
use crate::net::command::{Command, RecordsAsk};
use crate::net::command_queue::WeakCommandSender;
use crate::net::limits::{MAX_PROVIDE_STREAMS, MAX_PROVIDE_STREAMS_PER_PEER};
use crate::net::streams::IncomingStreams;

/// How long a peer may take to send its next frame, and to take the answer to the last.
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves `incoming` until `ending` says that the event loop has gone.
pub(crate) async fn serve(
    mut incoming: IncomingStreams,
    commands: WeakCommandSender,
    mut ending: oneshot::Receiver<()>,
) {
    let mut running = FuturesUnordered::new();
    let mut open: BTreeMap<PeerId, usize> = BTreeMap::new();
    loop {
        tokio::select! {
            Some((peer, stream)) = incoming.next() => {
                let of_peer = open.entry(peer).or_default();
                if *of_peer >= MAX_PROVIDE_STREAMS_PER_PEER || running.len() >= MAX_PROVIDE_STREAMS {
                    if *of_peer == 0 {
                        open.remove(&peer);
                    }
                    refused(&commands);
                    continue;
                }
                *of_peer += 1;
                let commands = commands.clone();
                running.push(async move {
                    if let Err(error) = converse(peer, stream, &commands).await {
                        tracing::debug!(%peer, %error, "a stream of provider records broke off");
                    }
                    peer
                });
            }
            Some(peer) = running.next() => {
                if let Some(of_peer) = open.get_mut(&peer) {
                    *of_peer = of_peer.saturating_sub(1);
                    if *of_peer == 0 {
                        open.remove(&peer);
                    }
                }
            }
            _ = &mut ending => return,
        }
    }
}

fn refused(commands: &WeakCommandSender) {
    if let Some(commands) = commands.upgrade() {
        // A loop that has gone counts no more, and one that is this far behind has more urgent work.
        let _ = commands.send_now(Command::ProvideStreamRefused);
    }
}

async fn converse(peer: PeerId, mut stream: Stream, commands: &WeakCommandSender) -> io::Result<()> {
    let mut addrs = Vec::new();
    loop {
        let frame = in_time(read_frame(&mut stream)).await?;
        let ask = match frame {
            None => return in_time(stream.close()).await,
            Some(Frame::Addresses(new)) => {
                addrs = new;
                continue;
            }
            Some(frame) => ask_of(frame, &addrs),
        };
        let Some(answer) = records(commands, peer, ask).await else { return Ok(()) };
        in_time(async {
            write_answer(&mut stream, &answer).await?;
            stream.flush().await
        })
        .await?;
    }
}

fn ask_of(frame: Frame, addrs: &[Multiaddr]) -> RecordsAsk {
    match frame {
        Frame::Provide(digests) => RecordsAsk::Add { addrs: addrs.to_vec(), digests },
        Frame::Withdraw(digests) => RecordsAsk::Remove(digests),
        Frame::Held(digests) => RecordsAsk::Held(digests),
        Frame::Goodbye | Frame::Addresses(_) => RecordsAsk::Away,
    }
}

/// `None` if the event loop has gone.
async fn records(commands: &WeakCommandSender, peer: PeerId, ask: RecordsAsk) -> Option<Answer> {
    let (reply, answer) = oneshot::channel();
    commands.upgrade()?.send(Command::Records { peer, ask, reply }).await.ok()?;
    answer.await.ok()
}

async fn in_time<T>(io: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(FRAME_TIMEOUT, io).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
