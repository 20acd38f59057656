//! Drawn situations of the planner.

use std::time::Duration;

use proptest::prelude::*;
use rand::{SeedableRng as _, rngs::StdRng};

use super::{super::*, network::position_in, world::World};
use crate::core::keyspace::{Position, Prefix};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const INTERVAL: Duration = Duration::from_secs(12 * 3600);

fn world(peers: u64) -> World {
    World::new(ProvideConfig::default(), peers, 1)
}

fn announced(world: &World) -> usize {
    world.keys.values().map(|key| key.times.len()).sum()
}

#[test]
fn nothing_is_announced_before_there_is_a_peer_and_everything_at_once_after() {
    let mut world = world(50);
    world.join(0);
    world.add(100, false);
    world.add(10, true);
    world.run(HOUR);
    assert_eq!((announced(&world), world.network.lookups), (0, 0));
    let stats = world.planner.stats();
    assert_eq!((stats.keys, stats.pending, stats.announced), (110, 110, 0));
    world.join(50);
    world.run(SECOND * 8);
    assert_eq!(announced(&world), 110);
    let stats = world.planner.stats();
    assert_eq!((stats.keys, stats.announced, stats.pending, stats.roots_in_flight), (110, 110, 0, 0));
}

#[test]
fn fresh_roots_wait_neither_for_the_size_of_the_network_nor_for_a_sweep() {
    let mut world = world(50);
    world.page_time = SECOND * 60;
    world.add(5_000, false);
    world.run(SECOND * 30);
    world.add(3, true);
    world.run(SECOND * 4);
    assert!(world.keys.values().filter(|key| key.root).all(|key| key.last > 0));
    assert!(world.keys.values().any(|key| key.last == 0));
}

#[test]
fn so_many_roots_at_a_time_and_all_of_them_in_the_end() {
    let mut world = world(50);
    world.add(500, true);
    world.run(SECOND * 3);
    // The world itself checks that there are never more than 64.
    assert_eq!(announced(&world), 64);
    world.run(SECOND * 30);
    assert_eq!(announced(&world), 500);
}

#[test]
fn a_root_that_fails_is_tried_later_and_later_and_holds_nobody_up() {
    let mut world = world(50);
    world.add(1, true);
    let bad = *world.keys.keys().next().unwrap();
    world.refuses = Box::new(move |key| *key == bad);
    world.add(100, true);
    world.run(HOUR);
    assert_eq!(announced(&world), 100);
    let stats = world.planner.stats();
    assert!((8..25).contains(&stats.failed), "{stats:?}");
    assert_eq!((stats.announced, stats.pending), (100, 1));
    world.refuses = Box::new(|_| false);
    world.run(HOUR);
    assert_eq!(announced(&world), 101);
}

#[test]
fn a_large_import_does_not_keep_turns_waiting() {
    let mut world = world(300);
    world.add(200, false);
    world.run(INTERVAL * 2);
    // One key in three seconds: the import takes more than two intervals.
    world.page = 1;
    world.page_time = SECOND * 3;
    world.add(30_000, false);
    let began = world.elapsed_ms();
    world.run(INTERVAL + HOUR);
    assert!(world.keys.values().any(|key| key.last == 0), "the import is still under way");
    let old = world.keys.values().filter(|key| key.times.first().is_some_and(|at| *at < began));
    for key in old {
        assert!(key.times.last().is_some_and(|at| *at >= began), "no turn for {:?}", key.times);
    }
}

#[test]
fn a_region_that_fails_is_tried_again_and_the_cursor_goes_on() {
    let mut world = world(1_000);
    world.add(1_000, false);
    world.run(INTERVAL);
    let bad = Prefix::of(Position([0x77; 32]), 3);
    world.refuses = Box::new(move |key| bad.contains(key));
    let began = world.elapsed_ms();
    world.run(INTERVAL + HOUR);
    for (position, key) in &world.keys {
        let turn = key.times.iter().any(|at| *at >= began);
        assert_eq!(turn, !bad.contains(position), "{:?}", key.times);
    }
    let stats = world.planner.stats();
    assert!(stats.failing > 60 && stats.pending >= stats.failing, "{stats:?}");
    // The failed regions are remembered over a restart.
    world.restart(SECOND);
    world.refuses = Box::new(|_| false);
    world.run(HOUR);
    assert!(world.keys.values().all(|key| key.times.iter().any(|at| *at >= began)));
    assert_eq!(world.planner.stats().failing, 0);
}

#[test]
fn a_network_that_takes_nothing_is_left_alone() {
    let mut world = world(1_000);
    world.refuses = Box::new(|_| true);
    world.add(2_000, false);
    world.add(50, true);
    world.run(HOUR);
    let (attempts, failed) = (world.attempts, world.planner.stats().failed);
    assert!(attempts < 400, "{attempts} sweeps in an hour");
    assert!(failed < 60_000, "{failed} keys tried in an hour");
    world.refuses = Box::new(|_| false);
    world.run(HOUR);
    assert!(world.keys.values().all(|key| key.last > 0));
}

