//! One scenario with many seeds: shares over all runs, each with its 95 % interval.
//!
//! Every run has a process of its own, because libp2p counts connections process-wide.

use std::{
    collections::BTreeSet,
    fs,
    io::{ErrorKind, Read as _},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use dhtfs_sim::{
    record::{Probe, RunRecord},
    report::{self, stats},
    scenario::{Options, Scenario},
};

use crate::{Ended, FAILED, args::Study, complain, failed, find_scenario, print, read_text, usage};

/// What is counted over all runs.
#[derive(Debug, Default)]
struct Sums {
    runs: u64,
    /// Runs in which a check did not hold, and what it said.
    failed: Vec<String>,
    /// Lookups that had a live provider in reach, and those of them that found one.
    lookups: u64,
    found: u64,
    /// Different keys that were looked up.
    keys: BTreeSet<(u64, usize)>,
    /// Providers that lookups handed out, and those of them that were not running.
    handed: u64,
    dead: u64,
    /// Of those that were dialled, the ones that answered, and those of them that were not running.
    answered: u64,
    answered_dead: u64,
    firsts: Vec<f64>,
    requests: u64,
    gets: u64,
    complete: u64,
}

impl Sums {
    fn add(&mut self, record: &RunRecord) {
        self.runs += 1;
        if !record.passed {
            let check = record.checks.iter().find(|check| check.failed > 0);
            let why = check.and_then(|check| check.first_failure.clone()).unwrap_or_default();
            self.failed.push(format!("seed {}: {}", record.seed, report::printable(&why)));
        }
        // What came before a fault shows nothing about it.
        let from = record.faults.first().map_or(0.0, |fault| fault.from);
        for probe in record.probes.iter().filter(|probe| probe.at >= from) {
            self.add_probe(record.seed, probe);
        }
        self.gets += record.gets.len() as u64;
        self.complete += record.gets.iter().filter(|get| get.complete).count() as u64;
    }

    fn add_probe(&mut self, seed: u64, probe: &Probe) {
        self.handed += probe.returned as u64;
        self.dead += probe.stale as u64;
        self.answered += probe.answered as u64;
        self.answered_dead += probe.answered_stale as u64;
        if probe.provider_alive {
            self.lookups += 1;
            self.found += u64::from(probe.found);
            self.keys.insert((seed, probe.content));
            self.requests += u64::from(probe.requests);
            self.firsts.extend(probe.first_secs);
        }
    }

    fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.lookups > 0 {
            lines.push(share("lookups with a live provider that found it", self.found, self.lookups));
            lines.push(format!("{:44} {}", "different keys looked up", self.keys.len()));
            lines.push(share("providers handed out that were gone", self.dead, self.handed));
            if self.answered > 0 {
                let what = "gone, of those that answered a dial";
                lines.push(share(what, self.answered_dead, self.answered));
            }
            self.firsts.sort_by(f64::total_cmp);
            let first = |q| stats::quantile(&self.firsts, q).unwrap_or(0.0);
            lines.push(format!(
                "{:44} p50 {:.3} s, p99 {:.3} s",
                "first live provider",
                first(0.5),
                first(0.99)
            ));
            let mean = self.requests as f64 / self.lookups as f64;
            lines.push(format!("{:44} {mean:.1}, mean", "requests per lookup"));
        }
        if self.gets > 0 {
            lines.push(share("gets that came to their end", self.complete, self.gets));
        }
        lines
    }
}

fn share(what: &str, hits: u64, of: u64) -> String {
    let (low, high) = stats::wilson(hits, of);
    let percent = 100.0 * hits as f64 / of.max(1) as f64;
    let interval = format!("95 % interval {:.2} to {:.2}", 100.0 * low, 100.0 * high);
    format!("{what:44} {hits} of {of}, {percent:.2} % ({interval})")
}

/// What every run of a study has in common.
struct Runs<'a> {
    args: &'a Study,
    scenario: Scenario,
    /// Part of the names of kept records.
    name: String,
}

