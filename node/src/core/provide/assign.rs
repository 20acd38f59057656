//! Which peers each key is announced to.

use std::ops::Range;

use crate::core::keyspace::{Position, Prefix, REPLICATION, crowded};

/// Peers that keys in a crowded prefix are announced to, at most: half of them in the crowd, half of them around it.
pub const MAX_WIDE: usize = 80;

/// Keys and the peers that are to hold them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assignment {
    /// For each peer, in the order in which they were given: indices of its keys, as ranges in order.
    pub peers: Vec<Vec<Range<usize>>>,
    /// Keys that are announced to more peers than usual, because somebody may have put peers next to them.
    pub wide_keys: usize,
}

impl Assignment {
    /// Records that are to be sent, all peers together.
    pub fn records(&self) -> usize {
        self.peers.iter().flatten().map(ExactSizeIterator::len).sum()
    }
}

/// Assigns each of the `keys` to the 20 closest of the `peers`, both sorted. `size` is the number of peers in the
/// network.
///
/// Keys in a prefix with far too many peers also go to the other peers within twice the distance in which the 20
/// closest should be: whoever puts his own peers next to a key cannot keep its records from the honest ones. That
/// takes no lookup, as the walk of the region has found them.
pub fn assign(keys: &[Position], peers: &[Position], size: u64) -> Assignment {
    let all: Vec<Peer> = peers.iter().copied().enumerate().map(|(index, at)| Peer { at, index }).collect();
    let mut books = Books { ranges: vec![Vec::new(); peers.len()] };
    let mut wide_keys = 0;
    let mut next = 0;
    for crowd in crowded(peers, size) {
        let from = keys.partition_point(|key| *key < crowd.first());
        let to = keys.partition_point(|key| *key <= crowd.last());
        books.select(keys, next..from, &all, REPLICATION, 0);
        let knot = knot(&crowd, peers);
        let radius = Prefix::of(crowd.first(), radius_len(size).min(crowd.bit_len()));
        let (inside, outside): (Vec<Peer>, Vec<Peer>) = all.iter().partition(|peer| knot.contains(&peer.at));
        let around: Vec<Peer> = outside.iter().filter(|peer| radius.contains(&peer.at)).copied().collect();
        // A key needs its 20 closest even if the radius is too small for them.
        let around = if around.len() < REPLICATION { outside } else { around };
        books.select(keys, from..to, &inside, MAX_WIDE / 2, 0);
        books.select(keys, from..to, &around, MAX_WIDE / 2, 0);
        wide_keys += to - from;
        next = to;
    }
    books.select(keys, next..keys.len(), &all, REPLICATION, 0);
    Assignment { peers: books.ranges, wide_keys }
}

/// Which of the `peers` (sorted) hold a key that lies in a crowd; nobody if it lies in none.
pub fn wide_holders(key: &Position, peers: &[Position], size: u64) -> Vec<usize> {
    let assignment = assign(std::slice::from_ref(key), peers, size);
    if assignment.wide_keys == 0 {
        return Vec::new();
    }
    let holders = assignment.peers.iter().enumerate().filter(|(_, keys)| !keys.is_empty());
    holders.map(|(index, _)| index).collect()
}

/// The prefix that holds twice the 20 closest peers, if they are spread evenly.
fn radius_len(size: u64) -> u16 {
    u16::try_from((size / (2 * REPLICATION as u64)).max(1).ilog2()).unwrap_or(0)
}

/// Where exactly in a crowded prefix the crowd is: the prefix that holds most of its peers and whose halves do not.
/// The others are honest ones beside it.
fn knot(crowd: &Prefix, peers: &[Position]) -> Prefix {
    let within = |prefix: &Prefix| {
        let from = peers.partition_point(|peer| *peer < prefix.first());
        peers.partition_point(|peer| *peer <= prefix.last()) - from
    };
    let mut knot = *crowd;
    while let Some([low, high]) = knot.halves() {
        let (low_len, high_len) = (within(&low), within(&high));
        let (half, len) = if low_len > high_len { (low, low_len) } else { (high, high_len) };
        if len * 3 < (low_len + high_len) * 2 {
            break;
        }
        knot = half;
    }
    knot
}

#[derive(Debug, Clone, Copy)]
struct Peer {
    at: Position,
    index: usize,
}

struct Books {
    ranges: Vec<Vec<Range<usize>>>,
}

impl Books {
    /// Gives each of the keys in `range` to the `need` closest of `peers`.
    ///
    /// Descends both sorted lists bit by bit: the peers whose bit is that of the keys are all closer than the
    /// others. Keys that share the outcome are handled together, so the work follows the number of peers, not of
    /// keys times peers. `depth` bits are the same within the keys and within the peers.
    fn select(&mut self, keys: &[Position], range: Range<usize>, peers: &[Peer], need: usize, depth: u16) {
        let (Some([first, .., last] | [first @ last]), [nearest, .., farthest]) =
            (keys.get(range.clone()), peers)
        else {
            return self.give(range, &peers[..peers.len().min(need)]);
        };
        if need == 0 || peers.len() <= need {
            return self.give(range, &peers[..peers.len().min(need)]);
        }
        // Bits in which nobody differs change nothing.
        let same = first.common_len(last).min(nearest.at.common_len(&farthest.at)).max(depth);
        let split_keys = range.start + keys[range.clone()].partition_point(|key| !key.bit(same));
        let (low, high) = peers.split_at(peers.partition_point(|peer| !peer.at.bit(same)));
        if same >= crate::core::keyspace::POSITION_BITS {
            return self.give(range, &peers[..need]);
        }
        for (part, near, far) in [(range.start..split_keys, low, high), (split_keys..range.end, high, low)] {
            if part.is_empty() {
                continue;
            }
            self.select(keys, part.clone(), near, need, same + 1);
            self.select(keys, part, far, need.saturating_sub(near.len()), same + 1);
        }
    }

