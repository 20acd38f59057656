//! The provide protocol `/dhtfs/<network>/provide/1`: many provider records in few bytes, and an honest answer.
//!
//! kad's ADD_PROVIDER carries the addresses again with every key, about 95 bytes a record, and has no answer. Here
//! the addresses travel once, a record is the 32 bytes of its digest, and the holder says which ones it took.
//!
//! The asker opens a stream and writes frames; every frame but the first kind is answered before the next is read.
//!
//! | frame        | byte | content                                                                  |
//! |--------------|------|--------------------------------------------------------------------------|
//! | addresses    | 1    | count `u8`, at most 8; for each: length `u16`, at most 192, and the binary multiaddr. Not answered |
//! | provide      | 2    | count `u16`, 1..=1024; 32 bytes of SHA-256 digest each                   |
//! | withdraw     | 3    | as provide                                                               |
//! | held         | 4    | as provide: which of these does the holder have of the asker?            |
//! | goodbye      | 5    | nothing: the asker leaves, its records are kept but not given out until it connects anew |
//!
//! | answer       | byte | content                                                                  |
//! |--------------|------|--------------------------------------------------------------------------|
//! | done         | 0    | a bit for each digest, the first one the lowest of the first byte: taken, removed, or held |
//! | busy         | 1    | nothing: too much at once, try again later                               |
//!
//! Numbers are big-endian. Whoever reads anything else ends the stream.

use std::io;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::Multiaddr;

use crate::net::limits::{MAX_ADDR_LEN, MAX_ADDRS_PER_PEER};
use crate::net::records::Digest;

/// Digests in one frame.
pub(crate) const MAX_DIGESTS: usize = 1_024;

const ADDRESSES: u8 = 1;
const PROVIDE: u8 = 2;
const WITHDRAW: u8 = 3;
const HELD: u8 = 4;
const GOODBYE: u8 = 5;

const DONE: u8 = 0;
const BUSY: u8 = 1;

/// What an asker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Where the asker can be reached; for the records that follow.
    Addresses(Vec<Multiaddr>),
    /// The asker provides these.
    Provide(Vec<Digest>),
    /// The asker provides these no longer.
    Withdraw(Vec<Digest>),
    /// Which of these records of the asker does the holder have?
    Held(Vec<Digest>),
    /// The asker is about to end.
    Goodbye,
}

/// What a holder answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// For each digest of the frame whether it was taken, removed or is held.
    Done(Vec<bool>),
    /// Too much at once.
    Busy,
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Writes a frame, without flushing.
///
/// # Errors
/// If the stream fails, or the frame is longer than allowed.
pub(crate) async fn write_frame<T: AsyncWrite + Unpin>(io: &mut T, frame: &Frame) -> io::Result<()> {
    let bytes = match frame {
        Frame::Addresses(addrs) => encode_addresses(addrs)?,
        Frame::Provide(digests) => encode_digests(PROVIDE, digests)?,
        Frame::Withdraw(digests) => encode_digests(WITHDRAW, digests)?,
        Frame::Held(digests) => encode_digests(HELD, digests)?,
        Frame::Goodbye => vec![GOODBYE],
    };
    io.write_all(&bytes).await
}

fn encode_addresses(addrs: &[Multiaddr]) -> io::Result<Vec<u8>> {
    let count = u8::try_from(addrs.len()).ok().filter(|count| usize::from(*count) <= MAX_ADDRS_PER_PEER);
    let mut bytes = vec![ADDRESSES, count.ok_or_else(|| invalid("too many addresses"))?];
    for addr in addrs {
        let len = u16::try_from(addr.len()).ok().filter(|len| usize::from(*len) <= MAX_ADDR_LEN);
        bytes.extend(len.ok_or_else(|| invalid("too long an address"))?.to_be_bytes());
        bytes.extend(addr.as_ref());
    }
    Ok(bytes)
}

