//! What has changed since the disk was told: a bounded list that is handed over whole.
//!
//! The disk is a copy that may lag behind and miss something: a provider announces its keys again within half their
//! life anyway. So nothing waits for the disk. When the list is three quarters full, new records are left out of it;
//! the rest of it is kept for removals, because a record that is never taken off the disk would stay there for good.
//! What is left out is counted.

use std::sync::Arc;

use libp2p::{Multiaddr, PeerId};
use tokio::sync::Notify;

use super::Digest;
use super::packed::PackedAddrs;

/// `expires` of a record that has been removed.
const REMOVED: u32 = 0;

#[derive(Debug)]
struct Entry {
    digest: Digest,
    holder: u32,
    expires: u32,
}

/// A provider that changes speak of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Who.
    pub peer: PeerId,
    addrs: PackedAddrs,
}

impl Holder {
    /// Where it can be dialled, as it said last.
    pub fn addrs(&self) -> Vec<Multiaddr> {
        self.addrs.unpack()
    }
}

/// One change, to be applied in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub digest: Digest,
    /// Place of the provider in [`Changes::holders`].
    pub holder: usize,
    /// Seconds the record has left to live; `None` if it has been removed.
    pub expires_in: Option<u32>,
}

/// All changes since the last time.
#[derive(Debug, Default)]
pub struct Changes {
    entries: Vec<Entry>,
    holders: Vec<Holder>,
    now: u32,
}

impl Changes {
    /// The providers they speak of, each once.
    pub fn holders(&self) -> &[Holder] {
        &self.holders
    }

    /// The changes in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Change> {
        self.entries.iter().map(|entry| Change {
            digest: entry.digest,
            holder: usize::try_from(entry.holder).unwrap_or(usize::MAX),
            expires_in: (entry.expires != REMOVED).then(|| entry.expires.saturating_sub(self.now)),
        })
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Where a provider stands in the list; stale after the list was handed over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mention {
    epoch: u32,
    holder: u32,
}

impl Mention {
    /// Nowhere.
    pub(super) const NEVER: Self = Self { epoch: 0, holder: 0 };
}

/// The list.
#[derive(Debug)]
pub(super) struct Journal {
    /// Whether anybody writes it to the disk.
    is_kept: bool,
    changes: Changes,
    /// Counts how often the list was handed over, from 1.
    epoch: u32,
    dropped: usize,
    max: usize,
    half_full: Arc<Notify>,
}

impl Journal {
    /// An empty list of at most `max` changes, which nobody keeps yet.
    pub(super) fn new(max: usize) -> Self {
        Self {
            is_kept: false,
            changes: Changes::default(),
            epoch: 1,
            dropped: 0,
            max,
            half_full: Arc::default(),
        }
    }

    /// Is notified when the list has become half full.
    pub(super) fn half_full(&self) -> Arc<Notify> {
        self.half_full.clone()
    }

    /// Changes in the list.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether only removals are still taken.
    pub(super) fn is_crowded(&self) -> bool {
        self.changes.len() >= self.max - self.max / 4
    }

    /// A record that is new or has got a new end.
    pub(super) fn put(
        &mut self,
        digest: Digest,
        peer: PeerId,
        addrs: &PackedAddrs,
        at: Mention,
        expires: u32,
    ) -> Mention {
        if self.is_kept && self.is_crowded() {
            self.dropped += 1;
            return at;
        }
        self.push(digest, peer, addrs, at, expires.max(REMOVED + 1))
    }

    /// A record that has gone.
    pub(super) fn remove(
        &mut self,
        digest: Digest,
        peer: PeerId,
        addrs: &PackedAddrs,
        at: Mention,
    ) -> Mention {
        self.push(digest, peer, addrs, at, REMOVED)
    }

    fn push(
        &mut self,
        digest: Digest,
        peer: PeerId,
        addrs: &PackedAddrs,
        at: Mention,
        expires: u32,
    ) -> Mention {
        if !self.is_kept {
            return at;
        }
        if self.changes.len() >= self.max {
            self.dropped += 1;
            return at;
        }
        let at = self.mention(peer, addrs, at);
        self.changes.entries.push(Entry { digest, holder: at.holder, expires });
        if self.changes.len() == (self.max / 2).max(1) {
            self.half_full.notify_one();
        }
        at
    }

    /// The provider's place among the holders, with the addresses it has now.
    fn mention(&mut self, peer: PeerId, addrs: &PackedAddrs, at: Mention) -> Mention {
        if at.epoch == self.epoch
            && let Some(holder) =
                usize::try_from(at.holder).ok().and_then(|holder| self.changes.holders.get_mut(holder))
        {
            if holder.addrs != *addrs {
                holder.addrs = addrs.clone();
            }
            return at;
        }
        let holder = u32::try_from(self.changes.holders.len()).unwrap_or(u32::MAX);
        self.changes.holders.push(Holder { peer, addrs: addrs.clone() });
        Mention { epoch: self.epoch, holder }
    }

    /// Hands the list over and begins a new one. The first call says that there is somebody who keeps them.
    pub(super) fn take(&mut self, now: u32) -> Changes {
        self.is_kept = true;
        self.epoch = self.epoch.wrapping_add(1).max(1);
        let mut changes = std::mem::take(&mut self.changes);
        changes.now = now;
        changes
    }

    /// Changes left out since the last time.
    pub(super) fn take_dropped(&mut self) -> usize {
        std::mem::take(&mut self.dropped)
    }
}
