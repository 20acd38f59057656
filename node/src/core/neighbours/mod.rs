//! Neighbours: nodes that announce themselves in the local network. Which of them to connect to, and when.
//!
//! An announcement is hearsay: anybody in the network may send any number of them, in the name of anybody and from any address.
//! So an entry is one whole announcement ([`Neighbour`]: peer, source address, ports), and nothing that is forged touches the
//! entry of somebody else; there is a bound on entries, on dials in any time, on dials under way and on connections; and what
//! was found out of an entry stays with it.
//!
//! Promises, whatever is announced:
//! - Every other dial is of whoever is due for longest, whatever its address has done: so all are dialled, as fast as dials are to
//!   be had ([`NeighboursConfig::dial_every`]). The others go to addresses with fewest dials in vain: so a few that announce much
//!   do not keep others waiting.
//! - It gets one, in a full table too, while an entry there has failed, or another address has more of them than its own would
//!   have then.
//!
//! A goodbye changes nothing here: a forged one would take the place of an honest neighbour away, and a dial in vain is cheap.

mod heard;
mod intake;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use libp2p::PeerId;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::backoff::BackoffPolicy;

pub use self::heard::{Neighbour, Source};
pub use self::intake::{Intake, IntakeConfig};

/// Bounds and times.
#[derive(Debug, Clone, Copy)]
pub struct NeighboursConfig {
    /// Announcements that are remembered, some hundred bytes each.
    pub max_known: usize,
    /// Dials under way.
    pub max_dialling: usize,
    /// Neighbours that are connected because they were dialled here. kad finds the others.
    pub max_connected: usize,
    /// Dials that may begin one upon the other.
    pub dial_burst: u32,
    /// The pause between the others.
    pub dial_every: Duration,
    /// How long a node waits for a neighbour with a greater ID to dial: both hear of each other at the same time, and one
    /// connection is enough. Nothing for a node that announces nothing.
    pub courtesy: Duration,
    /// How long an IPv6 link-local address waits, so that other ways to the same neighbour go first.
    pub link_local_wait: Duration,
    /// How long an announcement counts after it was heard last.
    pub forget_after: Duration,
    /// How long a neighbour that was connected is not dialled again.
    pub again: Duration,
    /// Pauses after dials that failed.
    pub retry: BackoffPolicy,
}

impl Default for NeighboursConfig {
    fn default() -> Self {
        Self {
            max_known: 256,
            max_dialling: 8,
            max_connected: 64,
            dial_burst: 64,
            dial_every: Duration::from_secs(1),
            courtesy: Duration::from_millis(500),
            link_local_wait: Duration::from_millis(300),
            forget_after: Duration::from_secs(15 * 60),
            again: Duration::from_secs(5 * 60),
            retry: BackoffPolicy::new(Duration::from_secs(2), Duration::from_secs(5 * 60)),
        }
    }
}

impl NeighboursConfig {
    /// For a node that announces nothing, and looks for somebody who has something.
    pub fn client() -> Self {
        Self { max_connected: 16, courtesy: Duration::ZERO, ..Self::default() }
    }
}

/// How a dial has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The neighbour is who it says, and of our network.
    Met,
    /// Somebody else answers there, or another network.
    Foreign,
    /// Nobody answers there.
    Unreachable,
    /// A limit of this node stood against it: nothing is known about the neighbour.
    NotDialled,
}

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NeighbourStats {
    /// Dials that were begun.
    pub dials: u64,
    /// Dials that reached nobody.
    pub failed: u64,
    /// Dials that somebody else answered, or another network.
    pub foreign: u64,
    /// Announcements that found no place.
    pub refused: u64,
    /// Announcements that made room for others.
    pub displaced: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be dialled then.
    Due(Instant),
    Dialling,
    /// Connected then. `dialled`: by this entry.
    Met {
        at: Instant,
        dialled: bool,
    },
    Foreign,
}

#[derive(Debug)]
struct Entry {
    state: State,
    failures: u32,
    since: Instant,
    heard: Instant,
    /// Decides between those that are due at the same time.
    tie: u64,
}

impl Entry {
    /// Whether it was of no use so far.
    fn has_failed(&self) -> bool {
        self.state == State::Foreign || self.failures > 0 && matches!(self.state, State::Due(_))
    }

    /// Whether it may be put out for another one.
    fn is_loose(&self) -> bool {
        matches!(self.state, State::Due(_) | State::Foreign)
    }
}

/// The neighbours.
#[derive(Debug)]
pub struct Neighbours {
    local: PeerId,
    config: NeighboursConfig,
    known: BTreeMap<Neighbour, Entry>,
    /// Everybody who is connected, however that came.
    connected: BTreeSet<PeerId>,
    dialling: BTreeSet<Neighbour>,
    /// Dials of each address that have not got anywhere.
    tried: BTreeMap<Source, u32>,
    /// Dials that may begin now, and since when that is so.
    tokens: u32,
    filled: Instant,
    rng: StdRng,
    stats: NeighbourStats,
    now: Instant,
}

