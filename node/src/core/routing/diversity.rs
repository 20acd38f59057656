//! At most so many peers of one subnet in the routing table: names are free, addresses of the internet are not.
//!
//! Whoever has a thousand names on a few addresses must not fill the table. What counts is where a peer's connections
//! come from, not what it says: told addresses could take the places of others. Peers of this machine and of the local
//! network are their user's own and belong to no subnet, as [`crate::core::profile::scope`] has it; so eight nodes on one
//! machine find each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

use crate::core::profile::{NetworkProfile, connection_scope, scope};

/// A part of the internet that one operator probably holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subnet {
    /// The first 24 bits of an IPv4 address.
    V4([u8; 3]),
    /// The first 48 bits of an IPv6 address.
    V6([u8; 6]),
    /// Somewhere: behind a relay, or known by a name only.
    Unknown,
}

impl Subnet {
    fn of(addr: &Multiaddr) -> Self {
        if addr.iter().any(|part| part == Protocol::P2pCircuit) {
            return Self::Unknown;
        }
        let ip = addr.iter().find_map(|part| match part {
            Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
            Protocol::Ip6(ip) => Some(IpAddr::V6(ip).to_canonical()),
            _ => None,
        });
        match ip {
            Some(IpAddr::V4(ip)) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            Some(IpAddr::V6(ip)) => {
                let [a, b, c, d, e, f, ..] = ip.octets();
                Self::V6([a, b, c, d, e, f])
            }
            None => Self::Unknown,
        }
    }
}

/// The subnets of a peer whose connections have these remote addresses; none if any of them is within this machine or
/// the local network. `told` are its addresses as it says; they count only for a peer that was dialled by name.
pub fn subnets<'a>(
    connected: impl IntoIterator<Item = &'a Multiaddr>,
    told: impl IntoIterator<Item = &'a Multiaddr>,
) -> BTreeSet<Subnet> {
    let mut found = BTreeSet::new();
    for addr in connected {
        if connection_scope(addr).is_some_and(|scope| scope != NetworkProfile::Public) {
            return BTreeSet::new();
        }
        found.insert(Subnet::of(addr));
    }
    if found.iter().all(|subnet| *subnet == Subnet::Unknown) {
        let public = |addr: &&Multiaddr| scope(addr) == Some(NetworkProfile::Public);
        let placed =
            told.into_iter().filter(public).map(Subnet::of).find(|subnet| *subnet != Subnet::Unknown);
        return BTreeSet::from([placed.unwrap_or(Subnet::Unknown)]);
    }
    found.remove(&Subnet::Unknown);
    found
}

/// How many peers of one subnet there may be. As in go-libp2p-kad-dht.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiversityConfig {
    /// In one bucket.
    pub max_per_bucket: usize,
    /// In the whole table.
    pub max_per_table: usize,
}

impl Default for DiversityConfig {
    fn default() -> Self {
        Self { max_per_bucket: 2, max_per_table: 3 }
    }
}

#[derive(Debug)]
struct Member {
    bucket: u16,
    subnets: BTreeSet<Subnet>,
}

/// The peers of the table and where they are. The driver tells who comes and goes; it is bounded by the table.
#[derive(Debug, Default)]
pub struct Diversity {
    config: DiversityConfig,
    members: BTreeMap<PeerId, Member>,
}

impl Diversity {
    /// An empty table.
    pub fn new(config: DiversityConfig) -> Self {
        Self { config, members: BTreeMap::new() }
    }

    /// Whether `peer` may be in `bucket` beside those that are there.
    pub fn has_room(&self, peer: &PeerId, bucket: u16, subnets: &BTreeSet<Subnet>) -> bool {
        subnets.iter().all(|subnet| {
            let others = self.members.iter().filter(|(other, _)| *other != peer).map(|(_, member)| member);
            let (mut in_bucket, mut in_table) = (0, 0);
            for member in others.filter(|member| member.subnets.contains(subnet)) {
                in_table += 1;
                in_bucket += usize::from(member.bucket == bucket);
            }
            in_bucket < self.config.max_per_bucket && in_table < self.config.max_per_table
        })
    }

    /// `peer` is in the table.
    pub fn on_added(&mut self, peer: PeerId, bucket: u16, subnets: BTreeSet<Subnet>) {
        self.members.insert(peer, Member { bucket, subnets });
    }

    /// Only these are in the table.
    pub fn retain(&mut self, is_in_table: impl Fn(&PeerId) -> bool) {
        self.members.retain(|peer, _| is_in_table(peer));
    }

    /// Whether the peer is known to be in the table.
    pub fn knows(&self, peer: &PeerId) -> bool {
        self.members.contains_key(peer)
    }