#[test]
fn an_empty_table_stops_everything_and_the_first_peer_starts_it_again() {
    let mut world = world(50);
    world.add(100, false);
    world.run(SECOND * 30);
    assert_eq!(announced(&world), 100);
    world.join(0);
    world.run(HOUR);
    assert_eq!((announced(&world), world.planner.next_deadline()), (100, None));
    world.join(1);
    world.run(SECOND * 30);
    assert_eq!(announced(&world), 200, "all are announced to the new network");
}

#[test]
fn a_small_table_that_doubles_gets_all_keys_again() {
    let mut world = world(40);
    world.join(0);
    world.add(50, false);
    let mut tables = Vec::new();
    world.restart(SECOND);
    for peers in [1, 2, 3, 4, 5, 9, 16, 19, 25, 60] {
        world.join(peers);
        let before = announced(&world);
        world.run(SECOND * 30);
        if announced(&world) - before >= 50 {
            tables.push(peers);
        }
    }
    assert_eq!(tables, [1, 2, 4, 9, 19, 60]);
}

#[test]
fn peers_that_join_together_count_once() {
    let mut world = world(1);
    world.add(50, false);
    world.run(SECOND * 30);
    let before = announced(&world);
    for peers in 2..=16 {
        world.join(peers);
        world.run(Duration::from_millis(100));
    }
    world.run(SECOND * 30);
    assert_eq!(announced(&world) - before, 50);
}

#[test]
fn a_settled_node_that_starts_again_announces_nothing_anew() {
    let mut world = world(100);
    world.add(200, false);
    world.run(INTERVAL * 2 + HOUR);
    let before = announced(&world);
    world.join(0);
    world.restart(SECOND * 20);
    for peers in [1, 3, 10, 30, 60, 100] {
        world.join(peers);
        world.run(SECOND);
    }
    world.run(SECOND * 60);
    assert!(announced(&world) - before < 20, "{}", announced(&world) - before);
}

#[test]
fn all_keys_anew_goes_on_after_a_restart() {
    let mut world = world(300);
    world.page = 10;
    world.add(1_000, false);
    world.run(INTERVAL);
    world.join(0);
    world.run(SECOND);
    let began = world.elapsed_ms();
    world.join(300);
    world.run(SECOND * 12);
    let renewed = |world: &World| {
        world.keys.values().filter(|key| key.times.last().is_some_and(|at| *at >= began)).count()
    };
    assert!((50..900).contains(&renewed(&world)), "{}", renewed(&world));
    world.restart(SECOND);
    world.run(HOUR);
    assert_eq!(renewed(&world), 1_000);
}

#[test]
fn clocks_that_jump_make_nobody_wait_and_cause_no_burst() {
    for jump_hours in [-24 * 365, -30, -2, 2, 30, 24 * 365] {
        let mut world = world(100);
        world.add(1_000, false);
        world.run(INTERVAL * 2);
        world.skew_ms = jump_hours * 3_600_000;
        let before = announced(&world);
        world.run(SECOND * 120);
        let burst = announced(&world) - before;
        assert!(burst <= 1_000, "{burst}");
        let settled = world.elapsed_ms();
        world.run(INTERVAL * 3);
        let (_, longest) = world.gaps(settled);
        assert!(longest <= 111, "{jump_hours} h: {longest} %");
        // And back again, over a restart.
        world.skew_ms = 0;
        world.restart(SECOND);
        let settled = world.elapsed_ms();
        world.run(INTERVAL * 3);
        let (_, longest) = world.gaps(settled);
        assert!(longest <= 111, "{jump_hours} h and back: {longest} %");
    }
}

#[test]
fn a_schedule_that_is_lost_or_of_another_interval_forgets_nobody() {
    let mut world = world(300);
    world.add(1_000, false);
    world.run(INTERVAL * 2);
    for (saved, interval) in
        [(Some(vec![9, 9]), INTERVAL), (None, INTERVAL), (None, INTERVAL / 3), (None, INTERVAL * 2)]
    {
        if saved.is_some() {
            world.saved = saved;
        }
        world.config.interval = interval;
        let settled = world.elapsed_ms();
        world.restart(SECOND);
        world.run(interval * 2);
        let (_, longest) = world.gaps(settled);
        assert!(longest <= 111, "{longest} % of {interval:?}");
    }
}

