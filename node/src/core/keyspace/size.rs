//! How many peers a network has, judged by how near the nearest ones are, and where there are too many.

use std::collections::VecDeque;

use super::{Position, Prefix, REPLICATION};

/// Lookups that an estimate remembers. One alone is off by a quarter; the median of 32 by about 5 %.
const MAX_SAMPLES: usize = 32;

/// An estimate of the number of peers, from the distances of the closest peers that lookups found.
///
/// The median of many lookups: a few places where somebody has put peers of his own do not move it.
#[derive(Debug, Clone, Default)]
pub struct SizeEstimate {
    samples: VecDeque<u64>,
}

impl SizeEstimate {
    /// An estimate that begins with what was known before. It counts as half of all lookups: the first new ones
    /// alone would be less certain than it was.
    pub fn from_known(size: Option<u64>) -> Self {
        Self { samples: size.into_iter().flat_map(|size| [size; MAX_SAMPLES / 2]).collect() }
    }

    /// A lookup of `target` found these peers as the closest, nearest first.
    pub fn add(&mut self, target: &Position, closest: &[Position]) {
        let Some(size) = estimate(target, closest) else { return };
        if self.samples.len() >= MAX_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(size);
    }

    /// The estimate; none before the first lookup.
    pub fn size(&self) -> Option<u64> {
        let mut sorted: Vec<_> = self.samples.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }

    /// Lookups that it rests on.
    pub fn samples(&self) -> usize {
        self.samples.len()
    }
}

/// How many peers a network has, by the peers that the node at `local` knows around itself. Whoever puts peers next to a
/// key cannot change it, unless it is this node that he surrounds. None if it knows fewer than 20: these may be all, or
/// few of many.
pub fn size_around(local: &Position, known: &[Position]) -> Option<u64> {
    if known.len() < REPLICATION {
        return None;
    }
    let mut nearest = known.to_vec();
    nearest.sort_by_key(|position| local.distance(position));
    estimate(local, &nearest)
}

/// One lookup's estimate: if the k-th closest of evenly spread peers is at the share d of the space, (k - 1) / d of
/// them is the unbiased one. Fewer than a lookup finds are all there are.
fn estimate(target: &Position, closest: &[Position]) -> Option<u64> {
    let farthest = closest.get(..REPLICATION.min(closest.len()))?.last()?;
    if closest.len() < REPLICATION {
        return u64::try_from(closest.len()).ok();
    }
    let others = u128::try_from(REPLICATION - 1).ok()?;
    let share = u128::from(target.distance(farthest).top()) + 1;
    u64::try_from((others << 64) / share).ok()
}

/// How many peers in one prefix are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Crowd {
    /// So many peers or more ..
    peers: usize,
    /// .. where at most so many are expected: by chance it happens to one prefix in 100,000.
    expected: u64,
}

/// Twenty where six are expected: whoever puts that many peers next to a key holds all its records. Forty where
/// eighteen are expected: twenty peers beside the honest ones, put farther away so as not to stand out.
const CROWDS: [Crowd; 2] = [Crowd { peers: 20, expected: 6 }, Crowd { peers: 40, expected: 18 }];

/// The prefixes that hold far more of the `peers` (sorted) than an even spread of `size` peers would put there:
/// somebody may have placed peers next to a key in order to swallow its records.
///
/// The simple form of comparing distances with the size of the network; the widest such prefixes, in order.
pub fn crowded(peers: &[Position], size: u64) -> Vec<Prefix> {
    let mut found: Vec<Prefix> = Vec::new();
    for crowd in CROWDS {
        let Some(len) = narrowest(size, crowd.expected) else { continue };
        let mut rest = peers;
        while let Some(first) = rest.first() {
            let prefix = Prefix::of(*first, len);
            let inside = rest.partition_point(|peer| prefix.contains(peer));
            if inside >= crowd.peers {
                found.push(prefix);
            }
            rest = &rest[inside.max(1)..];
        }
    }
    found.sort_unstable();
    // Wider ones come first.
    found.dedup_by(|next, kept| kept.covers(next));
    found
}

