//! Keeps to the limits of what is sent and asked for.
//!
//! | who                         | keeps to                                                              |
//! |-----------------------------|-----------------------------------------------------------------------|
//! | the writer of a lane        | [`Rates::send`] before each piece                                     |
//! | answers on own streams      | the same, before the whole answer is handed over                      |
//! | a fetch                     | [`Rates::ask`] before it asks, so that what comes needs no brake       |
//!
//! Only blocks count, not what the DHT and have-maps say. Peers on this machine and in the local network are free unless
//! the limits say otherwise; a peer with several connections is if all of them are.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libp2p::PeerId;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::core::MAX_BLOCK_LEN;
use crate::core::rate::{Bucket, Limits, Turn};

use super::limits::LANE_PIECE_LEN;

/// The part of a second that may be sent or asked for at once after a pause, so that a busy machine that wakes up late
/// loses nothing.
const BURST: u64 = 8;

/// Least burst of what is sent, and least length of a piece. At the lowest limit it takes most of a second, so that of a
/// dozen lanes each is written to before its reader thinks that it has stalled.
const MIN_PIECE_LEN: u64 = 16 * 1024;

/// Pieces that are sent in a second, while they are neither too short nor too long.
const PIECES: u64 = 16;

/// What the limits did.
#[derive(Debug, Default)]
struct Counts {
    sent_len: AtomicU64,
    asked_len: AtomicU64,
}

#[derive(Debug)]
struct Buckets {
    up: Bucket,
    per_peer: Option<NonZeroU64>,
    /// Of peers that were sent something lately; others need none. No more than peers that are connected.
    peers: BTreeMap<PeerId, Arc<Mutex<Bucket>>>,
    down: Bucket,
}

/// The limits of a node, and what is left of them.
#[derive(Debug)]
pub struct Rates {
    limits: watch::Sender<Limits>,
    buckets: Mutex<Buckets>,
    /// Connected peers that are beyond the local network.
    far: Mutex<BTreeSet<PeerId>>,
    counts: Counts,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

fn up_burst(rate: Option<NonZeroU64>) -> u64 {
    rate.map_or(0, |rate| (rate.get() / BURST).max(MIN_PIECE_LEN))
}

/// Whole blocks are asked for.
fn down_burst(rate: Option<NonZeroU64>) -> u64 {
    rate.map_or(0, |rate| (rate.get() / BURST).max(MAX_BLOCK_LEN.into()))
}

impl Default for Rates {
    fn default() -> Self {
        let now = now();
        let buckets = Buckets {
            up: Bucket::new(None, 0, now),
            per_peer: None,
            peers: BTreeMap::new(),
            down: Bucket::new(None, 0, now),
        };
        Self {
            limits: watch::Sender::new(Limits::default()),
            buckets: Mutex::new(buckets),
            far: Mutex::default(),
            counts: Counts::default(),
        }
    }
}

impl Rates {
    /// The limits now.
    pub fn limits(&self) -> Limits {
        *self.limits.borrow()
    }

    /// The limits, and when they change.
    pub fn watch(&self) -> watch::Receiver<Limits> {
        self.limits.subscribe()
    }

    /// Changes limits; what waits goes on at the new ones at once. Returns what they are now.
    pub fn change(&self, change: impl FnOnce(&mut Limits)) -> Limits {
        self.limits.send_modify(|limits| {
            change(limits);
            let mut buckets = lock(&self.buckets);
            let now = now();
            let (up, per_peer, down) = (limits.up.rate(), limits.up_per_peer.rate(), limits.down.rate());
            buckets.up.set(up, up_burst(up), now);
            buckets.down.set(down, down_burst(down), now);
            buckets.per_peer = per_peer;
            for bucket in buckets.peers.values() {
                lock(bucket).set(per_peer, up_burst(per_peer), now);
            }
        });
        self.limits()
    }

    /// Whether what goes to and comes from this peer counts.
    pub fn is_metered(&self, peer: &PeerId) -> bool {
        self.limits().lan || lock(&self.far).contains(peer)
    }

    /// A peer is connected from beyond the local network, or is not, or no longer.
    pub(super) fn set_far(&self, peer: PeerId, is_far: bool) {
        let mut far = lock(&self.far);
        if is_far {
            far.insert(peer);
        } else {
            far.remove(&peer);
        }
    }

    /// Into which pieces an answer to this peer is cut; `None` if no limit counts for it.
    pub(super) fn piece_len(&self, peer: &PeerId) -> Option<usize> {
        let limits = self.limits();
        let rate = limits.up.rate().into_iter().chain(limits.up_per_peer.rate()).min()?;
        if !self.is_metered(peer) {
            return None;
        }
        let len = usize::try_from((rate.get() / PIECES).max(MIN_PIECE_LEN)).unwrap_or(usize::MAX);
        Some(len.min(LANE_PIECE_LEN))
    }

