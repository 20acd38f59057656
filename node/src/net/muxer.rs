//! Streams over one connection: yamux (<https://github.com/hashicorp/yamux/blob/master/spec.md>) with limits that
//! libp2p's own wrapper does not let one set.
//!
//! - The receive windows of a connection sum to [`MAX_MUXER_WINDOW`] at most, where the default is 1 GiB a peer may fill.
//! - What waits to be sent on a connection is [`MAX_SEND_QUEUE`](super::limits::MAX_SEND_QUEUE) at most.
//! - Data goes in frames of 64 KiB instead of 16: a quarter of the frames, wake-ups, records and calls of the system.

use std::collections::VecDeque;
use std::future::{Ready, ready};
use std::io;
use std::iter;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::UpgradeInfo;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use yamux::{Connection, ConnectionError, Mode};

use super::gather::Gather;
use super::limits::{MAX_FRAME_BODY, MAX_MUXER_STREAMS, MAX_MUXER_WINDOW};
use super::send_queue::{Passing, QueuedStream, SendQueue};

/// How a node uses yamux; an upgrade of a connection.
#[derive(Debug, Clone)]
pub struct MuxerConfig(yamux::Config);

impl MuxerConfig {
    pub(super) fn new() -> Self {
        let mut config = yamux::Config::default();
        config
            .set_max_num_streams(MAX_MUXER_STREAMS)
            .set_max_connection_receive_window(Some(MAX_MUXER_WINDOW))
            .set_split_send_size(MAX_FRAME_BODY);
        Self(config)
    }

    fn muxer<C: AsyncRead + AsyncWrite + Unpin>(self, io: C, mode: Mode) -> Muxer<C> {
        let queue = SendQueue::default();
        let connection = Connection::new(Passing::new(Gather::new(io), queue.clone()), self.0, mode);
        Muxer { connection, queue, arrived: VecDeque::new(), waker: None }
    }
}

