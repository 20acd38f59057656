//! A NAT box: what it remembers of packets that went out, and which packets it therefore lets in.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::spec::{Filtering, Mapping, NatSpec};

/// First external port that is given when the number is not kept.
const FIRST_SHIFTED_PORT: u16 = 20_000;

/// So many mappings may be there before expired ones are looked for.
const SWEEP_FROM: usize = 64;

/// What an inner socket has outside.
#[derive(Debug)]
struct Outer {
    inner: SocketAddrV4,
    /// The only destination of a mapping of a symmetric NAT.
    only: Option<SocketAddrV4>,
    /// Whether a person configured it; it never expires and lets everybody in.
    is_forwarded: bool,
    /// Whom it was used with, and until when that counts: microseconds, and the largest number while a
    /// connection is established.
    sessions: BTreeMap<SocketAddrV4, u64>,
}

impl Outer {
    fn is_alive(&self, now: u64) -> bool {
        self.is_forwarded || self.sessions.values().any(|until| *until > now)
    }
}

/// One box. Time comes in as microseconds.
#[derive(Debug)]
pub(super) struct NatBox {
    pub(super) spec: NatSpec,
    pub(super) ip: Ipv4Addr,
    ports: BTreeMap<u16, Outer>,
    /// Inner socket and, for a symmetric NAT, destination: which external port.
    by_inner: BTreeMap<(SocketAddrV4, Option<SocketAddrV4>), u16>,
    next_port: u16,
    sweep_at: usize,
}

impl NatBox {
    pub(super) fn new(spec: NatSpec, ip: Ipv4Addr) -> Self {
        Self {
            spec,
            ip,
            ports: BTreeMap::new(),
            by_inner: BTreeMap::new(),
            next_port: FIRST_SHIFTED_PORT,
            sweep_at: SWEEP_FROM,
        }
    }

    /// Forwards an external port to an inner socket, for ever.
    pub(super) fn forward(&mut self, port: u16, inner: SocketAddrV4) {
        self.remove(port);
        // What the inner socket sends must leave from the forwarded port too.
        self.by_inner.insert((inner, None), port);
        let outer = Outer { inner, only: None, is_forwarded: true, sessions: BTreeMap::new() };
        self.ports.insert(port, outer);
    }

    /// A packet from `inner` to `remote` goes out. Returns the external port that it leaves from.
    pub(super) fn outbound(&mut self, inner: SocketAddrV4, remote: SocketAddrV4, now: u64) -> u16 {
        let port = self.live_mapping(inner, remote, now).unwrap_or_else(|| self.map(inner, remote, now));
        self.touch(port, remote, now);
        port
    }

    /// A packet from `remote` to an external port comes in. Returns the inner socket that gets it, if any.
    pub(super) fn inbound(&mut self, port: u16, remote: SocketAddrV4, now: u64) -> Option<SocketAddrV4> {
        let outer = self.ports.get(&port)?;
        let mut known = outer.sessions.iter().filter(|(_, until)| **until > now).map(|(at, _)| at);
        let is_let_in = outer.is_forwarded
            || match self.spec.filtering {
                Filtering::None => known.next().is_some(),
                Filtering::Address => known.any(|at| at.ip() == remote.ip()),
                Filtering::AddressAndPort => known.any(|at| *at == remote),
            };
        let inner = outer.inner;
        is_let_in.then(|| {
            self.touch(port, remote, now);
            inner
        })
    }

    /// A connection through an external port is established, and counts until [`NatBox::closed`].
    pub(super) fn established(&mut self, port: u16, remote: SocketAddrV4) {
        if let Some(outer) = self.ports.get_mut(&port) {
            outer.sessions.insert(remote, u64::MAX);
        }
    }

    /// A connection ended; its mapping stays for a while.
    pub(super) fn closed(&mut self, port: u16, remote: SocketAddrV4, now: u64) {
        let until = now.saturating_add(micros(self.spec.transitory));
        if let Some(outer) = self.ports.get_mut(&port) {
            outer.sessions.insert(remote, until);
        }
    }

