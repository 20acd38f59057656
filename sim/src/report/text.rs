//! A run in lines of text, for a terminal.

use super::bins::mean_online;
use super::summary;
use super::units;
use crate::record::{Hour, RunRecord, Table};

/// The heads of the columns of [`hour_line`].
#[must_use]
pub fn hour_heading() -> &'static str {
    "   hour  online  starts  crashes     lookups  bytes/node  connections  routing  hash"
}

/// One hour in one line, in the columns of [`hour_heading`].
///
/// `previous` is the hour before: bytes are per node that ran on average between the two. Lookups are those that found
/// a live provider out of those that could.
#[must_use]
pub fn hour_line(hour: &Hour, previous: Option<&Hour>) -> String {
    let online = mean_online(hour, previous);
    let bytes = hour.bytes.values().fold(0u64, |sum, bytes| sum.saturating_add(*bytes));
    let per_node = if online > 0.0 { units::bytes(bytes as f64 / online) } else { "–".to_owned() };
    let lookups = if hour.probes > 0 { format!("{}/{}", hour.found, hour.probes) } else { "–".to_owned() };
    // Whole hours are the rule; the end of a run may be anywhere.
    let at = hour.at / 3600.0;
    let at = match at {
        _ if !at.is_finite() => "–".to_owned(),
        _ if (at - at.round()).abs() < 0.005 => format!("{at:.0}"),
        _ => format!("{at:.2}"),
    };
    let hash: String = units::printable(&hour.hash).chars().take(12).collect();
    let line = format!(
        "{at:>7}  {:>6}  {:>6}  {:>7}  {lookups:>10}  {per_node:>10}  {:>11}  {:>7}  {hash}",
        hour.online, hour.starts, hour.crashes, hour.connections, hour.routing_median
    );
    line.trim_end().to_owned()
}

/// The result of a run: the figures that stand for it, those of the scenario, its tables, what failed, the verdict.
#[must_use]
pub fn result_lines(record: &RunRecord) -> Vec<String> {
    let mut pairs: Vec<(String, String)> = summary::headlines(record)
        .into_iter()
        .map(|line| {
            let between = if line.more.starts_with("per ") { " " } else { ", " };
            (line.name.to_owned(), format!("{}{between}{}", line.value, line.more))
        })
        .collect();
    pairs.extend(record.figures.iter().map(|(name, value)| (units::printable(name), units::number(*value))));
    let widest = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut lines: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{name:widest$}  {value}")).collect();
    for table in &record.tables {
        lines.push(String::new());
        lines.extend(table_lines(table));
    }
    if !lines.is_empty() {
        lines.push(String::new());
    }
    for check in summary::failed(record) {
        let why = check.first_failure.as_deref().map_or_else(String::new, |why| format!("; first: {why}"));
        lines.push(units::printable(&format!(
            "check \"{}\" failed {} times of {}{why}",
            check.name,
            units::count(check.failed),
            units::count(check.looked)
        )));
    }
    // The checks above say why.
    let failed = !record.passed && summary::failed(record).next().is_some();
    lines.push(if failed { "failed".to_owned() } else { units::printable(&summary::verdict(record)) });
    if !record.passed {
        lines.push(units::printable(&format!("replay: {}", summary::replay(record))));
    }
    lines
}

/// Whether a cell is a figure, which lines up on the right.
pub(crate) fn is_figure(cell: &str) -> bool {
    let cell = cell.trim_start_matches(['-', '−', '<', ' ']);
    cell.starts_with(|c: char| c.is_ascii_digit()) || matches!(cell, "" | "–")
}

/// Whether all cells of `column` are figures.
pub(crate) fn is_figures(table: &Table, column: usize) -> bool {
    let mut cells = table.rows.iter().filter_map(|row| row.get(column)).peekable();
    cells.peek().is_some() && cells.all(|cell| is_figure(cell))
}

