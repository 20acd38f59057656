//! What two records differ in that should be of the same run.

use std::collections::BTreeSet;

use super::text::{hour_heading, hour_line, result_lines};
use super::units;
use crate::record::RunRecord;

/// Most lines of results that are shown of either record.
const MAX_LINES: usize = 20;

/// The scenario whose results are measured CPU times, which are never the same.
const MEASURED: &str = "cost";

/// What differs, in lines: options, the first hour of another hash, results. Empty if nothing does. CPU time and memory
/// of the process do not count.
#[must_use]
pub fn differences(then: &RunRecord, now: &RunRecord) -> Vec<String> {
    let mut lines = Vec::new();
    let mut compare = |what: &str, then: &str, now: &str| {
        if then != now {
            lines.push(units::printable(&format!("{what}: {then} was recorded, {now} now")));
        }
    };
    compare("scenario", &then.scenario, &now.scenario);
    compare("seed", &then.seed.to_string(), &now.seed.to_string());
    compare("nodes", &then.nodes.to_string(), &now.nodes.to_string());
    let names: BTreeSet<&String> = then.options.keys().chain(now.options.keys()).collect();
    // The two above are among the options of some scenarios.
    for name in names.into_iter().filter(|name| !matches!(name.as_str(), "seed" | "nodes")) {
        let option = |record: &RunRecord| record.options.get(name).cloned().unwrap_or("nothing".to_owned());
        compare(&format!("option {name}"), &option(then), &option(now));
    }
    compare("hours", &then.hours.len().to_string(), &now.hours.len().to_string());
    lines.extend(first_hour(then, now));
    if now.scenario != MEASURED {
        lines.extend(results(then, now));
    }
    lines
}

/// The first hour in which they are not the same, as each has it.
fn first_hour(then: &RunRecord, now: &RunRecord) -> Vec<String> {
    let mut hours = then.hours.iter().zip(&now.hours).enumerate();
    let Some((place, (old, new))) = hours.find(|(_, (old, new))| old.hash != new.hash) else {
        return Vec::new();
    };
    let before = |record: &RunRecord| place.checked_sub(1).and_then(|place| record.hours.get(place).cloned());
    vec![
        format!("first seen in hour {}, which ended at {:.0} s:", place + 1, new.at),
        format!("            {}", hour_heading()),
        format!("  recorded: {}", hour_line(old, before(then).as_ref())),
        format!("  now:      {}", hour_line(new, before(now).as_ref())),
    ]
}

/// The lines of results that only one of them has.
fn results(then: &RunRecord, now: &RunRecord) -> Vec<String> {
    let lines = |record: &RunRecord| -> Vec<String> {
        let all = result_lines(record).into_iter();
        all.filter(|line| !line.is_empty() && !line.starts_with("replay: ")).collect()
    };
    let (then, now) = (lines(then), lines(now));
    let only = |of: &[String], other: &[String], name: &str| -> Vec<String> {
        let lines = of.iter().filter(|line| !other.contains(line)).take(MAX_LINES);
        lines.map(|line| format!("{name}{line}")).collect()
    };
    [only(&then, &now, "  recorded: "), only(&now, &then, "  now:      ")].concat()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::record::{Get, Hour};

    fn record() -> RunRecord {
        let hour = |at: f64, hash: &str| Hour { at, hash: hash.to_owned(), online: 8, ..Hour::default() };
        let get = Get { complete: true, total_secs: Some(2.0), ..Get::default() };
        RunRecord {
            scenario: "small".to_owned(),
            nodes: 8,
            seed: 3,
            options: BTreeMap::from([("loss".to_owned(), "0.01".to_owned())]),
            hours: vec![hour(3600.0, "aa"), hour(7200.0, "bb")],
            gets: vec![get.clone(), get],
            passed: true,
            ..RunRecord::default()
        }
    }

    #[test]
    fn a_record_does_not_differ_from_itself_by_what_it_cost() {
        let other = RunRecord { cpu_secs: 9.0, peak_rss_mib: 9.0, replay: "x".to_owned(), ..record() };
        assert_eq!(differences(&record(), &other), Vec::<String>::new());
    }

    #[test]
    fn options_hours_and_results_that_differ_are_named() {
        let mut other = RunRecord { nodes: 9, ..record() };
        other.options.insert("loss".to_owned(), "0.02".to_owned());
        other.options.insert("chaos".to_owned(), "on".to_owned());
        other.hours[1] = Hour { hash: "cc".to_owned(), online: 7, ..other.hours[1].clone() };
        other.gets[1].complete = false;
        let lines = differences(&record(), &other);
        assert_eq!(
            lines[..4],
            [
                "nodes: 8 was recorded, 9 now",
                "option chaos: nothing was recorded, on now",
                "option loss: 0.01 was recorded, 0.02 now",
                "first seen in hour 2, which ended at 7200 s:",
            ]
        );
        assert!(
            lines[5].starts_with("  recorded:       2       8 ") && lines[5].ends_with("bb"),
            "{lines:?}"
        );
        assert!(
            lines[6].starts_with("  now:            2       7 ") && lines[6].ends_with("cc"),
            "{lines:?}"
        );
        let has = |begin: &str, words: &str| {
            lines.iter().any(|line| line.starts_with(begin) && line.contains(words))
        };
        assert!(has("  recorded:", "2 of 2 gets") && has("  now:", "1 of 2 gets"), "{lines:?}");
    }
}
