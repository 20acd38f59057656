//! The main job on real files: one adds, others find it through the DHT and fetch it from several at once.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{fs, thread};

use common::{Daemon, MIB, Scratch, args, chunks_of, sha256_file, write_noise};
use dhtfs_node::api::types::{GetReport, Provider};

/// Length of the file in bytes.
const LEN: u64 = 1024 * MIB;

/// Chunks of the file.
const CHUNKS: u64 = 1024;

/// Most memory a daemon may ever have resident, in bytes.
const MAX_MEMORY: u64 = 150 * MIB;

/// Chunks whose provider records are looked at.
const SAMPLES: usize = 20;

#[test]
fn a_file_of_one_gib_spreads_from_its_adder_over_two_to_a_fourth_after_the_adder_died() {
    let scratch = Scratch::new();
    let start = |name: &str, bootstrap: &[&Daemon]| Daemon::start(&scratch.path(name), bootstrap);
    let idle = start("idle", &[]);
    let adder = start("adder", &[&idle]);
    let (second, third) = (start("second", &[&idle]), start("third", &[&idle]));
    let fourth = start("fourth", &[&idle]);

    let source = scratch.path("job.bin");
    let digest = write_noise(&source, 1, LEN);
    let added = adder.add(&source);
    assert_eq!((added.len, added.files, added.chunks, added.directory), (LEN, 1, CHUNKS, false));
    adder.wait_announced(CHUNKS + 1);
    the_adder_is_named_for_sampled_chunks(&idle, &adder, &added.cid);

    let outs = [scratch.path("second.bin"), scratch.path("third.bin")];
    let reports: Vec<GetReport> = thread::scope(|scope| {
        let fetches = [&second, &third].into_iter().zip(&outs);
        let fetches: Vec<_> = fetches.map(|(on, out)| scope.spawn(|| on.get(&added.cid, out))).collect();
        fetches.into_iter().map(|fetch| fetch.join().unwrap()).collect()
    });
    for (report, out) in reports.iter().zip(&outs) {
        assert_eq!(
            (report.len, report.files, &report.name, &report.path),
            (LEN, 1, &"job.bin".to_owned(), out)
        );
        assert_eq!(sha256_file(out), digest);
    }

    memory_is_bounded("adder", &adder);
    adder.kill();
    fs::remove_file(&source).unwrap();
    let out = scratch.path("fourth.bin");
    let report = fourth.get(&added.cid, &out);
    assert_eq!(sha256_file(&out), digest);
    for holder in [&second, &third] {
        let served = report.sources.iter().find(|source| source.peer == holder.peer_id());
        let chunks = served.map_or(0, |source| source.chunks);
        assert!(chunks >= CHUNKS / 4, "one of two full holders served {chunks} chunks: {:?}", report.sources);
    }
    for (name, daemon) in [("idle", &idle), ("second", &second), ("third", &third), ("fourth", &fourth)] {
        memory_is_bounded(name, daemon);
    }
}

/// Asked from a node that holds nothing, every sampled chunk has a record that names the adder and its address.
fn the_adder_is_named_for_sampled_chunks(idle: &Daemon, adder: &Daemon, cid: &str) {
    let files = chunks_of(adder.dir(), cid);
    let chunks = &files.first().unwrap().chunks;
    assert_eq!(chunks.len() as u64, CHUNKS);
    for chunk in chunks.iter().step_by(chunks.len() / SAMPLES).take(SAMPLES) {
        let found: Vec<Provider> = idle.run(args!["providers", chunk, "--json"]).ok().json_lines();
        let named = found.iter().find(|provider| provider.peer == adder.peer_id());
        let named = named.unwrap_or_else(|| panic!("{chunk}: the adder is not among {found:?}"));
        let port = adder.addr().split("/p2p/").next().unwrap();
        assert!(named.addrs.iter().any(|addr| addr.starts_with(port)), "{chunk}: {:?}", named.addrs);
        assert!(!named.this_node);
    }
}

fn memory_is_bounded(name: &str, daemon: &Daemon) {
    let (peak, now) = daemon.process().memory();
    eprintln!("{name}: peak {} MiB, now {} MiB resident", peak / MIB, now / MIB);
    assert!(peak < MAX_MEMORY, "{name}: {} MiB resident at the peak", peak / MIB);
}
