//! UDP on the stack.

use crate::stack::{NetstackError, Shared};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::udp;
use smoltcp::wire::IpEndpoint;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;

/// Datagrams and bytes that wait in each direction; more are dropped.
const DATAGRAMS: usize = 64;
const BYTES: usize = 64 * 1_024;

/// A bound UDP socket.
pub struct UdpSocket {
    shared: Arc<Shared>,
    handle: SocketHandle,
    port: u16,
}

impl fmt::Debug for UdpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpSocket").field("port", &self.port).finish_non_exhaustive()
    }
}

impl UdpSocket {
    pub(crate) fn bind(shared: Arc<Shared>, port: u16) -> Result<Self, NetstackError> {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; DATAGRAMS], vec![0; BYTES]);
        let mut inner = shared.lock();
        let port = if port == 0 { inner.free_port() } else { port };
        let is_taken = inner.sockets.iter().any(|(_, socket)| match socket {
            smoltcp::socket::Socket::Udp(socket) => socket.endpoint().port == port,
            smoltcp::socket::Socket::Tcp(_) | smoltcp::socket::Socket::Icmp(_) => false,
        });
        let mut socket = udp::Socket::new(buffer(), buffer());
        if is_taken || socket.bind(port).is_err() {
            return Err(NetstackError::PortTaken(port));
        }
        let handle = inner.sockets.add(socket);
        drop(inner);
        Ok(Self { shared, handle, port })
    }

    /// The bound port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sends one datagram; waits while the buffer is full.
    ///
    /// # Errors
    /// No address of that family, or larger than the buffer.
    pub async fn send_to(&self, data: &[u8], to: SocketAddr) -> io::Result<()> {
        let result = std::future::poll_fn(|cx| {
            let mut inner = self.shared.lock();
            if inner.source_for(to.ip()).is_none() {
                return Poll::Ready(Err(io::ErrorKind::AddrNotAvailable.into()));
            }
            let socket = inner.sockets.get_mut::<udp::Socket<'static>>(self.handle);
            if data.len() > BYTES {
                return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
            }
            match socket.send_slice(data, IpEndpoint::from(to)) {
                Ok(()) => Poll::Ready(Ok(())),
                Err(udp::SendError::BufferFull) => {
                    socket.register_send_waker(cx.waker());
                    Poll::Pending
                }
                Err(udp::SendError::Unaddressable) => Poll::Ready(Err(io::ErrorKind::InvalidInput.into())),
            }
        })
        .await;
        self.shared.poll_soon.notify_one();
        result
    }

    /// The next datagram and its sender. Cancel safe.
    ///
    /// # Errors
    /// Never today; the type leaves room for a stack that stopped.
    pub async fn recv_from(&self) -> io::Result<(Vec<u8>, SocketAddr)> {
        std::future::poll_fn(|cx| {
            let mut inner = self.shared.lock();
            let socket = inner.sockets.get_mut::<udp::Socket<'static>>(self.handle);
            match socket.recv() {
                Ok((data, meta)) => {
                    let from = SocketAddr::new(meta.endpoint.addr.into(), meta.endpoint.port);
                    Poll::Ready(Ok((data.to_vec(), from)))
                }
                Err(_) => {
                    socket.register_recv_waker(cx.waker());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        self.shared.lock().sockets.remove(self.handle);
    }
}
