//! A hundred peers that leave a million records with a daemon: its memory, and whether it still has those of others
//! and answers for them. A real node in a process of its own, over TCP on this machine.
//! `cargo bench -p dhtfs-node --bench flood`.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a benchmark reads the clock and may fail"
)]

#[path = "../tests/common/mod.rs"]
mod common;
mod daemon;

use std::time::Instant;

use common::{raw::Raw, records_seen};
use daemon::{Daemon, Failure, mib};
use dhtfs_store::ChunkCid;
use futures::{StreamExt as _, stream};
use libp2p::Multiaddr;

const HONEST: u64 = 20;
const HONEST_KEYS: u64 = 500;
const FLOODERS: u64 = 100;
const FLOOD_KEYS: u64 = 10_000;
/// Most that the memory may grow, in MiB.
const LIMIT: f64 = 64.0;

fn main() -> Result<(), Failure> {
    if daemon::run_if_asked()? {
        return Ok(());
    }
    // `cargo test --benches` runs this too; there is nothing to test here.
    if !std::env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run())
}

fn digests(peer: u64, keys: std::ops::Range<u64>) -> impl Iterator<Item = [u8; 32]> {
    keys.map(move |key| *ChunkCid::of(&[peer, key].map(u64::to_be_bytes).concat()).digest())
}

fn addrs(n: u64) -> Vec<Multiaddr> {
    let port = 1 + n % 65_535;
    vec![format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()]
}

async fn peers(first: u64, count: u64, daemon: &Daemon) -> Vec<Raw> {
    stream::iter(first..first + count)
        .map(|number| Raw::start(number, daemon.peer.clone()))
        .buffered(16)
        .collect()
        .await
}

async fn announce(peers: &[Raw], first: u64, keys: std::ops::Range<u64>) {
    let announcing = (first..).zip(peers).map(|(number, peer)| {
        // The first of them tells other addresses with every record.
        let addrs = move |place| if number == FIRST_FLOODER { addrs(place) } else { addrs(number) };
        peer.announce(digests(number, keys.clone()), addrs)
    });
    futures::future::join_all(announcing).await;
}

const FIRST_HONEST: u64 = 100;
const FIRST_FLOODER: u64 = 1_000;

async fn run() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let mut daemon = Daemon::start(dir.path(), None)?;
    let honest = peers(FIRST_HONEST, HONEST, &daemon).await;
    let half = HONEST_KEYS / 2;
    announce(&honest, FIRST_HONEST, 0..half).await;
    let mut expected = HONEST * half;
    daemon.until(|status| records_seen(&status.counters) == expected)?;
    let before = daemon.resident()?;

    let begun = Instant::now();
    let flooders = peers(FIRST_FLOODER, FLOODERS, &daemon).await;
    let connected = daemon.resident()?;
    // The other half of the honest records comes in the middle of it.
    tokio::join!(
        announce(&flooders, FIRST_FLOODER, 0..FLOOD_KEYS),
        announce(&honest, FIRST_HONEST, half..HONEST_KEYS)
    );
    expected += HONEST * half + FLOODERS * FLOOD_KEYS;
    daemon.until(|status| records_seen(&status.counters) == expected)?;
    let seconds = begun.elapsed().as_secs_f64();
    let peak = daemon.peak()?;
    let status = daemon.status()?;

    // kad names nobody to himself, so somebody else asks.
    let asker = Raw::start(FIRST_HONEST - 1, daemon.peer.clone()).await;
    let mut stream = asker.open().await;
    let mut answered = 0;
    let asking = Instant::now();
    for (number, peer) in (FIRST_HONEST..).zip(&honest) {
        for digest in digests(number, 0..HONEST_KEYS) {
            answered += u64::from(asker.named(&mut stream, &digest).await.contains(&peer.id));
        }
    }
    let total = HONEST * HONEST_KEYS;
    let rate = total as f64 / asking.elapsed().as_secs_f64();
    println!("{FLOODERS} peers, {} records, {seconds:.1} s", FLOODERS * FLOOD_KEYS);
    println!("    memory before               {:8.1} MiB", mib(before));
    println!("    the connections             {:8.1} MiB", mib(connected.saturating_sub(before)));
    println!("    most, connections included  {:8.1} MiB more, limit {LIMIT} MiB", mib(peak - before));
    println!("    records held                {:8}", status.records_held);
    for (name, count) in status.counters.iter().filter(|(name, count)| {
        **count > 0 && (name.starts_with("net_records") || name.starts_with("net_record_"))
    }) {
        println!("    {name:36} {count:8}");
    }
    println!(
        "    honest records answered     {:8.2} %   of {total}, {rate:.0} /s",
        1e2 * answered as f64 / total as f64
    );
    drop((honest, flooders));
    daemon.stop()
}
