//! Whole fetches in the simulated world.

use std::{collections::BTreeSet, ops::Range, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::super::*;
use super::sim::*;

/// An honest provider of everything.
fn full(chunks: usize) -> Host {
    Host::new().holding(0..=chunks)
}

/// Runs a fetch of `chunks` chunks under one root, which must finish.
fn finish(config: FetchConfig, chunks: usize, hosts: Vec<Host>) -> World {
    let mut world = World::new(config, 1, 0, chunks, hosts);
    world.begin(Given::Tree, &BTreeSet::new());
    assert_eq!(world.run(secs(3600)), End::Finished);
    world
}

fn served(world: &World) -> Vec<u64> {
    let progress = world.fetch.progress();
    let host = |n| progress.peers.iter().find(|state| state.peer == peer(n)).map_or(0, |state| state.served);
    (0..world.hosts.len()).map(host).collect()
}

fn spent(world: &World) -> f64 {
    (world.now - world.start).as_secs_f64()
}

#[test]
fn one_healthy_provider_serves_everything_once() {
    let world = finish(FetchConfig::default(), 200, vec![full(200)]);
    assert!(world.requested.iter().all(|count| *count == 1));
    let progress = world.fetch.progress();
    assert_eq!((progress.wasted_len, progress.received_len), (0, world.bytes_sent));
    assert_eq!((progress.wanted, progress.stored, progress.in_flight), (201, 201, 0));
}

#[test]
fn two_equal_providers_share_the_work() {
    for order in [Order::Spread, Order::InOrder] {
        for (rate, latency) in [(500, 1), (50, 10), (5, 100), (1, 40)] {
            let host = Host { rate: rate * MIB, latency: ms(latency), ..full(100) };
            let config = FetchConfig { order, ..FetchConfig::default() };
            let world = finish(config, 100, vec![host.clone(), host]);
            let served = served(&world);
            assert!(served.iter().all(|count| *count >= 30), "{order:?} {rate} {latency}: {served:?}");
        }
    }
}

#[test]
fn a_faster_provider_serves_more_and_both_links_are_used() {
    let slow = Host { rate: 5 * MIB, ..full(400) };
    let fast = Host { rate: 20 * MIB, ..full(400) };
    let world = finish(FetchConfig::default(), 400, vec![slow, fast]);
    let served = served(&world);
    assert!(served[1] > 3 * served[0] && served[0] > 60, "{served:?}");
    assert!(spent(&world) < 400.0 / 25.0 * 1.1, "{}", spent(&world));
}

#[test]
fn one_of_four_providers_that_answers_late_hardly_matters() {
    let mut hosts = vec![full(500); 4];
    let without = spent(&finish(FetchConfig::default(), 500, hosts.clone()));
    hosts[0].latency = secs(3);
    let world = finish(FetchConfig::default(), 500, hosts);
    // Three of four links are left, and the end-game waits for half a second.
    assert!(spent(&world) < without * 4.0 / 3.0 + 0.7, "{} {without}", spent(&world));
    assert!(world.fetch.progress().wasted_len <= 10 << 20);
}

#[test]
fn a_slow_link_carries_every_chunk_once() {
    let host = Host { rate: MIB, latency: ms(40), ..full(60) };
    let world = finish(FetchConfig::default(), 60, vec![host]);
    assert!(world.requested.iter().all(|count| *count == 1));
    assert!(spent(&world) < 60.0 * 1.05, "{}", spent(&world));
}

#[test]
fn a_provider_that_dies_half_way_delays_but_does_not_fail_the_fetch() {
    let dying = Host { dies: Some(ms(800)), ..full(200) };
    let world = finish(FetchConfig::default(), 200, vec![dying, full(200)]);
    assert!(spent(&world) < 4.5, "{}", spent(&world));
    assert!(world.requested.iter().filter(|count| **count > 1).count() <= 8);
}

#[test]
fn a_provider_that_comes_back_is_used_again() {
    let back = Host { dies: Some(ms(500)), returns: Some(ms(2500)), ..full(100) };
    let world = finish(FetchConfig::default(), 100, vec![back]);
    assert!(spent(&world) < 20.0, "{}", spent(&world));
}

#[test]
fn partial_holders_are_combined() {
    let odd = Host::new().holding((0..=300).filter(|position| position % 2 == 1));
    let even = Host::new().holding((0..=300).filter(|position| position % 2 == 0));
    let world = finish(FetchConfig::default(), 300, vec![odd, even]);
    assert_eq!(served(&world), [150, 151]);
    assert_eq!(world.fetch.progress().wasted_len, 0);
    assert!(spent(&world) < 8.0, "{}", spent(&world));
}

#[test]
fn a_holder_that_grows_is_used_for_what_it_got() {
    let slow = Host { rate: MIB / 2, ..full(40) };
    let grower = Host { grows: Some(ms(200)), ..Host::new().holding(0..2) };
    let world = finish(FetchConfig::default(), 40, vec![slow, grower]);
    assert!(served(&world)[1] > 15, "{:?}", served(&world));
}

#[test]
fn a_holder_of_chunks_in_another_file_is_found_by_its_chunk_records() {
    let seeder = Host::new().holding(0..50);
    let mut other = Host::new().holding(50..=100);
    other.announces_root = false;
    let world = finish(FetchConfig::default(), 100, vec![seeder, other]);
    assert_eq!(served(&world), [50, 51]);
    let own: u32 = world.lookups.iter().filter(|(cid, _)| **cid != root()).map(|(_, count)| *count).sum();
    assert!((1..=51).contains(&own), "{own} lookups");
    assert!(spent(&world) < 10.0, "{}", spent(&world));
}

#[test]
fn known_manifests_without_any_root_provider_lead_to_chunk_lookups() {
    let mut other = Host::new().holding(1..=200);
    other.announces_root = false;
    let mut world = World::new(FetchConfig::default(), 1, 0, 200, vec![other]);
    world.begin(Given::Chunks, &BTreeSet::new());
    assert_eq!(world.run(secs(60)), End::Finished);
    // Neighbours of what it served are asked from it without a lookup of their own.
    let own: u32 = world.lookups.iter().filter(|(cid, _)| **cid != root()).map(|(_, count)| *count).sum();
    assert!(own < 100, "{own} lookups");
}

#[test]
fn only_what_is_missing_is_requested_on_resume() {
    let have: BTreeSet<usize> = (1..=100).filter(|position| position % 3 != 0).collect();
    let mut world = World::new(FetchConfig::default(), 1, 0, 100, vec![full(100)]);
    world.begin(Given::Chunks, &have);
    assert_eq!(world.run(secs(60)), End::Finished);
    assert!((1..=100).all(|position| world.requested[position] == u32::from(!have.contains(&position))));
    let missing_len: u64 =
        (1..=100).filter(|position| !have.contains(position)).map(|_| u64::from(MIB)).sum();
    assert_eq!(world.fetch.progress().requested_len, missing_len);
}

#[test]
fn a_peer_that_serves_garbage_costs_one_block() {
    let liar = Host { garbage: 1000, latency: ms(1), ..full(100) };
    let world = finish(FetchConfig::default(), 100, vec![liar, full(100)]);
    let progress = world.fetch.progress();
    assert!(progress.wasted_len <= 1 << 20, "{}", progress.wasted_len);
    assert_eq!(served(&world)[0], 0);
}

#[test]
fn a_healthy_network_with_long_round_trips_sends_next_to_nothing_twice() {
    for seed in seeds(2_000_000, 300) {
        let mut rng = StdRng::seed_from_u64(seed);
        let chunks = [1, 3, 9, 20, 60][rng.random_range(0..5)];
        let latency = rng.random_range(150..1500);
        let rate = MIB * [1, 3, 10, 50][rng.random_range(0..4)];
        let hosts: Vec<Host> = (0..rng.random_range(1..20))
            .map(|_| {
                let jitter = rng.random_range(0..=latency / 4);
                let rate = rate / 4 * rng.random_range(3..=4);
                Host { rate, latency: ms(latency + jitter), dial_time: ms(2 * latency), ..full(chunks) }
            })
            .collect();
        let order = if rng.random_bool(0.3) { Order::InOrder } else { Order::Spread };
        let mut world = World::new(FetchConfig { order, ..FetchConfig::default() }, seed, 0, chunks, hosts);
        world.begin(Given::Tree, &BTreeSet::new());
        assert_eq!(world.run(secs(300)), End::Finished);
        let len: u64 = world.content.iter().map(|want| u64::from(want.len.unwrap_or(1000))).sum();
        let received = world.fetch.progress().received_len;
        assert!(received <= len + len / 20, "seed {seed}: {received} bytes received of {len}");
    }
}

#[test]
fn silent_peers_cost_little_time_beside_honest_ones() {
    let mut total = 0.0;
    for seed in seeds(3_000_000, 40) {
        let chunks = 9;
        let silent = Host { stalls: 1000, ..full(chunks) };
        let mut hosts = vec![silent; 5];
        hosts.extend(vec![full(chunks); 5]);
        let mut world = World::new(FetchConfig::default(), seed, 0, chunks, hosts);
        world.begin(Given::Tree, &BTreeSet::new());
        assert_eq!(world.run(secs(60)), End::Finished);
        assert!(spent(&world) < 10.0, "seed {seed}: {}", spent(&world));
        total += spent(&world) / f64::from(u16::try_from(seeds(3_000_000, 40).count()).unwrap());
    }
    assert!(total < 5.0, "{total} on average");
}

#[test]
fn nineteen_of_twenty_providers_may_be_malicious() {
    for seed in seeds(0, 60) {
        let mut rng = StdRng::seed_from_u64(seed);
        let chunks = [1, 3, 40][rng.random_range(0..3)];
        let mut hosts: Vec<Host> = (0..19)
            .map(|_| match rng.random_range(0..5) {
                0 => Host { garbage: 1000, latency: ms(1), ..full(chunks) },
                1 => Host { stalls: 1000, ..full(chunks) },
                2 => Host { busy: 1000, ..full(chunks) },
                3 => Host { rate: 1000, ..full(chunks) },
                _ => Host::new(),
            })
            .collect();
        hosts.insert(rng.random_range(0..20), full(chunks));
        let mut world = World::new(FetchConfig::default(), seed, 0, chunks, hosts);
        world.begin(Given::Tree, &BTreeSet::new());
        assert_eq!(
            world.run(secs(300)),
            End::Finished,
            "seed {seed}: {chunks} {:#?}",
            world.fetch.progress()
        );
    }
}

#[test]
fn a_slow_store_or_reader_is_no_reason_to_fail() {
    for order in [Order::Spread, Order::InOrder] {
        let config = FetchConfig { order, ..FetchConfig::default() };
        let mut world = World::new(config, 1, 0, 3, vec![full(3)]);
        world.verify_time = secs(100);
        world.begin(Given::Tree, &BTreeSet::new());
        assert_eq!(world.run(secs(1000)), End::Finished);
    }
}

#[test]
fn a_reader_in_order_gets_the_next_chunk_from_a_fast_peer_when_a_slow_one_holds_it() {
    let slow = Host { rate: MIB / 4, ..full(200) };
    let config = FetchConfig { order: Order::InOrder, budget_len: 8 << 20, ..FetchConfig::default() };
    let world = finish(config, 200, vec![slow, full(200), full(200)]);
    assert!(spent(&world) < 8.0, "{}", spent(&world));
}

#[test]
fn many_small_manifests_are_requested_many_at_a_time() {
    let host = Host { latency: ms(50), ..Host::new().holding(0..=2001) };
    let mut world = World::new(FetchConfig::default(), 1, 2000, 1, vec![host]);
    world.check_every = 100;
    world.begin(Given::Tree, &BTreeSet::new());
    assert_eq!(world.run(secs(60)), End::Finished);
    // With eight in flight it would take 25 s.
    assert!(spent(&world) < 9.0, "{}", spent(&world));
}

#[test]
fn a_hundred_thousand_chunks_from_fifty_peers() {
    let chunks = 100_000;
    let mut hosts = vec![Host { rate: 10 * MIB, ..full(chunks) }; 10];
    for n in 0..40 {
        let holds = (0..=chunks).filter(|position| position % 2 == n % 2);
        hosts.push(Host { rate: 10 * MIB, latency: ms(20), ..Host::new().holding(holds) });
    }
    let config = FetchConfig { max_peers: 50, ..FetchConfig::default() };
    let mut world = World::new(config, 1, 0, chunks, hosts);
    world.check_every = usize::MAX;
    world.begin(Given::Tree, &BTreeSet::new());
    assert_eq!(world.run(secs(3600)), End::Finished);
    assert!(world.fetch.progress().wasted_len < 100 << 20);
}

/// Seeds from `first` on: `count`, or as many as the environment variable `DHTFS_TEST_SEEDS` says.
fn seeds(first: u64, count: u64) -> Range<u64> {
    let count = std::env::var("DHTFS_TEST_SEEDS").map_or(count, |text| text.parse().unwrap());
    first..first + count
}

/// Random peers; `safe` says whether one of them or several together are sure to serve everything.
fn random_world(seed: u64, safe: bool) -> (World, Given, BTreeSet<usize>) {
    let mut rng = StdRng::seed_from_u64(seed);
    let manifests = rng.random_range(0..4);
    let chunks = rng.random_range(1..60);
    let all = manifests + chunks + 1;
    let mut hosts = Vec::new();
    for _ in 0..rng.random_range(0..8) {
        let mut host = Host::new();
        host.rate = MIB * [1, 5, 50][rng.random_range(0..3)];
        host.latency = ms([1, 20, 150][rng.random_range(0..3)]);
        host.announces_root = rng.random_bool(0.7);
        host.announces_chunks = rng.random_bool(0.7);
        let share = [0.0, 0.3, 0.9, 1.0][rng.random_range(0..4)];
        host.holds = (0..all).filter(|_| rng.random_bool(share)).collect();
        let mut maybe = |values: [u32; 3]| values[rng.random_range(0..3)];
        host.dial_fails = maybe([0, 300, 1000]);
        host.fails = maybe([0, 0, 200]);
        host.garbage = maybe([0, 0, 500]);
        host.busy = maybe([0, 0, 300]);
        host.stalls = maybe([0, 0, 100]);
        if rng.random_bool(0.3) {
            host.stalls = 1000;
        }
        if rng.random_bool(0.3) {
            host.dies = Some(ms(rng.random_range(0..8000)));
            host.returns = rng.random_bool(0.5).then_some(ms(rng.random_range(8000..15000)));
        }
        if rng.random_bool(0.2) {
            host.grows = Some(ms(rng.random_range(50..1000)));
        }
        hosts.push(host);
    }
    let mut tells = StdRng::seed_from_u64(!seed);
    for host in &mut hosts {
        let of_all = [Tells::Nothing, Tells::Nothing, Tells::Truth, Tells::Truth, Tells::All, Tells::Half];
        host.maps = of_all[tells.random_range(0..of_all.len())];
    }
    if safe {
        let mut safe = safe_hosts(&mut rng, all);
        safe.iter_mut().for_each(|host| host.maps = [Tells::Nothing, Tells::Truth][tells.random_range(0..2)]);
        hosts.extend(safe);
    }
    let order = if rng.random_bool(0.4) { Order::InOrder } else { Order::Spread };
    let budget_len = u64::from(MIB) * rng.random_range(4..41);
    let config = FetchConfig { order, budget_len, ..FetchConfig::default() };
    let given = if rng.random_bool(0.3) { Given::Chunks } else { Given::Tree };
    let have = (0..all).filter(|_| given == Given::Chunks && rng.random_bool(0.3)).collect();
    (World::new(config, seed, manifests, chunks, hosts), given, have)
}

/// Honest peers that stay and hold everything: one full provider, partial providers of the root, or one found by
/// chunk records only besides one that has the manifests.
fn safe_hosts(rng: &mut StdRng, all: usize) -> Vec<Host> {
    match rng.random_range(0..3) {
        0 => vec![Host::new().holding(0..all)],
        1 => {
            let mut halves = [Host::new(), Host::new()];
            for position in 0..all {
                halves[rng.random_range(0..2)].holds.insert(position);
            }
            halves[rng.random_range(0..2)].holds.insert(0);
            halves.to_vec()
        }
        _ => {
            let mut other = Host::new().holding(1..all);
            other.announces_root = false;
            vec![Host::new().holding(0..1), other]
        }
    }
}

#[test]
fn a_fetch_with_a_live_provider_finishes_whatever_the_others_do() {
    for seed in seeds(0, 300) {
        let (mut world, given, have) = random_world(seed, true);
        println!("seed {seed}: {given:?}, {:?}, {} hosts", world.config.order, world.hosts.len());
        world.begin(given, &have);
        let end = world.run(secs(300));
        assert_eq!(end, End::Finished, "seed {seed}: {:#?}", world.fetch.progress());
    }
}

#[test]
fn a_fetch_without_a_sure_provider_ends_and_fails_only_after_the_time_without_progress() {
    let mut failed = 0;
    for seed in seeds(1_000_000, 150) {
        let (mut world, given, have) = random_world(seed, false);
        println!("seed {seed}: {given:?}, {:?}, {} hosts", world.config.order, world.hosts.len());
        world.begin(given, &have);
        if let End::Failed(failure) = world.run(Duration::from_secs(3600)) {
            failed += 1;
            let late = world.now - world.last_progress - world.config.no_progress;
            // Who says that it is busy may be waited for, but not for ever.
            let is_busy = world.hosts.iter().any(|host| host.busy > 0);
            let longer = if is_busy { MAX_MOVED * world.config.no_progress } else { Duration::ZERO };
            assert!(late <= longer + secs(2), "failed {late:?} too late");
            match failure {
                FetchFailure::NotFound => assert_eq!(world.missing(), 1),
                FetchFailure::Incomplete { missing } => assert_eq!(missing, world.missing()),
                FetchFailure::TooLarge => panic!("never that many"),
            }
        }
    }
    assert!(failed > 0, "the worlds are too kind");
}
