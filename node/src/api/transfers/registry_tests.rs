#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::Duration;

use dhtfs_store::ManifestCid;

use super::*;
use crate::api::types::Source;

fn registry() -> Arc<Registry> {
    Arc::new(Registry::new(Arc::new(|| 1_000)))
}

fn cid(n: u8) -> ContentCid {
    ManifestCid::from_digest([n; 32]).into()
}

fn begin(registry: &Arc<Registry>, n: u8, saved: Option<u64>) -> (Running, watch::Sender<GetProgress>) {
    let (sender, progress) = watch::channel(GetProgress::default());
    let target = Target { out: None, into: Some("/films".into()) };
    let begin = Begin { cid: cid(n), target, progress, saved, started_unix: 900, will: Will::Run };
    (registry.begin(begin).unwrap(), sender)
}

fn shown(registry: &Registry) -> Transfer {
    let mut transfers = registry.list().transfers;
    assert_eq!(transfers.len(), 1);
    transfers.remove(0)
}

#[tokio::test(start_paused = true)]
async fn a_transfer_is_shown_with_what_is_known_of_it() {
    let registry = registry();
    let (running, progress) = begin(&registry, 1, None);
    assert_eq!((shown(&registry).state, shown(&registry).path), (TransferState::Queued, None));
    assert!(running.turn().await);
    assert_eq!(shown(&registry).state, TransferState::Finding);
    let meter = running.meter();
    for second in 0..=4_u64 {
        meter(second << 20);
        tokio::time::advance(Duration::from_secs(u64::from(second < 4))).await;
    }
    let source = |state: &str| Source { state: state.to_owned(), ..Source::default() };
    progress.send_replace(GetProgress {
        stage: GetStage::Fetching,
        name: Some("a.mp4".to_owned()),
        total_len: 10 << 20,
        have_len: 4 << 20,
        sources: vec![source("connected"), source("backoff")],
        ..GetProgress::default()
    });
    let transfer = shown(&registry);
    assert_eq!((transfer.state, transfer.sources), (TransferState::Fetching, 1));
    assert_eq!(transfer.path, Some("/films/a.mp4".into()));
    assert_eq!((transfer.speed, transfer.eta_secs), (Some(f64::from(1 << 20)), Some(6.0)));
    assert_eq!((transfer.started_unix, transfer.detached), (900, false));
}

#[tokio::test(start_paused = true)]
async fn a_paused_transfer_waits_for_its_resume_and_shows_no_speed() {
    let registry = registry();
    let (running, _progress) = begin(&registry, 1, None);
    assert!(running.turn().await);
    let mut wishes = running.wishes();
    let ids = [running.id()];
    registry.order(&ids, Transfers::pause);
    wishes.changed().await.unwrap();
    assert!(running.is_paused() && !registry.have_let_go(&ids));
    running.rested();
    assert!(registry.have_let_go(&ids));
    let transfer = shown(&registry);
    assert_eq!((transfer.state, transfer.speed, transfer.sources), (TransferState::Paused, None, 0));
    let waits = tokio::time::timeout(Duration::from_secs(3_600), running.turn()).await;
    assert!(waits.is_err(), "it goes on by itself");
    let (goes_on, ()) = tokio::join!(running.turn(), async { registry.order(&ids, Transfers::resume) });
    assert!(goes_on && !running.is_paused());
}

#[tokio::test(start_paused = true)]
async fn what_failed_says_why_and_when_it_is_tried_again() {
    let registry = registry();
    let (running, _progress) = begin(&registry, 1, Some(7));
    assert!(running.turn().await);
    running.failed("nobody has it", Some(now() + Duration::from_secs(15)));
    let transfer = shown(&registry);
    assert_eq!((transfer.state, transfer.retry_in_secs), (TransferState::Retrying, Some(15.0)));
    assert_eq!(transfer.error.as_deref(), Some("nobody has it"));
    let begun = tokio::time::Instant::now();
    assert!(running.turn().await);
    assert!(begun.elapsed() >= Duration::from_secs(15));
    running.failed("it exists", None);
    assert_eq!((shown(&registry).state, shown(&registry).retry_in_secs), (TransferState::Failed, None));
    assert_eq!(registry.find(Some(cid(1))), [(running.id(), Some(7))]);
    assert!(registry.find(Some(cid(2))).is_empty());
    let into = Target { out: None, into: Some("/films".into()) };
    assert_eq!(registry.detached(cid(1), &into), Some(running.id()));
    assert_eq!(registry.detached(cid(1), &Target::default()), None);
    registry.order(&[running.id()], Transfers::abort);
    assert!(!running.turn().await);
    assert_eq!(shown(&registry).state, TransferState::Ending);
}

#[tokio::test]
async fn the_last_that_ended_are_kept_with_how_they_did() {
    let registry = registry();
    let changes = registry.changes();
    let mut kept = Vec::new();
    for n in 0..40_u8 {
        let (running, _progress) = begin(&registry, n, None);
        match n % 3 {
            0 => running.end(TransferOutcome::Done, None),
            1 => running.end(TransferOutcome::Failed, Some("why")),
            _ => drop(running),
        }
        kept.push(
            [TransferOutcome::Done, TransferOutcome::Failed, TransferOutcome::Left][usize::from(n % 3)],
        );
    }
    assert_eq!(registry.len(), 0);
    let ended = registry.list().ended;
    assert_eq!(ended.len(), MAX_ENDED);
    assert_eq!(ended.iter().map(|ended| ended.outcome).collect::<Vec<_>>(), kept[8..]);
    assert!(ended.iter().all(|ended| ended.ended_unix == 1_000));
    assert!(ended.iter().all(|ended| ended.error.is_some() == (ended.outcome == TransferOutcome::Failed)));
    assert!(changes.has_changed().unwrap());
}

#[test]
fn there_is_room_for_so_many() {
    let registry = registry();
    let begun: Vec<_> = (0..MAX_TRANSFERS).map(|_| begin(&registry, 1, None)).collect();
    let (sender, progress) = watch::channel(GetProgress::default());
    let (cid, target) = (cid(1), Target::default());
    let one_more = Begin { cid, target, progress, saved: None, started_unix: 0, will: Will::Run };
    let error = registry.begin(one_more).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Failed);
    assert!(error.message.contains("256 transfers") && error.message.contains("dhtfs transfers"));
    drop((begun, sender));
    assert_eq!(registry.len(), 0);
}
