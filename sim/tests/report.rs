//! The report as files: well-formed, complete, the same twice, and unharmed by records that are empty or hostile.
#![allow(clippy::expect_used, reason = "a failure is a failed test")]

#[path = "../examples/sample/mod.rs"]
mod sample;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use dhtfs_sim::record::{Check, FaultSpan, Fit, Get, GrowthPoint, Hour, Load, Probe, RunRecord, Table};
use dhtfs_sim::report::{hour_line, result_lines, write};

/// Writes the report and returns the files by name.
fn files(record: &RunRecord) -> BTreeMap<String, String> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let paths = write(record, dir.path()).expect("a report");
    assert_eq!(paths[0], dir.path().join("index.html"), "the page comes first");
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let read = |path: &Path| fs::read_to_string(path).expect("a file that was just written");
    paths.iter().map(|path| (name(path).expect("a name"), read(path))).collect()
}

/// Says what is wrong with `text` as XML, as far as these files use it: nesting, quoting, entities, characters.
fn check_xml(text: &str) -> Result<(), String> {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text.strip_prefix("<!DOCTYPE html>").unwrap_or(text);
    if let Some(bad) = text.chars().find(|c| (c.is_control() && !"\n\t".contains(*c)) || *c == '\u{ffff}') {
        return Err(format!("character {bad:?}"));
    }
    let mut roots = 0;
    while let Some(begin) = rest.find('<') {
        check_text(&rest[..begin], open.is_empty())?;
        let end = begin + rest[begin..].find('>').ok_or("a tag without end")?;
        let tag = &rest[begin + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            let opened = open.pop().ok_or(format!("</{name}> closes nothing"))?;
            if opened != name {
                return Err(format!("</{name}> closes <{opened}>"));
            }
            continue;
        }
        let inner = tag.strip_suffix('/').unwrap_or(tag);
        let name = inner.split([' ', '\n']).next().unwrap_or_default();
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(format!("tag <{tag}>"));
        }
        check_attributes(&inner[name.len()..]).map_err(|why| format!("<{tag}>: {why}"))?;
        roots += usize::from(open.is_empty());
        if inner.len() == tag.len() {
            open.push(name);
        }
    }
    check_text(rest, true)?;
    if open.is_empty() && roots == 1 { Ok(()) } else { Err(format!("left open: {open:?}, roots: {roots}")) }
}

fn check_text(text: &str, outside: bool) -> Result<(), String> {
    if outside && !text.trim().is_empty() {
        return Err(format!("text outside: {text:?}"));
    }
    let entities = ["amp;", "lt;", "gt;", "quot;", "#39;"];
    let mut parts = text.split('&').skip(1);
    match parts.find(|part| !entities.iter().any(|entity| part.starts_with(entity))) {
        Some(part) => Err(format!("entity: {part:?}")),
        None => Ok(()),
    }
}

fn check_attributes(mut rest: &str) -> Result<(), String> {
    let mut seen = Vec::new();
    while !rest.trim_start().is_empty() {
        let (name, after) = rest.trim_start().split_once("=\"").ok_or("no value")?;
        let (value, after) = after.split_once('"').ok_or("no end of value")?;
        if seen.contains(&name) || name.contains([' ', '"', '\'']) || value.contains('<') {
            return Err(format!("attribute {name}=\"{value}\""));
        }
        check_text(value, false)?;
        seen.push(name);
        rest = after;
    }
    Ok(())
}

