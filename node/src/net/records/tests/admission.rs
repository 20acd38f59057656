//! What is taken and what is refused, rule by rule.

use super::{Admission, Store, digest, from, group, local, peer};

#[test]
fn a_provider_renews_its_record_without_using_up_more() {
    let mut store = Store::new(|limits| limits.max_foreign_records = 1);
    assert_eq!(store.admit(&local(1), 1), Admission::Stored);
    assert_eq!(store.at(5).admit(&local(1), 1), Admission::Stored);
    let found = store.records.answer(&digest(1), store.now);
    assert_eq!(found[0].expires, 5 + 24 * 60 * 60);
    assert_eq!(store.records.foreign_len(), 1);
    assert_eq!(store.admit(&local(1), 2), Admission::Full);
    assert_eq!(store.admit(&local(2), 1), Admission::Full);
    store.records.check_invariants();
}

#[test]
fn one_provider_cannot_take_more_than_its_share() {
    let mut store = Store::new(|limits| limits.max_records_per_provider = 2);
    assert_eq!(store.admit(&local(1), 1), Admission::Stored);
    assert_eq!(store.admit(&local(1), 2), Admission::Stored);
    assert_eq!(store.admit(&local(1), 3), Admission::Quota);
    assert_eq!(store.admit(&local(2), 3), Admission::Stored);
    assert!(store.records.withdraw(&peer(1), &digest(1)));
    assert!(!store.records.withdraw(&peer(1), &digest(1)));
    assert_eq!(store.admit(&local(1), 3), Admission::Stored);
    store.records.check_invariants();
}

#[test]
fn one_group_cannot_take_more_than_its_share() {
    let mut store = Store::new(|limits| limits.max_records_per_group = 3);
    for n in 1..=3 {
        assert_eq!(store.admit(&from(n, group(1)), n), Admission::Stored);
    }
    assert_eq!(store.admit(&from(4, group(1)), 4), Admission::GroupQuota);
    assert_eq!(store.admit(&from(1, group(1)), 1), Admission::Stored, "renewing takes no room");
    assert_eq!(store.admit(&from(4, group(2)), 4), Admission::Stored);
    for n in 5..=9 {
        assert_eq!(store.admit(&local(n), n), Admission::Stored, "the local network is no group");
    }
    store.records.check_invariants();
}

#[test]
fn in_a_full_group_its_largest_provider_makes_room_for_one_with_far_fewer() {
    let mut store = Store::new(|limits| limits.max_records_per_group = 10);
    for n in 0..10 {
        assert_eq!(store.admit(&from(1, group(1)), n), Admission::Stored);
    }
    for n in 10..13 {
        assert_eq!(store.admit(&from(2, group(1)), n), Admission::Replaced);
    }
    assert_eq!(store.admit(&from(2, group(1)), 13), Admission::GroupQuota, "7 are not far more than 4");
    assert!((0..3).all(|n| !store.holds(1, n)), "the oldest made room");
    assert_eq!(store.records.foreign_len(), 10);
    store.records.check_invariants();
}

#[test]
fn in_a_full_store_whoever_holds_the_most_makes_room_for_who_holds_far_fewer() {
    let mut store = Store::new(|limits| {
        limits.max_foreign_records = 20;
        limits.max_records_per_provider = 10;
    });
    for n in 0..10 {
        assert_eq!(store.admit(&local(1), n), Admission::Stored);
        assert_eq!(store.admit(&local(2), 100 + n), Admission::Stored);
    }
    for n in 0..4 {
        assert_eq!(store.admit(&local(3), 200 + n), Admission::Replaced);
        store.records.check_invariants();
    }
    for n in 10..200 {
        store.admit(&local(1), n);
        store.admit(&local(2), n);
        store.records.check_invariants();
    }
    assert_eq!(store.records.foreign_len(), 20);
    assert!((200..204).all(|n| store.holds(3, n)));
    assert!(!store.holds(1, 0) && !store.holds(2, 100), "the oldest made room");
}

#[test]
fn many_names_in_one_group_count_as_one() {
    let mut store = Store::new(|limits| limits.max_foreign_records = 60);
    for n in 0..60 {
        assert_eq!(store.admit(&from(n, group(1)), n), Admission::Stored);
    }
    // None of them has more than one record; together they have far more than the others.
    for n in 100..110 {
        assert_eq!(store.admit(&from(n, group(2)), n), Admission::Replaced);
        store.records.check_invariants();
    }
    for n in 200..300 {
        assert_eq!(store.admit(&from(n, group(1)), n), Admission::Full);
    }
    assert!((100..110).all(|n| store.holds(n, n)));
    store.records.check_invariants();
}

