//! Driver of [`Fetch`]: carries out its lookups, dials and requests, and hands arrived blocks to the caller, who
//! verifies and stores them.
//!
//! The caller owns the driver and polls [`Driver::next`] beside its own work; dropping it cancels the fetch.

pub mod download;
mod lanes;
pub mod resolve;
pub mod stream;

use std::{
    collections::{BTreeMap, HashSet},
    pin::Pin,
    time::{Duration, Instant},
};

use dhtfs_store::{ContentCid, ManifestCid};
use futures::{
    StreamExt,
    future::{AbortHandle, Abortable},
    stream::FuturesUnordered,
};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use tokio::sync::watch;
use tracing::{debug, info};

use super::{now, sleep_until};
use crate::{
    core::{
        fetch::{
            Action, Fetch, FetchConfig, FetchFailure, FetchProgress, HaveEnd, HaveId, HaveUpdate, RequestId,
            Waiting, Want,
        },
        rate::Limits,
        transfers::{Will, Wish},
    },
    env::StoreHandle,
    net::{
        BlockAnswer, Buffers, Client, DialFailure, HaveEnd as HaveStop, HaveStream, LaneEvent, LaneEvents,
        Lookup, LookupEvent, RequestError,
    },
};

/// How long a first lookup waits for the routing table to have anybody to ask.
const WAIT_FOR_ROUTING: Duration = Duration::from_secs(3);

/// Pause before a peer address given by the user is dialled again.
const HINT_RETRY: Duration = Duration::from_secs(2);

/// How often a fetch reports how far it is when nothing else happens.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// How often at most: who looks at it sees no more, and each is as much work as a few small blocks.
const REPORT_PAUSE: Duration = Duration::from_millis(50);

/// Is told how far a fetch is and, if it waits, why.
type Reporter = Box<dyn Fn(&FetchProgress, Option<&Waiting>) + Send + Sync>;

/// What a fetch works with.
#[derive(Debug, Clone)]
pub struct FetchContext {
    /// Sends.
    pub client: Client,
    /// Stores.
    pub store: StoreHandle,
    /// Number of peers in the routing table.
    pub routing: watch::Receiver<usize>,
    /// This node's own ID: it is no source for itself.
    pub local: PeerId,
}

/// Where to look besides the DHT.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    /// Addresses of peers believed to hold the content.
    pub peers: Vec<Multiaddr>,
    /// Addresses of DHT nodes to join through.
    pub bootstrap: Vec<Multiaddr>,
}

/// A block that arrived.
#[derive(Debug)]
pub struct Block {
    /// To report back with.
    pub id: RequestId,
    /// What was asked for.
    pub cid: ContentCid,
    /// What came; not verified.
    pub data: Vec<u8>,
    /// What a manifest is said to stand for, if that came with it; not verified. It is part of the answer: if it is not what
    /// it should be, the whole is bad.
    pub content: Option<Vec<u8>>,
}

/// What the caller has to deal with.
#[derive(Debug)]
pub enum Turn {
    /// Blocks arrived, one at least. Verify and store each, then call [`Driver::stored`] or [`Driver::bad`].
    Blocks(Vec<Block>),
    /// Every want is stored and no more will come.
    Finished,
    /// No progress for too long.
    Failed(FetchFailure),
    /// The user wants it to rest or to end; see [`Driver::steer_by`].
    Stopped,
}

enum Done {
    Found(ContentCid, Lookup, Option<LookupEvent>),
    Dialled(PeerId, bool),
    Hinted(PeerId, Multiaddr),
    /// A peer that the user named is of another network.
    Foreign(Multiaddr),
    /// Nothing to report: a bootstrap dial ended, or a lookup was cancelled.
    Nothing,
    Answered(RequestId, PeerId, ContentCid, Result<BlockAnswer, RequestError>),
    /// A block of this length that came too late was wrong.
    BadLate(PeerId, ContentCid, u32),
    /// This happened on the lane to a peer; with where more is told.
    Lane(PeerId, Vec<LaneEvent>, LaneEvents),
    /// A peer told something about what it holds, or tells no more.
    Told(HaveId, Result<(HaveStream, HaveUpdate), HaveStop>),
    /// So many more bytes may be asked for.
    Credit(u64),
}

