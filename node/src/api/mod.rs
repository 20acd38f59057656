//! The typed facade that the CLI, HTTP and embedders use. One file an operation; [`types`] is what goes over it.

mod add;
mod announce;
mod cat;
mod check;
mod get;
mod limits;
mod ls;
mod manifest;
mod net;
pub mod numbers;
mod providers;
mod status;
pub(crate) mod transfers;
pub mod types;
mod verify;
mod wait;
mod waiting;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dhtfs_store::{ContentCid, Link, ManifestCid, StoreError};
use libp2p::{Multiaddr, PeerId};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

pub use self::cat::CatAnswer;
use self::types::{ApiError, ErrorKind, NetworkHints};
use crate::{
    Config, Role,
    core::{
        fetch::{FetchConfig, Order},
        serve::ServeStats,
    },
    env::{StoreGone, StoreHandle, WallClock},
    net::Client,
    tasks::{
        fetch::{Driver, FetchContext, Hints},
        lan::LanStats,
        provide::ProvideHandle,
    },
};

/// How long a fetch goes on without progress when the caller sets nothing.
const DEFAULT_NO_PROGRESS: Duration = Duration::from_secs(30);

/// Longest timeout that can be asked for: a year.
const MAX_TIMEOUT_SECS: f64 = 365.0 * 24.0 * 3600.0;

/// Most addresses of one kind in one request.
const MAX_HINTS: usize = 64;

/// The facade. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    inner: Arc<Inner>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("peer", &self.inner.peer_id).finish_non_exhaustive()
    }
}

/// What the facade is made of.
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) role: Role,
    pub(crate) peer_id: PeerId,
    pub(crate) store: StoreHandle,
    pub(crate) wall_clock: WallClock,
    pub(crate) started: Instant,
    pub(crate) net: Option<Network>,
    pub(crate) seeds: AtomicU64,
    pub(crate) transfers: Arc<transfers::Registry>,
    /// Takes over fetches that nobody waits for; `None` on a node that takes none.
    pub(crate) jobs: Option<transfers::Jobs>,
    pub(crate) shutdown: Notify,
}

/// The running network of a node that is not offline.
pub(crate) struct Network {
    pub(crate) client: Client,
    pub(crate) routing: watch::Receiver<usize>,
    pub(crate) provide: Option<ProvideHandle>,
    pub(crate) served: watch::Receiver<ServeStats>,
    /// What was heard in the local network; `None` if nobody listens there.
    pub(crate) lan: Option<watch::Receiver<LanStats>>,
    /// How long nodes of this network keep a record; providers announce theirs again after half of it.
    pub(crate) record_life: Duration,
}

impl Api {
    pub(crate) fn new(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// This node's peer ID.
    pub fn peer_id(&self) -> PeerId {
        self.inner.peer_id
    }

    /// Asks the process that runs the node to end it.
    pub fn request_shutdown(&self) {
        // `notify_one` keeps the wish for a listener that is not waiting yet.
        self.inner.shutdown.notify_one();
    }

    pub(crate) async fn shutdown_requested(&self) {
        self.inner.shutdown.notified().await;
    }

    /// The network, or what a user can do without one.
    fn network(&self) -> Result<&Network, ApiError> {
        self.inner.net.as_ref().ok_or_else(|| {
            ApiError::new(
                ErrorKind::Failed,
                "this node runs without a network; start `dhtfs daemon` and try again",
            )
        })
    }

    /// Announces; `None` on a node that serves nobody.
    fn provide(&self) -> Option<&ProvideHandle> {
        self.inner.net.as_ref()?.provide.as_ref()
    }

    /// A seed for one operation; every one gets another.
    fn next_seed(&self) -> u64 {
        self.inner.seeds.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed)
    }

    /// Begins a fetch of `root`.
    fn driver(&self, root: ContentCid, order: Order, hints: &ParsedHints) -> Result<Driver, ApiError> {
        let net = self.network()?;
        let context = FetchContext {
            client: net.client.clone(),
            store: self.inner.store.clone(),
            routing: net.routing.clone(),
            local: self.inner.peer_id,
        };
        let config = FetchConfig { order, no_progress: hints.no_progress, ..FetchConfig::default() };
        Ok(Driver::new(context, root, config, hints.hints.clone(), self.next_seed()))
    }
}

/// Hints after checking.
#[derive(Debug, Clone)]
struct ParsedHints {
    hints: Hints,
    no_progress: Duration,
}

impl ParsedHints {
    /// Checks hints; the peers named in a link count as well.
    fn new(hints: &NetworkHints, link: &Link) -> Result<Self, ApiError> {
        let mut peers = parse_addrs(&hints.peers)?;
        // What a link says about addresses is advice; a bad one there must not spoil the CID.
        peers.extend(link.peers.iter().filter_map(|addr| addr.parse::<Multiaddr>().ok()));
        let no_progress = parse_timeout(hints.timeout_secs, DEFAULT_NO_PROGRESS)?;
        let bootstrap = parse_addrs(&hints.bootstrap)?;
        Ok(Self { hints: Hints { peers, bootstrap }, no_progress })
    }
}

/// Reads a timeout in seconds.
fn parse_timeout(secs: Option<f64>, default: Duration) -> Result<Duration, ApiError> {
    match secs {
        None => Ok(default),
        Some(secs) if secs > 0.0 && secs <= MAX_TIMEOUT_SECS => Ok(Duration::from_secs_f64(secs)),
        Some(secs) => {
            let message =
                format!("a timeout of {secs} seconds makes no sense; give more than 0, at most a year");
            Err(ApiError::new(ErrorKind::Usage, message))
        }
    }
}

fn parse_addrs(addrs: &[String]) -> Result<Vec<Multiaddr>, ApiError> {
    if addrs.len() > MAX_HINTS {
        let message = format!("{} addresses are too many; give at most {MAX_HINTS}", addrs.len());
        return Err(ApiError::new(ErrorKind::Usage, message));
    }
    let parse = |addr: &String| {
        addr.parse().map_err(|error| {
            let addr = addr.escape_debug();
            let message =
                format!("\"{addr}\" is not a multiaddr ({error}); write it like /ip4/192.0.2.1/tcp/4343");
            ApiError::new(ErrorKind::Usage, message)
        })
    };
    addrs.iter().map(parse).collect()
}

/// Reads a CID or link.
fn parse_link(text: &str) -> Result<Link, ApiError> {
    text.parse::<Link>().map_err(|error| ApiError::new(ErrorKind::Usage, error.to_string()))
}

/// Reads a CID or link of a manifest.
fn parse_manifest_link(text: &str) -> Result<(ManifestCid, Link), ApiError> {
    let link = parse_link(text)?;
    match link.cid {
        ContentCid::Manifest(cid) => Ok((cid, link)),
        ContentCid::Chunk(cid) => {
            let message =
                format!("{cid} names a chunk; this needs the CID of a file or directory (bafyrei..)");
            Err(ApiError::new(ErrorKind::Usage, message))
        }
    }
}

impl From<StoreGone> for ApiError {
    fn from(error: StoreGone) -> Self {
        ApiError::new(ErrorKind::Failed, error.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let kind = match error {
            StoreError::TooManyTransfers { .. } => ErrorKind::Failed,
            _ => ErrorKind::Store,
        };
        ApiError::new(kind, error.to_string())
    }
}
