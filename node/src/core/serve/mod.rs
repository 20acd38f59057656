//! Who is served next.
//!
//! Requests wait in one queue per peer. Whenever the budget has room, the peer that has been given the fewest
//! bytes lately is next (start-time fair queueing: each peer carries a virtual time that advances by the bytes
//! read for it, and a peer that comes back from idleness starts at the current virtual time, so it neither gains
//! nor loses by having been away). Equal peers so get equal bytes, whatever the sizes of their chunks and however
//! many requests each has queued.
//!
//! # Invariants
//! - Bytes read and not yet handed to the socket, each read charged with [`MAX_BLOCK_LEN`] until its true length
//!   is known, never exceed the budget.
//! - No peer is given more of the budget once it holds its share, `budget / (peers + 1)` and at least one block,
//!   so that a peer that does not drain its socket cannot stop the others.
//! - Every admitted request ends in exactly one of: read (then sent or dropped by the driver), refused, dropped.

mod config;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use libp2p::PeerId;

use crate::core::MAX_BLOCK_LEN;

pub use config::ServeConfig;

/// What a request costs its peer in virtual time at least, in bytes: who asks for what is not here would otherwise always be
/// next, and every such question is a look into the database.
const MIN_COST: u64 = 16 * 1024;

/// Names one request of a peer; the driver gives each request an id of its own, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServeId(pub u64);

/// The answer to a new request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Admit {
    /// It waits for its turn; an action will name it.
    Queued,
    /// Too much is waiting: answer Busy now. The machine has already forgotten the id.
    Busy,
}

/// What the driver is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServeAction {
    /// Read the content of this request, then report [`Serve::on_read`] and, when it is handed to the socket,
    /// [`Serve::on_sent`]. If it is not here, answer Missing and report a length of 0.
    Read {
        /// The request.
        id: ServeId,
        /// Who asked.
        peer: PeerId,
    },
    /// It waited too long: answer Busy. The machine has already forgotten the id.
    Refuse {
        /// The request.
        id: ServeId,
        /// Who asked.
        peer: PeerId,
    },
}

/// Counters since the start, and what is going on now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ServeStats {
    /// Requests answered with data.
    pub served: u64,
    /// Bytes of these answers.
    pub served_len: u64,
    /// Requests answered with Missing.
    pub missing: u64,
    /// Requests answered with Busy, at once or after waiting.
    pub busy: u64,
    /// Requests whose connection went away first.
    pub dropped: u64,
    /// Requests waiting now.
    pub queued: usize,
    /// Requests being read or sent now.
    pub in_flight: usize,
    /// Bytes of the budget in use now.
    pub budget_used_len: u64,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Queued,
    /// Being read. Whoever asked may be `gone`; the memory is needed all the same until the read ends.
    Reading {
        is_gone: bool,
    },
    /// Read, not yet handed to the socket.
    Read {
        len: u64,
    },
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    peer: PeerId,
    stage: Stage,
}

/// What one peer has waiting and in flight. Exists only while there is something.
#[derive(Debug, Default)]
struct PeerQueue {
    waiting: VecDeque<(ServeId, Instant)>,
    in_flight: usize,
    charged_len: u64,
    virtual_time: u64,
}

/// The machine. See the module's documentation.
#[derive(Debug)]
pub struct Serve {
    config: ServeConfig,
    requests: BTreeMap<ServeId, Entry>,
    peers: BTreeMap<PeerId, PeerQueue>,
    queued: usize,
    /// Reads under way for nobody.
    gone: usize,
    used_len: u64,
    /// Virtual time of the peer served last: where newcomers start.
    virtual_now: u64,
    actions: VecDeque<ServeAction>,
    counters: ServeStats,
}

impl Serve {
    /// A machine with nothing to do.
    pub fn new(config: ServeConfig) -> Self {
        Self {
            config: config.clamped(),
            requests: BTreeMap::new(),
            peers: BTreeMap::new(),
            queued: 0,
            gone: 0,
            used_len: 0,
            virtual_now: 0,
            actions: VecDeque::new(),
            counters: ServeStats::default(),
        }
    }