impl Neighbours {
    /// Nobody is known yet. `local` is this node.
    pub fn new(local: PeerId, config: NeighboursConfig, seed: u64, now: Instant) -> Self {
        Self {
            local,
            config,
            known: BTreeMap::new(),
            connected: BTreeSet::new(),
            dialling: BTreeSet::new(),
            tried: BTreeMap::new(),
            tokens: config.dial_burst,
            filled: now,
            rng: StdRng::seed_from_u64(seed),
            stats: NeighbourStats::default(),
            now,
        }
    }

    /// Somebody announces itself.
    pub fn on_heard(&mut self, heard: Neighbour, now: Instant) {
        self.advance(now);
        if heard.peer == self.local || !heard.can_be_dialled() {
            return;
        }
        if let Some(entry) = self.known.get_mut(&heard) {
            entry.heard = now;
            // Who was met and has gone again is dialled only if it is heard again.
            if let State::Met { at, .. } = entry.state
                && !self.connected.contains(&heard.peer)
            {
                entry.state = State::Due(at + self.config.again);
            }
            return;
        }
        if self.known.len() >= self.config.max_known && !self.make_room(&heard.source) {
            self.stats.refused = self.stats.refused.saturating_add(1);
            return;
        }
        let courtesy = if self.local < heard.peer { self.config.courtesy } else { Duration::ZERO };
        let wait = if heard.source.zone == 0 { Duration::ZERO } else { self.config.link_local_wait };
        let state = match self.connected.contains(&heard.peer) {
            true => State::Met { at: now, dialled: false },
            false => State::Due(now + courtesy + wait),
        };
        let tie = self.rng.next_u64();
        self.known.insert(heard, Entry { state, failures: 0, since: now, heard: now, tie });
    }

    /// Puts out an entry that was of no use so far; else the latest one of the address that announces most, if that is more
    /// than `newcomer` would then. False if there is none.
    fn make_room(&mut self, newcomer: &Source) -> bool {
        let failed = self.known.iter().filter(|(_, entry)| entry.has_failed());
        let mut out =
            failed.min_by_key(|(_, entry)| (entry.state != State::Foreign, entry.since)).map(|(key, _)| *key);
        if out.is_none() {
            let mut counts: BTreeMap<Source, usize> = BTreeMap::new();
            for key in self.known.keys() {
                *counts.entry(key.source).or_default() += 1;
            }
            let own = counts.get(newcomer).copied().unwrap_or_default();
            let loose = self.known.iter().filter(|(_, entry)| entry.is_loose());
            let most = loose.max_by_key(|(key, entry)| (counts.get(&key.source), entry.since));
            out = most.filter(|(key, _)| counts.get(&key.source) > Some(&(own + 1))).map(|(key, _)| *key);
        }
        let Some(out) = out else { return false };
        self.known.remove(&out);
        self.stats.displaced = self.stats.displaced.saturating_add(1);
        true
    }

    /// These peers are connected now, and no others.
    pub fn on_connected(&mut self, connected: &BTreeSet<PeerId>, now: Instant) {
        self.advance(now);
        for (key, entry) in &mut self.known {
            match (&mut entry.state, connected.contains(&key.peer)) {
                (state @ State::Due(_), true) => *state = State::Met { at: now, dialled: false },
                (State::Met { dialled, .. }, false) => *dialled = false,
                _ => {}
            }
        }
        if self.connected != *connected {
            self.connected.clone_from(connected);
        }
    }

    /// A dial has ended. What has become of the address meanwhile is of no account: the dial was of this announcement.
    pub fn on_dialled(&mut self, dialled: &Neighbour, outcome: Outcome, now: Instant) {
        self.advance(now);
        if !self.dialling.remove(dialled) {
            return;
        }
        match outcome {
            Outcome::Met | Outcome::NotDialled => {
                if let Some(tried) = self.tried.get_mut(&dialled.source) {
                    *tried = tried.saturating_sub(1);
                }
            }
            Outcome::Foreign => self.stats.foreign = self.stats.foreign.saturating_add(1),
            Outcome::Unreachable => self.stats.failed = self.stats.failed.saturating_add(1),
        }
        let Some(entry) = self.known.get_mut(dialled) else { return };
        entry.state = match outcome {
            Outcome::Met => {
                entry.failures = 0;
                self.connected.insert(dialled.peer);
                State::Met { at: now, dialled: true }
            }
            Outcome::Foreign => State::Foreign,
            Outcome::Unreachable => {
                let pause = self.config.retry.delay(entry.failures, &mut self.rng);
                entry.failures = entry.failures.saturating_add(1);
                State::Due(now + pause)
            }
            Outcome::NotDialled => State::Due(now + self.config.retry.ceiling(0)),
        };
    }

