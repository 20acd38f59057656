//! What is to be announced, in the order of the keyspace, and when it was.
//!
//! The schedule is part of the database and changes in the same transactions as the content, so it is right at every
//! start, and nobody has to hold all keys in memory to go through them.

mod summary;

pub use summary::{KeySummary, ProvideSummary};

use redb::ReadableTableMetadata;

use crate::cid::ContentCid;
use crate::db::schedule::{ProvideRow, Schedule, count, fresh_key, position_of_fresh_key};
use crate::db::tables::{
    FRESH_ROOTS_KEY, FreshKey, META, PROVIDE, PROVIDE_FRESH, PROVIDE_ROOTS_KEY, PositionKey,
};
use crate::error::StoreError;
use crate::position::KeyPosition;
use crate::store::Store;

/// How soon a key is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProvideClass {
    /// The root of a share: what people hand on.
    Root,
    /// Any other manifest block, or a chunk.
    Other,
}

/// How many keys there are to announce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProvideCounts {
    /// All.
    pub keys: u64,
    /// Of these, the roots of shares.
    pub roots: u64,
    /// Keys that were never announced.
    pub fresh: u64,
    /// Of these, the roots of shares.
    pub fresh_roots: u64,
}

/// A key that is to be announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProvideKey {
    /// Where it lies in the keyspace.
    pub position: KeyPosition,
    /// What it names. Where a chunk and a manifest have the same digest, and so are one key, the manifest.
    pub cid: ContentCid,
    /// Whether it is the root of a share.
    pub class: ProvideClass,
    /// When it was last announced, in seconds since 1970, by the caller's clock; `None` if never.
    pub last_unix: Option<u64>,
    /// Peers that were known to hold the record after the last announcement.
    pub holders: u8,
}

/// That a key was announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProvideMark {
    /// Which key.
    pub position: KeyPosition,
    /// When, in seconds since 1970. Kept within 1 and 2^32 - 1.
    pub unix: u64,
    /// Peers that are known to hold the record now.
    pub holders: u8,
}

impl ProvideKey {
    fn new(position: KeyPosition, row: ProvideRow) -> Self {
        let last_unix = (row.last_unix != 0).then_some(u64::from(row.last_unix));
        Self { position, cid: row.cid(), class: row.due.class, last_unix, holders: row.holders }
    }
}

impl Store {
    /// How many keys there are to announce; the same time for any number of them.
    ///
    /// # Errors
    /// If the database fails.
    pub fn provide_counts(&self) -> Result<ProvideCounts, StoreError> {
        self.inner.db.read(|txn| {
            let meta = txn.open_table(META)?;
            Ok(ProvideCounts {
                keys: txn.open_table(PROVIDE)?.len()?,
                roots: count(&meta, PROVIDE_ROOTS_KEY)?,
                fresh: txn.open_table(PROVIDE_FRESH)?.len()?,
                fresh_roots: count(&meta, FRESH_ROOTS_KEY)?,
            })
        })
    }

    /// The keys from `from` to `to`, both included, in the order of positions, at most `max` of them. None if `from`
    /// is after `to`.
    ///
    /// # Errors
    /// If the database fails.
    pub fn provide_range(
        &self,
        from: KeyPosition,
        to: KeyPosition,
        max: usize,
    ) -> Result<Vec<ProvideKey>, StoreError> {
        if from > to {
            return Ok(Vec::new());
        }
        self.inner.db.read(|txn| {
            let provide = txn.open_table(PROVIDE)?;
            let rows = provide.range::<&PositionKey>(&from.0..=&to.0)?.take(max);
            rows.map(|row| {
                let (position, row) = row?;
                Ok(ProvideKey::new(KeyPosition(*position.value()), ProvideRow::decode(row.value())))
            })
            .collect()
        })
    }

    /// The keys of one class that were never announced, from `from` to `to`, both included, in the order of
    /// positions, at most `max` of them. Keys that were announced cost nothing. None if `from` is after `to`.
    ///
    /// # Errors
    /// If the database fails.
    pub fn provide_fresh(
        &self,
        class: ProvideClass,
        from: KeyPosition,
        to: KeyPosition,
        max: usize,
    ) -> Result<Vec<ProvideKey>, StoreError> {
        if from > to {
            return Ok(Vec::new());
        }
        self.inner.db.read(|txn| {
            let (fresh, provide) = (txn.open_table(PROVIDE_FRESH)?, txn.open_table(PROVIDE)?);
            let (first, last) = (fresh_key(class, &from), fresh_key(class, &to));
            let mut keys = Vec::new();
            for row in fresh.range::<&FreshKey>(&first..=&last)?.take(max) {
                let position = position_of_fresh_key(row?.0.value());
                if let Some(row) = provide.get(&position.0)? {
                    keys.push(ProvideKey::new(position, ProvideRow::decode(row.value())));
                }
            }
            Ok(keys)
        })
    }

    /// Notes announcements, in one transaction that lasts. Keys that need not be announced any more are ignored; of
    /// several marks of a key the last counts. Returns how many keys were there.
    ///
    /// # Errors
    /// If the database fails; nothing is noted then.
    pub fn provide_mark(&self, marks: &[ProvideMark]) -> Result<usize, StoreError> {
        if marks.is_empty() {
            return Ok(0);
        }
        let mut marks: Vec<&ProvideMark> = marks.iter().collect();
        marks.sort_by_key(|mark| mark.position);
        self.inner.db.write(|txn| {
            let mut schedule = Schedule::open(txn)?;
            let mut known = 0;
            for ProvideMark { position, unix, holders } in &marks {
                let last_unix = u32::try_from(*unix).unwrap_or(u32::MAX).max(1);
                known += usize::from(schedule.mark(position, last_unix, *holders)?);
            }
            schedule.write_counts(&mut txn.open_table(META)?)?;
            Ok(known)
        })
    }

    /// What the schedule says of one key; `None` if it is not to be announced.
    ///
    /// # Errors
    /// If the database fails.
    pub fn provide_key(&self, cid: &ContentCid) -> Result<Option<ProvideKey>, StoreError> {
        let position = KeyPosition::of(cid);
        self.inner.db.read(|txn| {
            let row = txn.open_table(PROVIDE)?.get(&position.0)?;
            Ok(row.map(|row| ProvideKey::new(position, ProvideRow::decode(row.value()))))
        })
    }
}
