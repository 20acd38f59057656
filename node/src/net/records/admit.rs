//! Which record of another node is taken, and who makes room for it.
//!
//! The rules, in this order:
//! 1. A provider renews what it has; that takes no room.
//! 2. A provider has at most so many records, and all providers of an IP group together. In a full group its largest
//!    provider makes room for one with far fewer.
//! 3. There are at most so many providers; the group with by far the most loses the one with the fewest records.
//! 4. A key has at most so many providers: the oldest record of the group that has the most of them goes.
//! 5. In a full store whoever holds the most makes room for who holds far fewer (`Providers::makes_room`).
//!
//! So many names with many records each push out one another, in whatever order they come. Names in one IP group
//! count as one; enough names in different groups, with few records each, can still fill the store.

use std::time::Instant;

use super::group::IpGroup;
use super::providers::Offer;
use super::{Digest, Records};

/// Records that are dropped at once to make room for another provider; one with more stays.
const MAX_DROPPED_AT_ONCE: usize = 1_024;

/// What became of a record that another node left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is new, or has renewed an older one of the same provider.
    Stored,
    /// It is new, and another one made room for it.
    Replaced,
    /// The key is no SHA-256 multihash.
    BadKey,
    /// Too many peers are closer to the key than this node.
    TooFar,
    /// The peer leaves records faster than allowed.
    TooFast,
    /// No room for foreign records.
    Full,
    /// The provider has used up its share.
    Quota,
    /// The IP group of the provider has used up its share.
    GroupQuota,
    /// No room for another provider.
    Providers,
}

impl Admission {
    /// Whether the record is held now.
    pub fn is_held(self) -> bool {
        matches!(self, Self::Stored | Self::Replaced)
    }
}

/// What has to go for a new record.
#[derive(Debug, Default)]
struct Room {
    /// A provider with all its records.
    provider: Option<u32>,
    /// The oldest record of a provider, in a full group.
    in_group: Option<u32>,
    /// A record, under a full key or in a full store.
    record: Option<u32>,
}

impl Records {
    /// Takes a record of another node, within the budgets; it lives 24 hours from now.
    pub fn admit(&mut self, offer: &Offer, digest: Digest, now: Instant) -> Admission {
        let now = self.seconds(now);
        let expires = self.full_life(now);
        let no = self.index.providers.find(&offer.peer);
        if let Some((no, place)) = no.and_then(|no| Some((no, self.place_of(&digest, no)?))) {
            self.refresh(no, offer);
            self.index.renew(place, expires);
            self.note(digest, no, expires);
            return Admission::Stored;
        }
        match self.add(offer, no, digest, expires) {
            Ok((no, has_replaced)) => {
                self.refresh(no, offer);
                self.note(digest, no, expires);
                if has_replaced { Admission::Replaced } else { Admission::Stored }
            }
            Err(refusal) => refusal,
        }
    }

    /// Adds a record that is not there yet, of the provider that was found to have the number `no`. Returns the
    /// number and whether another record had to go.
    pub(super) fn add(
        &mut self,
        offer: &Offer,
        no: Option<u32>,
        digest: Digest,
        expires: u32,
    ) -> Result<(u32, bool), Admission> {
        let room = self.room_for(offer, no, &digest)?;
        let has_replaced = self.make(&room);
        let no = no.unwrap_or_else(|| self.index.providers.insert(offer));
        if !self.index.insert(digest, no, expires) {
            self.index.providers.drop_empty(no);
            return Err(Admission::Full);
        }
        Ok((no, has_replaced))
    }

    /// The place of a provider's record of a key.
    pub(super) fn place_of(&self, digest: &Digest, no: u32) -> Option<u32> {
        self.index.of_key(digest).find(|(_, record)| record.provider == no).map(|(place, _)| place)
    }

    /// Takes over what a provider says of itself. It stays in its group if it has too much for its new one.
    fn refresh(&mut self, no: u32, offer: &Offer) {
        self.index.providers.refresh(no, offer);
        if self.fits_into(offer.group, no) {
            self.index.providers.regroup(no, offer.group);
        }
    }

