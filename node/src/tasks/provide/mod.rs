//! Driver of [`Planner`]: announces in the DHT what the store holds.
//!
//! The store says which keys there are and when each was last announced, the planner which of them have their turn,
//! `sweep`, `page` and `one` how they get to their holders. What the store has no longer is taken back from them:
//! [`Withdrawals`] says when, `withdraw` how.

mod again;
mod handle;
mod holders;
mod one;
mod page;
mod sweep;
#[cfg(test)]
mod tests;
mod withdraw;

use std::{
    collections::{BTreeSet, VecDeque},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use dhtfs_store::{ContentCid, KeyPosition, ProvideClass, ProvideKey};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{mpsc, watch};
use tracing::warn;

pub use self::handle::ProvideHandle;
use self::{again::Again, handle::Command, holders::Holders, withdraw::Withdrawn};
use super::{ended, now, sleep_until};
use crate::{
    core::{
        backoff::BackoffPolicy,
        keyspace::Position,
        provide::{
            Budget, Counts, Planner, ProvideAction, ProvideConfig, ProvideStats, SweepId, SweepOutcome,
            WithdrawBatch, WithdrawConfig, WithdrawStats, Withdrawals,
        },
    },
    env::{StoreHandle, WallClock},
    net::{Announcer, Client},
};

/// Messages that wait for the driver; each carries any number of keys. Senders wait when it is full.
const MAX_WAITING_COMMANDS: usize = 64;

/// Keys read from the store at a time.
const KEY_PAGE: usize = 4096;

/// How long the driver waits before it asks the store again after it failed.
const STORE_PAUSE: Duration = Duration::from_secs(60);

/// How long the driver waits before it tries once more what the store or the network kept it from.
const RETRY: BackoffPolicy = BackoffPolicy::new(Duration::from_secs(1), Duration::from_secs(60));

/// Keys that wait for that: as many as may wait to be withdrawn.
const MAX_PUT_OFF: usize = 1 << 20;

/// How often the planner is told the time of day: a machine that slept shows in it.
const CLOCK_EVERY: Duration = Duration::from_secs(30);

/// How long the own addresses have to stay as they are before they are told: several come in one moment.
const ADDRS_SETTLE: Duration = Duration::from_secs(1);

/// How long at least after they were told: relays come and go as they like.
const ADDRS_PAUSE: Duration = Duration::from_secs(30);

/// Under which name the schedule is kept among the settings.
const SCHEDULE_SETTING: &str = "provide-schedule";

/// What the driver works with.
#[derive(Clone)]
pub struct ProvideEnv {
    /// Looks peers up.
    pub client: Client,
    /// Tells holders.
    pub announcer: Announcer,
    /// Has the keys.
    pub store: StoreHandle,
    /// Time of day, for the marks.
    pub wall_clock: WallClock,
}

impl std::fmt::Debug for ProvideEnv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProvideEnv").field("announcer", &self.announcer).finish_non_exhaustive()
    }
}

/// The driver.
#[derive(Debug)]
pub struct ProvideTask {
    config: ProvideConfig,
    seed: u64,
    env: ProvideEnv,
    routing: watch::Receiver<usize>,
    commands: mpsc::Receiver<Command>,
    stats: watch::Sender<ProvideStats>,
    withdrawals: watch::Sender<WithdrawStats>,
}

/// Makes the driver and its handle. `routing` is the number of peers in the routing table.
pub fn new(
    config: ProvideConfig,
    seed: u64,
    env: ProvideEnv,
    routing: watch::Receiver<usize>,
) -> (ProvideHandle, ProvideTask) {
    let (commands, received) = mpsc::channel(MAX_WAITING_COMMANDS);
    let (stats_out, stats) = watch::channel(ProvideStats::default());
    let (withdrawals_out, withdrawals) = watch::channel(WithdrawStats::default());
    let task = ProvideTask {
        config,
        seed,
        env,
        routing,
        commands: received,
        stats: stats_out,
        withdrawals: withdrawals_out,
    };
    (ProvideHandle { commands, stats, withdrawals }, task)
}

