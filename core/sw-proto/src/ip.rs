//! Checked views of IP packets: what the packet filter and the data path ask of a header.
//!
//! [`IpView::parse`] reads a packet once; everything it hands out afterwards is known to be inside the packet.
//! Rules: threat-model.md §12, node-services.md §13.2.

mod build;
mod transport;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use build::{
    Ipv4Header, Ipv6Header, rewrite_destination, rewrite_source, set_transport_checksum, write_ipv4,
    write_ipv6,
};
pub use transport::{IcmpView, SctpView, TcpFlags, TcpView, Transport, UdpView};

/// Extension headers followed in one IPv6 packet; more is an error (threat-model.md §12).
pub const EXTENSION_HEADERS_MAX: usize = 8;

/// Smallest offset of a later fragment in bytes: the longest IPv4 header and a TCP header, so that a later
/// fragment can never overwrite the header on which the filter decided (node-services.md §13.2).
pub const LATER_FRAGMENT_OFFSET_MIN: u16 = 80;

/// The protocol field of an IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpProto(pub u8);

impl IpProto {
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// IGMP.
    pub const IGMP: Self = Self(2);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// DCCP.
    pub const DCCP: Self = Self(33);
    /// GRE.
    pub const GRE: Self = Self(47);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// IPv6: nothing follows.
    pub const NO_NEXT: Self = Self(59);
    /// The tailnet's own messages between nodes ([`crate::tsmp`]).
    pub const TSMP: Self = Self(99);
    /// SCTP.
    pub const SCTP: Self = Self(132);

    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const AUTHENTICATION: u8 = 51;
    const DESTINATION: u8 = 60;
    const MOBILITY: u8 = 135;
    const HIP: u8 = 139;
    const SHIM6: u8 = 140;
}

/// Which part of a fragmented packet this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fragment {
    /// Not fragmented.
    Whole,
    /// The first fragment; it holds the transport header.
    First {
        /// The identification that the other fragments share.
        id: u32,
    },
    /// A later fragment, at least [`LATER_FRAGMENT_OFFSET_MIN`] bytes in; it has no transport header.
    Later {
        /// The identification that the other fragments share.
        id: u32,
        /// Where its payload belongs, in bytes.
        offset: u16,
    },
}

/// Why bytes are no IP packet that may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum IpError {
    /// Nothing there.
    #[error("empty packet")]
    Empty,
    /// Fewer bytes than the fixed header.
    #[error("packet shorter than its IP header")]
    TooShort,
    /// Neither 4 nor 6.
    #[error("IP version {got}")]
    Version {
        /// The version field.
        got: u8,
    },
    /// The IPv4 header length field is below 5 or beyond the packet.
    #[error("bad IPv4 header length")]
    HeaderLength,
    /// The length field is smaller than the header or beyond the packet.
    #[error("bad IP total length")]
    TotalLength,
    /// More than [`EXTENSION_HEADERS_MAX`] extension headers, or one that ends outside the packet.
    #[error("bad IPv6 extension header chain")]
    ExtensionChain,
    /// A fragment that would overlap the transport header of the first one.
    #[error("fragment overlaps the transport header")]
    FragmentOverlap,
    /// The transport header of a known protocol is cut off.
    #[error("transport header cut off")]
    TransportTruncated,
}

/// One IP packet whose headers were checked.
#[derive(Clone, Copy, Debug)]
pub struct IpView<'a> {
    // INVARIANT: trimmed to the length which the header states; `transport_at <= packet.len()`.
    packet: &'a [u8],
    transport_at: usize,
    src: IpAddr,
    dst: IpAddr,
    proto: IpProto,
    fragment: Fragment,
}

impl<'a> IpView<'a> {
    /// Checks the headers of `packet`; bytes behind the stated length are left out.
    ///
    /// # Errors
    /// See [`IpError`]; each is a reason to drop the packet.
    pub fn parse(packet: &'a [u8]) -> Result<Self, IpError> {
        let first = packet.first().ok_or(IpError::Empty)?;
        let view = match first >> 4 {
            4 => Self::parse_v4(packet)?,
            6 => Self::parse_v6(packet)?,
            got => return Err(IpError::Version { got }),
        };
        if !matches!(view.fragment, Fragment::Later { .. })
            && view.payload().len() < header_len_min(view.proto)
        {
            return Err(IpError::TransportTruncated);
        }
        Ok(view)
    }

    fn parse_v4(packet: &'a [u8]) -> Result<Self, IpError> {
        let header = packet.first_chunk::<20>().ok_or(IpError::TooShort)?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        if header_len < 20 || header_len > packet.len() {
            return Err(IpError::HeaderLength);
        }
        let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let packet = packet.get(..total).ok_or(IpError::TotalLength)?;
        if total < header_len {
            return Err(IpError::TotalLength);
        }
        let id = u32::from(u16::from_be_bytes([header[4], header[5]]));
        let flags = u16::from_be_bytes([header[6], header[7]]);
        let fragment = fragment(id, (flags & 0x1fff) * 8, flags & 0x2000 != 0)?;
        let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
        Ok(Self {
            packet,
            transport_at: header_len,
            src: Ipv4Addr::new(s0, s1, s2, s3).into(),
            dst: Ipv4Addr::new(d0, d1, d2, d3).into(),
            proto: IpProto(header[9]),
            fragment,
        })
    }

