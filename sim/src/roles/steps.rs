//! What a hostile peer does without being asked.

use std::time::Duration;

use libp2p::{Multiaddr, PeerId, kad::RecordKey};
use tokio::time::Instant;

use super::{
    counters::add,
    deceit,
    hostile::{Attacker, FOREVER, lock},
    kind::Hostile,
    swarm::JOIN_AGAIN,
    wire::{Message, WirePeer},
};

/// Forged records that one peer gets in a row, and peers that get them in a second.
const FORGED_BATCH: usize = 8;
const FORGED_PEERS: usize = 4;

/// Peers flooded at the same time.
const MAX_FLOODED: usize = 64;

/// Announcements under way, and the pause between two looks at them.
const MAX_ANNOUNCING: usize = 8;
const ANNOUNCE_PAUSE: Duration = Duration::from_millis(250);

/// Pause between two announcements of everything.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(600);

/// Pause between two steps of an attack that does not wait to be asked.
const STEP: Duration = Duration::from_secs(1);

/// Steps of a flood between two walks that look for more peers.
const WALK_EVERY: u64 = 30;

/// Junk addresses named at a time; identify carries no more than some dozen.
const JUNK_LEN: usize = 15;

/// Peers that are told of them in a second.
const TOLD_PEERS: usize = 32;

impl Attacker {
    /// Does what is due by itself; returns when to come again.
    pub(super) fn step(&mut self) -> Duration {
        let Some(announce_at) = self.announce_at else {
            self.engine.join();
            return JOIN_AGAIN;
        };
        self.steps += 1;
        let announces = self.kind.is_some_and(Hostile::announces);
        if announces {
            self.announce();
        }
        let acts = match self.kind {
            Some(Hostile::ForgesProviders) => self.forge(),
            Some(Hostile::FloodsRecords) => self.flood(),
            Some(Hostile::RotatesAddresses) => self.rotate(),
            _ => false,
        };
        if !self.waiting.is_empty() {
            ANNOUNCE_PAUSE
        } else if acts {
            // Those who act need somebody to act upon.
            self.engine.join();
            STEP
        } else if announces {
            announce_at.saturating_duration_since(Instant::now()).max(STEP)
        } else {
            FOREVER
        }
    }

    fn announce(&mut self) {
        let now = Instant::now();
        if self.announce_at.is_some_and(|at| at <= now) && self.waiting.is_empty() {
            let keys = self.targets.content.iter().map(|cid| RecordKey::new(&cid.multihash_bytes()));
            self.waiting = keys.collect();
            self.announce_at = Some(now + ANNOUNCE_AGAIN);
        }
        while self.announcing.len() < MAX_ANNOUNCING {
            let Some(key) = self.waiting.pop_front() else { return };
            if let Ok(query) = self.engine.swarm.behaviour_mut().kad.start_providing(key) {
                self.announcing.insert(query);
            }
        }
    }

    /// The next few servers in turn.
    fn some_servers(&self, n: usize) -> Vec<PeerId> {
        let len = self.engine.servers.len();
        let start = usize::try_from(self.steps).unwrap_or(0).wrapping_mul(n) % len.max(1);
        self.engine.servers.iter().cycle().skip(start).take(n.min(len)).copied().collect()
    }

    fn forge(&mut self) -> bool {
        for peer in self.some_servers(FORGED_PEERS) {
            self.engine.swarm.behaviour_mut().streams.open(peer);
        }
        true
    }

    /// Records of its own, then in the names of others, for the targets in turn.
    pub(super) fn forged_records(&mut self, to: PeerId) -> Vec<Message> {
        let own = self.own();
        let others: Vec<PeerId> = self.engine.servers.iter().filter(|peer| **peer != to).copied().collect();
        let keys = self.targets.content.iter().cycle().skip(usize::try_from(self.steps).unwrap_or(0));
        let keys: Vec<Vec<u8>> = keys.take(FORGED_BATCH).map(|cid| cid.multihash_bytes().to_vec()).collect();
        let mut records = Vec::new();
        for (index, key) in keys.into_iter().enumerate() {
            let provider = match others.get(index % others.len().max(1)) {
                Some(other) if index % 2 == 1 => WirePeer { id: *other, addrs: own.addrs.clone() },
                _ => own.clone(),
            };
            records.push(deceit::record(key, provider));
        }
        records
    }

    fn flood(&mut self) -> bool {
        let mut flooded = lock(&self.flooded);
        for peer in &self.engine.servers {
            if flooded.len() >= MAX_FLOODED {
                break;
            }
            if flooded.insert(*peer) {
                self.engine.swarm.behaviour_mut().streams.open(*peer);
            }
        }
        if self.steps.is_multiple_of(WALK_EVERY) {
            let somewhere = deceit::random_multihash(&mut self.rng);
            self.engine.swarm.behaviour_mut().kad.get_closest_peers(somewhere);
        }
        true
    }

    fn rotate(&mut self) -> bool {
        self.change_listener();
        for old in std::mem::take(&mut self.junk) {
            self.engine.swarm.remove_external_address(&old);
        }
        let others = self.addrs_of_others();
        for index in 0..JUNK_LEN {
            let addr = deceit::junk_addr(index, self.own_form().as_ref(), &others, &mut self.rng);
            self.engine.swarm.add_external_address(addr.clone());
            self.junk.push(addr);
        }
        add(&self.means.counters.addrs_told, JUNK_LEN);
        let told = self.some_servers(TOLD_PEERS);
        self.engine.swarm.behaviour_mut().identify.push(told);
        true
    }

    /// Goes on to the next address. With a single one it stays there: it cannot be listened on twice.
    fn change_listener(&mut self) {
        if self.next_listens.len() < 2 {
            return;
        }
        let Some(addr) = self.next_listens.pop_front() else { return };
        let swarm = &mut self.engine.swarm;
        // An address that is not free yet comes round again.
        if let Ok(id) = swarm.listen_on(addr.clone()) {
            for old in self.engine.listeners.drain(..) {
                swarm.remove_listener(old);
            }
            self.engine.listeners.push(id);
        }
        self.next_listens.push_back(addr);
    }

    /// An address of the form that this network uses.
    fn own_form(&self) -> Option<Multiaddr> {
        self.engine.swarm.listeners().next().cloned()
    }

    fn addrs_of_others(&mut self) -> Vec<(PeerId, Multiaddr)> {
        let kad = &mut self.engine.swarm.behaviour_mut().kad;
        let mut others = Vec::new();
        for bucket in kad.kbuckets() {
            for entry in bucket.iter() {
                others.push((*entry.node.key.preimage(), entry.node.value.first().clone()));
            }
        }
        others
    }

    pub(super) fn own(&self) -> WirePeer {
        let swarm = &self.engine.swarm;
        WirePeer { id: *swarm.local_peer_id(), addrs: swarm.external_addresses().cloned().collect() }
    }
}