/// The length of the widest prefixes in which at most `expected` of `size` peers lie; none if the whole space is
/// one of them, for nobody stands out there.
fn narrowest(size: u64, expected: u64) -> Option<u16> {
    (1..64).find(|len| size >> len <= expected).filter(|_| size > expected)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn a_crowd_elsewhere_does_not_change_the_size_that_a_node_sees_around_itself() {
        let mut rng = StdRng::seed_from_u64(9);
        let (local, victim) = (Position([0; 32]), Position([0xff; 32]));
        let mut known = positions(1_000, &mut rng);
        let size = size_around(&local, &known).unwrap();
        assert!((400..2_500).contains(&size), "{size}");
        known.extend((0..200).map(|n| {
            let mut near = victim;
            near.0[31] = n;
            near
        }));
        assert_eq!(size_around(&local, &known), Some(size));
        assert_eq!((size_around(&local, &known[..7]), size_around(&local, &[])), (None, None));
    }

    fn positions(count: usize, rng: &mut StdRng) -> Vec<Position> {
        let mut positions: Vec<_> = (0..count).map(|_| Position(rng.random())).collect();
        positions.sort_unstable();
        positions
    }

    fn closest(target: &Position, peers: &[Position]) -> Vec<Position> {
        let mut sorted = peers.to_vec();
        sorted.sort_by_key(|peer| target.distance(peer));
        sorted.truncate(REPLICATION);
        sorted
    }

    #[test]
    fn the_estimate_is_near_the_truth() {
        let mut rng = StdRng::seed_from_u64(5);
        for count in [1, 7, 19, 40, 100, 300, 1_000, 10_000] {
            let peers = positions(count, &mut rng);
            let mut estimate = SizeEstimate::default();
            assert_eq!(estimate.size(), None);
            for _ in 0..MAX_SAMPLES * 2 {
                let target = Position(rng.random());
                estimate.add(&target, &closest(&target, &peers));
            }
            let size = usize::try_from(estimate.size().unwrap()).unwrap();
            assert_eq!(estimate.samples(), MAX_SAMPLES);
            if count < REPLICATION {
                assert_eq!(size, count);
            } else {
                assert!(size * 10 > count * 7 && size * 10 < count * 13, "{count} peers, estimate {size}");
            }
        }
    }

    #[test]
    fn peers_put_next_to_a_few_keys_do_not_move_the_estimate() {
        let mut rng = StdRng::seed_from_u64(6);
        let mut peers = positions(1_000, &mut rng);
        let victim = Position(rng.random());
        peers.extend((0..20).map(|n| near(victim, n)));
        let mut estimate = SizeEstimate::default();
        for n in 0..16 {
            let target = if n % 4 == 0 { victim } else { Position(rng.random()) };
            estimate.add(&target, &closest(&target, &peers));
        }
        assert!((600..1_700).contains(&estimate.size().unwrap()), "{:?}", estimate.size());
    }

    #[test]
    fn what_was_known_outweighs_the_first_lookups_and_not_the_following() {
        let few: Vec<_> = (0..5).map(|n| Position([n; 32])).collect();
        let mut estimate = SizeEstimate::from_known(Some(1_000));
        (0..10).for_each(|_| estimate.add(&Position::FIRST, &few));
        assert_eq!(estimate.size(), Some(1_000));
        (0..10).for_each(|_| estimate.add(&Position::FIRST, &few));
        assert_eq!(estimate.size(), Some(5));
    }

    /// A position that shares some forty bits with another.
    fn near(position: Position, n: u8) -> Position {
        let mut bytes = position.0;
        bytes[5] ^= n;
        bytes[31] ^= 1;
        Position(bytes)
    }

    #[test]
    fn an_even_spread_is_not_suspected_and_twenty_neighbours_are() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut alarms = 0;
        for round in 0..50 {
            let count = [30, 100, 300, 1_000, 3_000][round % 5];
            let peers = positions(count, &mut rng);
            alarms += crowded(&peers, count as u64).len();
            let victim = Position(rng.random());
            let mut attacked = peers.clone();
            attacked.extend((0..20).map(|n| near(victim, n)));
            attacked.sort_unstable();
            let found = crowded(&attacked, count as u64);
            assert!(found.iter().any(|prefix| prefix.contains(&victim)), "{count} peers");
        }
        assert!(alarms <= 1, "{alarms} false alarms");
    }

    #[test]
    fn twenty_neighbours_farther_away_show_beside_the_honest_ones() {
        let mut rng = StdRng::seed_from_u64(8);
        let mut seen = 0;
        for _ in 0..50 {
            let mut peers = positions(1_024, &mut rng);
            let victim = Position(rng.random());
            let around = Prefix::of(victim, 6);
            // One in 64 of the space, where 16 honest peers lie: another 30.
            let placed = std::iter::repeat_with(|| Position(rng.random()));
            peers.extend(placed.filter(|place| around.contains(place)).take(30));
            peers.sort_unstable();
            seen += usize::from(crowded(&peers, 1_024).iter().any(|prefix| prefix.contains(&victim)));
        }
        assert!(seen >= 40, "{seen} of 50");
    }

    #[test]
    fn a_crowd_is_rarer_than_one_in_a_hundred_thousand() {
        for crowd in CROWDS {
            let mean = f64::from(u32::try_from(crowd.expected).unwrap());
            let mut term = (-mean).exp();
            let mut below = 0.0;
            for n in 0..crowd.peers {
                below += term;
                term *= mean / (n as f64 + 1.0);
            }
            assert!(1.0 - below < 1.1e-5, "{crowd:?}: {}", 1.0 - below);
        }
    }

    #[test]
    fn a_network_of_a_few_peers_is_never_crowded() {
        let mut rng = StdRng::seed_from_u64(9);
        for count in [0, 1, 5, 6] {
            assert!(crowded(&positions(count, &mut rng), count as u64).is_empty());
        }
        assert_eq!(narrowest(6, 6), None);
        assert_eq!(narrowest(1_024, 6), Some(8));
    }
}
