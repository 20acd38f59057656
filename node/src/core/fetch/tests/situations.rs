//! Single situations, driven by hand.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use dhtfs_store::ContentCid;

use super::super::*;
use super::sim::{MIB, chunk, manifest, ms, peer, root, secs};

/// A fetch and everything it asked for.
pub(super) struct Hand {
    pub(super) fetch: Fetch,
    pub(super) now: Instant,
    /// Requests without an answer: id, peer, CID.
    pub(super) open: Vec<(RequestId, usize, ContentCid)>,
    pub(super) log: Vec<Action>,
}

impl Hand {
    pub(super) fn new(config: FetchConfig) -> Self {
        let now = Instant::now();
        Self { fetch: Fetch::new(config, root(), 1, now), now, open: Vec::new(), log: Vec::new() }
    }

    /// A fetch of so many chunks, in order unless said otherwise, of a manifest that is known.
    pub(super) fn of_chunks(config: FetchConfig, count: u32) -> Self {
        let mut hand = Self::new(config);
        hand.with(|fetch, now| {
            fetch.on_wants(
                (0..count).map(|n| Want { cid: chunk(n), len: Some(MIB), place: None }).collect(),
                now,
            );
            fetch.on_wants_complete(now);
        });
        hand
    }

    /// Gives an input and takes the actions that follow.
    pub(super) fn with<T>(&mut self, input: impl FnOnce(&mut Fetch, Instant) -> T) -> T {
        let result = input(&mut self.fetch, self.now);
        while let Some(action) = self.fetch.next_action() {
            match action {
                Action::Request { id, peer: to, cid, .. } => {
                    let to = (0..100).find(|n| peer(*n) == to).unwrap();
                    self.open.push((id, to, cid));
                }
                Action::Forget(id) => self.open.retain(|(open, ..)| *open != id),
                _ => {}
            }
            self.log.push(action);
        }
        self.fetch.check_invariants();
        result
    }

    pub(super) fn root_provider(&mut self, n: usize) {
        self.with(|fetch, now| fetch.on_provider(root(), peer(n), now));
        self.with(|fetch, now| fetch.on_connected(peer(n), now));
    }

    /// Lets time pass, keeping the deadlines.
    pub(super) fn wait(&mut self, time: Duration) {
        let stop = self.now + time;
        while let Some(at) = self.fetch.next_deadline().filter(|at| *at <= stop) {
            self.now = self.now.max(at);
            self.with(Fetch::on_timeout);
        }
        self.now = stop;
    }

    /// Open requests of one peer.
    pub(super) fn asked(&self, n: usize) -> Vec<ContentCid> {
        self.open.iter().filter(|(_, to, _)| *to == n).map(|(.., cid)| *cid).collect()
    }

    /// Answers the oldest open request of one peer.
    pub(super) fn answer<T>(
        &mut self,
        n: usize,
        input: impl FnOnce(&mut Fetch, RequestId, Instant) -> T,
    ) -> T {
        let place = self.open.iter().position(|(_, to, _)| *to == n).unwrap();
        let (id, ..) = self.open.remove(place);
        self.with(|fetch, now| input(fetch, id, now))
    }

    pub(super) fn data(&mut self, n: usize) {
        self.answer(n, |fetch, id, now| {
            assert!(fetch.on_block(id, MIB, now));
            fetch.on_stored(id, now);
        });
    }

    pub(super) fn count(&self, action: Action) -> usize {
        self.log.iter().filter(|logged| **logged == action).count()
    }

    pub(super) fn state(&self, n: usize) -> PeerState {
        let progress = self.fetch.progress();
        progress.peers.iter().find(|state| state.peer == peer(n)).unwrap().state
    }
}

fn in_order() -> FetchConfig {
    FetchConfig { order: Order::InOrder, ..FetchConfig::default() }
}

/// Fetches chunks from root providers drawn as strings, `x` for what each holds, each answering at once in turn;
/// answers who served which, as letters.
fn draw(holdings: &[&str]) -> String {
    let count = holdings[0].len();
    let mut hand = Hand::of_chunks(in_order(), u32::try_from(count).unwrap());
    for n in 0..holdings.len() {
        hand.root_provider(n);
    }
    let mut served = vec!['.'; count];
    while let Some((id, n, cid)) = hand.open.first().copied() {
        hand.open.remove(0);
        let position = (0..count).find(|position| chunk(u32::try_from(*position).unwrap()) == cid).unwrap();
        if holdings[n].as_bytes()[position] == b'x' {
            served[position] = char::from(b'A' + u8::try_from(n).unwrap());
            hand.with(|fetch, now| {
                assert!(fetch.on_block(id, MIB, now));
                fetch.on_stored(id, now);
            });
        } else {
            hand.with(|fetch, now| fetch.on_missing(id, now));
        }
    }
    served.into_iter().collect()
}

