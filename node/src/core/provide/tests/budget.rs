//! Drawn situations of too many keys.

use proptest::prelude::*;

use super::super::{Budget, Standing};

const HOUR: u64 = 3600;
const INTERVAL: u64 = 12 * HOUR;
const TTL: u64 = 24 * HOUR;
const NOW: u64 = 1_700_000_000;

fn chunk(is_due: bool, age: u64, holders: u8) -> Standing {
    Standing { is_chunk: true, is_due, last_unix: NOW - age, holders }
}

fn budget(keys: u64, max: u64) -> Budget {
    Budget { keys, max, ttl_secs: TTL }
}

#[test]
fn within_the_budget_everything_due_has_its_turn() {
    let page = [chunk(true, INTERVAL, 20), chunk(false, HOUR, 20), chunk(true, INTERVAL, 3)];
    assert_eq!(budget(1_000_000, 1_000_000).choose(&page, NOW), [0, 2]);
    assert!(budget(2, 1).choose(&[], NOW).is_empty());
}

#[test]
fn beyond_it_the_chunks_on_the_fewest_nodes_have_theirs() {
    let page = [
        chunk(true, INTERVAL, 20),
        chunk(true, INTERVAL, 3),
        chunk(true, INTERVAL, 9),
        chunk(true, INTERVAL, 15),
    ];
    assert_eq!(budget(2_000_000, 1_000_000).choose(&page, NOW), [1, 2]);
    let run_out = Standing { last_unix: NOW - TTL, ..page[0] };
    let page = [page[1], page[2], page[3], run_out];
    assert_eq!(
        budget(2_000_000, 1_000_000).choose(&page, NOW),
        [0, 3],
        "a record that has run out is on no node"
    );
}

#[test]
fn manifests_always_have_their_turn_and_what_has_its_record_takes_room_first() {
    let manifest = Standing { is_chunk: false, ..chunk(true, INTERVAL, 20) };
    let fresh = Standing { is_due: false, last_unix: 0, ..chunk(false, 0, 0) };
    let page = [manifest, chunk(true, INTERVAL, 1), chunk(false, HOUR, 20), fresh, manifest];
    assert_eq!(budget(2_000_000, 1_000_000).choose(&page, NOW), [0, 4]);
    assert_eq!(budget(1_200_000, 1_000_000).choose(&page, NOW), [0, 1, 4]);
}

#[test]
fn of_twice_as_many_keys_each_keeps_its_record() {
    let mut page: Vec<Standing> = (0..1000).map(|_| chunk(true, INTERVAL, 20)).collect();
    let budget = budget(2_000, 1_000);
    for turn in 1..=20 {
        let now = NOW + turn * INTERVAL;
        for index in budget.choose(&page, now) {
            page[index].last_unix = now;
        }
        if turn > 1 {
            assert!(page.iter().all(|key| key.last_unix + TTL > now), "turn {turn}");
        }
        // The keys that were announced in this turn are due again in the next one.
    }
}

fn standing() -> impl Strategy<Value = Standing> {
    (any::<bool>(), any::<bool>(), 0..2 * TTL, 0_u8..21).prop_map(|(is_chunk, is_due, age, holders)| {
        Standing { is_chunk, is_due, last_unix: NOW - age, holders }
    })
}

proptest! {
    #[test]
    fn whatever_is_there_only_so_many_are_chosen_and_none_is_better_off_than_one_passed_over(
        page in prop::collection::vec(standing(), 0..200),
        keys in 1_u64..5_000_000,
    ) {
        let budget = budget(keys, 1_000_000);
        let chosen = budget.choose(&page, NOW);
        prop_assert!(chosen.is_sorted() && chosen.iter().all(|index| page[*index].is_due));
        let manifests = page.iter().filter(|key| !key.is_chunk && key.is_due).count();
        prop_assert_eq!(chosen.iter().filter(|index| !page[**index].is_chunk).count(), manifests);
        let chunks = page.iter().filter(|key| key.is_chunk).count();
        let settled = page.iter().filter(|key| key.is_chunk && !key.is_due).count();
        let part = (chunks as u128 * 1_000_000).div_ceil(u128::from(keys.max(1_000_000)));
        let expected = usize::try_from(part).unwrap().saturating_sub(settled).min(chunks - settled);
        prop_assert_eq!(chosen.len() - manifests, expected);
        let rank = |key: &Standing| if key.last_unix + TTL <= NOW { 0 } else { key.holders };
        let worst = chosen.iter().map(|index| page[*index]).filter(|key| key.is_chunk).map(|key| rank(&key)).max();
        for (index, key) in page.iter().enumerate() {
            if key.is_chunk && key.is_due && !chosen.contains(&index) {
                prop_assert!(worst.is_none_or(|worst| rank(key) >= worst));
            }
        }
    }
}
