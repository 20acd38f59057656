//! How connections end: in order, by a reset, because nothing comes back, or because a process is no more. And the
//! faults that a scenario causes.

use std::{collections::BTreeSet, io, net::SocketAddrV4};

use super::{
    HostId,
    conn::{EndState, Key, Opener, Side, other},
    state::{Core, Event, Power, on_grid},
    trace::TraceKind,
    transport::Notice,
};

/// An end that has waited this long for an acknowledgement fails.
pub(super) const GIVE_UP_AFTER: u64 = 30_000_000;

impl Core {
    /// What an end sends does not get through, or the acknowledgement does not get back.
    pub(super) fn stuck(&mut self, key: Key, side: Side, at: u64) {
        let Some(dir) = self.conns.get_mut(key).map(|conn| &mut conn.dirs[side]) else { return };
        if dir.stuck_since.is_none() {
            dir.stuck_since = Some(at);
            self.plan(at + GIVE_UP_AFTER, Event::GiveUp(key, side));
        }
    }

    pub(super) fn give_up(&mut self, key: Key, side: Side, at: u64) {
        let Some(conn) = self.conns.get(key) else { return };
        if conn.dirs[side].stuck_since.is_some_and(|since| since + GIVE_UP_AFTER == at) {
            let (host, peer) = (conn.ends[side].host, conn.ends[other(side)].host);
            self.note(at, TraceKind::Lost, host, peer);
            self.fail(key, side, io::ErrorKind::TimedOut, at);
        }
    }