/// Runs the scenario with all seeds and prints what came out.
pub(crate) fn study(args: &Study) -> Result<u8, Ended> {
    let options = Options { nodes: args.nodes, hours: args.hours, ..Options::default() };
    let scenario = find_scenario(&args.scenario)?;
    scenario.settings(&options).map_err(|e| usage(e.to_string()))?;
    let last = args
        .first_seed
        .checked_add(args.seeds - 1)
        .ok_or_else(|| usage("--first-seed is too large for so many seeds"))?;
    if let Some(dir) = &args.keep {
        fs::create_dir_all(dir).map_err(|e| usage(format!("--keep {}: {e}", dir.display())))?;
    }
    let name = Path::new(&args.scenario).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let runs = Runs { args, scenario, name };
    print(&format!("{}, seeds {} to {last}", args.scenario, args.first_seed));
    let (next, sums) = (AtomicU64::new(0), Mutex::new(Sums::default()));
    let broken = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..args.jobs.min(args.seeds) {
            scope.spawn(|| {
                loop {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    if turn >= args.seeds {
                        return;
                    }
                    match runs.one(args.first_seed + turn) {
                        Ok(record) => sums.lock().unwrap_or_else(PoisonError::into_inner).add(&record),
                        Err(why) => broken.lock().unwrap_or_else(PoisonError::into_inner).push(why),
                    }
                }
            });
        }
    });
    let mut sums = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
    let broken = broken.into_inner().unwrap_or_else(PoisonError::into_inner);
    sums.lines().iter().for_each(|line| print(line));
    print(&format!("{:44} {}", "runs", sums.runs));
    sums.failed.sort();
    sums.failed.iter().for_each(|why| print(&format!("check failed, {why}")));
    match broken.first() {
        Some(why) => Err(failed(why)),
        None if sums.failed.is_empty() => Ok(0),
        None => Ok(FAILED),
    }
}

impl Runs<'_> {
    /// The record of the run with this seed: the one that is kept, or that of a new run.
    fn one(&self, seed: u64) -> Result<RunRecord, String> {
        let fail = |why: String| format!("the run with seed {seed} failed: {why}");
        let Some(dir) = &self.args.keep else {
            return one_object(&self.run(seed, Path::new("/dev/stdout")).map_err(fail)?).map_err(fail);
        };
        let file = dir.join(format!("{}-{seed}.json", self.name));
        match self.kept(&file, seed) {
            Ok(Some(record)) => return Ok(record),
            Ok(None) => {}
            Err(why) => complain(&format!("{}: {why}; seed {seed} runs again", file.display())),
        }
        self.run(seed, &file).map_err(fail)?;
        // The file may still be the old one.
        self.kept(&file, seed).and_then(|record| record.ok_or("it wrote no record".to_owned())).map_err(fail)
    }

    /// The record in `file`; none if there is no such file. Fails if it is not one of this study.
    fn kept(&self, file: &Path, seed: u64) -> Result<Option<RunRecord>, String> {
        let text = match read_text(file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let options = Options { seed, nodes: self.args.nodes, hours: self.args.hours, ..Options::default() };
        let record: Option<RunRecord> = serde_json::from_str(&text).ok();
        let record = record.filter(|record| self.scenario.made(&options, record));
        record.map(Some).ok_or_else(|| "not of this study".to_owned())
    }

    /// One run in a process of its own, whose record goes to `json`; what it prints.
    fn run(&self, seed: u64, json: &Path) -> Result<String, String> {
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut command = Command::new(program);
        command.args(["run", "--quiet", "--seed", &seed.to_string()]);
        let mut to = std::ffi::OsString::from("--json=");
        to.push(json);
        command.arg(to);
        if let Some(nodes) = self.args.nodes {
            command.args(["--nodes", &nodes.to_string()]);
        }
        if let Some(hours) = self.args.hours {
            command.args(["--hours", &hours.to_string()]);
        }
        command.args(["--", &self.args.scenario]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|e| e.to_string())?;
        let mut text = String::new();
        let read = child.stdout.take().map(|mut out| out.read_to_string(&mut text));
        child.wait().map_err(|e| e.to_string())?;
        read.transpose().map_err(|e| e.to_string())?;
        Ok(text)
    }
}

/// The record in what a run printed: the one line that is an object.
fn one_object(text: &str) -> Result<RunRecord, String> {
    let from = text.find("\n{").ok_or("it printed no record")?;
    let mut records = serde_json::Deserializer::from_str(&text[from..]).into_iter::<RunRecord>();
    records.next().ok_or("it printed no record")?.map_err(|e| e.to_string())
}
