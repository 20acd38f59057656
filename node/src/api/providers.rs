//! `providers`: who holds a CID, as the DHT says.

use libp2p::{Multiaddr, PeerId};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Api, ParsedHints, parse_link,
    types::{ApiError, LookupReport, Provider, ProvidersRequest},
};
use crate::net::LookupEvent;

/// Providers named in one answer; a lookup that finds more ends there.
const MAX_PROVIDERS: u64 = 1000;

impl Api {
    /// Asks the DHT for the providers of a manifest or chunk; each goes to `found` once, as it is found. Peers
    /// named in the hints are joined first, nothing more is believed of them.
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
            let _ = tokio::time::timeout_at(deadline, net.client.dial(addr.clone())).await;
        }
        let mut routing = net.routing.clone();
        let _ = tokio::time::timeout_at(deadline, routing.wait_for(|peers| *peers > 0)).await;
        let mut report = LookupReport::default();
        let mut seen = std::collections::BTreeSet::new();
        let mut lookup = net.client.find_providers(link.cid).await;
        while let Ok(Some(event)) = tokio::time::timeout_at(deadline, lookup.next()).await {
            match event {
                LookupEvent::Provider { peer, addrs } => {
                    if !seen.insert(peer) {
                        continue;
                    }
                    report.found += 1;
                    let provider = provider(peer, &addrs, peer == self.inner.peer_id);
                    if found.send(provider).await.is_err() || report.found >= MAX_PROVIDERS {
                        break;
                    }
                }
                LookupEvent::Done(stats) => {
                    report.requests = stats.requests;
                    report.hops = stats.first_provider_after;
                    break;
                }
            }
        }
        report.seconds = begun.elapsed().as_secs_f64();
        if report.found == 0 {
            return Err(self.not_found(link.cid, begun.elapsed()));
        }
        Ok(report)
    }
}

fn provider(peer: PeerId, addrs: &[Multiaddr], this_node: bool) -> Provider {
    Provider { peer: peer.to_string(), addrs: addrs.iter().map(Multiaddr::to_string).collect(), this_node }
}
