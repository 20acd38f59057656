//! Which IP group a provider belongs to. Pure functions.
//!
//! Names are free: anybody can be a thousand peers. Addresses of the internet are not, so peers from one IP group
//! share what one of them may take: /16 of IPv4 and /32 of IPv6, which stand in for "one operator". Peers of this
//! machine or of the local network are their user's own and belong to no group.

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;

use crate::core::profile::is_relayed;
use crate::net::addresses::{Scope, connection_scope};

/// Where on the internet a provider is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum IpGroup {
    /// The first 16 bits of an IPv4 address.
    V4([u8; 2]),
    /// The first 32 bits of an IPv6 address.
    V6([u8; 4]),
    /// Somewhere: behind a relay, or known by a name only.
    Unknown,
}

/// The group of a peer whose connection has the remote address `addr`; `None` for this machine and the local network.
pub(crate) fn group_of(addr: &Multiaddr) -> Option<IpGroup> {
    match connection_scope(addr) {
        _ if is_relayed(addr) => Some(IpGroup::Unknown),
        Some(Scope::Loopback | Scope::Private) => None,
        Some(Scope::Public) => Some(ip_group(addr)),
        None => Some(IpGroup::Unknown),
    }
}

/// The group of a provider from an earlier run, of which only the addresses it had told are left.
pub(super) fn group_told<'a>(addrs: impl IntoIterator<Item = &'a Multiaddr>) -> Option<IpGroup> {
    let mut addrs = addrs.into_iter().peekable();
    if addrs.peek().is_none() {
        return Some(IpGroup::Unknown);
    }
    addrs.find_map(group_of)
}

fn ip_group(addr: &Multiaddr) -> IpGroup {
    for part in addr {
        match part {
            Protocol::Ip4(ip) => {
                let [a, b, ..] = ip.octets();
                return IpGroup::V4([a, b]);
            }
            Protocol::Ip6(ip) => {
                if let Some(ip) = ip.to_ipv4_mapped() {
                    let [a, b, ..] = ip.octets();
                    return IpGroup::V4([a, b]);
                }
                let [a, b, c, d, ..] = ip.octets();
                return IpGroup::V6([a, b, c, d]);
            }
            Protocol::P2pCircuit => return IpGroup::Unknown,
            _ => {}
        }
    }
    IpGroup::Unknown
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use libp2p::Multiaddr;

    use super::{IpGroup, group_of, group_told};

    fn group(addr: &str) -> Option<IpGroup> {
        group_of(&addr.parse().unwrap())
    }

    #[test]
    fn neighbours_on_the_internet_share_a_group() {
        assert_eq!(group("/ip4/8.8.1.2/tcp/1"), Some(IpGroup::V4([8, 8])));
        assert_eq!(group("/ip4/8.8.200.9/udp/9/quic-v1"), Some(IpGroup::V4([8, 8])));
        assert_eq!(group("/ip6/::ffff:8.8.4.4/tcp/1"), Some(IpGroup::V4([8, 8])));
        assert_eq!(group("/ip6/2a00:1450:1::1/tcp/1"), Some(IpGroup::V6([0x2a, 0, 0x14, 0x50])));
        assert_ne!(group("/ip4/8.9.1.2/tcp/1"), group("/ip4/8.8.1.2/tcp/1"));
    }

    #[test]
    fn this_machine_and_the_local_network_belong_to_no_group() {
        for addr in ["/ip4/127.0.0.1/tcp/1", "/memory/1", "/ip4/192.168.1.1/tcp/1", "/ip6/fd00::1/tcp/1"] {
            assert_eq!(group(addr), None, "{addr}");
        }
    }

    #[test]
    fn who_cannot_be_placed_is_in_one_group_with_all_such() {
        let peer = libp2p::PeerId::random();
        for addr in ["/dns/example.org/tcp/1", &format!("/p2p/{peer}/p2p-circuit"), "/ip4/0.0.0.0/tcp/1"] {
            assert_eq!(group(addr), Some(IpGroup::Unknown), "{addr}");
        }
    }

    #[test]
    fn what_a_provider_had_told_places_it_after_a_restart() {
        let told = |addrs: &[&str]| {
            let addrs: Vec<Multiaddr> = addrs.iter().map(|addr| addr.parse().unwrap()).collect();
            group_told(&addrs)
        };
        assert_eq!(told(&["/ip4/10.0.0.1/tcp/1", "/ip4/8.8.1.2/tcp/1"]), Some(IpGroup::V4([8, 8])));
        assert_eq!(told(&["/ip4/10.0.0.1/tcp/1"]), None);
        assert_eq!(told(&[]), Some(IpGroup::Unknown));
    }
}
