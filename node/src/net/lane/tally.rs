//! What lanes did, counted beside the event loop, and places for the lanes of others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use libp2p::PeerId;

use crate::net::limits::{MAX_LANES, MAX_LANES_PER_PEER};

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
    /// Wants of others that were taken back before their turn.
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
#[derive(Debug, Default)]
pub(crate) struct Tally {
    counts: [AtomicU64; NAMES.len()],
    served: Mutex<BTreeMap<PeerId, usize>>,
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

    /// A place for a lane of `peer`; `None` if there are too many.
    pub(super) fn place(self: &Arc<Self>, peer: PeerId) -> Option<Place> {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = served.get(&peer).copied().unwrap_or_default();
        if of_peer >= MAX_LANES_PER_PEER || served.values().sum::<usize>() >= MAX_LANES {
            drop(served);
            self.count(Count::Refused);
            return None;
        }
        served.insert(peer, of_peer + 1);
        drop(served);
        self.count(Count::Served);
        Some(Place { tally: self.clone(), peer })
    }
}

/// The place of one lane; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    tally: Arc<Tally>,
    peer: PeerId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut served = self.tally.served.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_peer) = served.get_mut(&self.peer) {
            *of_peer = of_peer.saturating_sub(1);
            if *of_peer == 0 {
                served.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
