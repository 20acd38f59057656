//! Fetches among peers that tell what they hold, and some that lie about it.

use std::{collections::BTreeSet, ops::Range};

use dhtfs_store::ChunkSet;

use super::super::*;
use super::{sim::*, situations::Hand};

const COUNT: u32 = 40;

fn set(held: impl IntoIterator<Item = u32>) -> ChunkSet {
    let mut set = ChunkSet::new(COUNT);
    held.into_iter().for_each(|place| assert!(set.insert(place)));
    set
}

/// A fetch of chunks with places, in order.
fn hand() -> Hand {
    let mut hand = Hand::new(FetchConfig { order: Order::InOrder, ..FetchConfig::default() });
    hand.with(|fetch, now| {
        fetch.on_content(COUNT, now);
        let want = |n| Want { cid: chunk(n), len: Some(MIB), place: Some(n) };
        fetch.on_wants((0..COUNT).map(want).collect(), now);
        fetch.on_wants_complete(now);
    });
    hand
}

impl Hand {
    /// The questions that were put to a peer.
    fn questions(&self, n: usize) -> Vec<HaveId> {
        let to = |action: &Action| match action {
            Action::AskHave { id, peer: to } if *to == peer(n) => Some(*id),
            _ => None,
        };
        self.log.iter().filter_map(to).collect()
    }

    fn tell(&mut self, n: usize, update: HaveUpdate) {
        let id = *self.questions(n).last().expect("it was asked");
        self.with(|fetch, now| fetch.on_map(id, update, now));
    }

    fn missing(&mut self, n: usize) {
        self.answer(n, |fetch, id, now| fetch.on_missing(id, now));
    }

    /// It tells what it holds, and lacks what it was asked for before.
    fn tells_only(&mut self, n: usize, held: ChunkSet) {
        let asked_before = self.asked(n).len();
        self.tell(n, HaveUpdate::Map(held));
        (0..asked_before).for_each(|_| self.missing(n));
    }

    fn coverage(&self) -> Vec<u32> {
        (0..COUNT).map(|n| self.fetch.coverage(&chunk(n)).unwrap()).collect()
    }

    fn looked_up(&self) -> BTreeSet<u32> {
        (0..COUNT).filter(|n| self.count(Action::Lookup(chunk(*n))) > 0).collect()
    }
}

#[test]
fn a_peer_is_asked_once_and_only_for_what_it_says_it_has() {
    let mut hand = hand();
    hand.root_provider(1);
    assert_eq!(hand.questions(1).len(), 1);
    assert_eq!(hand.asked(1), [chunk(0)], "before it tells it is believed to hold everything");
    hand.missing(1);
    hand.tell(1, HaveUpdate::Map(set([7, 9])));
    hand.missing(1);
    assert_eq!(hand.asked(1), [chunk(7)]);
    hand.data(1);
    hand.data(1);
    assert!(hand.asked(1).is_empty());
    hand.wait(secs(4));
    assert!(hand.asked(1).is_empty());
    hand.tell(1, HaveUpdate::More(set([3, 4])));
    assert_eq!(hand.asked(1), [chunk(3), chunk(4)]);
    assert_eq!(hand.questions(1).len(), 1);
}

/// A fetch of so many chunks, in an order drawn for it, and a peer that holds everything, has served two of them and is asked
/// for two more, on a lane unless said otherwise.
fn spread(count: u32, has_lane: bool) -> Hand {
    let mut hand = from_one(FetchConfig::default(), count, has_lane);
    hand.wait(ms(500));
    hand.data(1);
    hand.data(1);
    assert_eq!(hand.asked(1).len(), 2);
    hand
}

