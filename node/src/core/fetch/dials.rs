//! Whom to dial, and when.
//!
//! Peers are dialled while fewer than [`max_peers`](super::FetchConfig::max_peers) are useful (and, before much is
//! known to be wanted and before it gets slow, while fewer than [`FEW_PEERS`]). Useful is who answers and may have
//! something; the others stay connected and cost nothing. While candidates wait, one more is allowed from time to
//! time, so that slow peers cannot keep a fast one out. Hinted peers, and the only known source of a chunk, need no
//! free place.

use std::{
    cmp::Reverse,
    time::{Duration, Instant},
};

use super::{
    Action, Fetch,
    config::FetchConfig,
    peers::{Link, Peer, PeerIx},
    wants::Status,
};

/// Useful peers looked for while hardly anything is known to be wanted.
const FEW_PEERS: usize = 6;

/// Dials that hang may be this many times `max_dials` before they take the places of others.
const MAX_HANGING_SHARE: usize = 2;

/// Wants of a peer that are looked at to see whether it is the only source of one.
const MAX_SOURCES_CHECKED: usize = 16;

/// How often one more peer is allowed while candidates wait and blocks come.
const GROW_INTERVAL: Duration = Duration::from_secs(10);

/// The same, and how long nothing must have come, when no blocks come.
const SLOW_GROW_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Dials {
    /// Something changed that may allow a dial.
    pub(super) dirty: bool,
    /// When the next candidate's pause ends.
    at: Option<Instant>,
    /// Useful peers allowed beyond the maximum.
    grown: usize,
    /// When one more is allowed.
    grow_at: Option<Instant>,
}

impl Dials {
    /// A peer was named again: it may be dialled once more even if it failed often.
    pub(super) fn renew(&mut self, peer: &mut Peer, config: &FetchConfig) {
        peer.tries = peer.tries.min(config.max_redials);
        self.dirty = true;
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.at.into_iter().chain(self.grow_at).min()
    }
}

impl Fetch {
    /// Dials what may be dialled now.
    pub(super) fn pump_dials(&mut self, now: Instant) {
        if self.dials.grow_at.is_some_and(|at| at <= now) {
            self.dials.grow_at = None;
            self.dials.grown += 1;
            self.dials.dirty = true;
        }
        if !self.dials.dirty && self.dials.at.is_none_or(|at| at > now) {
            return;
        }
        self.dials.dirty = false;
        self.dials.at = None;
        let dialling = |hanging: bool| {
            let counts =
                |peer: &Peer| matches!(peer.link, Link::Dialling { patient, .. } if patient != hanging);
            self.peers.iter().filter(|(_, peer)| counts(peer)).count()
        };
        let hanging = dialling(true).saturating_sub(MAX_HANGING_SHARE * self.config.max_dials);
        let dialling = dialling(false) + hanging;
        let useful = self.peers.iter().filter(|(_, peer)| peer.is_useful()).count();
        let few = if self.is_slow(now) { usize::MAX } else { self.wants.open().max(FEW_PEERS) };
        let allowed = self.config.max_peers.min(few).saturating_add(self.dials.grown);
        let mut waiting = false;
        for (dialled, (ix, urgent)) in self.dial_candidates(now).into_iter().enumerate() {
            if dialling + dialled >= self.config.max_dials {
                break;
            }
            if useful + dialled >= allowed && !urgent {
                waiting = true;
                break;
            }
            let peer = &mut self.peers[ix];
            peer.link = Link::Dialling { since: now, patient: true };
            self.actions.push_back(Action::Dial(peer.id));
        }
        self.dials.grow_at = self.dials.grow_at.filter(|_| waiting);
        if waiting && self.dials.grow_at.is_none() {
            let slow = now.saturating_duration_since(self.progress_at) >= SLOW_GROW_INTERVAL;
            self.dials.grow_at = Some(now + if slow { SLOW_GROW_INTERVAL } else { GROW_INTERVAL });
        }
    }

    /// Who may be dialled now, best first, and whether it needs no free place. Notes when the next one may be.
    fn dial_candidates(&mut self, now: Instant) -> Vec<(PeerIx, bool)> {
        let mut candidates = Vec::new();
        let mut next = None;
        for (ix, peer) in self.peers.iter() {
            let ready = match peer.link {
                Link::Known => now,
                Link::Backoff { until } if peer.hint || peer.tries <= self.config.max_redials => until,
                _ => continue,
            };
            let Some(worth) = self.worth_dialling(peer, now) else { continue };
            let at = ready.max(worth);
            if at > now {
                next = Some(next.map_or(at, |next: Instant| next.min(at)));
                continue;
            }
            let urgent = peer.hint || !peer.full && (self.is_slow(now) || self.is_only_source(peer));
            candidates.push((Reverse(urgent), peer.tries, ix));
        }
        self.dials.at = next;
        candidates.sort_unstable();
        candidates.into_iter().map(|(Reverse(urgent), _, ix)| (ix, urgent)).collect()
    }

    /// When a connection to this peer would be of use.
    pub(super) fn worth_dialling(&self, peer: &Peer, now: Instant) -> Option<Instant> {
        if self.wants.open() == 0 {
            None
        } else if peer.full {
            Some(if peer.may_recheck() { peer.recheck.at } else { now })
        } else {
            (!peer.believed.is_empty()).then_some(now)
        }
    }

    /// Whether it is believed to hold something that no useful peer does.
    fn is_only_source(&self, peer: &Peer) -> bool {
        !peer.full
            && peer
                .believed
                .iter()
                .take(MAX_SOURCES_CHECKED)
                .map(|rank| rank.want())
                .any(|want| self.wants[want].status == Status::Pending && !self.has_source(want))
    }
}
