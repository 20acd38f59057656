//! Announcing by sweep, with whole networks of nodes: where the records end up, and who can spoil that.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use common::{
    Provider, REPLICATION, at_closest, find, holders, is_root, network,
    stock::{Bulk, Stock},
};
use dhtfs_store::{ContentCid, ProvideKey};
use libp2p::kad::RecordKey;

fn cids(keys: &[ProvideKey]) -> Vec<ContentCid> {
    keys.iter().map(|key| key.cid).collect()
}

fn record_key(cid: &ContentCid) -> RecordKey {
    RecordKey::from([&[0x12, 0x20], &cid.digest()[..]].concat())
}

#[tokio::test(start_paused = true)]
async fn every_key_is_on_its_closest_peers_after_few_lookups() {
    let peers = network(50).await;
    let provider = Provider::start(1_000, &peers[0].full_addr(), 250).await;
    let keys = provider.keys();
    let announcing = provider.announce();
    announcing.all().await;

    let at = at_closest(&provider.peer, &peers, &cids(&keys)).await;
    let few: Vec<_> = at.iter().filter(|count| **count < REPLICATION - 1).collect();
    assert!(few.is_empty(), "{} of {} keys: {few:?}", few.len(), keys.len());
    let lookups = provider.peer.counter("net_closest_lookups_started").await;
    let requests = provider.peer.counter("net_closest_requests_sent").await;
    assert!(lookups <= 20 && requests <= 1_000, "{lookups} lookups, {requests} requests");
    // What is noted is what is true.
    let holders = holders(&provider.peer, &peers, &cids(&keys)).await;
    for (key, holders) in provider.keys().iter().zip(holders) {
        assert_eq!(usize::from(key.holders), holders.len(), "{key:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_provider_whose_address_nobody_has_confirmed_is_found() {
    let peers = network(6).await;
    let provider = Provider::start(1_001, &peers[0].full_addr(), 5).await;
    let keys = provider.keys();
    provider.announce().all().await;
    for key in keys {
        let found = find(&peers[3].client, key.cid).await;
        assert_eq!(found.get(&provider.peer.id), Some(&vec![provider.peer.addr.clone()]), "{key:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn stock_nodes_keep_our_records_and_find_us_and_we_find_what_they_provide() {
    let peers = network(6).await;
    let hub = (peers[0].id, peers[0].addr.clone());
    let mut stock = Vec::new();
    for number in 0..3 {
        stock.push(Stock::start(2_000 + number, hub.clone(), Bulk::None).await);
    }
    let provider = Provider::start(1_002, &peers[0].full_addr(), 100).await;
    let keys = provider.keys();
    provider.announce().all().await;
    let record_keys: Vec<RecordKey> = keys.iter().map(|key| record_key(&key.cid)).collect();
    for peer in &stock {
        assert_eq!(peer.holds(record_keys.clone(), provider.peer.id).await, keys.len());
    }
    // Fewer than 20 peers: everybody holds everything, stock nodes included.
    for key in provider.keys() {
        assert_eq!(usize::from(key.holders), peers.len() + stock.len(), "{key:?}");
    }
    for key in record_keys.iter().step_by(40) {
        assert!(stock[1].find(key.clone()).await.contains(&provider.peer.id));
    }

    let theirs = ContentCid::Chunk(dhtfs_store::ChunkCid::of(b"of a stock node"));
    stock[2].provide(record_key(&theirs)).await;
    let found = find(&provider.peer.client, theirs).await;
    assert_eq!(found.get(&stock[2].id), Some(&vec![stock[2].addr.clone()]));
}

#[tokio::test(start_paused = true)]
async fn holders_that_are_silent_busy_broken_or_lie_cost_others_nothing() {
    let peers = network(40).await;
    let hub = (peers[0].id, peers[0].addr.clone());
    let mut bad = Vec::new();
    for (number, bulk) in [Bulk::Silent, Bulk::Busy, Bulk::Resets, Bulk::Lies].into_iter().enumerate() {
        bad.push(Stock::start(3_000 + number as u64, hub.clone(), bulk).await);
    }
    let provider = Provider::start(1_003, &peers[0].full_addr(), 50).await;
    let keys = provider.keys();
    let begun = tokio::time::Instant::now();
    provider.announce().all().await;
    // Simulated time: a silent peer is given up after 10 s, however many keys it was to be told.
    assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());

    let holders = holders(&provider.peer, &peers, &cids(&keys)).await;
    let mut lied_to = 0;
    for (key, holders) in provider.keys().iter().zip(holders) {
        let (noted, real) = (usize::from(key.holders), holders.len());
        // A root is told once, by itself; of any other key the next closest take the place of those that failed.
        let least = REPLICATION - if is_root(key) { bad.len() } else { 1 };
        assert!(real >= least, "{real} hold {key:?}");
        assert!(noted == real || noted == real + 1, "{noted} noted, {real} hold {key:?}");
        lied_to += noted - real;
    }
    assert!(lied_to > 0, "the one that lies was not asked");
}
