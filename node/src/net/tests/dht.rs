//! Announcing, finding, routing.

use libp2p::PeerId;

use crate::core::profile::NetworkProfile;
use crate::net::{BlockAnswer, BootstrapFailure, LookupOutcome, NetEvent};

use super::{Node, chunk, chunk_of, collect, eventually, in_time};

#[tokio::test]
async fn a_node_finds_what_another_provides_and_gets_its_bytes() {
    let (hub, mut provider, asker) = (Node::new().await, Node::new().await, Node::new().await);
    provider.join(&hub).await;
    let data = b"some bytes".to_vec();
    let cid = chunk_of(&data);
    provider.serve([(cid, data.clone())].into());
    assert_eq!(in_time(provider.client.provide(cid)).await, Ok(1));
    hub.counted("net_records_accepted", 1).await;
    // Later: it would be told the record itself, and need not ask.
    asker.join(&hub).await;

    let (providers, stats) = collect(asker.client.find_providers(cid).await).await;
    assert_eq!(providers.keys().collect::<Vec<_>>(), [&provider.peer]);
    assert_eq!(providers[&provider.peer], [provider.addr.clone()]);
    assert_eq!(stats.outcome, LookupOutcome::Complete);
    assert!(stats.requests >= 1 && stats.successes >= 1);
    assert!(stats.first_provider_after.is_some_and(|answered| answered >= 1), "{stats:?}");

    // The address is remembered from the lookup.
    in_time(asker.client.connect(provider.peer, Vec::new())).await.unwrap();
    let answer = in_time(asker.client.request(provider.peer, cid)).await;
    assert_eq!(answer, Ok(BlockAnswer::Data(data)));
    assert_eq!(in_time(asker.client.request(provider.peer, chunk(9))).await, Ok(BlockAnswer::Missing));
}

#[tokio::test]
async fn a_node_that_knows_nobody_is_found_by_those_who_ask_it() {
    let (provider, asker) = (Node::new().await, Node::new().await);
    let cid = chunk(1);
    in_time(provider.client.hold(vec![cid])).await.unwrap();
    assert_eq!(in_time(provider.client.status()).await.unwrap().provider_records_own, 1);
    asker.join(&provider).await;
    let (providers, _) = collect(asker.client.find_providers(cid).await).await;
    assert_eq!(providers.keys().collect::<Vec<_>>(), [&provider.peer]);

    in_time(provider.client.stop_providing(vec![cid])).await.unwrap();
    let (providers, _) = collect(asker.client.find_providers(cid).await).await;
    assert!(providers.is_empty());
}

#[tokio::test]
async fn a_lookup_that_finds_nobody_ends() {
    let (hub, asker) = (Node::new().await, Node::new().await);
    let (providers, stats) = collect(asker.client.find_providers(chunk(1)).await).await;
    assert!(providers.is_empty());
    assert_eq!((stats.outcome, stats.requests), (LookupOutcome::Complete, 0));
    asker.join(&hub).await;
    let (providers, stats) = collect(asker.client.find_providers(chunk(1)).await).await;
    assert!(providers.is_empty());
    assert_eq!((stats.outcome, stats.first_provider_after), (LookupOutcome::Complete, None));
    assert_eq!(stats.successes, 1);
}

#[tokio::test]
async fn a_provider_finds_itself_with_its_own_addresses() {
    let node = Node::new().await;
    assert_eq!(in_time(node.client.provide(chunk(1))).await, Ok(0), "there is nobody to tell");
    let (providers, stats) = collect(node.client.find_providers(chunk(1)).await).await;
    assert_eq!(providers[&node.peer], std::slice::from_ref(&node.addr));
    assert_eq!(stats.first_provider_after, None, "it is no other");
    assert_eq!(node.client.status().await.unwrap().provider_records_own, 1);
    node.client.stop_providing(vec![chunk(1)]).await.unwrap();
    assert!(collect(node.client.find_providers(chunk(1)).await).await.0.is_empty());
    assert_eq!(node.client.status().await.unwrap().provider_records_own, 0);
}

#[tokio::test]
async fn a_withdrawn_record_is_told_by_nobody_who_was_not_told_before() {
    let (hub, provider) = (Node::new().await, Node::new().await);
    provider.join(&hub).await;
    assert_eq!(in_time(provider.client.provide(chunk(1))).await, Ok(1));
    hub.counted("net_records_accepted", 1).await;
    assert_eq!(hub.client.status().await.unwrap().provider_records_held, 1);
    assert_eq!(hub.client.status().await.unwrap().provider_records_own, 0);
}

