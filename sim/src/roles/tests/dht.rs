//! Harm done through the DHT.

use std::{collections::BTreeSet, sync::Arc};

use dhtfs_node::api::types::{ErrorKind, Provider, ProvidersRequest};
use dhtfs_store::{ChunkCid, ContentCid};
use libp2p::{Multiaddr, PeerId, identity::Keypair};
use tokio::sync::mpsc;

use super::{Duration, Hostile, Lab, Started, Targets, counter, simulated, sleep, until};
use crate::{
    limits::node_limits,
    roles::{
        Key, NaiveError,
        counters::Counters,
        keypair_near,
        streams::StreamEvent,
        swarm::{Engine, Happened, Setup},
        wire::{Message, kind, read_message, write_message},
    },
};

/// As many as a lookup asks and a record is sent to.
const SYBILS: usize = 20;

/// Bits that a Sybil shares with the key: closer than everybody in a network of thirty.
const SYBIL_BITS: u32 = 9;

fn piece() -> (ContentCid, Vec<u8>) {
    let bytes = vec![7; 1_000];
    (ContentCid::Chunk(ChunkCid::of(&bytes)), bytes)
}

/// Asks one peer one question of the DHT, as a client that is in nobody's table.
async fn ask(lab: &mut Lab, to: &Multiaddr, question: Message) -> Message {
    let mut env = lab.env(&Keypair::generate_ed25519(), std::slice::from_ref(to));
    env.listen.clear();
    let setup = Setup {
        agent: "question".to_owned(),
        answers_kad: false,
        exchange_timeout: None,
        idle_timeout: None,
        records: libp2p::kad::store::MemoryStoreConfig::default(),
        counters: Arc::new(Counters::default()),
    };
    let mut engine = Engine::new(env, setup).unwrap();
    engine.join();
    let mut stream = loop {
        match engine.next().await {
            Happened::MetServer => {
                let peer = *engine.servers.first().unwrap();
                engine.swarm.behaviour_mut().streams.open(peer);
            }
            Happened::Stream(_, StreamEvent::Outbound(stream)) => break stream,
            _ => {}
        }
    };
    let talk = async {
        write_message(&mut stream, &question).await.unwrap();
        read_message(&mut stream).await.unwrap().unwrap()
    };
    tokio::pin!(talk);
    loop {
        tokio::select! {
            answer = &mut talk => return answer,
            _ = engine.next() => {}
        }
    }
}

/// Whom a peer itself has recorded as providers.
async fn recorded(lab: &mut Lab, at: &Multiaddr, cid: ContentCid) -> BTreeSet<PeerId> {
    let key = cid.multihash_bytes().to_vec();
    let answer = ask(lab, at, Message { kind: kind::GET_PROVIDERS, key, ..Message::default() }).await;
    answer.providers.into_iter().map(|peer| peer.id).collect()
}

/// All providers that a node finds.
async fn providers(node: &Started, cid: ContentCid) -> BTreeSet<String> {
    let (found, mut stream) = mpsc::channel::<Provider>(1_024);
    let request = ProvidersRequest { cid: cid.to_string(), ..ProvidersRequest::default() };
    let collect = async {
        let mut all = BTreeSet::new();
        while let Some(provider) = stream.recv().await {
            all.insert(provider.peer);
        }
        all
    };
    // Nobody found is an error there and an empty set here.
    let (_, all) = tokio::join!(node.node.api().providers(request, found), collect);
    all
}

