//! Every table of the database. A table's name carries the version of its rows, so that a migration can read
//! the old table while it fills the new one.
//!
//! Numbers inside keys are big-endian, so that rows sort by number. Values that are structs are the DAG-CBOR
//! of a type in [`records`](super::records).

use redb::{ReadTransaction, Table, TableDefinition, TableError, WriteTransaction};

use crate::cid::Digest;
use crate::db::schedule::Schedule;

/// Identifies a file on disk that holds chunks. Never used twice.
pub(crate) type SourceId = u64;

/// Digest of a chunk, then the id of a source that holds it.
pub(crate) type LocationKey = [u8; 40];

/// Digest of a share's root, then the id of one of its sources; or the other way round, id first.
pub(crate) type LinkKey = [u8; 40];

/// Digest of a manifest block, then the digest of a share's root that reaches it.
pub(crate) type PinKey = [u8; 64];

/// Where a key lies in the keyspace ([`KeyPosition`](crate::KeyPosition)).
pub(crate) type PositionKey = [u8; 32];

/// What the schedule knows of a key: see [`ProvideRow`](super::schedule::ProvideRow).
pub(crate) type ProvideValue = [u8; 38];

/// Class of a key that was never announced, then its position.
pub(crate) type FreshKey = [u8; 33];

/// Number of a provider, then the digest of a key that it provides.
pub(crate) type ForeignKey = [u8; 36];

/// Single numbers: [`SCHEMA_KEY`], [`NEXT_SOURCE_KEY`], [`NEXT_TRANSFER_KEY`], [`PROVIDE_ROOTS_KEY`],
/// [`FRESH_ROOTS_KEY`].
pub(crate) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// Manifest blocks, pinned or merely cached: digest -> bytes.
pub(crate) const MANIFESTS: TableDefinition<&Digest, &[u8]> = TableDefinition::new("manifests_v1");
/// Which shares keep a manifest block: one row per block and share.
pub(crate) const PINS: TableDefinition<&PinKey, ()> = TableDefinition::new("pins_v1");
/// Files on disk: id -> `SourceRecord`.
pub(crate) const SOURCES: TableDefinition<SourceId, &[u8]> = TableDefinition::new("sources_v1");
/// The same files by `SourceRecord::path_key`.
pub(crate) const SOURCE_PATHS: TableDefinition<&[u8], SourceId> = TableDefinition::new("source_paths_v1");
/// Where chunks lie: (digest, source) -> (offset, length), both in bytes. One row per chunk and source,
/// however often the chunk repeats in it: a file of zeros costs one row.
pub(crate) const LOCATIONS: TableDefinition<&LocationKey, (u64, u32)> = TableDefinition::new("locations_v1");
/// Shares: digest of the root -> `ShareRecord`.
pub(crate) const SHARES: TableDefinition<&Digest, &[u8]> = TableDefinition::new("shares_v1");
/// (share, source): the sources of a share.
pub(crate) const SHARE_SOURCES: TableDefinition<&LinkKey, ()> = TableDefinition::new("share_sources_v1");
/// (source, share): the shares of a source.
pub(crate) const SOURCE_SHARES: TableDefinition<&LinkKey, ()> = TableDefinition::new("source_shares_v1");
/// Unfinished downloads: absolute path of the output -> `DownloadRecord`.
pub(crate) const PROGRESS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("progress_v1");
/// Keys to be announced, in the order of the keyspace: position -> `ProvideRow`.
pub(crate) const PROVIDE: TableDefinition<&PositionKey, &ProvideValue> = TableDefinition::new("provide_v1");
/// Those of them that were never announced, so that they are found without a look at the others.
pub(crate) const PROVIDE_FRESH: TableDefinition<&FreshKey, ()> = TableDefinition::new("provide_fresh_v1");
/// Records of other peers' keys: (provider, digest) -> when it expires, in seconds since 1970.
pub(crate) const FOREIGN_RECORDS: TableDefinition<&ForeignKey, u64> =
    TableDefinition::new("foreign_records_v1");
/// The providers they name: number -> `ForeignProviderRecord`.
pub(crate) const FOREIGN_PROVIDERS: TableDefinition<u32, &[u8]> =
    TableDefinition::new("foreign_providers_v1");
/// Peers to try after a restart: peer id -> `PeerRecord`.
pub(crate) const PEERS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("peers_v1");
/// Transfers that go on after a restart: number -> `TransferRecord`.
pub(crate) const TRANSFERS: TableDefinition<u64, &[u8]> = TableDefinition::new("transfers_v1");
/// Small values that other packages keep here.
pub(crate) const SETTINGS: TableDefinition<&str, &[u8]> = TableDefinition::new("settings_v1");

