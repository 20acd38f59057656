//! `get`: fetch content into a file or directory.

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use dhtfs_store::{
    ChunkCid, ContentCid, Download, DownloadError, DownloadOptions, Link, ManifestCid, StoreError,
};
use tokio::{sync::watch, time::Instant};

use super::{
    Api, ParsedHints,
    add::require_absolute,
    manifest::seconds,
    parse_link,
    transfers::{Begin, Running, Target},
    types::{
        ApiError, ErrorKind, GetProgress, GetReport, GetRequest, GetStage, Source, TransferOutcome, Waiting,
    },
    waiting::{self, Wanted},
};
use crate::{
    core::{
        fetch::{self, FetchProgress, Order, PeerState, Want},
        transfers::{Will, Wish},
    },
    env::StoreGone,
    tasks::fetch::{
        Block, Driver, Turn,
        download::{FillError, Filling},
        resolve::{self, ResolveError, Resolved},
    },
};

/// One `get` under way, in as many attempts as it takes.
pub(super) struct Get<'a> {
    api: &'a Api,
    running: &'a Running,
    hints: ParsedHints,
    begun: Instant,
    progress: watch::Sender<GetProgress>,
    /// It may have been done by an earlier run of this node.
    pub(super) may_be_done: bool,
    tally: Tally,
    /// Where what is not complete lies.
    part: Option<PathBuf>,
}

/// Why an attempt ended without the content.
#[derive(Debug)]
pub(super) enum Halt {
    /// The user wants it to rest or to end.
    Stopped,
    /// It failed.
    Failed(ApiError),
    /// Something stood against it that goes away by itself.
    Hindered(ApiError),
}

impl Halt {
    fn of_disk(error: DownloadError) -> Self {
        match error {
            DownloadError::InProgress(_) | DownloadError::Spoiled(_) => Self::Hindered(from_disk(error)),
            _ => Self::Failed(from_disk(error)),
        }
    }
}

impl From<ApiError> for Halt {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

impl From<StoreGone> for Halt {
    fn from(error: StoreGone) -> Self {
        Self::Failed(error.into())
    }
}

impl From<StoreError> for Halt {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<Halt> for ApiError {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Stopped => ApiError::new(ErrorKind::Interrupted, "the fetch was stopped"),
            Halt::Failed(error) | Halt::Hindered(error) => error,
        }
    }
}

/// What all attempts together brought.
#[derive(Debug, Default)]
struct Tally {
    requested_len: u64,
    received_len: u64,
    wasted_len: u64,
    /// Bytes that were there before the first of them.
    reused_len: Option<u64>,
    sources: BTreeMap<String, Source>,
    hops: Option<u32>,
}

impl Tally {
    fn add(&mut self, driver: &Driver) {
        let fetch = driver.progress();
        self.requested_len += fetch.requested_len;
        self.received_len += fetch.received_len.saturating_sub(fetch.wasted_len);
        self.wasted_len += fetch.wasted_len;
        self.hops = self.hops.or(driver.hops());
        for source in sources(&fetch).into_iter().filter(|source| source.chunks > 0) {
            let known = self.sources.entry(source.peer.clone()).or_default();
            *known = Source { chunks: known.chunks + source.chunks, len: known.len + source.len, ..source };
        }
    }
}

impl Api {
    /// Fetches what a CID or link names into a file or directory, verified, and keeps it as a share that is
    /// served and announced while it grows. What is verified and synced survives a kill; the same request goes on
    /// from there. Dropping the future stops the fetch and keeps the part. It is a transfer, so that others see it and
    /// may have it rest or end.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if nobody has the manifest, [`ErrorKind::Incomplete`] if chunks have no live
    /// provider (the part is kept), [`ErrorKind::Failed`] if the output exists or cannot be written or there are too
    /// many transfers, [`ErrorKind::Usage`] for a malformed request, [`ErrorKind::Interrupted`] if it was aborted.
    pub async fn get(
        &self,
        request: GetRequest,
        progress: watch::Sender<GetProgress>,
    ) -> Result<GetReport, ApiError> {
        let link = parse_link(&request.cid)?;
        let hints = ParsedHints::new(&request.hints, &link)?;
        request.out.iter().chain(&request.into).try_for_each(|path| require_absolute(path))?;
        let begin = Begin {
            cid: link.cid,
            target: Target { out: request.out.clone(), into: request.into.clone() },
            progress: progress.subscribe(),
            saved: None,
            started_unix: (self.inner.wall_clock)(),
            will: Will::Run,
        };
        let running = self.inner.transfers.begin(begin)?;
        let result = self.get_attached(&running, hints, &link, &request, progress).await;
        match &result {
            Ok(_) => running.end(TransferOutcome::Done, None),
            Err(error) if error.kind == ErrorKind::Interrupted => {
                running.end(TransferOutcome::Aborted, None);
            }
            Err(error) => running.end(TransferOutcome::Failed, Some(&error.message)),
        }
        result
    }

