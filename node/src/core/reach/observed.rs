//! Where others see this node: the addresses its dials come from, as the dialled peers tell.
//!
//! Behind a NAT that maps one port of a host to the same port for every destination (RFC 4787, endpoint-independent mapping)
//! two peers on different addresses see the same port, and a third can be told to send there. Where each sees another port
//! there is nothing to tell.

use std::{collections::VecDeque, net::IpAddr};

use libp2p::{Multiaddr, multiaddr::Protocol};

/// Observations that are remembered; the oldest leaves.
const MAX_OBSERVED: usize = 32;

/// What is known about the NAT in front of this node, if there is one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mapping {
    /// Not enough peers have told.
    #[default]
    Unknown,
    /// One port for all destinations: others can be told to send there.
    EndpointIndependent,
    /// Another port for every destination.
    Symmetric,
}

/// What addresses have in common that can be compared: nothing is said about TCP by what is seen over UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    is_ipv6: bool,
    is_udp: bool,
}

#[derive(Debug)]
struct Seen {
    observer: IpAddr,
    kind: Kind,
    addr: Multiaddr,
}

/// What others have observed.
#[derive(Debug, Default)]
pub struct Observed {
    /// Oldest first; one for each observer and kind.
    seen: VecDeque<Seen>,
}

impl Observed {
    /// A peer at `observer`, dialled from a listen port, sees this node at `addr`. Returns the address if this makes it one
    /// that two observers agree on.
    pub fn on_observed(&mut self, observer: IpAddr, addr: &Multiaddr) -> Option<Multiaddr> {
        let kind = kind(addr)?;
        let known = self.seen.iter().position(|seen| seen.observer == observer && seen.kind == kind);
        let before = known.and_then(|known| self.seen.remove(known));
        if self.seen.len() >= MAX_OBSERVED {
            self.seen.pop_front();
        }
        let others = self.seen.iter().filter(|seen| seen.addr == *addr).count();
        self.seen.push_back(Seen { observer, kind, addr: addr.clone() });
        let is_new = before.is_none_or(|before| before.addr != *addr);
        (others == 1 && is_new).then(|| addr.clone())
    }

    /// This node listens somewhere else: what was seen before says nothing any more.
    pub fn on_moved(&mut self) {
        self.seen.clear();
    }

    /// What this says about the NAT. One kind of address that others can be told is enough.
    pub fn mapping(&self) -> Mapping {
        let count = |of: &Seen| self.seen.iter().filter(|seen| seen.addr == of.addr).count();
        let observers = |of: &Seen| self.seen.iter().filter(|seen| seen.kind == of.kind).count();
        if self.seen.iter().any(|seen| count(seen) > 1) {
            Mapping::EndpointIndependent
        } else if self.seen.iter().any(|seen| observers(seen) > 1) {
            Mapping::Symmetric
        } else {
            Mapping::Unknown
        }
    }
}

/// The kind of an address with an IP and a port; `None` for others.
fn kind(addr: &Multiaddr) -> Option<Kind> {
    let mut parts = addr.iter();
    let is_ipv6 = match parts.next()? {
        Protocol::Ip4(_) => false,
        Protocol::Ip6(_) => true,
        _ => return None,
    };
    let is_udp = match parts.next()? {
        Protocol::Tcp(1..) => false,
        Protocol::Udp(1..) => true,
        _ => return None,
    };
    let is_plain = parts.all(|part| !matches!(part, Protocol::P2pCircuit | Protocol::P2p(_)));
    is_plain.then_some(Kind { is_ipv6, is_udp })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "the addresses are written down here")]

    use proptest::prelude::*;

    use super::*;

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([9, 9, 9, last])
    }

    #[test]
    fn an_address_that_two_observers_see_is_told_once() {
        let (mut observed, seen) = (Observed::default(), addr("/ip4/5.5.5.5/tcp/6001"));
        assert_eq!(observed.on_observed(ip(1), &seen), None);
        assert_eq!(observed.on_observed(ip(1), &seen), None, "the same observer again");
        assert_eq!(observed.mapping(), Mapping::Unknown);
        assert_eq!(observed.on_observed(ip(2), &seen), Some(seen.clone()));
        assert_eq!(observed.on_observed(ip(2), &seen), None);
        assert_eq!(observed.on_observed(ip(3), &seen), None);
        assert_eq!(observed.mapping(), Mapping::EndpointIndependent);
        observed.on_moved();
        assert_eq!(observed.mapping(), Mapping::Unknown);
    }

    #[test]
    fn another_port_for_everybody_is_symmetric_and_kinds_are_not_compared() {
        let mut observed = Observed::default();
        observed.on_observed(ip(1), &addr("/ip4/5.5.5.5/tcp/6001"));
        observed.on_observed(ip(2), &addr("/ip4/5.5.5.5/udp/6002/quic-v1"));
        assert_eq!(observed.mapping(), Mapping::Unknown, "one observer each");
        observed.on_observed(ip(2), &addr("/ip4/5.5.5.5/tcp/6003"));
        assert_eq!(observed.mapping(), Mapping::Symmetric);
        observed.on_observed(ip(3), &addr("/ip4/5.5.5.5/udp/6002/quic-v1"));
        assert_eq!(observed.mapping(), Mapping::EndpointIndependent, "over UDP others can be told");
    }

    #[test]
    fn what_has_no_port_or_goes_through_a_relay_says_nothing() {
        let mut observed = Observed::default();
        let relay = "/ip4/5.5.5.5/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit";
        for text in ["/ip4/5.5.5.5", "/ip4/5.5.5.5/tcp/0", "/memory/5", "/dns/a.example/tcp/5", relay] {
            for observer in 1..4 {
                assert_eq!(observed.on_observed(ip(observer), &addr(text)), None, "{text}");
            }
        }
        assert_eq!(observed.mapping(), Mapping::Unknown);
    }

    proptest! {
        #[test]
        fn only_so_much_is_remembered_and_one_observer_never_decides(
            tells in prop::collection::vec((0..60u8, 1..4u16, any::<bool>()), 0..200),
        ) {
            let mut observed = Observed::default();
            for (observer, port, is_udp) in &tells {
                let text = if *is_udp { format!("/ip4/5.5.5.5/udp/{port}/quic-v1") } else { format!("/ip4/5.5.5.5/tcp/{port}") };
                let agreed = observed.on_observed(ip(*observer), &addr(&text));
                prop_assert!(observed.seen.len() <= MAX_OBSERVED);
                if let Some(agreed) = agreed {
                    let observers = observed.seen.iter().filter(|seen| seen.addr == agreed).count();
                    prop_assert_eq!(observers, 2);
                }
            }
        }
    }
}