#[test]
fn a_naive_lookup_believes_invented_providers() {
    simulated(201, async |mut lab| {
        let keys = lab.keypairs(4);
        let (cid, bytes) = piece();
        let (honest, addr) = lab.naive(&keys[1], &[]);
        let (bystander, _) = lab.naive(&keys[2], std::slice::from_ref(&addr));
        let forger = lab.hostile(
            Hostile::ForgesProviders,
            &keys[0],
            std::slice::from_ref(&addr),
            Targets::named(vec![cid]),
        );
        until("records were forged", async || forger.stats().records_forged > 3).await;
        honest.hold(cid, bytes).await;
        let (naive, _) = lab.naive(&keys[3], &[addr]);
        until("the naive peer has joined", async || naive.state(None, forger.peer_id()).await.addrs > 0)
            .await;
        let found = naive.find(cid).await;
        let known = BTreeSet::from([honest.peer_id(), bystander.peer_id(), forger.peer_id()]);
        let invented = found.difference(&known).count();
        println!("forges-providers: naive finds {} providers, {invented} of them invented", found.len());
        assert!(invented >= 20);
        assert!(found.contains(&forger.peer_id()), "its false record about itself is believed");
        let fetched = naive.fetch(cid).await;
        println!("forges-providers: naive fetch: {:?}", fetched.as_ref().map(Vec::len));
        assert!(matches!(fetched, Err(NaiveError::Refused(_) | NaiveError::Failed(_))), "{fetched:?}");
    });
}

#[test]
fn a_node_fetches_among_forged_providers_and_records_nobody_in_anothers_name() {
    simulated(202, async |mut lab| {
        let keys = lab.keypairs(5);
        let honest = lab.node(&keys[1], &[]).await;
        let (root, content) = lab.add(&honest).await;
        let bootstrap = [honest.addr.clone()];
        let bystander = lab.node(&keys[2], &bootstrap).await;
        let forger =
            lab.hostile(Hostile::ForgesProviders, &keys[0], &bootstrap, Targets::named(vec![root.into()]));
        until("records were forged", async || forger.stats().records_forged > 20).await;
        let innocent = keys[2].public().to_peer_id();
        for addr in [&honest.addr, &bystander.addr] {
            let recorded = recorded(&mut lab, addr, root.into()).await;
            assert!(!recorded.contains(&innocent), "{recorded:?}");
        }
        let fetcher = lab.node(&keys[3], &bootstrap).await;
        let found = providers(&fetcher, root.into()).await;
        assert!(found.contains(&keys[1].public().to_peer_id().to_string()), "{found:?}");
        let report = lab.get(&fetcher, root).await.unwrap();
        println!(
            "forges-providers: node finds {} providers, fetches in {:.1} s; {:?}",
            found.len(),
            report.seconds,
            forger.stats()
        );
        assert_eq!(std::fs::read(&report.path).unwrap(), content);
        assert!(forger.stats().questions_misled > 0);
    });
}

#[test]
fn a_flood_fills_a_stock_record_store_so_that_an_honest_record_is_dropped() {
    simulated(203, async |mut lab| {
        let keys = lab.keypairs(3);
        let (cid, bytes) = piece();
        let (holder, addr) = lab.naive(&keys[0], &[]);
        let (honest, _) = lab.naive(&keys[1], std::slice::from_ref(&addr));
        let flooder = lab.hostile(Hostile::FloodsRecords, &keys[2], &[addr], Targets::default());
        until("the store is full", async || flooder.stats().records_sent > 10_000).await;
        honest.hold(cid, bytes).await;
        sleep(Duration::from_secs(5)).await;
        let recorded = holder.state(Some(cid), honest.peer_id()).await.recorded;
        assert!(recorded.is_empty(), "{recorded:?}");
    });
}

#[test]
fn a_node_keeps_room_for_honest_records_in_a_flood() {
    simulated(204, async |mut lab| {
        let keys = lab.keypairs(4);
        let holder = lab.node(&keys[0], &[]).await;
        let bootstrap = [holder.addr.clone()];
        let flooder = lab.hostile(Hostile::FloodsRecords, &keys[1], &bootstrap, Targets::default());
        until("the flooder has used up its share", async || {
            counter(&holder, "net_records_refused_quota").await > 1_000
        })
        .await;
        let accepted = counter(&holder, "net_records_accepted").await;
        assert_eq!(accepted, node_limits().max_records_per_provider as u64);
        let honest = lab.node(&keys[2], &bootstrap).await;
        let (root, content) = lab.add(&honest).await;
        let honest_id = keys[2].public().to_peer_id();
        for _ in 0..600 {
            if recorded(&mut lab, &bootstrap[0], root.into()).await.contains(&honest_id) {
                break;
            }
            sleep(Duration::from_millis(500)).await;
        }
        assert!(recorded(&mut lab, &bootstrap[0], root.into()).await.contains(&honest_id));
        let fetcher = lab.node(&keys[3], &bootstrap).await;
        let report = lab.get(&fetcher, root).await.unwrap();
        assert_eq!(std::fs::read(&report.path).unwrap(), content);
        println!("floods-records: node kept {accepted} of {} records", flooder.stats().records_sent);
    });
}

