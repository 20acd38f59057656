//! The routing table: who gets into it, who stays, and whether this node is in those of others.
//!
//! A peer gets in if identify names our kad protocol, it has answered a question about the DHT, and there are not too
//! many from its part of the internet; kad itself inserts nobody.

use std::collections::BTreeSet;

use libp2p::kad::{Mode, RoutingUpdate};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::core::keyspace::Position;
use crate::core::profile::{NetworkProfile, is_relayed};
use crate::core::routing::diversity::{Subnet, subnets};
use crate::core::routing::liveness::LivenessAction;
use crate::core::routing::mode::Proof;

use super::addresses::{link_local_addrs, plausible};
use super::counters::name;
use super::event_loop::EventLoop;
use super::limits::{MAX_ADMISSION_PROBES, MAX_ADMISSION_PROBES_PER_SUBNET};
use super::probe::{Dialled, Outcome, ProbeKind, Probed, probe};
use super::report::Verdict;

impl EventLoop {
    /// A peer that serves our DHT has told where it listens. If it is in the routing table its addresses there are
    /// replaced; else it is probed, and true is returned: [`Self::on_probed`] follows.
    pub(super) fn route(&mut self, peer: PeerId, listen: &[Multiaddr]) -> bool {
        // What it told before counts no more.
        self.peers.on_placed(&peer, Vec::new());
        // Who has said goodbye tells once more where it listens when its listeners close.
        let Some(known) = self.peers.get(&peer).filter(|known| !known.leaving) else { return false };
        // Who is behind a relay is no use to those who look for a way.
        let listens = known.dialled().chain(listen).filter(|addr| !is_relayed(addr));
        let kept = plausible(listens, &peer, known.scope());
        let addrs = match kept.addrs.is_empty() {
            true => link_local_addrs(known.remote_addrs(), listen, &peer),
            false => kept.addrs,
        };
        self.counters.add(name::ADDRS_DROPPED, kept.dropped);
        if addrs.is_empty() {
            return false;
        }
        if self.is_routed(&peer) {
            self.put_in_table(peer, &addrs);
            return false;
        }
        if !self.has_room_for(&peer, &addrs) {
            return false;
        }
        if let Some(candidate) = self.candidates.get_mut(&peer) {
            *candidate = addrs;
            return true;
        }
        if self.candidates.len() >= MAX_ADMISSION_PROBES || self.is_probing_neighbours(&peer, &addrs) {
            self.counters.count(name::ROUTING_PROBES_REFUSED);
            return false;
        }
        self.candidates.insert(peer, addrs);
        self.start_probe(peer, ProbeKind::Admission, None);
        true
    }

    /// Whether as many peers of the same subnet are being probed as may be.
    fn is_probing_neighbours(&self, peer: &PeerId, addrs: &[Multiaddr]) -> bool {
        let probed: Vec<BTreeSet<Subnet>> =
            self.candidates.iter().map(|(other, addrs)| self.subnets_of(other, addrs)).collect();
        let is_full = |subnet: &Subnet| {
            let neighbours = probed.iter().filter(|subnets| subnets.contains(subnet)).count();
            neighbours >= MAX_ADMISSION_PROBES_PER_SUBNET
        };
        self.subnets_of(peer, addrs).iter().any(is_full)
    }

    fn start_probe(&mut self, peer: PeerId, kind: ProbeKind, dialled: Option<Dialled>) {
        let (control, kad) = (self.swarm.behaviour().streams.control(), self.protocols.kad.clone());
        self.probes.push(Box::pin(probe(peer, kind, dialled, control, kad, self.local)));
    }

    pub(super) fn on_probed(&mut self, probed: Probed) {
        let Probed { peer, kind, outcome } = probed;
        let answered = outcome == Outcome::Answered;
        match kind {
            ProbeKind::Admission => {
                let addrs = self.candidates.remove(&peer).unwrap_or_default();
                let serves = |known: &super::peers::Peer| known.kad && !known.leaving;
                if !answered {
                    self.counters.count(name::ROUTING_SILENT);
                } else if self.peers.get(&peer).is_some_and(serves) && self.has_room_for(&peer, &addrs) {
                    self.put_in_table(peer, &addrs);
                }
                if let Some(identity) = self.identity_of(&peer) {
                    self.dials.on_identified(peer, &identity);
                }
            }
            ProbeKind::Liveness => {
                let others = self.peers.iter().any(|(other, _)| *other != peer);
                let counts = others && outcome != Outcome::NotAsked;
                self.liveness.on_probed(&peer, answered, counts, Instant::now().into_std());
                self.pump_liveness();
            }
        }
    }

