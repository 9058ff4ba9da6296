//! A small route-netlink client: requests with acknowledgement, dumps and notifications (`man 7 rtnetlink`).
//!
//! Requests are sent in batches, so that 10,000 routes cost some 80 system calls and not 20,000.
//! The calls block, but only for the time the kernel needs to look at its own tables.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

pub(crate) const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_SETLINK: u16 = 19;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_DELADDR: u16 = 21;
pub(crate) const RTM_GETADDR: u16 = 22;
pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_DELROUTE: u16 = 25;
pub(crate) const RTM_GETROUTE: u16 = 26;
pub(crate) const RTM_NEWRULE: u16 = 32;
pub(crate) const RTM_DELRULE: u16 = 33;
pub(crate) const RTM_GETRULE: u16 = 34;

pub(crate) const FLAG_REQUEST: u16 = 0x01;
pub(crate) const FLAG_ACK: u16 = 0x04;
pub(crate) const FLAG_EXCL: u16 = 0x200;
pub(crate) const FLAG_REPLACE: u16 = 0x100;
pub(crate) const FLAG_CREATE: u16 = 0x400;
const FLAG_DUMP: u16 = 0x300;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER_BYTES: usize = 16;
/// Messages per system call. Each answer occupies about 1 KiB of the receive buffer (212 KiB by default).
const BATCH_MESSAGES_MAX: usize = 128;
/// The kernel fills at most 32 KiB per dump answer.
const RECEIVE_BYTES: usize = 64 << 10;

/// Multicast groups of `RTMGRP_*`: link, IPv4/IPv6 addresses and routes, rules of both families.
const WATCHED_GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400 | 0x80 | (1 << 18);

/// One request or answer: type, flags and payload (fixed part and attributes).
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) payload: Vec<u8>,
}

