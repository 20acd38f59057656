//! Driver of [`Provide`]: announces in the DHT what the store holds.

use std::{pin::Pin, time::Duration};

use dhtfs_store::ContentCid;
use futures::{Stream, StreamExt, stream::FuturesUnordered};
use tokio::sync::{mpsc, watch};
use tracing::{debug, warn};

use super::{ended, now, sleep_until};
use crate::{
    core::provide::{Class, Provide, ProvideAction, ProvideConfig, ProvideStats},
    env::StoreHandle,
    net::Client,
};

/// Messages that wait for the driver; each carries any number of keys. Senders wait when it is full.
const MAX_WAITING_COMMANDS: usize = 64;

/// Keys read from the store at a time when the node starts.
const KEY_PAGE: usize = 4096;

/// How long the driver waits before it looks at the store again if reading the held keys failed.
const RELOAD_AFTER: Duration = Duration::from_secs(60);

enum Command {
    Announce(Class, Vec<ContentCid>),
    Withdraw(Vec<ContentCid>),
}

/// Tells the driver what the store holds now. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ProvideHandle {
    commands: mpsc::Sender<Command>,
    stats: watch::Receiver<ProvideStats>,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Command::Announce(class, keys) => write!(f, "Announce({class:?}, {} keys)", keys.len()),
            Command::Withdraw(keys) => write!(f, "Withdraw({} keys)", keys.len()),
        }
    }
}

impl ProvideHandle {
    /// These keys are held now: announce them and keep them announced. Waits while the driver is behind; does
    /// nothing once it has ended.
    pub async fn announce(&self, class: Class, keys: Vec<ContentCid>) {
        if !keys.is_empty() {
            let _ = self.commands.send(Command::Announce(class, keys)).await;
        }
    }

    /// Announces keys by what they are: manifests before chunks.
    pub async fn announce_all(&self, keys: Vec<ContentCid>) {
        let (roots, chunks) = keys.into_iter().partition(|key| matches!(key, ContentCid::Manifest(_)));
        self.announce(Class::Root, roots).await;
        self.announce(Class::Chunk, chunks).await;
    }

    /// These keys are no longer held: stop announcing them.
    pub async fn withdraw(&self, keys: Vec<ContentCid>) {
        if !keys.is_empty() {
            let _ = self.commands.send(Command::Withdraw(keys)).await;
        }
    }

    /// How far the announcements are.
    pub fn stats(&self) -> ProvideStats {
        *self.stats.borrow()
    }
}

/// What the driver works with.
#[derive(Debug)]
pub struct ProvideTask {
    machine: Provide,
    client: Client,
    store: StoreHandle,
    routing: watch::Receiver<usize>,
    commands: mpsc::Receiver<Command>,
    stats: watch::Sender<ProvideStats>,
}

/// Makes the driver and its handle. `routing` is the number of peers in the routing table.
pub fn new(
    config: ProvideConfig,
    seed: u64,
    client: Client,
    store: StoreHandle,
    routing: watch::Receiver<usize>,
) -> (ProvideHandle, ProvideTask) {
    let (commands, received) = mpsc::channel(MAX_WAITING_COMMANDS);
    let machine = Provide::new(config, seed, now());
    let (stats_out, stats) = watch::channel(machine.stats());
    let task = ProvideTask { machine, client, store, routing, commands: received, stats: stats_out };
    (ProvideHandle { commands, stats }, task)
}

type Announced = Option<(ContentCid, Result<usize, ()>)>;
type Running = FuturesUnordered<Pin<Box<dyn Future<Output = Announced> + Send>>>;

impl ProvideTask {
    /// Runs until `shutdown` turns true. First announces everything the store holds.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        let mut running = Running::new();
        let mut held = Box::pin(held_keys(self.store.clone()).fuse());
        let peers = *self.routing.borrow_and_update();
        self.machine.on_routing(peers, now());
        loop {
            self.act(&mut running);
            let deadline = self.machine.next_deadline();
            tokio::select! {
                () = ended(&mut shutdown) => return,
                Some(keys) = held.next() => self.take(Command::Announce(Class::Chunk, keys)).await,
                Some(announced) = running.next() => {
                    if let Some((cid, outcome)) = announced {
                        self.machine.on_provided(cid, outcome, now());
                    }
                }
                command = self.commands.recv() => match command {
                    Some(command) => self.take(command).await,
                    None => return,
                },
                changed = self.routing.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let peers = *self.routing.borrow_and_update();
                    self.machine.on_routing(peers, now());
                }
                () = sleep_until(deadline) => self.machine.on_timeout(now()),
            }
        }
    }

    async fn take(&mut self, command: Command) {
        // Answering for a key must not wait until there is somebody to announce it to.
        match &command {
            Command::Announce(_, keys) => drop(self.client.hold(keys.clone()).await),
            Command::Withdraw(keys) => {
                for cid in keys {
                    let _ = self.client.stop_providing(*cid).await;
                }
            }
        }
        match command {
            Command::Announce(Class::Root, keys) => self.machine.on_keys(Class::Root, keys, now()),
            Command::Announce(Class::Chunk, keys) => {
                let (roots, chunks): (Vec<_>, Vec<_>) =
                    keys.into_iter().partition(|key| matches!(key, ContentCid::Manifest(_)));
                self.machine.on_keys(Class::Root, roots, now());
                self.machine.on_keys(Class::Chunk, chunks, now());
            }
            Command::Withdraw(keys) => self.machine.on_removed(keys, now()),
        }
    }

    fn act(&mut self, running: &mut Running) {
        while let Some(action) = self.machine.next_action() {
            match action {
                ProvideAction::Provide(cid) => {
                    let client = self.client.clone();
                    running.push(Box::pin(async move {
                        let outcome = client.provide(cid).await;
                        if let Err(error) = &outcome {
                            debug!(%cid, %error, "announcing failed; it will be tried again");
                        }
                        Some((cid, outcome.map_err(|_| ())))
                    }));
                }
                ProvideAction::Withdraw(cid) => {
                    let client = self.client.clone();
                    running.push(Box::pin(async move {
                        // Only forgets the record on this node.
                        let _ = client.stop_providing(cid).await;
                        None
                    }));
                }
            }
        }
        self.stats.send_replace(self.machine.stats());
    }
}

/// Every key the store holds, page by page. Tries again later if the store fails.
fn held_keys(store: StoreHandle) -> impl Stream<Item = Vec<ContentCid>> + Send {
    futures::stream::unfold((store, None, false), |(store, after, done)| async move {
        if done {
            return None;
        }
        loop {
            match store.call(move |s| s.held_keys(after, KEY_PAGE)).await {
                Ok(Ok(keys)) => {
                    let last = keys.last().copied().or(after);
                    let done = keys.len() < KEY_PAGE;
                    return Some((keys, (store, last, done)));
                }
                Ok(Err(error)) => {
                    warn!(%error, "reading the keys to announce failed; trying again in {RELOAD_AFTER:?}");
                    tokio::time::sleep(RELOAD_AFTER).await;
                }
                Err(_) => return None,
            }
        }
    })
}