    /// Puts a peer into the routing table, or replaces its addresses there as a whole.
    pub(super) fn put_in_table(&mut self, peer: PeerId, addrs: &[Multiaddr]) {
        let addrs: Vec<Multiaddr> =
            addrs.iter().filter_map(|addr| addr.clone().with_p2p(peer).ok()).collect();
        let old = self.routed_addrs(&peer).unwrap_or_default();
        let kad = &mut self.swarm.behaviour_mut().kad;
        for addr in &addrs {
            if kad.add_address(&peer, addr.clone()) == RoutingUpdate::Failed {
                self.counters.count(name::ROUTING_FULL);
                self.peers.on_placed(&peer, addrs);
                return;
            }
        }
        // The new ones first, so that the entry never runs empty and keeps its place.
        for addr in old.iter().filter(|addr| !addrs.contains(addr)) {
            kad.remove_address(&peer, addr);
        }
        self.note_routed(peer, &addrs);
        // It may wait for the place of another that kad is not sure of.
        let without_place = if self.is_routed(&peer) { Vec::new() } else { addrs };
        self.peers.on_placed(&peer, without_place);
    }

    /// Keeps the books about a peer that may be in the table now. One that waited for the place of another takes it long
    /// after it was looked at, so it is looked at again.
    pub(super) fn note_routed(&mut self, peer: PeerId, addrs: &[Multiaddr]) {
        if self.diversity.knows(&peer) || !self.is_routed(&peer) {
            return;
        }
        if self.has_room_for(&peer, addrs) {
            let subnets = self.subnets_of(&peer, addrs);
            self.diversity.on_added(peer, self.bucket_of(&peer), subnets);
            self.liveness.on_added(peer, Instant::now().into_std());
        } else {
            self.swarm.behaviour_mut().kad.remove_peer(&peer);
        }
    }

    fn has_room_for(&mut self, peer: &PeerId, addrs: &[Multiaddr]) -> bool {
        let subnets = self.subnets_of(peer, addrs);
        let has_room = self.diversity.has_room(peer, self.bucket_of(peer), &subnets);
        if !has_room {
            self.counters.count(name::ROUTING_CROWDED);
        }
        has_room
    }

    pub(super) fn subnets_of(&self, peer: &PeerId, told: &[Multiaddr]) -> BTreeSet<Subnet> {
        let connections = self.peers.get(peer).map(|known| known.connections.as_slice()).unwrap_or_default();
        subnets(connections.iter().map(|connection| &connection.addr), told)
    }

    pub(super) fn bucket_of(&self, peer: &PeerId) -> u16 {
        Position::of_peer(&self.local).common_len(&Position::of_peer(peer))
    }

    /// Something came from a peer.
    pub(super) fn heard(&mut self, peer: &PeerId) {
        self.liveness.on_heard(peer, Instant::now().into_std());
    }

    pub(super) fn pump_liveness(&mut self) {
        while let Some(action) = self.liveness.next_action() {
            match action {
                LivenessAction::Probe(peer) => {
                    self.counters.count(name::ROUTING_PROBES);
                    let (reply, dialled) = oneshot::channel();
                    self.connect(peer, Vec::new(), reply);
                    self.start_probe(peer, ProbeKind::Liveness, Some(dialled));
                }
                LivenessAction::Remove(peer) => self.drop_from_table(peer),
            }
        }
    }

    /// A peer of the table does not answer any more. It is dialled again now and then: it may be this node that was cut off.
    pub(super) fn drop_from_table(&mut self, peer: PeerId) {
        let Some(addrs) = self.routed_addrs(&peer) else { return };
        self.swarm.behaviour_mut().kad.remove_peer(&peer);
        self.counters.count(name::ROUTING_DEAD);
        self.lost.on_lost(peer, addrs, Instant::now().into_std());
        self.routing_changed();
        self.fill_place_of(&peer);
    }

    /// Dials some of those that were lost. Who answers identifies itself, and gets into the table as everybody does.
    pub(super) fn dial_lost(&mut self, now: Instant) {
        for (peer, addrs) in self.lost.on_timeout(now.into_std()) {
            self.counters.count(name::LOST_DIALLED);
            // Nobody waits for the answer.
            let (reply, _) = oneshot::channel();
            self.connect(peer, addrs, reply);
        }
    }

    /// Follows the rule for the mode, if this node may serve the DHT at all.
    pub(super) fn update_mode(&mut self) {
        if !self.may_serve {
            return;
        }
        let proof = match self.reachability().verdict {
            Verdict::Reachable => Proof::Reachable,
            Verdict::Unreachable if self.is_shut() => Proof::Shut,
            Verdict::Unreachable => Proof::Unreachable,
            Verdict::Unknown => Proof::None,
        };
        self.follow_mode(NetworkProfile::from_listen_addrs(&self.listen_addrs()), proof);
    }

