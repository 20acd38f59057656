//! The lanes of a fetch: one to each peer that is asked, where the peer has them.

use std::collections::BTreeMap;
use std::time::Duration;

use dhtfs_store::ContentCid;
use libp2p::PeerId;
use std::time::Instant;

use super::{Block, Done, Driver};
use crate::core::fetch::RequestId;
use crate::net::{Ask, BlockAnswer, LaneAnswer, LaneEnd, LaneEvent, LaneEvents, LaneWants, RequestError};
use crate::tasks::now;

/// How long a peer whose lane broke off is asked with a stream for each request, before another lane is opened.
const RETRY: Duration = Duration::from_secs(10);

/// Requests that are made anew with a stream for each when a lane breaks off: fewer than a peer serves. A manifest is counted
/// as short only where a lane holds back what is long, so there is just one more of these.
fn max_streams(cid: ContentCid) -> usize {
    match cid {
        ContentCid::Chunk(_) => 32,
        ContentCid::Manifest(_) => 1,
    }
}

#[derive(Debug)]
enum Slot {
    Open(LaneWants),
    /// No lane, until then or for good.
    Without(Option<Instant>),
}

/// One lane for each peer, and what was asked for on them. Bounded by the peers of the fetch and what it asks them for.
#[derive(Debug, Default)]
pub(super) struct PeerLanes {
    slots: BTreeMap<PeerId, Slot>,
    asked: BTreeMap<RequestId, (PeerId, ContentCid)>,
}

impl PeerLanes {
    /// Takes a request back, if it was made on a lane. Its answer comes all the same.
    pub(super) fn cancel(&self, id: RequestId) {
        if let Some((peer, _)) = self.asked.get(&id)
            && let Some(Slot::Open(wants)) = self.slots.get(peer)
        {
            wants.cancel(id);
        }
    }
}

impl Driver {
    /// Asks a peer for a block: on its lane, or with a stream of its own.
    pub(super) fn request(&mut self, id: RequestId, peer: PeerId, cid: ContentCid, max_len: u32) {
        let ask = match cid {
            ContentCid::Manifest(cid) if self.with_content => Ask::WithContent(cid),
            ContentCid::Manifest(_) | ContentCid::Chunk(_) => Ask::Block(cid),
        };
        if !self.open_lane(peer) {
            self.exchange(id, peer, cid);
        } else if let Some(Slot::Open(wants)) = self.lanes.slots.get(&peer)
            && wants.want(id, ask, max_len)
        {
            self.lanes.asked.insert(id, (peer, cid));
        } else {
            // It is full of what was taken back and is not answered, or is ending.
            self.machine.on_busy(id, now());
        }
    }

    fn exchange(&mut self, id: RequestId, peer: PeerId, cid: ContentCid) {
        let client = self.context.client.clone();
        self.running
            .push(Box::pin(async move { Done::Answered(id, peer, cid, client.request(peer, cid).await) }));
    }

    /// Whether there is a lane to this peer now.
    fn open_lane(&mut self, peer: PeerId) -> bool {
        match self.lanes.slots.get(&peer) {
            Some(Slot::Open(_)) => return true,
            Some(Slot::Without(until)) if until.is_none_or(|until| now() < until) => return false,
            Some(Slot::Without(_)) | None => {}
        }
        let (wants, events) = self.context.client.lane(peer, self.buffers.clone());
        self.lanes.slots.insert(peer, Slot::Open(wants));
        self.running.push(Box::pin(next_on_lane(peer, events)));
        true
    }

    /// Deals with what happened on a lane; the blocks that came.
    pub(super) fn on_lane(&mut self, peer: PeerId, happened: Vec<LaneEvent>, lane: LaneEvents) -> Vec<Block> {
        let has_ended = matches!(happened.last(), None | Some(LaneEvent::Ended(_)));
        let blocks = happened.into_iter().filter_map(|event| self.on_lane_event(peer, event)).collect();
        if !has_ended {
            self.running.push(Box::pin(next_on_lane(peer, lane)));
        }
        blocks
    }

    fn on_lane_event(&mut self, peer: PeerId, event: LaneEvent) -> Option<Block> {
        match event {
            LaneEvent::Opened => {
                self.machine.on_lane(&peer, true, now());
                None
            }
            LaneEvent::Begun(id) => {
                self.machine.on_begun(id, now());
                None
            }
            LaneEvent::Answer(id, answer) => {
                let (_, cid) = self.lanes.asked.remove(&id)?;
                let answer = match answer {
                    LaneAnswer::Data(data) => BlockAnswer::Data(data),
                    LaneAnswer::WithContent { mut data, content_len } => {
                        let content = data.split_off(data.len().saturating_sub(content_len as usize));
                        return self.on_data(id, peer, cid, data, Some(content));
                    }
                    LaneAnswer::Missing => BlockAnswer::Missing,
                    LaneAnswer::Busy(waiting) => {
                        self.machine.on_queue(&peer, Some(waiting.into()));
                        BlockAnswer::Busy
                    }
                    LaneAnswer::Cancelled(came) => {
                        self.machine.on_cancelled(id, came, now());
                        return None;
                    }
                };
                self.on_answer(id, peer, cid, Ok(answer))
            }
            LaneEvent::Part(id) => {
                self.machine.on_part(id, now());
                None
            }
            LaneEvent::Half(id) => {
                self.machine.on_half(id, now());
                None
            }
            LaneEvent::Moved(id) => {
                self.machine.on_moved(id, now());
                None
            }
            LaneEvent::Ended(end) => {
                self.on_lane_end(peer, end);
                None
            }
        }
    }

    fn on_lane_end(&mut self, peer: PeerId, end: LaneEnd) {
        let Some(Slot::Open(wants)) = self.lanes.slots.remove(&peer) else { return };
        self.machine.on_lane(&peer, false, now());
        let left = wants.unanswered();
        // A lane that was closed because nothing was wanted is opened again when something is.
        if end != LaneEnd::Closed || !left.is_empty() {
            let until = if end == LaneEnd::Unsupported { None } else { Some(now() + RETRY) };
            self.lanes.slots.insert(peer, Slot::Without(until));
        }
        let blamed = match end {
            LaneEnd::Malformed(blamed) => blamed.or_else(|| left.first().map(|(id, ..)| *id)),
            LaneEnd::Unsupported | LaneEnd::Closed | LaneEnd::Stalled => None,
        };
        let mut streams = 0;
        for (id, cid, cancelled) in left {
            self.lanes.asked.remove(&id);
            match end {
                // Nobody waits for it.
                _ if cancelled && blamed != Some(id) => self.machine.on_failed(id, now()),
                // If the connection is gone, this says so.
                LaneEnd::Unsupported | LaneEnd::Closed if streams < max_streams(cid) => {
                    streams += 1;
                    self.exchange(id, peer, cid);
                }
                // More than the peer serves at once, or than the budget has room for now: asked for again in time.
                LaneEnd::Unsupported | LaneEnd::Closed => self.machine.on_busy(id, now()),
                LaneEnd::Malformed(_) if blamed == Some(id) => self.machine.on_malformed(id, now()),
                LaneEnd::Malformed(_) | LaneEnd::Stalled => {
                    self.on_answer(id, peer, cid, Err(RequestError::Timeout));
                }
            }
        }
    }
}

async fn next_on_lane(peer: PeerId, mut lane: LaneEvents) -> Done {
    let mut happened = lane.next_all().await;
    if happened.is_empty() {
        happened.push(LaneEvent::Ended(LaneEnd::Closed));
    }
    Done::Lane(peer, happened, lane)
}