/// A fetch of so many chunks, and a peer that says it holds everything.
fn from_one(config: FetchConfig, count: u32, has_lane: bool) -> Hand {
    let mut hand = Hand::new(config);
    hand.with(|fetch, now| {
        fetch.on_content(count, now);
        let want = |n| Want { cid: chunk(n), len: Some(MIB), place: Some(n) };
        fetch.on_wants((0..count).map(want).collect(), now);
        fetch.on_wants_complete(now);
    });
    hand.root_provider(1);
    hand.with(|fetch, now| fetch.on_lane(&peer(1), has_lane, now));
    hand.tell(1, HaveUpdate::All);
    hand
}

/// The other chunks of such a fetch, from this one on.
fn set_of(count: u32, held: impl IntoIterator<Item = ContentCid>) -> ChunkSet {
    let held: BTreeSet<ContentCid> = held.into_iter().collect();
    let mut set = ChunkSet::new(count);
    (0..count).filter(|n| held.contains(&chunk(*n))).for_each(|n| assert!(set.insert(n)));
    set
}

fn id_of(hand: &Hand, n: usize, cid: ContentCid) -> RequestId {
    let (id, ..) = hand.open.iter().find(|(_, to, open)| *to == n && *open == cid).expect("it is asked");
    *id
}

#[test]
fn what_waits_in_the_queue_of_one_is_asked_of_another_who_has_it_and_whoever_begins_first_is_left() {
    for has_lane in [true, false] {
        let mut hand = spread(COUNT, has_lane);
        let [begun, waits] = hand.asked(1)[..] else { panic!("{:?}", hand.asked(1)) };
        let id = id_of(&hand, 1, begun);
        hand.with(|fetch, now| fetch.on_begun(id, now));
        hand.root_provider(2);
        hand.with(|fetch, now| fetch.on_lane(&peer(2), true, now));
        hand.tells_only(2, set_of(COUNT, [begun, waits]));
        hand.wait(ms(499));
        assert_eq!(hand.asked(2), []);
        hand.wait(ms(251));
        let wanted = if has_lane { vec![waits] } else { Vec::new() };
        assert_eq!(hand.asked(2), wanted, "what has begun comes; without a lane nothing is known of it");
        if !has_lane {
            continue;
        }
        let (first, second) = (id_of(&hand, 1, waits), id_of(&hand, 2, waits));
        hand.with(|fetch, now| fetch.on_begun(second, now));
        assert_eq!(
            hand.count(Action::Forget(first)),
            0,
            "it has served nothing, and may begin and never go on"
        );
        hand.with(|fetch, now| fetch.on_part(second, now));
        assert_eq!(hand.count(Action::Forget(first)), 1);
        let before = hand.fetch.progress();
        hand.with(|fetch, now| fetch.on_cancelled(first, 5, now));
        let after = hand.fetch.progress();
        assert_eq!(
            (after.received_len - before.received_len, after.wasted_len - before.wasted_len),
            (5, 5),
            "what came before it was taken back"
        );
    }
}

#[test]
fn of_two_that_have_begun_the_one_that_is_further_is_left() {
    let mut hand = spread(COUNT, true);
    let waits = hand.asked(1)[1];
    hand.root_provider(2);
    hand.with(|fetch, now| fetch.on_lane(&peer(2), true, now));
    hand.tells_only(2, set_of(COUNT, [waits]));
    hand.wait(ms(750));
    let (first, second) = (id_of(&hand, 1, waits), id_of(&hand, 2, waits));
    hand.with(|fetch, now| fetch.on_begun(second, now));
    hand.with(|fetch, now| fetch.on_begun(first, now));
    assert_eq!((hand.count(Action::Forget(first)), hand.count(Action::Forget(second))), (0, 0));
    hand.with(|fetch, now| fetch.on_part(first, now));
    assert_eq!((hand.count(Action::Forget(first)), hand.count(Action::Forget(second))), (0, 1));
}

