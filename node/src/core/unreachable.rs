//! Peers that could not be dialled lately, so that others are tried before them.
//!
//! Being listed says "later", never "not at all": a listed peer may be the only one that has something. So a wrong
//! entry, which a node without a network makes of everybody, costs nothing but order. Dials that fail while a peer is
//! listed tell nothing new; the first one that fails after that doubles the time.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use libp2p::PeerId;

use super::backoff::BackoffPolicy;

/// Bounds of [`Unreachable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnreachableConfig {
    /// Peers that are remembered; the one that failed first leaves first.
    pub max_peers: usize,
    /// How long a peer is listed after its first failure, and after many.
    pub listed: BackoffPolicy,
    /// How long its failures are remembered after it is listed no more.
    pub remembered: Duration,
}

impl Default for UnreachableConfig {
    /// 1,024 peers, 100 KiB; 10 minutes, which is about what a restart or a new address takes to be known, up to an
    /// hour; and another hour.
    fn default() -> Self {
        let listed = BackoffPolicy::new(Duration::from_secs(10 * 60), Duration::from_secs(60 * 60));
        Self { max_peers: 1_024, listed, remembered: Duration::from_secs(60 * 60) }
    }
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    until: Instant,
    /// Times it was listed in a row.
    times: u32,
    /// When it was listed last, among all.
    order: u64,
}

/// The list.
///
/// # Invariants
/// - At most [`UnreachableConfig::max_peers`] entries, each once in `by_order`.
#[derive(Debug)]
pub struct Unreachable {
    config: UnreachableConfig,
    peers: BTreeMap<PeerId, Entry>,
    by_order: BTreeMap<u64, PeerId>,
    next: u64,
}

impl Unreachable {
    /// An empty list.
    pub fn new(config: UnreachableConfig) -> Self {
        Self { config, peers: BTreeMap::new(), by_order: BTreeMap::new(), next: 0 }
    }

    /// A dial of `peer` failed; true if it is listed by that, false if it was already.
    pub fn on_failed(&mut self, peer: PeerId, now: Instant) -> bool {
        let old = self.peers.get(&peer).copied();
        if old.is_some_and(|old| now < old.until) {
            return false;
        }
        let times = old.filter(|old| now < old.until + self.config.remembered).map_or(0, |old| old.times);
        if let Some(old) = old {
            self.by_order.remove(&old.order);
        }
        let until = now + self.config.listed.ceiling(times);
        self.peers.insert(peer, Entry { until, times: times.saturating_add(1), order: self.next });
        self.by_order.insert(self.next, peer);
        self.next += 1;
        if self.peers.len() > self.config.max_peers
            && let Some((_, oldest)) = self.by_order.pop_first()
        {
            self.peers.remove(&oldest);
        }
        true
    }

    /// There is a connection with `peer`: all is forgotten.
    pub fn on_connected(&mut self, peer: &PeerId) {
        if let Some(entry) = self.peers.remove(peer) {
            self.by_order.remove(&entry.order);
        }
    }

    /// Whether `peer` should be tried after others.
    pub fn is_listed(&self, peer: &PeerId, now: Instant) -> bool {
        self.peers.get(peer).is_some_and(|entry| now < entry.until)
    }

    /// Peers that are remembered, listed or not.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether no peer is remembered.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Panics unless the books balance. For tests.
    pub fn check_invariants(&self) {
        assert!(self.peers.len() <= self.config.max_peers, "{} peers", self.peers.len());
        assert_eq!(self.peers.len(), self.by_order.len(), "an entry is lost");
        assert!(self.peers.iter().all(|(peer, entry)| self.by_order.get(&entry.order) == Some(peer)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use libp2p::PeerId;

    use super::{Unreachable, UnreachableConfig};

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_peer_is_listed_for_longer_each_time_up_to_an_hour() {
        let mut list = Unreachable::new(UnreachableConfig::default());
        let (peer, mut now) = (PeerId::random(), Instant::now());
        for minutes in [10, 20, 40, 60, 60] {
            assert!(!list.is_listed(&peer, now));
            assert!(list.on_failed(peer, now));
            assert!(!list.on_failed(peer, now + MINUTE), "dials that hang together count once");
            assert!(list.is_listed(&peer, now + minutes * MINUTE - Duration::from_secs(1)));
            now += minutes * MINUTE;
        }
        now += 61 * MINUTE;
        list.on_failed(peer, now);
        assert!(!list.is_listed(&peer, now + 10 * MINUTE), "what was long ago is forgotten");
        list.check_invariants();
    }

    #[test]
    fn a_connection_clears_a_peer() {
        let mut list = Unreachable::new(UnreachableConfig::default());
        let (peer, other, now) = (PeerId::random(), PeerId::random(), Instant::now());
        list.on_failed(peer, now);
        list.on_failed(other, now);
        list.on_connected(&peer);
        assert!(!list.is_listed(&peer, now) && list.is_listed(&other, now));
        list.on_failed(peer, now);
        assert!(!list.is_listed(&peer, now + 10 * MINUTE), "it begins anew");
        list.check_invariants();
    }

    #[test]
    fn a_full_list_forgets_the_peer_that_failed_first() {
        let config = UnreachableConfig { max_peers: 3, ..UnreachableConfig::default() };
        let (mut list, now) = (Unreachable::new(config), Instant::now());
        let peers: Vec<PeerId> = (0..100).map(|_| PeerId::random()).collect();
        for peer in &peers {
            list.on_failed(*peer, now);
            list.check_invariants();
        }
        assert!(!list.is_listed(&peers[96], now));
        assert!(peers[97..].iter().all(|peer| list.is_listed(peer, now)));
    }
}
