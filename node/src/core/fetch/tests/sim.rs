//! A small deterministic world around one fetch: peers with rates, losses and lies, in virtual time.
//!
//! The world keeps books of its own (what is in flight to whom, the budget, who said Missing when) and compares
//! every action with them, so that the machine's rules are checked from outside as well.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use dhtfs_store::{ChunkCid, ChunkSet, ContentCid, ManifestCid};
use libp2p::{PeerId, multihash::Multihash};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::super::*;
use crate::core::MAX_BLOCK_LEN;

pub(super) const MIB: u32 = 1 << 20;

/// A digest that only this number has.
fn digest(kind: u8, n: u32) -> [u8; 32] {
    let mut digest = [kind; 32];
    digest[..4].copy_from_slice(&n.to_be_bytes());
    digest
}

pub(super) fn chunk(n: u32) -> ContentCid {
    ChunkCid::from_digest(digest(1, n)).into()
}

pub(super) fn manifest(n: u32) -> ContentCid {
    ManifestCid::from_digest(digest(2, n)).into()
}

pub(super) fn root() -> ContentCid {
    manifest(u32::MAX)
}

pub(super) fn peer(n: usize) -> PeerId {
    let code = u64::try_from(n).unwrap().to_be_bytes();
    PeerId::from_multihash(Multihash::wrap(0, &code).unwrap()).unwrap()
}

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// What a peer of the world is and does.
#[derive(Debug, Clone)]
pub(super) struct Host {
    /// Bytes a second it sends, all requests after each other.
    pub(super) rate: u32,
    /// Time from request to the first byte.
    pub(super) latency: Duration,
    /// Positions it holds; the root and the manifests count before the chunks.
    pub(super) holds: BTreeSet<usize>,
    /// It is found by a lookup of the root.
    pub(super) announces_root: bool,
    /// It is found by lookups of what it holds.
    pub(super) announces_chunks: bool,
    pub(super) dial_time: Duration,
    /// Dials that fail, per thousand.
    pub(super) dial_fails: u32,
    /// Answers per thousand that fail in the transport, carry garbage, say Busy, or never come.
    pub(super) fails: u32,
    pub(super) garbage: u32,
    pub(super) busy: u32,
    pub(super) stalls: u32,
    /// When it goes and when it comes back.
    pub(super) dies: Option<Duration>,
    pub(super) returns: Option<Duration>,
    /// It obtains the next position it lacks in each such time.
    pub(super) grows: Option<Duration>,
    /// Whether it tells what it holds.
    pub(super) maps: Tells,
}

/// What a peer tells when it is asked for its map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tells {
    /// It does not speak the protocol.
    Nothing,
    Truth,
    /// That it holds everything.
    All,
    /// That it holds every other chunk.
    Half,
}

impl Host {
    /// An honest peer with a fast link that holds nothing yet.
    pub(super) fn new() -> Self {
        Self {
            rate: 50 * MIB,
            latency: ms(10),
            holds: BTreeSet::new(),
            announces_root: true,
            announces_chunks: true,
            dial_time: ms(20),
            dial_fails: 0,
            fails: 0,
            garbage: 0,
            busy: 0,
            stalls: 0,
            dies: None,
            returns: None,
            grows: None,
            maps: Tells::Nothing,
        }
    }

    pub(super) fn holding(mut self, positions: impl IntoIterator<Item = usize>) -> Self {
        self.holds = positions.into_iter().collect();
        self
    }
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Provider(ContentCid, usize),
    LookupDone(ContentCid),
    Dialled(usize, bool),
    Answer(RequestId, Answer),
    /// The first byte of a block is here, or of a part of it.
    Begun(RequestId),
    Part(RequestId),
    /// One half of it.
    Half(RequestId),
    /// No more of a block comes than so many bytes.
    Cut(RequestId, u32),
    Verified(RequestId, bool),
    Dies(usize),
    Returns(usize),
    Grows(usize),
    Have(HaveId, usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Data { good: bool },
    Missing,
    Busy,
    Failed,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    host: usize,
    position: usize,
    max_len: u32,
    received: bool,
    /// When the peer begins to send it, and when it has sent it.
    sends: Option<(Instant, Instant)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Finished,
    Failed(FetchFailure),
}

/// How the content is given to the fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    /// The root first, then the child manifests, then the chunks in batches.
    Tree,
    /// The manifests are known: chunks only, all at once.
    Chunks,
}