impl UpgradeInfo for MuxerConfig {
    type Info = &'static str;
    type InfoIter = iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        iter::once("/yamux/1.0.0")
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> InboundConnectionUpgrade<C> for MuxerConfig {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Output>>;

    fn upgrade_inbound(self, io: C, _: Self::Info) -> Self::Future {
        ready(Ok(self.muxer(io, Mode::Server)))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> OutboundConnectionUpgrade<C> for MuxerConfig {
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Output>>;

    fn upgrade_outbound(self, io: C, _: Self::Info) -> Self::Future {
        ready(Ok(self.muxer(io, Mode::Client)))
    }
}

/// A connection with many streams.
#[derive(Debug)]
pub struct Muxer<C> {
    connection: Connection<Passing<Gather<C>>>,
    queue: SendQueue,
    /// Streams of the peer that came while nobody asked for one: yamux reads, and with that goes on, only by taking
    /// them. There are [`MAX_MUXER_STREAMS`] at most: yamux refuses more.
    arrived: VecDeque<QueuedStream>,
    /// Who asked for one.
    waker: Option<Waker>,
}

impl<C> Drop for Muxer<C> {
    fn drop(&mut self) {
        self.queue.end();
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    fn poll_arrived(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<QueuedStream>> {
        self.connection
            .poll_next_inbound(cx)
            .map(|next| next.unwrap_or(Err(ConnectionError::Closed)).map_err(failed))
            .map_ok(|stream| self.queue.stream(stream))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = QueuedStream;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Self::Substream>> {
        if let Some(stream) = self.arrived.pop_front() {
            return Poll::Ready(Ok(stream));
        }
        let arrived = self.poll_arrived(cx);
        if arrived.is_pending() {
            self.waker = Some(cx.waker().clone());
        }
        arrived
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Self::Substream>> {
        let stream = ready!(self.connection.poll_new_outbound(cx).map_err(failed))?;
        Poll::Ready(Ok(self.queue.stream(stream)))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = self.connection.poll_close(cx).map_err(failed);
        // What is queued is still sent, but nothing is added: who waits for room learns of it now.
        self.queue.end();
        closed
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        let Poll::Ready(stream) = self.poll_arrived(cx)? else { return Poll::Pending };
        self.arrived.push_back(stream);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        // There may be more to read, and others to run before that.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

fn failed(error: ConnectionError) -> io::Error {
    match error {
        ConnectionError::Io(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;

    use futures::future::{join, join_all, select};
    use futures::stream::FuturesUnordered;
    use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
    use tokio::io::DuplexStream;
    use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

    use super::*;
    use crate::net::limits::MAX_SEND_QUEUE;

    type Pair = (Muxer<Compat<DuplexStream>>, Muxer<Compat<DuplexStream>>);

    async fn pair() -> Pair {
        let (one, other) = tokio::io::duplex(20_000);
        let config = MuxerConfig::new();
        let dialer = config.clone().upgrade_outbound(one.compat(), "").await.unwrap();
        (dialer, config.upgrade_inbound(other.compat(), "").await.unwrap())
    }

    /// Runs a connection until `done`.
    async fn run<C, T>(muxer: &mut Muxer<C>, done: impl Future<Output = T>) -> T
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let done = std::pin::pin!(done);
        let driven = poll_fn(|cx| Pin::new(&mut *muxer).poll(cx));
        match select(done, driven).await {
            futures::future::Either::Left((done, _)) => done,
            // The other end closed it; what came before that is there to be read.
            futures::future::Either::Right((ended, done)) => {
                assert!(ended.is_err());
                done.await
            }
        }
    }

    #[tokio::test]
    async fn streams_carry_bytes_both_ways() {
        let (mut dialer, mut listener) = pair().await;
        let mut stream = poll_fn(|cx| Pin::new(&mut dialer).poll_outbound(cx)).await.unwrap();
        let sent: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[2]).collect();
        let asking = async {
            stream.write_all(&sent).await.unwrap();
            stream.flush().await.unwrap();
            let mut back = vec![0; sent.len()];
            stream.read_exact(&mut back).await.unwrap();
            assert!(back == sent);
            stream.close().await.unwrap();
        };
        let echoing = async {
            let mut stream = poll_fn(|cx| Pin::new(&mut listener).poll_inbound(cx)).await.unwrap();
            run(&mut listener, async {
                let mut came = vec![0; sent.len()];
                stream.read_exact(&mut came).await.unwrap();
                stream.write_all(&came).await.unwrap();
                stream.flush().await.unwrap();
                // Until the dialer has it all and closes.
                assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
            })
            .await;
        };
        let asked = async {
            run(&mut dialer, asking).await;
            poll_fn(|cx| Pin::new(&mut dialer).poll_close(cx)).await.unwrap();
        };
        join(asked, echoing).await;
    }

    #[tokio::test]
    async fn streams_that_nobody_takes_wait() {
        let (mut dialer, mut listener) = pair().await;
        let mut streams = Vec::new();
        for _ in 0..MAX_MUXER_STREAMS {
            let mut stream = poll_fn(|cx| Pin::new(&mut dialer).poll_outbound(cx)).await.unwrap();
            stream.write_all(b"x").await.unwrap();
            streams.push(stream);
        }
        let arrived = poll_fn(|cx| {
            assert!(Pin::new(&mut listener).poll(cx).is_pending());
            if listener.arrived.len() < MAX_MUXER_STREAMS { Poll::Pending } else { Poll::Ready(()) }
        });
        // The dialer writes while the listener only reads.
        run(&mut dialer, arrived).await;
        assert_eq!(listener.arrived.len(), MAX_MUXER_STREAMS);
    }

    #[tokio::test]
    async fn a_peer_that_reads_nothing_is_sent_little() {
        let (mut dialer, mut listener) = pair().await;
        let mut streams = Vec::new();
        for _ in 0..32 {
            streams.push(poll_fn(|cx| Pin::new(&mut dialer).poll_outbound(cx)).await.unwrap());
        }
        // 8 MiB might go at once by the windows of the streams.
        let block = vec![7; 256 * 1024];
        let mut taken = vec![0; streams.len()];
        let filled = poll_fn(|cx| {
            for (stream, taken) in streams.iter_mut().zip(&mut taken) {
                while let Poll::Ready(len) = Pin::new(&mut *stream).poll_write(cx, &block[*taken..]) {
                    *taken += len.unwrap();
                }
            }
            assert!(Pin::new(&mut dialer).poll(cx).is_pending());
            Poll::Ready(())
        });
        filled.await;
        let sum: usize = taken.iter().sum();
        assert!((MAX_SEND_QUEUE..MAX_SEND_QUEUE + MAX_FRAME_BODY + 20_000).contains(&sum), "{sum} bytes");
        // A question is not kept back.
        streams[31].write_all(b"question").await.unwrap();
        // Once the peer reads, all of it arrives.
        let sending = run(&mut dialer, async {
            let sending =
                streams.iter_mut().zip(&taken).map(|(stream, taken)| stream.write_all(&block[*taken..]));
            join_all(sending).await.into_iter().for_each(|sent| sent.unwrap());
            join_all(streams.iter_mut().map(|stream| stream.close()))
                .await
                .into_iter()
                .for_each(|closed| closed.unwrap());
            std::future::pending::<()>().await;
        });
        let reading = async {
            let mut came = 0;
            let mut reading = FuturesUnordered::new();
            for _ in 0..taken.len() {
                let mut stream = poll_fn(|cx| Pin::new(&mut listener).poll_inbound(cx)).await.unwrap();
                reading.push(async move { stream.read_to_end(&mut Vec::new()).await.unwrap() });
            }
            run(&mut listener, async {
                while let Some(len) = reading.next().await {
                    came += len;
                }
            })
            .await;
            came
        };
        let (sending, reading) = (std::pin::pin!(sending), std::pin::pin!(reading));
        let futures::future::Either::Right((came, _)) = select(sending, reading).await else { panic!() };
        assert_eq!(came, taken.len() * block.len() + b"question".len());
    }

    #[tokio::test]
    async fn streams_take_turns_and_a_message_waits_for_few_of_them() {
        const STREAMS: usize = 6;
        const ENOUGH: usize = 16 << 20;
        let (mut dialer, mut listener) = pair().await;
        let mut streams = Vec::new();
        for _ in 0..=STREAMS {
            streams.push(poll_fn(|cx| Pin::new(&mut dialer).poll_outbound(cx)).await.unwrap());
        }
        let mut message = streams.pop().unwrap();
        let came = [const { Cell::new(0_usize) }; STREAMS];
        let (sent_at, came_at) = (Cell::new(0), Cell::new(0));
        let all = || came.iter().map(Cell::get).sum::<usize>();
        let block = vec![7; 1 << 20];
        let sending = run(&mut dialer, async {
            let blocks =
                streams.iter_mut().map(async |stream| while stream.write_all(&block).await.is_ok() {});
            let message = async {
                // So that the listener has it.
                message.write_all(&[1]).await.unwrap();
                while all() < ENOUGH / 2 {
                    tokio::task::yield_now().await;
                }
                sent_at.set(all());
                message.write_all(&[9; 8192]).await.unwrap();
                std::future::pending::<()>().await;
            };
            join(join_all(blocks), message).await;
        });
        let reading = async {
            let mut accepted = Vec::new();
            for _ in 0..=STREAMS {
                accepted.push(poll_fn(|cx| Pin::new(&mut listener).poll_inbound(cx)).await.unwrap());
            }
            let mut counts = came.iter();
            let mut reading = FuturesUnordered::new();
            for mut stream in accepted {
                let mut bytes = vec![0; 100_000];
                stream.read_exact(&mut bytes[..1]).await.unwrap();
                let count = if bytes[0] == 7 { counts.next() } else { None };
                let (came_at, all) = (&came_at, &all);
                reading.push(async move {
                    loop {
                        let len = stream.read(&mut bytes).await.unwrap();
                        match count {
                            Some(count) => count.set(count.get() + len),
                            None => came_at.set(all()),
                        }
                    }
                });
            }
            let enough = async {
                while all() < ENOUGH {
                    tokio::task::yield_now().await;
                }
            };
            run(&mut listener, async {
                select(std::pin::pin!(enough), reading.next()).await;
            })
            .await;
        };
        let (sending, reading) = (std::pin::pin!(sending), std::pin::pin!(reading));
        select(sending, reading).await;
        let (least, most) = (came.iter().map(Cell::get).min(), came.iter().map(Cell::get).max());
        assert!(least.unwrap() * 2 > most.unwrap(), "{came:?}");
        let between = came_at.get() - sent_at.get();
        assert!(came_at.get() > 0 && between < 2 << 20, "{between} bytes came before the message");
    }

    #[tokio::test]
    async fn who_waits_for_room_learns_that_the_connection_has_gone() {
        let (mut dialer, _listener) = pair().await;
        let mut stream = poll_fn(|cx| Pin::new(&mut dialer).poll_outbound(cx)).await.unwrap();
        stream.fill_queue();
        let writing = tokio::spawn(async move { stream.write_all(&[0; 100_000]).await });
        // It waits.
        tokio::task::yield_now().await;
        assert!(!writing.is_finished());
        drop(dialer);
        assert!(writing.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn who_waits_for_room_learns_that_the_connection_is_being_closed() {
        let (mut dialer, _listener) = pair().await;
        let mut stream = poll_fn(|cx| Pin::new(&mut dialer).poll_outbound(cx)).await.unwrap();
        // More than the pipe takes: closing waits for a listener that reads nothing.
        stream.write_all(&[0; 100_000]).await.unwrap();
        stream.fill_queue();
        let writing = tokio::spawn(async move { stream.write_all(&[0; 100_000]).await });
        tokio::task::yield_now().await;
        assert!(!writing.is_finished());
        let closed = poll_fn(|cx| Poll::Ready(Pin::new(&mut dialer).poll_close(cx))).await;
        assert!(closed.is_pending());
        assert!(writing.await.unwrap().is_err());
    }
}
