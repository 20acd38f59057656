//! What the real node costs in CPU time, against bare libp2p nodes that do the same in the same process.
//!
//! Both networks join over the same simulated lines, with the same encryption, hold as many files and look as many
//! up. The bare node is stock kad, identify, ping and request-response with default settings, and no store.

use std::{rc::Rc, time::Duration};

use dhtfs_store::ContentCid;
use futures::future::join_all;
use tokio::task::LocalSet;

use crate::{
    clock,
    plan::{ContentPlan, Expect, Group, NetworkPlan, Plan, Security, time::Millis},
    record::{Check, RunRecord, Table},
    roles::RoleKind,
    scenario::Options,
    world::{Failure, World, below},
};

/// Nodes when none are asked for.
pub const NODES: usize = 60;

/// Files held, and lookups made one after the other.
const FILES: usize = 30;
const LOOKUPS: usize = 100;

/// Simulated time until everybody has joined, and for the rest.
const JOINED: Duration = Duration::from_secs(180);
const REST: Duration = Duration::from_secs(600);

/// How much more a real node may cost.
const MOST: f64 = 1.5;

struct Cost {
    join: f64,
    hold: f64,
    lookups: f64,
    rest: f64,
    found: usize,
    hash: String,
}

impl Cost {
    fn all(&self) -> f64 {
        self.join + self.hold + self.lookups + self.rest
    }
}

/// Measures both, the bare one first.
///
/// # Errors
/// If a node does not start.
pub async fn run(options: &Options) -> Result<RunRecord, Failure> {
    let bare = measure(RoleKind::Naive, options).await?;
    let real = measure(RoleKind::Honest, options).await?;
    let ratio = real.all() / bare.all().max(1e-9);
    let row = |name: &str, cost: &Cost| {
        let secs = [cost.join, cost.hold, cost.lookups, cost.rest, cost.all()];
        let cells = secs.map(|secs| format!("{secs:.2}"));
        let found = format!("{} of {LOOKUPS}", cost.found);
        [name.to_owned()].into_iter().chain(cells).chain([found]).collect()
    };
    let columns = ["CPU seconds", "join", "announce", "lookups", "10 min of rest", "all", "found"];
    let check = Check {
        name: format!("a real node costs at most {MOST} times a bare one"),
        looked: 1,
        failed: u64::from(ratio > MOST),
        first_failure: (ratio > MOST).then(|| format!("{ratio:.2} times")),
    };
    Ok(RunRecord {
        scenario: "cost".to_owned(),
        nodes: options.nodes.unwrap_or(NODES),
        passed: ratio <= MOST,
        checks: vec![check],
        trace_hash: real.hash.clone(),
        tables: vec![Table {
            title: "CPU time of a network".to_owned(),
            columns: columns.map(str::to_owned).to_vec(),
            rows: vec![row("bare", &bare), row("real", &real)],
        }],
        figures: [("CPU of real over bare nodes".to_owned(), ratio)].into(),
        ..RunRecord::default()
    })
}

fn plan(role: RoleKind) -> Plan {
    let peers = Group::share("peers", 1.0).role(role).joins(Duration::from_secs(5), Duration::from_secs(120));
    Plan {
        name: "cost".to_owned(),
        about: String::new(),
        nodes: NODES,
        duration: Millis::from_hours(1),
        network: NetworkPlan { security: Security::Noise, ..NetworkPlan::default() },
        groups: vec![Group::fixed("boot", 3).role(role), peers],
        contents: vec![ContentPlan {
            count: FILES,
            holders: Some(0),
            ..ContentPlan::file("file", 2000, "peers", 0)
        }],
        probes: None,
        events: Vec::new(),
        expect: Expect::default(),
    }
}

async fn measure(role: RoleKind, options: &Options) -> Result<Cost, Failure> {
    let world = World::new(options.apply(plan(role))?, options.seed)?;
    let tasks = LocalSet::new();
    let cost = tasks.run_until(phases(world.clone())).await?;
    Ok(Cost { hash: world.net.trace_hash(), ..cost })
}

async fn phases(world: Rc<World>) -> Result<Cost, Failure> {
    let mut times = vec![clock::cpu_time()];
    let count = u32::try_from(world.len())?;
    for index in 0..world.len() {
        world.start(index).await?;
        tokio::time::sleep(Duration::from_secs(120) / count).await;
    }
    world.until(JOINED).await;
    times.push(clock::cpu_time());
    join_all((0..FILES).map(|number| hold(&world, number))).await.into_iter().collect::<Result<(), _>>()?;
    tokio::time::sleep(Duration::from_secs(60)).await;
    times.push(clock::cpu_time());
    let mut rng = world.rng("lookups");
    let mut found = 0;
    for _ in 0..LOOKUPS {
        let (number, asker) = (below(&mut rng, FILES), below(&mut rng, world.len()));
        if let Some(peer) = world.naive(asker) {
            found += usize::from(!peer.find(ContentCid::from(world.contents[number].root)).await.is_empty());
        } else {
            world.probe((asker, number), false, Duration::from_secs(60)).await;
        }
    }
    found += world.record.borrow().probes.iter().filter(|probe| probe.returned > 0).count();
    times.push(clock::cpu_time());
    tokio::time::sleep(REST).await;
    times.push(clock::cpu_time());
    let secs = |phase: usize| (times[phase + 1] - times[phase]).as_secs_f64();
    Ok(Cost { join: secs(0), hold: secs(1), lookups: secs(2), rest: secs(3), found, hash: String::new() })
}

/// Lets one node hold and announce a file.
async fn hold(world: &Rc<World>, number: usize) -> Result<(), Failure> {
    let index = 3 + number % (world.len() - 3);
    if let Some(peer) = world.naive(index) {
        for (cid, bytes) in world.contents[number].parts() {
            peer.hold(cid, bytes).await;
        }
    } else if let Some(up) = world.up(index) {
        world.add(&up, number).await?;
    }
    Ok(())
}