pub(super) struct World {
    pub(super) fetch: Fetch,
    pub(super) config: FetchConfig,
    pub(super) hosts: Vec<Host>,
    pub(super) start: Instant,
    pub(super) now: Instant,
    /// Everything there is: root, manifests, chunks.
    pub(super) content: Vec<Want>,
    pub(super) manifests: usize,
    pub(super) requested: Vec<u32>,
    pub(super) last_progress: Instant,
    pub(super) lookups: BTreeMap<ContentCid, u32>,
    /// Check the machine's own books in each so many steps.
    pub(super) check_every: usize,
    pub(super) steps: usize,
    /// Time to verify and store a block.
    pub(super) verify_time: Duration,
    /// Whether forgotten requests without a lane are cancelled; else their answers come and must be refused.
    pub(super) cancels: bool,
    pub(super) bytes_sent: u64,
    /// Answers of Missing.
    pub(super) missed: u32,
    /// Who tells what it holds, and what it told last.
    listening: BTreeMap<HaveId, (usize, BTreeSet<u32>)>,
    forgotten: BTreeMap<RequestId, Open>,
    rng: StdRng,
    positions: HashMap<ContentCid, usize>,
    numbers: HashMap<PeerId, usize>,
    given: usize,
    queue: BTreeMap<(Instant, u64), Event>,
    sequence: u64,
    alive: Vec<bool>,
    connected: Vec<bool>,
    link_free: Vec<Instant>,
    strikes: Vec<u32>,
    /// Bytes that each peer served, and of bad blocks that it sent.
    good_len: Vec<u64>,
    bad_len: Vec<u64>,
    /// Bytes given to the fetch while it ran, and those of them that were not kept.
    received_len: u64,
    wasted_len: u64,
    open: BTreeMap<RequestId, Open>,
    missing_since: BTreeMap<(usize, usize), Instant>,
    stored: Vec<bool>,
    /// In order: verified and not yet consumed.
    unread: BTreeMap<usize, RequestId>,
    end: Option<End>,
}

/// Content of `manifests` child manifests (and a root) and `chunks` chunks, the last of them short.
pub(super) fn content(manifests: usize, chunks: usize) -> Vec<Want> {
    let mut content = vec![Want { cid: root(), len: None, place: None }];
    content.extend((0..manifests).map(|n| Want {
        cid: manifest(u32::try_from(n).unwrap()),
        len: None,
        place: None,
    }));
    content.extend((0..chunks).map(|n| {
        let len = if n + 1 == chunks { MIB / 3 } else { MIB };
        Want { cid: chunk(u32::try_from(n).unwrap()), len: Some(len), place: Some(u32::try_from(n).unwrap()) }
    }));
    content
}

/// Bytes of a block between two points at which it may be cut.
const PIECE_LEN: u32 = 128 << 10;

/// Half of the hosts have lanes, on which more small requests may be in flight.
fn has_lane(host: usize) -> bool {
    host.is_multiple_of(2)
}

