//! Telling peers which chunks of a content this node holds, and what it got since.
//!
//! A peer opens a stream, names a manifest, and is told a map; while the content is incomplete here it is told what is
//! new. The machine knows no bytes and no store: a look into the store is an action ([`HaveAction::Look`]), and so is
//! each frame on a stream ([`HaveAction::Tell`]).
//!
//! # How it is kept small
//! All streams of one content share one bitmap and one list of recent news; a stream remembers a number. Who has not
//! taken a frame for so long that its news are gone from the list is told the whole map again, and so is everybody when
//! something was lost. What is complete is one word, after which the stream ends.
//!
//! # How it is kept cheap
//! One look at a time, and after each a pause that grows with the time it took, whatever is to be looked at next: looking
//! takes at most a tenth of the time, however often peers ask, however large the contents are and however many. What was
//! not looked at yet has its turn before what is looked at again.
//!
//! A store that fails says nothing about what is here: who was told nothing yet is told to ask again later, and the others
//! keep what they know.
//!
//! # Invariants
//! - Streams are within the limits, per peer and in all; a content has streams, or is remembered for a short time.
//! - A stream has at most one frame on its way.
//! - News name only chunks that the last look found, and follow the map or the news that the stream was told before.

mod content;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use dhtfs_store::{Held, ManifestCid};
use libp2p::PeerId;

use content::Content;

/// Limits and times. Each default lives here once, with its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HaveConfig {
    /// Streams in all; default 256, for as many fetching peers.
    pub max_streams: usize,
    /// Streams of one peer; default 8, one for each content that it fetches at the same time.
    pub max_streams_per_peer: usize,
    /// Contents with a map in memory; default 64. The longest map takes 2 MiB.
    pub max_contents: usize,
    /// Least pause between two looks at a content; default 300 ms, about how often a download commits.
    pub look_every: Duration,
    /// How long a content is remembered without streams; default 10 s. Who asks again and again costs no looks.
    pub keep: Duration,
}

impl Default for HaveConfig {
    fn default() -> Self {
        Self {
            max_streams: 256,
            max_streams_per_peer: 8,
            max_contents: 64,
            look_every: Duration::from_millis(300),
            keep: Duration::from_secs(10),
        }
    }
}

/// A look at a content is followed by a pause of so many times as long, at least.
const PAUSE_PER_LOOK: u32 = 9;

/// Names a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// What is said on a stream. Sets are encoded ([`ChunkSet::encode`](dhtfs_store::ChunkSet::encode)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Telling {
    /// Every chunk is here. The last that is said.
    All,
    /// These are here and no others, whatever was said before.
    Map(Arc<[u8]>),
    /// These are here too.
    More(Arc<[u8]>),
    /// The content is not shared here. The last that is said.
    Unknown,
    /// Too much to do; ask again later. The last that is said.
    Busy,
}

impl Telling {
    /// Whether nothing follows on the stream.
    pub fn is_last(&self) -> bool {
        matches!(self, Self::All | Self::Unknown | Self::Busy)
    }
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HaveAction {
    /// Look what is held of this content, then call [`Have::on_looked`]. One at a time.
    Look(ManifestCid),
    /// Say this on a stream, then call [`Have::on_told`]; after the last also close it.
    Tell(StreamId, Telling),
}

/// Totals since the start, and what is open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HaveStats {
    /// Open streams.
    pub streams: usize,
    /// Streams refused because too many were open.
    pub refused: u64,
    /// Questions answered with Busy because too many contents were asked about.
    pub busy: u64,
    /// Looks into the store.
    pub looks: u64,
    /// Whole maps told, complete ones included.
    pub maps: u64,
    /// News told.
    pub news: u64,
}

#[derive(Debug)]
struct Stream {
    peer: PeerId,
    /// `None` until it is asked for.
    root: Option<ManifestCid>,
    /// The version of the content that it was told last.
    told: Option<u64>,
    /// Something is on its way.
    is_busy: bool,
    /// The last is on its way.
    is_ending: bool,
}

