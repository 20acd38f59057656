//! Walks of regions and what the map remembers of them.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::{SeedableRng as _, rngs::StdRng};

use super::{
    super::*,
    network::{Network, addr, found, peer, position_in},
};
use crate::core::keyspace::{Position, Prefix, REPLICATION};

/// Walks to the end; several lookups at a time end in a random order.
pub(super) fn walk(
    network: &mut Network,
    map: &mut NetworkMap,
    config: WalkConfig,
    target: Prefix,
    since: Instant,
    now: Instant,
) -> RegionReport {
    let mut walk = RegionWalk::new(config, target, since);
    let mut open: Vec<(LookupNo, Prefix)> = Vec::new();
    loop {
        while let Some(action) = walk.next_action(map) {
            match action {
                WalkAction::Lookup(lookup, prefix) => open.push((lookup, prefix)),
                WalkAction::Done(report) => {
                    assert_eq!(walk.next_action(map), None);
                    return report;
                }
            }
        }
        walk.check_invariants();
        assert!(!open.is_empty(), "waits for nothing");
        let (lookup, prefix) = open.swap_remove(network.rng.random_range(0..open.len()));
        let place = position_in(&prefix, &mut network.rng);
        match network.lookup(&place) {
            Some(closest) => walk.on_found(lookup, place, closest, map, now),
            None => walk.on_failed(lookup),
        }
        walk.check_invariants();
        map.check_invariants();
    }
}

fn whole(network: &mut Network, map: &mut NetworkMap, now: Instant) -> RegionReport {
    walk(network, map, WalkConfig::default(), Prefix::WHOLE, now, now)
}

/// The peers that a complete report promises.
fn assert_all_known(network: &Network, map: &NetworkMap, report: &RegionReport, since: Instant) {
    let known: Vec<_> = map.peers_in(&report.known, since).map(|(position, _)| *position).collect();
    let true_peers: Vec<_> =
        network.peers.range(report.known.range()).map(|(position, _)| *position).collect();
    assert_eq!(known, true_peers, "{report:?}");
    assert!(report.known.covers(&report.target));
    assert!(report.peers >= REPLICATION || report.known.is_whole(), "{report:?}");
}

#[test]
fn a_walk_of_everything_finds_everybody_with_few_lookups() {
    for size in [1, 5, 19, 20, 21, 40, 100, 300, 600] {
        let mut network = Network::new(size, size);
        let (mut map, now) = (NetworkMap::new(None), Instant::now());
        let report = whole(&mut network, &mut map, now);
        assert!(report.complete, "{size}: {report:?}");
        assert_all_known(&network, &map, &report, now);
        assert_eq!(usize::try_from(report.lookups).unwrap(), network.lookups);
        assert!(u64::from(report.lookups) <= 2 + size / 5, "{size} peers: {} lookups", report.lookups);
    }
}

#[test]
fn an_empty_network_is_not_complete() {
    let mut network = Network::new(0, 1);
    let (mut map, now) = (NetworkMap::new(None), Instant::now());
    let report = whole(&mut network, &mut map, now);
    assert!(!report.complete);
    assert_eq!((report.lookups, report.peers), (2, 0));
}

#[test]
fn a_region_with_few_peers_is_widened_until_it_holds_the_closest() {
    let mut network = Network::new(200, 3);
    let (mut map, now) = (NetworkMap::new(Some(200)), Instant::now());
    let narrow = Prefix::of(Position([0x9b; 32]), 6);
    let report = walk(&mut network, &mut map, WalkConfig::default(), narrow, now, now);
    assert!(report.complete && report.known.bit_len() < 6, "{report:?}");
    assert_all_known(&network, &map, &report, now);
    assert!(report.lookups <= 8, "{report:?}");
}

#[test]
fn two_lookups_in_a_row_that_fail_end_a_walk_and_nothing_is_claimed() {
    let mut network = Network::new(300, 4);
    network.lost = 100;
    let (mut map, now) = (NetworkMap::new(Some(300)), Instant::now());
    let one_by_one = WalkConfig { max_parallel: 1, ..WalkConfig::default() };
    let report = walk(&mut network, &mut map, one_by_one, Prefix::WHOLE, now, now);
    assert_eq!((report.complete, report.lookups, report.failed, report.peers), (false, 2, 2, 0));
    let covered = map.covered(now);
    assert!(!map.knows_closest(&Position([7; 32]), &covered, now));
}

#[test]
fn a_walk_of_too_much_ends_and_says_for_which_keys_it_is_enough() {
    let mut network = Network::new(3_000, 5);
    let (mut map, now) = (NetworkMap::new(None), Instant::now());
    let report = whole(&mut network, &mut map, now);
    assert_eq!((report.complete, report.lookups), (false, 64));
    let covered = map.covered(now);
    let mut rng = StdRng::seed_from_u64(1);
    let mut surely = 0;
    for _ in 0..500 {
        let key = Position(rng.random());
        if map.knows_closest(&key, &covered, now) {
            surely += 1;
            let known = network
                .closest(&key)
                .into_iter()
                .filter(|peer| map.peers_in(&Prefix::WHOLE, now).any(|(position, _)| position == peer));
            assert_eq!(known.count(), REPLICATION);
        }
    }
    assert!((50..400).contains(&surely), "{surely} of 500");
}

