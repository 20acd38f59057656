//! What libp2p-kad's routing table costs: the time to list the 20 closest peers, which every FIND_NODE that is
//! served and every query that is started pays, and the memory of an empty table. Stands alone but for libp2p, so
//! that it can be handed to its authors; see docs/decisions/0010-stock-kad.md.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a benchmark measures real time"
)]

use std::{hint::black_box, time::Instant};

use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    kad::{Behaviour, Config, KBucketKey, store::MemoryStore},
};

/// Peers to fill the table with; it keeps about 160 of 1,000.
const PEERS: usize = 1_000;
const LISTINGS: u32 = 20_000;
const TABLES: usize = 200;
const CLOSEST: usize = 20;

fn table() -> Behaviour<MemoryStore> {
    let local = PeerId::random();
    let config = Config::new(StreamProtocol::new("/bench/kad/1.0.0"));
    Behaviour::with_config(local, MemoryStore::new(local), config)
}

fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

fn main() {
    let before = resident_mib();
    let tables: Vec<_> = (0..TABLES).map(|_| table()).collect();
    println!("empty table: {:.2} MiB", (resident_mib() - before) / TABLES as f64);
    drop(tables);

    let mut kad = table();
    let addr: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
    for _ in 0..PEERS {
        kad.add_address(&PeerId::random(), addr.clone());
    }
    let keys: Vec<KBucketKey<PeerId>> = (0..64).map(|_| PeerId::random().into()).collect();

    let begun = Instant::now();
    for turn in 0..LISTINGS {
        let key = &keys[turn as usize % keys.len()];
        black_box(kad.get_closest_local_peers(key).take(CLOSEST).count());
    }
    let stock = begun.elapsed() / LISTINGS;

    // The same answer from a plain list of the entries: what the listing would cost without moving its buffers.
    let entries: Vec<KBucketKey<PeerId>> =
        kad.kbuckets().flat_map(|bucket| bucket.iter().map(|e| *e.node.key).collect::<Vec<_>>()).collect();
    let begun = Instant::now();
    for turn in 0..LISTINGS {
        let key = &keys[turn as usize % keys.len()];
        let mut sorted: Vec<_> = entries.iter().map(|entry| (key.distance(entry), entry)).collect();
        sorted.sort_unstable_by_key(|(distance, _)| *distance);
        black_box(sorted.iter().take(CLOSEST).count());
    }
    let plain = begun.elapsed() / LISTINGS;
    println!("entries: {}", entries.len());
    println!("20 closest, libp2p-kad: {:.1} us", stock.as_secs_f64() * 1e6);
    println!("20 closest, sorting all entries: {:.1} us", plain.as_secs_f64() * 1e6);
    println!("ratio: {:.1}", stock.as_secs_f64() / plain.as_secs_f64());
}
