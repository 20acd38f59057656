//! How fast bytes may go: a limit as users write it, and the bucket that keeps it.
//!
//! Nothing here knows what the bytes are. Who keeps to a limit takes bytes from a [`Bucket`] and waits for its
//! [`Turn`]; [`Rates`](crate::net::Rates) says who does.

mod bucket;
mod limit;

pub use bucket::{Bucket, Turn};
pub use limit::{BadLimit, Limit, Limits, MAX_LIMIT, MIN_LIMIT};
