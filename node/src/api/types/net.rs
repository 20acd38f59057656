//! How others reach a node.

use serde::{Deserialize, Serialize};

use super::TestedAddr;

/// `GET /v0/net`: how others reach this node, and why.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NetInfo {
    /// `direct`, `port-mapped` (a router hands connections on), `punchable` (with the help of a relay, which carries nothing
    /// then), `relayed` (a relay carries everything), `unreachable`, or `unknown` until it is found out.
    pub reachability: String,
    /// Whether there is nothing left to be found out for now.
    pub settled: bool,
    /// Since when that is so, in seconds since 1970.
    pub since_unix: u64,
    /// Why, in one line.
    pub why: String,
    /// What the router does with ports: `endpoint-independent` (one for all), `symmetric` (another one for each destination) or
    /// `unknown`.
    pub mapping: String,
    /// Addresses listened on, with `/p2p/`.
    pub listen: Vec<String>,
    /// Addresses told to others.
    pub external: Vec<String>,
    /// Addresses that others have tried to dial.
    pub tested: Vec<TestedAddr>,
    /// Relays through which this node can be reached.
    pub relays: Vec<RelayPlace>,
    /// Relays that are known.
    pub relays_known: u64,
    /// Whether it relays for others.
    pub is_relay: bool,
    /// Whether it serves the DHT.
    pub serves_dht: bool,
}

/// A relay that has given a place to this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayPlace {
    /// Its peer ID.
    pub peer: String,
    /// Its address.
    pub addr: String,
}
