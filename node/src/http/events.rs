//! Streams of [`Event`]s, one JSON object a line.

use std::{convert::Infallible, pin::Pin};

use axum::{
    body::{Body, Bytes},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures::{Stream, StreamExt};
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use crate::api::types::{ApiError, ErrorKind, Event};

type Operation<D> = Pin<Box<dyn Future<Output = Result<D, ApiError>> + Send>>;

/// Runs an operation whose progress may skip states: a slow reader sees the newest.
pub(super) fn latest<P, D, F>(operation: impl FnOnce(watch::Sender<P>) -> F) -> Response
where
    P: Serialize + Clone + Default + Send + Sync + 'static,
    D: Serialize + Send + 'static,
    F: Future<Output = Result<D, ApiError>> + Send + 'static,
{
    let (progress, seen) = watch::channel(P::default());
    let operation: Operation<D> = Box::pin(operation(progress));
    let lines = futures::stream::unfold(Some((operation, seen)), |state| async move {
        let (mut operation, mut seen) = state?;
        tokio::select! {
            biased;
            Ok(()) = seen.changed() => {
                let progress = seen.borrow_and_update().clone();
                Some((Event::Progress(progress), Some((operation, seen))))
            }
            outcome = &mut operation => Some((last(outcome), None)),
        }
    });
    respond(lines)
}

/// Runs an operation whose every progress item goes out; a slow reader slows it down.
pub(super) fn every<P, D>(
    items: mpsc::Receiver<P>,
    operation: impl Future<Output = Result<D, ApiError>> + Send + 'static,
) -> Response
where
    P: Serialize + Send + 'static,
    D: Serialize + Send + 'static,
{
    let operation: Operation<D> = Box::pin(operation);
    let state = Some((operation, items, None::<Event<P, D>>));
    let lines = futures::stream::unfold(state, |state| async move {
        let (mut operation, mut items, ended) = state?;
        if let Some(ended) = ended {
            return Some(match items.recv().await {
                Some(item) => (Event::Progress(item), Some((operation, items, Some(ended)))),
                None => (ended, None),
            });
        }
        tokio::select! {
            biased;
            Some(item) = items.recv() => Some((Event::Progress(item), Some((operation, items, None)))),
            outcome = &mut operation => match items.try_recv() {
                Ok(item) => Some((Event::Progress(item), Some((operation, items, Some(last(outcome)))))),
                Err(_) => Some((last(outcome), None)),
            },
        }
    });
    respond(lines)
}

fn last<P, D>(outcome: Result<D, ApiError>) -> Event<P, D> {
    match outcome {
        Ok(done) => Event::Done(done),
        Err(error) => Event::Error(error),
    }
}

fn respond<P, D>(events: impl Stream<Item = Event<P, D>> + Send + 'static) -> Response
where
    P: Serialize + Send + 'static,
    D: Serialize + Send + 'static,
{
    let lines = events.map(|event| Ok::<_, Infallible>(line(&event)));
    let mut response = Body::from_stream(lines).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}

fn line<P: Serialize, D: Serialize>(event: &Event<P, D>) -> Bytes {
    let encoded = serde_json::to_vec(event).or_else(|error| {
        // A path that is no UTF-8 is the one thing that JSON cannot carry.
        let error =
            ApiError::new(ErrorKind::Failed, format!("the answer cannot be written as JSON: {error}"));
        serde_json::to_vec(&Event::<(), ()>::Error(error))
    });
    let mut line = encoded.unwrap_or_default();
    line.push(b'\n');
    line.into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

    use super::*;

    async fn lines(response: Response) -> Vec<String> {
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(body.to_vec()).unwrap().lines().map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn a_stream_ends_with_exactly_one_done_or_error() {
        let done = latest(|progress: watch::Sender<u32>| async move {
            progress.send_replace(7);
            tokio::task::yield_now().await;
            Ok(1_u32)
        });
        assert_eq!(lines(done).await, [r#"{"event":"progress","data":7}"#, r#"{"event":"done","data":1}"#]);
        let failed =
            latest(|_: watch::Sender<u32>| async { Err::<u32, _>(ApiError::new(ErrorKind::NotFound, "no")) });
        assert_eq!(lines(failed).await, [r#"{"event":"error","data":{"kind":"not-found","message":"no"}}"#]);
    }

    #[tokio::test]
    async fn every_item_reaches_the_reader_before_the_end() {
        let (items, received) = mpsc::channel(8);
        let response = every(received, async move {
            for n in 0..5_u32 {
                items.send(n).await.unwrap();
            }
            Ok(())
        });
        let lines = lines(response).await;
        assert_eq!(lines.len(), 6);
        assert!(lines.iter().take(5).all(|line| line.starts_with(r#"{"event":"progress""#)));
        assert_eq!(lines.last().unwrap(), r#"{"event":"done","data":null}"#);
    }
}
