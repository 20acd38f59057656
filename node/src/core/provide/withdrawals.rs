//! Records that are to be taken back: which keys have their turn, and what becomes of those whose holders did not hear.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use dhtfs_store::ContentCid;
use rand::{SeedableRng as _, rngs::StdRng};

use super::ProvideConfig;
use crate::core::{
    backoff::BackoffPolicy,
    keyspace::{Position, Prefix},
};

/// Limits of withdrawing. Each default lives here once, with its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WithdrawConfig {
    /// Keys that wait or are under way; default 2^20, a share of a tebibyte. The records of more of them run out by
    /// themselves.
    pub max_keys: usize,
    /// Keys of one batch; default 4,096.
    pub max_batch_keys: usize,
    /// Batches at the same time; default 4: one holder that is silent does not keep up the rest.
    pub max_batches: usize,
    /// How often a key is tried until its record is left to run out; default 5.
    pub max_attempts: u8,
    /// Pause of a key some holder of which did not hear of it; default 2 s to 1 min. The others do not wait for it.
    pub retry: BackoffPolicy,
    /// Peers in the region of a batch, as with announcing.
    pub min_region_peers: u64,
}

impl Default for WithdrawConfig {
    fn default() -> Self {
        let second = std::time::Duration::from_secs(1);
        Self {
            max_keys: 1 << 20,
            max_batch_keys: 4_096,
            max_batches: 4,
            max_attempts: 5,
            retry: BackoffPolicy::new(2 * second, 60 * second),
            min_region_peers: ProvideConfig::default().min_region_peers,
        }
    }
}

/// Keys of one region whose holders are to be told, in the order of their positions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithdrawBatch {
    /// Where the keys lie.
    pub region: Prefix,
    /// The keys.
    pub keys: Vec<ContentCid>,
    /// Attempts before this one, of each key.
    attempts: Vec<u8>,
}

/// How far withdrawing is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WithdrawStats {
    /// Keys that wait or are under way.
    pub waiting: u64,
    /// Keys whose holders were told since the start.
    pub done: u64,
    /// Keys since the start whose holders were not all told; their records run out by themselves.
    pub lost: u64,
}

/// Manifest blocks come first: without them nothing of a share is looked for.
type Turn = (bool, Position);

/// A key that waits.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    cid: ContentCid,
    attempts: u8,
}

/// The queue of withdrawals. It is not kept over a restart: a record that is not taken back runs out within a day.
#[derive(Debug)]
pub struct Withdrawals {
    config: WithdrawConfig,
    rng: StdRng,
    waiting: BTreeMap<Turn, Waiting>,
    /// Keys that failed, and until when they rest.
    resting: BTreeMap<Turn, (Instant, Waiting)>,
    rests: BTreeSet<(Instant, Turn)>,
    batches: usize,
    running_keys: usize,
    /// Peers in the routing table; without any there is nobody to tell.
    peers: usize,
    /// Peers in the network, as far as is known.
    size: u64,
    done: u64,
    lost: u64,
}

impl Withdrawals {
    /// A machine with nothing to do and an empty routing table.
    pub fn new(config: WithdrawConfig, seed: u64) -> Self {
        Self {
            config,
            rng: StdRng::seed_from_u64(seed),
            waiting: BTreeMap::new(),
            resting: BTreeMap::new(),
            rests: BTreeSet::new(),
            batches: 0,
            running_keys: 0,
            peers: 0,
            size: 0,
            done: 0,
            lost: 0,
        }
    }

    /// The records of these keys are to be taken back. Those that find no room are lost, which is counted.
    pub fn on_withdrawn(&mut self, keys: impl IntoIterator<Item = ContentCid>) {
        for cid in keys {
            let turn = turn(&cid);
            // Whoever has just removed something is not to wait because an earlier attempt failed.
            if let Some((until, _)) = self.resting.remove(&turn) {
                self.rests.remove(&(until, turn));
            }
            if self.has_room() || self.waiting.contains_key(&turn) {
                self.waiting.insert(turn, Waiting { cid, attempts: 0 });
            } else {
                self.lost += 1;
            }
        }
    }

    /// So many peers are in the routing table now.
    pub fn on_routing(&mut self, peers: usize) {
        if self.peers == 0 && peers > 0 {
            self.wake(None);
        }
        self.peers = peers;
    }

    /// So many peers are in the network, as far as is known.
    pub fn on_size(&mut self, size: Option<u64>) {
        self.size = size.unwrap_or(self.size);
    }

