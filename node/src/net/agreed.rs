//! A behaviour whose streams are agreed on before anything is said, and which never sees a zone of IPv6.
//!
//! In this node the first words of a stream travel with the name of its protocol. That costs what is said and never answered:
//! who has written and goes away over QUIC tells the peer to send no more, so that the peer cannot confirm the protocol any
//! more and drops what it has not read. kad tells records in that way, and identify its news. Others understand a refusal only if it comes when the stream is opened.
//!
//! And whatever address was dialled, kad names to others and identify to the peer. The zone before a link-local one is this
//! machine's own, so they get the address without it.

use std::ops::{Deref, DerefMut};
use std::task::{Context, Poll};
use std::vec;

use futures::future::{BoxFuture, FutureExt as _, TryFutureExt as _, ready};
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::{OutboundUpgrade, UpgradeInfo};
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound, ListenUpgradeError,
    OutboundUpgradeSend,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
    Stream, StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, StreamProtocol};

use super::streams::NOBODYS;
use crate::core::profile::{is_zoned, without_zone};

/// Which protocols of a behaviour are agreed on first.
#[derive(Debug, Clone)]
enum Which {
    All,
    Only(StreamProtocol),
}

/// The wrapped behaviour.
pub(crate) struct Agreed<B> {
    inner: B,
    which: Which,
}

impl<B> Agreed<B> {
    /// All streams of `inner` are agreed on first.
    pub(crate) fn all(inner: B) -> Self {
        Self { inner, which: Which::All }
    }

    /// Only its streams of `protocol` are.
    pub(crate) fn only(protocol: StreamProtocol, inner: B) -> Self {
        Self { inner, which: Which::Only(protocol) }
    }
}

impl<B> Deref for Agreed<B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.inner
    }
}

impl<B> DerefMut for Agreed<B> {
    fn deref_mut(&mut self) -> &mut B {
        &mut self.inner
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Agreed<B> {
    type ConnectionHandler = Handler<THandler<B>>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let inner = self.inner.handle_established_inbound_connection(id, peer, local, remote)?;
        Ok(Handler { inner, which: self.which.clone() })
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addrs: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner.handle_pending_outbound_connection(id, peer, addrs, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let addr = if is_zoned(addr) { &without_zone(addr) } else { addr };
        let inner = self.inner.handle_established_outbound_connection(id, peer, addr, role, port_use)?;
        Ok(Handler { inner, which: self.which.clone() })
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        self.inner.on_connection_handler_event(peer, id, event);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.inner.poll(cx)
    }
}

/// One connection of it.
pub(crate) struct Handler<H> {
    inner: H,
    which: Which,
}

impl<H: ConnectionHandler> ConnectionHandler for Handler<H> {
    type FromBehaviour = H::FromBehaviour;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = H::InboundProtocol;
    type OutboundProtocol = Offer<H::OutboundProtocol>;
    type InboundOpenInfo = H::InboundOpenInfo;
    type OutboundOpenInfo = H::OutboundOpenInfo;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        self.inner.listen_protocol()
    }

    fn connection_keep_alive(&self) -> bool {
        self.inner.connection_keep_alive()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        self.inner
            .poll(cx)
            .map(|event| event.map_protocol(|inner| Offer { inner, which: self.which.clone() }))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner.poll_close(cx)
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        self.inner.on_behaviour_event(event);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        let event = match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info }) => {
                ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info })
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info })
            }
            ConnectionEvent::AddressChange(change) => ConnectionEvent::AddressChange(change),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error: inner_error(error) })
            }
            ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error }) => {
                ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error })
            }
            ConnectionEvent::LocalProtocolsChange(change) => ConnectionEvent::LocalProtocolsChange(change),
            ConnectionEvent::RemoteProtocolsChange(change) => ConnectionEvent::RemoteProtocolsChange(change),
            // Kinds of events that the library may add.
            _ => return,
        };
        self.inner.on_connection_event(event);
    }
}

/// What the handler would have been told.
fn inner_error<E>(error: StreamUpgradeError<Option<E>>) -> StreamUpgradeError<E> {
    match error {
        StreamUpgradeError::Timeout => StreamUpgradeError::Timeout,
        StreamUpgradeError::Apply(Some(error)) => StreamUpgradeError::Apply(error),
        StreamUpgradeError::Apply(None) | StreamUpgradeError::NegotiationFailed => {
            StreamUpgradeError::NegotiationFailed
        }
        StreamUpgradeError::Io(error) => StreamUpgradeError::Io(error),
    }
}

