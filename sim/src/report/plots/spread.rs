//! How something is spread over lookups, fetches or chunks: distributions and bars.

use std::collections::BTreeMap;

use super::super::chart::{Chart, Key};
use super::super::scale::Scale;
use super::super::stats;
use super::super::units;
use super::Plot;
use crate::record::RunRecord;

/// Times of one kind: those that came to an end, and how many were begun.
struct Times {
    name: &'static str,
    series: usize,
    secs: Vec<f64>,
    of: usize,
}

fn kinds(record: &RunRecord) -> Vec<Times> {
    let counted: Vec<_> = record.probes.iter().filter(|probe| probe.provider_alive).collect();
    let first = counted.iter().filter(|probe| probe.found).filter_map(|probe| probe.first_secs);
    let complete = record.gets.iter().filter(|get| get.complete);
    let all = [
        Times { name: "first provider", series: 1, secs: stats::sorted(first), of: counted.len() },
        Times {
            name: "first byte",
            series: 2,
            secs: stats::sorted(record.gets.iter().filter_map(|get| get.first_byte_secs)),
            of: record.gets.len(),
        },
        Times {
            name: "whole file",
            series: 3,
            secs: stats::sorted(complete.filter_map(|get| get.total_secs)),
            of: record.gets.len(),
        },
    ];
    all.into_iter().filter(|kind| !kind.secs.is_empty()).collect()
}

/// Times to the first provider, the first byte and the whole file.
pub(crate) fn times(record: &RunRecord) -> Option<Plot<'_>> {
    let kinds = kinds(record);
    if kinds.is_empty() {
        return None;
    }
    let at = |kind: &Times, q| units::secs(stats::quantile(&kind.secs, q).unwrap_or_default());
    let middle = kinds.iter().map(|kind| format!("the {} within {}", kind.name, at(kind, 0.5)));
    let caption = format!(
        "Half of those that succeeded had {}; a curve that ends below 100 % leaves out the attempts that never did.",
        middle.collect::<Vec<_>>().join(", ")
    );
    Some(Plot {
        name: "times",
        title: "Time to first provider, first byte and whole file",
        caption,
        draw: Box::new(move |chart| draw_times(chart, &kinds)),
    })
}

fn draw_times(chart: &mut Chart, kinds: &[Times]) {
    let all = || kinds.iter().flat_map(|kind| kind.secs.iter().copied());
    let x = Scale::spans(all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max), "");
    let title = if x.log { "time since the begin (logarithmic)" } else { "time since the begin" };
    let x = Scale { title: title.to_owned(), ..x };
    let y = Scale::share(1.0, 4, "share of attempts that were there by then");
    chart.room_for(&[&y]);
    let entries: Vec<_> = kinds
        .iter()
        .map(|kind| {
            let at = |q| units::secs(stats::quantile(&kind.secs, q).unwrap_or_default());
            (Key::Line, kind.series, format!("{}: p50 {}, p99 {}", kind.name, at(0.5), at(0.99)))
        })
        .collect();
    chart.legend(&entries);
    let panel = chart.panel(if chart.form.is_narrow() { 170.0 } else { 220.0 }, &x, &y, true);
    for kind in kinds {
        let mut line = vec![(panel.px(panel.x.lo), panel.py(0.0))];
        let mut before = 0.0;
        for (secs, share) in stats::cdf(&kind.secs, kind.of, 240) {
            line.push(panel.at((secs, before)));
            line.push(panel.at((secs, share)));
            before = share;
        }
        line.push(panel.at((panel.x.hi, before)));
        chart.shapes.path(&format!("line l{0} d{0}", kind.series), &line);
    }
    chart.base(&panel);
}

/// One bar.
struct Bar {
    label: String,
    value: f64,
    shown: String,
    hint: String,
    series: usize,
}

/// Bars side by side, each with its label below and, where there is room, its value above.
fn draw_bars(chart: &mut Chart, bars: &[Bar], y: &Scale, x_title: &str) {
    let count = bars.len().max(1) as f64;
    let x = Scale { lo: 0.0, hi: count, log: false, ticks: Vec::new(), title: x_title.to_owned() };
    chart.room_for(&[y]);
    let panel = chart.panel(if chart.form.is_narrow() { 150.0 } else { 190.0 }, &x, y, false);
    let slot = panel.px(1.0) - panel.px(0.0);
    let gap = if slot > 8.0 { slot * 0.12 } else { 0.3 };
    let widest = bars.iter().map(|bar| super::super::svg::text_width(&bar.shown)).fold(0.0, f64::max);
    let mut labels = Vec::new();
    for (position, bar) in bars.iter().enumerate() {
        let at = position as f64;
        let (from, to, top) = (panel.px(at) + gap, panel.px(at + 1.0) - gap, panel.py(bar.value));
        if bar.value > 0.0 {
            chart.shapes.rect(&format!("f{}", bar.series), (from, panel.bottom), (to, top), &bar.hint);
        }
        if widest < slot && bar.value > 0.0 {
            // Within the plot even when the bar is as tall as it.
            let (middle, above) = (f64::midpoint(from, to), (top - 4.0).max(panel.top + 2.0));
            chart.shapes.text("", super::super::svg::Anchor::Middle, (middle, above), &bar.shown);
        }
        labels.push((at + 0.5, bar.label.clone()));
    }
    chart.base(&panel);
    chart.x_labels(&panel, &labels);
}

