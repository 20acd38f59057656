//! What happens to the world at the times of its plan.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use super::{Cut, Death, Failure, NodeIndex, World, draw};
use crate::{
    net::{HostId, HostSpec},
    plan::{DiskFate, What, Who},
    record::FaultSpan,
};

impl World {
    /// Carries out one event of the plan and returns when it is over. `name` keeps its draws apart from those of
    /// other events.
    ///
    /// # Errors
    /// If a node that has to start again does not.
    pub async fn happen(self: &Rc<Self>, what: &What, name: &str) -> Result<(), Failure> {
        self.check_caps().await;
        let from = self.now();
        let place = what.is_fault().then(|| {
            self.fault_begins();
            let mut record = self.record.borrow_mut();
            let to = from + what.lasts().as_secs_f64();
            record.faults.push(FaultSpan { name: what.to_string(), from, to });
            record.faults.len() - 1
        });
        self.note(&format!("event {what}"));
        let done = self.carry_out(what, name).await;
        self.check_caps().await;
        if let Some(place) = place {
            self.fault_ends();
            self.record.borrow_mut().faults[place].to = self.now();
        }
        done
    }

    async fn carry_out(self: &Rc<Self>, what: &What, name: &str) -> Result<(), Failure> {
        match what {
            What::Partition { parts, groups, one_way, lasts } => {
                let parts =
                    if groups.is_empty() { self.drawn_parts(parts, name) } else { self.parts_of(groups) };
                let is_all = groups.is_empty() && !one_way;
                let cut = if is_all { self.apart(&parts) } else { Cut::Ways(ways(&parts, *one_way)) };
                self.cut(cut, lasts.duration()).await;
            }
            What::Mute { who, lasts } => {
                let muted = self.hosts_of(&self.pick(who, name));
                let others = self.hosts().into_iter().filter(|host| !muted.contains(host)).collect();
                self.cut(Cut::Ways(vec![(muted, others)]), lasts.duration()).await;
            }
            What::Sleep { who, lasts } => {
                let nodes = self.pick(who, name);
                nodes.iter().for_each(|index| self.sleep(*index, true));
                tokio::time::sleep(lasts.duration()).await;
                nodes.iter().for_each(|index| self.sleep(*index, false));
                for index in nodes {
                    self.add_planned(index).await?;
                }
            }
            What::Weather { loss, jitter, lasts } => {
                let number = self.fault_number();
                self.weathers.borrow_mut().insert(number, (*loss, jitter.duration()));
                self.apply_weather();
                tokio::time::sleep(lasts.duration()).await;
                self.weathers.borrow_mut().remove(&number);
                self.apply_weather();
            }
            What::ClockJump { who, secs } => {
                self.pick(who, name).iter().for_each(|index| self.jump_clock(*index, *secs));
            }
            What::Kill { who, disk, back_after } => {
                let back_after = back_after.map(crate::plan::time::Millis::duration);
                return self.kill(&self.pick(who, name), *disk, back_after).await;
            }
            What::Get { who, content, within, timeout } => {
                self.gets(who, content.as_deref(), (within.duration(), timeout.duration()), name).await;
            }
            What::Upgrade { who, exchange_versions, within } => {
                return self.upgrade(&self.pick(who, name), exchange_versions, within.duration()).await;
            }
        }
        Ok(())
    }

    /// The nodes that are meant, in drawn order if drawn.
    pub(super) fn pick(&self, who: &Who, name: &str) -> Vec<NodeIndex> {
        let group = who.group.as_ref().and_then(|name| self.plan.groups.iter().position(|g| g.name == *name));
        let candidates: Vec<NodeIndex> = (0..self.len())
            .filter(|index| match group {
                Some(group) => self.slots.borrow()[*index].group == group,
                None => self.slots.borrow()[*index].group != 0 && self.role(*index).node_role().is_some(),
            })
            .collect();
        let wanted = who.share.map_or(candidates.len(), |share| {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 ..= len")]
            let wanted = (candidates.len() as f64 * share).round() as usize;
            wanted
        });
        let wanted = wanted.min(who.at_most.unwrap_or(usize::MAX));
        if wanted >= candidates.len() {
            return candidates;
        }
        draw(&mut self.rng(name), &candidates, wanted)
    }

    /// All hosts, drawn into parts of these shares.
    fn drawn_parts(&self, parts: &[f64], name: &str) -> Vec<Vec<HostId>> {
        let mut hosts = self.hosts();
        let count = hosts.len();
        hosts = draw(&mut self.rng(name), &hosts, count);
        let total: f64 = parts.iter().sum();
        let (mut groups, mut until) = (Vec::new(), 0.0);
        let mut begin = 0;
        for part in parts {
            until += part / total * count as f64;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 ..= count")]
            let end = (until.round() as usize).min(count);
            groups.push(hosts[begin..end].to_vec());
            begin = end;
        }
        groups
    }

    /// The hosts of each of these groups.
    fn parts_of(&self, groups: &[String]) -> Vec<Vec<HostId>> {
        let number = |name: &String| self.plan.groups.iter().position(|group| group.name == *name);
        let numbers = groups.iter().filter_map(number);
        numbers.map(|group| self.hosts_of(&self.members(group))).collect()
    }

    fn hosts_of(&self, nodes: &[NodeIndex]) -> Vec<HostId> {
        nodes.iter().map(|index| self.host(*index)).collect()
    }

    /// Every host in one of these parts, none of which hears another.
    fn apart(&self, parts: &[Vec<HostId>]) -> Cut {
        let mut part = vec![0; self.len()];
        for (number, hosts) in parts.iter().enumerate() {
            hosts.iter().for_each(|host| part[host.index()] = number);
        }
        Cut::Parts(part)
    }

