//! Transfers that nobody waits for: handed over, kept in the store, carried out until they are done or aborted, also
//! after a restart.

use std::{pin::Pin, time::Duration};

use dhtfs_store::{ContentCid, SavedTransfer};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tracing::{info, warn};

use super::{Begin, Running, Target};
use crate::{
    Role,
    api::{
        Api, ParsedHints,
        add::require_absolute,
        get::{Get, Halt},
        parse_link,
        types::{ApiError, ErrorKind, GetProgress, GetRequest, NetworkHints, Transfer, TransferOutcome},
    },
    core::{
        backoff::{Backoff, BackoffPolicy},
        transfers::{TransferId, Transfers, Will},
    },
    env::StoreHandle,
    tasks::{ended, now},
};

/// Pause before a fetch that nobody could serve is tried again.
const TRY_AGAIN: BackoffPolicy = BackoffPolicy::new(Duration::from_secs(15), Duration::from_secs(10 * 60));

/// Hand-overs that wait to be begun with.
const MAX_WAITING_JOBS: usize = 16;

/// A request, and who waits to hear that it was taken on.
struct Job {
    request: GetRequest,
    taken_on: oneshot::Sender<Result<Transfer, ApiError>>,
}

/// The way to the task that carries transfers out.
pub(crate) struct Jobs {
    /// For one hand-over at a time: two of the same would both see none.
    jobs: Mutex<mpsc::Sender<Job>>,
    /// Whether the transfers of the last run are in the registry.
    loaded: watch::Receiver<bool>,
}

/// The other end.
pub(crate) struct Received {
    jobs: mpsc::Receiver<Job>,
    loaded: watch::Sender<bool>,
}

impl Jobs {
    pub(crate) fn new() -> (Self, Received) {
        let (jobs, received) = mpsc::channel(MAX_WAITING_JOBS);
        let (now_loaded, loaded) = watch::channel(false);
        (Self { jobs: Mutex::new(jobs), loaded }, Received { jobs: received, loaded: now_loaded })
    }
}

/// One that is carried out.
struct Detached {
    api: Api,
    running: Running,
    number: u64,
    request: GetRequest,
    progress: watch::Sender<GetProgress>,
    /// It may have been done just before the node ended.
    may_be_done: bool,
}

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Api {
    /// Hands a fetch over: it is kept, and goes on by itself until it is done or aborted, also after a restart of this
    /// node. Answers as soon as that is on the disk. The same content to the same place is one transfer, however often
    /// it is handed over; one that failed is tried again by that, and another request for it takes the place of the first.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a malformed request, [`ErrorKind::Failed`] on a node that is no daemon or has too many
    /// transfers already.
    pub async fn get_detached(&self, request: GetRequest) -> Result<Transfer, ApiError> {
        let (cid, target) = checked(&request)?;
        let jobs = self.inner.jobs.as_ref().filter(|_| self.inner.role == Role::Server).ok_or_else(|| {
            ApiError::new(
                ErrorKind::Failed,
                "this node takes nothing over; start `dhtfs daemon` and try again",
            )
        })?;
        self.loaded().await;
        let jobs = jobs.jobs.lock().await;
        if let Some(id) = self.inner.transfers.detached(cid, &target)
            && let Some(transfer) = self.goes_on(id, cid, &request).await?
        {
            return Ok(transfer);
        }
        let ending = || ApiError::new(ErrorKind::Failed, "the node is ending; start it again");
        let (taken_on, answer) = oneshot::channel();
        jobs.send(Job { request, taken_on }).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?
    }

    /// Until the transfers of the last run are known.
    pub(super) async fn loaded(&self) {
        if let Some(jobs) = &self.inner.jobs {
            // A node that ends before has nothing more to tell.
            let _ = jobs.loaded.clone().wait_for(|loaded| *loaded).await;
        }
    }

    /// Lets the transfer `id` go on, if it was handed over with the same request; ends it if not.
    async fn goes_on(
        &self,
        id: TransferId,
        cid: ContentCid,
        asked: &GetRequest,
    ) -> Result<Option<Transfer>, ApiError> {
        let found = self.inner.transfers.find(Some(cid)).into_iter().find(|(other, _)| *other == id);
        let Some((_, Some(number))) = found else { return Ok(None) };
        let kept = self.inner.store.call(|store| store.transfers()).await??;
        let kept = kept.into_iter().find(|(other, _)| *other == number).map(|(_, kept)| request(&kept));
        if kept.as_ref() != Some(&request(&saved(asked, 0))) {
            self.end_all(&[(id, Some(number))]).await?;
            return Ok(None);
        }
        let goes_on = move |store: &dhtfs_store::Store| {
            store.update_transfer(number, |saved| {
                saved.paused = false;
                saved.failed = None;
            })
        };
        self.inner.store.call_syncing(goes_on).await??;
        self.inner.transfers.order(&[id], Transfers::resume);
        Ok(self.these(&[id]).pop())
    }

    /// Keeps a request and begins it.
    async fn take_on(&self, request: GetRequest) -> Result<Detached, ApiError> {
        let (cid, target) = checked(&request)?;
        let mut progress = GetProgress::default();
        if let (ContentCid::Manifest(root), true) = (cid, target.out.is_none())
            && let Some(resolved) = self.resolve_here(root).await?
        {
            progress.name = Some(resolved.tree.name);
            progress.total_len = resolved.tree.size;
        }
        let saved = saved(&request, (self.inner.wall_clock)());
        let kept = saved.clone();
        let number = self.inner.store.call_syncing(move |store| store.add_transfer(&kept)).await??;
        let begun = self.begin(number, &saved, cid, target, progress);
        if begun.is_err() {
            self.inner.store.call_syncing(move |store| store.remove_transfer(number)).await??;
        }
        let (running, progress) = begun?;
        Ok(Detached { api: self.clone(), running, number, request, progress, may_be_done: false })
    }

    fn begin(
        &self,
        number: u64,
        saved: &SavedTransfer,
        cid: ContentCid,
        target: Target,
        progress: GetProgress,
    ) -> Result<(Running, watch::Sender<GetProgress>), ApiError> {
        let (sender, progress) = watch::channel(progress);
        let begin = Begin {
            cid,
            target,
            progress,
            saved: Some(number),
            started_unix: saved.added_unix,
            will: if saved.paused { Will::Pause } else { Will::Run },
        };
        let running = self.inner.transfers.begin(begin)?;
        if let Some(error) = &saved.failed {
            running.failed(error, None);
        }
        Ok((running, sender))
    }

    /// The transfers that a former run of this node kept.
    async fn kept(&self) -> Vec<Detached> {
        let kept = match self.inner.store.call(|store| store.transfers()).await {
            Ok(Ok(kept)) => kept,
            Ok(Err(error)) => {
                warn!(%error, "transfers of the last run cannot be read; they do not go on");
                return Vec::new();
            }
            Err(_) => return Vec::new(),
        };
        let mut begun = Vec::new();
        for (number, saved) in kept {
            let request = request(&saved);
            let begin = || {
                let (cid, target) = checked(&request)?;
                self.begin(number, &saved, cid, target, GetProgress::default())
            };
            match begin() {
                Ok((running, progress)) => {
                    info!(cid = %saved.link, paused = saved.paused, "a transfer of the last run goes on");
                    let api = self.clone();
                    begun.push(Detached { api, running, number, request, progress, may_be_done: true });
                }
                Err(error) => warn!(cid = %saved.link, %error, "a transfer of the last run does not go on"),
            }
        }
        begun
    }
}

