//! What have-maps did: counters that are counted beside the event loop, and places for streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use libp2p::PeerId;

use crate::net::limits::{MAX_HAVE_ASKS, MAX_HAVE_ASKS_PER_PEER};
use crate::net::places::{Place, Places};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    /// Peers asked for a map.
    Asked,
    /// Of these, peers without the protocol.
    Unsupported,
    /// Maps not asked for because too many streams were open.
    AskRefused,
    /// Frames read.
    Frames,
    /// Bytes of what they carried.
    FramesLen,
    /// Streams ended because a peer sent what is no frame, or took too long over one.
    Malformed,
    /// Frames that had to wait because the peer sends more than it should.
    Delayed,
    /// Streams of others served.
    Served,
    /// Streams of others refused because too many were open.
    Refused,
    /// Streams of others that ended because they said what is no question, or did not take what they were told.
    ServeBroken,
    /// Questions answered with Busy.
    Busy,
    /// Looks into the store to answer.
    Looks,
    /// Maps told.
    Maps,
    /// News told.
    News,
    /// Bytes of frames told.
    ToldLen,
}

/// Their names, in that order.
pub(crate) const NAMES: [&str; 15] = [
    "net_have_asked",
    "net_have_unsupported",
    "net_have_ask_refused",
    "net_have_frames",
    "net_have_frames_len",
    "net_have_malformed",
    "net_have_delayed",
    "net_have_served",
    "net_have_refused",
    "net_have_serve_broken",
    "net_have_busy",
    "net_have_looks",
    "net_have_maps_told",
    "net_have_news_told",
    "net_have_told_len",
];

/// The counters of a node, and the streams it has open to others.
#[derive(Debug)]
pub(crate) struct Tally {
    counts: [AtomicU64; NAMES.len()],
    asks: Arc<Places>,
}

impl Default for Tally {
    fn default() -> Self {
        Self { counts: Default::default(), asks: Places::new(MAX_HAVE_ASKS, MAX_HAVE_ASKS_PER_PEER) }
    }
}

impl Tally {
    pub(crate) fn add(&self, count: Count, n: u64) {
        if let Some(counter) = self.counts.get(count as usize) {
            counter.fetch_add(n, Ordering::Relaxed);
        }
    }

    pub(crate) fn count(&self, count: Count) {
        self.add(count, 1);
    }

    /// Sets a counter that somebody else counts.
    pub(crate) fn set(&self, count: Count, n: u64) {
        if let Some(counter) = self.counts.get(count as usize) {
            counter.store(n, Ordering::Relaxed);
        }
    }

    /// All of them.
    pub(crate) fn snapshot(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        NAMES.into_iter().zip(&self.counts).map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }

    /// A place for a stream to `peer`; `None` if there are too many, which is counted.
    pub(super) fn place(&self, peer: PeerId) -> Option<Place> {
        let place = self.asks.take(peer);
        if place.is_none() {
            self.count(Count::AskRefused);
        }
        place
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use super::*;

    #[test]
    fn places_are_bounded_by_peer_and_in_all_and_free_again() {
        let tally = Arc::new(Tally::default());
        let peer = PeerId::random();
        let mut places: Vec<_> = std::iter::from_fn(|| tally.place(peer)).collect();
        assert_eq!(places.len(), MAX_HAVE_ASKS_PER_PEER);
        places.pop();
        places.push(tally.place(peer).unwrap());
        while let Some(place) = tally.place(PeerId::random()) {
            places.push(place);
        }
        assert_eq!(places.len(), MAX_HAVE_ASKS);
        let refused =
            |tally: &Tally| tally.snapshot().find(|(name, _)| *name == "net_have_ask_refused").unwrap().1;
        assert_eq!(refused(&tally), 2);
        drop(places);
        assert!(tally.place(peer).is_some());
    }

    #[test]
    fn every_count_has_its_name() {
        let tally = Tally::default();
        tally.count(Count::ToldLen);
        tally.count(Count::Asked);
        let counted: Vec<_> = tally.snapshot().filter(|(_, n)| *n > 0).map(|(name, _)| name).collect();
        assert_eq!(counted, ["net_have_asked", "net_have_told_len"]);
    }
}
