//! The requests of a fetch and the budget they use.
//!
//! # Invariants
//! - `used_len` is the sum of `reserved_len` over all live requests (in flight or received).
//! - A want has at most [`MAX_COPIES`] live requests, of which at most one is received.
//! - A want is in `late` when nothing of it is received and every copy in flight is late.
//! - A request is in `solo` when it is the only copy of its want that is not late, and nothing is received.
//! - A request is in `pairs` when it is the younger of two copies that are not late.
//!
//! A request whose result is no longer wanted becomes a *zombie*: it leaves the budget, but keeps its place in the
//! peer's window until its answer comes or as long as one may take, because the peer goes on sending it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{RequestId, config::MAX_COPIES, pace::Delivered, peers::PeerIx, wants::WantIx};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    InFlight,
    /// Older than the peer's timeout; still in flight.
    Late,
    Received {
        len: u32,
        /// Whether it is known to have the right hash.
        verified: bool,
    },
}

/// How much is known to have come of a block that is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Came {
    Nothing,
    /// Its head: it does not wait in a queue any more.
    Head,
    /// A part.
    Part,
    /// One half, or more.
    Half,
}

#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) peer: PeerIx,
    pub(super) want: WantIx,
    pub(super) sent: Instant,
    pub(super) max_len: u32,
    /// Bytes of the budget.
    pub(super) reserved_len: u32,
    pub(super) units: u32,
    pub(super) phase: Phase,
    /// What the peer had delivered when this was sent.
    pub(super) delivered: Delivered,
    /// Whether the peer's window was full with it.
    pub(super) full: bool,
    /// A second copy, made because a peer had nothing else to do.
    pub(super) spare: bool,
    /// How much of it is here.
    pub(super) came: Came,
    /// From when on it is counted until it is late.
    pub(super) late_from: Instant,
    /// When it began to come.
    pub(super) began: Option<Instant>,
}

impl Zombie {
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.until <= now
    }
}

impl Request {
    /// Whether it was late before it began to come.
    pub(super) fn was_late(&self) -> bool {
        self.late_from > self.sent
    }

    pub(super) fn is_received(&self) -> bool {
        matches!(self.phase, Phase::Received { .. })
    }

    pub(super) fn is_unverified(&self) -> bool {
        matches!(self.phase, Phase::Received { verified: false, .. })
    }
}

#[derive(Debug, Clone)]
pub(super) struct Zombie {
    pub(super) request: Request,
    until: Instant,
    /// Nothing more comes.
    pub(super) is_cut: bool,
}

fn set_member(set: &mut BTreeSet<RequestId>, id: RequestId, member: bool) {
    if member {
        set.insert(id);
    } else {
        set.remove(&id);
    }
}

#[derive(Debug, Default)]
pub(super) struct Requests {
    live: BTreeMap<RequestId, Request>,
    by_want: BTreeMap<WantIx, Vec<RequestId>>,
    late: BTreeSet<WantIx>,
    solo: BTreeSet<RequestId>,
    pairs: BTreeSet<RequestId>,
    zombies: BTreeMap<RequestId, Zombie>,
    received: usize,
    used_len: u64,
    next_id: u64,
}

impl Requests {
    /// Books a new request and gives it an id.
    pub(super) fn add(&mut self, request: Request) -> RequestId {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.used_len += u64::from(request.reserved_len);
        let want = request.want;
        self.live.insert(id, request);
        self.by_want.entry(want).or_default().push(id);
        self.reindex(want);
        id
    }

    pub(super) fn get(&self, id: RequestId) -> Option<&Request> {
        self.live.get(&id)
    }

    /// Forgets a live request altogether.
    pub(super) fn remove(&mut self, id: RequestId) -> Option<Request> {
        let request = self.live.remove(&id)?;
        self.used_len -= u64::from(request.reserved_len);
        self.received -= usize::from(request.is_received());
        self.solo.remove(&id);
        self.pairs.remove(&id);
        if let Some(copies) = self.by_want.get_mut(&request.want) {
            copies.retain(|copy| *copy != id);
            if copies.is_empty() {
                self.by_want.remove(&request.want);
            }
        }
        self.reindex(request.want);
        Some(request)
    }

