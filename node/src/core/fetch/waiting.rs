//! Why a fetch waits, told from its state at one instant.
//!
//! Every known peer is in exactly one [`PeerWait`], so the numbers add up. The cost is that of a look at every known
//! peer, and at no more than [`MAX_COUNTED`] wants besides those in flight and those that wait for their lookup.

use std::time::{Duration, Instant};

use super::{
    Fetch,
    config::Order,
    peers::{Link, Pause, Peer, PeerIx},
    requests::Request,
    wants::{Status, WantIx},
};

/// A fetch of which nothing was stored for so long waits, and says why.
pub const QUIET: Duration = Duration::from_secs(2);

/// Pending wants that are looked at to see whether somebody has them; of more, the number is a lower bound.
const MAX_COUNTED: usize = 4096;

/// What a fetch waits for first of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Blocks arrived and are not yet written.
    Disk,
    /// The own limit on what is asked for.
    Limit,
    /// The block that is consumed next is here and nobody takes it.
    Reader,
    /// No provider is known.
    NoProvider,
    /// Peers were asked and may still answer in time.
    Answers,
    /// Peers are being connected to for the first time.
    Connections,
    /// All who could help are busy, or at least one is.
    Busy,
    /// Those who were asked do not answer.
    Silence,
    /// Peers could be asked and are not: what they were asked for before and nobody waits for any more takes their room.
    Ready,
    /// Those who answer have nothing that is missing.
    Missing,
    /// No provider can be reached.
    Unreachable,
    /// All that is left are providers that sent wrong data.
    WrongData,
}

/// What is the matter with one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerWait {
    /// It was asked, and is not late yet.
    Asked,
    /// It is connected and could be asked, but the blocks that arrived must be dealt with first, or what nobody waits for
    /// any more is still on its way from it.
    Ready,
    /// It is being connected to for the first time.
    Connecting,
    /// It was found, and not dialled yet.
    Found,
    /// It is overloaded; asked again then.
    Busy,
    /// It does not answer, or its answers break off.
    Silent,
    /// It answers, and has nothing that is missing; asked again then, if at all.
    Lacking,
    /// It could not be reached, or was lost; dialled again then, if at all.
    Unreachable,
    /// It sent wrong data; asked again then, if at all.
    WrongData,
}

impl PeerWait {
    /// All of them, in the order in which they are told.
    pub const ALL: [PeerWait; 9] = [
        PeerWait::Asked,
        PeerWait::Ready,
        PeerWait::Connecting,
        PeerWait::Found,
        PeerWait::Busy,
        PeerWait::Silent,
        PeerWait::Lacking,
        PeerWait::Unreachable,
        PeerWait::WrongData,
    ];
}

/// Peers with which the same is the matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Group {
    /// How many.
    pub peers: usize,
    /// When the first of them is tried again, if that is known.
    pub again_in: Option<Duration>,
    /// Of busy ones: how many requests wait at the one where the fewest do, if that is known.
    pub queue: Option<u32>,
}

/// Why a fetch waits. Small, whatever the size of the fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// What is waited for first of all.
    pub cause: Cause,
    /// How long nothing was stored. Time in which only the own store or reader was slow may be left out.
    pub idle: Duration,
    /// When the fetch fails unless something is stored before; `None` while the own store or reader is waited for.
    pub fails_in: Option<Duration>,
    /// The known peers, by [`PeerWait::ALL`].
    pub groups: [Group; PeerWait::ALL.len()],
    /// Wants that are not stored.
    pub missing: usize,
    /// Of these, those that arrived and are being written, or wait to be consumed.
    pub received: usize,
    /// Wants that no connected peer that answers is believed to hold.
    pub without_provider: usize,
    /// Whether there may be more of these.
    pub at_least: bool,
    /// Lookups in flight.
    pub lookups: usize,
    /// When the next one begins, if that is known.
    pub next_lookup_in: Option<Duration>,
    /// Peers that the user named. The driver dials them and knows; the machine says none.
    pub hints: usize,
    /// Those of them that never answered. None of them is among the known peers, unless it was found as well.
    pub unreached_hints: usize,
}

