//! Asking for no more than the own limit covers.
//!
//! With a limit on what comes from metered peers, each is asked for a block only with the credit for it. So what comes
//! needs no brake: a peer is asked later, and then answers as fast as it can, so that times, windows and copies are those
//! of the line and not of the limit. While credit is waited for, the clock of [`Fetch`]'s progress stands still.
//!
//! # Invariants
//! - What metered peers were asked for is never more than the credit that came, as long as the limit does not change.
//! - Saved-up credit is at most [`MAX_CREDIT`].

use std::time::Instant;

use libp2p::PeerId;

use super::{Fetch, peers::PeerIx};
use crate::core::MAX_BLOCK_LEN;

/// Credit for the longest block: with less, nobody is asked.
const NEEDED: u64 = MAX_BLOCK_LEN as u64;

/// Most credit that is kept. More can only come back from many answers of Missing at once.
pub(super) const MAX_CREDIT: u64 = 4 * NEEDED;

/// What metered peers may be asked for.
#[derive(Debug, Default)]
pub(super) struct Credit {
    /// Whether there is a limit.
    is_limited: bool,
    left: u64,
    /// Whether a metered peer could be asked for something but for this, if only for a copy.
    lacks: bool,
    /// Whether it is something that nobody was asked for so far.
    holds: bool,
}

impl Credit {
    /// Whether more would be on its way but for the limit.
    pub(super) fn holds(&self) -> bool {
        self.holds
    }

    pub(super) fn check_invariants(&self) {
        assert!(self.left <= MAX_CREDIT, "too much credit");
        assert!(self.is_limited || self.left == 0 && !self.lacks && !self.holds, "credit without a limit");
    }
}

impl Fetch {
    /// From now on there is a limit on what metered peers are asked for, or none.
    pub fn on_limit(&mut self, is_limited: bool, now: Instant) {
        if self.ended || self.credit.is_limited == is_limited {
            return;
        }
        self.credit = Credit { is_limited, ..Credit::default() };
        self.pump(now);
    }

    /// The limit covers so many more bytes.
    pub fn on_credit(&mut self, len: u64, now: Instant) {
        if self.ended || !self.credit.is_limited {
            return;
        }
        self.put_back(len);
        self.pump(now);
    }

    /// Whether the limit counts for this peer. To be said before it is [connected](Fetch::on_connected); by default none is
    /// metered.
    pub fn on_metered(&mut self, peer: PeerId, is_metered: bool) {
        if let Some(ix) = self.peers.find(&peer) {
            self.peers[ix].metered = is_metered;
        }
    }

    /// How much credit is missing to ask for the next block; `None` if nothing waits for it. Answered by
    /// [`on_credit`](Fetch::on_credit).
    pub fn lacks_credit(&self) -> Option<u64> {
        (self.credit.lacks && !self.ended).then(|| NEEDED.saturating_sub(self.credit.left))
    }

    /// Whether the limit lets this peer be asked for a block now.
    pub(super) fn is_covered(&self, ix: PeerIx) -> bool {
        !self.credit.is_limited || !self.peers[ix].metered || self.credit.left >= NEEDED
    }

    /// Notes that nobody lacks credit.
    pub(super) fn clear_lack(&mut self) {
        (self.credit.lacks, self.credit.holds) = (false, false);
    }

    /// Notes that a peer that is not covered would be asked: for a want that nobody was asked for, or a copy.
    pub(super) fn note_lack(&mut self, is_copy: bool) {
        self.credit.lacks = true;
        self.credit.holds |= !is_copy;
    }

    /// A peer is asked for so many bytes.
    pub(super) fn pay(&mut self, ix: PeerIx, len: u32) {
        if self.credit.is_limited && self.peers[ix].metered {
            self.credit.left = self.credit.left.saturating_sub(len.into());
        }
    }

    /// So many of the bytes that a peer was asked for will not come.
    pub(super) fn refund(&mut self, ix: PeerIx, len: u32) {
        if self.credit.is_limited && self.peers[ix].metered {
            self.put_back(len.into());
        }
    }

    fn put_back(&mut self, len: u64) {
        self.credit.left = self.credit.left.saturating_add(len).min(MAX_CREDIT);
    }
}