#[test]
fn a_root_that_is_taken_does_not_end_the_pause_of_one_that_is_not() {
    let mut now = std::time::Instant::now();
    let mut planner = Planner::new(ProvideConfig::default(), 1, None, 1_700_000_000, now);
    let search = |planner: &mut Planner| {
        let actions = std::iter::from_fn(|| planner.next_action());
        actions.filter(|action| matches!(action, ProvideAction::ProvideRoots { .. })).count()
    };
    let roots = |fresh_roots| Counts { keys: 2, fresh_roots, ..Counts::default() };
    planner.on_routing(30, now);
    planner.on_counts(roots(2), now);
    assert_eq!(search(&mut planner), 1);
    planner.on_roots_started(2, None, now);
    now += Duration::from_millis(100);
    planner.on_counts(roots(2), now);
    planner.on_root_done(false, now);
    // The mark is in the store before anybody is told of it.
    planner.on_counts(roots(1), now);
    planner.on_root_done(true, now);
    planner.on_counts(roots(1), now);
    assert_eq!(search(&mut planner), 0, "the pause has just begun");
    // One was announced and another one added before anybody counts: as many as before.
    planner.on_new_roots();
    planner.on_counts(roots(1), now);
    assert_eq!(search(&mut planner), 1, "the new one waits for nothing");
    planner.on_roots_started(1, None, now);
    planner.on_root_done(false, now);
    assert_eq!(search(&mut planner), 0);
    while search(&mut planner) == 0 {
        now = planner.next_deadline().unwrap();
        planner.on_timeout(now);
    }
}

#[test]
fn a_million_keys_in_a_small_network_are_spread_over_the_interval() {
    let now = std::time::Instant::now();
    let mut planner = Planner::new(ProvideConfig::default(), 1, None, 1_700_000_000, now);
    planner.on_routing(30, now);
    planner.on_size(Some(30), now);
    planner.on_counts(Counts { keys: 1_000_000, ..Counts::default() }, now);
    let regions: Vec<_> = std::iter::from_fn(|| planner.next_action())
        .filter_map(
            |action| if let ProvideAction::SweepDue { region, .. } = action { Some(region) } else { None },
        )
        .collect();
    assert_eq!(regions.len(), 1);
    assert_eq!(1_000_000 >> regions[0].bit_len(), 7_812, "keys in one step");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_books_balance_whatever_is_reported(
        events in prop::collection::vec((0_u8..14, 0_u64..2_000, 0_u64..200_000), 1..250),
        seed: u64,
        saved in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut now = std::time::Instant::now();
        let config = ProvideConfig {
            max_roots_in_flight: 4, max_retries: 5, max_failures: 3, ..ProvideConfig::default()
        };
        let mut unix = 1_700_000_000;
        let mut planner = Planner::new(config, seed, Some(&saved), unix, now);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut kept = None;
        let mut open = Vec::new();
        for (event, n, after) in events {
            now += Duration::from_millis(after);
            unix += after / 1000;
            let place = position_in(&Prefix::WHOLE, &mut rng);
            match event {
                0 => planner.on_counts(
                    Counts { keys: n * 3, fresh_roots: n % 9, fresh_others: n % 700, refused: 0 }, now,
                ),
                1 => planner.on_routing(usize::try_from(n % 60).unwrap(), now),
                2 => planner.on_size(Some(n), now),
                3 => planner.on_size(None, now),
                4 => planner.on_clock(unix.saturating_sub(n * n), now),
                5 => planner.on_clock(unix + n * n, now),
                6 => planner.on_fresh_found(Some(place), now),
                7 => planner.on_fresh_found(None, now),
                8 => planner.on_roots_started(usize::try_from(n % 3).unwrap(), Some(place), now),
                9 => planner.on_roots_started(1, None, now),
                10 => planner.on_root_done(n % 2 == 0, now),
                11 if n % 10 == 0 => planner = Planner::new(config, n, kept.as_deref(), unix, now),
                _ if open.is_empty() => planner.on_timeout(now),
                _ => {
                    let id = open.swap_remove(usize::try_from(n).unwrap() % open.len());
                    let failed = if event == 12 { n % 5 } else { 0 };
                    planner.on_swept(id, SweepOutcome { keys: n, sent: n - failed.min(n), failed }, now);
                }
            }
            let mut timeouts = 0;
            loop {
                while let Some(action) = planner.next_action() {
                    match action {
                        ProvideAction::SweepDue { id, .. } | ProvideAction::SweepFresh { id, .. } => open.push(id),
                        ProvideAction::Save(bytes) => kept = Some(bytes),
                        _ => {}
                    }
                }
                planner.check_invariants();
                if planner.next_deadline().is_none_or(|at| at > now) {
                    break;
                }
                timeouts += 1;
                prop_assert!(timeouts < 10, "a deadline that never goes away");
                planner.on_timeout(now);
            }
            let stats = planner.stats();
            prop_assert_eq!(stats.announced + stats.pending, stats.keys);
        }
    }
}
