//! Whole fetches by real nodes: retried after crashes, compared with the truth.

use std::time::Duration;

use dhtfs_node::api::types::{ApiError, GetProgress, GetReport, GetRequest, NetworkHints};
use tokio::{sync::watch, time::Instant};

use super::{Hold, NodeIndex, Up, World, disk};
use crate::{checks::Promise, record::Get};

/// How often the world looks whether a complete provider is still reachable.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Chunk requests that one fetch has in flight at most, as far as a crash can lose them, in bytes.
const IN_FLIGHT_LEN: u64 = 64 << 20;

/// One get over all its attempts.
struct Attempts<'a> {
    world: &'a World,
    index: NodeIndex,
    number: usize,
    get: Get,
    begun: Instant,
    fetched_before: u64,
    crashes: u64,
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
        let (begun, fetched_before) = (Instant::now(), self.fetched_len(index));
        let mut attempts =
            Attempts { world: self, index, number, get, begun, fetched_before, crashes: 0, steady };
        let place = {
            let mut record = self.record.borrow_mut();
            record.gets.push(Get {
                error: Some("not finished when the run ended".to_owned()),
                ..attempts.get.clone()
            });
            record.gets.len() - 1
        };
        loop {
            let Some(up) = self.up_again(index).await else {
                attempts.get.error = Some("the node is gone for good".to_owned());
                break;
            };
            match attempts.once(&up, timeout).await {
                Some(Ok(report)) => {
                    attempts.arrived(&report);
                    break;
                }
                Some(Err(error)) => {
                    attempts.failed(&error);
                    break;
                }
                None => attempts.crashes += 1,
            }
        }
        let mut get = attempts.get;
        get.received_len = self.fetched_len(index) - fetched_before;
        self.note(&format!("get {index} {number} {:?} {:?}", get.total_secs, get.error));
        self.record.borrow_mut().gets[place] = get;
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
        result
    }

    fn look(&mut self) {
        let now = self.world.live_holders(self.number, self.index);
        self.steady.retain(|holder| now.contains(holder));
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
        get.received_len = world.fetched_len(self.index) - self.fetched_before;
        get.sources = report.sources.len();
        let manifests: u64 = content.blocks.iter().map(|(_, block)| block.len() as u64).sum();
        let per_hostile = world.hostile_nodes() as u64 * (1 << 20);
        let allowed = content.len
            + content.len / 20
            + manifests
            + per_hostile
            + self.crashes * IN_FLIGHT_LEN.min(content.len);
        world.checks.look(Promise::ReceivesOnce, get.received_len <= allowed, || {
            format!("node {} received {} bytes for {} of them", self.index, get.received_len, content.len)
        });
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
