#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "virtual time has to begin at some instant")]

use std::time::Duration;

use dhtfs_store::{ChunkCid, ManifestCid};
use proptest::prelude::*;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn chunk(n: u32) -> ContentCid {
    ChunkCid::of(&n.to_be_bytes()).into()
}

fn root(n: u32) -> ContentCid {
    ManifestCid::of(&n.to_be_bytes()).into()
}

/// A network in virtual time: what it takes, how long that takes, and what it was given when.
struct Network {
    provide: Provide,
    now: Instant,
    takes: Duration,
    open: VecDeque<(Instant, ContentCid)>,
    announced: BTreeMap<ContentCid, Vec<Instant>>,
    order: Vec<ContentCid>,
    withdrawn: BTreeSet<ContentCid>,
    most_in_flight: usize,
}

impl Network {
    fn new(config: ProvideConfig) -> Self {
        let now = Instant::now();
        Self {
            provide: Provide::new(config, 1, now),
            now,
            takes: Duration::from_secs(1),
            open: VecDeque::new(),
            announced: BTreeMap::new(),
            order: Vec::new(),
            withdrawn: BTreeSet::new(),
            most_in_flight: 0,
        }
    }

    fn drain(&mut self) {
        while let Some(action) = self.provide.next_action() {
            match action {
                ProvideAction::Provide(cid) => {
                    assert!(!self.open.iter().any(|(_, open)| *open == cid), "twice at a time");
                    self.open.push_back((self.now + self.takes, cid));
                    self.order.push(cid);
                    self.most_in_flight = self.most_in_flight.max(self.open.len());
                }
                ProvideAction::Withdraw(cid) => {
                    self.withdrawn.insert(cid);
                }
            }
        }
        self.provide.check_invariants();
    }

    /// Lets time pass; `result` says how each announcement ends.
    fn run(&mut self, time: Duration, mut result: impl FnMut(ContentCid) -> Result<usize, ()>) {
        let stop = self.now + time;
        self.drain();
        let mut steps = 0;
        loop {
            let done = self.open.front().map(|(at, _)| *at);
            let next = done.into_iter().chain(self.provide.next_deadline()).min();
            let Some(next) = next.filter(|next| *next <= stop) else { break };
            steps += 1;
            assert!(steps < 2_000_000, "time stands still");
            self.now = self.now.max(next);
            if done.is_some_and(|at| at <= self.now) {
                let (_, cid) = self.open.pop_front().unwrap();
                let result = result(cid);
                if result.is_ok() {
                    self.announced.entry(cid).or_default().push(self.now);
                }
                self.provide.on_provided(cid, result, self.now);
            } else {
                self.provide.on_timeout(self.now);
            }
            self.drain();
        }
        self.now = stop;
    }

    fn run_well(&mut self, time: Duration) {
        self.run(time, |_| Ok(20));
    }
}

#[test]
fn nothing_is_announced_before_there_is_a_peer_and_everything_at_once_after() {
    let mut network = Network::new(ProvideConfig::default());
    network.provide.on_keys(Class::Chunk, (0..10).map(chunk), network.now);
    network.run_well(HOUR);
    assert!(network.order.is_empty());
    assert_eq!(network.provide.stats().pending, 10);
    network.provide.on_routing(1, network.now);
    network.drain();
    assert_eq!(network.order.len(), 10);
    network.run_well(Duration::from_secs(2));
    let stats = network.provide.stats();
    assert_eq!((stats.keys, stats.announced, stats.pending, stats.in_flight), (10, 10, 0, 0));
}

#[test]
fn roots_come_before_chunks_and_never_too_many_at_once() {
    let mut network = Network::new(ProvideConfig::default());
    network.provide.on_routing(50, network.now);
    network.provide.on_keys(Class::Chunk, (0..500).map(chunk), network.now);
    network.provide.on_keys(Class::Root, (0..40).map(root), network.now);
    network.run_well(Duration::from_secs(60));
    assert_eq!(network.most_in_flight, 32);
    let roots_before = network.order.iter().position(|cid| *cid == root(39)).unwrap();
    assert!(roots_before < 32 + 40, "{roots_before}");
    assert_eq!(network.announced.len(), 540);
}