/// What must hold for every report, whatever the record.
fn check_all(record: &RunRecord) -> BTreeMap<String, String> {
    let files = files(record);
    for (name, text) in files.iter().filter(|(name, _)| !name.ends_with(".json")) {
        check_xml(text).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert!(!text.contains("NaN") && !text.contains("=\"inf"), "{name} has a number that is none");
        assert!(!text.contains("<script") && !text.contains("@import"), "{name} is not plain");
        let outside = text.replace("http://www.w3.org/2000/svg", "");
        assert!(!outside.contains("http"), "{name} points to the network");
    }
    for line in result_lines(record) {
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    files
}

fn texts(svg: &str) -> Vec<&str> {
    let texts = svg.split("<text ").skip(1);
    texts.filter_map(|text| text.split_once('>')?.1.split('<').next()).collect()
}

#[test]
fn the_checker_of_these_tests_finds_what_is_broken() {
    assert_eq!(check_xml("<a b=\"c\"><d/>&lt;</a>\n"), Ok(()));
    for broken in
        ["<a>", "<a></b>", "<a b=c/>", "<a b=\"1\" b=\"2\"/>", "<a>&nbsp;</a>", "<a/><b/>", "<a>\u{1b}</a>"]
    {
        assert!(check_xml(broken).is_err(), "{broken}");
    }
}

#[test]
fn a_full_record_has_all_plots_in_files_and_in_the_page() {
    let files = check_all(&sample::record());
    let plots =
        ["growth", "holders", "hops", "load-records", "load-sent", "lookups", "stale", "times", "traffic"];
    for plot in plots {
        let svg = &files[&format!("{plot}.svg")];
        assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""), "{plot}");
        assert!(svg.contains("viewBox=\"0 0 720 "), "{plot} does not scale");
        assert!(svg.contains("prefers-color-scheme:dark"), "{plot} has no dark");
        let figure = format!("<figure id=\"{plot}\">");
        assert_eq!(files["index.html"].matches(&figure).count(), 1, "{plot}");
    }
    assert_eq!(files.len(), plots.len() + 2);
    let back: RunRecord = serde_json::from_str(&files["run.json"]).unwrap();
    assert_eq!((back.hours, back.checks), (sample::record().hours, sample::record().checks));
    assert_eq!(back.probes.len(), sample::record().probes.len());
}

#[test]
fn the_page_says_what_ran_how_it_ended_and_how_to_repeat_it() {
    let page = &files(&sample::record())["index.html"];
    for part in [
        "<h1>healing</h1>",
        "seed 7 · 420 nodes · 24 h of virtual time",
        "✗ failed: a fetch from a live seeder completes: node 211",
        "dhtfs-sim run healing --nodes 420 --hours 24 --seed 7",
        "<h2>Checks</h2>",
        "<h2>Options</h2>",
        "<h2>Figures</h2>",
        "<h2>Fetches by pair of NATs</h2>",
        "<td>mean session 12 h, mean absence 40 min</td>",
        "<h2>Gets that failed</h2>",
    ] {
        assert!(page.contains(part), "{part}");
    }
}

#[test]
fn plots_name_their_faults_units_and_fits() {
    let files = files(&sample::record());
    let has = |plot: &str, words: &str| {
        let texts = texts(&files[&format!("{plot}.svg")]);
        assert!(texts.iter().any(|text| text.contains(words)), "{plot}: {words}: {texts:?}");
    };
    for fault in ["partition into 2", "bootstrap nodes down", "mass death 70 %", "links lose 20 %"] {
        has("lookups", fault);
    }
    has("lookups", "nodes online");
    has("lookups", "virtual time (h)");
    has("times", "whole file: p50");
    has("growth", "ln N, R² 0.99");
    has("traffic", "MiB");
    has("holders", "nodes that hold it");
    has("load-sent", "relay (8): median");
}

#[test]
fn the_same_record_gives_the_same_bytes() {
    assert_eq!(files(&sample::record()), files(&sample::record()));
}

#[test]
fn an_empty_record_has_a_page_without_plots() {
    let files = check_all(&RunRecord::default());
    assert_eq!(files.keys().collect::<Vec<_>>(), ["index.html", "run.json"]);
    assert!(!files["index.html"].contains("<figure"));
}

/// One of everything.
fn single() -> RunRecord {
    let bytes = BTreeMap::from([("kad".to_owned(), 5)]);
    RunRecord {
        hours: vec![Hour { at: 12.0, online: 1, bytes, ..Hour::default() }],
        probes: vec![Probe {
            provider_alive: true,
            found: true,
            first_secs: Some(0.0),
            returned: 1,
            hops: Some(0),
            ..Probe::default()
        }],
        gets: vec![Get { complete: true, total_secs: Some(0.3), ..Get::default() }],
        faults: vec![FaultSpan { name: "now".to_owned(), from: 0.0, to: 0.0 }],
        growth: vec![GrowthPoint { nodes: 1, requests: 0.0, ..GrowthPoint::default() }],
        loads: vec![Load { sent: 1, records: 1, ..Load::default() }],
        chunk_holders: vec![(0, 1)],
        ..RunRecord::default()
    }
}

#[test]
fn one_of_everything_is_enough_for_every_plot() {
    assert_eq!(check_all(&single()).len(), 11);
}

