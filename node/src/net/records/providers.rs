//! The providers of the records held here: each known once, with what it holds and whose share it uses up.
//!
//! Invariants: a provider has at least one record or is forgotten; `groups`, `ranking` and `crowds` say the same as
//! the providers themselves.

use std::collections::{BTreeMap, BTreeSet};

use libp2p::{Multiaddr, PeerId};

use super::group::IpGroup;
use super::journal::Mention;
use super::keyed::{KeyedHash, Shards};
use super::packed::PackedAddrs;
use super::slab::NONE;

/// Somebody makes room for another when it holds more than so many times what the other then has.
const FAR_MORE: usize = 2;

/// Who leaves a record: a connected peer with its plausible addresses.
#[derive(Debug, Clone)]
pub struct Offer {
    pub(super) peer: PeerId,
    pub(super) addrs: PackedAddrs,
    pub(super) group: Option<IpGroup>,
    dropped: usize,
}

impl Offer {
    /// From `peer`, which comes from `group` and has told `addrs`.
    pub fn new(peer: PeerId, addrs: &[Multiaddr], group: Option<IpGroup>) -> Self {
        let (addrs, dropped) = PackedAddrs::new(addrs);
        Self { peer, addrs, group, dropped }
    }

    /// Who it is.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Addresses that were too many or too long to be kept.
    pub fn dropped(&self) -> usize {
        self.dropped
    }
}

/// A provider.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) peer: PeerId,
    pub(super) addrs: PackedAddrs,
    group: Option<IpGroup>,
    records: u32,
    /// Its records, the one that was renewed last at the end.
    pub(super) first: u32,
    pub(super) last: u32,
    /// It has said goodbye, or is forgotten: its records are not given out.
    pub(super) is_away: bool,
    /// Its records are on their way out; a peer of this name is another provider.
    is_forgotten: bool,
    pub(super) mention: Mention,
}

impl Provider {
    /// What it has said of itself.
    pub(super) fn offer(&self) -> Offer {
        Offer { peer: self.peer, addrs: self.addrs.clone(), group: self.group, dropped: 0 }
    }
}

/// Who shares a budget: a group, or a provider that is in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rival {
    Provider(u32),
    Group(IpGroup),
}

#[derive(Debug, Default)]
struct Group {
    records: usize,
    /// Its providers by the number of their records.
    members: BTreeSet<(u32, u32)>,
}

/// All providers, by a number that is used again after they have gone.
#[derive(Debug)]
pub(super) struct Providers {
    slots: Vec<Option<Provider>>,
    free: Vec<u32>,
    by_peer: Shards<u32>,
    hash: KeyedHash,
    groups: BTreeMap<IpGroup, Group>,
    /// Who shares a budget, by the number of records.
    ranking: BTreeSet<(usize, Rival)>,
    /// Groups by the number of their providers.
    crowds: BTreeSet<(usize, IpGroup)>,
    addrs_len: usize,
}

