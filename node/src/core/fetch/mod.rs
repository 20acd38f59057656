//! One download (a file, a directory, a chunk, a manifest tree) from many peers.
//!
//! The machine is told what is wanted and who may hold it, and answers whom to look up, whom to dial and which
//! block to request from whom. It moves no bytes: a block that arrived is reported by its length only.
//!
//! # Life of a want
//! ```text
//! pending --Request--> in flight --on_block--> received --on_stored--> stored
//!    ^                  |                        |
//!    +------------------+------------------------+   missing, busy, failed, disconnected, bad, taken back
//! ```
//! A want in flight may have a second copy: when the first is late (older than four times the peer's usual time),
//! or when a peer has nothing else to do. The first block wins, the other copy gets [`Action::Forget`]; on lanes,
//! where copies of what waits in a queue are made, already when one is further than the other.
//!
//! # Who is asked
//! Providers of the root and hinted peers are believed to hold everything until they answer Missing; a provider of
//! one chunk that chunk and, once it served it, its neighbours, more of them with each hit (a file that shares one
//! chunk often shares the next). A chunk without any source that answers is looked up by its own CID, again and
//! again with backoff. The peer with the most room in its window is asked first, so equal peers get equal shares
//! and fast peers more.
//!
//! A peer that tells which chunks it holds (a have-map, [`Fetch::on_map`]) is asked for these and no others.
//!
//! # Invariants
//! - The bytes requested or received and not yet stored never exceed the budget, and in order the want that is
//!   consumed next always finds room.
//! - A want has at most two copies in flight, never both at one peer. A peer is never asked for what it is known
//!   to lack, and never again after two bad blocks, or one if it has served less than that.
//! - What comes twice because two peers were asked stays below a twenty-fifth of what is of use, but for what peers
//!   take very long over or that have not answered yet, and for a block of 32 or more that was to be taken back.
//! - What a peer has on its way is at most one block, or twice what it has served: a hostile peer costs one block.
//! - Every [`Action::Request`] ends in exactly one input that names its id, or in [`Action::Forget`].
//! - Work per event is logarithmic in the wants and linear in the connected peers; memory is about 100 bytes a
//!   want, one bit a want and peer, and one a chunk and map. A map also costs a step for each chunk.
//!
//! # For the driver, besides the contract of [`core`](crate::core)
//! - Call [`on_wants`](Fetch::on_wants) first. Give wants in the order in which they are consumed.
//! - Every [`Action::Lookup`] must end in [`on_lookup_done`](Fetch::on_lookup_done), every [`Action::Dial`] in
//!   [`on_connected`](Fetch::on_connected) (also if the peer was connected already) or
//!   [`on_dial_failed`](Fetch::on_dial_failed).
//! - Connections and disconnections of any peer may be reported; those of strangers are ignored.
//! - Every [`Action::AskHave`] must bring [`on_map`](Fetch::on_map) with everything, or end in
//!   [`on_map_end`](Fetch::on_map_end), unless [`Action::EndHave`] comes first.
//! - After [`Action::Finished`] or [`Action::Failed`] nothing follows, and everything outstanding is void.

mod answers;
mod config;
mod credit;
mod dials;
mod invariants;
mod links;
mod lookups;
mod maps;
mod pace;
mod peers;
mod requests;
mod scheduler;
mod timers;
mod types;
mod waiting;
mod wants;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use dhtfs_store::ContentCid;
use libp2p::PeerId;
use rand::{SeedableRng as _, rngs::StdRng};

pub use config::{FetchConfig, MAX_COPIES, MAX_SOURCES_PER_WANT, MAX_STRIKES, Order};
pub use types::{
    Action, FetchFailure, FetchProgress, HaveEnd, HaveId, HaveUpdate, PeerProgress, PeerState, RequestId,
    Want,
};
pub use waiting::{Cause, Group, PeerWait, QUIET, Waiting};

use credit::Credit;
use dials::Dials;
use lookups::Lookups;
use maps::Coverage;
use peers::{Link, PeerIx, Peers};
use requests::{Came, Requests};
use wants::{Status, WantIx, Wants};

/// How many times as long as without any sign of life a fetch goes on while answers move, or peers say that they are busy, but
/// no block comes.
const MAX_MOVED: u32 = 4;

