//! What nodes that are not ours can do to us: bare swarms with the same protocol names.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt as _;
use libp2p::identity::Keypair;
use libp2p::kad::store::MemoryStore;
use libp2p::kad::{self, Mode, Quorum, Record, RecordKey};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{NetworkBehaviour, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, identify, ping, swarm};

use crate::net::DialFailure;
use crate::net::limits::{MAX_ADDRS_PER_PEER, MAX_AGENT_LEN, MAX_CONNECTIONS_PER_PEER};

use super::{Node, chunk, collect, eventually, in_time, memory_transport, new_keypair};

const KAD: StreamProtocol = StreamProtocol::new("/dhtfs/test/kad/1.0.0");

#[derive(NetworkBehaviour)]
struct Stranger {
    kad: kad::Behaviour<MemoryStore>,
    identify: identify::Behaviour,
}

fn stranger(keypair: &Keypair, agent: &str) -> Swarm<Stranger> {
    let peer = keypair.public().to_peer_id();
    let mut kad = kad::Behaviour::with_config(peer, MemoryStore::new(peer), kad::Config::new(KAD));
    kad.set_mode(Some(Mode::Server));
    let identify =
        identify::Config::new("/dhtfs/test".into(), keypair.public()).with_agent_version(agent.into());
    let behaviour = Stranger { kad, identify: identify::Behaviour::new(identify) };
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(60));
    Swarm::new(memory_transport(keypair), behaviour, peer, config)
}

/// Polls the stranger until the condition about the node is true.
async fn while_polling<B: NetworkBehaviour, F: Future<Output = bool>>(
    stranger: &mut Swarm<B>,
    condition: impl FnMut() -> F,
) {
    let wait = eventually(condition);
    tokio::pin!(wait);
    loop {
        tokio::select! {
            () = &mut wait => return,
            _ = stranger.select_next_some() => {}
        }
    }
}

async fn is_routed(node: &Node, peer: PeerId) -> bool {
    node.client.routing_peers().await.unwrap().iter().any(|(routed, _)| *routed == peer)
}

/// A stranger that is connected to `node`, listens, and is in its routing table.
async fn connected(node: &Node, agent: &str) -> (Swarm<Stranger>, PeerId) {
    let mut swarm = stranger(&new_keypair(), agent);
    let peer = *swarm.local_peer_id();
    swarm.listen_on("/memory/0".parse().unwrap()).unwrap();
    while !matches!(in_time(swarm.select_next_some()).await, SwarmEvent::NewListenAddr { .. }) {}
    swarm.behaviour_mut().kad.add_address(&node.peer, node.addr.clone());
    swarm.dial(node.full_addr()).unwrap();
    while_polling(&mut swarm, || is_routed(node, peer)).await;
    (swarm, peer)
}

fn private_addr(n: u16) -> Multiaddr {
    format!("/ip4/10.0.{}.{}/tcp/4343", n / 200, n % 200 + 1).parse().unwrap()
}

#[tokio::test]
async fn a_record_needs_a_sha256_multihash_as_its_key() {
    let node = Node::new().await;
    let (mut swarm, _) = connected(&node, "stranger").await;
    for key in [vec![], vec![1; 34], vec![0x12, 0x20, 1], vec![7; 4_000]] {
        swarm.behaviour_mut().kad.start_providing(RecordKey::from(key)).unwrap();
    }
    let node = &node;
    while_polling(&mut swarm, || async { node.counter("net_records_refused_key").await == 4 }).await;
    assert_eq!(node.client.status().await.unwrap().provider_records_held, 0);
}

#[tokio::test]
async fn a_record_keeps_few_addresses_and_only_likely_ones() {
    let node = Node::new().await;
    let (mut swarm, peer) = connected(&node, "stranger").await;
    for n in 0..15 {
        swarm.add_external_address(private_addr(n));
    }
    swarm.add_external_address("/ip4/0.0.0.0/tcp/1".parse().unwrap());
    let key = RecordKey::new(&chunk(1).multihash_bytes());
    swarm.behaviour_mut().kad.start_providing(key).unwrap();
    let node = &node;
    while_polling(&mut swarm, || async { node.counter("net_records_accepted").await == 1 }).await;
    assert!(node.counter("net_addrs_dropped").await >= 8);
    // The node itself holds the record; it asks nobody but the stranger, who adds nothing.
    let lookup = collect(node.client.find_providers(chunk(1)).await);
    tokio::pin!(lookup);
    let (providers, _) = loop {
        tokio::select! {
            found = &mut lookup => break found,
            _ = swarm.select_next_some() => {}
        }
    };
    assert!(providers[&peer].len() <= MAX_ADDRS_PER_PEER);
}

