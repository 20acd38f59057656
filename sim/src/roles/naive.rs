//! A bare libp2p node with stock settings, which believes everything.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use dhtfs_node::net::exchange::{ExchangeRequest, ExchangeResponse};
use dhtfs_store::ContentCid;
use libp2p::{
    PeerId,
    kad::{
        self, GetProvidersOk, QueryId, QueryResult, RecordKey,
        store::{MemoryStoreConfig, RecordStore as _},
    },
    request_response::{OutboundFailure, OutboundRequestId, ResponseChannel},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    PeerEnv,
    codec::Reply,
    counters::Counters,
    swarm::{Engine, Happened, JOIN_AGAIN, RoleError, Setup},
};

/// Calls that wait for the loop.
const QUEUE: usize = 64;

/// Why a naive peer got nothing.
#[derive(Debug, thiserror::Error)]
pub enum NaiveError {
    /// The lookup found nobody.
    #[error("nobody provides it")]
    NotFound,
    /// The provider says that it does not hold it, or is busy.
    #[error("the provider does not give it: {0:?}")]
    Refused(ExchangeResponse),
    /// The request failed.
    #[error("the request failed: {0}")]
    Failed(#[from] OutboundFailure),
    /// The peer has ended.
    #[error("the peer has ended")]
    Gone,
}

type Answer<T> = oneshot::Sender<T>;
type Fetched = Result<Vec<u8>, NaiveError>;

enum Command {
    Hold(ContentCid, Vec<u8>, Answer<()>),
    Find(ContentCid, Answer<BTreeSet<PeerId>>),
    Fetch(ContentCid, Answer<Fetched>),
    State(Option<ContentCid>, PeerId, Answer<NaiveState>),
}

/// What a naive peer knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NaiveState {
    /// Peers in its routing table.
    pub known_peers: usize,
    /// The providers recorded here for the key asked about.
    pub recorded: BTreeSet<PeerId>,
    /// The addresses it believes the peer asked about to have.
    pub addrs: usize,
}

/// A running naive peer. Dropping it ends the peer; its connections close.
#[derive(Debug)]
pub struct NaivePeer {
    peer_id: PeerId,
    commands: mpsc::Sender<Command>,
}

impl NaivePeer {
    /// Its identity.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// Serves `bytes` as the content of `cid` from now on and announces it; returns when the record went out.
    pub async fn hold(&self, cid: ContentCid, bytes: Vec<u8>) {
        let _ = self.ask(|answer| Command::Hold(cid, bytes, answer)).await;
    }

    /// All providers that a lookup finds, this peer not counted.
    pub async fn find(&self, cid: ContentCid) -> BTreeSet<PeerId> {
        self.ask(|answer| Command::Find(cid, answer)).await.unwrap_or_default()
    }

    /// Asks the first provider that a lookup finds (of several in one answer the least ID) and takes what it sends.
    ///
    /// # Errors
    /// If there is no provider or it gives nothing. No second one is tried.
    pub async fn fetch(&self, cid: ContentCid) -> Result<Vec<u8>, NaiveError> {
        self.ask(|answer| Command::Fetch(cid, answer)).await.unwrap_or(Err(NaiveError::Gone))
    }

    /// What it knows of a key and a peer.
    pub async fn state(&self, key: Option<ContentCid>, peer: PeerId) -> NaiveState {
        self.ask(|answer| Command::State(key, peer, answer)).await.unwrap_or_default()
    }

    /// Ends the peer, as dropping does.
    pub fn stop(self) {}

    async fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.ok()?;
        answered.await.ok()
    }
}

/// Starts a naive peer.
///
/// # Errors
/// If the network's name is not allowed or an address cannot be listened on.
pub fn start_naive(env: PeerEnv) -> Result<NaivePeer, RoleError> {
    let peer_id = env.keypair.public().to_peer_id();
    let executor = env.executor.clone();
    let setup = Setup {
        agent: "naive".to_owned(),
        answers_kad: false,
        exchange_timeout: None,
        idle_timeout: None,
        records: MemoryStoreConfig::default(),
        counters: Arc::new(Counters::default()),
    };
    let naive = Naive {
        engine: Engine::new(env, setup)?,
        held: BTreeMap::new(),
        announcing: HashMap::new(),
        finding: HashMap::new(),
        seeking: HashMap::new(),
        fetching: HashMap::new(),
    };
    let (commands, received) = mpsc::channel(QUEUE);
    executor(Box::pin(naive.run(received)));
    Ok(NaivePeer { peer_id, commands })
}