impl World {
    pub(super) fn new(
        config: FetchConfig,
        seed: u64,
        manifests: usize,
        chunks: usize,
        hosts: Vec<Host>,
    ) -> Self {
        let start = Instant::now();
        let content = content(manifests, chunks);
        let positions = content.iter().enumerate().map(|(position, want)| (want.cid, position)).collect();
        let count = hosts.len();
        let mut world = Self {
            fetch: Fetch::new(config, root(), seed, start),
            config: config.clamped(),
            start,
            now: start,
            manifests: manifests + 1,
            requested: vec![0; content.len()],
            last_progress: start,
            lookups: BTreeMap::new(),
            check_every: 1,
            steps: 0,
            verify_time: ms(2),
            cancels: seed.is_multiple_of(2),
            bytes_sent: 0,
            missed: 0,
            listening: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
            positions,
            numbers: (0..count).map(|n| (peer(n), n)).collect(),
            given: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            alive: vec![true; count],
            connected: vec![false; count],
            link_free: vec![start; count],
            strikes: vec![0; count],
            good_len: vec![0; count],
            bad_len: vec![0; count],
            received_len: 0,
            wasted_len: 0,
            open: BTreeMap::new(),
            missing_since: BTreeMap::new(),
            stored: vec![false; content.len()],
            unread: BTreeMap::new(),
            end: None,
            content,
            hosts,
        };
        for n in 0..count {
            let Host { dies, returns, grows, .. } = world.hosts[n].clone();
            for (after, event) in
                [(dies, Event::Dies(n)), (returns, Event::Returns(n)), (grows, Event::Grows(n))]
            {
                if let Some(after) = after {
                    world.after(after, event);
                }
            }
        }
        world
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + delay, self.sequence), event);
    }

    fn chance(&mut self, per_thousand: u32) -> bool {
        per_thousand > 0 && self.rng.random_range(0..1000) < per_thousand
    }

    /// Positions that are not stored.
    pub(super) fn missing(&self) -> usize {
        self.stored[..self.given].iter().filter(|stored| !**stored).count()
    }

    /// Stored positions before the fetch begins: nobody need send them.
    pub(super) fn begin(&mut self, given: Given, have: &BTreeSet<usize>) {
        if given == Given::Chunks {
            self.stored[..self.manifests].fill(true);
        }
        for position in have {
            self.stored[*position] = true;
        }
        self.give_more();
        self.drain();
    }

    /// Gives the next batch of wants once what it follows from is stored.
    fn give_more(&mut self) {
        let known = self.stored.iter().take(self.manifests).take_while(|stored| **stored).count();
        let end = match known {
            0 => 1,
            known if known < self.manifests => self.manifests,
            _ => self.content.len(),
        };
        if end > self.given {
            let batch: Vec<Want> = (self.given..end)
                .filter(|position| !self.stored[*position])
                .map(|p| self.content[p])
                .collect();
            self.given = end;
            self.last_progress = self.now;
            if end == self.content.len() {
                self.fetch.on_content(self.chunk_count(), self.now);
            }
            self.fetch.on_wants(batch, self.now);
            if end == self.content.len() {
                self.fetch.on_wants_complete(self.now);
            }
        }
    }

    /// Runs until the fetch ends. Panics when it takes longer than `limit` or more steps than a fetch may need.
    pub(super) fn run(&mut self, limit: Duration) -> End {
        let mut idle_timeouts = 0;
        while self.end.is_none() {
            self.steps += 1;
            let event_at = self.queue.first_key_value().map(|((at, _), _)| *at);
            let deadline = self.fetch.next_deadline();
            let next = event_at.into_iter().chain(deadline).min().expect("something goes on until the end");
            assert!(next <= self.start + limit, "not finished after {limit:?}: {:?}", self.fetch.progress());
            if next > self.now {
                self.now = next;
                idle_timeouts = 0;
            }
            if event_at.is_some_and(|at| at <= self.now) {
                let (_, event) = self.queue.pop_first().unwrap();
                self.apply(event);
            } else {
                idle_timeouts += 1;
                assert!(idle_timeouts < 200, "a deadline that never goes away");
                self.fetch.on_timeout(self.now);
            }
            self.drain();
        }
        let progress = self.fetch.progress();
        assert_eq!(progress.received_len, self.received_len, "bytes received");
        assert_eq!(progress.wasted_len, self.wasted_len, "bytes wasted");
        self.end.unwrap()
    }

    fn apply(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Provider(cid, host) => {
                let position = self.positions[&cid];
                self.missing_since.remove(&(host, position));
                self.fetch.on_provider(cid, peer(host), now);
            }
            Event::LookupDone(cid) => self.fetch.on_lookup_done(cid, now),
            Event::Dialled(host, true) if self.alive[host] => {
                self.connected[host] = true;
                self.fetch.on_connected(peer(host), now);
                self.fetch.on_lane(&peer(host), has_lane(host), now);
            }
            Event::Dialled(host, _) => self.fetch.on_dial_failed(peer(host), now),
            Event::Answer(id, answer) => self.answer(id, answer),
            Event::Begun(id) => self.fetch.on_begun(id, now),
            Event::Part(id) => self.fetch.on_part(id, now),
            Event::Half(id) => self.fetch.on_half(id, now),
            Event::Cut(id, came_len) => {
                self.received_len += u64::from(came_len);
                self.wasted_len += u64::from(came_len);
                self.fetch.on_cancelled(id, came_len, now);
            }
            Event::Verified(id, good) => self.verified(id, good),
            Event::Dies(host) => {
                self.alive[host] = false;
                if std::mem::take(&mut self.connected[host]) {
                    self.fetch.on_lane(&peer(host), false, now);
                    self.fetch.on_disconnected(peer(host), now);
                }
            }
            Event::Returns(host) => {
                self.alive[host] = true;
                self.link_free[host] = now;
            }
            Event::Grows(host) => {
                let lacking =
                    (0..self.content.len()).find(|position| !self.hosts[host].holds.contains(position));
                self.hosts[host].holds.extend(lacking);
                if let (Some(_), Some(grows)) = (lacking, self.hosts[host].grows) {
                    self.after(grows, Event::Grows(host));
                }
                let told: Vec<HaveId> =
                    self.listening.iter().filter(|(_, (to, _))| *to == host).map(|(id, _)| *id).collect();
                for id in told {
                    self.after(ms(200), Event::Have(id, host));
                }
            }
            Event::Have(id, host) => self.tell(id, host),
        }
    }

    /// An answer reaches us, unless the connection broke or the request was cancelled.
    fn answer(&mut self, id: RequestId, answer: Answer) {
        let now = self.now;
        let Some(open) = self.open.get(&id).copied() else {
            if let Some(open) = self.forgotten.remove(&id) {
                self.forgotten_answer(id, open, answer);
            }
            return;
        };
        match answer {
            Answer::Data { good } => {
                let len = self.len_of(open.position);
                self.received_len += u64::from(len);
                if self.fetch.on_block(id, len, now) {
                    self.open.get_mut(&id).unwrap().received = true;
                    self.after(self.verify_time, Event::Verified(id, good));
                } else {
                    self.wasted_len += u64::from(len);
                    self.open.remove(&id);
                }
            }
            Answer::Missing => {
                self.missed += 1;
                self.open.remove(&id);
                self.missing_since.insert((open.host, open.position), now);
                self.fetch.on_missing(id, now);
            }
            Answer::Busy => {
                self.open.remove(&id);
                self.fetch.on_busy(id, now);
            }
            Answer::Failed => {
                self.open.remove(&id);
                self.fetch.on_failed(id, now);
            }
        }
    }

    /// The answer to a request that was forgotten and could not be cancelled.
    fn forgotten_answer(&mut self, id: RequestId, open: Open, answer: Answer) {
        match answer {
            Answer::Data { good } => {
                let len = self.len_of(open.position);
                self.received_len += u64::from(len);
                self.wasted_len += u64::from(len);
                let is_judged = self.fetch.is_late(id, len) && !good;
                assert!(!self.fetch.on_block(id, len, self.now), "a forgotten block is taken");
                if is_judged {
                    self.strikes[open.host] += 1;
                    self.bad_len[open.host] += u64::from(len);
                    let (host, cid) = (peer(open.host), self.content[open.position].cid);
                    self.fetch.on_bad_late(host, cid, len, self.now);
                }
            }
            Answer::Missing => self.fetch.on_missing(id, self.now),
            Answer::Busy => self.fetch.on_busy(id, self.now),
            Answer::Failed => self.fetch.on_failed(id, self.now),
        }
    }

    fn len_of(&self, position: usize) -> u32 {
        self.content[position].len.unwrap_or(1000)
    }

    /// Whether the peer must never be asked again.
    fn is_banned(&self, host: usize) -> bool {
        self.strikes[host] >= MAX_STRIKES || self.bad_len[host] > self.good_len[host]
    }

    fn verified(&mut self, id: RequestId, good: bool) {
        let Some(open) = self.open.get(&id).copied() else { return };
        let len = u64::from(self.len_of(open.position));
        if !good {
            self.open.remove(&id);
            self.strikes[open.host] += 1;
            // What was served after a ban makes up for nothing.
            self.bad_len[open.host] += len;
            self.wasted_len += len;
            self.missing_since.insert((open.host, open.position), self.now);
            self.fetch.on_bad(id, self.now);
            return;
        }
        if !self.is_banned(open.host) {
            self.good_len[open.host] += len;
        }
        if self.config.order == Order::Spread || open.position < self.manifests {
            self.store(id, open.position);
        } else {
            self.unread.insert(open.position, id);
            self.fetch.on_verified(id, self.now);
            self.drain();
            self.read();
        }
    }

    /// Consumes what is next in order.
    fn read(&mut self) {
        while let Some(next) = (0..self.given).find(|position| !self.stored[*position])
            && let Some(id) = self.unread.remove(&next)
        {
            self.store(id, next);
        }
    }

    fn store(&mut self, id: RequestId, position: usize) {
        self.open.remove(&id);
        assert!(!std::mem::replace(&mut self.stored[position], true), "stored twice");
        self.last_progress = self.now;
        self.fetch.on_stored(id, self.now);
        self.drain();
        self.give_more();
    }

    /// Carries out all actions, comparing each with the world's own books.
    pub(super) fn drain(&mut self) {
        while let Some(action) = self.fetch.next_action() {
            assert_eq!(self.end, None, "{action:?} after the end");
            match action {
                Action::Lookup(cid) => self.look_up(cid),
                Action::CancelLookup(_) => {}
                Action::AskHave { id, peer } => self.ask_have(id, peer),
                Action::EndHave(id) => drop(self.listening.remove(&id)),
                Action::Dial(id) => self.dial(id),
                Action::Request { id, peer, cid, max_len } => self.request(id, peer, cid, max_len),
                Action::Forget(id) => {
                    let open = self.open.remove(&id).expect("only open requests are forgotten");
                    let is_gone = if has_lane(open.host) { self.cut(id, open) } else { self.cancels };
                    if !is_gone {
                        self.forgotten.insert(id, open);
                    }
                }
                Action::Finished => {
                    assert!(self.stored.iter().all(|stored| *stored), "finished with something missing");
                    self.end = Some(End::Finished);
                }
                Action::Failed(failure) => {
                    assert!(self.now >= self.last_progress + self.config.no_progress, "failed too early");
                    self.end = Some(End::Failed(failure));
                }
            }
        }
        // On a lane a manifest takes less of the budget.
        let used_by = |open: &Open| match self.content[open.position].len {
            None if has_lane(open.host) => open.max_len.min(128 << 10),
            _ => open.max_len,
        };
        let used: u64 = self.open.values().map(|open| u64::from(used_by(open))).sum();
        assert!(used <= self.config.budget_len, "budget exceeded: {used}");
        if self.steps.is_multiple_of(self.check_every) {
            self.fetch.check_invariants();
        }
    }

    fn chunk_count(&self) -> u32 {
        u32::try_from(self.content.len() - self.manifests).unwrap()
    }

    fn ask_have(&mut self, id: HaveId, to: PeerId) {
        let host = self.numbers[&to];
        assert!(self.connected[host], "a question to a peer that is not connected");
        self.listening.insert(id, (host, BTreeSet::new()));
        let delay = self.hosts[host].latency * 2;
        self.after(delay, Event::Have(id, host));
    }

    /// A peer tells what it holds, or what it has got since.
    fn tell(&mut self, id: HaveId, host: usize) {
        let count = self.chunk_count();
        let held = |position: &usize| Some(u32::try_from(position.checked_sub(self.manifests)?).unwrap());
        let set = |held: &BTreeSet<u32>| {
            let mut set = ChunkSet::new(count);
            held.iter().for_each(|place| assert!(set.insert(*place)));
            set
        };
        let Some((_, told)) = self.listening.get(&id) else { return };
        let now_held: BTreeSet<u32> = match self.hosts[host].maps {
            Tells::Nothing => {
                self.listening.remove(&id);
                return self.fetch.on_map_end(id, HaveEnd::Refused, self.now);
            }
            Tells::Truth => self.hosts[host].holds.iter().filter_map(held).collect(),
            Tells::All => (0..count).collect(),
            Tells::Half => (0..count).step_by(2).collect(),
        };
        for place in now_held.difference(told) {
            // It has it now, or says so: it may be asked at once.
            self.missing_since.remove(&(host, self.manifests + *place as usize));
        }
        let update = if now_held.len() == count as usize {
            HaveUpdate::All
        } else if told.is_empty() {
            HaveUpdate::Map(set(&now_held))
        } else {
            HaveUpdate::More(set(&now_held.difference(told).copied().collect()))
        };
        if update == HaveUpdate::All {
            self.listening.remove(&id);
        } else {
            self.listening.insert(id, (host, now_held));
        }
        self.fetch.on_map(id, update, self.now);
    }

    fn look_up(&mut self, cid: ContentCid) {
        *self.lookups.entry(cid).or_default() += 1;
        let position = self.positions[&cid];
        for host in 0..self.hosts.len() {
            let announces = if cid == root() {
                self.hosts[host].announces_root
            } else {
                self.hosts[host].announces_chunks
            };
            if announces && (cid == root() || self.hosts[host].holds.contains(&position)) {
                let delay = ms(self.rng.random_range(20..200));
                self.after(delay, Event::Provider(cid, host));
            }
        }
        self.after(ms(300), Event::LookupDone(cid));
    }

    fn dial(&mut self, id: PeerId) {
        let host = self.numbers[&id];
        assert!(!self.is_banned(host), "dials a banned peer");
        let fails = self.hosts[host].dial_fails;
        let works = self.alive[host] && !self.chance(fails);
        let time = if works || self.alive[host] { self.hosts[host].dial_time } else { secs(5) };
        self.after(time, Event::Dialled(host, works));
    }

    fn request(&mut self, id: RequestId, to: PeerId, cid: ContentCid, max_len: u32) {
        let host = self.numbers[&to];
        let position = self.positions[&cid];
        assert!(self.connected[host], "a request to a peer that is not connected");
        assert!(!self.is_banned(host), "a request to a banned peer");
        assert!(!self.stored[position], "a request for what is stored");
        assert_eq!(max_len, self.content[position].len.unwrap_or(MAX_BLOCK_LEN));
        if let Some(since) = self.missing_since.get(&(host, position)) {
            assert!(self.now >= *since + self.config.recheck.base, "asked again for what it lacks");
        }
        let copies: Vec<_> = self.open.values().filter(|open| open.position == position).collect();
        assert!(copies.len() < MAX_COPIES, "a third copy");
        assert!(
            copies.iter().all(|open| open.host != host && !open.received),
            "a needless copy: {host} {copies:?}"
        );
        let in_flight = self.open.values().filter(|open| open.host == host && !open.received).count();
        let most = if has_lane(host) { 384 } else { 32 };
        assert!(in_flight < most, "window exceeded");
        let stuck = self.now >= self.last_progress + secs(5);
        assert!(in_flight == 0 || self.good_len[host] > 0 || stuck, "much asked of an unknown peer");
        self.requested[position] += 1;
        self.open.insert(id, Open { host, position, max_len, received: false, sends: None });
        self.send(id, host, position);
    }

    /// Takes a request back on a lane, if that is in time: of what is being sent, a part comes.
    fn cut(&mut self, id: RequestId, open: Open) -> bool {
        let latency = self.hosts[open.host].latency;
        let there = self.now + latency;
        let Some((begins, ends)) = open.sends.filter(|(_, ends)| there < *ends) else { return false };
        let sent = there.saturating_duration_since(begins).as_secs_f64() / (ends - begins).as_secs_f64();
        let pieces = (f64::from(self.len_of(open.position)) * sent / f64::from(PIECE_LEN)).ceil();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most eight")]
        let came_len = (pieces as u32 * PIECE_LEN).min(self.len_of(open.position));
        if self.link_free[open.host] == ends {
            self.link_free[open.host] = begins.max(there);
        }
        self.after(latency * 2, Event::Cut(id, came_len));
        true
    }

    /// Decides how the peer answers, and when.
    fn send(&mut self, id: RequestId, host: usize, position: usize) {
        let &Host { rate, latency, fails, garbage, busy, stalls, .. } = &self.hosts[host];
        let here = self.now + latency;
        let (answer, at) = if self.chance(stalls) {
            (Answer::Failed, self.now + secs(120))
        } else if self.chance(fails) {
            (Answer::Failed, here)
        } else if self.chance(busy) {
            (Answer::Busy, here)
        } else if !self.hosts[host].holds.contains(&position) && !self.chance(garbage) {
            (Answer::Missing, here)
        } else {
            let len = self.content[position].len.unwrap_or(1000);
            let time = Duration::from_secs_f64(f64::from(len) / f64::from(rate));
            self.bytes_sent += u64::from(len);
            let begins = self.link_free[host].max(self.now);
            let done = begins + time;
            self.link_free[host] = done;
            if has_lane(host) && len > PIECE_LEN {
                self.open.get_mut(&id).unwrap().sends = Some((begins, done));
                let (first, part) = (begins + latency, begins + time * PIECE_LEN / len + latency);
                self.queue.insert((first, self.sequence + 1), Event::Begun(id));
                self.queue.insert((part, self.sequence + 2), Event::Part(id));
                self.queue.insert((begins + time / 2 + latency, self.sequence + 3), Event::Half(id));
                self.sequence += 3;
            }
            (Answer::Data { good: !self.chance(garbage) }, done + latency)
        };
        self.sequence += 1;
        self.queue.insert((at, self.sequence), Event::Answer(id, answer));
    }
}
