//! The transports of a real node. The simulator hands in its own.

use std::io;
use std::time::Duration;

use futures::future::Either;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::Boxed;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{PeerId, Transport as _, quic, relay, tcp};

use super::exclusive::Exclusive;
pub use super::muxer::{Muxer, MuxerConfig};
use super::security::{Security, SecuritySetupError};
use super::tcp_first::{Ordered, Part, TcpDials};
use super::zones::Zoned;

/// How long a TCP connection and its handshakes may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);

/// A transport cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up encryption with this key: {0}")]
pub struct TransportSetupError(#[from] SecuritySetupError);

/// TCP with TLS or Noise and yamux, and QUIC, all authenticated as `keypair`. Of a peer with addresses of both, QUIC is dialled
/// only if TCP does not get through. IPv6 link-local addresses are dialled over TCP only, under `/ip6zone/<interface>/ip6/..`.
///
/// Needs a tokio runtime with I/O when it is polled.
///
/// # Errors
/// If the key cannot sign a handshake.
pub fn production(keypair: &Keypair) -> Result<Boxed<(PeerId, StreamMuxerBox)>, TransportSetupError> {
    let dials = TcpDials::default();
    let inner = Exclusive(Zoned::new(tcp::tokio::Transport::new(tcp::Config::default())));
    let inner = Ordered { inner, part: Part::Reaching, dials: dials.clone() }
        .upgrade(Version::V1Lazy)
        .authenticate(Security::new(keypair)?)
        .multiplex(muxer())
        .timeout(HANDSHAKE_TIMEOUT);
    let tcp = Ordered { inner, part: Part::First, dials: dials.clone() };
    let inner = quic::tokio::Transport::new(quic::Config::new(keypair));
    let quic = Ordered { inner, part: Part::Later, dials };
    Ok(quic
        .or_transport(tcp)
        .map(|either, _| match either {
            Either::Left((peer, muxer)) => (peer, StreamMuxerBox::new(muxer)),
            Either::Right((peer, muxer)) => (peer, StreamMuxerBox::new(muxer)),
        })
        .map_err(io::Error::other)
        .boxed())
}

/// `transport` with connections that a relay carries, authenticated as `keypair` from end to end, and the behaviour that asks
/// relays for them.
///
/// # Errors
/// If the key cannot sign a handshake.
pub(crate) fn with_relays(
    keypair: &Keypair,
    transport: Boxed<(PeerId, StreamMuxerBox)>,
) -> Result<(Boxed<(PeerId, StreamMuxerBox)>, relay::client::Behaviour), TransportSetupError> {
    let (relayed, behaviour) = relay::client::new(keypair.public().to_peer_id());
    let relayed = relayed
        .upgrade(Version::V1Lazy)
        .authenticate(Security::new(keypair)?)
        .multiplex(muxer())
        .timeout(HANDSHAKE_TIMEOUT)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    // Asked first: it alone can tell an address through a relay from that of the relay.
    let both = relayed.or_transport(transport).map(|either, _| either.into_inner());
    Ok((both.map_err(io::Error::other).boxed(), behaviour))
}

/// The yamux of every stream transport of a node.
pub fn muxer() -> MuxerConfig {
    MuxerConfig::new()
}
