//! Have-maps between nodes: what a store holds and gets is told; strangers and liars are bounded.

use std::path::Path;

use dhtfs_store::{
    ChunkSet, Download, DownloadOptions, ImportOptions, ManifestCid, OpenOptions, Store, no_progress,
};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::core::fetch::HaveUpdate;
use crate::core::have::HaveConfig;
use crate::env::StoreHandle;
use crate::net::limits::{HAVE_FRAME_BURST, MAX_HAVE_ASKS_PER_PEER};
use crate::net::{HaveEnd, HaveStream};
use crate::tasks::have::HaveTask;

use super::{Node, eventually, in_time};

const CHUNK: usize = 1 << 20;
const CHUNKS: u32 = 5;

/// A store with a whole file of five chunks, and an empty one.
struct Scene {
    dir: TempDir,
    source: Store,
    target: Store,
    root: ManifestCid,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| Store::open(&dir.path().join(name), OpenOptions::default()).unwrap();
        let (source, target) = (open("source"), open("target"));
        let content: Vec<u8> = (1..=5_u8).flat_map(|n| vec![n; CHUNK]).collect();
        let path = dir.path().join("film");
        std::fs::write(&path, content).unwrap();
        let root = source.import_path(&path, &ImportOptions::default(), &no_progress).unwrap().root;
        Self { dir, source, target, root }
    }

    fn begin(&self, out: &Path) -> Download {
        let tree = self.source.resolve_local(&self.root).unwrap().unwrap();
        let block = self.source.manifest_block(&self.root).unwrap().unwrap();
        self.target.put_manifest_blocks(&[(self.root, block)]).unwrap();
        self.target.begin_download(&tree, out, DownloadOptions::default()).unwrap()
    }
}

/// Fetches some chunks by their positions.
fn fill(download: &Download, places: &[u8]) {
    let missing = download.missing_places();
    for (cid, _, place) in missing {
        if let Some(n) = places.iter().find(|n| u32::from(**n) == place) {
            download.write(&cid, &vec![n + 1; CHUNK]).unwrap();
        }
    }
    download.commit().unwrap();
}

fn set(held: &[u32]) -> ChunkSet {
    let mut set = ChunkSet::new(CHUNKS);
    held.iter().for_each(|place| assert!(set.insert(*place)));
    set
}

/// A node that serves maps from this store, and one that is connected to it.
async fn pair(store: &Store) -> (Node, Node, watch::Sender<bool>) {
    let (server, asker) = (Node::new().await, Node::new().await);
    let task = HaveTask::new(HaveConfig::default(), StoreHandle::threaded(store.clone()));
    let incoming = server.client.have_asked().unwrap();
    let (end, ended) = watch::channel(false);
    tokio::spawn(task.run(incoming, ended));
    asker.client.dial(server.full_addr()).await.unwrap();
    (server, asker, end)
}

async fn ask(asker: &Node, server: &Node, root: ManifestCid) -> Result<HaveStream, HaveEnd> {
    in_time(asker.client.have(server.peer, (root, CHUNKS))).await
}

async fn next(stream: &mut HaveStream) -> Result<HaveUpdate, HaveEnd> {
    in_time(stream.next()).await
}

#[tokio::test]
async fn a_whole_file_is_told_in_one_word_and_an_unknown_one_too() {
    let scene = Scene::new();
    let (server, asker, _end) = pair(&scene.source).await;
    let mut stream = ask(&asker, &server, scene.root).await.unwrap();
    assert_eq!(next(&mut stream).await, Ok(HaveUpdate::All));
    assert_eq!(next(&mut stream).await, Err(HaveEnd::Closed));
    let mut stream = ask(&asker, &server, ManifestCid::from_digest([1; 32])).await.unwrap();
    assert_eq!(next(&mut stream).await, Err(HaveEnd::Unknown));
    server.counted("net_have_served", 2).await;
    server.counted("net_have_maps_told", 1).await;
    assert_eq!(server.counter("net_have_told_len").await, 4);
    assert_eq!(asker.counter("net_have_asked").await, 2);
    assert_eq!(asker.counter("net_have_frames").await, 2);
}

#[tokio::test]
async fn a_fetch_tells_what_is_durable_until_it_has_all_and_what_is_removed() {
    let scene = Scene::new();
    let (server, asker, _end) = pair(&scene.target).await;
    let download = scene.begin(&scene.dir.path().join("out"));
    fill(&download, &[3]);
    let mut first = ask(&asker, &server, scene.root).await.unwrap();
    assert_eq!(next(&mut first).await, Ok(HaveUpdate::Map(set(&[3]))));
    fill(&download, &[0, 1]);
    assert_eq!(next(&mut first).await, Ok(HaveUpdate::More(set(&[0, 1]))));
    let mut second = ask(&asker, &server, scene.root).await.unwrap();
    assert_eq!(next(&mut second).await, Ok(HaveUpdate::Map(set(&[0, 1, 3]))));
    scene.target.remove_share(&scene.root).unwrap();
    assert_eq!(next(&mut first).await, Err(HaveEnd::Unknown));
    assert_eq!(next(&mut second).await, Err(HaveEnd::Unknown));
    drop(download);

    let download = scene.begin(&scene.dir.path().join("again"));
    fill(&download, &[4]);
    let mut stream = ask(&asker, &server, scene.root).await.unwrap();
    assert_eq!(next(&mut stream).await, Ok(HaveUpdate::Map(set(&[4]))));
    fill(&download, &[0, 1, 2, 3]);
    assert_eq!(next(&mut stream).await, Ok(HaveUpdate::All));
    server.counted("net_have_news_told", 1).await;
}

