//! TLS 1.3 as libp2p specifies it, with AES first where the CPU has instructions for it.
//!
//! libp2p's own configuration names ChaCha20 first, and its order decides. With AES-GCM a byte costs a sixth of the CPU
//! time, and encryption is the largest part of a transfer. Whoever answers a dial follows its own order, so one end of
//! this program is enough; without such instructions only ChaCha20 is offered, because AES in plain code is many times
//! slower than either.
//!
//! Source: <https://github.com/libp2p/specs/blob/master/tls/tls.md>.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use futures::{AsyncRead, AsyncWrite};
use futures_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use libp2p::PeerId;
use libp2p::identity::Keypair;
use libp2p::tls::certificate;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{self, cipher_suite};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme, SupportedCipherSuite,
};

/// Under which name both ends agree on this protocol, before TLS.
pub(super) const PROTOCOL: &str = "/tls/1.0.0";

/// The same inside of TLS.
const ALPN: &[u8] = b"libp2p";

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// The key cannot sign the certificate.
    #[error(transparent)]
    Certificate(#[from] certificate::GenError),
    /// The parts do not fit together.
    #[error(transparent)]
    Config(#[from] Error),
}

/// Both roles of the handshake, with a certificate that `keypair` has signed.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Tls {
    /// Makes a new certificate, good for the life of this value.
    ///
    /// # Errors
    /// If the key cannot sign it.
    pub(super) fn new(keypair: &Keypair) -> Result<Self, TlsSetupError> {
        Self::with_suites(keypair, suites(has_aes()))
    }

    fn with_suites(keypair: &Keypair, suites: Vec<SupportedCipherSuite>) -> Result<Self, TlsSetupError> {
        let provider = Arc::new(CryptoProvider { cipher_suites: suites, ..ring::default_provider() });
        let (certificate, key) = certificate::generate(keypair)?;
        let key = provider.key_provider.load_private_key(key)?;
        let resolver = Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key)));
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier))
            .with_client_cert_resolver(resolver.clone());
        client.alpn_protocols = vec![ALPN.to_vec()];
        // The specification: no server name is sent. Nor is a session resumed: it would name no peer.
        client.enable_sni = false;
        client.resumption = rustls::client::Resumption::disabled();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(Verifier))
            .with_cert_resolver(resolver);
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.ignore_client_order = true;
        server.send_tls13_tickets = 0;
        Ok(Self { server: Arc::new(server), client: Arc::new(client) })
    }

    /// Answers the handshake of who has dialled.
    ///
    /// # Errors
    /// If it is broken off, or the other end does not prove who it is.
    pub(super) async fn accept<C>(self, socket: C) -> io::Result<(PeerId, TlsStream<C>)>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = TlsAcceptor::from(self.server).accept(socket).await?;
        let peer = peer_of(stream.get_ref().1)?;
        Ok((peer, stream.into()))
    }

    /// Begins the handshake with who was dialled. Who that is has to be compared by the caller.
    ///
    /// # Errors
    /// If it is broken off, or the other end does not prove who it is.
    pub(super) async fn connect<C>(self, socket: C) -> io::Result<(PeerId, TlsStream<C>)>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        // An address instead of a name: none is sent.
        let nobody = ServerName::from(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let stream = TlsConnector::from(self.client).connect(nobody, socket).await?;
        let peer = peer_of(stream.get_ref().1)?;
        Ok((peer, stream.into()))
    }
}

/// Who has signed the one certificate that the other end has shown.
fn peer_of(state: &CommonState) -> io::Result<PeerId> {
    let certificates = state.peer_certificates().unwrap_or_default();
    let [certificate] = certificates else {
        return Err(io::Error::other(format!("{} certificates instead of one", certificates.len())));
    };
    certificate::parse(certificate).map(|certificate| certificate.peer_id()).map_err(io::Error::other)
}

/// What is offered, preferred first.
fn suites(has_aes: bool) -> Vec<SupportedCipherSuite> {
    if has_aes {
        vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ]
    } else {
        vec![cipher_suite::TLS13_CHACHA20_POLY1305_SHA256]
    }
}

/// Whether the CPU has instructions for AES-GCM.
fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    let has = is_x86_feature_detected!("aes") && is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    let has =
        std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
    let has = false;
    has
}

/// Believes a certificate if it carries the signature of a peer's key over its own key, whoever that peer is.
#[derive(Debug)]
struct Verifier;

impl Verifier {
    fn check(certificate: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), Error> {
        if !others.is_empty() {
            return Err(Error::General("more than one certificate".to_owned()));
        }
        certificate::parse(certificate)?;
        Ok(())
    }

    fn check_signature(
        certificate: &CertificateDer<'_>,
        message: &[u8],
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        certificate::parse(certificate)?.verify_signature(signed.scheme, message, signed.signature())?;
        Ok(HandshakeSignatureValid::assertion())
    }

    /// The specification wants these. Most peers make a key of P-256 for their certificate.
    fn schemes() -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ED25519,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::RSA_PKCS1_SHA256,
            SignatureScheme::RSA_PKCS1_SHA384,
            SignatureScheme::RSA_PKCS1_SHA512,
        ]
    }
}

