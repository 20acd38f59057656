//! One walk through the DHT towards a key: whom to ask next, and when everybody who counts has answered.
//!
//! Source: [Kademlia](https://pdos.csail.mit.edu/~petar/papers/maymounkov-kademlia-lncs.pdf) §2.3, with some changes
//! against peers that mislead:
//!
//! - **Credit.** Whoever named peers of which most do not answer is no longer believed: the others it named are asked
//!   only if there are too few that anybody else has named. Otherwise one liar could keep a walk busy with peers that do not exist.
//! - **Width.** Where far more peers lie around the key than the size of the network allows, somebody may have put them
//!   there. The walk then also asks the peers around that crowd, which hold the records of the key too (see
//!   [`wide_holders`]).
//!   What they have named close to the key is asked at the very end, a few of them, lest an honest peer is missed because a
//!   liar has named it too.
//! - **Addresses.** Whoever names a peer with wrong addresses must not keep it from being asked: it is asked once more
//!   when somebody names others. Where a peer has answered comes before what was said about it.
//! - **No early end.** An answer full of providers ends nothing: they may all be invented. The walk ends when the 20
//!   closest peers that answer have answered; its caller may stop before.

mod candidate;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId};

use crate::core::keyspace::{Distance, Position, REPLICATION};
use crate::core::provide::wide_holders;

use candidate::{Candidate, Credit, State};

/// Peers in one answer that are looked at: what an honest one has.
pub const MAX_NAMED: usize = REPLICATION;

/// Peers that only liars have named that are asked at the very end.
const MAX_LAST: usize = 8;

/// How a walk goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalkConfig {
    /// Peers that are asked at the same time while they answer fast; default 3, as in the paper.
    pub parallel: usize,
    /// After this time without an answer somebody else is asked as well; default 1.5 s.
    pub slow_after: Duration,
    /// After this time without an answer a peer no longer counts; default 6 s. An answer that still comes is heard.
    pub patience: Duration,
    /// Peers that are asked at the same time, slow ones included; default 32.
    pub max_running: usize,
    /// Peers that are asked in all; default 192.
    pub max_asked: usize,
    /// Peers that are remembered; default 512. The farthest leave first.
    pub max_candidates: usize,
    /// Peers in the network as far as known: where more lie around the key than this allows, the walk widens.
    pub size: Option<u64>,
}

impl Default for WalkConfig {
    fn default() -> Self {
        Self {
            parallel: 3,
            slow_after: Duration::from_millis(1500),
            patience: Duration::from_secs(6),
            max_running: 32,
            max_asked: 192,
            max_candidates: 512,
            size: None,
        }
    }
}

/// A peer that is to be asked, and where it can be dialled.
pub type Ask = (PeerId, Vec<Multiaddr>);

/// The walk.
///
/// # Invariants
/// - Nobody is asked twice but those that failed for their addresses, and these once more; at most `max_asked` are in all and `max_running` at the same time.
/// - At most `max_candidates` are remembered.
#[derive(Debug)]
pub struct Walk {
    config: WalkConfig,
    target: Position,
    local: Position,
    /// By distance from the target, which no two peers share.
    candidates: BTreeMap<Distance, Candidate>,
    /// What became of the peers that each answering peer has named, by the number of its answer.
    credits: Vec<Credit>,
    asked: usize,
    running: usize,
    answered: usize,
    failed: usize,
    /// Peers that were asked twice.
    retried: usize,
    /// Peers asked at the very end, and those of them that are being asked.
    last: usize,
    last_running: usize,
    /// Whether a crowd around the key makes the walk ask more than the 20 closest.
    is_wide: bool,
}

impl Walk {
    /// A walk of the node `local` to `target`, which begins with these peers of its routing table.
    pub fn new(config: WalkConfig, target: Position, local: PeerId, seeds: Vec<Ask>) -> Self {
        let mut walk = Self {
            config,
            target,
            local: Position::of_peer(&local),
            candidates: BTreeMap::new(),
            credits: Vec::new(),
            asked: 0,
            running: 0,
            answered: 0,
            failed: 0,
            retried: 0,
            last: 0,
            last_running: 0,
            is_wide: false,
        };
        for (peer, addrs) in seeds {
            walk.add(peer, addrs, None);
        }
        walk.bound();
        walk
    }

    /// `peer` has answered and named others. An answer that was not asked for is ignored.
    pub fn on_answer(&mut self, peer: &PeerId, named: Vec<Ask>) {
        let Some(candidate) = self.candidates.get_mut(&self.target.distance(&Position::of_peer(peer))) else {
            return;
        };
        match candidate.state {
            State::Asked(_) => {
                self.running -= 1;
                self.last_running -= usize::from(candidate.is_last);
            }
            // It was given up, and answers after all.
            State::Failed if candidate.is_late => self.failed -= 1,
            State::Failed | State::New | State::Answered => return,
        }
        candidate.state = State::Answered;
        self.answered += 1;
        for namer in &candidate.named_by {
            self.credits[usize::from(*namer)].good += 1;
        }
        let Ok(namer) = u16::try_from(self.credits.len()) else { return };
        self.credits.push(Credit::default());
        for (peer, addrs) in named.into_iter().take(MAX_NAMED) {
            self.add(peer, addrs, Some(namer));
        }
        self.bound();
    }

