//! The UDP sockets of the data plane: many datagrams per call by GSO and GRO where the kernel has them.

mod sys;

use crate::stats::{Counter, Counters};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of one receive: what GRO gathers is below this, and so is any datagram.
pub(crate) const RECEIVE_LEN: usize = 65_536;
/// Bytes of one GSO send (an IPv4 datagram's payload).
const SEND_LEN_MAX: usize = 65_507;
/// Datagrams of one GSO send; newer kernels take 128.
const SEGMENTS_MAX: usize = 64;
/// Asked of the kernel for both directions (dataplane.md §2.5).
const BUFFER_LEN: usize = 7 << 20;

/// The two sockets, on one port where that can be had.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(crate) v4: Option<UdpSock>,
    pub(crate) v6: Option<UdpSock>,
}

/// Settings of the sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketOptions {
    /// `SO_MARK`, for policy routing around the tunnel; zero leaves it unset.
    pub mark: u32,
    /// Bind only to this address.
    pub address: Option<IpAddr>,
    /// Whether UDP GSO and GRO may be used.
    pub offload: UdpOffload,
}

/// Whether to use the kernel's UDP batching.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UdpOffload {
    #[default]
    Best,
    Off,
}

/// One socket.
#[derive(Debug)]
pub(crate) struct UdpSock {
    socket: UdpSocket,
    has_gso: AtomicBool,
}

impl AsFd for UdpSock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What one receive brought.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    pub(crate) len: usize,
    /// Bytes of each datagram but the last.
    pub(crate) segment: usize,
    pub(crate) from: SocketAddr,
}

impl Sockets {
    /// Opens both families on `port`, or on a port of the kernel's choice for 0. IPv6 may be missing; one of the
    /// two must work.
    pub(crate) fn open(port: u16, options: &SocketOptions) -> io::Result<Self> {
        let wanted = |is_v4: bool| options.address.is_none_or(|address| address.is_ipv4() == is_v4);
        let v4 = if wanted(true) {
            let ip = options.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
            Some(UdpSock::open(SocketAddr::new(ip, port), options)?)
        } else {
            None
        };
        let port = match &v4 {
            Some(v4) => v4.port()?,
            None => port,
        };
        let v6 = if wanted(false) {
            let ip = options.address.unwrap_or(Ipv6Addr::UNSPECIFIED.into());
            let tried = UdpSock::open(SocketAddr::new(ip, port), options);
            match tried {
                Ok(socket) => Some(socket),
                // A machine without IPv6 still has a network (path-selection.md §1).
                Err(_) if v4.is_some() => None,
                Err(error) => return Err(error),
            }
        } else {
            None
        };
        Ok(Self { v4, v6 })
    }

    pub(crate) fn local_port(&self) -> Option<u16> {
        self.v4.as_ref().or(self.v6.as_ref()).and_then(|socket| socket.port().ok())
    }

    /// Sends the datagrams in `bytes`, each `segment` long but the last, which may be shorter.
    pub(crate) fn send(&self, to: SocketAddr, bytes: &[u8], segment: usize, counters: &Counters) {
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        match socket {
            Some(socket) => socket.send(to, bytes, segment, counters),
            None => counters.add(Counter::NoSocket, 1),
        }
    }

    pub(crate) fn set_mark(&self, mark: u32) -> io::Result<()> {
        for socket in [&self.v4, &self.v6].into_iter().flatten() {
            sys::set_option(socket.socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MARK, mark as i32)?;
        }
        Ok(())
    }

    /// Wakes the threads that wait in `receive`; it returns `None` from then on.
    pub(crate) fn shut_down(&self) {
        for socket in [&self.v4, &self.v6].into_iter().flatten() {
            sys::shut_down(socket.socket.as_raw_fd());
        }
    }
}

impl UdpSock {
    fn open(at: SocketAddr, options: &SocketOptions) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
        if at.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        let fd = socket.as_raw_fd();
        if options.mark != 0 {
            sys::set_option(fd, libc::SOL_SOCKET, libc::SO_MARK, options.mark as i32)?;
        }
        socket.bind(&at.into())?;
        for (force, plain) in
            [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
        {
            let forced = sys::set_option(fd, libc::SOL_SOCKET, force, BUFFER_LEN as i32);
            if forced.is_err() {
                // Without the privilege the kernel cuts the wish down to its limit.
                let _as_much_as_allowed = sys::set_option(fd, libc::SOL_SOCKET, plain, BUFFER_LEN as i32);
            }
        }
        let mut has_gso = false;
        if options.offload == UdpOffload::Best {
            // Old kernels know neither; then every call carries one datagram.
            let _gro = sys::set_option(fd, libc::SOL_UDP, libc::UDP_GRO, 1);
            has_gso = sys::set_option(fd, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();
        }
        Ok(Self { socket: socket.into(), has_gso: AtomicBool::new(has_gso) })
    }

    fn port(&self) -> io::Result<u16> {
        Ok(self.socket.local_addr()?.port())
    }

    pub(crate) fn send(&self, to: SocketAddr, bytes: &[u8], segment: usize, counters: &Counters) {
        let fd = self.socket.as_raw_fd();
        let count = bytes.len().div_ceil(segment.max(1));
        if count > 1 && self.has_gso.load(Ordering::Relaxed) {
            let most = (SEND_LEN_MAX / segment).clamp(1, SEGMENTS_MAX);
            // Equal calls rather than one full and a small rest.
            let per_call = count.div_ceil(count.div_ceil(most)) * segment;
            for part in bytes.chunks(per_call) {
                let gso = (part.len() > segment).then_some(segment as u16);
                match sys::send(fd, to, part, gso) {
                    Ok(()) => {}
                    Err(error) if gso.is_some() && refuses_gso(&error) => {
                        // A driver that cannot do it says so on the first try (path-selection.md §1).
                        self.has_gso.store(false, Ordering::Relaxed);
                        counters.add(Counter::GsoRefused, 1);
                        self.send_each(to, part, segment, counters);
                    }
                    Err(error) => count_error(&error, counters),
                }
            }
        } else {
            self.send_each(to, bytes, segment, counters);
        }
    }

    fn send_each(&self, to: SocketAddr, bytes: &[u8], segment: usize, counters: &Counters) {
        for part in bytes.chunks(segment.max(1)) {
            if let Err(error) = sys::send(self.socket.as_raw_fd(), to, part, None) {
                count_error(&error, counters);
            }
        }
    }

    /// A socket on a port of the kernel's choice, for reading in turn with others.
    pub(crate) fn open_extra(options: &SocketOptions) -> io::Result<Self> {
        let ip = options.address.filter(IpAddr::is_ipv4).unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let socket = Self::open(SocketAddr::new(ip, 0), options)?;
        socket.socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Receives once; `None` when nothing is there.
    pub(crate) fn try_receive(&self, buffer: &mut [u8]) -> Option<Received> {
        sys::receive(self.socket.as_raw_fd(), buffer).ok().flatten()
    }

    /// Waits for datagrams; `None` after `shut_down`.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> Option<Received> {
        loop {
            match sys::receive(self.socket.as_raw_fd(), buffer) {
                Ok(received) => return received,
                // Errors here are news about datagrams sent earlier, or interruptions.
                Err(_) => std::thread::yield_now(),
            }
        }
    }
}

fn refuses_gso(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL))
}

fn count_error(error: &io::Error, counters: &Counters) {
    let counter = match error.raw_os_error() {
        Some(libc::ENOBUFS | libc::EAGAIN) => Counter::SendQueueFull,
        _ => Counter::SendFailed,
    };
    counters.add(counter, 1);
}
