//! What waits to be sent on a connection is bounded: yamux queues eleven frames for each stream, whatever the others have
//! queued, so that a peer with many streams, which reads nothing, would have a node hold 180 MB.
//!
//! Streams count what they hand over; what passes below yamux is taken off again. In between it waits for the socket. Streams
//! without room take turns of one frame each, in the order in which they came.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use futures::{AsyncRead, AsyncWrite};

use super::limits::{MAX_FRAME_BODY, MAX_SEND_QUEUE};

/// A write of so many bytes has twice the room: a question, or the head of an answer, does not wait behind blocks.
const SMALL: usize = 4096;

/// What waits to be sent on one connection. All clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct SendQueue(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// Bytes of bodies that streams handed over and that have not passed yet. What passes may be told before it was handed
    /// over: another thread sends it.
    waiting: i64,
    /// The connection has gone: nothing waits for room any more.
    ended: bool,
    next_stream: u64,
    /// Streams that wait for room, in order.
    turns: VecDeque<u64>,
    /// Of each of them.
    wakers: BTreeMap<u64, Waker>,
    /// Streams whose turn it is: each may write once.
    granted: BTreeSet<u64>,
}

impl State {
    /// Bytes that are queued, or may come from streams whose turn it is.
    fn taken(&self) -> usize {
        usize::try_from(self.waiting).unwrap_or(0) + self.granted.len() * MAX_FRAME_BODY
    }

    /// Gives turns while there is room; who is to be woken.
    fn grant(&mut self) -> Vec<Waker> {
        let mut woken = Vec::new();
        // With nothing queued there is a turn in any case: one that was given may never be used.
        while self.taken() < MAX_SEND_QUEUE || self.waiting <= 0 && woken.is_empty() {
            let Some(no) = self.turns.pop_front() else { break };
            if let Some(waker) = self.wakers.remove(&no) {
                self.granted.insert(no);
                woken.push(waker);
            }
        }
        woken
    }
}

impl SendQueue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream of this connection.
    pub(super) fn stream(&self, stream: yamux::Stream) -> QueuedStream {
        let mut state = self.state();
        state.next_stream += 1;
        QueuedStream { stream, queue: self.clone(), no: state.next_stream }
    }

    /// Changes the books and wakes those whose turn has come.
    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        let woken = state.grant();
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Lets everybody go on, to learn that the connection has gone.
    pub(super) fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        state.turns.clear();
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_values().for_each(Waker::wake);
    }

    /// Ready when stream `no` may hand over something of this length.
    fn poll_room(&self, cx: &mut Context<'_>, no: u64, len: usize) -> Poll<()> {
        let mut state = self.state();
        let room = if len <= SMALL { 2 * MAX_SEND_QUEUE } else { MAX_SEND_QUEUE };
        let is_first = len <= SMALL || state.turns.is_empty();
        if state.ended || state.granted.contains(&no) || is_first && state.taken() < room {
            return Poll::Ready(());
        }
        let old = state.wakers.insert(no, cx.waker().clone());
        if old.is_none() {
            state.turns.push_back(no);
        }
        drop(state);
        // Outside of the lock: it is somebody else's code.
        drop(old);
        Poll::Pending
    }

    /// Stream `no` handed over so many bytes, if any; its turn is over.
    fn on_written(&self, no: u64, len: usize) {
        self.update(|state| {
            state.granted.remove(&no);
            state.waiting = state.waiting.saturating_add(signed(len));
        });
    }

    /// Bytes of bodies have passed.
    fn on_passed(&self, len: usize) {
        self.update(|state| state.waiting = state.waiting.saturating_sub(signed(len)));
    }

    fn on_dropped(&self, no: u64) {
        self.update(|state| {
            if state.wakers.remove(&no).is_some() {
                state.turns.retain(|turn| *turn != no);
            }
            state.granted.remove(&no);
        });
    }
}

