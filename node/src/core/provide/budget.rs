//! Which chunk keys are announced again by a node that has too many of them.

/// What the schedule says of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Whether it names a chunk; manifest blocks, of which there are few, always have their turn.
    pub is_chunk: bool,
    /// Whether it is due.
    pub is_due: bool,
    /// When it was last announced, in s since 1970; 0 if never.
    pub last_unix: u64,
    /// Nodes that held its record then.
    pub holders: u8,
}

impl Standing {
    /// Nodes that hold its record now, at most.
    fn holders_at(&self, now_unix: u64, ttl_secs: u64) -> u8 {
        if self.last_unix.saturating_add(ttl_secs) <= now_unix { 0 } else { self.holders }
    }
}

/// How many chunk keys a node announces in one interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Keys that it has, all together.
    pub keys: u64,
    /// Keys that it announces again, at most.
    pub max: u64,
    /// How long a record lives, in s.
    pub ttl_secs: u64,
}

impl Budget {
    /// Which keys of a page of neighbours in the keyspace are announced now, as indices in order.
    ///
    /// Keys are spread evenly, so a page has the same part of the budget as of the keys. What was announced lately or
    /// is still to be announced for the first time takes room first; the rest goes to the chunks whose records are on
    /// the fewest nodes, and among these to those announced the longest ago. So a key that was passed over is among
    /// the first the next time, since its record has run out by then or is about to.
    pub fn choose(&self, page: &[Standing], now_unix: u64) -> Vec<usize> {
        let due = |index: &usize| page.get(*index).is_some_and(|key| key.is_due);
        let mut chosen: Vec<usize> = (0..page.len()).filter(due).collect();
        if self.keys <= self.max {
            return chosen;
        }
        let is_chunk = |index: &usize| page.get(*index).is_some_and(|key| key.is_chunk);
        let mut chunks: Vec<usize> = chosen.extract_if(.., |index| is_chunk(index)).collect();
        let all = page.iter().filter(|key| key.is_chunk).count();
        let taken = all - chunks.len();
        chunks.sort_by_key(|index| {
            page.get(*index).map(|key| (key.holders_at(now_unix, self.ttl_secs), key.last_unix))
        });
        chunks.truncate(self.part(all).saturating_sub(taken));
        chosen.extend(chunks);
        chosen.sort_unstable();
        chosen
    }

    /// The part of the budget that belongs to so many keys, rounded up.
    fn part(&self, keys: usize) -> usize {
        let part = (u128::from(self.max) * keys as u128).div_ceil(u128::from(self.keys.max(1)));
        usize::try_from(part).unwrap_or(usize::MAX)
    }
}
