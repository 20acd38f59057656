//! The plots of a run, each only if the record has what it shows.

mod growth;
mod load;
mod spread;
mod time;

use std::fmt;

use super::chart::{Chart, Form};
use crate::record::RunRecord;
pub(crate) use growth::{fit, fit_words};

/// Names of all plots that there can be; each is that of its file, without `.svg`.
pub(crate) const NAMES: [&str; 9] =
    ["lookups", "times", "growth", "traffic", "stale", "holders", "hops", "load-sent", "load-records"];

/// One plot: what it says, and how it is drawn.
pub(crate) struct Plot<'a> {
    /// One of [`NAMES`].
    pub(crate) name: &'static str,
    /// What it shows.
    pub(crate) title: &'static str,
    /// What a reader should see, in a sentence with the figures.
    pub(crate) caption: String,
    draw: Box<dyn Fn(&mut Chart) + 'a>,
}

impl Plot<'_> {
    /// The drawing.
    pub(crate) fn svg(&self, form: Form) -> String {
        let mut chart = Chart::new(form, self.name, self.title, &self.caption);
        (self.draw)(&mut chart);
        chart.finish()
    }
}

impl fmt::Debug for Plot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plot").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The plots that `record` has data for.
pub(crate) fn plots(record: &RunRecord) -> Vec<Plot<'_>> {
    let all = [
        time::lookups(record),
        spread::times(record),
        growth::growth(record),
        time::traffic(record),
        time::stale(record),
        spread::holders(record),
        spread::hops(record),
        load::sent(record),
        load::records(record),
    ];
    all.into_iter().flatten().collect()
}
