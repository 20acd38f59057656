//! Places for streams: so many for each peer, and so many in all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libp2p::PeerId;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Places {
    max: usize,
    max_per_peer: usize,
    taken: Mutex<BTreeMap<PeerId, usize>>,
}

impl Places {
    pub(crate) fn new(max: usize, max_per_peer: usize) -> Arc<Self> {
        Arc::new(Self { max, max_per_peer, taken: Mutex::default() })
    }

    fn taken(&self) -> MutexGuard<'_, BTreeMap<PeerId, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a stream with `peer`; `None` if there are too many.
    pub(crate) fn take(self: &Arc<Self>, peer: PeerId) -> Option<Place> {
        let mut taken = self.taken();
        let of_peer = taken.get(&peer).copied().unwrap_or_default();
        if of_peer >= self.max_per_peer || taken.values().sum::<usize>() >= self.max {
            return None;
        }
        taken.insert(peer, of_peer + 1);
        Some(Place { places: self.clone(), peer })
    }
}

/// The place of one stream; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    peer: PeerId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        if let Some(of_peer) = taken.get_mut(&self.peer) {
            *of_peer = of_peer.saturating_sub(1);
            if *of_peer == 0 {
                taken.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_by_peer_and_in_all_and_free_again() {
        let all = Places::new(10, 3);
        let peer = PeerId::random();
        let mut places: Vec<_> = std::iter::from_fn(|| all.take(peer)).collect();
        assert_eq!(places.len(), 3);
        places.pop();
        places.extend(all.take(peer));
        assert_eq!(places.len(), 3);
        while let Some(place) = all.take(PeerId::random()) {
            places.push(place);
        }
        assert_eq!(places.len(), 10);
        drop(places);
        assert!(all.taken().is_empty(), "peers without a place are forgotten");
        assert!(all.take(peer).is_some());
    }
}
