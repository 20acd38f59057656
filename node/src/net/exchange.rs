//! The exchange protocol `/dhtfs/<network>/exchange/1`: one request for one chunk or manifest per stream.
//!
//! Request, 33 bytes, then the asker closes its side:
//!
//! | offset | length | content                           |
//! |--------|--------|-----------------------------------|
//! | 0      | 1      | kind: 1 chunk, 2 manifest         |
//! | 1      | 32     | SHA-256 digest of what is asked   |
//!
//! Response, then the answerer closes its side:
//!
//! | offset | length | content                                              |
//! |--------|--------|------------------------------------------------------|
//! | 0      | 1      | status: 0 data, 1 missing, 2 busy                    |
//! | 1      | 4      | data only: length, unsigned, big-endian, 0..=1 MiB   |
//! | 5      | length | data only: the bytes                                 |
//!
//! Anything else, more bytes included, is [`io::ErrorKind::InvalidData`]; an early end is
//! [`io::ErrorKind::UnexpectedEof`]. Whether the bytes belong to the digest is for the receiver to check.

use std::io;

use dhtfs_store::{ChunkCid, ContentCid, ManifestCid};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::{StreamProtocol, request_response};

/// Most bytes a response may carry: the longest chunk and the longest manifest block.
pub const MAX_DATA_LEN: u32 = 1024 * 1024;

/// Length of a request in bytes.
const REQUEST_LEN: usize = 33;
/// Length of the head of a data response in bytes.
const HEAD_LEN: usize = 5;

const KIND_CHUNK: u8 = 1;
const KIND_MANIFEST: u8 = 2;

const STATUS_DATA: u8 = 0;
const STATUS_MISSING: u8 = 1;
const STATUS_BUSY: u8 = 2;

/// A question for the bytes of one chunk or manifest block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExchangeRequest(pub ContentCid);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExchangeResponse {
    /// The bytes, at most [`MAX_DATA_LEN`]; not checked against the digest.
    Data(Vec<u8>),
    /// The same of a manifest block and, after it, what it stands for: only on lanes, where that is asked for. Here the block
    /// alone is sent.
    WithContent {
        /// Both.
        data: Vec<u8>,
        /// How many of these bytes are content: the last ones, at least one.
        content_len: u32,
    },
    /// The peer does not hold it.
    Missing,
    /// The peer has too much to do; ask again later or elsewhere.
    Busy,
}

impl ExchangeResponse {
    /// The same without content that came with a manifest block.
    pub(super) fn without_content(self) -> Self {
        match self {
            Self::WithContent { mut data, content_len } => {
                data.truncate(data.len().saturating_sub(content_len as usize));
                Self::Data(data)
            }
            other => other,
        }
    }
}

/// Reads and writes the messages above.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExchangeCodec;

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Fails unless the stream ends here.
async fn expect_end<T: AsyncRead + Unpin>(io: &mut T) -> io::Result<()> {
    match io.read(&mut [0]).await? {
        0 => Ok(()),
        _ => Err(invalid("bytes after the end of the message")),
    }
}

