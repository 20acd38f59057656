//! What peers tell about what they hold: have-maps.
//!
//! A peer that tells is believed: it is a source of what it says it holds, and of nothing else. So its map becomes marks
//! of what it lacks (see [`peers`](super::peers)), which is all that the scheduler looks at, and marks follow the map as
//! it grows; nobody is asked on the off chance for what the map lacks. A peer that does not tell is treated as if there
//! were no maps. What is looked up is looked up on until a peer that says it holds it has served something: until then
//! saying so costs nothing.
//!
//! # Lies
//! Missing for what the map says, or a bad block, takes the chunk out of the map: it is *denied*. The peer will not tell
//! of it again, so denied chunks are asked for again like those of peers that do not tell, and when the DHT names the
//! peer anew, which may also be for a chunk that its map never had; Missing is no lie then.
//! A peer that said it holds everything is asked for its map again after a pause, and believed nothing until then if it
//! has served nothing. After [`MAX_LIES`] in a row the map is worth nothing: its peer counts as holding nothing until it
//! is found to hold something, and with the second such map it gets a strike and is not asked for another.
//!
//! # Invariants
//! - Only a connected peer has a map, and a peer with a map is full.
//! - A want with a place is marked as missing at a peer whose map is a set exactly if its place is not in the set.
//! - The coverage of a want is the number of maps that it is in.
//! - What is denied is not in the map, what is tried is.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use dhtfs_store::ChunkSet;

use super::{
    Action, Fetch, HaveEnd, HaveId, HaveUpdate,
    config::MAX_STRIKES,
    peers::{Link, Peer, PeerIx},
    wants::{OwnLookup, Status, WantIx},
};

/// Chunks of a content that must be missing before peers are asked for maps: for fewer, Missing says it as fast.
const MIN_WANTS: usize = 4;

/// Peers that are asked for a map or tell one at the same time; who holds everything takes no place. Of the longest
/// content this many maps take 128 MiB.
const MAX_MAPS: usize = 64;

/// Answers of Missing in a row to what the map says that peer holds, after which the map is worth nothing.
const MAX_LIES: u32 = 16;

/// One chunk that is missing of everything says more than one that is missing of a list.
const LIES_PER_ALL: u32 = 4;

/// Maps of a peer that were worth nothing, after which it gets a strike and no other is asked for.
const MAX_BAD_MAPS: u8 = 2;

/// Whole maps, and news that are none, that one stream may bring: each costs a step for each chunk.
const MAX_WHOLE_MAPS: u8 = 16;

/// Chunks that one map may lack although it said otherwise, and chunks beside the map that a peer may be tried for. A map
/// with more of the former is given up.
const MAX_DENIED: usize = 256;

/// How long a peer is left alone that was busy, broke off, or holds less than it said.
const ASK_PAUSE: Duration = Duration::from_secs(15);

/// How long a peer may take to tell until nobody waits for it.
const TELL_PATIENCE: Duration = Duration::from_secs(2);

/// Chunks that a peer says it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Map {
    All,
    Some(ChunkSet),
}

impl Map {
    fn contains(&self, place: u32) -> bool {
        match self {
            Self::All => true,
            Self::Some(set) => set.contains(place),
        }
    }
}

/// Where asking a peer for its map stands.
#[derive(Debug, Default)]
pub(super) enum Asking {
    #[default]
    Unasked,
    /// Since then.
    Asked(HaveId, Instant),
    Told(HaveId, Map),
    /// To be asked (again) then.
    Paused(Instant),
    /// Not asked again while it is connected.
    Refused,
    /// Not asked again.
    Liar,
}

/// What is known of a peer's maps.
#[derive(Debug, Default)]
pub(super) struct Maps {
    pub(super) asking: Asking,
    /// Lies since it served something.
    lies: u32,
    /// Maps that were worth nothing.
    bad: u8,
    /// Whole maps that the present stream brought.
    whole: u8,
    /// What it was found to lack although it told that it holds it.
    denied: BTreeSet<WantIx>,
    /// What it is taken to hold although it does not say so, or denied it.
    tried: BTreeSet<WantIx>,
}

