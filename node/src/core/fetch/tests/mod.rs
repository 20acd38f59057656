#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "virtual time has to begin at some instant")]

mod fuzz;
mod limit;
mod maps;
mod runs;
mod sim;
mod situations;
mod waiting;