#[test]
fn a_late_one_that_begins_takes_its_copy_back_and_is_late_again_when_it_stops() {
    let mut hand = spread(COUNT, true);
    let waits = hand.asked(1)[0];
    hand.wait(ms(4200));
    hand.root_provider(2);
    hand.with(|fetch, now| fetch.on_lane(&peer(2), true, now));
    let (late, copy) = (id_of(&hand, 1, waits), id_of(&hand, 2, waits));
    let asked = |hand: &Hand| {
        let asked = |action: &&Action| matches!(action, Action::Request { cid, .. } if *cid == waits);
        hand.log.iter().filter(asked).count()
    };
    hand.with(|fetch, now| fetch.on_begun(late, now));
    assert_eq!(hand.count(Action::Forget(copy)), 1, "it comes");
    hand.with(|fetch, now| fetch.on_cancelled(copy, 0, now));
    hand.wait(secs(20));
    assert_eq!(asked(&hand), 3, "what came to a stop is late");
    let again = id_of(&hand, 2, waits);
    hand.with(|fetch, now| fetch.on_part(late, now));
    assert_eq!(hand.count(Action::Forget(again)), 0, "who has come to a stop once may again");
}

#[test]
fn where_one_comes_at_a_time_the_next_is_asked_for_when_one_half_is_here() {
    let mut hand = from_one(FetchConfig { start_window: 1, ..FetchConfig::default() }, COUNT, true);
    hand.wait(ms(1040));
    hand.data(1);
    for _ in 0..3 {
        let [comes] = hand.asked(1)[..] else { panic!("{:?}", hand.asked(1)) };
        let id = id_of(&hand, 1, comes);
        hand.with(|fetch, now| fetch.on_begun(id, now));
        hand.with(|fetch, now| fetch.on_part(id, now));
        hand.wait(ms(520));
        assert_eq!(hand.asked(1), [comes]);
        hand.with(|fetch, now| fetch.on_half(id, now));
        assert_eq!(hand.asked(1).len(), 2, "there is something to send when the first is sent");
        hand.wait(ms(520));
        hand.data(1);
    }
}

#[test]
fn a_late_one_of_a_peer_that_has_served_nothing_does_not_take_its_copy_back() {
    let mut hand = Hand::new(FetchConfig::default());
    hand.with(|fetch, now| {
        fetch.on_content(COUNT, now);
        fetch.on_wants(vec![Want { cid: chunk(0), len: Some(MIB), place: Some(0) }], now);
        fetch.on_wants_complete(now);
    });
    for n in [1, 2] {
        hand.root_provider(n);
        hand.with(|fetch, now| fetch.on_lane(&peer(n), true, now));
        hand.wait(secs(25));
    }
    let (late, copy) = (id_of(&hand, 1, chunk(0)), id_of(&hand, 2, chunk(0)));
    hand.with(|fetch, now| fetch.on_begun(late, now));
    assert_eq!((hand.count(Action::Forget(late)), hand.count(Action::Forget(copy))), (0, 0));
}

#[test]
fn what_waits_in_two_queues_takes_a_part_of_the_room_for_what_comes_twice() {
    // One want of 32 allows for a block that comes twice, of which four wait in two queues; else a part of what has come does.
    for (count, copies) in [(31, 1), (COUNT, 4)] {
        let mut hand = spread(count, true);
        for _ in 0..8 {
            // Its window grows.
            hand.data(1);
        }
        let waiting = hand.asked(1);
        for n in 2..10 {
            hand.root_provider(n);
            hand.with(|fetch, now| fetch.on_lane(&peer(n), true, now));
            hand.tells_only(n, set_of(count, waiting.clone()));
        }
        hand.wait(ms(750));
        let copied: usize = (2..10).map(|n| hand.asked(n).len()).sum();
        assert!(waiting.len() > copies, "{waiting:?}");
        assert_eq!(copied, copies);
    }
}