/// What has ended.
enum Ended {
    Swept(SweepId, SweepOutcome),
    Measured(Option<u64>),
    FreshFound(Option<Position>),
    Roots {
        asked: usize,
        keys: Vec<ProvideKey>,
    },
    RootDone(KeyPosition, bool),
    /// `None` if the store has kept it from being begun.
    Withdrew(WithdrawBatch, Option<Withdrawn>),
    /// It is time to try once more.
    Rested,
    /// So many keys were to be announced once more; these still are.
    AnnouncedAgain(usize, Vec<ContentCid>),
    Saved,
    /// A page of own keys is answered for; where the next begins.
    Answered(Vec<ContentCid>, Option<KeyPosition>),
}

type Running = FuturesUnordered<Pin<Box<dyn Future<Output = Ended> + Send>>>;

/// The driver while it runs.
struct Driver {
    planner: Planner,
    withdrawals: Withdrawals,
    /// Keys that the store has, as last counted, and of how many of them all are announced.
    budget: Budget,
    env: ProvideEnv,
    holders: Arc<Holders>,
    running: Running,
    /// Roots that are being announced.
    roots: BTreeSet<KeyPosition>,
    /// It was said that there are many keys.
    told_many: bool,
    /// What the store kept from being done.
    put_off: VecDeque<Command>,
    /// Keys to be announced once more, because their holders may have been told the opposite.
    again: Again,
    /// Some of them are under way.
    is_announcing_again: bool,
    /// Tries in a row that failed.
    failures: u32,
    /// The next try is waited for.
    is_resting: bool,
}

impl ProvideTask {
    /// Runs until `shutdown` turns true.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        tokio::select! {
            () = ended(&mut shutdown) => {}
            () = self.drive() => {}
        }
    }

    async fn drive(&mut self) {
        let saved = self.env.store.call(|s| s.setting(SCHEDULE_SETTING)).await;
        let saved = saved.ok().and_then(Result::ok).flatten();
        let unix = (self.env.wall_clock)();
        let planner = Planner::new(self.config, self.seed, saved.as_deref(), unix, now());
        let holders = Arc::new(Holders::new(self.env.clone(), self.seed));
        let max = self.config.max_keys.max(1);
        let mut driver = Driver {
            planner,
            withdrawals: Withdrawals::new(WithdrawConfig::default(), self.seed),
            budget: Budget { keys: 0, max, ttl_secs: 2 * self.config.interval.as_secs() },
            env: self.env.clone(),
            holders,
            running: Running::new(),
            roots: BTreeSet::new(),
            told_many: false,
            put_off: VecDeque::new(),
            again: Again::default(),
            is_announcing_again: false,
            failures: 0,
            is_resting: false,
        };
        driver.answer_for(Some(KeyPosition::MIN));
        driver.count().await;
        driver.on_routing(*self.routing.borrow_and_update());
        let mut addrs = self.env.client.addrs_for_strangers();
        let mut announced_at = addrs.borrow_and_update().clone();
        let (mut moved_at, mut not_before) = (None, now());
        let mut clock = tokio::time::interval(CLOCK_EVERY);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            driver.act();
            driver.retry_later();
            self.stats.send_replace(driver.planner.stats());
            self.withdrawals.send_replace(driver.withdrawals.stats());
            let deadlines = [driver.planner.next_deadline(), driver.withdrawals.next_deadline()];
            let deadline = deadlines.into_iter().flatten().min();
            tokio::select! {
                Some(ended) = driver.running.next() => driver.on_ended(ended).await,
                command = self.commands.recv() => match command {
                    Some(command) => driver.take(command).await,
                    None => return,
                },
                changed = self.routing.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    driver.on_routing(*self.routing.borrow_and_update());
                }
                // The network that has gone takes this task with it.
                Ok(()) = addrs.changed() => moved_at = Some((now() + ADDRS_SETTLE).max(not_before)),
                () = sleep_until(moved_at) => {
                    moved_at = None;
                    let current = addrs.borrow_and_update().clone();
                    if current.iter().any(|addr| !announced_at.contains(addr)) {
                        driver.announce_roots_again().await;
                        not_before = now() + ADDRS_PAUSE;
                    }
                    announced_at = current;
                }
                _ = clock.tick() => driver.planner.on_clock((self.env.wall_clock)(), now()),
                () = sleep_until(deadline) => driver.planner.on_timeout(now()),
            }
        }
    }
}