/// The machine. See the module's documentation.
#[derive(Debug)]
pub struct Have {
    config: HaveConfig,
    streams: BTreeMap<StreamId, Stream>,
    per_peer: BTreeMap<PeerId, usize>,
    contents: BTreeMap<ManifestCid, Content>,
    /// The content that is being looked at, since when, and whether it has changed since.
    looking: Option<(ManifestCid, Instant, bool)>,
    /// No look at anything before this.
    rest_until: Option<Instant>,
    actions: VecDeque<HaveAction>,
    stats: HaveStats,
}

impl Have {
    /// A node that was asked nothing yet.
    pub fn new(config: HaveConfig) -> Self {
        Self {
            config,
            streams: BTreeMap::new(),
            per_peer: BTreeMap::new(),
            contents: BTreeMap::new(),
            looking: None,
            rest_until: None,
            actions: VecDeque::new(),
            stats: HaveStats::default(),
        }
    }

    /// A peer opened a stream. `false`: there are too many, drop it.
    #[must_use]
    pub fn on_stream(&mut self, id: StreamId, peer: PeerId) -> bool {
        let of_peer = self.per_peer.get(&peer).copied().unwrap_or_default();
        let is_full = of_peer >= self.config.max_streams_per_peer;
        if is_full || self.streams.len() >= self.config.max_streams || self.streams.contains_key(&id) {
            self.stats.refused += 1;
            return false;
        }
        *self.per_peer.entry(peer).or_default() += 1;
        let stream = Stream { peer, root: None, told: None, is_busy: false, is_ending: false };
        self.streams.insert(id, stream);
        true
    }

