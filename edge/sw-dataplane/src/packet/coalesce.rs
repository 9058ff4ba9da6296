//! Joins consecutive packets of one flow into a superpacket, so that the kernel takes them in one call.
//!
//! Only what the kernel itself would join (GRO): TCP segments in order with equal headers and no flags but ACK and
//! PSH, UDP datagrams of equal size; whole packets without options or fragments, with right checksums.

use super::vnet::{Joined, Vnet};
use super::{Kind, Shape, checksum, read_u16, read_u32, write_u16};
use std::io::IoSlice;
use std::ops::Range;
use sw_os::tun::Offload;

const TCP_PSH: u8 = 0x08;
const TCP_ACK: u8 = 0x10;
/// Packets in one superpacket.
pub(crate) const PARTS_MAX: usize = 64;
/// A superpacket's length fields have 16 bits.
const JOINED_LEN_MAX: usize = 65_000;

/// A packet that was looked at once: where it lies, and whether it can take part in a superpacket.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    range: Range<usize>,
    joinable: Option<Shape>,
}

/// Collects packets of one buffer; at most one superpacket is open at a time.
#[derive(Debug)]
pub(crate) struct Coalescer {
    offload: Offload,
    run: Option<Run>,
    /// The payloads of the packets behind the first one (kept here for its allocation).
    parts: Vec<Range<usize>>,
}

#[derive(Debug)]
struct Run {
    first: Range<usize>,
    shape: Option<Shape>,
    /// Payload bytes of every packet but the last.
    segment: usize,
    next_sequence: u32,
    total: usize,
    is_closed: bool,
}

impl Coalescer {
    pub(crate) fn new(offload: Offload) -> Self {
        Self { offload, run: None, parts: Vec::with_capacity(PARTS_MAX) }
    }

    /// Looks at the packet in `range` of `buffer`.
    pub(crate) fn candidate(&self, buffer: &[u8], range: Range<usize>) -> Candidate {
        let packet = &buffer[range.clone()];
        let joinable = Shape::parse(packet).filter(|shape| match (self.offload, shape.kind) {
            (Offload::None, _) | (Offload::Superpackets { udp: false }, Kind::Udp) => false,
            (Offload::Superpackets { .. }, _) => {
                packet.len() > shape.payload
                    && lengths_agree(packet, shape)
                    && flags_allow(packet, shape)
                    && is_checksum_right(packet, shape)
            }
        });
        Candidate { range, joinable }
    }

    /// Adds a packet to the open superpacket; false when it does not belong there.
    pub(crate) fn try_join(&mut self, buffer: &mut [u8], candidate: &Candidate) -> bool {
        let (Some(run), Some(shape)) = (&mut self.run, candidate.joinable) else { return false };
        if run.is_closed || run.shape != Some(shape) || self.parts.len() + 1 >= PARTS_MAX {
            return false;
        }
        let packet = &buffer[candidate.range.clone()];
        let payload = packet.len() - shape.payload;
        let first = &buffer[run.first.clone()];
        let fits = payload <= run.segment
            && run.total + payload <= JOINED_LEN_MAX
            && is_same_flow(first, packet, &shape)
            && (shape.kind == Kind::Udp || read_u32(packet, shape.transport + 4) == run.next_sequence);
        if !fits {
            return false;
        }
        let has_push = has_push(packet, &shape);
        run.next_sequence = run.next_sequence.wrapping_add(payload as u32);
        run.total += payload;
        run.is_closed = payload < run.segment || has_push;
        self.parts.push(candidate.range.start + shape.payload..candidate.range.end);
        if has_push {
            buffer[run.first.start + shape.transport + 13] |= TCP_PSH;
        }
        true
    }

    /// Begins with a packet; the former superpacket must have been taken by `flush`.
    pub(crate) fn start(&mut self, buffer: &[u8], candidate: Candidate) {
        debug_assert!(self.run.is_none());
        let packet = &buffer[candidate.range.clone()];
        let mut run = Run {
            shape: candidate.joinable,
            segment: 0,
            next_sequence: 0,
            total: packet.len(),
            is_closed: true,
            first: candidate.range,
        };
        if let Some(shape) = &run.shape {
            run.segment = packet.len() - shape.payload;
            run.is_closed = has_push(packet, shape);
            if shape.kind == Kind::Tcp {
                run.next_sequence = read_u32(packet, shape.transport + 4).wrapping_add(run.segment as u32);
            }
        }
        self.run = Some(run);
    }

