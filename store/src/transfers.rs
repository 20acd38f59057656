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

    /// The transfers that are kept, with their numbers, the oldest first.
    ///
    /// # Errors
    /// If the database fails.
    pub fn transfers(&self) -> Result<Vec<(u64, SavedTransfer)>, StoreError> {
        self.inner.db.read(|txn| {
            let mut transfers = Vec::new();
            for row in txn.open_table(TRANSFERS)?.iter()? {
                let (number, record) = row?;
                let record: TransferRecord = decode(record.value(), "transfer")?;
                transfers.push((number.value(), record.into()));
            }
            Ok(transfers)
        })
    }
}
