//! A node that carries connections of others: stock peers that ask for more than there is.

use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::MemoryTransport;
use libp2p::core::upgrade::Version;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{NetworkBehaviour, Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, Transport as _, identify, noise, relay, swarm};
use tokio::sync::mpsc;

use crate::net::RelayLimits;
use crate::net::transport::muxer;

use super::{Node, eventually, in_time, new_keypair};

const PUMP: StreamProtocol = StreamProtocol::new("/pump");

const CIRCUIT_LEN: u64 = 256 * 1024;

#[derive(NetworkBehaviour)]
struct Stock {
    relay: relay::client::Behaviour,
    identify: identify::Behaviour,
    stream: libp2p_stream::Behaviour,
}

fn stock() -> Swarm<Stock> {
    let keypair = new_keypair();
    let peer = keypair.public().to_peer_id();
    let (relayed, relay) = relay::client::new(peer);
    let transport = relayed
        .or_transport(MemoryTransport::default())
        .upgrade(Version::V1)
        .authenticate(noise::Config::new(&keypair).unwrap())
        .multiplex(muxer())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed();
    let identify = identify::Behaviour::new(identify::Config::new("/stock".into(), keypair.public()));
    let behaviour = Stock { relay, identify, stream: libp2p_stream::Behaviour::new() };
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(60));
    Swarm::new(transport, behaviour, peer, config)
}

fn limits() -> RelayLimits {
    RelayLimits {
        always: true,
        max_reservations: 2,
        max_circuits: 2,
        max_circuits_per_peer: 1,
        circuit_len: CIRCUIT_LEN,
        ..RelayLimits::small()
    }
}

async fn carrier(limits: RelayLimits) -> Node {
    Node::with(|config| config.relay = Some(limits)).await
}

/// The address of `peer` behind the relay.
fn through(relay: &Node, peer: PeerId) -> Multiaddr {
    relay.full_addr().with(Protocol::P2pCircuit).with(Protocol::P2p(peer))
}

/// Asks for a place; whether it is given.
async fn reserves(swarm: &mut Swarm<Stock>, relay: &Node) -> bool {
    swarm.listen_on(relay.full_addr().with(Protocol::P2pCircuit)).unwrap();
    loop {
        match in_time(swarm.select_next_some()).await {
            SwarmEvent::NewListenAddr { .. } => return true,
            SwarmEvent::ListenerClosed { .. } => return false,
            _ => {}
        }
    }
}

/// Dials through the relay; whether a connection stands.
async fn dials(swarm: &mut Swarm<Stock>, to: Multiaddr) -> bool {
    swarm.dial(to).unwrap();
    loop {
        match in_time(swarm.select_next_some()).await {
            SwarmEvent::ConnectionEstablished { endpoint, .. } if endpoint.is_relayed() => return true,
            SwarmEvent::OutgoingConnectionError { .. } => return false,
            _ => {}
        }
    }
}

/// A stock peer with a place at the relay, that reads whatever comes and tells how much of each stream that has ended.
async fn reader(relay: &Node) -> (PeerId, mpsc::UnboundedReceiver<u64>) {
    let mut swarm = stock();
    assert!(reserves(&mut swarm, relay).await);
    let mut streams = swarm.behaviour().stream.new_control().accept(PUMP).unwrap();
    let (ended, ends) = mpsc::unbounded_channel();
    let peer = *swarm.local_peer_id();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = swarm.select_next_some() => {}
                Some((_, mut stream)) = streams.next() => {
                    let ended = ended.clone();
                    tokio::spawn(async move {
                        let (mut total, mut buffer) = (0, vec![0; 16 * 1024]);
                        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                            total += read as u64;
                        }
                        let _ = ended.send(total);
                    });
                }
            }
        }
    });
    (peer, ends)
}

/// Writes to `peer` through the relay until the connection ends.
async fn pumps(swarm: &mut Swarm<Stock>, peer: PeerId) {
    let mut control = swarm.behaviour().stream.new_control();
    let pump = async move {
        let mut stream = control.open_stream(peer, PUMP).await.unwrap();
        while stream.write_all(&[7; 16 * 1024]).await.is_ok() {}
    };
    tokio::pin!(pump);
    in_time(async {
        loop {
            tokio::select! {
                () = &mut pump => return,
                _ = swarm.select_next_some() => {}
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_circuit_carries_no_more_than_its_length_however_often_it_is_tried() {
    let relay = carrier(limits()).await;
    let (peer, mut ends) = reader(&relay).await;
    for _ in 0..3 {
        let mut swarm = stock();
        assert!(dials(&mut swarm, through(&relay, peer)).await);
        pumps(&mut swarm, peer).await;
        let read = in_time(ends.recv()).await.unwrap();
        assert!(read > CIRCUIT_LEN / 2, "{read} bytes came through");
        assert!(read <= CIRCUIT_LEN, "{read} bytes came through");
    }
    assert_eq!(relay.counter("net_relay_circuits").await, 3);
}

#[tokio::test]
async fn no_more_is_carried_at_once_than_there_are_places() {
    let relay = carrier(limits()).await;
    let (peer, _ends) = reader(&relay).await;
    let (other, _other_ends) = reader(&relay).await;
    assert!(!reserves(&mut stock(), &relay).await, "a third place");
    let mut first = stock();
    assert!(dials(&mut first, through(&relay, peer)).await);
    assert!(!dials(&mut first, through(&relay, other)).await, "a second one of the same peer");
    let (mut second, mut third) = (stock(), stock());
    assert!(dials(&mut second, through(&relay, other)).await);
    assert!(!dials(&mut third, through(&relay, peer)).await, "a third circuit");
    let relay = &relay;
    eventually(|| async { relay.counter("net_relay_circuits_refused").await == 2 }).await;
    assert_eq!(relay.counter("net_relay_reservations").await, 2);
    assert_eq!(relay.counter("net_relay_reservations_refused").await, 1);
}

#[tokio::test]
async fn who_is_not_known_to_be_reachable_carries_nothing() {
    for limits in [Some(RelayLimits::small()), None] {
        let relay = Node::with(|config| config.relay = limits).await;
        assert!(!reserves(&mut stock(), &relay).await);
        assert!(!relay.client.status().await.unwrap().relays.is_offering);
    }
}
