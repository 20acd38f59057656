//! `wait`: until others find a share.

use std::time::Duration;

use dhtfs_store::{AnnounceScope, KeySummary, ManifestCid, ProvideSummary, StoreError};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    Api, parse_manifest_link, parse_timeout,
    types::{ApiError, ErrorKind, Findable, WaitRequest},
};
use crate::{core::keyspace::REPLICATION, tasks::provide::ProvideHandle};

/// How long is waited when the caller sets nothing.
const DEFAULT_WAIT: Duration = Duration::from_secs(120);

/// Shortest pause between two looks: announcements move on in many small steps.
const MIN_PAUSE: Duration = Duration::from_millis(100);

/// A pause is at least so many times as long as the look before it, which goes through the whole share.
const PAUSE_PER_LOOK: u32 = 4;

/// A look is taken at least so often, whatever is reported: what other shares announce counts too.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What the store knows of a share.
#[derive(Debug, Clone, Copy)]
struct Known {
    scope: AnnounceScope,
    root_holders: u8,
    summary: ProvideSummary,
}

impl Api {
    /// Waits until others find a share: every key that its scope names is announced, each to enough nodes. Answers
    /// after the timeout at the latest, and at once if nothing of the share is to be announced; `findable` says which.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if the CID is no share of this node, [`ErrorKind::Failed`] if this node announces
    /// nothing.
    pub async fn wait(
        &self,
        request: WaitRequest,
        progress: watch::Sender<Findable>,
    ) -> Result<Findable, ApiError> {
        let (root, _) = parse_manifest_link(&request.cid)?;
        let timeout = parse_timeout(request.timeout_secs, DEFAULT_WAIT)?;
        let (begun, mut routing) = (Instant::now(), self.network()?.routing.clone());
        let deadline = begun + timeout;
        let provide = self.provide().ok_or_else(|| {
            ApiError::new(
                ErrorKind::Failed,
                "this node announces nothing; start `dhtfs daemon` and try again",
            )
        })?;
        let mut steps = provide.watch();
        loop {
            // What changes from here on is looked at again.
            steps.mark_unchanged();
            routing.mark_unchanged();
            let looked = Instant::now();
            let found = self.findable(root).await?.ok_or_else(|| {
                let message = format!("{root} is not shared here; share it with `dhtfs add`");
                ApiError::new(ErrorKind::NotFound, message)
            })?;
            let found = Findable { seconds: begun.elapsed().as_secs_f64(), ..found };
            progress.send_replace(found.clone());
            let is_hopeless = found.scope == AnnounceScope::None;
            if found.findable || is_hopeless || Instant::now() >= deadline {
                return Ok(found);
            }
            let pause = (looked.elapsed() * PAUSE_PER_LOOK).max(MIN_PAUSE);
            sleep_until((Instant::now() + pause).min(deadline)).await;
            let is_running = tokio::select! {
                changed = steps.changed() => changed.is_ok(),
                changed = routing.changed() => changed.is_ok(),
                () = sleep_until((Instant::now() + LOOK_EVERY).min(deadline)) => true,
            };
            if !is_running {
                return Err(ApiError::new(ErrorKind::Interrupted, "the node is ending; start it again"));
            }
        }
    }

    /// Whether others find a share; `None` if it is no share of this node.
    pub(super) async fn findable(&self, root: ManifestCid) -> Result<Option<Findable>, ApiError> {
        let Some(known) = self.known(root).await? else { return Ok(None) };
        let net = self.inner.net.as_ref();
        let nodes = net.and_then(|net| Some(Nodes::new(*net.routing.borrow(), net.provide.as_ref()?)));
        let ran_out_unix = (self.inner.wall_clock)().saturating_sub(self.record_life().as_secs());
        Ok(Some(findable(root, &known, nodes.unwrap_or_default(), ran_out_unix)))
    }

    async fn known(&self, root: ManifestCid) -> Result<Option<Known>, ApiError> {
        let known = self.inner.store.call(move |s| {
            let (share, summary) = (s.share(&root)?, s.provide_summary(&root)?);
            let key = s.provide_key(&root.into())?;
            let root_holders = key.filter(|key| key.last_unix.is_some()).map_or(0, |key| key.holders);
            let known = share.zip(summary);
            Ok::<_, StoreError>(known.map(|(share, summary)| Known {
                scope: share.announce,
                root_holders,
                summary,
            }))
        });
        Ok(known.await??)
    }
}

/// Other nodes of the DHT.
#[derive(Debug, Clone, Copy, Default)]
struct Nodes {
    /// In the routing table.
    routing: u64,
    /// As estimated.
    size: u64,
}

impl Nodes {
    fn new(routing: usize, provide: &ProvideHandle) -> Self {
        Self { routing: u64::try_from(routing).unwrap_or(u64::MAX), size: provide.stats().size }
    }

