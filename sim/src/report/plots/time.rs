//! What changes over the run: success, nodes online, stale providers, traffic.

use std::collections::BTreeMap;

use super::super::bins::{self, Bin, Traffic};
use super::super::chart::{Chart, Key};
use super::super::scale::Scale;
use super::super::stats;
use super::super::units;
use super::Plot;
use crate::record::{Hour, RunRecord};

/// The parts of `bins` in which something was counted, one after the other.
fn runs(bins: &[Bin]) -> impl Iterator<Item = &[Bin]> {
    bins.split(|bin| bin.of == 0).filter(|run| !run.is_empty())
}

fn hint(bin: &Bin, what: &str) -> String {
    format!(
        "{} to {}: {} of {} {what}",
        units::moment(bin.from),
        units::moment(bin.to),
        units::count(bin.hits),
        units::count(bin.of)
    )
}

/// Success of lookups over time, above the number of nodes.
pub(crate) fn lookups(record: &RunRecord) -> Option<Plot<'_>> {
    let counted = || record.probes.iter().filter(|probe| probe.provider_alive);
    let of = counted().count();
    if of == 0 {
        return None;
    }
    let span = bins::span(record);
    let width = bins::bin_width(span, of);
    let bins = bins::shares(counted().map(|probe| (probe.at, u64::from(probe.found), 1)), width, span);
    let found = counted().filter(|probe| probe.found).count();
    let worst = bins
        .iter()
        .filter(|bin| bin.of > 0 && bin.hits < bin.of)
        .min_by(|a, b| (a.share().unwrap_or(1.0)).total_cmp(&b.share().unwrap_or(1.0)));
    let worst = worst.map_or_else(String::new, |bin| {
        let (from, to) = (units::moment(bin.from), units::moment(bin.to));
        format!("; the worst part, {from} to {to}, found {}", units::percent(bin.share().unwrap_or_default()))
    });
    let caption = format!(
        "{} of {} lookups of what a reachable node provided found it ({}){worst}. The band is the 95 % interval of \
         what so few lookups can tell.",
        units::count(found as u64),
        units::count(of as u64),
        units::percent(found as f64 / of as f64)
    );
    Some(Plot {
        name: "lookups",
        title: "Success of provider lookups over time",
        caption,
        draw: Box::new(move |chart| draw_lookups(chart, record, &bins, span)),
    })
}

fn draw_lookups(chart: &mut Chart, record: &RunRecord, bins: &[Bin], span: f64) {
    let x = Scale::run(span, chart.form.x_steps());
    let y = Scale::share(1.0, 4, "");
    let most = record.hours.iter().map(|hour| hour.online).max().unwrap_or(0);
    let online = Scale::count(most as f64, 2, "nodes online");
    chart.room_for(&[&y, &online]);
    chart.legend(&[(Key::Line, 1, "found".to_owned()), (Key::Band, 1, "95 % interval".to_owned())]);
    chart.heading("share of lookups that found a live provider");
    chart.fault_labels(&x, &record.faults);
    let panel =
        chart.panel(if chart.form.is_narrow() { 150.0 } else { 190.0 }, &x, &y, record.hours.is_empty());
    chart.shade(&panel, &record.faults);
    for run in runs(bins) {
        let edge = |bin: &Bin| stats::wilson(bin.hits, bin.of);
        let high = run.iter().map(|bin| panel.at((bin.middle(), edge(bin).1)));
        let low = run.iter().rev().map(|bin| panel.at((bin.middle(), edge(bin).0)));
        chart.shapes.area("band f1", &high.chain(low).collect::<Vec<_>>());
        let line: Vec<_> =
            run.iter().filter_map(|bin| Some(panel.at((bin.middle(), bin.share()?)))).collect();
        chart.shapes.path("line l1", &line);
        for (bin, at) in run.iter().zip(line) {
            chart.shapes.dot("f1", at, 2.6, &hint(bin, "found"));
        }
    }
    chart.base(&panel);
    if !record.hours.is_empty() {
        draw_online(chart, record, &x, &online);
    }
}

fn draw_online(chart: &mut Chart, record: &RunRecord, x: &Scale, y: &Scale) {
    chart.space(6.0);
    let panel = chart.panel(52.0, x, y, true);
    chart.shade(&panel, &record.faults);
    let hours: Vec<&Hour> = record.hours.iter().filter(|hour| hour.at.is_finite()).collect();
    let line: Vec<_> = hours.iter().map(|hour| panel.at((hour.at, hour.online as f64))).collect();
    if let [(at, _)] = line[..] {
        chart.shapes.dot("f6", (at, line[0].1), 2.6, "");
    }
    let floor = |at: Option<&(f64, f64)>| at.map(|(x, _)| (*x, panel.bottom));
    let area: Vec<_> =
        floor(line.first()).into_iter().chain(line.iter().copied()).chain(floor(line.last())).collect();
    chart.shapes.area("band f6", &area);
    chart.shapes.path("thin l6", &line);
    chart.base(&panel);
}

