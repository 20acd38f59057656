//! Why a fetch waits: the numbers add up whatever happens, and single situations are told as what they are.

use std::time::Instant;

use super::super::{
    peers::Peer,
    wants::{Status, WantIx},
    *,
};
use super::sim::{MIB, chunk, ms, peer, root, secs};
use super::situations::Hand;
use crate::core::backoff::BackoffPolicy;

/// Checks what is told against a look at everything.
pub(super) fn check_sums(fetch: &Fetch, now: Instant) {
    let why = fetch.why(now);
    let progress = fetch.progress();
    assert_eq!(why.known(), progress.peers.len(), "every peer is in one group: {why:?}");
    let count = |state| progress.peers.iter().filter(|peer| peer.state == state).count();
    let told = |waits: &[PeerWait]| waits.iter().map(|wait| why.group(*wait).peers).sum::<usize>();
    assert!(told(&[PeerWait::WrongData]) >= count(PeerState::Banned), "{why:?}");
    let not_connected = [PeerWait::Connecting, PeerWait::Found, PeerWait::Unreachable];
    let links = count(PeerState::Dialling) + count(PeerState::Backoff);
    // Who is known and has nothing that is wanted is not dialled.
    assert!(
        (links - told(&[PeerWait::Lacking]).min(links)..=links).contains(&told(&not_connected)),
        "{why:?}"
    );
    let talking = [PeerWait::Asked, PeerWait::Ready, PeerWait::Busy, PeerWait::Silent];
    assert!(told(&talking) <= count(PeerState::Connected), "{why:?}");
    let in_flight = progress.peers.iter().filter(|peer| peer.in_flight > 0).count();
    let busied = [PeerWait::Asked, PeerWait::Silent, PeerWait::Busy, PeerWait::WrongData];
    assert!(in_flight <= told(&busied), "{why:?}");

    let wants = progress.wanted - progress.stored;
    assert_eq!(why.missing, wants);
    assert!(why.received + why.without_provider <= wants, "{why:?}");
    let is_live = |peer: &Peer| peer.is_connected() && (!peer.doubtful || peer.busy_streak > 0);
    let has_nobody = |want: &WantIx| {
        let is_wanted = matches!(fetch.wants[*want].status, Status::Pending | Status::InFlight);
        let rank = fetch.wants.rank(*want);
        is_wanted && !fetch.peers.iter().any(|(_, peer)| is_live(peer) && peer.may_hold(*want, rank))
    };
    let without = fetch.wants.ixs().filter(has_nobody).count();
    assert!(!why.at_least && why.without_provider == without, "{without} have nobody: {why:?}");
    assert_eq!(why.lookups, progress.lookups);
    assert!(why.fails_in.is_none_or(|left| left <= fetch.config.no_progress));
    let quiet = !fetch.ended && wants > 0 && why.idle >= QUIET;
    assert_eq!(fetch.waiting(now).is_some(), quiet && !comes(fetch, now));
    assert_eq!((why.hints, why.unreached_hints), (0, 0), "the driver's");
    let looks_up_before = fetch
        .lookups_deadline()
        .is_none_or(|at| why.next_lookup_in.is_none_or(|next| at.saturating_duration_since(now) <= next));
    assert!(looks_up_before, "a lookup begins while nobody is awake: {why:?}");
}

/// Whether somebody is within twice the time that what it was asked for usually takes.
fn comes(fetch: &Fetch, now: Instant) -> bool {
    fetch.requests.iter().any(|(id, request)| {
        let peer = &fetch.peers[request.peer];
        let since = now - peer.last_answer.max(request.sent);
        let is_paused = peer.paused_until.is_some_and(|until| until > now);
        peer.fresh.contains(&id)
            && (!peer.doubtful || peer.busy_streak > 0)
            && !is_paused
            && peer.pace.is_proven(request.units)
            && since < peer.pace.typical(request.units) * 2
    })
}

fn in_order() -> FetchConfig {
    FetchConfig { order: Order::InOrder, ..FetchConfig::default() }
}

impl Hand {
    /// Why it waits, which it has to for long enough.
    #[track_caller]
    fn why(&self) -> Waiting {
        check_sums(&self.fetch, self.now);
        self.fetch.waiting(self.now).expect("it waits")
    }

    fn dial_fails(&mut self, n: usize) {
        self.with(|fetch, now| fetch.on_dial_failed(peer(n), now));
    }

    /// So many chunks and a provider of all of them that served the first.
    fn served_once(count: u32) -> Self {
        let mut hand = Self::of_chunks(in_order(), count);
        hand.root_provider(0);
        hand.data(0);
        hand
    }
}

