//! A byte stream sealed in records.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use sw_noise::{RecordReader, RecordWriter, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Sealed bytes that may wait for a slow receiver; beyond it a writer waits.
const UNSENT_MAX: usize = 64 * 1_024;
/// Bytes read from the wire at once.
const READ_CHUNK: usize = 16 * 1_024;

/// `S` with everything written sealed and everything read opened. A broken record is an error for ever.
pub struct NoiseStream<S> {
    inner: S,
    writer: RecordWriter,
    reader: RecordReader,
    /// Opened, not yet read; `taken` of it are.
    plain: Vec<u8>,
    taken: usize,
    /// Sealed, not yet written; `sent` of it are.
    wire: Vec<u8>,
    sent: usize,
    scratch: Box<[u8; READ_CHUNK]>,
}

impl<S> fmt::Debug for NoiseStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoiseStream")
            .field("writer", &self.writer)
            .field("reader", &self.reader)
            .finish_non_exhaustive()
    }
}

impl<S> NoiseStream<S> {
    /// `received` are bytes of the peer's records that came with the handshake.
    ///
    /// # Errors
    /// A broken record among them.
    pub fn new(inner: S, transport: Transport, received: &[u8]) -> io::Result<Self> {
        let (writer, mut reader) = transport.split();
        let mut plain = Vec::new();
        reader.read(received, &mut plain).map_err(broken)?;
        let scratch = Box::new([0; READ_CHUNK]);
        Ok(Self { inner, writer, reader, plain, taken: 0, wire: Vec::new(), sent: 0, scratch })
    }

    /// Opened bytes that nobody has read yet.
    pub(super) fn unread(&self) -> &[u8] {
        &self.plain[self.taken..]
    }

    /// Marks `n` of them as read.
    pub(super) fn consume(&mut self, n: usize) {
        self.taken += n;
        if self.taken >= self.plain.len() {
            self.plain.clear();
            self.taken = 0;
        }
    }

    /// Puts bytes into records without sending them yet.
    pub(super) fn push(&mut self, plain: &[u8]) -> io::Result<()> {
        self.writer.write(plain, &mut self.wire).map_err(broken)
    }
}

impl<S: AsyncRead + Unpin> NoiseStream<S> {
    /// Opens more; `Ok(false)` is the end of the stream.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.taken > 0 {
            self.plain.drain(..self.taken);
            self.taken = 0;
        }
        let before = self.plain.len();
        loop {
            let mut buf = ReadBuf::new(&mut self.scratch[..]);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(if self.reader.is_within_record() {
                    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended inside a record"))
                } else {
                    Ok(false)
                });
            }
            self.reader.read(buf.filled(), &mut self.plain).map_err(broken)?;
            if self.plain.len() > before {
                return Poll::Ready(Ok(true));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> NoiseStream<S> {
    /// Writes sealed bytes until at most `keep` of them wait.
    fn poll_drain(&mut self, cx: &mut Context<'_>, keep: usize) -> Poll<io::Result<()>> {
        while self.wire.len() - self.sent > keep {
            let n = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.wire[self.sent..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n;
        }
        if self.sent == self.wire.len() {
            self.sent = 0;
            self.wire.clear();
            // An idle connection keeps no buffer: a server has thousands.
            if self.wire.capacity() > READ_CHUNK {
                self.wire = Vec::new();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for NoiseStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.unread().is_empty() && !ready!(this.poll_fill(cx))? {
            return Poll::Ready(Ok(()));
        }
        let n = this.unread().len().min(buf.remaining());
        buf.put_slice(&this.unread()[..n]);
        this.consume(n);
        if this.plain.is_empty() && this.plain.capacity() > READ_CHUNK {
            this.plain = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for NoiseStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx, UNSENT_MAX))?;
        let n = data.len().min(UNSENT_MAX);
        this.push(&data[..n])?;
        // Gives the kernel what it takes at once; the rest goes with the next write or flush.
        if let Poll::Ready(Err(error)) = this.poll_drain(cx, 0) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx, 0))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx, 0))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

fn broken(error: sw_noise::RecordError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
