//! Lanes between whole nodes.

use dhtfs_store::ManifestCid;
use futures::stream::FuturesUnordered;
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use libp2p::Stream;

use super::*;
use crate::core::fetch::RequestId;
use crate::core::rate::{Limit, MIN_LIMIT};
use crate::net::exchange::MAX_DATA_LEN;
use crate::net::limits::{LANE_IDLE, LANE_PIECE_LEN, LANE_STALL, MAX_LANE_WANTS, MAX_UNHEARD};
use crate::net::report::ServeTicket;
use crate::net::{Ask, Buffers, LaneAnswer, LaneEnd, LaneEvent, LaneEvents, LaneWants};

fn chunk(n: u8) -> ContentCid {
    ChunkCid::from_digest([n; 32]).into()
}

/// Two connected nodes. The second one tells what is asked for on its lanes.
async fn pair() -> (Node, Node, mpsc::Receiver<NetEvent>) {
    let (asker, holder) = (Node::new().await, Node::new().await);
    let mut lanes = holder.client.lanes_asked().unwrap();
    let (tx, events) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                lane = lanes.next() => match lane {
                    Some(lane) => running.push(lane.run(tx.clone())),
                    None => return,
                },
                Some(()) = running.next() => {}
            }
        }
    });
    asker.client.dial(holder.full_addr()).await.unwrap();
    (asker, holder, events)
}

/// Two connected nodes and a lane between them, of which the test is the holder. Chunk 7 is wanted as request 7.
async fn lane_to_test() -> (Node, Node, LaneWants, LaneEvents, Stream) {
    let (asker, holder) = (Node::new().await, Node::new().await);
    let (control, protocol) = holder.client.lane_streams();
    let mut streams = control.accept(protocol).unwrap();
    asker.client.dial(holder.full_addr()).await.unwrap();
    let (wants, events) = asker.client.lane(holder.peer, Buffers::default());
    assert!(wants.want(RequestId(7), chunk(7), 100));
    let (_, stream) = in_time(streams.next()).await.unwrap();
    (asker, holder, wants, events, stream)
}

/// The next event that ends something.
async fn next_end(events: &mut LaneEvents) -> LaneEvent {
    loop {
        match in_time(events.next()).await.unwrap() {
            LaneEvent::Opened | LaneEvent::Begun(_) | LaneEvent::Part(_) | LaneEvent::Half(_) => {}
            LaneEvent::Moved(id) => panic!("{id:?} takes long"),
            event => return event,
        }
    }
}

impl LaneEvent {
    fn answer(self) -> (RequestId, LaneAnswer) {
        match self {
            Self::Answer(id, answer) => (id, answer),
            other => panic!("{other:?}"),
        }
    }
}

async fn answer(events: &mut LaneEvents) -> (RequestId, LaneAnswer) {
    next_end(events).await.answer()
}

async fn end(events: &mut LaneEvents) -> LaneEnd {
    match next_end(events).await {
        LaneEvent::Ended(end) => end,
        other => panic!("{other:?}"),
    }
}

async fn request(events: &mut mpsc::Receiver<NetEvent>) -> (ServeTicket, ContentCid) {
    match in_time(events.recv()).await.unwrap() {
        NetEvent::Request { ticket, ask, .. } => (ticket, ask.cid()),
        other => panic!("{other:?}"),
    }
}

