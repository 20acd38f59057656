//! Processes start, shut down in order, and die.

use std::{collections::BTreeMap, rc::Rc, sync::Arc};

use dhtfs_node::{
    Config, Node,
    env::{Env, StoreHandle, Tuning},
    net::NetLimits,
};
use dhtfs_store::{ChunkRead, ContentCid, Store, disk::Fault};
use libp2p::{
    Multiaddr, PeerId,
    core::{muxing::StreamMuxerBox, transport::Boxed, upgrade::Version},
    identity::Keypair,
};
use tokio::{sync::watch, time::Instant};

use super::{Failure, Hold, NodeIndex, Process, Running, State, World, disk, wall_clock};
use crate::{
    checks::Promise,
    content::Content,
    derive_seed,
    limits::node_limits,
    net::{self, HostId},
    plan::{self, DiskFate},
    roles::{Hostile, PeerEnv, RoleKind, Targets, start_freerider, start_hostile, start_naive},
    tasks::TaskSet,
};

/// Contents that hostile peers pretend to hold: the first ones.
const MAX_TARGETS: usize = 8;

/// No limits but those that libp2p has by itself.
fn without_limits() -> NetLimits {
    NetLimits {
        max_connections: u32::MAX,
        max_connections_per_peer: u32::MAX,
        max_incoming_connections: u32::MAX,
        max_pending_incoming: u32::MAX,
        max_pending_outgoing: u32::MAX,
        max_open_requests: usize::MAX,
        max_foreign_records: usize::MAX,
        max_records_per_provider: usize::MAX,
        max_records_per_group: usize::MAX,
        max_record_providers: usize::MAX,
        max_providers_per_key: usize::MAX,
        max_closer_peers: usize::MAX,
        record_burst: u64::MAX,
        record_rate: u64::MAX,
        kad_record_burst: u64::MAX,
        kad_record_rate: u64::MAX,
        ..NetLimits::default()
    }
}

/// Turns that dropped calls get before a node is shut down.
const MAX_YIELDS: usize = 1_000;

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// It is told to shut down: work ends in order, connections are closed.
    Shutdown,
    /// It is gone from one instant to the next; nobody is told.
    Crash(DiskFate),
}

