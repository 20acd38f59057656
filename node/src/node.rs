//! Wiring: builds a node from its environment, starts its tasks, and shuts it down in order.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use axum::Router;
use libp2p::{Multiaddr, PeerId};
use tokio::{
    net::UnixStream,
    sync::{Notify, mpsc, watch},
    time::{Instant, timeout},
};
use tracing::{debug, warn};

use crate::{
    api::{
        Api, Inner, Network, transfers,
        types::{ApiError, ErrorKind, Ready},
    },
    config::Config,
    core::{have::HaveConfig, provide::ProvideConfig, serve::ServeConfig},
    env::{Env, Executor},
    http, listen,
    net::{self, Client, NetConfig, NetEnv, Protocols, limits::GOODBYE_TIMEOUT},
    tasks::{
        dispatch::{Dispatch, MAX_WAITING_SERVE_EVENTS},
        have::HaveTask,
        join::JoinTask,
        keep_records::{FLUSH_EVERY, KeepRecords, StoredRecords},
        lan::{LanStats, LanTask},
        lanes::{self, MAX_WAITING_LANE_EVENTS, MAX_WAITING_LANES},
        provide::{self, ProvideEnv},
        serve,
        sources::SourcesTask,
    },
};

/// How long a starting node waits for its bootstrap dials before it says that it is ready.
const READY_AFTER: Duration = Duration::from_secs(3);

/// How long tasks get to end in order.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(5);

/// What kind of node a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The store only; nothing is sent or listened for.
    Offline,
    /// Looks things up and fetches; listens nowhere and is in nobody's routing table.
    Client,
    /// A full node: listens, stores records for others, serves and announces what it has.
    Server,
}

/// How to start a node on this machine.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Directory of the store, the identity and the socket.
    pub data_dir: PathBuf,
    /// Settings.
    pub config: Config,
    /// What kind of node.
    pub role: Role,
}

/// A running node. Dropping it without [`Node::shutdown`] is a crash: nothing acknowledged is lost, but peers are
/// not told.
#[derive(Debug)]
pub struct Node {
    api: Api,
    tasks: Tasks,
    dialled: watch::Receiver<bool>,
    data_dir: PathBuf,
}

/// The tasks of a node, and how they are told to end.
struct Tasks {
    executor: Executor,
    shutdown: watch::Sender<bool>,
    /// Cloned into every task; the receiver ends when the last one has.
    running: mpsc::Sender<()>,
    ended: mpsc::Receiver<()>,
}

impl std::fmt::Debug for Tasks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tasks").field("shutdown", &*self.shutdown.borrow()).finish_non_exhaustive()
    }
}

impl Tasks {
    fn new(executor: Executor) -> Self {
        let (running, ended) = mpsc::channel(1);
        Self { executor, shutdown: watch::Sender::new(false), running, ended }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let running = self.running.clone();
        (self.executor)(Box::pin(async move {
            task.await;
            drop(running);
        }));
    }

    fn shutdown(&self) -> watch::Receiver<bool> {
        self.shutdown.subscribe()
    }
}

impl Node {
    /// Starts a node on this machine's disk and network.
    ///
    /// # Errors
    /// See [`Env::production`] and [`Node::start`].
    pub async fn production(options: NodeOptions) -> Result<Self, ApiError> {
        options.config.check()?;
        let env = Env::production(&options.data_dir, options.config.listen.clone()).await?;
        Self::start(options.config, env, options.role).await
    }

