//! Bytes and events on one body, so that a `cat` can say why it waits and why it failed.
//!
//! A frame is one byte that says what it is (0 bytes, 1 an [`Event`] as JSON), four bytes with the length of what follows,
//! big-endian, and that much. The last one is an event that is `done` or `error`.

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use tokio::sync::{mpsc, watch};

use crate::{
    api::{
        Api,
        types::{ApiError, CatDone, CatProgress, CatRequest, Event},
    },
    env::Executor,
};

/// First byte of a frame of content.
pub const BYTES_FRAME: u8 = 0;

/// First byte of a frame with an event.
pub const EVENT_FRAME: u8 = 1;

/// Bytes in front of what a frame carries.
pub const FRAME_HEAD_LEN: usize = 5;

/// Heads and payloads that wait for the connection.
const MAX_WAITING_PIECES: usize = 2;

/// Nobody reads any more.
struct ReaderGone;

struct Frames(mpsc::Sender<Bytes>);

impl Frames {
    async fn bytes(&self, data: Vec<u8>) -> Result<(), ReaderGone> {
        self.frame(BYTES_FRAME, data).await
    }

    async fn event(&self, event: &Event<CatProgress, CatDone>) -> Result<(), ReaderGone> {
        // Nothing in it is no valid JSON.
        self.frame(EVENT_FRAME, serde_json::to_vec(event).unwrap_or_default()).await
    }

    async fn frame(&self, kind: u8, payload: Vec<u8>) -> Result<(), ReaderGone> {
        // What comes here is a chunk at most.
        let len = u32::try_from(payload.len()).map_err(|_| ReaderGone)?;
        let mut head = vec![kind];
        head.extend_from_slice(&len.to_be_bytes());
        for piece in [head, payload] {
            self.0.send(piece.into()).await.map_err(|_| ReaderGone)?;
        }
        Ok(())
    }
}

/// Answers a `cat` with frames. Dropping the answer's body ends it.
pub(super) fn cat(api: Api, request: CatRequest, executor: &Executor) -> Response {
    let (out, mut pieces) = mpsc::channel(MAX_WAITING_PIECES);
    let (gone, runner) = (out.clone(), executor.clone());
    executor(Box::pin(async move {
        let frames = Frames(out);
        tokio::select! {
            () = gone.closed() => {}
            _ = send(&api, request, &runner, &frames) => {}
        }
    }));
    let body = futures::stream::poll_fn(move |context| pieces.poll_recv(context));
    let body = futures::StreamExt::map(body, Ok::<_, std::convert::Infallible>);
    let mut response = Body::from_stream(body).into_response();
    let kind = HeaderValue::from_static("application/vnd.dhtfs.frames");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

async fn send(
    api: &Api,
    request: CatRequest,
    executor: &Executor,
    frames: &Frames,
) -> Result<(), ReaderGone> {
    let (progress, mut seen) = watch::channel(CatProgress::default());
    let mut opening = Box::pin(api.cat(request, executor, progress));
    let opened = loop {
        tokio::select! {
            biased;
            Ok(()) = seen.changed() => {
                let progress = seen.borrow_and_update().clone();
                frames.event(&Event::Progress(progress)).await?;
            }
            opened = &mut opening => break opened,
        }
    };
    let mut answer = match opened {
        Ok(answer) => answer,
        Err(error) => return frames.event(&Event::Error(error)).await,
    };
    let mut len: u64 = 0;
    loop {
        tokio::select! {
            biased;
            Ok(()) = seen.changed() => {
                let progress = seen.borrow_and_update().clone();
                frames.event(&Event::Progress(progress)).await?;
            }
            piece = answer.bytes.recv() => match piece {
                Some(Ok(data)) => {
                    len += data.len() as u64;
                    frames.bytes(data).await?;
                }
                Some(Err(error)) => return frames.event(&Event::Error(error)).await,
                None => break,
            },
        }
    }
    frames.event(&end(len, answer.len)).await
}

/// The last event of content of which `len` of `promised` bytes were sent.
fn end(len: u64, promised: u64) -> Event<CatProgress, CatDone> {
    if len == promised {
        return Event::Done(CatDone { len });
    }
    let message = format!("the content broke off after {len} of {promised} bytes; try again");
    Event::Error(ApiError::new(crate::api::types::ErrorKind::Incomplete, message))
}
