//! The loop of a hostile peer.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dhtfs_node::net::Executor;
use dhtfs_store::ContentCid;
use libp2p::{
    Multiaddr, PeerId,
    kad::{self, QueryId, RecordKey, store::MemoryStoreConfig},
    request_response::ResponseChannel,
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::{Semaphore, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    PeerEnv, Targets,
    codec::Reply,
    counters::{Budget, Counters, HostileStats, add},
    deceit::{self, Deceit, Means},
    exchange,
    kind::{Hostile, RoleKind},
    streams::StreamEvent,
    swarm::{Engine, Happened, RoleError, Setup},
    wire::WirePeer,
};

/// Answers to requests for content per second. A fetcher has some dozen in flight.
const MAX_ANSWERS: usize = 200;

/// Answers to DHT messages per second.
const MAX_MISLED: usize = 500;

/// Streams of the DHT protocol that are answered at the same time.
const MAX_STREAMS: usize = 256;

/// Provider records per second that a flood sends to everybody together.
const MAX_FLOOD: usize = 2_000;

/// Provider records per second that a forger sends to everybody together.
const MAX_FORGED: usize = 50;

/// Requests that are left without an answer and kept open; the oldest is dropped, which its asker notices.
const MAX_HELD: usize = 1_024;

/// From the first known peer to the first announcement: the time to meet some more.
const SETTLE: Duration = Duration::from_secs(2);

/// Longer than any simulation.
pub(super) const FOREVER: Duration = Duration::from_secs(24 * 60 * 60);

/// A running hostile peer, or freerider. Dropping it ends the peer; its connections close.
#[derive(Debug)]
pub struct HostilePeer {
    peer_id: PeerId,
    role: RoleKind,
    counters: Arc<Counters>,
    _stop: oneshot::Sender<()>,
}

impl HostilePeer {
    /// Its identity.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// What it is.
    pub fn role(&self) -> RoleKind {
        self.role
    }

    /// What it did so far.
    pub fn stats(&self) -> HostileStats {
        self.counters.snapshot()
    }

    /// Ends the peer, as dropping does.
    pub fn stop(self) {}
}

/// Starts a peer that does harm in the given way. Its first actions happen when the executor runs it.
///
/// # Errors
/// If the network's name is not allowed or an address cannot be listened on.
pub fn start_hostile(kind: Hostile, env: PeerEnv, targets: Targets) -> Result<HostilePeer, RoleError> {
    start(Some(kind), env, targets)
}

/// Starts a peer that serves the DHT and answers every request for content Busy.
///
/// # Errors
/// As [`start_hostile`].
pub fn start_freerider(env: PeerEnv) -> Result<HostilePeer, RoleError> {
    start(None, env, Targets::default())
}

fn start(kind: Option<Hostile>, mut env: PeerEnv, targets: Targets) -> Result<HostilePeer, RoleError> {
    let peer_id = env.keypair.public().to_peer_id();
    let executor = env.executor.clone();
    let counters = Arc::new(Counters::default());
    let mut rng = StdRng::seed_from_u64(env.seed);
    let next_listens = match kind {
        Some(Hostile::RotatesAddresses) => {
            let mut all = env.listen.split_off(env.listen.len().min(1));
            all.extend(env.listen.first().cloned());
            all
        }
        _ => Vec::new(),
    };
    let deceit = match kind {
        Some(Hostile::SybilNear(_)) => Deceit::Sybils(
            targets
                .accomplices
                .iter()
                .map(|(id, addrs)| WirePeer { id: *id, addrs: addrs.clone() })
                .collect(),
        ),
        Some(Hostile::SwallowsRecords) => Deceit::Nobody,
        _ => Deceit::Invents(env.listen.first().cloned()),
    };
    let max_records = if kind == Some(Hostile::FloodsRecords) { MAX_FLOOD } else { MAX_FORGED };
    let means = Means {
        deceit: Arc::new(deceit),
        counters: counters.clone(),
        answers: Arc::new(Budget::new(MAX_MISLED)),
        streams: Arc::new(Semaphore::new(MAX_STREAMS)),
        records: Arc::new(Budget::new(max_records)),
    };
    let engine = Engine::new(env, setup(kind, &counters))?;
    let attacker = Attacker {
        engine,
        kind,
        executor: executor.clone(),
        content: Budget::new(MAX_ANSWERS),
        means,
        held: VecDeque::new(),
        waiting: VecDeque::new(),
        announcing: HashSet::new(),
        announce_at: None,
        flooded: Arc::default(),
        steps: 0,
        next_listens: next_listens.into(),
        junk: Vec::new(),
        seeds: StdRng::seed_from_u64(rng.next_u64()),
        rng,
        targets,
    };
    let (stop, stopped) = oneshot::channel();
    executor(Box::pin(attacker.run(stopped)));
    let role = kind.map_or(RoleKind::Freerider, RoleKind::Hostile);
    Ok(HostilePeer { peer_id, role, counters, _stop: stop })
}

fn setup(kind: Option<Hostile>, counters: &Arc<Counters>) -> Setup {
    Setup {
        // It does not stand out.
        agent: concat!("dhtfs/", env!("CARGO_PKG_VERSION")).to_owned(),
        answers_kad: kind.is_some_and(Hostile::answers_kad),
        exchange_timeout: Some(FOREVER),
        idle_timeout: Some(Duration::from_secs(120)),
        records: MemoryStoreConfig { max_provided_keys: 4_096, ..MemoryStoreConfig::default() },
        counters: counters.clone(),
    }
}

pub(super) struct Attacker {
    pub(super) engine: Engine,
    /// `None` is a freerider.
    pub(super) kind: Option<Hostile>,
    pub(super) targets: Targets,
    pub(super) executor: Executor,
    /// Answers to requests for content.
    pub(super) content: Budget,
    pub(super) means: Means,
    pub(super) rng: StdRng,
    /// Seeds of the tasks for single streams.
    pub(super) seeds: StdRng,
    pub(super) held: VecDeque<ResponseChannel<Reply>>,
    pub(super) waiting: VecDeque<RecordKey>,
    pub(super) announcing: HashSet<QueryId>,
    /// When everything is announced (again); `None` until a peer was met.
    pub(super) announce_at: Option<Instant>,
    pub(super) flooded: Arc<Mutex<BTreeSet<PeerId>>>,
    pub(super) steps: u64,
    pub(super) next_listens: VecDeque<Multiaddr>,
    pub(super) junk: Vec<Multiaddr>,
}

impl Attacker {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut next = Instant::now();
        loop {
            tokio::select! {
                biased;
                _ = &mut stopped => return,
                happened = self.engine.next() => {
                    if self.on(happened) {
                        next = next.min(Instant::now() + SETTLE);
                    }
                }
                () = sleep_until(next) => next = Instant::now() + self.step(),
            }
        }
    }

    /// Whether the first peer was met.
    fn on(&mut self, happened: Happened) -> bool {
        match happened {
            Happened::Asked(request, channel) => self.on_request(request.0, channel),
            Happened::Kad(event) => {
                if let kad::Event::OutboundQueryProgressed { id, step, .. } = *event
                    && step.last
                    && self.announcing.remove(&id)
                {
                    add(&self.means.counters.announced, 1);
                }
            }
            Happened::Stream(peer, event) => self.on_stream(peer, event),
            Happened::MetServer if self.announce_at.is_none() => {
                self.announce_at = Some(Instant::now() + SETTLE);
                return true;
            }
            Happened::MetServer | Happened::Answered(..) | Happened::Failed(..) | Happened::Nothing => {}
        }
        false
    }

    fn on_request(&mut self, cid: ContentCid, channel: ResponseChannel<Reply>) {
        add(&self.means.counters.requests, 1);
        if self.content.take(1) == 0 {
            // Dropping the channel resets the stream.
            add(&self.means.counters.held_back, 1);
            return;
        }
        match exchange::reply(self.kind, cid, &self.targets, &mut self.rng) {
            // An asker that has gone is normal.
            Some(reply) => {
                drop(self.engine.swarm.behaviour_mut().exchange.send_response(channel, reply));
            }
            None => {
                add(&self.means.counters.ignored, 1);
                self.held.push_back(channel);
                if self.held.len() > MAX_HELD {
                    self.held.pop_front();
                }
            }
        }
    }

    fn on_stream(&mut self, peer: PeerId, event: StreamEvent) {
        let means = self.means.clone();
        let seed = self.seeds.next_u64();
        match (event, self.kind) {
            (StreamEvent::Inbound(stream), _) => {
                (self.executor)(Box::pin(deceit::mislead(stream, peer, means, seed)));
            }
            (StreamEvent::Outbound(stream), Some(Hostile::FloodsRecords)) => {
                let (flooded, own) = (self.flooded.clone(), self.own());
                (self.executor)(Box::pin(async move {
                    deceit::flood(stream, own, means, || lock(&flooded).len(), seed).await;
                    lock(&flooded).remove(&peer);
                }));
            }
            (StreamEvent::Outbound(stream), _) => {
                let (own, records) = (*self.engine.swarm.local_peer_id(), self.forged_records(peer));
                (self.executor)(Box::pin(deceit::send_records(stream, own, records, means)));
            }
            (StreamEvent::Failed, _) => {
                lock(&self.flooded).remove(&peer);
            }
        }
    }
}

pub(super) fn lock(flooded: &Mutex<BTreeSet<PeerId>>) -> MutexGuard<'_, BTreeSet<PeerId>> {
    flooded.lock().unwrap_or_else(PoisonError::into_inner)
}
