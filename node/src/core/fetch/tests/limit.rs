//! The own limit on what is asked for, and answers that take long.

use proptest::prelude::*;

use super::super::credit::MAX_CREDIT;
use super::super::*;
use super::sim::{MIB, chunk, ms, peer, root, secs};
use super::situations::Hand;
use crate::core::MAX_BLOCK_LEN;

const BLOCK: u64 = MAX_BLOCK_LEN as u64;

impl Hand {
    /// A provider for which the limit counts.
    fn metered_provider(&mut self, n: usize) {
        self.with(|fetch, now| fetch.on_provider(root(), peer(n), now));
        self.with(|fetch, _| fetch.on_metered(peer(n), true));
        self.with(|fetch, now| fetch.on_connected(peer(n), now));
    }

    fn credit(&mut self, len: u64) {
        self.with(|fetch, now| fetch.on_credit(len, now));
    }

    fn limited(chunks: u32) -> Self {
        let mut hand = Self::of_chunks(FetchConfig::default(), chunks);
        hand.with(|fetch, now| fetch.on_limit(true, now));
        hand
    }

    fn has_failed(&self) -> bool {
        self.log.iter().any(|action| matches!(action, Action::Failed(_)))
    }
}

#[test]
fn a_metered_peer_is_asked_only_with_the_credit_for_it() {
    let mut hand = Hand::limited(8);
    hand.metered_provider(1);
    assert_eq!((hand.open.len(), hand.fetch.lacks_credit()), (0, Some(BLOCK)));
    hand.credit(BLOCK - 1);
    assert_eq!((hand.open.len(), hand.fetch.lacks_credit()), (0, Some(1)));
    hand.credit(1);
    assert_eq!(hand.asked(1).len(), 1);
    hand.data(1);
    assert_eq!((hand.asked(1).len(), hand.fetch.lacks_credit()), (0, Some(BLOCK)));
    hand.credit(2 * BLOCK);
    assert_eq!(hand.asked(1).len(), 2);
}

#[test]
fn nobody_lacks_credit_for_what_nobody_could_be_asked() {
    let mut hand = Hand::limited(1);
    assert_eq!(hand.fetch.lacks_credit(), None, "there is no peer");
    hand.metered_provider(1);
    hand.credit(BLOCK);
    assert_eq!(
        (hand.asked(1).len(), hand.fetch.lacks_credit()),
        (1, None),
        "there is nothing else to ask for"
    );
}

#[test]
fn the_limit_does_not_count_for_others() {
    let mut hand = Hand::limited(8);
    hand.metered_provider(1);
    hand.root_provider(2);
    assert_eq!((hand.asked(1).len(), hand.asked(2).len()), (0, 1));
    for _ in 0..3 {
        hand.data(2);
    }
    assert!(hand.asked(2).len() > 1);
    assert!(hand.asked(1).is_empty());
}

#[test]
fn without_the_limit_all_goes_on_at_once() {
    let mut hand = Hand::limited(8);
    hand.metered_provider(1);
    hand.with(|fetch, now| fetch.on_limit(false, now));
    assert_eq!((hand.asked(1).len(), hand.fetch.lacks_credit()), (1, None));
    hand.credit(BLOCK);
    hand.with(|fetch, now| fetch.on_limit(true, now));
    hand.data(1);
    assert_eq!(hand.fetch.lacks_credit(), Some(BLOCK), "credit without a limit is none");
}

#[test]
fn the_clock_stands_still_while_the_limit_is_waited_for_and_runs_again() {
    let mut hand = Hand::limited(4);
    hand.metered_provider(1);
    hand.wait(secs(3600));
    assert!(!hand.has_failed(), "{:?}", hand.log);
    let waiting = hand.fetch.waiting(hand.now).unwrap();
    assert_eq!((waiting.cause, waiting.fails_in), (Cause::Limit, None));
    assert!(!hand.log.iter().any(|action| matches!(action, Action::Forget(_))));
    hand.credit(BLOCK);
    assert_eq!(hand.asked(1).len(), 1);
    // The peer has its block to send, and is not asked for another meanwhile: now the clock runs.
    assert_eq!(hand.fetch.lacks_credit(), None);
    hand.wait(secs(31));
    assert!(hand.has_failed(), "a peer that is silent is not excused by the limit");
}

#[test]
fn a_slow_own_limit_costs_no_peer_its_place_and_makes_no_copies() {
    let mut hand = Hand::limited(12);
    hand.metered_provider(1);
    hand.metered_provider(2);
    let mut served = 0;
    while served < 12 {
        hand.wait(secs(50));
        assert!(hand.open.is_empty(), "nothing is asked without credit");
        assert_eq!(hand.fetch.lacks_credit(), Some(BLOCK));
        hand.credit(BLOCK);
        hand.wait(ms(100));
        let (_, to, _) = hand.open[0];
        assert_eq!(hand.open.len(), 1);
        hand.data(to);
        served += 1;
    }
    assert!(hand.log.contains(&Action::Finished));
    let requests = hand.log.iter().filter(|action| matches!(action, Action::Request { .. })).count();
    assert_eq!((requests, hand.fetch.progress().wasted_len), (12, 0));
}

