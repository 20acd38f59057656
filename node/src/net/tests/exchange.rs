//! Requests and answers.

use std::time::Duration;

use crate::net::{BlockAnswer, ExchangeResponse, NetEvent, RequestError};

use super::{Node, chunk, chunk_of, eventually, in_time};

/// A node that answers and one that is connected to it.
async fn pair() -> (Node, Node) {
    let (server, asker) = (Node::new().await, Node::new().await);
    asker.client.dial(server.full_addr()).await.unwrap();
    (server, asker)
}

#[tokio::test]
async fn each_kind_of_answer_arrives_and_its_end_is_told() {
    let (mut server, asker) = pair().await;
    let data = vec![5; 1024 * 1024];
    for (response, expected) in [
        (ExchangeResponse::Data(data.clone()), BlockAnswer::Data(data.clone())),
        (ExchangeResponse::Data(Vec::new()), BlockAnswer::Data(Vec::new())),
        (ExchangeResponse::Missing, BlockAnswer::Missing),
        (ExchangeResponse::Busy, BlockAnswer::Busy),
    ] {
        let client = asker.client.clone();
        let peer = server.peer;
        let answer = tokio::spawn(async move { client.request(peer, chunk(1)).await });
        let (ticket, from, cid) = server.next_request().await;
        assert_eq!((from, cid), (asker.peer, chunk(1)));
        assert_eq!(server.client.status().await.unwrap().requests_open, 1);
        assert_eq!(asker.client.status().await.unwrap().requests_in_flight, 1);
        let id = ticket.id();
        server.client.respond(ticket, response).await.unwrap();
        assert_eq!(in_time(answer).await.unwrap(), Ok(expected));
        assert_eq!(server.next_end().await, (id, true));
    }
    assert_eq!(server.client.status().await.unwrap().requests_open, 0);
    assert_eq!(asker.client.status().await.unwrap().requests_in_flight, 0);
    assert_eq!(asker.counter("net_requests_sent").await, 4);
    assert_eq!(server.counter("net_requests_received").await, 4);
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_never_sent() {
    let (mut server, asker) = pair().await;
    let client = asker.client.clone();
    let peer = server.peer;
    let answer = tokio::spawn(async move { client.request(peer, chunk(1)).await });
    let (ticket, ..) = server.next_request().await;
    let id = ticket.id();
    let too_long = ExchangeResponse::Data(vec![0; 1024 * 1024 + 1]);
    server.client.respond(ticket, too_long).await.unwrap();
    assert_eq!(server.next_end().await, (id, false));
    assert!(in_time(answer).await.unwrap().is_err());
}

#[tokio::test]
async fn a_request_to_a_stranger_fails_at_once_and_dials_nobody() {
    let (server, asker) = (Node::new().await, Node::new().await);
    let answer = in_time(asker.client.request(server.peer, chunk(1))).await;
    assert_eq!(answer, Err(RequestError::NotConnected));
    assert_eq!(in_time(asker.client.request(asker.peer, chunk(1))).await, Err(RequestError::NotConnected));
    let status = asker.client.status().await.unwrap();
    assert_eq!(status.counters["net_requests_refused_not_connected"], 2);
    assert_eq!((status.connections, status.requests_in_flight), (0, 0));
    assert_eq!(status.counters["net_dials_failed"], 0);
}

#[tokio::test]
async fn a_dropped_ticket_ends_the_request() {
    let (mut server, asker) = pair().await;
    let client = asker.client.clone();
    let peer = server.peer;
    let answer = tokio::spawn(async move { client.request(peer, chunk(1)).await });
    let (ticket, ..) = server.next_request().await;
    let id = ticket.id();
    drop(ticket);
    assert_eq!(server.next_end().await, (id, false));
    assert!(matches!(in_time(answer).await.unwrap(), Err(RequestError::Stream(_))));
}

#[tokio::test]
async fn a_dropped_caller_is_no_obstacle() {
    let (mut server, asker) = pair().await;
    {
        let request = asker.client.request(server.peer, chunk(1));
        tokio::pin!(request);
        let (ticket, ..) = tokio::select! {
            _ = &mut request => panic!("nobody has answered"),
            request = server.next_request() => request,
        };
        server.client.respond(ticket, ExchangeResponse::Missing).await.unwrap();
    }
    asker.counted("net_answers_without_caller", 1).await;
    let client = asker.client.clone();
    let peer = server.peer;
    let answer = tokio::spawn(async move { client.request(peer, chunk(2)).await });
    // The end of the first comes before or after the second request.
    let (ticket, ..) = server.next_request().await;
    server.client.respond(ticket, ExchangeResponse::Missing).await.unwrap();
    assert_eq!(in_time(answer).await.unwrap(), Ok(BlockAnswer::Missing));
}

#[tokio::test]
async fn a_request_ends_with_its_connection_on_both_sides() {
    let (mut server, asker) = pair().await;
    let request = {
        let (client, peer) = (asker.client.clone(), server.peer);
        tokio::spawn(async move { client.request(peer, chunk(1)).await })
    };
    let (ticket, ..) = server.next_request().await;
    asker.client.shutdown().await;
    assert!(matches!(in_time(request).await.unwrap(), Err(RequestError::Gone(_))));
    assert_eq!(server.next_end().await, (ticket.id(), false));
    // An answer to nobody is no obstacle.
    server.client.respond(ticket, ExchangeResponse::Missing).await.unwrap();
    assert_eq!(server.client.status().await.unwrap().requests_open, 0);

    let (mut server, asker) = pair().await;
    let request = {
        let (client, peer) = (asker.client.clone(), server.peer);
        tokio::spawn(async move { client.request(peer, chunk(1)).await })
    };
    let (_ticket, ..) = server.next_request().await;
    server.client.shutdown().await;
    let answer = in_time(request).await.unwrap();
    assert!(matches!(answer, Err(RequestError::Closed | RequestError::Stream(_))), "{answer:?}");
}

#[tokio::test]
async fn a_request_that_nobody_answers_times_out_on_both_sides() {
    let mut server = Node::with(|config| config.limits.request_timeout = Duration::from_millis(100)).await;
    let asker = Node::with(|config| config.limits.request_timeout = Duration::from_millis(100)).await;
    asker.client.dial(server.full_addr()).await.unwrap();
    let request = {
        let (client, peer) = (asker.client.clone(), server.peer);
        tokio::spawn(async move { client.request(peer, chunk(1)).await })
    };
    let (ticket, ..) = server.next_request().await;
    assert_eq!(server.next_end().await, (ticket.id(), false));
    let answer = in_time(request).await.unwrap();
    assert!(matches!(answer, Err(RequestError::Timeout | RequestError::Stream(_))), "{answer:?}");
}

#[tokio::test]
async fn many_requests_share_one_connection() {
    let (mut server, asker) = pair().await;
    let blocks: Vec<Vec<u8>> = (0..60u8).map(|n| vec![n; 30_000]).collect();
    server.serve(blocks.iter().map(|data| (chunk_of(data), data.clone())).collect());
    let mut requests = Vec::new();
    for data in blocks {
        let (client, peer) = (asker.client.clone(), server.peer);
        requests.push(tokio::spawn(async move {
            assert_eq!(client.request(peer, chunk_of(&data)).await, Ok(BlockAnswer::Data(data)));
        }));
    }
    for request in requests {
        in_time(request).await.unwrap();
    }
    assert_eq!(asker.client.status().await.unwrap().connections, 1);
}

#[tokio::test]
async fn comings_and_goings_are_told_once() {
    let (mut server, asker) = pair().await;
    asker.client.dial(server.full_addr()).await.unwrap();
    let peer = asker.peer;
    asker.client.shutdown().await;
    let mut told = Vec::new();
    while told.len() < 2 {
        match in_time(server.events.recv()).await.unwrap() {
            NetEvent::Connected(who) => told.push((who, true)),
            NetEvent::Disconnected(who) => told.push((who, false)),
            NetEvent::ListenAddrs(addrs) => assert_eq!(addrs, [server.addr.clone()]),
            _ => {}
        }
    }
    assert_eq!(told, [(peer, true), (peer, false)]);
    let client = &server.client;
    eventually(|| async move { client.status().await.unwrap().connected == 0 }).await;
}
