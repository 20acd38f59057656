//! Announcing by sweep against one lookup a key: time, requests, bytes, and whether the records are where they belong.
//! Nodes with the real driver, over memory connections with Noise, in one process.
//! `cargo bench -p dhtfs-node --bench provide`.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a benchmark reads the clock and may fail"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

use common::{
    Peer, Provider, REPLICATION, at_closest, network,
    stock::{Bulk, Stock},
};
use dhtfs_node::net::{Digest, Receipt};
use dhtfs_store::{ChunkCid, ContentCid};
use futures::{StreamExt as _, stream};
use libp2p::kad::RecordKey;

/// Files of the large run, each with two keys.
const FILES: u64 = 5_000;
const NODES: u64 = 100;
/// Networks and files of the runs that show how the cost grows, beside the large one.
const SMALL_RUNS: [(u64, u64); 4] = [(50, 500), (100, 500), (100, 1_500), (300, 500)];
/// Keys that are announced one by one, and how many at the same time: the fastest way counts.
const SINGLE: usize = 320;
const SINGLE_IN_FLIGHT: [usize; 3] = [4, 16, 64];
/// Records to one holder.
const BULK: usize = 100_000;
/// Records to a holder of bare libp2p: as many as its store has room for.
const BULK_KAD: usize = 1_000;
/// One of so many keys is looked for on every node.
const SAMPLE: usize = 10;

fn main() {
    // `cargo test --benches` runs this too; there is nothing to test here.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let peers = network(NODES).await;
        let mut rows = vec![sweep(&peers, 10_000, FILES).await];
        let mut single = f64::INFINITY;
        for (number, in_flight) in (20_000..).zip(SINGLE_IN_FLIGHT) {
            single = one_by_one(&peers, number, in_flight).await.min(single);
        }
        println!(
            "                          a key: sweep / fastest with one lookup each = 1/{:.0}",
            single / rows[0].key_seconds()
        );
        one_holder().await;
        shut_down(&peers).await;
        for (number, (nodes, files)) in SMALL_RUNS.into_iter().enumerate() {
            let peers = network(nodes).await;
            rows.push(sweep(&peers, 10_001 + number as u64, files).await);
            shut_down(&peers).await;
        }
        println!("{HEAD}");
        rows.iter().for_each(Row::print);
    });
}

/// Dropping them is not enough: they would go on beside the next network.
async fn shut_down(peers: &[Peer]) {
    futures::future::join_all(peers.iter().map(|peer| peer.client.shutdown())).await;
}

const HEAD: &str =
    "| nodes | keys | lookups | requests | lookups per 1,000 keys | bytes a record | records/s |";

/// What one sweep cost.
struct Row {
    nodes: usize,
    keys: usize,
    lookups: u64,
    requests: u64,
    bytes: f64,
    records: u64,
    seconds: f64,
}

impl Row {
    fn key_seconds(&self) -> f64 {
        self.seconds / self.keys as f64
    }

    fn print(&self) {
        println!(
            "| {} | {} | {} | {} | {:.1} | {:.1} | {:.0} |",
            self.nodes,
            self.keys,
            self.lookups,
            self.requests,
            1e3 * self.lookups as f64 / self.keys as f64,
            self.bytes / self.records as f64,
            self.records as f64 / self.seconds,
        );
    }
}

/// Announces by sweep.
async fn sweep(peers: &[Peer], number: u64, files: u64) -> Row {
    let provider = Provider::start(number, &peers[0].full_addr(), files).await;
    let keys = provider.keys();
    let before = provider.peer.traffic.both();
    let begun = Instant::now();
    let announcing = provider.announce();
    announcing.all().await;
    let seconds = begun.elapsed().as_secs_f64();
    let bytes = (provider.peer.traffic.both() - before) as f64;
    drop(announcing);
    let lookups = provider.peer.counter("net_closest_lookups_started").await;
    let requests = provider.peer.counter("net_closest_requests_sent").await;
    let records: u64 = provider.keys().iter().map(|key| u64::from(key.holders)).sum();
    let sample: Vec<ContentCid> = keys.iter().step_by(SAMPLE).map(|key| key.cid).collect();
    let at = at_closest(&provider.peer, peers, &sample).await;
    let right = at.iter().filter(|count| **count >= REPLICATION - 1).count();
    let row = Row { nodes: peers.len(), keys: keys.len(), lookups, requests, bytes, records, seconds };
    println!("sweep, {} nodes, {} keys, {seconds:.2} s", row.nodes, row.keys);
    println!("{HEAD}");
    row.print();
    println!(
        "    on >= 19 of 20        {:10.2} %    of {} keys sampled",
        1e2 * right as f64 / at.len() as f64,
        at.len()
    );
    provider.peer.client.shutdown().await;
    row
}

