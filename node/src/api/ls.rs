//! `ls`, `rm`, `gc`: what is shared here, what a manifest holds, and forgetting it.

use dhtfs_store::{ContentCid, ResolvedFile, Share, ShareState};
use tokio::sync::watch;

use super::{
    Api, ParsedHints, parse_manifest_link,
    types::{
        ApiError, ErrorKind, FileInfo, GcInfo, LsProgress, LsReport, LsRequest, Removed, RmRequest, ShareInfo,
    },
    waiting::{Wanted, report_to},
};

impl Api {
    /// The shares of this node, or the files of a manifest.
    ///
    /// # Errors
    /// As [`Api::get`] for a manifest that is not here; [`ErrorKind::Store`] if the store fails.
    pub async fn ls(&self, request: LsRequest) -> Result<LsReport, ApiError> {
        self.ls_reporting(request, watch::channel(LsProgress::default()).0).await
    }

    /// The same; `progress` tells why nothing comes.
    ///
    /// # Errors
    /// As [`Api::ls`].
    pub async fn ls_reporting(
        &self,
        request: LsRequest,
        progress: watch::Sender<LsProgress>,
    ) -> Result<LsReport, ApiError> {
        let Some(text) = &request.cid else {
            let mut shares = self.inner.store.call(|s| s.shares()).await??;
            shares.sort_by(|a, b| (a.added_unix, &a.name).cmp(&(b.added_unix, &b.name)));
            return Ok(LsReport::Shares { shares: shares.into_iter().map(share_info).collect() });
        };
        let (cid, link) = parse_manifest_link(text)?;
        let hints = ParsedHints::new(&request.hints, &link)?;
        let tree = self.resolve(cid, &hints, false, report_to(progress, Wanted::Manifest)).await?.tree;
        let files = tree.files.iter().map(|file| file_info(file, &tree.name, request.chunks)).collect();
        let directories = tree.dirs.iter().map(ToString::to_string).collect();
        Ok(LsReport::Manifest {
            cid: cid.to_string(),
            name: tree.name.clone(),
            len: tree.size,
            files,
            directories,
        })
    }

    /// Forgets a share, stops announcing it and begins to take its records back. The user's files stay; copies in the store that nothing else
    /// needs are deleted.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if it is no share of this node.
    pub async fn rm(&self, request: RmRequest) -> Result<Removed, ApiError> {
        let (root, _) = parse_manifest_link(&request.cid)?;
        let removed = self
            .inner
            .store
            .call(move |s| {
                let share = s.share(&root)?;
                let removed = s.remove_share(&root)?;
                Ok::<_, dhtfs_store::StoreError>(share.zip(removed))
            })
            .await??;
        let Some((share, removed)) = removed else {
            let message = format!("{root} is not shared here; `dhtfs ls` lists what is");
            return Err(ApiError::new(ErrorKind::NotFound, message));
        };
        let keys = removed.keys.len() as u64;
        let (withdrawn, left) = if self.provide().is_some() { (keys, 0) } else { (0, keys) };
        if let Some(provide) = self.provide() {
            provide.withdraw(removed.keys).await;
        }
        Ok(Removed { cid: root.to_string(), name: share.name, withdrawn, left })
    }

    /// Deletes from the store what no share needs: manifests looked at, copies, leftovers.
    ///
    /// # Errors
    /// [`ErrorKind::Store`] if the store fails.
    pub async fn gc(&self) -> Result<GcInfo, ApiError> {
        let report = self.inner.store.call_long(|s| s.gc()).await??;
        Ok(GcInfo { manifests: report.manifests, copies: report.blobs, freed_len: report.freed_len })
    }
}

pub(super) fn state_name(state: &ShareState) -> &'static str {
    match state {
        ShareState::Complete => "complete",
        ShareState::Partial { .. } => "partial",
        ShareState::Changed => "changed",
    }
}

/// Bytes of a share that are here. Of a changed one it is not known how much still is.
pub(super) fn have_len(share: &Share) -> u64 {
    match share.state {
        ShareState::Complete => share.size,
        ShareState::Partial { have_len } => have_len,
        ShareState::Changed => 0,
    }
}

fn share_info(share: Share) -> ShareInfo {
    ShareInfo {
        cid: share.root.to_string(),
        state: state_name(&share.state).to_owned(),
        have_len: have_len(&share),
        name: share.name,
        len: share.size,
        files: share.files,
        directory: share.is_dir,
        added_unix: share.added_unix,
        path: share.paths.into_iter().next().unwrap_or_default(),
    }
}

fn file_info(file: &ResolvedFile, root_name: &str, with_chunks: bool) -> FileInfo {
    let path = file.path.to_string();
    let chunks = if with_chunks {
        file.chunks.iter().map(|c| ContentCid::from(*c).to_string()).collect()
    } else {
        Vec::new()
    };
    FileInfo {
        path: if path.is_empty() { root_name.to_owned() } else { path },
        cid: file.cid.to_string(),
        len: file.size,
        executable: file.exec,
        chunks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_of_a_share_has_its_documented_name() {
        assert_eq!(state_name(&ShareState::Complete), "complete");
        assert_eq!(state_name(&ShareState::Partial { have_len: 1 }), "partial");
        assert_eq!(state_name(&ShareState::Changed), "changed");
    }
}
