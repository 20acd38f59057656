//! Which addresses of a peer are worth keeping. Pure functions.
//!
//! Strangers name addresses in identify messages, kad answers and provider records. What is kept of them is
//! few, short, and of a scope that makes sense over the connection it came by: a peer that reaches us over
//! the Internet has nothing to tell about our loopback interface or our home network.

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

pub(crate) use crate::core::profile::{NetworkProfile as Scope, connection_scope, scope as scope_of};
use crate::core::profile::{is_zoned, link_local, without_zone};

use super::limits::{MAX_ADDR_LEN, MAX_ADDRS_PER_PEER};

/// `addr` without a `/p2p/<peer>` at its end; `None` if it ends in another peer's ID.
pub(crate) fn without_peer(addr: &Multiaddr, peer: &PeerId) -> Option<Multiaddr> {
    let mut addr = addr.clone();
    if let Some(Protocol::P2p(named)) = addr.iter().last() {
        if named != *peer {
            return None;
        }
        addr.pop();
    }
    Some(addr)
}

/// The peer that an address names at its end.
pub(crate) fn peer_in(addr: &Multiaddr) -> Option<PeerId> {
    match addr.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// What is kept of the addresses a peer is said to have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// At most [`MAX_ADDRS_PER_PEER`] addresses without `/p2p/`, in the order given.
    pub(crate) addrs: Vec<Multiaddr>,
    /// How many were left out, doubles not counted.
    pub(crate) dropped: usize,
}

/// Picks the addresses of `peer` that are worth keeping if they were learnt over a connection of scope `via`.
///
/// Left out: addresses narrower than `via`, longer than [`MAX_ADDR_LEN`], of another peer, with a zone, doubles, and
/// loopback addresses of a peer that has others.
pub(crate) fn plausible<'a>(
    addrs: impl IntoIterator<Item = &'a Multiaddr>,
    peer: &PeerId,
    via: Scope,
) -> Kept {
    let mut kept: Vec<(Scope, Multiaddr)> = Vec::new();
    let mut seen = 0usize;
    for addr in addrs {
        seen = seen.saturating_add(1);
        let Some(scope) = scope_of(addr).filter(|scope| *scope >= via) else { continue };
        if addr.len() > MAX_ADDR_LEN || is_zoned(addr) {
            continue;
        }
        let Some(addr) = without_peer(addr, peer) else { continue };
        if kept.iter().any(|(_, known)| *known == addr) {
            seen = seen.saturating_sub(1);
        } else {
            kept.push((scope, addr));
        }
    }
    if kept.iter().any(|(scope, _)| *scope != Scope::Loopback) {
        kept.retain(|(scope, _)| *scope != Scope::Loopback);
    }
    let addrs: Vec<Multiaddr> = kept.into_iter().map(|(_, addr)| addr).take(MAX_ADDRS_PER_PEER).collect();
    let dropped = seen.saturating_sub(addrs.len());
    Kept { addrs, dropped }
}

