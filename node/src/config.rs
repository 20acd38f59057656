//! Configuration: what a user may set in `config.toml`, with every default in one place.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use libp2p::Multiaddr;
use serde::{Deserialize, Serialize};

use crate::{
    api::types::{ApiError, ErrorKind},
    core::rate::{Limit, Limits},
    net::RelayLimits,
};

/// Largest configuration file that is read, in bytes. A real one has some hundred.
pub const MAX_CONFIG_LEN: u64 = 1024 * 1024;

/// Settings of a node. Missing ones take their defaults; unknown ones are refused by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Name of the network: nodes of different networks never talk to each other. 1 to 32 characters of
    /// `a-z`, `0-9` and `-`. Default `main`.
    pub network: String,
    /// Addresses to listen on. Empty (the default) means: those of the last run, or all interfaces, TCP and
    /// QUIC, port 4343, or a free port if that is taken.
    pub listen: Vec<Multiaddr>,
    /// Addresses of nodes to join through, besides the peers saved by the last run. Default none.
    pub bootstrap: Vec<Multiaddr>,
    /// Whether nodes of the local network are looked for, and told of this one, over mDNS. Nothing is done while all addresses
    /// listened on are of this machine only. Default `true`.
    pub mdns: bool,
    /// How much is sent to all peers together, in bytes a second, at least 20 KiB/s. Default `none`: as much as can be.
    pub limit_up: Limit,
    /// How much is sent to one peer. Default `none`.
    pub limit_up_per_peer: Limit,
    /// How much is fetched from all peers together. Default `none`.
    pub limit_down: Limit,
    /// Whether peers on this machine and in the local network count. Default `false`.
    pub limit_lan: bool,
    /// How much is carried for nodes that nobody can dial, once others can dial this one: `some` (the default) is what two
    /// nodes need to find a way past it, and a small file; `much` is what `dhtfs relay` carries; `none` is nothing.
    pub relay: RelayShare,
}

/// How much of the connections of others a node carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RelayShare {
    /// Nothing.
    None,
    /// See [`RelayLimits::small`].
    #[default]
    Some,
    /// See [`RelayLimits::generous`]; offered from the start.
    Much,
}

impl RelayShare {
    /// In numbers.
    pub fn limits(self) -> Option<RelayLimits> {
        match self {
            Self::None => None,
            Self::Some => Some(RelayLimits::small()),
            Self::Much => Some(RelayLimits::generous()),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            network: "main".to_owned(),
            listen: Vec::new(),
            bootstrap: Vec::new(),
            mdns: true,
            limit_up: Limit::NONE,
            limit_up_per_peer: Limit::NONE,
            limit_down: Limit::NONE,
            limit_lan: false,
            relay: RelayShare::default(),
        }
    }
}

impl Config {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if the file cannot be read, is larger than [`MAX_CONFIG_LEN`], is no TOML, has an
    /// unknown key, or a value out of range; the message names the file and the place.
    pub fn load(path: &Path) -> Result<Self, ApiError> {
        let fail = |why: String| {
            let path = path.display();
            ApiError::new(
                ErrorKind::Usage,
                format!("configuration {path}: {why}; correct the file or leave out --config"),
            )
        };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(|e| fail(e.to_string()))?;
        // A device has no length to look at; what it gives is cut.
        file.take(MAX_CONFIG_LEN + 1).read_to_string(&mut text).map_err(|e| fail(e.to_string()))?;
        if text.len() as u64 > MAX_CONFIG_LEN {
            return Err(fail(format!("is longer than {MAX_CONFIG_LEN} bytes")));
        }
        let config: Self =
            toml::from_str(&text).map_err(|e| fail(e.to_string().trim_end().replace('\n', " ")))?;
        config.check().map_err(|e| fail(e.message))?;
        Ok(config)
    }

    /// The limits on what is sent and fetched.
    pub fn limits(&self) -> Limits {
        Limits {
            up: self.limit_up,
            up_per_peer: self.limit_up_per_peer,
            down: self.limit_down,
            lan: self.limit_lan,
        }
    }

    /// Checks values that the types cannot.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if the network name has another form than documented.
    pub fn check(&self) -> Result<(), ApiError> {
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.network.is_empty() || self.network.len() > 32 || !self.network.chars().all(fine) {
            let name = self.network.escape_debug();
            let message = format!("network name \"{name}\" is not 1 to 32 characters of a-z, 0-9 and -");
            return Err(ApiError::new(ErrorKind::Usage, message));
        }
        Ok(())
    }
}

/// The data directory when none is given: `$XDG_DATA_HOME/dhtfs`, or `$HOME/.local/share/dhtfs`.
///
/// # Errors
/// [`ErrorKind::Usage`] if neither variable is set.
pub fn default_data_dir() -> Result<PathBuf, ApiError> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    if let Some(dir) = absolute("XDG_DATA_HOME") {
        return Ok(dir.join("dhtfs"));
    }
    absolute("HOME").map(|home| home.join(".local/share/dhtfs")).ok_or_else(|| {
        ApiError::new(
            ErrorKind::Usage,
            "no data directory: neither XDG_DATA_HOME nor HOME is set; give one with --data-dir",
        )
    })
}
