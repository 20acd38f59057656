//! Axes: from values to places between 0 and 1, and the few values that are worth a label.

use super::units;

/// A labelled place on an axis.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tick {
    /// The value.
    pub(crate) at: f64,
    /// How it is written.
    pub(crate) label: String,
}

/// An axis.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scale {
    /// Value at place 0.
    pub(crate) lo: f64,
    /// Value at place 1.
    pub(crate) hi: f64,
    /// Whether equal ratios, not differences, are equally far apart.
    pub(crate) log: bool,
    /// What is worth a label, from low to high.
    pub(crate) ticks: Vec<Tick>,
    /// What the axis shows, and in which unit if the labels do not say.
    pub(crate) title: String,
}

const MINUTE: f64 = 60.0;
const HOUR: f64 = 3600.0;
const DAY: f64 = 86400.0;

/// Up to ten seconds people count in steps and label axes alike.
const SECONDS: [f64; 13] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Steps above these that clocks and people count in, in seconds.
const TIME_STEPS: [f64; 16] = [
    15.0,
    30.0,
    MINUTE,
    2.0 * MINUTE,
    5.0 * MINUTE,
    10.0 * MINUTE,
    15.0 * MINUTE,
    30.0 * MINUTE,
    HOUR,
    2.0 * HOUR,
    3.0 * HOUR,
    6.0 * HOUR,
    12.0 * HOUR,
    DAY,
    2.0 * DAY,
    7.0 * DAY,
];

/// Labels above [`SECONDS`] of a logarithmic time axis that covers little.
const TIME_FINE: [f64; 16] = [
    20.0,
    60.0,
    120.0,
    300.0,
    600.0,
    1200.0,
    3600.0,
    7200.0,
    18000.0,
    36000.0,
    86400.0,
    172_800.0,
    432_000.0,
    864_000.0,
    4_320_000.0,
    8_640_000.0,
];

/// Labels of one that covers more.
const TIME_MEDIUM: [f64; 20] = [
    0.001,
    0.003,
    0.01,
    0.03,
    0.1,
    0.3,
    1.0,
    3.0,
    10.0,
    30.0,
    60.0,
    180.0,
    600.0,
    1800.0,
    3600.0,
    10800.0,
    36000.0,
    86400.0,
    864_000.0,
    8_640_000.0,
];

/// Labels of one that covers much.
const TIME_COARSE: [f64; 12] =
    [0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 36000.0, 86400.0, 864_000.0, 8_640_000.0];

/// The smallest step of the clock that is at least `raw` seconds.
pub(crate) fn time_step(raw: f64) -> f64 {
    let longest = 7.0 * DAY;
    SECONDS
        .into_iter()
        .chain(TIME_STEPS)
        .find(|step| *step >= raw * (1.0 - 1e-9))
        .unwrap_or((raw / longest).ceil() * longest)
}

/// The smallest of 1, 2, 5 times a power of ten that is at least `raw`.
pub(crate) fn decimal_step(raw: f64) -> f64 {
    let power = 10f64.powf(raw.log10().floor());
    [1.0, 2.0, 5.0]
        .into_iter()
        .map(|by| by * power)
        .find(|step| *step >= raw * (1.0 - 1e-9))
        .unwrap_or(10.0 * power)
}

/// 0 and the multiples of `step` until one reaches `max`.
fn multiples(step: f64, max: f64) -> Vec<f64> {
    let mut out = vec![0.0];
    for times in 1..=64_u32 {
        let at = step * f64::from(times);
        out.push(at);
        if at >= max * (1.0 - 1e-9) {
            break;
        }
    }
    out
}

/// `max` if it is a length to draw, else 1: an axis needs one even if all is zero.
fn positive(max: f64) -> f64 {
    if max.is_finite() && max > 0.0 { max } else { 1.0 }
}

impl Scale {
    /// From 0 to the first multiple of `step` not below `max`, a label at each.
    fn from_zero(step: f64, max: f64, title: &str, label: impl Fn(f64) -> String) -> Self {
        let at = multiples(step, max);
        let hi = at.last().copied().unwrap_or(step);
        let ticks = at.into_iter().map(|at| Tick { at, label: label(at) }).collect();
        Self { lo: 0.0, hi, log: false, ticks, title: title.to_owned() }
    }

    /// Numbers of things from 0 to `max` or a little more.
    pub(crate) fn count(max: f64, steps: u32, title: &str) -> Self {
        let max = positive(max);
        Self::from_zero(decimal_step(max / f64::from(steps)).max(1.0), max, title, units::number)
    }

