//! Transfers: which of them work, rest or end, as the user and what became of them have it.
//!
//! A transfer is attached to a client that waits for it, or detached: handed over to the node, which tries again by
//! itself. Whoever carries one out asks for the next [`Step`] whenever the book has changed, and tells what became of
//! it.
//!
//! # Invariants
//! - At most [`MAX_TRANSFERS`] of them, of which at most [`MAX_WORKING_DETACHED`] detached ones work at the same time;
//!   these get their turn in the order in which they were handed over.
//! - What is to be aborted never works again, and what is paused only after a resume.

mod meter;

use std::{collections::BTreeMap, time::Instant};

use dhtfs_store::ContentCid;

pub use meter::Meter;

/// Most transfers at the same time, waiting ones included.
pub const MAX_TRANSFERS: usize = 256;

/// Detached transfers that work at the same time: each has up to 40 MiB on the way.
pub const MAX_WORKING_DETACHED: usize = 8;

/// Names a transfer for as long as the node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransferId(pub u64);

/// What the user wants of a transfer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Will {
    /// That it goes on.
    #[default]
    Run,
    /// That it rests.
    Pause,
    /// That it ends.
    Abort,
}

/// What is told to the fetch of a transfer that works.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wish {
    /// What the user wants.
    pub will: Will,
    /// How often the user asked for providers to be looked for and dialled anew.
    pub refreshes: u64,
}

/// What a transfer is at.
#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    /// It waits for its turn.
    Queued,
    /// It fetches.
    Working,
    /// It has let go of everything.
    Resting,
    /// It failed, and is tried again then.
    Retrying {
        /// When.
        at: Instant,
        /// Why it failed.
        error: String,
    },
    /// It failed in a way that trying again does not mend.
    Failed {
        /// Why.
        error: String,
    },
}

/// What whoever carries out a transfer has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Fetch.
    Work,
    /// Wait until the book changes.
    Wait,
    /// Wait until then, or until the book changes.
    WaitUntil(Instant),
    /// End.
    End,
}

/// A transfer.
#[derive(Debug, Clone, PartialEq)]
pub struct Transfer {
    /// What is fetched.
    pub cid: ContentCid,
    /// Whether the node carries it out by itself.
    pub detached: bool,
    /// What the user wants.
    pub wish: Wish,
    /// What it is at.
    pub phase: Phase,
}

impl Transfer {
    fn step(&self, now: Instant) -> Step {
        match (self.wish.will, &self.phase) {
            (Will::Abort, _) => Step::End,
            (Will::Pause, _) | (Will::Run, Phase::Failed { .. }) => Step::Wait,
            (Will::Run, Phase::Retrying { at, .. }) if *at > now => Step::WaitUntil(*at),
            (Will::Run, _) => Step::Work,
        }
    }
}

/// There are [`MAX_TRANSFERS`] already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Every transfer of a node.
#[derive(Debug, Default)]
pub struct Transfers {
    running: BTreeMap<TransferId, Transfer>,
    next: u64,
}

impl Transfers {
    /// A transfer begins, or is to begin.
    ///
    /// # Errors
    /// [`Full`].
    pub fn begin(&mut self, cid: ContentCid, detached: bool, will: Will) -> Result<TransferId, Full> {
        if self.running.len() >= MAX_TRANSFERS {
            return Err(Full);
        }
        let id = TransferId(self.next);
        self.next += 1;
        let wish = Wish { will, refreshes: 0 };
        self.running.insert(id, Transfer { cid, detached, wish, phase: Phase::Queued });
        Ok(id)
    }

    /// The transfer has ended.
    pub fn end(&mut self, id: TransferId) {
        self.running.remove(&id);
    }

    /// One transfer.
    pub fn get(&self, id: TransferId) -> Option<&Transfer> {
        self.running.get(&id)
    }

    /// All of them, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (TransferId, &Transfer)> {
        self.running.iter().map(|(id, transfer)| (*id, transfer))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.running.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// What to do with a transfer now. After [`Step::Work`] it counts as working.
    pub fn next_step(&mut self, id: TransferId, now: Instant) -> Step {
        let Some(transfer) = self.running.get(&id) else { return Step::End };
        let mut step = transfer.step(now);
        let has_turn = !transfer.detached || transfer.phase == Phase::Working || self.has_turn(id, now);
        if step == Step::Work && !has_turn {
            step = Step::Wait;
        }
        if let Some(transfer) = self.running.get_mut(&id) {
            match step {
                Step::Work => transfer.phase = Phase::Working,
                Step::Wait if transfer.wish.will == Will::Run && transfer.phase == Phase::Resting => {
                    transfer.phase = Phase::Queued;
                }
                Step::Wait | Step::WaitUntil(_) | Step::End => {}
            }
        }
        step
    }

    /// Whether a detached transfer is among those that may work.
    fn has_turn(&self, id: TransferId, now: Instant) -> bool {
        let others = self.running.iter().filter(|(other, transfer)| {
            let is_working = transfer.phase == Phase::Working;
            let is_before = **other < id && transfer.step(now) == Step::Work;
            transfer.detached && **other != id && (is_working || is_before)
        });
        others.count() < MAX_WORKING_DETACHED
    }

    /// What was fetching has let go.
    pub fn on_rested(&mut self, id: TransferId) {
        self.set_phase(id, Phase::Resting);
    }

    /// The fetch has failed; it is tried again at `again`, if at all.
    pub fn on_failed(&mut self, id: TransferId, error: String, again: Option<Instant>) {
        let phase = match again {
            Some(at) => Phase::Retrying { at, error },
            None => Phase::Failed { error },
        };
        self.set_phase(id, phase);
    }

    fn set_phase(&mut self, id: TransferId, phase: Phase) {
        if let Some(transfer) = self.running.get_mut(&id) {
            transfer.phase = phase;
        }
    }

    /// The user wants it to rest.
    pub fn pause(&mut self, id: TransferId) {
        if let Some(transfer) = self.running.get_mut(&id).filter(|it| it.wish.will == Will::Run) {
            transfer.wish.will = Will::Pause;
        }
    }

    /// The user wants it to go on, also after it failed or while it waits to be tried again.
    pub fn resume(&mut self, id: TransferId) {
        if let Some(transfer) = self.running.get_mut(&id).filter(|it| it.wish.will != Will::Abort) {
            transfer.wish.will = Will::Run;
            if transfer.phase != Phase::Working {
                transfer.phase = Phase::Queued;
            }
        }
    }

    /// The user wants it to end.
    pub fn abort(&mut self, id: TransferId) {
        if let Some(transfer) = self.running.get_mut(&id) {
            transfer.wish.will = Will::Abort;
        }
    }

    /// The user wants providers to be looked for now. What waits to be tried again is tried now.
    pub fn refresh(&mut self, id: TransferId) {
        if let Some(transfer) = self.running.get_mut(&id) {
            transfer.wish.refreshes += 1;
            if matches!(transfer.phase, Phase::Retrying { .. }) {
                transfer.phase = Phase::Queued;
            }
        }
    }

    /// Panics unless the books balance. For tests.
    pub fn check_invariants(&self) {
        assert!(self.running.len() <= MAX_TRANSFERS, "{} transfers", self.running.len());
        let working = |transfer: &&Transfer| transfer.detached && transfer.phase == Phase::Working;
        let working = self.running.values().filter(working).count();
        assert!(working <= MAX_WORKING_DETACHED, "{working} work");
        assert!(self.running.keys().all(|id| id.0 < self.next), "a number that was not given");
    }
}

#[cfg(test)]
mod tests;
