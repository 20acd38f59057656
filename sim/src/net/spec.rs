//! What a simulated network is made of: where hosts are, what their links carry, what stands before them.

use std::time::Duration;

use rand::{Rng, RngExt};

/// How many bits a link carries in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitRate(u64);

impl BitRate {
    /// That many thousand bits a second.
    pub const fn kilo(rate: u64) -> Self {
        Self::bits(rate.saturating_mul(1_000))
    }

    /// That many million bits a second.
    pub const fn mega(rate: u64) -> Self {
        Self::bits(rate.saturating_mul(1_000_000))
    }

    /// That many bits a second, at least one.
    pub const fn bits(rate: u64) -> Self {
        Self(if rate == 0 { 1 } else { rate })
    }

    /// How long `len` bytes occupy the link, in microseconds.
    pub(super) fn micros(self, len: usize) -> u64 {
        (len as u64).saturating_mul(8_000_000).div_ceil(self.0)
    }
}

/// Where a host is. The delay between two hosts, one way, is their distance on a plane measured in milliseconds,
/// plus what each one's access line adds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Position {
    /// Milliseconds to the east.
    pub x: f64,
    /// Milliseconds to the north.
    pub y: f64,
    /// What the line from the host to the plane adds to every delay.
    pub access: Duration,
}

impl Position {
    /// Delay to `other`, one way.
    pub fn delay(&self, other: &Self) -> Duration {
        let (dx, dy) = (self.x - other.x, self.y - other.y);
        // Only additions, products and a square root: IEEE 754 has one result for each, on every machine.
        Duration::from_secs_f64((dx * dx + dy * dy).sqrt() / 1_000.0) + self.access + other.access
    }
}

/// A rule that places hosts.
#[derive(Debug, Clone)]
pub struct Geo {
    /// Centre, scatter to every side in milliseconds, share of the hosts.
    regions: Vec<(f64, f64, f64, u32)>,
    access: (Duration, Duration),
}

impl Geo {
    /// Every two hosts are `one_way` apart.
    pub fn flat(one_way: Duration) -> Self {
        Self { regions: vec![(0.0, 0.0, 0.0, 1)], access: (one_way / 2, one_way / 2) }
    }

    /// Five regions with the distances of the real ones: Europe, both coasts of North America, East Asia, South
    /// America; access lines of 2 to 12 ms. Europe to East Asia is about 125 ms one way, within Europe 5 to 35.
    pub fn five_regions() -> Self {
        Self {
            regions: vec![
                (40.0, 5.0, 9.0, 35),
                (0.0, 0.0, 6.0, 20),
                (-33.0, 2.0, 5.0, 15),
                (-84.0, 5.0, 12.0, 22),
                (15.0, -55.0, 8.0, 8),
            ],
            access: (Duration::from_millis(2), Duration::from_millis(12)),
        }
    }

    /// The next host's place.
    pub fn place(&self, rng: &mut impl Rng) -> Position {
        let total: u32 = self.regions.iter().map(|region| region.3).sum();
        let mut ticket = rng.random_range(0..total.max(1));
        let region = self.regions.iter().find(|region| {
            let is_hit = ticket < region.3;
            ticket = ticket.saturating_sub(region.3);
            is_hit
        });
        let &(x, y, scatter, _) = region.unwrap_or(&(0.0, 0.0, 0.0, 1));
        let (low, high) = self.access;
        Position {
            x: x + scatter * rng.random_range(-1.0..=1.0),
            y: y + scatter * rng.random_range(-1.0..=1.0),
            access: low + (high - low).mul_f64(rng.random_range(0.0..=1.0)),
        }
    }
}

/// What a host is like. The default is a public host with a perfect link.
#[derive(Debug, Clone)]
pub struct HostSpec {
    /// Where it is. Hosts behind one NAT box are all where the first of them is.
    pub position: Position,
    /// Rate of its uplink; `None` is unlimited. Connections share a limited link evenly.
    pub up: Option<BitRate>,
    /// Rate of its downlink; `None` is unlimited.
    pub down: Option<BitRate>,
    /// Share of the segments, to and from this host, that have to be sent again. One that is lost comes one
    /// retransmission timeout later.
    pub loss: f64,
    /// What a segment, to or from this host, may take longer; drawn evenly from zero to this.
    pub jitter: Duration,
    /// Hosts with the same number share a network of 256 public addresses (/24), and up to 254 fit; with none the host
    /// has a network of its own. Means nothing behind a NAT box. Fixed once the host exists.
    pub network: Option<u32>,
    /// The NAT box that it is behind. Fixed once the host exists.
    pub nat: Option<Nat>,
    /// Whether strangers may connect. Without it, only answers to what the host sent come in; a firewall does that.
    pub inbound: bool,
}

