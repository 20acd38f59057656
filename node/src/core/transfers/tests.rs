#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use dhtfs_store::ManifestCid;
use proptest::prelude::*;

use super::*;

fn cid(n: u8) -> ContentCid {
    ManifestCid::from_digest([n; 32]).into()
}

fn one(detached: bool) -> (Transfers, TransferId, Instant) {
    let mut book = Transfers::default();
    let id = book.begin(cid(1), detached, Will::Run).unwrap();
    (book, id, Instant::now())
}

#[test]
fn a_pause_lasts_until_the_resume_and_an_abort_for_ever() {
    for detached in [false, true] {
        let (mut book, id, now) = one(detached);
        assert_eq!(book.next_step(id, now), Step::Work);
        book.pause(id);
        assert_eq!(book.next_step(id, now), Step::Wait);
        book.on_rested(id);
        book.refresh(id);
        assert_eq!(book.next_step(id, now), Step::Wait, "a refresh is no resume");
        book.resume(id);
        assert_eq!(book.next_step(id, now), Step::Work);
        assert_eq!(book.get(id).unwrap().wish, Wish { will: Will::Run, refreshes: 1 });
        book.abort(id);
        book.pause(id);
        book.resume(id);
        assert_eq!(book.next_step(id, now), Step::End);
        book.end(id);
        assert!(book.is_empty());
        assert_eq!(book.next_step(id, now), Step::End);
    }
}

#[test]
fn what_failed_is_tried_again_when_it_is_time_or_when_the_user_says_so() {
    let (mut book, id, now) = one(true);
    let at = now + Duration::from_secs(30);
    let fail = |book: &mut Transfers, again| {
        assert_eq!(book.next_step(id, now), Step::Work);
        book.on_failed(id, "nobody has it".to_owned(), again);
    };
    fail(&mut book, Some(at));
    assert_eq!(book.next_step(id, now), Step::WaitUntil(at));
    assert_eq!(book.next_step(id, at), Step::Work);
    book.on_failed(id, "nobody has it".to_owned(), Some(at));
    book.refresh(id);
    fail(&mut book, Some(at));
    book.resume(id);
    fail(&mut book, None);
    assert_eq!(book.next_step(id, at), Step::Wait);
    book.refresh(id);
    assert_eq!(book.next_step(id, at), Step::Wait, "looking for providers does not mend it");
    book.resume(id);
    assert_eq!(book.next_step(id, now), Step::Work);
}

#[test]
fn so_many_detached_ones_work_and_the_others_get_their_turn_in_order() {
    let (mut book, now) = (Transfers::default(), Instant::now());
    let ids: Vec<_> = (0..12).map(|n| book.begin(cid(n), true, Will::Run).unwrap()).collect();
    let attached = book.begin(cid(1), false, Will::Run).unwrap();
    // Whoever asks first: the oldest have it.
    let works = |book: &mut Transfers| -> Vec<u64> {
        let asked = ids.iter().rev();
        let mut works: Vec<u64> =
            asked.filter(|id| book.next_step(**id, now) == Step::Work).map(|id| id.0).collect();
        works.sort_unstable();
        book.check_invariants();
        works
    };
    assert_eq!(works(&mut book), (0..8).collect::<Vec<_>>());
    assert_eq!(book.next_step(attached, now), Step::Work, "who waits for one is not made to wait for others");
    book.pause(ids[0]);
    assert_eq!(works(&mut book), (1..8).collect::<Vec<_>>(), "it has not let go yet");
    book.on_rested(ids[0]);
    assert_eq!(works(&mut book), (1..9).collect::<Vec<_>>());
    book.end(ids[3]);
    book.resume(ids[0]);
    assert_eq!(works(&mut book), [0, 1, 2, 4, 5, 6, 7, 8]);
}

#[test]
fn there_is_room_for_so_many_and_no_more() {
    let mut book = Transfers::default();
    for n in 0..MAX_TRANSFERS {
        book.begin(cid(0), n % 2 == 0, Will::Run).unwrap();
    }
    assert_eq!(book.begin(cid(0), false, Will::Run), Err(Full));
    book.end(TransferId(7));
    assert_eq!(book.begin(cid(0), false, Will::Run), Ok(TransferId(MAX_TRANSFERS as u64)));
}

#[derive(Debug, Clone, Copy)]
enum Input {
    Begin(bool),
    Ask(u64),
    Rested(u64),
    Failed(u64, Option<u64>),
    Pause(u64),
    Resume(u64),
    Abort(u64),
    Refresh(u64),
    End(u64),
}

fn input() -> impl Strategy<Value = Input> {
    let id = 0_u64..24;
    prop_oneof![
        any::<bool>().prop_map(Input::Begin),
        id.clone().prop_map(Input::Ask),
        id.clone().prop_map(Input::Rested),
        (id.clone(), proptest::option::of(0_u64..20)).prop_map(|(id, at)| Input::Failed(id, at)),
        id.clone().prop_map(Input::Pause),
        id.clone().prop_map(Input::Resume),
        id.clone().prop_map(Input::Abort),
        id.clone().prop_map(Input::Refresh),
        id.prop_map(Input::End),
    ]
}

proptest! {
    /// Whatever happens: nothing works against the user's will, and what nothing stands against does.
    #[test]
    fn the_books_balance_whatever_happens(inputs in proptest::collection::vec(input(), 0..200)) {
        let (mut book, begin) = (Transfers::default(), Instant::now());
        for (second, input) in (0_u64..).zip(inputs) {
            let now = begin + Duration::from_secs(second);
            match input {
                Input::Begin(detached) => {
                    let _ = book.begin(cid(0), detached, Will::Run);
                }
                Input::Ask(id) => {
                    let step = book.next_step(TransferId(id), now);
                    let will = book.get(TransferId(id)).map(|transfer| transfer.wish.will);
                    match will {
                        None | Some(Will::Abort) => prop_assert_eq!(step, Step::End),
                        Some(Will::Pause) => prop_assert_eq!(step, Step::Wait),
                        Some(Will::Run) => prop_assert!(step != Step::End),
                    }
                }
                Input::Rested(id) => book.on_rested(TransferId(id)),
                Input::Failed(id, at) => {
                    let again = at.map(|secs| now + Duration::from_secs(secs));
                    book.on_failed(TransferId(id), "why".to_owned(), again);
                }
                Input::Pause(id) => book.pause(TransferId(id)),
                Input::Resume(id) => book.resume(TransferId(id)),
                Input::Abort(id) => book.abort(TransferId(id)),
                Input::Refresh(id) => book.refresh(TransferId(id)),
                Input::End(id) => book.end(TransferId(id)),
            }
            book.check_invariants();
        }
        // When all that can ask has asked, whoever has nothing against it works, up to the limit.
        let later = begin + Duration::from_secs(10_000);
        let ids: Vec<_> = book.iter().map(|(id, _)| id).collect();
        let ready = book.iter().filter(|(_, it)| it.step(later) == Step::Work && it.detached).count();
        let stuck = book
            .iter()
            .filter(|(_, it)| it.detached && it.phase == Phase::Working && it.step(later) != Step::Work)
            .count();
        let works = ids.iter().filter(|id| {
            book.next_step(**id, later) == Step::Work && book.get(**id).is_some_and(|it| it.detached)
        });
        prop_assert_eq!(works.count(), ready.min(MAX_WORKING_DETACHED - stuck));
        book.check_invariants();
    }
}
