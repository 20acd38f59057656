//! Every kind of fault takes effect, and goes again.

use std::io::ErrorKind;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_short_absence_is_survived_and_a_long_one_is_not() {
    for (absence, is_survived) in [(20 * SEC, true), (29 * SEC, true), (31 * SEC, false), (300 * SEC, false)]
    {
        let (net, mut a, mut b) = two(1).await;
        let (mut ours, mut theirs) = a.connect(&mut b).await;
        net.set_online(b.host, false);
        send(&mut ours, b"are you there").await;
        tokio::time::sleep(absence).await;
        assert_eq!(net.stats(b.host).received, 0, "nothing gets in");
        net.set_online(b.host, true);
        if is_survived {
            let start = Instant::now();
            expect(&mut theirs, b"are you there").await;
            assert_eq!(start.elapsed(), 350 * MS, "sent again after 300 ms");
            send(&mut theirs, b"yes").await;
            expect(&mut ours, b"yes").await;
        } else {
            assert_eq!(read_end(&mut ours).await, Err(ErrorKind::TimedOut));
            assert_eq!(ours.write(b"x").await.unwrap_err().kind(), ErrorKind::TimedOut);
            // The one that was away learns it when it sends.
            send(&mut theirs, b"hello").await;
            assert_eq!(read_end(&mut theirs).await, Err(ErrorKind::ConnectionReset));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_absent_host_sends_nothing_and_its_own_ends_fail() {
    let (net, mut a, mut b) = two(1).await;
    let (mut ours, mut theirs) = a.connect(&mut b).await;
    net.set_online(b.host, false);
    send(&mut theirs, b"lost").await;
    assert_eq!(read_end(&mut ours).await, Err(ErrorKind::WouldBlock), "nothing gets out");
    assert_eq!(read_end(&mut theirs).await, Err(ErrorKind::TimedOut));
    assert_eq!(b.dial(&a.address).await.unwrap_err().kind(), ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn what_left_before_the_absence_arrives() {
    let (net, mut a, mut b) = two(1).await;
    let (mut ours, mut theirs) = a.connect(&mut b).await;
    send(&mut theirs, b"in time").await;
    net.set_online(b.host, false);
    expect(&mut ours, b"in time").await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_is_noticed_by_who_sends_and_not_by_who_reads() {
    let (net, mut a, mut b) = two(1).await;
    let (mut ours, theirs) = a.connect(&mut b).await;
    net.crash(b.host);
    drop(theirs);
    assert_eq!(read_end(&mut ours).await, Err(ErrorKind::WouldBlock), "an idle reader never notices");
    let start = Instant::now();
    send(&mut ours, b"ping").await;
    assert_eq!(read_end(&mut ours).await, Err(ErrorKind::TimedOut));
    assert_eq!(start.elapsed(), RETRANSMISSION_TIMEOUT + ONE_WAY);
    drop(ours);
    assert_eq!(net.with(|core| core.conns.iter().count()), 0);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_restarted_answers_old_connections_with_a_reset() {
    let (net, mut a, mut b) = two(1).await;
    let (mut ours, _theirs) = a.connect(&mut b).await;
    net.crash(b.host);
    assert!(!net.reachable(a.host, b.host));
    let mut again = Peer::on(&net, b.host, 4001).await;
    assert_eq!(again.address, b.address, "the port is free");
    let start = Instant::now();
    send(&mut ours, b"ping").await;
    assert_eq!(read_end(&mut ours).await, Err(ErrorKind::ConnectionReset));
    assert_eq!(start.elapsed(), 100 * MS);
    let (mut ours, mut theirs) = a.connect(&mut again).await;
    send(&mut ours, b"hello again").await;
    expect(&mut theirs, b"hello again").await;
    assert!(b.dial(&a.address).await.is_err(), "what belonged to the dead process does nothing");
}

#[tokio::test(start_paused = true)]
async fn a_dialler_that_restarted_replaces_the_connection_it_left_behind() {
    let (net, mut a, mut b) = two(1).await;
    let (_ours, mut theirs) = a.connect(&mut b).await;
    net.crash(a.host);
    let mut again = Peer::on(&net, a.host, 4001).await;
    let start = Instant::now();
    let (mut ours, mut new) = again.connect(&mut b).await;
    assert_eq!(start.elapsed(), 1150 * MS, "its first packet only cleared the old one");
    assert_eq!(read_end(&mut theirs).await, Err(ErrorKind::ConnectionReset));
    send(&mut ours, b"new").await;
    expect(&mut new, b"new").await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_exits_is_noticed_at_once() {
    let (net, mut a, mut b) = two(1).await;
    let (mut ours, mut theirs) = a.connect(&mut b).await;
    send(&mut theirs, b"bye").await;
    net.close(b.host);
    expect(&mut ours, b"bye").await;
    assert_eq!(read_end(&mut ours).await, Ok(0));
    assert_eq!(a.dial(&b.address).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(theirs.write(b"x").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_dropped_unread_resets() {
    let (_net, mut a, mut b) = two(1).await;
    let (mut ours, theirs) = a.connect(&mut b).await;
    send(&mut ours, b"unread").await;
    tokio::time::sleep(SEC).await;
    drop(theirs);
    assert_eq!(read_end(&mut ours).await, Ok(0), "first the end, then the reset");
    assert_eq!(ours.write(b"x").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn a_partition_cuts_both_ways_and_heals() {
    let (net, mut a, mut b) = two(1).await;
    let mut c = Peer::new(&net, apart()).await;
    let (mut ours, mut theirs) = a.connect(&mut b).await;
    net.partition(&[vec![a.host], vec![b.host]]);
    assert!(!net.reachable(a.host, b.host) && !net.reachable(b.host, a.host));
    assert!(net.reachable(a.host, c.host), "in no group");
    send(&mut ours, b"1").await;
    send(&mut theirs, b"2").await;
    assert_eq!(b.dial(&a.address).await.unwrap_err().kind(), ErrorKind::TimedOut);
    a.connect(&mut c).await;
    net.heal();
    assert!(net.reachable(a.host, b.host));
    expect(&mut theirs, b"1").await;
    expect(&mut ours, b"2").await;
}

#[tokio::test(start_paused = true)]
async fn a_one_way_partition_lets_bytes_through_but_no_acknowledgements() {
    for is_block in [true, false] {
        let (net, mut a, mut b) = two(1).await;
        let (mut ours, mut theirs) = a.connect(&mut b).await;
        if is_block {
            net.block(b.host, a.host, true);
        } else {
            net.partition_one_way(&[b.host], &[a.host]);
        }
        send(&mut ours, b"gets there").await;
        send(&mut theirs, b"does not").await;
        expect(&mut theirs, b"gets there").await;
        assert!(!net.reachable(a.host, b.host) && !net.reachable(b.host, a.host));
        assert_eq!(read_end(&mut ours).await, Err(ErrorKind::TimedOut));
        assert_eq!(read_end(&mut theirs).await, Err(ErrorKind::TimedOut));
        assert_eq!(a.dial(&b.address).await.unwrap_err().kind(), ErrorKind::TimedOut);
        net.heal();
        assert!(net.reachable(a.host, b.host));
        a.connect(&mut b).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_block_that_is_taken_back_in_time_is_survived() {
    let (net, mut a, mut b) = two(1).await;
    let (mut ours, mut theirs) = a.connect(&mut b).await;
    net.block(a.host, b.host, true);
    for _ in 0..5 {
        send(&mut ours, b"0123456789").await;
        tokio::time::sleep(SEC).await;
    }
    net.block(a.host, b.host, false);
    // More is written while the first is being sent again.
    for _ in 0..5 {
        send(&mut ours, b"0123456789").await;
        tokio::time::sleep(70 * MS).await;
    }
    expect(&mut theirs, &b"0123456789".repeat(10)).await;
}

#[tokio::test(start_paused = true)]
async fn counters_count() {
    let (net, mut a, mut b) = two(1).await;
    let (mut ours, mut theirs) = a.connect(&mut b).await;
    assert_eq!(net.connections(), 1);
    send(&mut ours, &bytes(1000)).await;
    expect(&mut theirs, &bytes(1000)).await;
    let (one, other) = (net.stats(a.host), net.stats(b.host));
    assert_eq!((one.sent, one.received, one.opened, one.accepted), (1000, 0, 1, 0));
    assert_eq!((other.sent, other.received, other.opened, other.accepted), (0, 1000, 0, 1));
    drop((ours, theirs));
    assert_eq!(net.connections(), 0);
    assert_eq!(a.net.with(|core| core.conns.iter().count()), 0);
}

#[test]
fn the_trace_tells_runs_apart_and_its_lines_can_be_written() {
    let run = |seed: u64, word: &'static str| {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let net = Net::new(seed);
            let lines = Arc::new(Mutex::new(Vec::new()));
            let sink = lines.clone();
            net.set_trace_sink(Some(Box::new(move |event| sink.lock().unwrap().push(event.to_string()))));
            let mut a = Peer::new(&net, HostSpec { jitter: 9 * MS, ..apart() }).await;
            let mut b = Peer::new(&net, apart()).await;
            let (mut ours, mut theirs) = a.connect(&mut b).await;
            send(&mut ours, word.as_bytes()).await;
            expect(&mut theirs, word.as_bytes()).await;
            net.note("done");
            let lines = lines.lock().unwrap().clone();
            (net.trace_hash(), lines)
        })
    };
    let (hash, lines) = run(1, "word");
    assert_eq!((hash.clone(), lines.clone()), run(1, "word"));
    assert_ne!(hash, run(2, "word").0);
    let (_, others) = run(1, "ward");
    let differing: Vec<_> = lines.iter().zip(&others).filter(|(a, b)| a != b).collect();
    assert_eq!(differing.len(), 1, "{differing:?}");
    assert!(lines.last().is_some_and(|line| line.ends_with("done")), "{lines:?}");
    assert_eq!(hash.len(), 32);
}