    /// A stream asks for a content. Only the first question of a stream counts.
    pub fn on_question(&mut self, id: StreamId, root: ManifestCid, now: Instant) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.root.is_none()) else { return };
        stream.root = Some(root);
        if !self.contents.contains_key(&root) && !self.make_room() {
            self.stats.busy += 1;
            self.tell(id, Telling::Busy);
            return;
        }
        let content = self.contents.entry(root).or_insert_with(|| Content::new(now));
        content.streams.insert(id);
        content.forget_at = None;
        self.tell_news(id);
        self.pump(now);
    }

    /// What was said on a stream is on its way, or the peer has it; after the last the stream is gone.
    pub fn on_told(&mut self, id: StreamId, now: Instant) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.is_ending {
            self.on_closed(id, now);
            return;
        }
        stream.is_busy = false;
        self.tell_news(id);
    }

    /// Whether there is this stream: after the last has been said on it there is not.
    pub fn is_open(&self, id: StreamId) -> bool {
        self.streams.contains_key(&id)
    }

    /// A stream is gone.
    pub fn on_closed(&mut self, id: StreamId, now: Instant) {
        let Some(stream) = self.streams.remove(&id) else { return };
        if let Some(of_peer) = self.per_peer.get_mut(&stream.peer) {
            *of_peer -= 1;
            if *of_peer == 0 {
                self.per_peer.remove(&stream.peer);
            }
        }
        if let Some(content) = stream.root.and_then(|root| self.contents.get_mut(&root)) {
            content.streams.remove(&id);
            if content.streams.is_empty() {
                content.forget_at = Some(now + self.config.keep);
            }
        }
    }

    /// What is held may have changed, of whatever content.
    pub fn on_changed(&mut self, now: Instant) {
        for content in self.contents.values_mut() {
            content.is_stale = true;
        }
        if let Some((_, _, has_changed)) = &mut self.looking {
            *has_changed = true;
        }
        self.pump(now);
    }

    /// The look at a content has ended: what is held of it, `None` if it is not shared.
    pub fn on_looked(&mut self, root: ManifestCid, held: Option<Held>, now: Instant) {
        let Some(has_changed) = self.end_look(root, now) else { return };
        if let Some(content) = self.contents.get_mut(&root) {
            content.is_stale = has_changed;
            content.update(held);
            for id in content.streams.clone() {
                self.tell_news(id);
            }
        }
        self.pump(now);
    }

    /// The look at a content has ended because the store failed. It is looked at again after the pause.
    pub fn on_look_failed(&mut self, root: ManifestCid, now: Instant) {
        if self.end_look(root, now).is_none() {
            return;
        }
        let streams = self.contents.get(&root).map(|content| content.streams.clone()).unwrap_or_default();
        for id in streams {
            if self.streams.get(&id).is_some_and(|stream| stream.told.is_none() && !stream.is_busy) {
                self.stats.busy += 1;
                self.tell(id, Telling::Busy);
            }
        }
        self.pump(now);
    }

    /// Whether something has changed since the look at this content began, which has ended. `None` if none runs.
    fn end_look(&mut self, root: ManifestCid, now: Instant) -> Option<bool> {
        let (_, since, has_changed) = self.looking.take_if(|(looking, ..)| *looking == root)?;
        let rest = now.saturating_duration_since(since).saturating_mul(PAUSE_PER_LOOK);
        self.rest_until = Some(now + rest);
        if let Some(content) = self.contents.get_mut(&root) {
            content.look_at = now + self.config.look_every.max(rest);
        }
        Some(has_changed)
    }

    /// A deadline has passed.
    pub fn on_timeout(&mut self, now: Instant) {
        self.contents.retain(|_, content| content.forget_at.is_none_or(|at| at > now));
        self.pump(now);
    }

    /// The next thing to do; call until `None` after every input.
    pub fn next_action(&mut self) -> Option<HaveAction> {
        self.actions.pop_front()
    }

    /// When [`on_timeout`](Self::on_timeout) is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        let looks = self.contents.values().filter_map(|content| content.look_due());
        let looks = looks.filter(|_| self.looking.is_none());
        let looks = looks.map(|at| self.rest_until.map_or(at, |rest| rest.max(at)));
        looks.chain(self.contents.values().filter_map(|content| content.forget_at)).min()
    }

    /// Totals.
    pub fn stats(&self) -> HaveStats {
        HaveStats { streams: self.streams.len(), ..self.stats }
    }

    /// Makes room for one more content; a remembered one without streams may go for it.
    fn make_room(&mut self) -> bool {
        if self.contents.len() < self.config.max_contents {
            return true;
        }
        let idle = self.contents.iter().filter_map(|(root, content)| Some((content.forget_at?, *root)));
        idle.min().is_some_and(|(_, root)| self.contents.remove(&root).is_some())
    }

    /// Looks at the content whose turn is due longest, first at one of which nothing is known.
    fn pump(&mut self, now: Instant) {
        if self.looking.is_some() || self.rest_until.is_some_and(|rest| rest > now) {
            return;
        }
        let due = self.contents.iter().filter_map(|(root, content)| {
            let at = content.look_due().filter(|at| *at <= now)?;
            Some((content.is_known(), at, *root))
        });
        if let Some((.., root)) = due.min() {
            self.looking = Some((root, now, false));
            self.stats.looks += 1;
            self.actions.push_back(HaveAction::Look(root));
        }
    }

    /// Tells a stream what it does not know yet, if it is idle.
    fn tell_news(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id).filter(|stream| !stream.is_busy) else { return };
        let content = stream.root.and_then(|root| self.contents.get(&root));
        let Some((version, telling)) = content.and_then(|content| content.news_since(stream.told)) else {
            return;
        };
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.told = Some(version);
        }
        self.tell(id, telling);
    }

    fn tell(&mut self, id: StreamId, telling: Telling) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.is_busy = true;
        stream.is_ending = telling.is_last();
        match telling {
            Telling::All | Telling::Map(_) => self.stats.maps += 1,
            Telling::More(_) => self.stats.news += 1,
            Telling::Unknown | Telling::Busy => {}
        }
        self.actions.push_back(HaveAction::Tell(id, telling));
    }

    /// Panics if the books do not balance or a limit is exceeded: for tests.
    pub fn check_invariants(&self) {
        assert!(self.streams.len() <= self.config.max_streams, "too many streams");
        assert!(self.contents.len() <= self.config.max_contents, "too many contents");
        assert_eq!(self.per_peer.values().sum::<usize>(), self.streams.len(), "streams of peers");
        for count in self.per_peer.values() {
            assert!((1..=self.config.max_streams_per_peer).contains(count), "streams of one peer");
        }
        for (root, content) in &self.contents {
            content.check_invariants();
            for id in &content.streams {
                assert_eq!(self.streams[id].root, Some(*root), "stream of a content");
            }
        }
    }
}
