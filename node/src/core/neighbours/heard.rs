//! What is heard: who announces itself from where.

use std::net::IpAddr;

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

/// Where a packet came from: an address, and for IPv6 link-local ones the interface, else 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// The address.
    pub ip: IpAddr,
    /// Index of the interface that an IPv6 link-local address is meant on.
    pub zone: u32,
}

/// One announcement: who says that it listens where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// Whom the announcement names.
    pub peer: PeerId,
    /// Where the packet came from.
    pub source: Source,
    /// The port for TCP.
    pub tcp: Option<u16>,
    /// The port for QUIC.
    pub quic: Option<u16>,
}

impl Neighbour {
    /// Where it is to be dialled, in that order, without a peer ID. Link-local addresses over TCP only: QUIC knows no zones.
    pub fn addrs(&self) -> Vec<Multiaddr> {
        let base = match self.source {
            Source { ip: IpAddr::V6(ip), zone: zone @ 1.. } => {
                Multiaddr::from(Protocol::Ip6zone(zone.to_string().into())).with(Protocol::Ip6(ip))
            }
            Source { ip, .. } => Multiaddr::from(ip),
        };
        let tcp = self.tcp.map(|port| base.clone().with(Protocol::Tcp(port)));
        let quic = self.quic.filter(|_| self.source.zone == 0);
        let quic = quic.map(|port| base.with(Protocol::Udp(port)).with(Protocol::QuicV1));
        tcp.into_iter().chain(quic).collect()
    }

    pub(super) fn can_be_dialled(&self) -> bool {
        self.tcp.is_some() || self.quic.is_some() && self.source.zone == 0
    }
}