impl request_response::Codec for ExchangeCodec {
    type Protocol = StreamProtocol;
    type Request = ExchangeRequest;
    type Response = ExchangeResponse;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<ExchangeRequest>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut kind = [0; 1];
        let mut digest = [0; REQUEST_LEN - 1];
        io.read_exact(&mut kind).await?;
        let cid = |digest| match kind {
            [KIND_CHUNK] => Ok(ContentCid::Chunk(ChunkCid::from_digest(digest))),
            [KIND_MANIFEST] => Ok(ContentCid::Manifest(ManifestCid::from_digest(digest))),
            [other] => Err(invalid(format!("unknown kind of request {other}"))),
        };
        // An unknown kind is refused before its digest is awaited.
        cid(digest)?;
        io.read_exact(&mut digest).await?;
        expect_end(io).await?;
        Ok(ExchangeRequest(cid(digest)?))
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<ExchangeResponse>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut status = [0; 1];
        io.read_exact(&mut status).await?;
        let response = match status {
            [STATUS_DATA] => {
                let mut len = [0; HEAD_LEN - 1];
                io.read_exact(&mut len).await?;
                let len = u32::from_be_bytes(len);
                if len > MAX_DATA_LEN {
                    return Err(invalid(format!(
                        "{len} bytes announced, at most {MAX_DATA_LEN} are allowed"
                    )));
                }
                let len = usize::try_from(len).map_err(|_| invalid("length does not fit in memory"))?;
                let mut data = vec![0; len];
                io.read_exact(&mut data).await?;
                ExchangeResponse::Data(data)
            }
            [STATUS_MISSING] => ExchangeResponse::Missing,
            [STATUS_BUSY] => ExchangeResponse::Busy,
            [other] => return Err(invalid(format!("unknown status {other}"))),
        };
        expect_end(io).await?;
        Ok(response)
    }

    async fn write_request<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        ExchangeRequest(cid): ExchangeRequest,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        let kind = match cid {
            ContentCid::Chunk(_) => KIND_CHUNK,
            ContentCid::Manifest(_) => KIND_MANIFEST,
        };
        let mut message = [kind; REQUEST_LEN];
        message[1..].copy_from_slice(cid.digest());
        io.write_all(&message).await
    }

    async fn write_response<T>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        response: ExchangeResponse,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        match response.without_content() {
            ExchangeResponse::Data(data) | ExchangeResponse::WithContent { data, .. } => {
                let len = u32::try_from(data.len())
                    .ok()
                    .filter(|len| *len <= MAX_DATA_LEN)
                    .ok_or_else(|| invalid(format!("{} bytes are too many for a response", data.len())))?;
                let mut head = [STATUS_DATA; HEAD_LEN];
                head[1..].copy_from_slice(&len.to_be_bytes());
                io.write_all(&head).await?;
                io.write_all(&data).await
            }
            ExchangeResponse::Missing => io.write_all(&[STATUS_MISSING]).await,
            ExchangeResponse::Busy => io.write_all(&[STATUS_BUSY]).await,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::io::ErrorKind;

    use dhtfs_store::{ChunkCid, ContentCid, ManifestCid};
    use futures::executor::block_on;
    use futures::io::Cursor;
    use libp2p::StreamProtocol;
    use libp2p::request_response::Codec as _;
    use proptest::prelude::*;

    use super::{ExchangeCodec, ExchangeRequest, ExchangeResponse, MAX_DATA_LEN};

    const PROTOCOL: StreamProtocol = StreamProtocol::new("/dhtfs/test/exchange/1");

    fn read_request(bytes: &[u8]) -> std::io::Result<ExchangeRequest> {
        block_on(ExchangeCodec.read_request(&PROTOCOL, &mut Cursor::new(bytes)))
    }

    fn read_response(bytes: &[u8]) -> std::io::Result<ExchangeResponse> {
        block_on(ExchangeCodec.read_response(&PROTOCOL, &mut Cursor::new(bytes)))
    }

    fn request_bytes(request: ExchangeRequest) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        block_on(ExchangeCodec.write_request(&PROTOCOL, &mut out, request)).unwrap();
        out.into_inner()
    }

    fn response_bytes(response: ExchangeResponse) -> std::io::Result<Vec<u8>> {
        let mut out = Cursor::new(Vec::new());
        block_on(ExchangeCodec.write_response(&PROTOCOL, &mut out, response))?;
        Ok(out.into_inner())
    }

    fn chunk(n: u8) -> ContentCid {
        ContentCid::Chunk(ChunkCid::from_digest([n; 32]))
    }

    #[test]
    fn content_stays_behind_where_there_is_no_place_for_it() {
        let with_content = ExchangeResponse::WithContent { data: vec![1, 2, 3], content_len: 1 };
        let alone = response_bytes(ExchangeResponse::Data(vec![1, 2])).unwrap();
        assert_eq!(response_bytes(with_content).unwrap(), alone);
    }

    #[test]
    fn requests_have_the_documented_bytes() {
        let mut expected = vec![1];
        expected.extend([7; 32]);
        assert_eq!(request_bytes(ExchangeRequest(chunk(7))), expected);
        expected[0] = 2;
        let manifest = ExchangeRequest(ContentCid::Manifest(ManifestCid::from_digest([7; 32])));
        assert_eq!(request_bytes(manifest), expected);
        assert_eq!(read_request(&expected).unwrap(), manifest);
    }

    #[test]
    fn responses_have_the_documented_bytes() {
        assert_eq!(response_bytes(ExchangeResponse::Data(vec![9, 8])).unwrap(), [0, 0, 0, 0, 2, 9, 8]);
        assert_eq!(response_bytes(ExchangeResponse::Missing).unwrap(), [1]);
        assert_eq!(response_bytes(ExchangeResponse::Busy).unwrap(), [2]);
        assert_eq!(read_response(&[0, 0, 0, 0, 0]).unwrap(), ExchangeResponse::Data(Vec::new()));
    }

    #[test]
    fn a_short_or_long_or_unknown_request_is_refused() {
        let good = request_bytes(ExchangeRequest(chunk(7)));
        for len in 0..good.len() {
            assert_eq!(read_request(&good[..len]).unwrap_err().kind(), ErrorKind::UnexpectedEof, "{len}");
        }
        let mut long = good.clone();
        long.push(0);
        assert_eq!(read_request(&long).unwrap_err().kind(), ErrorKind::InvalidData);
        for kind in [0, 3, 255] {
            let mut unknown = good.clone();
            unknown[0] = kind;
            assert_eq!(read_request(&unknown).unwrap_err().kind(), ErrorKind::InvalidData);
        }
        assert_eq!(read_request(&[3]).unwrap_err().kind(), ErrorKind::InvalidData, "without its digest");
    }

    #[test]
    fn a_response_may_carry_exactly_one_mebibyte() {
        for len in [MAX_DATA_LEN - 1, MAX_DATA_LEN] {
            let data = vec![3; len as usize];
            let bytes = response_bytes(ExchangeResponse::Data(data.clone())).unwrap();
            assert_eq!(bytes.len(), data.len() + 5);
            assert_eq!(read_response(&bytes).unwrap(), ExchangeResponse::Data(data));
            assert_eq!(
                read_response(&bytes[..bytes.len() - 1]).unwrap_err().kind(),
                ErrorKind::UnexpectedEof
            );
        }
        let over = vec![3; MAX_DATA_LEN as usize + 1];
        let error = response_bytes(ExchangeResponse::Data(over)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        for len in [MAX_DATA_LEN + 1, u32::MAX] {
            // The length alone is refused, before a byte of data is awaited or room made for it.
            let mut head = vec![0];
            head.extend(len.to_be_bytes());
            assert_eq!(read_response(&head).unwrap_err().kind(), ErrorKind::InvalidData, "{len}");
        }
    }

    #[test]
    fn bytes_after_a_response_and_unknown_statuses_are_refused() {
        for bytes in [&[1, 0][..], &[2, 0], &[0, 0, 0, 0, 1, 5, 5], &[3], &[255]] {
            assert_eq!(read_response(bytes).unwrap_err().kind(), ErrorKind::InvalidData, "{bytes:?}");
        }
        for bytes in [&[][..], &[0], &[0, 0, 0], &[0, 0, 0, 0, 1]] {
            assert_eq!(read_response(bytes).unwrap_err().kind(), ErrorKind::UnexpectedEof, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn every_request_reads_back(digest in any::<[u8; 32]>(), manifest in any::<bool>()) {
            let cid = if manifest {
                ContentCid::Manifest(ManifestCid::from_digest(digest))
            } else {
                ContentCid::Chunk(ChunkCid::from_digest(digest))
            };
            prop_assert_eq!(read_request(&request_bytes(ExchangeRequest(cid))).unwrap(), ExchangeRequest(cid));
        }

        #[test]
        fn every_response_reads_back(data in proptest::collection::vec(any::<u8>(), 0..5_000)) {
            let response = ExchangeResponse::Data(data);
            prop_assert_eq!(read_response(&response_bytes(response.clone()).unwrap()).unwrap(), response);
        }

        #[test]
        fn whatever_is_accepted_writes_back_to_the_same_bytes(
            bytes in proptest::collection::vec(0u8..6, 0..60)
        ) {
            if let Ok(request) = read_request(&bytes) {
                prop_assert_eq!(request_bytes(request), bytes.clone());
            }
            if let Ok(response) = read_response(&bytes) {
                prop_assert_eq!(response_bytes(response).unwrap(), bytes);
            }
        }
    }
}