    fn fits_into(&self, group: Option<IpGroup>, no: u32) -> bool {
        let providers = &self.index.providers;
        group.is_none_or(|group| {
            providers.records_in(group) + providers.records_of(no) <= self.limits.per_group
        })
    }

    fn note(&mut self, digest: Digest, no: u32, expires: u32) {
        let Some(provider) = self.index.providers.get_mut(no) else { return };
        provider.mention =
            self.journal.put(digest, provider.peer, &provider.addrs, provider.mention, expires);
    }

    /// What has to go for a new record, or why it is refused. Nothing has changed yet.
    fn room_for(&self, offer: &Offer, no: Option<u32>, digest: &Digest) -> Result<Room, Admission> {
        let providers = &self.index.providers;
        if no.map_or(0, |no| providers.records_of(no)) >= self.limits.per_provider {
            return Err(Admission::Quota);
        }
        let mut room = Room::default();
        if no.is_none() && providers.len() >= self.limits.providers {
            let smallest = providers.makes_way(offer.group);
            let smallest = smallest.filter(|no| providers.records_of(*no) <= MAX_DROPPED_AT_ONCE);
            room.provider = Some(smallest.ok_or(Admission::Providers)?);
        }
        // A provider that stays in its old group counts there.
        let moves = no.is_some_and(|no| self.fits_into(offer.group, no));
        let group =
            if no.is_none() || moves { offer.group } else { no.and_then(|no| providers.group_of(no)) };
        let shared = group.map_or(0, |group| providers.records_in(group));
        let joining =
            no.filter(|no| providers.group_of(*no) != group).map_or(0, |no| providers.records_of(no));
        if let Some(group) = group.filter(|_| shared + joining >= self.limits.per_group) {
            room.in_group = Some(providers.makes_room_in(no, group).ok_or(Admission::GroupQuota)?);
        }
        room.record = self.fullest_of_key(digest, group);
        if room.record.is_none() && self.index.len() >= self.limits.records {
            let largest = providers.makes_room(no, group).ok_or(Admission::Full)?;
            room.record = Some(providers.get(largest).ok_or(Admission::Full)?.first);
        }
        Ok(room)
    }

    /// Lets go what has to go; false if that is nothing.
    fn make(&mut self, room: &Room) -> bool {
        let largest =
            room.in_group.and_then(|no| self.index.providers.get(no)).map(|provider| provider.first);
        for place in [largest, room.record].into_iter().flatten() {
            self.drop_record(place);
        }
        for _ in 0..MAX_DROPPED_AT_ONCE {
            let Some(provider) = room.provider.and_then(|no| self.index.providers.get(no)) else { break };
            self.drop_record(provider.first);
        }
        room.in_group.is_some() || room.record.is_some() || room.provider.is_some()
    }

    /// The record that makes room under a key with the most providers allowed: the oldest of the group that then has
    /// the most. Providers in no group are groups of their own.
    fn fullest_of_key(&self, digest: &Digest, newcomer: Option<IpGroup>) -> Option<u32> {
        if self.index.of_key(digest).count() < self.limits.per_key {
            return None;
        }
        let mut held: Vec<(Option<IpGroup>, u32, u32)> = self
            .index
            .of_key(digest)
            .map(|(place, record)| {
                let is_counted = !self.index.providers.is_forgotten(record.provider);
                let group = self.index.providers.group_of(record.provider).filter(|_| is_counted);
                (group, record.expires, place)
            })
            .collect();
        held.sort_unstable();
        let crowd = |group: &Option<IpGroup>, len: usize| match group {
            Some(_) => len + usize::from(*group == newcomer),
            None => 1,
        };
        let groups = held.chunk_by(|a, b| a.0.is_some() && a.0 == b.0);
        let oldest = groups.filter_map(|held| held.first().map(|first| (crowd(&first.0, held.len()), first)));
        let chosen =
            oldest.max_by_key(|(len, (_, expires, place))| (*len, std::cmp::Reverse((*expires, *place))));
        chosen.map(|(_, (_, _, place))| *place)
    }
}
