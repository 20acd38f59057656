//! The way to a node: HTTP + JSON, over a daemon's Unix socket or straight into the router of an embedded node.
//! Every command takes this way, so both behave alike.

use std::{
    marker::PhantomData,
    path::{Path, PathBuf},
    sync::Mutex,
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{Method, Request, Response, StatusCode, header},
};
use dhtfs_node::{
    api::types::{ApiError, CatDone, CatProgress, ErrorKind, Event},
    http::{BYTES_FRAME, EVENT_FRAME, FRAME_HEAD_LEN},
    node::connect_socket,
};
use futures::{Stream, StreamExt};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;
use tower::ServiceExt;

use crate::error::{CliError, Result};

/// Longest answer to a plain call that is read, in bytes. The longest real one lists a directory of a million
/// files (about 200 MB) or the chunks of some TiB.
const MAX_ANSWER_LEN: usize = 512 * 1024 * 1024;

/// Longest error answer that is read, in bytes; one is a sentence.
const MAX_ERROR_LEN: usize = 64 * 1024;

/// Longest line of an event stream, in bytes. The longest real one names some hundred peers.
const MAX_LINE_LEN: usize = 4 * 1024 * 1024;

/// A way to one node.
#[derive(Debug)]
pub(crate) struct Connection {
    route: Route,
}

#[derive(Debug)]
enum Route {
    /// A daemon on this data directory. Every call takes a connection of its own; the first one, which showed that
    /// there is a daemon, is kept here until it is used.
    Daemon { data_dir: PathBuf, first: Mutex<Option<UnixStream>> },
    /// A node in this process.
    Embedded(Router),
}

impl Connection {
    /// To the daemon of `data_dir`; `None` if there is none.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] if a process holds the data directory and does not answer.
    pub(crate) async fn open(data_dir: &Path) -> Result<Option<Self>> {
        let stream = connect_socket(data_dir).await?;
        Ok(stream.map(|stream| Self::over(data_dir.to_owned(), stream)))
    }

    /// To the daemon of `data_dir`, the first call over `first`.
    fn over(data_dir: PathBuf, first: UnixStream) -> Self {
        Self { route: Route::Daemon { data_dir, first: Mutex::new(Some(first)) } }
    }

    /// To a node in this process.
    pub(crate) fn embedded(router: Router) -> Self {
        Self { route: Route::Embedded(router) }
    }

    /// Whether the node runs on when this process ends.
    pub(crate) fn is_daemon(&self) -> bool {
        matches!(self.route, Route::Daemon { .. })
    }

    /// `GET path`, answered by one JSON value.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.value(request(Method::GET, path, Body::empty())?).await
    }

    /// `POST path` with a JSON value, answered by one JSON value.
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.value(json_request(path, body)?).await
    }

    /// `POST path` with a JSON value, answered by a stream of events. Dropping it ends the operation.
    pub(crate) async fn events<P, D>(&self, path: &str, body: &impl Serialize) -> Result<Events<P, D>> {
        let response = self.send(json_request(path, body)?).await?;
        Ok(Events::new(response.into_body(), MAX_LINE_LEN))
    }

    /// The same where the last event may be as long as the answer to a plain call.
    pub(crate) async fn long_events<P, D>(&self, path: &str, body: &impl Serialize) -> Result<Events<P, D>> {
        let response = self.send(json_request(path, body)?).await?;
        Ok(Events::new(response.into_body(), MAX_ANSWER_LEN))
    }

    /// `POST path` with content as it comes, answered by a stream of events.
    pub(crate) async fn upload<P, D, S>(&self, path: &str, content: S) -> Result<Events<P, D>>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let response = self.send(request(Method::POST, path, Body::from_stream(content))?).await?;
        Ok(Events::new(response.into_body(), MAX_LINE_LEN))
    }

    /// `POST path` with a JSON value, answered by frames of bytes and events.
    pub(crate) async fn content(&self, path: &str, body: &impl Serialize) -> Result<Content> {
        let response = self.send(json_request(path, body)?).await?;
        Ok(Content { body: response.into_body(), waiting: Bytes::new(), bytes_left: 0 })
    }

    async fn value<T: DeserializeOwned>(&self, request: Request<Body>) -> Result<T> {
        let response = self.send(request).await?;
        let bytes = collect(response.into_body(), MAX_ANSWER_LEN).await?;
        serde_json::from_slice(&bytes).map_err(unexpected)
    }

    /// Sends a request; an answer other than success becomes the error it carries.
    async fn send(&self, request: Request<Body>) -> Result<Response<Body>> {
        let path = request.uri().path().to_owned();
        let response = match &self.route {
            Route::Embedded(router) => match router.clone().oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
            Route::Daemon { data_dir, first } => {
                let kept = first.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
                let stream = match kept {
                    Some(stream) => Some(stream),
                    None => connect_socket(data_dir).await?,
                };
                let stream =
                    stream.ok_or_else(|| CliError::failed("the daemon has ended; start it again"))?;
                over_socket(stream, request).await?
            }
        };
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = collect(response.into_body(), MAX_ERROR_LEN).await?;
        match serde_json::from_slice::<ApiError>(&bytes) {
            Ok(error) => Err(error.into()),
            Err(_) if status == StatusCode::NOT_FOUND => Err(CliError::failed(format!(
                "the daemon does not know {path}: it is older than this program; restart it"
            ))),
            Err(_) => Err(unexpected(format_args!("status {status}, {}", String::from_utf8_lossy(&bytes)))),
        }
    }
}

