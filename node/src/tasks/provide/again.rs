//! Keys to be announced once more, some at a time and each in its turn.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

use dhtfs_store::ContentCid;
use tracing::warn;

use super::MAX_PUT_OFF;

/// Keys that are announced once more at a time, one by one.
const AT_ONCE: usize = 64;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Again {
    keys: BTreeSet<ContentCid>,
    /// The last one that had its turn: those behind it come first, so that none is kept out by some that always fail.
    last: Option<ContentCid>,
}

impl Again {
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Those that find no room are announced when they have their turn in the schedule, which is said.
    pub(super) fn add(&mut self, keys: Vec<ContentCid>) {
        let room = MAX_PUT_OFF.saturating_sub(self.keys.len());
        if keys.len() > room {
            warn!("{} keys are announced only when they have their turn", keys.len() - room);
        }
        self.keys.extend(keys.into_iter().take(room));
    }

    /// Takes those whose turn it is.
    pub(super) fn take(&mut self) -> Vec<ContentCid> {
        let behind = self.keys.range((self.last.map_or(Unbounded, Excluded), Unbounded));
        let keys: Vec<ContentCid> =
            behind.chain(&self.keys).take(AT_ONCE.min(self.keys.len())).copied().collect();
        for key in &keys {
            self.keys.remove(key);
        }
        self.last = keys.last().copied();
        keys
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dhtfs_store::{ChunkCid, ContentCid};

    use super::{AT_ONCE, Again, MAX_PUT_OFF};

    fn key(n: usize) -> ContentCid {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&n.to_be_bytes());
        ContentCid::Chunk(ChunkCid::from_digest(digest))
    }

    #[test]
    fn keys_that_always_fail_keep_nobody_out() {
        let mut again = Again::default();
        again.add((0..3 * AT_ONCE + 5).map(key).collect());
        let mut had_a_turn = BTreeSet::new();
        for _ in 0..4 {
            let taken = again.take();
            assert_eq!(taken.len(), AT_ONCE);
            had_a_turn.extend(taken.iter().copied());
            again.add(taken);
        }
        assert_eq!(had_a_turn.len(), 3 * AT_ONCE + 5);
    }

    #[test]
    fn they_are_taken_once_and_bounded() {
        let mut again = Again::default();
        again.add(vec![key(1), key(2), key(1)]);
        assert_eq!(again.take(), [key(1), key(2)]);
        assert!(again.is_empty());
        assert!(again.take().is_empty());
        again.add((0..MAX_PUT_OFF + 7).map(key).collect());
        assert_eq!(again.keys.len(), MAX_PUT_OFF);
    }
}
