//! The end of a lane that has.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{Either, select};
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, StreamExt as _};
use libp2p::{PeerId, Stream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout, timeout_at};

use super::tally::{Count, Tally};
use super::wire::{Asking, CUT, GOES_ON, Head, WantNo, invalid};
use crate::net::exchange::{ExchangeResponse, MAX_DATA_LEN};
use crate::net::limits::{
    LANE_ANSWER, LANE_IDLE, LANE_PIECE_LEN, LANE_PIECE_TIME, LANE_WANTS, MAX_LANE_WANTS,
};
use crate::net::places::Place;
use crate::net::rates::Rates;
use crate::net::report::{Answering, NetEvent, ServeId, ServeTicket};
use crate::net::streams::IncomingStreams;

/// Requests on lanes are numbered from here on, those with a stream of their own from 0.
const FIRST_ID: u64 = 1 << 63;

/// Answers of at most this length in bytes are written together with their heads: another write costs more than the copy.
const JOINED_LEN: usize = 8 << 10;

/// The lanes that others open.
pub struct Lanes {
    streams: IncomingStreams,
    tally: Arc<Tally>,
    rates: Arc<Rates>,
    next_id: Arc<AtomicU64>,
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lanes").finish_non_exhaustive()
    }
}

impl Lanes {
    pub(crate) fn new(streams: IncomingStreams, tally: Arc<Tally>, rates: Arc<Rates>) -> Self {
        Self { streams, tally, rates, next_id: Arc::new(AtomicU64::new(FIRST_ID)) }
    }

    /// The next lane that has a place; `None` when the network has gone.
    pub async fn next(&mut self) -> Option<LaneServe> {
        loop {
            let (peer, stream) = self.streams.next().await?;
            // Without a place it is closed, and whoever opened it asks another way.
            let Some(place) = self.tally.place(peer) else { continue };
            return Some(LaneServe {
                peer,
                stream,
                tally: self.tally.clone(),
                rates: self.rates.clone(),
                next_id: self.next_id.clone(),
                _place: place,
            });
        }
    }
}

/// A lane of another peer, to be run.
#[derive(Debug)]
pub struct LaneServe {
    peer: PeerId,
    stream: Stream,
    tally: Arc<Tally>,
    rates: Arc<Rates>,
    next_id: Arc<AtomicU64>,
    _place: Place,
}

/// An answer on its way to the asker; without a response it is for want of room or time.
#[derive(Debug)]
struct Answered {
    no: WantNo,
    id: ServeId,
    response: Option<ExchangeResponse>,
}

/// The right to answer one want. Dropping it answers busy, or that it was taken back.
#[derive(Debug)]
pub(crate) struct LaneReply {
    to: mpsc::Sender<Answered>,
    answer: Option<Answered>,
}

impl LaneReply {
    pub(crate) fn send(mut self, response: ExchangeResponse) {
        if let Some(answer) = &mut self.answer {
            answer.response = Some(response);
        }
    }
}

impl Drop for LaneReply {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            // There is a place for each want; a lane that has gone needs no answer.
            let _ = self.to.try_send(answer);
        }
    }
}

#[derive(Debug)]
struct Open {
    id: ServeId,
    cancelled: bool,
    /// Its answer is being written. To the asker it may be there already.
    answering: bool,
    /// Of a want beyond those that every lane has room for.
    _deep: Option<OwnedSemaphorePermit>,
}

type Shared = Arc<Mutex<BTreeMap<WantNo, Open>>>;

fn lock(open: &Shared) -> MutexGuard<'_, BTreeMap<WantNo, Open>> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LaneServe {
    /// Runs until the lane ends. What is asked for goes to `events`, each with one end.
    pub async fn run(self, events: mpsc::Sender<NetEvent>) {
        let Self { peer, stream, tally, rates, next_id, _place } = self;
        let open = Shared::default();
        let (reader, writer) = stream.split();
        let (answers, answered) = mpsc::channel(MAX_LANE_WANTS);
        let (tally_of_reader, events_of_reader) = (tally.clone(), events.clone());
        let asked = Asked {
            peer,
            next_id,
            answers,
            events: events_of_reader,
            open: open.clone(),
            tally: tally_of_reader,
        };
        // Both are dropped here: one that waits for a place among the events would be given it and keep it.
        let ended = {
            let reading = pin!(asked.read(reader));
            let writer = Writer { io: writer, peer, rates: &rates };
            let writing = pin!(write(writer, answered, &events, &open, &tally));
            let (Either::Left((ended, _)) | Either::Right((ended, _))) = select(reading, writing).await;
            ended
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "a lane broke off");
            tally.count(Count::ServeBroken);
        }
        let left = std::mem::take(&mut *lock(&open));
        for open in left.into_values() {
            // A reader that has gone needs no end.
            let _ = events.send(NetEvent::ResponseFailed(open.id)).await;
        }
    }
}

