//! The local network: tells it of this node over mDNS, hears of others, and connects to those of its network.
//!
//! The driver of [`Announcer`] and [`Neighbours`]. A dial goes to a bare address: who answers there is asked for its ID and
//! compared, so that a forged announcement touches nothing of what is known of the peer it names.

use std::{
    collections::BTreeSet,
    io,
    time::{Duration, Instant},
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use libp2p::{Multiaddr, PeerId};
use tokio::{sync::watch, time::timeout};
use tracing::{debug, info, warn};

use super::{ended, now, sleep_until};
use crate::{
    core::{
        announce_lan::{AnnounceConfig, Announcer, Link, Say},
        neighbours::{Intake, IntakeConfig, Neighbour, Neighbours, NeighboursConfig, Outcome},
        profile::{NetworkProfile, scope},
    },
    net::{
        Client, DialFailure,
        mdns::{
            links::{Face, Links, faces},
            socket::{Received, Sockets},
            wire::Wire,
        },
    },
};

/// How often it is looked whether there are other interfaces. Addresses that are listened on come without.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// The first pause after something has changed; the next ones are twice as long. An interface gets its address before it is
/// ready for packets, and says nothing of that.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How long a dial to one address may take. Neighbours are near.
const DIAL_WITHIN: Duration = Duration::from_secs(5);

/// How long saying goodbye to the neighbours may take.
const GOODBYE_WITHIN: Duration = Duration::from_millis(300);

/// What was done and counted; see [`LanStats::counters`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LanStats {
    /// Packets sent, and their bytes.
    pub sent: (u64, u64),
    /// Packets that the system would not send.
    pub not_sent: u64,
    /// Packets received on the port of mDNS, and their bytes: also those about other services.
    pub received: (u64, u64),
    /// Packets about our service that were not read because there were too many.
    pub dropped: u64,
    /// Packets about our service from elsewhere than the local network, or from another port.
    pub far: u64,
    /// Packets about our service that were none.
    pub malformed: u64,
    /// Announcements of our network that were heard.
    pub heard: u64,
    /// Announcements that are remembered, and neighbours connected by them.
    pub known: (u64, u64),
    /// Dials, and those of them that reached nobody or somebody else.
    pub dials: (u64, u64, u64),
    /// Announcements that found no place, or made room for others.
    pub refused: (u64, u64),
}

impl LanStats {
    /// Names and values, for the status.
    pub fn counters(&self) -> [(&'static str, u64); 16] {
        [
            ("lan_sent", self.sent.0),
            ("lan_sent_len", self.sent.1),
            ("lan_not_sent", self.not_sent),
            ("lan_received", self.received.0),
            ("lan_received_len", self.received.1),
            ("lan_dropped", self.dropped),
            ("lan_far", self.far),
            ("lan_malformed", self.malformed),
            ("lan_heard", self.heard),
            ("lan_known", self.known.0),
            ("lan_connected", self.known.1),
            ("lan_dials", self.dials.0),
            ("lan_dials_failed", self.dials.1),
            ("lan_dials_foreign", self.dials.2),
            ("lan_refused", self.refused.0),
            ("lan_displaced", self.refused.1),
        ]
    }
}

/// What the driver works with.
#[derive(Debug)]
pub struct LanTask {
    /// Dials.
    pub client: Client,
    /// The network as identify calls it, `/dhtfs/<name>`.
    pub network: String,
    /// The addresses listened on; `None` for a node that listens nowhere and only looks for others.
    pub listen: Option<watch::Receiver<Vec<Multiaddr>>>,
    /// Everybody who is connected.
    pub connected: watch::Receiver<BTreeSet<PeerId>>,
    /// What was counted.
    pub stats: watch::Sender<LanStats>,
    /// Seeds pauses and choices.
    pub seed: u64,
}

/// A dial that has ended.
type Dialled = (Neighbour, Outcome);

/// The state of a running driver.
struct Running {
    task: LanTask,
    wire: Wire,
    links: Links,
    sockets: Sockets,
    announcer: Announcer,
    neighbours: Neighbours,
    intake: Intake,
    dials: FuturesUnordered<BoxFuture<'static, Dialled>>,
    stats: LanStats,
    /// When interfaces are looked at next, and the pause after that.
    next_look: Instant,
    look_pause: Duration,
    /// Links of which it was said that this node was announced there.
    announced: BTreeSet<Link>,
    /// What is wrong was said once.
    has_complained: bool,
}

impl LanTask {
    /// Runs until `shutdown` turns true, and says goodbye.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let mut running = Running::new(self);
        loop {
            running.act();
            let (announcer, neighbours) =
                (running.announcer.next_deadline(), running.neighbours.next_deadline());
            let deadlines = [announcer, neighbours, Some(running.next_look)];
            tokio::select! {
                () = ended(&mut shutdown) => break,
                () = sleep_until(deadlines.into_iter().flatten().min()) => {}
                is_open = changed(&mut running.task.listen) => match is_open {
                    true => running.look_now(),
                    // The node ends.
                    false => break,
                },
                changed = running.task.connected.changed() => match changed {
                    Ok(()) => running.on_connected(),
                    Err(_) => break,
                },
                Some((neighbour, outcome)) = running.dials.next() => {
                    debug!(peer = %neighbour.peer, source = %neighbour.source.ip, ?outcome, "a neighbour was dialled");
                    running.neighbours.on_dialled(&neighbour, outcome, now());
                }
                received = running.sockets.receive() => running.on_received(&received),
            }
        }
        // Whoever does not hear it notices as after a crash.
        let _ = timeout(GOODBYE_WITHIN, running.end()).await;
    }
}

