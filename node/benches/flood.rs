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

use common::{raw::Raw, record_outcomes, records_seen};
use daemon::{Daemon, Failure, mib};
use dhtfs_store::ChunkCid;
use futures::{StreamExt as _, stream};
use libp2p::Multiaddr;

const HONEST: u64 = 20;
const FIRST_HONEST: u64 = 100;
const HONEST_KEYS: u64 = 500;
const FLOODERS: u64 = 100;
const FIRST_FLOODER: u64 = 1_000;
const FLOOD_KEYS: u64 = 10_000;

fn main() -> Result<(), Failure> {
    if daemon::run_if_asked()? {
        return Ok(());
    }
    // `cargo test --benches` runs this too; there is nothing to test here.
    if !std::env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        run(Way::AddProvider).await?;
        run(Way::Provide).await
    })
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

/// How many records the holder says it took.
async fn announce_in_bulk(flooders: &[Raw]) -> u64 {
    let announcing = (FIRST_FLOODER..).zip(flooders).map(|(number, peer)| async move {
        let digests: Vec<_> = digests(number, 0..FLOOD_KEYS).collect();
        peer.announce_in_bulk(&digests, &addrs(number)).await
    });
    futures::future::join_all(announcing).await.into_iter().sum()
}

/// How the flood comes.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// Messages of kad, one for each record. Their rate is limited: nobody announces much in this way.
    AddProvider,
    /// The provide protocol, which is made for a million records. Only the size of the store and the shares limit it.
    Provide,
}

/// Half of the honest records are there before the flood, half come in the middle of it.
async fn run(way: Way) -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let mut daemon = Daemon::start(dir.path(), None)?;
    let honest = peers(FIRST_HONEST, HONEST, &daemon).await;
    let half = HONEST_KEYS / 2;
    announce(&honest, FIRST_HONEST, 0..half).await;
    let mut expected = HONEST * half;
    daemon.until(|status| records_seen(&status.counters) == expected)?;
    let before = daemon.resident()?;

    let flooders = peers(FIRST_FLOODER, FLOODERS, &daemon).await;
    let connected = daemon.resident()?;
    let begun = Instant::now();
    let late = announce(&honest, FIRST_HONEST, half..HONEST_KEYS);
    let flood = async {
        match way {
            Way::AddProvider => announce(&flooders, FIRST_FLOODER, 0..FLOOD_KEYS).await,
            Way::Provide => println!("said to be taken: {}", announce_in_bulk(&flooders).await),
        }
    };
    tokio::join!(flood, late);
    expected += HONEST * half + FLOODERS * FLOOD_KEYS;
    daemon.until(|status| records_seen(&status.counters) == expected)?;
    let seconds = begun.elapsed().as_secs_f64();
    let peak = daemon.peak()?;
    let after = daemon.resident()?;
    let status = daemon.status()?;

    let records = FLOODERS * FLOOD_KEYS;
    match way {
        Way::AddProvider => println!("{FLOODERS} peers, {records} ADD_PROVIDER messages"),
        Way::Provide => println!("{FLOODERS} peers, {records} records over the provide protocol"),
    }
    println!("    time                        {seconds:8.1} s     {:.0} /s", records as f64 / seconds);
    println!("    memory before               {:8.1} MiB", mib(before));
    println!("    the connections             {:8.1} MiB more", mib(connected.saturating_sub(before)));
    println!(
        "    most, connections included  {:8.1} MiB more, limit {} MiB",
        mib(peak - before),
        way.limit()
    );
    println!("    at the end                  {:8.1} MiB more", mib(after.saturating_sub(before)));
    println!("    records held                {:8}", status.records_held);
    for (name, count) in record_outcomes(&status.counters) {
        println!("    {name:27} {count:8}");
    }
    println!("    not written to disk         {:8}", status.counters["net_record_changes_dropped"]);
    answered(&honest, &daemon).await;
    drop((honest, flooders));
    daemon.stop()
}

/// Asks for all honest records. kad names nobody to himself, so somebody else asks.
async fn answered(honest: &[Raw], daemon: &Daemon) {
    let asker = Raw::start(FIRST_HONEST - 1, daemon.peer.clone()).await;
    let mut stream = asker.open().await;
    let mut answered = 0;
    let asking = Instant::now();
    for (number, peer) in (FIRST_HONEST..).zip(honest) {
        for digest in digests(number, 0..HONEST_KEYS) {
            answered += u64::from(asker.named(&mut stream, &digest).await.contains(&peer.id));
        }
    }
    let total = HONEST * HONEST_KEYS;
    let rate = total as f64 / asking.elapsed().as_secs_f64();
    let share = 1e2 * answered as f64 / total as f64;
    println!("    honest records answered     {share:8.2} %   of {total}, {rate:.0} /s, limit 99 %");
}

impl Way {
    /// Most that the memory may grow, in MiB.
    fn limit(self) -> u32 {
        match self {
            Self::AddProvider => 64,
            Self::Provide => 128,
        }
    }
}
