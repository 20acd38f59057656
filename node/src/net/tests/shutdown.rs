//! The end of a node.

use crate::net::{BootstrapFailure, DialFailure, ListenError, NetGone, ProvideError, RequestError};

use super::{Node, chunk, in_time};

#[tokio::test]
async fn everything_that_waits_is_answered() {
    let mut server = Node::new().await;
    let node = Node::new().await;
    node.client.dial(server.full_addr()).await.unwrap();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut requests = Vec::new();
    for n in 0..10 {
        let (client, peer) = (node.client.clone(), server.peer);
        requests.push(tokio::spawn(async move { client.request(peer, chunk(n)).await }));
    }
    let mut tickets = Vec::new();
    for _ in 0..10 {
        tickets.push(server.next_request().await.0);
    }
    let mut lookup = node.client.find_providers(chunk(1)).await;
    drop(silent);
    let second = node.client.clone();
    tokio::join!(in_time(node.client.shutdown()), in_time(second.shutdown()));
    in_time(node.task).await.unwrap();
    for request in requests {
        assert_eq!(in_time(request).await.unwrap(), Err(RequestError::Gone(NetGone)));
    }
    while in_time(lookup.next()).await.is_some() {}
    for ticket in tickets {
        assert!(!server.next_end().await.1);
        drop(ticket);
    }
}

#[tokio::test]
async fn a_client_outlives_its_loop() {
    let node = Node::new().await;
    let (addr, peer) = (node.full_addr(), node.peer);
    in_time(node.client.shutdown()).await;
    in_time(node.task).await.unwrap();
    let client = node.client;
    assert_eq!(client.listen("/memory/0".parse().unwrap()).await, Err(ListenError::Gone(NetGone)));
    assert_eq!(client.dial(addr.clone()).await, Err(DialFailure::Gone(NetGone)));
    assert_eq!(client.connect(peer, vec![addr]).await, Err(DialFailure::Gone(NetGone)));
    assert_eq!(client.provide(chunk(1)).await, Err(ProvideError::Gone(NetGone)));
    assert_eq!(client.stop_providing(vec![chunk(1)]).await, Err(NetGone));
    assert_eq!(client.request(peer, chunk(1)).await, Err(RequestError::Gone(NetGone)));
    assert_eq!(client.bootstrap().await, Err(BootstrapFailure::Gone(NetGone)));
    assert_eq!(client.peers().await, Err(NetGone));
    assert_eq!(client.routing_peers().await, Err(NetGone));
    assert_eq!(client.status().await, Err(NetGone));
    assert_eq!(client.find_providers(chunk(1)).await.next().await, None);
    client.shutdown().await;
    assert_eq!(client.peer_id(), peer);
}

#[tokio::test]
async fn the_loop_ends_with_its_last_client() {
    let (hub, node) = (Node::new().await, Node::new().await);
    node.client.dial(hub.full_addr()).await.unwrap();
    let Node { client, task, mut events, .. } = node;
    let clone = client.clone();
    drop(client);
    assert!(clone.status().await.is_ok());
    drop(clone);
    in_time(task).await.unwrap();
    while in_time(events.recv()).await.is_some() {}
    let hub_client = &hub.client;
    super::eventually(|| async move { hub_client.status().await.unwrap().connected == 0 }).await;
}

#[tokio::test]
async fn its_address_is_free_again() {
    let node = Node::new().await;
    let addr = node.addr.clone();
    in_time(node.client.shutdown()).await;
    in_time(node.task).await.unwrap();
    let next = Node::new().await;
    assert!(in_time(next.client.dial(addr.clone())).await.is_err());
}
