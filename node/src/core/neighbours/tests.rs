#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

/// Peers in the order of their IDs.
fn peers(count: u8) -> Vec<PeerId> {
    let of = |n| libp2p::identity::Keypair::ed25519_from_bytes([n; 32]).unwrap().public().to_peer_id();
    let mut peers: Vec<PeerId> = (0..count).map(of).collect();
    peers.sort();
    peers
}

fn at(peer: PeerId, ip: [u8; 4], port: u16) -> Neighbour {
    Neighbour { peer, source: Source { ip: ip.into(), zone: 0 }, tcp: Some(port), quic: None }
}

fn link_local(peer: PeerId, zone: u32) -> Neighbour {
    let source = Source { ip: "fe80::7".parse().unwrap(), zone };
    Neighbour { peer, source, tcp: Some(4343), quic: Some(4343) }
}

fn machine(local: PeerId, config: NeighboursConfig, now: Instant) -> Neighbours {
    Neighbours::new(local, config, 7, now)
}

fn dials(machine: &mut Neighbours) -> Vec<Neighbour> {
    std::iter::from_fn(|| machine.next_action()).collect()
}

#[test]
fn addresses_are_tcp_first_and_carry_a_zone_only_if_they_need_one() {
    let peer = peers(1)[0];
    let shown = |neighbour: Neighbour| neighbour.addrs().iter().map(ToString::to_string).collect::<Vec<_>>();
    let both = Neighbour { quic: Some(5), ..at(peer, [10, 0, 0, 1], 4) };
    assert_eq!(shown(both), ["/ip4/10.0.0.1/tcp/4", "/ip4/10.0.0.1/udp/5/quic-v1"]);
    assert_eq!(shown(link_local(peer, 3)), ["/ip6zone/3/ip6/fe80::7/tcp/4343"]);
    let silent = Neighbour { tcp: None, ..link_local(peer, 3) };
    assert!(shown(silent).is_empty() && !silent.can_be_dialled());
}

#[test]
fn of_two_that_hear_of_each_other_the_one_with_the_greater_id_dials_first() {
    let (now, peers) = (Instant::now(), peers(3));
    let mut machine = machine(peers[1], NeighboursConfig::default(), now);
    for (peer, n) in peers.iter().zip(1..) {
        machine.on_heard(at(*peer, [10, 0, 0, n], 1), now);
    }
    assert_eq!(machine.known(), 2, "this node hears itself");
    assert_eq!(dials(&mut machine), [at(peers[0], [10, 0, 0, 1], 1)]);
    assert_eq!(machine.next_deadline(), Some(now + 500 * MS));
    machine.on_timeout(now + 500 * MS);
    assert_eq!(dials(&mut machine), [at(peers[2], [10, 0, 0, 3], 1)], "it may not have heard of this node");
}

#[test]
fn a_client_is_polite_to_nobody_because_nobody_can_dial_it() {
    let (now, peers) = (Instant::now(), peers(2));
    let mut machine = machine(peers[0], NeighboursConfig::client(), now);
    machine.on_heard(at(peers[1], [10, 0, 0, 1], 1), now);
    assert_eq!(dials(&mut machine).len(), 1);
}

#[test]
fn a_link_local_address_waits_for_the_other_one_and_is_left_if_that_does_it() {
    let (now, peers) = (Instant::now(), peers(2));
    let mut machine = machine(peers[1], NeighboursConfig::default(), now);
    machine.on_heard(link_local(peers[0], 2), now);
    let four = at(peers[0], [10, 0, 0, 1], 1);
    machine.on_heard(four, now);
    assert_eq!(dials(&mut machine), [four]);
    machine.on_timeout(now + 300 * MS);
    assert_eq!(dials(&mut machine), [], "the same peer is being dialled");
    machine.on_dialled(&four, Outcome::Met, now + 400 * MS);
    machine.on_connected(&BTreeSet::from([peers[0]]), now + 400 * MS);
    assert_eq!((dials(&mut machine).len(), machine.connected()), (0, 1));
}

