//! The bytes of `/dhtfs/<network>/lane/1`.
//!
//! The asker opens the stream and says what it wants, as often as it likes:
//!
//! | frame  | bytes                                                                                        |
//! |--------|----------------------------------------------------------------------------------------------|
//! | want   | `01`, its number (4, big-endian), its kind, SHA-256 digest (32)                              |
//! | cancel | `02`, the number of a want (4)                                                               |
//!
//! Kinds are `01` chunk, `02` manifest block and `03` manifest block with the content, if that is short.
//!
//! Numbers grow from want to want. The holder answers every want once, in the order it likes:
//!
//! | frame        | bytes                                                                                      |
//! |--------------|--------------------------------------------------------------------------------------------|
//! | data         | `00`, the number (4), length (4, at most 1 MiB), that many bytes in pieces                 |
//! | missing      | `01`, the number: it does not hold it                                                      |
//! | busy         | `02`, the number, how many requests wait here (2): ask again later or elsewhere            |
//! | cancelled    | `03`, the number: it was taken back before it was sent                                     |
//! | with content | `04`, the number (4), length of both (4, at most 1 MiB), length of the content (4, 1 byte  |
//! |              | to 64 KiB), the manifest block, the content, in pieces                                     |
//!
//! The last one answers only wants of kind `03`: the block is of a file of one chunk, and this is the chunk. Such a want may
//! also be answered with data, the block alone.
//!
//! Bytes come in pieces of 128 KiB, the last of which may be shorter. Between two pieces there is one byte: `00` if they go on, `01`
//! if the want was taken back: then no more of them follow, and the want is answered.
//!
//! At most 512 wants may wait for their answers. A cancel of a want that was answered means nothing. Either end may end
//! the stream at any time; whoever reads anything else does.

use std::io;

use dhtfs_store::{ChunkCid, ContentCid, MAX_WITH_CONTENT_LEN, ManifestCid};
use futures::{AsyncRead, AsyncReadExt as _};

use crate::net::exchange::MAX_DATA_LEN;

const WANT: u8 = 1;
const CANCEL: u8 = 2;

const KIND_CHUNK: u8 = 1;
const KIND_MANIFEST: u8 = 2;
const KIND_WITH_CONTENT: u8 = 3;

const DATA: u8 = 0;
const MISSING: u8 = 1;
const BUSY: u8 = 2;
const CANCELLED: u8 = 3;
const WITH_CONTENT: u8 = 4;

/// Length of a want in bytes.
pub(super) const WANT_LEN: usize = 38;

/// Length of a cancel in bytes.
const CANCEL_LEN: usize = 5;

/// Length of the head of an answer, without the length of data.
const HEAD_LEN: usize = 5;

/// The byte between two pieces if another one follows.
pub(super) const GOES_ON: u8 = 0;

/// The byte after a piece if nothing follows: the want was taken back.
pub(super) const CUT: u8 = 1;

/// The number of a want.
pub(super) type WantNo = u32;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// A chunk or manifest block.
    Block(ContentCid),
    /// A manifest block and, if it is of a file of one chunk of at most [`MAX_WITH_CONTENT_LEN`] bytes, that chunk too where
    /// the peer likes: saves a round trip.
    WithContent(ManifestCid),
}

impl Ask {
    /// The chunk or manifest block.
    pub fn cid(&self) -> ContentCid {
        match *self {
            Self::Block(cid) => cid,
            Self::WithContent(cid) => cid.into(),
        }
    }
}

impl From<ContentCid> for Ask {
    fn from(cid: ContentCid) -> Self {
        Self::Block(cid)
    }
}

/// What an asker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asking {
    Want(WantNo, Ask),
    Cancel(WantNo),
}

/// The beginning of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// So many bytes follow.
    Data(u32),
    /// So many bytes follow, a manifest block and content.
    WithContent {
        len: u32,
        /// Of these, the last ones.
        content_len: u32,
    },
    Missing,
    /// So many requests wait.
    Busy(u16),
    Cancelled,
}

