//! Records of other peers' keys over a restart.

use dhtfs_store::{
    Digest, ForeignOp, ForeignProvider, ForeignRecord, MAX_FOREIGN_ADDR_LEN, MAX_FOREIGN_ADDRS,
    MAX_FOREIGN_PEER_LEN, Store,
};

use crate::common::{Home, assert_sound};

fn provider(number: u32, name: u8) -> ForeignProvider {
    ForeignProvider { number, peer: vec![name; 38], addrs: vec![vec![name; 8], vec![name; 20]] }
}

fn record(provider: u32, digest: u8, expires_unix: u64) -> ForeignRecord {
    ForeignRecord { provider, digest: [digest; 32], expires_unix }
}

fn put(provider: u32, digest: u8, expires_unix: u64) -> ForeignOp {
    ForeignOp::Put(record(provider, digest, expires_unix))
}

/// All records, in pages of `page`.
fn records(store: &Store, page: usize) -> Vec<ForeignRecord> {
    let mut all: Vec<ForeignRecord> = Vec::new();
    loop {
        let after = all.last().map(|last| (last.provider, last.digest));
        let next = store.load_foreign(after, page).unwrap();
        assert!(next.len() <= page);
        if next.is_empty() {
            return all;
        }
        all.extend(next);
    }
}

#[test]
fn what_is_applied_is_loaded_in_pages_of_any_length_also_after_a_restart() {
    let home = Home::new();
    let store = home.open();
    let mut ops: Vec<_> = [0, 7, u32::MAX].map(|number| ForeignOp::PutProvider(provider(number, 1))).into();
    let mut expected = Vec::new();
    for number in [0, 7, u32::MAX] {
        for digest in [0x00, 0x40, 0xff] {
            ops.push(put(number, digest, 100 + u64::from(digest)));
            expected.push(record(number, digest, 100 + u64::from(digest)));
        }
    }
    store.apply_foreign(&ops).unwrap();
    for page in [1, 2, 4, 8, 9, 100] {
        assert_eq!(records(&store, page), expected);
    }
    let providers: Vec<_> = [0, 7, u32::MAX].map(|number| provider(number, 1)).into();
    assert_eq!(store.load_foreign_providers().unwrap(), providers);
    store.apply_foreign(&[put(7, 0x40, 900), ForeignOp::Remove { provider: 7, digest: [0; 32] }]).unwrap();
    store.apply_foreign(&[]).unwrap();
    assert_sound(&store);
    drop(store);
    let store = home.open();
    expected.retain(|record| (record.provider, record.digest[0]) != (7, 0));
    expected[3].expires_unix = 900;
    assert_eq!(records(&store, 5), expected);
    assert_eq!(store.load_foreign_providers().unwrap(), providers);
}

#[test]
fn a_number_that_is_used_again_never_leads_to_the_peer_that_had_it() {
    let home = Home::new();
    let store = home.open();
    let put_provider = |number, name| ForeignOp::PutProvider(provider(number, name));
    store
        .apply_foreign(&[put_provider(1, 1), put_provider(2, 2), put(1, 5, 10), put(1, 6, 10), put(2, 5, 10)])
        .unwrap();
    // Removed and given away in one go.
    store.apply_foreign(&[ForeignOp::RemoveProvider(1), put_provider(1, 3), put(1, 7, 20)]).unwrap();
    assert_eq!(records(&store, 9), [record(1, 7, 20), record(2, 5, 10)]);
    // Given away by a caller whose removal got lost.
    store.apply_foreign(&[put_provider(2, 4)]).unwrap();
    assert_eq!(records(&store, 9), [record(1, 7, 20)]);
    // New addresses of the same peer take nothing away.
    let moved = ForeignProvider { addrs: vec![vec![9; 9]], ..provider(1, 3) };
    store.apply_foreign(&[ForeignOp::PutProvider(moved.clone())]).unwrap();
    assert_eq!(records(&store, 9), [record(1, 7, 20)]);
    assert_eq!(store.load_foreign_providers().unwrap(), [moved, provider(2, 4)]);
    // A record without a provider is of no use.
    store.apply_foreign(&[put(3, 1, 10), ForeignOp::RemoveProvider(2), put(2, 1, 10)]).unwrap();
    assert_eq!(records(&store, 9), [record(1, 7, 20)]);
    assert_sound(&store);
}

#[test]
fn expired_records_go_and_so_do_providers_that_have_none_left() {
    let home = Home::new();
    let store = home.open();
    let ops: Vec<_> = (1..4).map(|number| ForeignOp::PutProvider(provider(number, number as u8))).collect();
    store.apply_foreign(&ops).unwrap();
    store.apply_foreign(&[put(1, 1, 100), put(1, 2, 101), put(2, 1, 99), put(2, 2, 100)]).unwrap();
    assert_eq!(store.drop_expired_foreign(98).unwrap(), 0);
    assert_eq!(store.load_foreign_providers().unwrap().len(), 2);
    assert_eq!(store.drop_expired_foreign(100).unwrap(), 3);
    assert_eq!(records(&store, 9), [record(1, 2, 101)]);
    assert_eq!(store.load_foreign_providers().unwrap(), [provider(1, 1)]);
    assert_eq!(store.drop_expired_foreign(u64::MAX).unwrap(), 1);
    assert!(records(&store, 9).is_empty() && store.load_foreign_providers().unwrap().is_empty());
    assert_sound(&store);
}

#[test]
fn what_is_kept_of_a_provider_is_bounded() {
    let home = Home::new();
    let store = home.open();
    let mut addrs = vec![vec![0; MAX_FOREIGN_ADDR_LEN + 1]];
    addrs.extend((0..20).map(|index| vec![index; MAX_FOREIGN_ADDR_LEN]));
    let long = ForeignProvider { number: 1, peer: vec![1; MAX_FOREIGN_PEER_LEN], addrs };
    let refused = ForeignProvider { number: 2, peer: vec![1; MAX_FOREIGN_PEER_LEN + 1], addrs: Vec::new() };
    let ops = [ForeignOp::PutProvider(long), ForeignOp::PutProvider(refused), put(2, 1, 10)];
    store.apply_foreign(&ops).unwrap();
    let kept = store.load_foreign_providers().unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].addrs.len(), MAX_FOREIGN_ADDRS);
    assert_eq!(kept[0].addrs[7], vec![7; MAX_FOREIGN_ADDR_LEN]);
    assert!(records(&store, 9).is_empty());
}

#[test]
fn digests_sort_within_a_provider() {
    let home = Home::new();
    let store = home.open();
    let digest = |first: u8, last: u8| {
        let mut digest: Digest = [0; 32];
        (digest[0], digest[31]) = (first, last);
        digest
    };
    let digests = [digest(0, 1), digest(0, 2), digest(1, 0), digest(255, 255)];
    let mut ops = vec![ForeignOp::PutProvider(provider(256, 1)), ForeignOp::PutProvider(provider(255, 2))];
    for (index, digest) in (0..).zip(digests.iter().rev()) {
        let provider = 255 + index % 2;
        ops.push(ForeignOp::Put(ForeignRecord { provider, digest: *digest, expires_unix: 1 }));
    }
    store.apply_foreign(&ops).unwrap();
    let order: Vec<_> =
        records(&store, 3).into_iter().map(|record| (record.provider, record.digest)).collect();
    assert_eq!(order, [(255, digests[1]), (255, digests[3]), (256, digests[0]), (256, digests[2])]);
}
