//! Limits and times of a fetch. Each default lives here once, with its reason.

use std::time::Duration;

use crate::core::{MAX_BLOCK_LEN, backoff::BackoffPolicy};

/// Most copies of one want in flight at any time.
pub const MAX_COPIES: usize = 2;

/// Bad blocks after which a peer is never asked again in this fetch. The first one costs a cool-down if the peer
/// has served as much before (a spoilt disk), and the place if not.
pub const MAX_STRIKES: u32 = 2;

/// Most peers remembered as sources of one chunk besides the providers of the root; a chunk needs a few, and a
/// lookup may answer with hundreds.
pub const MAX_SOURCES_PER_WANT: usize = 32;

/// Part of the budget kept for what must not wait, in bytes: hedged copies and, in order, the chunk that is
/// consumed next. Two blocks, so that both copies of that chunk always fit.
pub(super) const RESERVED_LEN: u64 = 2 * MAX_BLOCK_LEN as u64;

/// In which order wants are requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// Manifests first, then runs of four neighbours in a seeded random order of the runs: two fetchers of the
    /// same content start at different places and can then serve each other.
    #[default]
    Spread,
    /// The lowest index first, for a reader that consumes wants in order (`cat`).
    InOrder,
}

/// Limits and times of a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchConfig {
    /// In which order wants are requested.
    pub order: Order,
    /// Wants of one fetch; default 67,108,864, four times the chunks of the longest file (2^24), so that a directory
    /// of several such files still fits. Beyond it the fetch fails with
    /// [`TooLarge`](super::FetchFailure::TooLarge). At most 2^31.
    pub max_wants: usize,
    /// Bytes requested or received and not yet stored; default 40 MiB. A want without a known length counts
    /// 1 MiB, and 128 KiB on a lane, where longer ones wait for room. Bounds the memory of a fetch; several times what a fast local link has in flight. At least 4 MiB.
    pub budget_len: u64,
    /// Chunks in flight to a peer that is not measured yet; default 2: one on the way while one is being asked.
    /// At least 1.
    pub start_window: u32,
    /// Most chunks in flight to one peer; default 8: saturates a local link twice over, and all eight of a slow
    /// peer are lost time when it stalls. Of small requests as many bytes are in flight, but no
    /// more than 32 requests, or 384 on a lane. At most 16. At least `start_window`.
    pub max_window: u32,
    /// Peers dialled at the same time; default 16. Dials that hang for longer than `dial_patience` do not count, up
    /// to twice as many. At least 1.
    pub max_dials: usize,
    /// Useful peers kept; default 16: more of them would get less than two chunks each of the budget. While others
    /// wait one more is added every 10 s, or every second without progress. At least 1.
    pub max_peers: usize,
    /// Peers remembered; default 256, ten times what one lookup answers. At least 1.
    pub max_known_peers: usize,
    /// Dials of a peer in a row that may fail or end without a stored block, besides the first; default 4. After
    /// them it is only dialled when it is named as provider again. A hinted peer is dialled for ever.
    pub max_redials: u32,
    /// Lookups in flight; default 64, what the network runs at once. At least 2.
    pub max_lookups: usize,
    /// After this long without an answer a request is late and made elsewhere too, until the peer's own speed is
    /// known; default 20 s, a quarter of it for small ones. Later it is four times the peer's smoothed request
    /// time. Doubled for a want of which two copies were late, and so on.
    pub first_request_timeout: Duration,
    /// Least value of that; default 2 s, more than a retransmission on any working path.
    pub min_request_timeout: Duration,
    /// Largest value of that; default 64 s, half of the transport's own timeout.
    pub max_request_timeout: Duration,
    /// The fetch fails when nothing was stored for this long; default 30 s. Time in which a received block waits
    /// to be stored or consumed does not count.
    pub no_progress: Duration,
    /// Least age of a request before an idle peer is asked for a second copy; default 500 ms, above the usual
    /// round trip. The usual request times of both peers count twice.
    pub min_hedge_age: Duration,
    /// The same for a chunk from a peer that has not answered a request of its size yet; default 2 s: the first
    /// chunk of a fresh connection over 300 ms takes that long, and most peers do answer. Three times what such
    /// requests take elsewhere if that is more, and twice as long while nobody has answered at all. Where others have answered,
    /// and the fetch is so large that a copy is cheap, `min_hedge_age` is enough.
    pub unproven_hedge_age: Duration,
    /// A peer that answered Missing is asked again for a few of those wants after this long, doubling while it
    /// still has none of them; default 5 s to 60 s. Peers that are fetching themselves grow.
    pub recheck: BackoffPolicy,
    /// How many wants are asked again at once; default 16. Each hit allows two more.
    pub recheck_batch: u32,
    /// How long a peer is left alone after its first bad block; default 5 s, time to re-hash and withdraw it.
    pub cool_down: Duration,
    /// Pause after a failed dial or a lost connection; default 1 s to 30 s.
    pub dial_backoff: BackoffPolicy,
    /// Pause after Busy; default 200 ms to 10 s, the time to serve a queue.
    pub busy_backoff: BackoffPolicy,
    /// Pause after a request that failed in the transport; default 500 ms to 16 s.
    pub failure_backoff: BackoffPolicy,
    /// Pause between lookups of the root while there is no provider or no progress; default 1 s to 30 s.
    pub root_backoff: BackoffPolicy,
    /// Pause between lookups of the root while there are providers, but fewer than `max_peers`; default 1 s to
    /// 60 s: those who fetch the same new file find each other early.
    pub more_backoff: BackoffPolicy,
    /// Pause between lookups of one chunk that still has no source; default 2 s to 60 s.
    pub chunk_backoff: BackoffPolicy,
    /// A dial that takes longer than this no longer counts as a source; default 3 s.
    pub dial_patience: Duration,
    /// How long wants may be without a source before they are looked up themselves, so that a reconnect comes
    /// first; default 1 s. At the start it counts from the end of the first lookup of the root, or five times as
    /// long from the first want.
    pub source_grace: Duration,
}