    /// `peer`, which has answered, is at these addresses.
    pub fn on_reached(&mut self, peer: &PeerId, addrs: Vec<Multiaddr>) {
        let candidate = self.candidates.get_mut(&self.target.distance(&Position::of_peer(peer)));
        if let Some(candidate) = candidate.filter(|candidate| candidate.state == State::Answered) {
            candidate.reached_at(addrs);
        }
    }

    /// `peer` gave no answer that makes sense.
    pub fn on_failed(&mut self, peer: &PeerId) {
        self.fail(self.target.distance(&Position::of_peer(peer)), false);
    }

    /// `peer` is not at the addresses with which it was to be asked. It is asked once more at others, if it has or gets
    /// any.
    pub fn on_unreachable(&mut self, peer: &PeerId) {
        let distance = self.target.distance(&Position::of_peer(peer));
        self.fail(distance, false);
        let Some(candidate) = self.candidates.get_mut(&distance) else { return };
        if candidate.state == State::Failed {
            candidate.is_late = false;
            candidate.on_unreachable();
            self.retry(distance);
        }
    }

    /// `peer` could not be asked now, which says nothing about it: it is to be asked later.
    pub fn on_not_asked(&mut self, peer: &PeerId) {
        let Some(candidate) = self.candidates.get_mut(&self.target.distance(&Position::of_peer(peer))) else {
            return;
        };
        if matches!(candidate.state, State::Asked(_)) {
            candidate.state = State::New;
            self.running -= 1;
            self.asked -= 1;
            if std::mem::take(&mut candidate.is_last) {
                self.last_running -= 1;
                self.last -= 1;
            }
        }
    }

    /// Time has passed.
    pub fn on_timeout(&mut self, now: Instant) {
        let patience = self.config.patience;
        let late: Vec<Distance> = self
            .candidates
            .iter()
            .filter(|(_, candidate)| candidate.asked_for(now).is_some_and(|time| time >= patience))
            .map(|(distance, _)| *distance)
            .collect();
        for distance in late {
            self.fail(distance, true);
        }
    }

