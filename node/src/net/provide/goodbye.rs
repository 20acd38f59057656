//! The last words of a node that ends in order, so that nobody is sent to it any more.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use libp2p::{Multiaddr, PeerId};
use tokio::time::{Instant, timeout, timeout_at};

use super::send::{Announcer, SendFailure};
use crate::net::limits::{MAX_GOODBYES, MAX_GOODBYES_AT_ONCE};

impl Announcer {
    /// Tells others that this node is about to end: the connected peers that serve the DHT, then the peers that were
    /// told of records in this run, the last ones first; at most [`MAX_GOODBYES`], for `within` in all. Says how many
    /// have heard it.
    ///
    /// Whoever is not reached in time finds out by itself, as after a crash.
    pub async fn goodbye_to_all(&self, within: Duration) -> usize {
        let deadline = Instant::now() + within;
        let Ok(Ok(connected)) = timeout_at(deadline, self.client().peers()).await else { return 0 };
        let serving = connected.into_iter().filter(|info| info.kad).map(|info| (info.peer, Vec::new()));
        let mut seen = BTreeSet::new();
        let peers: Vec<(PeerId, Vec<Multiaddr>)> = serving
            .chain(self.told().latest_first())
            .filter(|(peer, _)| seen.insert(*peer))
            .take(MAX_GOODBYES)
            .collect();
        // Whoever does not answer holds its place for half of the time only, so that others get a turn.
        let patience = within / 2;
        let mut saying = stream::iter(peers)
            .map(|(peer, addrs)| timeout(patience, self.goodbye_to(peer, addrs)))
            .buffer_unordered(MAX_GOODBYES_AT_ONCE);
        let mut heard = 0;
        while let Ok(Some(said)) = timeout_at(deadline, saying.next()).await {
            heard += usize::from(matches!(said, Ok(Ok(()))));
        }
        heard
    }

    async fn goodbye_to(&self, peer: PeerId, addrs: Vec<Multiaddr>) -> Result<(), SendFailure> {
        self.client().connect(peer, addrs).await?;
        self.goodbye(peer).await
    }
}