fn signed(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

/// A stream whose writes wait for room in the queue of its connection.
#[derive(Debug)]
pub struct QueuedStream {
    stream: yamux::Stream,
    queue: SendQueue,
    no: u64,
}

#[cfg(test)]
impl QueuedStream {
    /// Leaves no room on its connection.
    pub(super) fn fill_queue(&self) {
        self.queue.on_written(0, 2 * MAX_SEND_QUEUE);
    }
}

impl Drop for QueuedStream {
    fn drop(&mut self) {
        self.queue.on_dropped(self.no);
    }
}

impl AsyncRead for QueuedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for QueuedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.queue.poll_room(cx, self.no, buf.len()));
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        // Without any it waits for something else, and others may go on.
        let len = if let Poll::Ready(Ok(len)) = &written { *len } else { 0 };
        self.queue.on_written(self.no, len);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

/// What is below yamux: takes the bodies that pass off the queue.
#[derive(Debug)]
pub(super) struct Passing<C> {
    io: C,
    bodies: Bodies,
    queue: SendQueue,
}

impl<C> Passing<C> {
    pub(super) fn new(io: C, queue: SendQueue) -> Self {
        Self { io, bodies: Bodies::default(), queue }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Passing<C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Passing<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let len = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        let bodies = buf.get(..len).map_or(0, |passed| self.bodies.count(passed));
        if bodies > 0 {
            self.queue.on_passed(bodies);
        }
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}

/// Tells the bodies of frames from their heads: 12 bytes, of which the second is the type, 0 for data, and the last four
/// the length of the body of such a frame (yamux, "Framing").
#[derive(Debug, Default)]
struct Bodies {
    /// Of the head that is passing, so many bytes have.
    head_len: usize,
    is_data: bool,
    /// The last four bytes of the head as a number; when it has passed, what is left of the body.
    left: u32,
}

impl Bodies {
    const HEAD_LEN: usize = 12;

    /// How many of these bytes, which follow those of the call before, are of bodies.
    fn count(&mut self, mut bytes: &[u8]) -> usize {
        let mut bodies = 0;
        while !bytes.is_empty() {
            if self.head_len == Self::HEAD_LEN && self.left > 0 {
                let len = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                bytes = &bytes[len..];
                bodies += len;
                self.left = self.left.saturating_sub(u32::try_from(len).unwrap_or(u32::MAX));
                continue;
            }
            self.on_head(bytes[0]);
            bytes = &bytes[1..];
        }
        bodies
    }

    fn on_head(&mut self, byte: u8) {
        if self.head_len == Self::HEAD_LEN {
            self.head_len = 0;
        }
        match self.head_len {
            1 => self.is_data = byte == 0,
            8.. => self.left = self.left << 8 | u32::from(byte),
            _ => {}
        }
        self.head_len += 1;
        if self.head_len == Self::HEAD_LEN && !self.is_data {
            self.left = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, len: u32, body: usize) -> Vec<u8> {
        let mut bytes = vec![0, kind, 0, 1, 0, 0, 0, 7];
        bytes.extend(len.to_be_bytes());
        bytes.resize(bytes.len() + body, 0xAB);
        bytes
    }

    proptest! {
        #[test]
        fn bodies_are_told_from_heads_however_they_are_cut(
            frames in prop::collection::vec((0..4_u8, 0..3_000_u32), 1..20),
            cuts in prop::collection::vec(1..200_usize, 1..30),
        ) {
            let mut bytes = Vec::new();
            let mut expected = 0;
            for (kind, len) in frames {
                // Of the others the number is a window, a ping or a reason: no body follows.
                let body = if kind == 0 { len as usize } else { 0 };
                bytes.extend(frame(kind, len, body));
                expected += body;
            }
            let (mut bodies, mut counted, mut rest) = (Bodies::default(), 0, &bytes[..]);
            for cut in cuts.into_iter().cycle() {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                counted += bodies.count(now);
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(counted, expected);
            prop_assert_eq!(bodies.left, 0);
        }
    }
}