    /// Cuts the network for a while, besides what cuts it already.
    async fn cut(&self, cut: Cut, lasts: Duration) {
        let number = self.fault_number();
        self.cuts.borrow_mut().insert(number, cut);
        self.apply_cuts();
        tokio::time::sleep(lasts).await;
        self.cuts.borrow_mut().remove(&number);
        self.apply_cuts();
    }

    fn fault_number(&self) -> u64 {
        self.next_fault.set(self.next_fault.get() + 1);
        self.next_fault.get()
    }

    /// Makes the network as all cuts together want it: two hosts hear each other if they are in the same part of
    /// every partition that takes in all, and nothing cuts the way.
    fn apply_cuts(&self) {
        let hosts = self.hosts();
        let cuts = self.cuts.borrow();
        self.net.heal();
        let mut groups: BTreeMap<Vec<usize>, Vec<HostId>> = BTreeMap::new();
        for (index, host) in hosts.iter().enumerate() {
            let part = |cut: &Cut| match cut {
                Cut::Parts(parts) => parts.get(index).copied(),
                Cut::Ways(_) => None,
            };
            groups.entry(cuts.values().filter_map(part).collect()).or_default().push(*host);
        }
        if groups.len() > 1 {
            self.net.partition(&groups.into_values().collect::<Vec<_>>());
        }
        for cut in cuts.values() {
            let Cut::Ways(ways) = cut else { continue };
            ways.iter().for_each(|(from, to)| self.net.partition_one_way(from, to));
        }
    }

    /// The worst of all weathers holds.
    fn apply_weather(&self) {
        let network = &self.plan.network;
        let (mut loss, mut jitter) = (network.loss, network.jitter.duration());
        for (more, longer) in self.weathers.borrow().values() {
            (loss, jitter) = (loss.max(*more), jitter.max(*longer));
        }
        for host in self.hosts() {
            let spec = self.net.spec(host);
            self.net.set_spec(host, HostSpec { loss, jitter, ..spec });
        }
    }

    async fn kill(
        self: &Rc<Self>,
        nodes: &[NodeIndex],
        disk: DiskFate,
        back_after: Option<Duration>,
    ) -> Result<(), Failure> {
        for index in nodes {
            if back_after.is_none() {
                self.set_gone_for_good(*index);
            }
            self.stop(*index, Death::Crash(disk)).await?;
        }
        if let Some(after) = back_after {
            tokio::time::sleep(after).await;
            for index in nodes {
                self.start(*index).await?;
            }
        }
        Ok(())
    }

    async fn upgrade(
        self: &Rc<Self>,
        nodes: &[NodeIndex],
        versions: &[u32],
        within: Duration,
    ) -> Result<(), Failure> {
        let pause = within / u32::try_from(nodes.len().max(1))?;
        for index in nodes {
            self.set_exchange_versions(*index, versions);
            self.stop(*index, Death::Shutdown).await?;
            self.start(*index).await?;
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    async fn gets(
        self: &Rc<Self>,
        who: &Who,
        content: Option<&str>,
        (within, timeout): (Duration, Duration),
        name: &str,
    ) {
        let mut rng = self.rng(&format!("{name} contents"));
        let content = content.and_then(|name| self.content_named(name));
        let wanted: Vec<(NodeIndex, usize)> = self
            .pick(who, name)
            .into_iter()
            .map(|index| (index, content.unwrap_or_else(|| super::below(&mut rng, self.contents.len()))))
            .filter(|(index, number)| !self.holds_whole(*index, *number))
            .filter(|(index, _)| self.role(*index).node_role().is_some() && self.is_up(*index))
            .collect();
        let pause = within / u32::try_from(wanted.len().max(1)).unwrap_or(1);
        let gets = wanted.into_iter().enumerate().map(|(place, (index, number))| {
            let world = self.clone();
            let after = pause * u32::try_from(place).unwrap_or(0);
            let waiting = self.get_waits(self.now() + after.as_secs_f64());
            async move {
                tokio::time::sleep(after).await;
                // One at a time: what a node receives is counted by node.
                while !world.getting.borrow_mut().insert(index) {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                world.get_begins(waiting);
                if !world.holds_whole(index, number) {
                    world.get(index, number, timeout).await;
                }
                world.getting.borrow_mut().remove(&index);
            }
        });
        futures::future::join_all(gets).await;
    }
}

/// The ways between parts: from the first to the second only, or all of them.
fn ways(parts: &[Vec<HostId>], one_way: bool) -> Vec<(Vec<HostId>, Vec<HostId>)> {
    let mut ways = Vec::new();
    for (place, from) in parts.iter().enumerate() {
        for (other, to) in parts.iter().enumerate() {
            if place < other || place > other && !one_way {
                ways.push((from.clone(), to.clone()));
            }
        }
    }
    ways
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Net;

    #[test]
    fn one_way_is_from_the_first_part_to_the_second() {
        let net = Net::new(1);
        let host = || vec![net.add_host(HostSpec::default())];
        let [a, b, c] = [host(), host(), host()];
        let pair = |from: &Vec<HostId>, to: &Vec<HostId>| (from.clone(), to.clone());
        assert_eq!(ways(&[a.clone(), b.clone()], true), [pair(&a, &b)]);
        assert_eq!(ways(&[a.clone(), b.clone()], false), [pair(&a, &b), pair(&b, &a)]);
        assert_eq!(ways(&[a, b, c], false).len(), 6);
    }
}