fn encode_digests(kind: u8, digests: &[Digest]) -> io::Result<Vec<u8>> {
    if digests.is_empty() || digests.len() > MAX_DIGESTS {
        return Err(invalid(format!("{} digests in a frame", digests.len())));
    }
    let count = u16::try_from(digests.len()).map_err(|_| invalid("too many digests"))?;
    let mut bytes = Vec::with_capacity(3 + digests.len() * 32);
    bytes.push(kind);
    bytes.extend(count.to_be_bytes());
    bytes.extend(digests.as_flattened());
    Ok(bytes)
}

/// Reads the next frame; `None` if the asker has closed its side.
///
/// # Errors
/// If the stream fails or holds something else.
pub(crate) async fn read_frame<T: AsyncRead + Unpin>(io: &mut T) -> io::Result<Option<Frame>> {
    let mut kind = [0];
    if io.read(&mut kind).await? == 0 {
        return Ok(None);
    }
    let [kind] = kind;
    Ok(Some(match kind {
        ADDRESSES => Frame::Addresses(read_addresses(io).await?),
        PROVIDE => Frame::Provide(read_digests(io).await?),
        WITHDRAW => Frame::Withdraw(read_digests(io).await?),
        HELD => Frame::Held(read_digests(io).await?),
        GOODBYE => Frame::Goodbye,
        other => return Err(invalid(format!("unknown frame {other}"))),
    }))
}

async fn read_u16<T: AsyncRead + Unpin>(io: &mut T) -> io::Result<usize> {
    let mut bytes = [0; 2];
    io.read_exact(&mut bytes).await?;
    Ok(usize::from(u16::from_be_bytes(bytes)))
}

async fn read_addresses<T: AsyncRead + Unpin>(io: &mut T) -> io::Result<Vec<Multiaddr>> {
    let mut count = [0];
    io.read_exact(&mut count).await?;
    let [count] = count;
    if usize::from(count) > MAX_ADDRS_PER_PEER {
        return Err(invalid(format!("{count} addresses")));
    }
    let mut addrs = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let len = read_u16(io).await?;
        if len > MAX_ADDR_LEN {
            return Err(invalid(format!("an address of {len} bytes")));
        }
        let mut bytes = vec![0; len];
        io.read_exact(&mut bytes).await?;
        addrs.push(Multiaddr::try_from(bytes).map_err(|error| invalid(error.to_string()))?);
    }
    Ok(addrs)
}

async fn read_digests<T: AsyncRead + Unpin>(io: &mut T) -> io::Result<Vec<Digest>> {
    let count = read_u16(io).await?;
    if count == 0 || count > MAX_DIGESTS {
        return Err(invalid(format!("{count} digests in a frame")));
    }
    let mut digests = vec![[0; 32]; count];
    io.read_exact(digests.as_flattened_mut()).await?;
    Ok(digests)
}

/// Writes an answer, without flushing.
///
/// # Errors
/// If the stream fails.
pub(crate) async fn write_answer<T: AsyncWrite + Unpin>(io: &mut T, answer: &Answer) -> io::Result<()> {
    match answer {
        Answer::Busy => io.write_all(&[BUSY]).await,
        Answer::Done(bits) => {
            let mut bytes = vec![DONE];
            bytes.extend(bits.chunks(8).map(|bits| {
                bits.iter().enumerate().fold(0, |byte, (place, bit)| byte | (u8::from(*bit) << place))
            }));
            io.write_all(&bytes).await
        }
    }
}