impl Running {
    fn new(task: LanTask) -> Self {
        let (local, seed) = (task.client.peer_id(), task.seed);
        let is_client = task.listen.is_none();
        let config = if is_client { NeighboursConfig::client() } else { NeighboursConfig::default() };
        Self {
            wire: Wire::new(local, &task.network),
            links: Links::default(),
            sockets: Sockets::new(),
            announcer: Announcer::new(AnnounceConfig::default(), seed, now()),
            neighbours: Neighbours::new(local, config, seed, now()),
            intake: Intake::new(IntakeConfig::default(), now()),
            dials: FuturesUnordered::new(),
            stats: LanStats::default(),
            next_look: now(),
            look_pause: LOOK_AGAIN,
            announced: BTreeSet::new(),
            has_complained: false,
            task,
        }
    }

    /// Does what is due.
    fn act(&mut self) {
        if self.next_look <= now() {
            self.look();
        }
        self.speak();
        self.neighbours.on_timeout(now());
        while let Some(neighbour) = self.neighbours.next_action() {
            self.dials.push(dial(self.task.client.clone(), neighbour).boxed());
        }
        self.count();
    }

    fn speak(&mut self) {
        self.announcer.on_timeout(now());
        while let Some(say) = self.announcer.next_action() {
            self.say(say);
        }
    }

    /// Something has changed: looks at it, and soon again.
    fn look_now(&mut self) {
        self.look_pause = LOOK_AGAIN;
        self.look();
    }

    /// Looks what interfaces there are, and what is listened on.
    fn look(&mut self) {
        self.next_look = now() + self.look_pause;
        self.look_pause = (self.look_pause * 2).min(LOOK_EVERY);
        let listen = self.task.listen.as_mut().map(|listen| listen.borrow_and_update().clone());
        let is_here = |addr: &Multiaddr| scope(addr) == Some(NetworkProfile::Loopback);
        if listen.as_ref().is_some_and(|listen| listen.iter().all(is_here)) {
            // Nobody else can reach this node; or it does not listen yet.
            self.follow(Links::default());
            return;
        }
        match faces() {
            Ok(faces) => self.look_at(&faces, listen.as_deref()),
            Err(error) => self.complain(&error.to_string()),
        }
    }

    fn look_at(&mut self, faces: &[Face], listen: Option<&[Multiaddr]>) {
        let links = Links::pick(faces, listen);
        // One that is just coming up is waited for.
        if links.is_empty() && self.look_pause >= LOOK_EVERY && !self.has_complained {
            self.has_complained = true;
            info!("no interface of a local network; name a node to join through with --bootstrap");
        }
        self.follow(links);
    }

    /// Goes on with these links.
    fn follow(&mut self, mut links: Links) {
        let failed: Vec<(Link, io::Error)> = self.sockets.follow(links.iter());
        for (link, error) in &failed {
            debug!(ip = %link.ip, %error, "no mDNS there");
            links.remove(link);
        }
        if let (true, Some((_, error))) = (links.is_empty(), failed.first()) {
            self.complain(&error.to_string());
        }
        if self.links != links {
            self.next_look = now() + LOOK_AGAIN;
            self.look_pause = LOOK_AGAIN * 2;
            self.announced.retain(|link| links.iter().any(|other| other == link));
            self.announcer.on_links(&links.ports(), now());
            self.links = links;
            self.neighbours.on_moved(|source| self.links.is_near(source), now());
        }
    }