fn too_old<T>() -> Result<T, Error> {
    Err(Error::General("TLS before 1.3".to_owned()))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Self::check(certificate, others).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::check_signature(certificate, message, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Self::check(certificate, others).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::check_signature(certificate, message, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use futures::{AsyncReadExt as _, AsyncWriteExt as _};
    use libp2p::core::upgrade::{InboundConnectionUpgrade as _, OutboundConnectionUpgrade as _};
    use rustls::CipherSuite;
    use tokio_util::compat::{Compat, TokioAsyncReadCompatExt as _};

    use super::*;

    type Pipe = Compat<tokio::io::DuplexStream>;

    fn pipe() -> (Pipe, Pipe) {
        let (near, far) = tokio::io::duplex(4096);
        (near.compat(), far.compat())
    }

    fn tls(has_aes: bool) -> (Tls, PeerId) {
        let keypair = Keypair::generate_ed25519();
        let peer = keypair.public().to_peer_id();
        (Tls::with_suites(&keypair, suites(has_aes)).unwrap(), peer)
    }

    fn suite(stream: &TlsStream<Pipe>) -> CipherSuite {
        stream.get_ref().1.negotiated_cipher_suite().unwrap().suite()
    }

    async fn say(from: &mut TlsStream<Pipe>, to: &mut TlsStream<Pipe>) {
        from.write_all(b"chunk").await.unwrap();
        from.flush().await.unwrap();
        let mut heard = [0; 5];
        to.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"chunk");
    }

    #[tokio::test]
    async fn both_ends_know_who_the_other_is_and_use_aes_only_if_both_can() {
        for (dialer_can, listener_can) in [(true, true), (true, false), (false, true), (false, false)] {
            let ((dialer, dialer_peer), (listener, listener_peer)) = (tls(dialer_can), tls(listener_can));
            let (near, far) = pipe();
            let (dialled, accepted) = tokio::join!(dialer.connect(near), listener.accept(far));
            let ((to, mut near), (from, mut far)) = (dialled.unwrap(), accepted.unwrap());
            assert_eq!((to, from), (listener_peer, dialer_peer));
            let wanted = if dialer_can && listener_can {
                CipherSuite::TLS13_AES_128_GCM_SHA256
            } else {
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
            };
            assert_eq!((suite(&near), suite(&far)), (wanted, wanted));
            say(&mut near, &mut far).await;
            say(&mut far, &mut near).await;
        }
    }

    #[tokio::test]
    async fn libp2ps_own_tls_is_understood_both_ways_and_one_end_brings_aes() {
        let stock_key = Keypair::generate_ed25519();
        let stock = libp2p::tls::Config::new(&stock_key).unwrap();
        let (own, own_peer) = tls(true);

        let (near, far) = pipe();
        let (dialled, accepted) =
            tokio::join!(stock.clone().upgrade_outbound(near, PROTOCOL), own.clone().accept(far),);
        let ((to, mut near), (from, mut far)) = (dialled.unwrap(), accepted.unwrap());
        assert_eq!((to, from), (own_peer, stock_key.public().to_peer_id()));
        assert_eq!(suite(&far), CipherSuite::TLS13_AES_128_GCM_SHA256);
        say(&mut near, &mut far).await;

        let (near, far) = pipe();
        let (dialled, accepted) = tokio::join!(own.connect(near), stock.upgrade_inbound(far, PROTOCOL));
        let ((to, mut near), (from, mut far)) = (dialled.unwrap(), accepted.unwrap());
        assert_eq!((to, from), (stock_key.public().to_peer_id(), own_peer));
        assert_eq!(suite(&near), CipherSuite::TLS13_AES_128_GCM_SHA256);
        say(&mut far, &mut near).await;
    }

    #[tokio::test]
    async fn a_certificate_that_no_peer_has_signed_is_refused() {
        let provider = Arc::new(ring::default_provider());
        // Two peers, the key of one and the certificate of the other.
        let (certificate, _) = certificate::generate(&Keypair::generate_ed25519()).unwrap();
        let (_, key) = certificate::generate(&Keypair::generate_ed25519()).unwrap();
        let key = provider.key_provider.load_private_key(key).unwrap();
        let resolver = Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key)));
        let (own, _) = tls(true);
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier))
            .with_client_cert_resolver(resolver);
        client.alpn_protocols = vec![ALPN.to_vec()];
        let thief = Tls { server: own.server.clone(), client: Arc::new(client) };
        let (near, far) = pipe();
        let (_, accepted) = tokio::join!(thief.connect(near), own.accept(far));
        assert!(accepted.is_err());
    }

    #[tokio::test]
    async fn who_shows_no_certificate_is_refused() {
        let (own, _) = tls(true);
        let mut client = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier))
            .with_no_client_auth();
        client.alpn_protocols = vec![ALPN.to_vec()];
        let nameless = Tls { server: own.server.clone(), client: Arc::new(client) };
        let (near, far) = pipe();
        let (_, accepted) = tokio::join!(nameless.connect(near), own.accept(far));
        assert!(accepted.is_err());
    }
}
