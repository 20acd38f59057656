//! The API of `futures-timer` 3, over tokio's timers.
//!
//! libp2p waits through `futures-timer`, whose own implementation starts a thread and reads the machine's clock.
//! Two things are wrong with that here: a process then has two clocks, of which only one can be paused and moved
//! (the simulator needs all of them to be one), and every timer of every connection crosses a thread. This crate
//! takes its place for the whole workspace, by `[patch.crates-io]`.
//!
//! Only [`Delay`] exists: nothing in the dependency tree uses more.
//!
//! Differences from the original: a delay must be polled inside a tokio runtime with its time driver enabled (it may
//! be made anywhere), its grain is tokio's millisecond, and a duration too long for the clock waits for about 30
//! years instead of panicking.
#![forbid(unsafe_code)]

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Stands for "never" where the clock cannot represent an instant: about 30 years.
const FAR_FUTURE: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// A future that completes once a duration has passed, and stays complete until [`Delay::reset`].
///
/// # Panics
/// When polled outside a tokio runtime, or in one without a time driver.
pub struct Delay {
    due: Instant,
    /// Made at the first poll, when a runtime is certain; a delay that is never polled costs no timer.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Delay {
    /// A delay that completes `duration` from now.
    #[must_use]
    pub fn new(duration: Duration) -> Self {
        Self { due: due_after(duration), sleep: None }
    }

    /// Starts over: completes `duration` from now. A task that waits for this delay is woken at the new time
    /// only, and need not poll it again before.
    pub fn reset(&mut self, duration: Duration) {
        self.due = due_after(duration);
        if let Some(sleep) = &mut self.sleep {
            sleep.as_mut().reset(self.due);
        }
    }
}

impl Future for Delay {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let due = self.due;
        self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due))).as_mut().poll(context)
    }
}

impl fmt::Debug for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delay").field("due", &self.due).finish()
    }
}

fn due_after(duration: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(duration).unwrap_or_else(|| now + FAR_FUTURE)
}
