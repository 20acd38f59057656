//! Addresses for hosts: they look like the Internet's, so that code which judges addresses works as outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

/// First bytes of which at least a part is not public unicast; whole blocks are left out.
const LEFT_OUT: [u8; 9] = [0, 10, 100, 127, 169, 172, 192, 198, 203];

/// Hosts in one inner network.
const PER_SUBNET: usize = 250;

/// Third bytes of home networks, as routers are sold. Boxes share them, as outside.
const HOME: [u8; 5] = [0, 1, 2, 178, 50];

/// The addresses that are taken.
#[derive(Debug)]
pub(super) struct Addresses {
    // Not the generator of the links: a host more must not change what happens to the others' packets.
    rng: StdRng,
    networks: BTreeSet<[u8; 2]>,
    taken: BTreeSet<Ipv4Addr>,
    /// Networks of 256 addresses that hosts share, by number: the first three bytes and the last address given.
    shared: BTreeMap<u32, ([u8; 3], u8)>,
}

impl Addresses {
    pub(super) fn new(seed: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed ^ 0x6164_6472_6573_7365);
        Self { rng, networks: BTreeSet::new(), taken: BTreeSet::new(), shared: BTreeMap::new() }
    }

    /// A public address that nobody has, in a /16 that nobody has as long as there are some.
    pub(super) fn public(&mut self) -> Ipv4Addr {
        loop {
            let [a, b, c, d]: [u8; 4] = self.rng.random();
            let is_public = (1..224).contains(&a) && !LEFT_OUT.contains(&a) && (1..255).contains(&d);
            let is_crowded = self.networks.len() < 40_000 && self.networks.contains(&[a, b]);
            let ip = Ipv4Addr::new(a, b, c, d);
            if is_public && !is_crowded && self.taken.insert(ip) {
                self.networks.insert([a, b]);
                return ip;
            }
        }
    }

    /// The next public address in a shared network.
    ///
    /// # Panics
    /// If the network is full: there are 254 hosts in it.
    pub(super) fn public_in(&mut self, network: u32) -> Ipv4Addr {
        let [a, b, c, last] = match self.shared.get(&network) {
            Some(([a, b, c], last)) => [*a, *b, *c, *last],
            None => {
                let [a, b, c, _] = self.public().octets();
                [a, b, c, 0]
            }
        };
        let mut free = (last + 1..255).map(|d| Ipv4Addr::new(a, b, c, d));
        let Some(ip) = free.find(|ip| self.taken.insert(*ip)) else { panic!("254 hosts fill a /24") };
        self.shared.insert(network, ([a, b, c], ip.octets()[3]));
        ip
    }

    /// Where a host begins with the ports of its own connections.
    pub(super) fn ephemeral(&mut self) -> u16 {
        self.rng.random_range(32_768..=60_999)
    }

    /// The address of the host with an index behind a NAT box with an index.
    pub(super) fn inner(nat: usize, host: usize) -> Ipv4Addr {
        let last = 2 + u8::try_from(host % PER_SUBNET).unwrap_or(0);
        let net = host / PER_SUBNET;
        if nat.is_multiple_of(2) && net == 0 {
            return Ipv4Addr::new(192, 168, HOME[(nat / 2) % HOME.len()], last);
        }
        let [high, low] = u16::try_from(net).unwrap_or(u16::MAX).to_be_bytes();
        Ipv4Addr::new(10, high, low, last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_are_public_distinct_and_spread() {
        let mut addresses = Addresses::new(1);
        let ips: Vec<_> = (0..3000).map(|_| addresses.public()).collect();
        for ip in &ips {
            assert!(!ip.is_private() && !ip.is_loopback() && !ip.is_link_local() && !ip.is_documentation());
            assert!(!ip.is_multicast() && !ip.is_broadcast() && !ip.is_unspecified(), "{ip}");
        }
        let networks: BTreeSet<_> = ips.iter().map(|ip| [ip.octets()[0], ip.octets()[1]]).collect();
        assert_eq!(networks.len(), ips.len());
        let eighths: BTreeSet<_> = ips.iter().map(|ip| ip.octets()[0]).collect();
        assert!(eighths.len() > 150);
    }

    #[test]
    fn hosts_of_one_network_share_the_first_three_bytes() {
        let mut addresses = Addresses::new(1);
        let networks =
            [0, 1].map(|network| (0..250).map(|_| addresses.public_in(network)).collect::<Vec<_>>());
        let first_bytes = |ip: &Ipv4Addr| [ip.octets()[0], ip.octets()[1], ip.octets()[2]];
        for ips in &networks {
            assert_eq!(ips.iter().collect::<BTreeSet<_>>().len(), 250);
            assert!(
                ips.iter()
                    .all(|ip| first_bytes(ip) == first_bytes(&ips[0]) && (1..255).contains(&ip.octets()[3]))
            );
        }
        assert_ne!(first_bytes(&networks[0][0]), first_bytes(&networks[1][0]));
    }

    #[test]
    fn inner_addresses_are_private_and_distinct_behind_one_box() {
        for nat in 0..4 {
            let ips: BTreeSet<_> = (0..1000).map(|host| Addresses::inner(nat, host)).collect();
            assert_eq!(ips.len(), 1000);
            assert!(ips.iter().all(Ipv4Addr::is_private));
        }
    }
}