    fn parse_v6(packet: &'a [u8]) -> Result<Self, IpError> {
        let header = packet.first_chunk::<40>().ok_or(IpError::TooShort)?;
        let total = 40 + usize::from(u16::from_be_bytes([header[4], header[5]]));
        let packet = packet.get(..total).ok_or(IpError::TotalLength)?;
        let (addresses, _) = header[8..].as_chunks::<16>();
        let [src, dst] = addresses else { return Err(IpError::TooShort) };
        let chain = Chain::walk(packet, header[6])?;
        Ok(Self {
            packet,
            transport_at: chain.at,
            src: Ipv6Addr::from(*src).into(),
            dst: Ipv6Addr::from(*dst).into(),
            proto: IpProto(chain.next),
            fragment: chain.fragment,
        })
    }

    /// The whole packet, trimmed to its stated length.
    #[must_use]
    pub fn packet(&self) -> &'a [u8] {
        self.packet
    }

    /// The source address.
    #[must_use]
    pub fn src(&self) -> IpAddr {
        self.src
    }

    /// The destination address.
    #[must_use]
    pub fn dst(&self) -> IpAddr {
        self.dst
    }

    /// The transport protocol: behind the extension headers in IPv6; of a later fragment that of the whole packet.
    #[must_use]
    pub fn proto(&self) -> IpProto {
        self.proto
    }

    /// Which fragment this is.
    #[must_use]
    pub fn fragment(&self) -> Fragment {
        self.fragment
    }

    /// Where the transport header (of a later fragment: its data) begins, in bytes.
    #[must_use]
    pub fn transport_at(&self) -> usize {
        self.transport_at
    }

    /// Everything behind the IP headers.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.packet.get(self.transport_at..).unwrap_or_default()
    }

    /// The transport header.
    #[must_use]
    pub fn transport(&self) -> Transport<'a> {
        Transport::of(self.proto, self.fragment, self.payload())
    }

    /// Source and destination port; 0 for what has none.
    #[must_use]
    pub fn ports(&self) -> (u16, u16) {
        match (self.proto, self.fragment, self.payload()) {
            (_, Fragment::Later { .. }, _) => (0, 0),
            (IpProto::TCP | IpProto::UDP | IpProto::SCTP | IpProto::DCCP, _, &[s0, s1, d0, d1, ..]) => {
                (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]))
            }
            _ => (0, 0),
        }
    }

    /// Whether the checksum of the IPv4 header holds; IPv6 has none and always holds.
    #[must_use]
    pub fn header_checksum_holds(&self) -> bool {
        match self.src {
            IpAddr::V4(_) => self
                .packet
                .get(..self.transport_at)
                .is_some_and(|header| crate::checksum::checksum(header) == 0),
            IpAddr::V6(_) => true,
        }
    }
}

/// Reads only the addresses: source and destination of anything that begins like an IP packet.
///
/// For the ownership check right after decryption; everything else goes through [`IpView::parse`].
#[must_use]
pub fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *packet.first_chunk::<20>()?;
            Some((Ipv4Addr::new(s0, s1, s2, s3).into(), Ipv4Addr::new(d0, d1, d2, d3).into()))
        }
        6 => {
            let (addresses, _) = packet.get(8..40)?.as_chunks::<16>();
            let [src, dst] = addresses else { return None };
            Some((Ipv6Addr::from(*src).into(), Ipv6Addr::from(*dst).into()))
        }
        _ => None,
    }
}

fn fragment(id: u32, offset: u16, more: bool) -> Result<Fragment, IpError> {
    match (offset, more) {
        (0, false) => Ok(Fragment::Whole),
        (0, true) => Ok(Fragment::First { id }),
        (LATER_FRAGMENT_OFFSET_MIN.., _) => Ok(Fragment::Later { id, offset }),
        _ => Err(IpError::FragmentOverlap),
    }
}

fn header_len_min(proto: IpProto) -> usize {
    match proto {
        IpProto::TCP => 20,
        IpProto::UDP | IpProto::ICMP | IpProto::ICMPV6 => 8,
        IpProto::SCTP => 12,
        _ => 0,
    }
}

/// Where an IPv6 extension chain ended.
struct Chain {
    at: usize,
    next: u8,
    fragment: Fragment,
}

impl Chain {
    fn walk(packet: &[u8], next: u8) -> Result<Self, IpError> {
        let mut chain = Self { at: 40, next, fragment: Fragment::Whole };
        for _ in 0..=EXTENSION_HEADERS_MAX {
            let rest = packet.get(chain.at..).ok_or(IpError::ExtensionChain)?;
            let len = match chain.next {
                IpProto::HOP_BY_HOP
                | IpProto::ROUTING
                | IpProto::DESTINATION
                | IpProto::MOBILITY
                | IpProto::HIP
                | IpProto::SHIM6 => 8 + usize::from(*rest.get(1).ok_or(IpError::ExtensionChain)?) * 8,
                IpProto::AUTHENTICATION => 8 + usize::from(*rest.get(1).ok_or(IpError::ExtensionChain)?) * 4,
                IpProto::FRAGMENT => {
                    chain.on_fragment_header(rest)?;
                    8
                }
                _ => return Ok(chain),
            };
            chain.next = *rest.first().ok_or(IpError::ExtensionChain)?;
            chain.at += len;
            if chain.at > packet.len() {
                return Err(IpError::ExtensionChain);
            }
            if matches!(chain.fragment, Fragment::Later { .. }) {
                return Ok(chain);
            }
        }
        Err(IpError::ExtensionChain)
    }

    fn on_fragment_header(&mut self, header: &[u8]) -> Result<(), IpError> {
        let header = header.first_chunk::<8>().ok_or(IpError::ExtensionChain)?;
        let field = u16::from_be_bytes([header[2], header[3]]);
        let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        if self.fragment != Fragment::Whole {
            return Err(IpError::ExtensionChain);
        }
        self.fragment = fragment(id, field & 0xfff8, field & 1 != 0)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