#[test]
fn a_full_key_loses_the_oldest_record() {
    let mut store = Store::new(|limits| {
        limits.max_providers_per_key = 2;
        limits.max_foreign_records = 2;
    });
    assert_eq!(store.at(2).admit(&local(0), 1), Admission::Stored);
    assert_eq!(store.at(1).admit(&local(1), 1), Admission::Stored);
    assert_eq!(store.at(3).admit(&local(2), 1), Admission::Replaced);
    assert!(store.holds(0, 1) && !store.holds(1, 1) && store.holds(2, 1));
    store.records.check_invariants();
}

#[test]
fn a_crowd_from_one_group_cannot_take_over_a_key() {
    let mut store = Store::new(|limits| limits.max_providers_per_key = 10);
    for n in 0..3 {
        assert_eq!(store.at(n).admit(&from(n, group(10 + n as u8)), 1), Admission::Stored);
    }
    for n in 100..300 {
        assert!(store.at(n).admit(&from(n, group(1)), 1).is_held());
        store.records.check_invariants();
    }
    assert!((0..3).all(|n| store.holds(n, 1)), "whose records are older by far");
    assert_eq!((100..300).filter(|n| store.holds(*n, 1)).count(), 7);
    assert_eq!(store.at(400).admit(&from(400, group(9)), 1), Admission::Replaced);
    assert_eq!((100..300).filter(|n| store.holds(*n, 1)).count(), 6);
}

#[test]
fn there_are_only_so_many_providers() {
    let mut store = Store::new(|limits| limits.max_record_providers = 5);
    for n in 0..5 {
        assert_eq!(store.admit(&local(n), n), Admission::Stored);
    }
    assert_eq!(store.admit(&local(5), 5), Admission::Providers);
    assert_eq!(store.admit(&local(4), 5), Admission::Stored);
    store.records.withdraw(&peer(0), &digest(0));
    assert_eq!(store.admit(&local(5), 5), Admission::Stored);
    store.records.check_invariants();
}

#[test]
fn among_too_many_providers_a_crowd_from_one_group_loses_the_least() {
    let mut store = Store::new(|limits| limits.max_record_providers = 6);
    for n in 0..6u64 {
        for key in 0..=n {
            assert_eq!(store.admit(&from(n, group(1)), key), Admission::Stored);
        }
    }
    assert_eq!(store.admit(&from(9, group(1)), 9), Admission::Providers);
    assert_eq!(store.admit(&from(9, group(2)), 9), Admission::Replaced);
    assert!(!store.holds(0, 0) && store.holds(1, 1) && store.holds(9, 9));
    assert_eq!(store.admit(&local(10), 9), Admission::Replaced);
    assert!(!store.holds(1, 1));
    store.records.check_invariants();
}

#[test]
fn a_provider_that_moves_takes_its_records_along() {
    let mut store = Store::new(|limits| limits.max_records_per_group = 2);
    for n in 0..2 {
        store.admit(&from(1, group(1)), n);
    }
    assert_eq!(store.admit(&from(2, group(1)), 10), Admission::GroupQuota);
    assert_eq!(store.admit(&from(1, group(2)), 0), Admission::Stored);
    store.records.check_invariants();
    assert_eq!(store.admit(&from(2, group(1)), 10), Admission::Stored);
    assert_eq!(store.admit(&from(2, group(2)), 10), Admission::Stored, "it has no room there and stays");
    assert_eq!(store.admit(&from(2, group(2)), 11), Admission::Stored, "and counts where it was");
    assert_eq!(store.admit(&from(1, None), 11), Admission::Stored);
    store.records.check_invariants();
}

#[test]
fn own_and_foreign_records_do_not_share_their_room() {
    let mut store = Store::new(|limits| {
        limits.max_foreign_records = 1;
        limits.max_own_records = 2;
    });
    assert_eq!(store.admit(&local(9), 9), Admission::Stored);
    assert!(store.records.hold(&digest(1)) && store.records.hold(&digest(2)));
    assert!(!store.records.hold(&digest(3)));
    assert_eq!((store.records.own_len(), store.records.foreign_len()), (2, 1));
    store.records.release(&digest(1));
    assert!(store.records.hold(&digest(3)));
    assert!(store.records.is_own(&digest(3)) && !store.records.is_own(&digest(1)));
}