#[test]
fn a_peer_is_asked_for_what_the_fewest_others_hold() {
    let mut hand = spread(COUNT, true);
    let asked: BTreeSet<ContentCid> = hand.asked(1).into_iter().collect();
    let stored = |hand: &Hand, n: u32| {
        hand.fetch.wants[hand.fetch.wants.find(&chunk(n)).unwrap()].status == Status::Stored
    };
    let open: Vec<u32> = (0..COUNT).filter(|n| !asked.contains(&chunk(*n)) && !stored(&hand, *n)).collect();
    let (rare, common) = open.split_at(2);
    for n in 2..5 {
        hand.root_provider(n);
        hand.tells_only(n, set(common.iter().copied()));
    }
    hand.data(1);
    hand.data(1);
    let asked_now: BTreeSet<ContentCid> =
        hand.asked(1).into_iter().filter(|cid| !asked.contains(cid)).collect();
    let rare: BTreeSet<ContentCid> = rare.iter().map(|n| chunk(*n)).collect();
    assert!(rare.is_subset(&asked_now), "{rare:?} {asked_now:?}");
}

#[test]
fn what_waits_and_others_hold_meanwhile_makes_room_for_what_nobody_else_holds() {
    let mut hand = spread(COUNT, true);
    let waiting = hand.asked(1);
    let ids: Vec<RequestId> = waiting.iter().map(|cid| id_of(&hand, 1, *cid)).collect();
    for n in 2..4 {
        hand.root_provider(n);
        hand.tells_only(n, set_of(COUNT, waiting.clone()));
        // They are busy with others.
        hand.with(|fetch, now| fetch.on_lane(&peer(n), false, now));
    }
    assert_eq!(hand.count(Action::Forget(ids[0])), 0, "it was asked for just now");
    hand.wait(ms(500));
    hand.with(Fetch::on_timeout);
    hand.wait(ms(250));
    hand.with(Fetch::on_timeout);
    assert_eq!(ids.iter().map(|id| hand.count(Action::Forget(*id))).sum::<usize>(), 2);
    for id in ids {
        hand.with(|fetch, now| fetch.on_cancelled(id, 0, now));
    }
    assert!(!hand.asked(1).is_empty() && hand.asked(1).iter().all(|cid| !waiting.contains(cid)));
}

#[test]
fn a_peer_without_the_protocol_is_treated_as_ever() {
    let mut hand = hand();
    hand.root_provider(1);
    let id = hand.questions(1)[0];
    hand.with(|fetch, now| fetch.on_map_end(id, HaveEnd::Refused, now));
    hand.missing(1);
    assert_eq!(hand.asked(1), [chunk(1)]);
    hand.wait(secs(60));
    assert_eq!(hand.questions(1).len(), 1, "not asked again");
}

#[test]
fn a_map_of_another_length_is_the_last_that_is_read() {
    let mut hand = hand();
    hand.root_provider(1);
    hand.tell(1, HaveUpdate::Map(ChunkSet::new(COUNT + 1)));
    assert_eq!(hand.count(Action::EndHave(hand.questions(1)[0])), 1);
    assert_eq!(hand.asked(1), [chunk(0)]);
    hand.root_provider(2);
    hand.tell(2, HaveUpdate::More(set([1])));
    assert_eq!(hand.count(Action::EndHave(hand.questions(2)[0])), 1, "news before a map");
}

#[test]
fn whole_maps_and_empty_news_are_counted() {
    let mut hand = hand();
    hand.root_provider(1);
    for n in 0..30 {
        let id = *hand.questions(1).last().unwrap();
        hand.with(|fetch, now| fetch.on_map(id, HaveUpdate::Map(set([n])), now));
    }
    assert_eq!(hand.count(Action::EndHave(hand.questions(1)[0])), 1);
    hand.root_provider(2);
    hand.tell(2, HaveUpdate::Map(set([5])));
    for _ in 0..30 {
        let id = *hand.questions(2).last().unwrap();
        hand.with(|fetch, now| fetch.on_map(id, HaveUpdate::More(set([5])), now));
    }
    assert_eq!(hand.count(Action::EndHave(hand.questions(2)[0])), 1);
}

