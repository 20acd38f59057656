//! `verify`: does a path hold exactly the content of a CID?

use std::path::PathBuf;

use dhtfs_store::{ChunkCid, ContentCid, ManifestCid, VerifyReport};
use tokio::sync::watch;

use super::{
    Api, ParsedHints,
    add::{CancelOnDrop, hash_progress, require_absolute},
    parse_link,
    types::{ApiError, ErrorKind, HashProgress, Verified, VerifyRequest},
    waiting::{Wanted, report_to},
};

impl Api {
    /// Compares a file or directory with a CID, chunk by chunk. If the path alone gives the CID (same name, same
    /// content) nothing else is needed; otherwise the manifest comes from the store or from peers. Files of a
    /// directory that the manifest does not name are not looked at.
    ///
    /// # Errors
    /// [`ErrorKind::Failed`] with the first difference; as [`Api::get`] if the manifest cannot be had.
    pub async fn verify(
        &self,
        request: VerifyRequest,
        progress: watch::Sender<HashProgress>,
    ) -> Result<Verified, ApiError> {
        require_absolute(&request.path)?;
        let link = parse_link(&request.cid)?;
        let hints = ParsedHints::new(&request.hints, &link)?;
        match link.cid {
            ContentCid::Chunk(cid) => self.verify_chunk(cid, request.path).await,
            ContentCid::Manifest(root) => self.verify_tree(root, request.path, &hints, progress).await,
        }
    }

    async fn verify_tree(
        &self,
        root: ManifestCid,
        path: PathBuf,
        hints: &ParsedHints,
        progress: watch::Sender<HashProgress>,
    ) -> Result<Verified, ApiError> {
        let (_cancel, cancelled) = CancelOnDrop::new();
        let report = hash_progress(progress.clone(), cancelled);
        let known = match self.resolve_here(root).await? {
            Some(resolved) => Some(resolved),
            None => {
                let (hashed_path, hashing) = (path.clone(), report);
                let hashed = self
                    .inner
                    .store
                    .call_long(move |store| store.hash_path(&hashed_path, None, &hashing))
                    .await?;
                let hashed = hashed.map_err(|error| ApiError::new(ErrorKind::Failed, error.to_string()))?;
                if hashed.root == root {
                    let (len, files) = (hashed.size, hashed.files);
                    return Ok(Verified { cid: root.to_string(), path, len, files });
                }
                None
            }
        };
        let tree = match known {
            Some(resolved) => resolved.tree,
            None if self.inner.net.is_some() => {
                let finding = report_to(progress.clone(), Wanted::Manifest);
                let resolved = self.resolve(root, hints, false, finding).await?;
                progress.send_if_modified(|progress| progress.waiting.take().is_some());
                resolved.tree
            }
            None => {
                return Err(differs(
                    &path,
                    root.into(),
                    "its own CID is another, and the manifest is not here to compare with",
                ));
            }
        };
        let (len, files) = (tree.size, tree.files.len() as u64);
        let compared = path.clone();
        let report = self
            .inner
            .store
            .call_long(move |store| store.verify_path(&compared, &tree, &dhtfs_store::no_progress))
            .await?;
        let report = report.map_err(|error| ApiError::new(ErrorKind::Failed, error.to_string()))?;
        match first_difference(&report) {
            None => Ok(Verified { cid: root.to_string(), path, len, files }),
            Some(difference) => Err(differs(&path, root.into(), &difference)),
        }
    }

    async fn verify_chunk(&self, cid: ChunkCid, path: PathBuf) -> Result<Verified, ApiError> {
        let read = path.clone();
        let data = self.inner.store.call_long(move |store| store.read_small_file(&read)).await?;
        let data = data.map_err(|error| ApiError::new(ErrorKind::Failed, error.to_string()))?;
        if data.as_ref().is_some_and(|data| cid.matches(data)) {
            let len = data.map_or(0, |data| data.len() as u64);
            return Ok(Verified { cid: cid.to_string(), path, len, files: 1 });
        }
        Err(differs(&path, cid.into(), "the whole file is not that chunk"))
    }
}

fn first_difference(report: &VerifyReport) -> Option<String> {
    if let Some(path) = report.missing.first() {
        return Some(format!("{} is missing", path.display()));
    }
    report
        .first_bad
        .as_ref()
        .map(|(path, offset)| format!("{} differs at byte {offset} or after", path.display()))
}

fn differs(path: &std::path::Path, cid: ContentCid, why: &str) -> ApiError {
    ApiError::new(ErrorKind::Failed, format!("{} is not the content of {cid}: {why}", path.display()))
}
