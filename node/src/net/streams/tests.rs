#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::{pin::Pin, time::Duration};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _, future::join_all};
use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol, Swarm, Transport as _,
    core::{
        ConnectedPoint, Endpoint,
        transport::{MemoryTransport, PortUse},
        upgrade::Version,
    },
    identity::Keypair,
    noise,
    swarm::{
        self, ConnectionId, DialError, FromSwarm, NetworkBehaviour as _, SwarmEvent,
        behaviour::{ConnectionEstablished, DialFailure},
    },
};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{
    Control, IncomingStreams, MAX_OPENING, MAX_QUESTIONS, MAX_REQUESTED, MAX_WAITING, OpenError, Streams,
    is_refusal,
};
use crate::net::transport::muxer;

const PROTOCOL: StreamProtocol = StreamProtocol::new("/test/1");
const OTHER: StreamProtocol = StreamProtocol::new("/test/2");

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(20);

fn new_swarm() -> Swarm<Streams> {
    new_swarm_on(|task| drop(tokio::spawn(task)))
}

/// A swarm whose connections stand still while the switch is off.
fn new_swarm_with_switch(switch: watch::Receiver<bool>) -> Swarm<Streams> {
    new_swarm_on(move |mut task| {
        let mut switch = switch.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    Ok(_) = switch.wait_for(|on| !*on) => {}
                    () = &mut task => return,
                }
                let _ = switch.wait_for(|on| *on).await;
            }
        });
    })
}

fn new_swarm_on(spawn: impl Fn(Pin<Box<dyn Future<Output = ()> + Send>>) + Send + 'static) -> Swarm<Streams> {
    let keypair = Keypair::generate_ed25519();
    let transport = MemoryTransport::default()
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(&keypair).unwrap())
        .multiplex(muxer())
        .boxed();
    let config = swarm::Config::with_executor(spawn)
        .with_idle_connection_timeout(PATIENCE)
        .with_substream_upgrade_protocol_override(Version::V1Lazy);
    Swarm::new(transport, Streams::new(), keypair.public().to_peer_id(), config)
}

fn run(mut swarm: Swarm<Streams>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    })
}

/// A listener that has accepted `PROTOCOL`, and a peer that is connected to it `connections` times.
async fn pair(connections: usize) -> (Swarm<Streams>, IncomingStreams, Swarm<Streams>, Control) {
    pair_with(new_swarm(), connections).await
}

async fn pair_with(
    mut server: Swarm<Streams>,
    connections: usize,
) -> (Swarm<Streams>, IncomingStreams, Swarm<Streams>, Control) {
    let mut asker = new_swarm();
    let incoming = server.behaviour().control().accept(PROTOCOL).unwrap();
    server.listen_on("/memory/0".parse().unwrap()).unwrap();
    let addr = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = server.select_next_some().await {
            break address;
        }
    };
    for _ in 0..connections {
        asker.dial(addr.clone()).unwrap();
    }
    let mut left = 2 * connections;
    while left > 0 {
        let event = tokio::select! {
            event = server.select_next_some() => event,
            event = asker.select_next_some() => event,
        };
        left -= usize::from(matches!(event, SwarmEvent::ConnectionEstablished { .. }));
    }
    let control = asker.behaviour().control();
    (server, incoming, asker, control)
}

/// Opens a stream and says a word on it.
async fn greet(control: &Control, peer: PeerId) -> Result<Stream, OpenError> {
    let mut stream = control.open_stream(peer, PROTOCOL).await?;
    stream.write_all(b"word").await?;
    stream.flush().await?;
    Ok(stream)
}

#[tokio::test]
async fn of_streams_that_arrive_in_one_moment_none_is_lost() {
    let (server, mut incoming, asker, control) = pair(3).await;
    let peer = *server.local_peer_id();
    let running = (run(server), run(asker));
    // More than are opened at a time and wait for it.
    let count = MAX_OPENING + MAX_REQUESTED + 20;
    let opened = timeout(PATIENCE, join_all((0..count).map(|_| greet(&control, peer)))).await.unwrap();
    let opened: Vec<Stream> = opened.into_iter().map(Result::unwrap).collect();
    for _ in 0..count {
        let (_, mut stream) = timeout(PATIENCE, incoming.next()).await.unwrap().unwrap();
        let mut word = [0; 4];
        timeout(PATIENCE, stream.read_exact(&mut word)).await.unwrap().unwrap();
        assert_eq!(&word, b"word");
    }
    drop((opened, running));
}

