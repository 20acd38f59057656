//! Driver of [`Serve`]: answers peers' requests from the store.

use std::{collections::HashMap, pin::Pin, time::Duration};

use dhtfs_store::{ChunkRead, Store, Withdrawal};
use futures::{StreamExt, stream::FuturesUnordered};
use libp2p::PeerId;
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use super::{ended, now, provide::ProvideHandle, sleep_until};
use crate::{
    core::{
        MAX_BLOCK_LEN,
        serve::{Admit, Serve, ServeAction, ServeConfig, ServeId, ServeStats},
    },
    env::StoreHandle,
    net::{self, Ask, Client, ExchangeResponse, ServeTicket},
};

/// After so long what is read together ends: from the cache it takes a hundredth of that.
const LOOK_TIME: Duration = Duration::from_millis(20);

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
        ask: Ask,
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
    waiting: HashMap<ServeId, (ServeTicket, Ask)>,
}

/// A request whose turn has come.
struct Due {
    id: ServeId,
    ticket: ServeTicket,
    ask: Ask,
}

/// What the store says to a request; no response if it was not read because it was too long to join the others.
struct Read {
    due: Due,
    response: Option<ExchangeResponse>,
    withdrawal: Option<Withdrawal>,
}

enum Done {
    /// Requests of a peer that were read together.
    Read(PeerId, Vec<Read>),
    /// The limit has covered an answer.
    Covered(ServeTicket, ExchangeResponse),
}

