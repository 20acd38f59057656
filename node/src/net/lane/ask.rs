//! The end of a lane that wants.

use std::collections::BTreeMap;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use dhtfs_store::ContentCid;
use futures::future::{BoxFuture, Either, ready, select};
use futures::io::{ReadHalf, WriteHalf};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _};
use libp2p::{PeerId, Stream, StreamProtocol};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::tally::{Count, Tally};
use super::wire::{Ask, Asking, CUT, GOES_ON, Head, WantNo, invalid};
use crate::core::fetch::RequestId;
use crate::net::buffers::{Buffers, Room};
use crate::net::limits::{LANE_PIECE_LEN, LANE_STALL, MAX_LANE_WANTS, MAX_UNHEARD};
use crate::net::streams::{Control, is_refusal};

/// How long opening a lane may take.
const OPEN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// How long each answer may take that came before the peer stopped listening.
const LEFT_BEHIND: std::time::Duration = std::time::Duration::from_secs(1);

/// An alarm noticed so late says that the lane was not polled.
const OVERDUE: std::time::Duration = std::time::Duration::from_secs(1);

/// How often it is told that an answer moves, if it takes so long.
const MOVED_EVERY: std::time::Duration = std::time::Duration::from_secs(5);

/// So much has to come until that is told again: who sends less in the time that a fetch goes on without progress, does
/// not send.
const MOVED_LEN: usize = 64 * 1024;

/// Wants and cancels that wait to be written: a cancel for every want.
const MAX_WAITING: usize = 2 * MAX_LANE_WANTS;

/// What came for a want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LaneAnswer {
    /// Bytes, no more than were allowed; not verified.
    Data(Vec<u8>),
    /// The same, a manifest block and after it content; only for [`Ask::WithContent`].
    WithContent {
        /// Both.
        data: Vec<u8>,
        /// How many of these bytes are content: the last ones, at least one.
        content_len: u32,
    },
    /// The peer does not hold it.
    Missing,
    /// The peer has too much to do: so many requests wait there, as it says.
    Busy(u16),
    /// It was taken back in time, and so many bytes of it came before.
    Cancelled(u32),
}

/// Why a lane brings nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneEnd {
    /// The peer does not speak the protocol.
    Unsupported,
    /// It broke off, or the peer closed it.
    Closed,
    /// Nothing came for too long, though something was wanted.
    Stalled,
    /// The peer sent something that is no answer; to this want, if it is known to which.
    Malformed(Option<RequestId>),
}

/// What happens on a lane.
#[derive(Debug)]
pub enum LaneEvent {
    /// Wants go out. Whether the peer speaks the protocol shows when it answers.
    Opened,
    /// A long answer begins to come: it does not wait in a queue any more. Not told while too much is unheard.
    Begun(RequestId),
    /// The first part of a long answer is here. Not told while too much is unheard.
    Part(RequestId),
    /// One half of a long answer is here. Not told while too much is unheard.
    Half(RequestId),
    /// A part of the answer to a want came; told of long answers on slow lines, not each time.
    Moved(RequestId),
    /// A want has its answer.
    Answer(RequestId, LaneAnswer),
    /// Nothing follows. What was wanted and not answered is still in [`LaneWants`].
    Ended(LaneEnd),
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    id: RequestId,
    ask: Ask,
    max_len: u32,
    cancelled: bool,
}

/// The wants of a lane without an answer.
#[derive(Debug, Default)]
struct Open {
    next: WantNo,
    wants: BTreeMap<WantNo, Wanted>,
    /// When there was something wanted after nothing was.
    since: Option<Instant>,
}

type Shared = Arc<Mutex<Open>>;

fn lock(open: &Shared) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says what is wanted on a lane. Dropping it closes the lane.
#[derive(Debug)]
pub struct LaneWants {
    orders: mpsc::Sender<Asking>,
    open: Shared,
    tally: Arc<Tally>,
}

