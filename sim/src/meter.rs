//! Counts bytes by protocol.
//!
//! Sits between the multiplexer and the swarm: every stream that a node opens names its protocol in its first
//! bytes (multistream-select), and all bytes of both directions are booked under that name. Streams are counted
//! where they are opened, so that each counts once. Multiplexing and encryption are left out; the network counts
//! what is on the wire.
//!
//! Beside that it knows of each node what it fetches and how many streams its connections have ([`NodeMeter`]): what is
//! true, not what the node says.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::{
    PeerId, Transport,
    core::{
        StreamMuxer,
        muxing::{StreamMuxerBox, StreamMuxerEvent, SubstreamBox},
        transport::Boxed,
    },
};
use tokio::time::Instant;

/// Short names of the protocols by which content is fetched.
const EXCHANGE: &str = "exchange";
const LANE: &str = "lane";

/// Chunks that are under way on a lane at most.
const LANE_WINDOW: usize = 8;

/// Requests that a stream of this protocol stands for; none if it fetches nothing.
fn requests_of(name: Option<&str>) -> usize {
    match name {
        Some(EXCHANGE) => 1,
        Some(LANE) => LANE_WINDOW,
        _ => 0,
    }
}

/// Bytes looked at for the name of the protocol.
const MAX_HEAD_LEN: usize = 256;

/// Bytes and streams so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Bytes of both directions.
    pub bytes: u64,
    /// Streams opened.
    pub streams: u64,
}

/// What one node fetches, in all its lives.
#[derive(Debug, Default)]
pub struct NodeMeter {
    fetched_len: AtomicU64,
    requests: Mutex<Requests>,
    most_streams: AtomicUsize,
}

/// Requests that a node has made.
#[derive(Debug, Default)]
struct Requests {
    open: usize,
    /// When the last ones ended, and how many did in that instant.
    ended: Option<(Instant, usize)>,
}

impl NodeMeter {
    /// Bytes that the node has read from lanes and exchange streams that it opened, with what frames them.
    pub fn fetched_len(&self) -> u64 {
        self.fetched_len.load(Ordering::Relaxed)
    }

    /// Requests in flight, as many as there may be on each lane and those that were given up but not answered included. One that has ended in this very
    /// instant counts as well: the node may not have got round to what came of it.
    pub fn requests_in_flight(&self) -> usize {
        let requests = self.requests();
        let just_now = requests.ended.filter(|(at, _)| *at == Instant::now());
        requests.open + just_now.map_or(0, |(_, count)| count)
    }

    /// Most streams that one of its connections has ever had at the same time.
    pub fn most_streams(&self) -> usize {
        self.most_streams.load(Ordering::Relaxed)
    }

    fn requests_begin(&self, count: usize) {
        self.requests().open += count;
    }

    fn requests_end(&self, count: usize) {
        if count == 0 {
            return;
        }
        let (mut requests, now) = (self.requests(), Instant::now());
        requests.open = requests.open.saturating_sub(count);
        let before = requests.ended.filter(|(at, _)| *at == now).map_or(0, |(_, count)| count);
        requests.ended = Some((now, before + count));
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was counted, by short name of the protocol.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<Mutex<BTreeMap<&'static str, Count>>>);

impl Meter {
    /// The same transport, counted, by node as well.
    pub fn wrap(
        &self,
        transport: Boxed<(PeerId, StreamMuxerBox)>,
        node: Arc<NodeMeter>,
    ) -> Boxed<(PeerId, StreamMuxerBox)> {
        let meter = self.clone();
        transport
            .map(move |(peer, muxer), _| {
                let (meter, node) = (meter.clone(), node.clone());
                (peer, StreamMuxerBox::new(MeteredMuxer { muxer, meter, node, streams: Arc::default() }))
            })
            .boxed()
    }

    /// Everything so far.
    pub fn counts(&self) -> BTreeMap<&'static str, Count> {
        self.state().clone()
    }

    fn state(&self) -> MutexGuard<'_, BTreeMap<&'static str, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, name: &'static str, bytes: u64, streams: u64) {
        let mut state = self.state();
        let count = state.entry(name).or_default();
        count.bytes += bytes;
        count.streams += streams;
    }
}

/// The short name of a protocol.
fn short_name(protocol: &str) -> &'static str {
    const NAMES: [(&str, &str); 7] = [
        ("/kad/", "kad"),
        ("/exchange/", EXCHANGE),
        ("/id/", "identify"),
        ("/ping/", "ping"),
        ("/autonat/", "autonat"),
        ("/lane/", LANE),
        ("/dcutr", "dcutr"),
    ];
    NAMES.iter().find(|(part, _)| protocol.contains(part)).map_or("other", |(_, name)| name)
}

struct MeteredMuxer {
    muxer: StreamMuxerBox,
    meter: Meter,
    node: Arc<NodeMeter>,
    /// Counts its streams: each holds a clone.
    streams: Arc<()>,
}

impl MeteredMuxer {
    /// A place among the streams of the connection.
    fn place(&self) -> Arc<()> {
        let place = self.streams.clone();
        self.node.most_streams.fetch_max(Arc::strong_count(&place) - 1, Ordering::Relaxed);
        place
    }
}