#[test]
fn two_flooders_that_fill_the_store_of_a_node_do_not_keep_an_honest_record_out() {
    simulated(205, async |mut lab| {
        let keys = lab.keypairs(5);
        let holder = lab.node(&keys[0], &[]).await;
        let bootstrap = [holder.addr.clone()];
        let _flooders = [&keys[1], &keys[2]]
            .map(|key| lab.hostile(Hostile::FloodsRecords, key, &bootstrap, Targets::default()));
        until("the store is full", async || {
            counter(&holder, "net_records_refused_full").await
                + counter(&holder, "net_records_refused_quota").await
                > 4_000
        })
        .await;
        let accepted = counter(&holder, "net_records_accepted").await;
        assert!(accepted <= node_limits().max_foreign_records as u64, "{accepted}");
        let honest = lab.node(&keys[3], &bootstrap).await;
        let (root, content) = lab.add(&honest).await;
        sleep(Duration::from_secs(60)).await;
        let recorded = recorded(&mut lab, &bootstrap[0], root.into()).await;
        println!("floods-records, two identities: node holds {accepted} junk records");
        assert!(recorded.contains(&keys[3].public().to_peer_id()), "the honest record is kept and found");
        let fetcher = lab.node(&keys[4], &bootstrap).await;
        let report = lab.get(&fetcher, root).await.unwrap();
        assert_eq!(std::fs::read(&report.path).unwrap(), content);
    });
}

/// Sybils around the first target, in a network that joins through `bootstrap`.
fn surround(lab: &mut Lab, cid: ContentCid, bootstrap: &[Multiaddr]) -> Vec<crate::roles::HostilePeer> {
    let keys: Vec<Keypair> = (0..SYBILS as u64).map(|n| keypair_near(cid, SYBIL_BITS, 1_000 + n)).collect();
    let envs: Vec<_> = keys.iter().map(|key| lab.env(key, bootstrap)).collect();
    let accomplices =
        envs.iter().map(|env| (env.keypair.public().to_peer_id(), env.listen.clone())).collect();
    let targets = Targets { accomplices, ..Targets::named(vec![cid]) };
    let kind = Hostile::SybilNear(Key::FirstTarget);
    envs.into_iter().map(|env| crate::roles::start_hostile(kind, env, targets.clone()).unwrap()).collect()
}

#[test]
fn sybils_hide_an_honest_provider_from_a_naive_lookup() {
    simulated(206, async |mut lab| {
        let keys = lab.keypairs(3);
        let (cid, bytes) = piece();
        let (hub, addr) = lab.naive(&keys[0], &[]);
        let (honest, _) = lab.naive(&keys[1], std::slice::from_ref(&addr));
        let before = lab.naive(&keys[2], std::slice::from_ref(&addr)).0;
        honest.hold(cid, bytes.clone()).await;
        assert!(before.find(cid).await.contains(&honest.peer_id()), "without Sybils it is found");
        before.stop();
        let sybils = surround(&mut lab, cid, std::slice::from_ref(&addr));
        until("the Sybils are in the tables", async || {
            hub.state(None, hub.peer_id()).await.known_peers >= SYBILS
        })
        .await;
        honest.hold(cid, bytes).await;
        let naive = lab.naive(&Keypair::ed25519_from_bytes([9; 32]).unwrap(), &[addr]).0;
        until("the naive peer has joined", async || {
            naive.state(None, hub.peer_id()).await.known_peers >= SYBILS
        })
        .await;
        let found = naive.find(cid).await;
        let swallowed: u64 = sybils.iter().map(|sybil| sybil.stats().records_swallowed).sum();
        println!("sybil-near: naive finds {found:?}; {swallowed} records swallowed");
        assert!(found.is_empty(), "{found:?}");
        assert!(swallowed > 0);
        assert!(matches!(naive.fetch(cid).await, Err(NaiveError::NotFound)));
    });
}

