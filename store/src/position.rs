//! Where keys lie in the DHT's keyspace.

use std::fmt;

use crate::cid::{ChunkCid, ContentCid, Digest, sha256};

/// Where a key lies in Kademlia's keyspace: the SHA-256 digest of its 34 multihash bytes, by which peers measure their
/// distance from it. Positions that begin with the same bits lie in the same region and have the same peers near them.
/// A chunk and a manifest with the same digest are one key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPosition(pub [u8; 32]);

impl KeyPosition {
    /// The lowest position.
    pub const MIN: Self = Self([0x00; 32]);

    /// The highest position.
    pub const MAX: Self = Self([0xff; 32]);

    /// The position of a key.
    #[must_use]
    pub fn of(cid: &ContentCid) -> Self {
        Self(sha256(&cid.multihash_bytes()))
    }

    /// The position of whatever has this SHA-256 digest.
    pub(crate) fn of_digest(digest: &Digest) -> Self {
        Self::of(&ContentCid::Chunk(ChunkCid::from_digest(*digest)))
    }
}

impl fmt::Display for KeyPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::cid::ManifestCid;

    #[test]
    fn positions_are_those_that_another_program_computes() {
        // Python: hashlib.sha256(b"\x12\x20" + hashlib.sha256(b"hello world").digest()).hexdigest(), and the same of
        // the digest 00 01 02 .. 1f.
        let chunk = ChunkCid::of(b"hello world");
        assert_eq!(
            KeyPosition::of(&chunk.into()).to_string(),
            "d323dcae8bb357d0f7c6b6235109503d2ab0ca9dff4d45441b00ef2a722322c6"
        );
        let manifest = ManifestCid::from_digest(std::array::from_fn(|index| u8::try_from(index).unwrap()));
        assert_eq!(
            KeyPosition::of(&manifest.into()).to_string(),
            "cf4f385aaacc773f745aadc1d2368bd112293a069b893df9a4d561a2616c2405"
        );
        let twin = ManifestCid::from_digest(*chunk.digest());
        assert_eq!(KeyPosition::of(&twin.into()), KeyPosition::of(&chunk.into()));
    }
}
