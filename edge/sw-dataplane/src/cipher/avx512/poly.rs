//! Poly1305 (RFC 8439 §2.5) with one packet per lane, eight lanes at a time.
//!
//! Numbers modulo 2¹³⁰−5 are three limbs of 44, 44 and 42 bits, as the 52-bit multiply-add wants them. Products of
//! limbs whose weights pass 2¹³⁰ wrap round with a factor 20 (2¹³² = 4·2¹³⁰, and 2¹³⁰ is 5).

use super::{Group, wipe};
use std::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_castsi512_si256, _mm512_cvtepu32_epi64,
    _mm512_extracti64x4_epi64, _mm512_loadu_si512, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64,
    _mm512_maskz_loadu_epi8, _mm512_or_si512, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_shrdi_epi64,
    _mm512_shuffle_i64x2, _mm512_slli_epi64, _mm512_srli_epi64, _mm512_storeu_si512, _mm512_unpackhi_epi64,
    _mm512_unpacklo_epi64,
};
use sw_wg::TAG_LEN;

const LANES: usize = 8;
const COLUMN_LEN: usize = 64;
const MASK_44: i64 = (1 << 44) - 1;
const MASK_42: i64 = (1 << 42) - 1;
/// The bit above every 16-byte block, in the highest limb.
const ABOVE_BLOCK: i64 = 1 << 40;

/// A number per lane.
type Number = [__m512i; 3];

/// A factor, with its upper limbs times 20 for the products that wrap.
#[derive(Clone, Copy)]
struct Factor {
    limbs: Number,
    wrapped: [__m512i; 2],
}

/// The one-time keys of eight packets.
#[derive(Clone, Copy)]
pub(super) struct Keys {
    /// r, r², r³, r⁴.
    powers: [Factor; 4],
    /// Added to the result: low and high half, by packet.
    pad: [[u64; LANES]; 2],
}

impl Keys {
    /// Keys of sixteen packets from the first eight words of their key streams' block 0.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
    pub(super) fn from_words(words: &[__m512i; 8]) -> [Self; 2] {
        let mut low = [_mm512_setzero_si512(); 8];
        let mut high = low;
        for (i, word) in words.iter().enumerate() {
            low[i] = _mm512_cvtepu32_epi64(_mm512_castsi512_si256(*word));
            high[i] = _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64::<1>(*word));
        }
        [Self::from_lanes(&low), Self::from_lanes(&high)]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
    fn from_lanes(words: &[__m512i; 8]) -> Self {
        let pair = |low: usize| _mm512_or_si512(words[low], _mm512_slli_epi64::<32>(words[low + 1]));
        // RFC 8439 §2.5: certain bits of r are cleared.
        let low = _mm512_and_si512(pair(0), _mm512_set1_epi64(0x0fff_fffc_0fff_ffff));
        let high = _mm512_and_si512(pair(2), _mm512_set1_epi64(0x0fff_fffc_0fff_fffc));
        let r = Factor::new(limbs(low, high));
        let mut powers = [r; 4];
        for i in 1..4 {
            let mut product = Product::zero();
            product.add(&powers[i - 1].limbs, &r);
            powers[i] = Factor::new(product.carry());
        }
        let mut pad = [[0; LANES]; 2];
        // SAFETY: each array has the 64 bytes.
        unsafe {
            _mm512_storeu_si512(pad[0].as_mut_ptr().cast(), pair(4));
            _mm512_storeu_si512(pad[1].as_mut_ptr().cast(), pair(6));
        }
        Self { powers, pad }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
    fn zero() -> Self {
        let zero = _mm512_setzero_si512();
        let none = Factor { limbs: [zero; 3], wrapped: [zero; 2] };
        Self { powers: [none; 4], pad: [[0; LANES]; 2] }
    }
}

impl Factor {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
    fn new(limbs: Number) -> Self {
        let times_20 = |v| _mm512_add_epi64(_mm512_slli_epi64::<4>(v), _mm512_slli_epi64::<2>(v));
        Self { limbs, wrapped: [times_20(limbs[1]), times_20(limbs[2])] }
    }
}

/// A sum of products: the low 52 bits of each, and what is above them, apart.
struct Product {
    low: Number,
    high: Number,
}

impl Product {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
    fn zero() -> Self {
        let zero = _mm512_setzero_si512();
        Self { low: [zero; 3], high: [zero; 3] }
    }

    /// Adds `number * factor`. Limbs of both must be below 2⁵², wrapped ones included.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
    fn add(&mut self, number: &Number, factor: &Factor) {
        let [n0, n1, n2] = *number;
        let ([f0, f1, f2], [w1, w2]) = (factor.limbs, factor.wrapped);
        for (i, [a, b, c]) in [[f0, w2, w1], [f1, f0, w2], [f2, f1, f0]].into_iter().enumerate() {
            let low = _mm512_madd52lo_epu64(self.low[i], n0, a);
            let low = _mm512_madd52lo_epu64(low, n1, b);
            self.low[i] = _mm512_madd52lo_epu64(low, n2, c);
            let high = _mm512_madd52hi_epu64(self.high[i], n0, a);
            let high = _mm512_madd52hi_epu64(high, n1, b);
            self.high[i] = _mm512_madd52hi_epu64(high, n2, c);
        }
    }

