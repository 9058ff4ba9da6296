//! Streams and listeners on the stack.

use crate::stack::{NetstackError, Shared};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

/// One TCP connection; dropping it closes politely.
pub struct TcpStream {
    shared: Arc<Shared>,
    handle: SocketHandle,
}

impl fmt::Debug for TcpStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpStream")
            .field("local", &self.local_addr())
            .field("peer", &self.peer_addr())
            .finish()
    }
}

impl TcpStream {
    pub(crate) fn new(shared: Arc<Shared>, handle: SocketHandle) -> Self {
        Self { shared, handle }
    }

    /// Our end; `None` once the connection is over.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.with(|socket| socket.local_endpoint()).map(|e| SocketAddr::new(e.addr.into(), e.port))
    }

    /// The other end; `None` once the connection is over.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.with(|socket| socket.remote_endpoint()).map(|e| SocketAddr::new(e.addr.into(), e.port))
    }

    /// Waits until the handshake is through or refused.
    pub(crate) async fn established(&self) -> Result<(), NetstackError> {
        std::future::poll_fn(|cx| {
            self.with(|socket| {
                let state = socket.state();
                if state == tcp::State::Closed {
                    return Poll::Ready(Err(NetstackError::Refused));
                }
                if matches!(state, tcp::State::SynSent | tcp::State::SynReceived) {
                    socket.register_send_waker(cx.waker());
                    return Poll::Pending;
                }
                Poll::Ready(Ok(()))
            })
        })
        .await
    }

    fn with<R>(&self, f: impl FnOnce(&mut tcp::Socket<'static>) -> R) -> R {
        f(self.shared.lock().sockets.get_mut::<tcp::Socket<'static>>(self.handle))
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = this.with(|socket| {
            if socket.can_recv() {
                let read = socket.recv(|data| {
                    let n = data.len().min(buf.remaining());
                    buf.put_slice(&data[..n]);
                    (n, ())
                });
                return Poll::Ready(read.map_err(|_| io::ErrorKind::ConnectionReset.into()));
            }
            if socket.may_recv() || socket.state() == tcp::State::SynSent {
                socket.register_recv_waker(cx.waker());
                return Poll::Pending;
            }
            Poll::Ready(Ok(()))
        });
        if result.is_ready() {
            // The window grew: tell the other side.
            this.shared.poll_soon.notify_one();
        }
        result
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = this.with(|socket| {
            if !socket.may_send() {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if !socket.can_send() {
                socket.register_send_waker(cx.waker());
                return Poll::Pending;
            }
            Poll::Ready(socket.send_slice(data).map_err(|_| io::ErrorKind::ConnectionReset.into()))
        });
        if result.is_ready() {
            this.shared.poll_soon.notify_one();
        }
        result
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(tcp::Socket::close);
        self.shared.poll_soon.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        self.shared.release(self.handle);
    }
}

/// Accepts connections; dropping it makes the port refuse.
pub struct TcpListener {
    shared: Arc<Shared>,
    accepted: mpsc::Receiver<SocketHandle>,
    port: u16,
}

impl fmt::Debug for TcpListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpListener").field("port", &self.port).finish_non_exhaustive()
    }
}

impl TcpListener {
    pub(crate) fn new(shared: Arc<Shared>, accepted: mpsc::Receiver<SocketHandle>, port: u16) -> Self {
        Self { shared, accepted, port }
    }

    /// The next connection; `None` when another listener took the port over. Cancel safe.
    pub async fn accept(&mut self) -> Option<TcpStream> {
        let handle = self.accepted.recv().await?;
        Some(TcpStream::new(Arc::clone(&self.shared), handle))
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        self.accepted.close();
        while let Ok(handle) = self.accepted.try_recv() {
            self.shared.release(handle);
        }
    }
}