/// The next request, whatever became of those before.
async fn next_request(events: &mut mpsc::Receiver<NetEvent>) -> (ServeTicket, ContentCid) {
    loop {
        match in_time(events.recv()).await.unwrap() {
            NetEvent::Request { ticket, ask, .. } => return (ticket, ask.cid()),
            NetEvent::ResponseSent(_) | NetEvent::ResponseFailed(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_manifest_may_come_with_content_where_that_is_asked_for_and_nowhere_else() {
    let (asker, holder, mut asked) = pair().await;
    let (wants, mut events) = asker.client.lane(holder.peer, Buffers::default());
    let manifest = ManifestCid::from_digest([1; 32]);
    let together = ExchangeResponse::WithContent { data: vec![1, 1, 2], content_len: 1 };
    for n in 1..=2 {
        assert!(wants.want(RequestId(n), Ask::WithContent(manifest), 10));
    }
    let (ticket, cid) = next_request(&mut asked).await;
    assert_eq!(cid, manifest.into());
    holder.client.respond(ticket, together.clone()).await.unwrap();
    let (ticket, _) = next_request(&mut asked).await;
    holder.client.respond(ticket, ExchangeResponse::Data(vec![3])).await.unwrap();
    let came = LaneAnswer::WithContent { data: vec![1, 1, 2], content_len: 1 };
    assert_eq!(answer(&mut events).await, (RequestId(1), came));
    assert_eq!(answer(&mut events).await, (RequestId(2), LaneAnswer::Data(vec![3])), "it may come alone");

    assert!(wants.want(RequestId(3), Ask::WithContent(manifest), 2), "both together are bounded");
    let (ticket, _) = next_request(&mut asked).await;
    holder.client.respond(ticket, together.clone()).await.unwrap();
    assert_eq!(end(&mut events).await, LaneEnd::Malformed(Some(RequestId(3))));

    let (wants, mut events) = asker.client.lane(holder.peer, Buffers::default());
    assert!(wants.want(RequestId(4), ContentCid::from(manifest), 10));
    let (ticket, _) = next_request(&mut asked).await;
    holder.client.respond(ticket, together).await.unwrap();
    assert_eq!(end(&mut events).await, LaneEnd::Malformed(Some(RequestId(4))));
}

#[tokio::test]
async fn every_want_gets_its_answer_whatever_the_order() {
    let (asker, holder, mut asked) = pair().await;
    let (wants, mut events) = asker.client.lane(holder.peer, Buffers::default());
    for n in 0..4u8 {
        assert!(wants.want(RequestId(n.into()), chunk(n), 10));
    }
    let mut tickets = Vec::new();
    for n in 0..4u8 {
        let (ticket, cid) = request(&mut asked).await;
        assert_eq!(cid, chunk(n), "in the order of the wants");
        tickets.push(ticket);
    }
    let responses = [
        (ExchangeResponse::Busy, LaneAnswer::Busy(7)),
        (ExchangeResponse::Missing, LaneAnswer::Missing),
        (ExchangeResponse::Data(Vec::new()), LaneAnswer::Data(Vec::new())),
        (ExchangeResponse::Data(vec![5; 10]), LaneAnswer::Data(vec![5; 10])),
    ];
    holder.client.set_waiting_requests(7);
    for (n, (response, wanted)) in (0..4u32).zip(responses).rev() {
        let ticket = tickets.pop().unwrap();
        let id = ticket.id();
        holder.client.respond(ticket, response).await.unwrap();
        assert_eq!(answer(&mut events).await, (RequestId(n.into()), wanted));
        assert!(matches!(in_time(asked.recv()).await, Some(NetEvent::ResponseSent(sent)) if sent == id));
    }
    assert_eq!(wants.unanswered(), []);
    assert_eq!(asker.counter("net_lane_wants").await, 4);
    assert_eq!((asker.counter("net_lanes_opened").await, holder.counter("net_lanes_served").await), (1, 1));
}

#[tokio::test]
async fn what_is_taken_back_in_time_is_not_sent() {
    let (asker, holder, mut asked) = pair().await;
    let (wants, mut events) = asker.client.lane(holder.peer, Buffers::default());
    assert!(wants.want(RequestId(1), chunk(1), 10));
    assert!(wants.want(RequestId(2), chunk(2), 10));
    let (first, second) = (request(&mut asked).await.0, request(&mut asked).await.0);
    wants.cancel(RequestId(2));
    wants.cancel(RequestId(3));
    let cancelled = in_time(asked.recv()).await;
    assert!(matches!(cancelled, Some(NetEvent::RequestCancelled(id)) if id == second.id()));
    // Its turn has not come.
    let id = second.id();
    drop(second);
    assert_eq!(answer(&mut events).await, (RequestId(2), LaneAnswer::Cancelled(0)));
    assert!(matches!(in_time(asked.recv()).await, Some(NetEvent::ResponseFailed(failed)) if failed == id));
    // Nobody took this one back; it is given up by the holder.
    drop(first);
    assert_eq!(answer(&mut events).await, (RequestId(1), LaneAnswer::Busy(0)));
    assert_eq!(holder.counter("net_lane_cancelled").await, 1);
}

#[tokio::test]
async fn a_want_taken_back_while_it_is_read_is_not_sent_either() {
    let (asker, holder, mut asked) = pair().await;
    let (wants, mut events) = asker.client.lane(holder.peer, Buffers::default());
    assert!(wants.want(RequestId(1), chunk(1), 10));
    let (ticket, _) = request(&mut asked).await;
    wants.cancel(RequestId(1));
    assert!(matches!(in_time(asked.recv()).await, Some(NetEvent::RequestCancelled(_))));
    holder.client.respond(ticket, ExchangeResponse::Data(vec![1; 10])).await.unwrap();
    assert_eq!(answer(&mut events).await, (RequestId(1), LaneAnswer::Cancelled(0)));
    assert!(matches!(in_time(asked.recv()).await, Some(NetEvent::ResponseFailed(_))));
}

#[tokio::test(start_paused = true)]
async fn of_a_want_taken_back_while_it_is_sent_no_more_comes_after_the_next_piece() {
    let (asker, holder, mut asked) = pair().await;
    // So slowly that the cancel is there long before the end.
    let limit = Limit::of(MIN_LIMIT).unwrap();
    holder.client.rates().change(|limits| (limits.up, limits.lan) = (limit, true));
    let (wants, mut events) = asker.client.lane(holder.peer, Buffers::default());
    assert!(wants.want(RequestId(1), chunk(1), MAX_DATA_LEN));
    let (ticket, _) = request(&mut asked).await;
    let sent = ticket.id();
    holder.client.respond(ticket, ExchangeResponse::Data(vec![1; MAX_DATA_LEN as usize])).await.unwrap();
    assert!(matches!(events.next().await, Some(LaneEvent::Opened)));
    assert!(matches!(events.next().await, Some(LaneEvent::Begun(RequestId(1)))));
    while !matches!(events.next().await, Some(LaneEvent::Part(RequestId(1)))) {}
    wants.cancel(RequestId(1));
    assert!(matches!(asked.recv().await, Some(NetEvent::RequestCancelled(id)) if id == sent));
    let came = u32::try_from(2 * LANE_PIECE_LEN).unwrap();
    let ended = loop {
        match events.next().await {
            Some(LaneEvent::Moved(_)) => {}
            other => break other.unwrap().answer(),
        }
    };
    assert_eq!(ended, (RequestId(1), LaneAnswer::Cancelled(came)));
    assert!(matches!(asked.recv().await, Some(NetEvent::ResponseFailed(id)) if id == sent));
    assert_eq!(holder.counter("net_lane_cancelled").await, 1);

    assert!(wants.want(RequestId(2), chunk(2), 10), "the lane goes on");
    let (ticket, _) = request(&mut asked).await;
    holder.client.respond(ticket, ExchangeResponse::Data(vec![2])).await.unwrap();
    assert_eq!(answer(&mut events).await, (RequestId(2), LaneAnswer::Data(vec![2])));
}

#[tokio::test]
async fn between_two_pieces_there_is_a_mark_and_nothing_else() {
    let len = u32::try_from(LANE_PIECE_LEN + 5).unwrap();
    let begins = |no: u8| {
        let head = [&[0, 0, 0, 0, no][..], &len.to_be_bytes()].concat();
        [head, vec![7; LANE_PIECE_LEN]].concat()
    };
    for (mark, wanted) in [(0, None), (1, Some(RequestId(8))), (2, Some(RequestId(8)))] {
        let (_asker, _holder, wants, mut events, mut stream) = lane_to_test().await;
        assert!(wants.want(RequestId(8), chunk(8), len));
        let mut bytes = begins(1);
        bytes.push(mark);
        bytes.extend([7; 5]);
        stream.write_all(&bytes).await.unwrap();
        stream.flush().await.unwrap();
        match wanted {
            None => {
                let data = LaneAnswer::Data(vec![7; len as usize]);
                assert_eq!(answer(&mut events).await, (RequestId(8), data));
            }
            // It was not taken back, or the mark means nothing.
            blamed => assert_eq!(end(&mut events).await, LaneEnd::Malformed(blamed), "{mark}"),
        }
    }
}

#[tokio::test]
async fn answers_around_the_length_of_a_piece_come_whole() {
    let (asker, holder, mut asked) = pair().await;
    let (wants, mut events) = asker.client.lane(holder.peer, Buffers::default());
    let lens =
        [LANE_PIECE_LEN - 1, LANE_PIECE_LEN, LANE_PIECE_LEN + 1, 2 * LANE_PIECE_LEN, MAX_DATA_LEN as usize];
    for (n, len) in (0..).zip(lens) {
        assert!(wants.want(RequestId(n), chunk(1), MAX_DATA_LEN));
        let (ticket, _) = next_request(&mut asked).await;
        let data: Vec<u8> = (0..len).map(|place| u8::try_from(place / 1000 % 251).unwrap()).collect();
        holder.client.respond(ticket, ExchangeResponse::Data(data.clone())).await.unwrap();
        assert_eq!(answer(&mut events).await, (RequestId(n), LaneAnswer::Data(data)), "{len}");
    }
}

#[tokio::test]
async fn a_peer_without_lanes_is_asked_another_way() {
    let (asker, holder) = (Node::new().await, Node::new().await);
    asker.client.dial(holder.full_addr()).await.unwrap();
    let (wants, mut events) = asker.client.lane(holder.peer, Buffers::default());
    assert!(wants.want(RequestId(1), chunk(1), 10));
    assert_eq!(end(&mut events).await, LaneEnd::Unsupported);
    assert_eq!(wants.unanswered(), [(RequestId(1), chunk(1), false)]);
    assert_eq!(asker.counter("net_lanes_unsupported").await, 1);
}

#[tokio::test]
async fn a_lane_has_room_for_so_many_wants_and_is_closed_to_who_wants_more() {
    let (asker, holder, mut asked) = pair().await;
    let (wants, mut events) = asker.client.lane(holder.peer, Buffers::default());
    let most = u32::try_from(MAX_LANE_WANTS).unwrap();
    for n in 0..most {
        assert!(wants.want(RequestId(n.into()), chunk(1), 10));
    }
    assert!(!wants.want(RequestId(1000), chunk(100), 10));
    let mut tickets = Vec::new();
    for _ in 0..MAX_LANE_WANTS {
        tickets.push(request(&mut asked).await.0);
    }
    holder.client.respond(tickets.remove(0), ExchangeResponse::Missing).await.unwrap();
    assert_eq!(answer(&mut events).await.1, LaneAnswer::Missing);
    assert!(wants.want(RequestId(1001), chunk(101), 10), "there is room again");

    // Somebody who does not count.
    let (control, protocol) = asker.client.lane_streams();
    let mut stream = control.open_stream(holder.peer, protocol).await.unwrap();
    let mut bytes = Vec::new();
    for n in 0..=most {
        bytes.push(1);
        bytes.extend(n.to_be_bytes());
        bytes.push(1);
        bytes.extend([7; 32]);
    }
    stream.write_all(&bytes).await.unwrap();
    stream.flush().await.unwrap();
    let mut greedy = Vec::new();
    while greedy.len() < MAX_LANE_WANTS + 1 {
        match in_time(asked.recv()).await.unwrap() {
            NetEvent::Request { ticket, .. } => greedy.push(ticket),
            NetEvent::ResponseSent(_) => {}
            other => panic!("{other:?}"),
        }
    }
    for _ in 0..MAX_LANE_WANTS {
        assert!(matches!(in_time(asked.recv()).await, Some(NetEvent::ResponseFailed(_))), "each has an end");
    }
    holder.counted("net_lanes_serve_broken", 1).await;
}

#[tokio::test]
async fn only_so_many_lanes_are_served_and_their_places_are_free_again() {
    let (asker, holder, mut asked) = pair().await;
    let open = || {
        let (wants, events) = asker.client.lane(holder.peer, Buffers::default());
        assert!(wants.want(RequestId(1), chunk(1), 10));
        (wants, events)
    };
    let mut lanes = Vec::new();
    for _ in 0..crate::net::limits::MAX_LANES_PER_PEER {
        lanes.push((open(), request(&mut asked).await.0));
    }
    let (_refused, mut events) = open();
    assert_eq!(end(&mut events).await, LaneEnd::Closed);
    assert_eq!(holder.counter("net_lanes_refused").await, 1);
    let ((wants, _events), ticket) = lanes.pop().unwrap();
    drop(wants);
    assert!(matches!(in_time(asked.recv()).await, Some(NetEvent::ResponseFailed(id)) if id == ticket.id()));
    let (_wants, _events) = open();
    request(&mut asked).await;
}

#[tokio::test]
async fn answers_to_nothing_and_too_long_ones_end_the_lane() {
    let data = |no: u32, len: u32| {
        let mut bytes = vec![0];
        bytes.extend(no.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes
    };
    let cases = [
        (data(9, 1), LaneEnd::Malformed(None)),
        (data(0, 101), LaneEnd::Malformed(Some(RequestId(7)))),
        (data(0, MAX_DATA_LEN + 1), LaneEnd::Malformed(None)),
        (vec![5], LaneEnd::Malformed(None)),
        (vec![1, 0, 0, 0, 9], LaneEnd::Malformed(None)),
    ];
    for (bytes, wanted) in cases {
        let (asker, _holder, wants, mut events, mut stream) = lane_to_test().await;
        stream.write_all(&bytes).await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(end(&mut events).await, wanted, "{bytes:?}");
        assert_eq!(wants.unanswered(), [(RequestId(7), chunk(7), false)]);
        assert_eq!(asker.counter("net_lanes_malformed").await, 1);
        assert!(!wants.want(RequestId(8), chunk(8), 10), "it has ended");
    }
}

#[tokio::test]
async fn a_lane_that_breaks_off_says_so() {
    let (_asker, _holder, wants, mut events, mut stream) = lane_to_test().await;
    let mut asked = [0; 38];
    in_time(stream.read_exact(&mut asked)).await.unwrap();
    assert_eq!((asked[0], &asked[6..]), (1, &[7; 32][..]));
    // The half of an answer.
    stream.write_all(&[0, 0, 0, 0, 0, 0, 0, 0, 5, 1, 2]).await.unwrap();
    stream.close().await.unwrap();
    assert_eq!(end(&mut events).await, LaneEnd::Closed);
    assert_eq!(wants.unanswered(), [(RequestId(7), chunk(7), false)]);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_stands_still_ends_only_if_something_is_wanted() {
    let (asker, _holder, wants, mut events, mut stream) = lane_to_test().await;
    stream.write_all(&[1, 0, 0, 0, 0]).await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(answer(&mut events).await, (RequestId(7), LaneAnswer::Missing));
    tokio::time::sleep(3 * LANE_STALL).await;
    assert!(wants.want(RequestId(8), chunk(8), 100), "nothing was wanted, so nothing was missed");
    let begun = tokio::time::Instant::now();
    assert!(matches!(events.next().await, Some(LaneEvent::Ended(LaneEnd::Stalled))));
    assert!(begun.elapsed() >= LANE_STALL, "{:?}", begun.elapsed());
    assert_eq!(asker.counter("net_lanes_stalled").await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_lane_on_which_nothing_is_wanted_is_closed_by_the_holder() {
    let (asker, holder, mut asked) = pair().await;
    let (wants, mut events) = asker.client.lane(holder.peer, Buffers::default());
    assert!(wants.want(RequestId(1), chunk(1), 10));
    let (ticket, _) = request(&mut asked).await;
    tokio::time::sleep(LANE_STALL / 2).await;
    holder.client.respond(ticket, ExchangeResponse::Missing).await.unwrap();
    assert_eq!(answer(&mut events).await.1, LaneAnswer::Missing);
    let begun = tokio::time::Instant::now();
    assert!(matches!(events.next().await, Some(LaneEvent::Ended(LaneEnd::Closed))));
    assert!(begun.elapsed() >= LANE_IDLE / 2, "{:?}", begun.elapsed());
    assert_eq!(holder.counter("net_lanes_serve_broken").await, 0, "that is no fault");
}

/// The lowest limit there is: the asker sees bytes all the time, and the holder does not take its own limit for an asker
/// that does not read.
#[tokio::test(start_paused = true)]
async fn an_answer_at_the_lowest_limit_comes_whole_and_moves_all_the_time() {
    let (asker, holder, mut asked) = pair().await;
    let limit = Limit::of(MIN_LIMIT).unwrap();
    holder.client.rates().change(|limits| (limits.up, limits.lan) = (limit, true));
    let (wants, mut events) = asker.client.lane(holder.peer, Buffers::default());
    let content = vec![5; MAX_DATA_LEN as usize];
    let begun = tokio::time::Instant::now();
    for n in 1..=3 {
        assert!(wants.want(RequestId(n), chunk(9), MAX_DATA_LEN));
        let (ticket, _) = request(&mut asked).await;
        holder.client.respond(ticket, ExchangeResponse::Data(content.clone())).await.unwrap();
    }
    let (mut moved, mut came) = (0, Vec::new());
    while came.len() < 3 {
        match events.next().await {
            Some(LaneEvent::Opened | LaneEvent::Begun(_) | LaneEvent::Part(_) | LaneEvent::Half(_)) => {}
            Some(LaneEvent::Moved(_)) => moved += 1,
            Some(LaneEvent::Answer(id, LaneAnswer::Data(data))) if data == content => came.push(id.0),
            other => panic!("{other:?}"),
        }
    }
    let secs = begun.elapsed().as_secs();
    let least = u64::from(3 * MAX_DATA_LEN) / MIN_LIMIT - 1;
    assert!((least..least + 10).contains(&secs), "{secs} s, at least {least} s");
    assert!((20..35).contains(&moved), "told {moved} times");
    assert_eq!(came, [1, 2, 3]);
    assert_eq!(asker.counter("net_lanes_stalled").await, 0);
    assert_eq!(holder.counter("net_lanes_serve_broken").await, 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_who_is_near_does_not_wait_for_the_limit() {
    let (asker, holder, mut asked) = pair().await;
    let limit = Limit::of(MIN_LIMIT).unwrap();
    holder.client.rates().change(|limits| limits.up = limit);
    let (wants, mut events) = asker.client.lane(holder.peer, Buffers::default());
    assert!(wants.want(RequestId(1), chunk(9), MAX_DATA_LEN));
    let (ticket, _) = request(&mut asked).await;
    let data = vec![5; MAX_DATA_LEN as usize];
    holder.client.respond(ticket, ExchangeResponse::Data(data.clone())).await.unwrap();
    assert_eq!(answer(&mut events).await, (RequestId(1), LaneAnswer::Data(data)));
    assert_eq!(holder.client.rates().counters()[0], ("limited_up_len", 0));
}

#[tokio::test]
async fn a_lane_ends_to_who_takes_back_more_than_was_wanted_or_counts_backwards() {
    let want = |no: u8| [&[1, 0, 0, 0, no, 1][..], &[7; 32]].concat();
    let cancel = |no: u8| vec![2, 0, 0, 0, no];
    let cases = [
        [want(5), want(5)].concat(),
        [want(5), want(4)].concat(),
        cancel(0),
        [want(5), cancel(6)].concat(),
        [want(5), cancel(5), cancel(5)].concat(),
    ];
    for bytes in cases {
        let (asker, holder, mut asked) = pair().await;
        let (control, protocol) = asker.client.lane_streams();
        let mut stream = control.open_stream(holder.peer, protocol).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.flush().await.unwrap();
        holder.counted("net_lanes_serve_broken", 1).await;
        let mut open = Vec::new();
        let mut ends = 0;
        while ends < usize::from(bytes[0] == 1) {
            match in_time(asked.recv()).await.unwrap() {
                NetEvent::Request { ticket, .. } => open.push(ticket),
                NetEvent::ResponseFailed(_) => ends += 1,
                NetEvent::RequestCancelled(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn every_request_has_its_end_though_nobody_reads_events_when_the_lane_breaks_off() {
    let (asker, holder) = (Node::new().await, Node::new().await);
    let mut lanes = holder.client.lanes_asked().unwrap();
    asker.client.dial(holder.full_addr()).await.unwrap();
    let (wants, events) = asker.client.lane(holder.peer, Buffers::default());
    for n in 0..4 {
        assert!(wants.want(RequestId(n), chunk(9), 10));
    }
    let lane = in_time(lanes.next()).await.unwrap();
    // Room for one event: the reader of the lane waits with the second one.
    let (tx, mut asked) = mpsc::channel(1);
    let running = tokio::spawn(lane.run(tx));
    let (first, _) = request(&mut asked).await;
    // The asker goes; so does the right to answer.
    drop((first, wants, events));
    let mut open = 1;
    while let Some(event) = in_time(asked.recv()).await {
        match event {
            NetEvent::Request { .. } => open += 1,
            NetEvent::ResponseSent(_) | NetEvent::ResponseFailed(_) => open -= 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(open, 0, "each has one end");
    in_time(running).await.unwrap();
}

/// A lane on which so many answers have come and none was heard. Chunk `n` is wanted as request `n`, the first one as 7.
async fn unheard_lane(answers: u8) -> (Node, Node, LaneWants, LaneEvents, Stream) {
    let (asker, holder, wants, mut events, mut stream) = lane_to_test().await;
    assert!(matches!(in_time(events.next()).await, Some(LaneEvent::Opened)));
    for n in 1..answers {
        assert!(wants.want(RequestId(n.into()), chunk(n), 100));
    }
    let missing = (0..answers).flat_map(|no| [1, 0, 0, 0, no]);
    stream.write_all(&missing.collect::<Vec<_>>()).await.unwrap();
    stream.flush().await.unwrap();
    (asker, holder, wants, events, stream)
}

#[tokio::test]
async fn a_lane_reads_no_further_than_it_is_heard() {
    const ANSWERS: u8 = 50;
    let (_asker, _holder, wants, mut events, mut stream) = unheard_lane(ANSWERS).await;
    // One more than wait: it is what the lane wants to tell next.
    for heard in 0..usize::from(ANSWERS) {
        let unread = usize::from(ANSWERS).saturating_sub(heard + MAX_UNHEARD + 1);
        in_time(async {
            while wants.unanswered().len() > unread {
                tokio::task::yield_now().await;
            }
        })
        .await;
        // All of it came at once: what is not read by now is not going to be.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(wants.unanswered().len(), unread);
        answer(&mut events).await;
    }
    // Nobody hears any more, and the lane has something to tell.
    assert!(wants.want(RequestId(60), chunk(60), 100));
    stream.write_all(&[1, 0, 0, 0, ANSWERS]).await.unwrap();
    stream.flush().await.unwrap();
    drop(events);
    // It ends, in order or not.
    let _ = in_time(stream.read_to_end(&mut Vec::new())).await;
    assert!(!wants.want(RequestId(61), chunk(61), 100));
}

#[tokio::test]
async fn what_came_before_a_lane_broke_off_is_heard() {
    let (_asker, _holder, wants, mut events, mut stream) = unheard_lane(50).await;
    stream.close().await.unwrap();
    for _ in 0..50 {
        assert_eq!(answer(&mut events).await.1, LaneAnswer::Missing);
    }
    assert_eq!(end(&mut events).await, LaneEnd::Closed);
    assert_eq!(wants.unanswered(), []);
}

#[tokio::test]
async fn a_lane_that_waits_to_tell_something_ends_when_nobody_hears() {
    let (_asker, _holder, wants, events, mut stream) = unheard_lane(50).await;
    in_time(async {
        while wants.unanswered().len() > 50 - MAX_UNHEARD - 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(events);
    let _ = in_time(stream.read_to_end(&mut Vec::new())).await;
    assert!(!wants.want(RequestId(61), chunk(61), 100));
}
