//! The scenarios by name: plans, and those that are more than one plan.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    checks::{Checks, Promise},
    clock, join_hashes, nat_mix,
    plan::{Plan, Security, builtin, chaos, time::Millis},
    record::{Check, GrowthPoint, RunRecord, Table},
    report::stats,
    timeline::{self, Progress},
    world::Failure,
};

/// Sizes of growth-law; those above the number of nodes asked for are left out.
const GROWTH_SIZES: [usize; 4] = [30, 100, 300, 1000];

/// Shares of mass-death.
const MASS_DEATHS: [&str; 3] = ["mass-death-50", "mass-death-80", "mass-death-90"];

/// What is changed about a scenario on the command line.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// Seed of everything random.
    pub seed: u64,
    /// Number of nodes.
    pub nodes: Option<usize>,
    /// Length in simulated hours.
    pub hours: Option<f64>,
    /// Encryption of connections.
    pub security: Option<Security>,
    /// Whether faults are drawn from the seed.
    pub chaos: bool,
}

/// What can be run.
#[derive(Debug, Clone, PartialEq)]
pub enum Scenario {
    /// A plan.
    Plan(Box<Plan>),
    /// Lookups at several sizes of the network.
    GrowthLaw,
    /// 50, 80 and 90 % of the nodes die.
    MassDeath,
    /// Pairs of NAT boxes with plain libp2p.
    NatMix,
    /// The CPU time of real nodes against bare libp2p ones.
    Cost,
}

/// Name and description of every scenario that comes with the program.
pub fn list() -> Vec<(String, String)> {
    let more = [
        ("growth-law", "lookups at 30, 100, 300 and 1000 nodes: requests grow with the logarithm"),
        (
            "mass-death",
            "50, then 80, then 90 % of all nodes die in one instant (mass-death-50 and so on: one of them)",
        ),
        ("nat-mix", "pairs of NAT boxes, with plain libp2p and with dhtfs: direct, hole punched, or relayed"),
        ("cost", "CPU time of real nodes against bare libp2p nodes doing the same"),
    ];
    let mut all: Vec<(String, String)> = builtin::NAMES
        .iter()
        .filter(|name| !MASS_DEATHS.contains(name))
        .filter_map(|name| builtin::named(name))
        .map(|plan| (plan.name, plan.about))
        .chain(more.map(|(name, about)| (name.to_owned(), about.to_owned())))
        .collect();
    all.sort();
    all
}

/// The scenario of this name.
pub fn named(name: &str) -> Option<Scenario> {
    Some(match name {
        "growth-law" => Scenario::GrowthLaw,
        "mass-death" => Scenario::MassDeath,
        "nat-mix" => Scenario::NatMix,
        "cost" => Scenario::Cost,
        name => Scenario::Plan(Box::new(builtin::named(name)?)),
    })
}

impl Options {
    /// A plan with what was asked for.
    ///
    /// # Errors
    /// If it then makes no sense.
    pub fn apply(&self, mut plan: Plan) -> Result<Plan, Failure> {
        if let Some(nodes) = self.nodes {
            plan.nodes = nodes;
        }
        if let Some(duration) = self.duration()? {
            plan.duration = duration;
            plan.events.retain(|event| event.at < duration);
        }
        if let Some(security) = self.security {
            plan.network.security = security;
        }
        if self.chaos {
            chaos::add(&mut plan, self.seed);
        }
        plan.check()?;
        Ok(plan)
    }
}

impl Options {
    /// The length that was asked for.
    fn duration(&self) -> Result<Option<Millis>, Failure> {
        let Some(hours) = self.hours else { return Ok(None) };
        let length = Duration::try_from_secs_f64(hours * 3600.0);
        Ok(Some(Millis::from(length.map_err(|e| format!("--hours {hours}: {e}"))?)))
    }

    /// Fails for options that were given and mean nothing to a scenario.
    fn only(&self, meant: &[&str], scenario: &str) -> Result<(), Failure> {
        let given = [
            ("--nodes", self.nodes.is_some()),
            ("--hours", self.hours.is_some()),
            ("--security", self.security.is_some()),
            ("--chaos", self.chaos),
        ];
        match given.into_iter().find(|(name, is_given)| *is_given && !meant.contains(name)) {
            Some((name, _)) => Err(format!("{name} means nothing to {scenario}").into()),
            None => Ok(()),
        }
    }
}

impl Scenario {
    /// How many events a shorter run than planned leaves out, and of how many.
    pub fn events_left_out(&self, options: &Options) -> (usize, usize) {
        let Ok(Some(duration)) = options.duration() else { return (0, 0) };
        let plans: Vec<Plan> = match self {
            Self::Plan(plan) => vec![(**plan).clone()],
            Self::GrowthLaw => builtin::named("lookups").into_iter().collect(),
            Self::MassDeath => MASS_DEATHS.into_iter().filter_map(builtin::named).collect(),
            Self::NatMix | Self::Cost => Vec::new(),
        };
        let events: Vec<_> = plans.iter().flat_map(|plan| &plan.events).collect();
        (events.iter().filter(|event| event.at >= duration).count(), events.len())
    }

