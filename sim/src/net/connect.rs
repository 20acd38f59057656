//! How connections come about: dials, first packets, answers, refusals; as TCP does it, seen through NAT boxes.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    task::Waker,
};

use libp2p::core::transport::PortUse;

use super::{
    HostId, NatId,
    conn::{Conn, Dir, End, EndState, Key, Opener, Side, other},
    state::{Core, Event, Owner, on_grid},
    trace::TraceKind,
    transport::Notice,
};

/// When the first packet is sent again.
const SYN_AGAIN: [u64; 2] = [1_000_000, 3_000_000];

/// A dial without an answer ends after this.
const DIAL_TIMEOUT: u64 = 5_000_000;

/// Ports of connections that do not leave from a listener's port.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// A connection that is asked for.
#[derive(Debug)]
pub(super) struct Dial {
    host: HostId,
    local: SocketAddrV4,
    remote: SocketAddrV4,
    /// The local address as the other side sees it.
    seen: SocketAddrV4,
    is_local: bool,
    /// Set as soon as the other side knows of it.
    conn: Option<(Key, Side)>,
    result: Option<io::Result<()>>,
    pub(super) waker: Option<Waker>,
}

/// Where packets to an address go.
enum Route {
    Host(HostId),
    Nat(NatId),
}

impl Core {
    /// Begins to dial from a transport.
    pub(super) fn dial(
        &mut self,
        transport: Key,
        remote: SocketAddrV4,
        port_use: PortUse,
    ) -> io::Result<Key> {
        let now = self.now();
        let host = self.transport_host(transport).ok_or(io::ErrorKind::NotConnected)?;
        let remote = match remote.ip() {
            ip if ip.is_loopback() => SocketAddrV4::new(self.hosts[host.index()].ip, remote.port()),
            _ => remote,
        };
        let is_self = *remote.ip() == self.hosts[host.index()].ip;
        let listen_port =
            self.transports.get(transport).and_then(|state| state.ports.first().map(|(_, p)| *p));
        let port = match (port_use, listen_port) {
            (PortUse::Reuse, Some(port)) if !is_self && !self.is_taken(host, port, remote) => port,
            _ => self.ephemeral_port(host, remote)?,
        };
        let local = SocketAddrV4::new(self.hosts[host.index()].ip, port);
        let dial =
            Dial { host, local, remote, seen: local, is_local: false, conn: None, result: None, waker: None };
        let key = self.dials.insert(dial);
        self.hosts[host.index()].dials.insert((port, remote), key);
        self.trace.add_len(
            now,
            TraceKind::Connect,
            Some(host),
            None,
            usize::from(remote.port()),
            &remote.ip().octets(),
        );
        self.send_syn(key, now);
        for after in SYN_AGAIN {
            self.plan(now + after, Event::SynAgain(key));
        }
        self.plan(now + DIAL_TIMEOUT, Event::DialTimeout(key));
        Ok(key)
    }

    /// What has become of a dial. It is forgotten with its result.
    pub(super) fn dial_result(&mut self, key: Key) -> Option<io::Result<(Key, Side)>> {
        let Some(dial) = self.dials.get_mut(key) else {
            return Some(Err(io::ErrorKind::ConnectionAborted.into()));
        };
        match dial.result.take()? {
            Err(error) => {
                self.forget_dial(key);
                Some(Err(error))
            }
            Ok(()) => {
                let conn = dial.conn;
                self.forget_dial(key);
                Some(conn.ok_or_else(|| io::ErrorKind::ConnectionAborted.into()))
            }
        }
    }

    /// Nobody waits for a dial any more.
    pub(super) fn drop_dial(&mut self, key: Key) {
        if let Some((conn, side)) = self.forget_dial(key).and_then(|dial| dial.conn) {
            self.drop_end(conn, side);
        }
    }

    /// The connection of a dial has gone before it was up; the dial goes on.
    pub(super) fn forget_conn_of(&mut self, key: Key) {
        if let Some(dial) = self.dials.get_mut(key) {
            dial.conn = None;
        }
    }

    fn forget_dial(&mut self, key: Key) -> Option<Dial> {
        let dial = self.dials.remove(key)?;
        let dials = &mut self.hosts[dial.host.index()].dials;
        let at = (dial.local.port(), dial.remote);
        if dials.get(&at) == Some(&key) {
            dials.remove(&at);
        }
        Some(dial)
    }

    /// A dial has ended without a connection.
    pub(super) fn dial_failed(&mut self, key: Key, error: io::ErrorKind, at: u64) {
        let Some(dial) = self.dials.get_mut(key).filter(|dial| dial.result.is_none()) else { return };
        dial.result = Some(Err(error.into()));
        self.wakes.extend(dial.waker.take());
        let (host, conn) = (dial.host, dial.conn.take());
        self.hosts[host.index()].stats.dials_failed += 1;
        let kind = if error == io::ErrorKind::TimedOut { TraceKind::TimedOut } else { TraceKind::Refuse };
        self.trace.add(at, kind, Some(host), None, &[]);
        if let Some((conn, side)) = conn {
            self.drop_end(conn, side);
        }
    }

