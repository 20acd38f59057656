//! What a provider turns out to be: whether it can be reached, how far away it is, and what it has.

use std::time::Duration;

use dhtfs_store::{ContentCid, Held, ManifestCid, TreeResolver};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    Api,
    types::{ApiError, Have, ProviderCheck, ProviderState},
};
use crate::{
    core::fetch::HaveUpdate,
    net::{BlockAnswer, Client, HaveEnd, PeerInfo},
};

/// How long one provider may take, all in all.
const MAX_CHECK: Duration = Duration::from_secs(10);

/// How long a provider may take to send the manifest blocks from which the chunks are counted; others wait for it.
const MAX_COUNT: Duration = Duration::from_secs(3);

/// A ping begins with the connection; its answer is looked for so often, with this pause.
const MAX_RTT_LOOKS: u32 = 5;
const RTT_PAUSE: Duration = Duration::from_millis(50);

/// Manifest blocks that are asked of a provider to learn how many chunks there are: a file of 64 GiB, or a directory with
/// some sixty entries. Of larger ones it is only known if they are here.
const MAX_BLOCKS: usize = 64;

/// How many chunks a content unfolds to, once somebody has helped to find out.
pub(super) type ChunkCount = OnceCell<u32>;

impl Api {
    /// Connects to a provider of `cid` and asks it what it has, until `deadline` at the latest.
    pub(super) async fn check(
        &self,
        cid: ContentCid,
        peer: PeerId,
        addrs: Vec<Multiaddr>,
        chunks: &ChunkCount,
        deadline: Instant,
    ) -> Result<ProviderCheck, ApiError> {
        if peer == self.inner.peer_id {
            let (manifest, have) = (self.has_manifest(cid).await?, self.own_have(cid).await?);
            let state = ProviderState::ThisNode;
            return Ok(ProviderCheck { state, rtt_ms: None, manifest, have, error: None });
        }
        let client = &self.network()?.client;
        let own_deadline = Instant::now() + MAX_CHECK;
        let is_cut_short = deadline < own_deadline;
        let deadline = deadline.min(own_deadline);
        let (state, error) = match timeout_at(deadline, client.connect(peer, addrs)).await {
            Ok(Ok(())) => {
                let manifest = ask(client, cid, peer, deadline).await;
                let asked = timeout_at(deadline, self.have_of(cid, peer, chunks)).await;
                let have = asked.ok().transpose()?.flatten();
                let info = info_with_rtt(client, peer).await;
                let state = info.as_ref().map_or(ProviderState::Live, state);
                let rtt_ms = info.and_then(|info| info.rtt).map(|rtt| rtt.as_secs_f64() * 1000.0);
                return Ok(ProviderCheck { state, rtt_ms, manifest, have, error: None });
            }
            Ok(Err(error)) => (ProviderState::Unreachable, error.to_string()),
            Err(_) => no_connection(is_cut_short),
        };
        Ok(ProviderCheck { state, rtt_ms: None, manifest: None, have: None, error: Some(error) })
    }

    /// How much of a content this node holds.
    async fn own_have(&self, cid: ContentCid) -> Result<Option<Have>, ApiError> {
        let ContentCid::Manifest(root) = cid else { return Ok(None) };
        let held = self.inner.store.call(move |s| s.held(&root)).await??;
        Ok(match held {
            Some(Held::Some(set)) => Some(Have { held: set.count().into(), of: set.len().into() }),
            Some(Held::All) => {
                let count = self.resolve_here(root).await?.map(|resolved| resolved.tree.chunk_count);
                count.map(|count| Have { held: count, of: count })
            }
            None => None,
        })
    }

    /// How much of a content a connected peer says it holds.
    async fn have_of(
        &self,
        cid: ContentCid,
        peer: PeerId,
        chunks: &ChunkCount,
    ) -> Result<Option<Have>, ApiError> {
        let ContentCid::Manifest(root) = cid else { return Ok(None) };
        let client = &self.network()?.client;
        let here = self.resolve_here(root).await?.map(|resolved| resolved.tree.chunk_count);
        // One peer at a time is asked for its manifest blocks: they are kept until all are there.
        let found = chunks.get_or_try_init(async || {
            let found = match here {
                Some(count) => u32::try_from(count).ok(),
                None => timeout(MAX_COUNT, count_from(client, root, peer)).await.ok().flatten(),
            };
            found.ok_or(())
        });
        let Ok(&of) = found.await else { return Ok(None) };
        let told = match client.have(peer, (root, of)).await {
            Ok(mut stream) => stream.next().await,
            Err(end) => Err(end),
        };
        Ok(have(told, of))
    }

    async fn has_manifest(&self, cid: ContentCid) -> Result<Option<bool>, ApiError> {
        let ContentCid::Manifest(cid) = cid else { return Ok(None) };
        let block = self.inner.store.call(move |s| s.manifest_block(&cid)).await??;
        Ok(Some(block.is_some()))
    }
}

/// What is said of a provider that was not connected when its time was over.
fn no_connection(is_cut_short: bool) -> (ProviderState, String) {
    if is_cut_short {
        (
            ProviderState::NotChecked,
            "the time was over before it answered; give more with --timeout".to_owned(),
        )
    } else {
        (ProviderState::Unreachable, "no connection in time".to_owned())
    }
}

/// What a peer said about a content of so many chunks.
fn have(told: Result<HaveUpdate, HaveEnd>, of: u32) -> Option<Have> {
    let held = match told {
        Ok(HaveUpdate::All) => of,
        Ok(HaveUpdate::Map(set) | HaveUpdate::More(set)) => set.count(),
        Err(HaveEnd::Unknown) => 0,
        Err(_) => return None,
    };
    Some(Have { held: held.into(), of: of.into() })
}

/// How many chunks a content has, from the manifest blocks of a peer; `None` if it does not send them, or there are too
/// many.
async fn count_from(client: &Client, root: ManifestCid, peer: PeerId) -> Option<u32> {
    let mut resolver = TreeResolver::new(root);
    let mut asked = 0;
    while !resolver.is_complete() {
        for cid in resolver.needs() {
            asked += 1;
            if asked > MAX_BLOCKS {
                return None;
            }
            let BlockAnswer::Data(block) = client.request(peer, cid.into()).await.ok()? else { return None };
            resolver.insert(cid, &block).ok()?;
        }
    }
    u32::try_from(resolver.finish().ok()?.chunk_count).ok()
}

/// Whether a connected peer has the manifest; `None` if it does not say. Never asks for a chunk, which is not small.
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
    fn what_a_provider_tells_is_how_much_it_has() {
        let mut set = dhtfs_store::ChunkSet::new(10);
        set.insert_range(2, 5);
        let told = |told| have(told, 10).map(|have| (have.held, have.of));
        assert_eq!(told(Ok(HaveUpdate::All)), Some((10, 10)));
        assert_eq!(told(Ok(HaveUpdate::Map(set))), Some((3, 10)));
        assert_eq!(told(Err(HaveEnd::Unknown)), Some((0, 10)));
        assert_eq!(told(Err(HaveEnd::Unsupported)), None);
    }

    #[test]
    fn who_had_no_time_is_not_called_unreachable() {
        assert_eq!(no_connection(true).0, ProviderState::NotChecked);
        assert_eq!(no_connection(false).0, ProviderState::Unreachable);
    }

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