impl Default for FetchConfig {
    fn default() -> Self {
        const fn policy(base_ms: u64, max_ms: u64) -> BackoffPolicy {
            BackoffPolicy::new(Duration::from_millis(base_ms), Duration::from_millis(max_ms))
        }
        Self {
            order: Order::Spread,
            max_wants: 1 << 26,
            budget_len: 40 << 20,
            start_window: 2,
            max_window: 8,
            max_dials: 16,
            max_peers: 16,
            max_known_peers: 256,
            max_redials: 4,
            max_lookups: 64,
            first_request_timeout: Duration::from_secs(20),
            min_request_timeout: Duration::from_secs(2),
            max_request_timeout: Duration::from_secs(64),
            no_progress: Duration::from_secs(30),
            min_hedge_age: Duration::from_millis(500),
            unproven_hedge_age: Duration::from_secs(2),
            recheck: policy(5_000, 60_000),
            recheck_batch: 16,
            cool_down: Duration::from_secs(5),
            dial_backoff: policy(1_000, 30_000),
            busy_backoff: policy(200, 10_000),
            failure_backoff: policy(500, 16_000),
            root_backoff: policy(1_000, 30_000),
            more_backoff: policy(1_000, 60_000),
            chunk_backoff: policy(2_000, 60_000),
            dial_patience: Duration::from_secs(3),
            source_grace: Duration::from_secs(1),
        }
    }
}

/// Longest duration that is taken from a configuration: one year. Keeps `now + duration` representable.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// Shortest pause of any backoff: keeps a mistaken configuration from spinning.
const MIN_PAUSE: Duration = Duration::from_millis(10);

impl FetchConfig {
    /// The same with every value inside its documented bounds.
    pub(super) fn clamped(self) -> Self {
        let time = |duration: Duration| duration.min(MAX_DURATION);
        let pause = |policy: BackoffPolicy| {
            let base = policy.base.clamp(MIN_PAUSE, MAX_DURATION);
            BackoffPolicy::new(base, policy.max.clamp(base, MAX_DURATION))
        };
        let start_window = self.start_window.clamp(1, 16);
        let min_request_timeout = time(self.min_request_timeout).max(MIN_PAUSE);
        let max_request_timeout = time(self.max_request_timeout).max(min_request_timeout);
        Self {
            order: self.order,
            max_wants: self.max_wants.min(1 << 31),
            budget_len: self.budget_len.max(4 * u64::from(MAX_BLOCK_LEN)),
            start_window,
            max_window: self.max_window.clamp(start_window, 16),
            max_dials: self.max_dials.max(1),
            max_peers: self.max_peers.max(1),
            max_known_peers: self.max_known_peers.clamp(1, usize::from(u16::MAX)),
            max_redials: self.max_redials,
            max_lookups: self.max_lookups.max(2),
            first_request_timeout: self.first_request_timeout.clamp(min_request_timeout, max_request_timeout),
            min_request_timeout,
            max_request_timeout,
            no_progress: time(self.no_progress),
            min_hedge_age: time(self.min_hedge_age).max(MIN_PAUSE),
            unproven_hedge_age: time(self.unproven_hedge_age).max(time(self.min_hedge_age)).max(MIN_PAUSE),
            recheck: pause(self.recheck),
            recheck_batch: self.recheck_batch.max(1),
            cool_down: time(self.cool_down),
            dial_backoff: pause(self.dial_backoff),
            busy_backoff: pause(self.busy_backoff),
            failure_backoff: pause(self.failure_backoff),
            root_backoff: pause(self.root_backoff),
            more_backoff: pause(self.more_backoff),
            chunk_backoff: pause(self.chunk_backoff),
            dial_patience: time(self.dial_patience).max(MIN_PAUSE),
            source_grace: time(self.source_grace),
        }
    }
}
