//! Callers that wait for a connection. Pure: no swarm, no clock.
//!
//! A peer is dialled by us, by kad on its own, or not at all; a caller that finds a dial under way joins it.
//! Only if that fails is the peer dialled with the addresses the callers named. Invariant: `waiting` counts all
//! callers in the three tables.

use std::collections::BTreeMap;

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use super::command::Reply;
use super::error::DialFailure;
use super::walks::DialPlace;

/// Addresses that callers may name for one dial.
const MAX_NAMED_ADDRS: usize = 32;

/// Somebody who waits.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// Until the peer is connected.
    Connected(Reply<Result<(), DialFailure>>),
    /// Until it has identified itself as well.
    Identified(Reply<Result<PeerId, DialFailure>>),
}

impl Waiter {
    fn is_gone(&self) -> bool {
        match self {
            Self::Connected(reply) => reply.is_closed(),
            Self::Identified(reply) => reply.is_closed(),
        }
    }

    fn fail(self, failure: DialFailure) {
        // A caller that has gone is normal.
        match self {
            Self::Connected(reply) => drop(reply.send(Err(failure))),
            Self::Identified(reply) => drop(reply.send(Err(failure))),
        }
    }
}

/// Callers that wait for one peer.
#[derive(Debug)]
struct PeerDial {
    waiters: Vec<Waiter>,
    /// Addresses the callers named.
    addrs: Vec<Multiaddr>,
    /// Our own dial, if the one waited for is ours.
    own: Option<ConnectionId>,
    /// Whether an address was named after our own dial had begun.
    more: bool,
    deadline: Instant,
    /// What it takes of the dials that walks may begin.
    place: Option<DialPlace>,
}

/// A dial to an address without a peer ID.
#[derive(Debug)]
struct AddrDial {
    reply: Reply<Result<PeerId, DialFailure>>,
    deadline: Instant,
}

/// Callers that wait for a connected peer to identify itself.
#[derive(Debug)]
struct Identifying {
    replies: Vec<Reply<Result<PeerId, DialFailure>>>,
    deadline: Instant,
}

/// What to do after a dial has failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AfterFailure {
    /// Nobody waits for that dial.
    Nothing,
    /// Dial the peer with the addresses named for it.
    DialAgain(PeerId),
}

/// All callers that wait for connections.
#[derive(Debug, Default)]
pub(crate) struct Dials {
    peers: BTreeMap<PeerId, PeerDial>,
    addrs: BTreeMap<ConnectionId, AddrDial>,
    identifying: BTreeMap<PeerId, Identifying>,
    waiting: usize,
}

impl Dials {
    /// Callers that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Forgets the callers that have gone. Dials they wanted go on.
    pub(crate) fn prune(&mut self) {
        let mut gone = 0;
        for dial in self.peers.values_mut() {
            let before = dial.waiters.len();
            dial.waiters.retain(|waiter| !waiter.is_gone());
            gone += before - dial.waiters.len();
        }
        for entry in self.identifying.values_mut() {
            let before = entry.replies.len();
            entry.replies.retain(|reply| !reply.is_closed());
            gone += before - entry.replies.len();
        }
        self.waiting = self.waiting.saturating_sub(gone);
    }

    /// The dial to `peer` was begun for a walk and takes this place, until it has ended.
    pub(crate) fn take_place(&mut self, peer: &PeerId, place: DialPlace) {
        if let Some(dial) = self.peers.get_mut(peer) {
            dial.place = Some(place);
        }
    }

    /// Somebody waits for `peer`. True if a dial has to be started.
    pub(crate) fn wait_for_peer(
        &mut self,
        peer: PeerId,
        named: Vec<Multiaddr>,
        waiter: Waiter,
        deadline: Instant,
    ) -> bool {
        self.waiting += 1;
        let new = !self.peers.contains_key(&peer);
        let dial = self.peers.entry(peer).or_insert_with(|| PeerDial {
            waiters: Vec::new(),
            addrs: Vec::new(),
            own: None,
            more: false,
            deadline,
            place: None,
        });
        dial.waiters.push(waiter);
        for addr in named {
            if dial.addrs.len() < MAX_NAMED_ADDRS && !dial.addrs.contains(&addr) {
                dial.addrs.push(addr);
                dial.more = true;
            }
        }
        new
    }

