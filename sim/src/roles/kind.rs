//! What a peer of a scenario is, with the names that scenario files use.

use std::{fmt, str::FromStr};

use dhtfs_node::Role;
use dhtfs_store::{CidError, ContentCid};
use serde::{Deserialize, Serialize};

/// What a peer of a scenario is. As text (`honest`, `client-only`, `garbage`, ..) in files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RoleKind {
    /// The node as it ships, in full.
    #[default]
    Honest,
    /// The node as it ships, behind something that keeps others from dialling it: it asks and fetches, and is in
    /// nobody's routing table.
    ClientOnly,
    /// Takes part in the DHT and answers every request for content Busy: it costs others their questions and gives
    /// nothing back.
    Freerider,
    /// Does harm.
    Hostile(Hostile),
    /// A bare libp2p node with stock settings, which checks nothing: shows what an attack does to the unprotected.
    Naive,
}

/// Ways to do harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hostile {
    /// Takes part in the DHT, announces content, and never answers a request for it.
    DropsRequests,
    /// Answers with random bytes of the right length. This one and the next three answer for manifests truthfully
    /// if they can, to be trusted with chunks.
    Garbage,
    /// Announces a length and ends the stream half-way.
    Truncated,
    /// Announces a length and sends more, or sends all and never ends.
    Endless,
    /// Sends one byte a second.
    Drip,
    /// Announces content that it lacks; answers Missing, or with the right bytes of something else.
    Liar,
    /// Records itself and others as providers of what they lack, and answers lookups with invented peers.
    ForgesProviders,
    /// Takes provider records and forgets them, and answers every question about the DHT with nothing.
    SwallowsRecords,
    /// Sends provider records for random keys to everybody, as fast as its limit allows.
    FloodsRecords,
    /// One of many identities next to a key, which swallow its records and know only each other.
    SybilNear(Key),
    /// Keeps changing its addresses, and names those of others and such that cannot be dialled.
    RotatesAddresses,
}

/// The key that Sybils surround.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Key {
    /// The first of the [`Targets`](super::Targets): a scenario file is written before its content has a CID.
    #[default]
    FirstTarget,
    /// This one.
    Of(ContentCid),
}

impl Hostile {
    /// Every way, Sybils around the first target.
    pub const ALL: [Self; 11] = [
        Self::DropsRequests,
        Self::Garbage,
        Self::Truncated,
        Self::Endless,
        Self::Drip,
        Self::Liar,
        Self::ForgesProviders,
        Self::SwallowsRecords,
        Self::FloodsRecords,
        Self::SybilNear(Key::FirstTarget),
        Self::RotatesAddresses,
    ];

    /// The name in files, without the key.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DropsRequests => "drops-requests",
            Self::Garbage => "garbage",
            Self::Truncated => "truncated",
            Self::Endless => "endless",
            Self::Drip => "drip",
            Self::Liar => "liar",
            Self::ForgesProviders => "forges-providers",
            Self::SwallowsRecords => "swallows-records",
            Self::FloodsRecords => "floods-records",
            Self::SybilNear(_) => "sybil-near",
            Self::RotatesAddresses => "rotates-addresses",
        }
    }

    /// Whether it announces its targets, to be asked for them.
    pub(super) const fn announces(self) -> bool {
        !matches!(
            self,
            Self::SwallowsRecords | Self::FloodsRecords | Self::SybilNear(_) | Self::RotatesAddresses
        )
    }

    /// Whether it answers for manifests truthfully, to be trusted with chunks.
    pub(super) const fn spoils_chunks(self) -> bool {
        matches!(self, Self::Garbage | Self::Truncated | Self::Endless | Self::Drip)
    }

    /// Whether it answers DHT messages by itself instead of leaving them to the stock implementation.
    pub(super) const fn answers_kad(self) -> bool {
        matches!(self, Self::ForgesProviders | Self::SwallowsRecords | Self::SybilNear(_))
    }
}

