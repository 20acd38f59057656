//! What a provider turns out to be: whether it can be reached, how far away it is, and what it has.

use std::time::Duration;

use dhtfs_store::ContentCid;
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    Api,
    types::{ApiError, ProviderCheck, ProviderState},
};
use crate::net::{BlockAnswer, Client, PeerInfo};

/// How long one provider may take, all in all.
const MAX_CHECK: Duration = Duration::from_secs(10);

/// A ping begins with the connection; its answer is looked for so often, with this pause.
const MAX_RTT_LOOKS: u32 = 5;
const RTT_PAUSE: Duration = Duration::from_millis(50);

impl Api {
    /// Connects to a provider of `cid` and asks it what it has, until `deadline` at the latest.
    pub(super) async fn check(
        &self,
        cid: ContentCid,
        peer: PeerId,
        addrs: Vec<Multiaddr>,
        deadline: Instant,
    ) -> Result<ProviderCheck, ApiError> {
        if peer == self.inner.peer_id {
            let manifest = self.has_manifest(cid).await?;
            return Ok(ProviderCheck { state: ProviderState::ThisNode, rtt_ms: None, manifest, error: None });
        }
        let client = &self.network()?.client;
        let deadline = deadline.min(Instant::now() + MAX_CHECK);
        let error = match timeout_at(deadline, client.connect(peer, addrs)).await {
            Ok(Ok(())) => {
                let manifest = ask(client, cid, peer, deadline).await;
                let info = info_with_rtt(client, peer).await;
                let state = info.as_ref().map_or(ProviderState::Live, state);
                let rtt_ms = info.and_then(|info| info.rtt).map(|rtt| rtt.as_secs_f64() * 1000.0);
                return Ok(ProviderCheck { state, rtt_ms, manifest, error: None });
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no connection in time".to_owned(),
        };
        let state = ProviderState::Unreachable;
        Ok(ProviderCheck { state, rtt_ms: None, manifest: None, error: Some(error) })
    }

    async fn has_manifest(&self, cid: ContentCid) -> Result<Option<bool>, ApiError> {
        let ContentCid::Manifest(cid) = cid else { return Ok(None) };
        let block = self.inner.store.call(move |s| s.manifest_block(&cid)).await??;
        Ok(Some(block.is_some()))
    }
}

/// Whether a connected peer has the manifest; `None` if it does not say.
///
/// The one place that asks a provider what it has: the protocol has no question but for the bytes themselves, so
/// only a manifest block is asked for, which is small, and never a chunk.
async fn ask(client: &Client, cid: ContentCid, peer: PeerId, deadline: Instant) -> Option<bool> {
    let ContentCid::Manifest(_) = cid else { return None };
    match timeout_at(deadline, client.request(peer, cid)).await {
        Ok(Ok(BlockAnswer::Data(data))) => Some(cid.matches(&data)),
        Ok(Ok(BlockAnswer::Missing)) => Some(false),
        Ok(Ok(BlockAnswer::Busy) | Err(_)) | Err(_) => None,
    }
}

/// What is known of a connected peer, if possible with the round trip.
async fn info_with_rtt(client: &Client, peer: PeerId) -> Option<PeerInfo> {
    let mut found = None;
    for _ in 0..MAX_RTT_LOOKS {
        found = client.peers().await.ok()?.into_iter().find(|info| info.peer == peer);
        if found.as_ref().is_none_or(|info| info.rtt.is_some()) {
            break;
        }
        sleep(RTT_PAUSE).await;
    }
    found
}

fn state(info: &PeerInfo) -> ProviderState {
    let is_relayed = |addr: &Multiaddr| addr.iter().any(|part| part == Protocol::P2pCircuit);
    if !info.addrs.is_empty() && info.addrs.iter().all(is_relayed) {
        ProviderState::Relayed
    } else {
        ProviderState::Live
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

    use super::*;
    use crate::net::Direction;

    #[test]
    fn a_peer_counts_as_relayed_only_if_no_connection_is_direct() {
        let direct: Multiaddr = "/ip4/10.0.0.1/tcp/1".parse().unwrap();
        let relayed = direct.clone().with(Protocol::P2p(PeerId::random())).with(Protocol::P2pCircuit);
        let info = |addrs: &[&Multiaddr]| PeerInfo {
            peer: PeerId::random(),
            addrs: addrs.iter().map(|addr| (*addr).clone()).collect(),
            agent: None,
            kad: true,
            exchange: true,
            rtt: None,
            connected_for: Duration::ZERO,
            direction: Direction::Outbound,
            in_routing_table: false,
        };
        assert_eq!(state(&info(&[&relayed])), ProviderState::Relayed);
        assert_eq!(state(&info(&[&relayed, &direct])), ProviderState::Live);
        assert_eq!(state(&info(&[])), ProviderState::Live);
    }
}
