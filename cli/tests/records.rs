//! Provider records are real: they alone lead to chunks, they come back after restarts, and so do peers and ports.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{fs, path::Path};

use common::{CHUNK_LEN, Daemon, PATIENCE, Scratch, args, chunks_of, noise, sha256, sha256_file, wait_until};
use dhtfs_node::api::types::{GetReport, LsReport};
use rustix::process::Signal;

/// Chunks in one of the blocks of content that the files of these tests are put together from.
const BLOCK_CHUNKS: usize = 4;

/// A run of whole chunks; every seed another.
fn block(seed: u64) -> Vec<u8> {
    noise(seed, BLOCK_CHUNKS * CHUNK_LEN)
}

/// Keys that a file of two blocks has to announce: its manifest and its chunks.
const KEYS: u64 = 2 * BLOCK_CHUNKS as u64 + 1;

/// A network in which a file is known that nobody provides as a whole: its first block is part of one other file,
/// its second block of another.
struct Scattered {
    scratch: Scratch,
    hub: Daemon,
    /// Has the first block.
    first: Daemon,
    /// Knows the manifest and has nothing else.
    reader: Daemon,
    cid: String,
    content: Vec<u8>,
}

impl Scattered {
    fn new() -> Self {
        let scratch = Scratch::new();
        let hub = Daemon::start(&scratch.path("hub"), &[]);
        let start = |name: &str| Daemon::start(&scratch.path(name), &[&hub]);
        let (whole, first, reader) = (start("whole"), start("first"), start("reader"));
        let content = [block(1), block(2)].concat();
        let cid = whole.add(&scratch.file("whole.bin", &content)).cid;
        first.add(&scratch.file("first.bin", [block(1), block(3)].concat()));
        whole.wait_announced(KEYS);
        first.wait_announced(KEYS);
        let listed: LsReport = reader.run(args!["--json", "ls", cid]).ok().json();
        assert!(matches!(listed, LsReport::Manifest { len, .. } if len == content.len() as u64));
        whole.kill();
        Self { scratch, hub, first, reader, cid, content }
    }

    /// Starts a peer that has the second block.
    fn start_second(&self) -> Daemon {
        let second = Daemon::start(&self.scratch.path("second"), &[&self.hub]);
        second.add(&self.scratch.file("second.bin", [block(4), block(2)].concat()));
        second.wait_announced(KEYS);
        second
    }
}

/// Bytes that a peer served in a fetch.
fn served_len(report: &GetReport, peer: &Daemon) -> u64 {
    report.sources.iter().find(|source| source.peer == peer.peer_id()).map_or(0, |source| source.len)
}

#[test]
fn peers_that_hold_chunks_only_as_parts_of_other_files_are_found_by_the_records_of_the_chunks() {
    let net = Scattered::new();
    let second = net.start_second();
    let out = net.scratch.path("out.bin");
    let report = net.reader.get(&net.cid, &out);
    assert_eq!(sha256_file(&out), sha256(&net.content));
    let half = net.content.len() as u64 / 2;
    assert_eq!(
        (served_len(&report, &net.first), served_len(&report, &second)),
        (half, half),
        "{:?}",
        report.sources
    );
    assert_eq!((report.received_len, report.reused_len), (2 * half, 0));
}

#[test]
fn what_an_incomplete_fetch_holds_is_kept_announced_and_served() {
    let net = Scattered::new();
    let out = net.scratch.path("out.bin");
    let get = |on: &Daemon, out: &Path| on.run(args!["--json", "get", net.cid, "-o", out, "--timeout", "4"]);
    let refused = get(&net.reader, &out);
    assert!(refused.refused(4).contains("4 of 8 chunks"), "{}", refused.stderr);
    assert!(!out.exists(), "an incomplete file must not look like the file");
    let state = net.reader.status_of(&net.cid);
    assert_eq!((state.state.as_str(), state.have_len), ("partial", net.content.len() as u64 / 2));
    net.reader.wait_announced(1 + BLOCK_CHUNKS as u64);

    // From here on the partial holder is the only one with the manifest and the first block.
    let Scattered { first, .. } = &net;
    first.process().signal(Signal::KILL);
    let second = net.start_second();
    let fresh = Daemon::start(&net.scratch.path("fresh"), &[&net.hub]);
    let found = fresh.providers(&net.cid);
    assert!(found.iter().any(|provider| provider.peer == net.reader.peer_id()), "{found:?}");
    let fresh_out = net.scratch.path("fresh.bin");
    let report: GetReport = get(&fresh, &fresh_out).ok().json();
    assert_eq!(sha256_file(&fresh_out), sha256(&net.content));
    let half = net.content.len() as u64 / 2;
    assert!(served_len(&report, &net.reader) >= half, "{:?}", report.sources);
    assert!(served_len(&report, &second) > 0, "{:?}", report.sources);

    // The fetch that was given up goes on where it was.
    let report: GetReport = get(&net.reader, &out).ok().json();
    assert_eq!(sha256_file(&out), sha256(&net.content));
    assert_eq!((report.received_len, report.reused_len), (half, half));
}

