//! What lanes did, counted beside the event loop, and places for the lanes of others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use libp2p::PeerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::net::limits::{MAX_DEEP_WANTS, MAX_LANES, MAX_LANES_PER_PEER};
use crate::net::places::{Place, Places};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    /// Lanes opened to others.
    Opened,
    /// Peers without the protocol.
    Unsupported,
    /// Wants sent.
    Wants,
    /// Wants taken back.
    Cancels,
    /// Lanes ended because the holder sent something else than answers to what was wanted.
    Malformed,
    /// Lanes ended because nothing came for too long.
    Stalled,
    /// Lanes of others.
    Served,
    /// Lanes of others refused because too many were open.
    Refused,
    /// Wants of others that were taken back before they were answered, or not wholly.
    Cancelled,
    /// Lanes of others that ended because they said what is no frame, or did not take what they were sent.
    ServeBroken,
}

/// Their names, in that order.
pub(crate) const NAMES: [&str; 10] = [
    "net_lanes_opened",
    "net_lanes_unsupported",
    "net_lane_wants",
    "net_lane_cancels",
    "net_lanes_malformed",
    "net_lanes_stalled",
    "net_lanes_served",
    "net_lanes_refused",
    "net_lane_cancelled",
    "net_lanes_serve_broken",
];

/// The counters of a node, and the lanes that others have open to it.
#[derive(Debug)]
pub(crate) struct Tally {
    counts: [AtomicU64; NAMES.len()],
    served: Arc<Places>,
    deep: Arc<Semaphore>,
    waiting: AtomicU16,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            counts: Default::default(),
            served: Places::new(MAX_LANES, MAX_LANES_PER_PEER),
            deep: Arc::new(Semaphore::new(MAX_DEEP_WANTS)),
            waiting: AtomicU16::new(0),
        }
    }
}

impl Tally {
    pub(crate) fn count(&self, count: Count) {
        if let Some(counter) = self.counts.get(count as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All of them.
    pub(crate) fn snapshot(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        NAMES.into_iter().zip(&self.counts).map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }

    /// A place for a lane of `peer`; `None` if there are too many, which is counted.
    pub(super) fn place(&self, peer: PeerId) -> Option<Place> {
        let place = self.served.take(peer);
        self.count(if place.is_some() { Count::Served } else { Count::Refused });
        place
    }

    /// So many requests of others wait to be read for: what those are told for whom there is no place.
    pub(crate) fn set_waiting(&self, requests: usize) {
        self.waiting.store(u16::try_from(requests).unwrap_or(u16::MAX), Ordering::Relaxed);
    }

    pub(super) fn waiting(&self) -> u16 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Waits for the place of a want of others beyond those that every lane has room for.
    pub(super) async fn deep_place(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        self.deep.clone().acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wants_beyond_the_first_share_a_number_of_places() {
        use futures::FutureExt as _;

        let tally = Tally::default();
        let mut places: Vec<_> =
            (0..MAX_DEEP_WANTS).filter_map(|_| tally.deep_place().now_or_never()).collect();
        assert_eq!(places.len(), MAX_DEEP_WANTS);
        assert!(tally.deep_place().now_or_never().is_none());
        places.pop();
        assert!(tally.deep_place().now_or_never().is_some_and(|place| place.is_some()));
    }

    #[test]
    fn places_are_bounded_by_peer_and_in_all_and_free_again() {
        let tally = Arc::new(Tally::default());
        let peer = PeerId::random();
        let mut places: Vec<_> = std::iter::from_fn(|| tally.place(peer)).collect();
        assert_eq!(places.len(), MAX_LANES_PER_PEER);
        places.pop();
        places.extend(tally.place(peer));
        assert_eq!(places.len(), MAX_LANES_PER_PEER);
        while let Some(place) = tally.place(PeerId::random()) {
            places.push(place);
        }
        assert_eq!(places.len(), MAX_LANES);
        let refused = tally.snapshot().find(|(name, _)| *name == "net_lanes_refused");
        assert_eq!(refused, Some(("net_lanes_refused", 2)));
        drop(places);
        assert!(tally.place(peer).is_some());
    }
}
