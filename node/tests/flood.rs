//! Peers that leave more records than is right, and what that changes for others: real nodes and bare libp2p peers over
//! TCP on this machine. The numbers of the full flood are reached in `benches/flood.rs`; here are smaller ones.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::TcpListener,
    path::Path,
};

use common::{
    Peer, eventually, find, network,
    raw::Raw,
    record_outcomes,
    stock::{Bulk, Stock},
};
use dhtfs_node::{
    Config, Node, NodeOptions, Role,
    api::types::{AddRequest, GetRequest},
    net::{Digest, NetLimits},
};
use dhtfs_store::{ChunkCid, ContentCid};
use futures::{StreamExt as _, future::join_all, stream};
use libp2p::{Multiaddr, PeerId, kad::RecordKey};
use tokio::{sync::watch, time::Instant};

const TCP: &str = "/ip4/127.0.0.1/tcp/0";

const HONEST: u64 = 20;
const HONEST_KEYS: u64 = 50;
const FIRST_HONEST: u64 = 100;
const FLOODERS: u64 = 20;
const FLOOD_KEYS: u64 = 2_000;
const FIRST_FLOODER: u64 = 200;
const ASKER: u64 = 300;

fn cid(peer: u64, key: u64) -> ContentCid {
    ContentCid::Chunk(ChunkCid::of(&[peer, key].map(u64::to_be_bytes).concat()))
}

fn digests(peer: u64, keys: std::ops::Range<u64>) -> impl Iterator<Item = Digest> {
    keys.map(move |key| *cid(peer, key).digest())
}

fn addr(n: u64) -> Vec<Multiaddr> {
    vec![format!("/ip4/127.0.0.1/tcp/{}", n + 1).parse().unwrap()]
}

/// Peers with numbers from `first` on, connected to `holder`; not more at the same time than it negotiates with.
async fn peers(first: u64, count: u64, holder: (PeerId, Multiaddr)) -> Vec<Raw> {
    let starting = (first..first + count).map(|number| Raw::start(number, holder.clone()));
    stream::iter(starting).buffered(16).collect().await
}

/// Lets every peer announce its keys, all at the same time.
async fn announce(peers: &[Raw], first: u64, keys: std::ops::Range<u64>) {
    let announcing = (first..).zip(peers).map(|(number, peer)| {
        // The first of those that flood tells another address with every record.
        let addrs = move |place| addr(if number == FIRST_FLOODER { place } else { number });
        peer.announce(digests(number, keys.clone()), addrs)
    });
    join_all(announcing).await;
}

/// Of how many of the honest keys `holder` names the provider.
async fn answered(holder: &Peer, honest: &[Raw]) -> u64 {
    let asker = Raw::start(ASKER, (holder.id, holder.addr.clone())).await;
    let mut stream = asker.open().await;
    let mut answered = 0;
    for (number, peer) in (FIRST_HONEST..).zip(honest) {
        for digest in digests(number, 0..HONEST_KEYS) {
            answered += u64::from(asker.named(&mut stream, &digest).await.contains(&peer.id));
        }
    }
    answered
}

/// What became of all records: those of the counters that are not 0, without what their names have in common.
async fn outcomes(holder: &Peer) -> BTreeMap<String, u64> {
    record_outcomes(&holder.client.status().await.unwrap().counters)
}

/// How a flood comes.
enum Way {
    /// In messages of kad, from one peer after the other.
    InTurn,
    /// The same from all at once.
    AtOnce,
    /// Over the provide protocol, from one peer after the other.
    Bulk,
}

struct Flooded {
    holder: Peer,
    /// Still connected.
    honest: Vec<Raw>,
    /// Records of the flood that the holder said it took; it says nothing about messages of kad.
    taken: u64,
}