    /// Somebody waits for the dial `id` to an address without a peer ID.
    pub(crate) fn wait_for_addr(
        &mut self,
        id: ConnectionId,
        reply: Reply<Result<PeerId, DialFailure>>,
        deadline: Instant,
    ) {
        self.waiting += 1;
        self.addrs.insert(id, AddrDial { reply, deadline });
    }

    /// Somebody waits for the connected `peer` to identify itself.
    pub(crate) fn wait_for_identity(
        &mut self,
        peer: PeerId,
        reply: Reply<Result<PeerId, DialFailure>>,
        deadline: Instant,
    ) {
        self.waiting += 1;
        let entry = self.identifying.entry(peer).or_insert(Identifying { replies: Vec::new(), deadline });
        entry.replies.push(reply);
    }

    /// The addresses named for a peer.
    pub(crate) fn named(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.peers.get(peer).map(|dial| dial.addrs.clone()).unwrap_or_default()
    }

    /// Our own dial to `peer` is under way.
    pub(crate) fn on_dialling(&mut self, peer: &PeerId, id: ConnectionId) {
        if let Some(dial) = self.peers.get_mut(peer) {
            dial.own = Some(id);
            dial.more = false;
        }
    }

    /// No dial to `peer` could be started.
    pub(crate) fn on_not_dialled(&mut self, peer: &PeerId, failure: &DialFailure) {
        let Some(dial) = self.peers.remove(peer) else { return };
        self.waiting = self.waiting.saturating_sub(dial.waiters.len());
        dial.waiters.into_iter().for_each(|waiter| waiter.fail(failure.clone()));
    }

    /// A connection to `peer` stands. Answers those who wait for that; the others get `identity`, or wait on
    /// until `deadline` if there is none yet.
    pub(crate) fn on_connected(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        identity: Option<&Result<PeerId, DialFailure>>,
        deadline: Instant,
    ) {
        let by_addr = self.addrs.remove(&id).map(|dial| Waiter::Identified(dial.reply));
        let by_peer = self.peers.remove(&peer).map(|dial| dial.waiters).unwrap_or_default();
        for waiter in by_addr.into_iter().chain(by_peer) {
            self.waiting = self.waiting.saturating_sub(1);
            match (waiter, identity) {
                (Waiter::Connected(reply), _) => drop(reply.send(Ok(()))),
                (Waiter::Identified(reply), Some(identity)) => drop(reply.send(identity.clone())),
                (Waiter::Identified(reply), None) => self.wait_for_identity(peer, reply, deadline),
            }
        }
    }

    /// The dial `id` has failed.
    pub(crate) fn on_dial_failed(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        failure: &DialFailure,
    ) -> AfterFailure {
        if let Some(dial) = self.addrs.remove(&id) {
            self.waiting = self.waiting.saturating_sub(1);
            // A caller that has gone is normal.
            let _ = dial.reply.send(Err(failure.clone()));
            return AfterFailure::Nothing;
        }
        let Some((peer, dial)) = peer.and_then(|peer| Some((peer, self.peers.get_mut(&peer)?))) else {
            return AfterFailure::Nothing;
        };
        match dial.own {
            // A dial that ours has joined, or an older one: ours still has to be made, or is under way.
            None => AfterFailure::DialAgain(peer),
            Some(own) if own != id => AfterFailure::Nothing,
            Some(_) if dial.more && !dial.waiters.is_empty() => {
                dial.own = None;
                AfterFailure::DialAgain(peer)
            }
            Some(_) => {
                self.on_not_dialled(&peer, failure);
                AfterFailure::Nothing
            }
        }
    }

    /// `peer` has identified itself (or failed to): answers those who wait for that.
    pub(crate) fn on_identified(&mut self, peer: PeerId, result: &Result<PeerId, DialFailure>) {
        let Some(entry) = self.identifying.remove(&peer) else { return };
        self.waiting = self.waiting.saturating_sub(entry.replies.len());
        for reply in entry.replies {
            // A caller that has gone is normal.
            let _ = reply.send(result.clone());
        }
    }

    /// Answers all whose time is up.
    pub(crate) fn on_timeout(&mut self, now: Instant) {
        let late: Vec<PeerId> = due(self.peers.iter().map(|(peer, dial)| (*peer, dial.deadline)), now);
        for peer in late {
            self.on_not_dialled(&peer, &DialFailure::Timeout);
        }
        let late: Vec<ConnectionId> = due(self.addrs.iter().map(|(id, dial)| (*id, dial.deadline)), now);
        for id in late {
            self.on_dial_failed(id, None, &DialFailure::Timeout);
        }
        let late: Vec<PeerId> =
            due(self.identifying.iter().map(|(peer, entry)| (*peer, entry.deadline)), now);
        for peer in late {
            self.on_identified(peer, &Err(DialFailure::NotIdentified));
        }
    }