impl Maps {
    /// Whether it told what it holds.
    pub(super) fn is_told(&self) -> bool {
        matches!(self.asking, Asking::Told(..))
    }

    fn id(&self) -> Option<HaveId> {
        match self.asking {
            Asking::Asked(id, _) | Asking::Told(id, _) => Some(id),
            _ => None,
        }
    }

    fn takes_a_place(&self) -> bool {
        matches!(self.asking, Asking::Asked(..) | Asking::Told(_, Map::Some(_)))
    }

    /// When it may be asked.
    fn ask_at(&self, now: Instant) -> Option<Instant> {
        match self.asking {
            Asking::Unasked => Some(now),
            Asking::Paused(until) => Some(until),
            _ => None,
        }
    }

    /// Whether some of what it denied may be asked for again.
    pub(super) fn has_denied(&self) -> bool {
        !self.denied.is_empty()
    }

    /// It served this. Whether it did not say that it holds it.
    pub(super) fn on_served(&mut self, want: WantIx) -> bool {
        self.lies = 0;
        self.tried.remove(&want)
    }

    /// It is connected anew.
    pub(super) fn on_connected(&mut self) {
        if !matches!(self.asking, Asking::Liar) {
            self.asking = Asking::Unasked;
        }
    }
}

/// How many connected peers say that they hold each want.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    /// Of those with a set, by want.
    some: Vec<u16>,
    /// Of those that hold everything.
    all: u16,
}

impl Coverage {
    /// Whether as many hold each want as any other, as far as is known.
    pub(super) fn is_even(&self) -> bool {
        self.some.is_empty()
    }

    pub(super) fn of(&self, want: WantIx) -> u32 {
        u32::from(self.all) + u32::from(self.some.get(want.0 as usize).copied().unwrap_or_default())
    }

    fn add(&mut self, want: WantIx) {
        let at = want.0 as usize;
        if at >= self.some.len() {
            self.some.resize(at + 1, 0);
        }
        if let Some(count) = self.some.get_mut(at) {
            *count += 1;
        }
    }

    fn sub(&mut self, want: WantIx) {
        if let Some(count) = self.some.get_mut(want.0 as usize) {
            *count -= 1;
        }
    }
}

impl Fetch {
    /// See [`Fetch::on_map`].
    pub(super) fn have(&mut self, id: HaveId, update: HaveUpdate, now: Instant) {
        let Some(ix) = self.peer_of(id) else { return };
        let is_new = self.peers[ix].maps.is_told();
        match update {
            HaveUpdate::All => self.set_all(ix, id),
            HaveUpdate::Map(set) if set.len() == self.wants.places() => self.set_map(ix, id, set, now),
            HaveUpdate::More(set) if set.len() == self.wants.places() && is_new => self.add_news(ix, &set),
            // It is about another content, or news of nothing.
            HaveUpdate::Map(_) | HaveUpdate::More(_) => return self.end_map(ix, Asking::Refused, now),
        }
        if self.peers[ix].maps.whole > MAX_WHOLE_MAPS {
            self.end_map(ix, Asking::Refused, now);
        }
        self.dials.dirty = true;
    }

    /// See [`Fetch::on_map_end`].
    pub(super) fn have_end(&mut self, id: HaveId, end: HaveEnd, now: Instant) {
        let Some(ix) = self.peer_of(id) else { return };
        let next = match end {
            HaveEnd::Closed => Asking::Paused(now + ASK_PAUSE),
            HaveEnd::Refused => Asking::Refused,
        };
        self.drop_map(ix, next, now);
    }

    /// Asks the peers that may be asked for their maps.
    pub(super) fn pump_maps(&mut self, now: Instant) {
        if !self.needs_maps() {
            return;
        }
        let mut places =
            MAX_MAPS.saturating_sub(self.peers.iter().filter(|(_, peer)| peer.maps.takes_a_place()).count());
        for ix in self.peers.ixs() {
            let peer = &mut self.peers[ix];
            let is_due = peer.maps.ask_at(now).is_some_and(|at| at <= now);
            if places == 0 || !peer.is_connected() || !is_due {
                continue;
            }
            places -= 1;
            let id = HaveId(self.next_have);
            self.next_have += 1;
            peer.maps.asking = Asking::Asked(id, now);
            peer.maps.whole = 0;
            self.actions.push_back(Action::AskHave { id, peer: peer.id });
        }
    }

