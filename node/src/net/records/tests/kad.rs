//! The store as kad sees it.

use libp2p::kad::store::RecordStore as _;
use libp2p::kad::{ProviderRecord, Record, RecordKey};

use super::{Store, key, local, peer};

#[test]
fn only_sha256_multihashes_are_keys() {
    let mut store = Store::new(|_| {});
    let long = [vec![0x12, 0x20], vec![0; 33]].concat();
    for bytes in [vec![], vec![0x12, 0x20], vec![0x12; 34], [vec![0x12, 0x20], vec![0; 31]].concat(), long] {
        let bad = ProviderRecord::new(RecordKey::from(bytes.clone()), peer(1), Vec::new());
        assert!(store.records.providers(&bad.key).is_empty());
        assert!(store.records.add_provider(bad).is_err(), "{bytes:?}");
    }
    assert_eq!(store.records.foreign_len(), 0);
}

#[test]
fn value_records_are_refused() {
    let mut store = Store::new(|_| {});
    assert!(store.records.put(Record::new(key(1), vec![1])).is_err());
    assert!(store.records.get(&key(1)).is_none());
    assert_eq!(store.records.records().count(), 0);
}

#[test]
fn the_own_record_comes_first_and_is_not_repeated_by_kad() {
    let mut store = Store::new(|_| {});
    let this = peer(u64::MAX);
    store.admit(&local(1), 1);
    store.records.add_provider(ProviderRecord::new(key(1), this, Vec::new())).unwrap();
    let named: Vec<_> = store.records.providers(&key(1)).into_iter().map(|record| record.provider).collect();
    assert_eq!(named, [this, peer(1)]);
    assert_eq!(store.records.provided().count(), 0, "kad has nothing to repeat");
    store.records.remove_provider(&key(1), &this);
    store.records.remove_provider(&key(1), &peer(1));
    assert!(store.records.providers(&key(1)).is_empty());
}

#[test]
fn a_record_in_an_answer_has_its_addresses_and_its_end() {
    let mut store = Store::new(|_| {});
    store.admit(&local(1), 1);
    let record = &store.records.providers(&key(1))[0];
    assert_eq!((&record.key, record.provider), (&key(1), peer(1)));
    assert_eq!(record.addresses, ["/memory/1".parse().unwrap()]);
    assert_eq!(record.expires, Some(store.start + std::time::Duration::from_secs(super::DAY)));
}
