//! A node in virtual time around a planner: a store of keys with marks, sweeps that walk, assign and send page by
//! page, and an end of the process between any two steps.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    super::*,
    network::{Network, position_in},
    walks::walk,
};
use crate::core::keyspace::{Position, Prefix};

/// Time of day at the start: some day in 2023.
const START_UNIX_MS: i64 = 1_700_000_000_000;

#[derive(Debug, Clone, Default)]
pub(super) struct Key {
    pub(super) root: bool,
    pub(super) last: u32,
    /// When it was announced, in ms since the start.
    pub(super) times: Vec<i64>,
}

#[derive(Debug)]
enum Task {
    Measure(u32),
    Find(Position),
    Roots(Position, usize),
    Root(Position),
    Sweep(SweepId, SweepOutcome, Instant, Vec<Position>),
}

pub(super) struct World {
    pub(super) planner: Planner,
    pub(super) config: ProvideConfig,
    pub(super) now: Instant,
    /// Time of day, in ms since 1970; and what the clock shows beside it.
    pub(super) wall_ms: i64,
    pub(super) skew_ms: i64,
    pub(super) keys: BTreeMap<Position, Key>,
    pub(super) network: Network,
    pub(super) map: NetworkMap,
    table: usize,
    tasks: BTreeMap<(Instant, u64), Task>,
    next_task: u64,
    pub(super) saved: Option<Vec<u8>>,
    pub(super) rng: StdRng,
    /// Keys sent in one step, and how long that takes.
    pub(super) page: usize,
    pub(super) page_time: Duration,
    /// Regions that nobody takes a key of.
    pub(super) refuses: Box<dyn Fn(&Position) -> bool>,
    truth: BTreeMap<Position, BTreeSet<Position>>,
    /// Fewest of the true 20 closest peers that any announcement reached, and all together.
    pub(super) fewest: usize,
    pub(super) reached: (usize, usize),
    pub(super) sweeps: usize,
    pub(super) attempts: usize,
    pub(super) incomplete: usize,
    pub(super) restarts: usize,
    steps: usize,
}

impl World {
    pub(super) fn new(config: ProvideConfig, peers: u64, seed: u64) -> Self {
        let now = Instant::now();
        let unix = u64::try_from(START_UNIX_MS / 1000).unwrap();
        let mut world = Self {
            planner: Planner::new(config, seed, None, unix, now),
            config,
            now,
            wall_ms: START_UNIX_MS,
            skew_ms: 0,
            keys: BTreeMap::new(),
            network: Network::new(peers, seed),
            map: NetworkMap::new(None),
            table: 0,
            tasks: BTreeMap::new(),
            next_task: 0,
            saved: None,
            rng: StdRng::seed_from_u64(seed ^ 77),
            page: 64,
            page_time: Duration::from_millis(500),
            refuses: Box::new(|_| false),
            truth: BTreeMap::new(),
            fewest: usize::MAX,
            reached: (0, 0),
            sweeps: 0,
            attempts: 0,
            incomplete: 0,
            restarts: 0,
            steps: 0,
        };
        world.tell_counts();
        world.join(usize::try_from(peers).unwrap());
        world
    }

    pub(super) fn join(&mut self, peers: usize) {
        self.table = peers;
        self.planner.on_routing(peers, self.now);
    }

    pub(super) fn add(&mut self, count: usize, root: bool) {
        for _ in 0..count {
            let key = position_in(&Prefix::WHOLE, &mut self.rng);
            self.keys.insert(key, Key { root, ..Key::default() });
        }
        self.tell_counts();
    }

    fn tell_counts(&mut self) {
        let fresh =
            |root: bool| self.keys.values().filter(|key| key.last == 0 && key.root == root).count() as u64;
        let counts = Counts {
            keys: self.keys.len() as u64,
            fresh_roots: fresh(true),
            fresh_others: fresh(false),
            refused: 0,
        };
        self.planner.on_counts(counts, self.now);
    }

    pub(super) fn elapsed_ms(&self) -> i64 {
        self.wall_ms - START_UNIX_MS
    }

    fn unix(&self) -> u64 {
        u64::try_from((self.wall_ms + self.skew_ms) / 1000).unwrap()
    }

    /// The process ends at once and begins again after `off`.
    pub(super) fn restart(&mut self, off: Duration) {
        self.tasks.clear();
        self.pass(off);
        self.restarts += 1;
        let seed = self.rng.random();
        self.planner = Planner::new(self.config, seed, self.saved.as_deref(), self.unix(), self.now);
        self.map = NetworkMap::new(self.planner.size());
        self.tell_counts();
        self.join(self.table);
    }

