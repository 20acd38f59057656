//! Wrong answers to requests for content.

use dhtfs_store::{ChunkCid, ContentCid};

use super::{CHUNK_LEN, Duration, FILE_LEN, Hostile, Lab, Targets, counter, simulated, until};
use crate::roles::{HostileStats, NaiveError};

/// Length of the chunk that a naive peer fetches.
const PIECE_LEN: usize = 100_000;

/// Chunks that one hostile peer may cost a fetch.
const PROMISED: u64 = 1;

struct NaiveOutcome {
    fetched: Result<Vec<u8>, NaiveError>,
    right: Vec<u8>,
    took: Duration,
    stats: HostileStats,
}

/// A naive peer fetches a chunk that an honest and a hostile peer announce.
async fn naive_fetch(mut lab: Lab, kind: Hostile) -> NaiveOutcome {
    let keys = lab.keypairs(3);
    let (honest, addr) = lab.naive(&keys[1], &[]);
    let right = vec![7; PIECE_LEN];
    let cid = ContentCid::Chunk(ChunkCid::of(&right));
    let other = ContentCid::Chunk(ChunkCid::of(&[8; PIECE_LEN]));
    let bytes = right.clone();
    let targets = Targets {
        content: vec![cid, other],
        bytes: std::sync::Arc::new(move |asked| {
            Some(if asked == cid { bytes.clone() } else { vec![8; PIECE_LEN] })
        }),
        ..Targets::default()
    };
    let (naive, _) = lab.naive(&keys[2], std::slice::from_ref(&addr));
    // The least ID is asked first.
    let hostile = lab.hostile(kind, &keys[0], &[addr], targets);
    until("the hostile peer is known as provider", async || {
        honest.state(Some(cid), hostile.peer_id()).await.recorded.contains(&hostile.peer_id())
    })
    .await;
    honest.hold(cid, right.clone()).await;
    let found = naive.find(cid).await;
    assert!(found.contains(&honest.peer_id()), "the honest provider can be found: {found:?}");
    let begun = tokio::time::Instant::now();
    let fetched = naive.fetch(cid).await;
    NaiveOutcome { fetched, right, took: begun.elapsed(), stats: hostile.stats() }
}

/// A node fetches a file that an honest node and two hostile peers announce; they joined first. Each of them may
/// cost it what is promised.
async fn node_fetch(mut lab: Lab, kind: Hostile) {
    let keys = lab.keypairs(4);
    let honest = lab.node(&keys[2], &[]).await;
    let (root, content) = lab.add(&honest).await;
    let targets = Targets::of_share(&honest.store, root).unwrap();
    let all = targets.content.len() as u64;
    let bootstrap = [honest.addr.clone()];
    let hostile: Vec<_> =
        keys[..2].iter().map(|keypair| lab.hostile(kind, keypair, &bootstrap, targets.clone())).collect();
    until("the hostile peers have announced everything", async || {
        hostile.iter().all(|peer| peer.stats().announced >= all)
    })
    .await;
    let fetcher = lab.node(&keys[3], &bootstrap).await;
    let report = lab.get(&fetcher, root).await.unwrap();
    assert_eq!(std::fs::read(&report.path).unwrap(), content);
    let stats: Vec<HostileStats> = hostile.iter().map(|peer| peer.stats()).collect();
    assert!(stats.iter().any(|stats| stats.requests > 0), "somebody fell for it: {stats:?}");
    // Counted by the senders: answers that broke off are in no report of the node.
    let sent: u64 = stats.iter().map(|stats| stats.bytes_sent).sum();
    let received = counter(&honest, "serve_answered_len").await + sent;
    let len = FILE_LEN as u64;
    let promised = len + len / 20 + PROMISED * CHUNK_LEN * hostile.len() as u64;
    println!(
        "{kind}: {:.1} s, {received} of {len} bytes received ({sent} from the hostile), {promised} promised; \
         wasted {}, hostile asked {}",
        report.seconds,
        report.wasted_len,
        stats.iter().map(|stats| stats.requests).sum::<u64>(),
    );
    assert!(received <= promised, "{received} bytes received, {promised} promised");
}

