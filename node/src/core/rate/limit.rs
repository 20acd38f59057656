//! Limits as users write them.

use std::{fmt, num::NonZeroU64, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Lowest limit, in bytes a second: 20 KiB/s. A chunk of 1 MiB takes 51 s then; a fetch waits for one chunk at most 64 s
/// before it gives up on who sends it.
pub const MIN_LIMIT: u64 = 20 * 1024;

/// Highest limit, in bytes a second: 1 TiB/s. More is no limit.
pub const MAX_LIMIT: u64 = 1 << 40;

/// Units and their lengths in bytes; of two that fit, the first is shown.
const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

/// How many bytes a second may go; by default as many as can.
///
/// Written as a number with a unit (`B`, `KB`, `MB`, `GB`, `KiB`, `MiB`, `GiB`), with or without `/s`, or as `none`:
/// `500KiB/s`, `2MB`, `1.5 MiB/s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Limit(Option<NonZeroU64>);

/// What is no limit, and how to write one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLimit(String);

/// All limits of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// What is sent to all peers together.
    pub up: Limit,
    /// What is sent to one peer.
    pub up_per_peer: Limit,
    /// What is asked of all peers together.
    pub down: Limit,
    /// Whether peers on this machine and in the local network count.
    pub lan: bool,
}

impl Limit {
    /// No limit.
    pub const NONE: Self = Self(None);

    /// So many bytes a second.
    ///
    /// # Errors
    /// If it is less than [`MIN_LIMIT`] or more than [`MAX_LIMIT`].
    pub fn of(rate: u64) -> Result<Self, BadLimit> {
        match rate {
            0 => Err(BadLimit("a limit of 0 lets nothing through; `none` is no limit".to_owned())),
            1..MIN_LIMIT => Err(BadLimit(format!(
                "{} is too little: the least is {}, because others give up on a chunk of 1 MiB that takes more than a \
                 minute",
                Self(NonZeroU64::new(rate)),
                Self(NonZeroU64::new(MIN_LIMIT)),
            ))),
            MIN_LIMIT..=MAX_LIMIT => Ok(Self(NonZeroU64::new(rate))),
            _ => Err(BadLimit("a limit of more than 1024 GiB/s is none; write `none`".to_owned())),
        }
    }

    /// Bytes a second; `None` is no limit.
    pub fn rate(self) -> Option<NonZeroU64> {
        self.0
    }

    /// Whether there is one.
    pub fn is_set(self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(rate) = self.0 else { return f.write_str("none") };
        let rate = rate.get();
        let fits = UNITS.iter().find(|(_, len)| rate.is_multiple_of(*len));
        let (unit, len) = fits.copied().unwrap_or(("B", 1));
        write!(f, "{} {unit}/s", rate / len)
    }
}

impl fmt::Display for BadLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadLimit {}

impl FromStr for Limit {
    type Err = BadLimit;

    fn from_str(text: &str) -> Result<Self, BadLimit> {
        let text = text.trim();
        if text == "none" {
            return Ok(Self::NONE);
        }
        let malformed = || {
            BadLimit(format!(
                "\"{}\" is no rate; write a number with a unit (B, KB, MB, GB, KiB, MiB, GiB), like 500KiB/s or 2MB/s, \
                 or none",
                shortened(text)
            ))
        };
        let amount = text.strip_suffix("/s").unwrap_or(text);
        let digits = amount.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(malformed)?;
        let (number, unit) = amount.split_at(digits);
        let unit = unit.trim_start_matches(' ');
        let (_, len) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(malformed)?;
        Self::of(bytes(number, *len).ok_or_else(malformed)?)
    }
}

/// `number` times `len`, rounded down; more than [`MAX_LIMIT`] is some number above it.
fn bytes(number: &str, len: u64) -> Option<u64> {
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || part.is_empty() || part.len() > 9 || part.contains('.') {
        return None;
    }
    // Digits only: what does not fit is too many of them.
    let whole = whole.parse::<u64>().unwrap_or(u64::MAX);
    let scale = 10_u64.pow(u32::try_from(part.len()).ok()?);
    let part = u128::from(part.parse::<u64>().ok()?) * u128::from(len) / u128::from(scale);
    Some(whole.saturating_mul(len).saturating_add(u64::try_from(part).ok()?))
}