    /// Waits until a piece may be sent to a peer for which limits count.
    pub(super) async fn send(&self, peer: PeerId, len: usize) {
        let len = u64::try_from(len).unwrap_or(u64::MAX);
        self.counts.sent_len.fetch_add(len, Ordering::Relaxed);
        // One after the other: what waits for its peer's limit takes nothing of the others'.
        if self.limits().up_per_peer.is_set() {
            let bucket = self.of_peer(peer);
            let turn = lock(&bucket).take(len, now());
            self.come(|| lock(&bucket).comes_at(turn, now())).await;
        }
        let turn = lock(&self.buckets).up.take(len, now());
        self.come(|| lock(&self.buckets).up.comes_at(turn, now())).await;
    }

    /// Waits until so many bytes may be sent to a peer, if limits count for it.
    pub async fn send_all(&self, peer: PeerId, len: usize) {
        let mut left = len;
        while left > 0 {
            let Some(piece) = self.piece_len(&peer) else { return };
            let piece = piece.min(left);
            self.send(peer, piece).await;
            left -= piece;
        }
    }

    /// Takes bytes that are to be asked for.
    pub fn ask(&self, len: u64) -> Turn {
        self.counts.asked_len.fetch_add(len, Ordering::Relaxed);
        lock(&self.buckets).down.take(len, now())
    }

    /// Whether they may be asked for now.
    pub fn may_ask(&self, turn: Turn) -> bool {
        lock(&self.buckets).down.comes_at(turn, now()).is_none()
    }

    /// Waits until they may be asked for.
    pub async fn asked(&self, turn: Turn) {
        self.come(|| lock(&self.buckets).down.comes_at(turn, now())).await;
    }

