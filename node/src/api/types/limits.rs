//! How fast a node sends and fetches.

use serde::{Deserialize, Serialize};

use crate::core::rate::Limit;

/// The limits of a node: rates as in the configuration, `none` where there is none. They count for the blocks of
/// content, not for what the DHT says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitsInfo {
    /// What is sent to all peers together.
    pub up: Limit,
    /// What is fetched from all peers together.
    pub down: Limit,
    /// What is sent to one peer.
    pub up_per_peer: Limit,
    /// Whether peers on this machine and in the local network count.
    pub lan: bool,
}

impl LimitsInfo {
    /// Whether there is any.
    pub fn is_any(&self) -> bool {
        self.up.is_set() || self.down.is_set() || self.up_per_peer.is_set()
    }
}

/// Limits to be changed, as users write them; what is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsRequest {
    /// What is sent to all peers together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up: Option<String>,
    /// What is fetched from all peers together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<String>,
    /// What is sent to one peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub up_per_peer: Option<String>,
}