#[test]
fn every_key_is_announced_in_every_interval_and_the_repeats_are_spread() {
    let mut network = Network::new(ProvideConfig::default());
    network.provide.on_routing(50, network.now);
    network.provide.on_keys(Class::Root, [root(0)], network.now);
    network.provide.on_keys(Class::Chunk, (0..999).map(chunk), network.now);
    network.run_well(Duration::from_secs(60));
    let before = network.order.len();
    network.run_well(HOUR * 12);
    let first = network.order.len() - before;
    assert!((650..850).contains(&first), "three quarters have a turn left: {first}");
    for _ in 0..24 {
        let hour_before = network.order.len();
        network.run_well(HOUR);
        let repeats = network.order.len() - hour_before;
        assert!((50..120).contains(&repeats), "{repeats} in one hour");
    }
    let both = network.order.len() - before - first;
    assert!((1980..=2020).contains(&both), "{both}");
    for times in network.announced.values() {
        let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(longest <= HOUR * 15 + Duration::from_secs(60), "{longest:?}");
    }
}

#[test]
fn a_large_import_does_not_keep_repeats_waiting() {
    let mut network = Network::new(ProvideConfig::default());
    network.takes = Duration::from_secs(30);
    network.provide.on_routing(50, network.now);
    network.provide.on_keys(Class::Chunk, (0..100).map(chunk), network.now);
    network.run_well(Duration::from_secs(600));
    // About 38,000 announcements an interval, half of them more than there is time for.
    network.provide.on_keys(Class::Chunk, (1000..60_000).map(chunk), network.now);
    let config = ProvideConfig::default();
    network.provide.check_invariants();
    let mut steps = 0;
    let stop = network.now + config.interval * 2;
    while network.now < stop {
        steps += 1;
        assert!(steps < 200_000);
        while let Some(action) = network.provide.next_action() {
            if let ProvideAction::Provide(cid) = action {
                network.open.push_back((network.now + network.takes, cid));
            }
        }
        let (at, cid) = network.open.pop_front().unwrap();
        network.now = at;
        network.announced.entry(cid).or_default().push(at);
        network.provide.on_provided(cid, Ok(20), at);
    }
    for n in 0..100 {
        let times = &network.announced[&chunk(n)];
        assert!(times.len() >= 2, "chunk {n} was not repeated");
    }
}

#[test]
fn a_failed_key_is_tried_again_later_and_later() {
    let mut network = Network::new(ProvideConfig::default());
    network.provide.on_routing(5, network.now);
    network.provide.on_keys(Class::Chunk, (0..20).map(chunk), network.now);
    let bad = chunk(7);
    network.run(HOUR, |cid| if cid == bad { Ok(0) } else { Ok(3) });
    let tries = network.order.iter().filter(|cid| **cid == bad).count();
    assert!((8..20).contains(&tries), "{tries}");
    let stats = network.provide.stats();
    assert_eq!((stats.announced, stats.pending + stats.in_flight, stats.failing), (19, 1, 1));
    network.run_well(HOUR);
    assert_eq!(network.provide.stats().announced, 20);
}

#[test]
fn a_network_that_takes_nothing_is_left_alone() {
    let mut network = Network::new(ProvideConfig::default());
    network.provide.on_routing(5, network.now);
    network.provide.on_keys(Class::Chunk, (0..1000).map(chunk), network.now);
    network.run(HOUR, |_| Err(()));
    let tries = network.order.len();
    assert!(tries < 900, "{tries} tries in an hour");
    network.run_well(HOUR);
    assert_eq!(network.provide.stats().announced, 1000);
}

#[test]
fn an_empty_table_stops_everything_and_the_first_peer_starts_it_again() {
    let mut network = Network::new(ProvideConfig::default());
    network.provide.on_routing(5, network.now);
    network.provide.on_keys(Class::Chunk, (0..100).map(chunk), network.now);
    network.run_well(Duration::from_secs(2));
    network.provide.on_routing(0, network.now);
    network.run(HOUR, |_| Err(()));
    let before = network.order.len();
    assert_eq!(network.provide.next_deadline(), None);
    network.provide.on_routing(1, network.now);
    network.run_well(Duration::from_secs(10));
    assert_eq!(network.order.len() - before, 100, "all are announced to the new network");
    assert_eq!(network.provide.stats().announced, 100);
}

#[test]
fn a_small_table_that_doubles_gets_all_keys_again() {
    let mut network = Network::new(ProvideConfig::default());
    let mut tables = Vec::new();
    network.provide.on_routing(1, network.now);
    network.provide.on_keys(Class::Chunk, (0..50).map(chunk), network.now);
    for peers in [1, 2, 3, 4, 5, 9, 16, 19, 25, 60] {
        network.provide.on_routing(peers, network.now);
        let before = network.order.len();
        network.run_well(Duration::from_secs(30));
        if network.order.len() - before >= 50 {
            tables.push(peers);
        }
    }
    assert_eq!(tables, [1, 2, 4, 9, 19, 60]);
}

