//! Announcing with real nodes on a virtual clock: how soon new keys are found, and what a crash leaves of it.
#![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

use std::{collections::BTreeSet, path::PathBuf, rc::Rc, time::Duration};

use dhtfs_node::api::types::{AddRequest, NetworkHints, ProvidersRequest};
use dhtfs_sim::{
    plan::{DiskFate, Expect, Group, NetworkPlan, Plan, Security, time::Millis},
    run::simulate,
    world::{Death, Failure, World},
};
use dhtfs_store::ChunkCid;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Index of the node that announces.
const ADDER: usize = 3;

/// Three nodes to join through, the one that announces, and others.
fn plan(nodes: usize) -> Plan {
    Plan {
        name: "announcing".to_owned(),
        about: String::new(),
        nodes,
        duration: Millis::from_hours(40),
        network: NetworkPlan { security: Security::Plaintext, ..NetworkPlan::default() },
        groups: vec![Group::fixed("boot", 3), Group::fixed("adder", 1), Group::share("peers", 1.0)],
        contents: Vec::new(),
        probes: None,
        events: Vec::new(),
        expect: Expect::default(),
    }
}

/// Runs `work` in a world in which everybody has joined.
fn in_world<F>(nodes: usize, work: impl FnOnce(Rc<World>) -> F + Send + 'static)
where
    F: Future<Output = Result<(), Failure>>,
{
    simulate(1, move || async move {
        let world = World::new(plan(nodes), 1)?;
        for index in 0..world.len() {
            world.start(index).await?;
        }
        sleep(2 * MINUTE).await;
        work(world).await
    })
    .unwrap();
}

fn content(file: u64) -> [u8; 8] {
    file.to_be_bytes()
}

/// Adds a directory of small files, two keys each and some for the directory.
async fn add_files(world: &World, files: u64) -> Result<(), Failure> {
    let path = PathBuf::from("/files/many");
    let disk = world.disk(ADDER);
    for file in 0..files {
        disk.write_file(&path.join(file.to_string()), &content(file))?;
    }
    let request = AddRequest { path, ..AddRequest::default() };
    world.up(ADDER).unwrap().node.api().add(request, watch::Sender::default()).await.unwrap();
    Ok(())
}

/// Whether a lookup of the file's chunk at this node names the one that announces.
async fn finds(world: &World, from: usize, file: u64) -> bool {
    let (found_out, mut found) = mpsc::channel(64);
    let request = ProvidersRequest {
        cid: ChunkCid::of(&content(file)).to_string(),
        check: false,
        hints: NetworkHints::default(),
    };
    let up = world.up(from).unwrap();
    up.node.api().providers(request, found_out).await.unwrap();
    let adder = world.peer(ADDER).unwrap().to_string();
    let mut peers = BTreeSet::new();
    while let Ok(provider) = found.try_recv() {
        peers.insert(provider.peer);
    }
    peers.contains(&adder)
}

/// Records that each node but the one that announces holds, and has accepted since it started.
async fn records(world: &World) -> Vec<(u64, u64)> {
    let mut records = Vec::new();
    for index in (0..world.len()).filter(|index| *index != ADDER) {
        let status = world.status(index).await.unwrap();
        records.push((status.records_held, status.counters["net_records_accepted"]));
    }
    records
}

#[test]
fn three_thousand_new_keys_are_found_within_ten_seconds() {
    in_world(60, |world| async move {
        let begun = Instant::now();
        add_files(&world, 1_500).await?;
        sleep_until(begun + Duration::from_secs(10)).await;
        let info = world.status(ADDER).await.unwrap().provide;
        assert!(info.keys >= 3_000 && info.failed == 0, "{info:?}");
        for (place, file) in (0..1_500).step_by(10).enumerate() {
            let from = ADDER + 1 + place % 50;
            assert!(finds(&world, from, file).await, "node {from} does not find file {file}");
        }
        Ok(())
    });
}

#[test]
fn after_a_crash_in_a_sweep_no_key_is_forgotten_and_each_is_announced_once_a_period() {
    // So many that a holder is told in several frames.
    let files = 3_000;
    in_world(7, move |world| async move {
        add_files(&world, files).await?;
        let keys = world.status(ADDER).await.unwrap().provide.keys;
        assert!(keys > 2 * files);
        // Some holder has been told, and not all have.
        while !records(&world).await.iter().any(|(held, _)| *held > 1) {
            sleep(Duration::from_millis(1)).await;
        }
        world.stop(ADDER, Death::Crash(DiskFate::Kept)).await?;
        assert!(records(&world).await.iter().any(|(held, _)| *held < keys), "it was not in the middle");
        sleep(5 * MINUTE).await;
        world.start(ADDER).await?;
        sleep(HOUR).await;
        let before = records(&world).await;
        assert!(before.iter().all(|(held, _)| *held == keys), "{before:?}");
        for _ in 0..24 {
            sleep(HOUR).await;
            let now = records(&world).await;
            assert!(now.iter().all(|(held, _)| *held == keys), "{now:?}");
        }
        // Two periods of 12 h.
        for ((_, before), (_, after)) in before.into_iter().zip(records(&world).await) {
            let announced = (after - before) as f64 / keys as f64;
            assert!((1.8..=2.2).contains(&announced), "each key was announced {announced} times");
        }
        Ok(())
    });
}
