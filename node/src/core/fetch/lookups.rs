//! What to look up, and when.
//!
//! The root first, and again with backoff while there is no provider, nothing comes, or more peers could be used.
//! A want's own CID only when no peer that answers is believed to hold it, again with backoff while that is so. When
//! nothing is stored for a while, what peers are believed to hold is doubted, and a few wants are looked up too.
//!
//! While peers that were found are being asked what they hold, no further wants are looked up for a short time: it may be
//! these.
//!
//! Wants without a source are noticed one by one when an answer takes their last one. When a peer goes, all
//! pending wants may have lost it: then a scan goes over them in steps, after a grace time for reconnecting.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use dhtfs_store::ContentCid;

use super::{
    Action, Fetch,
    config::FetchConfig,
    peers::PeerIx,
    wants::{OwnLookup, Rank, Status, WantIx},
};

/// Most wants that wait for a lookup; the scan finds the others later.
const MAX_QUEUED: usize = 1024;

/// Wants looked at in one step of the scan: well under a millisecond.
const SCAN_STEP: usize = 4096;

/// A fetch without a stored block for this long looks for more providers, and again each time.
const SLOW: Duration = Duration::from_secs(5);

/// After lookups, others wait so long at most for what the peers that were found hold.
const HELD_BACK: Duration = Duration::from_secs(2);

/// Most wants looked up because nothing comes although somebody is believed to hold them.
const MAX_DOUBTED: usize = 8;

#[derive(Debug)]
pub(super) struct Lookups {
    /// No want's own lookup before this.
    allowed_at: Instant,
    started: bool,
    root_running: bool,
    /// When the root is looked up (again); `None` while that runs.
    root_at: Option<Instant>,
    /// Lookups of the root in a row without a stored block.
    root_attempt: u32,
    /// Lookups of the root made only for more peers.
    more_attempt: u32,
    /// Stored wants at the last lookup of the root.
    root_stored: usize,
    /// Own lookups in flight.
    running: BTreeSet<WantIx>,
    /// Own lookups started so far.
    made: u64,
    /// When the last was taken from the queue.
    begun_at: Option<Instant>,
    queue: VecDeque<WantIx>,
    retry: BTreeSet<(Instant, WantIx)>,
    /// No doubting before this.
    doubt_at: Instant,
    scan_at: Option<Instant>,
    /// Where a scan that has begun goes on.
    scan: Option<Rank>,
}

impl Lookups {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            allowed_at: now,
            started: false,
            root_running: false,
            root_at: None,
            root_attempt: 0,
            more_attempt: 0,
            root_stored: 0,
            running: BTreeSet::new(),
            made: 0,
            begun_at: None,
            queue: VecDeque::new(),
            retry: BTreeSet::new(),
            doubt_at: now,
            scan_at: None,
            scan: None,
        }
    }

    /// The first wants are there.
    pub(super) fn start(&mut self, config: &FetchConfig, now: Instant) {
        if !self.started {
            self.started = true;
            self.root_at = Some(now);
            self.allowed_at = now + config.source_grace * 5;
        }
    }

    /// Lookups in flight.
    pub(super) fn running(&self) -> usize {
        self.running.len() + usize::from(self.root_running)
    }

    /// Wants whose own lookups are in flight.
    pub(super) fn wants(&self) -> &BTreeSet<WantIx> {
        &self.running
    }

    /// Own lookups started so far.
    pub(super) fn made(&self) -> u64 {
        self.made
    }

    /// One place is kept for the root.
    fn has_room(&self, config: &FetchConfig) -> bool {
        self.running.len() + 1 < config.max_lookups
    }
}

impl Fetch {
    /// Peers may have stopped being sources.
    pub(super) fn sources_changed(&mut self, now: Instant) {
        let grace = now + self.config.source_grace;
        self.lookups.scan_at = Some(self.lookups.scan_at.map_or(grace, |at| at.min(grace)));
        self.dials.dirty = true;
    }

