//! The one task that owns the swarm.
//!
//! It waits in one place, the select of [`EventLoop::run`]; everything else is done at once in the `on_*`
//! handlers, one file per family of events. No handler waits, no event makes it panic, and every caller is
//! answered on every way an operation can end. State that grows does so within the limits of [`super::limits`].

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::core::transport::ListenerId;
use libp2p::swarm::{Swarm, SwarmEvent};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};

use crate::core::routing::diversity::Diversity;
use crate::core::routing::liveness::Liveness;
use crate::core::routing::lost::Lost;
use crate::core::routing::mode::ModeRule;
use crate::core::unreachable::Unreachable;

use super::address_book::AddressBook;
use super::behaviour::{Behaviour, BehaviourEvent, Protocols};
use super::command::{Command, Reply};
use super::command_queue::CommandReceiver;
use super::counters::{Counters, name};
use super::dials::Dials;
use super::have::tally::Tally;
use super::lane;
use super::limits::{NetLimits, SHUTDOWN_TIMEOUT};
use super::on_reach::Reaching;
use super::outbox::Outbox;
use super::peers::Peers;
use super::pending::Pending;
use super::probe::Probed;
use super::rates::Rates;
use super::records::near::Neighbourhood;
use super::walks::Walks;

/// Drives the network. Made by [`super::new`]; does nothing until it is run.
pub struct EventLoop {
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) commands: CommandReceiver,
    pub(super) outbox: Outbox,
    pub(super) local: PeerId,
    pub(super) limits: NetLimits,
    pub(super) protocols: Protocols,
    pub(super) peers: Peers,
    pub(super) book: AddressBook,
    /// Providers that could not be dialled lately.
    pub(super) unreachable: Unreachable,
    pub(super) dials: Dials,
    pub(super) pending: Pending,
    pub(super) counters: Counters,
    pub(super) listeners: Vec<ListenerId>,
    /// Listen addresses that we declared external, by the rule for the network profile.
    pub(super) announced: Vec<Multiaddr>,
    /// The newest verdict for each address that AutoNAT tested, at most
    /// [`super::limits::MAX_NAT_VERDICTS`].
    pub(super) verdicts: BTreeMap<Multiaddr, (bool, PeerId)>,
    /// Whether and how others can reach this node.
    pub(super) reach: Reaching,
    /// Failed dials in a row of peers in the routing table.
    pub(super) failing: BTreeMap<PeerId, Failing>,
    /// Connections established since the start.
    pub(super) established: u64,
    pub(super) routing_len: usize,
    /// Where the peers of the routing table come from.
    pub(super) diversity: Diversity,
    /// Peers that left it because they did not answer.
    pub(super) lost: Lost,
    /// When they are asked whether they are still there.
    pub(super) liveness: Liveness,
    /// Peers that are probed for a place in the table, with their addresses; at most
    /// [`super::limits::MAX_ADMISSION_PROBES`].
    pub(super) candidates: BTreeMap<PeerId, Vec<Multiaddr>>,
    /// Probes under way: one for each candidate, and those of `liveness`.
    pub(super) probes: FuturesUnordered<BoxFuture<'static, Probed>>,
    /// Walks through the DHT: provider lookups and those of the peers closest to a key.
    pub(super) walks: Walks,
    /// Whether this node serves the DHT while it can be reached.
    pub(super) may_serve: bool,
    /// Whether it can be reached.
    pub(super) mode: ModeRule,
    /// The routing table in numbers, to tell which keys are near.
    pub(super) near: Neighbourhood,
    pub(super) next_serve: u64,
    /// What have-maps did; counted by those who carry them.
    pub(super) have: Arc<Tally>,
    /// The same of lanes.
    pub(super) lanes: Arc<lane::tally::Tally>,
    /// What is sent and asked for.
    pub(super) rates: Arc<Rates>,
    /// When the next step of the sweep of foreign records is due; `None` while there are none.
    pub(super) next_sweep: Option<Instant>,
    /// Dropped with the loop, which ends the task that answers the provide protocol.
    pub(super) _ended: oneshot::Sender<()>,
}

