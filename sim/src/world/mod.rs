//! The world of one run: hosts on a network, disks, processes that start and die, and what is true of them.
//!
//! A [`World`] knows everything; the nodes in it know only what they are given. What they say is compared with what
//! is true: who holds what, who is up, who can reach whom.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use dhtfs_node::{Node, api::types::GetProgress};
use dhtfs_store::{Store, disk::MemoryDisk, disk::PagePool};
use libp2p::{Multiaddr, PeerId, identity::Keypair};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{sync::watch, time::Instant};

use crate::{
    checks::Checks,
    clock,
    content::Content,
    derive_seed,
    meter::{Meter, NodeMeter},
    net::{HostId, Net},
    plan::Plan,
    record::RunRecord,
    roles::{HostilePeer, NaivePeer, RoleKind, Targets},
    tasks::TaskSet,
};

mod build;
mod contents;
pub(crate) mod disk;
mod faults;
mod get;
mod health;
mod life;
mod probe;
mod sample;
mod trace;
mod truth;

pub use life::Death;
pub use sample::Before;
pub(crate) use trace::attach as attach_trace;
pub use trace::trace_to;

/// Why a run ended early: something in the simulator itself went wrong.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Names one node of the world; the first group comes first.
pub type NodeIndex = usize;

/// Everything there is.
pub struct World {
    /// Seed of everything random.
    pub seed: u64,
    /// What is to happen.
    pub plan: Plan,
    /// The network.
    pub net: Net,
    /// What must hold.
    pub checks: Checks,
    /// What came out so far.
    pub record: RefCell<RunRecord>,
    /// What is shared.
    pub contents: Vec<Content>,
    meter: Meter,
    pool: PagePool,
    slots: RefCell<Vec<Slot>>,
    begun: Instant,
    starts: Cell<u64>,
    crashes: Cell<u64>,
    targets: OnceCell<Targets>,
    /// When the last fault ended, or the run began.
    last_fault: Cell<Instant>,
    faults_on: Cell<usize>,
    is_health_checked: Cell<bool>,
    /// What is cut now, and how bad the weather is, by the number of the fault.
    cuts: RefCell<BTreeMap<u64, Cut>>,
    weathers: RefCell<BTreeMap<u64, (f64, Duration)>>,
    next_fault: Cell<u64>,
    /// Gets that are under way: node and content.
    getting: RefCell<BTreeSet<NodeIndex>>,
    /// Attempts of gets that are under way, by node and content.
    fetches: RefCell<BTreeMap<(NodeIndex, usize), Fetching>>,
    /// Gets that have had a complete, reachable provider at every look so far, by their place in the record.
    steady_gets: RefCell<BTreeMap<usize, Steady>>,
    /// Gets that have ended and had such a provider until then.
    held_gets: RefCell<BTreeSet<usize>>,
    /// What gets that have not ended may receive, by their place in the record.
    open_gets: RefCell<BTreeMap<usize, Allowance>>,
    /// When gets should have begun that have not, by the order in which they were planned.
    waiting_gets: RefCell<Vec<Option<f64>>>,
}

/// One machine and what runs on it.
struct Slot {
    group: usize,
    role: RoleKind,
    host: HostId,
    keypair: Keypair,
    peer: PeerId,
    /// Where it listens, with its peer ID.
    addr: Multiaddr,
    disk: MemoryDisk,
    exchange_versions: Vec<u32>,
    /// What it has fetched so far, in all its lives.
    meter: Arc<NodeMeter>,
    /// Seconds that its time of day is wrong by.
    clock_skew: Arc<AtomicI64>,
    state: State,
    /// Counts starts and deaths, so that what belongs to an earlier life is known.
    life: u64,
    /// Whether it comes back when its plan says so.
    is_gone_for_good: bool,
    /// How many faults keep it asleep.
    sleeps: u32,
    /// What it holds, by number of the content.
    holds: BTreeMap<usize, Hold>,
}

/// One way in which the network is cut.
enum Cut {
    /// The part of each host.
    Parts(Vec<usize>),
    /// What hosts of the first set send does not reach those of the second.
    Ways(Vec<(Vec<HostId>, Vec<HostId>)>),
}

/// An attempt of a get.
struct Fetching {
    progress: watch::Receiver<GetProgress>,
    /// What has to come again because the node died, in bytes.
    lost_len: u64,
}

/// What a get may receive.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    node: NodeIndex,
    /// Number of the content.
    number: usize,
    /// What the node had received before it began, in bytes.
    fetched_before: u64,
    /// What crashes in attempts that are over made come again, in bytes.
    lost_len: u64,
}

/// A get that should succeed.
struct Steady {
    holder: NodeIndex,
    /// It should have ended by then, one way or the other.
    overdue_at: Instant,
}

/// What a node holds of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// All of it, acknowledged by an add or a finished get.
    Whole,
    /// Some chunks.
    Part,
}

enum State {
    Off,
    Starting,
    /// It is told to shut down and has not ended yet.
    Stopping,
    On(Running),
}

