//! What two records differ in that should be of the same run.

use std::collections::BTreeSet;

use serde_json::Value;

use super::text::{hour_heading, hour_line, result_lines};
use super::units;
use crate::record::RunRecord;

/// Most lines of results that are shown of either record.
const MAX_LINES: usize = 20;

/// The scenario whose results are measured CPU times, which are never the same.
const MEASURED: &str = "cost";

/// What is not the same every time, or says nothing about what came out.
const NOT_COMPARED: [&str; 4] = ["cpu_secs", "peak_rss_mib", "version", "replay"];

/// What is measured, of [`MEASURED`]; and what follows from it.
const MEASURED_FIELDS: [&str; 4] = ["figures", "tables", "checks", "passed"];

/// Most characters of a value that is shown.
const MAX_VALUE_LEN: usize = 60;

/// Reading a number back may make so many of the smallest steps between numbers of it.
const MAX_STEPS: u64 = 4;

/// What differs, in lines: options, the first hour of another hash, results, and the first place in the records. Empty
/// if nothing does. CPU time and memory of the process do not count.
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
    lines.extend(first_place(then, now));
    lines
}

/// The first place at which the records as a whole differ.
fn first_place(then: &RunRecord, now: &RunRecord) -> Option<String> {
    let value = |record: &RunRecord| {
        let mut value = serde_json::to_value(record).unwrap_or_default();
        let measured: &[&str] = if now.scenario == MEASURED { &MEASURED_FIELDS } else { &[] };
        if let Value::Object(fields) = &mut value {
            fields.retain(|name, _| {
                !NOT_COMPARED.contains(&name.as_str()) && !measured.contains(&name.as_str())
            });
        }
        value
    };
    let (then, now) = (value(then), value(now));
    let (path, then, now) = first_difference(String::new(), Some(&then), Some(&now))?;
    let word = |value: Option<&Value>| {
        value.map_or("nothing".to_owned(), |value| units::clip(&value.to_string(), MAX_VALUE_LEN))
    };
    let line = format!("first difference: {path}: {} was recorded, {} now", word(then), word(now));
    Some(units::printable(&line))
}

type Difference<'a> = (String, Option<&'a Value>, Option<&'a Value>);

fn first_difference<'a>(
    path: String,
    then: Option<&'a Value>,
    now: Option<&'a Value>,
) -> Option<Difference<'a>> {
    match (then, now) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            names.into_iter().find_map(|name| {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                first_difference(path, old.get(name), new.get(name))
            })
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => (0..old.len().max(new.len()))
            .find_map(|place| first_difference(format!("{path}[{place}]"), old.get(place), new.get(place))),
        (Some(Value::Number(old)), Some(Value::Number(new))) if is_same_number(old, new) => None,
        _ => (then != now).then_some((path, then, now)),
    }
}

fn is_same_number(old: &serde_json::Number, new: &serde_json::Number) -> bool {
    let fractions = (old.as_f64().filter(|_| old.is_f64()), new.as_f64().filter(|_| new.is_f64()));
    match fractions {
        (Some(old), Some(new)) => old.to_bits().abs_diff(new.to_bits()) <= MAX_STEPS,
        _ => old == new,
    }
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
    fn the_first_place_at_which_records_differ_is_named() {
        let differ = |change: fn(&mut RunRecord)| {
            let mut other = record();
            change(&mut other);
            differences(&record(), &other)
        };
        let first = |lines: Vec<String>| lines.last().cloned().unwrap_or_default();
        assert_eq!(
            first(differ(|r| r.gets[1].node = 5)),
            "first difference: gets[1].node: 0 was recorded, 5 now"
        );
        assert_eq!(
            first(differ(|r| r.hours.truncate(1))).split(": {").next(),
            Some("first difference: hours[1]")
        );
        assert_eq!(first(differ(|r| r.secs = 1.5)), "first difference: secs: 0.0 was recorded, 1.5 now");
        assert_eq!(differ(|r| r.gets[0].total_secs = Some(2.0f64.next_up())), Vec::<String>::new());
    }

    #[test]
    fn what_cost_measured_may_differ_but_not_what_it_was_asked() {
        let cost = || RunRecord { scenario: MEASURED.to_owned(), passed: true, ..RunRecord::default() };
        let other = RunRecord { figures: BTreeMap::from([("CPU".to_owned(), 2.0)]), ..cost() };
        assert_eq!(differences(&cost(), &other), Vec::<String>::new());
        let other = RunRecord { nodes: 9, ..cost() };
        assert_ne!(differences(&cost(), &other), Vec::<String>::new());
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
