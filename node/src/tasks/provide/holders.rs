//! What sweeps and single announcements share: the map of the network, the way to the store and to the holders.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use dhtfs_store::{ContentCid, KeyPosition, ProvideClass, ProvideKey, ProvideMark, Store, StoreError};
use libp2p::Multiaddr;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tracing::{debug, warn};

use super::{KEY_PAGE, ProvideEnv, SCHEDULE_SETTING, after};
use crate::{
    core::{
        keyspace::{Position, Prefix, size_around, target_in},
        provide::{
            Budget, Due, FoundPeer, MAP_VALIDITY, NetworkMap, RegionReport, RegionWalk, Silent, Standing,
            WalkAction, WalkConfig, wide_holders,
        },
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
    /// Keys that were announced although the store had forgotten them meanwhile.
    gone: Mutex<Vec<ContentCid>>,
    silent: Mutex<Silent>,
}

impl Holders {
    pub(super) fn new(env: ProvideEnv, seed: u64) -> Self {
        let rng = Mutex::new(StdRng::seed_from_u64(seed));
        Self {
            env,
            map: Mutex::new(NetworkMap::new(None)),
            rng,
            gone: Mutex::default(),
            silent: Mutex::default(),
        }
    }

    /// The map. Never held across an await.
    pub(super) fn map(&self) -> MutexGuard<'_, NetworkMap> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holders that were silent lately. Never held across an await.
    pub(super) fn silent(&self) -> MutexGuard<'_, Silent> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Who is to hold a key beside the `closest`, because somebody may have put these there: peers that are known from
    /// elsewhere, for a crowd names only itself.
    pub(super) async fn around(&self, key: &Position, closest: &[FoundPeer]) -> Vec<FoundPeer> {
        let routed = self.env.client.routing_peers().await.unwrap_or_default();
        let around: Vec<Position> = routed.iter().map(|(peer, _)| Position::of_peer(peer)).collect();
        let Some(size) = size_around(&Position::of_peer(&self.env.client.peer_id()), &around) else {
            return Vec::new();
        };
        let routed = routed.into_iter().map(|(peer, addrs)| FoundPeer { peer, addrs });
        let all = routed.chain(closest.iter().cloned());
        let mut known: BTreeMap<Position, FoundPeer> =
            all.map(|peer| (Position::of_peer(&peer.peer), peer)).collect();
        let now = now();
        let since = now.checked_sub(MAP_VALIDITY).unwrap_or(now);
        for (position, peer) in self.map().peers_in(&Prefix::WHOLE, since) {
            let found = || FoundPeer { peer: peer.peer, addrs: peer.addrs.clone() };
            known.entry(*position).or_insert_with(found);
        }
        let (positions, peers): (Vec<Position>, Vec<FoundPeer>) = known.into_iter().unzip();
        let wide = wide_holders(key, &positions, size).into_iter().filter_map(|index| peers.get(index));
        let is_told = |peer: &&FoundPeer| closest.iter().any(|told| told.peer == peer.peer);
        wide.filter(|peer| !is_told(peer)).cloned().collect()
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
        budget: Budget,
    ) -> Option<(Vec<ProvideKey>, Option<KeyPosition>)> {
        let to = KeyPosition(region.last().0);
        let keys = read(self.env.store.call(move |s| s.provide_range(from, to, KEY_PAGE)).await)?;
        let is_full = keys.len() == KEY_PAGE;
        let next = keys.last().filter(|_| is_full).and_then(|key| after(key.position));
        let standing = |key: &ProvideKey| {
            let last_unix = key.last_unix.unwrap_or(0);
            let is_due = due.is_due(u32::try_from(last_unix).unwrap_or(u32::MAX));
            let is_chunk = matches!(key.cid, ContentCid::Chunk(_));
            Standing { is_chunk, is_due, last_unix, holders: key.holders }
        };
        let standings: Vec<Standing> = keys.iter().map(standing).collect();
        let chosen = budget.choose(&standings, self.unix());
        Some((chosen.into_iter().filter_map(|index| keys.get(index)).copied().collect(), next))
    }

    /// Which of these keys the store has; `None` if it fails, which is said.
    pub(super) async fn known(&self, keys: Vec<ContentCid>) -> Option<Vec<ProvideKey>> {
        let known = move |s: &Store| {
            let keys = keys.iter().map(|cid| s.provide_key(cid));
            keys.filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()
        };
        read(self.env.store.call(known).await)
    }

    /// Keys that were announced although the store had forgotten them meanwhile, since this was last asked.
    pub(super) fn take_gone(&self) -> Vec<ContentCid> {
        std::mem::take(&mut *self.gone.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes what was announced; false if the store fails, which is said.
    pub(super) async fn mark(&self, announced: Vec<(ContentCid, ProvideMark)>) -> bool {
        let (cids, marks): (Vec<ContentCid>, Vec<ProvideMark>) = announced.into_iter().unzip();
        let marked = move |s: &Store| {
            if s.provide_mark(&marks)? == marks.len() {
                return Ok::<_, StoreError>(Vec::new());
            }
            // What was removed while it was announced: the withdrawal may have been there before the record.
            let is_gone = |cid: &ContentCid| s.provide_key(cid).map(|key| key.is_none());
            cids.into_iter()
                .map(|cid| Ok(is_gone(&cid)?.then_some(cid)))
                .filter_map(Result::transpose)
                .collect()
        };
        match self.env.store.call(marked).await {
            Ok(Ok(gone)) => {
                self.gone.lock().unwrap_or_else(PoisonError::into_inner).extend(gone);
                true
            }
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
