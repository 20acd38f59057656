//! Which key to announce to the DHT, and when.
//!
//! New keys are announced at once, roots before chunks, with a bounded number in flight. Announced keys are
//! repeated in every interval, spread evenly over it. Failures are tried again with backoff, and a network that
//! takes nothing is left alone for a while. While the routing table is small every doubling of it announces all
//! keys again, because the newcomers may be closer to them; and so does a table that was empty in between.
//!
//! # Invariants
//! - A key is in exactly one of: fresh (to be announced), in flight, waiting for a retry, announced.
//! - A key that was removed is never announced again, and withdrawn if it was announced or about to be.
//! - Nothing is announced while the routing table is empty.
//!
//! Memory is about 46 bytes a key: 33 of the key and its share of the tree.

mod config;
mod sweep;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Instant,
};

use dhtfs_store::ContentCid;
use rand::{SeedableRng as _, rngs::StdRng};

pub use config::ProvideConfig;
use sweep::{Key, Sweep};

/// How soon a key is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The root of a share: without it nothing of the share is found. Announced first.
    Root,
    /// Chunks and inner manifests.
    Chunk,
}

/// What the driver is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProvideAction {
    /// Announce this key, then report [`Provide::on_provided`].
    Provide(ContentCid),
    /// Stop announcing this key; nothing is reported.
    Withdraw(ContentCid),
}

/// What is announced and what is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProvideStats {
    /// Keys to be announced.
    pub keys: usize,
    /// Of these, announced and not due again. The other numbers of keys are apart from this one.
    pub announced: usize,
    /// Waiting for their turn, those that wait after a failure included.
    pub pending: usize,
    /// Being announced right now.
    pub in_flight: usize,
    /// Waiting after a failure.
    pub failing: usize,
    /// Attempts that failed since the start.
    pub failed: u64,
    /// Attempts that succeeded since the start.
    pub provided: u64,
    /// Keys refused because there are too many.
    pub refused: u64,
}

/// A key being announced.
#[derive(Debug, Clone, Copy)]
struct Flight {
    class: Class,
    /// Failures before this attempt.
    attempt: u32,
    /// Announce it once more afterwards: the routing table has grown meanwhile.
    again: bool,
    /// It was removed meanwhile.
    removed: bool,
}

/// A key that waits after a failure.
#[derive(Debug, Clone, Copy)]
struct Retry {
    class: Class,
    attempt: u32,
    at: Instant,
}

/// The machine. See the module's documentation.
#[derive(Debug)]
pub struct Provide {
    config: ProvideConfig,
    rng: StdRng,
    /// To be announced, by class.
    fresh: [BTreeSet<Key>; 2],
    in_flight: BTreeMap<Key, Flight>,
    retries: BTreeMap<Key, Retry>,
    retry_order: BTreeSet<(Instant, Key)>,
    /// Announced, by class.
    sweeps: [Sweep; 2],
    /// Peers in the routing table.
    peers: usize,
    /// Their number when all keys were last announced anew.
    peers_before: usize,
    /// When all keys are announced anew.
    renew_at: Option<Instant>,
    paused_until: Option<Instant>,
    /// Failures in a row.
    failures: u32,
    /// Pauses in a row.
    pauses: u32,
    /// Whether the next key is a repeat rather than a fresh chunk, when both wait.
    repeat_next: bool,
    actions: VecDeque<ProvideAction>,
    counters: ProvideStats,
    now: Instant,
}

const CLASSES: [Class; 2] = [Class::Root, Class::Chunk];

impl Provide {
    /// A machine without keys and with an empty routing table.
    pub fn new(config: ProvideConfig, seed: u64, now: Instant) -> Self {
        Self {
            config: config.clamped(),
            rng: StdRng::seed_from_u64(seed),
            fresh: Default::default(),
            in_flight: BTreeMap::new(),
            retries: BTreeMap::new(),
            retry_order: BTreeSet::new(),
            sweeps: [Sweep::new(now), Sweep::new(now)],
            peers: 0,
            peers_before: 0,
            renew_at: None,
            paused_until: None,
            failures: 0,
            pauses: 0,
            repeat_next: false,
            actions: VecDeque::new(),
            counters: ProvideStats::default(),
            now,
        }
    }

    /// These keys are held: announce them. A chunk that is now a root as well is announced again as one; else keys
    /// that are known are left as they are.
    pub fn on_keys(&mut self, class: Class, keys: impl IntoIterator<Item = ContentCid>, now: Instant) {
        for cid in keys {
            self.add(class, cid.into());
        }
        self.pump(now);
    }

