//! Walks through the DHT that run, and the questions they have under way.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::{PeerId, StreamProtocol};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use crate::core::lookup::Walk;

use super::error::DialFailure;
use super::limits::ASK_TIMEOUT;
use super::probe::Dialled;
use super::provide::kad_wire::{self, Said, Wanted};
use super::records::Digest;
use super::streams::Control;

/// Numbers the walks of one event loop.
pub(crate) type WalkId = u64;

/// A walk that runs.
#[derive(Debug)]
pub(crate) struct RunningWalk {
    pub(crate) walk: Walk,
    pub(crate) digest: Digest,
    pub(crate) wanted: Wanted,
    pub(crate) deadline: Instant,
    /// When the walk is due again.
    pub(crate) wake: Option<Instant>,
    /// Its questions end with it.
    pub(crate) life: watch::Sender<()>,
}

impl RunningWalk {
    fn due(&self) -> Instant {
        self.wake.map_or(self.deadline, |wake| wake.min(self.deadline))
    }
}

/// How a question has ended.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) walk: WalkId,
    pub(crate) peer: PeerId,
    pub(crate) outcome: AskOutcome,
}

/// What became of a question.
#[derive(Debug)]
pub(crate) enum AskOutcome {
    /// The peer has answered.
    Said(Said),
    /// It said nothing that makes sense.
    Failed,
    /// It is not where it was said to be.
    Unreachable,
    /// A limit of this node stood against the dial: nothing is known about the peer.
    NotAsked,
}

/// All walks that run.
#[derive(Debug)]
pub(crate) struct Walks {
    next: WalkId,
    pub(crate) running: BTreeMap<WalkId, RunningWalk>,
    /// Questions under way.
    pub(crate) asks: FuturesUnordered<BoxFuture<'static, Asked>>,
    /// Whether queued lookups are being started.
    pub(crate) is_starting: bool,
    /// Places for dials that walks begin.
    dials: Arc<Semaphore>,
}

/// The place of a dial that a walk has begun; free again when the dial has ended.
pub(crate) type DialPlace = OwnedSemaphorePermit;

impl Walks {
    /// No walks. Of `max_pending` dials under way they begin at most three quarters: whatever strangers name, others can
    /// still dial.
    pub(crate) fn new(max_pending: u32) -> Self {
        let dials = (max_pending as usize / 4 * 3).max(1);
        Self {
            next: 0,
            running: BTreeMap::new(),
            asks: FuturesUnordered::new(),
            is_starting: false,
            dials: Arc::new(Semaphore::new(dials)),
        }
    }

    /// A place for one more dial, if there is one.
    pub(crate) fn dial_place(&self) -> Option<DialPlace> {
        self.dials.clone().try_acquire_owned().ok()
    }

    /// Takes a walk in.
    pub(crate) fn start(&mut self, walk: RunningWalk) -> WalkId {
        self.next += 1;
        self.running.insert(self.next, walk);
        self.next
    }

    /// When a walk is due.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.running.values().map(RunningWalk::due).min()
    }

    /// The walks that are due.
    pub(crate) fn due(&self, now: Instant) -> Vec<WalkId> {
        self.running.iter().filter(|(_, walk)| walk.due() <= now).map(|(id, _)| *id).collect()
    }
}

/// One question, and whose it is.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) walk: WalkId,
    pub(crate) peer: PeerId,
    pub(crate) digest: Digest,
    pub(crate) wanted: Wanted,
    /// Ends with the walk.
    pub(crate) life: watch::Receiver<()>,
}

/// Asks a peer about a key, once it is connected. The end of the walk ends it at once.
pub(crate) async fn ask(
    question: Question,
    dialled: Dialled,
    control: Control,
    kad: StreamProtocol,
) -> Asked {
    let Question { walk, peer, digest, wanted, mut life } = question;
    let outcome = tokio::select! {
        outcome = outcome(peer, (digest, wanted), dialled, control, kad) => outcome,
        // Nothing is ever sent: it is closed.
        _ = life.changed() => AskOutcome::NotAsked,
    };
    Asked { walk, peer, outcome }
}

async fn outcome(
    peer: PeerId,
    (digest, wanted): (Digest, Wanted),
    dialled: Dialled,
    control: Control,
    kad: StreamProtocol,
) -> AskOutcome {
    let deadline = Instant::now() + ASK_TIMEOUT;
    match timeout_at(deadline, dialled).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(DialFailure::Limit(_))) | Err(_)) => return AskOutcome::NotAsked,
        Ok(Ok(Err(_))) | Err(_) => return AskOutcome::Unreachable,
    }
    let asked = async {
        let (mut stream, _place) = control.open_question(peer, kad).await.ok()?;
        kad_wire::ask(&mut stream, &digest, wanted).await.ok()
    };
    timeout_at(deadline, asked).await.ok().flatten().map_or(AskOutcome::Failed, AskOutcome::Said)
}