/// One request on one connection, which ends when the answer's body has been read or dropped.
async fn over_socket(stream: UnixStream, request: Request<Body>) -> Result<Response<Body>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
    tokio::spawn(async move {
        // What goes wrong here also ends the answer, where it is reported.
        let _ = connection.await;
    });
    let response = sender.send_request(request).await.map_err(lost)?;
    Ok(response.map(Body::new))
}

fn json_request(path: &str, body: &impl Serialize) -> Result<Request<Body>> {
    // Only a path that is no UTF-8 cannot be written as JSON.
    let bytes =
        serde_json::to_vec(body).map_err(|error| CliError::usage(format!("cannot be sent: {error}")))?;
    let mut request = request(Method::POST, path, Body::from(bytes))?;
    request.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    Ok(request)
}

fn request(method: Method, path: &str, body: Body) -> Result<Request<Body>> {
    let builder = Request::builder().method(method).uri(path).header(header::HOST, "localhost");
    builder.body(body).map_err(|error| CliError::usage(format!("cannot be sent: {error}")))
}

async fn collect(body: Body, max_len: usize) -> Result<Bytes> {
    match Limited::new(body, max_len).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(unexpected(format_args!("it is longer than {max_len} bytes")))
        }
        Err(error) => Err(lost(error)),
    }
}

fn lost(error: impl std::fmt::Display) -> CliError {
    CliError::failed(format!("lost the connection to the daemon ({error}); see its log, then try again"))
}

fn unexpected(what: impl std::fmt::Display) -> CliError {
    CliError::failed(format!("the daemon's answer makes no sense ({what}); is it another version of dhtfs?"))
}

/// A streamed answer. Dropping it ends the operation on the other side.
#[derive(Debug)]
pub(crate) struct Events<P, D> {
    body: Body,
    waiting: Vec<u8>,
    max_line_len: usize,
    /// So much of `waiting` has no line end.
    searched: usize,
    kind: PhantomData<fn() -> Event<P, D>>,
}

impl<P, D> Events<P, D> {
    fn new(body: Body, max_line_len: usize) -> Self {
        Self { body, waiting: Vec::new(), max_line_len, searched: 0, kind: PhantomData }
    }
}

impl<P: DeserializeOwned, D: DeserializeOwned> Events<P, D> {
    /// Reads to the end, handing every progress event to `on_progress`.
    ///
    /// # Errors
    /// The error the operation ended with, or a failure if the stream breaks off without an end.
    pub(crate) async fn finish(mut self, mut on_progress: impl FnMut(P)) -> Result<D> {
        loop {
            match self.next().await? {
                Event::Progress(progress) => on_progress(progress),
                Event::Done(done) => return Ok(done),
                Event::Error(error) => return Err(error.into()),
            }
        }
    }