/// Room for the values above the bars.
const HEADROOM: f64 = 1.08;

/// Gathers `counts` by value into at most 40 bars without holes: `(first value, last value, count)`.
fn gather(counts: &BTreeMap<usize, u64>) -> Vec<(usize, usize, u64)> {
    let last = counts.keys().next_back().copied().unwrap_or(0);
    let width = last / 40 + 1;
    let bar = |number: usize| {
        let from = number * width;
        let to = from.saturating_add(width - 1);
        (from, to, counts.range(from..=to).fold(0u64, |sum, (_, count)| sum.saturating_add(*count)))
    };
    (0..=last / width).map(bar).collect()
}

fn range_label(from: usize, to: usize) -> String {
    if from == to { from.to_string() } else { format!("{from}–{to}") }
}

/// How many nodes hold a chunk.
pub(crate) fn holders(record: &RunRecord) -> Option<Plot<'_>> {
    let mut counts: BTreeMap<usize, u64> = BTreeMap::new();
    for (holders, chunks) in &record.chunk_holders {
        let count = counts.entry(*holders).or_default();
        *count = count.saturating_add(*chunks as u64);
    }
    let total = counts.values().fold(0u64, |sum, count| sum.saturating_add(*count));
    if total == 0 {
        return None;
    }
    let lost = counts.get(&0).copied().unwrap_or(0);
    let single = counts.get(&1).copied().unwrap_or(0);
    let lost_words = if lost == 0 {
        "no chunk is lost".to_owned()
    } else {
        format!("{} chunks are lost", units::count(lost))
    };
    let caption = format!(
        "Of {} chunks, {} hang on a single node and {lost_words}; a long tail to the right means that getters carry part \
         of the load.",
        units::count(total),
        units::count(single),
    );
    Some(Plot {
        name: "holders",
        title: "Nodes that hold a chunk",
        caption,
        draw: Box::new(move |chart| {
            let bars = bars(&counts, |range, count| Bar {
                value: count as f64,
                shown: units::count(count),
                hint: format!("{range} holders: {} chunks", units::count(count)),
                series: if range == "0" { 2 } else { 1 },
                label: range,
            });
            draw_bars(chart, &bars, &Scale::count(top(&bars), 5, "chunks"), "nodes that hold it");
        }),
    })
}

/// A bar for each range of what was counted, made of its label and count.
fn bars(counts: &BTreeMap<usize, u64>, bar: impl Fn(String, u64) -> Bar) -> Vec<Bar> {
    gather(counts).into_iter().map(|(from, to, count)| bar(range_label(from, to), count)).collect()
}

/// Where the axis of bars ends.
fn top(bars: &[Bar]) -> f64 {
    bars.iter().map(|bar| bar.value).fold(0.0, f64::max) * HEADROOM
}

/// Hops per lookup.
pub(crate) fn hops(record: &RunRecord) -> Option<Plot<'_>> {
    let mut counts: BTreeMap<usize, u64> = BTreeMap::new();
    for hops in record.probes.iter().filter_map(|probe| probe.hops) {
        *counts.entry(usize::try_from(hops).unwrap_or(usize::MAX).min(1000)).or_default() += 1;
    }
    let total: u64 = counts.values().sum();
    if total == 0 {
        return None;
    }
    let sum: f64 = counts.iter().map(|(hops, count)| *hops as f64 * *count as f64).sum();
    let most = counts.keys().next_back().copied().unwrap_or(0);
    let caption = format!(
        "A lookup went over {} hops on average and {most} at most ({} lookups): the longest chain of peers that named \
         one another.",
        units::number(sum / total as f64),
        units::count(total)
    );
    Some(Plot {
        name: "hops",
        title: "Hops per lookup",
        caption,
        draw: Box::new(move |chart| {
            let bars = bars(&counts, |range, count| Bar {
                value: count as f64 / total as f64,
                shown: units::percent(count as f64 / total as f64),
                hint: format!("{range} hops: {} lookups", units::count(count)),
                series: 1,
                label: range,
            });
            draw_bars(chart, &bars, &Scale::share(top(&bars), 4, "share of lookups"), "hops");
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_no_holes_and_are_not_too_many() {
        let counts = BTreeMap::from([(0, 2), (3, 5)]);
        assert_eq!(gather(&counts), [(0, 0, 2), (1, 1, 0), (2, 2, 0), (3, 3, 5)]);
        let wide = gather(&BTreeMap::from([(1, 1), (7, 2), (500, 3)]));
        assert!(wide.len() <= 41);
        assert_eq!(wide.iter().map(|(.., count)| count).sum::<u64>(), 6);
        assert!(gather(&BTreeMap::from([(usize::MAX - 1, 1)])).len() <= 42);
    }
}
