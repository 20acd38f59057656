//! Content IDs: CIDv1, SHA-256, and which of the two kinds of content they name.

use std::{fmt, str::FromStr};

use cid::{
    Cid, Version,
    multibase::{self, Base},
};
use multihash::Multihash;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest.
pub type Digest = [u8; 32];

/// Multicodec code of a raw chunk ([table](https://github.com/multiformats/multicodec/blob/master/table.csv)).
pub const RAW: u64 = 0x55;

/// Multicodec code of a DAG-CBOR manifest block.
pub const DAG_CBOR: u64 = 0x71;

/// Multihash code of SHA-256.
pub const SHA2_256: u64 = 0x12;

/// Length of a SHA-256 multihash in bytes: code, length, digest.
pub const MULTIHASH_LEN: usize = 34;

/// Longest text that is looked at as a CID, in bytes. Base 2 needs 289.
const MAX_TEXT_LEN: usize = 512;

/// How much of a text that is no CID is shown, in characters.
const SHOWN: usize = 60;

/// Hashes bytes with SHA-256.
pub fn sha256(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

/// Why a text or a CID names nothing that dhtfs knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidError {
    /// Not a CID at all.
    #[error("\"{text}\" is not a content ID; one looks like bafyrei.. or bafkrei..")]
    NotACid {
        /// What was given, shortened and escaped.
        text: String,
    },
    /// A CID of the first kind (`Qm..`).
    #[error(
        "content IDs of version 0 (Qm..) name other formats; dhtfs reads version 1 with SHA-256 (bafyrei.., bafkrei..)"
    )]
    Version0,
    /// Content of another format.
    #[error("content ID of codec 0x{0:x}; dhtfs reads raw chunks (0x55) and DAG-CBOR manifests (0x71)")]
    Codec(u64),
    /// Another hash function.
    #[error("content ID with hash 0x{0:x}; dhtfs reads SHA-256 (0x12)")]
    Hash(u64),
    /// A SHA-256 digest of another length than 32 bytes.
    #[error("content ID with a digest of {0} bytes; one of SHA-256 has 32")]
    DigestLen(usize),
    /// A chunk where a manifest is needed, or the other way round.
    #[error("{cid} names a {found}; a {wanted} is needed here")]
    WrongKind {
        /// What was given.
        cid: ContentCid,
        /// The kind it names.
        found: &'static str,
        /// The kind that is needed.
        wanted: &'static str,
    },
}

