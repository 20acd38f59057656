//! The schedule of announcements: which keys are to be announced, and when each was.
//!
//! What has to be announced follows from pins, locations and the scopes of shares, and from nothing else:
//! [`Tables::due`] is that rule. A change of content only notes whose row it may concern ([`Tables::touch`]); before
//! the transaction commits, [`Tables::settle`] applies the rule to those. So the rule is in one place, what a
//! transaction takes away and gives back keeps its row, and rows are written in the order of the table, which is
//! several times faster than in the order of a file.

use std::collections::HashMap;
use std::ops::Bound;

use redb::{ReadableTable, ReadableTableMetadata, Table, TableError, WriteTransaction};

use crate::cid::{ChunkCid, ContentCid, Digest, ManifestCid};
use crate::db::tables::{
    FRESH_ROOTS_KEY, FreshKey, LocationKey, PROVIDE, PROVIDE_FRESH, PROVIDE_ROOTS_KEY, PinKey, PositionKey,
    ProvideValue, SourceId, Tables, location_range, manifest_of_pin_key, pin_key, pin_range,
    split_location_key,
};
use crate::error::StoreError;
use crate::options::AnnounceScope;
use crate::position::KeyPosition;
use crate::provide::ProvideClass;

/// Digests noted before the schedule is brought up to date in the middle of a transaction; some 12 MiB with what is
/// found out about them. A file of more chunks that is replaced may lose what is known of those it keeps, and they are
/// announced again.
const MAX_TOUCHED: usize = 1 << 17;

/// Rows read at a time while the schedule of an older store is built.
const BUILD_PAGE: usize = 4096;

const MANIFEST_FLAG: u8 = 1 << 0;
const ROOT_FLAG: u8 = 1 << 1;

/// What the schedule says of a key. In the table: digest (32 bytes), flags (bit 0 manifest, bit 1 root), last
/// announcement (u32, big-endian), holders (u8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProvideRow {
    pub(crate) due: Due,
    pub(crate) digest: Digest,
    /// Seconds since 1970; 0 if never.
    pub(crate) last_unix: u32,
    /// Peers that held the record after the last announcement.
    pub(crate) holders: u8,
}

/// As what a key is to be announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) is_manifest: bool,
    pub(crate) class: ProvideClass,
}

impl ProvideRow {
    pub(crate) fn encode(&self) -> ProvideValue {
        let mut value = [0; 38];
        let flags = if self.due.is_manifest { MANIFEST_FLAG } else { 0 }
            | if self.due.class == ProvideClass::Root { ROOT_FLAG } else { 0 };
        let (digest, rest) = value.split_at_mut(32);
        digest.copy_from_slice(&self.digest);
        let (kind, rest) = rest.split_at_mut(1);
        kind.copy_from_slice(&[flags]);
        let (last, holders) = rest.split_at_mut(4);
        last.copy_from_slice(&self.last_unix.to_be_bytes());
        holders.copy_from_slice(&[self.holders]);
        value
    }

    pub(crate) fn decode(value: &ProvideValue) -> Self {
        let (digest_bytes, rest) = value.split_at(32);
        let mut digest = [0; 32];
        digest.copy_from_slice(digest_bytes);
        let mut tail = [0; 6];
        tail.copy_from_slice(rest);
        let [flags, a, b, c, d, holders] = tail;
        let class = if flags & ROOT_FLAG != 0 { ProvideClass::Root } else { ProvideClass::Other };
        let due = Due { is_manifest: flags & MANIFEST_FLAG != 0, class };
        Self { due, digest, last_unix: u32::from_be_bytes([a, b, c, d]), holders }
    }

    pub(crate) fn cid(&self) -> ContentCid {
        match self.due.is_manifest {
            true => ManifestCid::from_digest(self.digest).into(),
            false => ChunkCid::from_digest(self.digest).into(),
        }
    }
}

/// The key of a row in [`PROVIDE_FRESH`].
pub(crate) fn fresh_key(class: ProvideClass, position: &KeyPosition) -> FreshKey {
    let mut key = [0; 33];
    let (first, second) = key.split_at_mut(1);
    first.copy_from_slice(&[u8::from(class == ProvideClass::Other)]);
    second.copy_from_slice(&position.0);
    key
}

/// The position in a key of [`PROVIDE_FRESH`].
pub(crate) fn position_of_fresh_key(key: &FreshKey) -> KeyPosition {
    let mut position = [0; 32];
    position.copy_from_slice(key.split_at(1).1);
    KeyPosition(position)
}

/// The two tables of the schedule, and how the counts beside them have to change.
pub(crate) struct Schedule<'txn> {
    provide: Table<'txn, &'static PositionKey, &'static ProvideValue>,
    fresh: Table<'txn, &'static FreshKey, ()>,
    roots: i64,
    fresh_roots: i64,
}

