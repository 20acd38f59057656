//! Bare streams of the DHT protocol, beside or instead of those of `libp2p-kad`.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
    vec,
};

use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{
        Endpoint, UpgradeInfo,
        transport::PortUse,
        upgrade::{InboundUpgrade, OutboundUpgrade},
    },
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, NotifyHandler, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm,
        handler::{ConnectionEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};

/// Events that may wait for the swarm; a stream that finds them full is reset.
const MAX_WAITING: usize = 256;

/// A stream, and what became of one that was asked for.
#[derive(Debug)]
pub(super) enum StreamEvent {
    /// The other side opened it.
    Inbound(Stream),
    /// It was asked for with [`Streams::open`].
    Outbound(Stream),
    /// It was asked for and cannot be had.
    Failed,
}

/// Opens streams of one protocol, and accepts them if it is told to; then nobody else in the swarm may.
#[derive(Debug)]
pub(super) struct Streams {
    protocol: StreamProtocol,
    accepts: bool,
    events: VecDeque<ToSwarm<(PeerId, StreamEvent), ()>>,
}

impl Streams {
    /// Streams of `protocol`.
    pub(super) fn new(protocol: StreamProtocol, accepts: bool) -> Self {
        Self { protocol, accepts, events: VecDeque::new() }
    }

    /// Asks for a stream to a peer that is connected.
    pub(super) fn open(&mut self, peer: PeerId) {
        let handler = NotifyHandler::Any;
        self.events.push_back(ToSwarm::NotifyHandler { peer_id: peer, handler, event: () });
    }

    fn handler(&self) -> Handler {
        let upgrade = Upgrade(vec![self.protocol.clone()]);
        let accepted = if self.accepts { upgrade.clone() } else { Upgrade(Vec::new()) };
        Handler { upgrade, accepted, wanted: 0, events: VecDeque::new() }
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = (PeerId, StreamEvent);

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, peer: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        if self.events.len() < MAX_WAITING {
            self.events.push_back(ToSwarm::GenerateEvent((peer, event)));
        }
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        // The swarm polls again after each call that can add an event.
        self.events.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// The streams of one connection.
#[derive(Debug)]
pub(super) struct Handler {
    upgrade: Upgrade,
    accepted: Upgrade,
    wanted: usize,
    events: VecDeque<StreamEvent>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = ();
    type ToBehaviour = StreamEvent;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade> {
        SubstreamProtocol::new(self.accepted.clone(), ())
    }

    fn on_behaviour_event(&mut self, (): ()) {
        self.wanted += 1;
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Upgrade, (), StreamEvent>> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(event));
        }
        if self.wanted == 0 {
            return Poll::Pending;
        }
        self.wanted -= 1;
        let protocol = SubstreamProtocol::new(self.upgrade.clone(), ());
        Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol })
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Upgrade, Upgrade>) {
        let event = match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                StreamEvent::Inbound(protocol)
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, .. }) => {
                StreamEvent::Outbound(protocol)
            }
            ConnectionEvent::DialUpgradeError(_) => StreamEvent::Failed,
            _ => return,
        };
        self.events.push_back(event);
    }
}

/// Agrees on one of the protocols, or none, and hands the stream over as it is.
#[derive(Debug, Clone)]
pub(super) struct Upgrade(Vec<StreamProtocol>);

impl UpgradeInfo for Upgrade {
    type Info = StreamProtocol;
    type InfoIter = vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Upgrade {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}

impl OutboundUpgrade<Stream> for Upgrade {
    type Output = Stream;
    type Error = Infallible;
    type Future = Ready<Result<Stream, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, _: StreamProtocol) -> Self::Future {
        ready(Ok(stream))
    }
}
