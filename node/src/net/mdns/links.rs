//! Which interfaces are those of a local network, and what is listened on there. Pure, but for [`faces`].

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
};

use libp2p::{Multiaddr, multiaddr::Protocol};

use crate::core::{
    announce_lan::{Link, Ports},
    neighbours::Source,
    profile::{NetworkProfile, ip_scope},
};

/// Interfaces that are used, those with the lowest index: virtual ones come late.
pub const MAX_INTERFACES: usize = 16;

/// IPv4 addresses of one interface that are used.
pub const MAX_ADDRS_PER_INTERFACE: usize = 2;

/// Shortest prefix of a subnet that is believed; a mask that is missing is no subnet of the whole world.
const MIN_PREFIX_LEN: u8 = 8;

/// One address of an interface of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Face {
    /// Index of the interface.
    pub index: u32,
    /// The address.
    pub ip: IpAddr,
    /// Length of the prefix of its subnet, in bits.
    pub prefix_len: u8,
    /// Whether the interface is up and can say something to many: not one from point to point, as VPNs are.
    pub is_usable: bool,
}

/// All addresses of all interfaces of this machine.
///
/// # Errors
/// If the system does not tell.
pub fn faces() -> io::Result<Vec<Face>> {
    let of = |interface: if_addrs::Interface| {
        let prefix_len = match &interface.addr {
            if_addrs::IfAddr::V4(addr) => addr.prefixlen,
            if_addrs::IfAddr::V6(addr) => addr.prefixlen,
        };
        let is_usable = interface.is_oper_up() && !interface.is_p2p();
        Some(Face { index: interface.index?, ip: interface.ip(), prefix_len, is_usable })
    };
    Ok(if_addrs::get_if_addrs()?.into_iter().filter_map(of).collect())
}

/// The links of the local networks, and the rest of what has to be known of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links(BTreeMap<Link, (Ports, u8)>);

impl Links {
    /// Picks the addresses that are in a local network: of an interface that is usable, has no address of the internet (hosts
    /// in data centres do, and their network is not ours), and a private or link-local one. Of a node that listens, those
    /// that it listens at.
    pub fn pick(faces: &[Face], listen: Option<&[Multiaddr]>) -> Self {
        let is_public = |face: &&Face| face.ip.is_ipv4() && ip_scope(face.ip) == Some(NetworkProfile::Public);
        let is_no_lan = |face: &&Face| !face.is_usable || face.ip.is_loopback() || is_public(face);
        let left_out: BTreeSet<u32> = faces.iter().filter(is_no_lan).map(|face| face.index).collect();
        let mut links = BTreeMap::new();
        let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
        let mut faces: Vec<&Face> = faces.iter().filter(|face| !left_out.contains(&face.index)).collect();
        faces.sort_by_key(|face| (face.index, face.ip));
        for face in faces {
            let link = Link { index: face.index, ip: face.ip };
            let ports = listen.map(|listen| ports_at(listen, face.ip)).unwrap_or_default();
            let is_silent = listen.is_some() && ports.is_none();
            if !is_near(face)
                || is_silent
                || counts.len() >= MAX_INTERFACES && !counts.contains_key(&face.index)
            {
                continue;
            }
            let count = counts.entry(face.index).or_default();
            if face.ip.is_ipv6() || *count < MAX_ADDRS_PER_INTERFACE {
                *count += usize::from(face.ip.is_ipv4());
                links.insert(link, (ports, face.prefix_len));
            }
        }
        Self(links)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The links, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        self.0.keys()
    }

    /// What is listened on at each.
    pub fn ports(&self) -> BTreeMap<Link, Ports> {
        self.0.iter().map(|(link, (ports, _))| (*link, *ports)).collect()
    }

    /// What is listened on at one.
    pub fn ports_of(&self, link: &Link) -> Ports {
        self.0.get(link).map(|(ports, _)| *ports).unwrap_or_default()
    }

    /// The addresses of the interface of a link.
    pub fn addrs_beside(&self, link: &Link) -> Vec<IpAddr> {
        self.iter().filter(|other| other.index == link.index).map(|other| other.ip).collect()
    }