/// A peer that the user named: by its ID, so that one with several addresses is one, or by its address alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Hint {
    Peer(PeerId),
    Addr(Multiaddr),
}

impl Hint {
    fn of(addr: &Multiaddr) -> Self {
        match addr.iter().last() {
            Some(Protocol::P2p(peer)) => Self::Peer(peer),
            _ => Self::Addr(addr.clone()),
        }
    }
}

/// One fetch under way.
pub struct Driver {
    context: FetchContext,
    machine: Fetch,
    running: FuturesUnordered<Pin<Box<dyn Future<Output = Done> + Send>>>,
    lookups: BTreeMap<ContentCid, AbortHandle>,
    /// The content that is fetched, once it is known how many chunks it unfolds to.
    content: Option<(ManifestCid, u32)>,
    haves: BTreeMap<HaveId, AbortHandle>,
    lanes: lanes::PeerLanes,
    /// Whether manifests are asked for together with what they stand for.
    with_content: bool,
    /// Of blocks that arrive on lanes.
    buffers: Buffers,
    hint_addrs: BTreeMap<PeerId, Multiaddr>,
    /// Peers that the user named.
    hints: usize,
    /// Those of them that did not answer so far.
    hints_left: HashSet<Hint>,
    hops: Option<u32>,
    reporter: Option<Reporter>,
    report_at: Instant,
    reported_at: Option<Instant>,
    limits: watch::Receiver<Limits>,
    /// Whether it waits until more may be asked for.
    awaits_credit: bool,
    steering: Option<Steering>,
}

/// Where the user's wishes come from.
struct Steering {
    wishes: watch::Receiver<Wish>,
    /// Refreshes that were carried out, or asked for before this fetch.
    refreshes: u64,
}

impl Steering {
    /// Waits for another wish; for ever if none will come.
    async fn changed(steering: Option<&mut Self>) {
        if let Some(Self { wishes, .. }) = steering
            && wishes.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("running", &self.running.len()).finish_non_exhaustive()
    }
}

impl Driver {
    /// Begins a fetch of `root`: dials the hints; the first lookup starts with the first [`Driver::next`].
    pub fn new(
        context: FetchContext,
        root: ContentCid,
        config: FetchConfig,
        hints: Hints,
        seed: u64,
    ) -> Self {
        let mut machine = Fetch::new(config, root, seed, now());
        let mut limits = context.client.rates().watch();
        machine.on_limit(limits.borrow_and_update().down.is_set(), now());
        let (running, buffers) = (FuturesUnordered::new(), context.client.buffers());
        let hints_left: HashSet<Hint> = hints.peers.iter().map(Hint::of).collect();
        let driver = Self {
            context,
            machine,
            running,
            lookups: BTreeMap::new(),
            content: None,
            haves: BTreeMap::new(),
            lanes: lanes::PeerLanes::default(),
            with_content: false,
            buffers,
            hint_addrs: BTreeMap::new(),
            hints: hints_left.len(),
            hints_left,
            hops: None,
            reporter: None,
            report_at: now(),
            reported_at: None,
            limits,
            awaits_credit: false,
            steering: None,
        };
        for addr in hints.bootstrap {
            let client = driver.context.client.clone();
            driver.running.push(Box::pin(async move {
                if let Err(error) = client.dial(addr.clone()).await {
                    info!(%addr, %error, "bootstrap address did not answer");
                }
                Done::Nothing
            }));
        }
        for addr in hints.peers {
            driver.running.push(Box::pin(dial_hint(driver.context.client.clone(), addr)));
        }
        driver
    }

    /// What is fetched unfolds to so many chunks; see [`Fetch::on_content`].
    pub fn content(&mut self, root: ManifestCid, chunks: u32) {
        self.content = Some((root, chunks));
        self.machine.on_content(chunks, now());
    }

