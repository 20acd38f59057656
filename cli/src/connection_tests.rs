//! Tests of the way to a node: the same router over a real Unix socket and in process.
#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::time::Duration;

use axum::{
    Json,
    extract::Query,
    http::StatusCode,
    response::IntoResponse,
    routing::{get, post},
};
use dhtfs_node::api::types::{AddStreamQuery, HashProgress, Identity, LsRequest, RmRequest};
use tokio::{net::UnixListener, sync::mpsc};

use super::*;

/// A node that answers in every way a node can.
fn router(dropped: mpsc::Sender<()>) -> Router {
    let id = || async {
        let addrs = vec!["/ip4/127.0.0.1/tcp/1".to_owned()];
        Json(Identity { peer_id: "p".to_owned(), addrs, version: "1".to_owned(), network: "main".to_owned() })
    };
    let rm = |Json(request): Json<RmRequest>| async move {
        (StatusCode::NOT_FOUND, Json(ApiError::new(ErrorKind::NotFound, format!("no share {}", request.cid))))
    };
    let add =
        || async { events(["progress\",\"data\":{\"done_len\":1,\"total_len\":2}}", "done\",\"data\":7}"]) };
    let get_failing = || async {
        events(["error\",\"data\":{\"kind\":\"incomplete\",\"message\":\"2 chunks are missing\"}}"])
    };
    let upload = |Query(query): Query<AddStreamQuery>, body: Bytes| async move {
        let line = format!("done\",\"data\":\"{} {}\"}}", query.name.unwrap_or_default(), body.len());
        events([line.as_str()])
    };
    let endless = move || async move {
        struct Told(mpsc::Sender<()>);
        impl Drop for Told {
            fn drop(&mut self) {
                let _ = self.0.try_send(());
            }
        }
        let told = Told(dropped);
        let lines = futures::stream::unfold(told, |told| async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let line = "{\"event\":\"progress\",\"data\":{\"done_len\":1,\"total_len\":null}}\n";
            Some((std::io::Result::Ok(Bytes::from_static(line.as_bytes())), told))
        });
        Body::from_stream(lines)
    };
    let cat = || async {
        let frames = b"\0\0\0\0\x07content\x01\0\0\0\x21{\"event\":\"done\",\"data\":{\"len\":7}}";
        Body::from(frames.as_slice()).into_response()
    };
    Router::new()
        .route("/v0/id", get(id))
        .route("/v0/rm", post(rm))
        .route("/v0/add", post(add))
        .route("/v0/get", post(get_failing))
        .route("/v0/add-stream", post(upload))
        .route("/v0/verify", post(endless))
        .route("/v0/cat-frames", post(cat))
        .route("/v0/ls", post(|| async { events(["progress\",\"data\":{\"done_len\":1,\"total_len\":2}}"]) }))
        .route("/v0/gc", post(|| async { (StatusCode::BAD_GATEWAY, "<html>") }))
        .route("/v0/peers", get(|| async { "not json" }))
}

/// Lines as they come from a bad network: cut anywhere.
fn events<'a>(events: impl IntoIterator<Item = &'a str>) -> Response<Body> {
    let text: String = events.into_iter().map(|event| format!("{{\"event\":\"{event}\n")).collect();
    let cuts: Vec<_> =
        text.as_bytes().chunks(5).map(|part| std::io::Result::Ok(Bytes::copy_from_slice(part))).collect();
    Body::from_stream(futures::stream::iter(cuts)).into_response()
}

/// The router in process, and behind a real socket; each connection is good for one call.
struct Ways {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    router: Router,
}

impl Ways {
    fn new(dropped: mpsc::Sender<()>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let router = router(dropped);
        tokio::spawn(axum::serve(listener, router.clone()).into_future());
        Self { _dir: dir, socket, router }
    }

    async fn both(&self) -> [Connection; 2] {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        [Connection::over(self.socket.clone(), stream), Connection::embedded(self.router.clone())]
    }
}

fn ways() -> Ways {
    Ways::new(mpsc::channel(4).0)
}

#[tokio::test]
async fn a_plain_call_answers_with_a_value() {
    for (way, is_daemon) in ways().both().await.into_iter().zip([true, false]) {
        assert_eq!(way.is_daemon(), is_daemon);
        let id: Identity = way.get("/v0/id").await.unwrap();
        assert_eq!(id.peer_id, "p");
    }
}