#[test]
fn peers_that_join_together_count_once() {
    let mut network = Network::new(ProvideConfig::default());
    network.provide.on_routing(1, network.now);
    network.provide.on_keys(Class::Chunk, (0..50).map(chunk), network.now);
    network.run_well(Duration::from_secs(30));
    let before = network.order.len();
    for peers in 2..=16 {
        network.provide.on_routing(peers, network.now);
        network.run_well(Duration::from_millis(100));
    }
    network.run_well(Duration::from_secs(30));
    assert_eq!(network.order.len() - before, 50);
}

#[test]
fn a_removed_key_is_withdrawn_wherever_it_is() {
    let mut network = Network::new(ProvideConfig::default());
    network.provide.on_routing(5, network.now);
    network.provide.on_keys(Class::Chunk, [chunk(0)], network.now);
    network.run_well(Duration::from_secs(2));
    network.provide.on_keys(Class::Chunk, [chunk(1)], network.now);
    network.drain();
    // One is announced, one in flight, one unknown.
    network.provide.on_removed([chunk(0), chunk(1), chunk(2)], network.now);
    assert_eq!(network.provide.stats().keys, 0);
    network.run_well(HOUR * 30);
    assert_eq!(network.withdrawn, BTreeSet::from([chunk(0), chunk(1)]));
    assert_eq!(network.order.len(), 2);
}

#[test]
fn a_key_removed_and_added_in_flight_stays() {
    let mut network = Network::new(ProvideConfig::default());
    network.provide.on_routing(5, network.now);
    network.provide.on_keys(Class::Chunk, [chunk(1)], network.now);
    network.drain();
    network.provide.on_removed([chunk(1)], network.now);
    network.provide.on_keys(Class::Root, [chunk(1)], network.now);
    network.run_well(Duration::from_secs(2));
    assert!(network.withdrawn.is_empty());
    assert_eq!(network.provide.stats().announced, 1);
}

#[test]
fn keys_beyond_the_limit_are_refused_and_counted() {
    let mut network = Network::new(ProvideConfig { max_keys: 5, ..ProvideConfig::default() });
    network.provide.on_keys(Class::Chunk, (0..8).map(chunk), network.now);
    network.provide.check_invariants();
    assert_eq!((network.provide.stats().keys, network.provide.stats().refused), (5, 3));
}

proptest! {
    #[test]
    fn a_key_is_in_one_place_whatever_happens(
        events in prop::collection::vec((0_u8..9, 0_u32..40, 0_usize..30, 0_u64..100_000), 1..300),
        seed: u64,
    ) {
        let mut now = Instant::now();
        let config = ProvideConfig { max_in_flight: 4, max_retries: 5, max_failures: 3, ..ProvideConfig::default() };
        let mut provide = Provide::new(config, seed, now);
        let mut held = BTreeSet::new();
        let mut open = Vec::new();
        for (event, n, peers, after) in events {
            now += Duration::from_millis(after);
            match event {
                0 | 1 => {
                    held.extend((n..n + 5).map(chunk));
                    provide.on_keys(Class::Chunk, (n..n + 5).map(chunk), now);
                }
                2 => {
                    held.insert(root(n));
                    provide.on_keys(Class::Root, [root(n)], now);
                }
                3 => {
                    held.remove(&chunk(n));
                    provide.on_removed([chunk(n)], now);
                }
                4 => provide.on_routing(peers, now),
                5 => provide.on_timeout(now),
                6 => provide.on_provided(chunk(n), Ok(1), now),
                _ if open.is_empty() => {}
                event => {
                    let cid = open.swap_remove(peers % open.len());
                    provide.on_provided(cid, if event == 7 { Ok(peers) } else { Err(()) }, now);
                }
            }
            while let Some(action) = provide.next_action() {
                if let ProvideAction::Provide(cid) = action {
                    prop_assert!(held.contains(&cid));
                    open.push(cid);
                }
            }
            provide.check_invariants();
            prop_assert_eq!(provide.stats().keys, held.len());
            if let Some(deadline) = provide.next_deadline().filter(|deadline| *deadline <= now) {
                provide.on_timeout(deadline.max(now));
                while let Some(action) = provide.next_action() {
                    if let ProvideAction::Provide(cid) = action {
                        open.push(cid);
                    }
                }
                prop_assert!(provide.next_deadline().is_none_or(|deadline| deadline > now));
            }
        }
    }
}