/// The machine. See the module's documentation.
#[derive(Debug)]
pub struct Fetch {
    config: FetchConfig,
    root: ContentCid,
    rng: StdRng,
    wants: Wants,
    /// No more wants will come.
    complete: bool,
    ended: bool,
    peers: Peers,
    /// Which peers that are not full are believed to hold a want.
    sources: BTreeMap<WantIx, Vec<PeerIx>>,
    requests: Requests,
    lookups: Lookups,
    dials: Dials,
    coverage: Coverage,
    credit: Credit,
    next_have: u64,
    actions: VecDeque<Action>,
    /// When something was last stored, moved on by the times in which the own store, reader or limit was slow.
    progress_at: Instant,
    /// When a part of a block that is waited for came last: then the fetch does not fail yet.
    moved_at: Instant,
    /// Since when a received block waits for the own store or reader, or the next request for the own limit.
    waiting_since: Option<Instant>,
    /// When an idle peer may make the next copy.
    hedge_at: Option<Instant>,
    /// When it was looked last for what waits although it is not rare any more.
    swapped_at: Instant,
    now: Instant,
    /// Smoothed length of blocks whose length was not known before.
    unknown_len: u32,
    received_len: u64,
    requested_len: u64,
    wasted_len: u64,
    /// Second copies from idle peers that came before the first.
    spares_won: u32,
    /// Second copies from idle peers whose first came all the same.
    spares_lost: u32,
    /// Requests that were late and brought their block all the same.
    false_alarms: u32,
}

impl Fetch {
    /// A fetch of the tree under `root`. `seed` decides where it starts and every random choice.
    pub fn new(config: FetchConfig, root: ContentCid, seed: u64, now: Instant) -> Self {
        let config = config.clamped();
        Self {
            root,
            rng: StdRng::seed_from_u64(seed),
            wants: Wants::new(config.order, seed),
            complete: false,
            ended: false,
            peers: Peers::default(),
            sources: BTreeMap::new(),
            requests: Requests::default(),
            lookups: Lookups::new(now),
            dials: Dials::default(),
            coverage: Coverage::default(),
            credit: Credit::default(),
            next_have: 0,
            actions: VecDeque::new(),
            progress_at: now,
            moved_at: now,
            waiting_since: None,
            hedge_at: None,
            swapped_at: now,
            now,
            unknown_len: 0,
            received_len: 0,
            requested_len: 0,
            wasted_len: 0,
            spares_won: 0,
            spares_lost: 0,
            false_alarms: 0,
            config,
        }
    }

    /// These are wanted too. CIDs that were given before are ignored, so each is requested once however often it
    /// occurs. More than
    /// [`max_wants`](FetchConfig::max_wants) end the fetch. Counts as progress.
    pub fn on_wants(&mut self, wants: Vec<Want>, now: Instant) {
        if self.ended {
            return;
        }
        for want in wants {
            if self.wants.len() >= self.config.max_wants {
                self.end(Action::Failed(FetchFailure::TooLarge));
                return;
            }
            if let Some(ix) = self.wants.add(want) {
                self.place_want(ix);
                self.note_pending(ix);
                self.note_progress(now);
            }
        }
        self.lookups.start(&self.config, now);
        self.sources_changed(now);
        self.pump(now);
    }

    /// The content under the root unfolds to so many chunks, repeated ones counted each time: from now on peers are
    /// asked which of them they hold. To be called before the wants that have a [`place`](Want::place); only the first
    /// call counts.
    pub fn on_content(&mut self, chunks: u32, now: Instant) {
        if self.ended {
            return;
        }
        self.wants.set_places(chunks);
        self.pump(now);
    }

    /// A peer that was asked for its have-map tells something.
    pub fn on_map(&mut self, id: HaveId, update: HaveUpdate, now: Instant) {
        if self.ended {
            return;
        }
        self.have(id, update, now);
        self.pump(now);
    }

    /// A peer that was asked for its have-map tells no more. Not to be called after [`HaveUpdate::All`].
    pub fn on_map_end(&mut self, id: HaveId, end: HaveEnd, now: Instant) {
        if self.ended {
            return;
        }
        self.have_end(id, end, now);
        self.pump(now);
    }

    /// No more wants will come: the fetch finishes when all it has are stored.
    pub fn on_wants_complete(&mut self, now: Instant) {
        if self.ended {
            return;
        }
        self.complete = true;
        self.pump(now);
    }

