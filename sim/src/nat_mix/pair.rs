//! One pair: a relay, who dials, who is dialled.

use std::{pin::pin, time::Duration};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, Swarm, Transport as _,
    core::upgrade::Version,
    dcutr, identify,
    identity::Keypair,
    multiaddr::Protocol,
    ping, relay,
    swarm::{Config, NetworkBehaviour, SwarmEvent},
};
use tokio::time::Instant;

use super::{Failure, Kind};
use crate::net::{HostId, HostSpec, Nat, Net, Position, Security, upgraded};

/// Between any two hosts, one way.
const DELAY: Duration = Duration::from_millis(50);

/// Everybody listens there.
pub(super) const PORT: u16 = 4001;

/// After this much time nothing more happens: dcutr has made its three attempts, of up to 20 s each.
const PATIENCE: Duration = Duration::from_secs(90);

const PROTOCOL: &str = "/nat-mix/1";

#[derive(NetworkBehaviour)]
struct Relay {
    relay: relay::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

#[derive(NetworkBehaviour)]
struct Client {
    relay: relay::client::Behaviour,
    dcutr: dcutr::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// How far A and B are.
#[derive(Default)]
struct Progress {
    has_a_identified: bool,
    has_b_identified: bool,
    is_reserving: bool,
    has_reserved: bool,
    dialled_at: Option<Instant>,
    relayed: Option<Duration>,
    direct: Option<Duration>,
}

/// Lets A reach B. Returns after what time they were connected through the relay, and directly.
pub(super) async fn run(
    net: &Net,
    a: Kind,
    b: Kind,
) -> Result<(Option<Duration>, Option<Duration>), Failure> {
    let (mut relay, relay_address) = relay_node(net)?;
    let relay_task = tokio::spawn(async move { while relay.next().await.is_some() {} });
    let (mut a, mut b) = (client(net, a, 1)?, client(net, b, 2)?);
    for client in [&mut a, &mut b] {
        client.dial(relay_address.clone())?;
    }
    let mut progress = Progress::default();
    let mut patience = pin!(tokio::time::sleep(PATIENCE));
    while progress.direct.is_none() {
        tokio::select! {
            event = a.select_next_some() => progress.on_a(event, *b.local_peer_id()),
            event = b.select_next_some() => progress.on_b(event),
            () = &mut patience => break,
        }
        // dcutr offers only what identify knew when the relayed connection was opened, so both wait for it.
        let circuit = relay_address.clone().with(Protocol::P2pCircuit);
        if progress.has_b_identified && !progress.is_reserving {
            progress.is_reserving = true;
            b.listen_on(circuit)?;
        } else if progress.has_a_identified && progress.has_reserved && progress.dialled_at.is_none() {
            progress.dialled_at = Some(Instant::now());
            a.dial(circuit.with(Protocol::P2p(*b.local_peer_id())))?;
            patience.as_mut().reset(Instant::now() + PATIENCE);
        }
    }
    relay_task.abort();
    Ok((progress.relayed, progress.direct))
}

impl Progress {
    fn on_a(&mut self, event: SwarmEvent<ClientEvent>, b: PeerId) {
        match event {
            SwarmEvent::Behaviour(ClientEvent::Identify(identify::Event::Received { .. })) => {
                self.has_a_identified = true;
            }
            SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } if peer_id == b => {
                let time = self.dialled_at.map(|start| start.elapsed());
                if endpoint.is_relayed() {
                    self.relayed = self.relayed.or(time);
                } else {
                    self.direct = self.direct.or(time);
                }
            }
            _ => {}
        }
    }

    fn on_b(&mut self, event: SwarmEvent<ClientEvent>) {
        match event {
            SwarmEvent::Behaviour(ClientEvent::Identify(identify::Event::Received { .. })) => {
                self.has_b_identified = true;
            }
            SwarmEvent::Behaviour(ClientEvent::Relay(relay::client::Event::ReservationReqAccepted {
                ..
            })) => self.has_reserved = true,
            _ => {}
        }
    }
}

pub(super) fn key(number: u8) -> Result<Keypair, Failure> {
    Ok(Keypair::ed25519_from_bytes([number; 32])?)
}

fn identify(key: &Keypair) -> identify::Behaviour {
    identify::Behaviour::new(identify::Config::new(PROTOCOL.into(), key.public()))
}

fn config() -> Config {
    Config::with_tokio_executor().with_idle_connection_timeout(2 * PATIENCE)
}

pub(super) fn host_spec(nat: Option<Nat>) -> HostSpec {
    let position = Position { access: DELAY / 2, ..Position::default() };
    HostSpec { position, nat, ..HostSpec::default() }
}

pub(super) fn listen_address(net: &Net, host: HostId) -> Multiaddr {
    Multiaddr::empty().with(Protocol::Ip4(net.ip(host))).with(Protocol::Tcp(PORT))
}

/// A public relay, and its address with its peer ID.
fn relay_node(net: &Net) -> Result<(Swarm<Relay>, Multiaddr), Failure> {
    let (host, key) = (net.add_host(host_spec(None)), key(0)?);
    let peer = key.public().to_peer_id();
    let transport = upgraded(net.transport(host), &key, Security::Noise, Version::V1Lazy)?;
    let behaviour = Relay {
        relay: relay::Behaviour::new(peer, relay::Config::default()),
        identify: identify(&key),
        ping: ping::Behaviour::default(),
    };
    let mut swarm = Swarm::new(transport, behaviour, peer, config());
    let address = listen_address(net, host);
    swarm.listen_on(address.clone())?;
    // A relay without a confirmed address refuses reservations.
    swarm.add_external_address(address.clone());
    Ok((swarm, address.with(Protocol::P2p(peer))))
}

fn client(net: &Net, kind: Kind, number: u8) -> Result<Swarm<Client>, Failure> {
    let (host, key) = (net.add_host(host_spec(kind.nat().map(Nat::New))), key(number)?);
    if let (Kind::Forwarded, Some(nat)) = (kind, net.nat(host)) {
        net.forward(nat, PORT, host, PORT);
    }
    let peer = key.public().to_peer_id();
    let (circuits, relay) = relay::client::new(peer);
    let transport = circuits.or_transport(net.transport(host));
    let transport = upgraded(transport, &key, Security::Noise, Version::V1Lazy)?;
    let behaviour = Client {
        relay,
        dcutr: dcutr::Behaviour::new(peer),
        identify: identify(&key),
        ping: ping::Behaviour::default(),
    };
    let mut swarm = Swarm::new(transport, behaviour, peer, config());
    swarm.listen_on(listen_address(net, host))?;
    Ok(swarm)
}