impl Waiting {
    /// The peers of one kind.
    pub fn group(&self, wait: PeerWait) -> Group {
        self.groups[wait as usize]
    }

    /// Every known peer.
    pub fn known(&self) -> usize {
        self.groups.iter().map(|group| group.peers).sum()
    }
}

impl Fetch {
    /// Why nothing has been stored for [`QUIET`] or longer; `None` if it has, or there is nothing to wait for, or a peer
    /// does not take longer than it always does.
    pub fn waiting(&self, now: Instant) -> Option<Waiting> {
        let is_quiet = now.saturating_duration_since(self.progress_at) >= QUIET;
        let waits = is_quiet && !self.ended && self.wants.open() > 0;
        (waits && !self.peers.iter().any(|(_, peer)| self.is_on_time(peer, now))).then(|| self.why(now))
    }

    /// Why no more is stored, however long that has been so; also of a fetch that has failed.
    pub fn why(&self, now: Instant) -> Waiting {
        let mut groups = [Group::default(); PeerWait::ALL.len()];
        for (_, peer) in self.peers.iter() {
            let (wait, again_at) = self.wait_of(peer, now);
            let group = &mut groups[wait as usize];
            group.peers += 1;
            let again_in = again_at.and_then(|at| until(at, now));
            group.again_in = group.again_in.into_iter().chain(again_in).min();
            if wait == PeerWait::Busy {
                group.queue = group.queue.into_iter().chain(peer.queue).min();
            }
        }
        let (pending, at_least) = self.pending_without_source();
        Waiting {
            cause: self.cause(|wait| groups[wait as usize].peers > 0, now),
            idle: now.saturating_duration_since(self.progress_at),
            fails_in: self.failing_at().map(|at| at.saturating_duration_since(now)),
            groups,
            missing: self.wants.open(),
            received: self.requests.received(),
            without_provider: pending + self.in_flight_without_source(),
            at_least,
            lookups: self.lookups.running(),
            next_lookup_in: self.next_lookup_at().and_then(|at| until(at, now)),
            hints: 0,
            unreached_hints: 0,
        }
    }

    fn cause(&self, any: impl Fn(PeerWait) -> bool, now: Instant) -> Cause {
        // A block that has just arrived is no reason yet.
        if self.waiting_since.is_some_and(|since| now.saturating_duration_since(since) >= QUIET) {
            if !self.has_received() {
                return Cause::Limit;
            }
            return if self.config.order == Order::InOrder { Cause::Reader } else { Cause::Disk };
        }
        // What is nearest to bringing something comes first.
        let causes = [
            (PeerWait::Asked, Cause::Answers),
            (PeerWait::Connecting, Cause::Connections),
            (PeerWait::Found, Cause::Connections),
            (PeerWait::Busy, Cause::Busy),
            (PeerWait::Silent, Cause::Silence),
            (PeerWait::Ready, Cause::Ready),
            (PeerWait::Lacking, Cause::Missing),
            (PeerWait::Unreachable, Cause::Unreachable),
            (PeerWait::WrongData, Cause::WrongData),
        ];
        causes.into_iter().find(|(wait, _)| any(*wait)).map_or(Cause::NoProvider, |(_, cause)| cause)
    }

    /// What is the matter with this peer, and when it is tried again.
    fn wait_of(&self, peer: &Peer, now: Instant) -> (PeerWait, Option<Instant>) {
        let worth = || self.worth_dialling(peer, now);
        match peer.link {
            Link::Banned => (PeerWait::WrongData, None),
            Link::Known if worth().is_none() => (PeerWait::Lacking, None),
            Link::Known => (PeerWait::Found, None),
            Link::Dialling { .. } if peer.tries == 0 => (PeerWait::Connecting, None),
            Link::Dialling { .. } => (PeerWait::Unreachable, None),
            Link::Backoff { until } => {
                let may_be_dialled = peer.hint || peer.tries <= self.config.max_redials;
                let again = worth().filter(|_| may_be_dialled).map(|at| at.max(until));
                (PeerWait::Unreachable, again)
            }
            Link::Connected => self.wait_of_connected(peer, now),
        }
    }

