//! What ends, who is away, and who is forgotten.
//!
//! Looking for what has ended is done in steps, each of which looks at two thousand places and takes a millisecond
//! if all of them have ended, much less otherwise. A record that has ended is not given out even if no step has come to it yet.

use std::time::Instant;

use libp2p::PeerId;

use super::Records;
use super::slab::NONE;

/// Places looked at, and records dropped, in one step.
pub(super) const STEP: u32 = 2_048;

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// Records that had ended.
    pub expired: usize,
    /// Records of forgotten providers.
    pub forgotten: usize,
    /// Whether all places have been looked at since the last step that said so, and nobody is left to be forgotten.
    pub is_done: bool,
}

impl Records {
    /// A provider has said goodbye: its records stay, but are not given out. False if it has none.
    pub fn away(&mut self, peer: &PeerId) -> bool {
        let Some(no) = self.index.providers.find(peer) else { return false };
        if let Some(provider) = self.index.providers.get_mut(no) {
            provider.is_away = true;
        }
        true
    }

    /// A provider is there again. A new record of it says the same.
    pub fn back(&mut self, peer: &PeerId) {
        let no = self.index.providers.find(peer);
        if let Some(provider) = no.and_then(|no| self.index.providers.get_mut(no)) {
            provider.is_away = false;
        }
    }

    /// All records of a provider are given out no more, and dropped by the next steps of the sweep.
    ///
    /// If it comes back with the same keys before they are done, their removal from the disk may be noted after the new
    /// records; then the disk lacks these until they are renewed.
    pub fn forget(&mut self, peer: &PeerId) {
        if let Some(no) = self.index.providers.find(peer) {
            self.index.providers.forget(no);
            self.forgotten.push(no);
        }
    }

    /// Does one step. Nothing, while the list of changes for the disk is nearly full: whoever takes it must go on
    /// taking it.
    pub fn sweep(&mut self, now: Instant) -> Swept {
        let now = self.seconds(now);
        if self.journal.is_crowded() {
            return Swept { expired: 0, forgotten: 0, is_done: false };
        }
        let forgotten = self.drop_forgotten();
        let end = self.cursor.saturating_add(STEP).min(self.index.places());
        let mut expired = 0;
        for place in self.cursor..end {
            if self.index.get(place).is_some_and(|record| record.expires <= now) {
                self.drop_record(place);
                expired += 1;
            }
        }
        let is_round = end >= self.index.places();
        self.cursor = if is_round { 0 } else { end };
        Swept { expired, forgotten, is_done: is_round && self.forgotten.is_empty() }
    }

    fn drop_forgotten(&mut self) -> usize {
        let mut dropped = 0;
        while let Some(no) = self.forgotten.last().copied() {
            let first = self.index.providers.get(no).map_or(NONE, |provider| provider.first);
            if first == NONE {
                self.index.providers.drop_empty(no);
                self.forgotten.pop();
                continue;
            }
            if dropped >= STEP as usize {
                break;
            }
            self.drop_record(first);
            dropped += 1;
        }
        dropped
    }
}