impl RoleKind {
    /// The role of the real node that plays this part; `None` if none does.
    pub const fn node_role(self) -> Option<Role> {
        match self {
            Self::Honest => Some(Role::Server),
            Self::ClientOnly => Some(Role::Client),
            Self::Freerider | Self::Hostile(_) | Self::Naive => None,
        }
    }
}

/// A text that names no role.
#[derive(Debug, thiserror::Error)]
pub enum RoleNameError {
    /// No role of this name.
    #[error(
        "no role is called \"{0}\"; roles are honest, client-only, freerider, naive and the hostile ones"
    )]
    Unknown(String),
    /// The key after `sybil-near:` is no CID.
    #[error("the key of sybil-near: {0}")]
    Key(#[from] CidError),
}

impl fmt::Display for Hostile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::SybilNear(Key::Of(cid)) => write!(f, ":{cid}"),
            _ => Ok(()),
        }
    }
}

impl FromStr for Hostile {
    type Err = RoleNameError;

    fn from_str(text: &str) -> Result<Self, RoleNameError> {
        if let Some(key) = text.strip_prefix("sybil-near:") {
            return Ok(Self::SybilNear(Key::Of(key.parse()?)));
        }
        let found = Self::ALL.into_iter().find(|kind| kind.name() == text);
        found.ok_or_else(|| RoleNameError::Unknown(text.escape_debug().to_string()))
    }
}

impl fmt::Display for RoleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Honest => f.write_str("honest"),
            Self::ClientOnly => f.write_str("client-only"),
            Self::Freerider => f.write_str("freerider"),
            Self::Naive => f.write_str("naive"),
            Self::Hostile(kind) => kind.fmt(f),
        }
    }
}

impl FromStr for RoleKind {
    type Err = RoleNameError;

    fn from_str(text: &str) -> Result<Self, RoleNameError> {
        Ok(match text {
            "honest" => Self::Honest,
            "client-only" => Self::ClientOnly,
            "freerider" => Self::Freerider,
            "naive" => Self::Naive,
            other => Self::Hostile(other.parse()?),
        })
    }
}

impl TryFrom<String> for RoleKind {
    type Error = RoleNameError;

    fn try_from(text: String) -> Result<Self, RoleNameError> {
        text.parse()
    }
}

impl From<RoleKind> for String {
    fn from(kind: RoleKind) -> Self {
        kind.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use dhtfs_store::{ChunkCid, ContentCid};
    use serde::{Deserialize, Serialize};

    use super::{Hostile, Key, RoleKind};

    #[test]
    fn every_role_is_read_back_from_its_name() {
        let key = ContentCid::Chunk(ChunkCid::of(b"x"));
        let others = [
            RoleKind::Honest,
            RoleKind::ClientOnly,
            RoleKind::Freerider,
            RoleKind::Naive,
            RoleKind::Hostile(Hostile::SybilNear(Key::Of(key))),
        ];
        for kind in Hostile::ALL.map(RoleKind::Hostile).into_iter().chain(others) {
            assert_eq!(kind.to_string().parse::<RoleKind>().unwrap(), kind);
        }
    }

    #[test]
    fn files_name_roles_in_kebab_case_and_others_are_refused() {
        #[derive(Serialize, Deserialize)]
        struct Peers {
            role: RoleKind,
        }
        let peers: Peers = toml::from_str("role = \"sybil-near\"").unwrap();
        assert_eq!(peers.role, RoleKind::Hostile(Hostile::SybilNear(Key::FirstTarget)));
        assert_eq!(toml::Value::try_from(&peers).unwrap()["role"].as_str(), Some("sybil-near"));
        for wrong in ["Honest", "", "sybil-near:x"] {
            assert!(toml::from_str::<Peers>(&format!("role = \"{wrong}\"")).is_err(), "{wrong}");
        }
    }
}
