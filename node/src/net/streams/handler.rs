//! One connection: opens what is asked for, and sorts what arrives.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use libp2p::{
    PeerId, Stream, StreamProtocol,
    core::upgrade::{InboundUpgrade, OutboundUpgrade, UpgradeInfo},
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, StreamUpgradeError, SubstreamProtocol,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use tokio::sync::mpsc;

use super::{MAX_OPENING, NOBODYS, OpenError, Opening, Request, Shared, Waiter};

/// See the module's documentation.
pub(crate) struct Handler {
    peer: PeerId,
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
    /// Streams whose protocol is being agreed on.
    opening: usize,
}

impl Handler {
    pub(super) fn new(peer: PeerId, shared: Arc<Shared>, requests: mpsc::Receiver<Request>) -> Self {
        Self { peer, shared, requests, opening: 0 }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = Offer;
    type OutboundProtocol = Offer;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Waiter;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer, ()> {
        SubstreamProtocol::new(Offer(self.shared.offered()), ())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Offer, Waiter, Infallible>> {
        while self.opening < MAX_OPENING {
            let Poll::Ready(Some(Request { protocol, opening, waiter })) = self.requests.poll_recv(cx) else {
                break;
            };
            // Who asked may have given up while it waited.
            if waiter.is_closed() {
                continue;
            }
            self.opening += 1;
            let offer = match opening {
                Opening::Early => Offer([protocol].into()),
                // Only the last name is taken for agreed before the peer has answered.
                Opening::Agreed => Offer([protocol, NOBODYS.clone()].into()),
            };
            let protocol = SubstreamProtocol::new(offer, waiter);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, event: Infallible) {
        match event {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Offer, Offer, (), Waiter>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, name),
                ..
            }) => self.shared.arrived(self.peer, &name, stream),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, name),
                info: waiter,
            }) => {
                self.opening = self.opening.saturating_sub(1);
                let opened = if name == NOBODYS { Err(OpenError::Unsupported) } else { Ok(stream) };
                // Who has given up drops the stream, which resets it.
                let _ = waiter.send(opened);
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, info: waiter }) => {
                self.opening = self.opening.saturating_sub(1);
                let error = match error {
                    StreamUpgradeError::Timeout => OpenError::Io(std::io::ErrorKind::TimedOut.into()),
                    StreamUpgradeError::NegotiationFailed => OpenError::Unsupported,
                    StreamUpgradeError::Io(error) => OpenError::Io(error),
                    StreamUpgradeError::Apply(never) => match never {},
                };
                let _ = waiter.send(Err(error));
            }
            _ => {}
        }
    }
}

/// Protocols that a stream may be of; what is agreed on is the bare stream and its protocol.
pub(crate) struct Offer(Arc<[StreamProtocol]>);

/// The names of an offer.
pub(crate) struct Names {
    of: Arc<[StreamProtocol]>,
    next: usize,
}

impl Iterator for Names {
    type Item = StreamProtocol;

    fn next(&mut self) -> Option<StreamProtocol> {
        let name = self.of.get(self.next).cloned();
        self.next += 1;
        name
    }
}

impl UpgradeInfo for Offer {
    type Info = StreamProtocol;
    type InfoIter = Names;

    fn protocol_info(&self) -> Names {
        Names { of: self.0.clone(), next: 0 }
    }
}

impl InboundUpgrade<Stream> for Offer {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((stream, name)))
    }
}

impl OutboundUpgrade<Stream> for Offer {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, name: StreamProtocol) -> Self::Future {
        ready(Ok((stream, name)))
    }
}
