//! Sockets of the daemon itself: marked, so that its own traffic never enters the tunnel (node-services.md §10.1).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::SockRef;
use sw_net::bootstrap::BootstrapRelays;
use sw_net::dial::{DialOptions, Proxy};
use sw_net::portmap::OpenUdp;
use sw_os::router::MARK_BYPASS;
use tokio::net::UdpSocket;

/// Makes sockets; whether they are marked is decided by the first one, for marks need a privilege.
#[derive(Clone, Debug)]
pub(crate) struct SocketFactory {
    can_mark: Arc<AtomicBool>,
    proxy: Option<Proxy>,
    bootstrap: BootstrapRelays,
}

impl SocketFactory {
    /// `wants_marks` is false in userspace mode, where there is no tunnel to enter.
    pub(crate) fn new(wants_marks: bool, proxy: Option<Proxy>) -> Self {
        let can_mark = wants_marks
            && std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).is_ok_and(|probe| mark(&probe).is_ok());
        Self { can_mark: Arc::new(AtomicBool::new(can_mark)), proxy, bootstrap: BootstrapRelays::default() }
    }

    /// The mark for the data sockets, 0 for none.
    pub(crate) fn mark(&self) -> u32 {
        if self.can_mark.load(Ordering::Relaxed) { MARK_BYPASS } else { 0 }
    }

    /// How TCP connections of the daemon are opened.
    pub(crate) fn dial_options(&self) -> DialOptions {
        let factory = self.clone();
        DialOptions {
            proxy: self.proxy.clone(),
            bootstrap: self.bootstrap.clone(),
            prepare: Some(Arc::new(move |socket| if factory.mark() == 0 { Ok(()) } else { mark(socket) })),
            ..DialOptions::default()
        }
    }

    /// Opens UDP sockets on our own addresses, for asking the router for ports.
    pub(crate) fn open_udp(&self) -> OpenUdp {
        let factory = self.clone();
        Arc::new(move |local| factory.bound((local, 0).into()))
    }

    /// A UDP socket that can reach `target`.
    pub(crate) fn udp(&self, target: SocketAddr) -> io::Result<UdpSocket> {
        let any: SocketAddr = if target.is_ipv4() {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        };
        self.bound(any)
    }

    fn bound(&self, at: SocketAddr) -> io::Result<UdpSocket> {
        let socket = std::net::UdpSocket::bind(at)?;
        if self.mark() != 0 {
            mark(&socket)?;
        }
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    }
}

fn mark(socket: &impl std::os::fd::AsFd) -> io::Result<()> {
    SockRef::from(socket).set_mark(MARK_BYPASS)
}
