//! Transfers: the fetches of a node that are under way.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Waiting;

/// `POST /v0/pause`, `/v0/resume`, `/v0/abort` and `/v0/refresh`: which transfers. The answer is a list of
/// [`Transfer`], as they are afterwards; of an abort, as they were.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferRequest {
    /// CID or link; every transfer of it is meant.
    #[serde(default)]
    pub cid: Option<String>,
    /// Every transfer of the node, if there is no `cid`; none is no error then.
    #[serde(default)]
    pub all: bool,
}

/// `POST /v0/transfers-events`: the list as it changes, at least twice a second while something is fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchTransfers {
    /// End when there is no transfer, also at once.
    #[serde(default)]
    pub until_idle: bool,
}

/// `GET /v0/transfers`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TransferList {
    /// What is under way, the oldest first.
    pub transfers: Vec<Transfer>,
    /// The last 32 that ended since the node started, the oldest first.
    #[serde(default)]
    pub ended: Vec<EndedTransfer>,
}

/// One `get` under way.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Transfer {
    /// Number of the transfer since the node started.
    pub id: u64,
    /// What is fetched.
    pub cid: String,
    /// Name in the manifest, once known.
    pub name: Option<String>,
    /// Where it is written to, once known.
    pub path: Option<PathBuf>,
    /// Handed over to the node: no client waits for it, and it goes on after a restart.
    pub detached: bool,
    /// What it is at.
    pub state: TransferState,
    /// Total length in bytes; 0 until the manifest is known.
    pub total_len: u64,
    /// Bytes held and verified so far.
    pub have_len: u64,
    /// Bytes a second, the mean of the last ten seconds; absent if it is not fetching, or for too short a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<f64>,
    /// Seconds left at this speed; absent if there is no telling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_secs: Option<f64>,
    /// Peers that it is connected with.
    pub sources: u64,
    /// When it was asked for, seconds since 1970.
    pub started_unix: u64,
    /// Why nothing has come for two seconds or longer; absent if something has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// Why it failed the last time; only while it is `retrying` or `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Seconds until it is tried again; only while it is `retrying`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_in_secs: Option<f64>,
}

/// What a transfer is at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransferState {
    /// It waits for its turn: eight detached ones work at the same time.
    #[default]
    Queued,
    /// Looking for providers and reading the manifest.
    Finding,
    /// Checking what is already here.
    Checking,
    /// Requesting chunks.
    Fetching,
    /// Everything arrived; syncing and renaming.
    Finishing,
    /// It rests until `resume`.
    Paused,
    /// Nobody had all of it; it is tried again by itself. Only a detached one.
    Retrying,
    /// It cannot go on by itself; `resume` tries again, `abort` forgets it. Only a detached one.
    Failed,
    /// It was aborted and is about to end.
    Ending,
    /// Something that this program does not know: the node is newer.
    #[serde(other)]
    Other,
}

/// A transfer that is over.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EndedTransfer {
    /// Its number.
    pub id: u64,
    /// What was fetched.
    pub cid: String,
    /// Name in the manifest, if it became known.
    pub name: Option<String>,
    /// Where it lies, or would have.
    pub path: Option<PathBuf>,
    /// Whether it had been handed over to the node.
    pub detached: bool,
    /// How it ended.
    pub outcome: TransferOutcome,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When, seconds since 1970.
    pub ended_unix: u64,
}

/// How a transfer ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TransferOutcome {
    /// Everything is there.
    Done,
    /// The user aborted it.
    Aborted,
    /// It failed, and its client was told so.
    Failed,
    /// Its client ended first.
    #[default]
    Left,
    /// Something that this program does not know: the node is newer.
    #[serde(other)]
    Other,
}
