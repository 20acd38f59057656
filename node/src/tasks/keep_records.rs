//! Keeps the provider records of other nodes on disk, so that a node that starts again can answer at once.
//!
//! The network task never waits for the disk: it notes what changes, and this driver takes the notes and writes them.
//! A crash loses the last seconds, which their providers make good when they announce again.

mod stored;

use std::{
    fmt::{self, Display},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tracing::{debug, warn};

pub use self::stored::StoredRecords;
use super::ended;
use crate::{
    env::WallClock,
    net::{
        Client, NetGone,
        records::{Changes, Digest, Page, StoredProvider, StoredRecord},
    },
};

/// How often changes are written. Sooner if many wait.
pub const FLUSH_EVERY: Duration = Duration::from_secs(5);

/// Records read at a time when the node starts; taking them over costs the network task about a millisecond.
const PAGE_LEN: usize = 1024;

/// A provider as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignProvider {
    /// Its peer ID.
    pub peer: Vec<u8>,
    /// Its multiaddrs, at most 8 and 512 bytes in all.
    pub addrs: Vec<Vec<u8>>,
}

/// One change of a record, or a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForeignRow {
    /// The SHA-256 in the key.
    pub digest: Digest,
    /// Place of the provider in the same batch.
    pub provider: usize,
    /// When the record ends, in seconds since 1970; `None` if it has gone.
    pub expires_unix: Option<u64>,
}

/// Rows with the providers they speak of, each provider once. To be applied in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForeignBatch {
    /// The providers with their newest addresses.
    pub providers: Vec<ForeignProvider>,
    /// The rows, at most 16,384.
    pub rows: Vec<ForeignRow>,
}

/// A part of what is stored.
#[derive(Debug)]
pub struct ForeignPage<C> {
    /// Stored records.
    pub batch: ForeignBatch,
    /// Where the next page begins; `None` after the last one.
    pub next: Option<C>,
}

/// Where the records are kept.
pub trait ForeignStore: Send + Sync + 'static {
    /// A place between two pages.
    type Cursor: Send;
    /// Why it failed.
    type Error: Display + Send;

    /// Writes changes in one transaction. It need not be durable when this returns.
    fn apply(&self, batch: ForeignBatch) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Reads up to `max` records, from the beginning or from a cursor on. Rows written meanwhile may be left out.
    fn load(
        &self,
        from: Option<Self::Cursor>,
        max: usize,
    ) -> impl Future<Output = Result<ForeignPage<Self::Cursor>, Self::Error>> + Send;
}

/// What the driver works with.
pub struct KeepRecords<S> {
    /// Has the records.
    pub client: Client,
    /// Keeps them.
    pub store: S,
    /// The time of day, by which stored records end.
    pub clock: WallClock,
    /// See [`FLUSH_EVERY`].
    pub flush_every: Duration,
}

impl<S> fmt::Debug for KeepRecords<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeepRecords").field("flush_every", &self.flush_every).finish_non_exhaustive()
    }
}

/// What is left of the stored records to be read.
enum Reading<C> {
    From(Option<C>),
    Done,
}

