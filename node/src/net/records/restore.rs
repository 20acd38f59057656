//! Records of an earlier run, read from the disk while the node runs already.

use std::time::Instant;

use libp2p::{Multiaddr, PeerId};

use super::group::group_told;
use super::providers::Offer;
use super::{Digest, Records};

/// A provider as the disk knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredProvider {
    /// Who.
    pub peer: PeerId,
    /// Where it could be dialled.
    pub addrs: Vec<Multiaddr>,
}

/// A record as the disk knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredRecord {
    /// The key.
    pub digest: Digest,
    /// Place of the provider in [`Page::providers`].
    pub provider: usize,
    /// Seconds left to live; none (0) if it has ended.
    pub expires_in: u64,
}

/// A part of what is on the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The providers of `records`.
    pub providers: Vec<StoredProvider>,
    /// The records.
    pub records: Vec<StoredRecord>,
}

/// What became of a page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// Records that are held now.
    pub held: usize,
    /// Those that are not, because they had ended or found no room: the disk can drop them.
    pub refused: Vec<StoredRecord>,
}

impl Records {
    /// Takes records of an earlier run, within the budgets. What was announced since is newer and stays as it is.
    ///
    /// The clock may have been changed meanwhile, so no record lives longer than a new one.
    pub fn restore(&mut self, page: &Page, now: Instant) -> Restored {
        let now = self.seconds(now);
        let offers: Vec<Offer> = page.providers.iter().map(|provider| self.offer_of(provider)).collect();
        let mut restored = Restored::default();
        for record in &page.records {
            let offer = offers.get(record.provider);
            if offer.is_some_and(|offer| self.restore_one(offer, record, now)) {
                restored.held += 1;
            } else {
                restored.refused.push(*record);
            }
        }
        restored
    }

    fn restore_one(&mut self, offer: &Offer, record: &StoredRecord, now: u32) -> bool {
        let life = record.expires_in.min(self.limits.life.into());
        if life == 0 || offer.peer == self.local {
            return false;
        }
        let no = self.index.providers.find(&offer.peer);
        let expires = now.saturating_add(u32::try_from(life).unwrap_or(u32::MAX));
        no.is_some_and(|no| self.place_of(&record.digest, no).is_some())
            || self.add(offer, no, record.digest, expires).is_ok()
    }

    /// What is known of a provider by now is newer than the disk.
    fn offer_of(&self, stored: &StoredProvider) -> Offer {
        match self.index.providers.find(&stored.peer).and_then(|no| self.index.providers.get(no)) {
            Some(known) => known.offer(),
            None => Offer::new(stored.peer, &stored.addrs, group_told(&stored.addrs)),
        }
    }
}