impl Default for HostSpec {
    fn default() -> Self {
        Self {
            position: Position::default(),
            up: None,
            down: None,
            loss: 0.0,
            jitter: Duration::ZERO,
            network: None,
            nat: None,
            inbound: true,
        }
    }
}

/// Which NAT box a host is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// A new one, of its own unless others are put behind it.
    New(NatSpec),
    /// The one that [`super::Net::nat`] told of another host.
    Behind(NatId),
}

impl From<NatSpec> for Nat {
    fn from(spec: NatSpec) -> Self {
        Self::New(spec)
    }
}

impl From<NatId> for Nat {
    fn from(id: NatId) -> Self {
        Self::Behind(id)
    }
}

/// A NAT box of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NatId(pub(super) u32);

/// Which external port a NAT box gives to an inner address and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// The same for every destination, and the number is kept if it is free.
    Keep,
    /// The same for every destination, but another number.
    Shift,
    /// Another one for every destination: a symmetric NAT.
    PerDestination,
}

/// From whom a NAT box lets a packet in, to a port that it has mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filtering {
    /// From everybody: a full cone.
    None,
    /// From addresses that were sent to through this mapping.
    Address,
    /// From addresses and ports that were sent to through this mapping.
    AddressAndPort,
}

/// How a NAT box behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NatSpec {
    /// Which external port it gives.
    pub mapping: Mapping,
    /// Whom it lets in.
    pub filtering: Filtering,
    /// Whether hosts behind it reach each other by the outer address.
    pub hairpin: bool,
    /// How long it keeps an established connection on which nothing is sent. RFC 5382 asks for two hours.
    pub established: Duration,
    /// How long it keeps one that is being set up, or has ended.
    pub transitory: Duration,
}

impl NatSpec {
    /// Idle time after which an established connection is forgotten, unless a spec says otherwise.
    pub const ESTABLISHED: Duration = Duration::from_secs(2 * 3600);
    /// The same for a connection that is not established.
    pub const TRANSITORY: Duration = Duration::from_secs(120);

    /// A box of that kind, without hairpin, with the default lifetimes.
    pub const fn new(mapping: Mapping, filtering: Filtering) -> Self {
        Self {
            mapping,
            filtering,
            hairpin: false,
            established: Self::ESTABLISHED,
            transitory: Self::TRANSITORY,
        }
    }

    /// Keeps the port and lets everybody in who knows it.
    pub const fn full_cone() -> Self {
        Self::new(Mapping::Keep, Filtering::None)
    }

    /// Keeps the port and lets in the addresses that were sent to.
    pub const fn address_restricted() -> Self {
        Self::new(Mapping::Keep, Filtering::Address)
    }

    /// Keeps the port and lets in exactly whom was sent to. Home routers mostly are like this.
    pub const fn port_restricted() -> Self {
        Self::new(Mapping::Keep, Filtering::AddressAndPort)
    }

    /// As [`NatSpec::port_restricted`], but on an external port with another number.
    pub const fn port_shifting() -> Self {
        Self::new(Mapping::Shift, Filtering::AddressAndPort)
    }

    /// Another external port for every destination, and lets in exactly whom was sent to.
    pub const fn symmetric() -> Self {
        Self::new(Mapping::PerDestination, Filtering::AddressAndPort)
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn a_flat_world_has_one_delay() {
        let geo = Geo::flat(Duration::from_millis(50));
        let mut rng = StdRng::seed_from_u64(1);
        let (a, b) = (geo.place(&mut rng), geo.place(&mut rng));
        assert_eq!(a.delay(&b), Duration::from_millis(50));
    }

    #[test]
    fn regions_are_as_far_apart_as_the_real_ones() {
        let geo = Geo::five_regions();
        let mut rng = StdRng::seed_from_u64(1);
        let places: Vec<_> = (0..300).map(|_| geo.place(&mut rng)).collect();
        let mut delays: Vec<_> = places.iter().flat_map(|a| places.iter().map(|b| a.delay(b))).collect();
        delays.sort();
        let (median, most) = (delays[delays.len() / 2], delays[delays.len() - 1]);
        assert!((40..100).contains(&median.as_millis()), "{median:?}");
        assert!((130..190).contains(&most.as_millis()), "{most:?}");
    }

    #[test]
    fn a_link_is_occupied_for_the_bits_over_the_rate() {
        assert_eq!(BitRate::mega(8).micros(1_000_000), 1_000_000);
        assert_eq!(BitRate::kilo(64).micros(8), 1_000);
        assert_eq!(BitRate::bits(0).micros(1), 8_000_000);
    }
}
