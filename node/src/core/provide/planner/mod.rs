//! Which region is announced when.
//!
//! A cursor runs through the keyspace once in every interval, in steps of regions: a key has its turn when the cursor
//! passes. Fresh roots are looked up at once, regions with other fresh keys are swept at once, beside the cursor. A
//! cursor that is late, because the node was off or slow, goes on from where it was at a bounded rate. Failed regions
//! are tried again with backoff, and a network that takes nothing is left alone for a while. While the routing table
//! is small every doubling of it announces all keys again, because the newcomers may be closer to them; and so does
//! a table that was empty in between.
//!
//! The machine knows numbers of keys and parts of the keyspace, no keys: its memory does not grow with them.
//!
//! # Invariants
//! - At most one sweep of due keys, one of fresh keys and [`ProvideConfig::max_roots_in_flight`] roots at a time.
//! - The cursor passes a region only when its sweep was reported; what failed then is in the list of failed regions,
//!   which is saved with the cursor. So nothing is forgotten, wherever the process ends.
//! - Nothing is announced while the routing table is empty.

mod due;
mod fresh;
mod retries;
mod roots;
mod saved;
mod schedule;
mod types;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use rand::{SeedableRng as _, rngs::StdRng};

use super::{config::ProvideConfig, map::MAP_VALIDITY};
use crate::core::keyspace::{Position, Prefix};
use due::{Renew, Running};
use fresh::{Fresh, State};
use retries::{Retries, Retry};
use roots::Roots;
use saved::Saved;
use schedule::{Clock, MAX_REGION_LEN, Schedule, whole_ms};
pub use types::{Counts, Due, ProvideAction, ProvideStats, SweepId, SweepOutcome};

/// The machine. See the module's documentation.
#[derive(Debug)]
pub struct Planner {
    config: ProvideConfig,
    rng: StdRng,
    clock: Clock,
    started: Instant,
    counts: Counts,
    /// The counts have been told.
    counted: bool,
    schedule: Schedule,
    /// All keys are being announced anew.
    renew: Option<Renew>,
    /// Regions of due keys that failed.
    retries: Retries,
    /// The sweep of due keys under way.
    running: Option<Running>,
    /// The next sweep of due keys begins no earlier: what bounds the rate.
    paced_until: Instant,
    fresh: Fresh,
    roots: Roots,
    next_sweep: u64,
    /// Peers in the network.
    size: Option<u64>,
    /// Length of the prefixes of regions.
    len: Option<u16>,
    /// When its size is measured; far away while that is under way.
    measure_at: Option<Instant>,
    /// Measurements that failed, in a row.
    measured: u32,
    /// Peers in the routing table.
    peers: usize,
    /// Their number when all keys were last announced anew.
    peers_before: usize,
    /// The table was empty since peers were last in it.
    emptied: bool,
    /// When all keys are announced anew.
    renew_at: Option<Instant>,
    /// When the table last grew while it was small: older knowledge of the network is worth nothing.
    grown_at: Instant,
    paused_until: Option<Instant>,
    /// Failures in a row.
    failures: u32,
    /// Pauses in a row.
    pauses: u32,
    /// When the schedule was last saved.
    saved_at: Option<Instant>,
    actions: VecDeque<ProvideAction>,
    provided: u64,
    failed: u64,
    now: Instant,
}

