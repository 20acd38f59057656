//! Driver of [`Serve`]: answers peers' requests from the store.

use std::{collections::HashMap, pin::Pin, sync::Arc};

use dhtfs_store::{ChunkRead, ContentCid, Withdrawal};
use futures::{StreamExt, stream::FuturesUnordered};
use libp2p::PeerId;
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use super::{ended, now, provide::ProvideHandle, sleep_until};
use crate::{
    core::serve::{Admit, Serve, ServeAction, ServeConfig, ServeId, ServeStats},
    env::StoreHandle,
    net::{self, Client, ExchangeResponse, Rates, ServeTicket},
};

/// What the network tells the driver.
#[derive(Debug)]
pub enum ServeEvent {
    /// A peer asks for a chunk or manifest.
    Request {
        /// Where the answer goes.
        ticket: ServeTicket,
        /// Who asks.
        peer: PeerId,
        /// For what.
        cid: ContentCid,
    },
    /// An answer has been handed to the socket whole.
    Sent(net::ServeId),
    /// An answer could not be sent; the connection or stream is gone.
    Dropped(net::ServeId),
    /// It is no longer wanted.
    Cancelled(net::ServeId),
}

/// What the driver works with.
#[derive(Debug)]
pub struct ServeTask {
    machine: Serve,
    client: Client,
    store: StoreHandle,
    provide: Option<ProvideHandle>,
    events: mpsc::Receiver<ServeEvent>,
    stats: watch::Sender<ServeStats>,
    waiting: HashMap<ServeId, (ServeTicket, ContentCid)>,
}

struct Answer {
    id: ServeId,
    ticket: ServeTicket,
    response: ExchangeResponse,
    withdrawal: Option<Withdrawal>,
}

type Reading = FuturesUnordered<Pin<Box<dyn Future<Output = Answer> + Send>>>;

/// Makes the driver; the receiver tells how much was served.
pub fn new(
    config: ServeConfig,
    client: Client,
    store: StoreHandle,
    provide: Option<ProvideHandle>,
    events: mpsc::Receiver<ServeEvent>,
) -> (ServeTask, watch::Receiver<ServeStats>) {
    let machine = Serve::new(config);
    let (stats, stats_out) = watch::channel(machine.stats());
    let task = ServeTask { machine, client, store, provide, events, stats, waiting: HashMap::new() };
    (task, stats_out)
}

impl ServeTask {
    /// Runs until `shutdown` turns true or the network ends.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let mut reading = Reading::new();
        let mut limits = self.client.rates().watch();
        let first = *limits.borrow_and_update();
        self.machine.on_limits(&first, now());
        loop {
            self.act(&mut reading).await;
            let deadline = self.machine.next_deadline();
            tokio::select! {
                () = ended(&mut shutdown) => return,
                Some(answer) = reading.next() => self.answer(answer).await,
                event = self.events.recv() => match event {
                    Some(event) => self.on_event(event).await,
                    None => return,
                },
                () = sleep_until(deadline) => self.machine.on_timeout(now()),
                // The sender is as long-lived as the client.
                Ok(()) = limits.changed() => {
                    let limits = *limits.borrow_and_update();
                    self.machine.on_limits(&limits, now());
                }
            }
        }
    }

    async fn act(&mut self, reading: &mut Reading) {
        while let Some(action) = self.machine.next_action() {
            match action {
                ServeAction::Read { id, peer } => match self.waiting.remove(&id) {
                    Some((ticket, cid)) => {
                        // A lane keeps to the limits as it writes.
                        let paced = (!ticket.is_on_lane()).then(|| (self.client.rates().clone(), peer));
                        reading.push(Box::pin(read(self.store.clone(), id, ticket, cid, paced)));
                    }
                    None => {
                        self.machine.on_read(id, 0, now());
                        self.machine.on_dropped(id, now());
                    }
                },
                ServeAction::Refuse { id, .. } => {
                    if let Some((ticket, _)) = self.waiting.remove(&id) {
                        self.respond(ticket, ExchangeResponse::Busy).await;
                    }
                }
            }
        }
        self.stats.send_replace(self.machine.stats());
    }

    async fn respond(&self, ticket: ServeTicket, response: ExchangeResponse) {
        // A network that has gone needs no answer.
        let _ = self.client.respond(ticket, response).await;
    }

    async fn on_event(&mut self, event: ServeEvent) {
        match event {
            ServeEvent::Request { ticket, peer, cid } => {
                let id = ServeId(ticket.id().0);
                let metered = self.client.rates().is_metered(&peer);
                match self.machine.on_request(peer, id, metered, now()) {
                    Admit::Queued => {
                        self.waiting.insert(id, (ticket, cid));
                    }
                    Admit::Busy => self.respond(ticket, ExchangeResponse::Busy).await,
                }
            }
            ServeEvent::Sent(id) => self.machine.on_sent(ServeId(id.0), now()),
            ServeEvent::Dropped(id) => {
                let id = ServeId(id.0);
                self.waiting.remove(&id);
                self.machine.on_dropped(id, now());
            }
            ServeEvent::Cancelled(id) => {
                let id = ServeId(id.0);
                if self.machine.on_cancelled(id, now()) {
                    self.waiting.remove(&id);
                }
            }
        }
    }

    async fn answer(&mut self, answer: Answer) {
        let len = match &answer.response {
            ExchangeResponse::Data(data) => data.len(),
            _ => 0,
        };
        self.machine.on_read(answer.id, u32::try_from(len).unwrap_or(u32::MAX), now());
        self.respond(answer.ticket, answer.response).await;
        if let Some(withdrawal) = answer.withdrawal {
            withdraw(withdrawal, self.provide.as_ref()).await;
        }
    }
}

