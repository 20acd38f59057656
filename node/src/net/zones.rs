//! IPv6 link-local addresses over TCP.
//!
//! Such an address means something only together with a zone: the interface it is on. libp2p's TCP transport knows no zones and
//! cannot dial one. Here it is dialled
//!
//! - under `/ip6zone/<name or index>/ip6/fe80::../tcp/<port>`;
//! - under the same without the zone, if a connection with that address has stood: its zone is remembered, of the last
//!   [`MAX_ZONES`]. So what is kept of a peer, and what others are told, is an address without a zone.
//!
//! Dials are from a port of their own, not from the one listened on.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use libp2p::core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, tcp};
use tokio::net::TcpSocket;

use tcp::tokio::TcpStream;

/// Link-local addresses whose zone is remembered: as many as neighbours are.
const MAX_ZONES: usize = 256;

/// Addresses and the indexes of their interfaces, the latest last. All clones are the same.
#[derive(Debug, Clone, Default)]
struct Zones(Arc<Mutex<VecDeque<(Ipv6Addr, u32)>>>);

impl Zones {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(Ipv6Addr, u32)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, ip: Ipv6Addr) -> Option<u32> {
        self.lock().iter().find(|(known, _)| *known == ip).map(|(_, zone)| *zone)
    }

    /// A connection with `addr` stands.
    fn note(&self, addr: SocketAddr) {
        let SocketAddr::V6(addr) = addr else { return };
        let (ip, zone) = (*addr.ip(), addr.scope_id());
        if !ip.is_unicast_link_local() || zone == 0 {
            return;
        }
        let mut zones = self.lock();
        zones.retain(|(known, _)| *known != ip);
        zones.push_back((ip, zone));
        if zones.len() > MAX_ZONES {
            zones.pop_front();
        }
    }
}

/// The TCP transport, with zones.
pub(super) struct Zoned {
    inner: tcp::tokio::Transport,
    zones: Zones,
}

impl Zoned {
    pub(super) fn new(inner: tcp::tokio::Transport) -> Self {
        Self { inner, zones: Zones::default() }
    }

    /// Where to connect for an address that the inner transport cannot dial; `None` for the others.
    fn target(&self, addr: &Multiaddr) -> Result<Option<SocketAddrV6>, io::Error> {
        let mut parts = addr.iter().peekable();
        let zone = parts.next_if(|part| matches!(part, Protocol::Ip6zone(_)));
        let (Some(Protocol::Ip6(ip)), Some(Protocol::Tcp(port @ 1..))) = (parts.next(), parts.next()) else {
            return Ok(None);
        };
        if !ip.is_unicast_link_local() || !matches!(parts.next(), None | Some(Protocol::P2p(_))) {
            return Ok(None);
        }
        let index = match zone {
            Some(Protocol::Ip6zone(zone)) => Some(index_of(&zone)?),
            _ => self.zones.of(ip),
        };
        Ok(index.map(|index| SocketAddrV6::new(ip, port, 0, index)))
    }
}

/// The index of an interface that is named by it, or by its name.
fn index_of(zone: &str) -> io::Result<u32> {
    if let Ok(index @ 1..) = zone.parse() {
        return Ok(index);
    }
    let unknown =
        || io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {}", zone.escape_debug()));
    let named = if_addrs::get_if_addrs()?.into_iter().find(|interface| interface.name == zone);
    named.and_then(|interface| interface.index).ok_or_else(unknown)
}

async fn connect(target: SocketAddrV6) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v6()?;
    // As the inner transport has it.
    socket.set_nodelay(true)?;
    Ok(TcpStream(socket.connect(target.into()).await?))
}

