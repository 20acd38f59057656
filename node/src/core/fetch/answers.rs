//! What the answers to requests change.

use std::time::Instant;

use dhtfs_store::ContentCid;
use libp2p::PeerId;

use super::{
    Action, Fetch, RequestId,
    config::{MAX_STRIKES, Order},
    peers::{Pause, PeerIx},
    requests::{Came, Phase, Request, Zombie},
    wants::{Status, WantIx},
};

/// Answers in a row of Busy, after which a peer no longer counts as a source.
const MAX_BUSY_STREAK: u32 = 3;

/// Most neighbours on each side of a served want that its holder is guessed to hold.
const MAX_GUESSES: u32 = 64;

/// Requests in a row that failed in the transport, after which the connection is taken for lost.
const MAX_FAIL_STREAK: u32 = 3;

impl Fetch {
    /// See [`Fetch::on_block`].
    pub(super) fn block(&mut self, id: RequestId, len: u32, now: Instant) -> bool {
        if self.requests.get(id).is_some_and(Request::is_received) || !self.requests.was_made(id) {
            return false;
        }
        self.received_len += u64::from(len);
        if let Some(zombie) = self.settle_zombie(id, now) {
            let request = zombie.request;
            self.note_length(request.peer, request.want, request.max_len, len);
            self.wasted_len += u64::from(len);
            if self.wants[request.want].may_have_len(len) {
                self.note_time(&request, len, true, now);
                self.trust(request.peer);
            } else {
                self.blame(request.peer, request.want, len, now);
            }
            return false;
        }
        let Some(request) = self.settle(id, now) else {
            // From a peer that was banned or lost meanwhile, or the peer had been slower than it may be.
            self.wasted_len += u64::from(len);
            return false;
        };
        self.note_length(request.peer, request.want, request.max_len, len);
        if !self.wants[request.want].may_have_len(len) {
            self.wasted_len += u64::from(len);
            self.spoilt(id, len, now);
            return false;
        }
        self.note_time(&request, len, false, now);
        self.peers[request.peer].note_hit(request.want);
        self.trust(request.peer);
        if self.wants[request.want].status == Status::Received {
            self.requests.remove(id);
            self.wasted_len += u64::from(len);
            return false;
        }
        self.requests.set_received(id, len, false);
        self.peers[request.peer].unverified_units += request.units;
        self.wants.set_status(request.want, Status::Received);
        true
    }

    /// See [`Fetch::on_begun`], [`Fetch::on_part`] and [`Fetch::on_half`]. Of two copies the one that is further is left.
    pub(super) fn came(&mut self, id: RequestId, came: Came, now: Instant) {
        let Some(request) = self.requests.get(id).filter(|request| !request.is_received()).cloned() else {
            return;
        };
        self.requests.set_came(id, came, now);
        if came == Came::Half {
            self.peers[request.peer].half = Some((id, request.units));
        }
        if request.phase == Phase::Late {
            // Without its copy it would be asked for again at once. In a fetch that gets nowhere both are wanted, and who has come
            // to a stop once may again.
            let is_trusted = self.peers[request.peer].verified_units > 0;
            if !is_trusted || request.was_late() || self.is_slow(now) {
                return;
            }
            self.set_on_time(id, now);
        }
        for other in self.requests.copies(request.want).to_vec() {
            let Some(copy) = self.requests.get(other).filter(|copy| other != id && !copy.is_received())
            else {
                continue;
            };
            if copy.came < came && self.beats(&request, came, copy) {
                self.forget(other, now);
            }
        }
    }

    /// Whether a copy that is further than the other one will probably be the first, too. From a peer that has served nothing a
    /// head is cheap, and it takes nothing from one that has and has begun.
    fn beats(&self, request: &Request, came: Came, other: &Request) -> bool {
        let (peer, rival) = (&self.peers[request.peer], &self.peers[other.peer]);
        let is_trusted = peer.verified_units > 0;
        let (time, rival_time) = (peer.pace.typical(request.units), rival.pace.typical(other.units));
        let is_slower = rival.pace.is_proven(other.units) && rival_time * 2 < time;
        match came {
            _ if !rival.has_lane => false,
            Came::Nothing => false,
            Came::Head => is_trusted && !is_slower,
            Came::Part | Came::Half => is_trusted || rival.verified_units == 0 || other.came == Came::Nothing,
        }
    }