#[test]
fn each_chunk_comes_from_somebody_who_holds_it() {
    assert_eq!(draw(&["xxxx"]), "AAAA");
    assert_eq!(draw(&["xx..", "..xx"]), "AABB");
    assert_eq!(draw(&["x.x.x.", ".x.x.x"]), "ABABAB");
    assert_eq!(draw(&["......", ".xx...", "x.....", "...xxx"]), "CBBDDD");
    assert_eq!(draw(&["x.x"]), "A.A");
    let shared = draw(&["xxxxxxxx", "xxxxxxxx"]);
    assert!((3..=5).contains(&shared.matches('A').count()), "{shared}");
}

#[test]
fn the_root_is_looked_up_first_and_its_provider_is_dialled_and_asked() {
    let mut hand = Hand::new(FetchConfig::default());
    hand.with(|fetch, now| fetch.on_wants(vec![Want { cid: root(), len: None, place: None }], now));
    assert_eq!(hand.log, [Action::Lookup(root())]);
    hand.with(|fetch, now| fetch.on_provider(root(), peer(1), now));
    assert_eq!(hand.log[1..], [Action::Dial(peer(1))]);
    hand.with(|fetch, now| fetch.on_connected(peer(1), now));
    assert_eq!(hand.asked(1), [root()]);
    assert_eq!(hand.fetch.progress().requested_len, u64::from(MIB), "a manifest may have 1 MiB");
}

#[test]
fn a_fetch_of_nothing_finishes_at_once_and_nothing_follows() {
    let mut hand = Hand::of_chunks(FetchConfig::default(), 0);
    assert_eq!(hand.log.last(), Some(&Action::Finished));
    let before = hand.log.len();
    hand.with(|fetch, now| fetch.on_hint(peer(1), now));
    hand.with(|fetch, now| fetch.on_wants(vec![Want { cid: chunk(1), len: Some(1), place: None }], now));
    hand.wait(secs(1000));
    assert_eq!(hand.log.len(), before);
    assert_eq!(hand.fetch.next_deadline(), None);
}

#[test]
fn a_want_given_twice_is_requested_once() {
    let mut hand = Hand::of_chunks(FetchConfig::default(), 3);
    hand.with(|fetch, now| fetch.on_wants(vec![Want { cid: chunk(1), len: Some(MIB), place: None }], now));
    hand.root_provider(1);
    (0..3).for_each(|_| hand.data(1));
    assert_eq!(hand.log.last(), Some(&Action::Finished));
}

#[test]
fn what_is_obtained_elsewhere_is_forgotten() {
    let mut hand = Hand::of_chunks(in_order(), 2);
    hand.root_provider(1);
    let (id, ..) = hand.open[0];
    hand.with(|fetch, now| fetch.on_have(chunk(0), now));
    assert_eq!(hand.count(Action::Forget(id)), 1);
    assert!(!hand.with(|fetch, now| fetch.on_block(id, MIB, now)));
    hand.data(1);
    assert_eq!(hand.log.last(), Some(&Action::Finished));
}

#[test]
fn a_lost_want_is_requested_again_and_first() {
    let mut hand = Hand::of_chunks(in_order(), 30);
    hand.root_provider(1);
    hand.data(1);
    hand.with(|fetch, now| fetch.on_lost(chunk(0), now));
    hand.data(1);
    assert!(hand.asked(1).contains(&chunk(0)));
}

#[test]
fn two_seeds_start_at_different_places_and_stay_sequential_for_a_while() {
    let starts: BTreeSet<Vec<ContentCid>> = (0..20)
        .map(|seed| {
            let now = Instant::now();
            let mut fetch = Fetch::new(FetchConfig::default(), root(), seed, now);
            fetch.on_wants(
                (0..1000).map(|n| Want { cid: chunk(n), len: Some(MIB), place: None }).collect(),
                now,
            );
            fetch.on_hint(peer(1), now);
            fetch.on_connected(peer(1), now);
            let mut asked = Vec::new();
            while let Some(action) = fetch.next_action().filter(|_| asked.len() < 2) {
                if let Action::Request { id, cid, .. } = action {
                    asked.push(cid);
                    assert!(fetch.on_block(id, MIB, now));
                    fetch.on_stored(id, now);
                }
            }
            asked
        })
        .collect();
    assert!(starts.len() > 15, "{} different starts", starts.len());
    let number = |cid| (0..1000_u32).find(|n| chunk(*n) == cid).unwrap();
    assert!(starts.iter().all(|start| number(start[0]) / 4 == number(start[1]) / 4));
}

