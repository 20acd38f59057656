#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "virtual time has to begin at some instant")]

use std::time::Duration;

use dhtfs_store::{ChunkCid, ManifestCid};
use libp2p::multihash::Multihash;
use proptest::prelude::*;

use super::*;
use crate::core::rate::{Limit, MIN_LIMIT};

const MIB: u32 = 1 << 20;

fn peer(n: u8) -> PeerId {
    PeerId::from_multihash(Multihash::wrap(0, &[n; 8]).unwrap()).unwrap()
}

/// What is asked for where that makes no difference.
fn any() -> ContentCid {
    chunk(0)
}

fn chunk(n: u8) -> ContentCid {
    ChunkCid::from_digest([n; 32]).into()
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
            ServeAction::Read { id, peer, .. } => (id.0, peer),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_request_is_read_at_once_when_nothing_else_is_going_on() {
    let now = Instant::now();
    let mut serve = Serve::new(ServeConfig::default());
    assert_eq!(serve.on_request(peer(1), ServeId(7), any(), false, now), Admit::Queued);
    assert_eq!(reads(&mut serve), [(7, peer(1))]);
    serve.on_reads(&[(ServeId(7), Some(1000))], now);
    serve.on_sent(ServeId(7), now);
    let stats = serve.stats();
    assert_eq!((stats.served, stats.served_len, stats.budget_used_len), (1, 1000, 0));
    serve.check_invariants();
}

#[test]
fn the_last_block_of_the_budget_is_for_manifests() {
    let now = Instant::now();
    let manifest = |n| ContentCid::from(ManifestCid::from_digest([n; 32]));
    let mut serve = Serve::new(ServeConfig { budget_len: 4 << 20, ..ServeConfig::default() });
    for n in 1..=4 {
        let _ = serve.on_request(peer(n), ServeId(n.into()), chunk(n), false, now);
    }
    assert_eq!(reads(&mut serve).len(), 3);
    let _ = serve.on_request(peer(5), ServeId(5), manifest(5), false, now);
    assert_eq!(reads(&mut serve), [(5, peer(5))], "though others have waited longer");
    let _ = serve.on_request(peer(6), ServeId(6), manifest(6), false, now);
    assert_eq!(reads(&mut serve), [], "the budget is a budget");
    serve.on_reads(&[(ServeId(1), Some(MIB))], now);
    serve.on_sent(ServeId(1), now);
    assert_eq!(reads(&mut serve), [(4, peer(4))], "a manifest has that block already");
    serve.on_reads(&[(ServeId(5), Some(500))], now);
    serve.on_sent(ServeId(5), now);
    assert_eq!(reads(&mut serve), [(6, peer(6))]);
    let small = ServeConfig { budget_len: 2 << 20, ..ServeConfig::default() };
    let mut serve = Serve::new(small);
    for n in 1..=2 {
        let _ = serve.on_request(peer(n), ServeId(n.into()), chunk(n), false, now);
    }
    assert_eq!(reads(&mut serve).len(), 2, "of a small one nothing is kept");
}

#[test]
fn who_asks_and_goes_away_does_not_change_what_others_were_sent() {
    let now = Instant::now();
    let mut serve = Serve::new(ServeConfig::default());
    let mut next = 0;
    let mut read = |serve: &mut Serve, n| {
        next += 1;
        let id = ServeId(next);
        let _ = serve.on_request(peer(n), id, chunk(9), false, now);
        drain(serve);
        id
    };
    let sent = read(&mut serve, 1);
    serve.on_reads(&[(sent, Some(MIB))], now);
    serve.on_sent(sent, now);
    assert_eq!(serve.sent.times(&chunk(9), now), 1);
    let cut = read(&mut serve, 2);
    serve.on_reads(&[(cut, Some(MIB))], now);
    assert_eq!(serve.sent.times(&chunk(9), now), 2);
    serve.on_dropped(cut, now);
    assert_eq!(serve.sent.times(&chunk(9), now), 1, "not all of it was sent");
    let gone = read(&mut serve, 2);
    serve.on_dropped(gone, now);
    serve.on_reads(&[(gone, Some(MIB))], now);
    assert_eq!(serve.sent.times(&chunk(9), now), 1, "it was read for nobody, and did not count");
    let missing = read(&mut serve, 2);
    serve.on_reads(&[(missing, Some(0))], now);
    serve.on_dropped(missing, now);
    assert_eq!(serve.sent.times(&chunk(9), now), 1);
    serve.check_invariants();
}

#[test]
fn a_read_of_nothing_counts_as_missing() {
    let now = Instant::now();
    let mut serve = Serve::new(ServeConfig::default());
    let _ = serve.on_request(peer(1), ServeId(7), any(), false, now);
    drain(&mut serve);
    serve.on_reads(&[(ServeId(7), Some(0))], now);
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
        let admit = serve.on_request(peer(n), ServeId(id), any(), false, now);
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
    let _ = serve.on_request(peer(1), ServeId(1), any(), false, now);
    assert_eq!(serve.on_request(peer(2), ServeId(1), any(), false, now), Admit::Busy);
    assert_eq!(drain(&mut serve).len(), 1);
}

#[test]
fn a_peer_that_does_not_drain_its_socket_leaves_room_for_others() {
    let now = Instant::now();
    let mut serve = Serve::new(ServeConfig::default());
    for id in 0..60 {
        let _ = serve.on_request(peer(1), ServeId(id), any(), false, now);
    }
    assert_eq!(reads(&mut serve).len(), 6, "half of the budget for the only peer");
    let _ = serve.on_request(peer(2), ServeId(100), any(), false, now);
    assert_eq!(reads(&mut serve), [(100, peer(2))]);
}

#[test]
fn what_waited_too_long_is_refused() {
    let now = Instant::now();
    let mut serve = Serve::new(ServeConfig { budget_len: 2 << 20, ..ServeConfig::default() });
    for id in 0..3 {
        let _ = serve.on_request(peer(1), ServeId(id), any(), false, now);
    }
    assert_eq!(reads(&mut serve), [(0, peer(1))]);
    let deadline = serve.next_deadline().unwrap();
    assert_eq!(deadline, now + ServeConfig::default().max_queue_time);
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
            let _ = serve.on_request(peer(1), id, any(), false, now);
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
    (0..6).for_each(|id| serve.on_reads(&[(ServeId(id), Some(MIB))], now));
    serve.check_invariants();
    assert_eq!((serve.stats().budget_used_len, serve.stats().dropped), (0, 400));
    serve.on_sent(ServeId(3), now);
    serve.on_reads(&[(ServeId(4), Some(MIB))], now);
    serve.on_dropped(ServeId(5), now);
    assert_eq!((serve.stats().dropped, serve.stats().served), (400, 0), "ids that are gone are ignored");
}

#[test]
fn what_is_taken_back_in_time_is_not_read_and_the_rest_goes_on() {
    let now = Instant::now();
    let mut serve = Serve::new(ServeConfig { budget_len: 2 << 20, ..ServeConfig::default() });
    for id in 0..3 {
        let _ = serve.on_request(peer(1), ServeId(id), any(), false, now);
    }
    assert_eq!(reads(&mut serve), [(0, peer(1))]);
    assert!(!serve.on_cancelled(ServeId(0), now), "it is being read");
    assert!(serve.on_cancelled(ServeId(1), now));
    assert!(!serve.on_cancelled(ServeId(1), now), "it is gone");
    serve.on_reads(&[(ServeId(0), Some(MIB))], now);
    serve.on_sent(ServeId(0), now);
    assert_eq!(reads(&mut serve), [(2, peer(1))]);
}

/// Serves peers that each keep `depth` requests for blocks of `len` bytes open, the socket draining in order,
/// until `rounds` answers are sent; answers the bytes each was sent.
fn serve_all(peers: &[(u32, usize)], rounds: usize) -> Vec<u64> {
    serve_all_of(Serve::new(ServeConfig::default()), peers, rounds, |_| false)
}

/// The same by this machine, to peers of which some are metered.
fn serve_all_of(
    mut serve: Serve,
    peers: &[(u32, usize)],
    rounds: usize,
    is_metered: fn(usize) -> bool,
) -> Vec<u64> {
    let now = Instant::now();
    let mut id = 0;
    let mut sent = vec![0; peers.len()];
    let mut open = vec![0; peers.len()];
    let mut in_flight = VecDeque::new();
    for _ in 0..rounds {
        for (n, (_, depth)) in peers.iter().enumerate() {
            while open[n] < *depth {
                id += 1;
                open[n] += 1;
                assert_eq!(
                    serve.on_request(peer(u8::try_from(n).unwrap()), ServeId(id), any(), is_metered(n), now),
                    Admit::Queued
                );
            }
        }
        for action in drain(&mut serve) {
            let ServeAction::Read { id, peer: who, .. } = action else { panic!("{action:?}") };
            let n = (0..peers.len()).find(|n| peer(u8::try_from(*n).unwrap()) == who).unwrap();
            serve.on_reads(&[(id, Some(peers[n].0))], now);
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
fn without_a_limit_it_makes_no_difference_where_a_peer_is() {
    let far = |n| n == 0;
    let near = [(MIB, 8); 4];
    assert_near(&serve_all_of(Serve::new(ServeConfig::default()), &near, 400, far), 1.1);

    let now = Instant::now();
    let mut unlimited = Serve::new(ServeConfig::default());
    unlimited.on_limits(&limits(MIN_LIMIT, Some(MIN_LIMIT)), now);
    unlimited.on_limits(&Limits::default(), now);
    assert_near(&serve_all_of(unlimited, &near, 400, far), 1.1);
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

/// What a driver has under way: requests that are read together end together.
#[derive(Default)]
struct Reading(Vec<Vec<ServeId>>);

impl Reading {
    /// Takes what is to be read; how many requests.
    fn begin(&mut self, serve: &mut Serve) -> u64 {
        let mut begun = 0;
        for action in drain(serve) {
            let ServeAction::Read { id, joins, .. } = action else { continue };
            begun += 1;
            if joins {
                self.0.last_mut().unwrap().push(id);
            } else {
                self.0.push(vec![id]);
            }
        }
        begun
    }

    /// One of the reads ends: the first request has this length, the others what may join it, and the last one of several
    /// is sometimes too long. How many were not read.
    fn end(&mut self, serve: &mut Serve, choice: u64, len: u32, now: Instant) -> u64 {
        if self.0.is_empty() {
            return 0;
        }
        let place = usize::try_from(choice).unwrap() % self.0.len();
        let together = self.0.remove(place);
        let joined_len = (MIB - len) / 32;
        let mut reads: Vec<_> = together.iter().map(|id| (*id, Some(joined_len))).collect();
        reads[0].1 = Some(len);
        let too_long = together.len() > 1 && choice.is_multiple_of(3);
        if too_long {
            reads.last_mut().unwrap().1 = None;
        }
        serve.on_reads(&reads, now);
        u64::from(too_long)
    }
}

fn read_len() -> impl Strategy<Value = u32> {
    prop_oneof![0..=MIB, 1_u32..20_000]
}

#[test]
fn small_requests_gather_and_are_read_together() {
    let now = Instant::now();
    let mut serve = Serve::new(ServeConfig::default());
    let ask = |serve: &mut Serve, id| {
        assert_eq!(serve.on_request(peer(1), ServeId(id), any(), false, now), Admit::Queued);
    };
    let together = |serve: &mut Serve| {
        let read = |action| match action {
            ServeAction::Read { id, joins, .. } => (id.0, joins),
            other => panic!("{other:?}"),
        };
        drain(serve).into_iter().map(read).collect::<Vec<_>>()
    };
    ask(&mut serve, 0);
    assert_eq!(together(&mut serve), [(0, false)], "nothing is known of it yet");
    serve.on_reads(&[(ServeId(0), Some(100))], now);
    (1..40).for_each(|id| ask(&mut serve, id));
    assert_eq!(together(&mut serve), [(1, false), (2, false)], "two are under way, the others gather");
    serve.on_reads(&[(ServeId(1), Some(100))], now);
    let expected: Vec<_> = (3..35).map(|id| (id, id > 3)).collect();
    assert_eq!(together(&mut serve), expected);
    assert_eq!(serve.stats().budget_used_len, 200 + 2 * u64::from(MIB), "for the price of one long block");

    // All but the last two fit.
    let mut reads: Vec<_> = (3..35).map(|id| (ServeId(id), Some(1000))).collect();
    reads[30].1 = None;
    reads[31].1 = None;
    serve.on_reads(&reads, now);
    let expected: Vec<_> = (33..40).map(|id| (id, id > 33)).collect();
    assert_eq!(together(&mut serve), expected, "what was not read is next, in its order");
    assert_eq!(serve.stats().budget_used_len, 200 + 30 * 1000 + 2 * u64::from(MIB));

    // A long one ends it.
    let mut reads: Vec<_> = (33..40).map(|id| (ServeId(id), None)).collect();
    reads[0].1 = Some(MIB);
    serve.on_reads(&reads, now);
    assert_eq!(together(&mut serve), (34..38).map(|id| (id, false)).collect::<Vec<_>>());
}

proptest! {
    #[test]
    fn the_books_balance_whatever_happens(
        events in prop::collection::vec((0_u8..7, 0_u8..5, 0_u64..80, read_len()), 1..300),
        budget_len in 0_u64..(20 << 20),
    ) {
        let start = Instant::now();
        let mut serve = Serve::new(ServeConfig { budget_len, max_queued: 40, ..ServeConfig::default() });
        let mut admitted = 0;
        let mut reads = 0;
        let mut reading = Reading::default();
        for (step, (event, n, id, len)) in (0_u64..).zip(events) {
            let now = start + Duration::from_secs(step);
            match event {
                0..=2 => {
                    let admit = serve.on_request(peer(n), ServeId(step + 1000), any(), false, now);
                    admitted += u64::from(admit == Admit::Queued);
                }
                3 => reads -= reading.end(&mut serve, id, len, now),
                4 => serve.on_sent(ServeId(id + 1000), now),
                5 => serve.on_dropped(ServeId(id + 1000), now),
                _ => drop(serve.on_cancelled(ServeId(id + 1000), now)),
            }
            if serve.next_deadline().is_some_and(|deadline| deadline <= now) {
                serve.on_timeout(now);
                prop_assert!(serve.next_deadline().is_none_or(|deadline| deadline > now));
            }
            reads += reading.begin(&mut serve);
        }
        let stats = serve.stats();
        let ended = stats.served + stats.missing + stats.dropped;
        prop_assert!(reads <= admitted);
        prop_assert!(ended + u64::try_from(stats.queued + stats.in_flight).unwrap() <= admitted);
    }
}

/// Limits of so many bytes a second on what is sent.
fn limits(up: u64, up_per_peer: Option<u64>) -> Limits {
    let limit = |rate| Limit::of(rate).unwrap();
    Limits { up: limit(up), up_per_peer: up_per_peer.map(limit).unwrap_or_default(), ..Limits::default() }
}

#[test]
fn metered_answers_are_read_as_the_limit_covers_them() {
    let now = Instant::now();
    let mut serve = Serve::new(ServeConfig::default());
    serve.on_limits(&limits(100 * 1024, None), now);
    for id in 0..3 {
        let _ = serve.on_request(peer(1), ServeId(id), any(), true, now);
    }
    assert_eq!(reads(&mut serve), [(0, peer(1))], "the first one at once");
    serve.on_reads(&[(ServeId(0), Some(MIB))], now);
    // A quarter of a second before the first one is through.
    let at = now + Duration::from_millis(10_240 - 250);
    assert_eq!(serve.next_deadline(), Some(at));
    serve.on_timeout(at - Duration::from_millis(1));
    assert_eq!(reads(&mut serve), []);
    serve.on_timeout(at);
    assert_eq!(reads(&mut serve), [(1, peer(1))], "whether or not the first one was taken");
    serve.on_limits(&Limits::default(), at);
    assert_eq!(reads(&mut serve), [(2, peer(1))], "without a limit the rest follows");
}

#[test]
fn who_is_not_metered_does_not_wait_for_the_limit() {
    let now = Instant::now();
    let mut serve = Serve::new(ServeConfig::default());
    serve.on_limits(&limits(MIN_LIMIT, None), now);
    for id in 0..3 {
        let _ = serve.on_request(peer(1), ServeId(id), any(), true, now);
    }
    for id in 10..13 {
        let _ = serve.on_request(peer(2), ServeId(id), any(), false, now);
    }
    assert_eq!(reads(&mut serve), [(0, peer(1)), (10, peer(2)), (11, peer(2)), (12, peer(2))]);
}

#[test]
fn what_is_not_here_costs_nothing_of_the_limit() {
    let now = Instant::now();
    let mut serve = Serve::new(ServeConfig::default());
    serve.on_limits(&limits(MIN_LIMIT, None), now);
    for id in 0..50 {
        let _ = serve.on_request(peer(1), ServeId(id), any(), true, now);
        assert_eq!(reads(&mut serve), [(id, peer(1))]);
        serve.on_reads(&[(ServeId(id), Some(0))], now);
        serve.on_sent(ServeId(id), now);
    }
}

#[test]
fn who_breaks_off_and_comes_again_does_not_keep_others_from_the_limit() {
    let mut now = Instant::now();
    let mut serve = Serve::new(ServeConfig::default());
    serve.on_limits(&limits(1 << 20, None), now);
    let (patient, breaking) = (peer(9), peer(1));
    for id in 0..8 {
        let _ = serve.on_request(patient, ServeId(id), any(), true, now);
    }
    let mut id = 100;
    let mut served = 0;
    for _ in 0..6 {
        id += 1;
        let _ = serve.on_request(breaking, ServeId(id), any(), true, now);
        for (read, reader) in reads(&mut serve) {
            serve.on_reads(&[(ServeId(read), Some(MAX_BLOCK_LEN))], now);
            if reader == patient {
                served += 1;
                serve.on_sent(ServeId(read), now);
            } else {
                serve.on_dropped(ServeId(read), now);
            }
        }
        serve.check_invariants();
        now = serve.next_deadline().unwrap();
        serve.on_timeout(now);
    }
    assert!(served >= 3, "{served} of 6");
}

#[test]
fn a_free_peer_that_had_much_keeps_no_metered_newcomer_waiting() {
    let now = Instant::now();
    let mut serve = Serve::new(ServeConfig::default());
    serve.on_limits(&limits(512 * 1024, None), now);
    let mut ids = 0..;
    let mut ask = |serve: &mut Serve, who, metered| {
        let id = ServeId(ids.next().unwrap());
        let _ = serve.on_request(who, id, any(), metered, now);
    };
    let answer = |serve: &mut Serve, now| {
        let reading = reads(serve);
        for (read, _) in &reading {
            serve.on_reads(&[(ServeId(*read), Some(MAX_BLOCK_LEN))], now);
            serve.on_sent(ServeId(*read), now);
        }
        reading
    };
    for _ in 0..2 {
        ask(&mut serve, peer(1), true);
    }
    for _ in 0..1000 {
        ask(&mut serve, peer(2), false);
        answer(&mut serve, now);
    }
    for _ in 0..4 {
        ask(&mut serve, peer(3), true);
        ask(&mut serve, peer(1), true);
    }
    let (mut later, mut newcomer) = (now, 0);
    for _ in 0..4 {
        later += Duration::from_secs(3);
        serve.on_timeout(later);
        newcomer += answer(&mut serve, later).iter().filter(|(_, reader)| *reader == peer(3)).count();
    }
    assert!(newcomer >= 1, "{newcomer}");
}

#[test]
fn a_limit_for_each_peer_bounds_what_one_holds_and_not_the_others() {
    let now = Instant::now();
    let mut serve = Serve::new(ServeConfig::default());
    serve.on_limits(&Limits { up: Limit::NONE, ..limits(MIN_LIMIT, Some(MIN_LIMIT)) }, now);
    for id in 0..4 {
        let _ = serve.on_request(peer(1), ServeId(id), any(), true, now);
    }
    for id in 10..12 {
        let _ = serve.on_request(peer(2), ServeId(id), any(), true, now);
    }
    assert_eq!(reads(&mut serve), [(0, peer(1)), (10, peer(2))]);
    serve.on_reads(&[(ServeId(0), Some(MIB))], now);
    serve.on_sent(ServeId(0), now);
    assert_eq!(reads(&mut serve), [(1, peer(1))], "as soon as the one before is sent");
}

#[test]
fn what_the_limit_delays_is_refused_no_sooner_and_no_later_than_anything_else() {
    let now = Instant::now();
    let mut serve = Serve::new(ServeConfig::default());
    serve.on_limits(&limits(MIN_LIMIT, None), now);
    for n in 1..3 {
        let _ = serve.on_request(peer(n), ServeId(n.into()), any(), true, now);
    }
    assert_eq!(reads(&mut serve), [(1, peer(1))]);
    let patience = ServeConfig::default().max_queue_time;
    assert_eq!(serve.next_deadline(), Some(now + patience));
    serve.on_timeout(now + patience - Duration::from_millis(1));
    assert_eq!(drain(&mut serve), []);
    serve.on_timeout(now + patience);
    assert_eq!(drain(&mut serve), [ServeAction::Refuse { id: ServeId(2), peer: peer(2) }]);
}

/// What metered peers with such requests, length and depth, are given within so many seconds of a limit, each taking what
/// it is given at once; and when what was read.
fn serve_limited(rate: u64, peers: &[(u32, usize)], secs: u64) -> (Vec<u64>, Vec<(Duration, u64)>) {
    let start = Instant::now();
    let mut now = start;
    let mut serve = Serve::new(ServeConfig::default());
    serve.on_limits(&limits(rate, None), now);
    let (mut sent, mut open, mut id, mut log) = (vec![0; peers.len()], vec![0; peers.len()], 0, Vec::new());
    while now < start + Duration::from_secs(secs) {
        for (n, (_, depth)) in peers.iter().enumerate() {
            while open[n] < *depth {
                id += 1;
                open[n] += 1;
                let _ = serve.on_request(peer(u8::try_from(n).unwrap()), ServeId(id), any(), true, now);
            }
        }
        let actions = drain(&mut serve);
        for action in &actions {
            let (ServeAction::Read { id, peer: who, .. } | ServeAction::Refuse { id, peer: who }) = *action;
            let n = (0..peers.len()).find(|n| peer(u8::try_from(*n).unwrap()) == who).unwrap();
            open[n] -= 1;
            if matches!(action, ServeAction::Read { .. }) {
                serve.on_reads(&[(id, Some(peers[n].0))], now);
                serve.on_sent(id, now);
                sent[n] += u64::from(peers[n].0);
                log.push((now - start, u64::from(peers[n].0)));
            }
        }
        if actions.is_empty() {
            now = serve.next_deadline().unwrap();
            serve.on_timeout(now);
        }
    }
    (sent, log)
}

#[test]
fn under_a_limit_equal_peers_get_equal_bytes_whatever_they_ask_for() {
    let rate = 2 << 20;
    let (sent, _) = serve_limited(rate, &[(MIB, 60), (MIB, 2), (MIB / 8, 30)], 600);
    assert_near(&sent, 1.1);
    let total: u64 = sent.iter().sum();
    assert!(total >= 590 * rate, "the limit is used: {total}");
}

proptest! {
    #[test]
    fn in_no_time_more_is_read_than_the_limit_allows(
        rate in MIN_LIMIT..(8 << 20),
        peers in prop::collection::vec((MIB / 4..=MIB, 1_usize..20), 1..5),
    ) {
        let (_, log) = serve_limited(rate, &peers, 20);
        let burst = u64::from(MAX_BLOCK_LEN) + rate / 4;
        for (place, (from, _)) in log.iter().enumerate() {
            let mut sum = 0;
            for (to, len) in &log[place..] {
                sum += u128::from(*len);
                let allowed = (*to - *from).as_nanos() * u128::from(rate) / 1_000_000_000;
                prop_assert!(sum <= allowed + u128::from(burst) + 1);
            }
        }
    }

    #[test]
    fn the_books_balance_under_limits_that_change(
        events in prop::collection::vec((0_u8..8, 0_u8..5, 0_u64..80, read_len()), 1..300),
    ) {
        let start = Instant::now();
        let mut serve = Serve::new(ServeConfig { max_queued: 40, ..ServeConfig::default() });
        let mut reading = Reading::default();
        for (step, (event, n, id, len)) in (0_u64..).zip(events) {
            let now = start + Duration::from_secs(step);
            match event {
                0..=2 => drop(serve.on_request(peer(n), ServeId(step + 1000), any(), n < 3, now)),
                3 => drop(reading.end(&mut serve, id, len, now)),
                4 => serve.on_sent(ServeId(id + 1000), now),
                5 => serve.on_dropped(ServeId(id + 1000), now),
                6 => drop(serve.on_cancelled(ServeId(id + 1000), now)),
                _ if len == 0 => serve.on_limits(&Limits::default(), now),
                _ => serve.on_limits(&limits(MIN_LIMIT + u64::from(len), Some(MIN_LIMIT + id)), now),
            }
            if serve.next_deadline().is_some_and(|deadline| deadline <= now) {
                serve.on_timeout(now);
                prop_assert!(serve.next_deadline().is_none_or(|deadline| deadline > now));
            }
            reading.begin(&mut serve);
        }
    }
}

#[test]
fn what_others_were_not_sent_comes_first_and_nothing_waits_for_long() {
    let now = Instant::now();
    let block = u64::from(MAX_BLOCK_LEN);
    let mut serve = Serve::new(ServeConfig { budget_len: 2 * block, ..ServeConfig::default() });
    let ask = |serve: &mut Serve, n: u8, id: u64, of: u8, now| {
        assert_eq!(serve.on_request(peer(n), ServeId(id), chunk(of), false, now), Admit::Queued);
    };
    let done = |serve: &mut Serve, id: u64, now| {
        serve.on_reads(&[(ServeId(id), Some(MAX_BLOCK_LEN))], now);
        serve.on_sent(ServeId(id), now);
    };
    // Both ask for the same three in the same order; one place each.
    for (n, first) in [(1, 10), (2, 20)] {
        for of in 1..=3 {
            ask(&mut serve, n, first + u64::from(of), of, now);
        }
    }
    assert_eq!(
        reads(&mut serve),
        [(11, peer(1)), (21, peer(2))],
        "when they came there was nothing to choose from"
    );
    done(&mut serve, 11, now);
    assert_eq!(reads(&mut serve), [(12, peer(1))], "of equal ones the first");
    serve.on_reads(&[(ServeId(12), Some(MAX_BLOCK_LEN))], now);
    done(&mut serve, 21, now);
    assert_eq!(reads(&mut serve), [(23, peer(2))], "the one that nobody has");
    let soon = now + PASSED_OVER / 2;
    ask(&mut serve, 1, 14, 4, soon);
    ask(&mut serve, 1, 15, 5, soon);
    serve.on_reads(&[(ServeId(23), Some(MAX_BLOCK_LEN))], soon);
    serve.on_sent(ServeId(12), soon);
    assert_eq!(reads(&mut serve), [(14, peer(1))]);
    let late = now + PASSED_OVER;
    done(&mut serve, 14, late);
    assert_eq!(reads(&mut serve), [(13, peer(1))], "it has waited long enough");
}

#[test]
fn a_peer_that_is_alone_is_served_in_its_own_order() {
    let now = Instant::now();
    let mut serve =
        Serve::new(ServeConfig { budget_len: 2 * u64::from(MAX_BLOCK_LEN), ..ServeConfig::default() });
    for (id, of) in [(1, 1), (2, 1), (3, 2)] {
        let _ = serve.on_request(peer(1), ServeId(id), chunk(of), false, now);
    }
    assert_eq!(reads(&mut serve), [(1, peer(1))]);
    for id in 1..3 {
        serve.on_reads(&[(ServeId(id), Some(MAX_BLOCK_LEN))], now);
        serve.on_sent(ServeId(id), now);
        assert_eq!(reads(&mut serve), [(id + 1, peer(1))]);
    }
}
