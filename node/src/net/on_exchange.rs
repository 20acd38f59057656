//! Requests for chunks and manifests, both ways.

use std::io;

use dhtfs_store::ContentCid;
use libp2p::PeerId;
use libp2p::request_response::{
    Event, InboundRequestId, Message, OutboundFailure, OutboundRequestId, ResponseChannel,
};

use super::command::Reply;
use super::counters::name;
use super::error::{RequestError, one_line};
use super::event_loop::EventLoop;
use super::exchange::{ExchangeRequest, ExchangeResponse};
use super::report::{Answering, BlockAnswer, ServeId, ServeTicket};

impl EventLoop {
    pub(super) fn request(
        &mut self,
        peer: PeerId,
        cid: ContentCid,
        reply: Reply<Result<BlockAnswer, RequestError>>,
    ) {
        let exchange = &mut self.swarm.behaviour_mut().exchange;
        // The protocol's own view of connections decides: it would dial a peer that it does not know.
        let refused = if !exchange.is_connected(&peer) {
            Some((RequestError::NotConnected, name::REQUESTS_NOT_CONNECTED))
        } else if self.pending.requests.len() >= self.limits.max_requests {
            Some((RequestError::TooMany, name::REQUESTS_REFUSED))
        } else {
            None
        };
        match refused {
            Some((error, counter)) => {
                self.counters.count(counter);
                // A caller that has gone is normal.
                let _ = reply.send(Err(error));
            }
            None => {
                let id = exchange.send_request(&peer, ExchangeRequest(cid));
                self.pending.requests.insert(id, reply);
                self.counters.count(name::REQUESTS);
            }
        }
    }

    pub(super) fn respond(&mut self, ticket: ServeTicket, response: ExchangeResponse) {
        match ticket.channel {
            // If the asker has gone, the event that says so has come or will come.
            Answering::Exchange(channel) => {
                let _ = self.swarm.behaviour_mut().exchange.send_response(channel, response);
            }
            Answering::Lane(reply) => reply.send(response),
        }
    }

    pub(super) fn on_exchange(&mut self, event: Event<ExchangeRequest, ExchangeResponse>) {
        match event {
            Event::Message { peer, message: Message::Request { request_id, request, channel }, .. } => {
                self.on_request(peer, request_id, request, channel);
            }
            Event::Message { message: Message::Response { request_id, response }, .. } => {
                self.on_answer(request_id, Ok(response.into()));
            }
            Event::OutboundFailure { request_id, error, .. } => {
                self.on_answer(request_id, Err(request_error(error)));
            }
            Event::ResponseSent { request_id, .. } => self.on_served(request_id, true),
            Event::InboundFailure { peer, request_id, error, .. } => {
                tracing::debug!(%peer, %error, "request not answered");
                self.on_served(request_id, false);
            }
        }
    }

    fn on_answer(&mut self, id: OutboundRequestId, answer: Result<BlockAnswer, RequestError>) {
        let Some(reply) = self.pending.requests.remove(&id) else { return };
        if reply.send(answer).is_err() {
            self.counters.count(name::ANSWERS_DROPPED);
        }
    }

    /// Hands a request on, or answers Busy if there is no room for it.
    fn on_request(
        &mut self,
        peer: PeerId,
        request_id: InboundRequestId,
        ExchangeRequest(cid): ExchangeRequest,
        channel: ResponseChannel<ExchangeResponse>,
    ) {
        if self.pending.served.len() >= self.limits.max_open_requests {
            self.counters.count(name::BUSY_OPEN);
            // If the asker has gone, nobody is left to be told.
            let _ = self.swarm.behaviour_mut().exchange.send_response(channel, ExchangeResponse::Busy);
            return;
        }
        let id = ServeId(self.next_serve);
        self.next_serve += 1;
        let ticket = ServeTicket { id, channel: Answering::Exchange(channel) };
        match self.outbox.request(ticket, peer, cid) {
            Ok(()) => {
                self.pending.served.insert(request_id, id);
                self.counters.count(name::SERVED);
            }
            Err(ticket) => {
                self.counters.count(name::BUSY_QUEUE);
                self.respond(ticket, ExchangeResponse::Busy);
            }
        }
    }

    fn on_served(&mut self, request_id: InboundRequestId, sent: bool) {
        if let Some(id) = self.pending.served.remove(&request_id) {
            self.outbox.ended(id, sent);
        }
    }
}

fn request_error(failure: OutboundFailure) -> RequestError {
    match failure {
        OutboundFailure::DialFailure => RequestError::NotConnected,
        OutboundFailure::Timeout => RequestError::Timeout,
        OutboundFailure::ConnectionClosed => RequestError::Closed,
        OutboundFailure::UnsupportedProtocols => RequestError::Unsupported,
        OutboundFailure::Io(error) => match error.kind() {
            io::ErrorKind::InvalidData => RequestError::Malformed(one_line(error)),
            _ => RequestError::Stream(one_line(error)),
        },
    }
}
