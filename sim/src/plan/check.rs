//! What a plan must be before it is run, with messages for the one who wrote it.

use std::time::Duration;

use super::{Event, Group, Plan, What, Who, time::Millis};
use crate::roles::RoleKind;

/// Most nodes in a network: their tables alone take 2 MB each.
pub(crate) const MAX_NODES: usize = 5_000;

/// Longest run in simulated hours.
pub(super) const MAX_HOURS: u64 = 24 * 366;

/// Most files of one kind.
const MAX_FILES: usize = 10_000;

/// Most bytes of all files together.
const MAX_CONTENT_LEN: u64 = 64 << 30;

/// Most of all segments that may be lost: each is sent again until it comes through.
const MAX_LOSS: f64 = 0.9;

/// Longest delay and jitter of one direction: with more no dial is ever answered in time.
const MAX_DELAY: Millis = Millis::from_secs(10);

/// Shortest life of provider records: nodes announce no more often than once a minute.
const MIN_RECORD_LIFE: Duration = Duration::from_secs(120);

/// Most nodes in a /24.
const MAX_IN_SUBNET: usize = 250;

/// Most versions of the exchange protocol that a node offers.
const MAX_VERSIONS: usize = 8;

/// Furthest jump of a clock: ten years.
const MAX_JUMP_SECS: u64 = 10 * 366 * 24 * 3600;

/// A plan that cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PlanError(pub String);

fn fail<T>(message: impl Into<String>) -> Result<T, PlanError> {
    Err(PlanError(message.into()))
}

impl Plan {
    /// Reads a plan from TOML and checks it.
    ///
    /// # Errors
    /// If it is no TOML, has unknown or missing keys, or values that make no sense; the message names the place.
    pub fn from_toml(text: &str) -> Result<Self, PlanError> {
        let plan: Self = toml::from_str(text).map_err(|e| PlanError(e.to_string().trim_end().to_owned()))?;
        plan.check()?;
        Ok(plan)
    }

