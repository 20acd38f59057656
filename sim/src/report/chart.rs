//! The frame of a plot: title, legend, labels of faults, panels with their axes, all laid out from top to bottom.

use std::fmt::Write as _;

use super::scale::Scale;
use super::svg::{Anchor, STYLE, Shapes, coordinate, escape, text_width};
use super::units;
use crate::record::FaultSpan;

/// Where a drawing goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Form {
    /// Width in units of which text is 12 high.
    pub(crate) width: f64,
    /// Whether title, caption and style are in it.
    pub(crate) alone: bool,
}

impl Form {
    /// A file of its own.
    pub(crate) const FILE: Self = Self { width: 720.0, alone: true };
    /// In the page on a wide screen.
    pub(crate) const WIDE: Self = Self { width: 660.0, alone: false };
    /// In the page on a phone: scaled down, the wide one would be too small to read.
    pub(crate) const NARROW: Self = Self { width: 350.0, alone: false };

    /// Whether there is little room.
    pub(crate) fn is_narrow(self) -> bool {
        self.width < 500.0
    }

    /// About how many labels fit along the x axis.
    pub(crate) fn x_steps(self) -> u32 {
        if self.is_narrow() { 4 } else { 6 }
    }
}

/// How an entry of the legend looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    /// A line.
    Line,
    /// A box.
    Box,
    /// A dot.
    Dot,
    /// A faint box.
    Band,
}

/// The part of a plot that data is drawn into.
#[derive(Debug, Clone)]
pub(crate) struct Panel {
    /// The x axis.
    pub(crate) x: Scale,
    /// The y axis.
    pub(crate) y: Scale,
    left: f64,
    right: f64,
    /// Upper edge.
    pub(crate) top: f64,
    /// Lower edge.
    pub(crate) bottom: f64,
}

impl Panel {
    /// The horizontal place of a value.
    pub(crate) fn px(&self, value: f64) -> f64 {
        self.left + self.x.place(value) * (self.right - self.left)
    }

    /// The vertical place of a value.
    pub(crate) fn py(&self, value: f64) -> f64 {
        self.bottom - self.y.place(value) * (self.bottom - self.top)
    }

    /// The place of a point.
    pub(crate) fn at(&self, point: (f64, f64)) -> (f64, f64) {
        (self.px(point.0), self.py(point.1))
    }
}

const LINE: f64 = 16.0;
const RIGHT: f64 = 16.0;
/// Rows for labels of faults; what does not fit shows when pointed at, and stands in the page's table.
const LANES: usize = 4;

/// A plot in the making.
#[derive(Debug)]
pub(crate) struct Chart {
    /// Where it goes.
    pub(crate) form: Form,
    /// The shapes so far.
    pub(crate) shapes: Shapes,
    name: String,
    label: String,
    left: f64,
    y: f64,
}

impl Chart {
    /// A plot; `name` is that of its file.
    pub(crate) fn new(form: Form, name: &str, title: &str, caption: &str) -> Self {
        let label = format!("{title}. {caption}");
        let mut chart =
            Self { form, shapes: Shapes::default(), name: name.to_owned(), label, left: 8.0, y: 4.0 };
        if form.alone {
            chart.y = 28.0;
            chart.shapes.text("title", Anchor::Start, (12.0, chart.y), title);
            for line in wrap(&units::bound(caption), form.width - 24.0) {
                chart.y += LINE;
                chart.shapes.text("muted", Anchor::Start, (12.0, chart.y), &line);
            }
            chart.y += 12.0;
        }
        chart
    }

    /// Leaves room for the labels of these y axes; all panels share one left edge.
    pub(crate) fn room_for(&mut self, axes: &[&Scale]) {
        let labels = axes.iter().flat_map(|axis| &axis.ticks);
        let widest = labels.map(|tick| text_width(&tick.label)).fold(24.0, f64::max);
        self.left = (widest + 14.0).min(self.form.width / 3.0);
    }

    /// What the marks mean, in as many rows as it takes: `(look, number of the series, words)`.
    pub(crate) fn legend(&mut self, entries: &[(Key, usize, String)]) {
        let most = self.form.width - 40.0;
        let mut x = 12.0;
        self.y += LINE;
        for (key, series, words) in entries {
            let words = clip_to(words, most);
            let width = 30.0 + text_width(&words) + 12.0;
            if x > 12.0 && x + width > self.form.width {
                x = 12.0;
                self.y += LINE + 2.0;
            }
            let (middle, class) = (self.y - 4.0, format!("f{series}"));
            match key {
                Key::Line => {
                    self.shapes.line(&format!("line l{series} d{series}"), (x, middle), (x + 24.0, middle));
                }
                Key::Box => self.shapes.rect(&class, (x + 8.0, middle - 5.5), (x + 20.0, middle + 5.5), ""),
                Key::Dot => self.shapes.dot(&class, (x + 14.0, middle), 3.5, ""),
                Key::Band => {
                    let (from, to) = ((x + 4.0, middle - 5.5), (x + 22.0, middle + 5.5));
                    self.shapes.rect(&format!("band {class}"), from, to, "");
                }
            }
            self.shapes.text("", Anchor::Start, (x + 30.0, self.y), &words);
            x += width;
        }
        self.y += 6.0;
    }