#[test]
fn after_a_restart_without_any_add_the_records_reappear_in_a_fresh_network() {
    let scratch = Scratch::new();
    let file = scratch.file("file.bin", [block(1), block(2)].concat());
    let old_hub = Daemon::start(&scratch.path("old-hub"), &[]);
    let adder = Daemon::start(&scratch.path("adder"), &[&old_hub]);
    let cid = adder.add(&file).cid;
    adder.wait_announced(KEYS);
    let id = adder.peer_id().to_owned();
    let adder_dir = adder.end();
    // Everybody who held a record is gone.
    old_hub.kill();

    let hub = Daemon::start(&scratch.path("hub"), &[]);
    let fresh = Daemon::start(&scratch.path("fresh"), &[&hub]);
    let adder = Daemon::start(&adder_dir, &[&hub]);
    assert_eq!(adder.peer_id(), id, "the identity stays");
    let chunks = chunks_of(&adder_dir, &cid).remove(0).chunks;
    assert_eq!(chunks.len(), 2 * BLOCK_CHUNKS);
    for key in chunks.iter().chain([&cid]) {
        wait_until("the record is back", PATIENCE, || {
            fresh.providers(key).iter().any(|provider| provider.peer == id).then_some(())
        });
    }
    let out = scratch.path("out.bin");
    fresh.get(&cid, &out);
    assert_eq!(sha256_file(&out), sha256_file(&file));
}

#[test]
fn a_file_added_while_no_daemon_ran_is_announced_by_the_next_one() {
    let scratch = Scratch::new();
    let file = scratch.file("file.bin", block(1));
    let dir = scratch.path("adder");
    let output = common::run(&dir, args!["add", file]).ok();
    assert!(output.stderr.contains("daemon"), "it says that nobody can fetch it yet: {}", output.stderr);
    let cid = output.line().to_owned();
    let hub = Daemon::start(&scratch.path("hub"), &[]);
    let adder = Daemon::start(&dir, &[&hub]);
    adder.wait_announced(1 + BLOCK_CHUNKS as u64);
    let found = hub.providers(&cid);
    assert!(found.iter().any(|provider| provider.peer == adder.peer_id()), "{found:?}");
}

#[test]
fn routing_peers_and_listen_addresses_survive_an_orderly_restart_and_a_crash() {
    let scratch = Scratch::new();
    let hub = Daemon::start(&scratch.path("hub"), &[]);
    let holder = Daemon::start(&scratch.path("holder"), &[&hub]);
    let node = Daemon::start(&scratch.path("node"), &[&hub]);
    let cid = holder.add(&scratch.file("file.bin", block(1))).cid;
    holder.wait_announced(1 + BLOCK_CHUNKS as u64);
    node.wait_routing(2);
    let listen = node.listen().to_owned();

    // Neither --listen nor --bootstrap from here on.
    let dir = node.end();
    let node = Daemon::start_with(&dir, args![]);
    assert_eq!(node.listen(), listen);
    node.wait_routing(2);
    assert!(node.providers(&cid).iter().any(|provider| provider.peer == holder.peer_id()));

    node.kill();
    let node = Daemon::start_with(&dir, args![]);
    assert_eq!(node.listen(), listen);
    node.wait_routing(2);
    let out = scratch.path("out.bin");
    node.get(&cid, &out);
    assert_eq!(fs::read(&out).unwrap(), block(1));
}

#[test]
fn a_command_without_a_daemon_finds_the_network_by_the_saved_peers() {
    let scratch = Scratch::new();
    let hub = Daemon::start(&scratch.path("hub"), &[]);
    let holder = Daemon::start(&scratch.path("holder"), &[&hub]);
    let cid = holder.add(&scratch.file("file.bin", block(1))).cid;
    holder.wait_announced(1 + BLOCK_CHUNKS as u64);
    let node = Daemon::start(&scratch.path("node"), &[&hub]);
    node.wait_routing(1);
    let dir = node.end();
    let out = scratch.path("out.bin");
    let report: GetReport = common::run(&dir, args!["--json", "get", cid, "-o", out]).ok().json();
    assert_eq!(fs::read(&out).unwrap(), block(1));
    assert!(report.received_len >= report.len && report.reused_len == 0, "{report:?}");
}
