//! One superpacket from the kernel into the packets that go on the wire.

use super::vnet::Vnet;
use super::{Addresses, Kind, Shape, checksum, padded_len, read_u16, read_u32, write_u16};

const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;
const TCP_FLAGS_AT: usize = 13;

/// A packet from the TUN, ready to be written out segment by segment.
#[derive(Debug)]
pub(crate) struct Split<'a> {
    packet: &'a [u8],
    plan: Plan,
}

#[derive(Debug)]
enum Plan {
    Whole,
    Checksum { start: usize, at: usize },
    Segments { shape: Shape, segment: usize },
}

impl<'a> Split<'a> {
    /// Checks that what the virtio header says fits the packet; `None` when it does not.
    pub(crate) fn new(vnet: Vnet, packet: &'a [u8], addresses: &Addresses) -> Option<Self> {
        let plan = match vnet {
            Vnet::Complete => Plan::Whole,
            Vnet::Checksum { start, offset } => {
                let at = start + offset;
                (at + 2 <= packet.len()).then_some(Plan::Checksum { start, at })?
            }
            Vnet::Segments { segment } => {
                let shape = Shape::parse(packet)?;
                let is_sound = segment > 0 && packet.len() > shape.payload && addresses.len > 0;
                is_sound.then_some(Plan::Segments { shape, segment })?
            }
        };
        Some(Self { packet, plan })
    }

    /// How many packets this becomes.
    pub(crate) fn count(&self) -> usize {
        match &self.plan {
            Plan::Whole | Plan::Checksum { .. } => 1,
            Plan::Segments { shape, segment } => (self.packet.len() - shape.payload).div_ceil(*segment),
        }
    }

    /// Bytes of packet `index`.
    pub(crate) fn len(&self, index: usize) -> usize {
        match &self.plan {
            Plan::Whole | Plan::Checksum { .. } => self.packet.len(),
            Plan::Segments { shape, segment } => {
                let payload = self.packet.len() - shape.payload;
                shape.payload + (payload - index * segment).min(*segment)
            }
        }
    }

    /// Bytes of packet `index` with its padding.
    pub(crate) fn padded_len(&self, index: usize, mtu: usize) -> usize {
        padded_len(self.len(index), mtu)
    }

    /// Writes packet `index` into the front of `out` and zeros behind it; `out` is as long as its padded form.
    pub(crate) fn write(&self, index: usize, out: &mut [u8]) {
        let len = self.len(index);
        let (packet, padding) = out.split_at_mut(len);
        padding.fill(0);
        match &self.plan {
            Plan::Whole => packet.copy_from_slice(self.packet),
            Plan::Checksum { start, at } => {
                packet.copy_from_slice(self.packet);
                // The field holds the pseudo header's sum, so summing over it gives the whole.
                let sum = checksum::finish(checksum::sum(0, &packet[*start..]));
                write_u16(packet, *at, sum);
            }
            Plan::Segments { shape, segment } => {
                let (headers, payload) = self.packet.split_at(shape.payload);
                let from = index * segment;
                let part = &payload[from..payload.len().min(from + segment)];
                packet[..shape.payload].copy_from_slice(headers);
                packet[shape.payload..].copy_from_slice(part);
                let is_last = from + part.len() == payload.len();
                fix_headers(packet, shape, index, from, is_last);
            }
        }
    }
}

/// Gives segment `index`, whose payload begins at `from` of the superpacket's, its own lengths, sequence and sums.
fn fix_headers(packet: &mut [u8], shape: &Shape, index: usize, from: usize, is_last: bool) {
    let len = packet.len();
    if packet[0] >> 4 == 4 {
        write_u16(packet, 2, len as u16);
        let id = read_u16(packet, 4).wrapping_add(index as u16);
        write_u16(packet, 4, id);
        write_u16(packet, 10, 0);
        let sum = checksum::finish(checksum::sum(0, &packet[..shape.transport]));
        write_u16(packet, 10, sum);
    } else {
        write_u16(packet, 4, (len - shape.transport) as u16);
    }
    let transport_len = len - shape.transport;
    let transport = shape.transport;
    match shape.kind {
        Kind::Tcp => {
            let sequence = read_u32(packet, transport + 4).wrapping_add(from as u32);
            packet[transport + 4..transport + 8].copy_from_slice(&sequence.to_be_bytes());
            let flags = &mut packet[transport + TCP_FLAGS_AT];
            if !is_last {
                *flags &= !(TCP_FIN | TCP_PSH);
            }
            if index > 0 {
                *flags &= !TCP_CWR;
            }
        }
        Kind::Udp => write_u16(packet, transport + 4, transport_len as u16),
    }
    let at = transport + shape.kind.checksum_at();
    write_u16(packet, at, 0);
    let pseudo = checksum::pseudo(packet, shape.kind.protocol(), transport_len);
    let mut sum = checksum::finish(checksum::sum(pseudo, &packet[transport..]));
    if shape.kind == Kind::Udp && sum == 0 {
        // Zero would mean "no checksum" (RFC 768).
        sum = 0xffff;
    }
    write_u16(packet, at, sum);
}
