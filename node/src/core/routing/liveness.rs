//! Which peers of the routing table are asked whether they are still there.
//!
//! A peer that is heard from in any way is alive. One that was silent for [`LivenessConfig::stale_after`] is probed: it
//! has to answer a question about the DHT. After three probes in a row that failed it leaves the table. Failures count
//! only while somebody else is connected: a node without a network keeps its table.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use libp2p::PeerId;

/// When peers are probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LivenessConfig {
    /// Silence after which a peer is probed; a little longer than the table takes to refresh itself, which hears from
    /// most.
    pub stale_after: Duration,
    /// Pause before a peer that failed is probed again.
    pub retry_after: Duration,
    /// Pause between the starts of two probes.
    pub pause: Duration,
    /// Probes that run at the same time.
    pub max_running: usize,
    /// Failures in a row with which a peer leaves.
    pub max_failures: u8,
}

impl Default for LivenessConfig {
    fn default() -> Self {
        Self {
            stale_after: Duration::from_secs(15 * 60),
            retry_after: Duration::from_secs(60),
            pause: Duration::from_secs(2),
            max_running: 4,
            max_failures: 3,
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LivenessAction {
    /// Ask this peer something; its answer is [`Liveness::on_probed`].
    Probe(PeerId),
    /// Take this peer out of the table.
    Remove(PeerId),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// When it is probed; none while it is.
    due: Option<Instant>,
    failures: u8,
}

/// The peers of the table by the time at which each is probed. Bounded by the table.
///
/// # Invariants
/// - Every entry is in `queue` or being probed.
#[derive(Debug)]
pub struct Liveness {
    config: LivenessConfig,
    entries: BTreeMap<PeerId, Entry>,
    queue: BTreeSet<(Instant, PeerId)>,
    running: BTreeSet<PeerId>,
    /// Before this no other probe is started.
    next_start: Option<Instant>,
    actions: VecDeque<LivenessAction>,
}

impl Liveness {
    /// An empty table.
    pub fn new(config: LivenessConfig) -> Self {
        Self {
            config,
            entries: BTreeMap::new(),
            queue: BTreeSet::new(),
            running: BTreeSet::new(),
            next_start: None,
            actions: VecDeque::new(),
        }
    }

    /// `peer` is in the table, and was heard from just now.
    pub fn on_added(&mut self, peer: PeerId, now: Instant) {
        self.entries.entry(peer).or_insert(Entry { due: None, failures: 0 });
        self.schedule(peer, now + self.config.stale_after, 0);
    }

    /// Only these are in the table.
    pub fn retain(&mut self, is_in_table: impl Fn(&PeerId) -> bool) {
        self.entries.retain(|peer, _| is_in_table(peer));
        self.queue.retain(|(_, peer)| is_in_table(peer));
    }

    /// Something came from `peer`.
    pub fn on_heard(&mut self, peer: &PeerId, now: Instant) {
        if self.entries.contains_key(peer) && !self.running.contains(peer) {
            self.schedule(*peer, now + self.config.stale_after, 0);
        }
    }

    /// A probe has ended. A failure counts only if `counts` says that this node is not to blame: it could dial, and
    /// somebody else is connected.
    pub fn on_probed(&mut self, peer: &PeerId, answered: bool, counts: bool, now: Instant) {
        self.running.remove(peer);
        let Some(entry) = self.entries.get(peer).copied() else { return };
        if answered {
            self.schedule(*peer, now + self.config.stale_after, 0);
            return;
        }
        let failures = entry.failures.saturating_add(u8::from(counts));
        if failures >= self.config.max_failures {
            self.entries.remove(peer);
            self.actions.push_back(LivenessAction::Remove(*peer));
        } else {
            self.schedule(*peer, now + self.config.retry_after, failures);
        }
    }

    /// Time has passed.
    pub fn on_timeout(&mut self, now: Instant) {
        if self.next_deadline().is_none_or(|at| at > now) {
            return;
        }
        if let Some((_, peer)) = self.queue.pop_first() {
            if let Some(entry) = self.entries.get_mut(&peer) {
                entry.due = None;
            }
            self.running.insert(peer);
            self.next_start = Some(now + self.config.pause);
            self.actions.push_back(LivenessAction::Probe(peer));
        }
    }

    /// When [`Self::on_timeout`] is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.running.len() >= self.config.max_running {
            return None;
        }
        let (due, _) = self.queue.first()?;
        Some(self.next_start.map_or(*due, |start| start.max(*due)))
    }

    /// What is to be done next.
    pub fn next_action(&mut self) -> Option<LivenessAction> {
        self.actions.pop_front()
    }

    fn schedule(&mut self, peer: PeerId, at: Instant, failures: u8) {
        let Some(entry) = self.entries.get_mut(&peer) else { return };
        if let Some(old) = entry.due.replace(at) {
            self.queue.remove(&(old, peer));
        }
        entry.failures = failures;
        self.queue.insert((at, peer));
    }

    /// Panics unless the books balance. For tests.
    pub fn check_invariants(&self) {
        let queued: BTreeSet<_> =
            self.entries.iter().filter_map(|(peer, entry)| Some((entry.due?, *peer))).collect();
        assert_eq!(queued, self.queue);
        let lost = |(peer, entry): (&PeerId, &Entry)| entry.due.is_none() && !self.running.contains(peer);
        assert!(!self.entries.iter().any(lost), "a peer is never probed again");
        assert!(self.running.len() <= self.config.max_running);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, Instant};

    use libp2p::PeerId;

    use super::{Liveness, LivenessAction, LivenessConfig};

    /// A table of `alive` peers that answer and `dead` ones that do not, for so many minutes; the number of probes and
    /// who was removed.
    fn run(alive: &[PeerId], dead: &[PeerId], others: bool, minutes: u64) -> (usize, BTreeSet<PeerId>) {
        let begin = Instant::now();
        let (mut now, mut table) = (begin, Liveness::new(LivenessConfig::default()));
        for peer in alive.iter().chain(dead) {
            table.on_added(*peer, now);
        }
        let (mut probes, mut removed, mut running) = (0, BTreeSet::new(), Vec::new());
        while let Some(at) = table.next_deadline().or_else(|| (!running.is_empty()).then_some(now)) {
            now = now.max(at);
            if now > begin + Duration::from_secs(minutes * 60) {
                break;
            }
            if running.len() == 4 || table.next_deadline().is_none_or(|at| at > now) {
                for peer in running.drain(..) {
                    probes += 1;
                    table.on_probed(&peer, alive.contains(&peer), others, now);
                }
            }
            table.on_timeout(now);
            while let Some(action) = table.next_action() {
                match action {
                    LivenessAction::Probe(peer) => running.push(peer),
                    LivenessAction::Remove(peer) => assert!(removed.insert(peer)),
                }
            }
            table.check_invariants();
        }
        (probes, removed)
    }

    fn peers(n: usize) -> Vec<PeerId> {
        (0..n).map(|_| PeerId::random()).collect()
    }

    #[test]
    fn the_dead_leave_within_twenty_minutes_and_nobody_else() {
        let (alive, dead) = (peers(30), peers(30));
        let (probes, removed) = run(&alive, &dead, true, 20);
        assert_eq!(removed, dead.iter().copied().collect());
        assert!(probes <= 30 + 30 * 3, "{probes}");
    }

    #[test]
    fn a_node_without_a_network_keeps_its_table_and_probes_slowly() {
        let (probes, removed) = run(&[], &peers(100), false, 60);
        assert!(removed.is_empty());
        assert!(probes <= 45 * 30 + 1, "{probes} in three quarters of an hour, one in two seconds at most");
    }

    #[test]
    fn who_is_heard_from_is_not_probed() {
        let (mut table, begin) = (Liveness::new(LivenessConfig::default()), Instant::now());
        let peer = PeerId::random();
        table.on_added(peer, begin);
        for minute in 1..100 {
            let now = begin + Duration::from_secs(60 * minute);
            table.on_timeout(now);
            assert_eq!(table.next_action(), None);
            table.on_heard(&peer, now);
            table.on_heard(&PeerId::random(), now);
            table.check_invariants();
        }
        assert_eq!(table.entries.len(), 1);
    }

    #[test]
    fn a_sign_of_life_between_failures_begins_anew_and_who_left_is_forgotten() {
        let (mut table, now) = (Liveness::new(LivenessConfig::default()), Instant::now());
        let peer = PeerId::random();
        table.on_added(peer, now);
        for _ in 0..10 {
            for _ in 0..2 {
                let at = table.next_deadline().unwrap_or(now);
                table.on_timeout(at);
                assert_eq!(table.next_action(), Some(LivenessAction::Probe(peer)));
                table.on_probed(&peer, false, true, at);
                assert_eq!(table.next_action(), None);
            }
            table.on_heard(&peer, now);
            table.check_invariants();
        }
        let at = table.next_deadline().unwrap_or(now);
        table.on_timeout(at);
        table.retain(|_| false);
        table.on_probed(&peer, false, true, at);
        assert_eq!((table.next_deadline(), table.entries.len(), table.running.len()), (None, 0, 0));
    }
}
