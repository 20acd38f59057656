#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

mod fuzz;
mod runs;
mod sim;
mod situations;
