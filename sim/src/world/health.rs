//! Caps and routing tables, as the nodes report them.

use std::time::Duration;

use dhtfs_node::api::types::Status;
use tokio::time::Instant;

use super::{NodeIndex, World};
use crate::{checks::Promise, limits::node_limits};

/// Peers that a routing table should have, if there are so many.
const ENOUGH_PEERS: usize = 20;

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

    /// Looks at the caps and tables of every node.
    pub async fn check_health(&self) {
        self.is_health_checked.set(true);
        for index in 0..self.len() {
            if let Some(status) = self.status(index).await {
                self.check_caps(index, &status);
                self.check_table(index, &status);
            }
        }
    }

    /// Compares what a node reports with its limits.
    pub(super) fn check_caps(&self, index: NodeIndex, status: &Status) {
        let limits = node_limits();
        let caps = [
            ("connections", status.connections, u64::from(limits.max_connections)),
            ("foreign records", status.records_held, limits.max_foreign_records as u64),
            ("open requests", status.requests_open, limits.max_open_requests as u64),
        ];
        for (what, value, cap) in caps {
            self.checks.look(Promise::CapsKept, value <= cap, || {
                format!("node {index} has {value} {what}, limit {cap}")
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
