//! The sockets of mDNS: one for IPv4 and one for IPv6, shared with whatever else speaks mDNS on this machine.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    time::Duration,
};

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockRef, Socket, Type};
use tokio::{net::UdpSocket, time::sleep};

use super::wire::MAX_PACKET_LEN;
use crate::core::announce_lan::Link;

/// The port of mDNS.
pub const PORT: u16 = 5353;

/// The groups of mDNS.
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
/// See [`GROUP_V4`].
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

/// Hops a packet may make, as RFC 6762, section 11, wants it. Routers pass packets to these groups on in no case.
const HOPS: u32 = 255;

/// How long nothing is read after the system has refused to.
const PAUSE: Duration = Duration::from_millis(100);

/// A packet as it was received, cut off after [`MAX_PACKET_LEN`] and one byte.
#[derive(Debug)]
pub struct Received {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Who sent it.
    pub from: SocketAddr,
}

/// The sockets. Dropping them leaves all groups.
#[derive(Debug)]
pub struct Sockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    /// Interfaces, by index, on which the group of IPv4 (false) and of IPv6 (true) was joined.
    joined: BTreeSet<(bool, u32)>,
}

impl Sockets {
    /// None yet.
    pub fn new() -> Self {
        Self { v4: None, v6: None, joined: BTreeSet::new() }
    }

    /// Opens what `links` need, joins the groups on their interfaces, and leaves the others. Returns the links for which that
    /// failed, and why.
    ///
    /// Needs a tokio runtime with I/O.
    pub fn follow<'a>(&mut self, links: impl IntoIterator<Item = &'a Link>) -> Vec<(Link, io::Error)> {
        let links: Vec<Link> = links.into_iter().copied().collect();
        let wanted: BTreeSet<(bool, u32)> =
            links.iter().map(|link| (link.ip.is_ipv6(), link.index)).collect();
        for gone in self.joined.difference(&wanted).copied().collect::<Vec<_>>() {
            // The interface may have gone, and its membership with it.
            let _ = self.leave(gone);
            self.joined.remove(&gone);
        }
        if !wanted.iter().any(|(is_v6, _)| !is_v6) {
            self.v4 = None;
        }
        if !wanted.iter().any(|(is_v6, _)| *is_v6) {
            self.v6 = None;
        }
        let mut failed = Vec::new();
        for link in links {
            if let Err(error) = self.join((link.ip.is_ipv6(), link.index)) {
                failed.push((link, error));
            }
        }
        failed
    }

    fn join(&mut self, on: (bool, u32)) -> io::Result<()> {
        let (is_v6, index) = on;
        let joined = if is_v6 {
            let socket = open_once(&mut self.v6, open_v6)?;
            SockRef::from(socket).join_multicast_v6(&GROUP_V6, index)
        } else {
            let socket = open_once(&mut self.v4, open_v4)?;
            SockRef::from(socket).join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(index))
        };
        match joined {
            // It is a member already; it may have gone and come back with its interface meanwhile, so that is asked each time.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            other => other?,
        }
        self.joined.insert(on);
        Ok(())
    }

    fn leave(&self, (is_v6, index): (bool, u32)) -> io::Result<()> {
        match (is_v6, &self.v4, &self.v6) {
            (true, _, Some(socket)) => SockRef::from(socket).leave_multicast_v6(&GROUP_V6, index),
            (false, Some(socket), _) => {
                SockRef::from(socket).leave_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(index))
            }
            _ => Ok(()),
        }
    }

    /// Sends a packet to all from one link. Waits for nothing: what finds no room is lost, as any packet may be.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn send(&self, link: &Link, packet: &[u8]) -> io::Result<()> {
        let closed = || io::Error::from(io::ErrorKind::NotConnected);
        match link.ip {
            IpAddr::V4(ip) => {
                let socket = SockRef::from(self.v4.as_ref().ok_or_else(closed)?);
                // It is sent from this address, too.
                socket.set_multicast_if_v4(&ip)?;
                socket.send_to(packet, &SocketAddrV4::new(GROUP_V4, PORT).into())?;
            }
            IpAddr::V6(_) => {
                let socket = SockRef::from(self.v6.as_ref().ok_or_else(closed)?);
                socket.send_to(packet, &SocketAddrV6::new(GROUP_V6, PORT, 0, link.index).into())?;
            }
        }
        Ok(())
    }

    /// The next packet; never while there is no socket.
    ///
    /// Dropping the future loses nothing.
    pub async fn receive(&self) -> Received {
        tokio::select! {
            received = receive(self.v4.as_ref()) => received,
            received = receive(self.v6.as_ref()) => received,
        }
    }
}

impl Default for Sockets {
    fn default() -> Self {
        Self::new()
    }
}

async fn receive(socket: Option<&UdpSocket>) -> Received {
    let Some(socket) = socket else { return std::future::pending().await };
    let mut bytes = vec![0; MAX_PACKET_LEN + 1];
    loop {
        match socket.recv_from(&mut bytes).await {
            Ok((len, from)) => {
                bytes.truncate(len);
                return Received { bytes, from };
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

fn open_once(place: &mut Option<UdpSocket>, open: fn() -> io::Result<Socket>) -> io::Result<&UdpSocket> {
    if place.is_none() {
        let socket = open()?;
        socket.set_nonblocking(true)?;
        *place = Some(UdpSocket::from_std(socket.into())?);
    }
    place.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
}

fn open_v4() -> io::Result<Socket> {
    let socket = shared(Domain::IPV4)?;
    socket.set_multicast_ttl_v4(HOPS)?;
    socket.set_multicast_loop_v4(true)?;
    // Only what comes by the interfaces that were joined on this socket. An old kernel does not know the option, and what
    // comes by others is not read anyway.
    #[cfg(target_os = "linux")]
    let _ = socket.set_multicast_all_v4(false);
    socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT).into())?;
    Ok(socket)
}

fn open_v6() -> io::Result<Socket> {
    let socket = shared(Domain::IPV6)?;
    socket.set_only_v6(true)?;
    socket.set_multicast_hops_v6(HOPS)?;
    socket.set_multicast_loop_v6(true)?;
    #[cfg(target_os = "linux")]
    let _ = socket.set_multicast_all_v6(false);
    socket.bind(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, PORT, 0, 0).into())?;
    Ok(socket)
}

/// A socket on a port that others have too.
fn shared(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    Ok(socket)
}