    /// When the next caller's time is up.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let peers = self.peers.values().map(|dial| dial.deadline);
        let addrs = self.addrs.values().map(|dial| dial.deadline);
        let identifying = self.identifying.values().map(|entry| entry.deadline);
        peers.chain(addrs).chain(identifying).min()
    }
}

/// The keys whose deadline has come.
fn due<K>(deadlines: impl Iterator<Item = (K, Instant)>, now: Instant) -> Vec<K> {
    deadlines.filter(|(_, deadline)| *deadline <= now).map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::time::Duration;

    use libp2p::swarm::ConnectionId;
    use libp2p::{Multiaddr, PeerId};
    use tokio::sync::oneshot;
    use tokio::time::Instant;

    use super::{AfterFailure, DialFailure, Dials, Waiter};

    type Answer<T> = oneshot::Receiver<Result<T, DialFailure>>;

    fn id(n: usize) -> ConnectionId {
        ConnectionId::new_unchecked(n)
    }

    fn addr(n: u16) -> Multiaddr {
        format!("/memory/{n}").parse().unwrap()
    }

    fn connect(dials: &mut Dials, peer: PeerId, named: Vec<Multiaddr>, at: Instant) -> (bool, Answer<()>) {
        let (reply, answer) = oneshot::channel();
        (dials.wait_for_peer(peer, named, Waiter::Connected(reply), at), answer)
    }

    fn dial(dials: &mut Dials, peer: PeerId, at: Instant) -> Answer<PeerId> {
        let (reply, answer) = oneshot::channel();
        dials.wait_for_peer(peer, Vec::new(), Waiter::Identified(reply), at);
        answer
    }

    #[test]
    fn callers_for_one_peer_share_a_dial_and_its_end() {
        let (mut dials, peer, at) = (Dials::default(), PeerId::random(), Instant::now());
        let (start, mut first) = connect(&mut dials, peer, vec![addr(1)], at);
        let (again, mut second) = connect(&mut dials, peer, vec![addr(1)], at);
        assert!(start && !again);
        assert_eq!(dials.waiting(), 2);
        dials.on_dialling(&peer, id(1));
        dials.on_connected(peer, id(1), None, at);
        assert_eq!(first.try_recv().unwrap(), Ok(()));
        assert_eq!(second.try_recv().unwrap(), Ok(()));
        assert_eq!(dials.waiting(), 0);
        assert!(dials.next_deadline().is_none());
    }

    #[test]
    fn a_joined_dial_that_fails_is_followed_by_our_own() {
        let (mut dials, peer, at) = (Dials::default(), PeerId::random(), Instant::now());
        let (_, mut answer) = connect(&mut dials, peer, vec![addr(1)], at);
        let failure = DialFailure::NoAddress;
        assert_eq!(dials.on_dial_failed(id(1), Some(peer), &failure), AfterFailure::DialAgain(peer));
        dials.on_dialling(&peer, id(2));
        assert_eq!(dials.on_dial_failed(id(1), Some(peer), &failure), AfterFailure::Nothing, "not ours");
        assert!(answer.try_recv().is_err());
        assert_eq!(dials.on_dial_failed(id(2), Some(peer), &failure), AfterFailure::Nothing);
        assert_eq!(answer.try_recv().unwrap(), Err(failure));
        assert_eq!(dials.waiting(), 0);
    }

    #[test]
    fn an_address_named_during_our_dial_gets_its_try() {
        let (mut dials, peer, at) = (Dials::default(), PeerId::random(), Instant::now());
        let (_, mut first) = connect(&mut dials, peer, vec![addr(1)], at);
        dials.on_dialling(&peer, id(1));
        let (_, mut second) = connect(&mut dials, peer, vec![addr(2)], at);
        let failure = DialFailure::Timeout;
        assert_eq!(dials.on_dial_failed(id(1), Some(peer), &failure), AfterFailure::DialAgain(peer));
        assert_eq!(dials.named(&peer), [addr(1), addr(2)]);
        dials.on_dialling(&peer, id(2));
        assert_eq!(dials.on_dial_failed(id(2), Some(peer), &failure), AfterFailure::Nothing);
        assert_eq!(first.try_recv().unwrap(), Err(failure.clone()));
        assert_eq!(second.try_recv().unwrap(), Err(failure));
    }

    #[test]
    fn a_dialled_peer_is_waited_for_until_it_has_identified_itself() {
        let (mut dials, peer, at) = (Dials::default(), PeerId::random(), Instant::now());
        let mut known = dial(&mut dials, peer, at);
        let (reply, mut unknown) = oneshot::channel();
        dials.wait_for_addr(id(7), reply, at);
        dials.on_connected(peer, id(7), None, at);
        assert_eq!(dials.waiting(), 2);
        assert!(known.try_recv().is_err());
        dials.on_identified(peer, &Ok(peer));
        assert_eq!(known.try_recv().unwrap(), Ok(peer));
        assert_eq!(unknown.try_recv().unwrap(), Ok(peer));
        assert_eq!(dials.waiting(), 0);
        let mut later = dial(&mut dials, peer, at);
        dials.on_connected(peer, id(8), Some(&Ok(peer)), at);
        assert_eq!(later.try_recv().unwrap(), Ok(peer), "it was known already");
    }

    #[test]
    fn time_runs_out_for_each_kind_of_caller() {
        let (mut dials, now) = (Dials::default(), Instant::now());
        let at = |secs| now + Duration::from_secs(secs);
        let (_, mut connecting) = connect(&mut dials, PeerId::random(), Vec::new(), at(1));
        let (reply, mut by_addr) = oneshot::channel();
        dials.wait_for_addr(id(1), reply, at(2));
        let (reply, mut identifying) = oneshot::channel();
        dials.wait_for_identity(PeerId::random(), reply, at(3));
        assert_eq!(dials.next_deadline(), Some(at(1)));
        dials.on_timeout(at(1));
        assert_eq!(connecting.try_recv().unwrap(), Err(DialFailure::Timeout));
        assert_eq!(dials.next_deadline(), Some(at(2)));
        dials.on_timeout(at(2));
        assert_eq!(by_addr.try_recv().unwrap(), Err(DialFailure::Timeout));
        assert!(identifying.try_recv().is_err());
        dials.on_timeout(at(3));
        assert_eq!(identifying.try_recv().unwrap(), Err(DialFailure::NotIdentified));
        assert_eq!((dials.waiting(), dials.next_deadline()), (0, None));
    }

    #[test]
    fn callers_that_have_gone_are_forgotten_and_their_dials_keep_their_places() {
        let (mut dials, peer, at) = (Dials::default(), PeerId::random(), Instant::now());
        let walks = crate::net::walks::Walks::new(4);
        let (_, gone) = connect(&mut dials, peer, vec![addr(1)], at);
        let (_, mut stays) = connect(&mut dials, PeerId::random(), vec![addr(1)], at);
        dials.take_place(&peer, walks.dial_place().unwrap());
        dials.on_dialling(&peer, id(1));
        let (reply, identifying) = oneshot::channel();
        dials.wait_for_identity(PeerId::random(), reply, at);
        drop((gone, identifying));
        assert_eq!(dials.waiting(), 3);
        dials.prune();
        assert_eq!(dials.waiting(), 1);
        let places: Vec<_> = std::iter::from_fn(|| walks.dial_place()).collect();
        assert_eq!(places.len(), 2, "three quarters of four, and one dial is under way");
        drop(connect(&mut dials, peer, vec![addr(2)], at));
        dials.prune();
        let failure = DialFailure::NoAddress;
        assert_eq!(dials.on_dial_failed(id(1), Some(peer), &failure), AfterFailure::Nothing, "for nobody");
        assert!(walks.dial_place().is_some());
        assert!(stays.try_recv().is_err());
    }

    #[test]
    fn dropped_callers_are_no_obstacle_and_named_addresses_are_bounded() {
        let (mut dials, peer, at) = (Dials::default(), PeerId::random(), Instant::now());
        drop(connect(&mut dials, peer, (0..100).map(addr).collect(), at).1);
        drop(dial(&mut dials, peer, at));
        assert_eq!(dials.named(&peer).len(), super::MAX_NAMED_ADDRS);
        dials.on_connected(peer, id(1), None, at);
        dials.on_identified(peer, &Err(DialFailure::Closed));
        assert_eq!(dials.waiting(), 0);
    }
}
