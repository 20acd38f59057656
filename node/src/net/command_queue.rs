//! The way of commands to the event loop: bounded, and a place that becomes free belongs to nobody until it is taken.
//!
//! tokio's channel gives a free place to whoever waits longest, polled or not. Who runs many futures in one task and
//! waits for a place itself meanwhile would then wait for futures that it does not poll, and everybody else behind it.
//! Here all who wait are woken, and the first to come takes the place.

use std::sync::Arc;

use tokio::sync::{Notify, mpsc};

use super::command::Command;
use super::error::NetGone;

/// A queue for `places` commands, at least one.
pub(crate) fn new(places: usize) -> (CommandSender, CommandReceiver) {
    let (tx, rx) = mpsc::channel(places.max(1));
    let room = Arc::new(Notify::new());
    (CommandSender { tx, room: room.clone() }, CommandReceiver { rx, room })
}

/// Sends commands. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct CommandSender {
    tx: mpsc::Sender<Command>,
    room: Arc<Notify>,
}

impl CommandSender {
    /// Waits for a place.
    pub(crate) async fn send(&self, mut command: Command) -> Result<(), NetGone> {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            // What becomes free from here on is heard of.
            room.as_mut().enable();
            match self.tx.try_send(command) {
                Ok(()) => return Ok(()),
                Err(mpsc::error::TrySendError::Closed(_)) => return Err(NetGone),
                Err(mpsc::error::TrySendError::Full(back)) => command = back,
            }
            tokio::select! {
                () = room => {}
                () = self.tx.closed() => return Err(NetGone),
            }
        }
    }

    /// Sends it if there is a place.
    pub(crate) fn send_now(&self, command: Command) -> bool {
        self.tx.try_send(command).is_ok()
    }

    /// The same queue, for those who must not keep the event loop running.
    pub(crate) fn downgrade(&self) -> WeakCommandSender {
        WeakCommandSender { tx: self.tx.downgrade(), room: self.room.clone() }
    }
}

/// Sends commands as long as there is a client.
#[derive(Debug, Clone)]
pub(crate) struct WeakCommandSender {
    tx: mpsc::WeakSender<Command>,
    room: Arc<Notify>,
}

impl WeakCommandSender {
    /// `None` if the last client has gone.
    pub(crate) fn upgrade(&self) -> Option<CommandSender> {
        Some(CommandSender { tx: self.tx.upgrade()?, room: self.room.clone() })
    }
}

/// The event loop's end.
#[derive(Debug)]
pub(crate) struct CommandReceiver {
    rx: mpsc::Receiver<Command>,
    room: Arc<Notify>,
}

impl CommandReceiver {
    /// The next command; `None` when the last client has gone. Dropping the future loses nothing.
    pub(crate) async fn recv(&mut self) -> Option<Command> {
        let command = self.rx.recv().await;
        // Not for every single place: all who wait are woken.
        if self.rx.len() <= self.rx.max_capacity() / 2 {
            self.room.notify_waiters();
        }
        command
    }

    /// What waits still, once nothing more is taken.
    pub(crate) fn close(&mut self) -> impl Iterator<Item = Command> + '_ {
        self.rx.close();
        std::iter::from_fn(|| self.rx.try_recv().ok())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failure is a failed test")]

    use futures::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};

    use super::{Command, NetGone, new};

    fn command(id: u64) -> Command {
        Command::CancelLookup { id }
    }

    #[tokio::test]
    async fn futures_that_nobody_polls_keep_no_place() {
        let (sender, mut receiver) = new(4);
        let mut running: FuturesUnordered<_> = (0..20).map(|id| sender.send(command(id))).collect();
        while running.next().now_or_never().is_some() {}
        assert_eq!(running.len(), 16, "four have a place, the others wait");
        // The owner of these wants a place itself and polls them no more.
        let own = sender.send(command(20));
        tokio::pin!(own);
        assert!(own.as_mut().now_or_never().is_none());
        for _ in 0..4 {
            assert!(receiver.recv().await.is_some());
        }
        assert_eq!(own.now_or_never(), Some(Ok(())));
        let mut got = 4 + 1;
        assert!(receiver.recv().await.is_some());
        while got < 21 {
            let (sent, received) = tokio::join!(running.next(), receiver.recv());
            assert_eq!(sent, Some(Ok(())));
            got += usize::from(received.is_some());
        }
    }

    #[tokio::test]
    async fn who_waits_hears_that_the_loop_has_gone() {
        let (sender, receiver) = new(1);
        sender.send(command(1)).await.unwrap();
        let mut waiting = Box::pin(sender.send(command(2)));
        assert!(waiting.as_mut().now_or_never().is_none());
        let weak = sender.downgrade();
        assert!(weak.upgrade().is_some());
        drop(receiver);
        assert_eq!(waiting.await, Err(NetGone));
        drop(sender);
        assert!(weak.upgrade().is_none());
    }
}