impl StreamMuxer for MeteredMuxer {
    type Substream = Metered;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<Metered>> {
        let stream = ready!(Pin::new(&mut self.muxer).poll_inbound(context))?;
        Poll::Ready(Ok(Metered { stream, book: None, _place: self.place() }))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<Metered>> {
        let stream = ready!(Pin::new(&mut self.muxer).poll_outbound(context))?;
        let book = Some(Book::new(self.meter.clone(), self.node.clone()));
        Poll::Ready(Ok(Metered { stream, book, _place: self.place() }))
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.muxer).poll_close(context)
    }

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        Pin::new(&mut self.muxer).poll(context)
    }
}

/// Where the bytes of one stream are booked.
struct Book {
    meter: Meter,
    /// Once known.
    name: Option<&'static str>,
    /// The first bytes written, until the name is known.
    head: Vec<u8>,
    /// Bytes not booked yet.
    bytes: u64,
    node: Arc<NodeMeter>,
}

impl Book {
    fn new(meter: Meter, node: Arc<NodeMeter>) -> Self {
        Self { meter, name: None, head: Vec::new(), bytes: 0, node }
    }

    fn read(&mut self, len: usize) {
        if requests_of(self.name) > 0 {
            self.node.fetched_len.fetch_add(len as u64, Ordering::Relaxed);
        }
        self.count(len);
    }

    fn written(&mut self, data: &[u8]) {
        if self.name.is_none() {
            let room = MAX_HEAD_LEN.saturating_sub(self.head.len());
            self.head.extend(data.iter().take(room));
            let name = protocol(&self.head).map(short_name);
            let is_hopeless = self.head.len() >= MAX_HEAD_LEN;
            self.name = name.or(is_hopeless.then_some("other"));
            if let Some(name) = self.name {
                self.head = Vec::new();
                self.meter.add(name, std::mem::take(&mut self.bytes), 1);
                self.node.requests_begin(requests_of(Some(name)));
            }
        }
        self.count(data.len());
    }

    fn count(&mut self, len: usize) {
        let len = len as u64;
        match self.name {
            Some(name) => self.meter.add(name, len, 0),
            None => self.bytes += len,
        }
    }
}

impl Drop for Book {
    fn drop(&mut self) {
        if self.name.is_none() && self.bytes > 0 {
            self.meter.add("other", self.bytes, 1);
        }
        self.node.requests_end(requests_of(self.name));
    }
}

/// The first protocol proposed in the head of a stream: lines with a length in front, the first of which names
/// multistream-select itself.
fn protocol(mut head: &[u8]) -> Option<&str> {
    loop {
        let (&len, rest) = head.split_first()?;
        // Longer names would need two bytes of length; none of ours is.
        let line = rest.get(..usize::from(len))?;
        head = &rest[usize::from(len)..];
        let name = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
        if !name.starts_with("/multistream/") {
            return Some(name);
        }
    }
}

/// A stream whose bytes are counted.
pub struct Metered {
    stream: SubstreamBox,
    book: Option<Book>,
    _place: Arc<()>,
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let len = ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Some(book) = &mut self.book {
            book.read(len);
        }
        Poll::Ready(Ok(len))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let len = ready!(Pin::new(&mut self.stream).poll_write(context, data))?;
        if let Some(book) = &mut self.book {
            book.written(data.get(..len).unwrap_or(data));
        }
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_booked_under_the_protocol_it_names_first() {
        let meter = Meter::default();
        let mut book = Book::new(meter.clone(), Arc::default());
        book.written(b"\x13/multistream/1.0.0\n");
        book.count(20);
        assert!(meter.counts().is_empty());
        let (line, rest) = (b"\x16/dhtfs/main/kad/1.0.0\n", [0; 100]);
        book.written(&line[..5]);
        book.written(&line[5..]);
        book.written(&rest);
        book.count(1000);
        let count = Count { bytes: 20 + 20 + 23 + 100 + 1000, streams: 1 };
        assert_eq!(meter.counts(), BTreeMap::from([("kad", count)]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_in_flight_until_the_instant_in_which_it_ends_is_over() {
        let node = Arc::new(NodeMeter::default());
        let mut books = [(); 2].map(|()| Book::new(Meter::default(), node.clone()));
        for book in &mut books {
            book.written(b"\x13/multistream/1.0.0\n");
            assert_eq!(node.requests_in_flight(), 0, "nothing is asked for yet");
        }
        for book in &mut books {
            book.written(b"\x17/dhtfs/main/exchange/1\n");
            book.read(1000);
        }
        assert_eq!((node.requests_in_flight(), node.fetched_len()), (2, 2000));
        let [first, _second] = books;
        drop(first);
        assert_eq!(node.requests_in_flight(), 2);
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        assert_eq!(node.requests_in_flight(), 1);
    }

    #[test]
    fn a_stream_without_a_name_is_other() {
        let meter = Meter::default();
        Book::new(meter.clone(), Arc::default()).written(&[0xff; 1000]);
        let mut short = Book::new(meter.clone(), Arc::default());
        short.written(b"\x13/multi");
        drop(short);
        let count = Count { bytes: 1007, streams: 2 };
        assert_eq!(meter.counts(), BTreeMap::from([("other", count)]));
    }
}
