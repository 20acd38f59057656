//! Which blocks were sent lately, and how often.

use std::collections::{HashMap, VecDeque};

use dhtfs_store::ContentCid;

/// Blocks that are remembered, about 100 bytes each; of more, the one that was first sent longest ago is forgotten.
const MAX_REMEMBERED: usize = 4096;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Never iterated, so its order does not matter.
    times: HashMap<ContentCid, u32>,
    order: VecDeque<ContentCid>,
}

impl Sent {
    /// It is sent once more.
    pub(super) fn note(&mut self, cid: ContentCid) {
        let times = self.times.entry(cid).or_default();
        *times = times.saturating_add(1);
        if *times == 1 {
            self.order.push_back(cid);
        }
        if self.order.len() > MAX_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.times.remove(&oldest);
        }
    }

    /// How often, as far as that is remembered.
    pub(super) fn times(&self, cid: &ContentCid) -> u32 {
        self.times.get(cid).copied().unwrap_or(0)
    }

    pub(super) fn check_invariants(&self) {
        assert_eq!(self.times.len(), self.order.len(), "remembered once");
        assert!(self.order.len() <= MAX_REMEMBERED, "too many are remembered");
    }
}

#[cfg(test)]
mod tests {
    use dhtfs_store::ChunkCid;

    use super::*;

    #[test]
    fn the_last_few_thousand_blocks_are_remembered() {
        let cid = |n: usize| ContentCid::from(ChunkCid::of(&n.to_be_bytes()));
        let mut sent = Sent::default();
        for n in 0..MAX_REMEMBERED {
            sent.note(cid(n));
            sent.note(cid(0));
        }
        assert_eq!(sent.times(&cid(0)), u32::try_from(MAX_REMEMBERED + 1).unwrap_or(0));
        assert_eq!((sent.times(&cid(1)), sent.times(&cid(MAX_REMEMBERED))), (1, 0));
        sent.note(cid(MAX_REMEMBERED));
        sent.check_invariants();
        assert_eq!((sent.times(&cid(0)), sent.times(&cid(1)), sent.times(&cid(MAX_REMEMBERED))), (0, 1, 1));
    }
}
