//! Writing IP headers and rewriting addresses in place.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Fragment, IpError, IpProto, IpView};
use crate::checksum::{Sum, checksum, update};

/// What an IPv4 header without options says; the rest is derived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Header {
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Protocol of the payload.
    pub proto: IpProto,
    /// Time to live.
    pub ttl: u8,
    /// Identification.
    pub id: u16,
}

/// What an IPv6 header says; the rest is derived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Header {
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
    /// Protocol of the payload.
    pub proto: IpProto,
    /// Hop limit.
    pub hop_limit: u8,
}

/// Appends a packet: IPv4 header with checksum, then `payload` as it is.
///
/// # Panics
/// When header and payload are over 65,535 bytes.
pub fn write_ipv4(out: &mut Vec<u8>, header: &Ipv4Header, payload: &[u8]) {
    let total = u16::try_from(20 + payload.len()).expect("callers build packets within the MTU");
    let mut bytes = [0u8; 20];
    bytes[0] = 0x45;
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    bytes[4..6].copy_from_slice(&header.id.to_be_bytes());
    bytes[8] = header.ttl;
    bytes[9] = header.proto.0;
    bytes[12..16].copy_from_slice(&header.src.octets());
    bytes[16..20].copy_from_slice(&header.dst.octets());
    let sum = checksum(&bytes);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    out.extend_from_slice(&bytes);
    out.extend_from_slice(payload);
}

/// Appends a packet: IPv6 header, then `payload` as it is.
///
/// # Panics
/// When the payload is over 65,535 bytes.
pub fn write_ipv6(out: &mut Vec<u8>, header: &Ipv6Header, payload: &[u8]) {
    let len = u16::try_from(payload.len()).expect("callers build packets within the MTU");
    let mut bytes = [0u8; 40];
    bytes[0] = 0x60;
    bytes[4..6].copy_from_slice(&len.to_be_bytes());
    bytes[6] = header.proto.0;
    bytes[7] = header.hop_limit;
    bytes[8..24].copy_from_slice(&header.src.octets());
    bytes[24..40].copy_from_slice(&header.dst.octets());
    out.extend_from_slice(&bytes);
    out.extend_from_slice(payload);
}

/// Computes the TCP, UDP, ICMP or ICMPv6 checksum of a whole packet and writes it; other protocols stay as they are.
///
/// # Errors
/// When `packet` does not parse.
pub fn set_transport_checksum(packet: &mut [u8]) -> Result<(), IpError> {
    let view = IpView::parse(packet)?;
    if view.fragment() != Fragment::Whole {
        return Ok(());
    }
    let Some(at) = checksum_at(&view) else { return Ok(()) };
    let end = view.packet().len();
    let (src, dst, proto, start) = (view.src(), view.dst(), view.proto(), view.transport_at());
    packet[at..at + 2].fill(0);
    let body = &packet[start..end];
    let pseudo = if proto == IpProto::ICMP {
        Sum::ZERO
    } else {
        Sum::ZERO.pseudo(src, dst, proto.0, body.len() as u32)
    };
    let sum = match (pseudo.bytes(body).finish(), proto) {
        // RFC 768: zero on the wire means "no checksum".
        (0, IpProto::UDP) => 0xffff,
        (sum, _) => sum,
    };
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

/// Replaces the source address and corrects the checksums; an address of the other family changes nothing.
///
/// # Errors
/// When `packet` does not parse.
pub fn rewrite_source(packet: &mut [u8], src: IpAddr) -> Result<(), IpError> {
    rewrite(packet, src, 12, 8)
}

/// Replaces the destination address and corrects the checksums; an address of the other family changes nothing.
///
/// # Errors
/// When `packet` does not parse.
pub fn rewrite_destination(packet: &mut [u8], dst: IpAddr) -> Result<(), IpError> {
    rewrite(packet, dst, 16, 24)
}

fn rewrite(packet: &mut [u8], new: IpAddr, at_v4: usize, at_v6: usize) -> Result<(), IpError> {
    let view = IpView::parse(packet)?;
    let covered = view.proto() != IpProto::ICMP && !matches!(view.fragment(), Fragment::Later { .. });
    let sum_at = if covered { checksum_at(&view) } else { None };
    let optional = view.proto() == IpProto::UDP;
    match (view.src(), new) {
        (IpAddr::V4(_), IpAddr::V4(new)) => replace(packet, at_v4, &new.octets(), Some(10), sum_at, optional),
        (IpAddr::V6(_), IpAddr::V6(new)) => replace(packet, at_v6, &new.octets(), None, sum_at, optional),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
    }
    Ok(())
}

fn replace<const N: usize>(
    packet: &mut [u8],
    at: usize,
    new: &[u8; N],
    header_sum_at: Option<usize>,
    sum_at: Option<usize>,
    zero_means_none: bool,
) {
    let mut old = [0u8; N];
    old.copy_from_slice(&packet[at..at + N]);
    packet[at..at + N].copy_from_slice(new);
    for (at, zero_means_none) in
        header_sum_at.map(|at| (at, false)).into_iter().chain(sum_at.map(|at| (at, zero_means_none)))
    {
        let sum = u16::from_be_bytes([packet[at], packet[at + 1]]);
        if zero_means_none && sum == 0 {
            continue;
        }
        let sum = match update(sum, &old, new) {
            0 if zero_means_none => 0xffff,
            sum => sum,
        };
        packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Where the transport checksum stands in the packet; the parser has made sure that it is inside.
fn checksum_at(view: &IpView<'_>) -> Option<usize> {
    let at = match view.proto() {
        IpProto::TCP => 16,
        IpProto::UDP => 6,
        IpProto::ICMP | IpProto::ICMPV6 => 2,
        _ => return None,
    };
    Some(view.transport_at() + at)
}