    pub(super) fn refused(&mut self, key: Key, at: u64) {
        self.dial_failed(key, io::ErrorKind::ConnectionRefused, at);
    }

    /// A process is gone, and its dials with it.
    pub(super) fn fail_dials(&mut self, host: HostId, at: u64) {
        let dials: Vec<Key> = self.hosts[host.index()].dials.values().copied().collect();
        for key in dials {
            self.dial_failed(key, io::ErrorKind::ConnectionAborted, at);
        }
    }

    fn is_taken(&self, host: HostId, port: u16, remote: SocketAddrV4) -> bool {
        let host = &self.hosts[host.index()];
        host.conns.contains_key(&(port, remote)) || host.dials.contains_key(&(port, remote))
    }

    fn ephemeral_port(&mut self, host: HostId, remote: SocketAddrV4) -> io::Result<u16> {
        for _ in EPHEMERAL {
            let state = &mut self.hosts[host.index()];
            let port = state.next_port;
            state.next_port = if port >= *EPHEMERAL.end() { *EPHEMERAL.start() } else { port + 1 };
            if !state.listeners.contains_key(&port) && !self.is_taken(host, port, remote) {
                return Ok(port);
            }
        }
        Err(io::ErrorKind::AddrNotAvailable.into())
    }

    pub(super) fn syn_again(&mut self, key: Key, at: u64) {
        if self.dials.get(key).is_some_and(|dial| dial.result.is_none()) {
            self.send_syn(key, at);
        }
    }

    /// Sends the first packet of a dial, through the NAT box if there is one.
    fn send_syn(&mut self, key: Key, at: u64) {
        let Some(dial) = self.dials.get(key) else { return };
        let (from, local, remote) = (dial.host, dial.local, dial.remote);
        let Some(route) = self.route(from, *remote.ip()) else { return };
        let own_nat = self.hosts[from.index()].nat;
        let (to, is_local) = match route {
            Route::Host(host) => (host, host == from || (own_nat.is_some() && remote.ip().is_private())),
            Route::Nat(nat) => (self.nats[nat.index()].first, false),
        };
        let seen = match own_nat {
            Some(nat) if !is_local => {
                let nat = &mut self.nats[nat.index()].nat;
                SocketAddrV4::new(nat.ip, nat.outbound(local, remote, at))
            }
            _ => local,
        };
        if let Some(dial) = self.dials.get_mut(key) {
            (dial.seen, dial.is_local) = (seen, is_local);
        }
        if !is_local && self.is_lost(from, to) {
            return;
        }
        let delay = self.delay(from, to, is_local);
        self.plan(on_grid(at + delay), Event::Syn(key));
    }

    /// Where packets from a host to an address go; `None` if to nobody.
    fn route(&self, from: HostId, ip: Ipv4Addr) -> Option<Route> {
        let host = &self.hosts[from.index()];
        if ip == host.ip {
            return Some(Route::Host(from));
        }
        if ip.is_private() {
            let behind = &self.nats[host.nat?.index()];
            return behind.hosts.get(&ip).map(|host| Route::Host(*host));
        }
        match *self.owners.get(&ip)? {
            Owner::Host(host) => Some(Route::Host(host)),
            Owner::Nat(nat) if host.nat == Some(nat) && !self.nats[nat.index()].nat.spec.hairpin => None,
            Owner::Nat(nat) => Some(Route::Nat(nat)),
        }
    }

    /// The host and socket that get a packet to `remote`, at its arrival.
    fn resolve(
        &mut self,
        from: HostId,
        seen: SocketAddrV4,
        to: SocketAddrV4,
        at: u64,
    ) -> Option<(HostId, SocketAddrV4)> {
        match self.route(from, *to.ip())? {
            Route::Host(host) => Some((host, to)),
            Route::Nat(nat) => {
                let behind = &mut self.nats[nat.index()];
                let inner = behind.nat.inbound(to.port(), seen, at)?;
                Some((*behind.hosts.get(inner.ip())?, inner))
            }
        }
    }