    /// Starts a node in a given environment.
    ///
    /// # Errors
    /// [`ErrorKind::Failed`] if an address cannot be listened on or the network cannot be built.
    pub async fn start(config: Config, env: Env, role: Role) -> Result<Self, ApiError> {
        config.check()?;
        let tasks = Tasks::new(env.executor.clone());
        let peer_id = env.keypair.public().to_peer_id();
        let data_dir = env.store.store().dir().to_owned();
        let (store, seed, wall_clock) = (env.store.clone(), env.seed, env.wall_clock.clone());
        let (dialled_out, dialled) = watch::channel(role == Role::Offline);
        let net = match role {
            Role::Offline => None,
            Role::Client | Role::Server => {
                Some(start_network(&config, env, role, &tasks, dialled_out).await?)
            }
        };
        let (jobs, jobs_received) = transfers::Jobs::new();
        let is_server = role == Role::Server;
        let transfers = Arc::new(transfers::Registry::new(wall_clock.clone()));
        let inner = Inner {
            config,
            role,
            peer_id,
            store,
            wall_clock,
            started: Instant::now(),
            net,
            seeds: AtomicU64::new(seed),
            transfers,
            jobs: is_server.then_some(jobs),
            shutdown: Notify::new(),
        };
        let api = Api::new(inner);
        if is_server {
            tasks.spawn(transfers::run(api.clone(), jobs_received, tasks.shutdown()));
        }
        Ok(Self { api, tasks, dialled, data_dir })
    }

    /// The typed API.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The API as an HTTP router; the command line's embedded node calls it in process.
    pub fn router(&self) -> Router {
        http::router(self.api.clone(), self.tasks.executor.clone())
    }

    /// Waits until bootstrap dials have ended, at most 3 s; then says who and where this node is.
    pub async fn ready(&self) -> Ready {
        let mut dialled = self.dialled.clone();
        // Without an answer by then the node goes on trying; it is usable meanwhile.
        let _ = timeout(READY_AFTER, dialled.wait_for(|done| *done)).await;
        self.api.ready().await
    }

    /// Opens the API socket of the data directory and serves it until shutdown.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] if the socket cannot be made.
    pub fn serve_socket(&self) -> Result<(), ApiError> {
        let serving = http::serve(&self.data_dir, self.router(), self.tasks.shutdown())?;
        self.tasks.spawn(serving);
        Ok(())
    }

    /// Completes when somebody asked for a shutdown over the API.
    pub async fn shutdown_requested(&self) {
        self.api.shutdown_requested().await;
    }

    /// Ends the node in order: no new calls, no new work, routing peers saved, others told, connections closed.
    pub async fn shutdown(self) {
        let Tasks { shutdown, running, mut ended, .. } = self.tasks;
        shutdown.send_replace(true);
        let client = self.api.inner().net.as_ref().map(|net| net.client.clone());
        drop(running);
        if let Some(client) = client {
            if self.api.inner().role == Role::Server {
                // Only servers are in tables and named in records.
                let heard = client.announcer().goodbye_to_all(GOODBYE_TIMEOUT).await;
                debug!(heard, "said goodbye");
            }
            // The drivers end first; then the loop closes the connections and with them the dispatcher.
            if timeout(SHUTDOWN_WITHIN, client.shutdown()).await.is_err() {
                warn!("the network did not close in time");
            }
        }
        if timeout(SHUTDOWN_WITHIN, ended.recv()).await.is_err() {
            warn!("some tasks did not end in time");
        }
        debug!("node ended");
    }
}

