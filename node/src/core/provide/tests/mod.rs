#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::disallowed_methods, reason = "virtual time has to begin at some instant")]

mod budget;
mod network;
mod sim;
mod situations;
mod walks;
mod withdrawals;
mod world;
