//! The bytes of `/dhtfs/<network>/lane/1`.
//!
//! The asker opens the stream and says what it wants, as often as it likes:
//!
//! | frame  | bytes                                                                                        |
//! |--------|----------------------------------------------------------------------------------------------|
//! | want   | `01`, its number (4, big-endian), `01` chunk or `02` manifest block, SHA-256 digest (32)     |
//! | cancel | `02`, the number of a want (4)                                                               |
//!
//! Numbers grow from want to want. The holder answers every want once, in the order it likes:
//!
//! | frame     | bytes                                                                     |
//! |-----------|---------------------------------------------------------------------------|
//! | data      | `00`, the number (4), length (4, at most 1 MiB), that many bytes          |
//! | missing   | `01`, the number: it does not hold it                                     |
//! | busy      | `02`, the number: too much to do; ask again later or elsewhere            |
//! | cancelled | `03`, the number: it was taken back before it was sent                    |
//!
//! At most 512 wants may wait for their answers. A cancel of a want that was answered means nothing. Either end may end
//! the stream at any time; whoever reads anything else does.

use std::io;

use dhtfs_store::{ChunkCid, ContentCid, ManifestCid};
use futures::{AsyncRead, AsyncReadExt as _};

use crate::net::exchange::MAX_DATA_LEN;

const WANT: u8 = 1;
const CANCEL: u8 = 2;

const KIND_CHUNK: u8 = 1;
const KIND_MANIFEST: u8 = 2;

const DATA: u8 = 0;
const MISSING: u8 = 1;
const BUSY: u8 = 2;
const CANCELLED: u8 = 3;

/// Length of a want in bytes.
pub(super) const WANT_LEN: usize = 38;

/// Length of a cancel in bytes.
const CANCEL_LEN: usize = 5;

/// Length of the head of an answer, without the length of data.
const HEAD_LEN: usize = 5;

/// The number of a want.
pub(super) type WantNo = u32;

/// What an asker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asking {
    Want(WantNo, ContentCid),
    Cancel(WantNo),
}

/// The beginning of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// So many bytes follow.
    Data(u32),
    Missing,
    Busy,
    Cancelled,
}

pub(super) fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl Asking {
    /// Appends the bytes.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Want(no, cid) => {
                out.push(WANT);
                out.extend(no.to_be_bytes());
                out.push(match cid {
                    ContentCid::Chunk(_) => KIND_CHUNK,
                    ContentCid::Manifest(_) => KIND_MANIFEST,
                });
                out.extend(cid.digest());
            }
            Self::Cancel(no) => {
                out.push(CANCEL);
                out.extend(no.to_be_bytes());
            }
        }
    }

    /// Reads the next one; `None` if the asker has closed its side.
    ///
    /// # Errors
    /// If the stream fails, ends within a frame, or holds something else.
    pub(super) async fn read<T: AsyncRead + Unpin>(io: &mut T) -> io::Result<Option<Self>> {
        let mut kind = [0];
        if io.read(&mut kind).await? == 0 {
            return Ok(None);
        }
        match kind {
            [WANT] => {
                let mut rest = [0; WANT_LEN - 1];
                io.read_exact(&mut rest).await?;
                let [a, b, c, d, kind, ref digest @ ..] = rest;
                let cid = match kind {
                    KIND_CHUNK => ContentCid::Chunk(ChunkCid::from_digest(*digest)),
                    KIND_MANIFEST => ContentCid::Manifest(ManifestCid::from_digest(*digest)),
                    other => return Err(invalid(format!("unknown kind of want {other}"))),
                };
                Ok(Some(Self::Want(WantNo::from_be_bytes([a, b, c, d]), cid)))
            }
            [CANCEL] => {
                let mut no = [0; CANCEL_LEN - 1];
                io.read_exact(&mut no).await?;
                Ok(Some(Self::Cancel(WantNo::from_be_bytes(no))))
            }
            [other] => Err(invalid(format!("unknown frame {other}"))),
        }
    }
}

impl Head {
    /// The bytes of it, for the want of this number.
    pub(super) fn bytes(self, no: WantNo) -> Vec<u8> {
        let (status, len) = match self {
            Self::Data(len) => (DATA, Some(len)),
            Self::Missing => (MISSING, None),
            Self::Busy => (BUSY, None),
            Self::Cancelled => (CANCELLED, None),
        };
        let mut bytes = Vec::with_capacity(HEAD_LEN + 4);
        bytes.push(status);
        bytes.extend(no.to_be_bytes());
        bytes.extend(len.iter().flat_map(|len| len.to_be_bytes()));
        bytes
    }

