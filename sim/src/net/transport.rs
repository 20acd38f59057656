//! The network as a libp2p transport: `/ip4/a.b.c.d/tcp/p`.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddrV4},
    pin::Pin,
    task::{Context, Poll, Waker},
};

use futures::future::{Ready, ready};
use libp2p::{
    Multiaddr,
    core::transport::{DialOpts, ListenerId, PortUse, Transport, TransportError, TransportEvent},
    multiaddr::Protocol,
};

use super::{
    HostId, Net,
    conn::{Key, Side},
    state::Core,
    stream::SimStream,
};

/// First port that a listener gets if it does not ask for one.
const FIRST_LISTEN_PORT: u16 = 20_000;

/// What a transport is told.
#[derive(Debug)]
pub(super) enum Notice {
    Listening(ListenerId, SocketAddrV4),
    Expired(ListenerId, SocketAddrV4),
    Closed(ListenerId),
    Incoming { listener: ListenerId, conn: (Key, Side), local: SocketAddrV4, remote: SocketAddrV4 },
}

/// The network's half of a transport.
#[derive(Debug)]
pub(super) struct TransportState {
    pub(super) host: HostId,
    /// The process of the host that it belongs to.
    pub(super) process: u32,
    pub(super) ports: Vec<(ListenerId, u16)>,
    pub(super) notices: VecDeque<Notice>,
    waker: Option<Waker>,
}

impl Core {
    pub(super) fn add_transport(&mut self, host: HostId) -> Key {
        let process = self.hosts[host.index()].process;
        let state =
            TransportState { host, process, ports: Vec::new(), notices: VecDeque::new(), waker: None };
        self.transports.insert(state)
    }

    /// The host of a transport whose process is alive.
    pub(super) fn transport_host(&self, key: Key) -> Option<HostId> {
        let state = self.transports.get(key)?;
        (self.hosts[state.host.index()].process == state.process).then_some(state.host)
    }