    /// The sum as limbs of 44, 44 and 42 bits and a little more.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
    fn carry(self) -> Number {
        let ([l0, l1, l2], [h0, h1, h2]) = (self.low, self.high);
        // 52 bits up is 8 bits up in the next limb; past the last limb it is 10 bits up, times 5.
        let wrapped = _mm512_add_epi64(_mm512_slli_epi64::<12>(h2), _mm512_slli_epi64::<10>(h2));
        let t0 = _mm512_add_epi64(l0, wrapped);
        let t1 = _mm512_add_epi64(l1, _mm512_slli_epi64::<8>(h0));
        let t2 = _mm512_add_epi64(l2, _mm512_slli_epi64::<8>(h1));
        let (mask_44, mask_42) = (_mm512_set1_epi64(MASK_44), _mm512_set1_epi64(MASK_42));
        let (c0, c1) = (_mm512_srli_epi64::<44>(t0), _mm512_srli_epi64::<44>(t1));
        let c2 = _mm512_srli_epi64::<42>(t2);
        let c2_times_5 = _mm512_add_epi64(c2, _mm512_slli_epi64::<2>(c2));
        [
            _mm512_add_epi64(_mm512_and_si512(t0, mask_44), c2_times_5),
            _mm512_add_epi64(_mm512_and_si512(t1, mask_44), c0),
            _mm512_add_epi64(_mm512_and_si512(t2, mask_42), c1),
        ]
    }
}

/// Sixteen bytes per lane as a number.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
fn limbs(low: __m512i, high: __m512i) -> Number {
    let mask_44 = _mm512_set1_epi64(MASK_44);
    [
        _mm512_and_si512(low, mask_44),
        _mm512_and_si512(_mm512_shrdi_epi64::<44>(low, high), mask_44),
        _mm512_srli_epi64::<24>(high),
    ]
}

/// Takes `N` blocks (words in pairs) into the sum, with one carry: (h+m₀)·rᴺ + m₁·rᴺ⁻¹ + …
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
fn absorb<const N: usize>(sum: &mut Number, keys: &Keys, words: &[[__m512i; 2]; N]) {
    let mut product = Product::zero();
    for (i, [low, high]) in words.iter().enumerate() {
        let mut block = limbs(*low, *high);
        block[2] = _mm512_or_si512(block[2], _mm512_set1_epi64(ABOVE_BLOCK));
        if i == 0 {
            for (limb, before) in block.iter_mut().zip(&*sum) {
                *limb = _mm512_add_epi64(*limb, *before);
            }
        }
        product.add(&block, &keys.powers[N - 1 - i]);
    }
    *sum = product.carry();
}

/// The tags of a group's packets, over their bytes as they are in the buffer. The keys are wiped.
///
/// # Safety
/// The group's invariant holds.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
pub(super) unsafe fn tags(group: &Group, keys: &mut [Keys; 2]) -> [[u8; TAG_LEN]; 2 * LANES] {
    let mut tags = [[0; TAG_LEN]; 2 * LANES];
    for (half, keys) in keys.iter().enumerate().take(group.count.div_ceil(LANES)) {
        // Idle lanes read packet 0 of the half again, and nobody asks for their result.
        let packets: [*const u8; LANES] = std::array::from_fn(|lane| {
            let i = half * LANES + if half * LANES + lane < group.count { lane } else { 0 };
            group.base.wrapping_add(group.offsets[i] as usize).cast_const()
        });
        // SAFETY: each pointer has `group.len` bytes of its packet behind it.
        let sum = unsafe { sum_of(&packets, group.len, keys) };
        finish(&sum, keys, &mut tags[half * LANES..]);
    }
    wipe(keys, [Keys::zero(); 2]);
    tags
}

/// # Safety
/// Every pointer has `len` readable bytes behind it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
unsafe fn sum_of(packets: &[*const u8; LANES], len: usize, keys: &Keys) -> Number {
    let zero = _mm512_setzero_si512();
    let mut sum = [zero; 3];
    let (columns, rest) = (len / COLUMN_LEN, len % COLUMN_LEN);
    for column in 0..columns {
        let mut rows = [zero; LANES];
        for (row, packet) in rows.iter_mut().zip(packets) {
            // SAFETY: the column is inside the packet.
            *row = unsafe { _mm512_loadu_si512(packet.wrapping_add(column * COLUMN_LEN).cast()) };
        }
        absorb(&mut sum, keys, &blocks(&rows));
    }
    // The additional data is empty, so the last block is the length alone.
    let length = [zero, _mm512_set1_epi64(len as i64)];
    let mut rows = [zero; LANES];
    for (row, packet) in rows.iter_mut().zip(packets) {
        // SAFETY: the mask lets only bytes inside the packet be read; the others are zero, as padding is.
        *row = unsafe {
            let mask = (1u64 << rest) - 1;
            _mm512_maskz_loadu_epi8(mask, packet.wrapping_add(columns * COLUMN_LEN).cast())
        };
    }
    let [a, b, c, d] = blocks(&rows);
    match rest.div_ceil(16) {
        0 => absorb(&mut sum, keys, &[length]),
        1 => absorb(&mut sum, keys, &[a, length]),
        2 => absorb(&mut sum, keys, &[a, b, length]),
        3 => absorb(&mut sum, keys, &[a, b, c, length]),
        _ => {
            absorb(&mut sum, keys, &[a, b, c, d]);
            absorb(&mut sum, keys, &[length]);
        }
    }
    sum
}

/// Turns a 64-byte column of eight packets into four blocks of eight lanes, each as low and high words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
fn blocks(rows: &[__m512i; LANES]) -> [[__m512i; 2]; 4] {
    let zero = _mm512_setzero_si512();
    // even[i] holds the even 64-bit words of packets 2i and 2i+1 in turn, odd[i] the odd ones.
    let (mut even, mut odd) = ([zero; 4], [zero; 4]);
    for i in 0..4 {
        even[i] = _mm512_unpacklo_epi64(rows[2 * i], rows[2 * i + 1]);
        odd[i] = _mm512_unpackhi_epi64(rows[2 * i], rows[2 * i + 1]);
    }
    let mut out = [[zero; 2]; 4];
    for (half, [a, b, c, d]) in [even, odd].into_iter().enumerate() {
        let (ab_low, ab_high) = (_mm512_shuffle_i64x2::<0x88>(a, b), _mm512_shuffle_i64x2::<0xdd>(a, b));
        let (cd_low, cd_high) = (_mm512_shuffle_i64x2::<0x88>(c, d), _mm512_shuffle_i64x2::<0xdd>(c, d));
        out[0][half] = _mm512_shuffle_i64x2::<0x88>(ab_low, cd_low);
        out[1][half] = _mm512_shuffle_i64x2::<0x88>(ab_high, cd_high);
        out[2][half] = _mm512_shuffle_i64x2::<0xdd>(ab_low, cd_low);
        out[3][half] = _mm512_shuffle_i64x2::<0xdd>(ab_high, cd_high);
    }
    out
}

/// Reduces every lane's sum fully, adds the pad and writes the tags.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
fn finish(sum: &Number, keys: &Keys, tags: &mut [[u8; TAG_LEN]]) {
    let mut limbs = [[0u64; LANES]; 3];
    for (lanes, limb) in limbs.iter_mut().zip(sum) {
        // SAFETY: the array has the 64 bytes.
        unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), *limb) };
    }
    for (lane, tag) in tags.iter_mut().enumerate().take(LANES) {
        let reduced = reduce(limbs[0][lane], limbs[1][lane], limbs[2][lane]);
        let pad = u128::from(keys.pad[0][lane]) | u128::from(keys.pad[1][lane]) << 64;
        *tag = reduced.wrapping_add(pad).to_le_bytes();
    }
}

