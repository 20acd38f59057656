//! Pure state machines: what to fetch from whom, what to announce when, whom to serve next.
//!
//! A machine here knows no runtime, no swarm, no files, no clock and no entropy of its own. Time comes in as
//! `now`, randomness from a seed, so one seed and one list of inputs always give the same actions.
//!
//! # The driver's contract
//! 1. Call an input (`on_<event>`), then call `next_action()` until it answers `None`, and carry each action out
//!    in that order. Its completion is a later input.
//! 2. Wait for the next event or for `next_deadline()`, whichever comes first; at the deadline call `on_timeout`.
//!    `None` means that no timer runs. A deadline may lie in the past: then call `on_timeout` at once.
//! 3. `now` never goes backwards between two inputs.
//!
//! Inputs never panic, whatever a peer, a disk or a user made of them: an unknown peer, CID or id is ignored.
//! `check_invariants()` panics when a machine's own books do not balance; tests call it after every step.

pub mod announce_lan;
pub mod backoff;
pub mod fetch;
pub mod have;
pub mod keyspace;
pub mod lookup;
pub mod neighbours;
pub mod offers;
pub mod profile;
pub mod provide;
pub mod rate;
pub mod reach;
pub mod routing;
pub mod serve;
pub mod transfers;
pub mod unreachable;

/// Longest block (chunk or manifest) that is ever requested or sent, in bytes: the cap of the exchange protocol,
/// 1 MiB.
pub const MAX_BLOCK_LEN: u32 = 1 << 20;

/// Wants on one lane without an answer: on a path of 100 ms a folder of files of 4 KiB so moves at 15 MiB a second.
pub const MAX_LANE_WANTS: usize = 512;
