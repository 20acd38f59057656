//! Random inputs without sense: the books must balance and the rules hold whatever a driver reports.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use dhtfs_store::{ChunkSet, ContentCid};
use proptest::prelude::*;

use super::super::*;
use super::sim::{MIB, chunk, manifest, peer, root};

const PEERS: usize = 8;

#[derive(Debug, Clone)]
enum Input {
    Wants(u32, u32),
    Complete,
    Have(u32),
    Lost(u32),
    Provider(u32, usize),
    RootProvider(usize),
    Hint(usize),
    LookupDone(u32),
    RootDone,
    Connected(usize),
    DialFailed(usize),
    Disconnected(usize),
    Block(usize, u32),
    Stored(usize),
    Bad(usize),
    BadLate(u32, usize),
    Verified(usize),
    Malformed(usize),
    Missing(usize),
    Busy(usize),
    Failed(usize),
    Begun(usize),
    Part(usize),
    Half(usize),
    Moved(usize),
    Cancelled(usize, u32),
    /// Of what was forgotten.
    CutShort(usize, u32),
    Content,
    /// What the first, second.. open question brings: with wants in steps, everything, or of another length.
    Map(usize, u32, bool),
    More(usize, u32, bool),
    All(usize),
    HaveEnd(usize, bool),
    Lane(usize, bool),
    Refresh,
    Timeout,
}

fn input() -> impl Strategy<Value = Input> {
    let peer = 0..PEERS;
    let want = 0..30_u32;
    let id = 0..12_usize;
    prop_oneof![
        1 => (want.clone(), 1..9_u32).prop_map(|(first, count)| Input::Wants(first, count)),
        1 => Just(Input::Complete),
        1 => want.clone().prop_map(Input::Have),
        1 => want.clone().prop_map(Input::Lost),
        3 => (want.clone(), peer.clone()).prop_map(|(want, peer)| Input::Provider(want, peer)),
        3 => peer.clone().prop_map(Input::RootProvider),
        1 => peer.clone().prop_map(Input::Hint),
        1 => (want.clone(), peer.clone()).prop_map(|(want, peer)| Input::BadLate(want, peer)),
        2 => want.prop_map(Input::LookupDone),
        2 => Just(Input::RootDone),
        6 => peer.clone().prop_map(Input::Connected),
        2 => peer.clone().prop_map(Input::DialFailed),
        2 => peer.clone().prop_map(Input::Disconnected),
        3 => (peer, any::<bool>()).prop_map(|(peer, has_lane)| Input::Lane(peer, has_lane)),
        8 => (id.clone(), prop_oneof![9 => Just(MIB), 1 => 0..2 * MIB]).prop_map(|(id, len)| Input::Block(id, len)),
        6 => id.clone().prop_map(Input::Stored),
        2 => id.clone().prop_map(Input::Bad),
        2 => id.clone().prop_map(Input::Verified),
        1 => id.clone().prop_map(Input::Malformed),
        4 => id.clone().prop_map(Input::Missing),
        2 => id.clone().prop_map(Input::Busy),
        2 => id.clone().prop_map(Input::Failed),
        3 => id.clone().prop_map(Input::Begun),
        3 => id.clone().prop_map(Input::Part),
        3 => id.clone().prop_map(Input::Half),
        1 => id.clone().prop_map(Input::Moved),
        1 => (id, 0..2 * MIB).prop_map(|(id, len)| Input::Cancelled(id, len)),
        3 => (0..4_usize, 0..2 * MIB).prop_map(|(place, len)| Input::CutShort(place, len)),
        1 => Just(Input::Content),
        4 => (0..4_usize, 1..6_u32, prop::bool::weighted(0.95)).prop_map(|(n, step, good)| Input::Map(n, step, good)),
        4 => (0..4_usize, 1..6_u32, prop::bool::weighted(0.95)).prop_map(|(n, step, good)| Input::More(n, step, good)),
        2 => (0..4_usize).prop_map(Input::All),
        2 => (0..4_usize, any::<bool>()).prop_map(|(n, closed)| Input::HaveEnd(n, closed)),
        1 => Just(Input::Refresh),
        6 => Just(Input::Timeout),
    ]
}

