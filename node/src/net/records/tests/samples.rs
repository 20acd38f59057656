//! Which providers answers name, over many answers.

use std::collections::BTreeMap;

use libp2p::PeerId;

use super::{Store, local, peer};

const ANSWERS: usize = 2_000;

fn named(store: &Store) -> BTreeMap<PeerId, usize> {
    let mut named = BTreeMap::new();
    for _ in 0..ANSWERS {
        let answer = store.answer(1);
        assert_eq!(answer.len(), 20);
        for peer in &answer {
            *named.entry(*peer).or_insert(0) += 1;
        }
        let distinct: std::collections::BTreeSet<_> = answer.into_iter().collect();
        assert_eq!(distinct.len(), 20);
    }
    named
}

#[test]
fn up_to_20_providers_are_all_named() {
    let mut store = Store::new(|_| {});
    for n in 0..20 {
        store.at(n).admit(&local(n), 1);
        assert_eq!(store.answer(1).len() as u64, n + 1);
    }
}

#[test]
fn twenty_that_renew_all_the_time_do_not_hide_one_that_does_not() {
    let mut store = Store::new(|_| {});
    store.admit(&local(100), 1);
    for n in 0..20 {
        store.at(1_000 + n).admit(&local(n), 1);
    }
    let named = named(&store);
    // 9 of the 10 older ones are in every answer.
    let live = named[&peer(100)];
    assert!((ANSWERS * 87 / 100..ANSWERS * 93 / 100).contains(&live), "{live}");
    assert_eq!(named.len(), 21);
}

#[test]
fn the_fresh_half_comes_three_times_as_often() {
    let mut store = Store::new(|_| {});
    for n in 0..128 {
        store.at(n).admit(&local(n), 1);
    }
    let named = named(&store);
    for n in 0..128 {
        let times = named[&peer(n)];
        // 5 of 64 and 15 of 64, within five standard deviations.
        let expected = if n < 64 { 96..=216 } else { 374..=564 };
        assert!(expected.contains(&times), "provider {n}: {times}");
    }
}

#[test]
fn who_is_away_takes_no_place_in_an_answer() {
    let mut store = Store::new(|_| {});
    for n in 0..60 {
        store.admit(&local(n), 1);
    }
    for n in 0..40 {
        store.records.away(&peer(n));
    }
    let answer = store.answer(1);
    assert_eq!(answer.len(), 20);
    assert!((40..60).all(|n| answer.contains(&peer(n))));
}

#[test]
fn answers_follow_from_the_seed() {
    let answers = || {
        let mut store = Store::new(|_| {});
        for n in 0..50 {
            store.admit(&local(n), 1);
        }
        (0..5).map(|_| store.answer(1)).collect::<Vec<_>>()
    };
    assert_eq!(answers(), answers());
    assert_ne!(answers()[0], answers()[1]);
}