#[test]
fn numbers_that_are_none_are_left_out() {
    let mut record = single();
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1e300, 1e300] {
        let (hour, probe, get) = (record.hours[0].clone(), record.probes[0].clone(), record.gets[0].clone());
        record.secs = bad;
        record.hours.push(Hour { at: bad, ..hour });
        record.probes.push(Probe { at: bad, first_secs: Some(bad), total_secs: bad, ..probe });
        record.gets.push(Get { at: bad, total_secs: Some(bad), first_byte_secs: Some(bad), ..get });
        record.gets.push(Get { at: bad, ..Get::default() });
        record.faults.push(FaultSpan { name: "odd".to_owned(), from: bad, to: bad });
        record.growth.push(GrowthPoint { nodes: 7, requests: bad, hops: bad, first_secs: bad });
        record.growth_fit = Some(Fit { a: bad, b: bad, r2: bad });
        record.figures.insert("odd".to_owned(), bad);
        check_all(&record);
    }
}

#[test]
fn counts_as_large_as_they_go_do_not_overflow() {
    let mut record = single();
    let bytes = BTreeMap::from([("kad".to_owned(), u64::MAX), ("x".to_owned(), u64::MAX)]);
    record.hours.push(Hour { at: 24.0, online: usize::MAX, bytes, ..Hour::default() });
    record.probes.push(Probe {
        provider_alive: true,
        requests: u32::MAX,
        returned: usize::MAX,
        stale: usize::MAX,
        hops: Some(u32::MAX),
        ..Probe::default()
    });
    record.probes.push(record.probes[1].clone());
    record.loads.push(Load { sent: u64::MAX, records: u64::MAX, ..Load::default() });
    record.chunk_holders.extend([(usize::MAX, usize::MAX), (usize::MAX, usize::MAX)]);
    record.growth.push(GrowthPoint { nodes: usize::MAX, requests: 1e300, ..GrowthPoint::default() });
    record.checks = vec![Check { looked: u64::MAX, failed: u64::MAX, ..Check::default() }; 2];
    check_all(&record);
    assert!(!hour_line(&record.hours[1], Some(&record.hours[0])).is_empty());
}

#[test]
fn hostile_text_stays_text_everywhere() {
    let evil = "</text></style><script>alert(\"1\")</script>&'\u{1b}[2J\0\u{ffff}]]>-->";
    let text = || evil.to_owned();
    let record = RunRecord {
        scenario: text(),
        version: text(),
        replay: text(),
        options: BTreeMap::from([(text(), text())]),
        trace_hash: text(),
        checks: vec![Check { name: text(), looked: 1, failed: 1, first_failure: Some(text()) }],
        hours: vec![Hour {
            at: 9.0,
            online: 2,
            bytes: BTreeMap::from([(text(), 7)]),
            hash: text(),
            ..Hour::default()
        }],
        gets: vec![Get { error: Some(text()), ..Get::default() }],
        faults: vec![FaultSpan { name: text(), from: 0.0, to: 5.0 }],
        loads: vec![Load { role: text(), sent: 5, ..Load::default() }; 3],
        tables: vec![Table {
            title: text(),
            columns: vec![text()],
            rows: vec![vec![text(), text()], vec![]],
        }],
        figures: BTreeMap::from([(text(), 1.0)]),
        ..single()
    };
    let files = check_all(&record);
    assert!(files["index.html"].contains("&lt;script&gt;"));
}

#[test]
fn a_plot_of_an_earlier_run_does_not_stay() {
    let dir = tempfile::tempdir().unwrap();
    write(&single(), dir.path()).unwrap();
    fs::write(dir.path().join("mine.svg"), "").unwrap();
    write(&RunRecord::default(), dir.path()).unwrap();
    let mut left: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["index.html", "mine.svg", "run.json"]);
}

#[test]
fn runs_of_any_length_have_axes_that_a_reader_can_take_in() {
    let mut record = sample::record();
    for span in [40.0, 5400.0, 86_400.0, 40.0 * 86_400.0] {
        let stretch = span / record.secs;
        record.secs = span;
        record.probes.iter_mut().for_each(|probe| probe.at *= stretch);
        record.hours.iter_mut().for_each(|hour| hour.at *= stretch);
        let files = check_all(&record);
        for plot in ["lookups", "stale", "traffic"] {
            let svg = &files[&format!("{plot}.svg")];
            let below = svg
                .lines()
                .filter(|line| line.starts_with("<text class=\"\"") && line.contains("\"middle\""));
            let labels = below.count();
            assert!((3..=8).contains(&labels), "{plot} over {span} s has {labels} labels");
        }
    }
}