/// Positions of the content.
const PLACES: u32 = 60;

/// Every seventh want is a manifest; the others have places, but for one that is past the end.
fn want(n: u32) -> Want {
    if n.is_multiple_of(7) {
        Want { cid: manifest(n), len: None, place: None }
    } else {
        Want { cid: chunk(n), len: Some(MIB), place: Some(if n == 13 { PLACES } else { 2 * n }) }
    }
}

fn places(step: u32, good: bool) -> ChunkSet {
    let mut set = ChunkSet::new(if good { PLACES } else { PLACES + 1 });
    (0..PLACES).filter(|place| place / 2 % step == 0).for_each(|place| assert!(set.insert(place)));
    set
}

/// A request without an end.
#[derive(Debug, Clone, Copy)]
struct Open {
    cid: ContentCid,
    max_len: u32,
    received: bool,
}

/// What the driver knows.
#[derive(Default)]
struct Driver {
    open: BTreeMap<RequestId, Open>,
    /// The last one first.
    forgotten: Vec<RequestId>,
    /// Questions for maps that have not ended.
    haves: BTreeSet<HaveId>,
    ended: bool,
}

impl Driver {
    /// One of the open ids, or one that never was.
    fn id(&self, place: usize) -> RequestId {
        self.open.keys().nth(place).copied().unwrap_or(RequestId(u64::MAX))
    }

    fn drain(&mut self, fetch: &mut Fetch, budget_len: u64) {
        while let Some(action) = fetch.next_action() {
            assert!(!self.ended, "{action:?} after the end");
            match action {
                Action::Request { id, cid, max_len, .. } => {
                    let copies = self.open.values().filter(|open| open.cid == cid).count();
                    assert!(copies < MAX_COPIES, "a third copy");
                    let open = Open { cid, max_len, received: false };
                    assert!(self.open.insert(id, open).is_none(), "an id used twice");
                }
                Action::Forget(id) => {
                    assert!(self.open.remove(&id).is_some(), "forgets what is not open");
                    self.forgotten.insert(0, id);
                }
                Action::Finished | Action::Failed(_) => self.ended = true,
                Action::AskHave { id, .. } => drop(self.haves.insert(id)),
                Action::EndHave(id) => assert!(self.haves.remove(&id), "ends what it never asked"),
                Action::Lookup(_) | Action::CancelLookup(_) | Action::Dial(_) => {}
            }
        }
        // On a lane a want without a length takes less of the budget.
        let used_by = |open: &Open| match open.cid {
            ContentCid::Chunk(_) => open.max_len,
            ContentCid::Manifest(_) => open.max_len.min(128 << 10),
        };
        let used: u64 = self.open.values().map(|open| u64::from(used_by(open))).sum();
        assert!(self.ended || used <= budget_len, "budget exceeded: {used}");
    }

    /// Reports something about a request. What does not suit its state must be ignored.
    fn report(&mut self, place: usize, of_received: bool, report: impl FnOnce(RequestId)) {
        let id = self.id(place);
        report(id);
        if self.open.get(&id).is_some_and(|open| open.received == of_received) {
            self.open.remove(&id);
        }
    }