    pub(super) fn set_came(&mut self, id: RequestId, came: Came, now: Instant) {
        if let Some(request) = self.live.get_mut(&id) {
            request.came = request.came.max(came);
            request.began.get_or_insert(now);
        }
    }

    pub(super) fn set_late(&mut self, id: RequestId) {
        self.set_phase(id, Phase::Late);
    }

    /// It counts from now on when it is late the next time.
    pub(super) fn set_on_time(&mut self, id: RequestId, now: Instant) {
        if let Some(request) = self.live.get_mut(&id) {
            request.late_from = now;
        }
        self.set_phase(id, Phase::InFlight);
    }

    pub(super) fn set_received(&mut self, id: RequestId, len: u32, verified: bool) {
        self.set_phase(id, Phase::Received { len, verified });
    }

    fn set_phase(&mut self, id: RequestId, phase: Phase) {
        let Some(request) = self.live.get_mut(&id) else { return };
        let was_received = request.is_received();
        request.phase = phase;
        let (want, is_received) = (request.want, request.is_received());
        self.received += usize::from(is_received);
        self.received -= usize::from(was_received);
        self.reindex(want);
    }

    /// Turns a request in flight into a zombie for at most `hold`.
    pub(super) fn bury(&mut self, id: RequestId, now: Instant, hold: Duration) {
        if let Some(request) = self.remove(id) {
            self.zombies.insert(id, Zombie { request, until: now + hold, is_cut: false });
        }
    }

    pub(super) fn zombie(&self, id: RequestId) -> Option<&Zombie> {
        self.zombies.get(&id)
    }

    /// Nothing more comes, but its place in the window of its peer stays taken until then.
    pub(super) fn cut_zombie(&mut self, id: RequestId, until: Instant) {
        if let Some(zombie) = self.zombies.get_mut(&id) {
            zombie.until = until;
            zombie.is_cut = true;
        }
    }

    pub(super) fn remove_zombie(&mut self, id: RequestId) -> Option<Zombie> {
        self.zombies.remove(&id)
    }

    /// Takes out the zombies that are `gone`.
    pub(super) fn take_zombies(&mut self, gone: impl Fn(&Zombie) -> bool) -> Vec<Zombie> {
        let ids: Vec<_> = self.zombies.iter().filter(|(_, zombie)| gone(zombie)).map(|(id, _)| *id).collect();
        ids.iter().filter_map(|id| self.zombies.remove(id)).collect()
    }

    pub(super) fn copies(&self, want: WantIx) -> &[RequestId] {
        self.by_want.get(&want).map_or(&[], Vec::as_slice)
    }

    /// Whether a copy of this want went to this peer.
    pub(super) fn asked(&self, want: WantIx, peer: PeerIx) -> bool {
        self.copies(want).iter().any(|id| self.live.get(id).is_some_and(|request| request.peer == peer))
    }

    /// Bytes of the budget used for one want.
    pub(super) fn used_by(&self, want: WantIx) -> u64 {
        self.copies(want).iter().filter_map(|id| self.live.get(id)).map(|r| u64::from(r.reserved_len)).sum()
    }

    /// Bytes of the budget in use.
    pub(super) fn used_len(&self) -> u64 {
        self.used_len
    }

    /// Requests in flight, copies included, zombies not.
    pub(super) fn in_flight(&self) -> usize {
        self.live.len() - self.received
    }

    /// Blocks that are being verified or wait to be consumed.
    pub(super) fn received(&self) -> usize {
        self.received
    }

    /// Wants of which nothing is received and every copy is late.
    pub(super) fn late(&self) -> &BTreeSet<WantIx> {
        &self.late
    }

    /// Requests of which no other copy is on time, oldest first.
    pub(super) fn solo(&self) -> impl Iterator<Item = &Request> {
        self.solo.iter().filter_map(|id| self.live.get(id))
    }

    /// The younger ones of two copies in flight, oldest first.
    pub(super) fn pairs(&self) -> impl Iterator<Item = &Request> {
        self.pairs.iter().filter_map(|id| self.live.get(id))
    }

