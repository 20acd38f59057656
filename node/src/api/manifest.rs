//! Getting a manifest for an operation, and saying why it could not be had.

use std::time::Duration;

use dhtfs_store::{ContentCid, ManifestCid};

use super::{
    Api, ParsedHints,
    types::{ApiError, ErrorKind},
    waiting::{self, Wanted},
};
use crate::{
    core::fetch::{self, FetchFailure, FetchProgress, Order},
    tasks::fetch::{
        Driver,
        resolve::{self, ResolveError, Resolved},
    },
};

impl Api {
    /// The tree of `root`: from the store, or from peers.
    pub(super) async fn resolve(&self, root: ManifestCid, hints: &ParsedHints) -> Result<Resolved, ApiError> {
        self.resolve_reporting(root, hints, |_, _| ()).await
    }

    /// The same; `report` is told why nothing comes.
    pub(super) async fn resolve_reporting(
        &self,
        root: ManifestCid,
        hints: &ParsedHints,
        report: impl Fn(&FetchProgress, Option<&fetch::Waiting>) + Send + Sync + 'static,
    ) -> Result<Resolved, ApiError> {
        if let Some(resolved) = self.resolve_here(root).await? {
            return Ok(resolved);
        }
        let mut driver = self.driver(root.into(), Order::Spread, hints)?;
        driver.report_to(report);
        self.resolve_with(&mut driver, root, hints).await
    }

    /// The tree of `root` if the store has all of it.
    pub(super) async fn resolve_here(&self, root: ManifestCid) -> Result<Option<Resolved>, ApiError> {
        let resolved = resolve::from_store(&self.inner.store, root).await;
        resolved.map_err(|error| self.resolve_error(root, error, Duration::ZERO, ""))
    }

    /// The tree of `root`, by a fetch that goes on afterwards.
    pub(super) async fn resolve_with(
        &self,
        driver: &mut Driver,
        root: ManifestCid,
        hints: &ParsedHints,
    ) -> Result<Resolved, ApiError> {
        let resolved = resolve::from_peers(driver, &self.inner.store, root).await;
        resolved.map_err(|error| {
            let why = waiting::verdict(&driver.why(), Wanted::Manifest);
            self.resolve_error(root, error, hints.no_progress, &why)
        })
    }

    /// `why` is put at the end of what is said when peers did not have it.
    fn resolve_error(&self, root: ManifestCid, error: ResolveError, waited: Duration, why: &str) -> ApiError {
        match error {
            ResolveError::Failed(FetchFailure::NotFound) => self.not_found(root.into(), waited, why),
            ResolveError::Failed(FetchFailure::Incomplete { missing }) => {
                let message = format!(
                    "the manifest of {root} is incomplete: {missing} of its blocks came from nobody within {}; \
                     try again when more of its providers are up{why}",
                    seconds(waited)
                );
                ApiError::new(ErrorKind::Incomplete, message)
            }
            ResolveError::Failed(FetchFailure::TooLarge) => {
                ApiError::new(ErrorKind::Failed, format!("{root} is larger than one fetch can hold"))
            }
            ResolveError::Malformed { .. } => ApiError::new(ErrorKind::Failed, error.to_string()),
            ResolveError::Store(error) => error.into(),
            ResolveError::Gone(error) => error.into(),
        }
    }

    /// Nobody has `cid`; says what may help, and at the end `verdict`.
    pub(super) fn not_found(&self, cid: ContentCid, waited: Duration, verdict: &str) -> ApiError {
        let knows_nobody = self.inner.net.as_ref().is_none_or(|net| *net.routing.borrow() == 0);
        let why = if knows_nobody {
            "this node knows no other node of the network; name one with --bootstrap or --peer"
        } else {
            "check the CID, and that a daemon that has it is running"
        };
        let within = if waited >= Duration::from_secs(1) {
            format!(" within {}", seconds(waited))
        } else {
            String::new()
        };
        ApiError::new(ErrorKind::NotFound, format!("no provider of {cid} found{within}: {why}{verdict}"))
    }
}

/// A duration as people say it.
pub(super) fn seconds(duration: Duration) -> String {
    let secs = duration.as_secs_f64();
    if secs.fract() == 0.0 { format!("{secs:.0} s") } else { format!("{secs:.1} s") }
}
