//! What a node is given from outside.
//!
//! A node reads no clock but tokio's, draws no entropy, starts no thread and opens no file: all of that comes in
//! through [`Env`]. Production fills it from the machine ([`Env::production`]); the simulator fills the same struct
//! with its own transport, a seed, and a store that runs inline, so that it runs this very node.

use std::{
    fmt,
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use dhtfs_store::{OpenError, OpenOptions, Store};
use libp2p::{
    Multiaddr, PeerId,
    core::{muxing::StreamMuxerBox, transport::Boxed},
    identity::Keypair,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

pub use crate::net::Executor;
use crate::{
    api::types::{ApiError, ErrorKind},
    net::{self, NetLimits, identity, transport},
};

/// Seconds since 1970. Only for what is stored or shown (when a share was added); never for logic.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Store calls that run at the same time. Two workers hash for two cores' worth of chunks while two more wait
/// for the disk.
const MAX_STORE_CALLS: usize = 4;

/// Long store calls (imports, verification) that run at the same time; each uses every core by itself.
const MAX_LONG_STORE_CALLS: usize = 2;

/// Store calls that wait for the disk to have written. They must neither wait for an import of minutes nor keep
/// the workers from hashing.
const MAX_SYNCING_STORE_CALLS: usize = 4;

/// Everything a node is given.
pub struct Env {
    /// Identity; Ed25519.
    pub keypair: Keypair,
    /// How bytes travel, already encrypted and multiplexed.
    pub transport: Boxed<(PeerId, StreamMuxerBox)>,
    /// Where content lives.
    pub store: StoreHandle,
    /// Runs the node's tasks: `tokio::spawn` in production, the node's own task set in the simulator.
    pub executor: Executor,
    /// Time of day.
    pub wall_clock: WallClock,
    /// Addresses to listen on; see [`crate::Config::listen`].
    pub listen: Vec<Multiaddr>,
    /// Seeds every random choice of the node.
    pub seed: u64,
    /// What production never changes.
    pub tuning: Tuning,
    /// Whether there is a local network in which others can be heard of over mDNS: this machine's. Whether they are is
    /// up to [`crate::Config::mdns`].
    pub lan: bool,
}

/// Protections and protocol versions as values: the simulator shows what each is good for by changing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    /// Bounds of the network.
    pub limits: NetLimits,
    /// Versions of the exchange protocol that are offered, preferred first.
    pub exchange_versions: Vec<u32>,
}

impl Default for Tuning {
    fn default() -> Self {
        Self { limits: NetLimits::default(), exchange_versions: net::EXCHANGE_VERSIONS.to_vec() }
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env").field("peer", &self.keypair.public().to_peer_id()).finish_non_exhaustive()
    }
}

impl Env {
    /// The environment of a real machine: TCP and QUIC on the addresses `listen`, the store and key in
    /// `data_dir`, threads of the tokio runtime this is called in.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] if the store is in use, damaged or of a newer version; [`ErrorKind::Failed`] if the
    /// key can't be read or made, or no transport can be built.
    pub async fn production(data_dir: &Path, listen: Vec<Multiaddr>) -> Result<Self, ApiError> {
        let store = open_store(data_dir).await?;
        let key_path = data_dir.join("key");
        let keypair = tokio::task::spawn_blocking(move || identity::load_or_create(&key_path, rand::random))
            .await
            .map_err(|e| {
                ApiError::new(ErrorKind::Failed, format!("reading the node's key was cut off: {e}"))
            })?
            .map_err(|e| ApiError::new(ErrorKind::Failed, e.to_string()))?;
        let transport =
            transport::production(&keypair).map_err(|e| ApiError::new(ErrorKind::Failed, e.to_string()))?;
        Ok(Self {
            keypair,
            transport,
            store: StoreHandle::threaded(store),
            executor: Arc::new(|task| {
                tokio::spawn(task);
            }),
            wall_clock: Arc::new(|| {
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
            }),
            listen,
            seed: rand::random(),
            tuning: Tuning::default(),
            lan: true,
        })
    }
}

/// Opens the store of `data_dir`, waiting for nobody.
async fn open_store(data_dir: &Path) -> Result<Store, ApiError> {
    let dir = data_dir.to_owned();
    let opened = tokio::task::spawn_blocking(move || Store::open(&dir, OpenOptions::default())).await;
    match opened {
        Ok(Ok(store)) => Ok(store),
        Ok(Err(error)) => Err(from_open_error(&error)),
        Err(error) => Err(ApiError::new(ErrorKind::Store, format!("opening the store was cut off: {error}"))),
    }
}

fn from_open_error(error: &OpenError) -> ApiError {
    ApiError::new(ErrorKind::Store, error.to_string())
}

/// The store as the node's tasks see it: every call is a future, wherever it really runs.
#[derive(Clone)]
pub struct StoreHandle {
    store: Store,
    mode: Mode,
}

#[derive(Clone)]
enum Mode {
    Inline,
    Threads(Arc<Workers>),
}

/// Places for calls of each kind.
struct Workers {
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
    syncing: Arc<Semaphore>,
}

impl fmt::Debug for StoreHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreHandle").field("dir", &self.store.dir()).finish_non_exhaustive()
    }
}

