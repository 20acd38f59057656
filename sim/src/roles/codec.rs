//! The node's own exchange codec, with a write side that can break the rules.

use std::{io, sync::Arc, time::Duration};

use dhtfs_node::net::exchange::{ExchangeCodec, ExchangeRequest, ExchangeResponse};
use futures::{AsyncRead, AsyncWrite, AsyncWriteExt as _, io::Cursor};
use libp2p::{StreamProtocol, request_response::Codec};
use tokio::time::sleep;

use super::counters::{Counters, add};

/// Bytes that [`Reply::Overlong`] adds every [`PACE`]: 1 MiB a second.
const BLOCK_LEN: usize = 64 * 1024;
const PACE: Duration = Duration::from_micros(62_500);

/// Pause between two bytes of [`Reply::Drip`].
const DRIP: Duration = Duration::from_secs(1);

/// How long a stream that never ends is held. No longer, because the other side may have left it long ago.
const HELD: Duration = Duration::from_secs(600);

/// An answer, right or wrong.
#[derive(Debug)]
pub(super) enum Reply {
    /// By the rules.
    Plain(ExchangeResponse),
    /// The length of these bytes, then half of them.
    Truncated(Vec<u8>),
    /// The length of these bytes, all of them, and then others without end.
    Overlong(Vec<u8>),
    /// The length of these bytes, all of them, and then neither more nor an end.
    Held(Vec<u8>),
    /// By the rules, one byte a second.
    Drip(Vec<u8>),
}

/// Reads as [`ExchangeCodec`], writes requests as it does, and replies as it is told.
#[derive(Debug, Clone, Default)]
pub(super) struct RoleCodec {
    counters: Arc<Counters>,
}

impl RoleCodec {
    /// A codec that counts what it writes in answers.
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        Self { counters }
    }

    async fn send<T>(&self, io: &mut T, bytes: &[u8]) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        // In pieces, so that what the other side refuses is not counted as sent.
        for piece in bytes.chunks(BLOCK_LEN) {
            io.write_all(piece).await?;
            add(&self.counters.bytes_sent, piece.len());
        }
        io.flush().await
    }
}

/// An honest answer as bytes.
async fn encoded(protocol: &StreamProtocol, response: ExchangeResponse) -> io::Result<Vec<u8>> {
    let mut out = Cursor::new(Vec::new());
    ExchangeCodec.write_response(protocol, &mut out, response).await?;
    Ok(out.into_inner())
}

impl Codec for RoleCodec {
    type Protocol = StreamProtocol;
    type Request = ExchangeRequest;
    type Response = Reply;

    async fn read_request<T>(&mut self, protocol: &StreamProtocol, io: &mut T) -> io::Result<ExchangeRequest>
    where
        T: AsyncRead + Unpin + Send,
    {
        ExchangeCodec.read_request(protocol, io).await
    }

    async fn read_response<T>(&mut self, protocol: &StreamProtocol, io: &mut T) -> io::Result<Reply>
    where
        T: AsyncRead + Unpin + Send,
    {
        ExchangeCodec.read_response(protocol, io).await.map(Reply::Plain)
    }

    async fn write_request<T>(
        &mut self,
        protocol: &StreamProtocol,
        io: &mut T,
        request: ExchangeRequest,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        ExchangeCodec.write_request(protocol, io, request).await
    }

    async fn write_response<T>(
        &mut self,
        protocol: &StreamProtocol,
        io: &mut T,
        reply: Reply,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let data = |data| encoded(protocol, ExchangeResponse::Data(data));
        match reply {
            Reply::Plain(response) => self.send(io, &encoded(protocol, response).await?).await,
            Reply::Truncated(bytes) => {
                let bytes = data(bytes).await?;
                self.send(io, &bytes[..bytes.len().div_ceil(2)]).await
            }
            Reply::Overlong(bytes) => {
                self.send(io, &data(bytes).await?).await?;
                loop {
                    self.send(io, &[0; BLOCK_LEN]).await?;
                    sleep(PACE).await;
                }
            }
            Reply::Held(bytes) => {
                self.send(io, &data(bytes).await?).await?;
                sleep(HELD).await;
                Ok(())
            }
            Reply::Drip(bytes) => {
                for byte in data(bytes).await? {
                    self.send(io, &[byte]).await?;
                    sleep(DRIP).await;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use dhtfs_node::net::exchange::{ExchangeCodec, ExchangeResponse};
    use futures::{executor::block_on, io::Cursor};
    use libp2p::{StreamProtocol, request_response::Codec as _};

    use super::{Reply, RoleCodec};

    const PROTOCOL: StreamProtocol = StreamProtocol::new("/dhtfs/test/exchange/1");

    fn written(reply: Reply) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        block_on(RoleCodec::default().write_response(&PROTOCOL, &mut out, reply)).unwrap();
        out.into_inner()
    }

    #[test]
    fn a_plain_reply_has_the_bytes_of_the_node() {
        for response in
            [ExchangeResponse::Data(vec![1, 2]), ExchangeResponse::Missing, ExchangeResponse::Busy]
        {
            let mut expected = Cursor::new(Vec::new());
            block_on(ExchangeCodec.write_response(&PROTOCOL, &mut expected, response.clone())).unwrap();
            assert_eq!(written(Reply::Plain(response)), expected.into_inner());
        }
    }

    #[test]
    fn a_truncated_reply_is_an_early_end_to_the_node() {
        let bytes = written(Reply::Truncated(vec![1; 100]));
        let read = block_on(ExchangeCodec.read_response(&PROTOCOL, &mut Cursor::new(bytes)));
        assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    }
}
