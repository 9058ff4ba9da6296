//! The four datagrams of the WireGuard paper §5.4: sizes, layout, parsing.

use crate::primitives::TAG_LEN;

/// Bytes of a handshake initiation.
pub const INITIATION_LEN: usize = 148;
/// Bytes of a handshake response.
pub const RESPONSE_LEN: usize = 92;
/// Bytes of a cookie reply.
pub const COOKIE_REPLY_LEN: usize = 64;
/// Bytes before the payload of a data message.
pub const DATA_HEADER_LEN: usize = 16;
/// Bytes that a data message adds to its padded payload.
pub const DATA_OVERHEAD: usize = DATA_HEADER_LEN + TAG_LEN;

/// Bytes of the two MACs at the end of both handshake messages.
const MACS_LEN: usize = 32;

/// One datagram by its first four bytes; the lengths of handshake messages are exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    Initiation(&'a [u8; INITIATION_LEN]),
    Response(&'a [u8; RESPONSE_LEN]),
    CookieReply(&'a [u8; COOKIE_REPLY_LEN]),
    Data(DataHeader),
}

/// The clear part of a data message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataHeader {
    /// The receiver's session index.
    pub receiver: u32,
    pub counter: u64,
}

impl<'a> Message<'a> {
    /// Classifies `datagram`; `None` for anything that is no WireGuard message of a legal length.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (kind, _) = datagram.split_first_chunk::<4>()?;
        match u32::from_le_bytes(*kind) {
            1 => Some(Self::Initiation(datagram.try_into().ok()?)),
            2 => Some(Self::Response(datagram.try_into().ok()?)),
            3 => Some(Self::CookieReply(datagram.try_into().ok()?)),
            4 => DataHeader::parse(datagram).map(Self::Data),
            _ => None,
        }
    }
}

impl DataHeader {
    /// Reads the header of a data message that is at least as long as an empty one.
    #[inline]
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let (header, rest) = datagram.split_first_chunk::<DATA_HEADER_LEN>()?;
        if header[..4] != [4, 0, 0, 0] || rest.len() < TAG_LEN {
            return None;
        }
        Some(Self {
            receiver: u32::from_le_bytes(*header[4..].first_chunk()?),
            counter: u64::from_le_bytes(*header[8..].first_chunk()?),
        })
    }

    /// Writes the header.
    #[inline]
    pub fn write(self, out: &mut [u8; DATA_HEADER_LEN]) {
        out[..4].copy_from_slice(&[4, 0, 0, 0]);
        out[4..8].copy_from_slice(&self.receiver.to_le_bytes());
        out[8..].copy_from_slice(&self.counter.to_le_bytes());
    }
}

/// Copies `N` bytes from `offset`; the callers' arrays have fixed sizes, so the range always exists.
pub(crate) fn field<const N: usize>(message: &[u8], offset: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&message[offset..offset + N]);
    out
}

/// The two MACs at the end of a handshake message, and what each covers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Macs<'a> {
    pub(crate) under_mac1: &'a [u8],
    pub(crate) mac1: [u8; 16],
    pub(crate) under_mac2: &'a [u8],
    pub(crate) mac2: [u8; 16],
}

impl<'a> Macs<'a> {
    /// `None` when `message` has not the length of an initiation or a response.
    pub(crate) fn split(message: &'a [u8]) -> Option<Self> {
        if message.len() != INITIATION_LEN && message.len() != RESPONSE_LEN {
            return None;
        }
        let body = message.len() - MACS_LEN;
        Some(Self {
            under_mac1: &message[..body],
            mac1: field(message, body),
            under_mac2: &message[..body + 16],
            mac2: field(message, body + 16),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_exact() {
        for (kind, len) in [(1u8, INITIATION_LEN), (2, RESPONSE_LEN), (3, COOKIE_REPLY_LEN)] {
            let mut bytes = vec![0; len + 1];
            bytes[0] = kind;
            assert!(Message::parse(&bytes[..len]).is_some());
            assert!(Message::parse(&bytes[..len - 1]).is_none(), "short {kind}");
            assert!(Message::parse(&bytes).is_none(), "oversized {kind}");
        }
        let mut data = vec![0; 32];
        data[0] = 4;
        assert!(Message::parse(&data).is_some());
        assert!(Message::parse(&data[..31]).is_none());
        data[2] = 1;
        assert!(Message::parse(&data).is_none(), "reserved bytes are zero");
    }

    #[test]
    fn a_data_header_survives_the_wire() {
        let header = DataHeader { receiver: 0x0102_0304, counter: 1 << 40 };
        let mut bytes = [0; 32];
        header.write(bytes.first_chunk_mut().unwrap());
        assert_eq!(DataHeader::parse(&bytes), Some(header));
    }

    #[test]
    fn arbitrary_bytes_never_panic() {
        arbtest::arbtest(|u| {
            let bytes: Vec<u8> = u.arbitrary()?;
            let _parsed = Message::parse(&bytes);
            let _macs = Macs::split(&bytes);
            Ok(())
        });
    }
}
