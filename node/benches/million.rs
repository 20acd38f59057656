//! A daemon with a million own keys, and one with a million records of others: memory beyond that of an empty daemon,
//! and how soon it serves after a restart. Real nodes in processes of their own, over TCP on this machine.
//! `cargo bench -p dhtfs-node --bench million`; takes some minutes and 3 GiB in `/dev/shm`.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a benchmark reads the clock and may fail"
)]

#[path = "../tests/common/mod.rs"]
mod common;
mod daemon;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use common::{Peer, raw::Raw};
use daemon::{Daemon, Failure, mib};
use dhtfs_node::net::{Digest, NetLimits};
use dhtfs_store::{
    ChunkCid, ContentCid, ImportOptions, KeyPosition, ManifestCid, OpenOptions, Store, no_progress,
};

const BATCHES: u64 = 16;
/// Each with two keys; with the directories that makes a million exactly. Of more, not all are announced again.
const FILES_PER_BATCH: u64 = 31_234;
const HOLDERS: u64 = 3;
const PROVIDERS: u64 = 10;
const RECORDS: u64 = 1_000_000;
/// Records that are sent before the disk is given time.
const PORTION: usize = 8_192;
const PORTION_PAUSE: Duration = Duration::from_millis(300);
/// The first announcement is over when no record has come for so long.
const QUIET: Duration = Duration::from_secs(10);
/// Most that the memory may grow, in MiB.
const OWN_LIMIT: f64 = 100.0;
const FOREIGN_LIMIT: f64 = 128.0;

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
        let dir = tempfile::tempdir()?;
        let holders = holders().await;
        let empty = empty(dir.path(), &holders).await?;
        foreign(dir.path(), &holders, empty).await?;
        own(dir.path(), &holders, empty).await
    })
}

/// Nodes that take whatever comes; they are not what is measured.
async fn holders() -> Vec<Peer> {
    let mut holders: Vec<Peer> = Vec::new();
    for number in 1..=HOLDERS {
        let limits = NetLimits {
            max_foreign_records: usize::MAX,
            max_records_per_provider: usize::MAX,
            record_burst: u64::MAX,
            ..NetLimits::default()
        };
        let holder = Peer::start_with(number, "/ip4/127.0.0.1/tcp/0", limits).await;
        if let Some(first) = holders.first() {
            holder.join(&first.full_addr()).await;
        }
        holders.push(holder);
    }
    holders
}

fn start(dir: &Path, name: &str, holders: &[Peer]) -> Result<Daemon, Failure> {
    Daemon::start(&dir.join(name), Some(&holders[0].full_addr()))
}

/// Bytes of a daemon that has nothing, and its time to serve.
async fn empty(dir: &Path, holders: &[Peer]) -> Result<(u64, Duration), Failure> {
    start(dir, "empty", holders)?.stop()?;
    let mut daemon = start(dir, "empty", holders)?;
    daemon.until(|status| status.routing_peers >= HOLDERS)?;
    let memory = daemon.peak()?;
    let ready = daemon.ready;
    println!("empty daemon              {:8.1} MiB   serves after {:.0} ms", mib(memory), millis(ready));
    daemon.stop()?;
    Ok((memory, ready))
}

fn millis(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}

/// Adds the files; the root of the last batch.
fn fill(data: &Path, shelf: &Path) -> Result<ManifestCid, Failure> {
    let store = Store::open(data, OpenOptions::default())?;
    let mut last = None;
    for batch in 0..BATCHES {
        let files = shelf.join(format!("files-{batch}"));
        fs::create_dir(&files)?;
        for file in 0..FILES_PER_BATCH {
            fs::write(files.join(file.to_string()), (batch * FILES_PER_BATCH + file).to_be_bytes())?;
        }
        last = Some(store.import_path(&files, &ImportOptions::default(), &no_progress)?.root);
    }
    last.ok_or_else(|| "no files".into())
}

