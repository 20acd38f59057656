//! What can happen in a scenario, and to whom.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::time::Millis;

/// Something that happens at a time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// When.
    pub at: Millis,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

impl<'de> Deserialize<'de> for Event {
    /// By way of a table, so that what is wrong is told with the event that it is in.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Written {
            at: Millis,
            #[serde(flatten)]
            what: What,
        }
        let table = toml::Table::deserialize(deserializer)?;
        let word = |key: &str| {
            table.get(key).and_then(toml::Value::as_str).unwrap_or("?").escape_debug().to_string()
        };
        let (what, at) = (word("do"), word("at"));
        let Written { at, what } = toml::Value::Table(table)
            .try_into()
            .map_err(|e| D::Error::custom(format!("event {what} at {at}: {}", e.message().trim_end())))?;
        Ok(Self { at, what })
    }
}

/// Which nodes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Who {
    /// Those of this group; all honest ones but the first group when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// A share of these, drawn; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// At most so many, drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_most: Option<usize>,
}

impl Who {
    /// All of a group.
    pub fn of(group: &str) -> Self {
        Self { group: Some(group.to_owned()), ..Self::default() }
    }

    /// So many honest ones at most, drawn.
    pub fn up_to(count: usize) -> Self {
        Self { at_most: Some(count), ..Self::default() }
    }

    /// A share of the honest ones, drawn.
    pub fn share(share: f64) -> Self {
        Self { share: Some(share), ..Self::default() }
    }
}

/// What becomes of a disk when its node dies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFate {
    /// The process dies, the machine goes on: everything written is there.
    #[default]
    Kept,
    /// The power fails: what was not synced is there, gone, or torn.
    Torn,
    /// The disk is gone.
    Lost,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum What {
    /// The network falls into parts that do not hear each other.
    Partition {
        /// Sizes of the parts, as shares of all nodes, which are drawn; or
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        parts: Vec<f64>,
        /// groups that are the parts. Nodes of other groups still hear and are heard by all.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        groups: Vec<String>,
        /// Whether only one direction is cut: what the first of two parts sends does not reach the second.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        one_way: bool,
        /// For how long.
        lasts: Millis,
    },
    /// What some nodes send reaches nobody else, while they hear everybody.
    Mute {
        /// Who is not heard.
        #[serde(default)]
        who: Who,
        /// For how long.
        lasts: Millis,
    },
    /// Nodes die without a word, all in the same instant.
    Kill {
        /// Who.
        #[serde(default)]
        who: Who,
        /// What becomes of their disks.
        #[serde(default)]
        disk: DiskFate,
        /// They start again after; never when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        back_after: Option<Millis>,
    },
    /// Machines sleep: processes stand still for the world, but time goes on; nothing in, nothing out.
    Sleep {
        /// Who.
        #[serde(default)]
        who: Who,
        /// For how long.
        lasts: Millis,
    },
    /// Links get worse for a while.
    Weather {
        /// Share of segments lost.
        loss: f64,
        /// Largest addition to the delay.
        jitter: Millis,
        /// For how long.
        lasts: Millis,
    },
    /// The time of day of nodes jumps.
    ClockJump {
        /// Whose.
        #[serde(default)]
        who: Who,
        /// By how many seconds, backwards if negative.
        secs: i64,
    },
    /// Nodes fetch content, each all of it.
    Get {
        /// Who; nodes that hold it already, are not running, or are hostile are left out.
        #[serde(default)]
        who: Who,
        /// Name of the content (a number behind it for one of several); a random one for each when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        content: Option<String>,
        /// Over how long they begin, evenly.
        #[serde(default)]
        within: Millis,
        /// Give up after this long without progress.
        #[serde(default = "get_timeout")]
        timeout: Millis,
    },
    /// Nodes restart in order, one after the other, with other versions of the exchange protocol.
    Upgrade {
        /// Who.
        #[serde(default)]
        who: Who,
        /// The versions they offer from then on, preferred first.
        exchange_versions: Vec<u32>,
        /// Over how long, evenly.
        within: Millis,
    },
}

fn get_timeout() -> Millis {
    Millis::from_secs(120)
}