    /// An established connection was idle for too long; nothing of it is remembered.
    pub(super) fn forget(&mut self, port: u16, remote: SocketAddrV4) {
        if let Some(outer) = self.ports.get_mut(&port) {
            outer.sessions.remove(&remote);
        }
    }

    /// Whether a stranger who sends to the right external port reaches `inner`.
    pub(super) fn is_open(&self, inner: SocketAddrV4, now: u64) -> bool {
        self.ports.values().any(|outer| {
            outer.inner == inner
                && (outer.is_forwarded || (self.spec.filtering == Filtering::None && outer.is_alive(now)))
        })
    }

    fn touch(&mut self, port: u16, remote: SocketAddrV4, now: u64) {
        let until = now.saturating_add(micros(self.spec.transitory));
        if let Some(outer) = self.ports.get_mut(&port) {
            let at = outer.sessions.entry(remote).or_default();
            *at = until.max(*at);
        }
    }

    fn live_mapping(&mut self, inner: SocketAddrV4, remote: SocketAddrV4, now: u64) -> Option<u16> {
        let is_symmetric = self.spec.mapping == Mapping::PerDestination;
        let forwarded = self.by_inner.get(&(inner, None)).copied();
        let own = is_symmetric.then(|| self.by_inner.get(&(inner, Some(remote))).copied()).flatten();
        let port = forwarded.or(own)?;
        if self.ports.get(&port).is_some_and(|outer| outer.is_alive(now)) {
            return Some(port);
        }
        self.remove(port);
        None
    }

    fn map(&mut self, inner: SocketAddrV4, remote: SocketAddrV4, now: u64) -> u16 {
        if self.ports.len() >= self.sweep_at {
            self.sweep(now);
        }
        let only = (self.spec.mapping == Mapping::PerDestination).then_some(remote);
        let port = match self.spec.mapping {
            Mapping::Keep if self.is_free(inner.port(), now) => inner.port(),
            _ => self.next_free(inner.port(), now),
        };
        self.remove(port);
        self.by_inner.insert((inner, only), port);
        self.ports.insert(port, Outer { inner, only, is_forwarded: false, sessions: BTreeMap::new() });
        port
    }