#[test]
fn coverage_counts_the_connected_peers_that_say_so() {
    let mut hand = hand();
    for n in 1..=3 {
        hand.root_provider(n);
    }
    hand.tell(1, HaveUpdate::Map(set(0..10)));
    hand.tell(2, HaveUpdate::Map(set(5..15)));
    let expected = |counts: [u32; 4]| {
        let runs = counts.into_iter().zip([5, 5, 5, 25]);
        runs.flat_map(|(count, len)| vec![count; len]).collect::<Vec<_>>()
    };
    assert_eq!(hand.coverage(), expected([1, 2, 1, 0]));
    hand.tell(3, HaveUpdate::All);
    assert_eq!(hand.coverage(), expected([2, 3, 2, 1]));
    hand.tell(1, HaveUpdate::More(set(10..15)));
    assert_eq!(hand.coverage(), expected([2, 3, 3, 1]));
    hand.tell(2, HaveUpdate::Map(set(0..5)));
    assert_eq!(hand.coverage(), expected([3, 2, 2, 1]));
    hand.with(|fetch, now| fetch.on_disconnected(peer(3), now));
    assert_eq!(hand.coverage(), expected([2, 1, 1, 0]));
    hand.with(|fetch, now| fetch.on_disconnected(peer(1), now));
    hand.with(|fetch, now| fetch.on_disconnected(peer(2), now));
    assert_eq!(hand.coverage(), vec![0; COUNT as usize]);
    assert_eq!(hand.count(Action::EndHave(hand.questions(1)[0])), 1);
    hand.with(|fetch, now| fetch.on_connected(peer(1), now));
    assert_eq!(hand.questions(1).len(), 2, "asked anew");
}

#[test]
fn only_what_nobody_connected_holds_is_looked_up_and_no_longer_when_somebody_does() {
    let mut hand = hand();
    hand.root_provider(1);
    hand.with(|fetch, now| fetch.on_lookup_done(root(), now));
    hand.tell(1, HaveUpdate::Map(set(0..30)));
    hand.wait(secs(2));
    assert_eq!(hand.looked_up(), (30..40).collect());
    // One lookup finds a peer, which holds most of the others: their lookups are ended.
    hand.with(|fetch, now| fetch.on_provider(chunk(30), peer(2), now));
    hand.with(|fetch, now| fetch.on_connected(peer(2), now));
    hand.tell(2, HaveUpdate::Map(set(30..38)));
    assert!(
        !hand.log.iter().any(|action| matches!(action, Action::CancelLookup(_))),
        "it has served nothing"
    );
    hand.data(2);
    let cancelled = (30..40).filter(|n| hand.count(Action::CancelLookup(chunk(*n))) > 0);
    assert_eq!(cancelled.collect::<Vec<_>>(), (30..38).collect::<Vec<_>>());
    assert_eq!(hand.fetch.progress().own_lookups, 10);
    assert_eq!(hand.fetch.progress().maps, 2);
}

#[test]
fn what_a_peer_denied_is_asked_for_again() {
    let mut hand = hand();
    hand.root_provider(1);
    hand.tell(1, HaveUpdate::Map(set([0, 1, 2])));
    hand.missing(1);
    hand.data(1);
    hand.answer(1, |fetch, id, now| {
        assert!(fetch.on_block(id, MIB, now));
        fetch.on_bad(id, now);
    });
    assert!(hand.asked(1).is_empty());
    assert_eq!(hand.coverage()[..4], [0, 1, 0, 0]);
    hand.wait(secs(6));
    assert_eq!(hand.asked(1), [chunk(0), chunk(2)]);
    assert_eq!(hand.questions(1).len(), 1, "its map is not asked for again");
    // However often it still lacks them, it is no new lie.
    let wait_until_asked = |hand: &mut Hand| {
        for _ in 0..5 {
            if hand.asked(1).is_empty() {
                hand.wait(secs(20));
                // The fetch goes on elsewhere.
                hand.with(|fetch, now| fetch.on_have(chunk(3), now));
                hand.with(|fetch, now| fetch.on_lost(chunk(3), now));
            }
        }
        assert_eq!(hand.asked(1)[0], chunk(0));
    };
    let mut denials = 0;
    while denials < 20 {
        wait_until_asked(&mut hand);
        while !hand.asked(1).is_empty() {
            hand.missing(1);
            denials += 1;
        }
    }
    assert_eq!(hand.questions(1).len(), 1);
    wait_until_asked(&mut hand);
    while !hand.asked(1).is_empty() {
        hand.data(1);
    }
    hand.wait(secs(6));
    while !hand.asked(1).is_empty() {
        hand.data(1);
    }
    assert_eq!(hand.coverage()[..4], [1, 1, 1, 0]);
}

