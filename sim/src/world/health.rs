//! Caps and routing tables, as the nodes report them.

use std::{collections::BTreeMap, time::Duration};

use dhtfs_node::{
    api::types::Status, core::routing::diversity::DiversityConfig, net::limits::MAX_MUXER_STREAMS,
};
use tokio::time::{Instant, timeout};

use super::{NodeIndex, World};
use crate::{checks::Promise, limits::node_limits};

/// Peers that a routing table should have, if there are so many.
const ENOUGH_PEERS: usize = 20;

/// How long a node may take to say what it uses. It takes no simulated time, unless it falls asleep over it.
const ANSWERS_WITHIN: Duration = Duration::from_millis(1);

/// How long tables may take to recover from a fault.
const RECOVERY: Duration = Duration::from_secs(10 * 60);

impl World {
    /// The state of a node as it says itself; `None` if it is not up.
    pub async fn status(&self, index: NodeIndex) -> Option<Status> {
        let up = self.up(index)?;
        up.run(up.node.api().status()).await?.ok()
    }

    /// A fault begins.
    pub(super) fn fault_begins(&self) {
        self.faults_on.set(self.faults_on.get() + 1);
    }

    /// A fault ends.
    pub(super) fn fault_ends(&self) {
        self.faults_on.set(self.faults_on.get().saturating_sub(1));
        self.last_fault.set(Instant::now());
        self.is_health_checked.set(false);
    }

    /// Whether the network has had time to recover from every fault, or to join if there was none.
    pub fn is_recovered(&self) -> bool {
        self.faults_on.get() == 0 && self.last_fault.get().elapsed() >= RECOVERY
    }

    /// Whether tables were looked at since the last fault.
    pub fn is_health_checked(&self) -> bool {
        self.is_health_checked.get()
    }

    /// Looks at the tables of every node.
    pub async fn check_health(&self) {
        self.is_health_checked.set(true);
        for index in 0..self.len() {
            if let Some(status) = self.status(index).await {
                self.check_table(index, &status);
            }
        }
    }

    /// Compares what every node uses with its limits.
    pub async fn check_caps(&self) {
        let limits = node_limits();
        for index in 0..self.len() {
            let Some(up) = self.up(index) else { continue };
            let used = timeout(ANSWERS_WITHIN, up.run(up.node.api().limits_in_use(&limits))).await;
            let used = match used {
                // It died over the question.
                Ok(None) => continue,
                Ok(Some(used)) => used,
                Err(_) => Vec::new(),
            };
            // Who has fallen asleep over it cannot answer; who is awake has to.
            if used.is_empty() && !self.is_up(index) {
                continue;
            }
            self.checks.look(Promise::CapsKept, !used.is_empty(), || {
                format!("node {index} does not say what it uses at {:.0} s", self.now())
            });
            let streams = self.slots.borrow()[index].meter.most_streams();
            let streams = ("streams on one connection", streams as u64, MAX_MUXER_STREAMS as u64);
            for (what, used, limit) in used.into_iter().chain([streams]) {
                self.checks.look(Promise::CapsKept, used <= limit, || {
                    format!("node {index} has {used} {what} at {:.0} s, limit {limit}", self.now())
                });
            }
        }
    }

    /// Counts the peers of one shared network in the routing table of every node.
    pub async fn check_crowds(&self) {
        let limit = DiversityConfig::default().max_per_table;
        for index in 0..self.len() {
            let Some(up) = self.up(index) else { continue };
            let Some(table) = up.run(up.node.api().routing_table()).await else { continue };
            let mut crowds = BTreeMap::<[u8; 3], usize>::new();
            for other in table.iter().filter_map(|peer| self.index_of(peer)) {
                let [a, b, c, _] = self.net.public_ip(self.host(other)).octets();
                *crowds.entry([a, b, c]).or_default() += 1;
            }
            let most = crowds.into_values().max().unwrap_or(0);
            self.checks.look(Promise::CapsKept, most <= limit, || {
                format!(
                    "node {index} has {most} routing peers in one /24 at {:.0} s, limit {limit}",
                    self.now()
                )
            });
        }
    }

    /// Compares the routing table of a node with the network, if it has had time since the last fault and start.
    pub(super) fn check_table(&self, index: NodeIndex, status: &Status) {
        let has_settled = self.up_for(index).is_some_and(|up| up >= RECOVERY);
        let is_server = self.role(index).node_role() == Some(dhtfs_node::Role::Server);
        if !self.plan.expect.tables_recover || !self.is_recovered() || !has_settled || !is_server {
            return;
        }
        let others = self
            .servers_up()
            .into_iter()
            .filter(|other| *other != index && self.reaches(index, *other))
            .count();
        let wanted = others.min(ENOUGH_PEERS) as u64;
        self.checks.look(Promise::TablesRecover, status.routing_peers >= wanted, || {
            format!("node {index} knows {} peers, {wanted} expected", status.routing_peers)
        });
    }
}