/// Failed dials in a row of one peer.
#[derive(Debug)]
pub(super) struct Failing {
    /// How many count.
    pub(super) dials: u8,
    /// How many connections had been established when the last one failed.
    pub(super) established: Option<u64>,
}

impl std::fmt::Debug for EventLoop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLoop").field("local", &self.local).finish_non_exhaustive()
    }
}

impl EventLoop {
    /// Runs until a client asks for the shutdown or the last client is dropped.
    pub async fn run(mut self) {
        let asked = loop {
            let deadline = self.next_deadline();
            tokio::select! {
                biased;
                () = until(deadline) => self.on_timeout(Instant::now()),
                command = self.commands.recv() => {
                    match command.map_or(ControlFlow::Break(None), |command| self.on_command(command)) {
                        ControlFlow::Continue(()) => {}
                        ControlFlow::Break(asked) => break asked,
                    }
                }
                Some(probed) = self.probes.next() => self.on_probed(probed),
                Some(asked) = self.walks.asks.next() => self.on_asked(asked),
                () = self.outbox.ready(), if self.outbox.has_backlog() => {}
                event = self.swarm.select_next_some() => self.on_swarm_event(event),
            }
            self.outbox.flush();
        };
        self.close(asked).await;
    }

    /// Answers all who wait, then closes listeners and connections.
    async fn close(mut self, asked: Option<Reply<()>>) {
        let mut done: Vec<Reply<()>> = asked.into_iter().collect();
        for command in self.commands.close() {
            if let Command::Shutdown { reply } = command {
                done.push(reply);
            }
        }
        // Dropping a reply tells its caller that the network has gone.
        self.pending = Pending::default();
        self.walks = Walks::new(self.limits.max_pending_outgoing);
        self.dials = Dials::default();
        for id in std::mem::take(&mut self.listeners) {
            self.swarm.remove_listener(id);
        }
        self.disconnect_all();
        let time_is_up = sleep(SHUTDOWN_TIMEOUT);
        tokio::pin!(time_is_up);
        while self.swarm.network_info().connection_counters().num_established() > 0 {
            tokio::select! {
                biased;
                () = &mut time_is_up => break,
                event = self.swarm.select_next_some() => {
                    if let SwarmEvent::ConnectionEstablished { peer_id, .. } = event {
                        // It was being negotiated when the others were closed. An error means it is gone.
                        let _ = self.swarm.disconnect_peer_id(peer_id);
                    }
                }
            }
        }
        drop(self);
        for reply in done {
            // A caller that has gone is normal.
            let _ = reply.send(());
        }
    }

