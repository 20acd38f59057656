//! `status`, `peers`, `id`: what this node is and does.

use std::collections::BTreeMap;

use dhtfs_store::{ChunkCid, ContentCid, ManifestCid, ShareState};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

use super::{
    Api,
    ls::{have_len, state_name},
    net::tested,
    parse_link,
    types::{ApiError, ContentStatus, Identity, PeerEntry, ProvideInfo, ReachabilityInfo, Ready, Status},
};
use crate::{
    Role,
    core::{provide::ProvideConfig, serve::ServeConfig},
    net::{Direction, NetLimits, NetStatus, Verdict},
};

impl Api {
    /// The state of the node.
    ///
    /// # Errors
    /// [`super::types::ErrorKind::Store`] if the store fails.
    pub async fn status(&self) -> Result<Status, ApiError> {
        let inner = &self.inner;
        let shares = inner.store.call(|s| s.shares()).await??;
        let net = self.net_status().await;
        let mut counters: BTreeMap<String, u64> = BTreeMap::new();
        if let Some(net) = &net {
            counters.extend(net.counters.iter().map(|(name, count)| ((*name).to_owned(), *count)));
        }
        counters.insert("transfers".to_owned(), inner.transfers.len() as u64);
        if let Some(net) = &inner.net {
            let limited = net.client.rates().counters();
            counters.extend(limited.map(|(name, count)| (name.to_owned(), count)));
            let served = net.served.borrow();
            counters.insert("serve_answered".to_owned(), served.served);
            counters.insert("serve_answered_len".to_owned(), served.served_len);
            counters.insert("serve_missing".to_owned(), served.missing);
            counters.insert("serve_refused_busy".to_owned(), served.busy);
            counters.insert("serve_dropped".to_owned(), served.dropped);
            let lan = net.lan.as_ref().map(|lan| lan.borrow().counters());
            counters.extend(lan.into_iter().flatten().map(|(name, count)| (name.to_owned(), count)));
        }
        let listed = |addrs: Option<&Vec<Multiaddr>>| {
            addrs.into_iter().flatten().map(|addr| self.with_own_id(addr)).collect::<Vec<_>>()
        };
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            data_dir: inner.store.store().dir().to_owned(),
            peer_id: inner.peer_id.to_string(),
            network: inner.config.network.clone(),
            online: inner.role == Role::Server,
            uptime_secs: inner.started.elapsed().as_secs(),
            listen: listed(net.as_ref().map(|n| &n.listen)),
            external: listed(net.as_ref().map(|n| &n.external)),
            profile: net.as_ref().map_or_else(|| "offline".to_owned(), |n| n.profile.to_string()),
            reachability: net.as_ref().map(reachability).unwrap_or_default(),
            net: net.as_ref().map(|net| self.net_info(net)),
            connected: net.as_ref().map_or(0, |n| n.connected as u64),
            connections: net.as_ref().map_or(0, |n| n.connections as u64),
            records_held: net.as_ref().map_or(0, |n| n.provider_records_held as u64),
            requests_open: net.as_ref().map_or(0, |n| n.requests_open as u64),
            routing_peers: net.as_ref().map_or(0, |n| n.routing_peers as u64),
            shares: shares.len() as u64,
            shares_len: shares.iter().map(|share| share.size).sum(),
            provide: self.provide_info(),
            limits: self.limits(),
            counters,
        })
    }

    /// How much is in use of what bounds memory and connections, beside what `limits` and the defaults of the node allow: name, use, limit.
    /// Empty without a network. Asks the network only, so that it may be called often.
    pub async fn limits_in_use(&self, limits: &NetLimits) -> Vec<(&'static str, u64, u64)> {
        let Some(net) = &self.inner.net else { return Vec::new() };
        let Ok(usage) = net.client.usage().await else { return Vec::new() };
        let (serve, provide) = (ServeConfig::default(), ProvideConfig::default());
        let served = *net.served.borrow();
        let announcing = net.provide.as_ref().map_or(0, |provide| provide.stats().roots_in_flight);
        let network = usage.against(limits);
        let counts = [
            ("requests that wait to be served", served.queued, serve.max_queued),
            ("roots being announced", announcing, provide.max_roots_in_flight),
        ];
        let bytes = ("bytes read to be served", served.budget_used_len, serve.budget_len);
        let counts = network.into_iter().chain(counts);
        counts.map(|(name, used, limit)| (name, used as u64, limit as u64)).chain([bytes]).collect()
    }

    /// The peers in the routing table, nearest first; none without a network.
    pub async fn routing_table(&self) -> Vec<PeerId> {
        let Some(net) = &self.inner.net else { return Vec::new() };
        let peers = net.client.routing_peers().await.unwrap_or_default();
        peers.into_iter().map(|(peer, _)| peer).collect()
    }

    /// What is here of one CID.
    ///
    /// # Errors
    /// [`super::types::ErrorKind::Usage`] for no CID, [`super::types::ErrorKind::Store`] if the store fails.
    pub async fn status_of(&self, cid: &str) -> Result<ContentStatus, ApiError> {
        match parse_link(cid)?.cid {
            ContentCid::Manifest(root) => self.status_of_manifest(root).await,
            ContentCid::Chunk(cid) => self.status_of_chunk(cid).await,
        }
    }

    async fn status_of_manifest(&self, root: ManifestCid) -> Result<ContentStatus, ApiError> {
        let share = self.inner.store.call(move |s| s.share(&root)).await??;
        let mut status = ContentStatus {
            cid: root.to_string(),
            kind: "manifest".to_owned(),
            state: "none".to_owned(),
            name: None,
            len: None,
            have_len: 0,
            path: None,
            announce: None,
        };
        if let Some(share) = share {
            status.announce = self.announced_share(root).await?;
            state_name(&share.state).clone_into(&mut status.state);
            status.have_len = have_len(&share);
            status.len = Some(share.size);
            status.name = Some(share.name);
            status.path = share.paths.into_iter().next();
            return Ok(status);
        }
        // Not a share of its own; it may be a file of a shared directory.
        status.announce = self.announced_key(root.into()).await?;
        if let Some(resolved) = self.resolve_here(root).await? {
            let chunks = resolved.tree.unique_chunks();
            let held = self.inner.store.call(move |s| {
                chunks.into_iter().try_fold((0_u64, true), |(len, all), (cid, chunk_len)| {
                    let has = s.has_chunk(&cid)?;
                    Ok::<_, dhtfs_store::StoreError>((
                        len + if has { u64::from(chunk_len) } else { 0 },
                        all && has,
                    ))
                })
            });
            let (have_len, is_complete) = held.await??;
            let state = match (is_complete, have_len) {
                (true, _) => ShareState::Complete,
                (false, 0) => return Ok(ContentStatus { len: Some(resolved.tree.size), ..status }),
                (false, _) => ShareState::Partial { have_len },
            };
            state_name(&state).clone_into(&mut status.state);
            status.have_len = have_len;
            status.len = Some(resolved.tree.size);
            status.name = Some(resolved.tree.name);
        }
        Ok(status)
    }

    async fn status_of_chunk(&self, cid: ChunkCid) -> Result<ContentStatus, ApiError> {
        let read = self.inner.store.call(move |s| s.read_chunk(&cid)).await??;
        let len = match read {
            dhtfs_store::ChunkRead::Data(data) => Some(data.len() as u64),
            dhtfs_store::ChunkRead::Missing | dhtfs_store::ChunkRead::Withdrawn(_) => None,
        };
        Ok(ContentStatus {
            cid: cid.to_string(),
            kind: "chunk".to_owned(),
            state: if len.is_some() { "complete" } else { "none" }.to_owned(),
            name: None,
            len,
            have_len: len.unwrap_or(0),
            path: None,
            announce: self.announced_key(cid.into()).await?,
        })
    }

    /// The peers connected now.
    ///
    /// # Errors
    /// [`super::types::ErrorKind::Failed`] without a network.
    pub async fn peers(&self) -> Result<Vec<PeerEntry>, ApiError> {
        let peers = self.network()?.client.peers().await.unwrap_or_default();
        Ok(peers
            .into_iter()
            .map(|info| PeerEntry {
                peer: info.peer.to_string(),
                addrs: info.addrs.iter().map(Multiaddr::to_string).collect(),
                agent: info.agent,
                rtt_ms: info.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
                routing: info.in_routing_table,
                direction: match info.direction {
                    Direction::Outbound => "out",
                    Direction::Inbound => "in",
                }
                .to_owned(),
            })
            .collect())
    }

    /// Who this node is and where it can be dialled.
    pub async fn id(&self) -> Identity {
        Identity {
            peer_id: self.inner.peer_id.to_string(),
            addrs: self.dialable_addrs().await,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            network: self.inner.config.network.clone(),
        }
    }

    /// What `dhtfs daemon` prints when it is ready.
    pub async fn ready(&self) -> Ready {
        let listen = self.net_status().await.map(|net| net.listen).unwrap_or_default();
        let listen = listen.iter().map(|addr| self.with_own_id(addr)).collect();
        Ready { peer_id: self.inner.peer_id.to_string(), listen }
    }

    /// The addresses others are told, with this node's ID.
    pub(super) async fn dialable_addrs(&self) -> Vec<String> {
        let external = self.net_status().await.map(|net| net.external).unwrap_or_default();
        external.iter().map(|addr| self.with_own_id(addr)).collect()
    }

    pub(super) async fn net_status(&self) -> Option<NetStatus> {
        self.inner.net.as_ref()?.client.status().await.ok()
    }

    pub(super) fn with_own_id(&self, addr: &Multiaddr) -> String {
        match addr.iter().last() {
            Some(Protocol::P2p(_)) => addr.to_string(),
            _ => addr.clone().with(Protocol::P2p(self.inner.peer_id)).to_string(),
        }
    }

    fn provide_info(&self) -> ProvideInfo {
        let Some(provide) = self.provide() else {
            return ProvideInfo::default();
        };
        let (stats, withdrawals) = (provide.stats(), provide.withdrawals());
        ProvideInfo {
            keys: stats.keys,
            announced: stats.announced,
            pending: stats.pending,
            failed: stats.failed,
            withdrawing: withdrawals.waiting,
            withdrawn: withdrawals.done,
            not_withdrawn: withdrawals.lost,
        }
    }
}

fn reachability(net: &NetStatus) -> ReachabilityInfo {
    let verdict = match net.reachability.verdict {
        Verdict::Unknown => "unknown",
        Verdict::Reachable => "reachable",
        Verdict::Unreachable => "unreachable",
    };
    ReachabilityInfo { verdict: verdict.to_owned(), addrs: tested(net) }
}
