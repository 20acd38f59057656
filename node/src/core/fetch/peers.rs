//! What is known about each peer of a fetch: its connection, what it is believed to hold, how it behaves.
//!
//! # What a peer may be asked for
//! A peer that provides the root is *full*: it is believed to hold every want it has not answered Missing for.
//! The others are believed to hold single wants (`believed`). `missing` marks the answers, one bit a want.
//!
//! Finding the next want for a full peer must not look at the same missing ones again and again, so it keeps a
//! `cursor`: every pending want before it is either missing here or listed in `extra`. When nothing is found the
//! peer is `exhausted` until something it may be asked for turns up.
//!
//! # Asking again
//! Marks do not last for ever, because a peer that is fetching itself grows. When a full peer is exhausted and
//! its last Missing is old enough, a few marks are lifted (`Recheck`); every hit lifts two more, so a peer that
//! grew is used at once and one that did not costs a few requests a minute. Of a peer that tells what it holds
//! ([`maps`](super::maps)) only marks of what it denied are lifted.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Index, IndexMut},
    time::Instant,
};

use libp2p::PeerId;

use crate::core::MAX_LANE_WANTS;

use super::{
    PeerState, RequestId,
    config::FetchConfig,
    maps::{Coverage, Maps},
    pace::Pace,
    wants::{Rank, WantIx, Wants},
};

/// Most banned peers remembered after they left the table: 4,096, about 250 KiB.
const MAX_BANNED: usize = 4096;

/// Most wants listed in `extra`; with more of them the cursor starts over.
const MAX_EXTRA: usize = 4096;

/// Wants among which the rarest is chosen: of a file of up to 128 MiB all.
const MAX_COMPARED: usize = 128;

/// Wants that are looked at to find so many.
const MAX_LOOKED_AT: usize = 1024;

/// Units that a peer may have on the way for each one it has served.
const TRUST: u64 = 2;

/// Requests that a peer may have in flight if each has a stream of its own: half of what nodes serve.
const MAX_STREAMS: usize = 32;

/// Requests that a peer may have in flight on a lane: three quarters of what fits on one, the rest being for what was taken
/// back and is not answered yet.
const MAX_ON_LANE: usize = MAX_LANE_WANTS / 4 * 3;

/// Position of a peer in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PeerIx(u16);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// Never dialled so far.
    Known,
    /// `patient` until the dial takes too long to count as a source.
    Dialling {
        since: Instant,
        patient: bool,
    },
    Connected,
    /// Not dialled again before `until`.
    Backoff {
        until: Instant,
    },
    /// Never asked again.
    Banned,
}

/// Why a peer is not asked for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// It said that it is overloaded.
    Busy,
    /// A request failed in the transport.
    Failed,
    /// A block was not what it should be.
    WrongData,
}

/// One bit a want.
#[derive(Debug, Default)]
pub(super) struct Marks {
    words: Vec<u64>,
    count: usize,
}

impl Marks {
    pub(super) fn contains(&self, ix: WantIx) -> bool {
        self.words.get(ix.0 as usize / 64).is_some_and(|word| word >> (ix.0 % 64) & 1 == 1)
    }

    pub(super) fn insert(&mut self, ix: WantIx) {
        let word = ix.0 as usize / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.count += usize::from(!self.contains(ix));
        self.words[word] |= 1 << (ix.0 % 64);
    }

