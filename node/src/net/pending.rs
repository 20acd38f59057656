//! Callers that wait for something else than a connection: listeners, lookups, announcements, requests.
//!
//! Every entry leaves with the event that ends it. Dropping a reply tells its caller that the network has gone,
//! so that ending the event loop answers everybody who is left.

use std::collections::{BTreeMap, HashMap, VecDeque};

use dhtfs_store::ContentCid;
use libp2p::Multiaddr;
use libp2p::core::transport::ListenerId;
use libp2p::kad::QueryId;
use libp2p::request_response::{InboundRequestId, OutboundRequestId};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::core::offers::Offers;

use super::command::{LookupId, Reply, RoutingPeers};
use super::error::{BootstrapFailure, ClosestError, ListenError, ProvideError, RequestError};
use super::report::{BlockAnswer, LookupEvent, ServeId};
use super::walks::WalkId;

/// Somebody waits for a listener to come up.
#[derive(Debug)]
pub(crate) struct PendingListen {
    pub(crate) id: ListenerId,
    pub(crate) asked: Multiaddr,
    /// What has come up until now.
    pub(crate) addrs: Vec<Multiaddr>,
    /// Whether further addresses may follow the first.
    pub(crate) many: bool,
    /// When to stop waiting: for the first address, then for further ones.
    pub(crate) deadline: Instant,
    pub(crate) reply: Reply<Result<Vec<Multiaddr>, ListenError>>,
}

impl PendingListen {
    /// Answers with what has come up.
    pub(crate) fn finish(self) {
        let result = if self.addrs.is_empty() {
            Err(ListenError::Timeout { addr: self.asked })
        } else {
            Ok(self.addrs)
        };
        // A caller that has gone is normal.
        let _ = self.reply.send(result);
    }

    /// Answers with a failure.
    pub(crate) fn fail(self, cause: String) {
        // A caller that has gone is normal.
        let _ = self.reply.send(Err(ListenError::Refused { addr: self.asked, cause }));
    }
}

/// A lookup that waits for a free place.
#[derive(Debug)]
pub(crate) struct QueuedLookup {
    pub(crate) id: LookupId,
    pub(crate) cid: ContentCid,
    pub(crate) events: mpsc::Sender<LookupEvent>,
}

/// A lookup that runs.
#[derive(Debug)]
pub(crate) struct RunningLookup {
    pub(crate) id: LookupId,
    pub(crate) events: mpsc::Sender<LookupEvent>,
    /// Providers found, and in which order they are reported.
    pub(crate) offers: Offers,
    pub(crate) first_provider_after: Option<u32>,
    pub(crate) started: Instant,
}

impl RunningLookup {
    /// Reports the providers that have their turn.
    pub(crate) fn hand_out(&mut self) {
        while let Some((peer, addrs)) = self.offers.next_action() {
            // There is room for all events; a caller that has gone is noticed with the next answer.
            let _ = self.events.try_send(LookupEvent::Provider { peer, addrs });
        }
    }
}

/// All lookups. Invariant: `by_id` names exactly the walks in `running`.
#[derive(Debug, Default)]
pub(crate) struct Lookups {
    queued: VecDeque<QueuedLookup>,
    running: BTreeMap<WalkId, RunningLookup>,
    by_id: BTreeMap<LookupId, WalkId>,
}

impl Lookups {
    /// Puts a lookup at the end of the queue.
    pub(crate) fn queue(&mut self, lookup: QueuedLookup) {
        self.queued.push_back(lookup);
    }

    /// The next lookup to start; those whose caller has gone are dropped.
    pub(crate) fn next(&mut self) -> Option<QueuedLookup> {
        loop {
            let lookup = self.queued.pop_front()?;
            if !lookup.events.is_closed() {
                return Some(lookup);
            }
        }
    }

    /// The lookup runs as `walk`.
    pub(crate) fn start(&mut self, walk: WalkId, lookup: QueuedLookup, max_providers: usize, now: Instant) {
        self.by_id.insert(lookup.id, walk);
        self.running.insert(
            walk,
            RunningLookup {
                id: lookup.id,
                events: lookup.events,
                offers: Offers::new(max_providers),
                first_provider_after: None,
                started: now,
            },
        );
    }

    /// The lookup that runs as `walk`.
    pub(crate) fn running_mut(&mut self, walk: WalkId) -> Option<&mut RunningLookup> {
        self.running.get_mut(&walk)
    }

    /// The lookup that ran as `walk`, which has ended.
    pub(crate) fn end(&mut self, walk: WalkId) -> Option<RunningLookup> {
        let lookup = self.running.remove(&walk)?;
        self.by_id.remove(&lookup.id);
        Some(lookup)
    }

    /// The caller of a lookup has gone; returns its walk, if it runs.
    pub(crate) fn cancel(&mut self, id: LookupId) -> Option<WalkId> {
        self.queued.retain(|lookup| lookup.id != id);
        let walk = self.by_id.remove(&id)?;
        self.running.remove(&walk);
        Some(walk)
    }

