//! Drawn situations of withdrawing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use dhtfs_store::{ChunkCid, ContentCid, ManifestCid};
use proptest::prelude::*;

use super::super::{WithdrawBatch, WithdrawConfig, WithdrawStats, Withdrawals};
use crate::core::keyspace::Position;

const MINUTE: Duration = Duration::from_secs(60);

fn chunk(n: u64) -> ContentCid {
    ChunkCid::of(&n.to_be_bytes()).into()
}

fn manifest(n: u64) -> ContentCid {
    ManifestCid::of(&n.to_be_bytes()).into()
}

fn machine(config: WithdrawConfig) -> Withdrawals {
    let mut machine = Withdrawals::new(config, 1);
    machine.on_routing(5);
    machine
}

fn batches(machine: &mut Withdrawals, now: Instant) -> Vec<WithdrawBatch> {
    let batches = std::iter::from_fn(|| machine.next_action(now)).collect();
    machine.check_invariants();
    batches
}

#[test]
fn manifests_come_before_chunks_and_keys_in_order_of_their_region() {
    let mut machine = machine(WithdrawConfig::default());
    machine.on_size(Some(160));
    machine.on_withdrawn((0..100).map(chunk).chain([manifest(1)]));
    let now = Instant::now();
    let found = batches(&mut machine, now);
    assert_eq!((found.len(), found[0].keys.as_slice()), (4, &[manifest(1)][..]));
    for batch in &found[1..] {
        assert_eq!(batch.region.bit_len(), 2);
        let positions: Vec<_> = batch.keys.iter().map(|cid| Position::of_digest(cid.digest())).collect();
        assert!(positions.is_sorted() && positions.iter().all(|at| batch.region.contains(at)));
    }
    found.iter().for_each(|batch| machine.on_done(batch, &[], now));
    assert_eq!(batches(&mut machine, now).len(), 1, "the fourth region");
}

#[test]
fn without_peers_it_waits_and_begins_when_there_are_some() {
    let mut machine = Withdrawals::new(WithdrawConfig::default(), 1);
    machine.on_withdrawn([chunk(1)]);
    let now = Instant::now();
    assert!(batches(&mut machine, now).is_empty() && machine.next_deadline().is_none());
    machine.on_routing(1);
    assert_eq!(batches(&mut machine, now).len(), 1);
}

#[test]
fn what_was_kept_from_being_tried_has_all_attempts_before_it() {
    let mut machine = machine(WithdrawConfig::default());
    machine.on_withdrawn([chunk(1), chunk(2)]);
    let mut now = Instant::now();
    for _ in 0..20 {
        let found = batches(&mut machine, now);
        machine.on_put_off(&found[0], now);
        machine.check_invariants();
        assert!(batches(&mut machine, now).is_empty(), "not at once");
        now += MINUTE;
    }
    let found = batches(&mut machine, now);
    machine.on_done(&found[0], &[], now);
    assert_eq!(machine.stats(), WithdrawStats { waiting: 0, done: 2, lost: 0 });
}

#[test]
fn a_key_whose_holders_do_not_hear_is_tried_later_and_at_last_given_up() {
    let mut machine = machine(WithdrawConfig::default());
    machine.on_withdrawn([chunk(1), chunk(2)]);
    let mut now = Instant::now();
    for attempt in 1..=5 {
        let found = batches(&mut machine, now);
        assert_eq!(found.len(), 1, "attempt {attempt}");
        machine.on_done(&found[0], &[chunk(1)], now);
        assert!(batches(&mut machine, now).is_empty(), "not at once");
        now += MINUTE;
    }
    assert!(batches(&mut machine, now).is_empty());
    assert_eq!(machine.stats(), WithdrawStats { waiting: 0, done: 1, lost: 1 });
    // What is removed while another key waits has its turn at once.
    machine.on_withdrawn([chunk(3)]);
    let found = batches(&mut machine, now);
    machine.on_done(&found[0], &[chunk(3)], now);
    machine.on_withdrawn([chunk(4)]);
    assert_eq!(batches(&mut machine, now)[0].keys, [chunk(4)]);
}

