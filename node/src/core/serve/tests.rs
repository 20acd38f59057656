#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "virtual time has to begin at some instant")]

use std::time::Duration;

use libp2p::multihash::Multihash;
use proptest::prelude::*;

use super::*;

const MIB: u32 = 1 << 20;

fn peer(n: u8) -> PeerId {
    PeerId::from_multihash(Multihash::wrap(0, &[n; 8]).unwrap()).unwrap()
}

fn drain(serve: &mut Serve) -> Vec<ServeAction> {
    let actions = std::iter::from_fn(|| serve.next_action()).collect();
    serve.check_invariants();
    actions
}

fn reads(serve: &mut Serve) -> Vec<(u64, PeerId)> {
    drain(serve)
        .into_iter()
        .map(|action| match action {
            ServeAction::Read { id, peer } => (id.0, peer),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_request_is_read_at_once_when_nothing_else_is_going_on() {
    let now = Instant::now();
    let mut serve = Serve::new(ServeConfig::default());
    assert_eq!(serve.on_request(peer(1), ServeId(7), now), Admit::Queued);
    assert_eq!(reads(&mut serve), [(7, peer(1))]);
    serve.on_read(ServeId(7), 1000, now);
    serve.on_sent(ServeId(7), now);
    let stats = serve.stats();
    assert_eq!((stats.served, stats.served_len, stats.budget_used_len), (1, 1000, 0));
    serve.check_invariants();
}

#[test]
fn a_read_of_nothing_counts_as_missing() {
    let now = Instant::now();
    let mut serve = Serve::new(ServeConfig::default());
    let _ = serve.on_request(peer(1), ServeId(7), now);
    drain(&mut serve);
    serve.on_read(ServeId(7), 0, now);
    serve.on_sent(ServeId(7), now);
    assert_eq!((serve.stats().served, serve.stats().missing), (0, 1));
}

#[test]
fn the_queue_of_one_peer_and_the_whole_queue_are_bounded() {
    let now = Instant::now();
    let config = ServeConfig { max_queued_per_peer: 3, max_queued: 5, ..ServeConfig::default() };
    let mut serve = Serve::new(ServeConfig { budget_len: 2 << 20, ..config });
    let mut id = 0;
    let mut ask = |serve: &mut Serve, n| {
        id += 1;
        let admit = serve.on_request(peer(n), ServeId(id), now);
        drain(serve);
        admit
    };
    // With one peer the share is one block: one is read, three wait.
    let answers: Vec<_> = (0..5).map(|_| ask(&mut serve, 1)).collect();
    assert_eq!(answers, [Admit::Queued, Admit::Queued, Admit::Queued, Admit::Queued, Admit::Busy]);
    // The second peer takes the last block of the budget; two more fill the whole queue.
    let answers: Vec<_> = (0..4).map(|_| ask(&mut serve, 2)).collect();
    assert_eq!(answers, [Admit::Queued, Admit::Queued, Admit::Queued, Admit::Busy]);
    assert_eq!((serve.stats().queued, serve.stats().busy), (5, 2));
}

#[test]
fn an_id_used_twice_is_refused() {
    let now = Instant::now();
    let mut serve = Serve::new(ServeConfig::default());
    let _ = serve.on_request(peer(1), ServeId(1), now);
    assert_eq!(serve.on_request(peer(2), ServeId(1), now), Admit::Busy);
    assert_eq!(drain(&mut serve).len(), 1);
}

#[test]
fn a_peer_that_does_not_drain_its_socket_leaves_room_for_others() {
    let now = Instant::now();
    let mut serve = Serve::new(ServeConfig::default());
    for id in 0..60 {
        let _ = serve.on_request(peer(1), ServeId(id), now);
    }
    assert_eq!(reads(&mut serve).len(), 6, "half of the budget for the only peer");
    let _ = serve.on_request(peer(2), ServeId(100), now);
    assert_eq!(reads(&mut serve), [(100, peer(2))]);
}

#[test]
fn what_waited_too_long_is_refused() {
    let now = Instant::now();
    let mut serve = Serve::new(ServeConfig { budget_len: 2 << 20, ..ServeConfig::default() });
    for id in 0..3 {
        let _ = serve.on_request(peer(1), ServeId(id), now);
    }
    assert_eq!(reads(&mut serve), [(0, peer(1))]);
    let deadline = serve.next_deadline().unwrap();
    assert_eq!(deadline, now + Duration::from_secs(30));
    serve.on_timeout(deadline);
    let refused = [1, 2].map(|id| ServeAction::Refuse { id: ServeId(id), peer: peer(1) });
    assert_eq!(drain(&mut serve), refused);
    assert_eq!(serve.next_deadline(), None);
}

#[test]
fn what_is_read_for_nobody_keeps_its_part_of_the_budget_until_the_read_ends() {
    let now = Instant::now();
    let mut serve = Serve::new(ServeConfig::default());
    let mut reading = 0;
    // Whoever asks and goes, again and again, has no more read at a time than who stays.
    for round in 0..20 {
        let ids = (0..20).map(|n| ServeId(round * 100 + n));
        for id in ids.clone() {
            let _ = serve.on_request(peer(1), id, now);
        }
        reading += drain(&mut serve).len();
        ids.for_each(|id| serve.on_dropped(id, now));
        serve.check_invariants();
    }
    assert_eq!(
        (reading, serve.stats().dropped, serve.stats().queued, serve.stats().in_flight),
        (6, 400, 0, 0)
    );
    assert_eq!(serve.stats().budget_used_len, 6 << 20);
    (0..6).for_each(|id| serve.on_read(ServeId(id), MIB, now));
    serve.check_invariants();
    assert_eq!((serve.stats().budget_used_len, serve.stats().dropped), (0, 400));
    serve.on_sent(ServeId(3), now);
    serve.on_read(ServeId(4), MIB, now);
    serve.on_dropped(ServeId(5), now);
    assert_eq!((serve.stats().dropped, serve.stats().served), (400, 0), "ids that are gone are ignored");
}

#[test]
fn what_is_taken_back_in_time_is_not_read_and_the_rest_goes_on() {
    let now = Instant::now();
    let mut serve = Serve::new(ServeConfig { budget_len: 2 << 20, ..ServeConfig::default() });
    for id in 0..3 {
        let _ = serve.on_request(peer(1), ServeId(id), now);
    }
    assert_eq!(reads(&mut serve), [(0, peer(1))]);
    assert!(!serve.on_cancelled(ServeId(0), now), "it is being read");
    assert!(serve.on_cancelled(ServeId(1), now));
    assert!(!serve.on_cancelled(ServeId(1), now), "it is gone");
    serve.on_read(ServeId(0), MIB, now);
    serve.on_sent(ServeId(0), now);
    assert_eq!(reads(&mut serve), [(2, peer(1))]);
}

/// Serves peers that each keep `depth` requests for blocks of `len` bytes open, the socket draining in order,
/// until `rounds` answers are sent; answers the bytes each was sent.
fn serve_all(peers: &[(u32, usize)], rounds: usize) -> Vec<u64> {
    let now = Instant::now();
    let mut serve = Serve::new(ServeConfig::default());
    let mut id = 0;
    let mut sent = vec![0; peers.len()];
    let mut open = vec![0; peers.len()];
    let mut in_flight = VecDeque::new();
    for _ in 0..rounds {
        for (n, (_, depth)) in peers.iter().enumerate() {
            while open[n] < *depth {
                id += 1;
                open[n] += 1;
                assert_eq!(serve.on_request(peer(u8::try_from(n).unwrap()), ServeId(id), now), Admit::Queued);
            }
        }
        for action in drain(&mut serve) {
            let ServeAction::Read { id, peer: who } = action else { panic!("{action:?}") };
            let n = (0..peers.len()).find(|n| peer(u8::try_from(*n).unwrap()) == who).unwrap();
            serve.on_read(id, peers[n].0, now);
            in_flight.push_back((id, n));
        }
        let (id, n) = in_flight.pop_front().unwrap();
        sent[n] += u64::from(peers[n].0);
        open[n] -= 1;
        serve.on_sent(id, now);
    }
    sent
}

fn assert_near(sent: &[u64], slack: f64) {
    let (min, max) = (*sent.iter().min().unwrap(), *sent.iter().max().unwrap());
    #[allow(clippy::cast_precision_loss, reason = "a ratio for a test")]
    let ratio = max as f64 / min as f64;
    assert!(ratio < slack, "{sent:?}");
}

#[test]
fn equal_peers_get_equal_bytes_however_many_requests_they_queue() {
    assert_near(&serve_all(&[(MIB, 60), (MIB, 8)], 1000), 1.05);
}

#[test]
fn small_chunks_and_large_chunks_get_about_equal_bytes() {
    assert_near(&serve_all(&[(MIB, 30), (MIB / 8, 60)], 4000), 1.4);
    let many: Vec<_> = (0..16).map(|n| if n % 2 == 0 { (MIB, 20) } else { (MIB / 8, 30) }).collect();
    assert_near(&serve_all(&many, 20_000), 1.2);
}

#[test]
fn who_asks_for_what_is_not_here_does_not_always_come_first() {
    let sent = serve_all(&[(0, 60), (MIB, 8)], 2_000);
    assert!(sent[1] >= 20 * u64::from(MIB), "{sent:?}");
}

proptest! {
    #[test]
    fn the_books_balance_whatever_happens(
        events in prop::collection::vec((0_u8..7, 0_u8..5, 0_u64..80, 0_u32..=MIB), 1..300),
        budget_len in 0_u64..(20 << 20),
    ) {
        let start = Instant::now();
        let mut serve = Serve::new(ServeConfig { budget_len, max_queued: 40, ..ServeConfig::default() });
        let mut admitted = 0;
        let mut reads = 0;
        for (step, (event, n, id, len)) in (0_u64..).zip(events) {
            let now = start + Duration::from_secs(step);
            match event {
                0..=2 => {
                    let admit = serve.on_request(peer(n), ServeId(step + 1000), now);
                    admitted += u64::from(admit == Admit::Queued);
                }
                3 => serve.on_read(ServeId(id + 1000), len, now),
                4 => serve.on_sent(ServeId(id + 1000), now),
                5 => serve.on_dropped(ServeId(id + 1000), now),
                _ => drop(serve.on_cancelled(ServeId(id + 1000), now)),
            }
            if serve.next_deadline().is_some_and(|deadline| deadline <= now) {
                serve.on_timeout(now);
                prop_assert!(serve.next_deadline().is_none_or(|deadline| deadline > now));
            }
            for action in drain(&mut serve) {
                reads += u64::from(matches!(action, ServeAction::Read { .. }));
            }
        }
        let stats = serve.stats();
        let ended = stats.served + stats.missing + stats.dropped;
        prop_assert!(reads <= admitted);
        prop_assert!(ended + u64::try_from(stats.queued + stats.in_flight).unwrap() <= admitted);
    }
}