    /// A peer has stopped being a source. With the last provider of the root another is looked for.
    pub(super) fn source_lost(&mut self, ix: PeerIx, now: Instant) {
        self.sources_changed(now);
        if self.peers[ix].full
            && !self.has_full_peer()
            && let Some(at) = self.lookups.root_at
        {
            let soon = now + self.root_pause();
            self.lookups.root_at = Some(at.min(soon));
        }
    }

    /// A want lost a copy or a source: looks it up if that was the last one.
    pub(super) fn check_source(&mut self, want: WantIx, now: Instant) {
        if self.wants[want].lookup != OwnLookup::Idle || !self.needs_lookup(want) {
            return;
        }
        if self.lookups.queue.len() < MAX_QUEUED {
            self.wants[want].lookup = OwnLookup::Queued;
            self.lookups.queue.push_back(want);
        } else {
            self.sources_changed(now);
        }
    }

    /// The want no longer needs its lookup.
    pub(super) fn cancel_lookup(&mut self, want: WantIx) {
        // Queued and waiting ones are dropped when their turn comes.
        if self.wants[want].lookup.is_running() {
            self.wants[want].lookup = OwnLookup::Idle;
            self.lookups.running.remove(&want);
            self.actions.push_back(Action::CancelLookup(self.wants[want].cid));
        }
    }

    /// See [`Fetch::on_lookup_done`].
    pub(super) fn lookup_done(&mut self, cid: ContentCid, now: Instant) {
        if cid == self.root {
            if self.lookups.root_running {
                self.lookups.root_running = false;
                self.lookups.allowed_at = self.lookups.allowed_at.min(now + self.config.source_grace);
                self.lookups.root_at = Some(now + self.next_root_pause(now));
            }
            return;
        }
        let Some(ix) = self.wants.find(&cid).filter(|ix| self.wants[*ix].lookup.is_running()) else {
            return;
        };
        let done = self.wants[ix].lookups_done;
        let pause = self.config.chunk_backoff.delay(u32::from(done), &mut self.rng);
        self.lookups.running.remove(&ix);
        self.lookups.retry.insert((now + pause, ix));
        self.wants[ix].lookup = OwnLookup::Waiting;
        self.wants[ix].lookups_done = done.saturating_add(1);
    }

    /// Looks for the root now, unless that is under way, and for everything that waits to be looked up again.
    pub(super) fn refresh_lookups(&mut self, now: Instant) {
        let is_open = self.wants.open() > 0;
        let lookups = &mut self.lookups;
        lookups.root_attempt = 0;
        lookups.more_attempt = 0;
        if lookups.started && is_open && !lookups.root_running {
            lookups.root_at = None;
            lookups.root_running = true;
            self.actions.push_back(Action::Lookup(self.root));
        }
        for (_, want) in std::mem::take(&mut self.lookups.retry) {
            self.wants[want].lookups_done = 0;
            self.lookups.retry.insert((now, want));
        }
        self.sources_changed(now);
    }

    /// Starts the lookups that are due.
    pub(super) fn pump_lookups(&mut self, now: Instant) {
        if !self.lookups.started || self.wants.open() == 0 {
            return;
        }
        if self.lookups.root_at.is_some_and(|at| at <= now) {
            self.look_up_root(now);
        }
        if now < self.lookups.allowed_at {
            return;
        }
        while let Some(&(at, want)) = self.lookups.retry.first()
            && at <= now
            && self.lookups.queue.len() < MAX_QUEUED
        {
            self.lookups.retry.pop_first();
            self.wants[want].lookup = OwnLookup::Idle;
            self.check_source(want, now);
        }
        if self.lookups.scan_at.is_some_and(|at| at <= now) {
            self.lookups.scan_at = None;
            self.lookups.scan = Some(Rank::FIRST);
            for want in self.requests.late().clone() {
                self.check_source(want, now);
            }
        }
        if self.doubt_due().is_some_and(|at| at <= now) {
            self.lookups.doubt_at = now + SLOW;
            self.doubt_sources();
        }
        self.look_up_queued(now);
        if self.lookups.queue.is_empty() && self.lookups.has_room(&self.config) && self.lookups.scan.is_some()
        {
            self.scan_step();
            self.look_up_queued(now);
        }
    }