#[tokio::test]
async fn value_records_are_not_kept() {
    let node = Node::new().await;
    let (mut swarm, _) = connected(&node, "stranger").await;
    let record = Record::new(RecordKey::new(&chunk(1).multihash_bytes()), vec![1; 100]);
    swarm.behaviour_mut().kad.put_record(record.clone(), Quorum::One).unwrap();
    let counted = &node;
    while_polling(&mut swarm, || async { counted.counter("net_value_records_refused").await == 1 }).await;
    swarm.behaviour_mut().kad.remove_record(&record.key);
    swarm.behaviour_mut().kad.get_record(record.key);
    let result = in_time(async {
        loop {
            if let SwarmEvent::Behaviour(StrangerEvent::Kad(kad::Event::OutboundQueryProgressed {
                result: kad::QueryResult::GetRecord(result),
                ..
            })) = swarm.select_next_some().await
            {
                break result;
            }
        }
    })
    .await;
    assert!(matches!(result, Err(kad::GetRecordError::NotFound { .. })), "{result:?}");
}

#[tokio::test]
async fn a_peer_that_keeps_changing_its_addresses_fills_nothing() {
    let node = Node::new().await;
    let (mut swarm, peer) = connected(&node, "stranger").await;
    let client = &node.client;
    for round in 0..16u16 {
        let current: Vec<Multiaddr> = (0..15).map(|n| private_addr(round * 15 + n)).collect();
        for addr in &current {
            swarm.add_external_address(addr.clone());
        }
        swarm.behaviour_mut().identify.push([node.peer]);
        let all = &current;
        while_polling(&mut swarm, || async {
            let table: HashMap<PeerId, Vec<Multiaddr>> =
                client.routing_peers().await.unwrap().into_iter().collect();
            let known = &table[&peer];
            assert!(known.len() <= MAX_ADDRS_PER_PEER, "{}", known.len());
            known.iter().all(|addr| all.contains(addr))
        })
        .await;
        for addr in &current {
            swarm.remove_external_address(addr);
        }
    }
}

#[tokio::test]
async fn one_peer_gets_few_connections() {
    let node = Node::new().await;
    let (mut swarm, peer) = connected(&node, "stranger").await;
    for _ in 0..5 {
        let opts = DialOpts::peer_id(node.peer).condition(PeerCondition::Always);
        swarm.dial(opts.addresses(vec![node.addr.clone()]).build()).unwrap();
    }
    let counted = &node;
    while_polling(&mut swarm, || async { counted.counter("net_connections_refused").await == 3 }).await;
    let infos = node.client.peers().await.unwrap();
    let info = infos.iter().find(|info| info.peer == peer).unwrap();
    assert_eq!(info.addrs.len(), MAX_CONNECTIONS_PER_PEER as usize);
}

#[tokio::test]
async fn the_answer_of_a_peer_with_a_large_table_is_readable() {
    let node = Node::new().await;
    let (mut swarm, _) = connected(&node, "stranger").await;
    for _ in 0..30 {
        let peer = PeerId::random();
        for n in 0..40 {
            swarm.behaviour_mut().kad.add_address(&peer, private_addr(n));
        }
    }
    // Nobody is there to be dialled; what counts is that the answer, of some 36 KiB, was read.
    let _lookup = node.client.find_providers(chunk(1)).await;
    let counted = &node;
    while_polling(&mut swarm, || async { counted.counter("net_dials_failed").await >= 1 }).await;
}

#[tokio::test]
async fn a_peer_cannot_give_itself_a_long_name() {
    let node = Node::new().await;
    let (_swarm, peer) = connected(&node, &"n\n".repeat(500)).await;
    let infos = node.client.peers().await.unwrap();
    let agent = infos.iter().find(|info| info.peer == peer).unwrap().agent.clone().unwrap();
    assert_eq!(agent, "n".repeat(MAX_AGENT_LEN));
}

#[tokio::test]
async fn a_peer_that_does_not_identify_itself_is_no_peer() {
    let node = Node::new().await;
    let keypair = new_keypair();
    let peer = keypair.public().to_peer_id();
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(60));
    let mut swarm = Swarm::new(memory_transport(&keypair), ping::Behaviour::default(), peer, config);
    swarm.listen_on("/memory/0".parse().unwrap()).unwrap();
    let addr = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = in_time(swarm.select_next_some()).await {
            break address;
        }
    };
    let dial = node.client.dial(addr);
    tokio::pin!(dial);
    let result = loop {
        tokio::select! {
            result = &mut dial => break result,
            _ = swarm.select_next_some() => {}
        }
    };
    assert_eq!(result, Err(DialFailure::NotIdentified));
    assert!(!is_routed(&node, peer).await);
}

#[tokio::test]
async fn a_peer_that_stops_serving_the_dht_leaves_the_table() {
    let node = Node::new().await;
    let (mut swarm, peer) = connected(&node, "stranger").await;
    swarm.behaviour_mut().kad.set_mode(Some(Mode::Client));
    let client = &node.client;
    let target = node.peer;
    in_time(async {
        while is_routed(&node, peer).await {
            // The handlers learn of the change on their own time, so it is pushed until it has arrived.
            swarm.behaviour_mut().identify.push([target]);
            tokio::select! {
                _ = swarm.select_next_some() => {}
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
    })
    .await;
    assert_eq!(client.status().await.unwrap().routing_peers, 0);
}