#[tokio::test]
async fn the_routing_table_grows_by_bootstrap_and_is_told() {
    let mut nodes = Vec::new();
    for _ in 0..6 {
        nodes.push(Node::new().await);
    }
    let hub = nodes.remove(0);
    assert_eq!(in_time(hub.client.bootstrap()).await, Err(BootstrapFailure::NoPeers));
    for node in &nodes {
        node.join(&hub).await;
    }
    let mut last = nodes.pop().unwrap();
    let (first, second) = tokio::join!(last.client.bootstrap(), last.client.bootstrap());
    assert_eq!(first, second);
    assert!(first.unwrap() >= 1);
    let client = &last.client;
    eventually(|| async move { client.routing_peers().await.unwrap().len() == 5 }).await;
    for (peer, addrs) in client.routing_peers().await.unwrap() {
        assert_eq!(addrs.len(), 1, "{peer}");
    }
    let status = client.status().await.unwrap();
    assert_eq!(status.routing_peers, 5);
    assert_eq!(status.profile, NetworkProfile::Loopback);
    let mut told = 0;
    while told != 5 {
        if let NetEvent::Routing { peers } = in_time(last.events.recv()).await.unwrap() {
            told = peers;
        }
    }
}

#[tokio::test]
async fn records_reach_a_network_larger_than_one_bucket() {
    let mut nodes = Vec::new();
    for _ in 0..24 {
        nodes.push(Node::new().await);
    }
    for node in &nodes[1..] {
        node.join(&nodes[0]).await;
    }
    for node in &nodes {
        in_time(node.client.bootstrap()).await.unwrap();
    }
    let told = in_time(nodes[3].client.provide(chunk(5))).await.unwrap();
    assert_eq!(told, 20);
    let all = &nodes;
    eventually(|| async move {
        let mut accepted = 0;
        for node in all {
            accepted += node.counter("net_records_accepted").await;
        }
        accepted == 20
    })
    .await;
    let (providers, _) = collect(nodes[17].client.find_providers(chunk(5)).await).await;
    assert_eq!(providers.into_keys().collect::<Vec<PeerId>>(), [nodes[3].peer]);
}

#[tokio::test]
async fn a_client_finds_and_is_found_but_is_in_nobodys_table() {
    let hub = Node::new().await;
    let client = Node::with(|config| config.kad_server = false).await;
    assert_eq!(client.client.dial(hub.full_addr()).await, Ok(hub.peer));
    assert_eq!(client.client.routing_peers().await.unwrap()[0].0, hub.peer);
    assert_eq!(in_time(client.client.provide(chunk(1))).await, Ok(1));
    hub.counted("net_records_accepted", 1).await;
    let asker = Node::new().await;
    asker.join(&hub).await;
    let (providers, _) = collect(asker.client.find_providers(chunk(1)).await).await;
    assert_eq!(providers[&client.peer], std::slice::from_ref(&client.addr));
    let table = hub.client.routing_peers().await.unwrap();
    assert!(table.iter().all(|(peer, _)| *peer != client.peer));
    let info = hub.client.peers().await.unwrap().into_iter().find(|info| info.peer == client.peer).unwrap();
    assert!(!info.kad && info.exchange && !info.in_routing_table);
    assert_eq!(hub.counter("net_routing_refused_foreign").await, 0);
}

#[tokio::test]
async fn a_peer_that_has_gone_leaves_the_table_after_three_failed_dials() {
    let (hub, node, gone) = (Node::new().await, Node::new().await, Node::new().await);
    node.join(&hub).await;
    node.join(&gone).await;
    gone.client.shutdown().await;
    in_time(gone.task).await.unwrap();
    let client = &node.client;
    eventually(|| async move { client.status().await.unwrap().connected == 1 }).await;
    for gone_too in [false, false, true] {
        assert!(in_time(client.connect(gone.peer, Vec::new())).await.is_err());
        let table = client.routing_peers().await.unwrap();
        assert_eq!(table.iter().all(|(peer, _)| *peer != gone.peer), gone_too);
        // A success elsewhere shows that the failure is not our own.
        node.join(&Node::new().await).await;
    }
    assert_eq!(node.counter("net_routing_removed_dead").await, 1);
}