    /// The plan as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_default()
    }

    /// How many nodes each group has.
    ///
    /// # Errors
    /// If the fixed groups leave nothing for those with a share.
    pub fn group_sizes(&self) -> Result<Vec<usize>, PlanError> {
        let fixed = self.groups.iter().filter_map(|g| g.nodes).fold(0, usize::saturating_add);
        let shares: f64 = self.groups.iter().filter_map(|g| g.share).sum();
        let Some(rest) = self.nodes.checked_sub(fixed) else {
            return fail(format!("{} nodes are fewer than the {fixed} of the fixed groups", self.nodes));
        };
        if shares <= 0.0 {
            if rest != 0 {
                return fail(format!("the groups have {fixed} nodes together, not {}", self.nodes));
            }
            return Ok(self.groups.iter().map(|g| g.nodes.unwrap_or(0)).collect());
        }
        let (mut share_so_far, mut given) = (0.0, 0);
        let mut size = |group: &Group| {
            let Some(share) = group.share else { return group.nodes.unwrap_or(0) };
            share_so_far += share;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 ..= rest")]
            let until = (share_so_far / shares * rest as f64).round() as usize;
            let size = until.min(rest) - given;
            given += size;
            size
        };
        Ok(self.groups.iter().map(&mut size).collect())
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// The first thing that makes no sense.
    pub fn check(&self) -> Result<(), PlanError> {
        if self.nodes < 2 || self.nodes > MAX_NODES {
            return fail(format!("nodes: {} is not within 2 and {MAX_NODES}", self.nodes));
        }
        if self.duration.duration().as_secs() > MAX_HOURS * 3600 || self.duration.duration().is_zero() {
            return fail(format!("duration: {} is not within 1 s and {MAX_HOURS} h", self.duration));
        }
        self.check_network()?;
        self.check_groups()?;
        self.check_contents()?;
        if let Some(probes) = &self.probes {
            let every = probes.every.duration();
            if every.is_zero() || !(1..=1000).contains(&probes.at_once) || self.contents.is_empty() {
                return fail("probes: they need a pause above zero, 1 to 1,000 at once, and content");
            }
            some_time("probes.timeout", probes.timeout)?;
        }
        share("expect.probes_found", self.expect.probes_found.unwrap_or(0.0))?;
        share("expect.gets_complete", self.expect.gets_complete.unwrap_or(0.0))?;
        self.events.iter().try_for_each(|event| self.check_event(event))
    }

    fn check_network(&self) -> Result<(), PlanError> {
        loss("network.loss", self.network.loss)?;
        delay("network.one_way", self.network.one_way)?;
        delay("network.jitter", self.network.jitter)?;
        let times = [
            ("network.idle_timeout", self.network.idle_timeout, Duration::from_millis(1)),
            ("network.record_life", self.network.record_life, MIN_RECORD_LIFE),
        ];
        for (name, time, least) in times {
            let Some(time) = time else { continue };
            some_time(name, time)?;
            if time.duration() < least {
                return fail(format!("{name}: {time} is less than {}", Millis::from(least)));
            }
        }
        Ok(())
    }

    fn check_contents(&self) -> Result<(), PlanError> {
        for content in &self.contents {
            self.group_exists(content.group.as_deref())?;
            share(&format!("held of content {}", content.name), content.held)?;
            if content.held == 0.0 {
                return fail(format!("held of content {}: 0 is nothing", content.name));
            }
            if dhtfs_store::check_name(&content.name).is_err() {
                return fail(format!("content \"{}\" has no name for a file", content.name.escape_debug()));
            }
            if content.count == 0 || content.count > MAX_FILES || content.len.0 > 1 << 34 {
                return fail(format!("content {}: 1 to 10,000 files of at most 16 GiB", content.name));
            }
        }
        let total =
            self.contents.iter().map(|c| c.len.0.saturating_mul(c.count as u64)).fold(0, u64::saturating_add);
        let mut names: Vec<String> = self.content_names().collect();
        names.sort();
        let known = names.len();
        names.dedup();
        if total > MAX_CONTENT_LEN || known != names.len() {
            return fail("contents: at most 64 GiB together, each with a name of its own");
        }
        Ok(())
    }

    fn check_groups(&self) -> Result<(), PlanError> {
        let Some(first) = self.groups.first() else {
            return fail("groups: there must be one, through whose nodes the others join");
        };
        let serves = matches!(first.role, RoleKind::Honest | RoleKind::Naive);
        if !serves || first.churn.is_some() {
            return fail(format!("group {}: the first group must be honest and always there", first.name));
        }
        for group in &self.groups {
            if group.nodes.is_some() == group.share.is_some() {
                return fail(format!("group {}: give either nodes or share", group.name));
            }
            if group.name.is_empty() {
                return fail("groups: each needs a name");
            }
            share(&format!("share of group {}", group.name), group.share.unwrap_or(0.0))?;
            versions(&group.exchange_versions)
                .map_err(|PlanError(why)| PlanError(format!("group {}: {why}", group.name)))?;
            for rate in [group.up_mbit, group.down_mbit].into_iter().flatten() {
                if !(0.001..=1_000_000.0).contains(&rate) {
                    return fail(format!("group {}: {rate} Mbit/s is no rate of a line", group.name));
                }
            }
            if let Some(churn) = &group.churn {
                let is_fine = (0.0..=4.0).contains(&churn.sigma)
                    && !churn.median_on.duration().is_zero()
                    && !churn.median_off.duration().is_zero();
                if !is_fine {
                    return fail(format!("churn of group {}: medians above zero, sigma 0 to 4", group.name));
                }
                share(&format!("crashes of group {}", group.name), churn.crashes)?;
                share(&format!("diurnal of group {}", group.name), churn.diurnal)?;
            }
            if self.groups.iter().filter(|other| other.name == group.name).count() > 1 {
                return fail(format!("group {}: the name is there twice", group.name));
            }
        }
        for (group, size) in self.groups.iter().zip(self.group_sizes()?) {
            if group
                .subnets
                .is_some_and(|subnets| subnets == 0 || size > subnets.saturating_mul(MAX_IN_SUBNET))
            {
                return fail(format!(
                    "group {}: {MAX_IN_SUBNET} nodes at most in a subnet, and one subnet at least",
                    group.name
                ));
            }
        }
        if self.group_sizes()?.first() == Some(&0) {
            return fail(format!("group {}: nobody to join through", first.name));
        }
        Ok(())
    }

    /// The names of all files.
    fn content_names(&self) -> impl Iterator<Item = String> + '_ {
        self.contents.iter().flat_map(|content| {
            let name = move |number| {
                if content.count == 1 { content.name.clone() } else { format!("{}{number}", content.name) }
            };
            (0..content.count.min(MAX_FILES)).map(name)
        })
    }

    fn check_event(&self, event: &Event) -> Result<(), PlanError> {
        let checked = if event.at >= self.duration {
            fail(format!("the run ends before, after {}", self.duration))
        } else {
            self.check_what(&event.what)
        };
        checked.map_err(|PlanError(why)| PlanError(format!("event {} at {}: {why}", event.what, event.at)))
    }

    fn check_what(&self, what: &What) -> Result<(), PlanError> {
        match what {
            What::Partition { parts, groups, one_way, lasts } => {
                self.check_parts(parts, groups, *one_way)?;
                some_time("lasts", *lasts)
            }
            What::Weather { loss: of, jitter, lasts } => {
                loss("loss", *of)?;
                delay("jitter", *jitter)?;
                some_time("lasts", *lasts)
            }
            What::Mute { who, lasts } | What::Sleep { who, lasts } => {
                some_time("lasts", *lasts)?;
                self.check_who(who)
            }
            What::Kill { who, .. } => self.check_who(who),
            What::ClockJump { who, secs } => {
                if *secs == 0 || secs.unsigned_abs() > MAX_JUMP_SECS {
                    return fail(format!("secs: {secs} is not within 1 s and 10 years, either way"));
                }
                self.check_who(who)
            }
            What::Upgrade { who, exchange_versions, .. } => {
                if exchange_versions.is_empty() {
                    return fail("exchange_versions must name one");
                }
                versions(exchange_versions)?;
                self.check_who(who)
            }
            What::Get { who, content, timeout, .. } => {
                some_time("timeout", *timeout)?;
                let known = |name: &String| self.content_names().any(|known| known == *name);
                match content {
                    Some(name) if !known(name) => {
                        fail(format!("there is no content \"{}\"", name.escape_debug()))
                    }
                    None if self.contents.is_empty() => fail("there is no content"),
                    _ => self.check_who(who),
                }
            }
        }
    }

    fn check_parts(&self, parts: &[f64], groups: &[String], one_way: bool) -> Result<(), PlanError> {
        if parts.is_empty() == groups.is_empty() {
            return fail("give either parts or groups");
        }
        let count = parts.len().max(groups.len());
        if count < 2 || one_way && count > 2 {
            return fail(if one_way { "one_way is between two parts" } else { "two parts at least" });
        }
        for part in parts {
            share("parts", *part)?;
            if *part == 0.0 {
                return fail("parts: a part of 0 has nobody in it");
            }
        }
        for (place, name) in groups.iter().enumerate() {
            self.group_exists(Some(name))?;
            if groups[..place].contains(name) {
                return fail(format!("groups: \"{}\" is there twice", name.escape_debug()));
            }
        }
        Ok(())
    }

    fn check_who(&self, who: &Who) -> Result<(), PlanError> {
        self.group_exists(who.group.as_deref())?;
        share("who.share", who.share.unwrap_or(0.0))?;
        if who.share == Some(0.0) || who.at_most == Some(0) {
            return fail("who: a share or number of 0 is nobody");
        }
        Ok(())
    }

    fn group_exists(&self, name: Option<&str>) -> Result<(), PlanError> {
        match name {
            Some(name) if !self.groups.iter().any(|g| g.name == name) => {
                fail(format!("there is no group \"{}\"", name.escape_debug()))
            }
            _ => Ok(()),
        }
    }
}