struct Asked {
    peer: PeerId,
    next_id: Arc<AtomicU64>,
    answers: mpsc::Sender<Answered>,
    events: mpsc::Sender<NetEvent>,
    open: Shared,
    tally: Arc<Tally>,
}

impl Asked {
    /// Reads what is wanted, until the asker closes its side or wants nothing for long.
    async fn read<T: AsyncRead + Unpin>(self, mut io: T) -> io::Result<()> {
        let mut least = 0;
        // Wants that may still be taken back.
        let mut cancels = 0_u64;
        let mut idle_at = Instant::now() + LANE_IDLE;
        loop {
            let mut reading = pin!(Asking::read(&mut io));
            let asking = loop {
                match timeout_at(idle_at, &mut reading).await {
                    Ok(asking) => break asking?,
                    Err(_) if lock(&self.open).is_empty() => return Ok(()),
                    Err(_) => idle_at = Instant::now() + LANE_IDLE,
                }
            };
            let Some(asking) = asking else { return Ok(()) };
            // While the reader of events is behind, nothing more is read: whoever asks waits.
            match asking {
                Asking::Want(no, ask) => {
                    if no < least {
                        return Err(invalid("the numbers of wants do not grow"));
                    }
                    least = no.checked_add(1).ok_or_else(|| invalid("no numbers are left"))?;
                    idle_at = Instant::now() + LANE_IDLE;
                    cancels += 1;
                    // With a place for it, it becomes open and is told of in one step: what is open is told of its end.
                    let is_deep = lock(&self.open).len() >= LANE_WANTS;
                    let deep = if is_deep { self.tally.deep_place().await } else { None };
                    let Ok(place) = self.events.reserve().await else { return Ok(()) };
                    let ticket = self.open(no, deep)?;
                    place.send(NetEvent::Request { ticket, peer: self.peer, ask });
                }
                Asking::Cancel(no) => {
                    cancels = cancels
                        .checked_sub(1)
                        .filter(|_| no < least)
                        .ok_or_else(|| invalid("more is taken back than was wanted"))?;
                    // It may have been answered meanwhile.
                    let Some(id) = self.cancel(no) else { continue };
                    if self.events.send(NetEvent::RequestCancelled(id)).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// From now on it is not answered with data, or with no more than was sent; none if it was cancelled before, or answered.
    fn cancel(&self, no: WantNo) -> Option<ServeId> {
        let mut open = lock(&self.open);
        let want = open.get_mut(&no).filter(|want| !want.cancelled)?;
        want.cancelled = true;
        Some(want.id)
    }

    fn open(&self, no: WantNo, deep: Option<OwnedSemaphorePermit>) -> io::Result<ServeTicket> {
        let id = ServeId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let mut open = lock(&self.open);
        if open.values().filter(|want| !want.answering).count() >= MAX_LANE_WANTS {
            return Err(invalid("too many wants wait"));
        }
        open.insert(no, Open { id, cancelled: false, answering: false, _deep: deep });
        let reply = LaneReply { to: self.answers.clone(), answer: Some(Answered { no, id, response: None }) };
        Ok(ServeTicket { id, channel: Answering::Lane(reply) })
    }
}

/// Writes answers in the order in which they come.
async fn write<T: AsyncWrite + Unpin>(
    mut writer: Writer<'_, T>,
    mut answers: mpsc::Receiver<Answered>,
    events: &mpsc::Sender<NetEvent>,
    open: &Shared,
    tally: &Tally,
) -> io::Result<()> {
    while let Some(Answered { no, id, response }) = answers.recv().await {
        let cancelled = lock(open).get_mut(&no).is_some_and(|want| {
            want.answering = true;
            want.cancelled
        });
        let response = if cancelled { None } else { response };
        let was_sent = response.is_some();
        let (head, data) = match response {
            Some(ExchangeResponse::Data(data)) => {
                let len = u32::try_from(data.len()).ok().filter(|len| *len <= MAX_DATA_LEN);
                (Head::Data(len.ok_or_else(|| invalid("too many bytes for an answer"))?), data)
            }
            Some(ExchangeResponse::WithContent { data, content_len }) => {
                let len = u32::try_from(data.len()).ok().filter(|len| *len <= MAX_DATA_LEN);
                let len = len.ok_or_else(|| invalid("too many bytes for an answer"))?;
                (Head::WithContent { len, content_len }, data)
            }
            Some(ExchangeResponse::Missing) => (Head::Missing, Vec::new()),
            None if cancelled => {
                tally.count(Count::Cancelled);
                (Head::Cancelled, Vec::new())
            }
            Some(ExchangeResponse::Busy) | None => (Head::Busy(tally.waiting()), Vec::new()),
        };
        let is_cut = || lock(open).get(&no).is_some_and(|want| want.cancelled);
        let was_whole = writer.answer(&head.bytes(no), &data, answers.is_empty(), is_cut).await?;
        drop(data);
        if !was_whole {
            tally.count(Count::Cancelled);
        }
        let end =
            if was_sent && was_whole { NetEvent::ResponseSent(id) } else { NetEvent::ResponseFailed(id) };
        // A reader that has gone needs no end.
        let _ = events.send(end).await;
        // Only now: a lane that breaks off before tells of the end itself.
        lock(open).remove(&no);
    }
    Ok(())
}

/// Writes to one peer, as fast as the limits allow.
struct Writer<'a, T> {
    io: T,
    peer: PeerId,
    rates: &'a Rates,
}

impl<T: AsyncWrite + Unpin> Writer<'_, T> {
    /// Writes one answer, in pieces, each of which has to move in time. However steadily it trickles, the whole has to
    /// as well: it takes a part of the budget of all. Time in which our own limits stood against it does not count. False if it
    /// ended after a piece because it `is_cut`.
    async fn answer(
        &mut self,
        head: &[u8],
        data: &[u8],
        is_last: bool,
        is_cut: impl Fn() -> bool,
    ) -> io::Result<bool> {
        let mut left = LANE_ANSWER;
        let mut was_whole = true;
        if data.len() <= JOINED_LEN && self.rates.piece_len(&self.peer).is_none() {
            in_time(&mut left, self.io.write_all(&[head, data].concat())).await?;
        } else {
            in_time(&mut left, self.io.write_all(head)).await?;
            for (place, run) in data.chunks(LANE_PIECE_LEN).enumerate() {
                if place > 0 {
                    was_whole = !is_cut();
                    in_time(&mut left, self.io.write_all(&[if was_whole { GOES_ON } else { CUT }])).await?;
                }
                if !was_whole {
                    break;
                }
                self.run(run, &mut left).await?;
            }
        }
        if is_last {
            in_time(&mut left, self.io.flush()).await?;
        }
        Ok(was_whole)
    }

    async fn run(&mut self, run: &[u8], left: &mut Duration) -> io::Result<()> {
        let mut rest = run;
        while !rest.is_empty() {
            let limited = self.rates.piece_len(&self.peer);
            let (piece, after) = rest.split_at(limited.unwrap_or(LANE_PIECE_LEN).min(rest.len()));
            if limited.is_some() {
                self.rates.send(self.peer, piece.len()).await;
            }
            in_time(left, self.io.write_all(piece)).await?;
            if limited.is_some() {
                // The next one may be a while.
                in_time(left, self.io.flush()).await?;
            }
            rest = after;
        }
        Ok(())
    }
}

/// Lets a write take as long as a piece may, and all of them no longer than is `left`.
async fn in_time(left: &mut Duration, written: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let begun = Instant::now();
    timeout(LANE_PIECE_TIME.min(*left), written)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    *left = left.saturating_sub(begun.elapsed());
    Ok(())
}