async fn own(dir: &Path, holders: &[Peer], (memory, ready): (u64, Duration)) -> Result<(), Failure> {
    // The files stay, for a daemon looks whether they are still there.
    let shelf = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let data: PathBuf = dir.join("own");
    let root = fill(&data, shelf.path())?;
    let (keys, last) = {
        let store = Store::open(&data, OpenOptions::default())?;
        let mut high = KeyPosition::MAX;
        high.0[1] = 0;
        let last = store.provide_range(high, KeyPosition::MAX, usize::MAX)?;
        (store.provide_counts()?.keys, last.last().ok_or("no keys")?.cid)
    };

    let daemon = start(dir, "own", holders)?;
    let first_ready = daemon.ready;
    let begun = Instant::now();
    let (held, seconds) = told(holders, keys, begun).await?;
    let grown = mib(daemon.peak()?.saturating_sub(memory));
    println!("own keys                  {keys:8}");
    println!("    memory, most          {grown:8.1} MiB more than empty, limit {OWN_LIMIT} MiB");
    println!("    announced             {seconds:8.1} s     {held} records, {:.0} /s", held as f64 / seconds);
    daemon.stop()?;

    let begun = Instant::now();
    let daemon = start(dir, "own", holders)?;
    holders[1].client.dial(daemon.addr()).await?;
    let block = holders[1].client.request(daemon.peer.0, ContentCid::Manifest(root)).await?;
    let served = begun.elapsed();
    println!("    serves after          {:8.0} ms    empty {:.0} ms", millis(daemon.ready), millis(ready));
    println!("    serves for the first time after {:.0} ms", millis(first_ready));
    println!("    a block has arrived   {:8.0} ms    {block:.20?}", millis(served));
    let asker = Raw::start(100, daemon.peer.clone()).await;
    let mut stream = asker.open().await;
    while !asker.named(&mut stream, last.digest()).await.contains(&daemon.peer.0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("    answers for all keys  {:8.0} ms", millis(begun.elapsed()));
    daemon.stop()
}

/// Waits until the first announcement is over: the holders together have at least as many records as there are keys, and
/// no more come for some seconds. Not until each has all of them: who joins meanwhile is told in the course of an hour.
/// Returns the records and the seconds until the last of them came.
async fn told(holders: &[Peer], keys: u64, begun: Instant) -> Result<(u64, f64), Failure> {
    let (mut held, mut last) = (0, Instant::now());
    while held < keys || last.elapsed() < QUIET {
        let mut now = 0;
        for holder in holders {
            now += holder.client.status().await?.provider_records_held as u64;
        }
        if now > held {
            (held, last) = (now, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok((held, (last - begun).as_secs_f64()))
}

async fn foreign(dir: &Path, holders: &[Peer], (memory, ready): (u64, Duration)) -> Result<(), Failure> {
    let mut daemon = start(dir, "foreign", holders)?;
    let mut providers = Vec::new();
    for number in 0..PROVIDERS {
        let peer = Peer::start_with(1_000 + number, "/ip4/127.0.0.1/tcp/0", NetLimits::default()).await;
        peer.client.connect(daemon.peer.0, vec![daemon.peer.1.clone()]).await?;
        providers.push(peer);
    }
    let begun = Instant::now();
    for (number, peer) in providers.iter().enumerate() {
        let digests: Vec<Digest> = (0..RECORDS / PROVIDERS)
            .map(|n| *ChunkCid::of(&[number as u64, n].map(u64::to_be_bytes).concat()).digest())
            .collect();
        for portion in digests.chunks(PORTION) {
            let addrs = vec![daemon.peer.1.clone()];
            let own = [peer.addr.clone()];
            peer.client.announcer().provide(daemon.peer.0, addrs, &own, portion).await?;
            tokio::time::sleep(PORTION_PAUSE).await;
        }
    }
    daemon.until(|status| status.records_held >= RECORDS)?;
    let seconds = begun.elapsed().as_secs_f64();
    let grown = mib(daemon.peak()?.saturating_sub(memory));
    let dropped = daemon.status()?.counters["net_record_changes_dropped"];
    println!("records of others         {RECORDS:8}");
    println!("    memory, most          {grown:8.1} MiB more than empty, limit {FOREIGN_LIMIT} MiB");
    println!("    left in               {seconds:8.1} s     {dropped} not written to disk");
    drop(providers);
    daemon.stop()?;

    let begun = Instant::now();
    let mut daemon = start(dir, "foreign", holders)?;
    let serves = daemon.ready;
    daemon.until(|status| status.records_held + dropped >= RECORDS)?;
    let restored = begun.elapsed();
    let grown = mib(daemon.peak()?.saturating_sub(memory));
    println!("    serves after          {:8.0} ms    empty {:.0} ms", millis(serves), millis(ready));
    println!("    all of them are back  {:8.0} ms    {grown:.1} MiB more than empty", millis(restored));
    daemon.stop()
}
