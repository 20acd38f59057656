//! Transfers that are to go on after a restart: what was asked for, not how far it is (that is in the downloads).

use std::path::PathBuf;

use redb::{ReadableTable, ReadableTableMetadata};

use crate::db::records::{TransferRecord, decode, encode};
use crate::db::tables::{META, NEXT_TRANSFER_KEY, TRANSFERS};
use crate::error::StoreError;
use crate::store::Store;

/// Most transfers that are kept.
pub const MAX_SAVED_TRANSFERS: usize = 128;

/// A transfer as it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedTransfer {
    /// CID or link of what is fetched.
    pub link: String,
    /// Absolute path to write to; absent if `into` counts.
    pub out: Option<PathBuf>,
    /// Absolute path of the directory to write into, under the content's own name.
    pub into: Option<PathBuf>,
    /// Replace an existing output.
    pub force: bool,
    /// Multiaddrs of peers believed to hold it.
    pub peers: Vec<String>,
    /// Multiaddrs of nodes to join through.
    pub bootstrap: Vec<String>,
    /// Give one attempt up after so many milliseconds without progress.
    pub timeout_ms: Option<u64>,
    /// When it was asked for, in seconds since 1970, by the caller's clock.
    pub added_unix: u64,
    /// Whether the user stopped it for a while.
    pub paused: bool,
    /// Why it is not tried again by itself.
    pub failed: Option<String>,
}

impl Store {
    /// Keeps a transfer until [`Self::remove_transfer`]; returns its number, which is never used twice. It is on the
    /// disk when this returns.
    ///
    /// # Errors
    /// [`StoreError::TooManyTransfers`] beyond [`MAX_SAVED_TRANSFERS`], or if the database fails.
    pub fn add_transfer(&self, transfer: &SavedTransfer) -> Result<u64, StoreError> {
        let row = encode(&TransferRecord::from(transfer))?;
        self.inner.db.write(|txn| {
            let mut table = txn.open_table(TRANSFERS)?;
            if table.len()? >= MAX_SAVED_TRANSFERS as u64 {
                return Err(StoreError::TooManyTransfers { max: MAX_SAVED_TRANSFERS });
            }
            let mut meta = txn.open_table(META)?;
            let number = meta.get(NEXT_TRANSFER_KEY)?.map_or(0, |next| next.value());
            meta.insert(NEXT_TRANSFER_KEY, number.saturating_add(1))?;
            table.insert(number, row.as_slice())?;
            Ok(number)
        })
    }

    /// Notes what changed of a transfer; does nothing if it is not kept any more.
    ///
    /// # Errors
    /// If the database fails; the old row is kept then.
    pub fn update_transfer(
        &self,
        number: u64,
        change: impl FnOnce(&mut SavedTransfer),
    ) -> Result<(), StoreError> {
        self.inner.db.write(|txn| {
            let mut table = txn.open_table(TRANSFERS)?;
            let record = table.get(number)?.map(|row| decode::<TransferRecord>(row.value(), "transfer"));
            let Some(record) = record else { return Ok(()) };
            let mut transfer = SavedTransfer::from(record?);
            change(&mut transfer);
            table.insert(number, encode(&TransferRecord::from(&transfer))?.as_slice())?;
            Ok(())
        })
    }

    /// Forgets a transfer.
    ///
    /// # Errors
    /// If the database fails; it is still kept then.
    pub fn remove_transfer(&self, number: u64) -> Result<(), StoreError> {
        self.inner.db.write(|txn| {
            txn.open_table(TRANSFERS)?.remove(number)?;
            Ok(())
        })
    }

    /// The transfers that are kept, with their numbers, the oldest first. One that cannot be read, as after a look at the store
    /// with a newer program, is left out and stays where it is.
    ///
    /// # Errors
    /// If the database fails.
    pub fn transfers(&self) -> Result<Vec<(u64, SavedTransfer)>, StoreError> {
        self.inner.db.read(|txn| {
            let mut transfers = Vec::new();
            for row in txn.open_table(TRANSFERS)?.iter()? {
                let (number, record) = row?;
                match decode::<TransferRecord>(record.value(), "transfer") {
                    Ok(record) => transfers.push((number.value(), record.into())),
                    Err(error) => {
                        let number = number.value();
                        tracing::warn!(number, %error, "a kept transfer cannot be read and does not go on");
                    }
                }
            }
            Ok(transfers)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::{path::Path, sync::Arc, time::Duration};

    use super::*;
    use crate::{
        disk::{MemoryDisk, PagePool},
        options::OpenOptions,
    };

    #[test]
    fn one_that_cannot_be_read_does_not_keep_the_others_back() {
        let disk = MemoryDisk::new(Arc::new(|| Duration::from_secs(1)), PagePool::new(), None);
        let options = OpenOptions { disk: disk.mount(), ..OpenOptions::default() };
        let store = Store::open(Path::new("/store"), options).unwrap();
        let transfer = |link: &str| SavedTransfer { link: link.to_owned(), ..SavedTransfer::default() };
        let numbers = ["one", "two", "three"].map(|link| store.add_transfer(&transfer(link)).unwrap());
        let spoil = |txn: &redb::WriteTransaction| {
            txn.open_table(TRANSFERS)?.insert(numbers[1], &b"nonsense"[..])?;
            Ok(())
        };
        store.inner.db.write(spoil).unwrap();
        let left: Vec<_> = store.transfers().unwrap().into_iter().map(|(n, kept)| (n, kept.link)).collect();
        assert_eq!(left, [(numbers[0], "one".to_owned()), (numbers[2], "three".to_owned())]);
        store.remove_transfer(numbers[1]).unwrap();
    }
}
