//! The handle to the event loop: cloneable, answers always, also when the loop has ended.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use dhtfs_store::{ContentCid, ManifestCid};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::buffers::Buffers;
use super::command::{Command, LookupId, Reply};
use super::command_queue::CommandSender;
use super::error::{
    BootstrapFailure, ClosestError, DialFailure, ListenError, NetGone, ProvideError, RequestError,
};
use super::exchange::ExchangeResponse;
#[cfg(test)]
use super::have::tally::Tally;
use super::have::{HaveEnd, HaveStream, Incoming};
use super::lane::{Lane, LaneEvents, LaneWants, Lanes};
use super::provide::told::Told;
use super::provide::{Announcer, BulkStreams};
use super::rates::Rates;
use super::records::{Changes, Digest, Page, Restored};
use super::report::{Answering, BlockAnswer, LookupEvent, NetStatus, PeerInfo, ServeTicket};
use super::usage::NetUsage;

/// Asks the event loop. Any of its futures may be dropped at any time.
///
/// When the last client is dropped, the event loop shuts down in order.
#[derive(Debug, Clone)]
pub struct Client {
    commands: CommandSender,
    next_lookup: Arc<AtomicU64>,
    max_lookup_providers: usize,
    local: PeerId,
    record_changes: Arc<Notify>,
    streams: BulkStreams,
    /// Peers that were told about records of this node.
    told: Arc<Mutex<Told>>,
    rates: Arc<Rates>,
    buffers: Buffers,
    /// See [`Client::addrs_for_strangers`].
    for_strangers: watch::Receiver<Vec<Multiaddr>>,
}

impl Client {
    pub(crate) fn new(
        commands: CommandSender,
        local: PeerId,
        max_lookup_providers: usize,
        record_changes: Arc<Notify>,
        streams: BulkStreams,
        for_strangers: watch::Receiver<Vec<Multiaddr>>,
    ) -> Self {
        let (next_lookup, told, rates) = (Arc::default(), Arc::default(), Arc::default());
        let buffers = Buffers::default();
        Self {
            commands,
            next_lookup,
            max_lookup_providers,
            local,
            record_changes,
            streams,
            told,
            rates,
            buffers,
            for_strangers,
        }
    }

    /// The addresses at which nodes of the internet can reach this one, relays included, as they change.
    pub fn addrs_for_strangers(&self) -> watch::Receiver<Vec<Multiaddr>> {
        self.for_strangers.clone()
    }

    /// Buffers for a fetch.
    pub fn buffers(&self) -> Buffers {
        self.buffers.of_another_fetch()
    }

    /// The limits of what is sent and asked for.
    pub fn rates(&self) -> &Arc<Rates> {
        &self.rates
    }

    pub(super) fn told(&self) -> &Mutex<Told> {
        &self.told
    }

    /// The ID of this node.
    pub fn peer_id(&self) -> PeerId {
        self.local
    }

    /// Tells holders about records of this node.
    pub fn announcer(&self) -> Announcer {
        Announcer::new(self.clone(), self.streams.clone())
    }

    /// Listens on `addr` and returns the addresses that came up, without `/p2p/`: one for a definite address,
    /// all interfaces at the time for an unspecified one.
    ///
    /// # Errors
    /// If the system refuses, or no address comes up within 10 s.
    pub async fn listen(&self, addr: Multiaddr) -> Result<Vec<Multiaddr>, ListenError> {
        self.ask(|reply| Command::Listen { addr, reply }).await?
    }

    /// Dials an address, with or without `/p2p/` at its end, and waits until the peer has identified itself;
    /// then the routing table knows it, if it serves the DHT.
    ///
    /// Joins a connection or a dial to the same peer that is there already.
    ///
    /// # Errors
    /// If the peer cannot be reached within the connect timeout, or does not belong to this network.
    pub async fn dial(&self, addr: Multiaddr) -> Result<PeerId, DialFailure> {
        self.ask(|reply| Command::Dial { addr, reply }).await?
    }

    /// Connects to a peer under `addrs` and the addresses known of it; returns at once if it is connected and
    /// joins a dial that is under way.
    ///
    /// # Errors
    /// If the peer cannot be reached within the connect timeout.
    pub async fn connect(&self, peer: PeerId, addrs: Vec<Multiaddr>) -> Result<(), DialFailure> {
        self.ask(|reply| Command::Connect { peer, addrs, reply }).await?
    }