impl Providers {
    /// None.
    pub(super) fn new(hash: KeyedHash) -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_peer: Shards::new(),
            hash,
            groups: BTreeMap::new(),
            ranking: BTreeSet::new(),
            crowds: BTreeSet::new(),
            addrs_len: 0,
        }
    }

    /// How many, the forgotten ones included.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The most records of one provider. Looks at all of them.
    pub(super) fn most_records(&self) -> usize {
        let records = self.slots.iter().flatten().map(|provider| provider.records).max().unwrap_or(0);
        usize::try_from(records).unwrap_or(usize::MAX)
    }

    /// Bytes allocated, nearly: nodes of the trees are counted as half full.
    pub(super) fn memory(&self) -> usize {
        let slots = self.slots.capacity() * size_of::<Option<Provider>>();
        let members = self.groups.values().map(|group| group.members.len()).sum::<usize>();
        let trees = members * 16 + self.ranking.len() * 48 + self.crowds.len() * 32 + self.groups.len() * 96;
        slots + self.free.capacity() * 4 + self.by_peer.memory() + self.addrs_len + trees
    }

    /// The number of a peer.
    pub(super) fn find(&self, peer: &PeerId) -> Option<u32> {
        let hash = self.hash.of(peer.as_ref().digest());
        let is_it = |no: &u32| self.get(*no).is_some_and(|provider| provider.peer == *peer);
        self.by_peer.find(hash, is_it).copied()
    }

    /// A provider by its number.
    pub(super) fn get(&self, no: u32) -> Option<&Provider> {
        self.slots.get(usize::try_from(no).ok()?)?.as_ref()
    }

    /// A provider by its number, to be changed.
    pub(super) fn get_mut(&mut self, no: u32) -> Option<&mut Provider> {
        self.slots.get_mut(usize::try_from(no).ok()?)?.as_mut()
    }

    /// Adds a provider that is not there yet and has no records.
    pub(super) fn insert(&mut self, offer: &Offer) -> u32 {
        let provider = Provider {
            peer: offer.peer,
            addrs: offer.addrs.clone(),
            group: offer.group,
            records: 0,
            first: NONE,
            last: NONE,
            is_away: false,
            is_forgotten: false,
            mention: Mention::NEVER,
        };
        self.addrs_len += provider.addrs.len();
        let no = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
        });
        if let Some(slot) = usize::try_from(no).ok().and_then(|no| self.slots.get_mut(no)) {
            *slot = Some(provider);
        }
        let hash = self.hash;
        let slots = &self.slots;
        let rehash = |no: &u32| {
            let slot = usize::try_from(*no).ok().and_then(|no| slots.get(no)?.as_ref());
            slot.map_or(0, |provider| hash.of(provider.peer.as_ref().digest()))
        };
        self.by_peer.insert(hash.of(offer.peer.as_ref().digest()), no, rehash);
        no
    }

    /// Takes over what a provider says of itself now. It is back, if it was away.
    pub(super) fn refresh(&mut self, no: u32, offer: &Offer) {
        let Some(provider) = self.get_mut(no) else { return };
        provider.is_away = false;
        if provider.addrs != offer.addrs {
            let old = std::mem::replace(&mut provider.addrs, offer.addrs.clone());
            self.addrs_len = self.addrs_len.saturating_sub(old.len()) + offer.addrs.len();
        }
    }

    /// Moves a provider with its records to another group.
    pub(super) fn regroup(&mut self, no: u32, group: Option<IpGroup>) {
        let Some(provider) = self.get(no).filter(|provider| provider.group != group) else { return };
        let records = provider.records;
        self.set_records(no, 0);
        if let Some(provider) = self.get_mut(no) {
            provider.group = group;
        }
        self.set_records(no, records);
    }

    /// Takes the name from a provider, so that it can be dropped bit by bit.
    pub(super) fn forget(&mut self, no: u32) {
        let Some(provider) = self.get_mut(no) else { return };
        provider.is_away = true;
        provider.is_forgotten = true;
        let hash = self.hash.of(self.get(no).map_or(&[], |provider| provider.peer.as_ref().digest()));
        self.by_peer.remove(hash, |other| *other == no);
    }

    /// Drops a provider that has no records left.
    pub(super) fn drop_empty(&mut self, no: u32) {
        let Some(slot) = usize::try_from(no).ok().and_then(|no| self.slots.get_mut(no)) else { return };
        let Some(provider) = slot.take_if(|provider| provider.records == 0) else { return };
        self.addrs_len = self.addrs_len.saturating_sub(provider.addrs.len());
        let hash = self.hash.of(provider.peer.as_ref().digest());
        self.by_peer.remove(hash, |other| *other == no);
        self.free.push(no);
    }

    /// Whether a provider is only kept until its records have gone.
    pub(super) fn is_forgotten(&self, no: u32) -> bool {
        self.get(no).is_some_and(|provider| provider.is_forgotten)
    }

    /// Records of a provider.
    pub(super) fn records_of(&self, no: u32) -> usize {
        self.get(no).map_or(0, |provider| count(provider.records))
    }

    /// Records of all providers of a group.
    pub(super) fn records_in(&self, group: IpGroup) -> usize {
        self.groups.get(&group).map_or(0, |group| group.records)
    }

    /// The group of a provider.
    pub(super) fn group_of(&self, no: u32) -> Option<IpGroup> {
        self.get(no)?.group
    }

    /// One record of a provider more.
    pub(super) fn count_up(&mut self, no: u32) {
        if let Some(provider) = self.get(no) {
            self.set_records(no, provider.records.saturating_add(1));
        }
    }

    /// One record of a provider less.
    pub(super) fn count_down(&mut self, no: u32) {
        if let Some(provider) = self.get(no) {
            self.set_records(no, provider.records.saturating_sub(1));
        }
    }

    fn set_records(&mut self, no: u32, records: u32) {
        let Some(provider) = self.get_mut(no) else { return };
        let before = std::mem::replace(&mut provider.records, records);
        let Some(key) = provider.group else {
            self.rank(Rival::Provider(no), count(before), count(records));
            return;
        };
        let group = self.groups.entry(key).or_default();
        let (held, members) = (group.records, group.members.len());
        group.members.remove(&(before, no));
        if records > 0 {
            group.members.insert((records, no));
        }
        group.records = (held + count(records)).saturating_sub(count(before));
        let (holds, has) = (group.records, group.members.len());
        if has == 0 {
            self.groups.remove(&key);
        }
        if members != has {
            self.crowds.remove(&(members, key));
            if has > 0 {
                self.crowds.insert((has, key));
            }
        }
        self.rank(Rival::Group(key), held, holds);
    }

    fn rank(&mut self, rival: Rival, before: usize, after: usize) {
        self.ranking.remove(&(before, rival));
        if after > 0 {
            self.ranking.insert((after, rival));
        }
    }

    /// Who makes room in a full store for a provider (`None` if it is new) that comes from `group`.
    ///
    /// First whoever holds the most, be it a group or a provider in none, if that is far more than the newcomer and
    /// those of its group hold; within a group its largest provider. Else the largest provider of the newcomer's own
    /// group. So nobody with few records is pushed out while somebody has many, and many names in one place count
    /// as one.
    pub(super) fn makes_room(&self, no: Option<u32>, group: Option<IpGroup>) -> Option<u32> {
        let held = no.map_or(0, |no| self.records_of(no));
        let shared = group.map_or(held, |group| self.records_in(group));
        match self.ranking.last() {
            Some((most, rival)) if *most > FAR_MORE * (shared + 1) => match rival {
                Rival::Provider(no) => Some(*no),
                Rival::Group(group) => self.largest_of(*group).map(|(_, no)| no),
            },
            _ => group.and_then(|group| self.makes_room_in(no, group)),
        }
    }

    /// Who makes room in a full group for one of its providers.
    pub(super) fn makes_room_in(&self, no: Option<u32>, group: IpGroup) -> Option<u32> {
        let held = no.map_or(0, |no| self.records_of(no));
        let (most, no) = self.largest_of(group)?;
        (most > FAR_MORE * (held + 1)).then_some(no)
    }

    fn largest_of(&self, group: IpGroup) -> Option<(usize, u32)> {
        self.groups.get(&group)?.members.last().map(|(records, no)| (count(*records), *no))
    }

    /// Who leaves when there are too many providers and another comes from `group`: the one with the fewest records
    /// of the group with the most providers, if those are far more than the newcomer's group has.
    pub(super) fn makes_way(&self, group: Option<IpGroup>) -> Option<u32> {
        let own = group.and_then(|group| self.groups.get(&group)).map_or(0, |group| group.members.len());
        let (most, crowd) = self.crowds.last()?;
        let smallest = self.groups.get(crowd)?.members.first().map(|(_, no)| *no);
        smallest.filter(|_| *most > FAR_MORE * (own + 1))
    }
}

