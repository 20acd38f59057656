//! The network profile: which scope the addresses in use have, and which of them are worth telling others.
//!
//! Scopes follow the IANA special-purpose address registries (RFC 6890): loopback, private use (RFC 1918,
//! RFC 4193, link-local, shared address space of RFC 6598, documentation and benchmarking ranges), public.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use libp2p::{Multiaddr, multiaddr::Protocol};

/// How far the node's listen addresses reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NetworkProfile {
    /// Only this machine can reach the node (or nothing is listening yet).
    Loopback,
    /// At least one address of a local network, none of the internet.
    Private,
    /// At least one address of the internet.
    Public,
}

impl NetworkProfile {
    /// The widest scope among the listen addresses that others could dial.
    pub fn from_listen_addrs<'a>(addrs: impl IntoIterator<Item = &'a Multiaddr>) -> Self {
        addrs.into_iter().filter_map(scope).max().unwrap_or(Self::Loopback)
    }
}

impl fmt::Display for NetworkProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::Public => "public",
        })
    }
}

/// How far one address reaches, or `None` if nobody can dial it as it stands: unspecified, multicast, IPv6
/// link-local without a zone, port 0, or no host part at all.
///
/// In-process addresses (`/memory/..`) and the name `localhost` count as loopback, other names as public. A link-local
/// address behind its zone (`/ip6zone/..`) is private; only its own host can dial it, so it is [told nobody](is_zoned).
pub fn scope(addr: &Multiaddr) -> Option<NetworkProfile> {
    let mut found = None;
    let mut has_zone = false;
    for part in addr {
        match part {
            Protocol::Ip6zone(_) if found.is_none() => has_zone = true,
            Protocol::Ip6(ip) if has_zone && found.is_none() => {
                found = Some(if ip.is_unicast_link_local() { NetworkProfile::Private } else { return None });
            }
            Protocol::Ip4(ip) if found.is_none() => found = Some(ip4_scope(ip)?),
            Protocol::Ip6(ip) if found.is_none() => found = Some(ip6_scope(ip)?),
            Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) | Protocol::Dnsaddr(name)
                if found.is_none() =>
            {
                found = Some(name_scope(&name));
            }
            Protocol::Memory(_) if found.is_none() => found = Some(NetworkProfile::Loopback),
            Protocol::Tcp(0) | Protocol::Udp(0) => return None,
            _ => {}
        }
    }
    found
}

/// How far a connection with this remote address reaches. Of one with an IPv6 link-local address the zone may be lost, and it
/// stands all the same.
pub fn connection_scope(addr: &Multiaddr) -> Option<NetworkProfile> {
    if is_relayed(addr) {
        // Where the relay is says nothing about who is behind it.
        return Some(NetworkProfile::Public);
    }
    scope(addr).or_else(|| link_local(addr).map(|_| NetworkProfile::Private))
}

/// Whether an address is on this machine or in the network that it is in: loopback, link-local, and what RFC 1918 and
/// RFC 4193 leave to local networks. Narrower than [`NetworkProfile::Private`]: shared address space (RFC 6598) belongs
/// to a provider, or to a network laid over the internet.
pub fn is_local(addr: &Multiaddr) -> bool {
    addr.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(ip4_is_local(ip)),
        Protocol::Ip6(ip) => Some(match ip.to_ipv4_mapped() {
            Some(ip) => ip4_is_local(ip),
            None => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
        }),
        Protocol::Memory(_) => Some(true),
        Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_) | Protocol::Dnsaddr(_) => Some(false),
        _ => None,
    }) == Some(true)
        && !is_relayed(addr)
}

/// Whether an address leads through a relay.
pub fn is_relayed(addr: &Multiaddr) -> bool {
    addr.iter().any(|part| part == Protocol::P2pCircuit)
}

/// Whether an address names a zone of IPv6: which interface of one machine it is meant on. No other machine can do
/// anything with it.
pub fn is_zoned(addr: &Multiaddr) -> bool {
    addr.iter().any(|part| matches!(part, Protocol::Ip6zone(_)))
}

/// The IPv6 link-local address that an address begins with, after its zone if it has one.
pub fn link_local(addr: &Multiaddr) -> Option<Ipv6Addr> {
    addr.iter()
        .find_map(|part| match part {
            Protocol::Ip6zone(_) => None,
            Protocol::Ip6(ip) => Some(ip),
            // Anything else before it: then it is not where the connection goes.
            _ => Some(Ipv6Addr::UNSPECIFIED),
        })
        .filter(Ipv6Addr::is_unicast_link_local)
}

