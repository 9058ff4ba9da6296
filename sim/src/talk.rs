//! A conversation between two machines: numbered packets, and which arrived.

use std::time::Duration;

use sw_types::Instant;

use crate::scenario::TalkSpec;

/// One packet of a conversation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said {
    pub(crate) sent: Instant,
    pub(crate) arrived: Option<Instant>,
}

/// A conversation and its history.
#[derive(Debug)]
pub(crate) struct Talk {
    pub(crate) spec: TalkSpec,
    pub(crate) said: Vec<Said>,
}

/// What a data packet begins with: type 4 of WireGuard, which no path message
/// has.
const HEAD: [u8; 4] = [4, 0, 0, 0];

impl Talk {
    pub(crate) fn new(spec: TalkSpec) -> Self {
        Self { spec, said: Vec::new() }
    }

    /// The next packet.
    pub(crate) fn say(&mut self, talk: usize, now: Instant) -> Vec<u8> {
        let number = self.said.len() as u32;
        self.said.push(Said { sent: now, arrived: None });
        let mut bytes = Vec::with_capacity(self.spec.bytes.max(20));
        bytes.extend_from_slice(&HEAD);
        for word in [talk as u32, number, self.spec.from as u32, self.spec.to as u32] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.resize(self.spec.bytes.max(20), 0);
        bytes
    }

    /// Notes an arrival; copies count once.
    pub(crate) fn hear(&mut self, number: u32, now: Instant) -> bool {
        match self.said.get_mut(number as usize) {
            Some(said) if said.arrived.is_none() => {
                said.arrived = Some(now);
                true
            }
            Some(_) | None => false,
        }
    }

    /// Sent and arrived packets among those sent from `from` to `until`.
    pub(crate) fn count(&self, from: Instant, until: Instant) -> (usize, usize) {
        let mine = self.said.iter().filter(|s| s.sent >= from && s.sent < until);
        let (mut sent, mut arrived) = (0, 0);
        for said in mine {
            sent += 1;
            arrived += usize::from(said.arrived.is_some());
        }
        (sent, arrived)
    }

    /// The longest time between two packets that arrived one after the other.
    pub(crate) fn longest_gap(&self) -> Duration {
        let mut arrivals: Vec<Instant> = self.said.iter().filter_map(|s| s.arrived).collect();
        arrivals.sort();
        arrivals.windows(2).map(|pair| pair[1].saturating_since(pair[0])).max().unwrap_or(Duration::MAX)
    }
}

/// Reads a data packet: conversation, number, sender and receiver.
pub(crate) fn parse(bytes: &[u8]) -> Option<[u32; 4]> {
    let rest = bytes.strip_prefix(&HEAD)?;
    let words = rest.first_chunk::<16>()?;
    let word = |n: usize| u32::from_be_bytes([words[n], words[n + 1], words[n + 2], words[n + 3]]);
    Some([word(0), word(4), word(8), word(12)])
}
