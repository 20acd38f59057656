//! Records in bulk: what the provide protocol asks of the store.

use dhtfs_store::ContentCid;
use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use super::command::RecordsAsk;
use super::counters::name;
use super::event_loop::EventLoop;
use super::kad::record_key;
use super::provide::wire::Answer;
use super::records::{Admission, Digest};

impl EventLoop {
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
        self.lost.on_connected(&peer);
        let was_routed = self.is_routed(&peer);
        let kad = &mut self.swarm.behaviour_mut().kad;
        kad.store_mut().away(&peer);
        kad.remove_peer(&peer);
        self.routing_changed();
        if was_routed {
            self.fill_place_of(&peer);
        }
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