    /// The machine sleeps: the monotonic clock stands still, and the task that ran goes on afterwards.
    pub(super) fn sleep(&mut self, time: Duration) {
        self.wall_ms += i64::try_from(time.as_millis()).unwrap();
        self.planner.on_clock(self.unix(), self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.wall_ms += i64::try_from(time.as_millis()).unwrap();
    }

    /// Whether anything is being done.
    pub(super) fn busy(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// Runs for a time, as if the process were never ended.
    pub(super) fn run(&mut self, time: Duration) {
        let stop = self.now + time;
        while self.step(stop) {}
    }

    /// Carries out what is to be done now, then lets time pass until the next event. Whoever ends the process
    /// before the next call loses what this call has told the planner.
    pub(super) fn step(&mut self, stop: Instant) -> bool {
        self.drain();
        self.steps += 1;
        assert!(self.steps < 3_000_000, "time stands still");
        let task = self.tasks.first_key_value().map(|((at, _), _)| *at);
        let tick = self.now + Duration::from_secs(30);
        let deadline = self.planner.next_deadline();
        let next = [task, deadline, Some(tick)].into_iter().flatten().min().unwrap_or(tick);
        if next > stop {
            self.pass(stop.saturating_duration_since(self.now));
            self.planner.on_clock(self.unix(), self.now);
            return false;
        }
        self.pass(next.saturating_duration_since(self.now));
        if task.is_some_and(|at| at <= self.now) {
            let (_, task) = self.tasks.pop_first().unwrap();
            self.carry_on(task);
        } else {
            self.planner.on_clock(self.unix(), self.now);
            self.planner.on_timeout(self.now);
        }
        true
    }

    fn drain(&mut self) {
        while let Some(action) = self.planner.next_action() {
            match action {
                ProvideAction::Measure { lookups } => self.begin(1000, Task::Measure(lookups)),
                ProvideAction::FindFresh { from } => self.begin(1, Task::Find(from)),
                ProvideAction::ProvideRoots { from, max } => self.begin(1, Task::Roots(from, max)),
                ProvideAction::SweepDue { id, region, due, known_since } => {
                    self.sweep(id, region, known_since, |key| due.is_due(key.last));
                }
                ProvideAction::SweepFresh { id, region, known_since } => {
                    self.sweep(id, region, known_since, |key| key.last == 0 && !key.root);
                }
                ProvideAction::Save(bytes) => self.saved = Some(bytes),
            }
        }
        self.planner.check_invariants();
        let roots = self.tasks.values().filter(|task| matches!(task, Task::Root(_))).count();
        let sweeps = self.tasks.values().filter(|task| matches!(task, Task::Sweep(..))).count();
        assert!(roots <= self.config.max_roots_in_flight && sweeps <= 2, "{roots} roots, {sweeps} sweeps");
    }

    fn begin(&mut self, ms: u64, task: Task) {
        self.next_task += 1;
        self.tasks.insert((self.now + Duration::from_millis(ms), self.next_task), task);
    }

    fn sweep(&mut self, id: SweepId, region: Prefix, known_since: Instant, due: impl Fn(&Key) -> bool) {
        let range = self.keys.range(region.range());
        let keys: Vec<_> = range.filter(|(_, key)| due(key)).map(|(position, _)| *position).collect();
        let mut outcome = SweepOutcome { keys: keys.len() as u64, ..SweepOutcome::default() };
        let mut known = keys;
        if known.len() > self.config.plain_keys {
            self.sweeps += 1;
            let config = WalkConfig::default();
            let report = walk(&mut self.network, &mut self.map, config, region, known_since, self.now);
            if !report.complete {
                self.incomplete += 1;
                let covered = self.map.covered(known_since);
                known.retain(|key| self.map.knows_closest(key, &covered, known_since));
            }
            outcome.failed = outcome.keys - known.len() as u64;
        }
        self.attempts += 1;
        self.begin(500, Task::Sweep(id, outcome, known_since, known));
    }

    fn carry_on(&mut self, task: Task) {
        match task {
            Task::Measure(lookups) => {
                for _ in 0..lookups {
                    let target = position_in(&Prefix::WHOLE, &mut self.rng);
                    if let Some(found) = self.network.lookup(&target) {
                        self.map.on_lookup(target, found, &Prefix::WHOLE, self.now, self.now);
                    }
                }
                self.planner.on_size(self.map.size(), self.now);
            }
            Task::Find(from) => {
                let fresh = |(_, key): &(&Position, &Key)| key.last == 0 && !key.root;
                let found = self.keys.range(from..).find(fresh).map(|(position, _)| *position);
                self.planner.on_fresh_found(found, self.now);
            }
            Task::Roots(from, max) => {
                let open: BTreeSet<_> = self.tasks.values().filter_map(Task::root).collect();
                let fresh = self
                    .keys
                    .range(from..)
                    .filter(|(position, key)| key.root && key.last == 0 && !open.contains(*position));
                let begun: Vec<_> = fresh.map(|(position, _)| *position).take(max + 1).collect();
                let next = begun.get(max).copied();
                begun.iter().take(max).for_each(|root| self.begin(2000, Task::Root(*root)));
                self.planner.on_roots_started(begun.len().min(max), next, self.now);
            }
            Task::Root(root) => {
                let taken = self.announce_plain(root);
                self.tell_counts();
                self.planner.on_root_done(taken, self.now);
            }
            Task::Sweep(id, outcome, since, keys) => self.send_page(id, outcome, since, keys),
        }
    }

    fn send_page(&mut self, id: SweepId, mut outcome: SweepOutcome, since: Instant, mut keys: Vec<Position>) {
        let rest = keys.split_off(keys.len().min(self.page));
        if !keys.is_empty() {
            let peers: Vec<_> =
                self.map.peers_in(&Prefix::WHOLE, since).map(|(position, _)| *position).collect();
            let plain = outcome.keys <= self.config.plain_keys as u64;
            let given = assign(&keys, &peers, self.map.size().unwrap_or(0));
            let mut holders = vec![Vec::new(); keys.len()];
            for (peer, ranges) in peers.iter().zip(&given.peers) {
                ranges.iter().cloned().flatten().for_each(|key| holders[key].push(*peer));
            }
            for (key, holders) in keys.iter().zip(&holders) {
                let taken = if plain { self.announce_plain(*key) } else { self.announce(*key, holders) };
                if taken { outcome.sent += 1 } else { outcome.failed += 1 }
            }
        }
        if rest.is_empty() {
            self.planner.on_swept(id, outcome, self.now);
            self.tell_counts();
            if let Some(size) = self.map.size() {
                self.planner.on_size(Some(size), self.now);
            }
        } else {
            self.begin(
                u64::try_from(self.page_time.as_millis()).unwrap(),
                Task::Sweep(id, outcome, since, rest),
            );
        }
    }

    fn announce_plain(&mut self, key: Position) -> bool {
        let Some(found) = self.network.lookup(&key) else { return false };
        let holders: Vec<_> = found.iter().map(|peer| Position::of_peer(&peer.peer)).collect();
        self.announce(key, &holders)
    }

    fn announce(&mut self, key: Position, holders: &[Position]) -> bool {
        if (self.refuses)(&key) || holders.is_empty() {
            return false;
        }
        let network = &self.network;
        let truth = self.truth.entry(key).or_insert_with(|| network.closest(&key).into_iter().collect());
        let reached = holders.iter().filter(|peer| truth.contains(peer)).count();
        self.fewest = self.fewest.min(reached + 20 - truth.len());
        self.reached.0 += reached;
        self.reached.1 += truth.len();
        let (elapsed_ms, unix) = (self.elapsed_ms(), u32::try_from(self.unix()).unwrap());
        let entry = self.keys.get_mut(&key).unwrap();
        entry.last = unix;
        entry.times.push(elapsed_ms);
        true
    }

    /// Announcements in the last `time`.
    pub(super) fn announced_in(&self, time: Duration) -> usize {
        let since = self.elapsed_ms() - i64::try_from(time.as_millis()).unwrap();
        self.keys.values().flat_map(|key| &key.times).filter(|at| **at > since).count()
    }

    /// The shortest and the longest time between two announcements of one key after `from`, in hundredths of an
    /// interval, the time since the last one included in the longest.
    pub(super) fn gaps(&self, from_ms: i64) -> (i64, i64) {
        let interval_ms = i64::try_from(self.config.interval.as_millis()).unwrap();
        let (mut shortest, mut longest) = (i64::MAX, 0);
        for key in self.keys.values() {
            let times: Vec<_> = key.times.iter().copied().filter(|at| *at >= from_ms).collect();
            let gaps: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]) * 100 / interval_ms).collect();
            shortest = shortest.min(gaps.iter().copied().min().unwrap_or(shortest));
            let last = times.last().map_or(i64::MAX, |last| (self.elapsed_ms() - last) * 100 / interval_ms);
            longest = longest.max(gaps.iter().copied().max().unwrap_or(0)).max(last);
        }
        (shortest, longest)
    }
}

impl Task {
    fn root(&self) -> Option<Position> {
        if let Task::Root(root) = self { Some(*root) } else { None }
    }
}