#[test]
fn in_order_the_lowest_come_first_and_only_within_the_budget() {
    let config = FetchConfig { budget_len: 5 << 20, max_window: 8, start_window: 8, ..in_order() };
    let mut hand = Hand::of_chunks(config, 100);
    hand.root_provider(1);
    (0..2).for_each(|_| hand.data(1));
    // Of five, two are kept for the next one.
    assert_eq!(hand.asked(1), [2, 3, 4, 5].map(chunk));
    // All but the first arrive; until it does they are not consumed, and nothing else is requested.
    for place in [1, 1, 1] {
        let (id, ..) = hand.open.remove(place);
        assert!(hand.with(|fetch, now| fetch.on_block(id, MIB, now)));
    }
    assert_eq!(hand.asked(1), [chunk(2)]);
    // The first is lost, and can be requested again.
    hand.answer(1, Fetch::on_failed);
    hand.wait(ms(500));
    assert_eq!(hand.asked(1), [chunk(2)]);
}

#[test]
fn a_late_request_is_made_elsewhere_and_the_first_answer_wins() {
    let mut hand = Hand::of_chunks(in_order(), 1);
    hand.root_provider(1);
    let slow = hand.open[0].0;
    hand.root_provider(2);
    assert!(hand.asked(2).is_empty(), "one copy is enough so far");
    hand.wait(ms(3900));
    assert!(hand.asked(2).is_empty(), "a first chunk may take a while where nobody has answered yet");
    hand.wait(ms(200));
    assert_eq!(hand.asked(2), [chunk(0)]);
    hand.data(2);
    assert_eq!(hand.count(Action::Forget(slow)), 1);
    assert_eq!(hand.log.last(), Some(&Action::Finished));
}

/// Copies of the last chunks, which peer 0 keeps to itself, that other peers have been asked for, looked at after so
/// many milliseconds. Of `chunks` the `left` last are in flight when the others come.
fn copies_over_time<const N: usize>(chunks: u32, left: usize, others: usize, looks: [u64; N]) -> [usize; N] {
    let mut hand = Hand::of_chunks(in_order(), chunks);
    hand.root_provider(0);
    // Peers that have nothing yet, as everybody in a crowd: each answer asked for a whole chunk and brought none.
    for n in 50..60 {
        hand.root_provider(n);
    }
    while let Some((_, n, _)) = hand.open.iter().find(|open| open.1 != 0).copied() {
        hand.answer(n, Fetch::on_missing);
    }
    while hand.fetch.progress().stored + left < chunks as usize {
        hand.data(0);
    }
    assert_eq!(hand.open.len(), left);
    assert!(hand.fetch.progress().requested_len > 2 * u64::from(chunks * MIB));
    (1..=others).for_each(|n| hand.root_provider(n));
    let start = hand.now;
    looks.map(|look| {
        hand.wait(start + ms(look) - hand.now);
        hand.open.iter().filter(|open| open.1 != 0).count()
    })
}

#[test]
fn answers_that_bring_nothing_pay_for_no_copies() {
    // What comes twice may be one in twenty-five.
    assert_eq!(copies_over_time(27, 1, 1, [900, 1100]), [0, 1]);
    assert_eq!(copies_over_time(20, 1, 1, [900, 3900, 4100]), [0, 0, 1]);
}

#[test]
fn copies_made_early_and_late_ones_share_a_budget_beyond_which_more_patience_is_asked_for() {
    assert_eq!(copies_over_time(60, 4, 4, [900, 1100, 3900, 4100]), [0, 2, 2, 4]);
}

#[test]
fn what_was_late_and_came_asks_for_more_patience_until_the_fetch_gets_nowhere() {
    let mut hand = Hand::of_chunks(in_order(), 20);
    hand.root_provider(0);
    while hand.fetch.progress().stored < 18 {
        hand.data(0);
    }
    assert_eq!(hand.open.len(), 2);
    // One of the last two comes after 3 s, late by one; without it the other would be made again after 4 s.
    hand.wait(secs(3));
    hand.data(0);
    hand.root_provider(1);
    let copies = [900, 3900, 200].map(|time| {
        hand.wait(ms(time));
        hand.asked(1).len()
    });
    assert_eq!(copies, [0, 0, 1], "5 s without progress");
}

