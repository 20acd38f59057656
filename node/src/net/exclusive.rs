//! Listening on a TCP port that nobody else listens on.
//!
//! The TCP transport sets `SO_REUSEPORT`, which it needs to dial from its listen port. With that a second
//! process may listen on the same port as well, and the system deals out the connections between the two. So
//! whether a port is free is asked first, by binding it without the option.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::pin::Pin;
use std::task::{Context, Poll};

use libp2p::Multiaddr;
use libp2p::core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent};
use libp2p::multiaddr::Protocol;

/// A TCP transport that refuses to share a port.
#[derive(Debug)]
pub(super) struct Exclusive<T>(pub(super) T);

impl<T> Transport for Exclusive<T>
where
    T: Transport<Error = io::Error> + Unpin,
{
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<io::Error>> {
        if let Some(socket) = probe_for(&addr)
            && let Err(error) = TcpListener::bind(socket)
            && error.kind() == io::ErrorKind::AddrInUse
        {
            return Err(TransportError::Other(error));
        }
        self.0.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.0.remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<T::Dial, TransportError<io::Error>> {
        self.0.dial(addr, opts)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<T::ListenerUpgrade, io::Error>> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// The address to bind in order to see whether the port in `addr` is free; `None` if any port will do.
fn probe_for(addr: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = addr.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        // Bound by itself, the unspecified address would stand for IPv4 too and collide with our own listener
        // there; a listener on all IPv6 addresses collides with this one just as well.
        Protocol::Ip6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port @ 1..) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use super::probe_for;

    #[test]
    fn only_a_definite_port_is_asked_for() {
        for (addr, probe) in [
            ("/ip4/127.0.0.1/tcp/4343", Some("127.0.0.1:4343")),
            ("/ip4/0.0.0.0/tcp/4343", Some("0.0.0.0:4343")),
            ("/ip6/::/tcp/4343", Some("[::1]:4343")),
            ("/ip6/fd00::1/tcp/4343", Some("[fd00::1]:4343")),
            ("/ip4/127.0.0.1/tcp/0", None),
            ("/ip4/127.0.0.1/udp/4343/quic-v1", None),
            ("/dns/localhost/tcp/4343", None),
            ("/memory/4", None),
            ("/ip4/127.0.0.1", None),
        ] {
            let expected = probe.map(|probe| probe.parse().unwrap());
            assert_eq!(probe_for(&addr.parse().unwrap()), expected, "{addr}");
        }
    }
}