type Running = FuturesUnordered<Pin<Box<dyn Future<Output = Done> + Send>>>;

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
        let mut running = Running::new();
        let mut limits = self.client.rates().watch();
        let first = *limits.borrow_and_update();
        self.machine.on_limits(&first, now());
        loop {
            self.act(&mut running).await;
            let deadline = self.machine.next_deadline();
            tokio::select! {
                () = ended(&mut shutdown) => return,
                Some(done) = running.next() => match done {
                    Done::Read(peer, reads) => self.on_reads(peer, reads, &mut running).await,
                    Done::Covered(ticket, response) => self.respond(ticket, response).await,
                },
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

    async fn act(&mut self, running: &mut Running) {
        let mut due: Vec<(PeerId, Vec<Due>)> = Vec::new();
        while let Some(action) = self.machine.next_action() {
            match action {
                ServeAction::Read { id, peer, joins } => match (self.waiting.remove(&id), due.last_mut()) {
                    (Some((ticket, ask)), Some((_, together))) if joins => {
                        together.push(Due { id, ticket, ask })
                    }
                    (Some((ticket, ask)), _) => due.push((peer, vec![Due { id, ticket, ask }])),
                    (None, _) => {
                        self.machine.on_reads(&[(id, Some(0))], now());
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
        for (peer, due) in due {
            let store = self.store.clone();
            running.push(Box::pin(async move { Done::Read(peer, read(&store, due).await) }));
        }
        let stats = self.machine.stats();
        self.client.set_waiting_requests(stats.queued);
        self.stats.send_replace(stats);
    }

    async fn respond(&self, ticket: ServeTicket, response: ExchangeResponse) {
        // A network that has gone needs no answer.
        let _ = self.client.respond(ticket, response).await;
    }

    async fn on_event(&mut self, event: ServeEvent) {
        match event {
            ServeEvent::Request { ticket, peer, ask } => {
                let id = ServeId(ticket.id().0);
                let metered = self.client.rates().is_metered(&peer);
                match self.machine.on_request(peer, id, ask.cid(), metered, now()) {
                    Admit::Queued => {
                        self.waiting.insert(id, (ticket, ask));
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

    async fn on_reads(&mut self, peer: PeerId, reads: Vec<Read>, running: &mut Running) {
        let len = |read: &Read| match &read.response {
            Some(ExchangeResponse::Data(data) | ExchangeResponse::WithContent { data, .. }) => {
                Some(u32::try_from(data.len()).unwrap_or(u32::MAX))
            }
            Some(_) => Some(0),
            None => None,
        };
        let lens: Vec<_> = reads.iter().map(|read| (read.due.id, len(read))).collect();
        for Read { due: Due { id, ticket, ask }, response, withdrawal } in reads {
            match response {
                // A lane keeps to the limits as it writes.
                Some(ExchangeResponse::Data(data)) if !ticket.is_on_lane() => {
                    let rates = self.client.rates().clone();
                    running.push(Box::pin(async move {
                        rates.send_all(peer, data.len()).await;
                        Done::Covered(ticket, ExchangeResponse::Data(data))
                    }));
                }
                Some(response) => self.respond(ticket, response).await,
                None => {
                    self.waiting.insert(id, (ticket, ask));
                }
            }
            if let Some(withdrawal) = withdrawal {
                withdraw(withdrawal, self.provide.as_ref()).await;
            }
        }
        // Only now: what was not read may be due again at once, or was dropped meanwhile.
        self.machine.on_reads(&lens, now());
        for (id, len) in lens {
            if len.is_none() && !self.machine.is_open(id) {
                self.waiting.remove(&id);
            }
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

/// What the store has to say to requests that are read together.
async fn read(store: &StoreHandle, due: Vec<Due>) -> Vec<Read> {
    let asks: Vec<Ask> = due.iter().map(|due| due.ask).collect();
    let looked = store.call(move |store| look(store, &asks)).await;
    // A node that ends has not lost anything.
    let looked = looked.unwrap_or_else(|_| due.iter().map(|_| (ExchangeResponse::Busy, None)).collect());
    let mut looked = looked.into_iter();
    let read = |due| match looked.next() {
        Some((response, withdrawal)) => Read { due, response: Some(response), withdrawal },
        None => Read { due, response: None, withdrawal: None },
    };
    due.into_iter().map(read).collect()
}

/// Looks for one after the other, the first one whatever its length, until one is too long to join those before, or the disk
/// is slow: others wait for this thread. With each, which file is no longer served if that came out.
fn look(store: &Store, asks: &[Ask]) -> Vec<(ExchangeResponse, Option<Withdrawal>)> {
    let mut looked = Vec::with_capacity(asks.len());
    let mut left = MAX_BLOCK_LEN;
    let begun = now();
    for ask in asks {
        if !looked.is_empty() && begun + LOOK_TIME <= now() {
            break;
        }
        let found = match store.read_within(&ask.cid(), left) {
            Ok(None) => break,
            Ok(Some(ChunkRead::Data(data))) => with_content(store, ask, data, left),
            Ok(Some(ChunkRead::Missing)) => (ExchangeResponse::Missing, None),
            Ok(Some(ChunkRead::Withdrawn(gone))) => (ExchangeResponse::Missing, Some(gone)),
            // Missing would be taken at its word, and the block is still here.
            Err(error) => {
                debug!(cid = %ask.cid(), %error, "reading for a peer failed; answered that this node is busy");
                (ExchangeResponse::Busy, None)
            }
        };
        if let ExchangeResponse::Data(data) | ExchangeResponse::WithContent { data, .. } = &found.0 {
            left = left.saturating_sub(u32::try_from(data.len()).unwrap_or(u32::MAX));
        }
        looked.push(found);
    }
    looked
}

/// Adds to a block what may go with it, if that is asked for, is here, and both together have at most `max_len` bytes.
fn with_content(
    store: &Store,
    ask: &Ask,
    mut data: Vec<u8>,
    max_len: u32,
) -> (ExchangeResponse, Option<Withdrawal>) {
    let room = max_len.saturating_sub(u32::try_from(data.len()).unwrap_or(u32::MAX));
    let content = match ask {
        Ask::Block(_) => Ok(None),
        Ask::WithContent(_) => store.read_content_with(&data, room),
    };
    match content {
        Ok(Some(ChunkRead::Data(content))) => {
            data.extend_from_slice(&content);
            let content_len = u32::try_from(content.len()).unwrap_or(u32::MAX);
            (ExchangeResponse::WithContent { data, content_len }, None)
        }
        Ok(Some(ChunkRead::Withdrawn(gone))) => (ExchangeResponse::Data(data), Some(gone)),
        Ok(Some(ChunkRead::Missing) | None) => (ExchangeResponse::Data(data), None),
        Err(error) => {
            debug!(cid = %ask.cid(), %error, "reading for a peer failed; answered with the manifest alone");
            (ExchangeResponse::Data(data), None)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::{num::NonZeroUsize, path::Path, sync::Arc};

    use dhtfs_store::{
        ChunkCid, ImportOptions, MAX_WITH_CONTENT_LEN, OpenOptions, Store,
        disk::{MemoryDisk, PagePool},
        no_progress,
    };

    use super::*;

    fn chunk(cid: ChunkCid) -> Ask {
        Ask::Block(cid.into())
    }

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
        let cid = ChunkCid::of(&content);
        let looked = look(&store, &[chunk(cid), chunk(ChunkCid::of(b"other"))]);
        let [(ExchangeResponse::Data(data), None), (ExchangeResponse::Missing, None)] = &looked[..] else {
            panic!("{looked:?}");
        };
        assert_eq!(*data, content);
        disk.crash();
        let looked = look(&store, &[chunk(cid), Ask::Block(root.into())]);
        assert!(
            matches!(looked[..], [(ExchangeResponse::Busy, None), (ExchangeResponse::Busy, None)]),
            "{looked:?}"
        );
    }

    #[tokio::test]
    async fn what_is_too_long_to_join_the_others_is_not_read_and_nothing_after_it() {
        let disk = MemoryDisk::new(Arc::new(|| Duration::from_secs(1)), PagePool::new(), None);
        let options =
            OpenOptions { threads: NonZeroUsize::new(1), disk: disk.mount(), ..OpenOptions::default() };
        let store = Store::open(Path::new("/store"), options).unwrap();
        let lens = [1, MAX_BLOCK_LEN - 1, 2];
        let cids: Vec<Ask> = lens
            .iter()
            .map(|len| {
                let content = vec![7; *len as usize];
                let path = format!("/{len}");
                disk.write_file(Path::new(&path), &content).unwrap();
                store.import_path(Path::new(&path), &ImportOptions::default(), &no_progress).unwrap();
                chunk(ChunkCid::of(&content))
            })
            .collect();
        let lens_of = |cids: &[Ask]| -> Vec<usize> {
            let len = |(response, _)| match response {
                ExchangeResponse::Data(data) => data.len(),
                other => panic!("{other:?}"),
            };
            look(&store, cids).into_iter().map(len).collect()
        };
        let longest = MAX_BLOCK_LEN as usize - 1;
        assert_eq!(lens_of(&cids), [1, longest], "together exactly as long as one block may be");
        assert_eq!(lens_of(&[cids[1], cids[2], cids[0]]), [longest], "what comes after keeps its turn");
        assert_eq!(lens_of(&[cids[2], cids[0]]), [2, 1]);
    }

    #[test]
    fn a_short_file_goes_with_its_manifest_where_that_is_asked_for() {
        let disk = MemoryDisk::new(Arc::new(|| Duration::from_secs(1)), PagePool::new(), None);
        let options =
            OpenOptions { threads: NonZeroUsize::new(1), disk: disk.mount(), ..OpenOptions::default() };
        let store = Store::open(Path::new("/store"), options).unwrap();
        let import = |path: &str, len: usize| {
            disk.write_file(Path::new(path), &vec![7; len]).unwrap();
            store.import_path(Path::new(path), &ImportOptions::default(), &no_progress).unwrap().root
        };
        let longest = MAX_WITH_CONTENT_LEN as usize;
        let [none, short, long, lost] =
            [("/none", 0), ("/short", longest), ("/long", longest + 1), ("/lost", 5)]
                .map(|(path, len)| import(path, len));
        disk.mount().remove_file(Path::new("/lost")).unwrap();
        let block = |root| store.manifest_block(&root).unwrap().unwrap();
        let alone = |root| (ExchangeResponse::Data(block(root)), None);
        let looked = look(&store, &[none, short, long, short].map(Ask::WithContent));
        let together = ExchangeResponse::WithContent {
            data: [block(short), vec![7; longest]].concat(),
            content_len: MAX_WITH_CONTENT_LEN,
        };
        assert_eq!(looked, [alone(none), (together.clone(), None), alone(long), (together, None)]);
        assert_eq!(look(&store, &[Ask::Block(short.into())]), [alone(short)], "not asked for");
        let looked = look(&store, &[Ask::WithContent(lost), Ask::WithContent(lost)]);
        let [(first, Some(gone)), (second, None)] = &looked[..] else { panic!("{looked:?}") };
        assert_eq!((first, second), (&alone(lost).0, &alone(lost).0), "its file is gone");
        assert_eq!(gone.path, Path::new("/lost"));
    }
}