fn count(records: u32) -> usize {
    usize::try_from(records).unwrap_or(usize::MAX)
}

#[cfg(test)]
impl Providers {
    /// All of them with their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Provider)> {
        (0..).zip(&self.slots).filter_map(|(no, slot)| Some((no, slot.as_ref()?)))
    }

    pub(super) fn check_invariants(&self) {
        let mut groups: BTreeMap<IpGroup, (usize, BTreeSet<(u32, u32)>)> = BTreeMap::new();
        let mut ranking = BTreeSet::new();
        let mut named = 0;
        for (no, provider) in self.iter() {
            assert!(provider.records > 0 || provider.is_forgotten);
            named += usize::from(!provider.is_forgotten);
            assert_eq!(self.find(&provider.peer) == Some(no), !provider.is_forgotten);
            assert!(provider.is_away || !provider.is_forgotten);
            match provider.group.filter(|_| provider.records > 0) {
                Some(group) => {
                    let group = groups.entry(group).or_default();
                    group.0 += count(provider.records);
                    group.1.insert((provider.records, no));
                }
                None if provider.records > 0 => {
                    ranking.insert((count(provider.records), Rival::Provider(no)));
                }
                None => {}
            }
        }
        assert_eq!(self.by_peer.len(), named);
        assert_eq!(self.len(), self.iter().count());
        assert_eq!(self.addrs_len, self.iter().map(|(_, provider)| provider.addrs.len()).sum::<usize>());
        ranking.extend(groups.iter().map(|(key, group)| (group.0, Rival::Group(*key))));
        assert_eq!(self.ranking, ranking);
        let crowds: BTreeSet<_> = groups.iter().map(|(key, group)| (group.1.len(), *key)).collect();
        assert_eq!(self.crowds, crowds);
        let own = self.groups.iter().map(|(key, group)| (*key, (group.records, group.members.clone())));
        assert_eq!(own.collect::<BTreeMap<_, _>>(), groups);
    }
}
