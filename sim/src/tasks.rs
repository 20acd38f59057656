//! The tasks of one simulated process: they can be frozen together, and die together in one instant.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use dhtfs_node::env::Executor;
use futures::future::BoxFuture;
use tokio::task::AbortHandle;

/// Finished tasks are forgotten when so many have gathered since the last time.
const PRUNE_AFTER: usize = 256;

/// All tasks of one process.
#[derive(Clone, Default)]
pub struct TaskSet(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    is_dead: bool,
    is_frozen: bool,
    /// Tasks that wanted to run while frozen.
    waiting: Vec<Waker>,
    tasks: Vec<AbortHandle>,
    spawned_since_prune: usize,
}

impl TaskSet {
    /// Runs tasks as part of this process. After [`TaskSet::kill`] it drops them at once.
    pub fn executor(&self) -> Executor {
        let set = self.clone();
        Arc::new(move |task| set.spawn(task))
    }

    /// Ends every task where it stands. Their destructors have run once the other tasks of the runtime have had
    /// their turn, still in this instant of simulated time.
    pub fn kill(&self) {
        let mut state = self.state();
        state.is_dead = true;
        for task in std::mem::take(&mut state.tasks) {
            task.abort();
        }
    }

    /// Stops (or lets go on) all tasks, like a machine that sleeps: time passes, but they do not see it.
    pub fn freeze(&self, is_frozen: bool) {
        let waiting = {
            let mut state = self.state();
            state.is_frozen = is_frozen;
            if is_frozen { Vec::new() } else { std::mem::take(&mut state.waiting) }
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        let mut state = self.state();
        if state.is_dead {
            return;
        }
        state.spawned_since_prune += 1;
        if state.spawned_since_prune > PRUNE_AFTER.max(state.tasks.len()) {
            state.spawned_since_prune = 0;
            state.tasks.retain(|task| !task.is_finished());
        }
        let task = tokio::spawn(Freezable { task, set: self.clone() });
        state.tasks.push(task.abort_handle());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for TaskSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state();
        f.debug_struct("TaskSet").field("tasks", &state.tasks.len()).field("dead", &state.is_dead).finish()
    }
}

struct Freezable {
    task: BoxFuture<'static, ()>,
    set: TaskSet,
}

impl Future for Freezable {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        {
            let mut state = self.set.state();
            if state.is_frozen {
                state.waiting.push(context.waker().clone());
                return Poll::Pending;
            }
        }
        self.task.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use std::{
        sync::atomic::{AtomicU32, Ordering},
        time::Duration,
    };

    use super::*;

    fn ticking(set: &TaskSet) -> Arc<AtomicU32> {
        let ticks = Arc::new(AtomicU32::new(0));
        let counted = ticks.clone();
        set.executor()(Box::pin(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                counted.fetch_add(1, Ordering::SeqCst);
            }
        }));
        ticks
    }

    #[tokio::test(start_paused = true)]
    async fn a_killed_set_runs_nothing_any_more() {
        let set = TaskSet::default();
        let ticks = ticking(&set);
        tokio::time::sleep(Duration::from_millis(2500)).await;
        set.kill();
        assert_eq!(ticks.load(Ordering::SeqCst), 2);
        tokio::task::yield_now().await;
        assert_eq!(Arc::strong_count(&ticks), 1, "the task and what it held are gone");
        let late = ticking(&set);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!((ticks.load(Ordering::SeqCst), late.load(Ordering::SeqCst)), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_set_stands_still_and_goes_on_where_it_was() {
        let set = TaskSet::default();
        let ticks = ticking(&set);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        set.freeze(true);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(ticks.load(Ordering::SeqCst), 1);
        set.freeze(false);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(ticks.load(Ordering::SeqCst), 3, "the tick that was due at once, and one more");
    }
}
