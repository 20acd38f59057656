//! Driver of [`Have`]: tells peers which chunks of a content the store holds, while they listen.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use dhtfs_store::{Held, ManifestCid};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{Notify, watch};
use tracing::debug;

use super::{ended, now, sleep_until};
use crate::{
    core::have::{Have, HaveAction, HaveConfig, StreamId, Telling},
    env::StoreHandle,
    net::{Asked, Incoming, Said, Step},
};

/// What the driver works with.
#[derive(Debug)]
pub struct HaveTask {
    machine: Have,
    store: StoreHandle,
    changed: Arc<Notify>,
    next_stream: u64,
    /// Streams that wait for something to be said.
    waiting: BTreeMap<StreamId, Said>,
}

enum Done {
    Step(StreamId, Step),
    /// `None` if the store failed.
    Looked(ManifestCid, Option<Option<Held>>),
}

type Running = FuturesUnordered<Pin<Box<dyn Future<Output = Done> + Send>>>;

impl HaveTask {
    /// A driver that listens to changes of the store from now on.
    pub fn new(config: HaveConfig, store: StoreHandle) -> Self {
        let changed = Arc::new(Notify::new());
        let tell = changed.clone();
        store.store().on_change(move || tell.notify_one());
        Self { machine: Have::new(config), store, changed, next_stream: 0, waiting: BTreeMap::new() }
    }

    /// Runs until `shutdown` turns true or the network ends.
    pub async fn run(mut self, mut incoming: Incoming, mut shutdown: watch::Receiver<bool>) {
        let mut running = Running::new();
        let changed = self.changed.clone();
        loop {
            while let Some(action) = self.machine.next_action() {
                self.act(action, &mut running);
            }
            incoming.count(&self.machine.stats());
            let deadline = self.machine.next_deadline();
            tokio::select! {
                () = ended(&mut shutdown) => return,
                Some(done) = running.next(), if !running.is_empty() => self.on_done(done, &mut running),
                asked = incoming.next() => match asked {
                    Some(asked) => self.on_stream(asked, &mut running),
                    None => return,
                },
                () = changed.notified() => self.machine.on_changed(now()),
                () = sleep_until(deadline) => self.machine.on_timeout(now()),
            }
        }
    }

    fn on_stream(&mut self, asked: Asked, running: &mut Running) {
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        if self.machine.on_stream(id, asked.peer) {
            running.push(Box::pin(async move { Done::Step(id, asked.question().await) }));
        }
    }

    fn on_done(&mut self, done: Done, running: &mut Running) {
        match done {
            Done::Looked(root, Some(held)) => self.machine.on_looked(root, held, now()),
            Done::Looked(root, None) => self.machine.on_look_failed(root, now()),
            Done::Step(id, Step::Question(asked, root)) => {
                self.wait(id, asked, running);
                self.machine.on_question(id, root, now());
            }
            Done::Step(id, Step::Took(asked)) => {
                self.machine.on_told(id, now());
                if self.machine.is_open(id) {
                    self.wait(id, asked, running);
                }
            }
            Done::Step(id, Step::Closed) => {
                self.waiting.remove(&id);
                self.machine.on_closed(id, now());
            }
        }
    }

    fn wait(&mut self, id: StreamId, asked: Asked, running: &mut Running) {
        let (said, step) = asked.say();
        self.waiting.insert(id, said);
        running.push(Box::pin(async move { Done::Step(id, step.await) }));
    }

    fn act(&mut self, action: HaveAction, running: &mut Running) {
        match action {
            HaveAction::Look(root) => {
                let store = self.store.clone();
                running.push(Box::pin(async move { Done::Looked(root, look(&store, root).await) }));
            }
            HaveAction::Tell(id, telling) => self.tell(id, telling),
        }
    }

    fn tell(&mut self, id: StreamId, telling: Telling) {
        if let Some(said) = self.waiting.remove(&id) {
            // A stream that is gone says so itself.
            let _ = said.send(telling);
        }
    }
}

/// What is held of a content; `None` if the store fails.
async fn look(store: &StoreHandle, root: ManifestCid) -> Option<Option<Held>> {
    match store.call(move |s| s.held(&root)).await {
        Ok(Ok(held)) => Some(held),
        Ok(Err(error)) => {
            debug!(%root, %error, "what is held of a content could not be read; it is read again later");
            None
        }
        Err(error) => {
            debug!(%root, %error, "what is held of a content could not be read");
            None
        }
    }
}
