//! The task that makes a network's events happen: one for all of it.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, PoisonError, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use super::Shared;

/// Runs until the network is dropped, or the runtime is.
pub(super) struct Driver {
    shared: Weak<Shared>,
    sleep: Pin<Box<Sleep>>,
    /// Kept for its room.
    wakes: Vec<Waker>,
}

impl Driver {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::downgrade(shared),
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            wakes: Vec::new(),
        }
    }

    /// Makes happen what is due. Returns when the next thing is, or `None` within if nothing is planned; `None`
    /// altogether once the network is gone.
    fn run(&mut self, cx: &Context<'_>) -> Option<Option<Instant>> {
        let shared = self.shared.upgrade()?;
        let mut core = shared.core.lock().unwrap_or_else(PoisonError::into_inner);
        let next = core.run_due();
        core.driver = Some(cx.waker().clone());
        std::mem::swap(&mut core.wakes, &mut self.wakes);
        let epoch = core.epoch();
        drop(core);
        self.wakes.drain(..).for_each(Waker::wake);
        Some(next.map(|at| epoch + Duration::from_micros(at)))
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.run(cx) {
                None => return Poll::Ready(()),
                Some(None) => return Poll::Pending,
                Some(Some(next)) => {
                    self.sleep.as_mut().reset(next);
                    if self.sleep.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // The runtime ends; on another one the network would need another driver.
        if let Some(shared) = self.shared.upgrade() {
            shared.core.lock().unwrap_or_else(PoisonError::into_inner).is_driven = false;
        }
    }
}