    /// These keys are no longer held.
    pub fn on_removed(&mut self, keys: impl IntoIterator<Item = ContentCid>, now: Instant) {
        for cid in keys {
            self.remove(cid.into());
        }
        self.pump(now);
    }

    /// An announcement has ended: with the number of peers that keep the record, or with a failure. No peer is a
    /// failure too.
    pub fn on_provided(&mut self, cid: ContentCid, result: Result<usize, ()>, now: Instant) {
        let key = cid.into();
        let Some(flight) = self.in_flight.remove(&key) else { return };
        if matches!(result, Ok(peers) if peers > 0) {
            self.failures = 0;
            self.pauses = 0;
            self.counters.provided += 1;
            if flight.removed {
                self.actions.push_back(ProvideAction::Withdraw(cid));
            } else if flight.again {
                self.fresh[flight.class as usize].insert(key);
            } else {
                self.sweeps[flight.class as usize].insert(key, self.config.interval, now);
            }
        } else {
            self.fail(key, flight, now);
        }
        self.pump(now);
    }

    /// The routing table has this many peers now.
    pub fn on_routing(&mut self, peers: usize, now: Instant) {
        if self.peers == 0 && peers > 0 {
            // A network again: what failed for the lack of one need not wait.
            self.paused_until = None;
            self.failures = 0;
            self.pauses = 0;
            self.retry_all();
        }
        let rejoined = self.peers == 0 && peers > 0 && self.peers_before > 0;
        self.peers = peers;
        if self.peers_before == 0 {
            self.peers_before = peers;
        } else if rejoined {
            self.renew();
        } else if self.peers_before < self.config.settled_peers
            && peers >= self.peers_before.saturating_mul(2)
            && self.renew_at.is_none()
        {
            self.renew_at = Some(now + self.config.growth_delay);
        }
        self.pump(now);
    }

    /// A deadline has passed.
    pub fn on_timeout(&mut self, now: Instant) {
        self.pump(now);
    }

    /// The next thing to do; call until `None` after every input.
    pub fn next_action(&mut self) -> Option<ProvideAction> {
        self.actions.pop_front()
    }

