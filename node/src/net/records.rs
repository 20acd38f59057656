//! The provider records this node holds: its own, and those other nodes left here.
//!
//! Own and foreign records have separate budgets, so that strangers cannot keep this node from announcing.
//! Value records are not part of this network and always refused.
//!
//! When the store is full, the provider with the most records makes room for one with far fewer: whoever floods it
//! pushes out its own records, not those of the others. Many identities with few records each can still fill it.
//!
//! Invariant: `total`, `by_provider` and `ranking` list exactly the records in `foreign`, and no key there is empty.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::time::Instant;

use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};
use libp2p::{Multiaddr, PeerId};

use super::limits::NetLimits;

/// Code and length at the start of a SHA-256 multihash.
const SHA256_PREFIX: [u8; 2] = [0x12, 0x20];

type Digest = [u8; 32];

/// Records of one provider, the one that ends first in front; those without an end (`true`) last.
type Held = BTreeSet<(bool, Option<Instant>, Digest)>;

/// A provider makes room for another when it holds more than so many times what the other then has.
const FAR_MORE: usize = 2;

/// A provider record of another node under its key.
#[derive(Debug, Clone)]
struct Foreign {
    provider: PeerId,
    /// When it ends, on kad's monotonic clock; `None` is never.
    expires: Option<Instant>,
    addresses: Vec<Multiaddr>,
}

impl Foreign {
    /// Its place among its provider's records.
    fn place(&self, digest: Digest) -> (bool, Option<Instant>, Digest) {
        (self.expires.is_none(), self.expires, digest)
    }
}

/// What became of a record that another node left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It is new, or has replaced an older one of the same provider.
    Stored,
    /// The key had the most providers allowed and the oldest of them made room, or the store was full and the
    /// provider with the most records did.
    Replaced,
    /// The key is no SHA-256 multihash.
    BadKey,
    /// No room for foreign records.
    Full,
    /// The provider has used up its share.
    Quota,
}

/// The record store behind kad.
#[derive(Debug)]
pub(crate) struct Records {
    local: PeerId,
    own: BTreeSet<Digest>,
    foreign: BTreeMap<Digest, Vec<Foreign>>,
    by_provider: BTreeMap<PeerId, Held>,
    /// Providers by the number of their records.
    ranking: BTreeSet<(usize, PeerId)>,
    total: usize,
    max_own: usize,
    max_foreign: usize,
    max_per_provider: usize,
    max_per_key: usize,
}

impl Records {
    /// An empty store of the node `local`.
    pub(crate) fn new(local: PeerId, limits: &NetLimits) -> Self {
        Self {
            local,
            own: BTreeSet::new(),
            foreign: BTreeMap::new(),
            by_provider: BTreeMap::new(),
            ranking: BTreeSet::new(),
            total: 0,
            max_own: limits.max_own_records,
            max_foreign: limits.max_foreign_records,
            max_per_provider: limits.max_records_per_provider,
            max_per_key: limits.max_providers_per_key.max(1),
        }
    }

    /// Keys this node announces.
    pub(crate) fn own_len(&self) -> usize {
        self.own.len()
    }

    /// Records of other nodes held here.
    pub(crate) fn foreign_len(&self) -> usize {
        self.total
    }

    /// Records of other nodes held here of the provider that has the most.
    pub(crate) fn most_of_one_provider(&self) -> usize {
        self.ranking.last().map_or(0, |(count, _)| *count)
    }

    /// Takes a record of another node, within the budgets.
    pub(crate) fn admit(&mut self, record: ProviderRecord) -> Admission {
        let Some(digest) = digest_of(&record.key) else { return Admission::BadKey };
        let ProviderRecord { provider, expires, addresses, .. } = record;
        let new = Foreign { provider, expires, addresses };
        let held = self.foreign.get_mut(&digest);
        if let Some(old) = held.and_then(|held| held.iter_mut().find(|old| old.provider == provider)) {
            let old = std::mem::replace(old, new.clone());
            if let Some(places) = self.by_provider.get_mut(&provider) {
                places.remove(&old.place(digest));
                places.insert(new.place(digest));
            }
            return Admission::Stored;
        }
        if self.count_of(&provider) >= self.max_per_provider {
            return Admission::Quota;
        }
        let mut replaced = self.evict_oldest_if_full(&digest);
        if !replaced && self.total >= self.max_foreign {
            replaced = self.evict_of_largest(&provider);
            if !replaced {
                return Admission::Full;
            }
        }
        self.count(provider, new.place(digest));
        self.foreign.entry(digest).or_default().push(new);
        if replaced { Admission::Replaced } else { Admission::Stored }
    }