    /// This node is in other networks now: what was announced elsewhere is forgotten.
    pub fn on_moved(&mut self, is_near: impl Fn(&Source) -> bool, now: Instant) {
        self.advance(now);
        self.known.retain(|key, entry| entry.state == State::Dialling || is_near(&key.source));
    }

    /// Time has passed.
    pub fn on_timeout(&mut self, now: Instant) {
        self.advance(now);
    }

    fn advance(&mut self, now: Instant) {
        self.now = now;
        let every = self.config.dial_every;
        while self.tokens < self.config.dial_burst && self.filled + every <= now {
            self.tokens += 1;
            self.filled += every;
        }
        if self.tokens >= self.config.dial_burst {
            self.filled = now;
        }
        let forget_after = self.config.forget_after;
        self.known.retain(|_, entry| entry.state == State::Dialling || now < entry.heard + forget_after);
    }

    /// Who is to be dialled now; `None` when there is nobody more.
    pub fn next_action(&mut self) -> Option<Neighbour> {
        if self.tokens == 0 || !self.has_room() {
            return None;
        }
        let is_fair = self.stats.dials.is_multiple_of(2);
        let tried = |key: &Neighbour| {
            if is_fair { self.tried.get(&key.source).copied().unwrap_or_default() } else { 0 }
        };
        let due = self.waiting().filter(|(at, ..)| *at <= self.now);
        let (_, _, next) = due.min_by_key(|(at, tie, key)| (tried(key), *at, *tie))?;
        let next = *next;
        self.tokens -= 1;
        *self.tried.entry(next.source).or_default() += 1;
        if self.tried.len() > self.config.max_known {
            let known: BTreeSet<Source> = self.known.keys().map(|key| key.source).collect();
            self.tried.retain(|source, _| known.contains(source));
        }
        self.stats.dials = self.stats.dials.saturating_add(1);
        self.dialling.insert(next);
        if let Some(entry) = self.known.get_mut(&next) {
            entry.state = State::Dialling;
        }
        Some(next)
    }

    /// Whether a dial more may be under way.
    fn has_room(&self) -> bool {
        let under_way = self.dialling.len();
        under_way < self.config.max_dialling && self.connected() + under_way < self.config.max_connected
    }

    /// Who is to be dialled, and when. Whoever is being dialled elsewhere is not: that may be all it takes.
    fn waiting(&self) -> impl Iterator<Item = (Instant, u64, &Neighbour)> {
        let dialling: BTreeSet<PeerId> = self.dialling.iter().map(|key| key.peer).collect();
        self.known.iter().filter_map(move |(key, entry)| match entry.state {
            State::Due(at) if !dialling.contains(&key.peer) => Some((at, entry.tie, key)),
            _ => None,
        })
    }

    /// When something is to be done that is not yet.
    pub fn next_deadline(&self) -> Option<Instant> {
        let forget = self.known.values().filter(|entry| entry.state != State::Dialling);
        let forget = forget.map(|entry| entry.heard + self.config.forget_after).min();
        let dial =
            self.waiting().map(|(at, ..)| at).min().filter(|_| self.has_room()).map(|at| match self.tokens {
                0 => at.max(self.filled + self.config.dial_every),
                _ => at,
            });
        forget.into_iter().chain(dial).min()
    }

    /// Neighbours that are connected because they were dialled here.
    pub fn connected(&self) -> usize {
        let met = self.known.iter().filter(|(key, entry)| {
            matches!(entry.state, State::Met { dialled: true, .. }) && self.connected.contains(&key.peer)
        });
        met.map(|(key, _)| key.peer).collect::<BTreeSet<_>>().len()
    }

    /// Announcements that are remembered.
    pub fn known(&self) -> usize {
        self.known.len()
    }

    /// What was counted.
    pub fn stats(&self) -> NeighbourStats {
        self.stats
    }

    /// Panics if the books do not agree; for tests.
    #[cfg(test)]
    fn check_invariants(&self) {
        let dialling = self.known.iter().filter(|(_, entry)| entry.state == State::Dialling);
        assert!(dialling.map(|(key, _)| key).eq(self.dialling.iter()), "who is being dialled stays known");
        assert!(self.dialling.len() <= self.config.max_dialling);
        assert!(self.known.len() <= self.config.max_known);
        assert!(self.connected() <= self.config.max_connected);
        assert!(self.tokens <= self.config.dial_burst);
        assert!(self.tried.len() <= self.config.max_known);
        assert!(self.known.keys().all(|key| key.peer != self.local && key.can_be_dialled()));
    }
}
