//! Identities next to a key.

use dhtfs_store::ContentCid;
use libp2p::{PeerId, identity::Keypair, kad::KBucketKey};
use sha2::{Digest as _, Sha256};

/// Most leading bits that are searched for: 2^20 identities, about half a minute.
pub const MAX_BITS: u32 = 20;

/// How many leading bits the DHT position of `peer` shares with that of `cid`.
pub fn shared_bits(cid: ContentCid, peer: PeerId) -> u32 {
    let key = KBucketKey::new(cid.multihash_bytes().to_vec());
    key.distance(&KBucketKey::from(peer)).ilog2().map_or(256, |log| 255 - log)
}

/// The first identity of `seed` that shares at least `bits` (at most [`MAX_BITS`]) leading bits with `cid` in the DHT.
///
/// One bit doubles the work. Two bits more than the logarithm of the number of peers put an identity closer than
/// practically all of them.
pub fn keypair_near(cid: ContentCid, bits: u32, seed: u64) -> Keypair {
    let bits = bits.min(MAX_BITS);
    let mut tries = 0u64;
    loop {
        let mut hash = Sha256::new();
        hash.update(seed.to_be_bytes());
        hash.update(tries.to_be_bytes());
        let secret: [u8; 32] = hash.finalize().into();
        // Every 32 bytes are a valid key.
        if let Ok(keypair) = Keypair::ed25519_from_bytes(secret)
            && shared_bits(cid, keypair.public().to_peer_id()) >= bits
        {
            return keypair;
        }
        tries += 1;
    }
}

#[cfg(test)]
mod tests {
    use dhtfs_store::{ChunkCid, ContentCid};

    use super::{keypair_near, shared_bits};

    #[test]
    fn a_ground_identity_is_near_the_key_and_follows_from_the_seed() {
        let cid = ContentCid::Chunk(ChunkCid::of(b"key"));
        let peer = |seed| keypair_near(cid, 8, seed).public().to_peer_id();
        assert!(shared_bits(cid, peer(1)) >= 8);
        assert_eq!(peer(1), peer(1));
        assert_ne!(peer(1), peer(2));
    }
}