impl LaneWants {
    /// Asks for a block of at most `max_len` bytes; false if the lane is full or has ended.
    #[must_use]
    pub fn want(&self, id: RequestId, ask: impl Into<Ask>, max_len: u32) -> bool {
        let ask = ask.into();
        let mut open = lock(&self.open);
        let no = open.next;
        // After the last number, four peta of chunks, the lane takes no more.
        let Some(next) = no.checked_add(1).filter(|_| open.wants.len() < MAX_LANE_WANTS) else {
            return false;
        };
        if self.orders.try_send(Asking::Want(no, ask)).is_err() {
            return false;
        }
        open.next = next;
        open.since.get_or_insert_with(Instant::now);
        open.wants.insert(no, Wanted { id, ask, max_len, cancelled: false });
        self.tally.count(Count::Wants);
        true
    }

    /// Takes a want back. An answer follows all the same: that it was taken back, or what it was.
    pub fn cancel(&self, id: RequestId) {
        let mut open = lock(&self.open);
        let Some((no, want)) = open.wants.iter_mut().find(|(_, want)| want.id == id && !want.cancelled)
        else {
            return;
        };
        want.cancelled = true;
        // Without room it is answered as if it was not taken back.
        if self.orders.try_send(Asking::Cancel(*no)).is_ok() {
            self.tally.count(Count::Cancels);
        }
    }

    /// What has no answer, in the order in which it was wanted, and whether it was taken back.
    pub fn unanswered(&self) -> Vec<(RequestId, ContentCid, bool)> {
        lock(&self.open).wants.values().map(|want| (want.id, want.ask.cid(), want.cancelled)).collect()
    }
}

/// An event, and the room of what came with it, until it is heard of.
type Told = (LaneEvent, Option<Room>);

/// What happens on a lane, in order. Dropping it ends the lane.
#[derive(Debug)]
pub struct LaneEvents(mpsc::Receiver<Told>);

impl LaneEvents {
    /// The next event; [`LaneEvent::Ended`] is the last one. `None` after it, or if the network has gone. Cancel-safe.
    pub async fn next(&mut self) -> Option<LaneEvent> {
        self.0.recv().await.map(|(event, _)| event)
    }

    /// All events up to now, as soon as there is one; none where [`Self::next`] says so. Cancel-safe.
    pub async fn next_all(&mut self) -> Vec<LaneEvent> {
        let mut events = Vec::new();
        self.0.recv_many(&mut events, MAX_UNHEARD).await;
        events.into_iter().map(|(event, _)| event).collect()
    }
}

/// A lane to one peer, as something to be run.
pub(crate) struct Lane {
    state: State,
    open: Shared,
    tally: Arc<Tally>,
    buffers: Buffers,
}