/// Announces each key by a lookup of its own; seconds a key.
async fn one_by_one(peers: &[Peer], number: u64, in_flight: usize) -> f64 {
    let provider = Peer::start(number).await;
    provider.join(&peers[0].full_addr()).await;
    let cids: Vec<ContentCid> = (0..SINGLE)
        .map(|n| [in_flight, n].map(usize::to_be_bytes).concat())
        .map(|key| ContentCid::Chunk(ChunkCid::of(&key)))
        .collect();
    let before = provider.traffic.both();
    let begun = Instant::now();
    let told: usize = stream::iter(&cids)
        .map(|cid| provider.client.provide(*cid))
        .buffer_unordered(in_flight)
        .map(|told| told.unwrap_or(0))
        .fold(0, |sum, told| async move { sum + told })
        .await;
    let seconds = begun.elapsed().as_secs_f64();
    let bytes = (provider.traffic.both() - before) as f64;
    let requests = provider.counter("net_provide_requests_sent").await;
    let at = at_closest(&provider, peers, &cids).await;
    let right = at.iter().filter(|count| **count >= REPLICATION - 1).count();
    println!("one lookup a key, {} nodes, {SINGLE} keys, {in_flight} in flight", peers.len());
    println!("    time                  {seconds:10.2} s    {:.0} records/s", told as f64 / seconds);
    println!("    requests a key        {:10.1}", requests as f64 / SINGLE as f64);
    println!("    bytes a record        {:10.1}      both ways", bytes / told as f64);
    println!("    on >= 19 of 20        {:10.2} %", 1e2 * right as f64 / at.len() as f64);
    provider.client.shutdown().await;
    seconds / SINGLE as f64
}

fn record_key(digest: &Digest) -> RecordKey {
    RecordKey::from([&[0x12, 0x20], &digest[..]].concat())
}

/// What a record costs once holder and provider are connected: over the provide protocol and as kad messages.
async fn one_holder() {
    // Apart from the others, who would have something to say to a newcomer.
    let hub = Peer::start(30_002).await;
    let provider = Peer::start(30_000).await;
    provider.client.dial(hub.full_addr()).await.unwrap();
    let stock = Stock::start(30_001, (hub.id, hub.addr.clone()), Bulk::None).await;
    provider.client.connect(stock.id, vec![stock.addr.clone()]).await.unwrap();
    let digests: Vec<Digest> =
        (0..BULK).map(|n| *ChunkCid::of(&[n, 1].map(usize::to_be_bytes).concat()).digest()).collect();
    let own = [provider.addr.clone()];
    let mut costs = Vec::new();
    for (name, peer, addr, digests) in [
        ("provide protocol", hub.id, &hub.addr, &digests[..]),
        ("kad messages", stock.id, &stock.addr, &digests[..BULK_KAD]),
    ] {
        let before = provider.traffic.both();
        let begun = Instant::now();
        let receipt = provider.client.announcer().provide(peer, vec![addr.clone()], &own, digests).await;
        let seconds = begun.elapsed().as_secs_f64();
        let bytes = (provider.traffic.both() - before) as f64 / digests.len() as f64;
        let whole = match receipt.unwrap() {
            Receipt::Taken(taken) => taken.iter().all(|taken| *taken),
            Receipt::Read => {
                let keys = digests.iter().map(record_key).collect();
                stock.holds(keys, provider.id).await == digests.len()
            }
        };
        let rate = digests.len() as f64 / seconds;
        println!(
            "{name:24}  {bytes:10.1} B a record, {rate:.0} records/s sent and received, all taken: {whole}"
        );
        costs.push(bytes);
    }
    println!("                          kad messages / provide protocol = {:.2}", costs[1] / costs[0]);
    provider.client.shutdown().await;
}
