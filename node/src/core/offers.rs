//! In which order the providers that a lookup finds are handed out.
//!
//! A provider of which nothing bad is known is handed out at once, if it is among the first few of an answer or two
//! answers name it: an answer may be invented from beginning to end, and many invented ones must not get in front of
//! those that exist. The others wait until the lookup ends. Providers that could not be dialled lately come last of all;
//! they too are held back until the lookup ends, or for [`HOLD_BACK`], so that a slow lookup does not keep the only
//! provider there is.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId};

/// How long a provider is held back at most, counted from the first of its lookup: most lookups that find good
/// providers have found one by then.
pub const HOLD_BACK: Duration = Duration::from_secs(2);

/// Providers of one answer that are believed at once.
pub const FIRST_OF_ANSWER: usize = 4;

/// Providers that one answer can make be handed out, those that it confirms included.
pub const MOST_OF_ANSWER: usize = 8;

/// Providers that are remembered for each that can be handed out.
const REMEMBERED: usize = 8;

/// A provider and where it can be dialled.
pub type Offer = (PeerId, Vec<Multiaddr>);

#[derive(Debug)]
struct Seen {
    /// The answers that named it; two of them count as many.
    answers: [Option<u32>; 2],
    /// Waits for a second answer.
    waits: Option<Vec<Multiaddr>>,
}

/// The providers of one lookup.
///
/// # Invariants
/// - Every provider is handed out at most once, and at most `max` are in all.
/// - At most eight times as many are remembered.
#[derive(Debug)]
pub struct Offers {
    max: usize,
    seen: BTreeMap<PeerId, Seen>,
    ready: VecDeque<Offer>,
    /// Named by one answer only, in the order in which they were found.
    waiting: VecDeque<PeerId>,
    /// Failed lately, in the order in which they were found.
    late: VecDeque<Offer>,
    release_at: Option<Instant>,
    /// The answer that was heard last, and how many of its providers were believed at once.
    answer: Option<(u32, usize)>,
    /// Providers that were handed out.
    given: usize,
}

impl Offers {
    /// Hands out at most `max` providers.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            seen: BTreeMap::new(),
            ready: VecDeque::new(),
            waiting: VecDeque::new(),
            late: VecDeque::new(),
            release_at: None,
            answer: None,
            given: 0,
        }
    }

    /// Whether the provider was found before.
    pub fn knows(&self, peer: &PeerId) -> bool {
        self.seen.contains_key(peer)
    }

    /// Whether as many were handed out as there may be.
    pub fn is_full(&self) -> bool {
        self.given >= self.max
    }

    /// Answer number `answer` (in order; what this node itself knows comes first) names a provider; `is_likely` says
    /// whether it can probably be dialled.
    pub fn on_found(&mut self, (peer, addrs): Offer, is_likely: bool, answer: u32, now: Instant) {
        let believed = match self.answer {
            Some((last, believed)) if last == answer => believed,
            _ => 0,
        };
        if let Some(seen) = self.seen.get_mut(&peer) {
            seen.answers = match seen.answers {
                [Some(first), None] if first != answer => [Some(first), Some(answer)],
                other => other,
            };
            if seen.answers[1].is_some()
                && believed < MOST_OF_ANSWER
                && let Some(addrs) = seen.waits.take()
            {
                self.answer = Some((answer, believed + 1));
                self.ready.push_back((peer, addrs));
            }
            return;
        }
        if self.seen.len() >= self.max.saturating_mul(REMEMBERED) {
            return;
        }
        let mut waits = None;
        if !is_likely {
            self.late.push_back((peer, addrs));
            self.release_at.get_or_insert(now + HOLD_BACK);
        } else if believed < FIRST_OF_ANSWER {
            self.answer = Some((answer, believed + 1));
            self.ready.push_back((peer, addrs));
        } else {
            self.waiting.push_back(peer);
            waits = Some(addrs);
        }
        self.seen.insert(peer, Seen { answers: [Some(answer), None], waits });
    }

    /// Nothing more will be found.
    pub fn on_ended(&mut self) {
        for peer in std::mem::take(&mut self.waiting) {
            if let Some(addrs) = self.seen.get_mut(&peer).and_then(|seen| seen.waits.take()) {
                self.ready.push_back((peer, addrs));
            }
        }
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
        let waits = self.seen.values().filter(|seen| seen.waits.is_some()).count();
        assert!(self.given <= self.max, "too many");
        assert!(
            self.ready.len() + self.late.len() + waits + self.given <= self.seen.len(),
            "one is there twice"
        );
        assert!(self.seen.len() <= self.max * REMEMBERED, "too many remembered");
        assert!(waits <= self.waiting.len(), "one waits for nothing");
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

    use super::{FIRST_OF_ANSWER, HOLD_BACK, Offers};
    use crate::core::unreachable::{Unreachable, UnreachableConfig};

    /// Finds providers in the order drawn: `+` a good one, `-` one that failed lately, `.` a second passes, `/` another
    /// answer begins, a digit is the provider of this place once more, `|` the lookup ends. Answers their places in the
    /// order in which they come out.
    fn draw(max: usize, drawing: &str) -> Vec<usize> {
        let (mut offers, mut now) = (Offers::new(max), Instant::now());
        let (mut places, mut peers, mut out, mut answer) = (BTreeMap::new(), Vec::new(), Vec::new(), 0);
        for found in drawing.chars() {
            match found {
                '.' => now += Duration::from_secs(1),
                '/' => answer += 1,
                '|' => offers.on_ended(),
                '0'..='9' => {
                    let place = found.to_digit(10).and_then(|place| usize::try_from(place).ok()).unwrap_or(0);
                    offers.on_found((peers[place], Vec::new()), true, answer, now);
                }
                _ => {
                    let peer = PeerId::random();
                    places.insert(peer, places.len());
                    peers.push(peer);
                    offers.on_found((peer, Vec::new()), found == '+', answer, now);
                    offers.on_found((peer, Vec::new()), found == '-', answer, now);
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

    #[test]
    fn an_answer_full_of_inventions_does_not_get_in_front_of_those_that_two_name() {
        assert_eq!(FIRST_OF_ANSWER, 4);
        assert_eq!(draw(99, "++++++/+5|"), [0, 1, 2, 3, 6, 5, 4]);
        assert_eq!(draw(99, "++++++44|"), [0, 1, 2, 3, 4, 5], "naming it twice in one answer says nothing");
        assert_eq!(draw(6, "+++++++/++++++"), [0, 1, 2, 3, 7, 8]);
        assert_eq!(draw(3, &"+".repeat(100)).len(), 3);
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
            for (answer, peers) in (0..).zip(providers.chunks(FIRST_OF_ANSWER)) {
                for peer in peers {
                    offers.on_found((*peer, Vec::new()), !list.is_listed(peer, now), answer, now);
                }
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