    /// Asks for more blocks; see [`Fetch::on_wants`].
    pub fn want(&mut self, wants: Vec<Want>) {
        self.machine.on_wants(wants, now());
    }

    /// No more wants will come; see [`Fetch::on_wants_complete`].
    pub fn wants_complete(&mut self) {
        self.machine.on_wants_complete(now());
    }

    /// A block that was stored or consumed is needed again; see [`Fetch::on_lost`].
    pub fn want_again(&mut self, cid: ContentCid) {
        self.machine.on_lost(cid, now());
    }

    /// A block is what its CID says, and waits to be consumed; see [`Fetch::on_verified`].
    pub fn verified(&mut self, id: RequestId) {
        self.machine.on_verified(id, now());
    }

    /// A block is verified and stored, or consumed.
    pub fn stored(&mut self, id: RequestId) {
        self.machine.on_stored(id, now());
    }

    /// A block was not what its CID says.
    pub fn bad(&mut self, id: RequestId) {
        self.machine.on_bad(id, now());
    }

    /// Whether manifests are asked for together with what they stand for from now on, where that is short and the peer knows
    /// how: [`Block::content`].
    pub fn ask_with_content(&mut self, with_content: bool) {
        self.with_content = with_content;
    }

    /// Where buffers of blocks go that are not needed any more; they may go elsewhere too.
    pub fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// How far the fetch is.
    pub fn progress(&self) -> FetchProgress {
        self.machine.progress()
    }

    /// Why no more arrives; also after the fetch has failed.
    pub fn why(&self) -> Waiting {
        self.with_hints(self.machine.why(now()))
    }

    /// Adds what only the driver knows.
    fn with_hints(&self, waiting: Waiting) -> Waiting {
        Waiting { hints: self.hints, unreached_hints: self.hints_left.len(), ..waiting }
    }

    /// Has `reporter` told how far the fetch is, every second while [`Self::next`] is polled, and after
    /// [`Self::report_soon`].
    pub fn report_to(&mut self, reporter: impl Fn(&FetchProgress, Option<&Waiting>) + Send + Sync + 'static) {
        self.reporter = Some(Box::new(reporter));
        self.reported_at = None;
    }

    /// Follows what the user wants from now on: [`Turn::Stopped`] comes when that is not to go on, and every new refresh
    /// is carried out ([`Fetch::on_refresh`]).
    pub fn steer_by(&mut self, wishes: watch::Receiver<Wish>) {
        let refreshes = wishes.borrow().refreshes;
        self.steering = Some(Steering { wishes, refreshes });
    }

    /// Whether the user wants this to stop; carries out a refresh.
    fn follow(&mut self) -> bool {
        let Some(steering) = &mut self.steering else { return false };
        let wish = *steering.wishes.borrow_and_update();
        if wish.refreshes != steering.refreshes {
            steering.refreshes = wish.refreshes;
            self.machine.on_refresh(now());
        }
        wish.will != Will::Run
    }

    /// Something has changed: tells how far the fetch is, unless it did so just now. What changes last is told at the end, with
    /// [`Self::report`].
    pub fn report_soon(&mut self) {
        let now = now();
        if self.reported_at.is_none_or(|at| at + REPORT_PAUSE <= now) {
            self.reported_at = Some(now);
            self.report();
        }
    }

    /// Tells how far the fetch is.
    pub fn report(&self) {
        if let Some(reporter) = &self.reporter {
            let waiting = self.machine.waiting(now()).map(|waiting| self.with_hints(waiting));
            reporter(&self.machine.progress(), waiting.as_ref());
        }
    }

    /// Peers that answered until the first provider was known; `None` while none was found by a lookup.
    pub fn hops(&self) -> Option<u32> {
        self.hops
    }