    /// The holders of these keys of a batch did not all hear of it; those of the others did.
    pub fn on_done(&mut self, batch: &WithdrawBatch, failed: &[ContentCid], now: Instant) {
        self.batches -= 1;
        self.running_keys -= batch.keys.len();
        let failed: BTreeSet<&ContentCid> = failed.iter().collect();
        for (cid, attempts) in batch.keys.iter().zip(&batch.attempts) {
            if !failed.contains(cid) {
                self.done += 1;
            } else if *attempts + 1 >= self.config.max_attempts {
                self.lost += 1;
            } else {
                self.rest(Waiting { cid: *cid, attempts: attempts + 1 }, now);
            }
        }
    }

    /// Nobody was told of a batch, for a reason that lies here: that is no attempt.
    pub fn on_put_off(&mut self, batch: &WithdrawBatch, now: Instant) {
        self.batches -= 1;
        self.running_keys -= batch.keys.len();
        for (cid, attempts) in batch.keys.iter().zip(&batch.attempts) {
            self.rest(Waiting { cid: *cid, attempts: *attempts }, now);
        }
    }

    /// A key that failed waits until it is tried again. One that was withdrawn once more meanwhile has all attempts before
    /// it, and its turn.
    fn rest(&mut self, key: Waiting, now: Instant) {
        let turn = turn(&key.cid);
        if self.waiting.contains_key(&turn) || self.resting.contains_key(&turn) {
            return;
        }
        let attempt = u32::from(key.attempts.saturating_sub(1));
        let until = now + self.config.retry.delay(attempt, &mut self.rng);
        self.resting.insert(turn, (until, key));
        self.rests.insert((until, turn));
    }

    /// Keys that have rested until `now`, or all of them, wait for their turn again.
    fn wake(&mut self, now: Option<Instant>) {
        while let Some((until, turn)) = self.rests.first().copied()
            && now.is_none_or(|now| until <= now)
        {
            self.rests.pop_first();
            if let Some((_, key)) = self.resting.remove(&turn) {
                self.waiting.entry(turn).or_insert(key);
            }
        }
    }

    /// The next keys whose holders are to be told, to be reported by [`Self::on_done`]; ask until there are none.
    pub fn next_action(&mut self, now: Instant) -> Option<WithdrawBatch> {
        self.wake(Some(now));
        let may_begin = self.peers > 0 && self.batches < self.config.max_batches;
        let (&(is_chunk, first), _) = self.waiting.first_key_value().filter(|_| may_begin)?;
        let region = Prefix::of(first, self.region_len());
        let turns: Vec<Turn> = self
            .waiting
            .range((is_chunk, first)..=(is_chunk, region.last()))
            .take(self.config.max_batch_keys.max(1))
            .map(|(turn, _)| *turn)
            .collect();
        let keys: Vec<Waiting> = turns.iter().filter_map(|turn| self.waiting.remove(turn)).collect();
        self.batches += 1;
        self.running_keys += keys.len();
        Some(WithdrawBatch {
            region,
            attempts: keys.iter().map(|key| key.attempts).collect(),
            keys: keys.into_iter().map(|key| key.cid).collect(),
        })
    }

    /// When [`Self::next_action`] has something to say again without another input.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.rests.first().map(|(until, _)| *until).filter(|_| self.peers > 0)
    }

    /// How far it is.
    pub fn stats(&self) -> WithdrawStats {
        let waiting = (self.waiting.len() + self.resting.len() + self.running_keys) as u64;
        WithdrawStats { waiting, done: self.done, lost: self.lost }
    }

    /// Panics if a bound is exceeded or the books do not balance; for tests.
    pub fn check_invariants(&self) {
        // Keys of a batch that fails are taken back, whatever has come meanwhile.
        assert!(self.len() <= self.config.max_keys, "too many keys");
        let rests = self.resting.iter().map(|(turn, (until, _))| (*until, *turn));
        assert_eq!(rests.collect::<BTreeSet<_>>(), self.rests, "keys that rest");
        assert!(!self.resting.keys().any(|turn| self.waiting.contains_key(turn)), "a key rests and waits");
        assert!(self.batches <= self.config.max_batches, "too many batches");
        assert!(self.batches > 0 || self.running_keys == 0, "keys under way without a batch");
        assert!(self.waiting.iter().all(|(at, key)| *at == turn(&key.cid)), "a key in a place not its own");
    }

    fn has_room(&self) -> bool {
        self.len() < self.config.max_keys
    }

    fn len(&self) -> usize {
        self.waiting.len() + self.resting.len() + self.running_keys
    }

    fn region_len(&self) -> u16 {
        let regions = (self.size / self.config.min_region_peers.max(1)).max(1);
        u16::try_from(regions.ilog2()).unwrap_or(0)
    }
}

fn turn(cid: &ContentCid) -> Turn {
    (matches!(cid, ContentCid::Chunk(_)), Position::of_digest(cid.digest()))
}
