//! Messages of the DHT as bytes, for peers that say what `libp2p-kad` would never say.
//!
//! The layout is that of the libp2p kad-dht specification, protobuf with a length before each message:
//!
//! ```text
//! Message { type = 1, key = 2, closerPeers = 8 (repeated Peer), providerPeers = 9 (repeated Peer) }
//! Peer    { id = 1, addrs = 2 (repeated), connection = 3 }
//! type: 0 PUT_VALUE, 1 GET_VALUE, 2 ADD_PROVIDER, 3 GET_PROVIDERS, 4 FIND_NODE, 5 PING
//! ```
//!
//! `record = 3` and `clusterLevelRaw = 10` are skipped on reading and never written.

use std::io;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::{Multiaddr, PeerId};

/// Longest message that is read; what the node itself accepts.
const MAX_LEN: usize = 256 * 1024;

/// `connection` of a peer: the sender is connected to it, so that the reader takes it for alive.
const CONNECTED: u64 = 1;

/// Types of messages that matter here.
pub(super) mod kind {
    /// Records a provider.
    pub(in crate::roles) const ADD_PROVIDER: u64 = 2;
    /// Asks for providers.
    pub(in crate::roles) const GET_PROVIDERS: u64 = 3;
    /// Asks for the peers closest to a key.
    pub(in crate::roles) const FIND_NODE: u64 = 4;
}

/// A peer in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WirePeer {
    pub(super) id: PeerId,
    pub(super) addrs: Vec<Multiaddr>,
}

/// A message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: u64,
    pub(super) key: Vec<u8>,
    pub(super) closer: Vec<WirePeer>,
    pub(super) providers: Vec<WirePeer>,
}

impl Message {
    /// Appends the message with its length to `out`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        put_varint(&mut body, 1 << 3);
        put_varint(&mut body, self.kind);
        put_bytes(&mut body, 2, &self.key);
        for (field, peers) in [(8, &self.closer), (9, &self.providers)] {
            for peer in peers {
                put_bytes(&mut body, field, &peer.encode());
            }
        }
        put_varint(out, body.len() as u64);
        out.extend(body);
    }

    /// Reads a message without its length; `None` if it is malformed.
    pub(super) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut message = Self::default();
        while !bytes.is_empty() {
            match take_field(&mut bytes)? {
                (1, Field::Number(kind)) => message.kind = kind,
                (2, Field::Bytes(key)) => message.key = key.to_vec(),
                // A peer that cannot be read is left out, as libp2p does.
                (8, Field::Bytes(peer)) => message.closer.extend(WirePeer::decode(peer)),
                (9, Field::Bytes(peer)) => message.providers.extend(WirePeer::decode(peer)),
                _ => {}
            }
        }
        Some(message)
    }
}

impl WirePeer {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, 1, &self.id.to_bytes());
        for addr in &self.addrs {
            put_bytes(&mut out, 2, addr.as_ref());
        }
        put_varint(&mut out, 3 << 3);
        put_varint(&mut out, CONNECTED);
        out
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        let (mut id, mut addrs) = (None, Vec::new());
        while !bytes.is_empty() {
            match take_field(&mut bytes)? {
                (1, Field::Bytes(bytes)) => id = PeerId::from_bytes(bytes).ok(),
                (2, Field::Bytes(bytes)) => addrs.extend(Multiaddr::try_from(bytes.to_vec()).ok()),
                _ => {}
            }
        }
        Some(Self { id: id?, addrs })
    }
}

/// Reads the next message of a stream; `None` at its end.
///
/// # Errors
/// If the stream fails or holds something else.
pub(super) async fn read_message<T: AsyncRead + Unpin>(io: &mut T) -> io::Result<Option<Message>> {
    let (mut len, mut shift) = (0usize, 0u32);
    loop {
        let mut byte = [0];
        if io.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        len |= usize::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            break;
        }
        shift += 7;
        if shift > 21 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    if len > MAX_LEN {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; len];
    io.read_exact(&mut body).await?;
    Message::decode(&body).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Writes one message.
///
/// # Errors
/// If the stream fails.
pub(super) async fn write_message<T: AsyncWrite + Unpin>(io: &mut T, message: &Message) -> io::Result<()> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    io.write_all(&bytes).await?;
    io.flush().await
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(low_seven(n) | 0x80);
        n >>= 7;
    }
    out.push(low_seven(n));
}

fn low_seven(n: u64) -> u8 {
    n.to_le_bytes()[0] & 0x7f
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        n |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

fn take_field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Field<'a>)> {
    let tag = take_varint(bytes)?;
    let field = match tag & 7 {
        0 => Field::Number(take_varint(bytes)?),
        2 => {
            let len = usize::try_from(take_varint(bytes)?).ok()?;
            let (value, rest) = bytes.split_at_checked(len)?;
            *bytes = rest;
            Field::Bytes(value)
        }
        _ => return None,
    };
    Some((tag >> 3, field))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use futures::{executor::block_on, io::Cursor};
    use libp2p::PeerId;

    use super::{Message, WirePeer, kind, read_message};

    fn message() -> Message {
        let peer = |n: u8| WirePeer {
            id: PeerId::from_bytes(&[&[0x12, 0x20], [n; 32].as_slice()].concat()).unwrap(),
            addrs: vec![format!("/memory/{n}").parse().unwrap(), "/ip4/10.0.0.1/tcp/1".parse().unwrap()],
        };
        Message {
            kind: kind::GET_PROVIDERS,
            key: vec![7; 34],
            closer: (0..20).map(peer).collect(),
            providers: (20..22).map(peer).collect(),
        }
    }

    #[test]
    fn a_message_is_read_back_from_its_bytes() {
        let mut bytes = Vec::new();
        message().encode(&mut bytes);
        message().encode(&mut bytes);
        let mut io = Cursor::new(bytes);
        assert_eq!(block_on(read_message(&mut io)).unwrap(), Some(message()));
        assert_eq!(block_on(read_message(&mut io)).unwrap(), Some(message()));
        assert_eq!(block_on(read_message(&mut io)).unwrap(), None);
    }

    #[test]
    fn a_cut_message_is_an_error_and_no_panic() {
        let mut bytes = Vec::new();
        message().encode(&mut bytes);
        for len in 2..bytes.len() {
            assert!(block_on(read_message(&mut Cursor::new(&bytes[..len]))).is_err(), "{len}");
        }
        assert!(block_on(read_message(&mut Cursor::new([0xff; 9]))).is_err());
    }
}
