//! Which peers' connections were answered: a small table that data threads fill without locks, and one reader empties.

use std::sync::atomic::{AtomicU64, Ordering};

use sw_proto::ip::IpProto;
use sw_types::NodeKey;

/// Entries between two readings; what finds no place is not remembered.
const CELLS: usize = 1024;
const PROBES: usize = 16;

/// The first bytes of a node key: enough to find it among known ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerTag([u8; 5]);

impl PeerTag {
    /// Returns the tag of a key.
    #[must_use]
    pub fn of(key: &NodeKey) -> Self {
        let [a, b, c, d, e, ..] = *key.as_bytes();
        Self([a, b, c, d, e])
    }
}

/// A service of this machine that a peer connected to and was answered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    pub protocol: IpProto,
    pub port: u16,
}

/// The table: an entry is one word, 0 is free.
#[derive(Debug)]
pub(crate) struct Answered(Box<[AtomicU64]>);

impl Answered {
    pub(crate) fn new() -> Self {
        Self(std::iter::repeat_with(AtomicU64::default).take(CELLS).collect())
    }

    pub(crate) fn note(&self, peer: &NodeKey, service: Service) {
        let [a, b, c, d, e] = PeerTag::of(peer).0;
        let [high, low] = service.port.to_be_bytes();
        let word = u64::from_be_bytes([a, b, c, d, e, service.protocol.0, high, low]);
        let start = (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize;
        for at in (start..).take(PROBES) {
            let Some(cell) = self.0.get(at % CELLS) else { return };
            match cell.compare_exchange(0, word, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(taken) if taken == word => return,
                Err(_) => {}
            }
        }
    }

    /// Empties the table.
    pub(crate) fn take(&self) -> Vec<(PeerTag, Service)> {
        let words = self.0.iter().map(|cell| cell.swap(0, Ordering::Relaxed)).filter(|word| *word != 0);
        let mut all: Vec<(PeerTag, Service)> = words
            .map(|word| {
                let [a, b, c, d, e, protocol, high, low] = word.to_be_bytes();
                let service = Service { protocol: IpProto(protocol), port: u16::from_be_bytes([high, low]) };
                (PeerTag([a, b, c, d, e]), service)
            })
            .collect();
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> NodeKey {
        NodeKey::from_bytes([n; 32])
    }

    #[test]
    fn each_service_of_each_peer_is_remembered_once_until_it_is_read() {
        let answered = Answered::new();
        let ssh = Service { protocol: IpProto::TCP, port: 22 };
        for _ in 0..3 {
            answered.note(&peer(1), ssh);
            answered.note(&peer(2), ssh);
            answered.note(&peer(1), Service { port: 80, ..ssh });
        }
        let all = answered.take();
        assert_eq!(all.len(), 3);
        assert!(all.contains(&(PeerTag::of(&peer(2)), ssh)));
        assert!(answered.take().is_empty());
    }

    #[test]
    fn a_flood_fills_the_table_and_no_more() {
        let answered = Answered::new();
        for port in 0..u16::MAX {
            answered.note(&peer(1), Service { protocol: IpProto::TCP, port });
        }
        assert!(answered.take().len() <= CELLS);
    }
}
