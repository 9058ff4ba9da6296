//! Noise records as a byte stream (control.md §1.5).
//!
//! Idle, it holds no buffer of its own but the reader's one record.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use sw_noise::{RecordReader, RecordWriter, Transport};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Largest piece sealed at once.
const PIECE_MAX: usize = 4 * sw_noise::PLAIN_MAX;
/// Read from the transport at once.
const READ_MAX: usize = 8 * 1024;

/// Seals what is written, opens what is read.
#[derive(Debug)]
pub(crate) struct NoiseStream<S> {
    io: S,
    reader: RecordReader,
    writer: RecordWriter,
    /// Opened and not yet read, from `at`.
    plain: Vec<u8>,
    at: usize,
    /// Sealed and not yet sent, from `sent`.
    wire: Vec<u8>,
    sent: usize,
}

impl<S> NoiseStream<S> {
    /// `first` is sent in clear before all else (the 101 and the Noise response); `early` is the
    /// first thing sealed.
    pub(crate) fn new(io: S, transport: Transport, first: Vec<u8>, early: &[u8]) -> io::Result<Self> {
        let (mut writer, reader) = transport.split();
        let mut wire = first;
        writer.write(early, &mut wire).map_err(io::Error::other)?;
        Ok(Self { io, reader, writer, plain: Vec::new(), at: 0, wire, sent: 0 })
    }
}

impl<S: AsyncWrite + Unpin> NoiseStream<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.wire.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let n = ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n;
        }
        self.wire = Vec::new();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for NoiseStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if let Some(rest) = this.plain.get(this.at..).filter(|rest| !rest.is_empty()) {
                let n = rest.len().min(buf.remaining());
                buf.put_slice(rest.get(..n).unwrap_or_default());
                this.at += n;
                if this.at == this.plain.len() {
                    this.plain = Vec::new();
                    this.at = 0;
                }
                return Poll::Ready(Ok(()));
            }
            let mut bytes = [0; READ_MAX];
            let mut piece = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut piece))?;
            if piece.filled().is_empty() {
                let cut = this.reader.is_within_record();
                return Poll::Ready(if cut { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) });
            }
            let mut plain = std::mem::take(&mut this.plain);
            let read = this.reader.read(piece.filled(), &mut plain);
            this.plain = plain;
            read.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for NoiseStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        let piece = buf.get(..buf.len().min(PIECE_MAX)).unwrap_or_default();
        this.writer.write(piece, &mut this.wire).map_err(io::Error::other)?;
        // Taken either way: what the transport does not take now is sent before the next piece.
        if let Poll::Ready(Err(error)) = this.poll_drain(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}