/// A process that runs.
struct Running {
    process: Process,
    tasks: TaskSet,
    since: Instant,
    /// Turns true when it dies.
    died: watch::Sender<bool>,
    store: Option<Store>,
}

enum Process {
    Node(Rc<Node>),
    Hostile(HostilePeer),
    Naive(Rc<NaivePeer>),
}

/// A running node, as the timeline sees it.
#[derive(Clone)]
pub struct Up {
    /// Which.
    pub index: NodeIndex,
    /// The node.
    pub node: Rc<Node>,
    died: watch::Receiver<bool>,
}

impl Up {
    /// Runs something on the node until it is done, or the node dies (`None`).
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut died = self.died.clone();
        tokio::select! {
            _ = died.wait_for(|died| *died) => None,
            done = work => Some(done),
        }
    }
}

impl World {
    /// Simulated seconds since the start of the run.
    pub fn now(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// Simulated time since the start of the run.
    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Waits until a time of the run.
    pub async fn until(&self, at: Duration) {
        tokio::time::sleep_until(self.begun + at).await;
    }

    /// Number of nodes, running or not.
    pub fn len(&self) -> usize {
        self.slots.borrow().len()
    }

    /// Whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Randomness for one purpose; the same in every run of this seed, whatever else happens.
    pub fn rng(&self, purpose: &str) -> StdRng {
        StdRng::seed_from_u64(derive_seed(self.seed, purpose))
    }

    /// The node, if it is a real one and running and awake.
    pub fn up(&self, index: NodeIndex) -> Option<Up> {
        let slots = self.slots.borrow();
        let slot = slots.get(index)?;
        let State::On(running) = &slot.state else { return None };
        let Process::Node(node) = &running.process else { return None };
        if slot.sleeps > 0 {
            return None;
        }
        Some(Up { index, node: node.clone(), died: running.died.subscribe() })
    }

    /// The bare node, if it is one and running.
    pub fn naive(&self, index: NodeIndex) -> Option<Rc<NaivePeer>> {
        match &self.slots.borrow().get(index)?.state {
            State::On(Running { process: Process::Naive(peer), .. }) => Some(peer.clone()),
            _ => None,
        }
    }

    /// Whether anything runs on the machine and is awake.
    pub fn is_up(&self, index: NodeIndex) -> bool {
        self.slots
            .borrow()
            .get(index)
            .is_some_and(|slot| matches!(slot.state, State::On(_)) && slot.sleeps == 0)
    }

    /// How long the process has been running.
    pub fn up_for(&self, index: NodeIndex) -> Option<Duration> {
        match &self.slots.borrow().get(index)?.state {
            State::On(running) => Some(running.since.elapsed()),
            _ => None,
        }
    }

    /// The role of a node.
    pub fn role(&self, index: NodeIndex) -> RoleKind {
        self.slots.borrow().get(index).map_or(RoleKind::Honest, |slot| slot.role)
    }

    /// The peer ID of a node.
    pub fn peer(&self, index: NodeIndex) -> Option<PeerId> {
        self.slots.borrow().get(index).map(|slot| slot.peer)
    }

    /// The node with this peer ID.
    pub fn index_of(&self, peer: &PeerId) -> Option<NodeIndex> {
        self.slots.borrow().iter().position(|slot| slot.peer == *peer)
    }

    /// The nodes of a group.
    pub fn members(&self, group: usize) -> Vec<NodeIndex> {
        let slots = self.slots.borrow();
        (0..slots.len()).filter(|index| slots[*index].group == group).collect()
    }

    /// Bytes of chunks and manifests that a node has received in all its lives, with what frames them.
    pub fn fetched_len(&self, index: NodeIndex) -> u64 {
        self.slots.borrow().get(index).map_or(0, |slot| slot.meter.fetched_len())
    }

    fn host(&self, index: NodeIndex) -> HostId {
        self.slots.borrow()[index].host
    }

    /// Adds a line to the trace.
    pub fn note(&self, what: &str) {
        self.net.note(what);
    }
}

/// A time of day for a node: simulated, and wrong by its skew.
fn wall_clock(skew: &Arc<AtomicI64>) -> dhtfs_node::env::WallClock {
    let skew = skew.clone();
    Arc::new(move || clock::time_of_day().saturating_add_signed(skew.load(Ordering::Relaxed)))
}

/// Draws `count` different ones of `from`, in drawn order.
pub(crate) fn draw<T: Copy>(rng: &mut StdRng, from: &[T], count: usize) -> Vec<T> {
    let mut left = from.to_vec();
    let mut drawn = Vec::new();
    while drawn.len() < count && !left.is_empty() {
        drawn.push(left.swap_remove(below(rng, left.len())));
    }
    drawn
}

/// A number below `bound`, which must not be zero.
pub(crate) fn below(rng: &mut StdRng, bound: usize) -> usize {
    usize::try_from(rng.next_u64() % (bound.max(1) as u64)).unwrap_or(0)
}
