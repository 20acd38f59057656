//! Records of other peers' keys, kept over a restart.
//!
//! Who uses them holds them in memory; this is the copy on the disk, written behind. What a crash may lose is the last
//! seconds of it, never its consistency: a record's provider is always there, because a provider's row and all its
//! records go together, and nothing is written under a number that has no provider.

use redb::{ReadableTable, Table, WriteTransaction};

use crate::cid::Digest;
use crate::db::records::{ForeignProviderRecord, decode, encode};
use crate::db::tables::{
    FOREIGN_PROVIDERS, FOREIGN_RECORDS, ForeignKey, foreign_key, foreign_range, split_foreign_key,
};
use crate::error::StoreError;
use crate::store::Store;

/// Addresses kept of one provider; the first ones.
pub const MAX_FOREIGN_ADDRS: usize = 8;

/// Longest address kept, in bytes; longer ones are left out. Over a relay a binary multiaddr has some 120.
pub const MAX_FOREIGN_ADDR_LEN: usize = 512;

/// Longest binary peer id kept, in bytes; a provider with a longer one is left out, and so are its records.
pub const MAX_FOREIGN_PEER_LEN: usize = 128;

/// A peer that other peers' records lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignProvider {
    /// Which number its records name it by. Chosen by the caller, and free again once the provider is removed.
    pub number: u32,
    /// Binary peer id.
    pub peer: Vec<u8>,
    /// Binary multiaddrs.
    pub addrs: Vec<Vec<u8>>,
}

/// That a peer provides a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForeignRecord {
    /// Number of the provider.
    pub provider: u32,
    /// SHA-256 digest of the key.
    pub digest: Digest,
    /// When the record ends, in seconds since 1970, by the caller's clock.
    pub expires_unix: u64,
}

/// A change to what is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForeignOp {
    /// Keeps a provider, or its new addresses. If another peer had the number, that peer's records go.
    PutProvider(ForeignProvider),
    /// Forgets a provider with all its records. Its number is free then.
    RemoveProvider(u32),
    /// Keeps a record, or its new end. Ignored if its provider is not kept.
    Put(ForeignRecord),
    /// Forgets a record.
    Remove {
        /// Number of the provider.
        provider: u32,
        /// SHA-256 digest of the key.
        digest: Digest,
    },
}

impl Store {
    /// Makes changes, in this order and in one transaction. It does not wait for the disk: a crash may undo it with
    /// everything after it, as long as nothing that lasts was written since. Sorted by provider and digest many
    /// changes cost least.
    ///
    /// # Errors
    /// If the database fails; nothing is changed then.
    pub fn apply_foreign(&self, ops: &[ForeignOp]) -> Result<(), StoreError> {
        if ops.is_empty() {
            return Ok(());
        }
        self.inner.db.write_cached(|txn| {
            let mut tables = ForeignTables::open(txn)?;
            ops.iter().try_for_each(|op| tables.apply(op))
        })
    }

    /// A page of the records, at most `max` of those after `after`, sorted by provider and digest. Start with `None`,
    /// go on with provider and digest of the last record; an empty page is the end.
    ///
    /// # Errors
    /// If the database fails.
    pub fn load_foreign(
        &self,
        after: Option<(u32, Digest)>,
        max: usize,
    ) -> Result<Vec<ForeignRecord>, StoreError> {
        self.inner.db.read(|txn| {
            let records = txn.open_table(FOREIGN_RECORDS)?;
            let after = after.map(|(provider, digest)| foreign_key(provider, &digest));
            let start = after.unwrap_or([0; 36]);
            let mut page = Vec::new();
            for row in records.range::<&ForeignKey>(&start..)? {
                if page.len() == max {
                    break;
                }
                let (key, expires) = row?;
                if Some(*key.value()) != after {
                    let (provider, digest) = split_foreign_key(key.value());
                    page.push(ForeignRecord { provider, digest, expires_unix: expires.value() });
                }
            }
            Ok(page)
        })
    }

    /// Every provider that is kept, sorted by number.
    ///
    /// # Errors
    /// If the database fails.
    pub fn load_foreign_providers(&self) -> Result<Vec<ForeignProvider>, StoreError> {
        self.inner.db.read(|txn| {
            let providers = txn.open_table(FOREIGN_PROVIDERS)?;
            let rows = providers.iter()?;
            rows.map(|row| {
                let (number, record) = row?;
                let ForeignProviderRecord { peer, addrs } = decode(record.value(), "foreign provider")?;
                let addrs = addrs.into_iter().map(|addr| addr.into_vec()).collect();
                Ok(ForeignProvider { number: number.value(), peer, addrs })
            })
            .collect()
        })
    }