    /// A peer that was not connected has dialled this node. AutoNAT asks one peer about an address, once, and that peer
    /// may have been cut off or lie: who comes in from outside is the better proof.
    pub(super) fn on_dialled(&mut self) {
        if self.may_serve {
            self.follow_mode(NetworkProfile::from_listen_addrs(&self.listen_addrs()), Proof::Reachable);
            self.update_mode();
        }
    }

    fn follow_mode(&mut self, profile: NetworkProfile, proof: Proof) {
        let before = self.mode.serves();
        self.mode.on_proof(profile, proof, Instant::now().into_std());
        let serves = self.mode.serves();
        if serves != before {
            tracing::info!(serves, "the DHT mode changes: {}", reason(serves));
            self.counters.count(if serves { name::MODE_SERVER } else { name::MODE_CLIENT });
            let mode = if serves { Mode::Server } else { Mode::Client };
            self.swarm.behaviour_mut().kad.set_mode(Some(mode));
        }
    }
}

fn reason(serves: bool) -> &'static str {
    if serves { "others can dial this node again" } else { "nobody could dial this node for long" }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use libp2p::autonat::v2::client::Event;
    use libp2p::{Multiaddr, PeerId};
    use tokio::time::Duration;

    use super::{EventLoop, Mode, NetworkProfile, Outcome, ProbeKind, Probed, Proof};
    use crate::core::routing::mode::PATIENCE;
    use crate::net::counters::name;
    use crate::net::limits::{MAX_ADDRS_PER_PEER, MAX_ADMISSION_PROBES, MAX_ADMISSION_PROBES_PER_SUBNET};
    use crate::net::tests::{arrives, idle_loop};

    fn probed(event_loop: &mut EventLoop, peer: PeerId, kind: ProbeKind, outcome: Outcome) {
        event_loop.on_probed(Probed { peer, kind, outcome });
        event_loop.routing_changed();
    }

    fn admit(event_loop: &mut EventLoop, addr: &str, listen: &str) -> PeerId {
        let peer = PeerId::random();
        if arrives(event_loop, peer, addr, &[listen.parse().unwrap()]) {
            probed(event_loop, peer, ProbeKind::Admission, Outcome::Answered);
        }
        peer
    }

    #[tokio::test]
    async fn a_thousand_names_on_four_subnets_get_twelve_places_in_the_table() {
        let mut event_loop = idle_loop();
        for n in 0..1_000 {
            let (from, says) =
                (format!("/ip4/8.8.{}.{}/tcp/1", n % 4, n / 4), format!("/ip4/{}.1.1.1/tcp/1", 11 + n % 80));
            admit(&mut event_loop, &from, &says);
        }
        assert!((3..=12).contains(&event_loop.routing_len), "{}", event_loop.routing_len);
        assert_eq!(event_loop.diversity.len(), event_loop.routing_len);
        let refused = event_loop.counters.snapshot()[name::ROUTING_CROWDED];
        assert!(refused >= 988, "{refused}");
        let honest = admit(&mut event_loop, "/ip4/11.1.1.1/tcp/1", "/ip4/11.1.1.1/tcp/1");
        assert!(event_loop.is_routed(&honest));
    }

    #[tokio::test]
    async fn nodes_of_one_machine_are_not_counted() {
        let mut event_loop = idle_loop();
        for n in 1..=16 {
            let addr = format!("/ip4/127.0.0.1/tcp/{n}");
            admit(&mut event_loop, &addr, &addr);
        }
        assert_eq!(event_loop.routing_len, 16);
    }

    #[tokio::test]
    async fn who_does_not_answer_gets_no_place_and_only_so_many_are_asked() {
        let mut event_loop = idle_loop();
        let listen: Vec<Multiaddr> =
            (1..30).map(|n| format!("/ip4/10.0.0.1/tcp/{n}").parse().unwrap()).collect();
        let peers: Vec<PeerId> = (0..=MAX_ADMISSION_PROBES).map(|_| PeerId::random()).collect();
        let (last, asked) = peers.split_last().unwrap();
        for peer in asked {
            assert!(arrives(&mut event_loop, *peer, "/ip4/10.0.0.1/tcp/1", &listen));
        }
        assert!(!arrives(&mut event_loop, *last, "/ip4/10.0.0.1/tcp/1", &listen));
        assert_eq!(event_loop.counters.snapshot()[name::ROUTING_PROBES_REFUSED], 1);
        probed(&mut event_loop, peers[0], ProbeKind::Admission, Outcome::Silent);
        probed(&mut event_loop, peers[1], ProbeKind::Admission, Outcome::Answered);
        assert!(!event_loop.is_routed(&peers[0]));
        assert_eq!(event_loop.routed_addrs(&peers[1]).unwrap().len(), MAX_ADDRS_PER_PEER);
        assert_eq!(event_loop.counters.snapshot()[name::ROUTING_SILENT], 1);
    }

    #[tokio::test]
    async fn one_subnet_cannot_take_all_places_of_those_that_are_probed() {
        let mut event_loop = idle_loop();
        let arrive = |event_loop: &mut EventLoop, addr: String| {
            arrives(event_loop, PeerId::random(), &addr, &[addr.parse().unwrap()])
        };
        for subnet in ["/ip4/8.8.8.", "/ip6/2001:4860:4860::"] {
            let probed = (0..80).filter(|n| arrive(&mut event_loop, format!("{subnet}{n}/tcp/1")));
            assert_eq!(probed.count(), MAX_ADMISSION_PROBES_PER_SUBNET, "{subnet}");
        }
        assert!(arrive(&mut event_loop, "/ip4/8.8.9.1/tcp/1".to_owned()));
        let silent = *event_loop.candidates.keys().next().unwrap();
        let addr = event_loop.candidates[&silent][0].to_string();
        probed(&mut event_loop, silent, ProbeKind::Admission, Outcome::Silent);
        assert!(arrive(&mut event_loop, addr), "there is a place again");
    }

    #[tokio::test]
    async fn a_peer_of_the_table_that_is_silent_leaves_after_three_probes() {
        let mut event_loop = idle_loop();
        let addr = "/ip4/127.0.0.1/tcp/1";
        let (gone, other) = (admit(&mut event_loop, addr, addr), admit(&mut event_loop, addr, addr));
        assert!(event_loop.is_routed(&other));
        for outcome in [Outcome::Silent, Outcome::NotAsked, Outcome::Silent] {
            probed(&mut event_loop, gone, ProbeKind::Liveness, outcome);
            assert!(event_loop.is_routed(&gone));
        }
        probed(&mut event_loop, gone, ProbeKind::Liveness, Outcome::Silent);
        assert!(!event_loop.is_routed(&gone) && event_loop.is_routed(&other));
        assert_eq!(event_loop.lost.len(), 1, "it is dialled again some time");
        assert_eq!(event_loop.counters.snapshot()[name::ROUTING_DEAD], 1);
    }

    #[tokio::test]
    async fn a_node_in_a_local_network_serves_even_if_it_is_unreachable() {
        let mut event_loop = idle_loop();
        tokio::time::pause();
        let tested_addr: Multiaddr = "/ip4/8.8.8.8/tcp/1".parse().unwrap();
        for _ in 0..3 {
            event_loop.verdicts.insert(tested_addr.clone(), (false, PeerId::random()));
            event_loop.update_mode();
            tokio::time::advance(PATIENCE + Duration::from_secs(1)).await;
        }
        assert_eq!(event_loop.counters.snapshot()[name::MODE_CLIENT], 0);
        event_loop.on_tested(&Event { tested_addr, bytes_sent: 0, server: PeerId::random(), result: Ok(()) });
        assert!(event_loop.mode.serves());
    }

    #[tokio::test]
    async fn a_node_of_the_internet_that_nobody_can_dial_stops_and_begins_again() {
        let mut event_loop = idle_loop();
        tokio::time::pause();
        for (proof, serves) in [
            (Proof::Unreachable, true),
            (Proof::Unreachable, false),
            (Proof::None, false),
            (Proof::Reachable, true),
        ] {
            event_loop.follow_mode(NetworkProfile::Public, proof);
            assert_eq!(event_loop.mode.serves(), serves, "{proof:?}");
            let kad_mode = event_loop.swarm.behaviour().kad.mode();
            assert_eq!(kad_mode, if serves { Mode::Server } else { Mode::Client });
            tokio::time::advance(PATIENCE).await;
        }
        event_loop.follow_mode(NetworkProfile::Public, Proof::Unreachable);
        arrives(&mut event_loop, PeerId::random(), "/ip4/10.0.0.1/tcp/1", &[]);
        assert!(event_loop.mode.next_deadline().is_some(), "a neighbour proves nothing");
        arrives(&mut event_loop, PeerId::random(), "/ip4/8.8.8.8/tcp/1", &[]);
        assert_eq!(event_loop.mode.next_deadline(), None, "dialled by somebody from outside");
        let counters = event_loop.counters.snapshot();
        assert_eq!((counters[name::MODE_CLIENT], counters[name::MODE_SERVER]), (1, 1));
    }
}
