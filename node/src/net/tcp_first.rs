//! TCP before QUIC, where a peer has addresses of both.
//!
//! Of several addresses of a peer the one that is connected first is used. QUIC would nearly always be: its handshake takes
//! fewer round trips. But each byte over it costs three times as much of the CPU (`docs/decisions/0019-tcp-first.md`). So a
//! QUIC dial waits for TCP dials to the same peer:
//!
//! - until all of these have failed,
//! - or [`HEAD_START`] has passed and none has reached the peer, that is, got a bare connection,
//! - or [`PATIENCE`] has passed, when one has reached it and its handshakes do not end.
//!
//! Dials to nobody in particular and those that punch holes do not wait. State is kept for peers that are being dialled
//! over TCP and no others.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use libp2p::core::Endpoint;
use libp2p::core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::addresses::peer_in;

/// How long a TCP dial may take to reach the peer before QUIC is tried as well: the delay between attempts of RFC 8305,
/// section 5.
const HEAD_START: Duration = Duration::from_millis(250);

/// How long its handshakes may take then. Over a path of 600 ms they take two seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// TCP dials to one peer.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    under_way: usize,
    /// One of them got a connection.
    has_reached: bool,
}

/// The TCP dials under way. All clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct TcpDials(Arc<Mutex<BTreeMap<PeerId, watch::Sender<Progress>>>>);

/// A TCP dial under way, until it is dropped.
struct Attempt {
    dials: TcpDials,
    peer: PeerId,
}

impl TcpDials {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PeerId, watch::Sender<Progress>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, peer: PeerId) -> Attempt {
        self.lock().entry(peer).or_default().send_modify(|progress| progress.under_way += 1);
        Attempt { dials: self.clone(), peer }
    }

    fn reached(&self, peer: &PeerId) {
        if let Some(progress) = self.lock().get(peer) {
            progress.send_modify(|progress| progress.has_reached = true);
        }
    }

    /// Waits until it is QUIC's turn.
    async fn leave_it(&self, peer: PeerId) {
        let Some(mut progress) = self.lock().get(&peer).map(watch::Sender::subscribe) else { return };
        let begun = Instant::now();
        loop {
            let has_reached = progress.borrow_and_update().has_reached;
            let patience = if has_reached { PATIENCE } else { HEAD_START };
            tokio::select! {
                () = sleep_until(begun + patience) => return,
                // It ends with the last of the dials.
                changed = progress.changed() => if changed.is_err() { return },
            }
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let mut dials = self.dials.lock();
        let Some(progress) = dials.get(&self.peer) else { return };
        progress.send_modify(|progress| {
            progress.under_way = progress.under_way.saturating_sub(1);
            // It may have been this one, which has got nowhere.
            progress.has_reached = false;
        });
        if progress.borrow().under_way == 0 {
            dials.remove(&self.peer);
        }
    }
}

/// What a transport does for the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// TCP with its handshakes: waited for.
    First,
    /// TCP without them: tells that it has reached the peer.
    Reaching,
    /// QUIC: waits.
    Later,
}

/// A transport that takes part in the order.
#[derive(Debug)]
pub(super) struct Ordered<T> {
    pub(super) inner: T,
    pub(super) part: Part,
    pub(super) dials: TcpDials,
}

impl<T> Transport for Ordered<T>
where
    T: Transport + Unpin,
    T::Dial: Send + 'static,
{
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = BoxFuture<'static, Result<T::Output, T::Error>>;

    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<T::Error>> {
        self.inner.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, addr: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<T::Error>> {
        let peer = peer_in(&addr).filter(|_| opts.role == Endpoint::Dialer);
        let dial = self.inner.dial(addr, opts)?;
        let Some(peer) = peer else { return Ok(dial.boxed()) };
        let dials = self.dials.clone();
        Ok(match self.part {
            Part::First => {
                let attempt = dials.begin(peer);
                async move {
                    let _until_then = attempt;
                    dial.await
                }
                .boxed()
            }
            Part::Reaching => async move {
                let connection = dial.await?;
                dials.reached(&peer);
                Ok(connection)
            }
            .boxed(),
            Part::Later => async move {
                dials.leave_it(peer).await;
                dial.await
            }
            .boxed(),
        })
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<T::ListenerUpgrade, T::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of `dial` of QUIC when this has happened to TCP.
    async fn waited(dials: &TcpDials, peer: PeerId) -> Duration {
        let begun = Instant::now();
        dials.leave_it(peer).await;
        begun.elapsed()
    }

    async fn after(delay: Duration, happens: impl FnOnce()) {
        tokio::time::sleep(delay).await;
        happens();
    }

    const SOON: Duration = Duration::from_millis(100);

    #[tokio::test(start_paused = true)]
    async fn quic_begins_at_once_where_no_tcp_is_tried() {
        let dials = TcpDials::default();
        let _other = dials.begin(PeerId::random());
        assert_eq!(waited(&dials, PeerId::random()).await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn quic_begins_when_the_last_tcp_dial_has_failed_or_reaches_nobody_for_long() {
        let (dials, peer) = (TcpDials::default(), PeerId::random());
        let (one, other) = (dials.begin(peer), dials.begin(peer));
        let (left, ()) = tokio::join!(waited(&dials, peer), after(SOON, || drop(one)));
        assert_eq!(left, HEAD_START, "the other one is still tried");
        let (left, ()) = tokio::join!(waited(&dials, peer), after(SOON, || drop(other)));
        assert_eq!(left, SOON);
        assert_eq!(dials.lock().len(), 0, "nothing is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn quic_waits_longer_for_a_dial_that_has_reached_the_peer() {
        let (dials, peer) = (TcpDials::default(), PeerId::random());
        let attempt = dials.begin(peer);
        let (left, ()) = tokio::join!(waited(&dials, peer), after(SOON, || dials.reached(&peer)));
        assert_eq!(left, PATIENCE);
        let (left, ()) = tokio::join!(waited(&dials, peer), after(SOON * 10, || drop(attempt)));
        assert_eq!(left, SOON * 10, "its handshakes failed");
        dials.reached(&peer);
        assert_eq!(dials.lock().len(), 0, "there was nothing to be reached");
        // Somebody else answers at one of the addresses, and nobody at the other.
        let (wrong, _silent) = (dials.begin(peer), dials.begin(peer));
        let fails = after(SOON, || {
            dials.reached(&peer);
            drop(wrong);
        });
        let (left, ()) = tokio::join!(waited(&dials, peer), fails);
        assert_eq!(left, HEAD_START);
    }
}
