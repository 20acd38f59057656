//! What a hostile peer says in the DHT: answers that mislead, records that are forged, floods of records.

use std::{io, sync::Arc, time::Duration};

use futures::AsyncWriteExt as _;
use libp2p::{Multiaddr, PeerId, Stream, kad::KBucketKey, multiaddr::Protocol};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{
    counters::{Budget, Counters, add},
    wire::{Message, WirePeer, kind, read_message, write_message},
};

/// Peers in one answer: kad's replication parameter, and all that a reader expects.
const ANSWER_LEN: usize = 20;

/// How long a stream of the DHT may stay silent.
const SILENCE: Duration = Duration::from_secs(60);

/// Pause of a flood between two writes, and the records of one write over all streams: just below its budget.
const FLOOD_PAUSE: Duration = Duration::from_millis(100);
const FLOOD_BATCH: usize = 199;

/// How a peer that answers DHT messages by itself misleads.
#[derive(Debug)]
pub(super) enum Deceit {
    /// With peers that do not exist, at addresses that look like this one.
    Invents(Option<Multiaddr>),
    /// With these, and nobody else.
    Sybils(Vec<WirePeer>),
    /// With nobody.
    Nobody,
}

/// What the DHT tasks of one peer share.
#[derive(Debug, Clone)]
pub(super) struct Means {
    pub(super) deceit: Arc<Deceit>,
    pub(super) counters: Arc<Counters>,
    /// Answers of all streams together.
    pub(super) answers: Arc<Budget>,
    /// Streams that are answered.
    pub(super) streams: Arc<Semaphore>,
    /// Records of all streams together.
    pub(super) records: Arc<Budget>,
}

/// 32 random bytes as a SHA-256 multihash: a key of this network, or the ID of nobody.
pub(super) fn random_multihash(rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = vec![0; 34];
    rng.fill_bytes(&mut bytes);
    bytes[..2].copy_from_slice(&[0x12, 0x20]);
    bytes
}

/// An address of the same form as `like` at which nobody listens.
pub(super) fn invented_addr(like: Option<&Multiaddr>, rng: &mut StdRng) -> Multiaddr {
    let default = Multiaddr::empty().with(Protocol::Ip4([45, 0, 0, 1].into())).with(Protocol::Tcp(4343));
    like.unwrap_or(&default)
        .iter()
        .filter(|part| !matches!(part, Protocol::P2p(_)))
        .map(|part| match part {
            Protocol::Memory(_) => Protocol::Memory(rng.random_range(1 << 40..1 << 48)),
            // 45.128.0.0/9: public, and nobody in a simulation.
            Protocol::Ip4(_) => {
                Protocol::Ip4([45, rng.random_range(128..=255), rng.random(), rng.random()].into())
            }
            other => other.acquire(),
        })
        .collect()
}

fn invented_peer(like: Option<&Multiaddr>, rng: &mut StdRng) -> Option<WirePeer> {
    let id = PeerId::from_bytes(&random_multihash(rng)).ok()?;
    Some(WirePeer { id, addrs: vec![invented_addr(like, rng)] })
}

impl Deceit {
    fn answer(&self, question: &Message, asker: PeerId, rng: &mut StdRng) -> Message {
        let mut answer = Message { kind: question.kind, key: question.key.clone(), ..Message::default() };
        match self {
            Self::Invents(like) => {
                let mut invent = |n| (0..n).filter_map(|_| invented_peer(like.as_ref(), rng)).collect();
                answer.closer = invent(ANSWER_LEN);
                if question.kind == kind::GET_PROVIDERS {
                    answer.providers = invent(ANSWER_LEN);
                }
            }
            Self::Sybils(all) => {
                let key = KBucketKey::new(question.key.clone());
                let mut nearest: Vec<_> = all.iter().filter(|sybil| sybil.id != asker).collect();
                nearest.sort_by_key(|sybil| key.distance(&KBucketKey::from(sybil.id)));
                answer.closer = nearest.into_iter().take(ANSWER_LEN).cloned().collect();
            }
            Self::Nobody => {}
        }
        answer
    }
}