    /// See [`Fetch::on_cancelled`].
    pub(super) fn cancelled(&mut self, id: RequestId, came_len: u32, now: Instant) {
        if self.requests.get(id).is_some_and(Request::is_received) || !self.requests.was_made(id) {
            return;
        }
        self.received_len += u64::from(came_len);
        self.wasted_len += u64::from(came_len);
        let Some(request) = self.requests.zombie(id).map(|zombie| zombie.request.clone()) else {
            // Nobody took it back.
            return self.busy(id, now);
        };
        let left = request.max_len.saturating_sub(came_len);
        self.refund(request.peer, left);
        let is_held = self.config.order == Order::InOrder || self.peers[request.peer].verified_units == 0;
        if is_held && came_len > 0 && left > 0 {
            // It was too slow for the reader, and would be again; or what it sends may be anything. Its place stays taken as
            // long as the rest would have taken.
            let spent = now.saturating_duration_since(request.began.unwrap_or(request.sent));
            let rest = spent.mul_f64(f64::from(left) / f64::from(came_len));
            self.requests.cut_zombie(id, now + rest.min(self.config.max_request_timeout));
            self.peers[request.peer].note_answer(now);
        } else {
            self.settle_zombie(id, now);
        }
    }

    /// A block arrived that may be right, though perhaps it is `forgotten`: a sample of its peer's speed.
    fn note_time(&mut self, request: &Request, len: u32, forgotten: bool, now: Instant) {
        let copied = self.requests.copies(request.want).iter().any(|id| {
            let copy = self.requests.get(*id);
            copy.is_some_and(|copy| copy.spare && !copy.is_received())
        });
        self.false_alarms += u32::from(request.phase == Phase::Late || request.was_late());
        let pace = &mut self.peers[request.peer].pace;
        if (copied || forgotten) && !request.spare && !pace.is_proven(request.units) {
            // It was slow, not silent: what was gained by not waiting for it came twice.
            self.spares_lost += 1;
            self.spares_won = self.spares_won.saturating_sub(u32::from(forgotten));
        }
        let elapsed = now.saturating_duration_since(request.sent);
        pace.on_block(elapsed, request.delivered, request.units, len, request.full);
        self.set_late_at(request.peer);
    }

    /// A block of a want without a known length arrived: only now is it known how much was asked for.
    fn note_length(&mut self, peer: PeerIx, want: WantIx, max_len: u32, len: u32) {
        if self.wants[want].exact_len().is_none() {
            self.refund(peer, max_len.saturating_sub(len));
            self.requested_len -= u64::from(max_len.saturating_sub(len));
        }
    }

    /// See [`Fetch::on_verified`].
    pub(super) fn verified(&mut self, id: RequestId) {
        if let Some(request) = self.requests.get(id).filter(|request| request.is_unverified()).cloned()
            && let Phase::Received { len, .. } = request.phase
        {
            self.requests.set_received(id, len, true);
            let peer = &mut self.peers[request.peer];
            peer.unverified_units -= request.units;
            peer.verified_units += u64::from(request.units);
            peer.verified_len += u64::from(len);
            self.spares_won += u32::from(request.spare);
        }
    }

    /// Takes out a received block that nobody waits for any more.
    fn remove_received(&mut self, id: RequestId) -> Option<(Request, u32)> {
        let request = self.requests.get(id)?;
        let Phase::Received { len, verified } = request.phase else { return None };
        let request = self.requests.remove(id)?;
        if !verified {
            self.peers[request.peer].unverified_units -= request.units;
        }
        Some((request, len))
    }

    /// See [`Fetch::on_stored`].
    pub(super) fn stored(&mut self, id: RequestId, now: Instant) {
        self.verified(id);
        let Some((Request { peer, want, .. }, len)) = self.remove_received(id) else { return };
        if self.wants[want].exact_len().is_none() {
            self.unknown_len = self.unknown_len - self.unknown_len / 8 + len / 8;
        }
        self.satisfy(want, now);
        self.note_progress(now);
        let server = &mut self.peers[peer];
        server.tries = 0;
        server.served += 1;
        if server.maps.on_served(want) {
            server.recheck.attempt = 0;
        }
        server.served_len += u64::from(len);
        if server.served == 1 {
            self.end_covered_lookups(peer);
        }
        let server = &mut self.peers[peer];
        if !server.full {
            let guesses = server.guesses;
            server.guesses = (guesses * 2).min(MAX_GUESSES);
            for near in self.wants.neighbours(want, guesses) {
                self.guess_source(peer, near);
            }
        }
    }

