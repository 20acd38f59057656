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
    tasks::fetch::resolve::{self, ResolveError, Resolved},
};

impl Api {
    /// The tree of `root`: from the store, or from peers, `with_content` that comes with it. `report` is told why nothing comes.
    pub(super) async fn resolve(
        &self,
        root: ManifestCid,
        hints: &ParsedHints,
        with_content: bool,
        report: impl Fn(&FetchProgress, Option<&fetch::Waiting>) + Send + Sync + 'static,
    ) -> Result<Resolved, ApiError> {
        if let Some(resolved) = self.resolve_here(root).await? {
            return Ok(resolved);
        }
        let mut driver = self.driver(root.into(), Order::Spread, hints)?;
        driver.report_to(report);
        driver.ask_with_content(with_content);
        let resolved = resolve::from_peers(&mut driver, &self.inner.store, root).await;
        resolved.map_err(|error| self.resolve_error(root, error, hints.no_progress, Some(&driver.why())))
    }

    /// The tree of `root` if the store has all of it.
    pub(super) async fn resolve_here(&self, root: ManifestCid) -> Result<Option<Resolved>, ApiError> {
        let resolved = resolve::from_store(&self.inner.store, root).await;
        resolved.map_err(|error| self.resolve_error(root, error, Duration::ZERO, None))
    }

    /// `why` is what is said of peers that did not have it.
    pub(super) fn resolve_error(
        &self,
        root: ManifestCid,
        error: ResolveError,
        waited: Duration,
        why: Option<&fetch::Waiting>,
    ) -> ApiError {
        match error {
            ResolveError::Failed(FetchFailure::NotFound) => {
                self.not_found(root.into(), waited, why.map(|why| (why, Wanted::Manifest)))
            }
            ResolveError::Failed(FetchFailure::Incomplete { missing }) => {
                let why = why.map_or_else(String::new, |why| waiting::verdict(why, Wanted::Manifest));
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
            ResolveError::Stopped => ApiError::new(ErrorKind::Interrupted, error.to_string()),
            ResolveError::Malformed { .. } => ApiError::new(ErrorKind::Failed, error.to_string()),
            ResolveError::Store(error) => error.into(),
            ResolveError::Gone(error) => error.into(),
        }
    }

    /// `cid` came from nobody; says why, and what may help.
    pub(super) fn not_found(
        &self,
        cid: ContentCid,
        waited: Duration,
        why: Option<(&fetch::Waiting, Wanted)>,
    ) -> ApiError {
        let knows_nobody = self.inner.net.as_ref().is_none_or(|net| *net.routing.borrow() == 0);
        ApiError::new(ErrorKind::NotFound, from_nobody(cid, waited, knows_nobody, why))
    }
}

/// What is said of something that came from nobody.
fn from_nobody(
    cid: ContentCid,
    waited: Duration,
    knows_nobody: bool,
    why: Option<(&fetch::Waiting, Wanted)>,
) -> String {
    let within =
        if waited >= Duration::from_secs(1) { format!(" within {}", seconds(waited)) } else { String::new() };
    let verdict = why.map_or_else(String::new, |(why, wanted)| waiting::verdict(why, wanted));
    if why.is_some_and(|(why, _)| why.known() > 0) {
        return format!("{cid} came from none of its providers{within}{verdict}; try again when one is up");
    }
    let advice = if !knows_nobody {
        "check the CID, and that a daemon that has it is running"
    } else if verdict.is_empty() {
        "this node knows no other node of the network; name one with --bootstrap or --peer"
    } else {
        "this node knows no other node of the network; check the address, and that the peer is up"
    };
    format!("no provider of {cid} found{within}: {advice}{verdict}")
}

/// A duration as people say it.
pub(super) fn seconds(duration: Duration) -> String {
    let secs = duration.as_secs_f64();
    if secs.fract() == 0.0 { format!("{secs:.0} s") } else { format!("{secs:.1} s") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::fetch::{Cause, Group, PeerWait};

    #[test]
    fn what_came_from_nobody_is_not_said_to_have_no_provider_if_it_has() {
        let cid = ContentCid::from(ManifestCid::of(b"root"));
        let unreachable = |peers: usize, unreached_hints: usize| fetch::Waiting {
            cause: Cause::Unreachable,
            idle: Duration::from_secs(3),
            fails_in: None,
            groups: PeerWait::ALL.map(|wait| Group {
                peers: if wait == PeerWait::Unreachable { peers } else { 0 },
                ..Group::default()
            }),
            missing: 1,
            received: 0,
            without_provider: 1,
            at_least: false,
            lookups: 0,
            next_lookup_in: None,
            hints: unreached_hints,
            unreached_hints,
        };
        let said = |knows_nobody, peers, hints| {
            let why = unreachable(peers, hints);
            let text = from_nobody(cid, Duration::from_secs(3), knows_nobody, Some((&why, Wanted::Manifest)));
            text.replace(&cid.to_string(), "X")
        };
        let known = "X came from none of its providers within 3 s (1 provider: unreachable; the manifest has no live \
                     provider); try again when one is up";
        assert_eq!([said(false, 1, 0), said(true, 1, 0)], [known, known]);
        assert_eq!(
            said(false, 0, 0),
            "no provider of X found within 3 s: check the CID, and that a daemon that has it is running"
        );
        assert_eq!(
            said(true, 0, 0),
            "no provider of X found within 3 s: this node knows no other node of the network; name one with \
             --bootstrap or --peer"
        );
        assert_eq!(
            said(true, 0, 1),
            "no provider of X found within 3 s: this node knows no other node of the network; check the address, and \
             that the peer is up (the given peer does not answer)"
        );
    }
}