impl<'txn> Schedule<'txn> {
    pub(crate) fn open(txn: &'txn WriteTransaction) -> Result<Self, TableError> {
        let (provide, fresh) = (txn.open_table(PROVIDE)?, txn.open_table(PROVIDE_FRESH)?);
        Ok(Self { provide, fresh, roots: 0, fresh_roots: 0 })
    }

    fn row(&self, position: &KeyPosition) -> Result<Option<ProvideRow>, StoreError> {
        Ok(self.provide.get(&position.0)?.map(|row| ProvideRow::decode(row.value())))
    }

    /// Adds a key, changes what it is announced as, or with `None` removes it.
    fn set_due(
        &mut self,
        position: &KeyPosition,
        digest: &Digest,
        due: Option<Due>,
    ) -> Result<(), StoreError> {
        let old = self.row(position)?;
        if old.map(|row| row.due) == due {
            return Ok(());
        }
        let new = match (old, due) {
            (Some(old), Some(due)) => Some(ProvideRow { due, ..old }),
            (None, Some(due)) => Some(ProvideRow { due, digest: *digest, last_unix: 0, holders: 0 }),
            (_, None) => None,
        };
        self.replace(position, old, new)
    }

    /// Notes an announcement of a key. Returns whether it is to be announced at all.
    pub(crate) fn mark(
        &mut self,
        position: &KeyPosition,
        last_unix: u32,
        holders: u8,
    ) -> Result<bool, StoreError> {
        let Some(old) = self.row(position)? else { return Ok(false) };
        self.replace(position, Some(old), Some(ProvideRow { last_unix, holders, ..old }))?;
        Ok(true)
    }

    fn replace(
        &mut self,
        position: &KeyPosition,
        old: Option<ProvideRow>,
        new: Option<ProvideRow>,
    ) -> Result<(), StoreError> {
        match &new {
            Some(row) => drop(self.provide.insert(&position.0, &row.encode())?),
            None => drop(self.provide.remove(&position.0)?),
        }
        let fresh_class = |row: ProvideRow| (row.last_unix == 0).then_some(row.due.class);
        let (old_fresh, new_fresh) = (old.and_then(fresh_class), new.and_then(fresh_class));
        if old_fresh != new_fresh {
            if let Some(class) = old_fresh {
                self.fresh.remove(&fresh_key(class, position))?;
            }
            if let Some(class) = new_fresh {
                self.fresh.insert(&fresh_key(class, position), ())?;
            }
        }
        let is_root = |class: Option<ProvideClass>| i64::from(class == Some(ProvideClass::Root));
        self.roots += is_root(new.map(|row| row.due.class)) - is_root(old.map(|row| row.due.class));
        self.fresh_roots += is_root(new_fresh) - is_root(old_fresh);
        Ok(())
    }

    /// Brings the counts in `meta` up to date.
    pub(crate) fn write_counts(&mut self, meta: &mut Table<'_, &'static str, u64>) -> Result<(), StoreError> {
        for (key, change) in [
            (PROVIDE_ROOTS_KEY, std::mem::take(&mut self.roots)),
            (FRESH_ROOTS_KEY, std::mem::take(&mut self.fresh_roots)),
        ] {
            if change != 0 {
                let count = count(meta, key)?;
                meta.insert(key, count.saturating_add_signed(change))?;
            }
        }
        Ok(())
    }
}

/// A count in the table of single numbers; one that was never written is 0.
pub(crate) fn count(meta: &impl ReadableTable<&'static str, u64>, key: &str) -> Result<u64, StoreError> {
    Ok(meta.get(key)?.map_or(0, |count| count.value()))
}

/// What was found out about shares and sources while nothing changes.
#[derive(Default)]
struct Scopes {
    shares: HashMap<Digest, Option<AnnounceScope>>,
    /// Whether a share that announces everything has the source.
    sources: HashMap<SourceId, bool>,
}