    /// A want was obtained elsewhere, for example from another local file.
    pub fn on_have(&mut self, cid: ContentCid, now: Instant) {
        if self.ended {
            return;
        }
        if let Some(ix) = self.wants.find(&cid).filter(|ix| self.wants[*ix].status != Status::Stored) {
            self.waste_received(ix);
            self.satisfy(ix, now);
            self.note_progress(now);
        }
        self.pump(now);
    }

    /// A want that was stored is gone again and needed once more, for example by a reader that meets a repeated
    /// chunk and has not kept it. In order, it is consumed next.
    pub fn on_lost(&mut self, cid: ContentCid, now: Instant) {
        if self.ended {
            return;
        }
        if let Some(ix) = self.wants.find(&cid).filter(|ix| self.wants[*ix].status == Status::Stored) {
            self.set_pending(ix, now);
            self.note_progress(now);
        }
        self.pump(now);
    }

    /// A peer is said to hold `cid`. A provider of the root is believed to hold everything.
    pub fn on_provider(&mut self, cid: ContentCid, peer: PeerId, now: Instant) {
        if self.ended {
            return;
        }
        let want = self.wants.find(&cid).filter(|ix| self.wants[*ix].status != Status::Stored);
        if (cid == self.root || want.is_some())
            && let Some(ix) = self.add_peer(peer, now)
        {
            if cid == self.root {
                self.set_full(ix);
            }
            if let Some(want) = want {
                self.add_source(ix, want);
            }
            self.dials.renew(&mut self.peers[ix], &self.config);
        }
        self.pump(now);
    }

    /// A peer that the user named: like a provider of the root, but dialled for ever.
    pub fn on_hint(&mut self, peer: PeerId, now: Instant) {
        if self.ended {
            return;
        }
        if let Some(ix) = self.add_peer(peer, now) {
            self.set_full(ix);
            self.peers[ix].hint = true;
            self.dials.renew(&mut self.peers[ix], &self.config);
        }
        self.pump(now);
    }

    /// A lookup has ended, whatever it found.
    pub fn on_lookup_done(&mut self, cid: ContentCid, now: Instant) {
        if self.ended {
            return;
        }
        self.lookup_done(cid, now);
        self.pump(now);
    }

    /// The user wants another look: providers are looked for now, those that could not be reached are dialled now, and
    /// those that lacked something are asked again. Who sent wrong data stays out. The time after which the fetch fails
    /// begins anew.
    pub fn on_refresh(&mut self, now: Instant) {
        if self.ended {
            return;
        }
        for (_, peer) in self.peers.iter_mut() {
            peer.refresh(now);
        }
        self.dials.dirty = true;
        self.refresh_lookups(now);
        self.note_progress(now);
        self.pump(now);
    }

    /// There is a connection to this peer.
    pub fn on_connected(&mut self, peer: PeerId, now: Instant) {
        if self.ended {
            return;
        }
        if let Some(ix) = self.peers.find(&peer) {
            self.connected(ix, now);
        }
        self.pump(now);
    }

    /// A dial has failed.
    pub fn on_dial_failed(&mut self, peer: PeerId, now: Instant) {
        if self.ended {
            return;
        }
        if let Some(ix) = self.peers.find(&peer)
            && matches!(self.peers[ix].link, Link::Dialling { .. })
        {
            self.back_off(ix, now);
        }
        self.pump(now);
    }

    /// The last connection to this peer is gone; its wants go back at once.
    pub fn on_disconnected(&mut self, peer: PeerId, now: Instant) {
        if self.ended {
            return;
        }
        if let Some(ix) = self.peers.find(&peer)
            && self.peers[ix].is_connected()
        {
            self.disconnected(ix, now);
        }
        self.pump(now);
    }

    /// A block of `len` bytes arrived. `true`: verify and store it, then report [`on_stored`](Self::on_stored) or
    /// [`on_bad`](Self::on_bad). `false`: drop it; it is too late, not asked for, or has the wrong length (which
    /// already counted as bad).
    #[must_use]
    pub fn on_block(&mut self, id: RequestId, len: u32, now: Instant) -> bool {
        if self.ended {
            return false;
        }
        let wanted = self.block(id, len, now);
        self.pump(now);
        wanted
    }