    /// Looks for providers of `cid` in the DHT.
    pub async fn find_providers(&self, cid: ContentCid) -> Lookup {
        let id = self.next_lookup.fetch_add(1, Ordering::Relaxed);
        // All events fit, so that the event loop never waits for the reader.
        let (tx, events) = mpsc::channel(self.max_lookup_providers.saturating_add(1));
        // A loop that has gone drops the sender, which ends the lookup.
        let _ = self.commands.send(Command::FindProviders { id, cid, events: tx }).await;
        Lookup { id, events, commands: self.commands.clone(), done: false }
    }

    /// From now on this node answers that it provides these keys, whoever asks it; nothing is sent. Keys above the
    /// limit of own records are left out and counted.
    ///
    /// # Errors
    /// If the network has gone.
    pub async fn hold(&self, cids: Vec<ContentCid>) -> Result<(), NetGone> {
        self.tell(Command::Hold { cids }).await
    }

    /// Announces this node as a provider of `cid` once; returns how many peers the record was sent to, at most
    /// 20, and 0 if the routing table is empty.
    ///
    /// # Errors
    /// If too many announcements run or too many keys are announced, or if it takes longer than 60 s.
    pub async fn provide(&self, cid: ContentCid) -> Result<usize, ProvideError> {
        self.ask(|reply| Command::Provide { cid, reply }).await?
    }

    /// Stops answering that this node provides these keys. Records that other nodes hold end by themselves.
    ///
    /// # Errors
    /// If the network has gone.
    pub async fn stop_providing(&self, cids: Vec<ContentCid>) -> Result<(), NetGone> {
        self.tell(Command::StopProviding { cids }).await
    }

    /// The peers closest to the key of a chunk or manifest, at most 20, closest first, each with addresses.
    ///
    /// # Errors
    /// If too many such lookups run, or it takes longer than 60 s.
    pub async fn closest_peers(&self, digest: Digest) -> Result<Vec<(PeerId, Vec<Multiaddr>)>, ClosestError> {
        self.ask(|reply| Command::ClosestPeers { digest, reply }).await?
    }

    /// The addresses at which others can reach this node, as far as is known.
    ///
    /// # Errors
    /// If the network has gone.
    pub async fn external_addrs(&self) -> Result<Vec<Multiaddr>, NetGone> {
        self.ask(|reply| Command::ExternalAddrs { reply }).await
    }

    /// What has changed among the records of other nodes since the last call, to be written to disk. Changes are noted
    /// from the first call on.
    ///
    /// # Errors
    /// If the network has gone.
    pub async fn take_record_changes(&self) -> Result<Changes, NetGone> {
        self.ask(|reply| Command::TakeRecordChanges { reply }).await
    }

    /// Completes when so many changes wait that they should be taken soon. For one caller at a time.
    ///
    /// Dropping the future loses nothing.
    pub async fn record_changes_waiting(&self) {
        self.record_changes.notified().await;
    }

    /// Takes records of an earlier run; returns which of them found no room or had ended.
    ///
    /// # Errors
    /// If the network has gone.
    pub async fn restore_records(&self, page: Page) -> Result<Restored, NetGone> {
        self.ask(|reply| Command::RestoreRecords { page, reply }).await
    }

    /// Asks a connected peer for the bytes of `cid`. The bytes are not checked.
    ///
    /// Dropping the future does not stop the transfer; its bytes are thrown away.
    ///
    /// # Errors
    /// If the peer is not connected (nothing is dialled), or the request ends without an answer.
    pub async fn request(&self, peer: PeerId, cid: ContentCid) -> Result<BlockAnswer, RequestError> {
        self.ask(|reply| Command::Request { peer, cid, reply }).await?
    }

    /// Asks a connected peer which chunks it holds of a content that unfolds to so many chunks.
    ///
    /// # Errors
    /// If the peer cannot be asked.
    pub async fn have(&self, peer: PeerId, content: (ManifestCid, u32)) -> Result<HaveStream, HaveEnd> {
        let (protocol, tally) = self.streams.have.clone();
        HaveStream::open(self.streams.control.clone(), protocol, tally, peer, content).await
    }

    /// Opens and accepts streams of the have protocol.
    #[cfg(test)]
    pub(super) fn have_streams(&self) -> (super::streams::Control, (libp2p::StreamProtocol, Arc<Tally>)) {
        (self.streams.control.clone(), self.streams.have.clone())
    }

    /// The streams on which others ask what this node holds. `None` for all callers but the first.
    pub fn have_asked(&self) -> Option<Incoming> {
        let (protocol, tally) = self.streams.have.clone();
        let streams = self.streams.control.clone().accept(protocol)?;
        Some(Incoming::new(streams, tally))
    }

