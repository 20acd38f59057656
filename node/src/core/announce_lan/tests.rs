#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);
const LISTENING: Ports = Ports { tcp: Some(4343), quic: None };

fn link(n: u8) -> Link {
    Link { index: n.into(), ip: [10, 0, 0, n].into() }
}

fn announcer(links: &[(u8, Ports)], now: Instant) -> Announcer {
    let mut announcer = Announcer::new(AnnounceConfig::default(), 7, now);
    announcer.on_links(&table(links), now);
    announcer
}

fn table(links: &[(u8, Ports)]) -> BTreeMap<Link, Ports> {
    links.iter().map(|(n, ports)| (link(*n), *ports)).collect()
}

/// What is said until then, and when, in ms after `from`.
fn said(announcer: &mut Announcer, from: Instant, until: Duration) -> Vec<(u128, Say)> {
    let mut said = Vec::new();
    while let Some(at) = announcer.next_deadline().filter(|at| *at <= from + until) {
        announcer.on_timeout(at);
        while let Some(say) = announcer.next_action() {
            said.push(((at - from).as_millis(), say));
        }
    }
    said
}

#[test]
fn a_new_link_is_announced_twice_and_asked_on_three_times() {
    let now = Instant::now();
    let (ask, announce) = (Say::Query(link(1)), Say::Announce(link(1)));
    let mut announcer = announcer(&[(1, LISTENING)], now);
    let all = said(&mut announcer, now, 200 * SEC);
    assert_eq!(all, [(0, announce), (0, ask), (1_000, announce), (1_000, ask), (3_000, ask)]);
    let later = said(&mut announcer, now, 1_500 * SEC);
    assert!((4..=6).contains(&later.len()) && later.iter().all(|(_, say)| *say == ask), "{later:?}");
}

#[test]
fn who_listens_nowhere_asks_and_says_nothing_else() {
    let now = Instant::now();
    let mut announcer = announcer(&[(1, Ports::default())], now);
    announcer.on_query(&link(1), false, now);
    let all = said(&mut announcer, now, 10 * SEC);
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|(_, say)| *say == Say::Query(link(1))));
    announcer.on_end(now + 10 * SEC);
    assert!(announcer.has_ended());
}

#[test]
fn a_question_is_answered_soon_and_many_once_a_second() {
    let now = Instant::now();
    let mut announcer = announcer(&[(1, LISTENING), (2, LISTENING)], now);
    said(&mut announcer, now, 10 * SEC);
    let begun = now + 20 * SEC;
    announcer.on_query(&link(1), true, begun);
    assert_eq!(said(&mut announcer, begun, SEC), [], "it knows this node already");
    for n in 0..3_000 {
        announcer.on_query(&link(1), false, begun + n * MS);
    }
    let answers = said(&mut announcer, begun, 10 * SEC);
    assert!((20..=120).contains(&answers[0].0), "{answers:?}");
    assert!(answers.iter().all(|(_, say)| *say == Say::Announce(link(1))));
    assert!(answers.len() <= 4, "{answers:?}");
}

#[test]
fn a_link_with_other_ports_or_that_is_new_begins_again_and_the_others_go_on() {
    let now = Instant::now();
    let mut announcer = announcer(&[(1, LISTENING), (2, LISTENING)], now);
    said(&mut announcer, now, 10 * SEC);
    let ports = Ports { quic: Some(1), ..LISTENING };
    let begun = now + 11 * SEC;
    announcer.on_links(&table(&[(1, LISTENING), (2, ports), (3, LISTENING)]), begun);
    let all = said(&mut announcer, begun, 10 * SEC);
    for n in [2, 3] {
        let count = |say| all.iter().filter(|(_, other)| *other == say).count();
        assert_eq!((count(Say::Announce(link(n))), count(Say::Query(link(n)))), (2, 3));
    }
    assert_eq!(all.len(), 10);
}

#[test]
fn one_question_serves_all_who_would_ask() {
    let now = Instant::now();
    let mut announcer = announcer(&[(1, LISTENING)], now);
    said(&mut announcer, now, 10 * SEC);
    let mut asked = 0;
    for n in 0..12 {
        let begun = now + 10 * SEC + n * 330 * SEC;
        announcer.on_query(&link(1), true, begun);
        asked += said(&mut announcer, begun, 330 * SEC).len();
    }
    assert!((1..=4).contains(&asked), "now and then it asks all the same: {asked}");
}

#[test]
fn goodbye_is_said_twice_where_it_was_announced_and_nothing_else() {
    let now = Instant::now();
    let mut announcer = announcer(&[(1, LISTENING), (2, Ports::default())], now);
    said(&mut announcer, now, 10 * SEC);
    let end = now + 20 * SEC;
    announcer.on_end(end);
    announcer.on_query(&link(1), false, end);
    assert!(!announcer.has_ended());
    assert_eq!(said(&mut announcer, end, SEC), [(0, Say::Goodbye(link(1))), (100, Say::Goodbye(link(1)))]);
    assert!(announcer.has_ended());
    assert_eq!(announcer.next_deadline(), None);
}

proptest! {
    /// Whatever is asked and however links change: at most one announcement a second on a link, and every question is
    /// answered within 1.12 s while the link stays.
    #[test]
    fn announcements_keep_their_distance(steps in prop::collection::vec((0..4u8, 1..5u8, 0..2_000u32), 1..100)) {
        let mut now = Instant::now();
        let mut announcer = Announcer::new(AnnounceConfig::default(), 7, now);
        let mut links = BTreeMap::new();
        let mut last: BTreeMap<Link, Instant> = BTreeMap::new();
        let mut owed: BTreeMap<Link, Instant> = BTreeMap::new();
        for (what, n, millis) in steps {
            match what {
                0 => {
                    links.insert(link(n), Ports { tcp: Some(u16::from(n) + 1), quic: (millis % 2 == 0).then_some(9) });
                    announcer.on_links(&links, now);
                }
                1 => {
                    links.remove(&link(n));
                    owed.remove(&link(n));
                    last.remove(&link(n));
                    announcer.on_links(&links, now);
                }
                _ => {
                    announcer.on_query(&link(n), false, now);
                    if links.contains_key(&link(n)) {
                        owed.entry(link(n)).or_insert(now + 1_120 * MS);
                    }
                }
            }
            let until = now + MS * millis;
            while let Some(at) = announcer.next_deadline().filter(|at| *at <= until) {
                announcer.on_timeout(at);
                while let Some(say) = announcer.next_action() {
                    if let Say::Announce(link) = say {
                        let before = last.insert(link, at);
                        prop_assert!(before.is_none_or(|before| before + SEC <= at));
                        owed.remove(&link);
                    }
                }
                prop_assert!(owed.values().all(|by| *by >= at));
            }
            now = until;
        }
    }
}
