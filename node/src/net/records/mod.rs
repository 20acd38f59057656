//! The provider records this node holds: its own, and those other nodes left here.
//!
//! Own and foreign records have separate budgets, so that strangers cannot keep this node from announcing. A foreign
//! record takes 60 bytes; of an own key only a fingerprint is kept. Value records are not part of this network and
//! always refused. The memory is the truth; the disk is a copy that lags behind (`journal`) and is read at the start
//! (`restore`).
//!
//! | file | |
//! |---|---|
//! | `admit` | which record is taken, and who makes room for it |
//! | `answer` | which providers an answer names |
//! | `expiry` | what ends, is away, is forgotten |
//! | `index`, `slab`, `keyed` | records by key and by provider |
//! | `providers`, `group`, `packed` | providers, their groups and addresses |
//! | `near`, `token_bucket` | checks before a record comes here |
//! | `own` | the own keys |
//! | `journal`, `restore` | to the disk and back |
//! | `kad_store` | the same as kad sees it |
//!
//! Time comes in as `now` and is kept in whole seconds since the start of the store, on a clock that never goes back.
//! Nothing here takes longer the more there is: tables grow in parts, and what ends is looked for in steps.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use libp2p::PeerId;
use libp2p::kad::RecordKey;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::Notify;

mod admit;
mod answer;
mod expiry;
mod group;
mod index;
mod journal;
mod kad_store;
mod keyed;
pub(crate) mod near;
mod own;
mod packed;
mod providers;
mod restore;
mod slab;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod token_bucket;

pub use self::admit::Admission;
pub use self::expiry::Swept;
pub use self::group::IpGroup;
pub(crate) use self::group::group_of;
pub use self::journal::{Change, Changes, Holder};
pub use self::providers::Offer;
pub use self::restore::{Page, Restored, StoredProvider, StoredRecord};

use self::index::Index;
use self::journal::Journal;
use self::keyed::KeyedHash;
use self::own::OwnKeys;
use super::limits::{MAX_RECORD_CHANGES, NetLimits};

/// Code and length at the start of a SHA-256 multihash.
pub(crate) const SHA256_PREFIX: [u8; 2] = [0x12, 0x20];

/// The SHA-256 in a key.
pub type Digest = [u8; 32];

/// The digest in a key; `None` unless the key is a SHA-256 multihash.
pub fn digest_of(key: &RecordKey) -> Option<Digest> {
    let bytes: &[u8] = key.as_ref();
    bytes.strip_prefix(&SHA256_PREFIX)?.try_into().ok()
}

/// The record store behind kad.
#[derive(Debug)]
pub struct Records {
    local: PeerId,
    own: OwnKeys,
    index: Index,
    journal: Journal,
    limits: Limits,
    /// The time that seconds are counted from.
    start: Instant,
    /// Where the sweep goes on.
    cursor: u32,
    /// Forgotten providers that still have records.
    forgotten: Vec<u32>,
    /// Seeds the samples in answers, together with the number of the answer.
    sampling: KeyedHash,
    answers: Cell<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    records: usize,
    per_provider: usize,
    per_group: usize,
    per_key: usize,
    providers: usize,
    /// In seconds.
    life: u32,
}

impl Records {
    /// An empty store of the node `local`. Hash keys and samples follow from `seed`.
    pub fn new(local: PeerId, limits: &NetLimits, seed: u64, now: Instant) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut hash = || KeyedHash::new(&mut rng);
        Self {
            local,
            own: OwnKeys::new(hash(), limits.max_own_records),
            index: Index::new(hash(), hash()),
            journal: Journal::new(MAX_RECORD_CHANGES),
            limits: Limits {
                records: limits.max_foreign_records,
                per_provider: limits.max_records_per_provider,
                per_group: limits.max_records_per_group,
                per_key: limits.max_providers_per_key.max(1),
                providers: limits.max_record_providers,
                life: u32::try_from(limits.record_life.as_secs()).unwrap_or(u32::MAX),
            },
            start: now,
            cursor: 0,
            forgotten: Vec::new(),
            sampling: hash(),
            answers: Cell::new(0),
        }
    }

    /// Keys this node announces.
    pub fn own_len(&self) -> usize {
        self.own.len()
    }

    /// Records of other nodes held here.
    pub fn foreign_len(&self) -> usize {
        self.index.len()
    }

    /// Records of other nodes held here of the provider that has the most. Looks at every provider.
    pub fn most_of_one_provider(&self) -> usize {
        self.index.providers.most_records()
    }

    /// Bytes allocated for own keys.
    pub fn own_memory(&self) -> usize {
        self.own.memory()
    }

    /// Bytes allocated for records of other nodes, the changes that wait for the disk left out.
    pub fn foreign_memory(&self) -> usize {
        self.index.memory()
    }

    /// Announces a key; false if there is no room for it.
    pub fn hold(&mut self, digest: &Digest) -> bool {
        self.own.insert(digest)
    }

    /// Announces a key no longer.
    pub fn release(&mut self, digest: &Digest) {
        self.own.remove(digest);
    }

    /// Drops the record of a provider under a key; false if there is none.
    pub fn withdraw(&mut self, peer: &PeerId, digest: &Digest) -> bool {
        let no = self.index.providers.find(peer);
        let place = no.and_then(|no| self.place_of(digest, no));
        if let Some(place) = place {
            self.drop_record(place);
        }
        place.is_some()
    }

    /// Whether a record of a provider is held under a key.
    pub fn holds(&self, peer: &PeerId, digest: &Digest) -> bool {
        self.index.providers.find(peer).and_then(|no| self.place_of(digest, no)).is_some()
    }

    /// Hands over what has changed since the last time, in constant time. From the first call on changes are noted.
    pub fn take_changes(&mut self, now: Instant) -> Changes {
        self.journal.take(self.seconds(now))
    }

    /// Changes that were not noted since the last time, because nobody took the others.
    pub fn take_dropped_changes(&mut self) -> usize {
        self.journal.take_dropped()
    }

    /// Is notified when so many changes wait that they should be taken.
    pub fn changes_waiting(&self) -> Arc<Notify> {
        self.journal.half_full()
    }

    fn seconds(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.start).as_secs()).unwrap_or(u32::MAX)
    }

    /// The end of a record that is left now.
    fn full_life(&self, now: u32) -> u32 {
        now.saturating_add(self.limits.life)
    }

    /// Drops a record, and its provider if it was its last one.
    fn drop_record(&mut self, place: u32) {
        let Some(record) = self.index.remove(place) else { return };
        let no = record.provider;
        if let Some(provider) = self.index.providers.get_mut(no) {
            let at = self.journal.remove(record.digest, provider.peer, &provider.addrs, provider.mention);
            provider.mention = at;
        }
        if !self.index.providers.is_forgotten(no) && self.index.providers.records_of(no) == 0 {
            self.index.providers.drop_empty(no);
        }
    }

    #[cfg(test)]
    pub(crate) fn check_invariants(&self) {
        self.index.check_invariants(self.limits.per_key);
        assert!(self.foreign_len() <= self.limits.records);
        assert!(self.journal.len() <= MAX_RECORD_CHANGES);
        let forgotten: Vec<u32> = self
            .index
            .providers
            .iter()
            .map(|(no, _)| no)
            .filter(|no| self.index.providers.is_forgotten(*no))
            .collect();
        let mut listed = self.forgotten.clone();
        listed.sort_unstable();
        assert_eq!(listed, forgotten);
    }
}