enum State {
    Opening(BoxFuture<'static, Result<Stream, LaneEnd>>, mpsc::Receiver<Asking>),
    Open { reader: Watched<ReadHalf<Stream>>, writer: BoxFuture<'static, io::Result<()>> },
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

impl Lane {
    /// A lane to a connected peer. It is opened when it is run; what is wanted until then waits.
    pub(crate) fn new(
        control: Control,
        protocol: StreamProtocol,
        tally: Arc<Tally>,
        peer: PeerId,
        buffers: Buffers,
    ) -> (LaneWants, Self) {
        let (orders, received) = mpsc::channel(MAX_WAITING);
        let open = Shared::default();
        let counts = tally.clone();
        let opening = async move {
            match timeout(OPEN_TIMEOUT, control.open_early(peer, protocol)).await {
                Ok(Ok(stream)) => {
                    counts.count(Count::Opened);
                    Ok(stream)
                }
                Ok(Err(_)) | Err(_) => Err(LaneEnd::Closed),
            }
        };
        let wants = LaneWants { orders, open: open.clone(), tally: tally.clone() };
        (wants, Self { state: State::Opening(opening.boxed(), received), open, tally, buffers })
    }

    /// The lane as a task of its own, and what it tells. A task, because data comes in pieces of 16 KiB, each of which wakes
    /// whoever reads it: a reader with nothing else to do, which tells of whole answers only.
    pub(crate) fn into_task(self) -> (LaneEvents, impl Future<Output = ()> + Send + 'static) {
        let (events, received) = mpsc::channel(MAX_UNHEARD);
        (LaneEvents(received), self.run(events))
    }

    /// Runs until it has ended or nobody hears of it.
    async fn run(self, events: mpsc::Sender<Told>) {
        let mut left = Some(self);
        while let Some(lane) = left {
            let (told, rest) = tokio::select! {
                () = events.closed() => return,
                next = lane.next(&events) => next,
            };
            // While nobody hears, nothing more is read, and the holder waits.
            if events.send(told).await.is_err() {
                return;
            }
            left = rest;
        }
    }

    /// Runs until something happens. The lane comes back unless it has ended. Not cancel-safe: dropping the future ends
    /// the lane.
    async fn next(mut self, events: &mpsc::Sender<Told>) -> (Told, Option<Self>) {
        let (reader, writer) = match self.state {
            State::Open { ref mut reader, ref mut writer } => (reader, writer),
            State::Opening(opening, orders) => match opening.await {
                Ok(stream) => {
                    self.state = State::open(stream, orders, self.open.clone());
                    return ((LaneEvent::Opened, None), Some(self));
                }
                Err(end) => return ((LaneEvent::Ended(end), None), None),
            },
        };
        // The writer first: what is wanted anew must not wait until all that has come is read.
        let came = match select(&mut *writer, pin!(read(reader, &self.open, &self.buffers, events))).await {
            Either::Left((Ok(()), _)) => Err(LaneEnd::Closed),
            // What came before is still there: answers, or that the peer has no lanes.
            Either::Left((Err(error), reading)) => {
                *writer = ready(Err(error)).boxed();
                timeout(LEFT_BEHIND, reading).await.unwrap_or(Err(LaneEnd::Closed))
            }
            Either::Right((came, _)) => came,
        };
        let ended = match came {
            Ok((id, answer, room)) => return ((LaneEvent::Answer(id, answer), room), Some(self)),
            Err(end) => end,
        };
        match ended {
            LaneEnd::Malformed(_) => self.tally.count(Count::Malformed),
            LaneEnd::Stalled => self.tally.count(Count::Stalled),
            LaneEnd::Unsupported => self.tally.count(Count::Unsupported),
            LaneEnd::Closed => {}
        }
        ((LaneEvent::Ended(ended), None), None)
    }
}

impl State {
    fn open(stream: Stream, orders: mpsc::Receiver<Asking>, open: Shared) -> Self {
        let (reader, writer) = stream.split();
        let reader = Watched { io: reader, open, last: Instant::now(), alarm: Box::pin(sleep(LANE_STALL)) };
        Self::Open { reader, writer: write(writer, orders).boxed() }
    }
}

/// Writes what is wanted until nobody wants any more.
async fn write(mut io: WriteHalf<Stream>, mut orders: mpsc::Receiver<Asking>) -> io::Result<()> {
    let mut bytes = Vec::new();
    while let Some(first) = orders.recv().await {
        first.write(&mut bytes);
        // No more than the channel holds.
        while let Ok(more) = orders.try_recv() {
            more.write(&mut bytes);
        }
        io.write_all(&bytes).await?;
        io.flush().await?;
        bytes.clear();
    }
    io.close().await
}

/// Reads one answer.
async fn read(
    io: &mut Watched<ReadHalf<Stream>>,
    open: &Shared,
    buffers: &Buffers,
    events: &mpsc::Sender<Told>,
) -> Result<(RequestId, LaneAnswer, Option<Room>), LaneEnd> {
    let ended = |error: &io::Error, id| match error.kind() {
        io::ErrorKind::InvalidData => {
            tracing::debug!(%error, "a lane brings no answers");
            LaneEnd::Malformed(id)
        }
        io::ErrorKind::TimedOut => LaneEnd::Stalled,
        _ if is_refusal(error) => LaneEnd::Unsupported,
        _ => LaneEnd::Closed,
    };
    let (no, head) = match Head::read(io).await {
        Ok(Some(read)) => read,
        Ok(None) => return Err(LaneEnd::Closed),
        Err(error) => return Err(ended(&error, None)),
    };
    let wanted = lock(open).wants.get(&no).copied();
    let Some(Wanted { id, ask, max_len, .. }) = wanted else {
        return Err(ended(&invalid("an answer to nothing"), None));
    };
    let mut room = None;
    let answer = match head {
        Head::Data(len) | Head::WithContent { len, .. } if len > max_len => {
            let error = invalid(format!("{len} bytes of at most {max_len}"));
            return Err(ended(&error, Some(id)));
        }
        Head::WithContent { .. } if matches!(ask, Ask::Block(_)) => {
            return Err(ended(&invalid("content that was not asked for"), Some(id)));
        }
        Head::Data(len) | Head::WithContent { len, .. } => {
            let data = match read_data(io, len, buffers, |event| tell(events, event(id))).await {
                Ok(data) => data,
                Err(error) => return Err(ended(&error, Some(id))),
            };
            let is_taken_back = || lock(open).wants.get(&no).is_some_and(|want| want.cancelled);
            match (data, head) {
                (Err(came), _) if is_taken_back() => LaneAnswer::Cancelled(came),
                (Err(_), _) => return Err(ended(&invalid("a want is taken back that was not"), Some(id))),
                (Ok(data), head) => {
                    // Only now: whoever sends slowly must not take the room of others.
                    room = Some(buffers.room(len).await);
                    match head {
                        Head::WithContent { content_len, .. } => {
                            LaneAnswer::WithContent { data, content_len }
                        }
                        _ => LaneAnswer::Data(data),
                    }
                }
            }
        }
        Head::Missing => LaneAnswer::Missing,
        Head::Busy(waiting) => LaneAnswer::Busy(waiting),
        Head::Cancelled => LaneAnswer::Cancelled(0),
    };
    let mut open = lock(open);
    open.wants.remove(&no);
    if open.wants.is_empty() {
        open.since = None;
    }
    Ok((id, answer, room))
}

fn tell(events: &mpsc::Sender<Told>, event: LaneEvent) {
    // Who has not heard all of the last ones hears of something soon enough.
    let _ = events.try_send((event, None));
}

/// Reads the bytes of an answer, or how many there were until it was taken back; says that a long one begins, and that it
/// moves if it takes long.
async fn read_data<T: AsyncRead + Unpin>(
    io: &mut T,
    len: u32,
    buffers: &Buffers,
    tell: impl Fn(fn(RequestId) -> LaneEvent),
) -> io::Result<Result<Vec<u8>, u32>> {
    let len = usize::try_from(len).map_err(io::Error::other)?;
    let mut data = buffers.take(len);
    if len > LANE_PIECE_LEN {
        tell(LaneEvent::Begun);
    }
    let (mut told, mut came) = (Instant::now(), 0);
    for run in data.chunks_mut(LANE_PIECE_LEN) {
        if came > 0 && is_cut(io).await? {
            buffers.give(data);
            return Ok(Err(u32::try_from(came).map_err(io::Error::other)?));
        }
        for piece in run.chunks_mut(MOVED_LEN) {
            let now = Instant::now();
            if told + MOVED_EVERY <= now {
                tell(LaneEvent::Moved);
                told = now;
            }
            io.read_exact(piece).await?;
        }
        let before = came;
        came += run.len();
        if before == 0 && came < len {
            tell(LaneEvent::Part);
        }
        if before < len.div_ceil(2) && came >= len.div_ceil(2) && came < len {
            tell(LaneEvent::Half);
        }
    }
    Ok(Ok(data))
}

/// Reads what stands between two pieces.
async fn is_cut<T: AsyncRead + Unpin>(io: &mut T) -> io::Result<bool> {
    let mut mark = [0];
    io.read_exact(&mut mark).await?;
    match mark {
        [GOES_ON] => Ok(false),
        [CUT] => Ok(true),
        [other] => Err(invalid(format!("unknown mark {other} after a piece"))),
    }
}

/// A reader that fails with [`io::ErrorKind::TimedOut`] if nothing comes for [`LANE_STALL`] while something is wanted.
struct Watched<R> {
    io: R,
    open: Shared,
    /// When something came last.
    last: Instant,
    alarm: Pin<Box<Sleep>>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Watched<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let Poll::Ready(read) = Pin::new(&mut this.io).poll_read(cx, buf) {
            this.last = Instant::now();
            return Poll::Ready(read);
        }
        while this.alarm.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if this.alarm.deadline() + OVERDUE < now {
                // Nobody looked for so long: what has come since is not read yet.
                this.last = now;
            }
            // With nothing wanted there is nothing to wait for.
            let since = lock(&this.open).since.unwrap_or(now).max(this.last);
            if since + LANE_STALL <= now {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            this.alarm.as_mut().reset(since + LANE_STALL);
        }
        Poll::Pending
    }
}