/// The low 128 bits of a number after full reduction modulo 2¹³⁰−5, without branches.
fn reduce(mut a: u64, mut b: u64, mut c: u64) -> u128 {
    let (mask_44, mask_42) = (MASK_44 as u64, MASK_42 as u64);
    // Twice: the first round may leave one carry.
    for _ in 0..2 {
        b += a >> 44;
        a &= mask_44;
        c += b >> 44;
        b &= mask_44;
        a += 5 * (c >> 42);
        c &= mask_42;
    }
    b += a >> 44;
    a &= mask_44;
    // Subtracting the modulus is adding 5 and taking 2¹³⁰ away; the sign says which of the two is the answer.
    let mut d = a + 5;
    let mut e = b + (d >> 44);
    d &= mask_44;
    let f = c.wrapping_add(e >> 44).wrapping_sub(1 << 42);
    e &= mask_44;
    let take = (f >> 63).wrapping_sub(1);
    let pick = |kept: u64, less: u64| (kept & !take) | (less & take);
    let [a, b, c] = [pick(a, d), pick(b, e), pick(c, f)];
    u128::from(a) | u128::from(b) << 44 | u128::from(c) << 88
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reduction_at_the_edges_of_the_modulus() {
        let (m44, m42) = (MASK_44 as u64, MASK_42 as u64);
        // 2^130 - 5 - 1, the modulus, and up to 2^130 - 1.
        assert_eq!(reduce(m44 - 5, m44, m42), u128::MAX - 5);
        assert_eq!(reduce(m44 - 4, m44, m42), 0);
        assert_eq!(reduce(m44, m44, m42), 4);
        assert_eq!(reduce(0, 0, m42 + 1), 5, "2^130");
        assert_eq!(reduce(m44 + (1 << 20), m44, m42), 4 + (1 << 20), "a carry through all limbs");
    }
}