    /// All options as they will be, in words.
    ///
    /// # Errors
    /// If the options make no sense for this scenario.
    pub fn settings(&self, options: &Options) -> Result<BTreeMap<String, String>, Failure> {
        let mut settings = BTreeMap::new();
        let mut set = |name: &str, value: String| settings.insert(name.to_owned(), value);
        match self {
            Self::Plan(plan) => {
                let plan = options.apply((**plan).clone())?;
                set("nodes", plan.nodes.to_string());
                set("duration", plan.duration.to_string());
                set("one way", plan.network.one_way.to_string());
                set("jitter", plan.network.jitter.to_string());
                set("loss", plan.network.loss.to_string());
                set("geography", format!("{:?}", plan.network.geography).to_lowercase());
                set("security", format!("{:?}", plan.network.security).to_lowercase());
                set("chaos", if options.chaos { "on" } else { "off" }.to_owned());
            }
            Self::GrowthLaw => {
                if sizes(options).is_empty() {
                    return Err("growth-law needs at least 30 nodes".into());
                }
                for nodes in sizes(options) {
                    let options = Options { nodes: Some(nodes), ..options.clone() };
                    options.apply(builtin::named("lookups").ok_or("no plan of lookups")?)?;
                }
                set("nodes", sizes(options).iter().map(usize::to_string).collect::<Vec<_>>().join(" "));
                if let Some(hours) = options.hours {
                    set("hours", hours.to_string());
                }
            }
            Self::MassDeath => {
                for name in MASS_DEATHS {
                    options.apply(builtin::named(name).ok_or("no such plan")?)?;
                }
                set("nodes", options.nodes.unwrap_or(100).to_string());
                if let Some(hours) = options.hours {
                    set("hours", hours.to_string());
                }
            }
            Self::Cost => {
                options.only(&["--nodes", "--security"], "cost")?;
                if options.nodes.is_some_and(|nodes| !(10..=1000).contains(&nodes)) {
                    return Err("cost needs 10 to 1000 nodes".into());
                }
                set("nodes", options.nodes.unwrap_or(crate::cost::NODES).to_string());
            }
            Self::NatMix => options.only(&[], "nat-mix")?,
        }
        set("seed", options.seed.to_string());
        Ok(settings)
    }

    /// Whether this version of the program made `record` with this scenario and these options.
    pub fn made(&self, options: &Options, record: &RunRecord) -> bool {
        let plan = match self {
            Self::Plan(plan) => options.apply((**plan).clone()).map(|plan| plan.to_toml()),
            Self::GrowthLaw | Self::MassDeath | Self::NatMix | Self::Cost => Ok(String::new()),
        };
        let name = match self {
            Self::Plan(plan) => plan.name.as_str(),
            Self::GrowthLaw => "growth-law",
            Self::MassDeath => "mass-death",
            Self::NatMix => "nat-mix",
            Self::Cost => "cost",
        };
        record.version == env!("CARGO_PKG_VERSION")
            && record.scenario == name
            && plan.is_ok_and(|plan| plan == record.plan)
            && self.settings(options).is_ok_and(|settings| settings == record.options)
    }

    /// Runs it on the paused runtime of the current thread.
    ///
    /// # Errors
    /// If the simulator fails; a check that does not hold is in the record.
    pub async fn run(self, options: &Options, progress: &dyn Progress) -> Result<RunRecord, Failure> {
        let settings = self.settings(options)?;
        let mut record = match self {
            Self::Plan(plan) => {
                let plan = options.apply(*plan)?;
                let toml = plan.to_toml();
                RunRecord { plan: toml, ..timeline::run(plan, options.seed, progress).await? }
            }
            Self::GrowthLaw => growth_law(options, progress).await?,
            Self::MassDeath => mass_death(options, progress).await?,
            Self::NatMix => nat_rows(options).await?,
            Self::Cost => crate::cost::run(options).await?,
        };
        record.options = settings;
        record.seed = options.seed;
        record.version = env!("CARGO_PKG_VERSION").to_owned();
        record.cpu_secs = clock::cpu_time().as_secs_f64();
        record.peak_rss_mib = crate::peak_rss_mib();
        Ok(record)
    }
}

fn sizes(options: &Options) -> Vec<usize> {
    GROWTH_SIZES.into_iter().filter(|size| *size <= options.nodes.unwrap_or(1000)).collect()
}

