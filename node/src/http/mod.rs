//! HTTP + JSON over the API. Handlers only translate; all work is in [`crate::api`].
//!
//! Plain calls answer with a JSON value, or an error status and an [`ApiError`] as
//! JSON. Long ones answer with a stream of [`Event`](crate::api::types::Event)s, one JSON object a line; dropping
//! the connection cancels them. The routes are listed in `docs/api.md`.

mod body;
mod events;
mod frames;
mod socket;

use axum::{
    Json, Router,
    body::Body,
    extract::{DefaultBodyLimit, Query, Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::StreamExt;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};

pub use self::frames::{BYTES_FRAME, EVENT_FRAME, FRAME_HEAD_LEN};
pub(crate) use self::socket::{connect, serve};
use crate::{
    api::{
        Api,
        types::{
            AddRequest, AddStreamQuery, ApiError, CatProgress, CatRequest, ErrorKind, GetRequest,
            LimitsRequest, LsRequest, ProvidersRequest, RmRequest, TransferRequest, VerifyRequest,
            WaitRequest, WatchTransfers,
        },
    },
    env::Executor,
};

/// Header of a `cat` answer: how many bytes will come. Fewer mean that it failed on the way.
pub const LEN_HEADER: &str = "x-dhtfs-len";

/// Largest JSON request body, in bytes.
const MAX_REQUEST_LEN: usize = 256 * 1024;

/// Providers that wait for a slow reader of the stream.
const MAX_WAITING_PROVIDERS: usize = 64;

#[derive(Clone)]
struct Shared {
    api: Api,
    executor: Executor,
}

/// The routes over an API. `executor` runs what outlives a handler (the content of a `cat`).
pub fn router(api: Api, executor: Executor) -> Router {
    Router::new()
        .route("/v0/add", post(add))
        .route("/v0/wait", post(wait))
        .route("/v0/get", post(fetch))
        .route("/v0/get-detached", post(get_detached))
        .route("/v0/transfers", get(transfers))
        .route("/v0/transfers-events", post(transfers_events))
        .route("/v0/pause", post(pause))
        .route("/v0/resume", post(resume))
        .route("/v0/abort", post(abort))
        .route("/v0/refresh", post(refresh))
        .route("/v0/cat", post(cat))
        .route("/v0/cat-frames", post(cat_frames))
        .route("/v0/ls", post(ls))
        .route("/v0/ls-events", post(ls_events))
        .route("/v0/rm", post(rm))
        .route("/v0/verify", post(verify))
        .route("/v0/providers", post(providers))
        .route("/v0/status", get(status))
        .route("/v0/status-of", post(status_of))
        .route("/v0/peers", get(peers))
        .route("/v0/net", get(net))
        .route("/v0/id", get(id))
        .route("/v0/limits", get(limits).post(set_limits))
        .route("/v0/gc", post(gc))
        .route("/v0/shutdown", post(shutdown))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_LEN))
        .route("/v0/add-stream", post(add_stream).layer(DefaultBodyLimit::disable()))
        .with_state(Shared { api, executor })
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = match self.kind {
            ErrorKind::Usage => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Incomplete => StatusCode::CONFLICT,
            ErrorKind::Failed | ErrorKind::Store | ErrorKind::Interrupted => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        (status, Json(self)).into_response()
    }
}

async fn add(State(shared): State<Shared>, Json(request): Json<AddRequest>) -> Response {
    events::latest(move |progress| async move { shared.api.add(request, progress).await })
}

async fn add_stream(
    State(shared): State<Shared>,
    Query(query): Query<AddStreamQuery>,
    request: Request,
) -> Response {
    let (reader, feed) = body::bridge(request.into_body());
    events::latest(move |progress| async move {
        let adding = shared.api.add_stream(query, reader, progress);
        let (added, ()) = tokio::join!(adding, feed);
        added
    })
}

async fn wait(State(shared): State<Shared>, Json(request): Json<WaitRequest>) -> Response {
    events::latest(move |progress| async move { shared.api.wait(request, progress).await })
}

async fn fetch(State(shared): State<Shared>, Json(request): Json<GetRequest>) -> Response {
    events::latest(move |progress| async move { shared.api.get(request, progress).await })
}

async fn get_detached(
    State(shared): State<Shared>,
    Json(request): Json<GetRequest>,
) -> Result<Response, ApiError> {
    Ok(Json(shared.api.get_detached(request).await?).into_response())
}

