//! The store from outside: every promise of its documentation, on real files.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::cast_possible_truncation, reason = "test data is small")]

mod changes;
mod common;
mod crashes;
mod disks;
mod downloads;
mod foreign;
mod held;
mod imports;
mod keeping;
mod migrations;
mod model;
mod obstacles;
mod opening;
mod power;
mod schedule;
