//! Have-maps: which chunks of a content peers hold, asked and told over long-lived streams.
//!
//! | file    | what it holds                                        |
//! |---------|------------------------------------------------------|
//! | `wire`  | the bytes of `/dhtfs/<network>/have/1`               |
//! | `ask`   | asks a peer and reads what it tells                  |
//! | `serve` | the streams of others                                |
//! | `tally` | counters, and places for streams                     |

mod ask;
mod serve;
pub(super) mod tally;
mod wire;

pub use self::ask::{HaveEnd, HaveStream};
pub use self::serve::{Asked, Incoming, Said, Step};