macro_rules! typed_cid {
    ($name:ident, $codec:expr, $variant:ident, $wanted:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Digest);

        impl $name {
            /// The CID of content with this digest.
            pub const fn from_digest(digest: Digest) -> Self {
                Self(digest)
            }

            /// The CID of these bytes.
            pub fn of(bytes: &[u8]) -> Self {
                Self(sha256(bytes))
            }

            /// The SHA-256 digest in the CID.
            pub const fn digest(&self) -> &Digest {
                &self.0
            }

            /// Whether these bytes are the content of this CID.
            pub fn matches(&self, bytes: &[u8]) -> bool {
                sha256(bytes) == self.0
            }

            /// The CID in its general form.
            pub fn to_cid(self) -> Cid {
                to_cid($codec, &self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.to_cid().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl From<$name> for ContentCid {
            fn from(cid: $name) -> Self {
                ContentCid::$variant(cid)
            }
        }

        impl TryFrom<ContentCid> for $name {
            type Error = CidError;

            fn try_from(cid: ContentCid) -> Result<Self, CidError> {
                match cid {
                    ContentCid::$variant(cid) => Ok(cid),
                    _ => Err(CidError::WrongKind { cid, found: cid.kind(), wanted: $wanted }),
                }
            }
        }

        impl TryFrom<&Cid> for $name {
            type Error = CidError;

            fn try_from(cid: &Cid) -> Result<Self, CidError> {
                ContentCid::try_from(cid)?.try_into()
            }
        }

        impl FromStr for $name {
            type Err = CidError;

            fn from_str(text: &str) -> Result<Self, CidError> {
                text.parse::<ContentCid>()?.try_into()
            }
        }

        text_serde!($name);
    };
}

macro_rules! text_serde {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

typed_cid!(
    ChunkCid,
    RAW,
    Chunk,
    "chunk",
    "CID of a chunk: CIDv1, raw, SHA-256 (`bafkrei..`). As text in serde formats."
);
typed_cid!(
    ManifestCid,
    DAG_CBOR,
    Manifest,
    "manifest",
    "CID of a manifest block: CIDv1, DAG-CBOR, SHA-256 (`bafyrei..`). As text in serde formats."
);

/// CID of anything that dhtfs shares. Read from any multibase; as text in serde formats.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentCid {
    /// A manifest block: a file, a directory, or an inner node of their trees.
    Manifest(ManifestCid),
    /// A chunk.
    Chunk(ChunkCid),
}

text_serde!(ContentCid);

impl ContentCid {
    /// The SHA-256 digest in the CID.
    pub const fn digest(&self) -> &Digest {
        match self {
            ContentCid::Manifest(cid) => cid.digest(),
            ContentCid::Chunk(cid) => cid.digest(),
        }
    }

    /// Whether these bytes are the content of this CID.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        sha256(bytes) == *self.digest()
    }

    /// The multihash in the CID, `12 20` and the digest: the key of its provider records.
    pub fn multihash_bytes(&self) -> [u8; MULTIHASH_LEN] {
        let mut bytes = [0; MULTIHASH_LEN];
        let (head, digest) = bytes.split_at_mut(2);
        head.copy_from_slice(&[0x12, 0x20]);
        digest.copy_from_slice(self.digest());
        bytes
    }

    /// `manifest` or `chunk`.
    pub const fn kind(&self) -> &'static str {
        match self {
            ContentCid::Manifest(_) => "manifest",
            ContentCid::Chunk(_) => "chunk",
        }
    }

    /// The CID in its general form.
    pub fn to_cid(self) -> Cid {
        match self {
            ContentCid::Manifest(cid) => cid.to_cid(),
            ContentCid::Chunk(cid) => cid.to_cid(),
        }
    }
}

impl fmt::Display for ContentCid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_cid().fmt(f)
    }
}

impl fmt::Debug for ContentCid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<&Cid> for ContentCid {
    type Error = CidError;

    fn try_from(cid: &Cid) -> Result<Self, CidError> {
        if cid.version() == Version::V0 {
            return Err(CidError::Version0);
        }
        let hash = cid.hash();
        if hash.code() != SHA2_256 {
            return Err(CidError::Hash(hash.code()));
        }
        let digest: Digest =
            hash.digest().try_into().map_err(|_| CidError::DigestLen(hash.digest().len()))?;
        match cid.codec() {
            RAW => Ok(ChunkCid(digest).into()),
            DAG_CBOR => Ok(ManifestCid(digest).into()),
            other => Err(CidError::Codec(other)),
        }
    }
}

impl FromStr for ContentCid {
    type Err = CidError;

    fn from_str(text: &str) -> Result<Self, CidError> {
        let bytes = if text.len() > MAX_TEXT_LEN {
            None
        } else if Version::is_v0_str(text) {
            Base::Base58Btc.decode(text).ok()
        } else {
            multibase::decode(text).ok().map(|(_, bytes)| bytes)
        };
        // A CID ends where its bytes end: `Cid::try_from` would ignore what follows.
        let cid = bytes
            .and_then(|bytes| Cid::try_from(bytes.as_slice()).ok().filter(|cid| cid.to_bytes() == bytes));
        Self::try_from(&cid.ok_or_else(|| CidError::NotACid { text: shortened(text, SHOWN) })?)
    }
}

fn to_cid(codec: u64, digest: &Digest) -> Cid {
    // A 32-byte digest always fits the 64 bytes that a CID has room for.
    let hash = Multihash::<64>::wrap(SHA2_256, digest).unwrap_or_default();
    Cid::new_v1(codec, hash)
}

