//! The few figures that stand for a run, for the page and the terminal alike.

use super::plots;
use super::stats;
use super::units;
use crate::record::{Check, RunRecord};

/// A figure in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Headline {
    /// What it is.
    pub(crate) name: &'static str,
    /// The figure.
    pub(crate) value: String,
    /// What belongs to it.
    pub(crate) more: String,
}

/// Two quantiles of `secs`, in words.
fn quantiles(name: &'static str, secs: &[f64], of: &str) -> Option<Headline> {
    let (p50, p99) = (stats::quantile(secs, 0.5)?, stats::quantile(secs, 0.99)?);
    Some(Headline {
        name,
        value: format!("p50 {}", units::secs(p50)),
        more: format!("p99 {}, of {} {of}", units::secs(p99), units::count(secs.len() as u64)),
    })
}

fn part(name: &'static str, hits: usize, of: usize, what: &str) -> Option<Headline> {
    (of > 0).then(|| Headline {
        name,
        value: units::percent(hits as f64 / of as f64),
        more: format!("{} of {} {what}", units::count(hits as u64), units::count(of as u64)),
    })
}

/// What there is to say about `record`.
pub(crate) fn headlines(record: &RunRecord) -> Vec<Headline> {
    let counted: Vec<_> = record.probes.iter().filter(|probe| probe.provider_alive).collect();
    let found: Vec<_> = counted.iter().filter(|probe| probe.found).collect();
    let complete: Vec<_> = record.gets.iter().filter(|get| get.complete).collect();
    let requests = stats::sorted(record.probes.iter().map(|probe| f64::from(probe.requests)));
    let requests = stats::mean(requests.iter().copied()).map(|mean| Headline {
        name: "requests per lookup",
        value: units::number(mean),
        more: format!("mean; p99 {}", units::number(stats::quantile(&requests, 0.99).unwrap_or(mean))),
    });
    let growth = plots::fit(record).map(|fit| Headline {
        name: "growth of requests",
        value: format!("{:+.2}", fit.b * 2f64.ln()),
        more: format!("per doubling; {}", plots::fit_words(fit)),
    });
    let dropped = (record.probes_dropped > 0).then(|| Headline {
        name: "lookups cut off",
        value: units::count(record.probes_dropped),
        more: "not counted: the asker died".to_owned(),
    });
    let all = [
        part("lookups found", found.len(), counted.len(), "with a reachable provider"),
        dropped,
        quantiles(
            "first provider",
            &stats::sorted(found.iter().filter_map(|probe| probe.first_secs)),
            "lookups",
        ),
        part("gets complete", complete.len(), record.gets.len(), "gets"),
        quantiles("whole file", &stats::sorted(complete.iter().filter_map(|get| get.total_secs)), "gets"),
        requests,
        growth,
    ];
    all.into_iter().flatten().collect()
}

/// The checks that did not hold, in the order in which they were made.
pub(crate) fn failed(record: &RunRecord) -> impl Iterator<Item = &Check> {
    record.checks.iter().filter(|check| check.failed > 0)
}

/// The result in a line.
pub(crate) fn verdict(record: &RunRecord) -> String {
    let looked = record.checks.iter().fold(0u64, |sum, check| sum.saturating_add(check.looked));
    if record.passed {
        let (checks, looked) = (record.checks.len(), units::count(looked));
        return format!("passed: {checks} checks, looked at {looked} times");
    }
    match failed(record).next() {
        Some(check) => {
            let why = check.first_failure.as_deref().unwrap_or("no words for it");
            format!("failed: {}: {why}", check.name)
        }
        None => "failed: no check says why".to_owned(),
    }
}

/// The command that runs it again.
pub(crate) fn replay(record: &RunRecord) -> String {
    if !record.replay.is_empty() {
        return record.replay.clone();
    }
    format!("dhtfs-sim run {} --nodes {} --seed {}", record.scenario, record.nodes, record.seed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Get, Probe};

    fn probe(provider_alive: bool, found: bool, first: f64) -> Probe {
        Probe { provider_alive, found, first_secs: found.then_some(first), requests: 6, ..Probe::default() }
    }

    #[test]
    fn only_lookups_that_could_find_something_count() {
        let record = RunRecord {
            probes: vec![probe(true, true, 0.5), probe(true, false, 0.0), probe(false, false, 0.0)],
            probes_dropped: 3,
            gets: vec![Get { complete: true, total_secs: Some(2.0), ..Get::default() }],
            ..RunRecord::default()
        };
        let lines: Vec<_> = headlines(&record)
            .into_iter()
            .map(|line| format!("{} {} {}", line.name, line.value, line.more))
            .collect();
        assert_eq!(
            lines,
            [
                "lookups found 50 % 1 of 2 with a reachable provider",
                "lookups cut off 3 not counted: the asker died",
                "first provider p50 500 ms p99 500 ms, of 1 lookups",
                "gets complete 100 % 1 of 1 gets",
                "whole file p50 2 s p99 2 s, of 1 gets",
                "requests per lookup 6 mean; p99 6",
            ]
        );
        assert_eq!(headlines(&RunRecord::default()), []);
    }

    #[test]
    fn the_verdict_names_what_failed_first() {
        let check = |name: &str, failed| Check {
            name: name.to_owned(),
            looked: 10,
            failed,
            first_failure: (failed > 0).then(|| format!("{name} broke")),
        };
        let mut record =
            RunRecord { checks: vec![check("a", 0), check("b", 2), check("c", 1)], ..RunRecord::default() };
        assert_eq!(verdict(&record), "failed: b: b broke");
        record.checks.truncate(1);
        assert_eq!(verdict(&record), "failed: no check says why");
        record.passed = true;
        assert_eq!(verdict(&record), "passed: 1 checks, looked at 10 times");
    }

    #[test]
    fn a_run_is_repeated_by_its_own_command_if_it_has_one() {
        let mut record =
            RunRecord { scenario: "churn".to_owned(), nodes: 9, seed: 4, ..RunRecord::default() };
        assert_eq!(replay(&record), "dhtfs-sim run churn --nodes 9 --seed 4");
        record.replay = "dhtfs-sim run churn --mean-session 2h".to_owned();
        assert_eq!(replay(&record), "dhtfs-sim run churn --mean-session 2h");
    }
}
