//! Streams over one connection: yamux (<https://github.com/hashicorp/yamux/blob/master/spec.md>) with limits that
//! libp2p's own wrapper does not let one set.
//!
//! - The receive windows of a connection sum to [`MAX_MUXER_WINDOW`] at most, where the default is 1 GiB a peer may fill.
//! - Data goes in frames of 64 KiB instead of 16: a quarter of the frames, wake-ups, records and calls of the system.

use std::collections::VecDeque;
use std::future::{Ready, ready};
use std::io;
use std::iter;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use futures::{AsyncRead, AsyncWrite};
use libp2p::core::UpgradeInfo;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use yamux::{Connection, ConnectionError, Mode};

use super::gather::Gather;
use super::limits::{MAX_MUXER_STREAMS, MAX_MUXER_WINDOW, MAX_NEW_STREAMS};

/// Length of the body of a full frame in bytes: with its head of 12 bytes it fills four TLS records, which is also how much
/// rustls takes at once.
const BODY_LEN: usize = 64 * 1024 - 12;

/// How a node uses yamux; an upgrade of a connection.
#[derive(Debug, Clone)]
pub struct MuxerConfig(yamux::Config);

impl MuxerConfig {
    pub(super) fn new() -> Self {
        let mut config = yamux::Config::default();
        config
            .set_max_num_streams(MAX_MUXER_STREAMS)
            .set_max_connection_receive_window(Some(MAX_MUXER_WINDOW))
            .set_split_send_size(BODY_LEN);
        Self(config)
    }

    fn muxer<C: AsyncRead + AsyncWrite + Unpin>(self, io: C, mode: Mode) -> Muxer<C> {
        let connection = Connection::new(Gather::new(io), self.0, mode);
        Muxer { connection, arrived: VecDeque::new(), waker: None }
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
    connection: Connection<Gather<C>>,
    /// Streams of the peer that came while nobody asked for one: yamux reads, and with that goes on, only by taking
    /// them. Yamux itself refuses more than [`MAX_MUXER_STREAMS`]; those above [`MAX_NEW_STREAMS`] would be reset.
    arrived: VecDeque<yamux::Stream>,
    /// Who asked for one.
    waker: Option<Waker>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Muxer<C> {
    fn poll_arrived(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<yamux::Stream>> {
        self.connection
            .poll_next_inbound(cx)
            .map(|next| next.unwrap_or(Err(ConnectionError::Closed)).map_err(failed))
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> StreamMuxer for Muxer<C> {
    type Substream = yamux::Stream;
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
        self.connection.poll_new_outbound(cx).map_err(failed)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.poll_close(cx).map_err(failed)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        let Poll::Ready(stream) = self.poll_arrived(cx)? else { return Poll::Pending };
        if self.arrived.len() < MAX_NEW_STREAMS {
            self.arrived.push_back(stream);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        } else {
            tracing::debug!("a peer opens streams faster than they are taken; reset");
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
    use std::future::poll_fn;

    use futures::future::{join, select};
    use futures::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::io::DuplexStream;
    use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

    use super::*;

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
            if listener.arrived.len() < MAX_NEW_STREAMS { Poll::Pending } else { Poll::Ready(()) }
        });
        // The dialer writes while the listener only reads.
        run(&mut dialer, arrived).await;
        assert_eq!(listener.arrived.len(), MAX_NEW_STREAMS);
    }
}
