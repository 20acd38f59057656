//! Records in bulk: what the provide protocol asks of the store, and the lookups that announcements need.

use dhtfs_store::ContentCid;
use libp2p::kad::{GetClosestPeersError, GetClosestPeersResult, QueryId};
use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use super::addresses::{Scope, plausible};
use super::command::{RecordsAsk, Reply, RoutingPeers};
use super::counters::name;
use super::error::ClosestError;
use super::event_loop::EventLoop;
use super::kad::{digest_key, record_key};
use super::provide::wire::Answer;
use super::records::{Admission, Digest};

impl EventLoop {
    /// Looks for the peers closest to a key.
    pub(super) fn closest_peers(
        &mut self,
        digest: &Digest,
        reply: Reply<Result<RoutingPeers, ClosestError>>,
    ) {
        if self.pending.closest.len() >= self.limits.max_closest {
            self.counters.count(name::CLOSEST_REFUSED);
            // A caller that has gone is normal.
            let _ = reply.send(Err(ClosestError::TooMany));
            return;
        }
        let query = self.swarm.behaviour_mut().kad.get_closest_peers(digest_key(digest));
        self.counters.count(name::CLOSEST);
        self.pending.closest.insert(query, reply);
    }

    pub(super) fn on_closest(&mut self, id: QueryId, result: GetClosestPeersResult, requests: u32) {
        let Some(reply) = self.pending.closest.remove(&id) else { return };
        self.counters.add(name::CLOSEST_REQUESTS, usize::try_from(requests).unwrap_or(usize::MAX));
        let peers = match result {
            Ok(found) => found.peers,
            // Those that were found in time may be the closest or not.
            Err(GetClosestPeersError::Timeout { .. }) => {
                // A caller that has gone is normal.
                let _ = reply.send(Err(ClosestError::Timeout));
                return;
            }
        };
        let mut closest = Vec::with_capacity(peers.len());
        let local = self.local;
        for found in peers.into_iter().filter(|found| found.peer_id != local) {
            closest.push((found.peer_id, self.dialable(found.peer_id, &found.addrs)));
        }
        // A caller that has gone is normal.
        let _ = reply.send(Ok(closest));
    }

    fn dialable(&mut self, peer: PeerId, addrs: &[Multiaddr]) -> Vec<Multiaddr> {
        let kept = plausible(addrs, &peer, Scope::Loopback);
        self.counters.add(name::ADDRS_DROPPED, kept.dropped);
        kept.addrs
    }

    /// What a peer says about its own records.
    pub(super) fn records_asked(&mut self, peer: PeerId, ask: RecordsAsk) -> Answer {
        match ask {
            RecordsAsk::Add { addrs, digests } => self.take_records(peer, &addrs, &digests),
            RecordsAsk::Remove(digests) => {
                let records = self.swarm.behaviour_mut().kad.store_mut();
                let removed: Vec<bool> =
                    digests.iter().map(|digest| records.withdraw(&peer, digest)).collect();
                self.counters.add(name::RECORDS_WITHDRAWN, removed.iter().filter(|gone| **gone).count());
                Answer::Done(removed)
            }
            RecordsAsk::Held(digests) => {
                let records = self.swarm.behaviour_mut().kad.store_mut();
                Answer::Done(digests.iter().map(|digest| records.holds(&peer, digest)).collect())
            }
            RecordsAsk::Away => {
                self.on_goodbye(peer);
                Answer::Done(Vec::new())
            }
        }
    }

    fn take_records(&mut self, peer: PeerId, addrs: &[Multiaddr], digests: &[Digest]) -> Answer {
        let Some(offer) = self.offer_of(peer, addrs) else { return Answer::Busy };
        let now = Instant::now();
        let admissions: Vec<Admission> =
            digests.iter().map(|digest| self.take_record(&offer, Some(*digest), now)).collect();
        if admissions.iter().all(|admission| *admission == Admission::TooFast) {
            return Answer::Busy;
        }
        Answer::Done(admissions.into_iter().map(Admission::is_held).collect())
    }

    /// A peer is about to end: nobody is sent to it any more, until it is back.
    fn on_goodbye(&mut self, peer: PeerId) {
        self.counters.count(name::GOODBYES);
        self.peers.on_goodbye(&peer);
        self.book.forget(&peer);
        let kad = &mut self.swarm.behaviour_mut().kad;
        kad.store_mut().away(&peer);
        kad.remove_peer(&peer);
        self.routing_changed();
    }

    /// The own record of each key. A node that nobody has in its table yet is found by those who ask it.
    pub(super) fn hold(&mut self, cids: &[ContentCid]) {
        let mut refused = 0;
        let records = self.swarm.behaviour_mut().kad.store_mut();
        for cid in cids {
            refused += usize::from(!records.hold(cid.digest()));
        }
        self.counters.add(name::PROVIDES_REFUSED, refused);
    }

    pub(super) fn stop_providing(&mut self, cid: ContentCid) {
        self.swarm.behaviour_mut().kad.stop_providing(&record_key(cid));
    }
}
