//! The version of the database layout, and the way from an older one to this one.

use std::path::Path;

use redb::WriteTransaction;

use crate::db::Db;
use crate::db::schedule;
use crate::db::tables::{META, SCHEMA_KEY, Tables, create_foreign, create_transfers};
use crate::error::{OpenError, StoreError};

/// Rewrites the tables of one version into those of the next.
type Step = fn(&WriteTransaction) -> Result<(), StoreError>;

/// `STEPS[n]` leads from version n + 1 to version n + 2. A new version of the layout is a new step, a new set
/// of table names for the rows that changed, and a store of the old version in the test data.
const STEPS: &[Step] = &[add_schedule, create_transfers_table];

/// The layout this program writes.
pub(crate) const SCHEMA: u64 = STEPS.len() as u64 + 1;

/// Refuses a database this program does not understand. Nothing has been written to it yet.
pub(crate) fn check_version(path: &Path, found: Option<u64>) -> Result<(), OpenError> {
    match found {
        None | Some(0) => {
            let reason = "it has no schema version".to_owned();
            Err(OpenError::Corrupt { path: path.to_owned(), reason })
        }
        Some(found) if found > SCHEMA => Err(OpenError::Newer { found, supported: SCHEMA }),
        Some(_) => Ok(()),
    }
}

/// Brings the database up to [`SCHEMA`] in one transaction: whatever interrupts it leaves the old layout
/// whole.
pub(crate) fn migrate(db: &Db) -> Result<(), StoreError> {
    migrate_by(db, STEPS)
}

fn migrate_by(db: &Db, steps: &[Step]) -> Result<(), StoreError> {
    let found = db.read(|txn| Ok(super::tables::schema_version(txn)?))?.unwrap_or(1);
    let done = usize::try_from(found.saturating_sub(1)).unwrap_or(usize::MAX);
    let Some(to_do @ [_, ..]) = steps.get(done..) else { return Ok(()) };
    db.write(|txn| {
        for step in to_do {
            step(txn)?;
        }
        txn.open_table(META)?.insert(SCHEMA_KEY, steps.len() as u64 + 1)?;
        Ok(())
    })
}

/// Version 2 keeps a schedule of announcements, and the records of other peers.
fn add_schedule(txn: &WriteTransaction) -> Result<(), StoreError> {
    create_foreign(txn)?;
    schedule::build(&mut Tables::open(txn)?)
}

/// Version 3 keeps transfers that go on after a restart.
fn create_transfers_table(txn: &WriteTransaction) -> Result<(), StoreError> {
    Ok(create_transfers(txn)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::sync::Arc;

    use super::*;
    use crate::db::tables::SETTINGS;
    use crate::disk::{Disk, RealDisk};

    fn version(db: &Db) -> Option<u64> {
        db.read(|txn| Ok(super::super::tables::schema_version(txn)?)).unwrap()
    }

    fn note_step(txn: &WriteTransaction) -> Result<(), StoreError> {
        txn.open_table(SETTINGS)?.insert("stepped", [1].as_slice())?;
        Ok(())
    }

    fn failing_step(_: &WriteTransaction) -> Result<(), StoreError> {
        Err(StoreError::Corrupt("step".to_owned()))
    }

    #[test]
    fn a_migration_happens_wholly_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let db = Db::open(&disk, dir.path(), 1 << 20).unwrap();
        assert_eq!(version(&db), Some(SCHEMA));
        let after_all = |steps: &[Step]| [STEPS, steps].concat();
        migrate_by(&db, &after_all(&[note_step, failing_step])).unwrap_err();
        assert_eq!(version(&db), Some(SCHEMA));
        assert!(db.read(|txn| Ok(txn.open_table(SETTINGS)?.get("stepped")?.is_none())).unwrap());
        migrate_by(&db, &after_all(&[note_step, note_step])).unwrap();
        assert_eq!(version(&db), Some(SCHEMA + 2));
        assert!(db.read(|txn| Ok(txn.open_table(SETTINGS)?.get("stepped")?.is_some())).unwrap());
        migrate_by(&db, &after_all(&[failing_step, failing_step])).unwrap();
    }

    #[test]
    fn versions_from_the_future_and_no_version_are_refused() {
        let path = Path::new("db");
        assert!(check_version(path, Some(SCHEMA)).is_ok());
        assert!(matches!(
            check_version(path, Some(SCHEMA + 1)),
            Err(OpenError::Newer { supported: SCHEMA, .. })
        ));
        assert!(matches!(check_version(path, None), Err(OpenError::Corrupt { .. })));
        assert!(matches!(check_version(path, Some(0)), Err(OpenError::Corrupt { .. })));
    }
}
