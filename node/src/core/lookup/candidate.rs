//! A peer that a walk knows, and how far those who named it are believed.

use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId};

/// Addresses kept of one peer.
const MAX_ADDRS: usize = 8;

/// Addresses of one peer that are taken from one who names it: with more a liar would leave no room for the right ones.
const MAX_NAMED_ADDRS: usize = 3;

/// Peers remembered as having named the same one.
const MAX_NAMERS: usize = 32;

/// Failures of peers that somebody has named before he is doubted: a peer that dies is still named for a while.
const MIN_BAD: u16 = 3;

/// What became of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It was not asked.
    New,
    /// It was, at this time.
    Asked(Instant),
    /// It has answered.
    Answered,
    /// It has not, or not in time.
    Failed,
}

/// What became of those that one answer has named.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Credit {
    pub(super) good: u16,
    pub(super) bad: u16,
}

impl Credit {
    /// Whether most of those named are not there.
    fn is_spent(self) -> bool {
        self.bad >= MIN_BAD && self.bad > self.good.saturating_mul(2)
    }
}

#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) peer: PeerId,
    pub(super) addrs: Vec<Multiaddr>,
    pub(super) state: State,
    /// Whether it failed by being slow only.
    pub(super) is_late: bool,
    /// Addresses that it could be asked at so far, if it was; none of them led to it if it is unreachable.
    tried: usize,
    /// Whether it failed because nothing was at its addresses.
    is_unreachable: bool,
    /// Whether it was asked once more at other addresses.
    pub(super) is_retried: bool,
    /// Whether it was asked at the very end, although only such had named it whose word is worth nothing.
    pub(super) is_last: bool,
    /// Whether it comes from the own routing table.
    is_own: bool,
    /// The numbers of the answers that named it.
    pub(super) named_by: Vec<u16>,
    /// Of those that named it at other addresses since it was asked: they have a say if it is asked once more.
    named_since: Vec<u16>,
}

impl Candidate {
    pub(super) fn new(peer: PeerId, is_own: bool) -> Self {
        Self {
            peer,
            addrs: Vec::new(),
            state: State::New,
            is_late: false,
            tried: 0,
            is_unreachable: false,
            is_retried: false,
            is_last: false,
            is_own,
            named_by: Vec::new(),
            named_since: Vec::new(),
        }
    }

    /// It is asked now, at the addresses that are known.
    pub(super) fn on_asked(&mut self, now: Instant) {
        self.state = State::Asked(now);
        self.tried = self.addrs.len();
    }

    /// Nothing was at the addresses at which it was asked: they make room for others.
    pub(super) fn on_unreachable(&mut self) {
        self.is_unreachable = true;
        self.addrs.drain(..self.tried.min(self.addrs.len()));
        self.tried = 0;
    }

    /// It has answered at these addresses: they come before what anybody says.
    pub(super) fn reached_at(&mut self, addrs: Vec<Multiaddr>) {
        let named = std::mem::replace(&mut self.addrs, addrs);
        for addr in named {
            if !self.addrs.contains(&addr) {
                self.addrs.push(addr);
            }
        }
        self.addrs.truncate(MAX_ADDRS);
    }

    /// Whether it failed for its addresses, has others now, and was not asked at those yet.
    pub(super) fn is_worth_another_try(&self) -> bool {
        self.state == State::Failed && self.is_unreachable && !self.is_retried && !self.addrs.is_empty()
    }

    /// It was named, with these addresses.
    pub(super) fn named(&mut self, addrs: Vec<Multiaddr>, namer: Option<u16>) {
        let most = if namer.is_some() { MAX_NAMED_ADDRS } else { MAX_ADDRS };
        let known = self.addrs.len();
        for addr in addrs.into_iter().take(most) {
            if self.addrs.len() < MAX_ADDRS && !self.addrs.contains(&addr) {
                self.addrs.push(addr);
            }
        }
        // Who names a peer that was asked before, and where it was asked, has said nothing that could turn out true or false.
        let said = match self.state {
            State::New => &mut self.named_by,
            State::Asked(_) | State::Failed if self.addrs.len() > known => &mut self.named_since,
            State::Asked(_) | State::Failed | State::Answered => return,
        };
        if let Some(namer) = namer.filter(|namer| said.len() < MAX_NAMERS && said.last() != Some(namer)) {
            said.push(namer);
        }
    }

    /// Whether only such have named it whose word is worth nothing.
    pub(super) fn is_doubtful(&self, credits: &[Credit]) -> bool {
        self.state == State::New
            && !self.is_own
            && self
                .named_by
                .iter()
                .all(|namer| credits.get(usize::from(*namer)).is_some_and(|c| c.is_spent()))
    }

    /// Whether it comes from the own routing table.
    pub(super) fn is_own(&self) -> bool {
        self.is_own
    }

    pub(super) fn asked_at(&self) -> Option<Instant> {
        match self.state {
            State::Asked(at) => Some(at),
            State::New | State::Answered | State::Failed => None,
        }
    }

    /// It is asked once more, at addresses that others have named.
    pub(super) fn on_retried(&mut self) {
        (self.state, self.is_retried) = (State::New, true);
        self.named_by = std::mem::take(&mut self.named_since);
    }

    /// For how long an answer has been awaited.
    pub(super) fn asked_for(&self, now: Instant) -> Option<Duration> {
        self.asked_at().map(|at| now.saturating_duration_since(at))
    }
}
