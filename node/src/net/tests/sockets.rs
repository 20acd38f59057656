//! The production transports, on loopback.

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use crate::core::profile::NetworkProfile;
use crate::net::{BlockAnswer, ListenError, NetConfig, Verdict, transport};

use super::{Node, chunk_of, collect, eventually, in_time, new_keypair};

/// A node that listens on a free loopback port.
async fn on(listen: &str) -> Node {
    let keypair = new_keypair();
    let transport = transport::production(&keypair).unwrap();
    let mut node = Node::start(NetConfig::new("test", "dhtfs-test/1"), keypair, transport);
    node.addr = in_time(node.client.listen(listen.parse().unwrap())).await.unwrap().remove(0);
    node
}

async fn finds_and_fetches(listen: &str) {
    let (hub, mut provider, asker) = (on(listen).await, on(listen).await, on(listen).await);
    provider.join(&hub).await;
    asker.join(&hub).await;
    let data: Vec<u8> = (0..1024 * 1024u32).map(|n| n.to_le_bytes()[1]).collect();
    let cid = chunk_of(&data);
    provider.serve([(cid, data.clone())].into());
    assert!(in_time(provider.client.provide(cid)).await.unwrap() >= 1);
    hub.counted("net_records_accepted", 1).await;
    let (providers, _) = collect(asker.client.find_providers(cid).await).await;
    assert_eq!(providers[&provider.peer], [provider.addr.clone()]);
    in_time(asker.client.connect(provider.peer, Vec::new())).await.unwrap();
    for _ in 0..8 {
        let answer = in_time(asker.client.request(provider.peer, cid)).await;
        assert!(answer == Ok(BlockAnswer::Data(data.clone())));
    }
}

#[tokio::test]
async fn a_chunk_is_found_and_fetched_over_tcp() {
    finds_and_fetches("/ip4/127.0.0.1/tcp/0").await;
}

#[tokio::test]
async fn a_chunk_is_found_and_fetched_over_quic() {
    finds_and_fetches("/ip4/127.0.0.1/udp/0/quic-v1").await;
}

#[tokio::test]
async fn a_taken_port_is_an_error_and_a_free_one_is_told() {
    let node = on("/ip4/127.0.0.1/tcp/0").await;
    assert!(matches!(node.addr.iter().nth(1), Some(Protocol::Tcp(1..))));
    let other = on("/ip4/127.0.0.1/tcp/0").await;
    let taken = in_time(other.client.listen(node.addr.clone())).await;
    assert!(matches!(taken, Err(ListenError::Refused { .. })), "{taken:?}");
    let nowhere = in_time(other.client.listen("/ip4/127.0.0.1/tcp/0/ws".parse().unwrap())).await;
    assert!(matches!(nowhere, Err(ListenError::Refused { .. })), "{nowhere:?}");
}

#[tokio::test]
async fn a_listener_on_all_interfaces_tells_them_all_and_announces_the_widest() {
    let node = on("/ip4/0.0.0.0/tcp/0").await;
    let status = node.client.status().await.unwrap();
    let loopback: Multiaddr = "/ip4/127.0.0.1".parse().unwrap();
    let is_loopback = |addr: &Multiaddr| addr.iter().next() == loopback.iter().next();
    assert!(status.listen.iter().any(is_loopback));
    assert!(status.listen.iter().all(|addr| addr.iter().next() != Some(Protocol::Ip4([0, 0, 0, 0].into()))));
    if status.profile == NetworkProfile::Loopback {
        assert_eq!(status.external, status.listen);
    } else {
        assert!(!status.external.is_empty() && !status.external.iter().any(is_loopback));
    }
}

#[tokio::test]
async fn autonat_tells_whether_others_can_dial_us() {
    let (server, node) = (on("/ip4/127.0.0.1/tcp/0").await, on("/ip4/127.0.0.1/tcp/0").await);
    assert_eq!(node.client.status().await.unwrap().reachability.verdict, Verdict::Unknown);
    in_time(node.client.dial(server.full_addr())).await.unwrap();
    let client = &node.client;
    eventually(|| async move { client.status().await.unwrap().reachability.verdict != Verdict::Unknown })
        .await;
    let reachability = client.status().await.unwrap().reachability;
    assert_eq!(reachability.verdict, Verdict::Reachable);
    assert_eq!(reachability.addrs[0].addr, node.addr);
    assert_eq!(reachability.addrs[0].tested_by, server.peer);
}