    pub(super) fn remove(&mut self, ix: WantIx) {
        if self.contains(ix) {
            self.words[ix.0 as usize / 64] &= !(1 << (ix.0 % 64));
            self.count -= 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// When and how far marks are lifted. See the module's documentation.
#[derive(Debug)]
pub(super) struct Recheck {
    /// When the next round may start.
    pub(super) at: Instant,
    /// Rounds in a row without a hit.
    pub(super) attempt: u32,
    /// Where the next round goes on.
    cursor: Rank,
    /// Wants that this round may still look at: one lap.
    lap_left: usize,
    /// Marks that this round may still lift.
    credit: u32,
    /// Wants whose mark this round has lifted.
    lifted: BTreeSet<WantIx>,
    /// Wants that the peer was found to lack during this round: not for this round again.
    lacked: BTreeSet<WantIx>,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) link: Link,
    pub(super) full: bool,
    pub(super) hint: bool,
    /// Whether the own limit counts for it.
    pub(super) metered: bool,
    /// Connections in a row that failed or ended without a stored block.
    pub(super) tries: u32,
    pub(super) missing: Marks,
    pub(super) believed: BTreeSet<Rank>,
    /// What it says that it holds.
    pub(super) maps: Maps,
    cursor: Rank,
    extra: BTreeSet<Rank>,
    /// How many neighbours of a want that it served it is guessed to hold, if it is not full.
    pub(super) guesses: u32,
    /// Whether it is asked on a lane.
    pub(super) has_lane: bool,
    /// Nothing pending that this peer may be asked for.
    pub(super) exhausted: bool,
    pub(super) recheck: Recheck,
    /// In flight and not late, oldest first.
    pub(super) fresh: BTreeSet<RequestId>,
    /// The last one of which one half was here, and what it weighs.
    pub(super) half: Option<(RequestId, u32)>,
    /// When the first of these will be late.
    pub(super) late_at: Option<(Instant, RequestId)>,
    pub(super) late: BTreeSet<RequestId>,
    /// Units in flight, zombies included.
    pub(super) units: u32,
    pub(super) pace: Pace,
    pub(super) paused_until: Option<Instant>,
    /// Why, the last time.
    pub(super) pause: Pause,
    pub(super) busy_streak: u32,
    /// How many requests waited there when it said last that it is busy, if it said so.
    pub(super) queue: Option<u32>,
    pub(super) fail_streak: u32,
    pub(super) strikes: u32,
    /// Does not answer, or not usefully, at the moment: does not count as a source.
    pub(super) doubtful: bool,
    pub(super) last_answer: Instant,
    /// Whether it has answered anything since it was connected.
    pub(super) answers: bool,
    pub(super) last_asked: Option<RequestId>,
    pub(super) served: u64,
    pub(super) served_len: u64,
    /// Units of its blocks that had the right hash.
    pub(super) verified_units: u64,
    /// Bytes of these.
    pub(super) verified_len: u64,
    /// Units that arrived and are not verified yet.
    pub(super) unverified_units: u32,
    /// Bytes of bad answers.
    pub(super) spoilt_len: u64,
}

impl Peer {
    fn new(id: PeerId, config: &FetchConfig, now: Instant) -> Self {
        Self {
            id,
            link: Link::Known,
            full: false,
            hint: false,
            metered: false,
            tries: 0,
            missing: Marks::default(),
            believed: BTreeSet::new(),
            maps: Maps::default(),
            cursor: Rank::FIRST,
            extra: BTreeSet::new(),
            guesses: 1,
            has_lane: false,
            exhausted: false,
            recheck: Recheck {
                at: now,
                attempt: 0,
                cursor: Rank::FIRST,
                lap_left: 0,
                credit: 0,
                lifted: BTreeSet::new(),
                lacked: BTreeSet::new(),
            },
            fresh: BTreeSet::new(),
            half: None,
            late_at: None,
            late: BTreeSet::new(),
            units: 0,
            pace: Pace::new(config),
            paused_until: None,
            pause: Pause::Busy,
            busy_streak: 0,
            queue: None,
            fail_streak: 0,
            strikes: 0,
            doubtful: false,
            last_answer: now,
            answers: false,
            last_asked: None,
            served: 0,
            served_len: 0,
            verified_units: 0,
            verified_len: 0,
            unverified_units: 0,
            spoilt_len: 0,
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.link == Link::Connected
    }

    /// Requests in flight whose answer is wanted.
    pub(super) fn in_flight(&self) -> usize {
        self.fresh.len() + self.late.len()
    }

    /// How many there may be, however small.
    fn max_in_flight(&self) -> usize {
        if self.has_lane { MAX_ON_LANE } else { MAX_STREAMS }
    }

    /// It has answered a request, whatever.
    pub(super) fn note_answer(&mut self, now: Instant) {
        self.last_answer = now;
        self.answers = true;
    }

    /// Whether requests may be sent to it now.
    pub(super) fn can_be_asked(&self, now: Instant) -> bool {
        self.is_connected() && self.paused_until.is_none_or(|until| until <= now)
    }

    /// Whether there is room for at least a small request.
    pub(super) fn has_room(&self, slow: bool) -> bool {
        let fits = self.load() < self.pace.window() || self.is_stuck(slow);
        fits && self.in_flight() < self.max_in_flight() && self.is_trusted_with(1, slow)
    }

    /// Units in flight. Where only one large request is at a time it does not count any more when half of its block is here: the
    /// next one is asked for in time then, and hardly waits.
    pub(super) fn load(&self) -> u32 {
        self.units - self.half_here()
    }

    /// What a request weighs that does not count because half of its block is here; 0 if there is none.
    pub(super) fn half_here(&self) -> u32 {
        let coming = self.half.filter(|(id, _)| self.fresh.contains(id) || self.late.contains(id));
        coming.filter(|_| self.pace.is_single()).map_or(0, |(_, units)| units)
    }

    /// Whether there is room for a request of this weight.
    pub(super) fn has_room_for(&self, units: u32, slow: bool) -> bool {
        let load = self.load();
        let fits = load == 0 || load + units <= self.pace.window() || self.is_stuck(slow);
        fits && self.in_flight() < self.max_in_flight() && self.is_trusted_with(units, slow)
    }

    /// Whether it has served nothing because its first request was lost, perhaps.
    fn is_stuck(&self, slow: bool) -> bool {
        slow && self.verified_units == 0 && self.fresh.is_empty() && self.units <= self.pace.window()
    }

    /// Whether so much more may come unverified. A peer that has served nothing good is asked for one block at a
    /// time, and later for at most twice what it has served: a hostile one costs one block, also if it began with a
    /// small good one. In a fetch that gets nowhere (`slow`) what is late does not count, so that a lost request
    /// does not cost the only provider.
    fn is_trusted_with(&self, units: u32, slow: bool) -> bool {
        let pending = self.units + self.unverified_units;
        pending == 0
            || slow && self.fresh.is_empty()
            || u64::from(pending + units) <= self.verified_units * TRUST
    }

    /// Whether it is believed to hold this want.
    pub(super) fn may_hold(&self, ix: WantIx, rank: Rank) -> bool {
        if self.full { !self.missing.contains(ix) } else { self.believed.contains(&rank) }
    }

    /// Whether it is there, or about to be, and answers: a source to rely on.
    pub(super) fn counts(&self) -> bool {
        match self.link {
            Link::Connected => !self.doubtful,
            Link::Dialling { patient, .. } => patient,
            Link::Known | Link::Backoff { .. } | Link::Banned => false,
        }
    }

    /// Whether a place among the useful peers is taken by it.
    pub(super) fn is_useful(&self) -> bool {
        self.counts() && (!self.exhausted || self.in_flight() > 0 || (self.full && self.missing.is_empty()))
    }

    /// A want is pending (again).
    pub(super) fn note_pending(&mut self, ix: WantIx, rank: Rank) {
        if !self.may_hold(ix, rank) {
            return;
        }
        self.exhausted = false;
        if self.full && rank < self.cursor {
            if self.missing.is_empty() {
                self.cursor = rank;
            } else if self.extra.len() >= MAX_EXTRA {
                // Mostly stale by now: looking at the missing ones once more is cheaper than keeping them.
                self.extra.clear();
                self.cursor = Rank::FIRST;
            } else {
                self.extra.insert(rank);
            }
        }
    }

    /// The peer is now believed to hold everything.
    pub(super) fn set_full(&mut self) {
        self.full = true;
        self.believed.clear();
        self.cursor = Rank::FIRST;
        self.exhausted = false;
    }

    /// The peer answered Missing.
    pub(super) fn mark_missing(&mut self, ix: WantIx, rank: Rank, config: &FetchConfig, now: Instant) {
        self.believed.remove(&rank);
        self.guesses = 1;
        self.missing.insert(ix);
        if self.recheck.lap_left > 0 {
            self.recheck.lacked.insert(ix);
        }
        self.recheck.at = self.recheck.at.max(now + config.recheck.ceiling(self.recheck.attempt));
    }

    /// The peer is named as a provider of this want, whatever it answered before.
    pub(super) fn unmark(&mut self, ix: WantIx, rank: Rank) {
        self.missing.remove(ix);
        self.note_pending(ix, rank);
    }

    /// The next pending want for this peer; does not take it.
    pub(super) fn peek(&mut self, wants: &Wants) -> Option<Rank> {
        if self.exhausted {
            return None;
        }
        let next = if self.full {
            while let Some(rank) = self.extra.first().copied() {
                if wants.is_pending(rank) && !self.missing.contains(rank.want()) {
                    break;
                }
                self.extra.pop_first();
            }
            let missing = &self.missing;
            let ahead = wants.pending().range(self.cursor..).find(|rank| !missing.contains(rank.want()));
            self.cursor = ahead.copied().unwrap_or(Rank::END);
            self.extra.first().into_iter().chain(ahead).min().copied()
        } else {
            self.believed.iter().find(|rank| wants.is_pending(**rank)).copied()
        };
        self.exhausted = next.is_none();
        next
    }

    /// Of the first pending wants that it may hold the one that the fewest tell they hold; to be called after [`Self::peek`].
    pub(super) fn rarest(&self, wants: &Wants, coverage: &Coverage) -> Option<Rank> {
        let ahead = self.extra.iter().chain(wants.pending().range(self.cursor..)).take(MAX_LOOKED_AT);
        let may_ask = ahead.filter(|rank| wants.is_pending(**rank) && !self.missing.contains(rank.want()));
        may_ask.take(MAX_COMPARED).min_by_key(|rank| (coverage.of(rank.want()), **rank)).copied()
    }

    /// Whether marks may be lifted now; the caller knows that the peer is idle.
    pub(super) fn recheck_is_due(&self, now: Instant) -> bool {
        let goes_on = self.recheck_goes_on() && !self.maps.is_told();
        self.may_recheck() && (goes_on || self.recheck.at <= now)
    }

    /// Whether there is a mark to lift at all.
    pub(super) fn may_recheck(&self) -> bool {
        let has_marks = if self.maps.is_told() { self.maps.has_denied() } else { !self.missing.is_empty() };
        self.full && self.exhausted && has_marks
    }

    /// The peer says that it holds this want.
    pub(super) fn now_holds(&mut self, ix: WantIx, rank: Rank, is_pending: bool) {
        self.missing.remove(ix);
        if is_pending {
            self.note_pending(ix, rank);
        }
    }

    /// The peer says that it holds everything.
    pub(super) fn lacks_nothing(&mut self) {
        self.missing = Marks::default();
        self.extra.clear();
        self.cursor = Rank::FIRST;
        self.exhausted = false;
    }

    fn recheck_goes_on(&self) -> bool {
        self.recheck.credit > 0 && self.recheck.lap_left > 0
    }

    /// Lifts marks of pending wants and of those whose copies elsewhere are late.
    pub(super) fn lift_marks(
        &mut self,
        wants: &Wants,
        late: &BTreeSet<WantIx>,
        config: &FetchConfig,
        now: Instant,
    ) {
        if !self.recheck_goes_on() {
            self.recheck.at = now + config.recheck.ceiling(self.recheck.attempt);
            self.recheck.attempt = self.recheck.attempt.saturating_add(1);
            self.recheck.credit = config.recheck_batch;
            self.recheck.lap_left = wants.pending().len();
            self.recheck.lifted.clear();
            self.recheck.lacked.clear();
            for ix in late.iter().take(config.recheck_batch as usize) {
                self.missing.remove(*ix);
                self.recheck.lifted.insert(*ix);
            }
        }
        while self.recheck_goes_on() {
            let mut ring = wants
                .pending()
                .range(self.recheck.cursor..)
                .chain(wants.pending().range(..self.recheck.cursor));
            let Some(rank) = ring.next().copied() else {
                self.recheck.lap_left = 0;
                break;
            };
            self.recheck.cursor = rank.after();
            self.recheck.lap_left -= 1;
            if self.missing.contains(rank.want()) && !self.recheck.lacked.contains(&rank.want()) {
                self.recheck.credit -= 1;
                self.recheck.lifted.insert(rank.want());
                self.unmark(rank.want(), rank);
            }
        }
    }

    /// What kept it from being dialled or asked again is void, except that it sent wrong data.
    pub(super) fn refresh(&mut self, now: Instant) {
        self.tries = 0;
        if let Link::Backoff { until } = &mut self.link {
            *until = now;
        }
        self.recheck.at = self.recheck.at.min(now);
        self.recheck.attempt = 0;
    }

    /// A block for this want arrived: if its mark had been lifted, the peer has grown.
    pub(super) fn note_hit(&mut self, ix: WantIx) {
        if self.recheck.lifted.remove(&ix) {
            self.recheck.attempt = 0;
            self.recheck.credit = self.recheck.credit.saturating_add(2);
        }
    }

    /// How little is lost when this peer is forgotten for a new one; `None` if it must not be.
    fn uselessness(&self) -> Option<(u8, u32)> {
        match self.link {
            Link::Known | Link::Backoff { .. } if !self.full && self.believed.is_empty() => Some((4, 0)),
            Link::Banned => Some((3, 0)),
            Link::Backoff { .. } if self.tries > 0 && !self.hint => Some((2, self.tries)),
            Link::Connected if self.units == 0 && self.served == 0 && !self.hint && self.has_nothing() => {
                Some((1, self.recheck.attempt))
            }
            _ => None,
        }
    }

    /// Whether it has nothing that it may be asked for now.
    fn has_nothing(&self) -> bool {
        self.full && self.exhausted && !self.missing.is_empty()
    }

    pub(super) fn state(&self) -> PeerState {
        match self.link {
            Link::Known | Link::Backoff { .. } => PeerState::Backoff,
            Link::Dialling { .. } => PeerState::Dialling,
            Link::Connected => PeerState::Connected,
            Link::Banned => PeerState::Banned,
        }
    }

    pub(super) fn check_invariants(&self, wants: &Wants) {
        self.pace.check_invariants();
        assert!(self.is_connected() || self.in_flight() == 0, "in flight to a peer that is not connected");
        assert!(self.is_connected() || self.units == 0, "units of a peer that is not connected");
        assert!(!self.full || self.believed.is_empty(), "a full peer needs no list");
        for rank in wants.pending() {
            if self.may_hold(rank.want(), *rank) {
                assert!(!self.exhausted, "exhausted with something to ask for");
                let found = !self.full || *rank >= self.cursor || self.extra.contains(rank);
                assert!(found, "a pending want that the peer would never be asked for");
            }
        }
        for rank in &self.believed {
            assert!(wants.rank(rank.want()) == *rank, "rank of a believed want");
            assert!(!self.missing.contains(rank.want()), "believed to hold what it lacks");
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Peers {
    list: Vec<Peer>,
    by_id: BTreeMap<PeerId, PeerIx>,
    /// Banned peers that had to leave the table.
    banned: BTreeSet<PeerId>,
}

impl Index<PeerIx> for Peers {
    type Output = Peer;

    fn index(&self, ix: PeerIx) -> &Peer {
        &self.list[usize::from(ix.0)]
    }
}

impl IndexMut<PeerIx> for Peers {
    fn index_mut(&mut self, ix: PeerIx) -> &mut Peer {
        &mut self.list[usize::from(ix.0)]
    }
}

impl Peers {
    pub(super) fn find(&self, id: &PeerId) -> Option<PeerIx> {
        self.by_id.get(id).copied()
    }

    /// The peer's place, made if there is room or a useless peer to forget instead, which is
    /// returned too. `None` if the peer is banned or the table is full of better ones. `busy` names places
    /// that must stay.
    pub(super) fn find_or_add(
        &mut self,
        id: PeerId,
        config: &FetchConfig,
        now: Instant,
        busy: impl Fn(PeerIx) -> bool,
    ) -> Option<(PeerIx, Option<Peer>)> {
        if let Some(ix) = self.find(&id) {
            return Some((ix, None));
        }
        if self.banned.contains(&id) {
            return None;
        }
        let peer = Peer::new(id, config, now);
        if self.list.len() < config.max_known_peers {
            let ix = PeerIx(u16::try_from(self.list.len()).ok()?);
            self.list.push(peer);
            self.by_id.insert(id, ix);
            return Some((ix, None));
        }
        let useless = self.iter().filter(|(ix, _)| !busy(*ix));
        let ix = useless.filter_map(|(ix, old)| Some((old.uselessness()?, ix))).max()?.1;
        let old = std::mem::replace(&mut self[ix], peer);
        if old.link == Link::Banned && self.banned.len() < MAX_BANNED {
            self.banned.insert(old.id);
        }
        self.by_id.remove(&old.id);
        self.by_id.insert(id, ix);
        Some((ix, Some(old)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PeerIx, &Peer)> {
        (0..).map(PeerIx).zip(&self.list)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (PeerIx, &mut Peer)> {
        (0..).map(PeerIx).zip(&mut self.list)
    }

    /// All places, for loops that change peers.
    pub(super) fn ixs(&self) -> impl Iterator<Item = PeerIx> + use<> {
        let len = u16::try_from(self.list.len()).unwrap_or(u16::MAX);
        (0..len).map(PeerIx)
    }
}
