//! A request body as a blocking reader: bytes come in on the runtime and are read on a thread of the store.

use std::io::{self, Read};

use axum::body::{Body, Bytes};
use futures::StreamExt;
use tokio::sync::mpsc;

/// Pieces of the body that wait for the reader. The connection stops being read when it is full.
const MAX_WAITING_PIECES: usize = 16;

/// The reading end. Blocks until bytes come; fails if the body breaks off.
pub(super) struct BodyReader {
    pieces: mpsc::Receiver<Result<Bytes, String>>,
    current: Bytes,
}

/// Splits a body into its reader and a future that feeds it. The future ends when the body does or nobody reads.
pub(super) fn bridge(body: Body) -> (BodyReader, impl Future<Output = ()> + Send) {
    let (feed, pieces) = mpsc::channel(MAX_WAITING_PIECES);
    let mut stream = body.into_data_stream();
    let feeding = async move {
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|error| error.to_string());
            let is_end = piece.is_err();
            if feed.send(piece).await.is_err() || is_end {
                return;
            }
        }
    };
    (BodyReader { pieces, current: Bytes::new() }, feeding)
}

impl Read for BodyReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(Ok(piece)) => self.current = piece,
                Some(Err(error)) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        format!("the input broke off: {error}"),
                    ));
                }
            }
        }
        let len = buf.len().min(self.current.len());
        let taken = self.current.split_to(len);
        buf[..len].copy_from_slice(&taken);
        Ok(len)
    }
}