impl Message {
    /// Starts a message with its fixed part.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        Self { kind, flags: FLAG_REQUEST | flags, payload: fixed.to_vec() }
    }

    /// Appends one attribute, padded to 4 bytes.
    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).expect("attributes here are some bytes long");
        self.payload.extend_from_slice(&length.to_ne_bytes());
        self.payload.extend_from_slice(&kind.to_ne_bytes());
        self.payload.extend_from_slice(value);
        self.payload.resize(self.payload.len().next_multiple_of(4), 0);
        self
    }

    /// Appends a 32-bit attribute.
    pub(crate) fn attribute_u32(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    fn write_to(&self, out: &mut Vec<u8>, sequence: u32) {
        let length = u32::try_from(HEADER_BYTES + self.payload.len()).expect("messages are short");
        out.extend_from_slice(&length.to_ne_bytes());
        out.extend_from_slice(&self.kind.to_ne_bytes());
        out.extend_from_slice(&self.flags.to_ne_bytes());
        out.extend_from_slice(&sequence.to_ne_bytes());
        out.extend_from_slice(&0u32.to_ne_bytes());
        out.extend_from_slice(&self.payload);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

/// Iterates over the attributes in `bytes`; stops at the first malformed one.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let &[l0, l1, k0, k1] = bytes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let kind = u16::from_ne_bytes([k0, k1]) & 0x3fff; // NLA_F_NESTED and NLA_F_NET_BYTEORDER off
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Reads a 32-bit attribute value in host order.
pub(crate) fn value_u32(value: &[u8]) -> Option<u32> {
    value.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// A route-netlink socket.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket for requests.
    pub(crate) fn open() -> io::Result<Self> {
        Self::with_groups(0, SocketFlags::CLOEXEC)
    }

    /// Opens a non-blocking socket that hears of every change of links, addresses, routes and rules.
    pub(crate) fn open_monitor() -> io::Result<Self> {
        Self::with_groups(WATCHED_GROUPS, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
    }

    fn with_groups(groups: u32, flags: SocketFlags) -> io::Result<Self> {
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; RECEIVE_BYTES] })
    }

    /// Returns the descriptor, for waiting until something is readable.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends all `messages` and returns the kernel's answer to each, in order.
    pub(crate) fn execute(&mut self, messages: &[Message]) -> io::Result<Vec<Result<(), Errno>>> {
        let mut answers = Vec::with_capacity(messages.len());
        for batch in messages.chunks(BATCH_MESSAGES_MAX) {
            let first = self.sequence.wrapping_add(1);
            let mut bytes = Vec::new();
            for message in batch {
                self.sequence = self.sequence.wrapping_add(1);
                Message { flags: message.flags | FLAG_ACK, ..message.clone() }
                    .write_to(&mut bytes, self.sequence);
            }
            rustix::net::send(&self.socket, &bytes, SendFlags::empty())?;
            let mut batch_answers = vec![None; batch.len()];
            let mut missing = batch.len();
            while missing > 0 {
                let received = self.receive()?;
                for (kind, sequence, payload) in split(&self.buffer[..received]) {
                    let slot = batch_answers.get_mut(sequence.wrapping_sub(first) as usize);
                    let (NLMSG_ERROR, Some(slot)) = (kind, slot) else { continue };
                    let code = payload.first_chunk::<4>().map_or(0, |code| i32::from_ne_bytes(*code));
                    let answer = if code == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(-code)) };
                    if slot.replace(answer).is_none() {
                        missing -= 1;
                    }
                }
            }
            answers.extend(batch_answers.into_iter().flatten());
        }
        Ok(answers)
    }

    /// Sends one message and fails with the kernel's error.
    pub(crate) fn execute_one(&mut self, message: Message) -> io::Result<()> {
        let answers = self.execute(&[message])?;
        answers.into_iter().collect::<Result<(), Errno>>().map_err(io::Error::from)
    }

    /// Asks for all objects of a kind and returns the payload of each answer.
    pub(crate) fn dump(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let mut bytes = Vec::new();
        Message { flags: message.flags | FLAG_DUMP, ..message }.write_to(&mut bytes, sequence);
        rustix::net::send(&self.socket, &bytes, SendFlags::empty())?;
        let mut objects = Vec::new();
        loop {
            let received = self.receive()?;
            for (kind, answered, payload) in split(&self.buffer[..received]) {
                if answered != sequence {
                    continue;
                }
                match kind {
                    NLMSG_DONE => return Ok(objects),
                    NLMSG_ERROR => {
                        let code = payload.first_chunk::<4>().map_or(0, |c| i32::from_ne_bytes(*c));
                        return Err(io::Error::from_raw_os_error(-code));
                    }
                    _ => objects.push(payload.to_vec()),
                }
            }
        }
    }

    /// Reads what is queued on a monitor socket; returns the kinds of the notifications.
    /// An overrun of the receive buffer counts as "everything may have changed" (`None`).
    pub(crate) fn read_notifications(&mut self) -> io::Result<Option<Vec<u16>>> {
        let mut kinds = Vec::new();
        loop {
            match rustix::net::recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((_, received)) => {
                    kinds.extend(split(&self.buffer[..received]).map(|(kind, _, _)| kind));
                }
                Err(Errno::AGAIN) => return Ok(Some(kinds)),
                Err(Errno::NOBUFS) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn receive(&mut self) -> io::Result<usize> {
        loop {
            match rustix::net::recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((_, received)) => return Ok(received.min(self.buffer.len())),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Splits a datagram into (type, sequence, payload); stops at the first malformed message.
fn split(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<HEADER_BYTES>()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        let payload = bytes.get(HEADER_BYTES..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, sequence, payload))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_message_is_split_again() {
        arbtest::arbtest(|u| {
            let payload: Vec<u8> = u.arbitrary()?;
            let message = Message::new(RTM_NEWROUTE, FLAG_CREATE, &payload).attribute(7, b"abc");
            let mut bytes = Vec::new();
            message.write_to(&mut bytes, 9);
            message.write_to(&mut bytes, 10);
            let parts: Vec<_> = split(&bytes).map(|(kind, seq, p)| (kind, seq, p.to_vec())).collect();
            assert_eq!(parts[0], (RTM_NEWROUTE, 9, message.payload.clone()));
            assert_eq!(parts[1].1, 10);
            Ok(())
        });
    }

    #[test]
    fn malformed_bytes_never_panic() {
        arbtest::arbtest(|u| {
            let bytes: Vec<u8> = u.arbitrary()?;
            for (_, _, payload) in split(&bytes) {
                attributes(payload).count();
            }
            attributes(&bytes).count();
            Ok(())
        });
    }
}
