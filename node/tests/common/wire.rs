//! Memory connections that count the bytes on them, encryption included.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use dhtfs_node::net::transport::{self, muxer};
use futures::{AsyncRead, AsyncWrite};
use libp2p::{
    Multiaddr, PeerId, Transport as _,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, MemoryTransport},
        upgrade::Version,
    },
    identity::Keypair,
    multiaddr::Protocol,
    noise,
};

/// Bytes that one node has sent and received.
#[derive(Debug, Clone, Default)]
pub struct Traffic(Arc<[AtomicU64; 2]>);

impl Traffic {
    pub fn sent(&self) -> u64 {
        self.0[0].load(Ordering::Relaxed)
    }

    pub fn received(&self) -> u64 {
        self.0[1].load(Ordering::Relaxed)
    }

    pub fn both(&self) -> u64 {
        self.sent() + self.received()
    }

    fn count(&self, way: usize, result: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(len)) = result {
            self.0[way].fetch_add(*len as u64, Ordering::Relaxed);
        }
    }
}

/// A transport for addresses like `addr`. What goes over anything but memory is not counted.
pub fn transport(keypair: &Keypair, traffic: &Traffic, addr: &Multiaddr) -> Boxed<(PeerId, StreamMuxerBox)> {
    if !matches!(addr.iter().next(), Some(Protocol::Memory(_))) {
        return transport::production(keypair).unwrap();
    }
    let traffic = traffic.clone();
    MemoryTransport::default()
        .map(move |io, _| Counted { io, traffic })
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(keypair).unwrap())
        .multiplex(muxer())
        .boxed()
}

struct Counted<T> {
    io: T,
    traffic: Traffic,
}

impl<T: AsyncRead + Unpin> AsyncRead for Counted<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.traffic.count(1, &read);
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.traffic.count(0, &written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_close(cx)
    }
}
