//! What clients ask of the event loop. Every reply may find its caller gone.

use dhtfs_store::ContentCid;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot};

use super::error::{BootstrapFailure, ClosestError, DialFailure, ListenError, ProvideError, RequestError};
use super::exchange::ExchangeResponse;
use super::provide::wire::Answer;
use super::records::{Changes, Digest, Page, Restored};
use super::report::{BlockAnswer, LookupEvent, NetStatus, PeerInfo, ServeTicket};
use super::usage::NetUsage;

/// Where an answer goes. Dropping it tells the caller that the network has gone.
pub(crate) type Reply<T> = oneshot::Sender<T>;

/// Names a lookup between a client and the event loop.
pub(crate) type LookupId = u64;

/// Peers of the routing table with their addresses.
pub(crate) type RoutingPeers = Vec<(PeerId, Vec<Multiaddr>)>;

/// What a peer says about its own provider records.
#[derive(Debug)]
pub(crate) enum RecordsAsk {
    /// It provides these, and can be reached at `addrs`.
    Add { addrs: Vec<Multiaddr>, digests: Vec<Digest> },
    /// It provides these no longer.
    Remove(Vec<Digest>),
    /// Which of these are held?
    Held(Vec<Digest>),
    /// It is about to end.
    Away,
}

/// A command.
#[derive(Debug)]
pub(crate) enum Command {
    Listen { addr: Multiaddr, reply: Reply<Result<Vec<Multiaddr>, ListenError>> },
    Dial { addr: Multiaddr, reply: Reply<Result<PeerId, DialFailure>> },
    Connect { peer: PeerId, addrs: Vec<Multiaddr>, reply: Reply<Result<(), DialFailure>> },
    FindProviders { id: LookupId, cid: ContentCid, events: mpsc::Sender<LookupEvent> },
    CancelLookup { id: LookupId },
    Hold { cids: Vec<ContentCid> },
    Provide { cid: ContentCid, reply: Reply<Result<usize, ProvideError>> },
    StopProviding { cids: Vec<ContentCid> },
    ClosestPeers { digest: Digest, reply: Reply<Result<RoutingPeers, ClosestError>> },
    ExternalAddrs { reply: Reply<Vec<Multiaddr>> },
    Records { peer: PeerId, ask: RecordsAsk, reply: Reply<Answer> },
    ProvideStreamRefused,
    TakeRecordChanges { reply: Reply<Changes> },
    RestoreRecords { page: Page, reply: Reply<Restored> },
    Request { peer: PeerId, cid: ContentCid, reply: Reply<Result<BlockAnswer, RequestError>> },
    Respond { ticket: ServeTicket, response: ExchangeResponse },
    Bootstrap { reply: Reply<Result<usize, BootstrapFailure>> },
    Peers { reply: Reply<Vec<PeerInfo>> },
    RoutingPeers { reply: Reply<RoutingPeers> },
    Status { reply: Reply<Box<NetStatus>> },
    Usage { reply: Reply<NetUsage> },
    Shutdown { reply: Reply<()> },
}