impl Transport for Zoned {
    type Output = TcpStream;
    type Error = io::Error;
    type ListenerUpgrade = BoxFuture<'static, io::Result<TcpStream>>;
    type Dial = BoxFuture<'static, io::Result<TcpStream>>;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let Some(target) = self.target(&addr).map_err(TransportError::Other)? else {
            return self.inner.dial(addr, opts);
        };
        let zones = self.zones.clone();
        Ok(async move {
            let stream = connect(target).await?;
            zones.note(target.into());
            Ok(stream)
        }
        .boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        let event = Pin::new(&mut self.inner).poll(cx);
        let zones = &self.zones;
        event.map(|event| {
            event.map_upgrade(|upgrade| {
                let zones = zones.clone();
                async move {
                    let stream = upgrade.await?;
                    if let Ok(from) = stream.0.peer_addr() {
                        zones.note(from);
                    }
                    Ok(stream)
                }
                .boxed()
            })
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use super::*;

    fn transport() -> Zoned {
        Zoned::new(tcp::tokio::Transport::new(tcp::Config::default()))
    }

    fn v6(ip: &str, port: u16, zone: u32) -> SocketAddrV6 {
        SocketAddrV6::new(ip.parse().unwrap(), port, 0, zone)
    }

    #[tokio::test]
    async fn an_address_is_dialled_in_the_zone_that_it_names_or_that_is_known() {
        let transport = transport();
        let target = |addr: &str| transport.target(&addr.parse().unwrap()).unwrap();
        assert_eq!(target("/ip6zone/7/ip6/fe80::1/tcp/4343"), Some(v6("fe80::1", 4343, 7)));
        let peer = libp2p::PeerId::random();
        assert_eq!(
            target(&format!("/ip6zone/7/ip6/fe80::1/tcp/4343/p2p/{peer}")),
            Some(v6("fe80::1", 4343, 7))
        );
        assert_eq!(target("/ip6/fe80::1/tcp/4343"), None);
        transport.zones.note(v6("fe80::1", 50_000, 3).into());
        assert_eq!(target("/ip6/fe80::1/tcp/4343"), Some(v6("fe80::1", 4343, 3)));
        transport.zones.note(v6("fe80::1", 50_000, 4).into());
        assert_eq!(target("/ip6/fe80::1/tcp/4343"), Some(v6("fe80::1", 4343, 4)), "it has moved");
        for other in [
            "/ip6zone/7/ip6/2a00::1/tcp/1",
            "/ip6zone/7/ip6/fe80::1/udp/1/quic-v1",
            "/ip6zone/7/ip6/fe80::1/tcp/0",
            "/ip6zone/7/ip6/fe80::1/tcp/1/ws",
            "/ip6zone/7/ip4/10.0.0.1/tcp/1",
            "/ip4/10.0.0.1/tcp/1",
            "/memory/1",
        ] {
            assert_eq!(target(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn an_interface_is_found_by_its_name() {
        let lo =
            if_addrs::get_if_addrs().unwrap().into_iter().find(if_addrs::Interface::is_loopback).unwrap();
        assert_eq!(index_of(&lo.name).unwrap(), lo.index.unwrap());
        assert_eq!(index_of("no such\none").unwrap_err().to_string(), "there is no interface no such\\none");
        let addr = "/ip6zone/nonsuch/ip6/fe80::1/tcp/1".parse().unwrap();
        assert!(transport().target(&addr).is_err());
    }

    #[test]
    fn only_so_many_zones_are_remembered_and_only_of_link_local_addresses() {
        let zones = Zones::default();
        zones.note("10.0.0.1:1".parse().unwrap());
        zones.note(v6("fd00::1", 1, 2).into());
        zones.note(v6("fe80::1", 1, 0).into());
        assert!(zones.lock().is_empty());
        for n in 0..1_000 {
            zones.note(v6(&format!("fe80::{n:x}"), 1, n + 1).into());
        }
        assert_eq!(zones.lock().len(), MAX_ZONES);
        assert_eq!(zones.of("fe80::3e7".parse().unwrap()), Some(1_000));
        assert_eq!(zones.of("fe80::1".parse().unwrap()), None);
    }
}
