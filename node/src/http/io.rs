//! Lets hyper speak over a stream with tokio's `AsyncRead` and `AsyncWrite`: ours, in both worlds.
//!
//! Writes go straight through, vectored ones too. Reads land on the stack and are copied once, as
//! many bytes as came: hyper's own buffer cannot be lent to the stream without `unsafe`, and the
//! copy costs far less than the system call before it. No memory is held between reads.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes taken from the stream by one read at most.
const READ_BYTES_MAX: usize = 16 * 1024;

/// A stream as hyper wants it.
#[derive(Debug)]
pub struct HyperIo<T> {
    stream: T,
}

impl<T> HyperIo<T> {
    /// Wraps `stream`.
    pub const fn new(stream: T) -> HyperIo<T> {
        HyperIo { stream }
    }
}

impl<T: AsyncRead + Unpin> hyper::rt::Read for HyperIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut landing = [const { MaybeUninit::<u8>::uninit() }; READ_BYTES_MAX];
        let room = into.remaining().min(READ_BYTES_MAX);
        let mut landing = ReadBuf::uninit(&mut landing[..room]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut landing))?;
        into.put_slice(landing.filled());
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> hyper::rt::Write for HyperIo<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }
}
