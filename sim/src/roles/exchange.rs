//! What a role answers to a request for content.

use std::fmt;
use std::sync::Arc;

use dhtfs_node::net::exchange::ExchangeResponse;
use dhtfs_store::{ChunkRead, ContentCid, ManifestCid, Store, StoreError};
use libp2p::{Multiaddr, PeerId};
use rand::{Rng as _, RngExt as _, rngs::StdRng};

use super::{
    codec::Reply,
    kind::{Hostile, Key},
};

/// Length of a made-up answer for content of which only the CID is known.
const UNKNOWN_LEN: usize = 64 * 1024;

/// Finds the right bytes of content, if the peer has them.
pub type Bytes = Arc<dyn Fn(ContentCid) -> Option<Vec<u8>> + Send + Sync>;

/// What a hostile peer pretends to hold, and whom it works with.
#[derive(Clone)]
pub struct Targets {
    /// The content, in the order in which it is announced; the first is the key that Sybils surround by default.
    pub content: Vec<ContentCid>,
    /// The right bytes, for lies that need them or their length.
    pub bytes: Bytes,
    /// The other Sybils, this one may be among them: the only peers they speak of.
    pub accomplices: Vec<(PeerId, Vec<Multiaddr>)>,
}

impl Default for Targets {
    fn default() -> Self {
        Self { content: Vec::new(), bytes: Arc::new(|_| None), accomplices: Vec::new() }
    }
}

impl fmt::Debug for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Targets").field("content", &self.content.len()).finish_non_exhaustive()
    }
}

impl Targets {
    /// Content of which the peer knows the CIDs only.
    pub fn named(content: Vec<ContentCid>) -> Self {
        Self { content, ..Self::default() }
    }

    /// A share with its manifests and chunks, whose bytes are read from the store that has it. Nothing if the store
    /// does not have all of its manifests.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn of_share(store: &Store, root: ManifestCid) -> Result<Self, StoreError> {
        let mut content = vec![root.into()];
        if let Some(tree) = store.resolve_local(&root)? {
            content.extend(
                tree.files.iter().map(|file| ContentCid::from(file.cid)).filter(|cid| *cid != root.into()),
            );
            content.extend(tree.unique_chunks().into_iter().map(|(cid, _)| ContentCid::from(cid)));
        }
        let store = store.clone();
        let bytes = move |cid| match cid {
            ContentCid::Manifest(cid) => store.manifest_block(&cid).ok().flatten(),
            ContentCid::Chunk(cid) => match store.read_chunk(&cid) {
                Ok(ChunkRead::Data(bytes)) => Some(bytes),
                _ => None,
            },
        };
        Ok(Self { content, bytes: Arc::new(bytes), ..Self::default() })
    }

    /// The key that Sybils surround; `None` if it is the first target and there is none.
    pub fn sybil_key(&self, key: Key) -> Option<ContentCid> {
        match key {
            Key::Of(cid) => Some(cid),
            Key::FirstTarget => self.content.first().copied(),
        }
    }

    fn random(&self, cid: ContentCid, rng: &mut StdRng) -> Vec<u8> {
        let mut bytes = vec![0; (self.bytes)(cid).map_or(UNKNOWN_LEN, |right| right.len())];
        rng.fill_bytes(&mut bytes);
        bytes
    }

    fn right_or_random(&self, cid: ContentCid, rng: &mut StdRng) -> Vec<u8> {
        (self.bytes)(cid).unwrap_or_else(|| self.random(cid, rng))
    }

    /// The right bytes of something else.
    fn of_another(&self, cid: ContentCid, rng: &mut StdRng) -> Option<Vec<u8>> {
        let others: Vec<_> = self.content.iter().filter(|other| **other != cid).collect();
        let other = others.get(rng.random_range(0..others.len().max(1)))?;
        (self.bytes)(**other)
    }
}

/// What `kind` answers; `None` if nothing. Without a kind it is a freerider.
pub(super) fn reply(
    kind: Option<Hostile>,
    cid: ContentCid,
    targets: &Targets,
    rng: &mut StdRng,
) -> Option<Reply> {
    let plain = |response| Some(Reply::Plain(response));
    // Whoever spoils the manifest is hardly asked for chunks, which are worth more.
    if let ContentCid::Manifest(_) = cid
        && kind.is_some_and(Hostile::spoils_chunks)
        && let Some(right) = (targets.bytes)(cid)
    {
        return plain(ExchangeResponse::Data(right));
    }
    match kind {
        None => plain(ExchangeResponse::Busy),
        Some(Hostile::DropsRequests) => None,
        Some(Hostile::Garbage) => plain(ExchangeResponse::Data(targets.random(cid, rng))),
        Some(Hostile::Truncated) => Some(Reply::Truncated(targets.right_or_random(cid, rng))),
        Some(Hostile::Endless) => {
            let bytes = targets.right_or_random(cid, rng);
            Some(if rng.random() { Reply::Overlong(bytes) } else { Reply::Held(bytes) })
        }
        Some(Hostile::Drip) => Some(Reply::Drip(targets.right_or_random(cid, rng))),
        Some(Hostile::Liar) => match targets.of_another(cid, rng) {
            Some(bytes) if rng.random() => plain(ExchangeResponse::Data(bytes)),
            _ => plain(ExchangeResponse::Missing),
        },
        Some(
            Hostile::ForgesProviders
            | Hostile::SwallowsRecords
            | Hostile::FloodsRecords
            | Hostile::SybilNear(_)
            | Hostile::RotatesAddresses,
        ) => plain(ExchangeResponse::Missing),
    }
}