impl Driver {
    async fn take(&mut self, command: Command) {
        let done = match &command {
            Command::Held(keys) => self.hold(keys.clone()).await,
            Command::Withdraw(keys) => self.withdraw(keys.clone()).await,
        };
        match done {
            Some(()) => self.failures = 0,
            None => self.put_off(command),
        }
        self.count().await;
    }

    /// Answers for the keys that are here. Must not wait until there is somebody to announce them to. `None` if the store
    /// fails.
    async fn hold(&mut self, keys: Vec<ContentCid>) -> Option<()> {
        let known = self.holders.known(keys).await?;
        if known.iter().any(|key| key.last_unix.is_none() && matches!(key.cid, ContentCid::Manifest(_))) {
            self.planner.on_new_roots();
        }
        let held: Vec<ContentCid> = known.into_iter().map(|key| key.cid).collect();
        let _ = self.env.client.hold(held.clone()).await;
        self.forget_gone(held).await
    }

    /// Of these keys that are answered for, some may have been removed before: their withdrawal has found nothing to
    /// forget then. `None` if the store fails.
    async fn forget_gone(&mut self, keys: Vec<ContentCid>) -> Option<()> {
        let gone = self.gone(keys).await?;
        if !gone.is_empty() {
            let _ = self.env.client.stop_providing(gone).await;
        }
        Some(())
    }

    /// Those of the keys that are not to be announced. `None` if the store fails.
    async fn gone(&mut self, keys: Vec<ContentCid>) -> Option<Vec<ContentCid>> {
        let shared = self.holders.known(keys.clone()).await?;
        let shared: BTreeSet<ContentCid> = shared.into_iter().map(|key| key.cid).collect();
        Some(keys.into_iter().filter(|cid| !shared.contains(cid)).collect())
    }

    /// `None` if the store fails.
    async fn withdraw(&mut self, keys: Vec<ContentCid>) -> Option<()> {
        // What was shared again before this was read is provided all the same.
        let keys = self.gone(keys).await?;
        let _ = self.env.client.stop_providing(keys.clone()).await;
        self.withdrawals.on_withdrawn(keys);
        Some(())
    }

    /// Keeps what the store has kept from being done until it is tried again.
    fn put_off(&mut self, command: Command) {
        self.failures = self.failures.saturating_add(1);
        let waiting: usize = self.put_off.iter().map(Command::len).sum();
        if waiting + command.len() > MAX_PUT_OFF {
            warn!(
                ?command,
                "the store fails, and more keys wait for it than can be kept; restart the daemon"
            );
            return;
        }
        warn!(?command, "the store fails; trying again in {:?}", RETRY.ceiling(self.failures));
        self.put_off.push_back(command);
    }

    /// Sees that what was put off is tried again.
    fn retry_later(&mut self) {
        let has_some = !self.put_off.is_empty() || (!self.again.is_empty() && !self.is_announcing_again);
        if has_some && !self.is_resting {
            self.is_resting = true;
            let pause = RETRY.ceiling(self.failures);
            self.running.push(Box::pin(async move {
                tokio::time::sleep(pause).await;
                Ended::Rested
            }));
        }
    }

