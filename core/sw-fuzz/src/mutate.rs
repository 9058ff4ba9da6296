//! Inputs without coverage feedback: seeds from the corpus, changed at random, and plain random bytes.

use sw_types::Rng;

/// Longest input that is made; libFuzzer's default too.
pub const INPUT_LEN_MAX: usize = 4096;

/// Makes inputs, the same ones for the same seed and corpus.
#[derive(Debug)]
pub struct Mutator<'a> {
    rng: Rng,
    corpus: &'a [Vec<u8>],
    input: Vec<u8>,
}

/// Values at which comparisons tend to turn.
const EDGES: [u8; 9] = [0, 1, 4, 6, 16, 0x7f, 0x80, 0xfe, 0xff];
/// Bytes that mean something in JSON and in our text forms.
const WORDS: [&[u8]; 12] = [
    b"null",
    b"true",
    b"{}",
    b"[]",
    b"\"\"",
    b"\\u0000",
    b"-1",
    b"1e9",
    b"nodekey:",
    b"0001-01-01T00:00:00Z",
    b"::",
    b"/32",
];

impl<'a> Mutator<'a> {
    /// Takes the inputs that are known to be interesting; none is fine.
    pub fn new(corpus: &'a [Vec<u8>], seed: [u8; 32]) -> Self {
        Self { rng: Rng::new(seed), corpus, input: Vec::with_capacity(INPUT_LEN_MAX) }
    }

    /// The next input: one in eight is random bytes, the others are changed seeds.
    pub fn next_input(&mut self) -> &[u8] {
        self.input.clear();
        match self.rng.index(self.corpus.len()) {
            Some(place) if self.rng.below(8) > 0 => {
                self.input.extend(self.corpus[place].iter().take(INPUT_LEN_MAX));
                for _ in 0..=self.rng.below(4) {
                    self.change();
                }
            }
            _ => {
                let len = self.rng.below(256) as usize;
                self.input.resize(len, 0);
                self.rng.fill(&mut self.input);
            }
        }
        self.input.truncate(INPUT_LEN_MAX);
        &self.input
    }

    fn change(&mut self) {
        let place = self.rng.below(self.input.len() as u64 + 1) as usize;
        let choice = self.rng.below(9);
        match choice {
            0 => self.set(place, |rng, byte| byte ^ 1 << rng.below(8)),
            1 => self.set(place, |rng, _| rng.next_u32() as u8),
            2 => self.set(place, |rng, _| EDGES[rng.below(EDGES.len() as u64) as usize]),
            3 => self.set(place, |_, byte| byte.wrapping_add(1)),
            4 => self.input.truncate(place),
            5 => {
                let len = self.rng.below(16) as usize;
                let end = (place + len).min(self.input.len());
                self.input.drain(place..end);
            }
            6 => {
                let word = WORDS[self.rng.below(WORDS.len() as u64) as usize];
                self.input.splice(place..place, word.iter().copied());
            }
            7 => {
                let len = self.rng.below(64) as usize;
                let piece: Vec<u8> = self.input.iter().skip(place).take(len).copied().collect();
                self.input.splice(place..place, piece);
            }
            _ => {
                // The tail of another seed behind the head of this one.
                let Some(other) = self.rng.index(self.corpus.len()) else { return };
                self.input.truncate(place);
                self.input.extend(self.corpus[other].iter().skip(place));
            }
        }
    }

    fn set(&mut self, place: usize, value: impl FnOnce(&mut Rng, u8) -> u8) {
        if let Some(byte) = self.input.get_mut(place) {
            *byte = value(&mut self.rng, *byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_make_equal_inputs_within_the_limit() {
        let corpus = [vec![1; 5000], b"{\"a\":1}".to_vec()];
        let (mut a, mut b) = (Mutator::new(&corpus, [1; 32]), Mutator::new(&corpus, [1; 32]));
        let mut lengths = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            assert_eq!(a.next_input(), b.next_input());
            assert!(a.input.len() <= INPUT_LEN_MAX);
            lengths.insert(a.input.len());
        }
        assert!(lengths.len() > 100);
        assert!(Mutator::new(&[], [2; 32]).next_input().len() < 256);
    }
}
