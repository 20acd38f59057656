//! Joins the network and stays in it: dials the addresses a user gave and the peers of the last run, again and
//! again while the routing table is empty, and saves the table for the next run.

use std::collections::BTreeMap;
use std::time::Duration;

use dhtfs_store::SavedPeer;
use futures::{StreamExt, stream::FuturesUnordered};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::watch;
use tracing::{debug, info};

use super::{ended, now, sleep_until};
use crate::{
    core::backoff::{Backoff, BackoffPolicy},
    env::{StoreHandle, WallClock},
    net::Client,
};

/// Saved peers dialled at a time; the rest waits.
const MAX_DIALS: usize = 16;

/// Connected peers at which joining by saved peers is enough; kad finds the others.
const ENOUGH_PEERS: usize = 8;

/// How often the routing table is saved while the node runs, if it has changed. A killed node forgets at most
/// the peers it met since.
const SAVE_EVERY: Duration = Duration::from_secs(5 * 60);

/// The first save after joining is sooner: the table of a fresh node grows fast.
const FIRST_SAVE_AFTER: Duration = Duration::from_secs(30);

/// First and longest pause between two rounds of dialling while the table is empty.
const RETRY: BackoffPolicy = BackoffPolicy::new(Duration::from_secs(1), Duration::from_secs(60));

/// What the driver works with.
#[derive(Debug)]
pub struct JoinTask {
    /// Dials.
    pub client: Client,
    /// Holds the peers of the last run.
    pub store: StoreHandle,
    /// Addresses the user gave.
    pub bootstrap: Vec<Multiaddr>,
    /// Number of peers in the routing table.
    pub routing: watch::Receiver<usize>,
    /// Turns true after the first round of dials of `bootstrap` has ended.
    pub dialled: watch::Sender<bool>,
    /// Seeds the pauses.
    pub seed: u64,
}

impl JoinTask {
    /// Runs until `shutdown` turns true, then saves the table a last time.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>, clock: WallClock) {
        let mut backoff = Backoff::new(RETRY, self.seed);
        let mut save = tokio::time::interval_at(tokio::time::Instant::now() + FIRST_SAVE_AFTER, SAVE_EVERY);
        save.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut retry_at = Some(now());
        let mut saved_once = false;
        let mut saved = BTreeMap::new();
        let mut ending = shutdown.clone();
        loop {
            tokio::select! {
                () = ended(&mut shutdown) => break,
                () = sleep_until(retry_at) => {
                    tokio::select! {
                        () = ended(&mut ending) => break,
                        () = self.dial_everybody() => {}
                    }
                    self.dialled.send_replace(true);
                    retry_at = (*self.routing.borrow() == 0).then(|| now() + backoff.next_delay());
                }
                _ = save.tick() => self.save(&clock, &mut saved).await,
                changed = self.routing.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let peers = *self.routing.borrow_and_update();
                    if peers == 0 {
                        retry_at = Some(now() + backoff.next_delay());
                    } else {
                        backoff.reset();
                        retry_at = None;
                        if !saved_once {
                            // The first peers at once: a node killed within its first minute finds back.
                            saved_once = true;
                            self.save(&clock, &mut saved).await;
                        }
                    }
                }
            }
        }
        self.save(&clock, &mut saved).await;
    }

    async fn dial_everybody(&self) {
        let mut dials: FuturesUnordered<_> =
            self.bootstrap.iter().map(|addr| self.dial(addr.clone())).collect();
        while dials.next().await.is_some() {}
        let saved = self.store.call(|s| s.load_peers()).await;
        let saved = saved.ok().and_then(Result::ok).unwrap_or_default();
        let mut saved = saved.into_iter().filter_map(parse_peer);
        let mut dials = FuturesUnordered::new();
        loop {
            while dials.len() < MAX_DIALS && *self.routing.borrow() < ENOUGH_PEERS {
                let Some((peer, addrs)) = saved.next() else { break };
                dials.push(self.client.connect(peer, addrs));
            }
            if dials.next().await.is_none() {
                break;
            }
        }
        if *self.routing.borrow() > 0 {
            match self.client.bootstrap().await {
                Ok(peers) => debug!(peers, "joined"),
                Err(error) => debug!(%error, "walking the network failed"),
            }
        }
    }

    async fn dial(&self, addr: Multiaddr) {
        match self.client.dial(addr.clone()).await {
            Ok(peer) => debug!(%peer, %addr, "joined through"),
            Err(error) => info!(%addr, %error, "bootstrap address did not answer"),
        }
    }

    /// Saves the table unless it is `saved` already.
    async fn save(&self, clock: &WallClock, saved: &mut Table) {
        let Ok(peers) = self.client.routing_peers().await else { return };
        let peers = Table::from_iter(peers);
        // An offline evening must not erase the way back.
        if peers.is_empty() || peers == *saved {
            return;
        }
        let last_seen_unix = clock();
        let rows: Vec<SavedPeer> = peers
            .iter()
            .map(|(peer, addrs)| SavedPeer {
                peer: peer.to_bytes(),
                addrs: addrs.iter().map(Multiaddr::to_string).collect(),
                last_seen_unix,
            })
            .collect();
        match self.store.call(move |s| s.save_peers(&rows)).await {
            Ok(Ok(())) => *saved = peers,
            Ok(Err(error)) => {
                info!(%error, "saving the routing peers failed; the next run starts from older ones");
            }
            Err(_) => {}
        }
    }
}

/// Peers of the routing table and their addresses.
type Table = BTreeMap<PeerId, Vec<Multiaddr>>;

fn parse_peer(row: SavedPeer) -> Option<(PeerId, Vec<Multiaddr>)> {
    let peer = PeerId::from_bytes(&row.peer).ok()?;
    let addrs: Vec<Multiaddr> = row.addrs.iter().filter_map(|addr| addr.parse().ok()).collect();
    (!addrs.is_empty()).then_some((peer, addrs))
}
