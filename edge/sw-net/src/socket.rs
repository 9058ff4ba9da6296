//! Socket options that every listener and connection wants.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Connections that the kernel keeps until they are accepted; a whole fleet may come at once.
const BACKLOG: i32 = 4096;

/// Unacknowledged data for this long means that the other side is gone (derp.md §13).
const USER_TIMEOUT: Duration = Duration::from_secs(15);

/// Binds and listens; `[::]` takes IPv4 too.
///
/// # Errors
/// Those of the system: address in use, no permission.
pub fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Binds a UDP socket; `[::]` takes IPv4 too.
///
/// # Errors
/// Those of the system: address in use, no permission.
pub fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// No delay, keepalive after 10 minutes, dead after 15 s without acknowledgement. Failures are not worth a connection.
pub fn tune_tcp(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    drop(socket.set_tcp_nodelay(true));
    drop(socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_secs(600))));
    #[cfg(target_os = "linux")]
    drop(socket.set_tcp_user_timeout(Some(USER_TIMEOUT)));
}