#[test]
fn whom_the_dht_names_is_asked_whatever_it_said() {
    let mut hand = hand();
    hand.root_provider(1);
    hand.tell(1, HaveUpdate::Map(set([0, 1])));
    hand.missing(1);
    hand.data(1);
    assert!(hand.asked(1).is_empty());
    for n in [0, 7] {
        hand.with(|fetch, now| fetch.on_provider(chunk(n), peer(1), now));
        assert_eq!(hand.asked(1), [chunk(n)]);
        hand.missing(1);
        assert!(hand.asked(1).is_empty());
    }
    hand.with(|fetch, now| fetch.on_provider(chunk(7), peer(1), now));
    hand.data(1);
    hand.tell(1, HaveUpdate::More(set([0])));
    assert_eq!(hand.asked(1), [chunk(0)], "it got it back");
}

#[test]
fn a_map_that_lacks_too_much_of_what_it_says_is_given_up() {
    let count = 800;
    let mut hand = Hand::new(FetchConfig { order: Order::InOrder, ..FetchConfig::default() });
    hand.with(|fetch, now| {
        fetch.on_content(count, now);
        let want = |n| Want { cid: chunk(n), len: Some(MIB), place: Some(n) };
        fetch.on_wants((0..count).map(want).collect(), now);
    });
    hand.root_provider(1);
    let mut held = ChunkSet::new(count);
    held.insert_range(0, 790);
    hand.tell(1, HaveUpdate::Map(held));
    let ended = |hand: &Hand| hand.count(Action::EndHave(hand.questions(1)[0])) > 0;
    let mut denied = 0;
    while !ended(&hand) {
        // One of three is there, so that it is no liar.
        hand.data(1);
        for _ in 0..2 {
            if !ended(&hand) {
                hand.missing(1);
                denied += 1;
            }
        }
    }
    assert_eq!(denied, 257);
}

#[test]
fn who_has_served_nothing_ends_no_lookup_and_nobody_ends_one_of_doubt() {
    let mut hand = hand();
    hand.root_provider(1);
    hand.with(|fetch, now| fetch.on_lookup_done(root(), now));
    hand.tell(1, HaveUpdate::Map(set([0])));
    hand.wait(secs(2));
    let cancelled =
        |hand: &Hand| (0..COUNT).filter(|n| hand.count(Action::CancelLookup(chunk(*n))) > 0).count();
    assert!(hand.looked_up().len() > 30);
    hand.root_provider(2);
    hand.tell(2, HaveUpdate::All);
    assert_eq!(cancelled(&hand), 0);
    hand.data(2);
    assert!(cancelled(&hand) > 30, "{}", cancelled(&hand));

    let mut hand = super::maps::hand();
    hand.root_provider(1);
    hand.with(|fetch, now| fetch.on_lookup_done(root(), now));
    hand.tell(1, HaveUpdate::All);
    hand.wait(secs(6));
    assert_eq!(hand.looked_up().len(), 8, "nothing comes");
    hand.root_provider(2);
    hand.data(2);
    hand.tell(2, HaveUpdate::All);
    assert!(cancelled(&hand) <= 1, "only what it served");
}

