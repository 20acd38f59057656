use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use super::{Ask, MAX_NAMED, Walk, WalkConfig};
use crate::core::keyspace::{Position, REPLICATION};

fn peer(rng: &mut StdRng) -> PeerId {
    let mut bytes = [0; 34];
    rng.fill_bytes(&mut bytes);
    bytes[..2].copy_from_slice(&[0x12, 0x20]);
    PeerId::from_bytes(&bytes).unwrap_or_else(|_| PeerId::random())
}

/// A peer that shares `bits` leading bits with `target`.
fn peer_near(target: &Position, bits: u16, rng: &mut StdRng) -> PeerId {
    loop {
        let peer = peer(rng);
        if target.common_len(&Position::of_peer(&peer)) >= bits {
            return peer;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    Honest,
    /// Never answers.
    Dead,
    /// Names peers next to the key that do not exist.
    Liar,
    /// Names its own kind only.
    Sybil,
}

/// A network: who is there, and whom each honest one knows.
struct Network {
    rng: StdRng,
    target: Position,
    natures: BTreeMap<PeerId, Nature>,
    tables: BTreeMap<PeerId, Vec<PeerId>>,
}

impl Network {
    fn new(seed: u64, honest: usize, others: usize, nature: Nature) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let target = Position(rng.random());
        let mut natures = BTreeMap::new();
        for n in 0..honest + others {
            let nature = if n < honest { Nature::Honest } else { nature };
            let peer = match nature {
                Nature::Sybil => peer_near(&target, 11, &mut rng),
                _ => peer(&mut rng),
            };
            natures.insert(peer, nature);
        }
        let mut network = Self { rng, target, natures, tables: BTreeMap::new() };
        let all: Vec<PeerId> = network.natures.keys().copied().collect();
        for peer in &all {
            let table = network.table_of(peer, &all);
            network.tables.insert(*peer, table);
        }
        network
    }

    /// Twenty peers of each bucket.
    fn table_of(&mut self, local: &PeerId, all: &[PeerId]) -> Vec<PeerId> {
        let own = Position::of_peer(local);
        let mut buckets: BTreeMap<u16, Vec<PeerId>> = BTreeMap::new();
        for peer in all.iter().filter(|peer| *peer != local) {
            buckets.entry(own.common_len(&Position::of_peer(peer))).or_default().push(*peer);
        }
        let mut table = Vec::new();
        for bucket in buckets.values_mut() {
            bucket.shuffle(&mut self.rng);
            table.extend(bucket.iter().take(REPLICATION));
        }
        table
    }

    fn sorted(&self, mut peers: Vec<PeerId>) -> Vec<PeerId> {
        peers.sort_by_key(|peer| self.target.distance(&Position::of_peer(peer)));
        peers
    }

    /// What a peer answers; none if it does not.
    fn answer(&mut self, asked: &PeerId) -> Option<Vec<PeerId>> {
        match self.natures.get(asked)? {
            Nature::Dead => None,
            Nature::Honest => {
                let mut named = self.sorted(self.tables[asked].clone());
                named.truncate(MAX_NAMED);
                Some(named)
            }
            Nature::Liar => Some((0..MAX_NAMED).map(|_| peer_near(&self.target, 6, &mut self.rng)).collect()),
            Nature::Sybil => {
                let of_kind = self.natures.iter().filter(|(_, nature)| **nature == Nature::Sybil);
                let mut named = self.sorted(of_kind.map(|(peer, _)| *peer).collect());
                named.truncate(MAX_NAMED);
                Some(named)
            }
        }
    }

    fn honest_closest(&self) -> Vec<PeerId> {
        let honest = self.natures.iter().filter(|(_, nature)| **nature == Nature::Honest);
        let mut closest = self.sorted(honest.map(|(peer, _)| *peer).collect());
        closest.truncate(REPLICATION);
        closest
    }

    /// Walks from a new node that knows some of the peers; answers come after a tenth of a second.
    fn walk(&mut self, config: WalkConfig) -> (Walk, BTreeSet<PeerId>, Duration) {
        let local = peer(&mut self.rng);
        let all: Vec<PeerId> = self.natures.keys().copied().collect();
        let seeds = self.table_of(&local, &all).into_iter().map(|peer| (peer, Vec::new())).collect();
        let mut walk = Walk::new(config, self.target, local, seeds);
        let begin = Instant::now();
        let (mut now, mut asked, mut answers) = (begin, BTreeSet::new(), BTreeMap::new());
        loop {
            while let Some((peer, _)) = walk.next_ask(now) {
                assert!(asked.insert(peer), "asked twice");
                if let Some(named) = self.answer(&peer) {
                    answers.insert((now + Duration::from_millis(100), peer), named);
                }
            }
            walk.check_invariants();
            if walk.is_done() {
                return (walk, asked, now - begin);
            }
            let answer = answers.keys().next().map(|(at, _)| *at);
            now = [answer, walk.next_deadline(now)].into_iter().flatten().min().unwrap_or(now);
            walk.on_timeout(now);
            while let Some(entry) = answers.first_entry().filter(|entry| entry.key().0 <= now) {
                let ((_, peer), named) = entry.remove_entry();
                walk.on_answer(&peer, named.into_iter().map(|peer| (peer, Vec::new())).collect());
            }
        }
    }
}

fn closest_of(walk: &Walk) -> Vec<PeerId> {
    walk.closest().map(|(peer, _)| peer).collect()
}

#[test]
fn a_walk_finds_exactly_the_closest_and_asks_few() {
    for (honest, most) in [(0, 0), (1, 1), (20, 20), (100, 40), (1_000, 50)] {
        let mut network = Network::new(honest, usize::try_from(honest).unwrap_or(0), 0, Nature::Dead);
        let size = Some(honest);
        let (walk, asked, _) = network.walk(WalkConfig { size, ..WalkConfig::default() });
        assert_eq!(closest_of(&walk), network.honest_closest(), "{honest} nodes");
        assert!(asked.len() <= most, "{} asked of {honest}", asked.len());
        assert!(!walk.is_wide() && walk.failed() == 0);
    }
}

#[test]
fn the_silent_are_passed_by_and_do_not_stop_a_walk() {
    let mut network = Network::new(1, 200, 100, Nature::Dead);
    let (walk, asked, took) = network.walk(WalkConfig::default());
    // Every answer also names the dead, so that a few of the living are named by nobody.
    let (found, living) = (closest_of(&walk), network.honest_closest());
    assert_eq!(found[..10], living[..10]);
    assert!(living.iter().filter(|peer| found.contains(peer)).count() >= 17);
    assert!(asked.len() <= 90, "{}", asked.len());
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn a_network_in_which_half_of_the_peers_invent_others_is_walked_all_the_same() {
    let (mut found, mut wanted) = (0, 0);
    for seed in 0..20 {
        let mut network = Network::new(seed, 100, 100, Nature::Liar);
        let (walk, asked, _) = network.walk(WalkConfig::default());
        let closest: BTreeSet<PeerId> = closest_of(&walk).into_iter().collect();
        // A half of the closest that answer are liars.
        let honest: Vec<PeerId> = network.honest_closest().into_iter().take(5).collect();
        wanted += honest.len();
        found += honest.iter().filter(|peer| closest.contains(peer)).count();
        assert!(asked.len() <= 150, "{}", asked.len());
    }
    assert!(found * 100 >= wanted * 97, "{found} of {wanted}");
}

#[test]
fn a_crowd_around_the_key_makes_the_walk_ask_those_around_the_crowd() {
    for sybils in [20, 40, 80] {
        let mut network = Network::new(7, 100, sybils, Nature::Sybil);
        let (walk, asked, _) = network.walk(WalkConfig { size: Some(100), ..WalkConfig::default() });
        let holders = network.honest_closest();
        let reached = holders.iter().filter(|peer| asked.contains(peer)).count();
        assert!(walk.is_wide() && reached >= 8, "{reached} with {sybils} sybils");
        let (narrow, asked, _) = network.walk(WalkConfig::default());
        let reached = holders.iter().filter(|peer| asked.contains(peer)).count();
        assert!(!narrow.is_wide() && reached < 8, "{reached} without knowing the size");
    }
}

#[test]
fn an_answer_counts_once_and_only_if_it_was_asked_for_but_a_late_one_does() {
    let mut rng = StdRng::seed_from_u64(1);
    let (one, two, stranger) = (peer(&mut rng), peer(&mut rng), peer(&mut rng));
    let begin = Instant::now();
    let seeds: Vec<Ask> = vec![(one, Vec::new())];
    let mut walk = Walk::new(WalkConfig::default(), Position::FIRST, peer(&mut rng), seeds);
    walk.on_answer(&one, vec![(two, Vec::new())]);
    assert_eq!(walk.next_ask(begin).map(|(peer, _)| peer), Some(one));
    assert_eq!(walk.next_ask(begin), None);
    assert_eq!(walk.next_deadline(begin), Some(begin + Duration::from_millis(1500)));
    let late = begin + Duration::from_secs(6);
    assert_eq!(walk.next_deadline(begin + Duration::from_secs(2)), Some(late));
    walk.on_timeout(late);
    assert!(walk.is_done() && walk.failed() == 1);
    walk.on_answer(&stranger, vec![(two, Vec::new())]);
    assert_eq!(walk.next_ask(late), None);
    walk.on_answer(&one, vec![(two, Vec::new())]);
    walk.on_answer(&one, vec![(stranger, Vec::new())]);
    walk.on_failed(&one);
    assert_eq!((walk.answered(), walk.failed()), (1, 0));
    assert_eq!(walk.next_ask(late).map(|(peer, _)| peer), Some(two));
    walk.on_failed(&two);
    walk.on_answer(&two, vec![(stranger, Vec::new())]);
    assert!(walk.is_done() && walk.next_ask(late).is_none());
    walk.check_invariants();
}

fn addr(n: u16) -> Multiaddr {
    format!("/ip4/10.0.0.1/tcp/{n}").parse().unwrap()
}

#[test]
fn who_was_named_with_wrong_addresses_is_asked_once_more_at_others() {
    let mut rng = StdRng::seed_from_u64(1);
    let [liar, honest, third, victim] = std::array::from_fn(|_| peer(&mut rng));
    let now = Instant::now();
    for is_named_meanwhile in [false, true] {
        let seeds = [liar, honest, third].map(|peer| (peer, Vec::new())).to_vec();
        let mut walk = Walk::new(WalkConfig::default(), Position::of_peer(&victim), liar, seeds);
        let walk_asks = |walk: &mut Walk| {
            walk.check_invariants();
            std::iter::from_fn(|| walk.next_ask(now)).collect::<Vec<Ask>>()
        };
        assert_eq!(walk_asks(&mut walk).len(), 2, "not itself");
        walk.on_answer(&third, vec![(victim, vec![addr(1), addr(2), addr(3)])]);
        assert_eq!(walk_asks(&mut walk), [(victim, vec![addr(1), addr(2), addr(3)])]);
        let right = vec![(victim, vec![addr(2), addr(4)])];
        if is_named_meanwhile {
            walk.on_answer(&honest, right);
            walk.on_unreachable(&victim);
        } else {
            walk.on_unreachable(&victim);
            assert!(walk_asks(&mut walk).is_empty());
            walk.on_answer(&honest, right);
        }
        let again = walk_asks(&mut walk);
        assert_eq!(again.len(), 1);
        assert!(again[0].0 == victim && again[0].1.contains(&addr(4)), "{again:?}");
        walk.on_unreachable(&victim);
        assert!(walk_asks(&mut walk).is_empty() && walk.is_done(), "once");
        assert_eq!((walk.asked(), walk.answered(), walk.failed()), (4, 2, 1));
    }
}

#[test]
fn a_liar_who_came_first_takes_nobody_down_whom_others_name_rightly() {
    let mut rng = StdRng::seed_from_u64(1);
    let [liar, honest, local] = std::array::from_fn(|_| peer(&mut rng));
    let victims: [PeerId; 6] = std::array::from_fn(|_| peer(&mut rng));
    let now = Instant::now();
    let seeds = [liar, honest].map(|peer| (peer, Vec::new())).to_vec();
    let mut walk = Walk::new(WalkConfig::default(), Position::of_peer(&victims[0]), local, seeds);
    let asks = |walk: &mut Walk| {
        walk.check_invariants();
        std::iter::from_fn(|| walk.next_ask(now)).collect::<Vec<Ask>>()
    };
    assert_eq!(asks(&mut walk).len(), 2);
    walk.on_answer(&liar, victims.map(|victim| (victim, vec![addr(1)])).to_vec());
    let mut lost = 0;
    loop {
        let asked = asks(&mut walk);
        if asked.is_empty() {
            break;
        }
        lost += asked.len();
        asked.iter().for_each(|(victim, _)| walk.on_unreachable(victim));
    }
    assert!(lost >= 3, "the liar is believed no more");
    walk.on_answer(&honest, victims.map(|victim| (victim, vec![addr(2)])).to_vec());
    let mut found = BTreeSet::new();
    loop {
        let asked = asks(&mut walk);
        if asked.is_empty() {
            break;
        }
        for (victim, addrs) in asked {
            assert!(addrs.contains(&addr(2)), "{addrs:?}");
            walk.on_answer(&victim, Vec::new());
            found.insert(victim);
        }
    }
    assert_eq!(found, BTreeSet::from(victims));
    let named: BTreeSet<PeerId> = walk.closest().map(|(peer, _)| peer).collect();
    assert!(found.is_subset(&named));
}

#[test]
fn where_a_peer_answered_comes_before_what_was_said_about_it() {
    let mut rng = StdRng::seed_from_u64(1);
    let [one, local] = std::array::from_fn(|_| peer(&mut rng));
    let seeds = vec![(one, (1..=8).map(addr).collect())];
    let mut walk = Walk::new(WalkConfig::default(), Position::FIRST, local, seeds);
    walk.on_reached(&one, vec![addr(9)]);
    assert!(walk.next_ask(Instant::now()).is_some_and(|(_, addrs)| !addrs.contains(&addr(9))), "not yet");
    walk.on_answer(&one, Vec::new());
    walk.on_reached(&one, vec![addr(9), addr(3)]);
    let closest: Vec<Vec<Multiaddr>> = walk.closest().map(|(_, addrs)| addrs.to_vec()).collect();
    assert_eq!(closest, [[9, 3, 1, 2, 4, 5, 6, 7].map(addr)]);
}

#[test]
fn whom_only_liars_have_named_is_asked_at_the_very_end_and_only_a_few() {
    let mut rng = StdRng::seed_from_u64(1);
    let target = Position(rng.random());
    let liar = peer_near(&target, 6, &mut rng);
    let mut named: Vec<PeerId> = (0..15).map(|_| peer_near(&target, 8, &mut rng)).collect();
    named.sort_by_key(|peer| target.distance(&Position::of_peer(peer)));
    let mut seeds: Vec<Ask> = (0..30).map(|_| (peer(&mut rng), Vec::new())).collect();
    seeds.push((liar, Vec::new()));
    let config = WalkConfig { parallel: 4, ..WalkConfig::default() };
    let mut walk = Walk::new(config, target, peer(&mut rng), seeds);
    let now = Instant::now();
    let first: Vec<PeerId> = std::iter::from_fn(|| walk.next_ask(now)).map(|(peer, _)| peer).collect();
    assert!(first.contains(&liar));
    walk.on_answer(&liar, named.iter().map(|peer| (*peer, Vec::new())).collect());
    let mut asked = Vec::new();
    for _ in 0..3 {
        let (dead, _) = walk.next_ask(now).unwrap();
        asked.push(dead);
        walk.on_failed(&dead);
    }
    assert_eq!(asked, named[..3], "then it is known for what it is");
    first.iter().filter(|peer| **peer != liar).for_each(|peer| walk.on_answer(peer, Vec::new()));
    asked.clear();
    while let Some((peer, _)) = walk.next_ask(now) {
        asked.push(peer);
        walk.check_invariants();
        if named.contains(&peer) && peer != named[6] {
            walk.on_failed(&peer);
        } else {
            walk.on_answer(&peer, Vec::new());
        }
    }
    assert!(walk.is_done());
    let (sure, last) = asked.split_at(16);
    assert!(!sure.iter().any(|peer| named.contains(peer)), "the twenty come first");
    assert_eq!(last, &named[3..11]);
    assert!(closest_of(&walk).contains(&named[6]), "it is honest");
}

#[test]
fn strangers_cannot_make_a_walk_long_or_large() {
    let mut rng = StdRng::seed_from_u64(1);
    let config = WalkConfig { max_candidates: 50, max_asked: 30, ..WalkConfig::default() };
    let seeds = vec![(peer(&mut rng), Vec::new())];
    let mut walk = Walk::new(config, Position::FIRST, peer(&mut rng), seeds);
    let now = Instant::now();
    let mut asked = 0;
    while let Some((asked_peer, _)) = walk.next_ask(now) {
        asked += 1;
        // Each names a hundred that are closer, of whom some exist.
        let bits = asked.min(10);
        let named = (0..100).map(|_| (peer_near(&Position::FIRST, bits, &mut rng), Vec::new())).collect();
        walk.on_answer(&asked_peer, named);
        walk.check_invariants();
    }
    assert_eq!((asked, walk.candidates.len()), (30, 50));
}