/// The IPv6 link-local addresses of `peer`, without zones, that one of its `connections` shows to be its own: those under which
/// it was dialled, and where it says it `listen`s. For a peer that has no others.
pub(crate) fn link_local_addrs<'a>(
    connections: impl IntoIterator<Item = (&'a Multiaddr, bool)>,
    listen: &[Multiaddr],
    peer: &PeerId,
) -> Vec<Multiaddr> {
    let mut kept: Vec<Multiaddr> = Vec::new();
    for (addr, is_dialled) in connections {
        let Some(ip) = link_local(addr) else { continue };
        let told = listen.iter().filter(|told| link_local(told) == Some(ip) && told.len() <= MAX_ADDR_LEN);
        let dialled = is_dialled.then_some(addr);
        for addr in dialled.into_iter().chain(told) {
            let is_tcp = addr.iter().any(|part| matches!(part, Protocol::Tcp(1..)));
            let Some(addr) = without_peer(&without_zone(addr), peer).filter(|_| is_tcp) else { continue };
            if kept.len() < MAX_ADDRS_PER_PEER && !kept.contains(&addr) {
                kept.push(addr);
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use libp2p::{Multiaddr, PeerId};

    use super::{MAX_ADDR_LEN, MAX_ADDRS_PER_PEER, Scope, link_local_addrs, plausible, without_peer};

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn peer(n: u8) -> PeerId {
        libp2p::identity::Keypair::ed25519_from_bytes([n; 32]).unwrap().public().to_peer_id()
    }

    #[test]
    fn a_connection_tells_nothing_about_narrower_scopes() {
        let all = [addr("/ip4/127.0.0.1/tcp/1"), addr("/ip4/10.0.0.1/tcp/1"), addr("/ip4/8.8.8.8/tcp/1")];
        let kept = |via| plausible(&all, &peer(1), via).addrs;
        assert_eq!(kept(Scope::Public), [all[2].clone()]);
        assert_eq!(kept(Scope::Private), [all[1].clone(), all[2].clone()]);
        assert_eq!(kept(Scope::Loopback), [all[1].clone(), all[2].clone()], "it has better ones");
        let only = plausible(&all[..1], &peer(1), Scope::Loopback);
        assert_eq!(only.addrs, all[..1]);
        assert_eq!(plausible(&all[..1], &peer(1), Scope::Private).dropped, 1);
    }

    #[test]
    fn addresses_of_another_peer_and_doubles_are_left_out() {
        let base = addr("/ip4/10.0.0.1/tcp/1");
        let own = base.clone().with_p2p(peer(1)).unwrap();
        let others = base.clone().with_p2p(peer(2)).unwrap();
        let kept = plausible(&[own.clone(), base.clone(), others.clone()], &peer(1), Scope::Private);
        assert_eq!(kept.addrs, std::slice::from_ref(&base));
        assert_eq!(kept.dropped, 1);
        assert_eq!(without_peer(&own, &peer(1)), Some(base));
        assert_eq!(without_peer(&others, &peer(1)), None);
    }

    #[test]
    fn a_zone_is_taken_from_nobody_and_a_link_local_address_from_whom_it_is_seen_to_have_it() {
        let zoned = addr("/ip6zone/eth0/ip6/fe80::1/tcp/4343");
        assert!(plausible([&zoned], &peer(1), Scope::Loopback).addrs.is_empty());
        let listen = [
            addr("/ip6/fe80::1/tcp/4343"),
            addr("/ip6/fe80::1/udp/4343/quic-v1"),
            addr("/ip6/fe80::2/tcp/4343"),
            addr("/ip4/10.0.0.1/tcp/1"),
        ];
        let kept = |connection: &str, is_dialled| {
            link_local_addrs([(&addr(connection), is_dialled)], &listen, &peer(1))
        };
        assert_eq!(kept("/ip6/fe80::1/tcp/50000", false), listen[..1]);
        assert_eq!(kept("/ip6zone/2/ip6/fe80::1/tcp/4343", true), listen[..1]);
        let other = [addr("/ip6/fe80::1/tcp/7"), listen[0].clone()];
        assert_eq!(kept("/ip6zone/2/ip6/fe80::1/tcp/7", true), other);
        assert!(kept("/ip4/10.0.0.1/tcp/50000", false).is_empty());
    }

    #[test]
    fn at_most_eight_addresses_of_limited_length_are_kept() {
        let many: Vec<Multiaddr> = (1..=40).map(|n| addr(&format!("/ip4/10.0.0.{n}/tcp/1"))).collect();
        let kept = plausible(&many, &peer(1), Scope::Private);
        assert_eq!(kept.addrs, many[..MAX_ADDRS_PER_PEER]);
        assert_eq!(kept.dropped, 40 - MAX_ADDRS_PER_PEER);
        let named = |len: usize| addr(&format!("/dns/{}/tcp/1", "a".repeat(len)));
        let longest = (1..300).map(named).rfind(|addr| addr.len() <= MAX_ADDR_LEN).unwrap();
        assert_eq!(longest.len(), MAX_ADDR_LEN);
        let longer = (1..300).map(named).find(|addr| addr.len() > MAX_ADDR_LEN).unwrap();
        assert_eq!(plausible([&longest], &peer(1), Scope::Public).addrs.len(), 1);
        assert_eq!(plausible([&longer], &peer(1), Scope::Public).addrs.len(), 0);
    }
}
