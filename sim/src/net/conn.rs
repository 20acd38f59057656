//! One connection: two ends and, between them, two queues of segments.

use std::{collections::VecDeque, io, net::SocketAddrV4, task::Waker};

use libp2p::core::transport::ListenerId;

use super::{HostId, NatId};

/// Bytes that may be written and not yet read, in each direction; then writes wait.
pub(super) const WINDOW: usize = 1 << 20;

/// A segment is at most this long.
pub(super) const MAX_SEGMENT: usize = 64 << 10;

/// On a limited link connections take turns after so many bytes.
pub(super) const TURN: usize = 16 << 10;

/// Key of an entry of a [`Slab`]; not valid for what takes the place later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    index: u32,
    generation: u32,
}

/// Things with keys that are small, cheap to look up and never valid twice.
#[derive(Debug)]
pub(super) struct Slab<T> {
    entries: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(super) fn insert(&mut self, value: T) -> Key {
        if let Some(index) = self.free.pop()
            && let Some(entry) = self.entries.get_mut(index as usize)
        {
            entry.1 = Some(value);
            return Key { index, generation: entry.0 };
        }
        let index = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        self.entries.push((0, Some(value)));
        Key { index, generation: 0 }
    }

    pub(super) fn get(&self, key: Key) -> Option<&T> {
        self.entries.get(key.index as usize).filter(|entry| entry.0 == key.generation)?.1.as_ref()
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.entries.get_mut(key.index as usize).filter(|entry| entry.0 == key.generation)?.1.as_mut()
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self.entries.get_mut(key.index as usize).filter(|entry| entry.0 == key.generation)?;
        let value = entry.1.take()?;
        entry.0 = entry.0.wrapping_add(1);
        self.free.push(key.index);
        Some(value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.entries.iter().zip(0..).filter_map(|((generation, value), index)| {
            Some((Key { index, generation: *generation }, value.as_ref()?))
        })
    }
}

/// Which end of a connection, 0 or 1. End 0 is the one whose first packet made the connection.
pub(super) type Side = usize;

/// The end on the other side.
pub(super) const fn other(side: Side) -> Side {
    1 - side
}

/// Who waits for an end to be up.
#[derive(Debug, Clone, Copy)]
pub(super) enum Opener {
    Dial(Key),
    Listener(Key, ListenerId),
}

/// How far an end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EndState {
    /// The other end has not answered yet.
    Opening,
    Open,
    /// Reads and writes tell this error; whoever holds the stream has not dropped it yet.
    Failed(io::ErrorKind),
    /// Nobody holds it.
    Gone,
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct End {
    pub(super) host: HostId,
    pub(super) local: SocketAddrV4,
    /// The other end's address as this one sees it.
    pub(super) remote: SocketAddrV4,
    /// The NAT box that it goes through, and the port there.
    pub(super) nat: Option<(NatId, u16)>,
    pub(super) state: EndState,
    pub(super) opener: Opener,
    pub(super) reader: Option<Waker>,
}

/// Bytes on their way.
#[derive(Debug, Default)]
pub(super) struct Segment {
    pub(super) data: Vec<u8>,
    /// When it arrives at the next stage.
    pub(super) due: u64,
    /// Whether it is the end of the stream. Such a segment has no bytes.
    pub(super) is_end: bool,
    /// It left a host that was cut off.
    pub(super) is_lost: bool,
}

/// What one end has sent to the other. All segments are in one queue, in the order of the stream; the counters say
/// how many are at which stage:
///
/// `[ready | landing | waiting | parked | flying | unsent]`
#[derive(Debug, Default)]
pub(super) struct Dir {
    pub(super) segments: VecDeque<Segment>,
    /// May be read.
    pub(super) ready: usize,
    /// On the receiver's downlink.
    pub(super) landing: usize,
    /// Before the receiver's downlink.
    pub(super) waiting: usize,
    /// Did not get through and must be sent again.
    pub(super) parked: usize,
    /// Between the hosts.
    pub(super) flying: usize,
    /// Bytes of the first ready segment that were read.
    pub(super) read: usize,
    /// Bytes that take up the window.
    pub(super) in_window: usize,
    /// When the sender learns that so many bytes were read.
    pub(super) acks: VecDeque<(u64, usize)>,
    pub(super) is_ack_awaited: bool,
    pub(super) writer: Option<Waker>,
    /// Since when nothing gets through.
    pub(super) stuck_since: Option<u64>,
    pub(super) has_ended: bool,
    pub(super) is_in_uplink: bool,
    pub(super) is_in_downlink: bool,
    pub(super) last_due: u64,
}

impl Dir {
    /// Segments that the receiver's host has.
    pub(super) fn arrived(&self) -> usize {
        self.ready + self.landing + self.waiting
    }