    async fn get_attached(
        &self,
        running: &Running,
        hints: ParsedHints,
        link: &Link,
        request: &GetRequest,
        progress: watch::Sender<GetProgress>,
    ) -> Result<GetReport, ApiError> {
        let mut get = Get::new(self, running, hints, progress);
        loop {
            get.rests();
            if !running.turn().await {
                return Err(get.aborted());
            }
            match get.attempt(link, request).await {
                Ok(report) => return Ok(report),
                Err(Halt::Stopped) => running.rested(),
                Err(Halt::Failed(error) | Halt::Hindered(error)) => return Err(error),
            }
        }
    }
}

impl<'a> Get<'a> {
    pub(super) fn new(
        api: &'a Api,
        running: &'a Running,
        hints: ParsedHints,
        progress: watch::Sender<GetProgress>,
    ) -> Self {
        let (begun, tally) = (Instant::now(), Tally::default());
        Self { api, running, hints, begun, progress, may_be_done: false, tally, part: None }
    }

    /// Bytes held so far.
    pub(super) fn have_len(&self) -> u64 {
        self.progress.borrow().have_len
    }

    /// Tells whether it rests: nothing is being done for it.
    pub(super) fn rests(&self) {
        let is_paused = self.running.is_paused();
        self.progress.send_if_modified(|p| {
            let changed = p.paused != is_paused || p.waiting.is_some() || !p.sources.is_empty();
            p.paused = is_paused;
            p.waiting = None;
            p.sources.clear();
            changed
        });
    }

    /// Goes as far as it goes. To be called when it is the transfer's turn.
    pub(super) async fn attempt(&mut self, link: &Link, request: &GetRequest) -> Result<GetReport, Halt> {
        self.progress.send_if_modified(|p| std::mem::take(&mut p.paused));
        let mut driver = None;
        let result = match link.cid {
            ContentCid::Manifest(root) => self.tree(&mut driver, root, request).await,
            ContentCid::Chunk(cid) => self.chunk(&mut driver, cid, link, request).await,
        };
        if let Some(driver) = &driver {
            self.tally.add(driver);
        }
        let (path, facts) = result?;
        let mut report = self.report(link.cid, path, facts);
        self.api.note_relayed(&mut report.sources).await;
        Ok(report)
    }

    async fn tree(
        &mut self,
        driver: &mut Option<Driver>,
        root: ManifestCid,
        request: &GetRequest,
    ) -> Result<(PathBuf, Facts), Halt> {
        let store = self.api.inner.store.clone();
        // A file that is wholly here needs no network.
        let local = self.api.resolve_here(root).await?;
        let mut resolved = match local {
            Some(resolved) => resolved,
            None => self.find(driver, root).await?,
        };
        let out = self.target(request, &resolved.tree.name)?;
        let facts = Facts::of(&resolved);
        if self.may_be_done && self.is_done(root, &out).await? {
            return Ok((out, facts));
        }
        let download = self.begin(&resolved, &out, request.force).await?;
        self.part = Some(download.part_path().to_owned());
        self.progress.send_modify(|p| {
            p.stage = GetStage::Checking;
            p.waiting = None;
            p.name = Some(resolved.tree.name.clone());
            p.total_len = resolved.tree.size;
            p.have_len = download.have_len();
        });
        self.reuse(&download).await?;
        let have_len = download.have_len();
        self.take(&download, std::mem::take(&mut resolved.contents)).await?;
        let reused_len = *self.tally.reused_len.get_or_insert(have_len);
        self.progress.send_modify(|p| {
            p.stage = GetStage::Fetching;
            p.have_len = download.have_len();
            p.reused_len = reused_len;
            p.received_len = p.have_len.saturating_sub(p.reused_len);
        });
        if !download.missing().is_empty() {
            let driver = match driver {
                Some(driver) => driver,
                none => none.insert(self.driver(root.into(), Order::Spread)?),
            };
            self.fill(driver, &resolved, &download).await?;
        }
        self.progress.send_modify(|p| {
            p.stage = GetStage::Finishing;
            p.waiting = None;
        });
        let path = store.call_syncing(move |_| download.finish()).await?.map_err(Halt::of_disk)?;
        self.api.announce_share(root).await?;
        Ok((path, facts))
    }