    /// Whether this peer is asked on a lane: small requests take little room there, and more of them may be in flight.
    pub fn on_lane(&mut self, peer: &PeerId, has_lane: bool, now: Instant) {
        if let Some(ix) = self.peers.find(peer)
            && self.peers[ix].has_lane != has_lane
        {
            self.peers[ix].has_lane = has_lane;
            self.pump(now);
        }
    }

    /// A part of the block came: enough of it since this was said last that it will come in the end. Over a slow line a block may
    /// take longer than a fetch goes on without progress.
    pub fn on_moved(&mut self, id: RequestId, now: Instant) {
        if self.ended {
            return;
        }
        if self.requests.get(id).is_some_and(|request| !request.is_received()) {
            self.moved_at = now;
        }
        self.pump(now);
    }

    /// This block begins to come: it does not wait in the queue of its peer any more.
    pub fn on_begun(&mut self, id: RequestId, now: Instant) {
        if self.ended {
            return;
        }
        self.came(id, Came::Head, now);
        self.pump(now);
    }

    /// The first part of this block is here.
    pub fn on_part(&mut self, id: RequestId, now: Instant) {
        if self.ended {
            return;
        }
        self.came(id, Came::Part, now);
        self.pump(now);
    }

    /// One half of this block is here: where only one at a time is asked for, now is the time for the next.
    pub fn on_half(&mut self, id: RequestId, now: Instant) {
        if self.ended {
            return;
        }
        self.came(id, Came::Half, now);
        self.pump(now);
    }

    /// The peer sends no more of a block that was [forgotten](Action::Forget), of which so many bytes had come.
    pub fn on_cancelled(&mut self, id: RequestId, came_len: u32, now: Instant) {
        if self.ended {
            return;
        }
        self.cancelled(id, came_len, now);
        self.pump(now);
    }

    /// A received block has the right hash. To be reported when it then waits to be consumed, because its peer is
    /// asked for little until then; [`on_stored`](Self::on_stored) says as much.
    pub fn on_verified(&mut self, id: RequestId, now: Instant) {
        if self.ended {
            return;
        }
        self.verified(id);
        self.pump(now);
    }

    /// A received block was verified and stored or consumed: its part of the budget is free again.
    pub fn on_stored(&mut self, id: RequestId, now: Instant) {
        if self.ended {
            return;
        }
        self.stored(id, now);
        self.pump(now);
    }

    /// A received block does not have the hash it should: a strike for its peer, the last one if it has served
    /// less than it has spoilt.
    pub fn on_bad(&mut self, id: RequestId, now: Instant) {
        if self.ended {
            return;
        }
        self.bad(id, now);
        self.pump(now);
    }

    /// Whether a block of this length, which [`on_block`](Self::on_block) would drop, could still be right or wrong:
    /// its request was forgotten before it came. Whoever sends such blocks must not get away with garbage: if its hash
    /// is wrong, report [`on_bad_late`](Self::on_bad_late) after `on_block`.
    pub fn is_late(&self, id: RequestId, len: u32) -> bool {
        !self.ended
            && self
                .requests
                .zombie(id)
                .is_some_and(|zombie| self.wants[zombie.request.want].may_have_len(len))
    }

    /// A block that came too late ([`is_late`](Self::is_late)) does not have the hash it should: as bad as any other.
    pub fn on_bad_late(&mut self, peer: PeerId, cid: ContentCid, len: u32, now: Instant) {
        if self.ended {
            return;
        }
        self.bad_late(&peer, &cid, len, now);
        self.pump(now);
    }

    /// The answer breaks the protocol, for example because it is too long: as bad as a block of the longest
    /// acceptable length.
    pub fn on_malformed(&mut self, id: RequestId, now: Instant) {
        if self.ended {
            return;
        }
        self.malformed(id, now);
        self.pump(now);
    }

    /// The peer does not have it.
    pub fn on_missing(&mut self, id: RequestId, now: Instant) {
        if self.ended {
            return;
        }
        self.missing(id, now);
        self.pump(now);
    }

    /// So many requests wait at this peer, if it says so; to be told before it is told that the peer is [busy](Self::on_busy).
    pub fn on_queue(&mut self, peer: &PeerId, requests: Option<u32>) {
        if let Some(ix) = self.peers.find(peer) {
            self.peers[ix].queue = requests;
        }
    }

