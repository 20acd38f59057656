//! What a plan must be before it is run, with messages for the one who wrote it.

use super::{Event, Group, Plan, What, Who};
use crate::roles::RoleKind;

/// Most nodes in a network: their tables alone take 2 MB each.
pub(super) const MAX_NODES: usize = 5_000;

/// Longest run in simulated hours.
pub(super) const MAX_HOURS: u64 = 24 * 366;

/// Most files of one kind.
const MAX_FILES: usize = 10_000;

/// Most bytes of all files together.
const MAX_CONTENT_LEN: u64 = 64 << 30;

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
        share("network.loss", self.network.loss)?;
        self.check_groups()?;
        for content in &self.contents {
            self.group_exists(content.group.as_deref())?;
            share(&format!("held of content {}", content.name), content.held)?;
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
        if let Some(probes) = &self.probes {
            let every = probes.every.duration();
            if every.is_zero() || !(1..=1000).contains(&probes.at_once) || self.contents.is_empty() {
                return fail("probes: they need a pause above zero, 1 to 1,000 at once, and content");
            }
        }
        share("expect.probes_found", self.expect.probes_found.unwrap_or(0.0))?;
        share("expect.gets_complete", self.expect.gets_complete.unwrap_or(0.0))?;
        self.events.iter().try_for_each(|event| self.check_event(event))
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
            share(&format!("share of group {}", group.name), group.share.unwrap_or(0.0))?;
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
        let who = |who: &Who| {
            self.group_exists(who.group.as_deref())?;
            share("share of an event", who.share.unwrap_or(0.0))
        };
        match &event.what {
            What::Partition { parts, .. } => {
                if parts.len() < 2 {
                    return fail("partition: two parts at least");
                }
                parts.iter().try_for_each(|part| share("part of a partition", *part))
            }
            What::Weather { loss, .. } => share("loss", *loss),
            What::Mute { who: of, .. }
            | What::Kill { who: of, .. }
            | What::Sleep { who: of, .. }
            | What::ClockJump { who: of, .. } => who(of),
            What::Upgrade { who: of, exchange_versions, .. } => {
                if exchange_versions.is_empty() {
                    return fail("upgrade: exchange_versions must name one");
                }
                who(of)
            }
            What::Get { who: of, content, .. } => {
                let known = |name: &String| self.content_names().any(|known| known == *name);
                match content {
                    Some(name) if !known(name) => fail(format!("get: there is no content \"{name}\"")),
                    None if self.contents.is_empty() => fail("get: there is no content"),
                    _ => who(of),
                }
            }
        }
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