    /// The next event. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Event<P, D>> {
        loop {
            let fresh = self.waiting.get(self.searched..).unwrap_or_default();
            if let Some(found) = fresh.iter().position(|&byte| byte == b'\n') {
                let end = self.searched + found;
                let rest = self.waiting.split_off(end + 1);
                let line = std::mem::replace(&mut self.waiting, rest);
                self.searched = 0;
                return serde_json::from_slice(&line).map_err(unexpected);
            }
            self.searched = self.waiting.len();
            if self.searched > self.max_line_len {
                let max = self.max_line_len;
                return Err(unexpected(format_args!("a line is longer than {max} bytes")));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.waiting.extend(frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(lost(error)),
                None => return Err(lost("it broke off before the operation had ended")),
            }
        }
    }
}

/// Bytes on their way, and events between them.
#[derive(Debug)]
pub(crate) struct Content {
    body: Body,
    /// Came and is not looked at yet.
    waiting: Bytes,
    /// So much of the frame that has begun is still to come.
    bytes_left: usize,
}

/// Something that came.
#[derive(Debug)]
pub(crate) enum Piece {
    Bytes(Bytes),
    Progress(CatProgress),
    Done(CatDone),
}

impl Content {
    /// What comes next. [`Piece::Done`] is the last. Not cancel-safe.
    ///
    /// # Errors
    /// What the operation ended with, or [`ErrorKind::Incomplete`] if it breaks off.
    pub(crate) async fn next(&mut self) -> Result<Piece> {
        loop {
            if self.bytes_left > 0 {
                self.need(1).await?;
                let len = self.bytes_left.min(self.waiting.len());
                self.bytes_left -= len;
                return Ok(Piece::Bytes(self.waiting.split_to(len)));
            }
            self.need(FRAME_HEAD_LEN).await?;
            let head = self.waiting.split_to(FRAME_HEAD_LEN);
            let [kind, a, b, c, d] = *head else { return Err(unexpected("a frame has no head")) };
            let len = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            match kind {
                BYTES_FRAME => self.bytes_left = len,
                EVENT_FRAME if len <= MAX_LINE_LEN => {
                    self.need(len).await?;
                    let event = self.waiting.split_to(len);
                    return match serde_json::from_slice(&event).map_err(unexpected)? {
                        Event::Progress(progress) => Ok(Piece::Progress(progress)),
                        Event::Done(done) => Ok(Piece::Done(done)),
                        Event::Error(error) => Err(error.into()),
                    };
                }
                other => return Err(unexpected(format_args!("a frame of kind {other} with {len} bytes"))),
            }
        }
    }

    /// Waits until at least so many bytes are there.
    async fn need(&mut self, len: usize) -> Result<()> {
        while self.waiting.len() < len {
            let more = match self.body.frame().await {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Err(broke_off(&deepest(&error))),
                None => return Err(broke_off("it ended before its end")),
            };
            self.waiting =
                if self.waiting.is_empty() { more } else { [&self.waiting[..], &more[..]].concat().into() };
        }
        Ok(())
    }
}

fn broke_off(why: &str) -> CliError {
    ApiError::new(ErrorKind::Incomplete, format!("the content broke off ({why}); try again")).into()
}

/// What is at the bottom of an error: the layers of HTTP above it say nothing to a user.
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// What comes from an `AsyncRead` as a stream, in buffers of `buffer_len` bytes.
pub(crate) fn read_stream(
    reader: impl tokio::io::AsyncRead + Send + Unpin + 'static,
    buffer_len: usize,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    use tokio::io::AsyncReadExt;
    futures::stream::unfold(Some(reader), move |reader| async move {
        let mut reader = reader?;
        let mut buffer = vec![0; buffer_len];
        match reader.read(&mut buffer).await {
            Ok(0) => None,
            Ok(read) => {
                buffer.truncate(read);
                Some((Ok(Bytes::from(buffer)), Some(reader)))
            }
            Err(error) => Some((Err(error), None)),
        }
    })
    .fuse()
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
