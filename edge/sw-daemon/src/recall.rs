//! What lets a node that crashed reach its peers while neither server nor relay answers: its disco key, by
//! which they know it, and where each was last reached directly.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use sw_types::{Instant, NodeKey};
use zeroize::Zeroizing;

/// Peers that are remembered; beyond it the one that was reached longest ago is forgotten.
const WAYS_MAX: usize = 1024;
/// A new way is written to disk after this long, with the others that came meanwhile.
const WRITE_DELAY: Duration = Duration::from_secs(1);

/// Where peers were last reached directly.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    known: BTreeMap<NodeKey, Way>,
    noted: u64,
    /// When they are to be written.
    pub(crate) due: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Way {
    to: SocketAddr,
    /// The higher, the later.
    noted: u64,
}

impl Ways {
    /// Reads what [`Self::render`] wrote; lines that are none are passed over.
    pub(crate) fn parse(text: &str) -> Self {
        let mut ways = Self::default();
        for line in text.lines().take(WAYS_MAX) {
            let mut words = line.split(' ');
            let (Some(Ok(peer)), Some(Ok(to))) = (words.next().map(str::parse), words.next().map(str::parse))
            else {
                continue;
            };
            ways.insert(peer, to);
        }
        ways
    }

    /// One line a peer: its key and its address, the earliest first.
    pub(crate) fn render(&self) -> String {
        let mut ways: Vec<_> = self.known.iter().collect();
        ways.sort_unstable_by_key(|(_, way)| way.noted);
        ways.iter().map(|(peer, way)| format!("{peer} {}\n", way.to)).collect()
    }

    /// Where `peer` was last reached.
    pub(crate) fn of(&self, peer: &NodeKey) -> Option<SocketAddr> {
        self.known.get(peer).map(|way| way.to)
    }

    /// `peer` is reached directly at `to`.
    pub(crate) fn note(&mut self, peer: NodeKey, to: SocketAddr, now: Instant) {
        if self.of(&peer) == Some(to) {
            return;
        }
        self.insert(peer, to);
        let oldest = self.known.iter().min_by_key(|(_, way)| way.noted).map(|(peer, _)| *peer);
        if let Some(oldest) = oldest.filter(|_| self.known.len() > WAYS_MAX) {
            self.known.remove(&oldest);
        }
        self.due.get_or_insert(now + WRITE_DELAY);
    }

    /// `peer` left the network.
    pub(crate) fn forget(&mut self, peer: &NodeKey, now: Instant) {
        if self.known.remove(peer).is_some() {
            self.due.get_or_insert(now + WRITE_DELAY);
        }
    }

    fn insert(&mut self, peer: NodeKey, to: SocketAddr) {
        self.noted += 1;
        self.known.insert(peer, Way { to, noted: self.noted });
    }
}

/// The content of the disco key's file: whose key it is, and the key.
pub(crate) fn render_disco(node: &NodeKey, key: &[u8; 32]) -> Zeroizing<String> {
    let digits: Zeroizing<String> = Zeroizing::new(key.iter().map(|byte| format!("{byte:02x}")).collect());
    Zeroizing::new(format!("{node} {}\n", *digits))
}

/// The disco key of `node`, if the file has one for it: another node key is another identity, and nobody shall
/// see that both are this machine.
pub(crate) fn parse_disco(text: &str, node: &NodeKey) -> Option<Zeroizing<[u8; 32]>> {
    let (owner, digits) = text.trim_end().split_once(' ')?;
    if owner.parse::<NodeKey>().ok()? != *node || digits.len() != 64 {
        return None;
    }
    let mut key = Zeroizing::new([0; 32]);
    for (byte, pair) in key.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u16) -> NodeKey {
        let [high, low] = number.to_be_bytes();
        let mut bytes = [1; 32];
        (bytes[0], bytes[1]) = (high, low);
        NodeKey::from_bytes(bytes)
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, 7], port))
    }

    #[test]
    fn ways_are_read_as_they_were_written() {
        let mut ways = Ways::default();
        ways.note(peer(1), at(10), Instant::default());
        ways.note(peer(2), "[2001:db8::1]:20".parse().expect("an address"), Instant::default());
        ways.note(peer(1), at(11), Instant::default());
        let text = ways.render();
        let again = Ways::parse(&text);
        assert_eq!(again.render(), text);
        assert_eq!(again.of(&peer(1)), Some(at(11)));
        assert_eq!(again.due, None);
        assert_eq!(Ways::parse("nonsense\nnodekey:12 1.2.3.4:5\n\n").render(), "");
    }

    #[test]
    fn the_peer_reached_longest_ago_is_forgotten_first() {
        let mut ways = Ways::default();
        for number in 0..=u16::try_from(WAYS_MAX).expect("a small number") {
            ways.note(peer(number), at(number), Instant::default());
            if number == 500 {
                ways.note(peer(0), at(9999), Instant::default());
            }
        }
        assert_eq!(ways.known.len(), WAYS_MAX);
        assert_eq!(ways.of(&peer(1)), None);
        assert_eq!(ways.of(&peer(0)), Some(at(9999)));
    }

    #[test]
    fn only_a_new_way_is_written() {
        let mut ways = Ways::default();
        ways.note(peer(1), at(10), Instant::default());
        assert!(ways.due.take().is_some());
        ways.note(peer(1), at(10), Instant::default());
        assert_eq!(ways.due, None);
        ways.forget(&peer(2), Instant::default());
        assert_eq!(ways.due, None);
        ways.forget(&peer(1), Instant::default());
        assert!(ways.due.is_some());
    }

    #[test]
    fn the_disco_key_is_given_to_its_owner_alone() {
        let text = render_disco(&peer(1), &[0xab; 32]);
        assert_eq!(parse_disco(&text, &peer(1)).as_deref(), Some(&[0xab; 32]));
        assert_eq!(parse_disco(&text, &peer(2)), None);
        for damaged in ["", " ", &text[..text.len() - 2], &text.replace("ab", "ä")] {
            assert_eq!(parse_disco(damaged, &peer(1)), None);
        }
    }
}
