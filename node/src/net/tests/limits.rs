//! Each bound at its edge, with its counter.

use std::time::Duration;

use crate::net::{BlockAnswer, DialFailure, LookupOutcome, ProvideError, RequestError};

use super::{Node, chunk, collect, eventually, in_time};

#[tokio::test]
async fn a_full_event_queue_answers_busy() {
    let server = Node::with(|config| config.limits.event_queue = 1).await;
    let asker = Node::new().await;
    asker.client.dial(server.full_addr()).await.unwrap();
    // Nobody reads the events of the server.
    assert_eq!(in_time(asker.client.request(server.peer, chunk(1))).await, Ok(BlockAnswer::Busy));
    let status = server.client.status().await.unwrap();
    assert_eq!(status.counters["net_requests_busy_queue_full"], 1);
    assert!(status.counters["net_events_delayed"] >= 1);
    assert_eq!(status.requests_open, 0);
}

#[tokio::test]
async fn a_reader_that_has_gone_is_busy_for_ever() {
    let mut server = Node::new().await;
    server.events.close();
    while server.events.recv().await.is_some() {}
    let asker = Node::new().await;
    asker.client.dial(server.full_addr()).await.unwrap();
    for _ in 0..3 {
        assert_eq!(in_time(asker.client.request(server.peer, chunk(1))).await, Ok(BlockAnswer::Busy));
    }
}

#[tokio::test]
async fn only_so_many_requests_of_strangers_are_open() {
    let mut server = Node::with(|config| config.limits.max_open_requests = 2).await;
    let asker = Node::new().await;
    asker.client.dial(server.full_addr()).await.unwrap();
    let peer = server.peer;
    let ask = |n| {
        let client = asker.client.clone();
        tokio::spawn(async move { client.request(peer, chunk(n)).await })
    };
    let _open = [ask(1), ask(2)];
    let (first, ..) = server.next_request().await;
    let (_second, ..) = server.next_request().await;
    assert_eq!(in_time(ask(3)).await.unwrap(), Ok(BlockAnswer::Busy));
    assert_eq!(server.counter("net_requests_busy_limit").await, 1);
    drop(first);
    server.next_end().await;
    let again = ask(4);
    let (ticket, ..) = server.next_request().await;
    server.client.respond(ticket, crate::net::ExchangeResponse::Missing).await.unwrap();
    assert_eq!(in_time(again).await.unwrap(), Ok(BlockAnswer::Missing));
}

#[tokio::test]
async fn only_so_many_streams_share_a_connection() {
    let server = Node::new().await;
    let asker = Node::new().await;
    asker.client.dial(server.full_addr()).await.unwrap();
    let (results_tx, mut results) = tokio::sync::mpsc::channel(200);
    let streams = u16::try_from(crate::net::limits::MAX_EXCHANGE_STREAMS).unwrap();
    for n in 0..streams + 8 {
        let (client, peer, results) = (asker.client.clone(), server.peer, results_tx.clone());
        tokio::spawn(async move { results.send(client.request(peer, chunk(n)).await).await });
    }
    // The event queue holds all requests, and nobody answers them.
    for _ in 0..8 {
        let refused = in_time(results.recv()).await.unwrap();
        assert!(matches!(refused, Err(RequestError::Stream(_))), "{refused:?}");
    }
    let client = &asker.client;
    assert_eq!(client.status().await.unwrap().requests_in_flight, usize::from(streams));
    let usage = client.usage().await.unwrap();
    assert_eq!((usage.requests, usage.connections, usage.incoming_connections), (usize::from(streams), 1, 0));
    let served = server.client.usage().await.unwrap();
    assert_eq!((served.connections_per_peer, served.incoming_connections), (1, 1));
}

#[tokio::test]
async fn only_so_many_own_requests_are_in_flight() {
    let mut server = Node::new().await;
    let asker = Node::with(|config| config.limits.max_requests = 1).await;
    asker.client.dial(server.full_addr()).await.unwrap();
    let first = {
        let (client, peer) = (asker.client.clone(), server.peer);
        tokio::spawn(async move { client.request(peer, chunk(1)).await })
    };
    let (ticket, ..) = server.next_request().await;
    assert_eq!(in_time(asker.client.request(server.peer, chunk(2))).await, Err(RequestError::TooMany));
    assert_eq!(asker.counter("net_requests_refused_limit").await, 1);
    server.client.respond(ticket, crate::net::ExchangeResponse::Missing).await.unwrap();
    assert_eq!(in_time(first).await.unwrap(), Ok(BlockAnswer::Missing));
}

