//! Counts bytes by protocol.
//!
//! Sits between the multiplexer and the swarm: every stream that a node opens names its protocol in its first
//! bytes (multistream-select), and all bytes of both directions are booked under that name. Streams are counted
//! where they are opened, so that each counts once. Multiplexing and encryption are left out; the network counts
//! what is on the wire.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
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

/// What was counted, by short name of the protocol.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<Mutex<BTreeMap<&'static str, Count>>>);

impl Meter {
    /// The same transport, counted. What the node reads from exchange streams that it opened, which is what it
    /// fetches, is added to `fetched` as well.
    pub fn wrap(
        &self,
        transport: Boxed<(PeerId, StreamMuxerBox)>,
        fetched: Arc<AtomicU64>,
    ) -> Boxed<(PeerId, StreamMuxerBox)> {
        let meter = self.clone();
        transport
            .map(move |(peer, muxer), _| {
                let (meter, fetched) = (meter.clone(), fetched.clone());
                (peer, StreamMuxerBox::new(MeteredMuxer { muxer, meter, fetched }))
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
        ("/exchange/", "exchange"),
        ("/id/", "identify"),
        ("/ping/", "ping"),
        ("/autonat/", "autonat"),
        ("/lane/", "lane"),
        ("/dcutr", "dcutr"),
    ];
    NAMES.iter().find(|(part, _)| protocol.contains(part)).map_or("other", |(_, name)| name)
}

struct MeteredMuxer {
    muxer: StreamMuxerBox,
    meter: Meter,
    fetched: Arc<AtomicU64>,
}

impl StreamMuxer for MeteredMuxer {
    type Substream = Metered;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<Metered>> {
        let stream = ready!(Pin::new(&mut self.muxer).poll_inbound(context))?;
        Poll::Ready(Ok(Metered { stream, book: None }))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<Metered>> {
        let stream = ready!(Pin::new(&mut self.muxer).poll_outbound(context))?;
        let book = Some(Book::new(self.meter.clone(), self.fetched.clone()));
        Poll::Ready(Ok(Metered { stream, book }))
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
    fetched: Arc<AtomicU64>,
}

impl Book {
    fn new(meter: Meter, fetched: Arc<AtomicU64>) -> Self {
        Self { meter, name: None, head: Vec::new(), bytes: 0, fetched }
    }

    fn read(&mut self, len: usize) {
        if self.name == Some("exchange") {
            self.fetched.fetch_add(len as u64, Ordering::Relaxed);
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
