//! What `add --wait` waits for and says: whether others find a share.

use std::time::Duration;

use dhtfs_node::api::types::{Added, AnnounceScope, ApiError, ErrorKind, Findable, WaitRequest};
use tokio::time::Instant;

use crate::{
    connection::Connection,
    context::Context,
    error::{CliError, Result},
    format,
};

/// How long is waited unless `--timeout` says otherwise.
const DEFAULT_WAIT: Duration = Duration::from_secs(120);

/// The last of several shares is looked at even if the others took all the time.
const MIN_WAIT_SECS: f64 = 0.001;

/// A wait for one or several shares.
#[derive(Debug)]
pub(crate) struct Wait {
    timeout: Duration,
    deadline: Instant,
    shares: usize,
}

impl Wait {
    /// Begins to wait for so many shares, so many seconds for all of them together.
    pub(crate) fn new(timeout_secs: Option<f64>, shares: usize) -> Self {
        let timeout = timeout_secs.map_or(DEFAULT_WAIT, Duration::from_secs_f64);
        Self { timeout, deadline: Instant::now() + timeout, shares }
    }

    /// Waits for one of them, with a spinner that says how far it is.
    pub(crate) async fn share(
        &self,
        context: &Context,
        node: &Connection,
        added: &Added,
    ) -> Result<Findable> {
        let left = self.deadline.saturating_duration_since(Instant::now()).as_secs_f64();
        let request = WaitRequest { cid: added.cid.clone(), timeout_secs: Some(left.max(MIN_WAIT_SECS)) };
        let spinner = context.out.spinner("announcing".to_owned());
        let events = node.events::<Findable, Findable>("/v0/wait", &request).await?;
        events.finish(|found| spinner.update(underway(&found))).await
    }

    /// What is said of a share that others find.
    pub(crate) fn line(&self, added: &Added, found: &Findable) -> String {
        format!("{}findable: {}", self.name(added), counts(found))
    }

    /// What is said of a share that others do not find yet. `goes_on`: a node here goes on announcing it.
    pub(crate) fn error(&self, added: &Added, found: &Findable, goes_on: bool) -> CliError {
        let name = self.name(added);
        let waited = format::duration(self.timeout);
        let message = if found.scope == AnnounceScope::None {
            format!(
                "{name}not findable: it is shared with --announce none; `dhtfs add --announce all` changes that"
            )
        } else if found.dht_nodes == 0 {
            format!(
                "{name}not findable after {waited}: no other node is known, so there was nobody to announce it to; \
                 join a network with `dhtfs daemon --bootstrap MULTIADDR`, which announces it then"
            )
        } else {
            let next = if goes_on {
                "announcing goes on, `dhtfs status CID` shows how far it is"
            } else {
                "run `dhtfs daemon` to go on"
            };
            format!("{name}not findable after {waited}: {}; {next}", counts(found))
        };
        ApiError::new(ErrorKind::Incomplete, message).into()
    }

    /// In front of what is said of one of several.
    fn name(&self, added: &Added) -> String {
        if self.shares > 1 { format!("{}: ", format::clean(&added.name)) } else { String::new() }
    }
}

fn underway(found: &Findable) -> String {
    if found.dht_nodes == 0 {
        return "waiting for another node to announce it to".to_owned();
    }
    format!("announcing: {}", counts(found))
}

/// On how many nodes the records are.
pub(crate) fn counts(found: &Findable) -> String {
    let holders = format::thousands(found.root_holders);
    let mut text = match found.target {
        // Without a network it is not known how many there should be.
        0 => format!("manifest on {holders}"),
        target => format!("manifest on {holders} of {}", format::thousands(target)),
    };
    let is_root_announced = u64::from(found.root_holders > 0);
    let below =
        (found.manifests.keys.saturating_sub(1), found.manifests.announced.saturating_sub(is_root_announced));
    let parts = [
        ("blocks below it", below, &found.manifests),
        ("chunks", (found.chunks.keys, found.chunks.announced), &found.chunks),
    ];
    for (what, (keys, done), announced) in parts {
        if keys > 0 {
            text.push_str(&format!(", {what} {}", part(keys, done, announced.min_holders)));
        }
    }
    if found.scope == AnnounceScope::Roots {
        text.push_str(" (announced by its root only)");
    }
    text
}