    /// Runs until the caller has something to do. Cancel-safe.
    pub async fn next(&mut self) -> Turn {
        loop {
            if self.follow() {
                return Turn::Stopped;
            }
            if let Some(turn) = self.act() {
                return turn;
            }
            let deadline = self.machine.next_deadline();
            let report_at = self.reporter.is_some().then_some(self.report_at);
            tokio::select! {
                Some(done) = self.running.next(), if !self.running.is_empty() => {
                    if let Some(turn) = self.on_done(done) {
                        return turn;
                    }
                }
                () = sleep_until(deadline) => self.machine.on_timeout(now()),
                // The sender is as long-lived as the client.
                Ok(()) = self.limits.changed() => {
                    let is_limited = self.limits.borrow_and_update().down.is_set();
                    self.machine.on_limit(is_limited, now());
                }
                () = Steering::changed(self.steering.as_mut()) => {}
                () = sleep_until(report_at) => {
                    self.report_at = now() + REPORT_EVERY;
                    self.report();
                }
            }
        }
    }

    fn act(&mut self) -> Option<Turn> {
        loop {
            let turn = self.carry_out();
            if turn.is_some() || !self.ask_credit() {
                return turn;
            }
        }
    }

    /// Sees to it that more may be asked for, if the limit keeps the machine from it; true if that is so at once.
    fn ask_credit(&mut self) -> bool {
        let Some(len) = self.machine.lacks_credit().filter(|_| !self.awaits_credit) else { return false };
        let rates = self.context.client.rates().clone();
        let turn = rates.ask(len);
        if rates.may_ask(turn) {
            self.machine.on_credit(len, now());
            return true;
        }
        self.awaits_credit = true;
        self.running.push(Box::pin(async move {
            rates.asked(turn).await;
            Done::Credit(len)
        }));
        false
    }

    fn carry_out(&mut self) -> Option<Turn> {
        while let Some(action) = self.machine.next_action() {
            match action {
                Action::Lookup(cid) => self.lookup(cid),
                Action::CancelLookup(cid) => {
                    if let Some(lookup) = self.lookups.remove(&cid) {
                        lookup.abort();
                    }
                }
                Action::Dial(peer) => {
                    let client = self.context.client.clone();
                    let addrs = self.hint_addrs.get(&peer).cloned().into_iter().collect();
                    self.running.push(Box::pin(async move {
                        Done::Dialled(peer, client.connect(peer, addrs).await.is_ok())
                    }));
                }
                Action::Request { id, peer, cid, max_len } => self.request(id, peer, cid, max_len),
                Action::AskHave { id, peer } => self.ask_have(id, peer),
                Action::EndHave(id) => {
                    if let Some(have) = self.haves.remove(&id) {
                        have.abort();
                    }
                }
                // Without a lane the answer is ignored when it comes; request-response cannot take a request back.
                Action::Forget(id) => self.lanes.cancel(id),
                Action::Finished => return Some(Turn::Finished),
                Action::Failed(failure) => return Some(Turn::Failed(failure)),
            }
        }
        None
    }

    fn lookup(&mut self, cid: ContentCid) {
        let client = self.context.client.clone();
        let mut routing = self.context.routing.clone();
        self.watch(cid, async move {
            // A lookup in an empty table finds nobody at once; give the first dials a moment.
            let _ = tokio::time::timeout(WAIT_FOR_ROUTING, routing.wait_for(|peers| *peers > 0)).await;
            next_found(cid, client.find_providers(cid).await).await
        });
    }

    /// Runs a part of a lookup until it is over or cancelled.
    fn watch(&mut self, cid: ContentCid, part: impl Future<Output = Done> + Send + 'static) {
        let (handle, registration) = AbortHandle::new_pair();
        self.lookups.insert(cid, handle);
        let part = Abortable::new(part, registration);
        self.running.push(Box::pin(async move { part.await.unwrap_or(Done::Nothing) }));
    }

    fn ask_have(&mut self, id: HaveId, peer: PeerId) {
        let Some(content) = self.content else { return };
        let client = self.context.client.clone();
        self.listen(id, async move {
            match client.have(peer, content).await {
                Ok(stream) => next_told(id, stream).await,
                Err(end) => Done::Told(id, Err(end)),
            }
        });
    }