    fn give(&mut self, range: Range<usize>, peers: &[Peer]) {
        if range.is_empty() {
            return;
        }
        for peer in peers {
            match self.ranges[peer.index].last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => self.ranges[peer.index].push(range.clone()),
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    fn positions(count: usize, rng: &mut StdRng) -> Vec<Position> {
        let mut positions: Vec<_> = (0..count).map(|_| Position(rng.random())).collect();
        positions.sort_unstable();
        positions
    }

    fn holders(assignment: &Assignment, key: usize) -> BTreeSet<usize> {
        let holds = |ranges: &Vec<Range<usize>>| ranges.iter().any(|range| range.contains(&key));
        (0..assignment.peers.len()).filter(|peer| holds(&assignment.peers[*peer])).collect()
    }

    fn closest(key: &Position, peers: &[Position], count: usize) -> BTreeSet<usize> {
        let mut order: Vec<_> = (0..peers.len()).collect();
        order.sort_by_key(|peer| key.distance(&peers[*peer]));
        order.into_iter().take(count).collect()
    }

    #[test]
    fn every_peer_of_a_small_network_gets_every_key_as_one_range() {
        let mut rng = StdRng::seed_from_u64(1);
        let (keys, peers) = (positions(500, &mut rng), positions(20, &mut rng));
        let assignment = assign(&keys, &peers, 20);
        let all = 0..500;
        assert!(assignment.peers.iter().all(|ranges| ranges[..] == [all.clone()]));
        assert_eq!(assignment.records(), 10_000);
        assert_eq!(assign(&keys, &[], 0), Assignment::default());
        assert!(assign(&[], &peers, 20).peers.iter().all(Vec::is_empty));
    }

    #[test]
    fn keys_at_the_same_place_and_on_top_of_peers_are_assigned_too() {
        let mut rng = StdRng::seed_from_u64(2);
        let peers = positions(50, &mut rng);
        let mut keys: Vec<_> = peers.iter().chain(&peers).copied().collect();
        keys.sort_unstable();
        let assignment = assign(&keys, &peers, 50);
        for (index, key) in keys.iter().enumerate() {
            assert_eq!(holders(&assignment, index), closest(key, &peers, 20));
        }
    }

    #[test]
    fn keys_next_to_sybils_reach_the_honest_peers_as_well() {
        for sybils in [20, 60, 300] {
            let mut rng = StdRng::seed_from_u64(3);
            let honest = positions(1_000, &mut rng);
            let victim = Position(rng.random());
            let mut peers = honest.clone();
            peers.extend((0..sybils).map(|n| {
                let mut bytes = victim.0;
                bytes[6..].copy_from_slice(&rng.random::<[u8; 26]>());
                bytes[5] ^= u8::try_from(n % 7).unwrap();
                Position(bytes)
            }));
            peers.sort_unstable();
            let mut keys = positions(200, &mut rng);
            keys.push(victim);
            keys.sort_unstable();
            let place = keys.binary_search(&victim).unwrap();
            let assignment = assign(&keys, &peers, 1_000);
            let held = holders(&assignment, place);
            let held_by: BTreeSet<_> = held.iter().map(|peer| peers[*peer]).collect();
            let reached =
                closest(&victim, &honest, 20).into_iter().filter(|peer| held_by.contains(&honest[*peer]));
            assert!(reached.count() >= 17, "{sybils} sybils");
            assert!(held.len() <= MAX_WIDE && closest(&victim, &peers, 20).is_subset(&held));
            assert!((1..10).contains(&assignment.wide_keys), "{} keys", assignment.wide_keys);
            let alone = wide_holders(&victim, &peers, 1_000);
            assert_eq!(alone.into_iter().collect::<BTreeSet<_>>(), held);
            assert!(wide_holders(&Position::LAST, &honest, 1_000).is_empty());
            // The others go where they always go.
            let usual = (0..keys.len()).filter(|key| holders(&assignment, *key).len() == 20).count();
            assert_eq!(usual, keys.len() - assignment.wide_keys);
        }
    }

    proptest! {
        #[test]
        fn each_key_goes_to_its_closest_peers(
            peers in 0_usize..150, keys in 0_usize..80, seed: u64, squeeze in 0_usize..3,
        ) {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut draw = |count| {
                let mut drawn: Vec<_> = positions(count, &mut rng);
                // Narrow prefixes: many peers that share many bits.
                drawn.iter_mut().for_each(|position| position.0[..squeeze].fill(0x5a));
                drawn.sort_unstable();
                drawn
            };
            let (peers, keys) = (draw(peers), draw(keys));
            // A size as large as this is crowded nowhere.
            let assignment = assign(&keys, &peers, 1 << 40);
            for (index, key) in keys.iter().enumerate() {
                prop_assert_eq!(holders(&assignment, index), closest(key, &peers, 20));
            }
            let sorted = |ranges: &Vec<Range<usize>>| ranges.windows(2).all(|pair| pair[0].end < pair[1].start);
            prop_assert!(assignment.peers.iter().all(sorted));
        }
    }
}
