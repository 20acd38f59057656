//! Who may be in the routing table, who stays in it, and whether this node is in the tables of others.
//!
//! | file        | decides                                                                         |
//! |-------------|---------------------------------------------------------------------------------|
//! | `diversity` | whether a peer finds a place beside others from the same part of the internet   |
//! | `liveness`  | which peer of the table is asked whether it is still there, and when it leaves  |
//! | `lost`      | when peers that left it are dialled again                                       |
//! | `mode`      | whether this node serves the DHT                                                |

pub mod diversity;
pub mod liveness;
pub mod lost;
pub mod mode;