/// Honest peers announce the first half of their keys, then the flood comes, then the other half.
async fn flood(limits: NetLimits, way: Way) -> Flooded {
    let holder = Peer::start_with(1, TCP, limits).await;
    let whom = (holder.id, holder.addr.clone());
    let honest = peers(FIRST_HONEST, HONEST, whom.clone()).await;
    let half = HONEST_KEYS / 2;
    announce(&honest, FIRST_HONEST, 0..half).await;
    let mut sent = HONEST * half;
    eventually(async || holder.records_seen().await == sent).await;

    let flooders = peers(FIRST_FLOODER, FLOODERS, whom).await;
    let at_once = if matches!(way, Way::AtOnce) { flooders.len() } else { 1 };
    let mut taken = 0;
    for (first, flooders) in (FIRST_FLOODER..).step_by(at_once).zip(flooders.chunks(at_once)) {
        if matches!(way, Way::Bulk) {
            let digests: Vec<Digest> = digests(first, 0..FLOOD_KEYS).collect();
            taken += flooders[0].announce_in_bulk(&digests, &addr(first)).await;
        } else {
            announce(flooders, first, 0..FLOOD_KEYS).await;
        }
        sent += flooders.len() as u64 * FLOOD_KEYS;
        eventually(async || holder.records_seen().await == sent).await;
    }
    announce(&honest, FIRST_HONEST, half..HONEST_KEYS).await;
    sent += HONEST * half;
    eventually(async || holder.records_seen().await == sent).await;
    Flooded { holder, honest, taken }
}

/// Limits of a store that is full after an eighth of what comes. How fast it comes is not limited.
fn small(room: u64, share: u64) -> NetLimits {
    NetLimits {
        max_foreign_records: usize::try_from(room).unwrap(),
        max_records_per_provider: usize::try_from(share).unwrap(),
        kad_record_burst: FLOOD_KEYS,
        ..NetLimits::default()
    }
}

const ROOM: u64 = 5_000;
/// Some less than each of those that flood would have.
const SHARE: u64 = FLOOD_KEYS - 100;

#[tokio::test]
async fn a_flood_into_a_full_store_displaces_nobody_and_all_are_answered() {
    for way in [Way::InTurn, Way::Bulk] {
        let in_bulk = matches!(way, Way::Bulk);
        let Flooded { holder, honest, taken } = flood(small(ROOM, SHARE), way).await;
        assert_eq!(answered(&holder, &honest).await, HONEST * HONEST_KEYS);

        let mut became = outcomes(&holder).await;
        let sent = HONEST * HONEST_KEYS + FLOODERS * FLOOD_KEYS;
        assert_eq!(became.values().sum::<u64>(), sent, "{became:?}");
        assert_eq!(became.remove("accepted"), Some(ROOM));
        // Only the first two could use up their shares: then the store was full, and they made room for others.
        assert_eq!(became.remove("refused_quota"), Some(2 * (FLOOD_KEYS - SHARE)));
        let replaced = became.remove("replaced").unwrap();
        assert_eq!(became.into_keys().collect::<Vec<_>>(), ["refused_full"]);
        // The late half of the honest records found room where the flood had too much.
        assert!(replaced >= HONEST * HONEST_KEYS / 2, "{replaced}");
        if in_bulk {
            assert_eq!(taken, ROOM + replaced - HONEST * HONEST_KEYS, "what the holder said is true");
        }
        assert_eq!(held(&holder).await, ROOM);
        // Whoever asks through the flooded node finds the others at their addresses.
        let asker = Peer::start_with(2, TCP, NetLimits::default()).await;
        asker.join(&holder.full_addr()).await;
        let found = find(&asker.client, cid(FIRST_HONEST + 7, 3)).await;
        assert_eq!(found.get(&honest[7].id), Some(&addr(FIRST_HONEST + 7)));
    }
}

async fn held(holder: &Peer) -> u64 {
    u64::try_from(holder.client.status().await.unwrap().provider_records_held).unwrap()
}

#[tokio::test]
async fn of_a_flood_no_more_is_taken_than_the_rate_allows() {
    let limits = NetLimits::default();
    let (rate, burst) = (limits.kad_record_rate, limits.kad_record_burst);
    let begun = Instant::now();
    let Flooded { holder, honest, .. } = flood(limits, Way::AtOnce).await;
    let seconds = begun.elapsed().as_secs() + 1;
    assert_eq!(answered(&holder, &honest).await, HONEST * HONEST_KEYS);

    let mut became = outcomes(&holder).await;
    let flooded = FLOODERS * FLOOD_KEYS;
    assert_eq!(became.values().sum::<u64>(), HONEST * HONEST_KEYS + flooded, "{became:?}");
    let taken = became.remove("accepted").unwrap();
    let of_flood = taken - HONEST * HONEST_KEYS;
    let most = FLOODERS * FLOOD_KEYS.min(burst + rate * seconds);
    assert!((FLOODERS * burst..=most).contains(&of_flood), "{of_flood} of the flood, in {seconds} s");
    assert_eq!(became.remove("dropped_rate").unwrap_or(0), flooded - of_flood);
    assert!(became.is_empty(), "{became:?}");
    assert_eq!(held(&holder).await, taken);
}

