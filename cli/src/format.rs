//! Numbers and foreign text as people read them.

use std::time::Duration;

pub(crate) use dhtfs_node::api::numbers::{count, thousands};

/// Characters that end up on a terminal one after the other in another order than they were written, or that
/// show nothing at all.
const INVISIBLE: [std::ops::RangeInclusive<char>; 5] = [
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{2069}',
    '\u{61c}'..='\u{61c}',
    '\u{feff}'..='\u{feff}',
];

const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// A length in binary units: `0 B`, `1023 B`, `1.5 KiB`, `64 MiB`, `1.0 GiB`. One decimal below ten, none above.
pub(crate) fn bytes(len: u64) -> String {
    if len < 1024 {
        return format!("{len} B");
    }
    let mut unit = 1u128 << 10;
    for (index, name) in UNITS.iter().enumerate() {
        // Rounded to tenths; a value that rounds up to 1024 of its unit is 1.0 of the next.
        let tenths = (u128::from(len) * 10 + unit / 2) / unit;
        let last = index + 1 == UNITS.len();
        if tenths < 100 {
            return format!("{}.{} {name}", tenths / 10, tenths % 10);
        }
        let whole = (u128::from(len) + unit / 2) / unit;
        if whole < 1024 || last {
            return format!("{whole} {name}");
        }
        unit <<= 10;
    }
    format!("{len} B")
}

/// A speed, in the unit that suits it: `480 MiB/s`, `0.9 KiB/s`.
pub(crate) fn rate(bytes_per_second: f64) -> String {
    if !bytes_per_second.is_finite() || bytes_per_second < 0.0 {
        return "- MiB/s".to_owned();
    }
    let mut value = bytes_per_second / 1024.0;
    let mut name = UNITS[0];
    for next in &UNITS[1..3] {
        if value < 1000.0 {
            break;
        }
        value /= 1024.0;
        name = next;
    }
    if value < 9.95 { format!("{value:.1} {name}/s") } else { format!("{value:.0} {name}/s") }
}

/// Mean speed of `len` bytes in `seconds`, always in MiB/s so that columns compare; `-` if it took no time.
pub(crate) fn mean_mib(len: u64, seconds: f64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a speed is shown with three digits")]
    let value = len as f64 / f64::from(1 << 20) / seconds;
    if !value.is_finite() || len == 0 {
        "-".to_owned()
    } else if value < 9.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// A length of time with at most two units: `0.4 s`, `12 s`, `3 min 12 s`, `2 h 5 min`, `3 d 4 h`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    if time < Duration::from_millis(9_950) {
        return format!("{:.1} s", time.as_secs_f64());
    }
    let seconds = if time.subsec_millis() >= 500 { seconds.saturating_add(1) } else { seconds };
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{} d {} h", hours / 24, hours % 24),
    }
}

/// The same from seconds as they come over the API; nonsense is shown as zero.
pub(crate) fn seconds(time: f64) -> String {
    duration(Duration::try_from_secs_f64(time).unwrap_or_default())
}

/// Text that comes from a peer, a manifest or a file name, made harmless for a terminal: what controls it or
/// hides in it is shown escaped.
pub(crate) fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || INVISIBLE.iter().any(|range| range.contains(&c)) {
            cleaned.extend(c.escape_unicode());
        } else {
            cleaned.push(c);
        }
    }
    cleaned
}

/// `text` cut to `max` characters, the end kept: an extension tells more than the middle of a name.
pub(crate) fn shorten(text: &str, max: usize) -> String {
    let len = text.chars().count();
    if len <= max {
        return text.to_owned();
    }
    let tail = max / 3;
    let head = max.saturating_sub(tail + 1);
    let start: String = text.chars().take(head).collect();
    let end: String = text.chars().skip(len - tail).collect();
    format!("{start}…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_round_and_change_their_unit_where_people_expect_it() {
        let cases: [(u64, &str); 12] = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (10_188, "9.9 KiB"),
            (10_200, "10 KiB"),
            (64 << 20, "64 MiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (1 << 30, "1.0 GiB"),
            (3 << 30, "3.0 GiB"),
            (1 << 50, "1.0 PiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (len, text) in cases {
            assert_eq!(bytes(len), text, "{len}");
        }
    }

    #[test]
    fn speeds_keep_two_or_three_digits() {
        assert_eq!(rate(0.0), "0.0 KiB/s");
        assert_eq!(rate(f64::from(480 << 20)), "480 MiB/s");
        assert_eq!(rate(f64::from(1 << 30) * 1.5), "1.5 GiB/s");
        assert_eq!(rate(f64::NAN), "- MiB/s");
        assert_eq!(mean_mib(1 << 30, 2.0), "512");
        assert_eq!(mean_mib(1 << 20, 2.0), "0.5");
        assert_eq!(mean_mib(1 << 20, 0.0), "-");
        assert_eq!(mean_mib(0, 0.0), "-");
    }

    #[test]
    fn times_have_at_most_two_units() {
        let cases = [
            (0.0, "0.0 s"),
            (0.44, "0.4 s"),
            (9.94, "9.9 s"),
            (9.96, "10 s"),
            (59.6, "1 min 0 s"),
            (192.0, "3 min 12 s"),
            (7_500.0, "2 h 5 min"),
            (273_600.0, "3 d 4 h"),
            (-1.0, "0.0 s"),
        ];
        for (time, text) in cases {
            assert_eq!(seconds(time), text, "{time}");
        }
    }

    #[test]
    fn counts_have_separators_and_the_right_noun() {
        assert_eq!(count(0, "peer"), "0 peers");
        assert_eq!(count(1, "peer"), "1 peer");
        assert_eq!(count(2_000, "file"), "2,000 files");
        assert_eq!(thousands(1_048_576), "1,048,576");
        assert_eq!(thousands(999), "999");
    }

    #[test]
    fn foreign_text_cannot_steer_the_terminal() {
        assert_eq!(clean("ok é 文.txt"), "ok é 文.txt");
        assert_eq!(clean("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\u{a}");
        assert_eq!(clean("exe\u{202e}txt"), "exe\\u{202e}txt");
    }

    #[test]
    fn long_names_keep_their_beginning_and_their_extension() {
        assert_eq!(shorten("short.txt", 12), "short.txt");
        assert_eq!(shorten("a-very-long-name-indeed.tar.gz", 16), "a-very-lon…ar.gz");
        assert_eq!(shorten("a-very-long-name-indeed.tar.gz", 16).chars().count(), 16);
    }
}
