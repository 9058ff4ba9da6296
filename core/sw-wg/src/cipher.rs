//! ChaCha20-Poly1305 over a batch of equal packets.
//!
//! The pipeline holds its packets as one buffer with equal strides (the segments of a GSO send or of a GRO
//! receive), so that is the shape of the interface: one key, one buffer, stride, length and one counter per packet.
//! [`Library`] does it one packet after the other; a multi-buffer cipher may stand in for it.

use crate::primitives::TAG_LEN;
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

/// Most packets in one call: one bit each in the answer of `open`.
pub const BATCH_MAX: usize = 64;

/// One direction's key of a session, in the forms the ciphers need.
pub struct Key {
    bytes: Zeroizing<[u8; 32]>,
    aead: LessSafeKey,
}

impl Key {
    pub fn new(bytes: [u8; 32]) -> Self {
        let bytes = Zeroizing::new(bytes);
        let aead = LessSafeKey::new(
            UnboundKey::new(&CHACHA20_POLY1305, bytes.as_slice()).expect("the key has 32 bytes"),
        );
        Self { bytes, aead }
    }

    /// The raw key, for ciphers that schedule it themselves.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// Seals one packet in place; `packet` ends with room for the tag.
    #[inline]
    pub fn seal(&self, counter: u64, packet: &mut [u8]) {
        let (body, tag_room) = packet.split_at_mut(packet.len() - TAG_LEN);
        let tag = self
            .aead
            .seal_in_place_separate_tag(nonce(counter), Aad::empty(), body)
            .expect("a datagram is far below the cipher's limit");
        tag_room.copy_from_slice(tag.as_ref());
    }

    /// Opens one packet in place; true when the tag at its end is right. A forged packet's bytes are
    /// unspecified afterwards.
    #[inline]
    pub fn open(&self, counter: u64, packet: &mut [u8]) -> bool {
        self.aead.open_in_place(nonce(counter), Aad::empty(), packet).is_ok()
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(***)")
    }
}

/// Where the packets of a batch lie: packet `i` is `buffer[i * stride..]`, `len` bytes and then the tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    stride: usize,
    len: usize,
    count: usize,
}

impl Layout {
    /// Checks a layout against the buffer it is for.
    ///
    /// # Panics
    /// When packets would overlap, the last would end behind the buffer, or there are more than [`BATCH_MAX`]:
    /// each is a fault of the caller.
    pub fn new(buffer: &[u8], stride: usize, len: usize, count: usize) -> Self {
        assert!(count <= BATCH_MAX && len.checked_add(TAG_LEN).is_some_and(|end| end <= stride));
        let end = count.checked_sub(1).map_or(Some(0), |last| {
            last.checked_mul(stride).and_then(|start| start.checked_add(len + TAG_LEN))
        });
        assert!(end.is_some_and(|end| end <= buffer.len()));
        Self { stride, len, count }
    }

    pub fn stride(self) -> usize {
        self.stride
    }

    pub fn len(self) -> usize {
        self.len
    }

    pub fn is_empty(self) -> bool {
        self.count == 0
    }

    pub fn count(self) -> usize {
        self.count
    }
}

/// Seals and opens batches. `counters` has one entry per packet.
pub trait BatchCipher: Send + Sync + std::fmt::Debug {
    /// Seals every packet in place and writes the tags.
    fn seal(&self, key: &Key, buffer: &mut [u8], layout: Layout, counters: &[u64]);

    /// Opens every packet in place; bit `i` of the answer: packet `i` is genuine.
    fn open(&self, key: &Key, buffer: &mut [u8], layout: Layout, counters: &[u64]) -> u64;
}

/// One packet after the other through aws-lc-rs: the reference and the fallback.
#[derive(Clone, Copy, Debug, Default)]
pub struct Library;

impl BatchCipher for Library {
    fn seal(&self, key: &Key, buffer: &mut [u8], layout: Layout, counters: &[u64]) {
        let packets = buffer.chunks_mut(layout.stride).zip(counters).take(layout.count);
        for (packet, counter) in packets {
            key.seal(*counter, &mut packet[..layout.len + TAG_LEN]);
        }
    }

    fn open(&self, key: &Key, buffer: &mut [u8], layout: Layout, counters: &[u64]) -> u64 {
        let packets = buffer.chunks_mut(layout.stride).zip(counters).take(layout.count);
        let mut genuine = 0;
        for (i, (packet, counter)) in packets.enumerate() {
            let ok = key.open(*counter, &mut packet[..layout.len + TAG_LEN]);
            genuine |= u64::from(ok) << i;
        }
        genuine
    }
}

/// Four zero bytes, then the counter (WireGuard paper §5.4.6).
fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_opens_with_one_bit_per_packet() {
        let key = Key::new([3; 32]);
        let (stride, len, count) = (100, 60, 5);
        let mut buffer = vec![7; stride * count];
        let layout = Layout::new(&buffer, stride, len, count);
        let counters = [1, 2, 1 << 33, 4, 5];
        Library.seal(&key, &mut buffer, layout, &counters);
        buffer[2 * stride + 3] ^= 1;
        assert_eq!(Library.open(&key, &mut buffer, layout, &counters), 0b11011);
        assert_eq!(buffer[..len], [7; 60]);
        assert_eq!(buffer[len + TAG_LEN..stride], [7; 24], "nothing between packets changes");
    }

    #[test]
    #[should_panic(expected = "assertion")]
    fn overlapping_packets_are_a_fault() {
        let _layout = Layout::new(&[0; 100], 31, 16, 2);
    }

    #[test]
    #[should_panic(expected = "assertion")]
    fn a_packet_behind_the_buffer_is_a_fault() {
        let _layout = Layout::new(&[0; 95], 48, 32, 2);
    }
}
