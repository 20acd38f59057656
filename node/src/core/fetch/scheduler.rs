//! Which want is requested from whom.
//!
//! Peers with room are served in turn: first those that answer, then the emptiest window, then who has served
//! something, then who was asked least recently. Each is given, in this order: a want whose copies elsewhere are
//! late, the next pending want it may hold, and, if it has nothing else to do, a second copy of the oldest request
//! in flight.
//!
//! Every second copy is a gamble: usually the first comes too, and was only slow. All copies share one budget: what
//! came twice or probably will stays below a twenty-fifth of what came and was of use. What was merely asked for is no
//! measure: among peers that fetch the same themselves most answers are Missing. Beyond the budget, as always in small
//! fetches, a copy is only made
//! - of what is late at a peer that has sent such blocks, after twice the time, more with each late one that came
//!   after all: where the lines are full everybody is slow, and a copy makes it worse;
//! - of what is late at a peer that has not sent one yet;
//! - of what waits in the queue of a peer, where it can be taken back: whichever of the two begins first is left. Of a few,
//!   some bytes come twice, for which there has to be room;
//! - a little earlier than that at a peer that has not answered anything, after several times what the others take and
//!   few at once: one, and one more for each that came before its first. After two that proved needless no more.
//!
//! A fetch that gets nowhere asks again for all that is late, and for what peers keep that have not sent a block yet.
//! While neither of two copies is at a peer that is known to answer, or both wait in queues, the younger one moves on from idle peer to idle
//! peer, so that a few that never answer cannot hold a want for long.

use std::time::{Duration, Instant};

use super::{
    Action, Fetch, RequestId,
    config::{MAX_COPIES, Order, RESERVED_LEN},
    pace,
    peers::PeerIx,
    requests::{Came, Phase, Request},
    wants::{Rank, Status, WantIx},
};
use crate::core::MAX_BLOCK_LEN;

/// Bytes that came and were of use, for each byte that may come twice: with what copies beyond the budget cost, a
/// fetch without hostile peers receives hardly more than 1.05 times the length, or one block more.
const MIN_USEFUL_PER_DOUBLED: u64 = 25;

/// Without a budget for a copy, what is late is given so many times its timeout.
const UNAFFORDABLE_TIMEOUTS: u32 = 2;

/// What was late and came doubles that, up to so often.
const MAX_FALSE_ALARMS: u32 = 3;

/// Copies beyond the budget of what silent peers keep, until so many of them were needless.
const MAX_UNPAID_LESSONS: u32 = 2;

/// How often it is looked for what waits although others hold it.
const SWAP_EVERY: Duration = Duration::from_millis(250);

/// So many fewer must hold what is asked for in its place.
const RARER: u32 = 2;

/// As [`MIN_USEFUL_PER_DOUBLED`], for what comes twice because it was taken back too late: leaves room for other copies.
const MIN_USEFUL_PER_TAKEN_BACK: u64 = 32;

/// Of what waits in two queues and is taken back from one of them such a part comes twice, on average.
const TAKEN_BACK_SHARE: u32 = 4;

/// A fetch of so many wants may begin with a block that comes twice because it was taken back too late.
const WANTS_PER_TAKEN_BACK: usize = 32;

/// A first chunk takes so many times what a small block does on a path that its slow start does not fill.
const SMALL_TIMES_PER_CHUNK: u32 = 8;

/// Copies that proved needless double the patience, up to so often.
const MAX_LESSONS: u32 = 4;

/// After so many moves of a copy to another peer each of them is given twice the time.
const ROTATIONS_PER_DOUBLING: u8 = 12;

/// Room in the budget for a block of unknown length, in bytes: manifests are shorter, but for those of large files and
/// directories.
const UNKNOWN_LEN: u32 = 128 << 10;

/// Usual times of small and of large requests, as far as there was one.
type Usual = [Option<Duration>; 2];