    fn disconnect_all(&mut self) {
        let connected: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in connected {
            // An error means that it is disconnected already.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    fn on_command(&mut self, command: Command) -> ControlFlow<Option<Reply<()>>> {
        match command {
            Command::Listen { addr, reply } => self.listen(addr, reply),
            Command::Dial { addr, reply } => self.dial(addr, reply),
            Command::Connect { peer, addrs, reply } => self.connect(peer, addrs, reply),
            Command::FindProviders { id, cid, events } => self.find_providers(id, cid, events),
            Command::CancelLookup { id } => self.cancel_lookup(id),
            Command::Provide { cid, reply } => self.provide(cid, reply),
            Command::Hold { cids } => self.hold(&cids),
            Command::StopProviding { cids } => cids.into_iter().for_each(|cid| self.stop_providing(cid)),
            // A caller that has gone is normal; what it asked for is then lost to the disk.
            Command::ClosestPeers { digest, reply } => self.closest_peers(&digest, reply),
            // A caller that has gone is normal.
            Command::ExternalAddrs { reply } => drop(reply.send(self.external_addrs())),
            Command::Records { peer, ask, reply } => drop(reply.send(self.records_asked(peer, ask))),
            Command::ProvideStreamRefused => self.counters.count(name::PROVIDE_STREAMS_REFUSED),
            Command::TakeRecordChanges { reply } => drop(reply.send(self.take_record_changes())),
            Command::RestoreRecords { page, reply } => drop(reply.send(self.restore_records(&page))),
            Command::Request { peer, cid, reply } => self.request(peer, cid, reply),
            Command::Respond { ticket, response } => self.respond(ticket, response),
            Command::Bootstrap { reply } => self.bootstrap(reply),
            // A caller that has gone is normal.
            Command::Peers { reply } => drop(reply.send(self.peer_infos())),
            Command::RoutingPeers { reply } => drop(reply.send(self.routing_peers())),
            Command::Status { reply } => drop(reply.send(Box::new(self.status()))),
            Command::Usage { reply } => drop(reply.send(self.usage())),
            Command::Shutdown { reply } => return ControlFlow::Break(Some(reply)),
        }
        ControlFlow::Continue(())
    }

    fn on_swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.on_behaviour_event(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_established(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, .. } => {
                self.on_closed(peer_id, connection_id)
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.on_dial_failed(connection_id, peer_id, &error);
            }
            SwarmEvent::IncomingConnectionError { error, .. } => self.on_incoming_failed(&error),
            SwarmEvent::NewListenAddr { listener_id, address } => {
                self.on_new_listen_addr(listener_id, address);
            }
            SwarmEvent::ExpiredListenAddr { .. } => self.listen_addrs_changed(),
            SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                self.on_listener_closed(listener_id, reason);
            }
            SwarmEvent::ListenerError { error, .. } => tracing::debug!(%error, "listener"),
            SwarmEvent::ExternalAddrConfirmed { address } => self.on_external_confirmed(&address),
            SwarmEvent::ExternalAddrExpired { address } => self.on_external_expired(&address),
            _ => {}
        }
    }

    fn on_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Limits(never) => match never {},
            BehaviourEvent::Kad(event) => self.on_kad(event),
            BehaviourEvent::Identify(event) => self.on_identify(event),
            BehaviourEvent::Ping(event) => self.on_ping(&event),
            BehaviourEvent::NatClient(event) => self.on_tested(&event),
            BehaviourEvent::NatServer(event) => self.on_dialled_back(&event),
            BehaviourEvent::Exchange(event) => self.on_exchange(event),
            BehaviourEvent::Streams(never) => match never {},
            BehaviourEvent::RelayClient(event) => self.on_relay_client(&event),
            BehaviourEvent::RelayServer(event) => self.on_relay_server(&event),
            BehaviourEvent::Punch(event) => self.on_punched(&event),
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let machines = [
            self.liveness.next_deadline(),
            self.mode.next_deadline(),
            self.lost.next_deadline(),
            self.reach.next_deadline(),
        ];
        let pending = [self.dials.next_deadline(), self.pending.next_deadline()];
        let deadlines = pending.into_iter().chain([self.walks.next_deadline(), self.next_sweep]);
        deadlines.chain(machines.map(|at| at.map(Instant::from_std))).flatten().min()
    }

    pub(super) fn on_timeout(&mut self, now: Instant) {
        self.dials.on_timeout(now);
        for id in self.pending.on_timeout(now) {
            self.swarm.remove_listener(id);
        }
        self.walks_timed_out(now);
        self.dial_lost(now);
        self.liveness.on_timeout(now.into_std());
        self.pump_liveness();
        if self.mode.next_deadline().is_some_and(|at| at <= now.into_std()) {
            self.update_mode();
        }
        if self.reach.next_deadline().is_some_and(|at| at <= now.into_std()) {
            self.reach_timed_out(now);
        }
        if self.next_sweep.is_some_and(|at| at <= now) {
            self.sweep_records(now);
        }
    }
}

/// Waits until `deadline`, or for ever if there is none.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