async fn start_network(
    config: &Config,
    env: Env,
    role: Role,
    tasks: &Tasks,
    dialled: watch::Sender<bool>,
) -> Result<Network, ApiError> {
    let Env { keypair, transport, store, executor, wall_clock, listen, seed, tuning, lan } = env;
    let is_server = role == Role::Server;
    let mut net_config = NetConfig::new(&config.network, concat!("dhtfs/", env!("CARGO_PKG_VERSION")));
    net_config.kad_server = is_server;
    let record_life = tuning.limits.record_life;
    net_config.limits = tuning.limits;
    net_config.exchange_versions = tuning.exchange_versions;
    net_config.relay = config.relay.limits().filter(|_| is_server);
    let net_env = NetEnv { keypair, transport, executor, seed };
    let (client, event_loop, events) = net::new(net_config, net_env).map_err(|error| {
        ApiError::new(ErrorKind::Failed, format!("the network could not be set up: {error}"))
    })?;
    client.rates().change(|limits| *limits = config.limits());
    tasks.spawn(event_loop.run());
    let (routing_out, routing) = watch::channel(0);
    let (listen_out, listening) = watch::channel(Vec::new());
    let (connected_out, connected) = watch::channel(BTreeSet::new());
    let (serve_events, serve_received) = mpsc::channel(MAX_WAITING_SERVE_EVENTS);
    let (lane_events, lane_events_received) = mpsc::channel(MAX_WAITING_LANE_EVENTS);
    let dispatch = Dispatch {
        events,
        lanes: lane_events_received,
        client: client.clone(),
        serve: is_server.then_some(serve_events),
        routing: routing_out,
        listen: listen_out,
        connected: connected_out,
    };
    tasks.spawn(dispatch.run());

    let provide = is_server.then(|| {
        let config = ProvideConfig { interval: record_life / 2, ..ProvideConfig::default() };
        let provide_env = ProvideEnv {
            client: client.clone(),
            announcer: client.announcer(),
            store: store.clone(),
            wall_clock: wall_clock.clone(),
        };
        let (handle, task) = provide::new(config, seed, provide_env, routing.clone());
        tasks.spawn(task.run(tasks.shutdown()));
        handle
    });
    let (serve_task, served) =
        serve::new(ServeConfig::default(), client.clone(), store.clone(), provide.clone(), serve_received);
    if is_server {
        let have = HaveTask::new(HaveConfig::default(), store.clone());
        if let Some(incoming) = client.have_asked() {
            tasks.spawn(have.run(incoming, tasks.shutdown()));
        }
        if let Some(asked) = client.lanes_asked() {
            let (placed, lanes) = mpsc::channel(MAX_WAITING_LANES);
            tasks.spawn(lanes::accept(asked, placed));
            tasks.spawn(lanes::run(lanes, lane_events, tasks.shutdown()));
        }
        tasks.spawn(serve_task.run(tasks.shutdown()));
        tasks.spawn(SourcesTask { store: store.clone(), provide: provide.clone() }.run(tasks.shutdown()));
        listen::listen(&client, &store, &listen).await?;
        // Not before: it begins with a pass over all stored records, for which listening, which notes its addresses, would
        // have to wait.
        let records = KeepRecords {
            client: client.clone(),
            store: StoredRecords::new(store.clone(), wall_clock.clone()),
            clock: wall_clock.clone(),
            flush_every: FLUSH_EVERY,
        };
        tasks.spawn(records.run(tasks.shutdown()));
    }
    let join = JoinTask {
        client: client.clone(),
        store,
        bootstrap: config.bootstrap.clone(),
        routing: routing.clone(),
        dialled,
        seed,
    };
    tasks.spawn(join.run(tasks.shutdown(), wall_clock));
    let lan = (lan && config.mdns).then(|| {
        let listen = is_server.then_some(listening);
        start_lan(&config.network, &client, listen, connected, seed, tasks)
    });
    Ok(Network { client, routing, provide, served, lan: lan.flatten(), record_life })
}

/// Looks for nodes of the local network, and tells them of this one if it listens; returns what is counted.
fn start_lan(
    network: &str,
    client: &Client,
    listen: Option<watch::Receiver<Vec<Multiaddr>>>,
    connected: watch::Receiver<BTreeSet<PeerId>>,
    seed: u64,
    tasks: &Tasks,
) -> Option<watch::Receiver<LanStats>> {
    // The name has been checked.
    let network = Protocols::of(network, &[]).ok()?.version;
    let (stats, counted) = watch::channel(LanStats::default());
    let task = LanTask { client: client.clone(), network, listen, connected, stats, seed };
    tasks.spawn(task.run(tasks.shutdown()));
    Some(counted)
}

/// Connects to the socket of the daemon on `data_dir`; `None` if no process holds it. A daemon that is just
/// starting is waited for a few seconds.
///
/// # Errors
/// [`ErrorKind::Store`] if a process holds the directory but does not answer.
pub async fn connect_socket(data_dir: &Path) -> Result<Option<UnixStream>, ApiError> {
    http::connect(data_dir).await
}
