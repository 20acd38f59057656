//! `net`: how others reach this node.

use libp2p::Multiaddr;
use tokio::time::Instant;

use super::{
    Api,
    types::{ApiError, NetInfo, RelayPlace, Source, TestedAddr},
};
use crate::{
    core::{profile::is_relayed, reach::Mapping},
    net::NetStatus,
};

impl Api {
    /// How others reach this node, and why.
    ///
    /// # Errors
    /// [`super::types::ErrorKind::Failed`] without a network.
    pub async fn net(&self) -> Result<NetInfo, ApiError> {
        self.network()?;
        let status = self.net_status().await;
        Ok(status.map(|status| self.net_info(&status)).unwrap_or_default())
    }

    pub(super) fn net_info(&self, net: &NetStatus) -> NetInfo {
        let listed = |addrs: &[Multiaddr]| addrs.iter().map(|addr| self.with_own_id(addr)).collect();
        let age = Instant::now().into_std().saturating_duration_since(net.reach.since);
        let mapping = match net.mapping {
            Mapping::Unknown => "unknown",
            Mapping::EndpointIndependent => "endpoint-independent",
            Mapping::Symmetric => "symmetric",
        };
        let places = net.relays.reserved.iter();
        NetInfo {
            reachability: net.reach.way.name().to_owned(),
            settled: net.reach.is_settled,
            since_unix: (self.inner.wall_clock)().saturating_sub(age.as_secs()),
            why: net.reach.why.clone(),
            mapping: mapping.to_owned(),
            listen: listed(&net.listen),
            external: listed(&net.external),
            tested: tested(net),
            relays: places
                .map(|(peer, addr)| RelayPlace { peer: peer.to_string(), addr: addr.to_string() })
                .collect(),
            relays_known: net.relays.on_offer as u64,
            is_relay: net.relays.is_offering,
            serves_dht: net.serves_dht,
        }
    }

    /// Notes which of the sources are behind a relay: connected now, and not past one.
    pub(super) async fn note_relayed(&self, sources: &mut [Source]) {
        let Ok(network) = self.network() else { return };
        let peers = network.client.peers().await.unwrap_or_default();
        for peer in peers.iter().filter(|peer| peer.addrs.iter().all(is_relayed)) {
            let name = peer.peer.to_string();
            for source in sources.iter_mut().filter(|source| source.peer == name) {
                source.relayed = true;
            }
        }
    }
}

/// The addresses that others have tried to dial.
pub(super) fn tested(net: &NetStatus) -> Vec<TestedAddr> {
    let tested = net.reachability.addrs.iter().map(|tested| TestedAddr {
        addr: tested.addr.to_string(),
        reachable: tested.reachable,
        tested_by: tested.tested_by.to_string(),
    });
    tested.collect()
}
