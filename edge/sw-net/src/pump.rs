//! Both directions of a byte stream in one task: no split, no lock, few system calls.
//!
//! A [`Pump`] reads as much as there is into a buffer that grows with the traffic and is given back when idle, and
//! writes everything that is queued with one vectored call (over TLS: in records as full as possible).

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

/// First size of a read buffer: enough for a TLS record of small packets, small enough for thousands of clients.
const READ_MIN: usize = 4 << 10;

/// Largest read at once: with more, the copy of a partial frame costs more than the system call saved.
const READ_MAX: usize = 128 << 10;

/// Slices given to one vectored write; the kernel's own limit is 1,024.
const SLICES_MAX: usize = 64;

/// A stream with its buffers.
#[derive(Debug)]
pub struct Pump<S> {
    stream: S,
    read: BytesMut,
    read_size: usize,
    write: VecDeque<Bytes>,
    write_bytes: usize,
    is_flushed: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Pump<S> {
    /// Takes a stream and the bytes that were read from it already.
    pub fn new(stream: S, already_read: &[u8]) -> Self {
        Self {
            stream,
            read: BytesMut::from(already_read),
            read_size: READ_MIN,
            write: VecDeque::new(),
            write_bytes: 0,
            is_flushed: true,
        }
    }

    /// The bytes read and not yet taken; the caller splits off what it has used.
    pub fn input(&mut self) -> &mut BytesMut {
        &mut self.read
    }

    /// Queues bytes for writing. The caller bounds the queue by [`Self::queued`].
    pub fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.write_bytes += bytes.len();
            self.write.push_back(bytes);
        }
    }

    /// Bytes queued and not yet written.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.write_bytes
    }

    /// Whether everything was handed to the system.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.write.is_empty() && self.is_flushed
    }

    /// Reads once; `Ready(Ok(0))` is the end of the stream. `needed` is the length of the frame that is incomplete.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, needed: usize) -> Poll<io::Result<usize>> {
        let room = self.read_size.max(needed.saturating_sub(self.read.len()));
        if self.read.capacity() - self.read.len() < room {
            self.read.reserve(room);
        }
        let result = poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.read);
        match &result {
            Poll::Ready(Ok(count)) if *count >= self.read_size => {
                self.read_size = (self.read_size * 2).min(READ_MAX);
            }
            Poll::Pending if self.read.is_empty() => {
                // Idle: an unused buffer per connection is the larger part of what a connection costs.
                self.read = BytesMut::new();
                self.read_size = (self.read_size / 2).max(READ_MIN);
            }
            Poll::Ready(_) | Poll::Pending => {}
        }
        result
    }

    /// Writes until nothing is queued; `Pending` while the other side takes no more.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.write.is_empty() {
            self.is_flushed = false;
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut count = 0;
            for (slot, bytes) in slices.iter_mut().zip(&self.write) {
                *slot = IoSlice::new(bytes);
                count += 1;
            }
            let slices = slices.get(..count).unwrap_or_default();
            match ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.advance(written),
            }
        }
        if !self.is_flushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the writing half.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn advance(&mut self, mut written: usize) {
        self.write_bytes -= written.min(self.write_bytes);
        while let Some(first) = self.write.front_mut() {
            if written < first.len() {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.write.pop_front();
        }
        // A burst of the past must not stay as capacity.
        if self.write.capacity() > 256 {
            self.write = VecDeque::new();
        }
    }
}