    fn apply(&mut self, fetch: &mut Fetch, input: Input, now: Instant) {
        match input {
            Input::Wants(first, count) => fetch.on_wants((first..first + count).map(want).collect(), now),
            Input::Complete => fetch.on_wants_complete(now),
            Input::Have(n) => {
                fetch.on_have(want(n).cid, now);
                self.open.retain(|_, open| open.cid != want(n).cid || !open.received);
            }
            Input::Lost(n) => fetch.on_lost(want(n).cid, now),
            Input::Provider(n, host) => fetch.on_provider(want(n).cid, peer(host), now),
            Input::RootProvider(host) => fetch.on_provider(root(), peer(host), now),
            Input::Hint(host) => fetch.on_hint(peer(host), now),
            Input::LookupDone(n) => fetch.on_lookup_done(want(n).cid, now),
            Input::RootDone => fetch.on_lookup_done(root(), now),
            Input::Connected(host) => fetch.on_connected(peer(host), now),
            Input::DialFailed(host) => fetch.on_dial_failed(peer(host), now),
            Input::Disconnected(host) => fetch.on_disconnected(peer(host), now),
            Input::Block(place, len) => {
                let id = self.id(place);
                let wanted = fetch.on_block(id, len, now);
                match self.open.get_mut(&id) {
                    Some(open) if !open.received && wanted => open.received = true,
                    Some(open) if !open.received => drop(self.open.remove(&id)),
                    _ => assert!(!wanted, "takes a block that it did not ask for"),
                }
            }
            Input::Stored(place) => self.report(place, true, |id| fetch.on_stored(id, now)),
            Input::Bad(place) => self.report(place, true, |id| fetch.on_bad(id, now)),
            Input::BadLate(n, host) => fetch.on_bad_late(peer(host), want(n).cid, MIB, now),
            Input::Verified(place) => fetch.on_verified(self.id(place), now),
            Input::Malformed(place) => self.report(place, false, |id| fetch.on_malformed(id, now)),
            Input::Missing(place) => self.report(place, false, |id| fetch.on_missing(id, now)),
            Input::Busy(place) => self.report(place, false, |id| fetch.on_busy(id, now)),
            Input::Begun(place) => fetch.on_begun(self.id(place), now),
            Input::Part(place) => fetch.on_part(self.id(place), now),
            Input::Half(place) => fetch.on_half(self.id(place), now),
            Input::Moved(place) => fetch.on_moved(self.id(place), now),
            Input::Cancelled(place, len) => self.report(place, false, |id| fetch.on_cancelled(id, len, now)),
            Input::CutShort(place, len) => {
                let id = self.forgotten.get(place).copied().unwrap_or(RequestId(u64::MAX));
                fetch.on_cancelled(id, len, now);
            }
            Input::Failed(place) => self.report(place, false, |id| fetch.on_failed(id, now)),
            Input::Content => fetch.on_content(PLACES, now),
            Input::Map(n, step, good) => fetch.on_map(self.have(n), HaveUpdate::Map(places(step, good)), now),
            Input::More(n, step, good) => {
                fetch.on_map(self.have(n), HaveUpdate::More(places(step, good)), now)
            }
            Input::All(n) => fetch.on_map(self.have(n), HaveUpdate::All, now),
            Input::HaveEnd(n, closed) => {
                let id = self.have(n);
                self.haves.remove(&id);
                fetch.on_map_end(id, if closed { HaveEnd::Closed } else { HaveEnd::Refused }, now);
            }
            Input::Lane(host, has_lane) => fetch.on_lane(&peer(host), has_lane, now),
            Input::Refresh => fetch.on_refresh(now),
            Input::Timeout => fetch.on_timeout(now),
        }
    }

    /// One of the open questions, or one that never was.
    fn have(&self, place: usize) -> HaveId {
        self.haves.iter().rev().nth(place).copied().unwrap_or(HaveId(u64::MAX))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_books_balance_whatever_is_reported(
        inputs in prop::collection::vec((input(), 0_u64..900), 1..250),
        seed: u64,
        in_order: bool,
        budget_len in 0_u64..(12 << 20),
        max_known_peers in 2_usize..10,
    ) {
        let order = if in_order { Order::InOrder } else { Order::Spread };
        let config = FetchConfig { order, budget_len, max_known_peers, ..FetchConfig::default() };
        let mut now = Instant::now();
        let mut fetch = Fetch::new(config, root(), seed, now);
        let mut driver = Driver::default();
        for (input, after) in inputs {
            now += Duration::from_millis(after);
            driver.apply(&mut fetch, input, now);
            driver.drain(&mut fetch, config.clamped().budget_len);
            fetch.check_invariants();
            let mut timeouts = 0;
            while fetch.next_deadline().is_some_and(|at| at <= now) {
                timeouts += 1;
                prop_assert!(timeouts < 100, "a deadline that never goes away");
                fetch.on_timeout(now);
                driver.drain(&mut fetch, config.clamped().budget_len);
            }
            fetch.check_invariants();
            super::waiting::check_sums(&fetch, now);
            let progress = fetch.progress();
            prop_assert!(progress.stored <= progress.wanted);
            prop_assert!(progress.peers.len() <= max_known_peers);
        }
    }
}