    /// How many are known. In a small network the routing table has them all; in a large one the estimate is the better
    /// number.
    fn known(self) -> u64 {
        if self.routing == 0 { 0 } else { self.routing.max(self.size) }
    }

    /// On how many a record can be: in a small network on those in the routing table, for the estimate may be of a time
    /// when there were more.
    fn target(self) -> u64 {
        self.routing.min(REPLICATION as u64)
    }
}

/// Judges a share in a network of these nodes, where what was announced until `ran_out_unix` is forgotten.
fn findable(root: ManifestCid, known: &Known, nodes: Nodes, ran_out_unix: u64) -> Findable {
    let target = nodes.target();
    // A lookup asks the nodes closest to a key until none is closer, so that it comes across half of them. All of them
    // would be too much to ask: nodes leave, or have no room.
    let enough = target.div_ceil(2);
    let all = known.summary.all();
    let root_holders = u64::from(known.root_holders);
    Findable {
        cid: root.to_string(),
        findable: enough > 0 && root_holders >= enough && is_held(&all, enough, ran_out_unix),
        scope: known.scope,
        dht_nodes: nodes.known(),
        // Where a crowd lies around the key, more are told.
        target: if target == 0 { 0 } else { target.max(root_holders) },
        enough,
        root_holders,
        manifests: known.summary.manifests.into(),
        chunks: known.summary.chunks.into(),
        seconds: 0.0,
    }
}

/// Whether each of these keys is on so many nodes.
fn is_held(keys: &KeySummary, enough: u64, ran_out_unix: u64) -> bool {
    keys.fresh == 0
        && keys.min_holders.is_some_and(|holders| u64::from(holders) >= enough)
        && keys.oldest_unix.is_none_or(|oldest| oldest > ran_out_unix)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000;
    const LIFE: u64 = 24 * 60 * 60;

    fn keys(keys: u64, fresh: u64, holders: u8, age: u64) -> KeySummary {
        let some = fresh < keys;
        KeySummary {
            keys,
            fresh,
            oldest_unix: some.then_some(NOW - age),
            min_holders: some.then_some(holders),
        }
    }

    fn judge(root_holders: u8, chunks: KeySummary, nodes: u64) -> Findable {
        let summary = ProvideSummary { manifests: keys(1, 0, root_holders, 60), chunks };
        let known = Known { scope: AnnounceScope::All, root_holders, summary };
        findable(ManifestCid::from_digest([1; 32]), &known, Nodes { routing: nodes, size: nodes }, NOW - LIFE)
    }

    #[test]
    fn as_many_nodes_as_are_known_are_to_hold_a_record_whatever_the_estimate() {
        let target = |routing, size| {
            let nodes = Nodes { routing, size };
            (nodes.target(), nodes.known())
        };
        assert_eq!(target(3, 18), (3, 18), "most have left");
        assert_eq!(target(3, 2), (3, 3));
        assert_eq!(target(100, 5_000), (20, 5_000));
        assert_eq!(target(0, 18), (0, 0), "cut off");
    }

    #[test]
    fn a_share_is_findable_once_every_key_is_on_half_of_the_nodes_that_are_to_hold_it() {
        let found = judge(20, keys(1_024, 0, 18, 60), 500);
        assert_eq!((found.target, found.enough, found.findable), (20, 10, true));
        assert_eq!((found.chunks.announced, found.chunks.min_holders), (1_024, Some(18)));
        assert!(!judge(9, keys(1_024, 0, 18, 60), 500).findable, "the root");
        assert!(!judge(20, keys(1_024, 0, 9, 60), 500).findable, "a chunk");
        assert!(!judge(20, keys(1_024, 1, 20, 60), 500).findable, "one is still to be announced");
        assert!(judge(20, KeySummary::default(), 500).findable, "nothing but the root is announced");
    }

    #[test]
    fn in_a_small_network_everybody_counts() {
        let found = judge(1, keys(3, 0, 1, 60), 1);
        assert_eq!((found.target, found.enough, found.findable), (1, 1, true));
        assert!(judge(2, keys(3, 0, 2, 60), 3).findable);
        assert!(!judge(1, keys(3, 0, 1, 60), 3).findable);
    }

    #[test]
    fn without_a_network_nothing_is_findable() {
        let found = judge(20, keys(3, 0, 20, 60), 0);
        assert_eq!((found.target, found.findable), (0, false));
    }

    #[test]
    fn records_that_have_run_out_do_not_count() {
        let day = LIFE;
        assert!(judge(20, keys(3, 0, 20, day - 1), 100).findable);
        assert!(!judge(20, keys(3, 0, 20, day), 100).findable);
    }
}