    /// Opens and accepts lanes.
    #[cfg(test)]
    pub(super) fn lane_streams(&self) -> (super::streams::Control, libp2p::StreamProtocol) {
        (self.streams.control.clone(), self.streams.lane.0.clone())
    }

    /// A lane to a connected peer, for wants of blocks in bulk, which arrive in `buffers`. It begins at once.
    pub fn lane(&self, peer: PeerId, buffers: Buffers) -> (LaneWants, LaneEvents) {
        let (protocol, tally) = self.streams.lane.clone();
        let (wants, lane) = Lane::new(self.streams.control.clone(), protocol, tally, peer, buffers);
        let (events, task) = lane.into_task();
        (self.streams.spawn)(Box::pin(task));
        (wants, events)
    }

    /// The lanes that others open. `None` for all callers but the first.
    pub fn lanes_asked(&self) -> Option<Lanes> {
        let (protocol, tally) = self.streams.lane.clone();
        let streams = self.streams.control.clone().accept(protocol)?;
        Some(Lanes::new(streams, tally, self.rates.clone()))
    }

    /// So many requests of others wait. Who is told that this node is busy is told that as well.
    pub fn set_waiting_requests(&self, requests: usize) {
        self.streams.lane.1.set_waiting(requests);
    }

    /// Answers a request. Its end is told by an event.
    ///
    /// # Errors
    /// If the network has gone.
    pub async fn respond(&self, ticket: ServeTicket, response: ExchangeResponse) -> Result<(), NetGone> {
        let ServeTicket { id, channel } = ticket;
        match channel {
            Answering::Lane(reply) => {
                reply.send(response);
                Ok(())
            }
            channel @ Answering::Exchange(_) => {
                self.tell(Command::Respond { ticket: ServeTicket { id, channel }, response }).await
            }
        }
    }

    /// Fills the routing table by walks from the peers it has; returns how many are in it afterwards.
    ///
    /// # Errors
    /// If the table is empty, or the walks take too long.
    pub async fn bootstrap(&self) -> Result<usize, BootstrapFailure> {
        self.ask(|reply| Command::Bootstrap { reply }).await?
    }

    /// The connected peers, in the order of their IDs.
    ///
    /// # Errors
    /// If the network has gone.
    pub async fn peers(&self) -> Result<Vec<PeerInfo>, NetGone> {
        self.ask(|reply| Command::Peers { reply }).await
    }

    /// The peers in the routing table with their addresses, without `/p2p/`, nearest first.
    ///
    /// # Errors
    /// If the network has gone.
    pub async fn routing_peers(&self) -> Result<Vec<(PeerId, Vec<Multiaddr>)>, NetGone> {
        self.ask(|reply| Command::RoutingPeers { reply }).await
    }

    /// The state of the network.
    ///
    /// # Errors
    /// If the network has gone.
    pub async fn status(&self) -> Result<NetStatus, NetGone> {
        self.ask(|reply| Command::Status { reply }).await.map(|status| *status)
    }

    /// How much of each limit is in use.
    ///
    /// # Errors
    /// If the network has gone.
    pub async fn usage(&self) -> Result<NetUsage, NetGone> {
        self.ask(|reply| Command::Usage { reply }).await
    }

    /// Ends the event loop: answers everybody who waits, closes listeners, then connections. Returns when it
    /// is done, also if it had ended before.
    pub async fn shutdown(&self) {
        // A loop that has gone needs no shutdown.
        let _ = self.ask(|reply| Command::Shutdown { reply }).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, NetGone> {
        let (reply, answer) = oneshot::channel();
        self.tell(command(reply)).await?;
        answer.await.map_err(|_| NetGone)
    }

    async fn tell(&self, command: Command) -> Result<(), NetGone> {
        self.commands.send(command).await
    }
}

/// A lookup under way. Dropping it ends the lookup.
#[derive(Debug)]
pub struct Lookup {
    id: LookupId,
    events: mpsc::Receiver<LookupEvent>,
    commands: CommandSender,
    done: bool,
}

impl Lookup {
    /// The next event. `None` after [`LookupEvent::Done`], and without it if the network has gone.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<LookupEvent> {
        let event = self.events.recv().await;
        self.done |= matches!(event, None | Some(LookupEvent::Done(_)));
        event
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        if !self.done {
            // If the queue is full the loop notices the closed channel with the next answer of a peer.
            let _ = self.commands.send_now(Command::CancelLookup { id: self.id });
        }
    }
}