    /// Index of the first segment that is between the hosts.
    pub(super) fn first_flying(&self) -> usize {
        self.arrived() + self.parked
    }

    /// Index of the first segment that has not left the sender.
    pub(super) fn first_unsent(&self) -> usize {
        self.first_flying() + self.flying
    }

    pub(super) fn unsent(&self) -> usize {
        self.segments.len().saturating_sub(self.first_unsent())
    }

    /// How many segments from index `start` on, of `count`, are due at `at`.
    pub(super) fn due(&self, start: usize, count: usize, at: u64) -> usize {
        self.segments.iter().skip(start).take(count).take_while(|segment| segment.due <= at).count()
    }

    /// Nothing more will be sent; what has arrived may still be read.
    pub(super) fn forget_unarrived(&mut self) {
        self.segments.truncate(self.arrived());
        (self.parked, self.flying) = (0, 0);
        self.stuck_since = None;
    }

    /// The sender is no more; what has left it still arrives, unless something before it has to be sent again.
    pub(super) fn forget_unsent(&mut self) {
        if self.parked > 0 {
            self.forget_unarrived();
        }
        self.segments.truncate(self.first_unsent());
        self.stuck_since = None;
    }

    /// Nobody will read what has arrived. Returns whether there was any of it.
    pub(super) fn discard_arrived(&mut self) -> bool {
        let had_data = self.segments.drain(..self.arrived()).any(|segment| !segment.is_end);
        (self.ready, self.landing, self.waiting, self.read) = (0, 0, 0, 0);
        had_data
    }

    /// Bytes may be added to the last segment, if it is not on its way.
    pub(super) fn append_unsent(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        if self.unsent() > 0
            && let Some(last) = self.segments.back_mut()
            && !last.is_end
        {
            let len = TURN.saturating_sub(last.data.len()).min(rest.len());
            last.data.extend_from_slice(&rest[..len]);
            rest = &rest[len..];
        }
        for data in rest.chunks(TURN) {
            self.segments.push_back(Segment { data: data.to_vec(), ..Segment::default() });
        }
    }

    /// Takes the acknowledgements that have come by now off the window.
    pub(super) fn take_acks(&mut self, now: u64) {
        while let Some((at, len)) = self.acks.front()
            && *at <= now
        {
            self.in_window = self.in_window.saturating_sub(*len);
            self.acks.pop_front();
        }
        release(&mut self.acks);
    }

    /// Copies what is ready to `buffer`. Returns the number of bytes, or `None` if nothing is ready; zero is the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        let mut len = 0;
        while self.ready > 0
            && len < buffer.len()
            && let Some(first) = self.segments.front()
        {
            if first.is_end {
                return Some(len);
            }
            let from = first.data.get(self.read..).unwrap_or_default();
            let part = from.len().min(buffer.len() - len);
            buffer[len..len + part].copy_from_slice(&from[..part]);
            len += part;
            self.read += part;
            if part == from.len() {
                self.segments.pop_front();
                self.ready -= 1;
                self.read = 0;
            }
        }
        release(&mut self.segments);
        (len > 0).then_some(len)
    }
}

/// Gives back the room of a queue that has become empty, if it is much: most connections are idle.
fn release<T>(queue: &mut VecDeque<T>) {
    if queue.is_empty() && queue.capacity() > 4 {
        *queue = VecDeque::new();
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) ends: [End; 2],
    /// By the end that sends.
    pub(super) dirs: [Dir; 2],
    /// Whether the ends are in one local network: then neither links nor NAT count.
    pub(super) is_local: bool,
    pub(super) last_active: u64,
    /// A NAT box has forgotten it.
    pub(super) is_forgotten: bool,
}