    async fn retry(&mut self) {
        self.is_resting = false;
        for command in std::mem::take(&mut self.put_off) {
            self.take(command).await;
        }
        if self.again.is_empty() || self.is_announcing_again {
            return;
        }
        self.is_announcing_again = true;
        let keys = self.again.take();
        let (count, holders) = (keys.len(), self.holders.clone());
        self.running.push(Box::pin(async move {
            Ended::AnnouncedAgain(count, withdraw::announce(&holders, keys).await)
        }));
    }

    /// Others reach this node at another address from now on: records of the roots are to carry it. Those of the chunks get it
    /// when they have their turn; who has a root asks its providers for them.
    async fn announce_roots_again(&mut self) {
        let roots = match self.env.store.call(|s| s.shares()).await {
            Ok(Ok(shares)) => shares.into_iter().map(|share| ContentCid::Manifest(share.root)).collect(),
            Ok(Err(error)) => {
                return warn!(%error, "reading the shares failed; they are announced at their old address");
            }
            Err(_) => return,
        };
        let known = self.holders.known(roots).await.unwrap_or_default();
        // What was never announced will be, with the new address.
        let told = known.into_iter().filter(|key| key.last_unix.is_some()).map(|key| key.cid);
        self.again.add(told.collect());
    }

    fn on_routing(&mut self, peers: usize) {
        self.planner.on_routing(peers, now());
        self.withdrawals.on_routing(peers);
    }

    /// Tells the planner how many keys there are.
    async fn count(&mut self) {
        match self.env.store.call(|s| s.provide_counts()).await {
            Ok(Ok(counts)) => {
                self.budget.keys = counts.keys;
                self.tell_many();
                let counts = Counts {
                    keys: counts.keys,
                    fresh_roots: counts.fresh_roots,
                    fresh_others: counts.fresh.saturating_sub(counts.fresh_roots),
                    refused: 0,
                };
                self.planner.on_counts(counts, now());
            }
            Ok(Err(error)) => warn!(%error, "counting the keys to announce failed"),
            Err(_) => {}
        }
    }

    /// Says once that there are more keys than are announced.
    fn tell_many(&mut self) {
        let Budget { keys, max, .. } = self.budget;
        if keys <= max || self.told_many {
            return;
        }
        self.told_many = true;
        warn!(
            "{keys} keys are to be announced, and other nodes keep about {max} of one: of the chunks only so many are \
             announced again at a time, the least replicated first; `dhtfs add --announce roots` announces a share by \
             a single key"
        );
    }

    fn act(&mut self) {
        let budget = self.budget;
        while let Some(action) = self.planner.next_action() {
            let holders = self.holders.clone();
            self.running.push(match action {
                ProvideAction::Measure { lookups } => {
                    Box::pin(async move { Ended::Measured(holders.measure(lookups).await) })
                }
                ProvideAction::SweepDue { id, region, due, known_since } => Box::pin(async move {
                    let which = sweep::Which::Due(due, budget);
                    Ended::Swept(id, sweep::run(&holders, region, which, known_since).await)
                }),
                ProvideAction::SweepFresh { id, region, known_since } => Box::pin(async move {
                    Ended::Swept(id, sweep::run(&holders, region, sweep::Which::Fresh, known_since).await)
                }),
                ProvideAction::FindFresh { from } => Box::pin(async move {
                    let keys =
                        holders.fresh(ProvideClass::Other, KeyPosition(from.0), KeyPosition::MAX, 1).await;
                    Ended::FreshFound(keys.unwrap_or_default().first().map(|key| Position(key.position.0)))
                }),
                ProvideAction::ProvideRoots { from, max } => {
                    let asked = max + self.roots.len();
                    Box::pin(async move {
                        let from = KeyPosition(from.0);
                        let keys = holders.fresh(ProvideClass::Root, from, KeyPosition::MAX, asked).await;
                        Ended::Roots { asked, keys: keys.unwrap_or_default() }
                    })
                }
                ProvideAction::Save(schedule) => Box::pin(async move {
                    holders.save(schedule).await;
                    Ended::Saved
                }),
            });
        }
        let since = self.planner.known_since(now());
        self.withdrawals.on_size(self.planner.size());
        while let Some(batch) = self.withdrawals.next_action(now()) {
            let holders = self.holders.clone();
            self.running.push(Box::pin(async move {
                let withdrawn = withdraw::run(&holders, &batch, since).await;
                Ended::Withdrew(batch, withdrawn)
            }));
        }
    }

