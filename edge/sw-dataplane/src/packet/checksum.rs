//! The internet checksum over large buffers (RFC 1071), as fast as plain code gets.

/// Sums `bytes` into `start`; both are partial sums in network order, folded to 16 bits, not yet inverted.
#[inline]
pub(crate) fn sum(start: u16, bytes: &[u8]) -> u16 {
    // WHY: 32-byte steps of eight independent 32-bit words become vector adds; the sums cannot overflow 64 bits.
    let (blocks, rest) = bytes.as_chunks::<32>();
    let mut lanes = [0u64; 8];
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut total: u64 = lanes.iter().sum();
    let (words, rest) = rest.as_chunks::<2>();
    for word in words {
        total += u64::from(u16::from_ne_bytes(*word));
    }
    if let [last] = rest {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    // A one's complement sum may be taken in either byte order and swapped at the end.
    fold(u64::from(fold(total).to_be()) + u64::from(start))
}

/// The checksum field for data of this sum.
#[inline]
pub(crate) fn finish(sum: u16) -> u16 {
    !sum
}

/// The sum of the pseudo header (RFC 8200 §8.1, RFC 9293 §3.1): addresses, protocol, transport length.
#[inline]
pub(crate) fn pseudo(packet: &[u8], protocol: u8, transport_len: usize) -> u16 {
    let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
    let start = fold(u64::from(protocol) + transport_len as u64);
    sum(start, addresses)
}

#[inline]
fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_definition() {
        arbtest::arbtest(|u| {
            let (start, bytes): (u16, Vec<u8>) = u.arbitrary()?;
            let mut total = u64::from(start);
            for pair in bytes.chunks(2) {
                total += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            }
            while total > 0xffff {
                total = (total & 0xffff) + (total >> 16);
            }
            assert_eq!(sum(start, &bytes), total as u16);
            Ok(())
        });
    }
}
