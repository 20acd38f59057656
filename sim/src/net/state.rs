//! The state of a network, its queue of events, and what lies between two hosts.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    net::{Ipv4Addr, SocketAddrV4},
    task::Waker,
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

use super::{
    HostId, HostSpec, HostStats, NatId,
    addresses::Addresses,
    conn::{Conn, Key, Side, Slab},
    connect::Dial,
    nat::NatBox,
    trace::{Trace, TraceKind},
    transport::TransportState,
};

/// Things arrive at multiples of this, so that what arrives together wakes its readers together. It is the grain of
/// tokio's timers too. Nothing is faster.
pub(super) const GRID: u64 = 1_000;

/// Delay within a local network.
const LAN_DELAY: u64 = 500;

/// The least time after which something lost is sent again; the round trip is added.
const MIN_RETRANSMIT: u64 = 200_000;

/// What is going to happen.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    /// Segments that this end has sent arrive at the other host.
    Arrive(Key, Side),
    /// Segments that this end has sent have passed the receiver's downlink.
    Land(Key, Side),
    /// A host's uplink is free.
    Uplink(HostId),
    /// A host's downlink is free.
    Downlink(HostId),
    /// This end learns that something was read.
    Acked(Key, Side),
    /// This end has waited for an acknowledgement for too long.
    GiveUp(Key, Side),
    /// This end sends again what did not get through.
    Resume(Key, Side),
    /// The first packet of a dial arrives.
    Syn(Key),
    /// It is sent again.
    SynAgain(Key),
    /// A dial gets no answer.
    DialTimeout(Key),
    /// A dial's refusal arrives.
    Refused(Key),
    /// This end learns that the other end is there.
    Established(Key, Side),
    /// A reset arrives at this end.
    Reset(Key, Side),
}

/// An event in the queue. Events at one instant happen in the order in which they were planned.
#[derive(Debug)]
struct Planned {
    at: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Planned {}
impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Planned {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Whether a host is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Power {
    On,
    /// Cut off; its process goes on.
    Off,
    /// Its process died with it.
    Crashed,
}

/// A limited link. Connections with something to send take turns.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) free_at: u64,
    pub(super) is_planned: bool,
    pub(super) queue: VecDeque<(Key, Side)>,
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) spec: HostSpec,
    pub(super) ip: Ipv4Addr,
    pub(super) nat: Option<NatId>,
    pub(super) power: Power,
    /// Counts its processes. What belongs to an earlier one is dead.
    pub(super) process: u32,
    /// Its group, while the network is partitioned.
    pub(super) group: Option<usize>,
    pub(super) listeners: BTreeMap<u16, (Key, libp2p::core::transport::ListenerId)>,
    pub(super) conns: BTreeMap<(u16, SocketAddrV4), (Key, Side)>,
    pub(super) dials: BTreeMap<(u16, SocketAddrV4), Key>,
    pub(super) next_port: u16,
    pub(super) up: Link,
    pub(super) down: Link,
    pub(super) stats: HostStats,
}

/// A NAT box and what is behind it.
#[derive(Debug)]
pub(super) struct Behind {
    pub(super) nat: NatBox,
    pub(super) hosts: BTreeMap<Ipv4Addr, HostId>,
    /// Its place and its line are those of this host.
    pub(super) first: HostId,
}

/// Who has a public address.
#[derive(Debug, Clone, Copy)]
pub(super) enum Owner {
    Host(HostId),
    Nat(NatId),
}

/// Everything.
pub(super) struct Core {
    epoch: Option<Instant>,
    pub(super) rng: StdRng,
    pub(super) addresses: Addresses,
    pub(super) hosts: Vec<Host>,
    pub(super) nats: Vec<Behind>,
    pub(super) owners: BTreeMap<Ipv4Addr, Owner>,
    pub(super) conns: Slab<Conn>,
    pub(super) dials: Slab<Dial>,
    pub(super) transports: Slab<TransportState>,
    pub(super) blocked: BTreeSet<(HostId, HostId)>,
    pub(super) one_way: Vec<(BTreeSet<HostId>, BTreeSet<HostId>)>,
    pub(super) trace: Trace,
    events: BinaryHeap<Reverse<Planned>>,
    planned: u64,
    /// When the driver wakes by itself.
    armed_at: u64,
    pub(super) driver: Option<Waker>,
    pub(super) is_driven: bool,
    /// Woken once the state is unlocked.
    pub(super) wakes: Vec<Waker>,
}

