//! Whether and how others reach this node: what is seen and tried is handed to the machines of [`crate::core::reach`], what they
//! want is done.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::Duration,
};

use libp2p::{
    Multiaddr, PeerId,
    core::transport::ListenerId,
    identify::Info,
    multiaddr::Protocol,
    relay,
    swarm::{ConnectionId, DialError, FromSwarm, NetworkBehaviour as _, behaviour::NewExternalAddrCandidate},
};
use tokio::{sync::watch, time::Instant};

use crate::core::{
    profile::{NetworkProfile, is_relayed, scope},
    reach::{Assessment, Facts, Observed, Reach, Relays, RelaysAction, RelaysConfig},
};

use super::{
    addresses::without_peer, event_loop::EventLoop, limits::MAX_NAT_VERDICTS, peers::Peer, report::RelayUse,
};

/// How long a router lets in who was sent something: RFC 5382 has two hours for a connection that stands, RFC 4787 two minutes for
/// UDP.
const LET_IN: Duration = Duration::from_secs(10 * 60);

/// How many addresses somebody has to come in from to prove that anybody can: one may have been dialled at the same time.
const COME_IN: usize = 2;

/// How long no way past a relay is waited for after none was found.
const NO_WAY: Duration = Duration::from_secs(10 * 60);

/// Peers of which that is remembered.
const MAX_NO_WAY: usize = 256;

/// Addresses that are remembered as dialled.
const MAX_DIALLED: usize = 512;

/// A listener at a relay.
#[derive(Debug)]
pub(super) struct RelayListener {
    pub(super) id: ListenerId,
    pub(super) relay: PeerId,
    /// Addresses that have come up, repeated ones counted.
    pub(super) addrs: u32,
}

/// The state of it.
#[derive(Debug)]
pub(super) struct Reaching {
    reach: Reach,
    observed: Observed,
    pub(super) relays: Relays,
    /// Listeners at relays, as few as are wanted.
    pub(super) listeners: Vec<RelayListener>,
    /// Peers behind a relay that were dialled past it since they were connected.
    pub(super) dialled_past: BTreeSet<PeerId>,
    /// Verdicts from before this node was in another network: AutoNAT asks about an address only once.
    before: Vec<(Multiaddr, (bool, PeerId))>,
    /// Peers that are connected through a relay only, while a way past it is looked for: the connection, and until when.
    /// Never more than there are connections.
    pub(super) punching: BTreeMap<PeerId, (ConnectionId, Instant)>,
    /// Who has come in from the internet by himself, at most [`COME_IN`].
    came_in: BTreeSet<IpAddr>,
    /// Peers to which no way past a relay was found, and until when it is not waited for again.
    no_way: VecDeque<(PeerId, Instant)>,
    /// Whom this node has dialled lately: they come in although others cannot.
    dialled: Dialled,
    /// Somebody on the internet was connected.
    knows_internet: bool,
    /// Whether this node carries connections of others, and if so, whether also before anybody has dialled it.
    carries: Option<bool>,
    /// Whether it offers that now.
    is_offering: bool,
    /// Whether others are to reach it at all.
    serves: bool,
    for_strangers: watch::Sender<Vec<Multiaddr>>,
}

impl Reaching {
    pub(super) fn new(carries: Option<bool>, serves: bool, seed: u64) -> Self {
        let now = Instant::now().into_std();
        Self {
            reach: Reach::new(now),
            observed: Observed::default(),
            relays: Relays::new(RelaysConfig::default(), seed, now),
            listeners: Vec::new(),
            dialled_past: BTreeSet::new(),
            before: Vec::new(),
            punching: BTreeMap::new(),
            came_in: BTreeSet::new(),
            no_way: VecDeque::new(),
            dialled: Dialled::default(),
            knows_internet: false,
            carries,
            is_offering: carries == Some(true),
            serves,
            for_strangers: watch::Sender::new(Vec::new()),
        }
    }

    /// The addresses at which nodes of the internet can reach this one, as they change.
    pub(super) fn told(&self) -> watch::Receiver<Vec<Multiaddr>> {
        self.for_strangers.subscribe()
    }

