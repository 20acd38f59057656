//! The walk of one region: lookups until every peer in it is known.
//!
//! A lookup of a target finds the 20 peers closest to it. Every peer that shares more bits with the target than the
//! farthest of them is then known; the walk goes on with a target in what is still unknown, until nothing of the
//! region is. What the [`NetworkMap`] knows from walks shortly before is not walked again.
//!
//! The walk never assumes: a region counts as complete only if lookups covered all of it and 20 peers are in it (or
//! it is the whole network). One with fewer is widened, because the peers closest to its keys lie outside of it.

use std::{collections::BTreeMap, time::Instant};

use super::map::{FoundPeer, NetworkMap};
use crate::core::keyspace::{Position, Prefix, PrefixSet, REPLICATION};

/// Limits of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalkConfig {
    /// Lookups of one walk; default 64, enough for some 800 peers.
    pub max_lookups: u32,
    /// After so many lookups in a row that brought neither a peer nor certainty the walk ends; default 2: the
    /// network does not answer.
    pub max_fruitless: u32,
    /// Lookups at the same time; default 3.
    pub max_parallel: usize,
}

impl Default for WalkConfig {
    fn default() -> Self {
        Self { max_lookups: 64, max_fruitless: 2, max_parallel: 3 }
    }
}

/// A gap so many bits narrower than what one lookup covers is left alone: it exists only where somebody has put 20
/// peers next to each other, they are known by then, and finding a target inside would take millions of hashes.
const FINE_GAP_BITS: u16 = 8;

/// Names a lookup of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookupNo(u32);

/// What the driver is to do for a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalkAction {
    /// Search a target in this prefix ([`target_in`](crate::core::keyspace::target_in)), look up the peers closest
    /// to it, then report [`RegionWalk::on_found`] or [`RegionWalk::on_failed`].
    Lookup(LookupNo, Prefix),
    /// The walk has ended.
    Done(RegionReport),
}

/// What a walk has found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionReport {
    /// The region that was asked for.
    pub target: Prefix,
    /// The region around it that was walked, wider if there are too few peers in the one asked for.
    pub known: Prefix,
    /// Whether every peer in `known` is known. If not, [`NetworkMap::knows_closest`] tells for which keys the
    /// closest peers are known nevertheless.
    pub complete: bool,
    /// Gaps too narrow to be looked into.
    pub fine_gaps: usize,
    /// Peers in `known`.
    pub peers: usize,
    /// Lookups that were made, those that failed included.
    pub lookups: u32,
    /// Of these, failed.
    pub failed: u32,
}

/// The walk. Shares the [`NetworkMap`] with others: every call takes it.
#[derive(Debug)]
pub struct RegionWalk {
    config: WalkConfig,
    target: Prefix,
    /// The region walked now: `target` or wider.
    known: Prefix,
    /// What was found out before does not count.
    since: Instant,
    in_flight: BTreeMap<LookupNo, Prefix>,
    lookups: u32,
    failed: u32,
    /// Lookups in a row that brought nothing.
    fruitless: u32,
    done: bool,
}

impl RegionWalk {
    /// A walk of `target`. Knowledge of the map counts if it is not older than `since`.
    pub fn new(config: WalkConfig, target: Prefix, since: Instant) -> Self {
        Self {
            config,
            target,
            known: target,
            since,
            in_flight: BTreeMap::new(),
            lookups: 0,
            failed: 0,
            fruitless: 0,
            done: false,
        }
    }

    /// A lookup of `target` found these peers as the closest.
    pub fn on_found(
        &mut self,
        lookup: LookupNo,
        target: Position,
        closest: Vec<FoundPeer>,
        map: &mut NetworkMap,
        now: Instant,
    ) {
        if self.in_flight.remove(&lookup).is_none() {
            return;
        }
        let gaps = map.covered(self.since).gaps(&self.known);
        let new = map.on_lookup(target, closest, &self.known, self.since, now);
        if new > 0 || map.covered(self.since).gaps(&self.known) != gaps {
            self.fruitless = 0;
        } else {
            self.fruitless += 1;
        }
    }

    /// A lookup found nobody or did not end well.
    pub fn on_failed(&mut self, lookup: LookupNo) {
        if self.in_flight.remove(&lookup).is_some() {
            self.failed += 1;
            self.fruitless += 1;
        }
    }

    /// The next thing to do; call until `None` after every input. Nothing comes after [`WalkAction::Done`].
    pub fn next_action(&mut self, map: &NetworkMap) -> Option<WalkAction> {
        if self.done {
            return None;
        }
        let covered = map.covered(self.since);
        let fine = fine_gap_len(map);
        while gap_in(&covered, &self.known, fine).is_none() {
            match self.known.parent() {
                Some(parent) if self.peers(map) < REPLICATION => self.known = parent,
                _ => return self.finish(map, &covered, true),
            }
        }
        let may_look = self.lookups < self.config.max_lookups && self.fruitless < self.config.max_fruitless;
        if may_look && self.in_flight.len() < self.config.max_parallel.max(1) {
            let mut taken = covered;
            self.in_flight.values().for_each(|prefix| taken.insert(*prefix));
            if let Some(gap) = gap_in(&taken, &self.known, fine) {
                // Not the whole gap: another lookup may take the rest of it at the same time.
                let prefix = Prefix::of(gap.first(), gap.bit_len().max(lookup_len(map)));
                let lookup = LookupNo(self.lookups);
                self.lookups += 1;
                self.in_flight.insert(lookup, prefix);
                return Some(WalkAction::Lookup(lookup, prefix));
            }
        }
        if self.in_flight.is_empty() { self.finish(map, &map.covered(self.since), false) } else { None }
    }

    /// Lookups under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// What is known when: the time that [`NetworkMap`] wants to be asked with.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Panics if a bound is exceeded; for tests.
    pub fn check_invariants(&self) {
        assert!(self.lookups <= self.config.max_lookups, "too many lookups");
        assert!(self.in_flight.len() <= self.config.max_parallel.max(1), "too many at a time");
        assert!(self.known.covers(&self.target), "walks something else");
        assert!(!self.done || self.in_flight.is_empty() || self.fruitless == 0, "ended too early");
    }

    fn peers(&self, map: &NetworkMap) -> usize {
        map.peers_in(&self.known, self.since).count()
    }

    fn finish(&mut self, map: &NetworkMap, covered: &PrefixSet, complete: bool) -> Option<WalkAction> {
        self.done = true;
        Some(WalkAction::Done(RegionReport {
            target: self.target,
            known: self.known,
            complete,
            fine_gaps: if complete { covered.gaps(&self.known).len() } else { 0 },
            peers: self.peers(map),
            lookups: self.lookups,
            failed: self.failed,
        }))
    }
}

/// The first gap that is worth a lookup.
fn gap_in(covered: &PrefixSet, prefix: &Prefix, fine: u16) -> Option<Prefix> {
    match covered.first_gap(prefix) {
        Some(gap) if gap.bit_len() > fine => {
            covered.gaps(prefix).into_iter().find(|gap| gap.bit_len() <= fine.max(prefix.bit_len()))
        }
        gap => gap,
    }
}

/// Prefixes of this length hold 20 to 40 peers: at least one lookup each.
fn lookup_len(map: &NetworkMap) -> u16 {
    let share = map.size().unwrap_or(1) / REPLICATION as u64;
    u16::try_from(share.max(1).ilog2()).unwrap_or(0)
}

fn fine_gap_len(map: &NetworkMap) -> u16 {
    // One lookup covers half of that or a quarter.
    lookup_len(map) + 2 + FINE_GAP_BITS
}
