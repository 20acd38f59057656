//! Who is served next.
//!
//! Requests wait in one queue per peer. Whenever the budget has room, the peer that has been given the fewest
//! bytes lately is next (start-time fair queueing: each peer carries a virtual time that advances by the bytes
//! read for it, and a peer that comes back from idleness starts at the current virtual time, so it neither gains
//! nor loses by having been away). Equal peers so get equal bytes, whatever the sizes of their chunks and however
//! many requests each has queued.
//!
//! Of what one peer waits for, blocks that were sent to fewer peers lately come first: while several fetch the same from a
//! node that has it alone, each chunk goes out once, and they get the rest from each other. A request is passed over for
//! four seconds at most.
//!
//! The last block of the budget is for manifests: nobody can fetch anything without, and they are short, so they do not wait
//! behind the chunks of those who came before.
//!
//! With a limit on what is sent, metered peers (those that count towards it) are given a turn only as the limit covers
//! the bytes of the answers before; the others do not wait for it. Without one it makes no difference who is metered.
//!
//! # Invariants
//! - Bytes read and not yet handed to the socket, each read charged with [`MAX_BLOCK_LEN`] until its true length
//!   is known, never exceed the budget.
//! - No peer is given more of the budget once it holds its share, `budget / (peers + 1)` and at least one block,
//!   so that a peer that does not drain its socket cannot stop the others.
//! - In no time more is read for metered peers than the limit allows, one block and a quarter of a second ahead.
//! - Every admitted request ends in exactly one of: read (then sent or dropped by the driver), refused, dropped.

mod config;
mod pace;
mod sent;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use dhtfs_store::ContentCid;
use libp2p::PeerId;

use crate::core::{MAX_BLOCK_LEN, rate::Limits};

pub use config::ServeConfig;
use pace::Pace;
use sent::Sent;

/// What a request costs its peer in virtual time at least, in bytes: who asks for what is not here would otherwise always be
/// next, and every such question is a look into the database.
const MIN_COST: u64 = 16 * 1024;

/// Blocks of at most this length in bytes are small. A peer that was sent one is likely to want more of them.
const SMALL_LEN: u64 = 32 * 1024;

/// So many requests of a peer that was sent a small block are read together, for the price of one long block: handing over a
/// read costs more than a small block itself.
const MAX_TOGETHER: usize = 32;

/// Reads of such a peer under way at once. While it has as many, its requests gather.
const MAX_SMALL_READS: usize = 2;

/// Of a budget of at least so many bytes one block is kept for manifests.
const MIN_SHARED_LEN: u64 = 4 * MAX_BLOCK_LEN as u64;

/// Requests of a peer among which the next one is chosen.
const CHOSEN_AMONG: usize = 8;

/// Among more peers than this only the requests of one are compared.
const MAX_COMPARED: usize = 128;

/// A request that has waited so long is passed over no more. Whoever asked hears within a second or two from others that they
/// have the block now.
const PASSED_OVER: Duration = Duration::from_secs(4);

/// Names one request of a peer; the driver gives each request an id of its own, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServeId(pub u64);

/// The answer to a new request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Admit {
    /// It waits for its turn; an action will name it.
    Queued,
    /// Too much is waiting: answer Busy now. The machine has already forgotten the id.
    Busy,
}

/// What the driver is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServeAction {
    /// Read the content of this request, then report [`Serve::on_reads`] and, when it is handed to the socket,
    /// [`Serve::on_sent`]. If it is not here, answer Missing and report a length of 0.
    Read {
        /// The request.
        id: ServeId,
        /// Who asked.
        peer: PeerId,
        /// Whether it is read together with the one before: their contents have [`MAX_BLOCK_LEN`] bytes at most in all,
        /// and are reported at once.
        joins: bool,
    },
    /// It waited too long: answer Busy. The machine has already forgotten the id.
    Refuse {
        /// The request.
        id: ServeId,
        /// Who asked.
        peer: PeerId,
    },
}