    /// What the limits did, by name.
    pub fn counters(&self) -> [(&'static str, u64); 2] {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        [("limited_up_len", load(&self.counts.sent_len)), ("limited_down_len", load(&self.counts.asked_len))]
    }

    /// The bucket of one peer. It stays the same while anybody waits for it.
    fn of_peer(&self, peer: PeerId) -> Arc<Mutex<Bucket>> {
        let mut buckets = lock(&self.buckets);
        if !buckets.peers.contains_key(&peer) {
            let now = now();
            buckets.peers.retain(|_, bucket| Arc::strong_count(bucket) > 1 || !lock(bucket).is_idle(now));
        }
        let rate = buckets.per_peer;
        let fresh = || Arc::new(Mutex::new(Bucket::new(rate, up_burst(rate), now())));
        buckets.peers.entry(peer).or_insert_with(fresh).clone()
    }

    /// Waits for a turn, also while the limits change.
    async fn come(&self, comes_at: impl Fn() -> Option<std::time::Instant>) {
        if comes_at().is_none() {
            return;
        }
        let mut changed = self.limits.subscribe();
        while let Some(at) = comes_at() {
            tokio::select! {
                () = sleep_until(at.into()) => {}
                // The sender is here.
                _ = changed.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::core::rate::Limit;

    const KIB: usize = 1024;

    fn limited(up: Option<u64>, per_peer: Option<u64>, down: Option<u64>) -> Arc<Rates> {
        let limit = |rate: Option<u64>| rate.map(|rate| Limit::of(rate).unwrap()).unwrap_or_default();
        let rates = Arc::new(Rates::default());
        rates.change(|limits| {
            *limits = Limits { up: limit(up), up_per_peer: limit(per_peer), down: limit(down), lan: false };
        });
        rates
    }

    fn far(rates: &Rates) -> PeerId {
        let peer = PeerId::random();
        rates.set_far(peer, true);
        peer
    }

    /// Seconds that it takes.
    async fn seconds(work: impl Future<Output = ()>) -> f64 {
        let begun = Instant::now();
        work.await;
        begun.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_sent_takes_its_time_and_what_is_near_does_not() {
        let rates = limited(Some(20 * 1024), None, None);
        let (peer, near) = (far(&rates), PeerId::random());
        // 16 KiB go at once.
        let taken = seconds(rates.send_all(peer, 1024 * KIB)).await;
        assert!((50.3..50.5).contains(&taken), "{taken}");
        assert_eq!(seconds(rates.send_all(near, 1024 * KIB)).await, 0.0);
        assert_eq!(rates.counters(), [("limited_up_len", 1024 * 1024), ("limited_down_len", 0)]);
        rates.set_far(peer, false);
        assert_eq!(seconds(rates.send_all(peer, 1024 * KIB)).await, 0.0);
        rates.change(|limits| limits.lan = true);
        assert!(rates.is_metered(&near));
        assert!(seconds(rates.send_all(near, 1024 * KIB)).await > 50.0);
    }

    #[tokio::test(start_paused = true)]
    async fn two_peers_share_the_limit_and_each_keeps_to_its_own() {
        let rates = limited(Some(1024 * 1024), None, None);
        let (one, other) = (far(&rates), far(&rates));
        let begun = Instant::now();
        let half = async {
            rates.send_all(one, 1024 * KIB).await;
            begun.elapsed()
        };
        let (first, ()) = tokio::join!(half, rates.send_all(other, 1024 * KIB));
        let both = begun.elapsed();
        assert!((1.8..1.9).contains(&both.as_secs_f64()), "{both:?}");
        assert!(both - first < Duration::from_millis(300), "piece by piece in turn: {first:?}");

        let rates = limited(None, Some(1024 * 1024), None);
        let (one, other) = (far(&rates), far(&rates));
        let taken = seconds(async {
            tokio::join!(rates.send_all(one, 1024 * KIB), rates.send_all(other, 1024 * KIB));
        })
        .await;
        assert!((0.8..0.95).contains(&taken), "{taken}");
        let again = seconds(rates.send_all(one, 1024 * KIB)).await;
        assert!((0.9..1.1).contains(&again), "{again}: it is remembered");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_waits_for_its_own_limit_takes_nothing_of_the_others() {
        let rates = limited(Some(1024 * 1024), Some(20 * 1024), None);
        let (one, other) = (far(&rates), far(&rates));
        let slow = rates.clone();
        let waits = tokio::spawn(async move { slow.send_all(one, 1024 * KIB).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        rates.change(|limits| limits.up_per_peer = Limit::NONE);
        let taken = seconds(rates.send_all(other, 1024 * KIB)).await;
        assert!(taken < 2.0, "{taken}");
        let left = seconds(async { waits.await.unwrap() }).await;
        assert!(left < 2.0, "{left}: without its limit it goes on");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_holds_at_once_for_what_waits() {
        let rates = limited(Some(20 * 1024), None, Some(20 * 1024));
        let peer = far(&rates);
        let (slow, asks) = (rates.clone(), rates.clone());
        let sends = tokio::spawn(async move { slow.send_all(peer, 1024 * KIB).await });
        let turn = rates.ask(8 << 20);
        assert!(!rates.may_ask(turn));
        let asks = tokio::spawn(async move { asks.asked(turn).await });
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(!sends.is_finished() && !asks.is_finished());
        rates.change(|limits| (limits.up, limits.down) = (Limit::NONE, Limit::NONE));
        let taken = seconds(async {
            sends.await.unwrap();
            asks.await.unwrap();
        })
        .await;
        assert!(taken < 0.1, "{taken}");
    }

    #[tokio::test(start_paused = true)]
    async fn peers_are_remembered_only_while_they_use_up_their_limit() {
        let rates = limited(None, Some(1024 * 1024), None);
        for _ in 0..100 {
            rates.send_all(far(&rates), 64 * KIB).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(lock(&rates.buckets).peers.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn blocks_are_asked_for_at_the_rate() {
        let rates = limited(None, None, Some(1024 * 1024));
        let taken = seconds(async {
            for _ in 0..10 {
                let turn = rates.ask(MAX_BLOCK_LEN.into());
                rates.asked(turn).await;
            }
        })
        .await;
        assert!((8.9..9.1).contains(&taken), "{taken}: the first one at once");
        assert_eq!(rates.counters()[1], ("limited_down_len", 10 << 20));
    }

    #[test]
    fn pieces_are_short_at_low_rates_and_long_at_high_ones() {
        let rates = limited(Some(20 * 1024), None, None);
        let peer = far(&rates);
        assert_eq!(rates.piece_len(&peer), Some(16 * KIB));
        rates.change(|limits| limits.up = Limit::of(1 << 20).unwrap());
        assert_eq!(rates.piece_len(&peer), Some(64 * KIB));
        rates.change(|limits| limits.up = Limit::of(1 << 30).unwrap());
        assert_eq!(rates.piece_len(&peer), Some(LANE_PIECE_LEN));
        rates.change(|limits| limits.up_per_peer = Limit::of(1 << 20).unwrap());
        assert_eq!(rates.piece_len(&peer), Some(64 * KIB));
        rates.change(|limits| *limits = Limits { down: Limit::of(1 << 20).unwrap(), ..Limits::default() });
        assert_eq!(rates.piece_len(&peer), None);
    }
}