    fn listen(&mut self, key: Key, listener: ListenerId, ip: Ipv4Addr, port: u16) -> io::Result<()> {
        let host = self.transport_host(key).ok_or(io::ErrorKind::NotConnected)?;
        let state = &mut self.hosts[host.index()];
        if !ip.is_unspecified() && ip != state.ip {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let port = match port {
            0 => (FIRST_LISTEN_PORT..u16::MAX)
                .find(|port| !state.listeners.contains_key(port))
                .ok_or(io::ErrorKind::AddrInUse)?,
            port if state.listeners.contains_key(&port) => return Err(io::ErrorKind::AddrInUse.into()),
            port => port,
        };
        state.listeners.insert(port, (key, listener));
        let address = SocketAddrV4::new(state.ip, port);
        if let Some(transport) = self.transports.get_mut(key) {
            transport.ports.push((listener, port));
        }
        self.notify(key, Notice::Listening(listener, address));
        Ok(())
    }

    fn stop_listening(&mut self, key: Key, listener: ListenerId) -> bool {
        let Some(transport) = self.transports.get_mut(key) else { return false };
        let Some(index) = transport.ports.iter().position(|(id, _)| *id == listener) else { return false };
        let (_, port) = transport.ports.remove(index);
        let state = &mut self.hosts[transport.host.index()];
        state.listeners.remove(&port);
        let address = SocketAddrV4::new(state.ip, port);
        self.notify(key, Notice::Expired(listener, address));
        self.notify(key, Notice::Closed(listener));
        true
    }

    fn notify(&mut self, key: Key, notice: Notice) {
        if let Some(transport) = self.transports.get_mut(key) {
            transport.notices.push_back(notice);
            self.wakes.extend(transport.waker.take());
        }
    }

    /// Hands a listener a connection. Returns whether the listener is still there.
    pub(super) fn notify_listener(&mut self, key: Key, listener: ListenerId, notice: Notice) -> bool {
        let is_there = self
            .transports
            .get(key)
            .is_some_and(|transport| transport.ports.iter().any(|(id, _)| *id == listener));
        if is_there {
            self.notify(key, notice);
        }
        is_there
    }

    fn remove_transport(&mut self, key: Key) {
        let Some(transport) = self.transports.remove(key) else { return };
        let listeners = &mut self.hosts[transport.host.index()].listeners;
        listeners.retain(|_, (owner, _)| *owner != key);
        for notice in transport.notices {
            if let Notice::Incoming { conn: (conn, side), .. } = notice {
                self.drop_end(conn, side);
            }
        }
    }
}

/// A host's way to the network. Dropping it closes its listeners; connections stay.
#[derive(Debug)]
pub struct SimTransport {
    net: Net,
    key: Key,
}

impl SimTransport {
    pub(super) fn new(net: Net, host: HostId) -> Self {
        let key = net.with(|core| core.add_transport(host));
        Self { net, key }
    }
}

impl Transport for SimTransport {
    type Output = SimStream;
    type Error = io::Error;
    type ListenerUpgrade = Ready<io::Result<SimStream>>;
    type Dial = SimDial;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<io::Error>> {
        let Some(address) = socket_address(&addr) else {
            return Err(TransportError::MultiaddrNotSupported(addr));
        };
        self.net
            .with(|core| core.listen(self.key, id, *address.ip(), address.port()))
            .map_err(TransportError::Other)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.net.with(|core| core.stop_listening(self.key, id))
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<SimDial, TransportError<io::Error>> {
        // Which side of the upgrade this becomes (`opts.role`) does not matter here, as with TCP: two dials that meet
        // are one connection, and the layers above know from the role which of them listens.
        match socket_address(&addr) {
            Some(remote) if remote.port() != 0 && !remote.ip().is_unspecified() => Ok(SimDial {
                net: self.net.clone(),
                transport: self.key,
                remote,
                port_use: opts.port_use,
                state: DialState::New,
            }),
            _ => Err(TransportError::MultiaddrNotSupported(addr)),
        }
    }

    fn poll(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        let notice = self.net.with(|core| {
            let transport = core.transports.get_mut(self.key)?;
            let notice = transport.notices.pop_front();
            if notice.is_none() {
                transport.waker = Some(cx.waker().clone());
            }
            notice
        });
        match notice {
            None => Poll::Pending,
            Some(Notice::Listening(listener_id, address)) => {
                Poll::Ready(TransportEvent::NewAddress { listener_id, listen_addr: multiaddr(address) })
            }
            Some(Notice::Expired(listener_id, address)) => {
                Poll::Ready(TransportEvent::AddressExpired { listener_id, listen_addr: multiaddr(address) })
            }
            Some(Notice::Closed(listener_id)) => {
                Poll::Ready(TransportEvent::ListenerClosed { listener_id, reason: Ok(()) })
            }
            Some(Notice::Incoming { listener, conn: (key, side), local, remote }) => {
                Poll::Ready(TransportEvent::Incoming {
                    listener_id: listener,
                    upgrade: ready(Ok(SimStream::new(self.net.clone(), key, side))),
                    local_addr: multiaddr(local),
                    send_back_addr: multiaddr(remote),
                })
            }
        }
    }
}

impl Drop for SimTransport {
    fn drop(&mut self) {
        self.net.with(|core| core.remove_transport(self.key));
    }
}

#[derive(Debug)]
enum DialState {
    New,
    Waiting(Key),
    Done,
}

/// A pending dial of a [`SimTransport`]. Nothing is sent before it is polled.
#[derive(Debug)]
pub struct SimDial {
    net: Net,
    transport: Key,
    remote: SocketAddrV4,
    port_use: PortUse,
    state: DialState,
}

impl Future for SimDial {
    type Output = io::Result<SimStream>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let key = match self.state {
            DialState::Waiting(key) => key,
            DialState::Done => return Poll::Pending,
            DialState::New => {
                match self.net.with(|core| core.dial(self.transport, self.remote, self.port_use)) {
                    Err(error) => {
                        self.state = DialState::Done;
                        return Poll::Ready(Err(error));
                    }
                    Ok(key) => {
                        self.state = DialState::Waiting(key);
                        key
                    }
                }
            }
        };
        let result = self.net.with(|core| {
            let result = core.dial_result(key);
            if let (None, Some(dial)) = (&result, core.dials.get_mut(key)) {
                dial.waker = Some(cx.waker().clone());
            }
            result
        });
        let Some(result) = result else { return Poll::Pending };
        self.state = DialState::Done;
        Poll::Ready(result.map(|(conn, side)| SimStream::new(self.net.clone(), conn, side)))
    }
}

impl Drop for SimDial {
    fn drop(&mut self) {
        if let DialState::Waiting(key) = self.state {
            self.net.with(|core| core.drop_dial(key));
        }
    }
}

fn multiaddr(address: SocketAddrV4) -> Multiaddr {
    Multiaddr::empty().with(Protocol::Ip4(*address.ip())).with(Protocol::Tcp(address.port()))
}

/// The address and port of `/ip4/a.b.c.d/tcp/p`, with or without a peer ID behind it.
fn socket_address(address: &Multiaddr) -> Option<SocketAddrV4> {
    let mut parts = address.iter();
    let (Protocol::Ip4(ip), Protocol::Tcp(port)) = (parts.next()?, parts.next()?) else { return None };
    parts.all(|part| matches!(part, Protocol::P2p(_))).then(|| SocketAddrV4::new(ip, port))
}