/// The same address without its zone.
pub fn without_zone(addr: &Multiaddr) -> Multiaddr {
    addr.iter().filter(|part| !matches!(part, Protocol::Ip6zone(_))).collect()
}

/// How far an IP address reaches; `None` as for [`scope`].
pub fn ip_scope(ip: IpAddr) -> Option<NetworkProfile> {
    match ip {
        IpAddr::V4(ip) => ip4_scope(ip),
        IpAddr::V6(ip) => ip6_scope(ip),
    }
}

fn ip4_is_local(ip: Ipv4Addr) -> bool {
    ip.is_loopback() || ip.is_private() || ip.is_link_local()
}

/// Which listen addresses are told to others: if any reaches beyond this machine, all that do; else the loopback
/// ones. Each at most once, in the given order.
pub fn announced_addrs<'a>(listen: impl IntoIterator<Item = &'a Multiaddr>) -> Vec<Multiaddr> {
    let dialable = listen
        .into_iter()
        .filter(|addr| !is_zoned(addr))
        .filter_map(|addr| scope(addr).map(|scope| (scope, addr)));
    let dialable: Vec<_> = dialable.collect();
    let beyond = dialable.iter().any(|(scope, _)| *scope != NetworkProfile::Loopback);
    let mut announced = Vec::new();
    for (scope, addr) in dialable {
        if (scope != NetworkProfile::Loopback) == beyond && !announced.contains(addr) {
            announced.push(addr.clone());
        }
    }
    announced
}

fn ip4_scope(ip: Ipv4Addr) -> Option<NetworkProfile> {
    let [a, b, ..] = ip.octets();
    if ip.is_loopback() {
        Some(NetworkProfile::Loopback)
    } else if a == 0 || a >= 224 {
        None
    } else if ip.is_private()
        || ip.is_link_local()
        || ip.is_documentation()
        || (a == 100 && (64..128).contains(&b))
        || (a == 198 && (18..20).contains(&b))
    {
        Some(NetworkProfile::Private)
    } else {
        Some(NetworkProfile::Public)
    }
}

fn ip6_scope(ip: Ipv6Addr) -> Option<NetworkProfile> {
    if let Some(ip) = ip.to_ipv4_mapped() {
        return ip4_scope(ip);
    }
    if ip.is_loopback() {
        Some(NetworkProfile::Loopback)
    } else if ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local() {
        None
    } else if ip.is_unique_local() || ip.segments()[..2] == [0x2001, 0xdb8] {
        Some(NetworkProfile::Private)
    } else {
        Some(NetworkProfile::Public)
    }
}

fn name_scope(name: &str) -> NetworkProfile {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if name == "localhost" || name.ends_with(".localhost") {
        NetworkProfile::Loopback
    } else if name.ends_with(".local") || name.ends_with(".home.arpa") {
        NetworkProfile::Private
    } else {
        NetworkProfile::Public
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "the addresses are written down here")]
mod tests {
    use super::*;

