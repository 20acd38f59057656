//! The space in which kad orders keys and peers: positions, distances, prefixes, and what they tell of a network.
//!
//! A position is a SHA-256 digest: of the 34 bytes of a multihash for a key, of the peer ID for a peer. Positions
//! are spread evenly whatever was hashed, so a number of peers and a share of the space say the same thing.

mod prefix;
mod prefix_set;
mod size;
mod target;

use std::fmt;

use libp2p::PeerId;
use sha2::{Digest as _, Sha256};

pub use prefix::Prefix;
pub use prefix_set::PrefixSet;
pub use size::{SizeEstimate, crowded, size_around};
pub use target::target_in;

/// Bits of a position.
pub const POSITION_BITS: u16 = 256;

/// Peers that keep a record, and peers that a lookup finds: kad's parameter k.
pub const REPLICATION: usize = 20;

/// Code and length of a SHA-256 multihash, before its digest.
const MULTIHASH_HEAD: [u8; 2] = [0x12, 0x20];

/// Where a key or a peer lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub [u8; 32]);

impl Position {
    /// The first position.
    pub const FIRST: Self = Self([0; 32]);
    /// The last position.
    pub const LAST: Self = Self([0xff; 32]);

    /// Where the key of content with this digest lies.
    pub fn of_digest(digest: &[u8; 32]) -> Self {
        Self(Sha256::new_with_prefix(MULTIHASH_HEAD).chain_update(digest).finalize().into())
    }

    /// Where a peer lies.
    pub fn of_peer(peer: &PeerId) -> Self {
        Self(Sha256::digest(peer.to_bytes()).into())
    }

    /// How far it is to another position.
    pub fn distance(&self, other: &Self) -> Distance {
        let mut distance = [0; 32];
        for (byte, (a, b)) in distance.iter_mut().zip(self.0.iter().zip(other.0)) {
            *byte = a ^ b;
        }
        Distance(distance)
    }

    /// The number of leading bits in which both agree.
    pub fn common_len(&self, other: &Self) -> u16 {
        let mut len = 0;
        for (a, b) in self.0.iter().zip(other.0) {
            let zeros = (a ^ b).leading_zeros();
            len += u16::try_from(zeros).unwrap_or(8);
            if zeros < 8 {
                break;
            }
        }
        len
    }

    /// The bit at `index`, counted from the most significant one. False beyond the last.
    pub fn bit(&self, index: u16) -> bool {
        self.0.get(usize::from(index / 8)).is_some_and(|byte| byte >> (7 - index % 8) & 1 == 1)
    }

    /// Its first 64 bits as a number: where it lies as a share of the whole space.
    pub fn top(&self) -> u64 {
        top(&self.0)
    }

    /// The position with these first 64 bits and zeros after them.
    pub fn from_top(top: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&top.to_be_bytes());
        Self(bytes)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}..", self.top())
    }
}

/// How far two positions are apart: their bits combined by exclusive or, read as a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Distance([u8; 32]);

impl Distance {
    /// Its first 64 bits as a number: the share of the space that is nearer.
    pub fn top(&self) -> u64 {
        top(&self.0)
    }
}

impl fmt::Debug for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}..", self.top())
    }
}

fn top(bytes: &[u8; 32]) -> u64 {
    bytes[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use libp2p::kad::KBucketKey;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn positions_are_those_of_kad() {
        let (peer, other) = (PeerId::random(), PeerId::random());
        let distance = KBucketKey::from(peer).distance(&KBucketKey::from(other));
        let ours = Position::of_peer(&peer).distance(&Position::of_peer(&other));
        assert_eq!(distance.0.to_big_endian(), ours.0);
    }

    #[test]
    fn the_position_of_a_key_hashes_its_multihash() {
        let mut multihash = vec![0x12, 0x20];
        multihash.extend([7; 32]);
        assert_eq!(Position::of_digest(&[7; 32]).0, <[u8; 32]>::from(Sha256::digest(&multihash)));
    }

    proptest! {
        #[test]
        fn the_common_length_ends_at_the_first_bit_that_differs(a: [u8; 32], b: [u8; 32]) {
            let (a, b) = (Position(a), Position(b));
            let len = a.common_len(&b);
            prop_assert!((0..len).all(|index| a.bit(index) == b.bit(index)));
            prop_assert!(len == POSITION_BITS || a.bit(len) != b.bit(len));
            prop_assert_eq!(a.distance(&b), b.distance(&a));
            prop_assert_eq!(a.common_len(&a), POSITION_BITS);
        }

        #[test]
        fn whoever_shares_more_bits_is_nearer(a: [u8; 32], b: [u8; 32], c: [u8; 32]) {
            let (a, b, c) = (Position(a), Position(b), Position(c));
            if a.common_len(&b) > a.common_len(&c) {
                prop_assert!(a.distance(&b) < a.distance(&c));
            }
        }
    }
}
