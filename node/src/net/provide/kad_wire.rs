//! kad messages about provider records, for peers that speak nothing better: the part of libp2p's `dht.proto` that
//! is needed, each message with its length in front as an unsigned varint.
//!
//! Source: <https://github.com/libp2p/specs/blob/master/kad-dht/README.md>. A holder reads any number of messages from
//! one stream; ADD_PROVIDER has no answer.

use std::io;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::{Multiaddr, PeerId};
use prost::Message as _;

use crate::net::kad::{REPLICATION, digest_key};
use crate::net::limits::{MAX_ADDRS_PER_PEER, MAX_KAD_MESSAGE_LEN};
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
    #[prost(message, repeated, tag = "8")]
    closer: Vec<KadPeer>,
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
    let message =
        KadMessage { kind: ADD_PROVIDER, key: digest_key(digest), closer: Vec::new(), providers: vec![peer] };
    message.encode_length_delimited_to_vec()
}

/// Asks on an open stream which peers are close to `peer`, and is content with any answer.
///
/// # Errors
/// If the stream fails, or the answer is no answer to this.
pub(crate) async fn is_answered<T>(io: &mut T, peer: PeerId) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let ask = question(FIND_NODE, peer.to_bytes());
    answer_to(io, &ask).await.map(drop)
}

/// What a walk asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The providers of the key, and peers closer to it.
    Providers,
    /// Peers closer to the key.
    Peers,
}

/// Peers with addresses, as somebody names them.
pub(crate) type Named = Vec<(PeerId, Vec<Multiaddr>)>;

/// What a peer says about a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// Peers that are closer to the key.
    pub(crate) closer: Named,
    /// Its providers.
    pub(crate) providers: Named,
}

/// Peers and providers of one answer that are looked at: an honest answer names no more.
const MAX_NAMED: usize = REPLICATION;

/// Addresses of one peer that are looked at.
const MAX_NAMED_ADDRS: usize = 2 * MAX_ADDRS_PER_PEER;

/// Asks on an open stream about a key. Peers without a valid ID and addresses that make no sense are left out.
///
/// # Errors
/// If the stream fails, or the answer is no answer to this.
pub(crate) async fn ask<T>(io: &mut T, digest: &Digest, wanted: Wanted) -> io::Result<Said>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let kind = match wanted {
        Wanted::Providers => GET_PROVIDERS,
        Wanted::Peers => FIND_NODE,
    };
    let answer = answer_to(io, &question(kind, digest_key(digest))).await?;
    let named = |peers: Vec<KadPeer>| peers.iter().take(MAX_NAMED).filter_map(KadPeer::read).collect();
    Ok(Said { closer: named(answer.closer), providers: named(answer.providers) })
}

impl KadPeer {
    fn read(&self) -> Option<(PeerId, Vec<Multiaddr>)> {
        let peer = PeerId::from_bytes(&self.id).ok()?;
        let addrs = self.addrs.iter().take(MAX_NAMED_ADDRS);
        Some((peer, addrs.filter_map(|addr| Multiaddr::try_from(addr.clone()).ok()).collect()))
    }
}

fn question(kind: i32, key: Vec<u8>) -> KadMessage {
    KadMessage { kind, key, closer: Vec::new(), providers: Vec::new() }
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

    fn answered(answer: Vec<u8>) -> io::Result<()> {
        block_on(is_answered(&mut Canned(Cursor::new(answer)), PeerId::random()))
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
    fn an_answer_is_one_to_what_was_asked() {
        let mut answer =
            KadMessage { kind: FIND_NODE, key: Vec::new(), closer: Vec::new(), providers: Vec::new() };
        assert!(answered(answer.encode_length_delimited_to_vec()).is_ok());
        answer.kind = ADD_PROVIDER;
        assert!(answered(answer.encode_length_delimited_to_vec()).is_err());
    }

    #[test]
    fn of_an_answer_twenty_peers_with_ids_and_addresses_that_exist_are_taken() {
        let addr: Multiaddr = "/ip4/1.2.3.4/tcp/5".parse().unwrap();
        let peer = |id: Vec<u8>, addrs: Vec<Vec<u8>>| KadPeer { id, addrs, connection: 0 };
        let known = PeerId::random();
        let mut closer = vec![
            peer(known.to_bytes(), vec![vec![0xff], addr.to_vec()]),
            peer(vec![1, 2, 3], vec![addr.to_vec()]),
            peer(PeerId::random().to_bytes(), vec![addr.to_vec(); 100]),
        ];
        closer.extend((0..50).map(|_| peer(PeerId::random().to_bytes(), Vec::new())));
        let providers = closer.clone();
        let message = KadMessage { kind: GET_PROVIDERS, key: Vec::new(), closer, providers };
        let mut io = Canned(Cursor::new(message.encode_length_delimited_to_vec()));
        let said = block_on(ask(&mut io, &[1; 32], Wanted::Providers)).unwrap();
        assert_eq!(said.closer, said.providers);
        assert_eq!(said.closer.len(), MAX_NAMED - 1, "one had no ID");
        assert_eq!(said.closer[0], (known, vec![addr]));
        assert_eq!(said.closer[1].1.len(), MAX_NAMED_ADDRS);
        let mut io = Canned(Cursor::new(message.encode_length_delimited_to_vec()));
        assert!(block_on(ask(&mut io, &[1; 32], Wanted::Peers)).is_err(), "an answer to something else");
    }

    #[test]
    fn an_answer_that_is_too_long_is_not_awaited() {
        for bytes in [vec![0xff, 0xff, 0xff, 0x7f], vec![0x81, 0x80, 0x10], vec![5, 1], vec![]] {
            assert!(answered(bytes.clone()).is_err(), "{bytes:?}");
        }
    }
}