    fn wait_of_connected(&self, peer: &Peer, now: Instant) -> (PeerWait, Option<Instant>) {
        if let Some(until) = peer.paused_until.filter(|until| *until > now) {
            let wait = match peer.pause {
                Pause::Busy => PeerWait::Busy,
                Pause::Failed => PeerWait::Silent,
                Pause::WrongData => PeerWait::WrongData,
            };
            return (wait, Some(until));
        }
        // What was asked of it and is not wanted any more is no fault of it.
        let is_silent = !is_live(peer) || peer.fresh.is_empty() && !peer.late.is_empty();
        if is_silent {
            (PeerWait::Silent, None)
        } else if !peer.fresh.is_empty() {
            (PeerWait::Asked, None)
        } else if peer.exhausted {
            (PeerWait::Lacking, peer.may_recheck().then_some(peer.recheck.at))
        } else {
            (PeerWait::Ready, None)
        }
    }

    /// Whether a peer was asked and has not taken twice as long as it usually does: over a slow link that is longer than
    /// [`QUIET`], and no reason to worry.
    fn is_on_time(&self, peer: &Peer, now: Instant) -> bool {
        let is_on_time = |request: &Request| {
            let usual = peer.pace.typical(request.units).min(self.config.max_request_timeout);
            peer.pace.is_proven(request.units) && now < peer.last_answer.max(request.sent) + 2 * usual
        };
        let mut fresh = peer.fresh.iter().filter_map(|id| self.requests.get(*id));
        peer.can_be_asked(now) && is_live(peer) && fresh.any(is_on_time)
    }

    /// Whether a connected peer that answers is believed to hold this want.
    fn has_live_source(&self, want: WantIx) -> bool {
        let full = |(_, peer): (PeerIx, &Peer)| peer.full && is_live(peer) && !peer.missing.contains(want);
        self.peers.iter().any(full) || self.has_live_single_source(want)
    }

    fn has_live_single_source(&self, want: WantIx) -> bool {
        self.sources.get(&want).is_some_and(|list| list.iter().any(|ix| is_live(&self.peers[*ix])))
    }

    /// How many wants in flight no live peer is believed to hold.
    fn in_flight_without_source(&self) -> usize {
        let first_copies = self.requests.iter().filter(|(id, request)| {
            let status = self.wants[request.want].status;
            status == Status::InFlight && self.requests.copies(request.want).first() == Some(id)
        });
        first_copies.filter(|(_, request)| !self.has_live_source(request.want)).count()
    }

    /// How many pending wants no live peer is believed to hold, and whether there may be more.
    fn pending_without_source(&self) -> (usize, bool) {
        let pending = self.wants.pending();
        let mut sources: Vec<&Peer> = Vec::new();
        for (_, peer) in self.peers.iter().filter(|(_, peer)| is_live(peer)) {
            if peer.full && peer.missing.is_empty() {
                return (0, false);
            }
            if !peer.exhausted {
                sources.push(peer);
            }
        }
        if sources.is_empty() {
            return (pending.len(), false);
        }
        let is_held = |want: WantIx| {
            sources.iter().any(|peer| peer.full && !peer.missing.contains(want))
                || self.has_live_single_source(want)
        };
        let looked_at = pending.iter().take(MAX_COUNTED);
        let lacking = looked_at.filter(|rank| !is_held(rank.want())).count();
        (lacking, pending.len() > MAX_COUNTED)
    }
}

/// Whether it is connected and answers, if only that it is busy.
fn is_live(peer: &Peer) -> bool {
    peer.is_connected() && (!peer.doubtful || peer.busy_streak > 0)
}

/// How long it is until then; `None` if that is over.
fn until(at: Instant, now: Instant) -> Option<Duration> {
    at.checked_duration_since(now).filter(|left| !left.is_zero())
}
