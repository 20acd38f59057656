//! Floods: what they cost in memory, and that they do not reach the records of others.

use super::{Admission, DAY, Offer, Store, digest, from, group, local, peer};
use crate::net::limits::{MAX_FOREIGN_RECORDS, MAX_PROVIDER_ADDRS_LEN, MAX_RECORD_PROVIDERS, NetLimits};

const MIB: usize = 1 << 20;

/// Honest peers and the keys each of them announces.
const HONEST: u64 = 50;
const KEYS: u64 = 200;

fn announce(store: &mut Store, offer: impl Fn(u64) -> Offer) {
    for n in 0..HONEST {
        for key in 0..KEYS {
            store.admit(&offer(n), n * KEYS + key);
        }
    }
}

fn honest_left(store: &Store) -> u64 {
    (0..HONEST).map(|n| (0..KEYS).filter(|key| store.holds(n, n * KEYS + key)).count() as u64).sum()
}

/// 100 peers leave a million records of keys that nobody has, after half of the honest ones.
fn flood(store: &mut Store, attacker: impl Fn(u64) -> Offer) {
    let offers: Vec<Offer> = (0..100).map(|n| attacker(1_000 + n)).collect();
    for n in 0..10_000 {
        for (offer, first) in offers.iter().zip((1..).map(|n| n * 1_000_000)) {
            store.admit(offer, first + n);
        }
    }
}

#[test]
fn a_million_records_of_a_hundred_peers_displace_nobody() {
    // A store that is full after a tenth of them.
    let mut store = Store::new(|limits| limits.max_foreign_records = 100_000);
    announce(&mut store, local);
    flood(&mut store, local);
    store.records.check_invariants();
    assert_eq!(store.records.foreign_len(), 100_000);
    assert!(honest_left(&store) * 100 >= HONEST * KEYS * 99, "{}", honest_left(&store));
    // Those that come too late are taken too.
    for key in 0..KEYS {
        assert!(store.admit(&local(900), 500_000 + key).is_held());
    }
    let bound = 100_000 * 64 + 2 * MIB;
    assert!(store.records.foreign_memory() <= bound, "{}", store.records.foreign_memory());
}

#[test]
fn one_group_that_floods_under_many_names_displaces_nobody() {
    let mut store = Store::new(|limits| limits.max_foreign_records = 20_000);
    announce(&mut store, |n| from(n, group(n as u8)));
    // Each name leaves less than an honest peer does.
    for n in 0..2_000 {
        let offer = from(10_000 + n, group(200));
        for key in 0..100 {
            store.admit(&offer, 1_000_000 + n * 100 + key);
        }
    }
    store.records.check_invariants();
    assert_eq!(store.records.foreign_len(), 20_000);
    assert_eq!(honest_left(&store), HONEST * KEYS);
}

#[test]
fn a_peer_that_rotates_its_addresses_changes_nothing_for_others() {
    let mut store = Store::new(|limits| limits.max_foreign_records = 20_000);
    announce(&mut store, local);
    let before = store.records.foreign_memory();
    for round in 0..2_000u64 {
        let addrs: Vec<_> = (0..8).map(|n| format!("/memory/{}", round * 8 + n).parse().unwrap()).collect();
        let offer = Offer::new(peer(1_000), &addrs, group(round as u8));
        assert_eq!(store.at(round).admit(&offer, 7), Admission::Stored);
        let found = store.records.answer(&digest(7), store.now);
        let rotating = found.iter().find(|found| found.peer == peer(1_000)).unwrap();
        assert_eq!(rotating.addrs, addrs, "only the newest are known");
    }
    store.records.check_invariants();
    assert_eq!(honest_left(&store), HONEST * KEYS);
    assert!(store.records.foreign_memory() <= before + MAX_PROVIDER_ADDRS_LEN + 4_096);
}

#[test]
fn the_fullest_store_stays_below_128_mebibytes() {
    let mut store = Store::new(|_| {});
    let long = |n: u64, c: u64| format!("/dns/{n}.{c}.{}/tcp/1", "x".repeat(105)).parse().unwrap();
    let addrs = |n: u64| (0..4).map(|c| long(n, c)).collect::<Vec<_>>();
    let each = (MAX_FOREIGN_RECORDS / MAX_RECORD_PROVIDERS) as u64;
    for n in 0..MAX_RECORD_PROVIDERS as u64 {
        let offer = Offer::new(peer(n), &addrs(n), None);
        for key in 0..each {
            assert_eq!(store.admit(&offer, n * each + key), Admission::Stored);
        }
    }
    assert_eq!(store.records.foreign_len(), MAX_FOREIGN_RECORDS);
    let memory = store.records.foreign_memory();
    assert!(memory <= 128 * MIB, "{memory}");
    // What ends is used again.
    store.at(DAY).sweep();
    assert_eq!(store.records.foreign_len(), 0);
    for n in 0..100_000 {
        store.admit(&local(n % 10), n);
    }
    assert!(store.records.foreign_memory() <= memory);
}

#[test]
fn a_million_records_of_few_providers_take_64_bytes_each() {
    let mut store = Store::new(|_| {});
    for n in 0..1_000_000 {
        assert_eq!(store.admit(&local(n % 10), n), Admission::Stored);
    }
    let memory = store.records.foreign_memory();
    assert!(memory <= 64 * 1_000_000, "{memory}");
}

#[test]
fn no_limit_is_a_number_like_any_other() {
    let mut store = Store::new(|limits| {
        *limits = NetLimits {
            max_foreign_records: usize::MAX,
            max_records_per_provider: usize::MAX,
            max_records_per_group: usize::MAX,
            max_record_providers: usize::MAX,
            max_providers_per_key: usize::MAX,
            ..NetLimits::default()
        };
    });
    for n in 0..300 {
        assert_eq!(store.admit(&from(n, group(1)), 1), Admission::Stored);
    }
    assert_eq!(store.answer(1).len(), 20);
    store.records.check_invariants();
}
