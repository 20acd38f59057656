//! Runs a plan: starts the nodes, lets things happen at their times, looks at limits all the time and at everything
//! once an hour, and judges at the end.

use std::{cell::Cell, rc::Rc, time::Duration};

use rand::{Rng, rngs::StdRng};
use rand_distr::{Distribution, LogNormal};
use tokio::{
    sync::mpsc,
    task::{JoinSet, LocalSet},
    time::Instant,
};

use crate::{
    checks::Promise,
    clock,
    plan::{Churn, DiskFate, Plan, ProbePlan},
    record::{Hour, RunRecord},
    world::{Before, Death, Failure, NodeIndex, World, below},
};

/// How often the network is looked at.
const SAMPLE_EVERY: Duration = Duration::from_secs(3600);

/// How often limits are looked at, besides before and after every event.
const CAPS_EVERY: Duration = Duration::from_secs(30);

/// Where a run tells how far it is.
pub trait Progress {
    /// An hour is over.
    fn hour(&self, _hour: &Hour) {}

    /// So much of the run is over, from 0 to 1.
    fn share(&self, _share: f64) {}
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Progress for Quiet {}

/// Runs `plan` on the paused runtime of the current thread. Returns the record with its trace hash; a check that
/// failed is in the record, not an error.
///
/// # Errors
/// If the simulator itself fails, or a node does what it never may (not open its store, name a wrong CID).
pub async fn run(plan: Plan, seed: u64, progress: &dyn Progress) -> Result<RunRecord, Failure> {
    run_world(World::new(plan, seed)?, progress).await
}

/// Runs the plan of a world that was made before.
///
/// # Errors
/// As [`run`].
pub async fn run_world(world: Rc<World>, progress: &dyn Progress) -> Result<RunRecord, Failure> {
    let tasks = LocalSet::new();
    tasks
        .run_until(async {
            let mut timeline = Timeline::new(world.clone());
            timeline.start_nodes();
            timeline.add_later_contents();
            timeline.start_events();
            timeline.start_probes();
            timeline.watch(progress).await
        })
        .await?;
    drop(tasks);
    Ok(finish(&world))
}

/// Everything that goes on in a run, as tasks.
struct Timeline {
    world: Rc<World>,
    tasks: JoinSet<Result<(), Failure>>,
    /// Events, gets and probes that are not over.
    work: Rc<Cell<usize>>,
    failed: mpsc::UnboundedSender<Failure>,
    failures: mpsc::UnboundedReceiver<Failure>,
}

impl Timeline {
    fn new(world: Rc<World>) -> Self {
        let (failed, failures) = mpsc::unbounded_channel();
        Self { world, tasks: JoinSet::new(), work: Rc::default(), failed, failures }
    }

    fn spawn(&mut self, is_work: bool, task: impl Future<Output = Result<(), Failure>> + 'static) {
        let (work, failed) = (self.work.clone(), self.failed.clone());
        if is_work {
            work.set(work.get() + 1);
        }
        self.tasks.spawn_local(async move {
            if let Err(failure) = task.await {
                // The receiver is there as long as the run.
                let _ = failed.send(failure);
            }
            if is_work {
                work.set(work.get() - 1);
            }
            Ok(())
        });
    }

    fn start_nodes(&mut self) {
        for (number, group) in self.world.plan.groups.clone().into_iter().enumerate() {
            let members = self.world.members(number);
            let count = u32::try_from(members.len()).unwrap_or(u32::MAX).max(1);
            let pause = group.joins_within.duration() / count;
            for (place, index) in members.into_iter().enumerate() {
                let at = group.joins_at.duration() + pause * u32::try_from(place).unwrap_or(0);
                let (world, churn) = (self.world.clone(), group.churn.clone());
                self.spawn(churn.is_none(), async move {
                    world.until(at).await;
                    match churn {
                        None => world.start(index).await,
                        Some(churn) => come_and_go(world, index, churn).await,
                    }
                });
            }
        }
    }

