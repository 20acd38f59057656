//! Records that end, providers that leave, records of an earlier run.

use std::time::Duration;

use super::super::expiry::STEP;
use super::super::{Page, StoredProvider, StoredRecord};
use super::{Admission, DAY, Store, digest, from, group, local, peer};

#[test]
fn a_record_lives_a_day_from_its_last_renewal() {
    let mut store = Store::new(|_| {});
    for n in 0..10 {
        store.at(n).admit(&local(1), n);
    }
    assert_eq!(store.at(DAY + 4).sweep(), 5);
    assert_eq!(store.records.foreign_len(), 5);
    assert!(store.answer(4).is_empty());
    assert_eq!(store.answer(5), [peer(1)]);
    store.records.check_invariants();
    store.admit(&local(1), 9);
    assert_eq!(store.at(DAY + 100).sweep(), 4);
    assert_eq!(store.records.foreign_len(), 1);
    store.records.check_invariants();
}

#[test]
fn a_record_that_has_ended_is_not_given_out_before_it_is_swept() {
    let mut store = Store::new(|_| {});
    store.admit(&local(1), 1);
    assert_eq!(store.at(DAY - 1).answer(1), [peer(1)]);
    assert!(store.at(DAY).answer(1).is_empty());
    assert_eq!(store.records.foreign_len(), 1);
    assert_eq!(store.admit(&local(1), 1), Admission::Stored);
    assert_eq!(store.answer(1), [peer(1)]);
}

#[test]
fn the_sweep_goes_in_steps_and_each_place_is_looked_at_in_a_round() {
    let mut store = Store::new(|_| {});
    let total = 3 * u64::from(STEP) + 100;
    for n in 0..total {
        store.admit(&local(n % 7), n);
    }
    store.at(DAY);
    let mut steps = Vec::new();
    loop {
        let swept = store.records.sweep(store.now);
        assert!(swept.expired <= STEP as usize);
        steps.push(swept.expired);
        if swept.is_done {
            break;
        }
    }
    assert_eq!(steps.len(), 4);
    assert_eq!(steps.iter().sum::<usize>() as u64, total);
    store.records.check_invariants();
}

#[test]
fn who_is_away_is_not_named_until_it_is_back() {
    let mut store = Store::new(|_| {});
    store.admit(&local(1), 1);
    store.admit(&local(1), 2);
    store.admit(&local(2), 1);
    assert!(store.records.away(&peer(1)));
    assert!(!store.records.away(&peer(3)), "it has no records");
    assert_eq!(store.answer(1), [peer(2)]);
    assert!(store.answer(2).is_empty());
    assert_eq!(store.records.foreign_len(), 3, "they stay");
    store.records.back(&peer(1));
    assert_eq!(store.answer(2), [peer(1)]);
    store.records.away(&peer(1));
    store.admit(&local(1), 3);
    assert_eq!(store.answer(2), [peer(1)], "a new record brings all back");
}

#[test]
fn who_is_forgotten_is_dropped_in_steps_and_may_come_back() {
    let mut store = Store::new(|_| {});
    let many = u64::from(STEP) + 10;
    for n in 0..many {
        store.admit(&local(1), n);
    }
    store.admit(&local(2), 0);
    store.records.forget(&peer(1));
    store.records.check_invariants();
    assert_eq!(store.answer(0), [peer(2)]);
    assert!(!store.holds(1, 5));
    assert_eq!(store.admit(&local(1), 5), Admission::Stored, "the same peer, as if it were new");
    store.records.check_invariants();
    let first = store.records.sweep(store.now);
    assert_eq!((first.forgotten, first.is_done), (STEP as usize, false));
    store.records.check_invariants();
    store.sweep();
    assert_eq!(store.records.foreign_len(), 2);
    assert_eq!(store.answer(5), [peer(1)]);
    store.records.check_invariants();
}

fn page(lives: &[u64]) -> Page {
    let addrs = vec!["/ip4/8.8.1.1/tcp/1".parse().unwrap()];
    let records =
        (0..).zip(lives).map(|(n, life)| StoredRecord { digest: digest(n), provider: 0, expires_in: *life });
    Page { providers: vec![StoredProvider { peer: peer(1), addrs }], records: records.collect() }
}

#[test]
fn a_restored_record_lives_no_longer_than_a_new_one() {
    let mut store = Store::new(|_| {});
    let restored = store.records.restore(&page(&[0, 1, 500, DAY, u64::MAX]), store.now);
    assert_eq!(restored.held, 4);
    assert_eq!(restored.refused.iter().map(|record| record.digest).collect::<Vec<_>>(), [digest(0)]);
    let lives = (1..5).map(|n| store.records.answer(&digest(n), store.now)[0].expires);
    assert_eq!(lives.collect::<Vec<_>>(), [1, 500, DAY as u32, DAY as u32]);
    store.records.check_invariants();
}

#[test]
fn what_was_announced_since_is_newer_than_the_disk() {
    let mut store = Store::new(|_| {});
    store.at(50).admit(&local(1), 0);
    let restored = store.records.restore(&page(&[7, 7]), store.now);
    assert_eq!((restored.held, restored.refused.len()), (2, 0));
    let found = store.records.answer(&digest(0), store.now);
    assert_eq!(found[0].expires, 50 + DAY as u32);
    assert_eq!(found[0].addrs, ["/memory/1".parse().unwrap()]);
    let restored = store.records.answer(&digest(1), store.now);
    assert_eq!((restored[0].expires, &restored[0].addrs), (57, &found[0].addrs));
    store.records.check_invariants();
}

#[test]
fn restored_records_keep_to_the_budgets() {
    let mut store = Store::new(|limits| limits.max_records_per_group = 3);
    let restored = store.records.restore(&page(&[9; 5]), store.now);
    assert_eq!((restored.held, restored.refused.len()), (3, 2));
    assert_eq!(store.admit(&from(2, group(8)), 9), Admission::Stored);
    let own = Page {
        providers: vec![StoredProvider { peer: peer(u64::MAX), addrs: Vec::new() }],
        records: vec![
            StoredRecord { digest: digest(1), provider: 0, expires_in: 9 },
            StoredRecord { digest: digest(1), provider: 7, expires_in: 9 },
        ],
    };
    assert_eq!(store.records.restore(&own, store.now).refused.len(), 2, "this node itself; nobody");
    store.records.check_invariants();
}

#[test]
fn a_clock_that_stands_still_or_is_behind_changes_nothing() {
    let mut store = Store::new(|_| {});
    store.at(100).admit(&local(1), 1);
    store.now = store.start.checked_sub(Duration::from_secs(1)).unwrap_or(store.start);
    assert_eq!(store.sweep(), 0);
    assert_eq!(store.admit(&local(1), 2), Admission::Stored);
    store.records.check_invariants();
}
