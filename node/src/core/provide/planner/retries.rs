//! Regions that failed and wait for another attempt.

use std::{collections::BTreeMap, time::Instant};

use rand::Rng;

use crate::core::{
    backoff::BackoffPolicy,
    keyspace::{Position, Prefix},
};

/// A region that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Retry {
    /// Attempts before the next one.
    pub(super) attempt: u32,
    pub(super) at: Instant,
    /// Keys that were announced before this time are due in it, in s since 1970.
    pub(super) before: u32,
    /// Keys that failed.
    pub(super) keys: u64,
}

/// Failed regions by position.
#[derive(Debug, Default)]
pub(super) struct Retries {
    regions: BTreeMap<Prefix, Retry>,
}

impl Retries {
    pub(super) fn len(&self) -> usize {
        self.regions.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Prefix, &Retry)> {
        self.regions.iter()
    }

    /// Keys that failed, all regions together.
    pub(super) fn keys(&self) -> u64 {
        self.regions.values().map(|retry| retry.keys).sum()
    }

    /// A region failed after `attempt` failures before this one.
    pub(super) fn fail(
        &mut self,
        region: Prefix,
        failed: Retry,
        policy: &BackoffPolicy,
        rng: &mut impl Rng,
        now: Instant,
    ) {
        let at = now + policy.delay(failed.attempt, rng);
        self.insert(region, Retry { attempt: failed.attempt.saturating_add(1), at, ..failed });
    }

    pub(super) fn insert(&mut self, region: Prefix, retry: Retry) {
        let entry = self.regions.entry(region).or_insert(retry);
        *entry = Retry { before: entry.before.max(retry.before), ..retry };
    }

    pub(super) fn remove(&mut self, region: &Prefix) -> Option<Retry> {
        self.regions.remove(region)
    }

    /// The earliest time at which one of them is due.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.regions.values().map(|retry| retry.at).min()
    }

    /// Takes a region whose time has come. One that is wider than regions are now is cut into such, as long as
    /// there are fewer than `max`.
    pub(super) fn take_due(&mut self, len: u16, max: usize, now: Instant) -> Option<(Prefix, Retry)> {
        let (region, _) =
            self.regions.iter().filter(|(_, retry)| retry.at <= now).min_by_key(|(_, retry)| retry.at)?;
        let mut region = *region;
        let mut retry = self.regions.remove(&region)?;
        while region.bit_len() < len && self.regions.len() + 1 < max {
            let Some([low, high]) = region.halves() else { break };
            retry.keys = retry.keys.div_ceil(2);
            self.insert(high, retry);
            region = low;
        }
        Some((region, retry))
    }

    /// The region that holds a position and still waits.
    pub(super) fn waiting_at(&self, position: &Position, now: Instant) -> Option<Prefix> {
        self.regions
            .iter()
            .find(|(region, retry)| retry.at > now && region.contains(position))
            .map(|(region, _)| *region)
    }

    /// The attempts of the region that holds a position.
    pub(super) fn attempts_at(&self, region: &Prefix) -> u32 {
        let near = self.regions.iter().filter(|(known, _)| known.covers(region) || region.covers(known));
        near.map(|(_, retry)| retry.attempt).max().unwrap_or(0)
    }

    /// A region went well: whatever lies in it no longer waits.
    pub(super) fn clear(&mut self, region: &Prefix) {
        self.regions.retain(|known, _| !region.covers(known));
    }

    /// Forgets the region that is due first, if there is no room for another one.
    pub(super) fn make_room(&mut self, max: usize) {
        while self.regions.len() >= max
            && let Some((first, _)) = self.regions.iter().min_by_key(|(_, retry)| retry.at)
        {
            let first = *first;
            self.regions.remove(&first);
        }
    }

    /// Nothing waits any longer.
    pub(super) fn all_now(&mut self, now: Instant) {
        self.regions.values_mut().for_each(|retry| *retry = Retry { attempt: 0, at: now, ..*retry });
    }
}
