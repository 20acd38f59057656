//! A simulated network: hosts with places, links and NAT boxes, and TCP between them.
//!
//! [`Net::add_host`] makes a host, [`Net::transport`] is its libp2p transport, with ordinary addresses
//! (`/ip4/a.b.c.d/tcp/p`), so that everything above sees what it sees outside. All that happens follows from the seed
//! and from what the nodes do; [`Net::trace_hash`] is a hash over it, with every byte.
//!
//! The model. A segment leaves when its connection's turn on the sender's uplink comes, takes the delay between the
//! places, plus jitter, plus a retransmission timeout if it is lost, passes the receiver's downlink, and may be read
//! at the next whole millisecond. Segments of one connection do not overtake each other. At most 1 MiB per direction
//! is written and not known to be read; then writes wait. Opening a connection takes a round trip; the first packet
//! is sent again after 1 and 3 s, and after 5 s the dial fails. A closed port refuses after a round trip, a host that
//! is not there says nothing.
//!
//! Faults are silence: what is cut off gets nothing and sends nothing. When the fault goes within
//! [`RETRANSMISSION_TIMEOUT`], connections continue a retransmission later. An end that has sent something and gets no
//! acknowledgement for that long fails with `TimedOut`; one that only listens never notices, as with TCP.
//!
//! TCP is a fluid here: no slow start, no congestion control, no recovery packet by packet. The rates of a limited
//! link are shared evenly, which is what these come to in the long run.
//!
//! One task drives it, started by itself on the tokio runtime on which the network is first used. It belongs on a
//! paused `current_thread` runtime, but works on any. In one thread at a time, nothing here blocks or deadlocks.

mod addresses;
mod conn;
mod connect;
mod driver;
mod faults;
mod flow;
mod nat;
mod spec;
mod state;
mod stream;
#[cfg(test)]
mod tests;
mod trace;
mod transport;
mod upgrade;

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use self::{
    addresses::Addresses,
    conn::EndState,
    driver::Driver,
    nat::NatBox,
    state::{Behind, Core, Host, Link, Owner, Power},
    trace::TraceKind as Kind,
};
pub use self::{
    spec::{BitRate, Filtering, Geo, HostSpec, Mapping, Nat, NatId, NatSpec, Position},
    stream::SimStream,
    trace::{TraceEvent, TraceKind, TraceSink},
    transport::{SimDial, SimTransport},
    upgrade::{Security, upgraded},
};

/// An end that gets no acknowledgement for this long fails. Shorter interruptions are survived.
pub const RETRANSMISSION_TIMEOUT: Duration = Duration::from_micros(faults::GIVE_UP_AFTER);

/// A host of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(usize);

impl HostId {
    /// Hosts are numbered from 0 in the order in which they were added.
    pub const fn index(self) -> usize {
        self.0
    }
}

impl NatId {
    const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a host has done on the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostStats {
    /// Bytes written to connections.
    pub sent: u64,
    /// Bytes that arrived on connections.
    pub received: u64,
    /// Connections that it dialled.
    pub opened: u64,
    /// Connections that it was dialled for.
    pub accepted: u64,
    /// Dials that were refused, got no answer or were cut short.
    pub dials_failed: u64,
}

struct Shared {
    core: Mutex<Core>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        let core = self.core.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(driver) = core.driver.take() {
            driver.wake();
        }
    }
}

/// A simulated network. Clones are the same network.
#[derive(Clone)]
pub struct Net(Arc<Shared>);

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Net")
    }
}