fn shape(why: &Waiting, wait: PeerWait) -> (Cause, usize, usize) {
    (why.cause, why.group(wait).peers, why.without_provider)
}

#[test]
fn what_comes_is_not_explained() {
    let mut hand = Hand::served_once(10);
    assert_eq!(hand.fetch.waiting(hand.now), None);
    hand.wait(ms(1_999));
    assert_eq!(hand.fetch.waiting(hand.now), None);
    hand.wait(ms(1));
    assert_eq!(hand.why().cause, Cause::Silence, "it was fast before");
    hand.data(0);
    assert_eq!(hand.fetch.waiting(hand.now), None);
}

#[test]
fn nobody_is_known() {
    let mut hand = Hand::of_chunks(in_order(), 3);
    hand.wait(secs(2));
    let why = hand.why();
    assert_eq!((why.cause, why.known(), why.lookups, why.without_provider), (Cause::NoProvider, 0, 1, 3));
    assert_eq!((why.next_lookup_in, why.fails_in), (None, Some(secs(28))), "chunks are looked at after 5 s");
    hand.with(|fetch, now| fetch.on_lookup_done(root(), now));
    let why = hand.why();
    assert_eq!((why.cause, why.lookups), (Cause::NoProvider, 0));
    assert!(why.next_lookup_in.is_some_and(|next| next <= secs(1)), "{why:?}");
}

#[test]
fn a_moment_at_which_nothing_is_looked_up_is_no_next_lookup() {
    // Somebody has everything and says nothing: after five seconds some chunks are doubted, and that is no plan.
    let config = FetchConfig { more_backoff: BackoffPolicy::new(secs(10), secs(60)), ..in_order() };
    let mut hand = Hand::of_chunks(config, 3);
    hand.root_provider(0);
    hand.with(|fetch, now| fetch.on_lookup_done(root(), now));
    hand.wait(secs(2));
    let next = hand.why().next_lookup_in.unwrap();
    let begun = hand.count(Action::Lookup(root()));
    let wakes = hand.fetch.lookups_deadline().unwrap();
    assert!(wakes < hand.now + next, "it looks at its wants before that");
    hand.wait(next - ms(1));
    assert_eq!(hand.count(Action::Lookup(root())), begun);
    hand.wait(ms(1));
    assert_eq!(hand.count(Action::Lookup(root())), begun + 1);
}

#[test]
fn the_only_provider_was_lost_and_is_dialled_again() {
    let mut hand = Hand::served_once(10);
    hand.with(|fetch, now| fetch.on_disconnected(peer(0), now));
    hand.wait(secs(2));
    let why = hand.why();
    assert_eq!(shape(&why, PeerWait::Unreachable), (Cause::Unreachable, 1, 9));
    hand.dial_fails(0);
    let again = hand.why().group(PeerWait::Unreachable).again_in;
    assert!(again.is_some_and(|again| again <= secs(4)), "{again:?}");
    // It is dialled four times more, and then no longer.
    for _ in 0..5 {
        hand.wait(secs(4));
        hand.dial_fails(0);
    }
    let group = hand.why().group(PeerWait::Unreachable);
    assert_eq!((group.peers, group.again_in), (1, None));
}

#[test]
fn one_that_never_answered_a_dial_is_first_connected_to_and_then_unreachable() {
    let mut hand = Hand::of_chunks(in_order(), 3);
    hand.with(|fetch, now| fetch.on_provider(root(), peer(0), now));
    hand.wait(secs(2));
    assert_eq!(shape(&hand.why(), PeerWait::Connecting), (Cause::Connections, 1, 3));
    hand.wait(secs(2));
    assert_eq!(shape(&hand.why(), PeerWait::Connecting), (Cause::Connections, 1, 3), "it takes too long");
    hand.dial_fails(0);
    assert_eq!(shape(&hand.why(), PeerWait::Unreachable), (Cause::Unreachable, 1, 3));
}

#[test]
fn who_is_not_dialled_yet_is_said_to_be_found() {
    let config = FetchConfig { max_dials: 1, ..in_order() };
    let mut hand = Hand::of_chunks(config, 3);
    (0..3).for_each(|n| hand.with(|fetch, now| fetch.on_provider(root(), peer(n), now)));
    hand.wait(secs(2));
    let why = hand.why();
    assert_eq!((why.group(PeerWait::Connecting).peers, why.group(PeerWait::Found).peers), (1, 2));
}