async fn transfers(State(shared): State<Shared>) -> Response {
    Json(shared.api.transfers().await).into_response()
}

async fn transfers_events(State(shared): State<Shared>, Json(request): Json<WatchTransfers>) -> Response {
    events::latest(move |progress| async move { shared.api.watch_transfers(request, progress).await })
}

async fn pause(
    State(shared): State<Shared>,
    Json(request): Json<TransferRequest>,
) -> Result<Response, ApiError> {
    Ok(Json(shared.api.pause(request).await?).into_response())
}

async fn resume(
    State(shared): State<Shared>,
    Json(request): Json<TransferRequest>,
) -> Result<Response, ApiError> {
    Ok(Json(shared.api.resume(request).await?).into_response())
}

async fn abort(
    State(shared): State<Shared>,
    Json(request): Json<TransferRequest>,
) -> Result<Response, ApiError> {
    Ok(Json(shared.api.abort(request).await?).into_response())
}

async fn refresh(
    State(shared): State<Shared>,
    Json(request): Json<TransferRequest>,
) -> Result<Response, ApiError> {
    Ok(Json(shared.api.refresh(request).await?).into_response())
}

async fn verify(State(shared): State<Shared>, Json(request): Json<VerifyRequest>) -> Response {
    events::latest(move |progress| async move { shared.api.verify(request, progress).await })
}

async fn providers(State(shared): State<Shared>, Json(request): Json<ProvidersRequest>) -> Response {
    let (found, stream) = mpsc::channel(MAX_WAITING_PROVIDERS);
    events::every(stream, async move { shared.api.providers(request, found).await })
}

async fn cat(State(shared): State<Shared>, Json(request): Json<CatRequest>) -> Result<Response, ApiError> {
    let (progress, _) = watch::channel(CatProgress::default());
    let answer = shared.api.cat(request, &shared.executor, progress).await?;
    let len = HeaderValue::from(answer.len);
    let bytes = futures::stream::unfold(answer.bytes, |mut bytes| async move {
        let next = bytes.recv().await?;
        Some((next.map_err(|error| std::io::Error::other(error.message)), bytes))
    });
    let mut response = Body::from_stream(bytes.fuse()).into_response();
    response.headers_mut().insert(LEN_HEADER, len);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

async fn cat_frames(State(shared): State<Shared>, Json(request): Json<CatRequest>) -> Response {
    frames::cat(shared.api, request, &shared.executor)
}

async fn ls(State(shared): State<Shared>, Json(request): Json<LsRequest>) -> Result<Response, ApiError> {
    Ok(Json(shared.api.ls(request).await?).into_response())
}

async fn ls_events(State(shared): State<Shared>, Json(request): Json<LsRequest>) -> Response {
    events::latest(move |progress| async move { shared.api.ls_reporting(request, progress).await })
}

async fn rm(State(shared): State<Shared>, Json(request): Json<RmRequest>) -> Result<Response, ApiError> {
    Ok(Json(shared.api.rm(request).await?).into_response())
}

async fn status(State(shared): State<Shared>) -> Result<Response, ApiError> {
    Ok(Json(shared.api.status().await?).into_response())
}

#[derive(Deserialize)]
struct StatusOf {
    cid: String,
}

async fn status_of(
    State(shared): State<Shared>,
    Json(request): Json<StatusOf>,
) -> Result<Response, ApiError> {
    Ok(Json(shared.api.status_of(&request.cid).await?).into_response())
}

async fn peers(State(shared): State<Shared>) -> Result<Response, ApiError> {
    Ok(Json(shared.api.peers().await?).into_response())
}

async fn net(State(shared): State<Shared>) -> Result<Response, ApiError> {
    Ok(Json(shared.api.net().await?).into_response())
}

async fn id(State(shared): State<Shared>) -> Response {
    Json(shared.api.id().await).into_response()
}

async fn limits(State(shared): State<Shared>) -> Response {
    Json(shared.api.limits()).into_response()
}

async fn set_limits(
    State(shared): State<Shared>,
    Json(request): Json<LimitsRequest>,
) -> Result<Response, ApiError> {
    Ok(Json(shared.api.set_limits(&request)?).into_response())
}

async fn gc(State(shared): State<Shared>) -> Result<Response, ApiError> {
    Ok(Json(shared.api.gc().await?).into_response())
}

async fn shutdown(State(shared): State<Shared>) -> Response {
    shared.api.request_shutdown();
    Json(serde_json::json!({})).into_response()
}