    /// Names `faults` above the panels that follow, each at its place and none over another.
    pub(crate) fn fault_labels(&mut self, x: &Scale, faults: &[FaultSpan]) {
        let panel = self.place_panel(0.0, x, x);
        let mut lanes: Vec<f64> = Vec::new();
        let mut placed = Vec::new();
        let mut named = std::collections::BTreeSet::new();
        for fault in drawable(faults) {
            let words = clip_to(&fault.name, (panel.right - panel.left).min(260.0));
            let (width, wish) = (text_width(&words), panel.px(fault.from));
            let from = wish.min(self.form.width - 4.0 - width).max(4.0);
            let free = lanes.iter().position(|end| *end + 10.0 <= from);
            // The same words over and over say nothing new: a second one only where there is room at once.
            let repeated = !named.insert(fault.name.as_str());
            let lane = match free {
                Some(lane) if lane == 0 || !repeated => lane,
                None if lanes.len() < LANES && !repeated => {
                    lanes.push(0.0);
                    lanes.len() - 1
                }
                _ => continue,
            };
            lanes[lane] = from + width;
            placed.push((lane, from, words));
        }
        if lanes.is_empty() {
            return;
        }
        let bottom = self.y + LINE * lanes.len() as f64;
        for (lane, from, words) in placed {
            self.shapes.text("muted", Anchor::Start, (from, bottom - LINE * lane as f64), &words);
        }
        self.y = bottom;
    }

    /// Shades `faults` in `panel`.
    pub(crate) fn shade(&mut self, panel: &Panel, faults: &[FaultSpan]) {
        for fault in drawable(faults) {
            let (from, to) = (panel.px(fault.from), panel.px(fault.to));
            if to - from < 2.0 {
                self.shapes.line("instant", (from, panel.top), (from, panel.bottom));
            } else {
                let hint = format!(
                    "{}: {} to {}",
                    units::clip(&fault.name, 80),
                    units::moment(fault.from),
                    units::moment(fault.to)
                );
                self.shapes.rect("fault", (from, panel.top), (to, panel.bottom), &hint);
            }
        }
    }

    /// What the panel that follows shows, above its y axis: upright words need no turned head.
    pub(crate) fn heading(&mut self, words: &str) {
        self.y += LINE;
        self.shapes.text("muted", Anchor::Start, (8.0, self.y), words);
    }

    fn place_panel(&self, height: f64, x: &Scale, y: &Scale) -> Panel {
        // Half a line for the label of the highest tick, which stands across the upper edge.
        let top = self.y + 12.0;
        let right = self.form.width - RIGHT;
        Panel { x: x.clone(), y: y.clone(), left: self.left, right, top, bottom: top + height }
    }

    /// A panel with its grid and labels; those of the x axis only if it is the lowest of its column.
    pub(crate) fn panel(&mut self, height: f64, x: &Scale, y: &Scale, lowest: bool) -> Panel {
        if !y.title.is_empty() {
            self.heading(&y.title);
        }
        let panel = self.place_panel(height, x, y);
        for tick in &y.ticks {
            let at = panel.py(tick.at);
            self.shapes.line("grid", (panel.left, at), (panel.right, at));
            self.shapes.text("", Anchor::End, (panel.left - 6.0, at + 4.0), &tick.label);
        }
        for tick in &x.ticks {
            let at = panel.px(tick.at);
            self.shapes.line("grid", (at, panel.top), (at, panel.bottom));
        }
        self.y = panel.bottom;
        if lowest {
            self.x_labels(
                &panel,
                &x.ticks.iter().map(|tick| (tick.at, tick.label.clone())).collect::<Vec<_>>(),
            );
        }
        panel
    }