    /// See [`Fetch::on_bad`].
    pub(super) fn bad(&mut self, id: RequestId, now: Instant) {
        let Some(len) = self.requests.get(id).and_then(|request| match request.phase {
            Phase::Received { len, .. } => Some(len),
            Phase::InFlight | Phase::Late => None,
        }) else {
            return;
        };
        self.wasted_len += u64::from(len);
        self.spoilt(id, len, now);
    }

    /// See [`Fetch::on_malformed`].
    pub(super) fn malformed(&mut self, id: RequestId, now: Instant) {
        if let Some(Zombie { request, .. }) = self.settle_zombie(id, now) {
            self.blame(request.peer, request.want, request.max_len, now);
        } else if let Some(request) = self.settle(id, now) {
            self.spoilt(id, request.max_len, now);
        }
    }

    /// See [`Fetch::on_bad_late`].
    pub(super) fn bad_late(&mut self, peer: &PeerId, cid: &ContentCid, len: u32, now: Instant) {
        if let (Some(ix), Some(want)) = (self.peers.find(peer), self.wants.find(cid)) {
            self.blame(ix, want, len, now);
        }
    }

    /// An answer, received or just settled, is not what it should be.
    fn spoilt(&mut self, id: RequestId, len: u32, now: Instant) {
        let received = self.remove_received(id).map(|(request, _)| request);
        let Some(request) = received.or_else(|| self.requests.remove(id)) else { return };
        self.blame(request.peer, request.want, len, now);
    }

    /// A peer gave a bad answer, whether or not it still was of use. It is banned unless it has served at least as
    /// much as it has spoilt, and at its last strike.
    fn blame(&mut self, ix: PeerIx, want: WantIx, len: u32, now: Instant) {
        if self.wants[want].status != Status::Stored {
            self.mark_missing(ix, want, false, now);
        }
        let peer = &mut self.peers[ix];
        peer.strikes += 1;
        peer.spoilt_len += u64::from(len);
        if peer.strikes >= MAX_STRIKES || peer.spoilt_len > peer.verified_len {
            self.ban(ix, now);
        } else {
            peer.paused_until = peer.paused_until.max(Some(now + self.config.cool_down));
            peer.pause = Pause::WrongData;
        }
        self.release(want, now);
    }

    /// See [`Fetch::on_missing`].
    pub(super) fn missing(&mut self, id: RequestId, now: Instant) {
        let Some(request) = self.settle(id, now) else { return };
        self.requests.remove(id);
        self.refund(request.peer, request.max_len);
        self.peers[request.peer].pace.on_missing();
        self.trust(request.peer);
        self.mark_missing(request.peer, request.want, true, now);
        self.release(request.want, now);
    }

    /// See [`Fetch::on_busy`].
    pub(super) fn busy(&mut self, id: RequestId, now: Instant) {
        let Some(request) = self.settle(id, now) else { return };
        // Who says to come back is not silent: others are served before.
        self.moved_at = now;
        self.requests.remove(id);
        self.refund(request.peer, request.max_len);
        let peer = &mut self.peers[request.peer];
        // Several answers to one overload count once.
        if peer.paused_until.is_none_or(|until| until <= now) {
            let pause = self.config.busy_backoff.delay(peer.busy_streak, &mut self.rng);
            peer.paused_until = Some(now + pause);
            peer.pause = Pause::Busy;
            peer.busy_streak += 1;
            peer.pace.on_stall();
            if peer.busy_streak >= MAX_BUSY_STREAK {
                self.doubt(request.peer, now);
            }
        }
        self.release(request.want, now);
    }

    /// See [`Fetch::on_failed`].
    pub(super) fn failed(&mut self, id: RequestId, now: Instant) {
        let Some(request) = self.settle(id, now) else { return };
        self.requests.remove(id);
        let peer = &mut self.peers[request.peer];
        peer.fail_streak += 1;
        if peer.fail_streak >= MAX_FAIL_STREAK {
            self.disconnected(request.peer, now);
        } else if peer.paused_until.is_none_or(|until| until <= now) {
            let pause = self.config.failure_backoff.delay(peer.fail_streak - 1, &mut self.rng);
            peer.paused_until = Some(now + pause);
            peer.pause = Pause::Failed;
            peer.pace.on_stall();
        }
        self.release(request.want, now);
    }

    /// An answer came to a request whose result is no longer wanted: the place in the peer's window is free.
    fn settle_zombie(&mut self, id: RequestId, now: Instant) -> Option<Zombie> {
        let zombie = self.requests.remove_zombie(id)?;
        let peer = &mut self.peers[zombie.request.peer];
        peer.units -= zombie.request.units;
        peer.note_answer(now);
        Some(zombie)
    }

