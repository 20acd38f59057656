//! Requests per lookup against the size of the network.

use super::super::chart::Key;
use super::super::scale::Scale;
use super::super::stats;
use super::super::units;
use super::Plot;
use crate::record::{Fit, GrowthPoint, RunRecord};

/// The fit to show: the record's, or one of its points; `None` if a line would say nothing.
pub(crate) fn fit(record: &RunRecord) -> Option<Fit> {
    let points = usable(record);
    let first = points.first()?.nodes;
    // One size has no slope.
    if points.iter().all(|point| point.nodes == first) {
        return None;
    }
    let fit = record.growth_fit.unwrap_or_else(|| stats::fit_log(&record.growth));
    (fit.a.is_finite() && fit.b.is_finite() && fit.r2.is_finite()).then_some(fit)
}

/// A fit in words.
pub(crate) fn fit_words(fit: Fit) -> String {
    let sign = if fit.b < 0.0 { "−" } else { "+" };
    format!("{} {sign} {} ln N, R² {:.3}", units::number(fit.a), units::number(fit.b.abs()), fit.r2)
}

fn usable(record: &RunRecord) -> Vec<&GrowthPoint> {
    record.growth.iter().filter(|point| point.nodes > 0 && point.requests.is_finite()).collect()
}

/// Requests per lookup against the number of nodes.
pub(crate) fn growth(record: &RunRecord) -> Option<Plot<'_>> {
    let points = usable(record);
    let fit = fit(record);
    let (least, most) =
        (points.iter().min_by_key(|point| point.nodes)?, points.iter().max_by_key(|point| point.nodes)?);
    let law = fit.map_or_else(String::new, |fit| {
        format!("; doubling the network costs {} requests more per lookup", units::number(fit.b * 2f64.ln()))
    });
    let caption = format!(
        "A lookup took {} requests among {} nodes and {} among {}{law}. On this axis a straight line is growth with the \
         logarithm.",
        units::number(least.requests),
        units::count(least.nodes as u64),
        units::number(most.requests),
        units::count(most.nodes as u64)
    );
    Some(Plot {
        name: "growth",
        title: "Requests per lookup against the size of the network",
        caption,
        draw: Box::new(move |chart| {
            let sizes: Vec<f64> = points.iter().map(|point| point.nodes as f64).collect();
            let x = Scale::sizes(&sizes, "nodes N (logarithmic)");
            let has_hops = points.iter().any(|point| point.hops > 0.0);
            let line = |at: f64| fit.map(|fit| fit.a + fit.b * at.ln());
            let ends = [line(x.lo), line(x.hi)];
            let top = points.iter().map(|point| point.requests.max(point.hops));
            let top = top.chain(ends.into_iter().flatten()).filter(|top| top.is_finite()).fold(0.0, f64::max);
            let y = Scale::amount(top * 1.05, 5, "per lookup");
            chart.room_for(&[&y]);
            let mut entries = vec![(Key::Dot, 1, "requests".to_owned())];
            if let Some(fit) = fit {
                entries.push((Key::Line, 1, fit_words(fit)));
            }
            if has_hops {
                entries.push((Key::Dot, 2, "hops".to_owned()));
            }
            chart.legend(&entries);
            let panel = chart.panel(if chart.form.is_narrow() { 170.0 } else { 220.0 }, &x, &y, true);
            if let [Some(from), Some(to)] = ends {
                chart.shapes.path("line l1", &[panel.at((x.lo, from)), panel.at((x.hi, to))]);
            }
            for point in &points {
                let (nodes, count) = (point.nodes as f64, units::count(point.nodes as u64));
                if has_hops && point.hops.is_finite() {
                    let hint = format!("{count} nodes: {} hops", units::number(point.hops));
                    chart.shapes.dot("f2", panel.at((nodes, point.hops)), 4.0, &hint);
                }
                let hint = format!("{count} nodes: {} requests", units::number(point.requests));
                chart.shapes.dot("f1", panel.at((nodes, point.requests)), 4.5, &hint);
            }
            chart.base(&panel);
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fit_reads_as_a_formula() {
        assert_eq!(fit_words(Fit { a: 2.0, b: 1.25, r2: 0.9876 }), "2 + 1.25 ln N, R² 0.988");
        assert_eq!(fit_words(Fit { a: 2.0, b: -0.5, r2: 1.0 }), "2 − 0.5 ln N, R² 1.000");
    }

    #[test]
    fn one_size_has_points_but_no_line() {
        let point = GrowthPoint { nodes: 50, requests: 6.0, ..GrowthPoint::default() };
        let record = RunRecord { growth: vec![point.clone(), point], ..RunRecord::default() };
        assert_eq!(fit(&record), None);
        assert!(growth(&record).is_some());
        assert!(growth(&RunRecord::default()).is_none());
    }
}