    /// When [`EventLoop::reach_timed_out`] is due.
    pub(super) fn next_deadline(&self) -> Option<std::time::Instant> {
        let punching = self.punching.values().map(|(_, until)| until.into_std()).min();
        let reach = if self.serves { self.reach.next_deadline() } else { None };
        [punching, self.relays.next_deadline(), reach].into_iter().flatten().min()
    }

    pub(super) fn assessment(&self) -> &Assessment {
        self.reach.assessment()
    }
}

impl EventLoop {
    /// What is known now. Relays are asked for or given up, and others told, as that wants it.
    pub(super) fn update_reach(&mut self) {
        if !self.reach.serves {
            return;
        }
        let (now, facts) = (Instant::now().into_std(), self.reach_facts());
        if self.reach.reach.on_facts(&facts, now) {
            let Assessment { way, is_settled, why, .. } = self.reach.assessment();
            tracing::info!(way = way.name(), is_settled, "how others reach this node: {why}");
        }
        if self.is_shut() {
            self.update_mode();
        }
        let wants = self.reach.reach.wants_relays(&facts, now);
        self.reach.relays.on_wanted(wants, now);
        self.offer_to_carry(facts.was_dialled || (facts.proven.is_some() && facts.proven_is_own));
        self.pump_relays();
        self.choose_addrs(wants);
        self.tell_strangers();
    }

    /// Whether it is settled that nobody gets in without help.
    pub(super) fn is_shut(&self) -> bool {
        let Assessment { way, is_settled, .. } = self.reach.assessment();
        *is_settled && way.needs_help()
    }

    /// Sees that others are told of those addresses that are good for something: not of those of the internet at which nobody gets
    /// in, and of the relays that carry most.
    fn choose_addrs(&mut self, wants_relays: bool) {
        let is_shut = self.is_shut();
        let own = self.announced.iter().filter(|addr| scope(addr) == Some(NetworkProfile::Public));
        let own = own.map(|addr| (addr.clone(), !is_shut));
        let relays = self.reach.relays.reserved().map(|(peer, addr)| {
            let circuit = addr.clone().with(Protocol::P2p(*peer)).with(Protocol::P2pCircuit);
            let is_wanted = wants_relays && self.reach.relays.is_worth_telling(peer);
            (circuit.with(Protocol::P2p(self.local)), is_wanted)
        });
        let told: BTreeSet<Multiaddr> = self.swarm.external_addresses().cloned().collect();
        let wrong = |(addr, is_wanted): &(Multiaddr, bool)| told.contains(addr) != *is_wanted;
        let changes: Vec<(Multiaddr, bool)> = own.chain(relays).filter(wrong).collect();
        for (addr, is_wanted) in &changes {
            match is_wanted {
                true => self.swarm.add_external_address(addr.clone()),
                false => self.swarm.remove_external_address(addr),
            }
        }
        if !changes.is_empty() {
            let connected: Vec<PeerId> = self.peers.iter().map(|(peer, _)| *peer).collect();
            self.swarm.behaviour_mut().identify.push(connected);
        }
    }

    fn reach_facts(&self) -> Facts {
        let listen = self.listen_addrs();
        let of_internet = |addr: &&Multiaddr| scope(addr) == Some(NetworkProfile::Public);
        let tested = |wanted: bool| {
            let verdicts = self.verdicts.iter().filter(move |(_, (reachable, _))| *reachable == wanted);
            verdicts.map(|(addr, _)| addr).filter(of_internet)
        };
        let proven = tested(true).max_by_key(|addr| listen.contains(addr)).cloned();
        Facts {
            listens_publicly: listen.iter().any(|addr| of_internet(&addr)),
            proven_is_own: proven.as_ref().is_some_and(|addr| listen.contains(addr)),
            proven,
            was_dialled: self.reach.came_in.len() >= COME_IN,
            refuted: tested(false).count(),
            knows_internet: self.reach.knows_internet,
            mapping: self.reach.observed.mapping(),
            relays: self.reach.relays.reserved().count(),
            is_hopeful: self.reach.relays.is_hopeful(),
        }
    }