#[tokio::test]
async fn streams_that_nobody_takes_are_bounded_and_counted() {
    let (mut server, mut incoming, asker, control) = pair(1).await;
    let peer = *server.local_peer_id();
    let _asker = run(asker);
    let count = MAX_WAITING + 10;
    let opening = async {
        let mut opened = Vec::new();
        for _ in 0..count {
            // One that is refused may break while it is opened, or any time later.
            if let Ok(stream) = greet(&control, peer).await {
                opened.push(stream);
            }
        }
        opened
    };
    tokio::pin!(opening);
    let _opened = loop {
        tokio::select! {
            opened = &mut opening => break opened,
            _ = server.select_next_some() => {}
        }
    };
    assert_eq!(server.behaviour().take_refused(), 10);
    assert_eq!(server.behaviour().take_refused(), 0);
    let mut waiting = 0;
    while let Ok(Some(_)) = timeout(Duration::ZERO, incoming.next()).await {
        waiting += 1;
    }
    assert_eq!(waiting, MAX_WAITING);
}

#[tokio::test]
async fn a_protocol_is_offered_while_somebody_accepts_it() {
    let (server, incoming, asker, control) = pair(1).await;
    let (peer, serving) = (*server.local_peer_id(), server.behaviour().control());
    let _running = (run(server), run(asker));
    assert!(serving.accept(PROTOCOL).is_none(), "it is accepted already");
    let refused = timeout(PATIENCE, control.open_stream(peer, OTHER)).await.unwrap();
    assert!(matches!(refused, Err(OpenError::Unsupported)), "{refused:?}");
    let mut others = serving.accept(OTHER).unwrap();
    let opened = timeout(PATIENCE, control.open_stream(peer, OTHER)).await.unwrap();
    opened.unwrap().write_all(b"word").await.unwrap();
    assert!(timeout(PATIENCE, others.next()).await.unwrap().is_some());
    drop(incoming);
    assert!(serving.accept(PROTOCOL).is_some());
}

#[tokio::test]
async fn who_opens_a_stream_early_need_not_wait_for_the_peer() {
    let (switch, off) = watch::channel(true);
    let (server, mut incoming, asker, control) = pair_with(new_swarm_with_switch(off), 1).await;
    let peer = *server.local_peer_id();
    let _running = (run(server), run(asker));
    switch.send_replace(false);
    let mut early = timeout(PATIENCE, control.open_early(peer, PROTOCOL)).await.unwrap().unwrap();
    early.write_all(b"word").await.unwrap();
    early.flush().await.unwrap();
    let mut agreed = tokio::spawn({
        let control = control.clone();
        async move { control.open_stream(peer, PROTOCOL).await.map(drop) }
    });
    assert!(timeout(Duration::from_millis(50), &mut agreed).await.is_err());
    switch.send_replace(true);
    let mut word = [0; 4];
    let heard = async {
        let (_, mut stream) = incoming.next().await.unwrap();
        stream.read_exact(&mut word).await.unwrap();
        agreed.await.unwrap().unwrap();
    };
    timeout(PATIENCE, heard).await.unwrap();
    assert_eq!(&word, b"word");
}