pub(super) fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl Asking {
    /// Appends the bytes.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Want(no, ask) => {
                out.push(WANT);
                out.extend(no.to_be_bytes());
                out.push(match ask {
                    Ask::Block(ContentCid::Chunk(_)) => KIND_CHUNK,
                    Ask::Block(ContentCid::Manifest(_)) => KIND_MANIFEST,
                    Ask::WithContent(_) => KIND_WITH_CONTENT,
                });
                out.extend(ask.cid().digest());
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
                let ask = match kind {
                    KIND_CHUNK => Ask::Block(ChunkCid::from_digest(*digest).into()),
                    KIND_MANIFEST => Ask::Block(ManifestCid::from_digest(*digest).into()),
                    KIND_WITH_CONTENT => Ask::WithContent(ManifestCid::from_digest(*digest)),
                    other => return Err(invalid(format!("unknown kind of want {other}"))),
                };
                Ok(Some(Self::Want(WantNo::from_be_bytes([a, b, c, d]), ask)))
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
        let mut bytes = Vec::with_capacity(HEAD_LEN + 8);
        bytes.push(match self {
            Self::Data(_) => DATA,
            Self::WithContent { .. } => WITH_CONTENT,
            Self::Missing => MISSING,
            Self::Busy(_) => BUSY,
            Self::Cancelled => CANCELLED,
        });
        bytes.extend(no.to_be_bytes());
        match self {
            Self::Data(len) => bytes.extend(len.to_be_bytes()),
            Self::WithContent { len, content_len } => {
                bytes.extend(len.to_be_bytes());
                bytes.extend(content_len.to_be_bytes());
            }
            Self::Busy(waiting) => bytes.extend(waiting.to_be_bytes()),
            Self::Missing | Self::Cancelled => {}
        }
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
        if status[0] > WITH_CONTENT {
            return Err(invalid(format!("unknown status {}", status[0])));
        }
        let mut no = [0; HEAD_LEN - 1];
        io.read_exact(&mut no).await?;
        let head = match status {
            [DATA] => Self::Data(read_len(io, 0, MAX_DATA_LEN).await?),
            [WITH_CONTENT] => {
                let len = read_len(io, 1, MAX_DATA_LEN).await?;
                let content_len = read_len(io, 1, MAX_WITH_CONTENT_LEN.min(len)).await?;
                Self::WithContent { len, content_len }
            }
            [MISSING] => Self::Missing,
            [BUSY] => {
                let mut waiting = [0; 2];
                io.read_exact(&mut waiting).await?;
                Self::Busy(u16::from_be_bytes(waiting))
            }
            [_] => Self::Cancelled,
        };
        Ok(Some((WantNo::from_be_bytes(no), head)))
    }
}

/// Reads a length in bytes, between these.
async fn read_len<T: AsyncRead + Unpin>(io: &mut T, min: u32, max: u32) -> io::Result<u32> {
    let mut len = [0; 4];
    io.read_exact(&mut len).await?;
    match u32::from_be_bytes(len) {
        len if len < min => Err(invalid(format!("{len} bytes announced, at least {min} are needed"))),
        len if len > max => Err(invalid(format!("{len} bytes announced, at most {max} are allowed"))),
        len => Ok(len),
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
        let want = Asking::Want(258, Ask::Block(ChunkCid::from_digest([7; 32]).into()));
        let mut bytes = vec![1, 0, 0, 1, 2, 1];
        bytes.extend([7; 32]);
        assert_eq!((asking_bytes(want), bytes.len()), (bytes.clone(), WANT_LEN));
        bytes[5] = 2;
        let manifest = Asking::Want(258, Ask::Block(ManifestCid::from_digest([7; 32]).into()));
        assert_eq!((asking_bytes(manifest), asked(&bytes).unwrap()), (bytes.clone(), Some(manifest)));
        bytes[5] = 3;
        let with_content = Asking::Want(258, Ask::WithContent(ManifestCid::from_digest([7; 32])));
        assert_eq!((asking_bytes(with_content), asked(&bytes).unwrap()), (bytes, Some(with_content)));
        assert_eq!(asking_bytes(Asking::Cancel(1)), [2, 0, 0, 0, 1]);
        assert_eq!(Head::Data(513).bytes(3), [0, 0, 0, 0, 3, 0, 0, 2, 1]);
        let with_content = Head::WithContent { len: 513, content_len: 258 };
        assert_eq!(with_content.bytes(3), [4, 0, 0, 0, 3, 0, 0, 2, 1, 0, 0, 1, 2]);
        assert_eq!(Head::Missing.bytes(3), [1, 0, 0, 0, 3]);
        assert_eq!(Head::Busy(258).bytes(3), [2, 0, 0, 0, 3, 1, 2]);
        assert_eq!(Head::Cancelled.bytes(3), [3, 0, 0, 0, 3]);
    }

    #[test]
    fn short_and_unknown_frames_are_refused() {
        let want = asking_bytes(Asking::Want(1, Ask::Block(ChunkCid::from_digest([7; 32]).into())));
        for len in 1..want.len() {
            assert_eq!(asked(&want[..len]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{len}");
        }
        assert_eq!(asked(&[]).unwrap(), None);
        for bytes in [&[0][..], &[3], &[255]] {
            assert_eq!(asked(bytes).unwrap_err().kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
        let mut unknown = want;
        unknown[5] = 4;
        assert_eq!(asked(&unknown).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(head(&[]).unwrap(), None);
        assert_eq!(head(&[5]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(head(&[0, 0, 0, 0, 1, 0, 0]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let long = Head::Data(MAX_DATA_LEN + 1).bytes(1);
        assert_eq!(head(&long).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let longest = Head::Data(MAX_DATA_LEN);
        assert_eq!(head(&longest.bytes(9)).unwrap(), Some((9, longest)));
        for (len, content_len) in
            [(MAX_DATA_LEN + 1, 1), (5, 6), (5, 0), (0, 0), (MAX_DATA_LEN, MAX_WITH_CONTENT_LEN + 1)]
        {
            let bytes = Head::WithContent { len, content_len }.bytes(1);
            assert_eq!(head(&bytes).unwrap_err().kind(), io::ErrorKind::InvalidData, "{len} {content_len}");
        }
        for (len, content_len) in [(MAX_DATA_LEN, MAX_WITH_CONTENT_LEN), (2, 1), (1, 1)] {
            let longest = Head::WithContent { len, content_len };
            assert_eq!(head(&longest.bytes(9)).unwrap(), Some((9, longest)));
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_writes_back_to_the_same_bytes(
            bytes in proptest::collection::vec(prop_oneof![0u8..5, any::<u8>()], 0..64)
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