async fn growth_law(options: &Options, progress: &dyn Progress) -> Result<RunRecord, Failure> {
    let mut whole = RunRecord { scenario: "growth-law".to_owned(), passed: true, ..RunRecord::default() };
    if sizes(options).is_empty() {
        return Err("growth-law needs at least 30 nodes".into());
    }
    for nodes in sizes(options) {
        let options = Options { nodes: Some(nodes), ..options.clone() };
        let plan = options.apply(builtin::named("lookups").ok_or("no plan of lookups")?)?;
        let record = timeline::run(plan, options.seed, progress).await?;
        let asked: Vec<_> = record.probes.iter().filter(|probe| probe.found).collect();
        let mean = |value: fn(&crate::record::Probe) -> f64| {
            asked.iter().map(|probe| value(probe)).sum::<f64>() / asked.len().max(1) as f64
        };
        let mut firsts: Vec<f64> = asked.iter().filter_map(|probe| probe.first_secs).collect();
        firsts.sort_by(f64::total_cmp);
        whole.growth.push(GrowthPoint {
            nodes,
            requests: mean(|probe| f64::from(probe.requests)),
            hops: mean(|probe| f64::from(probe.hops.unwrap_or(0))),
            first_secs: stats::quantile(&firsts, 0.5).unwrap_or(0.0),
        });
        join(&mut whole, record);
    }
    if whole.growth.len() >= 3 {
        let fit = stats::fit_log(&whole.growth);
        whole.growth_fit = Some(fit);
        let checks = Checks::default();
        checks.look(Promise::Expected, fit.r2 >= 0.95 && fit.b > 0.0, || {
            format!("requests per lookup do not grow with log N: R^2 {:.3}, 0.95 expected", fit.r2)
        });
        add_checks(&mut whole, checks.results());
    }
    Ok(whole)
}

async fn mass_death(options: &Options, progress: &dyn Progress) -> Result<RunRecord, Failure> {
    let mut whole = RunRecord { scenario: "mass-death".to_owned(), passed: true, ..RunRecord::default() };
    let mut table = Table {
        title: "Share of probes with a live provider that found it".to_owned(),
        columns: ["dead", "before", "first 10 min after", "later", "first provider p50 after"]
            .map(str::to_owned)
            .to_vec(),
        rows: Vec::new(),
    };
    for name in MASS_DEATHS {
        let plan = options.apply(builtin::named(name).ok_or("no such plan")?)?;
        let record = timeline::run(plan, options.seed, progress).await?;
        let death = record.faults.first().map_or(0.0, |fault| fault.from);
        let share = |from: f64, to: f64| {
            let within = record.probes.iter().filter(|p| p.provider_alive && p.at >= from && p.at < to);
            let (all, found) = within.fold((0, 0), |(all, found), p| (all + 1, found + u32::from(p.found)));
            format!("{found} of {all}")
        };
        let mut firsts: Vec<f64> =
            record.probes.iter().filter(|p| p.at >= death).filter_map(|p| p.first_secs).collect();
        firsts.sort_by(f64::total_cmp);
        table.rows.push(vec![
            format!("{} %", name.trim_start_matches("mass-death-")),
            share(0.0, death),
            share(death, death + 600.0),
            share(death + 600.0, f64::MAX),
            format!("{:.2} s", stats::quantile(&firsts, 0.5).unwrap_or(0.0)),
        ]);
        let (probes, hours, faults) = (record.probes.clone(), record.hours.clone(), record.faults.clone());
        join(&mut whole, record);
        (whole.probes, whole.hours, whole.faults) = (probes, hours, faults);
    }
    whole.tables.push(table);
    Ok(whole)
}

async fn nat_rows(options: &Options) -> Result<RunRecord, Failure> {
    let outcome = nat_mix::run(options.seed).await?;
    let checks = Checks::default();
    for row in &outcome.rows {
        checks.look(Promise::Expected, row.is_as_expected(), || format!("{row:?}"));
    }
    for row in &outcome.paths {
        checks.look(Promise::Expected, row.path == row.expected, || format!("{row:?}"));
    }
    let mut record = RunRecord {
        scenario: "nat-mix".to_owned(),
        passed: checks.all_held(),
        checks: checks.results(),
        trace_hash: outcome.trace_hash,
        ..RunRecord::default()
    };
    record.tables.push(nat_mix::table(&outcome.rows));
    record.tables.push(nat_mix::product::table(&outcome.paths));
    Ok(record)
}

/// Adds one of several runs to the record of all of them.
fn join(whole: &mut RunRecord, part: RunRecord) {
    whole.nodes = whole.nodes.max(part.nodes);
    whole.secs += part.secs;
    whole.probes_dropped += part.probes_dropped;
    whole.passed &= part.passed;
    whole.trace_hash = join_hashes(&whole.trace_hash, &part.trace_hash);
    add_checks(whole, part.checks);
}

fn add_checks(whole: &mut RunRecord, checks: Vec<Check>) {
    for check in checks {
        whole.passed &= check.failed == 0;
        match whole.checks.iter_mut().find(|known| known.name == check.name) {
            Some(known) => {
                known.looked += check.looked;
                known.failed += check.failed;
                known.first_failure = known.first_failure.take().or(check.first_failure);
            }
            None => whole.checks.push(check),
        }
    }
}