impl What {
    /// The network falls into parts of these shares.
    pub fn partition(parts: &[f64], lasts: Millis) -> Self {
        Self::Partition { parts: parts.to_vec(), groups: Vec::new(), one_way: false, lasts }
    }

    /// These groups do not hear each other.
    pub fn partition_of(groups: &[&str], lasts: Millis) -> Self {
        let groups = groups.iter().map(|name| (*name).to_owned()).collect();
        Self::Partition { parts: Vec::new(), groups, one_way: false, lasts }
    }

    /// A partition that cuts only what the first part sends to the second; anything else as it is.
    #[must_use]
    pub fn in_one_way(mut self) -> Self {
        if let Self::Partition { one_way, .. } = &mut self {
            *one_way = true;
        }
        self
    }

    /// How long it lasts; zero for what happens at once.
    pub fn lasts(&self) -> Duration {
        match self {
            Self::Partition { lasts, .. }
            | Self::Mute { lasts, .. }
            | Self::Sleep { lasts, .. }
            | Self::Weather { lasts, .. } => lasts.duration(),
            Self::Kill { back_after, .. } => back_after.map_or(Duration::ZERO, Millis::duration),
            Self::Upgrade { within, .. } => within.duration(),
            Self::ClockJump { .. } | Self::Get { .. } => Duration::ZERO,
        }
    }

    /// Whether it is a fault, shaded in plots.
    pub fn is_fault(&self) -> bool {
        !matches!(self, Self::Get { .. } | Self::Upgrade { .. })
    }
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percent = |who: &Who| who.share.map_or(String::new(), |s| format!(" {:.0} %", s * 100.0));
        match self {
            Self::Partition { one_way: true, .. } => write!(f, "partition, one way"),
            Self::Partition { parts, groups, .. } => {
                write!(f, "partition into {}", parts.len().max(groups.len()))
            }
            Self::Mute { who, .. } => write!(f, "not heard{}", percent(who)),
            Self::Kill { who, disk, .. } => {
                let disk = match disk {
                    DiskFate::Kept => "",
                    DiskFate::Torn => ", power cut",
                    DiskFate::Lost => ", disk lost",
                };
                write!(f, "death{}{disk}", percent(who))
            }
            Self::Sleep { who, .. } => write!(f, "asleep{}", percent(who)),
            Self::Weather { loss, .. } => write!(f, "loss {:.1} %", loss * 100.0),
            Self::ClockJump { secs, .. } => write!(f, "clock {secs:+} s"),
            Self::Get { .. } => write!(f, "gets"),
            Self::Upgrade { .. } => write!(f, "upgrade"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use super::*;

    #[test]
    fn an_event_with_a_key_that_it_does_not_have_is_refused_with_key_and_event() {
        let refused = |text: &str| toml::from_str::<Event>(text).unwrap_err().to_string();
        for (text, key) in [
            ("at = \"20m\"\ndo = \"mute\"\nlasts = \"1m\"\nhwo = { at_most = 1 }", "hwo"),
            ("at = \"20m\"\ndo = \"mute\"\nlasts = \"1m\"\n[who]\natmost = 1", "atmost"),
            ("at = \"20m\"\ndo = \"mute\"\nparts = [0.5, 0.5]\nlasts = \"1m\"", "parts"),
            ("at = \"20m\"\ndo = \"mute\"", "lasts"),
        ] {
            let error = refused(text);
            assert!(error.contains(key) && error.contains("event mute at 20m"), "{error}");
        }
        assert!(refused("at = \"20m\"\ndo = \"rest\"").contains("rest"));
    }

    #[test]
    fn events_read_as_they_are_written() {
        let lasts = Millis::from_mins(1);
        for what in [
            What::partition(&[0.5, 0.5], lasts),
            What::partition_of(&["a", "b"], lasts).in_one_way(),
            What::Kill { who: Who::default(), disk: DiskFate::Torn, back_after: None },
        ] {
            let event = Event { at: lasts, what };
            let text = toml::to_string(&event).unwrap();
            assert_eq!(toml::from_str::<Event>(&text).unwrap(), event, "{text}");
        }
    }
}