#[test]
fn what_does_not_come_is_given_back() {
    let mut hand = Hand::limited(8);
    hand.metered_provider(1);
    hand.metered_provider(2);
    hand.credit(BLOCK);
    let (id, first, _) = hand.open.remove(0);
    hand.with(|fetch, now| fetch.on_missing(id, now));
    assert_eq!(hand.open.len(), 1, "somebody else is asked with the same credit");
    let (id, second, _) = hand.open.remove(0);
    hand.with(|fetch, now| fetch.on_busy(id, now));
    assert!(first == second || hand.open.len() == 1);
    // A block of a length that was not known was paid for as the longest one.
    let mut hand = Hand::new(FetchConfig::default());
    hand.with(|fetch, now| fetch.on_limit(true, now));
    hand.with(|fetch, now| fetch.on_wants(vec![Want { cid: root(), len: None, place: None }], now));
    hand.metered_provider(1);
    hand.credit(BLOCK);
    hand.answer(1, |fetch, id, now| {
        assert!(fetch.on_block(id, 1000, now));
        fetch.on_stored(id, now);
        fetch.on_wants(vec![Want { cid: chunk(1), len: Some(MIB), place: None }], now);
    });
    assert_eq!(hand.fetch.lacks_credit(), Some(1000));
}

#[test]
fn a_late_want_is_asked_for_elsewhere_with_credit_of_its_own() {
    let mut hand = Hand::limited(1);
    hand.metered_provider(1);
    hand.credit(BLOCK);
    let asked = hand.open[0].1;
    hand.metered_provider(2);
    hand.wait(secs(21));
    assert!(hand.fetch.lacks_credit().is_some(), "for a copy");
    hand.credit(BLOCK);
    hand.wait(secs(5));
    assert_eq!(hand.asked(3 - asked).len(), 1, "{:?}", hand.log);
}

#[test]
fn a_block_that_goes_on_coming_keeps_the_fetch_alive_and_nothing_else_does() {
    let mut hand = Hand::of_chunks(FetchConfig::default(), 2);
    hand.root_provider(1);
    let (id, ..) = hand.open[0];
    for _ in 0..4 {
        hand.wait(secs(25));
        assert!(!hand.has_failed());
        hand.with(|fetch, now| fetch.on_moved(id, now));
    }
    assert!(hand.fetch.waiting(hand.now).is_some(), "but that it takes long is told");
    hand.with(|fetch, now| fetch.on_moved(RequestId(999), now));
    hand.wait(secs(29));
    assert!(!hand.has_failed());
    hand.with(|fetch, now| fetch.on_moved(RequestId(999), now));
    hand.wait(secs(2));
    assert!(hand.has_failed(), "a request that is not made does not move");
}

proptest! {
    #[test]
    fn metered_peers_are_asked_for_no_more_than_the_credit(
        seed in any::<u64>(),
        steps in prop::collection::vec((0_u8..8, 0_u64..3 * BLOCK), 1..200),
    ) {
        let now = Instant::now();
        let config = FetchConfig::default();
        let mut hand = Hand { fetch: Fetch::new(config, root(), seed, now), now, open: vec![], log: vec![] };
        let wants = (0..40).map(|n| Want { cid: chunk(n), len: Some(MIB), place: None }).collect();
        hand.with(|fetch, now| fetch.on_limit(true, now));
        hand.with(|fetch, now| fetch.on_wants(wants, now));
        (1..=3).for_each(|n| hand.metered_provider(n));
        let mut credit = 0_u64;
        for (what, len) in steps {
            let first = hand.open.first().copied();
            match (what, first) {
                (0..=1, _) => {
                    credit += len;
                    hand.credit(len);
                }
                (2..=4, Some((id, ..))) => {
                    hand.open.remove(0);
                    hand.with(|fetch, now| {
                        if fetch.on_block(id, MIB, now) {
                            fetch.on_stored(id, now);
                        }
                    });
                }
                (5, Some((id, ..))) => {
                    hand.open.remove(0);
                    credit += BLOCK;
                    hand.with(|fetch, now| fetch.on_missing(id, now));
                }
                (6, Some((id, ..))) => {
                    hand.open.remove(0);
                    hand.with(|fetch, now| fetch.on_failed(id, now));
                }
                _ => hand.wait(ms(len / 1000)),
            }
            let asked = hand.log.iter().filter(|action| matches!(action, Action::Request { .. })).count();
            prop_assert!(asked as u64 * BLOCK <= credit, "{} requests with {}", asked, credit);
            let lacking = hand.fetch.lacks_credit();
            prop_assert!(lacking.is_none_or(|len| (1..=BLOCK).contains(&len)));
            prop_assert!(MAX_CREDIT >= BLOCK);
        }
    }
}
