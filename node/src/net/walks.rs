//! Walks through the DHT that run, and the questions they have under way.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::{PeerId, StreamProtocol};
use libp2p_stream::Control;
use tokio::time::{Instant, timeout};

use crate::core::lookup::Walk;

use super::error::DialFailure;
use super::limits::ASK_TIMEOUT;
use super::probe::Dialled;
use super::provide::kad_wire::{self, Said, Wanted};
use super::records::Digest;

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
    /// It cannot be reached, or said nothing that makes sense.
    Failed,
    /// A limit of this node stood against the dial: nothing is known about the peer.
    NotAsked,
}

/// All walks that run.
#[derive(Debug, Default)]
pub(crate) struct Walks {
    next: WalkId,
    pub(crate) running: BTreeMap<WalkId, RunningWalk>,
    /// Questions under way, also those of walks that have ended.
    pub(crate) asks: FuturesUnordered<BoxFuture<'static, Asked>>,
    /// Whether queued lookups are being started.
    pub(crate) is_starting: bool,
}

impl Walks {
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

/// Asks `peer` about a key, once it is connected.
pub(crate) async fn ask(
    walk: WalkId,
    peer: PeerId,
    dialled: Dialled,
    mut control: Control,
    kad: StreamProtocol,
    digest: Digest,
    wanted: Wanted,
) -> Asked {
    let asked = async {
        match dialled.await {
            Ok(Ok(())) => {}
            Ok(Err(DialFailure::Limit(_))) | Err(_) => return AskOutcome::NotAsked,
            Ok(Err(_)) => return AskOutcome::Failed,
        }
        let Ok(mut stream) = control.open_stream(peer, kad).await else { return AskOutcome::Failed };
        let said = kad_wire::ask(&mut stream, &digest, wanted).await;
        said.map_or(AskOutcome::Failed, AskOutcome::Said)
    };
    let outcome = timeout(ASK_TIMEOUT, asked).await.unwrap_or(AskOutcome::Failed);
    Asked { walk, peer, outcome }
}