    /// When the first zombie gives up its place.
    pub(super) fn next_burial(&self) -> Option<Instant> {
        self.zombies.values().map(|zombie| zombie.until).min()
    }

    fn reindex(&mut self, want: WantIx) {
        let copies = self.by_want.get(&want).map_or(&[][..], Vec::as_slice);
        let phases = copies.iter().filter_map(|id| self.live.get(id)).map(|request| request.phase);
        let all_late = !copies.is_empty() && phases.clone().all(|phase| phase == Phase::Late);
        if all_late {
            self.late.insert(want);
        } else {
            self.late.remove(&want);
        }
        let received = phases.clone().any(|phase| matches!(phase, Phase::Received { .. }));
        let on_time = phases.filter(|phase| *phase == Phase::InFlight).count();
        for (place, id) in copies.iter().enumerate() {
            let fresh =
                !received && self.live.get(id).is_some_and(|request| request.phase == Phase::InFlight);
            set_member(&mut self.solo, *id, fresh && on_time == 1);
            set_member(&mut self.pairs, *id, fresh && on_time == 2 && place == 1);
        }
    }

    /// All live requests.
    pub(super) fn iter(&self) -> impl Iterator<Item = (RequestId, &Request)> {
        self.live.iter().map(|(id, request)| (*id, request))
    }

    /// Whether this id was ever given to a request.
    pub(super) fn was_made(&self, id: RequestId) -> bool {
        id.0 < self.next_id
    }

    /// Second copies in flight that idle peers were asked for.
    pub(super) fn spares(&self) -> impl Iterator<Item = &Request> {
        self.live.values().filter(|request| request.spare && !request.is_received())
    }

    /// Of each two copies of a want the one in flight that will probably not be needed, and whether one of them `waits` and can
    /// be taken back.
    pub(super) fn doubles(&self, waits: impl Fn(&Request) -> bool) -> impl Iterator<Item = (&Request, bool)> {
        let pairs = self.by_want.values().filter(|copies| copies.len() > 1);
        pairs.filter_map(move |copies| {
            let requests = copies.iter().rev().filter_map(|id| self.live.get(id));
            let mut in_flight = requests.filter(|request| !request.is_received());
            let one_waits = in_flight.clone().any(&waits);
            in_flight.next().map(|youngest| (youngest, one_waits))
        })
    }

    /// All zombies.
    pub(super) fn zombies(&self) -> impl Iterator<Item = &Zombie> {
        self.zombies.values()
    }

    pub(super) fn check_invariants(&self) {
        let used: u64 = self.live.values().map(|request| u64::from(request.reserved_len)).sum();
        assert_eq!(used, self.used_len, "budget in use");
        let received = self.live.values().filter(|request| request.is_received()).count();
        assert_eq!(received, self.received, "received blocks");
        assert_eq!(self.by_want.values().map(Vec::len).sum::<usize>(), self.live.len(), "copies");
        let (mut late, mut solo, mut pairs) = (0, 0, 0);
        for (want, copies) in &self.by_want {
            let requests: Vec<_> = copies.iter().map(|id| &self.live[id]).collect();
            assert!(requests.iter().all(|request| request.want == *want), "copies of one want");
            assert!((1..=MAX_COPIES).contains(&copies.len()), "{} copies", copies.len());
            assert!(requests.iter().filter(|request| request.is_received()).count() <= 1, "received twice");
            if requests.len() == 2 {
                assert_ne!(requests[0].peer, requests[1].peer, "both copies from one peer");
            }
            if requests.iter().all(|request| request.phase == Phase::Late) {
                assert!(self.late.contains(want), "late want");
                late += 1;
            }
            let on_time = requests.iter().filter(|request| request.phase == Phase::InFlight).count();
            if !requests.iter().any(|request| request.is_received()) {
                solo += usize::from(on_time == 1);
                pairs += usize::from(on_time == 2);
            }
        }
        assert_eq!(late, self.late.len(), "late wants");
        assert_eq!((solo, pairs), (self.solo.len(), self.pairs.len()), "solo requests and pairs");
        assert!(self.zombies.keys().all(|id| !self.live.contains_key(id)), "a zombie is alive");
    }
}