#[test]
fn a_list_that_is_a_lie_costs_its_chunks_then_all_of_it_and_then_a_strike() {
    let mut hand = hand();
    hand.root_provider(1);
    hand.with(|fetch, now| fetch.on_lookup_done(root(), now));
    hand.tell(1, HaveUpdate::Map(set(0..39)));
    for n in 0..15 {
        assert_eq!(hand.asked(1), [chunk(n)]);
        hand.missing(1);
    }
    assert_eq!(hand.coverage()[..17], [&[0; 15][..], &[1, 1]].concat());
    hand.missing(1);
    assert!(hand.asked(1).is_empty(), "it holds nothing, as far as is known");
    assert_eq!(hand.count(Action::EndHave(hand.questions(1)[0])), 1);
    hand.wait(secs(2));
    assert_eq!(hand.looked_up(), (0..40).collect());
    // It gets another chance, and takes it.
    hand.wait(secs(14));
    assert_eq!(hand.questions(1).len(), 2);
    hand.tell(1, HaveUpdate::Map(set(0..39)));
    for _ in 0..16 {
        hand.missing(1);
    }
    assert!(hand.asked(1).is_empty());
    assert_eq!(hand.state(1), PeerState::Connected, "one strike");
    hand.with(|fetch, now| fetch.on_disconnected(peer(1), now));
    hand.with(|fetch, now| fetch.on_connected(peer(1), now));
    hand.wait(secs(10));
    assert_eq!(hand.questions(1).len(), 2, "never asked again");
}

#[test]
fn who_says_that_it_holds_everything_and_does_not_is_asked_again() {
    let mut hand = hand();
    hand.root_provider(1);
    hand.tell(1, HaveUpdate::All);
    hand.data(1);
    hand.missing(1);
    assert_eq!(hand.fetch.progress().maps, 0);
    hand.data(1);
    hand.wait(secs(16));
    assert_eq!(hand.questions(1).len(), 2);
    hand.tell(1, HaveUpdate::Map(set(20..25)));
    assert_eq!(hand.coverage()[18..26], [0, 0, 1, 1, 1, 1, 1, 0]);
}

#[test]
fn wants_that_come_later_follow_the_maps_that_are_there() {
    let mut hand = Hand::new(FetchConfig { order: Order::InOrder, ..FetchConfig::default() });
    let want = |n| Want { cid: chunk(n), len: Some(MIB), place: Some(n) };
    let give = |hand: &mut Hand, range: Range<u32>| {
        hand.with(|fetch, now| fetch.on_wants(range.map(want).collect(), now));
    };
    hand.with(|fetch, now| fetch.on_content(COUNT, now));
    give(&mut hand, 0..4);
    hand.root_provider(1);
    hand.tell(1, HaveUpdate::Map(set([0, 5, 6])));
    hand.data(1);
    assert!(hand.asked(1).is_empty());
    give(&mut hand, 4..8);
    assert_eq!(hand.asked(1), [chunk(5), chunk(6)]);
    // What was consumed is wanted again from who has it.
    hand.data(1);
    hand.data(1);
    hand.with(|fetch, now| fetch.on_lost(chunk(5), now));
    assert_eq!(hand.asked(1), [chunk(5)]);
}

#[test]
fn nobody_is_asked_about_a_few_chunks() {
    let mut hand = Hand::new(FetchConfig::default());
    hand.with(|fetch, now| {
        fetch.on_content(3, now);
        fetch.on_wants((0..3).map(|n| Want { cid: chunk(n), len: Some(MIB), place: Some(n) }).collect(), now);
    });
    hand.root_provider(1);
    assert!(hand.questions(1).is_empty());
}

fn finish(chunks: usize, hosts: Vec<Host>) -> World {
    let mut world = World::new(FetchConfig::default(), 1, 0, chunks, hosts);
    world.begin(Given::Tree, &BTreeSet::new());
    assert_eq!(world.run(secs(3600)), End::Finished);
    world
}

fn chunk_lookups(world: &World) -> usize {
    world.lookups.keys().filter(|cid| **cid != root()).count()
}