    /// The peer is overloaded.
    pub fn on_busy(&mut self, id: RequestId, now: Instant) {
        if self.ended {
            return;
        }
        self.busy(id, now);
        self.pump(now);
    }

    /// The request failed in the transport.
    pub fn on_failed(&mut self, id: RequestId, now: Instant) {
        if self.ended {
            return;
        }
        self.failed(id, now);
        self.pump(now);
    }

    /// A deadline has passed.
    pub fn on_timeout(&mut self, now: Instant) {
        if self.ended {
            return;
        }
        self.run_timers(now);
        self.pump(now);
    }

    /// The next thing to do; call until `None` after every input.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`on_timeout`](Self::on_timeout) is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.ended {
            return None;
        }
        let fetch = [self.failing_at(), self.hedge_at, self.requests.next_burial()];
        let others = [self.dials.deadline(), self.lookups_deadline()];
        let peers = self.peers.iter().filter_map(|(_, peer)| self.peer_deadline(peer));
        fetch.into_iter().chain(others).flatten().chain(peers).min()
    }

    /// How far the fetch is.
    pub fn progress(&self) -> FetchProgress {
        FetchProgress {
            wanted: self.wants.len(),
            stored: self.wants.stored(),
            in_flight: self.requests.in_flight(),
            received_len: self.received_len,
            requested_len: self.requested_len,
            wasted_len: self.wasted_len,
            peers: self.peers.iter().map(|(_, peer)| PeerProgress::of(peer)).collect(),
            lookups: self.lookups.running(),
            own_lookups: self.lookups.made(),
            maps: self.peers.iter().filter(|(_, peer)| peer.maps.is_told()).count(),
        }
    }

    /// How many connected peers say that they hold this want; `None` if it is not wanted.
    pub fn coverage(&self, cid: &ContentCid) -> Option<u32> {
        self.wants.find(cid).map(|ix| self.coverage.of(ix))
    }

    /// When the fetch fails unless something is stored before.
    fn failing_at(&self) -> Option<Instant> {
        let running = self.wants.open() > 0 && self.waiting_since.is_none();
        running.then(|| {
            let no_progress = self.config.no_progress;
            // What moves brings a block in the end, or it is no better than nothing.
            let moved_at = self.moved_at.min(self.progress_at + MAX_MOVED * no_progress);
            self.progress_at.max(moved_at) + no_progress
        })
    }

    fn note_progress(&mut self, now: Instant) {
        self.progress_at = now;
        if self.waiting_since.is_some() {
            self.waiting_since = Some(now);
        }
    }

    /// Decides what to do next; ends every input.
    fn pump(&mut self, now: Instant) {
        self.now = now;
        if self.ended {
            return;
        }
        if self.complete && self.wants.open() == 0 {
            self.end(Action::Finished);
            return;
        }
        self.watch_progress(now);
        if self.ended {
            return;
        }
        self.pump_requests(now);
        self.watch_waiting(now);
        self.pump_maps(now);
        self.pump_dials(now);
        self.pump_lookups(now);
    }

    /// Whether a received block waits for the own store or reader.
    fn has_received(&self) -> bool {
        match self.wants.head() {
            Some(head) => self.wants[head].status == Status::Received,
            None => self.requests.received() > 0,
        }
    }

    /// Stops the clock while the own store or reader is what everything waits for, or the own limit.
    fn watch_waiting(&mut self, now: Instant) {
        let waiting = self.has_received() || self.credit.holds();
        match (waiting, self.waiting_since) {
            (true, None) => self.waiting_since = Some(now),
            (false, Some(since)) => {
                self.progress_at += now.saturating_duration_since(since.max(self.progress_at));
                self.waiting_since = None;
            }
            _ => {}
        }
    }

    fn watch_progress(&mut self, now: Instant) {
        self.watch_waiting(now);
        if self.wants.open() == 0 {
            self.progress_at = now;
        }
        if self.failing_at().is_some_and(|at| at <= now) {
            let root_open =
                self.wants.find(&self.root).is_some_and(|ix| self.wants[ix].status != Status::Stored);
            let failure = if root_open {
                FetchFailure::NotFound
            } else {
                FetchFailure::Incomplete { missing: self.wants.open() }
            };
            self.end(Action::Failed(failure));
        }
    }

    fn end(&mut self, action: Action) {
        self.ended = true;
        self.actions.push_back(action);
    }
}
