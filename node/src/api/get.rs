//! `get`: fetch content into a file or directory.

use std::path::{Path, PathBuf};

use dhtfs_store::{ChunkCid, ContentCid, Download, DownloadError, DownloadOptions, Link, ManifestCid};
use tokio::{sync::watch, time::Instant};

use super::{
    Api, ParsedHints,
    add::require_absolute,
    manifest::seconds,
    parse_link,
    types::{ApiError, ErrorKind, GetProgress, GetReport, GetRequest, GetStage, Source, Waiting},
    waiting::{self, Wanted},
};
use crate::{
    core::fetch::{self, FetchProgress, Order, PeerState, Want},
    tasks::fetch::{
        Driver, Turn,
        download::{FillError, Filling},
        resolve::Resolved,
    },
};

/// One `get` under way.
struct Get<'a> {
    api: &'a Api,
    hints: ParsedHints,
    begun: Instant,
    progress: watch::Sender<GetProgress>,
}

impl Api {
    /// Fetches what a CID or link names into a file or directory, verified, and keeps it as a share that is
    /// served and announced while it grows. What is verified and synced survives a kill; the same request goes on
    /// from there. Dropping the future stops the fetch and keeps the part.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if nobody has the manifest, [`ErrorKind::Incomplete`] if chunks have no live
    /// provider (the part is kept), [`ErrorKind::Failed`] if the output exists or cannot be written,
    /// [`ErrorKind::Usage`] for a malformed request.
    pub async fn get(
        &self,
        request: GetRequest,
        progress: watch::Sender<GetProgress>,
    ) -> Result<GetReport, ApiError> {
        let link = parse_link(&request.cid)?;
        let hints = ParsedHints::new(&request.hints, &link)?;
        request.out.iter().chain(&request.into).try_for_each(|path| require_absolute(path))?;
        let get = Get { api: self, hints, begun: Instant::now(), progress };
        match link.cid {
            ContentCid::Manifest(root) => get.tree(root, &request).await,
            ContentCid::Chunk(cid) => get.chunk(cid, &link, &request).await,
        }
    }
}