#[tokio::test]
async fn a_refused_call_gives_the_error_of_the_node() {
    for way in ways().both().await {
        let request = RmRequest { cid: "x".to_owned() };
        let error = way.post::<()>("/v0/rm", &request).await.unwrap_err();
        assert_eq!((error.exit_code(), error.line().as_deref()), (3, Some("no share x")));
    }
}

#[tokio::test]
async fn an_answer_of_something_else_is_a_failure_on_one_line() {
    let ways = ways();
    for way in ways.both().await {
        let error = way.post::<()>("/v0/gc", &()).await.unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert!(error.line().unwrap().contains("another version"), "{error}");
    }
    for way in ways.both().await {
        assert_eq!(way.get::<Vec<String>>("/v0/peers").await.unwrap_err().exit_code(), 1);
    }
}

#[tokio::test]
async fn a_daemon_that_lacks_a_call_is_to_be_restarted() {
    for way in ways().both().await {
        let error = way.content("/v0/frames-of-tomorrow", &()).await.unwrap_err();
        assert_eq!(error.exit_code(), 1);
        let line = error.line().unwrap();
        assert!(
            line.contains("/v0/frames-of-tomorrow: it is older") && line.contains("restart it"),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_stream_hands_over_progress_and_ends_with_its_result() {
    for way in ways().both().await {
        let mut seen = Vec::new();
        let stream = way.events::<HashProgress, u32>("/v0/add", &()).await.unwrap();
        assert_eq!(stream.finish(|progress| seen.push(progress)).await.unwrap(), 7);
        assert_eq!(seen, [HashProgress { done_len: 1, total_len: Some(2), waiting: None }]);
    }
}

#[tokio::test]
async fn a_stream_that_ends_with_an_error_has_its_exit_code() {
    for way in ways().both().await {
        let stream = way.events::<HashProgress, u32>("/v0/get", &()).await.unwrap();
        let error = stream.finish(|_| {}).await.unwrap_err();
        assert_eq!((error.exit_code(), error.line().as_deref()), (4, Some("2 chunks are missing")));
    }
}

#[tokio::test]
async fn a_stream_without_an_end_is_a_failure() {
    for way in ways().both().await {
        let request = LsRequest::default();
        let stream = way.events::<HashProgress, u32>("/v0/ls", &request).await.unwrap();
        assert_eq!(stream.finish(|_| {}).await.unwrap_err().exit_code(), 1);
    }
}

#[tokio::test]
async fn content_goes_up_as_it_comes() {
    for way in ways().both().await {
        let reader = tokio::io::AsyncReadExt::take(tokio::io::repeat(7), 100_000);
        let content = read_stream(reader, 4096);
        let stream =
            way.upload::<HashProgress, String, _>("/v0/add-stream?name=a%20b", content).await.unwrap();
        assert_eq!(stream.finish(|_| {}).await.unwrap(), "a b 100000");
    }
}

#[tokio::test]
async fn content_comes_with_its_end() {
    for way in ways().both().await {
        let mut content = way.content("/v0/cat-frames", &()).await.unwrap();
        let mut bytes = Vec::new();
        let done = loop {
            match content.next().await.unwrap() {
                Piece::Bytes(part) => bytes.extend(part),
                Piece::Progress(_) => {}
                Piece::Done(done) => break done,
            }
        };
        assert_eq!((done.len, bytes.as_slice()), (7, b"content".as_slice()));
    }
}

#[tokio::test]
async fn dropping_a_stream_ends_the_operation_on_the_other_side() {
    let (dropped, mut told) = mpsc::channel(4);
    let ways = Ways::new(dropped);
    for way in ways.both().await {
        let mut stream = way.events::<HashProgress, u32>("/v0/verify", &()).await.unwrap();
        assert!(matches!(stream.next().await.unwrap(), Event::Progress(_)));
        drop(stream);
        tokio::time::timeout(Duration::from_secs(10), told.recv()).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_line_without_end_is_cut_off() {
    let router = Router::new().route(
        "/v0/add",
        post(|| async {
            let part = Bytes::from(vec![b' '; 1 << 20]);
            Body::from_stream(futures::stream::repeat_with(move || std::io::Result::Ok(part.clone())))
        }),
    );
    let way = Connection::embedded(router);
    let stream = way.events::<HashProgress, u32>("/v0/add", &()).await.unwrap();
    let error = stream.finish(|_| {}).await.unwrap_err();
    assert!(error.line().unwrap().contains("longer than"), "{error}");
}
