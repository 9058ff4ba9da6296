//! The sliding window that refuses a counter seen before (RFC 6479, as WireGuard uses it).

use crate::REJECT_AFTER_MESSAGES;

/// Bits of the window: a datagram may be this much older than the newest (threat-model.md §5).
pub const WINDOW: u64 = WORDS as u64 * 64 - 64;
const WORDS: usize = 129;

/// Which counters of one session were received.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// One past the highest counter accepted.
    next: u64,
    bits: [u64; WORDS],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { next: 0, bits: [0; WORDS] }
    }
}

impl ReplayWindow {
    /// Accepts `counter` once; false when it was seen, is older than the window or past the last legal one.
    /// Must be asked only about datagrams whose tag was right.
    #[inline]
    pub fn accept(&mut self, counter: u64) -> bool {
        if counter >= REJECT_AFTER_MESSAGES {
            return false;
        }
        if counter >= self.next {
            self.advance(counter);
        } else if self.next - 1 - counter >= WINDOW {
            return false;
        }
        let (word, bit) = Self::place(counter);
        let fresh = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        fresh
    }

    /// Moves the newest counter to `counter`, clearing the words in between.
    #[inline]
    fn advance(&mut self, counter: u64) {
        let newest_word = counter / 64;
        // The word of the previous newest counter keeps its bits; in a new window nothing is set yet.
        let previous_word = self.next.saturating_sub(1) / 64;
        let steps = (newest_word - previous_word).min(WORDS as u64);
        for step in 0..steps {
            self.bits[((newest_word - step) % WORDS as u64) as usize] = 0;
        }
        self.next = counter + 1;
    }

    fn place(counter: u64) -> (usize, u64) {
        ((counter / 64 % WORDS as u64) as usize, 1 << (counter % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn edges_of_the_window() {
        let mut window = ReplayWindow::default();
        assert!(window.accept(0));
        assert!(!window.accept(0));
        assert!(window.accept(WINDOW));
        assert!(window.accept(1), "the oldest counter inside");
        assert!(!window.accept(1));
        assert!(window.accept(WINDOW + 1));
        assert!(!window.accept(1), "one too old, and seen");
        assert!(window.accept(WINDOW + 1 + WINDOW * 3));
        assert!(!window.accept(WINDOW + 1 + WINDOW * 2), "one too old");
        assert!(window.accept(WINDOW + 2 + WINDOW * 2));
    }

    #[test]
    fn the_last_legal_counter() {
        let mut window = ReplayWindow::default();
        assert!(!window.accept(REJECT_AFTER_MESSAGES));
        assert!(!window.accept(u64::MAX));
        assert!(window.accept(REJECT_AFTER_MESSAGES - 1));
        assert!(!window.accept(REJECT_AFTER_MESSAGES - 1));
    }

    #[test]
    fn agrees_with_a_set_of_seen_counters() {
        arbtest::arbtest(|u| {
            let mut window = ReplayWindow::default();
            let (mut seen, mut newest) = (BTreeSet::new(), None::<u64>);
            let mut at = 0u64;
            for _ in 0..u.int_in_range(0..=400)? {
                at = match u.int_in_range(0..=3)? {
                    0 => at.saturating_sub(u.int_in_range(0..=2 * WINDOW)?),
                    1 => at + u.int_in_range(0..=2 * WINDOW)?,
                    _ => at + u.int_in_range(0..=70)?,
                };
                let too_old = newest.is_some_and(|n| at + WINDOW <= n);
                let expected = !too_old && seen.insert(at);
                assert_eq!(window.accept(at), expected, "counter {at}, newest {newest:?}");
                newest = Some(newest.map_or(at, |n| n.max(at)));
            }
            Ok(())
        });
    }
}