/// A node whose routing table holds only peers that do not answer any more, so that a lookup stays open.
async fn with_stuck_lookups(
    change: impl FnOnce(&mut crate::net::NetLimits),
) -> (Node, tokio::net::TcpListener) {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut config = crate::net::NetConfig::new("test", "dhtfs-test/1");
    change(&mut config.limits);
    let keypair = super::new_keypair();
    let transport = crate::net::transport::production(&keypair).unwrap();
    let executor = std::sync::Arc::new(|task| drop(tokio::spawn(task)));
    let peer = keypair.public().to_peer_id();
    let env = crate::net::NetEnv { keypair, transport, executor, seed: 1 };
    let (client, mut event_loop, events) = crate::net::new(config, env).unwrap();
    let addr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
    event_loop.swarm.behaviour_mut().kad.add_address(&libp2p::PeerId::random(), addr);
    let task = tokio::spawn(event_loop.run());
    (Node { client, events, task, peer, addr: libp2p::Multiaddr::empty() }, silent)
}

#[tokio::test]
async fn lookups_queue_up_and_a_dropped_one_makes_room() {
    let (node, _silent) = with_stuck_lookups(|limits| {
        limits.max_lookups = 2;
        limits.max_queued_lookups = 2;
    })
    .await;
    let mut lookups = Vec::new();
    for n in 0..4 {
        lookups.push(node.client.find_providers(chunk(n)).await);
    }
    let status = node.client.status().await.unwrap();
    assert_eq!((status.lookups, status.lookups_queued), (2, 2));
    let (providers, stats) = collect(node.client.find_providers(chunk(5)).await).await;
    assert!(providers.is_empty());
    assert_eq!(stats.outcome, LookupOutcome::Refused);
    assert_eq!(node.counter("net_lookups_refused").await, 1);

    drop(lookups.remove(0));
    let client = &node.client;
    eventually(|| async move { client.status().await.unwrap().lookups_queued == 1 }).await;
    assert_eq!(node.client.status().await.unwrap().lookups, 2);
    drop(lookups.pop());
    eventually(|| async move { client.status().await.unwrap().lookups_queued == 0 }).await;
    drop(lookups);
    eventually(|| async move { client.status().await.unwrap().lookups == 0 }).await;
    assert_eq!(node.counter("net_lookups_started").await, 3);
}

#[tokio::test]
async fn only_so_many_announcements_run() {
    let (node, _silent) = with_stuck_lookups(|limits| limits.max_provides = 1).await;
    let first = {
        let client = node.client.clone();
        tokio::spawn(async move { client.provide(chunk(1)).await })
    };
    node.counted("net_provides_started", 1).await;
    assert_eq!(in_time(node.client.provide(chunk(2))).await, Err(ProvideError::TooMany));
    assert_eq!(node.counter("net_provides_refused").await, 1);
    node.client.shutdown().await;
    assert!(matches!(in_time(first).await.unwrap(), Err(ProvideError::Gone(_))));
}

#[tokio::test]
async fn only_so_many_keys_are_announced() {
    let node = Node::with(|config| config.limits.max_own_records = 2).await;
    assert_eq!(in_time(node.client.provide(chunk(1))).await, Ok(0));
    assert_eq!(in_time(node.client.provide(chunk(2))).await, Ok(0));
    assert_eq!(in_time(node.client.provide(chunk(2))).await, Ok(0), "again is nothing new");
    assert_eq!(in_time(node.client.provide(chunk(3))).await, Err(ProvideError::Full));
    node.client.stop_providing(vec![chunk(1)]).await.unwrap();
    assert_eq!(in_time(node.client.provide(chunk(3))).await, Ok(0));
}

#[tokio::test]
async fn a_lookup_reports_only_so_many_providers() {
    let hub = Node::new().await;
    let asker = Node::with(|config| config.limits.max_lookup_providers = 2).await;
    asker.join(&hub).await;
    let mut providers = Vec::new();
    for _ in 0..4 {
        let provider = Node::new().await;
        provider.join(&hub).await;
        in_time(provider.client.provide(chunk(1))).await.unwrap();
        providers.push(provider);
    }
    hub.counted("net_records_accepted", 4).await;
    let (found, stats) = collect(asker.client.find_providers(chunk(1)).await).await;
    assert_eq!((found.len(), stats.outcome), (2, LookupOutcome::Complete));
    assert_eq!(asker.counter("net_lookups_full").await, 1);
}

#[tokio::test]
async fn records_of_others_are_bounded_in_all_and_for_each_provider() {
    let hub = Node::with(|config| {
        config.limits.max_foreign_records = 3;
        config.limits.max_records_per_provider = 2;
    })
    .await;
    let (first, second) = (Node::new().await, Node::new().await);
    for (n, node) in [(0, &first), (10, &second)] {
        assert_eq!(in_time(node.client.dial(hub.full_addr())).await, Ok(hub.peer));
        for key in 0..3 {
            in_time(node.client.provide(chunk(n + key))).await.unwrap();
        }
    }
    hub.counted("net_records_accepted", 3).await;
    hub.counted("net_records_refused_quota", 1).await;
    hub.counted("net_records_refused_full", 2).await;
    assert_eq!(hub.client.status().await.unwrap().provider_records_held, 3);
}