    /// After a fault has gone: what did not get through is sent again.
    pub(super) fn resume(&mut self, key: Key, side: Side, at: u64) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let (from, to) = (conn.ends[side].host, conn.ends[other(side)].host);
        let dir = &mut conn.dirs[side];
        if dir.stuck_since.is_none() || conn.is_forgotten {
            return;
        }
        if dir.flying > 0 {
            // What is still on its way arrives before the gap is filled; it has to be sent again as well.
            let last = dir.segments.get(dir.first_unsent() - 1).map_or(at, |segment| segment.due);
            self.plan(last.max(at), Event::Resume(key, side));
            return;
        }
        if !self.is_path_open(from, to) || !self.is_path_open(to, from) {
            return;
        }
        let Some(dir) = self.conns.get_mut(key).map(|conn| &mut conn.dirs[side]) else { return };
        dir.stuck_since = None;
        dir.parked = 0;
        self.queue_unsent(key, side, at);
    }

    /// A fault may have gone: plans what [`Core::resume`] does.
    fn resume_all(&mut self, at: u64) {
        let stuck: Vec<(Key, Side)> = self
            .conns
            .iter()
            .flat_map(|(key, conn)| [(key, 0, conn), (key, 1, conn)])
            .filter(|(_, side, conn)| conn.dirs[*side].stuck_since.is_some())
            .map(|(key, side, _)| (key, side))
            .collect();
        for (key, side) in stuck {
            let Some(conn) = self.conns.get(key) else { continue };
            let (from, to, is_local) = (conn.ends[side].host, conn.ends[other(side)].host, conn.is_local);
            if self.is_path_open(from, to) && self.is_path_open(to, from) {
                let after = self.retransmit_after(from, to, is_local);
                self.plan(on_grid(at + after), Event::Resume(key, side));
            }
        }
    }

    /// An end fails; the other one is not told.
    fn fail(&mut self, key: Key, side: Side, error: io::ErrorKind, at: u64) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.dirs[side].forget_unarrived();
        let end = &mut conn.ends[side];
        match end.state {
            EndState::Open => end.state = EndState::Failed(error),
            EndState::Opening | EndState::Failed(_) => return,
            EndState::Gone => {
                self.free_if_over(key, at);
                return;
            }
        }
        let (host, tuple) = (end.host, (end.local.port(), end.remote));
        self.wakes.extend(end.reader.take());
        self.wakes.extend(conn.dirs[side].writer.take());
        // The addresses and ports may be used again at once.
        self.forget_tuple(host, tuple, key);
    }

    fn forget_tuple(&mut self, host: HostId, tuple: (u16, SocketAddrV4), key: Key) {
        let conns = &mut self.hosts[host.index()].conns;
        if conns.get(&tuple).is_some_and(|(known, _)| *known == key) {
            conns.remove(&tuple);
        }
    }

    /// A reset arrives at an end.
    pub(super) fn reset(&mut self, key: Key, side: Side, at: u64) {
        let Some(conn) = self.conns.get(key) else { return };
        let (host, peer) = (conn.ends[side].host, conn.ends[other(side)].host);
        if self.is_way_open(peer, host) && !conn.is_forgotten {
            self.note(at, TraceKind::Reset, peer, host);
            self.fail(key, side, io::ErrorKind::ConnectionReset, at);
        }
    }

    /// An end sends a reset, behind what has left already.
    pub(super) fn send_reset(&mut self, key: Key, side: Side, at: u64) {
        let due = on_grid(self.due(key, side, at));
        self.plan(due, Event::Reset(key, other(side)));
    }

    /// An end that nobody will take is reset.
    pub(super) fn abort(&mut self, key: Key, side: Side, at: u64) {
        self.send_reset(key, side, at);
        if let Some(conn) = self.conns.get_mut(key) {
            conn.ends[side].state = EndState::Gone;
            conn.dirs[side].forget_unsent();
        }
        self.free_if_over(key, at);
    }

    /// Nobody holds an end any more. As TCP has it: what was written is still sent, then the end of the stream; but
    /// if there is something unread, the other side gets a reset.
    pub(super) fn drop_end(&mut self, key: Key, side: Side) {
        let now = self.now();
        let Some(conn) = self.conns.get(key) else { return };
        let state = conn.ends[side].state;
        if state == EndState::Open {
            self.end(key, side);
        }
        let Some(conn) = self.conns.get_mut(key) else { return };
        if state == EndState::Gone {
            return;
        }
        conn.ends[side].state = EndState::Gone;
        conn.ends[side].reader = None;
        conn.dirs[side].writer = None;
        let has_unread = conn.dirs[other(side)].discard_arrived();
        if has_unread && state == EndState::Open {
            conn.dirs[side].forget_unsent();
            self.send_reset(key, side, now);
        }
        self.free_if_over(key, now);
    }

    /// A connection that nobody holds at either end is over. An end that is not up yet has nobody, unless something
    /// is on its way to it.
    fn free_if_over(&mut self, key: Key, at: u64) {
        let Some(conn) = self.conns.get(key) else { return };
        let is_idle = |side: Side| match conn.ends[side].state {
            EndState::Gone => true,
            EndState::Opening => conn.dirs[other(side)].segments.is_empty(),
            EndState::Open | EndState::Failed(_) => false,
        };
        let is_left = conn.ends.iter().any(|end| end.state == EndState::Gone);
        if is_left && is_idle(0) && is_idle(1) {
            self.free(key, at);
        }
    }

    pub(super) fn free(&mut self, key: Key, at: u64) {
        let Some(conn) = self.conns.remove(key) else { return };
        for end in &conn.ends {
            self.forget_tuple(end.host, (end.local.port(), end.remote), key);
            if let Some((nat, port)) = end.nat
                && !conn.is_forgotten
            {
                self.nats[nat.index()].nat.closed(port, end.remote, at);
            }
            if let (EndState::Opening, Opener::Dial(dial)) = (end.state, end.opener) {
                self.forget_conn_of(dial);
            }
        }
    }

    /// Every end that a host has, in a fixed order.
    fn ends_of(&self, host: HostId) -> Vec<(Key, Side)> {
        self.hosts[host.index()].conns.values().copied().collect()
    }

    /// A host's process is no more, and nobody is told.
    pub(super) fn crash(&mut self, host: HostId) {
        let now = self.now();
        for (key, side) in self.ends_of(host) {
            let Some(conn) = self.conns.get_mut(key) else { continue };
            conn.ends[side].state = EndState::Gone;
            self.wakes.extend(conn.ends[side].reader.take());
            self.wakes.extend(conn.dirs[side].writer.take());
            conn.dirs[side].forget_unsent();
            conn.dirs[other(side)].discard_arrived();
            self.free_if_over(key, now);
        }
        self.hosts[host.index()].conns.clear();
        self.end_process(host, now);
        self.hosts[host.index()].power = Power::Crashed;
    }

    /// A host's process exits; its system closes what it had.
    pub(super) fn close(&mut self, host: HostId) {
        let now = self.now();
        for (key, side) in self.ends_of(host) {
            self.drop_end(key, side);
        }
        self.end_process(host, now);
    }

    fn end_process(&mut self, host: HostId, now: u64) {
        self.fail_dials(host, now);
        let state = &mut self.hosts[host.index()];
        state.process += 1;
        state.listeners.clear();
        let process = state.process;
        let dead: Vec<Key> = self
            .transports
            .iter()
            .filter(|(_, transport)| transport.host == host && transport.process < process)
            .map(|(key, _)| key)
            .collect();
        for key in dead {
            if let Some(transport) = self.transports.get_mut(key) {
                transport.notices.retain(|notice| !matches!(notice, Notice::Incoming { .. }));
                transport.ports.clear();
            }
        }
    }

    pub(super) fn set_online(&mut self, host: HostId, is_online: bool) {
        let now = self.now();
        let state = &mut self.hosts[host.index()];
        match (is_online, state.power) {
            (true, Power::Off | Power::Crashed) => {
                state.power = Power::On;
                self.resume_all(now);
            }
            (false, Power::On) => state.power = Power::Off,
            _ => {}
        }
    }

    pub(super) fn block(&mut self, from: HostId, to: HostId, is_blocked: bool) {
        let now = self.now();
        if is_blocked {
            self.blocked.insert((from, to));
        } else if self.blocked.remove(&(from, to)) {
            self.resume_all(now);
        }
    }

    pub(super) fn partition(&mut self, groups: &[Vec<HostId>]) {
        let now = self.now();
        for host in &mut self.hosts {
            host.group = None;
        }
        for (number, group) in groups.iter().enumerate() {
            for host in group {
                self.hosts[host.index()].group = Some(number);
            }
        }
        self.resume_all(now);
    }

    pub(super) fn partition_one_way(&mut self, from: &[HostId], to: &[HostId]) {
        let set = |hosts: &[HostId]| hosts.iter().copied().collect::<BTreeSet<_>>();
        self.one_way.push((set(from), set(to)));
    }

    pub(super) fn heal(&mut self) {
        let now = self.now();
        for host in &mut self.hosts {
            host.group = None;
        }
        self.one_way.clear();
        self.blocked.clear();
        self.resume_all(now);
    }

    /// Whether a new connection can be opened now.
    pub(super) fn reachable(&mut self, from: HostId, to: HostId) -> bool {
        let now = self.now();
        let is_two_way = self.is_path_open(from, to) && self.is_path_open(to, from);
        let target = &self.hosts[to.index()];
        if !is_two_way || !target.spec.inbound || target.listeners.is_empty() {
            return false;
        }
        let Some(nat) = target.nat else { return true };
        let (ip, ports) = (target.ip, target.listeners.keys());
        let is_neighbour = self.hosts[from.index()].nat == Some(nat);
        let nat = &self.nats[nat.index()].nat;
        is_neighbour || ports.into_iter().any(|port| nat.is_open(SocketAddrV4::new(ip, *port), now))
    }
}