impl Fetch {
    /// Makes every request that may be made now.
    pub(super) fn pump_requests(&mut self, now: Instant) {
        self.recheck_missing(now);
        self.swap_waiting(now);
        let slow = self.is_slow(now);
        let some_late = !self.requests.late().is_empty();
        let mut ready: Vec<PeerIx> = self
            .peers
            .iter()
            .filter(|(_, peer)| {
                peer.can_be_asked(now) && peer.has_room(slow) && (!peer.exhausted || some_late)
            })
            .map(|(ix, _)| ix)
            .collect();
        let mut blocked = false;
        let mut doubled = None;
        self.clear_lack();
        while let Some(place) = self.least_loaded(&ready) {
            let ix = ready[place];
            if !self.is_covered(ix) {
                self.note_uncovered(ix);
                ready.swap_remove(place);
                continue;
            }
            let asked = self.hedge_late(ix, &mut doubled, now) || self.ask_pending(ix, &mut blocked, now);
            if !asked || !self.peers[ix].has_room(slow) {
                ready.swap_remove(place);
            }
            if blocked && self.config.order == Order::Spread && self.requests.late().is_empty() {
                break;
            }
        }
        self.hedge_oldest(blocked, now);
    }

    /// Notes what the own limit keeps this peer from being asked for.
    fn note_uncovered(&mut self, ix: PeerIx) {
        let slow = self.is_slow(self.now);
        let next = self.next_pending(ix).filter(|want| self.fits(ix, *want, false));
        let has_room = |slow| next.is_some_and(|want| self.peers[ix].has_room_for(self.units(want), slow));
        if has_room(false) {
            self.note_lack(false);
        } else if has_room(slow) || self.requests.late().iter().any(|want| self.may_copy(ix, *want)) {
            self.note_lack(true);
        }
    }

    fn least_loaded(&self, ready: &[PeerIx]) -> Option<usize> {
        let load = |ix: PeerIx| {
            let peer = &self.peers[ix];
            // Thousandths of the window; the window is never 0.
            (peer.doubtful, peer.load() * 1000 / peer.pace.window(), peer.served == 0, peer.last_asked, ix)
        };
        (0..ready.len()).min_by_key(|place| load(ready[*place]))
    }

    /// Lets idle peers be asked again for a few of the wants they lacked.
    fn recheck_missing(&mut self, now: Instant) {
        if self.wants.pending().is_empty() && self.requests.late().is_empty() {
            return;
        }
        let slow = self.is_slow(now);
        for ix in self.peers.ixs() {
            let peer = &mut self.peers[ix];
            if !(peer.can_be_asked(now) && peer.has_room(slow) && peer.recheck_is_due(now)) {
                continue;
            }
            if peer.maps.is_told() {
                self.retry_denied(ix, now);
            } else {
                peer.lift_marks(&self.wants, self.requests.late(), &self.config, now);
            }
        }
    }

    /// Asks this peer for a want whose copies elsewhere are all late. `known` is [`Self::doubled_len`] if that is known:
    /// it counts every copy in flight, and only a new copy changes it here.
    fn hedge_late(&mut self, ix: PeerIx, known: &mut Option<u64>, now: Instant) -> bool {
        if self.requests.late().is_empty() {
            return false;
        }
        let doubled = *known.get_or_insert_with(|| self.doubled_len());
        let slow = self.is_slow(now);
        let due = |want: WantIx| {
            slow || self.is_affordable(doubled, self.expected_len(want)) || self.overdue_at(want) <= Some(now)
        };
        let suits = |want: &&WantIx| self.may_copy(ix, **want) && due(**want);
        let Some(want) = self.requests.late().iter().find(suits).copied() else { return false };
        self.request_copy(ix, want, false, now);
        *known = None;
        true
    }

    /// When another copy of a late want is made whatever it costs; `None` if now: a peer that has not answered a
    /// request of its size yet was given long enough.
    fn overdue_at(&self, want: WantIx) -> Option<Instant> {
        let copies = self.requests.copies(want).iter().filter_map(|id| self.requests.get(*id));
        let proven = copies.filter(|request| self.peers[request.peer].pace.is_proven(request.units));
        let overdue_at = |request: &Request| {
            let timeout = self.peers[request.peer].pace.timeout(request.units, &self.config);
            let patience = timeout * UNAFFORDABLE_TIMEOUTS * (1 << self.false_alarms.min(MAX_FALSE_ALARMS));
            request.late_from + patience.min(self.config.max_request_timeout)
        };
        proven.map(overdue_at).max()
    }