impl World {
    /// Starts the process of a machine, if it is off. What it is planned to hold by now is added.
    ///
    /// # Errors
    /// If the store cannot be opened or the node does not start: that is never allowed.
    pub async fn start(self: &Rc<Self>, index: NodeIndex) -> Result<(), Failure> {
        while matches!(self.slots.borrow()[index].state, State::Stopping) {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        let life = {
            let mut slots = self.slots.borrow_mut();
            let slot = &mut slots[index];
            if !matches!(slot.state, State::Off) || slot.is_gone_for_good {
                return Ok(());
            }
            slot.state = State::Starting;
            slot.life += 1;
            slot.life
        };
        self.starts.set(self.starts.get() + 1);
        self.note(&format!("start {index}"));
        self.net.set_online(self.host(index), true);
        let tasks = TaskSet::default();
        let started = self.start_process(index, &tasks).await;
        if self.slots.borrow()[index].life != life {
            // It was killed while it started.
            tasks.kill();
            return Ok(());
        }
        let (process, store) = started?;
        let running =
            Running { process, tasks, since: Instant::now(), died: watch::Sender::new(false), store };
        let sleeps = {
            let mut slots = self.slots.borrow_mut();
            let slot = &mut slots[index];
            running.tasks.freeze(slot.sleeps > 0);
            slot.state = State::On(running);
            slot.sleeps > 0
        };
        if sleeps {
            self.net.set_online(self.host(index), false);
            return Ok(());
        }
        self.add_planned(index).await
    }

    async fn start_process(
        &self,
        index: NodeIndex,
        tasks: &TaskSet,
    ) -> Result<(Process, Option<Store>), Failure> {
        let role = self.role(index);
        let env = self.peer_env(index, tasks)?;
        Ok(match role {
            RoleKind::Honest | RoleKind::ClientOnly => {
                let is_first = self.slots.borrow()[index].life == 1;
                if is_first {
                    self.put_parts(index)?;
                }
                let store = disk::open_store(&self.disk(index))
                    .map_err(|e| format!("node {index} cannot open its store: {e}"))?;
                // A disk that nothing has died on shows nothing.
                if !is_first {
                    self.check_store(index, &store);
                }
                self.spoil_disk(index);
                let node = self.start_node(index, env, store.clone()).await?;
                (Process::Node(Rc::new(node)), Some(store))
            }
            RoleKind::Hostile(kind) => (Process::Hostile(start_hostile(kind, env, self.targets())?), None),
            RoleKind::Freerider => (Process::Hostile(start_freerider(env)?), None),
            RoleKind::Naive => (Process::Naive(Rc::new(start_naive(env)?)), None),
        })
    }

    async fn start_node(&self, index: NodeIndex, env: PeerEnv, store: Store) -> Result<Node, Failure> {
        let (skew, versions, group) = {
            let slots = self.slots.borrow();
            (slots[index].clock_skew.clone(), slots[index].exchange_versions.clone(), slots[index].group)
        };
        let mut tuning = Tuning { limits: node_limits(), ..Tuning::default() };
        if self.plan.groups[group].unprotected {
            tuning.limits = without_limits();
        }
        if let Some(idle) = self.plan.network.idle_timeout {
            tuning.limits.idle_timeout = idle.duration();
        }
        if let Some(life) = self.plan.network.record_life {
            tuning.limits.record_life = life.duration();
        }
        if !versions.is_empty() {
            tuning.exchange_versions = versions;
        }
        let role = self.role(index).node_role().unwrap_or(dhtfs_node::Role::Server);
        let config = Config { bootstrap: env.bootstrap, ..Config::default() };
        let env = Env {
            keypair: env.keypair,
            transport: env.transport,
            store: StoreHandle::inline(store),
            executor: env.executor,
            wall_clock: wall_clock(&skew),
            listen: env.listen,
            seed: env.seed,
            tuning,
            lan: false,
        };
        let started = Node::start(config, env, role).await;
        Ok(started.map_err(|e| format!("node {index} does not start: {}", e.message))?)
    }

    fn peer_env(&self, index: NodeIndex, tasks: &TaskSet) -> Result<PeerEnv, Failure> {
        let slots = self.slots.borrow();
        let slot = &slots[index];
        let transport = self.upgraded(slot.host, &slot.keypair)?;
        let bootstrap: Vec<Multiaddr> = slots
            .iter()
            .filter(|other| other.group == 0 && other.peer != slot.peer)
            .map(|s| s.addr.clone())
            .collect();
        let listen = slot.addr.iter().filter(|part| !matches!(part, libp2p::multiaddr::Protocol::P2p(_)));
        Ok(PeerEnv {
            keypair: slot.keypair.clone(),
            transport: self.meter.wrap(transport, slot.meter.clone()),
            executor: tasks.executor(),
            listen: vec![listen.collect()],
            bootstrap,
            network: Config::default().network,
            seed: derive_seed(self.seed, &format!("node {index} life {}", slot.life)),
        })
    }

    fn upgraded(&self, host: HostId, keypair: &Keypair) -> Result<Boxed<(PeerId, StreamMuxerBox)>, Failure> {
        let security = match self.plan.network.security {
            plan::Security::Noise => net::Security::Noise,
            plan::Security::Plaintext => net::Security::Plaintext,
        };
        Ok(net::upgraded(self.net.transport(host), keypair, security, Version::V1Lazy)?)
    }

    /// What hostile peers pretend to hold.
    fn targets(&self) -> Targets {
        self.targets.get_or_init(|| self.make_targets()).clone()
    }

    fn make_targets(&self) -> Targets {
        let contents = self.contents.iter().take(MAX_TARGETS);
        let content = contents.clone().flat_map(|content| {
            let manifests = content.blocks.iter().map(|(cid, _)| ContentCid::from(*cid));
            manifests.chain(content.chunks().into_iter().map(|(cid, _)| cid.into()))
        });
        let known: BTreeMap<ContentCid, Vec<u8>> = contents.flat_map(Content::parts).collect();
        let sybils = self.slots.borrow();
        let sybils =
            sybils.iter().filter(|slot| matches!(slot.role, RoleKind::Hostile(Hostile::SybilNear(_))));
        Targets {
            content: content.collect(),
            bytes: Arc::new(move |cid| known.get(&cid).cloned()),
            accomplices: sybils.map(|slot| (slot.peer, vec![slot.addr.clone()])).collect(),
        }
    }

    /// A disk that reports every sync as done and does none, if the group is to have such.
    fn spoil_disk(&self, index: NodeIndex) {
        let slots = self.slots.borrow();
        let slot = &slots[index];
        if self.plan.groups[slot.group].unprotected {
            slot.disk.fail_after(0, Fault::LostSyncs);
        }
    }

    fn put_parts(&self, index: NodeIndex) -> Result<(), Failure> {
        for number in 0..self.contents.len() {
            for (holder, share) in self.planned_holders(number) {
                if holder == index && share < 1.0 {
                    self.put_part(index, number, share)?;
                }
            }
        }
        Ok(())
    }

    /// Adds what the node is planned to hold and does not yet.
    pub async fn add_planned(self: &Rc<Self>, index: NodeIndex) -> Result<(), Failure> {
        for number in 0..self.contents.len() {
            if self.added_at(number) > self.elapsed() || self.hold(index, number).is_some() {
                continue;
            }
            let is_planned =
                self.planned_holders(number).iter().any(|(i, share)| *i == index && *share >= 1.0);
            if let (true, Some(up)) = (is_planned, self.up(index)) {
                self.add(&up, number).await?;
            }
        }
        Ok(())
    }

    /// Ends the process of a machine, if one runs.
    ///
    /// # Errors
    /// If there is no new disk for one that is lost.
    pub async fn stop(self: &Rc<Self>, index: NodeIndex, death: Death) -> Result<(), Failure> {
        let running = {
            let mut slots = self.slots.borrow_mut();
            let slot = &mut slots[index];
            let before = std::mem::replace(&mut slot.state, State::Stopping);
            if matches!(before, State::Off | State::Stopping) {
                slot.state = before;
                return Ok(());
            }
            slot.life += 1;
            match before {
                State::On(running) => Some(running),
                _ => None,
            }
        };
        self.note(&format!("stop {index} {death:?}"));
        if let Some(running) = running {
            self.note_lost(index, death, running.store.as_ref());
            running.died.send_replace(true);
            match (running.process, death) {
                (Process::Node(node), Death::Shutdown) => {
                    drop(running.store);
                    running.tasks.freeze(false);
                    // Calls that are under way are dropped first, as those of a socket that closes.
                    for _ in 0..MAX_YIELDS {
                        if Rc::strong_count(&node) == 1 {
                            break;
                        }
                        tokio::task::yield_now().await;
                    }
                    if let Some(node) = Rc::into_inner(node) {
                        node.shutdown().await;
                    }
                    running.tasks.kill();
                }
                (process, _) => {
                    running.tasks.kill();
                    drop(process);
                }
            }
        }
        let done = self.after_death(index, death);
        self.slots.borrow_mut()[index].state = State::Off;
        done
    }

    /// The machine after its process is gone.
    fn after_death(&self, index: NodeIndex, death: Death) -> Result<(), Failure> {
        let host = self.host(index);
        let disk = self.disk(index);
        match death {
            Death::Shutdown => {
                self.net.close(host);
                disk.crash();
            }
            Death::Crash(fate) => {
                self.crashes.set(self.crashes.get() + 1);
                self.net.crash(host);
                match fate {
                    DiskFate::Kept => disk.crash(),
                    DiskFate::Torn => {
                        let life = self.slots.borrow()[index].life;
                        let mut rng = self.rng(&format!("power cut {index} {life}"));
                        disk.power_cut(&mut || rand::Rng::next_u64(&mut rng));
                    }
                    DiskFate::Lost => self.lose_disk(index)?,
                }
            }
        }
        // A machine without the process answers connection attempts with a refusal; one that is off is silent.
        self.net.set_online(host, false);
        Ok(())
    }

    fn lose_disk(&self, index: NodeIndex) -> Result<(), Failure> {
        let new = disk::new(&self.pool)?;
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[index];
        slot.disk.crash();
        slot.disk = new;
        slot.holds.clear();
        Ok(())
    }

    /// After a life has ended, however: the store must open, hold nothing wrong, and hold what it acknowledged.
    fn check_store(&self, index: NodeIndex, store: &Store) {
        let consistent = store.check_invariants();
        self.checks.look(Promise::StoresRight, matches!(consistent, Ok(Ok(()))), || {
            format!("node {index}: {consistent:?}")
        });
        let holds: Vec<(usize, Hold)> =
            self.slots.borrow()[index].holds.iter().map(|(number, hold)| (*number, *hold)).collect();
        for (number, hold) in holds {
            let content = &self.contents[number];
            for (cid, _) in content.chunks() {
                match store.read_chunk(&cid) {
                    Ok(ChunkRead::Data(data)) => {
                        self.checks.look(Promise::StoresRight, cid.matches(&data), || {
                            format!("node {index} holds wrong bytes as {cid}")
                        });
                        if hold == Hold::Whole {
                            self.checks.look(Promise::NothingLost, true, String::new);
                        }
                    }
                    Ok(ChunkRead::Missing) => {
                        self.checks.look(Promise::NothingLost, hold == Hold::Part, || {
                            format!("node {index} has lost {cid} of {}", content.name)
                        });
                    }
                    other => self.checks.look(Promise::StoresRight, false, || {
                        format!("node {index} held {cid} wrongly: {other:?}")
                    }),
                }
            }
        }
    }

    /// What a node holds of a content.
    pub(super) fn hold(&self, index: NodeIndex, number: usize) -> Option<Hold> {
        self.slots.borrow().get(index)?.holds.get(&number).copied()
    }

    /// The store of a running node.
    pub(super) fn store(&self, index: NodeIndex) -> Option<Store> {
        match &self.slots.borrow().get(index)?.state {
            State::On(running) => running.store.clone(),
            _ => None,
        }
    }

    /// Lets a machine fall asleep or wake up: its process stands still, nothing reaches it. Who wakes it sees to what
    /// it was to add meanwhile: [`Self::add_planned`].
    pub(super) fn sleep(&self, index: NodeIndex, asleep: bool) {
        let mut slots = self.slots.borrow_mut();
        let slot = &mut slots[index];
        slot.sleeps = if asleep { slot.sleeps + 1 } else { slot.sleeps.saturating_sub(1) };
        if let State::On(running) = &slot.state {
            running.tasks.freeze(slot.sleeps > 0);
            self.net.set_online(slot.host, slot.sleeps == 0);
        }
    }

    /// The machine never comes back, whatever is planned for it.
    pub(super) fn set_gone_for_good(&self, index: NodeIndex) {
        self.slots.borrow_mut()[index].is_gone_for_good = true;
    }

    /// From its next start on the node offers these versions of the exchange protocol.
    pub(super) fn set_exchange_versions(&self, index: NodeIndex, versions: &[u32]) {
        self.slots.borrow_mut()[index].exchange_versions = versions.to_vec();
    }

    /// Makes the time of day of a node wrong by this much more.
    pub(super) fn jump_clock(&self, index: NodeIndex, secs: i64) {
        let skew: Arc<_> = self.slots.borrow()[index].clock_skew.clone();
        skew.fetch_add(secs, std::sync::atomic::Ordering::Relaxed);
    }
}
