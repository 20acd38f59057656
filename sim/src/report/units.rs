//! Numbers as people read them: three digits that matter and a unit.

/// Three significant digits without trailing zeros, thousands set off: `1,230`, `12.3`, `0.0123`.
pub(crate) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let size = value.abs();
    // Below any figure that means something here; `0.000000` would say the same less plainly.
    if size < 1e-6 {
        return "0".to_owned();
    }
    let decimals = [(100.0, 0), (10.0, 1), (1.0, 2), (0.1, 3), (0.01, 4), (0.001, 5)]
        .iter()
        .find(|(from, _)| size >= *from)
        .map_or(6, |(_, decimals)| *decimals);
    let text = format!("{value:.decimals$}");
    let text = if decimals > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut out = thousands(whole);
    if !fraction.is_empty() {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// A whole number, thousands set off.
pub(crate) fn count(value: u64) -> String {
    thousands(&value.to_string())
}

fn thousands(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |rest| ("-", rest));
    let mut out = sign.to_owned();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A span of time: `0 s`, `12.3 ms`, `4.2 s`, `1.5 min`, `24 h`, `7 d`.
pub(crate) fn secs(value: f64) -> String {
    let size = value.abs();
    let (by, unit) = match size {
        _ if size < 1e-6 || !size.is_finite() => (1.0, "s"),
        _ if size < 0.9995 => (1e-3, "ms"),
        _ if size < 60.0 => (1.0, "s"),
        _ if size < 3600.0 => (60.0, "min"),
        _ if size <= 48.0 * 3600.0 => (3600.0, "h"),
        _ => (86400.0, "d"),
    };
    format!("{} {unit}", number(value / by))
}

/// An amount of bytes: `0 B`, `512 B`, `1.5 KiB`.
pub(crate) fn bytes(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let (mut value, mut unit) = (value, "B");
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        // 1023.7 KiB would print as `1,024 KiB`.
        if value.abs() < 1023.5 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    // No part of a byte was ever sent.
    if unit == "B" { format!("{value:.0} B") } else { format!("{} {unit}", number(value)) }
}

/// A share in percent, with the digits that tell 99.9 % from 100 %.
pub(crate) fn percent(share: f64) -> String {
    if !share.is_finite() {
        return "–".to_owned();
    }
    let tenths = (share * 1000.0).round() / 10.0;
    // Never round a failure away.
    let shown = if tenths >= 100.0 && share < 1.0 { 99.9 } else { tenths };
    if shown == 0.0 && share > 0.0 { "< 0.1 %".to_owned() } else { format!("{} %", trimmed(shown)) }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

/// `at` on the clock of the run: `3 h`, `3 h 20 min`, `2 min 05 s`, `12.5 s`.
pub(crate) fn moment(at: f64) -> String {
    let whole = super::stats::index(at.round());
    let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60);
    match (hours, minutes, rest) {
        (0, 0, _) => secs(at.max(0.0)),
        (0, _, 0) => format!("{minutes} min"),
        (0, _, _) => format!("{minutes} min {rest:02} s"),
        (_, 0, 0) => format!("{hours} h"),
        (_, _, 0) => format!("{hours} h {minutes:02} min"),
        _ => format!("{hours} h {minutes:02} min {rest:02} s"),
    }
}

/// `text` without what would steer a terminal or break a line.
#[must_use]
pub fn printable(text: &str) -> String {
    let steers = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

/// `text` with its figures tied to their units, so that no line breaks between the two.
pub(crate) fn bound(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (position, word) in text.split(' ').enumerate() {
        let unit = word.trim_end_matches(['.', ',', ';', ')']);
        let is_unit = matches!(unit, "%" | "ms" | "s" | "min" | "h" | "d" | "B") || unit.ends_with("iB");
        if position > 0 {
            out.push(if is_unit && out.ends_with(|c: char| c.is_ascii_digit()) { '\u{a0}' } else { ' ' });
        }
        out.push_str(word);
    }
    out
}

/// At most `most` characters of `text`, the last one an ellipsis if any is missing.
pub(crate) fn clip(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits_and_set_off_thousands() {
        let shown =
            [0.0, 1.0, 1.5, 12.34, 999.6, 1234.0, 1_234_567.0, -4567.0, 0.01234, f64::NAN].map(number);
        assert_eq!(shown, ["0", "1", "1.5", "12.3", "1,000", "1,234", "1,234,567", "-4,567", "0.0123", "–"]);
        assert_eq!((count(0).as_str(), count(100_000).as_str()), ("0", "100,000"));
    }

    #[test]
    fn spans_of_time_take_the_unit_that_fits() {
        let shown = [0.0, 0.0123, 0.9999, 4.2, 60.0, 90.0, 3600.0, 86400.0, 604_800.0].map(secs);
        assert_eq!(shown, ["0 s", "12.3 ms", "1 s", "4.2 s", "1 min", "1.5 min", "1 h", "24 h", "7 d"]);
        let shown = [12.5, 120.0, 125.0, 3600.0, 12000.0, 12005.0].map(moment);
        assert_eq!(shown, ["12.5 s", "2 min", "2 min 05 s", "1 h", "3 h 20 min", "3 h 20 min 05 s"]);
    }

    #[test]
    fn bytes_take_binary_units() {
        let shown = [0.0, 512.0, 1023.9, 1536.0, 1_048_000.0, 3_221_225_472.0].map(bytes);
        assert_eq!(shown, ["0 B", "512 B", "1 KiB", "1.5 KiB", "1,023 KiB", "3 GiB"]);
    }

    #[test]
    fn a_share_never_rounds_up_to_all_or_down_to_none() {
        let shown = [0.0, 0.0001, 0.123, 0.5, 0.9999, 1.0].map(percent);
        assert_eq!(shown, ["0 %", "< 0.1 %", "12.3 %", "50 %", "99.9 %", "100 %"]);
    }

    #[test]
    fn figures_stay_with_their_units() {
        assert_eq!(bound("it (95.4 %), 2 h 30 min; a s b"), "it (95.4\u{a0}%), 2\u{a0}h 30\u{a0}min; a s b");
    }

    #[test]
    fn text_is_clipped_by_characters_and_cleared_of_controls() {
        assert_eq!(clip("äöüäöü", 4), "äöü…");
        assert_eq!(clip("four", 4), "four");
        assert_eq!(printable("a\u{1b}[31mb\n\u{202e}"), "a\u{fffd}[31mb\u{fffd}\u{fffd}");
    }
}