    /// When [`on_timeout`](Self::on_timeout) is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.peers == 0 {
            return None;
        }
        let mut deadline = None;
        if self.in_flight.len() < self.config.max_in_flight {
            let retry = self.retry_order.first().map(|(at, _)| *at);
            let sweeps = self.sweeps.iter().filter_map(|sweep| sweep.due_at(self.config.interval));
            let fresh = self.fresh.iter().any(|keys| !keys.is_empty()).then_some(self.now);
            deadline = retry.into_iter().chain(sweeps).chain(fresh).min();
            deadline = deadline.map(|at| self.paused_until.map_or(at, |until| at.max(until)));
        }
        deadline.into_iter().chain(self.renew_at).min()
    }

    /// What is announced and what is not.
    pub fn stats(&self) -> ProvideStats {
        let announced = self.sweeps.iter().map(Sweep::len).sum();
        let pending = self.fresh.iter().map(BTreeSet::len).sum::<usize>() + self.retries.len();
        let in_flight = self.in_flight.values().filter(|flight| !flight.removed).count();
        ProvideStats {
            keys: announced + pending + in_flight,
            announced,
            pending,
            in_flight,
            failing: self.retries.len(),
            ..self.counters
        }
    }

    /// Panics if a key is in two places or a limit is exceeded. Looks at every key: for tests.
    pub fn check_invariants(&self) {
        assert!(self.in_flight.len() <= self.config.max_in_flight, "too many in flight");
        assert!(self.retries.len() <= self.config.max_retries, "too many retries");
        let order: BTreeSet<_> = self.retries.iter().map(|(key, retry)| (retry.at, *key)).collect();
        assert_eq!(order, self.retry_order, "order of retries");
        let fresh = self.fresh.iter().flatten();
        let waiting = fresh.chain(self.retries.keys()).chain(self.in_flight.keys());
        let mut seen = BTreeSet::new();
        for key in waiting {
            assert!(seen.insert(*key), "a key in two places");
            assert!(!self.sweeps.iter().any(|sweep| sweep.contains(key)), "a key in two places");
        }
        assert!(self.stats().keys <= self.config.max_keys, "too many keys");
    }

    /// Everything that may be announced now is.
    fn pump(&mut self, now: Instant) {
        self.now = now;
        if self.renew_at.is_some_and(|at| at <= now) {
            self.renew();
        }
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
        }
        if self.peers == 0 || self.paused_until.is_some() {
            return;
        }
        while self.in_flight.len() < self.config.max_in_flight
            && let Some((key, class, attempt)) = self.next_key(now)
        {
            self.in_flight.insert(key, Flight { class, attempt, again: false, removed: false });
            self.actions.push_back(ProvideAction::Provide(key.into()));
        }
    }

    /// Takes the key that is announced next: fresh roots, roots that are due again, then fresh chunks and chunks
    /// that are due again in turn, so that neither a large import nor a large share holds the other up.
    fn next_key(&mut self, now: Instant) -> Option<(Key, Class, u32)> {
        if let Some(key) = self.fresh[Class::Root as usize].pop_first() {
            return Some((key, Class::Root, 0));
        }
        if let Some((_, key)) = self.retry_order.first().copied().filter(|(at, _)| *at <= now) {
            self.retry_order.pop_first();
            let retry = self.retries.remove(&key)?;
            return Some((key, retry.class, retry.attempt));
        }
        if let Some(key) = self.sweeps[Class::Root as usize].take_due(self.config.interval, now) {
            return Some((key, Class::Root, 0));
        }
        self.repeat_next = !self.repeat_next;
        if self.repeat_next {
            self.repeat_chunk(now).or_else(|| self.fresh_chunk())
        } else {
            self.fresh_chunk().or_else(|| self.repeat_chunk(now))
        }
    }

    fn fresh_chunk(&mut self) -> Option<(Key, Class, u32)> {
        Some((self.fresh[Class::Chunk as usize].pop_first()?, Class::Chunk, 0))
    }

    fn repeat_chunk(&mut self, now: Instant) -> Option<(Key, Class, u32)> {
        let sweep = &mut self.sweeps[Class::Chunk as usize];
        Some((sweep.take_due(self.config.interval, now)?, Class::Chunk, 0))
    }

    fn add(&mut self, class: Class, key: Key) {
        if let Some(flight) = self.in_flight.get_mut(&key) {
            flight.removed = false;
            flight.class = flight.class.min(class);
            return;
        }
        match self.class_of(&key) {
            Some(known) if known <= class => return,
            Some(known) => self.forget(&key, known),
            None if self.stats().keys >= self.config.max_keys => {
                self.counters.refused += 1;
                return;
            }
            None => {}
        }
        self.fresh[class as usize].insert(key);
    }

    fn remove(&mut self, key: Key) {
        if let Some(flight) = self.in_flight.get_mut(&key) {
            flight.removed = true;
            return;
        }
        if let Some(class) = self.class_of(&key) {
            self.forget(&key, class);
            self.actions.push_back(ProvideAction::Withdraw(key.into()));
        }
    }

    /// The class of a key that is not in flight.
    fn class_of(&self, key: &Key) -> Option<Class> {
        let listed = |class: &Class| {
            self.fresh[*class as usize].contains(key) || self.sweeps[*class as usize].contains(key)
        };
        self.retries.get(key).map(|retry| retry.class).or_else(|| CLASSES.into_iter().find(listed))
    }

    /// Takes a key that is not in flight out of wherever it is.
    fn forget(&mut self, key: &Key, class: Class) {
        if let Some(retry) = self.retries.remove(key) {
            self.retry_order.remove(&(retry.at, *key));
        } else if !self.fresh[class as usize].remove(key) {
            self.sweeps[class as usize].remove(key);
        }
    }

    fn fail(&mut self, key: Key, flight: Flight, now: Instant) {
        self.counters.failed += 1;
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.config.max_failures && self.paused_until.is_none() {
            self.paused_until = Some(now + self.config.pause.delay(self.pauses, &mut self.rng));
            self.pauses = self.pauses.saturating_add(1);
            self.failures = 0;
        }
        if flight.removed {
            self.actions.push_back(ProvideAction::Withdraw(key.into()));
        } else if self.retries.len() < self.config.max_retries {
            let at = now + self.config.retry.delay(flight.attempt, &mut self.rng);
            self.retries
                .insert(key, Retry { class: flight.class, attempt: flight.attempt.saturating_add(1), at });
            self.retry_order.insert((at, key));
        } else {
            self.fresh[flight.class as usize].insert(key);
        }
    }

    /// Everything that waits after a failure is fresh again.
    fn retry_all(&mut self) {
        self.retry_order.clear();
        for (key, retry) in std::mem::take(&mut self.retries) {
            self.fresh[retry.class as usize].insert(key);
        }
    }

    /// The routing table has grown: everything announced is announced anew.
    fn renew(&mut self) {
        self.renew_at = None;
        self.peers_before = self.peers.max(1);
        for (fresh, sweep) in self.fresh.iter_mut().zip(&mut self.sweeps) {
            fresh.append(&mut sweep.take_all());
        }
        for flight in self.in_flight.values_mut() {
            flight.again = true;
        }
    }
}
