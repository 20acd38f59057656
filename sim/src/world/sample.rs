//! Looks at everything once an hour and at the end.

use std::{collections::BTreeMap, rc::Rc};

use super::{Hold, Process, Running, State, World};
use crate::{
    content::Content,
    meter::Count,
    record::{Hour, Load, Probe, Table},
};

/// What was counted until the last look.
#[derive(Debug, Default)]
pub struct Before {
    at: f64,
    counts: BTreeMap<&'static str, Count>,
    starts: u64,
    crashes: u64,
}

impl World {
    /// The network now, with what happened since `before`; checks caps and tables on the way.
    pub async fn sample(self: &Rc<Self>, before: &mut Before) -> Hour {
        self.check_caps().await;
        let mut tables = Vec::new();
        for index in 0..self.len() {
            let Some(status) = self.status(index).await else { continue };
            if self.role(index).node_role() == Some(dhtfs_node::Role::Server) {
                self.check_table(index, &status);
                tables.push(usize::try_from(status.routing_peers).unwrap_or(usize::MAX));
            }
        }
        tables.sort_unstable();
        let counts = self.meter.counts();
        let since = |name: &&'static str, field: fn(&Count) -> u64| {
            let old = before.counts.get(name).map_or(0, field);
            counts.get(name).map_or(0, field) - old
        };
        let hour = Hour {
            at: self.now(),
            online: (0..self.len()).filter(|index| self.is_up(*index)).count(),
            starts: self.starts.get() - before.starts,
            crashes: self.crashes.get() - before.crashes,
            bytes: counts.keys().map(|name| ((*name).to_owned(), since(name, |c| c.bytes))).collect(),
            streams: counts.keys().map(|name| ((*name).to_owned(), since(name, |c| c.streams))).collect(),
            connections: self.net.connections(),
            routing_median: tables.get(tables.len() / 2).copied().unwrap_or(0),
            hash: self.net.trace_hash(),
            probes: self.probes_since(before.at, |_| true),
            found: self.probes_since(before.at, |probe| probe.found),
        };
        *before = Before { at: self.now(), counts, starts: self.starts.get(), crashes: self.crashes.get() };
        self.record.borrow_mut().hours.push(hour.clone());
        hour
    }

    /// Lookups that began since `at`, could find a provider, and pass.
    fn probes_since(&self, at: f64, passes: impl Fn(&Probe) -> bool) -> u64 {
        let record = self.record.borrow();
        record.probes.iter().filter(|p| p.provider_alive && p.at + p.total_secs >= at && passes(p)).count()
            as u64
    }

    /// What every node has carried, and how the chunks are spread.
    pub async fn final_loads(self: &Rc<Self>) {
        let mut loads = Vec::new();
        for index in 0..self.len() {
            let counters = self.net.stats(self.host(index));
            let status = self.status(index).await;
            let served = status.as_ref().and_then(|s| s.counters.get("serve_answered_len").copied());
            loads.push(Load {
                node: index,
                role: self.role(index).to_string(),
                sent: counters.sent,
                received: counters.received,
                records: status.as_ref().map_or(0, |s| s.records_held),
                chunks: self.chunks_held(index),
                served: served.unwrap_or(0),
            });
        }
        let spread = self.chunk_holders();
        let hostile = self.hostile_table();
        let mut record = self.record.borrow_mut();
        record.loads = loads;
        record.chunk_holders = spread;
        record.tables.extend(hostile);
    }

    /// What the hostile peers did, summed by role; none if there are none.
    fn hostile_table(&self) -> Option<Table> {
        let mut done: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for slot in self.slots.borrow().iter() {
            let State::On(Running { process: Process::Hostile(peer), .. }) = &slot.state else { continue };
            let counts = done.entry(peer.role().to_string()).or_default();
            let stats = serde_json::to_value(peer.stats()).unwrap_or_default();
            for (name, count) in stats.as_object().into_iter().flatten() {
                *counts.entry(name.replace('_', " ")).or_default() += count.as_u64().unwrap_or(0);
            }
        }
        let names: Vec<String> = done.values().next()?.keys().cloned().collect();
        // Most counters mean something for one role only.
        let used =
            |name: &String| done.values().any(|counts| counts.get(name).is_some_and(|count| *count > 0));
        let names: Vec<String> = names.into_iter().filter(used).collect();
        let row = |(role, counts): (&String, &BTreeMap<String, u64>)| {
            let cells = names.iter().map(|name| counts.get(name).map_or(String::new(), u64::to_string));
            [role.clone()].into_iter().chain(cells).collect()
        };
        Some(Table {
            title: "What hostile peers did".to_owned(),
            columns: ["role".to_owned()].into_iter().chain(names.iter().cloned()).collect(),
            rows: done.iter().map(row).collect(),
        })
    }

    fn chunks_held(&self, index: usize) -> u64 {
        let Some(store) = self.store(index) else { return 0 };
        let chunks = self.contents.iter().flat_map(Content::chunks);
        chunks.filter(|(cid, _)| store.has_chunk(cid).unwrap_or(false)).count() as u64
    }

    /// `(holders, chunks)`: how many chunks have how many holders that are up.
    fn chunk_holders(&self) -> Vec<(usize, usize)> {
        let stores: Vec<_> = (0..self.len()).filter_map(|index| self.store(index)).collect();
        let mut spread = BTreeMap::new();
        for (cid, _) in self.contents.iter().flat_map(Content::chunks) {
            let holders = stores.iter().filter(|store| store.has_chunk(&cid).unwrap_or(false)).count();
            *spread.entry(holders).or_insert(0) += 1;
        }
        spread.into_iter().collect()
    }

    /// Nodes that hold all of a content.
    pub fn whole_holders(&self, number: usize) -> usize {
        (0..self.len()).filter(|index| self.hold(*index, number) == Some(Hold::Whole)).count()
    }
}