    /// A peer asks for something.
    pub fn on_request(&mut self, peer: PeerId, id: ServeId, now: Instant) -> Admit {
        let waiting = self.peers.get(&peer).map_or(0, |queue| queue.waiting.len());
        if waiting >= self.config.max_queued_per_peer
            || self.queued >= self.config.max_queued
            || self.requests.contains_key(&id)
        {
            self.counters.busy += 1;
            return Admit::Busy;
        }
        let virtual_now = self.virtual_now;
        let queue = self
            .peers
            .entry(peer)
            .or_insert_with(|| PeerQueue { virtual_time: virtual_now, ..PeerQueue::default() });
        if queue.waiting.is_empty() && queue.in_flight == 0 {
            queue.virtual_time = queue.virtual_time.max(virtual_now);
        }
        queue.waiting.push_back((id, now));
        self.queued += 1;
        self.requests.insert(id, Entry { peer, stage: Stage::Queued });
        self.pump();
        Admit::Queued
    }

    /// The content of a request has been read: `len` bytes, 0 if it is not here.
    pub fn on_read(&mut self, id: ServeId, len: u32, _now: Instant) {
        let Some(Entry { peer, stage: Stage::Reading { is_gone } }) = self.requests.get(&id).copied() else {
            return;
        };
        let charge = u64::from(MAX_BLOCK_LEN);
        let len = u64::from(len).min(charge);
        self.requests.insert(id, Entry { peer, stage: Stage::Read { len } });
        self.used_len -= charge - len;
        if let Some(queue) = self.peers.get_mut(&peer) {
            queue.charged_len -= charge - len;
            queue.virtual_time = queue.virtual_time.saturating_sub(charge - len.max(MIN_COST));
        }
        if is_gone {
            self.gone -= 1;
            self.remove(id);
        }
        self.pump();
    }

    /// The answer to a request has been handed to the socket.
    pub fn on_sent(&mut self, id: ServeId, now: Instant) {
        match self.requests.get(&id).map(|entry| entry.stage) {
            Some(Stage::Read { len }) => {
                self.remove(id);
                self.counters.missing += u64::from(len == 0);
                self.counters.served += u64::from(len > 0);
                self.counters.served_len += len;
            }
            // Sent before it was read: nothing was.
            Some(Stage::Queued | Stage::Reading { .. }) => self.on_dropped(id, now),
            None => {}
        }
        self.pump();
    }

    /// The request can no longer be answered: its stream or connection is gone. What is being read keeps its part of the
    /// budget until the read ends.
    pub fn on_dropped(&mut self, id: ServeId, _now: Instant) {
        match self.requests.get_mut(&id).map(|entry| &mut entry.stage) {
            Some(Stage::Reading { is_gone: true }) | None => {}
            Some(Stage::Reading { is_gone }) => {
                *is_gone = true;
                self.gone += 1;
                self.counters.dropped += 1;
            }
            Some(Stage::Queued | Stage::Read { .. }) => {
                self.remove(id);
                self.counters.dropped += 1;
            }
        }
        self.pump();
    }

    /// Whoever asked wants it no more. True if its turn had not come: then the machine has forgotten the id. What is
    /// being read or sent ends as if nothing had been said.
    #[must_use]
    pub fn on_cancelled(&mut self, id: ServeId, now: Instant) -> bool {
        let waits = self.requests.get(&id).is_some_and(|entry| matches!(entry.stage, Stage::Queued));
        if waits {
            self.on_dropped(id, now);
        }
        waits
    }

    /// Refuses what has waited too long: whoever asked has given up on it or asked elsewhere.
    pub fn on_timeout(&mut self, now: Instant) {
        let mut late = Vec::new();
        for (peer, queue) in &self.peers {
            let expired = queue.waiting.iter().take_while(|(_, at)| *at + self.config.max_queue_time <= now);
            late.extend(expired.map(|(id, _)| (*peer, *id)));
        }
        for (peer, id) in late {
            self.remove(id);
            self.counters.busy += 1;
            self.actions.push_back(ServeAction::Refuse { id, peer });
        }
        self.pump();
    }

    /// The next thing to do; call until `None` after every input.
    pub fn next_action(&mut self) -> Option<ServeAction> {
        self.actions.pop_front()
    }

    /// When the oldest waiting request has to be refused.
    pub fn next_deadline(&self) -> Option<Instant> {
        let oldest =
            self.peers.values().filter_map(|queue| queue.waiting.front()).map(|(_, at)| *at).min()?;
        Some(oldest + self.config.max_queue_time)
    }

