//! Which addresses of a peer are worth keeping. Pure functions.
//!
//! Strangers name addresses in identify messages, kad answers and provider records. What is kept of them is
//! few, short, and of a scope that makes sense over the connection it came by: a peer that reaches us over
//! the Internet has nothing to tell about our loopback interface or our home network.

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

pub(crate) use crate::core::profile::{NetworkProfile as Scope, scope as scope_of};

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
/// Left out: addresses narrower than `via`, longer than [`MAX_ADDR_LEN`], of another peer, doubles, and
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
        if addr.len() > MAX_ADDR_LEN {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use libp2p::{Multiaddr, PeerId};

    use super::{MAX_ADDR_LEN, MAX_ADDRS_PER_PEER, Scope, plausible, without_peer};

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
