//! The bytes of `/dhtfs/<network>/have/1`: which chunks of a content a peer holds, and what it got since.
//!
//! The asker opens a stream, asks once, and keeps its side open for as long as it wants to be told:
//!
//! | offset | length | content                                           |
//! |--------|--------|---------------------------------------------------|
//! | 0      | 1      | kind of question: 1, a file or directory          |
//! | 1      | 32     | SHA-256 digest of its manifest                    |
//!
//! The holder answers with frames: a kind, the length of what follows as a varint (shortest form, at most 2^21 + 1),
//! and that many bytes:
//!
//! | frame   | kind | content                                                                  |
//! |---------|------|--------------------------------------------------------------------------|
//! | all     | 0    | nothing: it holds every chunk; the stream ends                           |
//! | map     | 1    | a set of chunks: it holds these and no others, whatever it said before   |
//! | more    | 2    | a set of chunks: it holds these too                                      |
//! | unknown | 3    | nothing: it does not share this content; the stream ends                 |
//! | busy    | 4    | nothing: ask again later; the stream ends                                |
//!
//! Frames of other kinds are skipped, so that later versions can say more: up to 4 KiB each and 16 on a stream. A set is encoded as
//! [`ChunkSet::encode`] does, for as many chunks as the manifest unfolds to, which both sides know. Whoever reads
//! anything else ends the stream.

use std::io;

use dhtfs_store::{ChunkSet, ManifestCid};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::core::have::Telling;

/// Length of a question in bytes.
const QUESTION_LEN: usize = 33;
const CONTENT: u8 = 1;

const ALL: u8 = 0;
const MAP: u8 = 1;
const MORE: u8 = 2;
const UNKNOWN: u8 = 3;
const BUSY: u8 = 4;

/// Most chunks that a content unfolds to.
pub(crate) const MAX_CHUNKS: u32 = 1 << 24;

/// Longest content of a frame: the bitmap of the most chunks, and its form.
pub(crate) const MAX_FRAME_LEN: u32 = MAX_CHUNKS / 8 + 1;

/// Longest content of a frame of a kind of a later version, which is read for nothing.
pub(crate) const MAX_LATER_LEN: u32 = 4096;

/// Contents of frames up to this length are copied behind their head, so that a frame is one write.
const MAX_COPIED_LEN: usize = 4096;

/// Bytes that the length of a frame may take.
const MAX_VARINT_LEN: usize = 4;

/// A frame, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// It holds everything.
    All,
    /// It holds these and no others.
    Map(ChunkSet),
    /// It holds these too.
    More(ChunkSet),
    /// It does not share the content.
    Unknown,
    /// It has too much to do.
    Busy,
    /// A kind of a later version.
    Later,
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Writes a question, without flushing.
///
/// # Errors
/// If the stream fails.
pub(crate) async fn write_question<T: AsyncWrite + Unpin>(io: &mut T, root: &ManifestCid) -> io::Result<()> {
    let mut bytes = [CONTENT; QUESTION_LEN];
    bytes[1..].copy_from_slice(root.digest());
    io.write_all(&bytes).await
}

/// Reads a question.
///
/// # Errors
/// If the stream fails or ends, or holds something else.
pub(crate) async fn read_question<T: AsyncRead + Unpin>(io: &mut T) -> io::Result<ManifestCid> {
    let mut kind = [0];
    io.read_exact(&mut kind).await?;
    if kind != [CONTENT] {
        return Err(invalid(format!("unknown question {}", kind[0])));
    }
    let mut digest = [0; QUESTION_LEN - 1];
    io.read_exact(&mut digest).await?;
    Ok(ManifestCid::from_digest(digest))
}

/// The bytes of a frame in two parts. A long set, which all streams of a content share, is not copied.
pub(crate) fn frame_parts(telling: &Telling) -> (Vec<u8>, &[u8]) {
    let (kind, body): (u8, &[u8]) = match telling {
        Telling::All => (ALL, &[]),
        Telling::Map(set) => (MAP, set),
        Telling::More(set) => (MORE, set),
        Telling::Unknown => (UNKNOWN, &[]),
        Telling::Busy => (BUSY, &[]),
    };
    let (copied, rest) = if body.len() <= MAX_COPIED_LEN { (body, &[][..]) } else { (&[][..], body) };
    let mut bytes = Vec::with_capacity(1 + MAX_VARINT_LEN + copied.len());
    bytes.push(kind);
    let mut left = body.len();
    while left >= 0x80 {
        bytes.push(left.to_le_bytes()[0] | 0x80);
        left >>= 7;
    }
    bytes.push(left.to_le_bytes()[0]);
    bytes.extend(copied);
    (bytes, rest)
}