    /// Reads the next one and its number; `None` if the holder has closed its side.
    ///
    /// # Errors
    /// If the stream fails, ends within a frame, or holds something else.
    pub(super) async fn read<T: AsyncRead + Unpin>(io: &mut T) -> io::Result<Option<(WantNo, Self)>> {
        let mut status = [0];
        if io.read(&mut status).await? == 0 {
            return Ok(None);
        }
        // An unknown status is refused before more is awaited.
        if status[0] > CANCELLED {
            return Err(invalid(format!("unknown status {}", status[0])));
        }
        let mut no = [0; HEAD_LEN - 1];
        io.read_exact(&mut no).await?;
        let head = match status {
            [DATA] => {
                let mut len = [0; 4];
                io.read_exact(&mut len).await?;
                let len = u32::from_be_bytes(len);
                if len > MAX_DATA_LEN {
                    return Err(invalid(format!(
                        "{len} bytes announced, at most {MAX_DATA_LEN} are allowed"
                    )));
                }
                Self::Data(len)
            }
            [MISSING] => Self::Missing,
            [BUSY] => Self::Busy,
            [_] => Self::Cancelled,
        };
        Ok(Some((WantNo::from_be_bytes(no), head)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use futures::FutureExt as _;
    use futures::io::Cursor;
    use proptest::prelude::*;

    use super::*;

    fn asked(bytes: &[u8]) -> io::Result<Option<Asking>> {
        Asking::read(&mut Cursor::new(bytes)).now_or_never().unwrap()
    }

    fn head(bytes: &[u8]) -> io::Result<Option<(WantNo, Head)>> {
        Head::read(&mut Cursor::new(bytes)).now_or_never().unwrap()
    }

    fn asking_bytes(asking: Asking) -> Vec<u8> {
        let mut out = Vec::new();
        asking.write(&mut out);
        out
    }

    #[test]
    fn frames_have_the_documented_bytes() {
        let want = Asking::Want(258, ChunkCid::from_digest([7; 32]).into());
        let mut bytes = vec![1, 0, 0, 1, 2, 1];
        bytes.extend([7; 32]);
        assert_eq!((asking_bytes(want), bytes.len()), (bytes.clone(), WANT_LEN));
        bytes[5] = 2;
        let manifest = Asking::Want(258, ManifestCid::from_digest([7; 32]).into());
        assert_eq!((asking_bytes(manifest), asked(&bytes).unwrap()), (bytes, Some(manifest)));
        assert_eq!(asking_bytes(Asking::Cancel(1)), [2, 0, 0, 0, 1]);
        assert_eq!(Head::Data(513).bytes(3), [0, 0, 0, 0, 3, 0, 0, 2, 1]);
        assert_eq!(Head::Missing.bytes(3), [1, 0, 0, 0, 3]);
        assert_eq!(Head::Busy.bytes(3), [2, 0, 0, 0, 3]);
        assert_eq!(Head::Cancelled.bytes(3), [3, 0, 0, 0, 3]);
    }

    #[test]
    fn short_and_unknown_frames_are_refused() {
        let want = asking_bytes(Asking::Want(1, ChunkCid::from_digest([7; 32]).into()));
        for len in 1..want.len() {
            assert_eq!(asked(&want[..len]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{len}");
        }
        assert_eq!(asked(&[]).unwrap(), None);
        for bytes in [&[0][..], &[3], &[255]] {
            assert_eq!(asked(bytes).unwrap_err().kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
        let mut unknown = want;
        unknown[5] = 3;
        assert_eq!(asked(&unknown).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(head(&[]).unwrap(), None);
        assert_eq!(head(&[4]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(head(&[0, 0, 0, 0, 1, 0, 0]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let long = Head::Data(MAX_DATA_LEN + 1).bytes(1);
        assert_eq!(head(&long).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let longest = Head::Data(MAX_DATA_LEN);
        assert_eq!(head(&longest.bytes(9)).unwrap(), Some((9, longest)));
    }

    proptest! {
        #[test]
        fn what_is_accepted_writes_back_to_the_same_bytes(
            bytes in proptest::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..64)
        ) {
            if let Ok(Some(asking)) = asked(&bytes) {
                let written = asking_bytes(asking);
                prop_assert_eq!(&bytes[..written.len()], &written[..]);
            }
            if let Ok(Some((no, head))) = head(&bytes) {
                let written = head.bytes(no);
                prop_assert_eq!(&bytes[..written.len()], &written[..]);
            }
        }
    }
}
