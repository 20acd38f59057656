//! The machine's check of its own books.

use std::collections::BTreeMap;

use super::{
    Fetch,
    config::{Order, RESERVED_LEN},
    peers::PeerIx,
    wants::Status,
};

impl Fetch {
    /// Panics if the books do not balance or a limit is exceeded. Looks at every want and peer: for tests.
    pub fn check_invariants(&self) {
        if self.ended {
            return;
        }
        self.wants.check_invariants();
        self.requests.check_invariants();
        self.check_lookups();
        self.credit.check_invariants();
        self.check_budget();
        self.check_statuses();
        self.check_peers();
        self.check_sources();
        self.check_maps();
    }

    fn check_budget(&self) {
        let used = self.requests.used_len();
        assert!(used <= self.config.budget_len, "the budget is exceeded");
        assert!(self.wasted_len <= self.received_len, "wasted what never came");
        if let (Order::InOrder, Some(head)) = (self.config.order, self.wants.head()) {
            let others = used - self.requests.used_by(head);
            let copied = self.wants.ixs().any(|want| self.requests.copies(want).len() > 1);
            // When a lost want becomes the head, the former head's second copy may still have to make room.
            assert!(
                copied || others <= self.config.budget_len - RESERVED_LEN / 2,
                "no room for the next want"
            );
        }
    }

    fn check_statuses(&self) {
        let mut live = 0;
        for want in self.wants.ixs() {
            let copies = self.requests.copies(want);
            live += copies.len();
            let received = copies
                .iter()
                .any(|id| self.requests.get(*id).is_some_and(super::requests::Request::is_received));
            let expected = match self.wants[want].status {
                Status::Pending | Status::Stored => copies.is_empty(),
                Status::InFlight => !copies.is_empty() && !received,
                Status::Received => received,
            };
            assert!(expected, "{:?} with {} copies", self.wants[want].status, copies.len());
        }
        assert_eq!(live, self.requests.iter().count(), "requests of unknown wants");
    }

    fn check_peers(&self) {
        let mut units: BTreeMap<PeerIx, u32> = BTreeMap::new();
        for zombie in self.requests.zombies() {
            *units.entry(zombie.request.peer).or_default() += zombie.request.units;
        }
        for (id, request) in self.requests.iter().filter(|(_, request)| !request.is_received()) {
            let peer = &self.peers[request.peer];
            assert!(peer.is_connected(), "in flight to a peer that is not connected");
            let late = request.phase == super::requests::Phase::Late;
            assert_eq!((peer.fresh.contains(&id), peer.late.contains(&id)), (!late, late), "lists of a peer");
            *units.entry(request.peer).or_default() += request.units;
        }
        let mut unverified: BTreeMap<PeerIx, u32> = BTreeMap::new();
        for (_, request) in self.requests.iter().filter(|(_, request)| request.is_unverified()) {
            *unverified.entry(request.peer).or_default() += request.units;
        }
        for (ix, peer) in self.peers.iter() {
            assert_eq!(unverified.get(&ix).copied().unwrap_or(0), peer.unverified_units, "unverified units");
            peer.check_invariants(&self.wants);
            assert_eq!(units.get(&ix).copied().unwrap_or(0), peer.units, "units in flight");
            assert_eq!(self.peers.find(&peer.id), Some(ix), "place of a peer");
        }
    }

    fn check_sources(&self) {
        for (want, sources) in &self.sources {
            assert!(!sources.is_empty() && self.wants[*want].status != Status::Stored, "useless sources");
            for ix in sources {
                let peer = &self.peers[*ix];
                assert!(!peer.full && peer.believed.contains(&self.wants.rank(*want)), "source of a want");
            }
        }
        let believed: usize = self.peers.iter().map(|(_, peer)| peer.believed.len()).sum();
        assert_eq!(believed, self.sources.values().map(Vec::len).sum::<usize>(), "believed wants");
    }
}