    /// When the next provider that was held back is to be reported.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.running.values().filter_map(|lookup| lookup.offers.next_deadline()).min().map(Instant::from_std)
    }

    /// Reports providers that were held back for long enough.
    pub(crate) fn on_timeout(&mut self, now: Instant) {
        for lookup in self.running.values_mut() {
            lookup.offers.on_timeout(now.into_std());
            lookup.hand_out();
        }
    }

    /// Lookups that run.
    pub(crate) fn running_len(&self) -> usize {
        self.running.len()
    }

    /// Lookups that wait.
    pub(crate) fn queued_len(&self) -> usize {
        self.queued.len()
    }
}

/// A bootstrap that runs.
#[derive(Debug)]
pub(crate) struct PendingBootstrap {
    pub(crate) query: QueryId,
    pub(crate) waiting: Vec<Reply<Result<usize, BootstrapFailure>>>,
}

/// Everything that waits, but for connections.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) listens: Vec<PendingListen>,
    pub(crate) lookups: Lookups,
    /// Announcements that run. Never iterated.
    pub(crate) provides: HashMap<QueryId, Reply<Result<usize, ProvideError>>>,
    /// Lookups of the peers closest to a key.
    pub(crate) closest: BTreeMap<WalkId, Reply<Result<RoutingPeers, ClosestError>>>,
    /// The bootstrap that was asked for, and all who wait for its end.
    pub(crate) bootstrap: Option<PendingBootstrap>,
    /// Own requests in flight.
    pub(crate) requests: BTreeMap<OutboundRequestId, Reply<Result<BlockAnswer, RequestError>>>,
    /// Requests of others that were handed on and have not ended.
    pub(crate) served: BTreeMap<InboundRequestId, ServeId>,
}

impl Pending {
    /// Takes the listener `id` from the waiting ones.
    pub(crate) fn take_listen(&mut self, id: ListenerId) -> Option<PendingListen> {
        let index = self.listens.iter().position(|listen| listen.id == id)?;
        Some(self.listens.swap_remove(index))
    }

    /// When something is due.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let listens = self.listens.iter().map(|listen| listen.deadline);
        listens.chain(self.lookups.next_deadline()).min()
    }

    /// Answers listeners whose time is up; returns those that had no address, which are of no use any more.
    pub(crate) fn on_timeout(&mut self, now: Instant) -> Vec<ListenerId> {
        self.lookups.on_timeout(now);
        let mut useless = Vec::new();
        for listen in std::mem::take(&mut self.listens) {
            if listen.deadline > now {
                self.listens.push(listen);
                continue;
            }
            if listen.addrs.is_empty() {
                useless.push(listen.id);
            }
            listen.finish();
        }
        useless
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::time::Duration;

    use dhtfs_store::{ChunkCid, ContentCid};
    use libp2p::core::transport::ListenerId;
    use tokio::sync::{mpsc, oneshot};
    use tokio::time::Instant;

    use super::{ListenError, Lookups, Pending, PendingListen, QueuedLookup};

    fn lookup(id: u64) -> (QueuedLookup, mpsc::Receiver<super::LookupEvent>) {
        let (events, rx) = mpsc::channel(1);
        (QueuedLookup { id, cid: ContentCid::Chunk(ChunkCid::from_digest([0; 32])), events }, rx)
    }

    #[test]
    fn queued_lookups_start_in_order_without_those_nobody_waits_for() {
        let mut lookups = Lookups::default();
        let (first, gone) = lookup(1);
        let (second, _rx2) = lookup(2);
        let (third, _rx3) = lookup(3);
        let (fourth, _rx4) = lookup(4);
        for queued in [first, second, third, fourth] {
            lookups.queue(queued);
        }
        drop(gone);
        assert_eq!(lookups.cancel(3), None, "it did not run");
        assert_eq!(lookups.queued_len(), 3);
        assert_eq!(lookups.next().unwrap().id, 2);
        assert_eq!(lookups.next().unwrap().id, 4);
        assert!(lookups.next().is_none());
    }

    #[test]
    fn a_listener_is_waited_for_until_its_time_is_up() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        let later = now + Duration::from_secs(1);
        let mut answers = Vec::new();
        let mut ids = Vec::new();
        for (addrs, deadline) in [(vec![], now), (vec!["/memory/1"], now), (vec![], later)] {
            let (reply, answer) = oneshot::channel();
            let id = ListenerId::next();
            let asked: libp2p::Multiaddr = "/memory/0".parse().unwrap();
            let addrs = addrs.into_iter().map(|addr| addr.parse().unwrap()).collect();
            pending.listens.push(PendingListen { id, asked, addrs, many: true, deadline, reply });
            answers.push(answer);
            ids.push(id);
        }
        assert_eq!(pending.next_deadline(), Some(now));
        assert_eq!(pending.on_timeout(now), [ids[0]], "it never came up");
        assert!(matches!(answers[0].try_recv().unwrap(), Err(ListenError::Timeout { .. })));
        assert_eq!(answers[1].try_recv().unwrap().unwrap().len(), 1);
        assert!(answers[2].try_recv().is_err());
        assert_eq!(pending.next_deadline(), Some(later));
        pending.take_listen(ids[2]).unwrap().fail("no".into());
        assert!(matches!(answers[2].try_recv().unwrap(), Err(ListenError::Refused { .. })));
    }
}
