//! What is known of one content that peers ask about.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use dhtfs_store::{ChunkSet, Held};

use super::{StreamId, Telling};

/// News that are kept for streams that have not taken them yet. Who is further behind gets the map.
const MAX_NEWS: usize = 8;

/// One content.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) streams: BTreeSet<StreamId>,
    /// What the last look found; `None` before the first.
    found: Option<Option<Held>>,
    /// Counts what was found to be different.
    version: u64,
    /// The map, encoded.
    map: Option<Arc<[u8]>>,
    /// The news that led to the last versions, encoded; the newest last.
    news: VecDeque<Arc<[u8]>>,
    /// No look before this.
    pub(super) look_at: Instant,
    /// Something may have changed since the last look.
    pub(super) is_stale: bool,
    /// When it is forgotten, if nobody asks again.
    pub(super) forget_at: Option<Instant>,
}

impl Content {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            streams: BTreeSet::new(),
            found: None,
            version: 0,
            map: None,
            news: VecDeque::new(),
            look_at: now,
            is_stale: true,
            forget_at: None,
        }
    }

    /// Whether a look has found out what is held of it.
    pub(super) fn is_known(&self) -> bool {
        self.found.is_some()
    }

    /// When it is to be looked at; `None` if nobody would be told, or nothing has changed.
    pub(super) fn look_due(&self) -> Option<Instant> {
        (self.is_stale && !self.streams.is_empty()).then_some(self.look_at)
    }

    /// Takes what a look found.
    pub(super) fn update(&mut self, found: Option<Held>) {
        if self.found.as_ref() == Some(&found) {
            return;
        }
        self.version += 1;
        match (self.found.take().flatten(), &found) {
            (Some(Held::Some(old)), Some(Held::Some(new)))
                if old.len() == new.len() && old.without(new).is_empty() =>
            {
                self.news.push_back(new.without(&old).encode().into());
                if self.news.len() > MAX_NEWS {
                    self.news.pop_front();
                }
            }
            // Something was lost, or it is complete, or came to be shared: no news lead there.
            _ => self.news.clear(),
        }
        self.map = match &found {
            Some(Held::Some(set)) => Some(set.encode().into()),
            _ => None,
        };
        self.found = Some(found);
    }

    /// What a stream that was told this version has to be told next, and which version that is.
    pub(super) fn news_since(&self, told: Option<u64>) -> Option<(u64, Telling)> {
        let found = self.found.as_ref()?;
        if self.is_stale && !matches!(found, Some(Held::Some(_))) {
            // It would be the last that is said, and may be wrong by now.
            return None;
        }
        let behind = told.map(|told| self.version - told);
        let map = match (found, behind, &self.map) {
            (_, Some(0), _) => return None,
            (None, ..) => Telling::Unknown,
            (Some(Held::All), ..) => Telling::All,
            (Some(Held::Some(_)), _, Some(map)) => Telling::Map(map.clone()),
            (Some(Held::Some(_)), _, None) => return None,
        };
        let skip = behind.and_then(|behind| self.news.len().checked_sub(usize::try_from(behind).ok()?));
        match (skip, behind) {
            (Some(skip), Some(behind)) if matches!(map, Telling::Map(_)) => {
                let version = self.version - behind + 1;
                Some((version, Telling::More(self.news.get(skip)?.clone())))
            }
            _ => Some((self.version, map)),
        }
    }

    pub(super) fn check_invariants(&self) {
        assert!(self.news.len() <= MAX_NEWS, "too many news");
        assert!(self.news.len() as u64 <= self.version, "news of nothing");
        assert_eq!(self.streams.is_empty(), self.forget_at.is_some(), "remembered for nobody");
        let is_some = matches!(self.found, Some(Some(Held::Some(_))));
        assert_eq!(self.map.is_some(), is_some, "a map of what is not in part here");
        if let Some(Some(Held::Some(set))) = &self.found {
            let decoded = self.map.as_ref().and_then(|map| ChunkSet::decode(map, set.len()).ok());
            assert_eq!(decoded.as_ref(), Some(set), "the map");
        }
    }
}
