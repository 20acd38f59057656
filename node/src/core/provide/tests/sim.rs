//! Whole nodes for days: what the sweeps cost, whom they reach, and that every key has its turn.

use std::time::Duration;

use rand::RngExt as _;

use super::{super::*, world::World};

const HOUR: Duration = Duration::from_secs(3600);
const INTERVAL: Duration = Duration::from_secs(12 * 3600);

/// Imports `keys`, lets them be announced, and answers the lookups of the two laps that follow.
fn days(peers: u64, keys: usize, lost: u32) -> (World, usize) {
    let mut world = World::new(ProvideConfig::default(), peers, peers + 7);
    world.network.lost = lost;
    world.add(keys, false);
    world.add(5, true);
    world.run(HOUR);
    assert!(world.keys.values().all(|key| !key.times.is_empty()), "all announced within the hour");
    let first = world.network.lookups;
    world.run(INTERVAL * 2);
    let lookups = world.network.lookups - first;
    println!(
        "{peers} peers, {keys} keys, {lost} % of lookups lost: first {first}, then {} lookups a lap; {} of {} closest, \
         fewest {}; {} walks, {} not complete; size {}",
        lookups / 2,
        world.reached.0,
        world.reached.1,
        world.fewest,
        world.sweeps,
        world.incomplete,
        world.planner.stats().size
    );
    (world, lookups / 2)
}

#[test]
fn every_key_is_at_its_closest_peers_for_a_third_of_a_lookup_a_peer() {
    for (peers, keys) in [(100, 2_000), (300, 2_000), (1_000, 2_000)] {
        let (world, lookups) = days(peers, keys, 0);
        assert_eq!((world.fewest, world.incomplete), (20, 0), "{peers} peers");
        assert!(lookups as u64 * 10 <= peers * 3, "{lookups} lookups a lap for {peers} peers");
        let stats = world.planner.stats();
        assert!((peers * 7 / 10..=peers * 13 / 10).contains(&stats.size), "{stats:?}");
        assert_eq!(stats.announced, stats.keys);
    }
}

#[test]
fn lost_lookups_delay_keys_and_lose_none() {
    for peers in [100, 300, 1_000] {
        let (world, lookups) = days(peers, 1_000, 10);
        assert!(world.fewest >= 19, "{peers} peers: {}", world.fewest);
        assert!(lookups as u64 * 10 <= peers * 3, "{lookups} lookups a lap for {peers} peers");
        let (_, longest) = world.gaps(0);
        assert!(longest <= 115, "{longest} % of an interval");
    }
}

#[test]
fn peers_that_a_lookup_misses_are_found_by_the_next() {
    let mut world = World::new(ProvideConfig::default(), 300, 11);
    world.network.unseen = 2;
    world.add(1_000, false);
    world.run(INTERVAL);
    let (reached, of) = world.reached;
    println!("2 % of peers unseen by each lookup: {reached} of {of}, fewest {}", world.fewest);
    assert!(reached * 100 >= of * 97, "{reached} of {of}");
}

#[test]
fn every_key_has_its_turn_once_an_interval() {
    let mut world = World::new(ProvideConfig::default(), 300, 3);
    world.add(1_000, false);
    world.run(INTERVAL * 2);
    let settled = world.elapsed_ms();
    world.run(INTERVAL * 4);
    for key in world.keys.values() {
        let turns = key.times.iter().filter(|at| **at >= settled).count();
        assert_eq!(turns, 4);
    }
    let (shortest, longest) = world.gaps(settled);
    println!("steady: {shortest} to {longest} % of an interval");
    assert!(shortest >= 95 && longest <= 105, "{shortest} to {longest} %");
}

#[test]
fn whenever_the_process_ends_every_key_keeps_its_turn() {
    for seed in 0..4 {
        let mut world = World::new(ProvideConfig::default(), 200, 50 + seed);
        world.page = 16;
        world.add(600, false);
        world.run(INTERVAL * 2);
        let settled = world.elapsed_ms();
        let stop = world.now + INTERVAL * 4;
        while world.step(stop) {
            // Most often in the middle of a sweep.
            let odds = if world.busy() { 8 } else { 400 };
            if world.rng.random_range(0..odds) == 0 {
                let off = Duration::from_secs(world.rng.random_range(0..300));
                world.restart(off);
            }
        }
        let (shortest, longest) = world.gaps(settled);
        println!("{} restarts: {shortest} to {longest} % of an interval", world.restarts);
        assert!(world.restarts > 20);
        assert!(shortest >= 90 && longest <= 110, "{shortest} to {longest} %");
        for key in world.keys.values() {
            let turns = key.times.iter().filter(|at| **at >= settled).count();
            assert!((3..=5).contains(&turns), "{turns} turns in 4 intervals");
        }
    }
}

#[test]
fn fresh_keys_survive_a_process_that_ends_again_and_again() {
    let mut world = World::new(ProvideConfig::default(), 150, 9);
    world.page = 8;
    world.add(400, false);
    world.add(10, true);
    for _ in 0..60 {
        let stop = world.now + HOUR;
        for _ in 0..world.rng.random_range(1..60) {
            world.step(stop);
        }
        world.restart(Duration::from_secs(1));
    }
    world.run(HOUR);
    assert!(world.keys.values().all(|key| key.last > 0), "forgotten");
    // The lap in which they came ends early for most of them.
    let interval_ms = i64::try_from(INTERVAL.as_millis()).unwrap();
    for key in world.keys.values() {
        let gaps: Vec<_> = key.times.windows(2).map(|pair| (pair[1] - pair[0]) * 100 / interval_ms).collect();
        assert!(gaps.iter().all(|gap| (10..=110).contains(gap)), "{gaps:?}");
        assert!(gaps.iter().skip(1).all(|gap| *gap >= 90), "{gaps:?}");
    }
}

#[test]
fn after_a_long_sleep_or_absence_all_is_announced_without_a_burst() {
    for off_line in [false, true] {
        let mut world = World::new(ProvideConfig::default(), 300, 21);
        world.page = 1_000;
        world.page_time = Duration::from_millis(1);
        world.add(12_000, false);
        world.run(INTERVAL);
        if off_line {
            world.restart(HOUR * 60)
        } else {
            world.sleep(HOUR * 60)
        }
        let late = world.planner.stats().late;
        assert!(late <= INTERVAL && late >= INTERVAL * 9 / 10, "{late:?}");
        let began = world.elapsed_ms();
        let mut most = 0;
        let mut took = 0;
        while took < 120 && world.keys.values().any(|key| key.times.last().is_none_or(|at| *at < began)) {
            world.run(Duration::from_secs(60));
            most = most.max(world.announced_in(Duration::from_secs(60)));
            took += 1;
        }
        println!("off line {off_line}: {took} minutes, at most {most} keys in one of them");
        // 100 a second are 6,000 a minute, and a step more at its ends.
        assert!(took <= 5 && most <= 6_000 + 8_192, "{took} minutes, {most} a minute");
        world.run(INTERVAL + HOUR);
        let later = world.elapsed_ms() - i64::try_from(INTERVAL.as_millis()).unwrap();
        assert!(world.gaps(later).1 <= 110);
    }
}
