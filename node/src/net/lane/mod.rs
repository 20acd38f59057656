//! Lanes: chunks in bulk over one long-lived stream, asked for ahead and taken back when no longer wanted.
//!
//! A stream for each chunk pays for its opening every time, and begins with a small window that grows only while it
//! lives; on a slow line many of them share the line and finish together, all too late. A lane pays once, keeps its
//! window, and hands over one chunk after the other.
//!
//! | file    | what it holds                                          |
//! |---------|--------------------------------------------------------|
//! | `wire`  | the bytes of `/dhtfs/<network>/lane/1`                 |
//! | `ask`   | the end that wants                                     |
//! | `serve` | the end that has                                       |
//! | `tally` | counters, and places for the lanes of others           |

mod ask;
mod serve;
pub(super) mod tally;
mod wire;

pub(super) use self::ask::Lane;
pub use self::ask::{LaneAnswer, LaneEnd, LaneEvent, LaneEvents, LaneWants};
pub(crate) use self::serve::LaneReply;
pub use self::serve::{LaneServe, Lanes};
pub use self::wire::Ask;
