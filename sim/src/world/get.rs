//! Whole fetches by real nodes: retried after crashes, compared with the truth.

use std::time::Duration;

use dhtfs_node::{
    api::types::{ApiError, GetProgress, GetReport, GetRequest, NetworkHints},
    core::fetch::FetchConfig,
};
use dhtfs_store::Store;
use tokio::{sync::watch, time::Instant};

use super::{Allowance, Death, Fetching, Hold, NodeIndex, Steady, Up, World, disk};
use crate::{checks::Promise, content::Content, plan::DiskFate, record::Get};

/// How often the world looks whether a complete provider is still reachable.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What a request and the head of its answer take at most besides the block, protocol names included.
const FRAME_LEN: u64 = 512;

/// One get over all its attempts.
struct Attempts<'a> {
    world: &'a World,
    index: NodeIndex,
    number: usize,
    /// In the record.
    place: usize,
    get: Get,
    begun: Instant,
    allowance: Allowance,
    /// Holders that were reachable at every look so far.
    steady: Vec<NodeIndex>,
}

impl World {
    /// Fetches a content at a node, again after every crash until the node is gone for good or the run ends, and
    /// records what came of it.
    pub async fn get(&self, index: NodeIndex, number: usize, timeout: Duration) {
        let len = self.contents[number].len;
        let get = Get { at: self.now(), node: index, len, ..Get::default() };
        let steady = self.live_holders(number, index);
        let place = {
            let mut record = self.record.borrow_mut();
            record
                .gets
                .push(Get { error: Some("not finished when the run ended".to_owned()), ..get.clone() });
            record.gets.len() - 1
        };
        let fetched_before = self.fetched_len(index);
        let allowance = Allowance { node: index, number, fetched_before, lost_len: 0 };
        self.open_gets.borrow_mut().insert(place, allowance);
        let begun = Instant::now();
        let mut attempts = Attempts { world: self, index, number, place, get, begun, allowance, steady };
        loop {
            let Some(up) = self.up_again(index).await else {
                attempts.get.error = Some("the node is gone for good".to_owned());
                break;
            };
            attempts.steady = self.live_holders(number, index);
            if self.hold(index, number).is_none() {
                self.set_hold(index, number, Hold::Part);
            }
            attempts.watch(timeout);
            match attempts.once(&up, timeout).await {
                Some(Ok(report)) => {
                    attempts.arrived(&report);
                    break;
                }
                Some(Err(error)) => {
                    attempts.failed(&error);
                    break;
                }
                None => {}
            }
        }
        self.steady_gets.borrow_mut().remove(&place);
        self.open_gets.borrow_mut().remove(&place);
        self.judge_received(attempts.allowance);
        let Attempts { mut get, steady, .. } = attempts;
        if !steady.is_empty() {
            self.held_gets.borrow_mut().insert(place);
        }
        get.received_len = self.fetched_len(index) - fetched_before;
        self.note(&format!("get {index} {number} {:?} {:?}", get.total_secs, get.error));
        self.record.borrow_mut().gets[place] = get;
    }

    /// A node dies, and with it the attempts of its gets: notes what has to come again. These are the requests in
    /// flight, each for a block at most and all together within the budget of a fetch; the manifest, which is not synced
    /// by itself; if the power fails what else was not synced; and if the disk is lost all of it.
    pub(super) fn note_lost(&self, index: NodeIndex, death: Death, store: Option<&Store>) {
        let requests = self.slots.borrow()[index].meter.requests_in_flight() as u64;
        for ((_, number), fetching) in
            self.fetches.borrow_mut().iter_mut().filter(|((node, _), _)| *node == index)
        {
            let content = &self.contents[*number];
            let held = store.map_or(0, |store| held_len(store, content));
            let received = fetching.progress.borrow().have_len.max(held);
            let in_flight = (requests * content.longest_len()).min(FetchConfig::default().budget_len);
            fetching.lost_len += in_flight
                + content.manifests_len()
                + match death {
                    Death::Shutdown | Death::Crash(DiskFate::Kept) => 0,
                    Death::Crash(DiskFate::Torn) => received - held,
                    Death::Crash(DiskFate::Lost) => received,
                };
        }
    }

    /// Gets that have not ended: whether they should have long before the end of the run, and what they received.
    pub fn judge_unfinished(&self, gets: &[Get]) {
        for (place, steady) in self.steady_gets.borrow().iter() {
            let node = gets.get(*place).map_or(0, |get| get.node);
            let is_overdue = steady.overdue_at < Instant::now() && self.reaches(node, steady.holder);
            self.checks.look(Promise::ArrivesIfHeld, !is_overdue, || {
                format!("node {node} neither gets nor gives up, although node {} has it", steady.holder)
            });
        }
        for allowance in self.open_gets.borrow().values() {
            let fetches = self.fetches.borrow();
            let attempt = fetches.get(&(allowance.node, allowance.number)).map_or(0, |f| f.lost_len);
            self.judge_received(Allowance { lost_len: allowance.lost_len + attempt, ..*allowance });
        }
    }

    /// Whether the get with this place in the record had a complete, reachable provider all the time.
    pub fn had_steady_holder(&self, place: usize) -> bool {
        self.held_gets.borrow().contains(&place) || self.steady_gets.borrow().contains_key(&place)
    }

    /// A get that is to begin at this time; gives its number for [`Self::get_begins`].
    pub(super) fn get_waits(&self, at: f64) -> usize {
        let mut waiting = self.waiting_gets.borrow_mut();
        waiting.push(Some(at));
        waiting.len() - 1
    }