impl Net {
    /// A network without hosts. What is random in it follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Shared { core: Mutex::new(Core::new(seed)) }))
    }

    /// Does something with the state, then wakes whom that concerns.
    fn with<R>(&self, action: impl FnOnce(&mut Core) -> R) -> R {
        let mut core = self.0.core.lock().unwrap_or_else(PoisonError::into_inner);
        let result = action(&mut core);
        let wakes = std::mem::take(&mut core.wakes);
        let needs_driver = !core.is_driven && tokio::runtime::Handle::try_current().is_ok();
        core.is_driven |= needs_driver;
        drop(core);
        for waker in wakes {
            waker.wake();
        }
        if needs_driver {
            tokio::spawn(Driver::new(&self.0));
        }
        result
    }

    /// Adds a host and gives it an address: a public one, or one of its NAT box's inner network.
    ///
    /// # Panics
    /// If it is put behind a NAT box of another network.
    pub fn add_host(&self, spec: HostSpec) -> HostId {
        self.with(|core| {
            let id = HostId(core.hosts.len());
            let mut spec = spec;
            let nat = spec.nat.map(|nat| match nat {
                Nat::Behind(id) => id,
                Nat::New(nat) => core.add_nat(nat, id),
            });
            let ip = match nat {
                None => match spec.network {
                    Some(network) => core.addresses.public_in(network),
                    None => core.addresses.public(),
                },
                Some(nat) => {
                    let behind = &mut core.nats[nat.index()];
                    let ip = Addresses::inner(nat.index(), behind.hosts.len());
                    behind.hosts.insert(ip, id);
                    if behind.first != id {
                        spec.position = core.hosts[behind.first.index()].spec.position;
                    }
                    ip
                }
            };
            if nat.is_none() {
                core.owners.insert(ip, Owner::Host(id));
            }
            core.add_host(spec, ip, nat);
            id
        })
    }

    /// A host's own address: inside its NAT box's network if it is behind one.
    pub fn ip(&self, host: HostId) -> Ipv4Addr {
        self.with(|core| core.hosts[host.index()].ip)
    }

    /// The address that others see: the NAT box's if there is one.
    pub fn public_ip(&self, host: HostId) -> Ipv4Addr {
        self.with(|core| {
            let host = &core.hosts[host.index()];
            host.nat.map_or(host.ip, |nat| core.nats[nat.index()].nat.ip)
        })
    }

    /// The NAT box that a host is behind, to put others behind it too.
    pub fn nat(&self, host: HostId) -> Option<NatId> {
        self.with(|core| core.hosts[host.index()].nat)
    }

    /// Forwards a port of a NAT box to a host behind it, as a person would configure it.
    pub fn forward(&self, nat: NatId, external: u16, host: HostId, port: u16) {
        self.with(|core| {
            let inner = SocketAddrV4::new(core.hosts[host.index()].ip, port);
            core.nats[nat.index()].nat.forward(external, inner);
        });
    }

    /// A transport for a process on a host. A host that has crashed is switched on by this.
    pub fn transport(&self, host: HostId) -> SimTransport {
        let has_crashed = self.with(|core| core.hosts[host.index()].power == Power::Crashed);
        if has_crashed {
            self.set_online(host, true);
        }
        SimTransport::new(self.clone(), host)
    }

    /// What a host is like.
    pub fn spec(&self, host: HostId) -> HostSpec {
        self.with(|core| core.hosts[host.index()].spec.clone())
    }

    /// Changes rates, loss, jitter, place or firewall of a host, for what is sent from now on. The NAT box stays.
    pub fn set_spec(&self, host: HostId, spec: HostSpec) {
        self.with(|core| {
            let nat = core.hosts[host.index()].spec.nat;
            core.hosts[host.index()].spec = HostSpec { nat, ..spec };
        });
    }

    /// Cuts a host off, or connects it again. Its process does not notice by itself.
    pub fn set_online(&self, host: HostId, is_online: bool) {
        self.with(|core| core.set_online(host, is_online));
    }

    /// A host dies with all its connections and listeners, and nobody is told. Its peers notice when what they send
    /// is not acknowledged for [`RETRANSMISSION_TIMEOUT`]; or, if the host is back by then, when it answers what they
    /// send with a reset. [`Net::transport`] and [`Net::set_online`] bring it back. Whatever its process still does
    /// with old transports and streams fails.
    pub fn crash(&self, host: HostId) {
        self.with(|core| core.crash(host));
    }

    /// A host's process exits without a word; its system closes its connections, so that the peers are told.
    pub fn close(&self, host: HostId) {
        self.with(|core| core.close(host));
    }

    /// Drops what one host sends to another, or no longer.
    pub fn block(&self, from: HostId, to: HostId, is_blocked: bool) {
        self.with(|core| core.block(from, to, is_blocked));
    }

    /// Hosts of different groups get nothing from each other. Hosts in no group still reach all. Replaces an earlier
    /// partition.
    pub fn partition(&self, groups: &[Vec<HostId>]) {
        self.with(|core| core.partition(groups));
    }

    /// Drops what hosts of one set send to hosts of another one; the other way stays open.
    pub fn partition_one_way(&self, from: &[HostId], to: &[HostId]) {
        self.with(|core| core.partition_one_way(from, to));
    }

    /// Takes back every [`Net::block`], [`Net::partition`] and [`Net::partition_one_way`].
    pub fn heal(&self) {
        self.with(Core::heal);
    }

    /// Whether a stranger could now open a connection that carries bytes both ways: both are online, nothing is
    /// between them, `to` listens, and its NAT box or firewall lets strangers in.
    pub fn reachable(&self, from: HostId, to: HostId) -> bool {
        self.with(|core| core.reachable(from, to))
    }

    /// Connections of which both ends are up.
    pub fn connections(&self) -> usize {
        self.with(|core| {
            let is_up =
                |(_, conn): &(_, &conn::Conn)| conn.ends.iter().all(|end| end.state == EndState::Open);
            core.conns.iter().filter(is_up).count()
        })
    }

    /// What a host has done so far.
    pub fn stats(&self, host: HostId) -> HostStats {
        self.with(|core| core.hosts[host.index()].stats)
    }

    /// Adds a line to the trace, with the time: something that a scenario has found out.
    pub fn note(&self, what: &str) {
        self.with(|core| {
            let now = core.now();
            core.trace.add(now, Kind::Note, None, None, what.as_bytes());
        });
    }

    /// A hash over all that has happened so far: when, between whom, and every byte. 32 hexadecimal digits.
    pub fn trace_hash(&self) -> String {
        self.with(|core| core.trace.hash())
    }

    /// Hands every event of the trace to a function, for a file with a line each. It must not use the network.
    pub fn set_trace_sink(&self, sink: Option<TraceSink>) {
        self.with(|core| core.trace.sink = sink);
    }
}

impl Core {
    fn add_nat(&mut self, spec: NatSpec, first: HostId) -> NatId {
        let id = NatId(u32::try_from(self.nats.len()).unwrap_or(u32::MAX));
        let ip = self.addresses.public();
        self.owners.insert(ip, Owner::Nat(id));
        self.nats.push(Behind { nat: NatBox::new(spec, ip), hosts: BTreeMap::new(), first });
        id
    }

    fn add_host(&mut self, spec: HostSpec, ip: Ipv4Addr, nat: Option<NatId>) {
        let next_port = self.addresses.ephemeral();
        self.hosts.push(Host {
            spec,
            ip,
            nat,
            power: Power::On,
            process: 0,
            group: None,
            listeners: BTreeMap::new(),
            conns: BTreeMap::new(),
            dials: BTreeMap::new(),
            next_port,
            up: Link::default(),
            down: Link::default(),
            stats: HostStats::default(),
        });
    }
}