/// Says that a file is no longer served and stops announcing what only it held.
pub async fn withdraw(withdrawal: Withdrawal, provide: Option<&ProvideHandle>) {
    let Withdrawal { path, reason, keys } = withdrawal;
    warn!(path = %path.display(), %reason, "no longer served; add it again to share what it holds now");
    if let Some(provide) = provide {
        provide.withdraw(keys).await;
    }
}

async fn read(
    store: StoreHandle,
    id: ServeId,
    ticket: ServeTicket,
    cid: ContentCid,
    paced: Option<(Arc<Rates>, PeerId)>,
) -> Answer {
    let (response, withdrawal) = look(&store, cid).await;
    if let (ExchangeResponse::Data(data), Some((rates, peer))) = (&response, paced) {
        rates.send_all(peer, data.len()).await;
    }
    Answer { id, ticket, response, withdrawal }
}

/// What the store has to say to a request, and which file is no longer served if that came out.
async fn look(store: &StoreHandle, cid: ContentCid) -> (ExchangeResponse, Option<Withdrawal>) {
    let mut withdrawal = None;
    let response = match cid {
        ContentCid::Chunk(cid) => match store.call(move |s| s.read_chunk(&cid)).await {
            Ok(Ok(ChunkRead::Data(data))) => ExchangeResponse::Data(data),
            Ok(Ok(ChunkRead::Missing)) => ExchangeResponse::Missing,
            Ok(Ok(ChunkRead::Withdrawn(gone))) => {
                withdrawal = Some(gone);
                ExchangeResponse::Missing
            }
            Ok(Err(error)) => failed(cid, &error),
            Err(error) => failed(cid, &error),
        },
        ContentCid::Manifest(cid) => match store.call(move |s| s.manifest_block(&cid)).await {
            Ok(Ok(Some(block))) => ExchangeResponse::Data(block),
            Ok(Ok(None)) => ExchangeResponse::Missing,
            Ok(Err(error)) => failed(cid, &error),
            Err(error) => failed(cid, &error),
        },
    };
    (response, withdrawal)
}

/// Missing would be taken at its word, and the block is still here.
fn failed(cid: impl std::fmt::Display, error: &dyn std::error::Error) -> ExchangeResponse {
    debug!(%cid, %error, "reading for a peer failed; answered that this node is busy");
    ExchangeResponse::Busy
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::{num::NonZeroUsize, path::Path, sync::Arc, time::Duration};

    use dhtfs_store::{
        ChunkCid, ImportOptions, OpenOptions, Store,
        disk::{MemoryDisk, PagePool},
        no_progress,
    };

    use super::*;

    #[tokio::test]
    async fn a_store_that_fails_is_busy_and_has_not_lost_anything() {
        let disk = MemoryDisk::new(Arc::new(|| Duration::from_secs(1)), PagePool::new(), None);
        let options =
            OpenOptions { threads: NonZeroUsize::new(1), disk: disk.mount(), ..OpenOptions::default() };
        let store = Store::open(Path::new("/store"), options).unwrap();
        let content = vec![7; 100_000];
        disk.write_file(Path::new("/film"), &content).unwrap();
        let root =
            store.import_path(Path::new("/film"), &ImportOptions::default(), &no_progress).unwrap().root;
        let handle = StoreHandle::inline(store);
        let cid = ChunkCid::of(&content);
        let (answer, _) = look(&handle, cid.into()).await;
        assert!(matches!(answer, ExchangeResponse::Data(data) if data == content));
        let (answer, _) = look(&handle, ChunkCid::of(b"other").into()).await;
        assert!(matches!(answer, ExchangeResponse::Missing));
        disk.crash();
        for cid in [cid.into(), ContentCid::from(root)] {
            let (answer, withdrawal) = look(&handle, cid).await;
            assert!(matches!(answer, ExchangeResponse::Busy), "{cid}: {answer:?}");
            assert!(withdrawal.is_none());
        }
    }
}