/// A store call that was cut off because the process is ending or the call panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store call was cut off because the node is shutting down")]
pub struct StoreGone;

impl StoreHandle {
    /// Calls run on tokio's blocking threads, a bounded number at a time.
    pub fn threaded(store: Store) -> Self {
        let workers = Workers {
            short: Arc::new(Semaphore::new(MAX_STORE_CALLS)),
            long: Arc::new(Semaphore::new(MAX_LONG_STORE_CALLS)),
            syncing: Arc::new(Semaphore::new(MAX_SYNCING_STORE_CALLS)),
        };
        Self { store, mode: Mode::Threads(Arc::new(workers)) }
    }

    /// Calls run where they are awaited. For the simulator: one thread, one order of events.
    pub fn inline(store: Store) -> Self {
        Self { store, mode: Mode::Inline }
    }

    /// The store itself, for what does not touch the disk.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Runs a call that takes milliseconds.
    ///
    /// # Errors
    /// [`StoreGone`] if the process is shutting down. Not cancel-safe in effect: a call that has begun runs to
    /// its end even if the future is dropped.
    pub async fn call<R, F>(&self, call: F) -> Result<R, StoreGone>
    where
        R: Send + 'static,
        F: FnOnce(&Store) -> R + Send + 'static,
    {
        self.run(call, |workers| &workers.short).await
    }

    /// Runs a call that may take minutes (hashing a file).
    ///
    /// # Errors
    /// As [`StoreHandle::call`].
    pub async fn call_long<R, F>(&self, call: F) -> Result<R, StoreGone>
    where
        R: Send + 'static,
        F: FnOnce(&Store) -> R + Send + 'static,
    {
        self.run(call, |workers| &workers.long).await
    }

    /// Runs a call that waits until the disk has written.
    ///
    /// # Errors
    /// As [`StoreHandle::call`].
    pub async fn call_syncing<R, F>(&self, call: F) -> Result<R, StoreGone>
    where
        R: Send + 'static,
        F: FnOnce(&Store) -> R + Send + 'static,
    {
        self.run(call, |workers| &workers.syncing).await
    }

    async fn run<R, F>(&self, call: F, places: fn(&Workers) -> &Arc<Semaphore>) -> Result<R, StoreGone>
    where
        R: Send + 'static,
        F: FnOnce(&Store) -> R + Send + 'static,
    {
        let permits = match &self.mode {
            Mode::Inline => return Ok(call(&self.store)),
            Mode::Threads(workers) => places(workers).clone(),
        };
        let store = self.store.clone();
        let (answer, answered) = oneshot::channel();
        let work = move |permit: OwnedSemaphorePermit| {
            if answer.is_closed() {
                return;
            }
            tokio::task::spawn_blocking(move || {
                // The caller may be gone; its answer is then nobody's.
                let _ = answer.send(call(&store));
                drop(permit);
            });
        };
        match permits.clone().try_acquire_owned() {
            Ok(permit) => work(permit),
            // A task of its own waits for the permit. A caller that waited itself and is not polled for a while (one of
            // many futures in a set, whose owner awaits something else) would be given a permit and keep it: four of them,
            // and nobody gets at the store any more.
            Err(_) => {
                tokio::spawn(async move {
                    if let Ok(permit) = permits.acquire_owned().await {
                        work(permit);
                    }
                });
            }
        }
        answered.await.map_err(|_| StoreGone)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::sync::{Arc, Barrier};

    use dhtfs_store::{OpenOptions, Store};
    use futures::poll;

    use super::{MAX_STORE_CALLS, StoreHandle};

    #[tokio::test(flavor = "multi_thread")]
    async fn calls_that_nobody_polls_keep_nobody_from_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let store =
            StoreHandle::threaded(Store::open(&dir.path().join("store"), OpenOptions::default()).unwrap());
        let gate = Arc::new(Barrier::new(MAX_STORE_CALLS + 1));
        let mut busy: Vec<_> = (0..MAX_STORE_CALLS)
            .map(|_| {
                let (store, gate) = (store.clone(), gate.clone());
                Box::pin(async move {
                    store
                        .call(move |_| {
                            gate.wait();
                        })
                        .await
                })
            })
            .collect();
        let mut forgotten: Vec<_> = (0..MAX_STORE_CALLS).map(|_| Box::pin(store.call(|_| ()))).collect();
        for call in &mut busy {
            assert!(poll!(call).is_pending());
        }
        for call in &mut forgotten {
            assert!(poll!(call).is_pending());
        }
        let opened = tokio::task::spawn_blocking(move || {
            gate.wait();
        });
        opened.await.unwrap();
        assert_eq!(store.call(|_| 7).await, Ok(7));
        drop((busy, forgotten));
    }
}
