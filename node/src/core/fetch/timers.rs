//! What the passing of time changes.

use std::time::Instant;

use super::{
    Fetch, RequestId,
    peers::{Link, Peer, PeerIx},
};

impl Fetch {
    /// Everything that is due except lookups, dials and requests, which follow from it.
    pub(super) fn run_timers(&mut self, now: Instant) {
        for ix in self.peers.ixs() {
            match self.peers[ix].link {
                Link::Connected => self.run_peer_timers(ix, now),
                Link::Dialling { since, patient: true } if since + self.config.dial_patience <= now => {
                    self.peers[ix].link = Link::Dialling { since, patient: false };
                    self.source_lost(ix, now);
                }
                _ => {}
            }
        }
        if self.requests.next_burial().is_some_and(|at| at <= now) {
            for zombie in self.requests.take_zombies(|zombie| zombie.is_over(now)) {
                self.peers[zombie.request.peer].units -= zombie.request.units;
            }
        }
    }

    /// When the next of a peer's timers is due.
    pub(super) fn peer_deadline(&self, peer: &Peer) -> Option<Instant> {
        match peer.link {
            Link::Connected => {
                let late = peer.late_at.map(|(at, _)| at);
                let lacking = !self.wants.pending().is_empty() || !self.requests.late().is_empty();
                let asks_again =
                    peer.may_recheck() && lacking && peer.paused_until.is_none() && peer.has_room(false);
                let recheck = asks_again.then_some(peer.recheck.at);
                let map = self.map_deadline(peer);
                late.into_iter().chain(peer.paused_until).chain(recheck).chain(map).min()
            }
            Link::Dialling { since, patient: true } => Some(since + self.config.dial_patience),
            _ => None,
        }
    }

    /// Works out anew which of a peer's requests is late first; called when they or its pace have changed.
    pub(super) fn set_late_at(&mut self, ix: PeerIx) {
        let peer = &self.peers[ix];
        let mut first: Option<(Instant, RequestId)> = None;
        // In the order in which they were sent: none is late sooner than the least timeout after that.
        for id in &peer.fresh {
            let Some(request) = self.requests.get(*id) else { continue };
            if first.is_some_and(|(at, _)| at <= request.sent + self.config.min_request_timeout) {
                break;
            }
            let timeout = peer.pace.timeout(request.units, &self.config);
            let doublings = u32::from(self.wants[request.want].lates / 2).min(6);
            let at = request.late_from + (timeout * (1 << doublings)).min(self.config.max_request_timeout);
            first = Some(first.map_or((at, *id), |first| first.min((at, *id))));
        }
        self.peers[ix].late_at = first;
    }

    fn run_peer_timers(&mut self, ix: PeerIx, now: Instant) {
        let peer = &mut self.peers[ix];
        peer.paused_until = peer.paused_until.filter(|until| *until > now);
        let mut stalled = false;
        while let Some((at, id)) = self.peers[ix].late_at
            && at <= now
        {
            stalled |= self.requests.get(id).is_some_and(|request| !request.was_late());
            self.set_late(ix, id, now);
        }
        if stalled {
            self.peers[ix].pace.on_stall();
        }
    }

    fn set_late(&mut self, ix: PeerIx, id: RequestId, now: Instant) {
        let peer = &mut self.peers[ix];
        peer.fresh.remove(&id);
        peer.late.insert(id);
        self.requests.set_late(id);
        let Some(request) = self.requests.get(id) else { return };
        let (want, is_first) = (request.want, !request.was_late());
        self.wants[want].lates = self.wants[want].lates.saturating_add(u8::from(is_first));
        self.set_late_at(ix);
        self.doubt_silent(id, now);
        self.check_source(want, now);
    }

    /// What was late comes after all: it has as much time again, once.
    pub(super) fn set_on_time(&mut self, id: RequestId, now: Instant) {
        let Some(ix) = self.requests.get(id).map(|request| request.peer) else { return };
        let peer = &mut self.peers[ix];
        peer.late.remove(&id);
        peer.fresh.insert(id);
        self.requests.set_on_time(id, now);
        self.peers[ix].note_answer(now);
        self.peers[ix].doubtful = false;
        self.set_late_at(ix);
    }
}