    fn complain(&mut self, error: &str) {
        if !self.has_complained {
            self.has_complained = true;
            warn!(%error, "nodes of the local network are not looked for; name one to join through with --bootstrap");
        }
    }

    fn say(&mut self, say: Say) {
        let (link, packet) = match say {
            Say::Query(link) => (link, self.wire.query()),
            Say::Announce(link) | Say::Goodbye(link) => {
                let (ports, addrs) = (self.links.ports_of(&link), self.links.addrs_beside(&link));
                (link, self.wire.announcement(ports, &addrs, say == Say::Goodbye(link)))
            }
        };
        let Ok(packet) = packet else { return };
        match self.sockets.send(&link, &packet) {
            Ok(()) => {
                self.stats.sent.0 += 1;
                self.stats.sent.1 += packet.len() as u64;
                if say == Say::Announce(link) && self.announced.insert(link) {
                    info!(ip = %link.ip, "announced in the local network");
                }
            }
            Err(error) => {
                debug!(ip = %link.ip, %error, "nothing was said in the local network");
                self.stats.not_sent += 1;
            }
        }
    }

    fn on_connected(&mut self) {
        let connected = self.task.connected.borrow_and_update();
        self.neighbours.on_connected(&connected, now());
    }

    fn on_received(&mut self, received: &Received) {
        let Received { bytes, from } = received;
        self.stats.received.0 += 1;
        self.stats.received.1 += bytes.len() as u64;
        if !self.wire.is_relevant(bytes) {
            return;
        }
        let Some((source, links)) = self.links.source_of(*from) else {
            self.stats.far += 1;
            return;
        };
        if !self.intake.takes(source, now()) {
            return;
        }
        let Ok(said) = self.wire.read(bytes) else {
            self.stats.malformed += 1;
            return;
        };
        if let Some(knows) = said.asks {
            for link in &links {
                self.announcer.on_query(link, knows, now());
            }
        }
        if let Some((peer, ports)) = said.announces {
            self.stats.heard += 1;
            self.neighbours.on_heard(Neighbour { peer, source, tcp: ports.tcp, quic: ports.quic }, now());
        }
    }

    /// Says goodbye.
    async fn end(&mut self) {
        self.announcer.on_end(now());
        loop {
            self.speak();
            if self.announcer.has_ended() {
                return;
            }
            sleep_until(self.announcer.next_deadline()).await;
        }
    }

    fn count(&mut self) {
        let neighbours = self.neighbours.stats();
        self.stats.dropped = self.intake.dropped();
        self.stats.known = (self.neighbours.known() as u64, self.neighbours.connected() as u64);
        self.stats.dials = (neighbours.dials, neighbours.failed, neighbours.foreign);
        self.stats.refused = (neighbours.refused, neighbours.displaced);
        self.task.stats.send_replace(self.stats);
    }
}

/// Dials a neighbour at one address after the other.
async fn dial(client: Client, neighbour: Neighbour) -> Dialled {
    let mut outcome = Outcome::Unreachable;
    for addr in neighbour.addrs() {
        outcome = match timeout(DIAL_WITHIN, client.dial(addr)).await {
            Ok(result) => outcome_of(&result, &neighbour.peer),
            Err(_) => Outcome::Unreachable,
        };
        if outcome != Outcome::Unreachable {
            break;
        }
    }
    (neighbour, outcome)
}

fn outcome_of(result: &Result<PeerId, DialFailure>, expected: &PeerId) -> Outcome {
    match result {
        Ok(peer) if peer == expected => Outcome::Met,
        Ok(_)
        | Err(DialFailure::OtherNetwork { .. } | DialFailure::WrongPeer { .. } | DialFailure::ThisNode) => {
            Outcome::Foreign
        }
        Err(DialFailure::Limit(_) | DialFailure::Gone(_)) => Outcome::NotDialled,
        Err(_) => Outcome::Unreachable,
    }
}

/// Waits until other addresses are listened on; false if there will be none any more.
async fn changed(listen: &mut Option<watch::Receiver<Vec<Multiaddr>>>) -> bool {
    match listen {
        Some(listen) => listen.changed().await.is_ok(),
        None => std::future::pending().await,
    }
}
