//! Inner packets on their way through: headers as plain offsets, superpackets split and joined.

pub(crate) mod checksum;
pub(crate) mod coalesce;
pub(crate) mod split;
pub(crate) mod vnet;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Source and destination ports, sequence, acknowledgement, offset and flags, window, checksum, urgent.
const TCP_HEADER_MIN: usize = 20;
const UDP_HEADER_LEN: usize = 8;

/// The parts of an IP header that routing needs; cheap enough for every packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    /// Bytes of the whole packet as its header states; at most the bytes given.
    pub(crate) len: usize,
}

impl Addresses {
    /// Reads the addresses of `packet`, which may be longer than its header says (padding).
    #[inline]
    pub(crate) fn parse(packet: &[u8]) -> Option<Self> {
        let addresses = match packet.first()? >> 4 {
            4 => {
                let header = packet.first_chunk::<20>()?;
                let v4 = |at: usize| -> Option<IpAddr> {
                    Some(Ipv4Addr::from(*header[at..].first_chunk::<4>()?).into())
                };
                let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
                let header_len = usize::from(header[0] & 15) * 4;
                (header_len >= 20 && header_len <= len).then_some(Self { src: v4(12)?, dst: v4(16)?, len })?
            }
            6 => {
                let header = packet.first_chunk::<40>()?;
                let v6 = |at: usize| -> Option<IpAddr> {
                    Some(Ipv6Addr::from(*header[at..].first_chunk::<16>()?).into())
                };
                let len = usize::from(u16::from_be_bytes([header[4], header[5]])) + 40;
                Self { src: v6(8)?, dst: v6(24)?, len }
            }
            _ => return None,
        };
        (addresses.len <= packet.len()).then_some(addresses)
    }
}

/// Where the headers of a TCP or UDP packet end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Where the transport header begins.
    pub(crate) transport: usize,
    /// Where the payload begins.
    pub(crate) payload: usize,
    pub(crate) kind: Kind,
}

/// The transports that superpackets exist for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Udp,
}

impl Kind {
    fn protocol(self) -> u8 {
        match self {
            Self::Tcp => TCP,
            Self::Udp => UDP,
        }
    }

    /// Where the checksum stands in the transport header.
    fn checksum_at(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

impl Shape {
    /// Reads a packet without IPv4 options, fragments or IPv6 extension headers whose transport is TCP or UDP.
    #[inline]
    pub(crate) fn parse(packet: &[u8]) -> Option<Self> {
        let (transport, protocol) = match packet.first()? {
            0x45 => {
                let header = packet.first_chunk::<20>()?;
                let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
                (!is_fragment).then_some((20, header[9]))?
            }
            first if first >> 4 == 6 => (40, *packet.get(6)?),
            _ => return None,
        };
        let rest = packet.get(transport..)?;
        let (header_len, kind) = match protocol {
            TCP => {
                let words = rest.first_chunk::<TCP_HEADER_MIN>()?[12] >> 4;
                let header_len = usize::from(words) * 4;
                (header_len >= TCP_HEADER_MIN).then_some((header_len, Kind::Tcp))?
            }
            UDP => (UDP_HEADER_LEN, Kind::Udp),
            _ => return None,
        };
        (rest.len() >= header_len).then_some(Self { transport, payload: transport + header_len, kind })
    }
}

/// Rounds an inner length up to what goes on the wire: a multiple of 16, but not past the MTU.
#[inline]
pub(crate) fn padded_len(len: usize, mtu: usize) -> usize {
    len.next_multiple_of(16).min(mtu.max(len))
}

pub(crate) fn read_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn write_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

pub(crate) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
