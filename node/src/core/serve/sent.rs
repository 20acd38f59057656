//! Which blocks were sent lately, and how often.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use dhtfs_store::ContentCid;

/// Blocks that are remembered, about 100 bytes each; of more, the one that was first sent longest ago is forgotten.
const MAX_REMEMBERED: usize = 4096;

/// How long it counts that a block was sent: whoever got it offers it to the others by then, or is not going to.
const LATELY: Duration = Duration::from_secs(30);

/// How often a block was sent, and when last.
#[derive(Debug, Clone, Copy)]
struct Times {
    count: u32,
    last: Instant,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Never iterated, so its order does not matter.
    times: HashMap<ContentCid, Times>,
    order: VecDeque<ContentCid>,
}

impl Sent {
    /// It is sent once more.
    pub(super) fn note(&mut self, cid: ContentCid, now: Instant) {
        let before = self.times(&cid, now);
        if self.times.insert(cid, Times { count: before.saturating_add(1), last: now }).is_none() {
            self.order.push_back(cid);
        }
        if self.order.len() > MAX_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.times.remove(&oldest);
        }
    }

    /// One of these times not all of it was sent.
    pub(super) fn forget(&mut self, cid: &ContentCid) {
        if let Some(times) = self.times.get_mut(cid) {
            times.count = times.count.saturating_sub(1);
        }
    }

    /// How often lately, as far as that is remembered.
    pub(super) fn times(&self, cid: &ContentCid, now: Instant) -> u32 {
        let lately = self.times.get(cid).filter(|times| now < times.last + LATELY);
        lately.map_or(0, |times| times.count)
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
    #[allow(clippy::disallowed_methods, reason = "virtual time has to begin at some instant")]
    fn the_last_few_thousand_blocks_of_half_a_minute_are_remembered() {
        let cid = |n: usize| ContentCid::from(ChunkCid::of(&n.to_be_bytes()));
        let mut now = Instant::now();
        let mut sent = Sent::default();
        for n in 0..MAX_REMEMBERED {
            sent.note(cid(n), now);
            sent.note(cid(0), now);
        }
        let times = |sent: &Sent, n, now| sent.times(&cid(n), now);
        assert_eq!(times(&sent, 0, now), u32::try_from(MAX_REMEMBERED + 1).unwrap_or(0));
        assert_eq!((times(&sent, 1, now), times(&sent, MAX_REMEMBERED, now)), (1, 0));
        sent.note(cid(MAX_REMEMBERED), now);
        sent.check_invariants();
        assert_eq!(
            (times(&sent, 0, now), times(&sent, 1, now), times(&sent, MAX_REMEMBERED, now)),
            (0, 1, 1)
        );
        now += LATELY;
        assert_eq!(times(&sent, 1, now), 0);
        sent.note(cid(1), now);
        assert_eq!(times(&sent, 1, now), 1, "what was long ago does not count");
        sent.forget(&cid(1));
        assert_eq!(times(&sent, 1, now), 0, "nor what was not sent wholly");
        sent.check_invariants();
    }
}