    /// A get begins, or is not needed any more.
    pub(super) fn get_begins(&self, number: usize) {
        if let Some(waiting) = self.waiting_gets.borrow_mut().get_mut(number) {
            *waiting = None;
        }
    }

    /// When gets should have begun that never did.
    pub fn never_begun(&self) -> Vec<f64> {
        self.waiting_gets.borrow().iter().flatten().copied().collect()
    }

    /// Compares what a node has received for a get, however that ends, with what it may receive.
    fn judge_received(&self, allowance: Allowance) {
        let Allowance { node, number, fetched_before, lost_len } = allowance;
        let (content, received) = (&self.contents[number], self.fetched_len(node) - fetched_before);
        let per_hostile = self.hostile_nodes() as u64 * (1 << 20);
        let allowed = content.len
            + content.len / 20
            + FRAME_LEN * (content.chunks().len() + content.blocks.len()) as u64
            + content.manifests_len()
            + per_hostile
            + lost_len;
        self.checks.look(Promise::ReceivesOnce, received <= allowed, || {
            format!("node {node} received {received} bytes for {} of them, {allowed} allowed", content.len)
        });
    }

    /// The node, once it is up; `None` if it never will be.
    async fn up_again(&self, index: NodeIndex) -> Option<Up> {
        loop {
            if let Some(up) = self.up(index) {
                return Some(up);
            }
            if self.slots.borrow()[index].is_gone_for_good {
                return None;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

impl Attempts<'_> {
    /// One attempt; `None` if the node died in it.
    async fn once(&mut self, up: &Up, timeout: Duration) -> Option<Result<GetReport, ApiError>> {
        let content = &self.world.contents[self.number];
        let request = GetRequest {
            cid: content.cid(),
            into: Some(disk::files()),
            hints: NetworkHints { timeout_secs: Some(timeout.as_secs_f64()), ..NetworkHints::default() },
            ..GetRequest::default()
        };
        let (progress_out, mut progress) = watch::channel(GetProgress::default());
        let fetching = Fetching { progress: progress.clone(), lost_len: 0 };
        self.world.fetches.borrow_mut().insert((self.index, self.number), fetching);
        let result = {
            let mut fetching = std::pin::pin!(up.run(up.node.api().get(request, progress_out)));
            let mut looks = tokio::time::interval(LOOK_EVERY);
            let mut is_watched = true;
            loop {
                tokio::select! {
                    biased;
                    result = &mut fetching => break result,
                    changed = progress.changed(), if is_watched => {
                        is_watched = changed.is_ok();
                        let received = progress.borrow_and_update().received_len;
                        if received > 0 && self.get.first_byte_secs.is_none() {
                            self.get.first_byte_secs = Some(self.begun.elapsed().as_secs_f64());
                        }
                    }
                    _ = looks.tick() => self.look(),
                }
            }
        };
        self.look();
        let ended = self.world.fetches.borrow_mut().remove(&(self.index, self.number));
        self.allowance.lost_len += ended.map_or(0, |fetching| fetching.lost_len);
        self.world.open_gets.borrow_mut().insert(self.place, self.allowance);
        result
    }

    /// Notes that this get should succeed, if there is anybody to get from.
    fn watch(&self, timeout: Duration) {
        let mut steady_gets = self.world.steady_gets.borrow_mut();
        if let Some(holder) = self.steady.first() {
            // Twice the time without progress, and what a slow line may take.
            let overdue_at = Instant::now() + timeout * 2 + Duration::from_secs(1 + self.get.len / 10_000);
            steady_gets.insert(self.place, Steady { holder: *holder, overdue_at });
        } else {
            steady_gets.remove(&self.place);
        }
    }

    fn look(&mut self) {
        // A node that is dead or asleep reaches nobody; that is not the holders' failing.
        if !self.world.is_up(self.index) {
            return;
        }
        let now = self.world.live_holders(self.number, self.index);
        self.steady.retain(|holder| now.contains(holder));
        let mut steady_gets = self.world.steady_gets.borrow_mut();
        match (self.steady.first(), steady_gets.get_mut(&self.place)) {
            (Some(holder), Some(known)) => known.holder = *holder,
            (None, Some(_)) => drop(steady_gets.remove(&self.place)),
            (_, None) => {}
        }
    }

    fn arrived(&mut self, report: &GetReport) {
        let (world, content) = (self.world, &self.world.contents[self.number]);
        let written = world.disk(self.index).read_file(&report.path);
        let is_right = written.as_ref().is_ok_and(|bytes| content.is(bytes));
        world.checks.look(Promise::DeliveredRight, is_right, || {
            format!("node {} wrote something else than {}", self.index, content.name)
        });
        let secs = self.begun.elapsed().as_secs_f64();
        let get = &mut self.get;
        get.complete = is_right;
        get.total_secs = Some(secs);
        get.first_byte_secs.get_or_insert(secs);
        get.sources = report.sources.len();
        world.checks.look(Promise::ArrivesIfHeld, true, String::new);
        world.set_hold(self.index, self.number, Hold::Whole);
    }

    fn failed(&mut self, error: &ApiError) {
        self.get.error = Some(error.message.clone());
        if !self.steady.is_empty() {
            self.world.checks.look(Promise::ArrivesIfHeld, false, || {
                format!(
                    "node {} did not get {} from node {}, reachable all the time: {}",
                    self.index, self.world.contents[self.number].name, self.steady[0], error.message
                )
            });
        }
    }
}

/// Bytes of a content that a store has acknowledged.
fn held_len(store: &Store, content: &Content) -> u64 {
    let chunks = content.chunks().into_iter();
    chunks.filter(|(cid, _)| store.has_chunk(cid).unwrap_or(false)).map(|(_, len)| u64::from(len)).sum()
}