    /// Drops all foreign records that have ended; returns how many.
    pub(crate) fn sweep(&mut self, now: Instant) -> usize {
        let before = self.total;
        let mut gone = Vec::new();
        self.foreign.retain(|digest, held| {
            held.retain(|record| {
                let ended = record.expires.is_some_and(|expires| expires <= now);
                if ended {
                    gone.push((record.provider, record.place(*digest)));
                }
                !ended
            });
            !held.is_empty()
        });
        for (provider, place) in gone {
            self.discount(provider, &place);
        }
        before - self.total
    }

    /// Makes room under a key that has the most providers allowed.
    fn evict_oldest_if_full(&mut self, digest: &Digest) -> bool {
        let Some(held) = self.foreign.get_mut(digest) else { return false };
        if held.len() < self.max_per_key {
            return false;
        }
        let oldest = held
            .iter()
            .enumerate()
            .filter_map(|(index, record)| record.expires.map(|expires| (expires, index)))
            .min()
            .map_or(0, |(_, index)| index);
        let evicted = held.remove(oldest);
        self.discount(evicted.provider, &evicted.place(*digest));
        true
    }

    /// Makes room for `provider` in a full store: the record that ends first of the provider with the most goes, if
    /// that has far more. So nobody with few records is pushed out while somebody has many.
    fn evict_of_largest(&mut self, provider: &PeerId) -> bool {
        let Some(&(most, largest)) = self.ranking.last() else { return false };
        if most <= FAR_MORE * (self.count_of(provider) + 1) {
            return false;
        }
        let first = self.by_provider.get(&largest).and_then(|places| places.first());
        let Some(&(_, _, digest)) = first else { return false };
        self.remove_foreign(&digest, &largest);
        true
    }

    fn remove_foreign(&mut self, digest: &Digest, provider: &PeerId) {
        let Some(held) = self.foreign.get_mut(digest) else { return };
        let Some(index) = held.iter().position(|record| record.provider == *provider) else { return };
        let removed = held.remove(index);
        if held.is_empty() {
            self.foreign.remove(digest);
        }
        self.discount(*provider, &removed.place(*digest));
    }

    /// Records of `provider`.
    fn count_of(&self, provider: &PeerId) -> usize {
        self.by_provider.get(provider).map_or(0, BTreeSet::len)
    }

    /// One record of `provider` more.
    fn count(&mut self, provider: PeerId, place: (bool, Option<Instant>, Digest)) {
        let places = self.by_provider.entry(provider).or_default();
        self.ranking.remove(&(places.len(), provider));
        places.insert(place);
        self.ranking.insert((places.len(), provider));
        self.total += 1;
    }

    /// One record of `provider` less.
    fn discount(&mut self, provider: PeerId, place: &(bool, Option<Instant>, Digest)) {
        let Some(places) = self.by_provider.get_mut(&provider) else { return };
        self.ranking.remove(&(places.len(), provider));
        places.remove(place);
        self.total = self.total.saturating_sub(1);
        if places.is_empty() {
            self.by_provider.remove(&provider);
        } else {
            self.ranking.insert((places.len(), provider));
        }
    }

    #[cfg(test)]
    fn check_invariants(&self) {
        let mut by_provider: BTreeMap<PeerId, Held> = BTreeMap::new();
        for (digest, held) in &self.foreign {
            for record in held {
                by_provider.entry(record.provider).or_default().insert(record.place(*digest));
            }
        }
        assert_eq!(self.total, by_provider.values().map(BTreeSet::len).sum::<usize>());
        let ranking = by_provider.iter().map(|(provider, places)| (places.len(), *provider)).collect();
        assert_eq!(self.ranking, ranking);
        assert_eq!(self.by_provider, by_provider);
        assert!(self.foreign.values().all(|held| !held.is_empty() && held.len() <= self.max_per_key));
        assert!(self.total <= self.max_foreign);
    }
}

/// The digest in a key; `None` unless the key is a SHA-256 multihash.
fn digest_of(key: &RecordKey) -> Option<Digest> {
    let bytes: &[u8] = key.as_ref();
    bytes.strip_prefix(&SHA256_PREFIX)?.try_into().ok()
}