#[test]
fn a_peer_that_drops_requests_leaves_a_naive_fetch_without_an_answer() {
    simulated(101, async |lab| {
        let outcome = naive_fetch(lab, Hostile::DropsRequests).await;
        println!("drops-requests: naive waits {:?}: {:?}", outcome.took, outcome.fetched);
        assert!(matches!(outcome.fetched, Err(NaiveError::Failed(_))));
        assert!(outcome.took >= Duration::from_secs(10));
        assert_eq!(outcome.stats.ignored, 1);
    });
}

#[test]
fn a_peer_that_drops_requests_does_not_keep_a_node_from_fetching() {
    simulated(102, async |lab| node_fetch(lab, Hostile::DropsRequests).await);
}

#[test]
fn a_naive_fetch_takes_garbage() {
    simulated(103, async |lab| {
        let outcome = naive_fetch(lab, Hostile::Garbage).await;
        let fetched = outcome.fetched.unwrap();
        assert_eq!(fetched.len(), outcome.right.len());
        assert_ne!(fetched, outcome.right);
    });
}

#[test]
fn a_node_gets_the_right_bytes_beside_peers_that_send_garbage() {
    simulated(104, async |lab| node_fetch(lab, Hostile::Garbage).await);
}

#[test]
fn a_truncated_answer_ends_a_naive_fetch() {
    simulated(105, async |lab| {
        let outcome = naive_fetch(lab, Hostile::Truncated).await;
        assert!(matches!(outcome.fetched, Err(NaiveError::Failed(_))), "{:?}", outcome.fetched);
        assert!(outcome.stats.bytes_sent > 0);
    });
}

#[test]
fn a_node_gets_the_rest_elsewhere_when_answers_are_truncated() {
    simulated(106, async |lab| node_fetch(lab, Hostile::Truncated).await);
}

#[test]
fn an_endless_answer_gives_a_naive_fetch_nothing() {
    simulated(107, async |lab| {
        let outcome = naive_fetch(lab, Hostile::Endless).await;
        println!("endless: naive waits {:?}: {:?}", outcome.took, outcome.fetched);
        assert!(matches!(outcome.fetched, Err(NaiveError::Failed(_))));
        assert!(outcome.stats.bytes_sent >= PIECE_LEN as u64);
    });
}

#[test]
fn a_node_stops_reading_endless_answers() {
    simulated(108, async |lab| node_fetch(lab, Hostile::Endless).await);
}

#[test]
fn a_dripping_answer_keeps_a_naive_fetch_waiting_for_nothing() {
    simulated(109, async |lab| {
        let outcome = naive_fetch(lab, Hostile::Drip).await;
        assert!(matches!(outcome.fetched, Err(NaiveError::Failed(_))), "{:?}", outcome.fetched);
        assert!(outcome.took >= Duration::from_secs(10));
        assert!((5..20).contains(&outcome.stats.bytes_sent), "{}", outcome.stats.bytes_sent);
    });
}

#[test]
fn a_node_does_not_wait_for_dripping_answers() {
    simulated(110, async |lab| node_fetch(lab, Hostile::Drip).await);
}

#[test]
fn a_naive_fetch_believes_a_liar() {
    simulated(111, async |lab| {
        let outcome = naive_fetch(lab, Hostile::Liar).await;
        match outcome.fetched {
            Ok(bytes) => assert_eq!(bytes, vec![8; PIECE_LEN], "the right bytes of something else"),
            Err(error) => assert!(matches!(error, NaiveError::Refused(_)), "{error}"),
        }
    });
}

#[test]
fn a_node_fetches_beside_liars() {
    simulated(112, async |lab| node_fetch(lab, Hostile::Liar).await);
}