struct Naive {
    engine: Engine,
    held: BTreeMap<ContentCid, Vec<u8>>,
    announcing: HashMap<QueryId, Answer<()>>,
    finding: HashMap<QueryId, (BTreeSet<PeerId>, Answer<BTreeSet<PeerId>>)>,
    seeking: HashMap<QueryId, (ContentCid, Answer<Fetched>)>,
    fetching: HashMap<OutboundRequestId, Answer<Fetched>>,
}

impl Naive {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut join_at = Some(Instant::now());
        loop {
            let joining = async {
                match join_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => return,
                },
                happened = self.engine.next() => self.on(happened),
                () = joining => join_at = self.engine.join().then(|| Instant::now() + JOIN_AGAIN),
            }
        }
    }

    // Whoever asked may have gone, which is normal: answers are sent without a look at the result.
    fn on_command(&mut self, command: Command) {
        let kad = &mut self.engine.swarm.behaviour_mut().kad;
        let key = |cid: ContentCid| RecordKey::new(&cid.multihash_bytes());
        match command {
            Command::Hold(cid, bytes, answer) => {
                self.held.insert(cid, bytes);
                if let Ok(query) = kad.start_providing(key(cid)) {
                    self.announcing.insert(query, answer);
                }
            }
            Command::Find(cid, answer) => {
                self.finding.insert(kad.get_providers(key(cid)), (BTreeSet::new(), answer));
            }
            Command::Fetch(cid, answer) => {
                self.seeking.insert(kad.get_providers(key(cid)), (cid, answer));
            }
            Command::State(cid, peer, answer) => {
                let state = self.state(cid.map(key), peer);
                let _ = answer.send(state);
            }
        }
    }

    fn state(&mut self, key: Option<RecordKey>, peer: PeerId) -> NaiveState {
        let kad = &mut self.engine.swarm.behaviour_mut().kad;
        let recorded = key.map(|key| kad.store_mut().providers(&key)).unwrap_or_default();
        let mut state = NaiveState {
            recorded: recorded.into_iter().map(|record| record.provider).collect(),
            ..NaiveState::default()
        };
        for bucket in kad.kbuckets() {
            for entry in bucket.iter() {
                state.known_peers += 1;
                if *entry.node.key.preimage() == peer {
                    state.addrs = entry.node.value.len();
                }
            }
        }
        state
    }

    fn on(&mut self, happened: Happened) {
        match happened {
            Happened::Asked(request, channel) => self.serve(&request, channel),
            Happened::Answered(id, Reply::Plain(response)) => {
                let Some(answer) = self.fetching.remove(&id) else { return };
                let _ = answer.send(match response {
                    ExchangeResponse::Data(bytes) => Ok(bytes),
                    other => Err(NaiveError::Refused(other)),
                });
            }
            Happened::Failed(id, error) => {
                let Some(answer) = self.fetching.remove(&id) else { return };
                let _ = answer.send(Err(error.into()));
            }
            Happened::Kad(event) => self.on_kad(*event),
            _ => {}
        }
    }

    fn serve(&mut self, request: &ExchangeRequest, channel: ResponseChannel<Reply>) {
        let response = match self.held.get(&request.0) {
            Some(bytes) => ExchangeResponse::Data(bytes.clone()),
            None => ExchangeResponse::Missing,
        };
        drop(self.engine.swarm.behaviour_mut().exchange.send_response(channel, Reply::Plain(response)));
    }

    fn on_kad(&mut self, event: kad::Event) {
        let kad::Event::OutboundQueryProgressed { id, result, step, .. } = event else { return };
        if let QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders { providers, .. })) = result {
            let local = *self.engine.swarm.local_peer_id();
            let providers: BTreeSet<PeerId> = providers.into_iter().filter(|peer| *peer != local).collect();
            if let Some(first) = providers.first()
                && let Some((cid, answer)) = self.seeking.remove(&id)
            {
                let exchange = &mut self.engine.swarm.behaviour_mut().exchange;
                self.fetching.insert(exchange.send_request(first, ExchangeRequest(cid)), answer);
            }
            if let Some((found, _)) = self.finding.get_mut(&id) {
                found.extend(providers);
            }
        }
        if !step.last {
            return;
        }
        if let Some(answer) = self.announcing.remove(&id) {
            let _ = answer.send(());
        }
        if let Some((found, answer)) = self.finding.remove(&id) {
            let _ = answer.send(found);
        }
        if let Some((_, answer)) = self.seeking.remove(&id) {
            let _ = answer.send(Err(NaiveError::NotFound));
        }
    }
}
