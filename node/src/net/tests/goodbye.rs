//! Nodes that end in order, and those that do not.

use std::time::Duration;

use libp2p::core::transport::{ListenerId, MemoryTransport};
use libp2p::identity::Keypair;
use libp2p::{PeerId, Transport as _};
use tokio::time::Instant;

use crate::net::limits::GOODBYE_TIMEOUT;
use crate::net::{LookupEvent, Receipt};

use super::{Node, chunk, collect, eventually, in_time, new_keypair};

/// Tells `holder` that `node` provides chunk 1.
async fn announce(node: &Node, holder: &Node) {
    let own = node.client.external_addrs().await.unwrap();
    let to = vec![holder.addr.clone()];
    let (announcer, keys) = (node.client.announcer(), [*chunk(1).digest()]);
    let told = announcer.provide(holder.peer, to, &own, &keys);
    assert_eq!(in_time(told).await.unwrap(), Receipt::Taken(vec![true]));
}

async fn end(node: Node) {
    assert!(in_time(node.client.announcer().goodbye_to_all(GOODBYE_TIMEOUT)).await >= 1);
    in_time(node.client.shutdown()).await;
    in_time(node.task).await.unwrap();
}

async fn providers(asker: &Node) -> Vec<PeerId> {
    collect(asker.client.find_providers(chunk(1)).await).await.0.into_keys().collect()
}

async fn again(keypair: Keypair) -> Node {
    Node::with_key(keypair, |_| {}).await
}

#[tokio::test]
async fn a_node_that_said_goodbye_is_named_again_when_it_is_back() {
    let (hub, asker, keypair) = (Node::new().await, Node::new().await, new_keypair());
    asker.join(&hub).await;
    let node = again(keypair.clone()).await;
    let peer = node.peer;
    node.join(&hub).await;
    announce(&node, &hub).await;
    assert_eq!(providers(&asker).await, [peer]);

    end(node).await;
    assert_eq!(hub.counter("net_goodbyes").await, 1);
    assert!(providers(&asker).await.is_empty());
    let client = &hub.client;
    eventually(|| async move { client.status().await.unwrap().connected == 1 }).await;
    assert!(client.routing_peers().await.unwrap().iter().all(|(routed, _)| *routed != peer));

    let node = again(keypair).await;
    node.join(&hub).await;
    assert_eq!(providers(&asker).await, [peer], "its records were kept");
}

#[tokio::test]
async fn a_crash_changes_nothing_at_once() {
    let (hub, asker, node) = (Node::new().await, Node::new().await, Node::new().await);
    asker.join(&hub).await;
    node.join(&hub).await;
    announce(&node, &hub).await;
    node.task.abort();
    let client = &hub.client;
    eventually(|| async move { client.status().await.unwrap().connected == 1 }).await;
    assert_eq!(providers(&asker).await, [node.peer]);
    assert_eq!(hub.counter("net_goodbyes").await, 0);
}

#[tokio::test]
async fn a_holder_that_is_not_connected_any_more_is_told() {
    let hub = Node::with(|config| config.limits.idle_timeout = Duration::from_millis(100)).await;
    let node = Node::with(|config| config.limits.idle_timeout = Duration::from_millis(100)).await;
    announce(&node, &hub).await;
    let client = &node.client;
    eventually(|| async move { client.status().await.unwrap().connected == 0 }).await;
    end(node).await;
    assert_eq!(hub.counter("net_goodbyes").await, 1);
    assert!(providers(&hub).await.is_empty());
}

#[tokio::test]
async fn a_goodbye_silences_nobody_but_its_sender() {
    let (hub, first, second) = (Node::new().await, Node::new().await, Node::new().await);
    for node in [&first, &second] {
        node.join(&hub).await;
        announce(node, &hub).await;
    }
    end(second).await;
    assert_eq!(providers(&hub).await, [first.peer]);
}

#[tokio::test]
async fn peers_that_are_silent_delay_the_end_for_a_bounded_time() {
    let (hub, node) = (Node::new().await, Node::new().await);
    node.join(&hub).await;
    let addr: libp2p::Multiaddr = "/memory/77001".parse().unwrap();
    let mut silent = MemoryTransport::default();
    silent.listen_on(ListenerId::next(), addr.clone()).unwrap();
    for _ in 0..300 {
        node.client.told().lock().unwrap().on_told(PeerId::random(), vec![addr.clone()]);
    }
    let (within, began) = (Duration::from_secs(4), Instant::now());
    assert_eq!(in_time(node.client.announcer().goodbye_to_all(within)).await, 1);
    assert!(began.elapsed() < within + Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(hub.counter("net_goodbyes").await, 1);
}

/// Providers in the order in which a lookup hands them out.
async fn in_order(asker: &Node) -> Vec<PeerId> {
    let mut lookup = asker.client.find_providers(chunk(1)).await;
    let mut order = Vec::new();
    while let Some(event) = in_time(lookup.next()).await {
        if let LookupEvent::Provider { peer, .. } = event {
            order.push(peer);
        }
    }
    order
}

#[tokio::test]
async fn a_provider_that_could_not_be_dialled_is_offered_last_until_it_is_back() {
    let (hub, asker) = (Node::new().await, Node::new().await);
    asker.join(&hub).await;
    let mut keys = [new_keypair(), new_keypair()];
    keys.sort_by_key(|key| key.public().to_peer_id());
    let [first, second] = keys;
    let (gone, live) = (again(first.clone()).await, again(second).await);
    for node in [&gone, &live] {
        node.join(&hub).await;
        announce(node, &hub).await;
    }
    assert_eq!(in_order(&asker).await, [gone.peer, live.peer]);
    gone.task.abort();
    let client = &hub.client;
    eventually(|| async move { client.status().await.unwrap().connected == 2 }).await;
    assert!(in_time(asker.client.connect(gone.peer, Vec::new())).await.is_err());
    assert_eq!(in_order(&asker).await, [live.peer, gone.peer], "it is named, but last");
    assert_eq!(asker.counter("net_providers_unreachable").await, 1);
    assert_eq!(asker.counter("net_providers_offered_last").await, 1);

    let back = again(first).await;
    in_time(back.client.dial(asker.full_addr())).await.unwrap();
    assert_eq!(in_order(&asker).await, [back.peer, live.peer]);
}
