//! In which order the providers that a lookup finds are handed out: those that could not be dialled lately last.
//!
//! A provider of which nothing bad is known is handed out at once. The others are held back until the lookup ends, or
//! for [`HOLD_BACK`], so that a slow lookup does not keep the only provider there is.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId};

/// How long a provider is held back at most, counted from the first of its lookup: most lookups that find good
/// providers have found one by then.
pub const HOLD_BACK: Duration = Duration::from_secs(2);

/// A provider and where it can be dialled.
pub type Offer = (PeerId, Vec<Multiaddr>);

/// The providers of one lookup.
///
/// # Invariants
/// - Every provider is handed out at most once, and at most `max` are in all.
#[derive(Debug)]
pub struct Offers {
    max: usize,
    seen: BTreeSet<PeerId>,
    ready: VecDeque<Offer>,
    /// Held back, in the order in which they were found.
    late: VecDeque<Offer>,
    release_at: Option<Instant>,
    /// Providers that were good, those that were not, and all that were handed out.
    good: usize,
    unlikely: usize,
    given: usize,
}

impl Offers {
    /// Hands out at most `max` providers.
    pub fn new(max: usize) -> Self {
        let (seen, ready, late) = (BTreeSet::new(), VecDeque::new(), VecDeque::new());
        Self { max, seen, ready, late, release_at: None, good: 0, unlikely: 0, given: 0 }
    }

    /// Whether the provider was found before.
    pub fn knows(&self, peer: &PeerId) -> bool {
        self.seen.contains(peer)
    }

    /// Whether enough good providers were found; the lookup may end.
    pub fn is_full(&self) -> bool {
        self.good >= self.max
    }

    /// A provider was found; `is_likely` says whether it can probably be dialled.
    pub fn on_found(&mut self, (peer, addrs): Offer, is_likely: bool, now: Instant) {
        let places = if is_likely { &mut self.good } else { &mut self.unlikely };
        if *places >= self.max || !self.seen.insert(peer) {
            return;
        }
        *places += 1;
        if is_likely {
            self.ready.push_back((peer, addrs));
        } else {
            self.late.push_back((peer, addrs));
            self.release_at.get_or_insert(now + HOLD_BACK);
        }
    }

    /// Nothing more will be found.
    pub fn on_ended(&mut self) {
        self.ready.append(&mut self.late);
    }

    /// Time has passed.
    pub fn on_timeout(&mut self, now: Instant) {
        if self.next_deadline().is_some_and(|at| at <= now) {
            self.ready.append(&mut self.late);
        }
    }

    /// When [`Self::on_timeout`] is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.release_at.filter(|_| !self.late.is_empty())
    }

    /// The next provider to hand out.
    pub fn next_action(&mut self) -> Option<Offer> {
        if self.given >= self.max {
            return None;
        }
        let offer = self.ready.pop_front()?;
        self.given += 1;
        Some(offer)
    }

    /// Panics unless the books balance. For tests.
    pub fn check_invariants(&self) {
        assert!(self.given <= self.max && self.good <= self.max, "too many");
        assert!(self.ready.len() + self.late.len() + self.given <= self.seen.len(), "one is there twice");
        assert_eq!(self.seen.len(), self.good + self.unlikely, "one was not placed");
        assert!(self.unlikely <= self.max, "too many held back");
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        time::{Duration, Instant},
    };

    use libp2p::PeerId;
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

    use super::{HOLD_BACK, Offers};
    use crate::core::unreachable::{Unreachable, UnreachableConfig};

    /// Finds providers in the order drawn: `+` a good one, `-` one that failed lately, `.` a second passes, `|` the
    /// lookup ends. Answers their places in the order in which they come out.
    fn draw(max: usize, drawing: &str) -> Vec<usize> {
        let (mut offers, mut now) = (Offers::new(max), Instant::now());
        let (mut places, mut out) = (BTreeMap::new(), Vec::new());
        for found in drawing.chars() {
            match found {
                '.' => now += Duration::from_secs(1),
                '|' => offers.on_ended(),
                _ => {
                    let peer = PeerId::random();
                    places.insert(peer, places.len());
                    offers.on_found((peer, Vec::new()), found == '+', now);
                    if offers.knows(&peer) {
                        offers.on_found((peer, Vec::new()), found == '-', now);
                    }
                }
            }
            offers.on_timeout(now);
            offers.check_invariants();
            out.extend(std::iter::from_fn(|| offers.next_action()).map(|(peer, _)| places[&peer]));
        }
        out
    }

    #[test]
    fn those_that_failed_lately_come_last_but_come() {
        assert_eq!(draw(9, "-+-+|"), [1, 3, 0, 2]);
        assert_eq!(draw(9, "--|"), [0, 1]);
        assert!(draw(9, "--").is_empty());
    }

    #[test]
    fn the_only_provider_is_not_kept_by_a_slow_lookup() {
        assert_eq!(HOLD_BACK, Duration::from_secs(2));
        assert_eq!(draw(9, "-.-."), [0, 1]);
        assert_eq!(draw(9, "-.+.-+.|"), [1, 0, 2, 3], "the hold is over for all");
    }

    #[test]
    fn no_more_come_out_than_were_asked_for_and_good_ones_take_the_places() {
        assert_eq!(draw(3, "---+++|"), [3, 4, 5]);
        assert_eq!(draw(3, "----+|"), [4, 0, 1]);
        assert_eq!(draw(2, "+++++|"), [0, 1]);
        assert_eq!(draw(2, "------+|"), [6, 0], "those held back take no place of a good one");
    }

    /// Half of a hundred providers have gone; the lookup finds all of them, again and again, a few at a time, and the
    /// first ten that come out are dialled.
    #[test]
    fn after_a_few_fetches_hardly_one_of_the_first_providers_is_dead() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut providers: Vec<PeerId> = (0..100).map(|_| PeerId::random()).collect();
        let dead: BTreeSet<PeerId> = providers[..50].iter().copied().collect();
        let (mut list, mut now) = (Unreachable::new(UnreachableConfig::default()), Instant::now());
        let (mut first, mut first_dead) = (0, 0);
        for fetch in 0..60 {
            providers.shuffle(&mut rng);
            let mut offers = Offers::new(256);
            for peer in &providers {
                offers.on_found((*peer, Vec::new()), !list.is_listed(peer, now), now);
            }
            offers.on_ended();
            let out: Vec<PeerId> =
                std::iter::from_fn(|| offers.next_action()).map(|(peer, _)| peer).collect();
            assert_eq!(out.len(), 100, "none is dropped");
            let dialled = &out[..10];
            if fetch >= 20 {
                first += dialled.len();
                first_dead += dialled.iter().filter(|peer| dead.contains(peer)).count();
            }
            for peer in dialled.iter().filter(|peer| dead.contains(peer)) {
                list.on_failed(*peer, now);
            }
            list.check_invariants();
            now += Duration::from_secs(rng.random_range(1..20));
        }
        assert!(first_dead * 10 <= first, "{first_dead} of {first}");
    }
}