fn table_lines(table: &Table) -> Vec<String> {
    let columns = table.rows.iter().map(Vec::len).chain([table.columns.len()]).max().unwrap_or(0);
    let clean = |row: &[String]| -> Vec<String> {
        (0..columns)
            .map(|column| row.get(column).map_or_else(String::new, |cell| units::printable(cell)))
            .collect()
    };
    let rows: Vec<_> =
        [clean(&table.columns)].into_iter().chain(table.rows.iter().map(|row| clean(row))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<(usize, bool)> =
        (0..columns).map(|column| (width(column), is_figures(table, column))).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, (width, right))| {
            if *right { format!("{cell:>width$}") } else { format!("{cell:width$}") }
        });
        format!("  {}", cells.collect::<Vec<_>>().join("  ")).trim_end().to_owned()
    };
    [units::printable(&table.title)].into_iter().chain(rows.iter().map(line)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::record::{Check, Fit, GrowthPoint};

    fn hour(at: f64, online: usize) -> Hour {
        Hour {
            at,
            online,
            starts: 3,
            crashes: 2,
            probes: 120,
            found: 118,
            bytes: BTreeMap::from([("kad".to_owned(), 1_048_576), ("ping".to_owned(), 1_048_576)]),
            connections: 1234,
            routing_median: 31,
            hash: "0123456789abcdef0123".to_owned(),
            ..Hour::default()
        }
    }

    #[test]
    fn hours_stand_in_columns_under_their_heads() {
        let line = hour_line(&hour(7200.0, 64), Some(&hour(3600.0, 64)));
        assert_eq!(
            line,
            "      2      64       3        2     118/120      32 KiB         1234       31  0123456789ab"
        );
        // Heads of figures end where the figures end.
        for (head, cell) in [("hour", "2"), ("online", "64"), ("lookups", "118/120"), ("routing", "31")] {
            let ends = |text: &str, part: &str| {
                text.match_indices(part).any(|(at, _)| {
                    hour_heading().find(head).map(|begin| begin + head.len()) == Some(at + part.len())
                })
            };
            assert!(ends(&line, cell), "{head}");
        }
        assert_eq!(hour_heading().find("hash"), line.find("0123456789ab"));
    }

    #[test]
    fn bytes_are_per_node_that_ran_between_two_hours() {
        let line = hour_line(&hour(5400.0, 32), Some(&hour(3600.0, 96)));
        assert!(line.starts_with("   1.50 ") && line.contains(" 32 KiB "), "{line}");
    }

    #[test]
    fn an_empty_hour_has_dashes_and_no_control_characters() {
        let line = hour_line(&Hour { hash: "\u{1b}[2J".to_owned(), ..Hour::default() }, None);
        assert!(line.contains('–') && !line.contains('\u{1b}') && !line.contains("NaN"), "{line}");
    }

    #[test]
    fn results_name_figures_tables_and_what_failed() {
        let point = |nodes, requests| GrowthPoint { nodes, requests, ..GrowthPoint::default() };
        let record = RunRecord {
            scenario: "growth-law".to_owned(),
            figures: BTreeMap::from([("relays".to_owned(), 3.0)]),
            growth: vec![point(50, 5.0), point(500, 9.0)],
            growth_fit: Some(Fit { a: 1.0, b: 1.5, r2: 0.99 }),
            tables: vec![Table {
                title: "Pairs".to_owned(),
                columns: vec!["from".to_owned(), "share".to_owned()],
                rows: vec![
                    vec!["cone".to_owned(), "9 %".to_owned()],
                    vec!["symmetric".to_owned(), "100 %".to_owned()],
                ],
            }],
            checks: vec![Check {
                name: "found".to_owned(),
                looked: 1000,
                failed: 3,
                first_failure: Some("node 7 at 3 h".to_owned()),
            }],
            ..RunRecord::default()
        };
        assert_eq!(
            result_lines(&record),
            [
                "growth of requests  +1.04 per doubling; 1 + 1.5 ln N, R² 0.990",
                "relays              3",
                "",
                "Pairs",
                "  from       share",
                "  cone         9 %",
                "  symmetric  100 %",
                "",
                "check \"found\" failed 3 times of 1,000; first: node 7 at 3 h",
                "failed",
                "replay: dhtfs-sim run growth-law --nodes 0 --seed 0",
            ]
        );
    }

    #[test]
    fn an_empty_record_has_a_verdict_only() {
        let record = RunRecord { passed: true, ..RunRecord::default() };
        assert_eq!(result_lines(&record), ["passed: 0 checks, looked at 0 times"]);
    }

    #[test]
    fn rows_shorter_or_longer_than_the_head_are_no_trouble() {
        let row = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect();
        let table = Table {
            title: "t\n".to_owned(),
            columns: row(&["a", "b"]),
            rows: vec![row(&["1"]), row(&["x", "2", "3"])],
        };
        assert_eq!(table_lines(&table), ["t\u{fffd}", "  a  b", "  1", "  x  2  3"]);
    }
}