    /// Any numbers from 0 to `max` or a little more.
    pub(crate) fn amount(max: f64, steps: u32, title: &str) -> Self {
        let max = positive(max);
        Self::from_zero(decimal_step(max / f64::from(steps)), max, title, units::number)
    }

    /// Shares from 0 to `max` or a little more, at most all.
    pub(crate) fn share(max: f64, steps: u32, title: &str) -> Self {
        let max = positive(max).min(1.0);
        let step = decimal_step(max / f64::from(steps)).max(0.001);
        let step = if step > 0.2 { 0.25 } else { step };
        Self::from_zero(step, max, title, units::percent)
    }

    /// Bytes from 0 to `max` or a little more; steps are powers of two.
    pub(crate) fn bytes(max: f64, steps: u32, title: &str) -> Self {
        let max = positive(max);
        let step = 2f64.powf((max / f64::from(steps)).log2().ceil()).max(1.0);
        Self::from_zero(step, max, title, units::bytes)
    }

    /// Time of the run from 0 to exactly `span`: beyond its end there is nothing to see.
    pub(crate) fn run(span: f64, steps: u32) -> Self {
        let span = positive(span);
        let (unit, name) = match span {
            _ if span <= 2.0 * MINUTE => (1.0, "s"),
            _ if span <= 2.0 * HOUR => (MINUTE, "min"),
            _ if span <= 4.0 * DAY => (HOUR, "h"),
            _ => (DAY, "d"),
        };
        let step = time_step((span / f64::from(steps)).max(if unit == DAY { DAY } else { 0.0 }));
        let mut scale =
            Self::from_zero(step, span, &format!("virtual time ({name})"), |at| units::number(at / unit));
        scale.ticks.retain(|tick| tick.at <= span * (1.0 + 1e-9));
        scale.hi = span;
        scale
    }

    /// Spans of time, `sorted`: from 0, or by ratio if they differ by more than a factor of 20.
    pub(crate) fn spans(min: f64, max: f64, title: &str) -> Self {
        let max = positive(max).max(0.001);
        // Less than a millisecond is not a time that a network shows.
        let min = min.clamp(0.001, max);
        if max / min < 20.0 {
            return Self::from_zero(time_step(max / 6.0), max, title, units::secs);
        }
        // Both ends of the axis have a label, or the reader cannot tell where it ends.
        let around = |list: &[f64]| -> Vec<f64> {
            let from = list.iter().rposition(|at| *at <= min * (1.0 + 1e-9)).unwrap_or(0);
            let to = list.iter().position(|at| *at >= max * (1.0 - 1e-9)).unwrap_or(list.len() - 1);
            list[from..=to].to_vec()
        };
        let (fine, medium) = (around(&[&SECONDS[..], &TIME_FINE[..]].concat()), around(&TIME_MEDIUM));
        let at = match (fine.len(), medium.len()) {
            (..=7, _) => fine,
            (_, ..=8) => medium,
            _ => around(&TIME_COARSE),
        };
        let (lo, hi) = (at[0], at[at.len() - 1].max(max));
        let at = if at.len() > 8 { super::stats::thin(&at, 7) } else { at };
        let ticks = at.into_iter().map(|at| Tick { at, label: units::secs(at) }).collect();
        Self { lo, hi, log: true, ticks, title: title.to_owned() }
    }

    /// By ratio, with labels at the values themselves (at most 7 of them) and a little room on both sides.
    pub(crate) fn sizes(values: &[f64], title: &str) -> Self {
        let mut at = super::stats::sorted(values.iter().copied().filter(|value| *value > 0.0));
        at.dedup();
        let (lo, hi) = match at[..] {
            [] => (1.0, 10.0),
            [first, .., last] => (first / (last / first).powf(0.06), last * (last / first).powf(0.06)),
            [only] => (only / 2.0, only * 2.0),
        };
        let ticks =
            super::stats::thin(&at, 7).into_iter().map(|at| Tick { at, label: units::number(at) }).collect();
        Self { lo, hi, log: true, ticks, title: title.to_owned() }
    }

    /// By ratio from `min` to `max`, a label at powers of two (if `binary`) or ten; at most 7.
    pub(crate) fn ratio(min: f64, max: f64, binary: bool, title: &str) -> Self {
        let base = if binary { 2f64 } else { 10f64 };
        let min = positive(min);
        let max = positive(max).max(min);
        let from = min.log(base).floor();
        let to = max.log(base).ceil().max(from + 1.0);
        let steps: &[f64] = if binary { &[1.0, 2.0, 5.0, 10.0, 20.0] } else { &[1.0, 2.0, 3.0, 6.0] };
        let step = steps.iter().copied().find(|step| (to - from) / step <= 6.0).unwrap_or(to - from);
        let label = |at: f64| if binary { units::bytes(at) } else { units::number(at) };
        let mut ticks = Vec::new();
        let mut exponent = (from / step).floor() * step;
        while exponent <= to + 1e-9 && ticks.len() < 8 {
            if exponent >= from - 1e-9 {
                let at = base.powf(exponent);
                ticks.push(Tick { at, label: label(at) });
            }
            exponent += step;
        }
        Self { lo: base.powf(from), hi: base.powf(to), log: true, ticks, title: title.to_owned() }
    }