/// Reads the kind of the next frame; `None` if the holder has closed its side.
///
/// # Errors
/// If the stream fails.
pub(crate) async fn read_kind<T: AsyncRead + Unpin>(io: &mut T) -> io::Result<Option<u8>> {
    let mut kind = [0];
    Ok(if io.read(&mut kind).await? == 0 { None } else { Some(kind[0]) })
}

/// Reads the rest of a frame of this kind about a content of `chunks` chunks; says how long it was, too. Memory follows what has arrived, and
/// `chunks`.
///
/// # Errors
/// If the stream fails or ends, or holds something else.
pub(crate) async fn read_rest<T: AsyncRead + Unpin>(
    io: &mut T,
    kind: u8,
    chunks: u32,
) -> io::Result<(Told, u32)> {
    let len = read_len(io).await?;
    let most = match kind {
        ALL | UNKNOWN | BUSY => 0,
        MAP | MORE => chunks.div_ceil(8).saturating_add(1),
        _ => MAX_LATER_LEN,
    };
    if len > most {
        return Err(invalid(format!("a frame of kind {kind} with {len} bytes")));
    }
    let mut body = Vec::new();
    io.take(u64::from(len)).read_to_end(&mut body).await?;
    if body.len() as u64 != u64::from(len) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let set = || ChunkSet::decode(&body, chunks).map_err(|error| invalid(error.to_string()));
    let told = match kind {
        ALL => Told::All,
        MAP => Told::Map(set()?),
        MORE => Told::More(set()?),
        UNKNOWN => Told::Unknown,
        BUSY => Told::Busy,
        _ => Told::Later,
    };
    Ok((told, len))
}