#[tokio::test]
async fn a_hundred_peers_that_announce_in_bulk_at_once_are_all_heard() {
    let holder = Peer::start_with(1, TCP, NetLimits::default()).await;
    let many = peers(FIRST_FLOODER, 100, (holder.id, holder.addr.clone())).await;
    let keys: u64 = 4_000;
    let announcing = (FIRST_FLOODER..).zip(&many).map(|(number, peer)| async move {
        let digests: Vec<Digest> = digests(number, 0..keys).collect();
        peer.announce_in_bulk(&digests, &addr(number)).await
    });
    assert!(join_all(announcing).await.iter().all(|taken| *taken == keys));
    assert_eq!(held(&holder).await, 100 * keys);
}

/// Twenty addresses, others in each round. Nobody dials them: the peer that tells them is connected.
fn rotated(round: u64) -> Vec<Multiaddr> {
    (0..20).map(|n| format!("/ip4/127.0.0.1/udp/{}/quic-v1", 1 + round * 20 + n).parse().unwrap()).collect()
}

async fn table(peer: &Peer) -> BTreeMap<PeerId, Vec<Multiaddr>> {
    peer.client.routing_peers().await.unwrap().into_iter().collect()
}

#[tokio::test]
async fn a_peer_that_rotates_its_addresses_changes_nothing_for_others() {
    let nodes = network(6).await;
    let victim = &nodes[0];
    let honest = Raw::start(FIRST_HONEST, (victim.id, victim.addr.clone())).await;
    honest.announce(digests(FIRST_HONEST, 0..HONEST_KEYS), |_| addr(FIRST_HONEST)).await;
    eventually(async || victim.records_seen().await == HONEST_KEYS).await;
    let rotating = Stock::start(400, (victim.id, victim.addr.clone()), Bulk::None).await;
    eventually(async || table(victim).await.contains_key(&rotating.id)).await;
    let mut before = table(victim).await;
    before.remove(&rotating.id);
    assert_eq!(before.len(), 5);

    let key = cid(400, 0);
    for round in 1..=16 {
        let current = rotated(round);
        rotating.change_addrs(current.clone(), victim.id).await;
        // It tells them in identify and with its record.
        eventually(async || table(victim).await[&rotating.id].iter().any(|addr| current.contains(addr)))
            .await;
        rotating.provide(RecordKey::from([&[0x12, 0x20], &key.digest()[..]].concat())).await;
        eventually(async || victim.records_seen().await == HONEST_KEYS + round).await;
        let mut table = table(victim).await;
        let known = table.remove(&rotating.id).unwrap();
        assert!(known.len() <= 8, "{known:?}");
        assert!(known.iter().all(|addr| current.contains(addr) || *addr == rotating.addr), "{known:?}");
        assert_eq!(table, before);
    }
    assert_eq!(held(victim).await, HONEST_KEYS + 1);

    // Who knows the victim only gets to know all others through its answers, and finds their records.
    let asker = Peer::start(50).await;
    asker.join(&victim.full_addr()).await;
    // Whom it hears of it looks at before they get into its table.
    eventually(async || {
        asker.client.bootstrap().await.unwrap();
        let met = table(&asker).await;
        nodes.iter().all(|node| met.contains_key(&node.id))
    })
    .await;
    for key in 0..HONEST_KEYS {
        let found = find(&asker.client, cid(FIRST_HONEST, key)).await;
        assert_eq!(found.get(&honest.id), Some(&addr(FIRST_HONEST)));
    }
    let found = &find(&asker.client, key).await[&rotating.id];
    assert!(!found.is_empty() && found.len() <= 8, "{found:?}");
}