    /// Requests another copy of a want in flight, in place of a late or the youngest one if there is no room.
    fn request_copy(&mut self, ix: PeerIx, want: WantIx, spare: bool, now: Instant) {
        if self.requests.copies(want).len() >= MAX_COPIES || !self.fits(ix, want, true) {
            let phase = |id: &RequestId| self.requests.get(*id).map(|request| request.phase);
            let copies = self.requests.copies(want);
            let late = copies.iter().find(|id| phase(id) == Some(Phase::Late));
            if let Some(loser) = late.or(copies.last()).copied() {
                self.doubt_silent(loser, now);
                self.forget(loser, now);
            }
        }
        self.request(ix, want, spare, now);
    }

    /// Asks this peer for its next pending want. `blocked` is set when only the budget is in the way.
    fn ask_pending(&mut self, ix: PeerIx, blocked: &mut bool, now: Instant) -> bool {
        let Some(first) = self.next_pending(ix) else { return false };
        if !self.peers[ix].has_room_for(self.units(first), self.is_slow(now)) {
            return false;
        }
        let rarest = self.rarest_pending(ix);
        let has_room = |want: &WantIx| self.peers[ix].has_room_for(self.units(*want), self.is_slow(now));
        let want = rarest.filter(has_room).unwrap_or(first);
        if !self.fits(ix, want, false) {
            *blocked = true;
            return false;
        }
        self.request(ix, want, false, now);
        true
    }

    /// Whether what few hold is asked for first: unless it is consumed in order, or as many hold each.
    fn prefers_rare(&self) -> bool {
        self.config.order == Order::Spread && !self.coverage.is_even()
    }

    /// The next pending want that this peer may hold.
    fn next_pending(&mut self, ix: PeerIx) -> Option<WantIx> {
        let was_exhausted = self.peers[ix].exhausted;
        let rank = self.peers[ix].peek(&self.wants);
        if rank.is_none() {
            // A peer that lacks something has stopped being useful: there may be a place for another.
            self.dials.dirty |= !was_exhausted && !self.peers[ix].missing.is_empty();
        }
        rank.map(Rank::want)
    }

    /// The rarest of the next pending wants that this peer may hold, if that is to count.
    fn rarest_pending(&self, ix: PeerIx) -> Option<WantIx> {
        let coverage = Some(&self.coverage).filter(|_| self.prefers_rare())?;
        self.peers[ix].rarest(&self.wants, coverage).map(Rank::want)
    }

    /// Takes back what waits in the queue of a peer and others hold meanwhile, if that peer may be asked for what is rarer: so it
    /// sends what nobody else does.
    fn swap_waiting(&mut self, now: Instant) {
        if !self.prefers_rare() || self.swapped_at + SWAP_EVERY > now {
            return;
        }
        self.swapped_at = now;
        let usual = self.usual_times();
        for ix in self.peers.ixs() {
            if !self.peers[ix].has_lane || self.peers[ix].fresh.is_empty() {
                continue;
            }
            let rarest = self.next_pending(ix).and_then(|_| self.rarest_pending(ix));
            let Some(rarest) = rarest.map(|want| self.coverage.of(want)) else { continue };
            let waits_in_vain = |id: &RequestId| {
                self.requests.get(*id).is_some_and(|request| {
                    request.sent + self.waiting_patience(request, usual) <= now
                        && self.waits(request)
                        && self.coverage.of(request.want) >= rarest + RARER
                })
            };
            let swapped = self.peers[ix].fresh.iter().copied().find(waits_in_vain);
            let Some((id, want)) = swapped.and_then(|id| Some((id, self.requests.get(id)?.want))) else {
                continue;
            };
            if !self.may_take_back(self.doubled_len(), 0, MIN_USEFUL_PER_DOUBLED) {
                return;
            }
            self.forget(id, now);
            self.release(want, now);
        }
    }

