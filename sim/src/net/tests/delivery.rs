//! Bytes and time: what arrives, and when.

use std::task::Poll;

use futures::AsyncWrite;
use proptest::prelude::*;

use super::*;

fn limited(up: Option<BitRate>, down: Option<BitRate>) -> HostSpec {
    HostSpec { up, down, ..apart() }
}

async fn pair(net: &Net, from: HostSpec, to: HostSpec) -> (SimStream, SimStream) {
    let mut a = Peer::new(net, from).await;
    let mut b = Peer::new(net, to).await;
    a.connect(&mut b).await
}

/// How long it takes from the first write until the last byte is read.
async fn transfer(stream: &mut SimStream, other: &mut SimStream, len: usize) -> Duration {
    let (start, data) = (Instant::now(), bytes(len));
    futures::join!(send(stream, &data), expect(other, &data));
    start.elapsed()
}

fn is_near(found: Duration, expected: Duration, tolerance: Duration) -> bool {
    found.abs_diff(expected) <= tolerance
}

#[tokio::test(start_paused = true)]
async fn a_byte_takes_one_way() {
    let (mut a, mut b) = pair(&Net::new(1), apart(), apart()).await;
    assert_eq!(transfer(&mut a, &mut b, 1).await, 50 * MS);
    assert_eq!(transfer(&mut b, &mut a, 1000).await, 50 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_limited_link_takes_the_bits_over_the_rate() {
    let mega = |rate| Some(BitRate::mega(rate));
    // 1 MB is 8 Mbit; the slower one of the two links counts.
    for (up, down, millis) in [
        (mega(10), None, 800),
        (None, mega(10), 800),
        (mega(10), mega(100), 800 + 1),
        (mega(100), mega(10), 800 + 1),
        (mega(1), mega(1), 8000 + 131),
    ] {
        let (mut a, mut b) = pair(&Net::new(1), limited(up, None), limited(None, down)).await;
        let took = transfer(&mut a, &mut b, 1_000_000).await;
        assert!(is_near(took, (50 + millis) * MS, 4 * MS), "{up:?} {down:?} {took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn eight_megabytes_one_after_the_other_over_ten_megabit() {
    let (mut a, mut b) = pair(&Net::new(1), limited(Some(BitRate::mega(10)), None), apart()).await;
    let start = Instant::now();
    for _ in 0..8 {
        // A request of one byte, then the answer.
        transfer(&mut b, &mut a, 1).await;
        transfer(&mut a, &mut b, 1_000_000).await;
    }
    assert!(is_near(start.elapsed(), 8 * (900 * MS), 10 * MS), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn connections_share_a_limited_link_evenly() {
    let net = Net::new(1);
    let mut a = Peer::new(&net, limited(Some(BitRate::mega(8)), None)).await;
    let mut others = Vec::new();
    for _ in 0..4 {
        let mut b = Peer::new(&net, apart()).await;
        others.push(a.connect(&mut b).await);
    }
    let start = Instant::now();
    let all = others.iter_mut().map(|(stream, other)| transfer(stream, other, 500_000));
    for took in futures::future::join_all(all).await {
        assert!(is_near(took, 2050 * MS, 100 * MS), "{took:?}");
    }
    assert!(is_near(start.elapsed(), 2050 * MS, 4 * MS));
    // A small message does not wait for another connection's large one.
    let [first, second, ..] = others.as_mut_slice() else { panic!() };
    let (_, took) = futures::join!(
        transfer(&mut first.0, &mut first.1, 1_000_000),
        transfer(&mut second.0, &mut second.1, 100)
    );
    assert!(took < 100 * MS, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn rates_change_while_bytes_are_sent() {
    let net = Net::new(1);
    let (mut a, mut b) = pair(&net, limited(Some(BitRate::mega(8)), None), apart()).await;
    let host = HostId(0);
    let (took, ()) = futures::join!(transfer(&mut a, &mut b, 1_000_000), async {
        tokio::time::sleep(500 * MS).await;
        net.set_spec(host, HostSpec { up: Some(BitRate::mega(80)), ..net.spec(host) });
    });
    assert!(is_near(took, 600 * MS, 20 * MS), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn writes_wait_when_a_window_is_under_way() {
    let (mut a, mut b) = pair(&Net::new(1), apart(), apart()).await;
    let data = vec![7; 1 << 16];
    let mut written = 0;
    let is_pending = |a: &mut SimStream, written: &mut usize| {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        loop {
            match Pin::new(&mut *a).poll_write(&mut cx, &data) {
                Poll::Ready(len) => *written += len.unwrap(),
                Poll::Pending => return,
            }
        }
    };
    is_pending(&mut a, &mut written);
    assert_eq!(written, 1 << 20);
    // It is read at once; the writer learns it one way later.
    expect(&mut b, &vec![7; 1 << 20]).await;
    is_pending(&mut a, &mut written);
    assert_eq!(written, 1 << 20);
    tokio::time::sleep(50 * MS).await;
    is_pending(&mut a, &mut written);
    assert_eq!(written, 2 << 20);
    // Nobody reads: it stays so.
    tokio::time::sleep(3600 * SEC).await;
    is_pending(&mut a, &mut written);
    assert_eq!(written, 2 << 20);
}

#[tokio::test(start_paused = true)]
async fn a_window_a_round_trip_is_the_most_that_one_connection_carries() {
    let (mut a, mut b) = pair(&Net::new(1), apart(), apart()).await;
    let took = transfer(&mut a, &mut b, 10 << 20).await;
    assert!(is_near(took, 950 * MS, 5 * MS), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn jitter_and_loss_take_effect() {
    let jittery = HostSpec { jitter: 20 * MS, ..apart() };
    let lossy = HostSpec { loss: 0.2, ..apart() };
    for (spec, low, high) in [(jittery, 50 * MS, 71 * MS), (lossy, 50 * MS, 4 * SEC)] {
        let (mut a, mut b) = pair(&Net::new(1), spec.clone(), apart()).await;
        let mut times = Vec::new();
        for _ in 0..200 {
            times.push(transfer(&mut a, &mut b, 10).await);
        }
        times.sort();
        assert!(times[0] >= low && times[199] <= high, "{spec:?}: {:?} to {:?}", times[0], times[199]);
        let slow = times.iter().filter(|took| **took >= 300 * MS).count();
        assert_eq!(slow > 20 && slow < 70, spec.loss > 0.0, "{slow} of 200 were sent again");
        assert!(times[150] > times[0] || spec.loss > 0.0);
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_last_byte_comes_the_end() {
    let (mut a, mut b) = pair(&Net::new(1), apart(), apart()).await;
    send(&mut a, b"last words").await;
    a.close().await.unwrap();
    assert!(a.write(b"more").await.is_err());
    expect(&mut b, b"last words").await;
    assert_eq!(read_end(&mut b).await, Ok(0));
    // The other direction is still open.
    send(&mut b, b"goodbye").await;
    expect(&mut a, b"goodbye").await;
    drop(b);
    assert_eq!(read_end(&mut a).await, Ok(0));
}

#[tokio::test(start_paused = true)]
async fn what_was_written_arrives_although_the_writer_is_gone() {
    let net = Net::new(1);
    let mut a = Peer::new(&net, limited(Some(BitRate::mega(1)), None)).await;
    let mut b = Peer::new(&net, apart()).await;
    let dial = a.dial(&b.address);
    let data = bytes(200_000);
    let (_, (mut there, _)) = futures::join!(
        async {
            // Written and dropped before the listener has the connection.
            send(&mut dial.await.unwrap(), &data).await;
        },
        b.accept()
    );
    expect(&mut there, &data).await;
    assert_eq!(read_end(&mut there).await, Ok(0));
    drop(there);
    tokio::time::sleep(SEC).await;
    assert_eq!(net.with(|core| core.conns.iter().count()), 0);
}

fn rate() -> impl Strategy<Value = Option<BitRate>> {
    prop_oneof![Just(None), (1_u64..50).prop_map(|rate| Some(BitRate::mega(rate)))]
}

fn host() -> impl Strategy<Value = HostSpec> {
    (rate(), rate(), 0.0..0.3, 0_u64..40, 0_u64..100).prop_map(|(up, down, loss, jitter, access)| HostSpec {
        up,
        down,
        loss,
        jitter: Duration::from_millis(jitter),
        position: Position { access: Duration::from_millis(access), ..Position::default() },
        ..HostSpec::default()
    })
}

/// Runs random writes both ways, and interruptions; returns the trace and when it was over.
fn exchange(
    seed: u64,
    hosts: &[HostSpec; 2],
    writes: &[(usize, u64)],
    cuts: &[(u64, u64)],
) -> (String, Duration) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let net = Net::new(seed);
        let start = Instant::now();
        // Dials may be lost altogether, so loss begins with the first byte.
        let calm = |host: &HostSpec| HostSpec { loss: 0.0, ..host.clone() };
        let (a, b) = pair(&net, calm(&hosts[0]), calm(&hosts[1])).await;
        net.set_spec(HostId(0), hosts[0].clone());
        net.set_spec(HostId(1), hosts[1].clone());
        let (mut from_a, mut to_a) = a.split();
        let (mut from_b, mut to_b) = b.split();
        let data = bytes(writes.iter().map(|(len, _)| len).sum());
        let write = async |to: &mut futures::io::WriteHalf<SimStream>| {
            let mut rest = data.as_slice();
            for (len, pause) in writes {
                let (part, after) = rest.split_at(*len);
                to.write_all(part).await.unwrap();
                rest = after;
                tokio::time::sleep(Duration::from_millis(*pause)).await;
            }
            to.close().await.unwrap();
        };
        let read = async |from: &mut futures::io::ReadHalf<SimStream>| {
            let mut got = Vec::new();
            from.read_to_end(&mut got).await.unwrap();
            assert!(got == data, "{} of {} bytes", got.len(), data.len());
        };
        let cut = async {
            for (after, lasts) in cuts {
                tokio::time::sleep(Duration::from_millis(*after)).await;
                net.partition(&[vec![HostId(0)], vec![HostId(1)]]);
                tokio::time::sleep(Duration::from_millis(*lasts)).await;
                net.heal();
            }
        };
        let all = async {
            futures::join!(write(&mut to_a), write(&mut to_b), read(&mut from_a), read(&mut from_b), cut)
        };
        tokio::time::timeout(3600 * SEC, all).await.expect("it ends");
        (net.trace_hash(), start.elapsed())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_byte_arrives_once_and_in_order_and_a_seed_repeats(
        seed in 0_u64..1000,
        hosts in [host(), host()],
        writes in prop::collection::vec((1_usize..200_000, 0_u64..30), 1..12),
        // Together shorter than what connections survive.
        cuts in prop::collection::vec((0_u64..2000, 1_u64..13_000), 0..3),
    ) {
        let first = exchange(seed, &hosts, &writes, &cuts);
        prop_assert_eq!(&first, &exchange(seed, &hosts, &writes, &cuts));
        let is_drawn = hosts.iter().any(|host| host.loss > 0.05 || host.jitter > 5 * MS);
        if is_drawn {
            prop_assert_ne!(first.0, exchange(seed + 1, &hosts, &writes, &cuts).0);
        }
    }
}
