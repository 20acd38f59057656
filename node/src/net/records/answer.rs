//! Which providers an answer names.
//!
//! An answer has room for 20. If more are known, it names a random choice in which fresh records count for more: 15 of
//! the half that was renewed last, 5 of the other half. So whoever renewed a record a moment ago, and probably still
//! runs, comes first, and yet nobody is shadowed: a provider among at most 128 is in every answer with a chance of at
//! least 5 in 64, however often the others renew their records.
//!
//! Providers that have said goodbye and records that have ended are not named at all.

use std::time::Instant;

use libp2p::{Multiaddr, PeerId};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use super::{Digest, Records};
use crate::net::kad::REPLICATION;

/// Providers of the fresher half in an answer that cannot name all.
const FRESH: usize = REPLICATION - REPLICATION / 4;

/// A provider of another node's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) peer: PeerId,
    pub(crate) addrs: Vec<Multiaddr>,
    pub(crate) expires: u32,
}

impl Records {
    /// Whether this node announces a key itself.
    pub(crate) fn is_own(&self, digest: &Digest) -> bool {
        self.own.contains(digest)
    }

    /// Other providers of a key, at most 20.
    pub(crate) fn answer(&self, digest: &Digest, now: Instant) -> Vec<Found> {
        let now = self.seconds(now);
        let mut live: Vec<(u32, u32)> = self
            .index
            .of_key(digest)
            .filter(|(_, record)| record.expires > now)
            .filter(|(_, record)| {
                self.index.providers.get(record.provider).is_some_and(|provider| !provider.is_away)
            })
            .map(|(place, record)| (record.expires, place))
            .collect();
        if live.len() > REPLICATION {
            let answer = self.answers.get();
            self.answers.set(answer.wrapping_add(1));
            let seed = self.sampling.of(&answer.to_be_bytes());
            sample(&mut live, &mut StdRng::seed_from_u64(seed));
        }
        live.iter().filter_map(|(expires, place)| self.found(*expires, *place)).collect()
    }

    fn found(&self, expires: u32, place: u32) -> Option<Found> {
        let provider = self.index.providers.get(self.index.get(place)?.provider)?;
        Some(Found { peer: provider.peer, addrs: provider.addrs.unpack(), expires })
    }
}

/// Leaves 20 of more records, each with its end, by the rule above.
fn sample(live: &mut Vec<(u32, u32)>, rng: &mut StdRng) {
    // Chance decides among those that end in the same second.
    live.shuffle(rng);
    live.sort_by_key(|(expires, _)| std::cmp::Reverse(*expires));
    let half = live.len().div_ceil(2);
    let (fresh, old) = live.split_at_mut(half);
    let of_fresh = FRESH.min(fresh.len());
    let (fresh, _) = fresh.partial_shuffle(rng, of_fresh);
    let (old, _) = old.partial_shuffle(rng, REPLICATION - of_fresh);
    *live = [&*fresh, &*old].concat();
}
