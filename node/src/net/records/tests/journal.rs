//! What the disk is told.

use std::collections::{BTreeMap, BTreeSet};

use futures::FutureExt as _;
use libp2p::PeerId;

use super::{DAY, Digest, Store, digest, from, group, local, peer};
use crate::net::limits::MAX_RECORD_CHANGES;
use crate::net::records::Changes;

/// Applies changes in order, as the disk does.
fn apply(disk: &mut BTreeMap<(Digest, PeerId), u32>, changes: &Changes) {
    for change in changes.iter() {
        let at = (change.digest, changes.holders()[change.holder].peer);
        match change.expires_in {
            Some(life) => disk.insert(at, life),
            None => disk.remove(&at),
        };
    }
}

#[test]
fn nothing_is_noted_before_somebody_asks() {
    let mut store = Store::new(|_| {});
    store.admit(&local(1), 1);
    assert!(store.records.take_changes(store.now).is_empty());
    store.admit(&local(1), 2);
    assert_eq!(store.records.take_changes(store.now).len(), 1);
    assert!(store.records.take_changes(store.now).is_empty());
}

#[test]
fn the_disk_can_follow_all_that_happens() {
    let mut store = Store::new(|limits| limits.max_foreign_records = 100);
    let mut disk = BTreeMap::new();
    store.records.take_changes(store.now);
    for round in 0..40 {
        store.at(round * DAY / 20);
        for n in 0..30 {
            store.admit(&from(n % 5, group(n as u8 % 3)), n * round % 97);
            store.admit(&local(10), n);
        }
        store.records.withdraw(&peer(round % 5), &digest(3));
        store.sweep();
        let changes = store.records.take_changes(store.now);
        let holders: BTreeSet<PeerId> = changes.holders().iter().map(|holder| holder.peer).collect();
        assert_eq!(holders.len(), changes.holders().len(), "each provider once");
        apply(&mut disk, &changes);
        assert_eq!(disk.len(), store.records.foreign_len());
        assert!(disk.keys().all(|(digest, peer)| store.records.holds(peer, digest)));
    }
}

#[test]
fn a_change_tells_the_life_that_is_left_and_the_newest_addresses() {
    let mut store = Store::new(|_| {});
    store.records.take_changes(store.now);
    store.at(10).admit(&local(1), 1);
    store.at(20).admit(&from(1, None), 2);
    store.at(30);
    let changes = store.records.take_changes(store.now);
    let lives: Vec<_> = changes.iter().map(|change| change.expires_in.unwrap()).collect();
    assert_eq!(lives, [DAY as u32 - 20, DAY as u32 - 10]);
    assert_eq!(changes.holders()[0].addrs(), ["/ip4/8.8.8.8/tcp/1".parse().unwrap()]);
}

#[test]
fn a_full_list_drops_new_records_first_and_removals_last() {
    let mut store = Store::new(|_| {});
    store.records.take_changes(store.now);
    let (max, crowded) = (MAX_RECORD_CHANGES as u64, MAX_RECORD_CHANGES as u64 * 3 / 4);
    let waiting = store.records.changes_waiting();
    for n in 0..max + 5 {
        assert_eq!(waiting.notified().now_or_never().is_some(), n == max / 2, "{n}");
        store.admit(&local(1), n);
    }
    assert_eq!(store.records.take_dropped_changes() as u64, max + 5 - crowded);
    for n in 0..max - crowded + 3 {
        store.records.withdraw(&peer(1), &digest(n));
    }
    assert_eq!(store.records.take_dropped_changes(), 3);
    store.records.check_invariants();
    store.at(2 * DAY);
    let swept = store.records.sweep(store.now);
    assert_eq!((swept.expired, swept.is_done), (0, false), "the sweep waits for the disk");
    assert_eq!(store.records.take_changes(store.now).len(), MAX_RECORD_CHANGES);
    assert!(store.sweep() > 0);
    assert_eq!(store.records.take_dropped_changes(), 0);
}
