//! A byte stream inside WebSocket binary messages, whose borders carry no meaning (derp.md §4.3).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

pub use tokio_tungstenite::tungstenite::handshake::client::generate_key;
pub use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Longest message read or written: a DERP frame of the largest packet fits.
const MESSAGE_MAX: usize = 128 << 10;

/// Reads and writes bytes; the handshake was done before.
#[derive(Debug)]
pub struct WsStream<S> {
    inner: WebSocketStream<S>,
    unread: Bytes,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WsStream<S> {
    /// The server's end; `already_read` are bytes that came behind the request.
    pub async fn server(stream: S, already_read: Vec<u8>) -> Self {
        Self::new(stream, already_read, Role::Server).await
    }

    /// The client's end; `already_read` are bytes that came behind the answer.
    pub async fn client(stream: S, already_read: Vec<u8>) -> Self {
        Self::new(stream, already_read, Role::Client).await
    }

    /// Says why the connection cannot be used (close code 1008) and ends it.
    pub async fn close_policy(&mut self, reason: &str) {
        let frame = CloseFrame { code: CloseCode::Policy, reason: reason.to_owned().into() };
        // The other side may be gone already.
        drop(self.inner.close(Some(frame)).await);
    }

    async fn new(stream: S, already_read: Vec<u8>, role: Role) -> Self {
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_MAX))
            .max_frame_size(Some(MESSAGE_MAX))
            .max_write_buffer_size(2 * MESSAGE_MAX)
            .read_buffer_size(8 << 10)
            .write_buffer_size(0);
        let inner = WebSocketStream::from_partially_read(stream, already_read, role, Some(config)).await;
        Self { inner, unread: Bytes::new() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.unread = bytes,
                Some(Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(to_io(error))),
            }
        }
        let len = self.unread.len().min(buf.remaining());
        if let Some(part) = self.unread.get(..len) {
            buf.put_slice(part);
        }
        self.unread.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WsStream<S> {
    fn send(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: Bytes) -> Poll<io::Result<usize>> {
        let len = bytes.len();
        ready!(Pin::new(&mut self.inner).poll_ready(cx)).map_err(to_io)?;
        Pin::new(&mut self.inner).start_send(Message::Binary(bytes)).map_err(to_io)?;
        Poll::Ready(Ok(len))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let len = buf.len().min(MESSAGE_MAX);
        self.send(cx, Bytes::copy_from_slice(buf.get(..len).unwrap_or_default()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut joined = Vec::new();
        for buf in bufs {
            if joined.is_empty() || joined.len() + buf.len() <= MESSAGE_MAX {
                joined.extend_from_slice(buf.get(..buf.len().min(MESSAGE_MAX)).unwrap_or_default());
                if buf.len() > MESSAGE_MAX {
                    break;
                }
            } else {
                break;
            }
        }
        self.send(cx, joined.into())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx).map_err(to_io)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx).map_err(to_io)
    }
}

fn to_io(error: tungstenite::Error) -> io::Error {
    if matches!(error, tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) {
        return io::ErrorKind::ConnectionReset.into();
    }
    if let tungstenite::Error::Io(error) = error {
        return error;
    }
    io::Error::new(io::ErrorKind::InvalidData, error)
}
