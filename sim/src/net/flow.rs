//! How bytes get from one end to the other, and what it costs them.

use std::{
    io,
    task::{Context, Poll, Waker},
};

use super::{
    HostId,
    conn::{EndState, Key, MAX_SEGMENT, Segment, Side, WINDOW, other},
    state::{Core, Event, Power, micros, on_grid},
    trace::TraceKind,
};

impl Core {
    /// Takes bytes from whoever holds an end.
    pub(super) fn write(
        &mut self,
        key: Key,
        side: Side,
        cx: &Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let now = self.now();
        let Some(conn) = self.conns.get_mut(key) else { return broken() };
        let (host, peer) = (conn.ends[side].host, conn.ends[other(side)].host);
        match conn.ends[side].state {
            EndState::Open => {}
            EndState::Failed(kind) => return Poll::Ready(Err(kind.into())),
            EndState::Opening | EndState::Gone => return broken(),
        }
        let dir = &mut conn.dirs[side];
        if dir.has_ended {
            return broken();
        }
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        dir.take_acks(now);
        let len = bytes.len().min(WINDOW.saturating_sub(dir.in_window)).min(MAX_SEGMENT);
        if len == 0 {
            store(&mut dir.writer, cx);
            self.await_ack(key, side);
            return Poll::Pending;
        }
        dir.in_window += len;
        let bytes = &bytes[..len];
        self.trace.add(now, TraceKind::Data, Some(host), Some(peer), bytes);
        self.hosts[host.index()].stats.sent += len as u64;
        self.touch(key, now);
        self.push(key, side, bytes, now);
        Poll::Ready(Ok(len))
    }

    /// Gives bytes to whoever holds an end.
    pub(super) fn read(
        &mut self,
        key: Key,
        side: Side,
        cx: &Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Some(conn) = self.conns.get_mut(key) else { return broken() };
        if conn.ends[side].state == EndState::Gone {
            return broken();
        }
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        match conn.dirs[other(side)].read(buffer) {
            Some(0) => Poll::Ready(Ok(0)),
            Some(len) => {
                self.acknowledge(key, side, len);
                Poll::Ready(Ok(len))
            }
            None => {
                if let EndState::Failed(kind) = conn.ends[side].state {
                    return Poll::Ready(Err(kind.into()));
                }
                store(&mut conn.ends[side].reader, cx);
                Poll::Pending
            }
        }
    }

    /// Ends the stream of bytes from an end, after what was written.
    pub(super) fn end(&mut self, key: Key, side: Side) {
        let now = self.now();
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.ends[side].state != EndState::Open || conn.dirs[side].has_ended {
            return;
        }
        conn.dirs[side].has_ended = true;
        let (host, peer) = (conn.ends[side].host, conn.ends[other(side)].host);
        self.note(now, TraceKind::Close, host, peer);
        self.push(key, side, &[], now);
    }

    /// The reader took bytes: the writer learns it one way later.
    fn acknowledge(&mut self, key: Key, reader: Side, len: usize) {
        let now = self.now();
        let Some(conn) = self.conns.get(key) else { return };
        let (from, to) = (conn.ends[reader].host, conn.ends[other(reader)].host);
        let at = on_grid(now + self.delay(from, to, conn.is_local));
        let Some(conn) = self.conns.get_mut(key) else { return };
        let dir = &mut conn.dirs[other(reader)];
        match dir.acks.back_mut() {
            Some(last) if last.0 >= at => last.1 += len,
            _ => {
                if dir.acks.len() >= 4 {
                    dir.take_acks(now);
                }
                dir.acks.push_back((at, len));
            }
        }
        if dir.writer.is_some() {
            self.await_ack(key, other(reader));
        }
    }

    /// Plans to wake a writer with the next acknowledgement, if one is on its way.
    fn await_ack(&mut self, key: Key, side: Side) {
        let Some(dir) = self.conns.get_mut(key).map(|conn| &mut conn.dirs[side]) else { return };
        if let Some(&(at, _)) = dir.acks.front()
            && !dir.is_ack_awaited
        {
            dir.is_ack_awaited = true;
            self.plan(at, Event::Acked(key, side));
        }
    }

    pub(super) fn acked(&mut self, key: Key, side: Side, at: u64) {
        let Some(dir) = self.conns.get_mut(key).map(|conn| &mut conn.dirs[side]) else { return };
        dir.is_ack_awaited = false;
        dir.take_acks(at);
        self.wakes.extend(dir.writer.take());
    }