    async fn on_ended(&mut self, ended: Ended) {
        match ended {
            Ended::Swept(id, outcome) => {
                self.planner.on_swept(id, outcome, now());
                self.planner.on_size(self.holders.size(), now());
                self.count().await;
            }
            Ended::Measured(size) => self.planner.on_size(size, now()),
            Ended::FreshFound(found) => self.planner.on_fresh_found(found, now()),
            Ended::Roots { asked, keys } => self.begin_roots(asked, keys),
            Ended::RootDone(position, taken) => {
                self.roots.remove(&position);
                self.count().await;
                self.planner.on_root_done(taken, now());
            }
            Ended::Withdrew(batch, None) => self.withdrawals.on_put_off(&batch, now()),
            Ended::Withdrew(batch, Some(Withdrawn { failed, again })) => {
                self.withdrawals.on_done(&batch, &failed, now());
                self.again.add(again);
            }
            Ended::Rested => self.retry().await,
            Ended::AnnouncedAgain(count, left) => {
                self.is_announcing_again = false;
                self.failures = if left.len() < count { 0 } else { self.failures.saturating_add(1) };
                self.again.add(left);
            }
            Ended::Saved => {}
            Ended::Answered(keys, next) => {
                if self.forget_gone(keys.clone()).await.is_none() {
                    self.put_off(Command::Held(keys));
                }
                self.answer_for(next);
            }
        }
        self.withdrawals.on_withdrawn(self.holders.take_gone());
    }

    fn begin_roots(&mut self, asked: usize, keys: Vec<ProvideKey>) {
        let last = keys.last().map(|key| key.position).filter(|_| keys.len() == asked);
        let next = last.map(|position| Position(position.0));
        let mut started = 0;
        for key in keys {
            if !self.roots.insert(key.position) {
                continue;
            }
            started += 1;
            let holders = self.holders.clone();
            self.running.push(Box::pin(async move {
                let taken = one::provide(&holders, &key).await;
                Ended::RootDone(key.position, taken)
            }));
        }
        self.planner.on_roots_started(started, next, now());
    }

    /// From now on this node answers that it provides the own keys from `from` on: a page at a time, so that a node
    /// with millions of them serves at once.
    fn answer_for(&mut self, from: Option<KeyPosition>) {
        let Some(from) = from else { return };
        let env = self.env.clone();
        self.running.push(Box::pin(async move {
            let page = env.store.call(move |s| s.provide_range(from, KeyPosition::MAX, KEY_PAGE)).await;
            let keys = match page {
                Ok(Ok(keys)) => keys,
                Ok(Err(error)) => {
                    warn!(%error, "reading the own keys failed; trying again in {STORE_PAUSE:?}");
                    tokio::time::sleep(STORE_PAUSE).await;
                    return Ended::Answered(Vec::new(), Some(from));
                }
                Err(_) => return Ended::Answered(Vec::new(), None),
            };
            let next = (keys.len() == KEY_PAGE).then(|| keys.last().and_then(|key| after(key.position)));
            let keys: Vec<ContentCid> = keys.into_iter().map(|key| key.cid).collect();
            let _ = env.client.hold(keys.clone()).await;
            Ended::Answered(keys, next.flatten())
        }));
    }
}

/// The position after this one; none after the last.
fn after(position: KeyPosition) -> Option<KeyPosition> {
    let mut bytes = position.0;
    for byte in bytes.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(KeyPosition(bytes));
        }
    }
    None
}
