//! SVG and HTML, written as text: escaping, coordinates, the few shapes that a plot is made of.
//!
//! Shapes carry classes, not colours: `plot.css` decides, so that one drawing serves light and dark.

use std::fmt::Write as _;

/// Colours and text sizes of every plot, for a file of its own and for the page.
pub(crate) const STYLE: &str = include_str!("plot.css");

/// Which side of a place a text lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anchor {
    /// It begins there.
    Start,
    /// Its middle is there.
    Middle,
    /// It ends there.
    End,
}

/// `text` so that markup takes it as text, in an element as in a quoted attribute.
///
/// Characters that XML 1.0 does not allow at all become the replacement character.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A coordinate: tenths are finer than anyone sees, and shorter. Never NaN: a drawing with one is no drawing.
pub(crate) fn coordinate(value: f64) -> String {
    let tenths = if value.is_finite() { (value * 10.0).round() / 10.0 } else { 0.0 };
    // Plus 0 turns -0 into 0.
    let text = format!("{:.1}", tenths + 0.0);
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

/// About how wide `text` is at 12 px, rather too wide: fonts differ, and nothing here can ask one.
pub(crate) fn text_width(text: &str) -> f64 {
    let em = |c: char| match c {
        'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' => 0.34,
        ' ' | 'f' | 't' | 'r' | '(' | ')' | '-' | '/' => 0.42,
        'm' | 'w' | 'M' | 'W' | '%' | '@' => 0.98,
        c if c.is_ascii_uppercase() => 0.72,
        c if c.is_ascii() => 0.63,
        // Wide scripts take a whole em.
        c if c > '\u{2e80}' => 1.05,
        _ => 0.75,
    };
    text.chars().map(em).sum::<f64>() * 12.0
}

/// Shapes in the order they are painted.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    out: String,
}

impl Shapes {
    /// All shapes as markup.
    pub(crate) fn markup(&self) -> &str {
        &self.out
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.out.write_fmt(text);
        self.out.push('\n');
    }

    /// A straight line.
    pub(crate) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let [x1, y1, x2, y2] = [from.0, from.1, to.0, to.1].map(coordinate);
        self.push(format_args!(r#"<line class="{class}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>"#));
    }

    /// A rectangle from `from` to `to`, whichever corners; `hint` shows when pointed at.
    pub(crate) fn rect(&mut self, class: &str, from: (f64, f64), to: (f64, f64), hint: &str) {
        let (x, y) = (from.0.min(to.0), from.1.min(to.1));
        let [x, y, width, height] = [x, y, (from.0 - to.0).abs(), (from.1 - to.1).abs()].map(coordinate);
        let shape = format!(r#"<rect class="{class}" x="{x}" y="{y}" width="{width}" height="{height}""#);
        self.hinted(&shape, "rect", hint);
    }

    /// A dot.
    pub(crate) fn dot(&mut self, class: &str, at: (f64, f64), radius: f64, hint: &str) {
        let [x, y, r] = [at.0, at.1, radius].map(coordinate);
        self.hinted(&format!(r#"<circle class="{class}" cx="{x}" cy="{y}" r="{r}""#), "circle", hint);
    }

    fn hinted(&mut self, shape: &str, name: &str, hint: &str) {
        if hint.is_empty() {
            self.push(format_args!("{shape}/>"));
        } else {
            self.push(format_args!("{shape}><title>{}</title></{name}>", escape(hint)));
        }
    }

    /// A line through `points`; nothing if there are fewer than two.
    pub(crate) fn path(&mut self, class: &str, points: &[(f64, f64)]) {
        self.outline(class, points, "");
    }

    /// The area within `points`.
    pub(crate) fn area(&mut self, class: &str, points: &[(f64, f64)]) {
        self.outline(class, points, "Z");
    }

    fn outline(&mut self, class: &str, points: &[(f64, f64)], end: &str) {
        if points.len() < 2 {
            return;
        }
        let mut d = String::new();
        for (position, (x, y)) in points.iter().enumerate() {
            let command = if position == 0 { "M" } else { "L" };
            let _ = write!(d, "{command}{} {}", coordinate(*x), coordinate(*y));
        }
        self.push(format_args!(r#"<path class="{class}" d="{d}{end}"/>"#));
    }

    /// A line of text.
    pub(crate) fn text(&mut self, class: &str, anchor: Anchor, at: (f64, f64), text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let ([x, y], text) = ([at.0, at.1].map(coordinate), escape(text));
        self.push(format_args!(
            r#"<text class="{class}" x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>"#
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_comes_out_as_text() {
        assert_eq!(
            escape("<script>alert('x')</script> & \"q\""),
            "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;q&quot;"
        );
        assert_eq!(escape("a\0b\u{1b}c\u{ffff}d\ne"), "a\u{fffd}b\u{fffd}c\u{fffd}d\ne");
    }

    #[test]
    fn coordinates_are_short_and_always_numbers() {
        assert_eq!([1.0, 1.26, -0.01, f64::NAN, f64::INFINITY].map(coordinate), ["1", "1.3", "0", "0", "0"]);
    }

    #[test]
    fn a_line_of_one_point_is_not_drawn() {
        let mut shapes = Shapes::default();
        shapes.path("line", &[(1.0, 2.0)]);
        assert_eq!(shapes.markup(), "");
        shapes.path("line", &[(1.0, 2.0), (3.0, f64::NAN)]);
        assert_eq!(shapes.markup(), "<path class=\"line\" d=\"M1 2L3 0\"/>\n");
    }
}