    /// Labels below `panel`: all of them, or each second, third, .. one if they would touch.
    pub(crate) fn x_labels(&mut self, panel: &Panel, labels: &[(f64, String)]) {
        let place = |(at, label): &(f64, String)| {
            let half = text_width(label) / 2.0;
            let middle = panel.px(*at).clamp(half.min(panel.left), (self.form.width - half).max(panel.left));
            (middle - half, middle, middle + half)
        };
        let places: Vec<_> = labels.iter().map(place).collect();
        let fits = |step: usize| {
            let shown: Vec<_> = places.iter().step_by(step).collect();
            shown.windows(2).all(|pair| pair[0].2 + 5.0 <= pair[1].0)
        };
        let step = (1..labels.len()).find(|step| fits(*step)).unwrap_or(labels.len()).max(1);
        for ((_, label), (_, middle, _)) in labels.iter().zip(&places).step_by(step) {
            self.shapes.text("", Anchor::Middle, (*middle, panel.bottom + 16.0), label);
        }
        self.y = panel.bottom + 16.0;
        if !panel.x.title.is_empty() {
            self.y += LINE + 2.0;
            let middle = f64::midpoint(panel.left, panel.right);
            self.shapes.text("muted", Anchor::Middle, (middle, self.y), &panel.x.title);
        }
    }

    /// The base line of `panel`, over the marks.
    pub(crate) fn base(&mut self, panel: &Panel) {
        self.shapes.line("axis", (panel.left, panel.bottom), (panel.right, panel.bottom));
    }

    /// Moves on by `height`.
    pub(crate) fn space(&mut self, height: f64) {
        self.y += height;
    }

    /// The drawing.
    pub(crate) fn finish(self) -> String {
        let (width, height) = (coordinate(self.form.width), coordinate((self.y + 10.0).ceil()));
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            r#"<svg xmlns="http://www.w3.org/2000/svg" class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{}""#,
            escape(&self.label)
        );
        if self.form.alone {
            let _ = write!(out, r#" id="{}" width="{width}" height="{height}""#, escape(&self.name));
            let _ = write!(out, ">\n<style>\n{STYLE}</style>\n");
            let _ = write!(out, r#"<rect class="bg" x="0" y="0" width="{width}" height="{height}"/>"#);
        } else {
            out.push('>');
        }
        let _ = write!(out, "\n{}</svg>\n", self.shapes.markup());
        out
    }
}

/// The faults that have a time, the first one first.
fn drawable(faults: &[FaultSpan]) -> Vec<&FaultSpan> {
    let mut out: Vec<_> =
        faults.iter().filter(|fault| fault.from.is_finite() && fault.to.is_finite()).collect();
    out.sort_by(|a, b| a.from.total_cmp(&b.from).then_with(|| a.name.cmp(&b.name)));
    out
}

/// `text` as far as it fits into `width`.
fn clip_to(text: &str, width: f64) -> String {
    let mut most = text.chars().count().min(200);
    while most > 1 && text_width(&units::clip(text, most)) > width {
        most -= 1;
    }
    units::clip(text, most)
}

/// `text` in lines of at most about `width`.
fn wrap(text: &str, width: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split([' ', '\n']).filter(|word| !word.is_empty()) {
        match lines.last_mut() {
            Some(line) if text_width(line) + text_width(word) + 5.0 <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(clip_to(word, width)),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(name: &str, from: f64, to: f64) -> FaultSpan {
        FaultSpan { name: name.to_owned(), from, to }
    }

    #[test]
    fn lines_of_a_caption_are_no_wider_than_the_plot() {
        let lines = wrap(&"some words of a caption that goes on ".repeat(6), 300.0);
        assert!(lines.len() > 3);
        assert!(lines.iter().all(|line| text_width(line) <= 300.0));
    }

    #[test]
    fn labels_of_faults_do_not_lie_over_one_another() {
        let mut chart = Chart::new(Form::NARROW, "x", "X", "");
        let faults: Vec<_> = (0..40)
            .map(|hour| fault(&format!("fault number {}", hour % 9), f64::from(hour) * 3600.0, 1e6))
            .collect();
        chart.fault_labels(&Scale::run(40.0 * 3600.0, 4), &faults);
        let mut spans: Vec<(f64, f64, f64)> = Vec::new();
        for line in chart.shapes.markup().lines().filter(|line| line.starts_with("<text")) {
            let number = |name: &str| -> f64 {
                line.split(&format!(" {name}=\""))
                    .nth(1)
                    .and_then(|rest| rest.split('"').next())
                    .unwrap()
                    .parse()
                    .unwrap()
            };
            let words = line.split('>').nth(1).unwrap().trim_end_matches("</text");
            spans.push((number("y"), number("x"), number("x") + text_width(words)));
        }
        assert!(spans.len() >= 4, "{spans:?}");
        for (position, (y, from, to)) in spans.iter().enumerate() {
            assert!(*from >= 0.0 && *to <= Form::NARROW.width);
            for (other_y, other_from, other_to) in &spans[position + 1..] {
                assert!(y != other_y || to <= other_from || other_to <= from, "{spans:?}");
            }
        }
    }

    #[test]
    fn a_fault_without_a_time_is_left_out() {
        assert!(drawable(&[fault("x", f64::NAN, 3.0), fault("y", 1.0, f64::INFINITY)]).is_empty());
    }
}