#[test]
fn a_peer_that_has_answered_something_is_given_longer_for_its_first_block() {
    let copied_after = |answers: bool| {
        let mut hand = Hand::of_chunks(in_order(), 3);
        hand.root_provider(1);
        if answers {
            hand.answer(1, Fetch::on_missing);
        }
        hand.root_provider(2);
        while !hand.asked(2).is_empty() {
            hand.data(2);
        }
        let start = hand.now;
        while hand.asked(2).is_empty() && hand.now < start + secs(20) {
            hand.wait(ms(100));
        }
        hand.now - start
    };
    assert_eq!([false, true].map(copied_after), [ms(2000), ms(5000)]);
}

#[test]
fn a_large_fetch_does_not_wait_for_the_only_chunk_that_a_silent_peer_keeps() {
    let copied_after = |chunks: u32| {
        let mut hand = Hand::of_chunks(in_order(), chunks);
        hand.root_provider(1);
        hand.root_provider(2);
        while !hand.asked(2).is_empty() {
            hand.data(2);
        }
        assert_eq!(hand.asked(1).len(), 1, "it gets no more before it has served something");
        let start = hand.now;
        while hand.asked(2).is_empty() {
            hand.wait(ms(100));
        }
        hand.now - start
    };
    // A copy may cost one byte in twenty-five.
    assert_eq!([20, 40].map(copied_after), [ms(2000), ms(500)]);
}

#[test]
fn bytes_are_wasted_when_they_arrive_and_not_before() {
    let mut hand = Hand::new(in_order());
    hand.with(|fetch, now| fetch.on_wants(vec![Want { cid: chunk(0), len: Some(MIB), place: None }], now));
    hand.root_provider(1);
    hand.root_provider(2);
    let slow = hand.open[0].0;
    hand.wait(ms(4100));
    hand.data(2);
    let lens = |hand: &Hand| {
        let progress = hand.fetch.progress();
        [progress.requested_len, progress.received_len, progress.wasted_len].map(|len| len >> 20)
    };
    assert_eq!(lens(&hand), [2, 1, 0]);
    assert!(!hand.with(|fetch, now| fetch.on_block(slow, MIB, now)));
    assert_eq!(lens(&hand), [2, 2, 1]);
    // What a banned peer was asked for before arrives too.
    hand.with(|fetch, now| {
        fetch.on_wants((1..9).map(|n| Want { cid: chunk(n), len: Some(MIB), place: None }).collect(), now);
    });
    (0..3).for_each(|_| hand.data(2));
    let late: Vec<RequestId> = hand.open.iter().filter(|open| open.1 == 2).map(|open| open.0).collect();
    for id in &late[..2] {
        hand.with(|fetch, now| fetch.on_malformed(*id, now));
    }
    assert_eq!(hand.state(2), PeerState::Banned);
    assert_eq!(hand.fetch.progress().wasted_len >> 20, 1);
    assert!(!hand.with(|fetch, now| fetch.on_block(late[2], MIB, now)));
    assert_eq!(hand.fetch.progress().received_len >> 20, 6);
    assert_eq!(hand.fetch.progress().wasted_len >> 20, 2);
}

#[test]
fn there_is_never_a_third_copy_but_a_late_one_is_given_up_for_another_peer() {
    let mut hand = Hand::of_chunks(in_order(), 1);
    for n in 1..=3 {
        hand.root_provider(n);
    }
    hand.wait(ms(4100));
    assert_eq!(hand.open.len(), 2);
    hand.wait(secs(3));
    assert_eq!(hand.open.len(), 2);
    assert!(hand.log.iter().any(|action| matches!(action, Action::Forget(_))));
    assert_eq!(hand.asked(3), [chunk(0)], "the third peer has its turn");
}

#[test]
fn the_second_copy_is_dropped_while_the_first_is_being_verified() {
    let mut hand = Hand::of_chunks(in_order(), 1);
    hand.root_provider(1);
    hand.root_provider(2);
    hand.wait(ms(4100));
    let (first, second) = (hand.open[0].0, hand.open[1].0);
    assert!(hand.with(|fetch, now| fetch.on_block(second, MIB, now)));
    assert!(!hand.with(|fetch, now| fetch.on_block(first, MIB, now)));
    // The verified one turns out bad: the want goes back to the honest peer.
    hand.open.clear();
    hand.with(|fetch, now| fetch.on_bad(second, now));
    assert_eq!(hand.asked(1), [chunk(0)]);
}