#[test]
fn a_peer_that_falls_silent_is_first_asked_and_then_silent() {
    let mut hand = Hand::served_once(10);
    hand.data(0);
    hand.wait(ms(2_100));
    assert_eq!(hand.why().cause, Cause::Silence, "it was fast before");
    let mut slow = Hand::of_chunks(in_order(), 10);
    slow.root_provider(0);
    slow.wait(secs(4));
    assert_eq!(shape(&slow.why(), PeerWait::Asked), (Cause::Answers, 1, 0), "nobody knows how fast it is");
    slow.wait(secs(17));
    assert_eq!(shape(&slow.why(), PeerWait::Silent), (Cause::Silence, 1, 10));
}

/// Draws half a second each: `!` a block comes, `.` nothing happens. Answers when a reason is told, as `w`.
fn drawn(blocks: &str) -> String {
    let mut hand = Hand::served_once(40);
    let told = blocks.chars().map(|happens| {
        hand.wait(ms(500));
        if happens == '!' {
            hand.data(0);
        }
        check_sums(&hand.fetch, hand.now);
        if hand.fetch.waiting(hand.now).is_some() { 'w' } else { happens }
    });
    told.collect()
}

#[test]
fn who_is_as_slow_as_ever_is_not_waited_for() {
    // The first was at once, and only what came since says that the link is slow.
    let drawing = drawn("!!!!!!!!..!...!....!.....!.....!.....!.....!.....!.....!.....!.....!");
    assert!(!drawing.contains('w'), "{drawing}");
    let drawing = drawn("...!.....!.....!.....!.....!.....!.....!.....!............................");
    let steady = drawing.rfind('!').unwrap();
    assert!(!drawing[20..steady].contains('w'), "{drawing}");
    // Two blocks are on the way, so each takes up to six seconds, and twice that is too much.
    let silent = drawing[steady + 1..].find('w');
    assert!(silent.is_some_and(|halves| (8..=26).contains(&halves)), "{drawing}");
}

#[test]
fn what_was_taken_back_is_not_said_to_be_unanswered() {
    // The first takes long over the first chunk, so that the second brings that too; the third chunk only the first may
    // have. It is asked for that when what it is still sending has no use any more, or nothing came for five seconds.
    let mut hand = Hand::of_chunks(in_order(), 3);
    hand.root_provider(0);
    hand.root_provider(1);
    assert_eq!((hand.asked(0), hand.asked(1)), (vec![chunk(0)], vec![chunk(1)]));
    hand.data(1);
    assert_eq!(hand.asked(1), [chunk(2)]);
    hand.answer(1, Fetch::on_missing);
    while hand.asked(1).is_empty() {
        hand.wait(ms(100));
    }
    assert_eq!((hand.asked(0), hand.asked(1)), (vec![chunk(0)], vec![chunk(0)]));
    hand.data(1);
    assert_eq!((hand.asked(0), hand.asked(1)), (vec![], vec![]));
    hand.wait(secs(2));
    let why = hand.why();
    assert_eq!(shape(&why, PeerWait::Ready), (Cause::Ready, 1, 0), "{why:?}");
    assert_eq!((why.group(PeerWait::Lacking).peers, why.group(PeerWait::Silent).peers), (1, 0), "{why:?}");
    hand.wait(secs(3));
    assert_eq!(shape(&hand.why(), PeerWait::Asked), (Cause::Answers, 1, 0));
}

#[test]
fn all_are_busy() {
    let mut hand = Hand::served_once(10);
    while hand.fetch.now + secs(3) > hand.now {
        while !hand.open.is_empty() {
            hand.answer(0, Fetch::on_busy);
        }
        if hand.fetch.waiting(hand.now).is_some() {
            break;
        }
        hand.wait(ms(100));
    }
    let why = hand.why();
    assert_eq!(shape(&why, PeerWait::Busy).0, Cause::Busy);
    assert!(why.group(PeerWait::Busy).again_in.is_some(), "{why:?}");
    assert_eq!(why.group(PeerWait::Busy).queue, None, "it did not say");
    hand.fetch.on_queue(&peer(0), Some(4));
    hand.fetch.on_queue(&PeerId::random(), Some(1));
    assert_eq!(hand.why().group(PeerWait::Busy).queue, Some(4));
}

#[test]
fn nobody_has_what_is_missing() {
    let mut hand = Hand::of_chunks(in_order(), 3);
    hand.root_provider(0);
    hand.data(0);
    (0..2).for_each(|_| hand.answer(0, Fetch::on_missing));
    hand.wait(secs(2));
    let why = hand.why();
    assert_eq!(shape(&why, PeerWait::Lacking), (Cause::Missing, 1, 2));
    assert!(why.group(PeerWait::Lacking).again_in.is_some(), "{why:?}");
    assert!(why.lookups > 0, "{why:?}");
}