/// The share of providers returned that were not running any more.
pub(crate) fn stale(record: &RunRecord) -> Option<Plot<'_>> {
    let counted = || record.probes.iter().filter(|probe| probe.returned > 0);
    let (returned, gone) = counted().fold((0u64, 0u64), |(returned, gone), probe| {
        (returned.saturating_add(probe.returned as u64), gone.saturating_add(probe.stale as u64))
    });
    if returned == 0 {
        return None;
    }
    let span = bins::span(record);
    let samples =
        counted().map(|probe| (probe.at, probe.stale.min(probe.returned) as u64, probe.returned as u64));
    let bins = bins::shares(samples, bins::bin_width(span, counted().count()), span);
    let caption = format!(
        "{} of {} providers that lookups returned ({}) were not running: what a getter dials in vain until the record \
         expires.",
        units::count(gone),
        units::count(returned),
        units::percent(gone as f64 / returned as f64)
    );
    Some(Plot {
        name: "stale",
        title: "Stale providers over time",
        caption,
        draw: Box::new(move |chart| {
            let most = bins.iter().filter_map(Bin::share).fold(0.0, f64::max);
            let (x, y) = (Scale::run(span, chart.form.x_steps()), Scale::share(most.max(0.01), 4, ""));
            chart.room_for(&[&y]);
            chart.heading("share of returned providers that were gone");
            chart.fault_labels(&x, &record.faults);
            let panel = chart.panel(if chart.form.is_narrow() { 150.0 } else { 200.0 }, &x, &y, true);
            chart.shade(&panel, &record.faults);
            for run in runs(&bins) {
                let line: Vec<_> =
                    run.iter().filter_map(|bin| Some(panel.at((bin.middle(), bin.share()?)))).collect();
                let floor = [line[line.len() - 1], line[0]].map(|(x, _)| (x, panel.bottom));
                chart.shapes.area("band f2", &line.iter().copied().chain(floor).collect::<Vec<_>>());
                chart.shapes.path("line l2", &line);
                for (bin, at) in run.iter().zip(line) {
                    chart.shapes.dot("f2", at, 2.6, &hint(bin, "stale"));
                }
            }
            chart.base(&panel);
        }),
    })
}

/// The series of a protocol: always the same colour, so that two runs can be laid side by side.
fn series(protocol: &str) -> usize {
    match protocol {
        "kad" => 1,
        "lane" => 2,
        "identify" => 3,
        "ping" => 4,
        "autonat" => 5,
        _ => 6,
    }
}

/// Bytes per node and hour, by protocol.
pub(crate) fn traffic(record: &RunRecord) -> Option<Plot<'_>> {
    let parts = bins::traffic(&record.hours);
    let hours: f64 = parts.iter().map(|part| part.to - part.from).sum();
    // By name of the series: what has no colour of its own is `other`, and drawn as one.
    let mut names: BTreeMap<usize, (String, f64)> = BTreeMap::new();
    for part in &parts {
        for (protocol, rate) in &part.rates {
            let name = if series(protocol) == 6 { "other" } else { protocol };
            let entry = names.entry(series(protocol)).or_insert_with(|| (name.to_owned(), 0.0));
            entry.1 += rate * (part.to - part.from) / hours;
        }
    }
    let total: f64 = names.values().map(|(_, mean)| mean).sum();
    if total <= 0.0 {
        return None;
    }
    let most = names.values().max_by(|a, b| a.1.total_cmp(&b.1)).cloned().unwrap_or_default();
    let caption = format!(
        "A node sent {} per hour on average; {} made up {} of it.",
        units::bytes(total),
        most.0,
        units::percent(most.1 / total)
    );
    Some(Plot {
        name: "traffic",
        title: "Traffic per node and hour",
        caption,
        draw: Box::new(move |chart| draw_traffic(chart, record, &parts, &names)),
    })
}

fn draw_traffic(
    chart: &mut Chart,
    record: &RunRecord,
    parts: &[Traffic],
    names: &BTreeMap<usize, (String, f64)>,
) {
    let most = parts.iter().map(|part| part.rates.values().sum()).fold(0.0, f64::max);
    let (x, y) = (Scale::run(bins::span(record), chart.form.x_steps()), Scale::bytes(most, 5, ""));
    chart.room_for(&[&y]);
    let entry = |(series, (name, mean)): (&usize, &(String, f64))| {
        (Key::Box, *series, format!("{name} {}", units::bytes(*mean)))
    };
    chart.legend(&names.iter().map(entry).collect::<Vec<_>>());
    chart.heading("bytes sent per node and hour (in the legend: the mean)");
    chart.fault_labels(&x, &record.faults);
    let panel = chart.panel(if chart.form.is_narrow() { 160.0 } else { 210.0 }, &x, &y, true);
    chart.shade(&panel, &record.faults);
    for part in parts {
        let mut floor = 0.0;
        // A hair between bars, unless they are hairs themselves.
        let (from, to) = (panel.px(part.from), panel.px(part.to));
        let gap = if to - from > 6.0 { 0.8 } else { 0.0 };
        for (number, (name, _)) in names {
            let rate: f64 = part
                .rates
                .iter()
                .filter(|(protocol, _)| series(protocol) == *number)
                .map(|(_, rate)| rate)
                .sum();
            if rate <= 0.0 {
                continue;
            }
            let hint = format!(
                "{name}, {} to {}: {}",
                units::moment(part.from),
                units::moment(part.to),
                units::bytes(rate)
            );
            let (low, high) = (panel.py(floor), panel.py(floor + rate));
            chart.shapes.rect(&format!("f{number}"), (from + gap, low), (to - gap, high), &hint);
            floor += rate;
        }
    }
    chart.base(&panel);
}
