//! Tests of the network: byte streams over it, without libp2p's upper layers.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a failure is a failed test")]

mod connecting;
mod delivery;
mod faults;
mod nat;

use std::{future::poll_fn, pin::Pin, time::Duration};

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::{
    Multiaddr,
    core::{
        Endpoint, Transport as _,
        transport::{DialOpts, ListenerId, PortUse, TransportEvent},
    },
    multiaddr::Protocol,
};
use tokio::time::Instant;

use super::*;

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);
/// One way between hosts of [`apart`].
const ONE_WAY: Duration = Duration::from_millis(50);

/// A public host that is [`ONE_WAY`] from every other.
fn apart() -> HostSpec {
    let position = Position { access: ONE_WAY / 2, ..Position::default() };
    HostSpec { position, ..HostSpec::default() }
}

fn behind(nat: impl Into<Nat>) -> HostSpec {
    HostSpec { nat: Some(nat.into()), ..apart() }
}

fn address(ip: Ipv4Addr, port: u16) -> Multiaddr {
    Multiaddr::empty().with(Protocol::Ip4(ip)).with(Protocol::Tcp(port))
}

fn port_of(address: &Multiaddr) -> u16 {
    match address.iter().nth(1) {
        Some(Protocol::Tcp(port)) => port,
        other => panic!("{other:?}"),
    }
}

fn opts(port_use: PortUse) -> DialOpts {
    DialOpts { role: Endpoint::Dialer, port_use }
}

/// A host with a transport that listens on a port.
struct Peer {
    net: Net,
    host: HostId,
    transport: SimTransport,
    address: Multiaddr,
}

impl Peer {
    async fn new(net: &Net, spec: HostSpec) -> Self {
        let host = net.add_host(spec);
        Self::on(net, host, 4001).await
    }

    async fn on(net: &Net, host: HostId, port: u16) -> Self {
        let mut transport = net.transport(host);
        transport.listen_on(ListenerId::next(), address(Ipv4Addr::UNSPECIFIED, port)).unwrap();
        let address = match next(&mut transport).await {
            TransportEvent::NewAddress { listen_addr, .. } => listen_addr,
            _ => panic!("no address"),
        };
        Self { net: net.clone(), host, transport, address }
    }

    fn dial(&mut self, to: &Multiaddr) -> SimDial {
        self.transport.dial(to.clone(), opts(PortUse::Reuse)).unwrap()
    }

    /// The next connection and the address that it comes from.
    async fn accept(&mut self) -> (SimStream, Multiaddr) {
        match next(&mut self.transport).await {
            TransportEvent::Incoming { upgrade, send_back_addr, .. } => {
                (upgrade.await.unwrap(), send_back_addr)
            }
            _ => panic!("something else"),
        }
    }

    /// Connects to another peer; both ends.
    async fn connect(&mut self, to: &mut Self) -> (SimStream, SimStream) {
        let dial = self.dial(&to.address);
        let (ours, (theirs, _)) = futures::join!(async { dial.await.unwrap() }, to.accept());
        (ours, theirs)
    }
}

async fn next(
    transport: &mut SimTransport,
) -> TransportEvent<futures::future::Ready<std::io::Result<SimStream>>, std::io::Error> {
    poll_fn(|cx| Pin::new(&mut *transport).poll(cx)).await
}

async fn two(seed: u64) -> (Net, Peer, Peer) {
    let net = Net::new(seed);
    let a = Peer::new(&net, apart()).await;
    let b = Peer::new(&net, apart()).await;
    (net, a, b)
}

/// Bytes that tell where they are in the stream.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

async fn expect(stream: &mut SimStream, expected: &[u8]) {
    let mut got = vec![0; expected.len()];
    stream.read_exact(&mut got).await.unwrap();
    assert!(got == expected, "other bytes");
}

async fn send(stream: &mut SimStream, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
}

/// How a read ends within a minute: the number of bytes, or the error.
async fn read_end(stream: &mut SimStream) -> Result<usize, std::io::ErrorKind> {
    let mut buffer = [0; 64];
    match tokio::time::timeout(60 * SEC, stream.read(&mut buffer)).await {
        Ok(result) => result.map_err(|error| error.kind()),
        // Nobody tells that to a reader: it stands for silence here.
        Err(_) => Err(std::io::ErrorKind::WouldBlock),
    }
}
