//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use std::net::IpAddr;

/// A running one's-complement sum, not yet folded to 16 bits.
///
/// Parts must begin at an even offset of the summed data, as headers and pseudo headers do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// Adds `bytes`, padded with a zero byte when their count is odd.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        // WHY: native-endian 32-bit words into a 64-bit sum need no carry handling below 2^32 words;
        // the byte order is put right once, at the fold (RFC 1071 §2 B).
        let mut sum = 0u64;
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            let word = u64::from_ne_bytes(*word);
            sum += (word >> 32) + (word & 0xffff_ffff);
        }
        let (pairs, odd) = rest.as_chunks::<2>();
        for pair in pairs {
            sum += u64::from(u16::from_ne_bytes(*pair));
        }
        if let [last] = odd {
            sum += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        self.add_folded(fold(sum).to_be())
    }

    /// Adds one 16-bit word.
    #[must_use]
    pub fn word(self, word: u16) -> Self {
        self.add_folded(word)
    }

    /// Adds the pseudo header that TCP, UDP and ICMPv6 checksums cover (RFC 8200 §8.1).
    ///
    /// `len` is the length of the transport header and its payload in bytes.
    #[must_use]
    pub fn pseudo(self, src: IpAddr, dst: IpAddr, protocol: u8, len: u32) -> Self {
        let sum = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.bytes(&src.octets()).bytes(&dst.octets()),
            (src, dst) => self.bytes(&v6_octets(src)).bytes(&v6_octets(dst)),
        };
        sum.bytes(&len.to_be_bytes()).word(u16::from(protocol))
    }

    /// The checksum as it stands in a header: folded and inverted.
    #[must_use]
    pub fn finish(self) -> u16 {
        !fold(self.0)
    }

    fn add_folded(self, word: u16) -> Self {
        Self(self.0 + u64::from(word))
    }
}

/// The checksum of `bytes`, as for an IPv4 header or an ICMPv4 message.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::ZERO.bytes(bytes).finish()
}

/// The checksum after some covered bytes changed from `old` to `new` (RFC 1624, equation 3).
///
/// Both must begin at an even offset of the covered data.
#[must_use]
pub fn update(checksum: u16, old: &[u8], new: &[u8]) -> u16 {
    let removed = !fold(Sum::ZERO.bytes(old).0);
    Sum::ZERO.word(!checksum).word(removed).bytes(new).finish()
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

fn v6_octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_example_of_rfc_1071() {
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum(&data), !0xddf2);
    }

    #[test]
    fn fast_sum_equals_the_plain_one() {
        arbtest::arbtest(|u| {
            let bytes: Vec<u8> = u.arbitrary()?;
            let mut plain = 0u64;
            for pair in bytes.chunks(2) {
                plain += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            }
            assert_eq!(checksum(&bytes), !fold(plain));
            Ok(())
        });
    }

    #[test]
    fn update_equals_a_fresh_sum() {
        arbtest::arbtest(|u| {
            let mut bytes: Vec<u8> = u.arbitrary()?;
            bytes.resize(bytes.len().max(8), 1);
            let new: [u8; 4] = u.arbitrary()?;
            let before = checksum(&bytes);
            let old: [u8; 4] = [bytes[4], bytes[5], bytes[6], bytes[7]];
            bytes[4..8].copy_from_slice(&new);
            let (got, want) = (update(before, &old, &new), checksum(&bytes));
            // All-zero data has two equal representations.
            assert!(got == want || (got ^ want) == 0xffff && (got == 0 || want == 0));
            Ok(())
        });
    }
}