impl Get<'_> {
    async fn tree(&self, root: ManifestCid, request: &GetRequest) -> Result<GetReport, ApiError> {
        let store = &self.api.inner.store;
        // A file that is wholly here needs no network.
        let local = self.api.resolve_here(root).await?;
        let mut driver = None;
        let resolved = match local {
            Some(resolved) => resolved,
            None => {
                let driver = driver.insert(self.api.driver(root.into(), Order::Spread, &self.hints)?);
                driver.report_to(self.finding(Wanted::Manifest));
                self.api.resolve_with(driver, root, &self.hints).await?
            }
        };
        let out = self.target(request, &resolved.tree.name)?;
        let download = self.begin(&resolved, &out, request.force).await?;
        self.progress.send_modify(|p| {
            p.stage = GetStage::Checking;
            p.waiting = None;
            p.name = Some(resolved.tree.name.clone());
            p.total_len = resolved.tree.size;
            p.have_len = download.have_len();
        });
        let reusing = download.clone();
        store.call_long(move |_| reusing.reuse(&dhtfs_store::no_progress)).await?.map_err(from_disk)?;
        let reused_len = download.have_len();
        self.progress.send_modify(|p| {
            p.stage = GetStage::Fetching;
            p.have_len = reused_len;
            p.reused_len = reused_len;
        });
        if !download.missing().is_empty() {
            let driver = match &mut driver {
                Some(driver) => driver,
                none => none.insert(self.api.driver(root.into(), Order::Spread, &self.hints)?),
            };
            self.fill(driver, &resolved, &download).await?;
        }
        self.progress.send_modify(|p| {
            p.stage = GetStage::Finishing;
            p.waiting = None;
        });
        let path = store.call_syncing(move |_| download.finish()).await?.map_err(from_disk)?;
        self.api.announce_share(root).await?;
        Ok(self.report(root.into(), path, &resolved, reused_len, driver.as_ref()))
    }

    async fn begin(&self, resolved: &Resolved, out: &Path, force: bool) -> Result<Download, ApiError> {
        let options = DownloadOptions { force, now_unix: (self.api.inner.wall_clock)(), announce: None };
        let (tree, out) = (resolved.tree.clone(), out.to_owned());
        let begun = self.api.inner.store.call(move |s| s.begin_download(&tree, &out, options)).await?;
        begun.map_err(from_disk)
    }

    async fn fill(
        &self,
        driver: &mut Driver,
        resolved: &Resolved,
        download: &Download,
    ) -> Result<(), ApiError> {
        let (progress, filled) = (self.progress.clone(), download.clone());
        driver.report_to(move |fetch, waiting| {
            progress.send_modify(|p| {
                p.have_len = filled.have_len();
                p.received_len = p.have_len.saturating_sub(p.reused_len);
                p.sources = sources(fetch);
                p.waiting = waiting.and_then(|waiting| Waiting::of(waiting, Wanted::Chunks));
            });
        });
        let net = self.api.network()?;
        let filling = Filling {
            driver: &mut *driver,
            store: &self.api.inner.store,
            download: download.clone(),
            provide: net.provide.as_ref(),
            manifests: resolved.manifests.clone(),
        };
        match filling.run().await {
            Ok(()) => Ok(()),
            Err(FillError::Failed(_)) => Err(self.incomplete(resolved, download, &driver.why())),
            Err(FillError::Disk(error)) => Err(from_disk(error)),
            Err(FillError::Gone(error)) => Err(error.into()),
        }
    }

    /// What reports on a fetch of which no byte is written yet.
    fn finding(
        &self,
        wanted: Wanted,
    ) -> impl Fn(&FetchProgress, Option<&fetch::Waiting>) + Send + Sync + use<> {
        let progress = self.progress.clone();
        move |fetch, waiting| {
            progress.send_modify(|p| {
                p.sources = sources(fetch);
                p.waiting = waiting.and_then(|waiting| Waiting::of(waiting, wanted));
            });
        }
    }

    fn incomplete(&self, resolved: &Resolved, download: &Download, why: &fetch::Waiting) -> ApiError {
        let (missing, total) = (download.missing().len(), resolved.tree.unique_chunks().len());
        let message = format!(
            "{} is incomplete: {missing} of {total} chunks came from nobody within {}; what arrived is kept in {}, \
             run the same command again to go on{}",
            resolved.tree.name.escape_debug(),
            seconds(self.hints.no_progress),
            download.part_path().display(),
            waiting::verdict(why, Wanted::Chunks)
        );
        ApiError::new(ErrorKind::Incomplete, message)
    }

    /// Where the content goes.
    fn target(&self, request: &GetRequest, name: &str) -> Result<PathBuf, ApiError> {
        match (&request.out, &request.into) {
            (Some(out), _) => Ok(out.clone()),
            (None, Some(dir)) => Ok(dir.join(name)),
            (None, None) => Err(ApiError::new(ErrorKind::Usage, "the request names no place to write to")),
        }
    }

    fn report(
        &self,
        cid: ContentCid,
        path: PathBuf,
        resolved: &Resolved,
        reused_len: u64,
        driver: Option<&Driver>,
    ) -> GetReport {
        let fetch = driver.map(Driver::progress).unwrap_or_default();
        GetReport {
            cid: cid.to_string(),
            path,
            name: resolved.tree.name.clone(),
            len: resolved.tree.size,
            files: resolved.tree.files.len() as u64,
            requested_len: fetch.requested_len,
            received_len: fetch.received_len.saturating_sub(fetch.wasted_len),
            wasted_len: fetch.wasted_len,
            reused_len,
            seconds: self.begun.elapsed().as_secs_f64(),
            sources: sources(&fetch).into_iter().filter(|source| source.chunks > 0).collect(),
            hops: driver.and_then(Driver::hops),
        }
    }

    /// A single chunk: small enough to be held in memory, written as a file of its own.
    async fn chunk(&self, cid: ChunkCid, link: &Link, request: &GetRequest) -> Result<GetReport, ApiError> {
        let store = &self.api.inner.store;
        let name = link.name.clone().unwrap_or_else(|| cid.to_string());
        let out = self.target(request, &name)?;
        let report = self.finding(Wanted::Chunk);
        let (data, driver) = self.api.chunk_bytes(cid, &self.hints, report).await?;
        let fetch = driver.as_ref().map(Driver::progress).unwrap_or_default();
        let len = data.len() as u64;
        let force = request.force;
        let path = out.clone();
        store.call(move |store| store.write_file(&path, &data, force)).await?.map_err(from_disk)?;
        Ok(GetReport {
            cid: cid.to_string(),
            path: out,
            name,
            len,
            files: 1,
            requested_len: fetch.requested_len,
            received_len: fetch.received_len.saturating_sub(fetch.wasted_len),
            wasted_len: fetch.wasted_len,
            reused_len: if driver.is_none() { len } else { 0 },
            seconds: self.begun.elapsed().as_secs_f64(),
            sources: sources(&fetch).into_iter().filter(|source| source.chunks > 0).collect(),
            hops: driver.as_ref().and_then(Driver::hops),
        })
    }
}

impl Api {
    /// The bytes of one chunk, from the store or from peers; with the fetch, if there was one.
    pub(super) async fn chunk_bytes(
        &self,
        cid: ChunkCid,
        hints: &ParsedHints,
        report: impl Fn(&FetchProgress, Option<&fetch::Waiting>) + Send + Sync + 'static,
    ) -> Result<(Vec<u8>, Option<Driver>), ApiError> {
        let read = self.inner.store.call(move |s| s.read_chunk(&cid)).await??;
        if let dhtfs_store::ChunkRead::Data(data) = read {
            return Ok((data, None));
        }
        let mut driver = self.driver(cid.into(), Order::InOrder, hints)?;
        driver.report_to(report);
        driver.want(vec![Want { cid: cid.into(), len: None, place: None }]);
        loop {
            match driver.next().await {
                Turn::Block { id, data, .. } if cid.matches(&data) => {
                    driver.stored(id);
                    return Ok((data, Some(driver)));
                }
                Turn::Block { id, .. } => driver.bad(id),
                Turn::Failed(_) | Turn::Finished => {
                    let why = driver.why();
                    return Err(self.not_found(cid.into(), hints.no_progress, Some((&why, Wanted::Chunk))));
                }
            }
        }
    }
}

/// The peers of a fetch as the API shows them.
pub(super) fn sources(fetch: &FetchProgress) -> Vec<Source> {
    let source = |peer: &crate::core::fetch::PeerProgress| Source {
        peer: peer.peer.to_string(),
        chunks: peer.served,
        len: peer.served_len,
        in_flight: u32::try_from(peer.in_flight).unwrap_or(u32::MAX),
        state: match peer.state {
            PeerState::Dialling => "dialling",
            PeerState::Connected => "connected",
            PeerState::Backoff => "backoff",
            PeerState::Banned => "banned",
        }
        .to_owned(),
    };
    fetch.peers.iter().map(source).collect()
}

pub(super) fn from_disk(error: DownloadError) -> ApiError {
    ApiError::new(ErrorKind::Failed, error.to_string())
}
