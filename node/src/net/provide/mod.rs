//! Provider records in bulk: many keys to one holder over one stream, and the other end of that.
//!
//! | file       | what it holds                                                          |
//! |------------|------------------------------------------------------------------------|
//! | `wire`     | the bytes of `/dhtfs/<network>/provide/1`                              |
//! | `kad_wire` | the same said in kad messages, for peers that lack the protocol        |
//! | `send`     | tells a holder                                                         |
//! | `told`     | who was told                                                           |
//! | `goodbye`  | tells all of them that the node ends                                   |
//! | `answer`   | is told                                                                |

pub(super) mod answer;
mod goodbye;
pub(super) mod kad_wire;
mod send;
pub(super) mod told;
pub(super) mod wire;

pub use self::send::{Announcer, BulkStreams, Receipt, SendFailure};
