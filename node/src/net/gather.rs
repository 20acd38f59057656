//! Writes gathered into one: the head of a frame and its body become one write below, which is one record of TLS the less,
//! and one call of the system. Only what is small is copied for that.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};

/// So much may wait at most, in bytes: heads of frames, and frames without much of a body.
const MAX_GATHERED: usize = 4096;

/// A stream whose small writes wait for a larger one, or until it is flushed.
#[derive(Debug)]
pub(super) struct Gather<C> {
    io: C,
    waiting: Vec<u8>,
    /// So many of these bytes are written.
    written: usize,
}

impl<C> Gather<C> {
    pub(super) fn new(io: C) -> Self {
        Self { io, waiting: Vec::new(), written: 0 }
    }

    /// Notes that so many bytes more were written; how many of them did not wait.
    fn on_written(&mut self, len: usize) -> usize {
        let waited = self.waiting.len() - self.written;
        if len < waited {
            self.written += len;
            return 0;
        }
        self.waiting.clear();
        self.written = 0;
        len - waited
    }
}

impl<C: AsyncWrite + Unpin> Gather<C> {
    /// Writes what waits, and of `more` as much as is taken with it: nothing at all, or something.
    fn poll_write_all(&mut self, cx: &mut Context<'_>, more: &[u8]) -> Poll<io::Result<usize>> {
        while self.written < self.waiting.len() {
            let waiting = &self.waiting[self.written..];
            let io = Pin::new(&mut self.io);
            let len = if more.is_empty() {
                ready!(io.poll_write(cx, waiting))?
            } else {
                ready!(io.poll_write_vectored(cx, &[IoSlice::new(waiting), IoSlice::new(more)]))?
            };
            if len == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_more = self.on_written(len);
            if of_more > 0 {
                return Poll::Ready(Ok(of_more));
            }
        }
        if more.is_empty() { Poll::Ready(Ok(0)) } else { Pin::new(&mut self.io).poll_write(cx, more) }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Gather<C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Gather<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.waiting.len() + buf.len() > MAX_GATHERED {
            return self.poll_write_all(cx, buf);
        }
        self.waiting.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_all(cx, &[]))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_all(cx, &[]))?;
        Pin::new(&mut self.io).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::{AsyncWriteExt as _, executor::block_on};
    use proptest::prelude::*;

    use super::*;

    /// Takes at most so many bytes at once, and every other time none yet.
    #[derive(Default)]
    struct Slow {
        at_most: usize,
        took: Vec<u8>,
        calls: usize,
        is_busy: bool,
        closed: bool,
        /// Of several slices it takes the first only, as streams do that know nothing better.
        one_slice: bool,
    }

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.is_busy = !self.is_busy;
            if self.is_busy {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let len = buf.len().min(self.at_most);
            self.took.extend_from_slice(&buf[..len]);
            self.calls += 1;
            Poll::Ready(Ok(len))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            if self.one_slice {
                return self.poll_write(cx, &bufs[0]);
            }
            let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
            self.as_mut().poll_write(cx, &all)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.closed = true;
            Poll::Ready(Ok(()))
        }
    }

    fn slow(at_most: usize) -> Gather<Slow> {
        Gather::new(Slow { at_most, ..Slow::default() })
    }

    #[test]
    fn a_head_and_its_body_are_one_write() {
        let mut io = slow(usize::MAX);
        block_on(async {
            for _ in 0..3 {
                io.write_all(&[1; 12]).await?;
                io.write_all(&[2; 65_524]).await?;
                io.flush().await?;
            }
            io::Result::Ok(())
        })
        .unwrap();
        assert_eq!((io.io.calls, io.io.took.len()), (3, 3 * 65_536));
    }

    #[test]
    fn a_stream_that_takes_nothing_is_an_error() {
        let mut io = slow(0);
        let error = block_on(async {
            io.write_all(b"head").await?;
            io.flush().await
        });
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::WriteZero);
    }

    proptest! {
        #[test]
        fn bytes_arrive_in_order_and_little_waits(
            at_most in 1..100_000_usize,
            one_slice: bool,
            writes in prop::collection::vec((0..150_000_usize, any::<u8>(), any::<bool>()), 1..12),
        ) {
            let mut io = slow(at_most);
            io.io.one_slice = one_slice;
            let mut expected = Vec::new();
            block_on(async {
                for (len, byte, flush) in writes {
                    let bytes = vec![byte; len];
                    io.write_all(&bytes).await.unwrap();
                    expected.extend(bytes);
                    assert!(io.waiting.len() <= MAX_GATHERED);
                    if flush {
                        io.flush().await.unwrap();
                        assert_eq!(io.io.took, expected);
                    }
                }
                io.close().await.unwrap();
            });
            prop_assert!(io.io.closed);
            prop_assert_eq!(io.io.took, expected);
        }
    }
}