#[tokio::test]
async fn twenty_sybils_do_not_hide_a_live_provider() {
    let key = cid(0, 0);
    let digest = *key.digest();
    let nodes = network(3).await;
    let hub = (nodes[0].id, nodes[0].addr.clone());
    let live = Raw::start(FIRST_HONEST, hub.clone()).await;
    live.announce([digest], |_| addr(FIRST_HONEST)).await;
    eventually(async || nodes[0].records_seen().await == 1).await;
    let sybils = peers(FIRST_FLOODER, 20, hub.clone()).await;
    for round in 1..=3 {
        for (number, sybil) in (FIRST_FLOODER..).zip(&sybils) {
            sybil.announce([digest], |_| addr(number)).await;
        }
        eventually(async || nodes[0].records_seen().await == 1 + 20 * round).await;
    }
    // Each answer names 20 of 21. The live one is in any with a chance of 9 in 10.
    let asker = Raw::start(ASKER, hub).await;
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

/// A node as in production.
async fn node(dir: &Path, name: &str, bootstrap: &[Multiaddr]) -> Node {
    let config = Config {
        network: common::NETWORK.to_owned(),
        listen: vec![TCP.parse().unwrap()],
        bootstrap: bootstrap.to_vec(),
        mdns: false,
        ..Config::default()
    };
    let node = Node::production(NodeOptions { data_dir: dir.join(name), config, role: Role::Server }).await;
    let node = node.unwrap();
    node.ready().await;
    node
}

/// Where a node listens, without its name.
async fn place(node: &Node) -> (PeerId, Multiaddr) {
    let mut addr: Multiaddr = node.ready().await.listen[0].parse().unwrap();
    let Some(libp2p::multiaddr::Protocol::P2p(id)) = addr.pop() else { panic!("{addr}") };
    (id, addr)
}

#[tokio::test]
async fn content_that_twenty_sybils_claim_to_have_is_fetched_from_the_live_provider() {
    let dir = tempfile::tempdir().unwrap();
    let hub = node(dir.path(), "hub", &[]).await;
    let (hub_id, hub_addr) = place(&hub).await;
    let bootstrap = [hub_addr.clone().with_p2p(hub_id).unwrap()];
    let seeder = node(dir.path(), "seeder", &bootstrap).await;
    let bytes: Vec<u8> = (0..300_000_u32).flat_map(|n| n.to_be_bytes()).collect();
    let path = dir.path().join("file");
    std::fs::write(&path, &bytes).unwrap();
    let added =
        seeder.api().add(AddRequest { path, ..AddRequest::default() }, watch::Sender::default()).await;
    let cid = added.unwrap().cid;

    // Half of them send everybody to a place where nobody ever says a word, half to where nobody is.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = u64::from(silent.local_addr().unwrap().port());
    let root: ContentCid = cid.parse().unwrap();
    let chunks = bytes.chunks(1 << 20).map(|chunk| ContentCid::Chunk(ChunkCid::of(chunk)));
    let keys: Vec<Digest> = chunks.chain([root]).map(|cid| *cid.digest()).collect();
    eventually(async || hub.api().status().await.unwrap().records_held >= keys.len() as u64).await;
    let before = hub.api().status().await.unwrap().records_held;
    let mut sybils = Vec::new();
    for whom in [place(&hub).await, place(&seeder).await] {
        let some = peers(FIRST_FLOODER, 20, whom).await;
        for (number, sybil) in (0..).zip(&some) {
            let told = if number % 2 == 0 { port - 1 } else { number };
            sybil.announce(keys.iter().copied(), |_| addr(told)).await;
        }
        sybils.push(some);
    }
    let all = before + 20 * keys.len() as u64;
    eventually(async || hub.api().status().await.unwrap().records_held == all).await;

    let getter = node(dir.path(), "getter", &bootstrap).await;
    let out = dir.path().join("out");
    let request = GetRequest { cid, out: Some(out.clone()), ..GetRequest::default() };
    getter.api().get(request, watch::Sender::default()).await.unwrap();
    assert_eq!(std::fs::read(out).unwrap(), bytes);
    for node in [getter, seeder, hub] {
        node.shutdown().await;
    }
    drop((sybils, silent));
}