#[test]
fn complete_providers_need_no_lookup_of_a_chunk() {
    let hosts = vec![Host { maps: Tells::Truth, ..Host::new().holding(0..=500) }; 3];
    let world = finish(500, hosts);
    assert_eq!((chunk_lookups(&world), world.missed), (0, 0));
}

/// Each of ten peers holds a tenth and the manifest, and is found by it.
#[test]
fn partial_providers_of_the_root_that_tell_are_asked_for_nothing_they_lack() {
    let hosts = |maps: Tells| -> Vec<Host> {
        let share = |n: usize| (0..=200).filter(move |position| *position == 0 || position % 10 == n);
        (0..10).map(|n| Host { maps, ..Host::new().holding(share(n)) }).collect()
    };
    let (without, with) = (finish(200, hosts(Tells::Nothing)), finish(200, hosts(Tells::Truth)));
    assert_eq!(chunk_lookups(&with), 0);
    assert!(with.missed <= 20, "asked before they told: {}", with.missed);
    assert!(without.missed > 20 * with.missed, "{}", without.missed);
    assert!(with.now - with.start <= without.now - without.start);
}

/// Of twenty peers that hold a tenth each, four are found by the root and the others by chunks only.
#[test]
fn lookups_of_chunks_are_for_those_that_nobody_connected_holds() {
    let hosts = |maps: Tells| -> Vec<Host> {
        let share = |n: usize| (0..=400).filter(move |position| *position == 0 || position % 10 == n % 10);
        let host = |n| Host { maps, announces_root: n < 4, ..Host::new().holding(share(n)) };
        (0..20).map(host).collect()
    };
    let (without, with) = (finish(400, hosts(Tells::Nothing)), finish(400, hosts(Tells::Truth)));
    for cid in with.lookups.keys().filter(|cid| **cid != root()) {
        let n = (1..=400).find(|n| chunk(n - 1) == *cid).unwrap();
        assert!(n % 10 >= 4, "chunk {n} is held by a provider of the root");
    }
    println!("lookups of chunks: {} with maps, {} without", chunk_lookups(&with), chunk_lookups(&without));
    // One batch, and then every peer that was found tells what else it holds.
    assert!(chunk_lookups(&with) <= 64, "{}", chunk_lookups(&with));
    assert!(chunk_lookups(&without) > 2 * chunk_lookups(&with), "{}", chunk_lookups(&without));
    let progress = with.fetch.progress();
    assert_eq!(
        progress.own_lookups,
        with.lookups.iter().filter(|(cid, _)| **cid != root()).map(|(_, n)| u64::from(*n)).sum::<u64>()
    );
}

#[test]
fn liars_do_not_keep_a_fetch_from_what_honest_peers_hold() {
    for maps in [Tells::All, Tells::Half] {
        let liar = Host { maps, ..Host::new().holding(0..1) };
        let mut hosts = vec![liar; 12];
        hosts.push(Host { maps: Tells::Truth, announces_root: false, ..Host::new().holding(0..=100) });
        let world = finish(100, hosts);
        let spent = world.now - world.start;
        assert!(spent < secs(40), "{maps:?}: {spent:?}");
        assert!(world.missed < 12 * 40, "{maps:?}: {}", world.missed);
    }
}

#[test]
fn peers_that_fetch_the_same_are_used_as_soon_as_they_tell() {
    let grower = |maps| Host { grows: Some(ms(100)), maps, ..Host::new().holding(0..1) };
    let seed = Host { rate: MIB, maps: Tells::Truth, ..Host::new().holding(0..=60) };
    let time = |maps: Tells| {
        let world = finish(60, vec![seed.clone(), grower(maps), grower(maps)]);
        (world.now - world.start, world.missed)
    };
    let ((without, _), (with, missed)) = (time(Tells::Nothing), time(Tells::Truth));
    assert!(with <= without, "{with:?} {without:?}");
    assert!(missed <= 4, "{missed}");
}