#[test]
fn one_bad_block_of_a_peer_that_served_good_ones_costs_a_pause_and_two_the_place() {
    let mut hand = Hand::of_chunks(in_order(), 10);
    hand.root_provider(1);
    hand.data(1);
    hand.answer(1, |fetch, id, now| {
        assert!(fetch.on_block(id, MIB, now));
        fetch.on_bad(id, now);
    });
    let in_flight = hand.asked(1).len();
    assert!((1..=3).contains(&in_flight), "only what was in flight");
    (0..in_flight).for_each(|_| hand.data(1));
    hand.wait(secs(4));
    assert!(hand.asked(1).is_empty());
    hand.wait(secs(2));
    assert!(!hand.asked(1).is_empty());
    // A wrong length is as bad, and seen without verifying.
    assert!(!hand.answer(1, |fetch, id, now| fetch.on_block(id, MIB - 1, now)));
    assert!(hand.asked(1).is_empty());
    assert_eq!(hand.state(1), PeerState::Banned);
    let before = hand.log.len();
    hand.with(|fetch, now| fetch.on_provider(root(), peer(1), now));
    hand.with(|fetch, now| fetch.on_hint(peer(1), now));
    hand.with(|fetch, now| fetch.on_disconnected(peer(1), now));
    hand.with(|fetch, now| fetch.on_connected(peer(1), now));
    assert!(
        !hand.log[before..].iter().any(|action| matches!(action, Action::Dial(_) | Action::Request { .. }))
    );
}

#[test]
fn a_peer_that_served_nothing_is_asked_for_one_block_and_banned_if_that_is_bad() {
    type Input = fn(&mut Fetch, RequestId, Instant);
    let bad: Input = |fetch, id, now| {
        assert!(fetch.on_block(id, MIB, now));
        fetch.on_bad(id, now);
    };
    let short: Input = |fetch, id, now| assert!(!fetch.on_block(id, MIB - 1, now));
    for input in [bad, short, Fetch::on_malformed] {
        let mut hand = Hand::of_chunks(in_order(), 10);
        hand.root_provider(1);
        assert_eq!(hand.asked(1), [chunk(0)]);
        hand.answer(1, input);
        assert_eq!(hand.state(1), PeerState::Banned);
        assert!(hand.open.is_empty());
    }
}

#[test]
fn garbage_to_a_forgotten_request_costs_its_sender_as_much_as_any_other() {
    type Input = fn(&mut Fetch, RequestId, Instant);
    let bad: Input = |fetch, id, now| {
        assert!(fetch.is_late(id, MIB));
        assert!(!fetch.on_block(id, MIB, now));
        fetch.on_bad_late(peer(1), chunk(0), MIB, now);
    };
    let short: Input = |fetch, id, now| {
        assert!(!fetch.is_late(id, MIB - 1), "the length says it all");
        assert!(!fetch.on_block(id, MIB - 1, now));
    };
    for input in [bad, short, Fetch::on_malformed] {
        let mut hand = Hand::new(in_order());
        hand.with(|fetch, now| {
            fetch.on_wants(vec![Want { cid: chunk(0), len: Some(MIB), place: None }], now)
        });
        hand.root_provider(1);
        hand.root_provider(2);
        let forgotten = hand.open[0].0;
        assert_eq!(hand.asked(1), [chunk(0)]);
        // The other one is asked as well and is faster.
        hand.wait(ms(4100));
        hand.data(2);
        assert_eq!(hand.log.last(), Some(&Action::Forget(forgotten)));
        assert_eq!(hand.state(1), PeerState::Connected);
        hand.with(|fetch, now| input(fetch, forgotten, now));
        assert_eq!(hand.state(1), PeerState::Banned, "it has served nothing good");
    }
}

#[test]
fn a_peer_that_was_good_before_survives_one_late_bad_block() {
    let mut hand = Hand::of_chunks(in_order(), 9);
    hand.root_provider(1);
    hand.data(1);
    hand.with(|fetch, now| fetch.on_bad_late(peer(1), chunk(0), MIB, now));
    assert_eq!(hand.state(1), PeerState::Connected);
    hand.with(|fetch, now| fetch.on_bad_late(peer(1), chunk(0), MIB, now));
    assert_eq!(hand.state(1), PeerState::Banned);
}