    /// When this peer is to be asked for its map again.
    pub(super) fn map_deadline(&self, peer: &Peer) -> Option<Instant> {
        match peer.maps.asking {
            Asking::Paused(until) if until > self.now && self.needs_maps() => Some(until),
            _ => None,
        }
    }

    /// Whether a peer that was found is about to tell what it holds, which may be what would be looked up.
    pub(super) fn is_about_to_be_told(&self) -> bool {
        let is_coming = |peer: &Peer| match peer.link {
            Link::Dialling { patient, .. } => patient,
            Link::Connected => {
                matches!(peer.maps.asking, Asking::Asked(_, since) if since + TELL_PATIENCE > self.now)
            }
            _ => false,
        };
        self.needs_maps() && self.peers.iter().any(|(_, peer)| is_coming(peer))
    }

    fn needs_maps(&self) -> bool {
        self.wants.places() > 0 && self.wants.open() >= MIN_WANTS
    }

    /// A want got its place: the maps that are there say who holds it.
    pub(super) fn place_want(&mut self, want: WantIx) {
        let Some(place) = self.wants.place(want) else { return };
        for ix in self.peers.ixs() {
            if let Asking::Told(_, Map::Some(set)) = &self.peers[ix].maps.asking {
                if set.contains(place) {
                    self.coverage.add(want);
                } else {
                    self.peers[ix].missing.insert(want);
                }
            }
        }
    }

    /// The peer lacks a want after all; `lied` if it says so itself.
    pub(super) fn not_held(&mut self, ix: PeerIx, want: WantIx, lied: bool, now: Instant) {
        let Some(place) = self.wants.place(want) else { return };
        let served = self.peers[ix].served;
        let maps = &mut self.peers[ix].maps;
        let Asking::Told(_, map) = &mut maps.asking else { return };
        if !map.contains(place) {
            return;
        }
        let was_tried = maps.tried.remove(&want);
        let lied = lied && !was_tried;
        let weight = match map {
            Map::Some(_) => 1,
            Map::All if served == 0 => MAX_LIES,
            Map::All => LIES_PER_ALL,
        };
        maps.lies += if lied { weight } else { 0 };
        let is_worthless = maps.lies >= MAX_LIES;
        match map {
            Map::Some(set) => {
                set.remove(place);
                maps.denied.insert(want);
                self.coverage.sub(want);
            }
            Map::All => self.end_map(ix, Asking::Paused(now + ASK_PAUSE), now),
        }
        if self.peers[ix].maps.denied.len() > MAX_DENIED {
            self.end_map(ix, Asking::Paused(now + ASK_PAUSE), now);
        }
        if is_worthless {
            self.distrust(ix, now);
        }
    }

    /// A peer that tells is to be asked for this, whatever it said. `false` if there is no room for that.
    pub(super) fn try_anyway(&mut self, ix: PeerIx, want: WantIx) -> bool {
        let (rank, place) = (self.wants.rank(want), self.wants.place(want));
        let peer = &mut self.peers[ix];
        let maps = &mut peer.maps;
        let (Asking::Told(_, Map::Some(set)), Some(place)) = (&mut maps.asking, place) else { return false };
        if set.contains(place) || maps.tried.len() >= MAX_DENIED {
            return false;
        }
        set.insert(place);
        maps.denied.remove(&want);
        maps.tried.insert(want);
        self.coverage.add(want);
        peer.now_holds(want, rank, self.wants.is_pending(rank));
        true
    }

    /// Lets an idle peer that tells be asked again for some of what it denied.
    pub(super) fn retry_denied(&mut self, ix: PeerIx, now: Instant) {
        let Peer { maps, recheck, .. } = &mut self.peers[ix];
        recheck.at = now + self.config.recheck.ceiling(recheck.attempt);
        recheck.attempt = recheck.attempt.saturating_add(1);
        let (wants, late) = (&self.wants, self.requests.late());
        maps.denied.retain(|want| wants[*want].status != Status::Stored);
        let is_needed = |want: &&WantIx| wants[**want].status == Status::Pending || late.contains(want);
        let batch = self.config.recheck_batch as usize;
        let again: Vec<WantIx> = maps.denied.iter().filter(is_needed).take(batch).copied().collect();
        for want in again {
            self.try_anyway(ix, want);
        }
    }