    /// A fetch that follows the user's wishes.
    fn driver(&self, root: ContentCid, order: Order) -> Result<Driver, ApiError> {
        let mut driver = self.api.driver(root, order, &self.hints)?;
        driver.steer_by(self.running.wishes());
        Ok(driver)
    }

    /// The manifest, from peers.
    async fn find(&self, driver: &mut Option<Driver>, root: ManifestCid) -> Result<Resolved, Halt> {
        let driver = driver.insert(self.driver(root.into(), Order::Spread)?);
        driver.report_to(self.finding(Wanted::Manifest));
        driver.ask_with_content(true);
        match resolve::from_peers(driver, &self.api.inner.store, root).await {
            Ok(resolved) => Ok(resolved),
            Err(ResolveError::Stopped) => Err(Halt::Stopped),
            Err(error) => {
                let why = driver.why();
                Err(self.api.resolve_error(root, error, self.hints.no_progress, Some(&why)).into())
            }
        }
    }

    /// Finds what need not be fetched.
    async fn reuse(&self, download: &Download) -> Result<(), Halt> {
        let (reusing, wishes) = (download.clone(), self.running.wishes());
        let go_on = move |_| match wishes.borrow().will {
            Will::Run => ControlFlow::Continue(()),
            Will::Pause | Will::Abort => ControlFlow::Break(()),
        };
        match self.api.inner.store.call_long(move |_| reusing.reuse(&go_on)).await? {
            Ok(_) => Ok(()),
            Err(DownloadError::Cancelled) => Err(Halt::Stopped),
            Err(error) => Err(Halt::of_disk(error)),
        }
    }

    /// Takes what came with the manifests.
    async fn take(&self, download: &Download, contents: Vec<(ChunkCid, Vec<u8>)>) -> Result<(), Halt> {
        if contents.is_empty() {
            return Ok(());
        }
        let taking = download.clone();
        let write = move || {
            contents.iter().try_for_each(|(cid, data)| taking.write(cid, data).map(|_| ()))?;
            // What is missing may take long to come: what is here is kept, and served to others, until then.
            if taking.missing().is_empty() { Ok(()) } else { taking.commit().map(|_| ()) }
        };
        self.api.inner.store.call_syncing(move |_| write()).await?.map_err(Halt::of_disk)
    }

    /// Whether it was fetched to `out` before, and all of it is still there.
    async fn is_done(&self, root: ManifestCid, out: &Path) -> Result<bool, ApiError> {
        let out = out.to_owned();
        Ok(self.api.inner.store.call(move |store| store.is_complete_at(&root, &out)).await??)
    }

    async fn begin(&self, resolved: &Resolved, out: &Path, force: bool) -> Result<Download, Halt> {
        let options = DownloadOptions { force, now_unix: (self.api.inner.wall_clock)(), announce: None };
        let (tree, out) = (resolved.tree.clone(), out.to_owned());
        let begun = self.api.inner.store.call(move |s| s.begin_download(&tree, &out, options)).await?;
        begun.map_err(Halt::of_disk)
    }

