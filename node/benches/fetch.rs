//! Fetch rate on loopback from 1 and from 4 providers, and lookups per second, each as a ratio to a limit of this
//! machine measured in the same run. `cargo bench -p dhtfs-node`; real nodes, real TCP, one process.
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::{
    error::Error,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use dhtfs_node::{
    Config, Node, NodeOptions, Role,
    api::types::{AddRequest, GetRequest, NetworkHints, ProvidersRequest},
    net::{self, Client, ExchangeResponse, Executor, NetConfig, NetEnv, NetEvent, transport},
};
use dhtfs_store::{ChunkCid, ContentCid};
use futures::{StreamExt, stream};
use libp2p::identity::Keypair;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

type Failure = Box<dyn Error + Send + Sync>;

const FILE_LEN: u64 = 512 << 20;
const MIB: f64 = 1_048_576.0;
const ROUNDS: usize = 3;
const LOOKUP_NODES: usize = 20;
const LOOKUPS: usize = 2000;
const LOOKUPS_IN_FLIGHT: usize = 32;

fn main() -> Result<(), Failure> {
    // `cargo test --benches` runs this too; there is nothing to test here.
    if !std::env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let dir = TempDir::new()?;
        fetches(dir.path()).await?;
        lookups(dir.path()).await
    })
}

async fn fetches(dir: &Path) -> Result<(), Failure> {
    let source = dir.join("file.bin");
    write_file(&source)?;
    let mut seeders = Vec::new();
    let mut cid = String::new();
    for index in 0..4 {
        let node = start(dir.join(format!("seeder-{index}")), &[]).await?;
        let request = AddRequest { path: source.clone(), ..AddRequest::default() };
        cid = node.api().add(request, watch::Sender::default()).await?.cid;
        seeders.push(node);
    }
    let mut addrs = Vec::new();
    for node in &seeders {
        addrs.extend(node.ready().await.listen.into_iter().take(1));
    }
    let hash_rate = hash_rate();
    println!("SHA-256, one core         {hash_rate:7.0} MiB/s");
    for providers in [1, 4] {
        let mut best = 0.0_f64;
        for round in 0..ROUNDS {
            let home = dir.join(format!("getter-{providers}-{round}"));
            let out = dir.join(format!("out-{providers}-{round}"));
            let config = Config { mdns: false, ..Config::default() };
            let options = NodeOptions { data_dir: home, config, role: Role::Client };
            let node = Node::production(options).await?;
            let hints = NetworkHints {
                peers: addrs.iter().take(providers).cloned().collect(),
                ..NetworkHints::default()
            };
            let request =
                GetRequest { cid: cid.clone(), out: Some(out.clone()), hints, ..GetRequest::default() };
            let begun = Instant::now();
            node.api().get(request, watch::Sender::default()).await?;
            best = best.max(FILE_LEN as f64 / MIB / begun.elapsed().as_secs_f64());
            node.shutdown().await;
            std::fs::remove_file(out)?;
        }
        println!(
            "get 512 MiB, {providers} provider(s)  {best:7.0} MiB/s   ratio to SHA-256 {:.2}",
            best / hash_rate
        );
    }
    for node in seeders {
        node.shutdown().await;
    }
    Ok(())
}

