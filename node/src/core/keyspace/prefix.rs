//! Prefixes: the parts into which the keyspace is cut.

use std::fmt;
use std::ops::RangeInclusive;

use super::{POSITION_BITS, Position};

/// All positions that begin with the same bits. Prefixes order by their first position, wider ones first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// The first position: zeros after the `len` bits.
    first: Position,
    len: u16,
}

impl Prefix {
    /// The whole space.
    pub const WHOLE: Self = Self { first: Position::FIRST, len: 0 };

    /// The first `len` bits of a position; at most all 256.
    pub fn of(position: Position, len: u16) -> Self {
        let len = len.min(POSITION_BITS);
        let mut bytes = position.0;
        for (index, byte) in bytes.iter_mut().enumerate() {
            let bits = usize::from(len).saturating_sub(index * 8).min(8);
            *byte &= u8::try_from(0xff00_u16 >> bits & 0xff).unwrap_or(u8::MAX);
        }
        Self { first: Position(bytes), len }
    }

    /// How many bits are the same.
    pub fn bit_len(&self) -> u16 {
        self.len
    }

    /// Whether this is the whole space.
    pub fn is_whole(&self) -> bool {
        self.len == 0
    }

    /// Its first position.
    pub fn first(&self) -> Position {
        self.first
    }

    /// Its last position.
    pub fn last(&self) -> Position {
        let mut bytes = self.first.0;
        for (index, byte) in bytes.iter_mut().enumerate() {
            let bits = usize::from(self.len).saturating_sub(index * 8).min(8);
            *byte |= u8::try_from(0xff_u16 >> bits).unwrap_or(u8::MAX);
        }
        Position(bytes)
    }

    /// All its positions.
    pub fn range(&self) -> RangeInclusive<Position> {
        self.first()..=self.last()
    }

    /// Whether a position lies in it.
    pub fn contains(&self, position: &Position) -> bool {
        self.first.common_len(position) >= self.len
    }

    /// Whether all of another prefix lies in it.
    pub fn covers(&self, other: &Self) -> bool {
        self.len <= other.len && self.contains(&other.first)
    }

    /// The prefix twice as wide around it; none around the whole space.
    pub fn parent(&self) -> Option<Self> {
        Some(Self::of(self.first, self.len.checked_sub(1)?))
    }

    /// The other half of its parent.
    pub fn sibling(&self) -> Option<Self> {
        let mut first = self.first;
        flip(&mut first, self.len.checked_sub(1)?);
        Some(Self { first, len: self.len })
    }

    /// Its two halves, or none if it is a single position.
    pub fn halves(&self) -> Option<[Self; 2]> {
        if self.len >= POSITION_BITS {
            return None;
        }
        let low = Self { first: self.first, len: self.len + 1 };
        Some([low, low.sibling()?])
    }
}

fn flip(position: &mut Position, bit: u16) {
    if let Some(byte) = position.0.get_mut(usize::from(bit / 8)) {
        *byte ^= 0x80 >> (bit % 8);
    }
}

/// Shows the bits, `*` for the whole space.
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_whole() {
            return f.write_str("*");
        }
        (0..self.len).try_for_each(|bit| f.write_str(if self.first.bit(bit) { "1" } else { "0" }))
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
pub(in crate::core) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The prefix of these bits, `*` for the whole space.
    pub(in crate::core) fn drawn(bits: &str) -> Prefix {
        let bits = bits.trim_matches('*');
        let mut position = Position::FIRST;
        for (index, bit) in bits.bytes().enumerate() {
            if bit == b'1' {
                position.0[index / 8] |= 0x80 >> (index % 8);
            }
        }
        Prefix::of(position, u16::try_from(bits.len()).expect("short"))
    }

    #[test]
    fn a_prefix_is_shown_as_it_is_drawn() {
        for bits in ["*", "0", "1", "0110", "111111111", "00000000"] {
            assert_eq!(drawn(bits).to_string(), bits);
        }
        assert_eq!(
            drawn("01").halves().map(|halves| halves.map(|half| half.to_string())),
            Some(["010".into(), "011".into()])
        );
        assert_eq!(drawn("01").sibling(), Some(drawn("00")));
        assert_eq!(
            (drawn("1").parent(), Prefix::WHOLE.parent(), Prefix::WHOLE.sibling()),
            (Some(Prefix::WHOLE), None, None)
        );
        assert_eq!(Prefix::of(Position::LAST, 300).halves(), None);
        assert!(drawn("01") < drawn("010") && drawn("0101") < drawn("011"));
    }

    proptest! {
        #[test]
        fn a_prefix_is_the_range_from_its_first_to_its_last_position(bytes: [u8; 32], other: [u8; 32], len in 0_u16..=256) {
            let (position, other) = (Position(bytes), Position(other));
            let prefix = Prefix::of(position, len);
            prop_assert!(prefix.contains(&position));
            prop_assert!(prefix.contains(&prefix.first()) && prefix.contains(&prefix.last()));
            prop_assert_eq!(prefix.contains(&other), prefix.range().contains(&other));
            prop_assert_eq!(Prefix::of(prefix.last(), len), prefix);
            if let Some(parent) = prefix.parent() {
                prop_assert!(parent.covers(&prefix) && !prefix.covers(&parent));
                prop_assert!(parent.halves().is_some_and(|halves| halves.contains(&prefix)));
            }
        }
    }
}