/// The beginning of what was typed, fit for one line.
fn shortened(text: &str) -> String {
    const MAX_CHARS: usize = 40;
    let shown: String = text.chars().take(MAX_CHARS).collect();
    let end = if shown.len() < text.len() { ".." } else { "" };
    format!("{}{end}", shown.escape_debug())
}

impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use proptest::prelude::*;

    use super::*;

    fn rate(text: &str) -> u64 {
        text.parse::<Limit>().unwrap().rate().unwrap().get()
    }

    #[test]
    fn rates_are_read_as_users_write_them() {
        let table = [
            ("500KiB/s", 512_000),
            ("500 KiB/s", 512_000),
            ("2MB/s", 2_000_000),
            ("2MB", 2_000_000),
            ("1.5MiB/s", 1_572_864),
            ("0.25 GB", 250_000_000),
            ("20480B/s", 20_480),
            ("20 KiB", MIN_LIMIT),
            (" 30KB/s ", 30_000),
            ("1GiB/s", 1 << 30),
            ("1024GiB/s", MAX_LIMIT),
        ];
        for (text, expected) in table {
            assert_eq!(rate(text), expected, "{text}");
        }
        assert_eq!("none".parse::<Limit>().unwrap(), Limit::NONE);
    }

    #[test]
    fn what_is_no_rate_is_told_on_one_line() {
        let bad = [
            "",
            "fast",
            "2",
            "2M",
            "10mbit",
            "2 mb/s",
            "2MB/m",
            "MB/s",
            ".5MB",
            "5.MB",
            "1.2.3MB",
            "-2MB/s",
            "2,5MB/s",
            "2MB/s/s",
            "1e6B",
            "None",
            "2\nMB",
            "1.0000000001MB",
        ];
        for text in bad {
            let error = text.parse::<Limit>().unwrap_err().to_string();
            assert!(error.contains("is no rate") && error.contains("500KiB/s"), "{text}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
        let long = "x".repeat(10_000).parse::<Limit>().unwrap_err().to_string();
        assert!(long.len() < 300, "{long}");
    }

    #[test]
    fn limits_that_make_no_sense_say_what_would() {
        let error = |text: &str| text.parse::<Limit>().unwrap_err().to_string();
        assert!(error("0B/s").contains("`none`"), "{}", error("0B/s"));
        assert!(
            error("10KiB/s").starts_with("10 KiB/s is too little: the least is 20 KiB/s"),
            "{}",
            error("10KiB/s")
        );
        for text in ["1025GiB/s", "99999999999999999999999GiB/s", "18446744073709551615GiB"] {
            assert!(error(text).contains("`none`"), "{text}: {}", error(text));
        }
    }

    #[test]
    fn limits_are_shown_in_the_largest_unit_that_is_exact() {
        let shown = |text: &str| text.parse::<Limit>().unwrap().to_string();
        assert_eq!(shown("1024KiB"), "1 MiB/s");
        assert_eq!(shown("2000KB/s"), "2 MB/s");
        assert_eq!(shown("1.5MiB/s"), "1536 KiB/s");
        assert_eq!(shown("20481B"), "20481 B/s");
        assert_eq!(shown("none"), "none");
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_as_the_same(rate in MIN_LIMIT..=MAX_LIMIT, unit in 0_usize..7) {
            let rate = (rate / UNITS[unit].1 * UNITS[unit].1).max(MIN_LIMIT);
            let limit = Limit::of(rate).unwrap();
            prop_assert_eq!(limit.to_string().parse::<Limit>().unwrap(), limit);
            let json = serde_json::to_string(&limit).unwrap();
            prop_assert_eq!(serde_json::from_str::<Limit>(&json).unwrap(), limit);
        }

        #[test]
        fn no_text_does_harm(text in "\\PC{0,30}|[0-9.]{0,30}[KMGiB/s ]{0,6}") {
            if let Ok(limit) = text.parse::<Limit>() {
                prop_assert!(limit.rate().is_none_or(|rate| (MIN_LIMIT..=MAX_LIMIT).contains(&rate.get())));
            }
        }
    }
}
