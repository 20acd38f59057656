//! One end of a connection, to read from and to write to.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use futures::io::{AsyncRead, AsyncWrite};

use super::{
    Net,
    conn::{Key, Side},
};

/// A byte stream over the simulated network. Dropped, it closes as a TCP socket does: what was written arrives, then
/// the end; if there was something unread, the other side is reset.
#[derive(Debug)]
pub struct SimStream {
    net: Net,
    key: Key,
    side: Side,
}

impl SimStream {
    pub(super) fn new(net: Net, key: Key, side: Side) -> Self {
        Self { net, key, side }
    }
}

impl AsyncRead for SimStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.net.with(|core| core.read(self.key, self.side, cx, buf))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.net.with(|core| core.write(self.key, self.side, cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.net.with(|core| core.end(self.key, self.side));
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.net.with(|core| core.drop_end(self.key, self.side));
    }
}