    /// Offers others to carry their connections, if this node is to do that at all and can be reached.
    fn offer_to_carry(&mut self, is_reachable: bool) {
        let Some(always) = self.reach.carries else { return };
        let is_offering = always || is_reachable;
        if is_offering == self.reach.is_offering {
            return;
        }
        self.reach.is_offering = is_offering;
        if let Some(server) = self.swarm.behaviour_mut().relay_server.as_mut() {
            tracing::info!(is_offering, "carrying connections of others");
            let status = if is_offering { relay::Status::Enable } else { relay::Status::Disable };
            server.set_status(Some(status));
        }
    }

    fn pump_relays(&mut self) {
        while let Some(action) = self.reach.relays.next_action() {
            let RelaysAction::Reserve { peer, addr } = action;
            self.reserve(peer, addr);
        }
    }

    fn reserve(&mut self, peer: PeerId, addr: Multiaddr) {
        let waits = self.reach.listeners.iter().any(|listener| listener.relay == peer);
        let circuit = addr.with(Protocol::P2p(peer)).with(Protocol::P2pCircuit);
        let listener = if waits { None } else { self.swarm.listen_on(circuit).ok() };
        match listener {
            Some(id) => self.reach.listeners.push(RelayListener { id, relay: peer, addrs: 0 }),
            None => self.reach.relays.on_closed(&peer, Instant::now().into_std()),
        }
    }

    /// Tells those who announce, if the addresses for nodes of the internet have changed.
    fn tell_strangers(&mut self) {
        let mut addrs = self.external_addrs();
        addrs.retain(|addr| scope(addr) == Some(NetworkProfile::Public));
        self.reach.for_strangers.send_if_modified(|told| {
            let is_new = *told != addrs;
            *told = addrs;
            is_new
        });
    }

    pub(super) fn reach_timed_out(&mut self, now: Instant) {
        let late = self.reach.punching.iter().filter(|(_, (_, until))| *until <= now);
        let late: Vec<PeerId> = late.map(|(peer, _)| *peer).collect();
        for peer in late {
            self.punch_ended(peer);
        }
        self.reach.relays.on_timeout(now.into_std());
        self.update_reach();
    }

    /// Somebody on the internet is connected, at `addr`; `came_in` if he has dialled.
    pub(super) fn internet_seen(&mut self, addr: &Multiaddr, came_in: bool) {
        let (ip, now) = (ip(addr), Instant::now());
        let came_in = came_in && !self.reach.dialled.knows(ip, now) && self.listens_publicly(ip);
        if !came_in {
            self.reach.dialled.note(ip, now);
        }
        let is_one_more = match ip.filter(|_| came_in && self.reach.came_in.len() < COME_IN) {
            Some(ip) => self.reach.came_in.insert(ip),
            None => false,
        };
        let is_new = !self.reach.knows_internet || is_one_more;
        self.reach.knows_internet = true;
        if is_new {
            self.update_reach();
        }
    }

    /// Whether this node listens on an address of the internet of the same family, or of none at all: then a router hands on what
    /// comes in.
    fn listens_publicly(&self, ip: Option<IpAddr>) -> bool {
        let listen = self.listen_addrs();
        let public = listen.iter().filter(|addr| scope(addr) == Some(NetworkProfile::Public));
        let families: BTreeSet<bool> = public.filter_map(self::ip).map(|ip| ip.is_ipv4()).collect();
        families.is_empty() || ip.is_some_and(|ip| families.contains(&ip.is_ipv4()))
    }