/// Row of [`META`]: version of the whole layout.
pub(crate) const SCHEMA_KEY: &str = "schema";
/// Row of [`META`]: the id the next source gets.
pub(crate) const NEXT_SOURCE_KEY: &str = "next_source";

/// Row of [`META`]: the number the next transfer gets; absent is 0.
pub(crate) const NEXT_TRANSFER_KEY: &str = "next_transfer";

/// Row of [`META`]: how many rows of [`PROVIDE`] are roots of shares.
pub(crate) const PROVIDE_ROOTS_KEY: &str = "provide_roots";
/// Row of [`META`]: how many rows of [`PROVIDE_FRESH`] are.
pub(crate) const FRESH_ROOTS_KEY: &str = "provide_fresh_roots";

/// The tables that describe content, open for writing, and what was changed in them.
pub(crate) struct Tables<'txn> {
    pub(crate) meta: Table<'txn, &'static str, u64>,
    pub(crate) manifests: Table<'txn, &'static Digest, &'static [u8]>,
    pub(crate) pins: Table<'txn, &'static PinKey, ()>,
    pub(crate) sources: Table<'txn, SourceId, &'static [u8]>,
    pub(crate) source_paths: Table<'txn, &'static [u8], SourceId>,
    pub(crate) locations: Table<'txn, &'static LocationKey, (u64, u32)>,
    pub(crate) shares: Table<'txn, &'static Digest, &'static [u8]>,
    pub(crate) share_sources: Table<'txn, &'static LinkKey, ()>,
    pub(crate) source_shares: Table<'txn, &'static LinkKey, ()>,
    pub(crate) progress: Table<'txn, &'static [u8], &'static [u8]>,
    pub(super) schedule: Schedule<'txn>,
    /// Digests whose row in the schedule may have to change.
    pub(super) touched: Vec<Digest>,
}

impl<'txn> Tables<'txn> {
    pub(crate) fn open(txn: &'txn WriteTransaction) -> Result<Self, TableError> {
        Ok(Self {
            meta: txn.open_table(META)?,
            manifests: txn.open_table(MANIFESTS)?,
            pins: txn.open_table(PINS)?,
            sources: txn.open_table(SOURCES)?,
            source_paths: txn.open_table(SOURCE_PATHS)?,
            locations: txn.open_table(LOCATIONS)?,
            shares: txn.open_table(SHARES)?,
            share_sources: txn.open_table(SHARE_SOURCES)?,
            source_shares: txn.open_table(SOURCE_SHARES)?,
            progress: txn.open_table(PROGRESS)?,
            schedule: Schedule::open(txn)?,
            touched: Vec::new(),
        })
    }
}

/// Creates every table and notes the schema version: the first transaction of a new database.
pub(crate) fn create_all(txn: &WriteTransaction, schema: u64) -> Result<(), TableError> {
    let mut tables = Tables::open(txn)?;
    txn.open_table(PEERS)?;
    txn.open_table(SETTINGS)?;
    create_foreign(txn)?;
    create_transfers(txn)?;
    tables.meta.insert(SCHEMA_KEY, schema)?;
    Ok(())
}

/// Creates the tables of other peers' records.
pub(crate) fn create_foreign(txn: &WriteTransaction) -> Result<(), TableError> {
    txn.open_table(FOREIGN_RECORDS)?;
    txn.open_table(FOREIGN_PROVIDERS)?;
    Ok(())
}

/// Creates the table of transfers.
pub(crate) fn create_transfers(txn: &WriteTransaction) -> Result<(), TableError> {
    txn.open_table(TRANSFERS)?;
    Ok(())
}

/// Reads the schema version; `None` if this is no database of ours.
pub(crate) fn schema_version(txn: &ReadTransaction) -> Result<Option<u64>, TableError> {
    let meta = match txn.open_table(META) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        meta => meta?,
    };
    Ok(meta.get(SCHEMA_KEY)?.map(|version| version.value()))
}

pub(crate) fn location_key(chunk: &Digest, source: SourceId) -> LocationKey {
    digest_then_id(chunk, source)
}

/// The first and the last key a location of `chunk` can have.
pub(crate) fn location_range(chunk: &Digest) -> (LocationKey, LocationKey) {
    (digest_then_id(chunk, SourceId::MIN), digest_then_id(chunk, SourceId::MAX))
}

/// The digest of the chunk and the source that a location is about.
pub(crate) fn split_location_key(key: &LocationKey) -> (Digest, SourceId) {
    split_digest_then_id(key)
}

