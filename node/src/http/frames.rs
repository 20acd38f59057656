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
        Api, CatAnswer,
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
    match opened {
        Ok(answer) => pass_on(answer, seen, frames).await,
        Err(error) => frames.event(&Event::Error(error)).await,
    }
}

/// Sends the content, and between it why no more comes while there is nothing to send.
async fn pass_on(
    mut answer: CatAnswer,
    mut seen: watch::Receiver<CatProgress>,
    frames: &Frames,
) -> Result<(), ReaderGone> {
    let mut len: u64 = 0;
    loop {
        tokio::select! {
            biased;
            piece = answer.bytes.recv() => match piece {
                Some(Ok(data)) => {
                    len += data.len() as u64;
                    frames.bytes(data).await?;
                    // What was said while the reader took this is no longer so; what still is will be said again.
                    seen.mark_unchanged();
                }
                Some(Err(error)) => return frames.event(&Event::Error(error)).await,
                None => break,
            },
            Ok(()) = seen.changed() => {
                let progress = seen.borrow_and_update().clone();
                frames.event(&Event::Progress(progress)).await?;
            }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

    use super::*;
    use crate::api::types::Waiting;

    /// What is passed on, as text: the bytes, and each event in brackets.
    struct Shown {
        bytes: mpsc::Sender<Result<Vec<u8>, ApiError>>,
        progress: watch::Sender<CatProgress>,
        pieces: mpsc::Receiver<Bytes>,
    }

    impl Shown {
        fn begin() -> Self {
            let (bytes, answer) = mpsc::channel(4);
            let (progress, seen) = watch::channel(CatProgress::default());
            let (out, pieces) = mpsc::channel(MAX_WAITING_PIECES);
            tokio::spawn(async move {
                let answer = CatAnswer { len: 4, bytes: answer };
                pass_on(answer, seen, &Frames(out)).await
            });
            Self { bytes, progress, pieces }
        }

        async fn bytes(&self, text: &str) {
            self.bytes.send(Ok(text.as_bytes().to_vec())).await.unwrap();
        }

        fn says(&self, line: &str) {
            let waiting = Waiting { line: line.to_owned(), ..Waiting::default() };
            self.progress.send_replace(CatProgress { waiting: Some(waiting) });
        }

        /// No more bytes come.
        fn end(&mut self) {
            self.bytes = mpsc::channel(1).0;
        }

        /// The next frame.
        async fn next(&mut self) -> Option<String> {
            let head = self.pieces.recv().await?;
            let payload = self.pieces.recv().await?;
            assert_eq!(head.len(), FRAME_HEAD_LEN);
            assert_eq!(head[1..], u32::try_from(payload.len()).unwrap().to_be_bytes());
            if head[0] == BYTES_FRAME {
                return Some(String::from_utf8(payload.to_vec()).unwrap());
            }
            Some(match serde_json::from_slice::<Event<CatProgress, CatDone>>(&payload).unwrap() {
                Event::Progress(progress) => format!("[{}]", progress.waiting.unwrap().line),
                Event::Done(done) => format!("[done {}]", done.len),
                Event::Error(error) => format!("[{}]", error.message),
            })
        }
    }

    #[tokio::test]
    async fn a_reason_goes_out_when_there_is_nothing_else_and_never_after_what_it_was_about() {
        let mut shown = Shown::begin();
        shown.says("busy");
        assert_eq!(shown.next().await.unwrap(), "[busy]");
        // Both are there when the reader takes the next: the bytes come first, and make the reason untrue.
        shown.bytes("a").await;
        shown.bytes("b").await;
        shown.says("the reader is slow");
        for text in ["a", "b"] {
            assert_eq!(shown.next().await.unwrap(), text);
        }
        shown.bytes("c").await;
        assert_eq!(shown.next().await.unwrap(), "c");
        shown.says("silence");
        assert_eq!(shown.next().await.unwrap(), "[silence]");
        shown.bytes("d").await;
        assert_eq!(shown.next().await.unwrap(), "d");
        shown.end();
        assert_eq!((shown.next().await.as_deref(), shown.next().await), (Some("[done 4]"), None));
    }

    #[tokio::test]
    async fn content_that_ends_early_is_a_failure() {
        let mut shown = Shown::begin();
        shown.bytes("abc").await;
        shown.end();
        assert_eq!(shown.next().await.unwrap(), "abc");
        let end = shown.next().await.unwrap();
        assert!(end.contains("after 3 of 4 bytes"), "{end}");
    }
}
