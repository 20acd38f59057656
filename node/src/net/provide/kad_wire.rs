//! kad messages about provider records, for peers that speak nothing better: the part of libp2p's `dht.proto` that
//! is needed, each message with its length in front as an unsigned varint.
//!
//! Source: <https://github.com/libp2p/specs/blob/master/kad-dht/README.md>. A holder reads any number of messages from
//! one stream; ADD_PROVIDER has no answer.

use std::io;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::{Multiaddr, PeerId};
use prost::Message as _;

use crate::net::kad::digest_key;
use crate::net::limits::MAX_KAD_MESSAGE_LEN;
use crate::net::records::Digest;

const ADD_PROVIDER: i32 = 2;
const GET_PROVIDERS: i32 = 3;
const FIND_NODE: i32 = 4;

/// Bytes of a length: enough for [`MAX_KAD_MESSAGE_LEN`].
const MAX_VARINT_LEN: usize = 3;

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct KadMessage {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
    #[prost(message, repeated, tag = "9")]
    providers: Vec<KadPeer>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct KadPeer {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    addrs: Vec<Vec<u8>>,
    #[prost(int32, tag = "3")]
    connection: i32,
}

/// The message by which `provider` says that it provides `digest`.
pub(crate) fn add_provider(digest: &Digest, provider: PeerId, addrs: &[Multiaddr]) -> Vec<u8> {
    let addrs = addrs.iter().map(Multiaddr::to_vec).collect();
    let peer = KadPeer { id: provider.to_bytes(), addrs, connection: 1 };
    let message = KadMessage { kind: ADD_PROVIDER, key: digest_key(digest), providers: vec![peer] };
    message.encode_length_delimited_to_vec()
}

/// Asks on an open stream whether the other side names `provider` for `digest`.
///
/// # Errors
/// If the stream fails, or the answer is no answer to this.
pub(crate) async fn is_named<T>(io: &mut T, digest: &Digest, provider: PeerId) -> io::Result<bool>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let ask = KadMessage { kind: GET_PROVIDERS, key: digest_key(digest), providers: Vec::new() };
    let answer = answer_to(io, &ask).await?;
    let id = provider.to_bytes();
    Ok(answer.providers.iter().any(|peer| peer.id == id))
}

/// Asks on an open stream which peers are close to `peer`, and is content with any answer.
///
/// # Errors
/// If the stream fails, or the answer is no answer to this.
pub(crate) async fn is_answered<T>(io: &mut T, peer: PeerId) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let ask = KadMessage { kind: FIND_NODE, key: peer.to_bytes(), providers: Vec::new() };
    answer_to(io, &ask).await.map(drop)
}

async fn answer_to<T>(io: &mut T, ask: &KadMessage) -> io::Result<KadMessage>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    io.write_all(&ask.encode_length_delimited_to_vec()).await?;
    io.flush().await?;
    let mut bytes = vec![0; read_len(io).await?];
    io.read_exact(&mut bytes).await?;
    let answer = KadMessage::decode(bytes.as_slice())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    if answer.kind != ask.kind {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer to something else"));
    }
    Ok(answer)
}

async fn read_len<T: AsyncRead + Unpin>(io: &mut T) -> io::Result<usize> {
    let mut len = 0_usize;
    for place in 0..MAX_VARINT_LEN {
        let mut byte = [0];
        io.read_exact(&mut byte).await?;
        let [byte] = byte;
        len |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 && len <= MAX_KAD_MESSAGE_LEN {
            return Ok(len);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "a kad message that is too long"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use futures::executor::block_on;
    use futures::io::Cursor;

    use super::*;

    /// What is written goes nowhere, what is read was there before.
    struct Canned(Cursor<Vec<u8>>);

    impl AsyncRead for Canned {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            buf: &mut [u8],
        ) -> std::task::Poll<io::Result<usize>> {
            std::pin::Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Canned {
        fn poll_write(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buf: &[u8],
        ) -> std::task::Poll<io::Result<usize>> {
            std::task::Poll::Ready(Ok(buf.len()))
        }
        fn poll_flush(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
        fn poll_close(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Ready(Ok(()))
        }
    }

    fn ask(answer: Vec<u8>, provider: PeerId) -> io::Result<bool> {
        block_on(is_named(&mut Canned(Cursor::new(answer)), &[1; 32], provider))
    }

    #[test]
    fn a_record_is_laid_out_as_the_specification_says() {
        let provider = PeerId::random();
        let addr: Multiaddr = "/ip4/1.2.3.4/tcp/5".parse().unwrap();
        let bytes = add_provider(&[9; 32], provider, std::slice::from_ref(&addr));
        let id = provider.to_bytes();
        let mut peer = vec![0x0a, u8::try_from(id.len()).unwrap()];
        peer.extend(&id);
        peer.extend([0x12, u8::try_from(addr.len()).unwrap()]);
        peer.extend(addr.as_ref());
        peer.extend([0x18, 1]);
        let mut message = vec![0x08, 2, 0x12, 34, 0x12, 0x20];
        message.extend([9; 32]);
        message.extend([0x4a, u8::try_from(peer.len()).unwrap()]);
        message.extend(peer);
        assert_eq!(usize::from(bytes[0]), message.len());
        assert_eq!(bytes[1..], message);
    }

    #[test]
    fn an_answer_names_a_provider_or_does_not() {
        let provider = PeerId::random();
        let peer = |id: PeerId| KadPeer { id: id.to_bytes(), addrs: Vec::new(), connection: 0 };
        let others: Vec<_> = (0..19).map(|_| peer(PeerId::random())).collect();
        let mut answer = KadMessage { kind: GET_PROVIDERS, key: Vec::new(), providers: others };
        assert!(!ask(answer.encode_length_delimited_to_vec(), provider).unwrap());
        answer.providers.push(peer(provider));
        assert!(ask(answer.encode_length_delimited_to_vec(), provider).unwrap());
        answer.kind = ADD_PROVIDER;
        assert!(ask(answer.encode_length_delimited_to_vec(), provider).is_err());
    }

    #[test]
    fn an_answer_that_is_too_long_is_not_awaited() {
        let provider = PeerId::random();
        for bytes in [vec![0xff, 0xff, 0xff, 0x7f], vec![0x81, 0x80, 0x10], vec![5, 1], vec![]] {
            assert!(ask(bytes.clone(), provider).is_err(), "{bytes:?}");
        }
    }
}
