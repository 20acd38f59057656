//! `providers`: who holds a CID, as the DHT says, and what becomes of asking them.

use std::{collections::BTreeSet, pin::pin};

use dhtfs_store::ContentCid;
use futures::{StreamExt as _, stream};
use libp2p::{Multiaddr, PeerId};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{
    Api, ParsedHints,
    check::ChunkCount,
    parse_link,
    types::{ApiError, LookupReport, Provider, ProvidersRequest},
};
use crate::net::LookupEvent;

/// Providers named in one answer; a lookup that finds more ends there.
const MAX_PROVIDERS: u64 = 1000;

/// Providers that are asked what they have at the same time; each may send a manifest block, 1 MiB
/// at most, and one of them the others of the content.
const MAX_CHECKS_AT_ONCE: usize = 16;

/// What becomes of an event of the lookup.
enum Turn {
    Provider(Result<Provider, ApiError>),
    Done(LookupReport),
}

impl Api {
    /// Asks the DHT for the providers of a manifest or chunk; each goes to `found` once, as it is found or, if that was
    /// asked for, once it is known what it has. Peers named in the hints are joined first, nothing more is believed of
    /// them.
    ///
    /// # Errors
    /// [`super::types::ErrorKind::NotFound`] if there is none, [`super::types::ErrorKind::Usage`] for no CID.
    pub async fn providers(
        &self,
        request: ProvidersRequest,
        found: mpsc::Sender<Provider>,
    ) -> Result<LookupReport, ApiError> {
        let link = parse_link(&request.cid)?;
        let hints = ParsedHints::new(&request.hints, &link)?;
        let net = self.network()?;
        let begun = Instant::now();
        let deadline = begun + hints.no_progress;
        for addr in hints.hints.peers.iter().chain(&hints.hints.bootstrap) {
            let _ = timeout_at(deadline, net.client.dial(addr.clone())).await;
        }
        let mut routing = net.routing.clone();
        let _ = timeout_at(deadline, routing.wait_for(|peers| *peers > 0)).await;
        let lookup = net.client.find_providers(link.cid).await;
        let events = stream::unfold((lookup, BTreeSet::new()), |(mut lookup, mut seen)| async move {
            loop {
                let event = timeout_at(deadline, lookup.next()).await.ok()??;
                let is_new = match &event {
                    LookupEvent::Provider { peer, .. } => seen.insert(*peer),
                    LookupEvent::Done(_) => true,
                };
                if is_new {
                    return Some((event, (lookup, seen)));
                }
            }
        });
        let chunks = ChunkCount::new();
        let check = request.check.then_some((deadline, &chunks));
        let turns = events.map(|event| self.turn(link.cid, event, check));
        let mut turns = pin!(turns.buffer_unordered(MAX_CHECKS_AT_ONCE));
        let mut report = LookupReport::default();
        let mut count = 0;
        while let Some(turn) = turns.next().await {
            match turn {
                Turn::Provider(provider) => {
                    count += 1;
                    if found.send(provider?).await.is_err() || count >= MAX_PROVIDERS {
                        break;
                    }
                }
                Turn::Done(done) => report = done,
            }
        }
        if count == 0 {
            return Err(self.not_found(link.cid, begun.elapsed(), None));
        }
        Ok(LookupReport { found: count, seconds: begun.elapsed().as_secs_f64(), ..report })
    }

    async fn turn(&self, cid: ContentCid, event: LookupEvent, check: Option<(Instant, &ChunkCount)>) -> Turn {
        match event {
            LookupEvent::Provider { peer, addrs } => {
                Turn::Provider(self.provider(cid, peer, addrs, check).await)
            }
            LookupEvent::Done(stats) => Turn::Done(LookupReport {
                requests: stats.requests,
                hops: stats.first_provider_after,
                ..LookupReport::default()
            }),
        }
    }

    async fn provider(
        &self,
        cid: ContentCid,
        peer: PeerId,
        addrs: Vec<Multiaddr>,
        check: Option<(Instant, &ChunkCount)>,
    ) -> Result<Provider, ApiError> {
        let texts = addrs.iter().map(Multiaddr::to_string).collect();
        let check = match check {
            Some((deadline, chunks)) => Some(self.check(cid, peer, addrs, chunks, deadline).await?),
            None => None,
        };
        Ok(Provider { peer: peer.to_string(), addrs: texts, this_node: peer == self.inner.peer_id, check })
    }
}