    /// When [`Self::on_timeout`] and [`Self::next_ask`] are due again, if nothing else happens.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let wait = |asked: Instant| {
            let slow = asked + self.config.slow_after;
            if slow > now { slow } else { asked + self.config.patience }
        };
        self.candidates.values().filter_map(|candidate| candidate.asked_at()).map(wait).min()
    }

    /// The next peer to ask, if it is time to ask one.
    pub fn next_ask(&mut self, now: Instant) -> Option<Ask> {
        let slow_after = self.config.slow_after;
        let is_slow = |candidate: &Candidate| candidate.asked_for(now).is_some_and(|time| time >= slow_after);
        let slow = self.candidates.values().filter(|candidate| is_slow(candidate)).count();
        if self.running - slow >= self.config.parallel
            || self.running >= self.config.max_running
            || self.asked >= self.config.max_asked
        {
            return None;
        }
        let wanted = self.next_wanted(|candidate| !is_slow(candidate)).or_else(|| self.widen());
        let distance = wanted.or_else(|| self.next_last())?;
        let candidate = self.candidates.get_mut(&distance)?;
        if wanted.is_none() {
            candidate.is_last = true;
            self.last += 1;
            self.last_running += 1;
        }
        candidate.on_asked(now);
        self.asked += 1;
        self.running += 1;
        Some((candidate.peer, candidate.addrs.clone()))
    }

    /// Whether everybody who counts has answered. To be asked when [`Self::next_ask`] has nobody, and nobody could not be
    /// asked.
    pub fn is_done(&self) -> bool {
        self.running == 0
    }

    /// The closest peers that have answered, closest first.
    pub fn closest(&self) -> impl Iterator<Item = (PeerId, &[Multiaddr])> {
        let answered = self.candidates.values().filter(|candidate| candidate.state == State::Answered);
        answered.take(REPLICATION).map(|candidate| (candidate.peer, candidate.addrs.as_slice()))
    }

    /// Peers that were asked.
    pub fn asked(&self) -> usize {
        self.asked
    }

    /// Peers that have answered.
    pub fn answered(&self) -> usize {
        self.answered
    }

    /// Peers that have failed.
    pub fn failed(&self) -> usize {
        self.failed
    }

    /// Whether the key lies in a crowd, so that more peers than usual are asked.
    pub fn is_wide(&self) -> bool {
        self.is_wide
    }

    fn fail(&mut self, distance: Distance, is_late: bool) {
        let Some(candidate) = self.candidates.get_mut(&distance) else { return };
        if !matches!(candidate.state, State::Asked(_)) {
            return;
        }
        (candidate.state, candidate.is_late) = (State::Failed, is_late);
        self.last_running -= usize::from(candidate.is_last);
        self.running -= 1;
        self.failed += 1;
        for namer in &candidate.named_by {
            self.credits[usize::from(*namer)].bad += 1;
        }
    }

    fn add(&mut self, peer: PeerId, addrs: Vec<Multiaddr>, namer: Option<u16>) {
        let position = Position::of_peer(&peer);
        if position == self.local {
            return;
        }
        let distance = self.target.distance(&position);
        let candidate = self.candidates.entry(distance);
        candidate.or_insert_with(|| Candidate::new(peer, namer.is_none())).named(addrs, namer);
        self.retry(distance);
    }

    /// A peer that failed for its addresses is to be asked once more, if it has others.
    fn retry(&mut self, distance: Distance) {
        let candidate = self.candidates.get_mut(&distance);
        if let Some(candidate) = candidate.filter(|candidate| candidate.is_worth_another_try()) {
            candidate.on_retried();
            self.last -= usize::from(std::mem::take(&mut candidate.is_last));
            self.failed -= 1;
            self.retried += 1;
        }
    }

    /// Those that only liars have named leave first, then the farthest that others have named.
    fn bound(&mut self) {
        while self.candidates.len() > self.config.max_candidates {
            let new = || self.candidates.iter().rev().filter(|(_, candidate)| candidate.state == State::New);
            let doubtful = new().find(|(_, candidate)| candidate.is_doubtful(&self.credits));
            let named = || new().find(|(_, candidate)| !candidate.is_own());
            let Some((distance, _)) = doubtful.or_else(named).or_else(|| new().next()) else { return };
            let distance = *distance;
            self.candidates.remove(&distance);
        }
    }

    /// The nearest that was not asked yet among the 20 closest that can be counted on; those that only liars have named
    /// come after all others.
    fn next_wanted(&self, counts: impl Fn(&Candidate) -> bool) -> Option<Distance> {
        let living = self.candidates.iter().filter(|(_, candidate)| candidate.state != State::Failed);
        let (doubtful, good): (Vec<_>, Vec<_>) =
            living.partition(|(_, candidate)| candidate.is_doubtful(&self.credits));
        let mut places = REPLICATION;
        for (distance, candidate) in good.into_iter().chain(doubtful) {
            if places == 0 {
                break;
            }
            if candidate.state == State::New {
                return Some(*distance);
            }
            places -= usize::from(counts(candidate));
        }
        None
    }

    /// At the very end, when nobody else is awaited: the nearest that only liars have named, if it is nearer than what was
    /// found.
    fn next_last(&self) -> Option<Distance> {
        if self.running > self.last_running || self.last >= MAX_LAST {
            return None;
        }
        let answered = |(_, candidate): &(&Distance, &Candidate)| candidate.state == State::Answered;
        let farthest = self.candidates.iter().filter(answered).nth(REPLICATION - 1)?.0;
        let mut doubtful = self.candidates.range(..farthest);
        doubtful.find(|(_, candidate)| candidate.is_doubtful(&self.credits)).map(|(distance, _)| *distance)
    }

    /// The nearest that was not asked among those that hold the key because it lies in a crowd.
    fn widen(&mut self) -> Option<Distance> {
        let size = self.config.size?;
        let mut living: Vec<(Position, Distance)> = self
            .candidates
            .iter()
            .filter(|(_, candidate)| candidate.state != State::Failed)
            .filter(|(_, candidate)| !candidate.is_doubtful(&self.credits))
            .map(|(distance, candidate)| (Position::of_peer(&candidate.peer), *distance))
            .collect();
        living.sort_unstable();
        let positions: Vec<Position> = living.iter().map(|(position, _)| *position).collect();
        let holders = wide_holders(&self.target, &positions, size);
        self.is_wide |= !holders.is_empty();
        let is_new = |distance: &Distance| self.candidates[distance].state == State::New;
        let distances = holders.into_iter().filter_map(|index| living.get(index));
        distances.map(|(_, distance)| *distance).filter(is_new).min()
    }

    /// Panics unless the books balance. For tests.
    pub fn check_invariants(&self) {
        let count = |state: fn(&State) -> bool| self.candidates.values().filter(|c| state(&c.state)).count();
        assert_eq!(count(|state| matches!(state, State::Asked(_))), self.running);
        assert_eq!(count(|state| *state == State::Answered), self.answered);
        assert_eq!(count(|state| *state == State::Failed), self.failed);
        assert_eq!(self.running + self.answered + self.failed + self.retried, self.asked);
        let last = self.candidates.values().filter(|c| c.is_last);
        let (last, last_running) =
            last.fold((0, 0), |(all, running), c| (all + 1, running + usize::from(c.asked_at().is_some())));
        assert_eq!((last, last_running), (self.last, self.last_running));
        assert!(self.last <= MAX_LAST);
        assert!(self.asked <= self.config.max_asked && self.running <= self.config.max_running);
        assert!(self.candidates.len() <= self.config.max_candidates.max(self.asked));
    }
}
