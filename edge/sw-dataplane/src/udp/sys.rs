//! The system calls behind [`super`], one small wrapper each.
#![expect(unsafe_code, reason = "sendmsg and recvmsg with UDP control messages have no safe form")]

use super::Received;
use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::RawFd;

/// A control message with one 16-bit value, in its aligned space (`CMSG_SPACE(2)`).
#[repr(C)]
struct SegmentControl {
    header: libc::cmsghdr,
    segment: u16,
    padding: [u8; 6],
}

/// Room for the control messages of a receive.
#[repr(C, align(8))]
struct ReceiveControl([u8; 64]);

/// Sets an integer option.
pub(super) fn set_option(fd: RawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the pointer and length describe `value`, which lives through the call.
    let result = unsafe {
        libc::setsockopt(fd, level, name, std::ptr::from_ref(&value).cast(), size_of::<i32>() as u32)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Wakes every reader of an unconnected UDP socket. Linux does so although it answers `ENOTCONN`.
pub(super) fn shut_down(fd: RawFd) {
    // SAFETY: no memory is involved.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}

/// Sends `bytes` to `to`, cut by the kernel into datagrams of `segment` bytes if given.
pub(super) fn send(fd: RawFd, to: SocketAddr, bytes: &[u8], segment: Option<u16>) -> io::Result<()> {
    let mut storage = Storage::new(to);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero is a valid `msghdr` (null pointers with zero lengths).
    let mut message: libc::msghdr = unsafe { zeroed() };
    (message.msg_name, message.msg_namelen) = storage.raw();
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    // SAFETY: all-zero is a valid `cmsghdr`.
    let mut control = SegmentControl { header: unsafe { zeroed() }, segment: 0, padding: [0; 6] };
    if let Some(segment) = segment {
        control.header.cmsg_level = libc::SOL_UDP;
        control.header.cmsg_type = libc::UDP_SEGMENT;
        control.header.cmsg_len = (size_of::<libc::cmsghdr>() + size_of::<u16>()) as _;
        control.segment = segment;
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = size_of::<SegmentControl>() as _;
    }
    loop {
        // SAFETY: every pointer in `message` is to a local or to `bytes`, all alive; the kernel only reads them.
        if unsafe { libc::sendmsg(fd, &raw const message, 0) } >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Receives once; `Ok(None)` after `shut_down`.
pub(super) fn receive(fd: RawFd, buffer: &mut [u8]) -> io::Result<Option<Received>> {
    let mut storage = Storage::empty();
    let mut control = ReceiveControl([0; 64]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all-zero is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { zeroed() };
    (message.msg_name, message.msg_namelen) = storage.raw();
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: every pointer in `message` is to a local or to `buffer`, all alive and writable for the lengths given.
    let len = unsafe { libc::recvmsg(fd, &raw mut message, 0) };
    let Ok(len) = usize::try_from(len) else { return Err(io::Error::last_os_error()) };
    let Some(from) = storage.address(message.msg_namelen) else {
        // A datagram always has a sender; nothing has none only after `shut_down`.
        return Ok(None);
    };
    let segment = segment_of(&control.0[..(message.msg_controllen as usize).min(64)]);
    let segment = segment.filter(|segment| *segment > 0).unwrap_or(len.max(1));
    Ok(Some(Received { len, segment, from }))
}

/// Finds the datagram length that GRO reports in the control messages.
fn segment_of(mut control: &[u8]) -> Option<usize> {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    loop {
        let header = control.first_chunk::<HEADER>()?;
        let len = usize::from_ne_bytes(*header.first_chunk()?);
        let word = |at: usize| Some(i32::from_ne_bytes(*header.get(at..)?.first_chunk()?));
        let value = control.get(HEADER..len)?;
        if (word(8)?, word(12)?) == (libc::SOL_UDP, libc::UDP_GRO) {
            let segment = i32::from_ne_bytes(*value.first_chunk()?);
            return usize::try_from(segment).ok();
        }
        control = control.get(len.next_multiple_of(8)..)?;
    }
}

/// A socket address in the kernel's form.
#[repr(C)]
union Storage {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Storage {
    fn empty() -> Self {
        // SAFETY: all-zero is valid for these plain structures.
        unsafe { zeroed() }
    }

    fn new(address: SocketAddr) -> Self {
        let mut storage = Self::empty();
        match address {
            SocketAddr::V4(v4) => {
                storage.v4.sin_family = libc::AF_INET as _;
                storage.v4.sin_port = v4.port().to_be();
                storage.v4.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            }
            SocketAddr::V6(v6) => {
                storage.v6.sin6_family = libc::AF_INET6 as _;
                storage.v6.sin6_port = v6.port().to_be();
                storage.v6.sin6_addr.s6_addr = v6.ip().octets();
                storage.v6.sin6_scope_id = v6.scope_id();
            }
        }
        storage
    }

    fn raw(&mut self) -> (*mut libc::c_void, libc::socklen_t) {
        // SAFETY: both variants begin with the family, and any bytes are valid for it.
        let family = unsafe { self.v4.sin_family };
        let len = if i32::from(family) == libc::AF_INET {
            size_of::<libc::sockaddr_in>()
        } else {
            size_of::<libc::sockaddr_in6>()
        };
        (std::ptr::from_mut(self).cast(), len as _)
    }

    fn address(&self, len: libc::socklen_t) -> Option<SocketAddr> {
        if len == 0 {
            return None;
        }
        // SAFETY: the storage began as zeros and the kernel wrote a whole address into it; all bytes are valid
        // for these plain structures.
        let (family, v4, v6) = unsafe { (self.v4.sin_family, self.v4, self.v6) };
        match i32::from(family) {
            libc::AF_INET => {
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(SocketAddrV6::new(ip, port, 0, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}
