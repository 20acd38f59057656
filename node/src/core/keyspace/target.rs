//! Keys that lie where a lookup is wanted.

use rand::{Rng, RngExt as _};

use super::{Position, Prefix};

/// Searches a digest whose key lies in `prefix`, with at most `max_tries` hashes.
///
/// A lookup carries the key and every peer hashes it, so a place in the keyspace is only reached through something
/// that hashes to it. Half as wide a prefix takes twice the hashes: 2^len on average. A search of 8 * 2^len fails
/// once in 3,000 times.
pub fn target_in(prefix: &Prefix, rng: &mut impl Rng, max_tries: u32) -> Option<[u8; 32]> {
    let mut digest = [0; 32];
    rng.fill(&mut digest);
    for _ in 0..max_tries {
        if prefix.contains(&Position::of_digest(&digest)) {
            return Some(digest);
        }
        // A counter in the first bytes: a generator would cost more than the hash.
        for byte in &mut digest[..8] {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::super::prefix::tests::drawn;
    use super::*;

    #[test]
    fn a_target_lies_in_its_prefix() {
        let mut rng = StdRng::seed_from_u64(1);
        for bits in ["*", "1", "0110", "10110011", "1111000011"] {
            let prefix = drawn(bits);
            let digest = target_in(&prefix, &mut rng, 1 << 14).expect("found");
            assert!(prefix.contains(&Position::of_digest(&digest)), "{bits}");
        }
    }

    #[test]
    fn a_search_ends() {
        let mut rng = StdRng::seed_from_u64(1);
        let narrow = Prefix::of(Position::LAST, 200);
        assert_eq!(target_in(&narrow, &mut rng, 1000), None);
        assert_eq!(target_in(&Prefix::WHOLE, &mut rng, 0), None);
    }
}