    /// Whether nothing is open.
    pub(crate) fn is_empty(&self) -> bool {
        self.run.is_none()
    }

    /// Hands the open packet or superpacket to `write`, as the slices of one TUN write.
    pub(crate) fn flush(&mut self, buffer: &mut [u8], write: &mut dyn FnMut(&[IoSlice<'_>])) {
        let Some(run) = self.run.take() else { return };
        let header = match (&run.shape, self.parts.is_empty()) {
            (Some(shape), false) => seal_headers(&mut buffer[run.first.clone()], shape, &run),
            (shape, _) => Vnet::whole(shape.is_some()),
        };
        let has_header = self.offload != Offload::None;
        let mut slices = [IoSlice::new(&[]); PARTS_MAX + 1];
        slices[0] = IoSlice::new(&header);
        slices[1] = IoSlice::new(&buffer[run.first]);
        for (slice, part) in slices[2..].iter_mut().zip(&self.parts) {
            *slice = IoSlice::new(&buffer[part.clone()]);
        }
        write(&slices[usize::from(!has_header)..self.parts.len() + 2]);
        self.parts.clear();
    }
}

/// Puts the lengths and partial sums of the whole superpacket into its first packet's headers.
fn seal_headers(first: &mut [u8], shape: &Shape, run: &Run) -> [u8; sw_os::tun::VNET_HEADER_LEN] {
    let is_v4 = first[0] >> 4 == 4;
    let transport_len = run.total - shape.transport;
    if is_v4 {
        write_u16(first, 2, run.total as u16);
        write_u16(first, 10, 0);
        let sum = checksum::finish(checksum::sum(0, &first[..shape.transport]));
        write_u16(first, 10, sum);
    } else {
        write_u16(first, 4, transport_len as u16);
    }
    if shape.kind == Kind::Udp {
        write_u16(first, shape.transport + 4, transport_len as u16);
    }
    let pseudo = checksum::pseudo(first, shape.kind.protocol(), transport_len);
    write_u16(first, shape.transport + shape.kind.checksum_at(), pseudo);
    let joined = match (shape.kind, is_v4) {
        (Kind::Tcp, true) => Joined::TcpV4,
        (Kind::Tcp, false) => Joined::TcpV6,
        (Kind::Udp, _) => Joined::Udp,
    };
    Vnet::joined(joined, shape.payload, run.segment, shape.transport, shape.kind.checksum_at())
}

fn lengths_agree(packet: &[u8], shape: &Shape) -> bool {
    shape.kind == Kind::Tcp
        || usize::from(read_u16(packet, shape.transport + 4)) == packet.len() - shape.transport
}

fn flags_allow(packet: &[u8], shape: &Shape) -> bool {
    shape.kind == Kind::Udp || packet[shape.transport + 13] & !TCP_PSH == TCP_ACK
}

fn has_push(packet: &[u8], shape: &Shape) -> bool {
    shape.kind == Kind::Tcp && packet[shape.transport + 13] & TCP_PSH != 0
}

fn is_checksum_right(packet: &[u8], shape: &Shape) -> bool {
    let transport_len = packet.len() - shape.transport;
    let at = shape.transport + shape.kind.checksum_at();
    let has_none = shape.kind == Kind::Udp && read_u16(packet, at) == 0;
    let pseudo = checksum::pseudo(packet, shape.kind.protocol(), transport_len);
    !has_none && checksum::sum(pseudo, &packet[shape.transport..]) == 0xffff
}

/// Whether everything but lengths, sums, sequence and PSH is equal.
fn is_same_flow(a: &[u8], b: &[u8], shape: &Shape) -> bool {
    let same = |range: Range<usize>| a[range.clone()] == b[range];
    let network = if a[0] >> 4 == 4 {
        // Service class and ECN; flags, lifetime, protocol; addresses.
        b[0] == a[0] && same(1..2) && same(6..10) && same(12..20)
    } else {
        same(0..4) && same(6..40)
    };
    let t = shape.transport;
    network
        && same(t..t + 4)
        && (shape.kind == Kind::Udp
            || same(t + 8..t + 13) && same(t + 14..t + 16) && same(t + 18..shape.payload))
}

#[cfg(test)]
#[path = "coalesce_tests.rs"]
mod tests;