    /// The first packet of a dial arrives at the network of its destination.
    pub(super) fn syn(&mut self, key: Key, at: u64) {
        let Some(dial) = self.dials.get(key).filter(|dial| dial.result.is_none()) else { return };
        let (from, seen, remote, is_local, conn) =
            (dial.host, dial.seen, dial.remote, dial.is_local, dial.conn);
        let Some((to, inner)) = self.resolve(from, seen, remote, at) else { return };
        if !self.is_path_open(from, to) {
            return;
        }
        let answer_at = on_grid(at + self.delay(to, from, is_local));
        let host = &self.hosts[to.index()];
        if let Some(&(known, side)) = host.conns.get(&(inner.port(), seen)) {
            if conn.is_some_and(|(conn, _)| conn == known) {
                self.plan(answer_at, Event::Established(known, other(side)));
            } else if self.conns.get(known).is_some_and(|c| c.ends[other(side)].state == EndState::Gone) {
                // The dialler's last process died and left this connection behind. This side asks what that
                // packet was about, and is told that there is no such connection.
                let rtt = self.delay(to, from, is_local) + self.delay(from, to, is_local);
                self.plan(on_grid(at + rtt), Event::Reset(known, side));
            }
            return;
        }
        let waiting = host.dials.get(&(inner.port(), seen)).copied().filter(|other| *other != key);
        let opener = match (waiting, host.listeners.get(&inner.port())) {
            (Some(dial), _) => Some(Opener::Dial(dial)),
            (None, Some(&(transport, listener))) if host.spec.inbound => {
                Some(Opener::Listener(transport, listener))
            }
            _ => None,
        };
        match opener {
            Some(opener) => {
                let conn = self.half_open(key, to, inner, opener, at);
                self.plan(answer_at, Event::Established(conn, 0));
            }
            None if self.hosts[to.index()].spec.inbound && self.is_path_open(to, from) => {
                self.plan(answer_at, Event::Refused(key));
            }
            None => {}
        }
    }

    /// Makes the connection of a dial whose first packet has arrived.
    fn half_open(&mut self, key: Key, to: HostId, inner: SocketAddrV4, opener: Opener, at: u64) -> Key {
        let dial = self.dials.get(key);
        let (from, local, remote, seen, is_local) =
            dial.map_or((to, inner, inner, inner, true), |d| (d.host, d.local, d.remote, d.seen, d.is_local));
        let nat_of = |host: HostId, port| {
            (!is_local).then(|| self.hosts[host.index()].nat).flatten().map(|n| (n, port))
        };
        let end = |host, local, remote, nat, opener| End {
            host,
            local,
            remote,
            nat,
            state: EndState::Opening,
            opener,
            reader: None,
        };
        let ends = [
            end(from, local, remote, nat_of(from, seen.port()), Opener::Dial(key)),
            end(to, inner, seen, nat_of(to, remote.port()), opener),
        ];
        let conn = Conn {
            ends,
            dirs: [Dir::default(), Dir::default()],
            is_local,
            last_active: at,
            is_forgotten: false,
        };
        let conn = self.conns.insert(conn);
        self.hosts[from.index()].conns.insert((local.port(), remote), (conn, 0));
        self.hosts[to.index()].conns.insert((inner.port(), seen), (conn, 1));
        for (opener, side) in [(Opener::Dial(key), 0), (opener, 1)] {
            if let Opener::Dial(key) = opener
                && let Some(dial) = self.dials.get_mut(key)
            {
                dial.conn = Some((conn, side));
            }
        }
        conn
    }

    /// An end learns that the other one is there.
    pub(super) fn established(&mut self, key: Key, side: Side, at: u64) {
        let Some(conn) = self.conns.get(key) else { return };
        let (host, peer) = (conn.ends[side].host, conn.ends[other(side)].host);
        if conn.ends[side].state == EndState::Opening && self.is_way_open(peer, host) {
            self.open_end(key, side, at);
        }
    }

    /// An end is up: the other one hears of it, and so does whoever waits for it.
    pub(super) fn open_end(&mut self, key: Key, side: Side, at: u64) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        let (end, peer) = (&conn.ends[side], &conn.ends[other(side)]);
        let (host, peer_host, nat, remote) = (end.host, peer.host, end.nat, end.remote);
        let (opener, local, is_local) = (end.opener, end.local, conn.is_local);
        let is_peer_opening = peer.state == EndState::Opening;
        conn.ends[side].state = EndState::Open;
        conn.last_active = at;
        if let Some((nat, port)) = nat {
            self.nats[nat.index()].nat.established(port, remote);
        }
        if is_peer_opening {
            let due = on_grid(at + self.delay(host, peer_host, is_local));
            self.plan(due, Event::Established(key, other(side)));
        }
        match opener {
            Opener::Dial(dial) => {
                self.note(at, TraceKind::Connected, host, peer_host);
                self.hosts[host.index()].stats.opened += 1;
                match self.dials.get_mut(dial) {
                    Some(dial) if dial.result.is_none() => {
                        dial.result = Some(Ok(()));
                        self.wakes.extend(dial.waker.take());
                    }
                    _ => self.abort(key, side, at),
                }
            }
            Opener::Listener(transport, listener) => {
                self.note(at, TraceKind::Accept, host, peer_host);
                self.hosts[host.index()].stats.accepted += 1;
                let incoming = Notice::Incoming { listener, conn: (key, side), local, remote };
                if !self.notify_listener(transport, listener, incoming) {
                    self.abort(key, side, at);
                }
            }
        }
    }
}