#[test]
fn who_is_connected_is_not_dialled_and_who_was_only_if_heard_again_after_a_while() {
    let (mut now, peers) = (Instant::now(), peers(2));
    let mut machine = machine(peers[1], NeighboursConfig::default(), now);
    let neighbour = at(peers[0], [10, 0, 0, 1], 1);
    machine.on_connected(&BTreeSet::from([peers[0]]), now);
    machine.on_heard(neighbour, now);
    machine.on_connected(&BTreeSet::new(), now + SEC);
    machine.on_timeout(now + 400 * SEC);
    assert_eq!(dials(&mut machine), [], "it was not heard again");
    machine.on_heard(neighbour, now + 401 * SEC);
    assert_eq!(dials(&mut machine), [neighbour]);
    now += 402 * SEC;
    machine.on_dialled(&neighbour, Outcome::Met, now);
    machine.on_connected(&BTreeSet::new(), now);
    machine.on_heard(neighbour, now);
    assert_eq!(dials(&mut machine), []);
    machine.on_timeout(now + 300 * SEC);
    assert_eq!(dials(&mut machine), [neighbour]);
}

#[test]
fn a_failure_stays_with_its_announcement_and_touches_no_other() {
    let (mut now, peers) = (Instant::now(), peers(2));
    let mut machine = machine(peers[1], NeighboursConfig::default(), now);
    let (forged, honest) = (at(peers[0], [10, 0, 0, 66], 1), at(peers[0], [10, 0, 0, 1], 1));
    machine.on_heard(forged, now);
    let mut pauses = Vec::new();
    for _ in 0..10 {
        assert_eq!(dials(&mut machine), [forged]);
        machine.on_dialled(&forged, Outcome::Unreachable, now);
        machine.on_heard(forged, now);
        let next = machine.next_deadline().unwrap();
        pauses.push((next - now).as_secs_f64());
        now = next;
        machine.on_timeout(now);
    }
    for (pause, most) in pauses.iter().zip([2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 300.0, 300.0]) {
        assert!((most / 2.0..=most).contains(pause), "{pauses:?}");
    }
    assert_eq!(dials(&mut machine), [forged]);
    machine.on_dialled(&forged, Outcome::Foreign, now);
    machine.on_heard(honest, now);
    assert_eq!(dials(&mut machine), [honest]);
    for hour in 1..100 {
        machine.on_heard(forged, now + hour * 10 * SEC);
    }
    assert_eq!(dials(&mut machine), [], "somebody else answers there");
    assert_eq!(machine.stats(), NeighbourStats { dials: 12, failed: 10, foreign: 1, ..Default::default() });
}

#[test]
fn an_announcement_is_forgotten_a_quarter_of_an_hour_after_it_was_heard_last() {
    let (now, peers) = (Instant::now(), peers(2));
    let mut machine = machine(peers[1], NeighboursConfig::default(), now);
    machine.on_heard(at(peers[0], [10, 0, 0, 1], 1), now);
    assert_eq!(dials(&mut machine).len(), 1);
    machine.on_dialled(&at(peers[0], [10, 0, 0, 1], 1), Outcome::Foreign, now);
    assert_eq!(machine.next_deadline(), Some(now + 900 * SEC));
    machine.on_timeout(now + 900 * SEC);
    assert_eq!((machine.known(), machine.next_deadline()), (0, None));
}

#[test]
fn what_was_announced_elsewhere_is_forgotten() {
    let (now, peers) = (Instant::now(), peers(3));
    let mut machine = machine(peers[2], NeighboursConfig::default(), now);
    let (old, new) = (at(peers[0], [10, 0, 0, 1], 1), at(peers[1], [10, 9, 0, 1], 1));
    machine.on_heard(old, now);
    assert_eq!(dials(&mut machine), [old]);
    machine.on_heard(new, now);
    machine.on_moved(|source| source == &new.source, now);
    assert_eq!(machine.known(), 2, "it is being dialled");
    machine.on_dialled(&old, Outcome::Unreachable, now);
    machine.on_moved(|source| source == &new.source, now);
    assert_eq!((machine.known(), dials(&mut machine)), (1, vec![new]));
}

#[test]
fn dials_are_limited_in_number_and_in_time() {
    let (now, peers) = (Instant::now(), peers(200));
    let mut machine = machine(peers[199], NeighboursConfig::default(), now);
    for (peer, n) in peers[..199].iter().zip(1..) {
        machine.on_heard(at(*peer, [10, 0, 0, n], 1), now);
    }
    let mut begun = 0;
    loop {
        let some = dials(&mut machine);
        assert!(some.len() <= 8);
        begun += some.len();
        for dial in &some {
            machine.on_dialled(dial, Outcome::Unreachable, now);
        }
        if some.is_empty() {
            break;
        }
    }
    assert_eq!(begun, 64);
    assert_eq!(machine.next_deadline(), Some(now + SEC));
    machine.on_timeout(now + 3 * SEC);
    assert_eq!(dials(&mut machine).len(), 3);
}