#[test]
fn nothing_more_is_asked_of_an_unknown_peer_until_its_block_is_verified() {
    let mut hand = Hand::of_chunks(in_order(), 10);
    hand.root_provider(1);
    let id = hand.open.remove(0).0;
    assert!(hand.with(|fetch, now| fetch.on_block(id, MIB, now)));
    assert!(hand.open.is_empty());
    hand.with(|fetch, now| fetch.on_verified(id, now));
    assert_eq!(hand.asked(1), [1, 2].map(chunk), "though it is not consumed yet");
}

#[test]
fn a_good_manifest_makes_up_for_no_bad_chunk() {
    let mut hand = Hand::new(in_order());
    hand.with(|fetch, now| fetch.on_wants(vec![Want { cid: root(), len: None, place: None }], now));
    hand.root_provider(1);
    hand.answer(1, |fetch, id, now| {
        assert!(fetch.on_block(id, 1000, now));
        fetch.on_stored(id, now);
        fetch.on_wants((0..9).map(|n| Want { cid: chunk(n), len: Some(MIB), place: None }).collect(), now);
    });
    assert_eq!(hand.asked(1), [chunk(0)]);
    hand.answer(1, Fetch::on_malformed);
    assert_eq!(hand.state(1), PeerState::Banned);
}

#[test]
fn a_lost_first_request_does_not_cost_the_only_provider() {
    let mut hand = Hand::of_chunks(in_order(), 2);
    hand.root_provider(1);
    hand.wait(secs(19));
    assert_eq!(hand.asked(1), [chunk(0)]);
    hand.wait(secs(2));
    assert_eq!(hand.asked(1), [0, 1].map(chunk), "late, and nothing comes from elsewhere");
}

#[test]
fn a_busy_peer_is_left_alone_for_a_while_and_its_wants_go_elsewhere() {
    let mut hand = Hand::of_chunks(in_order(), 3);
    hand.root_provider(1);
    hand.data(1);
    assert_eq!(hand.asked(1), [1, 2].map(chunk));
    hand.answer(1, Fetch::on_busy);
    assert_eq!(hand.asked(1), [chunk(2)]);
    hand.root_provider(2);
    assert_eq!(hand.asked(2), [chunk(1)]);
    let mut alone = Hand::of_chunks(in_order(), 1);
    alone.root_provider(1);
    alone.answer(1, Fetch::on_busy);
    assert!(alone.open.is_empty());
    alone.wait(ms(200));
    assert_eq!(alone.asked(1), [chunk(0)]);
}

#[test]
fn a_disconnected_peers_wants_go_to_others_at_once_and_it_is_dialled_again() {
    let mut hand = Hand::of_chunks(in_order(), 6);
    hand.root_provider(1);
    hand.root_provider(2);
    hand.data(1);
    hand.data(2);
    assert_eq!((hand.asked(1).len(), hand.asked(2).len()), (2, 2));
    (0..2).for_each(|_| hand.data(2));
    hand.with(|fetch, now| fetch.on_disconnected(peer(1), now));
    assert_eq!(hand.asked(2), [chunk(2), chunk(3)]);
    assert_eq!(hand.state(1), PeerState::Backoff);
    hand.wait(ms(1100));
    assert_eq!(hand.state(1), PeerState::Dialling);
}

#[test]
fn a_peer_that_cannot_be_dialled_is_given_up_until_it_is_named_again_but_a_hinted_one_never() {
    let config = FetchConfig { no_progress: secs(100_000), ..FetchConfig::default() };
    let dials = |hint: bool| {
        let mut hand = Hand::of_chunks(config, 1);
        hand.with(|fetch, now| fetch.on_provider(root(), peer(1), now));
        if hint {
            hand.with(|fetch, now| fetch.on_hint(peer(1), now));
        }
        for _ in 0..1000 {
            hand.with(|fetch, now| fetch.on_dial_failed(peer(1), now));
            hand.wait(secs(1));
        }
        let before = hand.count(Action::Dial(peer(1)));
        hand.with(|fetch, now| fetch.on_provider(root(), peer(1), now));
        (before, hand.count(Action::Dial(peer(1))))
    };
    assert_eq!(dials(false), (5, 6));
    assert!(dials(true).0 > 30);
}