impl Planner {
    /// A machine without keys and with an empty routing table that goes on where `saved` says. `unix` is the time of
    /// day, in s since 1970.
    pub fn new(config: ProvideConfig, seed: u64, saved: Option<&[u8]>, unix: u64, now: Instant) -> Self {
        let config = config.clamped();
        let clock = Clock::new(unix, now);
        // Nobody knows when the keys were announced, if any were: as late as can be.
        let late_ms = clock.ms(now) - whole_ms(config.interval);
        let schedule = Schedule::new(0, late_ms, config.interval);
        let mut planner = Self {
            config,
            rng: StdRng::seed_from_u64(seed),
            clock,
            started: now,
            counts: Counts::default(),
            counted: false,
            schedule,
            renew: None,
            retries: Retries::default(),
            running: None,
            paced_until: now,
            fresh: Fresh::new(),
            roots: Roots::new(),
            next_sweep: 0,
            size: None,
            len: None,
            measure_at: Some(now),
            measured: 0,
            peers: 0,
            peers_before: 0,
            emptied: false,
            renew_at: None,
            grown_at: now,
            paused_until: None,
            failures: 0,
            pauses: 0,
            saved_at: None,
            actions: VecDeque::new(),
            provided: 0,
            failed: 0,
            now,
        };
        if let Some(saved) = saved.and_then(Saved::decode) {
            planner.restore(saved, now);
        }
        planner
    }

    /// The time of day, in s since 1970. To be told before [`on_timeout`](Self::on_timeout) and at least once a
    /// minute: a machine that slept shows only in this.
    pub fn on_clock(&mut self, unix: u64, now: Instant) {
        let before_ms = self.clock.ms(now);
        self.clock = Clock::new(unix, now);
        self.schedule.on_step(before_ms, self.clock.ms(now));
        self.pump(now);
    }

    /// How many keys there are now. To be told whenever that changes, after marks too.
    pub fn on_counts(&mut self, counts: Counts, now: Instant) {
        if counts.fresh_roots > self.counts.fresh_roots {
            self.roots.again();
        }
        if counts.fresh_others > self.counts.fresh_others {
            self.fresh.again();
        }
        self.counts = counts;
        self.counted = true;
        self.fit_regions();
        self.pump(now);
    }

    /// There are roots that were never announced. Their number does not always tell: another may have been announced
    /// since it was last told. Tell the counts after it.
    pub fn on_new_roots(&mut self) {
        self.roots.again();
    }

    /// How many peers the network has, measured or learned from a walk; none if measuring failed.
    pub fn on_size(&mut self, size: Option<u64>, now: Instant) {
        match size {
            Some(size) => {
                let first = self.size.replace(size).is_none();
                self.measured = 0;
                self.fit_regions();
                if first && self.saved_at.is_some() {
                    self.save(now);
                }
            }
            None if self.size.is_none() => {
                self.measure_at = Some(now + self.config.pause.delay(self.measured, &mut self.rng));
                self.measured = self.measured.saturating_add(1);
            }
            None => {}
        }
        self.pump(now);
    }

    /// The routing table has this many peers now.
    pub fn on_routing(&mut self, peers: usize, now: Instant) {
        if self.peers == 0 && peers > 0 {
            // A network again: what failed for the lack of one need not wait.
            self.unpause();
            self.retries.all_now(now);
            self.fresh.retries.all_now(now);
            self.fresh.again();
            self.roots.again();
        }
        if peers > self.peers && self.peers < self.config.settled_peers {
            self.grown_at = now;
        }
        let rejoined = self.emptied && peers > 0;
        self.emptied = peers == 0 && (self.emptied || self.peers > 0);
        self.peers = peers;
        if self.peers_before == 0 {
            self.peers_before = peers;
        } else if rejoined {
            self.begin_renewal(now);
        } else if self.peers_before < self.config.settled_peers
            && peers >= self.peers_before.saturating_mul(2)
            && self.renew_at.is_none()
        {
            self.renew_at = Some(now + self.config.growth_delay);
        }
        self.pump(now);
    }

    /// Roots were begun, and there may be more from `next` on; none if these were the last.
    pub fn on_roots_started(&mut self, started: usize, next: Option<Position>, now: Instant) {
        self.roots.on_started(started, next, now);
        self.pump(now);
    }

    /// A root was announced: whether a peer keeps the record (and the root was marked). Tell the counts before: only
    /// the store knows how many are left, as another may have come meanwhile.
    pub fn on_root_done(&mut self, taken: bool, now: Instant) {
        self.roots.on_done(taken, &self.config.retry, &mut self.rng, now);
        self.note(u64::from(taken), u64::from(!taken), now);
        self.pump(now);
    }

