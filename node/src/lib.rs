//! The dhtfs node: finds and announces content in a Kademlia DHT, fetches chunks from many providers at once,
//! verifies each, and serves what it has.
//!
//! Layers, each using only those below it:
//!
//! - [`http`]: the API as HTTP + JSON on a Unix socket;
//! - [`api`]: the typed facade that everybody calls;
//! - `tasks`: one async driver per machine;
//! - [`core`]: pure state machines that decide, and [`net`]: the libp2p shell that sends;
//! - `dhtfs_store`: content IDs, manifests and the disk.
//!
//! [`Node`] wires them together from an [`Env`](env::Env), which is all a node knows of the world.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests start clocks of their own"))]

pub mod api;
pub mod config;
pub mod core;
pub mod env;
pub mod http;
mod listen;
pub mod net;
pub mod node;
pub mod tasks;

pub use config::Config;
pub use node::{Node, NodeOptions, Role};
