//! Whether a key is any of this node's business. Pure functions.
//!
//! A record belongs with the 20 peers closest to its key. Who knows many closer peers than itself has no use for the
//! record: nobody asks here, and only a flood comes here.

use libp2p::PeerId;
use libp2p::kad::KBucketKey;

use super::Digest;

/// Peers in the routing table up to which every key is near: in a small network everybody holds everything.
const SMALL_TABLE: usize = 64;

/// A point of kad's keyspace.
pub(crate) type Position = [u8; 32];

/// The buckets of the routing table, as far as they are needed to count.
#[derive(Debug)]
pub(crate) struct Neighbourhood {
    local: Position,
    /// Number of each bucket that is not empty, and the peers in it.
    buckets: Vec<(u32, usize)>,
}

impl Neighbourhood {
    /// That of the node `local` with an empty table.
    pub(crate) fn new(local: PeerId) -> Self {
        Self { local: to_array(KBucketKey::from(local).hashed_bytes()), buckets: Vec::new() }
    }

    /// Takes over the number (the place of the highest bit in which its peers differ from this node) and size of all
    /// buckets.
    pub(crate) fn update(&mut self, buckets: impl IntoIterator<Item = (u32, usize)>) {
        self.buckets.clear();
        self.buckets.extend(buckets);
    }

    /// Peers in the table.
    pub(crate) fn routed(&self) -> usize {
        self.buckets.iter().map(|(_, len)| len).sum()
    }

    /// Peers in the table that are closer to `position` than this node.
    ///
    /// The peers of bucket `i` agree with this node above bit `i` and differ in it. So all of them are closer to a
    /// position that differs from this node in that bit, and none to any other.
    pub(crate) fn closer_to(&self, position: &Position) -> usize {
        let differs = |bit: u32| {
            let byte = 31usize.saturating_sub(usize::try_from(bit / 8).unwrap_or(31));
            let differs = self.local.get(byte).zip(position.get(byte)).map_or(0, |(a, b)| a ^ b);
            (differs >> (bit % 8)) & 1 == 1
        };
        self.buckets.iter().filter(|(bit, _)| differs(*bit)).map(|(_, len)| len).sum()
    }

    /// Whether a record of `digest` belongs here: unless the table is more than small and has more than `max_closer`
    /// closer peers.
    pub(crate) fn is_near(&self, digest: &Digest, max_closer: usize) -> bool {
        let routed = self.routed();
        routed <= SMALL_TABLE || routed <= max_closer || self.closer_to(&position_of(digest)) <= max_closer
    }
}

/// Where the providers of a digest are recorded.
pub(crate) fn position_of(digest: &Digest) -> Position {
    let mut key = [0; 34];
    let (prefix, rest) = key.split_at_mut(2);
    prefix.copy_from_slice(&super::SHA256_PREFIX);
    rest.copy_from_slice(digest);
    to_array(KBucketKey::new(key).hashed_bytes())
}

fn to_array(bytes: &[u8]) -> Position {
    bytes.try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use libp2p::PeerId;
    use libp2p::kad::{KBucketKey, RecordKey};

    use super::{Neighbourhood, SMALL_TABLE, position_of};
    use crate::net::kad::record_key;
    use crate::net::records::tests::{digest, peer};
    use crate::net::tests::chunk;

    /// A table of `peers` peers, and all of them.
    fn table(peers: u64) -> (Neighbourhood, PeerId, Vec<PeerId>) {
        let local = peer(0);
        let peers: Vec<PeerId> = (1..=peers).map(peer).collect();
        let mut buckets = std::collections::BTreeMap::new();
        for peer in &peers {
            let distance = KBucketKey::from(local).distance(&KBucketKey::from(*peer));
            *buckets.entry(distance.ilog2().unwrap()).or_insert(0) += 1;
        }
        let mut near = Neighbourhood::new(local);
        near.update(buckets);
        (near, local, peers)
    }

    #[test]
    fn closer_peers_are_counted_exactly() {
        let (near, local, peers) = table(300);
        for n in 0..200 {
            let key = [&[0x12, 0x20][..], &digest(n)].concat();
            let key = KBucketKey::from(RecordKey::from(key));
            let own = key.distance(&KBucketKey::from(local));
            let closer = peers.iter().filter(|peer| key.distance(&KBucketKey::from(**peer)) < own).count();
            assert_eq!(near.closer_to(&position_of(&digest(n))), closer);
        }
    }

    #[test]
    fn the_position_of_a_digest_is_that_of_its_key_in_kad() {
        let key = record_key(chunk(1));
        let digest = crate::net::records::digest_of(&key).unwrap();
        assert_eq!(position_of(&digest), KBucketKey::from(key).hashed_bytes());
    }

    #[test]
    fn keys_with_many_closer_peers_are_not_near() {
        let (near, ..) = table(300);
        let taken = (0..1_000).filter(|n| near.is_near(&digest(*n), 40)).count();
        let exact = (0..1_000).filter(|n| near.closer_to(&position_of(&digest(*n))) <= 40).count();
        assert_eq!(taken, exact);
        assert!((60..300).contains(&taken), "about 41 of 301: {taken}");
        assert_eq!((0..1_000).filter(|n| near.is_near(&digest(*n), usize::MAX)).count(), 1_000);
    }

    #[test]
    fn in_a_small_network_every_key_is_near() {
        let (near, ..) = table(SMALL_TABLE as u64);
        assert!((0..1_000).all(|n| near.is_near(&digest(n), 40)));
        let (near, ..) = table(SMALL_TABLE as u64 + 1);
        assert!(!(0..1_000).all(|n| near.is_near(&digest(n), 40)));
    }
}
