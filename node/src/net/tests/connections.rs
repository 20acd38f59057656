//! Listening, dialling, who is connected.

use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use crate::net::{DialFailure, Direction, ListenError};

use super::{Node, eventually, in_time};

fn addr(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_dial_needs_no_peer_id_and_tells_it() {
    let (hub, node) = (Node::new().await, Node::new().await);
    assert_eq!(in_time(node.client.dial(hub.addr.clone())).await, Ok(hub.peer));
    assert_eq!(node.client.routing_peers().await.unwrap(), [(hub.peer, vec![hub.addr.clone()])]);
    assert_eq!(in_time(node.client.dial(hub.full_addr())).await, Ok(hub.peer), "it is connected");
    assert_eq!(node.client.status().await.unwrap().connections, 1);
    let infos = node.client.peers().await.unwrap();
    assert_eq!(infos.len(), 1);
    assert_eq!(infos[0].peer, hub.peer);
    assert_eq!(infos[0].agent.as_deref(), Some("dhtfs-test/1"));
    assert_eq!(infos[0].direction, Direction::Outbound);
    assert!(infos[0].kad && infos[0].exchange && infos[0].in_routing_table);
    let client = &node.client;
    eventually(|| async move { client.peers().await.unwrap()[0].rtt.is_some() }).await;
    let hub_client = &hub.client;
    let seen = hub_client.peers().await.unwrap();
    assert_eq!((seen[0].peer, seen[0].direction), (node.peer, Direction::Inbound));
}

#[tokio::test]
async fn a_dial_that_fails_says_why() {
    let node = Node::new().await;
    let other = Node::new().await;
    let stranger = PeerId::random();
    let nobody = addr("/memory/123456789");
    let dial = |addr| in_time(node.client.dial(addr));
    assert!(matches!(dial(nobody.clone()).await, Err(DialFailure::Unreachable(_))));
    let named = nobody.clone().with_p2p(stranger).unwrap();
    assert!(matches!(dial(named).await, Err(DialFailure::Unreachable(_))));
    assert_eq!(dial(node.full_addr()).await, Err(DialFailure::ThisNode));
    let wrong = other.addr.clone().with_p2p(stranger).unwrap();
    assert_eq!(dial(wrong).await, Err(DialFailure::WrongPeer { obtained: other.peer }));
    assert!(matches!(dial(addr("/ip4/127.0.0.1/tcp/1")).await, Err(DialFailure::Unreachable(_))));

    let connect = |peer, addrs| in_time(node.client.connect(peer, addrs));
    assert_eq!(connect(stranger, vec![]).await, Err(DialFailure::NoAddress));
    assert_eq!(connect(node.peer, vec![]).await, Err(DialFailure::ThisNode));
    assert!(matches!(connect(stranger, vec![nobody]).await, Err(DialFailure::Unreachable(_))));
    let others = other.full_addr();
    assert_eq!(connect(stranger, vec![others]).await, Err(DialFailure::NoAddress), "names another peer");
    assert_eq!(node.client.status().await.unwrap().connections, 0);
    assert!(node.counter("net_dials_failed").await >= 5);
}

#[tokio::test]
async fn the_own_address_is_not_dialled() {
    let node = Node::new().await;
    let result = in_time(node.client.dial(node.addr.clone())).await;
    assert!(matches!(result, Err(DialFailure::NoAddress | DialFailure::ThisNode)), "{result:?}");
}

#[tokio::test]
async fn many_callers_share_one_dial() {
    let (hub, node) = (Node::new().await, Node::new().await);
    let mut callers = Vec::new();
    for n in 0..20 {
        let (client, peer, full) = (node.client.clone(), hub.peer, hub.full_addr());
        callers.push(tokio::spawn(async move {
            if n % 2 == 0 {
                client.connect(peer, vec![full]).await.unwrap();
            } else {
                assert_eq!(client.dial(full).await, Ok(peer));
            }
        }));
    }
    for caller in callers {
        in_time(caller).await.unwrap();
    }
    assert_eq!(node.client.status().await.unwrap().connections, 1);
    assert_eq!(node.client.connect(hub.peer, Vec::new()).await, Ok(()));
}

#[tokio::test]
async fn two_nodes_that_dial_each_other_are_both_connected() {
    let (a, b) = (Node::new().await, Node::new().await);
    let (from_a, from_b) =
        tokio::join!(in_time(a.client.dial(b.full_addr())), in_time(b.client.dial(a.full_addr())));
    assert_eq!((from_a, from_b), (Ok(b.peer), Ok(a.peer)));
    for node in [&a, &b] {
        let status = node.client.status().await.unwrap();
        assert_eq!(status.connected, 1);
        assert!((1..=2).contains(&status.connections), "{}", status.connections);
    }
}

#[tokio::test]
async fn another_network_is_kept_out() {
    let ours = Node::new().await;
    let theirs = Node::with(|config| config.network = "other".into()).await;
    let result = in_time(ours.client.dial(theirs.full_addr())).await;
    assert_eq!(result, Err(DialFailure::OtherNetwork { agent: "dhtfs-test/1".into() }));
    assert_eq!(in_time(ours.client.dial(theirs.full_addr())).await, result, "also when connected");
    assert!(ours.client.routing_peers().await.unwrap().is_empty());
    theirs.counted("net_routing_refused_foreign", 1).await;
    assert!(theirs.client.routing_peers().await.unwrap().is_empty());
    let request = in_time(ours.client.request(theirs.peer, super::chunk(1))).await;
    assert_eq!(request, Err(crate::net::RequestError::Unsupported));
}

#[tokio::test]
async fn listening_tells_the_addresses_or_the_reason() {
    let node = Node::new().await;
    let second = in_time(node.client.listen(addr("/memory/0"))).await.unwrap();
    let status = node.client.status().await.unwrap();
    let mut expected = vec![node.addr.clone(), second[0].clone()];
    expected.sort();
    assert_eq!(status.listen, expected);
    assert_eq!(status.external, expected, "all of them are announced");
    let taken = in_time(node.client.listen(node.addr.clone())).await;
    assert!(matches!(taken, Err(ListenError::Refused { .. })), "{taken:?}");
    let unknown = in_time(node.client.listen(addr("/ip4/127.0.0.1/sctp/0"))).await;
    assert!(matches!(unknown, Err(ListenError::Refused { .. })), "{unknown:?}");
    assert_eq!(unknown.unwrap_err().to_string().lines().count(), 1);
}

#[tokio::test]
async fn a_peer_that_never_answers_is_given_up_in_time() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut config = crate::net::NetConfig::new("test", "dhtfs-test/1");
    config.limits.connect_timeout = Duration::from_millis(200);
    let keypair = super::new_keypair();
    let transport = crate::net::transport::production(&keypair).unwrap();
    let node = Node::start(config, keypair, transport);
    let dead_end = addr("/ip4/127.0.0.1").with(Protocol::Tcp(port));
    let peer = PeerId::random();
    let named = dead_end.clone().with_p2p(peer).unwrap();
    let (unnamed, dialled, connected) = tokio::join!(
        in_time(node.client.dial(dead_end.clone())),
        in_time(node.client.dial(named)),
        in_time(node.client.connect(peer, vec![dead_end])),
    );
    assert_eq!(unnamed, Err(DialFailure::Timeout));
    assert_eq!(dialled, Err(DialFailure::Timeout));
    assert_eq!(connected, Err(DialFailure::Timeout));
}