#[tokio::test]
async fn a_node_that_does_not_speak_it_says_so_at_once() {
    let (server, asker) = (Node::new().await, Node::new().await);
    asker.client.dial(server.full_addr()).await.unwrap();
    let root = ManifestCid::from_digest([1; 32]);
    let mut stream = ask(&asker, &server, root).await.unwrap();
    assert_eq!(next(&mut stream).await, Err(HaveEnd::Unsupported));
    assert_eq!(asker.counter("net_have_unsupported").await, 1);
}

#[tokio::test]
async fn a_node_asks_a_peer_so_much_at_once_and_no_more() {
    let scene = Scene::new();
    let (server, asker, _end) = pair(&scene.target).await;
    let _download = scene.begin(&scene.dir.path().join("out"));
    let mut streams = Vec::new();
    for _ in 0..MAX_HAVE_ASKS_PER_PEER {
        let mut stream = ask(&asker, &server, scene.root).await.unwrap();
        assert_eq!(next(&mut stream).await, Ok(HaveUpdate::Map(set(&[]))));
        streams.push(stream);
    }
    assert_eq!(ask(&asker, &server, scene.root).await.err(), Some(HaveEnd::Busy));
    assert_eq!(asker.counter("net_have_ask_refused").await, 1);
    streams.pop();
    // The other side has to notice it, too.
    let (client, peer, root) = (&asker.client, server.peer, scene.root);
    eventually(|| async move {
        let Ok(mut stream) = client.have(peer, (root, CHUNKS)).await else { return false };
        stream.next().await == Ok(HaveUpdate::Map(set(&[])))
    })
    .await;
}

/// A stream of the protocol without the asker.
async fn raw(asker: &Node, server: &Node) -> libp2p::Stream {
    let (control, (protocol, _)) = asker.client.have_streams();
    in_time(control.open_stream(server.peer, protocol)).await.unwrap()
}

#[tokio::test]
async fn strangers_get_no_more_streams_than_allowed_and_nonsense_ends_them() {
    let scene = Scene::new();
    let (server, asker, _end) = pair(&scene.target).await;
    let _download = scene.begin(&scene.dir.path().join("out"));
    let mut question = vec![1];
    question.extend(scene.root.digest());
    let mut streams = Vec::new();
    for _ in 0..HaveConfig::default().max_streams_per_peer + 3 {
        let mut stream = raw(&asker, &server).await;
        // A stream that is refused may be gone before it is used.
        let _ = stream.write_all(&question).await;
        let _ = stream.flush().await;
        streams.push(stream);
    }
    server.counted("net_have_refused", 3).await;
    streams.clear();

    // Whoever asks again on a stream that listens, or asks nothing that is known, is cut off.
    let mut frame = [0; 3];
    let mut stream = loop {
        // It is refused until the other side has noticed that the others are gone.
        let mut stream = raw(&asker, &server).await;
        let _ = stream.write_all(&question).await;
        let _ = stream.flush().await;
        if in_time(stream.read_exact(&mut frame)).await.is_ok() {
            break stream;
        }
    };
    assert_eq!(frame, [1, 1, 1], "a map of nothing");
    stream.write_all(&question).await.unwrap();
    stream.flush().await.unwrap();
    server.counted("net_have_serve_broken", 1).await;
    let mut stream = raw(&asker, &server).await;
    stream.write_all(&[9]).await.unwrap();
    stream.flush().await.unwrap();
    server.counted("net_have_serve_broken", 2).await;
}

/// Asks a node that answers with these bytes whatever it is asked.
async fn told(bytes: Vec<u8>) -> (Node, Node, HaveStream) {
    let (server, asker) = (Node::new().await, Node::new().await);
    let (control, (protocol, _)) = server.client.have_streams();
    let mut incoming = control.accept(protocol).unwrap();
    tokio::spawn(async move {
        let (_, mut stream) = incoming.next().await.unwrap();
        // The asker may have ended it by then.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.close().await;
        let _ = stream.read(&mut [0; 64]).await;
    });
    asker.client.dial(server.full_addr()).await.unwrap();
    let stream = ask(&asker, &server, ManifestCid::from_digest([1; 32])).await.unwrap();
    (server, asker, stream)
}

#[tokio::test]
async fn a_peer_that_tells_nonsense_is_not_listened_to() {
    // Too long, past the end, of no form, not the shortest.
    for bytes in [&[0, 1, 0][..], &[1, 2, 1, 6], &[1, 2, 7, 0], &[1, 0xff, 0xff, 0xff, 0x7f], &[1, 0x80, 0]] {
        let (_server, asker, mut stream) = told(bytes.to_vec()).await;
        assert_eq!(next(&mut stream).await, Err(HaveEnd::Malformed), "{bytes:?}");
        assert_eq!(asker.counter("net_have_malformed").await, 1);
    }
    let (_server, asker, mut stream) = told(vec![1, 2, 1]).await;
    assert_eq!(next(&mut stream).await, Err(HaveEnd::Closed), "cut off");
    assert_eq!(asker.counter("net_have_malformed").await, 0);
}

#[tokio::test]
async fn a_peer_that_tells_too_fast_waits() {
    let frames = HAVE_FRAME_BURST as usize + 4;
    let (_server, asker, mut stream) = told([1, 1, 1].repeat(frames)).await;
    for _ in 0..frames {
        assert_eq!(next(&mut stream).await, Ok(HaveUpdate::Map(set(&[]))));
    }
    assert_eq!(asker.counter("net_have_delayed").await, 3);
    assert_eq!(next(&mut stream).await, Err(HaveEnd::Closed));
}