    fn next_free(&mut self, unlike: u16, now: u64) -> u16 {
        for _ in 0..u16::MAX {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_SHIFTED_PORT).max(FIRST_SHIFTED_PORT);
            if port != unlike && self.is_free(port, now) {
                return port;
            }
        }
        self.next_port
    }

    fn is_free(&self, port: u16, now: u64) -> bool {
        self.ports.get(&port).is_none_or(|outer| !outer.is_alive(now))
    }

    fn remove(&mut self, port: u16) {
        if let Some(outer) = self.ports.remove(&port) {
            self.by_inner.remove(&(outer.inner, outer.only));
        }
    }

    /// Forgets what has expired; a long run would keep it all.
    fn sweep(&mut self, now: u64) {
        for outer in self.ports.values_mut() {
            outer.sessions.retain(|_, until| *until > now);
        }
        let dead: Vec<u16> =
            self.ports.iter().filter(|(_, outer)| !outer.is_alive(now)).map(|(port, _)| *port).collect();
        for port in dead {
            self.remove(port);
        }
        self.sweep_at = (self.ports.len() * 2).max(SWEEP_FROM);
    }
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTER: Ipv4Addr = Ipv4Addr::new(84, 1, 2, 3);
    const SECOND: u64 = 1_000_000;

    fn at(last: u8, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(90, 0, 0, last), port)
    }

    fn inner(last: u8, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(192, 168, 0, last), port)
    }

    fn nat(mapping: Mapping, filtering: Filtering) -> NatBox {
        NatBox::new(NatSpec::new(mapping, filtering), OUTER)
    }

    #[test]
    fn mappings_table() {
        // Kind, port to one destination, whether it is the same to another one.
        for (mapping, keeps, is_same) in [
            (Mapping::Keep, true, true),
            (Mapping::Shift, false, true),
            (Mapping::PerDestination, false, false),
        ] {
            let mut nat = nat(mapping, Filtering::AddressAndPort);
            let first = nat.outbound(inner(2, 4001), at(1, 1), 0);
            assert_eq!(first == 4001, keeps, "{mapping:?}");
            assert_eq!(nat.outbound(inner(2, 4001), at(2, 1), 0) == first, is_same, "{mapping:?}");
            assert_eq!(nat.outbound(inner(2, 4001), at(1, 1), 0), first, "{mapping:?}");
            assert_ne!(nat.outbound(inner(3, 4001), at(1, 1), 0), first, "{mapping:?}: another host's port");
        }
    }

    #[test]
    fn filtering_table() {
        // Filter, then whether each of these gets in: who was sent to, the same from another port, a stranger.
        for (filtering, expected) in [
            (Filtering::None, [true, true, true]),
            (Filtering::Address, [true, true, false]),
            (Filtering::AddressAndPort, [true, false, false]),
        ] {
            for mapping in [Mapping::Keep, Mapping::Shift, Mapping::PerDestination] {
                let mut nat = nat(mapping, filtering);
                let port = nat.outbound(inner(2, 4001), at(1, 1), 0);
                let found = [at(1, 1), at(1, 2), at(2, 1)].map(|from| {
                    // Being let in makes a session, so each one asks a box of its own.
                    let mut nat = super::tests::nat(mapping, filtering);
                    assert_eq!(nat.outbound(inner(2, 4001), at(1, 1), 0), port);
                    nat.inbound(port, from, SECOND) == Some(inner(2, 4001))
                });
                assert_eq!(found, expected, "{mapping:?} {filtering:?}");
                assert_eq!(nat.inbound(port + 1, at(1, 1), 0), None, "no such port");
            }
        }
    }

    #[test]
    fn what_is_not_established_is_forgotten_early() {
        let mut nat = nat(Mapping::Keep, Filtering::AddressAndPort);
        let port = nat.outbound(inner(2, 4001), at(1, 1), 0);
        assert!(nat.inbound(port, at(1, 1), 119 * SECOND).is_some());
        assert!(nat.inbound(port, at(1, 1), 238 * SECOND).is_some(), "a packet counts from when it passed");
        assert!(nat.inbound(port, at(1, 1), 400 * SECOND).is_none());
    }

    #[test]
    fn what_is_established_is_kept_until_it_ends() {
        let mut nat = nat(Mapping::Keep, Filtering::AddressAndPort);
        let port = nat.outbound(inner(2, 4001), at(1, 1), 0);
        nat.established(port, at(1, 1));
        assert!(nat.inbound(port, at(1, 1), 99_999 * SECOND).is_some());
        nat.closed(port, at(1, 1), 100_000 * SECOND);
        assert!(nat.inbound(port, at(1, 1), 100_100 * SECOND).is_some());
        nat.forget(port, at(1, 1));
        assert!(nat.inbound(port, at(1, 1), 100_101 * SECOND).is_none());
    }

    #[test]
    fn a_forwarded_port_lets_strangers_in_and_is_left_from() {
        for mapping in [Mapping::Keep, Mapping::Shift, Mapping::PerDestination] {
            let mut nat = nat(mapping, Filtering::AddressAndPort);
            nat.forward(443, inner(2, 4001));
            assert_eq!(nat.inbound(443, at(9, 9), 0), Some(inner(2, 4001)));
            assert_eq!(nat.outbound(inner(2, 4001), at(1, 1), 0), 443, "{mapping:?}");
            assert!(nat.is_open(inner(2, 4001), 0));
            assert!(!nat.is_open(inner(3, 4001), 0));
        }
    }

    #[test]
    fn expired_mappings_are_swept() {
        let mut nat = nat(Mapping::PerDestination, Filtering::AddressAndPort);
        for minute in 0..10_000_u64 {
            let port = u16::try_from(minute).unwrap_or_default();
            nat.outbound(inner(2, 4001), at(1, port), minute * 60 * SECOND);
        }
        assert!(nat.ports.len() <= 2 * SWEEP_FROM, "{}", nat.ports.len());
        assert_eq!(nat.ports.len(), nat.by_inner.len());
    }
}