    /// Asks idle peers for second copies of what has been in flight for long, and notes when that may be next.
    fn hedge_oldest(&mut self, blocked: bool, now: Instant) {
        let overdue = self.requests.late().iter().filter_map(|want| self.overdue_at(*want));
        self.hedge_at = overdue.filter(|at| *at > now).min();
        let in_order = blocked && self.config.order == Order::InOrder;
        let solo = self.requests.solo().next().map(|request| request.sent);
        let pair = self.requests.pairs().next().map(|request| request.sent);
        let Some(oldest) = solo.into_iter().chain(pair).min() else { return };
        let slow = self.is_slow(now);
        let mut idle: Vec<PeerIx> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.can_be_asked(now) && peer.has_room(slow) && (peer.exhausted || in_order))
            .map(|(ix, _)| ix)
            .collect();
        if idle.is_empty() {
            return;
        }
        if oldest + self.config.min_hedge_age > now {
            self.hedge_at = earlier(self.hedge_at, oldest + self.config.min_hedge_age);
            return;
        }
        let usual = self.usual_times();
        // Both count every request in flight, and only a new copy changes them here.
        let mut copies = (self.doubled_len(), self.requests.spares().count());
        while let Some(place) = self.least_loaded(&idle) {
            let ix = idle[place];
            if !self.is_covered(ix) {
                self.note_lack(true);
                idle.swap_remove(place);
                continue;
            }
            let oldest = self.oldest_to_copy(ix, usual, copies, now);
            match oldest.or_else(|| self.oldest_to_rotate(ix, usual, now)) {
                Some(want) => {
                    self.request_copy(ix, want, true, now);
                    copies = (self.doubled_len(), self.requests.spares().count());
                }
                None => {
                    idle.swap_remove(place);
                }
            }
        }
    }

    /// The oldest single copy that is old enough for this peer to make another. There are so many bytes and spare ones in
    /// copies.
    fn oldest_to_copy(
        &mut self,
        ix: PeerIx,
        usual: Usual,
        (doubled, spares): (u64, usize),
        now: Instant,
    ) -> Option<WantIx> {
        let mut found = None;
        let mut next = None;
        let slow = self.is_slow(now);
        let may_learn = spares <= self.spares_won as usize && (slow || self.spares_lost < MAX_UNPAID_LESSONS);
        for request in self.requests.solo() {
            if request.sent + self.config.min_hedge_age > now {
                next = earlier(next, request.sent + self.config.min_hedge_age);
                break;
            }
            if !self.may_help(ix, request.want) {
                continue;
            }
            let cheap = self.is_affordable(doubled, request.max_len);
            let owner = &self.peers[request.peer];
            let proven = owner.pace.is_proven(request.units);
            let waits = self.waits(request)
                && self.may_take_back(doubled, request.max_len, MIN_USEFUL_PER_TAKEN_BACK);
            if !cheap && !waits && (proven || !may_learn || owner.answers && !slow) {
                continue;
            }
            let age = self.hedge_age(ix, request, usual, cheap, now);
            let age = if waits { age.min(self.waiting_patience(request, usual)) } else { age };
            let at = request.late_from + age;
            if at > now {
                next = earlier(next, at);
            } else if self.requests.copies(request.want).len() >= MAX_COPIES
                || self.fits(ix, request.want, true)
            {
                found = Some(request.want);
                break;
            }
        }
        self.hedge_at = self.hedge_at.into_iter().chain(next).min();
        found
    }

    /// Whether a request waits in the queue of its peer, out of which it can be taken back.
    pub(super) fn waits(&self, request: &Request) -> bool {
        self.peers[request.peer].has_lane && request.came == Came::Nothing && !pace::is_small(request.units)
    }

    /// Whether there is room for another copy of what waits, of this length: a part of it will probably come twice. There is room
    /// for one byte of so many that are `useful`, and in a fetch that is not short for a block.
    fn may_take_back(&self, doubled: u64, len: u32, useful: u64) -> bool {
        let coming = doubled + u64::from(len / TAKEN_BACK_SHARE);
        let is_long = self.wants.len() >= WANTS_PER_TAKEN_BACK;
        coming * useful <= self.received_len - self.wasted_len
            || is_long && coming <= u64::from(MAX_BLOCK_LEN)
    }

    /// The age at which this idle peer may make another copy of a request; `cheap` if the budget of copies has room for it.
    fn hedge_age(&self, ix: PeerIx, request: &Request, usual: Usual, cheap: bool, now: Instant) -> Duration {
        let helping = self.peers[ix].pace.typical(request.units) * 2;
        let owner = &self.peers[request.peer].pace;
        if !owner.is_proven(request.units) {
            return self.unproven_patience(request, usual, cheap).max(helping);
        }
        let typical = owner.typical(request.units);
        let left = typical.saturating_sub(now.saturating_duration_since(request.sent));
        // The idle peer would be done before the other usually is.
        if helping <= left { self.config.min_hedge_age } else { helping.max(typical * 2) }
    }

    /// How long a block may take to begin until it is asked for elsewhere: no longer than a whole one took at best, or twice what
    /// small ones take elsewhere, which says how far away peers are.
    fn waiting_patience(&self, request: &Request, [small, _]: Usual) -> Duration {
        let shortest = self.peers[request.peer].pace.shortest(request.units);
        let guessed = || small.unwrap_or_default() * 2;
        shortest.unwrap_or_else(guessed).max(self.config.min_hedge_age)
    }

    /// How long a request to a peer that has not answered one of its size yet is given: three times what the others
    /// usually take. Without any that did, what they took for small ones says how far away they are.
    fn unproven_patience(&self, request: &Request, [small, large]: Usual, cheap: bool) -> Duration {
        let measured = if pace::is_small(request.units) { small } else { large };
        // Lists of chunks are short, and everything waits for them. So it does for the last chunks of a large fetch, of which
        // the budget has room for a copy.
        let is_list = self.wants[request.want].exact_len().is_none();
        let least = if is_list || cheap && measured.is_some() {
            self.config.min_hedge_age
        } else {
            self.config.unproven_hedge_age
        };
        let guessed = || small.map_or(least * 2, |time| (time * SMALL_TIMES_PER_CHUNK).min(least * 2));
        let expected = measured.map_or_else(guessed, |time| time * 3);
        (expected.max(least) * (1 << self.spares_lost.min(MAX_LESSONS))).min(self.config.max_request_timeout)
    }

    fn usual_times(&self) -> Usual {
        [1, pace::UNITS_PER_CHUNK].map(|units| self.usual_time(units))
    }

    /// What a request of this weight usually takes: the median over the peers that answered one.
    fn usual_time(&self, units: u32) -> Option<Duration> {
        let proven = self.peers.iter().filter(|(_, peer)| peer.is_connected() && peer.pace.is_proven(units));
        let mut times: Vec<Duration> = proven.map(|(_, peer)| peer.pace.typical(units)).collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }

    /// Whether the budget of all copies has room for one more of this length.
    fn is_affordable(&self, doubled: u64, len: u32) -> bool {
        let useful = self.received_len - self.wasted_len;
        (doubled + u64::from(len)) * MIN_USEFUL_PER_DOUBLED <= useful
    }

    /// Bytes that came, or will probably come, although they are not needed: of what waits, and will be taken back, a part.
    fn doubled_len(&self) -> u64 {
        let share = |waits: bool| if waits { TAKEN_BACK_SHARE } else { 1 };
        let len = |request: &Request| self.expected_len(request.want);
        let forgotten = self.requests.zombies().filter(|zombie| !zombie.is_cut).map(|zombie| &zombie.request);
        let forgotten = forgotten.map(|request| len(request) / share(self.waits(request)));
        let doubles = self.requests.doubles(|request| self.waits(request));
        let doubles = doubles.map(|(request, waits)| len(request) / share(waits));
        self.wasted_len + forgotten.chain(doubles).map(u64::from).sum::<u64>()
    }

    /// A want with both copies at unproven peers, or in queues, of which this one may have the younger instead. The older one
    /// stays where it is, in case that all are slow; the other visits one peer after the other, faster at first.
    fn oldest_to_rotate(&mut self, ix: PeerIx, usual: Usual, now: Instant) -> Option<WantIx> {
        let mut found = None;
        let mut next = None;
        if self.peers[ix].doubtful {
            return None;
        }
        let slow = self.is_slow(now);
        for request in self.requests.pairs() {
            let copies = self.requests.copies(request.want).iter().filter_map(|id| self.requests.get(*id));
            let one_comes = copies.clone().any(|copy| !self.waits(copy));
            let proven = copies.clone().any(|copy| self.peers[copy.peer].pace.is_proven(request.units));
            if one_comes && proven || !self.may_help(ix, request.want) {
                continue;
            }
            let doublings = u32::from(self.wants[request.want].rotations / ROTATIONS_PER_DOUBLING).min(6);
            let quick = self.config.min_hedge_age * 2;
            let patience = self.unproven_patience(request, usual, false) / 2;
            let age = if slow { quick } else { patience.max(quick) };
            let at = request.late_from + age * (1 << doublings);
            if at > now {
                next = earlier(next, at);
            } else {
                found = Some(request.want);
                break;
            }
        }
        if let Some(want) = found {
            self.wants[want].rotations = self.wants[want].rotations.saturating_add(1);
        }
        self.hedge_at = self.hedge_at.into_iter().chain(next).min();
        found
    }

    /// Whether this idle peer may be asked for another copy: one with something else to do, which only the budget
    /// keeps from it, helps with the want that is consumed next and no other.
    fn may_help(&self, ix: PeerIx, want: WantIx) -> bool {
        (self.peers[ix].exhausted || self.wants.head() == Some(want)) && self.may_copy(ix, want)
    }

    /// Whether this peer may be asked for another copy of a want in flight.
    fn may_copy(&self, ix: PeerIx, want: WantIx) -> bool {
        let peer = &self.peers[ix];
        peer.may_hold(want, self.wants.rank(want))
            && peer.has_room_for(self.units(want), self.is_slow(self.now))
            && !self.requests.asked(want, ix)
    }

    /// Bytes of the budget that a request of this want to this peer takes. On a lane what is longer than such a block
    /// usually is waits until there is room for it ([`Buffers`](crate::net::Buffers)).
    fn reserved_len(&self, ix: PeerIx, want: WantIx) -> u32 {
        let max_len = self.wants[want].max_len();
        let is_known = self.wants[want].exact_len().is_some();
        if is_known || !self.peers[ix].has_lane { max_len } else { max_len.min(UNKNOWN_LEN) }
    }

    /// Whether the budget has room for a (further) request of this want to this peer.
    fn fits(&self, ix: PeerIx, want: WantIx, hedge: bool) -> bool {
        let len = u64::from(self.reserved_len(ix, want));
        let used = self.requests.used_len();
        let budget = self.config.budget_len;
        match self.wants.head() {
            Some(head) if head == want => used + len <= budget,
            Some(head) => {
                let others = used - self.requests.used_by(head);
                others + len <= budget - RESERVED_LEN && used + len <= budget
            }
            None if hedge => used + len <= budget,
            None => used + len <= budget - RESERVED_LEN,
        }
    }

    /// What a want weighs in a peer's window.
    fn units(&self, want: WantIx) -> u32 {
        pace::units_of(self.expected_len(want))
    }

    /// Requests a want from a peer.
    fn request(&mut self, ix: PeerIx, want: WantIx, spare: bool, now: Instant) {
        let units = self.units(want);
        let max_len = self.wants[want].max_len();
        let reserved_len = self.reserved_len(ix, want);
        let peer = &mut self.peers[ix];
        peer.units += units;
        let id = self.requests.add(Request {
            peer: ix,
            want,
            sent: now,
            late_from: now,
            max_len,
            reserved_len,
            units,
            phase: Phase::InFlight,
            delivered: peer.pace.delivered().with_half(peer.half_here()),
            full: peer.units + pace::UNITS_PER_CHUNK > peer.pace.window(),
            spare,
            came: Came::Nothing,
            began: None,
        });
        peer.fresh.insert(id);
        peer.last_asked = Some(id);
        self.set_late_at(ix);
        if self.wants[want].status == Status::Pending {
            self.wants.set_status(want, Status::InFlight);
        }
        self.requested_len += u64::from(max_len);
        self.pay(ix, max_len);
        let (peer, cid) = (self.peers[ix].id, self.wants[want].cid);
        self.actions.push_back(Action::Request { id, peer, cid, max_len });
    }
}

fn earlier(one: Option<Instant>, other: Instant) -> Option<Instant> {
    Some(one.map_or(other, |one| one.min(other)))
}