/// Answers the DHT messages of one stream until it ends.
pub(super) async fn mislead(mut stream: Stream, asker: PeerId, means: Means, seed: u64) {
    let Ok(_place) = means.streams.try_acquire() else {
        add(&means.counters.held_back, 1);
        return;
    };
    let mut rng = StdRng::seed_from_u64(seed);
    while let Ok(Ok(Some(message))) = timeout(SILENCE, read_message(&mut stream)).await {
        match message.kind {
            kind::ADD_PROVIDER => add(&means.counters.records_swallowed, 1),
            kind::GET_PROVIDERS | kind::FIND_NODE => {
                if means.answers.take(1) == 0 {
                    add(&means.counters.held_back, 1);
                    return;
                }
                let answer = means.deceit.answer(&message, asker, &mut rng);
                if write_message(&mut stream, &answer).await.is_err() {
                    return;
                }
                add(&means.counters.questions_misled, 1);
            }
            _ => return,
        }
    }
    // The other side may be gone.
    let _ = stream.close().await;
}

/// A provider record for `key`.
pub(super) fn record(key: Vec<u8>, provider: WirePeer) -> Message {
    Message { kind: kind::ADD_PROVIDER, key, providers: vec![provider], ..Message::default() }
}

/// Sends records over one stream and ends it; those not in the name of `own` count as forged.
pub(super) async fn send_records(mut stream: Stream, own: PeerId, records: Vec<Message>, means: Means) {
    for record in records {
        if means.records.take(1) == 0 {
            add(&means.counters.held_back, 1);
            continue;
        }
        if write_message(&mut stream, &record).await.is_err() {
            return;
        }
        add(&means.counters.records_sent, 1);
        if record.providers.iter().any(|provider| provider.id != own) {
            add(&means.counters.records_forged, 1);
        }
    }
    // The other side may be gone.
    let _ = stream.close().await;
}

/// Sends records for random keys over one stream for as long as it stands. `streams` tells how many share the
/// budget, so that each gets as much as the others.
pub(super) async fn flood(
    mut stream: Stream,
    own: WirePeer,
    means: Means,
    streams: impl Fn() -> usize + Send,
    seed: u64,
) {
    let mut rng = StdRng::seed_from_u64(seed);
    loop {
        let share = (FLOOD_BATCH / streams().max(1)).max(1);
        let allowed = means.records.take(share);
        add(&means.counters.held_back, share - allowed);
        if send_batch(&mut stream, &own, allowed, &mut rng).await.is_err() {
            return;
        }
        add(&means.counters.records_sent, allowed);
        sleep(FLOOD_PAUSE).await;
    }
}

async fn send_batch(stream: &mut Stream, own: &WirePeer, len: usize, rng: &mut StdRng) -> io::Result<()> {
    let mut bytes = Vec::new();
    for _ in 0..len {
        record(random_multihash(rng), own.clone()).encode(&mut bytes);
    }
    stream.write_all(&bytes).await?;
    stream.flush().await
}

/// An address that leads nowhere or to somebody else: in turn private, unroutable, invented, another peer's under
/// its ID, another peer's as the attacker's own.
pub(super) fn junk_addr(
    index: usize,
    like: Option<&Multiaddr>,
    others: &[(PeerId, Multiaddr)],
    rng: &mut StdRng,
) -> Multiaddr {
    let other = others.get(rng.random_range(0..others.len().max(1)));
    let ip = |[a, b]: [u8; 2], rng: &mut StdRng| {
        let ip = Protocol::Ip4([a, b, rng.random(), rng.random()].into());
        Multiaddr::empty().with(ip).with(Protocol::Tcp(rng.random_range(1..=u16::MAX)))
    };
    match (index % 5, other) {
        (0, _) => ip([10, rng.random()], rng),
        (1, _) => ip([240, 0], rng),
        (2, Some((peer, addr))) => without_peer(addr).with(Protocol::P2p(*peer)),
        (3, Some((_, addr))) => without_peer(addr),
        _ => invented_addr(like, rng),
    }
}

fn without_peer(addr: &Multiaddr) -> Multiaddr {
    addr.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect()
}