    /// The first fresh key that was searched; none if there is none.
    pub fn on_fresh_found(&mut self, found: Option<Position>, now: Instant) {
        let len = self.region_len();
        if self.fresh.state == State::Finding
            && let Some(region) = self.fresh.on_found(found, len, now)
        {
            let id = self.next_id();
            self.fresh.state = State::Sweeping(id, region);
            self.actions.push_back(ProvideAction::SweepFresh {
                id,
                region,
                known_since: self.known_since(now),
            });
        }
        self.pump(now);
    }

    /// A sweep has ended.
    pub fn on_swept(&mut self, id: SweepId, outcome: SweepOutcome, now: Instant) {
        if let Some(running) = self.running.take_if(|running| running.id == id) {
            self.note(outcome.sent, outcome.failed, now);
            self.due_swept(&running, outcome, now);
        } else if let State::Sweeping(sweep, region) = self.fresh.state
            && sweep == id
        {
            self.note(outcome.sent, outcome.failed, now);
            self.counts.fresh_others = self.counts.fresh_others.saturating_sub(outcome.sent);
            let attempt = self.fresh.retries.attempts_at(&region);
            self.fresh.retries.clear(&region);
            if outcome.failed > 0 {
                let failed = Retry { attempt, at: now, before: 0, keys: outcome.failed };
                self.fresh.retries.make_room(self.config.max_retries);
                self.fresh.retries.fail(region, failed, &self.config.retry, &mut self.rng, now);
            }
            self.fresh.on_swept(&region, outcome.sent, now);
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
        let sweeps = [
            self.due_at(),
            (self.counts.fresh_others > 0).then(|| self.fresh.next_at(self.now)).flatten(),
            self.roots.next_at(self.counts.fresh_roots),
        ];
        let known = self.size.is_some();
        let measure = self.measure_at.filter(|_| !known && self.counts.keys > 0);
        let roots = sweeps[2];
        let work =
            if known { sweeps.into_iter().flatten().min() } else { roots.into_iter().chain(measure).min() };
        let work = work.map(|at| self.paused_until.map_or(at, |until| at.max(until)));
        work.into_iter().chain(self.renew_at).min()
    }

    /// How many peers the network has, as last told or saved: what a new
    /// [`NetworkMap`](super::NetworkMap) begins with.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// What is announced and what is not.
    pub fn stats(&self) -> ProvideStats {
        let now_ms = self.clock.ms(self.now);
        let late = self.schedule.late(now_ms);
        let fresh = self.counts.fresh_roots + self.counts.fresh_others;
        let anew = self.renew.map_or(0, |renew| renew.share_of(self.counts.keys));
        let failing = self.retries.keys() + self.fresh.retries.keys();
        let owed = self.schedule.share_of(self.counts.keys.saturating_sub(fresh), late);
        let again = self.retries.keys() + anew.max(owed);
        let pending = (fresh + again).min(self.counts.keys);
        ProvideStats {
            keys: self.counts.keys,
            announced: self.counts.keys.saturating_sub(pending),
            pending,
            roots_in_flight: self.roots.in_flight,
            failing,
            failed: self.failed,
            provided: self.provided,
            refused: self.counts.refused,
            size: self.size.unwrap_or(0),
            cursor: self.schedule.cursor,
            next_region_unix: u64::from(Clock::unix(self.schedule.due_ms())),
            late,
            last_cycle_unix: self.schedule.last_cycle,
        }
    }

    /// Panics if a limit is exceeded or the books do not balance; for tests.
    pub fn check_invariants(&self) {
        let now_ms = self.clock.ms(self.now);
        let (due_ms, interval_ms) = (self.schedule.due_ms(), self.schedule.interval_ms);
        // A region longer than an interval's share is never waited for, nor is more than one interval owed.
        assert!(due_ms <= now_ms + 2 * interval_ms, "waits too long");
        assert!(self.roots.in_flight <= self.config.max_roots_in_flight, "too many roots");
        assert!(self.retries.len() <= self.config.max_retries, "too many failed regions");
        assert!(self.fresh.retries.len() <= self.config.max_retries, "too many failed fresh regions");
        let narrowest =
            self.retries.iter().chain(self.fresh.retries.iter()).map(|(region, _)| region.bit_len()).max();
        assert!(narrowest.is_none_or(|len| len <= MAX_REGION_LEN), "too narrow a region");
        let saved = self.saved(self.now);
        assert_eq!(Saved::decode(&saved.encode()), Some(saved), "cannot be saved");
    }

    /// Everything that may be done now is.
    fn pump(&mut self, now: Instant) {
        self.now = now;
        if self.renew_at.is_some_and(|at| at <= now) {
            self.begin_renewal(now);
        }
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
        }
        if self.counted && self.counts.keys == 0 && self.running.is_none() {
            self.schedule.skip(self.region_len(), self.clock.ms(now));
        }
        if self.peers == 0 || self.paused_until.is_some() || self.counts.keys == 0 {
            return;
        }
        if self.saved_at.is_none() {
            self.save(now);
        }
        if let Some((from, max)) =
            self.roots.next(self.counts.fresh_roots, self.config.max_roots_in_flight, now)
        {
            self.actions.push_back(ProvideAction::ProvideRoots { from, max });
        }
        if self.size.is_none() {
            if self.measure_at.is_some_and(|at| at <= now) {
                self.measure_at = None;
                self.actions.push_back(ProvideAction::Measure { lookups: self.config.size_lookups });
            }
            return;
        }
        if self.counts.fresh_others > 0
            && let Some(from) = self.fresh.next(now)
        {
            self.actions.push_back(ProvideAction::FindFresh { from });
        }
        self.pump_due(now);
    }