#[test]
fn a_part_of_it_has_nobody() {
    // The first peer has only the first chunk, the second, which does not answer, only the second.
    let mut hand = Hand::of_chunks(in_order(), 40);
    hand.root_provider(0);
    hand.data(0);
    while !hand.asked(0).is_empty() {
        hand.answer(0, Fetch::on_missing);
    }
    hand.with(|fetch, now| fetch.on_provider(chunk(1), peer(1), now));
    hand.with(|fetch, now| fetch.on_connected(peer(1), now));
    hand.wait(secs(2));
    let why = hand.why();
    assert_eq!(shape(&why, PeerWait::Asked), (Cause::Answers, 1, 38));
    assert_eq!((why.group(PeerWait::Lacking).peers, why.missing), (1, 39));
}

#[test]
fn wrong_data_is_named_and_told_apart_from_a_first_strike() {
    let mut hand = Hand::of_chunks(in_order(), 20);
    hand.root_provider(0);
    hand.answer(0, |fetch, id, now| {
        assert!(fetch.on_block(id, MIB, now));
        fetch.on_bad(id, now);
    });
    hand.wait(secs(2));
    let why = hand.why();
    assert_eq!(shape(&why, PeerWait::WrongData), (Cause::WrongData, 1, 20));
    assert_eq!(why.group(PeerWait::WrongData).again_in, None, "for good");

    let mut hand = Hand::served_once(20);
    (0..3).for_each(|_| hand.data(0));
    while !hand.asked(0).is_empty() {
        hand.answer(0, |fetch, id, now| match fetch.wants.stored() {
            4 if fetch.on_block(id, MIB, now) => fetch.on_bad(id, now),
            _ => fetch.on_missing(id, now),
        });
        if hand.state(0) != PeerState::Connected || hand.fetch.peers.iter().any(|(_, p)| p.strikes > 0) {
            break;
        }
    }
    while !hand.asked(0).is_empty() {
        hand.answer(0, Fetch::on_missing);
    }
    hand.wait(secs(2));
    let why = hand.why();
    assert_eq!(why.group(PeerWait::WrongData).peers, 1, "{why:?}");
    assert_eq!(why.group(PeerWait::WrongData).again_in, Some(secs(3)), "after 5 s");
}

#[test]
fn the_own_disk_or_reader_is_what_is_waited_for() {
    for (order, cause) in [(Order::InOrder, Cause::Reader), (Order::Spread, Cause::Disk)] {
        let mut hand = Hand::of_chunks(FetchConfig { order, ..FetchConfig::default() }, 10);
        hand.root_provider(0);
        hand.data(0);
        hand.answer(0, |fetch, id, now| assert!(fetch.on_block(id, MIB, now)));
        hand.wait(ms(1_900));
        assert_eq!(hand.fetch.waiting(hand.now), None);
        hand.wait(ms(200));
        let why = hand.why();
        assert_eq!((why.cause, why.received, why.fails_in), (cause, 1, None));
    }
}

#[test]
fn of_very_many_the_number_is_a_lower_bound_or_exact_where_that_is_easy() {
    let count = 10_000;
    let mut hand = Hand::of_chunks(in_order(), count);
    hand.wait(secs(2));
    let why = hand.fetch.waiting(hand.now).unwrap();
    assert_eq!((why.without_provider, why.at_least), (10_000, false), "nobody is known");
    hand.with(|fetch, now| fetch.on_provider(chunk(1), peer(1), now));
    hand.with(|fetch, now| fetch.on_connected(peer(1), now));
    hand.with(|fetch, now| fetch.on_provider(chunk(2), peer(1), now));
    let why = hand.fetch.why(hand.now);
    assert_eq!((why.without_provider, why.at_least), (4_095, true), "of the first 4,096");
    hand.root_provider(2);
    assert_eq!(hand.fetch.why(hand.now).without_provider, 0);
}

#[test]
fn a_fetch_that_failed_still_says_why() {
    let mut hand = Hand::served_once(10);
    hand.with(|fetch, now| fetch.on_disconnected(peer(0), now));
    for _ in 0..20 {
        hand.wait(secs(2));
        hand.dial_fails(0);
    }
    assert_eq!(hand.log.last(), Some(&Action::Failed(FetchFailure::Incomplete { missing: 9 })));
    assert_eq!(hand.fetch.waiting(hand.now), None);
    assert_eq!(shape(&hand.fetch.why(hand.now), PeerWait::Unreachable), (Cause::Unreachable, 1, 9));
}
