//! What the answers to requests change.

use std::time::Instant;

use super::{
    Action, Fetch, RequestId,
    config::MAX_STRIKES,
    peers::PeerIx,
    requests::{Phase, Request},
    wants::{Status, WantIx},
};
use crate::core::MAX_BLOCK_LEN;

/// Answers in a row of Busy, after which a peer no longer counts as a source.
const MAX_BUSY_STREAK: u32 = 3;

/// Most neighbours on each side of a served want that its holder is guessed to hold.
const MAX_GUESSES: u32 = 64;

/// Requests in a row that failed in the transport, after which the connection is taken for lost.
const MAX_FAIL_STREAK: u32 = 3;

impl Fetch {
    /// See [`Fetch::on_block`].
    pub(super) fn block(&mut self, id: RequestId, len: u32, now: Instant) -> bool {
        if let Some(peer) = self.settle_zombie(id, now) {
            self.received_len += u64::from(len);
            self.trust(peer);
            return false;
        }
        let Some(request) = self.settle(id, now) else { return false };
        self.received_len += u64::from(len);
        if self.wants[request.want].exact_len().is_none() {
            // Only now is it known how much was asked for.
            self.requested_len -= u64::from(request.max_len.saturating_sub(len));
        }
        let right = self.wants[request.want].exact_len().map_or(len <= MAX_BLOCK_LEN, |exact| len == exact);
        if !right {
            self.wasted_len += u64::from(len);
            self.bad(id, now);
            return false;
        }
        let peer = &mut self.peers[request.peer];
        let elapsed = now.saturating_duration_since(request.sent);
        peer.pace.on_block(elapsed, request.delivered, request.units, len, request.full);
        peer.note_hit(request.want);
        self.set_late_at(request.peer);
        self.trust(request.peer);
        if self.wants[request.want].status == Status::Received {
            self.requests.remove(id);
            self.wasted_len += u64::from(len);
            return false;
        }
        self.requests.set_received(id, len);
        self.wants.set_status(request.want, Status::Received);
        true
    }

    /// See [`Fetch::on_stored`].
    pub(super) fn stored(&mut self, id: RequestId, now: Instant) {
        let Some(Request { peer, want, phase: Phase::Received { len }, .. }) = self.requests.get(id).cloned()
        else {
            return;
        };
        self.requests.remove(id);
        if self.wants[want].exact_len().is_none() {
            self.unknown_len = self.unknown_len - self.unknown_len / 8 + len / 8;
        }
        let copies = u64::try_from(self.requests.copies(want).len()).unwrap_or(0);
        self.wasted_len += copies * u64::from(len);
        self.satisfy(want, now);
        self.note_progress(now);
        let server = &mut self.peers[peer];
        server.tries = 0;
        server.served += 1;
        server.served_len += u64::from(len);
        if !server.full {
            let guesses = server.guesses;
            server.guesses = (guesses * 2).min(MAX_GUESSES);
            for near in self.wants.neighbours(want, guesses) {
                self.guess_source(peer, near);
            }
        }
    }

    /// A block, received or just settled, is not what it should be.
    pub(super) fn bad(&mut self, id: RequestId, now: Instant) {
        let Some(request) = self.requests.remove(id) else { return };
        if let Phase::Received { len } = request.phase {
            self.wasted_len += u64::from(len);
        }
        self.mark_missing(request.peer, request.want, now);
        let peer = &mut self.peers[request.peer];
        peer.strikes += 1;
        if peer.strikes >= MAX_STRIKES {
            self.ban(request.peer, now);
        } else {
            peer.paused_until = peer.paused_until.max(Some(now + self.config.cool_down));
        }
        self.release(request.want, now);
    }

    /// See [`Fetch::on_missing`].
    pub(super) fn missing(&mut self, id: RequestId, now: Instant) {
        let Some(request) = self.settle(id, now) else { return };
        self.requests.remove(id);
        self.peers[request.peer].pace.on_missing();
        self.trust(request.peer);
        self.mark_missing(request.peer, request.want, now);
        self.release(request.want, now);
    }

    /// See [`Fetch::on_busy`].
    pub(super) fn busy(&mut self, id: RequestId, now: Instant) {
        let Some(request) = self.settle(id, now) else { return };
        self.requests.remove(id);
        let peer = &mut self.peers[request.peer];
        // Several answers to one overload count once.
        if peer.paused_until.is_none_or(|until| until <= now) {
            let pause = self.config.busy_backoff.delay(peer.busy_streak, &mut self.rng);
            peer.paused_until = Some(now + pause);
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
            peer.pace.on_stall();
        }
        self.release(request.want, now);
    }

    /// An answer came to a request whose result is no longer wanted: the place in the peer's window is free.
    fn settle_zombie(&mut self, id: RequestId, now: Instant) -> Option<PeerIx> {
        let zombie = self.requests.remove_zombie(id)?;
        let peer = &mut self.peers[zombie.peer];
        peer.units -= zombie.units;
        peer.last_answer = now;
        Some(zombie.peer)
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
        peer.last_answer = now;
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

    fn mark_missing(&mut self, peer: PeerIx, want: WantIx, now: Instant) {
        let rank = self.wants.rank(want);
        self.peers[peer].mark_missing(want, rank, &self.config, now);
        self.remove_source(peer, want);
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
            if self.requests.get(id).is_some_and(Request::is_received) {
                self.requests.remove(id);
            } else {
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
        let hold = peer.pace.timeout(units, &self.config);
        self.requests.bury(id, now, hold);
        self.set_late_at(ix);
        self.actions.push_back(Action::Forget(id));
    }

    /// Counts all copies of a want as waste.
    pub(super) fn waste_copies(&mut self, want: WantIx) {
        for id in self.requests.copies(want).to_vec() {
            if let Some(request) = self.requests.get(id) {
                let len = match request.phase {
                    Phase::Received { len } => len,
                    Phase::InFlight | Phase::Late => self.expected_len(want),
                };
                self.wasted_len += u64::from(len);
            }
        }
    }

    /// The length that a want probably has.
    pub(super) fn expected_len(&self, want: WantIx) -> u32 {
        self.wants[want].exact_len().unwrap_or(self.unknown_len)
    }
}