impl Tables<'_> {
    /// Notes that a chunk or manifest block with this digest was added, removed, or is held by other shares now.
    pub(super) fn touch(&mut self, digest: &Digest) -> Result<(), StoreError> {
        self.touched.push(*digest);
        if self.touched.len() < MAX_TOUCHED { Ok(()) } else { self.settle() }
    }

    /// Makes the schedule agree with everything that was changed so far.
    pub(crate) fn settle(&mut self) -> Result<(), StoreError> {
        let mut digests = std::mem::take(&mut self.touched);
        digests.sort_unstable();
        digests.dedup();
        let mut scopes = Scopes::default();
        let mut found = Vec::with_capacity(digests.len());
        for digest in digests {
            found.push((KeyPosition::of_digest(&digest), digest, self.due(&digest, &mut scopes)?));
        }
        found.sort_unstable_by_key(|(position, ..)| *position);
        for (position, digest, due) in found {
            self.schedule.set_due(&position, &digest, due)?;
        }
        self.schedule.write_counts(&mut self.meta)
    }

    /// The rule: as what, if at all, the content with this digest is to be announced.
    fn due(&self, digest: &Digest, scopes: &mut Scopes) -> Result<Option<Due>, StoreError> {
        if self.pins.get(&pin_key(digest, digest))?.is_some()
            && self.scope(digest, scopes)?.is_some_and(|scope| scope != AnnounceScope::None)
        {
            return Ok(Some(Due { is_manifest: true, class: ProvideClass::Root }));
        }
        let (first, last) = pin_range(digest);
        for row in self.pins.range::<&PinKey>(&first..=&last)? {
            if self.scope(&root_of_pin_key(row?.0.value()), scopes)? == Some(AnnounceScope::All) {
                return Ok(Some(Due { is_manifest: true, class: ProvideClass::Other }));
            }
        }
        let (first, last) = location_range(digest);
        for row in self.locations.range::<&LocationKey>(&first..=&last)? {
            if self.is_announced_whole(split_location_key(row?.0.value()).1, scopes)? {
                return Ok(Some(Due { is_manifest: false, class: ProvideClass::Other }));
            }
        }
        Ok(None)
    }

    fn scope(&self, root: &Digest, scopes: &mut Scopes) -> Result<Option<AnnounceScope>, StoreError> {
        if let Some(scope) = scopes.shares.get(root) {
            return Ok(*scope);
        }
        let scope = self.share(&ManifestCid::from_digest(*root))?.map(|share| share.announce);
        scopes.shares.insert(*root, scope);
        Ok(scope)
    }

    fn is_announced_whole(&self, id: SourceId, scopes: &mut Scopes) -> Result<bool, StoreError> {
        if let Some(is_whole) = scopes.sources.get(&id) {
            return Ok(*is_whole);
        }
        let mut is_whole = false;
        for root in self.shares_of(id)? {
            is_whole |= self.scope(root.digest(), scopes)? == Some(AnnounceScope::All);
        }
        scopes.sources.insert(id, is_whole);
        Ok(is_whole)
    }
}

/// The share's root in a key of the pins.
fn root_of_pin_key(key: &PinKey) -> Digest {
    let mut root = [0; 32];
    root.copy_from_slice(key.split_at(32).1);
    root
}

/// Compares the schedule with the rule, row by row, and the rows with the counts.
pub(super) fn check(tables: &Tables<'_>) -> Result<Result<(), String>, StoreError> {
    let schedule = &tables.schedule;
    let mut scopes = Scopes::default();
    let (mut roots, mut fresh, mut fresh_roots) = (0, 0, 0);
    for row in schedule.provide.iter()? {
        let (position, row) = row?;
        let (position, row) = (KeyPosition(*position.value()), ProvideRow::decode(row.value()));
        if position != KeyPosition::of_digest(&row.digest) {
            return Ok(Err(format!("{} is scheduled at another key's position", row.cid())));
        }
        let due = tables.due(&row.digest, &mut scopes)?;
        if due != Some(row.due) {
            return Ok(Err(format!("{} is scheduled as {:?} and due as {due:?}", row.cid(), row.due)));
        }
        let is_root = u64::from(row.due.class == ProvideClass::Root);
        roots += is_root;
        if row.last_unix == 0 {
            fresh += 1;
            fresh_roots += is_root;
            if schedule.fresh.get(&fresh_key(row.due.class, &position))?.is_none() {
                return Ok(Err(format!("{} was never announced and is not among the fresh", row.cid())));
            }
        }
    }
    let counted = (count(&tables.meta, PROVIDE_ROOTS_KEY)?, count(&tables.meta, FRESH_ROOTS_KEY)?);
    if counted != (roots, fresh_roots) {
        return Ok(Err(format!("{counted:?} roots counted where there are {:?}", (roots, fresh_roots))));
    }
    if schedule.fresh.len()? != fresh {
        return Ok(Err(format!("{} keys are fresh where {fresh} are due", schedule.fresh.len()?)));
    }
    check_complete(tables, &mut scopes)
}

