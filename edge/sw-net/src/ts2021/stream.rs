//! A byte stream sealed in records (control.md §1.5).
//!
//! Idle, it holds no buffer: a server has thousands of them.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use sw_noise::{RecordReader, RecordWriter, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Largest piece sealed at once; a receiver that takes nothing makes this end keep at most two.
const PIECE_MAX: usize = 4 * sw_noise::PLAIN_MAX;
/// Bytes read from the wire at once.
const READ_CHUNK: usize = 16 * 1_024;

/// `S` with everything written sealed and everything read opened. A broken record is an error for ever.
///
/// Small writes wait for a flush, so that a frame's head and body, or a handshake's answer and what follows it, are
/// one segment.
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
    /// The initiator's end. `received` are bytes of the peer's records that came with the handshake.
    ///
    /// # Errors
    /// A broken record among them.
    pub fn initiated(inner: S, transport: Transport, received: &[u8]) -> io::Result<Self> {
        let mut this = Self::over(inner, transport, Vec::new());
        this.reader.read(received, &mut this.plain).map_err(broken)?;
        Ok(this)
    }

    /// The responder's end. With the first flush `first` goes out in clear (the 101 and the handshake's
    /// answer), and behind it, sealed, `early`.
    ///
    /// # Errors
    /// None that can happen on a fresh transport.
    pub fn accepted(inner: S, transport: Transport, first: Vec<u8>, early: &[u8]) -> io::Result<Self> {
        let mut this = Self::over(inner, transport, first);
        this.writer.write(early, &mut this.wire).map_err(broken)?;
        Ok(this)
    }

    fn over(inner: S, transport: Transport, wire: Vec<u8>) -> Self {
        let (writer, reader) = transport.split();
        Self { inner, writer, reader, plain: Vec::new(), taken: 0, wire, sent: 0 }
    }

    /// Opened bytes that nobody has read yet.
    pub(super) fn unread(&self) -> &[u8] {
        self.plain.get(self.taken..).unwrap_or_default()
    }

    /// Marks `n` of them as read.
    pub(super) fn consume(&mut self, n: usize) {
        self.taken += n;
        if self.taken >= self.plain.len() {
            (self.plain, self.taken) = (Vec::new(), 0);
        }
    }
}

impl<S: AsyncRead + Unpin> NoiseStream<S> {
    /// Opens more; `Ok(false)` is the end of the stream.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let before = self.unread().len();
        let mut bytes = [const { MaybeUninit::uninit() }; READ_CHUNK];
        loop {
            let mut buf = ReadBuf::uninit(&mut bytes);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(if self.reader.is_within_record() {
                    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended inside a record"))
                } else {
                    Ok(false)
                });
            }
            self.reader.read(buf.filled(), &mut self.plain).map_err(broken)?;
            if self.unread().len() > before {
                return Poll::Ready(Ok(true));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> NoiseStream<S> {
    /// Writes all sealed bytes.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.wire.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let n = ready!(Pin::new(&mut self.inner).poll_write(cx, rest))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n;
        }
        (self.wire, self.sent) = (Vec::new(), 0);
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
        buf.put_slice(this.unread().get(..n).unwrap_or_default());
        this.consume(n);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for NoiseStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.wire.len() >= PIECE_MAX {
            ready!(this.poll_drain(cx))?;
        }
        let piece = data.get(..data.len().min(PIECE_MAX)).unwrap_or_default();
        this.writer.write(piece, &mut this.wire).map_err(broken)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

fn broken(error: sw_noise::RecordError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
