//! Views of transport headers. They come from [`super::IpView`], which checked that the fixed part is there.

use super::{Fragment, IpProto, IpView};

/// The transport header of a packet.
#[derive(Clone, Copy, Debug)]
pub enum Transport<'a> {
    /// TCP.
    Tcp(TcpView<'a>),
    /// UDP.
    Udp(UdpView<'a>),
    /// ICMP of either family; [`IpView::proto`] says which.
    Icmp(IcmpView<'a>),
    /// SCTP.
    Sctp(SctpView<'a>),
    /// Data of a later fragment: no header.
    Later(&'a [u8]),
    /// Any other protocol.
    Other(&'a [u8]),
}

impl<'a> Transport<'a> {
    pub(super) fn of(proto: IpProto, fragment: Fragment, payload: &'a [u8]) -> Self {
        if matches!(fragment, Fragment::Later { .. }) {
            return Self::Later(payload);
        }
        let view = match proto {
            IpProto::TCP => {
                payload.first_chunk().map(|header| Self::Tcp(TcpView { header, segment: payload }))
            }
            IpProto::UDP => {
                payload.first_chunk().map(|header| Self::Udp(UdpView { header, datagram: payload }))
            }
            IpProto::ICMP | IpProto::ICMPV6 => {
                payload.first_chunk().map(|header| Self::Icmp(IcmpView { proto, header, message: payload }))
            }
            IpProto::SCTP => payload.first_chunk().map(|header| Self::Sctp(SctpView { header })),
            _ => None,
        };
        view.unwrap_or(Self::Other(payload))
    }
}

/// The flag bits of a TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Opens a connection.
    pub const SYN: Self = Self(0x02);
    /// Ends a connection at once.
    pub const RST: Self = Self(0x04);
    /// Asks to hand data over at once.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number counts.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer counts.
    pub const URG: Self = Self(0x20);

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A TCP segment.
#[derive(Clone, Copy, Debug)]
pub struct TcpView<'a> {
    header: &'a [u8; 20],
    segment: &'a [u8],
}

impl<'a> TcpView<'a> {
    /// The source port.
    #[must_use]
    pub fn src_port(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// The destination port.
    #[must_use]
    pub fn dst_port(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// The sequence number.
    #[must_use]
    pub fn seq(&self) -> u32 {
        u32::from_be_bytes([self.header[4], self.header[5], self.header[6], self.header[7]])
    }

    /// The acknowledgement number.
    #[must_use]
    pub fn ack(&self) -> u32 {
        u32::from_be_bytes([self.header[8], self.header[9], self.header[10], self.header[11]])
    }

    /// The flag bits.
    #[must_use]
    pub fn flags(&self) -> TcpFlags {
        TcpFlags(self.header[13])
    }

    /// Whether this opens a connection: SYN without ACK. The filter decides on these alone (node-services.md §13.2).
    #[must_use]
    pub fn is_opening(&self) -> bool {
        self.flags().contains(TcpFlags::SYN) && !self.flags().contains(TcpFlags::ACK)
    }

    /// Whether this accepts a connection: SYN with ACK.
    #[must_use]
    pub fn is_accepting(&self) -> bool {
        self.flags().contains(TcpFlags::SYN) && self.flags().contains(TcpFlags::ACK)
    }

    /// The header length in bytes with options; `None` when the field lies (below 20 or beyond the segment).
    #[must_use]
    pub fn header_len(&self) -> Option<usize> {
        let len = usize::from(self.header[12] >> 4) * 4;
        (len >= 20 && len <= self.segment.len()).then_some(len)
    }

    /// The data; `None` when the header length lies.
    #[must_use]
    pub fn payload(&self) -> Option<&'a [u8]> {
        self.segment.get(self.header_len()?..)
    }
}

/// A UDP datagram.
#[derive(Clone, Copy, Debug)]
pub struct UdpView<'a> {
    header: &'a [u8; 8],
    datagram: &'a [u8],
}

impl<'a> UdpView<'a> {
    /// The source port.
    #[must_use]
    pub fn src_port(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// The destination port.
    #[must_use]
    pub fn dst_port(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// The data, by the length field; `None` when that lies (of a first fragment it always does).
    #[must_use]
    pub fn payload(&self) -> Option<&'a [u8]> {
        let len = usize::from(u16::from_be_bytes([self.header[4], self.header[5]]));
        self.datagram.get(8..len)
    }
}

/// An ICMP or ICMPv6 message.
#[derive(Clone, Copy, Debug)]
pub struct IcmpView<'a> {
    proto: IpProto,
    header: &'a [u8; 8],
    message: &'a [u8],
}

impl<'a> IcmpView<'a> {
    /// The type.
    #[must_use]
    pub fn kind(&self) -> u8 {
        self.header[0]
    }

    /// The code.
    #[must_use]
    pub fn code(&self) -> u8 {
        self.header[1]
    }

    /// Identifier and sequence number of an echo request or reply.
    #[must_use]
    pub fn echo(&self) -> Option<(u16, u16)> {
        let [_, _, _, _, i0, i1, s0, s1] = *self.header;
        (self.is_echo_request() || self.is_echo_reply())
            .then_some((u16::from_be_bytes([i0, i1]), u16::from_be_bytes([s0, s1])))
    }

    /// Whether this is an echo request.
    #[must_use]
    pub fn is_echo_request(&self) -> bool {
        self.kind() == if self.proto == IpProto::ICMP { 8 } else { 128 }
    }

    /// Whether this is an echo reply.
    #[must_use]
    pub fn is_echo_reply(&self) -> bool {
        self.kind() == if self.proto == IpProto::ICMP { 0 } else { 129 }
    }

    /// Whether this reports a fault of an earlier packet.
    ///
    /// IPv4 "parameter problem" is taken as both its registered 12 and the official 0x12 (node-services.md §13.2).
    #[must_use]
    pub fn is_error(&self) -> bool {
        match self.proto {
            IpProto::ICMP => matches!(self.kind(), 3 | 11 | 12 | 0x12),
            _ => matches!(self.kind(), 1..=4),
        }
    }

    /// What follows the 8 header bytes.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.message.get(8..).unwrap_or_default()
    }

    /// The packet that an error quotes: its headers, as far as they are there.
    #[must_use]
    pub fn quoted(&self) -> Option<QuotedFlow> {
        self.is_error().then(|| QuotedFlow::read(self.payload())).flatten()
    }
}

/// Addresses and ports of a packet quoted in an ICMP error, which is usually cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuotedFlow {
    /// Source of the quoted packet: who sent the faulty packet.
    pub src: std::net::IpAddr,
    /// Destination of the quoted packet.
    pub dst: std::net::IpAddr,
    /// Its protocol.
    pub proto: IpProto,
    /// Its source port; 0 where the protocol has none.
    pub src_port: u16,
    /// Its destination port; 0 where the protocol has none.
    pub dst_port: u16,
}

impl QuotedFlow {
    fn read(quoted: &[u8]) -> Option<Self> {
        let (src, dst) = super::addresses(quoted)?;
        let (proto, at) = match src {
            std::net::IpAddr::V4(_) => (*quoted.get(9)?, usize::from(quoted.first()? & 0x0f) * 4),
            std::net::IpAddr::V6(_) => {
                let chain = super::Chain::walk(quoted, *quoted.get(6)?).ok()?;
                (chain.next, chain.at)
            }
        };
        let proto = IpProto(proto);
        let (src_port, dst_port) = match (proto, quoted.get(at..)?) {
            (IpProto::TCP | IpProto::UDP | IpProto::SCTP, &[s0, s1, d0, d1, ..]) => {
                (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]))
            }
            _ => (0, 0),
        };
        Some(Self { src, dst, proto, src_port, dst_port })
    }
}

/// An SCTP packet.
#[derive(Clone, Copy, Debug)]
pub struct SctpView<'a> {
    header: &'a [u8; 12],
}

impl SctpView<'_> {
    /// The source port.
    #[must_use]
    pub fn src_port(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// The destination port.
    #[must_use]
    pub fn dst_port(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }
}

impl<'a> IpView<'a> {
    /// The TCP header, if this is TCP and not a later fragment.
    #[must_use]
    pub fn tcp(&self) -> Option<TcpView<'a>> {
        if let Transport::Tcp(view) = self.transport() { Some(view) } else { None }
    }

    /// The UDP header, if this is UDP and not a later fragment.
    #[must_use]
    pub fn udp(&self) -> Option<UdpView<'a>> {
        if let Transport::Udp(view) = self.transport() { Some(view) } else { None }
    }

    /// The ICMP header, if this is ICMP of the packet's family and not a later fragment.
    #[must_use]
    pub fn icmp(&self) -> Option<IcmpView<'a>> {
        if let Transport::Icmp(view) = self.transport() { Some(view) } else { None }
    }
}
