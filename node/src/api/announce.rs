//! What of a share is announced, and how far that is.

use std::time::Duration;

use dhtfs_store::{AnnounceScope, ContentCid, KeySummary, ManifestCid, StoreError};

use super::{
    Api,
    types::{AnnounceStatus, Announced, ApiError, Findable},
};
use crate::net::limits::PROVIDER_TTL;

impl Api {
    /// Announces of a share what its scope says, after a download or an import.
    pub(super) async fn announce_share(&self, root: ManifestCid) -> Result<(), ApiError> {
        let Some(provide) = self.provide() else { return Ok(()) };
        let Some(resolved) = self.resolve_here(root).await? else { return Ok(()) };
        let manifests = resolved.manifests.iter().copied().map(ContentCid::from);
        let chunks = resolved.tree.unique_chunks().into_iter().map(|(cid, _)| cid.into());
        let keys: Vec<ContentCid> = manifests.chain(chunks).collect();
        let scope = self.inner.store.call(move |s| s.share(&root)).await??.map(|share| share.announce);
        if scope.is_none_or(|scope| scope == AnnounceScope::All) {
            provide.held(keys).await;
            return Ok(());
        }
        // Fewer keys than before, perhaps; another share may still ask for some of them.
        let sorted = self.inner.store.call(move |s| {
            let mut sorted = (Vec::new(), Vec::new());
            for key in keys {
                let is_announced = s.provide_key(&key)?.is_some();
                if is_announced { sorted.0.push(key) } else { sorted.1.push(key) }
            }
            Ok::<_, StoreError>(sorted)
        });
        let (announced, others) = sorted.await??;
        provide.held(announced).await;
        provide.withdraw(others).await;
        Ok(())
    }

    /// How far the announcement of a share is.
    pub(super) async fn announced_share(
        &self,
        root: ManifestCid,
    ) -> Result<Option<AnnounceStatus>, ApiError> {
        let Some(found) = self.findable(root).await? else { return Ok(None) };
        let keys = found.manifests.and(found.chunks);
        Ok(Some(self.announce_status(keys, Some(found))))
    }

    /// How far the announcement of a single key is; none if it is not to be announced.
    pub(super) async fn announced_key(&self, cid: ContentCid) -> Result<Option<AnnounceStatus>, ApiError> {
        let key = self.inner.store.call(move |s| s.provide_key(&cid)).await??;
        Ok(key.map(|key| self.announce_status(KeySummary::of(&key).into(), None)))
    }

    fn announce_status(&self, keys: Announced, findable: Option<Findable>) -> AnnounceStatus {
        let life = self.record_life().as_secs();
        AnnounceStatus {
            findable,
            keys,
            next_unix: keys.oldest_unix.map(|oldest| oldest.saturating_add(life / 2)),
            expires_unix: keys.oldest_unix.map(|oldest| oldest.saturating_add(life)),
            now_unix: (self.inner.wall_clock)(),
        }
    }

    /// How long records are kept in this network.
    pub(super) fn record_life(&self) -> Duration {
        self.inner.net.as_ref().map_or(PROVIDER_TTL, |net| net.record_life)
    }
}