    /// Waits for what a peer tells next, unless that is no longer wanted.
    fn listen(&mut self, id: HaveId, part: impl Future<Output = Done> + Send + 'static) {
        let (handle, registration) = AbortHandle::new_pair();
        self.haves.insert(id, handle);
        let part = Abortable::new(part, registration);
        self.running.push(Box::pin(async move { part.await.unwrap_or(Done::Nothing) }));
    }

    fn on_told(&mut self, id: HaveId, told: Result<(HaveStream, HaveUpdate), HaveStop>) {
        if self.haves.remove(&id).is_none() {
            return;
        }
        match told {
            Ok((stream, update)) => {
                if update != HaveUpdate::All {
                    self.listen(id, next_told(id, stream));
                }
                self.machine.on_map(id, update, now());
            }
            Err(HaveStop::Busy | HaveStop::Closed) => self.machine.on_map_end(id, HaveEnd::Closed, now()),
            Err(HaveStop::Unsupported | HaveStop::Unknown | HaveStop::Malformed) => {
                self.machine.on_map_end(id, HaveEnd::Refused, now());
            }
        }
    }

    fn connected(&mut self, peer: PeerId) {
        self.machine.on_metered(peer, self.context.client.rates().is_metered(&peer));
        self.machine.on_connected(peer, now());
    }

    fn lookup_done(&mut self, cid: ContentCid) {
        self.lookups.remove(&cid);
        self.machine.on_lookup_done(cid, now());
    }

    fn on_done(&mut self, done: Done) -> Option<Turn> {
        match done {
            Done::Found(cid, lookup, Some(LookupEvent::Provider { peer, .. })) => {
                if peer != self.context.local {
                    self.machine.on_provider(cid, peer, now());
                }
                self.watch(cid, next_found(cid, lookup));
            }
            Done::Found(cid, _, Some(LookupEvent::Done(stats))) => {
                self.hops = self.hops.or(stats.first_provider_after);
                self.lookup_done(cid);
            }
            Done::Found(cid, _, None) => self.lookup_done(cid),
            Done::Dialled(peer, true) => self.connected(peer),
            Done::Dialled(peer, false) => self.machine.on_dial_failed(peer, now()),
            Done::Hinted(peer, addr) => {
                self.hints_left.remove(&Hint::of(&addr));
                self.running.push(Box::pin(check_hint(self.context.client.clone(), addr.clone())));
                self.hint_addrs.insert(peer, addr);
                if peer != self.context.local {
                    self.machine.on_hint(peer, now());
                    self.connected(peer);
                }
            }
            Done::Foreign(addr) => {
                self.hints_left.insert(Hint::of(&addr));
            }
            Done::Nothing => {}
            Done::Credit(len) => {
                self.awaits_credit = false;
                self.machine.on_credit(len, now());
            }
            Done::Told(id, told) => self.on_told(id, told),
            Done::Lane(peer, events, lane) => {
                let blocks = self.on_lane(peer, events, lane);
                return (!blocks.is_empty()).then_some(Turn::Blocks(blocks));
            }
            Done::BadLate(peer, cid, len) => self.machine.on_bad_late(peer, cid, len, now()),
            Done::Answered(id, peer, cid, answer) => {
                self.machine.on_queue(&peer, None);
                let block = self.on_answer(id, peer, cid, answer);
                return block.map(|block| Turn::Blocks(vec![block]));
            }
        }
        None
    }

    fn on_answer(
        &mut self,
        id: RequestId,
        peer: PeerId,
        cid: ContentCid,
        answer: Result<BlockAnswer, RequestError>,
    ) -> Option<Block> {
        match answer {
            Ok(BlockAnswer::Data(data)) => return self.on_data(id, peer, cid, data, None),
            Ok(BlockAnswer::Missing) => self.machine.on_missing(id, now()),
            Ok(BlockAnswer::Busy) => self.machine.on_busy(id, now()),
            Err(RequestError::Malformed(error)) => {
                debug!(%peer, %cid, %error, "an answer breaks the protocol");
                self.machine.on_malformed(id, now());
            }
            Err(error) => {
                debug!(%peer, %cid, %error, "a request failed");
                self.machine.on_failed(id, now());
                if matches!(error, RequestError::NotConnected | RequestError::Closed) {
                    self.machine.on_disconnected(peer, now());
                }
            }
        }
        None
    }
}