#[tokio::test]
async fn a_peer_is_asked_no_more_at_once_than_it_serves() {
    let (server, mut incoming, asker, control) = pair(1).await;
    let peer = *server.local_peer_id();
    let _running = (run(server), run(asker));
    let mut open = Vec::new();
    for _ in 0..MAX_QUESTIONS {
        let (mut stream, place) =
            timeout(PATIENCE, control.open_question(peer, PROTOCOL)).await.unwrap().unwrap();
        stream.write_all(b"word").await.unwrap();
        stream.flush().await.unwrap();
        assert!(timeout(PATIENCE, incoming.next()).await.unwrap().is_some());
        open.push((stream, place));
    }
    let mut next = Box::pin(control.open_question(peer, PROTOCOL));
    assert!(timeout(Duration::from_millis(50), &mut next).await.is_err());
    open.pop();
    let _next = timeout(PATIENCE, next).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_refusal_of_a_stream_that_was_opened_early_is_read() {
    let (server, _incoming, asker, control) = pair(1).await;
    let peer = *server.local_peer_id();
    let _running = (run(server), run(asker));
    for words in [1, 1_000, 100_000] {
        let mut stream = timeout(PATIENCE, control.open_early(peer, OTHER)).await.unwrap().unwrap();
        // So much that the peer may have refused before the last is written.
        let _ = stream.write_all(&b"word".repeat(words)).await;
        let error = timeout(PATIENCE, stream.read(&mut [0])).await.unwrap().unwrap_err();
        assert!(is_refusal(&error), "{error:?}");
    }
    assert!(!is_refusal(&std::io::ErrorKind::UnexpectedEof.into()));
}

#[tokio::test]
async fn a_connection_that_ends_is_forgotten_and_another_one_taken() {
    let (server, mut incoming, mut asker, control) = pair(2).await;
    let peer = *server.local_peer_id();
    let _server = run(server);
    let (newest, _) = control.shared.link(&peer, &[]).unwrap();
    assert_eq!(asker.behaviour().kept(), 2);
    assert!(asker.close_connection(newest));
    // Asked before the behaviour has heard of the end.
    let asked = tokio::spawn({
        let control = control.clone();
        async move { greet(&control, peer).await.map(drop) }
    });
    let ended = async {
        while !matches!(asker.select_next_some().await, SwarmEvent::ConnectionClosed { .. }) {}
        asker
    };
    let mut asker = timeout(PATIENCE, ended).await.unwrap();
    assert_eq!(asker.behaviour().kept(), 1);
    tokio::select! {
        _ = async { loop { asker.select_next_some().await; } } => unreachable!(),
        asked = timeout(PATIENCE, asked) => asked.unwrap().unwrap().unwrap(),
    }
    assert!(incoming.next().await.is_some());
    asker.disconnect_peer_id(peer).unwrap();
    while asker.behaviour().kept() > 0 {
        timeout(PATIENCE, asker.select_next_some()).await.unwrap();
    }
    assert!(matches!(control.open_stream(peer, PROTOCOL).await, Err(OpenError::NotConnected)));
}

#[test]
fn a_direct_connection_is_taken_before_a_relayed_one_and_a_newer_one_first() {
    let mut streams = Streams::new();
    let peer = PeerId::random();
    let direct: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
    let relayed: Multiaddr =
        format!("/ip4/192.0.2.2/tcp/1/p2p/{}/p2p-circuit", PeerId::random()).parse().unwrap();
    let mut handlers = Vec::new();
    for (number, addr) in [(1, &relayed), (2, &direct), (3, &direct)] {
        let id = ConnectionId::new_unchecked(number);
        let (role_override, port_use) = (Endpoint::Dialer, PortUse::Reuse);
        let handler = streams.handle_established_outbound_connection(id, peer, addr, role_override, port_use);
        handlers.push(handler.unwrap());
        let endpoint = ConnectedPoint::Dialer { address: addr.clone(), role_override, port_use };
        streams.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            peer_id: peer,
            connection_id: id,
            endpoint: &endpoint,
            failed_addresses: &[],
            other_established: number - 1,
        }));
    }
    let shared = streams.control().shared;
    let mut tried = Vec::new();
    while let Some((id, _)) = shared.link(&peer, &tried) {
        tried.push(id);
    }
    assert_eq!(tried, [3, 2, 1].map(ConnectionId::new_unchecked));
}

#[test]
fn a_connection_that_is_refused_leaves_nothing() {
    let mut streams = Streams::new();
    let (id, peer) = (ConnectionId::new_unchecked(1), PeerId::random());
    let addr: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
    let _handler =
        streams.handle_established_outbound_connection(id, peer, &addr, Endpoint::Dialer, PortUse::Reuse);
    assert_eq!(streams.kept(), 1);
    streams.on_swarm_event(FromSwarm::DialFailure(DialFailure {
        peer_id: Some(peer),
        error: &DialError::Aborted,
        connection_id: id,
    }));
    assert_eq!(streams.kept(), 0);
}
