//! The addresses of a provider in one piece of memory: for each its length in one byte, then its bytes.

use libp2p::Multiaddr;

use crate::net::limits::{MAX_ADDRS_PER_PEER, MAX_PROVIDER_ADDRS_LEN};

/// The addresses of a provider, at most [`MAX_PROVIDER_ADDRS_LEN`] bytes of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PackedAddrs(Box<[u8]>);

impl PackedAddrs {
    /// Packs as many of `addrs` as fit, in their order, and says how many do not.
    pub(super) fn new(addrs: &[Multiaddr]) -> (Self, usize) {
        let mut packed = Vec::new();
        let mut kept = 0;
        for addr in addrs {
            let Ok(len) = u8::try_from(addr.len()) else { continue };
            if kept < MAX_ADDRS_PER_PEER && packed.len() + 1 + addr.len() <= MAX_PROVIDER_ADDRS_LEN {
                packed.push(len);
                packed.extend_from_slice(addr.as_ref());
                kept += 1;
            }
        }
        (Self(packed.into_boxed_slice()), addrs.len().saturating_sub(kept))
    }

    /// The addresses.
    pub(super) fn unpack(&self) -> Vec<Multiaddr> {
        let mut addrs = Vec::new();
        let mut rest: &[u8] = &self.0;
        while let Some((len, tail)) = rest.split_first() {
            let Some((addr, tail)) = tail.split_at_checked(usize::from(*len)) else { break };
            // All bytes came from addresses, so none is lost here.
            addrs.extend(Multiaddr::try_from(addr.to_vec()));
            rest = tail;
        }
        addrs
    }

    /// Bytes.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use libp2p::Multiaddr;

    use super::{MAX_ADDRS_PER_PEER, MAX_PROVIDER_ADDRS_LEN, PackedAddrs};

    #[test]
    fn addresses_come_out_as_they_went_in() {
        let addrs: Vec<Multiaddr> = ["/ip4/8.8.8.8/tcp/1", "/memory/7", "/dns/x.org/udp/1/quic-v1"]
            .map(|a| a.parse().unwrap())
            .into();
        let (packed, dropped) = PackedAddrs::new(&addrs);
        assert_eq!((packed.unpack(), dropped), (addrs, 0));
        assert_eq!(PackedAddrs::new(&[]).0.unpack(), []);
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let many: Vec<Multiaddr> = (0..20).map(|n| format!("/memory/{n}").parse().unwrap()).collect();
        let (packed, dropped) = PackedAddrs::new(&many);
        assert_eq!(packed.unpack(), many[..MAX_ADDRS_PER_PEER]);
        assert_eq!(dropped, 20 - MAX_ADDRS_PER_PEER);
        let long = |c: &str| format!("/dns/{}/tcp/1", c.repeat(180)).parse().unwrap();
        let addrs: [Multiaddr; 4] = [long("a"), long("b"), long("c"), "/memory/1".parse().unwrap()];
        let (packed, dropped) = PackedAddrs::new(&addrs);
        assert!(packed.len() <= MAX_PROVIDER_ADDRS_LEN);
        assert_eq!(
            (packed.unpack(), dropped),
            (vec![addrs[0].clone(), addrs[1].clone(), addrs[3].clone()], 1)
        );
    }
}
