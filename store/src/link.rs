//! Links: a CID with advice. `dhtfs:<cid>?name=<name>&peer=<multiaddr>..`
//!
//! The CID alone decides what is fetched; the name suggests what to call it, the peers where to begin.

use std::{fmt, str::FromStr};

use crate::{
    cid::{CidError, ContentCid},
    name::check_name,
};

/// Longest link that is read, in bytes.
pub const MAX_LINK_LEN: usize = 8 * 1024;

/// Most peers in a link.
pub const MAX_LINK_PEERS: usize = 16;

/// The scheme, with its colon.
const SCHEME: &str = "dhtfs:";

/// A CID with advice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// What to fetch.
    pub cid: ContentCid,
    /// What to call it; a checked name.
    pub name: Option<String>,
    /// Multiaddrs to begin at, as text; not checked here.
    pub peers: Vec<String>,
}

/// Why a text is no link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Its CID is none, or names something else.
    #[error(transparent)]
    Cid(#[from] CidError),
    /// Longer than [`MAX_LINK_LEN`].
    #[error("a link of {0} bytes; at most {MAX_LINK_LEN} are read")]
    TooLong(usize),
    /// More than [`MAX_LINK_PEERS`].
    #[error("a link with more than {MAX_LINK_PEERS} peers")]
    TooManyPeers,
    /// A value that is no percent-encoded UTF-8.
    #[error("the link's \"{0}\" is not percent-encoded UTF-8; copy the whole link again")]
    Encoding(String),
    /// A key that this version does not know.
    #[error("the link has a part \"{0}\" that this program does not know; a newer one may")]
    Unknown(String),
}

impl From<ContentCid> for Link {
    fn from(cid: ContentCid) -> Self {
        Self { cid, name: None, peers: Vec::new() }
    }
}

impl FromStr for Link {
    type Err = LinkError;

    /// Reads a link, or a bare CID. A name that no file can have is left out: it is only advice.
    fn from_str(text: &str) -> Result<Self, LinkError> {
        let text = text.trim();
        if text.len() > MAX_LINK_LEN {
            return Err(LinkError::TooLong(text.len()));
        }
        let Some(rest) = text.strip_prefix(SCHEME) else { return Ok(text.parse::<ContentCid>()?.into()) };
        let (cid, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut link = Link::from(cid.parse::<ContentCid>()?);
        for part in query.split('&').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            match key {
                "name" => link.name = Some(decode(key, value)?).filter(|name| check_name(name).is_ok()),
                "peer" if link.peers.len() >= MAX_LINK_PEERS => return Err(LinkError::TooManyPeers),
                "peer" => link.peers.push(decode(key, value)?),
                other => {
                    return Err(LinkError::Unknown(
                        other.chars().take(32).flat_map(char::escape_debug).collect(),
                    ));
                }
            }
        }
        Ok(link)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.cid)?;
        let name = self.name.iter().map(|name| ("name", name));
        let peers = self.peers.iter().map(|peer| ("peer", peer));
        for (index, (key, value)) in name.chain(peers).enumerate() {
            let mark = if index == 0 { '?' } else { '&' };
            write!(f, "{mark}{key}={}", Encoded(value))?;
        }
        Ok(())
    }
}

/// Percent-encodes all that is not unreserved in a query value (RFC 3986), or has a meaning in a shell.
struct Encoded<'a>(&'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'/' | b':' => {
                    write!(f, "{}", char::from(byte))?;
                }
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

fn decode(key: &str, value: &str) -> Result<String, LinkError> {
    let bad = || LinkError::Encoding(key.to_owned());
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16));
        let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else { return Err(bad()) };
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| bad())?);
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: &str = "bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";

    #[test]
    fn a_bare_cid_is_a_link_without_advice() {
        let link: Link = CID.parse().unwrap();
        assert_eq!(link, Link { cid: CID.parse().unwrap(), name: None, peers: Vec::new() });
    }

    #[test]
    fn what_is_written_is_read_again() {
        let link = Link {
            cid: CID.parse().unwrap(),
            name: Some("Grüße & 100 %=?.txt".to_owned()),
            peers: vec!["/ip4/192.0.2.1/tcp/4343".to_owned(), "/dns4/a.example/udp/1/quic-v1".to_owned()],
        };
        let text = link.to_string();
        assert!(text.is_ascii() && !text.contains(' '), "{text}");
        assert_eq!(text.parse::<Link>().unwrap(), link);
    }

    #[test]
    fn a_name_that_is_a_path_is_left_out() {
        let link: Link = format!("dhtfs:{CID}?name=..%2F..%2Fetc%2Fpasswd").parse().unwrap();
        assert_eq!(link.name, None);
    }

    #[test]
    fn malformed_links_are_refused() {
        let refused = |text: String| text.parse::<Link>().unwrap_err();
        assert!(matches!(refused(format!("dhtfs:{CID}?name=%zz")), LinkError::Encoding(_)));
        assert!(matches!(refused(format!("dhtfs:{CID}?name=%f")), LinkError::Encoding(_)));
        assert!(matches!(refused(format!("dhtfs:{CID}?name=%ff")), LinkError::Encoding(_)));
        assert!(matches!(refused(format!("dhtfs:{CID}?color=red")), LinkError::Unknown(_)));
        assert!(matches!(refused("dhtfs:nothing".to_owned()), LinkError::Cid(_)));
        assert!(matches!(refused("x".repeat(MAX_LINK_LEN + 1)), LinkError::TooLong(_)));
        let peers = "&peer=x".repeat(MAX_LINK_PEERS + 1);
        assert_eq!(refused(format!("dhtfs:{CID}?{peers}")), LinkError::TooManyPeers);
    }
}
