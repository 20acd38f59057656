//! The records of others in the store, which knows their providers by numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use dhtfs_store::{ForeignOp, ForeignProvider as StoredProvider, ForeignRecord};
use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};

use super::{ForeignBatch, ForeignPage, ForeignProvider, ForeignRow, ForeignStore};
use crate::env::{StoreHandle, WallClock};

/// How often records that have ended are looked for on the disk, so that providers without any leave too.
const TIDY_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Which number each provider has in the store.
#[derive(Debug, Default)]
struct Numbers {
    by_peer: BTreeMap<Vec<u8>, u32>,
    next: u32,
    /// When they were read; never at first.
    read_at: Option<Instant>,
    /// Who they are, while records are being loaded.
    loading: Arc<BTreeMap<u32, ForeignProvider>>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct StoredRecords {
    store: StoreHandle,
    clock: ClockOf,
    numbers: Mutex<Numbers>,
}

/// The time of day; has no form to be printed.
struct ClockOf(WallClock);

impl std::fmt::Debug for ClockOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WallClock")
    }
}

impl StoredRecords {
    /// The records in `store`, whose ends are by `clock`.
    pub fn new(store: StoreHandle, clock: WallClock) -> Self {
        Self { store, clock: ClockOf(clock), numbers: Mutex::default() }
    }

    /// Drops what has ended and reads the numbers, at the first call and once a day.
    async fn tidy(&self, numbers: &mut Numbers) -> Result<(), String> {
        if numbers.read_at.is_some_and(|at| at.elapsed() < TIDY_EVERY) {
            return Ok(());
        }
        let now_unix = (self.clock.0)();
        let providers = self
            .store
            .call(move |store| {
                store.drop_expired_foreign(now_unix)?;
                store.load_foreign_providers()
            })
            .await
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        numbers.next = providers.iter().map(|provider| provider.number).max().map_or(0, |last| last + 1);
        numbers.by_peer = providers.into_iter().map(|provider| (provider.peer, provider.number)).collect();
        numbers.read_at = Some(Instant::now());
        Ok(())
    }
}

impl ForeignStore for StoredRecords {
    type Cursor = (u32, [u8; 32]);
    type Error = String;

    async fn apply(&self, batch: ForeignBatch) -> Result<(), String> {
        let mut numbers = self.numbers.lock().await;
        self.tidy(&mut numbers).await?;
        let ForeignBatch { providers, rows } = batch;
        let mut ops = Vec::with_capacity(providers.len() + rows.len());
        let mut number_of = Vec::with_capacity(providers.len());
        for ForeignProvider { peer, addrs } in providers {
            let number = match numbers.by_peer.get(&peer) {
                Some(number) => *number,
                None => {
                    let number = numbers.next;
                    numbers.next = numbers.next.wrapping_add(1);
                    numbers.by_peer.insert(peer.clone(), number);
                    number
                }
            };
            number_of.push(number);
            ops.push(ForeignOp::PutProvider(StoredProvider { number, peer, addrs }));
        }
        for ForeignRow { digest, provider, expires_unix } in rows {
            let Some(provider) = number_of.get(provider).copied() else { continue };
            ops.push(match expires_unix {
                Some(expires_unix) => ForeignOp::Put(ForeignRecord { provider, digest, expires_unix }),
                None => ForeignOp::Remove { provider, digest },
            });
        }
        let applied = self.store.call(move |store| store.apply_foreign(&ops)).await;
        applied.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    async fn load(
        &self,
        from: Option<Self::Cursor>,
        max: usize,
    ) -> Result<ForeignPage<Self::Cursor>, String> {
        let mut numbers = self.numbers.lock().await;
        self.tidy(&mut numbers).await?;
        if from.is_none() {
            let stored = self.store.call(|store| store.load_foreign_providers()).await;
            let stored = stored.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
            let known = stored
                .into_iter()
                .map(|stored| (stored.number, ForeignProvider { peer: stored.peer, addrs: stored.addrs }));
            numbers.loading = Arc::new(known.collect());
        }
        let peers = numbers.loading.clone();
        let records = self.store.call(move |store| store.load_foreign(from, max)).await;
        let records = records.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let next = records.last().filter(|_| records.len() == max).map(|last| (last.provider, last.digest));
        if next.is_none() {
            numbers.loading = Arc::default();
        }
        drop(numbers);
        let mut batch = ForeignBatch::default();
        let mut place_of = BTreeMap::new();
        for ForeignRecord { provider, digest, expires_unix } in records {
            let place = match place_of.get(&provider) {
                Some(place) => *place,
                None => {
                    let Some(known) = peers.get(&provider) else { continue };
                    batch.providers.push(known.clone());
                    place_of.insert(provider, batch.providers.len() - 1);
                    batch.providers.len() - 1
                }
            };
            batch.rows.push(ForeignRow { digest, provider: place, expires_unix: Some(expires_unix) });
        }
        Ok(ForeignPage { batch, next })
    }
}
