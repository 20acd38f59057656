//! What the demo measured.

use serde::Serialize;

use super::paint::Paint;
use crate::{format, output::table};

/// Everything measured; one JSON object under `--json`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// CID of the file.
    pub(super) cid: String,
    /// Its name in the manifest.
    pub(super) name: String,
    /// Its length in bytes.
    pub(super) len: u64,
    /// SHA-256 of the original and of every fetched copy.
    pub(super) sha256: String,
    /// Provider records that a daemon without any content found.
    pub(super) providers: u64,
    /// Which daemon was killed, and how much had arrived by then.
    pub(super) killed: Option<Killed>,
    /// What was done, in order.
    pub(super) steps: Vec<Step>,
}

/// The daemon that was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Killed {
    /// 1 to 5.
    pub(super) daemon: usize,
    /// Share of the bytes that had arrived, in percent.
    pub(super) at_percent: u64,
}

/// One step that moved the file.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Step {
    /// What was done.
    pub(super) what: String,
    /// How long it took.
    pub(super) seconds: f64,
    /// Bytes that were read or fetched.
    pub(super) len: u64,
    /// Peers that answered until the first provider was known.
    pub(super) hops: Option<u32>,
    /// Who served how much of it.
    pub(super) served: Vec<Served>,
}

/// What one daemon served of a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Served {
    /// 1 to 5.
    pub(super) daemon: usize,
    /// Chunks, and the manifest if it came from there.
    pub(super) chunks: u64,
}

impl Report {
    /// The table: a line a step, columns aligned.
    pub(super) fn table(&self, paint: Paint) -> Vec<String> {
        let mut served: Vec<usize> =
            self.steps.iter().flat_map(|step| step.served.iter().map(|by| by.daemon)).collect();
        served.sort_unstable();
        served.dedup();
        let mut rows = vec![row(["", "time", "MiB/s", "hops"], served.iter().map(|by| format!("#{by}")))];
        for step in &self.steps {
            let speed = format::mean_mib(step.len, step.seconds);
            let hops = step.hops.map_or_else(|| "-".to_owned(), |hops| hops.to_string());
            let time = format!("{:.2} s", step.seconds);
            let chunks = served.iter().map(|number| {
                let by = step.served.iter().find(|by| by.daemon == *number);
                by.map_or_else(|| "-".to_owned(), |by| format::thousands(by.chunks))
            });
            rows.push(row([&step.what, &time, &speed, &hops], chunks));
        }
        let right: Vec<usize> = (1..4 + served.len()).collect();
        let mut lines: Vec<String> =
            table(&rows, &right).into_iter().map(|line| format!("  {line}")).collect();
        if let Some(head) = lines.first_mut() {
            let served = if served.is_empty() { "" } else { "   chunks and manifest from each" };
            *head = paint.dim(&format!("{head}{served}"));
        }
        lines
    }
}

fn row(first: [&str; 4], rest: impl Iterator<Item = String>) -> Vec<String> {
    first.iter().map(|&cell| cell.to_owned()).chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_column_for_every_daemon_that_served() {
        let step = |what: &str, hops, served: &[(usize, u64)]| Step {
            what: what.to_owned(),
            seconds: 0.5,
            len: 64 << 20,
            hops,
            served: served.iter().map(|&(daemon, chunks)| Served { daemon, chunks }).collect(),
        };
        let steps = vec![
            step("#1 adds", None, &[]),
            step("#2 fetches", Some(1), &[(1, 40), (3, 24)]),
            step("#4 fetches, #2 dies", Some(12), &[(1, 20), (2, 1_022), (3, 22)]),
        ];
        let report = Report { steps, ..Report::default() };
        let expected = [
            "                         time  MiB/s  hops  #1     #2  #3   chunks and manifest from each",
            "  #1 adds              0.50 s    128     -   -      -   -",
            "  #2 fetches           0.50 s    128     1  40      -  24",
            "  #4 fetches, #2 dies  0.50 s    128    12  20  1,022  22",
        ];
        assert_eq!(report.table(Paint::new(false)), expected);
    }
}