#[test]
fn no_more_are_dialled_than_may_be_connected() {
    let (now, peers) = (Instant::now(), peers(40));
    let mut machine = machine(peers[39], NeighboursConfig::client(), now);
    let mut connected = BTreeSet::new();
    for (peer, n) in peers[..39].iter().zip(1..) {
        machine.on_heard(at(*peer, [10, 0, 0, n], 1), now);
    }
    loop {
        let some = dials(&mut machine);
        for dial in &some {
            connected.insert(dial.peer);
            machine.on_dialled(dial, Outcome::Met, now);
            machine.on_connected(&connected, now);
            machine.check_invariants();
        }
        if some.is_empty() {
            break;
        }
    }
    assert_eq!((connected.len(), machine.connected()), (16, 16));
    connected.pop_first();
    machine.on_connected(&connected, now);
    assert_eq!(dials(&mut machine).len(), 1);
}

#[test]
fn an_address_that_was_dialled_in_vain_lets_others_go_first_every_other_time() {
    let (now, peers) = (Instant::now(), peers(8));
    let config = NeighboursConfig { max_dialling: 1, ..NeighboursConfig::client() };
    let mut machine = machine(peers[7], config, now);
    for port in 1..=9 {
        machine.on_heard(at(peers[0], [10, 0, 0, 66], port), now);
    }
    for (peer, n) in peers[1..=2].iter().zip(1..) {
        machine.on_heard(at(*peer, [10, 0, 0, n], 1), now + SEC);
    }
    let mut order = Vec::new();
    for _ in 0..6 {
        let next = dials(&mut machine)[0];
        machine.on_dialled(&next, Outcome::Unreachable, now + SEC);
        order.push(peers.iter().position(|peer| *peer == next.peer).unwrap());
    }
    assert!(order == [0, 0, 1, 0, 2, 0] || order == [0, 0, 2, 0, 1, 0], "{order:?}");
}

#[test]
fn in_a_full_table_the_address_that_announces_most_makes_room() {
    let (now, peers) = (Instant::now(), peers(6));
    let config = NeighboursConfig { max_known: 4, dial_burst: 0, ..NeighboursConfig::default() };
    let mut machine = machine(peers[5], config, now);
    for port in 1..=4 {
        machine.on_heard(at(peers[0], [10, 0, 0, 66], port), now + u32::from(port) * MS);
    }
    machine.on_heard(at(peers[0], [10, 0, 0, 66], 9), now + 9 * MS);
    assert_eq!(machine.stats().refused, 1, "it has most itself");
    machine.on_heard(at(peers[1], [10, 0, 0, 1], 1), now + 10 * MS);
    machine.on_heard(at(peers[2], [10, 0, 0, 2], 1), now + 11 * MS);
    assert_eq!(machine.stats(), NeighbourStats { refused: 1, displaced: 2, ..Default::default() });
    let ports: Vec<_> =
        machine.known.keys().filter(|key| key.peer == peers[0]).filter_map(|key| key.tcp).collect();
    assert_eq!(ports, [1, 2], "the latest made room");
    machine.on_heard(at(peers[3], [10, 0, 0, 1], 1), now + 12 * MS);
    assert_eq!(machine.stats().refused, 2, "nobody has more than it would have");
    machine.check_invariants();
}

#[derive(Debug, Clone)]
enum Input {
    Heard { peer: u8, host: u8, port: u16, is_link_local: bool },
    Dialled(usize, Outcome),
    Connected(u8, bool),
    Passes(u32),
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Met),
        Just(Outcome::Foreign),
        Just(Outcome::Unreachable),
        Just(Outcome::NotDialled)
    ]
}

fn input() -> impl Strategy<Value = Input> {
    prop_oneof![
        6 => (0..20u8, 0..6u8, 0..4u16, any::<bool>()).prop_map(|(peer, host, port, is_link_local)| {
            Input::Heard { peer, host, port, is_link_local }
        }),
        4 => (any::<usize>(), outcome()).prop_map(|(which, outcome)| Input::Dialled(which, outcome)),
        2 => (0..20u8, any::<bool>()).prop_map(|(peer, is)| Input::Connected(peer, is)),
        3 => (0..30_000u32).prop_map(Input::Passes),
    ]
}

fn small() -> NeighboursConfig {
    NeighboursConfig {
        max_known: 12,
        max_dialling: 3,
        max_connected: 5,
        dial_burst: 6,
        forget_after: 60 * SEC,
        ..NeighboursConfig::default()
    }
}