/// Carries out what was and is handed over, until the node ends.
pub(crate) async fn run(api: Api, received: Received, mut shutdown: watch::Receiver<bool>) {
    let Received { mut jobs, loaded } = received;
    let mut works: FuturesUnordered<Work> = FuturesUnordered::new();
    let kept = tokio::select! {
        kept = api.kept() => kept,
        () = ended(&mut shutdown) => return,
    };
    works.extend(kept.into_iter().map(|detached| Box::pin(detached.carry_out()) as Work));
    loaded.send_replace(true);
    loop {
        tokio::select! {
            // What is cut off here is kept, and goes on with the next start.
            () = ended(&mut shutdown) => return,
            Some(()) = works.next(), if !works.is_empty() => {}
            Some(Job { request, taken_on }) = jobs.recv() => {
                let api = api.clone();
                works.push(Box::pin(async move {
                    match api.take_on(request).await {
                        Ok(detached) => {
                            let id = detached.running.id();
                            let transfer = api.these(&[id]).pop().unwrap_or_default();
                            // Whoever asked may be gone; it is kept all the same.
                            let _ = taken_on.send(Ok(transfer));
                            detached.carry_out().await;
                        }
                        Err(error) => drop(taken_on.send(Err(error))),
                    }
                }));
            }
        }
    }
}