/// Looks up one manifest again and again; the limit is how many bare requests one pair of nodes answers.
async fn lookups(dir: &Path) -> Result<(), Failure> {
    let mut nodes: Vec<Node> = Vec::new();
    let mut bootstrap = Vec::new();
    for index in 0..LOOKUP_NODES {
        let node = start(dir.join(format!("dht-{index}")), &bootstrap).await?;
        if bootstrap.is_empty() {
            bootstrap = node.ready().await.listen.into_iter().take(1).collect();
        } else {
            node.ready().await;
        }
        nodes.push(node);
    }
    let (Some(adder), Some(asker)) = (nodes.first(), nodes.last()) else { return Err("no nodes".into()) };
    let path = dir.join("small");
    std::fs::write(&path, b"looked up")?;
    let cid =
        adder.api().add(AddRequest { path, ..AddRequest::default() }, watch::Sender::default()).await?.cid;
    while adder.api().status().await?.provide.pending > 0 {
        tokio::task::yield_now().await;
    }
    let begun = Instant::now();
    let requests: u64 = stream::iter(0..LOOKUPS)
        .map(|_| lookup(asker, &cid))
        .buffer_unordered(LOOKUPS_IN_FLIGHT)
        .map(|requests| u64::from(requests.unwrap_or(0)))
        .fold(0, |sum, requests| async move { sum + requests })
        .await;
    let seconds = begun.elapsed().as_secs_f64();
    let rate = LOOKUPS as f64 / seconds;
    let bare = bare_requests().await?;
    let ratio = requests as f64 / seconds / bare;
    println!("bare requests, one pair   {bare:7.0} /s");
    println!(
        "lookups, {LOOKUP_NODES} nodes         {rate:7.0} /s   {:.1} requests each, request rate over bare {ratio:.2}",
        requests as f64 / LOOKUPS as f64
    );
    for node in nodes {
        node.shutdown().await;
    }
    Ok(())
}

async fn lookup(node: &Node, cid: &str) -> Result<u32, Failure> {
    let (found, mut stream) = mpsc::channel(64);
    let request = ProvidersRequest { cid: cid.to_owned(), ..ProvidersRequest::default() };
    let drain = async { while stream.recv().await.is_some() {} };
    let (report, ()) = tokio::join!(node.api().providers(request, found), drain);
    Ok(report?.requests)
}

/// Requests of a chunk that is not there: a stream, 33 bytes and one byte back, nothing from disk, no DHT.
async fn bare_requests() -> Result<f64, Failure> {
    let (server, mut requests) = bare_node(1)?;
    let (asker, _events) = bare_node(2)?;
    let addr =
        server.listen("/ip4/127.0.0.1/tcp/0".parse()?).await?.into_iter().next().ok_or("no address")?;
    let answering = server.clone();
    tokio::spawn(async move {
        while let Some(event) = requests.recv().await {
            if let NetEvent::Request { ticket, .. } = event {
                let _ = answering.respond(ticket, ExchangeResponse::Missing).await;
            }
        }
    });
    let peer = asker.dial(addr).await?;
    let nowhere = ContentCid::Chunk(ChunkCid::of(b"nobody has this"));
    let begun = Instant::now();
    let answered = stream::iter(0..LOOKUPS)
        .map(|_| asker.request(peer, nowhere))
        .buffer_unordered(LOOKUPS_IN_FLIGHT)
        .filter(|answer| std::future::ready(answer.is_ok()))
        .count()
        .await;
    let rate = answered as f64 / begun.elapsed().as_secs_f64();
    tokio::join!(asker.shutdown(), server.shutdown());
    Ok(rate)
}

/// The network of a node without anything behind it.
fn bare_node(seed: u64) -> Result<(Client, mpsc::Receiver<NetEvent>), Failure> {
    let keypair = Keypair::generate_ed25519();
    let transport = transport::production(&keypair)?;
    let executor: Executor = Arc::new(|task| {
        tokio::spawn(task);
    });
    let env = NetEnv { keypair, transport, executor, seed };
    let (client, event_loop, events) = net::new(NetConfig::new("bench", "bench"), env)?;
    tokio::spawn(event_loop.run());
    Ok((client, events))
}

async fn start(data_dir: PathBuf, bootstrap: &[String]) -> Result<Node, Failure> {
    let config = Config {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse()?],
        bootstrap: bootstrap.iter().map(|addr| addr.parse()).collect::<Result<_, _>>()?,
        mdns: false,
        ..Config::default()
    };
    Ok(Node::production(NodeOptions { data_dir, config, role: Role::Server }).await?)
}

fn write_file(path: &Path) -> Result<(), Failure> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut state = 1_u64;
    for _ in 0..FILE_LEN / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.write_all(&state.to_le_bytes())?;
    }
    out.flush()?;
    Ok(())
}

fn hash_rate() -> f64 {
    let buffer = vec![7_u8; 1 << 20];
    let begun = Instant::now();
    for _ in 0..512 {
        std::hint::black_box(Sha256::digest(std::hint::black_box(&buffer)));
    }
    512.0 / begun.elapsed().as_secs_f64()
}