    /// A peer tells where it sees this node, and what it offers.
    pub(super) fn reach_identified(&mut self, peer: PeerId, id: ConnectionId, info: &Info) {
        let Some(known) = self.peers.get(&peer) else { return };
        let connection = known.connections.iter().find(|connection| connection.id == id);
        let observer =
            connection.filter(|connection| connection.shows_port).and_then(|connection| ip(&connection.addr));
        let offers = info.protocols.contains(&relay::HOP_PROTOCOL_NAME);
        let (at, now) = (self.relay_addr(&peer), Instant::now().into_std());
        match (offers, at) {
            (true, Some(addr)) => {
                let ip = ip(&addr);
                self.reach.relays.on_offer(peer, addr, ip, now);
            }
            _ => self.reach.relays.on_withdrawn(&peer, now),
        }
        let seen = without_peer(&info.observed_addr, &self.local);
        let seen = seen.filter(|addr| scope(addr) == Some(NetworkProfile::Public));
        if let (Some(observer), Some(seen)) = (observer, seen)
            && self.peers.take_observation(&peer, id)
        {
            let agreed = self.reach.observed.on_observed(observer, &seen);
            self.remember_verdict(&seen);
            let behaviour = self.swarm.behaviour_mut();
            behaviour.punch.suggest(&seen);
            if let Some(agreed) = agreed {
                tracing::debug!(addr = %agreed, "two peers see this node at the same address");
                let candidate = NewExternalAddrCandidate { addr: &agreed };
                behaviour.nat_client.on_swarm_event(FromSwarm::NewExternalAddrCandidate(candidate));
            }
        }
        self.dial_past_relay(peer, &info.listen_addrs);
        self.update_reach();
    }

    /// Where a connected peer can be reached by others on the internet: a relay elsewhere is of no use.
    fn relay_addr(&mut self, peer: &PeerId) -> Option<Multiaddr> {
        let dialled: Vec<Multiaddr> = self.peers.get(peer)?.dialled().cloned().collect();
        let routed = self.routed_addrs(peer).unwrap_or_default();
        let public = |addr: &Multiaddr| scope(addr) == Some(NetworkProfile::Public) && !is_relayed(addr);
        let addr = dialled.into_iter().chain(routed).find(public)?;
        without_peer(&addr, peer)
    }

    /// The listeners have changed; `before` was told to others until now. In another network everything is found out anew.
    pub(super) fn reach_listens(&mut self, before: &[Multiaddr]) {
        for is_ipv4 in [true, false] {
            if has_moved(before, &self.announced, is_ipv4) {
                self.family_moved(is_ipv4);
            }
        }
        for addr in self.announced.clone() {
            self.remember_verdict(&addr);
        }
        self.update_reach();
    }