#[test]
fn a_refresh_dials_and_looks_up_at_once_and_gives_the_fetch_its_time_again() {
    let mut hand = Hand::of_chunks(FetchConfig { no_progress: secs(30), ..in_order() }, 2);
    hand.with(|fetch, now| fetch.on_provider(root(), peer(1), now));
    hand.with(|fetch, now| fetch.on_lookup_done(root(), now));
    for _ in 0..5 {
        hand.with(|fetch, now| fetch.on_dial_failed(peer(1), now));
        hand.wait(secs(1));
    }
    hand.wait(secs(15));
    hand.with(|fetch, now| fetch.on_dial_failed(peer(1), now));
    hand.with(|fetch, now| fetch.on_lookup_done(root(), now));
    assert_eq!(hand.state(1), PeerState::Backoff);
    let before = (hand.count(Action::Dial(peer(1))), hand.count(Action::Lookup(root())));
    hand.with(Fetch::on_refresh);
    let after = (hand.count(Action::Dial(peer(1))), hand.count(Action::Lookup(root())));
    assert_eq!(after, (before.0 + 1, before.1 + 1), "both at once");
    hand.with(Fetch::on_refresh);
    assert_eq!(hand.count(Action::Lookup(root())), after.1, "what runs is not begun twice");
    hand.wait(secs(29));
    assert!(!hand.log.iter().any(|action| matches!(action, Action::Failed(_))), "the time began anew");
    hand.wait(secs(2));
    assert!(hand.log.iter().any(|action| matches!(action, Action::Failed(_))));
}

#[test]
fn a_refresh_asks_again_who_lacked_something_and_never_who_sent_wrong_data() {
    let mut hand = Hand::of_chunks(FetchConfig { no_progress: secs(1000), ..in_order() }, 1);
    hand.root_provider(1);
    hand.root_provider(2);
    hand.answer(1, |fetch, id, now| {
        if fetch.on_block(id, MIB, now) {
            fetch.on_bad(id, now);
        }
    });
    assert_eq!(hand.state(1), PeerState::Banned);
    hand.answer(2, Fetch::on_missing);
    assert!(hand.open.is_empty());
    hand.with(Fetch::on_refresh);
    assert_eq!(hand.asked(2), [chunk(0)]);
    assert_eq!(hand.state(1), PeerState::Banned);
    assert!(hand.asked(1).is_empty());
}

#[test]
fn a_chunk_that_every_root_provider_lacks_is_looked_up_itself_again_and_again() {
    let config = FetchConfig { no_progress: secs(1000), ..in_order() };
    let mut hand = Hand::of_chunks(config, 1);
    hand.root_provider(1);
    hand.root_provider(2);
    hand.with(|fetch, now| fetch.on_lookup_done(root(), now));
    hand.wait(secs(2));
    hand.answer(1, Fetch::on_missing);
    assert_eq!(hand.count(Action::Lookup(chunk(0))), 0, "the other may have it");
    hand.answer(2, Fetch::on_missing);
    assert_eq!(hand.count(Action::Lookup(chunk(0))), 1);
    for _ in 0..60 {
        hand.with(|fetch, now| fetch.on_lookup_done(chunk(0), now));
        hand.open.clear();
        hand.wait(secs(5));
    }
    let lookups = hand.count(Action::Lookup(chunk(0)));
    assert!((6..30).contains(&lookups), "{lookups} in five minutes");
}

#[test]
fn child_manifests_are_looked_up_like_chunks() {
    let mut hand = Hand::new(FetchConfig::default());
    hand.with(|fetch, now| fetch.on_wants(vec![Want { cid: manifest(1), len: None, place: None }], now));
    hand.with(|fetch, now| fetch.on_lookup_done(root(), now));
    hand.wait(secs(2));
    assert_eq!(hand.count(Action::Lookup(manifest(1))), 1);
    hand.with(|fetch, now| fetch.on_provider(manifest(1), peer(1), now));
    hand.with(|fetch, now| fetch.on_connected(peer(1), now));
    assert_eq!(hand.asked(1), [manifest(1)]);
}

#[test]
fn a_lookup_is_cancelled_when_its_chunk_is_there() {
    let mut hand = Hand::of_chunks(in_order(), 2);
    hand.with(|fetch, now| fetch.on_lookup_done(root(), now));
    hand.wait(secs(2));
    hand.with(|fetch, now| fetch.on_have(chunk(0), now));
    assert_eq!(hand.count(Action::CancelLookup(chunk(0))), 1);
    assert_eq!(hand.fetch.progress().lookups, 2, "the other chunk's and the root's");
}

#[test]
fn lookups_in_flight_are_bounded() {
    let mut hand = Hand::of_chunks(in_order(), 5000);
    hand.with(|fetch, now| fetch.on_lookup_done(root(), now));
    hand.wait(secs(25));
    assert!((63..=64).contains(&hand.fetch.progress().lookups));
}

