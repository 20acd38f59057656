//! What is counted over time, gathered into bins that are wide enough to mean something.

use std::collections::BTreeMap;

use super::scale::time_step;
use super::stats::index;
use crate::record::{Hour, RunRecord};

/// A part of the run and a share counted in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bin {
    /// Begin.
    pub(crate) from: f64,
    /// End.
    pub(crate) to: f64,
    /// How many were so.
    pub(crate) hits: u64,
    /// How many there were.
    pub(crate) of: u64,
}

impl Bin {
    /// The share, if there were any.
    pub(crate) fn share(&self) -> Option<f64> {
        (self.of > 0).then(|| self.hits as f64 / self.of as f64)
    }

    /// Its middle.
    pub(crate) fn middle(&self) -> f64 {
        f64::midpoint(self.from, self.to)
    }
}

/// The length of a run: what it says, or when the last thing in it happened.
pub(crate) fn span(record: &RunRecord) -> f64 {
    let probes = record.probes.iter().map(|probe| probe.at);
    let hours = record.hours.iter().map(|hour| hour.at);
    let times = probes.chain(hours).chain([record.secs]).filter(|at| at.is_finite());
    times.fold(0.0, f64::max)
}

/// How wide bins of `count` samples over `span` seconds are to be: at most 48, of eight samples or more on average as
/// long as four bins remain.
pub(crate) fn bin_width(span: f64, count: usize) -> f64 {
    let bins = (count / 8).clamp(4, 48);
    time_step((span / bins as f64).max(0.001))
}

/// Counts `(at, hits, of)` in bins of `width`; empty bins stay, so that a gap shows as one.
pub(crate) fn shares(samples: impl Iterator<Item = (f64, u64, u64)>, width: f64, span: f64) -> Vec<Bin> {
    let mut counted: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
    let last = index((span / width - 1e-9).max(0.0)).min(1000);
    for (at, hits, of) in samples.filter(|(at, ..)| at.is_finite()) {
        let bin = counted.entry(index(at / width).min(last)).or_default();
        *bin = (bin.0.saturating_add(hits), bin.1.saturating_add(of));
    }
    let bin = |number: usize| {
        let (hits, of) = counted.get(&number).copied().unwrap_or_default();
        let from = number as f64 * width;
        Bin { from, to: (from + width).min(span.max(from)), hits, of }
    };
    (0..=last).map(bin).collect()
}

/// Bytes per node and hour within a part of the run, by protocol.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Traffic {
    /// Begin.
    pub(crate) from: f64,
    /// End.
    pub(crate) to: f64,
    /// By protocol.
    pub(crate) rates: BTreeMap<String, f64>,
}

/// The mean number of nodes that ran in an hour: of its begin, if known, and its end.
pub(crate) fn mean_online(hour: &Hour, previous: Option<&Hour>) -> f64 {
    let before = previous.map_or(hour.online, |previous| previous.online);
    f64::midpoint(before as f64, hour.online as f64)
}

/// The traffic of `hours`; several in one part if there are very many.
pub(crate) fn traffic(hours: &[Hour]) -> Vec<Traffic> {
    let mut out = Vec::new();
    let mut before: Option<&Hour> = None;
    for group in hours.chunks(hours.len().div_ceil(96).max(1)) {
        let from = before.map_or(0.0, |hour| hour.at);
        let to = group.last().map_or(from, |hour| hour.at);
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        let mut node_hours = 0.0;
        for hour in group {
            let length = hour.at - before.map_or(0.0, |before| before.at);
            node_hours += mean_online(hour, before) * length.max(0.0) / 3600.0;
            for (protocol, bytes) in &hour.bytes {
                let sum = sums.entry(protocol.clone()).or_default();
                *sum = sum.saturating_add(*bytes);
            }
            before = Some(hour);
        }
        // The last hour may be of no length: the run ended with the one before.
        if !(to > from && to.is_finite() && node_hours > 0.0) {
            continue;
        }
        let rates = sums.into_iter().map(|(protocol, bytes)| (protocol, bytes as f64 / node_hours)).collect();
        out.push(Traffic { from, to, rates });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hour(at: f64, online: usize, bytes: u64) -> Hour {
        Hour { at, online, bytes: BTreeMap::from([("kad".to_owned(), bytes)]), ..Hour::default() }
    }

    #[test]
    fn bins_are_as_many_as_the_samples_can_fill() {
        assert_eq!(bin_width(86400.0, 10_000), 1800.0);
        assert_eq!(bin_width(86400.0, 100), 7200.0);
        assert_eq!(bin_width(86400.0, 1), 6.0 * 3600.0);
        assert!(bin_width(0.0, 0) > 0.0);
    }

    #[test]
    fn every_sample_is_counted_and_a_gap_stays_empty() {
        let samples = [(0.0, 1, 1), (5.0, 0, 1), (25.0, 1, 1), (30.0, 1, 1), (f64::NAN, 1, 1)];
        let bins = shares(samples.into_iter(), 10.0, 30.0);
        let counted: Vec<_> = bins.iter().map(|bin| (bin.from, bin.to, bin.hits, bin.of)).collect();
        assert_eq!(counted, [(0.0, 10.0, 1, 2), (10.0, 20.0, 0, 0), (20.0, 30.0, 2, 2)]);
        assert_eq!(bins[1].share(), None);
        assert_eq!(bins[0].share(), Some(0.5));
    }

    #[test]
    fn traffic_is_per_node_and_hour_whatever_the_length_of_the_part() {
        let parts = traffic(&[hour(3600.0, 10, 1000), hour(5400.0, 10, 500), hour(5400.0, 10, 7)]);
        let rates: Vec<f64> = parts.iter().map(|part| part.rates["kad"]).collect();
        assert_eq!(rates, [100.0, 100.0]);
    }

    #[test]
    fn traffic_of_a_network_of_no_nodes_is_left_out() {
        assert_eq!(traffic(&[hour(3600.0, 0, 1000)]), []);
        assert_eq!(traffic(&[hour(f64::NAN, 5, 1000)]), []);
    }

    #[test]
    fn many_hours_are_gathered() {
        let hours: Vec<_> = (1..=500).map(|at| hour(f64::from(at) * 3600.0, 10, 100)).collect();
        let parts = traffic(&hours);
        assert!(parts.len() <= 96);
        assert!(parts.iter().all(|part| (part.rates["kad"] - 10.0).abs() < 1e-9));
        assert_eq!(parts.last().map(|part| part.to), Some(500.0 * 3600.0));
    }
}
