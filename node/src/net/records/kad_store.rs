//! The record store as kad sees it.

use std::borrow::Cow;
use std::iter;
use std::time::Duration;

use libp2p::PeerId;
use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};
use tokio::time::Instant;

use super::answer::Found;
use super::providers::Offer;
use super::{IpGroup, Records, digest_of};

impl Records {
    fn record(&self, key: &RecordKey, found: Found) -> ProviderRecord {
        ProviderRecord {
            key: key.clone(),
            provider: found.peer,
            expires: self.start.checked_add(Duration::from_secs(found.expires.into())),
            addresses: found.addrs,
        }
    }
}

impl RecordStore for Records {
    type RecordsIter<'a> = iter::Empty<Cow<'a, Record>>;
    /// Empty: what is announced and when is decided outside, kad must not repeat it by itself.
    type ProvidedIter<'a> = iter::Empty<Cow<'a, ProviderRecord>>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        let digest = digest_of(&record.key).ok_or(Error::ValueTooLarge)?;
        let is_held = if record.provider == self.local {
            self.hold(&digest)
        } else {
            // kad hands records of others to the event loop, which knows where they come from.
            let offer = Offer::new(record.provider, &record.addresses, Some(IpGroup::Unknown));
            self.admit(&offer, digest, Instant::now().into_std()).is_held()
        };
        if is_held { Ok(()) } else { Err(Error::MaxProvidedKeys) }
    }

    /// The own record first, then a choice of the others.
    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let Some(digest) = digest_of(key) else { return Vec::new() };
        let own = self.is_own(&digest).then(|| ProviderRecord::new(key.clone(), self.local, Vec::new()));
        let others = self.answer(&digest, Instant::now().into_std());
        own.into_iter().chain(others.into_iter().map(|found| self.record(key, found))).collect()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        iter::empty()
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        let Some(digest) = digest_of(key) else { return };
        if *provider == self.local {
            self.release(&digest);
            return;
        }
        self.withdraw(provider, &digest);
    }
}
