//! Every transfer of the node, with what is shown of it. The decisions are those of
//! [`Transfers`](crate::core::transfers).

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use dhtfs_store::ContentCid;
use tokio::sync::watch;

use crate::{
    api::types::{
        ApiError, EndedTransfer, ErrorKind, GetProgress, GetStage, Transfer, TransferList, TransferOutcome,
        TransferState,
    },
    core::transfers::{self as book, MAX_TRANSFERS, Meter, Phase, Step, TransferId, Transfers, Will, Wish},
    env::WallClock,
    tasks::{now, sleep_until},
};

/// Transfers that ended and are still shown.
const MAX_ENDED: usize = 32;

/// Where a transfer writes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Target {
    /// This very path.
    pub(crate) out: Option<PathBuf>,
    /// This directory, under the content's own name.
    pub(crate) into: Option<PathBuf>,
}

impl Target {
    /// The path, if the content's name need not be known or is.
    pub(crate) fn path(&self, name: Option<&str>) -> Option<PathBuf> {
        self.out.clone().or_else(|| Some(self.into.as_ref()?.join(name?)))
    }
}

/// A transfer that is to begin.
pub(crate) struct Begin {
    pub(crate) cid: ContentCid,
    pub(crate) target: Target,
    pub(crate) progress: watch::Receiver<GetProgress>,
    /// Its number in the store, if it goes on after a restart.
    pub(crate) saved: Option<u64>,
    pub(crate) started_unix: u64,
    pub(crate) will: Will,
}

/// What is known of a transfer besides the book.
struct Live {
    target: Target,
    progress: watch::Receiver<GetProgress>,
    wishes: watch::Sender<Wish>,
    meter: Meter,
    saved: Option<u64>,
    started_unix: u64,
}

#[derive(Default)]
struct State {
    book: Transfers,
    live: BTreeMap<TransferId, Live>,
    ended: VecDeque<EndedTransfer>,
}

/// Every transfer of the node.
pub(crate) struct Registry {
    state: Mutex<State>,
    /// Counts the changes.
    changed: watch::Sender<u64>,
    wall_clock: WallClock,
}