    /// A NAT box on the way that has seen nothing for too long has forgotten the connection.
    fn touch(&mut self, key: Key, now: u64) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let idle = now.saturating_sub(conn.last_active);
        conn.last_active = now;
        if conn.is_forgotten || (conn.ends[0].nat.is_none() && conn.ends[1].nat.is_none()) {
            return;
        }
        for end in &conn.ends {
            if let Some((nat, port)) = end.nat {
                let nat = &mut self.nats[nat.index()].nat;
                if idle > micros(nat.spec.established) {
                    conn.is_forgotten = true;
                    nat.forget(port, end.remote);
                }
            }
        }
    }

    /// Puts bytes, or the end of the stream, behind what was sent before.
    fn push(&mut self, key: Key, side: Side, bytes: &[u8], now: u64) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let is_limited = !conn.is_local && self.hosts[conn.ends[side].host.index()].spec.up.is_some();
        let dir = &mut conn.dirs[side];
        if is_limited || dir.parked > 0 || dir.unsent() > 0 {
            if bytes.is_empty() {
                dir.segments.push_back(Segment { is_end: true, ..Segment::default() });
            } else {
                dir.append_unsent(bytes);
            }
            self.queue_unsent(key, side, now);
            return;
        }
        let due = self.due(key, side, now);
        let Some(conn) = self.conns.get_mut(key) else { return };
        let is_lost = self.hosts[conn.ends[side].host.index()].power != Power::On;
        let dir = &mut conn.dirs[side];
        let is_in_flight = dir.flying > 0;
        if let Some(last) = dir.segments.back_mut()
            && is_in_flight
            && last.due == due
            && last.is_lost == is_lost
            && !bytes.is_empty()
            && last.data.len() + bytes.len() <= MAX_SEGMENT
        {
            // It arrives together with the last one, and without an event of its own.
            last.data.extend_from_slice(bytes);
            return;
        }
        dir.segments.push_back(Segment { data: bytes.to_vec(), due, is_end: bytes.is_empty(), is_lost });
        dir.flying += 1;
        self.plan(due, Event::Arrive(key, side));
    }

    /// When a segment that leaves now arrives, never before the one that left before it.
    pub(super) fn due(&mut self, key: Key, side: Side, at: u64) -> u64 {
        let Some(conn) = self.conns.get(key) else { return at };
        let (from, to, is_local) = (conn.ends[side].host, conn.ends[other(side)].host, conn.is_local);
        let due = self.arrival(from, to, is_local, at);
        // What still has to pass a limited link arrives there when it does; readers are woken on the grid.
        let is_limited = !is_local && self.hosts[to.index()].spec.down.is_some();
        let due = if is_limited { due } else { on_grid(due) };
        let Some(conn) = self.conns.get_mut(key) else { return due };
        let dir = &mut conn.dirs[side];
        dir.last_due = dir.last_due.max(due);
        dir.last_due
    }

    /// A connection has something to send: it takes turns with the others of its host.
    pub(super) fn queue_unsent(&mut self, key: Key, side: Side, at: u64) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let host = conn.ends[side].host;
        let dir = &mut conn.dirs[side];
        if dir.parked > 0 || dir.is_in_uplink || dir.unsent() == 0 {
            return;
        }
        dir.is_in_uplink = true;
        self.hosts[host.index()].up.queue.push_back((key, side));
        self.serve_uplink(host, at);
    }

    /// Sends from a host, until the link is busy or there is nothing left.
    pub(super) fn serve_uplink(&mut self, host: HostId, at: u64) {
        loop {
            let rate = self.hosts[host.index()].spec.up;
            let link = &mut self.hosts[host.index()].up;
            if link.queue.is_empty() || link.is_planned {
                return;
            }
            if link.free_at > at {
                link.is_planned = true;
                let free_at = link.free_at;
                self.plan(free_at, Event::Uplink(host));
                return;
            }
            let Some((key, side)) = link.queue.pop_front() else { return };
            let Some(conn) = self.conns.get_mut(key) else { continue };
            let (dir, is_local) = (&mut conn.dirs[side], conn.is_local);
            dir.is_in_uplink = false;
            let first = dir.first_unsent();
            if dir.parked > 0 {
                continue;
            }
            let Some(len) = dir.segments.get(first).map(|segment| segment.data.len()) else { continue };
            let time = rate.filter(|_| !is_local).map_or(0, |rate| rate.micros(len));
            let link = &mut self.hosts[host.index()].up;
            link.free_at = link.free_at.max(at) + time;
            let left_at = link.free_at;
            self.depart(key, side, left_at);
            let Some(dir) = self.conns.get_mut(key).map(|conn| &mut conn.dirs[side]) else { continue };
            if dir.unsent() > 0 {
                dir.is_in_uplink = true;
                self.hosts[host.index()].up.queue.push_back((key, side));
            }
        }
    }

    /// The first unsent segment leaves.
    fn depart(&mut self, key: Key, side: Side, at: u64) {
        let due = self.due(key, side, at);
        let Some(conn) = self.conns.get_mut(key) else { return };
        let is_lost = self.hosts[conn.ends[side].host.index()].power != Power::On;
        let dir = &mut conn.dirs[side];
        let first = dir.first_unsent();
        let Some(segment) = dir.segments.get_mut(first) else { return };
        (segment.due, segment.is_lost) = (due, is_lost);
        dir.flying += 1;
        self.plan(due, Event::Arrive(key, side));
    }

    /// Segments are at the receiver's host, if they got there.
    pub(super) fn arrive(&mut self, key: Key, side: Side, at: u64) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let (from, to, is_forgotten) = (conn.ends[side].host, conn.ends[other(side)].host, conn.is_forgotten);
        let dir = &mut conn.dirs[side];
        let due = dir.due(dir.first_flying(), dir.flying, at);
        if due == 0 {
            return;
        }
        dir.flying -= due;
        let is_through = dir.parked == 0 && !is_forgotten && self.is_way_open(from, to);
        let Some(conn) = self.conns.get_mut(key) else { return };
        let dir = &mut conn.dirs[side];
        let arrived = dir.segments.iter().skip(dir.first_flying()).take(due);
        let count = if is_through { arrived.take_while(|segment| !segment.is_lost).count() } else { 0 };
        dir.parked += due - count;
        if count < due {
            self.stuck(key, side, at);
        }
        if count == 0 {
            return;
        }
        let Some(conn) = self.conns.get(key) else { return };
        match conn.ends[other(side)].state {
            EndState::Open => self.take_in(key, side, count, at),
            EndState::Opening => {
                self.open_end(key, other(side), at);
                self.take_in(key, side, count, at);
            }
            EndState::Failed(_) | EndState::Gone => self.answer_with_reset(key, side, count, at),
        }
    }

    /// Nobody is there to read it, and the sender is told so, unless it only said that it has ended.
    fn answer_with_reset(&mut self, key: Key, side: Side, count: usize, at: u64) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let first = conn.dirs[side].arrived();
        let had_data = conn.dirs[side].segments.drain(first..first + count).any(|segment| !segment.is_end);
        if had_data {
            self.send_reset(key, other(side), at);
        } else if conn.ends.iter().all(|end| end.state == EndState::Gone) {
            self.free(key, at);
        }
    }

    fn take_in(&mut self, key: Key, side: Side, count: usize, at: u64) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let (from, to, is_local) = (conn.ends[side].host, conn.ends[other(side)].host, conn.is_local);
        let dir = &mut conn.dirs[side];
        let first = dir.arrived();
        let len: usize = dir.segments.iter().skip(first).take(count).map(|segment| segment.data.len()).sum();
        self.hosts[to.index()].stats.received += len as u64;
        if !is_local && (self.hosts[to.index()].spec.down.is_some() || dir.landing + dir.waiting > 0) {
            dir.waiting += count;
            if !dir.is_in_downlink {
                dir.is_in_downlink = true;
                self.hosts[to.index()].down.queue.push_back((key, side));
            }
            self.serve_downlink(to, at);
        } else {
            dir.ready += count;
            let reader = conn.ends[other(side)].reader.take();
            self.wakes.extend(reader);
        }
        if !self.is_path_open(to, from) {
            // The acknowledgement does not get back.
            self.stuck(key, side, at);
        }
    }

    /// Lets through a host's downlink what waits there, until it is busy.
    pub(super) fn serve_downlink(&mut self, host: HostId, at: u64) {
        loop {
            let rate = self.hosts[host.index()].spec.down;
            let link = &mut self.hosts[host.index()].down;
            if link.queue.is_empty() || link.is_planned {
                return;
            }
            if link.free_at > at {
                link.is_planned = true;
                let free_at = link.free_at;
                self.plan(free_at, Event::Downlink(host));
                return;
            }
            let Some((key, side)) = link.queue.pop_front() else { return };
            let Some(dir) = self.conns.get_mut(key).map(|conn| &mut conn.dirs[side]) else { continue };
            dir.is_in_downlink = false;
            if dir.waiting == 0 {
                continue;
            }
            let first = dir.ready + dir.landing;
            let Some(segment) = dir.segments.get_mut(first) else { continue };
            link.free_at = link.free_at.max(at) + rate.map_or(0, |rate| rate.micros(segment.data.len()));
            segment.due = on_grid(link.free_at);
            let due = segment.due;
            dir.waiting -= 1;
            dir.landing += 1;
            if dir.waiting > 0 {
                dir.is_in_downlink = true;
                link.queue.push_back((key, side));
            }
            self.plan(due, Event::Land(key, side));
        }
    }

    /// Segments have passed the downlink and may be read.
    pub(super) fn land(&mut self, key: Key, side: Side, at: u64) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let dir = &mut conn.dirs[side];
        let count = dir.due(dir.ready, dir.landing, at);
        if count > 0 {
            dir.ready += count;
            dir.landing -= count;
            self.wakes.extend(conn.ends[other(side)].reader.take());
        }
    }
}

/// Remembers whom to wake.
fn store(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *waker = Some(cx.waker().clone()),
    }
}

fn broken<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
}
