//! How connections over TCP are encrypted: TLS if both ends can, else Noise, which every libp2p program has.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncWrite, FutureExt as _, TryFutureExt as _};
use futures_rustls::TlsStream;
use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use libp2p::identity::Keypair;
use libp2p::{PeerId, noise};

use super::tls::{self, Tls, TlsSetupError};

/// The name of Noise, before it.
const NOISE: &str = "/noise";

/// Encryption cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SecuritySetupError {
    /// Noise.
    #[error(transparent)]
    Noise(#[from] noise::Error),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsSetupError),
}

/// Both ways, TLS preferred.
#[derive(Clone)]
pub(super) struct Security {
    tls: Tls,
    noise: noise::Config,
}

impl Security {
    pub(super) fn new(keypair: &Keypair) -> Result<Self, SecuritySetupError> {
        Ok(Self { tls: Tls::new(keypair)?, noise: noise::Config::new(keypair)? })
    }
}

/// A connection after either handshake.
pub(super) enum Secured<C> {
    Tls(Box<TlsStream<C>>),
    Noise(Box<noise::Output<C>>),
}

impl UpgradeInfo for Security {
    type Info = &'static str;
    type InfoIter = [Self::Info; 2];

    fn protocol_info(&self) -> Self::InfoIter {
        [tls::PROTOCOL, NOISE]
    }
}

impl<C> InboundConnectionUpgrade<C> for Security
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, Secured<C>);
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_inbound(self, socket: C, protocol: Self::Info) -> Self::Future {
        if protocol == tls::PROTOCOL {
            let accepted = self.tls.accept(socket);
            return accepted.map_ok(|(peer, stream)| (peer, Secured::Tls(Box::new(stream)))).boxed();
        }
        let accepted = self.noise.upgrade_inbound(socket, protocol);
        accepted
            .map_ok(|(peer, stream)| (peer, Secured::Noise(Box::new(stream))))
            .map_err(io::Error::other)
            .boxed()
    }
}

impl<C> OutboundConnectionUpgrade<C> for Security
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, Secured<C>);
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_outbound(self, socket: C, protocol: Self::Info) -> Self::Future {
        if protocol == tls::PROTOCOL {
            let connected = self.tls.connect(socket);
            return connected.map_ok(|(peer, stream)| (peer, Secured::Tls(Box::new(stream)))).boxed();
        }
        let connected = self.noise.upgrade_outbound(socket, protocol);
        connected
            .map_ok(|(peer, stream)| (peer, Secured::Noise(Box::new(stream))))
            .map_err(io::Error::other)
            .boxed()
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncRead for Secured<C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Noise(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Secured<C> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Noise(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Noise(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Noise(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_close(cx),
            Self::Noise(stream) => Pin::new(stream).poll_close(cx),
        }
    }
}