    /// When a lookup is due.
    pub(super) fn lookups_deadline(&self) -> Option<Instant> {
        let lookups = &self.lookups;
        if !lookups.started || self.wants.open() == 0 {
            return None;
        }
        let mut own = None;
        if lookups.has_room(&self.config) {
            let waiting = !lookups.queue.is_empty() || lookups.scan.is_some();
            let at_once =
                waiting.then(|| self.held_back_until().map_or(self.now, |until| until.max(self.now)));
            let retry = lookups.retry.first().map(|(at, _)| *at);
            own = at_once.into_iter().chain(retry).chain(lookups.scan_at).chain(self.doubt_due()).min();
        }
        own.map(|at| at.max(lookups.allowed_at)).into_iter().chain(lookups.root_at).min()
    }

    /// When the next lookup begins, as far as that is known. Unlike the deadline it is no moment at which only something is
    /// looked at.
    pub(super) fn next_lookup_at(&self) -> Option<Instant> {
        let lookups = &self.lookups;
        if !lookups.started || self.wants.open() == 0 {
            return None;
        }
        let mut own = None;
        if lookups.has_room(&self.config) {
            // Some of them wait no longer for what they were to be looked up for.
            let is_queued = lookups.queue.iter().any(|want| self.needs_lookup(*want));
            let at_once = is_queued.then(|| self.held_back_until().unwrap_or(self.now));
            let mut retries = lookups.retry.iter().take(MAX_QUEUED);
            let retry = retries.find(|(_, want)| self.needs_lookup(*want)).map(|(at, _)| *at);
            own = at_once.into_iter().chain(retry).min();
        }
        own.map(|at| at.max(lookups.allowed_at)).into_iter().chain(lookups.root_at).min()
    }

    fn look_up_root(&mut self, now: Instant) {
        let useful = self.peers.iter().filter(|(_, peer)| peer.is_useful()).count();
        if useful >= self.config.max_peers && !self.is_slow(now) {
            self.lookups.root_at = Some(now + self.config.more_backoff.ceiling(0));
            return;
        }
        self.lookups.root_at = None;
        self.lookups.root_running = true;
        self.actions.push_back(Action::Lookup(self.root));
    }

    /// The pause after a lookup of the root.
    fn next_root_pause(&mut self, now: Instant) -> Duration {
        let stored = self.wants.stored() > self.lookups.root_stored;
        if (self.has_full_peer() || stored) && !self.is_slow(now) {
            self.lookups.root_stored = self.wants.stored();
            let pause = self.config.more_backoff.delay(self.lookups.more_attempt, &mut self.rng);
            self.lookups.more_attempt = self.lookups.more_attempt.saturating_add(1);
            pause
        } else {
            let pause = self.root_pause();
            self.lookups.root_attempt = self.lookups.root_attempt.saturating_add(1);
            pause
        }
    }

    /// The pause while the fetch is in need; short again after progress.
    fn root_pause(&mut self) -> Duration {
        if self.wants.stored() > self.lookups.root_stored {
            self.lookups.root_stored = self.wants.stored();
            self.lookups.root_attempt = 0;
        }
        self.config.root_backoff.delay(self.lookups.root_attempt, &mut self.rng)
    }

    pub(super) fn is_slow(&self, now: Instant) -> bool {
        self.waiting_since.is_none() && now.saturating_duration_since(self.progress_at) >= SLOW
    }

    /// When sources are doubted next.
    fn doubt_due(&self) -> Option<Instant> {
        self.waiting_since.is_none().then(|| self.lookups.doubt_at.max(self.progress_at + SLOW))
    }

