//! A fetch on one of the demo's daemons, and whom to kill during it.

use std::path::PathBuf;

use dhtfs_node::api::types::{GetProgress, GetReport, GetRequest, Source as Peer};

use super::daemons::{self, Daemon};
use crate::{error::Result, output::Output, progress::GetBar};

/// A fetch that is about to begin.
pub(super) struct Fetch<'a> {
    out: &'a Output,
    who: String,
    request: GetRequest,
    dir: PathBuf,
}

impl<'a> Fetch<'a> {
    /// Of `cid` on `daemon`, to the path `to`; its bar is shown on `out`.
    pub(super) fn new(out: &'a Output, daemon: &Daemon, cid: &str, to: PathBuf) -> Self {
        let request = GetRequest { cid: cid.to_owned(), out: Some(to), ..GetRequest::default() };
        Self { out, who: format!("    #{} ", daemon.number), request, dir: daemon.dir().to_owned() }
    }

    /// Fetches. `on_progress` is called in between and decides what the bar shows.
    ///
    /// # Errors
    /// Those of the daemon's `get`.
    pub(super) async fn run(
        self,
        mut on_progress: impl FnMut(&mut GetBar, GetProgress),
    ) -> Result<GetReport> {
        let node = daemons::connect(&self.dir).await?;
        let mut bar = self.out.get_bar_for(&self.who, &self.request.cid);
        let events = node.events::<GetProgress, GetReport>("/v0/get", &self.request).await?;
        events.finish(|progress| on_progress(&mut bar, progress)).await
    }
}

/// Whether half of the bytes, or more, have arrived and some are still to come.
pub(super) fn is_half(progress: &GetProgress) -> bool {
    let have = progress.have_len;
    progress.total_len > 0 && have >= progress.total_len / 2 && have < progress.total_len
}

/// Whom to kill: of daemons 2 and 3 the one that has served most. `peers` tells whose peer ID is whose.
pub(super) fn victim(sources: &[Peer], peers: &[(usize, String)]) -> usize {
    let served = |number: usize| {
        let peer = peers.iter().find(|(of, _)| *of == number).map(|(_, peer)| peer.as_str());
        sources
            .iter()
            .filter(|source| Some(source.peer.as_str()) == peer)
            .map(|source| source.len)
            .sum::<u64>()
    };
    if served(3) > served(2) { 3 } else { 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(peer: &str, len: u64) -> Peer {
        Peer { peer: peer.to_owned(), len, ..Peer::default() }
    }

    #[test]
    fn half_is_reached_only_while_something_is_still_to_come() {
        let at = |have_len| GetProgress { have_len, total_len: 100, ..GetProgress::default() };
        assert!(!is_half(&at(49)));
        assert!(is_half(&at(50)));
        assert!(is_half(&at(99)));
        assert!(!is_half(&at(100)));
        assert!(!is_half(&GetProgress::default()), "nothing is known yet");
    }

    #[test]
    fn the_one_that_served_most_is_killed_but_never_the_first() {
        let peers = [(1, "a".to_owned()), (2, "b".to_owned()), (3, "c".to_owned())];
        assert_eq!(victim(&[], &peers), 2);
        assert_eq!(victim(&[source("a", 9), source("c", 2), source("b", 1)], &peers), 3);
        assert_eq!(victim(&[source("a", 9), source("b", 2)], &peers), 2);
    }
}