/// The first characters of a text, escaped, for a message of one line.
pub(crate) fn shortened(text: &str, max: usize) -> String {
    let mut shown: String = text.chars().take(max).flat_map(char::escape_debug).collect();
    if text.chars().nth(max).is_some() {
        shown.push_str("..");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with Python's hashlib and base64: version 1, codec, `12 20`, SHA-256, base32 without padding.
    const KNOWN: [(&[u8], &str, &str); 2] = [
        (
            b"",
            "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
            "bafyreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
        ),
        (
            b"hello",
            "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq",
            "bafyreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq",
        ),
    ];

    #[test]
    fn known_contents_have_their_known_cids() {
        for (content, chunk, manifest) in KNOWN {
            assert_eq!(ChunkCid::of(content).to_string(), chunk);
            assert_eq!(ManifestCid::of(content).to_string(), manifest);
            assert!(chunk.parse::<ChunkCid>().unwrap().matches(content));
        }
        let zeros = ChunkCid::of(&vec![0; 1 << 20]).to_string();
        assert_eq!(zeros, "bafkreibq4fevl27rgurgnxbp7adh42aqiyd6ouflxhj3gzmcxcxzbh6lla");
    }

    #[test]
    fn every_multibase_is_read() {
        let hello = ContentCid::from(ChunkCid::of(b"hello"));
        for text in [
            "f015512202cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
            "zb2rhZfjRh2FHHB2RkHVEvL2vJnCTcu7kwRqgVsf9gpkLgteo",
            "mAVUSICzyTbpfsKMOJug7KsW54p4bFh5cH6dCXnMEM2KTi5gk",
            "BAFKREIBM6JG3UX5QUMHCN2B3FLC3TYU6DMLB4XA7U5BF44YEGNRJHC4YEQ",
        ] {
            assert_eq!(text.parse(), Ok(hello), "{text}");
        }
    }

    #[test]
    fn a_cid_ends_where_its_text_ends() {
        let text = ChunkCid::of(b"hello").to_string();
        for more in ["a", "aa", "aaaaaaaa", "=", " ", "\n", "/x"] {
            let longer = format!("{text}{more}").parse::<ContentCid>();
            assert!(matches!(longer, Err(CidError::NotACid { .. })), "{more:?}");
        }
        assert!(text[..text.len() - 1].parse::<ContentCid>().is_err());
    }

    #[test]
    fn cids_of_other_formats_are_refused_by_what_they_are() {
        let refused = |text: &str| text.parse::<ContentCid>().unwrap_err();
        assert_eq!(
            refused("bafybeibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"),
            CidError::Codec(0x70)
        );
        assert_eq!(
            refused("bafkr4ibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"),
            CidError::Hash(0x1e)
        );
        assert_eq!(refused("bafkrefbm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa"), CidError::DigestLen(20));
        assert_eq!(refused("QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG"), CidError::Version0);
    }

    #[test]
    fn what_is_no_cid_is_refused_with_a_short_message() {
        let long = "x".repeat(100_000);
        for text in [
            "",
            "b",
            "hello",
            "bafkrei",
            "/ipfs/bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq",
            "b\u{0}",
            &long,
        ] {
            let error = text.parse::<ContentCid>().unwrap_err();
            assert!(matches!(error, CidError::NotACid { .. }), "{error}");
            assert!(error.to_string().len() < 200 && !error.to_string().contains('\0'));
        }
    }

    #[test]
    fn a_chunk_is_no_manifest() {
        let chunk = ChunkCid::of(b"hello");
        let error = chunk.to_string().parse::<ManifestCid>().unwrap_err();
        assert_eq!(error, CidError::WrongKind { cid: chunk.into(), found: "chunk", wanted: "manifest" });
    }

    #[test]
    fn the_record_key_is_the_multihash() {
        let key = ContentCid::from(ChunkCid::of(b"hello")).multihash_bytes();
        assert_eq!(key.get(..4), Some(&[0x12, 0x20, 0x2c, 0xf2][..]));
    }
}