/// The protocols of a stream. Only the last one is taken for agreed before the peer has answered.
pub(crate) struct Offer<U> {
    inner: U,
    which: Which,
}

/// A name of an offer.
#[derive(Clone)]
pub(crate) enum Name<I> {
    Of(I),
    Nobodys,
}

impl<I: AsRef<str>> AsRef<str> for Name<I> {
    fn as_ref(&self) -> &str {
        match self {
            Self::Of(name) => name.as_ref(),
            Self::Nobodys => NOBODYS.as_ref(),
        }
    }
}

impl<U: OutboundUpgradeSend> UpgradeInfo for Offer<U> {
    type Info = Name<U::Info>;
    type InfoIter = vec::IntoIter<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        let mut names: Vec<_> = self.inner.protocol_info().map(Name::Of).collect();
        let is_agreed_first = match self.which {
            Which::All => true,
            Which::Only(ref protocol) => names.iter().any(|name| name.as_ref() == protocol.as_ref()),
        };
        if is_agreed_first {
            names.push(Name::Nobodys);
        }
        names.into_iter()
    }
}

impl<U: OutboundUpgradeSend> OutboundUpgrade<Stream> for Offer<U> {
    type Output = U::Output;
    /// `None` if the peer speaks none of the protocols.
    type Error = Option<U::Error>;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, stream: Stream, name: Name<U::Info>) -> Self::Future {
        match name {
            Name::Of(name) => self.inner.upgrade_outbound(stream, name).map_err(Some).boxed(),
            Name::Nobodys => ready(Err(None)).boxed(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use futures::StreamExt as _;
    use libp2p::StreamProtocol;
    use libp2p::core::upgrade::Version;
    use libp2p::identity::Keypair;
    use libp2p::request_response::{Behaviour, Config, Event, OutboundFailure, ProtocolSupport};
    use libp2p::swarm::{self, Swarm, SwarmEvent};

    use super::Agreed;
    use crate::net::exchange::{ExchangeCodec, ExchangeRequest};
    use crate::net::streams::is_refusal;
    use crate::net::tests::{chunk, in_time, memory_transport};

    const SPOKEN: StreamProtocol = StreamProtocol::new("/test/1");
    const OTHER: StreamProtocol = StreamProtocol::new("/test/2");

    type Exchange = Agreed<Behaviour<ExchangeCodec>>;

    fn new_swarm(
        wrap: impl FnOnce(Behaviour<ExchangeCodec>) -> Exchange,
        speaks: StreamProtocol,
    ) -> Swarm<Exchange> {
        let keypair = Keypair::generate_ed25519();
        let config =
            swarm::Config::with_tokio_executor().with_substream_upgrade_protocol_override(Version::V1Lazy);
        let exchange =
            Behaviour::with_codec(ExchangeCodec, [(speaks, ProtocolSupport::Full)], Config::default());
        let peer = keypair.public().to_peer_id();
        Swarm::new(memory_transport(&keypair), wrap(exchange), peer, config)
    }

    /// How a request ends over a protocol that the peer does not speak.
    async fn refused(wrap: impl FnOnce(Behaviour<ExchangeCodec>) -> Exchange) -> OutboundFailure {
        let (mut server, mut asker) = (new_swarm(Agreed::all, SPOKEN), new_swarm(wrap, OTHER));
        server.listen_on("/memory/0".parse().unwrap()).unwrap();
        let addr = loop {
            if let SwarmEvent::NewListenAddr { address, .. } = server.select_next_some().await {
                break address;
            }
        };
        let peer = *server.local_peer_id();
        asker.add_peer_address(peer, addr);
        asker.behaviour_mut().send_request(&peer, ExchangeRequest(chunk(1)));
        loop {
            let event = tokio::select! {
                _ = server.select_next_some() => continue,
                event = asker.select_next_some() => event,
            };
            if let SwarmEvent::Behaviour(Event::OutboundFailure { error, .. }) = event {
                return error;
            }
        }
    }

    #[tokio::test]
    async fn a_stream_that_is_agreed_on_first_is_refused_before_anything_is_said() {
        for wrap in [Agreed::all, |inner| Agreed::only(OTHER, inner)] {
            let failure = in_time(refused(wrap)).await;
            assert!(matches!(failure, OutboundFailure::UnsupportedProtocols), "{failure:?}");
        }
        let failure = in_time(refused(|inner| Agreed::only(SPOKEN, inner))).await;
        assert!(matches!(&failure, OutboundFailure::Io(error) if is_refusal(error)), "{failure:?}");
    }
}