#[test]
fn keys_of_a_holder_that_is_silent_do_not_keep_up_the_others() {
    let config = WithdrawConfig { max_batch_keys: 2, max_batches: 1, ..WithdrawConfig::default() };
    let mut machine = machine(config);
    machine.on_withdrawn((0..6).map(chunk));
    let now = Instant::now();
    let mut told = BTreeSet::new();
    let mut failed = Vec::new();
    while let Some(batch) = machine.next_action(now) {
        // One of each two has a silent holder.
        machine.on_done(&batch, &batch.keys[..1], now);
        machine.check_invariants();
        failed.push(batch.keys[0]);
        told.extend(batch.keys[1..].iter().copied());
    }
    assert_eq!((told.len(), failed.len()), (3, 3), "all had their turn at once");
    let at = machine.next_deadline().unwrap();
    assert!(at > now && at <= now + Duration::from_secs(2));
    // Whoever removes one of them once more does not wait.
    machine.on_withdrawn([failed[1]]);
    assert_eq!(batches(&mut machine, now)[0].keys, [failed[1]]);
    assert_eq!(machine.stats(), WithdrawStats { waiting: 3, done: 3, lost: 0 });
}

#[test]
fn more_keys_than_there_is_room_for_are_counted_as_lost() {
    let mut machine = machine(WithdrawConfig { max_keys: 10, ..WithdrawConfig::default() });
    machine.on_withdrawn((0..15).map(chunk));
    machine.on_withdrawn((0..5).map(chunk));
    assert_eq!(machine.stats(), WithdrawStats { waiting: 10, done: 0, lost: 5 });
}

proptest! {
    #[test]
    fn every_key_is_told_or_counted_whatever_happens(
        events in prop::collection::vec((0_u8..8, 0_u64..60, 0_u64..5_000), 1..200),
    ) {
        let config = WithdrawConfig { max_keys: 40, max_batch_keys: 7, max_batches: 2, ..WithdrawConfig::default() };
        let mut machine = machine(config);
        let mut now = Instant::now();
        let mut open: Vec<WithdrawBatch> = Vec::new();
        let mut attempts: BTreeMap<ContentCid, u32> = BTreeMap::new();
        let (mut asked, mut ended) = (0, 0);
        for (event, n, after) in events {
            now += Duration::from_millis(after);
            match event {
                0..=2 => {
                    let before = machine.stats();
                    let key = if n % 5 == 0 { manifest(n) } else { chunk(n) };
                    machine.on_withdrawn([key]);
                    let stats = machine.stats();
                    asked += stats.waiting + stats.lost - before.waiting - before.lost;
                    attempts.insert(key, 0);
                }
                3 => machine.on_routing(usize::try_from(n % 3).unwrap()),
                4 => machine.on_size(Some(n * 100)),
                5 | 6 if !open.is_empty() => {
                    let batch = open.swap_remove(usize::try_from(n).unwrap() % open.len());
                    let failed: Vec<_> = batch.keys.iter().filter(|_| event == 5).copied().collect();
                    machine.on_done(&batch, &failed, now);
                }
                _ => {}
            }
            while let Some(batch) = machine.next_action(now) {
                prop_assert!(!batch.keys.is_empty() && batch.keys.len() <= 7);
                let kinds: BTreeSet<bool> = batch.keys.iter().map(|cid| matches!(cid, ContentCid::Chunk(_))).collect();
                prop_assert_eq!(kinds.len(), 1);
                for cid in &batch.keys {
                    let tried = attempts.get_mut(cid).unwrap();
                    *tried += 1;
                    prop_assert!(*tried <= 2 * u32::from(config.max_attempts), "for ever");
                }
                open.push(batch);
            }
            machine.check_invariants();
            prop_assert!(machine.next_deadline().is_none_or(|at| at > now), "a deadline that never goes away");
            let stats = machine.stats();
            ended = stats.done + stats.lost;
        }
        // A key that is withdrawn anew while it is under way and fails is one key again.
        prop_assert!(ended + machine.stats().waiting <= asked);
    }
}
