//! Poly1305 (RFC 8439 §2.5) with one packet per lane, eight lanes at a time.
//!
//! Numbers modulo 2¹³⁰−5 are three limbs of 44, 44 and 42 bits, as the 52-bit multiply-add wants them. Products of
//! limbs whose weights pass 2¹³⁰ wrap round with a factor 20 (2¹³² = 4·2¹³⁰, and 2¹³⁰ is 5).

use super::Group;
use std::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_castsi512_si256, _mm512_cmplt_epu64_mask,
    _mm512_cvtepu32_epi64, _mm512_extracti64x4_epi64, _mm512_loadu_si512, _mm512_madd52hi_epu64,
    _mm512_madd52lo_epu64, _mm512_mask_add_epi64, _mm512_mask_mov_epi64, _mm512_maskz_loadu_epi8,
    _mm512_or_si512, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_shrdi_epi64, _mm512_shuffle_i64x2,
    _mm512_slli_epi64, _mm512_srli_epi64, _mm512_storeu_si512, _mm512_test_epi64_mask, _mm512_unpackhi_epi64,
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
    pad: [__m512i; 2],
}

impl Keys {
    /// Sets the keys of sixteen packets from the first eight words of their key streams' block 0.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
    pub(super) fn set(keys: &mut [Self; 2], words: &[__m512i; 8]) {
        let mut low = [_mm512_setzero_si512(); 8];
        let mut high = low;
        for (i, word) in words.iter().enumerate() {
            low[i] = _mm512_cvtepu32_epi64(_mm512_castsi512_si256(*word));
            high[i] = _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64::<1>(*word));
        }
        keys[0].set_lanes(&low);
        keys[1].set_lanes(&high);
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
    fn set_lanes(&mut self, words: &[__m512i; 8]) {
        let pair = |low: usize| _mm512_or_si512(words[low], _mm512_slli_epi64::<32>(words[low + 1]));
        // RFC 8439 §2.5: certain bits of r are cleared.
        let low = _mm512_and_si512(pair(0), _mm512_set1_epi64(0x0fff_fffc_0fff_ffff));
        let high = _mm512_and_si512(pair(2), _mm512_set1_epi64(0x0fff_fffc_0fff_fffc));
        let r = Factor::new(limbs(low, high));
        let mut power = r;
        self.powers[0] = r;
        for next in &mut self.powers[1..] {
            let mut product = Product::zero();
            product.add(&power.limbs, &r);
            power = Factor::new(product.carry());
            *next = power;
        }
        self.pad = [pair(4), pair(6)];
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
    pub(super) fn zero() -> Self {
        let zero = _mm512_setzero_si512();
        let none = Factor { limbs: [zero; 3], wrapped: [zero; 2] };
        Self { powers: [none; 4], pad: [zero; 2] }
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
    // WHY backwards: only the first block waits for the sum so far.
    for (i, [low, high]) in words.iter().enumerate().rev() {
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

/// The tags of a group's packets, over their bytes as they are in the buffer.
///
/// # Safety
/// The group's invariant holds.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
pub(super) unsafe fn tags(group: &Group, keys: &[Keys; 2]) -> [[u8; TAG_LEN]; 2 * LANES] {
    let mut tags = [[0; TAG_LEN]; 2 * LANES];
    // SAFETY: the caller keeps the group's invariant.
    unsafe {
        if group.count > LANES {
            halves::<2>(group, keys, &mut tags);
        } else {
            halves::<1>(group, keys, &mut tags);
        }
    }
    tags
}

/// The tags of eight packets, or of sixteen side by side: eight alone wait for their own products.
///
/// # Safety
/// The group's invariant holds.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
unsafe fn halves<const H: usize>(group: &Group, keys: &[Keys; 2], tags: &mut [[u8; TAG_LEN]; 2 * LANES]) {
    let zero = _mm512_setzero_si512();
    // Idle lanes read packet 0 of the group again, and nobody asks for their result.
    let packets: [[*const u8; LANES]; H] = std::array::from_fn(|half| {
        std::array::from_fn(|lane| {
            let i = half * LANES + lane;
            let i = if i < group.count { i } else { 0 };
            group.base.wrapping_add(group.offsets[i] as usize).cast_const()
        })
    });
    let mut sums = [[zero; 3]; H];
    let (columns, rest) = (group.len / COLUMN_LEN, group.len % COLUMN_LEN);
    for column in 0..columns {
        for half in 0..H {
            // SAFETY: the column is inside each packet.
            let rows = unsafe { column_of(&packets[half], column, u64::MAX) };
            absorb(&mut sums[half], &keys[half], &blocks(&rows));
        }
    }
    // The additional data is empty, so the last block is the length alone.
    let length = [zero, _mm512_set1_epi64(group.len as i64)];
    for half in 0..H {
        let (sum, keys) = (&mut sums[half], &keys[half]);
        // SAFETY: the mask lets only bytes inside the packet be read; the others are zero, as padding is.
        let [a, b, c, d] = blocks(&unsafe { column_of(&packets[half], columns, (1 << rest) - 1) });
        match rest.div_ceil(16) {
            0 => absorb(sum, keys, &[length]),
            1 => absorb(sum, keys, &[a, length]),
            2 => absorb(sum, keys, &[a, b, length]),
            3 => absorb(sum, keys, &[a, b, c, length]),
            _ => {
                absorb(sum, keys, &[a, b, c, d]);
                absorb(sum, keys, &[length]);
            }
        }
        finish(sum, keys, &mut tags[half * LANES..]);
    }
}

/// Bytes `64 * column..` of eight packets, as far as `mask` says.
///
/// # Safety
/// Every pointer has those bytes behind it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
unsafe fn column_of(packets: &[*const u8; LANES], column: usize, mask: u64) -> [__m512i; LANES] {
    let mut rows = [_mm512_setzero_si512(); LANES];
    for (row, packet) in rows.iter_mut().zip(packets) {
        let at = packet.wrapping_add(column * COLUMN_LEN);
        // SAFETY: the caller vouches for the bytes of the mask, and no others are read.
        *row = unsafe {
            if mask == u64::MAX {
                _mm512_loadu_si512(at.cast())
            } else {
                _mm512_maskz_loadu_epi8(mask, at.cast())
            }
        };
    }
    rows
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
    let [low, high] = reduce(sum);
    let low = _mm512_add_epi64(low, keys.pad[0]);
    let carry = _mm512_cmplt_epu64_mask(low, keys.pad[0]);
    let high = _mm512_add_epi64(high, keys.pad[1]);
    let high = _mm512_mask_add_epi64(high, carry, high, _mm512_set1_epi64(1));
    let mut words = [[0u64; LANES]; 2];
    for (lanes, word) in words.iter_mut().zip([low, high]) {
        // SAFETY: the array has the 64 bytes.
        unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), word) };
    }
    for (lane, tag) in tags.iter_mut().enumerate().take(LANES) {
        let tag_value = u128::from(words[0][lane]) | u128::from(words[1][lane]) << 64;
        *tag = tag_value.to_le_bytes();
    }
}

/// The low 128 bits of every lane after full reduction modulo 2¹³⁰−5, as two words.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
fn reduce(sum: &Number) -> [__m512i; 2] {
    let (mask_44, mask_42) = (_mm512_set1_epi64(MASK_44), _mm512_set1_epi64(MASK_42));
    let [mut a, mut b, mut c] = *sum;
    // Twice: the first round may leave one carry.
    for _ in 0..2 {
        b = _mm512_add_epi64(b, _mm512_srli_epi64::<44>(a));
        a = _mm512_and_si512(a, mask_44);
        c = _mm512_add_epi64(c, _mm512_srli_epi64::<44>(b));
        b = _mm512_and_si512(b, mask_44);
        let over = _mm512_srli_epi64::<42>(c);
        a = _mm512_add_epi64(a, _mm512_add_epi64(over, _mm512_slli_epi64::<2>(over)));
        c = _mm512_and_si512(c, mask_42);
    }
    b = _mm512_add_epi64(b, _mm512_srli_epi64::<44>(a));
    a = _mm512_and_si512(a, mask_44);
    // Subtracting the modulus is adding 5 and taking 2¹³⁰ away: bit 42 of the top limb tells which of the two is
    // the answer.
    let mut d = _mm512_add_epi64(a, _mm512_set1_epi64(5));
    let mut e = _mm512_add_epi64(b, _mm512_srli_epi64::<44>(d));
    d = _mm512_and_si512(d, mask_44);
    let f = _mm512_add_epi64(c, _mm512_srli_epi64::<44>(e));
    e = _mm512_and_si512(e, mask_44);
    let take = _mm512_test_epi64_mask(f, _mm512_set1_epi64(1 << 42));
    let a = _mm512_mask_mov_epi64(a, take, d);
    let b = _mm512_mask_mov_epi64(b, take, e);
    let c = _mm512_mask_mov_epi64(c, take, f);
    [
        _mm512_or_si512(a, _mm512_slli_epi64::<44>(b)),
        _mm512_or_si512(_mm512_srli_epi64::<20>(b), _mm512_slli_epi64::<24>(c)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
    fn reduced(a: i64, b: i64, c: i64) -> u128 {
        let mut words = [[0u64; LANES]; 2];
        let number = [a, b, c].map(|limb| _mm512_set1_epi64(limb));
        for (word, vector) in words.iter_mut().zip(reduce(&number)) {
            // SAFETY: the array has the 64 bytes.
            unsafe { _mm512_storeu_si512(word.as_mut_ptr().cast(), vector) };
        }
        assert!(words.iter().all(|word| word.iter().all(|lane| *lane == word[0])));
        u128::from(words[0][0]) | u128::from(words[1][0]) << 64
    }

    #[test]
    fn reduction_at_the_edges_of_the_modulus() {
        if crate::cipher::multi_buffer().is_none() {
            println!("skipped: this processor lacks AVX-512 with IFMA and VBMI2");
            return;
        }
        // SAFETY: asked for just above.
        let reduced = |a, b, c| unsafe { reduced(a, b, c) };
        let (m44, m42) = (MASK_44, MASK_42);
        // 2^130 - 5 - 1, the modulus, and up to 2^130 - 1.
        assert_eq!(reduced(m44 - 5, m44, m42), u128::MAX - 5);
        assert_eq!(reduced(m44 - 4, m44, m42), 0);
        assert_eq!(reduced(m44, m44, m42), 4);
        assert_eq!(reduced(0, 0, m42 + 1), 5, "2^130");
        assert_eq!(reduced(m44 + (1 << 20), m44, m42), 4 + (1 << 20), "a carry through all limbs");
    }

    /// The largest r and pad there are, and messages that are all ones, all zeros or nearly the modulus.
    #[test]
    fn the_largest_key_with_messages_at_the_edges() {
        if crate::cipher::multi_buffer().is_none() {
            println!("skipped: this processor lacks AVX-512 with IFMA and VBMI2");
            return;
        }
        for len in [0, 1, 15, 16, 17, 47, 48, 63, 64, 65, 128, 1420, 9000] {
            for (fill, first) in [(0xff, 0xff), (0, 0), (0xff, 0xfb), (0xff, 0), (0, 0xfa)] {
                for count in [3, 8, 9, 16] {
                    check_largest_key(len, fill, first, count);
                }
            }
        }
    }

    fn check_largest_key(len: usize, fill: u8, first: u8, count: usize) {
        let stride = len + TAG_LEN;
        let mut buffer = vec![fill; stride * count];
        for block in buffer.chunks_mut(16) {
            block[0] = first;
        }
        let layout = sw_wg::Layout::new(&buffer, stride, len, count);
        let group = Group::of(&mut buffer, layout, &vec![0; count], 0);
        // SAFETY: the caller asked for the instructions; the group is of this buffer.
        let tags = unsafe {
            let mut keys = [Keys::zero(); 2];
            Keys::set(&mut keys, &[_mm512_set1_epi64(-1); 8]);
            tags(&group, &keys)
        };
        for (packet, tag) in buffer.chunks(stride).zip(tags) {
            let mut text = packet[..len].to_vec();
            text.resize(len.next_multiple_of(16), 0);
            text.extend([0; 8]);
            text.extend((len as u64).to_le_bytes());
            let expected = crate::cipher::tests::slow_poly(&[0xff; 32], &text);
            assert_eq!(tag, expected, "len {len} fill {fill} first {first} count {count}");
        }
    }
}
