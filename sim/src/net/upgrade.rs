//! The layers that libp2p puts on a byte stream, as a node has them.

use std::{io, time::Duration};

use libp2p::{
    PeerId, Transport,
    core::{muxing::StreamMuxerBox, transport::Boxed, upgrade::Version},
    futures::{AsyncRead, AsyncWrite},
    identity::Keypair,
    noise, plaintext,
};

/// How long a connection and its handshakes may take, as in a real node.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);

/// What authenticates the peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Noise, as in production.
    Noise,
    /// Only an exchange of keys: for runs so large that encryption is what they would cost. Nobody lies in them.
    Plaintext,
}

/// Puts security and yamux, with a node's settings, on a transport.
///
/// # Errors
/// If the key cannot sign the Noise handshake.
pub fn upgraded<T>(
    transport: T,
    keypair: &Keypair,
    security: Security,
    version: Version,
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, noise::Error>
where
    T: Transport + Send + Unpin + 'static,
    T::Output: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    T::Error: Send + Sync + 'static,
    T::Dial: Send + 'static,
    T::ListenerUpgrade: Send + 'static,
{
    let muxer = dhtfs_node::net::transport::muxer();
    let builder = transport.upgrade(version);
    Ok(match security {
        Security::Noise => builder
            .authenticate(noise::Config::new(keypair)?)
            .multiplex(muxer)
            .timeout(HANDSHAKE_TIMEOUT)
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .map_err(io::Error::other)
            .boxed(),
        Security::Plaintext => builder
            .authenticate(plaintext::Config::new(keypair))
            .multiplex(muxer)
            .timeout(HANDSHAKE_TIMEOUT)
            .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
            .map_err(io::Error::other)
            .boxed(),
    })
}
