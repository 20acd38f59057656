//! The schedule as it is kept over restarts.
//!
//! Numbers are big-endian. Version 1:
//!
//! | bytes | |
//! |---|---|
//! | 1 | version: 1 |
//! | 8 | interval, in ms |
//! | 8 | cursor: the first 64 bits of a position |
//! | 8 | when the first position of this lap has its turn, in ms since 1970 |
//! | 8 | when this was saved, in ms since 1970 |
//! | 8 | when the last lap ended, in s since 1970, or 0 |
//! | 8 | peers in the network, or 0 |
//! | 2 | length of the prefixes of regions, in bits |
//! | 4 | peers in the routing table when all keys were last announced anew |
//! | 8, 16, 4 | the pass that announces all keys anew: cursor, how much of the keyspace is left (0: there is none), the time since which keys are done |
//! | 2 | failed regions |
//! | 8, 1, 4 each | first 64 bits, length in bits, the time before which keys are due |
//!
//! Anything else is not read: the node begins with a full pass, which passes over what is marked as announced.

use crate::core::keyspace::{Position, Prefix};

use super::schedule::{MAX_REGION_LEN, Schedule};

const VERSION: u8 = 1;

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Saved {
    pub(super) schedule: Schedule,
    pub(super) saved_ms: i64,
    pub(super) size: u64,
    pub(super) len: u16,
    pub(super) peers_before: u32,
    pub(super) renew_cursor: u64,
    pub(super) renew_left: u128,
    pub(super) renew_before: u32,
    pub(super) failed: Vec<(Prefix, u32)>,
}

impl Saved {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend(self.schedule.interval_ms.to_be_bytes());
        bytes.extend(self.schedule.cursor.to_be_bytes());
        bytes.extend(self.schedule.lap_ms.to_be_bytes());
        bytes.extend(self.saved_ms.to_be_bytes());
        bytes.extend(self.schedule.last_cycle.to_be_bytes());
        bytes.extend(self.size.to_be_bytes());
        bytes.extend(self.len.to_be_bytes());
        bytes.extend(self.peers_before.to_be_bytes());
        bytes.extend(self.renew_cursor.to_be_bytes());
        bytes.extend(self.renew_left.to_be_bytes());
        bytes.extend(self.renew_before.to_be_bytes());
        bytes.extend(u16::try_from(self.failed.len()).unwrap_or(u16::MAX).to_be_bytes());
        for (region, before) in self.failed.iter().take(usize::from(u16::MAX)) {
            bytes.extend(region.first().top().to_be_bytes());
            bytes.push(u8::try_from(region.bit_len()).unwrap_or(u8::MAX));
            bytes.extend(before.to_be_bytes());
        }
        bytes
    }

    /// Reads what `encode` wrote; none if it is anything else.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        if take(&mut rest)? != [VERSION] {
            return None;
        }
        let interval_ms = i64::from_be_bytes(take(&mut rest)?);
        let cursor = u64::from_be_bytes(take(&mut rest)?);
        let lap_ms = i64::from_be_bytes(take(&mut rest)?);
        let saved_ms = i64::from_be_bytes(take(&mut rest)?);
        let last_cycle = u64::from_be_bytes(take(&mut rest)?);
        let size = u64::from_be_bytes(take(&mut rest)?);
        let len = u16::from_be_bytes(take(&mut rest)?);
        let peers_before = u32::from_be_bytes(take(&mut rest)?);
        let renew_cursor = u64::from_be_bytes(take(&mut rest)?);
        let renew_left = u128::from_be_bytes(take(&mut rest)?);
        let renew_before = u32::from_be_bytes(take(&mut rest)?);
        let count = u16::from_be_bytes(take(&mut rest)?);
        let mut failed = Vec::new();
        for _ in 0..count {
            let first = Position::from_top(u64::from_be_bytes(take(&mut rest)?));
            let bits =
                take(&mut rest).map(|[bits]| u16::from(bits)).filter(|bits| *bits <= MAX_REGION_LEN)?;
            failed.push((Prefix::of(first, bits), u32::from_be_bytes(take(&mut rest)?)));
        }
        // A century of milliseconds: sums of such times stay far from the end of their type.
        let times = 0..=10_000_000_000_000;
        let sound = rest.is_empty()
            && times.contains(&lap_ms.saturating_abs())
            && times.contains(&saved_ms)
            && (1..=100_000_000_000).contains(&interval_ms)
            && aligned(cursor)
            && aligned(renew_cursor)
            && len <= MAX_REGION_LEN
            && renew_left <= 1 << 64;
        let schedule = Schedule { cursor, lap_ms, interval_ms, last_cycle };
        sound.then_some(Self {
            schedule,
            saved_ms,
            size,
            len,
            peers_before,
            renew_cursor,
            renew_left,
            renew_before,
            failed,
        })
    }
}

/// Whether some region begins there.
fn aligned(cursor: u64) -> bool {
    cursor == 0 || 64 - cursor.trailing_zeros() <= u32::from(MAX_REGION_LEN)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn saved() -> Saved {
        Saved {
            schedule: Schedule { cursor: 3 << 60, lap_ms: -77, interval_ms: 43_200_000, last_cycle: 5 },
            saved_ms: 1_700_000_000_000,
            size: 1_000,
            len: 4,
            peers_before: 20,
            renew_cursor: 1 << 63,
            renew_left: 1 << 64,
            renew_before: 9,
            failed: vec![(Prefix::of(Position::LAST, 5), 7), (Prefix::WHOLE, 0)],
        }
    }

    #[test]
    fn what_was_saved_is_read_again_and_half_of_it_is_not() {
        let bytes = saved().encode();
        assert_eq!(Saved::decode(&bytes), Some(saved()));
        for len in 0..bytes.len() {
            assert_eq!(Saved::decode(&bytes[..len]), None);
        }
        assert_eq!(Saved::decode(&[&bytes[..], &[0]].concat()), None);
        assert_eq!(Saved::decode(&[&[2], &bytes[1..]].concat()), None);
    }

    proptest! {
        #[test]
        fn nothing_that_is_read_breaks_the_schedule(place in 0_usize..105, byte: u8) {
            let mut bytes = saved().encode();
            let place = place.min(bytes.len() - 1);
            bytes[place] = byte;
            if let Some(mut read) = Saved::decode(&bytes) {
                prop_assert_eq!(Saved::decode(&read.encode()), Some(read.clone()));
                read.schedule.clamp(1_800_000_000_000);
                let region = read.schedule.region(3);
                read.schedule.advance(&region, 1_800_000_000_000);
                read.schedule.skip(7, 1_800_000_000_000);
            }
        }
    }
}