/// How many of the keys are announced, and to how many nodes at least.
fn part(keys: u64, done: u64, min_holders: Option<u64>) -> String {
    let mut text = format!("{} of {}", format::thousands(done), format::thousands(keys));
    if let Some(holders) = min_holders.filter(|_| done > 0) {
        text.push_str(&format!(" on >= {}", format::thousands(holders)));
    }
    text
}

#[cfg(test)]
mod tests {
    use dhtfs_node::api::types::Announced;

    use super::*;

    fn announced(keys: u64, announced: u64, holders: u64) -> Announced {
        let min_holders = (announced > 0).then_some(holders);
        Announced { keys, announced, min_holders, oldest_unix: min_holders.map(|_| 1_000) }
    }

    fn found() -> Findable {
        Findable {
            cid: "bafy".to_owned(),
            findable: true,
            scope: AnnounceScope::All,
            dht_nodes: 500,
            target: 20,
            enough: 10,
            root_holders: 20,
            manifests: announced(1, 1, 20),
            chunks: announced(1_024, 1_024, 18),
            seconds: 1.5,
        }
    }

    fn added() -> Added {
        Added {
            cid: "bafy".to_owned(),
            name: "a.mp4".to_owned(),
            len: 3,
            files: 1,
            chunks: 1,
            directory: false,
            skipped: 0,
            first_skipped: None,
            seconds: 0.1,
            addrs: Vec::new(),
        }
    }

    fn error(found: &Findable, goes_on: bool) -> String {
        let error = Wait::new(None, 1).error(&added(), found, goes_on);
        assert_eq!(error.exit_code(), 4);
        error.line().unwrap_or_default()
    }

    #[tokio::test]
    async fn what_is_findable_is_said_with_the_counts_of_its_records() {
        let line = |found: &Findable| Wait::new(None, 1).line(&added(), found);
        assert_eq!(line(&found()), "findable: manifest on 20 of 20, chunks 1,024 of 1,024 on >= 18");
        let directory = Findable { manifests: announced(5, 5, 17), ..found() };
        assert_eq!(
            line(&directory),
            "findable: manifest on 20 of 20, blocks below it 4 of 4 on >= 17, chunks 1,024 of 1,024 on >= 18"
        );
        let root = Findable { scope: AnnounceScope::Roots, chunks: Announced::default(), ..found() };
        assert_eq!(line(&root), "findable: manifest on 20 of 20 (announced by its root only)");
        let late_root = Findable { root_holders: 0, manifests: announced(5, 4, 17), ..found() };
        assert!(
            counts(&late_root).contains("manifest on 0 of 20, blocks below it 4 of 4"),
            "{}",
            counts(&late_root)
        );
        let several = Wait::new(None, 2).line(&added(), &found());
        let offline = Findable { dht_nodes: 0, target: 0, ..found() };
        assert_eq!(counts(&offline), "manifest on 20, chunks 1,024 of 1,024 on >= 18");
        assert!(several.starts_with("a.mp4: findable: manifest on 20 of 20"), "{several}");
    }

    #[tokio::test]
    async fn what_is_not_findable_is_said_with_how_far_it_is_and_what_to_do() {
        let half =
            Findable { findable: false, root_holders: 0, chunks: announced(1_024, 512, 18), ..found() };
        assert_eq!(
            error(&half, true),
            "not findable after 2 min 0 s: manifest on 0 of 20, chunks 512 of 1,024 on >= 18; announcing goes on, \
             `dhtfs status CID` shows how far it is"
        );
        assert!(error(&half, false).ends_with("run `dhtfs daemon` to go on"));
        let none = Findable { chunks: announced(3, 0, 0), ..half.clone() };
        assert!(error(&none, true).contains("manifest on 0 of 20, chunks 0 of 3;"), "{}", error(&none, true));
        let alone = Findable { dht_nodes: 0, target: 0, ..half.clone() };
        assert!(error(&alone, true).contains("no other node is known"), "{}", error(&alone, true));
        let scope = Findable { scope: AnnounceScope::None, ..half };
        assert!(error(&scope, true).contains("--announce none"), "{}", error(&scope, true));
    }

    #[test]
    fn while_waiting_it_says_how_far_it_is() {
        assert_eq!(underway(&found()), "announcing: manifest on 20 of 20, chunks 1,024 of 1,024 on >= 18");
        assert!(underway(&Findable::default()).starts_with("waiting for another node"));
    }
}