    /// Ends the lookups of what a peer says it holds. One that has served nothing ends none: it may say what it likes.
    pub(super) fn end_covered_lookups(&mut self, ix: PeerIx) {
        let peer = &self.peers[ix];
        if peer.served == 0 || peer.maps.lies > 0 || !peer.counts() {
            return;
        }
        let Asking::Told(_, map) = &peer.maps.asking else { return };
        let is_covered = |want: &&WantIx| {
            self.wants[**want].lookup == OwnLookup::Running
                && self.wants.place(**want).is_some_and(|place| map.contains(place))
                && !peer.maps.tried.contains(want)
        };
        let covered: Vec<WantIx> = self.lookups.wants().iter().filter(is_covered).copied().collect();
        covered.into_iter().for_each(|want| self.cancel_lookup(want));
    }

    /// A map is worth nothing: its peer holds nothing, as far as is known.
    fn distrust(&mut self, ix: PeerIx, now: Instant) {
        let maps = &mut self.peers[ix].maps;
        maps.bad += 1;
        maps.lies = 0;
        let is_liar = maps.bad >= MAX_BAD_MAPS;
        self.end_map(ix, if is_liar { Asking::Liar } else { Asking::Paused(now + ASK_PAUSE) }, now);
        for want in self.wants.ixs() {
            if self.wants.place(want).is_some() {
                self.peers[ix].missing.insert(want);
            }
        }
        self.sources_changed(now);
        if is_liar {
            self.peers[ix].strikes += 1;
            if self.peers[ix].strikes >= MAX_STRIKES {
                self.ban(ix, now);
            }
        }
    }

    /// Forgets a peer's map and wants no more of it. What it was said to lack stays marked, and is asked for again as
    /// with any peer.
    pub(super) fn end_map(&mut self, ix: PeerIx, next: Asking, now: Instant) {
        let id = self.peers[ix].maps.id();
        self.drop_map(ix, next, now);
        self.actions.extend(id.map(Action::EndHave));
    }

    /// The same for a stream that has ended by itself.
    fn drop_map(&mut self, ix: PeerIx, next: Asking, now: Instant) {
        let asking = &mut self.peers[ix].maps.asking;
        if matches!(asking, Asking::Liar) {
            return;
        }
        if let Asking::Told(_, map) = std::mem::replace(asking, next) {
            self.peers[ix].maps.denied.clear();
            self.peers[ix].maps.tried.clear();
            self.uncover(&map);
            let recheck = &mut self.peers[ix].recheck;
            recheck.at = recheck.at.max(now + self.config.recheck.ceiling(recheck.attempt));
            self.sources_changed(now);
        }
    }

    /// A peer has left the table.
    pub(super) fn forget_maps(&mut self, old: &Peer) {
        self.actions.extend(old.maps.id().map(Action::EndHave));
        if let Asking::Told(_, map) = &old.maps.asking {
            self.uncover(map);
        }
    }

    fn uncover(&mut self, map: &Map) {
        match map {
            Map::All => self.coverage.all -= 1,
            Map::Some(set) => {
                for (start, end) in set.ranges() {
                    self.wants.at_places(start, end).for_each(|want| self.coverage.sub(want));
                }
            }
        }
    }

    fn peer_of(&self, id: HaveId) -> Option<PeerIx> {
        self.peers.iter().find(|(_, peer)| peer.maps.id() == Some(id)).map(|(ix, _)| ix)
    }

    fn set_all(&mut self, ix: PeerIx, id: HaveId) {
        self.set_full(ix);
        let maps = &mut self.peers[ix].maps;
        maps.denied.clear();
        maps.tried.clear();
        let old = std::mem::replace(&mut maps.asking, Asking::Told(id, Map::All));
        if let Asking::Told(_, map) = &old {
            self.uncover(map);
        }
        self.coverage.all += 1;
        self.peers[ix].lacks_nothing();
        self.end_covered_lookups(ix);
    }