impl<S: ForeignStore> KeepRecords<S> {
    /// Runs until `shutdown` turns true; then writes what has changed last. Reads the stored records meanwhile, page
    /// by page.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let mut ticks = interval(self.flush_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reading = Reading::From(None);
        loop {
            // What waits is looked at first, so that reading does not hold up writing. The first tick is at once: from
            // then on the network notes what changes.
            let flushed = tokio::select! {
                biased;
                () = ended(&mut shutdown) => break,
                _ = ticks.tick() => self.flush().await,
                () = self.client.record_changes_waiting() => self.flush().await,
                () = std::future::ready(()), if matches!(reading, Reading::From(_)) => {
                    self.read(&mut reading).await
                }
            };
            if flushed.is_err() {
                return;
            }
        }
        // A network that has gone first takes its last seconds along.
        let _ = self.flush().await;
    }

    /// Writes what has changed. What cannot be written is lost: the disk is a copy that may lack something, and must
    /// not hold up the network.
    async fn flush(&self) -> Result<(), NetGone> {
        let changes = self.client.take_record_changes().await?;
        if !changes.is_empty() {
            self.apply(to_batch(&changes, (self.clock)())).await;
        }
        Ok(())
    }

    async fn apply(&self, batch: ForeignBatch) {
        let rows = batch.rows.len();
        if let Err(error) = self.store.apply(batch).await {
            warn!(%error, rows, "provider records were not written; their providers will announce them again");
        }
    }

    /// Reads one page and hands it to the network; what it does not take is removed.
    async fn read(&self, reading: &mut Reading<S::Cursor>) -> Result<(), NetGone> {
        let Reading::From(from) = std::mem::replace(reading, Reading::Done) else { return Ok(()) };
        let page = match self.store.load(from, PAGE_LEN).await {
            Ok(page) => page,
            Err(error) => {
                warn!(%error, "provider records of the last run cannot be read; starting without the rest of them");
                return Ok(());
            }
        };
        if let Some(next) = page.next {
            *reading = Reading::From(Some(next));
        }
        let Stored { page: restore, places, damaged } = to_page(&page.batch, (self.clock)());
        let restored = self.client.restore_records(restore).await?;
        debug!(held = restored.held, refused = restored.refused.len(), "records of the last run");
        let refused = restored
            .refused
            .iter()
            .filter_map(|record| Some((record.digest, places.get(record.provider).copied()?)));
        let removed = |(digest, provider)| ForeignRow { digest, provider, expires_unix: None };
        let rows: Vec<ForeignRow> = damaged.into_iter().chain(refused).map(removed).collect();
        if !rows.is_empty() {
            self.apply(ForeignBatch { providers: page.batch.providers, rows }).await;
        }
        Ok(())
    }
}

fn to_batch(changes: &Changes, now_unix: u64) -> ForeignBatch {
    let providers = changes.holders().iter().map(|holder| ForeignProvider {
        peer: holder.peer.to_bytes(),
        addrs: holder.addrs().iter().map(Multiaddr::to_vec).collect(),
    });
    let rows = changes.iter().map(|change| ForeignRow {
        digest: change.digest,
        provider: change.holder,
        expires_unix: change.expires_in.map(|life| now_unix.saturating_add(life.into())),
    });
    ForeignBatch { providers: providers.collect(), rows: rows.collect() }
}

/// A stored page as the network takes it.
#[derive(Debug, Default)]
struct Stored {
    page: Page,
    /// For each provider of `page` its place in the stored batch.
    places: Vec<usize>,
    /// Rows that nobody can take: key and place of the provider in the stored batch.
    damaged: Vec<(Digest, usize)>,
}

/// What the network can take of a stored page.
///
/// A row whose end lies before `now_unix` has no time left; the network bounds what lies too far ahead, so a clock
/// that was changed meanwhile makes no record live longer than a day.
fn to_page(batch: &ForeignBatch, now_unix: u64) -> Stored {
    let mut stored = Stored::default();
    let mut in_page = vec![None; batch.providers.len()];
    for ((place, provider), in_page) in batch.providers.iter().enumerate().zip(&mut in_page) {
        let Ok(peer) = PeerId::from_bytes(&provider.peer) else { continue };
        let addrs = provider.addrs.iter().filter_map(|addr| Multiaddr::try_from(addr.clone()).ok()).collect();
        *in_page = Some(stored.places.len());
        stored.places.push(place);
        stored.page.providers.push(StoredProvider { peer, addrs });
    }
    for row in &batch.rows {
        let expires_in = row.expires_unix.map_or(0, |expires| expires.saturating_sub(now_unix));
        match in_page.get(row.provider).copied().flatten() {
            Some(provider) => {
                stored.page.records.push(StoredRecord { digest: row.digest, provider, expires_in });
            }
            None => stored.damaged.push((row.digest, row.provider)),
        }
    }
    stored
}

#[cfg(test)]
mod tests;
