//! A sparse set of ids in words of 64.
//!
//! Ids are given out in sequence, so a set of N machines takes about N/64 words of 12 bytes.
//! A word is also the unit in which peers are encoded for a full map (see `encode`).

use sw_types::NodeId;

/// Which block of 64 an id falls in.
pub(crate) type Block = u32;

/// Splits an id into its block and its bit there.
pub(crate) fn place(id: NodeId) -> (Block, u64) {
    let id = id.0.cast_unsigned();
    ((id >> 6) as Block, 1 << (id & 63))
}

/// The ids of one block, ascending.
pub(crate) fn ids(block: Block, mut word: u64) -> impl Iterator<Item = NodeId> {
    std::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let bit = word.trailing_zeros();
        word &= word - 1;
        Some(NodeId(i64::from(block) << 6 | i64::from(bit)))
    })
}

/// A set of machine ids. INVARIANT: blocks ascend, no word is zero.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SparseBits {
    words: Vec<(Block, u64)>,
}

impl SparseBits {
    pub(crate) fn word(&self, block: Block) -> u64 {
        match self.find(block) {
            Ok(i) => self.words[i].1,
            Err(_) => 0,
        }
    }

    pub(crate) fn contains(&self, id: NodeId) -> bool {
        let (block, bit) = place(id);
        self.word(block) & bit != 0
    }

    /// Adds `id`; false if it was there.
    pub(crate) fn insert(&mut self, id: NodeId) -> bool {
        let (block, bit) = place(id);
        match self.find(block) {
            Ok(i) => {
                let word = &mut self.words[i].1;
                let new = *word & bit == 0;
                *word |= bit;
                new
            }
            Err(i) => {
                self.words.insert(i, (block, bit));
                true
            }
        }
    }

    /// Takes `id` out; false if it was not there.
    pub(crate) fn remove(&mut self, id: NodeId) -> bool {
        let (block, bit) = place(id);
        let Ok(i) = self.find(block) else {
            return false;
        };
        let word = &mut self.words[i].1;
        let had = *word & bit != 0;
        *word &= !bit;
        if *word == 0 {
            self.words.remove(i);
        }
        had
    }

    pub(crate) fn words(&self) -> impl Iterator<Item = (Block, u64)> + '_ {
        self.words.iter().copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.words().flat_map(|(block, word)| ids(block, word))
    }

    /// The ids that are in `self` and not in `other`, ascending.
    pub(crate) fn without<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = NodeId> + 'a {
        self.words().flat_map(move |(block, word)| ids(block, word & !other.word(block)))
    }

    pub(crate) fn union_with(&mut self, other: &Self) {
        let old = std::mem::take(&mut self.words);
        let mut merged = Vec::with_capacity(old.len().max(other.words.len()));
        let (mut a, mut b) = (old.iter().copied().peekable(), other.words().peekable());
        loop {
            let word = match (a.peek().copied(), b.peek().copied()) {
                (None, None) => break,
                (Some(x), None) => (x.0, x.1),
                (None, Some(y)) => (y.0, y.1),
                (Some(x), Some(y)) if x.0 == y.0 => (x.0, x.1 | y.1),
                (Some(x), Some(y)) => {
                    if x.0 < y.0 {
                        x
                    } else {
                        y
                    }
                }
            };
            a.next_if(|x| x.0 == word.0);
            b.next_if(|y| y.0 == word.0);
            merged.push(word);
        }
        self.words = merged;
    }

    fn find(&self, block: Block) -> Result<usize, usize> {
        self.words.binary_search_by_key(&block, |w| w.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_behaves_as_a_set() {
        arbtest::arbtest(|u| {
            let mut bits = SparseBits::default();
            let mut set = BTreeSet::new();
            let mut other = SparseBits::default();
            let mut other_set = BTreeSet::new();
            for _ in 0..u.int_in_range(0..=60)? {
                let id = NodeId(i64::from(u.int_in_range(0..=400_u16)?));
                match u.int_in_range(0..=2_u8)? {
                    0 => assert_eq!(bits.insert(id), set.insert(id)),
                    1 => assert_eq!(bits.remove(id), set.remove(&id)),
                    _ => assert_eq!(other.insert(id), other_set.insert(id)),
                }
                assert_eq!(bits.contains(id), set.contains(&id));
            }
            assert!(bits.iter().eq(set.iter().copied()));
            assert!(bits.without(&other).eq(set.difference(&other_set).copied()));
            bits.union_with(&other);
            assert!(bits.iter().eq(set.union(&other_set).copied()));
            Ok(())
        });
    }
}