    /// The peer holds these and no others.
    fn set_map(&mut self, ix: PeerIx, id: HaveId, set: ChunkSet, now: Instant) {
        self.set_full(ix);
        let nothing = ChunkSet::new(set.len());
        let maps = &mut self.peers[ix].maps;
        maps.whole = maps.whole.saturating_add(1);
        maps.denied.clear();
        maps.tried.clear();
        let (came, went, old) =
            match std::mem::replace(&mut maps.asking, Asking::Told(id, Map::Some(set.clone()))) {
                Asking::Told(_, Map::Some(old)) => (set.without(&old), old.without(&set), None),
                Asking::Told(_, Map::All) => {
                    (set.clone(), ChunkSet::full(set.len()).without(&set), Some(Map::All))
                }
                _ => (set.clone(), ChunkSet::full(set.len()).without(&set), Some(Map::Some(nothing))),
            };
        if let Some(Map::All) = old {
            self.coverage.all -= 1;
        }
        for (start, end) in went.ranges() {
            for want in self.wants.at_places(start, end) {
                if old.is_none() {
                    self.coverage.sub(want);
                }
                self.peers[ix].missing.insert(want);
            }
        }
        self.cover(ix, &came);
        if !went.is_empty() {
            self.sources_changed(now);
        }
    }

    /// The peer holds these, too.
    fn add_news(&mut self, ix: PeerIx, news: &ChunkSet) {
        let maps = &mut self.peers[ix].maps;
        let Asking::Told(_, Map::Some(set)) = &mut maps.asking else { return };
        let came = news.without(set);
        if came.is_empty() {
            maps.whole = maps.whole.saturating_add(1);
        }
        came.ranges().for_each(|(start, end)| set.insert_range(start, end));
        self.cover(ix, &came);
    }

    /// The map of a peer has got these.
    fn cover(&mut self, ix: PeerIx, came: &ChunkSet) {
        for (start, end) in came.ranges() {
            for want in self.wants.at_places(start, end) {
                self.coverage.add(want);
                let rank = self.wants.rank(want);
                let is_pending = self.wants.is_pending(rank);
                self.peers[ix].maps.denied.remove(&want);
                self.peers[ix].now_holds(want, rank, is_pending);
            }
        }
        self.end_covered_lookups(ix);
    }

    pub(super) fn check_maps(&self) {
        let mut coverage = vec![0_u32; self.wants.len()];
        let mut all = 0;
        let mut places = 0;
        for (_, peer) in self.peers.iter() {
            places += usize::from(peer.maps.takes_a_place());
            assert!(peer.is_connected() || peer.maps.id().is_none(), "a map of a peer that is not connected");
            assert!(
                peer.maps.denied.len() <= MAX_DENIED && peer.maps.tried.len() <= MAX_DENIED,
                "too many denied"
            );
            assert!(
                peer.maps.is_told() || peer.maps.denied.is_empty() && peer.maps.tried.is_empty(),
                "no map"
            );
            let Asking::Told(_, map) = &peer.maps.asking else { continue };
            let in_map = |want: &WantIx| self.wants.place(*want).is_some_and(|place| map.contains(place));
            assert!(!peer.maps.denied.iter().any(in_map), "denied and in the map");
            assert!(peer.maps.tried.iter().all(in_map), "tried and not in the map");
            assert!(peer.full, "a map of a peer that is not full");
            match map {
                Map::All => all += 1,
                Map::Some(set) => {
                    for want in self.wants.ixs() {
                        let Some(place) = self.wants.place(want) else { continue };
                        coverage[want.0 as usize] += u32::from(set.contains(place));
                        assert_eq!(peer.missing.contains(want), !set.contains(place), "marks and map");
                    }
                }
            }
        }
        assert!(places <= MAX_MAPS, "too many maps");
        for want in self.wants.ixs() {
            assert_eq!(coverage[want.0 as usize] + all, self.coverage.of(want), "coverage of a want");
        }
    }
}