    /// Leaves one out.
    pub fn remove(&mut self, link: &Link) {
        self.0.remove(link);
    }

    /// Where a packet came from, and the links that it came by: those in whose subnet its source is. `None` if it came from
    /// elsewhere, or not from the port of mDNS, which no ordinary program has.
    pub fn source_of(&self, from: SocketAddr) -> Option<(Source, Vec<Link>)> {
        if from.port() != super::socket::PORT {
            return None;
        }
        let zone = match from {
            SocketAddr::V6(from) => from.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        let source = Source { ip: from.ip(), zone };
        let by: Vec<Link> = self.beside(&source).collect();
        (!by.is_empty()).then_some((source, by))
    }

    /// Whether an address is in the subnet of a link.
    pub fn is_near(&self, source: &Source) -> bool {
        self.beside(source).next().is_some()
    }

    fn beside(&self, source: &Source) -> impl Iterator<Item = Link> {
        let Source { ip, zone } = *source;
        let is_beside = move |link: &Link, prefix_len: u8| match (link.ip, ip) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let shift = 32_u32.saturating_sub(u32::from(prefix_len));
                (u32::from(ours) ^ u32::from(theirs)).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(_), IpAddr::V6(theirs)) => theirs.is_unicast_link_local() && link.index == zone,
            _ => false,
        };
        let links = self.0.iter().filter(move |(link, (_, prefix_len))| is_beside(link, *prefix_len));
        links.map(|(link, _)| *link)
    }
}

