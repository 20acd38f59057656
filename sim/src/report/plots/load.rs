//! How evenly the nodes carry what there is to carry, role by role.

use std::collections::BTreeMap;

use super::super::chart::{Chart, Key};
use super::super::scale::Scale;
use super::super::stats;
use super::super::units;
use super::Plot;
use crate::record::{Load, RunRecord};

/// What is carried, and how it is called.
#[derive(Clone, Copy)]
struct Measure {
    name: &'static str,
    title: &'static str,
    axis: &'static str,
    what: &'static str,
    value: fn(&Load) -> u64,
    bytes: bool,
}

impl Measure {
    fn words(self, value: f64) -> String {
        if self.bytes { units::bytes(value) } else { units::number(value) }
    }
}

/// Bytes sent.
pub(crate) fn sent(record: &RunRecord) -> Option<Plot<'_>> {
    let measure = Measure {
        name: "load-sent",
        title: "Bytes sent, node by node",
        axis: "bytes sent by a node in the whole run",
        what: "bytes sent",
        value: |load| load.sent,
        bytes: true,
    };
    plot(record, measure)
}

/// Provider records held.
pub(crate) fn records(record: &RunRecord) -> Option<Plot<'_>> {
    let measure = Measure {
        name: "load-records",
        title: "Provider records held, node by node",
        axis: "records held by a node at the end",
        what: "records",
        value: |load| load.records,
        bytes: false,
    };
    plot(record, measure)
}

/// The values of `loads` by role, from least to most; at most six roles, the rarest together.
fn by_role(loads: &[Load], value: fn(&Load) -> u64) -> Vec<(String, Vec<f64>)> {
    let mut roles: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for load in loads {
        roles.entry(load.role.as_str()).or_default().push(value(load) as f64);
    }
    let mut roles: Vec<(String, Vec<f64>)> = roles
        .into_iter()
        .map(|(role, values)| (if role.is_empty() { "node" } else { role }.to_owned(), stats::sorted(values)))
        .collect();
    // The order of names, not of counts, where counts are equal: `sort_by` is stable.
    roles.sort_by_key(|(_, values)| std::cmp::Reverse(values.len()));
    if roles.len() > 6 {
        let rest = roles.split_off(5).into_iter().flat_map(|(_, values)| values);
        roles.push(("others".to_owned(), stats::sorted(rest)));
    }
    roles
}

fn plot(record: &RunRecord, measure: Measure) -> Option<Plot<'_>> {
    let all = stats::sorted(record.loads.iter().map(|load| (measure.value)(load) as f64));
    let top = stats::top_share(&all, 0.1)?;
    let caption = format!(
        "The median node has {}, the busiest {}; the busiest tenth of the nodes has {} of all {}.",
        measure.words(stats::quantile(&all, 0.5)?),
        measure.words(stats::quantile(&all, 1.0)?),
        units::percent(top),
        measure.what
    );
    let roles = by_role(&record.loads, measure.value);
    Some(Plot {
        name: measure.name,
        title: measure.title,
        caption,
        draw: Box::new(move |chart| draw(chart, measure, &roles, &all)),
    })
}

fn draw(chart: &mut Chart, measure: Measure, roles: &[(String, Vec<f64>)], all: &[f64]) {
    let (median, most) = (stats::quantile(all, 0.5).unwrap_or(0.0), all.last().copied().unwrap_or(0.0));
    let least = all.iter().copied().find(|value| *value > 0.0).unwrap_or(1.0);
    // One relay among hundreds of idle nodes: from zero, all the others would lie on the base line.
    let far = median > 0.0 && most / median > 40.0;
    let y = match (far, measure.bytes) {
        (true, binary) => Scale::ratio(least, most, binary, &format!("{} (logarithmic)", measure.axis)),
        (false, true) => Scale::bytes(most, 5, measure.axis),
        (false, false) => Scale::count(most, 5, measure.axis),
    };
    let x = Scale::share(1.0, 4, "nodes of the role, from least to most");
    chart.room_for(&[&y]);
    let entries: Vec<_> = roles
        .iter()
        .enumerate()
        .map(|(role, (name, values))| {
            let median = stats::quantile(values, 0.5).unwrap_or_default();
            let words = format!(
                "{} ({}): median {}",
                units::clip(name, 24),
                units::count(values.len() as u64),
                measure.words(median)
            );
            (if values.len() > 1 { Key::Line } else { Key::Dot }, role + 1, words)
        })
        .collect();
    chart.legend(&entries);
    let panel = chart.panel(if chart.form.is_narrow() { 160.0 } else { 210.0 }, &x, &y, true);
    for (role, (name, values)) in roles.iter().enumerate() {
        let count = values.len() as f64;
        let line: Vec<_> = values
            .iter()
            .enumerate()
            .map(|(rank, value)| panel.at(((rank as f64 + 0.5) / count, *value)))
            .collect();
        let series = role + 1;
        chart.shapes.path(&format!("line l{series} d{series}"), &stats::thin(&line, 150));
        // A line through a handful of nodes hides how few they are.
        if values.len() <= 12 {
            for (at, value) in line.iter().zip(values) {
                let hint = format!("{}: {}", units::clip(name, 80), measure.words(*value));
                chart.shapes.dot(&format!("f{series}"), *at, 3.2, &hint);
            }
        }
    }
    chart.base(&panel);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(role: &str, sent: u64) -> Load {
        Load { role: role.to_owned(), sent, ..Load::default() }
    }

    #[test]
    fn roles_come_by_size_and_the_rarest_are_one() {
        let mut loads = vec![load("b", 3), load("b", 1), load("a", 2)];
        let roles = by_role(&loads, |load| load.sent);
        assert_eq!(roles, [("b".to_owned(), vec![1.0, 3.0]), ("a".to_owned(), vec![2.0])]);
        loads.extend((0..20).map(|role| load(&format!("role {role}"), role)));
        let roles = by_role(&loads, |load| load.sent);
        assert_eq!(roles.len(), 6);
        assert_eq!((roles[5].0.as_str(), roles[5].1.len()), ("others", 17));
    }

    #[test]
    fn loads_of_nothing_make_no_plot() {
        let record = RunRecord { loads: vec![load("a", 0)], ..RunRecord::default() };
        assert!(sent(&record).is_none());
    }
}