/// Counters since the start, and what is going on now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServeStats {
    /// Requests answered with data.
    pub served: u64,
    /// Bytes of these answers.
    pub served_len: u64,
    /// Requests answered with Missing.
    pub missing: u64,
    /// Requests answered with Busy, at once or after waiting.
    pub busy: u64,
    /// Requests whose connection went away first.
    pub dropped: u64,
    /// Requests waiting now.
    pub queued: usize,
    /// Requests being read or sent now.
    pub in_flight: usize,
    /// Bytes of the budget in use now.
    pub budget_used_len: u64,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Queued,
    /// Being read, with so much of the budget for it and those that joined it, which have none. Whoever asked may be `gone`;
    /// the memory is needed all the same until the read ends.
    Reading {
        charge: u64,
        is_gone: bool,
    },
    /// Read, not yet handed to the socket.
    Read {
        len: u64,
    },
}

impl Stage {
    /// Bytes of the budget.
    fn charge(self) -> u64 {
        match self {
            Self::Queued => 0,
            Self::Reading { charge, .. } => charge,
            Self::Read { len } => len,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    peer: PeerId,
    cid: ContentCid,
    /// When it came.
    at: Instant,
    /// Whether it was read as the limit allowed.
    metered: bool,
    stage: Stage,
}

/// What one peer has waiting and in flight. Exists only while there is something.
#[derive(Debug, Default)]
struct PeerQueue {
    waiting: VecDeque<(ServeId, Instant)>,
    in_flight: usize,
    charged_len: u64,
    virtual_time: u64,
    /// Whether what it is sent counts towards the limits.
    metered: bool,
    /// Whether what was read for it last was small.
    small: bool,
    /// Reads under way, of one request or several together.
    reads: usize,
}

impl PeerQueue {
    /// Whether more should gather before the next read.
    fn gathers(&self) -> bool {
        self.small && self.reads >= MAX_SMALL_READS
    }
}

/// The machine. See the module's documentation.
#[derive(Debug)]
pub struct Serve {
    config: ServeConfig,
    requests: BTreeMap<ServeId, Entry>,
    peers: BTreeMap<PeerId, PeerQueue>,
    queued: usize,
    /// Reads under way for nobody.
    gone: usize,
    used_len: u64,
    /// Of these, for manifests.
    manifests_len: u64,
    /// Virtual time of the peer served last, of those without a limit and of those with one: where newcomers start. The two
    /// kinds are served at rates so different that one time would let one of them wait for hours. Without a limit there is
    /// one kind: see [`Self::kind`].
    virtual_now: [u64; 2],
    /// Of which kind that was: the other one is next.
    served_kind: usize,
    pace: Pace,
    sent: Sent,
    actions: VecDeque<ServeAction>,
    counters: ServeStats,
}

impl Serve {
    /// A machine with nothing to do.
    pub fn new(config: ServeConfig) -> Self {
        Self {
            config: config.clamped(),
            requests: BTreeMap::new(),
            peers: BTreeMap::new(),
            queued: 0,
            gone: 0,
            used_len: 0,
            manifests_len: 0,
            virtual_now: [0; 2],
            served_kind: 0,
            pace: Pace::new(),
            sent: Sent::default(),
            actions: VecDeque::new(),
            counters: ServeStats::default(),
        }
    }

    /// These limits hold from now on; [`ServeStats`] and the order of each peer's requests are as before.
    pub fn on_limits(&mut self, limits: &Limits, now: Instant) {
        let was_set = self.pace.is_set();
        self.pace.set(limits, now);
        if self.pace.is_set() != was_set {
            // The kinds part or join, and their times have nothing to do with each other: all begin anew.
            self.virtual_now = [0; 2];
            for queue in self.peers.values_mut() {
                queue.virtual_time = 0;
            }
        }
        self.pump(now);
    }

    /// A peer asks for this; if it is `metered`, the limits count for it.
    pub fn on_request(
        &mut self,
        peer: PeerId,
        id: ServeId,
        cid: ContentCid,
        metered: bool,
        now: Instant,
    ) -> Admit {
        let waiting = self.peers.get(&peer).map_or(0, |queue| queue.waiting.len());
        if waiting >= self.config.max_queued_per_peer
            || self.queued >= self.config.max_queued
            || self.requests.contains_key(&id)
        {
            self.counters.busy += 1;
            return Admit::Busy;
        }
        let (start, kind) = (self.start(metered), self.kind(metered));
        let was_kind = self.peers.get(&peer).map(|queue| self.kind(queue.metered));
        let queue = self.peers.entry(peer).or_default();
        if was_kind != Some(kind) {
            queue.virtual_time = start;
        }
        queue.waiting.push_back((id, now));
        queue.metered = metered;
        self.queued += 1;
        self.requests.insert(id, Entry { peer, cid, at: now, metered, stage: Stage::Queued });
        self.pump(now);
        Admit::Queued
    }

    /// With whom a peer shares: with a limit those that count towards it are among themselves, without one all are alike.
    fn kind(&self, metered: bool) -> usize {
        usize::from(metered && self.pace.is_set())
    }

    /// Where a newcomer starts: with those of its kind that wait, so that who goes and comes again is not before them.
    fn start(&self, metered: bool) -> u64 {
        let kind = self.kind(metered);
        let waiting = self.peers.values().filter(|queue| !queue.waiting.is_empty());
        let of_kind = waiting.filter(|queue| self.kind(queue.metered) == kind);
        let least = of_kind.map(|queue| queue.virtual_time).min().unwrap_or(0);
        self.virtual_now[kind].max(least)
    }

    /// The contents of requests that were read together: the length of each in bytes, 0 if it is not here, `None` if it was
    /// not read because it was too long to join the others. That one waits again, before all others of its peer.
    pub fn on_reads(&mut self, reads: &[(ServeId, Option<u32>)], now: Instant) {
        // In turn from behind: of those that wait again the first one is then the first again.
        for (id, len) in reads.iter().rev() {
            self.on_one_read(*id, *len, now);
        }
        self.pump(now);
    }

    fn on_one_read(&mut self, id: ServeId, len: Option<u32>, now: Instant) {
        let Some(entry) = self.requests.get_mut(&id) else { return };
        let Entry { peer, cid, at, metered, stage: Stage::Reading { charge, is_gone } } = *entry else {
            return;
        };
        let read_len = u64::from(len.unwrap_or(0)).min(u64::from(MAX_BLOCK_LEN));
        let waits_again = len.is_none() && !is_gone;
        entry.stage = if waits_again { Stage::Queued } else { Stage::Read { len: read_len } };
        self.used_len = self.used_len + read_len - charge;
        if is_manifest(&cid) {
            self.manifests_len = self.manifests_len + read_len - charge;
        }
        if read_len > 0 && !is_gone {
            self.sent.note(cid, now);
        }
        if metered {
            self.pace.on_read(charge, read_len, now);
        }
        if let Some(queue) = self.peers.get_mut(&peer) {
            let cost = if len.is_some() { read_len.max(MIN_COST) } else { 0 };
            queue.charged_len = queue.charged_len + read_len - charge;
            queue.reads -= usize::from(charge > 0);
            queue.virtual_time = (queue.virtual_time + cost).saturating_sub(charge);
            queue.small = if read_len == 0 { queue.small && len.is_some() } else { read_len <= SMALL_LEN };
            if waits_again {
                queue.in_flight -= 1;
                queue.waiting.push_front((id, at));
                self.queued += 1;
            }
        }
        if is_gone {
            self.gone -= 1;
            self.forget_unsent(id, now);
        }
    }

    /// Whether it has not ended yet.
    pub fn is_open(&self, id: ServeId) -> bool {
        self.requests.contains_key(&id)
    }

    /// The answer to a request has been handed to the socket.
    pub fn on_sent(&mut self, id: ServeId, now: Instant) {
        match self.requests.get(&id).map(|entry| entry.stage) {
            Some(Stage::Read { len }) => {
                self.remove(id);
                self.counters.missing += u64::from(len == 0);
                self.counters.served += u64::from(len > 0);
                self.counters.served_len += len;
            }
            // Sent before it was read: nothing was.
            Some(Stage::Queued | Stage::Reading { .. }) => self.on_dropped(id, now),
            None => {}
        }
        self.pump(now);
    }

    /// The request can no longer be answered: its stream or connection is gone. What is being read keeps its part of the
    /// budget until the read ends.
    pub fn on_dropped(&mut self, id: ServeId, now: Instant) {
        match self.requests.get_mut(&id).map(|entry| &mut entry.stage) {
            Some(Stage::Reading { is_gone: true, .. }) | None => {}
            Some(Stage::Reading { is_gone, .. }) => {
                *is_gone = true;
                self.gone += 1;
                self.counters.dropped += 1;
            }
            Some(Stage::Queued | Stage::Read { .. }) => {
                // What was read for somebody counts as sent, and nothing else does.
                if let Some(Entry { cid, stage: Stage::Read { len: 1.. }, .. }) = self.requests.get(&id) {
                    self.sent.forget(cid);
                }
                self.forget_unsent(id, now);
                self.counters.dropped += 1;
            }
        }
        self.pump(now);
    }

    /// Forgets what nobody was sent, or not all of: others may have what it took of the limit. Whoever writes keeps to the
    /// limit too.
    fn forget_unsent(&mut self, id: ServeId, now: Instant) {
        let metered = self.requests.get(&id).is_some_and(|entry| entry.metered);
        if let Some(Stage::Read { len }) = self.remove(id)
            && metered
        {
            self.pace.on_shorter(len, now);
        }
    }

    /// Whoever asked wants it no more. True if its turn had not come: then the machine has forgotten the id. What is
    /// being read or sent ends as if nothing had been said.
    #[must_use]
    pub fn on_cancelled(&mut self, id: ServeId, now: Instant) -> bool {
        let waits = self.requests.get(&id).is_some_and(|entry| matches!(entry.stage, Stage::Queued));
        if waits {
            self.on_dropped(id, now);
        }
        waits
    }

    /// Refuses what has waited too long: whoever asked has given up on it or asked elsewhere.
    pub fn on_timeout(&mut self, now: Instant) {
        let mut late = Vec::new();
        for (peer, queue) in &self.peers {
            let expired = queue.waiting.iter().take_while(|(_, at)| *at + self.config.max_queue_time <= now);
            late.extend(expired.map(|(id, _)| (*peer, *id)));
        }
        for (peer, id) in late {
            self.remove(id);
            self.counters.busy += 1;
            self.actions.push_back(ServeAction::Refuse { id, peer });
        }
        self.pump(now);
    }

    /// The next thing to do; call until `None` after every input.
    pub fn next_action(&mut self) -> Option<ServeAction> {
        self.actions.pop_front()
    }

    /// When the oldest waiting request has to be refused, or the limit lets the next one go.
    pub fn next_deadline(&self) -> Option<Instant> {
        let oldest = self.peers.values().filter_map(|queue| queue.waiting.front()).map(|(_, at)| *at).min();
        let refused_at = oldest.map(|at| at + self.config.max_queue_time);
        refused_at.into_iter().chain(self.pace.held_until).min()
    }

    /// Counters since the start, and what is going on now.
    pub fn stats(&self) -> ServeStats {
        ServeStats {
            queued: self.queued,
            in_flight: self.requests.len() - self.queued - self.gone,
            budget_used_len: self.used_len,
            ..self.counters
        }
    }

    /// Panics if the books do not balance or a limit is exceeded.
    pub fn check_invariants(&self) {
        self.sent.check_invariants();
        let mut gone = 0;
        let mut per_peer: BTreeMap<PeerId, (usize, usize, u64)> = BTreeMap::new();
        for entry in self.requests.values() {
            let sums = per_peer.entry(entry.peer).or_default();
            sums.2 += entry.stage.charge();
            match entry.stage {
                Stage::Queued => sums.0 += 1,
                Stage::Reading { is_gone, .. } => {
                    gone += usize::from(is_gone);
                    sums.1 += 1;
                }
                Stage::Read { .. } => sums.1 += 1,
            }
        }
        let used: u64 = per_peer.values().map(|sums| sums.2).sum();
        assert_eq!(gone, self.gone, "reads for nobody");
        assert_eq!(used, self.used_len, "budget in use");
        let manifests = self.requests.values().filter(|entry| is_manifest(&entry.cid));
        assert_eq!(manifests.map(|entry| entry.stage.charge()).sum::<u64>(), self.manifests_len, "manifests");
        assert!(used <= self.config.budget_len, "the budget is exceeded");
        assert_eq!(per_peer.values().map(|sums| sums.0).sum::<usize>(), self.queued, "queued");
        let again = self.peers.len() * MAX_SMALL_READS * MAX_TOGETHER;
        assert!(self.queued <= self.config.max_queued + again, "too many are queued");
        assert!(self.peers.keys().eq(per_peer.keys()), "peers with nothing are forgotten");
        for (peer, queue) in &self.peers {
            let found = (queue.waiting.len(), queue.in_flight, queue.charged_len);
            assert_eq!(Some(&found), per_peer.get(peer), "sums of one peer");
            let reading = |entry: &&Entry| matches!(entry.stage, Stage::Reading { charge: 1.., .. });
            let reads = self.requests.values().filter(|entry| entry.peer == *peer).filter(reading).count();
            assert_eq!(reads, queue.reads, "reads of one peer");
            let most = self.config.max_queued_per_peer + MAX_SMALL_READS * MAX_TOGETHER;
            assert!(queue.waiting.len() <= most, "one peer has too many queued");
        }
        if self.requests.len() == self.queued {
            let is_held = self.pace.held_until.is_some();
            assert!(is_held || self.queued == 0, "nothing is in flight, yet requests wait");
        }
    }

    /// Gives the budget out while it has room for one more block, as the limit allows.
    fn pump(&mut self, now: Instant) {
        loop {
            let held_until = self.pace.free_at(now);
            let Some(peer) = self.pick(held_until.is_some(), now) else {
                self.pace.held_until = held_until.filter(|_| self.candidates(false).next().is_some());
                return;
            };
            self.read_next(peer, now);
        }
    }

    /// Has the next requests of this peer read, for the price of one block.
    fn read_next(&mut self, peer: PeerId, now: Instant) {
        let first = self.chosen_of(peer, now);
        let Some(queue) = self.peers.get_mut(&peer) else { return };
        let charge = u64::from(MAX_BLOCK_LEN);
        let count = if queue.small { queue.waiting.len().min(MAX_TOGETHER) } else { 1 };
        let (metered, served_at) = (queue.metered, queue.virtual_time);
        queue.virtual_time += charge;
        queue.charged_len += charge;
        queue.in_flight += count;
        queue.reads += 1;
        self.queued -= count;
        self.used_len += charge;
        for place in 0..count {
            let joins = place > 0;
            let Some((id, _)) = queue.waiting.remove(if joins { 0 } else { first }) else { break };
            if let Some(entry) = self.requests.get_mut(&id) {
                entry.metered = metered;
                entry.stage = Stage::Reading { charge: if joins { 0 } else { charge }, is_gone: false };
                self.manifests_len += if is_manifest(&entry.cid) { entry.stage.charge() } else { 0 };
            }
            self.actions.push_back(ServeAction::Read { id, peer, joins });
        }
        let kind = self.kind(metered);
        self.virtual_now[kind] = self.virtual_now[kind].max(served_at);
        self.served_kind = kind;
        if metered {
            self.pace.on_release(now);
        }
    }

    /// Whether this peer waits for a block that was sent to nobody lately, as far as that is known of what it asks for.
    fn asks_for_new(&self, queue: &PeerQueue, now: Instant) -> bool {
        let is_new = |(id, _): &(ServeId, Instant)| {
            self.requests.get(id).is_none_or(|entry| self.sent.times(&entry.cid, now) == 0)
        };
        !queue.small && queue.waiting.iter().take(CHOSEN_AMONG).any(is_new)
    }

    /// Whether this peer waits for a manifest, and everything else it is going to ask for with it.
    fn is_manifest_next(&self, queue: &PeerQueue) -> bool {
        let next = queue.waiting.front().and_then(|(id, _)| self.requests.get(id));
        next.is_some_and(|entry| is_manifest(&entry.cid))
    }

    /// Which of the requests of this peer is next.
    fn chosen_of(&self, peer: PeerId, now: Instant) -> usize {
        let Some(queue) = self.peers.get(&peer).filter(|_| self.peers.len() > 1) else { return 0 };
        let has_waited = queue.waiting.front().is_some_and(|(_, at)| *at + PASSED_OVER <= now);
        if has_waited || queue.small || self.is_manifest_next(queue) {
            return 0;
        }
        let times = |id: &ServeId| self.requests.get(id).map_or(0, |entry| self.sent.times(&entry.cid, now));
        let waiting = queue.waiting.iter().take(CHOSEN_AMONG).enumerate();
        waiting.min_by_key(|(place, (id, _))| (times(id), *place)).map_or(0, |(place, _)| place)
    }

    /// Those that wait and have not used up their share, with the request that has waited longest; if the limit is `held`, only
    /// those that do not count towards it.
    fn candidates(
        &self,
        held: bool,
    ) -> impl Iterator<Item = (&PeerId, &PeerQueue, (ServeId, Instant))> + Clone {
        let block = u64::from(MAX_BLOCK_LEN);
        let left = if self.queued > 0 { self.config.budget_len - self.used_len } else { 0 };
        let kept = if self.config.budget_len >= MIN_SHARED_LEN { block } else { 0 };
        let kept = kept.saturating_sub(self.manifests_len);
        let has_room =
            move |queue: &PeerQueue| left >= block && (left - block >= kept || self.is_manifest_next(queue));
        let peers = u64::try_from(self.peers.len()).unwrap_or(u64::MAX - 1);
        let share = (self.config.budget_len / (peers + 1)).max(block);
        self.peers
            .iter()
            .filter(move |(_, queue)| has_room(queue) && !(held && queue.metered || queue.gathers()))
            .filter(move |(_, queue)| {
                queue.charged_len < if queue.metered { self.pace.share(share) } else { share }
            })
            .filter_map(|(peer, queue)| Some((peer, queue, *queue.waiting.front()?)))
    }

    /// The candidate with the least virtual time, first of the kind that was not served last, and among those who ask for a
    /// block that nobody was sent lately. Of equal ones the one that has waited longest.
    fn pick(&self, held: bool, now: Instant) -> Option<PeerId> {
        let mut some_new = [false; 2];
        if (2..=MAX_COMPARED).contains(&self.peers.len()) {
            for (_, queue, _) in self.candidates(held) {
                let kind = self.kind(queue.metered);
                some_new[kind] = some_new[kind] || self.asks_for_new(queue, now);
            }
        }
        let order = |(peer, queue, (id, at)): (&PeerId, &PeerQueue, (ServeId, Instant))| {
            let kind = self.kind(queue.metered);
            let may_wait = some_new[kind] && !queue.small && at + PASSED_OVER > now;
            let lets_go_first = may_wait && !self.asks_for_new(queue, now);
            (kind == self.served_kind, lets_go_first, queue.virtual_time, at, *peer, id)
        };
        self.candidates(held).map(order).min().map(|(.., peer, _)| peer)
    }

    fn remove(&mut self, id: ServeId) -> Option<Stage> {
        let entry = self.requests.remove(&id)?;
        if let Some(queue) = self.peers.get_mut(&entry.peer) {
            if let Stage::Queued = entry.stage {
                queue.waiting.retain(|(waiting, _)| *waiting != id);
                self.queued -= 1;
            } else {
                queue.in_flight -= 1;
            }
            queue.charged_len -= entry.stage.charge();
            self.used_len -= entry.stage.charge();
            self.manifests_len -= if is_manifest(&entry.cid) { entry.stage.charge() } else { 0 };
            if queue.waiting.is_empty() && queue.in_flight == 0 {
                self.peers.remove(&entry.peer);
            }
        }
        Some(entry.stage)
    }
}

fn is_manifest(cid: &ContentCid) -> bool {
    matches!(cid, ContentCid::Manifest(_))
}