#[tokio::test]
async fn a_peer_leaves_records_only_so_fast() {
    let hub = Node::with(|config| {
        config.limits.record_burst = 2;
        config.limits.record_rate = 0;
    })
    .await;
    let (first, second) = (Node::new().await, Node::new().await);
    for (n, node) in [(0, &first), (10, &second)] {
        assert_eq!(in_time(node.client.dial(hub.full_addr())).await, Ok(hub.peer));
        for key in 0..3 {
            in_time(node.client.provide(chunk(n + key))).await.unwrap();
        }
    }
    hub.counted("net_records_dropped_rate", 2).await;
    assert_eq!(hub.counter("net_records_accepted").await, 4, "each peer has its own measure");
}

#[tokio::test]
async fn connections_are_bounded_in_all() {
    let hub = Node::with(|config| config.limits.max_connections = 2).await;
    let nodes = [Node::new().await, Node::new().await, Node::new().await];
    for node in &nodes[..2] {
        assert_eq!(in_time(node.client.dial(hub.full_addr())).await, Ok(hub.peer));
    }
    assert!(in_time(nodes[2].client.dial(hub.full_addr())).await.is_err());
    hub.counted("net_connections_refused", 1).await;
    let refused = in_time(hub.client.connect(nodes[2].peer, vec![nodes[2].addr.clone()])).await;
    assert!(matches!(refused, Err(DialFailure::Limit(_))), "{refused:?}");
    assert!(hub.counter("net_dials_refused").await >= 1);
    assert_eq!(hub.client.status().await.unwrap().connected, 2);
}

#[tokio::test]
async fn strangers_cannot_use_up_the_connections() {
    let hub = Node::with(|config| {
        config.limits.max_connections = 3;
        config.limits.max_incoming_connections = 1;
    })
    .await;
    let nodes = [Node::new().await, Node::new().await, Node::new().await];
    assert_eq!(in_time(nodes[0].client.dial(hub.full_addr())).await, Ok(hub.peer));
    assert!(in_time(nodes[1].client.dial(hub.full_addr())).await.is_err());
    hub.counted("net_connections_refused", 1).await;
    assert_eq!(in_time(hub.client.dial(nodes[2].full_addr())).await, Ok(nodes[2].peer));
}

#[tokio::test]
async fn incoming_connections_that_say_nothing_are_bounded() {
    let mut config = crate::net::NetConfig::new("test", "dhtfs-test/1");
    config.limits.max_pending_incoming = 2;
    let keypair = super::new_keypair();
    let transport = crate::net::transport::production(&keypair).unwrap();
    let node = Node::start(config, keypair, transport);
    let addr = in_time(node.client.listen("/ip4/127.0.0.1/tcp/0".parse().unwrap())).await.unwrap().remove(0);
    let Some(libp2p::multiaddr::Protocol::Tcp(port)) = addr.iter().nth(1) else { panic!("{addr}") };
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.push(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    }
    node.counted("net_connections_refused", 3).await;
    assert_eq!(node.client.status().await.unwrap().connections, 0);
}

#[tokio::test]
async fn pending_dials_and_their_callers_are_bounded() {
    let (node, silent) = with_stuck_lookups(|limits| {
        limits.max_pending_outgoing = 1;
        limits.max_dial_waiters = 2;
        limits.connect_timeout = Duration::from_secs(60);
    })
    .await;
    let addr: libp2p::Multiaddr =
        format!("/ip4/127.0.0.1/tcp/{}", silent.local_addr().unwrap().port()).parse().unwrap();
    let peer = libp2p::PeerId::random();
    let connect = |peer, addr: &libp2p::Multiaddr| {
        let (client, addrs) = (node.client.clone(), vec![addr.clone()]);
        tokio::spawn(async move { client.connect(peer, addrs).await })
    };
    let first = connect(peer, &addr);
    let (_socket, _) = in_time(silent.accept()).await.unwrap();
    let other = in_time(connect(libp2p::PeerId::random(), &addr)).await.unwrap();
    assert!(matches!(other, Err(DialFailure::Limit(_))), "{other:?}");
    let unnamed = in_time(node.client.dial(addr.clone())).await;
    assert!(matches!(unnamed, Err(DialFailure::Limit(_))), "{unnamed:?}");
    assert_eq!(node.counter("net_dials_refused").await, 2);

    let second = connect(peer, &addr);
    let third = connect(peer, &addr);
    node.counted("net_dial_waiters_refused", 1).await;
    node.client.shutdown().await;
    let mut limited = 0;
    for caller in [first, second, third] {
        match in_time(caller).await.unwrap() {
            Err(DialFailure::Limit(_)) => limited += 1,
            Err(DialFailure::Gone(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(limited, 1);
}
