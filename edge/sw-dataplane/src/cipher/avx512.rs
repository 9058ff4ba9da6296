//! ChaCha20-Poly1305 (RFC 8439) of up to sixteen equal packets at a time, with AVX-512.
//!
//! A lane is a block of key stream in [`chacha`] and a packet in [`poly`]; both work on a [`Group`]: at most sixteen
//! packets of one length in one buffer. The library remains the reference, and does single packets.
//!
//! Nothing here branches on, or addresses by, key, plaintext or tag; what does steer are lengths and counts, which
//! everybody on the wire can see.
#![expect(unsafe_code, reason = "vector loads and stores take pointers")]

mod chacha;
mod poly;

use std::arch::is_x86_feature_detected;
use sw_wg::{BatchCipher, Key, Layout, Library, TAG_LEN};

/// Packets of one group: a 16-lane call makes all their one-time keys.
const GROUP_MAX: usize = 16;
/// Fewer are faster with the library (measured on Zen 4: 1.15 times at two of 1,420 bytes, 2.1 times at two of 100).
const COUNT_MIN: usize = 4;

/// The cipher; a value of it exists only where the processor has every instruction used.
#[derive(Debug)]
pub(super) struct Avx512(());

static DETECTED: Avx512 = Avx512(());

impl Avx512 {
    pub(super) fn detect() -> Option<&'static dyn BatchCipher> {
        let has_all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512ifma")
            && is_x86_feature_detected!("avx512vbmi2");
        has_all.then_some(&DETECTED)
    }
}

/// Equal packets in one buffer.
#[derive(Clone, Copy)]
struct Group {
    // INVARIANT: for every i < count, `base + offsets[i]` begins `len + TAG_LEN` bytes that the caller of `seal` or
    // `open` lent out for writing, and no two of those ranges overlap.
    base: *mut u8,
    offsets: [u32; GROUP_MAX],
    counters: [u64; GROUP_MAX],
    count: usize,
    len: usize,
}

impl Group {
    /// Packets `first..first + 16` of a layout, as far as there are.
    fn of(buffer: &mut [u8], layout: Layout, counters: &[u64], first: usize) -> Self {
        let count = (layout.count() - first).min(GROUP_MAX);
        let mut group = Self {
            base: buffer.as_mut_ptr(),
            offsets: [0; GROUP_MAX],
            counters: [0; GROUP_MAX],
            count,
            len: layout.len(),
        };
        for i in 0..count {
            let offset = (first + i) * layout.stride();
            // Checked again here, where it matters: `Layout` was made for some buffer, this must be it.
            assert!(offset + layout.len() + TAG_LEN <= buffer.len());
            group.offsets[i] = u32::try_from(offset).expect("a batch is far below 4 GiB");
            group.counters[i] = counters[first + i];
        }
        group
    }

    /// Those packets whose bit is set.
    fn chosen(&self, bits: u64) -> Self {
        let mut chosen = Self { count: 0, ..*self };
        for i in (0..self.count).filter(|i| bits >> i & 1 == 1) {
            chosen.offsets[chosen.count] = self.offsets[i];
            chosen.counters[chosen.count] = self.counters[i];
            chosen.count += 1;
        }
        chosen
    }

    /// Where the tag of packet `i` stands.
    fn tag(&self, i: usize) -> *mut [u8; TAG_LEN] {
        debug_assert!(i < self.count);
        self.base.wrapping_add(self.offsets[i] as usize + self.len).cast()
    }
}

impl BatchCipher for Avx512 {
    fn seal(&self, key: &Key, buffer: &mut [u8], layout: Layout, counters: &[u64]) {
        if layout.count() < COUNT_MIN {
            return Library.seal(key, buffer, layout, counters);
        }
        let mut batch = Batch::new(key);
        for first in (0..layout.count()).step_by(GROUP_MAX) {
            let group = Group::of(buffer, layout, counters, first);
            // SAFETY: a value of this type exists, so the processor has the instructions; `group` is sound.
            unsafe { seal_group(&mut batch, &group) };
        }
    }

    fn open(&self, key: &Key, buffer: &mut [u8], layout: Layout, counters: &[u64]) -> u64 {
        if layout.count() < COUNT_MIN {
            return Library.open(key, buffer, layout, counters);
        }
        let mut batch = Batch::new(key);
        let mut genuine = 0;
        for first in (0..layout.count()).step_by(GROUP_MAX) {
            let group = Group::of(buffer, layout, counters, first);
            // SAFETY: as above.
            genuine |= unsafe { open_group(&mut batch, &group) } << first;
        }
        genuine
    }
}

/// What the groups of a batch use one after the other; all of it is secret.
struct Batch {
    key: [u32; 8],
    keys: [poly::Keys; 2],
    aside: chacha::Aside,
}

impl Batch {
    fn new(key: &Key) -> Self {
        let (words, _) = key.bytes().as_chunks::<4>();
        // SAFETY: a value of the cipher exists, so the processor has the instructions.
        let none = unsafe { poly::Keys::zero() };
        Self {
            key: std::array::from_fn(|i| u32::from_le_bytes(words[i])),
            keys: [none; 2],
            aside: chacha::Aside::zero(),
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // SAFETY: as in `new`.
        self.keys = [unsafe { poly::Keys::zero() }; 2];
        (self.key, self.aside) = ([0; 8], chacha::Aside::zero());
        // SAFETY: no instructions; the compiler must take the memory for used, so that the wiping stays.
        unsafe { std::arch::asm!("/* {} */", in(reg) self, options(nostack, preserves_flags)) };
    }
}

/// # Safety
/// The processor has the instructions, and the group's invariant holds.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
unsafe fn seal_group(batch: &mut Batch, group: &Group) {
    chacha::one_time_keys(&batch.key, group, &mut batch.keys);
    // SAFETY: the caller keeps the group's invariant.
    let tags = unsafe {
        chacha::xor(&batch.key, group, &mut batch.aside);
        poly::tags(group, &batch.keys)
    };
    for (i, tag) in tags.iter().enumerate().take(group.count) {
        // SAFETY: the tag's place is inside the packet's range.
        unsafe { group.tag(i).write_unaligned(*tag) };
    }
}

/// Bit `i` of the answer: packet `i` is genuine, and decrypted. Others are left as they came.
///
/// # Safety
/// The processor has the instructions, and the group's invariant holds.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
unsafe fn open_group(batch: &mut Batch, group: &Group) -> u64 {
    chacha::one_time_keys(&batch.key, group, &mut batch.keys);
    // SAFETY: the caller keeps the group's invariant.
    let tags = unsafe { poly::tags(group, &batch.keys) };
    let mut genuine = 0;
    for (i, tag) in tags.iter().enumerate().take(group.count) {
        // SAFETY: the tag's place is inside the packet's range.
        let theirs = unsafe { group.tag(i).read_unaligned() };
        let difference = u128::from_ne_bytes(theirs) ^ u128::from_ne_bytes(*tag);
        genuine |= u64::from(difference == 0) << i;
    }
    let all = (1 << group.count) - 1;
    // SAFETY: a choice of a group's packets is a sound group.
    unsafe {
        if genuine == all {
            chacha::xor(&batch.key, group, &mut batch.aside);
        } else if genuine != 0 {
            chacha::xor(&batch.key, &group.chosen(genuine), &mut batch.aside);
        }
    }
    genuine
}