    fn add_later_contents(&mut self) {
        let times: Vec<Duration> = self.world.plan.contents.iter().map(|c| c.at.duration()).collect();
        for at in times.into_iter().filter(|at| !at.is_zero()) {
            let world = self.world.clone();
            self.spawn(true, async move {
                world.until(at).await;
                for index in 0..world.len() {
                    world.add_planned(index).await?;
                }
                Ok(())
            });
        }
    }

    fn start_events(&mut self) {
        for (number, event) in self.world.plan.events.clone().into_iter().enumerate() {
            let world = self.world.clone();
            self.spawn(true, async move {
                world.until(event.at.duration()).await;
                world.happen(&event.what, &format!("event {number}")).await
            });
        }
    }

    fn start_probes(&mut self) {
        let Some(probes) = self.world.plan.probes.clone() else { return };
        let world = self.world.clone();
        self.spawn(false, async move {
            probe_on_and_on(world, probes).await;
            Ok(())
        });
    }

    /// Looks every ten seconds until the time is up, or nothing is left to happen.
    async fn watch(&mut self, progress: &dyn Progress) -> Result<(), Failure> {
        let world = self.world.clone();
        let duration = world.plan.duration.duration();
        let ends_early = !world.plan.events.is_empty()
            && world.plan.probes.is_none()
            && world.plan.groups.iter().all(|group| group.churn.is_none());
        let mut before = Before::default();
        let (mut next, mut next_caps) = (SAMPLE_EVERY, CAPS_EVERY);
        let mut ticks = tokio::time::interval(Duration::from_secs(10));
        loop {
            tokio::select! {
                biased;
                Some(failure) = self.failures.recv() => return Err(failure),
                _ = ticks.tick() => {}
            }
            while let Some(ended) = self.tasks.try_join_next() {
                ended??;
            }
            let elapsed = world.elapsed();
            progress.share(elapsed.as_secs_f64() / duration.as_secs_f64());
            if world.is_recovered() && !world.is_health_checked() {
                world.check_health().await;
            }
            let is_judged = !world.plan.expect.tables_recover || world.is_health_checked();
            if elapsed >= duration || (ends_early && self.work.get() == 0 && is_judged) {
                break;
            }
            if elapsed >= next_caps {
                next_caps += CAPS_EVERY;
                world.check_caps().await;
                world.check_crowds().await;
            }
            if elapsed >= next {
                next += SAMPLE_EVERY;
                progress.hour(&world.sample(&mut before).await);
            }
        }
        progress.hour(&world.sample(&mut before).await);
        world.final_loads().await;
        Ok(())
    }
}

/// A node with sessions and absences.
async fn come_and_go(world: Rc<World>, index: NodeIndex, churn: Churn) -> Result<(), Failure> {
    let mut rng = world.rng(&format!("churn {index}"));
    let length = |median: Duration| LogNormal::new(median.as_secs_f64().ln(), churn.sigma);
    let (on, off) = (length(churn.median_on.duration())?, length(churn.median_off.duration())?);
    loop {
        world.start(index).await?;
        tokio::time::sleep(drawn(&on, &mut rng, 1.0)).await;
        let crashes = unit(&mut rng) < churn.crashes;
        world.stop(index, if crashes { Death::Crash(DiskFate::Torn) } else { Death::Shutdown }).await?;
        tokio::time::sleep(drawn(&off, &mut rng, night(churn.diurnal))).await;
    }
}

/// How much longer absences are at this hour of the day: three times at 4 in the morning and a third of it at 4
/// in the afternoon, if the hour matters fully.
fn night(diurnal: f64) -> f64 {
    let hour = clock::elapsed().as_secs_f64() / 3600.0;
    let phase = (hour - 4.0) / 24.0 * std::f64::consts::TAU;
    3f64.powf(diurnal * phase.cos())
}

/// A drawn length of at least a second and at most a year.
fn drawn(lengths: &LogNormal<f64>, rng: &mut StdRng, factor: f64) -> Duration {
    Duration::from_secs_f64((lengths.sample(rng) * factor).clamp(1.0, 366.0 * 86_400.0))
}

/// A number from 0 to 1, 1 excluded.
fn unit(rng: &mut StdRng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

async fn probe_on_and_on(world: Rc<World>, probes: ProbePlan) {
    let mut rng = world.rng("probes");
    world.until(probes.from.duration()).await;
    let mut ticks = tokio::time::interval(probes.every.duration());
    let mut running = JoinSet::new();
    // One content after the other, so that as many as possible have been looked up at the end.
    let mut turns = 0..;
    loop {
        ticks.tick().await;
        while running.try_join_next().is_some() {}
        // One that cannot end any more would be counted only if it succeeds fast.
        if world.elapsed() + probes.timeout.duration() > world.plan.duration.duration() {
            while running.join_next().await.is_some() {}
            return;
        }
        for _ in 0..probes.at_once {
            let number = turns.next().unwrap_or(0) % world.contents.len().max(1);
            let start = below(&mut rng, world.len());
            // The first real node from a drawn place on that is up and does not hold it.
            let asker = (0..world.len())
                .map(|offset| (start + offset) % world.len())
                .find(|index| world.up(*index).is_some() && !world.holds_whole(*index, number));
            if let Some(asker) = asker {
                let (world, timeout) = (world.clone(), probes.timeout.duration());
                let dials = probes.dials;
                running.spawn_local(async move { world.probe((asker, number), dials, timeout).await });
            }
        }
    }
}

/// Judges what came out.
fn finish(world: &Rc<World>) -> RunRecord {
    let expect = &world.plan.expect;
    let mut record = world.record.take();
    let findable = record.probes.iter().filter(|p| p.provider_alive).count();
    let found = record.probes.iter().filter(|p| p.provider_alive && p.found).count();
    if let Some(least) = expect.probes_found {
        let share = found as f64 / findable.max(1) as f64;
        world.checks.look(Promise::ProbesFind, findable > 0 && share >= least, || {
            format!("{found} of {findable} probes with a live provider found it, {least} expected")
        });
    }
    if let Some(least) = expect.gets_complete {
        judge_gets(world, &record, least);
    }
    world.judge_unfinished(&record.gets);
    if expect.tables_recover && !world.checks.was_looked_at(Promise::TablesRecover) {
        world.checks.look(Promise::TablesRecover, false, || "there was no time to look at them".to_owned());
    }
    record.scenario.clone_from(&world.plan.name);
    record.version = env!("CARGO_PKG_VERSION").to_owned();
    record.seed = world.seed;
    record.nodes = world.len();
    record.secs = world.now();
    record.checks = world.checks.results();
    record.passed = world.checks.all_held();
    record.trace_hash = world.net.trace_hash();
    record.cpu_secs = clock::cpu_time().as_secs_f64();
    record.peak_rss_mib = crate::peak_rss_mib();
    record
}

/// Whether enough gets were complete, of those that count.
fn judge_gets(world: &World, record: &RunRecord, least: f64) {
    let mended_from = world.plan.expect.mended_from.map(|at| at.duration().as_secs_f64());
    let is_mended = |at: f64| mended_from.is_none_or(|from| at >= from);
    let gets = record.gets.iter().enumerate();
    let counted: Vec<_> = gets
        .filter(|(place, get)| is_mended(get.at) || world.had_steady_holder(*place))
        .map(|(_, get)| get)
        .collect();
    let never_begun = world.never_begun().into_iter().filter(|at| is_mended(*at)).count();
    let complete = counted.iter().filter(|get| get.complete).count();
    let all = counted.len() + never_begun;
    // Faults may keep everybody from asking; without them a plan that expects gets has some.
    if all == 0 && mended_from.is_some() {
        return;
    }
    let share = complete as f64 / all.max(1) as f64;
    world.checks.look(Promise::GetsComplete, all > 0 && share >= least, || {
        let why = counted.iter().find_map(|get| get.error.clone());
        let why = why.or_else(|| (never_begun > 0).then(|| "it never began".to_owned())).unwrap_or_default();
        format!("{complete} of {all} gets completed, share {least} expected; the first that did not: {why}")
    });
}

/// Waits in simulated time, for scenarios that are more than a plan.
pub async fn pause(length: Duration) {
    tokio::time::sleep_until(Instant::now() + length).await;
}