    /// This node has other addresses of one family: what was found out about the old ones says nothing any more.
    fn family_moved(&mut self, is_ipv4: bool) {
        tracing::info!(is_ipv4, "this node is in another network now");
        let is_of_it = |addr: &Multiaddr| ip(addr).is_some_and(|ip| ip.is_ipv4() == is_ipv4);
        let (gone, kept) =
            std::mem::take(&mut self.verdicts).into_iter().partition(|(addr, _)| is_of_it(addr));
        self.verdicts = kept;
        let gone: BTreeMap<Multiaddr, (bool, PeerId)> = gone;
        for addr in gone.keys().filter(|addr| !self.announced.contains(addr)) {
            self.swarm.remove_external_address(addr);
        }
        self.reach.before.extend(gone);
        let too_many = self.reach.before.len().saturating_sub(MAX_NAT_VERDICTS);
        self.reach.before.drain(..too_many);
        self.swarm.behaviour_mut().nat_client.forget();
        self.reach.observed.on_moved();
        self.reach.reach.on_moved(Instant::now().into_std());
        self.reach.came_in.clear();
        self.reach.knows_internet = false;
        // The system tells nobody that what left by the old address will never be answered.
        let is_lost = |peer: &Peer| peer.is_far() && peer.remote_addrs().all(|(addr, _)| is_of_it(addr));
        let lost: Vec<PeerId> =
            self.peers.iter().filter(|(_, peer)| is_lost(peer)).map(|(peer, _)| *peer).collect();
        for peer in lost {
            // An error means that it is disconnected already.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    /// An address is this node's again: what others found out about it before holds, since AutoNAT will not ask again.
    fn remember_verdict(&mut self, addr: &Multiaddr) {
        let Some(place) = self.reach.before.iter().position(|(known, _)| known == addr) else { return };
        let (addr, verdict) = self.reach.before.swap_remove(place);
        if verdict.0 {
            self.swarm.add_external_address(addr.clone());
        }
        self.verdicts.entry(addr).or_insert(verdict);
    }

    /// A dial to the internet has failed: the router before this node may let in from there all the same.
    pub(super) fn internet_dialled(&mut self, error: &DialError) {
        let now = Instant::now();
        let addrs: Vec<&Multiaddr> = match error {
            DialError::Transport(tried) => tried.iter().map(|(addr, _)| addr).collect(),
            DialError::WrongPeerId { address, .. } => vec![address],
            _ => return,
        };
        for addr in addrs.into_iter().filter(|addr| scope(addr) == Some(NetworkProfile::Public)) {
            self.reach.dialled.note(ip(addr), now);
        }
    }

    /// How much is carried by relays and how, for reports.
    pub(super) fn relay_use(&self) -> RelayUse {
        let reserved = self.reach.relays.reserved();
        RelayUse {
            reserved: reserved.map(|(peer, addr)| (*peer, addr.clone())).collect(),
            on_offer: self.reach.relays.len(),
            is_offering: self.reach.is_offering && self.reach.carries.is_some(),
        }
    }

    /// The mapping of the NAT, and how others reach this node.
    pub(super) fn reached(&self) -> (crate::core::reach::Mapping, Assessment) {
        (self.reach.observed.mapping(), self.reach.assessment().clone())
    }
}

impl Reaching {
    /// No way past a relay to this peer was found.
    pub(super) fn note_no_way(&mut self, peer: PeerId, now: Instant) {
        self.no_way.retain(|(other, until)| *other != peer && *until > now);
        if self.no_way.len() >= MAX_NO_WAY {
            self.no_way.pop_front();
        }
        self.no_way.push_back((peer, now + NO_WAY));
    }

    /// Whether none was found lately.
    pub(super) fn has_no_way(&self, peer: &PeerId, now: Instant) -> bool {
        self.no_way.iter().any(|(other, until)| other == peer && *until > now)
    }
}

/// Addresses of the internet that were dialled lately. A router lets in who was sent something, also where it keeps out
/// everybody else.
#[derive(Debug, Default)]
struct Dialled(VecDeque<(IpAddr, Instant)>);

impl Dialled {
    fn note(&mut self, ip: Option<IpAddr>, now: Instant) {
        let Some(ip) = ip else { return };
        self.0.retain(|(known, at)| *known != ip && *at + LET_IN > now);
        if self.0.len() >= MAX_DIALLED {
            self.0.pop_front();
        }
        self.0.push_back((ip, now));
    }

    /// Whether the address was dialled lately, or nobody can tell.
    fn knows(&self, ip: Option<IpAddr>, now: Instant) -> bool {
        let Some(ip) = ip else { return true };
        self.0.iter().any(|(known, at)| *known == ip && *at + LET_IN > now)
    }
}

/// Whether no address of a family is left that was there before: the machine was carried somewhere else, its provider has given it
/// another network, or the cable is out. Addresses of this machine only do not count.
fn has_moved(before: &[Multiaddr], now: &[Multiaddr], is_ipv4: bool) -> bool {
    let ips = |addrs: &[Multiaddr]| -> BTreeSet<IpAddr> {
        let ips = addrs.iter().filter_map(ip);
        ips.filter(|ip| ip.is_ipv4() == is_ipv4 && !ip.is_loopback()).collect()
    };
    let (before, now) = (ips(before), ips(now));
    !before.is_empty() && before.is_disjoint(&now)
}

fn ip(addr: &Multiaddr) -> Option<IpAddr> {
    match addr.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "the addresses are written down here")]

    use libp2p::core::ConnectedPoint;

    use super::*;
    use crate::net::tests::idle_loop;

    fn comes_in(event_loop: &mut EventLoop, id: usize, from: &str) {
        let endpoint = ConnectedPoint::Listener {
            local_addr: "/ip4/9.9.9.9/tcp/4343".parse().unwrap(),
            send_back_addr: from.parse().unwrap(),
        };
        event_loop.on_established(PeerId::random(), ConnectionId::new_unchecked(id), &endpoint);
    }

