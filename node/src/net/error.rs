//! Why an operation of the network failed. Every message is one line.

use libp2p::swarm::DialError;
use libp2p::{Multiaddr, PeerId, connection_limits};

/// Characters of a cause that are shown.
const MAX_CAUSE_LEN: usize = 200;

/// The event loop has ended; nothing can be asked of it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the network has been shut down")]
pub struct NetGone;

/// The network cannot be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// The name of the network has other characters or another length than allowed.
    #[error("{0:?} is no network name: use 1 to 32 of a-z, 0-9 and -")]
    NetworkName(String),
    /// The key of the node cannot encrypt what goes through relays.
    #[error("{0}")]
    Key(String),
}

/// Why nothing can be received at an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// The system or the transport refused it.
    #[error("cannot listen on {addr}: {cause}")]
    Refused {
        /// The address asked for.
        addr: Multiaddr,
        /// What was said.
        cause: String,
    },
    /// No address was reported in time.
    #[error("cannot listen on {addr}: no address came up in time")]
    Timeout {
        /// The address asked for.
        addr: Multiaddr,
    },
    /// The network has been shut down.
    #[error(transparent)]
    Gone(#[from] NetGone),
}

/// Why a peer could not be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DialFailure {
    /// No address of the peer is known.
    #[error("no address of the peer is known")]
    NoAddress,
    /// The address or the peer is this node itself.
    #[error("that is this node itself")]
    ThisNode,
    /// Another peer than the expected one answered.
    #[error("peer {obtained} answered instead")]
    WrongPeer {
        /// Who answered.
        obtained: PeerId,
    },
    /// A limit of this node stands against it.
    #[error("{0}")]
    Limit(String),
    /// Nobody answered at any address.
    #[error("cannot connect: {0}")]
    Unreachable(String),
    /// The connection was closed before the peer had identified itself.
    #[error("the peer closed the connection")]
    Closed,
    /// The peer did not say what it speaks.
    #[error("the peer did not identify itself")]
    NotIdentified,
    /// The peer speaks none of the protocols of our network.
    #[error("the peer ({agent}) does not belong to this network")]
    OtherNetwork {
        /// What it calls itself.
        agent: String,
    },
    /// It took too long.
    #[error("no connection in time")]
    Timeout,
    /// The network has been shut down.
    #[error(transparent)]
    Gone(#[from] NetGone),
}

impl From<&DialError> for DialFailure {
    fn from(error: &DialError) -> Self {
        match error {
            DialError::LocalPeerId { .. } => Self::ThisNode,
            DialError::NoAddresses => Self::NoAddress,
            DialError::WrongPeerId { obtained, .. } => Self::WrongPeer { obtained: *obtained },
            DialError::Aborted => Self::Closed,
            DialError::DialPeerConditionFalse(_) => Self::Limit("the peer is being dialled already".into()),
            DialError::Denied { cause } => match cause.downcast_ref::<connection_limits::Exceeded>() {
                Some(exceeded) => Self::Limit(one_line(exceeded)),
                None => Self::Limit(one_line(cause)),
            },
            DialError::Transport(errors) => Self::Unreachable(match errors.first() {
                Some((addr, error)) => format!("{addr}: {}", root_cause(error)),
                None => "no transport for the address".into(),
            }),
        }
    }
}

/// Why a key was not announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProvideError {
    /// Too many announcements are running.
    #[error("too many announcements at once")]
    TooMany,
    /// This node announces as many keys as it may.
    #[error("this node announces as many keys as it may")]
    Full,
    /// The walk to the closest peers took too long.
    #[error("the announcement timed out")]
    Timeout,
    /// The network has been shut down.
    #[error(transparent)]
    Gone(#[from] NetGone),
}

/// Why the peers closest to a key were not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClosestError {
    /// Too many such lookups are running.
    #[error("too many lookups at once")]
    TooMany,
    /// The lookup took too long.
    #[error("the lookup timed out")]
    Timeout,
    /// The network has been shut down.
    #[error(transparent)]
    Gone(#[from] NetGone),
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The peer is not connected; nothing was sent.
    #[error("the peer is not connected")]
    NotConnected,
    /// Too many requests are in flight; nothing was sent.
    #[error("too many requests at once")]
    TooMany,
    /// The connection was closed.
    #[error("the connection was closed")]
    Closed,
    /// It took too long.
    #[error("the request timed out")]
    Timeout,
    /// The peer does not answer such requests.
    #[error("the peer does not serve this network")]
    Unsupported,
    /// The answer breaks the protocol.
    #[error("the answer breaks the protocol: {0}")]
    Malformed(String),
    /// The stream failed, or ended before the answer did.
    #[error("the request failed: {0}")]
    Stream(String),
    /// The network has been shut down.
    #[error(transparent)]
    Gone(#[from] NetGone),
}

/// Why the routing table was not filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BootstrapFailure {
    /// The routing table is empty: dial somebody first.
    #[error("no peer of this network is known")]
    NoPeers,
    /// It took too long.
    #[error("looking for peers timed out")]
    Timeout,
    /// The network has been shut down.
    #[error(transparent)]
    Gone(#[from] NetGone),
}

/// The innermost error as one short line.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    one_line(error)
}

/// Text of an error without line breaks, cut to [`MAX_CAUSE_LEN`] characters.
pub(crate) fn one_line(error: impl std::fmt::Display) -> String {
    let text = error.to_string();
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_CAUSE_LEN).collect()
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{MAX_CAUSE_LEN, one_line, root_cause};

    #[test]
    fn causes_are_one_short_line_from_the_root() {
        let inner = io::Error::other("refused\nat\x1b the door");
        let outer = io::Error::other(inner);
        assert_eq!(root_cause(&outer), "refused at  the door");
        assert_eq!(one_line("x".repeat(1_000)).len(), MAX_CAUSE_LEN);
    }
}
