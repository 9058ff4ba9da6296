//! The virtio header that stands in front of TUN packets (virtio specification §5.1.6).

use sw_os::tun::VNET_HEADER_LEN;

const NEEDS_CHECKSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCP_V4: u8 = 1;
const GSO_UDP: u8 = 5;
const GSO_TCP_V6: u8 = 4;
/// Set on the type of a TCP superpacket whose first segment has CWR.
const GSO_ECN: u8 = 0x80;

/// What the kernel says about a packet, or we to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vnet {
    /// Nothing left to do.
    Complete,
    /// The checksum field holds the sum of the pseudo header: sum from `start` on, store at `start + offset`.
    Checksum { start: usize, offset: usize },
    /// A superpacket: every segment gets `segment` bytes of payload and its own headers.
    Segments { segment: usize },
}

impl Vnet {
    /// Reads the header in front of a packet from the kernel.
    pub(crate) fn parse(header: &[u8; VNET_HEADER_LEN]) -> Self {
        let word = |at: usize| usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
        if header[1] & !GSO_ECN != GSO_NONE {
            Self::Segments { segment: word(4) }
        } else if header[0] & NEEDS_CHECKSUM != 0 {
            Self::Checksum { start: word(6), offset: word(8) }
        } else {
            Self::Complete
        }
    }

    /// The header of a packet that is whole; `is_checked` spares the kernel another look at its checksum.
    pub(crate) fn whole(is_checked: bool) -> [u8; VNET_HEADER_LEN] {
        let mut header = [0; VNET_HEADER_LEN];
        header[0] = if is_checked { DATA_VALID } else { 0 };
        header
    }

    /// The header of a superpacket that we joined; its checksum field holds the sum of the pseudo header.
    pub(crate) fn joined(
        super_kind: Joined,
        headers_len: usize,
        segment: usize,
        transport: usize,
        checksum_offset: usize,
    ) -> [u8; VNET_HEADER_LEN] {
        let mut header = [0; VNET_HEADER_LEN];
        header[0] = NEEDS_CHECKSUM;
        header[1] = match super_kind {
            Joined::TcpV4 => GSO_TCP_V4,
            Joined::TcpV6 => GSO_TCP_V6,
            Joined::Udp => GSO_UDP,
        };
        for (i, value) in [headers_len, segment, transport, checksum_offset].into_iter().enumerate() {
            header[2 + 2 * i..4 + 2 * i].copy_from_slice(&(value as u16).to_ne_bytes());
        }
        header
    }
}

/// The superpackets we make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    TcpV4,
    TcpV6,
    Udp,
}
