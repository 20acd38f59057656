//! Peers coming and going, and what each is believed to hold.

use std::{collections::BTreeSet, time::Instant};

use libp2p::PeerId;

use super::{
    Action, Fetch,
    config::MAX_SOURCES_PER_WANT,
    maps::Asking,
    peers::{Link, PeerIx},
    wants::{Status, WantIx},
};

impl Fetch {
    /// The peer's place in the table, if it may have one.
    pub(super) fn add_peer(&mut self, peer: PeerId, now: Instant) -> Option<PeerIx> {
        let known = self.peers.find(&peer);
        if known.is_some() {
            return known;
        }
        let busy: BTreeSet<PeerIx> = self.requests.iter().map(|(_, request)| request.peer).collect();
        let (ix, old) = self.peers.find_or_add(peer, &self.config, now, |ix| busy.contains(&ix))?;
        if let Some(old) = old {
            self.forget_maps(&old);
            self.sources.retain(|_, sources| {
                sources.retain(|source| *source != ix);
                !sources.is_empty()
            });
            self.sources_changed(now);
        }
        Some(ix)
    }

    /// The peer is believed to hold everything from now on.
    pub(super) fn set_full(&mut self, ix: PeerIx) {
        if !self.peers[ix].full {
            for rank in self.peers[ix].believed.clone() {
                self.remove_source(ix, rank.want());
            }
            self.peers[ix].set_full();
        }
    }

    /// The peer is named as a provider of this want.
    pub(super) fn add_source(&mut self, ix: PeerIx, want: WantIx) {
        if self.wants[want].status == Status::Stored {
            return;
        }
        let rank = self.wants.rank(want);
        let place = self.wants.place(want);
        let peer = &mut self.peers[ix];
        if peer.maps.is_told() && place.is_some() {
            // It may hold the chunk as a part of something else, or have got it back.
            self.try_anyway(ix, want);
            return;
        }
        if !peer.full && peer.link != Link::Banned {
            let sources = self.sources.entry(want).or_default();
            if !sources.contains(&ix) && sources.len() < MAX_SOURCES_PER_WANT {
                sources.push(ix);
            }
            if sources.contains(&ix) {
                peer.believed.insert(rank);
            }
        }
        peer.unmark(want, rank);
    }

    /// The peer may hold this want as well, unless it said that it does not.
    pub(super) fn guess_source(&mut self, ix: PeerIx, want: WantIx) {
        if !self.peers[ix].missing.contains(want) {
            self.add_source(ix, want);
        }
    }

    /// The peer is no longer believed to hold this one want.
    pub(super) fn remove_source(&mut self, ix: PeerIx, want: WantIx) {
        if let Some(sources) = self.sources.get_mut(&want) {
            sources.retain(|source| *source != ix);
            if sources.is_empty() {
                self.sources.remove(&want);
            }
        }
    }

    /// Whether a peer that answers is believed to hold this want.
    pub(super) fn has_source(&self, want: WantIx) -> bool {
        let full = |(_, peer): (PeerIx, &super::peers::Peer)| {
            peer.full && peer.counts() && !peer.missing.contains(want)
        };
        let single = self.sources.get(&want);
        self.peers.iter().any(full)
            || single.is_some_and(|sources| sources.iter().any(|ix| self.peers[*ix].counts()))
    }

    /// There is a connection.
    pub(super) fn connected(&mut self, ix: PeerIx, now: Instant) {
        let peer = &mut self.peers[ix];
        if matches!(peer.link, Link::Banned | Link::Connected) {
            return;
        }
        peer.link = Link::Connected;
        peer.exhausted = false;
        peer.last_answer = now;
        peer.answers = false;
        peer.pace.on_connected();
        peer.maps.on_connected();
        self.dials.dirty = true;
    }

    /// The connection is gone, or as good as gone.
    pub(super) fn disconnected(&mut self, ix: PeerIx, now: Instant) {
        self.end_map(ix, Asking::Unasked, now);
        let wants = self.take_requests(ix);
        self.back_off(ix, now);
        for want in wants {
            self.release(want, now);
        }
    }

    /// A dial failed or a connection broke.
    pub(super) fn back_off(&mut self, ix: PeerIx, now: Instant) {
        let peer = &mut self.peers[ix];
        let until = now + self.config.dial_backoff.delay(peer.tries, &mut self.rng);
        peer.tries = peer.tries.saturating_add(1);
        peer.link = Link::Backoff { until };
        peer.doubtful = false;
        self.dials.dirty = true;
        self.source_lost(ix, now);
    }

    /// Never asks this peer again.
    pub(super) fn ban(&mut self, ix: PeerIx, now: Instant) {
        self.end_map(ix, Asking::Liar, now);
        let wants = self.take_requests(ix);
        self.peers[ix].link = Link::Banned;
        for rank in std::mem::take(&mut self.peers[ix].believed) {
            self.remove_source(ix, rank.want());
        }
        self.dials.dirty = true;
        self.source_lost(ix, now);
        for want in wants {
            self.release(want, now);
        }
    }

    /// Takes everything in flight away from a peer; the wants still have to be released.
    fn take_requests(&mut self, ix: PeerIx) -> Vec<WantIx> {
        let peer = &mut self.peers[ix];
        let fresh = std::mem::take(&mut peer.fresh);
        let late = std::mem::take(&mut peer.late);
        peer.late_at = None;
        peer.units = 0;
        self.requests.take_zombies(|zombie| zombie.request.peer == ix);
        let mut wants = Vec::new();
        for id in fresh.into_iter().chain(late) {
            if let Some(request) = self.requests.remove(id) {
                wants.push(request.want);
                self.actions.push_back(Action::Forget(id));
            }
        }
        wants
    }
}