    /// How long the prefixes of regions are.
    fn region_len(&self) -> u16 {
        self.len.unwrap_or(0)
    }

    /// A region holds a number of peers that a few lookups find, and not more keys than a step. It changes only when
    /// it no longer fits at all: a wider region has its turn earlier than the ones in it had.
    fn fit_regions(&mut self) {
        let Some(size) = self.size else { return };
        let fits = |percent: u64| {
            let scaled = |number: u64| number.saturating_mul(percent) / 100;
            let peers = scaled(size) / self.config.min_region_peers;
            let keys = scaled(self.counts.keys).div_ceil(self.config.max_step_keys);
            u16::try_from(peers.max(keys).max(1).ilog2()).unwrap_or(0).min(MAX_REGION_LEN)
        };
        self.len = Some(match self.len {
            Some(len) if len < fits(70) || len > fits(140) => fits(100),
            Some(len) => len,
            None => fits(100),
        });
    }

    /// Since when the map must know what it knows.
    pub fn known_since(&self, now: Instant) -> Instant {
        now.checked_sub(MAP_VALIDITY).unwrap_or(self.started).max(self.started).max(self.grown_at)
    }

    fn next_id(&mut self) -> SweepId {
        self.next_sweep += 1;
        SweepId(self.next_sweep)
    }

    /// Keys were announced and keys failed. Many failures in a row, and nothing is announced for a while.
    fn note(&mut self, sent: u64, failed: u64, now: Instant) {
        self.provided += sent;
        self.failed += failed;
        if sent > 0 {
            self.failures = 0;
            self.pauses = 0;
        } else if failed > 0 {
            self.failures = self.failures.saturating_add(1);
            if self.failures >= self.config.max_failures && self.paused_until.is_none() {
                self.paused_until = Some(now + self.config.pause.delay(self.pauses, &mut self.rng));
                self.pauses = self.pauses.saturating_add(1);
                self.failures = 0;
            }
        }
    }

    fn unpause(&mut self) {
        self.paused_until = None;
        self.failures = 0;
        self.pauses = 0;
    }
}