impl Detached {
    /// Fetches until it is done or aborted.
    async fn carry_out(self) {
        let Self { api, running, number, request, progress, may_be_done } = self;
        let store = api.inner.store.clone();
        let mut again = Backoff::new(TRY_AGAIN, api.next_seed());
        let Ok((link, hints)) = links(&request) else { return };
        let mut get = Get::new(&api, &running, hints, progress);
        // What is to be replaced may have been there before.
        get.may_be_done = may_be_done && !request.force;
        let mut had_len = 0;
        loop {
            get.rests();
            if !running.turn().await {
                forget(&store, number).await;
                break running.end(TransferOutcome::Aborted, None);
            }
            match get.attempt(&link, &request).await {
                Ok(report) => {
                    info!(cid = %request.cid, path = %report.path.display(), "a transfer is done");
                    forget(&store, number).await;
                    break running.end(TransferOutcome::Done, None);
                }
                Err(Halt::Stopped) => running.rested(),
                Err(Halt::Hindered(error)) => {
                    running.failed(&error.message, Some(now() + again.next_delay()));
                }
                Err(Halt::Failed(error))
                    if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Incomplete) =>
                {
                    let have_len = get.have_len();
                    if have_len > had_len {
                        again.reset();
                    }
                    had_len = have_len;
                    running.failed(&error.message, Some(now() + again.next_delay()));
                }
                Err(Halt::Failed(error)) => {
                    warn!(cid = %request.cid, %error, "a transfer has failed");
                    let message = error.message.clone();
                    let note = move |saved: &mut SavedTransfer| saved.failed = Some(message);
                    let noted = store.call_syncing(move |store| store.update_transfer(number, note)).await;
                    if let Ok(Err(error)) = noted {
                        warn!(%error, "why a transfer has failed cannot be kept");
                    }
                    running.failed(&error.message, None);
                }
            }
        }
    }
}

async fn forget(store: &StoreHandle, number: u64) {
    if let Ok(Err(error)) = store.call_syncing(move |store| store.remove_transfer(number)).await {
        warn!(%error, "a transfer that has ended is still kept");
    }
}

/// What a request names and where it goes, if it can be handed over.
fn checked(request: &GetRequest) -> Result<(ContentCid, Target), ApiError> {
    let (link, _) = links(request)?;
    if let ContentCid::Chunk(cid) = link.cid {
        let message = format!("{cid} names a single chunk, which comes at once; get it without --detach");
        return Err(ApiError::new(ErrorKind::Usage, message));
    }
    request.out.iter().chain(&request.into).try_for_each(|path| require_absolute(path))?;
    if request.out.is_none() && request.into.is_none() {
        return Err(ApiError::new(ErrorKind::Usage, "the request names no place to write to"));
    }
    Ok((link.cid, Target { out: request.out.clone(), into: request.into.clone() }))
}

fn links(request: &GetRequest) -> Result<(dhtfs_store::Link, ParsedHints), ApiError> {
    let link = parse_link(&request.cid)?;
    let hints = ParsedHints::new(&request.hints, &link)?;
    Ok((link, hints))
}

fn saved(request: &GetRequest, added_unix: u64) -> SavedTransfer {
    let timeout = request.hints.timeout_secs.and_then(|secs| Duration::try_from_secs_f64(secs).ok());
    SavedTransfer {
        link: request.cid.clone(),
        out: request.out.clone(),
        into: request.into.clone(),
        force: request.force,
        peers: request.hints.peers.clone(),
        bootstrap: request.hints.bootstrap.clone(),
        // Never 0, which would be no timeout that makes sense.
        timeout_ms: timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1)),
        added_unix,
        paused: false,
        failed: None,
    }
}

fn request(saved: &SavedTransfer) -> GetRequest {
    let timeout = saved.timeout_ms.map(Duration::from_millis);
    GetRequest {
        cid: saved.link.clone(),
        out: saved.out.clone(),
        into: saved.into.clone(),
        force: saved.force,
        hints: NetworkHints {
            peers: saved.peers.clone(),
            bootstrap: saved.bootstrap.clone(),
            timeout_secs: timeout.map(|timeout| timeout.as_secs_f64()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_what_is_asked_for_after_a_restart() {
        let asked = GetRequest {
            cid: "dhtfs:bafy".to_owned(),
            out: Some("/out".into()),
            into: Some("/into".into()),
            force: true,
            hints: NetworkHints {
                peers: vec!["/ip4/192.0.2.1/tcp/1".to_owned()],
                bootstrap: vec!["/ip4/192.0.2.2/tcp/1".to_owned()],
                timeout_secs: Some(1.5),
            },
        };
        let again = request(&saved(&asked, 7));
        assert_eq!((again.cid, again.out, again.into, again.force), (asked.cid, asked.out, asked.into, true));
        assert_eq!(again.hints, asked.hints);
    }

    #[test]
    fn what_cannot_be_handed_over_is_refused() {
        let manifest = dhtfs_store::ManifestCid::from_digest([1; 32]).to_string();
        let chunk = dhtfs_store::ChunkCid::from_digest([1; 32]).to_string();
        let request = |cid: &str, out: Option<&str>| GetRequest {
            cid: cid.to_owned(),
            out: out.map(Into::into),
            ..GetRequest::default()
        };
        assert!(checked(&request(&manifest, Some("/out"))).is_ok());
        for refused in [
            request(&chunk, Some("/out")),
            request(&manifest, Some("out")),
            request(&manifest, None),
            request("nonsense", Some("/out")),
        ] {
            let kind = checked(&refused).err().map(|error| error.kind);
            assert_eq!(kind, Some(ErrorKind::Usage), "{refused:?}");
        }
    }
}