impl RecordStore for Records {
    type RecordsIter<'a> = iter::Empty<Cow<'a, Record>>;
    /// Empty: what is announced and when is decided outside, kad must not repeat it by itself.
    type ProvidedIter<'a> = iter::Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        if record.provider != self.local {
            return match self.admit(record) {
                Admission::Stored | Admission::Replaced => Ok(()),
                Admission::BadKey => Err(Error::ValueTooLarge),
                Admission::Full | Admission::Quota => Err(Error::MaxProvidedKeys),
            };
        }
        let digest = digest_of(&record.key).ok_or(Error::ValueTooLarge)?;
        if self.own.len() >= self.max_own && !self.own.contains(&digest) {
            return Err(Error::MaxProvidedKeys);
        }
        self.own.insert(digest);
        Ok(())
    }

    /// The own record first, then the freshest of the others; kad answers with the first 20.
    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let Some(digest) = digest_of(key) else { return Vec::new() };
        let own =
            self.own.contains(&digest).then(|| ProviderRecord::new(key.clone(), self.local, Vec::new()));
        let mut held: Vec<&Foreign> = self.foreign.get(&digest).into_iter().flatten().collect();
        held.sort_by_key(|record| std::cmp::Reverse(record.expires));
        let foreign = held.into_iter().map(|record| ProviderRecord {
            key: key.clone(),
            provider: record.provider,
            expires: record.expires,
            addresses: record.addresses.clone(),
        });
        own.into_iter().chain(foreign).collect()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        iter::empty()
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        let Some(digest) = digest_of(key) else { return };
        if *provider == self.local {
            self.own.remove(&digest);
            return;
        }
        self.remove_foreign(&digest, provider);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::time::Duration;

    use libp2p::PeerId;
    use libp2p::kad::store::RecordStore;
    use libp2p::kad::{ProviderRecord, Record, RecordKey};

    use super::{Admission, Instant, Records};
    use crate::net::limits::NetLimits;

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn key(n: u8) -> RecordKey {
        let mut bytes = vec![0x12, 0x20];
        bytes.extend([n; 32]);
        RecordKey::from(bytes)
    }

    fn record(n: u8, provider: PeerId, expires: Instant) -> ProviderRecord {
        let mut record = ProviderRecord::new(key(n), provider, vec!["/memory/1".parse().unwrap()]);
        record.expires = Some(expires);
        record
    }

    fn store(limits: NetLimits) -> Records {
        Records::new(PeerId::random(), &limits)
    }

    #[test]
    fn only_sha256_multihashes_are_keys() {
        let mut store = store(NetLimits::default());
        let peer = PeerId::random();
        for bytes in [vec![], vec![0x12, 0x20], vec![0x12; 34], [vec![0x12, 0x20], vec![0; 31]].concat()] {
            let bad = ProviderRecord::new(RecordKey::from(bytes.clone()), peer, Vec::new());
            assert_eq!(store.admit(bad.clone()), Admission::BadKey, "{bytes:?}");
            assert!(store.add_provider(bad).is_err());
        }
        let long = [vec![0x12, 0x20], vec![0; 33]].concat();
        assert_eq!(
            store.admit(ProviderRecord::new(RecordKey::from(long), peer, Vec::new())),
            Admission::BadKey
        );
        assert_eq!(store.foreign_len(), 0);
    }

    #[test]
    fn value_records_are_refused() {
        let mut store = store(NetLimits::default());
        assert!(store.put(Record::new(key(1), vec![1])).is_err());
        assert!(store.get(&key(1)).is_none());
        assert_eq!(store.records().count(), 0);
    }

    #[test]
    fn a_provider_renews_its_record_without_using_up_more() {
        let limits = NetLimits { max_foreign_records: 1, ..NetLimits::default() };
        let mut store = store(limits);
        let (peer, now) = (PeerId::random(), now());
        assert_eq!(store.admit(record(1, peer, now)), Admission::Stored);
        let later = now + Duration::from_secs(5);
        assert_eq!(store.admit(record(1, peer, later)), Admission::Stored);
        assert_eq!(store.providers(&key(1))[0].expires, Some(later));
        assert_eq!(store.foreign_len(), 1);
        assert_eq!(store.admit(record(2, peer, now)), Admission::Full);
        assert_eq!(store.admit(record(1, PeerId::random(), now)), Admission::Full);
        store.check_invariants();
    }

    #[test]
    fn one_provider_cannot_take_more_than_its_share() {
        let limits = NetLimits { max_records_per_provider: 2, ..NetLimits::default() };
        let mut store = store(limits);
        let (peer, now) = (PeerId::random(), now());
        assert_eq!(store.admit(record(1, peer, now)), Admission::Stored);
        assert_eq!(store.admit(record(2, peer, now)), Admission::Stored);
        assert_eq!(store.admit(record(3, peer, now)), Admission::Quota);
        assert_eq!(store.admit(record(3, PeerId::random(), now)), Admission::Stored);
        store.remove_provider(&key(1), &peer);
        assert_eq!(store.admit(record(3, peer, now)), Admission::Stored);
        store.check_invariants();
    }

    #[test]
    fn in_a_full_store_whoever_holds_the_most_makes_room_for_who_holds_far_fewer() {
        let limits =
            NetLimits { max_foreign_records: 20, max_records_per_provider: 10, ..NetLimits::default() };
        let mut store = store(limits);
        let now = now();
        let at = |n: u8| now + Duration::from_secs(u64::from(n));
        let (flooders, honest) = ([PeerId::random(), PeerId::random()], PeerId::random());
        for n in 0..10 {
            assert_eq!(store.admit(record(n, flooders[0], at(n))), Admission::Stored);
            assert_eq!(store.admit(record(100 + n, flooders[1], at(n))), Admission::Stored);
        }
        for n in 0..4 {
            assert_eq!(store.admit(record(200 + n, honest, at(0))), Admission::Replaced);
            store.check_invariants();
        }
        for (n, flooder) in (10..200).flat_map(|n| flooders.map(|flooder| (n, flooder))) {
            store.admit(record(n, flooder, at(n)));
            store.check_invariants();
        }
        assert_eq!(store.foreign_len(), 20);
        assert!((200..204).all(|n| store.providers(&key(n)).iter().any(|held| held.provider == honest)));
        let gone = flooders.iter().zip([0, 100]).filter(|(flooder, first)| {
            store.providers(&key(*first)).iter().all(|held| held.provider != **flooder)
        });
        assert_eq!(gone.count(), 2, "what ends first made room");
    }

    #[test]
    fn a_full_key_keeps_the_freshest_providers() {
        let limits = NetLimits { max_providers_per_key: 2, max_foreign_records: 2, ..NetLimits::default() };
        let mut store = store(limits);
        let now = now();
        let peers: Vec<PeerId> = (0..3).map(|_| PeerId::random()).collect();
        let at = |n: u64| now + Duration::from_secs(n);
        assert_eq!(store.admit(record(1, peers[0], at(2))), Admission::Stored);
        assert_eq!(store.admit(record(1, peers[1], at(1))), Admission::Stored);
        assert_eq!(store.admit(record(1, peers[2], at(3))), Admission::Replaced);
        let left: Vec<PeerId> = store.providers(&key(1)).iter().map(|record| record.provider).collect();
        assert_eq!(left, [peers[2], peers[0]], "freshest first");
        store.check_invariants();
    }

    #[test]
    fn foreign_records_never_take_the_place_of_own_ones() {
        let limits = NetLimits { max_foreign_records: 1, max_own_records: 2, ..NetLimits::default() };
        let mut store = store(limits);
        let local = store.local;
        assert_eq!(store.admit(record(9, PeerId::random(), now())), Admission::Stored);
        let own = |n| ProviderRecord::new(key(n), local, Vec::new());
        store.add_provider(own(1)).unwrap();
        store.add_provider(own(2)).unwrap();
        store.add_provider(own(2)).unwrap();
        assert!(store.add_provider(own(3)).is_err());
        assert_eq!((store.own_len(), store.foreign_len()), (2, 1));
        assert_eq!(store.providers(&key(1))[0].provider, local);
        assert_eq!(store.provided().count(), 0, "kad has nothing to repeat");
        store.remove_provider(&key(1), &local);
        assert!(store.providers(&key(1)).is_empty());
        store.add_provider(own(3)).unwrap();
    }

    #[test]
    fn the_sweep_drops_exactly_what_has_ended() {
        let mut store = store(NetLimits::default());
        let now = now();
        let peer = PeerId::random();
        for n in 0..10 {
            store.admit(record(n, peer, now + Duration::from_secs(u64::from(n))));
        }
        store.admit(ProviderRecord::new(key(200), peer, Vec::new()));
        assert_eq!(store.sweep(now + Duration::from_secs(4)), 5);
        assert_eq!(store.foreign_len(), 6);
        assert!(store.providers(&key(4)).is_empty());
        assert_eq!(store.providers(&key(5)).len(), 1);
        store.check_invariants();
        assert_eq!(store.sweep(now + Duration::from_secs(100)), 5);
        assert_eq!(store.foreign_len(), 1, "a record without an end stays");
        store.check_invariants();
    }
}
