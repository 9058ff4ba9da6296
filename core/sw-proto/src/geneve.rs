//! The Geneve header in front of packets that go through a peer relay (disco.md §6).

use sw_types::Vni;

/// Length of the header; there are never options.
pub const HEADER_LEN: usize = 8;

/// What a Geneve packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Payload {
    /// A disco message: protocol 0x7A11.
    Disco,
    /// A WireGuard packet: protocol 0x7A12.
    WireGuard,
    /// Anything else; not for us.
    Unknown(u16),
}

impl Payload {
    const fn to_wire(self) -> u16 {
        match self {
            Self::Disco => 0x7a11,
            Self::WireGuard => 0x7a12,
            Self::Unknown(protocol) => protocol,
        }
    }

    const fn from_wire(protocol: u16) -> Self {
        match protocol {
            0x7a11 => Self::Disco,
            0x7a12 => Self::WireGuard,
            protocol => Self::Unknown(protocol),
        }
    }
}

/// One header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    /// Set on messages of the bind handshake alone.
    pub control: bool,
    /// What follows.
    pub payload: Payload,
    /// Which relay endpoint.
    pub vni: Vni,
}

impl Header {
    /// Header of data between two clients.
    #[must_use]
    pub const fn data(payload: Payload, vni: Vni) -> Self {
        Self { control: false, payload, vni }
    }

    /// Header of a handshake message between client and relay.
    #[must_use]
    pub const fn control(vni: Vni) -> Self {
        Self { control: true, payload: Payload::Disco, vni }
    }

    /// The bytes.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_LEN] {
        let [v0, v1, v2] = self.vni.to_bytes();
        let [p0, p1] = self.payload.to_wire().to_be_bytes();
        [0, if self.control { 0x80 } else { 0 }, p0, p1, v0, v1, v2, 0]
    }

    /// Splits the header off a datagram; `None` when it does not begin with one (path-selection.md §2).
    #[must_use]
    pub fn split(datagram: &[u8]) -> Option<(Self, &[u8])> {
        let (&[version, flags, p0, p1, v0, v1, v2, reserved], rest) = datagram.split_first_chunk()?;
        // Options are refused with the version: both must be zero, and so must the critical bit.
        if version != 0 || flags & 0x7f != 0 || reserved != 0 {
            return None;
        }
        let header = Self {
            control: flags & 0x80 != 0,
            payload: Payload::from_wire(u16::from_be_bytes([p0, p1])),
            vni: Vni::from_bytes([v0, v1, v2]),
        };
        Some((header, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_survives_the_round_trip() {
        arbtest::arbtest(|u| {
            let header = Header {
                control: u.arbitrary()?,
                payload: Payload::from_wire(u.arbitrary()?),
                vni: Vni::new(u.int_in_range(0..=Vni::MAX.get())?).unwrap(),
            };
            assert_eq!(Header::split(&header.encode()), Some((header, &[][..])));
            let bytes: [u8; 9] = u.arbitrary()?;
            if let Some((header, rest)) = Header::split(&bytes) {
                assert_eq!((header.encode().as_slice(), rest), (&bytes[..8], &bytes[8..]));
            }
            Ok(())
        });
    }
}