proptest! {
    /// Whatever happens: bounds hold, no announcement is dialled twice at once and no peer that is connected, dials come no
    /// faster than their rate, and who is due is dialled as soon as there is room.
    #[test]
    fn whatever_is_announced_the_bounds_hold(inputs in prop::collection::vec(input(), 1..300), seed in any::<u64>()) {
        let (start, peers, config) = (Instant::now(), peers(20), small());
        let mut now = start;
        let mut machine = Neighbours::new(peers[7], config, seed, now);
        let (mut under_way, mut connected): (Vec<Neighbour>, BTreeSet<PeerId>) = Default::default();
        let mut begun = 0_u32;
        for input in inputs {
            match input {
                Input::Heard { peer, host, port, is_link_local } => {
                    let peer = peers[usize::from(peer)];
                    let mut heard = at(peer, [10, 0, 0, host], port);
                    if is_link_local {
                        heard.source = link_local(peer, u32::from(host) + 1).source;
                    }
                    machine.on_heard(heard, now);
                }
                Input::Dialled(which, outcome) => {
                    if !under_way.is_empty() {
                        let dialled = under_way.swap_remove(which % under_way.len());
                        if outcome == Outcome::Met {
                            connected.insert(dialled.peer);
                        }
                        machine.on_dialled(&dialled, outcome, now);
                        machine.on_connected(&connected, now);
                    }
                }
                Input::Connected(peer, is) => {
                    let peer = peers[usize::from(peer)];
                    if is { connected.insert(peer) } else { connected.remove(&peer) };
                    machine.on_connected(&connected, now);
                }
                Input::Passes(millis) => {
                    now += MS * millis;
                    machine.on_timeout(now);
                }
            }
            while let Some(dial) = machine.next_action() {
                prop_assert!(!connected.contains(&dial.peer));
                prop_assert!(!under_way.iter().any(|other| other.peer == dial.peer));
                under_way.push(dial);
                begun += 1;
            }
            machine.check_invariants();
            prop_assert!(begun <= 6 + u32::try_from((now - start).as_secs()).unwrap());
            prop_assert_eq!(machine.dialling.len(), under_way.len());
            prop_assert!(machine.next_deadline().is_none_or(|at| at > now));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// A flood of 200 forged announcements a second in anybody's name, each dial of which gets nowhere for up to ten seconds: an
    /// honest neighbour that announces itself once is dialled within three minutes if they come from up to 60 addresses, and
    /// within ten minutes, if it got an entry, if each comes from one that nobody has heard of before.
    #[test]
    fn no_flood_keeps_an_honest_neighbour_from_being_dialled(
        hosts in prop_oneof![1..60u32, Just(u32::MAX)],
        takes in 0..10u64,
        before in prop_oneof![0..250u64, 0..4_000u64],
        seed in any::<u64>(),
    ) {
        let (start, peers) = (Instant::now(), peers(20));
        let mut machine = Neighbours::new(peers[0], NeighboursConfig::default(), seed, start);
        let mut rng = StdRng::seed_from_u64(seed);
        let honest = at(peers[1], [10, 1, 0, 1], 4343);
        let mut ends: BTreeMap<(Instant, Neighbour), ()> = BTreeMap::new();
        let mut now = start;
        let mut dialled_at = None;
        for tick in 0..u64::MAX {
            now += 5 * MS;
            if tick == before {
                machine.on_heard(honest, now);
                if !machine.known.contains_key(&honest) {
                    prop_assert!(hosts == u32::MAX);
                    break;
                }
            }
            let [peer, a, b, ..] = rng.next_u64().to_be_bytes();
            let mut forged = at(peers[usize::from(peer % 20)], [0; 4], u16::from_be_bytes([a, b]).max(1));
            forged.source.ip = IpAddr::V4((rng.next_u32() % hosts).into());
            if forged.source != honest.source {
                machine.on_heard(forged, now);
            }
            while let Some(entry) = ends.first_entry().filter(|entry| entry.key().0 <= now) {
                let ((_, ended), ()) = entry.remove_entry();
                machine.on_dialled(&ended, Outcome::Unreachable, now);
            }
            while let Some(dial) = machine.next_action() {
                ends.insert((now + SEC * u32::try_from(takes).unwrap(), dial), ());
                dialled_at = dialled_at.or((dial == honest).then_some(now));
            }
            if dialled_at.is_some() {
                break;
            }
            let most = if hosts == u32::MAX { 120_000 } else { 36_000 };
            prop_assert!(tick < before + most, "not in time; {:?}", machine.stats());
        }
    }
}