#[test]
fn a_node_among_sybils_fetches_from_a_peer_named_in_the_link() {
    simulated(207, async |mut lab| {
        let keys = lab.keypairs(3);
        let hub = lab.node(&keys[0], &[]).await;
        let bootstrap = [hub.addr.clone()];
        let honest = lab.node(&keys[1], &bootstrap).await;
        // The attackers know the CID before the honest peer announces it, as that of content published elsewhere.
        let (root, content) = (lab.root(), lab.content());
        let sybils = surround(&mut lab, root.into(), &bootstrap);
        until("the Sybils are in the tables", async || {
            honest.node.api().status().await.unwrap().routing_peers >= SYBILS as u64
        })
        .await;
        assert_eq!(lab.add(&honest).await.0, root);
        sleep(Duration::from_secs(120)).await;
        let fetcher = lab.node(&keys[2], &bootstrap).await;
        let found = providers(&fetcher, root.into()).await;
        let plain = lab.get(&fetcher, root).await;
        // Not yet held: the only records of a key are with the peers nearest to it.
        println!(
            "sybil-near: node finds {} providers, fetch without a hint: {:?}; {} records swallowed",
            found.len(),
            plain.as_ref().map(|report| report.seconds).map_err(|error| error.kind),
            sybils.iter().map(|sybil| sybil.stats().records_swallowed).sum::<u64>(),
        );
        if let Err(error) = &plain {
            assert_eq!(error.kind, ErrorKind::NotFound, "it ends, and says why");
            let report = lab.get_from(&fetcher, root, &honest.addr).await.unwrap();
            assert_eq!(std::fs::read(&report.path).unwrap(), content);
        }
    });
}

#[test]
fn a_naive_table_collects_every_address_that_a_peer_names() {
    simulated(208, async |mut lab| {
        let keys = lab.keypairs(3);
        let (hub, addr) = lab.naive(&keys[0], &[]);
        let (_other, _) = lab.naive(&keys[1], std::slice::from_ref(&addr));
        let mut env = lab.env(&keys[2], &[addr]);
        env.listen.extend((0..3).map(|_| lab.port()));
        let peer = crate::roles::start_hostile(Hostile::RotatesAddresses, env, Targets::default()).unwrap();
        until("ten rounds of addresses were told", async || peer.stats().addrs_told > 150).await;
        let addrs = hub.state(None, peer.peer_id()).await.addrs;
        println!("rotates-addresses: naive believes {addrs} addresses of {}", peer.stats().addrs_told);
        assert!(addrs > 50, "{addrs}");
    });
}

#[test]
fn a_node_tells_few_addresses_of_a_peer_that_keeps_changing_them() {
    simulated(209, async |mut lab| {
        let keys = lab.keypairs(4);
        let honest = lab.node(&keys[0], &[]).await;
        let (root, content) = lab.add(&honest).await;
        let bootstrap = [honest.addr.clone()];
        let mut env = lab.env(&keys[1], &bootstrap);
        env.listen.extend((0..3).map(|_| lab.port()));
        let peer = crate::roles::start_hostile(Hostile::RotatesAddresses, env, Targets::default()).unwrap();
        until("addresses were told", async || peer.stats().addrs_told > 300).await;
        let key = peer.peer_id().to_bytes();
        let question = Message { kind: kind::FIND_NODE, key, ..Message::default() };
        let answer = ask(&mut lab, &bootstrap[0], question).await;
        let told =
            answer.closer.iter().find(|told| told.id == peer.peer_id()).map_or(0, |told| told.addrs.len());
        println!("rotates-addresses: node tells {told} of {} addresses", peer.stats().addrs_told);
        assert!(told <= dhtfs_node::net::limits::MAX_ADDRS_PER_PEER);
        let fetcher = lab.node(&keys[2], &bootstrap).await;
        let report = lab.get(&fetcher, root).await.unwrap();
        assert_eq!(std::fs::read(&report.path).unwrap(), content);
    });
}
