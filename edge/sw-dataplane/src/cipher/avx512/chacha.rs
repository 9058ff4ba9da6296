//! ChaCha20 with one block of key stream per lane (RFC 8439 §2.3).

use super::poly::Keys;
use super::{GROUP_MAX, Group};
use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_cmpeq_epu32_mask, _mm512_cmpge_epu32_mask, _mm512_cmplt_epu32_mask,
    _mm512_loadu_si512, _mm512_mask_add_epi32, _mm512_mask_sub_epi32, _mm512_permutexvar_epi32,
    _mm512_rol_epi32, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_shuffle_i32x4, _mm512_slli_epi32,
    _mm512_storeu_si512, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64, _mm512_xor_si512,
};

const BLOCK_LEN: usize = 64;
/// "expand 32-byte k" as little-endian words.
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];
const DOUBLE_ROUNDS: usize = 10;

/// Word `i` of the state of every lane.
type State = [__m512i; 16];

/// What differs between the lanes of a state.
#[derive(Clone, Copy)]
struct Inputs {
    block: __m512i,
    nonce_low: __m512i,
    nonce_high: __m512i,
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
fn state(key: &[u32; 8], inputs: &Inputs) -> State {
    let mut state = [_mm512_setzero_si512(); 16];
    for (i, constant) in CONSTANTS.iter().enumerate() {
        state[i] = _mm512_set1_epi32(*constant as i32);
    }
    for (i, word) in key.iter().enumerate() {
        state[4 + i] = _mm512_set1_epi32(*word as i32);
    }
    state[12] = inputs.block;
    // Word 13 is the zero half of WireGuard's nonce.
    state[14] = inputs.nonce_low;
    state[15] = inputs.nonce_high;
    state
}

/// One of the four steps of a quarter round, on four columns (or diagonals) of each state: `a += b; c = (c ^ a) <<< n`.
///
/// WHY in this order: column by column a processor that splits 512-bit operations (Zen 4) took 7 % longer.
macro_rules! step {
    ($n:literal, [$($s:ident),+], $columns:tt) => {
        $(step!(@ $n, $s, $columns);)+
    };
    (@ $n:literal, $s:ident, [$($a:literal $b:literal $c:literal),+]) => {
        $($s[$a] = _mm512_add_epi32($s[$a], $s[$b]);)+
        $($s[$c] = _mm512_xor_si512($s[$c], $s[$a]);)+
        $($s[$c] = _mm512_rol_epi32::<$n>($s[$c]);)+
    };
}

/// The same double round in each of the states given, side by side: one state alone waits for its own results.
macro_rules! double_round {
    ($($s:ident),+) => {
        step!(16, [$($s),+], [0 4 12, 1 5 13, 2 6 14, 3 7 15]);
        step!(12, [$($s),+], [8 12 4, 9 13 5, 10 14 6, 11 15 7]);
        step!(8, [$($s),+], [0 4 12, 1 5 13, 2 6 14, 3 7 15]);
        step!(7, [$($s),+], [8 12 4, 9 13 5, 10 14 6, 11 15 7]);
        step!(16, [$($s),+], [0 5 15, 1 6 12, 2 7 13, 3 4 14]);
        step!(12, [$($s),+], [10 15 5, 11 12 6, 8 13 7, 9 14 4]);
        step!(8, [$($s),+], [0 5 15, 1 6 12, 2 7 13, 3 4 14]);
        step!(7, [$($s),+], [10 15 5, 11 12 6, 8 13 7, 9 14 4]);
    };
}

/// Adds the input state, which ends a block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
fn finish(mut mixed: State, key: &[u32; 8], inputs: &Inputs) -> State {
    for (word, input) in mixed.iter_mut().zip(state(key, inputs)) {
        *word = _mm512_add_epi32(*word, input);
    }
    mixed
}

/// Sets the Poly1305 keys of every packet of the group: its key stream's block 0 (RFC 8439 §2.6), lane = packet.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
pub(super) fn one_time_keys(key: &[u32; 8], group: &Group, keys: &mut [Keys; 2]) {
    let (nonce_low, nonce_high) = nonces(group);
    let inputs = Inputs { block: _mm512_setzero_si512(), nonce_low, nonce_high };
    let mut s = state(key, &inputs);
    for _ in 0..DOUBLE_ROUNDS {
        double_round!(s);
    }
    let words = finish(s, key, &inputs);
    Keys::set(keys, words.first_chunk().expect("sixteen words hold eight"));
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
fn nonces(group: &Group) -> (__m512i, __m512i) {
    let low = group.counters.map(|counter| counter as u32);
    let high = group.counters.map(|counter| (counter >> 32) as u32);
    (load(&low), load(&high))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
fn load(words: &[u32; 16]) -> __m512i {
    // SAFETY: the array has the 64 bytes.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

/// Walks over the blocks of a group's packets as one list: sixteen at a time, whichever packets they belong to.
struct Walk {
    /// Of every lane: which packet, and which block of it.
    packet: __m512i,
    block: __m512i,
    // Per packet:
    nonce_low: __m512i,
    nonce_high: __m512i,
    offset: __m512i,
    blocks_per_packet: usize,
    count: usize,
    /// Whether the last block of a packet is short.
    has_tail: bool,
    left: usize,
}

/// Sixteen blocks: what their key stream is made from, and where it goes.
#[derive(Clone, Copy)]
struct Step {
    inputs: Inputs,
    /// Where each lane's bytes begin, behind the group's base.
    offsets: [u32; 16],
    /// Lanes whose block is whole.
    whole: u16,
    /// Lanes whose block is short.
    tail: u16,
}

impl Walk {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
    fn new(group: &Group) -> Self {
        let (nonce_low, nonce_high) = nonces(group);
        let blocks_per_packet = group.len.div_ceil(BLOCK_LEN);
        let mut walk = Self {
            packet: _mm512_setzero_si512(),
            block: load(&std::array::from_fn(|lane| lane as u32)),
            nonce_low,
            nonce_high,
            offset: load(&group.offsets),
            blocks_per_packet,
            count: group.count,
            has_tail: !group.len.is_multiple_of(BLOCK_LEN),
            left: group.count * blocks_per_packet,
        };
        if walk.left > 0 {
            walk.carry();
        }
        walk
    }

    /// Moves lanes that ran past the end of their packet into the next ones.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
    fn carry(&mut self) {
        let per_packet = _mm512_set1_epi32(self.blocks_per_packet as i32);
        loop {
            let past = _mm512_cmpge_epu32_mask(self.block, per_packet);
            if past == 0 {
                break;
            }
            self.block = _mm512_mask_sub_epi32(self.block, past, self.block, per_packet);
            self.packet = _mm512_mask_add_epi32(self.packet, past, self.packet, _mm512_set1_epi32(1));
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
    fn next(&mut self) -> Step {
        let following = _mm512_add_epi32(self.block, _mm512_set1_epi32(1));
        let is_live = _mm512_cmplt_epu32_mask(self.packet, _mm512_set1_epi32(self.count as i32));
        let is_last = _mm512_cmpeq_epu32_mask(following, _mm512_set1_epi32(self.blocks_per_packet as i32));
        let tail = if self.has_tail { is_last & is_live } else { 0 };
        let start = _mm512_permutexvar_epi32(self.packet, self.offset);
        let offsets = _mm512_add_epi32(start, _mm512_slli_epi32::<6>(self.block));
        let mut step = Step {
            inputs: Inputs {
                // Block 0 is the one-time key's.
                block: following,
                nonce_low: _mm512_permutexvar_epi32(self.packet, self.nonce_low),
                nonce_high: _mm512_permutexvar_epi32(self.packet, self.nonce_high),
            },
            offsets: [0; 16],
            whole: is_live & !tail,
            tail,
        };
        // SAFETY: the array has the 64 bytes.
        unsafe { _mm512_storeu_si512(step.offsets.as_mut_ptr().cast(), offsets) };
        self.left = self.left.saturating_sub(16);
        self.block = _mm512_add_epi32(self.block, _mm512_set1_epi32(16));
        self.carry();
        step
    }
}

/// Key stream that does not go straight to a packet: of short and of idle lanes.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Aside([[u8; BLOCK_LEN]; 16]);

impl Aside {
    pub(super) fn zero() -> Self {
        Self([[0; BLOCK_LEN]; 16])
    }
}

/// Encrypts or decrypts every packet of the group in place.
///
/// # Safety
/// The group's invariant holds.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
pub(super) unsafe fn xor(key: &[u32; 8], group: &Group, aside: &mut Aside) {
    let mut walk = Walk::new(group);
    while walk.left > 16 {
        // WHY before the rounds: the lane offsets are stored as a vector and read as words, which stalls when the
        // one follows the other at once.
        let (first, second) = (walk.next(), walk.next());
        let (mut s, mut t) = (state(key, &first.inputs), state(key, &second.inputs));
        for _ in 0..DOUBLE_ROUNDS {
            double_round!(s, t);
        }
        // SAFETY: the steps come from this group.
        unsafe {
            apply(&finish(s, key, &first.inputs), &first, group, aside);
            apply(&finish(t, key, &second.inputs), &second, group, aside);
        }
    }
    if walk.left > 0 {
        let last = walk.next();
        let mut s = state(key, &last.inputs);
        for _ in 0..DOUBLE_ROUNDS {
            double_round!(s);
        }
        // SAFETY: the step comes from this group.
        unsafe { apply(&finish(s, key, &last.inputs), &last, group, aside) };
    }
}

/// Xors sixteen blocks of key stream onto the packets.
///
/// # Safety
/// The group's invariant holds and `step` was made from it: a whole lane's offset has 64 bytes of its packet behind
/// it, a tail lane's `len % 64`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
unsafe fn apply(stream: &State, step: &Step, group: &Group, aside: &mut Aside) {
    let blocks = transpose(stream);
    for (lane, block) in blocks.iter().enumerate() {
        let in_packet = group.base.wrapping_add(step.offsets[lane] as usize);
        let beside = aside.0[lane].as_mut_ptr();
        // A choice of address and not of path: which lanes are whole changes from step to step.
        let at = if step.whole >> lane & 1 == 1 { in_packet } else { beside };
        // SAFETY: 64 bytes inside a packet, or a row of `aside`.
        unsafe {
            let data = _mm512_loadu_si512(at.cast_const().cast());
            _mm512_storeu_si512(at.cast(), _mm512_xor_si512(data, *block));
        }
    }
    let mut others = !step.whole;
    let tail_len = group.len % BLOCK_LEN;
    while others != 0 {
        let lane = others.trailing_zeros() as usize;
        others &= others - 1;
        let row = &mut aside.0[lane];
        if step.tail >> lane & 1 == 1 {
            let at = group.base.wrapping_add(step.offsets[lane] as usize);
            // SAFETY: a tail lane has this many bytes of its packet behind its offset, and nobody else refers to
            // them.
            let tail = unsafe { std::slice::from_raw_parts_mut(at, tail_len) };
            xor_short(tail, row);
        }
        *row = [0; BLOCK_LEN];
    }
}

/// Xors fewer than 64 bytes, in pieces of falling size (byte-masked stores are slow on some processors).
#[inline]
fn xor_short(data: &mut [u8], stream: &[u8; BLOCK_LEN]) {
    let (wide, rest) = data.as_chunks_mut::<16>();
    let (wide_stream, _) = stream.as_chunks::<16>();
    for (piece, key) in wide.iter_mut().zip(wide_stream) {
        *piece = (u128::from_ne_bytes(*piece) ^ u128::from_ne_bytes(*key)).to_ne_bytes();
    }
    let done = wide.len() * 16;
    let (words, bytes) = rest.as_chunks_mut::<4>();
    let (word_stream, _) = stream[done..].as_chunks::<4>();
    for (piece, key) in words.iter_mut().zip(word_stream) {
        *piece = (u32::from_ne_bytes(*piece) ^ u32::from_ne_bytes(*key)).to_ne_bytes();
    }
    let done = done + words.len() * 4;
    for (byte, key) in bytes.iter_mut().zip(&stream[done..]) {
        *byte ^= key;
    }
}

/// Turns sixteen words of sixteen lanes into sixteen blocks, each a lane's words in order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
fn transpose(rows: &State) -> State {
    let zero = _mm512_setzero_si512();
    // Within every 128-bit quarter q: words 4g..4g+4 of lane 4q+j, in quarters[4g+j].
    let mut quarters = [zero; 16];
    for g in 0..4 {
        let [a, b, c, d] = [rows[4 * g], rows[4 * g + 1], rows[4 * g + 2], rows[4 * g + 3]];
        let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        quarters[4 * g] = _mm512_unpacklo_epi64(ab_low, cd_low);
        quarters[4 * g + 1] = _mm512_unpackhi_epi64(ab_low, cd_low);
        quarters[4 * g + 2] = _mm512_unpacklo_epi64(ab_high, cd_high);
        quarters[4 * g + 3] = _mm512_unpackhi_epi64(ab_high, cd_high);
    }
    let mut blocks = [zero; 16];
    for j in 0..4 {
        let [a, b, c, d] = [quarters[j], quarters[4 + j], quarters[8 + j], quarters[12 + j]];
        // Even and odd quarters of pairs, then again: a 4 by 4 transposition of quarters.
        let ab_even = _mm512_shuffle_i32x4::<0x88>(a, b);
        let ab_odd = _mm512_shuffle_i32x4::<0xdd>(a, b);
        let cd_even = _mm512_shuffle_i32x4::<0x88>(c, d);
        let cd_odd = _mm512_shuffle_i32x4::<0xdd>(c, d);
        blocks[j] = _mm512_shuffle_i32x4::<0x88>(ab_even, cd_even);
        blocks[4 + j] = _mm512_shuffle_i32x4::<0x88>(ab_odd, cd_odd);
        blocks[8 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_even, cd_even);
        blocks[12 + j] = _mm512_shuffle_i32x4::<0xdd>(ab_odd, cd_odd);
    }
    blocks
}

const _: () = assert!(GROUP_MAX == 16);