fn share(what: &str, value: f64) -> Result<(), PlanError> {
    if (0.0..=1.0).contains(&value) { Ok(()) } else { fail(format!("{what}: {value} is not within 0 and 1")) }
}

/// A share of losses with which something still comes through now and then.
fn loss(what: &str, value: f64) -> Result<(), PlanError> {
    if (0.0..=MAX_LOSS).contains(&value) {
        return Ok(());
    }
    fail(format!(
        "{what}: {value} is not within 0 and {MAX_LOSS}; to cut everything off there are partition and mute"
    ))
}

fn delay(what: &str, value: Millis) -> Result<(), PlanError> {
    if value <= MAX_DELAY { Ok(()) } else { fail(format!("{what}: {value} is longer than {MAX_DELAY}")) }
}

fn some_time(what: &str, value: Millis) -> Result<(), PlanError> {
    if value > Millis::ZERO { Ok(()) } else { fail(format!("{what}: {value} is no time at all")) }
}

fn versions(versions: &[u32]) -> Result<(), PlanError> {
    let has_double = (1..versions.len()).any(|place| versions[..place].contains(&versions[place]));
    if versions.contains(&0) || versions.len() > MAX_VERSIONS || has_double {
        return fail(format!(
            "exchange_versions: {versions:?} are not at most {MAX_VERSIONS} different ones from 1 on"
        ));
    }
    Ok(())
}