/// Whether others of the local network can be found from this address.
fn is_near(face: &Face) -> bool {
    match face.ip {
        IpAddr::V4(ip) => (ip.is_private() || ip.is_link_local()) && face.prefix_len >= MIN_PREFIX_LEN,
        // Packets to many go out from no other.
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// The first port of each kind that is listened on at `ip`.
fn ports_at(listen: &[Multiaddr], ip: IpAddr) -> Ports {
    let mut ports = Ports::default();
    for addr in listen {
        let parts: Vec<Protocol<'_>> = addr.iter().collect();
        match (parts.first(), parts.get(1), parts.get(2)) {
            (Some(at), Some(Protocol::Tcp(port)), None) if is_ip(at, ip) => {
                ports.tcp = ports.tcp.or(Some(*port))
            }
            (Some(at), Some(Protocol::Udp(port)), Some(Protocol::QuicV1)) if is_ip(at, ip) => {
                ports.quic = ports.quic.or(Some(*port));
            }
            _ => {}
        }
    }
    // Nobody could dial it: QUIC knows no zones.
    if ip.is_ipv6() {
        ports.quic = None;
    }
    ports
}

fn is_ip(part: &Protocol<'_>, ip: IpAddr) -> bool {
    match part {
        Protocol::Ip4(at) => ip == IpAddr::V4(*at),
        Protocol::Ip6(at) => ip == IpAddr::V6(*at),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use super::*;

    fn face(index: u32, ip: &str, prefix_len: u8) -> Face {
        Face { index, ip: ip.parse().unwrap(), prefix_len, is_usable: true }
    }

    fn picked(faces: &[Face]) -> Vec<String> {
        Links::pick(faces, None).iter().map(|link| format!("{} {}", link.index, link.ip)).collect()
    }

    fn addrs(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn an_interface_of_a_local_network_has_a_private_address_and_none_of_the_internet() {
        let home = [face(2, "192.168.1.5", 24), face(2, "2a00::5", 64), face(2, "fe80::5", 64)];
        assert_eq!(picked(&home), ["2 192.168.1.5", "2 fe80::5"]);
        let hosted = [face(2, "8.8.8.8", 24), face(2, "10.0.0.5", 8), face(2, "fe80::5", 64)];
        assert_eq!(picked(&hosted), [""; 0]);
        let both =
            [face(1, "127.0.0.1", 8), face(1, "::1", 128), face(2, "8.8.8.8", 24), face(3, "10.0.0.5", 8)];
        assert_eq!(picked(&both), ["3 10.0.0.5"]);
        let down = Face { is_usable: false, ..face(2, "192.168.1.5", 24) };
        let odd = [down, face(3, "100.64.0.1", 10), face(4, "10.0.0.1", 0), face(5, "fd00::1", 64)];
        assert_eq!(picked(&odd), [""; 0]);
        assert_eq!(picked(&[face(2, "169.254.7.7", 16)]), ["2 169.254.7.7"]);
    }

    #[test]
    fn interfaces_and_their_addresses_are_bounded() {
        let many: Vec<Face> = (1..100).map(|n| face(n, &format!("10.{n}.0.1"), 16)).collect();
        let links = picked(&many);
        assert_eq!((links.len(), links.last().unwrap().as_str()), (MAX_INTERFACES, "16 10.16.0.1"));
        let crowded: Vec<Face> = (1..100).map(|n| face(1, &format!("10.0.0.{n}"), 16)).collect();
        assert_eq!(picked(&crowded).len(), MAX_ADDRS_PER_INTERFACE);
    }

    #[test]
    fn a_node_is_announced_where_it_listens_and_with_the_ports_it_has_there() {
        let faces = [
            face(2, "10.0.0.5", 8),
            face(2, "fe80::5", 64),
            face(3, "10.9.0.5", 16),
            face(4, "10.7.0.5", 16),
        ];
        let listen = addrs(&[
            "/ip4/10.0.0.5/tcp/1",
            "/ip4/10.0.0.5/tcp/2",
            "/ip4/10.0.0.5/udp/3/quic-v1",
            "/ip4/10.9.0.5/udp/4/quic-v1",
            "/ip4/127.0.0.1/tcp/9",
            "/ip6/fe80::5/tcp/5",
            "/ip6/fe80::5/udp/6/quic-v1",
            "/ip4/10.7.0.5/udp/4",
        ]);
        let links = Links::pick(&faces, Some(&listen));
        let ports: Vec<Ports> = links.ports().into_values().collect();
        let expected = [
            Ports { tcp: Some(1), quic: Some(3) },
            Ports { tcp: Some(5), quic: None },
            Ports { tcp: None, quic: Some(4) },
        ];
        assert_eq!(ports, expected);
        let first = *links.iter().next().unwrap();
        assert_eq!(links.ports_of(&first), expected[0]);
        assert_eq!(links.addrs_beside(&first).len(), 2);
        assert!(Links::pick(&faces, Some(&listen[4..5])).is_empty());
    }

    #[test]
    fn only_what_comes_from_the_port_of_mdns_in_one_of_our_subnets_counts() {
        let faces = [
            face(2, "10.0.0.5", 24),
            face(3, "10.0.0.6", 16),
            face(3, "fe80::5", 64),
            face(4, "192.168.0.1", 32),
        ];
        let links = Links::pick(&faces, None);
        let by = |from: SocketAddr| {
            let (source, by) = links.source_of(from)?;
            Some((source.zone, by.iter().map(|link| link.index).collect::<Vec<_>>()))
        };
        let from = |text: &str| by(text.parse().unwrap());
        assert_eq!(from("10.0.0.77:5353"), Some((0, vec![2, 3])));
        assert_eq!(from("10.0.1.77:5353"), Some((0, vec![3])));
        assert_eq!(from("192.168.0.1:5353"), Some((0, vec![4])));
        for other in
            ["10.0.0.77:5354", "10.1.0.77:5353", "8.8.8.8:5353", "192.168.0.2:5353", "[2a00::1]:5353"]
        {
            assert_eq!(from(other), None, "{other}");
        }
        let zoned = |ip: &str, zone| {
            by(SocketAddr::V6(std::net::SocketAddrV6::new(ip.parse().unwrap(), 5353, 0, zone)))
        };
        assert_eq!(zoned("fe80::9", 3), Some((3, vec![3])));
        assert_eq!(zoned("fe80::9", 2), None, "nothing is listened for there");
        assert_eq!(zoned("fd00::9", 3), None);
    }
}