impl Core {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            epoch: None,
            rng: StdRng::seed_from_u64(seed),
            addresses: Addresses::new(seed),
            hosts: Vec::new(),
            nats: Vec::new(),
            owners: BTreeMap::new(),
            conns: Slab::default(),
            dials: Slab::default(),
            transports: Slab::default(),
            blocked: BTreeSet::new(),
            one_way: Vec::new(),
            trace: Trace::default(),
            events: BinaryHeap::new(),
            planned: 0,
            armed_at: u64::MAX,
            driver: None,
            is_driven: false,
            wakes: Vec::new(),
        }
    }

    /// The instant that all times count from: when the network was first used.
    pub(super) fn epoch(&mut self) -> Instant {
        *self.epoch.get_or_insert_with(Instant::now)
    }

    /// Microseconds since the epoch.
    pub(super) fn now(&mut self) -> u64 {
        let epoch = self.epoch();
        micros(Instant::now().saturating_duration_since(epoch))
    }

    pub(super) fn plan(&mut self, at: u64, event: Event) {
        self.planned += 1;
        self.events.push(Reverse(Planned { at, number: self.planned, event }));
        if at < self.armed_at {
            self.armed_at = at;
            self.wakes.extend(self.driver.take());
        }
    }

    /// Makes everything happen that is due. Returns when the next thing is.
    pub(super) fn run_due(&mut self) -> Option<u64> {
        let now = self.now();
        // While events are handled the driver is awake anyway.
        self.armed_at = 0;
        while let Some(Reverse(next)) = self.events.peek() {
            if next.at > now {
                break;
            }
            if let Some(Reverse(Planned { at, event, .. })) = self.events.pop() {
                self.happen(at, event);
            }
        }
        let next = self.events.peek().map(|Reverse(next)| next.at);
        self.armed_at = next.unwrap_or(u64::MAX);
        next
    }

    fn happen(&mut self, at: u64, event: Event) {
        match event {
            Event::Arrive(conn, side) => self.arrive(conn, side, at),
            Event::Land(conn, side) => self.land(conn, side, at),
            Event::Uplink(host) => {
                self.hosts[host.index()].up.is_planned = false;
                self.serve_uplink(host, at);
            }
            Event::Downlink(host) => {
                self.hosts[host.index()].down.is_planned = false;
                self.serve_downlink(host, at);
            }
            Event::Acked(conn, side) => self.acked(conn, side, at),
            Event::GiveUp(conn, side) => self.give_up(conn, side, at),
            Event::Resume(conn, side) => self.resume(conn, side, at),
            Event::Syn(dial) => self.syn(dial, at),
            Event::SynAgain(dial) => self.syn_again(dial, at),
            Event::DialTimeout(dial) => self.dial_failed(dial, std::io::ErrorKind::TimedOut, at),
            Event::Refused(dial) => self.refused(dial, at),
            Event::Established(conn, side) => self.established(conn, side, at),
            Event::Reset(conn, side) => self.reset(conn, side, at),
        }
    }

    /// Whether packets from one host get to another now.
    pub(super) fn is_path_open(&self, from: HostId, to: HostId) -> bool {
        self.hosts[from.index()].power == Power::On && self.is_way_open(from, to)
    }

    /// The same, for what has already left the sender.
    pub(super) fn is_way_open(&self, from: HostId, to: HostId) -> bool {
        let (a, b) = (&self.hosts[from.index()], &self.hosts[to.index()]);
        b.power == Power::On
            && !matches!((a.group, b.group), (Some(a), Some(b)) if a != b)
            && !self.blocked.contains(&(from, to))
            && !self.one_way.iter().any(|(froms, tos)| froms.contains(&from) && tos.contains(&to))
    }

    /// Delay between two hosts, one way.
    pub(super) fn delay(&self, from: HostId, to: HostId, is_local: bool) -> u64 {
        if is_local {
            return LAN_DELAY.max(GRID);
        }
        let (from, to) = (&self.hosts[from.index()].spec.position, &self.hosts[to.index()].spec.position);
        micros(from.delay(to)).max(GRID)
    }

    /// After what time something lost is sent again.
    pub(super) fn retransmit_after(&self, from: HostId, to: HostId, is_local: bool) -> u64 {
        MIN_RETRANSMIT + self.delay(from, to, is_local) + self.delay(to, from, is_local)
    }

    /// When something that leaves one host at `at` arrives at the other: delay, jitter, and what a loss costs.
    pub(super) fn arrival(&mut self, from: HostId, to: HostId, is_local: bool, at: u64) -> u64 {
        let mut due = at + self.delay(from, to, is_local);
        if is_local {
            return due;
        }
        let (a, b) = (&self.hosts[from.index()].spec, &self.hosts[to.index()].spec);
        let jitter = micros(a.jitter + b.jitter);
        let loss = 1.0 - (1.0 - a.loss.clamp(0.0, 1.0)) * (1.0 - b.loss.clamp(0.0, 1.0));
        if jitter > 0 {
            due += self.rng.random_range(0..=jitter);
        }
        if loss > 0.0 {
            let wait = self.retransmit_after(from, to, is_local);
            // Only cut-off hosts are silent for long, so this has an end. TCP would wait twice as long each time if
            // nothing else came through; here something else does.
            for _ in 0..6 {
                if !self.rng.random_bool(loss) {
                    break;
                }
                due += wait;
            }
        }
        due
    }

    /// Whether a packet that nobody sends again, or only later, is lost.
    pub(super) fn is_lost(&mut self, from: HostId, to: HostId) -> bool {
        let (a, b) = (&self.hosts[from.index()].spec, &self.hosts[to.index()].spec);
        let loss = 1.0 - (1.0 - a.loss.clamp(0.0, 1.0)) * (1.0 - b.loss.clamp(0.0, 1.0));
        loss > 0.0 && self.rng.random_bool(loss)
    }

    /// Adds an event between two hosts to the trace.
    pub(super) fn note(&mut self, at: u64, kind: TraceKind, from: HostId, to: HostId) {
        self.trace.add(at, kind, Some(from), Some(to), &[]);
    }
}

/// The next instant at which something may arrive.
pub(super) const fn on_grid(at: u64) -> u64 {
    at.div_ceil(GRID) * GRID
}

/// Whole microseconds.
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