    async fn fill(&self, driver: &mut Driver, resolved: &Resolved, download: &Download) -> Result<(), Halt> {
        let (progress, filled, meter) = (self.progress.clone(), download.clone(), self.running.meter());
        driver.report_to(move |fetch, waiting| {
            let have_len = filled.have_len();
            meter(have_len);
            progress.send_modify(|p| {
                p.have_len = have_len;
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
            Err(FillError::Stopped) => Err(Halt::Stopped),
            Err(FillError::Failed(_)) => Err(self.incomplete(resolved, download, &driver.why()).into()),
            Err(FillError::Disk(error)) => Err(Halt::of_disk(error)),
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

    /// What the client of an aborted transfer is told.
    fn aborted(&self) -> ApiError {
        let message = match &self.part {
            Some(part) if self.have_len() > 0 => format!(
                "aborted; what arrived is kept in {}, the same command goes on from there",
                part.display()
            ),
            _ => "aborted before anything was fetched".to_owned(),
        };
        ApiError::new(ErrorKind::Interrupted, message)
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

    fn report(&self, cid: ContentCid, path: PathBuf, facts: Facts) -> GetReport {
        let Tally { requested_len, received_len, wasted_len, reused_len, sources, hops } = &self.tally;
        GetReport {
            cid: cid.to_string(),
            path,
            name: facts.name,
            len: facts.len,
            files: facts.files,
            requested_len: *requested_len,
            received_len: *received_len,
            wasted_len: *wasted_len,
            reused_len: reused_len.unwrap_or(facts.len),
            seconds: self.begun.elapsed().as_secs_f64(),
            sources: sources.values().cloned().collect(),
            hops: *hops,
        }
    }

    /// A single chunk: small enough to be held in memory, written as a file of its own.
    async fn chunk(
        &mut self,
        driver: &mut Option<Driver>,
        cid: ChunkCid,
        link: &Link,
        request: &GetRequest,
    ) -> Result<(PathBuf, Facts), Halt> {
        let store = &self.api.inner.store;
        let name = link.name.clone().unwrap_or_else(|| cid.to_string());
        let out = self.target(request, &name)?;
        self.progress.send_modify(|p| p.name = Some(name.clone()));
        let (report, wishes) = (self.finding(Wanted::Chunk), Some(self.running.wishes()));
        let data = self.api.chunk_bytes(driver, cid, &self.hints, report, wishes).await?;
        let len = data.len() as u64;
        self.tally.reused_len = Some(if driver.is_none() { len } else { 0 });
        let force = request.force;
        let path = out.clone();
        store.call(move |store| store.write_file(&path, &data, force)).await?.map_err(from_disk)?;
        Ok((out, Facts { name, len, files: 1 }))
    }
}

/// What a report says of the content.
struct Facts {
    name: String,
    len: u64,
    files: u64,
}

impl Facts {
    fn of(resolved: &Resolved) -> Self {
        let tree = &resolved.tree;
        Self { name: tree.name.clone(), len: tree.size, files: tree.files.len() as u64 }
    }
}

impl Api {
    /// The bytes of one chunk, from the store or from peers; `driver` is the fetch then.
    pub(super) async fn chunk_bytes(
        &self,
        driver: &mut Option<Driver>,
        cid: ChunkCid,
        hints: &ParsedHints,
        report: impl Fn(&FetchProgress, Option<&fetch::Waiting>) + Send + Sync + 'static,
        wishes: Option<watch::Receiver<Wish>>,
    ) -> Result<Vec<u8>, Halt> {
        let read = self.inner.store.call(move |s| s.read_chunk(&cid)).await??;
        if let dhtfs_store::ChunkRead::Data(data) = read {
            return Ok(data);
        }
        let driver = driver.insert(self.driver(cid.into(), Order::InOrder, hints)?);
        driver.report_to(report);
        if let Some(wishes) = wishes {
            driver.steer_by(wishes);
        }
        driver.want(vec![Want { cid: cid.into(), len: None, place: None }]);
        loop {
            match driver.next().await {
                Turn::Blocks(blocks) => {
                    for Block { id, data, .. } in blocks {
                        if cid.matches(&data) {
                            driver.stored(id);
                            return Ok(data);
                        }
                        driver.bad(id);
                    }
                }
                Turn::Stopped => return Err(Halt::Stopped),
                Turn::Failed(_) | Turn::Finished => {
                    let why = driver.why();
                    let error = self.not_found(cid.into(), hints.no_progress, Some((&why, Wanted::Chunk)));
                    return Err(error.into());
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
        relayed: false,
    };
    fetch.peers.iter().map(source).collect()
}

pub(super) fn from_disk(error: DownloadError) -> ApiError {
    ApiError::new(ErrorKind::Failed, error.to_string())
}