    /// Where `value` is, from 0 to 1; what lies outside is at the nearer end.
    pub(crate) fn place(&self, value: f64) -> f64 {
        let (lo, hi, value) = if self.log {
            (self.lo.ln(), self.hi.ln(), value.max(self.lo).ln())
        } else {
            (self.lo, self.hi, value)
        };
        let place = (value - lo) / (hi - lo);
        if place.is_finite() { place.clamp(0.0, 1.0) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: &Scale) -> Vec<&str> {
        scale.ticks.iter().map(|tick| tick.label.as_str()).collect()
    }

    #[test]
    fn ticks_are_round_and_cover_the_data() {
        assert_eq!(labels(&Scale::count(437.0, 5, "")), ["0", "100", "200", "300", "400", "500"]);
        assert_eq!(labels(&Scale::count(2.0, 5, "")), ["0", "1", "2"]);
        assert_eq!(labels(&Scale::share(1.0, 4, "")), ["0 %", "25 %", "50 %", "75 %", "100 %"]);
        assert_eq!(labels(&Scale::share(0.071, 4, "")), ["0 %", "2 %", "4 %", "6 %", "8 %"]);
        assert_eq!(
            labels(&Scale::bytes(900_000.0, 4, "")),
            ["0 B", "256 KiB", "512 KiB", "768 KiB", "1 MiB"]
        );
        assert_eq!(labels(&Scale::run(86400.0, 6)), ["0", "6", "12", "18", "24"]);
        assert_eq!(labels(&Scale::run(604_800.0, 7)), ["0", "1", "2", "3", "4", "5", "6", "7"]);
        assert_eq!(labels(&Scale::run(100.0, 6)), ["0", "30", "60", "90"]);
    }

    #[test]
    fn a_time_axis_turns_logarithmic_when_spans_are_large() {
        let near = Scale::spans(0.2, 1.1, "");
        assert_eq!(
            (near.log, labels(&near)),
            (false, vec!["0 s", "200 ms", "400 ms", "600 ms", "800 ms", "1 s", "1.2 s"])
        );
        let far = Scale::spans(0.04, 55.0, "");
        assert_eq!((far.log, far.lo, far.hi), (true, 0.03, 60.0));
        assert_eq!(labels(&far), ["30 ms", "100 ms", "300 ms", "1 s", "3 s", "10 s", "30 s", "1 min"]);
        let farther = Scale::spans(0.012, 3000.0, "");
        assert_eq!(labels(&farther), ["10 ms", "100 ms", "1 s", "10 s", "1 min", "10 min", "1 h"]);
    }

    #[test]
    fn sizes_are_labelled_where_the_points_are() {
        let scale = Scale::sizes(&[50.0, 100.0, 50.0, 200.0], "");
        assert_eq!(labels(&scale), ["50", "100", "200"]);
        assert!(scale.place(50.0) > 0.0 && scale.place(200.0) < 1.0);
        let halfway = (scale.place(50.0) + scale.place(200.0)) / 2.0;
        assert!((scale.place(100.0) - halfway).abs() < 1e-9, "equal ratios are equally far apart");
    }

    #[test]
    fn no_axis_has_many_labels_or_a_place_that_is_not_finite() {
        let ends = [0.0, 1e-9, 0.004, 1.0, 7.3, 99.0, 3601.0, 1e6, 1e12, f64::NAN, f64::INFINITY];
        for max in ends {
            let scales = [
                Scale::count(max, 5, ""),
                Scale::amount(max, 5, ""),
                Scale::share(max, 4, ""),
                Scale::bytes(max, 5, ""),
                Scale::run(max, 6),
                Scale::spans(0.0, max, ""),
                Scale::spans(max, max, ""),
                Scale::sizes(&[max, 3.0], ""),
                Scale::ratio(1.0, max, true, ""),
                Scale::ratio(max, max, false, ""),
            ];
            for scale in scales {
                assert!((1..=8).contains(&scale.ticks.len()), "{max}: {scale:?}");
                for value in [-1.0, 0.0, 0.5, max, 1e15, f64::NAN] {
                    assert!((0.0..=1.0).contains(&scale.place(value)), "{value} on {scale:?}");
                }
            }
        }
    }
}