    /// Drops the records that have ended at `now_unix`, and the providers that have none left, whose numbers are free
    /// then. For the start, before anybody holds numbers. Reads every record. Returns how many it dropped.
    ///
    /// # Errors
    /// If the database fails; nothing is dropped then.
    pub fn drop_expired_foreign(&self, now_unix: u64) -> Result<u64, StoreError> {
        self.inner.db.write_cached(|txn| {
            let mut tables = ForeignTables::open(txn)?;
            let mut dropped = 0;
            tables.records.retain(|_, expires| {
                dropped += u64::from(expires <= now_unix);
                expires > now_unix
            })?;
            let numbers: Vec<u32> =
                tables.providers.iter()?.map(|row| Ok(row?.0.value())).collect::<Result<_, StoreError>>()?;
            for number in numbers {
                if !tables.has_records(number)? {
                    tables.providers.remove(number)?;
                }
            }
            Ok(dropped)
        })
    }
}

/// Compares the rows with what the documentation of this module promises.
pub(crate) fn check(txn: &WriteTransaction) -> Result<Result<(), String>, StoreError> {
    let tables = ForeignTables::open(txn)?;
    let mut last = None;
    for row in tables.records.iter()? {
        let (provider, _) = split_foreign_key(row?.0.value());
        if last.replace(provider) != Some(provider) && tables.providers.get(provider)?.is_none() {
            return Ok(Err(format!("a record names the missing provider {provider}")));
        }
    }
    Ok(Ok(()))
}

struct ForeignTables<'txn> {
    records: Table<'txn, &'static ForeignKey, u64>,
    providers: Table<'txn, u32, &'static [u8]>,
}

impl<'txn> ForeignTables<'txn> {
    fn open(txn: &'txn WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self { records: txn.open_table(FOREIGN_RECORDS)?, providers: txn.open_table(FOREIGN_PROVIDERS)? })
    }

    fn apply(&mut self, op: &ForeignOp) -> Result<(), StoreError> {
        match op {
            ForeignOp::PutProvider(provider) => self.put_provider(provider)?,
            ForeignOp::RemoveProvider(number) => self.remove_provider(*number)?,
            ForeignOp::Put(ForeignRecord { provider, digest, expires_unix }) => {
                if self.providers.get(*provider)?.is_some() {
                    self.records.insert(&foreign_key(*provider, digest), expires_unix)?;
                }
            }
            ForeignOp::Remove { provider, digest } => {
                self.records.remove(&foreign_key(*provider, digest))?;
            }
        }
        Ok(())
    }

    fn put_provider(&mut self, provider: &ForeignProvider) -> Result<(), StoreError> {
        let old = self.providers.get(provider.number)?;
        let old: Option<ForeignProviderRecord> =
            old.map(|row| decode(row.value(), "foreign provider")).transpose()?;
        if old.is_some_and(|old| old.peer != provider.peer) {
            self.remove_provider(provider.number)?;
        }
        if provider.peer.len() > MAX_FOREIGN_PEER_LEN {
            return Ok(());
        }
        let addrs = provider.addrs.iter().filter(|addr| addr.len() <= MAX_FOREIGN_ADDR_LEN);
        let addrs = addrs.take(MAX_FOREIGN_ADDRS).map(|addr| addr.clone().into()).collect();
        let record = ForeignProviderRecord { peer: provider.peer.clone(), addrs };
        self.providers.insert(provider.number, encode(&record)?.as_slice())?;
        Ok(())
    }

    fn remove_provider(&mut self, number: u32) -> Result<(), StoreError> {
        self.providers.remove(number)?;
        let (first, last) = foreign_range(number);
        self.records.retain_in::<&ForeignKey, _>(&first..=&last, |_, _| false)?;
        Ok(())
    }

    fn has_records(&self, number: u32) -> Result<bool, StoreError> {
        let (first, last) = foreign_range(number);
        Ok(self.records.range::<&ForeignKey>(&first..=&last)?.next().transpose()?.is_some())
    }
}