pub(crate) fn share_source_key(root: &Digest, source: SourceId) -> LinkKey {
    digest_then_id(root, source)
}

pub(crate) fn share_source_range(root: &Digest) -> (LinkKey, LinkKey) {
    (digest_then_id(root, SourceId::MIN), digest_then_id(root, SourceId::MAX))
}

pub(crate) fn split_share_source_key(key: &LinkKey) -> (Digest, SourceId) {
    split_digest_then_id(key)
}

pub(crate) fn source_share_key(source: SourceId, root: &Digest) -> LinkKey {
    let mut key = [0; 40];
    let (id, digest) = key.split_at_mut(8);
    id.copy_from_slice(&source.to_be_bytes());
    digest.copy_from_slice(root);
    key
}

pub(crate) fn source_share_range(source: SourceId) -> (LinkKey, LinkKey) {
    (source_share_key(source, &[0x00; 32]), source_share_key(source, &[0xff; 32]))
}

/// The share's root in a key of [`SOURCE_SHARES`].
pub(crate) fn root_of_source_share_key(key: &LinkKey) -> Digest {
    let mut root = [0; 32];
    root.copy_from_slice(key.split_at(8).1);
    root
}

pub(crate) fn pin_key(manifest: &Digest, root: &Digest) -> PinKey {
    let mut key = [0; 64];
    let (first, second) = key.split_at_mut(32);
    first.copy_from_slice(manifest);
    second.copy_from_slice(root);
    key
}

pub(crate) fn pin_range(manifest: &Digest) -> (PinKey, PinKey) {
    (pin_key(manifest, &[0x00; 32]), pin_key(manifest, &[0xff; 32]))
}

/// The manifest in a key of [`PINS`].
pub(crate) fn manifest_of_pin_key(key: &PinKey) -> Digest {
    let mut manifest = [0; 32];
    manifest.copy_from_slice(key.split_at(32).0);
    manifest
}

/// The share's root in a key of [`PINS`].
pub(crate) fn root_of_pin_key(key: &PinKey) -> Digest {
    let mut root = [0; 32];
    root.copy_from_slice(key.split_at(32).1);
    root
}

pub(crate) fn foreign_key(provider: u32, digest: &Digest) -> ForeignKey {
    let mut key = [0; 36];
    let (first, second) = key.split_at_mut(4);
    first.copy_from_slice(&provider.to_be_bytes());
    second.copy_from_slice(digest);
    key
}

/// The first and the last key a record of `provider` can have.
pub(crate) fn foreign_range(provider: u32) -> (ForeignKey, ForeignKey) {
    (foreign_key(provider, &[0x00; 32]), foreign_key(provider, &[0xff; 32]))
}

pub(crate) fn split_foreign_key(key: &ForeignKey) -> (u32, Digest) {
    let (first, second) = key.split_at(4);
    let (mut provider, mut digest) = ([0; 4], [0; 32]);
    provider.copy_from_slice(first);
    digest.copy_from_slice(second);
    (u32::from_be_bytes(provider), digest)
}

fn digest_then_id(digest: &Digest, id: u64) -> [u8; 40] {
    let mut key = [0; 40];
    let (first, second) = key.split_at_mut(32);
    first.copy_from_slice(digest);
    second.copy_from_slice(&id.to_be_bytes());
    key
}

fn split_digest_then_id(key: &[u8; 40]) -> (Digest, u64) {
    let (first, second) = key.split_at(32);
    let mut digest = [0; 32];
    digest.copy_from_slice(first);
    let mut id = [0; 8];
    id.copy_from_slice(second);
    (digest, u64::from_be_bytes(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_apart_as_they_were_put_together() {
        let digest = std::array::from_fn(|index| u8::try_from(index).unwrap_or(0));
        assert_eq!(split_location_key(&location_key(&digest, 0x0102_0304)), (digest, 0x0102_0304));
        assert_eq!(split_share_source_key(&share_source_key(&digest, 7)), (digest, 7));
        assert_eq!(root_of_source_share_key(&source_share_key(u64::MAX, &digest)), digest);
        assert_eq!(manifest_of_pin_key(&pin_key(&digest, &[9; 32])), digest);
        assert_eq!(split_foreign_key(&foreign_key(0x0102_0304, &digest)), (0x0102_0304, digest));
    }

    #[test]
    fn sources_sort_by_number_inside_a_chunk() {
        let (first, last) = location_range(&[5; 32]);
        let low = location_key(&[5; 32], 255);
        let high = location_key(&[5; 32], 256);
        assert!(first < low && low < high && high < last);
        assert!(location_key(&[4; 32], u64::MAX) < first);
    }
}
