//! A table of known flows that data threads share without locks.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Flows that a table holds; the longest unused one of its bucket makes room for a new one.
pub const FLOWS_MAX: usize = BUCKETS * WAYS;
const BUCKETS: usize = 4096;
const WAYS: usize = 8;

/// The two ends of a flow as a packet shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tuple {
    pub(crate) protocol: u8,
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) src_port: u16,
    pub(crate) dst_port: u16,
}

impl Tuple {
    /// Returns the tuple of the answer.
    pub(crate) fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port, ..self }
    }
}

#[derive(Debug, Default)]
struct Bucket {
    /// Fingerprints; 0 is free.
    marks: [AtomicU64; WAYS],
    /// When each was last used, by the table's own count of insertions.
    used: [AtomicU32; WAYS],
}

/// Multiplies and folds the halves of the product together: a keyed hash when the key is in both factors.
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

/// Known flows.
///
/// A flow is kept as a 64-bit fingerprint under a secret seed: that a foreign flow has the fingerprint of a
/// known one cannot be brought about from outside.
pub struct Flows {
    seed: [u64; 4],
    buckets: Box<[Bucket]>,
    insertions: AtomicU32,
}

impl std::fmt::Debug for Flows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flows").field("insertions", &self.insertions).finish_non_exhaustive()
    }
}

impl Flows {
    /// Makes an empty table; the seed is secret and random.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        let (words, _) = seed.as_chunks::<8>();
        let word = |at: usize| words.get(at).map_or(0, |bytes| u64::from_le_bytes(*bytes)) | 1;
        let buckets = std::iter::repeat_with(Bucket::default).take(BUCKETS).collect();
        Self { seed: [word(0), word(1), word(2), word(3)], buckets, insertions: AtomicU32::new(1) }
    }

    fn place(&self, tuple: &Tuple) -> (&Bucket, u64) {
        let [first, second, third, fourth] = self.seed;
        let ends =
            u64::from(tuple.protocol) << 32 | u64::from(tuple.src_port) << 16 | u64::from(tuple.dst_port);
        let hash = match (tuple.src, tuple.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let addresses = u64::from(src.to_bits()) << 32 | u64::from(dst.to_bits());
                mix(mix(addresses ^ first, ends ^ second) ^ third, addresses ^ fourth)
            }
            (src, dst) => {
                let half = |addr: IpAddr| {
                    let value = crate::atoms::number(addr).1;
                    mix((value >> 64) as u64 ^ first, value as u64 ^ second)
                };
                mix(mix(half(src) ^ third, half(dst).rotate_left(17) ^ fourth) ^ ends ^ second, !ends ^ first)
            }
        };
        let index = usize::try_from(hash >> 52).unwrap_or(0) % BUCKETS;
        let bucket = self.buckets.get(index).expect("the index is below the number of buckets");
        (bucket, hash.max(1))
    }

    /// Whether a flow is known; that counts as use.
    pub(crate) fn knows(&self, tuple: &Tuple) -> bool {
        let (bucket, mark) = self.place(tuple);
        let Some(way) = bucket.marks.iter().position(|own| own.load(Ordering::Relaxed) == mark) else {
            return false;
        };
        self.touch(bucket, way);
        true
    }

    fn touch(&self, bucket: &Bucket, way: usize) {
        let now = self.insertions.load(Ordering::Relaxed);
        if let Some(used) = bucket.used.get(way)
            && used.load(Ordering::Relaxed) != now
        {
            used.store(now, Ordering::Relaxed);
        }
    }

    /// Remembers a flow; whether it is new.
    pub(crate) fn learn(&self, tuple: &Tuple) -> bool {
        let (bucket, mark) = self.place(tuple);
        if let Some(way) = bucket.marks.iter().position(|own| own.load(Ordering::Relaxed) == mark) {
            self.touch(bucket, way);
            return false;
        }
        let now = self.insertions.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let age = |way: &usize| {
            let is_free = bucket.marks.get(*way).is_some_and(|mark| mark.load(Ordering::Relaxed) == 0);
            let used = bucket.used.get(*way).map_or(0, |used| used.load(Ordering::Relaxed));
            if is_free { u32::MAX } else { now.wrapping_sub(used) }
        };
        let Some(way) = (0..WAYS).max_by_key(age) else { return true };
        if let (Some(own), Some(used)) = (bucket.marks.get(way), bucket.used.get(way)) {
            own.store(mark, Ordering::Relaxed);
            used.store(now, Ordering::Relaxed);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(n: u32) -> Tuple {
        Tuple { protocol: 17, src: IpAddr::V4(n.into()), dst: IpAddr::V4(1.into()), src_port: 1, dst_port: 2 }
    }

    #[test]
    fn a_flow_in_use_outlives_any_number_of_others() {
        let flows = Flows::new([7; 32]);
        flows.learn(&tuple(0));
        for n in 1..200_000 {
            flows.learn(&tuple(n));
            assert!(flows.knows(&tuple(0)), "after {n}");
            assert!(flows.knows(&tuple(n)));
        }
        assert!(!flows.knows(&tuple(1)), "the oldest unused flows made room");
        assert!(!flows.knows(&tuple(0).reversed()));
    }
}