/// Reads the answer to a frame with `count` digests.
///
/// # Errors
/// If the stream fails or holds something else.
pub(crate) async fn read_answer<T: AsyncRead + Unpin>(io: &mut T, count: usize) -> io::Result<Answer> {
    let mut status = [0];
    io.read_exact(&mut status).await?;
    match status {
        [BUSY] => Ok(Answer::Busy),
        [DONE] => {
            let mut bytes = vec![0_u8; count.min(MAX_DIGESTS).div_ceil(8)];
            io.read_exact(&mut bytes).await?;
            let bits = bytes.iter().flat_map(|byte| (0..8).map(move |place| byte >> place & 1 == 1));
            Ok(Answer::Done(bits.take(count).collect()))
        }
        [other] => Err(invalid(format!("unknown answer {other}"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use futures::executor::block_on;
    use futures::io::Cursor;

    use super::*;

    fn bytes_of(frame: &Frame) -> Vec<u8> {
        let mut bytes = Vec::new();
        block_on(write_frame(&mut bytes, frame)).unwrap();
        bytes
    }

    fn read(bytes: &[u8]) -> io::Result<Option<Frame>> {
        block_on(read_frame(&mut Cursor::new(bytes)))
    }

    #[test]
    fn frames_are_read_as_they_were_written() {
        let addrs =
            vec!["/ip4/10.0.0.1/tcp/4343".parse().unwrap(), "/ip6/::1/udp/1/quic-v1".parse().unwrap()];
        let digests: Vec<Digest> = (0..=255).map(|n| [n; 32]).collect();
        for frame in [
            Frame::Addresses(addrs),
            Frame::Addresses(Vec::new()),
            Frame::Provide(digests.clone()),
            Frame::Withdraw(vec![[7; 32]]),
            Frame::Held(digests),
            Frame::Goodbye,
        ] {
            let bytes = bytes_of(&frame);
            assert_eq!(read(&bytes).unwrap(), Some(frame));
            for cut in 1..bytes.len().min(40) {
                assert!(read(&bytes[..cut]).is_err(), "cut at {cut}");
            }
        }
        assert_eq!(read(&[]).unwrap(), None);
    }

    #[test]
    fn a_record_costs_its_digest() {
        let frame = Frame::Provide(vec![[1; 32]; MAX_DIGESTS]);
        assert_eq!(bytes_of(&frame).len(), 3 + 32 * MAX_DIGESTS);
    }

    #[test]
    fn what_is_too_much_is_refused_before_it_is_read() {
        let kind = |result: io::Result<Option<Frame>>| result.unwrap_err().kind();
        for bytes in [
            vec![0],
            vec![6],
            vec![ADDRESSES, 9],
            vec![ADDRESSES, 1, 0, 193],
            vec![ADDRESSES, 1, 0, 1, 0xff],
            vec![PROVIDE, 0, 0],
            vec![PROVIDE, 4, 1],
            vec![HELD, 0xff, 0xff],
        ] {
            assert_eq!(kind(read(&bytes)), io::ErrorKind::InvalidData, "{bytes:?}");
        }
        let long = Frame::Provide(vec![[0; 32]; MAX_DIGESTS + 1]);
        assert!(block_on(write_frame(&mut Vec::new(), &long)).is_err());
        assert!(block_on(write_frame(&mut Vec::new(), &Frame::Provide(Vec::new()))).is_err());
    }

    #[test]
    fn answers_carry_a_bit_for_each_digest() {
        for bits in [vec![], vec![true], vec![false; 9], (0..1024).map(|n| n % 3 == 0).collect()] {
            let mut bytes = Vec::new();
            let answer = Answer::Done(bits.clone());
            block_on(write_answer(&mut bytes, &answer)).unwrap();
            assert_eq!(bytes.len(), 1 + bits.len().div_ceil(8));
            assert_eq!(block_on(read_answer(&mut Cursor::new(&bytes), bits.len())).unwrap(), answer);
        }
        let mut bytes = Vec::new();
        block_on(write_answer(&mut bytes, &Answer::Busy)).unwrap();
        assert_eq!(block_on(read_answer(&mut Cursor::new(&bytes), 8)).unwrap(), Answer::Busy);
        assert!(block_on(read_answer(&mut Cursor::new(&[2]), 8)).is_err());
        assert!(block_on(read_answer(&mut Cursor::new(&[DONE]), 8)).is_err());
    }
}
