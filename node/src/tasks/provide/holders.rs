//! What sweeps and single announcements share: the map of the network, the way to the store and to the holders.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use dhtfs_store::{KeyPosition, ProvideClass, ProvideKey, ProvideMark, StoreError};
use libp2p::Multiaddr;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tracing::{debug, warn};

use super::{KEY_PAGE, ProvideEnv, SCHEDULE_SETTING, after};
use crate::{
    core::{
        keyspace::{Position, Prefix, target_in},
        provide::{Due, FoundPeer, NetworkMap, RegionReport, RegionWalk, WalkAction, WalkConfig},
    },
    env::StoreGone,
    net::Digest,
    tasks::now,
};

use futures::{StreamExt as _, stream::FuturesUnordered};

/// Hashes to find a target in a prefix of no bits; twice as many for each bit, so that a search fails once in 3,000
/// times.
const TRIES_PER_TARGET: u32 = 8;

/// Longest prefix in which targets are searched: 2 million hashes, a fifth of a second.
const MAX_TARGET_BITS: u16 = 18;

/// See the module's documentation.
pub(super) struct Holders {
    pub(super) env: ProvideEnv,
    map: Mutex<NetworkMap>,
    rng: Mutex<StdRng>,
}

impl Holders {
    pub(super) fn new(env: ProvideEnv, seed: u64) -> Self {
        Self { env, map: Mutex::new(NetworkMap::new(None)), rng: Mutex::new(StdRng::seed_from_u64(seed)) }
    }

    /// The map. Never held across an await.
    pub(super) fn map(&self) -> MutexGuard<'_, NetworkMap> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Peers in the network, as far as is known.
    pub(super) fn size(&self) -> Option<u64> {
        self.map().size()
    }

    /// Time of day in s since 1970.
    pub(super) fn unix(&self) -> u64 {
        (self.env.wall_clock)()
    }

    /// Where this node can be reached.
    pub(super) async fn own_addrs(&self) -> Vec<Multiaddr> {
        self.env.client.external_addrs().await.unwrap_or_default()
    }

    /// Looks random keys up; the number of peers in the network if any lookup succeeded.
    pub(super) async fn measure(&self, lookups: u32) -> Option<u64> {
        let mut running: FuturesUnordered<_> =
            (0..lookups).map(|_| self.look_around(Prefix::WHOLE)).collect();
        let mut found = false;
        while let Some(looked) = running.next().await {
            if let Some((target, closest)) = looked {
                found |= !closest.is_empty();
                let now = now();
                self.map().on_lookup(target, closest, &Prefix::WHOLE, now, now);
            }
        }
        if found { self.size() } else { None }
    }

    /// The peers closest to some key in `prefix`; `None` if that failed.
    async fn look_around(&self, prefix: Prefix) -> Option<(Position, Vec<FoundPeer>)> {
        let digest = self.target(&prefix)?;
        let closest = self.closest(digest).await?;
        Some((Position::of_digest(&digest), closest))
    }

    fn target(&self, prefix: &Prefix) -> Option<Digest> {
        let tries = TRIES_PER_TARGET << prefix.bit_len().min(MAX_TARGET_BITS);
        let mut rng = {
            let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
            StdRng::seed_from_u64(rng.next_u64())
        };
        target_in(prefix, &mut rng, tries)
    }

    /// The peers closest to a key; `None` if the lookup failed or found nobody.
    pub(super) async fn closest(&self, digest: Digest) -> Option<Vec<FoundPeer>> {
        match self.env.client.closest_peers(digest).await {
            Ok(peers) if peers.is_empty() => None,
            Ok(peers) => Some(peers.into_iter().map(|(peer, addrs)| FoundPeer { peer, addrs }).collect()),
            Err(error) => {
                debug!(%error, "looking for the peers of a region failed");
                None
            }
        }
    }

    /// Walks a region until its peers are known.
    pub(super) async fn walk(&self, region: Prefix, since: Instant) -> RegionReport {
        let mut walk = RegionWalk::new(WalkConfig::default(), region, since);
        let mut running = FuturesUnordered::new();
        loop {
            loop {
                // The map is free again before anything is awaited.
                let action = walk.next_action(&self.map());
                match action {
                    Some(WalkAction::Done(report)) => {
                        debug!(?report, "walked");
                        return report;
                    }
                    Some(WalkAction::Lookup(no, prefix)) => {
                        running.push(async move { (no, self.look_around(prefix).await) });
                    }
                    None => break,
                }
            }
            match running.next().await {
                Some((no, Some((target, closest)))) => {
                    walk.on_found(no, target, closest, &mut self.map(), now());
                }
                Some((no, None)) => walk.on_failed(no),
                // A walk that waits for nothing has ended.
                None => return unknown(region),
            }
        }
    }

    /// Keys that were never announced; `None` if the store fails, which is said.
    pub(super) async fn fresh(
        &self,
        class: ProvideClass,
        from: KeyPosition,
        to: KeyPosition,
        max: usize,
    ) -> Option<Vec<ProvideKey>> {
        read(self.env.store.call(move |s| s.provide_fresh(class, from, to, max)).await)
    }

    /// A page of keys of `region` from `from` on that are due, and where the next page begins; `None` if the store
    /// fails, which is said.
    pub(super) async fn due(
        &self,
        region: Prefix,
        from: KeyPosition,
        due: Due,
    ) -> Option<(Vec<ProvideKey>, Option<KeyPosition>)> {
        let to = KeyPosition(region.last().0);
        let mut keys = read(self.env.store.call(move |s| s.provide_range(from, to, KEY_PAGE)).await)?;
        let is_full = keys.len() == KEY_PAGE;
        let next = keys.last().filter(|_| is_full).and_then(|key| after(key.position));
        keys.retain(|key| {
            let last = key.last_unix.map_or(0, |unix| u32::try_from(unix).unwrap_or(u32::MAX));
            due.is_due(last)
        });
        Some((keys, next))
    }

    /// Notes what was announced; false if the store fails, which is said.
    pub(super) async fn mark(&self, marks: Vec<ProvideMark>) -> bool {
        match self.env.store.call(move |s| s.provide_mark(&marks)).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => {
                warn!(%error, "noting what was announced failed; it will be announced again");
                false
            }
            Err(_) => false,
        }
    }

    /// Keeps the schedule for the next start.
    pub(super) async fn save(&self, schedule: Vec<u8>) {
        let saved = self.env.store.call(move |s| s.set_setting(SCHEDULE_SETTING, &schedule)).await;
        if let Ok(Err(error)) = saved {
            warn!(%error, "saving the schedule of announcements failed");
        }
    }
}

fn read(keys: Result<Result<Vec<ProvideKey>, StoreError>, StoreGone>) -> Option<Vec<ProvideKey>> {
    match keys {
        Ok(Ok(keys)) => Some(keys),
        Ok(Err(error)) => {
            warn!(%error, "reading the keys to announce failed");
            None
        }
        Err(StoreGone) => None,
    }
}

/// The report of a walk that did not take place.
fn unknown(region: Prefix) -> RegionReport {
    RegionReport {
        target: region,
        known: region,
        complete: false,
        fine_gaps: 0,
        peers: 0,
        lookups: 0,
        failed: 0,
    }
}