    /// Counters since the start, and what is going on now.
    pub fn stats(&self) -> ServeStats {
        ServeStats {
            queued: self.queued,
            in_flight: self.requests.len() - self.queued - self.gone,
            budget_used_len: self.used_len,
            ..self.counters
        }
    }

    /// Panics if the books do not balance or a limit is exceeded.
    pub fn check_invariants(&self) {
        let mut gone = 0;
        let mut per_peer: BTreeMap<PeerId, (usize, usize, u64)> = BTreeMap::new();
        for entry in self.requests.values() {
            let sums = per_peer.entry(entry.peer).or_default();
            match entry.stage {
                Stage::Queued => sums.0 += 1,
                Stage::Reading { is_gone } => {
                    gone += usize::from(is_gone);
                    sums.1 += 1;
                    sums.2 += u64::from(MAX_BLOCK_LEN);
                }
                Stage::Read { len } => {
                    sums.1 += 1;
                    sums.2 += len;
                }
            }
        }
        let used: u64 = per_peer.values().map(|sums| sums.2).sum();
        assert_eq!(gone, self.gone, "reads for nobody");
        assert_eq!(used, self.used_len, "budget in use");
        assert!(used <= self.config.budget_len, "the budget is exceeded");
        assert_eq!(per_peer.values().map(|sums| sums.0).sum::<usize>(), self.queued, "queued");
        assert!(self.queued <= self.config.max_queued, "too many are queued");
        assert!(self.peers.keys().eq(per_peer.keys()), "peers with nothing are forgotten");
        for (peer, queue) in &self.peers {
            let found = (queue.waiting.len(), queue.in_flight, queue.charged_len);
            assert_eq!(Some(&found), per_peer.get(peer), "sums of one peer");
            assert!(queue.waiting.len() <= self.config.max_queued_per_peer, "one peer has too many queued");
        }
        if self.requests.len() == self.queued {
            assert_eq!(self.queued, 0, "nothing is in flight, yet requests wait");
        }
    }

    /// Gives the budget out while it has room for one more block.
    fn pump(&mut self) {
        while let Some((peer, id)) = self.pick() {
            let charge = u64::from(MAX_BLOCK_LEN);
            let Some(queue) = self.peers.get_mut(&peer) else { return };
            queue.waiting.pop_front();
            queue.in_flight += 1;
            queue.charged_len += charge;
            self.virtual_now = self.virtual_now.max(queue.virtual_time);
            queue.virtual_time += charge;
            self.queued -= 1;
            self.used_len += charge;
            self.requests.insert(id, Entry { peer, stage: Stage::Reading { is_gone: false } });
            self.actions.push_back(ServeAction::Read { id, peer });
        }
    }

    /// The peer with the least virtual time among those that wait and have not used up their share.
    fn pick(&self) -> Option<(PeerId, ServeId)> {
        let block = u64::from(MAX_BLOCK_LEN);
        if self.queued == 0 || self.used_len + block > self.config.budget_len {
            return None;
        }
        let peers = u64::try_from(self.peers.len()).unwrap_or(u64::MAX - 1);
        let share = (self.config.budget_len / (peers + 1)).max(block);
        self.peers
            .iter()
            .filter(|(_, queue)| queue.charged_len < share)
            .filter_map(|(peer, queue)| Some((queue.virtual_time, *peer, queue.waiting.front()?.0)))
            .min()
            .map(|(_, peer, id)| (peer, id))
    }

    fn remove(&mut self, id: ServeId) -> Option<Stage> {
        let entry = self.requests.remove(&id)?;
        if let Some(queue) = self.peers.get_mut(&entry.peer) {
            match entry.stage {
                Stage::Queued => {
                    queue.waiting.retain(|(waiting, _)| *waiting != id);
                    self.queued -= 1;
                }
                Stage::Reading { .. } | Stage::Read { .. } => {
                    let charge = match entry.stage {
                        Stage::Read { len } => len,
                        Stage::Queued | Stage::Reading { .. } => u64::from(MAX_BLOCK_LEN),
                    };
                    queue.in_flight -= 1;
                    queue.charged_len -= charge;
                    self.used_len -= charge;
                }
            }
            if queue.waiting.is_empty() && queue.in_flight == 0 {
                self.peers.remove(&entry.peer);
            }
        }
        Some(entry.stage)
    }
}