    fn addrs(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn every_address_has_the_scope_of_its_range() {
        use NetworkProfile::{Loopback, Private, Public};
        let table = [
            ("/ip4/127.0.0.1/tcp/1", Some(Loopback)),
            ("/ip4/127.9.9.9/udp/1/quic-v1", Some(Loopback)),
            ("/ip6/::1/tcp/1", Some(Loopback)),
            ("/memory/5", Some(Loopback)),
            ("/dns4/localhost/tcp/1", Some(Loopback)),
            ("/ip4/10.1.2.3/tcp/1", Some(Private)),
            ("/ip4/172.16.0.1/tcp/1", Some(Private)),
            ("/ip4/192.168.1.1/tcp/1", Some(Private)),
            ("/ip4/169.254.3.3/tcp/1", Some(Private)),
            ("/ip4/100.64.0.1/tcp/1", Some(Private)),
            ("/ip4/100.128.0.1/tcp/1", Some(Public)),
            ("/ip4/198.18.0.1/tcp/1", Some(Private)),
            ("/ip4/203.0.113.9/tcp/1", Some(Private)),
            ("/ip6/fd00::1/tcp/1", Some(Private)),
            ("/ip6/2001:db8::1/tcp/1", Some(Private)),
            ("/ip4/8.8.8.8/tcp/1", Some(Public)),
            ("/ip6/2a00::1/udp/1/quic-v1", Some(Public)),
            ("/ip6/::ffff:10.0.0.1/tcp/1", Some(Private)),
            ("/dns/printer.local/tcp/1", Some(Private)),
            ("/dns/example.org/tcp/1", Some(Public)),
            ("/ip4/0.0.0.0/tcp/1", None),
            ("/ip6/::/tcp/1", None),
            ("/ip6/fe80::1/tcp/1", None),
            ("/ip6zone/eth0/ip6/fe80::1/tcp/1", Some(Private)),
            ("/ip6zone/3/ip6/fe80::1/tcp/1", Some(Private)),
            ("/ip6zone/eth0/ip6/fe80::1/tcp/0", None),
            ("/ip6zone/eth0/ip6/2a00::1/tcp/1", None),
            ("/ip6zone/eth0/ip6/::1/tcp/1", None),
            ("/ip6/ff02::1/tcp/1", None),
            ("/ip4/224.0.0.1/tcp/1", None),
            ("/ip4/255.255.255.255/tcp/1", None),
            ("/ip4/8.8.8.8/tcp/0", None),
            ("/unix/%2Ftmp%2Fx", None),
        ];
        for (text, expected) in table {
            assert_eq!(scope(&text.parse().unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn only_this_machine_and_its_own_network_are_local() {
        let local = [
            "/ip4/127.0.0.1/tcp/1",
            "/ip6/::1/udp/1/quic-v1",
            "/ip4/10.1.2.3/tcp/1",
            "/ip4/172.31.0.1/tcp/1",
            "/ip4/192.168.1.1/udp/1/quic-v1",
            "/ip4/169.254.3.3/tcp/1",
            "/ip6/fd00::1/tcp/1",
            "/ip6/fe80::1/tcp/1",
            "/ip6zone/eth0/ip6/fe80::1/tcp/1",
            "/ip6/::ffff:10.0.0.1/tcp/1",
            "/memory/5",
        ];
        let far = [
            "/ip4/8.8.8.8/tcp/1",
            "/ip4/172.32.0.1/tcp/1",
            "/ip4/100.64.0.1/tcp/1",
            "/ip4/203.0.113.9/tcp/1",
            "/ip6/2a00::1/tcp/1",
            "/ip6/::ffff:8.8.8.8/tcp/1",
            "/dns/localhost/tcp/1",
            "/ip4/10.0.0.1/tcp/1/p2p-circuit",
            "/unix/%2Ftmp%2Fx",
        ];
        assert!(addrs(&local).iter().all(is_local));
        for addr in addrs(&far) {
            assert!(!is_local(&addr), "{addr}");
        }
    }

    #[test]
    fn a_zone_is_seen_and_taken_off() {
        let zoned: Multiaddr = "/ip6zone/eth0/ip6/fe80::1/tcp/1".parse().unwrap();
        let bare: Multiaddr = "/ip6/fe80::1/tcp/1".parse().unwrap();
        assert!(is_zoned(&zoned) && !is_zoned(&bare));
        assert_eq!(without_zone(&zoned), bare);
        assert_eq!(link_local(&zoned), link_local(&bare));
        assert_eq!(connection_scope(&bare), Some(NetworkProfile::Private));
        assert!(announced_addrs([&zoned, &bare]).is_empty(), "others could do nothing with it");
        assert_eq!(link_local(&bare), Some("fe80::1".parse().unwrap()));
        for other in
            addrs(&["/ip6/fd00::1/tcp/1", "/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.1/ip6/fe80::1", "/memory/1"])
        {
            assert_eq!(link_local(&other), None, "{other}");
        }
    }

    #[test]
    fn the_profile_is_the_widest_scope() {
        let profile = |texts: &[&str]| NetworkProfile::from_listen_addrs(&addrs(texts));
        assert_eq!(profile(&[]), NetworkProfile::Loopback);
        assert_eq!(profile(&["/ip4/0.0.0.0/tcp/1"]), NetworkProfile::Loopback);
        assert_eq!(profile(&["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1"]), NetworkProfile::Private);
        assert_eq!(profile(&["/ip4/8.8.8.8/tcp/1", "/ip4/10.0.0.1/tcp/1"]), NetworkProfile::Public);
    }

    #[test]
    fn loopback_is_announced_only_when_there_is_nothing_else() {
        let all = addrs(&["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1", "/ip4/8.8.8.8/tcp/1"]);
        assert_eq!(announced_addrs(&all), all[1..]);
        assert_eq!(announced_addrs(&all[..1]), all[..1]);
    }

    #[test]
    fn unspecified_addresses_are_never_announced_and_repeats_only_once() {
        let listen =
            addrs(&["/ip4/0.0.0.0/tcp/1", "/ip6/::/tcp/1", "/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/1"]);
        assert_eq!(announced_addrs(&listen), addrs(&["/ip4/127.0.0.1/tcp/1"]));
        assert!(announced_addrs(&listen[..2]).is_empty());
    }
}