#[test]
fn what_was_walked_shortly_before_is_not_walked_again() {
    let mut network = Network::new(300, 6);
    let (mut map, now) = (NetworkMap::new(None), Instant::now());
    whole(&mut network, &mut map, now);
    network.lookups = 0;
    let later = now + MAP_VALIDITY;
    let report =
        walk(&mut network, &mut map, WalkConfig::default(), Prefix::of(Position::LAST, 2), now, later);
    assert_eq!((report.complete, report.lookups, network.lookups), (true, 0, 0));
    let since = now + Duration::from_secs(1);
    let report =
        walk(&mut network, &mut map, WalkConfig::default(), Prefix::of(Position::LAST, 2), since, later);
    assert!(report.complete && report.lookups > 3);
}

#[test]
fn a_short_answer_is_believed_only_if_nothing_speaks_against_it() {
    let now = Instant::now();
    let here = Position([0x33; 32]);
    let few: Vec<_> = (0..7).map(found).collect();
    let mut map = NetworkMap::new(None);
    map.on_lookup(here, few.clone(), &Prefix::WHOLE, now, now);
    assert!(map.covered(now).covers(&Prefix::WHOLE), "a network of seven");
    let mut map = NetworkMap::new(Some(1_000));
    map.on_lookup(here, few.clone(), &Prefix::WHOLE, now, now);
    assert_eq!(map.covered(now).first_gap(&Prefix::WHOLE), Some(Prefix::WHOLE), "it had a thousand");
    let mut map = NetworkMap::new(None);
    map.on_lookup(here, (20..40).map(found).collect(), &Prefix::WHOLE, now, now);
    map.on_lookup(here, few, &Prefix::WHOLE, now, now);
    assert!(!map.covered(now).covers(&Prefix::WHOLE), "there are others");
    assert_eq!(map.len(), 27);
}

#[test]
fn twenty_peers_next_to_a_key_do_not_keep_a_walk_from_ending() {
    let mut network = Network::new(400, 7);
    let victim = Position([0xc4; 32]);
    let crowd = Prefix::of(victim, 12);
    let mut number = 1 << 40;
    while network.peers.range(crowd.range()).count() < 24 {
        number += 1;
        let place = Position::of_peer(&peer(number));
        if crowd.contains(&place) {
            network.peers.insert(place, number);
        }
    }
    let (mut map, now) = (NetworkMap::new(Some(400)), Instant::now());
    let report = walk(&mut network, &mut map, WalkConfig::default(), Prefix::of(victim, 3), now, now);
    assert!(report.complete && report.lookups < 40, "{report:?}");
    assert!(report.peers > 60, "{report:?}");
}

#[test]
fn a_full_map_forgets_the_oldest_peer_and_that_its_surroundings_were_known() {
    let now = Instant::now();
    let mut map = NetworkMap::new(None);
    map.on_lookup(Position([0; 32]), (0..5).map(found).collect(), &Prefix::WHOLE, now, now);
    assert!(map.covered(now).covers(&Prefix::WHOLE));
    for group in 1..=u64::try_from(MAX_MAP_PEERS / REPLICATION).unwrap() + 1 {
        let peers = (group * 20..group * 20 + 20).map(found).collect();
        map.on_lookup(Position([1; 32]), peers, &Prefix::WHOLE, now, now + Duration::from_millis(group));
        map.check_invariants();
    }
    assert_eq!(map.len(), MAX_MAP_PEERS);
    assert!(!map.covered(now).covers(&Prefix::WHOLE));
}

#[test]
fn a_peer_keeps_its_newest_addresses_and_a_dead_one_is_not_counted_on() {
    let now = Instant::now();
    let mut map = NetworkMap::default();
    let mut tell = |from: usize| {
        let addrs = (from..from + 5).map(addr).collect();
        map.on_lookup(Position::LAST, vec![FoundPeer { peer: peer(1), addrs }], &Prefix::WHOLE, now, now)
    };
    assert_eq!((tell(1), tell(4)), (1, 0));
    let known: Vec<_> = map.peers_in(&Prefix::WHOLE, now).map(|(_, peer)| peer.addrs.clone()).collect();
    assert_eq!(known, [(4..9).chain(1..4).map(addr).collect::<Vec<_>>()]);
    map.remove(&peer(1));
    map.remove(&peer(2));
    map.check_invariants();
    assert!(map.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_complete_walk_knows_everybody(
        size in 0_u64..250, seed in 0_u64..1 << 30, bits: [u8; 2], len in 0_u16..8, lost in 0_u32..40,
        parallel in 0_usize..6,
    ) {
        let mut network = Network::new(size, seed);
        network.lost = lost;
        let (mut map, now) = (NetworkMap::new(None), Instant::now());
        let mut place = Position::FIRST;
        place.0[..2].copy_from_slice(&bits);
        let config = WalkConfig { max_parallel: parallel, ..WalkConfig::default() };
        for _ in 0..2 {
            let report = walk(&mut network, &mut map, config, Prefix::of(place, len), now, now);
            if report.complete {
                assert_all_known(&network, &map, &report, now);
            } else {
                prop_assert!(report.failed > 0 || size == 0);
            }
        }
    }
}