impl Registry {
    pub(crate) fn new(wall_clock: WallClock) -> Self {
        Self { state: Mutex::default(), changed: watch::Sender::default(), wall_clock }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is told of every change but that of progress.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A transfer begins; it ends with what is returned.
    pub(crate) fn begin(self: &Arc<Self>, begin: Begin) -> Result<Running, ApiError> {
        let wishes;
        let id = {
            let mut state = self.state();
            let id = state.book.begin(begin.cid, begin.saved.is_some(), begin.will).map_err(|_| {
                let message = format!(
                    "{MAX_TRANSFERS} transfers are under way already; wait until one is done, or abort one \
                     (`dhtfs transfers` lists them)"
                );
                ApiError::new(ErrorKind::Failed, message)
            })?;
            let sender = watch::Sender::new(Wish { will: begin.will, refreshes: 0 });
            wishes = sender.subscribe();
            let live = Live {
                target: begin.target,
                progress: begin.progress,
                wishes: sender,
                meter: Meter::default(),
                saved: begin.saved,
                started_unix: begin.started_unix,
            };
            state.live.insert(id, live);
            id
        };
        self.touch();
        Ok(Running { registry: self.clone(), id, wishes, end: None })
    }

    fn touch(&self) {
        self.changed.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// Changes the book and tells everybody.
    fn change(&self, change: impl FnOnce(&mut Transfers)) {
        {
            let mut state = self.state();
            let State { book, live, .. } = &mut *state;
            change(book);
            for (id, transfer) in book.iter() {
                if let Some(live) = live.get_mut(&id) {
                    let is_new = |wish: &mut Wish| std::mem::replace(wish, transfer.wish) != transfer.wish;
                    live.wishes.send_if_modified(is_new);
                    if transfer.phase != Phase::Working {
                        live.meter.reset();
                    }
                }
            }
        }
        self.touch();
    }

    /// The transfers of a CID, or all: each with its number in the store.
    pub(crate) fn find(&self, cid: Option<ContentCid>) -> Vec<(TransferId, Option<u64>)> {
        let state = self.state();
        let matching = state.book.iter().filter(|(_, transfer)| cid.is_none_or(|cid| transfer.cid == cid));
        matching.map(|(id, _)| (id, state.live.get(&id).and_then(|live| live.saved))).collect()
    }

    /// The detached transfer of a CID to this target.
    pub(crate) fn detached(&self, cid: ContentCid, target: &Target) -> Option<TransferId> {
        let state = self.state();
        let is_it = |(id, transfer): &(TransferId, &book::Transfer)| {
            transfer.detached
                && transfer.cid == cid
                && transfer.wish.will != Will::Abort
                && state.live.get(id).is_some_and(|live| live.target == *target)
        };
        state.book.iter().find(is_it).map(|(id, _)| id)
    }

    /// Carries out what the user wants of these.
    pub(crate) fn order(&self, ids: &[TransferId], order: fn(&mut Transfers, TransferId)) {
        self.change(|book| ids.iter().for_each(|id| order(book, *id)));
    }

    /// Whether none of these works.
    pub(crate) fn have_let_go(&self, ids: &[TransferId]) -> bool {
        let state = self.state();
        ids.iter().all(|id| state.book.get(*id).is_none_or(|transfer| transfer.phase != Phase::Working))
    }

    /// Whether all of these have ended.
    pub(crate) fn have_ended(&self, ids: &[TransferId]) -> bool {
        let state = self.state();
        ids.iter().all(|id| state.book.get(*id).is_none())
    }

    /// What is shown.
    pub(crate) fn list(&self) -> TransferList {
        let (state, now) = (self.state(), now());
        let shown = |(id, transfer)| Some(shown(id, transfer, state.live.get(&id)?, now));
        TransferList {
            transfers: state.book.iter().filter_map(shown).collect(),
            ended: state.ended.iter().cloned().collect(),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.state().book.len()
    }

    fn end(&self, id: TransferId, end: Option<(TransferOutcome, Option<String>)>) {
        {
            let mut state = self.state();
            let Some(transfer) = state.book.get(id).cloned() else { return };
            state.book.end(id);
            let Some(live) = state.live.remove(&id) else { return };
            let name = live.progress.borrow().name.clone();
            let (outcome, error) = end.unwrap_or_default();
            if state.ended.len() >= MAX_ENDED {
                state.ended.pop_front();
            }
            state.ended.push_back(EndedTransfer {
                id: id.0,
                cid: transfer.cid.to_string(),
                path: live.target.path(name.as_deref()),
                name,
                detached: transfer.detached,
                outcome,
                error,
                ended_unix: (self.wall_clock)(),
            });
        }
        self.touch();
    }
}

/// A transfer as it is shown.
fn shown(id: TransferId, transfer: &book::Transfer, live: &Live, now: Instant) -> Transfer {
    let progress = live.progress.borrow();
    let state = state_of(transfer, progress.stage);
    let is_fetching = state == TransferState::Fetching;
    let speed = live.meter.speed(now).filter(|_| is_fetching);
    let missing_len = progress.total_len.saturating_sub(progress.have_len);
    let comes = is_fetching && progress.waiting.is_none();
    let left = live.meter.left(missing_len, now).filter(|_| comes);
    let connected = progress.sources.iter().filter(|source| source.state == "connected").count();
    let works = transfer.phase == Phase::Working && transfer.wish.will == Will::Run;
    let (error, again) = match &transfer.phase {
        Phase::Retrying { at, error } => (Some(error.clone()), Some(*at)),
        Phase::Failed { error } => (Some(error.clone()), None),
        Phase::Queued | Phase::Working | Phase::Resting => (None, None),
    };
    Transfer {
        id: id.0,
        cid: transfer.cid.to_string(),
        path: live.target.path(progress.name.as_deref()),
        name: progress.name.clone(),
        detached: transfer.detached,
        state,
        total_len: progress.total_len,
        have_len: progress.have_len,
        speed,
        eta_secs: left.map(|left| left.as_secs_f64()),
        sources: if works { u64::try_from(connected).unwrap_or(u64::MAX) } else { 0 },
        started_unix: live.started_unix,
        waiting: progress.waiting.clone().filter(|_| works),
        error,
        retry_in_secs: again
            .filter(|_| state == TransferState::Retrying)
            .map(|at| at.saturating_duration_since(now).as_secs_f64()),
    }
}

fn state_of(transfer: &book::Transfer, stage: GetStage) -> TransferState {
    match (transfer.wish.will, &transfer.phase, stage) {
        (Will::Abort, ..) => TransferState::Ending,
        (_, Phase::Failed { .. }, _) => TransferState::Failed,
        (Will::Pause, ..) => TransferState::Paused,
        (Will::Run, Phase::Retrying { .. }, _) => TransferState::Retrying,
        (Will::Run, Phase::Queued | Phase::Resting, _) => TransferState::Queued,
        (Will::Run, Phase::Working, GetStage::Finding) => TransferState::Finding,
        (Will::Run, Phase::Working, GetStage::Checking) => TransferState::Checking,
        (Will::Run, Phase::Working, GetStage::Fetching) => TransferState::Fetching,
        (Will::Run, Phase::Working, GetStage::Finishing) => TransferState::Finishing,
    }
}

/// A transfer as whoever carries it out has it. It ends when this is dropped.
pub(crate) struct Running {
    registry: Arc<Registry>,
    id: TransferId,
    wishes: watch::Receiver<Wish>,
    end: Option<(TransferOutcome, Option<String>)>,
}

impl Running {
    /// Its name.
    pub(crate) fn id(&self) -> TransferId {
        self.id
    }

    /// What the user wants of it, from now on.
    pub(crate) fn wishes(&self) -> watch::Receiver<Wish> {
        self.wishes.clone()
    }

    /// Whether it is to rest.
    pub(crate) fn is_paused(&self) -> bool {
        self.wishes.borrow().will == Will::Pause
    }

    /// So many bytes are there.
    pub(crate) fn meter(&self) -> impl Fn(u64) + Send + Sync + use<> {
        let (registry, id) = (self.registry.clone(), self.id);
        move |len| {
            if let Some(live) = registry.state().live.get_mut(&id) {
                live.meter.record(len, now());
            }
        }
    }

    /// Waits for its turn; `false` if it is to end instead.
    pub(crate) async fn turn(&self) -> bool {
        let mut changes = self.registry.changes();
        loop {
            changes.mark_unchanged();
            let step = self.registry.state().book.next_step(self.id, now());
            let until = match step {
                Step::Work => {
                    self.registry.touch();
                    return true;
                }
                Step::End => return false,
                Step::Wait => None,
                Step::WaitUntil(at) => Some(at),
            };
            tokio::select! {
                // The registry, which tells, is held here.
                _ = changes.changed() => {}
                () = sleep_until(until) => {}
            }
        }
    }

    /// It has let go of everything.
    pub(crate) fn rested(&self) {
        self.registry.change(|book| book.on_rested(self.id));
    }

    /// It failed; it is tried again at `again`, if at all.
    pub(crate) fn failed(&self, error: &str, again: Option<Instant>) {
        self.registry.change(|book| book.on_failed(self.id, error.to_owned(), again));
    }

    /// It has ended so.
    pub(crate) fn end(mut self, outcome: TransferOutcome, error: Option<&str>) {
        self.end = Some((outcome, error.map(str::to_owned)));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.registry.end(self.id, self.end.take());
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