#[test]
fn dials_in_flight_are_bounded() {
    let mut hand = Hand::of_chunks(FetchConfig::default(), 500);
    for n in 0..60 {
        hand.with(|fetch, now| fetch.on_provider(root(), peer(n), now));
    }
    assert_eq!(hand.log.iter().filter(|action| matches!(action, Action::Dial(_))).count(), 16);
    // Dials that hang make room for others, but not without end.
    hand.wait(secs(20));
    assert_eq!(hand.log.iter().filter(|action| matches!(action, Action::Dial(_))).count(), 48);
}

#[test]
fn known_peers_are_bounded_and_the_banned_stay_banned() {
    let config = FetchConfig { max_known_peers: 4, ..in_order() };
    let mut hand = Hand::of_chunks(config, 50);
    hand.root_provider(0);
    hand.answer(0, |fetch, id, now| !fetch.on_block(id, 1, now));
    assert_eq!(hand.state(0), PeerState::Banned);
    for n in 1..50 {
        hand.with(|fetch, now| fetch.on_provider(root(), peer(n), now));
        hand.with(|fetch, now| fetch.on_dial_failed(peer(n), now));
    }
    assert_eq!(hand.fetch.progress().peers.len(), 4);
    hand.with(|fetch, now| fetch.on_provider(root(), peer(0), now));
    assert!(hand.fetch.progress().peers.iter().all(|state| state.peer != peer(0)));
}

#[test]
fn sources_of_one_chunk_are_bounded() {
    let mut hand = Hand::of_chunks(in_order(), 1);
    for n in 0..100 {
        hand.with(|fetch, now| fetch.on_provider(chunk(0), peer(n), now));
    }
    let believed = hand.fetch.sources.values().map(Vec::len).max();
    assert_eq!(believed, Some(MAX_SOURCES_PER_WANT));
}

#[test]
fn more_wants_than_a_fetch_may_have_end_it() {
    let hand = Hand::of_chunks(FetchConfig { max_wants: 100, ..FetchConfig::default() }, 100);
    assert!(!hand.log.contains(&Action::Failed(FetchFailure::TooLarge)));
    let hand = Hand::of_chunks(FetchConfig { max_wants: 100, ..FetchConfig::default() }, 101);
    assert_eq!(hand.log, [Action::Failed(FetchFailure::TooLarge)]);
}

#[test]
fn without_anybody_the_root_is_not_found_after_the_time_without_progress() {
    let mut hand = Hand::new(FetchConfig::default());
    hand.with(|fetch, now| fetch.on_wants(vec![Want { cid: root(), len: None, place: None }], now));
    for _ in 0..30 {
        assert!(!hand.log.iter().any(|action| matches!(action, Action::Failed(_))));
        hand.with(|fetch, now| fetch.on_lookup_done(root(), now));
        hand.wait(secs(1));
    }
    assert_eq!(hand.log.last(), Some(&Action::Failed(FetchFailure::NotFound)));
    let lookups = hand.count(Action::Lookup(root()));
    assert!((4..10).contains(&lookups), "{lookups} lookups");
}

#[test]
fn with_the_root_known_what_cannot_be_had_is_counted() {
    let mut hand = Hand::of_chunks(in_order(), 5);
    hand.root_provider(1);
    hand.wait(secs(20));
    hand.data(1);
    hand.wait(secs(29));
    assert!(!hand.log.iter().any(|action| matches!(action, Action::Failed(_))));
    hand.wait(secs(1));
    assert_eq!(hand.log.last(), Some(&Action::Failed(FetchFailure::Incomplete { missing: 4 })));
}

#[test]
fn a_peer_that_lacks_something_is_asked_again_only_after_a_while_and_less_and_less() {
    let config = FetchConfig { no_progress: secs(100_000), ..in_order() };
    let mut hand = Hand::of_chunks(config, 3);
    hand.root_provider(1);
    let mut asked = Vec::new();
    let start = hand.now;
    while hand.now < start + secs(600) {
        while !hand.asked(1).is_empty() {
            asked.push((hand.now - start).as_secs());
            hand.answer(1, Fetch::on_missing);
        }
        hand.wait(secs(1));
    }
    let rounds: BTreeSet<u64> = asked.iter().copied().collect();
    assert!(asked.len() <= 3 * rounds.len(), "each once a round");
    let rounds: Vec<u64> = rounds.into_iter().collect();
    assert_eq!(rounds[..3], [0, 5, 15], "{rounds:?}");
    assert!((10..16).contains(&rounds.len()), "{rounds:?}");
}