/// Everything that is held is scheduled if the rule says so.
fn check_complete(tables: &Tables<'_>, scopes: &mut Scopes) -> Result<Result<(), String>, StoreError> {
    let missing = |digest: Digest, scopes: &mut Scopes| {
        let is_there = tables.schedule.row(&KeyPosition::of_digest(&digest))?.is_some();
        Ok::<_, StoreError>(!is_there && tables.due(&digest, scopes)?.is_some())
    };
    for row in tables.pins.iter()? {
        let digest = manifest_of_pin_key(row?.0.value());
        if missing(digest, scopes)? {
            return Ok(Err(format!("manifest {} is not scheduled", ManifestCid::from_digest(digest))));
        }
    }
    for row in tables.locations.iter()? {
        let (digest, _) = split_location_key(row?.0.value());
        if missing(digest, scopes)? {
            return Ok(Err(format!("chunk {} is not scheduled", ChunkCid::from_digest(digest))));
        }
    }
    Ok(Ok(()))
}

/// Fills an empty schedule from everything that is held, a page at a time.
pub(super) fn build(tables: &mut Tables<'_>) -> Result<(), StoreError> {
    let mut after: Option<PinKey> = None;
    loop {
        let start = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let page = tables.pins.range::<&PinKey>((start, Bound::Unbounded))?.take(BUILD_PAGE);
        let page: Vec<PinKey> = page.map(|row| Ok(*row?.0.value())).collect::<Result<_, StoreError>>()?;
        let Some(last) = page.last() else { break };
        after = Some(*last);
        page.iter().try_for_each(|key| tables.touch(&manifest_of_pin_key(key)))?;
    }
    let mut after: Option<LocationKey> = None;
    loop {
        let start = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let page = tables.locations.range::<&LocationKey>((start, Bound::Unbounded))?.take(BUILD_PAGE);
        let page: Vec<LocationKey> =
            page.map(|row| Ok(*row?.0.value())).collect::<Result<_, StoreError>>()?;
        let Some(last) = page.last() else { break };
        after = Some(*last);
        page.iter().try_for_each(|key| tables.touch(&split_location_key(key).0))?;
    }
    tables.settle()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::options::{ImportOptions, OpenOptions, no_progress};
    use crate::store::Store;

    #[test]
    fn a_change_too_large_to_be_remembered_is_settled_on_the_way_wherever_that_is() {
        let dir = tempfile::tempdir().unwrap();
        let (sub, file) = (dir.path().join("dir"), dir.path().join("dir/0"));
        std::fs::create_dir(&sub).unwrap();
        for index in 0..4_u8 {
            std::fs::write(sub.join(index.to_string()), vec![index; 10]).unwrap();
        }
        let store = Store::open(&dir.path().join("data"), OpenOptions::default()).unwrap();
        let add = |path| store.import_path(path, &ImportOptions::default(), &no_progress).unwrap().root;
        // A directory has nine keys here: after how many of them the memory is full.
        for until_full in 1..=9 {
            let (root, kept) = (add(&sub), add(&file));
            let crowd = || vec![[0; 32]; MAX_TOUCHED - until_full];
            let change = |scope: AnnounceScope| {
                store.inner.db.change(|tables| {
                    tables.touched = crowd();
                    let mut share = tables.share(&root)?.unwrap();
                    share.announce = scope;
                    tables.put_share(&root, &share)
                })
            };
            for (scope, keys) in [
                (AnnounceScope::None, 2),
                (AnnounceScope::All, 9),
                (AnnounceScope::Roots, 3),
                (AnnounceScope::All, 9),
            ] {
                change(scope).unwrap();
                store.check_invariants().unwrap().unwrap();
                assert_eq!(store.provide_counts().unwrap().keys, keys);
            }
            let remove = |tables: &mut Tables<'_>| {
                tables.touched = crowd();
                tables.remove_share(&root)
            };
            store.inner.db.change(remove).unwrap().unwrap();
            store.check_invariants().unwrap().unwrap();
            assert_eq!(store.provide_counts().unwrap().keys, 2);
            store.remove_share(&kept).unwrap().unwrap();
        }
    }

    #[test]
    fn rows_have_the_documented_bytes_and_come_back() {
        let due = Due { is_manifest: true, class: ProvideClass::Root };
        let row = ProvideRow { due, digest: [7; 32], last_unix: 0x0102_0304, holders: 20 };
        let mut bytes = [7; 38];
        bytes[32..].copy_from_slice(&[3, 1, 2, 3, 4, 20]);
        assert_eq!(row.encode(), bytes);
        assert_eq!(ProvideRow::decode(&bytes), row);
        let due = Due { is_manifest: false, class: ProvideClass::Other };
        let row = ProvideRow { due, ..row };
        assert_eq!(row.encode()[32], 0);
        assert_eq!(ProvideRow::decode(&row.encode()), row);
        let position = KeyPosition([9; 32]);
        let (root, other) =
            (fresh_key(ProvideClass::Root, &position), fresh_key(ProvideClass::Other, &position));
        assert!(root < other && root[0] == 0 && other[0] == 1);
        assert_eq!(position_of_fresh_key(&other), position);
    }
}