    #[tokio::test(start_paused = true)]
    async fn two_that_were_not_dialled_prove_by_coming_in_that_anybody_can() {
        let mut event_loop = idle_loop();
        let failed = DialError::WrongPeerId {
            obtained: PeerId::random(),
            address: "/ip4/8.8.8.3/tcp/1".parse().unwrap(),
        };
        event_loop.internet_dialled(&failed);
        for (id, from) in (0..).zip(["/ip4/8.8.8.1/tcp/1", "/ip4/8.8.8.1/tcp/2", "/ip4/8.8.8.3/tcp/1"]) {
            comes_in(&mut event_loop, id, from);
            assert!(!event_loop.reach_facts().was_dialled, "{from}");
        }
        comes_in(&mut event_loop, 9, "/ip4/10.0.0.1/tcp/1");
        assert!(!event_loop.reach_facts().was_dialled, "from the local network");
        comes_in(&mut event_loop, 10, "/ip4/8.8.8.2/tcp/1");
        assert!(event_loop.reach_facts().was_dialled);
        event_loop.family_moved(true);
        assert!(!event_loop.reach_facts().was_dialled);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_found_out_about_an_address_holds_when_it_is_there_again() {
        let mut event_loop = idle_loop();
        let addr: Multiaddr = "/ip4/9.9.9.9/tcp/4343".parse().unwrap();
        event_loop.verdicts.insert(addr.clone(), (true, PeerId::random()));
        assert_eq!(event_loop.reach_facts().proven, Some(addr.clone()));
        event_loop.family_moved(false);
        assert!(event_loop.reach_facts().proven.is_some(), "the other family");
        event_loop.family_moved(true);
        assert_eq!(event_loop.reach_facts().proven, None);
        event_loop.remember_verdict(&"/ip4/9.9.9.9/tcp/1".parse().unwrap());
        assert_eq!(event_loop.reach_facts().proven, None);
        event_loop.remember_verdict(&addr);
        assert_eq!(event_loop.reach_facts().proven, Some(addr));
        for n in 0..100 {
            let addr = format!("/ip4/9.9.9.9/tcp/{}", n + 1).parse().unwrap();
            event_loop.verdicts.insert(addr, (true, PeerId::random()));
            event_loop.family_moved(true);
        }
        assert_eq!(event_loop.reach.before.len(), MAX_NAT_VERDICTS);
    }

    #[test]
    fn who_was_dialled_lately_proves_nothing_by_coming_in() {
        let (mut dialled, now) = (Dialled::default(), Instant::now());
        let at = |n: u16| Some(IpAddr::from([9, 9, n.to_be_bytes()[0], n.to_be_bytes()[1]]));
        dialled.note(at(1), now);
        assert!(dialled.knows(at(1), now) && !dialled.knows(at(2), now) && dialled.knows(None, now));
        assert!(!dialled.knows(at(1), now + LET_IN));
        for n in 0..2_000 {
            dialled.note(at(n), now);
            dialled.note(at(n), now);
        }
        assert_eq!(dialled.0.len(), MAX_DIALLED);
        assert!(dialled.knows(at(1_999), now));
    }

    #[test]
    fn only_who_keeps_no_address_of_a_family_has_moved() {
        let addrs =
            |texts: &[&str]| -> Vec<Multiaddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let moved =
            |before: &[Multiaddr], now: &[Multiaddr]| [true, false].map(|v4| has_moved(before, now, v4));
        let home = addrs(&["/ip4/192.168.1.2/tcp/1", "/ip6/2a00::2/tcp/1"]);
        assert_eq!(moved(&[], &home), [false, false], "the first addresses");
        assert_eq!(
            moved(&addrs(&["/ip4/127.0.0.1/tcp/1"]), &home),
            [false, false],
            "the first of the network"
        );
        assert_eq!(moved(&home, &home), [false, false]);
        assert_eq!(moved(&home, &addrs(&["/ip4/192.168.1.2/tcp/9", "/ip6/2a00::2/tcp/1"])), [false, false]);
        assert_eq!(moved(&home, &addrs(&["/ip4/10.0.0.2/tcp/1", "/ip6/2a00::2/tcp/1"])), [true, false]);
        assert_eq!(moved(&home, &home[..1]), [false, true], "IPv6 has gone");
        assert_eq!(moved(&home, &[]), [true, true], "the cable is out");
        let more = addrs(&["/ip4/192.168.1.2/tcp/1", "/ip6/2a00::2/tcp/1", "/ip6/2a00::3/tcp/1"]);
        assert_eq!(moved(&more, &home), [false, false], "a temporary address has ended");
    }
}