    /// Peers in the table.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::collections::BTreeMap;

    use libp2p::{Multiaddr, PeerId};

    use super::{BTreeSet, Diversity, Subnet, subnets};
    use crate::core::keyspace::Position;

    fn at(connected: &[&str], told: &[&str]) -> Vec<Subnet> {
        let parse =
            |addrs: &[&str]| addrs.iter().map(|addr| addr.parse().unwrap()).collect::<Vec<Multiaddr>>();
        subnets(&parse(connected), &parse(told)).into_iter().collect()
    }

    /// Peers with a connection from each address that ask for a place, one after the other.
    fn fill(addrs: impl Iterator<Item = String>) -> (Diversity, BTreeMap<(u16, Subnet), usize>) {
        let (mut table, local) = (Diversity::default(), Position::of_peer(&PeerId::random()));
        let mut buckets = BTreeMap::new();
        for addr in addrs {
            let peer = PeerId::random();
            let bucket = local.common_len(&Position::of_peer(&peer));
            let subnets: BTreeSet<_> = at(&[addr.as_str()], &["/ip4/9.9.9.9/tcp/1"]).into_iter().collect();
            if table.has_room(&peer, bucket, &subnets) {
                for subnet in &subnets {
                    *buckets.entry((bucket, *subnet)).or_default() += 1;
                }
                table.on_added(peer, bucket, subnets);
            }
        }
        (table, buckets)
    }

    #[test]
    fn a_thousand_names_on_four_subnets_get_twelve_places() {
        let (table, buckets) =
            fill((0..1_000).map(|n| format!("/ip4/8.8.{}.{}/tcp/{}", n % 4, n / 4, 1 + n)));
        assert!(table.len() <= 12, "{}", table.len());
        assert!(buckets.values().all(|peers| *peers <= 2), "{buckets:?}");
        let (table, _) = fill((0..1_000).map(|n| format!("/ip6/2a00:1450:1:{n:x}::1/tcp/1")));
        assert!(table.len() <= 3, "{}", table.len());
    }

    #[test]
    fn a_thousand_subnets_get_a_thousand_places_and_so_does_this_machine() {
        assert_eq!(
            fill((0..1_000).map(|n| format!("/ip4/8.{}.{}.1/tcp/1", n / 200, n % 200))).0.len(),
            1_000
        );
        assert_eq!(fill((0..1_000).map(|n| format!("/ip4/127.0.0.1/tcp/{}", n + 1))).0.len(), 1_000);
        assert_eq!(fill((0..250).map(|n| format!("/ip4/192.168.1.{n}/tcp/1"))).0.len(), 250);
    }

    #[test]
    fn connections_tell_where_a_peer_is_and_its_words_only_for_want_of_them() {
        let v4 = |c| Subnet::V4([8, 8, c]);
        assert_eq!(at(&["/ip4/8.8.1.1/tcp/1"], &["/ip4/8.8.2.1/tcp/1"]), [v4(1)]);
        assert_eq!(at(&["/ip4/8.8.1.1/tcp/1", "/ip6/::ffff:8.8.3.1/tcp/1"], &[]), [v4(1), v4(3)]);
        assert_eq!(at(&["/ip4/8.8.1.1/tcp/1", "/ip4/10.0.0.1/tcp/1"], &[]), []);
        assert_eq!(at(&["/dns/a.example/tcp/1"], &["/ip4/10.0.0.1/tcp/1", "/ip4/8.8.2.1/tcp/1"]), [v4(2)]);
        assert_eq!(at(&["/dns/a.example/tcp/1"], &[]), [Subnet::Unknown]);
        let relay = PeerId::random();
        assert_eq!(at(&[&format!("/ip4/8.8.1.1/tcp/1/p2p/{relay}/p2p-circuit")], &[]), [Subnet::Unknown]);
        assert_eq!(at(&[], &["/ip4/8.8.2.1/tcp/1"]), [v4(2)]);
    }

    #[test]
    fn a_place_is_free_again_when_a_peer_leaves_and_its_own_is_not_counted() {
        let (mut table, subnet) = (Diversity::default(), BTreeSet::from([Subnet::V4([8, 8, 8])]));
        let peers: Vec<PeerId> = (0..3).map(|_| PeerId::random()).collect();
        table.on_added(peers[0], 1, subnet.clone());
        table.on_added(peers[1], 1, subnet.clone());
        assert!(!table.has_room(&peers[2], 1, &subnet));
        assert!(table.has_room(&peers[2], 2, &subnet) && table.has_room(&peers[1], 1, &subnet));
        table.retain(|peer| *peer != peers[0]);
        assert!(table.has_room(&peers[2], 1, &subnet) && !table.knows(&peers[0]));
    }
}