    /// An answer came: the place in the peer's window is free. The request, if its answer is still wanted.
    fn settle(&mut self, id: RequestId, now: Instant) -> Option<Request> {
        if self.settle_zombie(id, now).is_some() {
            return None;
        }
        let request = self.requests.get(id).filter(|request| !request.is_received())?.clone();
        let peer = &mut self.peers[request.peer];
        peer.fresh.remove(&id);
        peer.late.remove(&id);
        peer.units -= request.units;
        peer.note_answer(now);
        self.set_late_at(request.peer);
        Some(request)
    }

    /// The peer gave an answer that helps: it counts as a source (again).
    fn trust(&mut self, ix: PeerIx) {
        let peer = &mut self.peers[ix];
        peer.doubtful = false;
        peer.busy_streak = 0;
        peer.fail_streak = 0;
    }

    /// The peer no longer counts as a source until it answers usefully.
    pub(super) fn doubt(&mut self, ix: PeerIx, now: Instant) {
        if !std::mem::replace(&mut self.peers[ix].doubtful, true) {
            self.source_lost(ix, now);
        }
    }

    /// Doubts the peer of a request that is given up if it has answered nothing since.
    pub(super) fn doubt_silent(&mut self, id: RequestId, now: Instant) {
        if let Some(request) = self.requests.get(id)
            && self.peers[request.peer].last_answer <= request.sent
        {
            self.doubt(request.peer, now);
        }
    }

    /// A peer lacks a want; `said` if it says so, and does not just fail to send it.
    fn mark_missing(&mut self, peer: PeerIx, want: WantIx, said: bool, now: Instant) {
        let rank = self.wants.rank(want);
        self.peers[peer].mark_missing(want, rank, &self.config, now);
        self.remove_source(peer, want);
        self.not_held(peer, want, said, now);
    }

    /// A copy of this want came to nothing.
    pub(super) fn release(&mut self, want: WantIx, now: Instant) {
        let copies = self.requests.copies(want);
        if copies.is_empty() {
            if self.wants[want].status != Status::Stored {
                self.set_pending(want, now);
            }
        } else if !copies.iter().any(|id| self.requests.get(*id).is_some_and(Request::is_received)) {
            self.wants.set_status(want, Status::InFlight);
        }
    }

    /// The want waits for a request again.
    pub(super) fn set_pending(&mut self, want: WantIx, now: Instant) {
        self.wants.set_status(want, Status::Pending);
        self.note_pending(want);
        self.check_source(want, now);
    }

    /// Tells every peer that this want is pending.
    pub(super) fn note_pending(&mut self, want: WantIx) {
        let rank = self.wants.rank(want);
        for (_, peer) in self.peers.iter_mut() {
            peer.note_pending(want, rank);
        }
    }

    /// The want is stored: nothing about it is needed any more.
    pub(super) fn satisfy(&mut self, want: WantIx, now: Instant) {
        for id in self.requests.copies(want).to_vec() {
            if self.remove_received(id).is_none() {
                self.forget(id, now);
            }
        }
        self.wants.set_status(want, Status::Stored);
        let rank = self.wants.rank(want);
        for peer in self.sources.remove(&want).unwrap_or_default() {
            self.peers[peer].believed.remove(&rank);
        }
        self.cancel_lookup(want);
    }

    /// The answer of a request in flight is no longer wanted.
    pub(super) fn forget(&mut self, id: RequestId, now: Instant) {
        let Some((ix, units)) = self.requests.get(id).map(|request| (request.peer, request.units)) else {
            return;
        };
        let peer = &mut self.peers[ix];
        peer.fresh.remove(&id);
        peer.late.remove(&id);
        // A peer that has served nothing keeps its only place until it answers.
        let hold = if peer.verified_units > 0 {
            peer.pace.timeout(units, &self.config)
        } else {
            self.config.max_request_timeout
        };
        self.requests.bury(id, now, hold);
        self.set_late_at(ix);
        self.actions.push_back(Action::Forget(id));
    }

    /// Counts a received block of a want as waste.
    pub(super) fn waste_received(&mut self, want: WantIx) {
        for id in self.requests.copies(want) {
            if let Some(Phase::Received { len, .. }) = self.requests.get(*id).map(|request| request.phase) {
                self.wasted_len += u64::from(len);
            }
        }
    }

    /// The length that a want probably has.
    pub(super) fn expected_len(&self, want: WantIx) -> u32 {
        self.wants[want].exact_len().unwrap_or(self.unknown_len)
    }
}
