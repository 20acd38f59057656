//! Peers that leave more records than is right, and what that changes for others. The numbers of the issue are reached
//! in `benches/flood.rs`; here are smaller ones.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::collections::BTreeSet;

use common::{Peer, eventually, find, network, raw::Raw};
use dhtfs_node::net::{Digest, NetLimits};
use dhtfs_store::{ChunkCid, ContentCid};
use libp2p::{Multiaddr, PeerId};

const HONEST: u64 = 20;
const HONEST_KEYS: u64 = 50;
const FLOODERS: u64 = 10;
const FLOOD_KEYS: u64 = 2_000;

fn cid(peer: u64, key: u64) -> ContentCid {
    ContentCid::Chunk(ChunkCid::of(&[peer, key].map(u64::to_be_bytes).concat()))
}

fn digests(peer: u64, keys: std::ops::Range<u64>) -> impl Iterator<Item = Digest> {
    keys.map(move |key| *cid(peer, key).digest())
}

fn addr(n: u64) -> Vec<Multiaddr> {
    vec![format!("/memory/{}", n + 1).parse().unwrap()]
}

/// Peers with numbers from `first` on, connected to `holder`.
async fn peers(first: u64, count: u64, holder: &Peer) -> Vec<Raw> {
    let mut peers = Vec::new();
    for number in first..first + count {
        peers.push(Raw::start(number, (holder.id, holder.addr.clone())).await);
    }
    peers
}

/// Lets every peer announce its keys.
async fn announce(peers: &[Raw], first: u64, keys: std::ops::Range<u64>) {
    for (number, peer) in (first..).zip(peers) {
        peer.announce(digests(number, keys.clone()), |_| addr(number)).await;
    }
}

#[tokio::test]
async fn a_flood_of_records_displaces_nobody_and_all_are_answered() {
    // Full after an eighth of what comes. How much comes is not limited.
    let limits =
        NetLimits { max_foreign_records: 2_500, kad_record_burst: FLOOD_KEYS, ..NetLimits::default() };
    let holder = Peer::start_with(1, "/memory/0", limits).await;
    let honest = peers(100, HONEST, &holder).await;
    let half = HONEST_KEYS / 2;
    announce(&honest, 100, 0..half).await;
    eventually(async || holder.records_seen().await == HONEST * half).await;

    // One of those that flood tells other addresses with every record.
    let flooders = peers(200, FLOODERS, &holder).await;
    announce(&flooders[1..], 201, 0..FLOOD_KEYS).await;
    flooders[0].announce(digests(200, 0..FLOOD_KEYS), addr).await;
    let flood = HONEST * half + FLOODERS * FLOOD_KEYS;
    eventually(async || holder.records_seen().await == flood).await;
    // Those that come too late are taken too.
    announce(&honest, 100, half..HONEST_KEYS).await;
    eventually(async || holder.records_seen().await == flood + HONEST * half).await;
    assert_eq!(holder.client.status().await.unwrap().provider_records_held, 2_500);

    let asker = Raw::start(300, (holder.id, holder.addr.clone())).await;
    let mut stream = asker.open().await;
    let mut answered = 0;
    for (number, peer) in (100..).zip(&honest) {
        for digest in digests(number, 0..HONEST_KEYS) {
            answered += u64::from(asker.named(&mut stream, &digest).await.contains(&peer.id));
        }
    }
    assert!(answered * 100 >= HONEST * HONEST_KEYS * 99, "{answered} are answered");
    // Whoever asks through the flooded node finds the others at their addresses.
    let asker = Peer::start(2).await;
    asker.join(&holder.full_addr()).await;
    let found = find(&asker.client, cid(107, 3)).await;
    assert_eq!(found.get(&honest[7].id), Some(&addr(107)));
}

#[tokio::test]
async fn twenty_sybils_do_not_hide_a_live_provider() {
    let key = cid(0, 0);
    let digest = *key.digest();
    let nodes = network(3).await;
    let live = Raw::start(100, (nodes[0].id, nodes[0].addr.clone())).await;
    live.announce([digest], |_| addr(100)).await;
    eventually(async || nodes[0].records_seen().await == 1).await;
    let sybils = peers(200, 20, &nodes[0]).await;
    for round in 1..=3 {
        for (number, sybil) in (200..).zip(&sybils) {
            sybil.announce([digest], |_| addr(number)).await;
        }
        eventually(async || nodes[0].records_seen().await == 1 + 20 * round).await;
    }
    // Each answer names 20 of 21. The live one is in any with a chance of 9 in 10.
    let asker = Raw::start(300, (nodes[0].id, nodes[0].addr.clone())).await;
    let mut stream = asker.open().await;
    let mut named = BTreeSet::<PeerId>::new();
    for _ in 0..20 {
        let answer = asker.named(&mut stream, &digest).await;
        assert_eq!(answer.len(), 20);
        named.extend(answer);
    }
    assert!(named.contains(&live.id));
    assert_eq!(named.len(), 21);
    // So does a lookup.
    eventually(async || find(&nodes[2].client, key).await.contains_key(&live.id)).await;
}