impl Driver {
    /// A block came, and perhaps content with it.
    fn on_data(
        &mut self,
        id: RequestId,
        peer: PeerId,
        cid: ContentCid,
        data: Vec<u8>,
        content: Option<Vec<u8>>,
    ) -> Option<Block> {
        let len = data.len() + content.as_ref().map_or(0, Vec::len);
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let is_late = self.machine.is_late(id, len);
        if self.machine.on_block(id, len, now()) {
            return Some(Block { id, cid, data, content });
        }
        if is_late {
            self.running.push(Box::pin(check_late(self.context.store.clone(), peer, cid, data)));
        }
        None
    }
}

async fn next_found(cid: ContentCid, mut lookup: Lookup) -> Done {
    let event = lookup.next().await;
    Done::Found(cid, lookup, event)
}

async fn next_told(id: HaveId, mut stream: HaveStream) -> Done {
    let told = stream.next().await;
    Done::Told(id, told.map(|update| (stream, update)))
}

/// Looks whether a block that nobody waits for any more is at least right.
async fn check_late(store: StoreHandle, peer: PeerId, cid: ContentCid, data: Vec<u8>) -> Done {
    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
    // Hashing takes a worker of the store, as for a block that is wanted.
    match store.call(move |_| cid.matches(&data)).await {
        Ok(false) => {
            debug!(%peer, %cid, "a late answer is wrong");
            Done::BadLate(peer, cid, len)
        }
        Ok(true) | Err(_) => Done::Nothing,
    }
}

/// Waits until a connected peer that the user named has said what it is.
async fn check_hint(client: Client, addr: Multiaddr) -> Done {
    match client.dial(addr.clone()).await {
        Err(error @ DialFailure::OtherNetwork { .. }) => {
            info!(%addr, %error, "the given peer is of no use");
            Done::Foreign(addr)
        }
        Ok(_) | Err(_) => Done::Nothing,
    }
}

/// Dials an address the user gave until there is a connection. Who is named by an ID is asked as soon as there is a connection, three round
/// trips before it has identified itself and is in the routing table; a peer of another network then refuses.
async fn dial_hint(client: Client, addr: Multiaddr) -> Done {
    loop {
        let reached = match Hint::of(&addr) {
            Hint::Peer(peer) => client.connect(peer, vec![addr.clone()]).await.map(|()| peer),
            Hint::Addr(addr) => client.dial(addr).await,
        };
        match reached {
            Ok(peer) => return Done::Hinted(peer, addr),
            Err(error) => info!(%addr, %error, "the given peer did not answer; trying again"),
        }
        tokio::time::sleep(HINT_RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_with_several_addresses_is_one_hint() {
        let peer = PeerId::random();
        let named = |addr: &str| format!("{addr}/p2p/{peer}").parse::<Multiaddr>();
        let addrs: Vec<Multiaddr> = [
            named("/ip4/192.0.2.1/tcp/1"),
            named("/ip6/2001:db8::1/tcp/1"),
            "/ip4/192.0.2.2/tcp/1".parse(),
            "/ip4/192.0.2.2/tcp/2".parse(),
        ]
        .into_iter()
        .flatten()
        .collect();
        let mut hints: HashSet<Hint> = addrs.iter().map(Hint::of).collect();
        assert_eq!((addrs.len(), hints.len()), (4, 3));
        assert!(hints.remove(&Hint::Peer(peer)), "whichever of them answers");
        assert!(addrs.last().is_some_and(|addr| hints.contains(&Hint::Addr(addr.clone()))));
    }
}