async fn read_len<T: AsyncRead + Unpin>(io: &mut T) -> io::Result<u32> {
    let mut len = 0;
    for place in 0..MAX_VARINT_LEN {
        let mut byte = [0];
        io.read_exact(&mut byte).await?;
        let [byte] = byte;
        len |= u32::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            if byte == 0 && place > 0 || len > MAX_FRAME_LEN {
                break;
            }
            return Ok(len);
        }
    }
    Err(invalid("the length of a frame is too long or not in its shortest form"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use futures::executor::block_on;
    use futures::io::Cursor;
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8], chunks: u32) -> io::Result<Option<Told>> {
        block_on(async {
            let mut io = Cursor::new(bytes);
            match read_kind(&mut io).await? {
                None => Ok(None),
                Some(kind) => {
                    let (told, _) = read_rest(&mut io, kind, chunks).await?;
                    assert_eq!(io.position(), bytes.len() as u64, "reads as far as the frame");
                    Ok(Some(told))
                }
            }
        })
    }

    fn frame_bytes(telling: &Telling) -> Vec<u8> {
        let (mut bytes, rest) = frame_parts(telling);
        bytes.extend(rest);
        bytes
    }

    fn set(len: u32, held: impl IntoIterator<Item = u32>) -> ChunkSet {
        let mut set = ChunkSet::new(len);
        held.into_iter().for_each(|index| assert!(set.insert(index)));
        set
    }

    #[test]
    fn questions_have_the_documented_bytes() {
        let root = ManifestCid::from_digest([7; 32]);
        let mut bytes = Vec::new();
        block_on(write_question(&mut bytes, &root)).unwrap();
        let mut expected = vec![1];
        expected.extend([7; 32]);
        assert_eq!(bytes, expected);
        assert_eq!(block_on(read_question(&mut Cursor::new(&bytes))).unwrap(), root);
        for len in 0..bytes.len() {
            assert!(block_on(read_question(&mut Cursor::new(&bytes[..len]))).is_err(), "{len}");
        }
        for kind in [0, 2, 255] {
            let error = block_on(read_question(&mut Cursor::new([kind]))).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "without its digest");
        }
    }

    #[test]
    fn frames_have_the_documented_bytes() {
        assert_eq!(frame_bytes(&Telling::All), [0, 0]);
        assert_eq!(frame_bytes(&Telling::Unknown), [3, 0]);
        assert_eq!(frame_bytes(&Telling::Busy), [4, 0]);
        // Ten chunks of which 2 to 4 are held, and a bitmap of sixteen.
        let runs = set(1_000, 2..5);
        assert_eq!(frame_bytes(&Telling::Map(runs.encode().into())), [1, 3, 1, 2, 3]);
        let bits = set(16, [0, 3, 5, 8, 11]);
        assert_eq!(frame_bytes(&Telling::More(bits.encode().into())), [2, 3, 0, 0b10_1001, 0b1001]);
        let long = Telling::Map(set(4_000, (0..4_000).filter(|n| n % 3 == 0)).encode().into());
        assert_eq!(frame_bytes(&long)[..3], [1, 0xf5, 0x03], "501 bytes follow");
    }

    #[test]
    fn frames_of_later_versions_are_skipped() {
        assert_eq!(read(&[9, 3, 1, 2, 3], 10).unwrap(), Some(Told::Later));
        assert_eq!(read(&[255, 0], 10).unwrap(), Some(Told::Later));
        let longest = [&[9, 0x80, 0x20][..], &[0; MAX_LATER_LEN as usize]].concat();
        assert_eq!(read(&longest, 10).unwrap(), Some(Told::Later));
        assert_eq!(read(&[], 10).unwrap(), None);
    }

    #[test]
    fn what_is_too_much_is_refused_before_it_is_read() {
        for bytes in [
            &[0, 1][..],
            &[3, 5],
            &[1, 4],
            &[2, 4],
            &[1, 0x80, 0x00],
            &[9, 0x81, 0x20],
            &[9, 0x82, 0x80, 0x80, 0x01],
            &[9, 0xff, 0xff, 0xff, 0xff, 0x01],
        ] {
            assert_eq!(read(bytes, 16).unwrap_err().kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
        // The right length and no set of so many chunks: past the end, a run of nothing, not the shorter form.
        for bytes in [&[1, 2, 1, 0x11][..], &[1, 3, 0, 0, 0], &[2, 3, 1, 0, 0], &[2, 0], &[2, 1, 2]] {
            assert!(read(bytes, 16).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_long_set_is_shared_by_all_who_are_told() {
        let long: std::sync::Arc<[u8]> = vec![0; MAX_COPIED_LEN + 1].into();
        let (telling, other) = (Telling::Map(long.clone()), Telling::Map(long.clone()));
        for telling in [&telling, &other] {
            let (head, rest) = frame_parts(telling);
            assert_eq!((head, rest.as_ptr()), (vec![1, 0x81, 0x20], long.as_ptr()));
        }
    }

    /// What the decision about this protocol quotes.
    #[test]
    fn maps_are_short() {
        // 1 GiB in chunks of 1 MiB: complete, half of it in order, half of it at random.
        let len = |set: ChunkSet| frame_bytes(&Telling::Map(set.encode().into())).len();
        assert_eq!(frame_bytes(&Telling::All).len(), 2);
        assert_eq!(len(set(1_024, 0..512)), 6);
        let mut state = 1_u32;
        let random = (0..1_024).filter(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 31 == 0
        });
        assert_eq!(len(set(1_024, random)), 132);
        assert_eq!(len(set(1_024, (0..1_024).step_by(100))), 25);
    }

    proptest! {
        #[test]
        fn every_frame_reads_back(len in 1_u32..3_000, held in prop::collection::vec(any::<bool>(), 0..3_000)) {
            let held = set(len, (0..len).zip(held).filter(|(_, held)| *held).map(|(index, _)| index));
            let map = Telling::Map(held.encode().into());
            prop_assert_eq!(read(&frame_bytes(&map), len).unwrap(), Some(Told::Map(held.clone())));
            let bytes = frame_bytes(&Telling::More(held.encode().into()));
            for cut in 1..bytes.len() {
                prop_assert!(read(&bytes[..cut], len).is_err());
            }
            prop_assert_eq!(read(&bytes, len).unwrap(), Some(Told::More(held)));
        }

        #[test]
        fn whatever_bytes_come_are_refused_or_are_a_frame(
            bytes in prop::collection::vec(prop_oneof![3 => 0_u8..6, 1 => any::<u8>()], 0..80),
            chunks in prop_oneof![0_u32..600, Just(MAX_CHUNKS)],
        ) {
            block_on(async {
                let mut io = Cursor::new(&bytes);
                while let Ok(Some(kind)) = read_kind(&mut io).await {
                    let start = usize::try_from(io.position()).unwrap() - 1;
                    let Ok((told, _)) = read_rest(&mut io, kind, chunks).await else { return };
                    let read = &bytes[start..usize::try_from(io.position()).unwrap()];
                    let telling = match told {
                        Told::All => Telling::All,
                        Told::Map(set) => {
                            assert_eq!(set.len(), chunks);
                            Telling::Map(set.encode().into())
                        }
                        Told::More(set) => Telling::More(set.encode().into()),
                        Told::Unknown => Telling::Unknown,
                        Told::Busy => Telling::Busy,
                        Told::Later => continue,
                    };
                    assert_eq!(frame_bytes(&telling), read);
                }
            });
        }
    }
}
