//! What records of other nodes and own keys cost: memory by the resident size of the process, time as a ratio to bare
//! SHA-256 and to a hash map of the standard library in the same run. `cargo bench -p dhtfs-node --bench records`.
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::{
    collections::HashMap,
    error::Error,
    hint::black_box,
    time::{Duration, Instant},
};

use dhtfs_node::net::{
    NetLimits,
    records::{Admission, Digest, Offer, Records},
};
use libp2p::{PeerId, identity::Keypair};
use sha2::{Digest as _, Sha256};

type Failure = Box<dyn Error + Send + Sync>;

const RECORDS: u64 = 1_000_000;
const PROVIDERS: usize = 1_000;

fn main() -> Result<(), Failure> {
    // `cargo test --benches` runs this too; there is nothing to test here.
    if !std::env::args().any(|arg| arg == "--bench") {
        return Ok(());
    }
    // Memory first, while nothing has been freed that could be used again.
    let (records, admitted) = foreign()?;
    let own = own()?;
    let hashing = rate(|| {
        for n in 0..RECORDS {
            black_box(digest(n));
        }
    });
    let mut map: HashMap<Digest, Vec<u32>> = HashMap::new();
    let mapping = rate(|| (0..RECORDS).for_each(|n| map.entry(digest(n)).or_default().push(1)));
    println!("SHA-256 of 8 bytes        {hashing:12.0} /s");
    println!("hashed, into a HashMap    {mapping:12.0} /s");
    println!("    admitted: {:.2} of SHA-256, {:.2} of a HashMap", admitted / hashing, admitted / mapping);
    drop((records, own));
    Ok(())
}

fn foreign() -> Result<(Records, f64), Failure> {
    let offers = (0..PROVIDERS).map(offer).collect::<Result<Vec<Offer>, Failure>>()?;
    let start = Instant::now();
    // In memory before the count begins.
    let mut times: Vec<Duration> = (0..RECORDS).map(Duration::from_nanos).collect();
    let before = resident()?;
    let mut records = Records::new(PeerId::random(), &NetLimits::default(), 1, start);
    let admitted = rate(|| {
        for ((n, offer), time) in (0..RECORDS).zip(offers.iter().cycle()).zip(&mut times) {
            let begun = Instant::now();
            assert_eq!(records.admit(offer, digest(n), start), Admission::Stored);
            *time = begun.elapsed();
        }
    });
    let grown = resident()?.saturating_sub(before);
    println!("hashed, admitted          {admitted:12.0} /s");
    println!("    {}", spread(&mut times));
    println!("    {:.1} bytes a record resident", grown as f64 / RECORDS as f64);
    println!("    {:.1} bytes a record by own account", records.foreign_memory() as f64 / RECORDS as f64);
    let renewed = rate(|| {
        for (n, offer) in (0..RECORDS).zip(offers.iter().cycle()) {
            records.admit(offer, digest(n), start);
        }
    });
    println!("hashed, renewed           {renewed:12.0} /s");
    sweep(&mut records, start + Duration::from_secs(25 * 60 * 60));
    Ok((records, admitted))
}

/// Steps that drop all records.
fn sweep(records: &mut Records, now: Instant) {
    let mut times = Vec::new();
    let begun = Instant::now();
    loop {
        let step = Instant::now();
        let swept = records.sweep(now);
        times.push(step.elapsed());
        if swept.is_done {
            break;
        }
    }
    let rate = RECORDS as f64 / begun.elapsed().as_secs_f64();
    println!("expired                   {rate:12.0} /s");
    println!("    {} steps: {}; {} left", times.len(), spread(&mut times), records.foreign_len());
}

fn own() -> Result<Records, Failure> {
    let mut records = Records::new(PeerId::random(), &NetLimits::default(), 1, Instant::now());
    let before = resident()?;
    let held = rate(|| (0..RECORDS).for_each(|n| assert!(records.hold(&digest(n)))));
    let grown = resident()?.saturating_sub(before);
    println!("own keys, hashed, held    {held:12.0} /s");
    println!("    {:.1} bytes a key resident", grown as f64 / RECORDS as f64);
    println!("    {:.1} bytes a key by own account", records.own_memory() as f64 / RECORDS as f64);
    Ok(records)
}

/// What most took, and the longest. On a busy machine the longest are those in which others had the core.
fn spread(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |per_mille: usize| {
        let time = times.get(times.len().saturating_sub(1) * per_mille / 1_000).copied();
        time.unwrap_or_default().as_secs_f64() * 1e6
    };
    format!("median {:.1} us, 99.9 % {:.1} us, longest {:.0} us", at(500), at(999), at(1_000))
}

fn digest(n: u64) -> Digest {
    Sha256::digest(n.to_be_bytes()).into()
}

fn offer(n: usize) -> Result<Offer, Failure> {
    let peer = Keypair::generate_ed25519().public().to_peer_id();
    let port = 1_000 + n;
    let addrs =
        [format!("/ip4/8.8.8.8/tcp/{port}").parse()?, format!("/ip4/8.8.8.8/udp/{port}/quic-v1").parse()?];
    Ok(Offer::new(peer, &addrs, None))
}

/// How often a second, if `run` does it [`RECORDS`] times.
fn rate(run: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    run();
    RECORDS as f64 / begun.elapsed().as_secs_f64()
}

/// Bytes of this process in memory.
fn resident() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1_024)
}
