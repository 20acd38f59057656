//! What is true, whatever the nodes believe.

use std::time::Duration;

use super::{Hold, NodeIndex, World};

/// A holder counts as findable once its process has run so long: it needs time to join and announce.
const SETTLED: Duration = Duration::from_secs(60);

impl World {
    /// Whether a node can open a connection to another now and exchange bytes with it.
    pub fn reaches(&self, from: NodeIndex, to: NodeIndex) -> bool {
        self.is_up(from) && self.is_up(to) && self.net.reachable(self.host(from), self.host(to))
    }

    /// Nodes that hold all of a content, are up and settled, and can be reached by `from`.
    pub fn live_holders(&self, number: usize, from: NodeIndex) -> Vec<NodeIndex> {
        (0..self.len())
            .filter(|index| *index != from && self.hold(*index, number) == Some(Hold::Whole))
            .filter(|index| self.role(*index).node_role() == Some(dhtfs_node::Role::Server))
            .filter(|index| self.up_for(*index).is_some_and(|up| up >= SETTLED))
            .filter(|index| self.reaches(from, *index))
            .collect()
    }

    /// Whether a node holds all of a content.
    pub fn holds_whole(&self, index: NodeIndex, number: usize) -> bool {
        self.hold(index, number) == Some(Hold::Whole)
    }

    /// Honest nodes of the network proper that are up.
    pub fn servers_up(&self) -> Vec<NodeIndex> {
        (0..self.len())
            .filter(|index| self.role(*index).node_role() == Some(dhtfs_node::Role::Server))
            .filter(|index| self.is_up(*index))
            .collect()
    }

    /// Nodes that harm others.
    pub fn hostile_nodes(&self) -> usize {
        (0..self.len())
            .filter(|index| matches!(self.role(*index), crate::roles::RoleKind::Hostile(_)))
            .count()
    }
}