    /// Looks up some of the wants in flight or first in turn, whoever is believed to hold them.
    fn doubt_sources(&mut self) {
        let in_flight = self.requests.iter().filter(|(_, request)| !request.is_received());
        let mut wants: Vec<WantIx> = in_flight.map(|(_, request)| request.want).collect();
        wants.extend(self.wants.pending().iter().take(MAX_DOUBTED).map(|rank| rank.want()));
        let mut room = MAX_DOUBTED.saturating_sub(self.lookups.running.len() + self.lookups.queue.len());
        for want in wants {
            let state = &mut self.wants[want];
            let room_for_it = room > 0 && self.lookups.has_room(&self.config);
            if room_for_it && state.lookup == OwnLookup::Idle && state.cid != self.root {
                room -= 1;
                state.lookup = OwnLookup::Doubting;
                self.lookups.running.insert(want);
                self.lookups.made += 1;
                self.actions.push_back(Action::Lookup(state.cid));
            }
        }
    }

    fn has_full_peer(&self) -> bool {
        self.peers.iter().any(|(_, peer)| peer.full && peer.counts())
    }

    /// Whether nobody who answers is believed to hold this want, and nobody is about to send it.
    fn needs_lookup(&self, want: WantIx) -> bool {
        let state = &self.wants[want];
        let unserved = match state.status {
            Status::Pending => true,
            Status::InFlight => self.requests.late().contains(&want),
            Status::Received | Status::Stored => false,
        };
        unserved && state.cid != self.root && !self.has_source(want)
    }

    /// When further wants may be looked up, if peers that the last lookups found are about to tell what they hold.
    fn held_back_until(&self) -> Option<Instant> {
        let begun = self.lookups.begun_at.filter(|_| self.is_about_to_be_told())?;
        Some(begun + HELD_BACK)
    }

    /// Looks up what is queued while there is room.
    fn look_up_queued(&mut self, now: Instant) {
        if self.held_back_until().is_some_and(|until| now < until) {
            return;
        }
        while self.lookups.has_room(&self.config)
            && let Some(want) = self.lookups.queue.pop_front()
        {
            if self.needs_lookup(want) {
                self.wants[want].lookup = OwnLookup::Running;
                self.lookups.running.insert(want);
                self.lookups.made += 1;
                self.lookups.begun_at = Some(now);
                self.actions.push_back(Action::Lookup(self.wants[want].cid));
            } else {
                self.wants[want].lookup = OwnLookup::Idle;
            }
        }
    }

    /// Looks at some of the pending wants for ones without a source.
    fn scan_step(&mut self) {
        let sure = |peer: &super::peers::Peer| peer.full && peer.counts() && peer.missing.is_empty();
        if self.peers.iter().any(|(_, peer)| sure(peer)) {
            self.lookups.scan = None;
            return;
        }
        let Some(from) = self.lookups.scan else { return };
        let step: Vec<Rank> = self.wants.pending().range(from..).take(SCAN_STEP).copied().collect();
        let mut next = step.last().filter(|_| step.len() == SCAN_STEP).map(|rank| rank.after());
        for rank in step {
            let want = rank.want();
            if self.lookups.queue.len() >= MAX_QUEUED {
                next = Some(rank);
                break;
            }
            if self.wants[want].lookup == OwnLookup::Idle && self.needs_lookup(want) {
                self.wants[want].lookup = OwnLookup::Queued;
                self.lookups.queue.push_back(want);
            }
        }
        self.lookups.scan = next;
    }

    /// Panics if the books of the lookups do not balance.
    pub(super) fn check_lookups(&self) {
        let count = |state| self.wants.iter().filter(|want| want.lookup == state).count();
        let running = count(OwnLookup::Running) + count(OwnLookup::Doubting);
        assert_eq!(running, self.lookups.running.len(), "running lookups");
        let is_running = |want: &WantIx| self.wants[*want].lookup.is_running();
        assert!(self.lookups.running.iter().all(is_running), "a lookup that does not run");
        assert_eq!(count(OwnLookup::Queued), self.lookups.queue.len(), "queued lookups");
        assert_eq!(count(OwnLookup::Waiting), self.lookups.retry.len(), "waiting lookups");
        assert!(self.lookups.running() <= self.config.max_lookups, "too many lookups");
    }
}
