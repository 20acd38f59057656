//! One question about the DHT, to see that a peer answers any.

use std::time::Duration;

use libp2p::{PeerId, StreamProtocol};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::error::DialFailure;
use super::provide::kad_wire;
use super::streams::Control;

/// How long a connected peer may take to answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a peer that wants a place in the table is asked. A busy machine misses one question, and is looked at again
/// only minutes later, when it identifies itself the next time.
const ADMISSION_ATTEMPTS: u32 = 3;

/// Pause between two of these.
const ADMISSION_PAUSE: Duration = Duration::from_secs(1);

/// Why a peer was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProbeKind {
    /// It wants a place in the routing table.
    Admission,
    /// It has one, and was silent for long.
    Liveness,
}

/// How a probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probed {
    pub(crate) peer: PeerId,
    pub(crate) kind: ProbeKind,
    pub(crate) outcome: Outcome,
}

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The peer answers.
    Answered,
    /// It does not, or cannot be reached.
    Silent,
    /// It was not asked: a limit of this node stood against the dial.
    NotAsked,
}

/// The result of a dial, if one is needed.
pub(crate) type Dialled = oneshot::Receiver<Result<(), DialFailure>>;

/// Asks `peer`, once it is connected, who is close to `local`.
pub(crate) async fn probe(
    peer: PeerId,
    kind: ProbeKind,
    dialled: Option<Dialled>,
    control: Control,
    kad: StreamProtocol,
    local: PeerId,
) -> Probed {
    // A dial always ends: the event loop gives it a time.
    let failed = match dialled {
        Some(dialled) => match dialled.await {
            Ok(Ok(())) => None,
            Ok(Err(DialFailure::Limit(_))) | Err(_) => Some(Outcome::NotAsked),
            Ok(Err(_)) => Some(Outcome::Silent),
        },
        None => None,
    };
    if let Some(outcome) = failed {
        return Probed { peer, kind, outcome };
    }
    let attempts = match kind {
        ProbeKind::Admission => ADMISSION_ATTEMPTS,
        ProbeKind::Liveness => 1,
    };
    for attempt in 0..attempts {
        if attempt > 0 {
            sleep(ADMISSION_PAUSE).await;
        }
        let asked = async {
            let (mut stream, _place) = control.open_question(peer, kad.clone()).await.ok()?;
            kad_wire::is_answered(&mut stream, local).await.ok()
        };
        if matches!(timeout(PROBE_TIMEOUT, asked).await, Ok(Some(()))) {
            return Probed { peer, kind, outcome: Outcome::Answered };
        }
    }
    Probed { peer, kind, outcome: Outcome::Silent }
}
